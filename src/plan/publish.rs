//! The authorisation of a publish: decides if this pod may mount this volume (S7, X2).

use kube::ResourceExt;

use crate::api::condition::{self, READY, reason};
use crate::api::{
    AccessMode, ClaimBinding, FIXED_MOUNT_OPTIONS, MADE_BY_RESERVOIR, SharedPersistentVolume, VolumeMode,
};

use super::own_pvc::pvc_of;
use super::{persistent_volume, seal};

/// A request of the kubelet for a pod.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The volume's name, from the attributes of the PersistentVolume.
    pub volume: &'a str,
    /// The volume's UID, from the handle.
    pub volume_uid: &'a str,
    /// The claim's UID, from the handle.
    pub claim_uid: &'a str,
    /// The node that received the request.
    pub node: &'a str,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// True if the pod mounts the volume read-only.
    pub read_only: bool,
    /// True if the node keeps a read-only mount read-only in containers that do not ask for that, or if the file system itself
    /// is read-only.
    pub keeps_read_only: bool,
    /// True if the pod requests the device, and not a file system.
    pub block: bool,
    /// False if the PersistentVolume is for one pod alone.
    pub several_pods: bool,
    /// The file system in the PersistentVolume, if any.
    pub fs_type: &'a str,
    /// The mount options in the PersistentVolume.
    pub mount_options: &'a [String],
    /// True if the node has a [copy](local_copy) of the volume.
    pub has_copy: bool,
}

/// The permission to mount a volume for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// `ReadOnly` for a read-only mount.
    pub mode: AccessMode,
    /// True if other pods of the claim may use the volume at the same time.
    pub with_others: bool,
}

/// The reason why a pod may not mount a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No volume has this name.
    #[error(
        "there is no SharedPersistentVolume {0}: claim another volume; an administrator lists data without an object: kubectl reservoir orphans"
    )]
    NoVolume(String),
    /// The object of this name is not the volume that the claim was bound to (S4, C7).
    #[error(
        "volume {0} was destroyed and made again; this claim was bound to the old one: delete it and claim anew"
    )]
    OtherVolume(String),
    /// The volume is on another node. Normally the scheduler places no such pod on this node.
    #[error(
        "volume {volume} is on node {node}, not on this one: make the pod again without spec.nodeName, and it is placed there"
    )]
    OtherNode {
        /// Name of the volume.
        volume: String,
        /// Node of the volume.
        node: String,
    },
    /// The volume is sealed, and the node has no complete copy of it. The node's label went after the scheduler had read it.
    #[error(
        "volume {volume} is on node {node}, and no complete copy of it is on this node now: the pod starts when there is one; to \
         have it elsewhere, delete the pod"
    )]
    NoCopy {
        /// Name of the volume.
        volume: String,
        /// Node of the volume.
        node: String,
    },
    /// The volume does not list the claim, or the pod is in another namespace than the claim. A PersistentVolume was
    /// made or changed by hand, or the claim has ended.
    #[error(
        "volume {0} is not bound to the claim of this pod any more: kubectl get vclaim -n {1} -o wide says what each claim waits for"
    )]
    NotBound(String, String),
    /// The tombstone is set.
    #[error("volume {0} is destroyed: claim another one")]
    Destroyed(String),
    /// The pod mounts a ReadOnly claim without `readOnly`, on a node without NRI. The container runtime asks for a
    /// writable mount then, and clears the read-only flag, or fails to (M3).
    #[error(
        "claim {0} is ReadOnly, and the pod, which is older, mounts it without readOnly: true: delete the pod and make \
         it again, so that admission adds that; or enable NRI in the node's container runtime"
    )]
    SayReadOnly(ClaimBinding),
    /// The pod mounts a sealed volume without `readOnly`, on a node without NRI, from a disk whose file system serves others,
    /// too, or before the volume is sealed (M3, E1).
    #[error(
        "volume {0} is {word}, so pods may only read it, and this one mounts it without readOnly: true: say that in the pod, or \
         enable NRI in the node's container runtime{rest}",
        word = if *(.1) { "sealed" } else { "being sealed" },
        rest = if *(.1) { "" } else { "; on most disks the pod starts by itself when the volume is sealed" }
    )]
    SealedReadOnly(String, bool),
    /// The PersistentVolume was made or changed by hand.
    #[error(
        "the volumeMode of the PersistentVolume is not that of SharedPersistentVolume {0}: {MADE_BY_RESERVOIR}"
    )]
    OtherMode(String),
    /// The PersistentVolume was made by hand. A volume's file system never changes (V12).
    #[error(
        "the file system of the PersistentVolume is not that of SharedPersistentVolume {0}: {MADE_BY_RESERVOIR}"
    )]
    OtherFileSystem(String),
    /// Somebody added a mount option to the PersistentVolume. Those of a volume never change (V12).
    #[error(
        "PersistentVolume {pv} has the mount option {option}, and SharedPersistentVolume {volume} has not: take it out of \
         spec.mountOptions, and make the pod again: kubectl edit pv {pv}"
    )]
    OtherOption {
        /// Name of the volume.
        volume: String,
        /// Name of the PersistentVolume.
        pv: String,
        /// The option.
        option: String,
    },
}

/// Why a volume that the node has no record of cannot be mounted: the agent serves its disk no more (D8), or it was declared gone (D4).
pub fn disk_not_served(volume: &SharedPersistentVolume, node_disk: &str, node: &str) -> String {
    let conditions = volume.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let is_gone = condition::get(conditions, READY).is_some_and(|ready| ready.reason == reason::VOLUME_GONE);
    let volume = volume.name_any();
    if is_gone {
        return format!(
            "NodeDisk {node_disk} of volume {volume} was declared gone, and its data with it: end this pod, delete its claim, and claim \
             another volume"
        );
    }
    format!(
        "volume {volume} is on NodeDisk {node_disk}, which the agent of node {node} does not serve: it is not in agent.disks of the \
         chart any more, or not opened yet; the data stays there; have an administrator run: kubectl reservoir why nd/{node_disk}"
    )
}

/// The copy of a sealed volume that pods of a node read in its place (E3), out of the copies there: on its own node while the volume
/// itself cannot be used. One that is ending serves its present users, so its own record decides in the end, and the fence
/// in it.
pub fn local_copy<'a>(
    volume: &SharedPersistentVolume,
    copies: &'a [SharedPersistentVolume],
    node: &str,
) -> Option<&'a SharedPersistentVolume> {
    let status = volume.status.as_ref()?;
    let digest = status.digest.as_ref()?;
    if status.node_name.as_deref() == Some(node) && condition::is_true(&status.conditions, READY) {
        return None;
    }
    let serves = |copy: &&SharedPersistentVolume| {
        let status = copy.status.clone().unwrap_or_default();
        let of = copy.spec.copy_of.as_ref();
        of.is_some_and(|of| Some(&of.uid) == volume.metadata.uid.as_ref())
            && status.digest.as_ref() == Some(digest)
            && status.node_name.as_deref() == Some(node)
            && status.destroy.is_none_or(|destroy| destroy.tombstone.is_none())
    };
    copies.iter().filter(serves).min_by_key(|copy| (copy.is_ending(), copy.name_any()))
}

/// Permits the mount or refuses it. The live read includes a claim that was bound a moment ago, and no claim that is
/// gone.
pub fn authorise(volume: Option<&SharedPersistentVolume>, request: Request<'_>) -> Result<Permit, Refusal> {
    let name = request.volume.to_owned();
    let Some(volume) = volume else { return Err(Refusal::NoVolume(name)) };
    if volume.uid().as_deref() != Some(request.volume_uid) {
        return Err(Refusal::OtherVolume(name));
    }
    let not_bound = || Refusal::NotBound(request.volume.to_owned(), request.namespace.to_owned());
    let status = volume.status.as_ref().ok_or_else(not_bound)?;
    if status.node_name.as_deref() != Some(request.node) && !request.has_copy {
        let node = status.node_name.clone().unwrap_or_default();
        return Err(match status.digest.is_some() && volume.spec.copies.is_some() {
            true => Refusal::NoCopy { volume: name, node },
            false => Refusal::OtherNode { volume: name, node },
        });
    }
    if status.destroy.as_ref().is_some_and(|d| d.tombstone.is_some()) {
        return Err(Refusal::Destroyed(name));
    }
    let same =
        |b: &&ClaimBinding| b.uid == request.claim_uid && b.namespace == request.namespace && !b.ending;
    let binding = status.claims.iter().find(same).ok_or_else(not_bound)?;
    if request.block != (volume.spec.volume_mode == VolumeMode::Block) {
        return Err(Refusal::OtherMode(name));
    }
    let mode = match (binding.mode, request.read_only) {
        // A claim that was bound before the seal reads from then on.
        (AccessMode::ReadWrite, false) if seal::is_closed(volume) && !request.keeps_read_only => {
            return Err(Refusal::SealedReadOnly(name, status.digest.is_some()));
        }
        (AccessMode::ReadWrite, false) if seal::is_closed(volume) => AccessMode::ReadOnly,
        (AccessMode::ReadOnly, false) if !request.keeps_read_only && !request.block => {
            return Err(Refusal::SayReadOnly(binding.clone()));
        }
        (AccessMode::ReadWrite, false) => AccessMode::ReadWrite,
        (AccessMode::ReadOnly, _) | (AccessMode::ReadWrite, true) => AccessMode::ReadOnly,
    };
    let is_of_volume = |option: &String| {
        volume.spec.mount_options.contains(option) || FIXED_MOUNT_OPTIONS.contains(&option.as_str())
    };
    if !request.fs_type.is_empty() && request.fs_type != volume.spec.fs_type.name() {
        return Err(Refusal::OtherFileSystem(name));
    }
    if let Some(option) = request.mount_options.iter().find(|option| !is_of_volume(option)) {
        let (pv, option) = (persistent_volume::name_for(request.claim_uid), option.clone());
        return Err(Refusal::OtherOption { volume: name, pv, option });
    }
    Ok(Permit { mode, with_others: !is_for_one_pod(volume, request.several_pods) })
}

/// True for a volume of one pod at a time (M2). With a PersistentVolumeClaim of a StorageClass, the
/// access mode `ReadWriteOnce` admits several pods of the node (F1). Only the controller writes the label that tells the
/// two apart, so a PersistentVolume that somebody changed decides nothing for a VolumeClaim.
pub fn is_for_one_pod(volume: &SharedPersistentVolume, several_pods: bool) -> bool {
    volume.spec.shared.is_none() && !(pvc_of(volume).is_some() && several_pods)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    const REQUEST: Request<'_> = Request {
        volume: "v",
        volume_uid: "uid-v",
        claim_uid: "c-rw",
        node: "n1",
        namespace: "ns",
        read_only: false,
        keeps_read_only: false,
        block: false,
        several_pods: true,
        fs_type: "",
        mount_options: &[],
        has_copy: false,
    };

    fn bound_volume() -> SharedPersistentVolume {
        let mut v = ready_volume("v", "eng", true);
        v.status.as_mut().unwrap().claims = vec![
            ClaimBinding { mode: AccessMode::ReadOnly, ..bound_by("ns", "r", "c-ro") },
            bound_by("ns", "w", "c-rw"),
        ];
        v
    }

    #[test]
    fn s7_a_pod_is_bound_here_and_authorised_or_refused() {
        let mut v = bound_volume();
        let ask = |request| authorise(Some(&v), request).map(|permit| permit.mode);
        assert_eq!(ask(REQUEST), Ok(AccessMode::ReadWrite));
        assert_eq!(ask(Request { read_only: true, ..REQUEST }), Ok(AccessMode::ReadOnly));
        let reader = Request { claim_uid: "c-ro", ..REQUEST };
        assert_eq!(ask(Request { read_only: true, ..reader }), Ok(AccessMode::ReadOnly));
        assert_eq!(ask(Request { keeps_read_only: true, ..reader }), Ok(AccessMode::ReadOnly), "F2");
        assert!(matches!(ask(reader), Err(Refusal::SayReadOnly(_))), "M3");
        let refused = |request| ask(request).unwrap_err();
        assert!(matches!(refused(Request { claim_uid: "c-xx", ..REQUEST }), Refusal::NotBound(..)));
        assert!(matches!(refused(Request { node: "n2", ..REQUEST }), Refusal::OtherNode { .. }));
        assert!(matches!(refused(Request { volume_uid: "other", ..REQUEST }), Refusal::OtherVolume(_)));
        let foreign = refused(Request { namespace: "other", ..REQUEST });
        assert!(matches!(foreign, Refusal::NotBound(..)), "the claim is another namespace's");
        assert!(matches!(authorise(None, REQUEST), Err(Refusal::NoVolume(_))));
        let mut leaving = v.clone();
        leaving.status.as_mut().unwrap().claims[1].ending = true;
        assert!(matches!(authorise(Some(&leaving), REQUEST), Err(Refusal::NotBound(..))), "C6");
        let device = Request { block: true, ..REQUEST };
        assert!(matches!(refused(device), Refusal::OtherMode(_)));
        v.spec.volume_mode = VolumeMode::Block;
        assert!(matches!(authorise(Some(&v), REQUEST), Err(Refusal::OtherMode(_))));
        assert!(authorise(Some(&v), device).is_ok());
    }

    #[test]
    fn x2_after_the_tombstone_no_mount_succeeds() {
        let mut v = bound_volume();
        v.status.as_mut().unwrap().destroy =
            Some(crate::api::Destroy { tombstone: some_time(), ..Default::default() });
        assert!(matches!(authorise(Some(&v), REQUEST), Err(Refusal::Destroyed(_))));
    }

    /// F1, M2.
    #[test]
    fn f1_read_write_once_is_the_pods_of_one_node() {
        let exclusive = |made_for_pvc: bool| {
            let mut v = ready_volume("v", "eng", false);
            v.status.as_mut().unwrap().claims = vec![bound_by("ns", "w", "c-rw")];
            v.metadata.labels =
                made_for_pvc.then(|| [(crate::api::LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
            v
        };
        for (volume, several_pods, with_others) in [
            (exclusive(true), true, true),
            (exclusive(true), false, false),
            (exclusive(false), true, false),
            (exclusive(false), false, false),
            (bound_volume(), false, true),
        ] {
            let request = Request { several_pods, ..REQUEST };
            assert_eq!(authorise(Some(&volume), request).unwrap().with_others, with_others);
        }
    }

    /// D8: what is on such a disk is there.
    #[test]
    fn d8_a_volume_of_a_disk_that_is_not_served_is_not_called_missing() {
        let mut volume = ready_volume("v", "eng", true);
        let said = disk_not_served(&volume, "n1.a", "n1");
        assert!(
            said.starts_with("volume v is on NodeDisk n1.a, which the agent of node n1 does not serve"),
            "{said}"
        );
        let step = "the data stays there; have an administrator run: kubectl reservoir why nd/n1.a";
        assert!(said.ends_with(step), "{said}");
        let conditions = &mut volume.status.as_mut().unwrap().conditions;
        let gone = condition::Verdict::no(reason::VOLUME_GONE, "");
        condition::set(conditions, READY, gone, None, jiff::Timestamp::UNIX_EPOCH);
        let said = disk_not_served(&volume, "n1.a", "n1");
        assert!(
            said.contains("was declared gone, and its data with it") && !said.contains("stays"),
            "D4: {said}"
        );
    }

    #[test]
    fn e1_a_claim_of_before_reads_a_sealed_volume() {
        let mut v = bound_volume();
        v.spec.sealed = true;
        let of = |v: &SharedPersistentVolume, read_only, keeps_read_only| {
            let request = Request { read_only, keeps_read_only, ..REQUEST };
            authorise(Some(v), request).map(|permit| permit.mode).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(of(&v, true, false), Ok(AccessMode::ReadOnly));
        assert_eq!(of(&v, false, true), Ok(AccessMode::ReadOnly));
        let why = of(&v, false, false).unwrap_err();
        assert!(why.starts_with("volume v is being sealed, so pods may only read it"), "{why}");
        v.status.as_mut().unwrap().digest = Some("blake3:00".into());
        let why = of(&v, false, false).unwrap_err();
        assert!(why.ends_with("say that in the pod, or enable NRI in the node's container runtime"), "{why}");
    }

    /// E3: a half copy, one of another content, one that is gone, and one of another node are none.
    #[test]
    fn e3_a_pod_reads_the_complete_copy_of_its_node() {
        let mut of = bound_volume();
        of.spec.copies = Some(Default::default());
        let copy = |name: &str, change: fn(&mut SharedPersistentVolume)| {
            let mut copy = ready_volume(name, "eng", true);
            copy.spec.copy_of = Some(crate::api::CopyOf {
                uid: "uid-v".into(),
                digest: "blake3:00".into(),
                ..Default::default()
            });
            let status = copy.status.as_mut().unwrap();
            (status.node_name, status.digest) = (Some("n2".into()), Some("blake3:00".into()));
            change(&mut copy);
            copy
        };
        let right = [copy("b", |_| ())];
        assert_eq!(local_copy(&of, &right, "n2"), None, "it is not sealed");
        of.status.as_mut().unwrap().digest = Some("blake3:00".into());
        assert_eq!(local_copy(&of, &right, "n2"), Some(&right[0]));
        for change in [
            (|v| v.status.as_mut().unwrap().digest = None) as fn(&mut SharedPersistentVolume),
            |v| v.status.as_mut().unwrap().digest = Some("blake3:11".into()),
            |v| v.status.as_mut().unwrap().node_name = Some("n3".into()),
            |v| v.spec.copy_of.as_mut().unwrap().uid = "uid-w".into(),
            |v| v.spec.copy_of = None,
            |v| {
                let tombstone = some_time();
                v.status.as_mut().unwrap().destroy =
                    Some(crate::api::Destroy { tombstone, ..Default::default() });
            },
        ] {
            assert_eq!(local_copy(&of, &[copy("b", change)], "n2"), None);
        }
        let own = [copy("b", |v| v.status.as_mut().unwrap().node_name = Some("n1".into()))];
        assert_eq!(local_copy(&of, &own, "n1"), None, "the volume itself is there");
        let mut lost = of.clone();
        set_ready(&mut lost.status.as_mut().unwrap().conditions, false);
        assert_eq!(local_copy(&lost, &own, "n1"), Some(&own[0]));
        let two = [copy("a", |v| v.metadata.deletion_timestamp = some_time()), copy("b", |_| ())];
        assert_eq!(local_copy(&of, &two, "n2"), Some(&two[1]), "one that ends comes last");
        assert_eq!(local_copy(&of, &two[..1], "n2"), Some(&two[0]), "and serves its users");

        let here = Request { node: "n2", keeps_read_only: true, ..REQUEST };
        let said = authorise(Some(&of), here).unwrap_err().to_string();
        assert!(
            said.contains("volume v is on node n1, and no complete copy of it is on this node"),
            "{said}"
        );
        let read = authorise(Some(&of), Request { has_copy: true, ..here }).unwrap();
        assert_eq!((read.mode, read.with_others), (AccessMode::ReadOnly, true));
        of.status.as_mut().unwrap().claims.clear();
        let unbound = authorise(Some(&of), Request { has_copy: true, ..here });
        assert!(matches!(unbound, Err(Refusal::NotBound(..))), "S7: the original's list decides");
    }

    #[test]
    fn v12_the_persistent_volume_says_what_the_volume_is() {
        let mut v = bound_volume();
        v.spec.mount_options = vec!["noatime".into(), "noexec".into()];
        let options = |options: &[&str]| options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>();
        for (fs_type, mount_options, fine) in [
            ("", options(&[]), true),
            ("ext4", options(&["noexec", "noatime"]), true),
            ("ext4", options(&["nosuid", "nodev"]), true),
            ("xfs", options(&[]), false),
            ("", options(&["noatime", "suid"]), false),
            ("", options(&["noatime,suid"]), false),
        ] {
            let asked = Request { fs_type, mount_options: &mount_options, ..REQUEST };
            let found = authorise(Some(&v), asked);
            assert_eq!(found.is_ok(), fine, "{fs_type} {mount_options:?}");
            let said = found.map_or_else(|refusal| refusal.to_string(), |_| String::new());
            let step =
                if fs_type == "xfs" { "Reservoir alone makes" } else { "kubectl edit pv reservoir-c-rw" };
            assert!(fine || said.contains(step), "{said}");
        }
    }
}
