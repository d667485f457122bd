//! Makes, fences and erases the volumes of the node, and tells how they are (V5–V10, X2–X4).

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};

use crate::api::condition::{self, BACKED, Verdict, reason};
use crate::api::{
    AGENT_MANAGER, BackingState, ErasePolicy, FsType, NodePart, PodRef, Reserved, SharedPersistentVolume,
    SharedPersistentVolumeStatus, Size, VolumeMode,
};
use crate::cluster;
use crate::host::{self, FenceReport, Host, VolumeSpec, VolumeUid};
use crate::plan::LISTED_PODS;
use crate::plan::keep::{self, OnDisk, Task};
use crate::plan::resize::OnNode;
use crate::telemetry::{self, Metrics};

use super::disks::Places;

/// What the reconciles of one node's volumes share.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) node: String,
    pub(super) host: Arc<Host>,
    pub(super) places: Places,
    pub(super) metrics: Arc<Metrics>,
}

/// How soon a volume is looked at again while it is still mounted and to be destroyed, or could not be made.
const AGAIN: Duration = Duration::from_secs(2);
const AFTER_FAILURE: Duration = Duration::from_secs(15);

pub(super) async fn reconcile(
    volume: Arc<SharedPersistentVolume>,
    ctx: Arc<Context>,
) -> Result<Option<Duration>, cluster::Error> {
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let Ok(uid) = volume.uid().unwrap_or_default().parse::<VolumeUid>() else {
        tracing::error!(volume = volume.name_any(), "its UID is no UUID: it is left alone");
        return Ok(None);
    };
    let mut volume = (*volume).clone();
    if volume.status.as_ref().and_then(|s| s.node.as_ref()).is_some_and(|n| n.backing == BackingState::Erased)
    {
        return Ok(None);
    }
    let on_disk = look(&volume, &uid, &ctx).await;
    let next = |volume: &_| on_disk.as_ref().map(|on_disk| keep::next(volume, *on_disk));
    if next(&volume) == Ok(Task::Make) && on_disk.as_ref().is_ok_and(|on_disk| !on_disk.there) {
        // Nothing is made on the word of a cache: the object may have been destroyed since.
        match cluster::get(&api, &volume.name_any()).await? {
            Some(now) if now.uid() == volume.uid() => volume = now,
            _ => return Ok(None),
        }
    }
    let mut status = volume.status.clone().unwrap_or_default();
    let task = next(&volume);
    let done = match task {
        Ok(task) => {
            let size = on_disk.as_ref().ok().and_then(|on_disk| on_disk.size);
            perform(task, &volume, &uid, size, &mut status, &ctx).await
        }
        // It may well be there: it is neither lost nor made.
        Err(error) => Err(error.clone()),
    };
    if let Err(error) = &done {
        tracing::warn!(volume = volume.name_any(), ?task, %error, "failed");
        let lost = matches!(error, host::Error::BackingLost { .. });
        let why = if lost { reason::BACKING_LOST } else { reason::BACKING_FAILED };
        set_backed(&volume, &mut status, Verdict::no(why, error.to_string()));
    }
    cluster::write_status(&api, &volume, &status, AGENT_MANAGER).await?;
    if task == Ok(Task::Unfence) {
        // Said first, done then: nobody may take it for fenced while it is not.
        match operate(&ctx, "Unfence", move |host| host.unfence(&uid)).await {
            Ok(()) | Err(host::Error::NotFound(_)) => {
                tracing::info!(volume = volume.name_any(), "can be mounted again")
            }
            Err(error) => {
                tracing::warn!(volume = volume.name_any(), %error, "failed to allow mounts again");
                return Ok(Some(AGAIN));
            }
        }
    }
    Ok(done.unwrap_or(Some(AFTER_FAILURE)))
}

/// What the volume's own disk has of it.
async fn look(volume: &SharedPersistentVolume, uid: &VolumeUid, ctx: &Context) -> host::Result<OnDisk> {
    let (disk, uid) = (disk(volume, ctx)?, uid.clone());
    let record = blocking(ctx, move |host| host.look(&disk, &uid)).await?;
    Ok(record.map_or(OnDisk::default(), |record| OnDisk {
        there: true,
        fenced: record.fenced,
        size: (record.state != host::State::Creating).then_some(record.spec.size_bytes),
        resizing: record.resizing.is_some(),
    }))
}

/// The disk of this node that the volume is on.
fn disk(volume: &SharedPersistentVolume, ctx: &Context) -> host::Result<String> {
    let name = volume.status.as_ref().and_then(|status| status.node_disk.as_deref()).unwrap_or_default();
    let none = || host::Error::InvalidArgument(format!("NodeDisk {name} is no disk of this node"));
    ctx.places.of(name).ok_or_else(none)
}

/// Does the task and notes in `status` what came of it; says when to look again.
async fn perform(
    task: Task,
    volume: &SharedPersistentVolume,
    uid: &VolumeUid,
    on_disk: Option<u64>,
    status: &mut SharedPersistentVolumeStatus,
    ctx: &Context,
) -> host::Result<Option<Duration>> {
    let mut node = status.node.clone().unwrap_or_default();
    let made = node.backing == BackingState::Made;
    let (uid, volume_uid) = (uid.clone(), uid);
    let mut again = None;
    match task {
        Task::Rest => return Ok(None),
        Task::Lost => return Err(lost(volume_uid)),
        Task::Make => {
            let (disk, mut spec) = wanted(volume, uid, ctx)?;
            // Another size than it has is not for creating: see plan::resize.
            spec.size_bytes = on_disk.unwrap_or(spec.size_bytes);
            if on_disk.is_none() {
                ensure_orphan(&disk, &spec, ctx).await?;
            }
            let size = Size::from_bytes(spec.size_bytes);
            operate(ctx, "Create", move |host| host.create(&disk, &spec)).await?;
            if on_disk.is_none() {
                tracing::info!(volume = volume.name_any(), size = size.as_str(), "made");
            }
            node.backing = BackingState::Made;
            node.size = Some(size);
            node.resize_failed = None;
            set_backed(volume, status, Verdict::yes(reason::BACKED, backed(volume)));
        }
        Task::Size(OnNode::Announce(size)) => node.growing = Some(Size::from_bytes(size)),
        Task::Size(OnNode::Withdraw) => (node.growing, node.resize_failed) = (None, None),
        Task::Size(OnNode::Resize(size)) => {
            // Its journal first has what the object says now: how the bytes go that a copy replaces, among others (X4).
            let (disk, mut spec) = wanted(volume, uid.clone(), ctx)?;
            spec.size_bytes = on_disk.unwrap_or(spec.size_bytes);
            let resize = move |host: &Host| host.create(&disk, &spec).and_then(|()| host.resize(&uid, size));
            match operate(ctx, "Resize", resize).await {
                Ok(()) => {
                    tracing::info!(volume = volume.name_any(), size, "resized");
                    node.size = Some(Size::from_bytes(size));
                    (node.growing, node.resize_failed) = (None, None);
                }
                // What cannot be used is another matter than what cannot be resized.
                Err(error @ (host::Error::BackingLost { .. } | host::Error::DiskUnavailable { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(volume = volume.name_any(), size, %error, "failed to resize");
                    let said = node.resize_failed.take();
                    let now = error.to_string();
                    node.resize_failed = Some(said.filter(|said| same_words(said, &now)).unwrap_or(now));
                    again = Some(AFTER_FAILURE);
                }
            }
        }
        Task::Fence => {
            let report = match operate(ctx, "Fence", move |host| host.fence(&uid)).await {
                // It was never made: there is nothing that could be mounted.
                Err(host::Error::NotFound(_)) if !made => {
                    FenceReport { users: Default::default(), in_use: false }
                }
                Err(host::Error::NotFound(_)) => return Err(lost(volume_uid)),
                other => other?,
            };
            let mut pods: Vec<PodRef> = report.users.into_values().map(|u| pod_ref(u.pod)).collect();
            pods.sort();
            pods.dedup();
            node.fenced = true;
            node.in_use = report.in_use || !pods.is_empty();
            tracing::info!(volume = volume.name_any(), in_use = node.in_use, "fenced");
            pods.truncate(LISTED_PODS);
            node.mounted_by = pods;
            again = node.in_use.then_some(AGAIN);
        }
        Task::Unfence => node = NodePart { fenced: false, in_use: false, mounted_by: vec![], ..node },
        Task::Erase => {
            let policy = erase_policy(volume);
            let bytes = match operate(ctx, "Erase", move |host| host.erase(&uid, policy)).await {
                Err(host::Error::NotFound(_)) if !made => 0,
                // What is not there although it was made, and has no receipt, was not erased by us (X4).
                Err(host::Error::NotFound(_)) => return Err(lost(volume_uid)),
                other => other?.bytes,
            };
            tracing::info!(volume = volume.name_any(), bytes, "erased");
            node.backing = BackingState::Erased;
            node.erased = Some(Size::from_bytes(bytes));
        }
    }
    status.node = Some(node);
    Ok(again)
}

/// It was made once, and there is no journal of it: that is never taken for erased.
fn lost(uid: &VolumeUid) -> host::Error {
    host::Error::BackingLost {
        uid: uid.clone(),
        reason: "no disk of this node has a journal of it".to_owned(),
    }
}

/// How the bytes of a volume are there.
fn backed(volume: &SharedPersistentVolume) -> String {
    match &volume.spec.adopt {
        None => "its bytes are allocated and formatted".to_owned(),
        Some(adopt) => format!("{} is adopted as it is; its size is not enforced", adopt.path),
    }
}

fn erase_policy(volume: &SharedPersistentVolume) -> host::ErasePolicy {
    match volume.spec.erase_policy {
        ErasePolicy::Discard => host::ErasePolicy::Discard,
        ErasePolicy::Zero => host::ErasePolicy::Zero,
    }
}

fn noted(of: &Reserved) -> host::Reserved {
    host::Reserved {
        name: of.name.clone(),
        role: of.role.clone(),
        size_bytes: of.size.bytes_or_zero(),
        labels: of.labels.clone(),
    }
}

fn wanted(
    volume: &SharedPersistentVolume,
    uid: VolumeUid,
    ctx: &Context,
) -> host::Result<(String, VolumeSpec)> {
    let invalid = |what: &str| host::Error::InvalidArgument(what.to_owned());
    let status = volume.status.as_ref().ok_or_else(|| invalid("the volume has no status"))?;
    let size = status.size.as_ref().unwrap_or(&volume.spec.size);
    let spec = VolumeSpec {
        uid,
        name: volume.name_any(),
        role: volume.spec.role.clone(),
        reservation: status.reservation.as_ref().map(|r| r.name.clone()).unwrap_or_default(),
        size_bytes: size.bytes().map_err(|e| invalid(&e.to_string()))?,
        fs_type: match volume.spec.fs_type {
            FsType::Ext4 => host::FsType::Ext4,
            FsType::Xfs => host::FsType::Xfs,
            FsType::Btrfs => host::FsType::Btrfs,
        },
        raw: volume.spec.volume_mode == VolumeMode::Block,
        shared: volume.spec.shared.is_some(),
        adopt: volume.spec.adopt.as_ref().map(|adopt| adopt.path.clone()),
        recover: volume.spec.recover.as_ref().map(|recover| recover.uid.parse()).transpose()?,
        erase_policy: Some(erase_policy(volume)),
        reservations: status.reserved.iter().map(noted).collect(),
        labels: volume.labels().clone(),
        gid: volume.spec.gid.map(u32::try_from).transpose().map_err(|e| invalid(&format!("gid: {e}")))?,
        mode: Some(permissions(volume)?),
        mount_options: volume.spec.mount_options.iter().map(|o| o.parse()).collect::<Result<_, _>>()?,
    };
    Ok((disk(volume, ctx)?, spec))
}

/// Refuses to recover data that has an object still; no object of a UID ever comes back (X6).
async fn ensure_orphan(disk: &str, spec: &VolumeSpec, ctx: &Context) -> host::Result<()> {
    let Some(from) = spec.recover.clone() else { return Ok(()) };
    let (disk, uid) = (disk.to_owned(), from.clone());
    if blocking(ctx, move |host| host.look(&disk, &uid)).await?.is_none() {
        return Ok(());
    }
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let unknown = |error: cluster::Error| {
        host::Error::Unsupported(format!(
            "who has the data of {from} is not known now: {}",
            telemetry::chain(&error)
        ))
    };
    // By its UID: the name in the journal is that of whoever had the data before, when it was being inherited.
    let all = cluster::list_metadata(&api, &ListParams::default()).await.map_err(unknown)?;
    match all.iter().find(|owner| owner.metadata.uid.as_deref() == Some(from.as_str())) {
        Some(owner) => Err(host::Error::Conflict(format!(
            "the data of {from} is that of SharedPersistentVolume {}, which is there: claim that one",
            owner.name_any()
        ))),
        None => Ok(()),
    }
}

/// Permissions of the volume's root (V12): without a word of its own pods of any user share it, or of its group; who may
/// mount it at all is decided by claims.
fn permissions(volume: &SharedPersistentVolume) -> host::Result<u32> {
    match (&volume.spec.permissions, volume.spec.gid) {
        (Some(octal), _) => u32::from_str_radix(octal, 8)
            .map_err(|e| host::Error::InvalidArgument(format!("permissions {octal}: {e}"))),
        (None, Some(_)) => Ok(0o2770),
        (None, None) => Ok(0o777),
    }
}

fn set_backed(
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    mut verdict: Verdict,
) {
    match condition::get(&status.conditions, BACKED) {
        Some(said) if said.reason == verdict.reason && same_words(&said.message, &verdict.message) => {
            verdict.message.clone_from(&said.message);
        }
        _ => {}
    }
    condition::set(&mut status.conditions, BACKED, verdict, volume.meta().generation, Timestamp::now());
}

/// Numbers that drift, such as free bytes, are no news: each would be a write, and each write another attempt.
fn same_words(said: &str, now: &str) -> bool {
    let words = |message: &str| message.replace(|c: char| c.is_ascii_digit(), "");
    words(said) == words(now)
}

fn pod_ref(pod: host::Pod) -> PodRef {
    PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid }
}

/// Runs blocking work on the host off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    ctx: &Context,
    work: impl FnOnce(&Host) -> host::Result<T> + Send + 'static,
) -> host::Result<T> {
    let host = ctx.host.clone();
    tokio::task::spawn_blocking(move || work(&host)).await.unwrap_or_else(|error| {
        Err(host::Error::Unsupported(format!("the agent failed in the middle of it: {error}")))
    })
}

/// The same, counted and timed (T3).
pub(super) async fn operate<T: Send + 'static>(
    ctx: &Context,
    operation: &'static str,
    work: impl FnOnce(&Host) -> host::Result<T> + Send + 'static,
) -> host::Result<T> {
    let started = Instant::now();
    let done = blocking(ctx, work).await;
    ctx.metrics.operated(operation, done.as_ref().err().map(host::Error::label), started.elapsed());
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    /// T2.
    #[test]
    fn numbers_that_drift_are_no_news() {
        let volume = testing::volume("v", "eng", 1);
        let mut status = SharedPersistentVolumeStatus::default();
        let mut says = |message: &str| {
            set_backed(&volume, &mut status, Verdict::no(reason::BACKING_FAILED, message));
            condition::get(&status.conditions, BACKED).unwrap().message.clone()
        };
        assert_eq!(says("disk d has 12 bytes free"), "disk d has 12 bytes free");
        assert_eq!(says("disk d has 345 bytes free"), "disk d has 12 bytes free");
        assert_eq!(says("mkfs failed"), "mkfs failed");
    }

    /// The API refuses a volume that no node could make.
    #[test]
    fn v1_the_smallest_volumes_of_api_and_host_are_the_same() {
        for (api, host) in [
            (FsType::Ext4, host::FsType::Ext4),
            (FsType::Xfs, host::FsType::Xfs),
            (FsType::Btrfs, host::FsType::Btrfs),
        ] {
            assert_eq!(api.min_bytes(), host.min_bytes(), "{host:?}");
        }
    }
}
