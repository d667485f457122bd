//! What can go wrong on a node's disks, in the terms in which a caller can act on it.

use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use super::uid::VolumeUid;

/// The result of everything in [`host`](super).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One volume's, one disk's or one request's failure; it never concerns another volume (V10).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// No such disk or volume on this node.
    #[error("{0} does not exist on this node")]
    NotFound(String),

    /// The request itself is wrong; repeating it cannot help.
    #[error("{0}")]
    InvalidArgument(String),

    /// What exists already differs from what is asked for, and is left as it is.
    #[error("{0}")]
    Conflict(String),

    /// The volume has not been made yet, or its making was interrupted.
    #[error("volume {0} is not ready: repeat its creation")]
    NotReady(VolumeUid),

    /// The volume is being destroyed: no new user may come (X2).
    #[error("volume {0} is being destroyed: it accepts no new user")]
    Fenced(VolumeUid),

    /// Erasing asks for a fence first (S10).
    #[error("volume {0} is not fenced: fence it before erasing it")]
    NotFenced(VolumeUid),

    /// The volume is used, by a pod that the journal names (M2, X1).
    #[error("volume {uid} is in use by {holder}")]
    InUse {
        /// The volume.
        uid: VolumeUid,
        /// The first pods that use it, as `namespace/name`, and how many.
        holder: String,
    },

    /// The kernel still has it mounted or open, whoever that is; it may go away by itself (X3).
    #[error("{what} is busy: wait until the last process that uses it is gone")]
    Busy {
        /// What is busy.
        what: String,
    },

    /// Less room on the disk than the volume asks for; nothing was left behind.
    #[error("disk {disk} has {available} bytes free, {needed} are needed: free some, or use another disk")]
    NoSpace {
        /// The disk's name.
        disk: String,
        /// Bytes that were asked for.
        needed: u64,
        /// Bytes that were free.
        available: u64,
    },

    /// What is in the volume, and its filesystem's own tables, need more than it is to have; it stays as it is (V7).
    #[error(
        "volume {uid} needs {needed} bytes at least for what is in it, more than {wanted}: remove files, or ask for more"
    )]
    TooSmall {
        /// The volume.
        uid: VolumeUid,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },

    /// A volume that was ready once has lost its data, or part of it. It is never made anew (V9).
    #[error("the data of volume {uid} is lost ({reason}): restore it, or give the volume up")]
    BackingLost {
        /// The volume.
        uid: VolumeUid,
        /// What is missing.
        reason: String,
    },

    /// Something on the disk cannot be understood. It is kept as it is and never taken for absent.
    #[error("{what} cannot be understood ({reason}): it is kept; repair it or remove it by hand")]
    Corrupt {
        /// Which file or volume.
        what: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The disk cannot be served now: not there, locked by another agent, or not readable.
    #[error("disk {disk} is unavailable: {reason}")]
    DiskUnavailable {
        /// The disk's name.
        disk: String,
        /// Why.
        reason: String,
    },

    /// This kernel, filesystem or machine cannot do it.
    #[error("{0}")]
    Unsupported(String),

    /// A program such as mkfs failed.
    #[error("{program} failed ({status}): {output}")]
    Command {
        /// The program's path.
        program: PathBuf,
        /// How it ended.
        status: String,
        /// What it printed, shortened.
        output: String,
    },

    /// A system call failed.
    #[error("failed to {context}: {source}")]
    Io {
        /// What was attempted.
        context: String,
        /// The kernel's word.
        source: Errno,
    },
}

impl Error {
    /// Name of the variant, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "NotFound",
            Self::InvalidArgument(_) => "InvalidArgument",
            Self::Conflict(_) => "Conflict",
            Self::NotReady(_) => "NotReady",
            Self::Fenced(_) => "Fenced",
            Self::NotFenced(_) => "NotFenced",
            Self::InUse { .. } => "InUse",
            Self::Busy { .. } => "Busy",
            Self::NoSpace { .. } => "NoSpace",
            Self::TooSmall { .. } => "TooSmall",
            Self::BackingLost { .. } => "BackingLost",
            Self::Corrupt { .. } => "Corrupt",
            Self::DiskUnavailable { .. } => "DiskUnavailable",
            Self::Unsupported(_) => "Unsupported",
            Self::Command { .. } => "Command",
            Self::Io { .. } => "Io",
        }
    }
}

/// Adds what was attempted to a bare errno.
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

/// Repeats what the kernel refuses as busy, for three tenths of a second.
///
/// A process that is just being started has copies of all our descriptors until it executes its program. Whatever they
/// refer to is busy for that moment, without anybody using it.
pub(super) fn settled<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..15 {
        match attempt() {
            Err(Error::Io { source: Errno::BUSY, .. }) => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
    attempt()
}
