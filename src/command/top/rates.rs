//! What changes of buffers from one look to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use gstzerobuffer::inspect::{self, Follower, Inspection, host};

use crate::caps::{Caps, HEADS};

/// A buffer in the interval that is over.
pub struct Measured {
    pub seen: Inspection,
    pub caps: Option<Caps>,
    /// Frames a second; `None` before an interval is over, or if they could not be followed.
    pub rate: Option<f64>,
    /// Bytes a second.
    pub bytes: Option<f64>,
    /// Part of the ring in use at the last look, and the most that was.
    pub used: f64,
    pub peak: f64,
    /// Seconds from when the newest frame was due to when it was looked at, the least.
    pub late: Option<f64>,
    /// Number of the newest frame.
    pub sequence: Option<u64>,
}

/// A buffer that is followed.
struct Followed {
    follower: Option<Follower>,
    /// In this interval: number of the newest frame at the beginning, frames with their bytes since.
    first: Option<u64>,
    last: Option<(u64, u64)>,
    peak: f64,
    late: Option<f64>,
    measured: Measured,
}

/// All that are looked at.
pub struct Rates {
    /// Empty: all that there are.
    names: Vec<String>,
    followed: BTreeMap<String, Followed>,
}

impl Rates {
    pub fn of(names: &[String]) -> Self {
        Rates {
            names: names.to_vec(),
            followed: BTreeMap::new(),
        }
    }

    pub fn measured(&self) -> impl Iterator<Item = &Measured> {
        self.followed.values().map(|it| &it.measured)
    }

    /// A new interval: which buffers there are now, and how.
    pub fn begin(&mut self) {
        let names = if self.names.is_empty() {
            inspect::buffers()
        } else {
            self.names.clone()
        };
        let mut before = std::mem::take(&mut self.followed);
        for name in names {
            let Ok(seen) = Inspection::with_frames(&name, HEADS) else {
                continue;
            };
            // One of the same name that was made anew is another.
            let old = before.remove(&name);
            let old = old.filter(|old| old.measured.seen.file.id == seen.file.id);
            let followed = Followed::new(seen, old);
            self.followed.insert(name, followed);
        }
    }

    pub fn sample(&mut self) {
        for followed in self.followed.values_mut() {
            followed.sample();
        }
    }

    /// The interval is over, and was this long.
    pub fn end(&mut self, time: Duration) {
        for followed in self.followed.values_mut() {
            followed.end(time.as_secs_f64());
        }
    }
}

impl Followed {
    fn new(seen: Inspection, old: Option<Self>) -> Self {
        let caps = Caps::of(&seen);
        match old {
            Some(old) => Followed {
                first: old.last.map(|(sequence, _)| sequence),
                peak: 0.0,
                late: None,
                measured: Measured {
                    caps: caps.or(old.measured.caps),
                    seen,
                    ..old.measured
                },
                ..old
            },
            None => Followed {
                follower: Follower::of(&seen.name).ok(),
                first: None,
                last: None,
                peak: 0.0,
                late: None,
                measured: Measured {
                    seen,
                    caps,
                    rate: None,
                    bytes: None,
                    used: 0.0,
                    peak: 0.0,
                    late: None,
                    sequence: None,
                },
            },
        }
    }

    fn sample(&mut self) {
        let Some((numbers, newest)) = self.follower.as_mut().and_then(Follower::look) else {
            return;
        };
        let now = host::monotonic();
        self.measured.used = numbers.used() as f64 / numbers.payload_size.max(1) as f64;
        self.peak = self.peak.max(self.measured.used);
        let Some(newest) = newest else { return };
        let is_new = self
            .last
            .is_none_or(|(sequence, _)| sequence != newest.sequence);
        self.last = Some((newest.sequence, newest.len));
        self.first.get_or_insert(newest.sequence);
        let records = newest.records.as_ref().and_then(|it| it.as_ref().ok());
        let due = records.and_then(|records| records.time()?.monotonic);
        // One that has been looked at before only gets later.
        if is_new && let Some(due) = due {
            let late = now.as_secs_f64() - Duration::from_nanos(due).as_secs_f64();
            self.late = Some(self.late.map_or(late, |before| before.min(late)));
        }
    }

    fn end(&mut self, seconds: f64) {
        let measured = &mut self.measured;
        measured.peak = self.peak;
        measured.late = self.late;
        measured.sequence = self.last.map(|(sequence, _)| sequence);
        let frames = match (self.first, self.last) {
            // A new writer starts again at 1.
            (Some(first), Some((last, _))) if last < first => Some(last),
            (Some(first), Some((last, _))) => Some(last - first),
            // Nobody has written yet.
            (None, None) => measured.seen.content.as_ref().ok().map(|_| 0),
            _ => None,
        };
        measured.rate = frames.map(|frames| frames as f64 / seconds);
        let len = self.last.map_or(0, |(_, len)| len);
        measured.bytes = measured.rate.map(|rate| rate * len as f64);
    }
}
