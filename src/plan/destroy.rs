//! DESTROY: the next step towards a volume's end (X1–X4, S10, S11).
//!
//! The order is: rescind → fence → look → tombstone → erase → credit → let go. The fence is the agent's own answer to the
//! deletion; it is lifted for whoever is found to use the volume after all. Each step is taken only when the
//! one before is seen to be committed, so the whole can be interrupted anywhere and begun again.

use crate::api::condition::{self, BACKED};
use crate::api::{BackingState, PodRef, SharedPersistentVolume};

use super::names;

/// What was seen besides the volume itself.
#[derive(Debug, Default)]
pub struct Seen {
    /// An offer still lists the volume.
    pub offered: bool,
    /// Pods that use it, read by quorum after the volume was read; `None` if not looked yet.
    pub pods: Option<Vec<PodRef>>,
    /// The ledger of its reservation still has it.
    pub in_ledger: bool,
    /// Its disk was declared gone, which is for good: no agent will answer (D4).
    pub disk_gone: bool,
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait: something else must happen first; the sentence says what.
    Wait(String),
    /// Read the pods that may use it, by quorum, and decide again.
    Look,
    /// Something uses it: the agent is to allow mounts, so that its users are not disturbed.
    Unfence(String),
    /// Nothing uses it any more: the agent is to refuse new mounts again.
    Fence(String),
    /// Nothing uses it and nothing ever will: commit that.
    Tombstone(String),
    /// Give the bytes back to the reservation.
    Credit,
    /// Remove the finalizer.
    LetGo,
}

const FENCING: &str = "new mounts are being refused";
const ERASING: &str = "its bytes are being erased";
const LETTING_GO: &str = "the directory that it adopted is being let go";

/// The next step for a volume whose deletion was accepted.
pub fn next(volume: &SharedPersistentVolume, seen: &Seen) -> Step {
    let status = volume.status.clone().unwrap_or_default();
    let destroy = status.destroy.clone().unwrap_or_default();
    let node = status.node.clone().unwrap_or_default();
    let ending = if volume.spec.adopt.is_some() { LETTING_GO } else { ERASING };
    let trouble = condition::get(&status.conditions, BACKED).filter(|c| c.status != "True");
    let name = |what: &str| {
        let on = format!("{what} on node {}", status.node_name.as_deref().unwrap_or("?"));
        trouble.map_or(on.clone(), |c| format!("{on}, which says: {}", c.message))
    };

    if destroy.tombstone.is_some() || status.node_name.is_none() {
        // Without a node no agent was ever told of it, so there is nothing to erase.
        let nothing_to_erase =
            status.node_name.is_none() || seen.disk_gone || node.backing == BackingState::Erased;
        return match (nothing_to_erase, seen.in_ledger) {
            (false, _) => Step::Wait(name(ending)),
            (true, true) => Step::Credit,
            (true, false) => Step::LetGo,
        };
    }
    if seen.offered {
        return Step::Wait("it is being taken out of the offers".to_owned());
    }
    let hold = |why: String| if destroy.in_use { Step::Wait(why) } else { Step::Unfence(why) };
    if !status.claims.is_empty() {
        return hold(format!(
            "it waits for claim {} to be deleted",
            names(&status.claims, status.claims.len())
        ));
    }
    if status.user_count > 0 {
        return hold(format!("it waits for pod {} to end", names(&status.users, status.user_count as usize)));
    }
    let waits_for = |pods: &[PodRef]| format!("it waits for pod {} to end", names(pods, pods.len()));
    if seen.disk_gone {
        // Nothing is erased: what may still be mounted there loses nothing.
        return match &seen.pods {
            None => Step::Look,
            Some(pods) if pods.is_empty() => Step::Tombstone("its disk was declared gone".to_owned()),
            Some(pods) => hold(waits_for(pods)),
        };
    }
    if destroy.in_use {
        return match &seen.pods {
            None => Step::Look,
            Some(pods) if pods.is_empty() => Step::Fence(name(FENCING)),
            Some(pods) => Step::Wait(waits_for(pods)),
        };
    }
    if !node.fenced {
        return Step::Wait(name(FENCING));
    }
    if node.in_use {
        // Its pods are gone from the API, yet the kernel still has it mounted: no erasing under a lingering process.
        let by = match node.mounted_by.is_empty() {
            true => "a process".to_owned(),
            false => names(&node.mounted_by, node.mounted_by.len()),
        };
        return Step::Wait(name(&format!("it is still mounted by {by}")));
    }
    match &seen.pods {
        None => Step::Look,
        Some(pods) if pods.is_empty() => Step::Tombstone(name(ending)),
        Some(pods) => hold(waits_for(pods)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Destroy, NodePart};
    use crate::plan::testing::*;

    struct Case {
        in_use: bool,
        tombstone: bool,
        node: NodePart,
        claims: usize,
        users: u32,
        seen: Seen,
    }

    fn step(case: Case) -> Step {
        let mut v = ready_volume("v", "eng", true);
        let status = v.status.as_mut().unwrap();
        status.destroy =
            Some(Destroy { in_use: case.in_use, tombstone: case.tombstone.then(some_time).flatten() });
        status.node = Some(case.node);
        status.claims = (0..case.claims).map(|i| bound_by("ns", &format!("c{i}"), &i.to_string())).collect();
        status.user_count = case.users;
        next(&v, &case.seen)
    }

    fn quiet() -> Case {
        let node = NodePart { backing: BackingState::Made, ..Default::default() };
        let seen = Seen { in_ledger: true, ..Default::default() };
        Case { in_use: false, tombstone: false, node, claims: 0, users: 0, seen }
    }

    fn fenced(case: Case) -> Case {
        Case { node: NodePart { fenced: true, ..case.node }, ..case }
    }

    /// O6, X2, X4, S10.
    #[test]
    fn x_the_order_of_a_destruction() {
        assert_eq!(
            step(Case { seen: Seen { offered: true, ..quiet().seen }, ..quiet() }),
            Step::Wait("it is being taken out of the offers".into())
        );
        assert!(matches!(step(quiet()), Step::Wait(_)), "the agent has not answered yet");
        assert_eq!(step(fenced(quiet())), Step::Look);
        let looked = |pods| Case { seen: Seen { pods: Some(pods), ..quiet().seen }, ..fenced(quiet()) };
        assert!(matches!(step(looked(vec![])), Step::Tombstone(_)));
        assert!(matches!(step(looked(vec![pod("ns", "p")])), Step::Unfence(_)), "X2: the user won");
        let used = |pods| Case { in_use: true, seen: Seen { pods, ..quiet().seen }, ..quiet() };
        assert_eq!(step(used(None)), Step::Look);
        assert!(matches!(step(used(Some(vec![pod("ns", "p")]))), Step::Wait(_)));
        assert!(matches!(step(used(Some(vec![]))), Step::Fence(_)), "and has ended");
        let dead = || Case { tombstone: true, ..fenced(quiet()) };
        assert!(matches!(step(dead()), Step::Wait(_)));
        let erased = || NodePart { backing: BackingState::Erased, fenced: true, ..Default::default() };
        assert_eq!(
            step(Case { node: erased(), ..dead() }),
            Step::Credit,
            "X4: credited after the bytes are gone"
        );
        assert_eq!(step(Case { node: erased(), seen: Seen::default(), ..dead() }), Step::LetGo);
    }

    /// L4.
    #[test]
    fn x1_claims_and_pods_hold_it_and_lift_the_fence() {
        for case in [Case { claims: 2, ..quiet() }, Case { users: 1, ..quiet() }] {
            assert!(matches!(step(Case { in_use: true, ..case }), Step::Wait(_)));
        }
        assert_eq!(
            step(Case { claims: 2, ..fenced(quiet()) }),
            Step::Unfence("it waits for claim ns/c0 and ns/c1 to be deleted".into())
        );
    }

    #[test]
    fn x3_a_lingering_mount_holds_it_though_its_pod_is_gone() {
        let case = fenced(quiet());
        let node = NodePart { in_use: true, mounted_by: vec![pod("ns", "p")], ..case.node.clone() };
        assert_eq!(step(Case { node, ..case }), Step::Wait("it is still mounted by ns/p on node n1".into()));
    }

    #[test]
    fn s11_after_the_tombstone_nothing_brings_it_back() {
        let case = Case { tombstone: true, claims: 1, users: 3, ..fenced(quiet()) };
        assert!(matches!(step(case), Step::Wait(said) if said.contains("erased")));
    }

    #[test]
    fn d4_on_a_disk_that_was_declared_gone_no_agent_is_waited_for() {
        let on_gone = |case: Case, pods| {
            let seen = Seen { disk_gone: true, pods, in_ledger: case.seen.in_ledger, ..Default::default() };
            step(Case { seen, ..case })
        };
        assert!(matches!(on_gone(Case { claims: 1, ..quiet() }, None), Step::Unfence(_)), "X1 all the same");
        assert_eq!(on_gone(quiet(), None), Step::Look);
        assert!(matches!(on_gone(quiet(), Some(vec![pod("ns", "p")])), Step::Unfence(_)));
        assert!(matches!(on_gone(quiet(), Some(vec![])), Step::Tombstone(_)));
        let dead = || Case { tombstone: true, ..quiet() };
        assert_eq!(on_gone(dead(), None), Step::Credit, "without a receipt: nothing was erased");
        let credited = Case { seen: Seen::default(), ..dead() };
        assert_eq!(on_gone(credited, None), Step::LetGo);
    }

    #[test]
    fn v8_what_was_adopted_is_let_go_and_not_erased() {
        let mut v = ready_volume("v", "eng", true);
        v.spec.adopt = Some(crate::api::Adopt { path: "/srv/a".into() });
        v.status.as_mut().unwrap().destroy = Some(Destroy { in_use: false, tombstone: some_time() });
        let seen = Seen { in_ledger: true, ..Default::default() };
        assert!(matches!(next(&v, &seen), Step::Wait(said) if said.contains("is being let go on node n1")));
    }

    #[test]
    fn a_volume_that_no_agent_was_told_of_just_goes() {
        let v = volume("v", "eng", 1);
        assert_eq!(next(&v, &Seen { in_ledger: true, ..Default::default() }), Step::Credit);
        assert_eq!(next(&v, &Seen::default()), Step::LetGo);
    }
}
