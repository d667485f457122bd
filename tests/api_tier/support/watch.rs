//! Checks of every stored revision of an object.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Event, watcher};
use kube::{Resource, ResourceExt};
use reservoir::api::{DiskReservation, LedgerEntry, NodeDisk, SharedPersistentVolume, Size};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::Cluster;

/// Checks every watched revision of objects, and notes violations.
#[derive(Default)]
pub struct Watch {
    seen: Arc<std::sync::atomic::AtomicUsize>,
    broken: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Checks S1 for every disk and every reservation. An exclusive volume has at most one claim, and a tombstone
    /// stays.
    pub fn safety(cluster: &Cluster) -> Self {
        let mut watch = Self::default();
        let mut roomy = std::collections::HashMap::new();
        watch.each(cluster.all::<NodeDisk>(), move |disk| {
            let status = disk.status.clone().unwrap_or_default();
            // Foreign files may shrink a disk later. A reservation counts against the disk's size at its creation.
            let room = status.allocatable.as_ref().map_or(0, Size::bytes_or_zero);
            let most = roomy.entry(disk.uid()).or_insert(room);
            *most = room.max(*most);
            within(&status.reservations, *most)
        });
        watch.each(cluster.all::<DiskReservation>(), |reservation| {
            let status = reservation.status.clone().unwrap_or_default();
            let ledger = [status.volumes, status.refinements].concat();
            within(&ledger, status.size.as_ref().map_or(0, Size::bytes_or_zero))
        });
        let mut dead = std::collections::HashSet::new();
        watch.each(cluster.all::<SharedPersistentVolume>(), move |volume| {
            let status = volume.status.clone().unwrap_or_default();
            if status.destroy.is_some_and(|d| d.tombstone.is_some()) {
                dead.insert(volume.uid());
            } else if dead.contains(&volume.uid()) {
                return Err("the tombstone was taken back".into());
            }
            match (volume.spec.shared, status.claims.len()) {
                (None, claims @ 2..) => Err(format!("exclusive, with {claims} claims")),
                _ => Ok(()),
            }
        });
        watch
    }

    /// Calls `check` for every revision of every object.
    pub fn each<K>(&mut self, api: Api<K>, mut check: impl FnMut(&K) -> Result<(), String> + Send + 'static)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (seen, broken) = (self.seen.clone(), self.broken.clone());
        self.tasks.push(tokio::spawn(async move {
            let stream = watcher(api, Default::default()).default_backoff();
            futures::pin_mut!(stream);
            while let Some(event) = stream.next().await {
                if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
                    seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if let Err(what) = check(&object) {
                        let kind = K::kind(&()).into_owned();
                        broken.lock().unwrap().push(format!("{kind} {}: {what}", object.name_any()));
                    }
                }
            }
        }));
    }

    /// Returns the number of checked revisions; fails after a failed check.
    pub fn assert_unbroken(&self) -> usize {
        assert_eq!(*self.broken.lock().unwrap(), Vec::<String>::new());
        self.seen.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn within(ledger: &[LedgerEntry], capacity: u64) -> Result<(), String> {
    let total: u64 = ledger.iter().map(|entry| entry.size.bytes_or_zero()).sum();
    let uids: std::collections::BTreeSet<_> = ledger.iter().map(|entry| &entry.uid).collect();
    if total > capacity {
        return Err(format!("{total} bytes of {capacity} are given away: {ledger:?}"));
    }
    if uids.len() < ledger.len() {
        return Err(format!("charged twice: {ledger:?}"));
    }
    Ok(())
}
