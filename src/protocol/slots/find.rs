//! Where in the ring a slot can be.

use std::ops::Range;

use super::{SlotId, Slots};
use crate::protocol::layout::FRAME_HEADER_SIZE;
use crate::protocol::ring;

/// What is looked for by [`Slots::find`].
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// Bytes for records in front of the header, at least.
    pub room: u64,
    /// Header, content.
    pub total: u64,
    /// The content starts at a multiple of this …
    pub align: u64,
    /// … counted from so many bytes before the ring.
    pub base: u64,
}

impl Want {
    /// The first spot between `from` and `to` that is not taken. If a slot begins at `to`, there is
    /// nothing between, or room for a header that skips.
    fn fit(&self, from: u64, to: u64, slot: bool, taken: &[Range<u64>]) -> Option<Spot> {
        let mut start = from;
        loop {
            let spot = self.spot(start, from)?;
            let end = spot.head.checked_add(self.total)?;
            if end > to || slot && end < to && to - end < FRAME_HEADER_SIZE {
                return None;
            }
            match taken.iter().find(|t| t.start < end && spot.start < t.end) {
                Some(taken) => start = taken.end,
                None => return Some(spot),
            }
        }
    }

    /// The first spot at or behind `start`; if that is not `from` itself, there is room for a header
    /// that skips from there.
    fn spot(&self, start: u64, from: u64) -> Option<Spot> {
        let start = match start - from {
            1..FRAME_HEADER_SIZE if self.room > 0 => from.checked_add(FRAME_HEADER_SIZE)?,
            _ => start,
        };
        let content = (self.base)
            .checked_add(start)?
            .checked_add(self.room)?
            .checked_add(FRAME_HEADER_SIZE)?;
        let gap = content.checked_next_multiple_of(self.align)? - content;
        let head = start.checked_add(self.room)?.checked_add(gap)?;
        if self.room > 0 {
            // The gap is room too.
            return Some(Spot { start, head });
        }
        let head = if (1..FRAME_HEADER_SIZE).contains(&(head - from)) {
            head.checked_add(FRAME_HEADER_SIZE.next_multiple_of(self.align))?
        } else {
            head
        };
        Some(Spot { start: head, head })
    }

    /// Anywhere.
    pub fn packed(room: u64, total: u64) -> Self {
        Want {
            room,
            total,
            align: 1,
            base: 0,
        }
    }
}

/// Where a slot can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Where its room for records begins.
    pub start: u64,
    /// Where its header is.
    pub head: u64,
}

/// Where a slot can be, and which one it comes before; `None`: it is behind all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    pub spot: Spot,
    pub before: Option<SlotId>,
}

impl Site {
    pub fn behind(spot: Spot) -> Self {
        Site { spot, before: None }
    }
}

impl Slots {
    /// A place behind all slots, when `free` bytes of the ring are free and the ranges `taken` are
    /// lent.
    pub fn find(&self, size: u64, free: u64, want: Want, taken: &[Range<u64>]) -> Option<Spot> {
        let ahead = self.ahead();
        let free = free.checked_sub(self.reserved(size))?;
        // Behind the slots to the end of the ring, then from its beginning.
        for (from, waste) in [(ahead, 0), (0, size - ahead)] {
            let mut start = from;
            loop {
                let spot = want.spot(start, from)?;
                let end = spot.head.checked_add(want.total)?;
                if end > size {
                    break;
                }
                match taken.iter().find(|t| t.start < end && spot.start < t.end) {
                    Some(taken) => start = taken.end,
                    None if waste + (end - from) <= free => return Some(spot),
                    None => return None,
                }
            }
        }
        None
    }

    /// A place at the beginning of the ring before its end is reached, for frames of one size and while
    /// the reader keeps up: few places that are used again and again stay in the processor's caches.
    /// What lies behind is wasted until the reader has given the frame back, so there have to be some
    /// before it ([`ring::frames_before_early`]); and only a reader that lets what it holds leave the
    /// ring goes on whatever it holds.
    pub fn find_early(
        &self,
        size: u64,
        free: u64,
        want: Want,
        taken: &[Range<u64>],
    ) -> Option<Spot> {
        if want.total != self.last {
            return None;
        }
        let one = want.room.checked_add(want.total)?;
        let ahead = self.ahead();
        let used = size.checked_sub(free.checked_sub(self.reserved(size))?)?;
        let frames = ring::frames_before_early(size, one)?;
        let enough = ahead >= one.checked_mul(frames)?;
        // Then there is room for this frame and the next, and half of what was used is free.
        if !enough || used > (ahead / 2).min(ahead - 2 * one) {
            return None;
        }
        // All that is used lies right before `ahead`.
        want.fit(0, ahead - used, false, taken)
    }

    /// A place before a slot that is lent, in what was dropped there or belongs to none. It needs no
    /// more free bytes, since those up to that slot are reserved. Slots before it are passed by when
    /// it is published.
    pub fn find_between(&self, size: u64, want: Want, taken: &[Range<u64>]) -> Option<Site> {
        let mut from = self.at;
        for slot in self.slots.iter().filter(|slot| !slot.dropped) {
            let limit = slot.head - slot.block;
            let pieces = match limit >= from {
                true => [Some((from, limit)), None],
                false => [Some((from, size)), Some((0, limit))],
            };
            for (from, to) in pieces.into_iter().flatten() {
                if let Some(spot) = want.fit(from, to, to == limit, taken) {
                    let before = Some(slot.id);
                    return Some(Site { spot, before });
                }
            }
            from = slot.end;
        }
        None
    }

    /// How many bytes have to be free for that place, beginning with the next frame's.
    pub fn needed(&self, size: u64, spot: Spot, total: u64) -> u64 {
        let end = spot.head + total;
        if spot.start >= self.at {
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
}

#[cfg(test)]
// One range that is lent, not the numbers in it.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn between_two_slots_those_before_are_passed_by() {
        let mut slots = Slots::new(100);
        let [a, b, c] = [200, 400, 200].map(|total| {
            let spot = slots.find(1000, 900, Want::packed(0, total), &[]).unwrap();
            slots.insert(Site::behind(spot), total)
        });
        slots.cancel(b);
        let taken = [100..300, 700..900];
        let find = |slots: &Slots, total| {
            let site = slots.find_between(1000, Want::packed(0, total), &taken)?;
            Some((site, site.spot.head, site.before))
        };
        // What is left before a slot has to hold a header, or nothing.
        for (total, fits) in [
            (384, true),
            (385, false),
            (399, false),
            (400, true),
            (401, false),
        ] {
            let found = find(&slots, total).map(|(_, head, before)| (head, before));
            assert_eq!(found, fits.then_some((300, Some(c))), "{total}");
        }
        let (site, ..) = find(&slots, 400).unwrap();
        let copy = slots.insert(site, 400);
        let lead = slots.publish(1000, copy).unwrap();
        assert_eq!((lead.placement.at, lead.skips[0]), (300, Some((100, 200))));
        assert_eq!(slots.publish(1000, a), None);
        let lead = slots.publish(1000, c).unwrap();
        assert_eq!((lead.placement.at, lead.skips), (700, [None; 2]));
    }

    #[test]
    fn contents_are_aligned_and_gaps_have_room_for_a_header() {
        for at in 0..200 {
            let slots = Slots::new(at);
            let mut want = Want {
                room: 0,
                total: 500,
                align: 64,
                base: 128,
            };
            let Spot { start, head } = slots.find(10_000, 10_000, want, &[]).unwrap();
            assert_eq!((128 + start + 16) % 64, 0);
            assert!(start == at || start - at >= 16, "{at} {start}");
            assert_eq!(start, head);
            // What lies before it anyway is room for records.
            want.room = 192;
            let Spot { start, head } = slots.find(10_000, 10_000, want, &[]).unwrap();
            assert_eq!((128 + head + 16) % 64, 0);
            assert!(
                start == at && (192..256).contains(&(head - at)),
                "{at} {head}"
            );
        }
    }

    #[test]
    fn a_ring_of_the_named_size_holds_so_many_frames_in_place() {
        for len in [1, 100, 1000, 4321] {
            for frames in 1..6 {
                let size = ring::ring_size(len, frames);
                assert!(size.is_multiple_of(64));
                let total = len + 16;
                let want = Want {
                    room: ring::RECORD_ROOM,
                    total,
                    align: 64,
                    base: 128,
                };
                // Frames go round, the oldest first.
                let mut slots = Slots::new(size / 3);
                let mut lent: VecDeque<(u64, Range<u64>)> = VecDeque::new();
                let mut free = size;
                for _ in 0..1000 {
                    if lent.len() as u64 == frames {
                        free += lent.pop_front().unwrap().0;
                    }
                    let mut taken: Vec<_> = lent.iter().map(|(_, taken)| taken.clone()).collect();
                    let spot = slots.find(size, free, want, &taken).unwrap();
                    taken.push(spot.start..spot.head + total);
                    assert!(Slots::leaves_room(size, want.room + total, &taken));
                    let id = slots.insert(Site::behind(spot), total);
                    let lead = slots.publish(size, id).unwrap();
                    free -= lead.placement.cost();
                    lent.push_back((lead.placement.cost(), spot.head..spot.head + total));
                }
            }
        }
    }

    /// Publishes `count` frames one after another where [`Slots::find_early`] or else [`Slots::find`]
    /// says, to a reader that has given back all but the last `held`; returns where they are.
    fn places(slots: &mut Slots, size: u64, want: Want, held: usize, count: usize) -> Vec<u64> {
        let mut costs = VecDeque::new();
        let place = |_| {
            let free = size - costs.iter().sum::<u64>();
            let early = slots.find_early(size, free, want, &[]);
            let spot = early.or_else(|| slots.find(size, free, want, &[])).unwrap();
            let id = slots.insert(Site::behind(spot), want.total);
            let lead = slots.publish(size, id).unwrap();
            costs.push_back(lead.placement.cost());
            while costs.len() > held {
                costs.pop_front();
            }
            lead.placement.at
        };
        (0..count).map(place).collect()
    }

    #[test]
    fn as_few_places_are_used_as_there_must_be() {
        let want = Want::packed(0, 100_016);
        let in_use = |places: &[u64]| {
            let mut places = places.to_vec();
            places.sort_unstable();
            places.dedup();
            places.len()
        };
        for (frames, held, expected) in [
            (1, 0, 3),
            (3, 0, 3),
            (3, 1, 3),
            (3, 2, 4),
            (3, 4, 8),
            (10, 0, 10),
            (10, 5, 10),
            (10, 6, 12),
        ] {
            let size = ring::ring_size(100_000, frames);
            let mut slots = Slots::default();
            let places = places(&mut slots, size, want, held, 100);
            assert_eq!(in_use(&places), expected, "{frames} {held} {places:?}");
        }
        // A ring that is in the caches anyway is used to its end.
        let want = Want::packed(0, 1016);
        let mut slots = Slots::default();
        let places = places(&mut slots, ring::ring_size(1000, 3), want, 0, 100);
        assert_eq!(in_use(&places), 12, "{places:?}");
    }

    #[test]
    fn what_is_used_or_lent_or_another_size_is_not_at_the_beginning_early() {
        let size = ring::ring_size(100_000, 3);
        let want = Want::packed(0, 100_016);
        let mut slots = Slots::default();
        places(&mut slots, size, want, 0, 3);
        let find = |slots: &Slots, free, want, taken| {
            let spot = slots.find_early(size, free, want, taken)?;
            Some(spot.head)
        };
        assert_eq!(find(&slots, size, want, &[]), Some(0));
        let other = Want::packed(0, 100_015);
        assert_eq!(find(&slots, size, other, &[]), None);
        // What is lent there is left out, if the place is before all that is used.
        let lent = [0..50_000];
        assert_eq!(find(&slots, size, want, &lent), Some(50_000));
        let one = want.total;
        assert_eq!(find(&slots, size - one, want, &lent), Some(50_000));
        assert_eq!(find(&slots, size - one - 50_033, want, &lent), None);
        assert_eq!(find(&slots, size - 2 * one, want, &[]), None);
        // What is reserved counts as used.
        let spot = slots.find(size, size, want, &[]).unwrap();
        slots.insert(Site::behind(spot), one);
        assert_eq!(find(&slots, size, want, &[]), Some(0));
        assert_eq!(find(&slots, size - 2 * one, want, &[]), None);
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

    #[test]
    fn what_was_dropped_before_a_lent_slot_has_room_when_there_is_none_behind() {
        // Frames of 115200 bytes, each with room for records, from near the end of the ring on.
        let (size, total) = (700_032, 115_216);
        let mut slots = Slots::new(692_240);
        let ids: Vec<SlotId> = (0..5)
            .map(|i| {
                let (start, head) = (i * 115_456, i * 115_456 + 240);
                slots.insert(Site::behind(Spot { start, head }), total)
            })
            .collect();
        ids[..3].iter().for_each(|id| slots.cancel(*id));
        let taken = [346_608..461_824, 462_064..577_280];
        let want = Want::packed(0, total);
        assert_eq!(slots.find(size, size, want, &taken), None);
        let site = slots.find_between(size, want, &taken).unwrap();
        assert_eq!((site.spot.head, site.before), (0, Some(ids[3])));
        let copy = slots.insert(site, total);
        let lead = slots.publish(size, copy).unwrap();
        assert_eq!((lead.placement.at, lead.placement.waste), (0, 7792));
        assert_eq!(lead.placement.marker, Some(692_240));
        // Those behind stay in place.
        let lead = slots.publish(size, ids[3]).unwrap();
        assert_eq!(lead.placement.at, 346_608);
        assert_eq!(lead.skips, [Some((total, 346_608 - total)), None]);
        assert!(slots.publish(size, ids[4]).is_some());
    }
}
