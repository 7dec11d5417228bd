//! Room in the ring that a writer has reserved and not yet published, as plain numbers.
//!
//! Frames stand in the ring in the order in which they are published, each where the one before it
//! ends. A writer that lends room ahead of that has to leave room out when a slot before it is
//! dropped, or published later than it: it *skips* it, which a reader of ours understands (see
//! `docs/protocol.md`, "Hello"). Room that is still lent when the ring comes round again is left
//! out in the same way.

use std::collections::VecDeque;
use std::ops::Range;

use super::layout::FRAME_HEADER_SIZE;
use super::ring::Placement;

/// Names a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId(u64);

#[derive(Debug)]
struct Slot {
    id: SlotId,
    start: u64,
    total: u64,
    dropped: bool,
}

impl Slot {
    fn end(&self) -> u64 {
        self.start + self.total
    }
}

/// The slots of a writer, in the order of the ring.
#[derive(Debug, Default)]
pub struct Slots {
    /// Where the next frame is expected: behind the last one that was published.
    at: u64,
    slots: VecDeque<Slot>,
    next: u64,
}

/// A frame to be published, with the headers that lead the reader to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Where it is; its waste is all that lies between.
    pub placement: Placement,
    /// Headers that skip: position, bytes from there on.
    pub skips: [Option<(u64, u64)>; 2],
}

impl Slots {
    /// None yet; the first frame is expected at `at`.
    pub fn new(at: u64) -> Self {
        Slots {
            at,
            ..Slots::default()
        }
    }

    /// Where the next frame is expected.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Whether nothing is reserved.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Where the room behind all slots begins.
    fn ahead(&self) -> u64 {
        self.slots.back().map_or(self.at, Slot::end)
    }

    /// Bytes from the next frame to there.
    fn reserved(&self, size: u64) -> u64 {
        let ahead = self.ahead();
        match self.slots.is_empty() {
            true => 0,
            false if ahead > self.at => ahead - self.at,
            false => size - self.at + ahead,
        }
    }

    /// The start of a slot for `total` bytes behind all others, when `free` bytes of the ring are
    /// free and the ranges `taken` are lent. Its content, behind the header, starts at a multiple
    /// of `align` from `base`.
    pub fn find(
        &self,
        size: u64,
        free: u64,
        total: u64,
        (base, align): (u64, u64),
        taken: &[Range<u64>],
    ) -> Option<u64> {
        let ahead = self.ahead();
        let free = free.checked_sub(self.reserved(size))?;
        // Behind the slots to the end of the ring, then from its beginning.
        for (from, waste) in [(ahead, 0), (0, size - ahead)] {
            let mut start = from;
            loop {
                start = aligned(start, from, base, align)?;
                let end = start.checked_add(total)?;
                if end > size {
                    break;
                }
                match taken.iter().find(|t| t.start < end && start < t.end) {
                    Some(taken) => start = taken.end,
                    None if waste + (end - from) <= free => return Some(start),
                    None => return None,
                }
            }
        }
        None
    }

    /// How many bytes have to be free for that place, beginning with the next frame's.
    pub fn needed(&self, size: u64, start: u64, total: u64) -> u64 {
        let end = start + total;
        if start >= self.at {
            end - self.at
        } else {
            size - self.at + end
        }
    }

    /// Whether a frame of `total` bytes could be placed at all, with these ranges lent for ever and
    /// everything else free, from wherever the writer will stand: there is twice its size in one
    /// piece.
    pub fn leaves_room(size: u64, total: u64, taken: &[Range<u64>]) -> bool {
        let Some(needed) = total
            .checked_mul(2)
            .and_then(|twice| twice.checked_add(2 * FRAME_HEADER_SIZE))
        else {
            return false;
        };
        let mut ends: Vec<u64> = taken.iter().map(|taken| taken.end).collect();
        ends.push(0);
        ends.into_iter().any(|from| {
            let next = taken.iter().map(|taken| taken.start);
            let to = next.filter(|start| *start >= from).min().unwrap_or(size);
            let inside = taken
                .iter()
                .any(|taken| taken.start <= from && from < taken.end);
            !inside && to - from.min(to) >= needed
        })
    }

    /// Reserves what [`Slots::find`] found.
    pub fn append(&mut self, start: u64, total: u64) -> SlotId {
        let id = SlotId(self.next);
        self.next += 1;
        self.slots.push_back(Slot {
            id,
            start,
            total,
            dropped: false,
        });
        id
    }

    /// Gives a slot back that will not be published.
    pub fn cancel(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) {
            slot.dropped = true;
        }
        while self.slots.back().is_some_and(|slot| slot.dropped) {
            self.slots.pop_back();
        }
    }

    /// Makes a slot the next frame. What was reserved before it is skipped. `None` if it has been
    /// skipped itself, since one behind it was published before.
    pub fn publish(&mut self, size: u64, id: SlotId) -> Option<Lead> {
        let place = self.slots.iter().position(|slot| slot.id == id)?;
        let slot = self.slots.drain(..=place).next_back()?;
        let (at, start) = (self.at, slot.start);
        self.at = slot.end();
        let mut lead = Lead {
            placement: Placement {
                at: start,
                waste: 0,
                marker: None,
                total: slot.total,
            },
            skips: [None; 2],
        };
        if start >= at {
            lead.placement.waste = start - at;
            lead.skips[0] = (start > at).then_some((at, start - at));
        } else {
            lead.placement.waste = size - at + start;
            lead.placement.marker = (size - at >= FRAME_HEADER_SIZE).then_some(at);
            lead.skips[1] = (start > 0).then_some((0, start));
        }
        Some(lead)
    }
}

/// The first start of a slot at or behind `start` whose content is aligned; if it is not `from`
/// itself, there is room for a header that skips from there.
fn aligned(start: u64, from: u64, base: u64, align: u64) -> Option<u64> {
    let content = base.checked_add(start)?.checked_add(FRAME_HEADER_SIZE)?;
    let mut start = start.checked_add(content.checked_next_multiple_of(align)? - content)?;
    if (1..FRAME_HEADER_SIZE).contains(&(start - from)) {
        start = start.checked_add(FRAME_HEADER_SIZE.next_multiple_of(align))?;
    }
    Some(start)
}

#[cfg(test)]
// One range that is lent, not the numbers in it.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    const ANY: (u64, u64) = (0, 1);

    fn reserve(slots: &mut Slots, free: u64, total: u64, taken: &[Range<u64>]) -> Option<SlotId> {
        let start = slots.find(1000, free, total, ANY, taken)?;
        Some(slots.append(start, total))
    }

    #[test]
    fn slots_in_order_need_no_skip() {
        let mut slots = Slots::new(0);
        let ids = [300, 300, 300].map(|total| reserve(&mut slots, 1000, total, &[]).unwrap());
        assert_eq!(
            reserve(&mut slots, 1000, 300, &[]),
            None,
            "there is no more room"
        );
        for (i, id) in (0..).zip(ids) {
            let lead = slots.publish(1000, id).unwrap();
            assert_eq!((lead.placement.at, lead.placement.waste), (i * 300, 0));
            assert_eq!(lead.skips, [None; 2]);
        }
        // 100 bytes are left at the end; the first 300 have come back.
        let id = reserve(&mut slots, 400, 300, &[]).unwrap();
        let lead = slots.publish(1000, id).unwrap();
        assert_eq!((lead.placement.at, lead.placement.waste), (0, 100));
        assert_eq!(lead.placement.marker, Some(900));
    }

    #[test]
    fn what_is_dropped_is_skipped_or_used_again() {
        let mut slots = Slots::new(0);
        let [a, b, c] = [200; 3].map(|total| reserve(&mut slots, 1000, total, &[]).unwrap());
        slots.cancel(c);
        let d = reserve(&mut slots, 1000, 100, &[]).unwrap();
        slots.cancel(a);
        slots.cancel(b);
        let lead = slots.publish(1000, d).unwrap();
        assert_eq!(lead.placement.at, 400, "where c was");
        assert_eq!(lead.skips, [Some((0, 400)), None]);
        assert_eq!(lead.placement.cost(), 500);
        assert_eq!(slots.position(), 500);
    }

    #[test]
    fn the_order_of_publishing_counts() {
        let mut slots = Slots::new(700);
        let [a, b] = [200; 2].map(|total| reserve(&mut slots, 1000, total, &[]).unwrap());
        let lead = slots.publish(1000, b).unwrap();
        assert_eq!((lead.placement.at, lead.placement.waste), (0, 300));
        assert_eq!(
            lead.placement.marker,
            Some(700),
            "a is skipped with the end"
        );
        assert_eq!(slots.publish(1000, a), None);
        assert!(slots.is_empty());
    }

    #[test]
    fn what_is_lent_is_left_out() {
        let mut slots = Slots::new(100);
        let id = reserve(&mut slots, 1000, 200, &[150..400]).unwrap();
        let lead = slots.publish(1000, id).unwrap();
        assert_eq!(lead.placement.at, 400);
        assert_eq!(lead.skips[0], Some((100, 300)));
        // To the beginning of the ring, and past what is lent there.
        let id = reserve(&mut slots, 800, 450, &[0..50]);
        assert_eq!(id, None, "it would reach into what is not free");
        let mut slots = Slots::new(700);
        let id = reserve(&mut slots, 1000, 400, &[0..50]).unwrap();
        let lead = slots.publish(1000, id).unwrap();
        assert_eq!((lead.placement.at, lead.placement.waste), (50, 350));
        assert_eq!(lead.placement.marker, Some(700));
        assert_eq!(lead.skips, [None, Some((0, 50))]);
    }

    #[test]
    fn contents_are_aligned_and_gaps_have_room_for_a_header() {
        for at in 0..200 {
            let slots = Slots::new(at);
            let start = slots.find(10_000, 10_000, 500, (128, 64), &[]).unwrap();
            assert_eq!((128 + start + 16) % 64, 0);
            assert!(start == at || start - at >= 16, "{at} {start}");
        }
    }

    #[test]
    fn what_is_lent_for_ever_must_leave_room_for_the_rest() {
        assert!(Slots::leaves_room(1000, 400, &[]));
        assert!(!Slots::leaves_room(1000, 400, &[400..500]));
        assert!(Slots::leaves_room(1000, 200, &[400..500]));
        assert!(Slots::leaves_room(1000, 200, &[0..100, 90..400]));
        assert!(!Slots::leaves_room(1000, 200, &[0..300, 600..1000]));
        assert!(!Slots::leaves_room(1000, u64::MAX, &[]));
    }
}
