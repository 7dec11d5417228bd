//! Upstream renders straight into the ring: what stays in place, what is copied, and that what
//! arrives is right whatever upstream does with its buffers.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::str::FromStr;

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;
use support::{LONG, Name, pattern};
use support_gst::{Pipeline, init};

const CAPS: &str = "video/x-raw,format=I420,width=320,height=240,framerate=30/1";

/// What arrives from a sending pipeline, and how many of its frames were in place and copied. The
/// sender's sink stands where `{sink}` does.
fn through(sending: &str, ring: &str) -> (Vec<Vec<u8>>, u64, u64) {
    let name = Name::new("sending");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} {ring} ! appsink name=out sync=false",
        &*name
    ));
    let sink = format!("zerobuffersink name=sink sync=false buffer-name={}", &*name);
    let sender = Pipeline::play(&sending.replace("{sink}", &sink));
    let mut arrived = Vec::new();
    while let Ok(sample) = receiver.appsink("out").pull_sample() {
        arrived.push(sample.buffer().unwrap().map_readable().unwrap().to_vec());
    }
    sender.end();
    receiver.end();
    let (in_place, copied) = (
        sender.stat("sink", "in-place"),
        sender.stat("sink", "copied"),
    );
    assert_eq!(in_place + copied, arrived.len() as u64);
    (arrived, in_place, copied)
}

/// What the same pipeline gives to an ordinary sink.
fn without_us(sending: &str) -> Vec<Vec<u8>> {
    let pipeline = Pipeline::play(&sending.replace("{sink}", "appsink name=out sync=false"));
    let mut frames = Vec::new();
    while let Ok(sample) = pipeline.appsink("out").pull_sample() {
        frames.push(sample.buffer().unwrap().map_readable().unwrap().to_vec());
    }
    pipeline.end();
    frames
}

#[track_caller]
fn same(got: &[Vec<u8>], expected: &[Vec<u8>]) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(got == expected, "frame {i}");
    }
}

#[test]
fn sources_converters_and_decoders_render_into_the_ring() {
    for sending in [
        format!("videotestsrc num-buffers=50 pattern=ball ! {CAPS} ! {{sink}}"),
        format!(
            "videotestsrc num-buffers=50 pattern=ball ! video/x-raw,format=RGB,width=320,height=240 \
             ! videoconvert ! {CAPS} ! {{sink}}"
        ),
        format!(
            "videotestsrc num-buffers=50 pattern=ball ! video/x-raw,format=I420,width=160,height=120 \
             ! videoscale ! {CAPS} ! {{sink}}"
        ),
        format!("videotestsrc num-buffers=50 pattern=ball ! {CAPS} ! queue ! {{sink}}"),
        format!("videotestsrc num-buffers=50 pattern=ball ! {CAPS} ! jpegenc ! jpegdec ! {{sink}}"),
    ] {
        let (got, in_place, copied) = through(&sending, "");
        same(&got, &without_us(&sending));
        assert_eq!((in_place, copied), (50, 0), "{sending}");
    }
}

#[test]
fn dropped_and_doubled_frames_do_not_hold_up_the_others() {
    let dropping = format!(
        "videotestsrc num-buffers=200 pattern=ball ! {CAPS} \
         ! identity drop-probability=0.5 ! {{sink}}"
    );
    let (got, in_place, _) = through(&dropping, "payload-size=700000");
    assert!(got.len() > 20 && in_place > 20, "{} {in_place}", got.len());
    for rate in ["90/1", "7/1"] {
        let sending = format!(
            "videotestsrc num-buffers=60 pattern=ball ! {CAPS} ! videorate \
             ! video/x-raw,framerate={rate} ! {{sink}}"
        );
        let (got, ..) = through(&sending, "payload-size=700000");
        same(&got, &without_us(&sending));
    }
}

#[test]
fn decoders_with_frames_out_of_order_send_them_in_order() {
    for decoder in ["avdec_h264", "openh264dec", "avdec_mpeg4", "jpegdec"] {
        init();
        if gst::ElementFactory::find(decoder).is_none() {
            assert!(decoder == "openh264dec", "{decoder} is missing");
            continue;
        }
        let encoder = match decoder {
            "avdec_h264" => "x264enc bframes=3 speed-preset=ultrafast ! h264parse",
            "openh264dec" => "x264enc bframes=0 speed-preset=ultrafast ! h264parse",
            "avdec_mpeg4" => "avenc_mpeg4 max-bframes=2 ! mpeg4videoparse",
            _ => "jpegenc",
        };
        let sending = format!(
            "videotestsrc num-buffers=80 pattern=ball ! {CAPS} ! {encoder} ! {decoder} ! {{sink}}"
        );
        let (got, ..) = through(&sending, "");
        same(&got, &without_us(&sending));
    }
}

#[test]
fn a_second_branch_that_keeps_or_changes_its_buffers_changes_nothing() {
    let expected = without_us(&format!(
        "videotestsrc num-buffers=100 pattern=ball ! {CAPS} ! {{sink}}"
    ));
    for branch in [
        // Keeps all until the end, keeps some, and writes to those whose last owner it is.
        "queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 min-threshold-buffers=90 ! fakesink sync=false",
        "queue max-size-buffers=3 ! identity sleep-time=1000 ! fakesink sync=false",
        "queue max-size-buffers=3 ! identity sleep-time=1000 ! videobalance brightness=0.5 ! fakesink sync=false",
    ] {
        let sending = format!(
            "videotestsrc num-buffers=100 pattern=ball ! {CAPS} ! tee name=t \
             t. ! queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! {{sink}} \
             t. ! {branch}"
        );
        for ring in ["", "payload-size=400000"] {
            let (got, ..) = through(&sending, ring);
            same(&got, &expected);
        }
    }
}

#[test]
fn imagefreeze_pushes_the_same_buffer_again_and_again() {
    let sending =
        format!("videotestsrc num-buffers=1 ! {CAPS} ! imagefreeze num-buffers=50 ! {{sink}}");
    let (got, _, copied) = through(&sending, "payload-size=400000");
    same(&got, &without_us(&sending));
    assert!(copied >= 49);
}

/// A sender that takes buffers from the test, its pool as upstream gets it, and the receiver.
struct Bench {
    sender: Pipeline,
    receiver: Pipeline,
    pool: gst::BufferPool,
    info: gst_video::VideoInfo,
}

impl Bench {
    fn new(name: &str, ring: &str) -> Self {
        init();
        let caps = gst::Caps::from_str(CAPS).unwrap();
        let receiver = Pipeline::play(&format!(
            "zerobuffersrc name=src buffer-name={name} {ring} ! appsink name=out sync=false"
        ));
        let sender = Pipeline::new(&format!(
            "appsrc name=in format=time ! zerobuffersink name=sink sync=false buffer-name={name}"
        ));
        sender.appsrc("in").set_caps(Some(&caps));
        sender.set_state(gst::State::Playing);
        let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
        // With the first frame it attaches.
        sender
            .appsrc("in")
            .push_buffer(gst::Buffer::from_slice(pattern(info.size(), 0)))
            .unwrap();
        sender.until("sink", "frames", 1);
        let mut query = gst::query::Allocation::new(Some(&caps), true);
        let pad = sender.element("sink").static_pad("sink").unwrap();
        assert!(pad.query(&mut query));
        let (pool, size, ..) = query.allocation_pools().next().unwrap().to_owned();
        assert_eq!(size as usize, info.size());
        let pool = pool.unwrap();
        pool.set_active(true).unwrap();
        let bench = Bench {
            sender,
            receiver,
            pool,
            info,
        };
        assert!(bench.pull() == pattern(bench.info.size(), 0));
        bench
    }

    fn acquire(&self, seed: u64) -> gst::Buffer {
        let mut buffer = self.pool.acquire_buffer(None).unwrap();
        let mut map = buffer.get_mut().unwrap().map_writable().unwrap();
        map.copy_from_slice(&pattern(self.info.size(), seed));
        drop(map);
        buffer
    }

    fn push(&self, buffer: gst::Buffer) {
        let frames = self.sender.stat("sink", "frames");
        self.sender.appsrc("in").push_buffer(buffer).unwrap();
        self.sender.until("sink", "frames", frames + 1);
    }

    fn pull(&self) -> Vec<u8> {
        let sample = self.receiver.appsink("out").pull_sample().unwrap();
        let bytes = sample.buffer().unwrap().map_readable().unwrap();
        bytes.to_vec()
    }

    #[track_caller]
    fn expect(&self, seed: u64) {
        assert!(
            self.pull() == pattern(self.info.size(), seed),
            "frame {seed}"
        );
    }

    #[track_caller]
    fn counts(&self, in_place: u64, copied: u64) {
        let counts = ["in-place", "copied"].map(|field| self.sender.stat("sink", field));
        assert_eq!(counts, [in_place, copied + 1], "in place, copied");
    }
}

#[test]
fn buffers_of_the_proposed_pool_stay_in_place_and_are_aligned() {
    let name = Name::new("pool");
    let bench = Bench::new(&name, "");
    for seed in 1..100 {
        let buffer = bench.acquire(seed);
        assert_eq!(buffer.map_readable().unwrap().as_ptr() as usize % 64, 0);
        bench.push(buffer);
        bench.expect(seed);
    }
    bench.counts(99, 0);
}

#[test]
fn several_taken_ahead_dropped_and_pushed_in_another_order() {
    let name = Name::new("ahead");
    let bench = Bench::new(&name, "");
    for round in 0..50 {
        let seed = 10 * round;
        let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(|i| bench.acquire(seed + i));
        drop(b);
        bench.push(a);
        bench.push(d);
        // It was passed by, so it goes behind.
        bench.push(c);
        drop(e);
        for i in [1, 4, 3] {
            bench.expect(seed + i);
        }
    }
    bench.counts(100, 50);
}

#[test]
fn an_upstream_that_keeps_buffers_sees_their_bytes_however_often_the_ring_has_lapped() {
    let name = Name::new("keeps");
    let bench = Bench::new(&name, "payload-size=1000000");
    let mut kept = Vec::new();
    for seed in 1..200 {
        let buffer = bench.acquire(seed);
        if seed % 20 == 1 {
            kept.push((seed, buffer.clone()));
        }
        bench.push(buffer);
        bench.expect(seed);
    }
    for (seed, buffer) in &kept {
        let bytes = buffer.map_readable().unwrap();
        assert!(bytes[..] == pattern(bench.info.size(), *seed), "{seed}");
    }
}

#[test]
fn a_kept_buffer_that_was_sent_can_no_longer_be_written_to_in_the_ring() {
    let name = Name::new("readonly");
    let bench = Bench::new(&name, "");
    let mut buffer = bench.acquire(1);
    let copy = buffer.clone();
    bench.push(copy);
    // appsrc and sink have let go, so by its references it is ours to write.
    while !buffer.is_writable() {
        std::thread::yield_now();
    }
    let mut map = buffer.get_mut().unwrap().map_writable().unwrap();
    map.fill(0);
    drop(map);
    bench.expect(1);
}

#[test]
fn the_same_buffer_twice_a_part_of_one_and_one_of_several_memories_are_copied() {
    let name = Name::new("odd");
    let bench = Bench::new(&name, "");
    let buffer = bench.acquire(1);
    bench.push(buffer.clone());
    bench.push(buffer);
    bench.expect(1);
    bench.expect(1);
    bench.counts(1, 1);

    let size = bench.info.size();
    let whole = bench.acquire(2);
    let part = whole
        .copy_region(gst::BufferCopyFlags::MEMORY, 0..size / 2)
        .unwrap();
    let mut several = part;
    let rest = gst::Memory::from_slice(pattern(size, 2)[size / 2..].to_vec());
    several.get_mut().unwrap().append_memory(rest);
    bench.push(several);
    bench.expect(2);
    bench.counts(1, 2);
}

#[test]
fn a_pool_outlives_its_reader_and_serves_the_next() {
    let name = Name::new("next");
    let bench = Bench::new(&name, "");
    let (old, older) = (bench.acquire(1), bench.acquire(2));
    bench.receiver.set_state(gst::State::Null);
    bench.receiver.set_state(gst::State::Playing);
    // Made for the reader before, so it is copied to this one.
    bench.push(old);
    bench.expect(1);
    bench.push(bench.acquire(3));
    bench.expect(3);
    drop(older);
    bench.counts(1, 1);
}

#[test]
fn a_reader_of_another_implementation_gets_copies() {
    let name = Name::new("v1");
    init();
    let reader =
        gstzerobuffer::Reader::create(&name, &gstzerobuffer::BufferConfig::new(1024, 1_000_000))
            .unwrap();
    // Without its hello it is a v1 reader.
    let raw = name.raw();
    raw.write(128 + 1024 - 64, &[0; 64]);
    let sending = format!(
        "videotestsrc num-buffers=20 ! {CAPS} ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    );
    let sender = Pipeline::play(&sending);
    for sequence in 1..=20 {
        assert_eq!(reader.read_frame(LONG).unwrap().sequence(), sequence);
    }
    sender.end();
    assert_eq!(sender.stat("sink", "in-place"), 0);
    assert_eq!(sender.stat("sink", "copied"), 20);
}

#[test]
fn a_flush_in_the_middle_leaves_nothing_behind() {
    let name = Name::new("flush");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size=1000000 ! fakesink sync=false",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "videotestsrc ! {CAPS} ! queue ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    for round in 1..20 {
        sender.until("sink", "in-place", round * 20);
        sender
            .pipeline
            .seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO)
            .unwrap();
    }
    receiver.no_error();
    sender.no_error();
}

#[test]
fn what_upstream_still_has_when_the_sink_stops_touches_nobody_elses_frames() {
    let name = Name::new("stale");
    let bench = Bench::new(&name, "on-writer-exit=wait");
    let (mut pending, sent) = (bench.acquire(1), bench.acquire(2));
    let kept = sent.clone();
    bench.push(sent);
    bench.expect(2);
    bench.sender.set_state(gst::State::Ready);
    // The next writer uses the room.
    let next = gstzerobuffer::Writer::attach_wait(&name, LONG).unwrap();
    let size = bench.info.size();
    if !next.is_metadata_written() {
        next.set_metadata(CAPS.as_bytes()).unwrap();
    }
    next.write_frame(&pattern(size, 3)).unwrap();
    pending
        .get_mut()
        .unwrap()
        .map_writable()
        .unwrap()
        .fill(0xee);
    next.write_frame(&pattern(size, 4)).unwrap();
    bench.expect(3);
    bench.expect(4);
    assert!(kept.map_readable().unwrap()[..] == pattern(size, 2));
    assert!(
        pending
            .map_readable()
            .unwrap()
            .iter()
            .all(|byte| *byte == 0xee)
    );
}

#[test]
fn a_writer_that_closes_leaves_what_it_lent_alone() {
    let name = Name::new("stale-library");
    let config = gstzerobuffer::BufferConfig::new(1024, 100_000);
    let reader = gstzerobuffer::Reader::create(&name, &config).unwrap();
    let first = gstzerobuffer::Writer::attach(&name).unwrap();
    let mut exclusive = first.reserve(5000, LONG).unwrap();
    let mut ahead = first.reserve_ahead(5000).unwrap();
    exclusive.fill(7);
    first.close();
    assert!(matches!(
        reader.read_frame(LONG),
        Err(gstzerobuffer::Error::WriterClosed { .. })
    ));
    let second = gstzerobuffer::Writer::attach(&name).unwrap();
    second.write_frame(&pattern(9000, 1)).unwrap();
    let frame = reader.read_frame(LONG).unwrap();
    ahead.fill(0xee);
    assert!(exclusive.iter().all(|byte| *byte == 7));
    exclusive.fill(0xdd);
    assert!(frame[..] == pattern(9000, 1));
    assert!(ahead.commit().is_err() && exclusive.commit().is_err());
}

#[test]
fn a_pool_that_is_not_active_or_flushing_gives_nothing() {
    let name = Name::new("inactive");
    let bench = Bench::new(&name, "");
    bench.pool.set_flushing(true);
    assert_eq!(
        bench.pool.acquire_buffer(None),
        Err(gst::FlowError::Flushing)
    );
    bench.pool.set_flushing(false);
    drop(bench.acquire(1));
    bench.pool.set_active(false).unwrap();
    assert_eq!(
        bench.pool.acquire_buffer(None),
        Err(gst::FlowError::Flushing)
    );
}

#[test]
fn the_readers_posts_are_taken_also_when_nothing_is_copied() {
    let name = Name::new("posts");
    let bench = Bench::new(&name, "");
    for seed in 1..200 {
        bench.push(bench.acquire(seed));
        bench.expect(seed);
    }
    assert!(support::raw::RawSem::open('r', &name).count() < 20);
}

#[test]
fn a_frame_that_has_to_be_copied_gets_past_those_that_are_reserved_behind_it() {
    let name = Name::new("past");
    // Downstream holds the last frame, and upstream all the room that it gets.
    let bench = Bench::new(&name, "payload-size=1000000");
    let first = bench.acquire(1);
    bench.push(first);
    let held = bench.receiver.appsink("out").pull_sample().unwrap();
    let taken: Vec<_> = (2..20).map(|seed| bench.acquire(seed)).collect();
    for seed in 20..40 {
        let copied = gst::Buffer::from_slice(pattern(bench.info.size(), seed));
        bench.push(copied);
        bench.expect(seed);
    }
    for (seed, buffer) in (2..20).zip(taken) {
        bench.push(buffer);
        bench.expect(seed);
    }
    let held = held.buffer().unwrap().map_readable().unwrap();
    assert!(held[..] == pattern(bench.info.size(), 1));
}
