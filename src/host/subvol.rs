//! Subvolumes of a btrfs filesystem, and the groups in which its kernel counts and limits them ("simple quotas").
//!
//! Every subvolume has a group of level 0, which counts what was allocated in it. A volume is a subvolume and what pods
//! make inside: all of these are in one group of level 1, called by the number of the volume's own subvolume. That group
//! has the limit. The kernel puts a new subvolume into the groups of the one in which it is made.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use super::error::{Context, Error, Result};
use super::{beneath, sys};

/// The number of the top level, in which all subvolumes are.
pub(super) const TOP_LEVEL: u64 = 5;
/// The number of the root directory of each subvolume.
const ROOT_DIRECTORY: u64 = 256;

/// Trees, and the kinds of their items.
const ROOT_TREE: u64 = 1;
const QUOTA_TREE: u64 = 8;
const ROOT_ITEM: u32 = 132;
const ROOT_BACKREF: u32 = 144;
const GROUP_RELATION: u32 = 246;

/// The limit of a group that has none.
pub(super) const UNLIMITED: u64 = u64::MAX;

/// How long it is waited for bytes to go, and how often it is looked.
const LOOKS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);
/// What is still counted this often after nothing is left to be cleaned up does not go.
const SHARED: u32 = 5;

/// A mounted btrfs, seen from its top level.
pub(super) struct Filesystem {
    root: OwnedFd,
    sysfs: PathBuf,
}

/// How the kernel counts what subvolumes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counting {
    Off,
    /// By who allocated it, and at once.
    Simple,
    /// By who refers to it. A snapshot that somebody makes can stop it for the whole filesystem.
    Full,
}

/// A volume's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) limit: u64,
    pub(super) used: u64,
}

/// In which directory of which other one a subvolume is, and as what.
struct Link {
    parent: u64,
    directory: u64,
    name: Vec<u8>,
}

impl Filesystem {
    /// `root` is its top level.
    pub(super) fn open(root: &OwnedFd) -> Result<Self> {
        // Not a duplicate, which would have a part in the disk's lock.
        let root = beneath::open_dir(root, ".").context(|| "open the disk's top level")?;
        let id = sys::btrfs_id(&root).context(|| "ask for the ID of a btrfs")?;
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        Ok(Self { root, sysfs: Path::new("/sys/fs/btrfs").join(uuid) })
    }

    /// The number of the subvolume that a file is in.
    pub(super) fn number(file: impl AsFd) -> Result<u64> {
        sys::btrfs_lookup(file, ROOT_DIRECTORY).context(|| "ask for the number of a subvolume")
    }

    /// How the kernel counts now.
    pub(super) fn counting(&self) -> Result<Counting> {
        let read = |name| self.attribute(Path::new("qgroups").join(name));
        match (read("enabled")?.as_deref(), read("mode")?.as_deref()) {
            (None | Some("0"), _) => Ok(Counting::Off),
            (_, Some("squota")) => Ok(Counting::Simple),
            _ => Ok(Counting::Full),
        }
    }

    /// Has the kernel count, from now on.
    pub(super) fn count(&self) -> Result<()> {
        match sys::btrfs_count(&self.root) {
            Err(Errno::INVAL | Errno::NOTTY | Errno::OPNOTSUPP) => Err(Error::Unsupported(
                "its kernel has no simple quotas, which limit also what pods make inside a volume: Linux 6.7 or newer is \
                 needed"
                    .to_owned(),
            )),
            result => result.context(|| "switch simple quotas on"),
        }
    }

    /// Bytes of the device that the filesystem's own trees have for themselves.
    pub(super) fn trees(&self) -> Result<u64> {
        let size = |kind: &str| {
            let name = Path::new("allocation").join(kind).join("disk_total");
            let text = self.attribute(&name)?;
            text.and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| unreadable(&self.sysfs.join(name)))
        };
        Ok(size("metadata")?.saturating_add(size("system")?))
    }

    /// The group of a volume.
    pub(super) fn group(&self, volume: u64) -> Result<Option<Group>> {
        let read = |name: &str| {
            let path = PathBuf::from(format!("qgroups/1_{volume}")).join(name);
            Ok::<_, Error>(self.attribute(path)?.and_then(|text| text.parse::<u64>().ok()))
        };
        let (limited, limit, used) = (read("limit_flags")?, read("max_referenced")?, read("referenced")?);
        Ok(match (limited, limit, used) {
            // What is in flight will be there in a moment.
            (Some(flags), Some(limit), Some(used)) => Some(Group {
                limit: if flags & 1 == 1 { limit } else { UNLIMITED },
                used: used.saturating_add(read("rsv_data")?.unwrap_or(0)),
            }),
            _ => None,
        })
    }

    /// The groups of all volumes.
    pub(super) fn groups(&self) -> Result<Vec<Group>> {
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

    /// Sees to it that a volume has no more than so many bytes.
    pub(super) fn confine(&self, volume: u64, bytes: u64) -> Result<()> {
        let group = group_of(volume);
        let context = || format!("limit subvolume {volume} to {bytes} bytes");
        match sys::btrfs_group(&self.root, group, true) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).context(context),
        }
        // The limit first: there is no moment at which it is in a group that has none.
        sys::btrfs_limit(&self.root, group, bytes).context(context)?;
        match sys::btrfs_assign(&self.root, volume, group, true) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error).context(context),
        }
    }

    /// Makes a volume's limit another one.
    pub(super) fn limit(&self, volume: u64, bytes: u64) -> Result<()> {
        sys::btrfs_limit(&self.root, group_of(volume), bytes)
            .context(|| format!("limit subvolume {volume} to {bytes} bytes"))
    }

    /// The numbers of a volume's subvolume and of all that are in it; inner ones first.
    pub(super) fn within(&self, volume: u64) -> Result<Vec<u64>> {
        Ok(within(volume, &self.links()?))
    }

    /// Whether the number is that of a subvolume which is not in this directory of the top level.
    pub(super) fn is_elsewhere(&self, id: u64, directory: impl AsFd) -> Result<bool> {
        let here = rustix::fs::fstat(directory).context(|| "look at the directory of a subvolume")?.st_ino;
        let links = self.links()?;
        Ok(links.get(&id).is_some_and(|link| (link.parent, link.directory) != (TOP_LEVEL, here)))
    }

    /// The root directory of a subvolume, whose path may be too long to be opened; `None` if it is gone.
    pub(super) fn subvolume(&self, id: u64) -> Result<Option<OwnedFd>> {
        match sys::btrfs_open(&self.root, id, ROOT_DIRECTORY) {
            Ok(root) => Ok(Some(root)),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(error) => Err(error).context(|| format!("open subvolume {id}")),
        }
    }

    /// Removes a volume's subvolume and all that are in it, and waits until their bytes are free again (X4). Which these
    /// are is told by the volume's group, also after a crash.
    ///
    /// # Errors
    /// [`Error::Busy`] if some bytes are held: by a process, or by another volume that shares them.
    pub(super) fn remove(&self, volume: u64) -> Result<()> {
        let context = || format!("remove subvolume {volume}");
        let mut doomed = BTreeSet::from([volume]);
        if self.group(volume)?.is_some() {
            // From a volume that is full, what is in it cannot be removed.
            self.limit(volume, UNLIMITED)?;
        }
        loop {
            let links = self.links()?;
            let here = within(volume, &links);
            // From one that is read-only, as its owner can make it, what is in it cannot be removed.
            for id in &here {
                if let Some(root) = self.subvolume(*id)? {
                    sys::btrfs_make_writable(root).context(context)?;
                }
            }
            for Link { parent, directory, name } in here.iter().filter_map(|id| links.get(id)) {
                let directory = sys::btrfs_open(&self.root, *parent, *directory);
                match directory.and_then(|directory| sys::btrfs_remove_subvolume(directory, name)) {
                    // Somebody made one in it meanwhile: that one is found the next time.
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
        for _ in 0..LOOKS {
            sys::btrfs_sync(&self.root).context(context)?;
            let used = self.group(volume)?.map_or(0, |group| group.used);
            let dying = self.numbers()?.intersection(&doomed).next().is_some();
            clean += u32::from(!dying);
            if !dying && (used == 0 || clean > SHARED) {
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
            match sys::btrfs_group(&self.root, id, false) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTCONN) => {}
                Err(error) => return Err(error).context(context),
            }
        }
        sys::btrfs_sync(&self.root).context(context)
    }

    /// Puts subvolumes where they belong that somebody made inside a volume and told the kernel to count elsewhere, or
    /// nowhere. Those that are known to be right are not looked at again.
    pub(super) fn collect(&self, known: &mut BTreeSet<u64>) -> Result<()> {
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
                    "a subvolume was made outside its volume's limit: it is in it now"
                );
                match sys::btrfs_assign(&self.root, id, right, true) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error).context(context),
                }
            }
            found.retain(|group| *group != right);
            for wrong in found {
                sys::btrfs_assign(&self.root, id, wrong, false).context(context)?;
            }
            known.insert(id);
        }
        Ok(())
    }

    /// Where each subvolume is that has a name.
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

    /// The subvolumes that there are, or are being cleaned up.
    fn numbers(&self) -> Result<BTreeSet<u64>> {
        let items = self.items(ROOT_TREE, ROOT_DIRECTORY)?;
        Ok(items.into_iter().filter(|item| item.kind == ROOT_ITEM).map(|item| item.object).collect())
    }

    /// Which subvolume is in which group.
    fn relations(&self) -> Result<Vec<(u64, u64)>> {
        let items = self.items(QUOTA_TREE, 1)?;
        let relations =
            items.into_iter().filter(|item| item.kind == GROUP_RELATION && item.object < item.offset);
        Ok(relations.map(|item| (item.object, item.offset)).collect())
    }

    fn items(&self, tree: u64, first: u64) -> Result<Vec<sys::BtrfsItem>> {
        match sys::btrfs_items(&self.root, tree, first) {
            // There is no such tree while nothing is counted.
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

fn unreadable(path: &Path) -> Error {
    Error::Corrupt { what: path.display().to_string(), reason: "it has no number".to_owned() }
}

/// The group of level 1 of a volume.
fn group_of(volume: u64) -> u64 {
    1 << 48 | volume
}

/// The subvolume beneath the top level that another one is in, or is.
fn volume_of(id: u64, links: &BTreeMap<u64, Link>) -> Option<u64> {
    let mut id = id;
    loop {
        match links.get(&id)?.parent {
            TOP_LEVEL => return Some(id),
            parent => id = parent,
        }
    }
}

/// A subvolume and all that are in it; inner ones first.
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
    fn s12_what_is_in_a_volume_goes_before_it_and_nothing_else_does() {
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
