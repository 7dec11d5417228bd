//! Time across processes: running time of one pipeline as CLOCK_MONOTONIC time, which all processes
//! of a machine share, and back as running time of another, as unixfdsink and unixfdsrc do it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use gst::prelude::*;
use gstreamer as gst;

/// Looks at another clock for each difference.
const LOOKS: usize = 3;

/// What a pipeline's running time is in CLOCK_MONOTONIC, at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Nanoseconds of CLOCK_MONOTONIC at running time 0; may be before the machine started.
    zero: i64,
}

impl Timeline {
    /// That of the pipeline of this element, while it plays; `None` without a clock.
    pub fn of(element: &impl IsA<gst::Element>) -> Option<Self> {
        let element = element.upcast_ref::<gst::Element>();
        let clock = element.clock()?;
        let base = element.base_time()?;
        Some(Timeline {
            zero: signed(base).checked_add(ahead(&clock))?,
        })
    }

    /// CLOCK_MONOTONIC at a running time; `None` before the machine started.
    pub fn monotonic(self, running: gst::Signed<gst::ClockTime>) -> Option<u64> {
        let running = match running {
            gst::Signed::Positive(time) => signed(time),
            gst::Signed::Negative(time) => -signed(time),
        };
        u64::try_from(self.zero.checked_add(running)?).ok()
    }

    /// Running time at a time of CLOCK_MONOTONIC; 0 for all that is before.
    pub fn running(self, monotonic: u64) -> gst::ClockTime {
        let time = i64::try_from(monotonic).unwrap_or(i64::MAX);
        let running = time.saturating_sub(self.zero).max(0);
        gst::ClockTime::from_nseconds(running.unsigned_abs())
    }
}

fn signed(time: gst::ClockTime) -> i64 {
    i64::try_from(time.nseconds()).unwrap_or(i64::MAX)
}

/// Whether a clock is CLOCK_MONOTONIC.
fn is_monotonic(clock: &gst::Clock) -> bool {
    /// The clock that most pipelines have, and whether it is; to ask it for each frame is a tenth of
    /// what a frame costs.
    static USUAL: LazyLock<(gst::Clock, Arc<AtomicBool>)> = LazyLock::new(|| {
        let clock = gst::SystemClock::obtain();
        let known = Arc::new(AtomicBool::new(false));
        let told = known.clone();
        // Relaxed: it stands for nothing else. First the handler, so that no change is missed.
        clock.connect_notify(Some("clock-type"), move |clock, _| {
            told.store(asked(clock), Ordering::Relaxed);
        });
        known.store(asked(&clock), Ordering::Relaxed);
        (clock, known)
    });
    fn asked(clock: &gst::Clock) -> bool {
        clock
            .downcast_ref::<gst::SystemClock>()
            .is_some_and(|clock| {
                clock.property::<gst::ClockType>("clock-type") == gst::ClockType::Monotonic
            })
    }
    let (usual, known) = &*USUAL;
    if clock == usual {
        known.load(Ordering::Relaxed)
    } else {
        asked(clock)
    }
}

/// By how much CLOCK_MONOTONIC is ahead of this clock.
fn ahead(clock: &gst::Clock) -> i64 {
    if is_monotonic(clock) {
        // Exactly, without the time between two looks.
        return 0;
    }
    // The look at the other clock between two at ours: what is in the middle is at the same time. Of
    // a few, the one in which the least came in between.
    let looks = (0..LOOKS).map(|_| {
        let before = signed(gst::get_timestamp());
        let there = signed(clock.time());
        let took = signed(gst::get_timestamp()) - before;
        (took, before + took / 2 - there)
    });
    looks.min().map_or(0, |(_, ahead)| ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_leads_there_and_back() {
        let line = Timeline { zero: 5_000 };
        let positive = gst::Signed::Positive(gst::ClockTime::from_nseconds(700));
        let negative = gst::Signed::Negative(gst::ClockTime::from_nseconds(700));
        assert_eq!(line.monotonic(positive), Some(5_700));
        assert_eq!(line.monotonic(negative), Some(4_300));
        assert_eq!(line.running(5_700).nseconds(), 700);
        assert_eq!(line.running(4_300).nseconds(), 0, "before we began");
        let early = Timeline { zero: 100 };
        assert_eq!(early.monotonic(negative), None);
        let before_boot = Timeline { zero: -10_000 };
        assert_eq!(before_boot.running(500).nseconds(), 10_500);
        assert_eq!(line.running(u64::MAX).nseconds(), i64::MAX as u64 - 5_000);
    }

    #[test]
    fn two_pipelines_on_the_systems_clock_agree_to_the_nanosecond() {
        gst::init().unwrap();
        let clock = gst::SystemClock::obtain();
        let [here, there] = [1_000_000_u64, 77_000_000].map(|base| {
            let element = gst::Pipeline::new();
            element.set_clock(Some(&clock)).unwrap();
            element.set_base_time(gst::ClockTime::from_nseconds(base));
            Timeline::of(&element)
        });
        // A pipeline has no clock of its own before it plays.
        if let (Some(here), Some(there)) = (here, there) {
            let due = gst::Signed::Positive(gst::ClockTime::SECOND);
            let running = there.running(here.monotonic(due).unwrap());
            assert_eq!(running.nseconds(), 1_000_000_000 - 76_000_000);
        } else {
            panic!("no clock");
        }

        assert!(is_monotonic(clock.upcast_ref()));
        clock.set_property("clock-type", gst::ClockType::Realtime);
        assert!(!is_monotonic(clock.upcast_ref()));
        clock.set_property("clock-type", gst::ClockType::Monotonic);
        assert!(is_monotonic(clock.upcast_ref()));
        let other = gst::glib::Object::builder::<gst::SystemClock>()
            .property("clock-type", gst::ClockType::Realtime)
            .build();
        assert!(!is_monotonic(other.upcast_ref()));
    }
}
