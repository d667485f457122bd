//! Condition types, their reasons, and how a condition changes (T1).
//!
//! Every kind has the condition [`READY`]: `kubectl wait --for=condition=Ready` works on each. A message is one
//! sentence and says the next step where there is one.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The object is what its spec asks for and can be used.
pub const READY: &str = "Ready";
/// The agent's word on a disk: it can be reached, is ours, and has the room that it promised.
pub const DISK_HEALTHY: &str = "DiskHealthy";
/// The agent's word on a volume: its bytes are there, formatted and can be mounted.
pub const BACKED: &str = "Backed";
/// A reservation or a volume has the size that its spec asks for; it is there once that was changed (R6, V7). While it is
/// `False` the object stays [`READY`] with what it has.
pub const RESIZED: &str = "Resized";
/// A volume is to be destroyed when nobody uses it; there once that was asked for (X5).
pub const RETIRING: &str = "Retiring";

/// Constants, and a list of them with what their comments say.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ pub const $name:ident: &str = $value:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $value;)+
        /// Every reason with the lines of its comment, in this order: docs/api.md is made of them.
        pub const ALL: &[(&str, &[&str])] = &[$(($value, &[$($doc),+])),+];
    };
}

/// Reasons, each used by exactly one situation.
pub mod reason {
    reasons! {
        /// All is as the spec asks.
        /// Next: nothing to do.
        pub const READY: &str = "Ready";
        /// The spec holds something that cannot be understood or is not allowed; the message names the field.
        /// Next: correct the field that the message names, and apply again.
        pub const INVALID: &str = "Invalid";

        /// Disk: the node's agent has not yet said that the disk is healthy.
        /// Next: see whether the agent's pod runs on that node, and its log.
        pub const AGENT_SILENT: &str = "AgentSilent";
        /// Disk: its node is not Ready or is not there; nothing is released because of that (D4).
        /// Next: bring the node back; all is as before then. If it never comes back, declare its disks gone.
        pub const NODE_UNREACHABLE: &str = "NodeUnreachable";
        /// Disk: an administrator declared it gone, for good (D4).
        /// Next: delete the volumes and reservations that were on it, then the NodeDisk.
        pub const DISK_GONE: &str = "DiskGone";
        /// Disk: the agent refuses it; the message says why.
        /// Next: do what the message says; the agent looks again by itself.
        pub const DISK_REFUSED: &str = "DiskRefused";
        /// Disk: the file system no longer has the room that was promised, because others filled it.
        /// Next: remove what is not Reservoir's from the file system, or destroy volumes.
        pub const SPACE_TAKEN: &str = "SpaceTaken";
        /// Disk: the agent found it healthy.
        /// Next: nothing to do.
        pub const DISK_HEALTHY: &str = "DiskHealthy";

        /// Reservation: no disk that it may use has enough room; the message says how much is missing where (R1).
        /// Next: ask for less, delete what is not needed, or wait: it is served when there is room.
        pub const NOT_ENOUGH_ROOM: &str = "NotEnoughRoom";
        /// Reservation: no disk fits its `nodeDisk`, `nodeName` or `nodeSelector`.
        /// Next: correct the name or labels; `kubectl get nodedisks` lists what there is.
        pub const NO_SUCH_DISK: &str = "NoSuchDisk";
        /// Reservation: being deleted, and a volume still lives in it (R6).
        /// Next: delete the volumes that the message names.
        pub const HAS_VOLUMES: &str = "HasVolumes";
        /// Reservation: being deleted, and another one was carved out of it (R4).
        /// Next: delete the reservations that the message names first.
        pub const HAS_REFINEMENTS: &str = "HasRefinements";
        /// Reservation: its role, or an ancestor of it, would have more than the limit of its VolumeRole (Q2).
        /// Next: ask for less, give some of the role's reservations back, or raise `spec.quota.limit`.
        pub const OVER_QUOTA: &str = "OverQuota";
        /// Reservation: what is free is guaranteed to other roles (Q2).
        /// Next: ask for less, wait, or lower another role's `spec.quota.guarantee`.
        pub const GUARANTEED: &str = "Guaranteed";
        /// Reservation: the one that it is to be carved out of does not exist, or is not the same one any more (R4).
        /// Next: make the reservation that `spec.parent` names, or delete this one.
        pub const NO_PARENT: &str = "NoParent";
        /// Reservation: the one that it is to be carved out of is itself waiting, or being deleted (R4).
        /// Next: see why the parent waits.
        pub const PARENT_NOT_RESERVED: &str = "ParentNotReserved";
        /// Reservation: its role is not a strict sub-role of that of the one that it is to be carved out of (R4).
        /// Next: use a role beneath the parent's, such as eng/ml beneath eng.
        pub const NOT_A_SUB_ROLE: &str = "NotASubRole";
        /// Reservation: the one that it is to be carved out of has not that many bytes left (R4).
        /// Next: ask for less, or make the parent larger.
        pub const PARENT_FULL: &str = "ParentFull";
        /// Reservation, volume: it has the size that its spec asks for (R6, V7).
        /// Next: nothing to do.
        pub const RESIZED: &str = "Resized";
        /// Reservation: it was asked to shrink to less than what lives in it (R6).
        /// Next: ask for no less than what is used, or destroy volumes first.
        pub const BELOW_USED: &str = "BelowUsed";

        /// Volume: no reservation of its role, or of an ancestor, exists (S2).
        /// Next: make a DiskReservation for the role or one above it.
        pub const NO_RESERVATION: &str = "NoReservation";
        /// Volume: reservations of its role exist, none has that many bytes left (V1).
        /// Next: make a reservation larger, or the volume smaller.
        pub const RESERVATION_FULL: &str = "ReservationFull";
        /// Volume: the data that it is to recover has an object still (X6).
        /// Next: see `status.orphans` of the NodeDisks for the UID.
        pub const NO_ORPHAN: &str = "NoOrphan";
        /// Volume: the reservation is on a disk that cannot, or is not allowed to, do what the volume asks for (D2, V8).
        /// Next: use a reservation on another disk, or change what the message names.
        pub const WRONG_DISK: &str = "WrongDisk";
        /// Volume: the node's agent is allocating and formatting it.
        /// Next: wait; it takes as long as the disk takes to allocate the bytes.
        pub const CREATING: &str = "Creating";
        /// Volume: its bytes are there and it can be mounted.
        /// Next: nothing to do.
        pub const BACKED: &str = "Backed";
        /// Volume: the node could not make or open it; the message says why.
        /// Next: do what the message says; the agent tries again by itself.
        pub const BACKING_FAILED: &str = "BackingFailed";
        /// Volume: it was made once, and its bytes are not on the disk any more; they are never made again over it.
        /// Next: put the disk back that has the data; else delete the volume and create it anew.
        pub const BACKING_LOST: &str = "BackingLost";
        /// Volume: its disk was declared gone, and what was on it with it (D4).
        /// Next: delete it, and create it anew elsewhere.
        pub const VOLUME_GONE: &str = "VolumeGone";
        /// Volume: its node is making it larger or smaller (V7).
        /// Next: wait; pods may go on using it.
        pub const RESIZING: &str = "Resizing";
        /// Volume: its node could not make it larger or smaller, and left it as it was; the message says why (V7).
        /// Next: do what the message says, or set the size back.
        pub const RESIZE_FAILED: &str = "ResizeFailed";
        /// Volume: its file system cannot be made smaller (V7).
        /// Next: set the size back, or copy the data to a smaller volume.
        pub const CANNOT_SHRINK: &str = "CannotShrink";
        /// Volume: it cannot be made smaller while the pods that the message names use it (V7).
        /// Next: end these pods, or set the size back.
        pub const SHRINK_IN_USE: &str = "ShrinkInUse";
        /// Volume: to be destroyed when nobody uses it any more; the message says whom that waits for (X5).
        /// Next: wait for those users; `spec.retire: false` calls it off.
        pub const RETIRING: &str = "Retiring";
        /// Volume: it was to be retired, and that was taken back (X5).
        /// Next: nothing to do.
        pub const RETIRE_WITHDRAWN: &str = "RetireWithdrawn";
        /// Volume: being destroyed; the message says what that waits for.
        /// Next: wait for what the message names.
        pub const DESTROYING: &str = "Destroying";

        /// Claim: no subscription in its namespace covers the role (O1).
        /// Next: make a RoleSubscription with the role in the claim's namespace.
        pub const NO_SUBSCRIPTION: &str = "NoSubscription";
        /// Claim: the subscription does not have the capability `SHARED_RESOURCES` (O3).
        /// Next: add `SHARED_RESOURCES` to the subscription's capabilities if its pods can share.
        pub const NO_CAPABILITY: &str = "NoCapability";
        /// Claim: the volume that it names is for a role that does not cover the claim's (C4).
        /// Next: claim for the volume's role or one beneath it.
        pub const ROLE_NOT_ALLOWED: &str = "RoleNotAllowed";
        /// Claim: the volume it names does not exist.
        /// Next: correct `spec.volume`; `kubectl get volumeoffers` lists what can be claimed.
        pub const NO_SUCH_VOLUME: &str = "NoSuchVolume";
        /// Claim: no volume on offer to the namespace fits its selector.
        /// Next: loosen the selector, or create a volume that fits.
        pub const NO_MATCH: &str = "NoMatch";
        /// Claim: the volume that it names is not ready yet or sits on an unreachable node.
        /// Next: see the condition of the volume.
        pub const VOLUME_NOT_READY: &str = "VolumeNotReady";
        /// Claim: the volume is being retired: who has it goes on, nobody new gets it (X5).
        /// Next: use another volume, or have the retirement called off.
        pub const VOLUME_RETIRING: &str = "VolumeRetiring";
        /// Claim: the volume is a raw device, which nobody can be given to read only (M3).
        /// Next: claim it `ReadWrite`, or a volume with a file system.
        pub const ALWAYS_WRITABLE: &str = "AlwaysWritable";
        /// Claim: the volume is being destroyed (O6).
        /// Next: use another volume.
        pub const VOLUME_DESTROYING: &str = "VolumeDestroying";
        /// Claim: the exclusive volume is held by another claim, which the message names (C3).
        /// Next: wait until that claim is deleted, or use a volume with `shared: {}`.
        pub const VOLUME_HELD: &str = "VolumeHeld";
        /// Claim: bound on both sides, and its PersistentVolumeClaim is there.
        /// Next: name the PersistentVolumeClaim of the claim's name in a pod.
        pub const BOUND: &str = "Bound";
        /// Claim: bound, and the PersistentVolume and PersistentVolumeClaim are still being bound.
        /// Next: wait a moment.
        pub const BINDING: &str = "Binding";
        /// Claim: a PersistentVolumeClaim of its name exists that Reservoir did not make; it is left alone.
        /// Next: give the claim another name, or delete the PersistentVolumeClaim.
        pub const NAME_TAKEN: &str = "NameTaken";
        /// Claim: the volume that it was bound to is gone; the binding is never moved to another one (C7).
        /// Next: delete the claim, and claim another volume.
        pub const VOLUME_LOST: &str = "VolumeLost";
        /// Claim: being deleted, and pods that the message names still use it (C6).
        /// Next: end these pods.
        pub const IN_USE: &str = "InUse";
        /// Claim: being deleted, nothing uses it any more.
        /// Next: wait a moment.
        pub const RELEASING: &str = "Releasing";

        /// Subscription: its offers are there.
        /// Next: `kubectl get volumeoffers` in that namespace.
        pub const SUBSCRIBED: &str = "Subscribed";
        /// Offer: what it lists can be claimed now.
        /// Next: claim it.
        pub const OFFERED: &str = "Offered";
        /// Role: another VolumeRole object speaks for the same role; the older one counts.
        /// Next: delete one of the two.
        pub const ROLE_TAKEN: &str = "RoleTaken";
        /// Role: it has more than its limit, which was set later; nothing is taken away, but nothing more is given (Q2).
        /// Next: raise the limit, or delete some of its reservations.
        pub const OVER_LIMIT: &str = "OverLimit";
    }
}

/// What a condition is to say.
///
/// ```
/// use jiff::Timestamp;
/// use reservoir::api::condition::{self, READY, Verdict, reason};
///
/// let mut conditions = Vec::new();
/// let waits = Verdict::no(reason::NO_RESERVATION, "no reservation of role eng exists; make one");
/// condition::set(&mut conditions, READY, waits, Some(1), Timestamp::UNIX_EPOCH);
/// assert!(!condition::is_true(&conditions, READY));
/// assert_eq!(condition::get(&conditions, READY).unwrap().reason, "NoReservation");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `True` or `False`.
    pub ok: bool,
    /// One of [`reason`].
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl Verdict {
    /// A condition that holds.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { ok: true, reason, message: message.into() }
    }

    /// A condition that does not hold.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { ok: false, reason, message: message.into() }
    }
}

/// Sets condition `type_` to `verdict`. Times move only when the status flips, so that nothing is written when
/// only time has passed.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    verdict: Verdict,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = if verdict.ok { "True" } else { "False" };
    let index = match conditions.iter().position(|c| c.type_ == type_) {
        Some(index) => index,
        None => {
            conditions.push(Condition {
                type_: type_.to_owned(),
                status: String::new(),
                reason: String::new(),
                message: String::new(),
                last_transition_time: Time(now),
                observed_generation: None,
            });
            conditions.len() - 1
        }
    };
    let condition = &mut conditions[index];
    if condition.status != status {
        condition.last_transition_time = stored(now);
    }
    condition.status = status.to_owned();
    condition.reason = verdict.reason.to_owned();
    condition.message = verdict.message;
    condition.observed_generation = generation;
}

/// A time as Kubernetes stores it, in whole seconds: anything finer would read back as a difference for ever.
pub fn stored(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Finds a condition.
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether a condition is there and `True`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    get(conditions, type_).is_some_and(|c| c.status == "True")
}
