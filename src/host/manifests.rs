//! The manifest of a volume, beside its record (E1).

use std::fs::File;
use std::io::{BufReader, Seek};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, OFlags};

use crate::host::error::{Context, Result};
use crate::host::layout::{MANIFEST, NEW_MANIFEST};
use crate::host::sys::{compare_manifests, dirfd, manifest};
use crate::host::types::{Content, Differences, Pace};
use crate::host::volume::Volume;

/// The manifest, if there is one.
pub(super) fn open_manifest(volume: &Volume) -> Result<Option<File>> {
    open(volume, MANIFEST)
}

fn open(volume: &Volume, name: &str) -> Result<Option<File>> {
    let opened = dirfd::open_here(&volume.dir, name, OFlags::RDONLY | OFlags::NOFOLLOW);
    dirfd::unless_missing(opened).map(|file| file.map(File::from)).context(|| format!("open {name}"))
}

/// Writes the manifest of the files beside the record, under its temporary name.
pub(super) fn write_manifest(volume: &Volume, mount: &OwnedFd, pace: Pace<'_>) -> Result<Content> {
    let root = dirfd::open_dir(mount, ".").context(|| "open the volume's root")?;
    write_new(volume, |file| manifest::write(&root, file, pace))
}

/// Makes the manifest under its temporary name, and synchronizes it. A failure leaves none.
pub(super) fn write_new<T>(volume: &Volume, write: impl FnOnce(&File) -> Result<T>) -> Result<T> {
    let remove = || dirfd::remove(&volume.dir, NEW_MANIFEST, AtFlags::empty());
    remove().context(|| format!("remove {NEW_MANIFEST}"))?;
    let file = dirfd::create(&volume.dir, NEW_MANIFEST).context(|| format!("create {NEW_MANIFEST}"))?;
    let file = File::from(file);
    let written = write(&file)
        .and_then(|written| file.sync_all().context(|| "synchronize the manifest").map(|()| written));
    if written.is_err()
        && let Err(error) = remove()
    {
        tracing::warn!(uid = %volume.uid, %error, "an unfinished manifest stays until the next attempt");
    }
    written
}

/// Puts the new manifest in its place.
pub(super) fn put_in_place(volume: &Volume) -> Result<()> {
    rustix::fs::renameat(&volume.dir, NEW_MANIFEST, &volume.dir, MANIFEST)
        .context(|| format!("put {MANIFEST} in its place"))?;
    volume.sync_dir()
}

/// The differences of the new manifest from the one of the seal. There is at least one.
pub(super) fn compare(volume: &Volume, sealed: &str) -> Result<Differences> {
    let (recorded, found) = (open(volume, MANIFEST)?, open(volume, NEW_MANIFEST)?);
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

/// True if the manifest has that digest.
pub(super) fn is_of(mut file: &File, sealed: &str) -> Result<bool> {
    let context = || "read the manifest";
    let mut hash = blake3::Hasher::new();
    hash.update_reader(file).context(context)?;
    file.rewind().context(context)?;
    Ok(manifest::digest(&hash) == sealed)
}
