//! Two API servers side by side on real binaries.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use reservoir_cluster::api::{ApiOptions, ApiServer};

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_side_by_side() -> anyhow::Result<()> {
    let (first, second) = tokio::try_join!(
        ApiServer::start(ApiOptions { controller_manager: true, audit: true }),
        ApiServer::start(ApiOptions::default()),
    )?;
    let mut second = second;
    let directories = [directory(&first), directory(&second)];
    assert_eq!(directories.each_ref().map(|dir| children_in(dir).len()), [3, 2]);

    create_namespace(&first.client().await?, "one").await?;
    create_namespace(&second.client().await?, "two").await?;
    second.restart_apiserver().await?;
    let namespaces: Api<Namespace> = Api::all(second.client().await?);
    assert!(namespaces.get_opt("two").await?.is_some(), "data outlives a restart");
    assert!(namespaces.get_opt("one").await?.is_none(), "servers share nothing");

    // RBAC decides for an impersonated user.
    let nobody = first.client_as("jane", &["team-a"]).await?;
    let refused = create_namespace(&nobody, "three").await.unwrap_err();
    assert!(refused.to_string().contains(r#"User "jane" cannot create"#), "{refused}");

    // Every write is on record, with its user, and no read of a kind that Reservoir does not read.
    let written = std::fs::read_to_string(first.audit_log())?;
    let line =
        written.lines().find(|line| line.contains(r#""name":"one""#) && line.contains(r#""verb":"create""#));
    assert!(line.is_some_and(|line| line.contains(r#""username":"admin""#)), "{line:?}");
    let mut reads = written.lines().filter(|line| line.contains(r#""verb":"get""#));
    assert!(!reads.any(|line| line.contains(r#""resource":"configmaps""#)));

    // The controller manager is at work.
    let accounts: Api<ServiceAccount> = Api::namespaced(first.client().await?, "default");
    assert!(accounts.get_opt("default").await?.is_some());

    first.stop().await?;
    drop(second);
    for dir in directories {
        assert_eq!(children_in(&dir), Vec::<String>::new());
        assert!(!dir.exists(), "{} is left over", dir.display());
    }
    Ok(())
}

async fn create_namespace(client: &Client, name: &str) -> Result<(), kube::Error> {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let made = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    assert_eq!(made.name_any(), name);
    Ok(())
}

fn directory(server: &ApiServer) -> PathBuf {
    server.kubeconfig_path().parent().unwrap().to_owned()
}

/// The command lines of processes that name `dir`, as all processes of a server do.
fn children_in(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(dir))
        .collect()
}
