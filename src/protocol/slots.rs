//! Room in the ring that a writer has reserved and not yet published, as plain numbers.
//!
//! Frames stand in the ring in the order in which they are published, each where the one before it
//! ends. A writer that lends room ahead of that has to leave room out when a slot before it is
//! dropped, or published later than it: it *skips* it, which a reader of ours understands (see
//! `docs/protocol.md`, "Hello"). Room that is still lent when the ring comes round again is left
//! out in the same way.

mod find;

use std::collections::VecDeque;
use std::ops::Range;

use super::layout::FRAME_HEADER_SIZE;
use super::ring::Placement;

pub use self::find::{Site, Spot, Want};

/// Names a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId(u64);

#[derive(Debug)]
struct Slot {
    id: SlotId,
    /// Where its room for records begins, which ends at its header.
    start: u64,
    /// Where its header is.
    head: u64,
    end: u64,
    /// Bytes right before its header that are its block of records.
    block: u64,
    dropped: bool,
    /// Nothing behind it may be published before it.
    first: bool,
}

/// The slots of a writer, in the order of the ring.
#[derive(Debug, Default)]
pub struct Slots {
    /// Where the next frame is expected: behind the last one that was published.
    at: u64,
    slots: VecDeque<Slot>,
    next: u64,
    /// Bytes of the frame of the last slot, with its header.
    last: u64,
    /// Those that were lent when one behind them was published, and that nobody has come with since:
    /// their frames are still to be copied to places behind all others.
    passed: Vec<SlotId>,
}

/// A frame or message to be published, with the headers that lead the reader to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Where it is; its waste is all that lies between.
    pub placement: Placement,
    /// Headers that skip: position, bytes from there on.
    pub skips: [Option<(u64, u64)>; 2],
    /// Its block of records: position, bytes from there on to its header.
    pub block: Option<(u64, u64)>,
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

    /// Whether slots are lent that have been passed by.
    pub fn has_passed(&self) -> bool {
        !self.passed.is_empty()
    }

    /// Where the room behind all slots begins.
    fn ahead(&self) -> u64 {
        self.slots.back().map_or(self.at, |slot| slot.end)
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

    /// Reserves what [`Slots::find`] or [`Slots::find_between`] found.
    pub fn insert(&mut self, site: Site, total: u64) -> SlotId {
        let id = SlotId(self.next);
        self.next += 1;
        let Site { spot, before } = site;
        self.last = total;
        let end = spot.head + total;
        let next = before.and_then(|id| self.slots.iter().position(|slot| slot.id == id));
        if let Some(next) = next.and_then(|next| self.slots.get_mut(next)) {
            // What is too short for a header is room of the slot behind.
            if end <= next.head && next.start < end + FRAME_HEADER_SIZE {
                next.start = end;
            }
        }
        let slot = Slot {
            id,
            start: spot.start,
            head: spot.head,
            end,
            block: 0,
            dropped: false,
            first: next.is_some(),
        };
        self.slots.insert(next.unwrap_or(self.slots.len()), slot);
        id
    }

    /// Bytes for records before the header of a slot.
    pub fn room(&self, id: SlotId) -> Option<u64> {
        let slot = self.slots.iter().find(|slot| slot.id == id)?;
        Some(slot.head - slot.start)
    }

    /// Makes `bytes` before the header of a slot its block of records, in place of one before.
    /// Returns where the block begins and how long it is, which may be up to 15 bytes more: what is
    /// left before it has to hold a header that skips. `Err`: there is no more room than this.
    pub fn set_block(&mut self, id: SlotId, bytes: u64) -> Option<Result<(u64, u64), u64>> {
        self.passed.retain(|passed| *passed != id);
        let slot = self.slots.iter_mut().find(|slot| slot.id == id)?;
        let room = slot.head - slot.start;
        let Some(left) = room.checked_sub(bytes) else {
            return Some(Err(room));
        };
        slot.block = if left < FRAME_HEADER_SIZE {
            room
        } else {
            bytes
        };
        Some(Ok((slot.head - slot.block, slot.block)))
    }

    /// Makes `bytes` that belong to no slot, or are room for records that is not used yet, the next
    /// thing to be read, before all slots. `None` if there are too few in one piece; the ranges
    /// `taken` are lent.
    pub fn carve(&mut self, size: u64, bytes: u64, taken: &[Range<u64>]) -> Option<Lead> {
        let at = self.at;
        let slot = self.slots.iter_mut().find(|slot| !slot.dropped)?;
        let limit = slot.head - slot.block;
        let fits = |from: u64, to: u64| {
            let end = from.checked_add(bytes)?;
            // What is left before the slot has to hold a header that skips.
            let usable = end == to || end.checked_add(FRAME_HEADER_SIZE)? <= to;
            let lent = taken.iter().any(|t| t.start < end && from < t.end);
            (usable && !lent).then_some(end)
        };
        let mut lead = Lead {
            placement: Placement {
                at,
                waste: 0,
                marker: None,
                total: bytes,
            },
            skips: [None; 2],
            block: None,
        };
        if slot.head >= at {
            self.at = fits(at, limit)?;
        } else if let Some(end) = at.checked_add(bytes).filter(|end| *end <= size)
            && !taken.iter().any(|t| t.start < end && at < t.end)
        {
            self.at = end;
            return Some(lead);
        } else {
            self.at = fits(0, limit)?;
            lead.placement.at = 0;
            lead.placement.waste = size - at;
            lead.placement.marker = (size - at >= FRAME_HEADER_SIZE).then_some(at);
        }
        // What is too short for a header is room of the slot.
        if slot.start < self.at + FRAME_HEADER_SIZE {
            slot.start = self.at;
        }
        Some(lead)
    }

    /// Gives a slot back that will not be published.
    pub fn cancel(&mut self, id: SlotId) {
        self.passed.retain(|passed| *passed != id);
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) {
            slot.dropped = true;
        }
        while self.slots.back().is_some_and(|slot| slot.dropped) {
            self.slots.pop_back();
        }
    }

    /// Makes a slot the next frame. What was reserved before it is skipped. `None` if it has been
    /// skipped itself, since one behind it was published before, or if one before it comes first:
    /// then it is dropped.
    pub fn publish(&mut self, size: u64, id: SlotId) -> Option<Lead> {
        self.passed.retain(|passed| *passed != id);
        let place = self.slots.iter().position(|slot| slot.id == id)?;
        let comes_first = |slot: &Slot| slot.first && !slot.dropped;
        if self.slots.range(..place).any(comes_first) {
            self.cancel(id);
            return None;
        }
        let lent = (self.slots.range(..place)).filter(|slot| !slot.dropped);
        self.passed.extend(lent.map(|slot| slot.id));
        let slot = self.slots.drain(..=place).next_back()?;
        let at = self.at;
        self.at = slot.end;
        let mut lead = Lead {
            placement: Placement {
                at: slot.head,
                waste: 0,
                marker: None,
                total: slot.end - slot.head,
            },
            skips: [None; 2],
            block: (slot.block > 0).then_some((slot.head - slot.block, slot.block)),
        };
        // To where something stands.
        let start = slot.head - slot.block;
        if slot.head >= at {
            lead.placement.waste = slot.head - at;
            lead.skips[0] = (start > at).then(|| (at, start - at));
        } else {
            lead.placement.waste = size - at + slot.head;
            lead.placement.marker = (size - at >= FRAME_HEADER_SIZE).then_some(at);
            lead.skips[1] = (start > 0).then_some((0, start));
        }
        Some(lead)
    }
}

#[cfg(test)]
// One range that is lent, not the numbers in it.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn reserve(slots: &mut Slots, free: u64, total: u64, taken: &[Range<u64>]) -> Option<SlotId> {
        let spot = slots.find(1000, free, Want::packed(0, total), taken)?;
        Some(slots.insert(Site::behind(spot), total))
    }

    #[test]
    fn a_slot_is_passed_until_somebody_comes_with_it() {
        let mut slots = Slots::new(0);
        let ids = [0; 5].map(|_| reserve(&mut slots, 1000, 100, &[]).unwrap());
        slots.cancel(ids[0]);
        assert!(slots.publish(1000, ids[3]).is_some());
        // Two of those before it are still lent: one is dropped, the other comes too late.
        assert!(slots.has_passed());
        slots.cancel(ids[1]);
        assert!(slots.has_passed());
        assert_eq!(slots.set_block(ids[2], 16), None);
        assert!(!slots.has_passed());
        assert_eq!(slots.publish(1000, ids[2]), None);
        assert!(slots.publish(1000, ids[4]).is_some());
        assert!(!slots.has_passed());
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
    fn nothing_is_published_before_what_was_put_before_it() {
        let mut slots = Slots::new(0);
        let [a, b, c] = [300; 3].map(|total| reserve(&mut slots, 1000, total, &[]).unwrap());
        slots.cancel(a);
        let want = Want::packed(0, 200);
        let taken = [300..900];
        assert_eq!(slots.find(1000, 1000, want, &taken), None);
        let site = slots.find_between(1000, want, &taken).unwrap();
        let copy = slots.insert(site, 200);
        assert_eq!(slots.publish(1000, b), None);
        let lead = slots.publish(1000, copy).unwrap();
        assert_eq!((lead.placement.at, lead.skips), (0, [None; 2]));
        let lead = slots.publish(1000, c).unwrap();
        assert_eq!((lead.placement.at, lead.placement.waste), (600, 400));

        // One that is dropped keeps nobody back.
        let mut slots = Slots::new(0);
        let [a, b] = [450; 2].map(|total| reserve(&mut slots, 1000, total, &[]).unwrap());
        slots.cancel(a);
        let site = slots.find_between(1000, want, &[450..900]).unwrap();
        let copy = slots.insert(site, 200);
        slots.cancel(copy);
        assert_eq!(slots.publish(1000, b).unwrap().placement.at, 450);
    }

    #[test]
    fn a_block_is_right_before_its_frame_and_the_rest_of_the_room_is_skipped() {
        // Bytes of the block asked for, its own, those that are skipped before it.
        for (bytes, block, skip) in [(0, 0, 100), (24, 24, 76), (84, 84, 16), (100, 100, 0)] {
            let mut slots = Slots::new(200);
            let spot = slots.find(1000, 800, Want::packed(100, 300), &[]).unwrap();
            assert_eq!((spot.start, spot.head), (200, 300));
            let id = slots.insert(Site::behind(spot), 300);
            assert_eq!(slots.set_block(id, bytes), Some(Ok((300 - block, block))));
            let lead = slots.publish(1000, id).unwrap();
            assert_eq!((lead.placement.at, lead.placement.cost()), (300, 400));
            assert_eq!(lead.block, (block > 0).then_some((300 - block, block)));
            assert_eq!(lead.skips, [(skip > 0).then_some((200, skip)), None]);
        }
        // What is too short for a skip is part of the block; more than the room there is not.
        let mut slots = Slots::new(200);
        let spot = slots.find(1000, 800, Want::packed(100, 300), &[]).unwrap();
        let id = slots.insert(Site::behind(spot), 300);
        for bytes in 85..=100 {
            assert_eq!(slots.set_block(id, bytes), Some(Ok((200, 100))));
        }
        assert_eq!(slots.set_block(id, 101), Some(Err(100)));
        assert_eq!(slots.room(id), Some(100));
        let lead = slots.publish(1000, id).unwrap();
        assert_eq!((lead.block, lead.skips), (Some((200, 100)), [None; 2]));
        assert_eq!(slots.set_block(id, 24), None);
        // At the beginning of the ring, and behind what was passed by.
        let spot = slots.find(1000, 800, Want::packed(100, 500), &[]);
        assert_eq!(spot, None, "it does not fit behind the last, nor before it");
        let mut slots = Slots::new(700);
        let spot = slots.find(1000, 1000, Want::packed(100, 500), &[]).unwrap();
        let passed = slots.insert(Site::behind(spot), 100);
        let spot = slots.find(1000, 1000, Want::packed(50, 300), &[]).unwrap();
        let id = slots.insert(Site::behind(spot), 300);
        slots.set_block(id, 30);
        let lead = slots.publish(1000, id).unwrap();
        assert_eq!(lead.placement.marker, Some(700));
        assert_eq!(
            (lead.block, lead.skips[1]),
            (Some((220, 30)), Some((0, 220)))
        );
        assert_eq!(slots.set_block(passed, 0), None);
    }

    #[test]
    fn a_message_takes_what_belongs_to_no_slot_or_is_room() {
        let lent = |slots: &mut Slots, room, total| {
            let spot = slots
                .find(1000, 1000, Want::packed(room, total), &[])
                .unwrap();
            slots.insert(Site::behind(spot), total)
        };
        let mut slots = Slots::new(0);
        assert_eq!(
            slots.carve(1000, 24, &[]),
            None,
            "there is no slot to be before"
        );
        let [a, b] = [200; 2].map(|total| lent(&mut slots, 100, total));
        slots.set_block(a, 30);
        // What is left before the block has to hold a header.
        assert_eq!(slots.carve(1000, 60, &[]), None);
        let lead = slots.carve(1000, 50, &[]).unwrap();
        assert_eq!((lead.placement.at, lead.placement.cost()), (0, 50));
        assert_eq!((slots.position(), slots.room(a)), (50, Some(50)));
        let lead = slots.carve(1000, 20, &[]).unwrap();
        assert_eq!((lead.placement.at, lead.skips), (50, [None; 2]));
        assert_eq!(slots.carve(1000, 1, &[]), None);
        let lead = slots.publish(1000, a).unwrap();
        assert_eq!((lead.block, lead.skips), (Some((70, 30)), [None; 2]));
        // The place of one that was dropped is free, but not what is still looked at in it.
        slots.cancel(b);
        let b = lent(&mut slots, 0, 200);
        let c = lent(&mut slots, 0, 200);
        slots.cancel(b);
        assert_eq!(slots.carve(1000, 150, &[400..450]), None);
        let lead = slots.carve(1000, 150, &[460..480]).unwrap();
        assert_eq!((lead.placement.at, slots.position()), (300, 450));
        let lead = slots.publish(1000, c).unwrap();
        assert_eq!((lead.placement.at, lead.skips[0]), (500, Some((450, 50))));
        // At the end of the ring, then at its beginning.
        let d = lent(&mut slots, 100, 400);
        assert_eq!(slots.position(), 700);
        let lead = slots.carve(1000, 300, &[]).unwrap();
        assert_eq!((lead.placement.at, slots.position()), (700, 1000));
        let lead = slots.carve(1000, 90, &[]);
        assert_eq!(lead, None, "10 bytes are left before it");
        let lead = slots.carve(1000, 84, &[]).unwrap();
        assert_eq!((lead.placement.at, lead.placement.marker), (0, None));
        let lead = slots.publish(1000, d).unwrap();
        assert_eq!((lead.placement.at, lead.placement.waste), (100, 16));
        assert_eq!(lead.skips, [Some((84, 16)), None]);
        // What is left of what was dropped is too short for a header: it is room of the next.
        let mut slots = Slots::new(0);
        let e = lent(&mut slots, 0, 200);
        let f = lent(&mut slots, 100, 200);
        slots.cancel(e);
        assert!(slots.carve(1000, 190, &[]).is_some());
        assert_eq!((slots.position(), slots.room(f)), (190, Some(110)));
        assert_eq!(slots.set_block(f, 100), Some(Ok((190, 110))));
        // Not over what is still looked at at the end of the ring.
        let mut slots = Slots::new(700);
        lent(&mut slots, 100, 400);
        for taken in [700..701, 850..900, 999..1000] {
            let lead = slots.carve(1000, 300, &[taken]);
            assert_eq!(lead, None, "nor is there enough before the slot");
        }
        // With a marker.
        let mut slots = Slots::new(900);
        let e = lent(&mut slots, 200, 400);
        let lead = slots.carve(1000, 150, &[]).unwrap();
        assert_eq!((lead.placement.at, lead.placement.waste), (0, 100));
        assert_eq!((lead.placement.marker, lead.skips), (Some(900), [None; 2]));
        assert_eq!(slots.room(e), Some(50));
    }
}
