//! Condition types, their reasons, and the update of a condition (T1).
//!
//! Every kind has the condition [`READY`], so `kubectl wait --for=condition=Ready` works on each. A message
//! is one sentence and ends with the next step, if there is one.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The object has the state that its spec asks for and can be used.
pub const READY: &str = "Ready";
/// The agent's report on a disk: the disk can be reached, has the expected ID, and has its allocatable
/// storage capacity.
pub const DISK_HEALTHY: &str = "DiskHealthy";
/// The agent's report on a volume: its bytes are allocated and formatted, and can be mounted.
pub const BACKED: &str = "Backed";
/// A reservation or a volume has the size of its spec (R6, V7). The condition is added by the first change of
/// the size. While it is `False`, the object stays [`READY`] with its current size.
pub const RESIZED: &str = "Resized";
/// A volume is destroyed after its last use has ended (X5). The condition is added by `spec.retire: true`.
pub const RETIRING: &str = "Retiring";

/// Each reservation template of a role selects disks, and its reservations are served (R7). Absent without templates.
pub const TEMPLATED: &str = "Templated";
/// Nearly all bytes or inodes of a volume in use are taken (M6). The agent adds the condition, and removes it when
/// enough is free again.
pub const NEARLY_FULL: &str = "NearlyFull";
/// A volume has readers only, and the digest of its content is in its status (E1). The agent adds the condition when
/// `spec.sealed` is true, and removes it when that is set back.
pub const SEALED: &str = "Sealed";
/// The files of a sealed volume are what was sealed, as far as they were read again (E4). The agent adds the condition with
/// the first reading.
pub const INTACT: &str = "Intact";

/// Each selected node has a copy of a sealed volume (E2). Absent without `spec.copies`, and once the volume ends.
pub const COPIED: &str = "Copied";

/// Defines constants, and the list [`reason::ALL`] of them with their doc comments.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ pub const $name:ident: &str = $value:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $value;)+
        /// Every reason with the lines of its doc comment, in source order. docs/api.md is generated from
        /// this list.
        pub const ALL: &[(&str, &[&str])] = &[$(($value, &[$($doc),+])),+];
    };
}

/// Reasons of conditions. Each reason stands for exactly one situation.
pub mod reason {
    reasons! {
        /// The object has the state that its spec asks for.
        /// Next: nothing to do.
        pub const READY: &str = "Ready";
        /// The spec has an unreadable or forbidden value; the message names the field.
        /// Next: correct that field, and apply the manifest again.
        pub const INVALID: &str = "Invalid";

        /// Disk: the node's agent has not reported the disk yet, or has not served for a minute. Running pods keep their
        /// mounts, and new ones wait (D8).
        /// Next: look at the agent's pod on that node, and at its log.
        pub const AGENT_SILENT: &str = "AgentSilent";
        /// Disk, volume: its node is not Ready, or has no Node object. Nothing is released because of that (D4).
        /// Next: bring the node back; the disk is served as before then. Only if the node is lost for good, declare its
        /// disks gone, which gives their data up and cannot be undone.
        pub const NODE_UNREACHABLE: &str = "NodeUnreachable";
        /// Reservation, volume: only nodes that are cordoned have a place.
        /// Next: uncordon a node that the message names, or reserve on another node.
        pub const NODE_CORDONED: &str = "NodeCordoned";
        /// Disk: an administrator declared the disk gone, which cannot be revoked (D4).
        /// Next: delete the volumes and reservations of the disk, then the NodeDisk.
        pub const DISK_GONE: &str = "DiskGone";
        /// Disk, reservation, volume, claim: the node left the cluster, and took along the disk, which has `lifetime: Node`
        /// (D7).
        /// Next: wait until the volumes have ended and the reservations are placed anew. Delete a VolumeClaim, and claim
        /// another volume.
        pub const NODE_GONE: &str = "NodeGone";
        /// Disk: the agent refuses the disk for the cause in the message (D8).
        /// Next: follow the message; the agent checks the disk again by itself.
        pub const DISK_REFUSED: &str = "DiskRefused";
        /// Disk: foreign files fill space of the file system that is promised to reservations, or its configuration gives less than is
        /// reserved, or nothing; the message says which.
        /// Next: remove the files that do not belong to Reservoir, or destroy volumes; or raise `capacity` in `agent.disks`.
        pub const SPACE_TAKEN: &str = "SpaceTaken";
        /// Disk: the agent found the disk healthy.
        /// Next: nothing to do.
        pub const DISK_HEALTHY: &str = "DiskHealthy";

        /// Reservation: no disk that may serve it has enough free space. The message has the missing bytes per
        /// disk (R1).
        /// Next: ask for less, delete unused reservations, or wait: the reservation is served as soon as
        /// space is free.
        pub const NOT_ENOUGH_ROOM: &str = "NotEnoughRoom";
        /// Reservation: the ledger of its disk, parent or VolumeRole is full at a thousand entries (A8).
        /// Next: delete reservations that are not needed, or use fewer and larger ones.
        pub const TOO_MANY_RESERVATIONS: &str = "TooManyReservations";
        /// Claim, reservation, volume: its namespace, or its role with all sub-roles, has its share of the list of a
        /// volume, disk, reservation or VolumeRole. A list ends at a thousand entries, and one tenant gets no more
        /// of them than are left for others (A8, A9).
        /// Next: delete claims, reservations or volumes of that namespace or role that are not needed, or use fewer
        /// and larger ones.
        pub const SHARE_TAKEN: &str = "ShareTaken";
        /// Reservation: no disk fits its `nodeDisk`, `nodeName` or `nodeSelector`. Role: no disk fits the `diskName` and
        /// `nodeSelector` of a template (R7).
        /// Next: make the reservation anew for another disk, node or label, or correct the template; `kubectl get nodedisks` lists
        /// the disks.
        pub const NO_SUCH_DISK: &str = "NoSuchDisk";
        /// Reservation: it is static, and takes no bytes (A7). Its disk is in another node than the one whose agent may make
        /// static reservations on the disk, or the node has two NodeDisks that are named after one disk of its configuration.
        /// Next: delete the reservation, or the NodeDisk that no disk has; a reservation that is not static may use the
        /// disk.
        pub const DISK_MOVED: &str = "DiskMoved";
        /// Reservation: its deletion waits for the volumes in it (R6).
        /// Next: delete the volumes that the message names.
        pub const HAS_VOLUMES: &str = "HasVolumes";
        /// Reservation: its deletion waits for the reservations that were carved out of it (R4).
        /// Next: delete the reservations that the message names first.
        pub const HAS_REFINEMENTS: &str = "HasRefinements";
        /// Reservation: its role, or an ancestor of the role, would exceed the limit of its VolumeRole (Q2).
        /// Next: ask for less, delete reservations of the role, or raise `spec.quota.limit`.
        pub const OVER_QUOTA: &str = "OverQuota";
        /// Reservation: the free space is guaranteed to other roles (Q2).
        /// Next: ask for less, wait, or lower another role's `spec.quota.guarantee`.
        pub const GUARANTEED: &str = "Guaranteed";
        /// Reservation: its parent does not exist, or was replaced by another reservation of the same name
        /// (R4).
        /// Next: create the reservation that `spec.parent` names, or delete this reservation.
        pub const NO_PARENT: &str = "NoParent";
        /// Reservation: its parent is itself pending, or is being deleted (R4).
        /// Next: look at the condition of the parent.
        pub const PARENT_NOT_RESERVED: &str = "ParentNotReserved";
        /// Reservation: its role is not a strict sub-role of the parent's role (R4).
        /// Next: make it anew with a role beneath the parent's role, such as eng/ml beneath eng, or without a parent.
        pub const NOT_A_SUB_ROLE: &str = "NotASubRole";
        /// Reservation: its parent has fewer free bytes than the reservation asks for (R4).
        /// Next: ask for less, or make the parent larger.
        pub const PARENT_FULL: &str = "ParentFull";
        /// Reservation, volume: the object has the size of its spec (R6, V7).
        /// Next: nothing to do.
        pub const RESIZED: &str = "Resized";
        /// Reservation: the new size is smaller than the volumes and reservations in it (R6).
        /// Next: ask for no less than the used bytes, or destroy volumes first.
        pub const BELOW_USED: &str = "BelowUsed";

        /// Volume: its role and the ancestors of the role have no reservation (S2).
        /// Next: create a DiskReservation for the role or for an ancestor.
        pub const NO_RESERVATION: &str = "NoReservation";
        /// Volume: no reservation of its role has enough free bytes (V1).
        /// Next: make a reservation larger, or the volume smaller.
        pub const RESERVATION_FULL: &str = "ReservationFull";
        /// Volume: the ledger of its reservation is full at a thousand entries (A8).
        /// Next: destroy volumes that are not needed, or create another reservation.
        pub const TOO_MANY_VOLUMES: &str = "TooManyVolumes";
        /// Volume: no disk has the data to recover without an object (X6).
        /// Next: look for the UID in `status.orphans` of the NodeDisks, and create the volume in a reservation on that disk.
        pub const NO_ORPHAN: &str = "NoOrphan";
        /// Volume: the disk of its reservation cannot, or may not, hold such a volume (D2, V8).
        /// Next: create the volume anew, in a reservation on another disk, or without the field that the message names.
        pub const WRONG_DISK: &str = "WrongDisk";
        /// Volume: the node's agent is allocating and formatting it.
        /// Next: wait; the time depends on the allocation of the bytes on the disk.
        pub const CREATING: &str = "Creating";
        /// Volume: its bytes are allocated, and it can be mounted.
        /// Next: nothing to do.
        pub const BACKED: &str = "Backed";
        /// Volume: the node could not make or open the volume; the message has the cause.
        /// Next: follow the message; the agent tries again by itself.
        pub const BACKING_FAILED: &str = "BackingFailed";
        /// Volume: the bytes of the finished volume are no longer on the disk. The volume is never formatted
        /// again. An event of the volume and its pods, too.
        /// Next: copy what is needed out of a pod that has it mounted; put the disk with the data back; else delete the volume and create it
        /// anew.
        pub const BACKING_LOST: &str = "BackingLost";
        /// Volume: its disk is not ready although its node is, or its NodeDisk is not there; the message has the cause. The data
        /// stays on the disk.
        /// Next: look at the condition of the NodeDisk.
        pub const DISK_NOT_READY: &str = "DiskNotReady";
        /// Volume, claim: the volume's disk was declared gone, and the data is lost with the disk (D4).
        /// Next: delete the claims and the volume, and create it anew on another disk.
        pub const VOLUME_GONE: &str = "VolumeGone";
        /// Volume: its node is changing the size (V7).
        /// Next: wait; pods may go on using the volume.
        pub const RESIZING: &str = "Resizing";
        /// Volume: its node could not change the size, and left the volume as it was; the message has the
        /// cause (V7).
        /// Next: follow the message, or set the size back.
        pub const RESIZE_FAILED: &str = "ResizeFailed";
        /// Volume: its file system cannot shrink (V7).
        /// Next: set the size back, or copy the data to a smaller volume.
        pub const CANNOT_SHRINK: &str = "CannotShrink";
        /// Volume: a volume in use cannot shrink; the message names the pods (V7).
        /// Next: end these pods, or set the size back.
        pub const SHRINK_IN_USE: &str = "ShrinkInUse";
        /// Volume: destroyed after its last use; the message names the remaining users (X5).
        /// Next: wait for these users; `spec.retire: false` cancels the retirement.
        pub const RETIRING: &str = "Retiring";
        /// Volume: its retirement was cancelled (X5).
        /// Next: nothing to do.
        pub const RETIRE_WITHDRAWN: &str = "RetireWithdrawn";
        /// Volume: 90% of its bytes or inodes were taken when the agent measured them last, and neither has fallen to 80%
        /// since (M6). An event of the volume and of the pods that have it mounted, too.
        /// Next: remove files, or make the volume larger.
        pub const NEARLY_FULL: &str = "NearlyFull";
        /// Volume: sealed. It has readers only, and the digest of its content is in its status (E1). An event, too.
        /// Next: nothing to do.
        pub const SEALED: &str = "Sealed";
        /// Volume: to be sealed; pods have it mounted for writing, and the message names them. No new one gets it (E1).
        /// Next: end these pods, or set `spec.sealed` back to false.
        pub const HAS_WRITERS: &str = "HasWriters";
        /// Volume: its node is reading the files for the manifest. Pods can read meanwhile (E1).
        /// Next: wait; it takes as long as reading the bytes once.
        pub const SEALING: &str = "Sealing";
        /// Volume: it has a file that no sealed volume may have, which the message names: a device node, a socket, a FIFO, a
        /// set-user-ID bit, or a mount of its own (E1). An event, too.
        /// Next: set `spec.sealed` back to false, remove or change the file, and seal the volume again.
        pub const SEAL_REFUSED: &str = "SealRefused";
        /// Volume: its node could not seal it; the message has the cause (E1).
        /// Next: follow the message; the agent tries again by itself.
        pub const SEAL_FAILED: &str = "SealFailed";
        /// Volume: all files of the sealed volume were read again, and are what was sealed (E4). An event, too, if somebody asked.
        /// Next: nothing to do.
        pub const VERIFIED: &str = "Verified";
        /// Volume: files of the sealed volume are not what was sealed; the message names the first ones (E4). No new claim binds
        /// to it, and its pods go on. An event of the volume and of the pods that have it mounted, too.
        /// Next: fill another volume from where the files came, and delete this one then.
        pub const COPY_DIFFERS: &str = "CopyDiffers";
        /// Volume: its node could not read all files of the sealed volume; the message has the cause (E4). An event, too.
        /// Next: follow the message; the agent tries again by itself.
        pub const VERIFY_FAILED: &str = "VerifyFailed";
        /// Volume: each selected node has a complete copy of the sealed volume (E2). An event, too.
        /// Next: nothing to do.
        pub const COPIED: &str = "Copied";
        /// Volume: copies of it are being made; or it is a copy, and is being filled (E2).
        /// Next: wait; `status.copies` of the original has the numbers.
        pub const COPYING: &str = "Copying";
        /// Volume: a copy could not be filled; the message has the cause. What has arrived is kept (E2). An event, too.
        /// Next: follow the message; the agent tries again by itself, from another copy if there is one.
        pub const COPY_FAILED: &str = "CopyFailed";
        /// Volume: selected nodes are without a copy; the message names the first ones, each with its cause (E2).
        /// Next: reserve for the role on these nodes, follow the message, or select fewer nodes.
        pub const COPIES_MISSING: &str = "CopiesMissing";
        /// Volume: it has `spec.copies`, and is not sealed (E2).
        /// Next: write its files, and set `spec.sealed` to true then.
        pub const NOT_SEALED: &str = "NotSealed";
        /// Volume: no node besides its own has the labels of `spec.copies.nodeSelector` (E2).
        /// Next: correct the labels, or label nodes; `kubectl get nodes --show-labels` lists them.
        pub const NO_NODE_SELECTED: &str = "NoNodeSelected";
        /// Volume: the agents send no copies to one another (E2).
        /// Next: have an administrator set `agent.copies.enabled: true` in the chart's values.
        pub const COPIES_OFF: &str = "CopiesOff";
        /// Volume: a sealed volume keeps its size (E1).
        /// Next: set the size back; for another size, copy the files into another volume.
        pub const SEALED_SIZE: &str = "SealedSize";
        /// Volume: being destroyed; the message names the step that the destruction waits for.
        /// Next: wait for that step.
        pub const DESTROYING: &str = "Destroying";

        /// Claim: no subscription in its namespace covers the role (O1).
        /// Next: create a RoleSubscription with the role in the claim's namespace.
        pub const NO_SUBSCRIPTION: &str = "NoSubscription";
        /// Claim: the subscription does not have the capability `SHARED_RESOURCES` (O3).
        /// Next: if the namespace's pods can share a volume, add `SHARED_RESOURCES` to the subscription's
        /// capabilities.
        pub const NO_CAPABILITY: &str = "NoCapability";
        /// Claim: the role of the named volume is neither the claim's role nor an ancestor (C4).
        /// Next: claim for the volume's role or for a role beneath it.
        pub const ROLE_NOT_ALLOWED: &str = "RoleNotAllowed";
        /// Claim: the named volume does not exist, or has a role that the namespace cannot use. The message names kept or lost data
        /// of that name.
        /// Next: create that volume, or make the claim anew for another one; `kubectl get volumeoffers` lists the volumes on offer.
        pub const NO_SUCH_VOLUME: &str = "NoSuchVolume";
        /// Claim: no volume on offer to the namespace fits its selector. The message names kept data that fits.
        /// Next: make the claim anew with another selector, or create a volume that fits.
        pub const NO_MATCH: &str = "NoMatch";
        /// Claim: the named volume is not ready yet, or its node or disk has not served it for a minute. A bound claim stays
        /// bound meanwhile: its running pods keep their mounts, and new ones wait.
        /// Next: look at the condition of the volume.
        pub const VOLUME_NOT_READY: &str = "VolumeNotReady";
        /// Claim: no volume that it could have has the content of `spec.digest`: the volume is not sealed yet, or has another digest (E4).
        /// Next: wait for the seal, or claim the digest that the message names.
        pub const DIGEST_DIFFERS: &str = "DigestDiffers";
        /// Claim: the volume is being retired. Bound claims go on, and no new claim binds (X5).
        /// Next: use another volume, or have the retirement cancelled.
        pub const VOLUME_RETIRING: &str = "VolumeRetiring";
        /// Claim: the volume is sealed or is to be sealed, and the claim is ReadWrite (E1). Claims that were bound before stay
        /// bound, and their pods read. An event of a pod that such a claim could write through before.
        /// Next: claim the volume with `mode: ReadOnly`.
        pub const VOLUME_SEALED: &str = "VolumeSealed";
        /// An event of a pod that came while its volume was being sealed, once the request was taken back (E1): its mount stays
        /// read-only.
        /// Next: make the pod anew, if it is to write.
        pub const SEAL_WITHDRAWN: &str = "SealWithdrawn";
        /// Claim: the volume is a raw device, and a raw device cannot be made read-only for a pod (M3).
        /// Next: claim the volume `ReadWrite`, or claim a volume with a file system.
        pub const ALWAYS_WRITABLE: &str = "AlwaysWritable";
        /// Claim: the volume is being destroyed (O6).
        /// Next: use another volume.
        pub const VOLUME_DESTROYING: &str = "VolumeDestroying";
        /// Claim, pod: another claim, or another pod, has the exclusive volume; the message names it (C3, M2). An event of the
        /// pod.
        /// Next: wait until that claim is deleted or that pod ends, or use a volume with `shared: {}`.
        pub const VOLUME_HELD: &str = "VolumeHeld";
        /// Claim: the shared volume has a thousand claims, the most that its object can list (A8).
        /// Next: delete claims to it that are not needed, or let the pods of a namespace use one claim.
        pub const TOO_MANY_CLAIMS: &str = "TooManyClaims";
        /// Claim: bound on both sides, and its PersistentVolumeClaim is bound.
        /// Next: use the PersistentVolumeClaim, which has the claim's name, in a pod.
        pub const BOUND: &str = "Bound";
        /// Claim: bound, and the binding of its PersistentVolume and PersistentVolumeClaim is not complete
        /// yet.
        /// Next: wait a few seconds.
        pub const BINDING: &str = "Binding";
        /// Claim: its PersistentVolumeClaim is being deleted, and pods use it still, so no new pod may. It is made anew when they
        /// are gone (C7).
        /// Next: end these pods; to end the use for good, delete the claim.
        pub const TERMINATING: &str = "Terminating";
        /// Claim, subscription, role: the API server refuses an object that Reservoir makes for it, by a ResourceQuota, a
        /// LimitRange or an admission policy of others; the message has its words (F3).
        /// Next: have that object allowed; Reservoir tries again by itself, with growing pauses.
        pub const REFUSED: &str = "Refused";
        /// Claim: a foreign PersistentVolumeClaim has the claim's name. Reservoir does not touch it.
        /// Next: give the claim another name, or delete the PersistentVolumeClaim.
        pub const NAME_TAKEN: &str = "NameTaken";
        /// Claim: the bound volume is gone. A binding never moves to another volume (C7).
        /// Next: delete the claim, and claim another volume.
        pub const VOLUME_LOST: &str = "VolumeLost";
        /// Claim: its deletion waits for the pods that use it; the message names them (C6).
        /// Next: end these pods.
        pub const IN_USE: &str = "InUse";
        /// Claim, reservation: being deleted; nobody uses it any more.
        /// Next: wait a few seconds, or follow the message.
        pub const RELEASING: &str = "Releasing";

        /// Volume, pod: a process keeps a mount of the volume from being removed or made (F3). An event of the agent.
        /// Next: end the process that the event of the volume names.
        pub const MOUNT_HELD: &str = "MountHeld";

        /// Subscription: its VolumeOffers exist.
        /// Next: run `kubectl get volumeoffers` in the namespace.
        pub const SUBSCRIBED: &str = "Subscribed";
        /// Offer: the listed volumes can be claimed now.
        /// Next: claim one of them.
        pub const OFFERED: &str = "Offered";
        /// Role: another VolumeRole has the same role; the older VolumeRole counts.
        /// Next: delete one of the two VolumeRoles.
        pub const ROLE_TAKEN: &str = "RoleTaken";
        /// Role: its guarantee, or all guarantees together, are more than all disks have, or more than an ancestor's limit. The
        /// message has the numbers. Free space is kept for it all the same, and others wait (Q2).
        /// Next: lower `spec.quota.guarantee`, or what the message names.
        pub const GUARANTEE_TOO_LARGE: &str = "GuaranteeTooLarge";
        /// Role: a reservation of a template is not Ready; the message names the first one (R7).
        /// Next: look at the condition of that reservation.
        pub const TEMPLATE_WAITS: &str = "TemplateWaits";
        /// Role: its reservations exceed a limit that was set later. These reservations stay, and no further
        /// reservation is served (Q2).
        /// Next: raise the limit, or delete some of the role's reservations.
        pub const OVER_LIMIT: &str = "OverLimit";
    }
}

/// The new content of a condition.
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
    /// One sentence, for people.
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

/// Sets condition `type_` to `verdict`. The transition time changes only together with the status, so the
/// passing of time alone causes no write.
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

/// A time in whole seconds, as Kubernetes stores it. A finer time would differ from its stored form at every
/// comparison.
pub fn stored(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Finds the condition of the given type.
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Returns true if the condition of the given type has status `True`; an absent condition counts as not true.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    get(conditions, type_).is_some_and(|c| c.status == "True")
}
