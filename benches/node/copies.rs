//! Sealed volumes and their copies (E1, E2): sealing against reading, a copy against `cp`, and what copies on four nodes cost
//! the agent that sends them and the API server.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use reservoir::host::{FsType, Host, Pace, VolumeSpec};
use reservoir::transfer::{Identity, Peer, Remote, Servings, serve};

use crate::memory::mib;
use crate::support::{Cluster, DataSets, Tally, own_writes};
use crate::{host, publish, row, volume};

const MIB: usize = 1 << 20;
/// Files of a volume, and bytes in each.
const FILES: usize = 8;
const FILE: usize = 64 * MIB;
/// Size of a volume with these files.
const VOLUME: u64 = 1 << 30;

/// Seals volumes and reads the same files, then copies a sealed volume over loopback and with `cp`, in turns.
pub fn seal_and_copy(rounds: usize) {
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let host = Arc::new(host(temp.path()));
    let places = Places { dir: temp.path(), host: &host };
    let digest = places.seal(rounds);
    places.copy(&digest, rounds);
}

/// A node without Kubernetes.
struct Places<'a> {
    dir: &'a Path,
    host: &'a Arc<Host>,
}

impl Places<'_> {
    /// Measures seals against reading. Returns the digest of volume 1, which stays; the others are erased.
    fn seal(&self, rounds: usize) -> String {
        let mut first = None;
        let mut ratios = Vec::new();
        for number in 1..=rounds as u32 {
            let spec = volume(number, FsType::Ext4, VOLUME);
            self.host.create("d", &spec).unwrap();
            self.with_mount(&spec, fill);
            let read = self.with_mount(&spec, |files| timed(|| read_all(files)));
            self.host.refuse_writers(&spec.uid).unwrap();
            let mut content = None;
            let sealed = timed(|| content = self.host.seal(&spec.uid, &AtomicBool::new(false)).ok());
            ratios.push((read, sealed));
            if number == 1 {
                first = content;
            } else {
                self.erase(&spec);
            }
        }
        tell("sealing against reading the files, of the disk's speed", &ratios);
        first.unwrap().digest
    }

    /// Measures copies of volume 1 against `cp` and `sync` into a volume of the same kind.
    fn copy(&self, digest: &str, rounds: usize) {
        let source = volume(1, FsType::Ext4, VOLUME);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let (server, puller) = (Arc::new(Identity::make().unwrap()), Arc::new(Identity::make().unwrap()));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let peer = Peer {
            node: "n1".to_owned(),
            address: listener.local_addr().unwrap().to_string(),
            key: server.public().to_owned(),
            volume: source.uid.to_string(),
            copy: "copy".to_owned(),
        };
        let (of, uid) = (self.host.clone(), source.uid.clone());
        let open = Arc::new(move |_: &_| of.open_sealed(&uid).map_err(|error| error.to_string()));
        let serving = runtime.spawn(async move {
            serve(listener, &server, open, Servings::default()).await.unwrap();
        });
        let mut ratios = Vec::new();
        for round in 0..rounds as u32 {
            let by_cp = volume(1000 + 2 * round, FsType::Ext4, VOLUME);
            self.host.create("d", &by_cp).unwrap();
            let cp = self.with_mount_of(&source, true, |from| {
                self.with_mount(&by_cp, |to| {
                    timed(|| {
                        run("cp", &[&format!("{}/.", from.display()), &to.display().to_string()]);
                        run("sync", &["-f", &to.display().to_string()]);
                    })
                })
            });
            self.erase(&by_cp);
            let copy = volume(1001 + 2 * round, FsType::Ext4, VOLUME);
            self.host.create("d", &copy).unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let mut remote = Remote::new(peer.clone(), puller.clone(), stop.clone());
            let copied = timed(|| {
                self.host.fill_copy(&copy.uid, digest, &mut remote, Pace::full(&stop)).unwrap();
            });
            drop(remote);
            self.erase(&copy);
            ratios.push((cp, copied));
        }
        serving.abort();
        runtime.shutdown_timeout(Duration::from_secs(20));
        tell("a copy over loopback, verified and sealed, against cp and sync", &ratios);
    }

    fn with_mount<T>(&self, spec: &VolumeSpec, work: impl FnOnce(&Path) -> T) -> T {
        self.with_mount_of(spec, false, work)
    }

    fn with_mount_of<T>(&self, spec: &VolumeSpec, read_only: bool, work: impl FnOnce(&Path) -> T) -> T {
        let request = publish(self.dir, spec, &format!("pod-{}", spec.uid));
        let request = reservoir::host::Publish { read_only, ..request };
        self.host.publish(&request).unwrap();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&request.target)));
        self.host.unpublish(&request.target).unwrap();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn erase(&self, spec: &VolumeSpec) {
        self.host.fence(&spec.uid).unwrap();
        self.host.erase(&spec.uid, reservoir::host::ErasePolicy::Discard).unwrap();
        self.host.forget(&spec.uid).unwrap();
    }
}

/// Writes the files, with bytes that no filesystem makes smaller.
fn fill(files: &Path) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..FILES {
        let mut file = File::create(files.join(format!("part-{number}"))).unwrap();
        let mut piece = vec![0; MIB];
        for _ in 0..FILE / MIB {
            for word in piece.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            file.write_all(&piece).unwrap();
        }
        file.sync_all().unwrap();
    }
}

fn read_all(files: &Path) {
    let mut piece = vec![0; MIB];
    for number in 0..FILES {
        let mut file = File::open(files.join(format!("part-{number}"))).unwrap();
        while file.read(&mut piece).unwrap() > 0 {}
    }
}

/// The time of the work, when nothing of the files is in the machine's memory.
fn timed(work: impl FnOnce()) -> Duration {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let started = Instant::now();
    work();
    started.elapsed()
}

fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    if program == "cp" {
        command.arg("-a");
    }
    assert!(command.args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

/// Prints the median of the ratios of a bare run to one of Reservoir, and the rates of the fastest of each.
fn tell(what: &str, rounds: &[(Duration, Duration)]) {
    let mut ratios: Vec<f64> =
        rounds.iter().map(|(bare, ours)| bare.as_secs_f64() / ours.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    row(what, format!("{:.2}", ratios[ratios.len() / 2]), ">= 0.8");
    let rate = |time: Duration| format!("{:.0}", (FILES * FILE / MIB) as f64 / time.as_secs_f64());
    row("  the bare one at best, MiB a second", rate(rounds.iter().map(|round| round.0).min().unwrap()), "");
    row("  Reservoir at best, MiB a second", rate(rounds.iter().map(|round| round.1).min().unwrap()), "");
}

/// Volumes that are copied at once. A volume is sent to two nodes at once, so that these have four readers.
const VOLUMES: usize = 2;
/// Nodes that get copies.
const COPIES: usize = 4;
/// MiB of the file in each.
const WEIGHTS: usize = 192;

/// Copies volumes to four nodes, and measures the agent that sends them and the writes to the API server.
pub async fn to_four_nodes() {
    let cluster = Cluster::start().await;
    let sets = DataSets::seal(&cluster, (VOLUMES, COPIES), WEIGHTS, true).await;
    let (before, pid) = (own_writes(&cluster).len(), sets.agents[0].pid());
    row("memory of the agent before it sends, MiB", mib(pid, "VmRSS"), "");
    // The most until now was in the seal.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    let started = Instant::now();
    sets.copy(&cluster).await;
    let (copies, took) = ((VOLUMES * COPIES) as f64, started.elapsed());
    row("  at most while it sends to four at once", mib(pid, "VmHWM"), "<= 40");
    cluster.quiet_for(Duration::from_secs(3)).await;
    let writes = own_writes(&cluster).split_off(before);
    row("writes to the API server for a copy", format!("{:.1}", writes.len() as f64 / copies), "<= 8");
    for (what, each) in Tally::of(&writes).per_life(VOLUMES * COPIES) {
        row(&format!("  {what}"), format!("{each:.1}"), "");
    }
    let rate = copies * WEIGHTS as f64 / took.as_secs_f64();
    row("all copies together, from the wish to the last seal, MiB a second", format!("{rate:.0}"), "");
}
