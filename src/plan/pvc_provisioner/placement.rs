//! The reservations for the volumes of PersistentVolumeClaims: on the node that the scheduler chose for a pod (P2), or on
//! a node that the class allows (F1).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::class;
use crate::api::condition::reason;
use crate::api::{
    DiskReservation, NodeDisk, SELECTED_NODE, SharedPersistentVolume, SharedPersistentVolumeSpec,
    TOPOLOGY_NODE,
};
use crate::plan::crowding::Crowded;
use crate::plan::{candidate, create, kept, names};

/// Another PersistentVolumeClaim of the pods that use the one in question.
#[derive(Debug)]
pub struct Mate {
    /// The PersistentVolumeClaim, read live; `None`: it is bound.
    pub pvc: Option<PersistentVolumeClaim>,
    /// The StorageClass, from the cache.
    pub class: Option<Arc<StorageClass>>,
    /// The volume, from the cache.
    pub volume: Option<Arc<SharedPersistentVolume>>,
}

impl Mate {
    /// The volume that still needs a reservation on the node. A PersistentVolumeClaim that the scheduler sent elsewhere, or
    /// that gets no volume at all, takes nothing there.
    fn wanted(&self, node: &str) -> Option<SharedPersistentVolume> {
        let (pvc, class) = (self.pvc.as_ref()?, self.class.as_ref()?);
        let elsewhere = pvc.annotations().get(SELECTED_NODE).is_some_and(|selected| selected != node);
        if elsewhere || pvc.metadata.deletion_timestamp.is_some() || !class::is_delayed(class) {
            return None;
        }
        match &self.volume {
            Some(volume) => is_unplaced(volume).then(|| (**volume).clone()),
            None => class::volume(pvc, class).ok(),
        }
    }

    /// The PersistentVolumeClaim, if the scheduler has to choose a node for it again.
    pub fn to_reschedule(&self, node: &str) -> Option<&PersistentVolumeClaim> {
        let selected =
            |pvc: &&PersistentVolumeClaim| pvc.annotations().get(SELECTED_NODE).is_some_and(|n| n == node);
        self.pvc.as_ref().filter(|_| self.volume.is_none()).filter(selected)
    }

    /// The volume, if it has its place on the node.
    fn placed(&self, node: &str) -> Option<&SharedPersistentVolume> {
        let volume = self.volume.as_deref()?;
        let on = volume.status.as_ref().and_then(|status| status.node_name.as_deref());
        (on == Some(node) && !is_unplaced(volume)).then_some(volume)
    }
}

fn is_unplaced(volume: &SharedPersistentVolume) -> bool {
    volume.status.as_ref().is_none_or(|status| status.reservation.is_none())
}

/// True if the class allows volumes on the node, as Kubernetes reads `allowedTopologies`.
pub fn allows(class: &StorageClass, node: &Node) -> bool {
    let Some(terms) = class.allowed_topologies.as_ref().filter(|terms| !terms.is_empty()) else {
        return true;
    };
    let has = |key: &str, values: &[String]| {
        let label = node.labels().get(key).cloned();
        // The kubelet sets the label of the driver some time after the registration.
        let value = label.or_else(|| (key == TOPOLOGY_NODE).then(|| node.name_any()));
        value.is_some_and(|value| values.contains(&value))
    };
    terms.iter().any(|term| {
        let mut expressions = term.match_label_expressions.iter().flatten();
        expressions.all(|expression| has(&expression.key, &expression.values))
    })
}

/// Why the nodes in `allowedTopologies` of a class have no place for a volume; `why` is of a node that the class allows.
pub fn on_allowed(class: &StorageClass, nodes: &[Arc<Node>], why: &str) -> String {
    let allowed: Vec<String> =
        nodes.iter().filter(|node| allows(class, node)).map(|node| node.name_any()).collect();
    let name = class.name_any();
    if !allowed.is_empty() {
        let nodes = names(&allowed, allowed.len());
        return format!("on the nodes in allowedTopologies of StorageClass {name}, {nodes}: {why}");
    }
    let expressions =
        class.allowed_topologies.iter().flatten().flat_map(|term| &term.match_label_expressions);
    let asked: Vec<String> = expressions
        .flatten()
        .map(|asked| format!("{} in ({})", asked.key, asked.values.join(", ")))
        .collect();
    format!(
        "no node has the labels in allowedTopologies of StorageClass {name}: {}; make the class anew, or label a node",
        names(&asked, asked.len())
    )
}

/// The name of the reservation for the volume on a node that `may_be_on` accepts, chosen as for any other volume; or the
/// reason why there is none.
pub fn place(
    volume: &SharedPersistentVolume,
    may_be_on: impl Fn(&str) -> bool,
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
) -> Result<String, String> {
    let is_there = |r: &&&DiskReservation| {
        r.status.as_ref().is_some_and(|s| s.node_name.as_deref().is_some_and(&may_be_on))
    };
    let there: Vec<&DiskReservation> = reservations.iter().filter(is_there).copied().collect();
    let is_ready = |r: &DiskReservation| {
        let on = r.status.as_ref().and_then(|s| s.node_disk.as_ref());
        disks.iter().any(|disk| disk.metadata.name.as_ref() == on && candidate::is_ready(disk))
    };
    match create::choose(volume, &there, disks) {
        Ok(chosen) if is_ready(chosen) => Ok(chosen.name_any()),
        Ok(chosen) => Err(format!("the disk of DiskReservation {} is not ready", chosen.name_any())),
        Err(why) if why.reason == reason::NO_RESERVATION => Err(nothing_there(volume, reservations, disks)),
        Err(why) => Err(why.message),
    }
}

/// An error with the reason if no node that `may_be_on` accepts has space for the volume. Bytes of kept data are free if
/// nothing else fits (X8).
pub fn place_emptied(
    volume: &SharedPersistentVolume,
    may_be_on: impl Fn(&str) -> bool,
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
) -> Result<(), String> {
    place(volume, &may_be_on, reservations, disks).map(drop).or_else(|why| {
        let emptied: Vec<_> = reservations.iter().map(|r| create::without_kept(r, &[volume])).collect();
        let emptied: Vec<_> = emptied.iter().collect();
        place(volume, &may_be_on, &emptied, disks).map(drop).map_err(|_| why)
    })
}

/// The beginning of such an event.
pub const NO_PLACE: &str = "no node has a place for the volume";

/// The event of a PersistentVolumeClaim for which the scheduler can choose no node.
pub fn nowhere(volume: &SharedPersistentVolume, why: &str) -> String {
    let elsewhere = match &volume.spec.reservation {
        Some(name) => format!(
            "its StorageClass asks for DiskReservation {name} alone: make the class anew with another one in its parameter \
             reservation, or with none, or make room there"
        ),
        None => format!(
            "a node that is added needs a reservation for role {} of its own, such as agent.disks[].reservations in the chart's \
             values",
            volume.spec.role
        ),
    };
    format!("{NO_PLACE}: {why}; {elsewhere}")
}

/// The nodes that `may_be_on` accepts with a place for the volume, beside those of the same pod. Bytes of kept data are free (X8).
pub fn places(
    volume: &SharedPersistentVolume,
    class: &StorageClass,
    mates: &[Mate],
    may_be_on: impl Fn(&str) -> bool,
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
) -> Vec<String> {
    let bytes = volume.spec.size.bytes_or_zero();
    let node_of = |r: &&DiskReservation| {
        let status = r.status.as_ref().filter(|status| kept::available(status) >= bytes)?;
        let node = status.node_name.clone().filter(|node| may_be_on(node))?;
        let disk = disks.iter().find(|disk| disk.metadata.name == status.node_disk)?;
        let is_open = candidate::is_ready(disk) && !candidate::is_cordoned(disk);
        (is_open && create::could_hold(volume, r, disks)).then_some(node)
    };
    let nodes: BTreeSet<String> = reservations.iter().filter_map(node_of).collect();
    let is_alone = mates.is_empty();
    let fits =
        |node: &String| is_alone || place_together(volume, class, mates, node, reservations, disks).is_ok();
    nodes.into_iter().filter(fits).collect()
}

/// Words of such an event.
pub const ON_NO_NODE: &str = "is on no node yet";

/// The event of a PersistentVolumeClaim whose pod the scheduler does not place on the nodes with a place for the volume.
pub fn elsewhere(volume: &SharedPersistentVolume, pod: &str, places: &[String]) -> String {
    let SharedPersistentVolumeSpec { role, size, .. } = &volume.spec;
    format!(
        "pod {pod} {ON_NO_NODE}: {size} for role {role} are free on node {} alone, where the scheduler does not place it; reserve for \
         the role on a node that the pod may run on, or let it run there",
        names(places, places.len())
    )
}

/// The reason of the event that ends one about the lack of a place.
pub const PLACE_FOUND: &str = "PlaceFound";

/// That event. The scheduler has not chosen a node yet.
pub fn found(volume: &SharedPersistentVolume, places: &[String]) -> String {
    let SharedPersistentVolumeSpec { role, size, .. } = &volume.spec;
    match places {
        [] => "there is a place for the volume by now; the scheduler chooses the node of its pod".to_owned(),
        _ => format!(
            "{size} for role {role} are free on node {} by now; the scheduler chooses the node of the pod",
            names(places, places.len())
        ),
    }
}

/// Why no reservation of a node may hold the volume.
fn nothing_there(
    volume: &SharedPersistentVolume,
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
) -> String {
    match (create::choose(volume, reservations, disks), &volume.spec.reservation) {
        (Err(nowhere), _) if nowhere.reason == reason::NO_RESERVATION => nowhere.message,
        (_, Some(name)) => format!("DiskReservation {name}, which the class names, is elsewhere"),
        (_, None) => format!("nothing is reserved for role {} or an ancestor of it", volume.spec.role),
    }
}

/// Why a volume has no reservation on a node.
#[derive(Debug, PartialEq)]
pub struct NoPlace {
    /// The reason.
    pub why: String,
    /// The largest volume of the pod, if each fits there for itself, and not all do; or a volume that fits only without the kept
    /// data of its namesakes.
    pub crowded: Option<Crowded>,
}

/// The name of the reservation on the node for the volume, if the unplaced volumes of all mates fit there, too: a pod runs
/// on one node, and a volume that was made stays on its node. Each mate comes to the same result. Bytes of kept data are
/// free if nothing else fits (X8).
pub fn place_together(
    volume: &SharedPersistentVolume,
    class: &StorageClass,
    mates: &[Mate],
    node: &str,
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
) -> Result<String, NoPlace> {
    place_beside_kept(volume, class, mates, node, reservations, disks).or_else(|no_place| {
        let wanted: Vec<_> = mates.iter().filter_map(|mate| mate.wanted(node)).collect();
        let all: Vec<_> = wanted.iter().chain([volume]).collect();
        let without = |volumes: &[&SharedPersistentVolume]| {
            let emptied: Vec<_> = reservations.iter().map(|r| create::without_kept(r, volumes)).collect();
            let emptied: Vec<_> = emptied.iter().collect();
            place_beside_kept(volume, class, mates, node, &emptied, disks)
        };
        without(&all).map_err(|_| match without(&[]) {
            // The storage capacity counts what is kept for a namesake, so the scheduler would choose the node again.
            Ok(_) => NoPlace {
                crowded: no_place.crowded.or(Some(Crowded {
                    class: class.name_any(),
                    node: node.to_owned(),
                    bytes: volume.spec.size.bytes_or_zero(),
                })),
                why: no_place.why,
            },
            Err(_) => no_place,
        })
    })
}

/// The same, without the bytes of kept data.
fn place_beside_kept(
    volume: &SharedPersistentVolume,
    class: &StorageClass,
    mates: &[Mate],
    node: &str,
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
) -> Result<String, NoPlace> {
    let alone = |volume: &SharedPersistentVolume| place(volume, |on| on == node, reservations, disks);
    let own = alone(volume).map_err(|why| NoPlace { why, crowded: None })?;
    let with_class = |mate: &Mate| Some((mate.wanted(node)?, mate.class.as_ref()?.name_any()));
    let mut all: Vec<_> = mates.iter().filter_map(with_class).collect();
    // A volume has its entry before its place, and the caches of both are not of the same moment. The name is made of a UID.
    let entries = reservations.iter().flat_map(|r| &r.status).flat_map(|status| &status.volumes);
    all.retain(|(volume, _)| !entries.clone().any(|entry| entry.name == volume.name_any()));
    if all.is_empty() {
        return Ok(own);
    }
    all.push((volume.clone(), class.name_any()));
    all.sort_by_key(|(volume, _)| (Reverse(volume.spec.size.bytes_or_zero()), volume.name_any()));
    let crowded = all.iter().all(|(volume, _)| alone(volume).is_ok()).then(|| Crowded {
        class: all[0].1.clone(),
        node: node.to_owned(),
        bytes: all[0].0.spec.size.bytes_or_zero(),
    });
    let no_place = |why: String| {
        let why = format!("{} PersistentVolumeClaims of one pod do not fit together: {why}", all.len());
        NoPlace { why, crowded: crowded.clone() }
    };
    let mut left: Vec<DiskReservation> = reservations.iter().map(|r| (*r).clone()).collect();
    let mut chosen = BTreeMap::new();
    for (next, _) in &all {
        let mut next = next.clone();
        let name = next.name_any();
        // Entries are distinguished by UID, which a volume has only once it exists.
        next.metadata.uid = Some(name.clone());
        let holders: Vec<_> = left.iter().collect();
        let reservation = place(&next, |on| on == node, &holders, disks).map_err(no_place)?;
        for holder in left.iter_mut().filter(|r| r.name_any() == reservation) {
            let entries = create::take_entry(&next, holder, disks).map_err(|why| no_place(why.message))?;
            holder.status.get_or_insert_default().volumes = entries;
        }
        chosen.insert(name, reservation);
    }
    Ok(chosen.remove(&volume.name_any()).unwrap_or(own))
}

/// The event of a PersistentVolumeClaim whose node has no place for the volume.
pub fn rescheduled(node: &str, why: &str, mates: &[Mate]) -> String {
    let placed = mates.iter().find_map(|mate| mate.placed(node));
    let next = match placed {
        None => "another node is looked for".to_owned(),
        Some(volume) => format!(
            "volume {} of the same pod is there already and keeps the pod there: reserve more on the node, or delete the \
             PersistentVolumeClaims of the pod and make them anew",
            volume.name_any()
        ),
    };
    format!("on node {node}, which was chosen for the pod: {why}; {next}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::api::{ANNOTATION_MADE_FOR, DRIVER};
    use crate::plan::testing::{disk, reserved, volume};

    fn on(node: &str, mut reservation: DiskReservation) -> DiskReservation {
        let status = reservation.status.as_mut().unwrap();
        (status.node_name, status.node_disk) = (Some(node.into()), Some(format!("{node}.a")));
        reservation
    }

    fn disks() -> [NodeDisk; 2] {
        ["n1", "n2"].map(|node| disk(&format!("{node}.a"), node, 99, &[]))
    }

    fn class(allowed: Value) -> StorageClass {
        from_value(json!({"metadata": {"name": "fast"}, "provisioner": DRIVER, "parameters": {"role": "eng"},
            "volumeBindingMode": "WaitForFirstConsumer", "allowedTopologies": allowed}))
        .unwrap()
    }

    fn mate(name: &str, gi: u64, node: Option<&str>, volume: Option<SharedPersistentVolume>) -> Mate {
        let annotations = node.map(|node| json!({ SELECTED_NODE: node }));
        let pvc = json!({"metadata": {"name": name, "namespace": "team", "uid": name, "annotations": annotations},
            "spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": format!("{gi}Gi")}}}});
        Mate {
            pvc: Some(from_value(pvc).unwrap()),
            class: Some(Arc::new(class(Value::Null))),
            volume: volume.map(Arc::new),
        }
    }

    #[test]
    fn x8_a_volume_of_a_class_takes_the_bytes_of_kept_data() {
        let kept = on("n1", crate::plan::testing::with_kept(&[("a", 0, 60)]));
        let of = |gi| {
            let (volume, disks) = (volume("pvc-u", "eng", gi), disks());
            place_together(&volume, &class(Value::Null), &[], "n1", &[&kept], &disks.each_ref())
        };
        assert_eq!(of(10), Ok("r".into()));
        let too_large = of(11).unwrap_err();
        assert!(too_large.why.contains("r has 9Gi left") && too_large.crowded.is_none());
    }

    /// A StatefulSet makes a deleted PersistentVolumeClaim again at once.
    #[test]
    fn x8_a_volume_of_a_class_leaves_the_data_of_its_namesake() {
        let mut kept = on("n1", crate::plan::testing::with_kept(&[("a", 0, 60)]));
        let entry = &mut kept.status.as_mut().unwrap().volumes[0];
        entry.kept.as_mut().unwrap().made_for = Some("ns/data".into());
        let of = |made_for: &str, gi| {
            let (mut volume, disks) = (volume("pvc-u", "eng", gi), disks());
            volume.metadata.annotations =
                Some([(ANNOTATION_MADE_FOR.to_owned(), made_for.to_owned())].into());
            place_together(&volume, &class(Value::Null), &[], "n1", &[&kept], &disks.each_ref())
        };
        assert_eq!((of("ns/other", 10), of("ns/data", 9)), (Ok("r".into()), Ok("r".into())));
        let no_place = of("ns/data", 10).unwrap_err();
        assert!(no_place.why.contains("r has 9Gi left"), "{no_place:?}");
        assert_eq!(
            no_place.crowded.map(|crowded| crowded.bytes),
            Some(10 << 30),
            "no hot loop with the scheduler"
        );
    }

    #[test]
    fn p2_a_volume_is_placed_in_the_nearest_role_with_free_space() {
        let all = [
            on("n1", reserved("near", "eng/ml", 4, &[("x", 1)])),
            on("n1", reserved("above", "eng", 10, &[])),
            on("n1", reserved("others", "ops", 50, &[])),
            on("n2", reserved("far", "eng", 5, &[("x", 4)])),
        ];
        let (all, disks): (Vec<_>, _) = (all.iter().collect(), disks());
        let wish = |gi| volume("pvc-u", "eng/ml", gi);
        let at = |gi, node: &str| place(&wish(gi), |on| on == node, &all, &disks.each_ref());
        assert_eq!((at(1, "n1"), at(4, "n1")), (Ok("near".into()), Ok("above".into())));
        assert_eq!(at(1, "n2"), Ok("far".into()));
        let named = |name: &str, node: &str| {
            let mut wish = wish(1);
            wish.spec.reservation = Some(name.into());
            place(&wish, |on| on == node, &all, &disks.each_ref())
        };
        assert_eq!(named("above", "n1"), Ok("above".into()));
        // D3: the reason is the one that the choice found.
        let unready = place(&wish(1), |on| on == "n1", &all, &[]);
        let mut raw = wish(1);
        raw.spec.volume_mode = crate::api::VolumeMode::Block;
        for (found, said) in [
            (at(11, "n1"), "11Gi asked for, above has 10Gi left and near has 3Gi left"),
            (at(2, "n2"), "far has 1Gi left"),
            (at(1, "n3"), "nothing is reserved for role eng/ml or an ancestor of it"),
            (named("others", "n1"), "is for role ops, which does not cover role eng/ml"),
            (named("far", "n1"), "DiskReservation far, which the class names, is elsewhere"),
            (named("nowhere", "n1"), "there is no DiskReservation nowhere"),
            (unready, "the disk of DiskReservation near is not ready"),
            (place(&raw, |on| on == "n1", &all, &disks.each_ref()), "volumeMode Block needs a raw device"),
        ] {
            let why = found.unwrap_err();
            assert!(why.contains(said), "{said}: {why}");
        }
    }

    /// F1.
    #[test]
    fn f1_volumes_of_one_pod_are_placed_together_or_not_at_all() {
        let small = on("n1", reserved("small", "eng", 3, &[]));
        let large = on("n2", reserved("large", "eng", 10, &[]));
        let disks = disks();
        let try_on = |node: &str, mates: &[Mate]| {
            let (own, class) = (volume("pvc-u", "eng", 2), class(Value::Null));
            place_together(&own, &class, mates, node, &[&small, &large], &disks.each_ref())
        };
        assert_eq!(try_on("n1", &[]), Ok("small".into()));
        assert_eq!(try_on("n1", &[mate("b", 1, Some("n1"), None)]), Ok("small".into()));
        // The scheduler writes its choice on one PersistentVolumeClaim after the other.
        for node in [Some("n1"), None] {
            let NoPlace { why, crowded } = try_on("n1", &[mate("b", 3, node, None)]).unwrap_err();
            assert_eq!(crowded, Some(Crowded { class: "fast".into(), node: "n1".into(), bytes: 3 << 30 }));
            assert!(
                why.contains("2 PersistentVolumeClaims of one pod do not fit together: 2Gi asked for"),
                "{why}"
            );
        }
        // The scheduler sees by itself that a volume is too large for the node.
        assert_eq!(try_on("n1", &[mate("b", 4, None, None)]).unwrap_err().crowded, None);
        assert_eq!(try_on("n2", &[mate("b", 8, Some("n2"), None)]), Ok("large".into()));
        assert_eq!(try_on("n1", &[mate("b", 2, Some("n2"), None)]), Ok("small".into()), "it goes elsewhere");
        // One that goes, or whose volume waits for no node, takes nothing there.
        let mut going = mate("b", 3, None, None);
        going.pvc.as_mut().unwrap().metadata.deletion_timestamp = crate::plan::testing::some_time();
        let mut immediate = mate("b", 3, None, None);
        Arc::make_mut(immediate.class.as_mut().unwrap()).volume_binding_mode = Some("Immediate".into());
        for other in [going, immediate] {
            assert_eq!(try_on("n1", &[other]), Ok("small".into()));
        }
        let again = |node, volume| mate("b", 1, Some("n1"), volume).to_reschedule(node).is_some();
        assert_eq!((again("n1", None), again("n2", None)), (true, false));
        assert!(!again("n1", Some(volume("pvc-b", "eng", 1))), "its volume is made");
        let unplaced = volume("pvc-b", "eng", 2);
        assert!(try_on("n1", &[mate("b", 2, None, Some(unplaced))]).is_err());
        // Its entry is taken, and its place or itself is not in the cache yet.
        for seen in [None, Some(volume("pvc-b", "eng", 1))] {
            let taken = on("n1", reserved("small", "eng", 3, &[("pvc-b", 1)]));
            let (own, class) = (volume("pvc-u", "eng", 2), class(Value::Null));
            let beside = [mate("b", 1, Some("n1"), seen)];
            let found = place_together(&own, &class, &beside, "n1", &[&taken], &disks.each_ref());
            assert_eq!(found, Ok("small".into()));
        }
        let mut placed = volume("pvc-b", "eng", 2);
        let status = placed.status.get_or_insert_default();
        status.reservation = Some(crate::api::UidRef { name: "small".into(), uid: "uid-small".into() });
        status.node_name = Some("n1".into());
        let beside = [mate("b", 2, None, Some(placed))];
        assert_eq!(try_on("n1", &beside), Ok("small".into()), "its entry is in the ledger, or will be");
        assert!(rescheduled("n1", "w", &beside).contains("volume pvc-b of the same pod is there already"));
        assert!(rescheduled("n2", "w", &beside).contains("another node is looked for"));
        assert_eq!(
            rescheduled("n1", "too little", &[]),
            "on node n1, which was chosen for the pod: too little; another node is looked for"
        );
    }

    /// The smaller volume alone would take the only space in which both fit.
    #[test]
    fn f1_each_volume_of_a_pod_gets_the_reservation_that_fits() {
        let holders = [on("n1", reserved("three", "eng", 3, &[])), on("n1", reserved("four", "eng", 4, &[]))];
        let disks = disks();
        let place_of = |name: &str, gi, other: Mate| {
            let (own, class) = (volume(name, "eng", gi), class(Value::Null));
            place_together(&own, &class, &[other], "n1", &holders.each_ref(), &disks.each_ref()).unwrap()
        };
        assert_eq!(place_of("pvc-a", 3, mate("b", 2, Some("n1"), None)), "three");
        assert_eq!(place_of("pvc-b", 2, mate("a", 3, Some("n1"), None)), "four");
    }

    /// F1.
    #[test]
    fn f1_allowed_topologies_are_read_as_kubernetes_reads_them() {
        let node: Node =
            from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "rack": "1"}}})).unwrap();
        let term = |pairs: &[(&str, &[&str])]| {
            let expressions: Vec<Value> =
                pairs.iter().map(|(key, values)| json!({"key": key, "values": values})).collect();
            json!({ "matchLabelExpressions": expressions })
        };
        for (terms, allowed) in [
            (Value::Null, true),
            (json!([]), true),
            (json!([term(&[(TOPOLOGY_NODE, &["n0", "n1"])])]), true),
            (json!([term(&[(TOPOLOGY_NODE, &["n2"])])]), false),
            (json!([term(&[("zone", &["a"]), ("rack", &["2"])])]), false),
            (json!([term(&[("zone", &["a"]), ("rack", &["2"])]), term(&[("rack", &["1"])])]), true),
            (json!([term(&[("missing", &["a"])])]), false),
        ] {
            assert_eq!(allows(&class(terms.clone()), &node), allowed, "{terms}");
        }
    }
}
