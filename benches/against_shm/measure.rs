//! What a process uses: processor time and memory.

use std::fs;

use gstreamer as gst;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

/// Nanoseconds of CLOCK_MONOTONIC, the same in all processes of a machine.
pub fn now() -> u64 {
    gst::get_timestamp().nseconds()
}

/// What this process has used up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// When, as [`now`].
    pub at: u64,
    /// Nanoseconds of processor time, all threads.
    pub cpu: u64,
    /// Page faults.
    pub faults: u64,
    /// How often a thread went to sleep.
    pub sleeps: u64,
}

impl Mark {
    pub fn now() -> Self {
        let nanos = |time: TimeVal| time.num_nanoseconds() as u64;
        // It cannot fail for a process that asks about itself.
        let usage =
            getrusage(UsageWho::RUSAGE_SELF).unwrap_or_else(|err| panic!("getrusage: {err}"));
        Mark {
            at: now(),
            cpu: nanos(usage.user_time()) + nanos(usage.system_time()),
            faults: (usage.minor_page_faults() + usage.major_page_faults()) as u64,
            sleeps: usage.voluntary_context_switches() as u64,
        }
    }
}

/// KiB of memory of this process; of what it shares with others, its part.
pub fn memory() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default()
}

/// The value below which that part of all values lies.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get((last as f64 * part).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}
