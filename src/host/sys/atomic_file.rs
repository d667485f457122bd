//! Small files that always have either their old or their new content, also after a power cut.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::error::{Context, Error, Result};
use crate::host::sys::dirfd;

/// The largest file that an agent writes.
const MAX_BYTES: u64 = 16 << 20;

/// The name under which the new content of `name` is written.
pub(crate) fn temporary(name: &str) -> String {
    format!("{name}.new")
}

/// Reads a file, `None` if there is none.
pub(crate) fn read(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    // NONBLOCK: the open of a FIFO in the file's place would block.
    let file = dirfd::open_here(dir, name, OFlags::RDONLY | OFlags::NONBLOCK);
    let file = dirfd::unless_missing(file).context(|| format!("open {name}"))?;
    let Some(file) = file.map(File::from) else { return Ok(None) };
    let mut bytes = Vec::new();
    let length = file.take(MAX_BYTES + 1).read_to_end(&mut bytes).context(|| format!("read {name}"))?;
    if length as u64 > MAX_BYTES {
        let reason = format!("it is longer than {MAX_BYTES} bytes");
        return Err(Error::corrupt(name, reason));
    }
    Ok(Some(bytes))
}

/// Reads a JSON file; `what` is its name in errors.
pub(crate) fn read_json<T: DeserializeOwned>(
    dir: BorrowedFd<'_>,
    name: &str,
    what: impl FnOnce() -> String,
) -> Result<Option<T>> {
    let Some(bytes) = read(dir, name)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::corrupt(what(), error.to_string()))
}

/// Replaces a file atomically. When this returns, the new content is on stable storage.
pub(crate) fn replace(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(name);
    dirfd::remove(dir, &temporary, AtFlags::empty()).context(|| format!("remove {temporary}"))?;
    let mut file = File::from(dirfd::create(dir, &temporary).context(|| format!("create {temporary}"))?);
    file.write_all(bytes).and_then(|()| file.sync_all()).context(|| format!("write {temporary}"))?;
    rustix::fs::renameat(dir, &temporary, dir, name).context(|| format!("replace {name}"))?;
    // The rename is only durable after a synchronization of the directory.
    rustix::fs::fsync(dir).context(|| format!("synchronize the directory of {name}"))
}

/// [Replaces](replace) a file with JSON.
pub(crate) fn replace_json(dir: BorrowedFd<'_>, name: &str, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| Error::corrupt(name, error.to_string()))?;
    replace(dir, name, &bytes)
}

/// Exchanged files have a multiple of this length.
const SLOT: usize = 16 << 10;

/// Replaces a file also on a full filesystem, which pods can cause. The new content overwrites the last content but
/// one, in a second file, and the two files exchange their names. Newlines pad the file to its length. Only content
/// that outgrows the file needs free space.
pub(crate) fn exchange(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let spare = temporary(name);
    let mut content = bytes.to_vec();
    let file = open_spare(dir, &spare)?;
    let length = file.metadata().context(|| format!("look at {spare}"))?.len();
    let slot = bytes.len().next_multiple_of(SLOT).max(length.min(MAX_BYTES) as usize);
    content.resize(slot, b'\n');
    // Blocks are allocated before the length is set: a length alone reserves no space.
    allocate(&file, slot)?;
    file.write_all_at(&content, 0)
        .and_then(|()| if length > slot as u64 { file.set_len(slot as u64) } else { Ok(()) })
        // fdatasync skips the modification time, which would cost a write of its own.
        .and_then(|()| file.sync_data())
        .context(|| format!("write {spare}"))?;
    match rustix::fs::renameat_with(dir, &spare, dir, name, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT) => rustix::fs::renameat_with(dir, &spare, dir, name, RenameFlags::NOREPLACE),
        result => result,
    }
    .context(|| format!("replace {name}"))?;
    rustix::fs::fsync(dir).context(|| format!("synchronize the directory of {name}"))?;
    // The next replacement must not need free space either.
    allocate(&open_spare(dir, &spare)?, slot)
}

fn open_spare(dir: BorrowedFd<'_>, spare: &str) -> Result<File> {
    match dirfd::open_here(dir, spare, OFlags::RDWR | OFlags::NONBLOCK) {
        Err(Errno::NOENT) => dirfd::create(dir, spare),
        result => result,
    }
    .map(File::from)
    .context(|| format!("open {spare}"))
}

/// Allocates `bytes` bytes for a file that has fewer.
fn allocate(file: &File, bytes: usize) -> Result<()> {
    let metadata = file.metadata().context(|| "look at a record")?;
    if metadata.len() >= bytes as u64 {
        return Ok(());
    }
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes as u64)
        .context(|| format!("allocate {bytes} bytes for a record"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    #[test]
    fn m4_an_exchange_leaves_space_for_the_next_one() {
        let temp = tempfile::tempdir().unwrap();
        let dir = OwnedFd::from(File::open(temp.path()).unwrap());
        let sizes =
            || ["f", "f.new"].map(|name| std::fs::metadata(temp.path().join(name)).unwrap().len() as usize);
        for length in [3, 100, SLOT, SLOT + 1, 5, 3 * SLOT, 0] {
            let text = vec![b'x'; length];
            exchange(dir.as_fd(), "f", &text).unwrap();
            let read = read(dir.as_fd(), "f").unwrap().unwrap();
            assert_eq!(read.trim_ascii_end(), text);
            let [one, other] = sizes();
            assert!(one >= length && other >= one && one % SLOT == 0, "{length}: {one} and {other}");
        }
        assert_eq!(sizes(), [3 * SLOT; 2]);
        // A torn file of a crash does no harm.
        std::fs::write(temp.path().join("f.new"), "torn").unwrap();
        exchange(dir.as_fd(), "f", b"whole").unwrap();
        assert_eq!(read(dir.as_fd(), "f").unwrap().unwrap().trim_ascii_end(), b"whole");
    }
}
