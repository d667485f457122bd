//! A guest of QEMU as a test machine. It has Debian's own kernel, with features that this machine's kernel may lack (project
//! quota, device-mapper), and its power can be cut.
//!
//! QEMU emulates the processor, some ten times slower than this machine: KVM is often missing, and nested KVM may hang. The
//! guest has no network. Its programs are on a disk that is made for it, and its output comes over a virtio console.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::command::Cmd;
use crate::debian::Rootfs;
use crate::interrupt;
use crate::packages;
use crate::process::Process;
use crate::progress::say;

/// The packages of the guest: its kernel, and the programs that volumes need.
const PACKAGES: &[&str] = &[
    "bash",
    "btrfs-progs",
    "busybox-static",
    "coreutils",
    "dash",
    "e2fsprogs",
    "kmod",
    "libc6",
    "libgcc-s1",
    "linux-image-cloud-amd64",
    "lvm2",
    "mount",
    "util-linux",
    "xfsprogs",
];
/// The modules that the kernel needs to find its root and to use the console, in this order.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
];
const INITRAMFS: &str = include_str!("../assets/guest-initramfs.sh");
const INIT: &str = include_str!("../assets/guest-init.sh");

/// Emulated timers are late on a busy machine, so the kernel must not take them for broken.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check nowatchdog";

/// The longest start of a guest.
const BOOT: Duration = Duration::from_secs(180);

/// Kernel and root file system of guests.
#[derive(Debug)]
pub struct Machine {
    dir: PathBuf,
}

/// A running guest. A drop ends the guest as a power cut does.
#[derive(Debug)]
pub struct Guest {
    process: Process,
    console: PathBuf,
    kernel_log: PathBuf,
    /// Number of bytes that were read from the console.
    read: usize,
}

impl Machine {
    /// Finds kernel and root file system in the cache, or makes them. Blocks; the first time takes two minutes, root and apt.
    pub fn prepare() -> anyhow::Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("the guest is made for x86_64, and this machine is {}", std::env::consts::ARCH);
        }
        packages::ensure(&["e2fsprogs", "mmdebstrap", "qemu-system-x86", "qemu-utils", "xfsprogs"])?;
        let suite = suite()?;
        let parts = [INITRAMFS, INIT, &PACKAGES.join(" "), &MODULES.join(" ")];
        let digest = format!("{:x}", Sha256::digest(parts.join("\n")));
        let dir = Cache::open()?.get(&format!("qemu/{suite}-{}", &digest[..8]), |dir| build(&suite, dir))?;
        Ok(Self { dir })
    }

    /// The directory of the guest's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the guest's second disk with `script`, which the guest runs, and `program`. The disk has free space at
    /// `/work/tmp`.
    pub fn work_disk(&self, at: &Path, script: &str, program: &Path) -> anyhow::Result<()> {
        let files = tempfile::tempdir_in(&self.dir)?;
        fs::create_dir(files.path().join("tmp"))?;
        fs::copy(program, files.path().join("program"))
            .with_context(|| format!("failed to copy {}", program.display()))?;
        let run = files.path().join("run");
        fs::write(&run, format!("#!/bin/sh\ncd /work\n{script}\n"))?;
        fs::set_permissions(&run, Permissions::from_mode(0o755))?;
        let mkfs = Cmd::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(files.path()).arg(at).arg("8G");
        mkfs.run().map(drop)
    }

    /// Starts a guest with these disks besides its root. Its output goes to `dir`.
    pub fn start(&self, dir: &Path, disks: &[PathBuf]) -> anyhow::Result<Guest> {
        let (console, kernel_log) = (dir.join("console"), dir.join("kernel.log"));
        fs::write(&console, "")?;
        let mut args: Vec<String> = [
            "-nodefaults -no-user-config -display none -no-reboot -machine q35 -cpu max -smp 2 -m 2048",
            "-accel tcg,thread=multi -device virtio-serial-pci -device virtconsole,chardev=console",
        ]
        .iter()
        .flat_map(|line| line.split(' ').map(str::to_owned))
        .collect();
        let of = |name: &str| self.dir.join(name).display().to_string();
        args.extend(["-kernel".into(), of("vmlinuz"), "-initrd".into(), of("initramfs")]);
        args.extend(["-append".into(), CMDLINE.into()]);
        args.extend(["-serial".into(), format!("file:{}", kernel_log.display())]);
        args.extend(["-chardev".into(), format!("file,id=console,path={}", console.display())]);
        args.extend(["-drive".into(), format!("file={},format=raw,if=virtio,snapshot=on", of("root.ext4"))]);
        for disk in disks {
            // A qcow2 image keeps its tables in QEMU's memory until the guest flushes its disk.
            let format = if disk.extension().is_some_and(|kind| kind == "qcow2") { "qcow2" } else { "raw" };
            args.extend(["-drive".into(), format!("file={},format={format},if=virtio", disk.display())]);
        }
        let process = Process::start(Path::new("/usr/bin/qemu-system-x86_64"), &args, &dir.join("qemu.log"))?;
        Ok(Guest { process, console, kernel_log, read: 0 })
    }
}

impl Guest {
    /// The lines since the last call, and true if the guest runs.
    pub fn lines(&mut self) -> anyhow::Result<(Vec<String>, bool)> {
        if interrupt::requested() {
            bail!("asked to stop");
        }
        // The state is read before the output, since the output of an ended guest is complete.
        let running = self.process.check();
        let said = fs::read(&self.console).context("failed to read what the guest says")?;
        let unread = &said[self.read..];
        let end = unread.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.read += end;
        let lines =
            String::from_utf8_lossy(&unread[..end]).lines().map(|l| l.trim_end().to_owned()).collect();
        Ok((lines, running.is_ok()))
    }

    /// Hands every line to `each` until that returns true. An earlier end of the guest is an error.
    pub fn until(&mut self, limit: Duration, mut each: impl FnMut(&str) -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let (lines, running) = self.lines()?;
            let mut seen = false;
            for line in &lines {
                seen |= each(line);
            }
            if seen {
                return Ok(());
            }
            if !running || started.elapsed() > limit {
                let what =
                    if running { format!("is silent after {} s", limit.as_secs()) } else { "ended".into() };
                bail!("the guest {what}: {}", self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Cuts the guest's power, and hands its last lines to `each`.
    pub fn cut(mut self, mut each: impl FnMut(&str)) -> anyhow::Result<()> {
        self.process.kill();
        self.lines()?.0.iter().for_each(|line| each(line));
        Ok(())
    }

    /// The whole output, for an error.
    pub fn said(&self) -> String {
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let console = text(&self.console);
        let end: Vec<&str> = console.lines().rev().take(20).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        format!(
            "QEMU: {}; kernel: {}; it said: {}",
            self.process.log_tail(),
            text(&self.kernel_log).trim(),
            end.join("\n")
        )
    }

    /// Waits until the guest has started, and returns its kernel.
    pub fn booted(&mut self) -> anyhow::Result<String> {
        let mut kernel = String::new();
        self.until(BOOT, |line| {
            line.strip_prefix("guest: Linux").inspect(|rest| kernel = format!("Linux{rest}")).is_some()
        })?;
        Ok(kernel)
    }
}

/// These tests need simple quotas, which came with Linux 6.7; Debian bookworm has 6.1.
const TOO_NEW: &str = "btrfs::";

/// Runs the tests of `tests/host_node` in a guest, with `args`; fails if a test fails. Without `args`, runs all but [`TOO_NEW`].
pub fn test(args: &[String], limit: Duration) -> anyhow::Result<()> {
    let program = host_node()?;
    let machine = Machine::prepare()?;
    let dir = tempfile::tempdir_in(&machine.dir)?;
    let disk = dir.path().join("work.raw");
    let args = match args {
        [] => {
            say(format_args!("not in the guest, but in make unit: {TOO_NEW}, which needs Linux 6.7"));
            &["--skip", TOO_NEW].map(str::to_owned)
        }
        args => args,
    };
    let quoted: Vec<String> = args.iter().map(|arg| format!("'{}'", arg.replace('\'', "'\\''"))).collect();
    let script = format!(
        "export RESERVOIR_TEST_DIR=/work/tmp RESERVOIR_TEST_GUEST=1 RUST_BACKTRACE=0\nexec ./program {} 2>&1",
        quoted.join(" ")
    );
    machine.work_disk(&disk, &script, &program)?;
    let started = Instant::now();
    let mut guest = machine.start(dir.path(), &[disk])?;
    let kernel = guest.booted()?;
    say(format_args!("the guest is up in {:.0} s: {kernel}", started.elapsed().as_secs_f64()));
    let mut code = None;
    guest.until(limit, |line| {
        println!("{line}");
        code = line.strip_prefix("guest: exit ").map(str::to_owned);
        code.is_some()
    })?;
    say(format_args!("the guest took {:.0} s in all", started.elapsed().as_secs_f64()));
    match code.as_deref() {
        Some("0") => Ok(()),
        code => bail!("the tests in the guest failed with exit code {}", code.unwrap_or("?")),
    }
}

/// The compiled program of the tests. The guest can run it, since it has the same Debian release as this machine.
pub(crate) fn host_node() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let said = Cmd::new(cargo)
        .args(["test", "--package", "reservoir", "--test", "host_node", "--no-run", "--message-format=json"])
        .dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .progress("compiling the tests")
        .run()?;
    let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = messages.filter_map(|message| {
        (message["target"]["name"] == "host_node")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    programs.next().context("cargo does not say where the program of tests/host_node is")
}

/// This machine's Debian release, so that the guest can run a program that is compiled here.
fn suite() -> anyhow::Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| {
        let found = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.map(|value| value.trim_matches('"').to_owned())
    };
    match (value("ID").as_deref(), value("VERSION_CODENAME")) {
        (Some("debian"), Some(suite)) => Ok(suite),
        _ => bail!("the guest is made of the packages of this machine's release, which has to be Debian"),
    }
}

fn build(suite: &str, dir: &Path) -> anyhow::Result<()> {
    fs::create_dir(dir)?;
    let work = tempfile::tempdir_in(dir)?;
    let (archive, root) = (work.path().join("root.tar"), work.path().join("root"));
    fs::create_dir(&root)?;
    Rootfs { suite, variant: "extract", packages: PACKAGES }.write(&archive)?;
    Cmd::new("tar").arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(&root).run()?;
    fs::remove_file(&archive)?;
    let kernel =
        fs::read_dir(root.join("lib/modules"))?.next().context("the guest's kernel is missing")??;
    let version = kernel.file_name();
    let release = version.to_string_lossy();
    fs::copy(root.join(format!("boot/vmlinuz-{release}")), dir.join("vmlinuz"))?;
    Cmd::new("chroot").arg(&root).arg("depmod").arg(&version).run()?;

    let small = work.path().join("initramfs");
    for name in ["bin", "dev", "modules", "root"] {
        fs::create_dir_all(small.join(name))?;
    }
    fs::copy(root.join("bin/busybox"), small.join("bin/busybox"))?;
    for module in MODULES {
        let find = Cmd::new("find").arg(kernel.path()).args(["-name", &format!("{module}.ko")]).run()?;
        fs::copy(find.trim(), small.join(format!("modules/{module}.ko")))
            .with_context(|| format!("failed to copy the kernel's module {module}"))?;
    }
    fs::write(small.join("modules/order"), MODULES.join("\n"))?;
    for (path, text) in [(small.join("init"), INITRAMFS), (root.join("sbin/guest-init"), INIT)] {
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    Cmd::new("sh")
        .args(["-c", "find . | bin/busybox cpio -o -H newc > \"$1\"", "sh"])
        .arg(dir.join("initramfs"))
        .dir(&small)
        .run()?;
    Cmd::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(&root)
        .arg(dir.join("root.ext4"))
        .arg("1G")
        .progress("making the guest's root file system")
        .run()?;
    Ok(())
}
