//! The ring gets the size that its frames need, and frames of all sizes arrive.

use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{Error, Writer, ring_size};

use super::support::v1::V1Writer;
use super::support::{LONG, Name, Running, again, listen, pattern, role, say, unshare, within};
use super::support_gst::{Pipeline, text};
use super::{all, bytes, caps, receiver, sender};

/// The ring at the start.
const START: u64 = 32 << 20;

/// How many frames of this size were copied, from the first on. Behind those that had to go on in the
/// ring of the start it is none.
fn copied(format: &str, width: usize, height: usize, len: u64) -> u64 {
    let name = Name::new("any-size");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! fakesink sync=false",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "videotestsrc ! video/x-raw,format={format},width={width},height={height} \
         ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    receiver.until("src", "frames", 20);
    let due = ring_size(len, 3).max(START);
    sender.until("sink", "ring-size", due);
    receiver.until("src", "ring-size", due);
    // What was rendered before that goes out first.
    let sent = sender.stat("sink", "frames");
    sender.until("sink", "frames", sent + 2);
    let copied = sender.stat("sink", "copied");
    sender.until("sink", "frames", sent + 22);
    assert_eq!(receiver.stat("src", "ring-size"), due, "{width}x{height}");
    assert_eq!(sender.stat("sink", "ring-size"), due);
    assert_eq!(sender.stat("sink", "copied"), copied, "{width}x{height}");
    drop(sender);
    receiver.no_error();
    copied
}

#[test]
fn raw_video_of_any_size_is_rendered_in_place() {
    for (format, width, height, len) in
        [("I420", 320, 240, 115_200), ("I420", 1920, 1080, 3_110_400)]
    {
        assert_eq!(copied(format, width, height, len), 0, "{width}x{height}");
    }
    // To make a large ring may take a busy machine longer than the sender waits for it, but not always.
    let in_place = (0..10).any(|_| copied("NV12", 3840, 2160, 12_441_600) == 0);
    assert!(in_place, "the first frames are always copied");
}

#[test]
fn the_sink_says_for_how_many_frames() {
    let name = Name::new("frames");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! fakesink sync=false",
        &*name
    ));
    let _sender = Pipeline::play(&format!(
        "videotestsrc ! video/x-raw,format=GRAY8,width=1000,height=1000 \
         ! zerobuffersink frames=40 sync=false buffer-name={}",
        &*name
    ));
    // The stream may go on in the first ring while this one is made.
    receiver.until("src", "ring-size", START + 1);
    assert_eq!(receiver.stat("src", "ring-size"), ring_size(1_000_000, 40));
}

#[test]
fn a_frame_that_suddenly_is_larger_makes_the_ring_grow_and_nothing_is_lost() {
    let name = Name::new("larger");
    let receiver = receiver(&name, "");
    let sender = sender(&name, &caps("application/x-test"));
    let sizes = [1000, 5_000_000, 7, 12_000_000, 100, 100, 36_000_000, 1];
    for (i, size) in (0..).zip(sizes) {
        let frame = gst::Buffer::from_slice(pattern(size, i));
        sender.appsrc("in").push_buffer(frame).unwrap();
    }
    let output = receiver.appsink("out");
    for (i, size) in (0..).zip(sizes) {
        assert!(
            bytes(&output.pull_sample().unwrap()) == pattern(size, i),
            "frame {i}"
        );
    }
    // Large memory takes its time; the stream goes on meanwhile.
    let grown = |ring: u64| ring >= 4 * 36_000_000;
    while !grown(sender.stat("sink", "ring-size")) || !grown(receiver.stat("src", "ring-size")) {
        let frame = gst::Buffer::from_slice(pattern(10, 1));
        sender.appsrc("in").push_buffer(frame).unwrap();
        assert_eq!(bytes(&output.pull_sample().unwrap()), pattern(10, 1));
    }
    sender.appsrc("in").end_of_stream().unwrap();
    receiver.end();
    sender.end();
}

#[test]
fn the_ring_never_grows_beyond_its_limit() {
    let name = Name::new("limit");
    let receiver = receiver(&name, "max-payload-size=1000000");
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=30 ! video/x-raw,format=GRAY8,width=640,height=480 \
         ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let got = all(&receiver);
    sender.end();
    assert_eq!(got.len(), 30);
    let ring = sender.stat("sink", "ring-size");
    assert!(ring <= 1_000_000 + 63, "{ring}");
}

#[test]
fn a_frame_beyond_the_limit_is_an_error_that_names_a_size() {
    let name = Name::new("beyond");
    let _receiver = receiver(&name, "max-payload-size=1000000");
    let sender = sender(&name, &caps("application/x-test"));
    let frame = gst::Buffer::from_slice(vec![1; 2_000_000]);
    sender.appsrc("in").push_buffer(frame).unwrap();
    let text = sender.error();
    assert!(text.contains("2000000 bytes is too large"), "{text}");
    assert!(text.contains("at least 6000064"), "{text}");
}

#[test]
fn a_ring_of_a_given_size_stays_as_it_is() {
    let name = Name::new("given");
    let receiver = receiver(&name, "payload-size=1000000");
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=30 ! video/x-raw,format=GRAY8,width=640,height=480 \
         ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    let segment = name.raw().len();
    assert_eq!(all(&receiver).len(), 30);
    sender.end();
    assert!(segment < 1_000_000 + (70 << 10), "{segment}");
}

#[test]
fn a_writer_of_another_implementation_gets_the_ring_of_the_start() {
    let name = Name::new("v1-writer");
    let receiver = receiver(&name, "caps=application/x-test");
    let mut writer = V1Writer::attach(&name, std::process::id().into());
    for i in 0..5 {
        writer.write(&pattern(1000, i));
    }
    let output = receiver.appsink("out");
    for i in 0..5 {
        assert_eq!(bytes(&output.pull_sample().unwrap()), pattern(1000, i));
    }
    assert_eq!(receiver.stat("src", "ring-size"), START);
    writer.close();
    receiver.end();
}

#[test]
fn a_full_dev_shm_is_a_warning_and_the_stream_goes_on() {
    const TEST: &str = "sizes::a_full_dev_shm_is_a_warning_and_the_stream_goes_on";
    if role().is_some() {
        let receiver = Pipeline::play(
            "zerobuffersrc name=src buffer-name=small ! appsink name=out sync=false",
        );
        let sender = Pipeline::play(
            "videotestsrc num-buffers=20 ! video/x-raw,format=RGBA,width=1920,height=1080 \
             ! zerobuffersink name=sink sync=false buffer-name=small",
        );
        let output = receiver.appsink("out");
        for _ in 0..20 {
            assert_eq!(
                output.pull_sample().unwrap().buffer().unwrap().size(),
                8_294_400
            );
        }
        let warning = text(&receiver.message(&[gst::MessageType::Warning]));
        assert!(warning.contains("asks for a ring of"), "{warning}");
        assert!(warning.contains("it goes on with 33554432"), "{warning}");
        sender.end();
        receiver.end();
        drop((sender, receiver));
        assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 0);
        say("done");
        return;
    }
    let script = "mount -t tmpfs -o size=40m tmpfs /dev/shm && exec \"$@\"";
    let mut wrapper = unshare(&["--mount"]);
    wrapper.extend(["sh", "-c", script, "sh"].map(Into::into));
    let ended = Running::start(&mut within(&wrapper, &again(TEST, "small"))).wait();
    assert!(ended.status.success(), "{ended:#?}");
}

#[test]
fn one_writer_after_another_each_with_the_ring_that_it_needs() {
    let name = Name::new("one-after");
    let receiver = receiver(&name, "on-writer-exit=wait");
    let output = receiver.appsink("out");
    for (turn, size) in [1000, 6_000_000, 2000, 40_000_000, 5]
        .into_iter()
        .enumerate()
    {
        let sender = sender(&name, &caps("application/x-test"));
        for i in 0..3 {
            let frame = gst::Buffer::from_slice(pattern(size + i, turn as u64));
            sender.appsrc("in").push_buffer(frame).unwrap();
        }
        sender.appsrc("in").end_of_stream().unwrap();
        for i in 0..3 {
            let sample = output.pull_sample().unwrap();
            assert!(bytes(&sample) == pattern(size + i, turn as u64));
        }
        sender.end();
    }
    receiver.no_error();
}

#[test]
fn a_stream_that_ends_while_its_ring_is_asked_for_is_whole() {
    for exit in ["eos", "wait"] {
        let name = Name::new("ends");
        let receiver = Pipeline::new(&format!(
            "zerobuffersrc name=src buffer-name={} on-writer-exit={exit} \
             ! appsink name=out sync=false",
            &*name
        ));
        // Its ring is there, and it does not read: nobody makes another.
        receiver.set_state(gst::State::Paused);
        let first = sender(&name, &caps("application/x-test"));
        for i in 0..3 {
            let frame = gst::Buffer::from_slice(pattern(5_000_000, i));
            first.appsrc("in").push_buffer(frame).unwrap();
        }
        first.appsrc("in").end_of_stream().unwrap();
        first.end();
        receiver.set_state(gst::State::Playing);
        let output = receiver.appsink("out");
        for i in 0..3 {
            assert!(bytes(&output.pull_sample().unwrap()) == pattern(5_000_000, i));
        }
        if exit == "eos" {
            receiver.end();
            continue;
        }
        let second = sender(&name, &caps("application/x-other"));
        let frame = gst::Buffer::from_slice(pattern(10, 7));
        second.appsrc("in").push_buffer(frame).unwrap();
        let sample = output.pull_sample().unwrap();
        assert_eq!(bytes(&sample), pattern(10, 7));
        assert_eq!(sample.caps().unwrap(), &*caps("application/x-other"));
    }
}

#[test]
fn a_writer_that_is_killed_while_its_ring_is_made() {
    const TEST: &str = "sizes::a_writer_that_is_killed_while_its_ring_is_made";
    if let Some(role) = role() {
        let (name, step) = role.rsplit_once(' ').unwrap();
        let metadata = b"application/x-test";
        let writer = Writer::attach_wait(name, LONG).unwrap();
        writer.set_metadata(metadata).unwrap();
        writer.write_frame(&pattern(100, 1)).unwrap();
        assert!(writer.request_size(40 << 20, LONG).unwrap());
        let (mut next, mut before) = (None, None);
        if step != "asked" {
            while !matches!(writer.look_at_reader(), Err(Error::ReaderReplaced { .. })) {
                std::thread::yield_now();
            }
        }
        // Ours goes only when it has come to the new one; others may do it the other way round.
        if step == "attached" || step == "written" {
            writer.close();
        } else {
            before = Some(writer);
        }
        if step != "asked" && step != "replaced" {
            let writer = Writer::attach_wait(name, LONG).unwrap();
            if step.ends_with("written") {
                writer.set_metadata(metadata).unwrap();
                writer.write_frame(&pattern(100, 2)).unwrap();
            }
            next = Some(writer);
        }
        say("there");
        listen();
        panic!("not killed: {next:?} {before:?}");
    }
    for exit in ["eos", "wait"] {
        for step in [
            "asked",
            "replaced",
            "attached",
            "written",
            "both",
            "both-written",
        ] {
            let name = Name::new("killed");
            let receiver = receiver(&name, &format!("on-writer-exit={exit}"));
            let output = receiver.appsink("out");
            let mut child = Running::start(&mut again(TEST, &format!("{} {step}", &*name)));
            assert_eq!(bytes(&output.pull_sample().unwrap()), pattern(100, 1));
            child.hear();
            child.kill();
            if step.ends_with("written") {
                assert_eq!(bytes(&output.pull_sample().unwrap()), pattern(100, 2));
            }
            if exit == "eos" {
                assert!(output.pull_sample().is_err(), "{step}");
                receiver.end();
                continue;
            }
            let sender = sender(&name, &caps("application/x-other"));
            let frame = gst::Buffer::from_slice(pattern(10, 7));
            sender.appsrc("in").push_buffer(frame).unwrap();
            assert_eq!(
                bytes(&output.pull_sample().unwrap()),
                pattern(10, 7),
                "{step}"
            );
            receiver.no_error();
        }
    }
}

#[test]
fn a_writer_that_ends_when_it_is_told_of_another_ring() {
    for exit in ["eos", "wait"] {
        let name = Name::new("told");
        let receiver = receiver(&name, &format!("on-writer-exit={exit}"));
        let writer = Writer::attach_wait(&name, LONG).unwrap();
        writer.set_metadata(b"application/x-test").unwrap();
        writer.write_frame(&pattern(100, 1)).unwrap();
        assert!(writer.request_size(40 << 20, LONG).unwrap());
        while !matches!(writer.look_at_reader(), Err(Error::ReaderReplaced { .. })) {
            std::thread::yield_now();
        }
        writer.end();
        let output = receiver.appsink("out");
        assert_eq!(bytes(&output.pull_sample().unwrap()), pattern(100, 1));
        if exit == "eos" {
            assert!(output.pull_sample().is_err());
            receiver.end();
            continue;
        }
        let sender = sender(&name, &caps("application/x-other"));
        let frame = gst::Buffer::from_slice(pattern(10, 7));
        sender.appsrc("in").push_buffer(frame).unwrap();
        assert_eq!(bytes(&output.pull_sample().unwrap()), pattern(10, 7));
    }
}

/// A paused receiver with a ring of 1 MB that may grow.
fn small_and_paused(name: &str) -> Pipeline {
    let receiver = Pipeline::new(&format!(
        "zerobuffersrc name=src buffer-name={name} max-payload-size=1000000 \
         ! appsink name=out sync=false"
    ));
    receiver.set_state(gst::State::Paused);
    let source = receiver.element("src");
    source.set_property("max-payload-size", 1_u64 << 30);
    receiver
}

#[test]
fn a_second_larger_request_is_met_though_the_first_had_not_been_read() {
    let name = Name::new("second");
    let receiver = small_and_paused(&name);
    let sender = sender(&name, &caps("application/x-test"));
    // The ring is asked for with the first, again with the second, and the third cannot pass.
    let sizes = [300_000, 500_000, 990_000, 10];
    for (i, size) in (0..).zip(sizes) {
        let frame = gst::Buffer::from_slice(pattern(size, i));
        sender.appsrc("in").push_buffer(frame).unwrap();
    }
    sender.until("sink", "frames", 2);
    receiver.set_state(gst::State::Playing);
    let output = receiver.appsink("out");
    for (i, size) in (0..).zip(sizes) {
        let got = bytes(&output.pull_sample().unwrap());
        assert!(got == pattern(size, i), "frame {i}");
    }
    // It may take longer than the sender waits for it, where the frame passes all the same.
    while sender.stat("sink", "ring-size") < 4 * 990_000 {
        let frame = gst::Buffer::from_slice(pattern(10, 4));
        sender.appsrc("in").push_buffer(frame).unwrap();
        assert_eq!(bytes(&output.pull_sample().unwrap()), pattern(10, 4));
    }
    sender.appsrc("in").end_of_stream().unwrap();
    receiver.end();
    sender.end();
}

#[test]
fn a_frame_that_cannot_pass_is_an_error_as_soon_as_the_reader_has_said_no() {
    let name = Name::new("no");
    let receiver = small_and_paused(&name);
    receiver
        .element("src")
        .set_property("max-payload-size", 1_000_000_u64);
    let sender = sender(&name, &caps("application/x-test"));
    let frame = gst::Buffer::from_slice(pattern(2_000_000, 1));
    sender.appsrc("in").push_buffer(frame).unwrap();
    // Nobody has said anything.
    sender.until("sink", "ring-used", 1);
    sender.no_error();
    receiver.set_state(gst::State::Playing);
    let text = sender.error();
    assert!(text.contains("2000000 bytes is too large"), "{text}");
}

#[test]
fn a_ring_that_is_made_while_its_source_is_paused_again_and_again() {
    let name = Name::new("paused");
    let receiver = small_and_paused(&name);
    let sender = sender(&name, &caps("application/x-test"));
    // Rings of hundreds of megabytes, which take their time.
    let sizes = [30_000_000, 10, 1000];
    for (i, size) in (0..).zip(sizes) {
        let frame = gst::Buffer::from_slice(pattern(size, i));
        sender.appsrc("in").push_buffer(frame).unwrap();
    }
    sender.appsrc("in").end_of_stream().unwrap();
    while receiver.stat("src", "frames") < 1 {
        for state in [gst::State::Playing, gst::State::Paused] {
            receiver.set_state(state);
        }
        receiver.no_error();
    }
    receiver.set_state(gst::State::Playing);
    let output = receiver.appsink("out");
    for (i, size) in (0..).zip(sizes) {
        assert!(bytes(&output.pull_sample().unwrap()) == pattern(size, i));
    }
    receiver.end();
    sender.end();
}

/// Time and bytes.
type Frame = (Option<gst::ClockTime>, Vec<u8>);

/// What goes into a sink.
fn watch(sender: &Pipeline) -> Arc<Mutex<Vec<Frame>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    let pad = sender.element("sink").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let buffer = info.buffer().unwrap();
        let bytes = buffer.map_readable().unwrap().to_vec();
        notes.lock().unwrap().push((buffer.pts(), bytes));
        gst::PadProbeReturn::Ok
    })
    .unwrap();
    seen
}

#[track_caller]
fn arrives(source: &str, more: &str, at_least: usize) -> Vec<usize> {
    let name = Name::new("encoded");
    let receiver = receiver(&name, &format!("timestamps=pts {more}"));
    let sender = Pipeline::new(&format!(
        "{source} ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let seen = watch(&sender);
    sender.set_state(gst::State::Playing);
    let got: Vec<_> = (all(&receiver).iter())
        .map(|sample| (sample.buffer().unwrap().pts(), bytes(sample)))
        .collect();
    sender.end();
    let sent = seen.lock().unwrap();
    assert!(sent.len() >= at_least, "{}", sent.len());
    assert_eq!(got.len(), sent.len());
    assert!(got == *sent);
    got.iter().map(|(_, bytes)| bytes.len()).collect()
}

#[test]
fn audio_of_a_thousand_buffers_a_second_arrives_bit_for_bit() {
    for more in ["", "payload-size=4096"] {
        arrives(
            "audiotestsrc wave=white-noise num-buffers=10000 samplesperbuffer=48 \
             ! audio/x-raw,format=S16LE,rate=48000,channels=2",
            more,
            10_000,
        );
    }
}

#[test]
fn h264_of_a_thousand_access_units_a_second_arrives_bit_for_bit() {
    let sizes = arrives(
        "videotestsrc num-buffers=3000 pattern=ball \
         ! video/x-raw,width=64,height=64,framerate=1000/1 \
         ! x264enc speed-preset=ultrafast tune=zerolatency key-int-max=100 \
         ! video/x-h264,stream-format=byte-stream,alignment=au",
        "",
        3000,
    );
    assert!(sizes.iter().min() < sizes.iter().max(), "{sizes:?}");
}

#[test]
fn jpeg_of_all_sizes_arrives_bit_for_bit() {
    let sizes = arrives(
        "videotestsrc num-buffers=40 pattern=smpte ! video/x-raw,width=320,height=240 \
         ! jpegenc quality=95 \
         ! image/jpeg",
        "",
        40,
    );
    assert!(sizes.iter().min() < sizes.iter().max(), "{sizes:?}");
}

#[test]
fn a_jpeg_encoder_whose_quality_changes_makes_the_ring_grow() {
    let name = Name::new("jpeg");
    let receiver = receiver(&name, "max-payload-size=200000");
    receiver
        .element("src")
        .set_property("max-payload-size", 1_u64 << 30);
    let sender = Pipeline::play(&format!(
        "videotestsrc pattern=snow ! video/x-raw,width=640,height=480 ! jpegenc name=encoder \
         quality=1 ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    receiver.appsink("out").set_max_buffers(4);
    let output = receiver.appsink("out");
    let small = output.pull_sample().unwrap().buffer().unwrap().size();
    let ring = sender.stat("sink", "ring-size");
    sender.element("encoder").set_property("quality", 100_i32);
    let large = loop {
        let len = output.pull_sample().unwrap().buffer().unwrap().size();
        if len > 4 * small {
            break len as u64;
        }
    };
    assert!(ring < 4 * large, "{ring} for {large} already");
    let now = sender.stat("sink", "ring-size");
    assert!(now >= 4 * large, "{now} for {large}");
    sender.no_error();
}
