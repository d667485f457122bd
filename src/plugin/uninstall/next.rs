//! The next step of an uninstallation, from what is there (F5).

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ApiResource;
use kube::core::GroupVersionKind;
use kube::{Resource, ResourceExt};

use crate::api::{DRIVER, DiskReservation, GROUP, LABEL_MANAGED_BY, MANAGED_BY, SharedPersistentVolume};
use crate::cluster;
use crate::plan::{kept, kept_on_disk, names};
use crate::plugin::doctor::{Facts, is_policy_of_the_chart};
use crate::plugin::snapshot::Snapshot;

/// The fate of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Keep,
    Erase,
}

/// The installation, as it was read.
#[derive(Default)]
pub(super) struct Installed {
    pub facts: Facts,
    pub persistent_volumes: Vec<PersistentVolume>,
    pub capacities: Vec<CSIStorageCapacity>,
}

/// An object that goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    pub resource: ApiResource,
    pub namespace: Option<String>,
    pub name: String,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Fail: somebody else has to act first.
    First(String),
    /// Delete these objects as anybody would, and wait until they are gone: Reservoir erases. Then look again.
    Delete(Vec<Object>),
    /// Make these volumes, each of which erases kept data (X8), and wait until they are gone. Then look again.
    EraseKept(Vec<SharedPersistentVolume>),
    /// End well: the data is erased, and the message has the next command.
    Then(String),
    /// Remove these objects in this order, without a deletion that anybody carries out.
    Remove(Vec<Object>),
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = &self.resource.kind;
        match &self.namespace {
            Some(namespace) => write!(f, "{kind} {namespace}/{}", self.name),
            None => write!(f, "{kind} {}", self.name),
        }
    }
}

pub(super) fn object<K: Resource<DynamicType = ()>>(object: &K) -> Object {
    Object {
        resource: ApiResource::erase::<K>(&()),
        namespace: object.meta().namespace.clone(),
        name: object.name_any(),
    }
}

fn objects<'a, K: Resource<DynamicType = ()> + 'a>(all: impl IntoIterator<Item = &'a K>) -> Vec<Object> {
    all.into_iter().map(object).collect()
}

/// The next step.
pub(super) fn next(data: Data, installed: &Installed, now: Timestamp) -> Step {
    let facts = &installed.facts;
    let snapshot = &facts.snapshot;
    let claims =
        snapshot.claims.iter().map(|claim| (claim.namespace().unwrap_or_default(), claim.name_any()));
    let of_classes = snapshot.pvcs.iter().filter(|pvc| snapshot.made_for(pvc).is_some());
    let of_classes = of_classes.map(|pvc| (pvc.namespace().unwrap_or_default(), pvc.name_any()));
    let claims: BTreeSet<(String, String)> = claims.chain(of_classes).collect();
    let users: Vec<String> = claims
        .iter()
        .flat_map(|claim| {
            // A pod that is being deleted is there until the kubelet has unmounted its volumes, whatever its phase.
            let uses = |pod: &&Pod| {
                (!cluster::is_terminal(pod) || pod.metadata.deletion_timestamp.is_some())
                    && cluster::claims_of(pod).contains(claim)
            };
            let users = snapshot.pods.iter().filter(uses);
            users.map(|pod| cluster::pod_ref(pod).to_string()).collect::<Vec<_>>()
        })
        .collect();
    if !users.is_empty() {
        let first = match facts.agents.as_deref() {
            Some([]) => "no agent is there: install the chart again; then ",
            _ => "",
        };
        return Step::First(format!(
            "volumes are used by pod {}, and the kubelet needs Reservoir's agent to end the use: {first}delete the pods, or \
             scale their workloads down, and run this again",
            names(&users, users.len())
        ));
    }
    let uninstall = facts.controllers.iter().flatten().next().map(|controller| {
        let namespace = controller.namespace().unwrap_or_default();
        let release = controller.labels().get("app.kubernetes.io/instance");
        format!("helm uninstall {} --namespace {namespace}", release.map_or("reservoir", String::as_str))
    });
    let held = erased(installed).into_iter().find(|stage| !stage.is_empty()).unwrap_or_default();
    let kept = kept_data(snapshot, now);
    match (data, uninstall) {
        (Data::Keep, Some(command)) => Step::First(format!(
            "Reservoir still runs: {command}; nothing is erased by that; then run this again"
        )),
        (Data::Erase, None) if !held.is_empty() => Step::First(format!(
            "{} still there, and nobody erases while Reservoir does not run: install the chart again, or use --keep-data",
            names(&held, held.len())
        )),
        // A reservation with kept data is not deleted.
        (Data::Erase, Some(_))
            if snapshot.claims.is_empty() && snapshot.volumes.is_empty() && !kept.is_empty() =>
        {
            Step::EraseKept(kept)
        }
        (Data::Erase, Some(_)) if !held.is_empty() => Step::Delete(held),
        (Data::Erase, Some(command)) => {
            Step::Then(format!("the data is erased; next: {command}; then run this again"))
        }
        (_, None) => Step::Remove(rest(installed)),
    }
}

/// The objects of an erasure: PersistentVolumeClaims of StorageClasses, claims, volumes, reservations. Each stage ends before the next
/// can.
pub(super) fn erased(installed: &Installed) -> [Vec<Object>; 4] {
    let snapshot = &installed.facts.snapshot;
    let of_class =
        |pvc: &&k8s_openapi::api::core::v1::PersistentVolumeClaim| snapshot.made_for(pvc).is_some();
    // Agents and templates make theirs anew, until the chart goes (R2, R7).
    let is_own =
        |reservation: &&DiskReservation| !reservation.spec.is_static && reservation.spec.template.is_none();
    let reservations = snapshot.reservations.iter().filter(is_own);
    [
        objects(snapshot.pvcs.iter().filter(of_class)),
        objects(&snapshot.claims),
        objects(&snapshot.volumes),
        objects(reservations),
    ]
}

/// The volumes that erase the kept data.
fn kept_data(snapshot: &Snapshot, now: Timestamp) -> Vec<SharedPersistentVolume> {
    let of = |reservation: &DiskReservation| {
        let kept = reservation.status.as_ref().map(kept::entries).unwrap_or_default();
        let erasing = kept.into_iter().filter_map(|(entry, _)| kept::erasing(entry, reservation, now).ok());
        erasing.collect::<Vec<_>>()
    };
    let listed = snapshot.reservations.iter().flat_map(of);
    let unlisted = kept_on_disk::unlisted(&snapshot.disks, &snapshot.reservations, &snapshot.volumes);
    let unlisted =
        unlisted.iter().filter_map(|data| kept::erasing(&data.entry, data.reservation().ok()?, now).ok());
    listed.chain(unlisted).collect()
}

/// Everything of Reservoir. The policies are first, since they guard the others; the kinds are last.
fn rest(installed: &Installed) -> Vec<Object> {
    let (facts, snapshot) = (&installed.facts, &installed.facts.snapshot);
    let policies = facts.policies.iter().flat_map(|(kind, found)| {
        let ours = |name: &&String| is_policy_of_the_chart(kind, name);
        found.iter().flatten().filter(ours).map(|name| {
            let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
            let plural = kind.to_lowercase().replace("policybinding", "policybindings");
            let plural = if kind.ends_with('y') { plural.replace("policy", "policies") } else { plural };
            Object {
                resource: ApiResource::from_gvk_with_plural(&gvk, &plural),
                namespace: None,
                name: name.clone(),
            }
        })
    });
    let kinds =
        facts.crds.iter().flatten().filter(|kind: &&CustomResourceDefinition| kind.spec.group == GROUP);
    [
        policies.collect(),
        objects(&snapshot.claims),
        objects(&snapshot.offers),
        objects(&snapshot.subscriptions),
        objects(&snapshot.volumes),
        objects(&snapshot.reservations),
        objects(&snapshot.roles),
        objects(&snapshot.disks),
        objects(installed.persistent_volumes.iter().filter(|pv| is_ours(pv))),
        objects(
            installed
                .capacities
                .iter()
                .filter(|c| c.labels().get(LABEL_MANAGED_BY).is_some_and(|by| by == MANAGED_BY)),
        ),
        objects(kinds),
    ]
    .concat()
}

fn is_ours(pv: &PersistentVolume) -> bool {
    pv.spec.as_ref().and_then(|spec| spec.csi.as_ref()).is_some_and(|csi| csi.driver == DRIVER)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::{from_value, json};

    use super::*;
    use crate::api::TemplateRef;
    use crate::plan::testing::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn controller() -> Option<Vec<Deployment>> {
        let labels = json!({"app.kubernetes.io/instance": "storage"});
        let metadata = json!({"name": "reservoir-controller", "namespace": "infra", "labels": labels});
        Some(vec![from_value(json!({"metadata": metadata})).unwrap()])
    }

    fn listed(step: Step) -> String {
        match step {
            Step::Delete(objects) | Step::Remove(objects) => {
                objects.iter().map(|object| object.to_string()).collect::<Vec<_>>().join(", ")
            }
            Step::EraseKept(volumes) => {
                volumes.iter().map(|volume| volume.name_any()).collect::<Vec<_>>().join(", ")
            }
            Step::First(why) | Step::Then(why) => why,
        }
    }

    #[test]
    fn f5_nothing_is_removed_under_a_pod_or_beside_a_controller() {
        let mut there = Installed::default();
        there.facts.controllers = controller();
        there.facts.snapshot.claims = vec![claim("ns", "c", "v")];
        there.facts.snapshot.volumes = vec![volume("v", "eng", 1)];
        there.facts.snapshot.reservations = vec![reserved("r", "eng", 1, &[("v", 1)])];
        let kept = next(Data::Keep, &there, NOW);
        assert!(
            matches!(&kept, Step::First(why) if why.contains("helm uninstall storage --namespace infra")),
            "{kept:?}"
        );
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
        there.facts.snapshot.pods = vec![from_value(pod).unwrap()];
        for data in [Data::Keep, Data::Erase] {
            let step = next(data, &there, NOW);
            assert!(
                matches!(&step, Step::First(why) if why.starts_with("volumes are used by pod ns/p")),
                "{step:?}"
            );
        }
        // P1: a PersistentVolumeClaim of a class is its own claim.
        let claims = std::mem::take(&mut there.facts.snapshot.claims);
        let pvc = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"}});
        there.facts.snapshot.pvcs = vec![from_value(pvc).unwrap()];
        there.facts.snapshot.volumes[0].metadata.labels =
            Some([(crate::api::LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        let step = next(Data::Erase, &there, NOW);
        assert!(
            matches!(&step, Step::First(why) if why.starts_with("volumes are used by pod ns/p")),
            "{step:?}"
        );
        there.facts.snapshot.pvcs.clear();
        there.facts.snapshot.volumes[0].metadata.labels = None;
        there.facts.snapshot.claims = claims;
        there.facts.snapshot.pods.clear();
        there.facts.controllers = Some(vec![]);
        let step = next(Data::Erase, &there, NOW);
        assert!(matches!(&step, Step::First(why) if why.contains("nobody erases")), "{step:?}");
        // F6: what the chart makes on an API server with MutatingAdmissionPolicy, and without.
        for (kind, name) in [
            ("ValidatingAdmissionPolicy", "reservoir-bounds"),
            ("ValidatingAdmissionPolicyBinding", "reservoir-read-only-claims"),
            ("MutatingAdmissionPolicy", "reservoir-guard"),
        ] {
            there.facts.policies.clear();
            there.facts.policies.insert(kind, Some([name.to_owned(), "mine".to_owned()].into()));
            assert_eq!(
                listed(next(Data::Keep, &there, NOW)),
                format!("{kind} {name}, VolumeClaim ns/c, SharedPersistentVolume v, DiskReservation r")
            );
        }
    }

    /// F5, X8: a reservation with kept data would stay for ever.
    #[test]
    fn f5_x8_kept_data_is_erased_before_its_reservation() {
        let mut there = Installed::default();
        there.facts.controllers = controller();
        there.facts.snapshot.reservations = vec![with_kept(&[("a", 0, 60), ("b", 5, 65)])];
        there.facts.snapshot.volumes = vec![volume("v", "eng", 1)];
        assert_eq!(listed(next(Data::Erase, &there, NOW)), "SharedPersistentVolume v");
        there.facts.snapshot.volumes.clear();
        let Step::EraseKept(made) = next(Data::Erase, &there, NOW) else { panic!() };
        assert_eq!(made.len(), 2);
        assert!(made.iter().all(kept::is_erasing) && made[0].name_any().starts_with("a-erase-"));
        there.facts.snapshot.reservations[0].spec.is_static = true;
        assert!(matches!(next(Data::Erase, &there, NOW), Step::EraseKept(_)), "a static one has it, too");
        there.facts.snapshot.reservations = vec![with_kept(&[])];
        assert_eq!(listed(next(Data::Erase, &there, NOW)), "DiskReservation r");
    }

    #[test]
    fn f5_each_stage_of_an_erasure_ends_before_the_next() {
        let mut there = Installed::default();
        there.facts.controllers = controller();
        let snapshot = &mut there.facts.snapshot;
        snapshot.claims = vec![claim("ns", "c", "v")];
        let pvc = |name: &str, uid: &str| {
            from_value(json!({"metadata": {"name": name, "namespace": "ns", "uid": uid}})).unwrap()
        };
        snapshot.pvcs = vec![pvc("data", "u"), pvc("others", "x")];
        let mut of_class = volume("pvc-u", "eng", 1);
        of_class.metadata.labels = Some([(crate::api::LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        snapshot.volumes = vec![volume("v", "eng", 1), of_class];
        let mut fixed = reserved("fixed", "eng", 1, &[]);
        fixed.spec.is_static = true;
        let mut of_template = reserved("made", "eng", 1, &[]);
        of_template.spec.template = Some(TemplateRef { volume_role: "eng".into(), name: "t".into() });
        snapshot.reservations = vec![fixed, of_template, reserved("r", "eng", 1, &[])];
        let all: Vec<_> = erased(&there).into_iter().flatten().map(|object| object.to_string()).collect();
        assert!(all.contains(&"SharedPersistentVolume v".into()), "a dry run names the data: {all:?}");
        let mut stages = vec![];
        for _ in 0..4 {
            stages.push(listed(next(Data::Erase, &there, NOW)));
            let snapshot = &mut there.facts.snapshot;
            match stages.len() {
                1 => {
                    snapshot.pvcs.clear();
                    snapshot.volumes.truncate(1);
                }
                2 => snapshot.claims.clear(),
                3 => snapshot.volumes.clear(),
                _ => snapshot.reservations.truncate(2),
            }
        }
        assert_eq!(
            stages,
            [
                "PersistentVolumeClaim ns/data",
                "VolumeClaim ns/c",
                "SharedPersistentVolume v",
                "DiskReservation r"
            ]
        );
        assert!(
            matches!(next(Data::Erase, &there, NOW), Step::Then(_)),
            "static reservations and those of templates go with the chart"
        );
    }
}
