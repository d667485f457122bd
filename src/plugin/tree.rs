//! The view `tree`: disk → reservation → refinement, volume → claim → pod.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde::Serialize;

use super::kind::{self, Kind};
use super::paint::{Paint, human};
use super::snapshot::Snapshot;
use super::why::TERMINATING;
use crate::api::condition::{self, READY, RESIZED};
use crate::api::{AccessMode, ClaimBinding, DiskReservation, NodeDisk, Role, SharedPersistentVolume, Size};
use crate::plan::{allocatable, holder, kept, resize};

/// An object in the tree.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Size and access of the object, in a few words.
    pub about: String,
    pub ready: bool,
    /// Reason of the condition `Ready`, or the phase of a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Node>,
}

/// The part of the tree to show.
#[derive(Default)]
pub(super) struct Filter<'a> {
    /// Objects of this role and of roles beneath it.
    pub role: Option<&'a str>,
    /// Objects of this namespace.
    pub namespace: Option<&'a str>,
}

/// Builds the tree: the disks with their content, then the objects without a disk.
pub(super) fn tree(snapshot: &Snapshot, filter: &Filter) -> Vec<Node> {
    let mut roots: Vec<Node> = snapshot.disks.iter().map(|disk| disk_node(snapshot, disk)).collect();
    let exists =
        |name: Option<&String>| name.is_some_and(|name| snapshot.disks.iter().any(|d| d.name_any() == *name));
    for reservation in &snapshot.reservations {
        let status = reservation.status.as_ref();
        let parent = status.and_then(|s| s.parent.as_ref());
        // A parent that was removed by force may have a successor of its name.
        let is_there =
            |uid: &String| snapshot.reservations.iter().any(|r| r.metadata.uid.as_ref() == Some(uid));
        let is_listed = match parent {
            Some(parent) => is_there(&parent.uid),
            None => exists(status.and_then(|s| s.node_disk.as_ref())),
        };
        if !is_listed {
            roots.push(reservation_node(snapshot, reservation));
        }
    }
    let listed = |name: &str| snapshot.reservations.iter().any(|r| r.name_any() == name);
    let unplaced = |v: &&SharedPersistentVolume| reservation_of(v).is_none_or(|name| !listed(name));
    roots.extend(snapshot.volumes.iter().filter(unplaced).map(|v| volume_node(snapshot, v)));
    let volumes: Vec<&str> = snapshot.volumes.iter().filter_map(|v| v.metadata.uid.as_deref()).collect();
    for claim in &snapshot.claims {
        let bound = claim.status.as_ref().and_then(|s| s.volume.as_ref());
        if bound.is_none_or(|volume| !volumes.contains(&volume.uid.as_str())) {
            let mode = claim.spec.mode;
            roots.push(claim_node(snapshot, &claim.namespace().unwrap_or_default(), &claim.name_any(), mode));
        }
    }
    let waiting = snapshot.waiting_pvcs().chain(snapshot.unknown_pvcs());
    roots.extend(waiting.map(|pvc| pvc_node(pvc, "without a volume yet", Some("Pending"), vec![])));
    // A caller without the right to see volumes sees the PersistentVolumeClaims of volumes.
    let served = snapshot.pvcs.iter().filter(|pvc| !snapshot.sees(&kind::VOLUME) && snapshot.is_ours(pvc));
    let is_bound = |pvc: &&PersistentVolumeClaim| {
        let has_volume = pvc.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
        has_volume && snapshot.claim(pvc.namespace().as_deref(), &pvc.name_any()).is_none()
    };
    roots.extend(served.filter(is_bound).map(|pvc| {
        let pods = snapshot.pods_of(&pvc.namespace().unwrap_or_default(), &pvc.name_any());
        pvc_node(pvc, "with a volume that your rights do not show", None, pod_nodes(pods))
    }));
    if let Some(role) = filter.role {
        let of_role = |node: &Node| node.role.as_deref().is_some_and(|of| Role::name_covers(role, of));
        roots.retain_mut(|node| retain_wanted(node, &of_role));
    }
    if let Some(namespace) = filter.namespace {
        let within = |node: &Node| node.namespace.as_deref() == Some(namespace);
        roots.retain_mut(|node| retain_wanted(node, &within));
    }
    roots
}

/// Retains wanted nodes with their descendants and ancestors; returns true if the node is retained.
fn retain_wanted(node: &mut Node, wanted: &dyn Fn(&Node) -> bool) -> bool {
    if wanted(node) {
        return true;
    }
    node.children.retain_mut(|child| retain_wanted(child, wanted));
    !node.children.is_empty()
}

fn reservation_of(volume: &SharedPersistentVolume) -> Option<&str> {
    volume.status.as_ref()?.reservation.as_ref().map(|reservation| reservation.name.as_str())
}

/// The node of an object of Reservoir's kinds, without children.
fn node(snapshot: &Snapshot, kind: &Kind, namespace: Option<&str>, name: &str, about: String) -> Node {
    let item = snapshot.find(kind, namespace, name);
    let ready = item.as_ref().is_some_and(|item| item.is_ready());
    let deleting = item.as_ref().is_some_and(|item| item.deleting);
    let reason =
        item.as_ref().and_then(|item| condition::get(item.conditions, READY)).map(|c| c.reason.clone());
    // The claims of other namespaces may not be listed.
    let without = match &item {
        None => "not seen",
        Some(_) if deleting => "Deleting",
        Some(_) => "not reconciled yet",
    };
    let reason = reason.filter(|_| !ready).unwrap_or_else(|| without.into());
    Node {
        kind: kind.name,
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
        role: item.as_ref().and_then(|item| item.role).map(str::to_owned),
        about,
        ready,
        reason: (!ready).then_some(reason),
        children: vec![],
    }
}

fn disk_node(snapshot: &Snapshot, disk: &NodeDisk) -> Node {
    let name = &disk.name_any();
    let status = disk.status.clone().unwrap_or_default();
    let free = status.free.as_ref().map_or(0, Size::bytes_or_zero);
    let about = format!(
        "{} of {} free on node {}",
        human(free),
        human(allocatable::of_disk(disk)),
        disk.spec.node_name
    );
    let mut node = node(snapshot, &kind::DISK, None, name, about);
    let on = |r: &&DiskReservation| {
        r.status.as_ref().is_some_and(|s| s.node_disk.as_ref() == Some(name) && s.parent.is_none())
    };
    node.children.extend(snapshot.reservations.iter().filter(on).map(|r| reservation_node(snapshot, r)));
    node.children.extend(snapshot.lost(disk).map(|orphan| Node {
        kind: "Orphan",
        namespace: None,
        name: orphan.uid.clone(),
        role: orphan.reservations.first().map(|r| r.role.clone()),
        about: format!("{} {}", orphan.name, human(orphan.size.bytes_or_zero())).trim().to_owned(),
        ready: false,
        reason: Some("NoObject".into()),
        children: vec![],
    }));
    node.children.extend(status.unlisted_orphans.iter().map(|others| Node {
        kind: "Orphan",
        namespace: None,
        name: format!("({} more)", others.count),
        role: None,
        about: human(others.size.bytes_or_zero()),
        ready: false,
        reason: Some("NoObject".into()),
        children: vec![],
    }));
    node
}

fn reservation_node(snapshot: &Snapshot, reservation: &DiskReservation) -> Node {
    let status = reservation.status.clone().unwrap_or_default();
    let about = match &status.node_disk {
        Some(_) => format!(
            "{}, {} of {} free",
            reservation.spec.role,
            human(holder::free(&status)),
            human(holder::size(&status))
        ),
        None => format!("{}, {} requested", reservation.spec.role, reservation.spec.size),
    };
    let mut node = node(snapshot, &kind::RESERVATION, None, &reservation.name_any(), about);
    let uid = reservation.metadata.uid.as_deref();
    let refinement = |r: &&DiskReservation| {
        uid.is_some() && r.status.as_ref().and_then(|s| s.parent.as_ref()).map(|p| p.uid.as_str()) == uid
    };
    node.children
        .extend(snapshot.reservations.iter().filter(refinement).map(|r| reservation_node(snapshot, r)));
    node.children.extend(kept::entries(&status).into_iter().map(|(entry, kept)| Node {
        kind: "Kept",
        namespace: None,
        name: entry.name.clone(),
        role: Some(entry.role.clone()),
        about: format!("{}, destroyed, kept until {}", human(entry.size.bytes_or_zero()), kept.until.0),
        ready: true,
        reason: None,
        children: vec![],
    }));
    let placed = |v: &&SharedPersistentVolume| reservation_of(v) == Some(&reservation.name_any());
    node.children.extend(snapshot.volumes.iter().filter(placed).map(|v| volume_node(snapshot, v)));
    node
}

fn volume_node(snapshot: &Snapshot, volume: &SharedPersistentVolume) -> Node {
    let status = volume.status.clone().unwrap_or_default();
    let access = if volume.spec.shared.is_some() { "shared" } else { "exclusive" };
    let retiring = if volume.spec.retire { ", retiring" } else { "" };
    let sealed = match &status.digest {
        Some(_) => ", sealed",
        None if volume.spec.sealed => ", to be sealed",
        None => "",
    };
    let size = resize::size_now(volume).bytes_or_zero();
    let wished = volume.spec.size.bytes_or_zero();
    // A volume of an undivided disk has more than its spec asks for.
    let waits = condition::get(&status.conditions, RESIZED).is_some_and(|c| c.status != "True");
    let wished = if waits { format!(", {} wished", human(wished)) } else { String::new() };
    let about = format!("{}, {} {access}{sealed}{wished}{retiring}", volume.spec.role, human(size));
    let mut node = node(snapshot, &kind::VOLUME, None, &volume.name_any(), about);
    let claims = status.claims.iter();
    node.children = claims.map(|c| binding_node(snapshot, c)).collect();
    node
}

/// The node of a claim, or of a PersistentVolumeClaim of a StorageClass, that is bound.
fn binding_node(snapshot: &Snapshot, binding: &ClaimBinding) -> Node {
    let mut node = claim_node(snapshot, &binding.namespace, &binding.name, binding.mode);
    if binding.pvc_uid.is_some() {
        (node.kind, node.ready, node.reason) = (kind::PVC.name, true, None);
        node.children = pod_nodes(snapshot.pods_of(&binding.namespace, &binding.name));
    }
    node
}

fn claim_node(snapshot: &Snapshot, namespace: &str, name: &str, mode: AccessMode) -> Node {
    let mut node = node(snapshot, &kind::CLAIM, Some(namespace), name, format!("{mode:?}"));
    node.children = pod_nodes(snapshot.users_of(namespace, name));
    node
}

/// The node of a PersistentVolumeClaim, which is ready without a reason.
fn pvc_node(pvc: &PersistentVolumeClaim, about: &str, reason: Option<&str>, children: Vec<Node>) -> Node {
    let (namespace, name) = (pvc.namespace(), pvc.name_any());
    let (about, ready, reason) = (about.to_owned(), reason.is_none(), reason.map(str::to_owned));
    Node { kind: kind::PVC.name, namespace, name, role: None, about, ready, reason, children }
}

fn pod_nodes<'a>(pods: impl Iterator<Item = &'a Pod>) -> Vec<Node> {
    pods.map(|pod| {
        let phase = pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_else(|| "Pending".into());
        // As kubectl calls it, whatever its phase.
        let ends = pod.metadata.deletion_timestamp.is_some();
        let phase = if ends { TERMINATING.to_owned() } else { phase };
        Node {
            kind: kind::POD.name,
            namespace: pod.namespace(),
            name: pod.name_any(),
            role: None,
            about: String::new(),
            ready: phase == "Running",
            reason: Some(phase),
            children: vec![],
        }
    })
    .collect()
}

/// The view as text.
pub(super) fn text(roots: &[Node], paint: Paint) -> String {
    if roots.is_empty() {
        return "there is nothing to show\n".into();
    }
    let mut text = String::new();
    for root in roots {
        draw(root, "", "", paint, &mut text);
    }
    text
}

fn draw(node: &Node, branch: &str, indent: &str, paint: Paint, text: &mut String) {
    let name = node.namespace.iter().map(|n| format!("{n}/")).collect::<String>() + &node.name;
    let mut line = format!("{}{} {}", paint.dim(branch), paint.dim(node.kind), paint.bold(&name));
    if !node.about.is_empty() {
        line.push_str(&format!("  {}", node.about));
    }
    if let Some(reason) = &node.reason {
        let reason = if node.ready { paint.good(reason) } else { paint.warn(reason) };
        line.push_str(&format!("  {reason}"));
    }
    text.push_str(&line);
    text.push('\n');
    for (i, child) in node.children.iter().enumerate() {
        let last = i + 1 == node.children.len();
        let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(child, &format!("{indent}{branch}"), &format!("{indent}{below}"), paint, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::Verdict;
    use crate::api::{Orphan, SharedPersistentVolumeSpec, UidRef};
    use crate::plan::testing::*;

    fn snapshot() -> Snapshot {
        let mut disk = disk("n1.a", "n1", 10, &[("eng", 4)]);
        let status = disk.status.as_mut().unwrap();
        status.free = Some(gi(6));
        let orphan = Orphan { uid: "dark".into(), size: gi(1), name: "lost".into(), ..Default::default() };
        status.orphans = vec![orphan];
        status.unlisted_orphans = Some(crate::api::UnlistedOrphans { count: 72, size: gi(9) });
        let ready = |mut r: DiskReservation| {
            set_ready(&mut r.status.as_mut().unwrap().conditions, true);
            r
        };
        let mut ml = ready(reserved("ml", "eng/ml", 1, &[]));
        ml.status.as_mut().unwrap().parent = Some(UidRef { name: "eng".into(), uid: "uid-eng".into() });
        let mut data = ready_volume("data", "eng", true);
        let status = data.status.as_mut().unwrap();
        status.reservation = Some(UidRef { name: "eng".into(), uid: "uid-eng".into() });
        status.claims = vec![bound_by("a", "data", "uid-data"), bound_by("b", "data", "other")];
        // A growth that does not fit, and a retirement.
        data.spec = SharedPersistentVolumeSpec { size: gi(9), retire: true, ..data.spec };
        let conditions = &mut data.status.as_mut().unwrap().conditions;
        let full = Verdict::no("ReservationFull", "9Gi wished");
        condition::set(conditions, RESIZED, full, None, jiff::Timestamp::UNIX_EPOCH);
        let mut bound = claim("a", "data", "data");
        let status = bound.status.get_or_insert_default();
        status.volume = Some(UidRef { name: "data".into(), uid: "uid-data".into() });
        set_ready(&mut status.conditions, true);
        let pod = |name: &str, phase: &str| {
            serde_json::from_value(serde_json::json!({"metadata": {"namespace": "a", "name": name},
                "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]},
                "status": {"phase": phase}}))
            .unwrap()
        };
        Snapshot {
            disks: vec![disk],
            reservations: vec![
                ready(reserved("eng", "eng", 4, &[("data", 1)])),
                ml,
                reservation("big", "ops", 99),
            ],
            volumes: vec![data, volume("early", "ops", 1)],
            claims: vec![bound, claim("b", "waits", "early")],
            pods: vec![pod("p", "Running"), pod("done", "Succeeded")],
            ..Snapshot::default()
        }
    }

    fn drawn(filter: &Filter) -> String {
        text(&tree(&snapshot(), filter), Paint::plain())
    }

    #[test]
    fn t4_every_object_has_its_place_in_the_tree() {
        assert_eq!(
            drawn(&Filter::default()),
            "NodeDisk n1.a  6Gi of 10Gi free on node n1\n\
             ├─ DiskReservation eng  eng, 3Gi of 4Gi free\n\
             │  ├─ DiskReservation ml  eng/ml, 1Gi of 1Gi free\n\
             │  └─ SharedPersistentVolume data  eng, 1Gi shared, 9Gi wished, retiring\n\
             │     ├─ VolumeClaim a/data  ReadWrite\n\
             │     │  └─ Pod a/p  Running\n\
             │     └─ VolumeClaim b/data  ReadWrite  not seen\n\
             ├─ Orphan dark  lost 1Gi  NoObject\n\
             └─ Orphan (72 more)  9Gi  NoObject\n\
             DiskReservation big  ops, 99Gi requested  not reconciled yet\n\
             SharedPersistentVolume early  ops, 1Gi shared  not reconciled yet\n\
             VolumeClaim b/waits  ReadWrite  not reconciled yet\n"
        );
    }

    /// T4, X9: somebody removed the finalizers of the parent, which goes on under its name as another one, or not at all.
    #[test]
    fn t4_x9_a_refinement_without_its_parent_has_a_place() {
        let mut snapshot = snapshot();
        snapshot.reservations[1].status.as_mut().unwrap().parent =
            Some(UidRef { name: "eng".into(), uid: "uid-before".into() });
        let text = text(&tree(&snapshot, &Filter::default()), Paint::plain());
        assert!(text.contains("\nDiskReservation ml  eng/ml"), "{text}");
    }

    #[test]
    fn t4_a_filter_keeps_wanted_objects_and_their_ancestors() {
        let of = |role| drawn(&Filter { role: Some(role), namespace: None });
        assert_eq!(of("eng/ml").lines().count(), 3, "the disk, the reservation, its refinement");
        assert!(of("ops").starts_with("DiskReservation big") && !of("ops").contains("eng"), "{}", of("ops"));
        let within = drawn(&Filter { role: None, namespace: Some("a") });
        assert!(within.contains("VolumeClaim a/data") && within.contains("Pod a/p"), "{within}");
        assert!(!within.contains("b/") && !within.contains("ml") && within.contains("NodeDisk"), "{within}");
        assert_eq!(drawn(&Filter { role: Some("nobody"), namespace: None }), "there is nothing to show\n");
    }

    /// T4: a tenant with PersistentVolumeClaims of a class is not told that there is nothing.
    #[test]
    fn t4_the_tree_has_pvcs_whose_volumes_may_not_be_seen() {
        let pvc = serde_json::json!({"metadata": {"namespace": "a", "name": "data"}, "spec": {"volumeName": "pv", "storageClassName": "ours"}});
        let mut snapshot = Snapshot {
            pvcs: vec![serde_json::from_value(pvc).unwrap()],
            pods: snapshot().pods,
            classes: vec!["ours".into()],
            ..Snapshot::default()
        };
        assert!(tree(&snapshot, &Filter::default()).is_empty());
        snapshot.denied = vec![crate::plugin::snapshot::Denied::unseen(&kind::VOLUME)];
        let shown = text(&tree(&snapshot, &Filter::default()), Paint::plain());
        assert!(shown.starts_with("PersistentVolumeClaim a/data  with a volume that your rights"), "{shown}");
        assert!(shown.contains("Pod a/p  Running"), "{shown}");
        snapshot.pods[0].metadata.deletion_timestamp = some_time();
        let shown = text(&tree(&snapshot, &Filter::default()), Paint::plain());
        assert!(shown.contains("Pod a/p  Terminating"), "{shown}");
    }
}
