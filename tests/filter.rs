//! zerobufferfilter: each frame comes back as the worker's answer to it and to no other, in order,
//! with its own times, flags and metas, or what `on-failure` says happens to it.

#[path = "support/hand.rs"]
mod hand;
#[path = "support/python.rs"]
mod python;
mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::str::FromStr;

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;
use gstzerobuffer::duplex::{DuplexServer, DuplexServerConfig};
use hand::Hand;
use nix::sys::signal::Signal;
use support::{Name, Running, pattern};
use support_gst::{Pipeline, init, launch};

/// Frames of 256 bytes.
const CAPS: &str = "video/x-raw,format=GRAY8,width=16,height=16,framerate=25/1";
const LEN: usize = 256;

/// A pipeline that has its frames from the test worked on.
struct Asking {
    pipeline: Pipeline,
    sent: u64,
    got: u64,
}

impl Asking {
    fn new(name: &str, more: &str) -> Self {
        let pipeline = Pipeline::play(&format!(
            "appsrc name=in format=time caps={CAPS} \
             ! zerobufferfilter name=f channel-name={name} {more} ! appsink name=out sync=false"
        ));
        Asking {
            pipeline,
            sent: 0,
            got: 0,
        }
    }

    fn stat(&self, field: &str) -> u64 {
        self.pipeline.stat("f", field)
    }

    fn until(&self, field: &str, value: u64) {
        self.pipeline.until("f", field, value);
    }

    /// Sends frames; each can be told from all others in every way.
    fn send(&mut self, frames: u64) {
        for i in self.sent..self.sent + frames {
            self.pipeline.appsrc("in").push_buffer(frame(i)).unwrap();
        }
        self.sent += frames;
    }

    fn next(&mut self) -> gst::Sample {
        let out = self.pipeline.appsink("out");
        let sample = out.try_pull_sample(gst::ClockTime::from_seconds(120));
        sample.unwrap_or_else(|| {
            self.pipeline.no_error();
            panic!(
                "no frame: {:?}",
                self.pipeline
                    .element("f")
                    .property::<gst::Structure>("stats")
            )
        })
    }

    /// Expects the next frames, worked on like this.
    #[track_caller]
    fn expect(&mut self, frames: u64, work: impl Fn(u8) -> u8) {
        for i in self.got..self.got + frames {
            let sample = self.next();
            let got = assert_is(&sample, i);
            let expected: Vec<u8> = pattern(LEN, i).into_iter().map(&work).collect();
            assert!(got == expected, "frame {i}");
        }
        self.got += frames;
    }

    /// Ends the stream; nothing more comes out.
    #[track_caller]
    fn end(&self) {
        self.pipeline.appsrc("in").end_of_stream().unwrap();
        assert!(
            self.pipeline.appsink("out").pull_sample().is_err(),
            "one too many"
        );
        self.pipeline.end();
    }
}

fn frame(i: u64) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_slice(pattern(LEN, i));
    let edit = buffer.get_mut().unwrap();
    edit.set_pts(gst::ClockTime::from_mseconds(40 * i));
    edit.set_duration(gst::ClockTime::from_mseconds(40));
    edit.set_offset(1000 + i);
    if i.is_multiple_of(2) {
        edit.set_flags(gst::BufferFlags::MARKER);
    }
    let reference = gst::Caps::from_str("timestamp/x-test").unwrap();
    let time = gst::ClockTime::from_nseconds(i);
    gst::ReferenceTimestampMeta::add(edit, &reference, time, None);
    buffer
}

/// That all but the bytes are those of frame `i`; returns these.
#[track_caller]
fn assert_is(sample: &gst::Sample, i: u64) -> Vec<u8> {
    let buffer = sample.buffer().unwrap();
    assert_eq!(buffer.pts(), Some(gst::ClockTime::from_mseconds(40 * i)));
    assert_eq!(buffer.duration(), Some(gst::ClockTime::from_mseconds(40)));
    assert_eq!(buffer.offset(), 1000 + i);
    let marked = buffer.flags().contains(gst::BufferFlags::MARKER);
    assert_eq!(marked, i.is_multiple_of(2), "flags of frame {i}");
    let times: Vec<_> = buffer
        .iter_meta::<gst::ReferenceTimestampMeta>()
        .map(|meta| meta.timestamp().nseconds())
        .collect();
    assert_eq!(times, [i], "metas of frame {i}");
    buffer.map_readable().unwrap().to_vec()
}

/// A pipeline as worker.
fn worker(name: &str, elements: &str) -> Pipeline {
    Pipeline::play(&worker_line(name, elements))
}

fn worker_line(name: &str, elements: &str) -> String {
    format!(
        "zerobuffersrc name=src buffer-name={name}_request ! {elements} \
         ! zerobuffersink name=sink buffer-name={name}_response"
    )
}

/// A server of the library that inverts frames in place.
fn server(name: &str, threads: usize) -> DuplexServer {
    let config = DuplexServerConfig::new(4096, 1 << 20).with_threads(threads);
    let builder = DuplexServer::builder(name, config);
    let server = builder.start_mutable(|bytes| {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        Ok(())
    });
    server.unwrap()
}

fn same(byte: u8) -> u8 {
    byte
}

fn inverted(byte: u8) -> u8 {
    !byte
}

#[test]
fn a_pipeline_answers_frames_in_order_whoever_starts_first() {
    for worker_first in [true, false] {
        let name = Name::new("filter-pipeline");
        let early = worker_first.then(|| worker(&name, "identity"));
        let mut asking = Asking::new(&name, "");
        asking.send(3);
        let late = (!worker_first).then(|| worker(&name, "identity"));
        asking.send(97);
        asking.expect(100, same);
        asking.end();
        for field in ["sent", "answered", "answers-in-place"] {
            assert_eq!(asking.stat(field), 100, "{field}");
        }
        assert_eq!(asking.stat("workers"), 1);
        for field in [
            "late",
            "skipped",
            "lost",
            "doubled",
            "dropped",
            "passed-through",
        ] {
            assert_eq!(asking.stat(field), 0, "{field}");
        }
        let [min, mean, max] = ["rtt-min", "rtt-mean", "rtt-max"].map(|it| asking.stat(it));
        assert!(0 < min && min <= mean && mean <= max, "{min} {mean} {max}");
        // The end of the stream is that of the worker's.
        early.or(late).unwrap().end();
    }
}

#[test]
fn a_worker_in_another_process_mirrors_the_picture() {
    init();
    let name = Name::new("filter-mirror");
    let folder = tempfile::tempdir().unwrap();
    let line = worker_line(&name, MIRROR);
    let worker = Running::start(&mut launch(folder.path(), &line));
    // A process that looks through all plugins first takes as long as it likes.
    let mut asking = Asking::new(&name, "timeout=0");
    asking.send(50);
    for i in 0..50 {
        let got = assert_is(&asking.next(), i);
        assert!(got == mirrored(i), "frame {i}");
    }
    asking.end();
    worker.wait().expect_success();
}

#[test]
fn a_worker_in_another_process_writes_on_the_picture() {
    let name = Name::new("filter-text");
    let folder = tempfile::tempdir().unwrap();
    let worker = process(&name, "textoverlay text=zerobuffer", &folder);
    let asking = Pipeline::play(&format!(
        "videotestsrc pattern=black num-buffers=10 \
         ! video/x-raw,format=I420,width=640,height=480,framerate=30/1 \
         ! zerobufferfilter timeout=0 channel-name={} ! appsink name=out sync=false",
        &*name
    ));
    let out = asking.appsink("out");
    for i in 0..10 {
        let sample = out.pull_sample().unwrap();
        let buffer = sample.buffer().unwrap();
        let due = gst::ClockTime::from_nseconds(i * 1_000_000_000 / 30);
        assert_eq!(buffer.pts(), Some(due));
        let bytes = buffer.map_readable().unwrap();
        let luma = &bytes[..640 * 480];
        // The letters are white, and most of the picture is black.
        let white = luma.iter().filter(|byte| **byte > 150).count();
        assert!((100..30_000).contains(&white), "{white} white pixels");
    }
    asking.end();
    worker.wait().expect_success();
}

#[test]
fn servers_of_the_library_work_in_place_with_several_frames_in_flight() {
    for threads in [1, 3] {
        let name = Name::new("filter-server");
        let server = server(&name, threads);
        let mut asking = Asking::new(&name, "max-in-flight=6");
        asking.send(500);
        asking.expect(500, inverted);
        asking.end();
        // An answer is there before it is counted.
        server.stop();
        assert_eq!(server.stats().answers, 500);
    }
}

#[test]
fn frames_are_rendered_into_the_ring_and_answers_are_the_ring() {
    let name = Name::new("filter-in-place");
    let server = server(&name, 1);
    let asking = Pipeline::play(&format!(
        "videotestsrc num-buffers=50 ! {CAPS} ! zerobufferfilter name=f channel-name={} \
         ! fakesink sync=false enable-last-sample=false",
        &*name
    ));
    asking.end();
    assert_eq!(asking.stat("f", "requests-in-place"), 50);
    assert_eq!(asking.stat("f", "requests-copied"), 0);
    assert_eq!(asking.stat("f", "answers-in-place"), 50);
    assert_eq!(asking.stat("f", "answers-copied"), 0);
    server.stop();
}

#[test]
fn a_frame_that_the_worker_skips_is_dropped_or_passed_through_or_an_error() {
    for on_failure in ["drop", "passthrough", "error"] {
        let name = Name::new("filter-skip");
        let worker = Hand::new(&name, CAPS);
        let mut asking = Asking::new(&name, &format!("on-failure={on_failure}"));
        asking.send(4);
        let requests: Vec<_> = (0..4).map(|_| worker.take()).collect();
        for (i, mut request) in requests.into_iter().enumerate() {
            // The third gets no answer, and the others another picture.
            if i != 2 {
                let edit = request.make_mut();
                edit.replace_all_memory(gst::Memory::from_slice([i as u8; LEN]));
                worker.give(request);
            }
        }
        let expected: &[(u64, Option<u8>)] = match on_failure {
            "drop" => &[(0, Some(0)), (1, Some(1)), (3, Some(3))],
            "passthrough" => &[(0, Some(0)), (1, Some(1)), (2, None), (3, Some(3))],
            _ => &[(0, Some(0)), (1, Some(1))],
        };
        for (i, fill) in expected {
            let got = assert_is(&asking.next(), *i);
            match fill {
                Some(fill) => assert!(got == [*fill; LEN], "frame {i}"),
                None => assert!(got == pattern(LEN, *i), "frame {i}"),
            }
        }
        if on_failure == "error" {
            let err = asking.pipeline.error();
            assert!(err.contains("passed a frame over"), "{err}");
            assert_eq!(asking.stat("skipped"), 1);
            continue;
        }
        asking.until("skipped", 1);
        assert_eq!(asking.stat("dropped"), u64::from(on_failure == "drop"));
        assert_eq!(
            asking.stat("passed-through"),
            u64::from(on_failure != "drop")
        );
        asking.end();
    }
}

#[test]
fn the_frame_after_a_drop_is_marked_and_none_other() {
    let name = Name::new("filter-discont");
    let worker = Hand::new(&name, CAPS);
    let mut asking = Asking::new(&name, "on-failure=drop");
    asking.send(3);
    let requests: Vec<_> = (0..3).map(|_| worker.take()).collect();
    worker.give(requests[0].clone());
    worker.give(requests[2].clone());
    drop(requests);
    let mut discont = |i| {
        let sample = asking.next();
        assert_is(&sample, i);
        let flags = sample.buffer().unwrap().flags();
        flags.contains(gst::BufferFlags::DISCONT)
    };
    // appsrc marks its first.
    assert!(discont(0));
    assert!(discont(2));
    asking.send(1);
    worker.give(worker.take());
    let sample = asking.next();
    assert!(
        !sample
            .buffer()
            .unwrap()
            .flags()
            .contains(gst::BufferFlags::DISCONT)
    );
}

#[test]
fn answers_too_many_are_nobodys() {
    let name = Name::new("filter-doubled");
    let worker = Hand::new(&name, CAPS);
    let mut asking = Asking::new(&name, "");
    for i in 0..20 {
        asking.send(1);
        let request = worker.take();
        for _ in 0..=i % 3 {
            worker.give(request.clone());
        }
        drop(request);
        asking.expect(1, same);
    }
    // Read with the next answer, at the latest.
    asking.send(1);
    worker.give(worker.take());
    asking.expect(1, same);
    assert_eq!(asking.stat("doubled"), 6 + 2 * 6 + 1);
    assert_eq!(asking.stat("answered"), 21);
    asking.end();
}

#[test]
fn a_worker_that_drops_at_random_costs_no_frame_its_own_answer() {
    let name = Name::new("filter-random");
    let worker = worker(&name, "identity drop-probability=0.3");
    let mut asking = Asking::new(&name, "on-failure=drop");
    asking.send(500);
    asking.pipeline.appsrc("in").end_of_stream().unwrap();
    let (mut last, mut count) = (None, 0);
    while let Ok(sample) = asking.pipeline.appsink("out").pull_sample() {
        let i = sample.buffer().unwrap().offset() - 1000;
        assert!(assert_is(&sample, i) == pattern(LEN, i), "frame {i}");
        assert!(last.is_none_or(|last| last < i), "{i} after {last:?}");
        (last, count) = (Some(i), count + 1);
    }
    asking.pipeline.end();
    assert_eq!(asking.stat("answered"), count);
    assert_eq!(asking.stat("skipped"), 500 - count);
    assert_eq!(asking.stat("dropped"), 500 - count);
    assert!((200..500).contains(&count), "{count}");
    worker.end();
}

#[test]
fn a_worker_that_keeps_frames_until_the_end_gets_them_and_gives_them() {
    let name = Name::new("filter-keeps");
    // More than may be in flight.
    let keeps = "queue min-threshold-buffers=9";
    let worker = worker(&name, keeps);
    let mut asking = Asking::new(&name, "max-in-flight=2");
    asking.send(30);
    asking.expect(30 - 8, same);
    asking.pipeline.appsrc("in").end_of_stream().unwrap();
    asking.expect(8, same);
    asking.end();
    assert_eq!(asking.stat("late") + asking.stat("skipped"), 0);
    worker.end();
}

#[test]
fn neither_a_query_nor_larger_frames_wait_for_what_a_worker_keeps() {
    let name = Name::new("filter-kept");
    let worker = worker(&name, "queue min-threshold-buffers=9");
    let mut asking = Asking::new(&name, "max-in-flight=2 timeout=0");
    asking.send(20);
    asking.expect(20 - 8, same);
    let pad = asking.pipeline.element("f").static_pad("sink").unwrap();
    pad.query(&mut gst::query::Drain::new());
    // Much more than the ring of the requests was made for.
    let caps = CAPS.replace("16", "640");
    let input = asking.pipeline.appsrc("in");
    input.set_caps(Some(&gst::Caps::from_str(&caps).unwrap()));
    for i in 0..10 {
        let bytes = pattern(640 * 640, i);
        input.push_buffer(gst::Buffer::from_slice(bytes)).unwrap();
    }
    asking.expect(8, same);
    input.end_of_stream().unwrap();
    for i in 0..10 {
        let sample = asking.next();
        let got = sample.buffer().unwrap().map_readable().unwrap();
        assert!(got[..] == pattern(640 * 640, i), "large frame {i}");
    }
    asking.end();
    assert_eq!(asking.stat("answered"), 30);
    worker.end();
}

#[test]
fn a_worker_that_stood_still_for_a_moment_gets_no_more_frames_than_before() {
    let name = Name::new("filter-caught-up");
    let worker = Hand::new(&name, CAPS);
    let mut asking = Asking::new(&name, "max-in-flight=2");
    asking.send(1);
    worker.give(worker.take());
    asking.expect(1, same);
    // It takes frames and gives none: as if it kept them.
    asking.send(6);
    let taken: Vec<_> = (0..5).map(|_| worker.take()).collect();
    taken.into_iter().for_each(|request| worker.give(request));
    worker.give(worker.take());
    asking.expect(6, same);
    // It keeps none.
    let began = std::time::Instant::now();
    asking.send(3);
    asking.until("sent", 7 + 3);
    let took = began.elapsed();
    assert!(took.as_millis() >= 250, "the third went out after {took:?}");
    (0..3).for_each(|_| worker.give(worker.take()));
    asking.expect(3, same);
    asking.end();
}

#[test]
fn the_worker_may_answer_with_other_caps_and_change_them() {
    let name = Name::new("filter-caps");
    let worker = worker(
        &name,
        "videoscale ! capsfilter name=to caps=video/x-raw,width=64,height=32",
    );
    let mut asking = Asking::new(&name, "");
    let size = |sample: &gst::Sample| {
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        assert_eq!(sample.buffer().unwrap().size(), info.size());
        (info.width(), info.height())
    };
    for i in 0..10 {
        asking.send(1);
        let sample = asking.next();
        assert_is(&sample, i);
        assert_eq!(size(&sample), (64, 32));
    }
    // Much more than the ring was made for.
    let larger = gst::Caps::from_str("video/x-raw,width=2000,height=1000").unwrap();
    worker.element("to").set_property("caps", &larger);
    for i in 10..20 {
        asking.send(1);
        let sample = asking.next();
        assert_is(&sample, i);
        assert_eq!(size(&sample), (2000, 1000));
    }
    asking.end();
    worker.end();
}

#[test]
fn caps_that_change_on_the_way_in_change_on_the_way_out_with_their_frame() {
    let name = Name::new("filter-in-caps");
    let worker = worker(&name, "identity");
    let mut asking = Asking::new(&name, "");
    asking.send(5);
    let input = asking.pipeline.appsrc("in");
    let second = CAPS.replace("16", "64");
    for (width, frames) in [(64, 5), (640, 5), (16, 5)] {
        let caps = second.replace("64", &width.to_string());
        input.set_caps(Some(&gst::Caps::from_str(&caps).unwrap()));
        for i in 0..frames {
            let bytes = pattern(width * width, i);
            input.push_buffer(gst::Buffer::from_slice(bytes)).unwrap();
        }
    }
    asking.expect(5, same);
    for (width, frames) in [(64, 5), (640, 5), (16, 5)] {
        for i in 0..frames {
            let sample = asking.next();
            let structure = sample.caps().unwrap().structure(0).unwrap();
            assert_eq!(structure.get::<i32>("width"), Ok(width as i32));
            let got = sample.buffer().unwrap().map_readable().unwrap();
            assert!(got[..] == pattern(width * width, i), "{width} {i}");
        }
    }
    asking.end();
    worker.end();
}

/// A pipeline in a process of its own as worker.
fn process(name: &str, elements: &str, folder: &tempfile::TempDir) -> Running {
    Running::start(&mut launch(folder.path(), &worker_line(name, elements)))
}

const MIRROR: &str = "videoflip video-direction=horiz";

/// What that makes of frame `i`.
fn mirrored(i: u64) -> Vec<u8> {
    let frame = pattern(LEN, i);
    let rows = frame.chunks(16);
    rows.flat_map(|row| row.iter().rev()).copied().collect()
}

#[test]
fn a_worker_that_is_killed_is_missed_and_used_again_when_it_is_back() {
    init();
    let name = Name::new("filter-killed");
    let folder = tempfile::tempdir().unwrap();
    let mut asking = Asking::new(&name, "on-failure=passthrough");
    // There is none yet: frames go through at once.
    asking.send(5);
    asking.expect(5, same);
    assert_eq!(asking.stat("passed-through"), 5);
    for round in 1..=3 {
        let worker = process(&name, MIRROR, &folder);
        let is_worked_on = |asking: &mut Asking| {
            asking.send(1);
            let sample = asking.next();
            let got = assert_is(&sample, asking.got);
            asking.got += 1;
            assert!(got == mirrored(asking.got - 1) || got == pattern(LEN, asking.got - 1));
            got == mirrored(asking.got - 1)
        };
        while !is_worked_on(&mut asking) {
            std::thread::yield_now();
        }
        assert_eq!(asking.stat("workers"), round);
        assert!(is_worked_on(&mut asking));
        worker.kill();
        while is_worked_on(&mut asking) {}
        assert!(!is_worked_on(&mut asking));
    }
    asking.end();
    assert_eq!(
        asking.stat("answered") + asking.stat("passed-through"),
        asking.sent
    );
    drop(asking);
    remove_what_is_left(&name);
}

/// What killed workers leave, the last of which nobody followed.
fn remove_what_is_left(name: &Name) {
    for path in name.objects() {
        assert!(path.to_string_lossy().contains("_request"), "{path:?}");
        match std::fs::remove_file(path) {
            // A Python reader that starts in another test removes what dead readers left, too.
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.unwrap(),
        }
    }
}

#[test]
fn a_worker_that_stands_still_costs_one_timeout_and_is_used_again() {
    init();
    let name = Name::new("filter-stopped");
    let folder = tempfile::tempdir().unwrap();
    let worker = process(&name, "identity", &folder);
    let mut asking = Asking::new(&name, "timeout=0");
    asking.send(20);
    asking.expect(20, same);
    let filter = asking.pipeline.element("f");
    filter.set_property_from_str("on-failure", "passthrough");
    filter.set_property("timeout", 300_000_000_u64);
    worker.stop();
    let began = std::time::Instant::now();
    asking.send(100);
    asking.expect(100, same);
    // Those that were in flight are late, and for the others it was not waited at all.
    let took = began.elapsed();
    assert!(took.as_millis() >= 300, "{took:?}");
    let [late, through] = ["late", "passed-through"].map(|field| asking.stat(field));
    assert!((1..=4).contains(&late), "{late}");
    assert!(through >= 96, "{through}");
    filter.set_property("timeout", 60_000_000_000_u64);
    worker.signal(Signal::SIGCONT);
    let answered = asking.stat("answered");
    while asking.stat("answered") < answered + 5 {
        asking.send(1);
        asking.expect(1, same);
    }
    asking.end();
    assert_eq!(asking.stat("doubled"), 0);
    worker.wait().expect_success();
}

#[test]
fn a_pipeline_whose_worker_stands_still_stops_flushes_and_starts_again() {
    init();
    let name = Name::new("filter-still");
    let folder = tempfile::tempdir().unwrap();
    let worker = process(&name, "identity", &folder);
    let mut asking = Asking::new(&name, "timeout=0");
    asking.send(1);
    asking.expect(1, same);
    worker.stop();
    asking.send(20);
    asking.until("sent", 5);
    asking.pipeline.set_state(gst::State::Paused);
    asking.pipeline.set_state(gst::State::Playing);
    let pad = asking.pipeline.element("f").static_pad("sink").unwrap();
    // A flush waits for both threads of the filter.
    assert!(pad.send_event(gst::event::FlushStart::new()));
    assert!(pad.send_event(gst::event::FlushStop::new(true)));
    asking.pipeline.set_state(gst::State::Null);
    worker.signal(Signal::SIGCONT);
    worker.wait().expect_success();
}

#[test]
fn without_a_worker_it_is_an_error_that_says_what_to_start() {
    let name = Name::new("filter-alone");
    let asking = {
        let mut asking = Asking::new(&name, "timeout=100000000");
        asking.send(1);
        asking
    };
    let err = asking.pipeline.error();
    assert!(err.contains("_request") && err.contains("start"), "{err}");
    let unnamed = Pipeline::new("fakesrc ! zerobufferfilter ! fakesink");
    assert!(unnamed.pipeline.set_state(gst::State::Playing).is_err());
    let err = unnamed.error();
    assert!(err.contains("channel-name"), "{err}");
}

#[test]
fn a_late_answer_is_nobody_elses() {
    let name = Name::new("filter-late");
    let worker = Hand::new(&name, CAPS);
    let mut asking = Asking::new(&name, "timeout=50000000 on-failure=drop max-in-flight=1");
    for round in 0..3 {
        let dropped = asking.stat("dropped");
        asking.send(1);
        let request = worker.take();
        asking.until("late", round + 1);
        // It is counted as that a little later, and is none of those below.
        asking.until("dropped", dropped + 1);
        // Given back now, with its answer.
        worker.give(request);
        asking.got = asking.sent;
        asking
            .pipeline
            .element("f")
            .set_property("timeout", 60_000_000_000_u64);
        // As long as it has the other, frames are dropped at once.
        loop {
            let (dropped, sent) = (asking.stat("dropped"), asking.stat("sent"));
            asking.send(1);
            while (asking.stat("dropped"), asking.stat("sent")) == (dropped, sent) {
                std::thread::yield_now();
            }
            if asking.stat("sent") > sent {
                asking.got = asking.sent - 1;
                break;
            }
        }
        worker.give(worker.take());
        asking.expect(1, same);
        asking
            .pipeline
            .element("f")
            .set_property("timeout", 50_000_000_u64);
    }
    assert_eq!(asking.stat("doubled"), 0);
    asking.end();
}

/// A Python reader that starts tries the lock of every buffer for a moment, and removes what dead
/// readers left.
fn python_worker(name: &Name, work: &str, options: &[&str]) -> Running {
    let mut command = python::script("zb_py_duplex_server.py");
    let mut server = Running::start(command.args([name, work]).args(options));
    assert_eq!(server.line().as_deref(), Some("ready"));
    server
}

#[test]
fn a_python_worker_answers_and_one_that_fails_costs_that_frame_only() {
    let _turn = python::turn();
    let name = Name::new("filter-python");
    let mut worker = python_worker(&name, "invert", &[]);
    let mut asking = Asking::new(&name, "");
    asking.send(100);
    let told = worker.line().unwrap();
    assert!(
        told.starts_with("metadata {") && told.contains("video/x-raw"),
        "{told}"
    );
    asking.expect(100, inverted);
    assert_eq!(asking.stat("requests-copied"), 100);
    asking.end();
    worker.wait().expect_success();
    // The end of the stream is there before the ring of the answers is gone.
    drop(asking);
    name.remove_what_python_leaves();

    // Also its second, and long before its time is over.
    for (work, fails) in [("fail-31", 30), ("fail-2", 1)] {
        let name = Name::new("filter-python-fails");
        let worker = python_worker(&name, work, &[]);
        let mut asking = Asking::new(&name, "on-failure=drop timeout=0");
        asking.send(60);
        asking.expect(fails, same);
        asking.got += 1;
        asking.expect(59 - fails, same);
        asking.end();
        assert_eq!((asking.stat("late"), asking.stat("skipped")), (0, 1));
        assert_eq!((asking.stat("dropped"), asking.stat("doubled")), (1, 0));
        worker.wait().expect_success();
        drop(asking);
        name.remove_what_python_leaves();
    }
}

#[test]
fn a_python_worker_says_in_its_metadata_that_answers_have_other_caps() {
    let _turn = python::turn();
    let name = Name::new("filter-python-caps");
    // Each answer is the request twice, one above the other.
    let caps = CAPS.replace("height=16", "height=32");
    let metadata = format!(r#"{{"caps": "{caps}"}}"#);
    let worker = python_worker(&name, "twice", &["--metadata", &metadata]);
    let mut asking = Asking::new(&name, "");
    asking.send(20);
    for i in 0..20 {
        let sample = asking.next();
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        assert_eq!((info.width(), info.height()), (16, 32));
        assert!(
            assert_is(&sample, i) == pattern(LEN, i).repeat(2),
            "frame {i}"
        );
    }
    asking.end();
    worker.wait().expect_success();
    // The end of the stream is there before the ring of the answers is gone.
    drop(asking);
    name.remove_what_python_leaves();
}

#[test]
fn its_latency_is_that_of_upstream_and_its_own() {
    let name = Name::new("filter-latency");
    let worker = worker(&name, "identity");
    let pipeline = Pipeline::play(&format!(
        "videotestsrc is-live=true ! {CAPS} ! zerobufferfilter name=f channel-name={} ! fakesink",
        &*name
    ));
    pipeline.reached();
    let filter = pipeline.element("f");
    let of = |element: &gst::Element, pad: &str| {
        let mut query = gst::query::Latency::new();
        assert!(element.static_pad(pad).unwrap().peer_query(&mut query));
        query.result()
    };
    for ms in [20, 75] {
        let (live, least, _) = of(&filter, "sink");
        assert!(live);
        let sink = filter.static_pad("src").unwrap().peer().unwrap();
        let sink = sink.parent_element().unwrap();
        let (live, with_ours, _) = of(&sink, "sink");
        assert!(live);
        assert_eq!(with_ours, least + gst::ClockTime::from_mseconds(ms));
        // The next one is told to the pipeline.
        pipeline.clear();
        filter.set_property("latency", 75_000_000_u64);
        pipeline.message(&[gst::MessageType::Latency]);
    }
    drop(pipeline);
    drop(worker);
}

#[test]
fn a_python_worker_that_answers_twice_moves_no_answer_to_the_next_frame() {
    let _turn = python::turn();
    let name = Name::new("filter-python-double");
    let worker = python_worker(&name, "double", &[]);
    let mut asking = Asking::new(&name, "");
    asking.send(40);
    asking.expect(40, same);
    // The last is read with the next answer, if there is one.
    assert!(asking.stat("doubled") >= 39);
    asking.end();
    worker.wait().expect_success();
    // The end of the stream is there before the ring of the answers is gone.
    drop(asking);
    name.remove_what_python_leaves();
}
