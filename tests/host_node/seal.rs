//! Sealed volumes: the manifest, its digest, and who may still write (E1).

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use reservoir::host::{
    Content, Differences, ErasePolicy, Error, FsType, Host, Pace, Publish, Result, VolumeSpec, VolumeUid,
};
use rustix::fs::{CWD, FileType, Mode};

use crate::assert_error;
use crate::btrfs::Btrfs;
use crate::support::*;

fn seal(host: &Host, uid: &VolumeUid) -> Result<Content> {
    host.seal(uid, &AtomicBool::new(false))
}

/// The differences, by a reading at most at that many bytes in a second.
fn verify(host: &Host, uid: &VolumeUid, bytes_per_second: Option<u64>) -> Result<Differences> {
    let stop = AtomicBool::new(false);
    host.verify(uid, Pace { bytes_per_second, from_disk: true, ..Pace::full(&stop) })
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A tree with what a data set may have, made in one of two orders.
pub fn fill(root: &Path, backwards: bool) {
    let weights: Vec<u8> = (0..5 * MIB).map(|i| ((i * i) >> 7) as u8).collect();
    let make = |i: u32| match i {
        0 => {
            std::fs::create_dir(root.join("model")).unwrap();
            set_mode(&root.join("model"), 0o2775);
        }
        1 => std::fs::write(root.join("weights"), &weights).unwrap(),
        2 => {
            let sparse = File::create(root.join("sparse")).unwrap();
            sparse.set_len(3 * MIB).unwrap();
            sparse.write_all_at(b"end", 2 * MIB).unwrap();
        }
        3 => symlink("../../../../etc/passwd", root.join("out")).unwrap(),
        4 => write(root, "plain", "text"),
        _ => std::fs::write(root.join(OsStr::from_bytes(b"name\xff\n")), "odd").unwrap(),
    };
    let order: Vec<u32> = if backwards { (0..6).rev().collect() } else { (0..6).collect() };
    order.into_iter().for_each(make);
    std::fs::hard_link(root.join("weights"), root.join("model/again")).unwrap();
    for name in ["weights", "sparse", "plain", "name"] {
        let name = if name == "name" { OsStr::from_bytes(b"name\xff\n") } else { OsStr::new(name) };
        set_mode(&root.join(name), 0o644);
    }
}

/// A volume with the tree, whose writer is gone.
pub fn filled(node: &Node, host: &Host, disk: &str, spec: &VolumeSpec, backwards: bool) {
    host.create(disk, &VolumeSpec { mode: Some(0o777), ..spec.clone() }).unwrap();
    host.publish(&node.request(&spec.uid, "writer", 0, false)).unwrap();
    fill(&node.target("writer", 0), backwards);
    host.unpublish(&node.target("writer", 0)).unwrap();
}

fn cannot_write(directory: &Path) {
    let written = std::fs::write(directory.join("never"), "").unwrap_err();
    assert_eq!(written.kind(), ErrorKind::ReadOnlyFilesystem);
    let opened = File::options().write(true).open(directory.join("plain")).unwrap_err();
    assert_eq!(opened.kind(), ErrorKind::ReadOnlyFilesystem);
}

/// The digest of the tree does not depend on the filesystem, nor on the order of its making.
#[test]
fn e1_the_digest_is_the_same_on_each_filesystem() {
    on_a_node(|node| {
        let host = node.host();
        let mut contents = Vec::new();
        for (spec, backwards) in [(ext4(1), false), (ext4(2), true), (xfs(71), true)] {
            filled(node, &host, "d", &spec, backwards);
            assert_eq!(host.refuse_writers(&spec.uid), Ok(vec![]));
            contents.push(seal(&host, &spec.uid).unwrap());
            let manifest = std::fs::read(node.volume(&spec.uid).join("manifest")).unwrap();
            let text = String::from_utf8(manifest.clone()).unwrap();
            assert!(
                text.contains("\tname\\xff\\x0a\n") && text.contains("\tweights\tmodel/again\n"),
                "{text}"
            );
            assert!(text.contains("\tout\t../../../../etc/passwd\n"), "{text}");
        }
        drop(host);
        let btrfs = Btrfs::new(node);
        let host = btrfs.host();
        let spec = VolumeSpec { fs_type: FsType::Btrfs, ..ext4(3) };
        filled(node, &host, "b", &spec, true);
        assert_eq!(host.refuse_writers(&spec.uid), Ok(vec![]));
        contents.push(seal(&host, &spec.uid).unwrap());
        // Of the filesystem itself, whatever the mount allows.
        let data = btrfs.data(3);
        cannot_write(&data);
        assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "{contents:?}");
        assert_eq!((contents[0].files, contents[0].bytes), (4, 8 * MIB + 4 + 3));
        assert!(contents[0].digest.starts_with("blake3:") && contents[0].digest.len() == 71);
        host.fence(&spec.uid).unwrap();
        host.erase(&spec.uid, ErasePolicy::Discard).unwrap();
    });
}

/// X4: the manifest goes with the volume.
#[test]
fn e1_a_sealed_volume_has_readers_only() {
    on_a_node(|node| {
        let host = node.host();
        let uid = uid(1);
        host.create("d", &ext4(1)).unwrap();
        host.publish(&node.request(&uid, "writer", 0, false)).unwrap();
        fill(&node.target("writer", 0), false);
        assert_error!(seal(&host, &uid), Error::Stopped);
        let writers = host.refuse_writers(&uid).unwrap();
        assert_eq!(writers.iter().map(|pod| &*pod.name).collect::<Vec<_>>(), ["writer"]);
        assert_error!(host.publish(&node.request(&uid, "late", 0, false)), Error::Sealed(_));
        // The kubelet asks again for what it has: the pod goes on, whatever the mode that it is asked for.
        host.publish(&node.request(&uid, "writer", 0, true)).unwrap();
        write(&node.target("writer", 0), "last", "word");
        host.publish(&node.request(&uid, "early", 0, true)).unwrap();
        assert_error!(seal(&host, &uid), Error::InUse { .. });
        host.unpublish(&node.target("writer", 0)).unwrap();
        let content = seal(&host, &uid).unwrap();
        // Readers of before and after have one filesystem, which nobody makes writable.
        host.publish(&node.request(&uid, "reader", 0, true)).unwrap();
        for pod in ["early", "reader"] {
            assert_eq!(read(&node.target(pod, 0), "last"), "word");
            cannot_write(&node.target(pod, 0));
        }
        assert_eq!(seal(&host, &uid), Ok(content.clone()), "it is not read again");
        assert_eq!(host.refuses_writes(&uid), Ok(false), "the device of before is writable");
        host.publish(&Publish { unlocked: true, ..node.request(&uid, "runtime", 0, true) }).unwrap();
        // M3: as a container with CAP_SYS_ADMIN.
        let made_writable = |pod: &str, options: &str| {
            Command::new("mount").args(["-o", options]).arg(node.target(pod, 0)).status().unwrap().success()
        };
        for pod in ["early", "reader", "runtime"] {
            assert!(!made_writable(pod, "remount,rw") && !made_writable(pod, "remount,bind,rw"), "{pod}");
            cannot_write(&node.target(pod, 0));
        }
        for pod in ["early", "reader", "runtime"] {
            host.unpublish(&node.target(pod, 0)).unwrap();
        }
        eventually("the loop device stays", || loops(node.dir()).is_empty());
        // A mount that a runtime makes writable is of a read-only device.
        assert_eq!(host.refuses_writes(&uid), Ok(true));
        host.publish(&Publish { unlocked: true, ..node.request(&uid, "privileged", 0, true) }).unwrap();
        assert!(made_writable("privileged", "remount,bind,rw"), "the runtime does that");
        let target = node.target("privileged", 0);
        let device = loops(node.dir()).pop().unwrap();
        assert_eq!(std::fs::read_to_string(format!("/sys/block/{device}/ro")).unwrap().trim(), "1");
        assert!(!Command::new("mount").args(["-o", "remount,rw"]).arg(&target).status().unwrap().success());
        cannot_write(&target);
        host.usage(&uid).unwrap();
        assert_error!(host.publish(&node.request(&uid, "late", 0, false)), Error::Sealed(_));
        host.admit_writers(&uid).unwrap();
        assert_error!(host.publish(&node.request(&uid, "late", 0, false)), Error::Sealed(_));
        host.unpublish(&target).unwrap();

        // X6: an heir of the data has a sealed volume, too.
        drop(host);
        let host = node.next_host();
        let heir = VolumeSpec { recover: Some(uid.clone()), ..ext4(2) };
        host.create("d", &heir).unwrap();
        assert_eq!(seal(&host, &heir.uid), Ok(content));
        assert_error!(host.publish(&node.request(&heir.uid, "late", 0, false)), Error::Sealed(_));
        host.fence(&heir.uid).unwrap();
        host.erase(&heir.uid, ErasePolicy::Discard).unwrap();
        assert!(!node.volume(&heir.uid).exists());
        node.assert_base_line();
    });
}

/// An agent that ended between the kernel's change and the record's leaves nothing read-only behind.
#[test]
fn e1_a_seal_that_is_taken_back_leaves_a_writable_filesystem() {
    on_a_node(|node| {
        let host = node.host();
        filled(node, &host, "d", &ext4(1), false);
        let uid = uid(1);
        host.refuse_writers(&uid).unwrap();
        let by_seal = Publish { by_seal: true, ..node.request(&uid, "meanwhile", 0, true) };
        host.publish(&by_seal).unwrap();
        host.publish(&node.request(&uid, "reader", 0, true)).unwrap();
        // The files are refused, so that the seal ends here.
        let stop = AtomicBool::new(true);
        assert_error!(host.seal(&uid, &stop), Error::Stopped);
        drop(host);
        for name in ["record.json", "record.json.new"] {
            let path = node.volume(&uid).join(name);
            let text = std::fs::read_to_string(&path).unwrap();
            let crashed = text.replace("\"filesystemReadOnly\": true", "\"filesystemReadOnly\": false");
            assert!(name != "record.json" || crashed != text, "{text}");
            std::fs::write(&path, crashed).unwrap();
        }
        let host = node.next_host();
        for _ in 0..2 {
            let stays: Vec<String> =
                host.admit_writers(&uid).unwrap().into_iter().map(|pod| pod.name).collect();
            assert_eq!(stays, ["meanwhile"], "a reader by its own claim is not told");
        }
        host.publish(&node.request(&uid, "writer", 0, false)).unwrap();
        write(&node.target("writer", 0), "after", "word");
        // The kernel keeps the mount of that pod, and the kubelet may ask for it again.
        host.publish(&node.request(&uid, "meanwhile", 0, false)).unwrap();
        cannot_write(&node.target("meanwhile", 0));
        for pod in ["meanwhile", "reader", "writer"] {
            host.unpublish(&node.target(pod, 0)).unwrap();
        }
        assert_eq!(host.admit_writers(&uid), Ok(vec![]));
    });
}

/// X3. No pod is in the record, and a process writes all the same.
#[test]
fn e1_a_writer_that_no_record_names_forbids_the_seal() {
    on_a_node(|node| {
        let host = node.host();
        filled(node, &host, "d", &ext4(1), false);
        let uid = uid(1);
        host.publish(&node.request(&uid, "p", 0, false)).unwrap();
        let open = File::options().append(true).open(node.target("p", 0).join("plain")).unwrap();
        let mut child = Command::new("sleep").arg("60").stdout(open).spawn().unwrap();
        node.unmount_lazily(&node.target("p", 0));
        assert_eq!(host.refuse_writers(&uid), Ok(vec![]));
        let busy = seal(&host, &uid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_error!(busy, Error::Busy { .. });
        seal(&host, &uid).unwrap();
    });
}

/// Makes a file at a path.
type Make<'a> = &'a dyn Fn(&Path);

/// A refusal is no dead end, also beside a reader.
#[test]
fn e1_what_forbids_the_seal_is_named_and_can_be_removed() {
    on_a_node(|node| {
        let host = node.host();
        let special = |kind| move |path: &Path| rustix::fs::mknodat(CWD, path, kind, Mode::RUSR, 0).unwrap();
        let set_uid = |path: &Path| {
            std::fs::write(path, "").unwrap();
            set_mode(path, 0o4755);
        };
        let cases: [(Make<'_>, &str); 4] = [
            (&special(FileType::BlockDevice), "is a device node"),
            (&special(FileType::Socket), "is a socket"),
            (&special(FileType::Fifo), "is a FIFO"),
            (&set_uid, "set-user-ID"),
        ];
        host.create("d", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "reader", 0, true)).unwrap();
        for (make, why) in cases {
            let writer = node.request(&uid(1), "writer", 0, false);
            host.publish(&writer).unwrap();
            make(&writer.target.join("model"));
            host.unpublish(&writer.target).unwrap();
            host.refuse_writers(&uid(1)).unwrap();
            let refused = seal(&host, &uid(1)).unwrap_err();
            assert!(
                refused.to_string().starts_with("model ") && refused.to_string().contains(why),
                "{refused}"
            );
            assert!(!node.volume(&uid(1)).join("manifest.new").exists());
            host.admit_writers(&uid(1)).unwrap();
            host.publish(&writer).unwrap();
            std::fs::remove_file(writer.target.join("model")).unwrap();
            host.unpublish(&writer.target).unwrap();
        }
        host.refuse_writers(&uid(1)).unwrap();
        assert_eq!(seal(&host, &uid(1)).unwrap().files, 0);
        host.unpublish(&node.target("reader", 0)).unwrap();
    });
}

/// The work of the agent that is going to be killed.
#[test]
#[ignore = "it is the process that the next test kills"]
fn victim() {
    let Some(node) = Node::of_victim() else { return };
    let host = node.next_host();
    let volumes = host.volumes();
    loop {
        for volume in &volumes {
            host.refuse_writers(&volume.uid).unwrap();
            seal(&host, &volume.uid).unwrap();
        }
    }
}

/// M5. The record has a digest only if the manifest is there, and an unfinished seal begins anew.
#[test]
fn e1_an_agent_killed_in_the_middle_begins_anew() {
    on_a_node(|node| {
        let host = node.host();
        for i in 0..8 {
            filled(node, &host, "d", &ext4(i), i % 2 == 0);
        }
        drop(host);
        for i in 0..10 {
            node.kill_after("seal::victim", Duration::from_millis(20 + 13 * i));
            let host = node.next_host();
            for volume in host.volumes() {
                let sealed = volume.record.unwrap().seal.is_some_and(|seal| seal.content.is_some());
                let manifest = node.volume(&volume.uid).join("manifest");
                assert!(!sealed || manifest.metadata().unwrap().len() > 0, "{}", volume.uid);
            }
        }
        let host = node.next_host();
        let content = |i| {
            host.refuse_writers(&uid(i)).unwrap();
            seal(&host, &uid(i)).unwrap()
        };
        let first = content(0);
        assert!((1..8).all(|i| content(i) == first));
        node.assert_base_line();
    });
}

/// Sealing is to have 0.8 of the speed of reading the bytes at least. Prints both, from the disk.
#[test]
#[ignore = "a measurement, for a machine at rest"]
fn sealing_against_reading() {
    on_a_node(|node| {
        let host = node.host();
        let spec = VolumeSpec { size_bytes: 1024 * MIB, ..ext4(1) };
        host.create("d", &spec).unwrap();
        host.publish(&node.request(&spec.uid, "writer", 0, false)).unwrap();
        let target = node.target("writer", 0);
        let block: Vec<u8> = (0..MIB).map(|i| ((i * i) >> 5) as u8).collect();
        for i in 0..3 {
            std::fs::write(target.join(format!("large-{i}")), block.repeat(256)).unwrap();
        }
        host.unpublish(&target).unwrap();
        host.refuse_writers(&spec.uid).unwrap();
        let cold = |of: &str, work: &mut dyn FnMut()| {
            std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
            let started = Instant::now();
            work();
            println!("{of}: {:.0} MiB/s", 768.0 / started.elapsed().as_secs_f64());
        };
        host.publish(&node.request(&spec.uid, "reader", 0, true)).unwrap();
        let reader = node.target("reader", 0);
        cold("reading", &mut || {
            let mut buffer = vec![0; MIB as usize];
            for i in 0..3 {
                let mut file = File::open(reader.join(format!("large-{i}"))).unwrap();
                while file.read(&mut buffer).unwrap() > 0 {}
            }
        });
        host.unpublish(&reader).unwrap();
        cold("sealing", &mut || drop(seal(&host, &spec.uid).unwrap()));
    });
}

/// E4: a byte that a disk changes by itself is found, while pods read, and without one all is well.
#[test]
fn e4_a_changed_byte_is_found() {
    on_a_node(|node| {
        let host = node.host();
        let spec = ext4(1);
        filled(node, &host, "d", &spec, false);
        assert_error!(verify(&host, &spec.uid, None), Error::InvalidArgument(_));
        host.refuse_writers(&spec.uid).unwrap();
        let content = seal(&host, &spec.uid).unwrap();
        host.publish(&node.request(&spec.uid, "reader", 0, true)).unwrap();
        assert_eq!(read(&node.target("reader", 0), "plain"), "text");
        assert_eq!(verify(&host, &spec.uid, None), Ok(Differences::default()));
        let began = Instant::now();
        assert_eq!(verify(&host, &spec.uid, Some(4 * MIB)), Ok(Differences::default()));
        assert!(began.elapsed() > Duration::from_secs(1), "at most 4 MiB in a second");

        // A manifest that is damaged alone is written anew.
        let manifest = node.volume(&spec.uid).join("manifest");
        let whole = std::fs::read(&manifest).unwrap();
        std::fs::write(&manifest, "reservoir manifest 1\n").unwrap();
        assert_eq!(verify(&host, &spec.uid, None), Ok(Differences::default()));
        assert_eq!(std::fs::read(&manifest).unwrap(), whole);

        // Bytes of a file, behind the back of its filesystem.
        let image = File::options().read(true).write(true).open(node.data(&spec.uid)).unwrap();
        let (mut chunk, mut at) = (vec![0; MIB as usize], 0);
        let begin: Vec<u8> = (4096..4096 + 64u64).map(|i| ((i * i) >> 7) as u8).collect();
        let found = loop {
            image.read_exact_at(&mut chunk, at).unwrap();
            match chunk.windows(begin.len()).position(|window| window == begin) {
                Some(within) => break at + within as u64,
                None => at += MIB / 2,
            }
        };
        image.write_all_at(b"?", found).unwrap();
        image.sync_all().unwrap();
        let differences = verify(&host, &spec.uid, None).unwrap();
        assert_eq!((differences.count, &*differences.first[0]), (1, "model/again has other bytes"));
        assert_eq!(
            verify(&host, &spec.uid, None).unwrap(),
            differences,
            "it is not taken for what was sealed"
        );
        assert_eq!(seal(&host, &spec.uid), Ok(content), "the digest stays");
        std::fs::write(&manifest, "damaged, too").unwrap();
        let both = verify(&host, &spec.uid, None).unwrap();
        assert!(both.first[0].starts_with("its manifest is damaged as well"), "{both:?}");

        image.write_all_at(&begin[..1], found).unwrap();
        image.sync_all().unwrap();
        assert_eq!(verify(&host, &spec.uid, None), Ok(Differences::default()), "the disk reads it again");
        assert_eq!(std::fs::read(&manifest).unwrap(), whole);
        assert!(!node.volume(&spec.uid).join("manifest.new").exists());
        host.unpublish(&node.target("reader", 0)).unwrap();
        host.fence(&spec.uid).unwrap();
        host.erase(&spec.uid, ErasePolicy::Discard).unwrap();
    });
}
