//! The block devices of a node, and what a configuration asks of them.

/// A whole block device of the node's hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockDevice {
    /// The kernel's name, such as `nvme0n1`. It may be another device's after the next boot.
    pub name: String,
    /// The device's size in bytes.
    pub size: u64,
    /// The model, empty if unknown.
    pub model: String,
    /// The serial number or WWID, empty if unknown.
    pub serial: String,
    /// True for a spinning disk.
    pub rotational: bool,
    /// The hardware's identity, which outlasts a boot.
    pub identity: Option<String>,
    /// The reason why no disk can take the device, as a predicate. `None`: the device is blank.
    pub obstacle: Option<String>,
}

/// A device, and the disks that would take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenDevice {
    /// The device. A device of a disk has that as its obstacle.
    pub device: BlockDevice,
    /// The disks whose match the blank device meets.
    pub matched_by: Vec<String>,
}

/// Properties of the devices that a disk may take. A device meets a match if it has each property that is present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceMatch {
    /// Pattern of the model; `*` stands for any characters.
    pub model: Option<String>,
    /// Pattern of the serial number or WWID.
    pub serial: Option<String>,
    /// Smallest size in bytes.
    pub min_size: Option<u64>,
    /// Largest size in bytes.
    pub max_size: Option<u64>,
    /// Spinning disks, or all others.
    pub rotational: Option<bool>,
}

/// A disk's demand for devices by their properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindDevices {
    /// Properties of the devices.
    pub matching: DeviceMatch,
    /// Number of devices that the disk needs.
    pub count: usize,
    /// The disks of the node with the same match, this one included, and the number of devices that each needs.
    pub wanted_by: Vec<(String, usize)>,
}

impl DeviceMatch {
    /// True if the device has all the properties.
    pub fn is_met_by(&self, device: &BlockDevice) -> bool {
        let like = |pattern: &Option<String>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| is_like(pattern.as_bytes(), text.as_bytes()))
        };
        like(&self.model, &device.model)
            && like(&self.serial, &device.serial)
            && self.min_size.is_none_or(|least| device.size >= least)
            && self.max_size.is_none_or(|most| device.size <= most)
            && self.rotational.is_none_or(|rotational| device.rotational == rotational)
    }
}

/// Compares a text with a pattern in which `*` stands for any characters.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    let mut parts = pattern.split(|&byte| byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&[u8]> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        match rest.windows(part.len()).position(|window| window == part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d6_a_match_asks_for_each_of_its_properties() {
        let device = BlockDevice {
            model: "Amazon EC2 NVMe Instance Storage".into(),
            serial: "AWS1A2B".into(),
            size: 100,
            ..Default::default()
        };
        let exact =
            DeviceMatch { model: Some("Amazon EC2 NVMe Instance Storage".into()), ..Default::default() };
        let all = DeviceMatch {
            serial: Some("AWS*".into()),
            min_size: Some(100),
            max_size: Some(100),
            rotational: Some(false),
            ..exact.clone()
        };
        assert!(exact.is_met_by(&device) && all.is_met_by(&device));
        for other in [
            DeviceMatch { model: Some("Amazon EC2".into()), ..all.clone() },
            DeviceMatch { serial: Some("*c".into()), ..all.clone() },
            DeviceMatch { min_size: Some(101), ..all.clone() },
            DeviceMatch { max_size: Some(99), ..all.clone() },
            DeviceMatch { rotational: Some(true), ..all.clone() },
        ] {
            assert!(!other.is_met_by(&device), "{other:?}");
        }
    }

    #[test]
    fn d6_a_star_stands_for_any_characters() {
        for (pattern, text, like) in [
            ("", "", true),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("a", "ab", false),
            ("**b", "ab", true),
        ] {
            assert_eq!(is_like(pattern.as_bytes(), text.as_bytes()), like, "{pattern} {text}");
        }
    }
}
