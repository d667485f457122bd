//! I/O in a volume, against the filesystem that the volume's own file is on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reservoir::host::FsType;
use serde_json::Value;

use crate::{host, publish, row, volume};

/// The patterns of fio, and the field of its report that counts.
const PATTERNS: [(&str, &[&str], &str); 9] = [
    ("4k random read, one at a time", &["--rw=randread", "--bs=4k", "--iodepth=1"], "iops"),
    ("4k random write, one at a time", &["--rw=randwrite", "--bs=4k", "--iodepth=1"], "iops"),
    ("4k random read, 32 at a time", &["--rw=randread", "--bs=4k", "--iodepth=32"], "iops"),
    ("4k random write, 32 at a time", &["--rw=randwrite", "--bs=4k", "--iodepth=32"], "iops"),
    ("1M sequential read, 4 at a time", &["--rw=read", "--bs=1M", "--iodepth=4"], "bw_bytes"),
    ("1M sequential write, 4 at a time", &["--rw=write", "--bs=1M", "--iodepth=4"], "bw_bytes"),
    ("4k random write, each synchronized", &["--rw=randwrite", "--bs=4k", "--fdatasync=1"], "iops"),
    ("1M sequential read through the page cache", &["--rw=read", "--bs=1M", "--direct=0"], "bw_bytes"),
    (
        "1M sequential write through it, synchronized",
        &["--rw=write", "--bs=1M", "--direct=0", "--fsync=64"],
        "bw_bytes",
    ),
];

/// A directory in which fio runs.
struct Place {
    name: String,
    file: PathBuf,
}

pub fn measure(rounds: usize, seconds: u32) {
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let host = host(temp.path());
    let mut places = vec![Place { name: "bare".to_owned(), file: temp.path().join("file") }];
    let mut targets = Vec::new();
    for (i, fs_type) in [(1, FsType::Ext4), (2, FsType::Xfs)] {
        let spec = volume(i, fs_type, 1 << 30);
        host.create("d", &spec).unwrap();
        let publish = publish(temp.path(), &spec, fs_type.name());
        host.publish(&publish).unwrap();
        places.push(Place { name: fs_type.name().to_owned(), file: publish.target.join("file") });
        targets.push(publish.target);
    }
    let outcome = std::panic::catch_unwind(|| compare(&places, rounds, seconds));
    for target in targets {
        host.unpublish(&target).unwrap();
    }
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn compare(places: &[Place], rounds: usize, seconds: u32) {
    // Every file is written once first: a first write is slower than a second.
    for place in places {
        fio(&place.file, &["--rw=write", "--bs=1M"], None);
    }
    for (what, arguments, field) in PATTERNS {
        let mut results: Vec<Vec<f64>> = vec![Vec::new(); places.len()];
        // The first round does not count.
        for round in 0..=rounds {
            for (place, results) in places.iter().zip(&mut results) {
                let report = fio(&place.file, arguments, Some(if round == 0 { 1 } else { seconds }));
                let job = &report["jobs"][0];
                let number = |direction: &str| job[direction][field].as_f64().unwrap();
                if round > 0 {
                    results.push(number("read") + number("write"));
                }
            }
        }
        let medians: Vec<f64> = results.into_iter().map(median).collect();
        for (place, result) in places.iter().zip(&medians).skip(1) {
            row(&format!("{what}, {} against bare", place.name), format!("{:.2}", result / medians[0]), "");
        }
        let bare = match field {
            "iops" => format!("{:.0}", medians[0]),
            _ => format!("{:.0}", medians[0] / f64::from(1 << 20)),
        };
        row(&format!("  bare, {}", if field == "iops" { "per second" } else { "MiB/s" }), bare, "");
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn fio(file: &Path, arguments: &[&str], seconds: Option<u32>) -> Value {
    let mut command = Command::new("fio");
    command
        .args(["--name=fio", "--size=512m", "--ioengine=libaio", "--direct=1", "--output-format=json"])
        .args(["--randrepeat=0", "--invalidate=1", "--allow_file_create=1"])
        .arg(format!("--filename={}", file.display()))
        .args(arguments)
        .stdin(Stdio::null());
    if let Some(seconds) = seconds {
        command.args(["--time_based", &format!("--runtime={seconds}")]);
    }
    let output = command.output().expect("fio is installed");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
