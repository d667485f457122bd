//! Files and flags for the processes of the api tier.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::ApiOptions;
use crate::command::Cmd;

pub(super) const ADMIN_KUBECONFIG: &str = "kubeconfig";
pub(super) const AUDIT_LOG: &str = "audit.log";
pub(super) const CERTIFICATE: &str = "pki/apiserver.crt";

const AUDIT_POLICY: &str = "audit-policy.yaml";
const CONTROLLER_MANAGER_KUBECONFIG: &str = "controller-manager.kubeconfig";
const SERVICE_ACCOUNT_KEY: &str = "service-account.key";
const TOKENS: &str = "tokens.csv";

const ADMIN: &str = "admin";
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// Writes the files that the first start needs.
pub(super) fn write_inputs(dir: &Path) -> anyhow::Result<()> {
    let key = dir.join(SERVICE_ACCOUNT_KEY);
    // From "EC PRIVATE KEY", unlike PKCS #8, kube-apiserver takes the public half, too.
    Cmd::new("openssl")
        .args(["ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out"])
        .arg(&key)
        .run()?;
    let tokens = [(ADMIN, "system:masters"), (CONTROLLER_MANAGER, "")]
        .map(|(user, group)| Ok(format!("{},{user},{user},{group}\n", token(dir, user)?)))
        .into_iter()
        .collect::<anyhow::Result<String>>()?;
    fs::write(dir.join(TOKENS), tokens)?;
    fs::write(dir.join(AUDIT_POLICY), crate::AUDIT_POLICY)?;
    Ok(())
}

/// Writes the files that the first client needs, with the certificate that kube-apiserver makes.
pub(super) fn write_kubeconfigs(dir: &Path, port: u16) -> anyhow::Result<()> {
    for (user, file) in [(ADMIN, ADMIN_KUBECONFIG), (CONTROLLER_MANAGER, CONTROLLER_MANAGER_KUBECONFIG)] {
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "api", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": dir.join(CERTIFICATE),
            }}],
            "users": [{"name": user, "user": {"token": token(dir, user)?}}],
            "contexts": [{"name": "api", "context": {"cluster": "api", "user": user}}],
            "current-context": "api",
        });
        fs::write(dir.join(file), serde_json::to_vec_pretty(&kubeconfig)?)?;
    }
    Ok(())
}

pub(super) fn etcd_args(dir: &Path, port: u16) -> Vec<String> {
    vec![
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls=http://127.0.0.1:{port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{port}"),
        "--listen-peer-urls=http://127.0.0.1:0".into(),
        // The data ends with the test, so a wait for the disk is of no use.
        "--unsafe-no-fsync".into(),
    ]
}

pub(super) fn apiserver_args(dir: &Path, etcd_port: u16, port: u16, options: ApiOptions) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut args = vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        // The endpoint of a Service must not be a loopback address. No test uses the Service of the API.
        "--endpoint-reconciler-type=none".into(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", path("pki")),
        format!("--token-auth-file={}", path(TOKENS)),
        "--authorization-mode=RBAC".into(),
        "--allow-privileged=true".into(),
        "--service-cluster-ip-range=10.0.0.0/24".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-signing-key-file={}", path(SERVICE_ACCOUNT_KEY)),
        format!("--service-account-key-file={}", path(SERVICE_ACCOUNT_KEY)),
    ];
    if !options.controller_manager {
        args.push("--disable-admission-plugins=ServiceAccount".into());
    }
    if options.audit {
        args.push(format!("--audit-policy-file={}", path(AUDIT_POLICY)));
        args.push(format!("--audit-log-path={}", path(AUDIT_LOG)));
    }
    args
}

pub(super) fn controller_manager_args(dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    vec![
        format!("--kubeconfig={}", path(CONTROLLER_MANAGER_KUBECONFIG)),
        "--leader-elect=false".into(),
        // Nodes exist in name only. Nobody renews their leases, which must not make them unreachable.
        "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller".into(),
        "--secure-port=0".into(),
        "--use-service-account-credentials=true".into(),
        format!("--service-account-private-key-file={}", path(SERVICE_ACCOUNT_KEY)),
        format!("--root-ca-file={}", path(CERTIFICATE)),
    ]
}

/// A token that no other user of the machine can guess: it is derived from a key that only its owner can read.
fn token(dir: &Path, user: &str) -> anyhow::Result<String> {
    let digest =
        Sha256::new().chain_update(fs::read(dir.join(SERVICE_ACCOUNT_KEY))?).chain_update(user).finalize();
    Ok(format!("{digest:x}"))
}
