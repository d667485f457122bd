//! Backing `lvm`: one logical volume per volume, its own filesystem on it.
//!
//! Logical volumes are thick: their extents are theirs, neighbours cannot take them and they cannot take theirs (V5).
//! Journals are on a small logical volume beside them, so that they are wherever the volume group is (D3, X6); its mount
//! is in no directory.
//!
//! # Guarantees
//! - Which logical volumes a volume has is noted beside its journal before they are there: the one with its data, and one
//!   that is unfinished or has to go. That note, and no name, says which is which, and changes in one step.
//! - Nothing is done to a logical volume without our tag, nor to one that the note does not name.
//! - What was in the extents of a new logical volume is overwritten at both ends, and in between no filesystem shows it
//!   (S17).
//!
//! # Caveats
//! - A volume takes whole extents, of 4 MiB unless the group has others; its filesystem has what it asks for.
//! - A smaller volume is made of a copy, which needs as much free room as the volume has, for a while.
//! - `ErasePolicy::Discard` discards, where the devices can; where they cannot, the bytes stay in free extents until
//!   something else has them, as the blocks of a removed file do.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use super::backing::{Opened, Room};
use super::disk::Volume;
use super::error::{Context, Error, Result};
use super::filesystem::{self, FsType};
use super::inside::{Container, Inside, bytes_of};
use super::mountinfo::Device;
use super::uid::VolumeUid;
use super::volume_group::{Node, VolumeGroup};
use super::{ErasePolicy, beneath, journal, mounts, zero};

/// The logical volume with the journals; the names of all others of ours begin with it.
const JOURNALS: &str = "reservoir";
/// The same while it is being made.
const JOURNALS_UNFINISHED: &str = "reservoir.new";
/// Its size: some 60 KiB for each volume.
const JOURNALS_SIZE: u64 = 128 << 20;

/// Which logical volumes a volume has.
const NOTE: &str = "logical-volumes.json";
const UNFINISHED: &str = "logical-volumes.json.new";

struct Lvm {
    group: VolumeGroup,
    /// Keeps the journals mounted.
    _journals: OwnedFd,
}

/// Content of `logical-volumes.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The one in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// One that is unfinished, or that another one replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    spare: Option<String>,
}

/// Opens the volume group and its journals, which are made if there is nothing of ours in it.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let group = VolumeGroup::open(path)?;
    let content = group.look()?;
    if !content.ours.contains_key(JOURNALS) {
        if let Some(name) = content.ours.keys().find(|name| *name != JOURNALS_UNFINISHED) {
            let reason = format!("it is missing, although there is {name}");
            return Err(Error::Corrupt { what: format!("{}/{JOURNALS}", path.display()), reason });
        }
        make_journals(&group, content.free)?;
    }
    let missing = || Error::NotFound(format!("logical volume {JOURNALS}"));
    let node = group.node(JOURNALS)?.ok_or_else(missing)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = mounts::of_device(FsType::Ext4, &node.path.to_string_lossy(), node.device, attributes)?;
    let root = beneath::open_dir(&mount, ".").context(|| "open the directory of journals")?;
    Ok(Opened { root, backing: Box::new(Inside(Lvm { group, _journals: mount })) })
}

fn make_journals(group: &VolumeGroup, available: u64) -> Result<()> {
    group.remove(JOURNALS_UNFINISHED)?;
    let needed = group.whole_extents(JOURNALS_SIZE);
    if available < needed {
        return Err(Error::Unsupported(format!(
            "it has {available} bytes free, and journals need {needed}: remove a logical volume, or add a device"
        )));
    }
    group.make(JOURNALS_UNFINISHED, JOURNALS_SIZE)?;
    let missing = || Error::NotFound(format!("logical volume {JOURNALS_UNFINISHED}"));
    let file = group.node(JOURNALS_UNFINISHED)?.ok_or_else(missing)?.open()?;
    blank(&file, JOURNALS_SIZE)?;
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context(|| "ask for a new UUID")?;
    filesystem::make(FsType::Ext4, &uuid.trim().parse()?, &file, JOURNALS_SIZE, false)?;
    file.sync_all().context(|| "synchronize the new journals")?;
    drop(file);
    group.rename(JOURNALS_UNFINISHED, JOURNALS)
}

impl Lvm {
    fn node_of(&self, name: Option<String>) -> Result<Option<Node>> {
        name.map_or(Ok(None), |name| self.group.node(&name))
    }

    fn active(&self, volume: &Volume) -> Result<Option<Node>> {
        note(volume)?.data.map_or(Ok(None), |name| self.group.active(&name))
    }
}

impl Container for Lvm {
    const NAME: &'static str = "logical volume";
    const ZEROED: bool = false;

    fn names(&self) -> Vec<&'static str> {
        vec![NOTE, UNFINISHED]
    }

    /// What others have in the group is none of it.
    fn room(&self, _: BorrowedFd<'_>) -> Result<Room> {
        let content = self.group.look()?;
        let volumes = content.ours.iter().filter(|(name, _)| *name != JOURNALS);
        Ok(Room { total: content.free + volumes.map(|(_, bytes)| bytes).sum::<u64>(), free: content.free })
    }

    fn length(&self, size: u64) -> u64 {
        self.group.whole_extents(size)
    }

    fn open(&self, volume: &Volume) -> Result<Option<File>> {
        self.node_of(note(volume)?.data)?.map(|node| node.open()).transpose()
    }

    fn begin(&self, volume: &Volume, size: u64) -> Result<File> {
        let content = self.group.look()?;
        volume.ensure_free(self.group.whole_extents(size), content.free)?;
        let name = new_name(&volume.uid, |name| content.has(name));
        set_note(volume, &Note { spare: Some(name.clone()), ..note(volume)? })?;
        self.group.make(&name, size)?;
        let missing = || Error::NotFound(format!("logical volume {name}"));
        let file = self.group.node(&name)?.ok_or_else(missing)?.open()?;
        blank(&file, size)?;
        Ok(file)
    }

    fn begin_copy(&self, volume: &Volume, size: u64, _: u64, _: ErasePolicy) -> Result<File> {
        self.begin(volume, size)
    }

    fn cut(&self, volume: &Volume, unfinished: &File, size: u64, policy: ErasePolicy) -> Result<()> {
        let (has, wanted) = (bytes_of(unfinished)?, self.length(size));
        match note(volume)?.spare {
            Some(name) if has != wanted => {
                if policy == ErasePolicy::Zero {
                    zero::overwrite(unfinished, wanted..has)
                        .context(|| "overwrite the end of a new logical volume")?;
                }
                self.group.resize(&name, size)
            }
            _ => Ok(()),
        }
    }

    fn give_up(&self, volume: &Volume, policy: ErasePolicy) -> Result<()> {
        let mut noted = note(volume)?;
        let Some(name) = noted.spare.take() else { return Ok(()) };
        // The note may be there and not last: that it could not be synchronized is a reason to be here.
        volume.settle()?;
        if policy == ErasePolicy::Zero
            && let Some(node) = self.group.node(&name)?
        {
            let file = node.open()?;
            zero::overwrite(&file, 0..bytes_of(&file)?).context(|| format!("overwrite {name}"))?;
        }
        self.group.remove(&name)?;
        match &noted.data {
            Some(_) => set_note(volume, &noted),
            None => volume.remove(&self.names()),
        }
    }

    fn complete(&self, volume: &Volume, policy: ErasePolicy) -> Result<()> {
        let Note { data, spare } = note(volume)?;
        set_note(volume, &Note { data: spare, spare: data })?;
        self.give_up(volume, policy)
    }

    fn extend(&self, volume: &Volume, file: &File, size: u64) -> Result<()> {
        let (has, wanted) = (bytes_of(file)?, self.length(size));
        if has < wanted {
            volume.ensure_free(wanted - has, self.group.look()?.free)?;
            let lost = || Error::NotFound(format!("logical volume of volume {}", volume.uid));
            self.group.resize(&note(volume)?.data.ok_or_else(lost)?, size)?;
        }
        file.sync_all().context(|| "synchronize the volume's logical volume")
    }

    fn attach(&self, volume: &Volume, file: &File) -> Result<(String, Device, OwnedFd)> {
        let lost = || Error::NotFound(format!("logical volume of volume {}", volume.uid));
        let node = self.active(volume)?.ok_or_else(lost)?;
        let open = file.as_fd().try_clone_to_owned().context(|| "duplicate a file descriptor")?;
        Ok((node.path.to_string_lossy().into_owned(), node.device, open))
    }

    fn is_attached(&self, volume: &Volume, device: Device) -> Result<bool> {
        Ok(self.active(volume)?.is_some_and(|node| node.device == device))
    }

    fn release(&self, volume: &Volume) -> Result<bool> {
        self.active(volume)?.map_or(Ok(false), |node| node.is_claimed())
    }

    fn allocated(&self, volume: &Volume) -> Result<u64> {
        let Note { data, spare } = note(volume)?;
        let bytes = |name| Ok::<_, Error>(self.node_of(name)?.map_or(0, |node| node.bytes));
        Ok(bytes(data)? + bytes(spare)?)
    }

    fn erase(&self, volume: &Volume, file: Option<File>) -> Result<()> {
        drop(file);
        let Note { data, spare } = note(volume)?;
        for name in [spare, data].into_iter().flatten() {
            self.group.remove(&name)?;
        }
        volume.remove(&self.names())
    }
}

/// A name that nothing has: not even what another volume inherited from one of this UID.
fn new_name(uid: &VolumeUid, is_taken: impl Fn(&str) -> bool) -> String {
    let mut name = format!("{JOURNALS}-{uid}");
    while is_taken(&name) {
        name.push('+');
    }
    name
}

/// Overwrites both ends of what is to have a filesystem of so many bytes.
fn blank(file: &File, size: u64) -> Result<()> {
    let ends = filesystem::SIGNATURES as u64;
    for (from, to) in [(0, ends), (size.saturating_sub(ends), bytes_of(file)?)] {
        file.write_all_at(&vec![0; (to - from) as usize], from)
            .context(|| "overwrite an end of a new logical volume")?;
    }
    file.sync_all().context(|| "synchronize a new logical volume")
}

fn note(volume: &Volume) -> Result<Note> {
    let Some(text) = journal::read(volume.dir.as_fd(), NOTE)? else { return Ok(Note::default()) };
    let corrupt = |reason: String| Error::Corrupt { what: NOTE.to_owned(), reason };
    serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))
}

fn set_note(volume: &Volume, note: &Note) -> Result<()> {
    let text = serde_json::to_vec(note)
        .map_err(|error| Error::Corrupt { what: NOTE.to_owned(), reason: error.to_string() })?;
    journal::replace(volume.dir.as_fd(), NOTE, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s13_v9_what_is_begun_has_a_name_that_nothing_has() {
        let uid: VolumeUid = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        let first = new_name(&uid, |_| false);
        let second = new_name(&uid, |name| name == first);
        assert_ne!(first, second);
        assert_eq!(new_name(&uid, |name| name == second), first);
        assert!(![&first, &second].contains(&&new_name(&uid, |name| name == first || name == second)));
    }
}
