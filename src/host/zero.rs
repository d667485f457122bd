//! Overwriting bytes, and giving blocks of a device back.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// How much is written before it is waited for, so that erasing does not fill the machine's memory.
const BATCH: u64 = 64 << 20;

/// How much of a device is asked to forget in one call.
const STEP: u64 = 1 << 30;

/// Real writes: the kernel's own ways of zeroing a range merely mark it as empty.
pub(super) fn overwrite(file: &File, size: u64) -> std::io::Result<()> {
    let zeroes = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < size {
        let length = zeroes.len().min((size - offset) as usize);
        file.write_all_at(&zeroes[..length], offset)?;
        offset += length as u64;
        if offset % BATCH == 0 {
            file.sync_data()?;
        }
    }
    file.sync_data()
}

/// Makes a device read as zeroes: by giving its blocks back where it promises zeroes for those, else by having it, or the
/// kernel, write them (S17).
pub(super) fn discard(device: &File, size: u64) -> rustix::io::Result<()> {
    // On a device the kernel takes the first for an unmap that must leave zeroes, and refuses where none can.
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

    /// X4.
    #[test]
    fn overwriting_writes_every_byte() {
        let file = tempfile::tempfile().unwrap();
        let size = (3 << 20) + 17;
        file.write_all_at(&vec![0xaa; size], 0).unwrap();
        overwrite(&file, size as u64).unwrap();
        let mut bytes = vec![1; size];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    }
}
