//! The node's devices in the form of the API (D6).

use crate::api::{MAX_DEVICES, NodeDevice, Size};
use crate::host::SeenDevice;

/// The largest number of disks that are named as those which would take a device.
const MAX_MATCHES: usize = 8;

/// The devices, bounded in number and length: hardware may say anything of itself (A8).
pub(super) fn node_devices(devices: Vec<SeenDevice>) -> Vec<NodeDevice> {
    devices.into_iter().take(MAX_DEVICES).map(node_device).collect()
}

fn node_device(SeenDevice { device, mut matched_by }: SeenDevice) -> NodeDevice {
    let short = |text: &str, most: usize| {
        text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(most).collect()
    };
    matched_by.truncate(MAX_MATCHES);
    NodeDevice {
        path: short(&format!("/dev/{}", device.name), 64),
        size: Size::from_bytes(device.size),
        model: short(&device.model, 64),
        serial: short(&device.serial, 128),
        rotational: device.rotational,
        obstacle: device.obstacle.map(|obstacle| short(&obstacle, 128)),
        matched_by,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::BlockDevice;

    #[test]
    fn a8_what_hardware_says_of_itself_is_cut() {
        let long = "m\né".repeat(999);
        let device = BlockDevice {
            name: long.clone(),
            size: u64::MAX,
            model: long.clone(),
            serial: long.clone(),
            obstacle: Some(long),
            rotational: true,
            ..Default::default()
        };
        let seen = SeenDevice { device, matched_by: vec!["d".repeat(63); 99] };
        let shown = node_devices(vec![seen; 999]);
        assert_eq!((shown.len(), shown[0].matched_by.len()), (64, 8));
        assert_eq!((shown[0].model.as_str(), shown[0].path.len()), ("m".repeat(64).as_str(), 64));
        let bytes = serde_json::to_string(&shown).unwrap().len();
        assert!((48 << 10..64 << 10).contains(&bytes), "docs/design.md has the number: {bytes}");
    }
}
