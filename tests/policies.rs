//! What the elements do when the peer has gone or takes no more, by their properties, each with a
//! peer in another process that closes, is killed or is stopped; and what they tell of it.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::time::Instant;

use gst::prelude::*;
use gstreamer as gst;
use nix::sys::signal::Signal;
use support::{LONG, Name, Running, example, pattern};
use support_gst::{Pipeline, text};

const CAPS: &str = "application/x-test";
const SIZE: usize = 1000;

/// How a peer ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closes,
    Killed,
}

const ENDS: [End; 2] = [End::Closes, End::Killed];

/// A sender that takes its frames from the test.
fn sender(name: &str, more: &str) -> Pipeline {
    Pipeline::play(&format!(
        "appsrc name=in format=time caps={CAPS} \
         ! zerobuffersink name=sink sync=false buffer-name={name} {more}"
    ))
}

fn push(sender: &Pipeline, frames: std::ops::Range<u64>) {
    for i in frames {
        let mut frame = gst::Buffer::from_slice(pattern(SIZE, i));
        let edit = frame.get_mut().unwrap();
        edit.set_pts(gst::ClockTime::from_mseconds(i));
        edit.set_duration(gst::ClockTime::MSECOND);
        // After an error or EOS it takes no more.
        let _ = sender.appsrc("in").push_buffer(frame);
    }
}

/// A reader in another process, with a ring for four of these frames.
struct Reader(Running);

impl Reader {
    /// It closes after so many frames; 0: when the stream ends.
    fn start(name: &str, frames: u64) -> Self {
        let frames = frames.to_string();
        let mut reader = example("zb_read");
        reader.args([name, "1024", "4480", &frames, "600"]);
        let reader = Running::start(&mut reader);
        while reader_of(name) != Some(reader.pid()) {
            std::thread::yield_now();
        }
        Reader(reader)
    }

    /// The number of the test's frame that it reads next.
    #[track_caller]
    fn frame(&mut self) -> u64 {
        let line = self.0.line().expect("a frame");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let time = line["pts"].as_u64().unwrap();
        let number = time / gst::ClockTime::MSECOND.nseconds();
        let crc = crc32fast::hash(&pattern(SIZE, number));
        assert_eq!(line["crc32"], crc, "{line}");
        number
    }

    fn end(self, end: End) {
        match end {
            End::Closes => drop(self.0.wait().expect_success()),
            End::Killed => drop(self.0.kill()),
        }
    }
}

/// The pid of the reader in a finished buffer.
fn reader_of(name: &str) -> Option<u64> {
    let segment = std::fs::read(format!("/dev/shm/{name}")).ok()?;
    let word = |at| {
        segment
            .get(at..at + 8)?
            .try_into()
            .ok()
            .map(u64::from_le_bytes)
    };
    (word(0)? != 0).then_some(word(0x58)?)
}

/// A sender whose only reader read one frame and has gone.
fn after_a_reader(name: &str, end: End, more: &str) -> Pipeline {
    let mut reader = Reader::start(name, u64::from(end == End::Closes));
    let sender = sender(name, more);
    push(&sender, 0..1);
    assert_eq!(reader.frame(), 0);
    reader.end(end);
    sender
}

/// Waits for something, and leaves the messages on the bus alone.
#[track_caller]
fn until(what: impl Fn() -> bool) {
    let since = Instant::now();
    while !what() {
        assert!(since.elapsed() < LONG);
        std::thread::yield_now();
    }
}

/// Waits until the sink has noticed that its reader has gone.
#[track_caller]
fn noticed(sender: &Pipeline) {
    until(|| sender.stat("sink", "peer-pid") == 0);
}

/// The counts of the next QoS message of an element, processed and dropped.
fn qos(pipeline: &Pipeline) -> (gst::Message, u64, u64) {
    let message = pipeline.message(&[gst::MessageType::Qos, gst::MessageType::Error]);
    let gst::MessageView::Qos(qos) = message.view() else {
        panic!("{}", text(&message));
    };
    let (processed, dropped) = qos.stats();
    assert_eq!(processed.format(), gst::Format::Buffers);
    let count = |value: gst::GenericFormattedValue| u64::try_from(value.value()).unwrap();
    let counts = (count(processed), count(dropped));
    (message, counts.0, counts.1)
}

#[test]
fn without_its_reader_a_sink_holds_the_stream_for_the_next() {
    for end in ENDS {
        for more in [
            "",
            "on-reader-gone=wait",
            "on-reader-gone=wait wait-for-connection=false",
        ] {
            let name = Name::new("gone-wait");
            let sender = after_a_reader(&name, end, more);
            // What goes into the ring of a reader that was killed just now is lost.
            push(&sender, 1..10);
            noticed(&sender);
            // Pausing is no flush.
            sender.set_state(gst::State::Paused);
            sender.reached();
            sender.set_state(gst::State::Playing);
            let mut next = Reader::start(&name, 0);
            let first = next.frame();
            match end {
                End::Closes => assert_eq!(first, 1, "{more}"),
                End::Killed => assert!((1..=5).contains(&first), "{first}, {more}"),
            }
            for i in first + 1..10 {
                assert_eq!(next.frame(), i, "{end:?}, {more}");
            }
            assert_eq!(sender.stat("sink", "dropped"), 0);
            sender.appsrc("in").end_of_stream().unwrap();
            sender.end();
            next.end(End::Closes);
        }
    }
}

#[test]
fn a_sink_that_waits_for_the_next_reader_can_be_stopped() {
    let name = Name::new("gone-stop");
    let sender = after_a_reader(&name, End::Closes, "on-reader-gone=wait");
    push(&sender, 1..10);
    noticed(&sender);
    sender.set_state(gst::State::Null);
}

#[test]
fn without_its_reader_a_sink_drops_until_the_next_comes_and_counts() {
    for end in ENDS {
        for more in [
            "on-reader-gone=drop",
            "wait-for-connection=false",
            "wait-for-connection=false on-reader-gone=drop",
        ] {
            let name = Name::new("gone-drop");
            let sender = after_a_reader(&name, end, more);
            push(&sender, 1..10);
            noticed(&sender);
            until(|| sender.stat("sink", "dropped") >= 5);
            let (message, _, dropped) = qos(&sender);
            assert!(dropped > 0);
            let sink = sender.element("sink");
            assert_eq!(message.src(), Some(sink.upcast_ref()));
            // All nine are dropped or lost in the ring of who was killed just now.
            until(|| sender.stat("sink", "frames") + sender.stat("sink", "dropped") == 10);
            let mut next = Reader::start(&name, 0);
            // One at a time: what piles up while the sink comes to its reader would fill the pipe in which
            // nobody reads what that one prints.
            let done = || sender.stat("sink", "frames") + sender.stat("sink", "dropped");
            until(|| {
                let before = done();
                push(&sender, 20..21);
                until(|| done() > before);
                sender.stat("sink", "peer-pid") != 0
            });
            assert_eq!(next.frame(), 20);
            sender.appsrc("in").end_of_stream().unwrap();
            sender.end();
            next.end(End::Closes);
        }
    }
}

#[test]
fn without_its_reader_a_sink_fails_or_ends() {
    for end in ENDS {
        for more in ["", "wait-for-connection=false"] {
            let name = Name::new("gone-error");
            let sender = after_a_reader(&name, end, &format!("on-reader-gone=error {more}"));
            push(&sender, 1..10);
            let error = sender.error();
            assert!(error.contains("on-reader-gone=error"), "{error}");
            let how = match end {
                End::Closes => "closed it",
                End::Killed => "died",
            };
            assert!(error.contains(how), "{error}");
            drop(sender);

            let sender = after_a_reader(&name, end, &format!("on-reader-gone=eos {more}"));
            push(&sender, 1..10);
            sender.end();
            // A new start is a new stream.
            sender.set_state(gst::State::Ready);
            let mut next = Reader::start(&name, 1);
            sender.set_state(gst::State::Playing);
            push(&sender, 3..4);
            assert_eq!(next.frame(), 3);
            next.end(End::Closes);
        }
    }
}

#[test]
fn a_reader_that_is_stopped_has_not_gone() {
    for more in ["eos", "error", "drop", "wait"] {
        let name = Name::new("stopped");
        let mut reader = Reader::start(&name, 0);
        let sender = sender(&name, &format!("on-reader-gone={more}"));
        push(&sender, 0..1);
        assert_eq!(reader.frame(), 0);
        reader.0.stop();
        push(&sender, 1..10);
        until(|| sender.stat("sink", "waits") >= 1);
        sender.set_state(gst::State::Paused);
        sender.reached();
        sender.set_state(gst::State::Playing);
        reader.0.signal(Signal::SIGCONT);
        for i in 1..10 {
            assert_eq!(reader.frame(), i, "{more}");
        }
        assert_eq!(sender.stat("sink", "dropped"), 0);
        sender.appsrc("in").end_of_stream().unwrap();
        sender.end();
        reader.end(End::Closes);
    }
}

#[test]
fn what_a_full_ring_drops_is_counted_and_told() {
    let name = Name::new("full");
    let mut reader = Reader::start(&name, 0);
    let sender = sender(&name, "on-full=drop");
    push(&sender, 0..1);
    assert_eq!(reader.frame(), 0);
    until(|| sender.stat("sink", "ring-used") == 0);
    reader.0.stop();
    push(&sender, 1..20);
    // Four fit, all others are dropped.
    until(|| sender.stat("sink", "dropped") == 15);
    assert_eq!(sender.stat("sink", "waits"), 0);
    // The first at once, with its times.
    let (message, processed, dropped) = qos(&sender);
    assert_eq!((processed, dropped), (5, 1));
    let gst::MessageView::Qos(first) = message.view() else {
        unreachable!()
    };
    let (live, running, stream, timestamp, duration) = first.get();
    assert!(!live, "sync=false");
    let due = Some(gst::ClockTime::from_mseconds(5));
    assert_eq!([running, stream, timestamp], [due; 3]);
    assert_eq!(duration, Some(gst::ClockTime::MSECOND));
    reader.0.signal(Signal::SIGCONT);
    for i in 1..5 {
        assert_eq!(reader.frame(), i);
    }
    push(&sender, 20..21);
    assert_eq!(reader.frame(), 20);
    // And the others together, at the latest with the next that gets through.
    let mut told = (processed, dropped);
    while told.1 < 15 {
        let (_, processed, dropped) = qos(&sender);
        assert!(dropped > told.1, "{dropped} after {}", told.1);
        told = (processed, dropped);
    }
    assert_eq!(told, (5, 15));
    sender.appsrc("in").end_of_stream().unwrap();
    sender.end();
    reader.end(End::Closes);
}

#[test]
fn what_is_dropped_before_the_first_reader_is_told_at_the_end_at_the_latest() {
    let name = Name::new("no-reader");
    let sender = sender(&name, "wait-for-connection=false");
    push(&sender, 0..10);
    sender.appsrc("in").end_of_stream().unwrap();
    let mut told = 0;
    while told < 10 {
        let (_, processed, dropped) = qos(&sender);
        assert_eq!(processed, 0);
        assert!(dropped > told, "{dropped} after {told}");
        told = dropped;
    }
    sender.end();
    assert_eq!(sender.stat("sink", "dropped"), 10);
}

/// A source, and a writer in another process that has sent some frames and ended.
fn after_a_writer(name: &str, end: End, more: &str) -> Pipeline {
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={name} caps={CAPS} {more} \
         ! appsink name=out sync=false"
    ));
    let frames = match end {
        End::Closes => 10,
        End::Killed => 1_000_000_000,
    };
    let writer = writer(name, frames);
    let mut due = 1;
    for _ in 0..10 {
        expect(&receiver, &mut due);
    }
    match end {
        End::Closes => drop(writer.wait().expect_success()),
        End::Killed => drop(writer.kill()),
    }
    receiver
}

fn writer(name: &str, frames: u64) -> Running {
    Running::start(example("zb_write").args([name, &frames.to_string(), "100", "-", "0"]))
}

fn expect(receiver: &Pipeline, due: &mut u64) {
    let sample = receiver.appsink("out").pull_sample().unwrap();
    assert_eq!(sample.buffer().unwrap().offset(), *due);
    *due += 1;
}

#[test]
fn a_source_whose_writer_died_does_what_is_said_of_that() {
    for more in [
        "on-writer-death=error",
        "on-writer-death=error on-writer-exit=wait",
    ] {
        let name = Name::new("died-error");
        let receiver = after_a_writer(&name, End::Killed, more);
        let error = receiver.error();
        assert!(error.contains("on-writer-death=error"), "{error}");
        name.assert_nothing_left();
    }
    for more in ["", "on-writer-death=eos on-writer-exit=wait"] {
        let name = Name::new("died-eos");
        let receiver = after_a_writer(&name, End::Killed, more);
        let warning = receiver.message(&[gst::MessageType::Warning]);
        assert!(text(&warning).contains("without closing"));
        // All that was written comes first.
        while receiver.appsink("out").pull_sample().is_ok() {}
        receiver.end();
        name.assert_nothing_left();
    }
    for more in [
        "on-writer-exit=wait",
        "on-writer-death=wait",
        "on-writer-death=wait on-writer-exit=eos",
    ] {
        let name = Name::new("died-wait");
        let receiver = after_a_writer(&name, End::Killed, more);
        receiver.message(&[gst::MessageType::Warning]);
        // All that was written comes first.
        while (receiver
            .appsink("out")
            .try_pull_sample(gst::ClockTime::ZERO))
        .is_some()
        {}
        // Pausing is no flush, here too.
        receiver.set_state(gst::State::Paused);
        receiver.set_state(gst::State::Playing);
        let next = writer(&name, 10);
        let mut due = 1;
        for _ in 0..10 {
            expect(&receiver, &mut due);
        }
        next.wait().expect_success();
        // That one closed.
        match more {
            "on-writer-exit=wait" => receiver.no_error(),
            _ => receiver.end(),
        }
    }
}

#[test]
fn a_source_whose_writer_closed_does_what_is_said_of_that() {
    for death in ["auto", "eos", "wait", "error"] {
        let name = Name::new("closed");
        let more = format!("on-writer-death={death}");
        let receiver = after_a_writer(&name, End::Closes, &more);
        receiver.end();
        drop(receiver);
        let more = format!("on-writer-death={death} on-writer-exit=wait");
        let receiver = after_a_writer(&name, End::Closes, &more);
        let next = writer(&name, 10);
        let mut due = 1;
        for _ in 0..10 {
            expect(&receiver, &mut due);
        }
        next.wait().expect_success();
        receiver.no_error();
    }
}

#[test]
fn a_buffer_that_is_removed_under_both_ends_is_made_anew() {
    let name = Name::new("removed");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} on-writer-exit=wait ! fakesink sync=false",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "videotestsrc ! video/x-raw,format=GRAY8,width=32,height=30 \
         ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    for _ in 0..3 {
        let before = receiver.stat("src", "frames");
        until(|| receiver.stat("src", "frames") > before + 50);
        // The segment last: whoever notices that it has gone takes the others away, too, or makes them anew.
        for path in name.objects().into_iter().rev() {
            // As systemd-logind does: all in /dev/shm, and not the lock file.
            if path.starts_with("/dev/shm") {
                std::fs::remove_file(path).unwrap();
            }
        }
        let before = receiver.stat("src", "frames");
        until(|| receiver.stat("src", "frames") > before + 500);
    }
    sender.no_error();
    receiver.no_error();
}

#[test]
fn a_writer_that_is_stopped_has_not_gone() {
    for death in ["eos", "wait", "error"] {
        let name = Name::new("writer-stopped");
        let receiver = Pipeline::play(&format!(
            "zerobuffersrc name=src buffer-name={} caps={CAPS} on-writer-death={death} \
             payload-size=20000 ! appsink name=out max-buffers=1 sync=false",
            &*name
        ));
        // It has room for a few hundred frames beyond those that were pulled: it is stopped before it ends.
        let writer = writer(&name, 10_000);
        let mut due = 1;
        expect(&receiver, &mut due);
        writer.stop();
        // All that was written, until the source waits.
        let waits = receiver.stat("src", "waits");
        let output = receiver.appsink("out");
        while let Some(sample) = output.try_pull_sample(gst::ClockTime::from_mseconds(100)) {
            assert_eq!(sample.buffer().unwrap().offset(), due);
            due += 1;
        }
        receiver.until("src", "waits", waits);
        receiver.set_state(gst::State::Paused);
        receiver.set_state(gst::State::Playing);
        writer.signal(Signal::SIGCONT);
        while due <= 10_000 {
            expect(&receiver, &mut due);
        }
        writer.wait().expect_success();
        receiver.end();
    }
}
