//! The kernel's table of mounts, in the format of proc_pid_mountinfo(5).
//!
//! The output of `mount(8)` is never parsed: a space in a path looks like the start of the next column.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::FileType;

use crate::host::error::{Context, Result};

/// Number of a block device or of a filesystem, as in `st_dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Device {
    pub(crate) fn from_raw(device: u64) -> Self {
        Self { major: rustix::fs::major(device), minor: rustix::fs::minor(device) }
    }

    /// The device of the filesystem that a file is on.
    pub(crate) fn of(file: impl AsFd) -> Result<Self> {
        let stat = rustix::fs::fstat(file).context(|| "look at a file's filesystem")?;
        Ok(Self::from_raw(stat.st_dev))
    }

    /// The device of a block device's node; `None` for any other file.
    pub(crate) fn of_node(file: impl AsFd) -> Result<Option<Self>> {
        let stat = rustix::fs::fstat(file).context(|| "look at a device node")?;
        let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        Ok(is_block.then(|| Self::from_raw(stat.st_rdev)))
    }

    pub(crate) fn to_raw(self) -> u64 {
        rustix::fs::makedev(self.major, self.minor)
    }

    /// Reads `major:minor`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// One mount, with the columns of the table that Reservoir uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Unique among the present mounts.
    pub(crate) id: u64,
    /// The filesystem's device.
    pub(crate) device: Device,
    /// The mounted directory, as a path on that filesystem.
    pub(crate) root: PathBuf,
    /// The mount point, as seen from this process' root.
    pub(crate) point: PathBuf,
    /// The mount is read-only; its filesystem may be writable.
    pub(crate) read_only: bool,
    /// The device, if a block device's node is mounted. Not a column of the table.
    pub(crate) node: Option<Device>,
    /// Number of the mounted inode. Not a column of the table.
    pub(crate) inode: Option<u64>,
}

pub(crate) fn mounts() -> Result<Vec<Mount>> {
    // `self` would be the process' first thread, which may be in another mount namespace.
    let table =
        std::fs::read("/proc/thread-self/mountinfo").context(|| "read the kernel's table of mounts")?;
    Ok(parse(&table))
}

/// Parses a table. A malformed line is skipped, because each line concerns another mount.
pub(crate) fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// Parses `36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/sda rw,errors=continue`.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = Device::parse(str::from_utf8(fields.next()?).ok()?)?;
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let read_only = fields.next()?.split(|&byte| byte == b',').any(|option| option == b"ro");
    Some(Mount { id, device, root, point, read_only, node: None, inode: None })
}

/// Decodes the octal escapes (`\ooo`) with which the kernel writes space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match octal(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(text: &[u8]) -> Option<u8> {
    match text {
        [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
            Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    /// M5: pods choose what many lines of the table have. A line gives at most one mount.
    #[test]
    fn fuzz_the_table_of_mounts() {
        let line = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n40 35 7:300 / /a\\040b ro - xfs x rw\n";
        crate::fuzz::fuzz("mountinfo", &[line, b"1 1 0:4294967295 \\400 \\377 ro\n"], |bytes| {
            let mounts = parse(bytes);
            assert!(mounts.len() <= bytes.split(|byte| *byte == b'\n').count());
            let names =
                mounts.iter().map(|mount| mount.point.as_os_str().len() + mount.root.as_os_str().len());
            assert!(names.sum::<usize>() <= bytes.len());
            let of = |mount: &Mount| {
                (mount.read_only, mount.device.major.checked_ilog2(), mount.id.checked_ilog2())
            };
            mounts.iter().take(4).map(of).collect::<Vec<_>>()
        });
    }

    #[test]
    fn the_documented_line_is_read() {
        let table = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                      40 35 7:300 / /a\\040b\\012c\\134d ro,nosuid shared:4 master:1 - xfs /dev/loop300 rw\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].root, PathBuf::from("/mnt1"));
        assert!(!mounts[0].read_only, "the mount's own mode, not its filesystem's");
        assert_eq!(
            mounts[1],
            Mount {
                id: 40,
                device: Device { major: 7, minor: 300 },
                root: "/".into(),
                point: "/a b\nc\\d".into(),
                read_only: true,
                node: None,
                inode: None,
            }
        );
    }

    #[test]
    fn a_malformed_line_hides_no_other() {
        let table = b"nonsense\n\n1 2 3\n36 35 98:0 / /x rw - ext4 a rw\n";
        assert_eq!(parse(table).len(), 1);
    }

    #[test]
    fn an_incomplete_escape_is_kept() {
        assert_eq!(unescape(b"a\\04"), PathBuf::from("a\\04"));
        assert_eq!(unescape(b"\\999\\"), PathBuf::from("\\999\\"));
    }

    #[test]
    fn the_table_of_this_machine_is_read() {
        assert!(mounts().unwrap().iter().any(|mount| mount.point.as_os_str() == "/"));
    }

    /// Escapes in the way of fs/seq_file.c and fs/proc_namespace.c.
    fn escape(path: &[u8]) -> Vec<u8> {
        let mut escaped = Vec::new();
        for &byte in path {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' | b'#' => escaped.extend(format!("\\{byte:03o}").bytes()),
                _ => escaped.push(byte),
            }
        }
        escaped
    }

    proptest! {
        #[test]
        fn any_escaped_path_is_unescaped(path in proptest::collection::vec(1u8.., 0..60)) {
            let unescaped = unescape(&escape(&path));
            prop_assert_eq!(unescaped.as_os_str().as_bytes(), &path[..]);
        }

        #[test]
        fn any_path_in_a_line_is_read(path in proptest::collection::vec(1u8.., 1..60)) {
            let mut line = b"36 35 7:1 / ".to_vec();
            line.extend(escape(&path));
            line.extend(b" ro - ext4 /dev/loop1 rw");
            let mounts = parse(&line);
            prop_assert_eq!(mounts.len(), 1);
            prop_assert_eq!(mounts[0].point.as_os_str().as_bytes(), &path[..]);
        }

        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }
    }
}
