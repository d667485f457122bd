//! Overwrites bytes, and gives blocks of a device back.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

/// Bytes between two synchronizations, so that an erase does not fill the page cache.
const BATCH: u64 = 64 << 20;

/// Bytes of a device that one call discards.
const STEP: u64 = 1 << 30;

/// Writes zeroes. The kernel's own calls for zeroing would only mark the range as empty.
pub(crate) fn overwrite(file: &File, range: Range<u64>) -> std::io::Result<()> {
    let zeroes = vec![0; 1 << 20];
    let Range { start: mut offset, end } = range;
    let mut unsynced = 0;
    while offset < end {
        let length = zeroes.len().min((end - offset) as usize);
        file.write_all_at(&zeroes[..length], offset)?;
        offset += length as u64;
        unsynced += length as u64;
        if unsynced >= BATCH {
            file.sync_data()?;
            unsynced = 0;
        }
    }
    file.sync_data()
}

/// [Overwrites](overwrite) a regular file from an offset to the end. Holes stay: the disk may have no space for them.
pub(crate) fn overwrite_from(file: &File, from: u64) -> std::io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.blocks() * 512 >= metadata.len() {
        return overwrite(file, from..metadata.len());
    }
    let mut end = from;
    loop {
        let start = match rustix::fs::seek(file, SeekFrom::Data(end)) {
            // The rest of the file is a hole.
            Err(Errno::NXIO) => return Ok(()),
            result => result?,
        };
        end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        overwrite(file, start..end)?;
    }
}

/// Makes a device read as zeroes (S17). Discards blocks if the device promises zeroes afterwards, or else writes
/// zeroes.
pub(crate) fn discard(device: &File, size: u64) -> rustix::io::Result<()> {
    // PUNCH_HOLE on a device is an unmap that must leave zeroes. The kernel refuses it on a device without that
    // promise.
    let mut how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut offset = 0;
    while offset < size {
        let length = STEP.min(size - offset);
        match rustix::fs::fallocate(device, how, offset, length) {
            Err(Errno::OPNOTSUPP) if how.contains(FallocateFlags::PUNCH_HOLE) => {
                how = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            }
            result => {
                result?;
                offset += length;
            }
        }
    }
    rustix::fs::fsync(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x4_overwrite_writes_every_byte() {
        let file = tempfile::tempfile().unwrap();
        let size = (3 << 20) + 17;
        file.write_all_at(&vec![0xaa; size], 0).unwrap();
        overwrite(&file, 0..size as u64).unwrap();
        let mut bytes = vec![1; size];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    }

    #[test]
    fn x4_overwrite_fills_no_hole() {
        let file = tempfile::tempfile().unwrap();
        let (hole, size) = (64 << 20, 1 << 20);
        for start in [hole, 3 * hole] {
            file.write_all_at(&vec![0xaa; size], start).unwrap();
        }
        file.set_len(4 * hole).unwrap();
        file.sync_all().unwrap();
        let blocks = file.metadata().unwrap().blocks();
        let is_blank = |at: u64| {
            let mut bytes = vec![1; size];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes.iter().all(|&byte| byte == 0)
        };
        overwrite_from(&file, 2 * hole).unwrap();
        assert!(!is_blank(hole) && is_blank(3 * hole));
        overwrite_from(&file, 0).unwrap();
        assert!(is_blank(hole));
        assert_eq!((file.metadata().unwrap().blocks(), file.metadata().unwrap().len()), (blocks, 4 * hole));
    }
}
