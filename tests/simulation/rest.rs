//! The rules that hold once nothing fails any more (L1, L2, L5, L6, L8).

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};
use reservoir::api::{
    AccessMode, DiskReservation, LABEL_VOLUME_UID, NodeDisk, SharedPersistentVolume, Size, VolumeClaim,
    VolumeOffer, condition,
};
use reservoir::plan::node_labels::serves_new_pods;
use reservoir::plan::pvc_provisioner::SELECTED_NODE;
use serde_json::Value;

use crate::classes;
use crate::host::{self, Host, Hosts};
use crate::kubernetes;
use crate::rest_of_copies::{self, is_copy_of, readers};
use crate::rest_of_disks;
use crate::seals;
use crate::server::{Revision, Server, Shared, lock};
use crate::setup::Setup;

/// By then everything is at rest.
pub const WITHIN: Duration = Duration::from_secs(3600);
/// So long nothing is written.
const QUIET: Duration = Duration::from_secs(400);
/// In this time after the last write the events about it are sent.
const TELLING: u64 = 120;

/// A time in which nothing is written but the turns of reservations that wait.
#[derive(Default)]
pub struct Rest {
    /// The last version that was counted; `None` at the begin.
    version: Option<u64>,
    seconds: u64,
    /// Number of the writes of turns.
    turns: usize,
    /// Number of all events, some time after the last write.
    events: usize,
}

impl Rest {
    /// A second has passed.
    pub fn count(&mut self, server: &Server) {
        let Some(version) = self.version.replace(server.store.version) else { return };
        let since = server.store.log.iter().rev().take_while(|revision| revision.version > version);
        let since = since.filter(|revision| !is_tried_again(server, revision));
        let (turns, others): (Vec<_>, Vec<_>) = since.partition(|revision| is_turn(revision));
        (self.seconds, self.turns) =
            if others.is_empty() { (self.seconds + 1, self.turns + turns.len()) } else { (0, 0) };
        if self.seconds <= TELLING {
            self.events = server.events.len();
        }
    }

    pub fn is_long(&self) -> bool {
        self.seconds > QUIET.as_secs()
    }

    /// T2: two turns end in that time at most, and each changes the reason of a wait twice at most.
    fn t2_nothing_is_written_again_and_again(&self, server: &Server, waiting: usize) -> Option<String> {
        let last = server.store.log.last().map(|revision| format!("{:?}", revision.id));
        (!self.is_long() || self.turns > 4 * waiting)
            .then(|| format!("T2: nothing happens, and something is written again and again, last {last:?}"))
    }

    /// T2: what lasts is told once.
    fn t2_nothing_is_told_again_and_again(&self, server: &Server) -> Option<String> {
        let mut told: Vec<&String> = server.events.iter().skip(self.events).collect();
        told.sort();
        let again = told.windows(2).find(|pair| pair[0] == pair[1])?[0];
        Some(format!("T2: nothing happens, and an event is sent again: {again}"))
    }
}

/// P2: the scheduler tries a pod again and again whose claims fit nowhere together, and is told for a while that they do not.
fn is_tried_again(server: &Server, revision: &Revision) -> bool {
    let without_choice = |object: &Value| {
        let mut object = object.clone();
        object["metadata"]["resourceVersion"].take();
        object["metadata"]["annotations"][SELECTED_NODE].take();
        object
    };
    let is_choice = match revision.id.0 {
        "persistentvolumeclaims" => revision
            .before
            .as_ref()
            .is_some_and(|before| without_choice(before) == without_choice(&revision.now)),
        "csistoragecapacities" => true,
        _ => false,
    };
    is_choice
        && kubernetes::pods(server)
            .iter()
            .any(|pod| pod["spec"]["nodeName"].is_null() && kubernetes::claims_of(pod).len() > 1)
}

/// Q5: true if the revision begins a turn, or changes the reason of a wait for another reservation's turn. A volume cites the
/// reason of its reservation.
fn is_turn(revision: &Revision) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        object["metadata"]["resourceVersion"].take();
        object["status"]["turn"].take();
        let conditions = object["status"]["conditions"].as_array_mut().into_iter().flatten();
        for condition in conditions {
            (condition["message"], condition["reason"]) = Default::default();
        }
        object
    };
    let kinds = ["diskreservations", "sharedpersistentvolumes"];
    let before = revision.before.as_ref().filter(|_| kinds.contains(&revision.id.0));
    before.is_some_and(|before| rest(before) == rest(&revision.now))
}

/// The promises that are not kept.
pub fn check(server: &Shared, hosts: &Hosts, setup: &Setup, rest: &Rest) -> Vec<String> {
    let server = lock(server);
    let mut broken = Vec::new();
    let volumes: Vec<SharedPersistentVolume> = server.all("sharedpersistentvolumes");
    let reservations: Vec<DiskReservation> = server.all("diskreservations");
    let claims: Vec<VolumeClaim> = server.all("volumeclaims");
    let disks: Vec<NodeDisk> = server.all("nodedisks");
    broken.extend(rest.t2_nothing_is_written_again_and_again(&server, reservations.len() + volumes.len()));
    broken.extend(rest.t2_nothing_is_told_again_and_again(&server));
    for volume in &volumes {
        broken.extend(l2_says_how_it_is("volume", volume, volume.status.as_ref().map(|s| &s.conditions[..])));
        broken.extend(l1_l5_a_volume_is_as_it_says(&server, volume, hosts));
        broken.extend(seals::e1_a_seal_comes_to_be(volume, hosts));
    }
    for reservation in &reservations {
        let status = reservation.status.clone().unwrap_or_default();
        broken.extend(l2_says_how_it_is("reservation", reservation, Some(&status.conditions)));
        if reservation.metadata.deletion_timestamp.is_some()
            && status.volumes.is_empty()
            && status.refinements.is_empty()
        {
            broken.push(format!(
                "L1: reservation {} is empty and deleted, and does not go",
                reservation.name_any()
            ));
        }
        for entry in &status.volumes {
            let is_there = volumes.iter().any(|volume| volume.uid().as_ref() == Some(&entry.uid));
            // X6: data without an object keeps its space.
            let has_data = host::lock(hosts).values().any(|host| host.records.contains_key(&entry.uid));
            // Nobody learns of the end of a volume without data that a person removed by force, or that a restored etcd had
            // again and that went with its kind.
            let is_lost = server.was_restored() && server.lost.contains(&entry.uid);
            let is_known = !is_lost
                && !server.stripped.contains(&entry.uid)
                && !server.orphaned_entries.contains(&entry.uid);
            if !is_there && !has_data && is_known && entry.kept.is_none() {
                broken.push(format!(
                    "L5: reservation {} has an entry of {}, which is gone",
                    reservation.name_any(),
                    entry.name
                ));
            }
        }
    }
    for claim in &claims {
        broken.extend(l2_says_how_it_is("claim", claim, claim.status.as_ref().map(|s| &s.conditions[..])));
    }
    for disk in &disks {
        broken.extend(l2_says_how_it_is("disk", disk, disk.status.as_ref().map(|s| &s.conditions[..])));
    }
    broken.extend(rest_of_disks::check(&server, hosts, setup));
    broken.extend(rest_of_copies::check(&server, hosts, setup));
    broken.extend(claims.iter().filter_map(|claim| l7_a_free_volume_is_had(claim, &volumes)));
    broken.extend(
        volumes.iter().filter_map(|volume| l7_a_lost_claim_holds_nothing(&server, volume, &claims, hosts)),
    );
    broken.extend(l3_a_pod_runs_with_its_volumes(&server, &volumes, hosts, setup));
    broken.extend(l6_offers_are_of_ready_volumes(&server, &volumes));
    broken.extend(classes::check(&server));
    broken
}

/// L2: each object has a condition of its present spec.
fn l2_says_how_it_is<K: Resource<DynamicType = ()>>(
    what: &str,
    object: &K,
    conditions: Option<&[Condition]>,
) -> Option<String> {
    let name = object.name_any();
    let Some(ready) = conditions.and_then(|conditions| condition::get(conditions, condition::READY)) else {
        return Some(format!("L2: {what} {name} says nothing"));
    };
    (ready.observed_generation != object.meta().generation).then(|| {
        format!(
            "L2: {what} {name} says {} of generation {:?}, and has {:?}",
            ready.reason,
            ready.observed_generation,
            object.meta().generation
        )
    })
}

fn users_of(server: &Server, volume: &SharedPersistentVolume, hosts: &Hosts) -> usize {
    let claims = volume.status.as_ref().map_or(0, |status| status.claims.len());
    let pods: Vec<Pod> = server.all("pods");
    let names = volume.status.iter().flat_map(|status| &status.claims);
    let uses = |pod: &&Pod| {
        let ended =
            matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let claims: Vec<_> = reservoir::cluster::claims_of(pod);
        !ended && names.clone().any(|claim| claims.contains(&(claim.namespace.clone(), claim.name.clone())))
    };
    // E5: who uses a copy uses its original, which waits for its copies besides.
    let copies: Vec<SharedPersistentVolume> = server.all("sharedpersistentvolumes");
    let copies = copies.iter().filter(|copy| is_copy_of(copy, volume));
    let of_copies: usize = copies.map(|copy| users_of(server, copy, hosts)).sum();
    // X3: a claim that was lost with the original's disk (D7), or by force, leaves its pods what they read.
    let is_copy = volume.spec.copy_of.is_some();
    let uid = volume.uid().filter(|_| is_copy).unwrap_or_default();
    // X6: the data that it is to recover may be mounted since before its object went.
    let recovered = volume.spec.recover.as_ref().map(|recover| recover.uid.clone()).unwrap_or_default();
    let mounts_of = |host: &Host| host.mounts_of(&uid).len() + host.mounts_of(&recovered).len();
    let mounts: usize = host::lock(hosts).values().map(mounts_of).sum();
    let node = volume.status.as_ref().and_then(|status| status.node_name.as_deref());
    let of_original = volume.spec.copy_of.as_ref().zip(node);
    let led = led_to(server, &volume.uid().unwrap_or_default(), None)
        + of_original.map_or(0, |(of, node)| led_to(server, &of.uid, Some(node)));
    claims + pods.iter().filter(uses).count() + readers(server, volume).len() + mounts + of_copies + led
}

/// X2: the number of pods whose PersistentVolumeClaim is bound to a PersistentVolume of the volume of that UID, whatever the volume
/// lists: somebody may have removed its claim by force, or made the PersistentVolumeClaim anew under the name.
fn led_to(server: &Server, uid: &str, on: Option<&str>) -> usize {
    let mut pvs = kubernetes::objects(server, "persistentvolumes");
    pvs.retain(|pv| pv["metadata"]["labels"][LABEL_VOLUME_UID] == *uid);
    let is_bound = |(namespace, name): &(String, String)| {
        let pvc = kubernetes::get(server, "persistentvolumeclaims", namespace, name);
        let named = pvc.map(|pvc| pvc["spec"]["volumeName"].clone()).unwrap_or_default();
        pvs.iter().any(|pv| {
            let of = &pv["spec"]["claimRef"];
            named == pv["metadata"]["name"] && of["namespace"] == **namespace && of["name"] == **name
        })
    };
    let pods: Vec<Pod> = server.all("pods");
    let uses = |pod: &&Pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        !reservoir::cluster::is_terminal(pod)
            && (on.is_none() || node == on)
            && reservoir::cluster::claims_of(pod).iter().any(is_bound)
    };
    pods.iter().filter(uses).count()
}

fn l1_l5_a_volume_is_as_it_says(
    server: &Server,
    volume: &SharedPersistentVolume,
    hosts: &Hosts,
) -> Option<String> {
    let (name, status) = (volume.name_any(), volume.status.clone().unwrap_or_default());
    if volume.metadata.deletion_timestamp.is_some() {
        return (users_of(server, volume, hosts) == 0)
            .then(|| format!("L5: volume {name} is deleted and unused, and does not go"));
    }
    if volume.spec.retire && users_of(server, volume, hosts) == 0 {
        return Some(format!("X5: volume {name} retires and is unused, and does not go"));
    }
    if !condition::is_true(&status.conditions, condition::READY) {
        return None;
    }
    let node = status.node_name.clone().unwrap_or_default();
    let hosts = host::lock(hosts);
    let host = hosts.get(&node)?;
    let uid = volume.uid().unwrap_or_default();
    let (on_disk, said) = (host.size_of(&uid), status.node.as_ref().and_then(|node| node.size.clone()));
    if on_disk.is_none()
        || on_disk.as_ref().map(Size::bytes_or_zero) != said.as_ref().map(Size::bytes_or_zero)
    {
        return Some(format!("L1: volume {name} is Ready with {said:?}, and its disk has {on_disk:?}"));
    }
    host.records
        .get(&uid)
        .filter(|record| record.fenced)
        .map(|_| format!("L1: volume {name} is Ready, and fenced"))
}

fn l6_offers_are_of_ready_volumes(server: &Server, volumes: &[SharedPersistentVolume]) -> Vec<String> {
    let offers: Vec<VolumeOffer> = server.all("volumeoffers");
    let mut broken = Vec::new();
    for offered in offers.iter().flat_map(|offer| &offer.spec.volumes) {
        let volume = volumes.iter().find(|volume| volume.uid().as_ref() == Some(&offered.uid));
        let is_usable = volume.is_some_and(|volume| {
            volume.metadata.deletion_timestamp.is_none()
                && volume.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, condition::READY))
                && !volume.spec.retire
                && (volume.spec.shared.is_some()
                    || volume.status.as_ref().is_some_and(|s| s.claims.is_empty()))
        });
        if !is_usable {
            broken.push(format!("S5, L6: volume {} is offered, and cannot be had", offered.name));
        }
    }
    broken
}

/// L7: a claim does not wait for the holder of a volume that nobody holds.
fn l7_a_free_volume_is_had(claim: &VolumeClaim, volumes: &[SharedPersistentVolume]) -> Option<String> {
    let status = claim.status.as_ref()?;
    let ready = condition::get(&status.conditions, condition::READY)?;
    if ready.reason != condition::reason::VOLUME_HELD || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let named = volumes.iter().find(|volume| Some(volume.name_any()) == claim.spec.volume)?;
    let is_free = named.status.as_ref().is_some_and(|status| status.claims.is_empty());
    is_free.then(|| {
        format!("L7: claim {} waits for volume {}, which nobody holds", claim.name_any(), named.name_any())
    })
}

/// L7: a claim that is gone is not in the list of a volume, unless a pod still has it.
fn l7_a_lost_claim_holds_nothing(
    server: &Server,
    volume: &SharedPersistentVolume,
    claims: &[VolumeClaim],
    hosts: &Hosts,
) -> Option<String> {
    let pods: Vec<Pod> = server.all("pods");
    let pvcs: Vec<PersistentVolumeClaim> = server.all("persistentvolumeclaims");
    let is_mounted =
        |uid: &str| host::lock(hosts).values().any(|host| host.mounts.values().any(|m| m.claim == uid));
    let lost = volume.status.iter().flat_map(|status| &status.claims).find(|binding| {
        let key = (binding.namespace.clone(), binding.name.clone());
        // P1: an entry that was taken over from an earlier version keeps its UID.
        let of_pvc = binding.pvc_uid.as_ref().unwrap_or(&binding.uid);
        !claims.iter().any(|claim| claim.uid().as_ref() == Some(&binding.uid))
            && !pvcs.iter().any(|pvc| pvc.uid().as_ref() == Some(of_pvc))
            && !pods.iter().any(|pod| reservoir::cluster::claims_of(pod).contains(&key))
            && !is_mounted(&binding.uid)
    })?;
    Some(format!("L7: volume {} lists {lost}, which is gone", volume.name_any()))
}

/// L3: a pod on a node runs if all its volumes can be mounted, and what has ended has nothing mounted.
fn l3_a_pod_runs_with_its_volumes(
    server: &Server,
    volumes: &[SharedPersistentVolume],
    hosts: &Hosts,
    setup: &Setup,
) -> Vec<String> {
    let pods: Vec<Pod> = server.all("pods");
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    let mut broken = Vec::new();
    let hosts = host::lock(hosts);
    for (node, host) in &*hosts {
        for mount in host.mounts.values() {
            let pod = pods.iter().find(|pod| pod.uid().as_ref() == Some(&mount.pod.uid));
            if pod.is_none_or(|pod| ["Succeeded", "Failed"].contains(&phase(pod).as_str())) {
                broken.push(format!("L3: pod {} has ended, and has a mount on node {node}", mount.pod.name));
            }
        }
    }
    let pvcs: Vec<PersistentVolumeClaim> = server.all("persistentvolumeclaims");
    // A kubelet mounts nothing for a PersistentVolumeClaim that is being deleted.
    let is_ending = |namespace: &str, claim: &str| {
        let mut named = pvcs.iter().filter(|pvc| pvc.name_any() == claim);
        let pvc = named.find(|pvc| pvc.namespace().as_deref() == Some(namespace));
        pvc.is_some_and(|pvc| pvc.metadata.deletion_timestamp.is_some())
    };
    // A pod stays on its node when a disk leaves the node (D3).
    let is_usable = |node: Option<&String>, namespace: &str, claim: &str| {
        volumes.iter().any(|volume| {
            let status = volume.status.clone().unwrap_or_default();
            let is_here = status.node_name.as_ref() == node
                && condition::is_true(&status.conditions, condition::READY)
                || volumes.iter().any(|copy| {
                    is_copy_of(copy, volume)
                        && serves_new_pods(copy)
                        && copy.status.as_ref().and_then(|status| status.node_name.as_ref()) == node
                });
            volume.metadata.deletion_timestamp.is_none()
                && is_here
                && volume.spec.shared.is_some()
                && status.claims.iter().any(|c| c.namespace == namespace && c.name == claim && !c.ending)
        })
    };
    for pod in &pods {
        let claims = reservoir::cluster::claims_of(pod);
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        let waits = phase(pod) == "Pending" && node.is_some() && pod.metadata.deletion_timestamp.is_none();
        let host = node.and_then(|node| hosts.get(node));
        let uid = pod.uid().unwrap_or_default();
        if host.is_some_and(|host| seals::has_mount_of_before(volumes, &uid, host))
            || !setup.keeps_read_only && is_refused_as_writer(pod, volumes)
        {
            continue;
        }
        if waits
            && claims
                .iter()
                .all(|(namespace, claim)| !is_ending(namespace, claim) && is_usable(node, namespace, claim))
        {
            broken.push(format!("L3: pod {} waits for volumes that can be mounted", pod.name_any()));
        }
    }
    broken
}

/// M3: true for a pod that may only read a volume, and does not say so. On nodes without NRI it waits. E1: also until a volume
/// that is being sealed is sealed.
fn is_refused_as_writer(pod: &Pod, volumes: &[SharedPersistentVolume]) -> bool {
    let sources = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut writes = sources.filter_map(|source| source.persistent_volume_claim.as_ref());
    writes.any(|source| {
        let may_only_read = |volume: &SharedPersistentVolume| {
            let claims = volume.status.iter().flat_map(|status| &status.claims);
            let mut claims = claims.filter(|c| {
                Some(&c.namespace) == pod.metadata.namespace.as_ref() && c.name == source.claim_name
            });
            claims.any(|claim| claim.mode == AccessMode::ReadOnly || reservoir::plan::seal::is_closed(volume))
        };
        source.read_only != Some(true) && volumes.iter().any(may_only_read)
    })
}

/// T3: the gauges of a controller that is at rest count the objects that are there.
pub fn t3_gauges_count_the_objects(server: &Server, scraped: &str) -> Vec<String> {
    let kinds =
        [("SharedPersistentVolume", "sharedpersistentvolumes"), ("DiskReservation", "diskreservations")];
    let mut broken = Vec::new();
    for (kind, plural) in kinds {
        let lines =
            scraped.lines().filter(|line| line.starts_with(&format!("reservoir_objects{{kind=\"{kind}\"")));
        let counted: f64 = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        let there = server.store.list(plural, "").count();
        if counted != there as f64 {
            broken.push(format!(
                "T3: the gauges count {counted} objects of kind {kind}, and {there} are there"
            ));
        }
    }
    broken
}
