//! The seal of a volume, in its record (E1).

use serde::{Deserialize, Serialize};

/// A volume that admits no writer any more (E1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    /// The filesystem itself is read-only, for every mount of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub filesystem_read_only: bool,
    /// The content, once the volume is sealed. From then on the seal stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
}

/// The content of a sealed volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// `blake3:` and the hash of the manifest in hexadecimal digits.
    pub digest: String,
    /// The regular files; a file with several names counts once.
    pub files: u64,
    /// The bytes of these files.
    pub bytes: u64,
}
