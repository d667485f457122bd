//! The few ioctls of loop(4), ext4 and xfs, and mount_setattr(2), that rustix does not wrap; the only unsafe code of this
//! crate.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};
use rustix::ioctl::{self, Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter};
use rustix::mount::MountAttrFlags;

const LOOP_CLR_FD: Opcode = 0x4c01;
const LOOP_GET_STATUS64: Opcode = 0x4c05;
const LOOP_SET_CAPACITY: Opcode = 0x4c07;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;
const EXT4_IOC_RESIZE_FS: Opcode = 0x4008_6610;
const XFS_IOC_FSGEOMETRY_V1: Opcode = 0x8070_5864;
const XFS_IOC_FSGROWFSDATA: Opcode = 0x4010_586e;

/// The device lets go of its file when its last user is gone.
pub(super) const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// The device bypasses the page cache of the filesystem beneath.
pub(super) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LoopInfo64 {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) rdevice: u64,
    pub(super) offset: u64,
    pub(super) size_limit: u64,
    pub(super) number: u32,
    pub(super) encrypt_type: u32,
    pub(super) encrypt_key_size: u32,
    pub(super) flags: u32,
    pub(super) file_name: [u8; 64],
    pub(super) crypt_name: [u8; 64],
    pub(super) encrypt_key: [u8; 32],
    pub(super) init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// The beginning of `struct xfs_fsop_geom_v1` of linux/xfs_fs.h; the rest is not looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct XfsGeometry {
    pub(super) block_size: u32,
    rest: [u32; 6],
    pub(super) inode_percent: u32,
    pub(super) blocks: u64,
    end: [u64; 9],
}

/// `struct xfs_growfs_data` of linux/xfs_fs.h.
#[repr(C)]
struct XfsGrow {
    blocks: u64,
    inode_percent: u32,
    padding: u32,
}

// The sizes are part of the kernel's interface.
const _: () = assert!(size_of::<LoopInfo64>() == 232 && size_of::<LoopConfig>() == 304);
const _: () = assert!(size_of::<XfsGeometry>() == 112 && size_of::<XfsGrow>() == 16);

impl LoopInfo64 {
    /// Everything zero but the flags and the name, which is cut to what fits.
    pub(super) fn new(flags: u32, label: &str) -> Self {
        let mut file_name = [0; 64];
        let length = label.len().min(file_name.len() - 1);
        file_name[..length].copy_from_slice(&label.as_bytes()[..length]);
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }

    /// The name that whoever set up the device gave it.
    pub(super) fn label(&self) -> &[u8] {
        self.file_name.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

/// The number of a loop device that has no file; another process may take it first.
pub(super) fn loop_get_free(control: impl AsFd) -> Result<u32> {
    // SAFETY: GetFree describes LOOP_CTL_GET_FREE; see there.
    unsafe { ioctl::ioctl(control, GetFree) }
}

/// What the device is bound to; `ENXIO` if to nothing.
pub(super) fn loop_status(device: impl AsFd) -> Result<LoopInfo64> {
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64, which LoopInfo64 mirrors; every bit pattern of it is valid.
    unsafe { ioctl::ioctl(device, Getter::<LOOP_GET_STATUS64, LoopInfo64>::new()) }
}

/// Binds a free device to `file`, with the block size that the file's filesystem needs; `EBUSY` if it is not free.
pub(super) fn loop_configure(device: impl AsFd, file: BorrowedFd<'_>, info: LoopInfo64) -> Result<()> {
    let config = LoopConfig { fd: file.as_raw_fd() as u32, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one loop_config, which LoopConfig mirrors; `file` is open during the call.
    unsafe { ioctl::ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

/// Unbinds the device: at once, or with its last close if others have it open.
pub(super) fn loop_clear(device: impl AsFd) -> Result<()> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    unsafe { ioctl::ioctl(device, NoArg::<LOOP_CLR_FD>::new()) }
}

/// Has the device look how large its file is now.
pub(super) fn loop_set_capacity(device: impl AsFd) -> Result<()> {
    // SAFETY: LOOP_SET_CAPACITY takes no argument.
    unsafe { ioctl::ioctl(device, NoArg::<LOOP_SET_CAPACITY>::new()) }
}

/// Grows the mounted ext4 filesystem that `file` is in.
pub(super) fn ext4_grow(file: impl AsFd, blocks: u64) -> Result<()> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64.
    unsafe { ioctl::ioctl(file, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks)) }
}

/// How large the mounted xfs filesystem is that `file` is in.
pub(super) fn xfs_geometry(file: impl AsFd) -> Result<XfsGeometry> {
    // SAFETY: XFS_IOC_FSGEOMETRY_V1 writes 112 bytes, the size of XfsGeometry; every bit pattern of it is valid.
    unsafe { ioctl::ioctl(file, Getter::<XFS_IOC_FSGEOMETRY_V1, XfsGeometry>::new()) }
}

/// Grows the mounted xfs filesystem that `file` is in.
pub(super) fn xfs_grow(file: impl AsFd, blocks: u64, inode_percent: u32) -> Result<()> {
    let wanted = XfsGrow { blocks, inode_percent, padding: 0 };
    // SAFETY: XFS_IOC_FSGROWFSDATA reads one xfs_growfs_data, which XfsGrow mirrors.
    unsafe { ioctl::ioctl(file, Setter::<XFS_IOC_FSGROWFSDATA, XfsGrow>::new(wanted)) }
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// The bits that say how access times are kept: one value of several, so old ones are cleared.
const MOUNT_ATTR_ATIME: u64 = 0x70;

/// Gives a mount that nobody can see yet these attributes and no peers.
pub(super) fn set_mount_attributes(mount: impl AsFd, attributes: MountAttrFlags) -> Result<()> {
    let attr = MountAttr {
        set: attributes.bits().into(),
        clear: MOUNT_ATTR_ATIME,
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    // SAFETY: mount_setattr(2) reads the path, which is empty and ends with NUL, and as many bytes of `attr` as it is told
    // that it has; it writes no memory, and the descriptor is open during the call.
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
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// LOOP_CTL_GET_FREE answers with its return value, which none of rustix' patterns hands out.
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
