//! That sizes are enforced on a disk, tried out on a scratch volume before anything of the disk is served (D5).
//!
//! # Guarantees
//! - The scratch volume is made, mounted and erased by its disk's backing as any other, in a directory of its own, so
//!   nothing takes it for a volume; its UID is the disk's with a version that no Kubernetes object's UID has. The mount
//!   is in no directory. What a killed agent left of it is removed before the next attempt.
//! - The writer has no capability: the kernel lets one that has CAP_SYS_RESOURCE past some limits.
//!
//! # Caveats
//! - A disk that is too full to try is served untried, for the volumes that it has; it is tried at each look from then
//!   on, and no volume is made on it before.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::disk::{Disk, Volume};
use super::error::{Context, Error, Result};
use super::filesystem::FsType;
use super::lifecycle::busy;
use super::record::Record;
use super::types::Enforcement;
use super::uid::VolumeUid;
use super::{ErasePolicy, VolumeSpec, beneath};

/// The scratch volume's directory.
const DIRECTORY: &str = "proof";
/// The file with which it is filled.
const FILL: &str = "fill";

/// Bytes of the scratch volume.
const SIZE: u64 = 16 << 20;
/// Less must not go into it: what is absurdly little is no limit of this size.
const LEAST: u64 = SIZE / 4;
/// How much is written if nothing stops it.
const PAST: u64 = SIZE + CHUNK as u64 * 4;
const CHUNK: usize = 64 << 10;
/// What a disk has to have free for it.
pub(super) const ROOM: u64 = 4 * SIZE;

/// Tries out whether a writer on this disk is stopped at his volume's size.
pub(super) fn attempt(disk: &Disk) -> Enforcement {
    let Some(fs_type) = disk.backing.scratch() else { return Enforcement::Whole };
    let outcome = try_out(disk, fs_type).unwrap_or_else(|error| match error {
        Error::NoSpace { .. } | Error::Io { source: Errno::NOSPC | Errno::DQUOT, .. } => Enforcement::Untried,
        error => {
            Enforcement::Broken(format!("whether a writer is stopped at a limit cannot be tried: {error}"))
        }
    });
    tracing::info!(disk = disk.name(), ?outcome, "tried whether sizes are enforced");
    outcome
}

fn try_out(disk: &Disk, fs_type: FsType) -> Result<Enforcement> {
    let context = || "make the directory of the scratch volume";
    let uid = scratch_uid(disk.id())?;
    let left_over = !beneath::make_dir(&disk.root, DIRECTORY, Mode::RWXU).context(context)?;
    let dir = beneath::open_dir(&disk.root, DIRECTORY).context(context)?;
    let scratch = Volume { uid: uid.clone(), disk: disk.name().to_owned(), dir };
    let record = Record::new(spec(uid, fs_type));
    if left_over {
        clear(disk, &scratch, &record)?;
    }
    let outcome = if disk.free()? < ROOM {
        Ok(Enforcement::Untried)
    } else {
        disk.backing.create(&scratch, &record).and_then(|()| {
            let mount = disk.backing.mount(&scratch, &record, false)?;
            judge(fill(&mount)?, disk.free()?)
        })
    };
    let cleared = clear(disk, &scratch, &record).and_then(|()| {
        beneath::remove(&disk.root, DIRECTORY, AtFlags::REMOVEDIR).context(|| "remove the scratch volume")
    });
    if let Err(error) = cleared {
        tracing::warn!(disk = disk.name(), %error, "a scratch volume is left over until the next start");
    }
    outcome
}

/// What it means that so many bytes went in before the kernel said this.
fn judge((written, said): (u64, Option<Errno>), disk_free: u64) -> Result<Enforcement> {
    Ok(match said {
        Some(Errno::NOSPC) if written < LEAST && disk_free < SIZE => Enforcement::Untried,
        Some(errno @ (Errno::NOSPC | Errno::DQUOT)) if (LEAST..=SIZE).contains(&written) => {
            Enforcement::Proven(if errno == Errno::NOSPC { "ENOSPC" } else { "EDQUOT" })
        }
        None | Some(Errno::NOSPC | Errno::DQUOT) => Enforcement::Broken(format!(
            "a writer put {written} bytes into a scratch volume of {SIZE}{}",
            if written > SIZE { "" } else { " and was stopped then" }
        )),
        Some(source) => return Err(Error::Io { context: "fill the scratch volume".to_owned(), source }),
    })
}

/// Writes to a new file in the volume until something stops it; says how far it came, and what did.
fn fill(mount: &OwnedFd) -> Result<(u64, Option<Errno>)> {
    let root = beneath::open_dir(mount, ".").context(|| "open the scratch volume's root")?;
    let file = File::from(beneath::create(&root, FILL).context(|| "make a file in the scratch volume")?);
    let write = || {
        // Of this thread alone, which ends with it.
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).context(|| "give up capabilities")?;
        let (chunk, mut written) = (vec![0xd5; CHUNK], 0);
        while written < PAST {
            match file.write_at(&chunk, written) {
                Ok(length) => written += length as u64,
                Err(error) => return Ok((written, Some(Errno::from_io_error(&error).unwrap_or(Errno::IO)))),
            }
        }
        Ok((written, None))
    };
    std::thread::scope(|scope| {
        let writer = std::thread::Builder::new().name("writer".to_owned()).spawn_scoped(scope, write);
        let ended = || Error::Unsupported("the writer ended in the middle of it".to_owned());
        writer.context(|| "start a writer")?.join().unwrap_or_else(|_| Err(ended()))
    })
}

fn clear(disk: &Disk, scratch: &Volume, record: &Record) -> Result<()> {
    if disk.backing.release(scratch)? {
        return Err(busy(&scratch.uid));
    }
    disk.backing.erase(scratch, record, ErasePolicy::Discard)
}

/// Those of Kubernetes are of version 4, and so is the disk's own.
fn scratch_uid(disk: &str) -> Result<VolumeUid> {
    let mut uid = disk.to_owned();
    uid.replace_range(14..15, "0");
    uid.parse()
}

fn spec(uid: VolumeUid, fs_type: FsType) -> VolumeSpec {
    VolumeSpec {
        uid,
        name: DIRECTORY.to_owned(),
        role: String::new(),
        reservation: String::new(),
        size_bytes: SIZE,
        fs_type,
        raw: false,
        shared: false,
        adopt: None,
        labels: Default::default(),
        gid: None,
        mode: None,
        mount_options: vec![],
        reservations: vec![],
        recover: None,
        erase_policy: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d5_a_writer_has_to_be_stopped_at_the_limit() {
        let at = |written: u64, said: Option<Errno>| judge((written, said), ROOM);
        assert_eq!(at(SIZE, Some(Errno::DQUOT)), Ok(Enforcement::Proven("EDQUOT")));
        assert_eq!(at(LEAST, Some(Errno::NOSPC)), Ok(Enforcement::Proven("ENOSPC")));
        for (written, said) in [
            (PAST, None),
            (SIZE + 1, Some(Errno::NOSPC)),
            (LEAST - 1, Some(Errno::DQUOT)),
            (0, Some(Errno::NOSPC)),
        ] {
            assert!(matches!(at(written, said), Ok(Enforcement::Broken(_))), "{written} {said:?}");
        }
        assert_eq!(judge((0, Some(Errno::NOSPC)), 0), Ok(Enforcement::Untried), "the disk itself is full");
        assert!(at(0, Some(Errno::IO)).is_err());
    }

    #[test]
    fn d5_the_scratch_volume_is_no_object_s() {
        let id = "01234567-89ab-4def-8123-456789abcdef";
        assert_eq!(scratch_uid(id).unwrap().as_str(), "01234567-89ab-0def-8123-456789abcdef");
    }
}
