//! What tests across languages agree on: unique buffer names and frame patterns, as in the test
//! utilities of the other ZeroBuffer implementations (`TestDataPatterns`, `BufferNamingService`).

use std::collections::HashMap;
use std::env;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Byte `i` is `(i + sequence) mod 256`.
pub fn frame_data(size: usize, sequence: u64) -> Vec<u8> {
    let mut data = vec![0; size];
    fill_frame_data(&mut data, sequence);
    data
}

/// Writes [`frame_data`] in place.
pub fn fill_frame_data(data: &mut [u8], sequence: u64) {
    for (i, byte) in (0u64..).zip(data) {
        *byte = i.wrapping_add(sequence) as u8;
    }
}

/// Whether `data` is [`frame_data`] of this sequence number.
pub fn is_frame_data(data: &[u8], sequence: u64) -> bool {
    (0u64..)
        .zip(data)
        .all(|(i, byte)| *byte == i.wrapping_add(sequence) as u8)
}

/// Byte `i` is `i mod 256`: for frames whose number is not known when they are written.
pub fn simple_frame_data(size: usize) -> Vec<u8> {
    frame_data(size, 0)
}

/// Whether `data` is [`simple_frame_data`].
pub fn is_simple_frame_data(data: &[u8]) -> bool {
    is_frame_data(data, 0)
}

/// Byte `i` is `i mod 256`.
pub fn metadata(size: usize) -> Vec<u8> {
    frame_data(size, 0)
}

/// Makes buffer names that no other test run uses: `BASE_RUN`, the same name for the same base.
///
/// Under the Harmony test runner the run is `HARMONY_HOST_PID` and `HARMONY_FEATURE_ID`, so that
/// the processes of one feature agree; otherwise it is this process and the time.
#[derive(Debug)]
pub struct BufferNaming {
    run: String,
    names: HashMap<String, String>,
}

impl Default for BufferNaming {
    fn default() -> Self {
        let harmony = (env::var("HARMONY_HOST_PID"), env::var("HARMONY_FEATURE_ID"));
        let run = match harmony {
            (Ok(pid), Ok(feature)) => format!("{pid}_{feature}"),
            _ => {
                let nanos = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_nanos());
                format!("{}_{nanos}", process::id())
            }
        };
        BufferNaming {
            run,
            names: HashMap::new(),
        }
    }
}

impl BufferNaming {
    /// A naming for this run.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name for this base.
    pub fn name(&mut self, base: &str) -> String {
        self.names
            .entry(base.into())
            .or_insert_with(|| format!("{base}_{}", self.run))
            .clone()
    }
}

/// A buffer name that nobody else has, not even for the same base.
pub fn unique_name(base: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    BufferNaming::new().name(&format!("{base}_{count}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_the_other_languages() {
        assert_eq!(frame_data(4, 254), [254, 255, 0, 1]);
        assert_eq!(simple_frame_data(258)[254..], [254, 255, 0, 1]);
        assert_eq!(metadata(3), [0, 1, 2]);
        assert!(is_frame_data(&frame_data(1000, 77), 77));
        assert!(!is_frame_data(&frame_data(1000, 77), 78));
        assert!(!is_simple_frame_data(&[0, 1, 3]));
    }

    #[test]
    fn names_are_kept_within_a_run_and_never_shared() {
        let mut naming = BufferNaming::new();
        assert_eq!(naming.name("a"), naming.name("a"));
        assert_ne!(naming.name("a"), naming.name("b"));
        assert_ne!(unique_name("a"), unique_name("a"));
    }
}
