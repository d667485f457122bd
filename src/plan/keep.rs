//! What the agent does next with a volume on its node (V9, X2, X3).

use crate::api::{BackingState, SharedPersistentVolume};

use super::resize::{self, OnNode};

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Make it, or see that it is whole.
    Make,
    /// See that it is whole, and change its size (V7).
    Size(OnNode),
    /// It was made once and its bytes are not there: say so, and never make it again over what may come back.
    Lost,
    /// Refuse new mounts, and tell which there are.
    Fence,
    /// Allow mounts again.
    Unfence,
    /// Erase it.
    Erase,
    /// Nothing.
    Rest,
}

/// What the node's disk has of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// There is a journal of it.
    pub there: bool,
    /// The journal says that new mounts are refused.
    pub fenced: bool,
    /// How many bytes the journal says that it has.
    pub size: Option<u64>,
    /// The journal says that a resize was begun and not finished.
    pub resizing: bool,
}

/// The next thing to do.
pub fn next(volume: &SharedPersistentVolume, on_disk: OnDisk) -> Task {
    let status = volume.status.clone().unwrap_or_default();
    let node = status.node.unwrap_or_default();
    let destroy = status.destroy.unwrap_or_default();
    // Resized, and ended before that was said: what was announced is not to be withdrawn then.
    let unsaid =
        on_disk.size.is_some() && on_disk.size != node.size.as_ref().and_then(|size| size.bytes().ok());
    if volume.metadata.deletion_timestamp.is_none() {
        return match node.backing == BackingState::Made {
            true if !on_disk.there => Task::Lost,
            true => resize::on_node(volume, on_disk.resizing || unsaid).map_or(Task::Make, Task::Size),
            false => Task::Make,
        };
    }
    match (destroy.tombstone.is_some(), destroy.in_use) {
        (true, _) if node.backing == BackingState::Erased => Task::Rest,
        (true, _) => Task::Erase,
        (false, false) => Task::Fence,
        (false, true) if node.fenced || on_disk.fenced => Task::Unfence,
        (false, true) => Task::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Destroy;
    use crate::plan::testing::*;

    #[test]
    fn v7_what_became_larger_and_was_not_said_yet_is_said_before_the_wish_is_followed() {
        let mut v = ready_volume("v", "eng", true);
        v.spec.size = gi(1);
        let status = v.status.as_mut().unwrap();
        status.size = Some(gi(3));
        let node = status.node.as_mut().unwrap();
        (node.size, node.growing) = (Some(gi(1)), Some(gi(3)));
        let grown = OnDisk { size: Some(3 << 30), ..THERE };
        assert_eq!(next(&v, grown), Task::Size(OnNode::Resize(3 << 30)));
        let not_begun = OnDisk { size: Some(1 << 30), ..THERE };
        assert_eq!(next(&v, not_begun), Task::Size(OnNode::Withdraw));
    }

    const THERE: OnDisk = OnDisk { there: true, fenced: false, size: None, resizing: false };

    /// V9, X2, X3.
    #[test]
    fn a_volumes_life_as_its_node_sees_it() {
        let mut v = volume("v", "eng", 1);
        assert_eq!(next(&v, OnDisk::default()), Task::Make);
        v = ready_volume("v", "eng", true);
        assert_eq!(next(&v, THERE), Task::Make, "again and again: it looks whether all is there");
        assert_eq!(next(&v, OnDisk::default()), Task::Lost, "V9: what was made once is never made again");
        v.metadata.deletion_timestamp = some_time();
        assert_eq!(next(&v, THERE), Task::Fence, "X2: the deletion was accepted, so nobody comes any more");
        let mut with = |in_use, dead, fenced, backing| {
            let status = v.status.as_mut().unwrap();
            status.destroy = Some(Destroy { in_use, tombstone: if dead { some_time() } else { None } });
            let node = status.node.as_mut().unwrap();
            (node.fenced, node.backing) = (fenced, backing);
            (next(&v, THERE), next(&v, OnDisk { fenced: true, ..THERE }))
        };
        let both = |task| (task, task);
        assert_eq!(
            with(false, false, true, BackingState::Made),
            both(Task::Fence),
            "looks again until all mounts are gone"
        );
        assert_eq!(with(true, false, true, BackingState::Made), both(Task::Unfence));
        assert_eq!(
            with(true, false, false, BackingState::Made),
            (Task::Rest, Task::Unfence),
            "died between saying so and doing so"
        );
        assert_eq!(with(false, true, true, BackingState::Made), both(Task::Erase));
        assert_eq!(with(false, true, true, BackingState::Erased), both(Task::Rest));
    }
}
