//! Every system call of the agent's that changes something, killed at or made to fail, one by one.
//!
//! A victim process takes a volume through its whole life, `strace` kills it right before the n-th call of a kind or
//! makes that call fail with an errno. Then another agent starts, as a restarted pod would, tries the step that was
//! cut short again and goes on to the end. After every step the test looks from outside: no mount is doubled, no loop
//! device is left over, and synchronized data is there until its volume is erased.
//!
//! First with backing `loop`, then with `btrfs` and its own calls. Then with `loop` again, where power is cut when
//! the victim is killed: before or after the calls that take a name from a file.
//!
//! `make test-agent` runs it; `cargo test --test host_faults -- WORD` only the points whose name has the word.

#[allow(dead_code)]
#[path = "host_node/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs::{File, Permissions, set_permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reservoir::host::{
    BackingKind, DiskConfig, ErasePolicy, Error, FsType, Host, HostConfig, Kept, VolumeSpec,
};
use support::*;

/// Calls that change something outside the process, or wait for a process that does; and the errnos to fail them with.
/// A call without an errno is only killed at: no kernel fails it, or its effect is not needed.
const CALLS: [(&str, &[&str]); 23] = [
    ("openat", &["EMFILE", "ENOSPC", "EIO", "EROFS"]),
    ("openat2", &["EMFILE", "EAGAIN", "EIO"]),
    ("write", &["ENOSPC", "EIO", "EDQUOT"]),
    ("pwrite64", &["ENOSPC", "EIO"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("ftruncate", &["EFBIG", "EIO"]),
    ("fallocate", &["ENOSPC", "EIO", "EINTR"]),
    ("mkdirat", &["ENOSPC", "EIO"]),
    ("renameat", &["EIO", "ENOSPC"]),
    ("renameat2", &["EIO", "ENOSPC"]),
    ("linkat", &["EIO", "ENOSPC"]),
    ("unlinkat", &["EIO", "EBUSY"]),
    ("fchmod", &["EIO"]),
    ("fchown", &["EIO"]),
    ("ioctl", &["EIO", "EBUSY", "ENOMEM"]),
    ("fsconfig", &["EINVAL", "EIO"]),
    ("fsmount", &["ENOMEM", "EIO"]),
    ("mount_setattr", &["EINVAL", "ENOMEM"]),
    ("move_mount", &["EBUSY", "ENOMEM"]),
    ("umount2", &["EBUSY"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("wait4", &[]),
];

/// The calls that matter on btrfs, where each takes longer.
const BTRFS_CALLS: [(&str, &[&str]); 5] = [
    ("ioctl", &["EIO"]),
    ("syncfs", &["EIO"]),
    ("renameat2", &["EIO"]),
    ("mount_setattr", &["ENOMEM"]),
    ("move_mount", &["ENOMEM"]),
];
/// Calls before which earlier data has to be on stable storage.
const POWER_CALLS: [(&str, &[&str]); 2] = [("renameat2", &[]), ("unlinkat", &[])];
/// Calls that change nothing.
const LOOKS: [&str; 5] =
    [", FIO", "BTRFS_IOC_TREE_SEARCH", "BTRFS_IOC_INO_LOOKUP", "BTRFS_IOC_FS_INFO", "FS_IOC_GETFLAGS"];

type Step = fn(&Node, &Host) -> Result<(), Error>;

/// The life of a volume, in order; each step can be repeated.
const STEPS: [(&str, Step); 19] = [
    ("recover", |_, host| {
        host.recover();
        Ok(())
    }),
    ("create", |node, host| host.create("d", &wanted(node)).map(drop)),
    ("publish", |node, host| host.publish(&node.request(&uid(1), "p", 0, false)).map(drop)),
    ("write", |node, _| write_and_sync(node).map_err(|error| Error::InvalidArgument(error.to_string()))),
    ("publish read-only", |node, host| host.publish(&node.request(&uid(1), "q", 0, true)).map(drop)),
    ("unpublish", |node, host| host.unpublish(&node.target("p", 0))),
    ("publish again", |node, host| host.publish(&node.request(&uid(1), "r", 0, false)).map(drop)),
    ("unpublish all", |node, host| {
        host.unpublish(&node.target("q", 0))?;
        host.unpublish(&node.target("r", 0))
    }),
    ("grow", |_, host| host.resize(&uid(1), 48 * MIB).map(drop)),
    ("write every block", |node, _| {
        write_every_block(node).map_err(|error| Error::InvalidArgument(error.to_string()))
    }),
    ("shrink", |_, host| host.resize(&uid(1), 40 * MIB).map(drop)),
    ("publish the resized", |node, host| host.publish(&node.request(&uid(1), "p", 0, false)).map(drop)),
    ("unpublish the resized", |node, host| host.unpublish(&node.target("p", 0))),
    ("keep the data of a destroyed volume", |_, host| {
        let (since, until) = (jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::MAX);
        host.fence(&uid(1)).and_then(|_| host.keep(&uid(1), Kept { since, until }))
    }),
    ("recover the data for another object", |node, host| {
        let fs_type = wanted(node).fs_type;
        let heir = VolumeSpec { recover: Some(uid(1)), size_bytes: 40 * MIB, fs_type, ..ext4(2) };
        host.create("d", &heir).map(drop)
    }),
    ("publish the recovered", |node, host| host.publish(&node.request(&uid(2), "p", 0, false)).map(drop)),
    ("unpublish the recovered", |node, host| host.unpublish(&node.target("p", 0))),
    ("fence", |_, host| host.fence(&uid(2)).map(drop)),
    ("erase", |_, host| host.erase(&uid(2), ErasePolicy::Discard).map(drop)),
];

const MOUNTED: [&[&str]; 19] = [
    &[],
    &[],
    &["p"],
    &["p"],
    &["p", "q"],
    &["q"],
    &["q", "r"],
    &[],
    &[],
    &[],
    &[],
    &["p"],
    &[],
    &[],
    &[],
    &["p"],
    &[],
    &[],
    &[],
];
/// From this step on the pod's file is there.
const WRITTEN: usize = 4;
const KEEPS: &str = "what was synced stays";

/// The kind of the node's disk, by its filesystem.
fn is_btrfs(node: &Node) -> bool {
    rustix::fs::statfs(node.disk()).unwrap().f_type as u64 == 0x9123_683e
}

fn wanted(node: &Node) -> VolumeSpec {
    match is_btrfs(node) {
        true => VolumeSpec { fs_type: FsType::Btrfs, ..ext4(1) },
        // A resize overwrites the replaced image (X4).
        false => VolumeSpec { erase_policy: Some(ErasePolicy::Zero), ..ext4(1) },
    }
}

fn host(node: &Node) -> Host {
    let backing = if is_btrfs(node) { BackingKind::Btrfs } else { BackingKind::Loop };
    let disk = DiskConfig { backing, ..node.disk_config("d", node.disk()) };
    let lock_timeout = Duration::from_secs(10);
    Host::open(HostConfig { disks: vec![disk], lock_timeout, ..node.config() }).unwrap()
}

/// Makes the node's disk a btrfs in memory, since btrfs commits again and again.
fn make_btrfs(node: &Node) -> Option<RawDisk> {
    let image = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    image.as_file().set_len(512 * MIB).unwrap();
    assert!(Command::new("mkfs.btrfs").arg(image.path()).output().unwrap().status.success());
    let mount = Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(node.disk()).status();
    assert!(mount.unwrap().success());
    None
}

/// The process that is killed: reports each step before it, and ends at the first that fails.
fn victim(dir: &str) -> ExitCode {
    let node = Node::at(dir.into());
    // By a call that is not among those that fail.
    let tell =
        |step: usize| set_permissions(node.dir().join("told"), Permissions::from_mode(step as u32)).unwrap();
    let host = host(&node);
    for (i, (_, step)) in STEPS.iter().enumerate() {
        tell(i);
        if step(&node, &host).is_err() {
            return ExitCode::from(3);
        }
        tell(i + 1);
    }
    ExitCode::SUCCESS
}

/// Looks from outside, after the first `done` steps.
fn check(node: &Node, done: usize) {
    let mounts = node.mounts();
    let wanted = if done == 0 { &[][..] } else { MOUNTED[done - 1] };
    let targets: Vec<_> = wanted.iter().map(|pod| node.target(pod, 0)).collect();
    let mut there: Vec<_> = mounts.iter().map(|(path, _)| path.clone()).collect();
    there.sort();
    assert_eq!(there, targets, "each target is mounted once, and nothing else");
    let of_volumes = usize::from(!wanted.is_empty() && !is_btrfs(node));
    eventually("loop devices", || loops(node.dir()).len() == of_volumes);
    for (path, options) in &mounts {
        let read_only = options.split(',').any(|option| option == "ro");
        assert_eq!(read_only, path.ends_with(Path::new("q/volumes/mount-0")), "{path:?} {options}");
        assert_eq!(std::fs::write(path.join("probe"), "x").is_err(), read_only);
    }
    let Some((path, _)) = mounts.iter().find(|(path, _)| !path.ends_with(Path::new("q/volumes/mount-0")))
    else {
        return;
    };
    if done >= WRITTEN {
        assert_eq!(std::fs::read_to_string(path.join("keeps")).unwrap(), KEEPS);
    }
}

/// The pod's own write.
fn write_and_sync(node: &Node) -> std::io::Result<()> {
    let target = node.target("p", 0);
    let mut file = File::create(target.join("keeps"))?;
    file.write_all(KEEPS.as_bytes())?;
    file.sync_all()?;
    File::open(target)?.sync_all()
}

/// Writes every block, as pods do in the long run: fsync(2) of a file without new blocks does not make its name
/// durable.
fn write_every_block(node: &Node) -> std::io::Result<()> {
    if is_btrfs(node) {
        return Ok(());
    }
    let bytes = std::fs::read(node.data(&uid(1)))?;
    let mut file = File::options().write(true).open(node.data(&uid(1)))?;
    file.write_all(&bytes)?;
    file.sync_all()
}

/// Runs the victim under strace; returns the step that it was in when it ended.
fn run_victim(node: &Node, strace: &[String]) -> (usize, Option<i32>) {
    let told = File::create(node.dir().join("told")).unwrap();
    told.set_permissions(Permissions::from_mode(0o000)).unwrap();
    let status = Command::new("strace")
        .args(strace)
        .arg(std::env::current_exe().unwrap())
        .arg("--victim")
        .arg(node.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(node.dir().join("stderr")).unwrap())
        .status()
        .expect("strace runs");
    let step = told.metadata().unwrap().permissions().mode() as usize & 0o777;
    (step, status.code())
}

/// One fault, and the recovery from it.
fn survive(node: &Node, disk: Option<RawDisk>, inject: &str) {
    let log = node.dir().join("strace");
    let strace = [format!("-einject={inject}"), "-o".into(), log.display().to_string()];
    let (at, code) = run_victim(node, &strace);
    let mut said = String::new();
    File::open(node.dir().join("stderr")).unwrap().read_to_string(&mut said).unwrap();
    assert!(
        matches!(code, Some(0 | 3) | None) || code == Some(137),
        "the agent did not end well: {code:?}: {said}"
    );
    if let Some(disk) = disk {
        if !node.mounts().is_empty() {
            // Pods would have to end with it.
            return;
        }
        disk.cut_power();
    }
    let host = host(node);
    for (uid, recovered) in host.recover() {
        recovered.unwrap_or_else(|error| panic!("{uid}: {error}"));
    }
    for (i, (name, step)) in STEPS.iter().enumerate().skip(at) {
        // As the kubelet and the agent would, a few times: a new process beside this one has copies of all descriptors
        // between fork and exec, and their files are busy.
        let mut tries = 0;
        while let Err(error) = step(node, &host) {
            tries += 1;
            assert!(tries < 10, "{name}, tried again: {error}");
            std::thread::sleep(Duration::from_millis(200));
        }
        check(node, i + 1);
    }
    assert!(host.volumes().is_empty());
    node.assert_base_line();
}

/// The faults: every call of an undisturbed victim, killed at, and failed with each errno.
fn faults(prepare: Prepare, those: &[(&str, &[&str])]) -> Vec<String> {
    let found = std::sync::Arc::new(Mutex::new(String::new()));
    let to = found.clone();
    let calls: Vec<String> = those.iter().map(|(call, _)| (*call).to_owned()).collect();
    on_a_node(move |node| {
        let _disk = prepare(node);
        let log = node.dir().join("strace");
        let strace = [format!("-etrace={}", calls.join(",")), "-o".into(), log.display().to_string()];
        assert_eq!(run_victim(node, &strace), (STEPS.len(), Some(0)), "undisturbed, it gets to the end");
        *to.lock().unwrap() = std::fs::read_to_string(log).unwrap();
    });
    let log = found.lock().unwrap().clone();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut faults = Vec::new();
    for line in log.lines() {
        let Some((call, arguments)) = line.split_once('(') else { continue };
        let Some((_, errnos)) = those.iter().find(|(name, _)| *name == call) else { continue };
        let n = counts.entry(call).or_default();
        *n += 1;
        // An open for reading changes nothing; nor do the library's own FIOCLEX and FIONBIO.
        let changes = !call.starts_with("open") && !LOOKS.iter().any(|look| arguments.contains(look))
            || ["O_CREAT", "O_WRONLY", "O_RDWR", "O_EXCL"].iter().any(|flag| arguments.contains(flag));
        if changes {
            faults.push(format!("{call}:signal=KILL:when={n}"));
            faults.extend(errnos.iter().map(|errno| format!("{call}:error={errno}:when={n}")));
        }
    }
    faults
}

/// The preparation of a node before its first agent.
type Prepare = fn(&Node) -> Option<RawDisk>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, dir] = &arguments[..]
        && flag == "--victim"
    {
        return victim(dir);
    }
    let word = arguments.iter().find(|argument| !argument.starts_with('-'));
    let (mut all_recovered, mut any) = (true, false);
    let backings: [(&str, Prepare, &[_]); 3] = [
        ("loop", |_| None, &CALLS),
        ("btrfs", make_btrfs, &BTRFS_CALLS),
        ("loop, and power cuts", |node| Some(RawDisk::new(node, 256 * MIB)), &POWER_CALLS),
    ];
    for (backing, prepare, calls) in backings {
        let mut faults = faults(prepare, calls);
        let named = |fault: &String| word.is_none_or(|word| backing == word || fault.contains(word));
        faults.retain(named);
        println!(
            "{} faults with backing {backing}: each mutating system call of create, publish, unpublish, resize, recover, \
             fence and erase",
            faults.len()
        );
        any |= !faults.is_empty();
        all_recovered &= survive_all(prepare, &faults) && (word.is_some() || !faults.is_empty());
    }
    if all_recovered && any { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn survive_all(prepare: Prepare, faults: &[String]) -> bool {
    let (next, recovered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let inject = fault.clone();
                    let survived = std::panic::catch_unwind(|| {
                        on_a_node(move |node| {
                            let disk = prepare(node);
                            survive(node, disk, &inject);
                        });
                    });
                    match survived {
                        Ok(()) => drop(recovered.fetch_add(1, Ordering::Relaxed)),
                        Err(_) => println!("NOT RECOVERED: {fault}"),
                    }
                }
            });
        }
    });
    let recovered = recovered.into_inner();
    println!("{recovered} of {} recovered", faults.len());
    recovered == faults.len()
}
