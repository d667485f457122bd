//! The filesystem inside a volume: making it, recognizing it, and changing its size.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Gid, Mode};
use serde::{Deserialize, Serialize};

use super::error::{Context, Error, Result};
use super::program::{self, FILE, RESULT};
use super::record::Record;
use super::sys;
use super::uid::VolumeUid;

/// How much is read at both ends to see that there is no signature: ext, xfs, btrfs, LVM, RAID and ZFS all have one
/// there.
pub(super) const SIGNATURES: usize = 1 << 20;

/// A volume's filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// ext4, with 4096-byte blocks and nothing held back for root.
    Ext4,
    /// XFS.
    Xfs,
    /// A part of a disk's own btrfs; none is made.
    Btrfs,
}

impl FsType {
    /// The least size in bytes that it can be made with.
    pub const fn min_bytes(self) -> u64 {
        match self {
            Self::Ext4 | Self::Btrfs => 16 << 20,
            // What mkfs.xfs insists on since xfsprogs 5.19.
            Self::Xfs => 300 << 20,
        }
    }

    /// The name by which the kernel mounts it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Discards are off: they would punch holes into what was preallocated (V5). What it is in may be larger.
    fn mkfs(self, uid: &VolumeUid, size: u64, zeroed: bool) -> Result<(&'static str, Vec<String>)> {
        let blocks = size / 4096;
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        Ok(match self {
            // A file is new, hence zero already; a device is not. ext4 turns itself read-only at the first sign of corruption.
            Self::Ext4 => (
                "mkfs.ext4",
                words(&format!(
                    "-q -F -b 4096 -m 0 -e remount-ro -E nodiscard,assume_storage_prezeroed={} -U {uid} {FILE} {blocks}",
                    u8::from(zeroed)
                )),
            ),
            // Sectors of 4096 bytes suit every disk on which this file may be.
            Self::Xfs => (
                "mkfs.xfs",
                words(&format!("-q -K -s size=4096 -d size={} -m uuid={uid} {FILE}", blocks * 4096)),
            ),
            Self::Btrfs => return Err(no_btrfs()),
        })
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Superblock magics of the filesystems on which a file's blocks stay where fallocate put them. On copy-on-write ones
/// they do not, and their `st_dev` is not their device.
const EXT4_MAGIC: u64 = 0xef53;
const XFS_MAGIC: u64 = 0x5846_5342;

/// The filesystem that a file is on; its magic number if it is neither ext4 nor xfs.
pub(super) fn kind_of(file: impl AsFd) -> Result<Result<FsType, u64>> {
    let found = rustix::fs::fstatfs(file).context(|| "look at the disk's filesystem")?.f_type as u64;
    Ok(match found {
        EXT4_MAGIC => Ok(FsType::Ext4),
        XFS_MAGIC => Ok(FsType::Xfs),
        other => Err(other),
    })
}

/// Refuses a volume that is to be a raw device.
pub(super) fn wanted(record: &Record) -> Result<()> {
    match record.spec.raw {
        true => Err(Error::Unsupported(
            "only a disk that is a raw device can be a volume without a filesystem: use a disk of kind Block"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// Refuses a volume that is to have no filesystem of its own, where each has one.
pub(super) fn wanted_inside(record: &Record) -> Result<()> {
    match record.spec.fs_type {
        FsType::Ext4 | FsType::Xfs => wanted(record),
        FsType::Btrfs => Err(no_btrfs()),
    }
}

fn no_btrfs() -> Error {
    Error::Unsupported(
        "btrfs is not made inside a volume: create it with fsType ext4 or xfs, or on a disk with backing Btrfs".to_owned(),
    )
}

/// Does to the root directory of a volume what the volume says (V11, V12).
pub(super) fn set_root(root: impl AsFd, record: &Record) -> Result<()> {
    let (gid, mode) = (record.spec.gid, record.spec.mode);
    if gid.is_none() && mode.is_none() {
        return Ok(());
    }
    let mode = mode.unwrap_or(0o775) | if gid.is_some() { 0o2000 } else { 0 };
    // The owner first: changing it clears the set-group-ID bit.
    rustix::fs::fchown(&root, None, gid.map(Gid::from_raw))
        .and_then(|()| rustix::fs::fchmod(&root, Mode::from_raw_mode(mode)))
        .and_then(|()| rustix::fs::syncfs(&root))
        .context(|| "set the permissions of the volume's root")
}

/// Makes a filesystem, whose UUID is the volume's UID, in a file that nothing was ever written to, or on a device with
/// blank ends (V9, S13); `zeroed` says that there are zeroes in between, too.
pub(super) fn make(fs_type: FsType, uid: &VolumeUid, file: &File, size: u64, zeroed: bool) -> Result<()> {
    if !is_blank(file, size)? {
        let reason = "what was just allocated for it is not empty".to_owned();
        return Err(Error::Corrupt { what: format!("volume {uid}"), reason });
    }
    let (program, arguments) = fs_type.mkfs(uid, size, zeroed)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    program::run(program, &arguments, file, None)
}

/// Grows a filesystem to `size` bytes; `inside` is anything in a mount of it. One that is as large already stays (V7).
///
/// # Errors
/// `EPERM` for ext4 without CAP_SYS_RESOURCE: the kernel asks for no less.
pub(super) fn grow(fs_type: FsType, inside: impl AsFd, size: u64) -> Result<()> {
    let inside = inside.as_fd();
    let context = || format!("grow the mounted {fs_type} of a volume to {size} bytes");
    match fs_type {
        FsType::Ext4 => {
            let stat = rustix::fs::fstatfs(inside).context(context)?;
            sys::ext4_grow(inside, size / stat.f_bsize as u64).context(context)
        }
        FsType::Xfs => {
            let now = sys::xfs_geometry(inside).context(context)?;
            let blocks = size / u64::from(now.block_size);
            match blocks > now.blocks {
                true => sys::xfs_grow(inside, blocks, now.inode_percent).context(context),
                false => Ok(()),
            }
        }
        FsType::Btrfs => Err(no_btrfs()),
    }
}

/// Puts an ext4 filesystem in order that is mounted nowhere, as a mount would.
pub(super) fn check(file: &File) -> Result<()> {
    program::run("e2fsck", &["-f", "-p", FILE], file, None)
}

/// How many bytes an ext4 filesystem has, and how many of them are taken.
pub(super) fn measure(file: &File) -> Result<(u64, u64)> {
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, 1024).context(|| "read a superblock")?;
    let field = |at: usize| u64::from(u32::from_le_bytes(std::array::from_fn(|i| superblock[at + i])));
    let high = |at: usize| if field(0x60) & 0x80 != 0 { field(at) << 32 } else { 0 };
    let (blocks, free) = (field(0x4) | high(0x150), field(0xc) | high(0x158));
    Ok((blocks * 4096, blocks.saturating_sub(free) * 4096))
}

/// Copies what is taken of an ext4 filesystem that was [checked](check), and makes the copy `size` bytes large; what it
/// is in has room for both sizes, or gets it by `resize`, which is what makes that so large in the end. The copy is
/// worthless if this is interrupted.
pub(super) fn copy_resized(
    uid: &VolumeUid,
    from: &File,
    to: &File,
    size: u64,
    resize: impl Fn() -> Result<()>,
) -> Result<()> {
    program::run("e2image", &["-ra", FILE, RESULT], from, Some(to))?;
    let blocks = size / 4096;
    if measure(to)?.0 < size {
        resize()?;
    }
    match program::run("resize2fs", &[FILE, &blocks.to_string()], to, None) {
        Err(Error::Command { output, .. }) if output.contains("smaller than minimum") => {
            let least = output.split(['(', ')']).nth(1).and_then(|number| number.parse::<u64>().ok());
            let needed = least.unwrap_or(blocks + 1) * 4096;
            return Err(Error::TooSmall { uid: uid.clone(), needed, wanted: size });
        }
        result => result?,
    }
    resize()
}

/// That this is the filesystem of this volume. It is asked before every mount; when it is not so, nothing is repaired
/// and nothing is formatted.
pub(super) fn verify(fs_type: FsType, uid: &VolumeUid, file: &File) -> Result<()> {
    let corrupt = |reason: String| Error::Corrupt { what: format!("the filesystem of volume {uid}"), reason };
    let mut start = [0; 2048];
    file.read_exact_at(&mut start, 0).context(|| format!("read the superblock of volume {uid}"))?;
    match identify(&start) {
        Some((found, id)) if found == fs_type && id == uid.bytes() => Ok(()),
        Some((found, _)) if found == fs_type => Err(corrupt("it carries another UUID".to_owned())),
        Some((found, _)) => Err(corrupt(format!("it is {found}, not {fs_type}"))),
        None => Err(corrupt(format!("there is no {fs_type} superblock"))),
    }
}

/// Reads type and UUID from a filesystem's first 2048 bytes.
fn identify(start: &[u8; 2048]) -> Option<(FsType, [u8; 16])> {
    let uuid = |at: usize| std::array::from_fn(|i| start[at + i]);
    if start.starts_with(b"XFSB") {
        Some((FsType::Xfs, uuid(32)))
    } else if start[0x438..0x43a] == [0x53, 0xef] {
        Some((FsType::Ext4, uuid(0x468)))
    } else {
        None
    }
}

/// Whether there is no signature of anything, nor anything else, at both ends.
pub(super) fn is_blank(file: &File, size: u64) -> Result<bool> {
    let mut bytes = vec![0; SIGNATURES.min(size as usize)];
    for offset in [0, size - bytes.len() as u64] {
        file.read_exact_at(&mut bytes, offset).context(|| "look whether there is a signature")?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}
