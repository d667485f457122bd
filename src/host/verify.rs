//! Reads the files of a sealed volume again, and compares them with its manifest (E4).

use std::fs::File;
use std::io::{BufReader, Seek};

use rustix::fs::{AtFlags, OFlags};

use crate::host::error::{Context, Error, Result};
use crate::host::layout::{MANIFEST, NEW_MANIFEST};
use crate::host::node::Host;
use crate::host::seal::{ensure_sealable, write_manifest};
use crate::host::sys::{compare_manifests, dirfd, manifest};
use crate::host::types::{Content, Differences, Pace, Seal, VolumeUid};
use crate::host::volume::Volume;

impl Host {
    /// Reads the files of a sealed volume again. The digest in the record decides: without a difference the manifest is the
    /// one that was read now, so a damaged manifest is mended.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a volume that is not sealed; [`Error::Fenced`]; [`Error::Stopped`]; [`Error::Io`] for a
    /// file that cannot be read.
    pub fn verify(&self, uid: &VolumeUid, pace: Pace<'_>) -> Result<Differences> {
        let _reading = self.seal_locks.lock(uid);
        let (volume, mount, content) = {
            let _volume = self.volume_locks.lock(uid);
            let (disk, volume) = self.find(uid)?;
            let record = volume.record()?;
            ensure_sealable(&record)?;
            let Some(Seal { content: Some(content), .. }) = &record.seal else {
                return Err(Error::InvalidArgument(format!(
                    "volume {uid} is not sealed, so there is no digest to compare its files with"
                )));
            };
            let mount = disk.backing.mount(&volume, &record, true)?;
            (volume, mount, content.clone())
        };
        let found = match write_manifest(&volume, &mount, pace) {
            Err(Error::Unsealable { path, why }) => {
                let mut differences = Differences::default();
                differences.add(|| format!("{path} {why}"));
                return Ok(differences);
            }
            written => written?,
        };
        let _volume = self.volume_locks.lock(uid);
        ensure_sealable(&self.find(uid)?.1.record()?)?;
        let differences = match found.digest == content.digest {
            true => Differences::default(),
            false => compare(&volume, &content)?,
        };
        let done = match differences.count {
            0 => rustix::fs::renameat(&volume.dir, NEW_MANIFEST, &volume.dir, MANIFEST),
            _ => dirfd::remove(&volume.dir, NEW_MANIFEST, AtFlags::empty()),
        };
        done.context(|| format!("put {NEW_MANIFEST} in its place"))?;
        volume.sync_dir()?;
        Ok(differences)
    }
}

/// The differences of the new manifest from the one of the seal. There is at least one.
fn compare(volume: &Volume, sealed: &Content) -> Result<Differences> {
    let open = |name: &str| {
        let opened = dirfd::open_here(&volume.dir, name, OFlags::RDONLY | OFlags::NOFOLLOW);
        dirfd::unless_missing(opened).map(|file| file.map(File::from)).context(|| format!("open {name}"))
    };
    let (recorded, found) = (open(MANIFEST)?, open(NEW_MANIFEST)?);
    let is_whole = recorded.as_ref().map_or(Ok(false), |recorded| is_of(recorded, sealed))?;
    let mut differences = match (recorded, found) {
        (Some(recorded), Some(found)) if is_whole => {
            compare_manifests::differences(BufReader::new(recorded), BufReader::new(found))?
        }
        _ => Differences::default(),
    };
    if differences.count == 0 {
        differences
            .add(|| "its manifest is damaged as well, so it is not known which files differ".to_owned());
    }
    Ok(differences)
}

/// True if the manifest has the digest of the seal.
fn is_of(mut file: &File, sealed: &Content) -> Result<bool> {
    let context = || "read the manifest";
    let mut hash = blake3::Hasher::new();
    hash.update_reader(file).context(context)?;
    file.rewind().context(context)?;
    Ok(manifest::digest(&hash) == sealed.digest)
}
