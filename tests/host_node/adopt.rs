//! Adopted directories with data (V8).

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use reservoir::host::{DiskConfig, ErasePolicy, Error, Host, HostConfig, State, VolumeSpec};
use rustix::fs::{Mode, OFlags};

use crate::assert_error;
use crate::support::*;

fn root(node: &Node) -> PathBuf {
    node.dir().join("srv")
}

/// A directory with data, beneath the root.
fn data(node: &Node, name: &str) -> PathBuf {
    let path = root(node).join(name);
    std::fs::create_dir_all(path.join("deep/er")).unwrap();
    write(&path, "old", "data");
    std::fs::write(path.join("deep/er/large"), vec![7; 2 << 20]).unwrap();
    std::fs::hard_link(path.join("deep/er/large"), path.join("again")).unwrap();
    path
}

fn config(node: &Node) -> HostConfig {
    let (adopt_roots, allow_unenforced) = (vec![root(node)], true);
    let disk = DiskConfig { adopt_roots, allow_unenforced, ..node.disk_config("d", node.disk()) };
    HostConfig { disks: vec![disk], ..node.config() }
}

fn host(node: &Node) -> Host {
    let host = Host::open(config(node)).unwrap();
    assert_eq!(host.disks()[0].error, None);
    host
}

fn adopting(i: u32, path: &std::path::Path) -> VolumeSpec {
    VolumeSpec { adopt: Some(path.to_str().unwrap().to_owned()), mode: Some(0o777), ..ext4(i) }
}

/// The message of a refusal, after which nothing remains.
fn refused(host: &Host, spec: &VolumeSpec) -> String {
    let before = host.volumes().len();
    let said = host.create("d", spec).unwrap_err().to_string();
    assert_eq!(host.volumes().len(), before, "{said}");
    said
}

/// V8, M3, V12, S9.
#[test]
fn v8_an_adopted_directory_keeps_its_data() {
    on_a_node(|node| {
        let path = data(node, "set");
        let before = std::fs::metadata(&path).unwrap();
        let host = host(node);
        let spec = adopting(1, &path);
        host.create("d", &spec).unwrap();
        host.create("d", &spec).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!((before.mode(), before.ino(), before.mtime()), (after.mode(), after.ino(), after.mtime()));
        assert!(!node.data(&uid(1)).exists(), "nothing is allocated");
        let allocated = host.volumes()[0].allocated;
        assert!((2 * MIB..3 * MIB).contains(&allocated), "a hard link counts once: {allocated}");

        let mounts = [("r", 0, true), ("w", 1, false), ("r", 2, true)];
        for (pod, i, read_only) in mounts {
            host.publish(&node.request(&uid(1), pod, i, read_only)).unwrap();
            host.publish(&node.request(&uid(1), pod, i, read_only)).unwrap();
        }
        let (reader, writer) = (node.target("r", 0), node.target("w", 1));
        assert_eq!(read(&reader, "old"), "data");
        write(&writer, "new", "more");
        assert_eq!((read(&reader, "new"), read(&path, "new")), ("more".to_owned(), "more".to_owned()));
        assert_eq!(std::fs::write(reader.join("no"), "").unwrap_err().raw_os_error(), Some(30), "EROFS");
        node.assert_locked(&reader);
        let seen = node.mounts();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|(_, options)| options.contains("nosuid,nodev")), "{seen:?}");
        let usage = host.usage(&uid(1)).unwrap();
        assert!(usage.total_bytes > spec.size_bytes, "the file system's: {usage:?}");

        // Bytes beyond the volume's size do not count as the volume's.
        std::fs::write(writer.join("beyond"), vec![7; 40 << 20]).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(host.volumes()[0].allocated, spec.size_bytes);
        assert_error!(host.resize(&uid(1), 64 * MIB), Error::Unsupported(why) if why.contains("cannot be resized"));

        // X3: a mount in any namespace prevents the erase.
        let fenced = host.fence(&uid(1)).unwrap();
        assert!(fenced.in_use && fenced.users.len() == 3);
        assert_error!(host.erase(&uid(1), ErasePolicy::Discard), Error::InUse { .. });
        let elsewhere = Elsewhere::new(node, &reader);
        for (pod, i, _) in mounts {
            host.unpublish(&node.target(pod, i)).unwrap();
        }
        assert_error!(host.erase(&uid(1), ErasePolicy::Discard), Error::Busy { .. });
        drop(elsewhere);
        assert!(!host.fence(&uid(1)).unwrap().in_use);
        assert_error!(host.erase(&uid(1), ErasePolicy::Zero), Error::Unsupported(_));
        for _ in 0..2 {
            assert_eq!(host.erase(&uid(1), ErasePolicy::Discard).unwrap().bytes, 0, "none was given back");
        }
        assert!(!node.volume(&uid(1)).exists());
        let files = ["old", "new", "again"].map(|name| path.join(name).exists());
        assert_eq!(files, [true; 3]);
        node.assert_no_mounts();

        // The directory may be adopted again.
        host.create("d", &VolumeSpec { size_bytes: 64 * MIB, ..adopting(2, &path) }).unwrap();
    });
}

#[test]
fn v8_a_directory_outside_of_adopt_roots_is_refused() {
    on_a_node(|node| {
        let path = data(node, "set");
        symlink(&path, root(node).join("link")).unwrap();
        symlink(root(node), root(node).join("up")).unwrap();
        let outside = node.dir().join("srv-outside");
        std::fs::create_dir(&outside).unwrap();
        let host = host(node);
        let srv = root(node);
        for (path, said) in [
            (outside, "add one to adoptRoots"),
            (srv.clone(), "add one to adoptRoots"),
            (srv.join("../srv-outside"), "not a plain absolute path"),
            (srv.join("set/."), "not a plain absolute path"),
            (srv.join("set/"), "not a plain absolute path"),
            (srv.join("link"), "a symbolic link is on the way"),
            (srv.join("up/set"), "a symbolic link is on the way"),
            (srv.join("set/old"), "is not a directory"),
            (srv.join("none"), "does not exist"),
        ] {
            let found = refused(&host, &adopting(1, &path));
            assert!(found.contains(said), "{}: {found}", path.display());
        }
        let raw = VolumeSpec { raw: true, ..adopting(1, &path) };
        assert!(refused(&host, &raw).contains("disk of kind Block"));
        let small = VolumeSpec { size_bytes: 16 * MIB, ..adopting(1, &path) };
        std::fs::write(path.join("fill"), vec![7; 16 << 20]).unwrap();
        let found = refused(&host, &small);
        assert!(
            found.contains("bytes at least, for its files") && found.contains("and 16777216 were asked for"),
            "{found}"
        );
        host.create("d", &VolumeSpec { size_bytes: 32 * MIB, ..small }).unwrap();
        drop(host);

        let mut config = config(node);
        config.disks[0].allow_unenforced = false;
        let strict = Host::open(config).unwrap();
        let found = refused(&strict, &adopting(2, &data(node, "other")));
        assert!(found.contains("set allowUnenforced"), "{found}");
    });
}

#[test]
fn v8_a_directory_that_overlaps_another_is_refused() {
    on_a_node(|node| {
        let path = data(node, "set");
        let (inside, beside) = (path.join("deep"), data(node, "set2"));
        let mut config = config(node);
        // The whole node is an adopt root, the agent's own directories included.
        config.disks[0].adopt_roots = vec![node.dir().to_owned()];
        let host = Host::open(config).unwrap();
        host.create("d", &adopting(1, &inside)).unwrap();
        // A bind mount hides no overlap.
        let alias = node.dir().join("alias");
        std::fs::create_dir(&alias).unwrap();
        rustix::mount::mount_bind(&path, &alias).unwrap();
        for other in [&inside, &path, &inside.join("er"), &root(node), &alias, &alias.join("deep")] {
            let found = refused(&host, &adopting(2, other));
            let said = "overlaps the directory that volume volume-1 adopted";
            assert!(found.contains(said), "{}: {found}", other.display());
        }
        for (own, said) in [
            (node.disk(), "the directory of disk d"),
            (node.disk().join("volumes"), "the directory of disk d"),
            (node.kubelet().join("pods"), "the kubelet's directory"),
        ] {
            let found = refused(&host, &adopting(2, &own));
            assert!(found.contains(said), "{}: {found}", own.display());
        }
        host.create("d", &adopting(2, &beside)).unwrap();
        rustix::mount::unmount(&alias, rustix::mount::UnmountFlags::empty()).unwrap();
    });
}

/// V8, V9.
#[test]
fn v8_a_replaced_directory_is_not_mounted() {
    on_a_node(|node| {
        let path = data(node, "set");
        let aside = root(node).join("aside");
        let host = host(node);
        let spec = adopting(1, &path);
        host.create("d", &spec).unwrap();
        let publish = || host.publish(&node.request(&uid(1), "p", 0, false));
        publish().unwrap();

        std::fs::rename(&path, &aside).unwrap();
        assert_error!(host.create("d", &spec), Error::BackingLost { reason, .. } if reason.contains("does not exist"));
        for in_place in [false, true] {
            match in_place {
                false => std::fs::create_dir(&path).unwrap(),
                true => {
                    std::fs::remove_dir(&path).unwrap();
                    symlink(&aside, &path).unwrap();
                }
            }
            assert_error!(host.create("d", &spec), Error::Conflict(_));
            let other = node.request(&uid(1), "q", 1, false);
            assert_error!(host.publish(&other), Error::Conflict(why) if why.contains(path.to_str().unwrap()));
        }
        // L3: a pod with the old directory goes on, and can end.
        write(&node.target("p", 0), "late", "data");
        host.unpublish(&node.target("p", 0)).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        publish().unwrap();
        assert_eq!(read(&node.target("p", 0), "late"), "data");
        host.unpublish(&node.target("p", 0)).unwrap();

        // The new directory in its place does not prevent the erase.
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        write(&path, "foreign", "alive");
        host.fence(&uid(1)).unwrap();
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        assert_eq!((read(&path, "foreign"), read(&aside, "old")), ("alive".to_owned(), "data".to_owned()));
    });
}

/// V8, M4, M5.
#[test]
fn v8_adoption_goes_on_after_a_crash_at_any_step() {
    on_a_node(|node| {
        let path = data(node, "set");
        let spec = adopting(1, &path);
        let note = node.volume(&uid(1)).join("adopted.json");
        let unfinished = node.volume(&uid(1)).join("adopted.json.new");
        host(node).create("d", &spec).unwrap();
        let restarted = || {
            let host =
                Host::open(HostConfig { lock_timeout: std::time::Duration::from_secs(10), ..config(node) });
            let host = host.unwrap();
            host.recover();
            host
        };
        // The agent is killed before, during and after the write of the note.
        for there in [None, Some(""), Some("note")] {
            node.edit(&uid(1), |record| record["state"] = "Creating".into());
            match there {
                None => std::fs::remove_file(&note).unwrap(),
                Some("") => std::fs::rename(&note, &unfinished).unwrap(),
                Some(_) => {}
            }
            let host = restarted();
            assert_error!(host.publish(&node.request(&uid(1), "p", 0, false)), Error::NotReady(_));
            host.create("d", &spec).unwrap();
            assert!(note.exists() && !unfinished.exists());
        }
        // An unfinished adoption that is no longer allowed leaves nothing.
        node.edit(&uid(1), |record| record["state"] = "Creating".into());
        let aside = root(node).join("aside");
        std::fs::rename(&path, &aside).unwrap();
        let host = restarted();
        assert_error!(host.create("d", &spec), Error::NotFound(_));
        std::fs::rename(&aside, &path).unwrap();
        host.create("d", &spec).unwrap();
        drop(host);

        // The directory stays mounted over a restart of the agent, which is then killed during the erase.
        let host = restarted();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        drop(host);
        let host = restarted();
        assert_eq!(read(&node.target("p", 0), "old"), "data");
        host.unpublish(&node.target("p", 0)).unwrap();
        host.fence(&uid(1)).unwrap();
        drop(host);
        node.edit(&uid(1), |record| record["state"] = "Erasing".into());
        std::fs::remove_file(&note).unwrap();
        let host = restarted();
        assert_eq!(host.volumes()[0].record.as_ref().unwrap().state, State::Erasing);
        assert_eq!(host.erase(&uid(1), ErasePolicy::Discard).unwrap().bytes, 0);
        assert_eq!(read(&path, "old"), "data");
        assert!(host.volumes().is_empty());
    });
}

/// V8, V10. Otherwise the directory's bytes would count as foreign files, and the disk would lack space.
#[test]
fn v8_an_uncountable_directory_counts_as_its_size() {
    on_a_node(|node| {
        let path = data(node, "set");
        let host = host(node);
        let spec = adopting(1, &path);
        host.create("d", &spec).unwrap();
        let mut deep = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..20 {
            let name = "x".repeat(250);
            rustix::fs::mkdirat(&deep, &name, Mode::RWXU).unwrap();
            deep =
                rustix::fs::openat(&deep, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(host.volumes()[0].allocated, spec.size_bytes);
        host.publish(&node.request(&uid(1), "p", 0, true)).unwrap();
        host.unpublish(&node.target("p", 0)).unwrap();
    });
}
