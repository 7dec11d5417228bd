//! The writing end: it attaches to a buffer that a reader made, and fills it.

mod ahead;
mod records;

use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::buffer::{self, Attached, Names};
use super::error::{Error, Result};
use super::extension::{self, Abilities, WRITER_LOCK};
use super::handoff;
use super::layout::{
    FIRST_SEQUENCE, FRAME_HEADER_SIZE, METADATA_PREFIX_SIZE, OIEB_SIZE, Oieb, Sizes, offset,
};
use super::liveness::{Hints, Patience, Watch};
use super::ring::{self, BLOCK, Fit};
use super::slots::{Lead, Site, SlotId, Slots, Spot, Want};
use super::wait::{Wait, Waiting};
use crate::sys::process;
use crate::sys::sem::Semaphore;
use crate::sys::shm::{Place, Segment};
use records::Room;

pub use ahead::Turn;

/// How long [`Writer::write_frame`] waits for room unless told otherwise, as in the other
/// implementations.
pub const DEFAULT_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a writer that finds room makes sure that its reader is alive.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How often, and how far apart, a reader that seems to have closed is looked at again.
const CLOSED_TRIES: u32 = 20;
const CLOSED_INTERVAL: Duration = Duration::from_millis(1);

/// How often [`Writer::attach_wait`] looks for a buffer that is not there yet.
const ATTACH_INTERVAL: Duration = Duration::from_millis(5);

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
    /// Who holds a place that is neither committed nor dropped.
    reserved: Option<ThreadId>,
    /// Threads that wait for that.
    waiting: usize,
    /// Threads that sleep until the reader posts.
    sleeping: usize,
    /// Whether one that looks for room again and again has said what it waits for.
    wished: bool,
    /// When the reader was last looked at.
    looked: Instant,
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
    /// Attaches to the buffer `name`, which its reader has made.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; [`Error::BufferNotFound`], [`Error::ReaderClosed`] and
    /// [`Error::ReaderDead`] when there is no reader (yet); [`Error::WriterAlreadyConnected`];
    /// [`Error::Permission`]; [`Error::Version`] and [`Error::Corrupt`] when it is something else.
    pub fn attach(name: &str) -> Result<Self> {
        Self::try_attach(name, &mut Patience::default())
    }

    fn try_attach(name: &str, patience: &mut Patience) -> Result<Self> {
        let names = Names::new(name)?;
        let Attached {
            segment,
            sizes,
            abilities,
            sem_write,
            sem_read,
            reader,
        } = buffer::attach(&names, patience)?;
        let writer = Writer {
            shared: Arc::new(Shared {
                names,
                sizes,
                abilities,
                sem_write,
                sem_read,
                reader,
                state: Mutex::new(State {
                    slots: Slots::default(),
                    sequence: FIRST_SEQUENCE,
                    metadata_written: false,
                    reserved: None,
                    waiting: 0,
                    sleeping: 0,
                    wished: false,
                    looked: Instant::now(),
                    room: Room::default(),
                    closed: false,
                }),
                unreserved: Condvar::new(),
                leaving: AtomicBool::new(false),
                frames: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                waits: AtomicU64::new(0),
                messages: AtomicU64::new(0),
                records_dropped: AtomicU64::new(0),
                segment,
            }),
        };
        // From here on dropping the writer takes our pid out again.
        let shared = &writer.shared;
        if let Some(oieb) = shared.oieb() {
            let mut state = shared.state();
            let at = handoff::look(oieb.word(offset::PAYLOAD_WRITE_POS));
            state.slots = Slots::new(at);
            state.metadata_written = oieb.get(offset::METADATA_WRITTEN_BYTES) > 0;
            if at > shared.sizes.payload {
                let what = format!("the writer's position {at} is outside of the ring");
                drop(state);
                return Err(shared.names.corrupt(what));
            }
        }
        Ok(writer)
    }

    /// The process id of the reader of buffer `name`, if there is one and it is alive; in its own pid
    /// namespace. Only looks: nothing is attached to, and the buffer may have a writer.
    ///
    /// # Errors
    /// As [`Writer::attach`], but for [`Error::WriterAlreadyConnected`].
    pub fn find_reader(name: &str) -> Result<u64> {
        buffer::find_reader(&Names::new(name)?)
    }

    /// Attaches as soon as there is a reader.
    ///
    /// # Errors
    /// As [`Writer::attach`], but while there is no reader it waits, and also while the buffer has a
    /// writer of another implementation whose process cannot be seen from here: that one counts as
    /// dead when it has done nothing for 5 seconds. [`Error::Interrupted`]; when the time is over,
    /// the reason why it could not attach.
    pub fn attach_wait<'a>(name: &str, wait: impl Into<Wait<'a>>) -> Result<Self> {
        Self::attach_wait_if(name, wait, |_| Ok(true))
    }

    /// Attaches as soon as there is a reader whose buffer `suits` takes; one that it does not take
    /// is left again, and the reader's next one is waited for.
    ///
    /// # Errors
    /// As [`Writer::attach_wait`], and those of `suits`.
    pub fn attach_wait_if<'a>(
        name: &str,
        wait: impl Into<Wait<'a>>,
        suits: impl Fn(&Writer) -> Result<bool>,
    ) -> Result<Self> {
        let waiting = wait.into().start();
        let mut patience = Patience::default();
        loop {
            let attached = Self::try_attach(name, &mut patience);
            let err = match attached.and_then(|writer| Ok((suits(&writer)?, writer))) {
                Ok((true, writer)) => return Ok(writer),
                Ok((false, writer)) => writer.shared.metadata_written(),
                Err(err) if err.is_no_reader() => err,
                Err(err @ Error::WriterAlreadyConnected { .. }) if patience.is_needed() => err,
                Err(err) => return Err(err),
            };
            if waiting.is_interrupted() {
                return Err(Error::Interrupted);
            }
            if waiting.slice().is_none() {
                return Err(err);
            }
            waiting.sleep(ATTACH_INTERVAL);
        }
    }

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

    /// Whether this buffer has its metadata, from us or from a writer before.
    pub fn is_metadata_written(&self) -> bool {
        self.shared.state().metadata_written
    }

    /// A copy of the metadata that the buffer has, from us or from a writer before.
    pub fn metadata(&self) -> Option<Vec<u8>> {
        let mut prefix = [0; METADATA_PREFIX_SIZE as usize];
        if !self.is_metadata_written() || !self.shared.segment.load(OIEB_SIZE as usize, &mut prefix)
        {
            return None;
        }
        let room = self
            .shared
            .sizes
            .metadata
            .checked_sub(METADATA_PREFIX_SIZE)?;
        let len = Some(u64::from_le_bytes(prefix)).filter(|len| *len <= room)?;
        let mut bytes = vec![0; len as usize];
        let start = OIEB_SIZE + METADATA_PREFIX_SIZE;
        self.shared
            .segment
            .load(start as usize, &mut bytes)
            .then_some(bytes)
    }

    /// Writes the metadata of the stream: once, and before the first frame.
    ///
    /// # Errors
    /// [`Error::MetadataAlreadyWritten`], [`Error::MetadataTooLate`], [`Error::MetadataTooLarge`],
    /// [`Error::Closed`].
    pub fn set_metadata(&self, metadata: &[u8]) -> Result<()> {
        let mut place = self.reserve_metadata(metadata.len() as u64)?;
        place.copy_from_slice(metadata);
        place.commit()
    }

    /// Lends room for metadata of exactly `len` bytes, to be filled in place.
    ///
    /// # Errors
    /// As [`Writer::set_metadata`]; [`Error::ReservationPending`] while one is lent.
    pub fn reserve_metadata(&self, len: u64) -> Result<MetadataReservation> {
        let shared = &self.shared;
        let state = shared.state();
        shared.open(&state)?;
        if state.metadata_written {
            return Err(shared.metadata_written());
        }
        if state.sequence != FIRST_SEQUENCE {
            return Err(Error::MetadataTooLate {
                name: shared.name(),
            });
        }
        let needed = len.saturating_add(METADATA_PREFIX_SIZE);
        if needed > shared.sizes.metadata {
            return Err(Error::MetadataTooLarge {
                name: shared.names.name.clone(),
                size: len,
                metadata_size: shared.sizes.metadata,
                good_size: needed.checked_next_multiple_of(64).unwrap_or(needed),
            });
        }
        let start = OIEB_SIZE + METADATA_PREFIX_SIZE;
        let place = shared
            .segment
            .place(start as usize, len as usize)
            .ok_or(Error::ReservationPending)?;
        Ok(MetadataReservation {
            place,
            shared: shared.clone(),
        })
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

    /// Makes sure that the reader is there, and now and then (every 50 ms) that it is alive: for
    /// writers that only publish what was lent ahead.
    ///
    /// # Errors
    /// [`Error::ReaderClosed`], [`Error::ReaderDead`].
    pub fn look_at_reader(&self) -> Result<()> {
        let mut state = self.shared.state();
        if self.reader_pid() != 0 && state.looked.elapsed() <= LOOK_INTERVAL {
            return Ok(());
        }
        state.looked = Instant::now();
        drop(state);
        self.check_reader()
    }

    /// As [`Writer::look_at_reader`], but looks now.
    ///
    /// # Errors
    /// [`Error::ReaderClosed`], [`Error::ReaderDead`], [`Error::ReaderReplaced`].
    pub fn check_reader(&self) -> Result<()> {
        self.shared.confirm_closed()?;
        self.shared.check_reader()
    }

    /// Whether the reader is there, and alive.
    pub fn is_reader_connected(&self) -> bool {
        self.shared.check_reader().is_ok()
    }

    /// The reader's process id, in its own pid namespace; 0 when it has closed.
    pub fn reader_pid(&self) -> u64 {
        self.shared
            .oieb()
            .map_or(0, |oieb| oieb.get(offset::READER_PID))
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

    fn metadata_written(&self) -> Error {
        Error::MetadataAlreadyWritten { name: self.name() }
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

    /// Whether there is a reader; one that has closed may come back (`confirm_closed`).
    fn has_reader(&self) -> Result<()> {
        let oieb = self.oieb().ok_or_else(|| self.names.not_found())?;
        let pid = oieb.word(offset::READER_PID).load(Ordering::Acquire);
        self.there()?;
        match pid {
            0 => Err(Error::ReaderClosed { name: self.name() }),
            _ => Ok(()),
        }
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
        if all <= size && !(state.slots.is_empty() && taken.is_empty()) {
            // Only for a reader that follows skips: nothing else is ever lent at this moment.
            let want = Want::packed(room, total);
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

    fn check_reader(&self) -> Result<()> {
        let oieb = self.oieb().ok_or_else(|| self.names.not_found())?;
        let word = oieb.word(offset::READER_PID);
        let pid = word.load(Ordering::Acquire);
        let hints = Hints {
            holds_lock: self.abilities.holds_lock(),
            progress: oieb.get(offset::PAYLOAD_READ_COUNT),
            lock_file: Some(&self.names.lock),
        };
        let dead = pid != 0 && self.reader.is_dead(&self.segment, pid, hints);
        let now = word.load(Ordering::Acquire);
        if now == 0 || !self.segment.file().is_linked() {
            Err(self.reader_gone())
        } else if dead {
            Err(Error::ReaderDead {
                name: self.name(),
                pid,
            })
        } else {
            self.there()
        }
    }

    /// A reader that wants to close may find that we have just come, and stay
    /// (`Reader::close_if_unused`): only one whose buffer is also gone has closed.
    fn confirm_closed(&self) -> Result<()> {
        let oieb = self.oieb().ok_or_else(|| self.names.not_found())?;
        for _ in 0..CLOSED_TRIES {
            if oieb.word(offset::READER_PID).load(Ordering::Acquire) != 0 {
                return Ok(());
            }
            if !self.segment.file().is_linked() {
                break;
            }
            thread::sleep(CLOSED_INTERVAL);
        }
        Err(self.reader_gone())
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
            handoff::leave(oieb.word(offset::WRITER_PID), process::id());
            if extension::is_noted_writer(segment, &self.sizes, process::id()) {
                extension::note_writer(segment, &self.sizes, 0);
            }
        }
        // After the pid, so that a free lock under our pid means that we died.
        let _ = self.segment.file().unlock_byte(WRITER_LOCK);
    }
}

/// Room in the ring for one frame, lent by [`Writer::reserve`] or [`Writer::reserve_ahead`].
#[derive(Debug)]
#[must_use = "a frame that is not committed is not sent"]
pub struct Reservation {
    /// `None` once committed.
    place: Option<Place>,
    /// `None` once published.
    slot: Option<SlotId>,
    /// Whether others have to wait until it is published or dropped.
    exclusive: bool,
    shared: Arc<Shared>,
}

impl Reservation {
    /// Publishes the frame and returns its sequence number.
    ///
    /// # Errors
    /// [`Error::Closed`] when the writer was closed meanwhile; [`Error::OutOfOrder`].
    pub fn commit(mut self) -> Result<u64> {
        let len = self.len() as u64;
        let slot = self.slot.take();
        // The slice ends before the reader may see the bytes.
        drop(self.place.take());
        self.publish_slot(slot, len)
    }

    /// Publishes the frame and returns its sequence number. If it was lent ahead it keeps the room:
    /// its bytes stay as they are for as long as this lives, and must not be changed any more.
    ///
    /// # Errors
    /// [`Error::Closed`] when the writer was closed meanwhile; [`Error::OutOfOrder`] when a frame
    /// reserved after this one has been published, or has a place before this one: it has to be
    /// copied to a place behind that.
    pub fn publish(&mut self) -> Result<u64> {
        let len = self.len() as u64;
        let slot = self.slot.take();
        if self.exclusive {
            // Room that is kept can only be left out by a reader that follows skips.
            drop(self.place.take());
        }
        self.publish_slot(slot, len)
    }

    fn publish_slot(&self, slot: Option<SlotId>, len: u64) -> Result<u64> {
        let published = slot.map_or(Ok(None), |slot| self.shared.publish(slot, len));
        if self.exclusive {
            self.shared.unreserve(&mut self.shared.state());
        }
        published?.ok_or(Error::OutOfOrder)
    }

    /// Whether it was lent by this writer, and not yet published.
    pub fn is_pending_for(&self, writer: &Writer) -> bool {
        self.slot.is_some() && Arc::ptr_eq(&self.shared, &writer.shared)
    }
}

impl Deref for Reservation {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.place.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Reservation {
    /// Nothing once it is published: the reader looks at the bytes.
    fn deref_mut(&mut self) -> &mut [u8] {
        match (&mut self.place, self.slot) {
            (Some(place), Some(_)) => place,
            _ => &mut [],
        }
    }
}

impl AsMut<[u8]> for Reservation {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        drop(self.place.take());
        if let Some(slot) = self.slot.take() {
            let mut state = self.shared.state();
            state.slots.cancel(slot);
            if self.exclusive {
                self.shared.unreserve(&mut state);
            }
        }
    }
}

/// Room for the metadata, lent by [`Writer::reserve_metadata`].
#[derive(Debug)]
#[must_use = "metadata that is not committed is not sent"]
pub struct MetadataReservation {
    place: Place,
    shared: Arc<Shared>,
}

impl MetadataReservation {
    /// Publishes the metadata.
    ///
    /// # Errors
    /// [`Error::MetadataAlreadyWritten`], [`Error::Closed`].
    pub fn commit(self) -> Result<()> {
        let MetadataReservation { place, shared } = self;
        let len = place.len() as u64;
        drop(place);
        let mut state = shared.state();
        shared.open(&state)?;
        if state.metadata_written {
            return Err(shared.metadata_written());
        }
        if state.sequence != FIRST_SEQUENCE {
            return Err(Error::MetadataTooLate {
                name: shared.name(),
            });
        }
        let oieb = shared.oieb().ok_or_else(|| shared.names.not_found())?;
        if !shared.segment.store(OIEB_SIZE as usize, &len.to_le_bytes()) {
            return Err(shared.names.corrupt("there is no room for metadata"));
        }
        let written = METADATA_PREFIX_SIZE + len;
        oieb.set(offset::METADATA_FREE_BYTES, shared.sizes.metadata - written);
        // With the `look` in `Reader::metadata`.
        handoff::announce(oieb.word(offset::METADATA_WRITTEN_BYTES), written);
        state.metadata_written = true;
        shared.there()
    }
}

impl Deref for MetadataReservation {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.place
    }
}

impl DerefMut for MetadataReservation {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.place
    }
}
