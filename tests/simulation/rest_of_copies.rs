//! The rules of copies: at each revision and mount, and once nothing fails any more (E2, E3, E5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use reservoir::api::condition::{self, COPIED, READY, reason};
use reservoir::api::{
    AccessMode, DiskKind, DiskReservation, NodeDisk, ReservationPhase, Role, SharedPersistentVolume,
    VolumeClaim,
};
use reservoir::plan::copies::{Around, Family, Obstacle, is_wanted, plan, taken_names, transfer};
use reservoir::plan::create;
use reservoir::plan::node_labels::{AWAY, PREFIX, READY as READY_COPY, is_complete, key, serves_new_pods};

use crate::host::{self, Host, Hosts, Mount};
use crate::rules::{Checked, require};
use crate::seals::Seal;
use crate::server::Server;
use crate::setup::Setup;

const VOLUMES: &str = "sharedpersistentvolumes";

fn is_ready(volume: &SharedPersistentVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, READY))
}

fn node_of(volume: &SharedPersistentVolume) -> Option<&String> {
    volume.status.as_ref().and_then(|status| status.node_name.as_ref())
}

pub fn is_copy_of(copy: &SharedPersistentVolume, of: &SharedPersistentVolume) -> bool {
    copy.spec.copy_of.as_ref().is_some_and(|is| Some(&is.uid) == of.metadata.uid.as_ref())
}

/// The pods on the node of a copy that read it through claims of its original, by UID.
pub fn readers(server: &Server, copy: &SharedPersistentVolume) -> Vec<String> {
    let (Some(of), Some(node)) = (&copy.spec.copy_of, node_of(copy)) else { return vec![] };
    let original: Option<Arc<SharedPersistentVolume>> = server.get(VOLUMES, "", &of.name);
    let original = original.filter(|original| is_copy_of(copy, original));
    let claims: BTreeSet<(String, String)> = original
        .iter()
        .filter_map(|original| original.status.as_ref())
        .flat_map(|status| &status.claims)
        .map(|claim| (claim.namespace.clone(), claim.name.clone()))
        .collect();
    let pods: Vec<Pod> = server.all("pods");
    let reads = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
            && pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(node)
            && reservoir::cluster::claims_of(pod).iter().any(|claim| claims.contains(claim))
    };
    pods.iter().filter(reads).filter_map(ResourceExt::uid).collect()
}

/// Checks a revision of a volume.
pub fn check_revision(
    server: &Server,
    before: &SharedPersistentVolume,
    now: &SharedPersistentVolume,
) -> Checked {
    let name = now.name_any();
    if let Some(of) = now.spec.copy_of.as_ref().filter(|_| is_ready(now)) {
        let has = now.status.as_ref().and_then(|status| status.digest.as_ref());
        require(has == Some(&of.digest), || {
            format!("E2: copy {name} is Ready with digest {has:?}, and its original has {}", of.digest)
        })?;
    }
    let has_tombstone = |volume: &SharedPersistentVolume| {
        let destroy = volume.status.as_ref().and_then(|status| status.destroy.as_ref());
        destroy.is_some_and(|destroy| destroy.tombstone.is_some())
    };
    if !has_tombstone(now) || has_tombstone(before) {
        return Ok(());
    }
    // A controller that does not know of the DELETE yet may make a copy after it, which ends by itself.
    let deleted = now.metadata.deletion_timestamp.as_ref().map(|at| at.0);
    let copies: Vec<SharedPersistentVolume> = server.all(VOLUMES);
    let is_older = |copy: &SharedPersistentVolume| {
        copy.creation_timestamp().map(|at| at.0) < deleted || is_complete(copy)
    };
    let left = copies.iter().find(|copy| is_copy_of(copy, now) && is_older(copy));
    require(left.is_none(), || {
        let left = left.map(ResourceExt::name_any);
        format!("E5: volume {name} has a tombstone, and its copy {left:?} is there")
    })
}

/// Checks a mount: whoever reads a copy reads what was sealed, and nothing else.
pub fn e3_a_reader_has_the_content_of_the_original(
    mounted: &SharedPersistentVolume,
    volume: &SharedPersistentVolume,
    mount: &Mount,
    hosts: &BTreeMap<String, Host>,
) -> Checked {
    let name = mounted.name_any();
    let records = || hosts.values().filter_map(|host| host.records.get(&mount.volume));
    let has = |digest: &str| {
        records().all(|record| matches!(&record.seal, Seal::Sealed(content) if content.digest == digest))
    };
    if let Some(of) = &mounted.spec.copy_of {
        require(has(&of.digest) && mount.mode == AccessMode::ReadOnly, || {
            format!("E2: pod {} has copy {name} mounted, which is not complete", mount.pod.name)
        })?;
    }
    if mount.of == mount.volume {
        return Ok(());
    }
    let digest = volume.status.as_ref().and_then(|status| status.digest.as_ref());
    require(is_copy_of(mounted, volume) && digest.is_some_and(|digest| has(digest)), || {
        let original = volume.name_any();
        format!("E3: pod {} reads {name} in the place of {original}, and that is no copy", mount.pod.name)
    })
}

/// The promises at rest that are not kept.
pub fn check(server: &Server, hosts: &Hosts, setup: &Setup) -> Vec<String> {
    let volumes: Vec<Arc<SharedPersistentVolume>> =
        server.store.list(VOLUMES, "").map(|(_, volume)| volume.typed()).collect();
    let nodes: Vec<Arc<Node>> = server.all("nodes").into_iter().map(Arc::new).collect();
    let mut broken = e3_labels_lead_to_copies(&volumes, &nodes, setup);
    // Nothing of a kind that is being deleted is made (X9).
    if server.is_kind_ending(VOLUMES) {
        return broken;
    }
    let disks: Vec<Arc<NodeDisk>> = server.all("nodedisks").into_iter().map(Arc::new).collect();
    let reservations: Vec<Arc<DiskReservation>> =
        server.all("diskreservations").into_iter().map(Arc::new).collect();
    let is_original = |volume: &&Arc<SharedPersistentVolume>| {
        volume.spec.copies.is_some() && volume.metadata.deletion_timestamp.is_none()
    };
    for original in volumes.iter().filter(is_original) {
        let copies = volumes.iter().filter(|copy| is_copy_of(copy, original)).cloned().collect();
        let (nodes, disks, reservations) = (nodes.clone(), disks.clone(), reservations.clone());
        let find = |name: &str| volumes.iter().find(|volume| volume.name_any() == name).cloned();
        let taken = taken_names(original, &nodes, find);
        let around = Around { copies, nodes, disks, reservations, taken };
        broken.extend(e2_each_selected_node_has_a_copy(original, &around));
        broken.extend(e2_the_numbers_are_right(server, original, &around));
        broken.extend(e3_claims_stay_ready(server, original, &around));
    }
    for copy in volumes.iter().filter(|volume| volume.spec.copy_of.is_some()) {
        broken.extend(e2_only_what_is_wanted_stays(copy, &volumes, &nodes, &disks, &reservations));
        broken.extend(e2_a_ready_copy_is_complete(copy, hosts));
    }
    broken
}

/// A node that is selected and has space for a copy has one, which is complete, or the original says why not.
fn e2_each_selected_node_has_a_copy(original: &SharedPersistentVolume, around: &Around) -> Vec<String> {
    let (name, status) = (original.name_any(), original.status.clone().unwrap_or_default());
    let Some(copies) = original.spec.copies.as_ref().filter(|_| !original.is_ending()) else { return vec![] };
    let Some(said) = condition::get(&status.conditions, COPIED) else {
        return vec![format!("E2: volume {name} says nothing of its copies")];
    };
    if status.digest.is_none() || [reason::COPIES_OFF, reason::NO_NODE_SELECTED].contains(&&*said.reason) {
        return vec![];
    }
    let (mut broken, obstacles) = (Vec::new(), plan(original, around).obstacles);
    for node in &around.nodes {
        let on = node.name_any();
        let mut wanted = copies.node_selector.iter().flatten();
        let is_selected = wanted.all(|(key, value)| node.labels().get(key) == Some(value));
        if !is_selected || status.node_name.as_ref() == Some(&on) {
            continue;
        }
        let here: Vec<_> = around.copies.iter().filter(|copy| node_of(copy) == Some(&on)).collect();
        if here.iter().any(|copy| is_complete(copy) && is_ready(copy)) {
            continue;
        }
        let is_told = said.status == "False" && said.message.contains(&format!("{on}: "));
        // A copy that ends while it is used makes place for the next one then.
        let ends = here.iter().any(|copy| copy.is_ending());
        if !is_told && !ends {
            broken.push(format!(
                "E2: node {on} has no copy of volume {name}, which says {}: {}",
                said.reason, said.message
            ));
        }
        let is_taken = |(of, why): &(String, Obstacle)| *of == on && matches!(why, Obstacle::NameTaken(_));
        if here.is_empty() && has_space(original, &on, around) && !obstacles.iter().any(is_taken) {
            broken.push(format!("E2: node {on} has space, and no copy of volume {name}: {}", said.message));
        }
    }
    broken
}

/// True if a reservation on a divided disk of the node has space for a copy.
fn has_space(original: &SharedPersistentVolume, node: &str, around: &Around) -> bool {
    let status = original.status.clone().unwrap_or_default();
    let bytes = status.size.as_ref().unwrap_or(&original.spec.size).bytes_or_zero();
    let serves = |of: &DiskReservation| {
        let on = of.status.as_ref().and_then(|status| status.node_disk.as_ref());
        around.disks.iter().any(|disk| {
            disk.metadata.name.as_ref() == on
                && on != status.node_disk.as_ref()
                && disk.spec.kind == DiskKind::Path
                && transfer(disk).is_some()
                && disk.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, READY))
        })
    };
    around.reservations.iter().any(|of| {
        let has = of.status.clone().unwrap_or_default();
        of.metadata.deletion_timestamp.is_none()
            && has.phase == ReservationPhase::Reserved
            && has.node_name.as_deref() == Some(node)
            && Role::name_covers(&of.spec.role, &original.spec.role)
            && create::free(of) >= bytes
            && serves(of)
    })
}

fn e2_the_numbers_are_right(
    server: &Server,
    original: &SharedPersistentVolume,
    around: &Around,
) -> Vec<String> {
    let (name, status) = (original.name_any(), original.status.clone().unwrap_or_default());
    let due = plan(original, around);
    let mut broken = Vec::new();
    if let Some(missing) = due.missing.first() {
        broken.push(format!("E2: volume {name} is to have copy {}, which is not made", missing.name_any()));
    }
    let said = condition::get(&status.conditions, COPIED).map(|said| &*said.reason);
    let is_due = due.verdict.as_ref().map(|verdict| verdict.reason);
    if said != is_due || status.copies != due.status {
        broken.push(format!(
            "E2: volume {name} says {said:?} and {:?}, and it is {is_due:?} and {:?}",
            status.copies, due.status
        ));
    }
    let is_used = |copy: &&Arc<SharedPersistentVolume>| {
        let status = copy.status.clone().unwrap_or_default();
        !status.claims.is_empty() || !readers(server, copy).is_empty()
    };
    let used = around.copies.iter().filter(is_used).count();
    if status.copies.map_or(0, |copies| copies.used as usize) != used {
        broken.push(format!("E5: {used} copies of volume {name} are used, and it says {:?}", status.copies));
    }
    broken
}

/// A copy of a node that is not selected ends, and one that is wanted does not.
fn e2_only_what_is_wanted_stays(
    copy: &SharedPersistentVolume,
    volumes: &[Arc<SharedPersistentVolume>],
    nodes: &[Arc<Node>],
    disks: &[Arc<NodeDisk>],
    reservations: &[Arc<DiskReservation>],
) -> Option<String> {
    if copy.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let original = volumes.iter().find(|volume| is_copy_of(copy, volume)).cloned();
    let of_family =
        |other: &&Arc<SharedPersistentVolume>| original.as_ref().is_some_and(|of| is_copy_of(other, of));
    let copies = volumes.iter().filter(of_family).cloned().collect();
    let on = node_of(copy).or(copy.spec.copy_of.as_ref().map(|of| &of.node));
    let node = nodes.iter().find(|node| node.metadata.name.as_ref() == on).cloned();
    let reservation = reservations.iter().find(|of| of.metadata.name == copy.spec.reservation).cloned();
    let wanted = is_wanted(copy, &Family { original, copies, disks: disks.to_vec(), node, reservation })?;
    (wanted == copy.spec.retire).then(|| {
        format!("E2: copy {} is wanted: {wanted}, and retires: {}", copy.name_any(), copy.spec.retire)
    })
}

fn e2_a_ready_copy_is_complete(copy: &SharedPersistentVolume, hosts: &Hosts) -> Option<String> {
    let (of, uid) = (copy.spec.copy_of.as_ref().filter(|_| is_ready(copy))?, copy.uid()?);
    let hosts = host::lock(hosts);
    let record = hosts.get(node_of(copy)?)?.records.get(&uid);
    let is_it = |record: &host::Record| {
        matches!(&record.seal, Seal::Sealed(content) if content.digest == of.digest)
            && record.files.content().digest == of.digest
    };
    (!record.is_some_and(is_it))
        .then(|| format!("E2: copy {} is Ready, and its disk has {record:?}", copy.name_any()))
}

/// Each label of a node stands for a copy there, and each copy that can be used has one.
fn e3_labels_lead_to_copies(
    volumes: &[Arc<SharedPersistentVolume>],
    nodes: &[Arc<Node>],
    setup: &Setup,
) -> Vec<String> {
    let mut wanted: BTreeMap<(String, String), &str> = BTreeMap::new();
    for original in volumes.iter().filter(|_| setup.copies) {
        let label = key(&original.uid().unwrap_or_default());
        let serving: Vec<_> =
            volumes.iter().filter(|copy| is_copy_of(copy, original) && serves_new_pods(copy)).collect();
        let own = node_of(original).filter(|_| !is_ready(original) && !serving.is_empty());
        wanted.extend(own.map(|node| ((node.clone(), label.clone()), AWAY)));
        let ready = serving.iter().filter_map(|copy| node_of(copy));
        wanted.extend(ready.map(|node| ((node.clone(), label.clone()), READY_COPY)));
    }
    let mut broken = Vec::new();
    for node in nodes {
        let name = node.name_any();
        let has = node.labels().iter().filter(|(label, _)| label.starts_with(PREFIX));
        let has: BTreeMap<&String, &str> = has.map(|(label, value)| (label, &**value)).collect();
        let due: BTreeMap<&String, &str> = wanted
            .iter()
            .filter(|((on, _), _)| *on == name)
            .map(|((_, label), value)| (label, *value))
            .collect();
        if has != due {
            broken.push(format!("E3: node {name} has the labels {has:?}, and its copies {due:?}"));
        }
    }
    broken
}

/// A claim stays Ready while its volume cannot be used and a copy can.
fn e3_claims_stay_ready(server: &Server, original: &SharedPersistentVolume, around: &Around) -> Vec<String> {
    if original.is_ending() || is_ready(original) || !around.copies.iter().any(|copy| serves_new_pods(copy)) {
        return vec![];
    }
    let claims: Vec<VolumeClaim> = server.all("volumeclaims");
    let is_bound = |claim: &&VolumeClaim| {
        let mut bound = original.status.iter().flat_map(|status| &status.claims);
        claim.metadata.deletion_timestamp.is_none()
            && bound.any(|bound| Some(&bound.uid) == claim.metadata.uid.as_ref() && !bound.ending)
    };
    let said = |claim: &VolumeClaim| {
        let status = claim.status.clone().unwrap_or_default();
        condition::get(&status.conditions, READY).cloned()
    };
    let waiting = claims.iter().filter(is_bound).filter_map(|claim| Some((claim.name_any(), said(claim)?)));
    let waiting = waiting.filter(|(_, ready)| ready.status != "True");
    let broken = waiting.map(|(claim, ready)| {
        format!(
            "E3: claim {claim} is {}, although a copy of volume {} can be used",
            ready.reason,
            original.name_any()
        )
    });
    broken.collect()
}
