//! One end stays, under load, and the other comes and goes a hundred times, as processes: it closes,
//! is killed, or is killed when the next one waits for its place already. Nothing is lost, and what
//! the one that stays uses does not grow.

mod support;
#[path = "support/gst.rs"]
mod with_gst;

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::duplex::{Answer, DuplexServer, DuplexServerConfig};
use gstzerobuffer::{BufferConfig, Error, Reader, Wait, Writer, testing};
use support::{LONG, Name, Running, again, listen, role, say};
use with_gst::Pipeline;

/// How often the other end goes and comes again.
const TIMES: u64 = 100;
/// After so many, what is used must not grow any more.
const SETTLED: u64 = 10;
/// Frames of each that comes.
const FRAMES: u64 = 20;
const WIDTH: usize = 160;
const HEIGHT: usize = 100;

/// How the other end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    Closes,
    Killed,
    /// The next one is there before.
    Followed,
}

/// What a process uses.
#[derive(Clone, Copy, Debug)]
struct Used {
    descriptors: usize,
    threads: usize,
    /// Objects of shared memory that are mapped, in however many pieces.
    rings: usize,
    mappings: usize,
    /// Its own memory, in KiB.
    memory: u64,
}

impl Used {
    fn now() -> Self {
        let count = |folder: &str| fs::read_dir(folder).unwrap().count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
        Used {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            rings: (maps.lines())
                .filter(|line| line.contains(" /dev/shm/"))
                .filter_map(|line| line.split_whitespace().nth(4))
                .collect::<HashSet<_>>()
                .len(),
            mappings: maps.lines().count(),
            memory: memory.unwrap(),
        }
    }

    /// Whether it is no more than `before`. The allocator may ask for some more pages; a frame or a
    /// ring that is kept a hundred times would be more than that.
    fn is_flat(&self, before: &Used) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.rings <= before.rings
            && self.mappings <= before.mappings + 8
            && self.memory <= before.memory + 1024
    }
}

/// Leads the other end, `peer`, through its hundred lives; `met` is called when one has done its
/// frames.
fn come_and_go(test: &str, peer: &str, goes: Goes, mut met: impl FnMut(u64)) {
    let mut settled = None;
    let start = || Running::start(&mut again(test, peer));
    let mut now = start();
    for time in 1..=TIMES {
        while now.hear() != "done" {}
        met(time);
        if time == SETTLED {
            settled = Some(Used::now());
        }
        let next = (goes == Goes::Followed && time < TIMES).then(|| {
            let mut next = start();
            while next.hear() != "waits" {}
            next
        });
        if goes == Goes::Closes || time == TIMES {
            now.tell("close");
            now.wait().expect_success();
        } else {
            now.kill();
        }
        if time < TIMES {
            now = next.unwrap_or_else(start);
        } else {
            break;
        }
    }
    let settled = settled.unwrap();
    // Threads and memory of what has just gone may take a moment to go too.
    let (since, mut used) = (Instant::now(), Used::now());
    while !used.is_flat(&settled) && since.elapsed() < LONG {
        std::thread::sleep(Duration::from_millis(10));
        used = Used::now();
    }
    println!("after {SETTLED}: {settled:?}\nafter {TIMES}: {used:?}");
    assert!(used.is_flat(&settled), "{used:?} after {settled:?}");
}

/// One life of a reader: it takes the name as soon as it is free, and some frames.
fn read_some(name: &str) {
    let mut waits = false;
    let reader = loop {
        match Reader::create(name, &BufferConfig::new(1024, 1 << 20)) {
            Ok(reader) => break reader,
            Err(Error::ReaderAlreadyConnected { .. }) => {}
            Err(err) => panic!("{err}"),
        }
        if !std::mem::replace(&mut waits, true) {
            say("waits");
        }
    };
    let mut first = None;
    for i in 1..=FRAMES {
        let frame = reader.read_frame(LONG).unwrap();
        assert_eq!(frame.sequence(), i);
        assert_eq!(frame.len(), WIDTH * HEIGHT);
        let crc = crc32fast::hash(&frame);
        assert_eq!(*first.get_or_insert(crc), crc, "frame {i}");
    }
    say("done");
    listen();
}

/// One life of a writer: it takes the place as soon as it is free, and writes some frames.
fn write_some(name: &str) {
    let mut waits = false;
    let writer = loop {
        match Writer::attach(name) {
            Ok(writer) => break writer,
            Err(Error::WriterAlreadyConnected { .. }) => {
                if !std::mem::replace(&mut waits, true) {
                    say("waits");
                }
            }
            Err(err) => assert!(err.is_no_reader(), "{err}"),
        }
    };
    if !writer.is_metadata_written() {
        let caps = format!("video/x-raw,format=GRAY8,width={WIDTH},height={HEIGHT},framerate=30/1");
        writer.set_metadata(caps.as_bytes()).unwrap();
    }
    for i in 0..FRAMES {
        let frame = testing::frame_data(WIDTH * HEIGHT, i);
        writer.write_frame_wait(&frame, Wait::forever()).unwrap();
    }
    say("done");
    listen();
}

/// A sink whose readers come and go. In a process of its own, so that what it uses is its own.
fn sink(test: &str, goes: Goes) {
    let role = role();
    match role.as_deref().and_then(|role| role.split_once(' ')) {
        None => {
            let name = Name::new("reconnect-sink");
            let stays = again(test, &format!("stays {}", &*name));
            let ended = Running::start(&mut { stays }).wait().expect_success();
            print!("{}", ended.out);
        }
        Some(("reads", name)) => read_some(name),
        Some((_, name)) => {
            let sender = Pipeline::play(&format!(
                "videotestsrc pattern=gradient ! video/x-raw,format=GRAY8,width={WIDTH},height={HEIGHT} \
                 ! zerobuffersink sync=false buffer-name={name}"
            ));
            come_and_go(test, &format!("reads {name}"), goes, |_| sender.no_error());
        }
    }
}

/// A source whose writers come and go.
fn source(test: &str, goes: Goes) {
    let role = role();
    match role.as_deref().and_then(|role| role.split_once(' ')) {
        None => {
            let name = Name::new("reconnect-source");
            let stays = again(test, &format!("stays {}", &*name));
            let ended = Running::start(&mut { stays }).wait().expect_success();
            print!("{}", ended.out);
        }
        Some(("writes", name)) => write_some(name),
        Some((_, name)) => {
            let receiver = Pipeline::new(&format!(
                "zerobuffersrc name=src buffer-name={name} on-writer-exit=wait \
                 ! fakesink sync=false"
            ));
            let (count, wrong) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
            let pad = receiver.element("src").static_pad("src").unwrap();
            let seen = (count.clone(), wrong.clone());
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let i = seen.0.load(Ordering::Relaxed);
                let frame = info.buffer().unwrap().map_readable().unwrap();
                if !testing::is_frame_data(&frame, i % FRAMES) {
                    seen.1.lock().unwrap().get_or_insert(i);
                }
                drop(frame);
                seen.0.store(i + 1, Ordering::Release);
                gst::PadProbeReturn::Ok
            });
            receiver.set_state(gst::State::Playing);
            come_and_go(test, &format!("writes {name}"), goes, |time| {
                // All that it wrote arrives, whatever becomes of it; and nothing else.
                while count.load(Ordering::Acquire) < time * FRAMES {
                    receiver.no_error();
                    std::thread::yield_now();
                }
                assert_eq!(*wrong.lock().unwrap(), None);
            });
            assert_eq!(count.load(Ordering::Acquire), TIMES * FRAMES);
        }
    }
}

/// One life of a worker: it takes the name as soon as it is free, and answers until it is told to
/// close, "done" when it has answered some frames.
fn work_on_some(name: &str) {
    let answers = AtomicU64::new(0);
    let invert = move |bytes: &mut Answer| {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        // When this one is due the one before has been sent.
        if answers.fetch_add(1, Ordering::Relaxed) == FRAMES {
            say("done");
        }
        Ok(())
    };
    let invert = Arc::new(invert);
    let mut waits = false;
    let server = loop {
        let (config, invert) = (DuplexServerConfig::new(1024, 1 << 20), invert.clone());
        match DuplexServer::builder(name, config).start_mutable(move |bytes| invert(bytes)) {
            Ok(server) => break server,
            Err(Error::ReaderAlreadyConnected { .. }) => {}
            Err(err) => panic!("{err}"),
        }
        if !std::mem::replace(&mut waits, true) {
            say("waits");
        }
    };
    listen();
    server.stop();
}

/// A filter whose workers come and go.
fn filter(test: &str, goes: Goes) {
    let role = role();
    match role.as_deref().and_then(|role| role.split_once(' ')) {
        None => {
            let name = Name::new("reconnect-filter");
            let stays = again(test, &format!("stays {}", &*name));
            let ended = Running::start(&mut { stays }).wait().expect_success();
            print!("{}", ended.out);
        }
        Some(("works", name)) => work_on_some(name),
        Some((_, name)) => {
            let asking = Pipeline::new(&format!(
                "videotestsrc is-live=true pattern=gradient \
                 ! video/x-raw,format=GRAY8,width={WIDTH},height={HEIGHT},framerate=1000/1 \
                 ! tee name=t ! zerobufferfilter name=f channel-name={name} \
                   on-failure=passthrough timeout=0 ! fakesink name=out sync=false"
            ));
            let (worked_on, plain) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
            let wrong = Arc::new(Mutex::new(None));
            let pads = ["t", "out"].map(|name| asking.element(name).static_pad("sink").unwrap());
            let crc = |info: &gst::PadProbeInfo, flip: u8| {
                let frame = info.buffer().unwrap().map_readable().unwrap();
                crc32fast::hash(&frame.iter().map(|byte| byte ^ flip).collect::<Vec<_>>())
            };
            // All frames are the same picture.
            let first = plain.clone();
            pads[0].add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                *first.lock().unwrap() = Some(crc(info, 0));
                gst::PadProbeReturn::Remove
            });
            let seen = (worked_on.clone(), plain, wrong.clone());
            pads[1].add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let plain = *seen.1.lock().unwrap();
                if Some(crc(info, 0xff)) == plain {
                    seen.0.fetch_add(1, Ordering::Release);
                } else if Some(crc(info, 0)) != plain {
                    *seen.2.lock().unwrap() = Some(seen.0.load(Ordering::Relaxed));
                }
                gst::PadProbeReturn::Ok
            });
            asking.set_state(gst::State::Playing);
            come_and_go(test, &format!("works {name}"), goes, |time| {
                // All that it answered arrives, whatever becomes of it.
                while worked_on.load(Ordering::Acquire) < time * FRAMES {
                    asking.no_error();
                    std::thread::yield_now();
                }
                assert_eq!(*wrong.lock().unwrap(), None);
            });
            // One that is being killed may let go of one ring before the other, and be met again.
            assert!(asking.stat("f", "workers") >= TIMES);
        }
    }
}

#[test]
fn a_filter_whose_worker_closes_a_hundred_times() {
    filter("a_filter_whose_worker_closes_a_hundred_times", Goes::Closes);
}

#[test]
fn a_filter_whose_worker_is_killed_a_hundred_times() {
    filter(
        "a_filter_whose_worker_is_killed_a_hundred_times",
        Goes::Killed,
    );
}

#[test]
fn a_filter_whose_worker_is_killed_a_hundred_times_when_the_next_is_there() {
    filter(
        "a_filter_whose_worker_is_killed_a_hundred_times_when_the_next_is_there",
        Goes::Followed,
    );
}

#[test]
fn a_sink_whose_reader_closes_a_hundred_times() {
    sink("a_sink_whose_reader_closes_a_hundred_times", Goes::Closes);
}

#[test]
fn a_sink_whose_reader_is_killed_a_hundred_times() {
    sink(
        "a_sink_whose_reader_is_killed_a_hundred_times",
        Goes::Killed,
    );
}

#[test]
fn a_sink_whose_reader_is_killed_a_hundred_times_when_the_next_is_there() {
    sink(
        "a_sink_whose_reader_is_killed_a_hundred_times_when_the_next_is_there",
        Goes::Followed,
    );
}

#[test]
fn a_source_whose_writer_closes_a_hundred_times() {
    source("a_source_whose_writer_closes_a_hundred_times", Goes::Closes);
}

#[test]
fn a_source_whose_writer_is_killed_a_hundred_times() {
    source(
        "a_source_whose_writer_is_killed_a_hundred_times",
        Goes::Killed,
    );
}

#[test]
fn a_source_whose_writer_is_killed_a_hundred_times_when_the_next_is_there() {
    source(
        "a_source_whose_writer_is_killed_a_hundred_times_when_the_next_is_there",
        Goes::Followed,
    );
}
