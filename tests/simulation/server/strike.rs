//! A fault at one write of controllers and agents: the write waits until the fault is there.

use std::time::Duration;

use tokio::sync::oneshot;

use super::requests::Request;
use super::{Shared, lock};

/// The write at which a fault strikes: the first one has number 1. Events do not count.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    pub at: u64,
    pub fate: Fate,
}

/// The fate of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    pub is_lost: bool,
    pub is_unanswered: bool,
    pub refused: Option<u16>,
    /// The client gives up, and some time later the request is carried out.
    pub is_late: bool,
}

/// A write that waits for its fault.
pub struct Struck {
    pub who: String,
    pub request: Request,
    goes_on: oneshot::Sender<()>,
}

impl Struck {
    /// The fault is there.
    pub fn go_on(self) {
        let _ = self.goes_on.send(());
    }
}

/// The time after which a client gives up: the read timeout of `cli.rs`.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The time that a late request is on its way after that.
pub const LATE: Duration = Duration::from_secs(60);

/// True for a controller or an agent.
pub fn is_ours(who: &str) -> bool {
    who.starts_with("controller") || who.starts_with("agent")
}

/// Counts a write, and waits if a fault is to strike at it.
pub async fn fate(server: &Shared, who: &str, request: &Request) -> Fate {
    let (fate, waits, alarm) = {
        let mut server = lock(server);
        let is_write = is_ours(who) && request.method != "GET" && request.plural != "events";
        let Some(strike) = server.strike.filter(|_| is_write) else { return Fate::default() };
        server.writes += 1;
        if server.writes != strike.at {
            return Fate::default();
        }
        server.strike = None;
        server.tell(|| format!("the fault strikes at write {}: {who}: {}", strike.at, request.describe()));
        let (goes_on, waits) = oneshot::channel();
        server.struck = Some(Struck { who: who.to_owned(), request: request.clone(), goes_on });
        (strike.fate, waits, server.alarm.clone())
    };
    alarm.notify_one();
    let _ = waits.await;
    fate
}
