//! Failures on a node's disks, in the terms in which a caller can act on them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::host::types::uid::{InvalidUid, VolumeUid};

/// The result of everything in [`host`](super).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One volume's, one disk's or one request's failure; it never concerns another volume (V10).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// No such disk or volume on this node.
    #[error("{0} does not exist on this node")]
    NotFound(String),

    /// The request itself is wrong; a repetition cannot help.
    #[error("{0}")]
    InvalidArgument(String),

    /// The existing volume, target or directory differs from the request, and stays as it is.
    #[error("{0}")]
    Conflict(String),

    /// The volume has not been made yet, or its creation was interrupted.
    #[error("volume {0} is not ready: repeat its creation")]
    NotReady(VolumeUid),

    /// The volume is being destroyed: no new user may come (X2).
    #[error("volume {0} is being destroyed: it accepts no new user")]
    Fenced(VolumeUid),

    /// Erasing needs a fence first (S10).
    #[error("volume {0} is not fenced: fence it before erasing it")]
    NotFenced(VolumeUid),

    /// A pod in the volume's record uses the volume (M2, X1).
    #[error("volume {uid} is in use by {holder}: wait until these pods are gone")]
    InUse {
        /// The volume.
        uid: VolumeUid,
        /// The first pods that use it, as `namespace/name`, and the number of the others.
        holder: String,
    },

    /// The kernel still has it mounted or open; that may end by itself (X3).
    #[error("{what} is busy: wait until the last process that uses it is gone")]
    Busy {
        /// The busy object.
        what: String,
    },

    /// The disk has less free space than the volume needs; nothing was left behind.
    #[error("disk {disk} has {available} bytes free, {needed} are needed: free some, or use another disk")]
    NoSpace {
        /// The disk's name.
        disk: String,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that were free.
        available: u64,
    },

    /// The volume's files and its filesystem's own tables need more than the wanted size; the volume is unchanged (V7).
    #[error(
        "volume {uid} needs {needed} bytes at least for what is in it, more than {wanted}: remove files, or ask for more"
    )]
    TooSmall {
        /// The volume.
        uid: VolumeUid,
        /// The smallest size that is possible now.
        needed: u64,
        /// The size that was asked for.
        wanted: u64,
    },

    /// A volume that was ready once has lost its data, or part of it. It is never made anew (V9).
    #[error("the data of volume {uid} is lost ({reason}): restore it, or give the volume up")]
    BackingLost {
        /// The volume.
        uid: VolumeUid,
        /// The missing part.
        reason: String,
    },

    /// Something on the disk cannot be understood. It is kept as it is and never taken for absent.
    #[error("{what} cannot be understood ({reason}): it is kept; repair it or remove it by hand")]
    Corrupt {
        /// The file or volume.
        what: String,
        /// The defect.
        reason: String,
    },

    /// The volume's record was written by a newer agent, and is kept as it is.
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

    /// The disk cannot be served now: not there, locked by another agent, or not readable.
    #[error("disk {disk} is unavailable: {reason}")]
    DiskUnavailable {
        /// The disk's name.
        disk: String,
        /// The cause.
        reason: String,
    },

    /// The path of a disk is not of the kind that its configuration says, or can keep no volumes.
    #[error("{path} {reason}", path = path.display())]
    UnsuitableDisk {
        /// The disk's path.
        path: PathBuf,
        /// The predicate of the sentence that begins with the path, and the next step.
        reason: String,
    },

    /// The disk's backing, or its configuration, does not offer what the volume asks for.
    #[error("{0}")]
    Unsupported(String),

    /// The node's kernel is too old.
    #[error("{0}: upgrade the node's kernel")]
    KernelTooOld(&'static str),

    /// The agent runs in a PID namespace of its own, where the users of a disk are hidden.
    #[error("the agent sees only its own processes, not those that use its disks: run it with hostPID")]
    ProcessesHidden,

    /// A device node, or the kernel's own entry of a device, is not what it has to be.
    #[error("{0}")]
    UnusableDevice(String),

    /// A program is not installed where the agent runs.
    #[error("{0}")]
    ProgramMissing(String),

    /// A program such as mkfs failed.
    #[error("{program} failed ({status}): {output}")]
    Command {
        /// The program's path.
        program: PathBuf,
        /// Its exit status or signal.
        status: String,
        /// Its standard error, shortened.
        output: String,
    },

    /// The agent's own code panicked. The work may be repeated, and may have been done in part.
    #[error("the agent panicked: it will try again; report the panic in its log")]
    Panicked,

    /// A system call failed.
    #[error("failed to {context}: {source}")]
    Io {
        /// The attempt.
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
        name!(NotFound InvalidArgument Conflict NotReady Fenced NotFenced InUse Busy NoSpace TooSmall BackingLost
            Corrupt RecordTooNew DiskUnavailable UnsuitableDisk Unsupported KernelTooOld ProcessesHidden
            UnusableDevice ProgramMissing Command Panicked Io)
    }
}

impl From<InvalidUid> for Error {
    fn from(error: InvalidUid) -> Self {
        Self::InvalidArgument(error.to_string())
    }
}

/// Adds the attempt to a bare errno.
pub(super) trait Context<T> {
    /// `context` follows "failed to".
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
/// A new process has copies of all our descriptors between fork and exec. Whatever they refer to is busy for that
/// moment, without anybody using it.
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
