//! Small files that are either wholly old or wholly new, also after a power cut.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;

use super::beneath;
use super::error::{Context, Error, Result};

/// No record of ours is near this long; a longer file is not one.
const MAX_BYTES: u64 = 16 << 20;

/// The name under which a file is written before it takes the place of `name`.
pub(super) fn temporary(name: &str) -> String {
    format!("{name}.new")
}

/// Reads a file, `None` if there is none.
pub(super) fn read(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    // NONBLOCK: a FIFO put in its place must not stop us.
    let file = match beneath::open_here(dir, name, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error).context(|| format!("open {name}")),
    };
    let mut bytes = Vec::new();
    let length = file.take(MAX_BYTES + 1).read_to_end(&mut bytes).context(|| format!("read {name}"))?;
    if length as u64 > MAX_BYTES {
        let reason = format!("it is longer than {MAX_BYTES} bytes");
        return Err(Error::Corrupt { what: name.to_owned(), reason });
    }
    Ok(Some(bytes))
}

/// Replaces a file atomically. When this returns, the new content is on stable storage.
pub(super) fn replace(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(name);
    beneath::remove(dir, &temporary, AtFlags::empty()).context(|| format!("remove {temporary}"))?;
    let mut file = File::from(beneath::create(dir, &temporary).context(|| format!("create {temporary}"))?);
    file.write_all(bytes).and_then(|()| file.sync_all()).context(|| format!("write {temporary}"))?;
    rustix::fs::renameat(dir, &temporary, dir, name).context(|| format!("replace {name}"))?;
    // The rename itself is only durable once the directory is.
    rustix::fs::fsync(dir).context(|| format!("synchronize the directory of {name}"))
}

/// What a file that is swapped is a multiple of.
const SLOT: usize = 16 << 10;

/// The same for a file that has to be replaced also when its filesystem is full, which a pod may do: unless it grows
/// past its slot, the new content is written over what was there the time before last, and the two files swap names.
/// It is filled up with newlines.
pub(super) fn swap(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let spare = temporary(name);
    let mut content = bytes.to_vec();
    let file = open_spare(dir, &spare)?;
    let length = file.metadata().context(|| format!("look at {spare}"))?.len();
    // Room first: a file that is merely longer than it has blocks would not do.
    let slot = bytes.len().next_multiple_of(SLOT).max(length.min(MAX_BYTES) as usize);
    content.resize(slot, b'\n');
    reserve(&file, slot)?;
    file.write_all_at(&content, 0)
        .and_then(|()| if length > slot as u64 { file.set_len(slot as u64) } else { Ok(()) })
        // Its content, its length and where that is; when it was changed is no reason for a write of its own.
        .and_then(|()| file.sync_data())
        .context(|| format!("write {spare}"))?;
    match rustix::fs::renameat_with(dir, &spare, dir, name, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT) => rustix::fs::renameat_with(dir, &spare, dir, name, RenameFlags::NOREPLACE),
        result => result,
    }
    .context(|| format!("replace {name}"))?;
    rustix::fs::fsync(dir).context(|| format!("synchronize the directory of {name}"))?;
    // The next time must not need room either.
    reserve(&open_spare(dir, &spare)?, slot)
}

fn open_spare(dir: BorrowedFd<'_>, spare: &str) -> Result<File> {
    match beneath::open_here(dir, spare, OFlags::RDWR | OFlags::NONBLOCK) {
        Err(Errno::NOENT) => beneath::create(dir, spare),
        result => result,
    }
    .map(File::from)
    .context(|| format!("open {spare}"))
}

/// Gives a file that many bytes, if it has fewer.
fn reserve(file: &File, bytes: usize) -> Result<()> {
    let metadata = file.metadata().context(|| "look at a journal")?;
    if metadata.len() >= bytes as u64 {
        return Ok(());
    }
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes as u64)
        .context(|| format!("make room for a journal of {bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    #[test]
    fn m4_a_swapped_file_has_its_room_for_the_next_time() {
        let temp = tempfile::tempdir().unwrap();
        let dir = OwnedFd::from(File::open(temp.path()).unwrap());
        let sizes =
            || ["f", "f.new"].map(|name| std::fs::metadata(temp.path().join(name)).unwrap().len() as usize);
        for length in [3, 100, SLOT, SLOT + 1, 5, 3 * SLOT, 0] {
            let text = vec![b'x'; length];
            swap(dir.as_fd(), "f", &text).unwrap();
            let read = read(dir.as_fd(), "f").unwrap().unwrap();
            assert_eq!(read.trim_ascii_end(), text);
            let [one, other] = sizes();
            assert!(one >= length && other >= one && one % SLOT == 0, "{length}: {one} and {other}");
        }
        assert_eq!(sizes(), [3 * SLOT; 2]);
        // One that is left by a crash is worth nothing, and no harm.
        std::fs::write(temp.path().join("f.new"), "torn").unwrap();
        swap(dir.as_fd(), "f", b"whole").unwrap();
        assert_eq!(read(dir.as_fd(), "f").unwrap().unwrap().trim_ascii_end(), b"whole");
    }
}
