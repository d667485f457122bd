//! The UID of a volume, which names its directory on a disk.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The UID of a volume's Kubernetes object: 36 characters, lower-case hexadecimal with dashes.
///
/// No other text from outside becomes a path (V3, S4). So every character is checked: no slash, no dot, no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeUid(String);

/// A text that is no [`VolumeUid`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a lower-case UUID")]
pub struct InvalidUid(String);

impl VolumeUid {
    /// The UID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The UID's 16 bytes, which are the UUID in the superblock of the volume's filesystem.
    pub(crate) fn bytes(&self) -> [u8; 16] {
        let digits: Vec<u8> =
            self.0.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
        std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1])
    }
}

impl FromStr for VolumeUid {
    type Err = InvalidUid;

    fn from_str(text: &str) -> Result<Self, InvalidUid> {
        let well_formed = text.len() == 36
            && text.bytes().enumerate().all(|(i, byte)| match i {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        if well_formed { Ok(Self(text.to_owned())) } else { Err(InvalidUid(text.to_owned())) }
    }
}

impl TryFrom<String> for VolumeUid {
    type Error = InvalidUid;

    fn try_from(text: String) -> Result<Self, InvalidUid> {
        text.parse()
    }
}

impl From<VolumeUid> for String {
    fn from(uid: VolumeUid) -> Self {
        uid.0
    }
}

impl fmt::Display for VolumeUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VolumeUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_uid_is_read() {
        let uid: VolumeUid = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
        assert_eq!(uid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(uid.bytes()[..3], [0x00, 0x11, 0x22]);
        assert_eq!(uid.bytes()[15], 0xff);
    }

    /// V3, S4.
    #[test]
    fn a_text_that_could_be_a_path_is_refused() {
        for text in [
            "",
            "..",
            "../../../../../../../../../../../etc",
            "00112233-4455-6677-8899-aabbccddeef/",
            "00112233-4455-6677-8899-AABBCCDDEEFF",
            "00112233-4455-6677-8899-aabbccddee\0f",
            "00112233445566778899aabbccddeeff0000",
            "00112233-4455-6677-8899-aabbccddeeff\n",
            "０0112233-4455-6677-8899-aabbccddee",
        ] {
            assert!(text.parse::<VolumeUid>().is_err(), "{text:?}");
        }
    }

    proptest! {
        /// V3, S4.
        #[test]
        fn a_uid_is_one_plain_path_component(text in "\\PC{0,40}|[0-9a-f./-]{36}") {
            if let Ok(uid) = text.parse::<VolumeUid>() {
                prop_assert_eq!(uid.as_str(), &text);
                prop_assert!(uid.as_str().bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()));
            }
        }

        #[test]
        fn every_uuid_parses(bytes in any::<[u8; 16]>()) {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let text = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
            prop_assert_eq!(text.parse::<VolumeUid>().unwrap().bytes(), bytes);
        }
    }
}
