//! Reasons why the sockets are not served, or not any more.

use std::io;
use std::path::PathBuf;

/// The reason why serving did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Something other than a socket is at the socket's path. The agent left it alone.
    #[error("{} exists and is not a socket: remove it by hand if nothing needs it", .path.display())]
    Foreign {
        /// The socket's path.
        path: PathBuf,
    },
    /// Another process serves this socket, probably a second agent on the node. The agent left the socket alone.
    #[error("another process answers on {}", .path.display())]
    Answered {
        /// The socket's path.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("failed to listen on {}", .path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The gRPC server failed.
    #[error("failed to serve gRPC")]
    Serve(#[source] tonic::transport::Error),
    /// The gRPC server returned without a request to stop.
    #[error("the gRPC server ended by itself")]
    Ended,
}

impl ServeError {
    pub(super) fn ended(result: Result<(), tonic::transport::Error>) -> Self {
        result.map_or_else(Self::Serve, |()| Self::Ended)
    }
}
