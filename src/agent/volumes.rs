//! Makes, resizes, fences and erases the volumes of the node, and reports their state (V5–V10, X2–X4).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::reason::{BACKING_LOST, COPY_DIFFERS, NEARLY_FULL, SEALED, VERIFIED};
use crate::api::{AGENT_MANAGER, BackingState, PodRef, SharedPersistentVolume};
use crate::cluster;
use crate::host::{self, Host, VolumeUid};
use crate::plan::fullness::{self, Measured, Units};
use crate::plan::kept;
use crate::plan::node_task::{self, OnDisk, Outcome, Recorded, Task};
use crate::plan::publish::disk_not_served;
use crate::plan::resize::OnNode;
use crate::plan::{seal, verify};

use super::config::Scrub;
use super::context::{Context, NodeError};
use super::copies;
use super::held::{self, pod_ref};
use super::seals;
use super::volume_spec::{erase_policy, volume_spec};

/// Takes a volume one step further. Returns the pause before the next reconcile, if one is needed without a change.
///
/// 1. Gather: the volume's record on the disk, the mounts of claims that are ending, and a measurement; in the end the
///    processes that hold the volume, for the report alone. The object was read live,
///    before anything is made, unfenced or erased (X9).
/// 2. Decide: `plan::node_task::next`.
/// 3. Apply: the task on the disk, then the status that `report` and `release` of `plan::node_task` make of the
///    outcome. A fence is lifted after the status: while the status says "fenced", the volume must be fenced.
pub(super) async fn reconcile(
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<Option<Duration>, cluster::Error> {
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let name = volume.name_any();
    let Ok(uid) = volume.uid().unwrap_or_default().parse::<VolumeUid>() else {
        tracing::error!(volume = name, "left a volume alone: its UID is no UUID");
        return Ok(None);
    };
    let ended = [BackingState::Erased, BackingState::Kept];
    if volume.status.as_ref().and_then(|s| s.node.as_ref()).is_some_and(|n| ended.contains(&n.backing)) {
        return Ok(None);
    }
    let on_disk = look(volume, &uid, ctx).await;

    // The end of the claim's binding is committed. So a later publish reads the mark, and is refused.
    let unmounted = match &on_disk {
        Ok(on_disk) => unmounted(volume, &uid, matches!(on_disk, OnDisk::Record(_)), ctx).await,
        Err(_) => vec![],
    };

    let measured = match &on_disk {
        Ok(on_disk) if node_task::is_measured(volume, *on_disk) => measure(&uid, ctx).await,
        _ => None,
    };

    // A disk without an answer may have the volume. So the volume is neither lost nor made.
    let task = on_disk.as_ref().map_or(Task::Rest, |on_disk| node_task::next(volume, *on_disk));

    if on_disk.is_ok() && !matches!(task, Task::Seal(seal::Step::Read) | Task::Verify | Task::Copy) {
        ctx.readings.stop(&uid);
    }
    if volume.metadata.deletion_timestamp.is_some()
        && let Some(copying) = &ctx.copying
    {
        copying.servings.stop(uid.as_str());
    }
    let done = match on_disk {
        Ok(on_disk) => perform(task, volume, &uid, on_disk, ctx).await,
        Err(error) => Err(error),
    };
    let outcome = match done {
        Ok(outcome) => outcome,
        Err(failed) => {
            let error = held::explained(&failed, &uid, &name, ctx).await;
            tracing::warn!(volume = name, ?task, error, "failed to work on a volume");
            match failed {
                NodeError::Host(host::Error::BackingLost { .. }) => Outcome::Lost(error),
                _ => Outcome::Failed(error),
            }
        }
    };
    let (mut status, pause) = node_task::report(volume, task, outcome, Timestamp::now());
    let pause = node_task::release(volume, &mut status, unmounted).or(pause);
    let holders = match node_task::is_held(volume, &status) {
        true => held::processes(&uid, ctx).await,
        false => vec![],
    };
    node_task::hold(&mut status, holders);
    let pause = node_task::refuse(&mut status, ctx.refused_readers.of(&name)).or(pause);
    let now = Timestamp::now();
    let pause = pause.or_else(|| verify::left(volume, ctx.scrub.as_ref().map(Scrub::every), now));
    let filled = measured.and_then(|measured| fullness::update(volume, &mut status, measured, now));
    cluster::write_status(&api, volume, &status, AGENT_MANAGER).await?;
    if let Some((reason, message)) = seal::event(volume, &status) {
        let ok = reason == SEALED;
        ctx.events.publish(volume, None, ok, "Seal", reason, message).await;
    }
    if let Some((reason, message)) = verify::event(volume, &status) {
        ctx.events.publish(volume, None, reason == VERIFIED, "Verify", reason, message).await;
        if reason == COPY_DIFFERS {
            let message = verify::on_pod(&name, message);
            warn_pods(&mounted_by(volume, ctx).await, "Verify", COPY_DIFFERS, &message, ctx).await;
        }
    }
    if let Some(message) = node_task::newly_lost(volume, &status) {
        ctx.warn(volume, "Look", BACKING_LOST, message).await;
        // Without its record nobody knows who has it mounted.
        let users = status.users.iter().cloned().chain(mounted_by(volume, ctx).await).collect();
        warn_pods(&users, "Look", BACKING_LOST, message, ctx).await;
    }
    if let Some(message) = filled {
        ctx.warn(volume, "Measure", NEARLY_FULL, &message).await;
        let message = fullness::on_pod(&name, &message);
        warn_pods(&mounted_by(volume, ctx).await, "Measure", NEARLY_FULL, &message, ctx).await;
    }
    if task == Task::Unfence {
        match ctx.operate("Unfence", move |host| host.unfence(&uid)).await {
            Ok(()) | Err(NodeError::Host(host::Error::NotFound(_))) => {
                tracing::info!(volume = name, "lifted the fence of a volume: it can be mounted again");
            }
            Err(error) => {
                tracing::warn!(
                    volume = name,
                    %error,
                    "failed to lift the fence of a volume"
                );
            }
        }
    }
    Ok(pause)
}

/// The volume's record on its own disk.
async fn look(volume: &SharedPersistentVolume, uid: &VolumeUid, ctx: &Context) -> Result<OnDisk, NodeError> {
    let (on, uid) = (disk_of(volume, ctx)?, uid.clone());
    let verify = verify::is_due(volume, ctx.scrub.as_ref().map(Scrub::every), Timestamp::now());
    let disk = on.clone();
    let found = move |host: &Host| {
        Ok::<_, host::Error>(match host.look(&disk, &uid)? {
            Some(record) => OnDisk::Record(Recorded {
                fenced: record.fenced,
                erasing: record.state == host::State::Erasing,
                size: (record.state != host::State::Creating).then_some(record.spec.size_bytes),
                resizing: record.resizing.is_some(),
                published: !record.publishes.is_empty(),
                seal: sealed(&record),
                verify,
            }),
            None if host.has_receipt(&disk, &uid)? => OnDisk::Receipt,
            None => OnDisk::Nothing,
        })
    };
    let found = ctx.on_host(found).await??;
    let recovers = volume.spec.recover.as_ref().and_then(|recover| recover.uid.parse().ok());
    let (true, OnDisk::Nothing, Some(from)) = (volume.metadata.deletion_timestamp.is_some(), found, recovers)
    else {
        return Ok(found);
    };
    let (disk, looked_for) = (on.clone(), VolumeUid::clone(&from));
    let data = ctx.on_host(move |host| host.look(&disk, &looked_for)).await??;
    // A volume that cannot inherit the data, such as one of another role, goes without the data.
    let spec = data.as_ref().map(|data| volume_spec(volume, data.spec.uid.clone(), None)).transpose()?;
    let fits = data.zip(spec).is_some_and(|(data, spec)| data.spec.may_become(&spec));
    let inherits = fits && owner_of(&on, &from, ctx).await?.is_none();
    Ok(if inherits { OnDisk::NotInherited } else { found })
}

/// The seal in a record, as the plan sees it.
fn sealed(record: &host::Record) -> seal::OnDisk {
    match &record.seal {
        None => seal::OnDisk::Open,
        Some(host::Seal { content: None, .. }) => {
            seal::OnDisk::Closed(record.publishes.values().any(|published| !published.read_only))
        }
        Some(host::Seal { content: Some(_), .. }) => seal::OnDisk::Sealed,
    }
}

/// The measurement of a volume; `None` if it fails, as it decides nothing.
async fn measure(uid: &VolumeUid, ctx: &Context) -> Option<Measured> {
    let uid = uid.clone();
    let usage = ctx.on_host(move |host| host.usage(&uid)).await.ok()?.ok()?;
    Some(measured(&usage))
}

/// The pods that have the volume mounted, for events. The users in its status may be on no node.
async fn mounted_by(volume: &SharedPersistentVolume, ctx: &Context) -> BTreeSet<PodRef> {
    let (Ok(on), Ok(uid)) = (disk_of(volume, ctx), volume.uid().unwrap_or_default().parse()) else {
        return BTreeSet::new();
    };
    let found = ctx.on_host(move |host| host.look(&on, &uid)).await.and_then(|found| Ok(found?));
    let pods = found.ok().flatten().map(|record| record.publishes).unwrap_or_default();
    pods.into_values().map(|published| pod_ref(published.pod)).collect()
}

async fn warn_pods(pods: &BTreeSet<PodRef>, action: &str, reason: &str, message: &str, ctx: &Context) {
    for pod in pods {
        ctx.warn(&cluster::pod_of(pod), action, reason, message).await;
    }
}

/// The measurement as the plan sees it.
pub(super) fn measured(usage: &host::Usage) -> Measured {
    Measured {
        bytes: Units { used: usage.used_bytes, available: usage.available_bytes },
        inodes: Units { used: usage.used_inodes, available: usage.available_inodes },
    }
}

/// The claims with an ending binding and without a mount (C6).
async fn unmounted(
    volume: &SharedPersistentVolume,
    uid: &VolumeUid,
    has_record: bool,
    ctx: &Context,
) -> Vec<String> {
    let mut claims = node_task::ending(volume);
    claims.retain(|claim| !ctx.publishing.is_under_way(claim));
    if claims.is_empty() || !has_record {
        return claims;
    }
    let (uid, looked_at) = (uid.clone(), uid.clone());
    let found = ctx.on_host(move |host| host.unmounted(&uid, claims)).await.and_then(|found| Ok(found?));
    found.unwrap_or_else(|error| {
        let (name, error) = (volume.name_any(), error.of_volume(&looked_at, &volume.name_any(), ctx));
        tracing::warn!(volume = name, error, "failed to look for mounts of claims that are being deleted");
        vec![]
    })
}

/// The disk of this node with the volume.
fn disk_of(volume: &SharedPersistentVolume, ctx: &Context) -> host::Result<String> {
    let name = volume.status.as_ref().and_then(|status| status.node_disk.as_deref()).unwrap_or_default();
    let none = || host::Error::InvalidArgument(disk_not_served(volume, name, &ctx.node));
    ctx.disk_names.disk_of(name).ok_or_else(none)
}

/// Returns when the volume's disk has not answered for some time; at once if the disk was hanging before.
pub(super) async fn until_disk_hangs(volume: &SharedPersistentVolume, ctx: &Context) {
    let disk = disk_of(volume, ctx).unwrap_or_default();
    let hung = ctx.host.hangs(&disk);
    while hung || !ctx.host.hangs(&disk) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Does the task on the disk. A creation uses the size in an existing record: a new size needs a resize.
async fn perform(
    task: Task,
    volume: &SharedPersistentVolume,
    uid: &VolumeUid,
    on_disk: OnDisk,
    ctx: &Context,
) -> Result<Outcome, NodeError> {
    let (name, uid) = (volume.name_any(), uid.clone());
    let size = if let OnDisk::Record(record) = on_disk { record.size } else { None };
    match task {
        // Another unreadable disk of the node does not stop the end of a lost volume (V10).
        Task::Fence | Task::Erase if matches!(on_disk, OnDisk::Nothing | OnDisk::NotInherited) => {
            Ok(Outcome::NoRecord)
        }
        Task::Rest | Task::Unfence | Task::Size(OnNode::Announce(_) | OnNode::Withdraw) => {
            Ok(Outcome::Untouched)
        }
        Task::Lost(_) => Ok(Outcome::NoRecord),
        Task::Copy => {
            let bytes = match size {
                Some(bytes) => bytes,
                None => match make(volume, &uid, None, ctx).await? {
                    Outcome::Made(bytes) => bytes,
                    failed => return Ok(failed),
                },
            };
            Ok(Outcome::Copied(bytes, copies::fill(volume, &uid, ctx).await))
        }
        Task::Verify => Ok(Outcome::Verify(seals::verify(volume, &uid, ctx).await)),
        Task::Seal(step) => Ok(Outcome::Seal(seals::perform(step, volume, &uid, ctx).await)),
        Task::Make | Task::MakeCopy => make(volume, &uid, size, ctx).await,
        Task::Size(OnNode::Resize(bytes)) => {
            // The record first gets the object's present spec. The spec has the erase policy for a replaced copy
            // (X4).
            let (disk, spec) = (disk_of(volume, ctx)?, volume_spec(volume, uid.clone(), size)?);
            let resized = uid.clone();
            let resize =
                move |host: &Host| host.create(&disk, &spec).and_then(|()| host.resize(&resized, bytes));
            match ctx.operate("Resize", resize).await {
                Ok(()) => {
                    tracing::info!(volume = name, bytes, "resized a volume");
                    Ok(Outcome::Resized(bytes))
                }
                // An unusable volume is a different failure than a volume that cannot be resized.
                Err(NodeError::Host(
                    error @ (host::Error::BackingLost { .. } | host::Error::DiskUnavailable { .. }),
                )) => Err(error.into()),
                Err(error) => {
                    let error = held::explained(&error, &uid, &name, ctx).await;
                    tracing::warn!(volume = name, bytes, error, "failed to resize a volume");
                    Ok(Outcome::NotResized(error))
                }
            }
        }
        Task::Fence => match ctx.operate("Fence", move |host| host.fence(&uid)).await {
            Err(NodeError::Host(host::Error::NotFound(_))) => Ok(Outcome::NoRecord),
            fenced => {
                let fenced = fenced?;
                let pods: Vec<PodRef> = fenced.users.into_values().map(|user| pod_ref(user.pod)).collect();
                tracing::info!(volume = name, pods = pods.len(), in_use = fenced.in_use, "fenced a volume");
                Ok(Outcome::Fenced { pods, in_use: fenced.in_use })
            }
        },
        Task::Keep => {
            // The node's own clock measures the time again, so a clock that is ahead ends nothing early.
            let since = Timestamp::now();
            let until = kept::until(volume, since).map_or(since, |until| until.0);
            ctx.operate("Keep", move |host| host.keep(&uid, host::Kept { since, until })).await?;
            tracing::info!(volume = name, %until, "kept the data of a destroyed volume");
            Ok(Outcome::Kept)
        }
        Task::Erase => {
            let policy = erase_policy(volume);
            match ctx.operate("Erase", move |host| host.erase(&uid, policy)).await {
                Err(NodeError::Host(host::Error::NotFound(_))) => Ok(Outcome::NoRecord),
                erased => {
                    let bytes = erased?.bytes;
                    tracing::info!(volume = name, bytes, "erased a volume");
                    if volume.spec.recover.is_some() {
                        ctx.orphans_changed.notify_one();
                    }
                    Ok(Outcome::Erased(bytes))
                }
            }
        }
    }
}

/// Makes the volume, or confirms that the volume of that size is complete.
async fn make(
    volume: &SharedPersistentVolume,
    uid: &VolumeUid,
    size: Option<u64>,
    ctx: &Context,
) -> Result<Outcome, NodeError> {
    let (disk, spec) = (disk_of(volume, ctx)?, volume_spec(volume, uid.clone(), size)?);
    if size.is_none()
        && let Some(from) = &spec.recover
        && let Some(owner) = owner_of(&disk, from, ctx).await?
    {
        return Ok(Outcome::Failed(node_task::has_owner(from.as_str(), &owner)));
    }
    let bytes = spec.size_bytes;
    let recovers = size.is_none() && spec.recover.is_some();
    match ctx.operate("Create", move |host| host.create(&disk, &spec)).await {
        Err(NodeError::Host(host::Error::NotFound(_))) if recovers => return Ok(Outcome::NoData),
        created => created?,
    }
    if recovers {
        ctx.orphans_changed.notify_one();
    }
    if size.is_none() {
        tracing::info!(volume = volume.name_any(), bytes, "made a volume");
    }
    Ok(Outcome::Made(bytes))
}

/// The name of the volume whose data is to be recovered, if its object still exists (X6). The search is by UID,
/// because a record that is being inherited has the name of an earlier owner. A UID never comes back.
async fn owner_of(disk: &str, from: &VolumeUid, ctx: &Context) -> Result<Option<String>, NodeError> {
    let (disk, uid) = (disk.to_owned(), from.clone());
    if ctx.on_host(move |host| host.look(&disk, &uid)).await??.is_none() {
        return Ok(None);
    }
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let all = cluster::list_metadata(&api, &ListParams::default()).await?;
    let owner = all.iter().find(|owner| owner.metadata.uid.as_deref() == Some(from.as_str()));
    Ok(owner.map(ResourceExt::name_any))
}
