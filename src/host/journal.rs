//! Small files that are either wholly old or wholly new, also after a power cut.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, OFlags};
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
