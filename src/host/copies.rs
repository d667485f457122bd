//! Copies of sealed volumes (E2): fills a copy from a source, and shows the files of a sealed volume to others.
//!
//! A copy has no writer from its first byte on. Its manifest is the first thing that comes, and is compared with the digest.
//! In the end the volume is sealed like any other: its files are read once more, and the digest decides.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};

use crate::host::error::{Context, Error, Result};
use crate::host::layout::MANIFEST;
use crate::host::manifests::{is_of, open_manifest, put_in_place, write_new};
use crate::host::node::Host;
use crate::host::seal::ensure_sealable;
use crate::host::sys::manifest_entry::unescape;
use crate::host::sys::{copy_files, dirfd, manifest, syscalls};
use crate::host::types::{Asked, Content, Pace, Record, Seal, Sent, Source, VolumeUid};
use crate::host::volume::Volume;

/// The most bytes of a manifest, unless a sixteenth of its volume is more. It lies beside the volume, so the volume's size is
/// no limit for a source that sends without end.
const LONGEST_MANIFEST: u64 = 64 << 20;

impl Host {
    /// Fills a volume with the files of a sealed volume with that digest, and seals it. A repeated call goes on where the last
    /// one ended. A sealed copy is reported again.
    ///
    /// # Errors
    /// [`Error::Source`] for a source that sends something else than was sealed; [`Error::Differs`] if the disk has other
    /// bytes than were written; [`Error::Conflict`] if the volume is sealed with another digest; [`Error::Stopped`]; those of
    /// [`seal`](Self::seal). After an error the volume is not sealed, and keeps what has arrived.
    pub fn fill_copy(
        &self,
        uid: &VolumeUid,
        digest: &str,
        source: &mut dyn Source,
        pace: Pace<'_>,
    ) -> Result<Content> {
        let _sealing = self.seal_locks.lock(uid);
        let (volume, mount, size) = {
            let _volume = self.volume_locks.lock(uid);
            let (disk, volume) = self.find(uid)?;
            let mut record = volume.record()?;
            ensure_sealable(&record)?;
            match &record.seal {
                Some(Seal { content: Some(content), .. }) if content.digest == digest => {
                    let content = content.clone();
                    volume.sync_dir()?;
                    return Ok(content);
                }
                Some(Seal { content: Some(content), .. }) => {
                    let has = &content.digest;
                    return Err(Error::Conflict(format!("volume {uid} is sealed, with digest {has}")));
                }
                // An earlier attempt ended between its last file and the digest.
                Some(Seal { filesystem_read_only: true, content: None }) => {
                    disk.backing.set_read_only(&volume, &record, false)?;
                }
                Some(Seal { .. }) | None => {}
            }
            ensure_unused(&record)?;
            if record.seal != Some(Seal::default()) {
                record.seal = Some(Seal::default());
                volume.write_record(&record)?;
            }
            let mount = disk.backing.mount(&volume, &record, false)?;
            (volume, mount, record.spec.size_bytes)
        };
        let received = open_manifest(&volume)?;
        let received = match received.as_ref().map_or(Ok(false), |there| is_of(there, digest))? {
            true => received,
            false => Some(receive_manifest(&volume, digest, LONGEST_MANIFEST.max(size / 16), source, pace)?),
        };
        if let Some(manifest) = received {
            let root = dirfd::open_dir(&mount, ".").context(|| "open the volume's root")?;
            copy_files::copy(root, &manifest, source, pace)?;
        }
        source.end();
        drop(mount);
        self.seal_locked(uid, pace.stop, Some(digest))
    }

    /// The files of a sealed volume, for those who copy it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a volume that is not sealed; [`Error::Fenced`]; [`Error::NotReady`].
    pub fn open_sealed(&self, uid: &VolumeUid) -> Result<SealedFiles> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let record = volume.record()?;
        ensure_sealable(&record)?;
        let Some(Seal { content: Some(content), .. }) = &record.seal else {
            return Err(Error::InvalidArgument(format!("volume {uid} is not sealed, so it is not copied")));
        };
        let mount = disk.backing.mount(&volume, &record, true)?;
        let root = dirfd::open_dir(&mount, ".").context(|| "open the volume's root")?;
        let lost = || volume.lost("its manifest is missing");
        let manifest = open_manifest(&volume)?.ok_or_else(lost)?;
        let (name, digest) = (record.spec.name.clone(), content.digest.clone());
        Ok(SealedFiles { name, digest, _mount: mount, root, manifest, part: None })
    }
}

/// Nobody reads a copy that is not complete.
fn ensure_unused(record: &Record) -> Result<()> {
    match record.publishes.is_empty() {
        true => Ok(()),
        false => Err(Error::InUse { uid: record.spec.uid.clone(), holder: record.users() }),
    }
}

/// Receives the manifest, and puts it in its place once its digest is the right one.
fn receive_manifest(
    volume: &Volume,
    digest: &str,
    most: u64,
    source: &mut dyn Source,
    pace: Pace<'_>,
) -> Result<File> {
    let sent = source.open(Asked::Manifest)?;
    if sent.bytes > most {
        return Err(Error::Source(format!(
            "the source has a manifest of {} bytes, and {most} at most are taken",
            sent.bytes
        )));
    }
    write_new(volume, |file| receive(file, sent.bytes, digest, source, pace))?;
    put_in_place(volume)?;
    open_manifest(volume)?.ok_or_else(|| volume.lost("its manifest is missing"))
}

fn receive(mut file: &File, bytes: u64, digest: &str, source: &mut dyn Source, pace: Pace<'_>) -> Result<()> {
    let (mut chunk, mut left, mut hash) = (vec![0; 64 << 10], bytes, blake3::Hasher::new());
    loop {
        pace.ensure_wanted()?;
        let read = source.read(&mut chunk)?;
        let got = chunk.get(..read).unwrap_or_default();
        left = left.checked_sub(got.len() as u64).ok_or_else(other_manifest)?;
        if got.is_empty() {
            break;
        }
        hash.update(got);
        std::io::Write::write_all(&mut file, got).context(|| "write the manifest")?;
    }
    if left > 0 || manifest::digest(&hash) != digest {
        return Err(other_manifest());
    }
    Ok(())
}

fn other_manifest() -> Error {
    Error::Source("the source sends another manifest than that of the digest".to_owned())
}

/// The files of a sealed volume.
#[derive(Debug)]
pub struct SealedFiles {
    /// Name of the volume.
    pub name: String,
    /// Digest of the volume.
    pub digest: String,
    /// The mount ends with this.
    _mount: OwnedFd,
    root: OwnedFd,
    manifest: File,
    /// The part that is being read.
    part: Option<std::io::Take<File>>,
}

impl SealedFiles {
    fn open_file(&self, path: &str, flags: OFlags) -> Result<File> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = dirfd::open_here(&self.root, unescape(path).as_slice(), flags);
        opened.map(File::from).context(|| format!("open {path}"))
    }
}

impl Source for SealedFiles {
    fn open(&mut self, asked: Asked<'_>) -> Result<Sent> {
        self.part = None;
        let (path, file, from) = match asked {
            Asked::Manifest => {
                let file = self.manifest.try_clone().context(|| "open the manifest")?;
                (MANIFEST, file, Some(0))
            }
            Asked::Directory(path) => (path, self.open_file(path, OFlags::DIRECTORY)?, None),
            Asked::File { path, from } => (path, self.open_file(path, OFlags::empty())?, Some(from)),
        };
        let stat = rustix::fs::fstat(&file).context(|| format!("look at {path}"))?;
        let Some(from) = from else { return Ok(Sent { bytes: 0, uid: stat.st_uid, gid: stat.st_gid }) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::InvalidArgument(format!("{path} is no file")));
        }
        let bytes = (stat.st_size as u64).saturating_sub(from);
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(from)).context(|| format!("read {path}"))?;
        syscalls::read_in_order(&file, from, bytes).context(|| format!("read {path}"))?;
        self.part = Some(file.take(bytes));
        Ok(Sent { bytes, uid: stat.st_uid, gid: stat.st_gid })
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        self.part
            .as_mut()
            .map_or(Ok(0), |part| part.read(into).context(|| "read a file of the sealed volume"))
    }
}
