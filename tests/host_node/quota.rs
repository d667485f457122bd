//! Volumes that are directories with a project quota. `make test-qemu` runs the tests on a kernel with project quota.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use reservoir::host::{BackingKind, DiskConfig, ErasePolicy, Error, FsType, Host, HostConfig, VolumeSpec};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde_json::json;

use crate::assert_error;
use crate::support::*;

/// A filesystem with project quota, and the disk as a directory in it.
struct Quota<'a> {
    node: &'a Node,
    fs_type: FsType,
    mounted: PathBuf,
}

impl<'a> Quota<'a> {
    /// `None`, with a message, without project quota in the kernel. In the guest, project quota is required.
    fn new(node: &'a Node, fs_type: FsType) -> Option<Self> {
        let mounted = node.dir().join("with-quota");
        std::fs::create_dir(&mounted).unwrap();
        mkfs(node, fs_type, "-O quota,project -E quotatype=prjquota");
        if !mount(node, &mounted, "loop,prjquota") {
            assert!(std::env::var_os("RESERVOIR_TEST_GUEST").is_none(), "the guest has project quota");
            println!(
                "this kernel has no project quota of {fs_type}: `make test-qemu` runs this test on one that has"
            );
            return None;
        }
        std::fs::create_dir(mounted.join("disk")).unwrap();
        // Drops the capability of this thread: with it ext4 stops no writer, and unprivileged pods do not have it.
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        set_capabilities(None, sets).unwrap();
        Some(Self { node, fs_type, mounted })
    }

    fn config(&self) -> HostConfig {
        config(self.node, self.mounted.join("disk"))
    }

    fn host(&self) -> Host {
        let host = Host::open(self.config()).unwrap();
        assert_eq!(host.disks()[0].error, None);
        host
    }

    fn spec(&self, i: u32, size_bytes: u64) -> VolumeSpec {
        VolumeSpec { fs_type: self.fs_type, size_bytes, mode: Some(0o777), ..ext4(i) }
    }

    fn volume(&self, i: u32) -> PathBuf {
        self.mounted.join("disk/volumes").join(uid(i).as_str())
    }

    fn project(&self, i: u32) -> u64 {
        let note: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.volume(i).join("project.json")).unwrap()).unwrap();
        note["project"].as_u64().unwrap()
    }
}

fn mkfs(node: &Node, fs_type: FsType, ext4_options: &str) {
    let image = node.dir().join("quota.image");
    let _ = std::fs::remove_file(&image);
    File::create(&image).unwrap().set_len(1600 * MIB).unwrap();
    let mut mkfs = Command::new(format!("mkfs.{fs_type}"));
    if fs_type == FsType::Ext4 {
        mkfs.args(ext4_options.split(' '));
    }
    assert!(mkfs.arg("-q").arg(&image).status().unwrap().success());
}

fn mount(node: &Node, at: &Path, options: &str) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-o", options]).arg(node.dir().join("quota.image")).arg(at).output().unwrap().status.success()
}

fn config(node: &Node, path: PathBuf) -> HostConfig {
    let disk = node.disk_config("q", path);
    HostConfig { disks: vec![DiskConfig { backing: BackingKind::Quota, ..disk }], ..node.config() }
}

fn on_both(test: fn(&Quota<'_>)) {
    for fs_type in [FsType::Ext4, FsType::Xfs] {
        on_a_node(move |node| {
            if let Some(quota) = Quota::new(node, fs_type) {
                test(&quota);
            }
        });
    }
}

/// Allocates bytes, and at the end writes, until the kernel refuses; returns the bytes taken.
fn fill(directory: &Path) -> u64 {
    let file = File::create(directory.join("fill")).unwrap();
    let mut offset = 0;
    while fallocate(&file, FallocateFlags::empty(), offset, MIB).is_ok() {
        offset += MIB;
    }
    let chunk = vec![7; 1 << 16];
    let error = loop {
        match file.write_at(&chunk, offset) {
            Ok(written) => offset += written as u64,
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded), "{error}");
    offset
}

fn chattr(arguments: &[&str], file: &Path) -> bool {
    Command::new("chattr").args(arguments).arg(file).output().unwrap().status.success()
}

/// V5, V12, M3, M6.
#[test]
fn v5_each_volume_has_a_quota_of_its_own() {
    on_both(|quota| {
        let (host, node) = (quota.host(), quota.node);
        for i in [1, 2] {
            host.create("q", &quota.spec(i, 320 * MIB)).unwrap();
            host.create("q", &quota.spec(i, 320 * MIB)).unwrap();
            host.publish(&node.request(&uid(i), "w", i, false)).unwrap();
        }
        assert_ne!(quota.project(1), quota.project(2));
        host.publish(&node.request(&uid(1), "r", 0, true)).unwrap();
        let (writer, reader) = (node.target("w", 1), node.target("r", 0));
        write(&writer, "f", "hello");
        assert_eq!(read(&reader, "f"), "hello");
        assert_eq!(std::fs::write(reader.join("g"), "").unwrap_err().raw_os_error(), Some(30), "EROFS");
        node.assert_locked(&reader);
        assert_eq!(std::fs::metadata(&writer).unwrap().mode() & 0o777, 0o777);
        assert!(node.mounts().iter().all(|(_, options)| options.contains("nosuid,nodev")));
        // Preallocated blocks and files in directories count, too.
        std::fs::create_dir(writer.join("deep")).unwrap();
        let file = File::create(writer.join("deep/allocated")).unwrap();
        assert!(fallocate(&file, FallocateFlags::empty(), 0, 400 * MIB).is_err());
        file.set_len(0).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 100 * MIB).unwrap();
        let filled = fill(&writer);
        assert!((210 * MIB..=220 * MIB).contains(&filled), "{filled} of 220 MiB");
        let usage = host.usage(&uid(1)).unwrap();
        assert_eq!(usage.total_bytes, 320 * MIB);
        assert!(usage.available_bytes < 10 * MIB && usage.used_bytes <= 320 * MIB, "{usage:?}");
        // statvfs(2) in a pod returns the same numbers.
        let seen = rustix::fs::statvfs(&writer).unwrap();
        assert_eq!(seen.f_blocks * seen.f_frsize, 320 * MIB);
        assert!(host.usage(&uid(2)).unwrap().available_bytes > 318 * MIB);
        // A million files do not take another volume's inodes.
        let inodes = host.usage(&uid(2)).unwrap().total_inodes;
        let of_disk = rustix::fs::statvfs(&quota.mounted).unwrap().f_files;
        assert!(inodes > 1_000 && inodes < of_disk / 4, "{inodes} of {of_disk}");
        // The kernel refuses to move files between projects.
        let moved = std::fs::rename(quota.volume(1).join("data/f"), quota.volume(2).join("data/f"));
        assert_eq!(moved.unwrap_err().kind(), ErrorKind::CrossesDevices);
        let linked = std::fs::hard_link(quota.volume(1).join("data/f"), quota.volume(2).join("data/f"));
        assert_eq!(linked.unwrap_err().kind(), ErrorKind::CrossesDevices);
        // Bytes that are promised to both volumes are not promised again.
        let free = host.disks()[0].free;
        let refused = host.create("q", &quota.spec(3, free - 100 * MIB));
        assert_error!(refused, Error::NoSpace { available, .. } if available < free - 300 * MIB);
        assert!(!quota.volume(3).exists());
    });
}

#[test]
fn v7_a_quota_grows_in_use_and_shrinks_when_unused() {
    on_both(|quota| {
        let (host, node) = (quota.host(), quota.node);
        host.create("q", &quota.spec(1, 320 * MIB)).unwrap();
        let request = node.request(&uid(1), "w", 0, false);
        host.publish(&request).unwrap();
        assert!(fill(&request.target) < 321 * MIB);
        host.resize(&uid(1), 640 * MIB).unwrap();
        let filled = fill(&request.target);
        assert!((630 * MIB..=640 * MIB).contains(&filled), "{filled}");
        assert_error!(host.resize(&uid(1), 1 << 40), Error::NoSpace { .. });
        assert_error!(host.resize(&uid(1), 400 * MIB), Error::Busy { .. });
        host.unpublish(&request.target).unwrap();
        assert_error!(host.resize(&uid(1), 400 * MIB), Error::TooSmall { needed, .. } if needed > 600 * MIB);
        assert_eq!(host.usage(&uid(1)).unwrap().total_bytes, 640 * MIB);
        let data = quota.volume(1).join("data");
        std::fs::write(data.join("fill"), "little").unwrap();
        host.resize(&uid(1), 400 * MIB).unwrap();
        let record = host.look("q", &uid(1)).unwrap().unwrap();
        assert_eq!((record.spec.size_bytes, record.resizing), (400 * MIB, None));
        assert!(fill(&data) < 401 * MIB);
    });
}

/// X3, X4, S4, S12. Hostile content, an open file, and a project that is never used again.
#[test]
fn x4_an_erase_removes_files_and_limit() {
    on_both(|quota| {
        let (host, node) = (quota.host(), quota.node);
        for i in [1, 2] {
            host.create("q", &quota.spec(i, 320 * MIB)).unwrap();
        }
        let request = node.request(&uid(1), "w", 0, false);
        host.publish(&request).unwrap();
        let (data, project) = (quota.volume(1).join("data"), quota.project(1));
        write(&request.target, "f", "x");
        write(&quota.volume(2).join("data"), "neighbour", "alive");
        // The erase also removes a file that its owner gave to another volume's project.
        let given = request.target.join("a/given/away");
        std::fs::create_dir_all(&given).unwrap();
        write(&given, "f", "x");
        let neighbours = quota.project(2).to_string();
        for path in [given.join("f"), given.clone(), request.target.join("a/given")] {
            assert!(chattr(&["-p", &neighbours], &path), "{}", path.display());
        }
        // An open file of a process outlives its mount. An open file of another volume does not count.
        let holder =
            |path: &Path| Command::new("sleep").arg("600").stdin(File::open(path).unwrap()).spawn().unwrap();
        let mut own = holder(&request.target.join("f"));
        let mut other = holder(&quota.volume(2).join("data/neighbour"));
        node.unmount_lazily(&request.target);
        host.unpublish(&request.target).unwrap();
        assert!(host.fence(&uid(1)).unwrap().in_use);
        assert_error!(host.erase(&uid(1), ErasePolicy::Discard), Error::Busy { .. });
        assert_eq!(read(&data, "f"), "x");
        own.kill().unwrap();
        own.wait().unwrap();
        assert_error!(host.erase(&uid(1), ErasePolicy::Zero), Error::Unsupported(why) if why.contains("erasePolicy to Discard"));
        assert_eq!(host.erase(&uid(1), ErasePolicy::Discard).unwrap().bytes, 320 * MIB);
        assert!(!quota.volume(1).exists());
        assert_eq!(read(&quota.volume(2).join("data"), "neighbour"), "alive");
        other.kill().unwrap();
        other.wait().unwrap();
        host.create("q", &quota.spec(1, 320 * MIB)).unwrap();
        assert!(![project, quota.project(2)].contains(&quota.project(1)), "a number is used once");
        assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
    });
}

/// X4. An unlinked file keeps its bytes while a process has it open.
#[test]
fn x4_an_erase_waits_until_the_kernel_counts_nothing() {
    on_both(|quota| {
        let (host, node) = (quota.host(), quota.node);
        host.create("q", &quota.spec(1, 320 * MIB)).unwrap();
        let request = node.request(&uid(1), "w", 0, false);
        host.publish(&request).unwrap();
        let inner = request.target.join("inner");
        File::create(&inner).unwrap().write_all_at(&vec![1; 2 << 20], 0).unwrap();
        let device = attach_by_hand(&inner);
        node.unmount_lazily(&request.target);
        host.unpublish(&request.target).unwrap();
        host.fence(&uid(1)).unwrap();
        assert_error!(host.erase(&uid(1), ErasePolicy::Discard), Error::Busy { what } if what.contains("without a name"));
        assert!(Command::new("losetup").arg("-d").arg(format!("/dev/{device}")).status().unwrap().success());
        eventually("it is not erased", || host.erase(&uid(1), ErasePolicy::Discard).is_ok());
        assert_eq!(host.erased(), [uid(1)]);
    });
}

/// M5, V9, S13. A creation is interrupted at any step, and limit and project are changed by hand.
#[test]
fn m5_a_new_agent_restores_project_and_limit() {
    on_both(|quota| {
        let host = quota.host();
        host.create("q", &quota.spec(1, 320 * MIB)).unwrap();
        let (data, project) = (quota.volume(1).join("data"), quota.project(1));
        drop(host);
        // The agent was killed before making the directory. The project stays the same.
        let edit = |change: &dyn Fn(&mut serde_json::Value)| {
            let path = quota.volume(1).join("record.json");
            let mut record = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            change(&mut record);
            std::fs::write(&path, record.to_string()).unwrap();
        };
        edit(&|record| record["state"] = json!("Creating"));
        std::fs::remove_dir(&data).unwrap();
        let host = quota.host();
        host.create("q", &quota.spec(1, 320 * MIB)).unwrap();
        assert_eq!(quota.project(1), project);
        write(&data, "keeps", "data");
        // During a resize the limit may be either of two values. Any other value is corrected.
        edit(&|record| record["resizing"] = json!(400 * MIB));
        host.resize(&uid(1), 400 * MIB).unwrap();
        assert_eq!(host.usage(&uid(1)).unwrap().total_bytes, 400 * MIB);
        assert!(chattr(&["-p", "0"], &data));
        let request = quota.node.request(&uid(1), "w", 0, false);
        host.publish(&request).unwrap();
        assert!(fill(&request.target) < 401 * MIB, "its directory has its project again");
        assert_eq!(read(&data, "keeps"), "data");
        host.unpublish(&request.target).unwrap();
        // A lost directory is never made anew.
        std::fs::remove_dir_all(&data).unwrap();
        assert_error!(host.create("q", &quota.spec(1, 400 * MIB)), Error::BackingLost { .. });
    });
}

/// D5. The refusal names the command that enables quotas.
#[test]
fn d5_a_filesystem_without_project_quota_is_refused() {
    for (fs_type, said) in
        [(FsType::Ext4, "tune2fs -O project,quota"), (FsType::Xfs, "mount it with -o prjquota")]
    {
        on_a_node(move |node| {
            let mounted = node.dir().join("without");
            std::fs::create_dir(&mounted).unwrap();
            mkfs(node, fs_type, "-O ^quota");
            assert!(mount(node, &mounted, "loop"));
            let why = || Host::open(config(node, mounted.clone())).unwrap().disks()[0].error.clone().unwrap();
            assert!(why().contains(said), "{}", why());
            assert_eq!(
                std::fs::read_dir(&mounted)
                    .unwrap()
                    .filter(|e| { e.as_ref().unwrap().file_name() != "lost+found" })
                    .count(),
                0,
                "nothing was made there"
            );
        });
    }
    on_a_node(|node| {
        let host = Host::open(config(node, "/dev/shm".into())).unwrap();
        assert!(host.disks()[0].error.clone().unwrap().contains("which backing Quota needs"));
    });
}

/// V10. The owner of a file can give it to any project, also to the project with the last number.
#[test]
fn v10_a_file_of_the_last_project_blocks_no_creation() {
    on_both(|quota| {
        let (host, node) = (quota.host(), quota.node);
        host.create("q", &quota.spec(1, 320 * MIB)).unwrap();
        host.publish(&node.request(&uid(1), "w", 0, false)).unwrap();
        let file = node.target("w", 0).join("file");
        std::fs::write(&file, "data").unwrap();
        assert!(chattr(&["-p", "4294967294"], &file));
        host.create("q", &quota.spec(2, 320 * MIB)).unwrap();
        host.resize(&uid(1), 330 * MIB).unwrap();
        host.unpublish(&node.target("w", 0)).unwrap();
    });
}

/// X3, L5. A pod gives its open files the project numbers that follow its own.
#[test]
fn l5_a_pod_cannot_foretell_a_neighbours_project() {
    on_both(|quota| {
        let (host, node) = (quota.host(), quota.node);
        host.create("q", &quota.spec(1, 320 * MIB)).unwrap();
        host.create("q", &VolumeSpec { shared: false, ..quota.spec(2, 320 * MIB) }).unwrap();
        host.publish(&node.request(&uid(1), "w", 0, false)).unwrap();
        let mut users = Vec::new();
        for next in 1..20 {
            let path = node.target("w", 0).join(next.to_string());
            std::fs::write(&path, "x").unwrap();
            assert!(chattr(&["-p", &(quota.project(1) + next).to_string()], &path));
            let stdin = File::open(&path).unwrap();
            users.push(Command::new("sleep").arg("600").stdin(stdin).spawn().unwrap());
        }
        host.publish(&node.request(&uid(2), "x", 0, false)).unwrap();
        host.unpublish(&node.target("x", 0)).unwrap();
        let fenced = host.fence(&uid(2)).unwrap();
        let erased = host.erase(&uid(2), ErasePolicy::Discard);
        for mut user in users {
            user.kill().unwrap();
            user.wait().unwrap();
        }
        assert!(!fenced.in_use);
        erased.unwrap();
        host.unpublish(&node.target("w", 0)).unwrap();
    });
}
