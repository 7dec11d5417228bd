//! The reading end: it makes the buffer, owns it, and lends out the frames in it.

mod config;
mod copies;
mod frame;
mod held;
mod mend;
mod newest;
mod records;
mod replace;
mod writer;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::held::Held;
use super::buffer::{self, Created, Names, Owned};
use super::error::{Error, Result};
use super::extension::WRITER_LOCK;
use super::handoff;
use super::layout::{
    self, FIRST_SEQUENCE, FRAME_HEADER_SIZE, METADATA_PREFIX_SIZE, OIEB_SIZE, Oieb, Sizes, offset,
};
use super::liveness::Watch;
use super::ring::{self, Found, LEAST_BLOCK, NoFrame};
use super::wait::{Wait, Waiting};
use crate::sys::opens::Opens;
use crate::sys::process;
use crate::sys::sem::Semaphore;
use crate::sys::shm::Segment;
use crate::sys::window::Windows;

pub use self::config::BufferConfig;
pub use self::frame::{Frame, Item};
pub use self::writer::WriterState;

/// Makes a buffer and reads the frames that a [`Writer`](super::Writer) puts into it.
///
/// Dropping it closes the buffer and removes it from the system; frames that are still held stay
/// valid. Threads may share a Reader: each frame goes to one of them.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    names: Names,
    segment: Arc<Segment>,
    sizes: Sizes,
    sem_write: Semaphore,
    sem_read: Semaphore,
    writer: Watch,
    position: Mutex<Position>,
    /// What frames are read through.
    windows: Arc<Windows>,
    held: Mutex<Held>,
    /// Whether held frames leave the ring when the writer needs their room.
    evacuates: AtomicBool,
    /// And whether frames are copied when they are read, while nearly all of them would.
    copies: AtomicBool,
    /// Bytes of the largest frame so far, header included.
    largest: AtomicU64,
    evacuated: AtomicU64,
    lock_problem: Option<Arc<io::Error>>,
    /// The objects, until closed.
    owned: Mutex<Option<Owned>>,
    closed: AtomicBool,
    /// The size that the writer has last asked for.
    asked: AtomicU64,
    /// Another Reader has the name, and nobody can attach to this buffer any more.
    replaced: AtomicBool,
    frames: AtomicU64,
    bytes: AtomicU64,
    waits: AtomicU64,
    messages: AtomicU64,
    skipped: AtomicU64,
}

/// Where the reader is. Our own copy; what stands in the OIEB is for others.
#[derive(Debug)]
struct Position {
    at: u64,
    /// The sequence number that is due.
    next: u64,
    /// How many writers' first frames were taken.
    writers: u64,
    /// How often the writer's semaphore was opened, which every writer does when it attaches.
    opens: Option<Opens>,
    /// Some writer has been here.
    writer_came: bool,
    /// Why the stream cannot be followed any more.
    broken: Option<Broken>,
}

#[derive(Clone, Debug)]
enum Broken {
    Sequence { expected: u64, found: u64 },
    Header(String),
    Record(u16),
}

impl Reader {
    /// Makes the buffer `name`.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::InvalidConfig`]; [`Error::ReaderAlreadyConnected`] when a
    /// reader that is alive has the name (it is never taken from it; what a dead one left is
    /// removed); [`Error::NoSpace`] when `/dev/shm` is too small (all of it is reserved now);
    /// [`Error::Permission`]; [`Error::Corrupt`] when the name is that of something else.
    pub fn create(name: &str, config: &BufferConfig) -> Result<Self> {
        let names = Names::new(name)?;
        let sizes = config.sizes()?;
        let created = buffer::create(&names, sizes, config)?;
        Ok(Self::new(names, sizes, created))
    }

    fn new(names: Names, sizes: Sizes, created: Created) -> Self {
        let Created {
            owned,
            segment,
            sem_write,
            sem_read,
            opens,
            lock_problem,
        } = created;
        let windows = Arc::new(Windows::new(segment.clone()));
        Reader {
            shared: Arc::new(Shared {
                names,
                segment,
                sizes,
                sem_write,
                sem_read,
                writer: Watch::new(WRITER_LOCK),
                position: Mutex::new(Position {
                    at: 0,
                    next: FIRST_SEQUENCE,
                    writers: 0,
                    opens,
                    writer_came: false,
                    broken: None,
                }),
                windows,
                held: Mutex::default(),
                evacuates: AtomicBool::new(false),
                copies: AtomicBool::new(true),
                largest: AtomicU64::new(0),
                evacuated: AtomicU64::new(0),
                owned: Mutex::new(Some(owned)),
                lock_problem,
                closed: AtomicBool::new(false),
                asked: AtomicU64::new(0),
                replaced: AtomicBool::new(false),
                frames: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                waits: AtomicU64::new(0),
                messages: AtomicU64::new(0),
                skipped: AtomicU64::new(0),
            }),
        }
    }

    /// The name of the buffer.
    pub fn name(&self) -> &str {
        &self.shared.names.name
    }

    /// Why the buffer has no lock file in [`LOCK_FOLDER`](super::LOCK_FOLDER), if it has none. It
    /// works all the same, but readers of other implementations may not see that the name is taken.
    pub fn lock_problem(&self) -> Option<&io::Error> {
        self.shared.lock_problem.as_deref()
    }

    /// Bytes of the metadata block.
    pub fn metadata_size(&self) -> u64 {
        self.shared.sizes.metadata
    }

    /// Bytes of the ring.
    pub fn payload_size(&self) -> u64 {
        self.shared.sizes.payload
    }

    /// The next frame, in place. A frame lends its room in the ring until it is dropped. Messages
    /// before it are passed over: [`Reader::read`] gives them too.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::Interrupted`]; [`Error::WriterClosed`] and
    /// [`Error::WriterDead`] once all frames of that writer are read (the next writer may still
    /// come: call again); [`Error::Sequence`] and [`Error::Corrupt`] when the writer breaks the
    /// protocol or takes the shared memory away (from then on always); [`Error::Closed`].
    pub fn read_frame<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<Frame> {
        let waiting = wait.into().start();
        let mut passed = 0;
        loop {
            match self.next(&waiting, false)? {
                Item::Frame(frame) => return Ok(frame),
                Item::Resize(_) => self.keep_size(),
                Item::Skipped { .. } | Item::Message(_) => {}
            }
            // Also when the time is over all messages are passed over that are there, but not those
            // without end of a writer that sends nothing else.
            passed += LEAST_BLOCK;
            if passed > self.payload_size() && waiting.slice().is_none() {
                return Err(Error::Timeout {
                    name: self.name().into(),
                    waited: waiting.waited(),
                });
            }
        }
    }

    /// With `newest` frames before the newest are skipped.
    fn next(&self, waiting: &Waiting, newest: bool) -> Result<Item> {
        let shared = &self.shared;
        let mut waited = false;
        let mut slices = 0;
        loop {
            if waiting.is_interrupted() {
                return Err(Error::Interrupted);
            }
            shared.usable()?;
            if shared.has_post()?
                && let Some(item) = self.take_announced(newest)?
            {
                return Ok(item);
            }
            let slice = waiting.slice();
            // Acquire in both: if the writer is gone, all its posts have been made, so a semaphore
            // that is empty after this look says that all its frames have been read. Whether a
            // writer lives is only asked when a slice of time has passed without a post.
            let state = if waited || slice.is_none() || !shared.has_writer() {
                shared.writer_state()
            } else {
                WriterState::Connected { pid: 0 }
            };
            let gone = matches!(state, WriterState::Closed | WriterState::Dead { .. });
            let sleep = if gone { None } else { slice };
            if sleep.is_some() && !std::mem::replace(&mut waited, true) {
                shared.waits.fetch_add(1, Ordering::Relaxed);
            }
            if shared.evacuates.load(Ordering::Relaxed) {
                shared.make_room(waiting, slices);
                slices += 1;
            }
            if shared.wait_write(sleep.unwrap_or_default())? {
                if let Some(item) = self.take_announced(newest)? {
                    return Ok(item);
                }
                if sleep.is_some() {
                    continue;
                }
            }
            match state {
                WriterState::Dead { pid } => shared.mend(pid),
                // One before it may have died.
                WriterState::Closed => shared.mend(0),
                _ => {}
            }
            if (gone || shared.is_writer_ours())
                && let Some(item) = self.take(false, newest)?
            {
                return Ok(item);
            }
            shared.recover();
            // Who is gone may be an end that has taken the memory away.
            shared.there()?;
            let name = || shared.names.name.clone();
            match state {
                WriterState::Closed => return Err(Error::WriterClosed { name: name() }),
                WriterState::Dead { pid } => return Err(Error::WriterDead { name: name(), pid }),
                _ if slice.is_none() => {
                    return Err(Error::Timeout {
                        name: name(),
                        waited: waiting.waited(),
                    });
                }
                _ => {}
            }
        }
    }

    /// The frames until the writer closes the stream; each `next` waits at most so long.
    pub fn frames<'a>(
        &'a self,
        wait: impl Into<Wait<'a>>,
    ) -> impl Iterator<Item = Result<Frame>> + 'a {
        let wait = wait.into();
        std::iter::from_fn(move || match self.read_frame(wait) {
            Err(Error::WriterClosed { .. }) => None,
            other => Some(other),
        })
    }

    /// With a post that was taken: the next frame or message, if there is one. If not, all posts that
    /// there are announce nothing. There may be thousands of millions, which would take minutes one
    /// by one.
    fn take_announced(&self, newest: bool) -> Result<Option<Item>> {
        let item = self.take(true, newest)?;
        if item.is_some() {
            return Ok(item);
        }
        let sem = &self.shared.sem_write;
        let sem_error = |err| {
            self.shared
                .names
                .os("looking at the writer's semaphore", err)
        };
        // Before the second look: what these announce is there then, since it was before they were.
        let posts = sem.value().map_err(sem_error)?;
        let item = self.take(true, newest)?;
        if item.is_none() && posts > 0 {
            sem.forget(posts).map_err(sem_error)?;
        }
        Ok(item)
    }

    /// Takes the next frame or message; `None` if there is none after all.
    ///
    /// One that is not `announced` by a post is what a writer left that died before its post. It is
    /// taken if it is whole; if it is not, nobody said that it would be.
    fn take(&self, announced: bool, newest: bool) -> Result<Option<Item>> {
        let shared = &self.shared;
        let mut position = shared.position();
        if let Some(broken) = &position.broken {
            return Err(shared.broken(broken));
        }
        let unread = shared.unread(position.at);
        // A semaphore posted more often than there are frames is no reason to stop, nor to take again
        // what was read before.
        if unread == 0 && (!announced || shared.is_empty(position.at)) {
            return Ok(None);
        }
        let found = ring::find(shared.sizes.payload, position.at, |at| shared.header(at));
        let found = match found {
            // A post too many, or none at all, before the writer says that the frame is whole.
            Ok(found) if unread != 0 && found.cost() > unread => return Ok(None),
            // Messages have no number.
            Ok(found) if found.message => found,
            Ok(found) if found.sequence == position.next => found,
            // A new writer starts again at 1.
            Ok(found)
                if found.sequence == FIRST_SEQUENCE
                    && position.new_writer_came(shared.attachments()) =>
            {
                found
            }
            _ if !announced => return Ok(None),
            Ok(found) => {
                let broken = Broken::Sequence {
                    expected: position.next,
                    found: found.sequence,
                };
                return Err(shared.break_off(&mut position, broken));
            }
            Err(why) => {
                let what = match why {
                    NoFrame::Empty => "a frame without content".into(),
                    NoFrame::Overlong(len) => format!("a frame of {len} bytes"),
                    NoFrame::Block(len) => format!("a block of records of {len} bytes"),
                };
                let broken = Broken::Header(format!("{what} at position {}", position.at));
                return Err(shared.break_off(&mut position, broken));
            }
        };
        let records = shared.records(&mut position, &found)?;
        if found.message {
            return Ok(Some(shared.take_message(position, &found, records)));
        }
        if newest && shared.is_newer_there(found.end(), found.sequence) {
            return Ok(Some(shared.skip(position, &found, records)));
        }
        let start = shared.sizes.payload_start() + found.end() - found.len;
        let (start, len) = (start as usize, found.len as usize);
        let place = shared.place(start, len)?;
        shared.pass(&mut position, &found);
        shared.frames.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(found.len, Ordering::Relaxed);
        let ticket = shared.hand_out(&found, &place);
        drop(position);
        let bytes = shared.settle(place, start, ticket)?;
        // A copy would have been made of what is not there.
        shared.there()?;
        if found.sequence == FIRST_SEQUENCE {
            // While it lives: a writer that was never looked at is not known to be dead for long.
            shared.writer_state();
        }
        Ok(Some(Item::Frame(Frame {
            bytes,
            sequence: found.sequence,
            records,
            ticket,
            shared: shared.clone(),
        })))
    }

    /// A copy of the metadata; `None` while the writer has not written any.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when its length makes no sense.
    pub fn metadata(&self) -> Result<Option<Vec<u8>>> {
        let shared = &self.shared;
        // With the `announce` in `MetadataReservation::commit`: the bytes are there.
        let written = shared.oieb().map_or(0, |oieb| {
            handoff::look(oieb.word(offset::METADATA_WRITTEN_BYTES))
        });
        shared.there()?;
        if written == 0 {
            return Ok(None);
        }
        let mut prefix = [0; METADATA_PREFIX_SIZE as usize];
        let prefixed = shared.segment.load(OIEB_SIZE as usize, &mut prefix);
        let len = u64::from_le_bytes(prefix);
        let end = len.checked_add(METADATA_PREFIX_SIZE);
        if !prefixed || written > shared.sizes.metadata || end.is_none_or(|end| end > written) {
            return Err(shared.names.corrupt(format!(
                "{written} bytes of metadata with a length of {len}"
            )));
        }
        let mut metadata = vec![0; len as usize];
        let start = OIEB_SIZE + METADATA_PREFIX_SIZE;
        if !shared.segment.load(start as usize, &mut metadata) {
            return Err(shared.names.corrupt("metadata outside of its block"));
        }
        shared.there()?;
        Ok(Some(metadata))
    }

    /// Frames read so far.
    pub fn frames_read(&self) -> u64 {
        self.shared.frames.load(Ordering::Relaxed)
    }

    /// Bytes of content read so far.
    pub fn bytes_read(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// How often a frame had to be waited for.
    pub fn waits(&self) -> u64 {
        self.shared.waits.load(Ordering::Relaxed)
    }

    /// Bytes of the ring that are not free: frames written and not yet given back.
    pub fn used_bytes(&self) -> u64 {
        let free = self.shared.free_bytes();
        self.shared.sizes.payload.saturating_sub(free)
    }

    /// Closes the buffer unless a writer has attached or frames are there to be read; tells whether
    /// it did. For a reader that makes a new buffer for the next writer and must not lose one that
    /// came just before.
    pub fn close_if_unused(&self) -> bool {
        let shared = &self.shared;
        let Some(oieb) = shared.oieb() else {
            return false;
        };
        let used = || {
            matches!(shared.writer_state(), WriterState::Connected { .. })
                || shared.sem_write.value().is_ok_and(|posts| posts > 0)
        };
        if used() {
            return false;
        }
        // Acquire, with the Release in `Reader::replace`.
        if shared.replaced.load(Ordering::Acquire) {
            self.close();
            return true;
        }
        // From here on nobody attaches (SeqCst: see `buffer::attach`); who came before is seen.
        let word = oieb.word(offset::READER_PID);
        word.store(0, Ordering::SeqCst);
        if used() {
            word.store(process::id(), Ordering::SeqCst);
            return false;
        }
        self.close();
        true
    }

    /// Closes the buffer and removes it from the system. Frames that are held stay valid.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owned(&self) -> MutexGuard<'_, Option<Owned>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn oieb(&self) -> Option<Oieb<'_>> {
        Oieb::of(&self.segment)
    }

    fn free_bytes(&self) -> u64 {
        // Acquire, with the Release in `handoff::publish`: what the writer took room for is seen.
        self.oieb().map_or(0, |oieb| {
            oieb.word(offset::PAYLOAD_FREE_BYTES)
                .load(Ordering::Acquire)
        })
    }

    fn usable(&self) -> Result<()> {
        // Acquire, with the Release in `close`.
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed {
                name: self.names.name.clone(),
            });
        }
        self.there()?;
        match &self.position().broken {
            Some(broken) => Err(self.broken(broken)),
            None => Ok(()),
        }
    }

    /// Whether all that was touched of the shared memory was there. If not, what was read of it last
    /// may be zeros.
    fn there(&self) -> Result<()> {
        if self.segment.is_gone() {
            return Err(self.names.gone());
        }
        Ok(())
    }

    /// Takes one post of the writer that is there, or comes as soon as those before did.
    fn has_post(&self) -> Result<bool> {
        (self.sem_write.try_wait_briefly())
            .map_err(|err| self.names.os("looking at the writer's semaphore", err))
    }

    /// Takes one post of the writer. The semaphore orders: what the writer stored before its post
    /// is seen after this (Release in sem_post, Acquire in sem_wait).
    fn wait_write(&self, time: std::time::Duration) -> Result<bool> {
        if time.is_zero() {
            self.sem_write.try_wait()
        } else {
            self.sem_write.wait_timeout(time)
        }
        .map_err(|err| self.names.os("waiting for the writer's semaphore", err))
    }

    fn header(&self, at: u64) -> (u64, u64) {
        let mut bytes = [0; FRAME_HEADER_SIZE as usize];
        let start = self.sizes.payload_start() + at;
        // Outside of the ring it reads as 0: no frame.
        let _ = self.segment.load(start as usize, &mut bytes);
        layout::header(&bytes)
    }

    /// Whether the ring holds nothing that has not been handed out.
    fn is_empty(&self, at: u64) -> bool {
        let Some(oieb) = self.oieb() else { return true };
        let write = handoff::look(oieb.word(offset::PAYLOAD_WRITE_POS));
        // Equal positions are an empty ring or a full one; the free bytes tell which.
        let size = self.sizes.payload;
        let held = self.held().credits.bytes();
        write % size == at % size && self.free_bytes().wrapping_add(held) == size
    }

    /// Bytes from `at` to where the writer says that it is. Where that is the same place the ring is
    /// empty or full, and this is 0.
    fn unread(&self, at: u64) -> u64 {
        let size = self.sizes.payload;
        let write = self.oieb().map_or(at, |oieb| {
            handoff::look(oieb.word(offset::PAYLOAD_WRITE_POS))
        });
        if write > size || write % size == at % size {
            0
        } else if write > at {
            write - at
        } else {
            size - at + write
        }
    }

    /// Goes on behind a frame.
    fn pass(&self, position: &mut Position, found: &Found) {
        position.at = found.end();
        position.next = found.sequence.wrapping_add(1);
        position.writers += u64::from(found.sequence == FIRST_SEQUENCE);
        position.writer_came = true;
        self.note_read(found);
    }

    /// For others to see; we go by our own copies.
    fn note_read(&self, found: &Found) {
        if let Some(oieb) = self.oieb() {
            // After an exact fit this is the size itself until the next frame: Python's writer
            // takes 0 for a reader that has not begun.
            // Release, with the Acquire in `Writer::is_all_read`.
            oieb.word(offset::PAYLOAD_READ_POS)
                .store(found.end(), Ordering::Release);
            oieb.word(offset::PAYLOAD_READ_COUNT)
                .fetch_add(1 + u64::from(found.marker), Ordering::Release);
        }
    }

    fn break_off(&self, position: &mut Position, broken: Broken) -> Error {
        if let Err(gone) = self.there() {
            return gone;
        }
        let error = self.broken(&broken);
        position.broken = Some(broken);
        error
    }

    fn broken(&self, broken: &Broken) -> Error {
        match broken {
            Broken::Sequence { expected, found } => Error::Sequence {
                name: self.names.name.clone(),
                expected: *expected,
                found: *found,
            },
            Broken::Header(what) => self.names.corrupt(what.clone()),
            Broken::Record(kind) => Error::UnknownRecord {
                name: self.names.name.clone(),
                kind: *kind,
            },
        }
    }

    fn close(&self) {
        // Release, with the Acquire in `usable` and `credit`.
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.windows.clear_spares();
        if let Some(oieb) = self.oieb() {
            // Release, with the Acquire in `has_reader`, `check_reader` and `confirm_closed` of the writer.
            oieb.word(offset::READER_PID).store(0, Ordering::Release);
        }
        drop(self.owned().take());
    }
}
