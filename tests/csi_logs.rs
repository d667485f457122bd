//! The log of a call, which has one line and no secret. A process of its own: the log is the process's.

mod csi_support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use csi_support::{Agent, handle, publish_request};
use reservoir::csi::proto::csi::volume_capability::{AccessType, MountVolume};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// S17. Tokens of pods in the log: CVE-2023-2878, CVE-2024-3744.
#[tokio::test]
async fn cve_2023_2878_cve_2024_3744_a_call_logs_one_line_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut node = agent.node().await;
    let mut request = publish_request(&dir.path().join("mount"));
    request.secrets.insert("password".into(), "SECRET-1".into());
    request.publish_context.insert("key".into(), "SECRET-2".into());
    request.volume_context.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), "SECRET-3".into());
    node.node_publish_volume(request.clone()).await.unwrap();
    request.volume_context.insert("test".into(), "full".into());
    node.node_publish_volume(request.clone()).await.unwrap_err();
    let mount = MountVolume { volume_mount_group: "SECRET-4".into(), ..Default::default() };
    request.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Mount(mount));
    node.node_publish_volume(request.clone()).await.unwrap_err();
    request.volume_id = "forged\n2026-01-01 INFO all is well".into();
    node.node_publish_volume(request).await.unwrap_err();
    agent.stop().await.unwrap();

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("SECRET"), "a secret was logged");
    let lines: Vec<&str> =
        text.lines().filter(|line| line.contains("method=\"NodePublishVolume\"")).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(!text.lines().any(|line| line.starts_with("2026-01-01 INFO")), "a line was forged");
    for (line, parts) in lines.iter().zip([
        ["INFO", "code=Ok", "ms="],
        ["WARN", "code=ResourceExhausted", "No space left on device"],
        ["WARN", "code=InvalidArgument", "does not have the capability VOLUME_MOUNT_GROUP"],
        ["WARN", "code=InvalidArgument", "handle=\"forged\\n2026"],
    ]) {
        for part in parts {
            assert!(line.contains(part), "{part:?} is missing in {line:?}");
        }
    }
    assert!(lines[0].contains(&handle()) && lines[0].contains("/mount"));
}
