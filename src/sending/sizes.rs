//! How large a ring should be for frames of some size.

use crate::protocol::{Writer, ring_size};

/// Header and records of a frame, most of the time.
const OVERHEAD: u64 = 256;

/// The ring that frames of `len` bytes need.
fn needed_size(len: u64, frames: u32, fixed: bool) -> u64 {
    let frames = u64::from(frames);
    if fixed {
        return ring_size(len, frames);
    }
    // These are never rendered in place: so many, and one of them wasted at the end of the ring.
    len.saturating_add(OVERHEAD).saturating_mul(frames + 1)
}

/// The ring to ask for; frames of all sizes get some room to grow.
pub(super) fn wanted_size(len: u64, frames: u32, fixed: bool) -> u64 {
    let len = if fixed { len } else { len.saturating_mul(2) };
    needed_size(len, frames, fixed)
}

/// Whether the ring suits frames of `len` bytes, or nothing can be done about it.
pub(super) fn suits(writer: &Writer, len: u64, frames: u32, fixed: bool) -> bool {
    writer.payload_size() >= needed_size(len, frames, fixed) || !writer.can_request_size()
}
