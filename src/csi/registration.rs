//! Registration with the kubelet. The kubelet watches a directory for sockets, and asks each for its driver.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::calls::{Call, Observer};
use super::proto::registration::registration_server::{Registration, RegistrationServer};
use super::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use super::serve_error::ServeError;
use super::socket::Socket;
use crate::api::DRIVER;

/// The kubelet's name for the plugin type of a CSI driver.
const PLUGIN_TYPE: &str = "CSIPlugin";

/// The supported CSI versions. The kubelet accepts any 1.x, and compares the versions with those of another driver of
/// the same name. Every driver's registrar sends this version.
const SUPPORTED_VERSIONS: [&str; 1] = ["1.0.0"];

/// Pause after a refusal, for the kubelet's own next try. After the pause the socket is made anew. The pause doubles
/// each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

struct RegistrationService {
    endpoint: String,
    observer: Arc<dyn Observer>,
    registered: watch::Sender<bool>,
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        let info = PluginInfo {
            r#type: PLUGIN_TYPE.to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: SUPPORTED_VERSIONS.map(str::to_owned).to_vec(),
        };
        Call::query("GetInfo", &self.observer).answer(async { Ok(info) }).await
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!(driver = DRIVER, endpoint = self.endpoint, "registered with the kubelet");
        } else {
            tracing::error!(
                driver = DRIVER,
                endpoint = self.endpoint,
                error,
                "the kubelet refused to register the driver: no pod on this node can mount a volume until it does"
            );
        }
        self.registered.send_replace(plugin_registered);
        Call::query("NotifyRegistrationStatus", &self.observer)
            .answer(async { Ok(RegistrationStatusResponse {}) })
            .await
    }
}

/// Offers the driver at `csi_socket` to the kubelet, while this future is polled. The socket stays, so that a
/// restarted kubelet finds it again. After a lasting refusal of the kubelet the socket is made anew. Dropping the
/// future removes the socket.
pub(super) async fn offer_driver(path: &Path, csi_socket: &Path, observer: &Arc<dyn Observer>) -> ServeError {
    let mut pause = FIRST_PAUSE;
    loop {
        let socket = match Socket::bind(path).await {
            Ok(socket) => socket,
            Err(error) => return error,
        };
        let (registered, mut outcomes) = watch::channel(false);
        let service = RegistrationService {
            endpoint: csi_socket.to_string_lossy().into_owned(),
            observer: Arc::clone(observer),
            registered,
        };
        let server =
            Server::builder().add_service(RegistrationServer::new(service)).serve_with_incoming(socket);
        tokio::select! {
            ended = server => return ServeError::ended(ended),
            () = refused_for_good(&mut outcomes, &mut pause) => {}
        }
        tracing::info!(socket = %path.display(), "asking the kubelet to register the driver again");
    }
}

/// Waits for a refusal of the driver that no registration follows within the pause.
async fn refused_for_good(outcomes: &mut watch::Receiver<bool>, pause: &mut Duration) {
    while outcomes.changed().await.is_ok() {
        let registered = *outcomes.borrow_and_update();
        if registered
            || tokio::time::timeout(*pause, outcomes.wait_for(|registered| *registered)).await.is_ok()
        {
            *pause = FIRST_PAUSE;
        } else {
            *pause = LONGEST_PAUSE.min(*pause * 2);
            return;
        }
    }
}
