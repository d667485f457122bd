//! The largest objects that lists and copies can produce. etcd accepts 1.5 MB, and each object stays below 1 MB (A8).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::core::object::HasStatus;

use super::list_share::MOST_ENTRIES;
use super::offer::changes;
use super::testing::*;
use super::{bind, claim, volume};
use crate::api::condition::{self, READY, Verdict};
use crate::api::*;

const NAME: usize = 253;
const UID: &str = "0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03";

fn long(i: usize) -> String {
    format!("{i:0>NAME$}")
}

/// The longest name of a role.
fn role() -> String {
    ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join("/")
}

/// Pods of the namespaces that have a claim.
fn pods() -> Vec<PodRef> {
    let pod = |i| PodRef { namespace: long(i % MOST_ENTRIES)[190..].into(), name: long(i), uid: UID.into() };
    (0..2000).map(pod).collect()
}

/// The bytes of the object without labels and annotations, which admission bounds.
fn bytes(object: &impl serde::Serialize) -> usize {
    serde_json::to_vec(object).unwrap().len()
}

fn most_claims() -> Vec<ClaimBinding> {
    let binding = |i: usize| ClaimBinding {
        namespace: long(i)[190..].into(),
        name: long(i),
        uid: format!("{i:0>36}"),
        pvc_uid: Some(UID.into()),
        mode: AccessMode::ReadWrite,
        ending: true,
    };
    (0..MOST_ENTRIES).map(binding).collect()
}

fn largest_volume() -> SharedPersistentVolume {
    let mut v = ready_volume(&long(0), &role(), true);
    let status = v.status.as_mut().unwrap();
    status.claims = most_claims();
    let node = status.node.as_mut().unwrap();
    node.released = status.claims.iter().map(|claim| claim.uid.clone()).collect();
    let process =
        |pid| Process { pid, command: "c".repeat(15), pod_uid: Some(UID.into()), mount: Some(long(0)) };
    node.held_by = (0..4).map(process).collect();
    node.refused_readers = pods()[..16].into();
    (node.mounted_by, status.node_name) = (pods()[..16].into(), Some(long(0)));
    *status = volume::count_users(status.clone(), pods());
    // Refinements nested as deep as a role may have components.
    let mut levels: Vec<_> = (0..8)
        .map(|i| {
            let mut level = reserved(&long(i), &role(), 1, &[]);
            level.metadata.uid = Some(format!("uid-{i}"));
            level.metadata.labels = Some((0..99).map(|i| (long(i), "v".repeat(63))).collect());
            level.status.as_mut().unwrap().parent =
                Some(UidRef { name: long(i + 1), uid: format!("uid-{}", i + 1) });
            Arc::new(level)
        })
        .collect();
    status.reservation = Some(UidRef { name: long(0), uid: "uid-0".into() });
    Arc::make_mut(levels.last_mut().unwrap()).status.as_mut().unwrap().parent = None;
    status.reserved = super::birth::reserved_chain(status, &levels).unwrap();
    assert_eq!(status.reserved.len(), 8);
    v
}

#[test]
fn a8_the_largest_volume_is_below_a_megabyte() {
    let v = largest_volume();
    assert_eq!(v.status.as_ref().unwrap().namespaces.len(), MOST_ENTRIES);
    assert!(bytes(&v) < 900_000, "{}", bytes(&v));
}

#[test]
fn a8_one_more_claim_than_fit_waits_with_its_own_reason() {
    let mut v = largest_volume();
    (v.spec.role, v.metadata.name) = ("eng".into(), Some("v".into()));
    let next = super::testing::claim("ns", "c", "v");
    let sub = subscription("ns", &["eng"], true);
    let refused = bind::choose(&next, &[&sub], &[&v], &[]).unwrap_err();
    assert_eq!(refused.reason, "TooManyClaims");
    v.status.as_mut().unwrap().claims.pop();
    let offers = claim::Offers { subscriptions: vec![Arc::new(sub)], ..Default::default() };
    assert_eq!(offers.bind(&next, &v).unwrap().claims.len(), MOST_ENTRIES);
}

#[test]
fn a8_the_largest_offer_is_below_a_megabyte() {
    let node = long(9);
    let on = |status: &mut Option<String>| *status = Some(node.clone());
    let volumes: Vec<_> = (0..3000)
        .map(|i| {
            let mut v = ready_volume(&long(i), &role(), true);
            v.metadata.uid = Some(UID.into());
            v.metadata.labels = Some((0..99).map(|i| (long(i), "v".repeat(63))).collect());
            on(&mut v.status.as_mut().unwrap().node_name);
            v
        })
        .collect();
    let reservations: Vec<_> = (0..3000)
        .map(|i| {
            let mut r = reserved(&long(i), &role(), 1, &[]);
            on(&mut r.status.as_mut().unwrap().node_name);
            r.status.as_mut().unwrap().node_disk = Some(long(i));
            r
        })
        .collect();
    let sub = subscription("ns", &[&role()], true);
    let (volumes, reservations): (Vec<_>, Vec<_>) = (volumes.iter().collect(), reservations.iter().collect());
    let found = changes(&sub, &[], &volumes, &reservations, |_| true, Timestamp::UNIX_EPOCH);
    let offer = &found.apply[0];
    assert!(bytes(offer) < 1_000_000, "{}", bytes(offer));
    let spec = &offer.spec;
    assert_eq!((spec.volumes.len(), spec.unlisted_volumes), (1000, 2000));
    assert_eq!((spec.reservations.len(), spec.unlisted_reservations), (400, 2600));
    let said = &condition::get(&offer.status.as_ref().unwrap().conditions, READY).unwrap().message;
    assert!(said.contains("2000 volumes and 2600 reservations more"), "{said}");
    assert!(offer.status.as_ref().unwrap().volumes.ends_with("and 2997 more"));
}

#[test]
fn a8_the_largest_claim_is_below_a_megabyte() {
    let mut c = super::testing::claim(&"n".repeat(63), &long(0), &long(0));
    let labels: BTreeMap<_, _> = (0..64).map(|i| (format!("{}/{i:0>63}", long(0)), "v".repeat(63))).collect();
    (c.spec.role, c.spec.volume) = (role(), None);
    c.spec.selector = Some(ClaimSelector { match_labels: Some(labels), min_size: Some(gi(1)) });
    let status = c.status_mut().get_or_insert_default();
    status.users = pods()[..16].into();
    let said = Verdict::no("Test", super::names(&pods(), 2000));
    condition::set(&mut status.conditions, READY, said, Some(1), Timestamp::UNIX_EPOCH);
    assert!(bytes(&c) < 100_000, "{}", bytes(&c));
}
