//! A configured disk, served or not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::host::disk::Disk;
use crate::host::error::{Error, Result};
use crate::host::types::{DiskConfig, DiskReport};

/// The place of a disk in a node's configuration.
pub(super) struct Slot {
    pub(super) config: DiskConfig,
    state: Mutex<State>,
}

struct State {
    /// The disk that is there, be it the expected one or not.
    disk: Result<Arc<Disk>>,
    /// Identity of the disk that belongs here; `None` before the first one is known.
    expected: Option<String>,
    /// The reason for which no disk is served here.
    refused: Option<String>,
}

impl Slot {
    pub(super) fn open(config: DiskConfig, wait: Duration) -> Self {
        let disk = Disk::open(&config, wait).map(Arc::new);
        Self { state: Mutex::new(State { disk, expected: None, refused: None }), config }
    }

    pub(super) fn served(&self) -> Result<Arc<Disk>> {
        self.lock().served()
    }

    /// The disk, if it is the one that belongs here, be it refused or not.
    pub(super) fn expected(&self) -> Result<Arc<Disk>> {
        self.lock().expected()
    }

    pub(super) fn expect(&self, id: Option<String>) {
        self.lock().expected = id;
    }

    pub(super) fn refuse(&self, why: Option<String>) {
        self.lock().refused = why;
    }

    /// The ID of the disk that is there; a disk that could not be opened is tried again.
    pub(super) fn identity(&self) -> Result<String> {
        let mut state = self.lock();
        if state.disk.is_err() {
            state.disk = Disk::open(&self.config, Duration::ZERO).map(Arc::new);
        }
        state.disk.as_ref().map(|disk| disk.id().to_owned()).map_err(Error::clone)
    }

    /// The report of the disk that is there; a disk that is not served is tried again.
    pub(super) fn report(&self) -> DiskReport {
        let mut state = self.lock();
        // A disk that has failed is closed, too: otherwise nobody could unmount it, and mount it again.
        match state.served().and_then(|disk| disk.uids().map(|_| disk)) {
            // A failure is remembered by the disk.
            Ok(disk) => drop(disk.ensure_enforced(true)),
            Err(refused) => {
                // Closed first: the same disk may be opened again, and its lock has to be free.
                state.disk = Err(refused);
                state.disk = Disk::open(&self.config, Duration::ZERO).map(Arc::new);
            }
        }
        let (found, served) = (state.disk.clone(), state.served());
        drop(state);
        let report = found.map_or_else(|_| DiskReport::of(&self.config), |disk| disk.report());
        match served {
            Ok(_) => report,
            Err(error) => DiskReport { error: Some(error.to_string()), ..report },
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn served(&self) -> Result<Arc<Disk>> {
        let disk = self.disk.clone()?;
        match &self.refused {
            Some(why) => Err(Error::DiskUnavailable { disk: disk.name().to_owned(), reason: why.clone() }),
            None => self.expected(),
        }
    }

    fn expected(&self) -> Result<Arc<Disk>> {
        let disk = self.disk.clone()?;
        match &self.expected {
            Some(expected) if expected != disk.id() => Err(Error::DiskUnavailable {
                disk: disk.name().to_owned(),
                reason: format!("it is another one (ID {}) than belongs here (ID {expected})", disk.id()),
            }),
            // Last: nothing is tried on a disk that does not belong here.
            _ => disk.ensure_enforced(false).map(|()| disk),
        }
    }
}
