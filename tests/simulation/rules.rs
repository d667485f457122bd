//! What must hold at every revision: a function for each rule of docs/semantics.md that a state can break.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt;
use reservoir::api::{
    AccessMode, BackingState, ClaimBinding, DiskReservation, LABEL_PVC_UID, LedgerEntry, NodeDisk, Role,
    SharedPersistentVolume, Size, condition,
};
use serde::Deserialize;
use serde_json::Value;

use crate::host::{self, Host, Hosts, Mount};
use crate::rest_of_copies;
use crate::seals;
use crate::server::{Object, Request, Revision, Server, Shared, is_being_deleted, is_ours, lock};

pub type Checked = Result<(), String>;

fn sum(entries: &[LedgerEntry]) -> u64 {
    entries.iter().map(|entry| entry.size.bytes_or_zero()).sum()
}

fn bytes(size: Option<&Size>) -> u64 {
    size.map_or(0, Size::bytes_or_zero)
}

pub fn require(holds: bool, broken: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(broken()) }
}

/// Checks one revision.
pub fn check(server: &Server, revision: &Revision, hosts: &Hosts) -> Checked {
    match (revision.id.0, revision.is_gone) {
        ("nodedisks", false) => {
            let before: Option<Arc<NodeDisk>> = revision.before.as_ref().map(|before| before.typed());
            s1_a_disk_gives_what_it_has(server, before.as_deref(), &revision.now.typed())
        }
        ("diskreservations", false) => {
            let now: Arc<DiskReservation> = revision.now.typed();
            s1_a_reservation_gives_what_it_has(&now)?;
            s1_a_reservation_is_in_a_ledger(server, &now)?;
            s1_reservations_fit_on_their_disk(server, &now)?;
            volumes_of(server, &now)
                .iter()
                .try_for_each(|volume| s2_a_volume_is_in_a_reservation(server, volume))
        }
        ("diskreservations", true) => {
            let gone: Arc<DiskReservation> = revision.now.typed();
            volumes_of(server, &gone)
                .iter()
                .try_for_each(|volume| s2_a_volume_is_in_a_reservation(server, volume))?;
            s3_nothing_is_left_of_a_reservation(server, &gone, hosts)
        }
        ("sharedpersistentvolumes", false) => {
            let now: Arc<SharedPersistentVolume> = revision.now.typed();
            let before: Option<Arc<SharedPersistentVolume>> =
                revision.before.as_ref().map(|before| before.typed());
            s2_a_volume_is_in_a_reservation(server, &now)?;
            c3_an_exclusive_volume_has_one_claim(&now)?;
            let Some(before) = before else { return Ok(()) };
            s5_only_a_ready_volume_is_bound(&before, &now)?;
            s8_a_binding_is_written_once(&before, &now)?;
            x2_nobody_binds_to_a_volume_that_goes(&before, &now)?;
            seals::check(&before, &now, hosts)?;
            rest_of_copies::check_revision(server, &before, &now)?;
            // D4, D7: the node of a disk that was declared gone says nothing any more.
            if !server.gone.contains(&now.uid().unwrap_or_default()) {
                c6_a_binding_ends_after_its_mounts(&before, &now, hosts)?;
                s10_a_tombstone_finds_no_user(&before, &now, hosts)?;
            }
            s11_a_tombstone_stays(&before, &now)
        }
        ("sharedpersistentvolumes", true) if is_lost(server, &revision.now["metadata"]["uid"]) => Ok(()),
        ("sharedpersistentvolumes", true) => {
            l5_nothing_is_left_of_a_volume(server, &revision.now.typed(), hosts)
        }
        _ => Ok(()),
    }
}

/// X9: true if somebody else than Reservoir ends the object. Its data, or the data in it, stays.
fn is_lost(server: &Server, uid: &Value) -> bool {
    uid.as_str().is_some_and(|uid| server.lost.contains(uid))
}

fn volumes_of(server: &Server, reservation: &DiskReservation) -> Vec<Arc<SharedPersistentVolume>> {
    let uid = reservation.uid().unwrap_or_default();
    let all = server.store.list("sharedpersistentvolumes", "").map(|(_, volume)| volume);
    all.filter(|volume| volume["status"]["reservation"]["uid"] == *uid).map(|volume| volume.typed()).collect()
}

/// A disk that others fill has less than before. Then it gives no more.
fn s1_a_disk_gives_what_it_has(server: &Server, before: Option<&NodeDisk>, disk: &NodeDisk) -> Checked {
    // The reservations of a NodeDisk that went with its kind get their entries again, whatever others take of the disk now.
    if server.was_kind_deleted("nodedisks") {
        return Ok(());
    }
    let Some(status) = &disk.status else { return Ok(()) };
    // The agent has not said yet what a disk has that was made anew. Its reservations have their entries again.
    let Some(has) = status.allocatable.as_ref().map(Size::bytes_or_zero) else { return Ok(()) };
    let given = sum(&status.reservations);
    let gave = before.and_then(|disk| disk.status.as_ref()).map_or(0, |status| sum(&status.reservations));
    require(given <= has.max(gave), || {
        format!("S1: NodeDisk {} has {has} bytes, and its reservations {given}", disk.name_any())
    })
}

fn s1_a_reservation_gives_what_it_has(reservation: &DiskReservation) -> Checked {
    let Some(status) = &reservation.status else { return Ok(()) };
    let (given, has) = (sum(&status.volumes) + sum(&status.refinements), bytes(status.size.as_ref()));
    require(given <= has, || {
        format!("S1: reservation {} has {has} bytes, and gives {given}", reservation.name_any())
    })
}

fn s1_a_reservation_is_in_a_ledger(server: &Server, reservation: &DiskReservation) -> Checked {
    let Some(status) = &reservation.status else { return Ok(()) };
    let size = bytes(status.size.as_ref());
    let used = sum(&status.volumes) + sum(&status.refinements);
    // An empty reservation that goes loses its entry before its finalizer.
    if size == 0 || reservation.metadata.deletion_timestamp.is_some() && used == 0 {
        return Ok(());
    }
    let uid = reservation.uid().unwrap_or_default();
    if status.parent.as_ref().is_some_and(|parent| server.lost.contains(&parent.uid)) {
        return Ok(());
    }
    // The ledger of a NodeDisk that went with its kind is made anew.
    if status.parent.is_none() && server.was_kind_deleted("nodedisks") {
        return Ok(());
    }
    let own = |entries: &[LedgerEntry]| {
        entries.iter().find(|entry| entry.uid == uid).map(|entry| entry.size.bytes_or_zero())
    };
    let entry = match (&status.parent, &status.node_disk) {
        (Some(parent), _) => server
            .get::<DiskReservation>("diskreservations", "", &parent.name)
            .and_then(|parent| own(&parent.status.as_ref()?.refinements)),
        (None, Some(disk)) => server
            .get::<NodeDisk>("nodedisks", "", disk)
            .and_then(|disk| own(&disk.status.as_ref()?.reservations)),
        (None, None) => None,
    };
    let entry = entry.unwrap_or(0);
    require(entry >= size, || {
        format!("S1: reservation {} has {size} bytes, and its entry {entry}", reservation.name_any())
    })
}

/// S1, whatever the ledger of the disk has.
fn s1_reservations_fit_on_their_disk(server: &Server, reservation: &DiskReservation) -> Checked {
    let Some(disk) = reservation.status.as_ref().and_then(|status| status.node_disk.as_deref()) else {
        return Ok(());
    };
    // An empty reservation that goes loses its entry before its finalizer.
    let has = |other: &Value| !is_being_deleted(other) || other["status"]["used"] != "0";
    let all = server.store.list("diskreservations", "").map(|(_, other)| &**other).filter(|other| has(other));
    let on_it = all.map(|other| &other["status"]);
    let on_it = on_it.filter(|status| status["nodeDisk"] == *disk && status["parent"].is_null());
    let size = |status: &serde_json::Value| bytes(Size::deserialize(&status["size"]).ok().as_ref());
    let given: u64 = on_it.map(size).sum();
    require(given <= host::CAPACITY, || format!("S1: the reservations on {disk} have {given} bytes"))
}

fn s2_a_volume_is_in_a_reservation(server: &Server, volume: &SharedPersistentVolume) -> Checked {
    let (name, uid) = (volume.name_any(), volume.uid().unwrap_or_default());
    let Some(status) = &volume.status else { return Ok(()) };
    let Some(own) = &status.reservation else { return Ok(()) };
    let destroyed = status.destroy.as_ref().is_some_and(|destroy| destroy.tombstone.is_some());
    // A volume that was never made is `Erased` without a tombstone (X10).
    let has_data = [BackingState::Made, BackingState::Kept];
    let has_data = status.node.as_ref().is_some_and(|node| has_data.contains(&node.backing));
    // At its end a volume loses its entry before its finalizer.
    if volume.metadata.deletion_timestamp.is_some() && (destroyed || !has_data) {
        return Ok(());
    }
    let found = server.get::<DiskReservation>("diskreservations", "", &own.name);
    let found = found.filter(|r| r.metadata.uid.as_ref() == Some(&own.uid));
    let Some(reservation) = found else {
        if server.lost.contains(&own.uid) {
            return Ok(());
        }
        return Err(format!("S2: volume {name} is in reservation {}, which is gone", own.name));
    };
    require(Role::name_covers(&reservation.spec.role, &volume.spec.role), || {
        format!(
            "S2: volume {name} of role {} is in {} of role {}",
            volume.spec.role, own.name, reservation.spec.role
        )
    })?;
    let has = reservation.status.clone().unwrap_or_default();
    require(has.node_disk == status.node_disk, || {
        format!("S2: volume {name} is on another disk than {}", own.name)
    })?;
    let entry =
        has.volumes.iter().find(|entry| entry.uid == uid).map_or(0, |entry| entry.size.bytes_or_zero());
    let size = bytes(status.size.as_ref());
    require(entry >= size, || {
        format!("S2: volume {name} has {size} bytes, and its entry in {} {entry}", own.name)
    })
}

fn s3_nothing_is_left_of_a_reservation(server: &Server, gone: &DiskReservation, hosts: &Hosts) -> Checked {
    let uid = gone.uid().unwrap_or_default();
    // X9: a restored etcd has the volume without a place, and its data is an orphan.
    let is_orphan = |of: &String| {
        let volumes = server.store.list("sharedpersistentvolumes", "");
        let mut placed = volumes.filter(|(_, volume)| volume["status"]["nodeName"].is_string());
        server.was_restored() && !placed.any(|(_, volume)| volume["metadata"]["uid"] == *of.as_str())
    };
    for host in host::lock(hosts).values() {
        let is_left = |(of, record): &(&String, &host::Record)| {
            let is_lost = server.lost.contains(*of) || server.lost.contains(&uid) || is_orphan(of);
            record.reservation == uid && !is_lost
        };
        if let Some((_, record)) = host.records.iter().find(is_left) {
            return Err(format!(
                "S3: reservation {} is gone, and the data of {} is left",
                gone.name_any(),
                record.name
            ));
        }
    }
    Ok(())
}

pub fn claims(volume: &SharedPersistentVolume) -> BTreeMap<String, ClaimBinding> {
    let claims = volume.status.iter().flat_map(|status| &status.claims);
    claims.map(|claim| (claim.uid.clone(), claim.clone())).collect()
}

fn c3_an_exclusive_volume_has_one_claim(volume: &SharedPersistentVolume) -> Checked {
    let number = claims(volume).len();
    require(volume.spec.shared.is_some() || number <= 1, || {
        format!("C3: exclusive volume {} has {number} claims", volume.name_any())
    })
}

/// S5: a claim binds to what may be on offer, on the very revision that the binding replaces. A volume that was made for a
/// PersistentVolumeClaim is on offer to nobody, and the write that reports it as Ready binds its claim (P1).
fn s5_only_a_ready_volume_is_bound(before: &SharedPersistentVolume, now: &SharedPersistentVolume) -> Checked {
    let had = claims(before);
    let is_ready = |volume: &SharedPersistentVolume| {
        volume.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, condition::READY))
    };
    for claim in claims(now).values().filter(|claim| !had.contains_key(&claim.uid)) {
        require(is_ready(before) || is_ready(now), || {
            format!("S5: {claim} was bound to volume {}, which is not Ready", now.name_any())
        })?;
    }
    Ok(())
}

fn s8_a_binding_is_written_once(before: &SharedPersistentVolume, now: &SharedPersistentVolume) -> Checked {
    let now_bound = claims(now);
    for (uid, was) in claims(before) {
        let Some(is) = now_bound.get(&uid) else { continue };
        // P1: the PersistentVolumeClaim takes over the entry of the VolumeClaim that an earlier version made.
        let pvc_uid = was.pvc_uid.clone().or_else(|| is.pvc_uid.clone());
        let same =
            ClaimBinding { ending: is.ending, pvc_uid, ..was.clone() } == *is && (is.ending || !was.ending);
        require(same, || format!("S8: the binding of {was} to volume {} changed to {is:?}", now.name_any()))?;
    }
    Ok(())
}

fn x2_nobody_binds_to_a_volume_that_goes(
    before: &SharedPersistentVolume,
    now: &SharedPersistentVolume,
) -> Checked {
    let had = claims(before);
    let goes = before.metadata.deletion_timestamp.is_some();
    for (_, claim) in claims(now).into_iter().filter(|(uid, _)| !had.contains_key(uid)) {
        require(!goes, || {
            format!("X2: {claim} was bound to volume {}, which is being deleted", now.name_any())
        })?;
        require(!before.spec.retire, || {
            format!("X5: {claim} was bound to volume {}, which retires", now.name_any())
        })?;
    }
    Ok(())
}

fn c6_a_binding_ends_after_its_mounts(
    before: &SharedPersistentVolume,
    now: &SharedPersistentVolume,
    hosts: &Hosts,
) -> Checked {
    let (had, has) = (claims(before), claims(now));
    for claim in had.values().filter(|claim| !has.contains_key(&claim.uid)) {
        for host in host::lock(hosts).values() {
            // The node of a copy keeps it for a reader that is left of a pod that was deleted by force.
            let of_volume = |mount: &&Mount| now.metadata.uid.as_ref() == Some(&mount.volume);
            let mounted = host.mounts.values().filter(of_volume).find(|mount| mount.claim == claim.uid);
            if let Some(mount) = mounted {
                return Err(format!(
                    "S7: the binding of {claim} to volume {} ended, and pod {} has it mounted",
                    now.name_any(),
                    mount.pod.name
                ));
            }
        }
    }
    Ok(())
}

fn has_tombstone(volume: &SharedPersistentVolume) -> Option<String> {
    let destroy = volume.status.as_ref()?.destroy.as_ref()?;
    destroy.tombstone.as_ref().map(|at| at.0.to_string())
}

fn s10_a_tombstone_finds_no_user(
    before: &SharedPersistentVolume,
    now: &SharedPersistentVolume,
    hosts: &Hosts,
) -> Checked {
    if has_tombstone(now).is_none() || has_tombstone(before).is_some() {
        return Ok(());
    }
    let name = now.name_any();
    require(now.metadata.deletion_timestamp.is_some(), || {
        format!("S10: {name} has a tombstone, and no DELETE")
    })?;
    require(claims(now).is_empty(), || format!("S10: {name} has a tombstone, and is bound"))?;
    let uid = now.uid().unwrap_or_default();
    for host in host::lock(hosts).values() {
        require(host.mounts_of(&uid).is_empty(), || format!("S10: {name} has a tombstone, and is mounted"))?;
        let open = host.records.get(&uid).is_some_and(|record| !record.fenced);
        require(!open, || format!("S10: {name} has a tombstone, and its node still lets pods mount it"))?;
    }
    Ok(())
}

fn s11_a_tombstone_stays(before: &SharedPersistentVolume, now: &SharedPersistentVolume) -> Checked {
    let was = has_tombstone(before);
    require(was.is_none() || was == has_tombstone(now), || {
        format!("S11: the tombstone of volume {} was {was:?} and is {:?}", now.name_any(), has_tombstone(now))
    })
}

/// L5, S14: an object that goes in order leaves no data, unless the data is kept (X8), or a restored etcd had the object
/// from before its placement (X9).
fn l5_nothing_is_left_of_a_volume(server: &Server, gone: &SharedPersistentVolume, hosts: &Hosts) -> Checked {
    if server.was_restored() && gone.status.as_ref().is_none_or(|status| status.node_name.is_none()) {
        return Ok(());
    }
    let uid = gone.uid().unwrap_or_default();
    for host in host::lock(hosts).values() {
        if let Some(record) = host.records.get(&uid).filter(|record| record.size.is_some()) {
            require(record.kept.is_some(), || {
                format!("L5: volume {} is gone, and its data is left", gone.name_any())
            })?;
        }
    }
    Ok(())
}

/// S2: called before an agent makes a volume, which is in a ledger then.
pub fn before_make(server: &Shared, node: &str, uid: &str) {
    let mut server = lock(server);
    let is_it = |(_, volume): &(_, &Arc<Object>)| volume["metadata"]["uid"] == *uid;
    let volume =
        server.store.list("sharedpersistentvolumes", "").find(is_it).map(|(_, volume)| volume.typed());
    let Some(volume): Option<Arc<SharedPersistentVolume>> = volume else { return };
    let own = volume.status.as_ref().and_then(|status| status.reservation.as_ref());
    // The ledger may have gone otherwise than by Reservoir, before the place was written.
    let is_lost = own.map_or(!server.lost.is_empty(), |own| server.lost.contains(&own.uid));
    let has_entry = |of: &Value| {
        let mut entries = of["status"]["volumes"].as_array().into_iter().flatten();
        entries.any(|entry| entry["uid"] == *uid)
    };
    let is_in_a_ledger = server.store.list("diskreservations", "").any(|(_, of)| has_entry(of));
    if volume.metadata.deletion_timestamp.is_none() && !is_lost && !is_in_a_ledger {
        let name = volume.name_any();
        server.violations.push(format!("S2: node {node} makes volume {name}, which is in no ledger"));
    }
}

/// S10: called before an agent erases.
pub fn before_erase(server: &Shared, node: &str, uid: &str, read: &SharedPersistentVolume) {
    let mut server = lock(server);
    let now: Option<Arc<SharedPersistentVolume>> =
        server.get("sharedpersistentvolumes", "", &read.name_any());
    let now = now.filter(|now| now.uid().as_deref() == Some(uid));
    let name = read.name_any();
    let broken = match now {
        // The end was decided before the object went.
        None if server.lost.contains(uid) && has_tombstone(read).is_some() => None,
        None => Some(format!("S14: node {node} erases volume {name}, which has no object")),
        Some(now) if has_tombstone(&now).is_none() => {
            Some(format!("S10: node {node} erases volume {name}, which has no tombstone"))
        }
        Some(now) if !claims(&now).is_empty() => {
            Some(format!("S10: node {node} erases volume {name}, which is bound"))
        }
        Some(_) => None,
    };
    server.violations.extend(broken);
}

/// Called after a mount: S6, S7, S9, S16, E1, E3.
pub fn after_publish(server: &Shared, hosts: &Hosts, node: &str, mount: &Mount) {
    let mut server = lock(server);
    let find = |uid: &str| -> Option<Arc<SharedPersistentVolume>> {
        let mut all = server.store.list("sharedpersistentvolumes", "");
        all.find(|(_, volume)| volume["metadata"]["uid"] == *uid).map(|(_, volume)| volume.typed())
    };
    let (Some(mounted), Some(volume)) = (find(&mount.volume), find(&mount.of)) else { return };
    let hosts = host::lock(hosts);
    let checked = [
        s6_an_exclusive_volume_is_in_one_pod(&volume, &hosts),
        s7_a_mount_is_of_a_binding(&mounted, &volume, node, mount),
        s9_a_reader_gets_a_mount_for_reading(&volume, mount),
        seals::e1_nobody_mounts_a_sealed_volume_to_write(&mounted, mount),
        rest_of_copies::e3_a_reader_has_the_content_of_the_original(&mounted, &volume, mount, &hosts),
        s16_a_claim_is_mounted_once_in_a_pod(&hosts, mount),
    ];
    server.violations.extend(checked.into_iter().filter_map(Result::err));
}

fn s6_an_exclusive_volume_is_in_one_pod(
    volume: &SharedPersistentVolume,
    hosts: &BTreeMap<String, Host>,
) -> Checked {
    let uid = volume.uid().unwrap_or_default();
    let mounts: Vec<&Mount> = hosts.values().flat_map(|host| host.mounts_of(&uid)).collect();
    let pods: BTreeSet<&str> = mounts.iter().map(|mount| &*mount.pod.uid).collect();
    // F1: ReadWriteOnce of a class means the pods of a node.
    let may_be_several =
        volume.labels().contains_key(LABEL_PVC_UID) && mounts.iter().all(|mount| mount.several_pods);
    require(volume.spec.shared.is_some() || pods.len() <= 1 || may_be_several, || {
        format!("S6: {} pods have exclusive volume {} mounted", pods.len(), volume.name_any())
    })
}

/// The publish read the volume before. Since then the claim may have been marked as ending, and not have lost its binding.
fn s7_a_mount_is_of_a_binding(
    mounted: &SharedPersistentVolume,
    volume: &SharedPersistentVolume,
    node: &str,
    mount: &Mount,
) -> Checked {
    let name = mounted.name_any();
    require(mounted.status.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node), || {
        format!("S7: volume {name} is mounted on node {node}, which is not its node")
    })?;
    let bound = claims(volume).get(&mount.claim).cloned();
    require(bound.is_some_and(|bound| bound.namespace == mount.pod.namespace), || {
        format!("S7: pod {} has volume {name} mounted, and its claim is not bound", mount.pod.name)
    })
}

fn s9_a_reader_gets_a_mount_for_reading(volume: &SharedPersistentVolume, mount: &Mount) -> Checked {
    let reads = claims(volume).get(&mount.claim).is_some_and(|bound| bound.mode == AccessMode::ReadOnly);
    require(!reads || mount.mode == AccessMode::ReadOnly, || {
        format!("S9: pod {} reads volume {}, and may write to it", mount.pod.name, volume.name_any())
    })
}

fn s16_a_claim_is_mounted_once_in_a_pod(hosts: &BTreeMap<String, Host>, mount: &Mount) -> Checked {
    let same = |other: &&Mount| other.claim == mount.claim && other.pod.uid == mount.pod.uid;
    let times = hosts.values().flat_map(|host| host.mounts.values()).filter(same).count();
    require(times <= 1, || format!("S16: pod {} has one claim mounted {times} times", mount.pod.name))
}

/// S15: a status is written by compare-and-swap. Only controllers and agents write the status of our kinds.
pub fn s15_a_status_has_the_version_that_was_read(who: &str, request: &Request) -> Checked {
    let has_version = request.body["metadata"]["resourceVersion"].is_string();
    require(!is_ours(who) || request.subresource != "status" || has_version, || {
        format!("S15: {who} writes {} without the version that was read", request.describe())
    })
}

/// S13: of each volume one file system is made.
pub fn s13_a_volume_is_made_once(hosts: &Hosts) -> Checked {
    let mut made: BTreeMap<String, u32> = BTreeMap::new();
    for (uid, times) in host::lock(hosts).values().flat_map(|host| &host.made) {
        *made.entry(uid.clone()).or_default() += times;
    }
    let twice = made.iter().find(|(_, times)| **times > 1);
    require(twice.is_none(), || format!("S13: volume {twice:?} was made more than once"))
}
