//! The reading end: it makes the buffer, owns it, and lends out the frames in it.

mod copies;
mod newest;
mod records;
mod replace;

use std::collections::VecDeque;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::copies::{Fates, Place};
use super::buffer::{self, Created, Names, Owned};
use super::error::{Error, Result};
use super::extension::records::Records;
use super::extension::{self, WRITER_LOCK};
use super::handoff;
use super::layout::{FIRST_SEQUENCE, METADATA_PREFIX_SIZE, OIEB_SIZE, Oieb, Sizes, offset};
use super::liveness::{Hints, Watch};
use super::ring::{self, Credit, Credits, Fit, Found, LEAST_BLOCK, NoFrame, Tails, Ticket};
use super::wait::{Interrupt, Wait, Waiting};
use crate::sys::access::{Access, group_id};
use crate::sys::opens::Opens;
use crate::sys::process;
use crate::sys::sem::Semaphore;
use crate::sys::shm::Segment;
use crate::sys::window::{Copied, Loan, LoanKey, Windows};

/// After how many slices of time (a second) without a frame a v1 writer may be waiting for more room
/// than its frames so far needed.
const LONG_SILENCE: u32 = 50;

/// How a buffer is made. The default is that of the other implementations: 1024 bytes for
/// metadata, 1 MiB for frames; permissions 0600.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferConfig {
    /// Bytes for metadata, 8 of them for its length; rounded up to a multiple of 64.
    pub metadata_size: u64,
    /// Bytes for frames, 16 a frame for its header; rounded up to a multiple of 64.
    pub payload_size: u64,
    /// Permissions of the shared objects, applied whatever the umask.
    pub permissions: u32,
    /// Group of the shared objects, by its number; `None` for that of the process.
    pub group: Option<u32>,
    /// Whether the writer may ask for another size: then the reader answers [`Item::Resize`] with
    /// [`Reader::replace`] or [`Reader::keep_size`].
    pub resizes: bool,
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self::new(1024, 1024 * 1024)
    }
}

impl BufferConfig {
    /// These sizes, in bytes, and permissions 0600.
    pub fn new(metadata_size: u64, payload_size: u64) -> Self {
        BufferConfig {
            metadata_size,
            payload_size,
            permissions: 0o600,
            group: None,
            resizes: false,
        }
    }

    /// With a promise to the writer that the buffer is made anew when it asks for another size.
    pub fn with_resizing(self) -> Self {
        BufferConfig {
            resizes: true,
            ..self
        }
    }

    /// Other permissions, such as 0o666 for writers of any user.
    pub fn with_permissions(self, permissions: u32) -> Self {
        BufferConfig {
            permissions,
            ..self
        }
    }

    /// Another group, by its name or number: with permissions 0o660, for writers of that group.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if there is no such group. That this user may not give files to it
    /// is known when the buffer is made.
    pub fn with_group(self, group: &str) -> Result<Self> {
        let id = group_id(group).ok_or_else(|| Error::InvalidConfig {
            why: format!("there is no group '{group}'"),
        })?;
        Ok(BufferConfig {
            group: Some(id),
            ..self
        })
    }

    pub(super) fn access(&self) -> Access {
        Access {
            mode: self.permissions,
            group: self.group,
        }
    }

    fn sizes(&self) -> Result<Sizes> {
        let invalid = |why: &str| Error::InvalidConfig { why: why.into() };
        if self.metadata_size == 0 {
            return Err(invalid("the metadata size must be at least 1"));
        }
        if self.payload_size == 0 {
            return Err(invalid("the payload size must be at least 1"));
        }
        if self.permissions & !0o777 != 0 || self.permissions & 0o600 != 0o600 {
            return Err(invalid(
                "the permissions must be 0600 to 0777 with reading and writing for the owner",
            ));
        }
        Sizes::rounded(self.metadata_size, self.payload_size)
            .ok_or_else(|| invalid("the sizes are larger than any address space"))
    }
}

/// The writer of a buffer, as its reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// None has come yet.
    None,
    /// It is there.
    Connected {
        /// Its process id, in its own pid namespace.
        pid: u64,
    },
    /// It closed the stream; frames may still be there to be read.
    Closed,
    /// It ended without closing; frames may still be there to be read.
    Dead {
        /// The process id that it had.
        pid: u64,
    },
}

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

/// Frames that were handed out and have not come back.
#[derive(Debug, Default)]
struct Held {
    credits: Credits,
    /// What was lent with them, the oldest first; also of frames that have come back before an
    /// older one.
    loans: VecDeque<(Ticket, LoanKey)>,
    fates: Fates,
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

    /// What is known of the writer now.
    pub fn writer(&self) -> WriterState {
        self.shared.writer_state()
    }

    /// Whether there is a writer, and alive.
    pub fn is_writer_connected(&self) -> bool {
        matches!(self.writer(), WriterState::Connected { .. })
    }

    /// Waits until a writer attaches.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Interrupted`], [`Error::Closed`].
    pub fn wait_for_writer<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<()> {
        let waiting = wait.into().start();
        while !self.is_writer_connected() {
            self.shared.usable()?;
            if waiting.is_interrupted() {
                return Err(Error::Interrupted);
            }
            let Some(slice) = waiting.slice() else {
                return Err(Error::Timeout {
                    name: self.name().into(),
                    waited: waiting.waited(),
                });
            };
            waiting.sleep(slice);
        }
        Ok(())
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

    /// Frames handed out and not yet given back to the writer.
    pub fn frames_held(&self) -> usize {
        self.shared.held().credits.frames()
    }

    /// Whether frames that are held leave the ring when the writer needs their room (default: no,
    /// the writer waits). A frame that leaves is copied and stays where it is in memory, with the
    /// bytes that it has; so nobody who holds frames can stop the stream. It happens in
    /// [`Reader::read_frame`], before that waits. While nearly all frames are held for so long, they
    /// are copied when they are read instead, which is cheaper; also then each is copied once.
    pub fn set_evacuation(&self, evacuate: bool) {
        let shared = &self.shared;
        shared.evacuates.store(evacuate, Ordering::Relaxed);
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

impl Position {
    /// Whether there may be a writer whose first frame has not been taken. It can have come and the
    /// one before it gone without our looking, and as the same process; the kernel counts for us.
    /// Where it does not, the number 1 is believed.
    /// Writers of ours count themselves, too: `attachments`.
    fn new_writer_came(&self, attachments: u64) -> bool {
        attachments > self.writers
            || self
                .opens
                .as_ref()
                .is_none_or(|opens| opens.count() > self.writers)
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
        self.oieb().map_or(0, |oieb| {
            oieb.word(offset::PAYLOAD_FREE_BYTES)
                .load(Ordering::Acquire)
        })
    }

    fn usable(&self) -> Result<()> {
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
        let mut bytes = [0; 16];
        // Outside of the ring it reads as 0: no frame.
        let _ = self
            .segment
            .load((self.sizes.payload_start() + at) as usize, &mut bytes);
        let [a, b] = [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        });
        (a, b)
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

    /// Sets the free bytes right after a writer that died while it published a frame, when all that
    /// it announced has been read: it had changed one of position and free bytes, not yet both.
    /// `pid` is its own, or 0 if the next one has closed already.
    fn mend(&self, pid: u64) {
        let Some(oieb) = self.oieb() else { return };
        let writer = || {
            let count = oieb.word(offset::PAYLOAD_WRITTEN_COUNT);
            let pid = oieb.word(offset::WRITER_PID).load(Ordering::Acquire);
            (pid, count.load(Ordering::Acquire))
        };
        let before = writer();
        let position = self.position();
        // Locked: nothing is given back meanwhile.
        let held = self.held();
        let free = oieb.word(offset::PAYLOAD_FREE_BYTES);
        let now = free.load(Ordering::Acquire);
        let used = self
            .unread(position.at)
            .saturating_add(held.credits.bytes());
        let Some(due) = self.sizes.payload.checked_sub(used) else {
            return;
        };
        // A ring may also be full of what another thread of ours is about to take.
        if pid == 0 && used == 0 && now == 0 {
            return;
        }
        // If the next writer has not come until here, all of this is of the one that died. Should it
        // come now: a difference is right whatever it takes off meanwhile.
        if before.0 == pid && before == writer() {
            free.fetch_add(due.wrapping_sub(now), Ordering::Release);
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

    /// Sets the free bytes right after a writer that died like that and whose place the next one took
    /// before anybody looked. While that one lives it may at any moment be between two of its steps,
    /// but not when it says that it waits for room.
    fn recover(&self) {
        let Some(oieb) = self.oieb() else { return };
        let count = || {
            oieb.word(offset::PAYLOAD_WRITTEN_COUNT)
                .load(Ordering::Acquire)
        };
        let wanted = || extension::wanted(&self.segment, &self.sizes);
        // Acquire in the first: all that it published is seen, its posts too.
        let before = (wanted(), count());
        if before.0 == 0 || self.sem_write.value().is_ok_and(|posts| posts > 0) {
            return;
        }
        let position = self.position();
        // Locked: nothing is given back meanwhile.
        let held = self.held();
        let free = oieb.word(offset::PAYLOAD_FREE_BYTES);
        let now = free.load(Ordering::Acquire);
        let held = held.credits.bytes();
        // Where the positions are equal the ring may also be full of what another thread of ours is
        // about to take.
        let is_read = self.unread(position.at) == 0 && now.saturating_add(held) > 0;
        let due = self.sizes.payload.checked_sub(held);
        let lost = due.and_then(|due| due.checked_sub(now)).unwrap_or(0);
        // Had it published something meanwhile and seen none of its changes undone, we would see by
        // the Acquire above that it does not wait, or if it waits again, that it counts more.
        if is_read && lost > 0 && before == (wanted(), count()) {
            // A difference is right whatever it takes off meanwhile. Release: as in `mend`.
            free.fetch_add(lost, Ordering::Release);
        }
    }

    /// For others to see; we go by our own copies.
    fn note_read(&self, found: &Found) {
        if let Some(oieb) = self.oieb() {
            // After an exact fit this is the size itself until the next frame: Python's writer
            // takes 0 for a reader that has not begun.
            oieb.word(offset::PAYLOAD_READ_POS)
                .store(found.end(), Ordering::Release);
            oieb.word(offset::PAYLOAD_READ_COUNT)
                .fetch_add(1 + u64::from(found.marker), Ordering::Release);
        }
    }

    /// How many writers of ours have attached, as far as is known.
    fn attachments(&self) -> u64 {
        extension::attachments(&self.segment, &self.sizes)
    }

    fn has_writer(&self) -> bool {
        self.oieb()
            .is_some_and(|oieb| oieb.word(offset::WRITER_PID).load(Ordering::Acquire) != 0)
    }

    /// Whether the writer of now is one of ours. It stores its position after all that is before
    /// that, so a frame need not be posted to be whole; one before it may have died before its post.
    fn is_writer_ours(&self) -> bool {
        self.oieb().is_some_and(|oieb| {
            let pid = oieb.word(offset::WRITER_PID).load(Ordering::Acquire);
            extension::is_noted_writer(&self.segment, &self.sizes, pid)
        })
    }

    fn writer_state(&self) -> WriterState {
        let Some(oieb) = self.oieb() else {
            return WriterState::None;
        };
        let word = oieb.word(offset::WRITER_PID);
        let mut pid = handoff::look_at_writer(word);
        if pid != 0 {
            let hints = Hints {
                holds_lock: extension::is_noted_writer(&self.segment, &self.sizes, pid),
                progress: oieb.get(offset::PAYLOAD_WRITTEN_COUNT),
                lock_file: None,
            };
            let dead = self.writer.is_dead(&self.segment, pid, hints);
            let now = word.load(Ordering::Acquire);
            // Once more: it may have closed, and another of its process have come, between the two.
            let dead = dead && now == pid && self.writer.is_dead(&self.segment, pid, hints);
            let mut position = self.position();
            position.writer_came = true;
            if now == pid {
                return if dead {
                    WriterState::Dead { pid }
                } else {
                    WriterState::Connected { pid }
                };
            }
            pid = now;
        }
        let mut position = self.position();
        if pid != 0 {
            return WriterState::Connected { pid };
        }
        // One that came and went between two looks leaves frames, metadata or its trace.
        if !position.writer_came {
            let metadata = oieb.word(offset::METADATA_WRITTEN_BYTES);
            position.writer_came = metadata.load(Ordering::Acquire) != 0
                || extension::attachments(&self.segment, &self.sizes) != 0;
            // The trace may be that of one who came after the look above: it stores its pid before
            // these (Release in `handoff::announce` and `extension::count_attachment`).
            pid = handoff::look_at_writer(word);
            if pid != 0 {
                return WriterState::Connected { pid };
            }
        }
        if position.writer_came || self.replaced.load(Ordering::Acquire) {
            WriterState::Closed
        } else {
            WriterState::None
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

    fn hand_out(&self, found: &Found, place: &Place) -> Ticket {
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
    fn make_room(&self, waiting: &Waiting, slices: u32) {
        // A writer of ours tells what it waits for. Of others we know what their frames were like,
        // and when nothing has come for long from one that has taken all our posts, and little is
        // free, that its next frame may be larger than that.
        let mut more = 0;
        if slices >= LONG_SILENCE && self.free_bytes() < self.sizes.payload / 2 {
            more = 1_u64.checked_shl(slices - LONG_SILENCE).unwrap_or(u64::MAX);
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
        let at = oieb.word(offset::PAYLOAD_WRITE_POS).load(Ordering::Acquire);
        let free = self.free_bytes().saturating_sub(less);
        let needed = match extension::wanted(&self.segment, &self.sizes) {
            0 => self.largest.load(Ordering::Relaxed),
            wanted => return free >= wanted.min(size),
        };
        at > size || ring::place(size, at, free, needed, Tails::Followed) != Fit::Later
    }

    fn release(&self, ticket: Ticket) {
        let mut held = self.held();
        if held.credits.holds(ticket) {
            held.fates.released();
        } else {
            held.fates.released_copy(ticket);
        }
        self.give_back(held, ticket);
    }

    fn give_back(&self, mut held: MutexGuard<'_, Held>, ticket: Ticket) {
        let credit = held.take_back(ticket);
        self.credit(held, credit);
    }

    fn credit(&self, held: MutexGuard<'_, Held>, credit: Credit) {
        if credit.frames == 0 || self.closed.load(Ordering::Acquire) {
            return;
        }
        if let Some(oieb) = self.oieb() {
            let free = oieb.word(offset::PAYLOAD_FREE_BYTES);
            handoff::give_back(held, credit, free, &self.sem_read);
        }
    }

    fn close(&self) {
        // Release, with the Acquire in `usable` and `give_back`.
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.windows.clear_spares();
        if let Some(oieb) = self.oieb() {
            oieb.word(offset::READER_PID).store(0, Ordering::Release);
        }
        drop(self.owned().take());
    }
}

/// Where the bytes of a frame are.
#[derive(Debug)]
enum Bytes {
    Lent(Loan),
    Copied(Copied),
}

/// What [`Reader::read`] reads.
#[derive(Debug)]
#[non_exhaustive]
pub enum Item {
    /// A frame, with the records that belong to it.
    Frame(Frame),
    /// A frame that was only skipped, for a newer one; see [`Reader::read_newest`].
    Skipped {
        /// The number that the writer gave it.
        sequence: u64,
        /// What came along with it.
        records: Records,
    },
    /// Records that belong to no frame. They are said between the frames before and behind.
    Message(Records),
    /// The writer asks for a ring of so many bytes; the answer is [`Reader::replace`] or
    /// [`Reader::keep_size`].
    Resize(u64),
}

/// A frame in the ring. It is lent until it is dropped: then its room goes back to the writer, as
/// soon as all frames before it have gone back too. If the reader evacuates
/// ([`Reader::set_evacuation`]), it may be a copy, whose room has gone back.
///
/// Frames may be dropped in any order, from any thread, also after the [`Reader`]. The bytes are
/// those of shared memory: a writer that keeps to the protocol leaves them alone, one that does
/// not can change them under your eyes, so copy before you check what must not change. It can also
/// truncate the shared memory: then the bytes are zeros, and the next call of the Reader fails
/// ([`Error::Corrupt`]).
#[derive(Debug)]
pub struct Frame {
    bytes: Bytes,
    sequence: u64,
    records: Records,
    ticket: Ticket,
    shared: Arc<Shared>,
}

impl Frame {
    /// The number that the writer gave it; the first of each writer is 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether it was copied when it was read (see [`Reader::set_evacuation`]).
    pub fn is_copy(&self) -> bool {
        matches!(self.bytes, Bytes::Copied(_))
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Lent(loan) => loan,
            Bytes::Copied(copy) => copy,
        }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.shared.release(self.ticket);
    }
}
