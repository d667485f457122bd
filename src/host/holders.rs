//! Names the processes that hold a volume (F3). Nothing is decided by these names.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::host::error::{Error, Result};
use crate::host::node::Host;
use crate::host::sys::in_use::{self, Use};
use crate::host::sys::{Found, Mount, Uses, process};
use crate::host::types::{Held, Holder, VolumeUid};

/// The most processes that are named.
const MOST: usize = 4;
/// The time limit of a search. A node may have a hundred thousand open files.
const TIME: Duration = Duration::from_secs(2);

impl Host {
    /// The first processes that have a volume mounted or open, without the mounts at the targets in its record.
    ///
    /// # Errors
    /// [`Error::ProcessesHidden`](super::Error::ProcessesHidden) without `hostPID`.
    pub fn holders(&self, uid: &VolumeUid) -> Result<Held> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let record = volume.record()?;
        let Uses { mounted, open } = disk.backing.uses(&volume)?;
        let is_target =
            |mount: &Mount| mount.point.to_str().is_some_and(|at| record.publishes.contains_key(at));
        let by = search(&Uses { mounted: Box::new(|mount| !is_target(mount) && mounted(mount)), open })?;
        let mut pods: Vec<_> = record.publishes.into_values().map(|published| published.pod).collect();
        pods.sort_by(|a, b| a.uid.cmp(&b.uid));
        pods.dedup();
        Ok(Held { volume: record.spec.name, pods, by })
    }

    /// The first processes that keep a target of the volume from being unmounted: none without `hostPID`.
    pub fn holders_at(&self, uid: &VolumeUid, target: &Path) -> Result<Held> {
        let key = self.targets.key(target)?;
        let _target = self.target_locks.lock(&key);
        let (_, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        let pods = record.publishes.remove(&key).map(|published| published.pod).into_iter().collect();
        let mut held = Held { volume: record.spec.name, pods, by: vec![] };
        let found = self.targets.locate(&key)?.map(|target| target.look()).transpose()?;
        let Some(Found::Mount(at)) = found else { return Ok(held) };
        // The same mount has another number in each mount namespace.
        let (point, relative) = (Path::new(&key), self.targets.relative(&key));
        let numbers = RefCell::new(BTreeSet::from([at.id]));
        let same = |mount: &Mount| {
            mount.point.ends_with(relative) && mount.device == at.device && mount.root == at.root
        };
        let note = |mount: &Mount| {
            if same(mount) {
                numbers.borrow_mut().insert(mount.id);
            }
            false
        };
        match in_use::users(&Uses::mounts_alone(note), MOST, TIME) {
            // The mount is held all the same, which its pod is to be told.
            Err(Error::ProcessesHidden) => return Ok(held),
            found => found?,
        };
        let numbers = numbers.into_inner();
        let inside = |mount: &Mount| mount.point.starts_with(point) && mount.point != point;
        held.by = search(&Uses::new(inside, |file| numbers.contains(&file.mount)))?;
        Ok(held)
    }
}

fn search(uses: &Uses<'_>) -> Result<Vec<Holder>> {
    let holders = in_use::users(uses, MOST, TIME)?.into_iter().filter_map(|(found, used)| {
        Some(Holder {
            pid: process::number(&found)?,
            command: process::command(&found)?,
            pod_uid: process::pod_uid(&found),
            mount: match used {
                Use::Mounted(point) => Some(process::safe(point.as_os_str(), 256)),
                Use::Open => None,
            },
        })
    });
    Ok(holders.collect())
}
