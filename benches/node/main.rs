//! What the node's half costs: mounts, memory, making and erasing, I/O. `make bench-node`, docs/performance.md.
//!
//! The agent is the program, as a process of its own, asked over its CSI socket as the kubelet would; its API server is
//! real. The controller is played here: this writes what that would write. What has no Kubernetes in it is measured on
//! the same code, `reservoir::host`, in this process.

#[path = "../../tests/api_tier/support.rs"]
#[allow(dead_code)]
mod support;

mod agent;
mod io;
mod life;
mod memory;
mod mounts;

use std::path::Path;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use reservoir::host::{
    BackingKind, DiskConfig, FsType, Host, HostConfig, Pod, Publish, VolumeSpec, VolumeUid,
};
use tracing_subscriber::filter::LevelFilter;

/// Measures the node's half.
#[derive(Parser)]
struct Options {
    /// What is measured; without it, everything.
    parts: Vec<Part>,
    /// How many mounts are timed for each row.
    #[arg(long, default_value_t = 400)]
    mounts: usize,
    /// With how many volumes the agent's memory is looked at, each time more.
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    volumes: Vec<usize>,
    /// How often each pattern of I/O is run on each file system, by turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that such a run takes.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// What cargo says to every benchmark.
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
    /// I/O in a volume against the file system beside it.
    Io,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let wanted = |part| options.parts.is_empty() || options.parts.contains(&part);
    println!("{:<68} {:>10} {:>10}", "", "measured", "wanted");
    // A server that is just starting is no news.
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
    });
}

fn row(what: &str, measured: String, wanted: &str) {
    println!("{what:<68} {measured:>10} {wanted:>10}");
}

fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    format!("{ms:.*} ms", usize::from(ms < 100.0))
}

/// Serves a disk in a directory, on a file system with direct I/O; with it, the directory in which targets may be.
fn host(dir: &Path) -> Host {
    let (path, targets_root) = (dir.join("disk"), dir.join("kubelet"));
    std::fs::create_dir_all(&path).unwrap();
    std::fs::create_dir_all(&targets_root).unwrap();
    let disk = DiskConfig {
        name: "d".to_owned(),
        path,
        backing: BackingKind::Loop,
        state: None,
        capacity: None,
        system_reserved: 0,
        adopt_roots: vec![],
        allow_unenforced: false,
    };
    let host = Host::open(HostConfig { disks: vec![disk], targets_root, lock_timeout: Duration::ZERO });
    host.unwrap()
}

/// A pod that is to have the volume for writing, at a target in [`host`]'s directory that has the pod's name.
fn publish(dir: &Path, volume: &VolumeSpec, pod: &str) -> Publish {
    Publish {
        uid: volume.uid.clone(),
        target: dir.join("kubelet").join(pod),
        read_only: false,
        pod: Pod { uid: pod.to_owned(), namespace: "team".to_owned(), name: pod.to_owned() },
        claim_uid: "c".to_owned(),
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
        adopt: None,
        labels: Default::default(),
        gid: None,
        mode: None,
        reservations: vec![],
        recover: None,
        erase_policy: None,
        mount_options: Vec::new(),
    }
}
