//! Cuts the power of a guest again and again, while the product's code for disks works in the guest.
//!
//! QEMU is killed, so the memory of the guest and the volatile caches of its disks are lost. Each disk is a fresh
//! qcow2 overlay of 4 KiB clusters, whose tables stay in QEMU's memory until the guest flushes the disk. So a block that was
//! written for the first time since the start, and not flushed, is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::command::Cmd;
use crate::progress::say;
use crate::qemu::{Machine, host_node};

/// The test that the guest runs, in `tests/host_node/powercut.rs`.
const SCRIPT: &str = "mkdir -p /power/ext4 /power/xfs
mount -o prjquota /dev/vdc /power/ext4 && mount -o prjquota /dev/vdd /power/xfs || exit 1
export RESERVOIR_TEST_NODE=/power RUST_BACKTRACE=0
exec ./program --exact powercut::victim --ignored --nocapture 2>&1";

/// The latest moment of a cut. Every second cut counts from the guest's start, so that it hits the recovery; the others count
/// from readiness.
const LATEST: [Duration; 2] = [Duration::from_secs(16), Duration::from_secs(6)];

/// The state that the guest reported to be on stable storage, and the state that was found.
#[derive(Default)]
struct Ledger {
    synced: BTreeMap<String, u64>,
    loose: BTreeMap<String, u64>,
    made: BTreeSet<(String, u64)>,
    marked: BTreeSet<(String, u64)>,
    erasing: BTreeSet<(String, u64)>,
    erased: BTreeSet<(String, u64)>,
    /// Volumes that were there at this start.
    has: BTreeSet<(String, u64)>,
    gone: BTreeSet<(String, u64)>,
    losses: Vec<String>,
    loose_lost: u64,
    starts: u32,
}

impl Ledger {
    /// Notes a line; true if the guest is ready.
    fn hear(&mut self, line: &str) -> bool {
        let Some(rest) = line.strip_prefix("power: ") else { return false };
        let words: Vec<&str> = rest.split(' ').collect();
        let number = |i: usize| words.get(i).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        let disk = words.get(1).copied().unwrap_or_default().to_owned();
        let volume = (disk.clone(), number(2));
        match words[0] {
            "synced" => drop(self.synced.insert(disk, number(2))),
            "loose" => drop(self.loose.insert(disk, number(2))),
            "found" => self.found(disk, number(2), number(3)),
            "made" => drop(self.made.insert(volume)),
            "marked" => drop(self.marked.insert(volume)),
            "erasing" => drop(self.erasing.insert(volume)),
            "erased" => drop(self.erased.insert(volume)),
            "gone" => drop(self.gone.insert(volume)),
            "has" => self.has(volume, words.get(3) == Some(&"Ready"), words.get(4) == Some(&"true")),
            "ready" => {
                self.compare();
                return true;
            }
            _ => {}
        }
        false
    }

    fn found(&mut self, disk: String, synced: u64, loose: u64) {
        let said = self.synced.get(&disk).copied().unwrap_or_default();
        if synced < said {
            self.losses.push(format!("{disk}: {synced} of {said} synchronized records"));
        }
        self.loose_lost += self.loose.get(&disk).map_or(0, |said| said.saturating_sub(loose));
        self.synced.insert(disk.clone(), synced);
        self.loose.insert(disk, loose);
    }

    /// Notes that a volume exists at this start; the guest erases it next.
    fn has(&mut self, volume: (String, u64), ready: bool, marked: bool) {
        let lost = if self.erased.contains(&volume) {
            Some("is back after it was erased")
        } else if ready && self.gone.contains(&volume) {
            Some("is Ready although there is a receipt")
        } else if self.made.contains(&volume) && !self.erasing.contains(&volume) {
            let whole = ready && (marked || !self.marked.contains(&volume));
            (!whole).then_some("is not what it was")
        } else {
            None
        };
        self.losses.extend(lost.map(|how| format!("{}: volume {} {how}", volume.0, volume.1)));
        self.made.insert(volume.clone());
        self.erasing.insert(volume.clone());
        self.has.insert(volume);
    }

    /// Compares the volumes at this start with all volumes that were made.
    fn compare(&mut self) {
        for volume in self.made.difference(&self.has) {
            let lost = match self.gone.contains(volume) {
                false => Some("is missing, without a receipt"),
                true if !self.erasing.contains(volume) => Some("was erased without a word"),
                true => None,
            };
            self.losses.extend(lost.map(|how| format!("{}: volume {} {how}", volume.0, volume.1)));
        }
        self.starts += 1;
    }
}

/// Cuts the power `cuts` times, at moments that `seed` decides. Fails if synchronized data is lost.
pub fn cut(cuts: u32, seed: Option<u64>) -> anyhow::Result<()> {
    let program = host_node()?;
    let machine = Machine::prepare()?;
    let dir = tempfile::tempdir_in(machine.dir())?;
    let work = dir.path().join("work.raw");
    machine.work_disk(&work, SCRIPT, &program)?;
    let bases =
        [("mkfs.ext4", "-q -O quota,project -E quotatype=prjquota", "ext4"), ("mkfs.xfs", "-q", "xfs")];
    for (mkfs, options, name) in bases {
        let raw = dir.path().join(format!("{name}.raw"));
        std::fs::File::create(&raw)?.set_len(3 << 30)?;
        Cmd::new(mkfs).args(options.split(' ')).arg(&raw).run()?;
    }
    let mut seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    say(format_args!("cutting the power {cuts} times, with --seed {seed}"));
    let (started, mut ledger) = (Instant::now(), Ledger::default());
    for cut in 0..=cuts {
        let mut disks = vec![work.clone()];
        for (.., name) in bases {
            disks.push(overlay(dir.path(), name)?);
        }
        ledger.has.clear();
        let mut guest = machine.start(dir.path(), &disks)?;
        let kernel = guest.booted()?;
        if cut == 0 {
            say(format_args!("the guest is up: {kernel}"));
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The first start makes the volumes, and the last start checks all of them.
        let must_be_ready = cut == 0 || cut % 2 == 1 || cut == cuts;
        let moment = LATEST[usize::from(must_be_ready)].mul_f64((seed >> 33) as f64 / f64::from(1u32 << 31));
        let (booted, mut ready) = (Instant::now(), None);
        let over = |ready: Option<Duration>| match ready {
            _ if !must_be_ready => booted.elapsed() >= moment,
            Some(ready) => booted.elapsed() >= ready + moment,
            None => false,
        };
        while !over(ready) {
            let (lines, running) = guest.lines()?;
            for line in &lines {
                if ledger.hear(line) {
                    ready = Some(booted.elapsed());
                }
            }
            if !running
                || booted.elapsed() > Duration::from_secs(240)
                || lines.iter().any(|l| l.starts_with("guest: exit"))
            {
                bail!("the guest did not go on after cut {cut}: {}", guest.said());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let at = booted.elapsed();
        guest.cut(|line| {
            ledger.hear(line);
        })?;
        let when = match ready {
            Some(ready) => format!("{:.1} s after it was ready", (at - ready).as_secs_f64()),
            None => format!("{:.1} s after it started, in the middle of recovery", at.as_secs_f64()),
        };
        say(format_args!("cut {}: {when}", cut + 1));
        if !ledger.losses.is_empty() {
            break;
        }
        for (.., name) in bases {
            commit(dir.path(), name)?;
        }
    }
    println!(
        "{} power cuts in {:.0} s, {} of {} starts came to work; {} records and {} volumes were synchronized, {} lost; of \
         records that were not synchronized {} were lost",
        cuts + 1,
        started.elapsed().as_secs_f64(),
        ledger.starts,
        cuts + 1,
        ledger.synced.values().sum::<u64>(),
        ledger.made.len(),
        ledger.losses.len(),
        ledger.loose_lost,
    );
    if !ledger.losses.is_empty() {
        bail!("lost: {}", ledger.losses.join("; "));
    }
    if ledger.loose_lost == 0 {
        bail!("nothing was lost that was not synchronized: the power was never cut");
    }
    Ok(())
}

/// A disk whose writes are lost if they are not flushed.
fn overlay(dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let overlay = dir.join(format!("{name}.qcow2"));
    let base = dir.join(format!("{name}.raw"));
    Cmd::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-F", "raw", "-b"])
        .arg(&base)
        .arg(&overlay)
        .run()
        .context("failed to make a disk for the guest")?;
    Ok(overlay)
}

/// Keeps the flushed content of the disk.
fn commit(dir: &Path, name: &str) -> anyhow::Result<()> {
    let overlay = dir.join(format!("{name}.qcow2"));
    Cmd::new("qemu-img").args(["commit", "-q"]).arg(&overlay).run()?;
    std::fs::remove_file(&overlay).with_context(|| format!("failed to remove {}", overlay.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(lines: &[&str]) -> Vec<String> {
        let mut ledger = Ledger::default();
        for line in lines {
            ledger.hear(&format!("power: {line}"));
        }
        ledger.losses
    }

    #[test]
    fn what_was_promised_and_is_missing_is_a_loss() {
        let made = ["made d 1", "marked d 1"];
        for (lines, lost) in [
            (&["synced d 5", "found d 5 0", "ready"][..], 0),
            (&["synced d 5", "found d 9 0", "ready"], 0),
            (&["synced d 5", "found d 4 0", "ready"], 1),
            (&["has d 1 Ready true", "ready"], 0),
            (&["has d 1 Ready false", "ready"], 1),
            (&["has d 1 Creating false", "ready"], 1),
            (&["ready"], 1),
            (&["gone d 1", "ready"], 1),
            (&["erasing d 1", "gone d 1", "ready"], 0),
            (&["erasing d 1", "gone d 1", "has d 1 Erasing false", "ready"], 0),
            (&["gone d 1", "has d 1 Ready true", "ready"], 1),
            (&["erasing d 1", "has d 1 Erasing false", "ready"], 0),
            (&["erasing d 1", "ready"], 1),
            (&["erasing d 1", "erased d 1", "has d 1 Erasing false", "ready"], 1),
            (&["erasing d 1", "erased d 1", "gone d 1", "ready"], 0),
        ] {
            let about_volumes = !lines[0].starts_with("synced");
            let all: Vec<&str> =
                if about_volumes { made.iter().chain(lines).copied().collect() } else { lines.to_vec() };
            assert_eq!(losses(&all).len(), lost, "{all:?}");
        }
    }
}
