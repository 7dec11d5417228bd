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
use support::{LONG, Name, pattern};
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

    #[track_caller]
    fn send(&self, i: u64) {
        if let Err(err) = self.sink.chain(frame(i, LEN)) {
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
    pattern(LEN, i).into_iter().map(|byte| !byte).collect()
}

/// A server that inverts frames, each when `may` says so.
fn server(name: &str, may: impl Fn(u64) + Send + Sync + 'static) -> DuplexServer {
    let builder = DuplexServer::builder(name, DuplexServerConfig::new(4096, 1 << 20));
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
