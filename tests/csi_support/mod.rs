//! An agent whose volumes are in memory, served on real sockets, and clients as the kubelet would be.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reservoir::csi::proto::csi::identity_client::IdentityClient;
use reservoir::csi::proto::csi::node_client::NodeClient;
use reservoir::csi::proto::csi::volume_capability::access_mode::Mode;
use reservoir::csi::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use reservoir::csi::proto::csi::{NodePublishVolumeRequest, VolumeCapability};
use reservoir::csi::proto::registration::registration_client::RegistrationClient;
use reservoir::csi::{
    Error, Observer, PublishRequest, ServeConfig, ServeError, Stats, Usage, VolumeHandle, Volumes, serve,
};
use tempfile::TempDir;
use tokio::sync::{Barrier, Notify, oneshot};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

pub const VOLUME: &str = "0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03";
pub const CLAIM: &str = "7b21de90-1c4f-4a38-8e6b-d5a09c3f7e12";

pub fn handle() -> String {
    format!("{VOLUME}.{CLAIM}")
}

/// Volumes that are a map and some directories. The key `test` of a volume context selects what a publish does besides.
pub struct Memory {
    pub published: Mutex<BTreeMap<PathBuf, PublishRequest>>,
    pub meeting: Barrier,
    pub entered: Notify,
    pub release: Notify,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            published: Mutex::default(),
            meeting: Barrier::new(2),
            entered: Notify::new(),
            release: Notify::new(),
        }
    }
}

impl Volumes for Memory {
    async fn publish(&self, request: PublishRequest) -> Result<(), Error> {
        match request.volume_context.get("test").map(String::as_str) {
            Some("meet") => {
                self.meeting.wait().await;
            }
            Some("wait") => {
                self.entered.notify_one();
                self.release.notified().await;
            }
            Some("panic") => panic!("as asked"),
            Some("full") => {
                let cause = std::io::Error::from_raw_os_error(28);
                return Err(Error::resource_exhausted("failed to attach the volume", cause));
            }
            _ => {}
        }
        let mut published = self.published.lock().unwrap();
        if let Some(present) = published.get(&request.target) {
            return if *present == request {
                Ok(())
            } else {
                Err(Error::Incompatible("the target is published otherwise".into()))
            };
        }
        if request.volume_context.contains_key("exclusive")
            && published.values().any(|other| other.handle == request.handle)
        {
            return Err(Error::FailedPrecondition("the volume is exclusive and in use".into()));
        }
        std::fs::create_dir_all(&request.target)
            .map_err(|error| Error::unavailable("failed to make the target", error))?;
        published.insert(request.target.clone(), request);
        Ok(())
    }

    async fn unpublish(&self, _: &VolumeHandle, target: &Path) -> Result<(), Error> {
        if self.published.lock().unwrap().remove(target).is_some() {
            std::fs::remove_dir(target)
                .map_err(|error| Error::unavailable("failed to remove the target", error))?;
        }
        Ok(())
    }

    async fn stats(&self, handle: &VolumeHandle, path: &Path) -> Result<Stats, Error> {
        assert_ne!(path, Path::new("/panic"), "as asked");
        match self.published.lock().unwrap().get(path) {
            Some(present) if present.handle == *handle => Ok(Stats {
                bytes: Usage { total: 1 << 30, used: 1 << 20, available: u64::MAX },
                inodes: Some(Usage { total: 1000, used: 11, available: 989 }),
            }),
            _ => Err(Error::NotFound("the volume is not published there".into())),
        }
    }
}

#[derive(Default)]
pub struct Seen(pub Mutex<Vec<(&'static str, Code)>>);

impl Observer for Seen {
    fn finished(&self, method: &'static str, code: Code, _: Duration) {
        self.0.lock().unwrap().push((method, code));
    }
}

pub struct Agent {
    pub volumes: Arc<Memory>,
    pub seen: Arc<Seen>,
    pub config: ServeConfig,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

pub fn config(dir: &TempDir) -> ServeConfig {
    ServeConfig { kubelet_dir: dir.path().to_owned(), node_name: "node-1".into() }
}

impl Agent {
    /// Starts serving and waits until both sockets take connections.
    pub async fn start(dir: &TempDir) -> Self {
        let (volumes, seen) = (Arc::new(Memory::default()), Arc::new(Seen::default()));
        let (stop, stopped) = oneshot::channel();
        let observer = Arc::clone(&seen);
        let serving = serve(config(dir), Arc::clone(&volumes), observer, async { stopped.await.unwrap() });
        let agent = Self { volumes, seen, config: config(dir), stop, task: tokio::spawn(serving) };
        for socket in [agent.config.csi_socket(), agent.config.registration_socket()] {
            until("the agent listens", async || tokio::net::UnixStream::connect(&socket).await.is_ok()).await;
        }
        agent
    }

    pub async fn stop(self) -> Result<(), ServeError> {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }

    pub async fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(connect(&self.config.csi_socket()).await)
    }

    pub async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(connect(&self.config.csi_socket()).await)
    }

    pub async fn registration(&self) -> RegistrationClient<Channel> {
        RegistrationClient::new(connect(&self.config.registration_socket()).await)
    }
}

async fn connect(socket: &Path) -> Channel {
    endpoint(socket).connect().await.unwrap()
}

pub fn endpoint(socket: &Path) -> Endpoint {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap()
}

/// Waits until a condition holds, and fails after ten seconds.
pub async fn until(what: &str, so: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("timed out: {what}");
}

pub fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

pub fn pod_context() -> [(String, String); 5] {
    [
        ("csi.storage.k8s.io/pod.uid", "5a9d2c14-3b7e-4f60-a1c8-9e0d7b6f5432"),
        ("csi.storage.k8s.io/pod.namespace", "team-a"),
        ("csi.storage.k8s.io/pod.name", "reader-0"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ("csi.storage.k8s.io/ephemeral", "false"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
}

/// The kubelet's request for a pod with a ReadWriteMany claim.
pub fn publish_request(target: &Path) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: handle(),
        target_path: target.display().to_string(),
        volume_capability: Some(capability(Mode::MultiNodeMultiWriter)),
        volume_context: pod_context().into(),
        ..Default::default()
    }
}
