//! Opens the backing that a disk's configuration asks for.

use crate::host::backings::backing::Opened;
use crate::host::backings::{adopted, block_device, btrfs, loop_file, lvm, quota, undivided_filesystem};
use crate::host::error::Result;
use crate::host::types::{BackingKind, DiskConfig};

/// Opens a disk; refuses a path that is not of the configured kind or can keep no volumes.
pub(crate) fn open(config: &DiskConfig) -> Result<Opened> {
    match config.backing {
        BackingKind::Loop => loop_file::open(&config.path).map(|opened| adopted::wrap(config, opened)),
        BackingKind::Btrfs => btrfs::open(config),
        BackingKind::Mount => undivided_filesystem::open(&config.path),
        BackingKind::Block => block_device::open(config),
        BackingKind::Quota => quota::open(&config.path).map(|opened| adopted::wrap(config, opened)),
        BackingKind::Lvm => lvm::open(config),
    }
}
