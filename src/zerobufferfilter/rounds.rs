//! What the filter counts: requests and what became of them, and how long answers took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gstreamer as gst;

use crate::element::{Connection, Counters};

/// Counts since the element was started.
#[derive(Debug, Default)]
pub struct Rounds {
    pub answered: AtomicU64,
    pub late: AtomicU64,
    pub skipped: AtomicU64,
    pub lost: AtomicU64,
    pub doubled: AtomicU64,
    pub dropped: AtomicU64,
    pub passed_through: AtomicU64,
    pub workers: AtomicU64,
    /// Answers whose memory is the ring, and that were copied out of it.
    pub in_place: AtomicU64,
    pub copied: AtomicU64,
    times: Mutex<Times>,
}

/// Round trips.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    count: u32,
    least: Duration,
    most: Duration,
    sum: Duration,
    last: Duration,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Rounds {
    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn reset(&self) {
        let Rounds {
            answered,
            late,
            skipped,
            lost,
            doubled,
            dropped,
            passed_through: passed,
            workers,
            in_place,
            copied,
            times: _,
        } = self;
        for counter in [
            answered, late, skipped, lost, doubled, dropped, passed, workers, in_place, copied,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        *self.times() = Times::default();
    }

    /// An answer came after so long.
    pub fn answered(&self, took: Duration) {
        Counters::add(&self.answered, 1);
        let times = &mut *self.times();
        times.least = match times.count {
            0 => took,
            _ => times.least.min(took),
        };
        times.most = times.most.max(took);
        times.sum = times.sum.saturating_add(took);
        times.last = took;
        times.count = times.count.saturating_add(1);
    }

    /// How long the quickest answer took.
    pub fn least(&self) -> Duration {
        self.times().least
    }

    /// The `stats` property. The connections are those of the requests and of the answers.
    pub fn structure(
        &self,
        requests: &Counters,
        asking: Connection,
        answering: Connection,
    ) -> gst::Structure {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let times = *self.times();
        let mean = times.sum.checked_div(times.count).unwrap_or_default();
        let (in_place, copied) = (get(&requests.in_place), get(&requests.copied));
        gst::Structure::builder("application/x-zerobufferfilter-stats")
            .field("sent", in_place + copied)
            .field("answered", get(&self.answered))
            .field("late", get(&self.late))
            .field("skipped", get(&self.skipped))
            .field("lost", get(&self.lost))
            .field("doubled", get(&self.doubled))
            .field("dropped", get(&self.dropped))
            .field("passed-through", get(&self.passed_through))
            .field("workers", get(&self.workers))
            .field("rtt-min", nanos(times.least))
            .field("rtt-mean", nanos(mean))
            .field("rtt-max", nanos(times.most))
            .field("rtt-last", nanos(times.last))
            .field("requests-in-place", in_place)
            .field("requests-copied", copied)
            .field(
                "answers-in-place",
                get(&self.in_place).saturating_sub(answering.moved),
            )
            .field("answers-copied", get(&self.copied) + answering.moved)
            .field("request-ring-used", asking.ring_used)
            .field("request-ring-size", asking.ring_size)
            .field("response-ring-used", answering.ring_used)
            .field("response-ring-size", answering.ring_size)
            .field("peer-pid", asking.peer_pid)
            .build()
    }

    /// Takes over what a ring of answers counted, when it is left.
    pub fn end(&self, answering: Connection) {
        Counters::add(&self.copied, answering.moved);
        Counters::take_off(&self.in_place, answering.moved);
    }
}

/// The blurb of the `stats` property.
pub const STATS_BLURB: &str = "Since the start (uint64 each): requests sent; frames answered, late \
    (no answer in time), skipped (passed over by the worker), lost (the worker went away), dropped, \
    passed through; answers doubled (nobody's); workers; least, mean, most and last nanoseconds from \
    a request to its answer; requests and answers in place and copied; and now: bytes of both rings \
    used, their sizes, the worker's process id (0 = none)";
