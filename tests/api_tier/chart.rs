//! The API server accepts every object of the chart, with the strictness of `kubectl apply --validate=strict`.

use kube::ResourceExt;
use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use reservoir_cluster::chart;
use reservoir_cluster::programs::Release;
use serde::Deserialize;

use crate::support::*;

/// Every object that the chart can make, including the Prometheus Operator's kinds and helm test's objects.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_accepts_every_object_of_the_chart() {
    let cluster = Cluster::bare(Default::default()).await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: reservoir-system}}").await;
    for crd in chart::operator_kinds().unwrap() {
        cluster.apply_text(&crd).await;
    }
    let values = [
        "monitoring.podMonitor.enabled=true",
        "monitoring.alerts.enabled=true",
        "monitoring.dashboard.enabled=true",
        "networkPolicy.enabled=true",
        "networkPolicy.from[0].namespaceSelector.matchLabels.name=monitoring",
        "imagePullSecrets[0].name=registry",
        "commonLabels.team=storage",
        "commonAnnotations.note=mine",
        "agent.disks[0].name=a",
        "agent.disks[0].path=/a",
        "agent.disks[0].adoptRoots[0]=/srv",
        "agent.disks[0].allowUnenforced=true",
        "agent.disks[1].name=b",
        "agent.disks[1].path=/b",
        "agent.disks[1].backing=Btrfs",
        "agent.disks[2].name=c",
        "agent.disks[2].path=/dev/c",
        "agent.disks[2].kind=Block",
        // Where admission does not write it.
        "test.principal=admin",
        "storageClasses[0].name=eng",
        "storageClasses[0].role=eng",
        "storageClasses[0].shared=true",
        "storageClasses[0].fsType=xfs",
        "storageClasses[0].reservation=eng",
        "storageClasses[0].reclaimPolicy=Retain",
        "storageClasses[0].volumeBindingMode=Immediate",
        "storageClasses[0].default=true",
        "storageClasses[0].namespaces={team-a,team-b}",
    ];
    let version = Release::chosen().and_then(Release::version).unwrap();
    let text = chart::render_on(&["--kube-version", version], &values).unwrap();
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let Some(object) = Option::<DynamicObject>::deserialize(document).unwrap() else { continue };
        let kind = object.types.as_ref().unwrap().kind.clone();
        let params = PatchParams {
            dry_run: true,
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply("helm").force()
        };
        // The API server serves the operator's kinds a moment after their creation.
        let name = object.name_any();
        until(&format!("{kind} {name} is taken"), || async {
            match cluster.untyped(&object).patch(&name, &params, &Patch::Apply(&object)).await {
                Ok(_) => Some(()),
                Err(kube::Error::Api(status)) if status.code == 404 => None,
                Err(error) => panic!("{kind} {name}: {error}"),
            }
        })
        .await;
        *kinds.entry(kind).or_default() += 1;
    }
    for kind in [
        "Deployment",
        "DaemonSet",
        "PodMonitor",
        "PrometheusRule",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Pod",
    ] {
        assert_eq!(kinds.get(kind), Some(&1), "{kinds:?}");
    }
    assert_eq!(kinds["CustomResourceDefinition"], reservoir::api::crds().len());
}
