//! Tests that take minutes: `make test-agent` runs them. Each test prints its numbers.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reservoir::host::{ErasePolicy, Error, FsType, Host, VolumeSpec};
use rustix::fs::{CWD, RenameFlags};
use serde_json::Value;

use crate::support::*;
use crate::undivided::Undivided;

/// Numbers that must be the same after any number of publishes.
#[derive(Debug, PartialEq)]
struct BaseLine {
    mounts: usize,
    loops: BTreeSet<String>,
    descriptors: usize,
    /// Every file of the disk and of the kubelet's directory.
    files: BTreeSet<PathBuf>,
}

impl BaseLine {
    fn of(node: &Node) -> Self {
        let mut files = BTreeSet::new();
        let mut directories = vec![node.dir().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                }
                files.insert(entry.path());
            }
        }
        Self {
            mounts: std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count(),
            loops: loops(node.dir()).into_iter().collect(),
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            files,
        }
    }
}

/// M4, S16, L3. spiffe-csi 331: mounts doubled at every publish.
#[test]
#[ignore = "it takes a while: make test-agent runs it"]
fn m4_two_thousand_publishes_leave_nothing_behind() {
    const CYCLES: usize = 2_000;
    const AT_ONCE: usize = 8;
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        // The pods' directories stay, and so does the space for the next record.
        let pods: Vec<_> = (0..AT_ONCE).map(|pod| format!("p{pod}")).collect();
        for pod in &pods {
            host.publish(&node.request(&uid(1), pod, 0, false)).unwrap();
            host.unpublish(&node.target(pod, 0)).unwrap();
        }
        node.assert_base_line();
        let before = BaseLine::of(node);
        let started = Instant::now();
        let mut took: Vec<Duration> = std::thread::scope(|scope| {
            let cycle = |pod: &str, i: usize| {
                let request = node.request(&uid(1), pod, 0, i.is_multiple_of(3));
                let started = Instant::now();
                host.publish(&request).unwrap();
                let took = started.elapsed();
                let here = node.mounts().iter().filter(|(path, _)| *path == request.target).count();
                assert_eq!(here, 1);
                assert_eq!(std::fs::write(request.target.join(pod), "x").is_err(), request.read_only);
                host.unpublish(&request.target).unwrap();
                assert!(!request.target.exists());
                took
            };
            let threads: Vec<_> = pods
                .iter()
                .map(|pod| scope.spawn(move || (0..CYCLES / AT_ONCE).map(|i| cycle(pod, i)).collect()))
                .collect();
            threads.into_iter().flat_map(|thread| -> Vec<_> { thread.join().unwrap() }).collect()
        });
        node.assert_base_line();
        assert_eq!(BaseLine::of(node), before);
        took.sort();
        println!(
            "{} publishes and unpublishes, {AT_ONCE} at once, in {:.1?}; a publish took {:.1?} (p50), {:.1?} (p99); \
             {} mounts, {} loop devices, {} descriptors and {} files before and after",
            took.len(),
            started.elapsed(),
            took[took.len() / 2],
            took[took.len() * 99 / 100],
            before.mounts,
            before.loops.len(),
            before.descriptors,
            before.files.len(),
        );
    });
}

/// A directory that a hostile pod links to, with all metadata that would show a change.
struct Canary {
    path: PathBuf,
    before: String,
}

impl Canary {
    /// The names are those in a volume, so that a followed link finds a match.
    fn new(path: PathBuf, names: &[&str]) -> Self {
        std::fs::create_dir(&path).unwrap();
        for name in names {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        write(&path, "file", "alive");
        let mut canary = Self { path, before: String::new() };
        canary.before = canary.look();
        canary
    }

    fn look(&self) -> String {
        let describe = |path: &Path| {
            let found = path.symlink_metadata().unwrap();
            let (ino, mode, links) = (found.ino(), found.mode(), found.nlink());
            let changed = (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec());
            format!("{path:?} {ino} {mode:o} {links} {changed:?}\n")
        };
        let mut entries: Vec<_> =
            std::fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.insert(0, self.path.clone());
        entries.iter().map(|path| describe(path)).collect::<String>() + &read(&self.path, "file")
    }

    fn assert_untouched(&self, node: &Node) {
        assert_eq!(node.mounted_beneath(&self.path), [] as [PathBuf; 0]);
        assert_eq!(self.look(), self.before);
    }
}

/// Swaps pairs of names in a tight loop until `stop`.
struct Swapper {
    swaps: AtomicUsize,
    stop: AtomicBool,
}

impl Swapper {
    fn new() -> Self {
        Self { swaps: AtomicUsize::new(0), stop: AtomicBool::new(false) }
    }

    fn run(&self, pairs: &[(PathBuf, PathBuf)]) {
        while !self.stop.load(Ordering::Relaxed) {
            for (one, other) in pairs {
                // A missing or mounted name cannot be swapped now.
                if rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok() {
                    self.swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn count(&self) -> usize {
        self.swaps.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Publishes and unpublishes while a pod swaps `pairs`, until the number of swaps is large enough.
fn publish_under(node: &Node, host: &Host, canary: &Canary, pairs: &[(PathBuf, PathBuf)]) -> [usize; 4] {
    const SWAPS: usize = 60_000;
    let swapper = Swapper::new();
    let (mut published, mut unpublished, mut refused) = (0, 0, 0);
    let request = node.request(&uid(1), "p", 0, false);
    std::thread::scope(|scope| {
        scope.spawn(|| swapper.run(pairs));
        let deadline = Instant::now() + Duration::from_secs(120);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while swapper.count() < SWAPS || published < 100 {
                assert!(Instant::now() < deadline, "{} swaps, {published} publishes", swapper.count());
                match host.publish(&request) {
                    Ok(()) => published += 1,
                    Err(Error::Conflict(_) | Error::Busy { .. } | Error::Io { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
                canary.assert_untouched(node);
                match host.unpublish(&request.target) {
                    Ok(()) => {
                        unpublished += 1;
                        node.assert_no_mounts();
                    }
                    Err(Error::Conflict(_) | Error::Busy { .. } | Error::Io { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
                canary.assert_untouched(node);
            }
        }));
        swapper.stop();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    [swapper.count(), published, unpublished, refused]
}

/// Undoes the swaps, so that each name is as before.
fn put_back((directory, link): &(PathBuf, PathBuf)) {
    if directory.is_symlink() {
        rustix::fs::renameat_with(CWD, directory, CWD, link, RenameFlags::EXCHANGE).unwrap();
    }
}

/// M7, S12, S16. Sub-path races: CVE-2017-1002101, CVE-2021-25741.
#[test]
#[ignore = "it takes a while: make test-agent runs it"]
fn cve_2021_25741_a_swapped_target_directory_is_safe() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let canary = Canary::new(node.dir().join("canary"), &["mount-0", "volumes"]);
        let target = node.target("p", 0);
        let parent = target.parent().unwrap();
        let link = parent.with_file_name("link");
        symlink(&canary.path, &link).unwrap();
        let pair = (parent.to_owned(), link);
        let [swaps, published, unpublished, refused] =
            publish_under(node, &host, &canary, std::slice::from_ref(&pair));
        put_back(&pair);
        host.unpublish(&target).unwrap();
        node.assert_base_line();
        canary.assert_untouched(node);
        println!(
            "{swaps} swaps of a target's directory: {published} publishes, {unpublished} unpublishes, {refused} refusals, \
             the canary untouched"
        );
    });
}

/// M7, S12, S16. Races on the mount point: CVE-2021-30465, CVE-2025-31133.
#[test]
#[ignore = "it takes a while: make test-agent runs it"]
fn cve_2021_30465_a_swapped_target_is_safe() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let canary = Canary::new(node.dir().join("canary"), &["mount-0"]);
        let target = node.target("p", 0);
        let parent = target.parent().unwrap();
        // The target exists only for a moment, so another file always exists for the swap.
        let pairs: Vec<_> = ["x", "y"]
            .iter()
            .map(|name| (target.clone(), parent.join(name)))
            .chain([(parent.join("x"), parent.join("y"))])
            .collect();
        symlink(canary.path.join("mount-0"), parent.join("x")).unwrap();
        std::fs::create_dir(parent.join("y")).unwrap();
        let [swaps, published, unpublished, refused] = publish_under(node, &host, &canary, &pairs);
        while target.is_symlink() {
            std::fs::remove_file(&target).unwrap();
        }
        host.unpublish(&target).unwrap();
        node.assert_base_line();
        canary.assert_untouched(node);
        println!(
            "{swaps} swaps of a target itself: {published} publishes, {unpublished} unpublishes, {refused} refusals, the \
             canary untouched"
        );
    });
}

/// X4, S12. A process swaps files in the volume, although the kernel has no open file or mount of it.
#[test]
#[ignore = "it takes a while: make test-agent runs it"]
fn s12_files_swapped_during_an_erase_are_safe() {
    const SWAPS: usize = 60_000;
    const PAIRS: usize = 200;
    on_a_node(|node| {
        let undivided = Undivided::new(node, FsType::Ext4);
        let host = undivided.host();
        // One canary is on the same filesystem, where a step outside crosses no device, and one on another
        // filesystem.
        let near = Canary::new(undivided.path.join("canary"), &["sub", "1"]);
        let far = Canary::new(node.dir().join("canary"), &["sub", "1"]);
        let (mut swaps, mut erased, mut refused) = (0, 0, 0);
        let deadline = Instant::now() + Duration::from_secs(180);
        for round in 1.. {
            host.create("w", &ext4(round)).unwrap();
            let data = undivided.data(round);
            let mut pairs = Vec::new();
            for i in 0..PAIRS {
                let (directory, link) = (data.join(format!("directory {i}")), data.join(format!("link {i}")));
                std::fs::create_dir_all(directory.join("sub/1")).unwrap();
                write(&directory, "file", "x");
                write(&directory.join("sub"), "file", "x");
                let canary = if i % 2 == 0 { &near } else { &far };
                symlink(&canary.path, directory.join("link")).unwrap();
                symlink(&canary.path, &link).unwrap();
                pairs.push((directory.join("sub"), directory.join("link")));
                pairs.push((directory, link));
            }
            host.fence(&uid(round)).unwrap();
            let swapper = Swapper::new();
            std::thread::scope(|scope| {
                scope.spawn(|| swapper.run(&pairs));
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    eventually("the pod swaps", || swapper.count() > 0);
                    loop {
                        let done = host.erase(&uid(round), ErasePolicy::Discard);
                        near.assert_untouched(node);
                        far.assert_untouched(node);
                        match done {
                            Ok(_) => break,
                            Err(Error::Io { .. } | Error::Busy { .. }) => refused += 1,
                            Err(error) => panic!("{error}"),
                        }
                        assert!(Instant::now() < deadline, "{swaps} swaps, {erased} volumes erased");
                    }
                }));
                swapper.stop();
                outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
            assert!(!data.exists());
            host.forget(&uid(round)).unwrap();
            erased += 1;
            swaps += swapper.count();
            if swaps >= SWAPS {
                break;
            }
        }
        println!(
            "{swaps} swaps under erase: {erased} volumes erased, {refused} times only when asked again, both canaries \
             untouched"
        );
    });
}

/// An agent that mounts a written volume into other pods and measures it, over and over.
#[test]
#[ignore = "it is the process that the next test kills"]
fn agent() {
    let Some(node) = Node::of_victim() else { return };
    let host = node.next_host();
    for (uid, recovered) in host.recover() {
        recovered.unwrap_or_else(|error| panic!("{uid}: {error}"));
    }
    for round in 0u64.. {
        for (pod, read_only) in [("q", true), ("r", false)] {
            host.publish(&node.request(&uid(1), pod, 0, read_only)).unwrap();
            host.usage(&uid(1)).unwrap();
            host.unpublish(&node.target(pod, 0)).unwrap();
        }
        let rounds = node.dir().join(format!("rounds-{}", std::process::id()));
        std::fs::write(rounds, (round + 1).to_string()).unwrap();
    }
}

/// A line per file: name and checksum.
fn checksums(directory: &Path) -> String {
    let output = Command::new("sh").args(["-c", "sha256sum fio*"]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// M5, L3.
#[test]
#[ignore = "it takes a while: make test-agent runs it"]
fn m5_killed_agents_leave_pods_their_io() {
    const SECONDS: u64 = 60;
    on_a_node(|node| {
        let target = node.target("p", 0);
        let host = node.host();
        host.create("d", &VolumeSpec { size_bytes: 128 * MIB, ..ext4(1) }).unwrap();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        drop(host);
        let report = node.dir().join("fio.json");
        let mut fio = Command::new("fio")
            .args(["--name=fio", "--rw=randwrite", "--bs=4k", "--size=48m", "--ioengine=psync", "--fsync=64"])
            .args(["--verify=crc32c", "--verify_backlog=1024", "--verify_fatal=1", "--do_verify=1"])
            .args(["--time_based", &format!("--runtime={SECONDS}"), "--output-format=json"])
            .arg(format!("--directory={}", target.display()))
            .arg(format!("--output={}", report.display()))
            .current_dir(node.dir())
            .stdin(Stdio::null())
            .spawn()
            .expect("fio is installed");
        let mut agents = 0;
        let ended = loop {
            agents += 1;
            node.kill_after("long::agent", Duration::from_secs(2));
            if let Some(ended) = fio.try_wait().unwrap() {
                break ended;
            }
        };
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        let job = &report["jobs"][0];
        assert!(ended.success(), "{report:#}");
        assert_eq!(job["error"], 0, "{report:#}");
        let count = |direction: &str| job[direction]["total_ios"].as_u64().unwrap();
        let (written, verified) = (count("write"), count("read"));
        assert!(written > 1_000 && verified > 1_000, "{report:#}");

        // The written files are there after a new mount without caches.
        let sums = checksums(&target);
        let host = node.next_host();
        host.recover();
        for pod in ["q", "r", "p"] {
            host.unpublish(&node.target(pod, 0)).unwrap();
        }
        node.assert_base_line();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        assert_eq!(checksums(&target), sums);
        host.unpublish(&target).unwrap();
        let entries = std::fs::read_dir(node.dir()).unwrap().map(|entry| entry.unwrap());
        let rounds: u64 = entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("rounds-"))
            .map(|entry| std::fs::read_to_string(entry.path()).unwrap().parse().unwrap_or(0))
            .sum();
        assert!(rounds > agents, "{rounds} rounds of {agents} agents");
        println!(
            "{agents} agents were killed in {SECONDS} s, after {} publishes of the volume: {written} writes of a pod, \
             {verified} verified, 0 errors, 0 lost",
            rounds * 2
        );
    });
}
