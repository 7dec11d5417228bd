//! Downstream that holds on to nearly every frame: from some point on each is copied when it is
//! read, once, into memory that goes round, and no more pages are moved; when it stops holding, all
//! is in place again. The bytes of every frame are checked when it comes and when it is released.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::collections::VecDeque;
use std::fs;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Error, Frame, Reader, Writer};
use support::v1::V1Writer;
use support::{LONG, Name, Running, again, pattern, role};
use support_gst::Pipeline;

const HEADER: usize = 16;
/// More than what the elements send along with a frame.
const RECORDS: usize = 256;

/// Copies so large have pages of their own.
const LARGE: usize = 70_000;
/// Copies so small come from the heap.
const SMALL: usize = 5_000;

/// Content of any frame, cut from one piece: to make each by itself takes long.
struct Content(Vec<u8>);

impl Content {
    fn new() -> Self {
        Content(pattern(LARGE + 1024, 0))
    }

    fn frame(&self, number: u64, len: usize) -> &[u8] {
        &self.0[(number * 7 % 1024) as usize..][..len]
    }

    #[track_caller]
    fn check(&self, number: u64, frame: &[u8]) {
        assert!(*frame == *self.frame(number, frame.len()), "frame {number}");
    }
}

/// Either end of a stream.
enum End {
    Ours(Writer),
    V1(Box<V1Writer>),
}

impl End {
    /// Whether there was room.
    fn write(&mut self, frame: &[u8], ring: usize) -> bool {
        match self {
            End::Ours(writer) => match writer.write_frame_wait(frame, Duration::ZERO) {
                Ok(_) => true,
                Err(Error::BufferFull { .. }) => false,
                Err(err) => panic!("{err}"),
            },
            // Its ring has room for whole frames and nothing else, so a lap ends at its end.
            End::V1(writer) => {
                let need = (HEADER + frame.len()) as u64;
                if writer.raw.get(support::raw::FREE) < need {
                    return false;
                }
                if writer.raw.get(support::raw::WRITE_POS) == ring as u64 {
                    writer.write_at_start(frame);
                } else {
                    writer.write(frame);
                }
                true
            }
        }
    }
}

/// A writer and a reader that take turns, and what is held of it.
struct Stream {
    content: Content,
    reader: Reader,
    writer: End,
    ring: usize,
    len: usize,
    number: u64,
    held: VecDeque<(u64, Frame)>,
}

/// What came of some frames.
#[derive(Debug, PartialEq)]
struct Counts {
    /// Copied when they were read.
    at_once: u64,
    copied: u64,
}

impl Stream {
    fn new(name: &Name, frames: usize, len: usize, v1: bool) -> Self {
        let ring = frames * (HEADER + len);
        let reader = Reader::create(name, &BufferConfig::new(1024, ring as u64)).unwrap();
        reader.set_evacuation(true);
        let writer = if v1 {
            assert_eq!(reader.payload_size(), ring as u64);
            End::V1(Box::new(V1Writer::attach(name, std::process::id().into())))
        } else {
            End::Ours(Writer::attach(name).unwrap())
        };
        Stream {
            content: Content::new(),
            reader,
            writer,
            ring,
            len,
            number: 0,
            held: VecDeque::new(),
        }
    }

    /// The next frame. The reader waits only when the writer has to.
    fn next(&mut self) -> (u64, Frame) {
        self.number += 1;
        let number = self.number;
        let frame = self.content.frame(number, self.len);
        while !self.writer.write(frame, self.ring) {
            let read = self.reader.read_frame(Duration::ZERO);
            assert!(matches!(read, Err(Error::Timeout { .. })), "{read:?}");
        }
        let frame = self.reader.read_frame(LONG).unwrap();
        assert_eq!(frame.sequence(), number);
        self.content.check(number, &frame);
        (number, frame)
    }

    /// So many frames for a downstream that holds the last `holds`.
    fn run(&mut self, frames: u64, holds: usize) -> Counts {
        let copied = self.reader.frames_copied();
        let mut at_once = 0;
        for _ in 0..frames {
            let held = self.next();
            // Its room has gone back, though it is held.
            at_once += u64::from(self.reader.frames_held() == 0);
            self.held.push_back(held);
            while self.held.len() > holds {
                let (number, frame) = self.held.pop_front().unwrap();
                self.content.check(number, &frame);
            }
        }
        Counts {
            at_once,
            copied: self.reader.frames_copied() - copied,
        }
    }
}

const NONE: Counts = Counts {
    at_once: 0,
    copied: 0,
};

/// All of so many were copied when they were read, and that is all that was copied.
fn all(frames: u64) -> Counts {
    Counts {
        at_once: frames,
        copied: frames,
    }
}

fn adapts(frames: usize, len: usize, v1: bool) {
    let name = Name::new("adapts");
    let mut stream = Stream::new(&name, frames, len, v1);
    assert_eq!(stream.run(100, 1), NONE);
    for _ in 0..3 {
        stream.run(50, 40);
        assert_eq!(stream.run(500, 40), all(500));
        // What is released now was copied, and counts neither for nor against it.
        let left = stream.run(40, 1);
        assert!(left.at_once < 20 && left.copied < 20, "{left:?}");
        assert_eq!(stream.run(500, 1), NONE);
    }
    // All but what it held when it began, and while that was decided.
    assert!(stream.reader.frames_copied() <= 3 * (550 + 20));
    stream.run(100, 40);
    drop(stream.reader);
    for (number, frame) in &stream.held {
        stream.content.check(*number, frame);
    }
}

#[test]
fn frames_are_copied_while_they_are_held_and_in_place_when_they_are_not() {
    for frames in [3, 8] {
        for len in [SMALL, LARGE] {
            adapts(frames, len, false);
        }
    }
}

#[test]
fn a_v1_writer_profits_as_well() {
    for frames in [4, 8] {
        // Of a length for which the ring's size is a multiple of 64.
        adapts(frames, 69_984, true);
    }
}

#[test]
fn as_many_as_the_ring_has_room_for_may_be_held_without_a_copy() {
    let name = Name::new("room");
    let mut stream = Stream::new(&name, 8, LARGE, false);
    assert_eq!(stream.run(500, 7), NONE);
    stream.run(50, 8);
    assert_eq!(stream.run(500, 8), all(500));
}

#[test]
fn one_that_is_held_for_ever_leaves_the_ring_alone() {
    let name = Name::new("for-ever");
    let mut stream = Stream::new(&name, 3, LARGE, false);
    let (number, kept) = stream.next();
    let counts = stream.run(500, 1);
    assert_eq!((counts.at_once, counts.copied), (0, 1));
    stream.content.check(number, &kept);
}

#[test]
fn a_copy_is_nobody_elses() {
    let name = Name::new("hostile");
    let mut stream = Stream::new(&name, 3, LARGE, false);
    stream.run(100, 40);
    let raw = name.raw();
    raw.write(raw.payload_start(), &vec![0xAA; stream.ring]);
    for (number, frame) in &stream.held {
        stream.content.check(*number, frame);
    }
}

#[test]
fn a_reader_that_is_told_not_to_evacuate_copies_no_more() {
    let name = Name::new("told");
    let mut stream = Stream::new(&name, 3, LARGE, false);
    stream.run(100, 40);
    assert_eq!(stream.run(1, 40), all(1));
    stream.reader.set_evacuation(false);
    assert_eq!(stream.run(3, 43), NONE);
    let frame = stream.content.frame(0, LARGE);
    assert!(!stream.writer.write(frame, stream.ring), "it waits");
    let read = stream.reader.read_frame(Duration::from_millis(1));
    assert!(matches!(read, Err(Error::Timeout { .. })));
    assert!(!stream.writer.write(frame, stream.ring), "it still waits");
    // And begins from the beginning when it is told so.
    stream.reader.set_evacuation(true);
    assert_eq!(stream.run(1, 44).at_once, 0);
}

#[test]
fn random_release_from_many_threads_whatever_is_held() {
    const FRAMES: u64 = 3000;
    /// So many frames of one kind of downstream.
    const PHASE: u64 = 500;
    let name = Name::new("threads");
    let config = BufferConfig::new(1024, 4 * (HEADER + LARGE) as u64);
    let reader = Reader::create(&name, &config).unwrap();
    reader.set_evacuation(true);
    let writer = Writer::attach(&name).unwrap();
    let content = Content::new();
    // Around the size from which on copies have pages of their own.
    let len = |number: u64| LARGE - (number * 1237 % 10_000) as usize;
    let mut at_once = 0;
    thread::scope(|scope| {
        let content = &content;
        scope.spawn(move || {
            for number in 1..=FRAMES {
                let frame = content.frame(number, len(number));
                writer.write_frame_wait(frame, LONG).unwrap();
            }
        });
        let holders: Vec<_> = (0..4)
            .map(|seed| {
                let (give, take) = mpsc::channel::<Frame>();
                scope.spawn(move || {
                    let mut held: Vec<Frame> = Vec::new();
                    let mut random = 12345_u64 + seed;
                    for frame in take {
                        let number = frame.sequence();
                        let holds = [0, 10][(number / PHASE % 2) as usize];
                        held.push(frame);
                        while held.len() > holds {
                            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                            let at = (random >> 33) as usize % held.len();
                            let frame = held.swap_remove(at);
                            assert_eq!(frame.len(), len(frame.sequence()));
                            content.check(frame.sequence(), &frame);
                        }
                    }
                    for frame in held {
                        content.check(frame.sequence(), &frame);
                    }
                });
                give
            })
            .collect();
        for number in 1..=FRAMES {
            let frame = reader.read_frame(LONG).unwrap();
            assert_eq!(frame.sequence(), number);
            at_once += u64::from(reader.frames_held() == 0);
            holders[number as usize % 4].send(frame).unwrap();
        }
    });
    assert_eq!(reader.frames_held(), 0);
    assert!(at_once > FRAMES / 4, "{at_once}");
    assert!(reader.frames_copied() <= FRAMES);
}

/// Bytes of private memory of this process that are there, exactly.
fn private_memory() -> usize {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let kib: usize = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}

#[test]
fn memory_stays_what_it_is_and_goes_back() {
    const SIZE: usize = 1 << 20;
    if role().is_none() {
        // In a process of its own, where nobody else needs memory.
        let test = "memory_stays_what_it_is_and_goes_back";
        Running::start(&mut again(test, "alone"))
            .wait()
            .expect_success();
        return;
    }
    for copying in [true, false] {
        let name = Name::new("memory");
        let config = BufferConfig::new(1024, 3 * (HEADER + SIZE) as u64 + 64);
        let reader = Reader::create(&name, &config).unwrap();
        reader.set_evacuation(true);
        reader.set_copying(copying);
        let writer = Writer::attach(&name).unwrap();
        let mut held = VecDeque::new();
        let mut random = 1_u64;
        let mut run = |frames: u32, holds: usize| {
            for number in 0..frames {
                let write = || writer.write_frame_wait(&[number as u8; SIZE], Duration::ZERO);
                while write().is_err() {
                    assert!(reader.read_frame(Duration::ZERO).is_err());
                }
                held.push_back(reader.read_frame(LONG).unwrap());
                while held.len() > holds {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                    // Now and then any of the older half.
                    let at = match random >> 40 & 3 {
                        0 => (random >> 33) as usize % held.len().div_ceil(2),
                        _ => 0,
                    };
                    drop(held.remove(at));
                }
            }
            private_memory()
        };
        let none = run(200, 1);
        let few = run(300, 40);
        assert!(few > none + 38 * SIZE, "{none} {few}");
        let many = run(3000, 40);
        let most = few + 2 * SIZE;
        assert!(many < most, "{few} after 300, {many} after 3300");
        let back = run(200, 1);
        assert!(back < none + 2 * SIZE, "{none} before, {back} after");
        // Frames outlive their reader, and what they were is not kept then.
        run(100, 40);
        drop(reader);
        drop(held);
        let end = private_memory();
        assert!(end < none + 2 * SIZE, "{none} before, {end} at the end");
    }
}

const WIDTH: usize = 320;
const HEIGHT: usize = 240;
const FRAME: usize = WIDTH * HEIGHT * 3 / 2;
/// A ring for three frames, and no fourth.
const RING: usize = 3 * (HEADER + RECORDS + FRAME);

#[test]
fn an_encoder_with_its_default_lookahead_gets_copies_and_no_page_moves() {
    const FRAMES: u64 = 400;
    let name = Name::new("encoder");
    let receiver = Pipeline::new(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size={RING} ! x264enc ! fakesink",
        &*name
    ));
    // Where a frame is copied when it is read, all that were read are copied by then. Where it is
    // lent, it is not copied yet when it goes out.
    let not_all = Arc::new(Mutex::new(Vec::new()));
    let source = receiver.element("src");
    let (seen, element) = (not_all.clone(), source.clone());
    let pad = source.static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let stats: gst::Structure = element.property("stats");
        let get = |field| stats.get::<u64>(field).unwrap();
        if get("copied") < get("frames") {
            seen.lock().unwrap().push(get("frames"));
        }
        gst::PadProbeReturn::Ok
    })
    .unwrap();
    receiver.set_state(gst::State::Playing);
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers={FRAMES} pattern=ball \
         ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=100/1 \
         ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    sender.end();
    receiver.end();
    let not_all = not_all.lock().unwrap();
    assert!(not_all.iter().all(|number| *number <= 20), "{not_all:?}");
    assert!(not_all.len() >= 12, "{not_all:?}");
    assert_eq!(receiver.stat("src", "copied"), FRAMES);
    assert_eq!(receiver.stat("src", "in-place"), 0);
}

#[test]
fn the_source_counts_each_frame_once_whatever_downstream_holds() {
    let name = Name::new("counts");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size={} \
         ! appsink name=out sync=false max-buffers=1",
        &*name,
        3 * (HEADER + RECORDS + LARGE)
    ));
    let sender = Pipeline::play(&format!(
        "appsrc name=in caps=application/x-test ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    let content = Content::new();
    let mut held = VecDeque::new();
    let mut number = 0;
    let mut run = |frames: u64, holds: usize| {
        let before = receiver.stat("src", "copied");
        for _ in 0..frames {
            number += 1;
            let frame = gst::Buffer::from_slice(content.frame(number, LARGE).to_vec());
            sender.appsrc("in").push_buffer(frame).unwrap();
            held.push_back((number, receiver.appsink("out").pull_sample().unwrap()));
            while held.len() > holds {
                let (number, sample) = held.pop_front().unwrap();
                content.check(number, &sample.buffer().unwrap().map_readable().unwrap());
            }
            // All at one moment: a frame that is held may be copied between two.
            let stats: gst::Structure = receiver.element("src").property("stats");
            let count = |field| stats.get::<u64>(field).unwrap();
            assert_eq!(count("frames"), number);
            assert_eq!(count("in-place") + count("copied"), number);
        }
        receiver.stat("src", "copied") - before
    };
    assert_eq!(run(50, 1), 0);
    run(50, 30);
    assert_eq!(run(300, 30), 300);
    run(50, 1);
    assert_eq!(run(300, 1), 0);
    drop(held);
    sender.appsrc("in").end_of_stream().unwrap();
    receiver.end();
}
