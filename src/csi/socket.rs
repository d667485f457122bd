//! A unix socket whose file lives exactly as long as its listener.

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

/// Connections that wait to be accepted; the kubelet opens one per call.
const BACKLOG: u32 = 128;

/// Timeout for a connection to a socket found in place. A listener whose backlog is full is alive.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A listening socket, as the stream of its connections. Dropping it removes the file and then closes it.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Socket {
    /// Listens on `path`, for this user only (0600), in a directory that is made (0750) if there is none. A socket that a
    /// crash left is replaced.
    ///
    /// # Errors
    /// [`ServeError::Foreign`] if something other than a socket is there, [`ServeError::Answered`] if a process listens
    /// on it; neither is touched.
    pub(super) async fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(parent).await.map_err(failed)?;
        }
        remove_stale(path).await?;

        let socket = UnixSocket::new_stream().map_err(failed)?;
        // Linux makes the file with the unbound socket's own mode: at no moment could others connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|errno| failed(errno.into()))?;
        socket.bind(path).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let identity = identity(&fs::symlink_metadata(path).await.map_err(failed)?);
        Ok(Self { listener, path: path.to_owned(), identity })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A successor may have put its own in place. This one still listens, so its inode cannot be in use again. Two
        // calls on a name in memory or in the page cache: a drop cannot wait for another thread.
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

/// Removes a socket on which nobody listens any more.
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
