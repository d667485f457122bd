//! The files of a disk that are the same for every backing.
//!
//! ```text
//! <disk>/disk.json                   the disk's identity (D3)
//! <disk>/volumes/<uid>/record.json   the record of one volume
//! <disk>/volumes/<uid>/…             its data, as its backing keeps it
//! <disk>/receipts/<uid>              the volume was erased; kept until the agent forgets it (X4)
//! ```

pub(super) const IDENTITY: &str = "disk.json";
pub(super) const VOLUMES: &str = "volumes";
pub(super) const RECORD: &str = "record.json";
pub(super) const RECEIPTS: &str = "receipts";
