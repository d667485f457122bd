//! The plug-in: registration, and the runtime's questions.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use super::connection::{Connection, Message, PLUGIN, REQUEST, RESPONSE, RUNTIME};
use super::proto::{
    ConfigureResponse, ContainerAdjustment, CreateContainerRequest, CreateContainerResponse, Mount,
    RegisterPluginRequest, Request, Response, Status, SynchronizeRequest, SynchronizeResponse,
};

/// The pause before the next attempt to connect.
const PAUSE: Duration = Duration::from_secs(2);
/// The time in which a restarted runtime or agent is connected again.
const RESTART: Duration = Duration::from_secs(10);
/// The event `CREATE_CONTAINER` in the mask of events.
const CREATE_CONTAINER: i32 = 1 << 3;
/// `Unimplemented` of google.rpc.Code.
const UNIMPLEMENTED: i32 = 12;
/// `Unavailable` of google.rpc.Code. The kubelet repeats a container that could not be created, also where the pod's
/// `restartPolicy` is `Never`; one that was created and cannot start is the end of such a pod.
const UNAVAILABLE: i32 = 14;

/// Decides on the mounts of new containers.
pub trait Mounts: Send + Sync {
    /// The mounts that replace others, by their destination; `None`: nobody knows at the moment. The answer has to be there
    /// within two seconds.
    fn replaced(&self, mounts: Vec<Mount>) -> impl Future<Output = Option<Vec<Mount>>> + Send;
}

/// True while the runtime asks the plug-in about each new container.
#[derive(Clone, Debug)]
pub struct Connected(Arc<(AtomicBool, Mutex<Instant>)>);

impl Default for Connected {
    fn default() -> Self {
        Self(Arc::new((AtomicBool::new(false), Mutex::new(Instant::now()))))
    }
}

impl Connected {
    /// The present state.
    pub fn get(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }

    /// True if there has been no connection for longer than a restart of the runtime, or of the agent, takes.
    pub fn is_absent(&self) -> bool {
        !self.get() && self.0.1.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > RESTART
    }

    /// Sets the state; returns the state before.
    fn set(&self, now: bool) -> bool {
        let before = self.0.0.swap(now, Ordering::SeqCst);
        if before && !now {
            *self.0.1.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        before
    }
}

/// Connects to the runtime, again and again. A node without the socket is fine.
pub async fn keep_connected(socket: &Path, connected: &Connected, mounts: &impl Mounts) {
    let mut told = String::new();
    loop {
        let ended = match UnixStream::connect(socket).await {
            Ok(stream) => serve(stream, connected, mounts).await,
            Err(error) => Err(error),
        };
        let was_connected = connected.set(false);
        let why = ended.err().map_or_else(String::new, |error| error.to_string());
        if was_connected || why != told {
            tracing::info!(socket = %socket.display(), why, "the container runtime asks about no containers");
            told = why;
        }
        // The runtime closes the connection after a late answer, and until the next one it asks about no container.
        if !was_connected {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Serves one connection to its end.
async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    connected: &Connected,
    mounts: &impl Mounts,
) -> io::Result<()> {
    let mut connection = Connection::new(socket);
    // The index orders plug-ins: the last one has the last word on a mount.
    let register = RegisterPluginRequest { plugin_name: "reservoir".into(), plugin_idx: "90".into() };
    let request = Request {
        service: "nri.pkg.api.v1alpha1.Runtime".into(),
        method: "RegisterPlugin".into(),
        payload: register.encode_to_vec(),
    };
    let data = request.encode_to_vec();
    connection.send(&Message { connection: RUNTIME, stream: 1, kind: REQUEST, data }).await?;
    loop {
        let message = connection.receive().await?;
        match (message.connection, message.kind) {
            (RUNTIME, RESPONSE) => {
                let status = Response::decode(&*message.data)?.status.unwrap_or_default();
                if status.code != 0 {
                    return Err(io::Error::other(format!("refused by the runtime: {}", status.message)));
                }
            }
            (PLUGIN, REQUEST) => {
                let request = Request::decode(&*message.data)?;
                let is_last =
                    request.method == "Synchronize" && !SynchronizeRequest::decode(&*request.payload)?.more;
                let data = answer(request, mounts).await?.encode_to_vec();
                connection.send(&Message { connection: PLUGIN, kind: RESPONSE, data, ..message }).await?;
                if is_last && !connected.set(true) {
                    tracing::info!("the container runtime asks about each new container");
                }
            }
            _ => {}
        }
    }
}

async fn answer(request: Request, mounts: &impl Mounts) -> io::Result<Response> {
    let payload = match request.method.as_str() {
        "Configure" => ConfigureResponse { events: CREATE_CONTAINER }.encode_to_vec(),
        "Synchronize" => {
            let more = SynchronizeRequest::decode(&*request.payload)?.more;
            SynchronizeResponse { more }.encode_to_vec()
        }
        "CreateContainer" => {
            let container = CreateContainerRequest::decode(&*request.payload)?.container.unwrap_or_default();
            let namespaces = container.linux.unwrap_or_default().namespaces;
            let Some(mut replaced) = mounts.replaced(container.mounts).await else {
                let message = "the mounts of the container's volumes could not be looked at in time".into();
                return Ok(Response { status: Some(Status { code: UNAVAILABLE, message }), payload: vec![] });
            };
            if namespaces.iter().any(|namespace| namespace.r#type == "user") {
                // The kubelet maps the users of each volume of such a pod, and NRI's mounts have no mapping. With this
                // option the runtime uses the mapping of the container, which is the same one.
                replaced.iter_mut().for_each(|mount| mount.options.push("idmap".into()));
            }
            let adjust = (!replaced.is_empty()).then_some(ContainerAdjustment { mounts: replaced });
            CreateContainerResponse { adjust }.encode_to_vec()
        }
        "Shutdown" => vec![],
        method => {
            let message = format!("method {method} is not implemented");
            let status = Some(Status { code: UNIMPLEMENTED, message });
            return Ok(Response { status, payload: vec![] });
        }
    };
    Ok(Response { status: None, payload })
}

#[cfg(test)]
mod tests {
    use super::super::proto::{Container, LinuxContainer, LinuxNamespace};
    use super::*;

    /// V10: whatever the runtime sends, the connection is served or ends with an error.
    #[test]
    fn fuzz_frames_of_the_runtime() {
        use futures::FutureExt;
        let frame = |method: &str, payload: Vec<u8>| {
            let data = Request { service: "s".into(), method: method.into(), payload }.encode_to_vec();
            let message = [&(data.len() as u32).to_be_bytes()[..], &[0, 0, 0, 7, REQUEST, 0], &data].concat();
            [&PLUGIN.to_be_bytes()[..], &(message.len() as u32).to_be_bytes(), &message].concat()
        };
        let mounts = vec![Mount { destination: "/a".into(), ..Default::default() }];
        let container = Container { mounts, ..Default::default() };
        let create = CreateContainerRequest { container: Some(container) };
        let seeds = [
            frame("Configure", vec![]),
            frame("Synchronize", SynchronizeRequest { more: true }.encode_to_vec()),
            frame("CreateContainer", create.encode_to_vec()),
        ];
        let together = seeds.concat();
        let [a, b, c] = &seeds;
        crate::fuzz::fuzz("nri-frames", &[a, b, c, &together], |bytes| {
            let (mut answers, connected) = (Vec::new(), Connected::default());
            let ended = serve(tokio::io::join(bytes, &mut answers), &connected, &ReadOnly).now_or_never();
            // Nothing is waited for: the bytes end.
            let error = ended.expect("it waits for nothing").unwrap_err();
            (crate::fuzz::words(error), connected.get(), answers.len())
        });
    }

    /// Makes every mount read-only, and does not know about mounts without a destination.
    struct ReadOnly;

    impl Mounts for ReadOnly {
        async fn replaced(&self, mounts: Vec<Mount>) -> Option<Vec<Mount>> {
            let read_only = |mount: Mount| {
                (!mount.destination.is_empty()).then(|| Mount { options: vec!["ro".into()], ..mount })
            };
            mounts.into_iter().map(read_only).collect()
        }
    }

    /// The runtime's side of a connection.
    struct Runtime(Connection<tokio::io::DuplexStream>);

    impl Runtime {
        async fn ask(&mut self, method: &str, payload: Vec<u8>) -> Response {
            let service = "nri.pkg.api.v1alpha1.Plugin".into();
            let data = Request { service, method: method.into(), payload }.encode_to_vec();
            let asked = Message { connection: PLUGIN, stream: 3, kind: REQUEST, data };
            self.0.send(&asked).await.unwrap();
            let answered = self.0.receive().await.unwrap();
            assert_eq!((answered.connection, answered.stream, answered.kind), (PLUGIN, 3, RESPONSE));
            Response::decode(&*answered.data).unwrap()
        }
    }

    fn container(namespace: &str) -> CreateContainerRequest {
        let mount = Mount { destination: "/d".into(), options: vec!["rw".into()], ..Mount::default() };
        let namespaces = vec![LinuxNamespace { r#type: namespace.into() }];
        let linux = Some(LinuxContainer { namespaces });
        CreateContainerRequest { container: Some(Container { mounts: vec![mount], linux }) }
    }

    #[tokio::test]
    async fn m3_the_runtime_is_told_the_mounts_of_a_container() {
        let (socket, peer) = tokio::io::duplex(1 << 16);
        let connected = Connected::default();
        let served = tokio::spawn({
            let connected = connected.clone();
            async move { serve(socket, &connected, &ReadOnly).await }
        });
        let mut runtime = Runtime(Connection::new(peer));
        let registered = runtime.0.receive().await.unwrap();
        assert_eq!((registered.connection, registered.stream, registered.kind), (RUNTIME, 1, REQUEST));
        let request = Request::decode(&*registered.data).unwrap();
        assert_eq!((&*request.service, &*request.method), ("nri.pkg.api.v1alpha1.Runtime", "RegisterPlugin"));
        assert_eq!(request.payload, b"\x0a\x09reservoir\x12\x0290");
        runtime.0.send(&Message { kind: RESPONSE, data: vec![], ..registered }).await.unwrap();

        assert_eq!(runtime.ask("Configure", vec![]).await.payload, b"\x10\x08", "CREATE_CONTAINER");
        let more = SynchronizeRequest { more: true }.encode_to_vec();
        assert_eq!(runtime.ask("Synchronize", more).await.payload, b"\x10\x01");
        assert!(!connected.get());
        assert_eq!(runtime.ask("Synchronize", vec![]).await.payload, b"");
        let asked = container("mount").encode_to_vec();
        let told = runtime.ask("CreateContainer", asked).await.payload;
        assert_eq!(told, b"\x0a\x0a\x1a\x08\x0a\x02/d\x22\x02ro");
        assert!(connected.get());
        let asked = container("user").encode_to_vec();
        let told = runtime.ask("CreateContainer", asked).await.payload;
        let adjusted = CreateContainerResponse::decode(&*told).unwrap().adjust.unwrap();
        assert_eq!(adjusted.mounts[0].options, ["ro", "idmap"]);
        assert_eq!(runtime.ask("CreateContainer", vec![]).await.payload, b"", "no mounts, no adjustment");
        let unknown = Some(Container { mounts: vec![Mount::default()], linux: None });
        let asked = CreateContainerRequest { container: unknown }.encode_to_vec();
        assert_eq!(runtime.ask("CreateContainer", asked).await.status.unwrap().code, UNAVAILABLE);
        assert_eq!(runtime.ask("Surprise", vec![]).await.status.unwrap().code, UNIMPLEMENTED);
        drop(runtime);
        assert!(served.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn m3_a_refused_plugin_is_not_connected() {
        let (socket, peer) = tokio::io::duplex(1 << 16);
        let connected = Connected::default();
        let refuse = async {
            let mut runtime = Connection::new(peer);
            let registered = runtime.receive().await.unwrap();
            let status = Some(Status { code: 3, message: "no".into() });
            let data = Response { status, payload: vec![] }.encode_to_vec();
            runtime.send(&Message { kind: RESPONSE, data, ..registered }).await.unwrap();
        };
        let (ended, ()) = tokio::join!(serve(socket, &connected, &ReadOnly), refuse);
        assert_eq!(ended.unwrap_err().to_string(), "refused by the runtime: no");
        assert!(!connected.get());
    }
}
