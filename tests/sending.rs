//! Upstream renders straight into the ring: what stays in place, what is copied, and that what
//! arrives is right whatever upstream does with its buffers.

mod support;
#[path = "support/feed.rs"]
mod support_feed;
#[path = "support/gst.rs"]
mod support_gst;

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;
use support::{LONG, Name, pattern};
use support_feed::{Bench, CAPS};
use support_gst::{Pipeline, init};

/// What became of a sending pipeline.
struct Sent {
    /// The pictures that the sink was given, in this order.
    pushed: Vec<Vec<u8>>,
    /// How many of them had rows or planes elsewhere than the caps' default layout has them.
    foreign: usize,
    in_place: u64,
    copied: u64,
    /// How often one had to wait for room.
    waits: u64,
}

/// The pictures that go into the sink, in the caps' default layout, and how many had another.
type Pushed = Arc<Mutex<(Vec<Vec<u8>>, usize)>>;

/// Notes what goes into an element, without keeping it.
fn record(element: &gst::Element) -> Pushed {
    let pushed = Pushed::default();
    let noted = pushed.clone();
    let info = gst_video::VideoInfo::from_caps(&gst::Caps::from_str(CAPS).unwrap()).unwrap();
    let pad = element.static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
        let buffer = probe.buffer().unwrap();
        let foreign = buffer
            .meta::<gst_video::VideoMeta>()
            .is_some_and(|meta| meta.stride() != info.stride() || meta.offset() != info.offset());
        let mut noted = noted.lock().unwrap();
        noted.0.push(picture(buffer, &info));
        noted.1 += usize::from(foreign);
        gst::PadProbeReturn::Ok
    });
    pushed
}

/// The picture in the caps' default layout, wherever its rows are.
fn picture(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Vec<u8> {
    let from = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let into = gst::Buffer::from_mut_slice(vec![0; info.size()]);
    let mut into = gst_video::VideoFrame::from_buffer_writable(into, info).unwrap();
    from.copy(&mut into.as_mut_video_frame_ref()).unwrap();
    let copy = into.into_buffer();
    copy.map_readable().unwrap().to_vec()
}

/// Runs a sending pipeline to its end. What arrives is what went into the sink, bit by bit and in
/// the same order, and each frame was either in place or copied. The sink stands where `{sink}` does.
#[track_caller]
fn through(sending: &str, ring: &str) -> Sent {
    let name = Name::new("sending");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} {ring} ! appsink name=out sync=false",
        &*name
    ));
    let sink = format!("zerobuffersink name=sink sync=false buffer-name={}", &*name);
    let sender = Pipeline::new(&sending.replace("{sink}", &sink));
    let pushed = record(&sender.element("sink"));
    sender.set_state(gst::State::Playing);
    let arrived = pictures(&receiver);
    sender.end();
    receiver.end();
    let (pushed, foreign) = std::mem::take(&mut *pushed.lock().unwrap());
    same(&arrived, &pushed);
    let [in_place, copied, waits] =
        ["in-place", "copied", "waits"].map(|field| sender.stat("sink", field));
    assert_eq!(in_place + copied, arrived.len() as u64);
    Sent {
        pushed,
        foreign,
        in_place,
        copied,
        waits,
    }
}

/// All that comes to the appsink called `out`.
fn pictures(pipeline: &Pipeline) -> Vec<Vec<u8>> {
    let output = pipeline.appsink("out");
    let mut frames = Vec::new();
    while let Ok(sample) = output.pull_sample() {
        frames.push(sample.buffer().unwrap().map_readable().unwrap().to_vec());
    }
    frames
}

/// What the same pipeline gives to an ordinary sink.
fn without_us(sending: &str) -> Vec<Vec<u8>> {
    let pipeline = Pipeline::play(&sending.replace("{sink}", "appsink name=out sync=false"));
    let frames = pictures(&pipeline);
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

/// Whether `got` is `all` less some frames.
#[track_caller]
fn some_of(got: &[Vec<u8>], all: &[Vec<u8>]) {
    let mut rest = all.iter();
    for (i, got) in got.iter().enumerate() {
        assert!(
            rest.any(|frame| frame == got),
            "frame {i} is none of those that follow"
        );
    }
}

/// A moving picture; no two frames that follow each other are the same.
fn source(frames: usize) -> String {
    format!("videotestsrc num-buffers={frames} pattern=ball ! {CAPS}")
}

#[test]
fn frames_that_follow_each_other_differ_in_these_tests() {
    let frames = without_us(&format!("{} ! {{sink}}", source(300)));
    assert_eq!(frames.len(), 300);
    assert!(frames.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn sources_converters_scalers_mixers_and_decoders_render_into_the_ring() {
    let source = source(50);
    for sending in [
        format!("{source} ! {{sink}}"),
        format!(
            "videotestsrc num-buffers=50 pattern=ball ! video/x-raw,format=RGB,width=320,height=240 \
             ! videoconvert ! {CAPS} ! {{sink}}"
        ),
        format!(
            "videotestsrc num-buffers=50 pattern=ball ! video/x-raw,format=I420,width=160,height=120 \
             ! videoscale ! {CAPS} ! {{sink}}"
        ),
        format!(
            "compositor name=c sink_1::xpos=100 sink_1::alpha=0.5 ! {CAPS} ! {{sink}} \
             {source} ! c. \
             videotestsrc num-buffers=50 ! video/x-raw,width=100,height=100,framerate=30/1 ! c."
        ),
        format!("{source} ! queue ! {{sink}}"),
        format!("{source} ! videoconvert ! queue ! videoscale ! queue ! {{sink}}"),
        format!("{source} ! jpegenc ! jpegdec ! {{sink}}"),
        format!("{source} ! jpegenc ! jpegdec ! queue ! {{sink}}"),
    ] {
        let sent = through(&sending, "");
        same(&sent.pushed, &without_us(&sending));
        let counts = (sent.in_place, sent.copied, sent.waits);
        assert_eq!(counts, (50, 0, 0), "{sending}");
    }
}

#[test]
fn frames_that_identity_drops_do_not_hold_up_the_others() {
    let all = without_us(&format!("{} ! {{sink}}", source(200)));
    // With a queue, others are rendered already when one is dropped.
    for queue in ["", "! queue"] {
        let sending = format!(
            "{} {queue} ! identity drop-probability=0.5 ! {{sink}}",
            source(200)
        );
        // A ring for all of them: nothing is copied, and nothing waits.
        let sent = through(&sending, "");
        some_of(&sent.pushed, &all);
        let frames = sent.pushed.len() as u64;
        assert!((20..180).contains(&frames), "{frames}");
        let counts = (sent.in_place, sent.copied, sent.waits);
        assert_eq!(counts, (frames, 0, 0), "{sending}");
        // One for six: what is dropped must come back, or this would not end.
        let sent = through(&sending, "payload-size=700000");
        some_of(&sent.pushed, &all);
        assert!((20..180).contains(&sent.pushed.len()));
    }
}

#[test]
fn frames_that_videorate_drops_or_doubles_do_not_hold_up_the_others() {
    for (rate, doubles) in [("90/1", true), ("30/1", false), ("7/1", false)] {
        let sending = format!(
            "{} ! videorate ! video/x-raw,framerate={rate} ! {{sink}}",
            source(60)
        );
        let expected = without_us(&sending);
        let sent = through(&sending, "");
        same(&sent.pushed, &expected);
        // When one goes out again the next is rendered already, so that one is passed by.
        let all = if doubles { 1 } else { expected.len() as u64 };
        assert!(sent.in_place >= all, "{sending}: {}", sent.in_place);
        same(&through(&sending, "payload-size=700000").pushed, &expected);
    }
}

/// The type of the picture in a frame of MPEG-4 or MPEG-2: 1 to 3 are I, P and B. It stands behind a
/// start code.
fn picture_type(bytes: &[u8]) -> Option<u8> {
    bytes.windows(6).find_map(|at| match at {
        [0, 0, 1, 0xb6, header, _] => Some(1 + (header >> 6)),
        [0, 0, 1, 0, _, header] => Some(header >> 3 & 7),
        _ => None,
    })
}

/// Whether an encoder makes B-frames.
fn makes_b_frames(encoder: &str) -> bool {
    let pipeline = Pipeline::play(&format!(
        "{} ! {encoder} ! appsink name=out sync=false",
        source(40)
    ));
    let output = pipeline.appsink("out");
    let (mut times, mut types) = (Vec::new(), Vec::new());
    while let Ok(sample) = output.pull_sample() {
        let buffer = sample.buffer().unwrap();
        times.extend(buffer.pts());
        types.extend(picture_type(&buffer.map_readable().unwrap()));
    }
    if encoder.starts_with("x264enc") {
        // They are shown before one that comes before them.
        !times.is_sorted()
    } else {
        types.contains(&3)
    }
}

#[test]
fn decoders_with_b_frames_send_them_in_order() {
    for (encoder, decoder) in [
        ("x264enc bframes=3 ! h264parse", "avdec_h264"),
        ("avenc_mpeg4 max-bframes=2 ! mpeg4videoparse", "avdec_mpeg4"),
        ("mpeg2enc b-per-refframe=2 ! mpegvideoparse", "mpeg2dec"),
    ] {
        assert!(makes_b_frames(encoder), "{encoder} makes no B-frames");
        let sending = format!("{} ! {encoder} ! {decoder} ! {{sink}}", source(40));
        let expected = without_us(&sending);
        assert_eq!(expected.len(), 40);
        for ring in ["", "payload-size=400000"] {
            let sent = through(&sending, ring);
            same(&sent.pushed, &expected);
            // Those of libav have rows of their own lengths; the last one has the pool's buffers
            // still mapped for writing when it sends them, since it predicts from them.
            assert!(sent.copied >= sent.foreign as u64);
        }
    }
}

#[test]
fn a_decoder_that_keeps_no_frames_stays_in_place() {
    let sending = format!(
        "{} ! x264enc bframes=0 speed-preset=ultrafast ! h264parse ! openh264dec ! {{sink}}",
        source(80)
    );
    let sent = through(&sending, "");
    same(&sent.pushed, &without_us(&sending));
    assert_eq!((sent.in_place, sent.copied), (80, 0));
}

#[test]
fn a_second_branch_that_keeps_or_changes_its_buffers_changes_nothing() {
    const UNLIMITED: &str = "queue max-size-buffers=0 max-size-bytes=0 max-size-time=0";
    let expected = without_us(&format!("{} ! {{sink}}", source(100)));
    for branch in [
        // Keeps all until the end, keeps some, and writes to those whose last owner it is.
        &format!("{UNLIMITED} min-threshold-buffers=90 ! fakesink sync=false"),
        "queue max-size-buffers=3 ! identity sleep-time=1000 ! fakesink sync=false",
        "queue max-size-buffers=3 ! identity sleep-time=1000 ! videobalance brightness=0.5 ! fakesink sync=false",
    ] {
        let sending = format!(
            "{} ! tee name=t t. ! {UNLIMITED} ! {{sink}} t. ! {branch}",
            source(100)
        );
        for ring in ["", "payload-size=400000"] {
            same(&through(&sending, ring).pushed, &expected);
        }
    }
}

#[test]
fn an_upstream_that_keeps_every_buffer_sees_its_bytes_to_the_end() {
    // As a tee would that let the sink's pool through. A ring for eight frames of two hundred.
    let name = Name::new("keeps-all");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size=1000000 ! appsink name=out sync=false",
        &*name
    ));
    let sender = Pipeline::new(&format!(
        "{} ! zerobuffersink name=sink sync=false buffer-name={}",
        source(200),
        &*name
    ));
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let pad = sender.element("sink").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
        keep.lock()
            .unwrap()
            .push(probe.buffer().unwrap().to_owned());
        gst::PadProbeReturn::Ok
    });
    sender.set_state(gst::State::Playing);
    let expected = without_us(&format!("{} ! {{sink}}", source(200)));
    same(&pictures(&receiver), &expected);
    sender.end();
    receiver.end();
    assert!(sender.stat("sink", "in-place") > 0);
    let kept = kept.lock().unwrap();
    let kept: Vec<_> = (kept.iter())
        .map(|buffer: &gst::Buffer| buffer.map_readable().unwrap().to_vec())
        .collect();
    same(&kept, &expected);
}

#[test]
fn imagefreeze_pushes_the_same_buffer_again_and_again() {
    let sending = format!("{} ! imagefreeze num-buffers=50 ! {{sink}}", source(1));
    for ring in ["", "payload-size=400000"] {
        let sent = through(&sending, ring);
        same(&sent.pushed, &without_us(&sending));
        assert_eq!((sent.in_place, sent.copied), (1, 49));
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
    // Some laps of a ring that is no larger than it has to be.
    let bench = Bench::new(&name, "payload-size=1400000");
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
    // For twelve frames: twenty laps.
    let bench = Bench::new(&name, "payload-size=1400000");
    const FRAMES: u64 = 240;
    let same = |buffer: &gst::Buffer, seed| {
        assert!(
            buffer.map_readable().unwrap()[..] == bench.frame(seed),
            "frame {seed}"
        );
    };
    let first = bench.acquire(0);
    bench.push(first.clone());
    bench.expect(0);
    // As a decoder keeps what it predicts from: some for a while, all in the ring.
    let mut kept = VecDeque::new();
    for seed in 1..FRAMES {
        let buffer = bench.acquire(seed);
        kept.push_back((seed, buffer.clone()));
        bench.push(buffer);
        bench.expect(seed);
        if kept.len() > 3 {
            let (seed, buffer) = kept.pop_front().unwrap();
            same(&buffer, seed);
        }
    }
    same(&first, 0);
    bench.counts(FRAMES, 0);
}

#[test]
fn an_upstream_that_keeps_more_than_the_ring_has_room_for_gets_ordinary_memory() {
    let name = Name::new("keeps-much");
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
    assert!(bench.sender.stat("sink", "in-place") > 0);
    assert!(bench.sender.stat("sink", "copied") > 0);
    for (seed, buffer) in &kept {
        let bytes = buffer.map_readable().unwrap();
        assert!(bytes[..] == bench.frame(*seed), "{seed}");
    }
}

#[test]
fn a_kept_buffer_that_was_sent_can_no_longer_be_written_to_in_the_ring() {
    let name = Name::new("readonly");
    let bench = Bench::new(&name, "");
    let mut buffer = bench.acquire(1);
    let copy = buffer.clone();
    bench.push(copy);
    // By its references it is ours to write.
    assert!(buffer.is_writable());
    let mut map = buffer.get_mut().unwrap().map_writable().unwrap();
    map.fill(0);
    drop(map);
    bench.expect(1);
}

#[test]
fn the_same_buffer_twice_is_in_place_once() {
    let name = Name::new("twice");
    let bench = Bench::new(&name, "");
    for seed in 0..50 {
        let buffer = bench.acquire(seed);
        for _ in 0..3 {
            bench.push(buffer.clone());
            bench.expect(seed);
        }
        bench.counts(seed + 1, 2 * (seed + 1));
    }
}

#[test]
fn a_buffer_that_refers_to_the_same_memory_is_in_place() {
    // What an element makes that changes a time stamp of a buffer that somebody else has too.
    let name = Name::new("reference");
    let bench = Bench::new(&name, "payload-size=1400000");
    for seed in 0..100 {
        let kept = bench.acquire(seed);
        let mut changed = kept.clone();
        changed
            .make_mut()
            .set_pts(gst::ClockTime::from_seconds(seed));
        assert_ne!(changed.as_ptr(), kept.as_ptr());
        bench.push(changed);
        bench.expect(seed);
        assert!(kept.map_readable().unwrap()[..] == bench.frame(seed));
    }
    bench.counts(100, 0);
}

#[test]
fn a_part_of_a_buffer_is_copied() {
    let name = Name::new("part");
    let bench = Bench::new(&name, "");
    let size = bench.info.size();
    // Two frames in one piece of upstream's own memory.
    let two = gst::Buffer::from_slice([bench.frame(1), bench.frame(2)].concat());
    for seed in [1, 2] {
        let from = (seed as usize - 1) * size;
        let part = two.copy_region(gst::BufferCopyFlags::all(), from..from + size);
        bench.push(part.unwrap());
        bench.expect(seed);
    }
    bench.counts(0, 2);

    // From a pool whose buffers upstream wanted longer.
    let mut config = bench.pool.config();
    let caps = bench.info.to_caps().unwrap();
    config.set_params(Some(&caps), size as u32 + 777, 0, 0);
    bench.pool.set_active(false).unwrap();
    bench.pool.set_config(config).unwrap();
    bench.pool.set_active(true).unwrap();
    let mut long = bench.pool.acquire_buffer(None).unwrap();
    assert_eq!(long.size(), size + 777);
    let mut map = long.get_mut().unwrap().map_writable().unwrap();
    map[777..].copy_from_slice(&bench.frame(3));
    drop(map);
    bench.push(
        long.copy_region(gst::BufferCopyFlags::all(), 777..777 + size)
            .unwrap(),
    );
    bench.expect(3);
    bench.counts(0, 3);
}

#[test]
fn a_part_of_a_place_keeps_its_bytes_and_cannot_be_written_to() {
    let name = Name::new("parts");
    let bench = Bench::new(&name, "payload-size=1000000");
    let whole = bench.acquire(1);
    let part = |buffer: &gst::Buffer, range| {
        let flags = gst::BufferCopyFlags::MEMORY;
        buffer.copy_region(flags, range).unwrap()
    };
    // A part of a part, too.
    let mut parts = vec![part(&whole, 1000..5000)];
    parts.push(part(&parts[0], 100..200));
    let same = |parts: &[gst::Buffer]| {
        let frame = bench.frame(1);
        assert!(parts[0].map_readable().unwrap()[..] == frame[1000..5000]);
        assert!(parts[1].map_readable().unwrap()[..] == frame[1100..1200]);
    };
    let mut written = part(&whole, 0..100);
    let mut map = written.get_mut().unwrap().map_writable().unwrap();
    map.fill(0);
    drop(map);
    bench.push(whole);
    bench.expect(1);
    for seed in 2..100 {
        bench.push(bench.acquire(seed));
        bench.expect(seed);
    }
    bench.counts(99, 0);
    same(&parts);
    let mut written = parts.pop().unwrap();
    let mut map = written.get_mut().unwrap().map_writable().unwrap();
    map.fill(0);
    drop(map);
    parts.push(part(&parts[0], 100..200));
    same(&parts);
}

#[test]
fn a_buffer_of_several_memories_is_copied() {
    let name = Name::new("several");
    let bench = Bench::new(&name, "");
    let size = bench.info.size();
    let flags = gst::BufferCopyFlags::MEMORY;
    // The beginning in the ring, the rest elsewhere.
    let mut several = bench.acquire(1).copy_region(flags, 0..size / 2).unwrap();
    let rest = gst::Memory::from_slice(bench.frame(1)[size / 2..].to_vec());
    several.get_mut().unwrap().append_memory(rest);
    assert_eq!(several.n_memory(), 2);
    bench.push(several);
    bench.expect(1);
    // Each plane a memory of its own, as some decoders have it.
    let mut planes = gst::Buffer::new();
    let frame = bench.frame(2);
    let offset = bench.info.offset();
    for range in [offset[0]..offset[1], offset[1]..offset[2], offset[2]..size] {
        let plane = gst::Memory::from_slice(frame[range].to_vec());
        planes.get_mut().unwrap().append_memory(plane);
    }
    bench.push(planes);
    bench.expect(2);
    // Both halves in the ring, but of two places.
    let mut halves = bench.acquire(3).copy_region(flags, 0..size / 2).unwrap();
    let second = bench.acquire(3).copy_region(flags, size / 2..size).unwrap();
    halves.append(second);
    bench.push(halves);
    bench.expect(3);
    bench.counts(0, 3);
}

#[test]
fn a_place_in_the_ring_with_another_layout_stays_there_and_its_planes_are_found() {
    let name = Name::new("layout");
    let bench = Bench::new(&name, "");
    let offset = bench.info.offset();
    let swapped = [offset[0], offset[2], offset[1]];
    for seed in 0..20 {
        let mut buffer = bench.acquire(seed);
        gst_video::VideoMeta::add_full(
            buffer.get_mut().unwrap(),
            gst_video::VideoFrameFlags::empty(),
            gst_video::VideoFormat::I420,
            320,
            240,
            &swapped,
            bench.info.stride(),
        )
        .unwrap();
        bench.push(buffer);
        let mut expected = bench.frame(seed);
        let half = expected.len() - offset[2];
        expected[offset[1]..].rotate_left(half);
        assert!(bench.pull() == expected, "frame {seed}");
    }
    bench.counts(20, 0);
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
        "zerobuffersrc name=src buffer-name={} payload-size=1000000 ! appsink name=out sync=false",
        &*name
    ));
    let sender = Pipeline::new(&format!(
        "videotestsrc pattern=ball ! {CAPS} ! queue \
         ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let pushed = record(&sender.element("sink"));
    sender.set_state(gst::State::Playing);
    let arrived = std::thread::scope(|scope| {
        let arriving = scope.spawn(|| pictures(&receiver));
        for round in 1..20 {
            sender.until("sink", "in-place", round * 8);
            sender
                .pipeline
                .seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO)
                .unwrap();
        }
        sender.pipeline.send_event(gst::event::Eos::new());
        sender.end();
        arriving.join().unwrap()
    });
    receiver.end();
    // A flush may take back one that is on its way into the sink, and nothing else.
    let pushed = std::mem::take(&mut *pushed.lock().unwrap()).0;
    some_of(&arrived, &pushed);
    assert_eq!(arrived.len() as u64, sender.stat("sink", "frames"));
    assert!(arrived.len() + 19 >= pushed.len());
}

#[test]
fn what_a_flush_drops_does_not_hold_up_what_comes_behind_it() {
    let name = Name::new("flushed");
    let bench = Bench::new(&name, "payload-size=1000000");
    for round in 0..50 {
        let seed = 10 * round;
        // One on its way into the sink, which is paused, and two behind it.
        let [a, b, c] = [1, 2, 3].map(|i| bench.acquire(seed + i));
        bench.sender.set_state(gst::State::Paused);
        std::thread::scope(|scope| {
            let pad = bench.pad.clone();
            let pushing = scope.spawn(move || pad.push(a));
            bench.sender.reached();
            assert!(bench.pad.push_event(gst::event::FlushStart::new()));
            assert_eq!(pushing.join().unwrap(), Err(gst::FlowError::Flushing));
        });
        drop(b);
        assert!(bench.pad.push_event(gst::event::FlushStop::new(true)));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        assert!(bench.pad.push_event(gst::event::Segment::new(&segment)));
        bench.sender.set_state(gst::State::Playing);
        // Rendered before the flush, and after it.
        bench.push(c);
        bench.expect(seed + 3);
        bench.push(bench.acquire(seed + 4));
        bench.expect(seed + 4);
        bench.counts(2 * (round + 1), 0);
    }
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
        bench.push(bench.foreign(seed));
        bench.expect(seed);
    }
    for (seed, buffer) in (2..20).zip(taken) {
        bench.push(buffer);
        bench.expect(seed);
    }
    let held = held.buffer().unwrap().map_readable().unwrap();
    assert!(held[..] == bench.frame(1));
}

/// Pictures that come faster than they are taken, through a queue.
const FAST: &str = "videotestsrc num-buffers=200 pattern=ball \
     ! video/x-raw,format=I420,width=640,height=480,framerate=200/1 ! queue";

#[test]
fn behind_a_queue_that_fills_frames_stay_in_place() {
    for (sink, ring, receiving) in [
        // The reader is slow, or the clock is.
        (
            "sync=false",
            "",
            "identity sleep-time=3000 ! fakesink sync=false",
        ),
        (
            "sync=false",
            "payload-size=5000000",
            "identity sleep-time=3000 ! fakesink sync=false",
        ),
        ("sync=true", "payload-size=5000000", "fakesink sync=false"),
        // The reader holds on to more than the ring has room for.
        (
            "sync=false",
            "payload-size=5000000",
            "queue max-size-buffers=100 ! identity sleep-time=3000 ! fakesink sync=false",
        ),
    ] {
        let name = Name::new("sending-queue");
        let receiver = Pipeline::play(&format!(
            "zerobuffersrc name=src buffer-name={} {ring} ! {receiving}",
            &*name
        ));
        let sender = Pipeline::play(&format!(
            "{FAST} ! zerobuffersink name=sink {sink} buffer-name={}",
            &*name
        ));
        sender.end();
        receiver.end();
        let counts = ["in-place", "copied"].map(|field| sender.stat("sink", field));
        // Each time the wait was in vain, since for 250 ms nobody got to do anything, some are copied.
        assert!(counts[0] >= 150, "{counts:?} {sink} {ring}");
    }
}

#[test]
fn frames_that_were_copied_make_no_others_be_copied() {
    // The queue is full of ordinary memory when the reader comes.
    let name = Name::new("sending-late");
    let sender = Pipeline::play(&format!(
        "{FAST} name=queue ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let queue = sender.element("queue");
    while queue.property::<u32>("current-level-buffers") < 20 {
        std::thread::yield_now();
    }
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! identity sleep-time=3000 ! fakesink sync=false",
        &*name
    ));
    sender.end();
    receiver.end();
    let counts = ["in-place", "copied"].map(|field| sender.stat("sink", field));
    assert!(counts[0] >= 80, "{counts:?}");
}
