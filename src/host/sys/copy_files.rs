//! Makes the files of a manifest in a directory, from a source (E2).
//!
//! A file that is there already is read and compared, and only the rest of its bytes is asked for. So a copy goes on after
//! any interruption, also after a power cut that lost bytes. A file has its mode once all of its bytes are there.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::host::error::{Context, Error, Result};
use crate::host::sys::dirfd;
use crate::host::sys::manifest_entry::{Entries, Entry, Is};
use crate::host::sys::syscalls;
use crate::host::types::{Asked, Pace, Sent, Source};

/// Bytes that are asked of a source at once.
const CHUNK: usize = 256 << 10;

/// Bytes of a file that are written to the disk at once, while others are received.
const WRITTEN_AT_ONCE: u64 = 8 << 20;

/// Makes everything of the manifest beneath `root`.
///
/// # Errors
/// [`Error::Source`] for a source that sends something else; [`Error::Corrupt`] for a manifest that no volume has;
/// [`Error::Stopped`].
pub(crate) fn copy(root: OwnedFd, manifest: &File, source: &mut dyn Source, pace: Pace<'_>) -> Result<()> {
    let root = Rc::new(root);
    let mut copying = Copying {
        parent: (vec![], root.clone()),
        root,
        source,
        pace,
        began: Instant::now(),
        received: 0,
        chunk: vec![0; CHUNK],
    };
    let mut entries = Entries::of(BufReader::new(manifest));
    while let Some(entry) = entries.next()? {
        copying.add(&entry)?;
    }
    Ok(())
}

struct Copying<'a> {
    root: Rc<OwnedFd>,
    source: &'a mut dyn Source,
    pace: Pace<'a>,
    began: Instant,
    received: u64,
    chunk: Vec<u8>,
    /// The directory that was entered last.
    parent: (Vec<u8>, Rc<OwnedFd>),
}

impl Copying<'_> {
    fn add(&mut self, entry: &Entry) -> Result<()> {
        self.pace.ensure_wanted()?;
        if entry.path == b"." {
            let Is::Directory { mode } = entry.is else { return Ok(()) };
            let root = self.root.clone();
            return self.settle(&root, entry, mode);
        }
        let (directory, name) = self.enter(&entry.path)?;
        let making = || format!("make {}", entry.written);
        match &entry.is {
            Is::Directory { mode } => {
                match rustix::fs::mkdirat(&directory, name, Mode::RWXU) {
                    Err(Errno::EXIST) => Ok(()),
                    made => made,
                }
                .context(making)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let made = dirfd::open_here(&directory, name, flags).context(making)?;
                self.settle(&made, entry, *mode)
            }
            Is::File { mode, size, hash } => self.file(&directory, name, entry, (*mode, *size, *hash)),
            Is::Further(first) => {
                let (of, first) = self.enter(first)?;
                let link = || rustix::fs::linkat(&of, first, &directory, name, AtFlags::empty());
                let inode = |directory: &OwnedFd, name: &[u8]| {
                    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_ino)
                };
                match link() {
                    Err(Errno::EXIST) if inode(&of, first) != inode(&directory, name) => {
                        rustix::fs::unlinkat(&directory, name, AtFlags::empty()).and_then(|()| link())
                    }
                    Err(Errno::EXIST) => Ok(()),
                    linked => linked,
                }
                .context(making)
            }
            Is::SymbolicLink(target) => {
                let link = || rustix::fs::symlinkat(target.as_slice(), &directory, name);
                let leads_there = || {
                    let there = rustix::fs::readlinkat(&directory, name, vec![]);
                    there.is_ok_and(|there| there.to_bytes() == target)
                };
                match link() {
                    Err(Errno::EXIST) if !leads_there() => {
                        rustix::fs::unlinkat(&directory, name, AtFlags::empty()).and_then(|()| link())
                    }
                    Err(Errno::EXIST) => Ok(()),
                    linked => linked,
                }
                .context(making)
            }
        }
    }

    /// Opens the directory of a path, and returns the last name of the path.
    fn enter<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<OwnedFd>, &'p [u8])> {
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(end) => (&path[..end], &path[end + 1..]),
            None => (&b""[..], path),
        };
        if self.parent.0 != above {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let opened = match above {
                b"" => self.root.clone(),
                above => {
                    let opened = dirfd::open_here(&*self.root, above, flags);
                    Rc::new(opened.context(|| "open a directory of the copy")?)
                }
            };
            self.parent = (above.to_vec(), opened);
        }
        Ok((self.parent.1.clone(), name))
    }

    /// Gives a directory its owner and mode.
    fn settle(&mut self, directory: &OwnedFd, entry: &Entry, mode: u32) -> Result<()> {
        let sent = self.source.open(Asked::Directory(&entry.written))?;
        if sent.bytes != 0 {
            return Err(other(entry, "sends bytes for the directory"));
        }
        own(directory, entry, sent)?;
        set_mode(directory, entry, mode)
    }

    fn file(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        (mode, size, hash): (u32, u64, blake3::Hash),
    ) -> Result<()> {
        let (file, stat) = open_or_create(directory, name, entry)?;
        let mut length = stat.st_size as u64;
        let mut found = blake3::Hasher::new();
        if length <= size {
            self.read_again(&file, length, &mut found, entry)?;
        }
        if length == size && found.finalize() == hash && stat.st_mode & 0o7777 == mode {
            return Ok(());
        }
        let writing = || format!("write {}", entry.written);
        if length > size || length == size && found.finalize() != hash {
            file.set_len(0).context(writing)?;
            found.reset();
            length = 0;
        }
        loop {
            self.receive(&file, length, size, &mut found, entry)?;
            if found.finalize() == hash {
                return set_mode(&file, entry, mode);
            }
            file.set_len(0).context(writing)?;
            if length == 0 {
                return Err(other(entry, "sends other bytes than those that were sealed for"));
            }
            // The bytes of before may be the wrong ones.
            found.reset();
            length = 0;
        }
    }

    /// Adds the bytes that a file has already to the hash. The time for that earns no bytes of the source (see [`Pace::rest`]).
    fn read_again(
        &mut self,
        file: &File,
        length: u64,
        found: &mut blake3::Hasher,
        entry: &Entry,
    ) -> Result<()> {
        let (mut bytes, since) = (file.take(length), Instant::now());
        loop {
            self.pace.ensure_wanted()?;
            match bytes.read(&mut self.chunk).context(|| format!("read {}", entry.written))? {
                0 => break,
                read => found.update(&self.chunk[..read]),
            };
        }
        self.began += since.elapsed();
        Ok(())
    }

    /// Receives the bytes of a file, beginning with the byte `from`.
    fn receive(
        &mut self,
        file: &File,
        from: u64,
        size: u64,
        found: &mut blake3::Hasher,
        entry: &Entry,
    ) -> Result<()> {
        let sent = self.source.open(Asked::File { path: &entry.written, from })?;
        if sent.bytes != size - from {
            return Err(other(entry, "has another number of bytes than was sealed for"));
        }
        own(file, entry, sent)?;
        let (writing, mut at) = (|| format!("write {}", entry.written), from);
        loop {
            self.pace.rest(self.received, self.began)?;
            let read = self.source.read(&mut self.chunk)?;
            let bytes = self.chunk.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            if bytes.len() as u64 > size - at {
                return Err(other(entry, "sends more bytes than were sealed for"));
            }
            found.update(bytes);
            // Zeroes stay holes: a sparse file may be larger than its volume.
            let end = at + bytes.len() as u64;
            let written = match bytes.iter().all(|byte| *byte == 0) {
                true => file.set_len(end),
                false => file.write_all_at(bytes, at),
            };
            written.context(writing).map_err(|error| unless_full(error, entry))?;
            // Else the disk would rest now, and the unmount would wait for it. The end of the copy finds out whether it failed.
            if end / WRITTEN_AT_ONCE > at / WRITTEN_AT_ONCE {
                let from = at - at % WRITTEN_AT_ONCE;
                let _ = syscalls::begin_to_write(file, from, WRITTEN_AT_ONCE);
            }
            at = end;
            self.received += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Opens the file, or makes an empty one in its place.
fn open_or_create(directory: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(File, Stat)> {
    let making = || format!("make {}", entry.written);
    let opened = dirfd::open_here(directory, name, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK);
    let file = match dirfd::unless_missing(opened).context(making)? {
        Some(file) => file,
        None => dirfd::create(directory, name).context(making).map_err(|error| unless_full(error, entry))?,
    };
    let stat = rustix::fs::fstat(&file).context(making)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((File::from(file), stat)),
        _ => Err(Error::corrupt(format!("{} of the copy", entry.written), "it is no file")),
    }
}

fn own(file: impl std::os::fd::AsFd, entry: &Entry, Sent { uid, gid, .. }: Sent) -> Result<()> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(other(entry, "names no owner of"));
    }
    let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::fchown(file, Some(owner), Some(group))
        .context(|| format!("set the owner of {}", entry.written))
}

fn set_mode(file: impl std::os::fd::AsFd, entry: &Entry, mode: u32) -> Result<()> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
        .context(|| format!("set the mode of {}", entry.written))
}

fn other(entry: &Entry, how: &str) -> Error {
    Error::Source(format!("the source {how} {}", entry.written))
}

/// The error of a file system without space, with the next step.
fn unless_full(error: Error, entry: &Entry) -> Error {
    match error {
        Error::Io { source: Errno::NOSPC | Errno::DQUOT, .. } => Error::Unsupported(format!(
            "the copy has no space for {}, since its file system needs more for itself than that of the original: reserve on a \
             disk with the backing of the original's disk",
            entry.written
        )),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    struct Nothing;

    impl Source for Nothing {
        fn open(&mut self, _: Asked<'_>) -> Result<Sent> {
            Ok(Sent { bytes: 0, uid: 0, gid: 0 })
        }

        fn read(&mut self, _: &mut [u8]) -> Result<usize> {
            Ok(0)
        }
    }

    /// Else the rest of a large file would come faster than was asked for.
    #[test]
    fn e2_reading_again_earns_no_bytes() {
        let (stop, file) = (AtomicBool::new(false), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(file.path(), vec![1; 3 * CHUNK]).unwrap();
        let root = Rc::new(OwnedFd::from(File::open("/").unwrap()));
        let began = Instant::now();
        let mut copying = Copying {
            parent: (vec![], root.clone()),
            root,
            source: &mut Nothing,
            pace: Pace::full(&stop),
            began,
            received: 0,
            chunk: vec![0; CHUNK],
        };
        let hash = blake3::hash(&[]);
        let is = Is::File { mode: 0, size: 0, hash };
        let entry = Entry { written: "a".into(), path: b"a".to_vec(), is };
        let mut found = blake3::Hasher::new();
        copying.read_again(&file.reopen().unwrap(), 3 * CHUNK as u64, &mut found, &entry).unwrap();
        assert_eq!(found.finalize(), blake3::hash(&vec![1; 3 * CHUNK]));
        assert!(copying.began > began);
    }
}
