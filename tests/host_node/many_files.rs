//! Data sets of very many files: `make test-agent` runs this, and it prints its numbers.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use reservoir::host::{Host, Pace, VolumeSpec};

use crate::support::*;

/// Directories, and files in each of them.
const DIRECTORIES: usize = 1000;
const FILES: usize = 1000;
/// The most memory for a walk over all of them.
const MOST: u64 = 48 * MIB;

/// The most memory of this process since the last call of [`forget`].
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn forget() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// Does the work, prints its time, and bounds its memory.
fn measured<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (before, started) = (forget(), Instant::now());
    let done = work();
    let (took, more) = (started.elapsed(), peak().saturating_sub(before));
    println!("{what}: {:.1} s, {} MiB more memory at most", took.as_secs_f64(), more >> 20);
    assert!(more < MOST, "{what}: {} MiB", more >> 20);
    done
}

/// A volume of so many directories, of whose files a tenth have bytes, without writers.
fn filled(node: &Node, host: &Host, number: u32, directories: usize) {
    host.create("d", &spec(number)).unwrap();
    host.publish(&node.request(&uid(number), "writer", 0, false)).unwrap();
    let target = node.target("writer", 0);
    for directory in 0..directories {
        let directory = target.join(format!("part-{directory:04}"));
        std::fs::create_dir(&directory).unwrap();
        for file in 0..FILES {
            let text = if file % 10 == 0 { "some bytes" } else { "" };
            std::fs::write(directory.join(format!("sample-{file:04}")), text).unwrap();
        }
    }
    host.unpublish(&target).unwrap();
    host.refuse_writers(&uid(number)).unwrap();
}

fn spec(number: u32) -> VolumeSpec {
    VolumeSpec { size_bytes: 3 << 30, mode: Some(0o777), ..xfs(number) }
}

/// E1, E4. A million files are no bound: they are sealed and verified, and cost no memory.
#[test]
#[ignore = "it takes a while: make test-agent runs it"]
fn e1_a_million_files_are_sealed() {
    on_a_node(|node| {
        let (host, stop) = (node.host(), AtomicBool::new(false));
        filled(node, &host, 1, DIRECTORIES);
        let content = measured("seal", || host.seal(&uid(1), &stop).unwrap());
        let files = (DIRECTORIES * FILES) as u64;
        assert_eq!((content.files, content.bytes), (files, files));
        let manifest = std::fs::metadata(node.volume(&uid(1)).join("manifest")).unwrap().len();
        println!("manifest: {} MiB", manifest >> 20);
        let read = |host: &Host| host.verify(&uid(1), Pace { from_disk: true, ..Pace::full(&stop) });
        assert_eq!(measured("verify", || read(&host).unwrap()).count, 0);
    });
}

/// E2. A copy makes each file anew, so this test has fewer files.
#[test]
#[ignore = "it takes a while: make test-agent runs it"]
fn e2_a_hundred_thousand_files_are_copied() {
    on_a_node(|node| {
        let (host, stop) = (node.host(), AtomicBool::new(false));
        filled(node, &host, 1, DIRECTORIES / 10);
        let content = host.seal(&uid(1), &stop).unwrap();
        host.create("d", &spec(2)).unwrap();
        let mut source = host.open_sealed(&uid(1)).unwrap();
        let copied = measured("copy", || {
            host.fill_copy(&uid(2), &content.digest, &mut source, Pace::full(&stop)).unwrap()
        });
        assert_eq!(copied, content);
    });
}
