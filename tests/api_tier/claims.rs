//! Claims whose PersistentVolumeClaim somebody deletes: both come back by themselves (C5, L1).

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use reservoir::api::{NodeDisk, SharedPersistentVolume};

use crate::support::{Agent, Cluster, until_gone, until_reason};

const TEAM: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 64Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data},
 spec: {role: eng, size: 32Mi, shared: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
";

fn claim(name: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: team}},
        spec: {{role: eng, volume: data}}}}"
    )
}

/// C5, L1: many times over, since the claim, its PersistentVolume and Kubernetes' own controllers race each time.
#[tokio::test(flavor = "multi_thread")]
async fn l1_a_deleted_persistent_volume_claim_comes_back() {
    const CLAIMS: usize = 8;
    const ROUNDS: usize = 10;
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let _agent = Agent::start(&cluster, "n1", "128Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(TEAM).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team");
    let phase = async |name: &str| {
        let pvc = pvcs.get_opt(name).await.unwrap()?;
        Some((pvc.uid()?, pvc.status?.phase?))
    };
    let rounds = (0..CLAIMS).map(|i| {
        let (cluster, pvcs, phase) = (&cluster, &pvcs, &phase);
        async move {
            let name = format!("c{i}");
            cluster.apply_text(&claim(&name)).await;
            let mut slowest = Duration::ZERO;
            let mut old = None;
            for round in 0..=ROUNDS {
                let started = Instant::now();
                loop {
                    match phase(&name).await {
                        Some((uid, phase)) if phase == "Bound" && old.as_ref() != Some(&uid) => {
                            old = Some(uid);
                            break;
                        }
                        seen => assert!(
                            started.elapsed() < Duration::from_secs(40),
                            "{name}, round {round}: {seen:?}"
                        ),
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                slowest = slowest.max(started.elapsed());
                if round < ROUNDS {
                    pvcs.delete(&name, &DeleteParams::default()).await.unwrap();
                }
            }
            slowest
        }
    });
    let slowest = futures::future::join_all(rounds).await;
    println!("{} deletions, the slowest came back after {:?}", CLAIMS * ROUNDS, slowest.iter().max());
    let claims: Api<reservoir::api::VolumeClaim> = cluster.within("team");
    for i in 0..CLAIMS {
        until_reason(&claims, &format!("c{i}"), "Bound").await;
    }
    claims.delete("c0", &DeleteParams::default()).await.unwrap();
    until_gone(&pvcs, "c0").await;
}
