//! A node for each test: a disk, a kubelet directory and a mount namespace.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reservoir::host::{DiskConfig, FsType, Host, HostConfig, Pod, Publish, VolumeSpec, VolumeUid};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde_json::Value;

pub const MIB: u64 = 1 << 20;

/// The environment variable with the node of a process that is going to be killed.
const VICTIM: &str = "RESERVOIR_TEST_NODE";

pub struct Node {
    dir: PathBuf,
}

/// Runs `test` in its own mount namespace. Mounts in the kubelet directory propagate, as on a real node. After the
/// test nothing may be left in the kernel.
pub fn on_a_node(test: impl FnOnce(&Node) + Send + 'static) {
    assert!(rustix::process::geteuid().is_root(), "these tests mount filesystems: run them as root");
    // The directory is on a disk, since loop devices use direct I/O.
    let on_disk = std::env::var_os("RESERVOIR_TEST_DIR").unwrap_or(env!("CARGO_TARGET_TMPDIR").into());
    let dir = tempfile::tempdir_in(on_disk).unwrap();
    let node = Node { dir: dir.path().canonicalize().unwrap() };
    std::fs::create_dir_all(node.disk()).unwrap();
    std::fs::create_dir_all(node.kubelet().join("pods")).unwrap();
    let path = node.dir.clone();
    let outcome = std::thread::Builder::new()
        .name(std::thread::current().name().unwrap_or("test").to_owned())
        .spawn(move || {
            unshare_mounts();
            let kubelet = node.kubelet();
            rustix::mount::mount_bind(&kubelet, &kubelet).unwrap();
            rustix::mount::mount_change(&kubelet, MountPropagationFlags::SHARED).unwrap();
            test(&node);
        })
        .unwrap()
        .join();
    if outcome.is_err() {
        for device in loops(&path) {
            let _ = Command::new("losetup").arg("-d").arg(format!("/dev/{device}")).status();
        }
    }
    // The namespace ends with its last thread, a moment after the thread's join.
    eventually("loop devices are left behind", || loops(&path).is_empty());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Gives this thread a copy of the mount namespace. Shared mounts stay shared.
pub fn new_namespace() {
    // SAFETY: no descriptor table is unshared; only this thread and those that it starts see other mounts.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
}

/// Gives this thread a copy of the mount namespace, with nothing shared.
pub fn unshare_mounts() {
    new_namespace();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
}

pub fn eventually(complaint: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{complaint}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The loop devices with a file beneath `dir`.
pub fn loops(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").unwrap() {
        let entry = entry.unwrap();
        if let Ok(file) = std::fs::read_to_string(entry.path().join("loop/backing_file"))
            && Path::new(file.trim_end()).starts_with(dir)
        {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found
}

/// A loop device that is not detached automatically.
pub fn attach_by_hand(path: &Path) -> String {
    let output = Command::new("losetup").args(["-f", "--show"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().trim_start_matches("/dev/").to_owned()
}

/// A new loop device, bound to a file.
pub struct NewLoop {
    pub number: i32,
}

impl NewLoop {
    pub fn attach(path: &Path) -> Self {
        let number = (700..).find(|&number| loop_control::<0x4c80>(number).is_ok()).unwrap();
        let made = Self { number };
        let device = format!("/dev/loop{number}");
        assert!(Command::new("losetup").arg(&device).arg(path).status().unwrap().success());
        made
    }
}

impl Drop for NewLoop {
    fn drop(&mut self) {
        // The device is unbound at this point.
        let _ = loop_control::<0x4c81>(self.number);
    }
}

/// LOOP_CTL_ADD or LOOP_CTL_REMOVE.
fn loop_control<const OPCODE: u32>(number: i32) -> rustix::io::Result<()> {
    let control = std::fs::File::options().read(true).write(true).open("/dev/loop-control").unwrap();
    // SAFETY: both calls take the number of a device as their argument.
    unsafe {
        let call = rustix::ioctl::IntegerSetter::<OPCODE>::new_usize(number as usize);
        rustix::ioctl::ioctl(control, call)
    }
}

/// A container: another mount namespace with a mount of a target at another place, until a drop.
pub struct Elsewhere {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    pub fn new(node: &Node, target: &Path) -> Self {
        let (target, inside) = (target.to_owned(), node.dir.join("container"));
        std::fs::create_dir_all(&inside).unwrap();
        let (end, ended) = channel::<()>();
        let (ready, is_ready) = channel();
        let thread = std::thread::spawn(move || {
            unshare_mounts();
            rustix::mount::mount_bind_recursive(&target, &inside).unwrap();
            ready.send(()).unwrap();
            let _ = ended.recv();
        });
        is_ready.recv().unwrap();
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A separate disk of a node: an ext4 in memory. A test can read every byte of it, and can cut its power.
pub struct RawDisk {
    path: PathBuf,
    image: tempfile::NamedTempFile,
}

impl RawDisk {
    /// The node's own disk.
    pub fn new(node: &Node, size: u64) -> Self {
        Self::at(node.disk(), size)
    }

    pub fn at(path: PathBuf, size: u64) -> Self {
        let image = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        image.as_file().set_len(size).unwrap();
        assert!(
            Command::new("mkfs.ext4")
                .args(["-q", "-b", "4096"])
                .arg(image.path())
                .status()
                .unwrap()
                .success()
        );
        std::fs::create_dir_all(&path).unwrap();
        let disk = Self { path, image };
        disk.mount();
        disk
    }

    /// The kernel writes unsynchronized data only after a long time.
    fn mount(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,commit=300"]).arg(self.image.path()).arg(&self.path);
        assert!(mount.status().unwrap().success());
    }

    /// The number of the disk's blocks that begin with this text, and the number of such blocks in a file.
    pub fn count(&self, text: &[u8], file: &Path) -> (usize, usize) {
        rustix::fs::syncfs(File::open(&self.path).unwrap()).unwrap();
        let count = |path: &Path| {
            let bytes = std::fs::read(path).unwrap_or_default();
            bytes.chunks(4096).filter(|block| block.starts_with(text)).count()
        };
        (count(self.image.path()), count(file))
    }

    /// Loses unsynchronized data. No agent may serve the disk meanwhile.
    pub fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN, without writing ext4's journal.
        let without_log = 2_u32;
        // SAFETY: the call takes a pointer to a number.
        unsafe {
            let call = rustix::ioctl::Setter::<0x8004_587d, u32>::new(without_log);
            rustix::ioctl::ioctl(File::open(&self.path).unwrap(), call).unwrap();
        }
        eventually("the disk cannot be unmounted", || self.unmounted());
        self.mount();
    }

    pub fn unmounted(&self) -> bool {
        rustix::mount::unmount(&self.path, UnmountFlags::empty()).is_ok()
    }
}

impl Node {
    /// A node from another process, in whose mount namespace this process runs.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The node of the test that started this process by [`kill_after`](Self::kill_after). `None` in any other
    /// process.
    pub fn of_victim() -> Option<Self> {
        std::env::var(VICTIM).ok().map(|dir| Self::at(dir.into()))
    }

    /// Runs an ignored test of this program in another process on this node, and kills the process.
    pub fn kill_after(&self, test: &str, while_it_runs: Duration) {
        self.kill_with(test, while_it_runs, &[]);
    }

    /// [Kills](Self::kill_after) a test with more environment variables.
    pub fn kill_with(&self, test: &str, while_it_runs: Duration, environment: &[(&str, &str)]) {
        let stderr = self.dir.join("stderr");
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored"])
            .env(VICTIM, &self.dir)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&stderr).unwrap())
            .spawn()
            .unwrap();
        std::thread::sleep(while_it_runs);
        let said = || std::fs::read_to_string(&stderr).unwrap();
        assert_eq!(victim.try_wait().unwrap(), None, "it ended by itself: {}", said());
        victim.kill().unwrap();
        victim.wait().unwrap();
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    pub fn kubelet(&self) -> PathBuf {
        self.dir.join("kubelet")
    }

    pub fn disk_config(&self, name: &str, path: PathBuf) -> DiskConfig {
        DiskConfig { name: name.to_owned(), path, ..Default::default() }
    }

    pub fn config(&self) -> HostConfig {
        HostConfig {
            disks: vec![self.disk_config("d", self.disk())],
            targets_root: self.kubelet(),
            lock_timeout: Duration::ZERO,
            patience: Duration::from_secs(60),
            sysfs: "/sys".into(),
        }
    }

    /// An agent that serves the disk.
    pub fn host(&self) -> Host {
        let host = Host::open(self.config()).unwrap();
        assert_eq!(host.disks()[0].error, None);
        host
    }

    /// An agent that starts after another agent's end. A program of the other agent, or a concurrent test, may hold
    /// the disk's lock for another moment.
    pub fn next_host(&self) -> Host {
        Host::open(HostConfig { lock_timeout: Duration::from_secs(10), ..self.config() }).unwrap()
    }

    /// The directory of a volume on the disk.
    pub fn volume(&self, uid: &VolumeUid) -> PathBuf {
        self.disk().join("volumes").join(uid.as_str())
    }

    pub fn data(&self, uid: &VolumeUid) -> PathBuf {
        self.volume(uid).join("data")
    }

    pub fn record(&self, uid: &VolumeUid) -> Value {
        serde_json::from_slice(&std::fs::read(self.volume(uid).join("record.json")).unwrap()).unwrap()
    }

    /// Changes a volume's record behind the agent's back.
    pub fn edit(&self, uid: &VolumeUid, change: impl FnOnce(&mut Value)) {
        let mut record = self.record(uid);
        change(&mut record);
        std::fs::write(self.volume(uid).join("record.json"), record.to_string()).unwrap();
    }

    /// The kubelet's target for volume `i` of a pod.
    pub fn target(&self, pod: &str, i: u32) -> PathBuf {
        let parent = self.kubelet().join("pods").join(pod).join("volumes");
        std::fs::create_dir_all(&parent).unwrap();
        parent.join(format!("mount-{i}"))
    }

    pub fn request(&self, uid: &VolumeUid, pod: &str, i: u32, read_only: bool) -> Publish {
        Publish {
            uid: uid.clone(),
            digest: None,
            target: self.target(pod, i),
            read_only,
            pod: Pod { uid: format!("uid-of-{pod}"), namespace: "team".to_owned(), name: pod.to_owned() },
            claim_uid: "claim".to_owned(),
            by_seal: false,
            with_others: false,
            unlocked: false,
        }
    }

    /// The mounts of this namespace beneath the kubelet's directory, without its own mount: path and per-mount
    /// options.
    pub fn mounts(&self) -> Vec<(PathBuf, String)> {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let pods = self.kubelet().join("pods");
        let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields
            .map(|fields| (PathBuf::from(fields[4]), fields[5].to_owned()))
            .filter(|(point, _)| point.starts_with(&pods))
            .collect()
    }

    /// The mounts beneath a directory, without its own mount.
    pub fn mounted_beneath(&self, directory: &Path) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let points = table.lines().map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()));
        points.filter(|point| point.starts_with(directory) && point != directory).collect()
    }

    pub fn assert_no_mounts(&self) {
        assert_eq!(self.mounts(), []);
    }

    /// Asserts that there is no mount and no loop device, as before the first publish.
    pub fn assert_base_line(&self) {
        self.assert_no_mounts();
        eventually("loop devices are left", || loops(&self.dir).is_empty());
    }

    /// M3: root makes neither a reader's mount writable nor a copy of it, also a copy of a directory inside. What a
    /// container runtime asks for in a container that reads is allowed.
    pub fn assert_locked(&self, reader: &Path) {
        let copy = self.dir.join("copy");
        std::fs::create_dir_all(&copy).unwrap();
        let inside = std::fs::read_dir(reader).unwrap().map(|entry| entry.unwrap().path());
        let parts: Vec<_> = inside.filter(|path| path.is_dir()).chain([reader.to_owned()]).collect();
        let work = || {
            unshare_mounts();
            let writable = |path: &Path| rustix::mount::mount_remount(path, MountFlags::BIND, "");
            assert_eq!(writable(reader), Err(rustix::io::Errno::PERM));
            for part in &parts {
                rustix::mount::mount_bind(part, &copy).unwrap();
                assert_eq!(writable(&copy), Err(rustix::io::Errno::PERM), "{}", part.display());
                rustix::mount::mount_remount(&copy, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
                let written = std::fs::write(copy.join("never"), "").unwrap_err();
                assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
                rustix::mount::unmount(&copy, UnmountFlags::empty()).unwrap();
            }
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    }

    pub fn unmount_lazily(&self, path: &Path) {
        rustix::mount::unmount(path, UnmountFlags::DETACH).unwrap();
    }
}

/// Runs fsfreeze(8) with an option; returns true if it succeeded.
pub fn fsfreeze(option: &str, path: &Path) -> bool {
    Command::new("fsfreeze").arg(option).arg(path).status().unwrap().success()
}

/// The `i`-th UID.
pub fn uid(i: u32) -> VolumeUid {
    format!("00000000-0000-4000-8000-{i:012x}").parse().unwrap()
}

/// A small shared ext4 volume.
pub fn ext4(i: u32) -> VolumeSpec {
    VolumeSpec {
        uid: uid(i),
        name: format!("volume-{i}"),
        role: "eng".to_owned(),
        reservation: "reservation".to_owned(),
        size_bytes: 32 * MIB,
        fs_type: FsType::Ext4,
        raw: false,
        shared: true,
        sub_roles_denied: false,
        adopt: None,
        labels: Default::default(),
        gid: None,
        mode: None,
        mount_options: Vec::new(),
        reservations: Vec::new(),
        recover: None,
        keep_for: None,
        made_for: None,
        erase_policy: None,
    }
}

/// A shared XFS volume. A kernel mounts each UUID of XFS only once, hence every test has its own UUID.
pub fn xfs(i: u32) -> VolumeSpec {
    VolumeSpec { fs_type: FsType::Xfs, size_bytes: 304 * MIB, ..ext4(i) }
}

pub fn exclusive(i: u32) -> VolumeSpec {
    VolumeSpec { shared: false, ..ext4(i) }
}

pub fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).unwrap();
}

pub fn read(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap()
}

/// Fails unless the result is an error of the given form.
#[macro_export]
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result {
            Err($pattern) $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}
