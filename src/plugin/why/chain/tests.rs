//! Tests of the answers about what no condition of the object says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::LABEL_PVC_UID;
use crate::api::condition::{DISK_HEALTHY, READY, RESIZED, Verdict, reason, set};
use crate::plan::testing::*;
use crate::plugin::kind::{CLAIM, DISK, PVC, RESERVATION, VOLUME};
use crate::plugin::snapshot::{Denied, Snapshot};
use crate::plugin::why::testing::*;

fn ready(conditions: &mut Vec<Condition>, generation: i64, message: &str) {
    let verdict = Verdict::yes(reason::READY, message);
    set(conditions, READY, verdict, Some(generation), jiff::Timestamp::UNIX_EPOCH);
}

/// T4, D8: nothing can be made in a reservation whose disk is refused, although the reservation is Ready.
#[test]
fn t4_d8_why_of_a_reservation_sees_its_disk() {
    let mut disk = disk("n1.a", "n1", 10, &[("eng", 4)]);
    let refused = "the disk is not in the agent's configuration";
    set_not_ready(&mut disk.status.as_mut().unwrap().conditions, reason::DISK_REFUSED, refused);
    let mut eng = reserved("eng", "eng", 4, &[]);
    ready(&mut eng.status.as_mut().unwrap().conditions, 1, "4Gi of n1.a are the role's");
    let mut snapshot = Snapshot { disks: vec![disk], reservations: vec![eng], ..Snapshot::default() };
    let said = ask(&snapshot, &RESERVATION, None, "eng").unwrap();
    let first = "DiskReservation eng: Ready, but nothing can be made in it now: NodeDisk n1.a is DiskRefused: the disk is not";
    assert!(said.starts_with(first), "{said}");
    // Its volumes have their bytes, also on a disk that was made smaller.
    set_not_ready(
        &mut snapshot.disks[0].status.as_mut().unwrap().conditions,
        reason::SPACE_TAKEN,
        "4Gi are reserved",
    );
    let said = ask(&snapshot, &RESERVATION, None, "eng").unwrap();
    let first =
        "DiskReservation eng: Ready, but what is made in it may find no space: NodeDisk n1.a is SpaceTaken";
    assert!(said.starts_with(first), "{said}");
    set_ready(&mut snapshot.disks[0].status.as_mut().unwrap().conditions, true);
    assert!(
        ask(&snapshot, &RESERVATION, None, "eng").unwrap().starts_with("DiskReservation eng: Ready: 4Gi")
    );
}

/// T4: a wish that the controller has not seen is not Ready, such as while no controller runs.
#[test]
fn t4_why_sees_what_the_controller_has_not_looked_at() {
    let mut volume = ready_volume("v", "eng", true);
    ready(&mut volume.status.as_mut().unwrap().conditions, 1, "1Gi on node n1");
    let mut snapshot = Snapshot { volumes: vec![volume], ..Snapshot::default() };
    let said = |snapshot: &Snapshot| ask(snapshot, &VOLUME, None, "v").unwrap();
    assert!(said(&snapshot).contains("v: Ready: 1Gi"), "{}", said(&snapshot));
    snapshot.volumes[0].metadata.generation = Some(2);
    let told = said(&snapshot);
    assert!(
        told.contains("v: NotLookedAt: its spec was changed, and the controller has not looked"),
        "{told}"
    );
    assert!(told.contains("next: kubectl reservoir doctor"), "{told}");
    // The volume of a PersistentVolumeClaim that is gone ends.
    snapshot.volumes[0].metadata.generation = Some(1);
    snapshot.volumes[0].metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    let told = said(&snapshot);
    assert!(told.contains("NotLookedAt: its PersistentVolumeClaim is gone"), "{told}");
    let mut of = pvc("data", "Bound", "ours");
    of.metadata.uid = Some("u".into());
    snapshot.pvcs = vec![of];
    assert!(said(&snapshot).contains("v: Ready: 1Gi"), "{}", said(&snapshot));
    (snapshot.pvcs, snapshot.denied) = (vec![], vec![Denied::unseen(&PVC)]);
    assert!(said(&snapshot).contains("v: Ready: 1Gi"), "what may not be seen may be there");
}

/// T4, R2: the disk is Ready, and a reservation of its configuration is not there.
#[test]
fn t4_r2_why_of_a_disk_names_a_refused_static_reservation() {
    let mut disk = disk("n1.a", "n1", 10, &[]);
    let conditions = &mut disk.status.as_mut().unwrap().conditions;
    ready(conditions, 1, "the disk can be reserved and used");
    let health =
        "the disk is there; static reservation n1.a.eng is not as configured: spec.size: Invalid value";
    set(
        conditions,
        DISK_HEALTHY,
        Verdict::yes(reason::DISK_HEALTHY, health),
        None,
        jiff::Timestamp::UNIX_EPOCH,
    );
    let snapshot = Snapshot { disks: vec![disk], ..Snapshot::default() };
    let said = ask(&snapshot, &DISK, None, "n1.a").unwrap();
    let first = "NodeDisk n1.a: NotAsConfigured: static reservation n1.a.eng is not as configured: spec.size";
    assert!(said.starts_with(first), "{said}");
    // The name is taken.
    let snapshot = Snapshot { reservations: vec![reserved("n1.a.eng", "eng", 1, &[])], ..snapshot };
    let said = ask(&snapshot, &DISK, None, "n1.a").unwrap();
    assert!(said.contains("next: kubectl reservoir why dr/n1.a.eng   # it has the name"), "{said}");
}

/// T4, X2: a deleted volume serves its claims until they end, and a claim of such a volume is told what comes.
#[test]
fn t4_x2_why_of_a_claim_tells_the_end_of_its_volume() {
    let mut volume = ready_volume("v", "eng", true);
    let conditions = &mut volume.status.as_mut().unwrap().conditions;
    let waits = "volume v is being destroyed: it waits for claim team/data to be deleted";
    set_not_ready(conditions, reason::DESTROYING, waits);
    volume.metadata.deletion_timestamp = some_time();
    volume.status.as_mut().unwrap().destroy =
        Some(crate::api::Destroy { in_use: true, ..Default::default() });
    let mut snapshot =
        Snapshot { volumes: vec![volume], claims: vec![bound("data", "v")], ..Snapshot::default() };
    let said = |snapshot: &Snapshot| ask(snapshot, &CLAIM, Some("team"), "data").unwrap();
    let told = said(&snapshot);
    assert!(!told.contains("not of use") && !told.contains("the data kept"), "{told}");
    assert!(
        told.contains("its volume v is destroyed after its last use\nnext: copy what is needed"),
        "{told}"
    );
    // E5: unretire refuses a copy.
    let mut copy = ready_volume("v", "eng", true);
    copy.spec.retire = true;
    copy.spec.copy_of =
        Some(crate::api::CopyOf { name: "o".into(), uid: "uid-o".into(), ..Default::default() });
    let volumes = vec![copy, ready_volume("o", "eng", true)];
    let of_copy = Snapshot { volumes, claims: vec![bound("data", "v")], ..Snapshot::default() };
    let told = said(&of_copy);
    assert!(
        told.contains("copy v goes after its last use; a claim to volume o") && !told.contains("unretire"),
        "{told}"
    );
    // Once the bytes are given up, the claim leads nowhere.
    snapshot.volumes[0].status.as_mut().unwrap().destroy.as_mut().unwrap().tombstone = some_time();
    assert!(said(&snapshot).contains("not of use now"), "{}", said(&snapshot));
    // A retirement can be taken back.
    snapshot.volumes = vec![ready_volume("v", "eng", true)];
    snapshot.volumes[0].spec.retire = true;
    let told = said(&snapshot);
    assert!(told.contains("or keep it: kubectl reservoir unretire v\n"), "{told}");
}

/// T4, R4: a reservation that is being deleted is no way to space, and its kept data is left alone.
#[test]
fn t4_r4_why_of_a_volume_waits_for_no_reservation_that_ends() {
    let mut deleting = with_kept(&[("v", 0, 60)]);
    deleting.metadata.deletion_timestamp = some_time();
    set_not_ready(
        &mut deleting.status.as_mut().unwrap().conditions,
        reason::HAS_VOLUMES,
        "volume v lives in it",
    );
    let mut waits = volume("v", "eng", 1);
    let conditions = &mut waits.status.get_or_insert_default().conditions;
    set_not_ready(conditions, reason::NO_RESERVATION, "DiskReservation r is being deleted");
    let mut snapshot = Snapshot { reservations: vec![deleting], volumes: vec![waits], ..Snapshot::default() };
    for named in [None, Some("r".to_owned())] {
        snapshot.volumes[0].spec.reservation = named;
        let said = ask(&snapshot, &VOLUME, None, "v").unwrap();
        assert!(
            said.contains("next: kubectl reservoir reserve eng --role eng") && !said.contains("erase"),
            "{said}"
        );
    }
}

/// T4, R2: the configuration has nothing to change about a reservation that it does not have.
#[test]
fn t4_r2_why_of_a_reservation_says_that_it_is_configured_no_more() {
    let mut of = reserved("n1.a.eng", "eng", 4, &[("v", 1)]);
    (of.spec.is_static, of.spec.node_disk) = (true, Some("n1.a".into()));
    set_ready(&mut of.status.as_mut().unwrap().conditions, true);
    let mut snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 10, &[("eng", 4)])],
        reservations: vec![of],
        ..Snapshot::default()
    };
    let said = |snapshot: &Snapshot| ask(snapshot, &RESERVATION, None, "n1.a.eng").unwrap();
    assert!(said(&snapshot).contains("it is static, from the agents' configuration"), "{}", said(&snapshot));
    let content = std::mem::take(&mut snapshot.reservations[0].status.as_mut().unwrap().volumes);
    let empty = "next: there is nothing to do; the agent makes the reservation anew if it is deleted, for as long as reservations of disk a";
    assert!(said(&snapshot).contains(empty), "{}", said(&snapshot));
    snapshot.reservations[0].status.as_mut().unwrap().volumes = content;
    let told = "the disk is there; reservation n1.a.eng and n1.a.ops is not in the agent's configuration any more, and stays until \
                nothing uses it; static reservation n1.a.lab is not as configured: no";
    let conditions = &mut snapshot.disks[0].status.as_mut().unwrap().conditions;
    set(
        conditions,
        DISK_HEALTHY,
        Verdict::yes(reason::DISK_HEALTHY, told),
        None,
        jiff::Timestamp::UNIX_EPOCH,
    );
    let now = said(&snapshot);
    assert!(now.contains("not in the agents' configuration any more: it ends with its last volume"), "{now}");
    assert!(
        now.contains("next: kubectl reservoir tree --role eng   # it goes by itself after its last volume"),
        "{now}"
    );
}

/// T4, C6: the node of the volume has to report that nothing of the claim is mounted.
#[test]
fn t4_c6_a_claim_that_ends_waits_for_the_node_of_its_volume() {
    let mut snapshot = on_lost_node();
    let said = "the claim goes when node n1 reports that nothing of it is mounted";
    set_not_ready(&mut snapshot.claims[0].status.as_mut().unwrap().conditions, reason::RELEASING, said);
    snapshot.claims[0].metadata.deletion_timestamp = some_time();
    snapshot.pods.clear();
    let of = |snapshot: &Snapshot| ask(snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(of(&snapshot).contains("next: wait a few seconds"), "it has left the volume: {}", of(&snapshot));
    let uid = snapshot.claims[0].metadata.uid.clone().unwrap();
    snapshot.volumes[0].status.as_mut().unwrap().claims = vec![bound_by("team", "data", &uid)];
    assert!(of(&snapshot).contains("next: kubectl get nodes   # bring node n1 back"), "{}", of(&snapshot));
}

/// T4, R4: a reservation that is being deleted gives nothing more, and who waits for that ends nothing that is well.
#[test]
fn t4_r4_growth_out_of_what_is_being_deleted_is_taken_back() {
    let not = |conditions: &mut Vec<Condition>, type_, reason, message: &str| {
        set(conditions, type_, Verdict::no(reason, message), None, jiff::Timestamp::UNIX_EPOCH);
    };
    let mut parent = reserved("outer", "eng", 9, &[("v", 1)]);
    parent.metadata.deletion_timestamp = some_time();
    let status = parent.status.as_mut().unwrap();
    status.refinements = vec![ledger_entry("inner", "eng/ml", 4)];
    not(&mut status.conditions, READY, reason::HAS_VOLUMES, "volume v lives in it");
    let mut inner = reserved("inner", "eng/ml", 4, &[]);
    (inner.spec.size, inner.spec.parent) = (gi(6), Some("outer".into()));
    let conditions = &mut inner.status.as_mut().unwrap().conditions;
    set_ready(conditions, true);
    let waits = "DiskReservation outer, which it is to be carved out of, is being deleted";
    not(conditions, RESIZED, reason::PARENT_NOT_RESERVED, waits);
    let mut late = reservation("late", "eng/ml", 2);
    late.spec.parent = Some("outer".into());
    let conditions = &mut late.status.get_or_insert_default().conditions;
    not(conditions, READY, reason::PARENT_NOT_RESERVED, waits);
    let mut volume = ready_volume("v", "eng", true);
    volume.spec.size = gi(20);
    let status = volume.status.as_mut().unwrap();
    status.reservation = Some(crate::api::UidRef { name: "outer".into(), uid: "uid-outer".into() });
    not(&mut status.conditions, RESIZED, reason::RESERVATION_FULL, "20Gi wished");
    let mut on = disk("n1.a", "n1", 20, &[("outer", 9)]);
    set_ready(&mut on.status.as_mut().unwrap().conditions, true);
    let mut snapshot = Snapshot {
        disks: vec![on],
        reservations: vec![parent, inner, late],
        volumes: vec![volume],
        ..Snapshot::default()
    };
    let next = |snapshot: &Snapshot, kind, name| {
        let said = ask(snapshot, kind, None, name).unwrap();
        said.lines().filter_map(|line| line.strip_prefix("next: ")).collect::<Vec<_>>().join("\n")
    };
    let step = next(&snapshot, &RESERVATION, "inner");
    assert!(step.starts_with("kubectl reservoir resize dr/inner 4Gi   # takes the wish back"), "{step}");
    let step = next(&snapshot, &RESERVATION, "late");
    let anew = "kubectl delete dr/late && kubectl reservoir reserve late --role eng/ml --size 2Gi   # without a parent";
    assert!(step.starts_with(anew), "{step}");
    let step = next(&snapshot, &VOLUME, "v");
    assert!(step.starts_with("kubectl reservoir resize spv/v 1Gi   # takes the wish back"), "{step}");
    assert!(next(&snapshot, &RESERVATION, "outer").starts_with("kubectl reservoir retire v "));
    // Kubernetes does not take the request of a PersistentVolumeClaim back.
    snapshot.volumes[0].metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    let mut of = pvc("data", "Bound", "ours");
    of.metadata.uid = Some("u".into());
    snapshot.pvcs = vec![of];
    let step = next(&snapshot, &VOLUME, "v");
    assert!(
        step.starts_with("kubectl reservoir tree --role eng   # DiskReservation outer is being"),
        "{step}"
    );
    snapshot.reservations[1].metadata.deletion_timestamp = some_time();
    let step = next(&snapshot, &RESERVATION, "inner");
    assert!(!step.contains("resize"), "it grows no more: {step}");
}
