//! Serves sealed volumes of this node to the agents of other nodes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::host::{Asked, SealedFiles, Source};

use super::identity::Identity;
use super::line::{Answer, CHUNK, HANDSHAKE, Line, Request, TIMEOUT};

/// The most connections at once, authorised or not.
const CONNECTIONS: usize = 16;
/// The most volumes that are sent at once. More would only make the disk's head jump.
const AT_ONCE: usize = 4;
/// The longest time between two requests. The other side may be reading what it has already.
const IDLE: Duration = Duration::from_secs(600);
/// The longest wait for another connection to end, and the interval between two looks at that.
const FOR_OTHERS: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);
/// The pause after a failure to accept.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// An agent that asks for a volume. Nothing but its key is proven.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Its public key.
    pub key: String,
    /// UID of the volume.
    pub volume: String,
    /// Name of the copy.
    pub copy: String,
}

/// Opens the volume for an asker who may read it; the refusal is a sentence. Blocks.
pub type Authorise = Arc<dyn Fn(&Asker) -> Result<SealedFiles, String> + Send + Sync>;

/// The volumes that are being sent.
#[derive(Clone, Debug, Default)]
pub struct Servings(Arc<Mutex<BTreeMap<u64, Serving>>>);

#[derive(Debug)]
struct Serving {
    volume: Option<String>,
    stop: Arc<AtomicBool>,
}

impl Servings {
    /// Ends each transfer of a volume, within a moment.
    pub fn stop(&self, volume: &str) {
        self.stop_if(|serving| serving.volume.as_deref() == Some(volume));
    }

    fn stop_if(&self, which: impl Fn(&Serving) -> bool) {
        let servings = self.servings();
        servings
            .values()
            .filter(|serving| which(serving))
            .for_each(|s| s.stop.store(true, Ordering::Relaxed));
    }

    fn servings(&self) -> MutexGuard<'_, BTreeMap<u64, Serving>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends all transfers when the agent ends.
struct StopAll(Servings);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.stop_if(|_| true);
    }
}

/// Serves until dropped.
///
/// # Errors
/// The key cannot be used.
pub async fn serve(
    listener: TcpListener,
    identity: &Identity,
    authorise: Authorise,
    servings: Servings,
) -> Result<(), rustls::Error> {
    let config = Arc::new(identity.server()?);
    let (connections, senders) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(AT_ONCE)));
    let _stop_all = StopAll(servings.clone());
    let next = AtomicU64::new(0);
    loop {
        // A peer that cannot be served waits in the kernel's queue.
        let Ok(permit) = connections.clone().acquire_owned().await else { return Ok(()) };
        let socket = match listener.accept().await.and_then(|(socket, _)| socket.into_std()) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection for a copy");
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        let serving = Connection {
            number: next.fetch_add(1, Ordering::Relaxed),
            stop: Arc::default(),
            config: config.clone(),
            authorise: authorise.clone(),
            servings: servings.clone(),
            senders: senders.clone(),
        };
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            if let Err(error) = serving.run(socket) {
                tracing::debug!(%error, "a connection for a copy ended");
            }
        });
    }
}

struct Connection {
    number: u64,
    stop: Arc<AtomicBool>,
    config: Arc<ServerConfig>,
    authorise: Authorise,
    servings: Servings,
    senders: Arc<Semaphore>,
}

impl Connection {
    fn run(&self, socket: TcpStream) -> io::Result<()> {
        socket.set_nonblocking(false)?;
        self.note(None);
        let connection = ServerConnection::new(self.config.clone()).map_err(io::Error::other)?;
        let (mut line, key) = Line::server(connection, socket, self.stop.clone())?;
        let asker = match line.within(HANDSHAKE).receive()? {
            Request::Volume { uid, copy } => Asker { key, volume: uid, copy },
            _ => return refuse(&mut line, "a connection begins with the volume".to_owned()),
        };
        let Some(_sender) = self.sender() else {
            return refuse(&mut line, format!("it sends {AT_ONCE} volumes already; this is tried again"));
        };
        // Noted before the permission: the end of a volume refuses new transfers first, and then stops the noted ones.
        self.note(Some(asker.volume.clone()));
        let mut files = match (self.authorise)(&asker) {
            Ok(files) => files,
            Err(why) => return refuse(&mut line, why),
        };
        line.within(TIMEOUT).send(&Answer::Sent { bytes: 0, uid: 0, gid: 0 })?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let request = line.within(IDLE).receive()?;
            let opened = match &request {
                Request::Manifest => files.open(Asked::Manifest),
                Request::Directory { path } => files.open(Asked::Directory(path)),
                Request::File { path, from } => files.open(Asked::File { path, from: *from }),
                Request::Volume { .. } => {
                    return refuse(&mut line, "a connection is for one volume".to_owned());
                }
            };
            let sent = match opened {
                Ok(sent) => sent,
                Err(error) => return refuse(&mut line, error.to_string()),
            };
            line.within(TIMEOUT).send(&Answer::Sent { bytes: sent.bytes, uid: sent.uid, gid: sent.gid })?;
            loop {
                let read = files.read(&mut chunk).map_err(io::Error::other)?;
                let bytes = chunk.get(..read).unwrap_or_default();
                if bytes.is_empty() {
                    break;
                }
                line.within(TIMEOUT).write_all(bytes)?;
            }
            line.flush()?;
        }
    }

    /// The right to send, which another connection may give up in a moment: a copy is complete before its connection ends here.
    fn sender(&self) -> Option<SemaphorePermit<'_>> {
        let until = Instant::now() + FOR_OTHERS;
        loop {
            match self.senders.try_acquire() {
                Err(_) if Instant::now() < until && !self.stop.load(Ordering::Relaxed) => {
                    std::thread::sleep(LOOK);
                }
                sender => return sender.ok(),
            }
        }
    }

    fn note(&self, volume: Option<String>) {
        self.servings.servings().insert(self.number, Serving { volume, stop: self.stop.clone() });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.servings.servings().remove(&self.number);
    }
}

fn refuse(line: &mut Line, why: String) -> io::Result<()> {
    line.within(TIMEOUT).send(&Answer::Refused { why: why.clone() })?;
    Err(io::Error::other(why))
}
