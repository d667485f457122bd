//! The state that the agent's tasks share, and their access to the host.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use kube::{Client, Resource};
use tokio::sync::Notify;

use crate::api::SharedPersistentVolume;
use crate::cluster::{self, Events, WorkQueue};
use crate::host::{self, Host, VolumeUid};
use crate::nri::Connected;
use crate::plan::held_by;
use crate::telemetry::Metrics;

use super::config::Scrub;
use super::copying::Copying;
use super::disk_names::DiskNames;
use super::held_targets::HeldTargets;
use super::live_reads::LiveReads;
use super::readings::Readings;
use super::refused_readers::RefusedReaders;

/// Shared by all tasks of one node.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) node: String,
    pub(super) host: Arc<Host>,
    pub(super) disk_names: DiskNames,
    pub(super) metrics: Arc<Metrics>,
    pub(super) publishing: Publishing,
    /// Notified when a NodeDisk may list too much or too little data without an object.
    pub(super) orphans_changed: Arc<Notify>,
    /// Volumes and their copies on this node, for publishes.
    pub(super) live_reads: LiveReads<(Option<SharedPersistentVolume>, Vec<SharedPersistentVolume>)>,
    pub(super) events: Events,
    pub(super) held_targets: HeldTargets,
    pub(super) refused_readers: RefusedReaders,
    pub(super) readings: Readings,
    /// `None` if copies are off (E2).
    pub(super) copying: Option<Copying>,
    /// The interval and the speed of readings that nobody asked for (E4).
    pub(super) scrub: Option<Scrub>,
    /// The volumes to reconcile, once their work queue runs.
    pub(super) volumes: OnceLock<Arc<WorkQueue<SharedPersistentVolume>>>,
    /// The container runtime asks the agent about new containers.
    pub(super) nri: Connected,
}

/// UIDs of the claims with a publish under way, from before its live read until after its mount. Such a claim is not
/// reported as released: the publish may have read the volume before the claim's binding began to end (C6).
#[derive(Clone, Default)]
pub(super) struct Publishing(Arc<Mutex<Vec<String>>>);

/// A publish under way; dropping the value ends the entry.
pub(super) struct UnderWay(Publishing, String);

impl Publishing {
    pub(super) fn begin(&self, claim_uid: &str) -> UnderWay {
        self.claims().push(claim_uid.to_owned());
        UnderWay(self.clone(), claim_uid.to_owned())
    }

    pub(super) fn is_under_way(&self, claim_uid: &str) -> bool {
        self.claims().iter().any(|claim| claim == claim_uid)
    }

    fn claims(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut claims = self.0.claims();
        if let Some(index) = claims.iter().position(|claim| *claim == self.1) {
            claims.swap_remove(index);
        }
    }
}

/// The failure of a step on the node, as a whole sentence. No variant has an additional source.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeError {
    #[error("{0}")]
    Host(host::Error),
    /// The state of the disk or the mount is unknown until the next attempt.
    #[error("the agent panicked in the middle of its work on the disk: see its log; the work is repeated")]
    Panicked,
    #[error("{}", .0.report())]
    Cluster(cluster::Error),
}

impl NodeError {
    /// The failure as a message. The host has only the volume's UID, and the disk's name in the configuration; people
    /// need the names of the objects, and of the node.
    pub(super) fn of_volume(&self, uid: &VolumeUid, name: &str, ctx: &Context) -> String {
        if let Self::Host(host::Error::InUse { holder, .. }) = self {
            return held_by::in_use(name, holder);
        }
        let message = self.to_string().replace(&format!("volume {uid}"), &format!("volume {name}"));
        let message = message.replace(" on this node", &format!(" on node {}", ctx.node));
        let (Self::Host(host::Error::NoSpace { disk, .. })
        | Self::Host(host::Error::DiskUnavailable { disk, .. })) = self
        else {
            return message;
        };
        let object = ctx.disk_names.node_disk_of(disk).map(|object| format!("NodeDisk {object}"));
        object.map_or(message.clone(), |object| message.replacen(&format!("disk {disk}"), &object, 1))
    }

    /// Name of the variant, for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Host(error) => error.label(),
            Self::Panicked => "Panicked",
            Self::Cluster(error) => error.label(),
        }
    }
}

impl From<host::Error> for NodeError {
    fn from(error: host::Error) -> Self {
        Self::Host(error)
    }
}

impl From<cluster::Error> for NodeError {
    fn from(error: cluster::Error) -> Self {
        Self::Cluster(error)
    }
}

impl Context {
    /// True if the node keeps a reader's mount read-only in containers that do not ask for that (M3).
    pub(super) fn keeps_read_only(&self) -> bool {
        self.host.locks_read_only() && self.nri.get()
    }

    /// True if that has not been so for some time.
    pub(super) fn never_keeps_read_only(&self) -> bool {
        !self.host.locks_read_only() || self.nri.is_absent()
    }

    /// Runs blocking work of the host on a thread for such work.
    pub(super) async fn on_host<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host) -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        let host = self.host.clone();
        tokio::task::spawn_blocking(move || work(&host)).await.map_err(|_| NodeError::Panicked)
    }

    /// Publishes a warning about an object.
    pub(super) async fn warn<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        action: &str,
        reason: &str,
        message: &str,
    ) {
        self.events.publish(object, None, false, action, reason, message).await;
    }

    /// Signs a text with the key on a disk; `None` if the disk has no key (A7).
    pub(super) async fn sign(&self, disk: &str, text: String) -> Result<Option<String>, NodeError> {
        let disk = disk.to_owned();
        Ok(self.on_host(move |host| host.sign(&disk, &text)).await??)
    }

    /// Runs an operation on the host, counted and timed (T3).
    pub(super) async fn operate<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Host) -> host::Result<T> + Send + 'static,
    ) -> Result<T, NodeError> {
        let started = Instant::now();
        let done = self.on_host(work).await.and_then(|done| Ok(done?));
        self.metrics.operated(operation, done.as_ref().err().map(NodeError::label), started.elapsed());
        done
    }
}
