//! The volume handle: the kubelet's name for one claim's use of one volume.

use std::fmt;
use std::str::FromStr;

use crate::api::MADE_BY_RESERVOIR;

const UUID_LENGTH: usize = 36;

/// `<volume UID>.<claim UID>`: two lower-case UUIDs joined by a dot, 73 bytes (CSI allows 128).
///
/// Each claim has a handle of its own, also when claims share a volume. With one handle, the kubelet would treat two
/// PersistentVolumes as one volume of the node (kubernetes 105868). The handle has UIDs, not names: a new volume under
/// an old name is another volume (V3). A parsed handle has only hexadecimal digits, `-` and one `.`, so each UID is
/// safe as a path component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeHandle(String);

/// The text is not a handle of Reservoir.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a volume handle of Reservoir: {MADE_BY_RESERVOIR}")]
pub struct InvalidHandle;

impl VolumeHandle {
    /// The UID of the SharedPersistentVolume.
    pub fn volume_uid(&self) -> &str {
        &self.0[..UUID_LENGTH]
    }

    /// The UID of the VolumeClaim.
    pub fn claim_uid(&self) -> &str {
        &self.0[UUID_LENGTH + 1..]
    }
}

impl FromStr for VolumeHandle {
    type Err = InvalidHandle;

    fn from_str(text: &str) -> Result<Self, InvalidHandle> {
        match text.split_once('.') {
            Some((volume, claim)) if is_uuid(volume) && is_uuid(claim) => Ok(Self(text.to_owned())),
            _ => Err(InvalidHandle),
        }
    }
}

impl fmt::Display for VolumeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == UUID_LENGTH
        && text.bytes().enumerate().all(|(position, byte)| match position {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VOLUME: &str = "0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03";
    const CLAIM: &str = "7b21de90-1c4f-4a38-8e6b-d5a09c3f7e12";

    /// kubernetes 105868: with one handle, the kubelet would treat two PersistentVolumes as one volume.
    #[test]
    fn kubernetes_105868_each_claim_has_its_own_handle() {
        let handle: VolumeHandle = format!("{VOLUME}.{CLAIM}").parse().unwrap();
        assert_eq!(handle.volume_uid(), VOLUME);
        assert_eq!(handle.claim_uid(), CLAIM);
        assert_ne!(Ok(&handle), format!("{VOLUME}.{VOLUME}").parse().as_ref());
        assert_eq!(handle.to_string().parse(), Ok(handle));
    }

    /// M7. Volume IDs that are paths: CVE-2026-3864 of NFS, CVE-2026-3865 of SMB.
    #[test]
    fn cve_2026_3864_cve_2026_3865_a_path_is_no_handle() {
        let upper = VOLUME.to_uppercase();
        for text in [
            String::new(),
            ".".into(),
            VOLUME.into(),
            format!("{VOLUME}{CLAIM}"),
            format!("{VOLUME}.{upper}"),
            format!("{VOLUME}.{CLAIM}."),
            format!("{VOLUME}.{CLAIM}\n"),
            format!(" {VOLUME}.{CLAIM}"),
            format!("{VOLUME}/{CLAIM}"),
            format!("{VOLUME}.{}", &CLAIM[1..]),
            format!("{VOLUME}.{}", CLAIM.replace('-', "0")),
            format!("{VOLUME}.../../../../../../../../../../etc/"),
            "é".repeat(36),
        ] {
            assert_eq!(text.parse::<VolumeHandle>(), Err(InvalidHandle), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_handle_is_printed_unchanged(text in "[0-9a-f.-]{0,80}|\\PC{0,80}") {
            if let Ok(handle) = text.parse::<VolumeHandle>() {
                prop_assert_eq!(handle.to_string(), text);
            }
        }
    }
}
