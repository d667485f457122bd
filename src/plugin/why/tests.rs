//! Tests of the answers to why.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::testing::*;
use super::*;
use crate::api::UidRef;
use crate::api::condition::{READY, RESIZED, SEALED, TEMPLATED, Verdict, reason, set};
use crate::plan::testing::*;
use crate::plugin::kind::{DISK, Kind, RESERVATION, ROLE, SUBSCRIPTION};
use crate::plugin::snapshot::Denied;

#[test]
fn t4_why_prints_the_root_first_and_then_its_effects() {
    assert_eq!(
        ask(&on_lost_node(), &POD, Some("team"), "web").unwrap(),
        "Pod team/web: Pending, for the reasons below\n  \
             because NodeDisk n1.a is NodeUnreachable: node n1 is not Ready\n  \
             so SharedPersistentVolume data is NodeUnreachable: NodeDisk n1.a is not ready\n  \
             so VolumeClaim team/data is VolumeNotReady: volume data is not ready\n  \
             so Pod team/web is Pending\n\
             next: kubectl get nodes   # bring node n1 back, and its data is back; only if the disk is lost for good, give its \
             data up, which cannot be undone: kubectl patch nodedisk n1.a --type=merge -p '{\"spec\":{\"gone\":true}}'\n"
    );
    let pvc = ask(&on_lost_node(), &PVC, Some("team"), "data").unwrap();
    assert!(
        pvc.contains("because NodeDisk n1.a") && pvc.contains("it belongs to VolumeClaim team/data"),
        "{pvc}"
    );
    assert_eq!(
        ask(&Snapshot::default(), &PVC, Some("team"), "data").unwrap_err(),
        "there is no PersistentVolumeClaim team/data"
    );
}

/// T4: what no new pod can use is said to be on a cordoned node, unless other nodes have copies.
#[test]
fn t4_a_healthy_volume_on_a_cordoned_node_says_so() {
    let mut on = disk("n1.a", "n1", 10, &[]);
    on.status.as_mut().unwrap().cordoned = true;
    let (volumes, claims) = (vec![ready_volume("data", "eng", true)], vec![bound("mine", "data")]);
    let mut snapshot = Snapshot { disks: vec![on], volumes, claims, ..Snapshot::default() };
    let asked = |snapshot: &Snapshot| {
        let of_claim = ask(snapshot, &CLAIM, Some("team"), "mine").unwrap();
        (ask(snapshot, &VOLUME, None, "data").unwrap(), of_claim)
    };
    let says = "it is on node n1, which is cordoned\nnext: kubectl uncordon n1 ";
    let (volume, claim) = asked(&snapshot);
    assert!(volume.contains(says) && claim.contains(says), "{volume}{claim}");
    let mut copy = ready_volume("data-2", "eng", true);
    copy.spec.copy_of = Some(from(json!({"name": "data", "uid": "uid-data", "digest": "d", "node": "n2"})));
    let status = copy.status.as_mut().unwrap();
    (status.node_name, status.digest) = (Some("n2".into()), Some("d".into()));
    snapshot.volumes.push(copy);
    let (volume, claim) = asked(&snapshot);
    assert!(!volume.contains("cordon") && !claim.contains("cordon"), "{volume}{claim}");
}

/// T4: "so" stands between cause and effect alone. A silent disk is no cause of a guarantee, and no other claim's trouble is one
/// of a volume that another pod has.
#[test]
fn t4_so_stands_between_cause_and_effect_alone() {
    let mut snapshot = on_lost_node();
    let mut grows = reserved("grows", "eng", 4, &[]);
    let why = Verdict::no(reason::GUARANTEED, "2Gi asked for are guaranteed to role ops");
    set(&mut grows.status.as_mut().unwrap().conditions, RESIZED, why, None, jiff::Timestamp::UNIX_EPOCH);
    set_ready(&mut grows.status.as_mut().unwrap().conditions, true);
    snapshot.reservations = vec![grows];
    let said = ask(&snapshot, &RESERVATION, None, "grows").unwrap();
    assert!(said.contains("Guaranteed: 2Gi") && !said.contains("n1.a"), "{said}");
    // A reservation that grows is no cause of a node that is away, either.
    snapshot.volumes[0].status.as_mut().unwrap().reservation =
        Some(UidRef { name: "grows".into(), uid: "uid-grows".into() });
    let said = ask(&snapshot, &VOLUME, None, "data").unwrap();
    assert!(said.contains("because NodeDisk n1.a") && !said.contains("Guaranteed"), "{said}");

    let reports = [("because", false), ("and", false), ("so", true)].map(|(word, caused)| {
        let report = Report::of(format!("Pod team/{word}"), "Test", String::new(), true);
        (word, Report { caused, ..report })
    });
    let words = reports.each_ref().map(|(word, _)| format!("  {word} Pod team/{word} is Test\n"));
    let why = Why {
        object: "Pod team/web".into(),
        summary: "Pending, for the reasons below".into(),
        ready: false,
        because: reports.into_iter().map(|(_, report)| report).collect(),
        holders: vec![],
        next: vec![],
    };
    assert!(text(&why, Paint::plain()).ends_with(&words.concat()), "{}", text(&why, Paint::plain()));
}

/// R2, R7, T4: admission refuses a change of such a reservation's size.
#[test]
fn t4_the_size_of_a_template_or_static_reservation_is_changed_where_it_is_said() {
    let mut role = volume_role("scratch", "eng");
    let template = json!([{"name": "other", "size": "1Gi", "diskName": "a"}, {"name": "t", "size": "2Gi", "diskName": "a"}]);
    role.spec.reservation_templates = serde_json::from_value(template).unwrap();
    let mut made = reserved("scratch.t.n1.a", "eng", 2, &[("v", 1)]);
    made.spec.template = Some(crate::api::TemplateRef { volume_role: "scratch".into(), name: "t".into() });
    set_ready(&mut made.status.as_mut().unwrap().conditions, true);
    let mut volume = volume("big", "eng", 3);
    set_not_ready(&mut volume.status.get_or_insert_default().conditions, reason::RESERVATION_FULL, "said");
    let mut snapshot = Snapshot {
        roles: vec![role],
        reservations: vec![made],
        volumes: vec![volume],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &VOLUME, None, "big").unwrap();
    let answer = of(&snapshot);
    assert!(answer.contains(r#"kubectl patch vrole scratch --type=json -p '[{"op":"replace","path":"/spec/reservationTemplates/1/size","value":"4Gi"}]'"#), "{answer}");
    // Its template decides about it no more (seed 30360).
    let mut unselected = snapshot.roles[0].clone();
    let left = "DiskReservation scratch.t.n1.a is on a disk that its template does not select any more, and ends with its last volume";
    let conditions = &mut unselected.status.get_or_insert_default().conditions;
    set(conditions, TEMPLATED, Verdict::yes(reason::READY, left), None, jiff::Timestamp::UNIX_EPOCH);
    let selected = std::mem::replace(&mut snapshot.roles, vec![unselected]);
    assert!(
        of(&snapshot).contains("have template t of VolumeRole scratch select its node"),
        "{}",
        of(&snapshot)
    );
    snapshot.roles = selected;
    // The condition has the names of three. The labels of the nodes decide, for who may see them.
    let mut labelled = snapshot.roles[0].clone();
    let selector = [("pool".to_owned(), "fast".to_owned())].into();
    labelled.spec.reservation_templates[1].node_selector = Some(selector);
    let selected = std::mem::replace(&mut snapshot.roles, vec![labelled]);
    snapshot.disks = vec![disk("n1.a", "n1", 10, &[])];
    snapshot.reservations[0].spec.node_disk = Some("n1.a".into());
    assert!(of(&snapshot).contains("kubectl patch vrole scratch"), "{}", of(&snapshot));
    for (labels, said) in
        [(json!({}), "select its node again"), (json!({"pool": "fast"}), "kubectl patch vrole scratch")]
    {
        snapshot.nodes =
            vec![serde_json::from_value(json!({"metadata": {"name": "n1", "labels": labels}})).unwrap()];
        assert!(of(&snapshot).contains(said), "{}", of(&snapshot));
    }
    (snapshot.roles, snapshot.disks, snapshot.nodes) = (selected, vec![], vec![]);
    let held = ask(&snapshot, &RESERVATION, None, "scratch.t.n1.a").unwrap();
    assert!(held.contains("it is of template t of VolumeRole scratch\n"), "{held}");
    assert!(held.contains("next: a reservation with content cannot be deleted"), "{held}");
    // An empty one can be deleted, and comes back.
    let content = std::mem::take(&mut snapshot.reservations[0].status.as_mut().unwrap().volumes);
    let held = ask(&snapshot, &RESERVATION, None, "scratch.t.n1.a").unwrap();
    assert!(held.contains("next: there is nothing to do; template t of VolumeRole scratch makes"), "{held}");
    snapshot.reservations[0].status.as_mut().unwrap().volumes = content;
    snapshot.roles.clear();
    assert!(
        of(&snapshot).contains("have template t of VolumeRole scratch select its node again"),
        "{}",
        of(&snapshot)
    );
    let held = ask(&snapshot, &RESERVATION, None, "scratch.t.n1.a").unwrap();
    assert!(held.contains("VolumeRole scratch, which is gone: it ends with its last volume"), "{held}");
    let spec = &mut snapshot.reservations[0].spec;
    (spec.template, spec.is_static) = (None, true);
    assert!(of(&snapshot).contains("have an administrator set size 4Gi for role eng"), "{}", of(&snapshot));
}

/// T4, E4: a volume whose files differ is told once, and its claim is of use all the same.
#[test]
fn t4_e4_why_tells_of_files_that_differ_once() {
    let mut volume = ready_volume("v", "eng", true);
    let conditions = &mut volume.status.as_mut().unwrap().conditions;
    for type_ in [READY, crate::api::condition::INTACT] {
        let differs = Verdict::no(reason::COPY_DIFFERS, "its files are not what was sealed: f");
        set(conditions, type_, differs, None, jiff::Timestamp::UNIX_EPOCH);
    }
    let mut snapshot =
        Snapshot { volumes: vec![volume], claims: vec![bound("data", "v")], ..Snapshot::default() };
    let said = ask(&snapshot, &VOLUME, None, "v").unwrap();
    assert_eq!(said.matches("CopyDiffers").count(), 1, "{said}");
    let said = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(said.contains("but its files are not intact: SharedPersistentVolume v is CopyDiffers"), "{said}");
    // A caller who may not see the volume reads the claim's message.
    snapshot.volumes.clear();
    snapshot.denied = vec![Denied::unseen(&VOLUME)];
    let ready = &mut snapshot.claims[0].status.as_mut().unwrap().conditions[0];
    ready.message = format!("pods may use it; {}", crate::plan::verify::on_pod("v", "f has other bytes"));
    let said = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(
        said.ends_with("next: have an administrator run: kubectl reservoir why vclaim/data -n team\n"),
        "{said}"
    );
}

/// T4: a condition about a wish of a volume delays no claim, and Bound does not follow from a node that is off.
#[test]
fn t4_why_has_no_cause_that_is_none() {
    let failed = |conditions: &mut Vec<Condition>| {
        let failed = Verdict::no(reason::RESIZE_FAILED, "needs 1Gi");
        set(conditions, RESIZED, failed, None, jiff::Timestamp::UNIX_EPOCH);
    };
    let mut snapshot = on_lost_node();
    failed(&mut snapshot.volumes[0].status.as_mut().unwrap().conditions);
    set_ready(&mut snapshot.claims[0].status.as_mut().unwrap().conditions, true);
    let bound = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(
            bound.starts_with(
                "VolumeClaim team/data: Test, but not of use now, for the reasons below\n  because NodeDisk n1.a is \
                 NodeUnreachable: node n1 is not Ready\n  so SharedPersistentVolume data is NodeUnreachable: NodeDisk \
                 n1.a is not ready\n  used by pod team/web\nnext: kubectl get nodes"
            ),
            "{bound}"
        );
    let volume = ask(&snapshot, &VOLUME, None, "data").unwrap();
    assert!(volume.contains("  and SharedPersistentVolume data is ResizeFailed: needs 1Gi\n"), "{volume}");
    snapshot.volumes[0] = ready_volume("data", "eng", true);
    failed(&mut snapshot.volumes[0].status.as_mut().unwrap().conditions);
    let conditions = &mut snapshot.claims[0].status.as_mut().unwrap().conditions;
    set_not_ready(conditions, reason::BINDING, "Kubernetes binds it");
    let binding = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(
            binding
                .starts_with("VolumeClaim team/data: Binding: Kubernetes binds it\n  used by pod team/web\nnext: wait a few seconds"),
            "{binding}"
        );
}

/// T4: what is being deleted, or is on a node that is off, is not reported as at rest.
#[test]
fn t4_why_sees_deletions_and_nodes_that_are_off() {
    let deleted = || Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    let mut snapshot = on_lost_node();
    snapshot.pods = vec![pod_of("data", "Running")];
    snapshot.pods[0].spec.as_mut().unwrap().node_name = Some("n1".into());
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    let off = of(&snapshot);
    assert!(off.contains("so Pod team/web is Running: but node n1 is not Ready"), "{off}");
    snapshot.pods[0].metadata.deletion_timestamp = deleted();
    let ending = of(&snapshot);
    assert!(
        ending.contains("because NodeDisk n1.a is NodeUnreachable")
            && ending.contains(
                "so Pod team/web is Terminating: it is being deleted since 1970-01-01T00:00:00Z, and \
                                    node n1 is not Ready"
            ),
        "{ending}"
    );
    snapshot.disks.clear();
    snapshot.volumes = vec![ready_volume("data", "eng", true)];
    set_ready(&mut snapshot.claims[0].status.as_mut().unwrap().conditions, true);
    let ending = of(&snapshot);
    assert!(ending.contains("next: kubectl describe pod web -n team   # it is ending"), "{ending}");
    let mut ended = pvc("data", "Bound", "ours");
    ended.metadata.deletion_timestamp = deleted();
    snapshot.pvcs = vec![ended];
    let used = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(
        used.starts_with("PersistentVolumeClaim team/data: Terminating: ")
            && used.contains("next: kubectl reservoir tree"),
        "{used}"
    );
    snapshot.claims[0].metadata.deletion_timestamp = deleted();
    let claim = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(claim.starts_with("VolumeClaim team/data: Deleting"), "{claim}");
}

/// T4: beside a step there is nothing to wait for.
#[test]
fn t4_why_advises_no_wait_beside_a_step() {
    let snapshot = |ready, sealed| {
        let mut v = volume("v", "eng", 1);
        let conditions = &mut v.status.get_or_insert_default().conditions;
        for (type_, reason) in [(READY, ready), (SEALED, sealed)] {
            set(conditions, type_, Verdict::no(reason, "said"), None, jiff::Timestamp::UNIX_EPOCH);
        }
        Snapshot { volumes: vec![v], ..Snapshot::default() }
    };
    for (ready, sealed, wanted) in [
        (reason::NO_RESERVATION, reason::SEALING, "next: kubectl reservoir reserve"),
        (reason::CREATING, reason::SEAL_REFUSED, "next: kubectl patch spv v"),
    ] {
        let answer = ask(&snapshot(ready, sealed), &VOLUME, None, "v").unwrap();
        assert!(answer.contains(wanted) && answer.matches("next: ").count() == 1, "{answer}");
    }
}

/// T4, X9: a restored etcd has a volume from before its placement, and the disk has the data of that volume.
#[test]
fn t4_x9_why_of_a_disk_lists_no_data_that_has_its_volume() {
    let mut on = disk("n1.a", "n1", 10, &[]);
    let orphan = crate::api::Orphan { uid: "uid-v".into(), name: "v".into(), ..Default::default() };
    on.status.as_mut().unwrap().orphans = vec![orphan];
    let mut snapshot = Snapshot { disks: vec![on], ..Snapshot::default() };
    let lists = |snapshot: &Snapshot| {
        let answer = ask(snapshot, &crate::plugin::kind::DISK, None, "n1.a").unwrap();
        answer.contains("has data without an object: uid-v (v)")
    };
    assert!(lists(&snapshot));
    snapshot.volumes = vec![volume("v", "eng", 1)];
    assert!(!lists(&snapshot));
}

/// T4: a subscription that offers nothing by a mistake says which.
#[test]
fn t4_why_of_a_subscription_sees_a_mistyped_role() {
    let mut of = subscription("team", &["egn"], true);
    set_ready(&mut of.status.get_or_insert_default().conditions, true);
    let mut snapshot = Snapshot {
        subscriptions: vec![of],
        reservations: vec![reserved("eng", "eng", 1, &[])],
        ..Snapshot::default()
    };
    let why = |snapshot: &Snapshot| ask(snapshot, &SUBSCRIPTION, Some("team"), "sub").unwrap();
    let answer = why(&snapshot);
    assert!(
        answer.contains(
            "next: kubectl reservoir unsubscribe egn -n team && kubectl reservoir subscribe eng -n team"
        ),
        "{answer}"
    );
    // A tenant sees the roles of bound claims, and of offers.
    let reservations = std::mem::take(&mut snapshot.reservations);
    snapshot.claims = vec![bound("data", "v")];
    assert!(why(&snapshot).contains("kubectl reservoir subscribe eng"), "{}", why(&snapshot));
    (snapshot.reservations, snapshot.claims) = (reservations, vec![]);
    assert_eq!(snapshot.near_role("volumeroles/eng"), Some("eng"), "as other commands take objects");
    assert_eq!((snapshot.near_role("eng/ml"), snapshot.near_role("zzz")), (None, None));
    let note = |snapshot: &Snapshot| snapshot.unknown_role("egn").unwrap();
    assert_eq!(note(&snapshot), "note: no object is of role egn; did you mean eng?");
    snapshot.denied = vec![Denied::unseen(&VOLUME)];
    assert_eq!(note(&snapshot), "note: no object that you may see is of role egn; did you mean eng?");
    snapshot.denied.clear();
    snapshot.subscriptions[0].spec.roles = vec!["eng".into()];
    let alone = why(&snapshot);
    assert!(alone.contains("next: kubectl get volumeoffers -n team   # an offer comes by itself"), "{alone}");
    let offer = json!({"metadata": {"name": "sub.n1", "namespace": "team"}, "spec": {"subscription": "sub", "nodeName": "n1"}});
    snapshot.offers = vec![from(offer)];
    assert!(!why(&snapshot).contains("next: "));
    snapshot.subscriptions[0].spec.capabilities.clear();
    assert!(why(&snapshot).contains("next: kubectl patch rolesubscription sub -n team"));
}

/// T4: a tenant's doctor sees no installation.
#[test]
fn t4_a_wait_that_lasts_leads_a_tenant_to_who_can_look() {
    let mut waits = claim("team", "data", "v");
    let conditions = &mut waits.status.get_or_insert_default().conditions;
    set_not_ready(conditions, reason::BINDING, "PersistentVolumeClaim data is being bound");
    let mut snapshot = Snapshot { claims: vec![waits], ..Snapshot::default() };
    let of = |snapshot: &Snapshot| ask(snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(of(&snapshot).ends_with("the same: kubectl reservoir doctor\n"), "{}", of(&snapshot));
    snapshot.denied = vec![Denied::unseen(&DISK)];
    let told = of(&snapshot);
    assert!(told.ends_with("an administrator run: kubectl reservoir why vclaim/data -n team\n"), "{told}");
}

/// T4: an object that the caller may not see is not reported as missing.
#[test]
fn t4_why_does_not_deny_what_may_not_be_seen() {
    let blind = Snapshot { denied: vec![Denied::unseen(&VOLUME)], ..Snapshot::default() };
    let said = ask(&blind, &VOLUME, None, "data").unwrap_err();
    assert_eq!(
        said,
        "SharedPersistentVolume data may not be seen with your rights: have an administrator run: kubectl reservoir why spv/data"
    );
}

/// T4: for an object of every kind with every reason, `why` prints the object's own message and a
/// complete next step.
#[test]
fn t4_why_prints_message_and_next_step_of_every_reason() {
    for (reason, doc) in reason::ALL {
        let mut snapshot = Snapshot {
            disks: vec![disk("n1.a", "n1", 10, &[])],
            roles: vec![volume_role("x", "eng")],
            reservations: vec![reservation("x", "ops", 1)],
            volumes: vec![volume("x", "eng", 1)],
            claims: vec![claim("team", "x", "gone")],
            ..Snapshot::default()
        };
        for conditions in [
            &mut snapshot.disks[0].status.as_mut().unwrap().conditions,
            &mut snapshot.roles[0].status.get_or_insert_default().conditions,
            &mut snapshot.reservations[0].status.get_or_insert_default().conditions,
            &mut snapshot.volumes[0].status.get_or_insert_default().conditions,
            &mut snapshot.claims[0].status.get_or_insert_default().conditions,
        ] {
            set_not_ready(conditions, reason, "its own message");
        }
        let kinds = [
            (&DISK, None, "n1.a"),
            (&ROLE, None, "x"),
            (&RESERVATION, None, "x"),
            (&VOLUME, None, "x"),
            (&CLAIM, Some("team"), "x"),
        ];
        // The comment of a reason begins with the kinds that have it.
        let of = doc[0].trim().split_once(':').map(|(kinds, _)| kinds.to_lowercase()).unwrap_or_default();
        let has = |kind: &Kind| of.split(", ").any(|of| kind.name.to_lowercase().ends_with(of));
        let any = of.is_empty() || !kinds.iter().any(|(kind, ..)| has(kind));
        for (kind, namespace, name) in kinds.into_iter().filter(|(kind, ..)| any || has(kind)) {
            let answer = ask(&snapshot, kind, namespace, name).unwrap();
            assert!(
                answer.starts_with(&format!("{} ", kind.name))
                    && answer.contains(&format!("{name}: {reason}: its own message")),
                "{answer}"
            );
            assert!(answer.contains("\nnext: "), "{reason}: {answer}");
            let step = answer.split_once("\nnext: ").unwrap().1.split("   #").next().unwrap();
            let capitals = |word: &str| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase());
            let blank =
                step.contains(['{', '<']) && !step.contains("-p '{") || step.split([' ', '/']).any(capitals);
            assert!(!blank && !step.contains("  ") && !step.contains("--role  "), "{reason}: {answer}");
        }
    }
}

#[test]
fn t4_why_names_holders_and_earlier_reservations() {
    let mut held = ready_volume("v", "eng", false);
    let status = held.status.as_mut().unwrap();
    status.claims = vec![bound_by("other", "holder", "u0")];
    (status.users, status.user_count) = (vec![pod("other", "p")], 1);
    let mut waits = claim("team", "c", "v");
    set_not_ready(&mut waits.status.get_or_insert_default().conditions, reason::VOLUME_HELD, "it is held");
    let mut last = reservation("last", "eng", 99);
    last.metadata.creation_timestamp = later();
    set_not_ready(&mut last.status.get_or_insert_default().conditions, reason::NOT_ENOUGH_ROOM, "too little");
    let snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 100, &[("r", 90)])],
        volumes: vec![held],
        claims: vec![waits],
        reservations: vec![last, reservation("first", "eng", 50)],
        ..Snapshot::default()
    };
    let answer = ask(&snapshot, &CLAIM, Some("team"), "c").unwrap();
    assert!(answer.contains("held by claim other/holder\n  and used by pod other/p\n"), "{answer}");
    let answer = ask(&snapshot, &VOLUME, None, "v").unwrap();
    let next = "next: a volume in use cannot be deleted; to destroy it after its last use: kubectl reservoir retire v";
    assert!(answer.contains("claimed by other/holder (ReadWrite)") && answer.contains(next), "{answer}");
    let mut unused = snapshot.volumes[0].clone();
    let status = unused.status.as_mut().unwrap();
    (status.users, status.user_count) = (vec![], 0);
    let answer = ask(&Snapshot { volumes: vec![unused], ..Snapshot::default() }, &VOLUME, None, "v").unwrap();
    assert!(
        answer.contains("next: a volume with claims cannot be deleted: its claims end first"),
        "{answer}"
    );
    let answer = ask(&snapshot, &RESERVATION, None, "last").unwrap();
    assert!(
        answer.contains("before it in the queue, by the shares of the roles: first (eng, 50Gi)"),
        "{answer}"
    );
    let small = Snapshot { disks: vec![disk("n1.a", "n1", 98, &[("r", 90)])], ..snapshot };
    let answer = ask(&small, &RESERVATION, None, "last").unwrap();
    assert!(!answer.contains("queue"), "99Gi never fit: {answer}");
}

#[test]
fn t4_an_unknown_name_is_answered_with_the_nearest() {
    let snapshot = on_lost_node();
    let wrong = |kind, namespace, name| ask(&snapshot, kind, namespace, name).unwrap_err();
    assert_eq!(wrong(&VOLUME, None, "dta"), "there is no SharedPersistentVolume dta; did you mean data?");
    assert_eq!(
        wrong(&CLAIM, Some("other"), "data"),
        "there is no VolumeClaim other/data; there is one in namespace team: add -n team"
    );
    assert_eq!(wrong(&DISK, None, "xyz"), "there is no NodeDisk xyz");
}

/// T4: a PersistentVolumeClaim with enough space that it cannot have, and a pod that cannot end, wait for a disk or a class.
#[test]
fn t4_why_leads_to_the_disk_that_is_not_ready() {
    let class = |more: Value| {
        let mut class = json!({"metadata": {"name": "eng"}, "provisioner": "csi.reservoir.dev", "parameters": {"role": "eng"},
            "volumeBindingMode": "WaitForFirstConsumer"});
        class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        vec![from(class)]
    };
    let mut down = disk("n1.a", "n1", 7, &[]);
    let why = Verdict::no(reason::DISK_REFUSED, "it is not configured any more");
    set(&mut down.status.as_mut().unwrap().conditions, READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let mut ready = ready_volume("v", "eng", true);
    ready.status.as_mut().unwrap().node_disk = Some("n1.a".into());
    let mut ending = pod_of("used", "Running");
    (ending.metadata.name, ending.metadata.deletion_timestamp) = (Some("old".into()), some_time());
    let said_before = "ProvisioningFailed";
    let mut snapshot = Snapshot {
        classes: vec!["eng".into()],
        our_classes: class(json!({})),
        disks: vec![down],
        reservations: vec![reserved("eng", "eng", 4, &[])],
        pvcs: vec![wants("1Gi"), pvc("used", "Bound", "eng")],
        claims: vec![bound("used", "v")],
        volumes: vec![ready],
        pods: vec![pod_of("data", "Pending"), ending],
        events: vec![event("PersistentVolumeClaim", "data", "Warning", said_before, "not ready")],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(of(&snapshot).contains("next: kubectl reservoir why nd/n1.a"), "{}", of(&snapshot));
    let ending = ask(&snapshot, &POD, Some("team"), "old").unwrap();
    assert!(ending.contains("because NodeDisk n1.a is DiskRefused"), "{ending}");
    snapshot.our_classes = class(json!({"parameters": {"role": "eng", "reservation": "eng"},
        "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}]}));
    assert!(of(&snapshot).contains("next: kubectl get storageclass eng -o yaml"), "{}", of(&snapshot));
}

/// T4, X5: a claim to a volume that is being destroyed is not told to end the use of others, which ends their data.
#[test]
fn t4_why_never_advises_to_end_the_use_of_others() {
    let mut volume = ready_volume("v", "eng", true);
    let status = volume.status.as_mut().unwrap();
    (status.claims, status.user_count) = (vec![bound_by("other", "c", "u")], 1);
    let why = Verdict::no(reason::DESTROYING, "it waits for claim other/c");
    set(&mut status.conditions, READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let mut late = claim("team", "late", "v");
    let conditions = &mut late.status.get_or_insert_default().conditions;
    let why = Verdict::no(reason::VOLUME_DESTROYING, "volume v is being destroyed; claim another one");
    set(conditions, READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let snapshot = Snapshot { volumes: vec![volume], claims: vec![late], ..Snapshot::default() };
    let said = ask(&snapshot, &CLAIM, Some("team"), "late").unwrap();
    assert!(said.contains("claim another one\n") && !said.contains("end the claims"), "{said}");
    assert!(said.contains("next: kubectl get volumeoffers -n team"), "{said}");
}

/// T4, P6: no PersistentVolumeClaim gets smaller, whatever its StorageClass allows.
#[test]
fn t4_p6_no_patch_makes_a_claim_smaller() {
    let mut grown = pvc("data", "Bound", "eng");
    grown.status.as_mut().unwrap().capacity = Some(from(json!({"storage": "2Gi"})));
    let snapshot = Snapshot { pvcs: vec![grown], ..Snapshot::default() };
    let said = |size| resize_instead(&snapshot, &Target::new(&PVC, Some("team".into()), "data".into()), size);
    assert!(
        said("1Gi")
            .ends_with("has 2Gi, and Kubernetes makes none smaller: make another one, and copy the data")
    );
    assert!(said("3Gi").contains("kubectl patch pvc data -n team"), "{}", said("3Gi"));
}

/// T4, X9: a claim in a namespace that is being deleted says so, whatever its condition says.
#[test]
fn t4_x9_why_names_a_namespace_that_is_being_deleted() {
    let (volumes, claims) = (vec![ready_volume("data", "eng", true)], vec![bound("mine", "data")]);
    let ending_namespace = Some("team".to_owned());
    let snapshot = Snapshot { volumes, claims, ending_namespace, ..Snapshot::default() };
    let said = ask(&snapshot, &CLAIM, Some("team"), "mine").unwrap();
    let ending = "  namespace team is being deleted, with all that is in it, and takes no new pod\nnext: kubectl get namespace team ";
    assert!(said.contains(ending), "{said}");
    let volume = ask(&snapshot, &VOLUME, None, "data").unwrap();
    assert!(!volume.contains("being deleted"), "{volume}");
}

/// T4: nothing that is advised helps while no controller works, and Ready may be long over.
#[test]
fn t4_why_leads_to_a_missing_controller_first() {
    let mut snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 10, &[])],
        volumes: vec![volume("lost", "eng", 1), ready_volume("v", "eng", true)],
        leaderless: Some("no controller works: none holds Lease sys/reservoir-controller".into()),
        ..Snapshot::default()
    };
    set_not_ready(
        &mut snapshot.volumes[0].status.get_or_insert_default().conditions,
        reason::NO_RESERVATION,
        "nothing is reserved for role eng",
    );
    let told = "  no controller works: none holds Lease sys/reservoir-controller; nothing of Reservoir changes, and this may be out of date\n";
    let waits = ask(&snapshot, &VOLUME, None, "lost").unwrap();
    assert!(
        waits.contains(&format!("{told}next: kubectl reservoir doctor   # checks that the controller")),
        "{waits}"
    );
    // A volume that nobody has looked at leads there by itself.
    snapshot.volumes.push(volume("new", "eng", 1));
    let new = ask(&snapshot, &VOLUME, None, "new").unwrap();
    assert_eq!(new.matches("next: ").count(), 1, "{new}");
    let ready = ask(&snapshot, &VOLUME, None, "v").unwrap();
    assert!(ready.contains(told), "{ready}");
    // The controller is no cause of a pod's own failure.
    snapshot.pods = vec![pod_of("other", "Failed")];
    let pod = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(pod.contains(told) && !pod.contains("doctor"), "{pod}");
}
