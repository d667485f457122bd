//! Disks that find their device by its properties (D6), with loop devices in a sysfs that shows them as hardware.

use std::fs::File;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use reservoir::host::{BackingKind, DeviceMatch, DiskConfig, FindDevices, Host, HostConfig, VolumeSpec};

use crate::support::*;

const SIZE: u64 = 320 * MIB;

/// A loop device that looks like hardware of the model `Fast`.
pub(crate) struct Device<'a> {
    node: &'a Node,
    image: PathBuf,
    name: String,
}

impl<'a> Device<'a> {
    pub(crate) fn new(node: &'a Node, image: &str) -> Self {
        let image = node.dir().join(image);
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let name = Self::attach(node, &image);
        Self { node, image, name }
    }

    fn attach(node: &Node, image: &Path) -> String {
        let name = attach_by_hand(image);
        let (real, sysfs) = (Path::new("/sys/block").join(&name), node.dir().join("sys"));
        let shown = sysfs.join("block").join(&name);
        for directory in [shown.join("device"), shown.join("queue"), sysfs.join("dev/block")] {
            std::fs::create_dir_all(directory).unwrap();
        }
        for file in ["dev", "size"] {
            std::fs::copy(real.join(file), shown.join(file)).unwrap();
        }
        std::fs::write(shown.join("device/model"), "Fast            \n").unwrap();
        std::fs::write(shown.join("queue/rotational"), "0\n").unwrap();
        let number = read(&shown, "dev");
        symlink(&shown, sysfs.join("dev/block").join(number.trim())).unwrap();
        name
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Attaches a detached device again. Its name may be another one.
    pub(crate) fn attach_again(&mut self) {
        self.name = Self::attach(self.node, &self.image);
    }

    pub(crate) fn detach(&self) {
        assert!(Command::new("losetup").arg("-d").arg(self.path()).status().unwrap().success());
        let sysfs = self.node.dir().join("sys");
        let number = read(&sysfs.join("block").join(&self.name), "dev");
        std::fs::remove_file(sysfs.join("dev/block").join(number.trim())).unwrap();
        std::fs::remove_dir_all(sysfs.join("block").join(&self.name)).unwrap();
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(self.path()).status();
    }
}

/// The configuration of disks that all find a device with the same match.
fn config(node: &Node, disks: &[&str]) -> HostConfig {
    let matching = DeviceMatch { model: Some("Fast".into()), rotational: Some(false), ..Default::default() };
    let wanted_by = disks.iter().map(|disk| ((*disk).to_owned(), 1)).collect();
    let find = Some(FindDevices { matching, count: 1, wanted_by });
    let state = Some(node.dir().join("state"));
    let (backing, path) = (BackingKind::Block, PathBuf::new());
    let disk = |name: &&str| {
        let (find, state, path) = (find.clone(), state.clone(), path.clone());
        DiskConfig { find, state, backing, ..node.disk_config(name, path) }
    };
    let disks = disks.iter().map(disk).collect();
    HostConfig { disks, sysfs: node.dir().join("sys"), ..node.config() }
}

fn refused(node: &Node) -> String {
    Host::open(config(node, &["a"])).unwrap().disks()[0].error.clone().unwrap_or_default()
}

/// D3, D6.
#[test]
fn d6_a_device_is_found_once_and_known_under_any_name() {
    on_a_node(|node| {
        let mut device = Device::new(node, "one");
        let host = Host::open(config(node, &["a"])).unwrap();
        let first = host.disks().remove(0);
        assert_eq!((first.error, first.capacity, first.path), (None, SIZE, device.path()));
        let spec = VolumeSpec { size_bytes: SIZE, ..ext4(1) };
        host.create("a", &spec).unwrap();
        drop(host);
        // After a boot another device, blank and of the same model, has the old name.
        device.detach();
        assert!(refused(node).contains("is not there: put the device back"), "{}", refused(node));
        let other = Device::new(node, "two");
        assert!(refused(node).contains("is not there"), "no other device takes its place");
        device.attach_again();
        assert_ne!(device.path(), other.path());
        let host = Host::open(config(node, &["a"])).unwrap();
        let again = host.disks().remove(0);
        assert_eq!((again.error, again.id, again.path), (None, first.id, device.path()));
        host.create("a", &spec).unwrap();
        assert!(host.recover().iter().all(|(_, recovered)| recovered.is_ok()));
        drop(host);
        // A second disk gets the other device, and never the first one's.
        let host = Host::open(config(node, &["a", "b"])).unwrap();
        let paths: Vec<_> = host.disks().into_iter().map(|disk| (disk.error, disk.path)).collect();
        assert_eq!(paths, [(None, device.path()), (None, other.path())]);
    });
}

#[test]
fn d6_of_more_devices_than_disks_none_is_taken() {
    on_a_node(|node| {
        let (one, two) = (Device::new(node, "one"), Device::new(node, "two"));
        let why = refused(node);
        assert!(why.contains(&one.path().display().to_string()), "{why}");
        assert!(why.contains(&two.path().display().to_string()) && why.contains("narrow the match"), "{why}");
        let host = Host::open(config(node, &["a", "b"])).unwrap();
        let mut paths: Vec<_> = host.disks().into_iter().map(|disk| disk.path).collect();
        paths.sort();
        let mut both = [one.path(), two.path()];
        both.sort();
        assert_eq!(paths, both);
    });
}

/// D6, V9.
#[test]
fn d6_a_device_with_data_or_a_user_is_left_alone() {
    on_a_node(|node| {
        let device = Device::new(node, "one");
        let write = |at: u64, bytes: &[u8]| {
            let file = File::options().write(true).open(device.path()).unwrap();
            file.write_all_at(bytes, at).unwrap();
            file.sync_all().unwrap();
        };
        for (at, bytes, named) in [
            (0x438, &b"\x53\xef"[..], "holds ext4"),
            (0x200, b"LABELONE", "holds a physical volume of LVM"),
            (0x1fe, b"\x55\xaa", "holds a partition table"),
            // The superblock of a RAID whose data begins at the front.
            (SIZE - 8192, b"\xfc\x4e\x2b\xa9", "holds data"),
        ] {
            write(at, bytes);
            let why = refused(node);
            assert!(why.contains(named) && why.contains(&device.name), "{why}");
            let mut found = vec![0; bytes.len()];
            File::open(&device.image).unwrap().read_exact_at(&mut found, at).unwrap();
            assert_eq!(found, bytes, "untouched");
            write(at, &vec![0; bytes.len()]);
        }
        let mut user =
            Command::new("sleep").arg("60").stdin(File::open(device.path()).unwrap()).spawn().unwrap();
        let why = refused(node);
        user.kill().unwrap();
        user.wait().unwrap();
        assert!(why.contains("is open in a process"), "{why}");
        assert!(!node.dir().join("state/taken/a").exists(), "nothing was taken");
        let claim = rustix::fs::open(
            device.path(),
            rustix::fs::OFlags::EXCL | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        assert!(refused(node).contains("is in use: unmount it"));
        drop(claim);
        eventually("not taken", || refused(node).is_empty());
    });
}
