//! The PersistentVolumeClaims of Reservoir: made or provisioned by the controller, or with a StorageClass and without a
//! provisioner yet. The cache keeps nothing of other PersistentVolumeClaims.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use super::cache::{Cache, CacheConfig, Change, Name};
use crate::api::{DRIVER, PV_PREFIX, PVC_PREFIX, SELECTED_NODE, STORAGE_PROVISIONER, Size, volume_for_pvc};

/// A PersistentVolumeClaim that the controller made, provisions or may have to provision.
#[derive(Clone, PartialEq)]
pub struct Pvc {
    uid: Box<str>,
    /// UID of the VolumeClaim behind a made PersistentVolumeClaim, or name of the volume for a provisioned one.
    made_for: Box<str>,
    /// True if Kubernetes has yet to bind the PersistentVolumeClaim.
    pending: bool,
    /// The StorageClass, as long as the PersistentVolumeClaim names no provisioner: with WaitForFirstConsumer Kubernetes
    /// writes the provisioner after the scheduler has chosen a node.
    undecided: Option<Box<str>>,
    seen: SeenPvc,
}

/// The last seen state of a PersistentVolumeClaim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenPvc {
    /// True if the PersistentVolumeClaim is bound.
    pub bound: bool,
    /// The time of the DELETE, if somebody deletes the PersistentVolumeClaim.
    pub deleted_at: Option<Timestamp>,
    /// The capacity in the status, in bytes; `None`: Kubernetes has not written the capacity yet.
    pub capacity: Option<u64>,
    /// The requested bytes, rounded up; `None`: no volume can have the requested size.
    pub requested: Option<u64>,
    /// `status.allocatedResources` in bytes, which only a growth sets.
    pub allocated: Option<u64>,
    /// True if the status reports a growth.
    pub resizing: bool,
    /// True if the PersistentVolumeClaim names a VolumeAttributesClass.
    pub attributes_class: bool,
    /// True if the scheduler has chosen a node, and Kubernetes has yet to name the provisioner.
    pub chosen: bool,
    /// True if Kubernetes has named the PersistentVolume, and has yet to write the phase.
    pub binding: bool,
}

/// The index of provisioned PersistentVolumeClaims by the name of the volume.
const VOLUME: &str = "volume";
/// The index of all provisioned PersistentVolumeClaims, under the empty value.
const PROVISIONED: &str = "provisioned";
/// The index of the made PersistentVolumeClaims that Kubernetes has yet to bind, under the empty value.
const PENDING: &str = "pending";

impl Pvc {
    /// Keeps the PersistentVolumeClaims that the controller made, provisions or may have to provision.
    pub fn config() -> CacheConfig<PersistentVolumeClaim, Self> {
        CacheConfig {
            keep: Self::of,
            keys: |pvc, key| {
                if pvc.is_provisioned() {
                    key((VOLUME, &pvc.made_for));
                    key((PROVISIONED, ""));
                } else if pvc.pending {
                    key((PENDING, ""));
                }
            },
        }
    }

    fn of(pvc: PersistentVolumeClaim) -> Option<Self> {
        let uid = pvc.uid().unwrap_or_default();
        let provisioner = pvc.annotations().get(STORAGE_PROVISIONER);
        let (spec, status) = (pvc.spec.as_ref(), pvc.status.as_ref());
        let phase = status.and_then(|s| s.phase.as_deref());
        let is_pending = phase.is_none_or(|phase| phase == "Pending");
        let is_open = provisioner.is_none() && is_pending && spec.is_some_and(|s| s.volume_name.is_none());
        let class = spec.and_then(|s| s.storage_class_name.as_deref()).filter(|class| !class.is_empty());
        let undecided = class.filter(|_| is_open).map(Box::from);
        let ours = undecided.is_some() || provisioner.is_some_and(|provisioner| provisioner == DRIVER);
        // Any user may set a label; the name of the PersistentVolume never changes.
        let of_pv = || pvc.spec.as_ref()?.volume_name.as_ref()?.strip_prefix(PV_PREFIX).map(str::to_owned);
        let made_for = ours.then(|| volume_for_pvc(&uid)).or_else(of_pv)?;
        let bytes = |quantities: Option<&BTreeMap<String, Quantity>>| {
            Size::written(&quantities?.get("storage")?.0).bytes().ok()
        };
        let seen = SeenPvc {
            bound: phase == Some("Bound"),
            deleted_at: pvc.metadata.deletion_timestamp.as_ref().map(|time| time.0),
            capacity: bytes(status.and_then(|s| s.capacity.as_ref())),
            requested: bytes(spec.and_then(|s| s.resources.as_ref()?.requests.as_ref())),
            allocated: bytes(status.and_then(|s| s.allocated_resources.as_ref())),
            resizing: status.is_some_and(|s| s.allocated_resource_statuses.is_some()),
            attributes_class: spec.is_some_and(|s| s.volume_attributes_class_name.is_some()),
            chosen: undecided.is_some() && pvc.annotations().contains_key(SELECTED_NODE),
            binding: is_pending && spec.is_some_and(|s| s.volume_name.is_some()),
        };
        let pending = seen.deleted_at.is_none() && is_pending;
        Some(Self { uid: uid.into(), made_for: made_for.into(), pending, undecided, seen })
    }

    fn is_provisioned(&self) -> bool {
        self.made_for.strip_prefix(PVC_PREFIX) == Some(&self.uid)
    }

    /// True if a PersistentVolumeClaim is gone, or another one has its name.
    pub fn is_gone(change: &Change<Self>) -> bool {
        change.before.map(|pvc| &pvc.uid) != change.now.map(|pvc| &pvc.uid)
    }

    /// True if Kubernetes is binding a PersistentVolumeClaim, which takes a moment and needs nobody.
    pub fn is_being_bound(change: &Change<Self>) -> bool {
        change.now.is_some_and(|pvc| pvc.seen.binding && pvc.seen.deleted_at.is_none())
    }

    /// True if a change needs a reconcile. Fields outside the cache matter only while the PersistentVolumeClaim is
    /// being deleted or waits for its volume.
    pub fn matters(change: &Change<Self>) -> bool {
        let waits = |pvc: &Self| pvc.seen.deleted_at.is_some() || (pvc.is_provisioned() && !pvc.seen.bound);
        change.before != change.now || change.now.is_some_and(waits)
    }
}

impl Cache<Pvc> {
    /// The PersistentVolumeClaim of that name, if made for the VolumeClaim of that UID or provisioned with the volume
    /// of that name.
    pub fn made_for(&self, namespace: &str, name: &str, claim_or_volume: &str) -> Option<SeenPvc> {
        let pvc = self.get_in(namespace, name)?;
        (*pvc.made_for == *claim_or_volume).then_some(pvc.seen)
    }

    /// True if the PersistentVolumeClaim of that name has that UID.
    pub fn has(&self, namespace: &str, name: &str, uid: &str) -> bool {
        self.get_in(namespace, name).is_some_and(|pvc| *pvc.uid == *uid)
    }

    /// The names of the PersistentVolumeClaims that are provisioned with the volume of that name.
    pub fn names_for(&self, volume: &str) -> Vec<Name> {
        self.names_by(VOLUME, volume)
    }

    /// The UID and the last seen state of a provisioned PersistentVolumeClaim. `is_ours` says of a StorageClass whether
    /// its PersistentVolumeClaims get our provisioner.
    pub fn provisioned(&self, name: &str, is_ours: impl Fn(&str) -> bool) -> Option<(String, SeenPvc)> {
        let pvc = self.get(name).filter(|pvc| pvc.is_provisioned())?;
        let ours = pvc.undecided.as_deref().is_none_or(is_ours);
        ours.then(|| (pvc.uid.to_string(), pvc.seen))
    }

    /// Number of the PersistentVolumeClaims of a namespace that Reservoir made and Kubernetes has yet to bind.
    pub fn pending_in(&self, namespace: &str) -> usize {
        let is_in = |name: &Name| name.split_once('/').is_some_and(|(of, _)| of == namespace);
        self.names_by(PENDING, "").iter().filter(|name| is_in(name)).count()
    }

    /// The names of all provisioned PersistentVolumeClaims.
    pub fn names_provisioned(&self) -> Vec<Name> {
        self.names_by(PROVISIONED, "")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use kube::runtime::watcher::Event;
    use serde_json::{from_value, json};

    use super::super::cache::Follower;
    use super::*;
    use crate::api::LABEL_CLAIM_UID;

    fn pvc(name: &str, uid: &str, claim: &str, phase: &str) -> PersistentVolumeClaim {
        from_value(json!({"metadata": {"namespace": "team", "name": name, "uid": uid,
            "labels": {LABEL_CLAIM_UID: "forged"}}, "spec": {"volumeName": format!("{PV_PREFIX}{claim}")},
            "status": {"phase": phase}}))
        .unwrap()
    }

    /// Runs `story` with a cache that was filled once, and a function that says whether an event matters.
    fn with_cache(story: impl FnOnce(&Cache<Pvc>, &mut dyn FnMut(Event<PersistentVolumeClaim>) -> bool)) {
        let matters = Cell::new(false);
        let (cache, mut follower) = Follower::new(Pvc::config(), |change| matters.set(Pvc::matters(&change)));
        [Event::Init, Event::InitDone].into_iter().for_each(|event| follower.follow(event));
        story(&cache, &mut |event| {
            follower.follow(event);
            matters.take()
        });
        assert!(cache.names().is_empty(), "something is kept of deleted objects");
    }

    #[test]
    fn a_claims_pvc_is_found_by_name_and_the_claims_uid() {
        with_cache(|cache, see| {
            let bound = |name: &str, claim: &str| cache.made_for("team", name, claim).map(|seen| seen.bound);
            assert!(see(Event::Apply(pvc("a", "1", "claim-a", "Pending"))));
            assert_eq!(bound("a", "claim-a"), Some(false));
            assert!(see(Event::Apply(pvc("a", "1", "claim-a", "Bound"))));
            assert!(!see(Event::Apply(pvc("a", "1", "claim-a", "Bound"))), "nothing is new");
            assert_eq!((bound("a", "claim-a"), bound("a", "another")), (Some(true), None));
            let mut deleting = pvc("a", "1", "claim-a", "Bound");
            deleting.metadata.deletion_timestamp = Some(from_value(json!("2026-01-01T00:00:00Z")).unwrap());
            for _ in 0..2 {
                assert!(
                    see(Event::Apply(deleting.clone())),
                    "whatever happens to it may be what it waits for"
                );
            }
            assert!(see(Event::Delete(deleting)));
            assert_eq!(bound("a", "claim-a"), None);
            // Any user may write or remove the label.
            let mut bare = pvc("c", "3", "claim-c", "Bound");
            bare.metadata.labels = None;
            assert!(see(Event::Apply(bare.clone())));
            assert_eq!(bound("c", "claim-c"), Some(true));
            assert!(see(Event::Delete(bare.clone())));
            bare.metadata.labels = Some([(LABEL_CLAIM_UID.to_owned(), "claim-d".to_owned())].into());
            bare.spec = None;
            assert!(!see(Event::Apply(bare)), "no claim's");
        });
    }

    #[test]
    fn p1_a_pvc_that_names_our_provisioner_is_provisioned_no_other() {
        with_cache(|cache, see| {
            let names = |names: Vec<Name>| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
            let none: [&str; 0] = [];
            let mut ours = pvc("a", "1", "", "Pending");
            ours.spec = None;
            let provisioner = |name: &str| Some([(STORAGE_PROVISIONER.to_owned(), name.to_owned())].into());
            for other in [None, provisioner("another.example")] {
                ours.metadata.annotations = other;
                assert!(!see(Event::Apply(ours.clone())));
                assert_eq!(
                    (cache.names().len(), cache.provisioned("team/a", |class| class == "ours")),
                    (0, None)
                );
            }
            ours.metadata.annotations = provisioner(DRIVER);
            for _ in 0..2 {
                assert!(see(Event::Apply(ours.clone())), "whatever happens to it may be what it waits for");
            }
            // Kubernetes names the PersistentVolume, and writes the phase right after that.
            ours.spec = from_value(json!({"volumeName": "reservoir-1"})).unwrap();
            let is_being_bound = |phase: &str| {
                let mut pvc = ours.clone();
                pvc.status.as_mut().unwrap().phase = Some(phase.into());
                let pvc = Pvc::of(pvc).unwrap();
                Pvc::is_being_bound(&Change { name: &"team/a".into(), before: None, now: Some(&pvc) })
            };
            assert_eq!(["Pending", "Bound", "Lost"].map(is_being_bound), [true, false, false]);
            ours.spec = None;
            let found =
                cache.provisioned("team/a", |class| class == "ours").map(|(uid, seen)| (uid, seen.bound));
            assert_eq!(found, Some(("1".into(), false)));
            assert!(cache.made_for("team", "a", "pvc-1").is_some());
            ours.status.as_mut().unwrap().phase = Some("Bound".into());
            assert_eq!((see(Event::Apply(ours.clone())), see(Event::Apply(ours.clone()))), (true, false));
            let claims = pvc("b", "2", "claim-b", "Bound");
            assert_eq!((see(Event::Apply(claims.clone())), see(Event::Apply(claims.clone()))), (true, false));
            assert_eq!(names(cache.names_provisioned()), ["team/a"]);
            assert_eq!(names(cache.names_for("pvc-1")), ["team/a"]);
            assert_eq!(
                (names(cache.names_for("pvc-2")), names(cache.names_for("claim-b"))),
                (vec![], vec![])
            );
            assert_eq!([ours, claims].map(|pvc| see(Event::Delete(pvc))), [true, true]);
            assert_eq!(names(cache.names_for("pvc-1")), none);
            // P2: no provisioner is named before the scheduler has chosen a node.
            for (class, is_ours) in [("ours", true), ("another's", false)] {
                let mut waits = pvc("d", "4", "", "Pending");
                waits.spec = from_value(json!({"storageClassName": class})).unwrap();
                assert!(see(Event::Apply(waits.clone())));
                let found = cache.provisioned("team/d", |class| class == "ours");
                assert_eq!(found.is_some(), is_ours, "{class}");
                assert!(!found.is_some_and(|(_, seen)| seen.chosen));
                waits.metadata.annotations = Some([(SELECTED_NODE.to_owned(), "n1".to_owned())].into());
                assert!(see(Event::Apply(waits.clone())));
                let found = cache.provisioned("team/d", |class| class == "ours");
                assert_eq!(found.is_some_and(|(_, seen)| seen.chosen), is_ours, "{class}");
                waits.metadata.annotations = provisioner("another.example");
                assert!(see(Event::Apply(waits.clone())), "it is forgotten");
                assert!(cache.names().is_empty());
            }
        });
    }
}
