//! zerobufferfilter and one stream, client or worker behind another: each frame has its own answer or
//! goes by `on-failure`, whoever was there before; and every wait ends when it is told to.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::duplex::{DuplexServer, DuplexServerConfig};
use nix::sys::signal::Signal;
use support::{LONG, Name, Running, again, pattern};
use support_gst::{Pipeline, init};

const LEN: usize = 256;

/// What comes out of a filter.
#[derive(Debug, PartialEq, Eq)]
enum Out {
    /// Which frame it was, by its time, and its bytes.
    Frame(u64, Vec<u8>),
    Start,
    End,
}

/// A filter between pads of the test's.
struct Between {
    pipeline: Pipeline,
    filter: gst::Element,
    sink: gst::Pad,
    behind: gst::Pad,
    out: Receiver<Out>,
}

impl Between {
    fn new(name: &str, more: &str) -> Self {
        init();
        let pipeline = Pipeline::new(&format!(
            "pipeline.( zerobufferfilter name=f channel-name={name} {more} )"
        ));
        let filter = pipeline.element("f");
        let (frames, out): (Sender<Out>, _) = mpsc::channel();
        let events = frames.clone();
        let behind = gst::Pad::builder(gst::PadDirection::Sink)
            .chain_function(move |_, _, buffer| {
                let bytes = buffer.map_readable().unwrap().to_vec();
                let i = buffer.pts().unwrap().nseconds();
                let _ = frames.send(Out::Frame(i, bytes));
                Ok(gst::FlowSuccess::Ok)
            })
            .event_function(move |_, _, event| {
                let _ = match event.type_() {
                    gst::EventType::StreamStart => events.send(Out::Start),
                    gst::EventType::Eos => events.send(Out::End),
                    _ => Ok(()),
                };
                true
            })
            .query_function(|pad, parent, query| match query.view_mut() {
                gst::QueryViewMut::AcceptCaps(accept) => {
                    accept.set_result(true);
                    true
                }
                _ => gst::Pad::query_default(pad, parent, query),
            })
            .build();
        let [sink, src] = ["sink", "src"].map(|pad| filter.static_pad(pad).unwrap());
        src.link(&behind).unwrap();
        behind.set_active(true).unwrap();
        pipeline.set_state(gst::State::Playing);
        Between {
            pipeline,
            filter,
            sink,
            behind,
            out,
        }
    }

    /// Begins a stream, whose frames are of this width.
    fn begin(&self, width: u64) {
        let sent = [
            gst::event::StreamStart::new("test"),
            gst::event::Caps::new(&caps(width)),
            segment(),
        ]
        .map(|event| self.sink.send_event(event));
        assert_eq!(sent, [true; 3]);
    }

    fn send(&self, i: u64) {
        self.send_of(i, LEN);
    }

    #[track_caller]
    fn send_of(&self, i: u64, len: usize) {
        if let Err(err) = self.sink.chain(frame(i, len)) {
            self.pipeline.no_error();
            panic!("frame {i}: {err}");
        }
    }

    fn end(&self) {
        assert!(self.sink.send_event(gst::event::Eos::new()));
    }

    #[track_caller]
    fn next(&self) -> Out {
        self.out.recv_timeout(LONG).unwrap_or_else(|_| {
            self.pipeline.no_error();
            panic!(
                "nothing comes: {:?}",
                self.filter.property::<gst::Structure>("stats")
            )
        })
    }

    fn stat(&self, field: &str) -> u64 {
        self.pipeline.stat("f", field)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = self.pipeline.pipeline.set_state(gst::State::Null);
        let _ = self.behind.set_active(false);
    }
}

fn caps(width: u64) -> gst::Caps {
    let text = format!("video/x-raw,format=GRAY8,width={width},height=16,framerate=25/1");
    gst::Caps::from_str(&text).unwrap()
}

fn segment() -> gst::Event {
    gst::event::Segment::new(gst::FormattedSegment::<gst::ClockTime>::new().upcast_ref())
}

fn frame(i: u64, len: usize) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_slice(pattern(len, i));
    let edit = buffer.get_mut().unwrap();
    edit.set_pts(gst::ClockTime::from_nseconds(i));
    buffer
}

fn inverted(i: u64) -> Vec<u8> {
    inverted_of(i, LEN)
}

fn inverted_of(i: u64, len: usize) -> Vec<u8> {
    pattern(len, i).into_iter().map(|byte| !byte).collect()
}

/// A server that inverts frames, each when `may` says so.
fn server(name: &str, may: impl Fn(u64) + Send + Sync + 'static) -> DuplexServer {
    let builder = DuplexServer::builder(name, DuplexServerConfig::new(4096, 32 << 10));
    let server = builder.start(move |request, reply| {
        may(request.sequence());
        let mut answer = reply.copy(request)?;
        answer.iter_mut().for_each(|byte| *byte = !*byte);
        Ok(answer)
    });
    server.unwrap()
}

#[test]
fn streams_that_follow_each_other_at_once_have_all_their_answers() {
    let name = Name::new("turns-streams");
    let server = server(&name, |_| {});
    let between = Between::new(&name, "");
    for stream in 0..50 {
        between.begin(16);
        for i in 0..3 {
            between.send(10 * stream + i);
        }
        between.end();
    }
    for stream in 0..50 {
        assert_eq!(between.next(), Out::Start);
        for i in (0..3).map(|i| 10 * stream + i) {
            assert_eq!(between.next(), Out::Frame(i, inverted(i)));
        }
        assert_eq!(between.next(), Out::End);
    }
    assert_eq!(between.stat("answered"), 150);
    assert_eq!(between.stat("workers"), 50);
    drop(between);
    server.stop();
}

#[test]
fn an_answer_that_comes_after_the_end_is_none_for_the_next_stream() {
    let name = Name::new("turns-owed");
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(Some(wait));
    let server = server(&name, move |_| {
        // The first of all.
        if let Some(wait) = wait.lock().unwrap().take() {
            wait.recv_timeout(LONG).unwrap();
        }
    });
    let between = Between::new(&name, "on-failure=passthrough timeout=50000000");
    between.begin(16);
    between.send(0);
    assert_eq!(between.next(), Out::Start);
    assert_eq!(between.next(), Out::Frame(0, pattern(LEN, 0)));
    assert_eq!(between.stat("late"), 1);
    between.end();
    assert_eq!(between.next(), Out::End);
    // The server is still at it when the first request of the next stream is there.
    between.filter.set_property("timeout", 0_u64);
    between.begin(16);
    between.send(1);
    assert_eq!(between.stat("sent"), 2);
    go.send(()).unwrap();
    assert_eq!(between.next(), Out::Start);
    assert_eq!(between.next(), Out::Frame(1, inverted(1)));
    drop(between);
    server.stop();
}

#[test]
fn an_end_behind_frames_that_nobody_took_is_an_error_and_does_not_hang() {
    init();
    let name = Name::new("turns-unlinked");
    let pipeline = Pipeline::play(&format!(
        "pipeline.( zerobufferfilter name=f channel-name={} on-failure=passthrough )",
        &*name
    ));
    let filter = pipeline.element("f");
    let sink = filter.static_pad("sink").unwrap();
    for event in [
        gst::event::StreamStart::new("test"),
        gst::event::Caps::new(&caps(16)),
        segment(),
    ] {
        assert!(sink.send_event(event));
    }
    while sink.chain(frame(0, LEN)).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(sink.chain(frame(0, LEN)), Err(gst::FlowError::NotLinked));
    // Caps that come now are not what is wrong.
    assert!(sink.send_event(gst::event::Caps::new(&caps(32))));
    assert!(!sink.send_event(gst::event::Eos::new()));
    let err = pipeline.error();
    assert!(err.contains("Internal data stream error"), "{err}");
}

#[test]
fn clients_in_turn_have_their_own_answers_and_leave_the_worker_as_it_was() {
    const CLIENTS: u64 = 24;
    for by_pipeline in [false, true] {
        let name = Name::new("turns-clients");
        let server = (!by_pipeline).then(|| server(&name, |_| {}));
        let worker = by_pipeline.then(|| {
            Pipeline::play(&format!(
                "zerobuffersrc buffer-name={0}_request on-writer-exit=wait \
                 ! videoconvert ! queue ! identity \
                 ! zerobuffersink buffer-name={0}_response",
                &*name
            ))
        });
        for client in 0..CLIENTS {
            let width = 16 * (1 + client % 5);
            let len = 16 * width as usize;
            let between = Between::new(&name, "");
            between.begin(width);
            let frames = 10 * client..10 * client + 3;
            for i in frames.clone() {
                between.send_of(i, len);
            }
            assert_eq!(between.next(), Out::Start);
            if client % 3 == 2 {
                // It goes with requests at the worker.
                continue;
            }
            for i in frames {
                let due = match by_pipeline {
                    true => pattern(len, i),
                    false => inverted_of(i, len),
                };
                assert!(
                    between.next() == Out::Frame(i, due),
                    "client {client}, frame {i}"
                );
            }
            if client % 3 == 1 {
                between.end();
                assert_eq!(between.next(), Out::End);
            }
            assert_eq!(between.stat("doubled"), 0);
        }
        if let Some(worker) = worker {
            worker.no_error();
        }
        if let Some(server) = server {
            server.stop();
        }
    }
}

/// Runs `call` in a thread, and `then` when that sleeps in it; returns what the call returned.
fn while_it_waits<T: Send>(call: impl FnOnce() -> T + Send, then: impl FnOnce()) -> T {
    let (here, tid) = mpsc::channel();
    std::thread::scope(|scope| {
        let waits = scope.spawn(move || {
            here.send(nix::unistd::gettid()).unwrap();
            call()
        });
        let stat = format!("/proc/self/task/{}/stat", tid.recv().unwrap());
        loop {
            let stat = std::fs::read_to_string(&stat).expect("it did not wait at all");
            // The state stands behind the name, which is in brackets.
            if stat.rsplit(") ").next().unwrap().starts_with('S') {
                break;
            }
            std::thread::yield_now();
        }
        then();
        waits.join().unwrap()
    })
}

#[test]
fn every_wait_for_a_worker_that_stands_still_ends_with_a_flush_and_with_the_state() {
    const TEST: &str =
        "every_wait_for_a_worker_that_stands_still_ends_with_a_flush_and_with_the_state";
    if let Some(name) = support::role() {
        let server = server(&name, |_| {});
        support::say("ready");
        support::listen();
        return server.stop();
    }
    // What upstream waits in: whether it was let through.
    type Call = fn(&gst::Pad) -> bool;
    let frames: Call = |sink| (2..).any(|i| sink.chain(frame(i, LEN)).is_err());
    let query: Call = |sink| !sink.query(&mut gst::query::Drain::new());
    // More than the ring of the answers is for: the worker gets another one.
    let caps: Call = |sink| !sink.send_event(gst::event::Caps::new(&caps(1 << 16)));
    let next: Call = |sink| {
        // Refused only if the flush is there already, and then the other is, too.
        let _ = sink.send_event(gst::event::Eos::new());
        !sink.send_event(gst::event::StreamStart::new("next"))
    };
    // The last are as many as the ring of the requests has no room for.
    for (call, most) in [(frames, 1), (query, 4), (caps, 4), (next, 4), (frames, 256)] {
        for flushes in [true, false] {
            let name = Name::new("turns-still");
            let mut worker = Running::start(&mut again(TEST, &name));
            assert_eq!(worker.hear(), "ready");
            let between = Between::new(&name, &format!("timeout=0 max-in-flight={most}"));
            between.begin(16);
            between.send(0);
            assert_eq!(between.next(), Out::Start);
            assert_eq!(between.next(), Out::Frame(0, inverted(0)));
            worker.stop();
            between.send(1);
            let stopped = while_it_waits(
                || call(&between.sink),
                || {
                    if flushes {
                        assert!(between.sink.send_event(gst::event::FlushStart::new()));
                    } else {
                        between.pipeline.set_state(gst::State::Null);
                    }
                },
            );
            assert!(stopped);
            worker.signal(Signal::SIGCONT);
            if flushes {
                assert!(between.sink.send_event(gst::event::FlushStop::new(true)));
                between.begin(16);
                between.send(1000);
                let frame = std::iter::repeat_with(|| between.next())
                    .find(|out| matches!(out, Out::Frame(..)));
                assert_eq!(frame, Some(Out::Frame(1000, inverted(1000))));
            }
            drop(between);
            worker.tell("end");
            worker.wait().expect_success();
        }
    }
}

#[test]
fn a_flush_before_anything_has_gone_out_leaves_caps_before_their_segment() {
    init();
    let name = Name::new("turns-flush");
    let pipeline = Pipeline::new(&format!(
        "pipeline.( zerobufferfilter name=f channel-name={} on-failure=passthrough )",
        &*name
    ));
    let (tell, events) = mpsc::channel();
    let (flushed, flush) = mpsc::channel();
    let flush = Mutex::new(Some(flush));
    let behind = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(|_, _, _| Ok(gst::FlowSuccess::Ok))
        .event_function(move |_, _, event| {
            if event.type_() == gst::EventType::FlushStart {
                let _ = flushed.send(());
            } else {
                let _ = tell.send(event.type_());
            }
            if event.type_() == gst::EventType::StreamStart
                && let Some(flush) = flush.lock().unwrap().take()
            {
                // What is behind it is not sent on before the flush.
                flush.recv_timeout(LONG).unwrap();
            }
            true
        })
        .query_function(|_, _, query| match query.view_mut() {
            gst::QueryViewMut::AcceptCaps(accept) => {
                accept.set_result(true);
                true
            }
            _ => false,
        })
        .build();
    let filter = pipeline.element("f");
    let [sink, src] = ["sink", "src"].map(|pad| filter.static_pad(pad).unwrap());
    src.link(&behind).unwrap();
    behind.set_active(true).unwrap();
    pipeline.set_state(gst::State::Playing);
    for event in [
        gst::event::StreamStart::new("test"),
        gst::event::Caps::new(&caps(16)),
        segment(),
    ] {
        assert!(sink.send_event(event));
    }
    assert_eq!(events.recv_timeout(LONG), Ok(gst::EventType::StreamStart));
    assert!(sink.send_event(gst::event::FlushStart::new()));
    assert!(sink.send_event(gst::event::FlushStop::new(true)));
    assert!(sink.send_event(segment()));
    sink.chain(frame(0, LEN)).unwrap();
    let due = [gst::EventType::Caps, gst::EventType::Segment];
    let came = std::iter::repeat_with(|| events.recv_timeout(LONG).unwrap());
    let came: Vec<_> = came.filter(|event| due.contains(event)).take(2).collect();
    assert_eq!(came, due);
    pipeline.set_state(gst::State::Null);
    behind.set_active(false).unwrap();
}

#[test]
fn behind_a_seek_there_are_frames_from_there_and_their_own_answers() {
    let name = Name::new("turns-seek");
    let server = server(&name, |_| {});
    let caps = "video/x-raw,format=GRAY8,width=16,height=16,framerate=25/1";
    let from = format!("videotestsrc pattern=ball ! {caps}");
    let [plain, asking] = [
        "identity".into(),
        format!("zerobufferfilter channel-name={} max-in-flight=6", &*name),
    ]
    .map(|what| {
        Pipeline::play(&format!(
            "{from} ! {what} ! appsink name=out max-buffers=2 sync=false"
        ))
    });
    let next = |pipeline: &Pipeline| {
        let sample = pipeline.appsink("out").pull_sample().unwrap();
        let buffer = sample.buffer().unwrap();
        (buffer.pts(), buffer.map_readable().unwrap().to_vec())
    };
    for second in [3, 1, 60, 0, 7, 7, 2] {
        for pipeline in [&plain, &asking] {
            let to = gst::ClockTime::from_seconds(second);
            let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
            pipeline.pipeline.seek_simple(flags, to).unwrap();
        }
        // Requests from before the seek are still at the worker when the next come.
        for i in 0..5 {
            let ((due, picture), (time, got)) = (next(&plain), next(&asking));
            assert_eq!(time, due, "frame {i} behind the seek to {second} s");
            assert!(
                got.iter().map(|byte| !byte).eq(picture),
                "frame {i} at {time:?}"
            );
        }
    }
    drop(asking);
    server.stop();
}
