//! The agent's address and key for copies (E2), and its memory of failures.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::api;
use crate::host::VolumeUid;
use crate::transfer::{Identity, Servings};

/// The pause after a failure, also before an attempt with another source.
pub(super) const AFTER_FAILURE: Duration = Duration::from_secs(20);

/// The part of an agent that takes part in copies.
pub(super) struct Copying {
    pub(super) identity: Arc<Identity>,
    pub(super) at: api::Transfer,
    pub(super) servings: Servings,
    /// The copies that failed, and when.
    failures: Mutex<BTreeMap<VolumeUid, Instant>>,
}

impl Copying {
    /// Listens for other agents.
    pub(super) async fn open(address: SocketAddr) -> std::io::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?.to_string();
        let identity = Arc::new(Identity::make().map_err(std::io::Error::other)?);
        let at = api::Transfer { address, key: identity.public().to_owned() };
        let (servings, failures) = Default::default();
        Ok((Self { identity, at, servings, failures }, listener))
    }

    pub(super) fn failed(&self, uid: &VolumeUid) {
        self.failures().insert(uid.clone(), Instant::now());
    }

    /// True for a moment after a failure.
    pub(super) fn rests(&self, uid: &VolumeUid) -> bool {
        let mut failures = self.failures();
        failures.retain(|_, since| since.elapsed() < AFTER_FAILURE);
        failures.contains_key(uid)
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<VolumeUid, Instant>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
