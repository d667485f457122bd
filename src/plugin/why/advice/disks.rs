//! Steps for disks and their nodes.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::super::{containers, holders::users_of_disk};
use super::About;
use crate::api::condition;
use crate::api::{DiskReservation, DiskReservationStatus, LedgerEntry, NodeDisk};
use crate::plan::advice;
use crate::plan::candidate::is_cordoned;
use crate::plan::node_disk::{self, UNCONFIGURED};

impl<'a> About<'a> {
    /// `node n1`.
    pub(super) fn node(&self) -> String {
        let disk = self.snapshot.disks.iter().find(|d| Some(d.name_any()) == self.disk);
        let placed = self.volume.and_then(|volume| volume.status.as_ref()?.node_name.clone());
        let reserved = || self.reservation.and_then(|r| r.status.as_ref()?.node_name.clone());
        let node = disk.map(|disk| disk.spec.node_name.clone()).or(placed).or_else(reserved);
        node.map_or_else(|| "its node".to_owned(), |node| format!("node {node}"))
    }

    /// The pod of the agent on the object's node.
    pub(super) fn agent(&self) -> Option<&'a Pod> {
        let node = self.node();
        let is_agent = |p: &&Pod| {
            let on = p.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
            p.labels().get("app.kubernetes.io/component").is_some_and(|component| component == "agent")
                && on.is_some_and(|on| node == format!("node {on}"))
        };
        self.snapshot.pods.iter().find(is_agent)
    }

    pub(super) fn agent_log(&self) -> String {
        match self.agent() {
            Some(pod) if containers::have_logs(pod) => {
                advice::read_agent_log(pod.namespace().unwrap_or_default(), pod.name_any())
            }
            Some(pod) => advice::describe_pod(pod.name_any(), pod.namespace().unwrap_or_default()),
            None => advice::find_agent(self.node()),
        }
    }

    /// The agent's message has the cause, so its log adds nothing. A disk without content that is no longer configured can go.
    pub fn disk(&self) -> Option<&'a NodeDisk> {
        self.snapshot.disks.iter().find(|disk| Some(disk.name_any()) == self.disk)
    }

    pub fn mend_disk(&self) -> String {
        let left = self.disk().filter(is_left).and_then(|disk| Some((disk, self.empty_reservations(disk)?)));
        if let Some((disk, reservations)) = left {
            let mut stay = reservations.iter().filter(|r| r.metadata.deletion_timestamp.is_none());
            return match (stay.next(), reservations.is_empty()) {
                (Some(stays), _) => advice::delete_left_on_disk(stays.name_any(), disk.name_any()),
                (None, true) => advice::delete(format!("nd/{}", disk.name_any())),
                (None, false) => advice::look_again(),
            };
        }
        let release = self.agent().and_then(|pod| {
            Some((pod.labels().get("app.kubernetes.io/instance")?, pod.namespace().unwrap_or_default()))
        });
        match release {
            Some((release, namespace)) => advice::mend_disk(release, namespace),
            None => self.agent_log(),
        }
    }

    /// The reservations on a disk. `None`: something may be in one of them, or its agent decides about it.
    fn empty_reservations(&self, disk: &NodeDisk) -> Option<Vec<&'a DiskReservation>> {
        let entries = disk.status.iter().flat_map(|status| &status.reservations);
        let of = |entry: &LedgerEntry| {
            let found =
                self.snapshot.reservations.iter().find(|r| r.metadata.uid.as_ref() == Some(&entry.uid));
            found.filter(|r| !r.spec.is_static && r.status.as_ref().is_some_and(is_empty))
        };
        entries.map(of).collect()
    }

    /// The step for a disk that was declared gone: its pods end first.
    pub(super) fn empty_gone_disk(&self) -> String {
        let disk = self.disk.as_deref().unwrap_or_default();
        match users_of_disk(self.snapshot, disk).first() {
            Some(pod) => advice::end_pods_of_gone(&pod.name, &pod.namespace, disk),
            None => advice::empty_gone_disk(&self.argument),
        }
    }

    /// True if the configuration gives the disk less than is reserved on it.
    pub(super) fn is_overbooked(&self) -> bool {
        let disk = self.snapshot.disks.iter().find(|disk| Some(disk.name_any()) == self.disk);
        disk.and_then(|disk| disk.status.as_ref()).is_some_and(node_disk::is_overbooked)
    }

    /// The cordoned node of the disk, or else the first cordoned node.
    pub(super) fn cordoned_node(&self) -> Option<&str> {
        let cordoned = || self.snapshot.disks.iter().filter(|disk| is_cordoned(disk));
        let own = cordoned().find(|disk| disk.metadata.name == self.disk);
        own.or(cordoned().next()).map(|disk| &*disk.spec.node_name)
    }
}

/// True if the disk is not configured any more, and reports no data.
fn is_left(disk: &&NodeDisk) -> bool {
    disk.status.as_ref().is_some_and(|status| {
        let ready = condition::get(&status.conditions, condition::READY);
        status.orphans.is_empty() && ready.is_some_and(|ready| ready.message.starts_with(UNCONFIGURED))
    })
}

/// True if a reservation has neither volumes nor kept data, and nothing was carved out of it.
fn is_empty(status: &DiskReservationStatus) -> bool {
    status.volumes.is_empty() && status.refinements.is_empty()
}
