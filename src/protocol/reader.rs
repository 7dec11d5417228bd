//! The reading end: it makes the buffer, owns it, and lends out the frames in it.

mod config;
mod copies;
mod frame;
mod held;
mod mend;
mod metadata;
mod newest;
mod next;
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
use super::layout::{FIRST_SEQUENCE, Oieb, Sizes, offset};
use super::liveness::Watch;
use super::ring::{self, Found, LEAST_BLOCK};
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
