//! Failures on a node's disks, by the action that a caller can take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::host::types::uid::{InvalidUid, VolumeUid};

/// The result of everything in [`host`](super).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The failure of one volume, one disk or one request. It never concerns another volume (V10).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// No such disk or volume on this node.
    #[error("{0} does not exist on this node")]
    NotFound(String),

    /// The request itself is wrong, so a repetition cannot help.
    #[error("{0}")]
    InvalidArgument(String),

    /// The existing volume, target or directory differs from the request. It stays as it is.
    #[error("{0}")]
    Conflict(String),

    /// The volume has not been made yet, or its creation was interrupted.
    #[error("volume {0} is not made yet: its node makes it, and this is tried again")]
    NotReady(VolumeUid),

    /// The volume is being destroyed, so the agent refuses new users (X2).
    #[error("volume {0} is being destroyed: it accepts no new user")]
    Fenced(VolumeUid),

    /// An erase needs a fence first (S10).
    #[error("volume {0} is not fenced: fence it before erasing it")]
    NotFenced(VolumeUid),

    /// The volume is sealed or being sealed, so the agent refuses new writers (E1).
    #[error(
        "volume {0} accepts no writer: it is sealed, or its sealing was just taken back, and this is tried again; or mount it read-only"
    )]
    Sealed(VolumeUid),

    /// A file that no sealed volume may have (E1).
    #[error("{path} {why}: remove it, or replace it")]
    Unsealable {
        /// The file's path in the volume, as the manifest has it.
        path: String,
        /// The predicate of the sentence that begins with the path.
        why: String,
    },

    /// The source of a copy sends something else than was sealed, or nothing (E2). The sentence ends with the next step where
    /// there is one.
    #[error("{0}")]
    Source(String),

    /// The files of a copy on the disk are not those of the digest, although the right ones were written (E2).
    #[error("the files of the copy are not what was sealed: {0}")]
    Differs(String),

    /// The caller ended the work early.
    #[error("the work was stopped: it begins anew")]
    Stopped,

    /// A pod in the volume's record uses the volume (X1).
    #[error("volume {uid} is in use by {holder}: wait until these pods are gone")]
    InUse {
        /// The volume.
        uid: VolumeUid,
        /// The first pods that use the volume, as `namespace/name`, and the number of the other pods.
        holder: String,
    },

    /// Another pod has the exclusive volume (M2).
    #[error(
        "volume {uid} is exclusive and pod {holder} has it: it is free when that pod is gone; a Deployment needs \
         strategy.type Recreate, a CronJob concurrencyPolicy Forbid, and several pods at once need a volume with spec.shared"
    )]
    Held {
        /// The volume.
        uid: VolumeUid,
        /// The pod that has the volume, as `namespace/name`.
        holder: String,
    },

    /// The kernel still has the object mounted or open; this use may end without any action (X3).
    #[error("{what} is busy: wait until the last process that uses it is gone")]
    Busy {
        /// The busy object.
        what: String,
    },

    /// The disk has less free space than the volume needs. Nothing was left behind.
    #[error("disk {disk} has {available} bytes free, {needed} are needed: free some, or use another disk")]
    NoSpace {
        /// The disk's name.
        disk: String,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that were free.
        available: u64,
    },

    /// The volume's files and the filesystem's own tables need more than the requested size. The volume is unchanged
    /// (V7).
    #[error(
        "volume {uid} needs {needed} bytes at least, for its files and the tables of its file system, and {wanted} were asked for: ask \
         for that much; where there are files, fewer of them need less"
    )]
    TooSmall {
        /// The volume.
        uid: VolumeUid,
        /// The smallest possible size now.
        needed: u64,
        /// The requested size.
        wanted: u64,
    },

    /// A volume that was ready has lost data. The agent never makes such a volume anew (V9).
    #[error("the data of volume {uid} is lost ({reason}): restore it, or give the volume up")]
    BackingLost {
        /// The volume.
        uid: VolumeUid,
        /// The missing part.
        reason: String,
    },

    /// The agent cannot understand something on the disk. The agent keeps it, and never treats it as absent.
    #[error(
        "{what} cannot be understood ({reason}): nothing of it is changed until it is repaired or restored"
    )]
    Corrupt {
        /// The file or volume.
        what: String,
        /// The defect.
        reason: String,
    },

    /// A newer agent wrote the volume's record. This agent keeps the record as it is.
    #[error(
        "the record of volume {uid} has version {version}, this agent reads versions up to {known}: upgrade the agent"
    )]
    RecordTooNew {
        /// The volume.
        uid: VolumeUid,
        /// Version of the record.
        version: u64,
        /// The newest version that this agent reads.
        known: u32,
    },

    /// The disk cannot be served now: it is missing, unreadable, or locked by another agent.
    #[error("disk {disk} is unavailable: {reason}")]
    DiskUnavailable {
        /// The disk's name.
        disk: String,
        /// The cause.
        reason: String,
    },

    /// The path of a disk is not of the configured kind, or can keep no volumes.
    #[error("{path} {reason}", path = path.display())]
    UnsuitableDisk {
        /// The disk's path.
        path: PathBuf,
        /// The predicate of the sentence that begins with the path, then the next step.
        reason: String,
    },

    /// The disk's backing or configuration does not offer a property of the volume.
    #[error("{0}")]
    Unsupported(String),

    /// The node's kernel is too old.
    #[error("{0}: upgrade the node's kernel")]
    KernelTooOld(&'static str),

    /// The agent runs in its own PID namespace, which hides the users of a disk.
    #[error(
        "the agent sees only its own processes, not those that use its disks: run it with hostPID, agent.hostPID in the chart's values"
    )]
    ProcessesHidden,

    /// A device node, or the kernel's entry of a device, is not of the expected form.
    #[error("{0}")]
    UnusableDevice(String),

    /// A program is missing in the agent's container.
    #[error("{0}")]
    ProgramMissing(String),

    /// A program such as mkfs failed.
    #[error("{program} failed ({status}): {output}")]
    Command {
        /// The program's path.
        program: PathBuf,
        /// The program's exit status or signal.
        status: String,
        /// The program's standard error, shortened.
        output: String,
    },

    /// The agent's code panicked. The work may be done in part, and may be repeated.
    #[error("the agent panicked: it will try again; report the panic in its log")]
    Panicked,

    /// A system call failed.
    #[error("failed to {context}: {source}")]
    Io {
        /// The attempted action.
        context: String,
        /// The kernel's error number.
        source: Errno,
    },
}

impl Error {
    /// The kernel has the volume mounted or open, although no pod in its record uses it.
    pub(super) fn volume_in_use(uid: &VolumeUid) -> Self {
        Self::Busy { what: format!("volume {uid}, which is still mounted or open in some mount namespace,") }
    }

    pub(super) fn corrupt(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), reason: reason.into() }
    }

    pub(super) fn unsuitable_disk(path: &Path, reason: impl Into<String>) -> Self {
        Self::UnsuitableDisk { path: path.to_owned(), reason: reason.into() }
    }

    /// Name of the variant, for metrics.
    pub fn label(&self) -> &'static str {
        macro_rules! name {
            ($($variant:ident)*) => {
                match self { $(Self::$variant { .. } => stringify!($variant),)* }
            };
        }
        name!(NotFound InvalidArgument Conflict NotReady Fenced NotFenced Sealed Unsealable Source Differs Stopped InUse Held Busy NoSpace TooSmall BackingLost
            Corrupt RecordTooNew DiskUnavailable UnsuitableDisk Unsupported KernelTooOld ProcessesHidden
            UnusableDevice ProgramMissing Command Panicked Io)
    }
}

impl From<InvalidUid> for Error {
    fn from(error: InvalidUid) -> Self {
        Self::InvalidArgument(error.to_string())
    }
}

/// Adds the attempted action to an errno.
pub(super) trait Context<T> {
    /// `context` completes a sentence that begins with "failed to".
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|source| Error::Io { context: context().into(), source })
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T> {
        // An I/O error without an errno is a short read or write.
        self.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)).context(context)
    }
}

/// Repeats an attempt that the kernel refuses as busy, for three tenths of a second.
///
/// Between fork and exec a child process has copies of all descriptors of the agent. The kernel then reports unused
/// files and devices as busy.
pub(super) fn retry_while_busy<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..15 {
        match attempt() {
            Err(Error::Io { source: Errno::BUSY, .. }) => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
    attempt()
}

/// The result of an attempt, or `None` if the kernel keeps refusing it as busy.
pub(super) fn unless_busy<T>(attempt: impl FnMut() -> Result<T>) -> Result<Option<T>> {
    match retry_while_busy(attempt) {
        Err(Error::Io { source: Errno::BUSY, .. }) => Ok(None),
        result => result.map(Some),
    }
}
