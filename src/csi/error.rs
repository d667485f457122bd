//! Failures of a call, and the one place that maps them to gRPC codes.

use std::error::Error as StdError;

use tonic::{Code, Status};

/// The cause of an [`Error`], kept as its source.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// The reason why a call was refused or failed.
///
/// The choice of variant is a promise to the kubelet, which distinguishes two sorts of failed publish (`isFinalError`
/// in its `csi_client.go`):
/// - *final*: nothing is mounted at the target. The kubelet removes the directory there, and does not unpublish when
///   the pod goes. A publish may return a final error only after undoing its own work.
/// - *uncertain*: the volume may be mounted. The kubelet goes on trying, and unpublishes when the pod goes.
///
/// Messages are one lower-case sentence, fit to be read in an event of the pod; none may hold a secret (S17).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is missing or malformed. Final; `INVALID_ARGUMENT`.
    #[error("{0}")]
    InvalidArgument(String),

    /// The volume, the claim or the published path does not exist on this node. Final; `NOT_FOUND`.
    #[error("{0}")]
    NotFound(String),

    /// The target is already published in another way. Final; `ALREADY_EXISTS`.
    #[error("{0}")]
    Incompatible(String),

    /// The volume's state forbids the call: the volume is fenced, or exclusive and in use by another pod (M2). Final;
    /// `FAILED_PRECONDITION`.
    #[error("{0}")]
    FailedPrecondition(String),

    /// Another operation on the volume is under way, and its outcome is open. Uncertain; `ABORTED`.
    #[error("{0}")]
    Busy(String),

    /// The node lacks a resource: bytes, inodes or loop devices. Uncertain; `RESOURCE_EXHAUSTED`.
    #[error("{message}")]
    ResourceExhausted {
        /// The attempted action: "failed to …".
        message: String,
        /// The cause.
        source: Cause,
    },

    /// Impossible now, or of unknown outcome; a retry may help. Uncertain; `UNAVAILABLE`.
    #[error("{message}")]
    Unavailable {
        /// The attempted action: "failed to …".
        message: String,
        /// The cause.
        source: Cause,
    },

    /// This driver does not offer the call; the sentence has the reason. `UNIMPLEMENTED`.
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

    fn code(&self) -> Code {
        match self {
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::Incompatible(_) => Code::AlreadyExists,
            Self::FailedPrecondition(_) => Code::FailedPrecondition,
            Self::Busy(_) => Code::Aborted,
            Self::ResourceExhausted { .. } => Code::ResourceExhausted,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Unimplemented(_) => Code::Unimplemented,
        }
    }
}

impl From<Error> for Status {
    /// The message is the whole chain of sources, outermost first: often a pod's event is all that a user sees.
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
    fn the_message_has_the_whole_chain_of_causes() {
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
    fn l3_an_error_is_uncertain_where_a_mount_may_be_left() {
        // isFinalError of the kubelet (1.36). Every code outside of this list makes the kubelet forget the volume.
        let uncertain = [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Unavailable,
            Code::ResourceExhausted,
            Code::Aborted,
        ];
        let is_uncertain = |error: Error| uncertain.contains(&error.code());
        assert!(is_uncertain(Error::Busy(String::new())));
        assert!(is_uncertain(Error::unavailable("", "")));
        assert!(is_uncertain(Error::resource_exhausted("", "")));
        for refusal in
            [Error::InvalidArgument, Error::NotFound, Error::Incompatible, Error::FailedPrecondition]
        {
            assert!(!is_uncertain(refusal(String::new())));
        }
        assert!(!is_uncertain(Error::Unimplemented("")));
    }
}
