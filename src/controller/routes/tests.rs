//! Tests of the routes that need no cache.

use super::*;
use crate::plan::testing::{disk, with_kept};

fn router() -> Router {
    Router::new(WorkQueues {
        disks: WorkQueue::new().0,
        reservations: WorkQueue::new().0,
        volumes: WorkQueue::new().0,
        claims: WorkQueue::new().0,
        subscriptions: WorkQueue::new().0,
        roles: WorkQueue::new().0,
        classes: WorkQueue::new().0,
        pvcs: WorkQueue::new().0,
        nodes: WorkQueue::new().0,
    })
}

fn swept(router: &Router) -> Vec<Name> {
    std::mem::take(&mut *router.swept.lock().unwrap()).into_iter().collect()
}

/// X8: of two data of one name the newest is erased, and the claims that wait name the other one.
#[test]
fn x8_claims_hear_of_each_data_of_a_name() {
    let (router, name) = (router(), "r".into());
    let (two, one) = (with_kept(&[("a", 0, 60), ("a", 5, 65)]), with_kept(&[("a", 0, 60)]));
    router.reservation(&one, &Change { name: &name, before: Some(&two), now: Some(&one) });
    assert_eq!(swept(&router), ["".into(), "a".into()] as [Name; 2]);
    router.reservation(&one, &Change { name: &name, before: Some(&one), now: Some(&one) });
    assert!(swept(&router).is_empty());
}

/// X6: claims with a selector do not wait for data without a readable record.
#[test]
fn x6_claims_hear_of_lost_data_with_a_name() {
    let (router, name) = (router(), "n1.a".into());
    let before = disk("n1.a", "n1", 10, &[]);
    let mut now = before.clone();
    let orphan = |name: &str| crate::api::Orphan { name: name.into(), ..Default::default() };
    now.status.as_mut().unwrap().orphans = vec![orphan(""), orphan("v")];
    router.disk(&now, &Change { name: &name, before: Some(&before), now: Some(&now) });
    assert_eq!(swept(&router), ["v".into()] as [Name; 1]);
}
