//! Numbers and texts in the value of a record, put and taken one after the other.

use gstreamer as gst;

/// In place of a time: none.
pub(super) const NONE: u64 = u64::MAX;

pub(super) fn put_u32(value: &mut Vec<u8>, number: u32) {
    value.extend(number.to_le_bytes());
}

pub(super) fn put_u64(value: &mut Vec<u8>, number: u64) {
    value.extend(number.to_le_bytes());
}

pub(super) fn put_rectangle(value: &mut Vec<u8>, (x, y, width, height): (u32, u32, u32, u32)) {
    [x, y, width, height]
        .into_iter()
        .for_each(|number| put_u32(value, number));
}

/// Text with its length in front.
pub(super) fn put_text(value: &mut Vec<u8>, text: &str) -> Option<()> {
    put_u32(value, u32::try_from(text.len()).ok()?);
    value.extend(text.as_bytes());
    Some(())
}

/// What is left of a value.
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn u32(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    pub fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    pub fn time(&mut self) -> Option<Option<gst::ClockTime>> {
        let number = self.u64()?;
        Some((number != NONE).then(|| gst::ClockTime::from_nseconds(number)))
    }

    pub fn rectangle(&mut self) -> Option<(u32, u32, u32, u32)> {
        Some((self.u32()?, self.u32()?, self.u32()?, self.u32()?))
    }

    pub fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(text)
    }
}
