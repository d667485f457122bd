//! Hostile bytes for the parsers of what others write: kept inputs, and mutations of them.
//!
//! An input whose answer is a new one is mutated further. A shorter one with the same answer takes its place, so that inputs stay
//! short. `cargo test` runs a few thousand of each, `make fuzz` as many as `EXECUTIONS` says. An input that fails is written to
//! tests/fuzz, and is the first one from then on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Inputs with different answers that are mutated further, at most.
const MOST: usize = 4096;
/// The largest input.
const MOST_BYTES: usize = 1 << 16;
/// Values at which sizes, lengths and counts go wrong.
const NUMBERS: [&[u8]; 12] = [
    b"0",
    b"-1",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1e308",
    b"0.5",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"../",
];

fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name)
}

/// The words of a message, without what it cites of the input.
pub fn words(message: impl ToString) -> String {
    message
        .to_string()
        .chars()
        .take_while(|c| !['`', '"', '\''].contains(c))
        .filter(|c| !c.is_ascii_digit())
        .collect()
}

/// Parses the seeds, the kept inputs, and mutations of both. `parse` returns what tells one answer from another, and panics
/// if a promise about the answer is broken.
pub fn fuzz<A: Hash>(name: &str, seeds: &[&[u8]], parse: impl Fn(&[u8]) -> A) {
    let executions = std::env::var("EXECUTIONS").ok().and_then(|all| all.parse().ok()).unwrap_or(3_000_u64);
    let mut random =
        fastrand::Rng::with_seed(std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1));
    let answer_to = |input: &[u8]| {
        let answer = catch_unwind(AssertUnwindSafe(|| parse(input))).unwrap_or_else(|_| {
            let mut hasher = DefaultHasher::new();
            input.hash(&mut hasher);
            let file = kept(name).join(format!("{:016x}", hasher.finish()));
            std::fs::create_dir_all(kept(name)).and_then(|()| std::fs::write(&file, input)).expect("a file");
            panic!("{name} fails on {}: {}", file.display(), input.escape_ascii());
        });
        let mut hasher = DefaultHasher::new();
        answer.hash(&mut hasher);
        hasher.finish()
    };
    let files = std::fs::read_dir(kept(name)).into_iter().flatten().flatten();
    let mut inputs: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.path()).expect("a file")).collect();
    inputs.extend(seeds.iter().map(|seed| seed.to_vec()));
    // The input to each answer that a shorter one may replace.
    let mut answers: HashMap<u64, Option<usize>> =
        inputs.iter().map(|input| (answer_to(input), None)).collect();
    for _ in 0..executions {
        let mut input = inputs[random.usize(..inputs.len())].clone();
        for _ in 0..random.u32(1..4) {
            let other = &inputs[random.usize(..inputs.len())];
            mutate(&mut input, other, &mut random);
        }
        input.truncate(MOST_BYTES);
        match answers.entry(answer_to(&input)) {
            Entry::Vacant(answer) => {
                let is_kept = inputs.len() < MOST;
                answer.insert(is_kept.then_some(inputs.len()));
                inputs.extend(is_kept.then_some(input));
            }
            Entry::Occupied(answer) => {
                if let Some(longer) = answer.get().filter(|kept| input.len() < inputs[*kept].len()) {
                    inputs[longer] = input;
                }
            }
        }
    }
    println!("{name}: {executions} executions, {} different answers", answers.len());
}

fn range(of: &[u8], random: &mut fastrand::Rng) -> std::ops::Range<usize> {
    let start = random.usize(..=of.len());
    start..(start + random.usize(..17)).min(of.len())
}

fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut fastrand::Rng) {
    let at = range(input, random);
    match random.u32(..7) {
        0 => input.iter_mut().skip(at.start).take(1).for_each(|byte| *byte ^= 1 << random.u32(..8)),
        1 => input.iter_mut().skip(at.start).take(1).for_each(|byte| *byte = random.u8(..)),
        2 => drop(input.drain(at)),
        3 => {
            let again = input[at.clone()].to_vec();
            drop(input.splice(at.start..at.start, again));
        }
        4 => drop(input.splice(at, NUMBERS[random.usize(..NUMBERS.len())].iter().copied())),
        5 => {
            let part = other[range(other, random)].to_vec();
            drop(input.splice(at, part));
        }
        // A number of the text becomes another one.
        _ => {
            let is_digit = |byte: &u8| byte.is_ascii_digit();
            if let Some(first) = input.iter().skip(at.start).position(is_digit).map(|i| i + at.start) {
                let len = input[first..].iter().take_while(|byte| is_digit(byte)).count();
                drop(input.splice(first..first + len, NUMBERS[random.usize(..7)].iter().copied()));
            }
        }
    }
}
