//! DESTROY: the next step towards a volume's end (X1–X4, S10, S11).
//!
//! The order is: rescind → fence → look → tombstone → erase → credit → let go. The fence is the agent's own answer to the
//! deletion; it is lifted for whoever is found to use the volume after all. Each step is taken only when the
//! one before is seen to be committed, so the whole can be interrupted anywhere and begun again.
//!
//! The API server deletes the objects of a deleted CustomResourceDefinition without asking admission. Such a deletion
//! erases nothing: the object goes without a tombstone, and its data becomes an orphan (X9).

use crate::api::condition::{self, BACKED};
use crate::api::{BackingState, PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus};
use kube::ResourceExt;

use super::names;

/// What was seen besides the volume itself.
#[derive(Debug, Default)]
pub struct Seen {
    /// An offer still lists the volume.
    pub offered: bool,
    /// Live reads, made after the volume was read; `None` before [`Step::Look`].
    pub live: Option<Live>,
    /// The ledger of its reservation still has it.
    pub in_ledger: bool,
    /// Its disk was declared gone, which is for good: no agent will answer (D4).
    pub disk_gone: bool,
}

/// Answers of the API server itself, not of a cache.
#[derive(Debug, Default)]
pub struct Live {
    /// Pods that use the volume.
    pub pods: Vec<PodRef>,
    /// The CustomResourceDefinition of volumes is being deleted, or is not there.
    pub kind_deleted: bool,
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait: something else must happen first; the sentence says what.
    Wait(String),
    /// Read [`Live`] and decide again.
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
    /// Remove the finalizer, and nothing else: the deletion was not admitted, so the data stays as an orphan (X9). The
    /// sentence says so.
    Orphan(String),
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
    let users = |live: &Live| (!live.pods.is_empty()).then(|| waits_for_pods(&live.pods));
    // Decided only on what was read after the deletion: the kind's own deletion comes before that of its objects.
    let orphaned = |live: &Live| live.kind_deleted.then(|| Step::Orphan(orphan(volume, &status)));
    if seen.disk_gone {
        // Nothing is erased: what may still be mounted there loses nothing.
        let Some(live) = &seen.live else { return Step::Look };
        let tombstone = || Step::Tombstone("its disk was declared gone".to_owned());
        return users(live).map(hold).or_else(|| orphaned(live)).unwrap_or_else(tombstone);
    }
    if destroy.in_use {
        let Some(live) = &seen.live else { return Step::Look };
        return users(live).map_or_else(|| Step::Fence(name(FENCING)), Step::Wait);
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
    let Some(live) = &seen.live else { return Step::Look };
    users(live).map(hold).or_else(|| orphaned(live)).unwrap_or_else(|| Step::Tombstone(name(ending)))
}

fn waits_for_pods(pods: &[PodRef]) -> String {
    format!("it waits for pod {} to end", names(pods, pods.len()))
}

/// The receipt of a volume whose data stays without an object.
fn orphan(volume: &SharedPersistentVolume, status: &SharedPersistentVolumeStatus) -> String {
    format!(
        "the kind SharedPersistentVolume was deleted, and nothing is erased because of that: the data of volume {} stays on \
         NodeDisk {}; install the kind again and run `reservoir recover`",
        volume.name_any(),
        status.node_disk.as_deref().unwrap_or("?")
    )
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

    fn live(pods: Vec<PodRef>) -> Option<Live> {
        Some(Live { pods, kind_deleted: false })
    }

    #[test]
    fn x9_a_volume_whose_kind_is_deleted_becomes_an_orphan() {
        let looked = |case: Case, pods| {
            let live = Some(Live { pods, kind_deleted: true });
            step(Case { seen: Seen { live, ..case.seen }, ..case })
        };
        let Step::Orphan(receipt) = looked(fenced(quiet()), vec![]) else { panic!() };
        assert!(receipt.contains("volume v stays on NodeDisk n1.a"), "{receipt}");
        let gone = Case { seen: Seen { disk_gone: true, ..quiet().seen }, ..quiet() };
        assert!(matches!(looked(gone, vec![]), Step::Orphan(_)));
        assert!(matches!(looked(fenced(quiet()), vec![pod("ns", "p")]), Step::Unfence(_)), "X1 all the same");
        let dead = Case { tombstone: true, ..fenced(quiet()) };
        assert!(matches!(looked(dead, vec![]), Step::Wait(_)), "S11: its DELETE was admitted");
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
        let looked = |pods| Case { seen: Seen { live: live(pods), ..quiet().seen }, ..fenced(quiet()) };
        assert!(matches!(step(looked(vec![])), Step::Tombstone(_)));
        assert!(matches!(step(looked(vec![pod("ns", "p")])), Step::Unfence(_)), "X2: the user won");
        let used = |live| Case { in_use: true, seen: Seen { live, ..quiet().seen }, ..quiet() };
        assert_eq!(step(used(None)), Step::Look);
        assert!(matches!(step(used(live(vec![pod("ns", "p")]))), Step::Wait(_)));
        assert!(matches!(step(used(live(vec![]))), Step::Fence(_)), "and has ended");
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
        let on_gone = |case: Case, live| {
            let seen = Seen { disk_gone: true, live, in_ledger: case.seen.in_ledger, ..Default::default() };
            step(Case { seen, ..case })
        };
        assert!(matches!(on_gone(Case { claims: 1, ..quiet() }, None), Step::Unfence(_)), "X1 all the same");
        assert_eq!(on_gone(quiet(), None), Step::Look);
        assert!(matches!(on_gone(quiet(), live(vec![pod("ns", "p")])), Step::Unfence(_)));
        assert!(matches!(on_gone(quiet(), live(vec![])), Step::Tombstone(_)));
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
