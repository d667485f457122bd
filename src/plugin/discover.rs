//! The command `disks --discover`: the devices of the nodes, before a disk takes any (D6).

use serde::Serialize;

use super::kind::DISK;
use super::paint::{human, table};
use super::snapshot::Snapshot;
use crate::api::NodeDevice;

/// A device, with its node.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeviceOfNode<'a> {
    node: &'a str,
    #[serde(flatten)]
    device: &'a NodeDevice,
}

/// The devices of all nodes with an agent, by node and path.
pub(super) fn list(snapshot: &Snapshot) -> anyhow::Result<Vec<DeviceOfNode<'_>>> {
    snapshot.require(&[&DISK])?;
    let of = |disk| {
        let disk: &crate::api::NodeDisk = disk;
        let devices = disk.status.iter().flat_map(|status| &status.devices);
        devices.map(|device| DeviceOfNode { node: &disk.spec.node_name, device })
    };
    let mut all: Vec<_> = snapshot.disks.iter().flat_map(of).collect();
    all.sort_by_key(|found| (found.node, &found.device.path));
    Ok(all)
}

pub(super) fn text(all: &[DeviceOfNode]) -> String {
    if all.is_empty() {
        return "no node has shown a device of its hardware; nodes without an agent show none\n".into();
    }
    let heads = ["NODE", "DEVICE", "SIZE", "MODEL", "SERIAL", "ROTATIONAL", "STATE", "MATCHED BY"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for DeviceOfNode { node, device } in all {
        rows.push(vec![
            (*node).to_owned(),
            device.path.clone(),
            human(device.size.bytes_or_zero()),
            or_none(&device.model),
            or_none(&device.serial),
            if device.rotational { "yes" } else { "no" }.to_owned(),
            device.obstacle.clone().unwrap_or_else(|| "blank".to_owned()),
            or_none(&device.matched_by.join(",")),
        ]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;
    use crate::plugin::snapshot::Denied;

    #[test]
    fn d6_the_devices_of_the_nodes_are_listed() {
        let device = |path: &str, obstacle: Option<&str>, matched_by: &[&str]| NodeDevice {
            path: path.into(),
            size: testing::gi(1),
            model: "Fast".into(),
            obstacle: obstacle.map(str::to_owned),
            matched_by: matched_by.iter().map(|&disk| disk.to_owned()).collect(),
            ..NodeDevice::default()
        };
        let mut disk = testing::disk("n1.a", "n1", 10, &[]);
        disk.status.as_mut().unwrap().devices =
            vec![device("/dev/sdb", None, &["nvme"]), device("/dev/sda", Some("holds ext4"), &[])];
        let snapshot =
            Snapshot { disks: vec![testing::disk("n1.b", "n1", 10, &[]), disk], ..Snapshot::default() };
        assert_eq!(
            text(&list(&snapshot).unwrap()),
            "NODE   DEVICE     SIZE   MODEL   SERIAL   ROTATIONAL   STATE        MATCHED BY\n\
             n1     /dev/sda   1Gi    Fast    -        no           holds ext4   -\n\
             n1     /dev/sdb   1Gi    Fast    -        no           blank        nvme\n"
        );
        assert!(text(&[]).contains("no node has shown a device"));
        let blind = Snapshot { denied: vec![Denied::unseen(&DISK)], ..Snapshot::default() };
        assert!(list(&blind).err().unwrap().to_string().contains("you may not list nodedisks"), "T4");
    }
}
