//! The volume as the model stores it, and as the product's functions see it.

use kube::ResourceExt;

use super::super::super::claim::Offers;
use super::super::super::publish::{Permit, Request, authorise};
use super::super::super::testing::*;
use super::USERS;
use crate::api::{
    BackingState, ClaimBinding, Destroy, FINALIZER, NodePart, PodRef, SharedPersistentVolume,
    SharedPersistentVolumeStatus, UidRef, VolumeClaim, condition,
};

/// The parts of the object on which a decision can rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Volume {
    pub deleted: bool,
    pub retires: bool,
    pub ready: bool,
    pub claims: [bool; USERS],
    pub ending: [bool; USERS],
    /// The pods of `status.users`, one bit each.
    pub users: u8,
    pub in_use: bool,
    pub tombstone: bool,
    pub erased: bool,
    pub fenced: bool,
    /// The node's report that something is mounted.
    pub mounted: bool,
    pub released: [bool; USERS],
}

const NAMES: [&str; USERS] = ["c0", "c1"];

pub(super) fn claim_of(user: usize) -> VolumeClaim {
    claim("ns", NAMES[user], "v")
}

pub(super) fn binding_of(user: usize) -> ClaimBinding {
    bound_by("ns", NAMES[user], &format!("uid-{}", NAMES[user]))
}

/// The claims in the volume's list that are lost.
pub(super) fn lost_claims(volume: &Volume, lost: [bool; USERS]) -> Vec<ClaimBinding> {
    let lost = (0..USERS).filter(|user| lost[*user]);
    lost.map(|user| ClaimBinding { ending: volume.ending[user], ..binding_of(user) }).collect()
}

/// The pods of these bits.
pub(super) fn pods(bits: u8) -> Vec<PodRef> {
    (0..USERS).filter(|user| bits & (1 << user) != 0).map(|user| pod("ns", &format!("p{user}"))).collect()
}

fn bits(pods: &[PodRef]) -> u8 {
    (0..USERS).filter(|user| pods.contains(&pod("ns", &format!("p{user}")))).map(|user| 1 << user).sum()
}

fn each<T>(of: impl Fn(usize) -> T) -> [T; USERS] {
    std::array::from_fn(of)
}

impl Volume {
    /// A volume that nobody has used.
    pub fn made() -> Self {
        Self {
            deleted: false,
            retires: false,
            ready: true,
            claims: [false; USERS],
            ending: [false; USERS],
            users: 0,
            in_use: false,
            tombstone: false,
            erased: false,
            fenced: false,
            mounted: false,
            released: [false; USERS],
        }
    }

    pub fn is_bound(&self) -> bool {
        self.claims != [false; USERS]
    }

    pub fn object(&self, shared: bool) -> SharedPersistentVolume {
        let mut object = ready_volume("v", "eng", shared);
        object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        object.metadata.deletion_timestamp = if self.deleted { some_time() } else { None };
        object.spec.retire = self.retires;
        let status = object.status.get_or_insert_default();
        if !self.ready {
            set_ready(&mut status.conditions, false);
        }
        status.reservation = Some(UidRef { name: "r".into(), uid: "uid-r".into() });
        let listed = (0..USERS).filter(|user| self.claims[*user]);
        status.claims =
            listed.map(|user| ClaimBinding { ending: self.ending[user], ..binding_of(user) }).collect();
        status.users = pods(self.users);
        (status.user_count, status.claim_count) = (status.users.len() as u32, status.claims.len() as u32);
        let tombstone = if self.tombstone { some_time() } else { None };
        if self.in_use || self.tombstone {
            status.destroy = Some(Destroy { in_use: self.in_use, tombstone, ..Default::default() });
        }
        let released = (0..USERS).filter(|user| self.released[*user]);
        status.node = Some(NodePart {
            backing: if self.erased { BackingState::Erased } else { BackingState::Made },
            size: Some(gi(1)),
            fenced: self.fenced,
            in_use: self.mounted,
            released: released.map(|user| format!("uid-{}", NAMES[user])).collect(),
            ..Default::default()
        });
        object
    }

    /// The volume with another status.
    pub fn with(&self, status: &SharedPersistentVolumeStatus) -> Self {
        let (node, destroy) =
            (status.node.clone().unwrap_or_default(), status.destroy.clone().unwrap_or_default());
        let bound = |user: usize| {
            status.claims.iter().find(|binding| binding.name == NAMES[user]).map(|binding| binding.ending)
        };
        Self {
            deleted: self.deleted,
            retires: self.retires,
            ready: condition::is_true(&status.conditions, condition::READY),
            claims: each(|user| bound(user).is_some()),
            ending: each(|user| bound(user) == Some(true)),
            users: bits(&status.users),
            in_use: destroy.in_use,
            tombstone: destroy.tombstone.is_some(),
            erased: node.backing == BackingState::Erased,
            fenced: node.fenced,
            mounted: node.in_use,
            released: each(|user| node.released.contains(&format!("uid-{}", NAMES[user]))),
        }
    }
}

/// The answer to a publish for the pod of that user.
pub(super) fn permit(volume: Option<&Volume>, shared: bool, user: usize) -> Option<Permit> {
    let object = volume.map(|volume| volume.object(shared));
    let request = Request {
        volume: "v",
        volume_uid: "uid-v",
        claim_uid: &format!("uid-{}", NAMES[user]),
        node: "n1",
        namespace: "ns",
        read_only: false,
        keeps_read_only: true,
        block: false,
        several_pods: true,
        fs_type: "",
        mount_options: &[],
        has_copy: false,
    };
    authorise(object.as_ref(), request).ok()
}

/// The volume with the claim in its list, if it may be there.
pub(super) fn bound(volume: &Volume, shared: bool, user: usize) -> Option<Volume> {
    let subscriptions = vec![subscription("ns", &["eng"], true).into()];
    let offers = Offers { subscriptions, ..Default::default() };
    let object = volume.object(shared);
    let claim = claim_of(user);
    debug_assert_eq!(object.name_any(), "v");
    offers.bind(&claim, &object).ok().map(|status| volume.with(&status))
}
