//! Objects for the tests of the decisions. Sizes are in Gi; the name of an object is also its UID.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::api::condition::{self, BACKED, DISK_HEALTHY, READY, Verdict};
use crate::api::*;

use super::{destroy, disk_key, volume};

pub fn some_time() -> Option<Time> {
    Some(Time(Timestamp::UNIX_EPOCH))
}

pub fn later() -> Option<Time> {
    Some(Time(Timestamp::from_second(60).unwrap()))
}

pub fn gi(n: u64) -> Size {
    Size::from_bytes(n << 30)
}

pub fn set_ready(conditions: &mut Vec<Condition>, ok: bool) {
    condition::set(
        conditions,
        READY,
        Verdict { ok, reason: "Test", message: "said".into() },
        None,
        Timestamp::UNIX_EPOCH,
    );
}

fn set_true(conditions: &mut Vec<Condition>, type_: &str) {
    condition::set(conditions, type_, Verdict::yes("Test", "said"), None, Timestamp::UNIX_EPOCH);
}

pub fn ledger_entry(name: &str, role: &str, size: u64) -> LedgerEntry {
    let uid = format!("uid-{name}");
    LedgerEntry {
        name: name.into(),
        uid,
        role: role.into(),
        size: gi(size),
        generation: Some(1),
        ..Default::default()
    }
}

fn entries(role: &str, held: &[(&str, u64)]) -> Vec<LedgerEntry> {
    held.iter().map(|(name, n)| ledger_entry(name, role, *n)).collect()
}

fn with_uid<K: kube::Resource>(mut object: K) -> K {
    let meta = object.meta_mut();
    meta.uid = meta.name.as_ref().map(|name| format!("uid-{name}"));
    meta.creation_timestamp = some_time();
    meta.generation = Some(1);
    object
}

pub fn disk(name: &str, node: &str, allocatable: u64, held: &[(&str, u64)]) -> NodeDisk {
    let (node, id) = (node.to_owned(), format!("id-{name}"));
    let spec = NodeDiskSpec::new(node, "a".into(), id, DiskKind::Path, "/d".into());
    let mut disk = with_uid(NodeDisk::new(name, spec));
    let mut status = NodeDiskStatus {
        allocatable: Some(gi(allocatable)),
        reservations: entries("eng", held),
        ..Default::default()
    };
    set_true(&mut status.conditions, DISK_HEALTHY);
    set_ready(&mut status.conditions, true);
    disk.status = Some(status);
    disk
}

fn key_pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn disk_public_key(seed: u8) -> String {
    hex(key_pair(seed).public_key().as_ref())
}

pub fn disk_signature(seed: u8, text: &str) -> String {
    hex(key_pair(seed).sign(text.as_bytes()).as_ref())
}

/// Signs a NodeDisk with the key of a disk.
pub fn sign(disk: &mut NodeDisk, seed: u8) {
    disk.spec.key_proof = Some(disk_signature(seed, &disk_key::text(&disk.name_any(), &disk.spec)));
}

pub fn reservation(name: &str, role: &str, size: u64) -> DiskReservation {
    with_uid(DiskReservation::new(
        name,
        DiskReservationSpec { role: role.into(), size: gi(size), ..Default::default() },
    ))
}

pub fn reserved(name: &str, role: &str, size: u64, held: &[(&str, u64)]) -> DiskReservation {
    let mut reservation = reservation(name, role, size);
    reservation.status = Some(DiskReservationStatus {
        phase: ReservationPhase::Reserved,
        node_disk: Some("n1.a".into()),
        node_name: Some("n1".into()),
        size: Some(gi(size)),
        volumes: entries(role, held),
        ..Default::default()
    });
    reservation
}

/// A reservation of so many Gi on that very disk.
pub fn reserved_on(on: &NodeDisk, name: &str, role: &str, size: u64) -> DiskReservation {
    let mut reservation = reserved(name, role, size, &[]);
    let status = reservation.status.get_or_insert_default();
    (status.node_disk, status.disk_id) = (on.metadata.name.clone(), Some(on.spec.disk_id.clone()));
    reservation
}

/// Reservation `r` of 10 Gi with kept data of a Gi each: name, begin and end in seconds since 1970.
pub fn with_kept(of: &[(&str, i64, i64)]) -> DiskReservation {
    let mut reservation = reserved("r", "eng", 10, &[]);
    let time = |seconds| Time(Timestamp::from_second(seconds).unwrap());
    let entry = |&(name, since, until): &(&str, i64, i64)| LedgerEntry {
        uid: format!("uid-{name}-{since}"),
        kept: Some(Box::new(Kept {
            since: time(since),
            until: time(until),
            made_for: None,
            labels: [("app".to_owned(), name.to_owned())].into(),
            spec: serde_json::json!({"size": "1Gi", "shared": {}, "keepFor": "60s"}),
        })),
        ..ledger_entry(name, "eng", 1)
    };
    reservation.status.as_mut().unwrap().volumes = of.iter().map(entry).collect();
    reservation
}

pub fn volume(name: &str, role: &str, size: u64) -> SharedPersistentVolume {
    with_uid(SharedPersistentVolume::new(
        name,
        SharedPersistentVolumeSpec {
            role: role.into(),
            size: gi(size),
            shared: Some(Shared {}),
            ..Default::default()
        },
    ))
}

pub fn ready_volume(name: &str, role: &str, shared: bool) -> SharedPersistentVolume {
    let mut volume = volume(name, role, 1);
    volume.spec.shared = shared.then_some(Shared {});
    let mut status = SharedPersistentVolumeStatus {
        phase: VolumePhase::Ready,
        node_disk: Some("n1.a".into()),
        node_name: Some("n1".into()),
        size: Some(gi(1)),
        node: Some(NodePart { backing: BackingState::Made, ..Default::default() }),
        ..Default::default()
    };
    set_true(&mut status.conditions, BACKED);
    set_ready(&mut status.conditions, true);
    volume.status = Some(status);
    volume
}

pub fn subscription(namespace: &str, roles: &[&str], shared: bool) -> RoleSubscription {
    let mut subscription = RoleSubscription::new(
        "sub",
        RoleSubscriptionSpec {
            roles: roles.iter().map(|r| (*r).to_owned()).collect(),
            capabilities: if shared { vec![Capability::SharedResources] } else { vec![] },
        },
    );
    subscription.metadata.namespace = Some(namespace.into());
    with_uid(subscription)
}

pub fn claim(namespace: &str, name: &str, volume: &str) -> VolumeClaim {
    let spec = VolumeClaimSpec { role: "eng".into(), volume: Some(volume.into()), ..Default::default() };
    let mut claim = VolumeClaim::new(name, spec);
    claim.metadata.namespace = Some(namespace.into());
    with_uid(claim)
}

pub fn bound_by(namespace: &str, name: &str, uid: &str) -> ClaimBinding {
    ClaimBinding {
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.into(),
        pvc_uid: None,
        mode: AccessMode::ReadWrite,
        ending: false,
    }
}

pub fn pod(namespace: &str, name: &str) -> PodRef {
    PodRef { namespace: namespace.into(), name: name.into(), uid: format!("uid-{name}") }
}

pub fn volume_role(name: &str, role: &str) -> VolumeRole {
    with_uid(VolumeRole::new(name, VolumeRoleSpec { role: role.into(), ..Default::default() }))
}

/// A VolumeRole with a quota, whose ledger is up to date.
pub fn with_quota(
    mut role: VolumeRole,
    limit: Option<u64>,
    guarantee: Option<u64>,
    held: &[(&str, u64)],
) -> VolumeRole {
    role.spec.quota = Quota { limit: limit.map(gi), guarantee: guarantee.map(gi) };
    let status = role.status.get_or_insert_default();
    status.reservations = entries(&role.spec.role, held);
    let said = Verdict::yes("Test", "said");
    condition::set(&mut status.conditions, READY, said, role.metadata.generation, Timestamp::UNIX_EPOCH);
    role
}

/// The state around a volume without an entry, beside an empty reservation `r` on an empty disk `n1.a`.
pub fn volume_seen() -> volume::Seen {
    volume::Seen {
        guarded: true,
        reservations: vec![Arc::new(reserved("r", "eng", 10, &[]))],
        disks: vec![Arc::new(disk("n1.a", "n1", 10, &[]))],
        moved_to: None,
        lost_claims: vec![],
        read_elsewhere: vec![],
        users: vec![],
        entry: None,
        owner: None,
        restored: false,
        own: None,
        waiting: vec![],
        copies: Default::default(),
        family: None,
        room_made: false,
        live: None,
        now: Timestamp::UNIX_EPOCH,
    }
}

/// The state around a deleted volume that nobody uses.
pub fn destroy_seen() -> destroy::Seen {
    destroy::Seen {
        guarded: true,
        offered: false,
        disk_gone: false,
        node_gone: false,
        moved_to: None,
        lost_claims: vec![],
        read_elsewhere: vec![],
        over: vec![],
        users: vec![],
        live: None,
        holder_pods: vec![],
        entries: None,
        copies: 0,
        has_heir: false,
        now: Timestamp::UNIX_EPOCH,
    }
}
