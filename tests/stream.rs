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

use gstreamer as gst;
use support_gst::{Pipeline, bytes, caps, receiver, sender};

/// All that comes until the end of the stream.
fn all(receiver: &Pipeline) -> Vec<gst::Sample> {
    let output = receiver.appsink("out");
    let samples = std::iter::from_fn(|| output.pull_sample().ok()).collect();
    receiver.end();
    samples
}

fn pts(sample: &gst::Sample) -> u64 {
    sample.buffer().unwrap().pts().unwrap().nseconds()
}

fn offset(sample: &gst::Sample) -> u64 {
    sample.buffer().unwrap().offset()
}
