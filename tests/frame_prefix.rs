//! What the elements put in front of the pixels of a frame, and take off again.

mod support;
#[path = "support/feed.rs"]
mod support_feed;
#[path = "support/gst.rs"]
mod support_gst;

use std::str::FromStr;

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use gstzerobuffer::{BufferConfig, Error, Frame, Reader, Writer, ring_size};
use support::v1::V1Reader;
use support::{LONG, Name, pattern};
use support_feed::Feed;
use support_gst::{Pipeline, init};

/// GStreamer has its rows at multiples of four bytes: two of padding.
const PADDED: &str = "video/x-raw,format=RGB,width=6,height=5,framerate=25/1";
/// No padding.
const TIGHT: &str = "video/x-raw,format=RGB,width=8,height=5,framerate=25/1";
const UNKNOWN: u64 = u64::MAX;
const EXPOSURE: &str = "GstZeroBufferExposureMeta";
const PREFIX: &str = "frame-prefix=rocket-welder";

fn prefix(words: [u64; 3]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The picture without padding between its rows.
fn tight(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Vec<u8> {
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let row = info.width() as usize * info.format_info().pixel_stride()[0] as usize;
    let plane = frame.plane_data(0).unwrap();
    let rows = plane.chunks(frame.plane_stride()[0] as usize);
    rows.flat_map(|bytes| &bytes[..row]).copied().collect()
}

/// What a pipeline makes: caps, PTS and tight pictures.
fn pictures(source: &str) -> (gst::Caps, Vec<(u64, Vec<u8>)>) {
    let pipeline = Pipeline::play(&format!("{source} ! appsink name=out sync=false"));
    let mut made = Vec::new();
    let mut caps = None;
    while let Ok(sample) = pipeline.appsink("out").pull_sample() {
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        let buffer = sample.buffer().unwrap();
        made.push((buffer.pts().unwrap().nseconds(), tight(buffer, &info)));
        caps = sample.caps_owned();
    }
    (caps.unwrap(), made)
}

fn assert_frames(frames: &[impl AsRef<[u8]>], made: &[(u64, Vec<u8>)]) {
    assert_eq!(frames.len(), made.len());
    for (i, (frame, (pts, picture))) in frames.iter().zip(made).enumerate() {
        let expected = [prefix([i as u64, *pts, UNKNOWN]), picture.clone()].concat();
        assert_eq!(frame.as_ref(), expected, "frame {i}");
    }
}

#[test]
fn number_pts_and_tight_rows_are_on_the_wire_to_readers_of_both_kinds() {
    for format in ["RGB", "BGR", "RGBA", "BGRA", "ARGB", "ABGR", "GRAY8"] {
        for (width, v1) in [(6, false), (6, true), (8, false), (8, true)] {
            let source = format!(
                "videotestsrc num-buffers=5 ! video/x-raw,format={format},width={width},height=5"
            );
            let (caps, made) = pictures(&source);
            let name = Name::new("prefix-wire");
            let ring = 10_000;
            let mut foreign = v1.then(|| V1Reader::create(&name, 1024, ring));
            let ours =
                (!v1).then(|| Reader::create(&name, &BufferConfig::new(1024, ring)).unwrap());
            let sender = Pipeline::play(&format!(
                "{source} ! zerobuffersink name=sink sync=false {PREFIX} buffer-name={}",
                &*name
            ));
            sender.end();
            let raw = name.raw();
            let len = u64::from_le_bytes(raw.bytes(128, 8).try_into().unwrap());
            let metadata = raw.bytes(128 + 8, len as usize);
            let frames: Vec<Vec<u8>> = match (&mut foreign, &ours) {
                (Some(reader), _) => std::iter::from_fn(|| reader.read()).collect(),
                (_, Some(reader)) => {
                    let read = || reader.read_frame(LONG).ok().map(|frame| frame.to_vec());
                    std::iter::from_fn(read).collect()
                }
                _ => unreachable!(),
            };
            assert_frames(&frames, &made);
            let told: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
            assert_eq!(told["caps"], caps.to_string());
            assert_eq!(told["frame_prefix"], "rocket-welder");
            let counts =
                ["frames", "in-place", "copied", "bytes"].map(|it| sender.stat("sink", it));
            // Upstream has no buffer in the ring whose rows are not where they have to be.
            let in_place = if v1 || (width == 6 && format.len() != 4) {
                0
            } else {
                counts[1]
            };
            let bytes = frames.iter().map(Vec::len).sum::<usize>() as u64;
            assert_eq!(counts, [5, in_place, 5 - in_place, bytes]);
            assert!(v1 || width == 6 || in_place > 0, "{format}");
        }
    }
}

#[test]
fn frames_are_rendered_in_place_behind_their_prefix() {
    let name = Name::new("prefix-in-place");
    let size = 8 * 3 * 5;
    let config = BufferConfig::new(1024, ring_size(24 + size as u64, 3));
    let reader = Reader::create(&name, &config).unwrap();
    let feed = Feed::new(&name, TIGHT, PREFIX);
    for number in 0..50 {
        let mut buffer = feed.acquire(number);
        assert!(Feed::is_in_ring(&buffer), "frame {number}");
        assert_eq!((buffer.size(), buffer.maxsize()), (size, size));
        // Behind 64 bytes, and 24.
        let at = buffer.map_readable().unwrap().as_ptr().addr();
        assert_eq!(at % 64, 24);
        let writable = buffer.get_mut().unwrap();
        writable.set_pts(gst::ClockTime::from_mseconds(40 * number));
        let mut meta = gst::meta::CustomMeta::add(writable, EXPOSURE).unwrap();
        meta.mut_structure().set("exposure-time", 5_000 + number);
        feed.push(buffer);
        let frame = reader.read_frame(LONG).unwrap();
        let head = prefix([number, 40_000_000 * number, 5_000 + number]);
        assert_eq!(frame[..], [head, feed.frame(number)].concat());
    }
    feed.counts(50, 0);
    // Who needs addresses that these are not gets other memory, and it is copied.
    let pool = feed.pool.clone();
    pool.set_active(false).unwrap();
    let settings = pool.config();
    let aligned = gst::AllocationParams::new(gst::MemoryFlags::empty(), 15, 0, 0);
    settings.set_allocator(None::<&gst::Allocator>, Some(&aligned));
    pool.set_config(settings).unwrap();
    pool.set_active(true).unwrap();
    let buffer = feed.acquire(50);
    assert!(!Feed::is_in_ring(&buffer));
    assert_eq!(buffer.map_readable().unwrap().as_ptr().addr() % 16, 0);
    feed.push(buffer);
    let frame = reader.read_frame(LONG).unwrap();
    let head = prefix([50, UNKNOWN, UNKNOWN]);
    assert_eq!(frame[..], [head, feed.frame(50)].concat());
    feed.counts(50, 1);
}

#[test]
fn between_our_elements_the_prefix_comes_off_by_itself() {
    for (caps, in_place) in [(TIGHT, true), (PADDED, false)] {
        let source = format!("videotestsrc num-buffers=20 ! {caps}");
        let (caps, made) = pictures(&source);
        let name = Name::new("prefix-ours");
        let receiver = Pipeline::play(&format!(
            "zerobuffersrc name=src timestamps=pts buffer-name={} ! appsink name=out sync=false",
            &*name
        ));
        let sender = Pipeline::play(&format!(
            "{source} ! zerobuffersink name=sink sync=false {PREFIX} buffer-name={}",
            &*name
        ));
        let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
        for (i, (pts, picture)) in made.iter().enumerate() {
            let sample = receiver.appsink("out").pull_sample().unwrap();
            assert_eq!(sample.caps(), Some(caps.as_ref()));
            let buffer = sample.buffer().unwrap();
            assert_eq!(buffer.offset(), i as u64);
            assert_eq!(buffer.pts().map(gst::ClockTime::nseconds), Some(*pts));
            assert_eq!(tight(buffer, &info), *picture, "frame {i}");
            // appsink does not look at GstVideoMeta.
            assert_eq!(buffer.size(), info.size());
        }
        sender.end();
        receiver.end();
        assert_eq!(sender.stat("sink", "in-place") > 0, in_place);
        // The rows that have to be moved for a downstream such as this one are a copy.
        let counts = ["in-place", "copied"].map(|it| receiver.stat("src", it));
        assert_eq!(counts, if in_place { [20, 0] } else { [0, 20] });
    }
}

/// Writes frames of these contents and caps into a buffer that a zerobuffersrc has made.
fn write(name: &Name, caps: &str, frames: &[Vec<u8>]) {
    let writer = Writer::attach_wait(name, LONG).unwrap();
    writer.set_metadata(caps.as_bytes()).unwrap();
    for frame in frames {
        writer.write_frame_wait(frame, LONG).unwrap();
    }
}

#[test]
fn the_prefix_of_other_writers_is_understood_and_taken_off() {
    let picture = |i: u64, rows: usize| pattern(rows * 5, i);
    for layouts in [false, true] {
        // Of 6 pixels: with the padding of the caps' default, and as RocketWelder's SDK has them.
        for row in [20, 18] {
            let name = Name::new("prefix-foreign");
            let receiver = Pipeline::new(&format!(
                "zerobuffersrc name=src timestamps=pts {PREFIX} buffer-name={} \
                 ! appsink name=out sync=false",
                &*name
            ));
            if layouts {
                receiver.take_layouts();
            }
            receiver.set_state(gst::State::Playing);
            let head = |i: u64| match i {
                0 => prefix([7, 1_000_000, 250]),
                1 => prefix([9, UNKNOWN, UNKNOWN]),
                _ => prefix([UNKNOWN, 3_000_000, UNKNOWN]),
            };
            let frames: Vec<Vec<u8>> = (0..3)
                .map(|i| [head(i), picture(i, row)].concat())
                .collect();
            write(&name, PADDED, &frames);
            let info = gst_video::VideoInfo::from_caps(&gst::Caps::from_str(PADDED).unwrap());
            let info = info.unwrap();
            for i in 0..3 {
                let sample = receiver.appsink("out").pull_sample().unwrap();
                let buffer = sample.buffer().unwrap();
                let rows = picture(i, row);
                let expected: Vec<u8> =
                    rows.chunks(row).flat_map(|it| &it[..18]).copied().collect();
                assert_eq!(tight(buffer, &info), expected);
                let pts = [Some(1_000_000), None, Some(3_000_000)][i as usize];
                let offset = [7, 9, UNKNOWN][i as usize];
                assert_eq!(
                    (buffer.pts().map(|it| it.nseconds()), buffer.offset()),
                    (pts, offset)
                );
                let exposure = gst::meta::CustomMeta::from_buffer(buffer, EXPOSURE).ok();
                let exposure = exposure.map(|meta| meta.structure().get("exposure-time").unwrap());
                assert_eq!(exposure, [Some(250_u64), None, None][i as usize]);
            }
            receiver.end();
            let copied = if layouts || row == 20 { 0 } else { 3 };
            assert_eq!(receiver.stat("src", "copied"), copied, "rows of {row}");
        }
    }
}

#[test]
fn without_timestamps_pts_the_frames_of_other_writers_are_due_when_they_come() {
    let name = Name::new("prefix-arrival");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc {PREFIX} buffer-name={} ! appsink name=out sync=false",
        &*name
    ));
    let later = 3_600_000_000_000;
    write(
        &name,
        TIGHT,
        &[[prefix([3, later, UNKNOWN]), pattern(120, 1)].concat()],
    );
    let sample = receiver.appsink("out").pull_sample().unwrap();
    let buffer = sample.buffer().unwrap();
    assert!(buffer.pts().unwrap().nseconds() < later);
    assert_eq!(buffer.offset(), 3);
    receiver.end();
}

#[test]
fn a_frame_that_is_too_short_for_its_prefix_is_an_error() {
    for (len, why) in [
        (23, "too short for the prefix of 24"),
        (24 + 89, "do not belong together"),
    ] {
        let name = Name::new("prefix-short");
        let receiver = Pipeline::play(&format!(
            "zerobuffersrc {PREFIX} buffer-name={} ! fakesink",
            &*name
        ));
        write(&name, PADDED, &[pattern(len, 1)]);
        let text = receiver.error();
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn the_sink_takes_what_the_sdk_reads_and_nothing_else() {
    let name = Name::new("prefix-caps");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 10_000)).unwrap();
    // Whatever upstream likes best.
    let size = "video/x-raw,width=8,height=6";
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=1 ! {size},format={{I420,NV12,GRAY16_LE,GRAY8}} \
         ! zerobuffersink {PREFIX} buffer-name={}",
        &*name
    ));
    sender.end();
    assert_eq!(reader.read_frame(LONG).unwrap().len(), 24 + 48);
    drop(reader);
    let sink = gst::ElementFactory::make("zerobuffersink")
        .property_from_str("frame-prefix", "rocket-welder")
        .build()
        .unwrap();
    let pad = sink.static_pad("sink").unwrap();
    for (caps, taken) in [
        ("video/x-raw,format=BGR,width=8,height=6", true),
        ("video/x-raw,format=I420,width=8,height=6", false),
        ("video/x-raw,format=GRAY16_LE,width=8,height=6", false),
        (
            "video/x-raw(memory:DMABuf),format=BGR,width=8,height=6",
            false,
        ),
        ("image/jpeg,width=8,height=6", false),
    ] {
        let caps = gst::Caps::from_str(caps).unwrap();
        assert_eq!(pad.query_accept_caps(&caps), taken, "{caps}");
        assert_eq!(!pad.query_caps(Some(&caps)).is_empty(), taken, "{caps}");
    }
    assert!(
        pad.query_caps(None)
            .is_subset(&gst::Caps::new_empty_simple("video/x-raw"))
    );
}

#[test]
fn a_frame_that_is_dropped_has_its_number_too() {
    let name = Name::new("prefix-dropped");
    let more = format!("{PREFIX} wait-for-connection=false on-full=drop");
    let reader = Reader::create(&name, &BufferConfig::new(1024, ring_size(24 + 120, 3))).unwrap();
    let feed = Feed::new(&name, TIGHT, &more);
    let (mut number, mut sent) = (0, Vec::new());
    let mut push = |sent: &mut Vec<u64>| {
        let before = feed.sender.stat("sink", "frames");
        feed.push(feed.foreign(number));
        if feed.sender.stat("sink", "frames") > before {
            sent.push(number);
        }
        number += 1;
    };
    // Until the ring has been full for a while.
    while feed.sender.stat("sink", "dropped") < 3 {
        push(&mut sent);
    }
    let first: Vec<Frame> = sent
        .iter()
        .map(|_| reader.read_frame(LONG).unwrap())
        .collect();
    let mut numbers: Vec<u64> = first.iter().map(number_of).collect();
    drop(first);
    drop(reader);
    // And while there is nobody.
    push(&mut sent);
    let reader = Reader::create(&name, &BufferConfig::new(1024, 10_000)).unwrap();
    push(&mut sent);
    numbers.push(number_of(&reader.read_frame(LONG).unwrap()));
    assert_eq!(numbers, sent);
    assert_eq!(sent.last().unwrap() + 1, sent.len() as u64 + 4);
}

fn number_of(frame: &Frame) -> u64 {
    u64::from_le_bytes(frame[..8].try_into().unwrap())
}

#[test]
fn a_buffer_whose_metadata_tells_of_no_prefix_is_left_to_other_writers() {
    let source = format!("videotestsrc num-buffers=3 ! {TIGHT}");
    let (caps, _) = pictures(&source);
    for (there, attaches) in [("", false), (r#","frame_prefix":"rocket-welder""#, true)] {
        let name = Name::new("prefix-metadata");
        let reader = Reader::create(&name, &BufferConfig::new(1024, 10_000)).unwrap();
        let before = Writer::attach(&name).unwrap();
        let text = format!(r#"{{"caps":"{caps}"{there}}}"#);
        before.set_metadata(text.as_bytes()).unwrap();
        drop(before);
        let sender = Pipeline::play(&format!(
            "{source} ! zerobuffersink name=sink wait-for-connection=false {PREFIX} buffer-name={}",
            &*name
        ));
        sender.end();
        assert_eq!(sender.stat("sink", "frames"), if attaches { 3 } else { 0 });
        let read = reader.read_frame(LONG);
        assert_eq!(read.is_ok(), attaches, "{read:?}");
        if let Err(err) = read {
            assert!(matches!(err, Error::WriterClosed { .. }), "{err}");
        }
    }
}

#[test]
fn the_timeout_can_be_set_in_milliseconds() {
    init();
    let sink = gst::ElementFactory::make("zerobuffersink")
        .property("buffer-name", "prefix-nobody")
        .property("timeout-ms", 5_u32)
        .build()
        .unwrap();
    assert_eq!(sink.property::<u64>("timeout"), 5_000_000);
    sink.set_property("timeout", 7_900_000_u64);
    assert_eq!(sink.property::<u32>("timeout-ms"), 7);
    sink.set_property("timeout", u64::MAX - 1);
    assert_eq!(sink.property::<u32>("timeout-ms"), u32::MAX);
}

#[test]
fn a_pipeline_serves_a_filter_with_a_prefix_whether_it_answers_with_one_or_not() {
    for (caps, answer_prefix) in [(TIGHT, ""), (PADDED, ""), (TIGHT, PREFIX), (PADDED, PREFIX)] {
        let source = format!("videotestsrc num-buffers=10 ! {caps}");
        let (caps, made) = pictures(&source);
        let name = Name::new("prefix-filter");
        let worker = Pipeline::play(&format!(
            "zerobuffersrc buffer-name={0}_request \
             ! zerobuffersink sync=false {answer_prefix} buffer-name={0}_response",
            &*name
        ));
        let pipeline = Pipeline::play(&format!(
            "{source} ! zerobufferfilter name=f timeout=0 {PREFIX} channel-name={} \
             ! appsink name=out sync=false",
            &*name
        ));
        let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
        for (i, (pts, picture)) in made.iter().enumerate() {
            let sample = pipeline.appsink("out").pull_sample().unwrap();
            assert_eq!(sample.caps(), Some(caps.as_ref()));
            let buffer = sample.buffer().unwrap();
            assert_eq!(buffer.pts().map(gst::ClockTime::nseconds), Some(*pts));
            assert_eq!(buffer.size(), info.size());
            assert_eq!(tight(buffer, &info), *picture, "frame {i}");
        }
        pipeline.end();
        worker.end();
        assert_eq!(pipeline.stat("f", "answered"), 10);
        let in_place = pipeline.stat("f", "requests-in-place");
        assert_eq!(in_place > 0, info.stride()[0] == 3 * info.width() as i32);
    }
}
