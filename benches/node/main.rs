//! The costs of the agent: mounts, memory, making and erasing, I/O, copies. `make bench-node`, docs/performance.md.
//!
//! The agent is a process of its own, called over its CSI socket like by the kubelet; its API server is real. The
//! benchmark writes the objects in the controller's place. Work without Kubernetes is measured on the same code,
//! `reservoir::host`, in this process.

#[path = "../../tests/api_tier/support/mod.rs"]
#[allow(dead_code)]
mod support;

mod agent;
mod copies;
mod io;
mod life;
mod memory;
mod mounts;

use std::path::Path;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use reservoir::host::{DiskConfig, FsType, Host, HostConfig, Pod, Publish, VolumeSpec, VolumeUid};
use tracing_subscriber::filter::LevelFilter;

/// Measures the agent.
#[derive(Parser)]
struct Options {
    /// The parts to measure; all by default.
    parts: Vec<Part>,
    /// Mounts that are timed for each row.
    #[arg(long, default_value_t = 400)]
    mounts: usize,
    /// Numbers of volumes at which the agent's memory is measured, ascending.
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    volumes: Vec<usize>,
    /// Runs of each pattern of I/O on each filesystem, of each seal and of each copy, in turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of such a run.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Cargo's own flag for every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Publish and unpublish.
    Mounts,
    /// The agent's memory.
    Memory,
    /// Create and erase, by size.
    Life,
    /// I/O in a volume against the filesystem beside it.
    Io,
    /// Sealing against reading, and copies against `cp`.
    Copies,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let wanted = |part| options.parts.is_empty() || options.parts.contains(&part);
    println!("{:<68} {:>10} {:>10}", "", "measured", "wanted");
    // Warnings about a server that is just starting are left out.
    tracing_subscriber::fmt().with_max_level(LevelFilter::OFF).init();
    if wanted(Part::Mounts) {
        tokio::task::block_in_place(|| mounts::on_the_node(options.mounts));
        mounts::measure(options.mounts).await;
    }
    if wanted(Part::Memory) {
        memory::measure(&options.volumes, options.mounts).await;
    }
    tokio::task::block_in_place(|| {
        if wanted(Part::Life) {
            life::measure();
        }
        if wanted(Part::Io) {
            io::measure(options.rounds, options.seconds);
        }
        if wanted(Part::Copies) {
            copies::seal_and_copy(options.rounds);
        }
    });
    if wanted(Part::Copies) {
        copies::to_four_nodes().await;
    }
}

fn row(what: &str, measured: String, wanted: &str) {
    println!("{what:<68} {measured:>10} {wanted:>10}");
}

fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    format!("{ms:.*} ms", usize::from(ms < 100.0))
}

/// Serves a disk in a directory, on a filesystem with direct I/O, beside a directory for targets.
fn host(dir: &Path) -> Host {
    let (path, targets_root) = (dir.join("disk"), dir.join("kubelet"));
    std::fs::create_dir_all(&path).unwrap();
    std::fs::create_dir_all(&targets_root).unwrap();
    let disk = DiskConfig { name: "d".to_owned(), path, ..Default::default() };
    let (lock_timeout, patience) = (Duration::ZERO, Duration::from_secs(60));
    let host = Host::open(HostConfig {
        disks: vec![disk],
        targets_root,
        lock_timeout,
        patience,
        sysfs: "/sys".into(),
    });
    host.unwrap()
}

/// A request to publish the volume for writing, at a target in [`host`]'s directory with the pod's name.
fn publish(dir: &Path, volume: &VolumeSpec, pod: &str) -> Publish {
    Publish {
        digest: None,
        uid: volume.uid.clone(),
        target: dir.join("kubelet").join(pod),
        read_only: false,
        pod: Pod { uid: pod.to_owned(), namespace: "team".to_owned(), name: pod.to_owned() },
        claim_uid: "c".to_owned(),
        by_seal: false,
        with_others: true,
        unlocked: false,
    }
}

/// A shared volume of that size.
fn volume(i: u32, fs_type: FsType, size_bytes: u64) -> VolumeSpec {
    let uid: VolumeUid = format!("00000000-0000-4000-8000-{i:012x}").parse().unwrap();
    VolumeSpec {
        name: uid.to_string(),
        uid,
        role: "eng".to_owned(),
        reservation: "eng".to_owned(),
        size_bytes,
        fs_type,
        raw: false,
        shared: true,
        sub_roles_denied: false,
        adopt: None,
        labels: Default::default(),
        gid: None,
        mode: None,
        reservations: vec![],
        recover: None,
        keep_for: None,
        made_for: None,
        erase_policy: None,
        mount_options: Vec::new(),
    }
}
