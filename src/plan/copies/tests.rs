use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::family::reference;
use super::*;
use crate::api::{Transfer, UidRef};
use crate::plan::testing::*;

mod turns;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn node(name: &str, pool: &str) -> Arc<Node> {
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    node.metadata.labels = Some([("pool".to_owned(), pool.to_owned())].into());
    node.into()
}

fn disk_on(node: &str) -> Arc<NodeDisk> {
    let mut disk = disk(&format!("{node}.a"), node, 100, &[]);
    let at = Transfer { address: format!("{node}:1"), key: format!("key-{node}") };
    disk.status.as_mut().unwrap().transfer = Some(at);
    disk.into()
}

fn reservation_on(node: &str, role: &str, size: u64) -> Arc<DiskReservation> {
    let mut reservation = reserved(&format!("r-{node}"), role, size, &[]);
    let status = reservation.status.as_mut().unwrap();
    (status.node_name, status.node_disk) = (Some(node.to_owned()), Some(format!("{node}.a")));
    reservation.into()
}

fn original() -> SharedPersistentVolume {
    let mut volume = ready_volume("data", "eng", true);
    volume.spec.sealed = true;
    volume.spec.copies =
        Some(Copies { node_selector: Some([("pool".into(), "gpu".into())].into()), ..Default::default() });
    volume.status.as_mut().unwrap().digest = Some("blake3:00".into());
    volume
}

/// Nodes n1 (the original's) to n4 of pool gpu, with a reservation on n2 and n3, and n5 of another pool.
fn around(copies: Vec<SharedPersistentVolume>) -> Around {
    let names = ["n1", "n2", "n3", "n4"];
    Around {
        copies: copies.into_iter().map(Arc::new).collect(),
        nodes: names.iter().map(|name| node(name, "gpu")).chain([node("n5", "cpu")]).collect(),
        disks: names.iter().map(|name| disk_on(name)).collect(),
        reservations: vec![
            reservation_on("n1", "eng", 10),
            reservation_on("n2", "eng", 10),
            reservation_on("n3", "eng", 10),
        ],
        taken: BTreeSet::new(),
    }
}

/// The copy of `of` that the plan makes for a node, made and empty there.
fn made(of: &SharedPersistentVolume, node: &str) -> SharedPersistentVolume {
    let mut copy = draft(of, of.spec.copies.as_ref().unwrap(), "blake3:00", node);
    copy.metadata.uid = Some(format!("uid-{node}"));
    let mut status = ready_volume("x", "eng", true).status.unwrap();
    (status.node_name, status.node_disk) = (Some(node.to_owned()), Some(format!("{node}.a")));
    status.reservation = Some(UidRef { name: "r".into(), uid: "r".into() });
    set_ready(&mut status.conditions, false);
    copy.status = Some(status);
    copy
}

fn complete(mut copy: SharedPersistentVolume) -> SharedPersistentVolume {
    let status = copy.status.as_mut().unwrap();
    status.digest = Some("blake3:00".into());
    set_ready(&mut status.conditions, true);
    copy
}

fn family(of: &SharedPersistentVolume, copies: &[SharedPersistentVolume]) -> Family {
    let nodes: BTreeSet<&str> = copies.iter().filter_map(node_of).chain(["n1"]).collect();
    Family {
        original: Some(of.clone().into()),
        copies: copies.iter().cloned().map(Arc::new).collect(),
        disks: nodes.iter().map(|node| disk_on(node)).collect(),
        node: Some(node("n2", "gpu")),
        reservation: None,
    }
}

#[test]
fn e2_each_selected_node_with_space_gets_a_copy() {
    let of = original();
    let plan = super::plan(&of, &around(vec![]));
    let made: Vec<_> = plan.missing.iter().map(|copy| copy.spec.clone()).collect();
    let on =
        |copy: &SharedPersistentVolumeSpec| (copy.reservation.clone(), copy.copy_of.clone().unwrap().node);
    assert_eq!(
        made.iter().map(on).collect::<Vec<_>>(),
        [(Some("r-n2".into()), "n2".into()), (Some("r-n3".into()), "n3".into())]
    );
    let first = &made[0];
    assert!(first.sealed && first.copies.is_none() && first.shared.is_some() && first.size == gi(1));
    assert_eq!(plan.status, Some(CopiesStatus { wanted: 3, ready: 0, failed: 1, used: 0 }));
    let verdict = plan.verdict.unwrap();
    assert_eq!(verdict.reason, reason::COPIES_MISSING);
    assert!(verdict.message.starts_with("1 of 3 selected nodes are without a copy: n4: nothing is reserved"));

    let mut used = complete(self::made(&of, "n2"));
    used.status.as_mut().unwrap().user_count = 1;
    let mut around = around(vec![used, self::made(&of, "n3")]);
    around.nodes.retain(|node| node.name_any() != "n4");
    let plan = super::plan(&of, &around);
    assert_eq!(
        plan.status,
        Some(CopiesStatus { wanted: 2, ready: 1, failed: 1, used: 1 }),
        "the reason is unknown"
    );
    assert_eq!(plan.missing, []);
    around.copies = vec![complete(self::made(&of, "n2")).into(), complete(self::made(&of, "n3")).into()];
    let verdict = super::plan(&of, &around).verdict.unwrap();
    assert_eq!((verdict.ok, verdict.reason), (true, reason::COPIED));
}

#[test]
fn e2_what_keeps_copies_from_being_made_is_told() {
    let said = |of: &SharedPersistentVolume, around: &Around| {
        let plan = super::plan(of, around);
        assert_eq!(plan.missing, []);
        plan.verdict.map(|verdict| (verdict.reason, verdict.message)).unwrap()
    };
    let mut of = original();
    of.status.as_mut().unwrap().digest = None;
    assert!(said(&of, &around(vec![])).1.ends_with("which its condition Sealed tells more about"));
    of.spec.sealed = false;
    let (reason, why) = said(&of, &around(vec![]));
    assert_eq!(reason, reason::NOT_SEALED);
    assert!(why.contains("set spec.sealed to true"), "{why}");
    let mut elsewhere = original();
    elsewhere.spec.copies.as_mut().unwrap().node_selector = Some([("pool".into(), "none".into())].into());
    assert_eq!(said(&elsewhere, &around(vec![])).0, reason::NO_NODE_SELECTED);
    let mut off = around(vec![]);
    off.disks = vec![disk("n1.a", "n1", 100, &[]).into()];
    assert_eq!(said(&original(), &off).0, reason::COPIES_OFF);
    // Complete copies count though nobody sends any more.
    off.copies = ["n2", "n3"].map(|node| complete(made(&original(), node)).into()).into();
    let plan = super::plan(&original(), &off);
    assert_eq!(
        (plan.status.map(|s| (s.wanted, s.ready)), plan.verdict.unwrap().reason),
        (Some((3, 2)), reason::COPIES_OFF)
    );
    off.nodes.retain(|node| node.name_any() != "n4");
    assert_eq!(said(&original(), &off).0, reason::COPIED);
    let mut small = around(vec![]);
    small.nodes.truncate(2);
    small.reservations = vec![reservation_on("n2", "ops", 10)];
    let (reason, message) = said(&original(), &small);
    assert_eq!(reason, reason::COPIES_MISSING);
    assert!(message.contains("n2: nothing is reserved for role eng"), "{message}");
    small.reservations = vec![reserved("r-n2", "eng", 1, &[("other", 1)]).into()];
    Arc::make_mut(&mut small.reservations[0]).status = reservation_on("n2", "eng", 0).status.clone();
    let (_, message) = said(&original(), &small);
    assert!(message.contains("n2: 1Gi asked for, r-n2 has 0 left"), "{message}");
    let mut ends = original();
    ends.spec.retire = true;
    let ending = super::plan(&ends, &around(vec![complete(made(&ends, "n2"))]));
    assert_eq!((ending.missing, ending.verdict), (vec![], None), "nothing is copied any more");
    assert_eq!(ending.status.unwrap().ready, 1);
    assert_eq!(super::plan(&ready_volume("v", "eng", true), &around(vec![])), Plan::default());
}

/// T4: a reservation that waits, a NodeDisk that is not ready, and another volume with the name of a copy are named.
#[test]
fn e2_what_is_in_the_way_of_a_copy_is_named() {
    let of = original();
    let mut around = around(vec![]);
    around.nodes.truncate(2);
    let said = |around: &Around| super::plan(&of, around).verdict.unwrap().message;
    let missing = super::plan(&of, &around).missing;
    let name = missing[0].name_any();
    let foreign = Arc::new(ready_volume(&name, "other", true));
    let find = |asked: &str| (asked == name).then(|| foreign.clone());
    around.taken = taken_names(&of, &around.nodes, find);
    assert_eq!(around.taken, BTreeSet::from([name.clone()]));
    let plan = super::plan(&of, &around);
    assert_eq!((plan.missing.len(), plan.status.unwrap().failed), (0, 1));
    assert!(
        said(&around).contains(&format!("n2: volume {name} is no copy, and has the name")),
        "{}",
        said(&around)
    );
    // A copy that the cache of copies lacks for a moment is none of them.
    let copy = Arc::new(missing[0].clone());
    assert_eq!(taken_names(&of, &around.nodes, |_| Some(copy.clone())), BTreeSet::new());

    around.taken.clear();
    let mut off = (*around.disks[1]).clone();
    set_ready(&mut off.status.as_mut().unwrap().conditions, false);
    around.disks[1] = off.into();
    let wanted = "n2: DiskReservation r-n2 is on NodeDisk n2.a, which is not ready: ";
    assert!(said(&around).contains(wanted), "{}", said(&around));
    // A reservation for any node may be served elsewhere.
    let mut waits = reservation("new", "eng", 1);
    set_ready(&mut waits.status.get_or_insert_default().conditions, false);
    around.reservations = vec![waits.clone().into()];
    assert!(said(&around).contains("n2: nothing is reserved for role eng"), "{}", said(&around));
    waits.spec.node_name = Some("n2".into());
    around.reservations = vec![waits.into()];
    assert!(said(&around).contains("n2: DiskReservation new waits: "), "{}", said(&around));
}

/// A volume that is complete fills others, though the agent of the original's disk does not.
#[test]
fn e2_any_complete_copy_fills_the_missing_ones() {
    let of = original();
    let mut around = around(vec![complete(made(&of, "n2"))]);
    around.nodes.truncate(3);
    Arc::make_mut(&mut around.disks[0]).status.as_mut().unwrap().transfer = None;
    let filled = super::plan(&of, &around);
    assert_eq!((filled.missing.len(), filled.verdict.unwrap().reason), (1, reason::COPYING));
    Arc::make_mut(&mut around.disks[1]).status.as_mut().unwrap().transfer = None;
    let none = super::plan(&of, &around);
    assert_eq!((none.missing, none.verdict.unwrap().reason), (vec![], reason::COPIES_OFF));
}

/// A reservation of kept data alone is one with space, if no other one on the node has some.
#[test]
fn x8_e2_kept_data_gives_way_to_a_copy() {
    let of = original();
    let mut full = with_kept(&[("old", 0, 60)]);
    let status = full.status.as_mut().unwrap();
    status.size = Some(gi(1));
    (status.node_name, status.node_disk) = (Some("n2".into()), Some("n2.a".into()));
    let full = Arc::new(full);
    let mut around = around(vec![]);
    around.nodes.truncate(2);
    let chosen = |around: &Around| {
        super::plan(&of, around).missing.first().and_then(|copy| copy.spec.reservation.clone()).unwrap()
    };
    around.reservations.push(full.clone());
    assert_eq!(chosen(&around), "r-n2", "it has free space");
    around.reservations = vec![full.clone()];
    assert_eq!(chosen(&around), "r");

    // It waits there while the data is erased.
    let mut copy = created(&of, "n2");
    copy.spec.reservation = Some("r".into());
    let conditions = &mut copy.status.get_or_insert_default().conditions;
    condition::set(conditions, READY, Verdict::no(reason::RESERVATION_FULL, "m"), None, NOW);
    let mut family = family(&of, std::slice::from_ref(&copy));
    assert_eq!(is_wanted(&copy, &family), Some(false), "another reservation may have space");
    family.reservation = Some(full);
    assert_eq!(is_wanted(&copy, &family), Some(true));
}

/// E5, D4. A copy is given up for a reason, and never because its Node is missing.
#[test]
fn e2_a_copy_stays_as_long_as_it_is_wanted() {
    let of = original();
    let copy = complete(made(&of, "n2"));
    let mut family = family(&of, std::slice::from_ref(&copy));
    assert_eq!(is_wanted(&copy, &family), Some(true));
    family.node = Some(node("n2", "cpu"));
    assert_eq!(is_wanted(&copy, &family), Some(false));
    family.node = None;
    assert_eq!(is_wanted(&copy, &family), None);
    family.node = Some(node("n2", "gpu"));

    let change = |change: &dyn Fn(&mut SharedPersistentVolume)| {
        let mut of = of.clone();
        change(&mut of);
        self::family(&of, &[])
    };
    let keeper = |copy: &SharedPersistentVolume, of: &Family| keeper(copy, of.original.as_deref());
    for (ends, by) in [
        (change(&|of| of.spec.copies = None), Keeper::Selection),
        (change(&|of| of.spec.retire = true), Keeper::Original),
        (change(&|of| of.metadata.deletion_timestamp = Some(Time(NOW))), Keeper::Nothing),
    ] {
        assert_eq!((is_wanted(&copy, &ends), keeper(&copy, &ends)), (Some(false), by));
    }
    let orphaned = Family { original: None, ..self::family(&of, &[]) };
    assert_eq!(is_wanted(&copy, &orphaned), None, "it may be all that is left");
    assert_eq!(keeper(&copy, &orphaned), Keeper::Nothing);
    assert_eq!(is_wanted(&made(&of, "n2"), &orphaned), Some(false));

    let with = |type_, reason| {
        let mut copy = copy.clone();
        let conditions = &mut copy.status.as_mut().unwrap().conditions;
        condition::set(conditions, type_, Verdict::no(reason, "m"), None, NOW);
        copy
    };
    for differs in [with(INTACT, reason::COPY_DIFFERS), with(READY, reason::VOLUME_GONE)] {
        assert_eq!(is_wanted(&differs, &family), Some(false), "it is made anew");
        assert_eq!(keeper(&differs, &family), Keeper::NewCopy);
    }
    assert_eq!(is_wanted(&with(READY, reason::NODE_UNREACHABLE), &family), Some(true));
    let mut stuck = with(READY, reason::RESERVATION_FULL);
    assert_eq!(is_wanted(&stuck, &family), Some(true), "it has a place");
    stuck.status.as_mut().unwrap().reservation = None;
    assert_eq!(is_wanted(&stuck, &family), Some(false), "another reservation may have space");
    stuck.spec.retire = true;
    let conditions = &mut stuck.status.as_mut().unwrap().conditions;
    condition::set(conditions, READY, Verdict::no(reason::RETIRING, "m"), None, NOW);
    assert_eq!(is_wanted(&stuck, &family), Some(false), "it goes on to retire (T2, seed 20017)");
}

/// A4, A7: exactly the volume that is being copied to the asker's node, while it is.
#[test]
fn e2_a_node_may_read_what_is_copied_to_it() {
    let of = original();
    let mut copy = made(&of, "n2");
    copy.status.as_mut().unwrap().source = Some(reference(&of));
    let (uid, disk) = (of.uid().unwrap(), disk_on("n2"));
    let may = |copy: Option<&SharedPersistentVolume>, disk: Option<&NodeDisk>, key: &str, uid: &str| {
        may_read(copy, disk, key, uid).is_ok()
    };
    assert_eq!(may_read(Some(&copy), Some(&disk), "key-n2", &uid), Ok("blake3:00".to_owned()));
    assert!(!may(None, Some(&disk), "key-n2", &uid));
    assert!(!may(Some(&copy), None, "key-n2", &uid));
    assert!(!may(Some(&copy), Some(&disk), "key-n3", &uid), "another node's key");
    assert!(!may(Some(&copy), Some(&disk_on("n3")), "key-n3", &uid), "another node's disk");
    assert!(!may(Some(&copy), Some(&disk), "key-n2", "uid-other"), "another volume");
    assert!(!may(Some(&complete(copy.clone())), Some(&disk), "key-n2", &uid), "it has it already");
    assert!(!may(Some(&of), Some(&disk_on("n1")), "key-n1", &uid), "no copy");
    let mut moved = (*disk).clone();
    moved.spec.node_name = "n9".into();
    assert!(!may(Some(&copy), Some(&moved), "key-n2", &uid), "the disk is in another node");
}

/// A7. A node is believed about its own disk: a copy with another digest is none.
#[test]
fn e2_a_copy_with_another_digest_is_not_ready() {
    let of = original();
    let mut copy = made(&of, "n2");
    let reason = |copy: &SharedPersistentVolume| unfinished(copy, None).map(|verdict| verdict.reason);
    assert_eq!(reason(&copy), Some(reason::COPYING));
    copy.status.as_mut().unwrap().digest = Some("blake3:11".into());
    assert_eq!(reason(&copy), Some(reason::COPY_DIFFERS));
    assert_eq!((reason(&complete(copy)), reason(&of)), (None, None));
}

#[test]
fn e2_the_own_node_has_a_copy_on_another_disk_if_asked() {
    let mut of = original();
    let on =
        |plan: Plan| plan.missing.iter().map(|copy| node_of(copy).unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(on(plan(&of, &around(vec![]))), ["n2", "n3"]);
    of.spec.copies.as_mut().unwrap().own_node = true;
    let mut seen = around(vec![]);
    let alone = plan(&of, &seen);
    let said = alone.verdict.clone().unwrap().message;
    assert!(said.contains("n1: it has no NodeDisk for a copy"), "its own disk is none: {said}");
    assert_eq!((alone.status.unwrap().wanted, on(alone)), (4, vec!["n2".to_owned(), "n3".to_owned()]));
    let mut other = (*disk_on("n1")).clone();
    other.metadata.name = Some("n1.b".into());
    seen.disks.push(other.into());
    let mut beside = (*reservation_on("n1", "eng", 10)).clone();
    beside.metadata.name = Some("beside".into());
    beside.status.as_mut().unwrap().node_disk = Some("n1.b".into());
    seen.reservations.push(beside.into());
    let missing = plan(&of, &seen).missing;
    assert_eq!(missing[0].spec.reservation.as_deref(), Some("beside"));
    let copy = complete(made(&of, "n1"));
    let mut family = family(&of, std::slice::from_ref(&copy));
    family.node = Some(node("n1", "gpu"));
    assert_eq!(is_wanted(&copy, &family), Some(true));
    Arc::make_mut(family.original.as_mut().unwrap()).spec.copies.as_mut().unwrap().own_node = false;
    assert_eq!(is_wanted(&copy, &family), Some(false));
}

/// The copy as it was created: without a place.
fn created(of: &SharedPersistentVolume, node: &str) -> SharedPersistentVolume {
    let mut copy = made(of, node);
    copy.spec.reservation = Some(format!("r-{node}"));
    copy.status = None;
    copy
}

/// The last copy is told at once, and those before it together.
#[test]
fn e2_complete_copies_are_counted_together() {
    let mut of = original();
    let told = |of: &SharedPersistentVolume, nodes: usize| {
        let copies = ["n2", "n3", "n4"].iter().enumerate();
        let copies =
            copies.map(|(i, node)| if i < nodes { complete(made(of, node)) } else { made(of, node) });
        let mut around = around(copies.map(with_creating).collect());
        around.nodes.retain(|node| node.name_any() != "n5");
        let mut status = of.status.clone().unwrap();
        report(&super::plan(of, &around), of, &mut status, NOW);
        status
    };
    let first = told(&of, 0);
    assert!(!is_recount(&of, &first), "the first numbers");
    of.status = Some(first.clone());
    assert!(!is_recount(&of, &first), "nothing is new");
    let next = told(&of, 1);
    assert_eq!(next.copies.unwrap().ready, 1);
    assert!(is_recount(&of, &next));
    let used = CopiesStatus { used: 1, ..next.copies.unwrap() };
    assert!(!is_recount(&of, &SharedPersistentVolumeStatus { copies: Some(used), ..next }), "E5: the guard");
    assert!(!is_recount(&of, &told(&of, 3)), "the last one");
}

/// The same, waiting for its content if it has none.
fn with_creating(mut copy: SharedPersistentVolume) -> SharedPersistentVolume {
    if !is_complete(&copy) {
        let conditions = &mut copy.status.as_mut().unwrap().conditions;
        condition::set(conditions, READY, Verdict::no(reason::COPYING, "m"), None, NOW);
    }
    copy
}

/// L2: an original whose files differ fills nothing, and says which nodes wait for that.
#[test]
fn e2_an_original_says_that_nothing_fills_its_copies() {
    let mut of = original();
    let mut around = around(vec![with_creating(made(&of, "n2"))]);
    around.nodes.truncate(2);
    let reason =
        |of: &SharedPersistentVolume, around: &Around| super::plan(of, around).verdict.unwrap().reason;
    assert_eq!(reason(&of, &around), reason::COPYING);
    set_ready(&mut of.status.as_mut().unwrap().conditions, false);
    let verdict = super::plan(&of, &around).verdict.unwrap();
    assert_eq!(verdict.reason, reason::COPIES_MISSING);
    assert!(
        verdict.message.starts_with("1 of 1 selected nodes are without a copy: n2: "),
        "{}",
        verdict.message
    );
    around.copies.push(complete(made(&of, "n3")).into());
    assert_eq!(reason(&of, &around), reason::COPYING, "another copy fills it");
}
