//! Between our own elements a stream arrives as it left: time, caps, layouts, events, and in a ring
//! of the right size.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

#[path = "stream/caps.rs"]
mod caps;
#[path = "stream/events.rs"]
mod events;
#[path = "stream/layouts.rs"]
mod layouts;
#[path = "stream/metas.rs"]
mod metas;
#[path = "stream/segments.rs"]
mod segments;
#[path = "stream/sizes.rs"]
mod sizes;
#[path = "stream/time.rs"]
mod time;

use std::str::FromStr;

use gstreamer as gst;
use support_gst::{Pipeline, init};

/// A receiver whose appsink keeps everything.
fn receiver(name: &str, more: &str) -> Pipeline {
    Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={name} {more} ! appsink name=out sync=false"
    ))
}

/// A sender that takes its buffers from the test.
fn sender(name: &str, caps: &gst::Caps) -> Pipeline {
    let sender = Pipeline::new(&format!(
        "appsrc name=in format=time max-bytes=0 \
         ! zerobuffersink name=sink sync=false buffer-name={name}"
    ));
    sender.appsrc("in").set_caps(Some(caps));
    sender.set_state(gst::State::Playing);
    sender
}

/// All that comes until the end of the stream.
fn all(receiver: &Pipeline) -> Vec<gst::Sample> {
    let output = receiver.appsink("out");
    let samples = std::iter::from_fn(|| output.pull_sample().ok()).collect();
    receiver.end();
    samples
}

fn bytes(sample: &gst::Sample) -> Vec<u8> {
    sample.buffer().unwrap().map_readable().unwrap().to_vec()
}

fn caps(text: &str) -> gst::Caps {
    init();
    gst::Caps::from_str(text).unwrap()
}

fn pts(sample: &gst::Sample) -> u64 {
    sample.buffer().unwrap().pts().unwrap().nseconds()
}

fn offset(sample: &gst::Sample) -> u64 {
    sample.buffer().unwrap().offset()
}
