//! Serving both sockets, from start to graceful stop.

use std::future::Future;
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
use super::registration;
use super::serve_error::ServeError;
use super::socket::{Socket, remove_stale};
use super::volumes::Volumes;
use crate::api::DRIVER;

/// Time limit at a stop for calls under way. The next start of the agent finishes calls that were cut off (M5).
const DRAIN: Duration = Duration::from_secs(10);

/// The kubelet's directory and the node to serve.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The kubelet's directory, at the same path as on the node. The path has at most 63 bytes, since the path of a
    /// unix socket has at most 107.
    pub kubelet_dir: PathBuf,
    /// The Node object's name.
    pub node_name: String,
}

impl ServeConfig {
    /// The CSI socket.
    pub fn csi_socket(&self) -> PathBuf {
        self.kubelet_dir.join("plugins").join(DRIVER).join("csi.sock")
    }

    /// The registration socket, in the directory that the kubelet watches.
    ///
    /// The `@` in the name is for the kubelet (1.36, `pkg/kubelet/pluginmanager`). The kubelet dials by path, and its
    /// gRPC library sends the percent-encoded path as `:authority`. The agent's HTTP/2 library resets a stream with a
    /// `%` in the host part (hyperium/h2 487). A `%` before an `@`, in the user part, is allowed. For the CSI socket
    /// the kubelet sends `localhost` (kubernetes 112597).
    pub fn registration_socket(&self) -> PathBuf {
        self.kubelet_dir.join("plugins_registry").join(format!("{DRIVER}@reg.sock"))
    }
}

impl ServeConfig {
    /// The registration socket of an agent before 0.1, which is left behind if such an agent was killed.
    fn former_registration_socket(&self) -> PathBuf {
        self.kubelet_dir.join("plugins_registry").join(format!("{DRIVER}-reg.sock"))
    }
}

/// Serves the CSI services on their socket and keeps the driver registered with the kubelet, until `shutdown`
/// resolves.
///
/// # Guarantees
/// - The CSI socket listens before the registration socket can be seen.
/// - Sockets have mode 0600, new directories for them 0750. The call replaces a socket that a crash left. It leaves
///   anything else in the way alone, also a socket that a process serves.
/// - At the end the registration socket is removed first, so that the kubelet unregisters the driver, and then the
///   CSI socket. Calls under way have ten seconds to end.
///
/// # Errors
/// See [`ServeError`]. A retry within this process cannot help.
pub async fn serve<V: Volumes>(
    config: ServeConfig,
    volumes: Arc<V>,
    observer: Arc<dyn Observer>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (csi_socket, registration_socket) = (config.csi_socket(), config.registration_socket());
    let socket = Socket::bind(&csi_socket).await?;
    let running = TaskTracker::new();
    let identity = IdentityService { observer: Arc::clone(&observer) };
    let node = NodeService {
        node_name: config.node_name.clone(),
        volumes,
        observer: Arc::clone(&observer),
        running: running.clone(),
        target_locks: Arc::default(),
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
    tracing::info!(socket = %csi_socket.display(), node = config.node_name, "serving CSI");
    // The kubelet keeps a driver under its first path, and refuses the same driver under another path.
    let former = config.former_registration_socket();
    if let Err(error) = remove_stale(&former).await {
        tracing::warn!(socket = %former.display(), %error, "failed to remove the registration socket of an earlier version");
    }

    let failure = tokio::select! {
        () = shutdown => None,
        error = registration::offer_driver(&registration_socket, &csi_socket, &observer) => Some(error),
        ended = &mut services => return Err(ServeError::ended(ended)),
    };

    // The registration socket is already removed with its future. The CSI socket goes now, and running calls may
    // finish.
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
            tracing::warn!(calls = running.len(), "stopped before these CSI calls had ended");
            Ok(())
        }
    }
}
