//! A peer that writes whatever it likes: the fuzz targets' corpus, and random changes of it.
//! `fuzz/README.md` says how to search for longer.

#[path = "../fuzz/ring.rs"]
mod ring;

use std::env;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Random numbers by a seed (splitmix64).
struct Random(u64);

impl Random {
    /// By `ZB_SEED`, or by the time.
    fn new() -> (Self, u64) {
        let seed = env::var("ZB_SEED").ok().map(|seed| seed.parse().unwrap());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = seed.unwrap_or_else(|| now().as_nanos() as u64);
        (Random(seed), seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A few changes, as a fuzzer makes them.
    fn change(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        for _ in 0..1 + self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.insert(at, self.next() as u8),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 if at < bytes.len() => bytes[at] = self.next() as u8,
                3 => bytes.truncate(at),
                4 => {
                    let end = at + self.below(bytes.len() - at + 1);
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let other = &others[self.below(others.len())];
                    let from = self.below(other.len());
                    bytes.splice(at.., other[from..].iter().copied());
                }
            }
        }
        bytes.truncate(4096);
    }
}

/// Gives `target` what is in its corpus, and so many changes of that.
fn search(target: &str, changes: usize, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let corpus: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(corpus.len() >= 5, "where is the corpus?");
    let try_it = |bytes: &[u8], what: &str| {
        let result = panic::catch_unwind(AssertUnwindSafe(|| run(bytes)));
        assert!(result.is_ok(), "{target}, {what}: {bytes:?}");
    };
    for (file, bytes) in files.iter().zip(&corpus) {
        try_it(bytes, &file.display().to_string());
    }
    let (mut random, seed) = Random::new();
    println!("{target}: ZB_SEED={seed}");
    for _ in 0..changes {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        random.change(&mut bytes, &corpus);
        try_it(&bytes, &format!("ZB_SEED={seed}"));
    }
}

#[test]
fn metadata() {
    search("metadata", 20_000, gstzerobuffer::fuzzing::metadata);
}

#[test]
fn records() {
    search("records", 20_000, gstzerobuffer::fuzzing::records);
}

#[test]
fn a_reader() {
    search("reader", 500, ring::reader);
}

#[test]
fn a_writer() {
    search("writer", 500, ring::writer);
}
