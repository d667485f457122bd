//! A configured disk, served or not.
//!
//! A disk can hang: the kernel waits for a device that does not answer. Other disks must not wait with it. So work on
//! several disks uses one thread for each disk, and holds no lock meanwhile. A disk without a timely answer is
//! unavailable until it answers.

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::host::devices::Devices;
use crate::host::disk::Disk;
use crate::host::error::{Context, Error, Result};
use crate::host::types::{DiskConfig, DiskIdentity, DiskReport};

/// The place of a disk in a node's configuration.
pub(super) struct Slot {
    pub(super) config: DiskConfig,
    devices: Arc<Devices>,
    /// Time limit for an answer of the disk, besides the time that the question itself takes.
    patience: Duration,
    /// Held for moments, never during a question to the disk.
    state: Mutex<State>,
    /// Held while the disk is opened, or examined.
    opening: Mutex<()>,
}

struct State {
    /// The disk in this place, expected or not.
    disk: Result<Arc<Disk>>,
    /// Identity of the disk that belongs in this place; `None` before the first one is known.
    expected: Option<String>,
    /// The public key of which the NodeDisk of the disk has a signature.
    attested_key: Option<String>,
    /// The reason for which no disk is served in this place.
    refused: Option<String>,
    /// The deadlines of questions without an answer so far.
    questions: BTreeMap<u64, Instant>,
    next_question: u64,
}

/// A pending question; dropping it ends the question.
struct Question {
    slot: Arc<Slot>,
    number: u64,
}

impl Slot {
    pub(super) fn open(
        config: DiskConfig,
        devices: Arc<Devices>,
        wait: Duration,
        patience: Duration,
    ) -> Arc<Self> {
        let disk = Err(unavailable(&config, "it was not opened yet"));
        let (questions, next_question) = (BTreeMap::new(), 0);
        let state = Mutex::new(State {
            disk,
            expected: None,
            attested_key: None,
            refused: None,
            questions,
            next_question,
        });
        let slot = Arc::new(Self { state, config, devices, patience, opening: Mutex::default() });
        if let Err(error) = slot.ask(wait, move |slot| slot.open_disk(wait)) {
            slot.state().disk = Err(error);
        }
        slot
    }

    /// The disk, if it is the expected one and is not refused.
    pub(super) fn served(self: &Arc<Self>) -> Result<Arc<Disk>> {
        let disk = self.state().served()?;
        self.enforced(disk)
    }

    /// The disk, if it is the expected one, refused or not.
    pub(super) fn expected(self: &Arc<Self>) -> Result<Arc<Disk>> {
        let disk = self.state().expected()?;
        self.enforced(disk)
    }

    /// The trial comes last, so that nothing is tried on a disk that does not belong here.
    fn enforced(self: &Arc<Self>, disk: Arc<Disk>) -> Result<Arc<Disk>> {
        self.ensure_answers()?;
        match disk.is_tried() {
            true => disk.ensure_enforced(false)?,
            false => {
                let disk = disk.clone();
                self.ask(Duration::ZERO, move |_| disk.ensure_enforced(false))??;
            }
        }
        Ok(disk)
    }

    pub(super) fn expect(&self, id: Option<String>, attested_key: Option<String>) {
        let mut state = self.state();
        (state.expected, state.attested_key) = (id, attested_key);
    }

    pub(super) fn refuse(&self, why: Option<String>) {
        self.state().refused = why;
    }

    /// The identity of the disk in this place. The call retries a disk that could not be opened.
    pub(super) fn identity(self: &Arc<Self>) -> Result<DiskIdentity> {
        if self.state().disk.is_err() {
            self.ask(Duration::ZERO, |slot| slot.open_disk(Duration::ZERO))?;
        }
        self.ensure_answers()?;
        self.state().disk.as_ref().map(|disk| disk.identity()).map_err(Error::clone)
    }

    /// Signs a text with the key on the disk in this place (A7).
    pub(super) fn sign(&self, text: &str) -> Result<Option<String>> {
        self.ensure_answers()?;
        Ok(self.state().disk.clone()?.sign(text))
    }

    /// The report of the disk in this place. The call retries a disk that is not served.
    pub(super) fn report(self: &Arc<Self>) -> DiskReport {
        let failed =
            |error: Error| DiskReport { error: Some(error.to_string()), ..DiskReport::of(&self.config) };
        self.ask(Duration::ZERO, |slot| slot.look()).unwrap_or_else(failed)
    }

    fn look(&self) -> DiskReport {
        let _opening = self.opening();
        let served = self.state().served();
        // A failed disk is closed, too: as long as the agent has it open, nobody can unmount it and mount it again.
        let works = |disk: &Arc<Disk>| disk.ensure_enforced(false).and_then(|()| disk.uids().map(drop));
        match served.and_then(|disk| works(&disk).map(|()| disk)) {
            // The disk remembers a failure, so the result is not needed here.
            Ok(disk) => drop(disk.ensure_enforced(true)),
            Err(refused) => {
                // The old disk is closed first: if the new one is the same disk, its lock has to be free.
                self.state().disk = Err(refused);
                self.reopen(Duration::ZERO);
            }
        }
        let found = self.state().disk.clone();
        let served = self.state().served();
        let (is_expected, attested_key) = {
            let state = self.state();
            (state.expected.is_some(), state.attested_key.clone())
        };
        let mut key = None;
        let enforced = served.and_then(|disk| {
            disk.ensure_enforced(false)?;
            key = is_expected.then(|| disk.public_key(attested_key.as_deref())).transpose()?;
            Ok(())
        });
        let report = found.map_or_else(|_| DiskReport::of(&self.config), |disk| disk.report());
        let report = DiskReport { key, ..report };
        match enforced {
            Ok(()) => report,
            Err(error) => DiskReport { error: Some(error.to_string()), ..report },
        }
    }

    fn open_disk(&self, wait: Duration) {
        let _opening = self.opening();
        if self.state().disk.is_err() {
            self.reopen(wait);
        }
    }

    fn reopen(&self, wait: Duration) {
        let opened = Disk::open(&self.config, &self.devices, wait).map(Arc::new);
        self.state().disk = opened;
    }

    fn opening(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the disk on a thread of its own; `takes` is the time that the question itself may take.
    ///
    /// # Errors
    /// [`Error::DiskUnavailable`] if the disk does not answer this or another question in time.
    pub(super) fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        takes: Duration,
        question: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> Result<T> {
        self.ensure_answers()?;
        let (patience, (to, answer)) = (self.patience + takes, channel());
        let asked = Question::new(self, Instant::now() + patience);
        let ask = move || {
            let answer = question(&asked.slot);
            // The caller may close the disk once it has the answer, so no reference may be left.
            drop(asked);
            let _ = to.send(answer);
        };
        std::thread::Builder::new().name("disk".to_owned()).spawn(ask).context(|| "start a thread")?;
        answer.recv_timeout(patience).map_err(|missing| match missing {
            RecvTimeoutError::Timeout => self.silent(),
            RecvTimeoutError::Disconnected => Error::Panicked,
        })
    }

    /// True while an answer of the disk is overdue.
    pub(super) fn hangs(&self) -> bool {
        let now = Instant::now();
        self.state().questions.values().any(|deadline| *deadline <= now)
    }

    fn ensure_answers(&self) -> Result<()> {
        if self.hangs() { Err(self.silent()) } else { Ok(()) }
    }

    fn silent(&self) -> Error {
        unavailable(
            &self.config,
            "it does not answer: see the node's kernel log, and repair or reconnect its device",
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn served(&self) -> Result<Arc<Disk>> {
        let disk = self.disk.clone()?;
        match &self.refused {
            Some(why) => Err(unavailable(&disk.config, why)),
            None => self.expected(),
        }
    }

    fn expected(&self) -> Result<Arc<Disk>> {
        let disk = self.disk.clone()?;
        match &self.expected {
            Some(expected) if expected != disk.id() => {
                let id = disk.id();
                let why = format!(
                    "it is not the expected disk, since its ID is {id} instead of {expected}: put the right one in its place"
                );
                Err(unavailable(&disk.config, &why))
            }
            _ => Ok(disk),
        }
    }
}

impl Question {
    fn new(slot: &Arc<Slot>, deadline: Instant) -> Self {
        let mut state = slot.state();
        let number = state.next_question;
        state.next_question += 1;
        state.questions.insert(number, deadline);
        Self { slot: slot.clone(), number }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.slot.state().questions.remove(&self.number);
    }
}

fn unavailable(config: &DiskConfig, reason: &str) -> Error {
    Error::DiskUnavailable { disk: config.name.clone(), reason: reason.to_owned() }
}
