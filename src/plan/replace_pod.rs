//! The replacement of pods that are older than their ReadOnly claim, on nodes without NRI (M3, F2).
//!
//! Admission adds `readOnly` to a pod that mounts a ReadOnly claim, but not to a pod that is older than the claim. A node
//! without NRI refuses the mount of such a pod for ever. If the pod's controller makes the pod anew, admission adds it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use kube::ResourceExt;

use crate::api::{AccessMode, SharedPersistentVolume, VolumeClaim};

use super::bind;

/// The kinds that make a deleted pod again and count no failure, with the group of their API. A Job counts one.
const CONTROLLERS: [(&str, &str); 4] =
    [("apps", "ReplicaSet"), ("apps", "StatefulSet"), ("apps", "DaemonSet"), ("", "ReplicationController")];

/// The seconds after which admission knows a new claim. A later pod without `readOnly` would come back without.
const ADMISSION_KNOWS: i64 = 10;

/// The event on a pod that is to be deleted, so that its controller makes it again. `None`: the pod stays.
///
/// The pod never ran a container. It is on the volume's node, and mounts one of the claims that are bound to the volume as
/// `ReadOnly` without `readOnly`.
pub fn replaced(volume: &SharedPersistentVolume, claims: &[&VolumeClaim], pod: &Pod) -> Option<String> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let node = volume.status.as_ref()?.node_name.as_ref()?;
    let owner =
        pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let containers =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let waits = pod.metadata.deletion_timestamp.is_none()
        && spec.node_name.as_ref() == Some(node)
        && status.phase.as_deref() == Some("Pending")
        && !containers.into_iter().flatten().flatten().any(has_run)
        && CONTROLLERS.contains(&(group, &owner.kind));
    let made = seconds(pod.metadata.creation_timestamp.as_ref().map(|time| time.0))?;
    let claim = claims.iter().find(|claim| {
        let is_bound = bind::is_bound(volume, claim) && claim.spec.mode == AccessMode::ReadOnly;
        let asked = seconds(claim.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let is_older = asked.is_some_and(|asked| made <= asked + ADMISSION_KNOWS);
        is_bound
            && is_older
            && claim.namespace() == pod.namespace()
            && mounts_writable(pod, &claim.name_any())
    })?;
    waits.then(|| {
        format!(
            "deleted, so that {} {} makes it again: it is older than VolumeClaim {}, which is ReadOnly, and admission adds \
             readOnly: true to a new pod only",
            owner.kind,
            owner.name,
            claim.name_any()
        )
    })
}

fn seconds(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_second)
}

fn mounts_writable(pod: &Pod, claim: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut sources = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    sources.any(|source| source.claim_name == claim && source.read_only != Some(true))
}

fn has_run(container: &ContainerStatus) -> bool {
    let started = |state: &Option<ContainerState>| {
        state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    started(&container.state) || started(&container.last_state) || container.restart_count > 0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::plan::testing::*;

    fn pod() -> Value {
        json!({
            "metadata": {"namespace": "ns", "name": "p", "uid": "uid-p", "creationTimestamp": "1970-01-01T00:00:10Z",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u",
                    "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}],
                "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]},
            "status": {"phase": "Pending", "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]},
        })
    }

    /// F2, M3.
    #[test]
    fn f2_only_a_pod_that_comes_back_right_is_replaced() {
        let mut c = claim("ns", "c", "v");
        c.spec.mode = AccessMode::ReadOnly;
        let mut v = ready_volume("v", "eng", true);
        v.status.as_mut().unwrap().claims = vec![bind::binding(&c)];
        let replaced = |claim: &VolumeClaim, change: &dyn Fn(&mut Value)| {
            let mut pod = pod();
            change(&mut pod);
            replaced(&v, &[claim], &from_value(pod).unwrap())
        };
        let said = replaced(&c, &|_| {}).unwrap();
        assert!(
            said.contains("so that ReplicaSet r makes it again") && said.contains("VolumeClaim c"),
            "{said}"
        );
        let set = |path: &'static str, value: Value| {
            move |pod: &mut Value| *pod.pointer_mut(path).unwrap() = value.clone()
        };
        let state = "/status/containerStatuses/0/state";
        let owner = "/metadata/ownerReferences/0";
        for (path, value) in [
            ("/status/phase", json!("Running")),
            (state, json!({"running": {}})),
            (state, json!({"terminated": {"exitCode": 0}})),
            ("/status/containerStatuses/0/restartCount", json!(1)),
            ("/spec/nodeName", json!("n2")),
            ("/metadata/namespace", json!("other")),
            ("/metadata/ownerReferences", json!([])),
            ("/metadata/ownerReferences/0/kind", json!("Job")),
            (
                owner,
                json!({"apiVersion": "example.com/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}),
            ),
            (owner, json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u"})),
            ("/spec/volumes/0/persistentVolumeClaim", json!({"claimName": "c", "readOnly": true})),
            ("/spec/volumes/0/persistentVolumeClaim/claimName", json!("d")),
            // Admission did not reach a pod that is newer than the claim: it would not reach the next one.
            ("/metadata/creationTimestamp", json!("1970-01-01T00:00:11Z")),
        ] {
            assert_eq!(replaced(&c, &set(path, value.clone())), None, "{path} {value}");
        }
        assert_eq!(
            replaced(&c, &|pod| pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z")),
            None
        );
        let writer = VolumeClaim { spec: crate::api::VolumeClaimSpec::default(), ..c.clone() };
        assert_eq!(replaced(&writer, &|_| {}), None);
        c.metadata.uid = Some("another".into());
        assert_eq!(replaced(&c, &|_| {}), None, "not bound");
    }
}
