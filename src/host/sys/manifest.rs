//! The manifest of a volume's files: a line for each name, the same on every filesystem and architecture (E1).
//!
//! ```text
//! reservoir manifest 1
//! d  0755  -   -       .
//! f  0644  12  <hash>  data/file
//! h  -     -   -       data/other name  data/file
//! l  -     -   -       link             its target
//! ```
//!
//! Tabs separate type, mode, size, BLAKE3 hash, path and target. The names of a directory are in the order of their bytes,
//! and the content of a directory follows the directory. A further name of a file is a line `h` with the first one. In
//! paths, control characters, backslashes and bytes that are no UTF-8 are `\xNN`; a backslash is `\\`. So a path is one
//! field of one line, and no two paths are written alike. Owners, times and extended attributes are not in the manifest.
//!
//! The walk goes by descriptor, follows no symbolic link and opens neither devices nor FIFOs (M7). One directory is open at a
//! time, and a large directory is listed in parts. So neither depth nor number of files costs memory or descriptors.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::Instant;

use rustix::fs::{Advice, AtFlags, Dir, FileType, OFlags, Stat};

use crate::host::error::{Context, Error, Result};
use crate::host::sys::{dirfd, syscalls};
use crate::host::types::{Content, Pace};

/// The first line. Another layout has another number.
pub(super) const HEADER: &str = "reservoir manifest 1\n";

/// The most names of the outermost directory that are listed at once. Deeper directories are listed in smaller parts, at
/// least of `SMALL_PART` names, so that a hostile tree costs no more memory.
const PART: usize = 1 << 16;
const SMALL_PART: usize = 1 << 10;

/// The longest path that a program can open in one piece.
const LONGEST_PATH: usize = 4095;

/// The most files of which further names are looked for at the same time.
const MOST_LINKED: usize = 250_000;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// A file with more bytes is hashed by a thread of its own, which costs less than the disk's rest.
const LARGE: u64 = 4 << 20;

/// Writes the manifest of everything in `root` into a new file, at that pace.
///
/// # Errors
/// [`Error::Unsealable`] names the first file, in the manifest's order, that no copy could have; [`Error::Stopped`];
/// [`Error::Busy`] for a file that changes meanwhile.
pub(crate) fn write(root: impl AsFd, to: &File, pace: Pace<'_>) -> Result<Content> {
    let root = root.as_fd();
    let of_root = rustix::fs::fstat(root).context(|| "look at the volume's root")?;
    let mut walk = Walk {
        root,
        device: of_root.st_dev,
        pace,
        began: Instant::now(),
        read: 0,
        path: vec![],
        lines: Lines {
            to,
            buffer: BufWriter::with_capacity(CHUNK, to),
            hash: blake3::Hasher::new(),
            length: 0,
        },
        linked: HashMap::new(),
        chunk: vec![0; CHUNK],
        files: 0,
        bytes: 0,
    };
    walk.lines.add(HEADER)?;
    walk.line('d', &mode(&of_root), "-\t-", None)?;
    walk.all()?;
    walk.lines.buffer.flush().context(|| "write the manifest")?;
    let digest = digest(&walk.lines.hash);
    Ok(Content { digest, files: walk.files, bytes: walk.bytes })
}

/// The digest of a manifest with that hash.
pub(crate) fn digest(hash: &blake3::Hasher) -> String {
    format!("blake3:{}", hash.finalize().to_hex())
}

/// A directory whose names are being visited.
struct Level {
    /// Length of the directory's path in [`Walk::path`].
    length: usize,
    /// The most names that are listed at once.
    most: usize,
    names: BTreeSet<CString>,
    /// The last visited name.
    last: Option<CString>,
    /// Names after those in `names` remain.
    more: bool,
}

/// The manifest's text so far.
struct Lines<'a> {
    to: &'a File,
    buffer: BufWriter<&'a File>,
    hash: blake3::Hasher,
    length: u64,
}

impl Lines<'_> {
    fn add(&mut self, line: &str) -> Result<()> {
        self.hash.update(line.as_bytes());
        self.length += line.len() as u64;
        self.buffer.write_all(line.as_bytes()).context(|| "write the manifest")
    }

    /// The path in the line that begins at this offset.
    fn path_at(&mut self, offset: u64) -> Result<String> {
        let context = || "read the manifest";
        self.buffer.flush().context(context)?;
        // A byte of a path has at most four bytes in the manifest.
        let mut bytes = vec![0; 4 * LONGEST_PATH + 256];
        let length = self.to.read_at(&mut bytes, offset).context(context)?;
        let line = String::from_utf8_lossy(&bytes[..length]).into_owned();
        let line = line.lines().next().unwrap_or_default();
        Ok(line.split('\t').nth(4).unwrap_or_default().to_owned())
    }
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    device: u64,
    pace: Pace<'a>,
    began: Instant,
    /// All bytes that were read.
    read: u64,
    /// The path of the present file.
    path: Vec<u8>,
    lines: Lines<'a>,
    /// Of files with several names, by inode: the offset of their line, and the number of names to come.
    linked: HashMap<u64, (u64, u64)>,
    chunk: Vec<u8>,
    files: u64,
    bytes: u64,
}

impl Walk<'_> {
    fn all(&mut self) -> Result<()> {
        let mut here = self.open_directory()?;
        let mut levels = vec![self.level(0, &here)?];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.length);
            let Some(name) = self.next(level, &here)? else {
                levels.pop();
                if let Some(above) = levels.last() {
                    self.path.truncate(above.length);
                    here = self.open_directory()?;
                }
                continue;
            };
            if let Some(directory) = self.visit(&here, &name)? {
                let level = self.level(levels.len(), &directory)?;
                levels.push(level);
                here = directory;
            }
        }
        Ok(())
    }

    /// Opens the directory at the present path.
    fn open_directory(&self) -> Result<OwnedFd> {
        let path = if self.path.is_empty() { b".".as_slice() } else { &self.path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        dirfd::open_here(self.root, path, flags).context(|| format!("open {}", escape(path)))
    }

    fn level(&self, depth: usize, directory: &OwnedFd) -> Result<Level> {
        let most = (PART >> depth.min(usize::BITS as usize - 1)).max(SMALL_PART);
        let (names, more) = self.part(directory, None, most)?;
        Ok(Level { length: self.path.len(), most, names, last: None, more })
    }

    fn next(&self, level: &mut Level, directory: &OwnedFd) -> Result<Option<CString>> {
        if level.names.is_empty() && level.more {
            (level.names, level.more) = self.part(directory, level.last.as_deref(), level.most)?;
        }
        let next = level.names.pop_first();
        level.last.clone_from(&next);
        Ok(next)
    }

    /// The first names of a directory in the order of their bytes; true if more follow.
    fn part(
        &self,
        directory: &OwnedFd,
        after: Option<&CStr>,
        most: usize,
    ) -> Result<(BTreeSet<CString>, bool)> {
        let context = || format!("list {}", escape(&self.path));
        let (mut names, mut more) = (BTreeSet::<CString>::new(), false);
        for entry in Dir::read_from(directory).context(context)? {
            self.pace.ensure_wanted()?;
            let entry = entry.context(context)?;
            let name = entry.file_name();
            if name == c"." || name == c".." || after.is_some_and(|after| name <= after) {
                continue;
            }
            if names.len() == most {
                more = true;
                if names.last().is_some_and(|last| name >= last.as_c_str()) {
                    continue;
                }
                names.pop_last();
            }
            names.insert(name.to_owned());
        }
        Ok((names, more))
    }

    /// Adds the line of a name in the directory at the present path. Returns a directory, whose content comes next.
    fn visit(&mut self, directory: &OwnedFd, name: &CStr) -> Result<Option<OwnedFd>> {
        self.pace.ensure_wanted()?;
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        if self.path.len() > LONGEST_PATH {
            return Err(self.unsealable(&format!(
                "has a path of more than {LONGEST_PATH} bytes, which no program can open"
            )));
        }
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).context(|| self.look())?;
        if stat.st_dev != self.device {
            return Err(self.unsealable("is on a file system or subvolume of its own"));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let opened = self.open(directory, name, &stat, OFlags::DIRECTORY)?;
                self.line('d', &mode(&stat), "-\t-", None)?;
                return Ok(Some(opened));
            }
            FileType::RegularFile if stat.st_mode & 0o6000 != 0 => {
                return Err(self.unsealable("has a set-user-ID or set-group-ID bit, which no volume honours"));
            }
            FileType::RegularFile => {
                if let Some(first) = self.first_name(&stat)? {
                    self.line('h', "-", "-\t-", Some(&first))?;
                    return Ok(None);
                }
                let file = File::from(self.open(directory, name, &stat, OFlags::NONBLOCK)?);
                let hash = self.read(file, stat.st_size as u64)?;
                if stat.st_nlink > 1 {
                    if self.linked.len() == MOST_LINKED {
                        let why = format!("is one of more than {MOST_LINKED} files with several names");
                        return Err(self.unsealable(&why));
                    }
                    self.linked.insert(stat.st_ino, (self.lines.length, stat.st_nlink as u64 - 1));
                }
                self.line('f', &mode(&stat), &format!("{}\t{hash}", stat.st_size), None)?;
                (self.files, self.bytes) = (self.files + 1, self.bytes + stat.st_size as u64);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, vec![]).context(|| self.look())?;
                self.line('l', "-", "-\t-", Some(&escape(target.to_bytes())))?;
            }
            FileType::Socket => return Err(self.unsealable("is a socket")),
            FileType::Fifo => return Err(self.unsealable("is a FIFO")),
            _ => return Err(self.unsealable("is a device node")),
        }
        Ok(None)
    }

    /// Opens the file that `stat` describes.
    fn open(&self, directory: &OwnedFd, name: &CStr, stat: &Stat, flags: OFlags) -> Result<OwnedFd> {
        let found = dirfd::open_here(directory, name, flags | OFlags::RDONLY | OFlags::NOFOLLOW)
            .context(|| format!("open {}", escape(&self.path)))?;
        let now = rustix::fs::fstat(&found).context(|| self.look())?;
        match (now.st_ino, now.st_mode) == (stat.st_ino, stat.st_mode) {
            true => Ok(found),
            false => Err(self.changing()),
        }
    }

    /// The first name of a file that has a line already.
    fn first_name(&mut self, stat: &Stat) -> Result<Option<String>> {
        let Some((offset, left)) = self.linked.get_mut(&stat.st_ino) else { return Ok(None) };
        *left -= 1;
        let (offset, left) = (*offset, *left);
        if left == 0 {
            self.linked.remove(&stat.st_ino);
        }
        self.lines.path_at(offset).map(Some)
    }

    /// The hash of a file's bytes. Holes read as zeroes, so a sparse file has the hash of a dense one.
    fn read(&mut self, mut file: File, size: u64) -> Result<blake3::Hash> {
        let context = || format!("read {}", escape(&self.path));
        if self.pace.from_disk {
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).context(context)?;
        }
        syscalls::read_in_order(&file, 0, size).context(context)?;
        let (hash, length) = match size > LARGE {
            true => self.read_large(&mut file)?,
            false => self.read_small(&mut file)?,
        };
        if length == size { Ok(hash) } else { Err(self.changing()) }
    }

    fn read_small(&mut self, file: &mut File) -> Result<(blake3::Hash, u64)> {
        let (mut hash, mut length) = (blake3::Hasher::new(), 0);
        loop {
            self.pace.rest(self.read, self.began)?;
            match file.read(&mut self.chunk).context(|| format!("read {}", escape(&self.path)))? {
                0 => return Ok((hash.finalize(), length)),
                read => {
                    hash.update(&self.chunk[..read]);
                    length += read as u64;
                    self.read += read as u64;
                }
            }
        }
    }

    /// Hashes each piece while the next one is read: else the disk would rest meanwhile.
    fn read_large(&mut self, file: &mut File) -> Result<(blake3::Hash, u64)> {
        let (to_hash, pieces) = mpsc::sync_channel::<(Vec<u8>, usize)>(1);
        let (to_fill, empty) = mpsc::channel();
        std::thread::scope(|scope| {
            let hashing = scope.spawn(move || {
                let mut hash = blake3::Hasher::new();
                for (piece, length) in pieces {
                    hash.update(&piece[..length]);
                    // The other side may have read all.
                    let _ = to_fill.send(piece);
                }
                hash.finalize()
            });
            let length = self.read_pieces(file, &empty, &to_hash);
            drop(to_hash);
            let hash = hashing.join().map_err(|_| Error::Panicked)?;
            length.map(|length| (hash, length))
        })
    }

    fn read_pieces(
        &mut self,
        file: &mut File,
        empty: &mpsc::Receiver<Vec<u8>>,
        to: &mpsc::SyncSender<(Vec<u8>, usize)>,
    ) -> Result<u64> {
        let mut length = 0;
        // The first two pieces are new, and each one after is an earlier one that was hashed.
        let mut new = [vec![0; CHUNK], vec![0; CHUNK]].into_iter();
        loop {
            self.pace.rest(self.read, self.began)?;
            let piece = new.next().map_or_else(|| empty.recv(), Ok);
            let mut piece = piece.map_err(|_| Error::Panicked)?;
            let read = file.read(&mut piece).context(|| format!("read {}", escape(&self.path)))?;
            if read == 0 {
                return Ok(length);
            }
            length += read as u64;
            self.read += read as u64;
            to.send((piece, read)).map_err(|_| Error::Panicked)?;
        }
    }

    /// Adds a line for the present path.
    fn line(&mut self, kind: char, mode: &str, content: &str, target: Option<&str>) -> Result<()> {
        let path = if self.path.is_empty() { ".".to_owned() } else { escape(&self.path) };
        let target = target.map(|target| format!("\t{target}")).unwrap_or_default();
        self.lines.add(&format!("{kind}\t{mode}\t{content}\t{path}{target}\n"))
    }

    fn look(&self) -> String {
        format!("look at {}", escape(&self.path))
    }

    fn unsealable(&self, why: &str) -> Error {
        Error::Unsealable { path: escape(&self.path), why: why.to_owned() }
    }

    fn changing(&self) -> Error {
        Error::Busy { what: format!("{}, which changed while it was read,", escape(&self.path)) }
    }
}

fn mode(stat: &Stat) -> String {
    format!("{:04o}", stat.st_mode & 0o7777)
}

/// A path as one word of a line.
pub(super) fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    let bytes = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => bytes(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        bytes(&mut text, chunk.invalid());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use rustix::fs::{CWD, Mode};

    use super::*;

    fn manifest(root: &Path) -> (Result<Content>, String) {
        let (file, stop) = (tempfile::tempfile().unwrap(), AtomicBool::new(false));
        let content = write(File::open(root).unwrap(), &file, Pace::full(&stop));
        let mut text = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut text, 0).unwrap();
        (content, String::from_utf8(text).unwrap())
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn temporary() -> tempfile::TempDir {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        set_mode(temp.path(), 0o755);
        temp
    }

    #[test]
    fn e1_the_manifest_has_a_line_for_each_name_in_order() {
        let temp = temporary();
        let at = |name: &[u8]| temp.path().join(std::ffi::OsStr::from_bytes(name));
        std::fs::create_dir(at(b"a")).unwrap();
        set_mode(&at(b"a"), 0o2770);
        for (name, text) in [
            (b"a/z".as_slice(), "zz"),
            (b"a.txt", "12"),
            (b"tab\t\\", ""),
            (b"\xfe", "x"),
            ("ä".as_bytes(), "y"),
        ] {
            std::fs::write(at(name), text).unwrap();
            set_mode(&at(name), 0o640);
        }
        std::fs::hard_link(at(b"a/z"), at(b"0")).unwrap();
        symlink("/etc/shadow", at(b"out")).unwrap();
        let (content, text) = manifest(temp.path());
        let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex();
        let expected = format!(
            "reservoir manifest 1\nd\t0755\t-\t-\t.\nf\t0640\t2\t{}\t0\nd\t2770\t-\t-\ta\nh\t-\t-\t-\ta/z\t0\n\
             f\t0640\t2\t{}\ta.txt\nl\t-\t-\t-\tout\t/etc/shadow\nf\t0640\t0\t{}\ttab\\x09\\\\\nf\t0640\t1\t{}\tä\n\
             f\t0640\t1\t{}\t\\xfe\n",
            hash("zz"),
            hash("12"),
            hash(""),
            hash("y"),
            hash("x")
        );
        assert_eq!(text, expected);
        let digest = format!("blake3:{}", hash(&text));
        assert_eq!(content, Ok(Content { digest, files: 5, bytes: 6 }));
    }

    #[test]
    fn e1_the_first_file_that_no_copy_could_have_is_named() {
        let refused = |make: &dyn Fn(&Path)| {
            let temp = temporary();
            std::fs::create_dir(temp.path().join("d")).unwrap();
            make(&temp.path().join("d"));
            let (content, _) = manifest(temp.path());
            content.unwrap_err().to_string()
        };
        let node = |kind, name: &'static str| {
            move |d: &Path| rustix::fs::mknodat(CWD, d.join(name), kind, Mode::RUSR, 0).unwrap()
        };
        assert!(refused(&node(FileType::Fifo, "pipe")).starts_with("d/pipe is a FIFO: "));
        assert!(refused(&node(FileType::CharacterDevice, "null")).starts_with("d/null is a device node: "));
        assert!(refused(&node(FileType::Socket, "s\n")).starts_with("d/s\\x0a is a socket: "));
        let set_uid = |bits| {
            move |d: &Path| {
                std::fs::write(d.join("su"), "").unwrap();
                set_mode(&d.join("su"), bits);
            }
        };
        for bits in [0o4755, 0o2755] {
            assert!(refused(&set_uid(bits)).starts_with("d/su has a set-user-ID or set-group-ID bit"));
        }
    }

    #[test]
    fn e1_a_stopped_walk_writes_no_digest() {
        let temp = temporary();
        std::fs::write(temp.path().join("a"), "a").unwrap();
        let file = tempfile::tempfile().unwrap();
        let stop = AtomicBool::new(true);
        let written = write(File::open(temp.path()).unwrap(), &file, Pace::full(&stop));
        assert_eq!(written, Err(Error::Stopped));
    }

    /// The parts of a listing overlap in no name and miss none.
    #[test]
    fn e1_a_large_directory_is_listed_in_parts() {
        let temp = temporary();
        let deep = temp.path().join("a/b/c/d/e/f/g/h");
        std::fs::create_dir_all(&deep).unwrap();
        let many = 18 * SMALL_PART + 3;
        for i in 0..many {
            std::fs::write(deep.join(format!("{:x}", i * 7919 % many)), "").unwrap();
        }
        let (content, text) = manifest(temp.path());
        assert_eq!(content.unwrap().files, many as u64);
        let paths: Vec<_> = text.lines().filter(|line| line.starts_with('f')).collect();
        assert!(paths.is_sorted() && paths.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
