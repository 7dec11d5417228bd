//! The frames in a ring, from their headers.

use std::cell::Cell;
use std::collections::VecDeque;

use super::Numbers;
use crate::protocol::extension::records::{Malformed, Records};
use crate::protocol::layout::{self, FRAME_HEADER_SIZE, Sizes};
use crate::protocol::ring::{self, Found, NoFrame};
use crate::sys::look::Look;

/// So many headers are looked at and no more: a ring of a gigabyte may hold 60 million of them.
const MOST_HEADERS: usize = 1 << 16;

/// The head of a frame, or a message.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameHead {
    /// Where its header is in the ring.
    pub at: u64,
    /// Bytes of content.
    pub len: u64,
    /// Its number; a message has none.
    pub sequence: u64,
    /// What came with it, or what the message says.
    pub records: Option<std::result::Result<Records, String>>,
    /// Whether it is a message, and no frame.
    pub is_message: bool,
    /// Whether the reader has taken it already, and only not given it back.
    pub is_taken: bool,
}

/// What is in the ring, by the numbers and headers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RingView {
    /// Bytes that the reader has taken and not given back.
    pub held: u64,
    /// Bytes that the reader has not taken.
    pub unread: u64,
    /// Frames and messages among them, as far as they were counted; `None` if nobody asked.
    pub unread_frames: Option<usize>,
    /// The newest frames and messages that were not given back, in their order.
    pub frames: Vec<FrameHead>,
    /// Why it cannot be followed to its end.
    pub problem: Option<String>,
}

impl RingView {
    /// With at most so many heads; with 0 no header is looked at.
    pub(super) fn read(look: &Look, numbers: &Numbers, sizes: &Sizes, frames: usize) -> Self {
        let size = sizes.payload;
        let (write, read) = (numbers.payload_write_pos, numbers.payload_read_pos);
        let used = numbers.used();
        if write > size || read > size {
            return RingView {
                problem: Some("a position is outside".into()),
                ..RingView::default()
            };
        }
        // Equal positions are a ring of which all has been read, or nothing.
        let apart = (write + size - read) % size;
        let none_read = apart == 0
            && used == size
            && numbers.payload_written_count != numbers.payload_read_count;
        let unread = if none_read { size } else { apart };
        let mut view = RingView {
            held: used.saturating_sub(unread),
            unread,
            ..RingView::default()
        };
        if frames == 0 {
            return view;
        }
        // What is held lies before what is not read. The writer takes room off before it moves on, so
        // the sum may be too large for a moment.
        let start = (write % size + size - used.max(unread) % size) % size;
        let (held, unread) = (view.held, view.unread);
        let mut heads: VecDeque<(Found, bool)> = VecDeque::new();
        let mut keep = |found, is_taken| {
            if heads.len() == frames {
                heads.pop_front();
            }
            heads.push_back((found, is_taken));
        };
        let mut walk = follow(look, sizes, start, held, |found| keep(found, true));
        if walk.is_ok() {
            let mut count = 0;
            walk = follow(look, sizes, read, unread, |found| {
                count += 1;
                keep(found, false);
            });
            view.unread_frames = Some(count);
        }
        let head = |(found, is_taken): &(Found, bool)| head(look, sizes, found, *is_taken);
        view.frames = heads.iter().map(head).collect();
        view.problem = walk.err();
        view
    }
}

/// Goes through so many bytes of frames, which begin at `at`.
pub(super) fn follow(
    look: &Look,
    sizes: &Sizes,
    mut at: u64,
    bytes: u64,
    mut each: impl FnMut(Found),
) -> Result<(), String> {
    let mut left = bytes;
    let mut headers = 0;
    while left > 0 {
        headers += 1;
        if headers > MOST_HEADERS {
            return Err(format!("more than {MOST_HEADERS} frames are not looked at"));
        }
        let found = find(look, sizes, at)?;
        left = (left.checked_sub(found.cost())).ok_or_else(|| {
            format!(
                "the frame at {} reaches beyond the writer's position",
                found.at
            )
        })?;
        at = found.end();
        each(found);
    }
    Ok(())
}

/// The frame or message at this position.
pub(super) fn find(look: &Look, sizes: &Sizes, at: u64) -> Result<Found, String> {
    let readable = Cell::new(true);
    let found = ring::find(sizes.payload, at, |at| {
        header(look, sizes, at).unwrap_or_else(|| {
            readable.set(false);
            (0, 0)
        })
    });
    if !readable.get() {
        return Err("the segment has become shorter".into());
    }
    found.map_err(|err| match err {
        NoFrame::Empty => format!("no frame at {at}"),
        NoFrame::Overlong(len) => {
            format!("a frame of {len} bytes at {at} does not end in the ring")
        }
        NoFrame::Block(len) => format!("a block of records of {len} bytes at {at}"),
    })
}

/// The header at this place in the ring; `None` if the segment has become shorter.
pub(super) fn header(look: &Look, sizes: &Sizes, at: u64) -> Option<(u64, u64)> {
    let mut bytes = [0; FRAME_HEADER_SIZE as usize];
    look.read(sizes.payload_start() + at, &mut bytes)
        .then(|| layout::header(&bytes))
}

/// What is to be said of a frame that was found.
pub(super) fn head(look: &Look, sizes: &Sizes, found: &Found, is_taken: bool) -> FrameHead {
    let records = found.records.map(|(at, len)| {
        let (at, len) = (at + FRAME_HEADER_SIZE, len - FRAME_HEADER_SIZE);
        // No more than a mebibyte, by `ring::find`.
        let mut bytes = vec![0; len as usize];
        if !look.read(sizes.payload_start() + at, &mut bytes) {
            return Err("the segment has become shorter".to_string());
        }
        Records::parse(bytes).map_err(|err| match err {
            Malformed::Overlong(len) => {
                format!("a record of {len} bytes does not end in its block")
            }
            Malformed::Unknown(kind) => format!("a record of kind {kind}, which is not known"),
        })
    });
    FrameHead {
        at: found.at,
        len: if found.message { 0 } else { found.len },
        sequence: if found.message { 0 } else { found.sequence },
        records,
        is_message: found.message,
        is_taken,
    }
}
