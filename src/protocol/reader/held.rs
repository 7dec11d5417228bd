//! Frames that were handed out: what becomes of them while somebody holds them, and when their room
//! goes back to the writer.

use std::collections::VecDeque;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::copies::{Fates, Place};
use super::{Reader, Shared, Waiting};
use crate::protocol::extension;
use crate::protocol::handoff;
use crate::protocol::layout::offset;
use crate::protocol::ring::{self, Credit, Credits, Fit, Found, Tails, Ticket};
use crate::sys::window::LoanKey;

/// After how many slices of time (a second) without a frame a v1 writer may be waiting for more room
/// than its frames so far needed.
const LONG_SILENCE: u32 = 50;

/// Frames that were handed out and have not come back.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) credits: Credits,
    /// What was lent with them, the oldest first; also of frames that have come back before an
    /// older one.
    loans: VecDeque<(Ticket, LoanKey)>,
    pub(super) fates: Fates,
}

impl Held {
    fn take_back(&mut self, ticket: Ticket) -> Credit {
        let credit = self.credits.take_back(ticket);
        self.oldest();
        credit
    }

    /// The oldest frame that is held.
    fn oldest(&mut self) -> Option<(Ticket, LoanKey)> {
        while let Some((ticket, _)) = self.loans.front()
            && !self.credits.holds(*ticket)
        {
            self.loans.pop_front();
        }
        self.loans.front().copied()
    }
}

impl Reader {
    /// Frames handed out and not yet given back to the writer.
    pub fn frames_held(&self) -> usize {
        self.shared.held().credits.frames()
    }

    /// Whether frames that are held leave the ring when the writer needs their room (default: no,
    /// the writer waits). A frame that leaves is copied and stays where it is in memory, with the
    /// bytes that it has; so nobody who holds frames can stop the stream. It happens in
    /// [`Reader::read_frame`], before that waits. While nearly all frames are held for so long, they
    /// are copied when they are read instead, which is cheaper; also then each is copied once.
    ///
    /// A writer of ours that is told so uses few places of a large ring again and again while the
    /// reader keeps up, since those are in the processor's caches (`docs/architecture.md`, "Few
    /// places").
    pub fn set_evacuation(&self, evacuate: bool) {
        let shared = &self.shared;
        shared.evacuates.store(evacuate, Ordering::Relaxed);
        extension::note_evacuation(&shared.segment, &shared.sizes, evacuate);
        if !evacuate {
            shared.held().fates = Fates::default();
            shared.windows.clear_spares();
        }
    }

    /// Whether [`Reader::set_evacuation`] includes to copy frames when they are read (default: yes). For
    /// `benches/holding.rs`, which shows what that saves.
    #[doc(hidden)]
    pub fn set_copying(&self, copying: bool) {
        self.shared.copies.store(copying, Ordering::Relaxed);
    }

    /// Frames that were copied because somebody held them, or those before them: out of the ring, or
    /// when they were read (see [`Reader::set_evacuation`]). None is copied twice.
    pub fn frames_copied(&self) -> u64 {
        self.shared.evacuated.load(Ordering::Relaxed)
    }
}

impl Shared {
    pub(super) fn hand_out(&self, found: &Found, place: &Place) -> Ticket {
        self.largest
            .fetch_max(found.end() - found.at, Ordering::Relaxed);
        let mut held = self.held();
        let ticket = held.credits.hand_out(found.cost());
        match place {
            Place::Lent(loan) => {
                held.fates.lent(found.cost());
                held.loans.push_back((ticket, loan.key()));
            }
            Place::Copied(_) => (held.fates).copied(ticket, found.cost(), self.sizes.payload),
        }
        ticket
    }

    /// Before a wait for the writer: if it may itself be waiting for room that held frames take up,
    /// moves frames out of the ring, the oldest first.
    pub(super) fn make_room(&self, waiting: &Waiting, slices: u32) {
        // A writer of ours tells what it waits for. Of others we know what their frames were like,
        // and when nothing has come for long from one that has taken all our posts, that its next
        // frame may be larger than that: with what is skipped at the end of the ring it may take nearly
        // all of it.
        let mut more = 0;
        if slices >= LONG_SILENCE {
            let enough = match self.is_writer_ours() {
                true => self.sizes.payload / 2,
                false => self.sizes.payload,
            };
            if self.free_bytes() < enough {
                more = 1_u64.checked_shl(slices - LONG_SILENCE).unwrap_or(u64::MAX);
            }
        }
        if slices % LONG_SILENCE == LONG_SILENCE - 1 {
            self.windows.clear_spares();
        }
        (self.held().fates).make_room(|copies| self.has_room(copies));
        // A frame is moved with the lock held, but only one.
        while !waiting.is_interrupted() {
            let mut held = self.held();
            let Some((ticket, loan)) = held.oldest() else {
                return;
            };
            if self.has_room(0) {
                if more == 0 || self.sem_read.value().is_ok_and(|posts| posts > 0) {
                    return;
                }
                more -= 1;
            }
            // The writer gets no room back whose bytes are still being copied.
            match self.windows.evacuate(loan) {
                Ok(moved) => {
                    if moved {
                        self.evacuated.fetch_add(1, Ordering::Relaxed);
                        held.fates.evacuated();
                    }
                    self.give_back(held, ticket);
                }
                // No memory: it stays, and the writer waits until it is released.
                Err(_) => return,
            }
        }
    }

    /// Whether the writer has room for the frame that it waits for, or else for one of the largest
    /// size so far; or would have it if so many bytes less were free.
    fn has_room(&self, less: u64) -> bool {
        let Some(oieb) = self.oieb() else { return true };
        let size = self.sizes.payload;
        // Acquire, with the Release in `handoff::publish`.
        let at = oieb.word(offset::PAYLOAD_WRITE_POS).load(Ordering::Acquire);
        let free = self.free_bytes().saturating_sub(less);
        let needed = match extension::wanted(&self.segment, &self.sizes) {
            0 => self.largest.load(Ordering::Relaxed),
            wanted => return free >= wanted.min(size),
        };
        at > size || ring::place(size, at, free, needed, Tails::Followed) != Fit::Later
    }

    pub(super) fn release(&self, ticket: Ticket) {
        let mut held = self.held();
        if held.credits.holds(ticket) {
            held.fates.released();
        } else {
            held.fates.released_copy(ticket);
        }
        self.give_back(held, ticket);
    }

    pub(super) fn give_back(&self, mut held: MutexGuard<'_, Held>, ticket: Ticket) {
        let credit = held.take_back(ticket);
        self.credit(held, credit);
    }

    pub(super) fn credit(&self, held: MutexGuard<'_, Held>, credit: Credit) {
        // Acquire, with the Release in `Shared::close`.
        if credit.frames == 0 || self.closed.load(Ordering::Acquire) {
            return;
        }
        if let Some(oieb) = self.oieb() {
            let free = oieb.word(offset::PAYLOAD_FREE_BYTES);
            handoff::give_back(held, credit, free, &self.sem_read);
        }
    }
}
