//! The turns in which copies are filled from one another.

use super::*;
use crate::api::condition::BACKED;
use crate::api::{BackingState, NodePart};
use crate::plan::copies::family::SENT_AT_ONCE;

fn round(of: &SharedPersistentVolume, copies: &mut [SharedPersistentVolume]) -> usize {
    let family = family(of, copies);
    let chosen: Vec<_> = copies.iter().map(|copy| source(copy, &family)).collect();
    let mut load: BTreeMap<String, usize> = BTreeMap::new();
    for (copy, source) in copies.iter_mut().zip(&chosen) {
        copy.status.as_mut().unwrap().source.clone_from(source);
        source.iter().for_each(|source| *load.entry(source.uid.clone()).or_default() += 1);
    }
    assert!(load.values().all(|load| *load <= SENT_AT_ONCE), "{load:?}");
    chosen.into_iter().flatten().count()
}

/// The numbers of the issue: twenty nodes in at most six rounds.
#[test]
fn e2_copies_are_filled_from_copies() {
    let of = original();
    let mut copies: Vec<_> = (10..30).map(|i| made(&of, &format!("n{i}"))).collect();
    let mut rounds = 0;
    while copies.iter().any(|copy| !is_complete(copy)) {
        rounds += 1;
        let filling = round(&of, &mut copies);
        assert!(filling > 0 && filling <= 2 * copies.len());
        // A second look changes nothing.
        let before = copies.clone();
        round(&of, &mut copies);
        assert_eq!(before, copies);
        for copy in &mut copies {
            if copy.status.as_ref().unwrap().source.is_some() {
                *copy = complete(copy.clone());
            }
        }
    }
    assert_eq!(rounds, 3);

    let mut few = original();
    few.spec.copies.as_mut().unwrap().at_once = Some(1);
    let mut copies: Vec<_> = (10..14).map(|i| made(&few, &format!("n{i}"))).collect();
    assert_eq!(round(&few, &mut copies), 1);
}

/// L7. One that fails lets the others go first, and gets another source if there is one.
#[test]
fn e2_a_copy_that_failed_gets_another_source() {
    let of = original();
    let fails = |copy: &mut SharedPersistentVolume, from: &str| {
        let status = copy.status.as_mut().unwrap();
        status.source = Some(UidRef { name: from.into(), uid: from.into() });
        status.node = Some(NodePart {
            backing: BackingState::Made,
            copy_failed_from: Some(from.to_owned()),
            ..Default::default()
        });
    };
    let own = of.uid().unwrap();
    let mut copies: Vec<_> = ["n2", "n3", "n4"].iter().map(|node| made(&of, node)).collect();
    fails(&mut copies[0], &own);
    round(&of, &mut copies);
    let sources: Vec<_> = copies.iter().map(|copy| copy.status.as_ref().unwrap().source.is_some()).collect();
    assert_eq!(sources, [false, true, true]);

    copies.truncate(2);
    copies[1] = complete(copies[1].clone());
    fails(&mut copies[0], &own);
    round(&of, &mut copies);
    let source = copies[0].status.as_ref().unwrap().source.clone().unwrap();
    assert_eq!(source.uid, "uid-n3");
    // A source that is not Ready any more is none.
    set_ready(&mut copies[1].status.as_mut().unwrap().conditions, false);
    round(&of, &mut copies);
    assert_eq!(copies[0].status.as_ref().unwrap().source.clone().unwrap().uid, own, "the only one");
}

/// L2: it says so, and not that its turn will come.
#[test]
fn e2_a_copy_without_a_source_waits_for_one() {
    let of = original();
    let copy = made(&of, "n2");
    let said = |family: &Family| unfinished(&copy, Some(family)).unwrap().message;
    let mut family = family(&of, std::slice::from_ref(&copy));
    assert!(said(&family).contains("waits for its turn"));
    let original = Arc::make_mut(family.original.as_mut().unwrap());
    set_ready(&mut original.status.as_mut().unwrap().conditions, false);
    assert!(said(&family).starts_with("it waits for volume data, or for a copy of it"), "{}", said(&family));
    family.copies.push(complete(made(&of, "n3")).into());
    family.disks.push(disk_on("n3"));
    assert!(said(&family).contains("waits for its turn"));
}

/// A copy gets its place and its source in one write, which counts the copies that come next.
#[test]
fn e2_a_copy_has_its_source_before_it_is_made() {
    let of = original();
    let copies: Vec<_> = ["n2", "n3", "n4"].iter().map(|node| created(&of, node)).collect();
    let mut family = family(&of, &copies);
    let sources = |family: &Family| {
        let placed = |copy: &SharedPersistentVolume| {
            let mut copy = copy.clone();
            let mut status = made(&of, node_of(&copy).unwrap()).status.unwrap();
            status.node = None;
            status.conditions.clear();
            copy.status = Some(status);
            source(&copy, family).is_some()
        };
        copies.iter().map(placed).collect::<Vec<_>>()
    };
    assert_eq!(sources(&family).iter().filter(|has| **has).count(), SENT_AT_ONCE);
    // One that nobody can place keeps no turn.
    let turns = sources(&family);
    let first = turns.iter().position(|has| *has).unwrap();
    let refused = Arc::make_mut(&mut family.copies[first]);
    let conditions = &mut refused.status.get_or_insert_default().conditions;
    condition::set(conditions, READY, Verdict::no(reason::RESERVATION_FULL, "m"), None, NOW);
    let others: Vec<_> = (0..3).filter(|other| *other != first).collect();
    assert!(others.iter().all(|other| sources(&family)[*other]), "{turns:?}");
}

/// L7. A node that does not answer, and one whose disk refuses the copy, take no turn from the others.
#[test]
fn e2_a_node_that_cannot_be_filled_has_no_turn() {
    let of = original();
    let own = reference(&of);
    let mut copies: Vec<_> = ["n2", "n3", "n4"].iter().map(|node| made(&of, node)).collect();
    copies[0].status.as_mut().unwrap().source = Some(own.clone());
    let mut family = family(&of, &copies);
    let sources =
        |family: &Family| family.copies.iter().map(|copy| source(copy, family).is_some()).collect::<Vec<_>>();
    assert_eq!(sources(&family).iter().filter(|has| **has).count(), SENT_AT_ONCE);
    let silent = |family: &mut Family, why: &'static str| {
        let disk = family.disks.iter_mut().find(|disk| disk.name_any() == "n2.a").unwrap();
        let conditions = &mut Arc::make_mut(disk).status.as_mut().unwrap().conditions;
        condition::set(conditions, READY, Verdict::no(why, "m"), None, NOW);
    };
    silent(&mut family, reason::SPACE_TAKEN);
    assert!(sources(&family)[0], "its bytes are allocated");
    silent(&mut family, reason::NODE_UNREACHABLE);
    assert_eq!(sources(&family), [false, true, true]);

    copies[0].status.as_mut().unwrap().conditions.clear();
    condition::set(
        &mut copies[0].status.as_mut().unwrap().conditions,
        BACKED,
        Verdict::no(reason::BACKING_FAILED, "m"),
        None,
        NOW,
    );
    let failed = self::family(&of, &copies);
    assert_eq!(sources(&failed), [false, true, true]);
}
