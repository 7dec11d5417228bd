//! Whether frames are lent in place, or copied when they are read.
//!
//! Whoever holds frames for long makes them leave the ring one by one. When nearly all of them do,
//! it is cheaper to copy each when it is read, into memory that goes round: no page moves, and no
//! new mapping is read through. What happens to the frames decides, and is followed the same way
//! while they are copied: by what the ring would hold if they were not.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::frame::Bytes;
use super::{Result, Shared};
use crate::protocol::ring::Ticket;
use crate::sys::window::{Loan, Room};

/// When of the last 16 frames so many had to leave the ring, the next are copied,
const MANY: u32 = 12;
/// until of the last 16 only so many would have had to.
const FEW: u32 = 4;

/// What became of the frames handed out.
#[derive(Debug, Default)]
pub(super) struct Fates {
    /// A bit for each of the last 16, the latest lowest: it left the ring while somebody held it, or
    /// would have.
    moved: u16,
    copying: bool,
    /// Bytes of the ring that were handed out so far.
    handed: u64,
    /// The copied frames that the ring would still hold, in its order.
    copies: VecDeque<Copied>,
}

/// A frame that was handed out as a copy.
#[derive(Debug)]
struct Copied {
    ticket: Ticket,
    /// Bytes handed out before it.
    start: u64,
    released: bool,
}

impl Fates {
    /// Whether the next frame is to be copied.
    pub fn copying(&self) -> bool {
        self.copying
    }

    /// A frame is handed out in place, which takes so many bytes of the ring.
    pub fn lent(&mut self, cost: u64) {
        self.handed = self.handed.wrapping_add(cost);
    }

    /// A frame is handed out as a copy, in a ring of this size.
    pub fn copied(&mut self, ticket: Ticket, cost: u64, size: u64) {
        let start = self.handed;
        self.lent(cost);
        if self.copying {
            self.copies.push_back(Copied {
                ticket,
                start,
                released: false,
            });
            // To be written at all it needed room that others before it held.
            self.make_room(|held| held <= size);
        }
    }

    /// The writer may be waiting. `has_room` tells whether it could go on if the copies that are
    /// held took up so many bytes.
    pub fn make_room(&mut self, has_room: impl Fn(u64) -> bool) {
        while let Some(front) = self.copies.front() {
            if !front.released {
                if has_room(self.handed.wrapping_sub(front.start)) {
                    return;
                }
                self.note(true);
            }
            self.copies.pop_front();
        }
    }

    /// A frame left the ring.
    pub fn evacuated(&mut self) {
        self.note(true);
    }

    /// A frame was released that was still in the ring.
    pub fn released(&mut self) {
        self.note(false);
    }

    /// A frame was released that was not in the ring any more.
    pub fn released_copy(&mut self, ticket: Ticket) {
        let found = (self.copies).binary_search_by_key(&ticket, |copy| copy.ticket);
        if let Some(copy) = found.ok().and_then(|at| self.copies.get_mut(at)) {
            copy.released = true;
            self.note(false);
        }
    }

    fn note(&mut self, moved: bool) {
        self.moved = self.moved << 1 | u16::from(moved);
        let count = self.moved.count_ones();
        self.copying = count >= if self.copying { FEW + 1 } else { MANY };
        if !self.copying {
            self.copies.clear();
        }
    }
}

/// Where the bytes of a frame will be.
pub(super) enum Place {
    Lent(Loan),
    Copied(Room),
}

impl Shared {
    /// Lends the bytes of the next frame, or finds memory to copy them.
    pub(super) fn place(&self, start: usize, len: usize) -> Result<Place> {
        let copies = self.evacuates.load(Ordering::Relaxed)
            && self.copies.load(Ordering::Relaxed)
            && self.held().fates.copying();
        if copies && let Ok(room) = self.windows.room(len) {
            return Ok(Place::Copied(room));
        }
        // If there is no mapping for it because so many laps are held, a copy always does.
        (self.windows.lend(start, len).map(Place::Lent))
            .or_else(|_| self.windows.room(len).map(Place::Copied))
            .map_err(|err| self.names.os("finding memory for a frame", err))
    }

    /// Fills the memory of a copy, and gives the room in the ring back.
    ///
    /// The frame's bytes are read here for the only time. No lock is held: nobody else knows this
    /// frame, and until the ticket is given back nobody writes there.
    pub(super) fn settle(&self, place: Place, start: usize, ticket: Ticket) -> Result<Bytes> {
        let room = match place {
            Place::Lent(loan) => return Ok(Bytes::Lent(loan)),
            Place::Copied(room) => room,
        };
        let copied = room.fill(start);
        self.evacuated.fetch_add(1, Ordering::Relaxed);
        self.give_back(self.held(), ticket);
        copied
            .map(Bytes::Copied)
            .ok_or_else(|| self.names.corrupt("a frame outside of the ring"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ring::Credits;

    /// A reader of frames of 100 bytes from a ring of `size` bytes.
    struct Model {
        size: u64,
        fates: Fates,
        credits: Credits,
        in_ring: VecDeque<Ticket>,
        held: VecDeque<Ticket>,
        copied: u32,
        evacuated: u32,
    }

    const COST: u64 = 100;

    impl Model {
        fn new(size: u64) -> Self {
            Model {
                size,
                fates: Fates::default(),
                credits: Credits::default(),
                in_ring: VecDeque::new(),
                held: VecDeque::new(),
                copied: 0,
                evacuated: 0,
            }
        }

        /// Whether the writer can go on, with so many bytes less.
        fn has_room(&self, less: u64) -> bool {
            self.credits.bytes() + less + COST <= self.size
        }

        /// What the reader does before it waits.
        fn wait(&mut self) {
            let mut fates = std::mem::take(&mut self.fates);
            fates.make_room(|copies| self.has_room(copies));
            self.fates = fates;
            while !self.has_room(0) {
                let ticket = self.in_ring.pop_front().unwrap();
                self.credits.take_back(ticket);
                self.fates.evacuated();
                self.evacuated += 1;
            }
        }

        /// A frame, for a downstream that holds the last so many. The reader waits for each, or only
        /// when the writer is `fast` and without room.
        fn frame(&mut self, fast: bool, holds: usize) {
            if !fast || !self.has_room(0) {
                self.wait();
            }
            let copies = self.fates.copying();
            let ticket = self.credits.hand_out(COST);
            if copies {
                self.fates.copied(ticket, COST, self.size);
                self.credits.take_back(ticket);
                self.copied += 1;
            } else {
                self.fates.lent(COST);
                self.in_ring.push_back(ticket);
            }
            self.held.push_back(ticket);
            while self.held.len() > holds {
                let ticket = self.held.pop_front().unwrap();
                match self.in_ring.iter().position(|other| *other == ticket) {
                    Some(at) => {
                        self.in_ring.remove(at);
                        self.fates.released();
                    }
                    None => self.fates.released_copy(ticket),
                }
                self.credits.take_back(ticket);
            }
        }

        /// Frames copied and evacuated in so many.
        fn run(&mut self, frames: u32, fast: bool, holds: usize) -> (u32, u32) {
            let before = (self.copied, self.evacuated);
            (0..frames).for_each(|_| self.frame(fast, holds));
            (self.copied - before.0, self.evacuated - before.1)
        }
    }

    #[test]
    fn a_reader_whose_frames_are_all_held_copies_them_and_stops_when_they_are_not() {
        for (size, fast) in [(300, false), (300, true), (850, false), (850, true)] {
            let mut model = Model::new(size);
            assert_eq!(model.run(100, fast, 0), (0, 0));
            let (copied, evacuated) = model.run(1000, fast, 40);
            assert!(evacuated < 12 + 9, "{evacuated}");
            assert!(copied > 1000 - 12 - 9, "{copied}");
            // From then on no page is moved.
            assert_eq!(model.run(1000, fast, 40), (1000, 0));
            // What is left of the 40 goes at once, and with it the mode.
            let (copied, evacuated) = model.run(1000, fast, 1);
            assert!(copied < 17, "{copied}");
            assert_eq!(evacuated, 0);
            assert_eq!(model.run(1000, fast, 1), (0, 0));
        }
    }

    #[test]
    fn what_the_ring_can_hold_is_never_copied_and_one_more_always_is() {
        for fast in [false, true] {
            // A ring of eight: seven that are held leave room for the next.
            let mut model = Model::new(850);
            assert_eq!(model.run(1000, fast, 7), (0, 0));
            model.run(100, fast, 8);
            assert_eq!(model.run(1000, fast, 8), (1000, 0), "{fast}");
            // And back to what there is room for.
            model.run(40, fast, 7);
            assert_eq!(model.run(1000, fast, 7), (0, 0));
        }
    }

    #[test]
    fn one_frame_that_is_held_for_ever_is_no_reason_to_copy_the_others() {
        let mut model = Model::new(300);
        model.run(1, false, 1);
        model.held.clear();
        assert_eq!(model.run(1000, false, 1), (0, 1));
    }

    #[test]
    fn released_in_any_order_the_copies_are_forgotten() {
        let mut fates = Fates::default();
        let mut credits = Credits::default();
        (0..MANY).for_each(|_| fates.evacuated());
        let tickets: Vec<_> = (0..10)
            .map(|_| {
                let ticket = credits.hand_out(COST);
                fates.copied(ticket, COST, 1000);
                ticket
            })
            .collect();
        assert_eq!(fates.copies.len(), 10);
        for at in [3, 0, 9, 1] {
            fates.released_copy(tickets[at]);
        }
        fates.make_room(|held| held <= 1000);
        assert!(fates.copying());
        assert_eq!(
            fates.copies.front().map(|copy| copy.ticket),
            Some(tickets[2])
        );
        // No room for the next: they would all have gone.
        fates.make_room(|_| false);
        assert!(fates.copies.is_empty() && fates.copying());
        // What would have gone does not count as released in place when it is released.
        let moved = fates.moved;
        tickets
            .iter()
            .for_each(|ticket| fates.released_copy(*ticket));
        assert_eq!(fates.moved, moved);
    }
}
