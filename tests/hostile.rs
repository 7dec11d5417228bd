//! A peer that writes whatever it likes: the fuzz targets' corpus, and random changes of it; and a
//! process that writes at random while streams run. `fuzz/README.md` says how to search for longer.

#[path = "../fuzz/ring.rs"]
mod ring;
mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::env;
use std::fs;
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Item, Reader, Records, Wait, Writer};
use nix::sys::resource::{Resource, setrlimit};
use support::raw::{Raw, RawSem};
use support::{Name, Running, again, listen, role, say};
use support_gst::Pipeline;

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

const METADATA: u64 = 1024;
const RING: u64 = 100_000;
const CAPS: &str = "video/x-raw,format=RGB,width=64,height=48,framerate=1000/1";
const FRAME: usize = 64 * 48 * 3;

/// How long somebody scribbles over a stream.
const SCRIBBLING: Duration = Duration::from_secs(3);
/// The memory that a process may add to what it has when it begins.
const MEMORY: u64 = 1 << 30;

/// In a child: no more memory than that, whatever the peer says how much is needed.
fn limit_memory() {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let most = pages * 4096 + MEMORY;
    setrlimit(Resource::RLIMIT_AS, most, most).unwrap();
}

/// Something that a peer might write, and something that it should not.
fn number(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => 0,
        1 => u64::MAX,
        2 => RING,
        3 => RING - 16,
        4 => (1 << 63) | (random.next() % RING),
        5 => (3 << 62) | (random.next() % RING),
        6 => std::process::id().into(),
        7 => u64::from_le_bytes(*b"ZBhello\x01"),
        8 => random.next(),
        9 => random.next() % 64,
        _ => random.next() % RING,
    }
}

/// Writes at random over whatever has this name now, a little at a time.
fn scribble(name: &str, random: &mut Random) -> Option<()> {
    let raw = Raw::try_open(name)?;
    let len = raw.len();
    let ring = 128 + METADATA;
    if len <= ring {
        return None;
    }
    let sem = |random: &mut Random| RawSem::try_open(['w', 'r'][random.below(2)], name);
    match random.below(9) {
        0 | 1 => raw.set(8 * (random.next() % 16), number(random)),
        2 => raw.set(ring - 64 + 8 * (random.next() % 8), number(random)),
        3 => raw.set(128, number(random)),
        4 | 5 => {
            let at = ring + random.next() % (len - ring);
            raw.write(at.min(len - 16), &number(random).to_le_bytes());
            raw.write(at.min(len - 16) + 8, &number(random).to_le_bytes());
        }
        6 => {
            let at = random.next() % (len - 64);
            let bytes: Vec<u8> = (0..random.below(64)).map(|_| random.next() as u8).collect();
            raw.write(at, &bytes);
        }
        7 => sem(random)?.set(number(random) as u32),
        _ => {
            let at = random.next() % 24;
            let bytes = number(random).to_le_bytes();
            sem(random)?.file().write_all_at(&bytes, at).unwrap();
        }
    }
    Some(())
}

/// One stream after the other in a process of its own, each until it fails or for a while.
fn streams(what: &str, name: &str, go_on: impl Fn() -> bool) -> u64 {
    let mut passed = 0;
    while go_on() {
        let end = Instant::now() + Duration::from_millis(200);
        let sleep = || thread::sleep(Duration::from_millis(1));
        match what {
            "reader" => {
                let config = BufferConfig::new(METADATA, RING).with_resizing();
                let Ok(reader) = Reader::create(name, &config) else {
                    sleep();
                    continue;
                };
                reader.set_evacuation(true);
                let mut held = Vec::new();
                while Instant::now() < end && go_on() {
                    match reader.read(Duration::from_millis(20)) {
                        Ok(Item::Frame(frame)) => {
                            passed += u64::from(frame.iter().all(|byte| *byte == 7));
                            held.push(frame);
                            if held.len() > 5 {
                                held.remove(0);
                            }
                        }
                        Ok(_) => {}
                        Err(_) => {
                            let _ = reader.metadata();
                            break;
                        }
                    }
                }
            }
            "writer" => {
                let Ok(writer) = Writer::attach(name) else {
                    sleep();
                    continue;
                };
                let _ = writer.set_metadata(CAPS.as_bytes());
                let records = Records::new().with(64, b"along");
                while Instant::now() < end && go_on() {
                    let wait = Duration::from_millis(20);
                    let written = match writer.reserve_ahead_wait(FRAME as u64, wait) {
                        Some(mut place) => {
                            place.fill(7);
                            place.publish_with(&records)
                        }
                        None => writer.write_frame_with(&[7; FRAME], &records, wait),
                    };
                    let _ = writer.write_message(&records, Wait::no());
                    match written {
                        Ok(_) => passed += 1,
                        Err(_) => break,
                    }
                }
            }
            _ => {
                let pipeline = Pipeline::new(&match what {
                    "source" => format!(
                        "zerobuffersrc name=it buffer-name={name} metadata-size={METADATA} \
                         payload-size={RING} on-writer-exit=wait ! videoconvert ! \
                         fakesink sync=false"
                    ),
                    _ => format!(
                        "videotestsrc ! {CAPS} ! zerobuffersink name=it buffer-name={name} \
                         sync=false"
                    ),
                });
                let _ = pipeline.pipeline.set_state(gst::State::Playing);
                let types = [gst::MessageType::Error, gst::MessageType::Eos];
                let left = end.saturating_duration_since(Instant::now());
                let left = gst::ClockTime::from_nseconds(left.as_nanos() as u64);
                let bus = pipeline.pipeline.bus().unwrap();
                bus.timed_pop_filtered(left, &types);
                passed += pipeline.stat("it", "frames");
                pipeline.pipeline.set_state(gst::State::Null).unwrap();
            }
        }
    }
    passed
}

#[test]
fn who_scribbles_over_a_stream_ends_no_process() {
    const TEST: &str = "who_scribbles_over_a_stream_ends_no_process";
    if let Some(role) = role() {
        let (what, name) = role.split_once(' ').unwrap();
        if ["source", "sink"].contains(&what) {
            support_gst::init();
        }
        limit_memory();
        say("begins");
        let done = AtomicBool::new(false);
        let passed = thread::scope(|scope| {
            scope.spawn(|| {
                listen();
                done.store(true, Ordering::Relaxed);
            });
            streams(what, name, || !done.load(Ordering::Relaxed))
        });
        say(&passed.to_string());
        return;
    }
    let (mut random, seed) = Random::new();
    println!("ZB_SEED={seed}");
    let pairs = [
        ("reader", "writer"),
        ("writer", "reader"),
        ("source", "writer"),
        ("sink", "reader"),
    ];
    for (what, other) in pairs {
        let name = Name::new("hostile");
        let mut child = Running::start(&mut again(TEST, &format!("{what} {}", &*name)));
        assert_eq!(child.hear(), "begins");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            // Its peer keeps to everything, and has to live with the same.
            let peer = scope.spawn(|| streams(other, &name, || !done.load(Ordering::Relaxed)));
            let end = Instant::now() + SCRIBBLING;
            while Instant::now() < end {
                scribble(&name, &mut random);
                // So that some of the stream comes between.
                thread::sleep(Duration::from_micros(random.next() % 2000));
            }
            child.tell("the end");
            let passed = child.hear();
            println!("{what}: {passed} frames in spite of it");
            assert_ne!(passed, "0", "{what}: nothing was tested, ZB_SEED={seed}");
            done.store(true, Ordering::Relaxed);
            peer.join().unwrap();
        });
        child.wait().expect_success();
    }
}
