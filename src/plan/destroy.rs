//! DESTROY: the next step of a volume whose deletion was accepted (X1–X4, S10, S11).
//!
//! The order is: rescind offers → fence → look for users → tombstone → erase → release the bytes → remove the
//! finalizer. Rescinding gets two seconds, since a claim cannot bind to a deleted volume anyway. The agent fences the
//! volume as soon as the deletion is visible. A user that is found later lifts the fence. Each step begins only after
//! the commit of the step before, so an interruption at any point does no harm.
//!
//! For a deleted CustomResourceDefinition, the API server deletes the objects without asking admission. Such a deletion
//! erases nothing: the object goes without a tombstone, and the data becomes an orphan (X9).
//!
//! A volume with `keepFor` is not erased either. The tombstone has the end of that time, the agent notes it in the
//! volume record, and the ledger entry stays with a mark ([`super::kept`]).

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::condition::{self, BACKED, READY, Verdict, reason};
use crate::api::{
    BackingState, ClaimBinding, DiskReservation, DiskReservationStatus, ErasePolicy, Kept, PodRef,
    SharedPersistentVolume, SharedPersistentVolumeStatus, Size, VolumePhase,
};

use super::volume::count_users;
use super::{debounce, foreign_finalizer, held_by, kept, names};

/// The state around a volume's object.
#[derive(Debug)]
pub struct Seen {
    /// Our finalizer is on the object.
    pub guarded: bool,
    /// An offer still lists the volume.
    pub offered: bool,
    /// The volume's disk was declared gone for good, so no agent will answer (D4).
    pub disk_gone: bool,
    /// The node to which the volume's disk moved, read live (D3).
    pub moved_to: Option<String>,
    /// Claims in the volume's list that are gone, or bound to another volume.
    pub lost_claims: Vec<ClaimBinding>,
    /// Running and pending pods of the claims in the volume's list.
    pub users: Vec<PodRef>,
    /// Live reads, made after the volume was read; `None` before [`Step::LookForUsers`].
    pub live: Option<Live>,
    /// Pods that run on the volume's node, read live if the node reports processes of pods.
    pub holder_pods: Vec<PodRef>,
    /// The reservations whose ledgers list the volume, read live; `None` before [`Step::LookForEntries`]. `Some(None)`:
    /// the volume's object or its finalizer is gone.
    pub entries: Option<Option<Vec<Arc<DiskReservation>>>>,
    /// The time.
    pub now: Timestamp,
}

/// Live reads of the API server, not of a cache.
#[derive(Debug, Default)]
pub struct Live {
    /// Pods that use the volume.
    pub pods: Vec<PodRef>,
    /// The CustomResourceDefinition of volumes is being deleted, or is missing.
    pub kind_deleted: bool,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Read [`Live`] and decide again.
    LookForUsers,
    /// Read the volume and the reservations live, and decide again.
    LookForEntries,
    /// Delete the PersistentVolumes of the lost claims, then write the status. `refused`: users were found, so the
    /// fence is lifted.
    Report {
        /// The new status.
        status: Box<SharedPersistentVolumeStatus>,
        /// True if the metric counts a refused destruction.
        refused: bool,
    },
    /// Wait: the offers are rescinded within moments (O6).
    Debounce,
    /// Remove the labels, which no selector needs any more. An object near etcd's size limit accepts no further write.
    DropLabels,
    /// Publish the receipt, then remove the finalizer, and nothing else: the data stays as an orphan (X9).
    Orphan(String),
    /// Publish the receipt, release the entries in these reservations or mark them as kept, then remove the finalizer.
    End {
        /// The reservations. An empty list means that an earlier attempt has published the receipt.
        reservations: Vec<Arc<DiskReservation>>,
        /// The outcome label of the metric.
        outcome: &'static str,
        /// The receipt.
        receipt: String,
        /// The mark of a volume whose data is kept (X8), for its entry in the reservation of that UID.
        kept: Option<(String, Box<Kept>)>,
    },
    /// Nothing.
    Rest,
}

/// A stage of the destruction, with the message for the condition.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Wait for the event in the message.
    Wait(String),
    /// The volume has users: the agent allows mounts again, so that the users are not disturbed.
    Unfence(String),
    /// The volume has no users any more: the agent refuses new mounts again.
    Fence(String),
    /// The volume has no user and can get none: commit the tombstone.
    Tombstone(String),
}

const FENCING: &str = "new mounts are being refused";
const ERASING: &str = "its bytes are being erased";
const KEEPING: &str = "the end of the time for which its data is kept is being noted";
const LETTING_GO: &str = "its adopted directory is being released";

/// The most bytes of labels on a volume that is being destroyed.
const MOST_LABELS: usize = 64 << 10;

fn label_bytes(volume: &SharedPersistentVolume) -> usize {
    volume.labels().iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// The next step for a volume whose deletion was accepted.
pub fn next(volume: &SharedPersistentVolume, seen: &Seen) -> Step {
    if !seen.guarded {
        return Step::Rest;
    }
    if label_bytes(volume) > MOST_LABELS {
        return Step::DropLabels;
    }
    // A claim binds by a write of the volume, and a deleted volume refuses. So an offer that stays, by a failed write
    // or by another writer, delays nothing (O6).
    if seen.offered && debounce::is_passing(volume.metadata.deletion_timestamp.as_ref(), seen.now) {
        return Step::Debounce;
    }
    let mut status = volume.status.clone().unwrap_or_default();
    status.claims.retain(|claim| !seen.lost_claims.contains(claim));
    status.node_name = seen.moved_to.clone().or(status.node_name);
    let mut status = count_users(status, seen.users.clone());
    let counted = SharedPersistentVolume { status: Some(status.clone()), ..volume.clone() };
    let mut destroy = status.destroy.clone().unwrap_or_default();
    let was_in_use = destroy.in_use;
    let stage = match stage(&counted, seen) {
        Ok(stage) => stage,
        Err(step) => match left_to_others(volume).filter(|_| matches!(step, Step::End { .. })) {
            Some(why) => Stage::Wait(why),
            None => return step,
        },
    };
    let why = match stage {
        Stage::Wait(why) => why,
        Stage::Fence(why) => {
            destroy.in_use = false;
            why
        }
        Stage::Unfence(why) => {
            destroy.in_use = true;
            why
        }
        Stage::Tombstone(why) => {
            // The write is a compare-and-swap on the object that had no users. A user that comes in between makes the
            // write fail.
            destroy.tombstone = Some(condition::stored(seen.now));
            let is_made = status.node.as_ref().is_some_and(|node| node.backing == BackingState::Made);
            destroy.kept_until = kept::until(volume, seen.now).filter(|_| is_made && !seen.disk_gone);
            status.phase = VolumePhase::Destroyed;
            why
        }
    };
    let refused = destroy.in_use && !was_in_use;
    if status.phase != VolumePhase::Destroyed {
        status.phase = VolumePhase::Destroying;
    }
    status.destroy = Some(destroy);
    let verdict = Verdict::no(reason::DESTROYING, destroying(volume, &why));
    condition::set(&mut status.conditions, READY, verdict, volume.metadata.generation, seen.now);
    Step::Report { status: Box::new(status), refused }
}

fn destroying(volume: &SharedPersistentVolume, why: &str) -> String {
    format!("volume {} is being destroyed: {why}", volume.name_any())
}

/// Why the object stays after its end, unless that was reported (F3). Nothing is reported once our finalizer is gone.
fn left_to_others(volume: &SharedPersistentVolume) -> Option<String> {
    let foreign = foreign_finalizer(volume)?;
    let why = format!("its bytes are done with, and its object goes when finalizer {foreign} is removed");
    let conditions = volume.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let reported = condition::get(conditions, READY).is_some_and(|c| c.message == destroying(volume, &why));
    (!reported).then_some(why)
}

/// The last step, with the receipt (X4).
fn end(volume: &SharedPersistentVolume, seen: &Seen) -> Step {
    let Some(entries) = &seen.entries else { return Step::LookForEntries };
    let Some(mut reservations) = entries.clone() else { return Step::Rest };
    let status = volume.status.clone().unwrap_or_default();
    let node = status.node.unwrap_or_default();
    let mark = kept::mark(volume).filter(|_| node.backing == BackingState::Kept && !seen.disk_gone);
    let kept = mark.and_then(|mark| Some((status.reservation.as_ref()?.uid.clone(), Box::new(mark))));
    if kept.is_some() {
        // An earlier attempt has published the receipt of a marked entry.
        let is_marked = |r: &DiskReservation| r.status.as_ref().is_some_and(|s| is_marked(s, volume));
        reservations.retain(|r| !is_marked(r));
    }
    let erased = node.erased;
    let bytes = erased.clone().unwrap_or(Size::from_bytes(0));
    let (outcome, event) = match (&volume.spec.adopt, volume.spec.erase_policy) {
        (None, _) if let Some((_, kept)) = &kept => (
            "Kept",
            format!(
                "its data is kept until {}, or until its reservation needs the bytes; kubectl reservoir undelete {} \
                 brings it back",
                kept.until.0,
                volume.name_any()
            ),
        ),
        (Some(adopt), _) => ("LetGo", format!("it was adopted from {}; its data stays there", adopt.path)),
        (None, _) if erased.is_none() && seen.disk_gone => {
            ("DiskGone", "its bytes were not erased, because its disk was declared gone".to_owned())
        }
        (None, _) if erased.is_none() && node.backing == BackingState::Erased => {
            ("Lost", "nothing was erased, because its data was missing on its disk".to_owned())
        }
        (None, ErasePolicy::Discard) => ("Erased", format!("{bytes} given back to the disk")),
        (None, ErasePolicy::Zero) => {
            ("Erased", format!("{bytes} overwritten with zeroes and given back to the disk"))
        }
    };
    let uid = volume.uid().unwrap_or_default();
    let receipt = format!("volume {} ({uid}) is destroyed: {event}", volume.name_any());
    Step::End { reservations, outcome, receipt, kept }
}

/// True if the volume's entry in the reservation has the mark of kept data.
fn is_marked(reservation: &DiskReservationStatus, volume: &SharedPersistentVolume) -> bool {
    kept::entries(reservation).iter().any(|(entry, _)| Some(&entry.uid) == volume.metadata.uid.as_ref())
}

/// The stage of the destruction, or a step that writes no status. `volume` has its present users.
fn stage(volume: &SharedPersistentVolume, seen: &Seen) -> Result<Stage, Step> {
    let status = volume.status.clone().unwrap_or_default();
    let destroy = status.destroy.clone().unwrap_or_default();
    let node = status.node.clone().unwrap_or_default();
    let keeps = destroy.kept_until.is_some()
        || kept::until(volume, seen.now).is_some() && node.backing == BackingState::Made && !seen.disk_gone;
    let ending = match (&volume.spec.adopt, keeps) {
        (Some(_), _) => LETTING_GO,
        (None, true) => KEEPING,
        (None, false) => ERASING,
    };
    let trouble = condition::get(&status.conditions, BACKED).filter(|c| c.status != "True");
    let name = |what: &str| {
        let on = format!("{what} on node {}", status.node_name.as_deref().unwrap_or("?"));
        trouble.map_or(on.clone(), |c| format!("{on}, which says: {}", c.message))
    };

    if destroy.tombstone.is_some() || status.node_name.is_none() {
        // A volume without a node was never made by an agent, so the disk has nothing to erase.
        let nothing_to_erase = status.node_name.is_none()
            || seen.disk_gone
            || matches!(node.backing, BackingState::Erased | BackingState::Kept);
        return if nothing_to_erase { Err(end(volume, seen)) } else { Ok(Stage::Wait(name(ending))) };
    }
    let hold = |why: String| Ok(if destroy.in_use { Stage::Wait(why) } else { Stage::Unfence(why) });
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
    // The CustomResourceDefinition is read after the volume, since its deletion precedes the deletion of its objects.
    let orphaned = |live: &Live| live.kind_deleted.then(|| Err(Step::Orphan(orphan(volume, &status))));
    if seen.disk_gone {
        // Nothing is erased here, so a process that still has the volume mounted loses nothing.
        let Some(live) = &seen.live else { return Err(Step::LookForUsers) };
        let tombstone = || Ok(Stage::Tombstone("its disk was declared gone".to_owned()));
        return users(live).map(hold).or_else(|| orphaned(live)).unwrap_or_else(tombstone);
    }
    if destroy.in_use {
        let Some(live) = &seen.live else { return Err(Step::LookForUsers) };
        return Ok(users(live).map_or_else(|| Stage::Fence(name(FENCING)), Stage::Wait));
    }
    if !node.fenced {
        return Ok(Stage::Wait(name(FENCING)));
    }
    if node.in_use {
        // The pods are gone from the API, and the kernel still has a mount: a lingering process keeps its data.
        return Ok(Stage::Wait(match &*node.mounted_by {
            [] => name(&format!("it is still in use by {}", held_by::by(&node.held_by, &seen.holder_pods))),
            pods => name(&format!("it is still mounted by {}", names(pods, pods.len()))),
        }));
    }
    let Some(live) = &seen.live else { return Err(Step::LookForUsers) };
    users(live).map(hold).or_else(|| orphaned(live)).unwrap_or_else(|| Ok(Stage::Tombstone(name(ending))))
}

fn waits_for_pods(pods: &[PodRef]) -> String {
    format!("it waits for pod {} to end", names(pods, pods.len()))
}

/// The receipt of a volume whose data becomes an orphan.
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
    use crate::api::{Destroy, NodePart, Process};
    use crate::plan::testing::*;

    struct Case {
        in_use: bool,
        tombstone: bool,
        node: NodePart,
        claims: usize,
        users: u32,
        seen: Seen,
    }

    fn nothing() -> Seen {
        Seen {
            guarded: true,
            offered: false,
            disk_gone: false,
            moved_to: None,
            lost_claims: vec![],
            users: vec![],
            live: None,
            holder_pods: vec![],
            entries: None,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn step(case: Case) -> Result<Stage, Step> {
        let mut v = ready_volume("v", "eng", true);
        let status = v.status.as_mut().unwrap();
        status.destroy = Some(Destroy {
            in_use: case.in_use,
            tombstone: case.tombstone.then(some_time).flatten(),
            ..Default::default()
        });
        status.node = Some(case.node);
        status.claims = (0..case.claims).map(|i| bound_by("ns", &format!("c{i}"), &i.to_string())).collect();
        status.user_count = case.users;
        stage(&v, &case.seen)
    }

    fn quiet() -> Case {
        let node = NodePart { backing: BackingState::Made, ..Default::default() };
        Case { in_use: false, tombstone: false, node, claims: 0, users: 0, seen: nothing() }
    }

    fn fenced(case: Case) -> Case {
        Case { node: NodePart { fenced: true, ..case.node }, ..case }
    }

    fn live(pods: Vec<PodRef>) -> Option<Live> {
        Some(Live { pods, kind_deleted: false })
    }

    /// A reservation whose ledger lists the volume.
    fn held() -> Vec<Arc<DiskReservation>> {
        vec![Arc::new(reserved("r", "eng", 1, &[("v", 1)]))]
    }

    /// The reservations that get their bytes back in the last step.
    fn credited(step: Result<Stage, Step>) -> Vec<String> {
        match step {
            Err(Step::End { reservations, .. }) => reservations.iter().map(|r| r.name_any()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn x9_a_volume_whose_kind_is_deleted_becomes_an_orphan() {
        let looked = |case: Case, pods| {
            let live = Some(Live { pods, kind_deleted: true });
            step(Case { seen: Seen { live, ..case.seen }, ..case })
        };
        let Err(Step::Orphan(receipt)) = looked(fenced(quiet()), vec![]) else { panic!() };
        assert!(receipt.contains("volume v stays on NodeDisk n1.a"), "{receipt}");
        let gone = Case { seen: Seen { disk_gone: true, ..quiet().seen }, ..quiet() };
        assert!(matches!(looked(gone, vec![]), Err(Step::Orphan(_))));
        assert!(
            matches!(looked(fenced(quiet()), vec![pod("ns", "p")]), Ok(Stage::Unfence(_))),
            "X1 all the same"
        );
        let dead = Case { tombstone: true, ..fenced(quiet()) };
        assert!(matches!(looked(dead, vec![]), Ok(Stage::Wait(_))), "S11: its DELETE was admitted");
    }

    /// O6, X2, X4, S10.
    #[test]
    fn x4_a_destruction_has_one_order() {
        assert!(matches!(step(quiet()), Ok(Stage::Wait(_))), "the agent has not answered yet");
        assert_eq!(step(fenced(quiet())), Err(Step::LookForUsers));
        let looked = |pods| Case { seen: Seen { live: live(pods), ..quiet().seen }, ..fenced(quiet()) };
        assert!(matches!(step(looked(vec![])), Ok(Stage::Tombstone(_))));
        assert!(matches!(step(looked(vec![pod("ns", "p")])), Ok(Stage::Unfence(_))), "X2: the user won");
        let used = |live| Case { in_use: true, seen: Seen { live, ..quiet().seen }, ..quiet() };
        assert_eq!(step(used(None)), Err(Step::LookForUsers));
        assert!(matches!(step(used(live(vec![pod("ns", "p")]))), Ok(Stage::Wait(_))));
        assert!(matches!(step(used(live(vec![]))), Ok(Stage::Fence(_))), "and has ended");
        let dead = || Case { tombstone: true, ..fenced(quiet()) };
        assert!(matches!(step(dead()), Ok(Stage::Wait(_))));
        let erased = || NodePart { backing: BackingState::Erased, fenced: true, ..Default::default() };
        assert_eq!(step(Case { node: erased(), ..dead() }), Err(Step::LookForEntries));
        let found = |entries| Case { node: erased(), seen: Seen { entries, ..nothing() }, ..dead() };
        assert_eq!(credited(step(found(Some(Some(held()))))), ["r"], "X4: after the bytes are gone");
        assert_eq!(credited(step(found(Some(Some(vec![]))))), [""; 0]);
    }

    /// L4.
    #[test]
    fn x1_claims_and_pods_lift_the_fence() {
        for case in [Case { claims: 2, ..quiet() }, Case { users: 1, ..quiet() }] {
            assert!(matches!(step(Case { in_use: true, ..case }), Ok(Stage::Wait(_))));
        }
        assert_eq!(
            step(Case { claims: 2, ..fenced(quiet()) }),
            Ok(Stage::Unfence("it waits for claim ns/c0 and ns/c1 to be deleted".into()))
        );
    }

    #[test]
    fn x3_a_lingering_mount_delays_the_tombstone() {
        let case = fenced(quiet());
        let node = NodePart { in_use: true, mounted_by: vec![pod("ns", "p")], ..case.node.clone() };
        assert_eq!(
            step(Case { node, ..case }),
            Ok(Stage::Wait("it is still mounted by ns/p on node n1".into()))
        );
        let case = fenced(quiet());
        let sleep = Process { pid: 7, command: "sleep".into(), pod_uid: Some("uid-q".into()), mount: None };
        let node = NodePart { in_use: true, held_by: vec![sleep], ..case.node.clone() };
        let seen = Seen { holder_pods: vec![pod("other", "q")], ..nothing() };
        assert_eq!(
            step(Case { node, seen, ..case }),
            Ok(Stage::Wait("it is still in use by process 7 (sleep) of pod other/q on node n1".into())),
            "F3"
        );
    }

    #[test]
    fn s11_nothing_follows_the_tombstone_but_the_end() {
        let case = Case { tombstone: true, claims: 1, users: 3, ..fenced(quiet()) };
        assert!(matches!(step(case), Ok(Stage::Wait(said)) if said.contains("erased")));
    }

    #[test]
    fn d4_a_disk_that_was_declared_gone_needs_no_agent() {
        let on_gone = |case: Case, live| {
            let seen = Seen { disk_gone: true, live, entries: case.seen.entries, ..nothing() };
            step(Case { seen, ..case })
        };
        assert!(
            matches!(on_gone(Case { claims: 1, ..quiet() }, None), Ok(Stage::Unfence(_))),
            "X1 all the same"
        );
        assert_eq!(on_gone(quiet(), None), Err(Step::LookForUsers));
        assert!(matches!(on_gone(quiet(), live(vec![pod("ns", "p")])), Ok(Stage::Unfence(_))));
        assert!(matches!(on_gone(quiet(), live(vec![])), Ok(Stage::Tombstone(_))));
        let dead = || Case { tombstone: true, ..quiet() };
        let seen = Seen { entries: Some(Some(held())), ..nothing() };
        let dead = on_gone(Case { seen, ..dead() }, None);
        assert_eq!(credited(dead), ["r"], "without a receipt of the agent: nothing was erased");
    }

    #[test]
    fn f3_a_finalizer_of_others_is_named_before_the_end() {
        let mut v = volume("v", "eng", 1);
        v.metadata.finalizers = Some(vec![crate::api::FINALIZER.into(), "example.com/keep".into()]);
        let seen = || Seen { entries: Some(Some(held())), ..nothing() };
        let (status, _) = report(next(&v, &seen()));
        let ready = condition::get(&status.conditions, READY).unwrap();
        assert!(ready.message.ends_with("when finalizer example.com/keep is removed"), "{}", ready.message);
        v.status = Some(status);
        assert!(matches!(next(&v, &seen()), Step::End { .. }), "once");
    }

    #[test]
    fn v8_an_adopted_directory_is_let_go_and_not_erased() {
        let mut v = ready_volume("v", "eng", true);
        v.spec.adopt = Some(crate::api::Adopt { path: "/srv/a".into() });
        v.status.as_mut().unwrap().destroy = Some(Destroy { tombstone: some_time(), ..Default::default() });
        assert!(
            matches!(stage(&v, &nothing()), Ok(Stage::Wait(said)) if said.contains("is being released on node n1"))
        );
    }

    #[test]
    fn x8_a_kept_volume_ends_with_a_mark_and_keeps_its_bytes() {
        let mut v = ready_volume("v", "eng", true);
        v.spec.keep_for = Some("60s".into());
        v.status.as_mut().unwrap().node.as_mut().unwrap().fenced = true;
        v.status.as_mut().unwrap().reservation =
            Some(crate::api::UidRef { name: "r".into(), uid: "uid-r".into() });
        let (status, _) = report(next(&v, &Seen { live: live(vec![]), ..nothing() }));
        assert_eq!(status.destroy.as_ref().unwrap().kept_until, later());
        v.status = Some(status);
        assert!(matches!(next(&v, &nothing()), Step::Report { .. }), "the node has not noted it");
        v.status.as_mut().unwrap().node.as_mut().unwrap().backing = BackingState::Kept;
        assert_eq!(next(&v, &nothing()), Step::LookForEntries);
        let end = |entries: Vec<Arc<DiskReservation>>, backing| {
            let mut v = v.clone();
            v.status.as_mut().unwrap().node.as_mut().unwrap().backing = backing;
            match next(&v, &Seen { entries: Some(Some(entries)), ..nothing() }) {
                Step::End { reservations, outcome, receipt, kept } => {
                    (reservations.len(), outcome, receipt, kept)
                }
                other => panic!("{other:?}"),
            }
        };
        let (entries, outcome, receipt, kept) = end(held(), BackingState::Kept);
        assert!((entries, outcome) == (1, "Kept") && receipt.contains("undelete v"), "{receipt}");
        assert_eq!(kept.map(|(uid, mark)| (uid, Some(mark.until))), Some(("uid-r".into(), later())));
        let mut marked = (*held()[0]).clone();
        let mark = kept::mark(&v).unwrap();
        marked.status.as_mut().unwrap().volumes = kept::marked(&marked, "uid-v", &mark);
        assert_eq!(end(vec![Arc::new(marked)], BackingState::Kept).0, 0, "one receipt");
        // An agent of an earlier version erases.
        let (_, outcome, _, kept) = end(held(), BackingState::Erased);
        assert_eq!((outcome, kept), ("Lost", None));
    }

    #[test]
    fn x8_nothing_is_kept_of_what_was_never_made_or_is_gone() {
        let mut v = ready_volume("v", "eng", true);
        v.spec.keep_for = Some("60s".into());
        v.status.as_mut().unwrap().node.as_mut().unwrap().fenced = true;
        let kept_until = |v: &SharedPersistentVolume, disk_gone| {
            let (status, _) = report(next(v, &Seen { live: live(vec![]), disk_gone, ..nothing() }));
            status.destroy.unwrap().kept_until
        };
        assert_eq!(kept_until(&v, true), None, "D4");
        v.status.as_mut().unwrap().node.as_mut().unwrap().backing = BackingState::Absent;
        assert_eq!(kept_until(&v, false), None);
    }

    #[test]
    fn x10_a_volume_without_a_node_just_goes() {
        let v = volume("v", "eng", 1);
        assert_eq!(stage(&v, &nothing()), Err(Step::LookForEntries));
        assert_eq!(credited(stage(&v, &Seen { entries: Some(Some(held())), ..nothing() })), ["r"]);
    }

    fn report(step: Step) -> (SharedPersistentVolumeStatus, bool) {
        match step {
            Step::Report { status, refused } => (*status, refused),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn x1_users_are_counted_before_the_stage_is_decided() {
        let mut v = ready_volume("v", "eng", true);
        let claims = vec![bound_by("a", "x", "1"), bound_by("b", "y", "2")];
        let node = NodePart { backing: BackingState::Made, fenced: true, ..Default::default() };
        let status = v.status.as_mut().unwrap();
        (status.claims, status.node) = (claims.clone(), Some(node));
        let seen = Seen { lost_claims: claims[..1].to_vec(), ..nothing() };
        let (status, refused) = report(next(&v, &seen));
        assert!(refused && status.destroy.as_ref().unwrap().in_use);
        assert_eq!(status.claims, claims[1..], "L4: a claim that is gone holds nothing up");
        let ready = condition::get(&status.conditions, READY).unwrap();
        assert!(ready.message.contains("waits for claim b/y to be deleted"), "{}", ready.message);
        v.status = Some(status);
        assert!(!report(next(&v, &seen)).1, "counted once");
        assert_eq!(next(&v, &Seen { lost_claims: claims, ..nothing() }), Step::LookForUsers);
        assert_eq!(next(&v, &Seen { guarded: false, ..nothing() }), Step::Rest);
    }

    #[test]
    fn s10_the_tombstone_is_in_the_status_that_is_reported() {
        let mut v = ready_volume("v", "eng", true);
        v.status.as_mut().unwrap().node.as_mut().unwrap().fenced = true;
        let (status, refused) = report(next(&v, &Seen { live: live(vec![]), ..nothing() }));
        assert!(!refused && status.destroy.unwrap().tombstone.is_some());
        assert_eq!(status.phase, VolumePhase::Destroyed);
    }

    #[test]
    fn o6_an_offer_that_stays_holds_up_no_destruction() {
        let mut v = ready_volume("v", "eng", true);
        v.metadata.deletion_timestamp = some_time();
        v.status.as_mut().unwrap().node.as_mut().unwrap().fenced = true;
        let offered =
            |second| Seen { offered: true, now: Timestamp::from_second(second).unwrap(), ..nothing() };
        assert_eq!(next(&v, &offered(0)), Step::Debounce, "T1: most offers follow in a moment");
        assert_eq!(next(&v, &offered(9)), Step::LookForUsers);
    }

    /// A8. Labels of old objects may be larger than the present bound.
    #[test]
    fn l5_a_volume_with_a_megabyte_of_labels_can_go() {
        let mut v = ready_volume("v", "eng", true);
        let label = |i| (format!("key-{i}"), "v".repeat(63));
        v.metadata.labels = Some((0..9000).map(label).collect());
        assert_eq!(next(&v, &nothing()), Step::DropLabels);
        v.metadata.labels = Some((0..9).map(label).collect());
        assert!(matches!(next(&v, &nothing()), Step::Report { .. }));
    }

    #[test]
    fn x4_the_receipt_says_what_became_of_the_bytes() {
        let end = |policy, erased, disk_gone, adopt: Option<&str>| {
            let mut v = ready_volume("v", "eng", true);
            v.spec.erase_policy = policy;
            v.spec.adopt = adopt.map(|path| crate::api::Adopt { path: path.into() });
            let status = v.status.as_mut().unwrap();
            status.destroy = Some(Destroy { tombstone: some_time(), ..Default::default() });
            status.node = Some(NodePart { backing: BackingState::Erased, erased, ..Default::default() });
            let entries = Some(Some(held()));
            match next(&v, &Seen { disk_gone, entries, ..nothing() }) {
                Step::End { outcome, receipt, .. } => (outcome, receipt),
                other => panic!("{other:?}"),
            }
        };
        for (policy, erased, disk_gone, adopt, outcome, said) in [
            (ErasePolicy::Discard, Some(gi(1)), false, None, "Erased", "1Gi given back to the disk"),
            (ErasePolicy::Zero, Some(gi(1)), true, None, "Erased", "1Gi overwritten with zeroes and"),
            (ErasePolicy::Discard, None, true, None, "DiskGone", "its bytes were not erased"),
            (ErasePolicy::Zero, None, false, None, "Lost", "nothing was erased"),
            (
                ErasePolicy::Discard,
                None,
                false,
                Some("/srv/a"),
                "LetGo",
                "adopted from /srv/a; its data stays",
            ),
        ] {
            let (found, receipt) = end(policy, erased, disk_gone, adopt);
            let said = format!("volume v (uid-v) is destroyed: {said}");
            assert!(found == outcome && (receipt.starts_with(&said) || adopt.is_some()), "{receipt}");
            assert!(adopt.is_none_or(|path| receipt.contains(path)), "{receipt}");
        }
        let mut v = volume("v", "eng", 1);
        assert_eq!(next(&v, &nothing()), Step::LookForEntries);
        v.status = None;
        assert_eq!(next(&v, &Seen { entries: Some(None), ..nothing() }), Step::Rest, "it has gone meanwhile");
    }
}
