//! A volume's spec in the host's terms.

use kube::ResourceExt;

use crate::api::{
    ANNOTATION_MADE_FOR, ErasePolicy, FsType, Reserved, SharedPersistentVolume, SubRoles, VolumeMode,
};
use crate::host::{self, VolumeSpec, VolumeUid};

/// The spec of the volume on the node; `size` is the volume's present size there.
///
/// # Errors
/// [`host::Error::InvalidArgument`] names the field that the host cannot accept.
pub(super) fn volume_spec(
    volume: &SharedPersistentVolume,
    uid: VolumeUid,
    size: Option<u64>,
) -> host::Result<VolumeSpec> {
    let invalid = |what: String| host::Error::InvalidArgument(what);
    let status = volume.status.as_ref().ok_or_else(|| invalid("the volume has no status".to_owned()))?;
    let wanted = status.size.as_ref().unwrap_or(&volume.spec.size);
    let gid = volume.spec.gid.map(u32::try_from).transpose();
    Ok(VolumeSpec {
        uid,
        name: volume.name_any(),
        role: volume.spec.role.clone(),
        reservation: status.reservation.as_ref().map(|r| r.name.clone()).unwrap_or_default(),
        size_bytes: size.map_or_else(|| wanted.bytes(), Ok).map_err(|e| invalid(e.to_string()))?,
        fs_type: fs_type(volume.spec.fs_type),
        raw: volume.spec.volume_mode == VolumeMode::Block,
        shared: volume.spec.shared.is_some(),
        sub_roles_denied: volume.spec.sub_roles == SubRoles::Deny,
        adopt: volume.spec.adopt.as_ref().map(|adopt| adopt.path.clone()),
        recover: volume.spec.recover.as_ref().map(|recover| recover.uid.parse()).transpose()?,
        erase_policy: Some(erase_policy(volume)),
        keep_for: volume.spec.keep_for.clone(),
        made_for: volume.annotations().get(ANNOTATION_MADE_FOR).cloned(),
        reservations: status.reserved.iter().map(reserved).collect(),
        labels: volume.labels().clone(),
        gid: gid.map_err(|e| invalid(format!("gid: {e}")))?,
        mode: Some(permissions(volume)?),
        mount_options: volume.spec.mount_options.iter().map(|o| o.parse()).collect::<Result<_, _>>()?,
    })
}

pub(super) fn erase_policy(volume: &SharedPersistentVolume) -> host::ErasePolicy {
    match volume.spec.erase_policy {
        ErasePolicy::Discard => host::ErasePolicy::Discard,
        ErasePolicy::Zero => host::ErasePolicy::Zero,
    }
}

fn fs_type(fs_type: FsType) -> host::FsType {
    match fs_type {
        FsType::Ext4 => host::FsType::Ext4,
        FsType::Xfs => host::FsType::Xfs,
        FsType::Btrfs => host::FsType::Btrfs,
    }
}

fn reserved(of: &Reserved) -> host::Reserved {
    host::Reserved {
        name: of.name.clone(),
        role: of.role.clone(),
        size_bytes: of.size.bytes_or_zero(),
        labels: of.labels.clone(),
    }
}

/// Permissions of the volume's root (V12). By default pods of any user share the volume, or only pods of the volume's
/// group. Claims decide which pods may mount it at all.
fn permissions(volume: &SharedPersistentVolume) -> host::Result<u32> {
    match (&volume.spec.permissions, volume.spec.gid) {
        (Some(octal), _) => u32::from_str_radix(octal, 8)
            .map_err(|e| host::Error::InvalidArgument(format!("permissions {octal}: {e}"))),
        (None, Some(_)) => Ok(0o2770),
        (None, None) => Ok(0o777),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_smallest_volume_is_that_of_the_api() {
        for kind in [FsType::Ext4, FsType::Xfs, FsType::Btrfs] {
            assert_eq!(fs_type(kind).min_bytes(), kind.min_bytes(), "{kind:?}");
        }
    }
}
