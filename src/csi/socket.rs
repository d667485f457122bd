//! A unix socket whose file exists exactly as long as its listener.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustix::fs::{Mode, fchmod};
use tokio::fs;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::serve_error::ServeError;

/// Limit of connections that wait to be accepted. The kubelet opens one connection per call.
const BACKLOG: u32 = 128;

/// Time limit for a connection to an existing socket. A listener with a full backlog counts as alive.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A listening socket, as the stream of its connections. A drop removes the file and then closes the socket.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Socket {
    /// Listens on `path`, for this user only (0600). Makes a missing directory (0750). Replaces a socket that a crash
    /// left.
    ///
    /// # Errors
    /// [`ServeError::Foreign`] if something other than a socket is there, [`ServeError::Answered`] if a process
    /// listens on the socket. Both are left alone.
    pub(super) async fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(parent).await.map_err(failed)?;
        }
        remove_stale(path).await?;

        let socket = UnixSocket::new_stream().map_err(failed)?;
        // Linux makes the socket's file with the mode of the unbound socket, so other users can never connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|errno| failed(errno.into()))?;
        socket.bind(path).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let identity = identity(&fs::symlink_metadata(path).await.map_err(failed)?);
        Ok(Self { listener, path: path.to_owned(), identity })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A successor may have put its own socket in place. This process still listens, so the kernel has not given
        // its inode to another file. The two calls may block here: the name is in memory or in the page cache, and a
        // drop cannot await a thread.
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), %error, "failed to remove the socket");
        }
    }
}

impl Stream for Socket {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.listener.poll_accept(context).map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Removes a socket without a listener.
pub(super) async fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Listen { path: path.to_owned(), source };
    match fs::symlink_metadata(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServeError::Foreign { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).await.map_err(failed)
        }
        Ok(Err(error)) => Err(failed(error)),
        Ok(Ok(_)) | Err(_) => Err(ServeError::Answered { path: path.to_owned() }),
    }
}
