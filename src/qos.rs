//! QoS messages for frames that were left out, as elements that drop frames post them.
//!
//! A frame that is left out may be one of thousands in a second (no reader, and a source that does
//! not wait), and nobody may read the bus. So there are at most ten messages a second: the first
//! frame of a row is told at once, the next ones together. Each message has the counts so far, in
//! buffers, so nothing is missing in their sum.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;

use crate::element::Counters;

const INTERVAL: Duration = Duration::from_millis(100);

/// When the frame that was left out was due.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeftOut {
    pub live: bool,
    pub running_time: Option<gst::ClockTime>,
    pub stream_time: Option<gst::ClockTime>,
    pub timestamp: Option<gst::ClockTime>,
    pub duration: Option<gst::ClockTime>,
}

/// The messages of an element.
#[derive(Debug, Default)]
pub struct Qos {
    untold: Mutex<Untold>,
    /// There is something that no message has told. Relaxed: only the streaming thread looks.
    late: AtomicBool,
}

#[derive(Debug, Default)]
struct Untold {
    posted: Option<Instant>,
    last: Option<LeftOut>,
}

impl Qos {
    /// A frame was left out, and is counted already.
    pub fn left_out(&self, element: &impl IsA<gst::Element>, counters: &Counters, frame: LeftOut) {
        {
            let mut untold = self.untold();
            let late = (untold.posted).is_some_and(|posted| posted.elapsed() < INTERVAL);
            self.late.store(late, Ordering::Relaxed);
            if late {
                untold.last = Some(frame);
                return;
            }
            *untold = Untold {
                posted: Some(Instant::now()),
                last: None,
            };
        }
        post(element, counters, frame);
    }

    /// A frame gets through, or the stream ends: tells what is not told yet.
    pub fn settle(&self, element: &impl IsA<gst::Element>, counters: &Counters) {
        if !self.late.swap(false, Ordering::Relaxed) {
            return;
        }
        // The lock is let go before: a message may have a handler that is called here.
        let last = self.untold().last.take();
        if let Some(frame) = last {
            post(element, counters, frame);
        }
    }

    /// The element starts anew.
    pub fn reset(&self) {
        self.late.store(false, Ordering::Relaxed);
        *self.untold() = Untold::default();
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn post(element: &impl IsA<gst::Element>, counters: &Counters, frame: LeftOut) {
    let buffers = |count: &std::sync::atomic::AtomicU64| {
        gst::format::Buffers::from_u64(count.load(Ordering::Relaxed))
    };
    let message = gst::message::Qos::builder(frame.live)
        .src(element.as_ref())
        .running_time(frame.running_time)
        .stream_time(frame.stream_time)
        .timestamp(frame.timestamp)
        .duration(frame.duration)
        .stats(buffers(&counters.frames), buffers(&counters.dropped))
        .build();
    // There is nobody to tell it to where there is no bus.
    let _ = element.post_message(message);
}
