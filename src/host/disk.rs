//! One disk: a directory that one agent at a time serves, with an identity of its own and volumes in it. Of a raw device
//! it is the directory beside which the device is, of a volume group it is on a logical volume of its own.
//!
//! ```text
//! <disk>/disk.json                   who this disk is (D3)
//! <disk>/volumes/<uid>/record.json   the journal of one volume
//! <disk>/volumes/<uid>/…             its data, as its backing keeps it
//! <disk>/receipts/<uid>              that the volume was erased, until nobody asks any more (X4)
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::backing::{self, Backing, Opened};
use super::error::{Context, Error, Result};
use super::mountinfo::Device;
use super::mounts::Place;
use super::proof;
use super::record::Record;
use super::types::Enforcement;
use super::uid::VolumeUid;
use super::{DiskConfig, DiskReport, Keeping, beneath, journal, mounts};

pub(super) const IDENTITY: &str = "disk.json";
pub(super) const VOLUMES: &str = "volumes";
const RECORD: &str = "record.json";
const RECEIPTS: &str = "receipts";

/// How often a lock that another agent holds is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// A disk that is being served.
pub(super) struct Disk {
    pub(super) config: DiskConfig,
    id: String,
    volumes: OwnedFd,
    receipts: OwnedFd,
    pub(super) backing: Box<dyn Backing>,
    /// Whether sizes are enforced, once that was tried (D5).
    enforcement: Mutex<Option<Enforcement>>,
    /// Held while a disk that is handed out whole gets its volume.
    making: Mutex<()>,
    /// Also holds the lock, which goes with the process.
    pub(super) root: OwnedFd,
}

/// Content of `disk.json`.
#[derive(Serialize, Deserialize)]
struct Identity {
    id: String,
    /// How volumes are kept on it, for good.
    #[serde(default)]
    keeping: Keeping,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// Content of `receipts/<uid>`.
#[derive(Serialize, Deserialize)]
struct Erased {
    bytes: u64,
}

/// The directory of one volume, open.
pub(super) struct Volume {
    pub(super) uid: VolumeUid,
    /// Name of the disk, for messages.
    pub(super) disk: String,
    pub(super) dir: OwnedFd,
}

impl Disk {
    /// Starts to serve a disk. If another agent does, `wait` for it to end: it may be the one that this one replaces.
    pub(super) fn open(config: &DiskConfig, wait: Duration) -> Result<Self> {
        let unavailable = |reason: String| Error::DiskUnavailable { disk: config.name.clone(), reason };
        Self::serve(config, wait).map_err(|error| match error {
            Error::DiskUnavailable { .. } => error,
            error => unavailable(error.to_string()),
        })
    }

    fn serve(config: &DiskConfig, wait: Duration) -> Result<Self> {
        let Opened { root, backing } = backing::open(config)?;
        lock(&root, config, wait)?;
        let id = identify(&root, config.keeping)?;
        for name in [VOLUMES, RECEIPTS] {
            beneath::make_dir(&root, name, Mode::RWXU).context(|| format!("make the directory of {name}"))?;
        }
        rustix::fs::fsync(&root).context(|| "synchronize the disk's directory")?;
        let open = |name| beneath::open_dir(&root, name).context(|| format!("open the directory of {name}"));
        let (volumes, receipts) = (open(VOLUMES)?, open(RECEIPTS)?);
        let (config, enforcement, making) = (config.clone(), Mutex::default(), Mutex::default());
        Ok(Self { config, id, volumes, receipts, backing, enforcement, making, root })
    }

    /// Refuses a disk that does not enforce sizes, unless its configuration allows that (D5). It is tried the first time,
    /// and with `again` also where there was no room to try before.
    pub(super) fn ensure_enforced(&self, again: bool) -> Result<()> {
        let mut known = self.enforcement.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() || again && *known == Some(Enforcement::Untried) {
            *known = Some(proof::attempt(self));
        }
        match &*known {
            Some(Enforcement::Broken(how)) if !self.config.allow_unenforced => Err(Error::DiskUnavailable {
                disk: self.name().to_owned(),
                reason: format!(
                    "it does not enforce the size of volumes: {how}; put that right, or set allowUnenforced on the agent's \
                     disk"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Refuses to make a volume where there was no room to see whether its size would be enforced.
    pub(super) fn ensure_tried(&self) -> Result<()> {
        self.ensure_enforced(true)?;
        match self.enforcement() {
            Some(Enforcement::Untried) => Err(Error::NoSpace {
                disk: self.name().to_owned(),
                needed: proof::ROOM,
                available: self.free()?,
            }),
            _ => Ok(()),
        }
    }

    /// Bytes that are free for anybody.
    pub(super) fn free(&self) -> Result<u64> {
        Ok(self.backing.room(self.root.as_fd())?.free)
    }

    /// Where its own directory is.
    pub(super) fn place(&self) -> Result<Place> {
        match self.config.keeping {
            // Its mount is in no directory.
            Keeping::Lvm => Ok(Place { device: Device::of(&self.root)?, path: "/".into() }),
            _ => mounts::place(&self.root),
        }
    }

    fn enforcement(&self) -> Option<Enforcement> {
        self.enforcement.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn report(&self) -> DiskReport {
        let mut report = DiskReport::of(&self.config);
        report.id = Some(self.id.clone());
        report.enforcement = self.enforcement();
        // Of one that shut itself down the kernel still says how large it is.
        match self.uids().and_then(|_| self.backing.room(self.root.as_fd())) {
            Ok(room) => {
                report.capacity = self.config.capacity.map_or(room.total, |most| most.min(room.total));
                report.allocatable = report.capacity.saturating_sub(self.config.system_reserved);
                report.free = room.free;
            }
            Err(error) => report.error = Some(error.to_string()),
        }
        report
    }

    /// Every volume that there is, or remains of.
    pub(super) fn uids(&self) -> Result<Vec<VolumeUid>> {
        let names =
            beneath::names(&self.volumes).context(|| format!("list the volumes of {}", self.name()))?;
        // What is not named by a UID was not made by us and is none of our business.
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// Opens a volume. `None` if it does not exist; what merely cannot be read does exist.
    pub(super) fn volume(&self, uid: &VolumeUid) -> Result<Option<Volume>> {
        let dir = match beneath::open_dir(&self.volumes, uid.as_str()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).context(|| format!("open the directory of volume {uid}")),
        };
        let volume = Volume { uid: uid.clone(), disk: self.name().to_owned(), dir };
        // A crash just after the directory was made, or just before it would have been removed.
        let exists = volume.names()?.iter().any(|name| *name != *journal::temporary(RECORD));
        Ok(exists.then_some(volume))
    }

    /// Sees to it that a disk which is handed out whole gets no second volume (D2), whatever the ledgers say. What it
    /// returns is held until the volume has its record.
    pub(super) fn alone(&self, uid: &VolumeUid) -> Result<Option<MutexGuard<'_, ()>>> {
        if !self.backing.whole() {
            return Ok(None);
        }
        let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        for other in self.uids()?.iter().filter(|other| *other != uid) {
            if self.volume(other)?.is_some() {
                let name = self.name();
                return Err(Error::Conflict(format!(
                    "disk {name} is handed out whole, and volume {other} has it: use another disk"
                )));
            }
        }
        Ok(Some(making))
    }

    /// Makes the directory of a volume, which then does not exist yet: it has no record.
    pub(super) fn make(&self, uid: &VolumeUid) -> Result<Volume> {
        beneath::make_dir(&self.volumes, uid.as_str(), Mode::RWXU)
            .and_then(|_| rustix::fs::fsync(&self.volumes))
            .context(|| format!("make the directory of volume {uid}"))?;
        let dir = beneath::open_dir(&self.volumes, uid.as_str())
            .context(|| format!("open the directory of volume {uid}"))?;
        Ok(Volume { uid: uid.clone(), disk: self.name().to_owned(), dir })
    }

    /// Calls the directory of a volume by another UID, for good; a directory of that name that is there already stays.
    pub(super) fn rename(&self, from: &VolumeUid, to: &VolumeUid) -> Result<()> {
        let volumes = &self.volumes;
        rustix::fs::renameat_with(volumes, from.as_str(), volumes, to.as_str(), RenameFlags::NOREPLACE)
            .and_then(|()| rustix::fs::fsync(volumes))
            .context(|| format!("give the directory of volume {from} to volume {to}"))
    }

    /// Removes what is left of a volume once its data is gone: its record last, so that it is known until then.
    pub(super) fn remove(&self, volume: &Volume) -> Result<()> {
        let context = || format!("remove volume {}", volume.uid);
        if let Some(name) = volume.names()?.iter().find(|name| !volume.is_record(name)) {
            return Err(Error::Corrupt { what: context(), reason: format!("{name:?} is in its directory") });
        }
        for name in [journal::temporary(RECORD).as_str(), RECORD] {
            beneath::remove(&volume.dir, name, AtFlags::empty()).context(context)?;
        }
        rustix::fs::fsync(&volume.dir).context(context)?;
        beneath::remove(&self.volumes, volume.uid.as_str(), AtFlags::REMOVEDIR).context(context)?;
        rustix::fs::fsync(&self.volumes).context(context)
    }

    /// Notes that the data of a volume is gone. Its record may go then: whoever asks again gets the same answer.
    pub(super) fn write_receipt(&self, uid: &VolumeUid, bytes: u64) -> Result<()> {
        let text = serde_json::to_vec(&Erased { bytes }).map_err(|error| unreadable(uid, error))?;
        journal::replace(self.receipts.as_fd(), uid.as_str(), &text)
    }

    /// How many bytes the volume gave back, if it was erased here.
    pub(super) fn receipt(&self, uid: &VolumeUid) -> Result<Option<u64>> {
        let Some(text) = journal::read(self.receipts.as_fd(), uid.as_str())? else { return Ok(None) };
        let erased: Erased = serde_json::from_slice(&text).map_err(|error| unreadable(uid, error))?;
        Ok(Some(erased.bytes))
    }

    /// The volumes that were erased and not forgotten.
    pub(super) fn receipts(&self) -> Result<Vec<VolumeUid>> {
        let names =
            beneath::names(&self.receipts).context(|| format!("list the receipts of {}", self.name()))?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    pub(super) fn forget_receipt(&self, uid: &VolumeUid) -> Result<()> {
        beneath::remove(&self.receipts, uid.as_str(), AtFlags::empty())
            .context(|| format!("remove the receipt of volume {uid}"))
    }
}

impl Volume {
    /// Reads the journal. That there is none, although there is a volume, is an error too.
    ///
    /// Who does not hold the volume's lock may read a file that is written over just then: only what stays as it is is
    /// damaged.
    pub(super) fn record(&self) -> Result<Record> {
        let mut found = self.read();
        for _ in 0..3 {
            match found {
                Err(Error::Corrupt { .. }) => found = self.read(),
                _ => break,
            }
        }
        found
    }

    fn read(&self) -> Result<Record> {
        let bytes = journal::read(self.dir.as_fd(), RECORD)?.ok_or_else(|| Error::Corrupt {
            what: format!("volume {}", self.uid),
            reason: format!("its {RECORD} is missing"),
        })?;
        Record::parse(&self.uid, &bytes)
    }

    /// Sees that so many bytes are available as are needed.
    pub(super) fn ensure_free(&self, needed: u64, available: u64) -> Result<()> {
        match needed > available {
            true => Err(Error::NoSpace { disk: self.disk.clone(), needed, available }),
            false => Ok(()),
        }
    }

    /// Writes the journal; when this returns, it is on stable storage.
    pub(super) fn write(&self, record: &Record) -> Result<()> {
        journal::swap(self.dir.as_fd(), RECORD, &record.to_bytes()?)
    }

    /// Has the journal that can be read on stable storage: whoever wrote it may have failed to synchronize it.
    pub(super) fn settle(&self) -> Result<()> {
        rustix::fs::fsync(&self.dir).context(|| "synchronize the volume's directory")
    }

    /// Refuses to go on where something is that neither we nor the backing made.
    pub(super) fn ensure_nothing_foreign(&self, backing: &dyn Backing) -> Result<()> {
        let ours = |name: &std::ffi::OsStr| {
            self.is_record(name) || backing.names().iter().any(|known| name == *known)
        };
        match self.names()?.iter().find(|name| !ours(name)) {
            None => Ok(()),
            Some(name) => Err(Error::Corrupt {
                what: format!("the directory of volume {}", self.uid),
                reason: format!("{name:?} in it is not ours"),
            }),
        }
    }

    /// Removes files of a backing's from the volume's directory, for good; those that are not there are fine.
    pub(super) fn remove(&self, names: &[&str]) -> Result<()> {
        for name in names {
            beneath::remove(&self.dir, name, AtFlags::empty()).context(|| format!("remove {name}"))?;
        }
        rustix::fs::fsync(&self.dir).context(|| "synchronize the volume's directory")
    }

    fn is_record(&self, name: &std::ffi::OsStr) -> bool {
        name == RECORD || name == journal::temporary(RECORD).as_str()
    }

    fn names(&self) -> Result<Vec<std::ffi::OsString>> {
        beneath::names(&self.dir).context(|| format!("list the directory of volume {}", self.uid))
    }
}

fn unreadable(uid: &VolumeUid, error: serde_json::Error) -> Error {
    Error::Corrupt { what: format!("the receipt of volume {uid}"), reason: error.to_string() }
}

/// Keeps two agents from serving one disk: the old one may still be ending while the new one starts. A process that is
/// just being started has a copy of the lock, too, until it executes its program.
fn lock(root: &OwnedFd, config: &DiskConfig, wait: Duration) -> Result<()> {
    let deadline = Instant::now() + wait.max(LOCK_INTERVAL);
    loop {
        match rustix::fs::flock(root, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_INTERVAL),
            Err(Errno::WOULDBLOCK) => {
                let reason =
                    format!("another agent serves {}: wait until it has ended", config.path.display());
                return Err(Error::DiskUnavailable { disk: config.name.clone(), reason });
            }
            Err(error) => return Err(error).context(|| "lock the disk"),
        }
    }
}

/// Reads the disk's ID; a disk that never had one gets one.
fn identify(root: &OwnedFd, keeping: Keeping) -> Result<String> {
    if let Some(bytes) = journal::read(root.as_fd(), IDENTITY)? {
        // A damaged identity is not a missing one: a new one would disown every volume here.
        let corrupt = |reason: String| Error::Corrupt { what: IDENTITY.to_owned(), reason };
        let identity: Identity =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        return match identity.id.parse::<VolumeUid>() {
            Ok(_) if identity.keeping != keeping => Err(Error::Unsupported(format!(
                "it was taken over with backing {:?}, which cannot become {keeping:?}: configure it as it was",
                identity.keeping
            ))),
            Ok(_) => Ok(identity.id),
            Err(error) => Err(corrupt(error.to_string())),
        };
    }
    if beneath::open_dir(root, VOLUMES)
        .is_ok_and(|volumes| beneath::names(&volumes).is_ok_and(|n| !n.is_empty()))
    {
        let reason = "it is missing although there are volumes".to_owned();
        return Err(Error::Corrupt { what: IDENTITY.to_owned(), reason });
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context(|| "ask for a new disk ID")?;
    let identity = Identity { id: id.trim().to_owned(), keeping, extra: Map::new() };
    let bytes = serde_json::to_vec_pretty(&identity)
        .map_err(|error| Error::Corrupt { what: IDENTITY.to_owned(), reason: error.to_string() })?;
    journal::replace(root.as_fd(), IDENTITY, &bytes)?;
    Ok(identity.id)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::*;

    /// M4, V10. Who only looks has no lock, and a file is written over that he may still be reading.
    #[test]
    fn v10_a_journal_that_is_replaced_meanwhile_is_not_taken_for_damaged() {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let uid: VolumeUid = "00112233-4455-4677-8899-aabbccddeeff".parse().unwrap();
        let dir = || std::fs::File::open(temp.path()).unwrap().into();
        let volume = || Volume { uid: uid.clone(), disk: "d".to_owned(), dir: dir() };
        let record = |label: usize| {
            let text = json!({"version": 1, "uid": uid, "name": "a", "role": "r", "reservation": "r", "fsType": "ext4",
                "sizeBytes": 1, "shared": true, "state": "Ready", "labels": {"a": "x".repeat(label)}});
            Record::parse(&uid, text.to_string().as_bytes()).unwrap()
        };
        let (short, long) = (record(1), record(12_000));
        volume().write(&short).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..8_000 {
                    volume().write(if i % 3 == 0 { &short } else { &long }).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut wrong = 0;
            while !done.load(Ordering::Relaxed) {
                wrong += u32::from(!volume().record().is_ok_and(|found| found == short || found == long));
            }
            assert_eq!(wrong, 0);
        });
    }
}
