//! Subvolumes of a btrfs filesystem, and the groups in which its kernel counts and limits them ("simple quotas").
//!
//! Every subvolume has a group of level 0, which counts its allocations. A volume is a subvolume with all subvolumes
//! that pods make inside. All of these are in one group of level 1. The group has the number of the volume's own
//! subvolume, and the limit. The kernel puts a new subvolume into the groups of its parent.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::host::error::{Context, Error, Result};
use crate::host::sys::{dirfd, syscalls};

/// The number of the top level, which holds all subvolumes.
pub(crate) const TOP_LEVEL: u64 = 5;
const ROOT_DIRECTORY: u64 = 256;

const ROOT_TREE: u64 = 1;
const QUOTA_TREE: u64 = 8;
const ROOT_ITEM: u32 = 132;
const ROOT_BACKREF: u32 = 144;
const GROUP_RELATION: u32 = 246;

/// The limit of an unlimited group.
pub(crate) const UNLIMITED: u64 = u64::MAX;

/// Number of checks that the bytes of a removed subvolume are free.
const ATTEMPTS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);
/// Number of checks after which bytes that are still counted are considered shared with another volume, so that they
/// stay.
const SHARED_AFTER: u32 = 5;

pub(crate) struct Filesystem {
    root: OwnedFd,
    sysfs: PathBuf,
}

/// The way in which the kernel counts the bytes of subvolumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    Off,
    /// The subvolume that allocated the bytes counts them, at once.
    Simple,
    /// The subvolumes that refer to the bytes count them. A snapshot can stop this for the whole filesystem.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) limit: u64,
    pub(crate) used: u64,
}

/// The place of a subvolume: its parent, and its directory and name in the parent.
struct Link {
    parent: u64,
    directory: u64,
    name: Vec<u8>,
}

impl Filesystem {
    pub(crate) fn open(root: &OwnedFd) -> Result<Self> {
        // A new descriptor instead of a duplicate, which would share the disk's lock.
        let root = dirfd::open_dir(root, ".").context(|| "open the disk's top level")?;
        let id = syscalls::btrfs_id(&root).context(|| "read the ID of a btrfs")?;
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        Ok(Self { root, sysfs: Path::new("/sys/fs/btrfs").join(uuid) })
    }

    /// The number of the subvolume that a file is in.
    pub(crate) fn number(file: impl AsFd) -> Result<u64> {
        syscalls::btrfs_lookup(file, ROOT_DIRECTORY).context(|| "read the number of a subvolume")
    }

    pub(crate) fn counting(&self) -> Result<Counting> {
        let read = |name| self.attribute(Path::new("qgroups").join(name));
        match (read("enabled")?.as_deref(), read("mode")?.as_deref()) {
            (None | Some("0"), _) => Ok(Counting::Off),
            (_, Some("squota")) => Ok(Counting::Simple),
            _ => Ok(Counting::Full),
        }
    }

    pub(crate) fn enable_counting(&self) -> Result<()> {
        match syscalls::btrfs_enable_simple_quotas(&self.root) {
            Err(Errno::INVAL | Errno::NOTTY | Errno::OPNOTSUPP) => Err(Error::KernelTooOld(
                "backing Btrfs needs simple quotas, which limit also subvolumes in a volume, and so Linux 6.7 or newer",
            )),
            result => result.context(|| "switch simple quotas on"),
        }
    }

    /// Bytes of the device that the filesystem's own trees take.
    pub(crate) fn tree_bytes(&self) -> Result<u64> {
        let size = |kind: &str| {
            let name = Path::new("allocation").join(kind).join("disk_total");
            let text = self.attribute(&name)?;
            text.and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| no_number(&self.sysfs.join(name)))
        };
        Ok(size("metadata")?.saturating_add(size("system")?))
    }

    pub(crate) fn group(&self, volume: u64) -> Result<Option<Group>> {
        let read = |name: &str| {
            let path = PathBuf::from(format!("qgroups/1_{volume}")).join(name);
            Ok::<_, Error>(self.attribute(path)?.and_then(|text| text.parse::<u64>().ok()))
        };
        let (limited, limit, used) = (read("limit_flags")?, read("max_referenced")?, read("referenced")?);
        Ok(match (limited, limit, used) {
            // Bytes that are reserved are about to be written, so they count as used.
            (Some(flags), Some(limit), Some(used)) => Some(Group {
                limit: if flags & 1 == 1 { limit } else { UNLIMITED },
                used: used.saturating_add(read("rsv_data")?.unwrap_or(0)),
            }),
            _ => None,
        })
    }

    pub(crate) fn groups(&self) -> Result<Vec<Group>> {
        let entries = match std::fs::read_dir(self.sysfs.join("qgroups")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.context(|| "list the groups of a btrfs")?,
        };
        let mut groups = Vec::new();
        for entry in entries {
            let name = entry.context(|| "list the groups of a btrfs")?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("1_")?.parse().ok());
            groups.extend(number.map(|number| self.group(number)).transpose()?.flatten());
        }
        Ok(groups)
    }

    /// Puts a new volume into a group with a limit.
    pub(crate) fn set_group(&self, volume: u64, bytes: u64) -> Result<()> {
        let group = group_of(volume);
        let context = || format!("limit subvolume {volume} to {bytes} bytes");
        unless(Errno::EXIST, syscalls::btrfs_group(&self.root, group, true)).context(context)?;
        // The limit comes first, so that no volume is ever in an unlimited group.
        syscalls::btrfs_limit(&self.root, group, bytes).context(context)?;
        unless(Errno::EXIST, syscalls::btrfs_assign(&self.root, volume, group, true)).context(context)
    }

    pub(crate) fn set_limit(&self, volume: u64, bytes: u64) -> Result<()> {
        syscalls::btrfs_limit(&self.root, group_of(volume), bytes)
            .context(|| format!("limit subvolume {volume} to {bytes} bytes"))
    }

    /// The numbers of a volume's subvolume and of all subvolumes inside, inner ones first.
    pub(crate) fn within(&self, volume: u64) -> Result<Vec<u64>> {
        Ok(within(volume, &self.links()?))
    }

    /// True if subvolume `id` exists outside of this directory of the top level.
    pub(crate) fn is_elsewhere(&self, id: u64, directory: impl AsFd) -> Result<bool> {
        let here = rustix::fs::fstat(directory).context(|| "look at the directory of a subvolume")?.st_ino;
        let links = self.links()?;
        Ok(links.get(&id).is_some_and(|link| (link.parent, link.directory) != (TOP_LEVEL, here)))
    }

    /// The root directory of a subvolume; `None` if the subvolume is gone. Opened by number, because its path may be
    /// too long.
    pub(crate) fn subvolume(&self, id: u64) -> Result<Option<OwnedFd>> {
        match syscalls::btrfs_open(&self.root, id, ROOT_DIRECTORY) {
            Ok(root) => Ok(Some(root)),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(error) => Err(error).context(|| format!("open subvolume {id}")),
        }
    }

    /// Removes a volume's subvolume and all subvolumes inside, and waits until their bytes are free (X4). The
    /// volume's group lists the subvolumes, also after a crash.
    ///
    /// # Errors
    /// [`Error::Busy`] if a process holds some bytes, or another volume shares them.
    pub(crate) fn remove(&self, volume: u64) -> Result<()> {
        let context = || format!("remove subvolume {volume}");
        let mut doomed = BTreeSet::from([volume]);
        if self.group(volume)?.is_some() {
            // The kernel removes nothing from a full subvolume.
            self.set_limit(volume, UNLIMITED)?;
        }
        loop {
            let links = self.links()?;
            let here = within(volume, &links);
            // The kernel removes nothing from a read-only subvolume either, and its owner can make a subvolume
            // read-only.
            for id in &here {
                if let Some(root) = self.subvolume(*id)? {
                    syscalls::btrfs_set_read_only(root, false).context(context)?;
                }
            }
            for Link { parent, directory, name } in here.iter().filter_map(|id| links.get(id)) {
                let directory = syscalls::btrfs_open(&self.root, *parent, *directory);
                match directory.and_then(|directory| syscalls::btrfs_remove_subvolume(directory, name)) {
                    // A pod made another subvolume inside meanwhile; the next round removes that.
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                    Err(error) => return Err(error).context(context),
                }
            }
            if here.is_empty() {
                break;
            }
            doomed.extend(here);
        }
        let group = group_of(volume);
        let members: Vec<u64> =
            self.relations()?.into_iter().filter(|(_, of)| *of == group).map(|(member, _)| member).collect();
        doomed.extend(&members);
        let mut clean = 0;
        for _ in 0..ATTEMPTS {
            syscalls::btrfs_sync(&self.root).context(context)?;
            let used = self.group(volume)?.map_or(0, |group| group.used);
            let dying = self.numbers()?.intersection(&doomed).next().is_some();
            clean += u32::from(!dying);
            if !dying && (used == 0 || clean > SHARED_AFTER) {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        if clean == 0 {
            return Err(Error::Busy { what: format!("subvolume {volume}, which is being cleaned up,") });
        }
        if self.group(volume)?.is_some_and(|group| group.used > 0) {
            return Err(Error::Busy {
                what: format!("a copy in another volume that shares its bytes with subvolume {volume}"),
            });
        }
        for id in members.into_iter().chain([group]) {
            match syscalls::btrfs_group(&self.root, id, false) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTCONN) => {}
                Err(error) => return Err(error).context(context),
            }
        }
        syscalls::btrfs_sync(&self.root).context(context)
    }

    /// Puts subvolumes into their volumes' groups: a pod can make a subvolume that the kernel counts elsewhere, or
    /// nowhere. Earlier calls have corrected the subvolumes in `known`.
    pub(crate) fn correct_groups(&self, known: &mut BTreeSet<u64>) -> Result<()> {
        let links = self.links()?;
        known.retain(|id| links.contains_key(id));
        if links.len() == known.len() {
            return Ok(());
        }
        let relations = self.relations()?;
        for (id, volume) in links.keys().filter_map(|id| Some((*id, volume_of(*id, &links)?))) {
            if known.contains(&id) || self.group(volume)?.is_none() {
                continue;
            }
            let (right, context) =
                (group_of(volume), || format!("put subvolume {id} into the group of {volume}"));
            let mut found: Vec<u64> =
                relations.iter().filter(|(member, _)| *member == id).map(|(_, group)| *group).collect();
            if !found.contains(&right) {
                tracing::warn!(
                    subvolume = id,
                    volume,
                    "a subvolume was made outside its volume's limit, and is inside now"
                );
                unless(Errno::EXIST, syscalls::btrfs_assign(&self.root, id, right, true)).context(context)?;
            }
            found.retain(|group| *group != right);
            for wrong in found {
                syscalls::btrfs_assign(&self.root, id, wrong, false).context(context)?;
            }
            known.insert(id);
        }
        Ok(())
    }

    fn links(&self) -> Result<BTreeMap<u64, Link>> {
        const NAME: usize = 18;
        let items = self.items(ROOT_TREE, ROOT_DIRECTORY)?;
        let links = items.into_iter().filter(|item| item.kind == ROOT_BACKREF).map(|item| {
            let directory = item.data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            let name = item.data.get(NAME..).unwrap_or_default().to_vec();
            (item.object, Link { parent: item.offset, directory, name })
        });
        Ok(links.collect())
    }

    /// The numbers of all subvolumes, also of removed ones that the kernel still cleans up.
    fn numbers(&self) -> Result<BTreeSet<u64>> {
        let items = self.items(ROOT_TREE, ROOT_DIRECTORY)?;
        Ok(items.into_iter().filter(|item| item.kind == ROOT_ITEM).map(|item| item.object).collect())
    }

    /// The pairs of a subvolume and its group.
    fn relations(&self) -> Result<Vec<(u64, u64)>> {
        let items = self.items(QUOTA_TREE, 1)?;
        let relations =
            items.into_iter().filter(|item| item.kind == GROUP_RELATION && item.object < item.offset);
        Ok(relations.map(|item| (item.object, item.offset)).collect())
    }

    fn items(&self, tree: u64, first: u64) -> Result<Vec<syscalls::BtrfsItem>> {
        match syscalls::btrfs_items(&self.root, tree, first) {
            // The tree of quotas exists only while quotas are on.
            Err(Errno::NOENT) => Ok(vec![]),
            result => result.context(|| "list the subvolumes of a btrfs"),
        }
    }

    fn attribute(&self, name: impl AsRef<Path>) -> Result<Option<String>> {
        let path = self.sysfs.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("read {}", path.display())),
        }
    }
}

/// Turns the expected error into success.
fn unless(expected: Errno, result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if result == Err(expected) { Ok(()) } else { result }
}

fn no_number(path: &Path) -> Error {
    Error::corrupt(path.display().to_string(), "it has no number")
}

fn group_of(volume: u64) -> u64 {
    1 << 48 | volume
}

/// The subvolume directly beneath the top level that is, or holds, subvolume `id`.
fn volume_of(id: u64, links: &BTreeMap<u64, Link>) -> Option<u64> {
    let mut id = id;
    loop {
        match links.get(&id)?.parent {
            TOP_LEVEL => return Some(id),
            parent => id = parent,
        }
    }
}

/// A subvolume and all subvolumes inside, inner ones first.
fn within(volume: u64, links: &BTreeMap<u64, Link>) -> Vec<u64> {
    let mut found: Vec<u64> = links.contains_key(&volume).then_some(volume).into_iter().collect();
    let mut next = 0;
    while let Some(&id) = found.get(next) {
        found.extend(links.iter().filter(|(_, link)| link.parent == id).map(|(inner, _)| *inner));
        next += 1;
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s12_inner_subvolumes_go_first_and_no_others() {
        let link = |parent| Link { parent, directory: 0, name: vec![] };
        let links = BTreeMap::from([
            (256, link(5)),
            (257, link(256)),
            (258, link(257)),
            (259, link(5)),
            (260, link(256)),
        ]);
        assert_eq!(within(256, &links), [258, 260, 257, 256]);
        assert_eq!(within(259, &links), [259]);
        assert!(within(300, &links).is_empty());
        assert_eq!(volume_of(258, &links), Some(256));
        assert_eq!(volume_of(300, &links), None);
    }
}
