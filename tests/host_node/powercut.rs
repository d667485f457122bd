//! The agent on a machine whose power is cut: `make test-qemu` runs the agent in a guest and cuts the power.
//!
//! The program prints the data on stable storage, and after a restart the data that it finds.
//! `tools/cluster/src/powercut.rs` compares the two.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use reservoir::host::{BackingKind, DiskConfig, ErasePolicy, FsType, Host, HostConfig, State, VolumeSpec};
use rustix::fs::statfs;

use crate::support::*;

/// Bytes of one record.
const BLOCK: usize = 512;

/// Number of unsynchronized records for each synchronized one.
const LOOSE: u64 = 3;

/// A file of records that only grows.
struct Log {
    file: File,
    records: u64,
}

impl Log {
    /// Opens the file, or makes it durably. Cuts off a torn record at the end.
    fn open(path: &Path) -> Self {
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(path).unwrap();
        let mut content = vec![];
        file.read_to_end(&mut content).unwrap();
        let whole = content.chunks_exact(BLOCK).zip(0..).take_while(|(block, i)| *block == record(*i));
        let records = whole.count() as u64;
        file.set_len(records * BLOCK as u64).unwrap();
        file.sync_all().unwrap();
        File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
        Self { file, records }
    }

    fn append(&mut self) {
        self.file.write_all(&record(self.records)).unwrap();
        self.records += 1;
    }
}

fn record(i: u64) -> Vec<u8> {
    (0..BLOCK as u64 / 8).flat_map(|word| (i << 8 | word).to_le_bytes()).collect()
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "power: {line}").unwrap();
    out.flush().unwrap();
}

/// A disk with one lasting volume, and others that are made and erased.
struct Served {
    name: String,
    fs_type: FsType,
    target: PathBuf,
    synced: Log,
    loose: Log,
    /// Number of the next volume to be made and erased.
    next: u32,
}

/// Two disks on each filesystem that was mounted for the test.
fn config(node: &Node) -> HostConfig {
    let mut disks = vec![];
    for fs in ["ext4", "xfs"] {
        for (backing, name) in [(BackingKind::Loop, "loop"), (BackingKind::Quota, "quota")] {
            let path = node.dir().join(fs).join(name);
            std::fs::create_dir_all(&path).unwrap();
            disks.push(DiskConfig { backing, ..node.disk_config(&format!("{name}-on-{fs}"), path) });
        }
    }
    HostConfig { disks, targets_root: node.kubelet(), ..node.config() }
}

/// Volumes of a disk have numbers from 1000 times the disk's number on. The first volume is the lasting one.
fn spec(disk: usize, n: u32, fs_type: FsType) -> VolumeSpec {
    let number = disk as u32 * 100_000 + n;
    VolumeSpec { fs_type, ..if fs_type == FsType::Xfs { xfs(number) } else { ext4(number) } }
}

fn marker(target: &Path) -> PathBuf {
    target.join("marked")
}

fn start(node: &Node, host: &Host, disk: usize, config: &DiskConfig) -> Served {
    let name = config.name.clone();
    // A quota directory has its disk's filesystem; a file may have another one.
    let on_xfs = statfs(&config.path).unwrap().f_type == 0x5846_5342;
    let fs_type = if on_xfs { FsType::Xfs } else { FsType::Ext4 };
    let churns = if config.backing == BackingKind::Loop { FsType::Ext4 } else { fs_type };
    let number = |uid: &str| u32::from_str_radix(&uid[24..], 16).unwrap();
    let ours = |uid: &str| (number(uid) / 100_000 == disk as u32).then(|| number(uid) % 100_000);
    let mut next = 1;
    for uid in host.erased() {
        if let Some(n) = ours(uid.as_str()) {
            say(format_args!("gone {name} {n}"));
            next = next.max(n + 1);
        }
    }
    let states: BTreeMap<u32, State> = host
        .volumes()
        .into_iter()
        .filter_map(|found| Some((ours(found.uid.as_str())?, found.record.unwrap().state)))
        .collect();
    for (n, state) in states.into_iter().filter(|(n, _)| *n > 0) {
        next = next.max(n + 1);
        let spec = spec(disk, n, churns);
        let target = node.target("churn", disk as u32);
        let mut marked = false;
        if state == State::Ready && !host.look(&name, &spec.uid).unwrap().unwrap().fenced {
            host.create(&name, &spec).unwrap();
            host.publish(&node.request(&spec.uid, "churn", disk as u32, true)).unwrap();
            marked = std::fs::read(marker(&target)).is_ok_and(|text| text == n.to_string().into_bytes());
            host.unpublish(&target).unwrap();
        }
        say(format_args!("has {name} {n} {state:?} {marked}"));
        if state == State::Creating {
            host.create(&name, &spec).unwrap();
        }
        host.fence(&spec.uid).unwrap();
        host.erase(&spec.uid, ErasePolicy::Discard).unwrap();
    }
    let stays = spec(disk, 0, fs_type);
    host.create(&name, &stays).unwrap();
    host.publish(&node.request(&stays.uid, "stays", disk as u32, false)).unwrap();
    let target = node.target("stays", disk as u32);
    let (synced, loose) = (Log::open(&target.join("synced")), Log::open(&target.join("loose")));
    say(format_args!("found {name} {} {}", synced.records, loose.records));
    Served { name, fs_type: churns, target, synced, loose, next }
}

fn churn(node: &Node, host: &Host, disk: usize, served: &mut Served) {
    let (name, n) = (&served.name, served.next);
    served.next += 1;
    let spec = spec(disk, n, served.fs_type);
    host.create(name, &spec).unwrap();
    say(format_args!("made {name} {n}"));
    let target = node.target("churn", disk as u32);
    host.publish(&node.request(&spec.uid, "churn", disk as u32, false)).unwrap();
    let mut file = File::create(marker(&target)).unwrap();
    file.write_all(n.to_string().as_bytes()).unwrap();
    file.sync_all().unwrap();
    File::open(&target).unwrap().sync_all().unwrap();
    say(format_args!("marked {name} {n}"));
    drop(file);
    host.unpublish(&target).unwrap();
    say(format_args!("erasing {name} {n}"));
    host.fence(&spec.uid).unwrap();
    host.erase(&spec.uid, ErasePolicy::Discard).unwrap();
    say(format_args!("erased {name} {n}"));
}

fn live(node: &Node) {
    std::fs::create_dir_all(node.kubelet().join("pods")).unwrap();
    let config = config(node);
    let host = Host::open(config.clone()).unwrap();
    for disk in host.disks() {
        assert_eq!(disk.error, None, "{}", disk.name);
    }
    for (uid, recovered) in host.recover() {
        recovered.unwrap_or_else(|error| panic!("{uid}: {error}"));
    }
    for pod in ["stays", "churn"] {
        for disk in 0..config.disks.len() as u32 {
            host.unpublish(&node.target(pod, disk)).unwrap();
        }
    }
    let mut served: Vec<Served> =
        config.disks.iter().enumerate().map(|(i, disk)| start(node, &host, i, disk)).collect();
    say(format_args!("ready"));
    for round in 0.. {
        for served in &mut served {
            for _ in 0..LOOSE {
                served.loose.append();
            }
            say(format_args!("loose {} {}", served.name, served.loose.records));
            served.synced.append();
            rustix::fs::fdatasync(served.synced.file.as_fd()).unwrap();
            say(format_args!("synced {} {}", served.name, served.synced.records));
            assert!(served.target.exists());
        }
        if round % 4 == 3 {
            let disk = round / 4 % served.len();
            churn(node, &host, disk, &mut served[disk]);
        }
    }
}

/// L3, S13, V9, X4.
#[test]
#[ignore = "it runs on a machine whose power is cut: make test-qemu"]
fn victim() {
    if let Some(node) = Node::of_victim() {
        live(&node);
    }
}
