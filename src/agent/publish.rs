//! Mounts the node's volumes into pods, for the CSI services (M1–M6, S7).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::{Api, ResourceExt};
use tonic::Code;

use crate::api::condition::reason::{COPY_DIFFERS, VOLUME_SEALED};
use crate::api::{AccessMode, MADE_BY_RESERVOIR, SharedPersistentVolume};
use crate::cluster;
use crate::csi::{self, Error, PublishRequest, Stats, Usage, VolumeHandle, Volumes};
use crate::host::{self, Host, Pod, Publish, VolumeUid};
use crate::plan::publish::{Permit, Refusal, Request, authorise, disk_not_served, local_copy};
use crate::plan::{seal, verify};
use crate::telemetry::Metrics;

use super::context::{Context, NodeError};
use super::held::{self, pod_ref};

/// Time limit for the API server's answer. Meanwhile nothing can be unmounted at the target.
const API_TIMEOUT: Duration = Duration::from_secs(30);

/// The node's volumes as CSI sees them.
pub(super) struct Node(pub(super) Arc<Context>);

impl Volumes for Node {
    /// 1. Gather: the volume that the PersistentVolume names, and for a sealed one of another node its copies here, read live;
    ///    does the node keep mounts read-only? A mount that is there is kept, also while the runtime is restarted.
    /// 2. Decide: `plan::publish::authorise`.
    /// 3. Apply: the mount, by the host.
    async fn publish(&self, request: PublishRequest) -> Result<(), Error> {
        let ctx = &*self.0;
        // The name becomes a part of a path of the API.
        let name = request.volume_context.get("volume").filter(|name| csi::is_name(name)).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "the PersistentVolume has no volume attribute `volume` with the name of a volume: {MADE_BY_RESERVOIR}"
            ))
        })?;
        let under_way = ctx.publishing.begin(request.handle.claim_uid());
        let unread =
            || format!("failed to read SharedPersistentVolume {name}, which the pod's claim is bound to");
        let read = async {
            let volume = cluster::get(&Api::<SharedPersistentVolume>::all(ctx.client.clone()), name).await?;
            let copies = cluster::copies_on(&ctx.node, volume.as_ref(), &ctx.client).await?;
            Ok::<_, cluster::Error>((volume, copies))
        };
        let found = tokio::time::timeout(API_TIMEOUT, ctx.live_reads.get(name, read))
            .await
            .map_err(|late| Error::unavailable(unread(), late))?
            .map_err(|error| Error::unavailable(unread(), error))?;
        let (volume, copies) = &*found;
        let copy = match published(volume.as_ref(), copies, &request.target, ctx).await {
            // A pod keeps what it has.
            Some(there) => copies.iter().find(|copy| copy.metadata.uid.as_deref() == Some(there.as_str())),
            None => volume.as_ref().and_then(|volume| local_copy(volume, copies, &ctx.node)),
        };
        // The volume that the pod gets to see.
        let mounted = copy.or(volume.as_ref());
        let mounted_uid = match copy.and_then(|copy| copy.metadata.uid.as_deref()) {
            Some(copy) => parsed(copy)?,
            None => uid(&request.handle)?,
        };

        let (target, looked_at) = (request.target.clone(), mounted_uid.clone());
        let is_kept = ctx.host.locks_read_only()
            && (ctx.nri.get() || ctx.on_host(move |host| host.is_read_only(&target)).await.unwrap_or(false));
        let is_closed = volume.as_ref().is_some_and(seal::is_closed);
        let refuses_writes = !is_kept
            && is_closed
            && matches!(ctx.on_host(move |host| host.refuses_writes(&looked_at)).await, Ok(Ok(true)));
        let asked = Request {
            volume: name,
            volume_uid: request.handle.volume_uid(),
            claim_uid: request.handle.claim_uid(),
            node: &ctx.node,
            namespace: &request.pod.namespace,
            read_only: request.read_only,
            keeps_read_only: is_kept || refuses_writes,
            block: request.block,
            several_pods: request.several_pods,
            fs_type: &request.fs_type,
            mount_options: &request.mount_options,
            has_copy: copy.is_some(),
        };
        let name = &mounted.map_or_else(|| name.clone(), ResourceExt::name_any);
        let pod =
            Pod { uid: request.pod.uid, namespace: request.pod.namespace.clone(), name: request.pod.name };
        let Permit { mode, with_others } = authorise(volume.as_ref(), asked).map_err(|refusal| {
            let is_reader = matches!(refusal, Refusal::SayReadOnly(_)) && ctx.never_keeps_read_only();
            if is_reader && ctx.refused_readers.note(name, pod_ref(pod.clone())) {
                ctx.volumes.get().inspect(|queue| queue.enqueue_name(name.as_str()));
            }
            refused(refusal)
        })?;

        let by_seal =
            volume.as_ref().and_then(|v| seal::on_pod(v, request.handle.claim_uid(), request.read_only));
        let publish = Publish {
            uid: mounted_uid,
            digest: copy.and(volume.as_ref()).and_then(|of| of.status.as_ref()?.digest.clone()),
            target: request.target.clone(),
            read_only: mode == AccessMode::ReadOnly,
            by_seal: by_seal.is_some(),
            pod,
            claim_uid: request.handle.claim_uid().to_owned(),
            with_others,
            unlocked: !request.read_only && !is_kept,
        };
        let (uid, pod) = (publish.uid.clone(), pod_ref(publish.pod.clone()));
        // The work on the host goes on after the caller has given up.
        let mount = move |host: &Host| {
            let _under_way = under_way;
            host.publish(&publish)
        };
        let published = ctx.operate("Mount", mount).await;
        if let Some(message) = by_seal.filter(|_| published.is_ok()) {
            // A writer of before stays one when the kubelet asks again.
            let target = request.target;
            if ctx.on_host(move |host| host.is_read_only(&target)).await.unwrap_or(false) {
                ctx.warn(&cluster::pod_of(&pod), "Mount", VOLUME_SEALED, &message).await;
            }
        }
        let differs = mounted.and_then(|volume| verify::differs(volume.status.as_ref()?));
        if let Some(differs) = differs.filter(|_| published.is_ok()) {
            let message = verify::on_pod(name, &differs.message);
            ctx.warn(&cluster::pod_of(&pod), "Mount", COPY_DIFFERS, &message).await;
        }
        if matches!(published, Err(NodeError::Host(host::Error::Busy { .. }))) {
            let users = mounted.and_then(|volume| volume.status.as_ref()).map(|status| &*status.users);
            held::report_waiting(&uid, &pod, users.unwrap_or_default(), ctx).await;
        }
        let on = mounted.and_then(|of| Some((of, of.status.as_ref()?.node_disk.as_deref()?)));
        published.map_err(|error| match (&error, on) {
            (NodeError::Host(host::Error::NotFound(_)), Some((of, on)))
                if ctx.disk_names.disk_of(on).is_none() =>
            {
                failed(&error, disk_not_served(of, on, &ctx.node))
            }
            _ => failed(&error, error.of_volume(&uid, name, ctx)),
        })
    }

    async fn unpublish(&self, handle: &VolumeHandle, target: &Path) -> Result<(), Error> {
        let (uid, target) = (uid(handle)?, target.to_owned());
        let (guess, at) = (uid.clone(), target.clone());
        let unmounted = self.0.operate("Unmount", move |host| host.unpublish_likely(&at, Some(&guess))).await;
        match &unmounted {
            Err(NodeError::Host(host::Error::Busy { .. })) => held::report(&uid, &target, &self.0).await,
            _ => self.0.held_targets.forget(&target),
        }
        unmounted.map_err(failed_on_node)
    }

    async fn stats(&self, handle: &VolumeHandle, path: &Path) -> Result<Stats, Error> {
        let (uid, claim_uid, path) = (uid(handle)?, handle.claim_uid().to_owned(), path.to_owned());
        let measured = self.0.on_host(move |host| host.usage_at(&uid, &claim_uid, &path)).await;
        let usage = measured.and_then(|usage| Ok(usage?)).map_err(failed_on_node)?;
        Ok(Stats {
            bytes: Usage {
                total: usage.total_bytes,
                used: usage.used_bytes,
                available: usage.available_bytes,
            },
            inodes: (usage.total_inodes > 0).then_some(Usage {
                total: usage.total_inodes,
                used: usage.used_inodes,
                available: usage.available_inodes,
            }),
        })
    }
}

impl csi::Observer for Metrics {
    fn finished(&self, method: &'static str, code: Code, took: Duration) {
        self.csi_called(method, &format!("{code:?}"), took);
    }
}

fn uid(handle: &VolumeHandle) -> Result<VolumeUid, Error> {
    parsed(handle.volume_uid())
}

fn parsed(uid: &str) -> Result<VolumeUid, Error> {
    uid.parse().map_err(|invalid: host::InvalidUid| failed_on_node(host::Error::from(invalid).into()))
}

/// Whichever of a volume and its copies on this node is published at a target.
async fn published(
    volume: Option<&SharedPersistentVolume>,
    copies: &[SharedPersistentVolume],
    target: &Path,
    ctx: &Context,
) -> Option<VolumeUid> {
    if copies.is_empty() {
        return None;
    }
    let uids = volume.into_iter().chain(copies).filter_map(|of| of.metadata.uid.as_ref()?.parse().ok());
    let (uids, target) = (uids.collect::<Vec<VolumeUid>>(), target.to_owned());
    ctx.on_host(move |host| host.published_at(&uids, &target)).await.ok().flatten()
}

fn refused(refusal: Refusal) -> Error {
    let message = refusal.to_string();
    match refusal {
        Refusal::NoVolume(_) => Error::NotFound(message),
        Refusal::OtherMode(_) | Refusal::OtherFileSystem(_) | Refusal::OtherOption { .. } => {
            Error::InvalidArgument(message)
        }
        Refusal::OtherVolume(_)
        | Refusal::OtherNode { .. }
        | Refusal::NoCopy { .. }
        | Refusal::NotBound(..)
        | Refusal::Destroyed(_)
        | Refusal::SayReadOnly(_)
        | Refusal::SealedReadOnly(..) => Error::FailedPrecondition(message),
    }
}

fn failed_on_node(error: NodeError) -> Error {
    failed(&error, error.to_string())
}

/// The kind of CSI error for each failure on the node. The kind is an uncertain one if a mount may be left.
fn failed(error: &NodeError, message: String) -> Error {
    use host::Error as Host;
    let NodeError::Host(error) = error else {
        return Error::unavailable("failed to finish the work on the node", message);
    };
    match error {
        Host::NotFound(_) => Error::NotFound(message),
        Host::InvalidArgument(_) => Error::InvalidArgument(message),
        Host::Conflict(_) => Error::Incompatible(message),
        Host::Fenced(_)
        | Host::Sealed(_)
        | Host::Unsealable { .. }
        | Host::Source(_)
        | Host::Differs(_)
        | Host::NotFenced(_)
        | Host::InUse { .. }
        | Host::Held { .. }
        | Host::BackingLost { .. }
        | Host::Unsupported(_) => Error::FailedPrecondition(message),
        Host::Busy { .. } | Host::NotReady(_) | Host::Stopped => Error::Busy(message),
        Host::NoSpace { .. } | Host::TooSmall { .. } => {
            Error::resource_exhausted("failed to get the space that the volume needs", message)
        }
        // Uncertain: an earlier mount may still exist.
        Host::DiskUnavailable { .. }
        | Host::UnsuitableDisk { .. }
        | Host::Corrupt { .. }
        | Host::RecordTooNew { .. }
        | Host::KernelTooOld(_)
        | Host::ProcessesHidden
        | Host::UnusableDevice(_)
        | Host::ProgramMissing(_)
        | Host::Command { .. }
        | Host::Panicked
        | Host::Io { .. } => Error::unavailable("failed on the node's disk", message),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use kube::Client;
    use tonic::Status;

    use super::*;
    use crate::host::HostConfig;

    const UID: &str = "0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03";

    /// T4: the next step for a volume that cannot grow while it is mounted is found by these words.
    #[test]
    fn t4_a_busy_volume_is_known_by_its_words() {
        let busy = crate::host::Error::Busy { what: "ext4".into() }.to_string();
        assert!(busy.ends_with(crate::plan::resize::BUSY), "{busy}");
    }

    /// T4: the same for a size that is too small.
    #[test]
    fn t4_the_least_size_of_a_volume_is_known_by_its_words() {
        let small = host::Error::TooSmall { uid: UID.parse().unwrap(), needed: 89948160, wanted: 16777216 };
        assert_eq!(crate::plan::resize::least_size(&small.to_string()), Some(89948160));
        assert_eq!(crate::plan::resize::least_size("ext4 is busy"), None);
    }

    /// A node without disks, with kubelet directory `dir`. No API server answers the node.
    fn node(dir: &Path) -> Node {
        let no_answer = tower::service_fn(async |_: http::Request<kube::client::Body>| {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("there is no API server"))
        });
        let (lock_timeout, patience) = (Duration::ZERO, Duration::from_secs(60));
        let config = HostConfig {
            disks: vec![],
            targets_root: dir.to_owned(),
            lock_timeout,
            patience,
            sysfs: "/sys".into(),
        };
        let client = Client::new(no_answer, "default");
        Node(Arc::new(Context {
            events: cluster::Events::new(client.clone(), "reservoir-agent", "n1"),
            client,
            node: "n1".to_owned(),
            host: Arc::new(Host::open(config).unwrap()),
            disk_names: Default::default(),
            metrics: Arc::default(),
            publishing: Default::default(),
            orphans_changed: Default::default(),
            live_reads: Default::default(),
            held_targets: Default::default(),
            refused_readers: Default::default(),
            readings: Default::default(),
            copying: None,
            scrub: None,
            volumes: Default::default(),
            nri: Default::default(),
        }))
    }

    fn handle() -> VolumeHandle {
        format!("{UID}.{UID}").parse().unwrap()
    }

    fn code<T>(result: Result<T, Error>) -> Code {
        Status::from(result.err().unwrap()).code()
    }

    /// L3, V10. A final code would make the kubelet forget the volume and leave its mount behind.
    #[tokio::test]
    async fn l3_a_panic_on_the_node_is_an_uncertain_error() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path());
        let panicked = node.0.operate("Mount", |_| -> host::Result<()> { panic!("as asked") }).await;
        assert_eq!(code(panicked.map_err(failed_on_node)), Code::Unavailable);
        let metrics = node.0.metrics.text();
        assert!(metrics.contains("operation=\"Mount\",outcome=\"Panicked\""), "{metrics}");
    }

    /// M7, S12. All targets are in the kubelet's directory; the host refuses every other path.
    #[tokio::test]
    async fn m7_a_path_that_is_no_target_is_an_invalid_argument() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path());
        let kubelet = dir.path().display();
        symlink("/", dir.path().join("link")).unwrap();
        for target in
            ["a", "a/b", "/", "/a/..", "/a/../b", "//.", &format!("{kubelet}/../x"), &format!("{kubelet}/")]
        {
            let target = Path::new(target);
            assert_eq!(code(node.unpublish(&handle(), target).await), Code::InvalidArgument, "{target:?}");
            assert_eq!(code(node.stats(&handle(), target).await), Code::NotFound, "{target:?}");
        }
        let outside = dir.path().join("link/etc/mount");
        assert_eq!(code(node.unpublish(&handle(), &outside).await), Code::AlreadyExists);
        node.unpublish(&handle(), &dir.path().join("pods/a/mount")).await.unwrap();
    }

    /// S7. Without the API server's answer nobody is authorised.
    #[tokio::test]
    async fn s7_a_publish_without_an_api_server_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut request = PublishRequest {
            handle: handle(),
            target: dir.path().join("mount"),
            read_only: false,
            block: false,
            several_pods: true,
            fs_type: String::new(),
            mount_options: vec![],
            pod: csi::PodInfo { uid: UID.into(), namespace: "ns".into(), name: "p".into() },
            volume_context: Default::default(),
        };
        let node = node(dir.path());
        assert_eq!(code(node.publish(request.clone()).await), Code::InvalidArgument, "which volume?");
        for wrong in ["", "a/b", "../nodedisks/n1.a", "a?watch=true", "A", "a b", "\u{e9}"] {
            request.volume_context.insert("volume".into(), wrong.into());
            assert_eq!(code(node.publish(request.clone()).await), Code::InvalidArgument, "{wrong:?}");
        }
        request.volume_context.insert("volume".into(), "data".into());
        assert_eq!(code(node.publish(request).await), Code::Unavailable);
    }
}
