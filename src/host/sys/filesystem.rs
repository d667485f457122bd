//! The filesystem inside a volume: making, recognizing, growing and copying.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Gid, Mode};
use rustix::io::Errno;

use crate::host::error::{Context, Error, Result};
use crate::host::sys::program::{self, FILE, RESULT};
use crate::host::sys::syscalls;
use crate::host::types::{FsType, VolumeUid};

/// Number of bytes that must be blank at both ends: ext, xfs, btrfs, LVM, RAID and ZFS have all their signatures in
/// these.
pub(crate) const SIGNATURES: usize = 1 << 20;

/// Both filesystems are made with blocks of this many bytes.
pub(crate) const BLOCK: u64 = 4096;

/// Superblock magics of the filesystems on which a file's blocks stay where fallocate put them. On a copy-on-write
/// filesystem blocks move, and `st_dev` is not the filesystem's device.
const EXT4_MAGIC: u64 = 0xef53;
const XFS_MAGIC: u64 = 0x5846_5342;

/// The filesystem that a file is on; its magic number if it is neither ext4 nor xfs.
pub(crate) fn kind_of(file: impl AsFd) -> Result<Result<FsType, u64>> {
    let found = rustix::fs::fstatfs(file).context(|| "look at the disk's filesystem")?.f_type as u64;
    Ok(match found {
        EXT4_MAGIC => Ok(FsType::Ext4),
        XFS_MAGIC => Ok(FsType::Xfs),
        other => Err(other),
    })
}

/// Sets group and permissions of a volume's root directory (V11, V12).
pub(crate) fn set_root(root: impl AsFd, gid: Option<u32>, mode: Option<u32>) -> Result<()> {
    if gid.is_none() && mode.is_none() {
        return Ok(());
    }
    let mode = mode.unwrap_or(0o775) | if gid.is_some() { 0o2000 } else { 0 };
    // The owner is set first: a change of the owner clears the set-group-ID bit.
    rustix::fs::fchown(&root, None, gid.map(Gid::from_raw))
        .and_then(|()| rustix::fs::fchmod(&root, Mode::from_raw_mode(mode)))
        .and_then(|()| rustix::fs::syncfs(&root))
        .context(|| "set the permissions of the volume's root")
}

/// Ends a freeze (FIFREEZE) of the filesystem; false if it was not frozen.
pub(crate) fn thaw(file: impl AsFd) -> Result<bool> {
    match syscalls::thaw(file) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error).context(|| "thaw the volume's filesystem"),
    }
}

/// Makes an empty filesystem whose UUID is the volume's UID, in a new file or on a device with blank ends (V9, S13,
/// F4). `zeroed` means that the whole file or device reads as zeroes.
pub(crate) fn make(fs_type: FsType, uid: &VolumeUid, file: &File, size: u64, zeroed: bool) -> Result<()> {
    if !is_blank(file, size)? {
        let reason = "its new file or device is not empty".to_owned();
        return Err(Error::corrupt(format!("volume {uid}"), reason));
    }
    let (blocks, zeroed) = (size / BLOCK, u8::from(zeroed));
    // Without discards: a discard would punch holes into preallocated blocks (V5). The size is an argument, because a
    // device may be larger than the filesystem.
    let (program, arguments) = match fs_type {
        // remount-ro: the first sign of corruption stops all writers.
        FsType::Ext4 => (
            "mkfs.ext4",
            format!(
                "-q -F -b {BLOCK} -m 0 -e remount-ro -E nodiscard,assume_storage_prezeroed={zeroed} -U {uid} {FILE} {blocks}"
            ),
        ),
        // Sectors of 4096 bytes suit every disk beneath the file.
        FsType::Xfs => {
            ("mkfs.xfs", format!("-q -K -s size=4096 -d size={} -m uuid={uid} {FILE}", blocks * BLOCK))
        }
        FsType::Btrfs => return Err(no_btrfs()),
    };
    program::run(program, &arguments.split(' ').collect::<Vec<_>>(), file, None)?;
    match fs_type {
        FsType::Ext4 => remove_lost_and_found(file),
        FsType::Xfs | FsType::Btrfs => Ok(()),
    }
}

/// Removes the directory of an unmounted ext4 that only root may read. Databases refuse a directory that is not empty.
fn remove_lost_and_found(file: &File) -> Result<()> {
    // debugfs exits with 0 whatever came of its command.
    program::run("debugfs", &["-w", "-R", "rmdir /lost+found", FILE], file, None)?;
    match has_lost_and_found(file)? {
        true => {
            let reason = "debugfs did not remove its directory lost+found".to_owned();
            Err(Error::corrupt("a new filesystem", reason))
        }
        false => Ok(()),
    }
}

fn has_lost_and_found(file: &File) -> Result<bool> {
    let found = program::ask("debugfs", &["-R", "stat /lost+found", FILE], Some(file))?;
    Ok(found.starts_with(b"Inode:"))
}

/// Grows a filesystem to `size` bytes; `inside` is any file of a mount of the filesystem. A larger filesystem stays
/// as it is (V7).
///
/// # Errors
/// `EPERM` for ext4 without CAP_SYS_RESOURCE, which the kernel requires.
pub(crate) fn grow(fs_type: FsType, inside: impl AsFd, size: u64) -> Result<()> {
    let inside = inside.as_fd();
    let context = || format!("grow the mounted {fs_type} of a volume to {size} bytes");
    match fs_type {
        FsType::Ext4 => {
            let stat = rustix::fs::fstatfs(inside).context(context)?;
            syscalls::ext4_grow(inside, size / stat.f_bsize as u64).context(context)
        }
        FsType::Xfs => {
            let now = syscalls::xfs_geometry(inside).context(context)?;
            let blocks = size / u64::from(now.block_size);
            match blocks > now.blocks {
                true => syscalls::xfs_grow(inside, blocks, now.inode_percent).context(context),
                false => Ok(()),
            }
        }
        FsType::Btrfs => Err(no_btrfs()),
    }
}

fn no_btrfs() -> Error {
    Error::Unsupported("a volume has no btrfs of its own: create it with fsType ext4 or xfs".to_owned())
}

/// Repairs an unmounted ext4 filesystem, as far as a mount would repair it.
pub(crate) fn check(file: &File) -> Result<()> {
    // e2fsck makes a lost+found where there is none.
    let had_lost_and_found = has_lost_and_found(file)?;
    program::run("e2fsck", &["-f", "-p", FILE], file, None)?;
    if had_lost_and_found { Ok(()) } else { remove_lost_and_found(file) }
}

/// The size of an ext4 filesystem, and its taken bytes.
pub(crate) fn measure(file: &File) -> Result<(u64, u64)> {
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, 1024).context(|| "read a superblock")?;
    let field = |at: usize| u64::from(u32::from_le_bytes(std::array::from_fn(|i| superblock[at + i])));
    let high = |at: usize| if field(0x60) & 0x80 != 0 { field(at) << 32 } else { 0 };
    let (blocks, free) = (field(0x4) | high(0x150), field(0xc) | high(0x158));
    Ok((blocks.saturating_mul(BLOCK), blocks.saturating_sub(free).saturating_mul(BLOCK)))
}

/// The smallest size in bytes that resize2fs gives to a [checked](check) ext4 filesystem.
pub(crate) fn min_size(file: &File) -> Result<u64> {
    let output = program::ask("resize2fs", &["-P", FILE], Some(file))?;
    let output = String::from_utf8_lossy(&output);
    let blocks = output.trim().rsplit_once(": ").and_then(|(_, number)| number.parse::<u64>().ok());
    let unknown = || {
        let output = output.trim();
        Error::Unsupported(format!(
            "resize2fs -P says what the agent does not know ({output}): use the agent's own image"
        ))
    };
    Ok(blocks.ok_or_else(unknown)?.saturating_mul(BLOCK))
}

/// Copies the taken blocks of a [checked](check) ext4 filesystem, and gives the copy `size` bytes. `set_size` gives
/// the copy's file or device its final size: before a filesystem grows, or after it shrinks. An interrupted copy is
/// worthless.
pub(crate) fn copy_resized(
    uid: &VolumeUid,
    from: &File,
    to: &File,
    size: u64,
    set_size: impl Fn() -> Result<()>,
) -> Result<()> {
    program::run("e2image", &["-ra", FILE, RESULT], from, Some(to))?;
    if measure(to)?.0 < size {
        set_size()?;
    }
    match program::run("resize2fs", &[FILE, &(size / BLOCK).to_string()], to, None) {
        Err(Error::Command { output, .. }) if output.contains("smaller than minimum") => {
            return Err(Error::TooSmall { uid: uid.clone(), needed: min_size(from)?, wanted: size });
        }
        result => result?,
    }
    set_size()
}

/// Compares type and UUID of the filesystem with the volume's. A mismatch is an error, and nothing is repaired or
/// formatted.
pub(crate) fn verify(fs_type: FsType, uid: &VolumeUid, file: &File) -> Result<()> {
    let corrupt = |reason: String| Error::corrupt(format!("the filesystem of volume {uid}"), reason);
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

/// True if both ends read as zeroes.
pub(crate) fn is_blank(file: &File, size: u64) -> Result<bool> {
    let mut bytes = vec![0; SIGNATURES.min(size as usize)];
    for offset in [0, size - bytes.len() as u64] {
        file.read_exact_at(&mut bytes, offset).context(|| "look for a signature")?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// V10. A superblock is data of a disk, and any number can be in it.
    #[test]
    fn v10_a_superblock_of_any_numbers_is_measured() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0xff; 4096], 0).unwrap();
        assert_eq!(measure(&file), Ok((u64::MAX, 0)));
    }
}
