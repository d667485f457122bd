//! Backing `Lvm`: one logical volume per volume, with a filesystem of its own on it.
//!
//! Logical volumes are thick: no volume takes extents from a neighbour (V5). Records are on a small logical volume of
//! the same group, with a detached mount. So the records move with the volume group (D3, X6).
//!
//! A disk that finds its devices makes its group on them. With stripes, each volume is spread over all devices of the group.
//!
//! # Guarantees
//! - A note beside a volume's record names its logical volumes before they exist: the one with its data, and the
//!   spare. The note decides which of the two is the data, and changes in one step.
//! - The agent changes a logical volume only if it has Reservoir's tag and a note names it.
//! - The agent overwrites both ends of a new logical volume. The new filesystem shows nothing of the old content
//!   between the ends (S17).
//!
//! # Caveats
//! - A volume takes whole extents, of 4 MiB by LVM's default, and with stripes as many on each device. Its filesystem has
//!   exactly the requested size.
//! - A shrink makes a copy, which for a while needs as much free space as the volume has.
//! - `ErasePolicy::Discard` discards the blocks if the devices support that. Otherwise the bytes stay in free extents
//!   until LVM uses the extents again, like the blocks of a removed file.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use crate::host::backings::backing::{DiskSpace, Opened};
use crate::host::backings::image::{ImageBacking, ImageStore, length_of};
use crate::host::error::{Context, Error, Result};
use crate::host::sys::volume_group::{Node, Sources, VolumeGroup};
use crate::host::sys::{Device, dirfd, filesystem, mounts, random_uuid, zero};
use crate::host::types::{DiskConfig, ErasePolicy, FsType, VolumeUid};
use crate::host::volume::Volume;

/// Name of the logical volume with the records. The names of all other logical volumes of Reservoir begin with it.
const RECORDS: &str = "reservoir";
/// Name of that logical volume while it is being made.
const RECORDS_UNFINISHED: &str = "reservoir.new";
/// Size of that logical volume: enough for some 60 KiB per volume.
const RECORDS_SIZE: u64 = 128 << 20;

const NOTE: &str = "logical-volumes.json";
const UNFINISHED: &str = "logical-volumes.json.new";

struct Lvm {
    group: VolumeGroup,
    /// Keeps the records mounted.
    _records: OwnedFd,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Logical volume of the installed image.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// Logical volume of the spare, which is unfinished or replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    spare: Option<String>,
}

pub(super) fn open(config: &DiskConfig) -> Result<Opened> {
    let path = config.path.as_path();
    let sources = match &*config.devices {
        [] => Sources::AllBut(config.foreign_devices.clone()),
        devices => Sources::Only(devices.to_vec()),
    };
    let group = VolumeGroup::open(path, sources, config.stripes.max(1))?;
    let content = group.look()?;
    if !content.ours.contains_key(RECORDS) {
        if let Some(name) = content.ours.keys().find(|name| *name != RECORDS_UNFINISHED) {
            let reason = format!("it is missing, although there is {name}");
            return Err(Error::corrupt(format!("{}/{RECORDS}", path.display()), reason));
        }
        make_records(path, &group, content.free)?;
    }
    let node = group.existing_node(RECORDS)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount =
        mounts::of_device(FsType::Ext4, &node.path.to_string_lossy(), node.device, attributes, false)?;
    let root = dirfd::open_dir(&mount, ".").context(|| "open the directory of records")?;
    Ok(Opened { root, backing: Box::new(ImageBacking(Lvm { group, _records: mount })) })
}

fn make_records(path: &Path, group: &VolumeGroup, available: u64) -> Result<()> {
    group.remove(RECORDS_UNFINISHED)?;
    let needed = group.whole_extents(RECORDS_SIZE);
    if available < needed {
        let reason = format!(
            "has {available} bytes free, and the records of volumes need {needed}: remove a logical volume, or add a device"
        );
        return Err(Error::unsuitable_disk(path, reason));
    }
    group.make(RECORDS_UNFINISHED, RECORDS_SIZE)?;
    let file = group.existing_node(RECORDS_UNFINISHED)?.open()?;
    blank(&file, RECORDS_SIZE)?;
    filesystem::make(FsType::Ext4, &random_uuid()?, &file, RECORDS_SIZE, false)?;
    file.sync_all().context(|| "synchronize the new records")?;
    drop(file);
    group.rename(RECORDS_UNFINISHED, RECORDS)
}

impl Lvm {
    fn node_of(&self, name: Option<String>) -> Result<Option<Node>> {
        name.map_or(Ok(None), |name| self.group.node(&name))
    }

    fn active(&self, volume: &Volume) -> Result<Option<Node>> {
        note(volume)?.data.map_or(Ok(None), |name| self.group.active(&name))
    }
}

impl ImageStore for Lvm {
    const NAME: &'static str = "logical volume";
    const ZEROED: bool = false;

    fn file_names(&self) -> Vec<&'static str> {
        vec![NOTE, UNFINISHED]
    }

    /// Logical volumes without Reservoir's tag are not part of the disk.
    fn space(&self, _: BorrowedFd<'_>) -> Result<DiskSpace> {
        let content = self.group.look()?;
        let volumes = content.ours.iter().filter(|(name, _)| *name != RECORDS);
        let total = volumes.fold(content.free, |sum, (_, bytes)| sum.saturating_add(*bytes));
        Ok(DiskSpace { total, free: content.free })
    }

    fn image_length(&self, size: u64) -> u64 {
        self.group.whole_extents(size)
    }

    fn open(&self, volume: &Volume) -> Result<Option<File>> {
        self.node_of(note(volume)?.data)?.map(|node| node.open()).transpose()
    }

    fn make_spare(&self, volume: &Volume, size: u64) -> Result<File> {
        let content = self.group.look()?;
        volume.ensure_free(self.group.whole_extents(size), content.free)?;
        let name = new_name(&volume.uid, |name| content.has(name));
        volume.write_note(NOTE, &Note { spare: Some(name.clone()), ..note(volume)? })?;
        self.group.make(&name, size)?;
        let file = self.group.existing_node(&name)?.open()?;
        blank(&file, size)?;
        Ok(file)
    }

    fn make_copy(&self, volume: &Volume, size: u64, _: u64, _: ErasePolicy) -> Result<File> {
        self.make_spare(volume, size)
    }

    fn resize_spare(&self, volume: &Volume, file: &File, size: u64, policy: ErasePolicy) -> Result<()> {
        let (has, wanted) = (length_of(file)?, self.image_length(size));
        match note(volume)?.spare {
            Some(name) if has != wanted => {
                if policy == ErasePolicy::Zero {
                    zero::overwrite(file, wanted..has)
                        .context(|| "overwrite the end of a new logical volume")?;
                }
                self.group.resize(&name, size)
            }
            _ => Ok(()),
        }
    }

    fn remove_spare(&self, volume: &Volume, policy: ErasePolicy) -> Result<()> {
        let mut noted = note(volume)?;
        let Some(name) = noted.spare.take() else { return Ok(()) };
        // A caller may come here after a failed synchronization of the note, so the note may not be on stable
        // storage.
        volume.sync_dir()?;
        if policy == ErasePolicy::Zero
            && let Some(node) = self.group.node(&name)?
        {
            let file = node.open()?;
            zero::overwrite(&file, 0..length_of(&file)?).context(|| format!("overwrite {name}"))?;
        }
        self.group.remove(&name)?;
        match &noted.data {
            Some(_) => volume.write_note(NOTE, &noted),
            None => volume.remove_files(&self.file_names()),
        }
    }

    fn install_spare(&self, volume: &Volume, policy: ErasePolicy) -> Result<()> {
        let Note { data, spare } = note(volume)?;
        volume.write_note(NOTE, &Note { data: spare, spare: data })?;
        self.remove_spare(volume, policy)
    }

    fn extend(&self, volume: &Volume, file: &File, size: u64) -> Result<()> {
        let (has, wanted) = (length_of(file)?, self.image_length(size));
        if has < wanted {
            volume.ensure_free(wanted - has, self.group.look()?.free)?;
            let lost = || Error::NotFound(format!("logical volume of volume {}", volume.uid));
            self.group.resize(&note(volume)?.data.ok_or_else(lost)?, size)?;
        }
        file.sync_all().context(|| "synchronize the volume's logical volume")
    }

    fn attach(&self, volume: &Volume, file: &File, _: bool) -> Result<(String, Device, OwnedFd)> {
        let lost = || Error::NotFound(format!("logical volume of volume {}", volume.uid));
        let node = self.active(volume)?.ok_or_else(lost)?;
        let open = file.as_fd().try_clone_to_owned().context(|| "duplicate a file descriptor")?;
        Ok((node.path.to_string_lossy().into_owned(), node.device, open))
    }

    fn is_attached(&self, volume: &Volume, device: Device) -> Result<bool> {
        Ok(self.active(volume)?.is_some_and(|node| node.device == device))
    }

    fn in_use(&self, volume: &Volume) -> Result<bool> {
        self.active(volume)?.map_or(Ok(false), |node| node.is_claimed())
    }

    fn devices(&self, volume: &Volume) -> Result<Vec<Device>> {
        Ok(self.active(volume)?.map(|node| node.device).into_iter().collect())
    }

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64> {
        let Note { data, spare } = note(volume)?;
        let bytes = |name| Ok::<_, Error>(self.node_of(name)?.map_or(0, |node| node.bytes));
        Ok(bytes(data)?.saturating_add(bytes(spare)?))
    }

    fn erase(&self, volume: &Volume, file: Option<File>) -> Result<()> {
        drop(file);
        let Note { data, spare } = note(volume)?;
        for name in [spare, data].into_iter().flatten() {
            self.group.remove(&name)?;
        }
        volume.remove_files(&self.file_names())
    }
}

/// An unused name. The name for a UID may be taken: an heir keeps the logical volume's name of the volume that it
/// inherited from.
fn new_name(uid: &VolumeUid, is_taken: impl Fn(&str) -> bool) -> String {
    let mut name = format!("{RECORDS}-{uid}");
    while is_taken(&name) {
        name.push('+');
    }
    name
}

/// Overwrites both ends of a logical volume for a filesystem of `size` bytes.
fn blank(file: &File, size: u64) -> Result<()> {
    let ends = filesystem::SIGNATURES as u64;
    for (from, to) in [(0, ends), (size.saturating_sub(ends), length_of(file)?)] {
        file.write_all_at(&vec![0; (to - from) as usize], from)
            .context(|| "overwrite an end of a new logical volume")?;
    }
    file.sync_all().context(|| "synchronize a new logical volume")
}

fn note(volume: &Volume) -> Result<Note> {
    Ok(volume.note(NOTE)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s13_v9_a_spare_gets_an_unused_name() {
        let uid: VolumeUid = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        let first = new_name(&uid, |_| false);
        let second = new_name(&uid, |name| name == first);
        assert_ne!(first, second);
        assert_eq!(new_name(&uid, |name| name == second), first);
        assert!(![&first, &second].contains(&&new_name(&uid, |name| name == first || name == second)));
    }
}
