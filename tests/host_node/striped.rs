//! Volume groups that the agent makes of the devices that it finds, with volumes across all of them (D6). The tests need a kernel
//! with device-mapper: `make test-qemu` runs them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use reservoir::host::{
    BackingKind, DeviceMatch, DiskConfig, Enforcement, FindDevices, Host, HostConfig, VolumeSpec,
};

use crate::found::Device;
use crate::lvm::{has_device_mapper, lvm, new_group, remove_group};
use crate::support::*;

/// A disk with three stripes.
struct Striped<'a> {
    node: &'a Node,
    group: String,
}

impl Striped<'_> {
    fn config(&self, stripes: usize) -> HostConfig {
        let matching =
            DeviceMatch { model: Some("Fast".into()), rotational: Some(false), ..Default::default() };
        let find = FindDevices { matching, count: stripes, wanted_by: vec![("s".into(), stripes)] };
        let disk = DiskConfig {
            backing: BackingKind::Lvm,
            state: Some(self.node.dir().join("state")),
            find: Some(find),
            stripes,
            ..self.node.disk_config("s", format!("/dev/{}", self.group).into())
        };
        HostConfig { disks: vec![disk], sysfs: self.node.dir().join("sys"), ..self.node.config() }
    }

    fn host(&self) -> Host {
        let host = Host::open(self.config(3)).unwrap();
        assert_eq!(host.disks()[0].error, None);
        host
    }

    fn refused(&self) -> String {
        refused(self.config(3))
    }
}

impl Drop for Striped<'_> {
    fn drop(&mut self) {
        remove_group(&self.group);
    }
}

fn refused(config: HostConfig) -> String {
    Host::open(config).unwrap().disks()[0].error.clone().unwrap_or_default()
}

fn on_devices(test: impl FnOnce(&Striped<'_>) + Send + 'static) {
    on_a_node(|node| {
        if has_device_mapper() {
            test(&Striped { node, group: new_group() });
        }
    });
}

fn stripes_of(group: &str, i: u32) -> Vec<String> {
    let lv = format!("{group}/reservoir-{}", uid(i));
    let said = lvm(&["lvs", "--noheadings", "--segments", "--options", "stripes", &lv]);
    said.split_whitespace().map(str::to_owned).collect()
}

/// D3, D5, D6, V5, V7.
#[test]
fn d6_a_group_is_made_once_and_its_volumes_are_on_all_devices() {
    on_devices(|disk| {
        let node = disk.node;
        let (one, two) = (Device::new(node, "one"), Device::new(node, "two"));
        let why = disk.refused();
        assert!(why.contains("2 of the 3 devices"), "{why}");
        let three = Device::new(node, "three");
        let host = disk.host();
        let before = host.disks().remove(0);
        assert_eq!(before.enforcement, Some(Enforcement::Proven("ENOSPC")));
        assert_eq!(before.free, before.capacity);
        assert_eq!(before.capacity % (12 * MIB), 0, "as many extents on each device");

        let spec = VolumeSpec { size_bytes: 33 * MIB, ..ext4(1) };
        host.create("s", &spec).unwrap();
        assert_eq!(host.disks()[0].free, before.free - 36 * MIB);
        assert_eq!(stripes_of(&disk.group, 1), ["3"]);
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        write(&node.target("p", 1), "f", "kept");
        host.resize(&uid(1), 64 * MIB).unwrap();
        assert_eq!(
            (stripes_of(&disk.group, 1), host.disks()[0].free),
            (vec!["3".into()], before.free - 72 * MIB)
        );
        let rest = VolumeSpec { size_bytes: before.free - 72 * MIB, ..ext4(2) };
        host.create("s", &rest).unwrap();
        assert_eq!(host.disks()[0].free, 0, "all that is reported as free can be had");
        host.unpublish(&node.target("p", 1)).unwrap();
        drop(host);

        // After a boot the devices have each other's names.
        lvm(&["vgchange", "--activate", "n", &disk.group]);
        let mut devices = [one, two, three];
        devices.iter().for_each(Device::detach);
        devices.iter_mut().rev().for_each(Device::attach_again);
        let host = disk.host();
        assert_eq!(host.disks()[0].id, before.id);
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        assert_eq!(read(&node.target("p", 1), "f"), "kept");
        host.unpublish(&node.target("p", 1)).unwrap();
        drop((host, devices));
    });
}

/// D6, V9. An agent that was killed before the group was whole goes on.
#[test]
fn d6_an_interrupted_group_is_completed_and_foreign_data_is_left_alone() {
    on_devices(|disk| {
        let node = disk.node;
        let devices = ["one", "two", "three"].map(|image| Device::new(node, image));
        drop(disk.host());
        remove_group(&disk.group);
        let [empty, blank @ ..] = devices.each_ref().map(|device| device.path().display().to_string());
        lvm(&["pvremove", &blank[0], &blank[1]]);
        assert!(lvm(&["pvs", "--devices", &empty]).contains(&empty), "an empty physical volume");

        let file = File::options().read(true).write(true).open(&blank[0]).unwrap();
        let superblock = |bytes: &[u8]| {
            file.write_all_at(bytes, 0x438).unwrap();
            file.sync_all().unwrap();
        };
        superblock(b"\x53\xef");
        let why = disk.refused();
        assert!(why.contains("cannot be made of its devices") && why.contains(&blank[0]), "{why}");
        let mut found = [0; 2];
        file.read_exact_at(&mut found, 0x438).unwrap();
        assert_eq!(&found, b"\x53\xef");
        superblock(&[0; 2]);
        drop(disk.host());
        let other = Striped { node, group: new_group() };
        let why = other.refused();
        assert!(why.contains(&format!("write path: /dev/{}", disk.group)), "{why}");
    });
}

/// D6. Without a match, the group is the administrator's.
#[test]
fn d6_stripes_are_as_many_as_the_groups_devices() {
    on_devices(|disk| {
        let devices = ["one", "two", "three"].map(|image| Device::new(disk.node, image));
        let paths = devices.each_ref().map(|device| device.path().display().to_string());
        lvm(&[&["vgcreate", &*disk.group][..], &paths.each_ref().map(|path| &**path)].concat());
        let with = |stripes: usize| {
            let mut config = disk.config(stripes);
            config.disks[0].find = None;
            config
        };
        let why = refused(with(2));
        assert!(why.contains("has 3 devices, and stripes is 2"), "{why}");
        assert_eq!(refused(with(3)), "");
        let host = Host::open(with(0)).unwrap();
        host.create("s", &ext4(1)).unwrap();
        assert_eq!(stripes_of(&disk.group, 1), ["1"]);
        drop(host);
        // Volumes that were there stay as they are.
        let host = Host::open(with(3)).unwrap();
        host.create("s", &ext4(2)).unwrap();
        assert_eq!(
            (stripes_of(&disk.group, 1), stripes_of(&disk.group, 2)),
            (vec!["1".into()], vec!["3".into()])
        );
    });
}
