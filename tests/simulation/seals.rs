//! Sealed volumes: their files, the pods that write them, the agent's steps, and what must hold (E1).
//!
//! The files of a volume are a number that each write replaces, and sometimes a socket beside them. No file system of the
//! model is read-only itself, so only the order of the steps keeps the files as they were read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::ResourceExt;
use reservoir::api::condition::{self, SEALED, reason};
use reservoir::api::{AccessMode, ClaimBinding, LABEL_CLAIM_NAMESPACE, PodRef, SharedPersistentVolume};
use reservoir::plan::seal::{Content, OnDisk, Outcome, Step};
use reservoir::plan::verify;
use tokio::sync::watch;

use crate::agent::Agent;
use crate::copies::Pull;
use crate::host::{self, Host, Hosts, Mount, Record};
use crate::random::Random;
use crate::rules::{Checked, claims, require};
use crate::server;

/// A small volume is read within this time, in one reconcile.
const SHORT: Duration = Duration::from_secs(2);

/// What a volume has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files {
    number: u64,
    has_socket: bool,
}

impl Files {
    /// Up to 16Gi.
    pub fn bytes(self) -> u64 {
        self.number >> 30
    }

    pub fn content(self) -> Content {
        Content { digest: format!("blake3:{:064x}", self.number), files: 1, bytes: self.number >> 40 }
    }
}

/// The seal in a volume record.
#[derive(Clone, Debug, Default)]
pub enum Seal {
    #[default]
    Open,
    Closed,
    Sealed(Content),
}

impl Host {
    /// The pods of this node write to their volumes.
    pub fn write(&mut self, random: &mut Random) {
        if self.is_calm {
            return;
        }
        for mount in self.mounts.values().filter(|mount| mount.mode == AccessMode::ReadWrite) {
            let Some(record) = self.records.get_mut(&mount.volume) else { continue };
            if random.in_a_thousand(300) {
                record.files = Files { number: random.next(), has_socket: random.in_a_thousand(100) };
            }
        }
    }

    fn writers(&self, uid: &str) -> Vec<PodRef> {
        let mounts = self.mounts_of(uid).into_iter().filter(|mount| mount.mode == AccessMode::ReadWrite);
        mounts.map(|mount| mount.pod.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// As the agent sees it.
    pub fn seal_of(&self, uid: &str, record: &Record) -> OnDisk {
        match record.seal {
            Seal::Open => OnDisk::Open,
            Seal::Closed => OnDisk::Closed(!self.writers(uid).is_empty()),
            Seal::Sealed(_) => OnDisk::Sealed,
        }
    }

    pub fn sealable(&mut self, uid: &str) -> Result<&mut Record, Outcome> {
        let record = self.records.get_mut(uid);
        let record = record.filter(|record| record.size.is_some() && !record.fenced && !record.erasing);
        record.ok_or_else(|| Outcome::Failed("the volume is fenced or not made".into()))
    }

    /// As `host/seal.rs`.
    fn refuse_writers(&mut self, uid: &str) -> Result<Vec<PodRef>, Outcome> {
        let record = self.sealable(uid)?;
        if matches!(record.seal, Seal::Open) {
            record.seal = Seal::Closed;
        }
        Ok(self.writers(uid))
    }

    fn admit_writers(&mut self, uid: &str) {
        if let Some(record) = self.records.get_mut(uid).filter(|record| matches!(record.seal, Seal::Closed)) {
            record.seal = Seal::Open;
        }
    }

    /// The files to be read; an error is the outcome already. `None`: a request to seal was taken back.
    fn begin_reading(&mut self, uid: &str) -> Result<Option<Files>, Outcome> {
        let is_written = !self.writers(uid).is_empty();
        let record = self.sealable(uid)?;
        match &record.seal {
            Seal::Open => Ok(None),
            Seal::Sealed(content) => Err(Outcome::Sealed(content.clone())),
            Seal::Closed if is_written => Err(Outcome::Failed("a pod has it mounted writable".into())),
            Seal::Closed if record.files.has_socket => Err(Outcome::Refused("a file is a socket".into())),
            Seal::Closed => {
                let files = record.files;
                self.sync(uid);
                Ok(Some(files))
            }
        }
    }

    fn end_reading(&mut self, uid: &str, read: Files) -> Option<Outcome> {
        let record = match self.sealable(uid) {
            Ok(record) => record,
            Err(failed) => return Some(failed),
        };
        if !matches!(record.seal, Seal::Closed) {
            return None;
        }
        record.seal = Seal::Sealed(read.content());
        Some(Outcome::Sealed(read.content()))
    }
}

/// The volumes whose files are being read, as `agent/readings.rs`.
#[derive(Clone, Default)]
pub struct Readings(Arc<Mutex<BTreeMap<String, Reading>>>);

/// The purpose of a reading.
#[derive(Clone)]
pub enum Purpose {
    Seal,
    /// Also fills the volume first.
    Copy(Pull),
}

impl Purpose {
    fn is_that_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Copy(one), Self::Copy(other)) => one.source == other.source,
            (one, other) => matches!((one, other), (Self::Seal, Self::Seal)),
        }
    }
}

#[derive(Clone)]
struct Reading {
    purpose: Purpose,
    stop: Arc<AtomicBool>,
    done: watch::Receiver<Option<Option<Outcome>>>,
}

impl Readings {
    pub fn stop(&self, uid: &str) {
        if let Some(reading) = self.all().get(uid) {
            reading.stop.store(true, Ordering::Relaxed);
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Reading>> {
        server::lock(&self.0)
    }
}

impl Agent {
    /// As `agent/seals.rs`.
    pub async fn seal(&self, step: Step, uid: &str) -> Outcome {
        match step {
            Step::Close => {
                let closed = self.record(uid, |host| host.refuse_writers(uid)).await;
                closed.map_or_else(|failed| failed, Outcome::Closed)
            }
            Step::Open => {
                self.record(uid, |host| host.admit_writers(uid)).await;
                Outcome::Opened
            }
            Step::Read => self.read(uid, Purpose::Seal).await.unwrap_or(Outcome::Reading),
        }
    }

    /// `None` while the files are being read.
    pub async fn read(&self, uid: &str, purpose: Purpose) -> Option<Outcome> {
        let mut reading = self.reading_of(uid, purpose);
        let done = tokio::time::timeout(SHORT, reading.done.wait_for(Option::is_some)).await.ok()?;
        let outcome = done.map(|done| done.clone());
        self.readings.all().remove(uid);
        outcome.unwrap_or_default().flatten()
    }

    fn reading_of(&self, uid: &str, purpose: Purpose) -> Reading {
        let mut all = self.readings.all();
        match all.get(uid) {
            Some(reading) if reading.purpose.is_that_of(&purpose) => return reading.clone(),
            Some(other) => other.stop.store(true, Ordering::Relaxed),
            None => {}
        }
        let (to, done) = watch::channel(None);
        let reading = Reading { purpose: purpose.clone(), stop: Arc::default(), done };
        all.insert(uid.to_owned(), reading.clone());
        let (agent, uid, stop) = (self.clone(), uid.to_owned(), reading.stop.clone());
        // It goes on when the reconcile that began it ends, and ends with its agent.
        tokio::spawn(async move {
            let outcome = match purpose {
                Purpose::Seal => agent.read_files(&uid, &stop).await,
                Purpose::Copy(pull) => agent.pull(&uid, &pull, &stop).await,
            };
            to.send_replace(Some(outcome));
        });
        reading
    }

    async fn read_files(&self, uid: &str, stop: &AtomicBool) -> Option<Outcome> {
        let (agents, begun) = self.on_host(|host| (host.agents, host.begin_reading(uid)));
        let files = match begun {
            Ok(files) => files?,
            Err(outcome) => return Some(outcome),
        };
        let pause = server::lock(&self.server).random.below(6000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if self.fails() {
            return Some(Outcome::Failed("Input/output error".into()));
        }
        let is_stopped = stop.load(Ordering::Relaxed);
        let end = |host: &mut Host| match host.agents == agents && host.has_agent && !is_stopped {
            true => host.end_reading(uid, files),
            false => None,
        };
        let ended = self.record(uid, end).await;
        self.tell(|| format!("has read the files of {uid}: {ended:?}"));
        ended
    }
}

/// Checks a revision of a volume.
pub fn check(before: &SharedPersistentVolume, now: &SharedPersistentVolume, hosts: &Hosts) -> Checked {
    e1_a_seal_stays(before, now)?;
    e1_nobody_binds_to_write(before, now)?;
    e1_the_digest_is_that_of_the_files(now, hosts)
}

fn digest(volume: &SharedPersistentVolume) -> Option<&String> {
    volume.status.as_ref()?.digest.as_ref()
}

fn e1_a_seal_stays(before: &SharedPersistentVolume, now: &SharedPersistentVolume) -> Checked {
    let Some(was) = digest(before) else { return Ok(()) };
    let name = now.name_any();
    require(digest(now) == Some(was), || format!("E1: the digest of volume {name} was {was}, and changed"))?;
    require(now.spec.sealed || !before.spec.sealed, || {
        format!("E1: the seal of volume {name} was taken back")
    })
}

/// A PersistentVolumeClaim of a class gets its own volume all the same, and its pods read. No other claim precedes it.
fn e1_nobody_binds_to_write(before: &SharedPersistentVolume, now: &SharedPersistentVolume) -> Checked {
    if digest(before).is_none() && !before.spec.sealed {
        return Ok(());
    }
    let (had, all) = (claims(before), claims(now));
    let is_own = |c: &ClaimBinding| {
        had.is_empty() && before.labels().get(LABEL_CLAIM_NAMESPACE).is_some_and(|of| *of == c.namespace)
    };
    let mut new = all.values().filter(|c| !had.contains_key(&c.uid) && !is_own(c));
    let writer = new.find(|c| c.mode == AccessMode::ReadWrite);
    require(writer.is_none(), || {
        format!("E1: {writer:?} was bound to volume {}, which has readers only", now.name_any())
    })
}

fn e1_the_digest_is_that_of_the_files(volume: &SharedPersistentVolume, hosts: &Hosts) -> Checked {
    let (Some(digest), Some(uid)) = (digest(volume), volume.uid()) else { return Ok(()) };
    for record in host::lock(hosts).values().filter_map(|host| host.records.get(&uid)) {
        let has = record.files.content().digest;
        require(*digest == has, || {
            format!("E1: volume {} says {digest}, and its files have {has}", volume.name_any())
        })?;
    }
    Ok(())
}

/// Checks a mount.
pub fn e1_nobody_mounts_a_sealed_volume_to_write(volume: &SharedPersistentVolume, mount: &Mount) -> Checked {
    require(mount.mode == AccessMode::ReadOnly || digest(volume).is_none(), || {
        format!("E1: pod {} may write to volume {}, which is sealed", mount.pod.name, volume.name_any())
    })
}

/// L1, at rest: a Ready volume that is to be sealed is sealed and verified, or says why not; any other one has no seal.
pub fn e1_a_seal_comes_to_be(volume: &SharedPersistentVolume, hosts: &Hosts) -> Option<String> {
    let status = volume.status.as_ref()?;
    let is_ready = condition::is_true(&status.conditions, condition::READY);
    if volume.metadata.deletion_timestamp.is_some() || !is_ready {
        return None;
    }
    let (uid, name) = (volume.uid()?, volume.name_any());
    if let Err(broken) = e1_the_digest_is_that_of_the_files(volume, hosts) {
        return Some(broken);
    }
    let hosts = host::lock(hosts);
    let host = hosts.get(status.node_name.as_ref()?)?;
    let says = condition::get(&status.conditions, SEALED).map(|sealed| sealed.reason.as_str());
    let on_disk = host.records.get(&uid).map(|record| host.seal_of(&uid, record));
    if verify::differs(status).is_some() {
        return Some(format!("E4: volume {name} is Ready, and its files differ"));
    }
    let is_so = match (says, on_disk?) {
        (Some(reason::SEALED), OnDisk::Sealed) => status.digest.is_some() && !verify::is_requested(volume),
        (Some(reason::HAS_WRITERS), OnDisk::Closed(true)) => volume.spec.sealed,
        (Some(reason::SEAL_REFUSED), OnDisk::Closed(false)) => volume.spec.sealed,
        (None, OnDisk::Open) => !volume.spec.sealed,
        _ => false,
    };
    (!is_so).then(|| {
        format!(
            "E1: volume {name}, sealed {}, says {says:?}, and its disk has {on_disk:?}",
            volume.spec.sealed
        )
    })
}

/// A pod that mounted a volume while it was being sealed reads it, also when the request was taken back since. Its kubelet
/// is told so.
pub fn has_mount_of_before(volumes: &[SharedPersistentVolume], pod: &str, host: &Host) -> bool {
    let of_pod = host.mounts.values().filter(|mount| mount.pod.uid == pod);
    of_pod.into_iter().any(|mount| {
        let volume = volumes.iter().find(|volume| volume.uid().as_ref() == Some(&mount.of));
        let may_write = volume.and_then(|volume| {
            claims(volume).get(&mount.claim).map(|bound| bound.mode == AccessMode::ReadWrite)
        });
        mount.mode == AccessMode::ReadOnly && may_write == Some(true)
    })
}
