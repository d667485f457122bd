//! A connection with deadlines, and the frames on it.

use std::io::{self, BufReader, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ConnectionCommon, ServerConnection, StreamOwned};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::identity::public_of;

/// The most bytes of a frame: a path has at most 16 KiB, and JSON may write each of them as six.
const LONGEST_FRAME: u32 = 128 << 10;
/// Bytes that are sent and received at once.
pub(super) const CHUNK: usize = 256 << 10;
/// The most bytes that are taken from the socket at once.
const RECEIVED_AT_ONCE: usize = 64 << 10;
/// The longest time for a frame, or for a chunk of bytes.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// The longest time for the handshake, and for the first request.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// The interval between two looks at `stop` and the deadline.
const LOOK: Duration = Duration::from_millis(500);

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Request {
    /// The volume that all later requests are about, for the copy of that name. The answer has no bytes.
    Volume {
        uid: String,
        copy: String,
    },
    Manifest,
    Directory {
        path: String,
    },
    File {
        path: String,
        from: u64,
    },
}

/// The beginning of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    /// So many bytes follow.
    Sent {
        bytes: u64,
        uid: u32,
        gid: u32,
    },
    Refused {
        why: String,
    },
}

/// A socket of which more is received at once: rustls asks for 4 KiB each time, a quarter of what the other side encrypts.
struct Socket(BufReader<TcpStream>);

impl Socket {
    fn of(socket: TcpStream) -> Self {
        Self(BufReader::with_capacity(RECEIVED_AT_ONCE, socket))
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_mut().write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection after its handshake.
pub(super) struct Line {
    stream: Box<dyn Stream>,
    stop: Arc<AtomicBool>,
    deadline: Instant,
}

impl Line {
    /// The side that asks.
    pub(super) fn client(
        mut connection: ClientConnection,
        mut socket: TcpStream,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        shake_hands(&mut connection, &mut socket, &stop)?;
        let stream = Box::new(StreamOwned::new(connection, Socket::of(socket)));
        Ok(Self { stream, stop, deadline: Instant::now() })
    }

    /// The side that serves, with the public key of the peer.
    pub(super) fn server(
        mut connection: ServerConnection,
        mut socket: TcpStream,
        stop: Arc<AtomicBool>,
    ) -> io::Result<(Self, String)> {
        shake_hands(&mut connection, &mut socket, &stop)?;
        let shown = connection.peer_certificates().and_then(<[_]>::first).and_then(|key| public_of(key));
        let key = shown.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the peer shows no key"))?;
        let stream = Box::new(StreamOwned::new(connection, Socket::of(socket)));
        Ok((Self { stream, stop, deadline: Instant::now() }, key))
    }

    /// The most time until the end of what is sent and received next.
    pub(super) fn within(&mut self, time: Duration) -> &mut Self {
        self.deadline = Instant::now() + time;
        self
    }

    pub(super) fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let length = u32::try_from(text.len()).ok().filter(|length| *length <= LONGEST_FRAME);
        let length = length.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "a path is too long"))?;
        self.write_all(&length.to_be_bytes())?;
        self.write_all(&text)?;
        self.flush()
    }

    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut length = [0; 4];
        self.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > LONGEST_FRAME {
            return Err(io::Error::new(ErrorKind::InvalidData, "a frame is too long"));
        }
        let mut text = vec![0; length as usize];
        self.read_exact(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Repeats what ended at the socket's time limit, until the deadline.
    fn retry<T>(&mut self, mut attempt: impl FnMut(&mut dyn Stream) -> io::Result<T>) -> io::Result<T> {
        loop {
            match attempt(&mut *self.stream) {
                Err(error) if is_late(&error) => ensure_in_time(&self.stop, self.deadline)?,
                done => return done,
            }
        }
    }
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // A peer that sends a byte now and then is in time for the socket, and late for the whole.
        ensure_in_time(&self.stop, self.deadline)?;
        self.retry(|stream| stream.read(into))
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ensure_in_time(&self.stop, self.deadline)?;
        self.retry(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.retry(|stream| stream.flush())
    }
}

fn shake_hands<Data>(
    connection: &mut ConnectionCommon<Data>,
    socket: &mut TcpStream,
    stop: &AtomicBool,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(LOOK))?;
    socket.set_write_timeout(Some(LOOK))?;
    let deadline = Instant::now() + HANDSHAKE;
    while connection.is_handshaking() {
        match connection.complete_io(socket) {
            Err(error) if is_late(&error) => {}
            done => drop(done?),
        }
        ensure_in_time(stop, deadline)?;
    }
    Ok(())
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn ensure_in_time(stop: &AtomicBool, deadline: Instant) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(io::Error::new(ErrorKind::ConnectionAborted, "it was stopped"));
    }
    match Instant::now() < deadline {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::ConnectionAborted, "it took too long")),
    }
}
