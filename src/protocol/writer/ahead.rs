//! Places that are lent ahead of the frame that is next.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Lack, Reservation, Shared, Wait, Writer};
use crate::protocol::extension;
use crate::protocol::layout::offset;
use crate::protocol::ring::{self, ALIGNMENT};
use crate::protocol::slots::{Site, Slots, Spot, Want};

/// How often a thread looks that waits for its turn. Many places come free between two looks, unless
/// they are few and large; then so much time does not matter.
const TURN_INTERVAL: Duration = Duration::from_millis(1);
/// How long nothing may be on its way to the thread that publishes, until a turn for which that one
/// would have to do something counts as one that does not come. A thread may be off its processor
/// for nearly so long.
const IDLE_PATIENCE: Duration = Duration::from_millis(20);

/// What came of [`Writer::reserve_in_turn`].
#[derive(Debug)]
pub enum Turn {
    /// It came.
    Lent(Reservation),
    /// It cannot come before a frame is copied that is not lent, or the wait was interrupted.
    No,
    /// For so long nothing was published and nothing given back, or what is missing is not on its way.
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
    /// as `wait` says, or for 20 ms in which the other thread was `idle`, though it would have had to
    /// publish some: then it is the caller itself who keeps them, and waits for itself.
    pub fn reserve_in_turn<'a>(
        &self,
        len: u64,
        wait: impl Into<Wait<'a>>,
        idle: impl Fn() -> bool,
    ) -> Turn {
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
        let mut idle_since = None;
        let mut wish = Wish::none(shared);
        loop {
            let (closed, in_order) = {
                let state = shared.state();
                let in_order = !state.slots.has_passed() && state.sleeping == 0;
                (state.closed, in_order)
            };
            if closed || self.reader_pid() == 0 || shared.there().is_err() {
                return Turn::No;
            }
            let lack = match in_order.then(|| shared.reserve_ahead(len)) {
                Some(Ok(place)) => return Turn::Lent(place),
                Some(Err(lack)) => lack,
                None => None,
            };
            if let Some(lack) = lack {
                // Else a reader that holds frames would not move them.
                wish.say(lack);
            }
            if waiting.is_interrupted() {
                return Turn::No;
            }
            let now = progress();
            let moved = std::mem::replace(&mut seen, now) != now;
            if moved {
                waiting = wait.start();
            }
            if moved || lack.is_some() || !idle() {
                // The reader comes to it by itself, or the other thread does.
                idle_since = None;
            } else {
                let idle = idle_since.get_or_insert_with(Instant::now).elapsed();
                if idle >= TURN_INTERVAL && in_order && shared.taken().is_empty() {
                    return Turn::No;
                }
                if idle >= IDLE_PATIENCE {
                    return Turn::Vain;
                }
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

/// The room that a thread waits for which does not sleep until the reader posts: the reader is told of
/// it, but when other threads sleep it is told of theirs.
struct Wish<'a> {
    shared: &'a Shared,
    said: bool,
}

impl<'a> Wish<'a> {
    fn none(shared: &'a Shared) -> Self {
        Wish {
            shared,
            said: false,
        }
    }

    fn say(&mut self, lack: Lack) {
        self.said = true;
        self.want(lack.wanted);
    }

    fn want(&self, bytes: u64) {
        // With the lock, so that nobody is publishing: see `Shared::hand_over`.
        let (shared, mut state) = (self.shared, self.shared.state());
        if state.sleeping == 0 {
            extension::want(&shared.segment, &shared.sizes, bytes);
            state.wished = bytes > 0;
        }
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        if self.said {
            self.want(0);
        }
    }
}

impl Shared {
    /// `None` for a lack of room that waiting for the reader would not end.
    fn reserve_ahead(self: &Arc<Self>, len: u64) -> std::result::Result<Reservation, Option<Lack>> {
        let total = ring::frame_total(len).filter(|_| len > 0 && self.abilities.follows_skips());
        let (total, oieb) = total.zip(self.oieb()).ok_or(None)?;
        let mut state = self.state();
        // Acquire, with the Release in `reader::Shared::close`.
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
        let place_of = |spot: Spot| spot.start..spot.head + total;
        if let Some(spot) = self.find_early(&state, free, want, &taken) {
            taken.push(place_of(spot));
            if Slots::leaves_room(size, want.room + total, &taken) {
                let lent = self.lend(&mut state, Site::behind(spot), len, total);
                return lent.map_err(|_| None);
            }
            taken.pop();
        }
        let find = |free| state.slots.find(size, free, want, &taken);
        let (spot, lack) = match find(free) {
            Some(spot) => (spot, None),
            None => {
                let spot = find(size).filter(|_| free < size).ok_or(None)?;
                let wanted = state.slots.needed(size, spot, total);
                (spot, Some(Lack { free, wanted }))
            }
        };
        taken.push(place_of(spot));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{BufferConfig, Reader, ring_size};
    use crate::testing::unique_name;

    fn pair(tag: &str, size: u64) -> (Reader, Writer) {
        let name = unique_name(tag);
        let reader = Reader::create(&name, &BufferConfig::new(1024, size)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        (reader, writer)
    }

    #[test]
    fn a_turn_that_waits_for_itself_is_in_vain() {
        let (_reader, writer) = pair("ahead-itself", ring_size(1000, 3));
        let mut kept = Vec::new();
        while let Some(place) = writer.reserve_ahead(1000) {
            kept.push(place);
        }
        // However long it would wait.
        let turn = writer.reserve_in_turn(1000, Wait::forever(), || true);
        assert!(matches!(turn, Turn::Vain), "{turn:?}");
        // One of those that are kept is passed by, though there is room again.
        let mut first = kept.remove(0);
        kept.pop().unwrap().commit().unwrap();
        let turn = writer.reserve_in_turn(1000, Wait::forever(), || true);
        assert!(matches!(turn, Turn::Vain), "{turn:?}");
        first.publish().unwrap_err();
    }

    #[test]
    fn a_place_that_only_a_copy_makes_possible_is_not_waited_for() {
        // In the middle of this ring no place leaves room for a copy.
        let (reader, writer) = pair("ahead-middle", 3 * 1016 + 1000);
        writer.write_frame(&[1; 1000]).unwrap();
        drop(reader.read_frame(Duration::ZERO).unwrap());
        assert!(writer.reserve_ahead(1000).is_none());
        let turn = writer.reserve_in_turn(1000, Wait::forever(), || true);
        assert!(matches!(turn, Turn::No), "{turn:?}");
    }

    #[test]
    fn a_reader_that_holds_frames_makes_room_for_a_turn() {
        let (reader, writer) = pair("ahead-held", ring_size(1000, 3));
        reader.set_evacuation(true);
        let mut held = Vec::new();
        while writer.write_frame_wait(&[1; 1000], Wait::no()).is_ok() {
            held.push(reader.read_frame(Duration::ZERO).unwrap());
        }
        std::thread::scope(|scope| {
            let turn = scope.spawn(|| writer.reserve_in_turn(1000, Wait::forever(), || true));
            while !turn.is_finished() {
                let _ = reader.read_frame(Duration::from_millis(1));
            }
            let turn = turn.join().unwrap();
            assert!(matches!(turn, Turn::Lent(_)), "{turn:?}");
        });
        assert!(held.iter().all(|frame| **frame == [1; 1000]));
        assert!(reader.frames_copied() > 0);
    }
}
