//! Making and erasing, by size.

use std::time::Instant;

use reservoir::host::{ErasePolicy, FsType};

use crate::{host, ms, row, volume};

const MIB: u64 = 1 << 20;

/// Repetitions of each; the median counts.
const TIMES: u32 = 5;

pub fn measure() {
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let host = host(temp.path());
    let mut number = 0;
    let mut one = |fs_type: FsType, size: u64, policy: ErasePolicy| {
        let mut took: Vec<_> = (0..TIMES)
            .map(|_| {
                number += 1;
                let spec = volume(number, fs_type, size);
                let started = Instant::now();
                host.create("d", &spec).unwrap();
                let made = started.elapsed();
                host.fence(&spec.uid).unwrap();
                let started = Instant::now();
                host.erase(&spec.uid, policy).unwrap();
                let erased = started.elapsed();
                host.forget(&spec.uid).unwrap();
                (made, erased)
            })
            .collect();
        let mut median = |time: fn(&(std::time::Duration, std::time::Duration)) -> std::time::Duration| {
            took.sort_by_key(time);
            time(&took[took.len() / 2])
        };
        (median(|took| took.0), median(|took| took.1))
    };
    for (fs_type, size) in [
        (FsType::Ext4, 16 * MIB),
        (FsType::Ext4, 128 * MIB),
        (FsType::Ext4, 1024 * MIB),
        (FsType::Ext4, 10240 * MIB),
        (FsType::Xfs, 1024 * MIB),
        (FsType::Xfs, 10240 * MIB),
    ] {
        let (made, erased) = one(fs_type, size, ErasePolicy::Discard);
        let what = format!("{fs_type} of {} MiB", size / MIB);
        row(&format!("create {what}"), ms(made), "");
        row(&format!("erase {what} (Discard)"), ms(erased), if size == 10240 * MIB { "< 1 s" } else { "" });
    }
    for size in [16 * MIB, 128 * MIB] {
        let (_, erased) = one(FsType::Ext4, size, ErasePolicy::Zero);
        row(&format!("erase ext4 of {} MiB (Zero)", size / MIB), ms(erased), "");
    }
}
