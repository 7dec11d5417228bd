//! That nothing is copied on the way from one process to the other: by the counters of both ends,
//! by frames for which there would be no room a second time, and by checksums.

mod support;
#[path = "support/feed.rs"]
mod support_feed;
#[path = "support/gst.rs"]
mod support_gst;

use std::sync::{Arc, Condvar, Mutex};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Reader, Writer, ring_size};
use support::{LONG, Name, Running, again, example, pattern, role, say};
use support_feed::{Bench, CAPS, Feed};
use support_gst::Pipeline;

/// The checksums of frames that went by somewhere, for others to wait for.
#[derive(Clone, Default)]
struct Seen(Arc<(Mutex<Vec<u32>>, Condvar)>);

impl Seen {
    /// Waits until there are so many.
    fn wait(&self, count: usize) {
        let (seen, more) = &*self.0;
        let (_seen, timeout) = more
            .wait_timeout_while(seen.lock().unwrap(), LONG, |seen| seen.len() < count)
            .unwrap();
        assert!(!timeout.timed_out(), "frame {count} did not come");
    }

    fn add(&self, probe: &gst::PadProbeInfo) -> usize {
        let bytes = probe.buffer().unwrap().map_readable().unwrap();
        let (seen, more) = &*self.0;
        let mut seen = seen.lock().unwrap();
        seen.push(crc32fast::hash(&bytes));
        more.notify_all();
        seen.len()
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut self.0.0.lock().unwrap())
    }
}

fn sink_pad(pipeline: &Pipeline, element: &str) -> gst::Pad {
    pipeline.element(element).static_pad("sink").unwrap()
}

#[test]
fn videotestsrc_to_zerobuffersink_and_zerobuffersrc_to_fakesink_count_no_copy() {
    // Eight frames; each waits for the one before it to arrive, so there is always room.
    for last_sample in [true, false] {
        let name = Name::new("counters");
        let receiver = Pipeline::new(&format!(
            "zerobuffersrc name=src buffer-name={} payload-size=1000000 \
             ! fakesink name=out sync=false enable-last-sample={last_sample}",
            &*name
        ));
        let (sent, arrived) = (Seen::default(), Seen::default());
        let come = arrived.clone();
        let latest = Arc::new(Mutex::new(None));
        let time = latest.clone();
        sink_pad(&receiver, "out").add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
            *time.lock().unwrap() = probe.buffer().and_then(|buffer| buffer.pts());
            come.add(probe);
            gst::PadProbeReturn::Ok
        });
        receiver.set_state(gst::State::Playing);
        let sender = Pipeline::new(&format!(
            "videotestsrc num-buffers=200 pattern=ball ! {CAPS} \
             ! zerobuffersink name=sink sync=false buffer-name={}",
            &*name
        ));
        let (going, come) = (sent.clone(), arrived.clone());
        let (src, out) = (receiver.element("src"), receiver.element("out"));
        // Not only that it has arrived: what is not kept has been given back.
        let settled = move || {
            if last_sample {
                let last: Option<gst::Sample> = out.property("last-sample");
                let last = last.and_then(|last| last.buffer()?.pts());
                last == *latest.lock().unwrap()
            } else {
                let stats: gst::Structure = src.property("stats");
                stats.get::<u64>("ring-used").unwrap() == 0
            }
        };
        sink_pad(&sender, "sink").add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
            let count = going.add(probe);
            come.wait(count - 1);
            while !settled() {
                std::thread::yield_now();
            }
            gst::PadProbeReturn::Ok
        });
        sender.set_state(gst::State::Playing);
        sender.end();
        receiver.end();
        let sent = sent.take();
        assert_eq!(sent.len(), 200);
        assert_eq!(arrived.take(), sent);
        for (pipeline, element) in [(&sender, "sink"), (&receiver, "src")] {
            let counts =
                ["frames", "in-place", "copied"].map(|field| pipeline.stat(element, field));
            assert_eq!(counts, [200, 200, 0], "{element}");
        }
        assert_eq!(sender.stat("sink", "waits"), 0);
    }
}

#[test]
fn a_frame_as_large_as_the_ring_is_written_and_read_in_place() {
    let name = Name::new("whole");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 100_032)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    let size = 100_032 - 16;
    for seed in 0..20 {
        let mut place = writer.reserve(size, LONG).unwrap();
        place.copy_from_slice(&pattern(size as usize, seed));
        place.commit().unwrap();
        assert_eq!(writer.used_bytes(), writer.payload_size());
        let frame = reader.read_frame(LONG).unwrap();
        assert!(frame[..] == pattern(size as usize, seed), "frame {seed}");
    }
    assert_eq!((writer.waits(), reader.frames_copied()), (0, 0));
    // That is the largest.
    assert!(writer.reserve(size + 1, LONG).is_err());
}

/// Caps of frames that have this many bytes, a multiple of four.
fn caps_of(size: u64) -> String {
    format!("video/x-raw,format=GRAY8,width={size},height=1,framerate=30/1")
}

#[test]
fn the_last_room_in_the_ring_is_filled_in_place() {
    let name = Name::new("last-room");
    const LEN: u64 = 64_000;
    // The ring holds five and no sixth. The reader keeps what it reads.
    let config = BufferConfig::new(1024, 5 * LEN + 4000);
    let reader = Reader::create(&name, &config).unwrap();
    let feed = Feed::new(&name, &caps_of(LEN), "on-full=drop");
    let mut held = Vec::new();
    let mut buffer = feed.acquire(0);
    while Feed::is_in_ring(&buffer) {
        feed.push(buffer);
        feed.counts(held.len() as u64 + 1, 0);
        held.push(reader.read_frame(LONG).unwrap());
        buffer = feed.acquire(held.len() as u64);
    }
    assert_eq!(held.len(), 5);
    // There was no room for a copy of the last one, nor is there for another.
    assert!(reader.payload_size() - reader.used_bytes() < LEN);
    feed.push(buffer);
    assert_eq!(feed.sender.stat("sink", "dropped"), 1);
    assert_eq!(feed.sender.stat("sink", "waits"), 0);
    for (seed, frame) in (0..).zip(&held) {
        assert!(frame[..] == feed.frame(seed), "frame {seed}");
    }
}

/// Sends `rounds` times `ahead` frames of `len` bytes through a ring of `ring` bytes, taking that
/// many buffers at a time, and returns how many were copied.
fn copied(ring: u64, len: u64, ahead: u64, rounds: u64) -> u64 {
    let name = Name::new("largest");
    let ring = format!("payload-size={ring}");
    let bench = Bench::with_caps(&name, &caps_of(len), &ring);
    for round in 0..rounds {
        let seeds = round * ahead..(round + 1) * ahead;
        let buffers: Vec<_> = seeds.clone().map(|seed| bench.acquire(seed)).collect();
        for buffer in buffers {
            bench.push(buffer);
        }
        for seed in seeds {
            bench.expect(seed);
        }
    }
    bench.receiver.no_error();
    let [in_place, copied] = ["in-place", "copied"].map(|field| bench.sender.stat("sink", field));
    assert_eq!(in_place + copied, rounds * ahead);
    copied
}

/// The bytes of the largest frame of which `ahead` at a time are always in place in such a ring.
fn largest(ring: u64, ahead: u64) -> u64 {
    let fits = |len: &u64| ring_size(*len, ahead) <= ring;
    (1..).map(|i| 4 * i).take_while(fits).last().unwrap()
}

#[test]
fn the_largest_frame_that_a_ring_has_in_place() {
    // Sizes at which the frames come to stand everywhere, and many laps of each.
    for ring in [16_384, 65_536, 100_032, 300_032] {
        assert_eq!(copied(ring, largest(ring, 1), 1, 200), 0, "{ring}");
        assert_eq!(copied(ring, largest(ring, 3), 3, 70), 0, "{ring}");
    }
    // Somewhat larger ones are in place where there is room beside them, and one of which a ring
    // holds only three nowhere.
    let some = copied(100_032, 26_000, 1, 100);
    assert!((1..100).contains(&some), "{some}");
    assert_eq!(copied(100_032, 33_328, 1, 100), 100);
}

/// What the example draws: three planes of a picture of 640 by 360.
fn drawn(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for y in 0..360 {
        bytes.extend((0..640).map(|x| (x + y + 4 * number) as u8));
    }
    for _ in 0..180 {
        bytes.extend((0..320).map(|x| (2 * x + number) as u8));
    }
    for y in 0..180 {
        bytes.extend((0..320).map(|_| (2 * y + number) as u8));
    }
    bytes
}

/// Receives as a process of its own, and says what came.
fn receive(name: &str) {
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={name} ! appsink name=out sync=false"
    ));
    say("ready");
    while let Ok(sample) = receiver.appsink("out").pull_sample() {
        let bytes = sample.buffer().unwrap().map_readable().unwrap();
        say(&crc32fast::hash(&bytes).to_string());
    }
    receiver.end();
    let [in_place, copied] = ["in-place", "copied"].map(|field| receiver.stat("src", field));
    say(&format!("{in_place} in place, {copied} copied"));
}

#[test]
fn an_application_draws_into_the_ring_and_another_process_sees_it() {
    if let Some(name) = role() {
        return receive(&name);
    }
    let name = Name::new("application");
    // In either order.
    for receiver_first in [true, false] {
        let this = "an_application_draws_into_the_ring_and_another_process_sees_it";
        let start_receiver = || {
            let mut receiver = Running::start(&mut again(this, &name));
            assert_eq!(receiver.hear(), "ready");
            receiver
        };
        let early = receiver_first.then(start_receiver);
        let application = Running::start(example("appsrc_in_place").args([&*name, "60"]));
        let mut receiver = early.unwrap_or_else(start_receiver);
        for number in 0..60 {
            let sum = crc32fast::hash(&drawn(number)).to_string();
            assert_eq!(receiver.hear(), sum, "frame {number}");
        }
        assert_eq!(receiver.hear(), "60 in place, 0 copied");
        receiver.wait().expect_success();
        let ended = application.wait().expect_success();
        for field in [
            "frames=(guint64)60",
            "in-place=(guint64)60",
            "copied=(guint64)0",
        ] {
            assert!(ended.out.contains(field), "{}", ended.out);
        }
    }
}

#[test]
fn the_application_fails_when_its_frames_had_to_be_copied() {
    let name = Name::new("application-v1");
    let config = BufferConfig::new(1024, 4_000_000);
    let reader = Reader::create(&name, &config).unwrap();
    // Without its hello it is a reader of another implementation.
    name.raw().write(128 + 1024 - 64, &[0; 64]);
    let application = Running::start(example("appsrc_in_place").args([&*name, "10"]));
    for number in 0..10 {
        assert!(reader.read_frame(LONG).unwrap()[..] == drawn(number));
    }
    let ended = application.wait();
    assert!(!ended.status.success(), "{ended:#?}");
    assert!(ended.err.contains("10 were copied"), "{ended:#?}");
}
