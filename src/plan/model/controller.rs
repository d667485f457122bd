//! A controller with a stale cache, which carries out one read or write at a time.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use super::super::entry::{Owner, entry_of, is_lived_in, settled};
use super::super::holder::Holder;
use super::super::reservation::{Step, next};
use super::super::reservation_seen::{Gives, LedgerOf, Seen, of_kind};
use super::super::summary::{self, DiskSeen, RoleSeen, next_for_disk, next_for_role};
use super::server::Store;
use crate::api::{DiskReservation, FINALIZER, LedgerEntry, NodeDisk, VolumeRole};

/// Entries that are being settled, with the reads so far: first the ledger, then the reservations.
pub(super) struct Settling {
    pub of: LedgerOf,
    pub entries: Vec<LedgerEntry>,
    pub ledger: Option<Store>,
    pub owners: Option<Store>,
}

/// A controller, with its stale cache and its present work.
#[derive(Default)]
pub struct Controller {
    pub cache: Store,
    pub seen: Option<Seen>,
    pub settling: Vec<Settling>,
}

impl Controller {
    fn settle(&mut self, unsettled: Vec<(LedgerOf, Vec<LedgerEntry>)>) {
        let settling = |(of, entries)| Settling { of, entries, ledger: None, owners: None };
        self.settling.extend(unsettled.into_iter().map(settling));
    }

    /// True if the controller has begun a step.
    pub fn is_busy(&self) -> bool {
        self.seen.is_some() || !self.settling.is_empty()
    }

    /// Starts a reconcile of that reservation.
    pub fn look(&mut self, reservation: Arc<DiskReservation>) {
        self.seen = Some(self.cache.seen(reservation));
        self.settling.clear();
    }

    /// Performs one read or write. Returns `false` if nothing is left to do.
    pub fn go(&mut self, server: &mut Store) -> bool {
        if let Some(settling) = self.settling.first_mut() {
            if settling.ledger.is_none() {
                settling.ledger = Some(server.clone());
            } else if settling.owners.is_none() {
                settling.owners = Some(server.clone());
            } else {
                self.settling.remove(0).write(server, self.seen.as_mut());
            }
            return true;
        }
        let Some(mut seen) = self.seen.take() else { return false };
        let current = server.get::<DiskReservation>(&seen.reservation.name_any());
        let current = current.filter(|now| now.uid() == seen.reservation.uid());
        let same =
            current.as_ref().is_some_and(|c| c.resource_version() == seen.reservation.resource_version());
        match next(&seen) {
            Step::Rest | Step::LookAgain => return true,
            Step::AddFinalizer | Step::RemoveFinalizer if !same => return true,
            Step::AddFinalizer => {
                let mut now = (*seen.reservation).clone();
                now.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
                server.put(now);
                return true;
            }
            Step::RemoveFinalizer => {
                server.reservations.remove(&seen.reservation.name_any());
                return true;
            }
            Step::Report(status) => {
                if server.write(&*seen.reservation, *status).is_none() {
                    let own = entry_of(&seen.reservation, 0);
                    self.settle(seen.holders().into_iter().map(|of| (of, vec![own.clone()])).collect());
                }
                return true;
            }
            Step::ReadLive => {
                let Some(current) = current else { return true };
                let outcome = seen.outcome.take();
                seen = Seen { live: true, outcome, ..server.seen(current) };
                if seen.reservation.spec.parent.is_some() {
                    let on = |of: &DiskReservation| of.status.as_ref().and_then(|s| s.node_disk.clone());
                    let on = on(&seen.reservation).or_else(|| on(seen.parent.as_ref()?));
                    seen.disks.retain(|disk| Some(disk.name_any()) == on);
                }
            }
            Step::Take(of, entry) => of_kind!(&of, |name: K| {
                let holder = server.get::<K>(name);
                let taken = holder.and_then(|holder| {
                    let entries = holder.give(&seen, &entry).ok()?.into_entries();
                    server.write(&*holder, Holder::<DiskReservation>::with_entries(&*holder, entries))
                });
                K::see(name, taken, &mut seen);
            }),
            Step::Release(of) => of_kind!(&of, |name: K| {
                let uid = seen.reservation.uid().unwrap();
                let released = server.get::<K>(name).and_then(|holder| {
                    let entries = Holder::<DiskReservation>::ledger(&*holder).release(&uid).into_entries();
                    server.write(&*holder, Holder::<DiskReservation>::with_entries(&*holder, entries))
                });
                K::see(name, released, &mut seen);
            }),
            // No volume of the model is kept (X8), and no reservation is static (R2).
            Step::MakeRoom(..) => seen.room_made = true,
            Step::Delete => unreachable!(),
            // No kind is deleted, and a reservation leaves a disk before the disk goes (D7).
            Step::MakeDisk(_) => unreachable!(),
            Step::Settle(unsettled) => {
                self.settle(unsettled);
                seen.settled = true;
            }
        }
        self.seen = Some(seen);
        true
    }

    /// Reconciles a disk. The model ignores the sums in its status.
    pub fn look_at_disk(&mut self, name: &str) {
        let Some(disk) = self.cache.get::<NodeDisk>(name) else { return };
        let (owners, now) = (self.cache.owners(&*disk), Timestamp::UNIX_EPOCH);
        let seen = DiskSeen {
            users: vec![],
            disk,
            owners,
            node_ready: Some(true),
            cordoned: false,
            silent: false,
            missing: false,
            settled: false,
            now,
        };
        if let summary::Step::Settle(entries) = next_for_disk(&seen) {
            self.settle(vec![(LedgerOf::Disk(name.to_owned()), entries)]);
        }
    }

    /// Reconciles a VolumeRole.
    pub fn look_at_role(&mut self, name: &str, server: &mut Store) {
        let Some(role) = self.cache.get::<VolumeRole>(name) else { return };
        let seen = RoleSeen {
            disks: self.cache.disks.values().cloned().collect(),
            nodes: vec![],
            role,
            roles: self.cache.roles.values().cloned().collect(),
            reservations: self.cache.reservations.values().cloned().collect(),
            refused: None,
            settled: false,
            now: Timestamp::UNIX_EPOCH,
        };
        match next_for_role(&seen) {
            summary::Step::Settle(entries) => {
                self.settle(vec![(LedgerOf::Role(name.to_owned()), entries)]);
            }
            summary::Step::Report(status) => drop(server.write(&*seen.role, status)),
        }
    }
}

impl Settling {
    fn write(self, server: &mut Store, seen: Option<&mut Seen>) {
        let (Some(ledger), Some(read)) = (self.ledger, self.owners) else { return };
        let volumes: Vec<_> = read.volumes.values().map(|v| (**v).clone()).collect();
        let reservations: Vec<_> = read.reservations.values().map(|r| (**r).clone()).collect();
        let owner = |entry: LedgerEntry| {
            let now =
                read.get::<DiskReservation>(&entry.name).filter(|now| now.uid().as_ref() == Some(&entry.uid));
            let owner = match now {
                Some(now) => {
                    let parent = read.parent_of(&now).map(|parent| parent.spec.role.clone());
                    Owner::Is(Box::new((*now).clone()), parent)
                }
                None => Owner::Gone { lived_in: is_lived_in(&entry.uid, &volumes, &reservations) },
            };
            (entry, owner)
        };
        let owners: Vec<_> = self.entries.into_iter().map(owner).collect();
        of_kind!(&self.of, |name: K| {
            let Some(holder) = ledger.get::<K>(name) else { return };
            if let Some((now, seen)) = server.write(&*holder, settled(&*holder, &owners)).zip(seen) {
                K::see_settled(name, now, seen);
            }
        });
    }
}
