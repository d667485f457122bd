//! Tests of the agent's configuration file.

use super::*;

const KUBELET: Thresholds = Thresholds { space: 15, inodes: 5 };

#[test]
fn d6_a_disk_with_a_name_and_a_path_gets_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("disks: [{{name: fast, path: {}, capacity: 4Gi}}]", dir.path().display());
    let host = Config::parse(&text).unwrap().disks[0].to_host(dir.path(), KUBELET);
    assert_eq!((host.capacity, host.system_reserved, host.wrong), (Some(4 << 30), (4 << 30) / 10, None));
    let group = "disks: [{name: vg, path: /dev/no-such-group, backing: Lvm}]";
    let host = Config::parse(group).unwrap().disks[0].to_host(dir.path(), KUBELET);
    assert_eq!((host.backing, host.system_reserved, host.make_directory), (host::BackingKind::Lvm, 0, false));
    let held_back = |more: &str, space| {
        let eviction = Thresholds { space, inodes: 20 };
        let text = format!("disks: [{{name: a, path: /srv/a{more}}}]");
        let host = Config::parse(&text).unwrap().disks[0].to_host(dir.path(), eviction);
        assert_eq!(host.wrong, None);
        (host.system_reserved_percent, host.make_directory, host.require_mount)
    };
    assert_eq!(held_back("", 15), (10, true, true));
    assert_eq!(held_back(", requireMount: false", 15), (15, true, false), "the kubelet watches it");
    assert_eq!(held_back(", requireMount: false", 0), (10, true, false));
    assert_eq!(held_back(", requireMount: false, systemReserved: 3%", 15), (3, true, false));
    let quota = held_back(", requireMount: false, backing: Quota", 15);
    assert_eq!(quota, (20, true, false), "D6: a volume has its part of the inodes");
    assert_eq!(held_back(", backing: Btrfs", 15), (10, false, false));
}

#[test]
fn a_mistake_in_the_configuration_is_named() {
    for (text, part) in [
        ("disks: [{name: a, kind: Block, match: {modell: x}}]", "unknown field `modell`"),
        ("disks: [{name: a, path: /x, size: 1}]", "unknown field `size`"),
        ("disks: [{name: a, path: /x, kind: Floppy}]", "unknown variant `Floppy`"),
    ] {
        assert!(Config::parse(text).unwrap_err().to_string().contains(part), "{text}");
    }
    for (text, part) in [
        ("{name: A/b, path: /tmp}", "a name is a DNS label"),
        ("{name: a, path: tmp}", "not absolute"),
        ("{name: a}", "a disk has a path"),
        ("{name: a, path: /dev/x, kind: Block, match: {model: x}}", "write one of them"),
        ("{name: a, kind: Mount, match: {model: x}}", "is found by its path"),
        ("{name: a, path: /tmp, match: {model: x}}", "is found by its path"),
        ("{name: a, backing: Lvm, match: {model: x}}", "the name of the volume group"),
        ("{name: a, path: /dev/vg0, backing: Lvm, stripes: 1}", "from 2 to 128"),
        ("{name: a, path: /tmp, stripes: 2}", "leave stripes out"),
        ("{name: a, kind: Block, match: {rotational: false, minSize: 1Ti}}", "needs a model or a serial"),
        ("{name: a, kind: Block, match: {model: '*'}}", "needs a model or a serial"),
        ("{name: a, kind: Block, match: {model: x, minSize: big}}", "is not a size"),
        ("{name: a, path: /tmp, systemReserved: 101%}", "up to 100"),
        ("{name: a, path: /tmp, capacity: -1Gi}", "capacity: "),
        ("{name: a, path: /tmp, systemReserved: x}", "systemReserved: "),
        ("{name: a, path: /tmp, reservations: [{role: a//b, size: 1Gi}]}", "is not a role name"),
        ("{name: a, path: /tmp, reservations: [{role: a, size: none}]}", "is not a size"),
        ("{name: a, path: /tmp, reservations: [{role: a, size: 1}, {role: a, size: 2}]}", "two reservations"),
        ("{name: a, path: /tmp, kind: Mount, backing: Loop}", "cannot have backing Loop"),
        ("{name: a, path: /tmp, kind: Block, backing: Btrfs}", "cannot have backing Btrfs"),
        ("{name: a, path: /tmp, backing: Btrfs, adoptRoots: [/srv]}", "leave adoptRoots out"),
        ("{name: a, path: /tmp, kind: Block, backing: Quota}", "cannot have backing Quota"),
        ("{name: a, path: /dev/vg0, backing: Lvm, kind: Block}", "cannot have backing Lvm"),
        ("{name: a, path: /dev/vg0, backing: Lvm, adoptRoots: [/srv]}", "leave adoptRoots out"),
        ("{name: a, path: /dev/vg0, backing: Lvm, systemReserved: 5%}", "say how many bytes"),
        ("{name: a, path: /srv/vg0, backing: Lvm}", "the name of a volume group"),
        ("{name: a, path: /tmp, kind: Mount, capacity: 1Gi}", "is handed out whole"),
        ("{name: a, path: /tmp, kind: Mount, adoptRoots: [/srv]}", "leave adoptRoots out"),
        ("{name: a, path: /tmp, adoptRoots: [srv]}", "not the plain absolute path"),
        ("{name: a, path: /tmp, adoptRoots: [/srv/../etc]}", "not the plain absolute path"),
        ("{name: a, path: /tmp, adoptRoots: [/]}", "not the plain absolute path"),
        ("{name: a, path: /tmp, kind: Mount, systemReserved: 10%}", "is handed out whole"),
        ("{name: a, path: /tmp, kind: Mount, requireMount: false}", "leave requireMount out"),
    ] {
        let entry: DiskEntry = serde_yaml::from_str(text).unwrap();
        assert!(entry.to_host(Path::new("/s"), KUBELET).wrong.unwrap().contains(part), "{text}");
    }
}

#[test]
fn d6_a_volume_group_finds_as_many_devices_as_it_has_stripes() {
    let text = "disks: [{name: a, path: /dev/fast, backing: Lvm, stripes: 3, match: {model: x}}, {name: b, path: /dev/one,
        backing: Lvm, match: {model: x}}, {name: c, path: /dev/had, backing: Lvm, stripes: 2}]";
    let disks = Config::parse(text).unwrap().to_host(KUBELET);
    let seen = |disk: &DiskConfig| {
        (
            disk.wrong.clone(),
            disk.stripes,
            disk.find.as_ref().map(|find| (find.count, find.wanted_by.clone())),
        )
    };
    let wanted = vec![("a".to_owned(), 3), ("b".to_owned(), 1)];
    assert_eq!(
        disks.iter().map(seen).collect::<Vec<_>>(),
        [(None, 3, Some((3, wanted.clone()))), (None, 0, Some((1, wanted))), (None, 2, None)]
    );
}

#[test]
fn d6_disks_with_the_same_match_share_the_devices() {
    let text = "disks: [{name: a, kind: Block, match: {model: x, minSize: 1Gi}}, {name: b, path: /dev/b, kind: Block},
        {name: c, kind: Block, match: {model: x, minSize: 1024Mi}}, {name: d, kind: Block, match: {model: x}}]";
    let disks = Config::parse(text).unwrap().to_host(KUBELET);
    let found: Vec<_> = disks.iter().map(|disk| (&disk.wrong, &disk.find, &disk.foreign_devices)).collect();
    let wanted = |i: usize| found[i].1.as_ref().unwrap().wanted_by.clone();
    assert_eq!(wanted(0), [("a".to_owned(), 1), ("c".to_owned(), 1)]);
    assert_eq!((wanted(2), wanted(3)), (wanted(0), vec![("d".to_owned(), 1)]));
    for (wrong, _, foreign) in found {
        assert_eq!((wrong, foreign), (&None, &vec![PathBuf::from("/dev/b")]));
    }
}

/// V10.
#[test]
fn v10_a_disk_that_makes_no_sense_keeps_no_other() {
    let text = "disks: [{name: a, path: /a}, {name: b, path: b}, {name: c, path: /c}, {name: c, path: /d}]";
    let disks = Config::parse(text).unwrap().to_host(KUBELET);
    let wrong: Vec<_> = disks.iter().map(|disk| (disk.name.as_str(), disk.wrong.is_some())).collect();
    assert_eq!(wrong, [("a", false), ("b", true), ("c", true)]);
    // One directory under two names, and a disk among the volumes of another one.
    let text = "disks: [{name: a, path: /a}, {name: b, path: /a}, {name: c, path: /a/volumes}, {name: d, path: /a/d}]";
    let disks = Config::parse(text).unwrap().to_host(KUBELET);
    let wrong: Vec<_> = disks.iter().map(|disk| disk.wrong.as_deref().unwrap_or("")).collect();
    let said = |path: &str| {
        format!(
            "its configuration is wrong: {path} is the path of disk a, or inside its volumes: give each disk a path of its own"
        )
    };
    assert_eq!(wrong, ["", &said("/a"), &said("/a/volumes"), ""]);
}
