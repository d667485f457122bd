//! Serving both sockets, from start to graceful stop.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use super::calls::Observer;
use super::identity::IdentityService;
use super::node::NodeService;
use super::proto::csi::identity_server::IdentityServer;
use super::proto::csi::node_server::NodeServer;
use super::socket::Socket;
use super::{Volumes, registration};

/// How long a stop waits for calls under way. What is cut off after that is the journal's to finish (M5).
const DRAIN: Duration = Duration::from_secs(10);

/// Where to serve, and as whom.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The CSI socket, as this process sees it; at most 107 bytes, a limit of unix sockets.
    pub csi_socket: PathBuf,
    /// The registration socket, in the directory that the kubelet watches (`plugins_registry`); its name must not begin
    /// with a dot.
    pub registration_socket: PathBuf,
    /// The CSI socket, as the kubelet sees it on the node.
    pub kubelet_csi_socket: PathBuf,
    /// The Node object's name.
    pub node_name: String,
}

/// Why serving did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is something at the socket's path that is not a socket. It was left alone.
    #[error("{} exists and is not a socket: remove it by hand if nothing needs it", .path.display())]
    Foreign {
        /// The socket's path.
        path: PathBuf,
    },
    /// Another process serves this socket, probably a second agent on the node. It was left alone.
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
        /// Why.
        source: io::Error,
    },
    /// The gRPC server failed.
    #[error("failed to serve gRPC")]
    Serve(#[source] tonic::transport::Error),
    /// The gRPC server returned though nobody had asked it to.
    #[error("the gRPC server ended by itself")]
    Ended,
}

impl ServeError {
    pub(super) fn ended(result: Result<(), tonic::transport::Error>) -> Self {
        result.map_or_else(Self::Serve, |()| Self::Ended)
    }
}

/// Serves the CSI services on their socket and keeps the driver registered with the kubelet, until `shutdown` resolves.
///
/// # Guarantees
/// - The CSI socket listens before the registration socket can be seen.
/// - Sockets are 0600, directories made for them 0750. A socket left by a crash is replaced; anything else in the way,
///   and a socket that somebody serves, is left alone.
/// - At the end, whatever the reason, the registration socket is removed first (the kubelet then unregisters the
///   driver), then the CSI socket; calls under way have ten seconds to end.
///
/// # Errors
/// See [`ServeError`]; none of them is worth a retry within this process.
pub async fn serve<V: Volumes>(
    config: ServeConfig,
    volumes: Arc<V>,
    observer: Arc<dyn Observer>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let socket = Socket::bind(&config.csi_socket).await?;
    let running = TaskTracker::new();
    let identity = IdentityService { volumes: Arc::clone(&volumes), observer: Arc::clone(&observer) };
    let node = NodeService {
        node_name: config.node_name.clone(),
        volumes,
        observer: Arc::clone(&observer),
        running: running.clone(),
        turns: Arc::default(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let mut services = pin!(
        Server::builder()
            .add_service(IdentityServer::new(identity))
            .add_service(NodeServer::new(node))
            .serve_with_incoming_shutdown(socket, async {
                let _ = stopped.await;
            })
    );
    tracing::info!(socket = %config.csi_socket.display(), node = config.node_name, "serving CSI");

    let failure = tokio::select! {
        () = shutdown => None,
        error = registration::keep(&config, &observer) => Some(error),
        ended = &mut services => return Err(ServeError::ended(ended)),
    };

    // The registration socket went with its future; now the CSI socket goes, and what runs may finish.
    drop(stop);
    running.close();
    let drained = tokio::time::timeout(DRAIN, async {
        let ended = services.await;
        running.wait().await;
        ended
    });
    match (failure, drained.await) {
        (Some(error), _) => Err(error),
        (None, Ok(ended)) => ended.map_err(ServeError::Serve),
        (None, Err(_elapsed)) => {
            tracing::warn!(calls = running.len(), "stopped with calls under way");
            Ok(())
        }
    }
}
