//! A sealed volume on another node, as the source of a copy.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::host::{Asked, Error, Result, Sent, Source};

use super::identity::Identity;
use super::line::{Answer, CHUNK, Line, Request, TIMEOUT};

/// The longest time to reach a node.
const CONNECT: Duration = Duration::from_secs(5);

/// A volume on another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Name of the node, for messages.
    pub node: String,
    /// Address and port of its agent.
    pub address: String,
    /// Public key of its agent.
    pub key: String,
    /// UID of the volume.
    pub volume: String,
    /// Name of the copy that is being made.
    pub copy: String,
}

/// The files of a volume on another node. The connection is made when it is needed, and made again if the other side has
/// closed it meanwhile.
pub struct Remote {
    peer: Peer,
    identity: Arc<Identity>,
    stop: Arc<AtomicBool>,
    line: Option<Line>,
    /// Bytes of the present part that were not read yet.
    left: u64,
}

impl Remote {
    /// The volume; `stop` ends each wait.
    pub fn new(peer: Peer, identity: Arc<Identity>, stop: Arc<AtomicBool>) -> Self {
        Self { peer, identity, stop, line: None, left: 0 }
    }

    fn connect(&self) -> Result<Line> {
        let Peer { node, address, .. } = &self.peer;
        let failed = |error: io::Error| {
            self.failed(format!("node {node} cannot be reached at {address} for a copy: {error}"))
        };
        let wrong = |error: rustls::Error| failed(io::Error::other(error));
        let to: SocketAddr = address.parse().map_err(|error| failed(io::Error::other(error)))?;
        let socket = TcpStream::connect_timeout(&to, CONNECT).map_err(failed)?;
        let config = self.identity.client(&self.peer.key).map_err(wrong)?;
        let name = ServerName::IpAddress(to.ip().into());
        let connection = ClientConnection::new(Arc::new(config), name).map_err(wrong)?;
        let mut line = Line::client(connection, socket, self.stop.clone()).map_err(failed)?;
        let Peer { volume: uid, copy, .. } = self.peer.clone();
        self.answer(ask(&mut line, &Request::Volume { uid, copy })).map(|_| line)
    }

    fn answer(&self, answer: io::Result<Answer>) -> Result<Sent> {
        let node = &self.peer.node;
        match answer {
            Ok(Answer::Sent { bytes, uid, gid }) => Ok(Sent { bytes, uid, gid }),
            Ok(Answer::Refused { why }) => {
                let why: String = why.chars().filter(|c| !c.is_control()).take(500).collect();
                Err(Error::Source(format!("node {node} gives no copy: {why}")))
            }
            Err(error) => Err(self.failed(format!("node {node} gives no answer about the copy: {error}"))),
        }
    }

    fn failed(&self, why: String) -> Error {
        if self.stop.load(Ordering::Relaxed) { Error::Stopped } else { Error::Source(why) }
    }
}

fn ask(line: &mut Line, request: &Request) -> io::Result<Answer> {
    line.within(TIMEOUT).send(request)?;
    line.receive()
}

impl Source for Remote {
    fn open(&mut self, asked: Asked<'_>) -> Result<Sent> {
        let request = match asked {
            Asked::Manifest => Request::Manifest,
            Asked::Directory(path) => Request::Directory { path: path.to_owned() },
            Asked::File { path, from } => Request::File { path: path.to_owned(), from },
        };
        // Unread bytes are in the way of the next answer. A line of before may have been closed while the copy's own bytes
        // were read.
        let left = std::mem::take(&mut self.left);
        let reused = self.line.take().filter(|_| left == 0);
        if let Some(mut line) = reused
            && let Ok(answer) = ask(&mut line, &request)
        {
            let sent = self.answer(Ok(answer))?;
            (self.line, self.left) = (Some(line), sent.bytes);
            return Ok(sent);
        }
        let mut line = self.connect()?;
        let sent = self.answer(ask(&mut line, &request))?;
        (self.line, self.left) = (Some(line), sent.bytes);
        Ok(sent)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let most = (into.len().min(CHUNK) as u64).min(self.left) as usize;
        let Some(into) = into.get_mut(..most).filter(|into| !into.is_empty()) else { return Ok(0) };
        let read = match &mut self.line {
            Some(line) => line.within(TIMEOUT).read_exact(into),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        read.map_err(|error| {
            self.line = None;
            let node = &self.peer.node;
            self.failed(format!(
                "node {node} stopped in the middle of the copy, which goes on from there: {error}"
            ))
        })?;
        self.left -= most as u64;
        Ok(most)
    }

    fn end(&mut self) {
        self.line = None;
    }
}
