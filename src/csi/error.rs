//! What can go wrong with a volume, and the one place where that becomes a gRPC code.

use std::error::Error as StdError;

use tonic::{Code, Status};

/// The error behind an [`Error`], kept as its source.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Why a call was refused or failed.
///
/// The choice of variant is a promise to the kubelet, which knows two sorts of failed publish:
/// - *final*: it takes it that nothing is mounted at the target, removes the directory there, and does not unpublish
///   when the pod goes. Whoever returns a final error from a publish has undone what it did.
/// - *open*: the volume may or may not be mounted; the kubelet goes on trying, and unpublishes when the pod goes.
///
/// Messages are one lower-case sentence, fit to be read in an event of the pod; none may hold a secret (S17).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is missing or makes no sense. Final; `INVALID_ARGUMENT`.
    #[error("{0}")]
    InvalidArgument(String),

    /// The volume, the claim or the published path does not exist on this node. Final; `NOT_FOUND`.
    #[error("{0}")]
    NotFound(String),

    /// The target is already published, otherwise than asked for. Final; `ALREADY_EXISTS`.
    #[error("{0}")]
    Incompatible(String),

    /// The volume is exclusive and another pod has it mounted (M2). Final; `FAILED_PRECONDITION`.
    #[error("{0}")]
    InUse(String),

    /// The volume's state forbids it: fenced, being destroyed, not ready. Final; `FAILED_PRECONDITION`.
    #[error("{0}")]
    FailedPrecondition(String),

    /// Another operation on the volume is under way; it may end either way. Open; `ABORTED`.
    #[error("{0}")]
    Busy(String),

    /// The node has run out of something: bytes, inodes, loop devices. Open; `RESOURCE_EXHAUSTED`.
    #[error("{message}")]
    ResourceExhausted {
        /// What was not possible, "failed to …".
        message: String,
        /// Why.
        source: Cause,
    },

    /// Not now, or the outcome is not known; trying again may help. Open; `UNAVAILABLE`.
    #[error("{message}")]
    Unavailable {
        /// What was not possible, "failed to …".
        message: String,
        /// Why.
        source: Cause,
    },

    /// Something that should not fail did, and what was begun is undone. Final; `INTERNAL`.
    #[error("{message}")]
    Internal {
        /// What was not possible, "failed to …".
        message: String,
        /// Why.
        source: Cause,
    },

    /// The call is no part of what this driver does, and the sentence says why. `UNIMPLEMENTED`.
    #[error("{0}")]
    Unimplemented(&'static str),
}

impl Error {
    /// An [`Error::ResourceExhausted`].
    pub fn resource_exhausted(message: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::ResourceExhausted { message: message.into(), source: source.into() }
    }

    /// An [`Error::Unavailable`].
    pub fn unavailable(message: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Unavailable { message: message.into(), source: source.into() }
    }

    /// An [`Error::Internal`].
    pub fn internal(message: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Internal { message: message.into(), source: source.into() }
    }

    fn code(&self) -> Code {
        match self {
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::Incompatible(_) => Code::AlreadyExists,
            Self::InUse(_) | Self::FailedPrecondition(_) => Code::FailedPrecondition,
            Self::Busy(_) => Code::Aborted,
            Self::ResourceExhausted { .. } => Code::ResourceExhausted,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Internal { .. } => Code::Internal,
            Self::Unimplemented(_) => Code::Unimplemented,
        }
    }
}

impl From<Error> for Status {
    /// The message is the whole chain of sources, outermost first: a pod's event is often all that a user sees.
    fn from(error: Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(error.code(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to attach the loop device")]
    struct Attach(#[source] std::io::Error);

    #[test]
    fn the_message_is_the_whole_chain() {
        let cause = Attach(std::io::Error::from_raw_os_error(28));
        let status = Status::from(Error::resource_exhausted("failed to publish the volume", cause));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "failed to publish the volume: failed to attach the loop device: \
             No space left on device (os error 28)"
        );
    }

    /// L3.
    #[test]
    fn what_may_still_be_mounted_is_never_final() {
        // csi_client.go, isFinalError: every other code makes the kubelet forget the volume.
        let open = [Code::Unavailable, Code::ResourceExhausted, Code::Aborted];
        assert!(open.contains(&Error::Busy(String::new()).code()));
        assert!(open.contains(&Error::unavailable("", "").code()));
        assert!(open.contains(&Error::resource_exhausted("", "").code()));
        assert!(!open.contains(&Error::internal("", "").code()));
    }
}
