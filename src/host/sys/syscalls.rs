//! The ioctls of loop(4), ext4, xfs and btrfs, and system calls that rustix does not wrap: mount_setattr(2),
//! quotactl_fd(2), open_by_handle_at(2), clone(2). This file has the only unsafe code of the crate.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::Advice;
use rustix::io::{Errno, Result};
use rustix::ioctl::{self, Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter, Updater};
use rustix::mount::MountAttrFlags;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

const LOOP_CLR_FD: Opcode = 0x4c01;
const LOOP_GET_STATUS64: Opcode = 0x4c05;
const LOOP_SET_CAPACITY: Opcode = 0x4c07;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;
const EXT4_IOC_RESIZE_FS: Opcode = 0x4008_6610;
const XFS_IOC_FSGEOMETRY_V1: Opcode = 0x8070_5864;
const XFS_IOC_FSGROWFSDATA: Opcode = 0x4010_586e;
const BTRFS_IOC_SYNC: Opcode = 0x9408;
const BTRFS_IOC_SUBVOL_CREATE: Opcode = 0x5000_940e;
const BTRFS_IOC_SNAP_DESTROY: Opcode = 0x5000_940f;
const BTRFS_IOC_TREE_SEARCH: Opcode = 0xd000_9411;
const BTRFS_IOC_INO_LOOKUP: Opcode = 0xd000_9412;
const BTRFS_IOC_SUBVOL_GETFLAGS: Opcode = 0x8008_9419;
const BTRFS_IOC_SUBVOL_SETFLAGS: Opcode = 0x4008_941a;
const BTRFS_IOC_FS_INFO: Opcode = 0x8400_941f;
const BTRFS_IOC_QUOTA_CTL: Opcode = 0xc010_9428;
const BTRFS_IOC_QGROUP_ASSIGN: Opcode = 0x4018_9429;
const BTRFS_IOC_QGROUP_CREATE: Opcode = 0x4010_942a;
const BTRFS_IOC_QGROUP_LIMIT: Opcode = 0x8030_942b;
const FITHAW: Opcode = 0xc004_5878;
const FS_IOC_FSGETXATTR: Opcode = 0x801c_581f;
const FS_IOC_FSSETXATTR: Opcode = 0x401c_5820;

/// The kernel detaches the device from its file when its last user is gone.
pub(crate) const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// The device bypasses the page cache of the filesystem beneath.
pub(crate) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LoopInfo64 {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) rdevice: u64,
    range: [u64; 2],
    numbers: [u32; 3],
    pub(crate) flags: u32,
    file_name: [u8; 64],
    encryption: [u64; 14],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// The beginning of `struct xfs_fsop_geom_v1` of linux/xfs_fs.h; the rest is not read.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct XfsGeometry {
    pub(crate) block_size: u32,
    rest: [u32; 6],
    pub(crate) inode_percent: u32,
    pub(crate) blocks: u64,
    end: [u64; 9],
}

/// `struct xfs_growfs_data` of linux/xfs_fs.h.
#[repr(C)]
struct XfsGrow {
    blocks: u64,
    inode_percent: u32,
    padding: u32,
}

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct FileAttributes {
    pub(crate) flags: u32,
    extent_size: u32,
    extents: u32,
    pub(crate) project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_XFLAG_PROJINHERIT`: new files in the directory get its project.
pub(crate) const INHERIT_PROJECT: u32 = 0x200;

/// `struct if_nextdqblk` of linux/quota.h, which begins with `struct if_dqblk`: limits and use of one project. The
/// value 0 means no limit.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct ProjectQuota {
    pub(crate) kib_limit: u64,
    pub(crate) kib_soft_limit: u64,
    pub(crate) bytes: u64,
    pub(crate) inode_limit: u64,
    pub(crate) inode_soft_limit: u64,
    pub(crate) inodes: u64,
    times: [u64; 2],
    valid: u32,
    pub(crate) project: u32,
}

/// `struct fs_quota_statv` of linux/dqblk_xfs.h; only its flags are read.
#[repr(C)]
struct QuotaState {
    version: u8,
    padding: u8,
    flags: u16,
    rest: [u32; 39],
}

// The sizes are part of the kernel's interface.
const _: () = assert!(size_of::<FileAttributes>() == 28 && size_of::<ProjectQuota>() == 72);
const _: () = assert!(size_of::<QuotaState>() == 160);
const _: () = assert!(size_of::<LoopInfo64>() == 232 && size_of::<LoopConfig>() == 304);
const _: () = assert!(size_of::<XfsGeometry>() == 112 && size_of::<XfsGrow>() == 16);

impl ProjectQuota {
    /// The hard limit in bytes.
    pub(crate) fn byte_limit(&self) -> u64 {
        self.kib_limit.saturating_mul(1024)
    }
}

impl LoopInfo64 {
    /// Everything is zero except the flags and the label, which is cut to the length of its field.
    pub(crate) fn new(flags: u32, label: &str) -> Self {
        let mut file_name = [0; 64];
        let length = label.len().min(file_name.len() - 1);
        file_name[..length].copy_from_slice(&label.as_bytes()[..length]);
        let (range, numbers, encryption) = ([0; 2], [0; 3], [0; 14]);
        Self { device: 0, inode: 0, rdevice: 0, range, numbers, flags, file_name, encryption }
    }

    /// The label from the binding of the device.
    pub(crate) fn label(&self) -> &[u8] {
        self.file_name.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

/// The number of a loop device without a file; another process may take the device first.
pub(crate) fn loop_get_free(control: impl AsFd) -> Result<u32> {
    // SAFETY: GetFree describes LOOP_CTL_GET_FREE; see there.
    unsafe { ioctl::ioctl(control, GetFree) }
}

/// The device's binding; `ENXIO` if the device is unbound.
pub(crate) fn loop_status(device: impl AsFd) -> Result<LoopInfo64> {
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64, which LoopInfo64 mirrors; every bit pattern of it is valid.
    unsafe { ioctl::ioctl(device, Getter::<LOOP_GET_STATUS64, LoopInfo64>::new()) }
}

/// Binds a free device to `file`, with the block size that the file's filesystem needs. `EBUSY` if the device is not
/// free.
pub(crate) fn loop_configure(device: impl AsFd, file: BorrowedFd<'_>, info: LoopInfo64) -> Result<()> {
    let config = LoopConfig { fd: file.as_raw_fd() as u32, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one loop_config, which LoopConfig mirrors; `file` is open during the call.
    unsafe { ioctl::ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

/// Unbinds the device: at once, or with its last close if others have the device open.
pub(crate) fn loop_clear(device: impl AsFd) -> Result<()> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    unsafe { ioctl::ioctl(device, NoArg::<LOOP_CLR_FD>::new()) }
}

/// Gives the device the present size of its file.
pub(crate) fn loop_set_capacity(device: impl AsFd) -> Result<()> {
    // SAFETY: LOOP_SET_CAPACITY takes no argument.
    unsafe { ioctl::ioctl(device, NoArg::<LOOP_SET_CAPACITY>::new()) }
}

/// Thaws the frozen filesystem of `file`; `INVAL` if it is not frozen.
pub(crate) fn thaw(file: impl AsFd) -> Result<()> {
    // SAFETY: FITHAW takes no argument.
    unsafe { ioctl::ioctl(file, NoArg::<FITHAW>::new()) }
}

/// Grows the mounted ext4 filesystem of `file`.
pub(crate) fn ext4_grow(file: impl AsFd, blocks: u64) -> Result<()> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64.
    unsafe { ioctl::ioctl(file, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks)) }
}

/// The size of the mounted xfs filesystem of `file`.
pub(crate) fn xfs_geometry(file: impl AsFd) -> Result<XfsGeometry> {
    // SAFETY: XFS_IOC_FSGEOMETRY_V1 writes 112 bytes, the size of XfsGeometry; every bit pattern of it is valid.
    unsafe { ioctl::ioctl(file, Getter::<XFS_IOC_FSGEOMETRY_V1, XfsGeometry>::new()) }
}

/// Grows the mounted xfs filesystem of `file`.
pub(crate) fn xfs_grow(file: impl AsFd, blocks: u64, inode_percent: u32) -> Result<()> {
    let wanted = XfsGrow { blocks, inode_percent, padding: 0 };
    // SAFETY: XFS_IOC_FSGROWFSDATA reads one xfs_growfs_data, which XfsGrow mirrors.
    unsafe { ioctl::ioctl(file, Setter::<XFS_IOC_FSGROWFSDATA, XfsGrow>::new(wanted)) }
}

/// `struct btrfs_ioctl_vol_args` of linux/btrfs.h.
#[repr(C)]
struct BtrfsName {
    fd: i64,
    name: [u8; 4088],
}

impl BtrfsName {
    fn new(name: &[u8]) -> Result<Self> {
        let mut args = Self { fd: 0, name: [0; 4088] };
        args.name.get_mut(..name.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(name);
        Ok(args)
    }
}

/// `struct file_handle` of linux/fs.h, and in it the first 20 bytes of `struct btrfs_fid`.
#[repr(C)]
struct BtrfsHandle {
    bytes: u32,
    kind: i32,
    inode: u64,
    tree: u64,
    generation: u32,
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct BtrfsInode {
    tree: u64,
    inode: u64,
    path: [u8; 4080],
}

/// `struct btrfs_ioctl_search_args`: a range of items of a tree, and the items found.
#[repr(C)]
struct BtrfsSearch {
    tree: u64,
    objects: [u64; 2],
    offsets: [u64; 2],
    transactions: [u64; 2],
    kinds: [u32; 2],
    items: u32,
    unused: [u32; 9],
    found: [u8; 3992],
}

/// The beginning of `struct btrfs_ioctl_fs_info_args`; the rest is unused.
#[repr(C)]
#[derive(Clone, Copy)]
struct BtrfsInfo {
    highest: u64,
    devices: u64,
    id: [u8; 16],
    rest: [u64; 124],
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct BtrfsLimit {
    group: u64,
    flags: u64,
    referenced: u64,
    rest: [u64; 3],
}

const _: () = assert!(size_of::<BtrfsName>() == 4096 && size_of::<BtrfsHandle>() >= 28);
const _: () = assert!(size_of::<BtrfsInode>() == 4096 && size_of::<BtrfsSearch>() == 4096);
const _: () = assert!(size_of::<BtrfsInfo>() == 1024 && size_of::<BtrfsLimit>() == 48);

/// An item of one of btrfs' trees.
pub(crate) struct BtrfsItem {
    pub(crate) object: u64,
    pub(crate) kind: u32,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
}

/// Commits pending changes, and wakes the kernel's cleanup of removed subvolumes.
pub(crate) fn btrfs_sync(file: impl AsFd) -> Result<()> {
    // SAFETY: BTRFS_IOC_SYNC takes no argument.
    unsafe { ioctl::ioctl(file, NoArg::<BTRFS_IOC_SYNC>::new()) }
}

/// The filesystem's UUID.
pub(crate) fn btrfs_id(file: impl AsFd) -> Result<[u8; 16]> {
    // SAFETY: BTRFS_IOC_FS_INFO writes 1024 bytes, the size of BtrfsInfo; every bit pattern of it is valid.
    Ok(unsafe { ioctl::ioctl(file, Getter::<BTRFS_IOC_FS_INFO, BtrfsInfo>::new()) }?.id)
}

/// Makes an empty subvolume.
pub(crate) fn btrfs_make_subvolume(directory: impl AsFd, name: &str) -> Result<()> {
    let args = BtrfsName::new(name.as_bytes())?;
    // SAFETY: BTRFS_IOC_SUBVOL_CREATE reads one btrfs_ioctl_vol_args, which BtrfsName mirrors.
    unsafe { ioctl::ioctl(directory, Setter::<BTRFS_IOC_SUBVOL_CREATE, BtrfsName>::new(args)) }
}

/// Removes a subvolume; the kernel frees its bytes later. By name, because the kernel finds no subvolume with a long
/// path by its number.
pub(crate) fn btrfs_remove_subvolume(directory: impl AsFd, name: &[u8]) -> Result<()> {
    let args = BtrfsName::new(name)?;
    // SAFETY: BTRFS_IOC_SNAP_DESTROY reads one btrfs_ioctl_vol_args, which BtrfsName mirrors.
    unsafe { ioctl::ioctl(directory, Setter::<BTRFS_IOC_SNAP_DESTROY, BtrfsName>::new(args)) }
}

/// Makes the subvolume with the root directory `subvolume` read-only or writable.
pub(crate) fn btrfs_set_read_only(subvolume: impl AsFd, read_only: bool) -> Result<()> {
    const READ_ONLY: u64 = 1 << 1;
    let subvolume = subvolume.as_fd();
    // SAFETY: BTRFS_IOC_SUBVOL_GETFLAGS writes one u64.
    let flags = unsafe { ioctl::ioctl(subvolume, Getter::<BTRFS_IOC_SUBVOL_GETFLAGS, u64>::new()) }?;
    let wanted = if read_only { flags | READ_ONLY } else { flags & !READ_ONLY };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: BTRFS_IOC_SUBVOL_SETFLAGS reads one u64.
    unsafe { ioctl::ioctl(subvolume, Setter::<BTRFS_IOC_SUBVOL_SETFLAGS, u64>::new(wanted)) }
}

/// Opens a directory of a subvolume by its number; `ESTALE` if the subvolume is gone.
pub(crate) fn btrfs_open(file: impl AsFd, subvolume: u64, directory: u64) -> Result<OwnedFd> {
    const FILEID_BTRFS_WITHOUT_PARENT: i32 = 0x4d;
    let handle = BtrfsHandle {
        bytes: 20,
        kind: FILEID_BTRFS_WITHOUT_PARENT,
        inode: directory,
        tree: subvolume,
        generation: 0,
    };
    // SAFETY: open_by_handle_at(2) reads 8 bytes of `handle`, and the 20 more that `bytes` announces; it writes no
    // memory, and the descriptor is open during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            file.as_fd().as_raw_fd(),
            &raw const handle,
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    };
    match i32::try_from(result) {
        // SAFETY: the descriptor was just opened, and has no other owner.
        Ok(opened) if opened >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(opened) }),
        _ => Err(last_error()),
    }
}

/// The number of the subvolume of `file`; `inode` is the number of a directory in the subvolume.
pub(crate) fn btrfs_lookup(file: impl AsFd, inode: u64) -> Result<u64> {
    let mut args = BtrfsInode { tree: 0, inode, path: [0; 4080] };
    // SAFETY: BTRFS_IOC_INO_LOOKUP reads and writes one btrfs_ioctl_ino_lookup_args, which BtrfsInode mirrors.
    unsafe { ioctl::ioctl(file, Updater::<BTRFS_IOC_INO_LOOKUP, BtrfsInode>::new(&mut args)) }?;
    Ok(args.tree)
}

/// The items of a tree, from object `first` on.
pub(crate) fn btrfs_items(file: impl AsFd, tree: u64, first: u64) -> Result<Vec<BtrfsItem>> {
    const HEADER: usize = 32;
    let file = file.as_fd();
    let (mut all, mut from) = (Vec::new(), (first, 0u32, 0u64));
    loop {
        let mut args = BtrfsSearch {
            tree,
            objects: [from.0, u64::MAX],
            offsets: [from.2, u64::MAX],
            transactions: [0, u64::MAX],
            kinds: [from.1, u32::MAX],
            items: u32::MAX,
            unused: [0; 9],
            found: [0; 3992],
        };
        // SAFETY: BTRFS_IOC_TREE_SEARCH reads and writes one btrfs_ioctl_search_args, which BtrfsSearch mirrors.
        unsafe { ioctl::ioctl(file, Updater::<BTRFS_IOC_TREE_SEARCH, BtrfsSearch>::new(&mut args)) }?;
        let mut rest = &args.found[..];
        for _ in 0..args.items {
            let (header, after) = rest.split_at_checked(HEADER).ok_or(Errno::IO)?;
            let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| header[at + i]));
            let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| header[at + i]));
            let (data, after) = after.split_at_checked(word(28) as usize).ok_or(Errno::IO)?;
            all.push(BtrfsItem { object: long(8), offset: long(16), kind: word(24), data: data.to_vec() });
            rest = after;
        }
        from = match all.last().filter(|_| args.items > 0) {
            None => return Ok(all),
            Some(BtrfsItem { object, kind, offset: u64::MAX, .. }) => (*object, kind + 1, 0),
            Some(BtrfsItem { object, kind, offset, .. }) => (*object, *kind, offset + 1),
        };
    }
}

/// Switches simple quotas on (Linux 6.7): the kernel counts new allocations, but no existing ones.
pub(crate) fn btrfs_enable_simple_quotas(file: impl AsFd) -> Result<()> {
    const ENABLE_SIMPLE_QUOTA: u64 = 4;
    let mut args = [ENABLE_SIMPLE_QUOTA, 0];
    // SAFETY: BTRFS_IOC_QUOTA_CTL reads and writes one btrfs_ioctl_quota_ctl_args, which is two u64.
    unsafe { ioctl::ioctl(file, Updater::<BTRFS_IOC_QUOTA_CTL, [u64; 2]>::new(&mut args)) }
}

/// Makes or removes a group of subvolumes that are counted together.
pub(crate) fn btrfs_group(file: impl AsFd, group: u64, exists: bool) -> Result<()> {
    // SAFETY: BTRFS_IOC_QGROUP_CREATE reads one btrfs_ioctl_qgroup_create_args, which is two u64.
    unsafe { ioctl::ioctl(file, Setter::<BTRFS_IOC_QGROUP_CREATE, [u64; 2]>::new([exists.into(), group])) }
}

/// Puts a subvolume's own group into another group, or takes it out.
pub(crate) fn btrfs_assign(file: impl AsFd, member: u64, group: u64, belongs: bool) -> Result<()> {
    let args = [belongs.into(), member, group];
    // SAFETY: BTRFS_IOC_QGROUP_ASSIGN reads one btrfs_ioctl_qgroup_assign_args, which is three u64.
    unsafe { ioctl::ioctl(file, Setter::<BTRFS_IOC_QGROUP_ASSIGN, [u64; 3]>::new(args)) }
}

/// Limits the bytes of a group.
pub(crate) fn btrfs_limit(file: impl AsFd, group: u64, bytes: u64) -> Result<()> {
    const REFERENCED: u64 = 1;
    let args = BtrfsLimit { group, flags: REFERENCED, referenced: bytes, rest: [0; 3] };
    // SAFETY: BTRFS_IOC_QGROUP_LIMIT reads one btrfs_ioctl_qgroup_limit_args, which BtrfsLimit mirrors.
    unsafe { ioctl::ioctl(file, Setter::<BTRFS_IOC_QGROUP_LIMIT, BtrfsLimit>::new(args)) }
}

/// Tells the kernel that so many bytes of a file are read in order, so that it reads further ahead. Few bytes it reads at once anyway.
pub(crate) fn read_in_order(file: impl AsFd, from: u64, bytes: u64) -> Result<()> {
    const FEW: u64 = 1 << 20;
    if bytes > FEW { rustix::fs::fadvise(file, from, None, Advice::Sequential) } else { Ok(()) }
}

/// Begins to write these bytes of a file to its disk, and does not wait for the end.
pub(crate) fn begin_to_write(file: impl AsFd, from: u64, bytes: u64) -> Result<()> {
    let overflows = |_| Errno::OVERFLOW;
    let (from, bytes) = (from.try_into().map_err(overflows)?, bytes.try_into().map_err(overflows)?);
    // SAFETY: the call gets no pointer.
    let begun =
        unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), from, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    if begun == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// The bits for access times form one value, so the old value is cleared.
const MOUNT_ATTR_ATIME: u64 = 0x70;

/// Sets the attributes of a detached mount, and makes the mount private.
pub(crate) fn set_mount_attributes(mount: impl AsFd, attributes: MountAttrFlags) -> Result<()> {
    mount_setattr(mount, attributes.bits().into(), MOUNT_ATTR_ATIME)
}

/// Sets and clears flags of a detached mount, other than those for access times, and makes the mount private.
pub(crate) fn change_mount_flags(mount: impl AsFd, set: MountAttrFlags, clear: MountAttrFlags) -> Result<()> {
    mount_setattr(mount, set.bits().into(), clear.bits().into())
}

fn mount_setattr(mount: impl AsFd, set: u64, clear: u64) -> Result<()> {
    let attr = MountAttr { set, clear, propagation: libc::MS_PRIVATE, user_namespace: 0 };
    // SAFETY: mount_setattr(2) reads the path, which is empty and ends with NUL, and the given number of bytes of
    // `attr`, which is its size; it writes no memory, and the descriptor is open during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// Gives this thread alone another mount namespace (`NEWNS`) or its own working directory and root (`FS`).
pub(crate) fn unshare(flags: UnshareFlags) -> Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the table of descriptors stays shared, which is all that rustix asks for.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// A process in user and mount namespaces of its own, which waits until the caller kills it. It ends with this thread
/// at the latest.
pub(crate) fn child_in_user_namespace() -> Result<Pid> {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has a copy of all memory and goes on here, on a copy of this stack. Other
    // threads may have held locks, so the child makes two kinds of system call and nothing else; it never returns.
    let child = unsafe {
        let child = libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0);
        if child == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
        child
    };
    match i32::try_from(child).ok().and_then(Pid::from_raw) {
        Some(child) if child.as_raw_nonzero().get() > 0 => Ok(child),
        _ => Err(last_error()),
    }
}

/// Flags and project of a file or directory that is open.
pub(crate) fn file_attributes(file: impl AsFd) -> Result<FileAttributes> {
    // SAFETY: FS_IOC_FSGETXATTR writes one fsxattr, which FileAttributes mirrors; every bit pattern of it is valid.
    unsafe { ioctl::ioctl(file, Getter::<FS_IOC_FSGETXATTR, FileAttributes>::new()) }
}

/// Sets flags and project of a file or directory that is open.
pub(crate) fn set_file_attributes(file: impl AsFd, attributes: FileAttributes) -> Result<()> {
    // SAFETY: FS_IOC_FSSETXATTR reads one fsxattr, which FileAttributes mirrors.
    unsafe { ioctl::ioctl(file, Setter::<FS_IOC_FSSETXATTR, FileAttributes>::new(attributes)) }
}

/// True if the filesystem of `file` counts the bytes of projects and enforces their limits.
pub(crate) fn enforces_project_quota(file: impl AsFd) -> Result<bool> {
    const Q_XGETQSTATV: u32 = 0x5808;
    const FS_QUOTA_PDQ_ACCT_AND_ENFD: u16 = 0x30;
    let mut state = QuotaState { version: 1, padding: 0, flags: 0, rest: [0; 39] };
    project_quota_call(file, Q_XGETQSTATV, 0, &mut state)?;
    Ok(state.flags & FS_QUOTA_PDQ_ACCT_AND_ENFD == FS_QUOTA_PDQ_ACCT_AND_ENFD)
}

/// Limits and use of the filesystem's first project with a number of at least `from`.
pub(crate) fn next_project_quota(file: impl AsFd, from: u32) -> Result<Option<ProjectQuota>> {
    const Q_GETNEXTQUOTA: u32 = 0x80_0009;
    if from == u32::MAX {
        // The kernel refuses this number, which is no project's.
        return Ok(None);
    }
    let mut quota = ProjectQuota::default();
    match project_quota_call(file, Q_GETNEXTQUOTA, from, &mut quota) {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(|()| Some(quota)),
    }
}

/// Sets the hard limits of a project; 0 removes a limit.
pub(crate) fn set_project_limits(file: impl AsFd, project: u32, kib: u64, inodes: u64) -> Result<()> {
    const Q_SETQUOTA: u32 = 0x80_0008;
    const QIF_LIMITS: u32 = 5;
    let mut quota =
        ProjectQuota { kib_limit: kib, inode_limit: inodes, valid: QIF_LIMITS, ..ProjectQuota::default() };
    project_quota_call(file, Q_SETQUOTA, project, &mut quota)
}

/// quotactl_fd(2), which needs no path of the device (Linux 5.14). `T` is the type that `command` reads or writes.
fn project_quota_call<T>(file: impl AsFd, command: u32, project: u32, argument: &mut T) -> Result<()> {
    const PRJQUOTA: u32 = 2;
    // SAFETY: each of the three commands reads or writes one structure of its type, whose size is asserted above; the
    // descriptor is open during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_fd().as_raw_fd(),
            command << 8 | PRJQUOTA,
            project,
            &raw mut *argument,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// LOOP_CTL_GET_FREE returns its result as the return value; rustix has no pattern for that.
struct GetFree;

// SAFETY: the call takes no argument, writes no memory, and returns a number that is not negative.
unsafe impl Ioctl for GetFree {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<u32> {
        u32::try_from(output).map_err(|_| rustix::io::Errno::INVAL)
    }
}
