//! Places that are lent ahead of the frame that is next.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Lack, Reservation, Shared, Wait, Writer};
use crate::protocol::layout::offset;
use crate::protocol::ring::{self, ALIGNMENT};
use crate::protocol::slots::{Site, Slots, Want};

/// How often a thread looks that waits for its turn. Many places come free between two looks, unless
/// they are few and large; then so much time does not matter.
const TURN_INTERVAL: Duration = Duration::from_millis(1);

/// What came of [`Writer::reserve_in_turn`].
#[derive(Debug)]
pub enum Turn {
    /// It came.
    Lent(Reservation),
    /// It cannot come, or the wait was interrupted.
    No,
    /// For so long nothing was published and nothing given back.
    Vain,
}

impl Writer {
    /// Lends room for a frame of exactly `len` bytes ahead of time, aligned to 64 bytes: any number
    /// may be lent at once, published in any order or dropped, and each keeps its bytes as long as
    /// it lives, also after it was published. `None` when there is no room for that now, or the
    /// reader does not know how ([`Writer::reserves_ahead`]).
    ///
    /// It leaves room for frames of the same size from [`Writer::reserve`], however long it lives.
    pub fn reserve_ahead(&self, len: u64) -> Option<Reservation> {
        self.shared.reserve_ahead(len).ok()
    }

    /// As [`Writer::reserve_ahead`], but waits while the room is taken by frames that the reader has
    /// not given back. `None` also when the time is over, when interrupted, or without a reader.
    pub fn reserve_ahead_wait<'a>(
        &self,
        len: u64,
        wait: impl Into<Wait<'a>>,
    ) -> Option<Reservation> {
        let waiting = wait.into().start();
        let mut first = true;
        loop {
            match self.shared.reserve_ahead(len) {
                Ok(place) => return Some(place),
                Err(None) => return None,
                Err(Some(lack)) => {
                    (self.shared.wait_for_room(&waiting, len, lack, first)).ok()?;
                    first = false;
                }
            }
        }
    }

    /// As [`Writer::reserve_ahead`], for a thread whose frames another one publishes, in the order in
    /// which they were lent. It waits also while the room is taken by frames on their way there, and
    /// while there are some among these that have no place, or none any more: they would be published
    /// behind one that is lent now, whose frame would then have to be copied as well, and so on.
    ///
    /// The wait goes on as long as frames are published or given back. `Vain` when none was for as long
    /// as `wait` says: perhaps it is the caller itself who keeps them.
    pub fn reserve_in_turn<'a>(&self, len: u64, wait: impl Into<Wait<'a>>) -> Turn {
        let wait = wait.into();
        let shared = &self.shared;
        let Some(total) = ring::frame_total(len).filter(|_| self.reserves_ahead()) else {
            return Turn::No;
        };
        let most = total.saturating_add(shared.room(&shared.state()) + ALIGNMENT);
        // The only one that is lent, at the beginning of the ring; elsewhere it leaves less.
        let size = self.payload_size();
        if most > size || !Slots::leaves_room(size, most, std::slice::from_ref(&(0..most))) {
            return Turn::No;
        }
        let progress = || (self.frames_written(), self.used_bytes());
        let mut seen = progress();
        let mut waiting = wait.start();
        loop {
            let (closed, in_order) = {
                let state = shared.state();
                let in_order = !state.slots.has_passed() && state.sleeping == 0;
                (state.closed, in_order)
            };
            if closed || self.reader_pid() == 0 || shared.there().is_err() {
                return Turn::No;
            }
            if in_order && let Ok(place) = shared.reserve_ahead(len) {
                return Turn::Lent(place);
            }
            if waiting.is_interrupted() {
                return Turn::No;
            }
            let now = progress();
            if std::mem::replace(&mut seen, now) != now {
                waiting = wait.start();
            }
            if waiting.slice().is_none() {
                return Turn::Vain;
            }
            waiting.sleep(TURN_INTERVAL);
        }
    }

    /// Whether [`Writer::reserve_ahead`] can work: the reader is one of ours.
    pub fn reserves_ahead(&self) -> bool {
        self.shared.abilities.follows_skips()
    }
}

impl Shared {
    /// `None` for a lack of room that waiting for the reader would not end.
    fn reserve_ahead(self: &Arc<Self>, len: u64) -> std::result::Result<Reservation, Option<Lack>> {
        let total = ring::frame_total(len).filter(|_| len > 0 && self.abilities.follows_skips());
        let (total, oieb) = total.zip(self.oieb()).ok_or(None)?;
        let mut state = self.state();
        let reader = oieb.word(offset::READER_PID).load(Ordering::Acquire);
        if state.closed || reader == 0 || self.there().is_err() {
            return Err(None);
        }
        let size = self.sizes.payload;
        let free = self
            .look_for_room(oieb, &state)
            .map_err(|_| None)?
            .min(size);
        let mut taken = self.taken();
        let want = Want {
            room: self.room(&state),
            total,
            align: ALIGNMENT,
            base: self.sizes.payload_start(),
        };
        let find = |free| state.slots.find(size, free, want, &taken);
        let (spot, lack) = match find(free) {
            Some(spot) => (spot, None),
            None => {
                let spot = find(size).filter(|_| free < size).ok_or(None)?;
                let wanted = state.slots.needed(size, spot, total);
                (spot, Some(Lack { free, wanted }))
            }
        };
        taken.push(spot.start..spot.head + total);
        // A copy brings its records along too. Asked before a wait: this is no lack that the reader
        // can end.
        if !Slots::leaves_room(size, want.room + total, &taken) {
            return Err(None);
        }
        if lack.is_some() {
            return Err(lack);
        }
        let site = Site::behind(spot);
        self.lend(&mut state, site, len, total).map_err(|_| None)
    }
}
