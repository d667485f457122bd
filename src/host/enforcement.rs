//! The enforcement of volume sizes on a disk, tried out on a scratch volume before the disk is served (D5).
//!
//! # Guarantees
//! - The disk's backing makes, mounts and erases the scratch volume like any other. Its directory is outside of
//!   `volumes`. Its UID is the disk's UID with a version that Kubernetes does not use. Its mount is detached. If an
//!   agent is killed, the next attempt first removes the scratch volume.
//! - The writer has no capabilities: some limits do not stop a writer with CAP_SYS_RESOURCE.
//!
//! # Caveats
//! - A disk without space for the scratch volume is served untried, for its existing volumes. Each report of the disk
//!   tries again, and no volume is made on the disk before a trial succeeds.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::host::backings::backing::Backing;
use crate::host::error::{Context, Error, Result};
use crate::host::sys::dirfd;
use crate::host::types::{Enforcement, ErasePolicy, FsType, Record, VolumeSpec, VolumeUid};
use crate::host::volume::Volume;

const DIRECTORY: &str = "proof";

const SIZE: u64 = 16 << 20;
/// The fewest bytes that a volume of `SIZE` must take: a writer who is stopped earlier has met another limit.
const LEAST: u64 = SIZE / 4;
/// Number of bytes after which the writer gives up: no limit has stopped it.
const PAST: u64 = SIZE + CHUNK as u64 * 4;
const CHUNK: usize = 64 << 10;
/// Free space that the disk needs for the trial.
pub(super) const NEEDED: u64 = 4 * SIZE;

/// Proves that the disk stops a writer at the size of a volume.
pub(super) fn prove(disk: &str, disk_id: &str, root: &OwnedFd, backing: &dyn Backing) -> Enforcement {
    let Some(fs_type) = backing.scratch_fs_type() else { return Enforcement::Undivided };
    let outcome = scratch_uid(disk_id).and_then(|uid| try_on_scratch(disk, uid, root, backing, fs_type));
    let outcome = outcome.unwrap_or_else(|error| match error {
        Error::NoSpace { .. } | Error::Io { source: Errno::NOSPC | Errno::DQUOT, .. } => Enforcement::Untried,
        error => {
            Enforcement::Broken(format!("whether a writer is stopped at a limit cannot be tried: {error}"))
        }
    });
    tracing::info!(disk, ?outcome, "tried out the enforcement of volume sizes");
    outcome
}

fn try_on_scratch(
    disk: &str,
    uid: VolumeUid,
    root: &OwnedFd,
    backing: &dyn Backing,
    fs_type: FsType,
) -> Result<Enforcement> {
    let context = || "make the directory of the scratch volume";
    let free = || Ok::<_, Error>(backing.space(root.as_fd())?.free);
    let left_over = !dirfd::make_dir(root, DIRECTORY, Mode::RWXU).context(context)?;
    let dir = dirfd::open_dir(root, DIRECTORY).context(context)?;
    let scratch = Volume { uid: uid.clone(), disk: disk.to_owned(), dir };
    let record = Record::new(spec(uid, fs_type));
    if left_over {
        erase(backing, &scratch, &record)?;
    }
    let outcome = if free()? < NEEDED {
        Ok(Enforcement::Untried)
    } else {
        backing.create(&scratch, &record).and_then(|()| {
            let mount = backing.mount(&scratch, &record, false)?;
            judge(fill(&mount)?, free()?)
        })
    };
    let erased = erase(backing, &scratch, &record).and_then(|()| {
        dirfd::remove(root, DIRECTORY, AtFlags::REMOVEDIR).context(|| "remove the scratch volume")
    });
    if let Err(error) = erased {
        tracing::warn!(disk, %error, "a scratch volume is left over until the next start");
    }
    outcome
}

/// The verdict for a writer that wrote `written` bytes and was stopped by `stopped_by`, if at all.
fn judge((written, stopped_by): (u64, Option<Errno>), disk_free: u64) -> Result<Enforcement> {
    Ok(match stopped_by {
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

/// Writes to a new file in the volume until an error stops the writer. Returns the number of bytes written, and the
/// error.
fn fill(mount: &OwnedFd) -> Result<(u64, Option<Errno>)> {
    let root = dirfd::open_dir(mount, ".").context(|| "open the scratch volume's root")?;
    let file = File::from(dirfd::create(&root, "fill").context(|| "make a file in the scratch volume")?);
    let write = || {
        // Capabilities belong to a thread, and this thread ends with the attempt.
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
        writer.context(|| "start a writer")?.join().unwrap_or(Err(Error::Panicked))
    })
}

fn erase(backing: &dyn Backing, scratch: &Volume, record: &Record) -> Result<()> {
    if backing.in_use(scratch)? {
        return Err(Error::volume_in_use(&scratch.uid));
    }
    backing.erase(scratch, record, ErasePolicy::Discard)
}

/// UIDs of Kubernetes objects are of version 4, and so is the disk's own UID.
fn scratch_uid(disk_id: &str) -> Result<VolumeUid> {
    let mut uid = disk_id.to_owned();
    uid.replace_range(14..15, "0");
    Ok(uid.parse()?)
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
        sub_roles_denied: false,
        adopt: None,
        labels: Default::default(),
        gid: None,
        mode: None,
        mount_options: vec![],
        reservations: vec![],
        recover: None,
        keep_for: None,
        made_for: None,
        erase_policy: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d5_a_writer_has_to_be_stopped_at_the_limit() {
        let at = |written: u64, stopped_by: Option<Errno>| judge((written, stopped_by), NEEDED);
        assert_eq!(at(SIZE, Some(Errno::DQUOT)), Ok(Enforcement::Proven("EDQUOT")));
        assert_eq!(at(LEAST, Some(Errno::NOSPC)), Ok(Enforcement::Proven("ENOSPC")));
        for (written, stopped_by) in [
            (PAST, None),
            (SIZE + 1, Some(Errno::NOSPC)),
            (LEAST - 1, Some(Errno::DQUOT)),
            (0, Some(Errno::NOSPC)),
        ] {
            assert!(
                matches!(at(written, stopped_by), Ok(Enforcement::Broken(_))),
                "{written} {stopped_by:?}"
            );
        }
        assert_eq!(judge((0, Some(Errno::NOSPC)), 0), Ok(Enforcement::Untried), "the disk itself is full");
        assert!(at(0, Some(Errno::IO)).is_err());
    }

    #[test]
    fn d5_the_scratch_uid_is_no_kubernetes_object() {
        let id = "01234567-89ab-4def-8123-456789abcdef";
        assert_eq!(scratch_uid(id).unwrap().as_str(), "01234567-89ab-0def-8123-456789abcdef");
    }
}
