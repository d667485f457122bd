//! Sockets and registration, as the kubelet's plugin watcher meets them from start to stop.

mod csi_support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use csi_support::{Agent, Memory, Seen, config, endpoint, until};
use reservoir::csi::proto::csi::ProbeRequest;
use reservoir::csi::proto::registration::registration_client::RegistrationClient;
use reservoir::csi::proto::registration::{InfoRequest, RegistrationStatus};
use reservoir::csi::{ServeConfig, ServeError, serve};
use tempfile::TempDir;
use tonic::Code;

/// Serves until it fails, which it must.
async fn failure(config: ServeConfig) -> ServeError {
    let serving =
        serve(config, Arc::new(Memory::default()), Arc::new(Seen::default()), std::future::pending());
    tokio::time::timeout(Duration::from_secs(10), serving).await.expect("did not fail").unwrap_err()
}

fn socket_file(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Dropping a listener leaves its file, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
}

/// kubernetes 108254, hyperium/h2 487. The kubelet dials the path; its gRPC library (grpc-go, `encodeAuthority`) sends the
/// path as `:authority` with all but these characters percent-encoded.
#[tokio::test]
async fn kubernetes_108254_the_path_is_a_valid_authority() {
    let dir = TempDir::new().unwrap();
    let agent = Agent::start(&dir).await;
    let socket = agent.config.registration_socket();
    let stays = |c: char| c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]@".contains(c);
    let encode = |c: char| if stays(c) { c.to_string() } else { format!("%{:02X}", c as u32) };
    let authority: String = socket.to_str().unwrap().chars().map(encode).collect();
    assert!(authority.starts_with("%2F"), "{authority}");
    let origin = format!("http://{authority}").parse().unwrap();
    let kubelet = endpoint(&socket).origin(origin).connect().await.unwrap();
    RegistrationClient::new(kubelet).get_info(InfoRequest {}).await.unwrap();
    agent.stop().await.unwrap();
}

/// M5: the kubelet keeps a driver under the path that it registered first.
#[tokio::test]
async fn m5_the_socket_of_a_killed_earlier_agent_goes() {
    let dir = TempDir::new().unwrap();
    let registry = dir.path().join("plugins_registry");
    fs::create_dir_all(&registry).unwrap();
    let former = registry.join("csi.reservoir.dev-reg.sock");
    drop(std::os::unix::net::UnixListener::bind(&former).unwrap());
    let agent = Agent::start(&dir).await;
    assert!(!former.exists());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn the_kubelet_gets_the_drivers_name_and_socket() {
    let dir = TempDir::new().unwrap();
    let agent = Agent::start(&dir).await;
    let mut kubelet = agent.registration().await;
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.r#type, "CSIPlugin");
    assert_eq!(info.name, "csi.reservoir.dev");
    assert_eq!(Path::new(&info.endpoint), agent.config.csi_socket());
    assert!(info.endpoint.ends_with("/plugins/csi.reservoir.dev/csi.sock"), "{}", info.endpoint);
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let registered = RegistrationStatus { plugin_registered: true, error: String::new() };
    kubelet.notify_registration_status(registered).await.unwrap();
    let seen = agent.seen.0.lock().unwrap().clone();
    assert_eq!(seen, [("GetInfo", Code::Ok), ("NotifyRegistrationStatus", Code::Ok)]);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_refused_driver_is_offered_to_the_kubelet_again() {
    let dir = TempDir::new().unwrap();
    let agent = Agent::start(&dir).await;
    let made = || {
        fs::metadata(agent.config.registration_socket()).ok().map(|found| (found.ino(), found.ctime_nsec()))
    };
    let refused = || RegistrationStatus { plugin_registered: false, error: "not now".into() };
    let registered = RegistrationStatus { plugin_registered: true, error: String::new() };

    // The kubelet's own next try succeeds: the socket stays.
    let first = made();
    agent.registration().await.notify_registration_status(refused()).await.unwrap();
    agent.registration().await.notify_registration_status(registered).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(made(), first);

    agent.registration().await.notify_registration_status(refused()).await.unwrap();
    until("the socket is made anew", async || made().is_some_and(|now| Some(now) != first)).await;
    agent.registration().await.get_info(InfoRequest {}).await.unwrap();
    agent.identity().await.probe(ProbeRequest {}).await.unwrap();
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn sockets_are_private_and_gone_after_a_stop() {
    let dir = TempDir::new().unwrap();
    let agent = Agent::start(&dir).await;
    let sockets = [agent.config.csi_socket(), agent.config.registration_socket()];
    for socket in &sockets {
        assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o750);
    }
    agent.stop().await.unwrap();
    assert!(!sockets.iter().any(|socket| socket.exists()));
}

#[tokio::test]
async fn sockets_left_by_a_crash_are_replaced() {
    let dir = TempDir::new().unwrap();
    socket_file(&config(&dir).csi_socket());
    socket_file(&config(&dir).registration_socket());
    let agent = Agent::start(&dir).await;
    agent.registration().await.get_info(InfoRequest {}).await.unwrap();
    agent.identity().await.probe(ProbeRequest {}).await.unwrap();
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_file_in_place_of_a_socket_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    for path in [config.csi_socket(), config.registration_socket()] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "somebody's").unwrap();
        let error = failure(config.clone()).await;
        assert!(matches!(&error, ServeError::Foreign { path: named } if *named == path), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
        fs::remove_file(&path).unwrap();

        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(matches!(failure(config.clone()).await, ServeError::Foreign { .. }));
        fs::remove_file(&path).unwrap();
    }
    assert!(!config.csi_socket().exists(), "a failed start leaves no socket");
}

#[tokio::test]
async fn a_second_agent_leaves_the_sockets_to_the_first() {
    let dir = TempDir::new().unwrap();
    let agent = Agent::start(&dir).await;
    let error = failure(config(&dir)).await;
    assert_eq!(
        error.to_string(),
        format!("another process answers on {}", agent.config.csi_socket().display())
    );
    agent.identity().await.probe(ProbeRequest {}).await.unwrap();
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_leaves_the_socket_of_the_next_agent() {
    let dir = TempDir::new().unwrap();
    let agent = Agent::start(&dir).await;
    let csi_socket = agent.config.csi_socket();
    fs::remove_file(&csi_socket).unwrap();
    socket_file(&csi_socket);
    agent.stop().await.unwrap();
    assert!(csi_socket.exists());
}

#[tokio::test]
async fn a_socket_path_that_is_too_long_is_an_error() {
    let dir = TempDir::new().unwrap();
    let mut config = config(&dir);
    config.kubelet_dir = dir.path().join("long".repeat(40));
    assert!(matches!(failure(config).await, ServeError::Listen { .. }));
}
