//! The arithmetic of the payload ring on plain numbers: no memory, no clock, no peer.
//!
//! Rules: `docs/protocol.md`, "Payload ring". Property tests compare this with a simple model
//! (`tests/ring_model.rs`).

use std::collections::VecDeque;

use super::layout::{BLOCK_ALIGNMENT, FRAME_HEADER_SIZE};

/// What a frame of `len` bytes takes up; `None` if that is more than u64 holds.
pub const fn frame_total(len: u64) -> Option<u64> {
    FRAME_HEADER_SIZE.checked_add(len)
}

/// Whether the reader can follow a writer over a tail of 1 to 15 bytes, where no marker fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tails {
    /// It takes such a tail as an implicit wrap, like ours.
    Followed,
    /// It would read a header across the end, like the other published readers: leave none.
    Fatal,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Offset of its header in the ring.
    pub at: u64,
    /// Bytes left unused at the end of the ring before it.
    pub waste: u64,
    /// Where a wrap marker has to stand, if one does.
    pub marker: Option<u64>,
    /// Header, content.
    pub total: u64,
}

impl Placement {
    /// What it takes off the free bytes.
    pub fn cost(&self) -> u64 {
        self.waste + self.total
    }

    /// Where the next frame would start.
    pub fn end(&self) -> u64 {
        self.at + self.total
    }
}

/// The answer of [`place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It fits here, now.
    Now(Placement),
    /// It will fit when the reader has given back more.
    Later,
    /// It is larger than the ring.
    TooLarge,
    /// It is not larger than the ring, and yet it cannot be placed from this position even when
    /// the ring is empty: it is longer than what lies behind the position, and longer than what
    /// lies before it, so that it would lie on its own wrap marker (or, with [`Tails::Fatal`], it
    /// would leave a tail that the reader cannot follow).
    Never,
}

/// Finds the place for a frame of `total` bytes (header included) in a ring of `size` bytes whose
/// writer stands at `pos` with `free` bytes to fill.
pub fn place(size: u64, pos: u64, free: u64, total: u64, tails: Tails) -> Fit {
    if total > size {
        return Fit::TooLarge;
    }
    let usable =
        |end: u64| tails == Tails::Followed || !(1..FRAME_HEADER_SIZE).contains(&(size - end));
    let behind = size - pos;
    let candidate = if total <= behind && usable(pos + total) {
        Placement {
            at: pos,
            waste: 0,
            marker: None,
            total,
        }
    } else if behind + total <= size && usable(total) {
        Placement {
            at: 0,
            waste: behind,
            marker: (behind >= FRAME_HEADER_SIZE).then_some(pos),
            total,
        }
    } else {
        return Fit::Never;
    };
    if candidate.cost() <= free {
        Fit::Now(candidate)
    } else {
        Fit::Later
    }
}

/// A ring size in which frames of `len` bytes always pass, whatever came before them, and in which
/// writer and reader can work at the same time: three frames.
pub fn good_size(len: u64) -> u64 {
    // Twice the frame and a header is what "always" needs (see `Fit::Never`).
    frame_total(len)
        .and_then(|total| total.checked_mul(3))
        .and_then(|size| size.checked_add(FRAME_HEADER_SIZE))
        .and_then(|size| size.checked_next_multiple_of(BLOCK_ALIGNMENT))
        .unwrap_or(u64::MAX)
}

/// Bytes left in front of a frame for its records unless more were needed lately.
pub const RECORD_ROOM: u64 = 512;
/// What is lent ahead is aligned to this, enough for any vector instruction.
pub const ALIGNMENT: u64 = 64;

/// A ring size in which so many frames of `len` bytes can be at once, rendered or read or on their
/// way, all in place and in the order of the ring, towards a reader that understands records. It is
/// some more than the frames themselves: see `docs/architecture.md`, "Room is left".
pub fn ring_size(len: u64, frames: u64) -> u64 {
    (|| {
        let one = frame_total(len)?.checked_add(RECORD_ROOM)?;
        // One is wasted at the end of the ring at worst, and at each end there is the piece in which
        // one can be copied from wherever the writer stands.
        let lent = one
            .checked_add(ALIGNMENT)?
            .checked_mul(frames.checked_add(1)?)?;
        let left = one.checked_add(FRAME_HEADER_SIZE)?.checked_mul(4)?;
        lent.checked_add(left)?
            .checked_next_multiple_of(BLOCK_ALIGNMENT)
    })()
    .unwrap_or(u64::MAX)
}

/// The smallest ring that is not used to its end while the reader keeps up. Smaller ones stay in the
/// processor's caches as they are.
const EARLY_RING: u64 = 256 << 10;
/// So many frames it uses at least.
const EARLY_FRAMES: u64 = 3;

/// Behind how many frames, each of `one` bytes with its header and room for records, a writer may go
/// back to the beginning of a ring before its end: as many as a ring of this size is made for by
/// [`ring_size`]. `None`: it never does.
pub fn frames_before_early(size: u64, one: u64) -> Option<u64> {
    let made_for = (size / one).saturating_sub(5);
    (size >= EARLY_RING).then_some(made_for.max(EARLY_FRAMES))
}

/// A frame as the reader found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Offset of its header in the ring.
    pub at: u64,
    /// Bytes left unused at the end of the ring before it.
    pub waste: u64,
    /// Bytes of content.
    pub len: u64,
    /// Its sequence number, not yet checked.
    pub sequence: u64,
    /// Whether a marker told the reader to wrap (the other ways are an exact fit and a short tail).
    pub marker: bool,
    /// Offset and bytes of the records that belong to it; they are part of the waste. Of a message
    /// these are all that it is.
    pub records: Option<(u64, u64)>,
    /// Whether it is a block of records that stands alone, and no frame.
    pub message: bool,
}

impl Found {
    /// What its release gives back: the wasted tail belongs to the frame behind it, so that credit
    /// stays in the order of the ring.
    pub fn cost(&self) -> u64 {
        self.waste + FRAME_HEADER_SIZE + self.len
    }

    /// Where the next frame starts.
    pub fn end(&self) -> u64 {
        self.at + FRAME_HEADER_SIZE + self.len
    }
}

/// Why there is no frame at the reader's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFrame {
    /// Two wraps in a row, or a frame without content.
    Empty,
    /// A frame of this length does not end inside the ring.
    Overlong(u64),
    /// A block of records of this length that is too short or too long, or with no frame behind it.
    Block(u64),
}

/// In place of a sequence number, behind the size 0: a block of records begins here.
pub const BLOCK: u64 = 1 << 63;
/// As well: the block stands alone, no frame belongs to it.
pub const MESSAGE: u64 = 1 << 62;
/// Bytes of the smallest block: its header and that of one record.
pub const LEAST_BLOCK: u64 = FRAME_HEADER_SIZE + 8;
/// Bytes of the largest block.
pub const MOST_BLOCK: u64 = 1 << 20;

/// Bytes of the largest block in a ring of `size` bytes: a message of half the ring always passes.
pub const fn most_block(size: u64) -> u64 {
    if size / 2 < MOST_BLOCK {
        size / 2
    } else {
        MOST_BLOCK
    }
}

/// How many headers that skip the reader follows to one frame. Our writers need one.
const MOST_SKIPS: u32 = 8;

/// Reads the frame, or message, at `pos` (0 to `size`) of a ring whose headers `header` reads as (size,
/// sequence). `header` is called once per place and what it returns is never trusted.
pub fn find(size: u64, pos: u64, header: impl Fn(u64) -> (u64, u64)) -> Result<Found, NoFrame> {
    let mut found = Found {
        at: pos,
        waste: 0,
        len: 0,
        sequence: 0,
        marker: false,
        records: None,
        message: false,
    };
    let (mut wrapped, mut skips) = (false, 0);
    loop {
        let behind = size - found.at;
        let marked = behind >= FRAME_HEADER_SIZE;
        match if marked { header(found.at) } else { (0, 0) } {
            // A block has its frame right behind it.
            (0, _) if found.records.is_some() => return Err(NoFrame::Empty),
            (0, block) if block & BLOCK != 0 => {
                let len = block & !(BLOCK | MESSAGE);
                if len < LEAST_BLOCK || len > behind || len > MOST_BLOCK {
                    return Err(NoFrame::Block(len));
                }
                found.records = Some((found.at, len));
                if block & MESSAGE != 0 {
                    found.message = true;
                    found.len = len - FRAME_HEADER_SIZE;
                    break;
                }
                found.waste += len;
                found.at += len;
            }
            // The end of the ring: a marker, a tail without room for one, or nothing.
            (0, 0) if !wrapped => {
                wrapped = true;
                found.marker = marked;
                found.waste += behind;
                found.at = 0;
            }
            (0, 0) => return Err(NoFrame::Empty),
            // From our own writers: room that holds nothing.
            (0, skip) => {
                skips += 1;
                if skip < FRAME_HEADER_SIZE || skip > behind || skips > MOST_SKIPS {
                    return Err(NoFrame::Overlong(skip));
                }
                found.waste += skip;
                found.at += skip;
            }
            (len, sequence) => {
                (found.len, found.sequence) = (len, sequence);
                break;
            }
        }
    }
    match frame_total(found.len) {
        Some(total) if total <= size - found.at && found.waste + total <= size => Ok(found),
        _ => Err(NoFrame::Overlong(found.len)),
    }
}

/// Frames handed out and not yet given back, in the order of the ring.
///
/// Room can only be given back in that order, whatever the order of the releases is: the writer
/// knows just a number of free bytes, not which.
#[derive(Debug, Default)]
pub struct Credits {
    /// Cost of each, and whether it has been released. The front one is not.
    held: VecDeque<(u64, bool)>,
    /// Ticket of the front one.
    first: u64,
}

/// Names a frame in [`Credits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a release lets the reader give back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Bytes for the writer.
    pub bytes: u64,
    /// Frames that these bytes were: the writer is posted once for each.
    pub frames: u64,
}

impl Credits {
    /// Notes that a frame of this cost was handed out.
    pub fn hand_out(&mut self, cost: u64) -> Ticket {
        self.held.push_back((cost, false));
        Ticket(self.first + self.held.len() as u64 - 1)
    }

    /// Notes that a message was read, which nobody holds: its room goes back at once, or with the
    /// frame before it.
    pub fn pass(&mut self, cost: u64) -> Credit {
        match self.held.back_mut() {
            Some((before, _)) => {
                *before = before.wrapping_add(cost);
                Credit::default()
            }
            None => Credit {
                bytes: cost,
                frames: 1,
            },
        }
    }

    /// Notes that a frame came back, and tells what may be given back now.
    pub fn take_back(&mut self, ticket: Ticket) -> Credit {
        let slot = ticket
            .0
            .checked_sub(self.first)
            .and_then(|at| self.held.get_mut(usize::try_from(at).ok()?));
        if let Some((_, released)) = slot {
            *released = true;
        }
        let mut credit = Credit::default();
        while let Some((cost, true)) = self.held.front().copied() {
            self.held.pop_front();
            self.first += 1;
            credit.frames += 1;
            // A hostile writer can make the sum too large; what it then believes is its affair.
            credit.bytes = credit.bytes.wrapping_add(cost);
        }
        credit
    }

    /// Whether this frame has neither been released nor given back.
    pub fn holds(&self, ticket: Ticket) -> bool {
        ticket
            .0
            .checked_sub(self.first)
            .and_then(|at| self.held.get(usize::try_from(at).ok()?))
            .is_some_and(|(_, released)| !released)
    }

    /// Frames not given back.
    pub fn frames(&self) -> usize {
        self.held.len()
    }

    /// Bytes not given back.
    pub fn bytes(&self) -> u64 {
        self.held
            .iter()
            .fold(0, |sum: u64, (cost, _)| sum.wrapping_add(*cost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(at: u64, waste: u64, marker: Option<u64>, total: u64) -> Fit {
        Fit::Now(Placement {
            at,
            waste,
            marker,
            total,
        })
    }

    #[test]
    fn frames_follow_each_other_and_wrap_with_a_marker() {
        assert_eq!(
            place(1024, 0, 1024, 400, Tails::Fatal),
            now(0, 0, None, 400)
        );
        assert_eq!(
            place(1024, 400, 624, 400, Tails::Fatal),
            now(400, 0, None, 400)
        );
        assert_eq!(place(1024, 800, 224, 400, Tails::Fatal), Fit::Later);
        assert_eq!(
            place(1024, 800, 624, 400, Tails::Fatal),
            now(0, 224, Some(800), 400)
        );
    }

    #[test]
    fn the_waste_of_a_wrap_counts() {
        // Upstream's first fault: 600 are free, but 224 of them are the tail.
        assert_eq!(place(1024, 800, 600, 400, Tails::Fatal), Fit::Later);
    }

    #[test]
    fn an_exact_fit_leaves_nothing_to_mark() {
        assert_eq!(
            place(1024, 624, 400, 400, Tails::Fatal),
            now(624, 0, None, 400)
        );
        assert_eq!(
            place(1024, 1024, 1024, 1024, Tails::Fatal),
            now(0, 0, None, 1024)
        );
    }

    #[test]
    fn a_tail_without_room_for_a_marker_is_left_only_to_a_reader_that_follows() {
        // 1024 - 615 - 400 = 9 bytes.
        assert_eq!(
            place(1024, 615, 1024, 400, Tails::Followed),
            now(615, 0, None, 400)
        );
        assert_eq!(
            place(1024, 615, 1024, 400, Tails::Fatal),
            now(0, 409, Some(615), 400)
        );
        // From there it wraps without a marker.
        assert_eq!(
            place(1024, 1015, 1024, 400, Tails::Followed),
            now(0, 9, None, 400)
        );
        // No way round it: the frame itself leaves such a tail wherever it goes.
        assert_eq!(place(1024, 0, 1024, 1016, Tails::Fatal), Fit::Never);
        assert_eq!(
            place(1024, 0, 1024, 1016, Tails::Followed),
            now(0, 0, None, 1016)
        );
    }

    #[test]
    fn what_never_fits_is_told_from_what_fits_later() {
        // Upstream's fifth fault: 64 bytes, then 1000 in a ring of 1024.
        assert_eq!(place(1024, 80, 1024, 1016, Tails::Followed), Fit::Never);
        assert_eq!(place(1024, 80, 944, 1016, Tails::Followed), Fit::Never);
        assert_eq!(place(1024, 0, 1024, 1025, Tails::Followed), Fit::TooLarge);
        assert_eq!(
            place(1024, 0, 1024, u64::MAX, Tails::Followed),
            Fit::TooLarge
        );
    }

    #[test]
    fn a_good_size_always_passes() {
        for len in 1..500 {
            let (size, total) = (good_size(len), len + FRAME_HEADER_SIZE);
            for pos in 0..=size {
                assert!(
                    matches!(place(size, pos, size, total, Tails::Fatal), Fit::Now(_)),
                    "{len} at {pos} of {size}"
                );
            }
        }
    }

    #[test]
    fn hostile_headers_are_no_frames() {
        for len in [1009, 1 << 40, u64::MAX - 15, u64::MAX] {
            assert_eq!(find(1024, 0, |_| (len, 1)), Err(NoFrame::Overlong(len)));
        }
        assert_eq!(find(1024, 512, |_| (0, 0)), Err(NoFrame::Empty));
        assert_eq!(find(1024, 512, |_| (497, 1)), Err(NoFrame::Overlong(497)));
        assert!(find(1024, 512, |_| (496, 1)).is_ok());
    }

    #[test]
    fn the_reader_wraps_at_a_marker_at_the_end_and_at_a_short_tail() {
        let header = |at| if at == 0 { (100, 7) } else { (0, 0) };
        for (pos, waste, marker) in [(512, 512, true), (1008, 16, true), (1024, 0, false)] {
            let found = find(1024, pos, header).unwrap();
            assert_eq!((found.at, found.waste, found.marker), (0, waste, marker));
        }
        let found = find(1024, 1009, |at| {
            assert_eq!(at, 0, "no header is read across the end");
            (100, 7)
        })
        .unwrap();
        assert_eq!((found.at, found.waste, found.cost()), (0, 15, 131));
    }

    #[test]
    fn the_reader_follows_skips_and_only_sensible_ones() {
        let header = |at| match at {
            100 => (0, 50),
            150 => (0, 0),
            0 => (0, 32),
            32 => (50, 7),
            _ => panic!("no header at {at}"),
        };
        let found = find(1024, 100, header).unwrap();
        assert_eq!((found.at, found.waste, found.len), (32, 924 + 32, 50));
        for skip in [1, 15, 1025, u64::MAX >> 1] {
            assert_eq!(find(1024, 0, |_| (0, skip)), Err(NoFrame::Overlong(skip)));
        }
        assert!(find(1 << 20, 0, |_| (0, 16)).is_err(), "not for ever");
    }

    #[test]
    fn a_block_belongs_to_the_frame_right_behind_it() {
        let header = |at| match at {
            100 => (0, 60),
            160 => (0, BLOCK | 40),
            200 => (50, 7),
            _ => panic!("no header at {at}"),
        };
        let found = find(1024, 100, header).unwrap();
        assert_eq!((found.at, found.waste, found.len), (200, 100, 50));
        assert_eq!(found.records, Some((160, 40)));
        assert!(!found.message && found.sequence == 7);
        assert_eq!((found.cost(), found.end()), (166, 266));
        // Not behind a wrap or a skip, not behind another block, not behind the end of the ring.
        for behind in [(0, 0), (0, 20), (0, BLOCK | 40), (0, BLOCK | MESSAGE | 40)] {
            let header = |at| if at == 0 { (0, BLOCK | 40) } else { behind };
            assert_eq!(find(1024, 0, header), Err(NoFrame::Empty), "{behind:?}");
        }
        for left in [0, 15] {
            let found = find(1024, 1024 - 40 - left, |_| (0, BLOCK | 40));
            assert_eq!(found, Err(NoFrame::Empty));
        }
    }

    #[test]
    fn a_message_is_a_block_that_stands_alone() {
        let header = |at| match at {
            900 => (0, 0),
            0 => (0, 32),
            32 => (0, BLOCK | MESSAGE | 48),
            _ => panic!("no header at {at}"),
        };
        let found = find(1024, 900, header).unwrap();
        assert!(found.message && found.marker);
        assert_eq!(found.records, Some((32, 48)));
        assert_eq!((found.cost(), found.end()), (124 + 32 + 48, 80));
    }

    #[test]
    fn hostile_blocks_are_none() {
        for len in [0, 1, 16, 23, 1025, 1 << 30, (1 << 62) - 1] {
            for kind in [BLOCK, BLOCK | MESSAGE] {
                let found = find(1024, 0, |_| (0, kind | len));
                assert_eq!(found, Err(NoFrame::Block(len)), "{len}");
            }
        }
        // However large the ring is.
        let (size, most) = (1 << 40, MOST_BLOCK);
        assert!(find(size, 0, |_| (0, BLOCK | MESSAGE | most)).is_ok());
        let found = find(size, 0, |_| (0, BLOCK | MESSAGE | (most + 1)));
        assert_eq!(found, Err(NoFrame::Block(most + 1)));
        assert_eq!((most_block(1000), most_block(size)), (500, most));
    }

    #[test]
    fn a_message_gives_its_room_back_at_once_or_with_the_frame_before_it() {
        let mut credits = Credits::default();
        let alone = Credit {
            bytes: 40,
            frames: 1,
        };
        assert_eq!(credits.pass(40), alone);
        let [a, b] = [10, 20].map(|cost| credits.hand_out(cost));
        assert_eq!(credits.pass(40), Credit::default());
        assert_eq!((credits.bytes(), credits.frames()), (70, 2));
        assert_eq!(credits.take_back(b), Credit::default());
        let all = Credit {
            bytes: 70,
            frames: 2,
        };
        assert_eq!(credits.take_back(a), all);
        assert_eq!(credits.pass(40), alone);
    }

    #[test]
    fn credit_goes_back_in_the_order_of_the_ring() {
        let mut credits = Credits::default();
        let [a, b, c] = [10, 20, 30].map(|cost| credits.hand_out(cost));
        assert_eq!(credits.take_back(b), Credit::default());
        assert_eq!(credits.bytes(), 60);
        assert!(credits.holds(a) && !credits.holds(b) && credits.holds(c));
        assert_eq!(
            credits.take_back(a),
            Credit {
                bytes: 30,
                frames: 2
            }
        );
        assert_eq!(
            credits.take_back(c),
            Credit {
                bytes: 30,
                frames: 1
            }
        );
        assert_eq!(credits.frames(), 0);
    }
}
