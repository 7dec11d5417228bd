//! States, restarts and deaths: what the elements do when a stream does not just run.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::str::FromStr;

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Error, Reader, Writer};
use support::{LONG, Name, Running, example, pattern};
use support_gst::{Pipeline, init, launch, text};

const TEST_CAPS: &str = "application/x-test";

/// A sender that takes buffers from the test, with some frames for it in its queue already.
fn sender(name: &str, more: &str, frames: u64) -> Pipeline {
    let sender = Pipeline::new(&format!(
        "appsrc name=in format=time caps={TEST_CAPS} \
         ! zerobuffersink name=sink sync=false buffer-name={name} {more}"
    ));
    let input = sender.appsrc("in");
    for i in 0..frames {
        input
            .push_buffer(gst::Buffer::from_slice(pattern(1000, i)))
            .unwrap();
    }
    sender.set_state(gst::State::Playing);
    sender
}

/// A ring for four of the sender's frames, with their headers and times.
fn reader(name: &str) -> Reader {
    Reader::create(name, &BufferConfig::new(1024, 4480)).unwrap()
}

fn expect_frames(reader: &Reader, frames: std::ops::Range<u64>) {
    for i in frames {
        assert!(
            reader.read_frame(LONG).unwrap()[..] == pattern(1000, i),
            "frame {i}"
        );
    }
}

#[test]
fn pausing_while_blocked_on_a_full_ring_loses_nothing() {
    let name = Name::new("pause-full");
    let reader = reader(&name);
    let sender = sender(&name, "", 10);
    for _ in 0..5 {
        sender.until("sink", "waits", 1);
        sender.set_state(gst::State::Paused);
        sender.reached();
        sender.set_state(gst::State::Playing);
        sender.reached();
    }
    expect_frames(&reader, 0..10);
    sender.appsrc("in").end_of_stream().unwrap();
    sender.end();
    assert!(matches!(
        reader.read_frame(LONG),
        Err(Error::WriterClosed { .. })
    ));
}

#[test]
fn pausing_while_there_is_no_reader_loses_nothing() {
    let name = Name::new("pause-none");
    let sender = sender(&name, "", 10);
    sender.reached();
    for _ in 0..20 {
        sender.set_state(gst::State::Paused);
        sender.reached();
        sender.set_state(gst::State::Playing);
        sender.reached();
    }
    let reader = reader(&name);
    expect_frames(&reader, 0..10);
    sender.no_error();
}

#[test]
fn pausing_and_playing_faster_than_anybody_can_follow_blocks_nobody() {
    let name = Name::new("pause-storm");
    let sender = sender(&name, "", 10);
    sender.reached();
    let sink = sender.element("sink");
    // The element alone: a pipeline would settle each change first.
    for _ in 0..500 {
        sink.set_state(gst::State::Paused).unwrap();
        sink.set_state(gst::State::Playing).unwrap();
    }
    let reader = reader(&name);
    expect_frames(&reader, 0..10);
    sender.no_error();
}

#[test]
fn a_paused_source_lets_the_frames_wait() {
    let name = Name::new("pause-source");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! appsink name=out sync=false",
        &*name
    ));
    let sender = sender(&name, "", 1);
    let output = receiver.appsink("out");
    output.pull_sample().unwrap();
    for round in 1..5 {
        receiver.set_state(gst::State::Paused);
        receiver.reached();
        let frame = gst::Buffer::from_slice(pattern(1000, round));
        sender.appsrc("in").push_buffer(frame).unwrap();
        sender.until("sink", "frames", round + 1);
        receiver.set_state(gst::State::Playing);
        let sample = output.pull_sample().unwrap();
        let frame = sample.buffer().unwrap().map_readable().unwrap();
        assert!(frame[..] == pattern(1000, round), "frame {round}");
    }
}

#[test]
fn a_source_that_is_paused_and_played_while_it_waits_goes_on() {
    let name = Name::new("pause-waiting");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! appsink name=out sync=false",
        &*name
    ));
    let sender = sender(&name, "", 1);
    let output = receiver.appsink("out");
    output.pull_sample().unwrap();
    let source = receiver.element("src");
    for round in 1..5 {
        // The element alone: a pipeline would settle each change first.
        for _ in 0..5 {
            source.set_state(gst::State::Paused).unwrap();
            source.set_state(gst::State::Playing).unwrap();
        }
        // Longer than it takes until an interrupt is noticed.
        let wait = gst::ClockTime::from_mseconds(100);
        assert!(output.try_pull_sample(wait).is_none());
        let frame = gst::Buffer::from_slice(pattern(1000, round));
        sender.appsrc("in").push_buffer(frame).unwrap();
        let sample = output.pull_sample().unwrap();
        let frame = sample.buffer().unwrap().map_readable().unwrap();
        assert!(frame[..] == pattern(1000, round), "frame {round}");
    }
}

#[test]
fn pausing_a_source_again_and_again_loses_nothing() {
    const FRAMES: u64 = 5000;
    let name = Name::new("pause-again");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc buffer-name={} ! appsink name=out sync=false max-buffers=5",
        &*name
    ));
    let output = receiver.appsink("out");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = Writer::attach_wait(&name, LONG).unwrap();
            writer.set_metadata(TEST_CAPS.as_bytes()).unwrap();
            for i in 0..FRAMES {
                writer.write_frame(&i.to_le_bytes()).unwrap();
            }
        });
        let got = scope.spawn(|| {
            // Until the end of the stream.
            std::iter::from_fn(|| output.pull_sample().ok())
                .map(|sample| {
                    let map = sample.buffer().unwrap().map_readable().unwrap();
                    u64::from_le_bytes(map[..].try_into().unwrap())
                })
                .collect::<Vec<_>>()
        });
        while !got.is_finished() {
            receiver.set_state(gst::State::Paused);
            receiver.set_state(gst::State::Playing);
        }
        assert_eq!(got.join().unwrap(), (0..FRAMES).collect::<Vec<_>>());
    });
}

#[test]
fn a_blocked_sender_stops_on_a_full_ring() {
    let name = Name::new("stop-full");
    let _reader = reader(&name);
    let sender = sender(&name, "", 10);
    sender.until("sink", "waits", 1);
    sender.set_state(gst::State::Null);
}

#[test]
fn a_blocked_sender_stops_when_no_reader_has_come() {
    let name = Name::new("stop-none");
    let sender = sender(&name, "", 10);
    sender.set_state(gst::State::Null);
}

#[test]
fn a_blocked_sender_stops_when_its_reader_is_stopped() {
    let name = Name::new("stop-stopped");
    let mut peer = Running::start(example("zb_read").args([&*name, "1024", "4096", "0", "600"]));
    let sender = sender(&name, "", 1);
    // It has read one, so it is past its start.
    assert!(peer.line().unwrap().contains("\"seq\":1"));
    peer.stop();
    for i in 0..10 {
        let frame = gst::Buffer::from_slice(pattern(1000, i));
        sender.appsrc("in").push_buffer(frame).unwrap();
    }
    sender.until("sink", "waits", 1);
    sender.set_state(gst::State::Paused);
    sender.reached();
    sender.set_state(gst::State::Playing);
    sender.set_state(gst::State::Null);
    peer.signal(nix::sys::signal::Signal::SIGCONT);
    peer.wait().expect_success();
}

#[test]
fn a_source_stops_without_a_frame_and_when_its_writer_is_stopped() {
    let name = Name::new("stop-source");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} caps={TEST_CAPS} ! fakesink",
        &*name
    ));
    let writer = Running::start(example("zb_write").args([&*name, "1000000", "100", "-", "0"]));
    receiver.until("src", "frames", 1);
    writer.stop();
    receiver.set_state(gst::State::Paused);
    receiver.set_state(gst::State::Playing);
    receiver.set_state(gst::State::Null);
    writer.signal(nix::sys::signal::Signal::SIGCONT);
    assert!(!writer.wait().status.success(), "its reader closed");

    receiver.set_state(gst::State::Playing);
    receiver.set_state(gst::State::Null);
}

#[test]
fn a_flushing_seek_gets_through_a_blocked_sink() {
    let name = Name::new("flush");
    let reader = reader(&name);
    let sender = Pipeline::play(&format!(
        "videotestsrc ! video/x-raw,format=GRAY8,width=32,height=30 \
         ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let mut next = 1;
    for round in 1..5 {
        sender.until("sink", "waits", round);
        let seek = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
        sender
            .pipeline
            .seek_simple(seek, gst::ClockTime::ZERO)
            .unwrap();
        // What was in the ring stays there, and what comes behind it follows.
        for _ in 0..10 {
            assert_eq!(reader.read_frame(LONG).unwrap().sequence(), next);
            next += 1;
        }
    }
}

#[test]
fn a_sink_survives_its_readers_and_tells_each_the_caps() {
    let name = Name::new("readers");
    let sender = Pipeline::play(&format!(
        "videotestsrc ! video/x-raw,format=GRAY8,width=32,height=30 \
         ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    for _ in 0..20 {
        let reader = reader(&name);
        for sequence in 1..10 {
            assert_eq!(reader.read_frame(LONG).unwrap().sequence(), sequence);
        }
        let metadata = String::from_utf8(reader.metadata().unwrap().unwrap()).unwrap();
        assert!(
            metadata.contains("format=(string)GRAY8, width=(int)32"),
            "{metadata}"
        );
    }
    sender.no_error();
    assert_eq!(sender.stat("sink", "dropped"), 0);
}

#[test]
fn a_frame_that_was_waiting_for_room_goes_to_the_next_reader() {
    let name = Name::new("next-reader");
    let first = reader(&name);
    let sender = sender(&name, "", 5);
    sender.until("sink", "waits", 1);
    drop(first);
    let second = reader(&name);
    expect_frames(&second, 4..5);
    sender.no_error();
}

#[test]
fn a_sink_that_does_not_wait_drops_until_a_reader_comes() {
    let name = Name::new("drop-none");
    let sender = sender(&name, "wait-for-connection=false", 10);
    sender.until("sink", "dropped", 10);
    let reader = reader(&name);
    let frame = gst::Buffer::from_slice(pattern(1000, 10));
    sender.appsrc("in").push_buffer(frame).unwrap();
    expect_frames(&reader, 10..11);
    drop(reader);
    let frame = gst::Buffer::from_slice(pattern(1000, 11));
    sender.appsrc("in").push_buffer(frame).unwrap();
    sender.until("sink", "dropped", 11);
    assert_eq!(sender.stat("sink", "frames"), 1);
}

#[test]
fn a_sink_can_drop_what_does_not_fit() {
    let name = Name::new("drop-full");
    let reader = reader(&name);
    let sender = sender(&name, "on-full=drop", 10);
    sender.until("sink", "dropped", 6);
    assert_eq!(sender.stat("sink", "frames"), 4);
    assert_eq!(sender.stat("sink", "waits"), 0);
    expect_frames(&reader, 0..4);
    let frame = gst::Buffer::from_slice(pattern(1000, 20));
    sender.appsrc("in").push_buffer(frame).unwrap();
    expect_frames(&reader, 20..21);
}

#[test]
fn a_source_serves_one_writer_after_another() {
    init();
    let name = Name::new("writers");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} on-writer-exit=wait \
         ! appsink name=out sync=false",
        &*name
    ));
    let output = receiver.appsink("out");
    for width in 1..10 {
        let caps = gst::Caps::from_str(&format!(
            "video/x-raw,format=GRAY8,width={width},height=3,framerate=25/1"
        ))
        .unwrap();
        let sender = Pipeline::new(&format!(
            "appsrc name=in format=time ! zerobuffersink sync=false buffer-name={}",
            &*name
        ));
        let input = sender.appsrc("in");
        input.set_caps(Some(&caps));
        for i in 0..5 {
            input
                .push_buffer(gst::Buffer::from_slice(pattern(12 * 3, i)))
                .unwrap();
        }
        input.end_of_stream().unwrap();
        sender.set_state(gst::State::Playing);
        for i in 0..5 {
            let sample = output.pull_sample().unwrap();
            let buffer = sample.buffer().unwrap();
            assert_eq!(sample.caps().unwrap(), &*caps);
            // Without the padding.
            assert!(pattern(12 * 3, i).starts_with(&buffer.map_readable().unwrap()));
            assert_eq!(buffer.flags().contains(gst::BufferFlags::DISCONT), i == 0);
        }
        sender.end();
    }
    receiver.no_error();
}

#[test]
fn the_next_writer_need_not_wait_for_the_source_to_notice_the_last_ones_end() {
    let name = Name::new("quick-writers");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} caps={TEST_CAPS} on-writer-exit=wait \
         ! appsink name=out sync=false",
        &*name
    ));
    // Frames without metadata, so that any buffer suits the next.
    for _ in 0..50 {
        let writer = Writer::attach_wait(&name, LONG).unwrap();
        writer.write_frame(&pattern(10, 1)).unwrap();
    }
    for _ in 0..50 {
        let sample = receiver.appsink("out").pull_sample().unwrap();
        assert_eq!(sample.buffer().unwrap().offset(), 1);
    }
}

#[test]
fn a_source_delivers_what_a_killed_sender_wrote_and_ends() {
    let (name, registry) = (Name::new("killed-sender"), tempfile::tempdir().unwrap());
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! appsink name=out sync=false",
        &*name
    ));
    let peer = Running::start(&mut launch(
        registry.path(),
        &format!(
            "videotestsrc ! video/x-raw,format=GRAY8,width=32,height=30 \
             ! zerobuffersink buffer-name={}",
            &*name
        ),
    ));
    receiver.until("src", "frames", 5);
    peer.kill();
    let mut frames = 0;
    while let Ok(sample) = receiver.appsink("out").pull_sample() {
        // videotestsrc counts its frames there.
        assert_eq!(sample.buffer().unwrap().offset(), frames);
        frames += 1;
    }
    assert!(frames >= 5);
    let warning = receiver.message(&[gst::MessageType::Warning]);
    assert!(
        text(&warning).contains("without closing"),
        "{}",
        text(&warning)
    );
    receiver.end();
}

#[test]
fn a_source_that_waits_takes_the_next_sender_after_a_kill() {
    let (name, registry) = (Name::new("killed-next"), tempfile::tempdir().unwrap());
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} on-writer-exit=wait ! fakesink sync=false",
        &*name
    ));
    for round in 1..4 {
        let peer = Running::start(&mut launch(
            registry.path(),
            &format!(
                "videotestsrc ! video/x-raw,format=GRAY8,width={round},height=30 \
                 ! zerobuffersink sync=false buffer-name={}",
                &*name
            ),
        ));
        let before = receiver.stat("src", "frames");
        receiver.until("src", "frames", before + 100);
        peer.kill();
        receiver.message(&[gst::MessageType::Warning]);
    }
    receiver.no_error();
}

#[test]
fn a_sink_survives_the_kill_of_its_receiver_and_nothing_is_left() {
    let (name, registry) = (Name::new("killed-receiver"), tempfile::tempdir().unwrap());
    let sender = Pipeline::play(&format!(
        "videotestsrc ! video/x-raw,format=GRAY8,width=32,height=30 \
         ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    for _ in 0..3 {
        let line = format!("zerobuffersrc buffer-name={} ! fakesink", &*name);
        let peer = Running::start(&mut launch(registry.path(), &line));
        let before = sender.stat("sink", "frames");
        sender.until("sink", "frames", before + 100);
        peer.kill();
        assert!(
            !name.objects().is_empty(),
            "a killed reader cannot clean up"
        );
    }
    // The restart that follows the crash does.
    let reader = reader(&name);
    assert_eq!(reader.read_frame(LONG).unwrap().sequence(), 1);
    sender.no_error();
}

#[test]
fn two_processes_meet_in_either_order() {
    for sender_first in [true, false] {
        let (name, registry) = (Name::new("order"), tempfile::tempdir().unwrap());
        let mut lines = [
            format!(
                "videotestsrc num-buffers=30 ! video/x-raw,format=I420,width=1280,height=720 \
                 ! zerobuffersink buffer-name={}",
                &*name
            ),
            format!(
                "zerobuffersrc buffer-name={} ! videoconvert ! fakevideosink",
                &*name
            ),
        ];
        if !sender_first {
            lines.reverse();
        }
        let first = Running::start(&mut launch(registry.path(), &lines[0]));
        // The first is well under way: it waits for its peer or has made the buffer.
        if sender_first {
            while !std::fs::read_to_string(format!("/proc/{}/maps", first.pid()))
                .unwrap()
                .contains("libgstzerobuffer")
            {
                std::thread::yield_now();
            }
        } else {
            while name.objects().len() < 4 {
                std::thread::yield_now();
            }
        }
        let second = Running::start(&mut launch(registry.path(), &lines[1]));
        second.wait().expect_success();
        first.wait().expect_success();
        name.assert_nothing_left();
    }
}

#[test]
fn a_sink_that_is_no_longer_paused_is_no_longer_the_writer() {
    let (old, new) = (Name::new("ready-old"), Name::new("ready-new"));
    let (first, second) = (reader(&old), reader(&new));
    let sender = sender(&old, "", 1);
    expect_frames(&first, 0..1);
    sender.set_state(gst::State::Ready);
    assert!(matches!(
        first.read_frame(LONG),
        Err(Error::WriterClosed { .. })
    ));
    sender.element("sink").set_property("buffer-name", &*new);
    sender.set_state(gst::State::Playing);
    let frame = gst::Buffer::from_slice(pattern(1000, 7));
    sender.appsrc("in").push_buffer(frame).unwrap();
    expect_frames(&second, 7..8);
}

#[test]
fn a_stream_without_frames_ends_too() {
    for sending in ["fakesrc num-buffers=0", "videotestsrc num-buffers=0"] {
        let name = Name::new("empty");
        let receiver = Pipeline::play(&format!("zerobuffersrc buffer-name={} ! fakesink", &*name));
        let sender = Pipeline::play(&format!(
            "{sending} ! zerobuffersink buffer-name={}",
            &*name
        ));
        sender.end();
        receiver.end();
    }
}

#[test]
fn a_flush_before_the_end_is_due_does_not_close_the_stream() {
    let name = Name::new("flushed-end");
    let reader = reader(&name);
    let sender = Pipeline::new(&format!(
        "appsrc name=in format=time caps={TEST_CAPS} ! zerobuffersink name=sink buffer-name={}",
        &*name
    ));
    let mut frame = gst::Buffer::from_slice(pattern(1000, 0));
    frame.get_mut().unwrap().set_pts(gst::ClockTime::ZERO);
    frame
        .get_mut()
        .unwrap()
        .set_duration(gst::ClockTime::from_seconds(3600));
    sender.appsrc("in").push_buffer(frame).unwrap();
    sender.appsrc("in").end_of_stream().unwrap();
    let pad = sender.element("sink").static_pad("sink").unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if info
            .event()
            .is_some_and(|event| event.type_() == gst::EventType::Eos)
        {
            ended.send(()).unwrap();
        }
        gst::PadProbeReturn::Ok
    });
    sender.set_state(gst::State::Playing);
    expect_frames(&reader, 0..1);
    // The sink waits for the end of that hour, or is about to; a flush ends the wait.
    end.recv().unwrap();
    assert!(pad.send_event(gst::event::FlushStart::new()));
    assert!(pad.send_event(gst::event::FlushStop::new(false)));
    let waited = reader.read_frame(std::time::Duration::from_millis(100));
    assert!(matches!(waited, Err(Error::Timeout { .. })), "{waited:?}");
    assert!(reader.is_writer_connected());
}

#[test]
fn the_next_reader_may_get_other_caps() {
    let name = Name::new("next-caps");
    let first = reader(&name);
    let sender = Pipeline::new(&format!(
        "appsrc name=in format=time ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let input = sender.appsrc("in");
    let send = |caps: &str, seed| {
        input.set_caps(Some(&gst::Caps::from_str(caps).unwrap()));
        input
            .push_buffer(gst::Buffer::from_slice(pattern(1000, seed)))
            .unwrap();
    };
    send("application/x-one", 0);
    sender.set_state(gst::State::Playing);
    expect_frames(&first, 0..1);
    drop(first);
    let second = reader(&name);
    send("application/x-two", 1);
    expect_frames(&second, 1..2);
    let metadata = String::from_utf8(second.metadata().unwrap().unwrap()).unwrap();
    assert!(metadata.contains("application/x-two"), "{metadata}");
    sender.no_error();
}
