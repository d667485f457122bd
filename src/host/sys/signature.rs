//! The name of what is on a device, for messages. Nothing is decided by it: only a blank device is taken.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::host::error::{Context, Result};

/// Enough for the signatures at the beginning of a device.
const START: usize = 68 << 10;

/// Offset and bytes of the signatures at the beginning of a device, the most telling ones first.
const SIGNATURES: [(usize, &[u8], &str); 13] = [
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"XFSB", "xfs"),
    (0x438, b"\x53\xef", "ext4"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0x200, b"LABELONE", "a physical volume of LVM"),
    (0, b"\xfc\x4e\x2b\xa9", "a part of a RAID"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "a part of a RAID"),
    (0xff6, b"SWAPSPACE2", "swap"),
    (0, b"bluestore block device", "a Ceph OSD"),
    (0x1018, b"\xc6\x85\x73\xf6", "a bcache"),
    (0x200, b"EFI PART", "a partition table"),
    (0x1000, b"EFI PART", "a partition table"),
    (0x1fe, b"\x55\xaa", "a partition table"),
];

/// The name of what is on a device that is not blank.
pub(crate) fn name(file: &File) -> Result<&'static str> {
    let mut start = vec![0; START];
    let read = file.read_at(&mut start, 0).context(|| "look for a signature")?;
    Ok(name_of(&start[..read]))
}

fn name_of(start: &[u8]) -> &'static str {
    let has = |at: usize, bytes: &[u8]| start.get(at..at + bytes.len()) == Some(bytes);
    let found = SIGNATURES.iter().find(|(at, bytes, _)| has(*at, bytes));
    found.map_or("data", |(_, _, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d6_what_is_on_a_device_has_a_name() {
        let with = |at: usize, bytes: &[u8]| {
            let mut start = vec![0; START];
            start[at..at + bytes.len()].copy_from_slice(bytes);
            name_of(&start)
        };
        assert_eq!(with(0x438, b"\x53\xef"), "ext4");
        assert_eq!(with(0x10040, b"_BHRfS_M"), "btrfs");
        assert_eq!(with(512, b"LABELONE"), "a physical volume of LVM");
        assert_eq!(with(510, b"\x55\xaa"), "a partition table");
        assert_eq!(with(7, b"x"), "data");
        assert_eq!(name_of(b"short"), "data");
    }
}
