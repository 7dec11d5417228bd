//! Downstream that holds on to frames: with a ring of three frames everything goes on, each frame
//! keeps its bytes, and only what was held was copied.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Reader, Writer};
use support::{LONG, Name, pattern};
use support_gst::Pipeline;

const WIDTH: usize = 320;
const HEIGHT: usize = 240;
const FRAME: usize = WIDTH * HEIGHT * 3 / 2;

/// A ring for three frames, and no fourth.
const RING: usize = 3 * (16 + FRAME) + 100;

fn sender(name: &str, frames: u32) -> Pipeline {
    Pipeline::play(&format!(
        "videotestsrc num-buffers={frames} pattern=ball \
         ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=100/1 \
         ! zerobuffersink name=sink sync=false buffer-name={name}"
    ))
}

/// Runs `downstream` behind a source with a ring of three frames to its end.
fn run_through(frames: u32, downstream: &str) -> Pipeline {
    let name = Name::new("holding");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size={RING} {downstream}",
        &*name
    ));
    let sender = sender(&name, frames);
    sender.end();
    receiver.end();
    assert_eq!(receiver.stat("src", "frames"), u64::from(frames));
    receiver
}

#[test]
fn an_encoder_with_its_default_lookahead() {
    let receiver = run_through(150, "! x264enc ! fakesink");
    assert!(receiver.stat("src", "copied") > 0);
    assert_eq!(
        receiver.stat("src", "copied") + receiver.stat("src", "in-place"),
        150
    );
}

#[test]
fn shmsrc_with_three_frames_never_ends_there() {
    // The comparison: its area is held by the lookahead, and its sender blocks for ever.
    let socket = tempfile::tempdir().unwrap();
    let path = socket.path().join("shm");
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=150 \
         ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=100/1 \
         ! shmsink name=sink sync=false wait-for-connection=true shm-size={RING} socket-path={}",
        path.display()
    ));
    while !path.exists() {
        thread::yield_now();
    }
    let receiver = Pipeline::play(&format!(
        "shmsrc is-live=true socket-path={} \
         ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=100/1 \
         ! x264enc ! fakesink",
        path.display()
    ));
    let ended = sender
        .pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(gst::ClockTime::from_seconds(2), &[gst::MessageType::Eos]);
    assert!(
        ended.is_none(),
        "shmsrc has learned it; the comparison can go"
    );
    drop(receiver);
}

#[test]
fn a_long_queue_before_a_slow_sink() {
    run_through(
        120,
        "do-timestamp=false ! queue max-size-buffers=100 max-size-bytes=0 max-size-time=0 \
         ! identity sleep-time=5000 ! fakesink sync=false",
    );
}

#[test]
fn imagefreeze_keeps_one_for_ever() {
    let name = Name::new("freeze");
    // It takes one frame and tells upstream that it wants no more.
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size={RING} \
         ! imagefreeze num-buffers=200 ! appsink name=out sync=false",
        &*name
    ));
    let _sender = sender(&name, 1000);
    let output = receiver.appsink("out");
    let bytes = |sample: gst::Sample| sample.buffer().unwrap().map_readable().unwrap().to_vec();
    let first = bytes(output.pull_sample().unwrap());
    for _ in 1..200 {
        assert!(bytes(output.pull_sample().unwrap()) == first);
    }
    receiver.end();
}

#[test]
fn a_last_sample_of_a_sink_that_takes_no_more() {
    let name = Name::new("last-sample");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size={RING} \
         ! tee name=t t. ! queue leaky=downstream max-size-buffers=1 ! valve name=v drop-mode=forward-sticky-events \
         ! fakesink name=last sync=false async=false enable-last-sample=true \
         t. ! queue ! fakesink sync=false async=false",
        &*name
    ));
    let sender = sender(&name, 1000);
    let last = receiver.element("last");
    let sample = loop {
        if let Some(sample) = last.property::<Option<gst::Sample>>("last-sample") {
            break sample;
        }
        thread::yield_now();
    };
    receiver.element("v").set_property("drop", true);
    let before = sample.buffer().unwrap().map_readable().unwrap().to_vec();
    sender.end();
    receiver.end();
    assert_eq!(receiver.stat("src", "frames"), 1000);
    let after = sample.buffer().unwrap().map_readable().unwrap().to_vec();
    assert!(before == after);
}

#[test]
fn videorate_that_doubles_and_drops() {
    for rate in ["500/1", "10/1"] {
        run_through(
            100,
            &format!("! videorate ! video/x-raw,framerate={rate} ! fakesink"),
        );
    }
}

#[test]
fn an_application_that_keeps_every_tenth_sample_for_ever() {
    let name = Name::new("tenth");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size=4096 ! appsink name=out sync=false",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "appsrc name=in caps=application/x-test ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    const FRAMES: u64 = 5000;
    for i in 0..FRAMES {
        let frame = gst::Buffer::from_slice(pattern(1000 + (i % 300) as usize, i));
        sender.appsrc("in").push_buffer(frame).unwrap();
    }
    sender.appsrc("in").end_of_stream().unwrap();
    let mut kept = Vec::new();
    for i in 0..FRAMES {
        let sample = receiver.appsink("out").pull_sample().unwrap();
        if i % 10 == 0 {
            kept.push((i, sample));
        }
    }
    receiver.end();
    for (i, sample) in &kept {
        let bytes = sample.buffer().unwrap().map_readable().unwrap();
        assert!(
            bytes[..] == pattern(1000 + (i % 300) as usize, *i),
            "frame {i}"
        );
    }
}

#[test]
fn frames_released_in_random_order_from_many_threads() {
    let name = Name::new("random");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 3 * 20_100)).unwrap();
    reader.set_evacuation(true);
    let writer = Writer::attach(&name).unwrap();
    const FRAMES: u64 = 3000;
    thread::scope(|scope| {
        scope.spawn(move || {
            for i in 0..FRAMES {
                writer
                    .write_frame_wait(&pattern(20_000 - (i % 77) as usize, i), LONG)
                    .unwrap();
            }
        });
        let holders: Vec<_> = (0..4)
            .map(|_| {
                let (give, take) = mpsc::channel::<(u64, gstzerobuffer::Frame)>();
                scope.spawn(move || {
                    let mut held = Vec::new();
                    let mut random = 12345_u64;
                    for (i, frame) in take {
                        held.push((i, frame));
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                        if held.len() > 7 {
                            let (i, frame) = held.swap_remove((random >> 33) as usize % 8);
                            assert!(frame[..] == pattern(frame.len(), i), "frame {i}");
                        }
                    }
                    for (i, frame) in held {
                        assert!(frame[..] == pattern(frame.len(), i), "frame {i}");
                    }
                });
                give
            })
            .collect();
        for (i, frame) in (0..).zip(reader.frames(LONG)) {
            let frame = frame.unwrap();
            assert_eq!(frame.sequence(), i + 1);
            holders[i as usize % 4].send((i, frame)).unwrap();
        }
        drop(holders);
        assert_eq!(reader.frames_read(), FRAMES);
    });
    assert_eq!(reader.frames_held(), 0);
    assert!(reader.frames_copied() > 0);
}

#[test]
fn with_nobody_holding_on_nothing_is_copied() {
    let receiver = run_through(300, "! fakesink sync=false enable-last-sample=false");
    assert_eq!(receiver.stat("src", "in-place"), 300);
    assert_eq!(receiver.stat("src", "copied"), 0);
}

#[test]
fn a_library_user_who_did_not_ask_for_it_just_fills_the_ring() {
    let name = Name::new("plain");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        writer.write_frame(&[1; 1000]).unwrap();
        held.push(reader.read_frame(LONG).unwrap());
    }
    assert!(reader.read_frame(Duration::from_millis(50)).is_err());
    assert!(writer.write_frame_wait(&[1; 1000], Duration::ZERO).is_err());
    assert_eq!(reader.frames_copied(), 0);
    reader.set_evacuation(true);
    assert!(reader.read_frame(Duration::from_millis(1)).is_err());
    writer.write_frame_wait(&[2; 1000], Duration::ZERO).unwrap();
    assert!(held.iter().all(|frame| frame[..] == [1; 1000]));
}

#[test]
fn a_slow_stream_into_an_ordinary_sink_stays_in_place() {
    // Longer between frames than any slice of a wait, and a last sample that is held.
    let name = Name::new("slow");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size=1000000 ! fakesink",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=8 is-live=true \
         ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=10/1 \
         ! zerobuffersink buffer-name={}",
        &*name
    ));
    sender.end();
    receiver.end();
    assert_eq!(receiver.stat("src", "in-place"), 8);
}

#[test]
fn thousands_of_small_held_frames_are_no_problem() {
    let name = Name::new("small");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 300_000)).unwrap();
    reader.set_evacuation(true);
    let writer = Writer::attach(&name).unwrap();
    let mut held = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..20_000 {
                writer.write_frame_wait(&pattern(4000, i), LONG).unwrap();
            }
        });
        for _ in 0..20_000 {
            held.push(reader.read_frame(LONG).unwrap());
        }
    });
    for (i, frame) in (0..).zip(&held) {
        assert!(frame[..] == pattern(4000, i), "frame {i}");
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.lines().count() < 20_000, "{}", maps.lines().count());
}
