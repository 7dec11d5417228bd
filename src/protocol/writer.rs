//! The writing end: it attaches to a buffer that a reader made, and fills it.

mod ahead;
mod attach;
mod metadata;
mod reader;
mod records;
mod reservation;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use self::reader::Looked;
use self::records::Room;
use super::buffer::Names;
use super::error::{Error, Result};
use super::extension::{self, Abilities, WRITER_LOCK};
use super::handoff;
use super::layout::{FRAME_HEADER_SIZE, Oieb, Sizes, offset};
use super::liveness::Watch;
use super::ring::{self, BLOCK, Fit};
use super::slots::{Lead, Site, SlotId, Slots, Spot, Want};
use super::wait::{Wait, Waiting};
use crate::sys::process;
use crate::sys::sem::Semaphore;
use crate::sys::shm::Segment;

pub use self::ahead::Turn;
pub use self::metadata::MetadataReservation;
pub use self::reservation::Reservation;

/// How long [`Writer::write_frame`] waits for room unless told otherwise, as in the other
/// implementations.
pub const DEFAULT_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Attaches to a buffer and writes frames into it.
///
/// Dropping it closes the stream; the reader still gets every frame. Threads may share a Writer:
/// frames are written one after another.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    names: Names,
    segment: Arc<Segment>,
    sizes: Sizes,
    abilities: Abilities,
    sem_write: Semaphore,
    sem_read: Semaphore,
    reader: Watch,
    state: Mutex<State>,
    /// Told when `State::reserved` becomes `None`.
    unreserved: Condvar,
    /// Somebody was told that the buffer was made anew, and will go on there. Relaxed: who closes
    /// because of that knows it.
    leaving: AtomicBool,
    /// The pid of a v1 reader that was found dead.
    dead_reader: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    waits: AtomicU64,
    messages: AtomicU64,
    records_dropped: AtomicU64,
}

/// Our own copies; what stands in the OIEB is for others.
#[derive(Debug)]
struct State {
    /// Where the next frame goes on, and what is reserved from there on.
    slots: Slots,
    sequence: u64,
    metadata_written: bool,
    /// A writer before us has written frames.
    follows: bool,
    /// Who holds a place that is neither committed nor dropped.
    reserved: Option<ThreadId>,
    /// Threads that wait for that.
    waiting: usize,
    /// Threads that sleep until the reader posts.
    sleeping: usize,
    /// Whether one that looks for room again and again has said what it waits for.
    wished: bool,
    looked: Looked,
    /// How much room for records is lent ahead.
    room: Room,
    closed: bool,
}

/// Room that the reader has to give back first.
#[derive(Clone, Copy, Debug)]
struct Lack {
    free: u64,
    /// How many bytes have to be free.
    wanted: u64,
}

impl Writer {
    /// The name of the buffer.
    pub fn name(&self) -> &str {
        &self.shared.names.name
    }

    /// Bytes of the metadata block.
    pub fn metadata_size(&self) -> u64 {
        self.shared.sizes.metadata
    }

    /// Bytes of the ring.
    pub fn payload_size(&self) -> u64 {
        self.shared.sizes.payload
    }

    /// Writes a frame, copying it in, and returns its sequence number. Waits for room at most
    /// [`DEFAULT_WRITE_TIMEOUT`]; see [`Writer::write_frame_wait`] for other times.
    ///
    /// # Errors
    /// As [`Writer::reserve`].
    pub fn write_frame(&self, frame: &[u8]) -> Result<u64> {
        self.write_frame_wait(frame, DEFAULT_WRITE_TIMEOUT)
    }

    /// Writes a frame, copying it in, and returns its sequence number.
    ///
    /// # Errors
    /// As [`Writer::reserve`].
    pub fn write_frame_wait<'a>(&self, frame: &[u8], wait: impl Into<Wait<'a>>) -> Result<u64> {
        let mut place = self.reserve(frame.len() as u64, wait)?;
        place.copy_from_slice(frame);
        place.commit()
    }

    /// Lends room for a frame of exactly `len` bytes, to be filled in place; its content is
    /// whatever was there. [`Reservation::commit`] publishes it, dropping it leaves no trace.
    ///
    /// # Errors
    /// [`Error::BufferFull`] when there was no room in time; [`Error::InvalidFrameSize`],
    /// [`Error::FrameTooLarge`], [`Error::FrameCannotPass`]: no wait would help;
    /// [`Error::ReaderClosed`], [`Error::ReaderDead`]; [`Error::Interrupted`];
    /// [`Error::ReservationPending`] when this thread itself holds one (another thread's is
    /// waited for); [`Error::Closed`].
    pub fn reserve<'a>(&self, len: u64, wait: impl Into<Wait<'a>>) -> Result<Reservation> {
        if len == 0 {
            return Err(Error::InvalidFrameSize);
        }
        let total = ring::frame_total(len).unwrap_or(u64::MAX);
        self.when_unreserved(wait.into(), total, |shared, state| {
            shared.try_reserve(state, len, 0)
        })
    }

    /// Does what `act` does as soon as no other thread has a reservation and there is room, for
    /// which `act` returns, if there is none, how many bytes are free.
    fn when_unreserved<T>(
        &self,
        wait: Wait,
        total: u64,
        mut act: impl FnMut(&Arc<Shared>, &mut State) -> Result<std::result::Result<T, Lack>>,
    ) -> Result<T> {
        let shared = &self.shared;
        let waiting = wait.start();
        let mut waited = false;
        // Also while there is room: a killed reader leaves it as it was.
        self.look_at_reader()?;
        let mut state = shared.state();
        loop {
            shared.open(&state)?;
            if state.reserved == Some(thread::current().id()) {
                return Err(Error::ReservationPending);
            }
            if state.reserved.is_none() {
                let done = act(shared, &mut state);
                if matches!(done, Err(Error::ReaderClosed { .. })) {
                    drop(state);
                    shared.confirm_closed()?;
                    state = shared.state();
                    continue;
                }
                match done? {
                    Ok(done) => return Ok(done),
                    Err(lack) => {
                        drop(state);
                        shared.wait_for_room(&waiting, total, lack, !waited)?;
                        waited = true;
                        state = shared.state();
                    }
                }
            } else {
                let slice = shared.next_slice(&waiting, total, 0)?;
                state.waiting += 1;
                (state, _) = shared
                    .unreserved
                    .wait_timeout(state, slice)
                    .unwrap_or_else(PoisonError::into_inner);
                state.waiting -= 1;
            }
        }
    }

    /// Frames written so far.
    pub fn frames_written(&self) -> u64 {
        self.shared.frames.load(Ordering::Relaxed)
    }

    /// Bytes of content written so far.
    pub fn bytes_written(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// How often a frame had to wait for room.
    pub fn waits(&self) -> u64 {
        self.shared.waits.load(Ordering::Relaxed)
    }

    /// Whether the reader has read all that was written: frames and messages. It may still hold them.
    pub fn is_all_read(&self) -> bool {
        self.shared.oieb().is_none_or(|oieb| {
            // Acquire, with the Release in `reader::Shared::note_read`.
            let read = oieb.word(offset::PAYLOAD_READ_POS).load(Ordering::Acquire);
            read == oieb.get(offset::PAYLOAD_WRITE_POS)
        })
    }

    /// Whether the reader has given back all that was written. What it did before that, in another
    /// buffer for example, is to be seen after this.
    pub fn is_all_given_back(&self) -> bool {
        let used = self.used_bytes();
        // Acquire, with the Release in `handoff::give_back`.
        fence(Ordering::Acquire);
        used == 0
    }

    /// Bytes of the ring that are not free: frames written and not yet given back.
    pub fn used_bytes(&self) -> u64 {
        let free = self
            .shared
            .oieb()
            .map_or(0, |oieb| oieb.get(offset::PAYLOAD_FREE_BYTES));
        self.shared.sizes.payload.saturating_sub(free)
    }

    /// Closes the stream: the reader gets the frames that are there, then the end. A place that is
    /// still reserved can no longer be committed.
    ///
    /// A writer that was told that its reader made the buffer anew goes on there: the reader does
    /// not take this for the end of the stream. It should attach to the new one first, so that the
    /// reader notices if it dies in between.
    pub fn close(&self) {
        let goes_on = self.shared.leaving.load(Ordering::Relaxed);
        self.shared.close(!goes_on);
    }

    /// Closes the stream as [`Writer::close`] does, and for good: this writer does not go on in
    /// another buffer, whatever it was told.
    pub fn end(&self) {
        self.shared.close(true);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn oieb(&self) -> Option<Oieb<'_>> {
        Oieb::of(&self.segment)
    }

    fn name(&self) -> String {
        self.names.name.clone()
    }

    fn open(&self, state: &State) -> Result<()> {
        if state.closed {
            return Err(Error::Closed { name: self.name() });
        }
        self.there()
    }

    /// Whether all that was touched of the shared memory was there. If not, what was read of it last
    /// may be zeros, and what was written is lost.
    fn there(&self) -> Result<()> {
        if self.segment.is_gone() {
            return Err(self.names.gone());
        }
        Ok(())
    }

    /// Lends room for a frame with `room` bytes for records before its header, or says what is
    /// lacking for it.
    fn try_reserve(
        self: &Arc<Self>,
        state: &mut State,
        len: u64,
        room: u64,
    ) -> Result<std::result::Result<Reservation, Lack>> {
        let total = ring::frame_total(len).unwrap_or(u64::MAX);
        let site = match self.find_place(state, len, room, total)? {
            Ok(site) => site,
            Err(lack) => return Ok(Err(lack)),
        };
        let mut lent = self.lend(state, site, len, total)?;
        lent.exclusive = true;
        state.reserved = Some(thread::current().id());
        Ok(Ok(lent))
    }

    /// The site of a slot for a frame, or what is lacking for it.
    fn find_place(
        &self,
        state: &State,
        len: u64,
        room: u64,
        total: u64,
    ) -> Result<std::result::Result<Site, Lack>> {
        self.has_reader()?;
        let oieb = self.oieb().ok_or_else(|| self.names.not_found())?;
        let free = self.look_for_room(oieb, state)?;
        let size = self.sizes.payload;
        if free > size {
            let what = format!("{free} free bytes in a ring of {size}");
            return Err(self.names.corrupt(what));
        }
        let taken = self.taken();
        let all = total.saturating_add(room);
        let want = Want::packed(room, total);
        if let Some(spot) = self.find_early(state, free, want, &taken) {
            return Ok(Ok(Site::behind(spot)));
        }
        if all <= size && !(state.slots.is_empty() && taken.is_empty()) {
            // Only for a reader that follows skips: nothing else is ever lent at this moment.
            let find = |free| state.slots.find(size, free, want, &taken);
            if let Some(spot) = find(free) {
                return Ok(Ok(Site::behind(spot)));
            }
            return Ok(match find(size) {
                Some(spot) => {
                    let wanted = state.slots.needed(size, spot, total);
                    Err(Lack { free, wanted })
                }
                // What is lent blocks every place behind it, and stays as long as upstream likes.
                None => (state.slots.find_between(size, want, &taken))
                    // All that the reader has may help.
                    .ok_or(Lack { free, wanted: size }),
            });
        }
        let at = state.slots.position();
        let good_size = ring::good_size(len.saturating_add(room));
        let tails = self.abilities.tails();
        match ring::place(size, at, free, all, tails) {
            Fit::Now(placement) => Ok(Ok(Site::behind(Spot {
                start: placement.at,
                head: placement.at + room,
            }))),
            Fit::Later => {
                let wanted = match ring::place(size, at, size, all, tails) {
                    Fit::Now(placement) => placement.cost(),
                    _ => size,
                };
                Ok(Err(Lack { free, wanted }))
            }
            Fit::TooLarge => Err(Error::FrameTooLarge {
                name: self.name(),
                size: len,
                payload_size: size,
                good_size,
            }),
            Fit::Never => Err(Error::FrameCannotPass {
                name: self.name(),
                size: len,
                payload_size: size,
                position: at,
                good_size,
            }),
        }
    }

    /// A place that is in the processor's caches, for a reader that goes on whatever it holds.
    fn find_early(
        &self,
        state: &State,
        free: u64,
        want: Want,
        taken: &[Range<u64>],
    ) -> Option<Spot> {
        let follows = self.abilities.follows_skips();
        let find = || (state.slots).find_early(self.sizes.payload, free, want, taken);
        let spot = follows.then(find)??;
        extension::evacuates(&self.segment, &self.sizes).then_some(spot)
    }

    /// The bytes that are free.
    fn look_for_room(&self, oieb: Oieb, state: &State) -> Result<u64> {
        let free = oieb.word(offset::PAYLOAD_FREE_BYTES);
        if state.sleeping > 0 {
            return Ok(handoff::look_at_room(free));
        }
        handoff::look_for_room(free, &self.sem_read)
            .map_err(|err| self.names.os("waiting for the reader's semaphore", err))
    }

    fn lend(
        self: &Arc<Self>,
        state: &mut State,
        site: Site,
        len: u64,
        total: u64,
    ) -> Result<Reservation> {
        let content = self.sizes.payload_start() + site.spot.head + FRAME_HEADER_SIZE;
        let bytes = self
            .segment
            .place(content as usize, len as usize)
            .ok_or(Error::ReservationPending)?;
        Ok(Reservation {
            place: Some(bytes),
            slot: Some(state.slots.insert(site, total)),
            exclusive: false,
            shared: self.clone(),
        })
    }

    /// The slots of the ring whose content is lent, published or not.
    fn taken(&self) -> Vec<Range<u64>> {
        let start = self.sizes.payload_start();
        let places = self.segment.places().into_iter();
        places
            // The metadata may be lent too.
            .filter_map(|place| {
                let content = (place.start as u64).checked_sub(start)?;
                Some(content.checked_sub(FRAME_HEADER_SIZE)?..place.end as u64 - start)
            })
            .collect()
    }

    /// Sleeps until the reader gives something back, or for a slice of time.
    fn wait_for_room(&self, waiting: &Waiting, total: u64, lack: Lack, first: bool) -> Result<()> {
        let slice = self.next_slice(waiting, total, lack.free)?;
        let sem_error = |err| self.names.os("waiting for the reader's semaphore", err);
        if self.sem_read.try_wait_briefly().map_err(sem_error)? {
            return Ok(());
        }
        if first {
            self.waits.fetch_add(1, Ordering::Relaxed);
        }
        let want = |bytes| {
            if self.abilities != Abilities::default() {
                extension::want(&self.segment, &self.sizes, bytes);
            }
        };
        let mut state = self.state();
        state.sleeping += 1;
        // With the lock, so that nobody is publishing: see `hand_over`.
        want(lack.wanted);
        drop(state);
        let posted = self.sem_read.wait_timeout(slice);
        let mut state = self.state();
        state.sleeping -= 1;
        want(0);
        drop(state);
        if posted.map_err(sem_error)? {
            Ok(())
        } else {
            self.check_reader()
        }
    }

    fn next_slice(&self, waiting: &Waiting, needed: u64, free: u64) -> Result<Duration> {
        if waiting.is_interrupted() {
            return Err(Error::Interrupted);
        }
        waiting.slice().ok_or_else(|| Error::BufferFull {
            name: self.name(),
            waited: waiting.waited(),
            needed,
            free,
            payload_size: self.sizes.payload,
        })
    }

    /// Publishes a slot; `None` if one behind it was published before it.
    fn publish(&self, slot: SlotId, len: u64) -> Result<Option<u64>> {
        let mut state = self.state();
        self.open(&state)?;
        let sequence = state.sequence;
        let Some(lead) = state.slots.publish(self.sizes.payload, slot) else {
            return Ok(None);
        };
        if let Some((at, bytes)) = lead.block {
            self.store_header(at, 0, BLOCK | bytes)?;
        }
        self.store_header(lead.placement.at, len, sequence)?;
        state.sequence = sequence.wrapping_add(1);
        self.hand_over(&state, &lead)?;
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len, Ordering::Relaxed);
        Ok(Some(sequence))
    }

    /// Publishes what stands in the ring, with what leads the reader to it.
    fn hand_over(&self, state: &State, lead: &Lead) -> Result<()> {
        let oieb = self.oieb().ok_or_else(|| self.names.not_found())?;
        let waits = state.sleeping > 0 || state.wished;
        if waits && self.abilities != Abilities::default() {
            // Who waits for room publishes nothing meanwhile (`reader::Shared::recover`): another
            // thread of ours waits, and will say so again.
            extension::want(&self.segment, &self.sizes, 0);
        }
        if let Some(marker) = lead.placement.marker {
            self.store_header(marker, 0, 0)?;
        }
        for (at, bytes) in lead.skips.into_iter().flatten() {
            self.store_header(at, 0, bytes)?;
        }
        // Nobody is told of a frame that is not there.
        self.there()?;
        let written = handoff::Written {
            free: oieb.word(offset::PAYLOAD_FREE_BYTES),
            write_pos: oieb.word(offset::PAYLOAD_WRITE_POS),
            count: oieb.word(offset::PAYLOAD_WRITTEN_COUNT),
        };
        handoff::publish(&written, &self.sem_write, &lead.placement)
            .map_err(|err| self.names.os("posting the semaphore", err))?;
        self.there()
    }

    fn store_header(&self, at: u64, len: u64, sequence: u64) -> Result<()> {
        let mut header = [0; FRAME_HEADER_SIZE as usize];
        header[..8].copy_from_slice(&len.to_le_bytes());
        header[8..].copy_from_slice(&sequence.to_le_bytes());
        let start = self.sizes.payload_start() + at;
        if self.segment.store(start as usize, &header) {
            Ok(())
        } else {
            Err(self.names.corrupt("a header outside of the ring"))
        }
    }

    fn unreserve(&self, state: &mut State) {
        state.reserved = None;
        // Telling is a system call, also when nobody listens.
        if state.waiting > 0 {
            self.unreserved.notify_one();
        }
    }

    fn close(&self, ended: bool) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        state.closed = true;
        self.unreserved.notify_all();
        let mut again = None;
        if !self.segment.places().is_empty() {
            // What is still lent must neither be seen by the reader from now on nor be changed by
            // the next writer. It takes along its pages, where our pid may lie.
            again = self.segment.again().ok();
            if again.is_none() || self.segment.keep_places().is_err() {
                // No memory: then nobody else may write here before the last of it is gone.
                return;
            }
        }
        let segment = again.as_ref().unwrap_or(&self.segment);
        if let Some(oieb) = Oieb::of(segment) {
            if self.abilities != Abilities::default() {
                extension::note_end(segment, &self.sizes, ended);
            }
            self.bury_reader(oieb);
            handoff::leave(oieb.word(offset::WRITER_PID), process::id());
            if extension::is_noted_writer(segment, &self.sizes, process::id()) {
                extension::note_writer(segment, &self.sizes, 0);
            }
        }
        // After the pid, so that a free lock under our pid means that we died.
        let _ = self.segment.file().unlock_byte(WRITER_LOCK);
        // What is lent keeps the file open: see `Reader::writer_changes`.
        let _ = self.segment.file().touch();
    }
}
