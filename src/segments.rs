//! The sender's segment as a record: what its PTS mean, for a source that leaves them untouched.

use gstreamer as gst;

use crate::protocol::{FIRST_USER_KIND, Records};

/// Kind of the record; behind those of `src/events.rs`.
const KIND: u16 = FIRST_USER_KIND + 36;
const SIZE: usize = 72;
const NONE: u64 = u64::MAX;
/// Rates beyond these, either way, are none that anybody plays at.
const LEAST_RATE: f64 = 1.0 / 1024.0;
const MOST_RATE: f64 = 1024.0;

pub type Segment = gst::FormattedSegment<gst::ClockTime>;

/// A segment on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value([u8; SIZE]);

impl Default for Value {
    fn default() -> Self {
        Value::of(&gst::Segment::new())
    }
}

impl Value {
    /// That of a segment; of one that is not in TIME format, or makes no sense, the one that a
    /// source has of its own.
    pub fn of(segment: &gst::Segment) -> Self {
        let own = Segment::new();
        let segment = segment.downcast_ref().unwrap_or(&own);
        let value = Self::encode(segment);
        match value.decode() {
            Some(_) => value,
            None => Self::encode(&own),
        }
    }

    fn encode(segment: &Segment) -> Self {
        let time = |time: Option<gst::ClockTime>| {
            time.map_or(NONE, gst::ClockTime::nseconds).to_le_bytes()
        };
        let mut bytes = [0; SIZE];
        bytes[..4].copy_from_slice(&segment.flags().bits().to_le_bytes());
        let words = [
            segment.rate().to_le_bytes(),
            segment.applied_rate().to_le_bytes(),
            time(segment.base()),
            time(segment.offset()),
            time(segment.start()),
            time(segment.stop()),
            time(segment.time()),
            time(segment.duration()),
        ];
        for (to, word) in bytes[8..].chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word);
        }
        Value(bytes)
    }

    /// `None` if it is no segment that anybody could play.
    pub fn decode(&self) -> Option<Segment> {
        let word = |at: usize| self.0.get(at..at + 8).and_then(|word| word.try_into().ok());
        let rate = |at: usize| {
            let rate = f64::from_le_bytes(word(at)?);
            (LEAST_RATE..=MOST_RATE)
                .contains(&rate.abs())
                .then_some(rate)
        };
        // Of those that may be none, that is inside.
        let time = |at: usize| match u64::from_le_bytes(word(at)?) {
            NONE => Some(None),
            nanos if nanos < i64::MAX as u64 => Some(Some(gst::ClockTime::from_nseconds(nanos))),
            _ => None,
        };
        let flags = u32::from_le_bytes(self.0[..4].try_into().ok()?);
        let mut segment = Segment::new();
        segment.set_flags(gst::SegmentFlags::from_bits_truncate(flags));
        segment.set_rate(rate(8)?);
        segment.set_applied_rate(rate(16)?);
        segment.set_base(time(24)??);
        segment.set_offset(time(32)??);
        let (start, stop) = (time(40)??, time(48)?);
        if stop.is_some_and(|stop| stop < start) || (segment.rate() < 0.0 && stop.is_none()) {
            return None;
        }
        segment.set_start(start);
        segment.set_stop(stop);
        segment.set_time(time(56)?);
        segment.set_duration(time(64)?);
        segment.set_position(start);
        Some(segment)
    }

    pub fn push(&self, records: &mut Records) {
        records.push(KIND, &self.0);
    }

    /// That among records, if there is one.
    pub fn among(records: &Records) -> Option<Self> {
        let record = records.iter().find(|record| record.kind == KIND)?;
        record.value.get(..SIZE)?.try_into().ok().map(Value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Segment {
        let time = gst::ClockTime::from_nseconds;
        let mut segment = Segment::new();
        segment.set_flags(gst::SegmentFlags::SKIP);
        segment.set_rate(-2.5);
        segment.set_applied_rate(0.5);
        segment.set_base(time(1));
        segment.set_offset(time(2));
        segment.set_start(time(66_733_333));
        segment.set_stop(time(1 << 40));
        segment.set_time(time(5));
        segment.set_duration(time(6));
        segment.set_position(time(66_733_333));
        segment
    }

    #[test]
    fn a_segment_comes_back_as_it_was() {
        gst::init().unwrap();
        let open = Segment::new();
        for segment in [some(), open] {
            let value = Value::of(segment.upcast_ref());
            let mut records = Records::new();
            value.push(&mut records);
            assert_eq!(Value::among(&records), Some(value));
            assert_eq!(value.decode().unwrap(), segment);
        }
        assert_eq!(Value::among(&Records::new()), None);
        // How far it has been played is no part of it.
        let mut later = some();
        later.set_position(gst::ClockTime::SECOND);
        assert_eq!(
            Value::of(later.upcast_ref()),
            Value::of(some().upcast_ref())
        );
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        gst::init().unwrap();
        let text = "10000000 00000000 00000000000004c0 000000000000e03f 0100000000000000
            0200000000000000 1545fa0300000000 0000000000010000 0500000000000000 0600000000000000";
        let Value(bytes) = Value::of(some().upcast_ref());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let due: String = text.split_whitespace().collect();
        assert_eq!(hex, due);
    }

    #[test]
    fn what_is_not_in_time_is_that_of_the_source() {
        gst::init().unwrap();
        let mut bytes = gst::Segment::new();
        bytes.reset_with_format(gst::Format::Bytes);
        assert_eq!(Value::of(&bytes), Value::default());
        assert_eq!(Value::default().decode().unwrap(), Segment::new());
    }

    #[test]
    fn what_nobody_could_play_is_none() {
        gst::init().unwrap();
        let Value(good) = Value::of(some().upcast_ref());
        let with = |at: usize, word: [u8; 8]| {
            let mut bytes = good;
            bytes[at..at + 8].copy_from_slice(&word);
            Value(bytes).decode()
        };
        for rate in [0.0, f64::NAN, f64::INFINITY, 1e-300, -1e10] {
            assert_eq!(with(8, rate.to_le_bytes()), None, "{rate}");
            assert_eq!(with(16, rate.to_le_bytes()), None, "{rate}");
        }
        for at in (24..SIZE).step_by(8) {
            let most = (i64::MAX as u64).to_le_bytes();
            assert_eq!(with(at, most), None, "{at}");
            // Stop is none only where it is played from the start.
            let none = with(at, [0xff; 8]);
            assert_eq!(none.is_some(), at >= 56, "{at}");
        }
        assert_eq!(with(48, [0; 8]), None, "stop before start");
    }
}
