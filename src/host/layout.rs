//! The files of a disk that are the same for every backing.
//!
//! ```text
//! <disk>/disk.json                   the disk's identity (D3)
//! <disk>/volumes/<uid>/record.json   the record of one volume
//! <disk>/volumes/<uid>/manifest      the manifest of a sealed volume (E1)
//! <disk>/volumes/<uid>/…             the volume's data, in the form of its backing
//! <disk>/receipts/<uid>              the receipt of an erased volume; kept until the agent removes it (X4)
//! ```

pub(super) const IDENTITY: &str = "disk.json";
/// The directory of a disk that has its volumes.
pub const VOLUMES: &str = "volumes";
pub(super) const RECORD: &str = "record.json";
pub(super) const MANIFEST: &str = "manifest";
pub(super) const NEW_MANIFEST: &str = "manifest.new";
pub(super) const RECEIPTS: &str = "receipts";
