//! Tests of the next steps of conditions.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;

use super::*;
use crate::api::{
    ClaimSelector, CopiesStatus, CopyOf, Destroy, DiskKind, NodeDisk, ReservationPhase, VolumeMode,
};
use crate::plan::node_disk::UNCONFIGURED;
use crate::plan::seal;
use crate::plan::testing::*;
use crate::plugin::kind::{self, Kind};
use crate::plugin::snapshot::Denied;
use crate::plugin::why::testing::{pod_of, set_not_ready};

fn step(snapshot: &Snapshot, kind: &'static Kind, name: &str, reason: &str) -> String {
    let target = Target::new(kind, kind.namespaced.then(|| "team".to_owned()), name.to_owned());
    let step = About::new(snapshot, &target).step(reason).unwrap();
    crate::plugin::advised_commands::check(&step);
    step
}

/// A PersistentVolumeClaim `q`, and the volume as the one that was made for it.
fn made_for(mut volume: SharedPersistentVolume) -> (PersistentVolumeClaim, SharedPersistentVolume) {
    let mut pvc = PersistentVolumeClaim::default();
    (pvc.metadata.name, pvc.metadata.namespace) = (Some("q".into()), Some("team".into()));
    pvc.metadata.uid = Some("u".into());
    volume.metadata.labels = Some([(crate::api::LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    (pvc, volume)
}

/// T4: no reason of this version is answered with a question about the controller's version.
#[test]
fn t4_each_reason_has_its_own_advice() {
    let snapshot = Snapshot {
        claims: vec![claim("team", "c", "v")],
        volumes: vec![volume("c", "eng", 1)],
        ..Snapshot::default()
    };
    for kind in [&CLAIM, &VOLUME] {
        for (reason, _) in ALL {
            let target = Target::new(kind, kind.namespaced.then(|| "team".to_owned()), "c".to_owned());
            assert!(About::new(&snapshot, &target).step(reason).is_some(), "{reason}");
        }
    }
}

/// T4, C4: a claim that names its volume has the volume's role, and it is the subscription that may be mistyped.
#[test]
fn t4_c4_a_named_volume_shows_that_its_role_exists() {
    let mut snapshot = Snapshot {
        claims: vec![claim("team", "data", "data")],
        subscriptions: vec![subscription("team", &["engg"], false)],
        denied: [&kind::VOLUME, &kind::RESERVATION, &kind::DISK].map(Denied::unseen).into(),
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| step(snapshot, &CLAIM, "data", NO_SUBSCRIPTION);
    assert_eq!(of(&snapshot), "kubectl reservoir subscribe eng -n team");
    // One that selects may have the mistake itself.
    let spec = &mut snapshot.claims[0].spec;
    let selector = ClaimSelector { min_size: Some(gi(1)), ..ClaimSelector::default() };
    (spec.volume, spec.selector) = (None, Some(selector));
    assert!(of(&snapshot).ends_with("# if role engg is meant"), "{}", of(&snapshot));
}

#[test]
fn t4_a_name_is_one_word_of_a_shell() {
    assert_eq!((word("data-1.x"), word("tier=hot")), ("data-1.x".into(), "tier=hot".into()));
    assert_eq!(word("x; rm 'y'"), r"'x; rm '\''y'\'''");
}

fn agent_pod() -> Pod {
    serde_json::from_value(serde_json::json!({"metadata": {"name": "agent-1", "namespace": "sys", "labels": {
        "app.kubernetes.io/component": "agent", "app.kubernetes.io/instance": "r"}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {}}}]}}))
    .unwrap()
}

/// T4, D4, D8: a disk that is refused is mended, one that is left goes, and who sees no disks asks somebody who does.
#[test]
fn t4_advice_about_a_disk_names_who_mends_it() {
    let mut snapshot = Snapshot { disks: vec![disk("n1.a", "n1", 10, &[])], ..Snapshot::default() };
    let of = |snapshot: &Snapshot, reason| step(snapshot, &DISK, "n1.a", reason);
    assert_eq!(of(&snapshot, DISK_REFUSED), "kubectl reservoir doctor   # looks for the agent of node n1");
    snapshot.pods = vec![agent_pod()];
    assert!(
        of(&snapshot, DISK_REFUSED).starts_with("helm get values r -n sys   # mend what the message names")
    );
    assert_eq!(of(&snapshot, AGENT_SILENT), "kubectl logs -n sys agent-1 --tail=50");
    for waits in [Some(json!({"waiting": {"reason": "ContainerCreating"}})), None] {
        let state = waits.map(|waits| serde_json::from_value(waits).unwrap());
        let mut none =
            Snapshot { disks: snapshot.disks.clone(), pods: vec![agent_pod()], ..Snapshot::default() };
        none.pods[0].status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state = state;
        assert!(
            of(&none, AGENT_SILENT).starts_with("kubectl describe pod agent-1 -n sys   # its events"),
            "no log yet"
        );
    }
    assert!(of(&snapshot, NODE_UNREACHABLE).contains("cannot be undone: kubectl patch nodedisk n1.a"));
    assert_eq!(of(&snapshot, NODE_CORDONED), advice::look_again(), "it is uncordoned meanwhile");
    snapshot.disks[0].status.as_mut().unwrap().cordoned = true;
    assert!(of(&snapshot, NODE_CORDONED).starts_with("kubectl uncordon n1   # nothing new is placed"));
    let set = |disk: &mut NodeDisk| {
        let why = condition::Verdict::no(DISK_REFUSED, format!("{UNCONFIGURED}, which has no a"));
        let conditions = &mut disk.status.as_mut().unwrap().conditions;
        condition::set(conditions, condition::READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    };
    set(&mut snapshot.disks[0]);
    assert_eq!(of(&snapshot, DISK_REFUSED), "kubectl delete nd/n1.a", "nothing is on it");
    snapshot.disks[0] = disk("n1.a", "n1", 10, &[("eng", 4)]);
    set(&mut snapshot.disks[0]);
    assert!(of(&snapshot, DISK_REFUSED).starts_with("helm get values"), "it holds something");
    snapshot.reservations = vec![reserved("eng", "eng", 4, &[])];
    let entry = snapshot.disks[0].status.as_ref().unwrap().reservations[0].clone();
    snapshot.reservations[0].metadata.uid = Some(entry.uid.clone());
    let of_reservation = step(&snapshot, &RESERVATION, "eng", DISK_REFUSED);
    for step in [of(&snapshot, DISK_REFUSED), of_reservation] {
        assert!(step.starts_with("kubectl delete dr/eng   # nothing is in it"), "{step}");
    }
    snapshot.reservations[0].metadata.deletion_timestamp = some_time();
    assert_eq!(of(&snapshot, DISK_REFUSED), advice::look_again(), "it is going");
    snapshot.reservations[0].metadata.deletion_timestamp = None;
    let status = |snapshot: &mut Snapshot| snapshot.reservations[0].status.clone().unwrap();
    let empty = status(&mut snapshot);
    let holds = |status: crate::api::DiskReservationStatus, is_static| {
        let mut snapshot =
            Snapshot { disks: snapshot.disks.clone(), pods: vec![agent_pod()], ..Snapshot::default() };
        let mut holder = reserved("eng", "eng", 4, &[]);
        holder.metadata.uid = Some(entry.uid.clone());
        (holder.status, holder.spec.is_static) = (Some(status), is_static);
        snapshot.reservations = vec![holder];
        of(&snapshot, DISK_REFUSED)
    };
    let volumes = vec![entry.clone()];
    for (status, is_static) in [
        (crate::api::DiskReservationStatus { volumes: volumes.clone(), ..empty.clone() }, false),
        (crate::api::DiskReservationStatus { refinements: volumes, ..empty.clone() }, false),
        (empty, true),
    ] {
        assert!(holds(status, is_static).starts_with("helm get values"), "data, or the agent's own");
    }

    assert!(of(&snapshot, DISK_GONE).starts_with("kubectl reservoir tree   # delete the volumes"));
    let mut used = ready_volume("v", "eng", true);
    let status = used.status.as_mut().unwrap();
    (status.node_disk, status.users) = (Some("n1.a".into()), vec![pod("c", "g2")]);
    snapshot.volumes = vec![used];
    let end = of(&snapshot, DISK_GONE);
    assert!(end.starts_with("kubectl delete pod g2 -n c   # it uses a volume of NodeDisk n1.a"), "{end}");

    let blind = Snapshot {
        volumes: vec![ready_volume("v", "eng", true)],
        denied: vec![crate::plugin::snapshot::Denied::unseen(&DISK)],
        ..Snapshot::default()
    };
    let asks = step(&blind, &VOLUME, "v", NODE_UNREACHABLE);
    assert_eq!(asks, "have an administrator run: kubectl reservoir why nd/n1.a");
}

/// T4, E2: a NetworkPolicy drops connections without a word in a log.
#[test]
fn t4_a_copy_without_a_connection_leads_to_what_is_between_nodes() {
    let of = |said: &str| {
        let mut copy = ready_volume("data-1", "eng", true);
        let failed = condition::Verdict::no(COPY_FAILED, said.to_owned());
        let conditions = &mut copy.status.as_mut().unwrap().conditions;
        condition::set(conditions, condition::READY, failed, None, jiff::Timestamp::UNIX_EPOCH);
        let disks = vec![disk("n1.a", "n1", 10, &[])];
        let snapshot =
            Snapshot { disks, volumes: vec![copy], pods: vec![agent_pod()], ..Snapshot::default() };
        step(&snapshot, &VOLUME, "data-1", COPY_FAILED)
    };
    let unreached = of("node n2 cannot be reached at 10.1.0.7:7449 for a copy: it took too long");
    assert!(unreached.starts_with("kubectl get networkpolicies -A") && unreached.contains("10.1.0.7:7449"));
    let off =
        of("the agent of volume data sends no copies: set agent.copies.enabled: true in the chart's values");
    assert_eq!(off, advice::turn_copies_on());
    let forged = "node n2 cannot be reached at $(reboot) for a copy: no address";
    for said in ["node n2 gives no copy: there is no such copy", forged] {
        assert_eq!(of(said), "kubectl logs -n sys agent-1 --tail=50");
    }
}

/// X6: a volume that is to recover data is not made anew without it.
#[test]
fn x6_advice_keeps_a_volume_that_recovers_data() {
    let mut recovers = volume("data", "eng", 2);
    recovers.spec.recover = Some(crate::api::Recover { uid: "u".into() });
    recovers.spec.reservation = Some("egn".into());
    let mut on = disk("n1.a", "n1", 10, &[]);
    on.status.as_mut().unwrap().orphans = vec![crate::api::Orphan { uid: "u".into(), ..Default::default() }];
    let mut snapshot = Snapshot {
        volumes: vec![recovers],
        reservations: vec![reserved("eng", "eng", 4, &[])],
        ..Snapshot::default()
    };
    let elsewhere = step(&snapshot, &VOLUME, "data", NO_RESERVATION);
    assert_eq!(elsewhere, "kubectl reservoir reserve egn --role eng --size 2Gi");
    snapshot.disks = vec![on];
    let on = step(&snapshot, &VOLUME, "data", NO_RESERVATION);
    assert!(
        on.starts_with(
            "kubectl reservoir reserve egn --role eng --size 2Gi --disk n1.a   # where the data is"
        ),
        "{on}"
    );
}

/// M6: who can grow gets a size, a class' volume that of its PersistentVolumeClaim, and all others remove files.
#[test]
fn m6_advice_about_a_full_volume_fits_the_volume() {
    let (pvc, made) = made_for(ready_volume("pvc-u", "eng", false));
    let mut raw = ready_volume("whole", "eng", true);
    raw.status.as_mut().unwrap().disk_kind = Some(DiskKind::Mount);
    // It waits for that already, and its condition Resized has the step (seed 30400).
    let mut grows = ready_volume("grows", "eng", true);
    grows.spec.size = gi(2);
    let volumes = vec![ready_volume("data", "eng", true), made, raw, grows];
    let reservations = vec![reserved("eng", "eng", 1, &[("pvc-u", 1)])];
    let mut snapshot = Snapshot { reservations, volumes, pvcs: vec![pvc], ..Snapshot::default() };
    for (name, wanted) in [
        ("data", "kubectl reservoir resize spv/data 1280Mi   # or remove files"),
        (
            "pvc-u",
            "kubectl patch pvc q -n team -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"1280Mi\"}}}}'",
        ),
        ("whole", "kubectl reservoir tree --role eng   # remove files"),
        ("grows", "kubectl reservoir tree --role eng   # remove files"),
    ] {
        let step = step(&snapshot, &VOLUME, name, NEARLY_FULL);
        assert!(step.starts_with(wanted), "{step}");
    }
    // F3: nobody grows the volume of a PersistentVolumeClaim that is being deleted (seed 30576).
    snapshot.pvcs[0].metadata.deletion_timestamp = some_time();
    for reason in [NEARLY_FULL, RESERVATION_FULL] {
        let step = step(&snapshot, &VOLUME, "pvc-u", reason);
        assert!(!step.contains("patch pvc"), "{reason}: {step}");
    }
}

/// T4: the advice does not repeat a mistyped name. A similar name comes first.
#[test]
fn t4_advice_looks_for_the_similar_name_first() {
    let mut eng = reserved("eng", "eng", 4, &[]);
    let mut typo = reservation("typo", "eng", 1);
    typo.spec.node_disk = Some("n1.b".into());
    let mut orphaned = reservation("sub", "eng/ml", 1);
    orphaned.spec.parent = Some("egn".into());
    eng.status.as_mut().unwrap().node_disk = Some("n1.a".into());
    let mut snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 10, &[])],
        reservations: vec![eng, typo, orphaned],
        volumes: vec![
            ready_volume("data", "eng", true),
            ready_volume("of-sub-role", "eng/ml", true),
            volume("lost", "egn", 1),
        ],
        claims: vec![claim("team", "c", "dta"), claim("team", "sub", "of-sub-role")],
        subscriptions: vec![subscription("team", &["eng"], false)],
        ..Snapshot::default()
    };
    snapshot.reservations.push(reservation("elsewhere", "eng", 1));
    snapshot.reservations[3].spec.node_name = Some("n11".into());
    for (name, reservation) in [("named", "egn"), ("far", "zzz")] {
        let mut volume = volume(name, "eng", 1);
        (volume.spec.reservation, volume.spec.gid) =
            (Some(reservation.into()), (name == "named").then_some(7));
        snapshot.volumes.push(volume);
    }
    for (kind, name, reason, wanted) in [
        (
            &RESERVATION,
            "elsewhere",
            NO_SUCH_DISK,
            "kubectl reservoir reserve elsewhere --role eng --size 1Gi --node n1   # if node n1 is meant",
        ),
        (&CLAIM, "c", NO_SUCH_VOLUME, "kubectl reservoir claim c --role eng --volume data -n team"),
        // A volume of that name is there, for a sub-role: none can be created.
        (
            &CLAIM,
            "sub",
            NO_SUCH_VOLUME,
            "kubectl reservoir claim sub --role eng/ml --volume of-sub-role -n team",
        ),
        (
            &RESERVATION,
            "typo",
            NO_SUCH_DISK,
            "kubectl reservoir reserve typo --role eng --size 1Gi --disk n1.a",
        ),
        (
            &RESERVATION,
            "sub",
            NO_PARENT,
            "kubectl reservoir reserve sub --role eng/ml --size 1Gi --parent eng",
        ),
        (&VOLUME, "lost", NO_RESERVATION, "kubectl reservoir create lost --role eng --size 1Gi"),
        (&VOLUME, "named", NO_RESERVATION, "create named --role eng --size 1Gi --reservation eng --gid 7"),
        (&VOLUME, "far", NO_RESERVATION, "create far --role eng --size 1Gi   # in any reservation"),
    ] {
        let step = step(&snapshot, kind, name, reason);
        assert!(step.starts_with("kubectl delete ") && step.contains(wanted), "{reason}: {step}");
    }
    // With one that waits itself, or ends, the wait would go on.
    let (volume, reservation) = (snapshot.volumes[0].clone(), snapshot.reservations[0].clone());
    for ends in [true, false] {
        match ends {
            true => {
                snapshot.volumes[0].metadata.deletion_timestamp = some_time();
                snapshot.reservations[0].metadata.deletion_timestamp = some_time();
            }
            false => {
                set_ready(&mut snapshot.volumes[0].status.as_mut().unwrap().conditions, false);
                snapshot.reservations[0].status.as_mut().unwrap().phase = ReservationPhase::Pending;
            }
        }
        for (kind, name, reason, not) in [
            (&CLAIM, "c", NO_SUCH_VOLUME, "data"),
            (&RESERVATION, "sub", NO_PARENT, "--parent eng"),
            (&VOLUME, "lost", NO_RESERVATION, "create lost --role eng"),
            (&VOLUME, "named", NO_RESERVATION, "--reservation eng"),
        ] {
            let step = step(&snapshot, kind, name, reason);
            assert!(!step.contains(not), "{step}");
        }
        (snapshot.volumes[0], snapshot.reservations[0]) = (volume.clone(), reservation.clone());
    }
    set_ready(&mut snapshot.disks[0].status.as_mut().unwrap().conditions, false);
    for name in ["elsewhere", "typo"] {
        let told = step(&snapshot, &RESERVATION, name, NO_SUCH_DISK);
        assert_eq!(told, advice::ask_why("nd/n1.a"), "nothing is reserved on a disk that is not ready");
    }
    set_ready(&mut snapshot.disks[0].status.as_mut().unwrap().conditions, true);
    // The name of an object that exists is no typo of another name.
    snapshot.nodes = vec![serde_json::from_value(json!({"metadata": {"name": "n11"}})).unwrap()];
    let told = step(&snapshot, &RESERVATION, "elsewhere", NO_SUCH_DISK);
    assert!(told.starts_with("kubectl reservoir doctor   # says why node n11 has no agent"), "{told}");
    snapshot.roles = vec![volume_role("egn", "egn")];
    let told = step(&snapshot, &VOLUME, "lost", NO_RESERVATION);
    assert_eq!(told, "kubectl reservoir reserve egn --role egn --size 1Gi");
}

/// T4, R1: the labels of a node lead more than reservations to it.
#[test]
fn t4_r1_advice_about_a_selector_labels_no_node() {
    let mut reservation = reservation("r", "eng", 1);
    reservation.spec.node_selector =
        Some([("kubernetes.io/hostname".to_owned(), "workr1".to_owned())].into());
    let mut snapshot = Snapshot {
        disks: vec![disk("n1.a", "worker1", 10, &[])],
        reservations: vec![reservation],
        ..Snapshot::default()
    };
    let told = step(&snapshot, &RESERVATION, "r", NO_SUCH_DISK);
    assert!(told.contains("--size 1Gi --node worker1   # if node worker1 is meant"), "{told}");
    snapshot.reservations[0].spec.node_selector = Some(
        [("pool".to_owned(), "gpu".to_owned()), ("kubernetes.io/arch".to_owned(), "arm".to_owned())].into(),
    );
    let told = step(&snapshot, &RESERVATION, "r", NO_SUCH_DISK);
    assert!(told.ends_with("the labels of a node: kubectl get nodes -L kubernetes.io/arch,pool"), "{told}");
}

/// T4: nothing with bytes on a disk is advised to go because the disk's object is missing.
#[test]
fn t4_a_reservation_on_a_missing_disk_is_not_made_anew() {
    let mut placed = reserved("r", "eng", 4, &[("v", 1)]);
    let status = placed.status.as_mut().unwrap();
    (status.node_name, status.node_disk) = (Some("n9".into()), Some("n9.a".into()));
    let snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 10, &[])],
        reservations: vec![placed],
        ..Snapshot::default()
    };
    assert_eq!(step(&snapshot, &RESERVATION, "r", NO_SUCH_DISK), advice::find_agent("node n9"));
}

/// T4, R7: the name of a template's reservation is another's.
#[test]
fn t4_r7_advice_about_a_taken_name_of_a_template() {
    let mut role = volume_role("eng", "eng");
    role.spec.reservation_templates = vec![crate::api::ReservationTemplate {
        name: "t".into(),
        size: gi(1),
        disk_name: "a".into(),
        node_selector: None,
    }];
    let mut of_disk = disk("n1.a", "n1", 10, &[]);
    of_disk.spec.disk_name = "a".into();
    let snapshot = Snapshot {
        disks: vec![of_disk],
        roles: vec![role],
        reservations: vec![reserved("eng.t.n1.a", "eng", 1, &[])],
        ..Snapshot::default()
    };
    let told = step(&snapshot, Kind::parse("vrole").unwrap(), "eng", TEMPLATE_WAITS);
    assert!(told.starts_with("kubectl reservoir why dr/eng.t.n1.a   # it has the name"), "{told}");
}

/// T4, R7, seed 30040: a kind that is being deleted takes no reservation of a template.
#[test]
fn t4_a_role_whose_reservations_are_refused_is_led_to_what_refuses_them() {
    let mut role = volume_role("eng", "eng");
    for (said, wanted) in [
        ("create not allowed while custom resource definition is terminating", "kubectl get crds   # "),
        ("admission webhook \"v\" denied the request: no", "kubectl describe vrole/eng   # have"),
    ] {
        let why = condition::Verdict::no(REFUSED, format!("template t: {said}"));
        let conditions = &mut role.status.get_or_insert_default().conditions;
        condition::set(conditions, condition::TEMPLATED, why, None, jiff::Timestamp::UNIX_EPOCH);
        let snapshot = Snapshot { roles: vec![role.clone()], ..Snapshot::default() };
        let told = step(&snapshot, &kind::ROLE, "eng", REFUSED);
        assert!(told.starts_with(wanted), "{told}");
    }
}

/// T4, R1: a reservation that is another role's cannot be made.
#[test]
fn t4_r1_advice_about_a_foreign_reservation_reserves_under_a_free_name() {
    let mut named = volume("v", "ops", 1);
    named.spec.reservation = Some("eng".into());
    let snapshot = Snapshot {
        volumes: vec![named],
        reservations: vec![reserved("eng", "eng", 1, &[])],
        ..Snapshot::default()
    };
    let told = step(&snapshot, &VOLUME, "v", NO_RESERVATION);
    assert!(
        told.starts_with(
            "kubectl reservoir reserve ops --role ops --size 1Gi && kubectl delete spv/v && kubectl reservoir create v --role ops \
             --size 1Gi --reservation ops"
        ),
        "{told}"
    );
    assert!(told.ends_with("since DiskReservation eng is for another role"), "{told}");
}

/// T4, C4: who sees no volume knows its role from an offer, or from the message.
#[test]
fn t4_c4_a_tenants_advice_has_the_role_of_the_volume() {
    let mut own = claim("team", "c", "own");
    own.spec.role = "eng/ml".into();
    let mut snapshot =
        Snapshot { claims: vec![own], denied: vec![Denied::unseen(&VOLUME)], ..Snapshot::default() };
    let told = step(&snapshot, &CLAIM, "c", ROLE_NOT_ALLOWED);
    assert!(
        told.starts_with(
            "kubectl delete vclaim/c -n team   # then claim the volume for the role that the message"
        ),
        "{told}"
    );
    let offer = json!({"metadata": {"name": "o", "namespace": "team"}, "spec": {"subscription": "s", "nodeName": "n1",
        "volumes": [{"name": "own", "uid": "u", "role": "eng", "size": "1Gi", "shared": true}]}});
    snapshot.offers = vec![serde_json::from_value(offer).unwrap()];
    let told = step(&snapshot, &CLAIM, "c", ROLE_NOT_ALLOWED);
    assert!(told.contains("kubectl reservoir claim c --role eng --volume own -n team"), "{told}");
}

/// T4: where no size fits, the advice is no way back to itself.
#[test]
fn t4_advice_leads_on_where_nothing_is_left() {
    let full = with_quota(volume_role("eng", "eng"), Some(5), None, &[("x", 5)]);
    let mut far = claim("team", "far", "datasets");
    far.spec.role = "ops".into();
    let mut sub = claim("team", "sub", "dataset");
    sub.spec.role = "ops".into();
    let mut kept = claim("team", "kept", "v");
    kept.metadata.deletion_timestamp = some_time();
    kept.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    let done = serde_json::from_value(serde_json::json!({"metadata": {"namespace": "team", "name": "done"},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "ending"}}]},
            "status": {"phase": "Succeeded"}}))
        .unwrap();
    let snapshot = Snapshot {
        reservations: vec![reservation("more", "eng/ml", 1)],
        roles: vec![full],
        claims: vec![claim("team", "ending", "v"), far, sub, kept],
        volumes: vec![ready_volume("dataset", "eng", true)],
        pods: vec![done],
        ..Snapshot::default()
    };
    for (kind, name, reason, wanted) in [
        (&RESERVATION, "more", OVER_QUOTA, "kubectl reservoir tree --role eng   # delete reservations"),
        (&RESERVATION, "more", NOT_ENOUGH_ROOM, "kubectl reservoir status   # free space"),
        (&CLAIM, "ending", IN_USE, "kubectl delete pod done -n team   # it has ended"),
        (&CLAIM, "far", NO_SUCH_VOLUME, "kubectl reservoir create datasets --role ops --size 1Gi"),
        (
            &CLAIM,
            "kept",
            RELEASING,
            "kubectl get vclaim/kept -n team -o yaml   # it goes when finalizer example.com/hold is",
        ),
        (
            &CLAIM,
            "sub",
            NO_SUCH_VOLUME,
            "kubectl delete vclaim/sub -n team && kubectl reservoir claim sub --role eng --volume dataset",
        ),
    ] {
        let step = step(&snapshot, kind, name, reason);
        assert!(step.starts_with(wanted), "{step}");
    }
}

/// T4, Q2: a reservation that waits for the guarantees of others may have what is left beside them.
#[test]
fn t4_q2_advice_beside_a_guarantee_has_what_is_left() {
    let mut on = disk("n1.a", "n1", 7, &[]);
    on.status.as_mut().unwrap().free = Some(gi(7));
    let mut snapshot = Snapshot {
        disks: vec![on],
        roles: vec![with_quota(volume_role("ops", "ops"), None, Some(5), &[])],
        reservations: vec![reservation("q", "eng", 6)],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| step(snapshot, &RESERVATION, "q", GUARANTEED);
    assert!(of(&snapshot).starts_with("kubectl reservoir resize dr/q 2Gi   # what is guaranteed to nobody"));
    snapshot.roles[0] = with_quota(volume_role("ops", "ops"), None, Some(7), &[]);
    let lowered = "kubectl patch vrole ops --type=merge -p '{\"spec\":{\"quota\":{\"guarantee\":\"1Gi\"}}}' ";
    assert!(of(&snapshot).starts_with(lowered), "{}", of(&snapshot));
    snapshot.roles[0] = with_quota(volume_role("ops", "ops"), None, Some(17), &[]);
    assert!(of(&snapshot).starts_with("kubectl reservoir why vrole/ops "), "{}", of(&snapshot));
}

/// T4: a size that the reservation's disk cannot have is no circle of steps between volume and reservation.
#[test]
fn t4_advice_enlarges_no_reservation_beyond_its_disk() {
    let mut full = disk("n1.a", "n1", 7, &[]);
    full.status.as_mut().unwrap().free = Some(gi(1));
    let (pvc, made) = made_for(volume("pvc-u", "eng", 50));
    let snapshot = Snapshot {
        disks: vec![full],
        reservations: vec![reserved("eng", "eng", 6, &[("data", 3)])],
        volumes: vec![volume("big", "eng", 50), volume("fits", "eng", 4), made],
        pvcs: vec![pvc],
        ..Snapshot::default()
    };
    for (name, wanted) in [
        ("big", "kubectl reservoir resize dr/eng 7Gi && kubectl reservoir resize spv/big 4Gi   # the most"),
        ("fits", "kubectl reservoir resize dr/eng 7Gi "),
        ("pvc-u", "kubectl delete pvc q -n team   # then make it anew with 4Gi, as no disk has more"),
    ] {
        let step = step(&snapshot, &VOLUME, name, RESERVATION_FULL);
        assert!(step.starts_with(wanted), "{step}");
    }
}

/// T4, V7: a reservation that has all that it asks for is no cause, where nothing more is free on its disk.
#[test]
fn t4_v7_advice_about_growth_asks_about_no_healthy_reservation() {
    let mut grows = ready_volume("v", "eng", true);
    grows.spec.size = gi(9);
    let of = crate::api::UidRef { name: "eng".into(), uid: "uid-eng".into() };
    grows.status.as_mut().unwrap().reservation = Some(of);
    let mut full = disk("n1.a", "n1", 6, &[]);
    full.status.as_mut().unwrap().free = Some(gi(0));
    let snapshot = Snapshot {
        disks: vec![full],
        reservations: vec![reserved("eng", "eng", 6, &[("v", 1), ("x", 4)])],
        volumes: vec![grows],
        ..Snapshot::default()
    };
    let step = step(&snapshot, &VOLUME, "v", RESERVATION_FULL);
    assert!(step.starts_with("kubectl reservoir resize spv/v 2Gi   # its disk has no more"), "{step}");
}

/// T4, R1: what has its place does not leave its disk, so another disk is no help.
#[test]
fn t4_advice_about_what_has_its_place_is_about_its_disk() {
    let mut small = disk("n1.a", "n1", 7, &[]);
    small.status.as_mut().unwrap().free = Some(gi(2));
    let mut large = disk("n2.a", "n2", 99, &[]);
    large.status.as_mut().unwrap().free = Some(gi(99));
    let placed = |name: &str| {
        let mut volume = ready_volume(name, "eng", false);
        volume.spec.size = gi(9);
        let status = volume.status.as_mut().unwrap();
        status.reservation = Some(crate::api::UidRef { name: "eng".into(), uid: "uid-eng".into() });
        volume
    };
    let (pvc, made) = made_for(placed("pvc-u"));
    let mut template = reservation("late", "eng", 9);
    template.spec.node_disk = Some("n1.a".into());
    let mut snapshot = Snapshot {
        disks: vec![small, large],
        reservations: vec![reserved("eng", "eng", 4, &[("x", 4)]), template],
        volumes: vec![made, placed("plain")],
        pvcs: vec![pvc],
        ..Snapshot::default()
    };
    for (kind, name, reason, wanted) in [
        (
            &VOLUME,
            "pvc-u",
            RESERVATION_FULL,
            "kubectl reservoir resize dr/eng 6Gi && kubectl patch pvc q -n team -p",
        ),
        (&VOLUME, "plain", RESERVATION_FULL, "resize dr/eng 6Gi && kubectl reservoir resize spv/plain 3Gi"),
        (
            &RESERVATION,
            "eng",
            NOT_ENOUGH_ROOM,
            "resize dr/eng 6Gi   # or free space on disk n1.a, which it does not leave",
        ),
        (&RESERVATION, "late", NOT_ENOUGH_ROOM, "kubectl reservoir resize dr/late 2Gi   # or free space"),
    ] {
        let step = step(&snapshot, kind, name, reason);
        assert!(step.contains(wanted), "{name}: {step}");
    }
    snapshot.disks[0].status.as_mut().unwrap().free = Some(gi(0));
    let step = step(&snapshot, &VOLUME, "pvc-u", RESERVATION_FULL);
    assert!(step.contains("on disk n1.a, which it does not leave: another disk is no help"), "{step}");
}

/// T4, P1: the volume of a PersistentVolumeClaim would be made again as it is, and nobody else can make it.
#[test]
fn t4_p1_advice_makes_no_volume_of_a_persistent_volume_claim() {
    let raw = |mode| {
        let mut raw = volume("pvc-u", "eng", 1);
        (raw.spec.volume_mode, raw.spec.reservation) = (mode, Some("egn".into()));
        raw
    };
    let (mut pvc, made) = made_for(raw(VolumeMode::Block));
    pvc.spec.get_or_insert_default().storage_class_name = Some("fast".into());
    let mut snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 10, &[])],
        reservations: vec![reserved("eng", "eng", 4, &[])],
        volumes: vec![made],
        pvcs: vec![pvc],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot, reason| step(snapshot, &VOLUME, "pvc-u", reason);
    let anew = "kubectl delete pvc q -n team   # then make it anew as the message says";
    assert!(of(&snapshot, WRONG_DISK).starts_with(anew), "{}", of(&snapshot, WRONG_DISK));
    assert_eq!(of(&snapshot, VOLUME_GONE), "kubectl delete pvc/q -n team");
    let class =
        "kubectl get storageclass fast -o yaml   # delete it and PersistentVolumeClaim q of namespace team";
    assert!(of(&snapshot, NO_RESERVATION).starts_with(class), "{}", of(&snapshot, NO_RESERVATION));
    snapshot.volumes = vec![made_for(raw(VolumeMode::Filesystem)).1];
    assert!(of(&snapshot, WRONG_DISK).starts_with(class), "its class has the file system");
    // Who does not see the PersistentVolumeClaim reads its name on the volume.
    snapshot.pvcs.clear();
    let made_for = [(crate::api::ANNOTATION_MADE_FOR.to_owned(), "team/q".to_owned())];
    snapshot.volumes[0].metadata.annotations = Some(made_for.into());
    assert!(of(&snapshot, WRONG_DISK).starts_with(anew), "{}", of(&snapshot, WRONG_DISK));
}

/// T4, P4: a class' volume ends with its PersistentVolumeClaim, and a volume that nobody uses waits for its node only.
#[test]
fn t4_p4_advice_about_the_end_of_a_volume_names_who_ends_it() {
    let (pvc, made) = made_for(ready_volume("pvc-u", "eng", false));
    let mut used = ready_volume("used", "eng", true);
    used.status.as_mut().unwrap().user_count = 1;
    let mut chosen = reservation("chosen", "eng", 1);
    let labels = [("disk", "ssd"), ("zone", "a")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    chosen.spec.node_selector = Some(labels.into());
    let mut elsewhere = reservation("elsewhere", "eng", 1);
    elsewhere.spec.node_name = Some("zzz".into());
    let snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 10, &[])],
        volumes: vec![made, used, ready_volume("plain", "eng", true)],
        reservations: vec![chosen, elsewhere],
        pvcs: vec![pvc],
        ..Snapshot::default()
    };
    for (kind, name, reason, wanted) in [
        (&VOLUME, "pvc-u", RETIRING, "PersistentVolumeClaim q: kubectl delete pvc q -n team"),
        (&VOLUME, "plain", RETIRING, "else nothing is to be done: nobody uses it"),
        (&VOLUME, "plain", DESTROYING, "wait a few seconds"),
        (&VOLUME, "used", DESTROYING, "end the claims and pods"),
        (&RESERVATION, "chosen", NO_SUCH_DISK, "kubectl get nodes -L disk,zone"),
        (&RESERVATION, "elsewhere", NO_SUCH_DISK, "# on any disk; kubectl get nodedisks"),
    ] {
        let step = step(&snapshot, kind, name, reason);
        assert!(step.contains(wanted), "{name} {reason}: {step}");
    }
}

/// T4: the advice has sizes that suffice.
#[test]
fn t4_advice_has_sizes_that_suffice() {
    let mut free = disk("n1.a", "n1", 10, &[]);
    free.status.as_mut().unwrap().free = Some(gi(6));
    let mut big = volume("big", "eng", 5);
    big.spec.reservation = Some("eng".into());
    let mut sub = reservation("sub", "eng/ml", 3);
    sub.spec.parent = Some("eng".into());
    let mut none = reservation("none", "ops/x", 3);
    none.spec.parent = Some("full".into());
    let snapshot = Snapshot {
        disks: vec![free],
        reservations: vec![
            reserved("eng", "eng", 4, &[("data", 3)]),
            reservation("large", "eng", 99),
            sub,
            reserved("full", "ops", 4, &[("all", 4)]),
            none,
        ],
        volumes: vec![big],
        roles: vec![with_quota(volume_role("eng", "eng"), Some(8), None, &[("x", 5)])],
        ..Snapshot::default()
    };
    for (kind, name, reason, wanted) in [
        // Within its limit of 8Gi role eng has 5Gi reserved.
        (
            &VOLUME,
            "big",
            RESERVATION_FULL,
            "kubectl patch vrole eng --type=merge -p '{\"spec\":{\"quota\":{\"limit\":\"9Gi\"}}}' ",
        ),
        (&RESERVATION, "large", NOT_ENOUGH_ROOM, "kubectl reservoir resize dr/large 6Gi "),
        (&RESERVATION, "large", OVER_QUOTA, "kubectl reservoir resize dr/large 3Gi "),
        (&RESERVATION, "eng", BELOW_USED, "kubectl reservoir resize dr/eng 3Gi "),
        (&RESERVATION, "sub", PARENT_FULL, "kubectl reservoir resize dr/eng 6Gi "),
        (&RESERVATION, "sub", PARENT_FULL, "kubectl reservoir resize dr/sub 1Gi"),
        (&RESERVATION, "none", PARENT_FULL, "kubectl reservoir resize dr/full 7Gi   # nothing is left in it"),
    ] {
        let step = step(&snapshot, kind, name, reason);
        assert!(step.contains(wanted), "{name} {reason}: {step}");
    }
    let mut less = snapshot;
    less.roles[0].spec.quota.limit = Some(Size::from_bytes(2 << 30));
    let back = step(&less, &RESERVATION, "eng", OVER_QUOTA);
    assert!(back.starts_with("kubectl reservoir resize dr/eng 4Gi "), "{back}");
}

/// T4, E2: what waits for a seal that was asked for leads to what the seal waits for.
#[test]
fn t4_e2_copies_wait_for_the_seal() {
    let mut volume = ready_volume("data", "eng", true);
    let waits = |volume: &SharedPersistentVolume| {
        let snapshot = Snapshot { volumes: vec![volume.clone()], ..Snapshot::default() };
        step(&snapshot, &VOLUME, "data", NOT_SEALED)
    };
    assert!(waits(&volume).contains(r#"{"sealed":true}"#), "{}", waits(&volume));
    volume.spec.sealed = true;
    assert_eq!(waits(&volume), advice::look_again());
    let conditions = &mut volume.status.as_mut().unwrap().conditions;
    let verdict = condition::Verdict::no(HAS_WRITERS, "n/p");
    condition::set(conditions, condition::SEALED, verdict, None, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(waits(&volume), advice::let_writers_go_on("data"));
}

/// T4, V8: a volume that was made keeps its directory, and a larger one is asked for with the size that the agent names.
#[test]
fn t4_v8_advice_about_an_adopted_directory_deletes_nothing_healthy() {
    let small = "volume a needs 41951232 bytes at least, for its files and the tables of its file system";
    let mut volume = ready_volume("a", "eng", true);
    volume.spec.adopt = Some(crate::api::Adopt { path: "/srv/set".into() });
    let status = volume.status.as_mut().unwrap();
    let failed = condition::Verdict::no(BACKING_FAILED, small);
    condition::set(&mut status.conditions, condition::BACKED, failed, None, jiff::Timestamp::UNIX_EPOCH);
    let mut snapshot = Snapshot { volumes: vec![volume], ..Snapshot::default() };
    let of = |snapshot: &Snapshot| step(snapshot, &VOLUME, "a", BACKING_FAILED);
    assert!(of(&snapshot).starts_with("have an administrator allow /srv/set"), "{}", of(&snapshot));
    snapshot.volumes[0].status.as_mut().unwrap().node.as_mut().unwrap().backing =
        crate::api::BackingState::Absent;
    let made = of(&snapshot);
    assert!(
        made.starts_with("kubectl delete spv/a && kubectl reservoir create a --role eng --size 41Mi"),
        "{made}"
    );
    // Until the other disk of the node is served, no directory helps.
    let status = snapshot.volumes[0].status.as_mut().unwrap();
    let failed = condition::Verdict::no(BACKING_FAILED, "NodeDisk n1.b is unavailable: it is not mounted");
    condition::set(&mut status.conditions, condition::BACKED, failed, None, jiff::Timestamp::UNIX_EPOCH);
    assert!(of(&snapshot).starts_with("kubectl delete spv/a   # the directory stays"), "{}", of(&snapshot));
    let mut unserved = disk("n1.b", "n1", 10, &[]);
    unserved.status = None;
    snapshot.disks = vec![disk("n1.a", "n1", 10, &[]), unserved];
    assert_eq!(of(&snapshot), "kubectl reservoir why nd/n1.b");
    let status = snapshot.volumes[0].status.as_mut().unwrap();
    let failed = condition::Verdict::no(BACKING_FAILED, "directory /srv/set does not exist on node n1");
    condition::set(&mut status.conditions, condition::BACKED, failed, None, jiff::Timestamp::UNIX_EPOCH);
    assert!(of(&snapshot).starts_with("kubectl delete spv/a   # the directory stays"), "{}", of(&snapshot));
    // Another disk helps only if it allows the directory, and a volume without an enforced size.
    let wrong = |snapshot: &Snapshot| step(snapshot, &VOLUME, "a", WRONG_DISK);
    let allow = "have an administrator allow /srv/set: adoptRoots and allowUnenforced of a disk";
    snapshot.disks[0].spec.adopt_roots = vec!["/srv".into()];
    assert!(wrong(&snapshot).starts_with(allow), "{}", wrong(&snapshot));
    snapshot.disks[0].spec.allow_unenforced = true;
    assert!(wrong(&snapshot).starts_with("kubectl delete spv/a"), "{}", wrong(&snapshot));
    snapshot.volumes[0].spec.adopt = None;
    snapshot.volumes[0].status.as_mut().unwrap().node.as_mut().unwrap().resize_failed = Some(small.into());
    let least = step(&snapshot, &VOLUME, "a", RESIZE_FAILED);
    assert!(least.starts_with("kubectl reservoir resize spv/a 41Mi   # the least"), "{least}");
}

/// T4: no field is lost in silence by the advice to make something anew.
#[test]
fn t4_advice_to_make_anew_loses_no_field() {
    let mut reservation = reservation("qq", "eng", 1);
    reservation.spec.node_name = Some("stranger".into());
    let mut snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 10, &[])],
        reservations: vec![reservation, reserved("eng", "eng", 4, &[])],
        volumes: vec![volume("q", "enq", 1)],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| {
        [(&VOLUME, "q", NO_RESERVATION), (&RESERVATION, "qq", NO_SUCH_DISK)]
            .map(|(kind, name, why)| step(snapshot, kind, name, why))
    };
    assert!(of(&snapshot).iter().all(|step| !step.contains("--edit")), "{:?}", of(&snapshot));
    snapshot.volumes[0].spec.erase_policy = crate::api::ErasePolicy::Zero;
    snapshot.reservations[0].metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    let mut sealed = snapshot.volumes[0].clone();
    sealed.spec.erase_policy = Default::default();
    sealed.spec.sealed = true;
    let sealed = Snapshot {
        volumes: vec![sealed],
        reservations: snapshot.reservations.clone(),
        ..Snapshot::default()
    };
    assert!(step(&sealed, &VOLUME, "q", NO_RESERVATION).contains("--edit"), "E1");
    let mut copied = sealed;
    (copied.volumes[0].spec.sealed, copied.volumes[0].spec.copies) = (false, Some(Default::default()));
    assert!(step(&copied, &VOLUME, "q", NO_RESERVATION).contains("--edit"), "E2");
    for (step, object) in of(&snapshot).iter().zip(["spv/q", "dr/qq"]) {
        let name = object.split('/').nth(1).unwrap();
        let anew = format!(
            "kubectl get {object} -o yaml > {name}.yaml && kubectl delete {object} && kubectl create --edit -f {name}.yaml   #"
        );
        assert!(step.starts_with(&anew), "{step}");
    }
    // The same role in other letters is meant, and no name is taken twice.
    snapshot.volumes = vec![volume("q", "ENG", 1)];
    assert!(of(&snapshot)[0].contains("create q --role eng "), "{}", of(&snapshot)[0]);
    snapshot.volumes = vec![volume("q", "Eng/ml", 1)];
    snapshot.reservations[1].metadata.name = Some("eng-ml".into());
    snapshot.reservations[1].spec.role = "zzz".into();
    snapshot.reservations[0].spec.role = "zzz".into();
    assert!(of(&snapshot)[0].starts_with("kubectl reservoir reserve eng-ml-2 "), "{}", of(&snapshot)[0]);
}

/// T4, R1: the space of another node is no size for a reservation that names its node.
#[test]
fn t4_r1_advice_about_space_asks_about_a_disk_that_is_not_ready() {
    let mut unready = disk("n1.a", "n1", 10, &[]);
    let why = condition::Verdict::no(SPACE_TAKEN, "");
    let status = unready.status.as_mut().unwrap();
    condition::set(&mut status.conditions, condition::READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let mut other = disk("n2.a", "n2", 10, &[]);
    other.status.as_mut().unwrap().free = Some(gi(1));
    let mut tiny = reservation("tiny", "eng", 2);
    tiny.spec.node_name = Some("n1".into());
    let mut snapshot =
        Snapshot { disks: vec![unready, other], reservations: vec![tiny], ..Snapshot::default() };
    let of = |snapshot: &Snapshot| step(snapshot, &RESERVATION, "tiny", NOT_ENOUGH_ROOM);
    assert_eq!(of(&snapshot), "kubectl reservoir why nd/n1.a");
    snapshot.reservations[0].spec.node_name = Some("n2".into());
    assert!(of(&snapshot).starts_with("kubectl reservoir resize dr/tiny 1Gi"), "{}", of(&snapshot));
}

/// T4, D1: a disk of which the configuration gives less than is reserved has no files of others.
#[test]
fn t4_d1_advice_removes_no_files_for_a_smaller_capacity() {
    let mut small = disk("n1.a", "n1", 10, &[("eng", 4)]);
    small.status.as_mut().unwrap().capacity = Some(gi(2));
    let mut snapshot = Snapshot { disks: vec![small], pods: vec![agent_pod()], ..Snapshot::default() };
    let of = |snapshot: &Snapshot| step(snapshot, &DISK, "n1.a", SPACE_TAKEN);
    assert!(of(&snapshot).starts_with("helm get values r -n sys"), "{}", of(&snapshot));
    snapshot.disks[0].status.as_mut().unwrap().capacity = Some(gi(10));
    assert!(of(&snapshot).starts_with("remove foreign files"), "{}", of(&snapshot));
}

/// T4, V7: a pod on no node has nothing mounted, so its end lets nothing grow.
#[test]
fn t4_v7_advice_about_a_growth_ends_a_pod_that_has_it_mounted() {
    let mut volume = ready_volume("v", "eng", true);
    let status = volume.status.as_mut().unwrap();
    status.users = vec![pod("team", "away"), pod("team", "web")];
    let busy = format!("ext4 {}", crate::plan::resize::BUSY);
    status.node.as_mut().unwrap().resize_failed = Some(busy);
    let placed: Pod =
        serde_json::from_value(serde_json::json!({"metadata": {"name": "web", "namespace": "team",
        "uid": pod("team", "web").uid}, "spec": {"nodeName": "n1", "containers": []}}))
        .unwrap();
    let snapshot = Snapshot { volumes: vec![volume], pods: vec![placed], ..Snapshot::default() };
    let step = step(&snapshot, &VOLUME, "v", RESIZE_FAILED);
    assert!(step.starts_with("kubectl describe pod web -n team"), "{step}");
}

/// T4, R4, X8: kept data ends by itself, and nobody who waits for space is told to erase it.
#[test]
fn t4_x8_advice_erases_no_kept_data() {
    let mut deleting = with_kept(&[("v", 0, 60), ("w", 0, 90)]);
    deleting.metadata.deletion_timestamp = some_time();
    let mut snapshot = Snapshot {
        reservations: vec![deleting],
        volumes: vec![volume("v", "eng", 1)],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| step(snapshot, &VOLUME, "v", NO_RESERVATION);
    let held = step(&snapshot, &RESERVATION, "r", HAS_VOLUMES);
    assert!(
        held.starts_with("kubectl reservoir kept   # nothing is to be done")
            && held.contains("1970-01-01T00:01:30Z")
    );
    let beside = "kubectl reservoir reserve eng --role eng --size 1Gi   # DiskReservation r is being deleted, and takes no new volume";
    let back = "; the data of before, which it keeps, comes back by: kubectl reservoir undelete uid-v-0 --name v-old";
    assert_eq!(of(&snapshot), format!("{beside}{back}"));
    snapshot.reservations[0].status.as_mut().unwrap().volumes.clear();
    assert_eq!(of(&snapshot), beside);
    snapshot.volumes[0].spec.reservation = Some("r".into());
    let anew = of(&snapshot);
    assert!(
        anew.starts_with("kubectl reservoir reserve eng --role eng --size 1Gi && kubectl delete spv/v && kubectl reservoir create v")
            && anew.contains("--reservation eng"),
        "{anew}"
    );
    snapshot.reservations.push(reserved("s", "eng", 4, &[]));
    assert!(of(&snapshot).contains("# in any reservation of role eng"), "{}", of(&snapshot));
}

/// T4, R6: who has ended the first object in a reservation is told of the next, and then of what the last one waits for.
#[test]
fn t4_r6_advice_about_content_goes_on_to_the_next() {
    let mut outer = reserved("r", "eng", 9, &[("a", 1), ("b", 1)]);
    outer.status.as_mut().unwrap().refinements = ["c", "d"].map(|name| ledger_entry(name, "eng", 1)).to_vec();
    let volumes = ["a", "b"].map(|name| ready_volume(name, "eng", true)).to_vec();
    let carved = ["c", "d"].map(|name| reserved(name, "eng", 1, &[])).to_vec();
    let reservations = [vec![outer], carved].concat();
    let mut snapshot = Snapshot { reservations, volumes, ..Snapshot::default() };
    let of = |snapshot: &Snapshot, reason| step(snapshot, &RESERVATION, "r", reason);
    for (volume, carved) in [("a", "c"), ("b", "d")] {
        assert_eq!(of(&snapshot, HAS_VOLUMES), advice::retire_content(volume));
        assert_eq!(of(&snapshot, HAS_REFINEMENTS), advice::delete_content(carved));
        let ends = snapshot.volumes.iter_mut().find(|of| of.name_any() == volume).unwrap();
        let conditions = &mut ends.status.as_mut().unwrap().conditions;
        condition::set(
            conditions,
            condition::RETIRING,
            condition::Verdict::yes(RETIRING, "in use"),
            None,
            jiff::Timestamp::UNIX_EPOCH,
        );
        let ends = snapshot.reservations.iter_mut().find(|of| of.name_any() == carved).unwrap();
        ends.metadata.deletion_timestamp = some_time();
    }
    assert_eq!(of(&snapshot, HAS_VOLUMES), advice::ask_why("spv/a"));
    assert_eq!(of(&snapshot, HAS_REFINEMENTS), advice::ask_why("dr/c"));
}

/// T4, E2: the command `retire` refuses copies, on which their original decides.
#[test]
fn t4_e2_advice_about_content_leads_to_the_original_of_a_copy() {
    let mut copy = ready_volume("a", "eng", true);
    copy.spec.copy_of =
        Some(CopyOf { name: "data".into(), uid: "uid-data".into(), node: "n2".into(), ..Default::default() });
    let mut snapshot = Snapshot {
        reservations: vec![reserved("r", "eng", 9, &[("a", 1)])],
        volumes: vec![copy],
        ..Snapshot::default()
    };
    let content = |snapshot: &Snapshot| step(snapshot, &RESERVATION, "r", HAS_VOLUMES);
    assert_eq!(content(&snapshot), advice::ask_why("spv/a"), "its original is gone");
    snapshot.volumes.push(ready_volume("data", "eng", true));
    let told = content(&snapshot);
    assert!(
        told.starts_with("kubectl edit spv data   # have spec.copies select node n2 no more: copy a"),
        "{told}"
    );
    snapshot.volumes[0].status.as_mut().unwrap().claims = vec![bound_by("team", "c", "uid-c")];
    assert_eq!(step(&snapshot, &VOLUME, "a", BACKING_LOST), advice::await_new_copy("data"));
    snapshot.volumes[1].spec.retire = true;
    assert_eq!(content(&snapshot), advice::ask_why("spv/a"), "it goes with its original");
    let told = step(&snapshot, &VOLUME, "a", BACKING_LOST);
    assert!(told.contains("if the data is lost for good: kubectl delete spv/a"), "{told}");
    snapshot.volumes[0].spec.copy_of = None;
    let told = step(&snapshot, &VOLUME, "a", BACKING_LOST);
    assert!(told.contains("if the data is lost for good: kubectl reservoir retire a"), "{told}");
}

/// T4, X6, X9: the entry of a volume without an object is that of its data, also if another volume has the name.
#[test]
fn t4_x6_advice_about_content_ends_no_other_volume_of_the_name() {
    let mut outer = reserved("r", "eng", 9, &[("v", 1)]);
    outer.status.as_mut().unwrap().refinements = vec![ledger_entry("c", "eng/ml", 1)];
    let mut other = ready_volume("v", "eng", true);
    other.metadata.uid = Some("uid-other".into());
    let mut others = reserved("c", "eng/ml", 1, &[]);
    others.metadata.uid = Some("uid-others".into());
    let mut snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 10, &[("r", 9)])],
        reservations: vec![outer, others],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| step(snapshot, &RESERVATION, "r", HAS_VOLUMES);
    for volumes in [vec![], vec![other]] {
        snapshot.volumes = volumes;
        let status = snapshot.disks[0].status.as_mut().unwrap();
        (status.orphans, status.unlisted_orphans) = (vec![], None);
        set_ready(&mut status.conditions, true);
        let unlisted = of(&snapshot);
        assert!(
            unlisted.starts_with("kubectl reservoir orphans   # volume v has no object, and NodeDisk n1.a")
        );
        assert!(unlisted.contains("a volume with spec.recover.uid uid-v"), "{unlisted}");
        set_ready(&mut snapshot.disks[0].status.as_mut().unwrap().conditions, false);
        assert_eq!(of(&snapshot), "kubectl reservoir why nd/n1.a", "its list is an old one");
        set_ready(&mut snapshot.disks[0].status.as_mut().unwrap().conditions, true);
        snapshot.disks[0].status.as_mut().unwrap().unlisted_orphans =
            Some(crate::api::UnlistedOrphans { count: 1, size: gi(1) });
        assert!(
            of(&snapshot).starts_with("kubectl reservoir recover   # what is listed"),
            "{}",
            of(&snapshot)
        );
        snapshot.disks[0].status.as_mut().unwrap().orphans =
            vec![crate::api::Orphan { uid: "uid-v".into(), ..Default::default() }];
        assert_eq!(of(&snapshot), advice::recover_orphan("uid-v"));
        let healthy = Target::new(&RESERVATION, None, "r".into());
        let told = crate::plugin::why::steps::deletion_step(&snapshot, &healthy);
        assert_eq!(told, Some(advice::recover_orphan("uid-v")), "nobody can delete that volume");
    }
    let of_refinement = |snapshot: &Snapshot| step(snapshot, &RESERVATION, "r", HAS_REFINEMENTS);
    assert_eq!(of_refinement(&snapshot), advice::look_again(), "the controller releases its entry");
    let of = crate::api::UidRef { name: "c".into(), uid: "uid-c".into() };
    snapshot.volumes[0].status.as_mut().unwrap().reservation = Some(of);
    assert_eq!(
        of_refinement(&snapshot),
        "kubectl reservoir why spv/v",
        "S3: its entry stays for that volume"
    );
    snapshot.denied = vec![Denied::unseen(&VOLUME)];
    snapshot.volumes.clear();
    assert_eq!(step(&snapshot, &RESERVATION, "r", HAS_VOLUMES), advice::retire_content("v"));
}

/// T4, E2: a copy waits for its original as long as that is not ready.
#[test]
fn t4_e2_advice_about_a_copy_leads_to_its_original() {
    let mut copy = volume("data-1", "eng", 1);
    copy.spec.copy_of = Some(CopyOf { name: "data".into(), ..Default::default() });
    let mut snapshot = Snapshot { volumes: vec![copy, volume("data", "eng", 1)], ..Snapshot::default() };
    let of = |snapshot: &Snapshot| step(snapshot, &VOLUME, "data-1", COPYING);
    assert_eq!(of(&snapshot), advice::ask_why("spv/data"));
    snapshot.volumes[1] = ready_volume("data", "eng", true);
    assert_eq!(of(&snapshot), advice::look_again());
    // The one before is in the way of the next copy of its node.
    snapshot.volumes[1].metadata.uid = Some("uid-data".into());
    let of = |snapshot: &Snapshot| step(snapshot, &VOLUME, "data", COPYING);
    snapshot.volumes[0].spec.copy_of.as_mut().unwrap().uid = "uid-data".into();
    assert_eq!(of(&snapshot), advice::look_again());
    snapshot.volumes[0].metadata.deletion_timestamp = crate::plan::testing::some_time();
    assert_eq!(of(&snapshot), advice::ask_why("spv/data-1"));
}

/// T4, D4: a claim whose data is given up is of no use any more.
#[test]
fn t4_d4_a_claim_of_a_disk_that_is_gone_ends() {
    let snapshot = Snapshot { claims: vec![claim("team", "c", "v")], ..Snapshot::default() };
    let told = step(&snapshot, &CLAIM, "c", VOLUME_GONE);
    assert!(told.starts_with("kubectl delete vclaim/c -n team   # then claim another volume"), "{told}");
    let used = Snapshot { pods: vec![pod_of("c", "Running")], ..snapshot };
    let told = step(&used, &CLAIM, "c", VOLUME_GONE);
    assert!(told.starts_with("kubectl reservoir unclaim c -n team   # then claim"), "{told}");
    // The volume is deleted after its claims.
    let mut snapshot = Snapshot { volumes: vec![ready_volume("v", "eng", true)], ..Snapshot::default() };
    assert_eq!(step(&snapshot, &VOLUME, "v", VOLUME_GONE), "kubectl delete spv/v");
    snapshot.volumes[0].status.as_mut().unwrap().claims = vec![bound_by("team", "c", "uid-c")];
    let told = step(&snapshot, &VOLUME, "v", VOLUME_GONE);
    assert!(told.starts_with("kubectl reservoir unclaim c -n team   # its data is given up;"), "{told}");
}

/// T4, V10: the pod that may still read lost bytes comes first, and what is claimed goes with its last claim.
#[test]
fn t4_v10_lost_bytes_are_saved_before_their_volume_ends() {
    let mut snapshot = Snapshot { volumes: vec![ready_volume("v", "eng", true)], ..Snapshot::default() };
    let of = |snapshot: &Snapshot| step(snapshot, &VOLUME, "v", BACKING_LOST);
    assert_eq!(of(&snapshot), advice::find_lost_data("node n1", "spv/v"));
    snapshot.volumes[0].status.as_mut().unwrap().claims = vec![bound_by("team", "c", "uid-c")];
    assert_eq!(of(&snapshot), advice::retire_lost("node n1", "v"));
    let user = pod("team", "p");
    snapshot.pods = vec![
        serde_json::from_value(json!({"metadata": {"namespace": "team", "name": "p", "uid": user.uid},
            "spec": {"nodeName": "n1", "containers": []}}))
        .unwrap(),
    ];
    let status = snapshot.volumes[0].status.as_mut().unwrap();
    (status.users, status.user_count) = (vec![user], 1);
    let told = of(&snapshot);
    assert!(
        told.starts_with("kubectl exec -it p -n team -- sh   # copy what is needed out of the pod"),
        "{told}"
    );
    snapshot.pods[0].spec.as_mut().unwrap().node_name = None;
    assert_eq!(of(&snapshot), advice::retire_lost("node n1", "v"), "it has nothing mounted");
}

/// T4: who may not see volumes asks somebody who may make or explain them.
#[test]
fn t4_a_tenant_is_sent_to_nothing_that_only_others_may() {
    let mut selects = claim("team", "s", "v");
    (selects.spec.volume, selects.spec.selector) = (None, Some(ClaimSelector::default()));
    selects.status.get_or_insert_default().volume =
        Some(crate::api::UidRef { name: "chosen".into(), uid: "u".into() });
    let snapshot = Snapshot {
        claims: vec![claim("team", "c", "v"), selects],
        subscriptions: vec![subscription("team", &["eng"], true)],
        denied: vec![Denied::unseen(&VOLUME)],
        ..Snapshot::default()
    };
    for (name, reason, wanted) in [
        ("c", NO_SUCH_VOLUME, "have an administrator run: kubectl reservoir why vclaim/c -n team"),
        ("s", NO_MATCH, "have an administrator run: kubectl reservoir why vclaim/s -n team"),
        ("c", TOO_MANY_CLAIMS, "have an administrator run: kubectl reservoir why spv/v"),
        ("c", VOLUME_NOT_READY, "have an administrator run: kubectl reservoir why spv/v"),
        ("s", VOLUME_NOT_READY, "have an administrator run: kubectl reservoir why spv/chosen"),
    ] {
        let told = step(&snapshot, &CLAIM, name, reason);
        assert!(told.starts_with(wanted), "{name} {reason}: {told}");
    }
}

/// T4, X8, X6: a claim is led to the data that it could have, before an empty volume takes its place.
#[test]
fn t4_x8_a_claim_is_led_to_old_data_before_an_empty_volume() {
    let mut selects = claim("team", "s", "v");
    let selector = json!({"matchLabels": {"app": "a"}});
    (selects.spec.volume, selects.spec.selector) = (None, Some(serde_json::from_value(selector).unwrap()));
    let mut far = claim("team", "far", "a");
    far.spec.role = "ops".into();
    let mut snapshot = Snapshot {
        claims: vec![claim("team", "c", "a"), selects, far],
        // The older data is kept for longer.
        reservations: vec![with_kept(&[("a", 0, 90), ("a", 5, 65)])],
        subscriptions: vec![subscription("team", &["eng"], true)],
        volumes: vec![ready_volume("ab", "eng", true)],
        ..Snapshot::default()
    };
    let claims = [("c", NO_SUCH_VOLUME, "a"), ("s", NO_MATCH, "s")];
    for (name, reason, makes) in claims {
        let told = step(&snapshot, &CLAIM, name, reason);
        let wanted = "kubectl reservoir undelete uid-a-5   # volume a comes back with its data, which is kept until 1970";
        let ends = format!("makes an empty volume: kubectl reservoir create {makes} --role eng --size 1Gi");
        assert!(told.starts_with(wanted) && told.contains(&ends), "{told}");
    }
    let told = step(&snapshot, &CLAIM, "far", NO_SUCH_VOLUME);
    assert!(told.starts_with("kubectl reservoir create a --role ops"), "the data is another role's: {told}");
    let kept = snapshot.reservations.clone();
    for entry in &mut snapshot.reservations[0].status.as_mut().unwrap().volumes {
        entry.kept.as_mut().unwrap().made_for = Some("other/data".into());
    }
    let told = step(&snapshot, &CLAIM, "c", NO_SUCH_VOLUME);
    assert!(!told.contains("undelete"), "the data is another namespace's: {told}");
    snapshot.reservations = kept;

    let mut new = volume("a", "eng", 1);
    snapshot.volumes.push(new.clone());
    for reason in [RESERVATION_FULL, TOO_MANY_VOLUMES, SHARE_TAKEN] {
        let told = step(&snapshot, &VOLUME, "a", reason);
        assert!(told.starts_with("kubectl delete spv/a && kubectl reservoir undelete uid-a-5   #"), "{told}");
    }
    new.spec.recover = Some(crate::api::Recover { uid: "uid-a-5".into() });
    new.metadata.name = Some("back".into());
    (snapshot.volumes[1], snapshot.claims[0]) = (new, claim("team", "c", "x"));
    let told = step(&snapshot, &CLAIM, "s", NO_MATCH);
    assert!(told.starts_with("kubectl reservoir undelete uid-a-0 "), "the newer data is coming back: {told}");

    // The claim has the name of the PersistentVolumeClaim that the data was made for.
    snapshot.reservations[0].status.as_mut().unwrap().volumes[0].kept.as_mut().unwrap().made_for =
        Some("team/ab2".into());
    snapshot.claims[0].spec.volume = Some("ab2".into());
    let told = step(&snapshot, &CLAIM, "c", NO_SUCH_VOLUME);
    assert!(
        told.starts_with("kubectl reservoir undelete uid-a-0 --name ab2   # volume a comes back"),
        "{told}"
    );
    snapshot.claims[0].spec.volume = Some("x".into());

    let mut on = disk("n1.a", "n1", 10, &[]);
    let orphan = json!({"uid": "u", "size": "2Gi", "name": "x", "labels": {"app": "a"},
        "spec": {"role": "eng", "size": "2Gi", "shared": {}}});
    on.status.as_mut().unwrap().orphans = vec![serde_json::from_value(orphan).unwrap()];
    (snapshot.disks, snapshot.reservations, snapshot.volumes) = (vec![on], vec![], vec![]);
    for (name, reason, _) in claims {
        let told = step(&snapshot, &CLAIM, name, reason);
        assert!(
            told.starts_with("kubectl reservoir recover u   # a disk has the data of volume x"),
            "{told}"
        );
    }
    // Somebody removed the object by force, and no agent can say what the disk has.
    let mut listing = reserved("r", "eng", 4, &[("x", 2)]);
    listing.status.as_mut().unwrap().node_disk = Some("n1.a".into());
    let status = snapshot.disks[0].status.as_mut().unwrap();
    status.orphans = vec![];
    set_ready(&mut status.conditions, false);
    snapshot.reservations = vec![listing];
    // A volume of a similar name has other data.
    snapshot.volumes = vec![ready_volume("x2", "eng", true)];
    for (name, reason, _) in claims {
        let told = step(&snapshot, &CLAIM, name, reason);
        assert!(
            told.starts_with(
                "kubectl reservoir why nd/n1.a   # the disk is not ready, and may have the data"
            ),
            "{told}"
        );
    }
    snapshot.disks[0].spec.gone = true;
    let told = step(&snapshot, &CLAIM, "c", NO_SUCH_VOLUME);
    assert!(told.starts_with("kubectl reservoir create x --role eng"), "D4: {told}");
}

/// T4, O1: a volume that fits is on offer only to who is subscribed to its role.
#[test]
fn t4_a_volume_that_would_not_be_offered_is_not_advised() {
    let mut selects = claim("team", "s", "v");
    (selects.spec.volume, selects.spec.selector) = (None, Some(ClaimSelector::default()));
    let mut snapshot = Snapshot {
        claims: vec![selects],
        subscriptions: vec![subscription("team", &["eng/x", "engine"], true)],
        ..Snapshot::default()
    };
    snapshot.claims[0].spec.role = "eng/ml".into();
    let subscribe = "kubectl reservoir subscribe eng/ml -n team";
    assert_eq!(step(&snapshot, &CLAIM, "s", NO_MATCH), subscribe);
    snapshot.subscriptions = vec![subscription("team", &["eng/ml"], true)];
    assert!(step(&snapshot, &CLAIM, "s", NO_MATCH).starts_with("kubectl reservoir create s --role eng/ml"));
}

/// T4: a claim that selects more than there can be is led to what there is, and not to a volume that is too small for it.
#[test]
fn t4_a_claim_that_selects_too_much_selects_less() {
    let mut selects = claim("team", "s", "v");
    let selector = ClaimSelector { min_size: Some(gi(10)), ..ClaimSelector::default() };
    (selects.spec.volume, selects.spec.selector) = (None, Some(selector));
    let mut on = disk("n1.a", "n1", 10, &[("eng", 4)]);
    on.status.as_mut().unwrap().free = Some(gi(6));
    let mut snapshot = Snapshot {
        claims: vec![selects],
        subscriptions: vec![subscription("team", &["eng"], true)],
        reservations: vec![reserved("eng", "eng", 4, &[("v", 1)])],
        disks: vec![on],
        ..Snapshot::default()
    };
    let told = |snapshot: &Snapshot| step(snapshot, &CLAIM, "s", NO_MATCH);
    let less =
        "kubectl delete vclaim/s -n team && kubectl reservoir claim s --role eng --min-size 9Gi -n team";
    assert!(told(&snapshot).starts_with(less), "{}", told(&snapshot));
    // All of it is in a volume by now, which is the most.
    snapshot.disks[0].status.as_mut().unwrap().free = Some(gi(0));
    snapshot.reservations[0] = reserved("eng", "eng", 4, &[("v", 4)]);
    snapshot.volumes = vec![ready_volume("v", "eng", true)];
    assert!(told(&snapshot).contains("--min-size 1Gi"), "{}", told(&snapshot));
    assert!(told(&snapshot).contains("or make free space for more"), "{}", told(&snapshot));
    let none = "kubectl reservoir create s --role eng --size 10Gi";
    snapshot.volumes[0].status.as_mut().unwrap().size = Some(gi(12));
    assert!(told(&snapshot).starts_with(none), "12Gi is not less: {}", told(&snapshot));
    snapshot.volumes[0].status.as_mut().unwrap().size = Some(gi(1));
    snapshot.subscriptions = vec![subscription("team", &["eng"], false)];
    assert!(told(&snapshot).starts_with(none), "v is shared: {}", told(&snapshot));
    snapshot.subscriptions = vec![subscription("team", &["eng"], true)];
    // X8: kept data that fits comes first.
    let mut kept = with_kept(&[("old", 0, 60)]);
    let entry = &mut kept.status.as_mut().unwrap().volumes[0];
    entry.size = gi(10);
    entry.kept.as_mut().unwrap().spec["size"] = json!("10Gi");
    snapshot.reservations.push(kept);
    assert!(told(&snapshot).starts_with("kubectl reservoir undelete uid-old-0   #"), "{}", told(&snapshot));
    snapshot.reservations.pop();
    snapshot.claims[0].spec.selector.as_mut().unwrap().min_size = Some(gi(1));
    snapshot.disks[0].status.as_mut().unwrap().free = Some(gi(6));
    assert!(told(&snapshot).starts_with("kubectl reservoir create s --role eng --size 1Gi"));
}

/// T4, F3: `kubectl delete` of a claim waits for its pods, which wait for the claim (seed 30796).
#[test]
fn t4_f3_a_lost_claim_ends_with_its_pods() {
    let mut snapshot = Snapshot {
        claims: vec![claim("team", "data", "v")],
        volumes: vec![ready_volume("v", "eng", true)],
        ..Snapshot::default()
    };
    let noted = |uid: &str| Some(crate::api::UidRef { name: "v".into(), uid: uid.into() });
    for (uid, alone, with_pods) in [
        (
            "uid-v",
            "kubectl delete vclaim/data -n team && kubectl reservoir claim data --role eng --volume v",
            "kubectl reservoir unclaim data -n team   # it goes with its pods, which wait for it; then: kubectl reservoir claim data",
        ),
        (
            "gone",
            "kubectl delete vclaim/data -n team   # then claim another volume",
            "kubectl reservoir unclaim data -n team   # then claim another volume",
        ),
    ] {
        snapshot.claims[0].status.get_or_insert_default().volume = noted(uid);
        snapshot.pods = vec![];
        let told = step(&snapshot, &CLAIM, "data", VOLUME_LOST);
        assert!(told.starts_with(alone), "{told}");
        snapshot.pods = vec![pod_of("data", "Pending")];
        let told = step(&snapshot, &CLAIM, "data", VOLUME_LOST);
        assert!(told.starts_with(with_pods), "{told}");
    }
}

/// T4, D2: no reservation of a whole disk is larger, and its one volume is the only thing on it.
#[test]
fn t4_d2_a_whole_disk_is_no_reservation_to_enlarge() {
    let mut whole = reserved("wh", "eng", 10, &[("v", 10)]);
    whole.status.as_mut().unwrap().disk_kind = Some(DiskKind::Mount);
    let mut large = ready_volume("v", "eng", true);
    large.spec.size = Size::written("20Gi");
    let status = large.status.as_mut().unwrap();
    status.reservation = Some(crate::api::UidRef { name: "wh".into(), uid: "uid-wh".into() });
    status.disk_kind = Some(DiskKind::Mount);
    let mut waits = volume("w", "eng", 1);
    waits.spec.reservation = Some("wh".into());
    let mut snapshot =
        Snapshot { reservations: vec![whole], volumes: vec![large, waits], ..Snapshot::default() };
    let told = step(&snapshot, &VOLUME, "v", RESERVATION_FULL);
    assert!(
        told.starts_with("kubectl reservoir resize spv/v ") && told.contains("takes the wish back"),
        "{told}"
    );
    let of = |snapshot: &Snapshot| step(snapshot, &VOLUME, "w", RESERVATION_FULL);
    assert!(
        of(&snapshot).contains("DiskReservation wh is a whole disk, with one volume and no other size"),
        "{}",
        of(&snapshot)
    );
    let mut other = disk("n1.b", "n1", 10, &[]);
    other.status.as_mut().unwrap().free = Some(Size::written("10Gi"));
    snapshot.disks = vec![other];
    let anew = "kubectl reservoir reserve eng --role eng --size 1Gi && kubectl delete spv/w && kubectl reservoir create w";
    assert!(of(&snapshot).starts_with(anew), "{}", of(&snapshot));
    snapshot.volumes[1].spec.reservation = None;
    assert_eq!(of(&snapshot), "kubectl reservoir reserve eng --role eng --size 1Gi");
}

/// T4, X6: a manifest that differs from its data, or is of data that nobody has, is not tried again and again.
#[test]
fn t4_x6_a_volume_that_cannot_recover_is_made_otherwise() {
    let orphan = |size: &str| {
        let spec = json!({"role": "eng", "size": size, "shared": {}, "recover": {"uid": "u"}});
        serde_json::from_value(json!({"uid": "u", "size": size, "name": "v", "spec": spec})).unwrap()
    };
    let mut wrong = volume("v", "eng", 1);
    wrong.spec.shared = Some(Default::default());
    wrong.spec.recover = Some(crate::api::Recover { uid: "u".into() });
    wrong.spec.reservation = Some("eng".into());
    let mut with_orphan = disk("n1.a", "n1", 10, &[]);
    with_orphan.status.as_mut().unwrap().orphans = vec![orphan("2Gi")];
    let mut snapshot = Snapshot { disks: vec![with_orphan], volumes: vec![wrong], ..Snapshot::default() };
    let told = step(&snapshot, &VOLUME, "v", BACKING_FAILED);
    assert!(
        told.starts_with("kubectl delete spv/v   # deletes no data;")
            && told.ends_with("kubectl reservoir recover u"),
        "{told}"
    );
    assert_eq!(step(&snapshot, &VOLUME, "v", NO_ORPHAN), advice::recover_as_it_is("spv/v", "u"));
    let mut owner = ready_volume("owner", "ops", true);
    owner.metadata.uid = Some("u".into());
    snapshot.volumes.push(owner);
    let told = step(&snapshot, &VOLUME, "v", NO_ORPHAN);
    assert_eq!(told, advice::leave_data_to_owner("spv/v", "owner", "ops"));
    snapshot.volumes.pop();
    snapshot.reservations = vec![with_kept(&[("a", 0, 60)])];
    snapshot.volumes[0].spec.recover = Some(crate::api::Recover { uid: "uid-a-0".into() });
    let told = step(&snapshot, &VOLUME, "v", NO_ORPHAN);
    assert!(told.starts_with("kubectl delete spv/v && kubectl reservoir undelete uid-a-0   #"), "{told}");
    snapshot.reservations.clear();
    snapshot.volumes[0].spec.recover = Some(crate::api::Recover { uid: "u".into() });
    snapshot.disks[0].status.as_mut().unwrap().orphans = vec![orphan("1Gi")];
    assert!(!step(&snapshot, &VOLUME, "v", BACKING_FAILED).contains("recover"), "the node has the cause");
    snapshot.disks[0].status.as_mut().unwrap().orphans.clear();
    let told = step(&snapshot, &VOLUME, "v", NO_ORPHAN);
    let anew = "kubectl delete spv/v && kubectl reservoir create v --role eng --size 1Gi --reservation eng   # a new, empty volume";
    assert!(told.starts_with(anew), "{told}");
}

/// T4, F3: a quota is changed in the namespace; of a policy of others nothing more is known.
#[test]
fn t4_f3_advice_about_a_refusal_names_who_refuses() {
    let mut snapshot = Snapshot { claims: vec![claim("team", "c", "v")], ..Snapshot::default() };
    for (said, wanted) in [
        (
            "persistentvolumeclaims \"c\" is forbidden: exceeded quota: q",
            "kubectl get resourcequotas,limitranges -n team ",
        ),
        ("admission webhook \"v\" denied the request: no", "kubectl describe vclaim/c -n team "),
        (
            "persistentvolumeclaims \"c\" is forbidden: unable to create new content in namespace team because it is being terminated",
            "kubectl get namespace team -o yaml   # it is being deleted",
        ),
    ] {
        let conditions = &mut snapshot.claims[0].status.get_or_insert_default().conditions;
        let why = condition::Verdict::no(REFUSED, said);
        condition::set(conditions, condition::READY, why, None, jiff::Timestamp::UNIX_EPOCH);
        let told = step(&snapshot, &CLAIM, "c", REFUSED);
        assert!(told.starts_with(wanted), "{told}");
    }
}

/// T4, X9: what the kernel of the node holds ends there, and by no claim.
#[test]
fn t4_x9_advice_about_a_held_volume_looks_on_its_node() {
    let mut snapshot = Snapshot { volumes: vec![ready_volume("v", "eng", true)], ..Snapshot::default() };
    let status = snapshot.volumes[0].status.as_mut().unwrap();
    let node = status.node.as_mut().unwrap();
    (node.fenced, node.in_use) = (true, true);
    let told = step(&snapshot, &VOLUME, "v", DESTROYING);
    assert!(told.contains("reason=MountHeld   # end the process on node n1"), "{told}");
    // Pods of a claim that was removed by force (seed 30516).
    let status = snapshot.volumes[0].status.as_mut().unwrap();
    (status.node.as_mut().unwrap().in_use, status.destroy) =
        (false, Some(Destroy { in_use: true, ..Destroy::default() }));
    for (waits, names_pods) in
        [("it waits for pod team/p to end", true), ("it waits for its copy to be destroyed", false)]
    {
        let conditions = &mut snapshot.volumes[0].status.as_mut().unwrap().conditions;
        set_not_ready(conditions, DESTROYING, &format!("volume v is being destroyed: {waits}"));
        let told = step(&snapshot, &VOLUME, "v", DESTROYING);
        assert_eq!(told.contains("end the pods that its condition Ready names"), names_pods, "{told}");
    }
    snapshot.volumes[0].status.as_mut().unwrap().claims = vec![bound_by("team", "c", "uid-c")];
    assert!(step(&snapshot, &VOLUME, "v", DESTROYING).contains("end the claims and pods"));
}

/// T4, X6: the data that a volume recovers may have pods of before.
#[test]
fn t4_x6_the_users_of_recovered_data_are_to_end() {
    let mut v = volume("v", "eng", 1);
    let said = held_by::in_use("v", "team/p");
    set_not_ready(&mut v.status.get_or_insert_default().conditions, BACKING_FAILED, &said);
    let snapshot = Snapshot { volumes: vec![v], ..Snapshot::default() };
    assert_eq!(step(&snapshot, &VOLUME, "v", BACKING_FAILED), advice::end_named_pods("v"));
}

/// T4, E4: whoever may not see volumes sees no digest.
#[test]
fn t4_e4_a_tenant_asks_for_the_digest() {
    let mut snapshot = Snapshot { claims: vec![claim("team", "c", "v")], ..Snapshot::default() };
    assert_eq!(step(&snapshot, &CLAIM, "c", DIGEST_DIFFERS), advice::see_digests());
    snapshot.denied = vec![Denied::unseen(&VOLUME)];
    let told = step(&snapshot, &CLAIM, "c", DIGEST_DIFFERS);
    assert!(told.starts_with("have an administrator run: kubectl reservoir why vclaim/c -n team"), "{told}");
    let mut volume = ready_volume("v", "eng", true);
    volume.status.as_mut().unwrap().digest = Some("blake3:00".into());
    snapshot.claims[0].spec.digest = Some("blake3:11".into());
    let differs = seal::claimable(&volume, &snapshot.claims[0].spec).unwrap_err();
    let conditions = &mut snapshot.claims[0].status.get_or_insert_default().conditions;
    set_not_ready(conditions, DIGEST_DIFFERS, &differs.message);
    let told = step(&snapshot, &CLAIM, "c", DIGEST_DIFFERS);
    assert!(told.starts_with("kubectl delete vclaim/c -n team   # then claim the digest"), "{told}");
    // A claim that names its volume gets no other one.
    (snapshot.denied, snapshot.volumes) = (vec![], vec![volume]);
    let told = step(&snapshot, &CLAIM, "c", DIGEST_DIFFERS);
    let anew = "kubectl delete vclaim/c -n team && kubectl reservoir claim c --role eng --volume v --digest 'blake3:00' -n team";
    assert!(told.starts_with(anew), "{told}");
}

/// T4, E4: nobody makes a volume with a digest.
#[test]
fn t4_e4_no_volume_is_made_for_a_digest() {
    let mut selects = claim("team", "c", "v");
    (selects.spec.volume, selects.spec.digest) = (None, Some("blake3:11".into()));
    selects.spec.selector = Some(ClaimSelector { match_labels: None, min_size: None });
    let snapshot = Snapshot {
        claims: vec![selects],
        subscriptions: vec![subscription("team", &["eng"], true)],
        ..Snapshot::default()
    };
    assert_eq!(step(&snapshot, &CLAIM, "c", NO_MATCH), advice::see_digests());
}

/// T4: the volume of a claim that selects is in its status.
#[test]
fn t4_advice_about_a_claim_that_selects_names_its_volume() {
    let mut selects = claim("team", "c", "v");
    selects.spec.volume = None;
    selects.status.get_or_insert_default().volume =
        Some(crate::api::UidRef { name: "v".into(), uid: "uid-v".into() });
    let snapshot = Snapshot {
        claims: vec![selects],
        volumes: vec![ready_volume("v", "eng", true)],
        ..Snapshot::default()
    };
    assert_eq!(step(&snapshot, &CLAIM, "c", VOLUME_NOT_READY), "kubectl reservoir why spv/v");
}

/// T4, C5: an exclusive volume is not claimed as a shared one.
#[test]
fn t4_c5_advice_about_a_taken_name_says_what_the_volume_is() {
    let mut snapshot = Snapshot { claims: vec![claim("team", "c", "v")], ..Snapshot::default() };
    for (shared, name) in [(true, "c-shared"), (false, "c-2")] {
        snapshot.volumes = vec![ready_volume("v", "eng", shared)];
        let told = step(&snapshot, &CLAIM, "c", NAME_TAKEN);
        assert!(told.contains(&format!("kubectl reservoir claim {name} --role eng --volume v")), "{told}");
    }
}

/// R7. Three reservations of one template share the limit, and deleting one helps nobody.
#[test]
fn q2_a_template_beyond_the_limit_gets_equal_parts() {
    let each = |name: &str, has: u64| {
        let mut each = if has > 0 { reserved(name, "eng", has, &[]) } else { reservation(name, "eng", 4) };
        each.spec.template = Some(crate::api::TemplateRef { volume_role: "eng".into(), name: "each".into() });
        each
    };
    let mut role = with_quota(volume_role("eng", "eng"), Some(6), None, &[("a", 4)]);
    role.spec.reservation_templates =
        vec![crate::api::ReservationTemplate { name: "each".into(), ..Default::default() }];
    let mut snapshot = Snapshot {
        reservations: vec![each("a", 4), each("b", 0), each("c", 0)],
        roles: vec![role],
        ..Snapshot::default()
    };
    let waits = step(&snapshot, &RESERVATION, "b", OVER_QUOTA);
    assert!(waits.contains("\"value\":\"2Gi\""), "{waits}");
    // D2: the 4Gi of a whole disk stay, so the two others share 2Gi.
    snapshot.reservations[0].status.as_mut().unwrap().disk_kind = Some(DiskKind::Mount);
    let waits = step(&snapshot, &RESERVATION, "b", OVER_QUOTA);
    assert!(waits.contains("\"value\":\"1Gi\""), "{waits}");
    let over = step(&snapshot, &kind::ROLE, "eng", OVER_LIMIT);
    assert!(over.starts_with("kubectl edit vrole eng   # raise spec.quota.limit"), "{over}");
    let archive = with_quota(volume_role("archive", "archive"), Some(1), None, &[("a", 2)]);
    snapshot.roles.push(archive);
    let over = step(&snapshot, &kind::ROLE, "archive", OVER_LIMIT);
    assert!(over.starts_with("kubectl patch vrole archive ") && over.contains("\"limit\":\"2Gi\""), "{over}");
    snapshot.roles.pop();
    snapshot.roles[0].spec.quota.limit = Some(Size::from_bytes(1 << 20));
    let waits = step(&snapshot, &RESERVATION, "b", OVER_QUOTA);
    assert!(waits.starts_with("kubectl edit vrole eng"), "{waits}");
}

/// T4, X5, E5: what a retired volume waits for is ended by what uses it: claims, pods, or copies.
#[test]
fn t4_a_retired_volume_is_kept_or_its_own_users_end() {
    let with = |change: &dyn Fn(&mut SharedPersistentVolume)| {
        let mut volume = ready_volume("v", "eng", true);
        volume.spec.retire = true;
        change(&mut volume);
        step(&Snapshot { volumes: vec![volume], ..Snapshot::default() }, &VOLUME, "v", RETIRING)
    };
    let says = |said: String, end: &str| assert!(said.contains(end), "{said}");
    says(with(&|v| v.status.as_mut().unwrap().user_count = 1), "else end the pods that use it");
    says(
        with(&|v| v.status.as_mut().unwrap().claims = vec![bound_by("team", "c", "u")]),
        "else delete the claims that are bound to it",
    );
    says(
        with(&|v| v.status.as_mut().unwrap().copies = Some(CopiesStatus { used: 1, ..Default::default() })),
        "kubectl get spv -l reservoir.dev/copy-of=uid-v -o wide",
    );
}

/// T4, E2: what keeps a copy from its end is told where it is in use, and where it is claimed.
#[test]
fn t4_e2_a_copy_that_ends_leads_to_what_keeps_it() {
    let mut copy = ready_volume("copy", "eng", true);
    copy.spec.copy_of = Some(CopyOf { name: "of".into(), uid: "uid-of".into(), ..Default::default() });
    copy.spec.retire = true;
    let mut claim = claim("team", "c", "copy");
    claim.status = Some(crate::api::VolumeClaimStatus {
        volume: Some(crate::api::UidRef { name: "copy".into(), uid: "uid-copy".into() }),
        ..Default::default()
    });
    let volumes = vec![copy, ready_volume("of", "eng", true)];
    let mut snapshot = Snapshot { volumes, claims: vec![claim], ..Snapshot::default() };
    let said = |snapshot: &Snapshot, of_copy: &str, of_claim: &str| {
        let told = step(snapshot, &VOLUME, "copy", RETIRING);
        assert!(told.contains(of_copy), "{told}");
        let claim = Target::new(&CLAIM, Some("team".into()), "c".into());
        let told = crate::plugin::why::steps::deletion_step(snapshot, &claim).unwrap();
        crate::plugin::advised_commands::check(&told);
        assert!(told.contains(of_claim), "{told}");
    };
    said(&snapshot, "to keep it, have spec.copies of volume of select its node", "outlasts it");
    condition::set(
        &mut snapshot.volumes[0].status.as_mut().unwrap().conditions,
        condition::INTACT,
        condition::Verdict::no(COPY_DIFFERS, "m"),
        None,
        jiff::Timestamp::UNIX_EPOCH,
    );
    said(&snapshot, "it is made anew from volume of by itself", "outlasts it");
    snapshot.volumes[1].spec.retire = true;
    said(&snapshot, "kubectl reservoir unretire of   # keeps volume of and its copies", "unretire of");
    snapshot.volumes.truncate(1);
    said(&snapshot, "copy what is needed, then end the claims and pods", "copy what is needed");
}

/// T4, Q2: a guarantee that fits is not lowered for one that never can.
#[test]
fn t4_q2_a_guarantee_that_is_too_large_leads_to_the_role_that_has_it() {
    let role = |name: &str, guarantee| with_quota(volume_role(name, name), None, Some(guarantee), &[]);
    let mut snapshot = Snapshot {
        roles: vec![role("small", 1), role("huge", 30)],
        disks: vec![disk("n1.a", "n1", 20, &[])],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot, name| step(snapshot, &kind::ROLE, name, GUARANTEE_TOO_LARGE);
    assert_eq!(of(&snapshot, "small"), "kubectl reservoir why vrole/huge");
    assert!(of(&snapshot, "huge").starts_with("kubectl patch vrole huge"));
    snapshot.roles[1] = role("huge", 20);
    assert!(of(&snapshot, "small").contains(r#""guarantee":null"#), "{}", of(&snapshot, "small"));
    // No disk raises the limit of an ancestor.
    snapshot.roles = vec![
        with_quota(volume_role("eng", "eng"), Some(1), None, &[]),
        with_quota(volume_role("ml", "eng/ml"), None, Some(2), &[]),
    ];
    let told = of(&snapshot, "ml");
    assert!(
        told.ends_with("the most that can be guaranteed; or raise the limit of VolumeRole eng"),
        "{told}"
    );
}

/// T4, E4: a copy whose files differ is no data that somebody has to bring back.
#[test]
fn t4_e4_a_copy_that_differs_is_made_anew() {
    let mut volume = ready_volume("v", "eng", true);
    volume.spec.copy_of = Some(CopyOf { name: "of".into(), ..Default::default() });
    let said = step(&Snapshot { volumes: vec![volume], ..Snapshot::default() }, &VOLUME, "v", COPY_DIFFERS);
    assert!(said.ends_with("it is made anew from volume of by itself"), "{said}");

    let mut copy = ready_volume("copy", "eng", true);
    let of =
        CopyOf { name: "of".into(), uid: "uid-of".into(), digest: "blake3:00".into(), ..Default::default() };
    copy.spec.copy_of = Some(of);
    copy.status.as_mut().unwrap().digest = Some("blake3:00".into());
    let mut snapshot =
        Snapshot { volumes: vec![ready_volume("of", "eng", true), copy], ..Snapshot::default() };
    let said = |snapshot: &Snapshot| step(snapshot, &VOLUME, "of", COPY_DIFFERS);
    let from_copy =
        "kubectl reservoir claim copy --role eng --volume copy --read-only   # that copy still has the files";
    assert!(said(&snapshot).starts_with(from_copy), "{}", said(&snapshot));
    snapshot.volumes[1].status.as_mut().unwrap().digest = None;
    assert!(said(&snapshot).starts_with("kubectl describe spv of"), "{}", said(&snapshot));
}

/// T4, E2: each obstacle of a copy leads to what ends it, on its node.
#[test]
fn t4_e2_a_missing_copy_leads_to_what_is_in_its_way() {
    let mut original = ready_volume("data", "eng", true);
    original.spec.sealed = true;
    original.spec.copies = Some(crate::api::Copies::default());
    original.status.as_mut().unwrap().digest = Some("blake3:00".into());
    let copying = |node: &str| {
        let mut disk = disk(&format!("{node}.a"), node, 10, &[]);
        let status = disk.status.as_mut().unwrap();
        status.transfer = Some(crate::api::Transfer { address: "a:1".into(), key: "k".into() });
        status.free = Some(gi(5));
        disk
    };
    let node = |name: &str| serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let mut snapshot = Snapshot {
        disks: vec![copying("n1"), copying("n2")],
        volumes: vec![original],
        nodes: vec![node("n1"), node("n2")],
        ..Snapshot::default()
    };
    let says = |snapshot: &Snapshot, begin: &str| {
        let said = step(snapshot, &VOLUME, "data", COPIES_MISSING);
        assert!(said.starts_with(begin), "{said}");
    };
    says(&snapshot, "kubectl reservoir reserve eng --role eng --size 1Gi --node n2   #");
    // One that is there, and waits.
    let mut waits = reservation("small", "eng", 1);
    waits.spec.node_name = Some("n2".into());
    set_ready(&mut waits.status.get_or_insert_default().conditions, false);
    snapshot.reservations = vec![waits];
    says(&snapshot, "kubectl reservoir why dr/small");
    let mut there = reserved("small", "eng", 1, &[("x", 1)]);
    let status = there.status.as_mut().unwrap();
    (status.node_disk, status.node_name) = (Some("n2.a".into()), Some("n2".into()));
    snapshot.reservations = vec![there];
    says(&snapshot, "kubectl reservoir resize dr/small 2Gi");
    // Its disk is not ready.
    set_ready(&mut snapshot.disks[1].status.as_mut().unwrap().conditions, false);
    says(&snapshot, "kubectl reservoir why nd/n2.a");
    snapshot.reservations.clear();
    says(&snapshot, "kubectl reservoir why nd/n2.a");
    snapshot.disks.truncate(1);
    says(&snapshot, "kubectl describe spv data   # its condition Copied says what each node lacks");
    // Another volume has the name of the copy.
    snapshot.disks.push(copying("n2"));
    let mut reserved = reserved("eng", "eng", 4, &[]);
    let status = reserved.status.as_mut().unwrap();
    (status.node_disk, status.node_name) = (Some("n2.a".into()), Some("n2".into()));
    snapshot.reservations = vec![reserved];
    let around = || crate::plan::copies::Around {
        copies: vec![],
        nodes: snapshot.nodes.iter().cloned().map(Into::into).collect(),
        disks: snapshot.disks.iter().cloned().map(Into::into).collect(),
        reservations: snapshot.reservations.iter().cloned().map(Into::into).collect(),
        taken: Default::default(),
    };
    let name = crate::plan::copies::plan(&snapshot.volumes[0], &around()).missing[0].name_any();
    snapshot.volumes.push(ready_volume(&name, "other", true));
    says(
        &snapshot,
        &format!("kubectl reservoir why spv/{name}   # it has the name of a copy of volume data"),
    );
}

/// T4, R2: space may be kept for another reservation. The step of a reservation that waits leads to the other one, and to no larger size.
#[test]
fn t4_r2_space_that_is_kept_for_another_leads_to_that_one() {
    let mut on = disk("n1.a", "n1", 7, &[]);
    on.status.as_mut().unwrap().free = Some(gi(6));
    let waiting = |name: &str, size: u64, since| {
        let mut r = reservation(name, "eng", size);
        r.metadata.creation_timestamp = since;
        let waits = condition::Verdict::no(NOT_ENOUGH_ROOM, "too little");
        let conditions = &mut r.status.get_or_insert_default().conditions;
        condition::set(conditions, condition::READY, waits, None, jiff::Timestamp::UNIX_EPOCH);
        r
    };
    let snapshot = Snapshot {
        disks: vec![on],
        reservations: vec![waiting("huge", 7, some_time()), waiting("idle", 1, later())],
        ..Snapshot::default()
    };
    let said = step(&snapshot, &RESERVATION, "idle", NOT_ENOUGH_ROOM);
    assert!(said.starts_with("kubectl reservoir why dr/huge "), "{said}");
    let said = step(&snapshot, &RESERVATION, "huge", NOT_ENOUGH_ROOM);
    assert!(said.starts_with("kubectl reservoir resize dr/huge 6Gi"), "{said}");
}

/// T4, Q5: the size is what the limit leaves beside the bytes that are collected for others. Where the volumes in the reservation
/// wait for more, the step leads to the reservation that collects.
#[test]
fn t4_q5_a_size_within_the_limit_leaves_what_is_collected() {
    let set = |r: &mut DiskReservation, of, why, said: &str| {
        let conditions = &mut r.status.get_or_insert_default().conditions;
        condition::set(conditions, of, condition::Verdict::no(why, said), None, jiff::Timestamp::UNIX_EPOCH);
    };
    let mut grows = reserved("grows", "ops", 4, &[("v", 4)]);
    grows.spec.size = gi(33);
    let said = "role ops has 83Gi of its limit of 88Gi reserved, 29Gi asked for is 24Gi too much; unreserve something or raise the limit \
                of VolumeRole ops; of these 24Gi are collected for reservations that wait";
    set(&mut grows, condition::RESIZED, OVER_QUOTA, said);
    let mut collects = reservation("collects", "ops/x", 24);
    set(&mut collects, condition::READY, NOT_ENOUGH_ROOM, "n1.a has 0 free, 24Gi too little");
    let mut volume = ready_volume("v", "ops", true);
    volume.status.as_mut().unwrap().size = Some(gi(4));
    volume.status.as_mut().unwrap().reservation =
        Some(crate::api::UidRef { name: "grows".into(), uid: "uid-grows".into() });
    let mut snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 99, &[])],
        reservations: vec![grows, collects],
        roles: vec![with_quota(volume_role("ops", "ops"), Some(88), None, &[("grows", 4), ("x", 55)])],
        volumes: vec![volume],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| step(snapshot, &RESERVATION, "grows", OVER_QUOTA);
    assert!(of(&snapshot).starts_with("kubectl reservoir resize dr/grows 9Gi "), "{}", of(&snapshot));
    let waits = |snapshot: &mut Snapshot, size| {
        let why = condition::Verdict::no(RESERVATION_FULL, "wished");
        snapshot.volumes[0].spec.size = gi(size);
        let conditions = &mut snapshot.volumes[0].status.as_mut().unwrap().conditions;
        condition::set(conditions, condition::RESIZED, why, None, jiff::Timestamp::UNIX_EPOCH);
    };
    waits(&mut snapshot, 9);
    assert!(of(&snapshot).starts_with("kubectl reservoir resize dr/grows 9Gi "), "{}", of(&snapshot));
    waits(&mut snapshot, 12);
    let first = "kubectl reservoir why dr/collects   # the rest of the limit of role ops is collected for it";
    assert!(of(&snapshot).starts_with(first), "{}", of(&snapshot));
    snapshot.roles[0].spec.quota.limit = Some(gi(64));
    set(
        &mut snapshot.reservations[0],
        condition::RESIZED,
        OVER_QUOTA,
        "role ops has 59Gi of its limit of 64Gi reserved",
    );
    assert!(of(&snapshot).starts_with("kubectl reservoir tree --role ops "), "{}", of(&snapshot));
}

/// T4, Q5: unguaranteed space that is kept for another reservation is no size to ask for.
#[test]
fn t4_q5_unguaranteed_space_that_is_kept_leads_to_its_holder() {
    let mut on = disk("n1.a", "n1", 7, &[]);
    on.status.as_mut().unwrap().free = Some(gi(7));
    let mut waits = reservation("q", "eng", 3);
    let said = "3Gi asked for: what is free and guaranteed to nobody is kept for reservation big of role eng until 1970; it is served \
                when space is free";
    let conditions = &mut waits.status.get_or_insert_default().conditions;
    let why = condition::Verdict::no(GUARANTEED, said);
    condition::set(conditions, condition::READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let snapshot = Snapshot {
        disks: vec![on],
        roles: vec![with_quota(volume_role("ops", "ops"), None, Some(2), &[])],
        reservations: vec![waits, reservation("big", "eng", 6)],
        ..Snapshot::default()
    };
    assert_eq!(step(&snapshot, &RESERVATION, "q", GUARANTEED), advice::let_first_go("big"));
}
