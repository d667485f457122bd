//! Random identities.

use crate::host::error::{Context, Result};
use crate::host::types::VolumeUid;

/// A new UUID, of version 4.
pub(crate) fn random_uuid() -> Result<VolumeUid> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context(|| "make a new UUID")?;
    Ok(text.trim().parse()?)
}
