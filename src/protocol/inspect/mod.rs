//! A look at buffers from outside, as of somebody who is neither of their ends.
//!
//! Looking changes nothing: objects are opened for reading, nothing is mapped, no lock is taken, and
//! the semaphores are not opened at all, since readers of this library count who opens the
//! writer's. Whatever stands in a buffer is checked before it is believed: who looks may be another
//! user, and the buffer anybody's. See `docs/command.md`, "What a look can tell".
//!
//! ```
//! use gstzerobuffer::{BufferConfig, Reader, inspect};
//!
//! # fn main() -> Result<(), gstzerobuffer::Error> {
//! # let name = &gstzerobuffer::testing::unique_name("doc-inspect");
//! let reader = Reader::create(name, &BufferConfig::default())?;
//! let seen = inspect::Inspection::of(name)?;
//! assert_eq!(seen.state(), inspect::State::Waiting);
//! assert_eq!(seen.reader.pid, u64::from(std::process::id()));
//! assert!(inspect::buffers().contains(name));
//! # Ok(())
//! # }
//! ```

mod clean;
mod leftovers;
mod newest;
mod peer;
mod ring;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

pub use clean::{Cleaned, clean};
pub use leftovers::{buffers, leftovers};
pub use newest::{Follower, Newest, NotSeen, Surety, newest};
pub use peer::{Life, Peer, Process};
pub use ring::{FrameHead, RingView};

pub use super::layout::MOST_METADATA;
pub use crate::sys::host;
pub use crate::sys::look::FileFacts;

use super::buffer::{self, Names};
use super::error::Result;
use super::extension::{
    Abilities, HELLO_MAGIC, HELLO_SIZE, READER_LOCK, WRITER_LOCK, field, writers,
};
use super::layout::{METADATA_PREFIX_SIZE, Misfit, OIEB_SIZE, Sizes, VERSION, offset, u64_at};
use crate::sys::look::{FlockTable, Look};
use crate::sys::{process, sem, shm};

/// How often a buffer that changes while it is read is read again.
const TRIES: usize = 16;
/// The same for its numbers alone, which takes a microsecond.
const STEADY_TRIES: usize = 1000;

/// One object of a buffer beside its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// What the system says of it; `None` if it is not there or may not be looked for.
    pub facts: Option<FileFacts>,
}

impl Object {
    fn at(path: PathBuf) -> Self {
        Object {
            facts: FileFacts::of(&path).ok().flatten(),
            path,
        }
    }
}

/// Why nothing can be said of what is in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It may not be opened.
    Permission,
    /// It is being made, or its reader died while it made it.
    Unfinished,
    /// It is not what a buffer looks like; the text says how.
    NotABuffer(String),
}

/// The numbers at the beginning of a segment, as they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Bytes of the block that these are in.
    pub oieb_size: u32,
    /// Major, minor, patch, reserved.
    pub version: [u8; 4],
    /// Bytes of the metadata block.
    pub metadata_size: u64,
    /// Bytes of it not used.
    pub metadata_free_bytes: u64,
    /// 0, then 8 + the length of the metadata.
    pub metadata_written_bytes: u64,
    /// Bytes of the ring.
    pub payload_size: u64,
    /// Bytes of it that the writer may fill.
    pub payload_free_bytes: u64,
    /// Where the writer goes on.
    pub payload_write_pos: u64,
    /// Where the reader goes on.
    pub payload_read_pos: u64,
    /// Frames and wrap markers written.
    pub payload_written_count: u64,
    /// Frames and wrap markers read.
    pub payload_read_count: u64,
    /// 0 = no writer, or closed.
    pub writer_pid: u64,
    /// 0 = closed.
    pub reader_pid: u64,
    /// All 0.
    pub reserved: [u64; 4],
}

impl Numbers {
    fn read(look: &Look) -> Option<Self> {
        let mut bytes = [0; OIEB_SIZE as usize];
        look.read(0, &mut bytes).then(|| {
            let word = |at: usize| u64_at(&bytes, at);
            let first = word(offset::OIEB_SIZE_AND_VERSION);
            Numbers {
                oieb_size: first as u32,
                version: ((first >> 32) as u32).to_le_bytes(),
                metadata_size: word(offset::METADATA_SIZE),
                metadata_free_bytes: word(offset::METADATA_FREE_BYTES),
                metadata_written_bytes: word(offset::METADATA_WRITTEN_BYTES),
                payload_size: word(offset::PAYLOAD_SIZE),
                payload_free_bytes: word(offset::PAYLOAD_FREE_BYTES),
                payload_write_pos: word(offset::PAYLOAD_WRITE_POS),
                payload_read_pos: word(offset::PAYLOAD_READ_POS),
                payload_written_count: word(offset::PAYLOAD_WRITTEN_COUNT),
                payload_read_count: word(offset::PAYLOAD_READ_COUNT),
                writer_pid: word(offset::WRITER_PID),
                reader_pid: word(offset::READER_PID),
                reserved: std::array::from_fn(|at| word(offset::RESERVED + 8 * at)),
            }
        })
    }

    /// As they were at one moment: the same in two looks that follow each other. `None` if they change
    /// too fast.
    fn steady(look: &Look) -> Option<Self> {
        let mut last = Numbers::read(look)?;
        for _ in 0..STEADY_TRIES {
            let next = Numbers::read(look)?;
            if next == last {
                return Some(next);
            }
            last = next;
        }
        None
    }

    fn sizes(&self, len: u64) -> std::result::Result<Sizes, Unknown> {
        let version = u64::from(u32::from_le_bytes(self.version));
        let sizes = Sizes {
            metadata: self.metadata_size,
            payload: self.payload_size,
        };
        sizes
            .checked(u64::from(self.oieb_size) | version << 32, len)
            .map_err(|misfit| match misfit {
                Misfit::Unfinished => Unknown::Unfinished,
                Misfit::Version(major) => {
                    Unknown::NotABuffer(format!("version {major} and not {}", VERSION[0]))
                }
                Misfit::Other(what) => Unknown::NotABuffer(what),
            })
    }

    /// Bytes of the ring that the writer may not fill; more than there are is said as all.
    pub fn used(&self) -> u64 {
        self.payload_size.saturating_sub(self.payload_free_bytes)
    }
}

/// What our own ends tell each other at the end of the metadata block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the reader can do, as bits.
    pub abilities: u64,
    /// How many writers of ours have attached.
    pub attachments: u64,
    /// The pid of the writer of ours that holds the writer's lock; 0: none.
    pub writer: u64,
    /// The pid of one that has the lock and is about to take the place; 0: none.
    pub next_writer: u64,
    /// Free bytes that a writer of ours waits for; 0: it does not wait.
    pub wanted: u64,
    /// 1 once the reader has made the buffer anew.
    pub replaced: u64,
    /// 1 when a writer of ours closed because its stream ended.
    pub ended: u64,
}

impl Hello {
    /// What each bit of the abilities means, by number.
    pub const ABILITIES: [&str; 6] = [
        "follows short tails",
        "holds a lock while it lives",
        "follows skips",
        "understands records",
        "makes the buffer anew when asked",
        "moves frames that it holds out of the ring",
    ];

    fn read(look: &Look, numbers: &Numbers, sizes: &Sizes) -> Option<Self> {
        // As in `extension::is_there`.
        let end = numbers.metadata_written_bytes.checked_add(HELLO_SIZE)?;
        if sizes.metadata < 2 * HELLO_SIZE || end > sizes.metadata.max(METADATA_PREFIX_SIZE) {
            return None;
        }
        let mut bytes = [0; HELLO_SIZE as usize];
        if !look.read(OIEB_SIZE + sizes.metadata - HELLO_SIZE, &mut bytes) {
            return None;
        }
        let word = |field: u64| u64_at(&bytes, field as usize);
        let [writer, next_writer] = writers(word(field::WRITER));
        (word(field::MAGIC) == HELLO_MAGIC).then(|| Hello {
            abilities: word(field::ABILITIES),
            attachments: word(field::ATTACHMENTS),
            writer,
            next_writer,
            wanted: word(field::WANTED),
            replaced: word(field::REPLACED),
            ended: word(field::ENDED),
        })
    }

    fn holds_lock(&self) -> bool {
        Abilities::from_bits(self.abilities).holds_lock()
    }
}

/// What is in a segment.
#[derive(Clone, Debug)]
pub struct Content {
    /// The numbers at its beginning.
    pub numbers: Numbers,
    /// `None`: no reader of ours made it, or metadata lies over it.
    pub hello: Option<Hello>,
    /// What was written as metadata; an error says why it cannot be read.
    pub metadata: Option<std::result::Result<Vec<u8>, String>>,
    /// The ring.
    pub ring: RingView,
    /// What does not fit together, as sentences. A buffer in use may be between two steps.
    pub problems: Vec<String>,
}

/// What there is to see of one buffer at one moment.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its name.
    pub name: String,
    /// The file of its segment.
    pub file: FileFacts,
    /// The semaphore that the writer posts.
    pub sem_write: Object,
    /// The semaphore that the reader posts.
    pub sem_read: Object,
    /// The reader's lock file.
    pub lock_file: Object,
    /// The end that made it.
    pub reader: Peer,
    /// The end that fills it.
    pub writer: Peer,
    /// What is in it.
    pub content: std::result::Result<Content, Unknown>,
}

/// How a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Both ends are there.
    Live,
    /// The reader waits for its first writer.
    Waiting,
    /// The writer closed; the reader is there.
    Ended,
    /// The writer died; the reader is there.
    WriterDead,
    /// It may be that an end is dead: its pid is in a namespace that is not to be seen from here.
    Unclear,
    /// The reader has closed; what is there is a leftover.
    Closed,
    /// The reader died: a leftover.
    ReaderDead,
    /// Being made, or left by a reader that died while it made it.
    Unfinished,
    /// It may not be read.
    Hidden,
    /// No buffer.
    NotABuffer,
}

impl State {
    /// One word for it, for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Live => "live",
            State::Waiting => "waiting",
            State::Ended => "ended",
            State::WriterDead => "writer-dead",
            State::Unclear => "unclear",
            State::Closed => "closed",
            State::ReaderDead => "reader-dead",
            State::Unfinished => "unfinished",
            State::Hidden => "hidden",
            State::NotABuffer => "no-buffer",
        }
    }
}

impl Inspection {
    /// Looks at the buffer of this name.
    ///
    /// # Errors
    /// [`BufferNotFound`](crate::Error::BufferNotFound), [`InvalidName`](crate::Error::InvalidName),
    /// [`Corrupt`](crate::Error::Corrupt) if it is no file, [`Os`](crate::Error::Os).
    pub fn of(name: &str) -> Result<Self> {
        Self::with_frames(name, 0)
    }

    /// The same, with the heads of at most so many frames of those that are in its ring, the newest.
    ///
    /// # Errors
    /// As [`Inspection::of`].
    pub fn with_frames(name: &str, frames: usize) -> Result<Self> {
        let names = Names::new(name)?;
        let path = shm::path(&names.segment);
        let file = FileFacts::of(&path).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => names.not_found(),
            _ => names.os("looking for the shared memory", err),
        })?;
        let file = file.ok_or_else(|| names.corrupt(format!("{} is no file", path.display())))?;
        let look = match Look::open(&path) {
            Ok(look) => Ok(look),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(names.not_found()),
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => Err(Unknown::Permission),
            Err(err) => return Err(names.os("opening the shared memory", err)),
        };
        let file = look.as_ref().map_or(file, |look| look.facts().clone());
        let content = look
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|look| Content::read(look, frames));
        let lock_file = Object::at(names.lock.clone());
        let (reader, writer) = peers(look.as_ref().ok(), &file, content.as_ref().ok(), &lock_file);
        Ok(Inspection {
            name: names.name.clone(),
            file,
            sem_write: Object::at(sem::path(&names.sem_write)),
            sem_read: Object::at(sem::path(&names.sem_read)),
            lock_file,
            reader,
            writer,
            content,
        })
    }

    /// How it is.
    pub fn state(&self) -> State {
        match (&self.content, self.reader.life, self.writer.life) {
            (Err(Unknown::Permission), ..) => State::Hidden,
            (Err(Unknown::Unfinished), ..) => State::Unfinished,
            (Err(Unknown::NotABuffer(_)), ..) => State::NotABuffer,
            (Ok(_), Life::None, _) => State::Closed,
            (Ok(_), Life::Dead, _) => State::ReaderDead,
            (Ok(_), Life::Unseen, _) | (Ok(_), _, Life::Unseen) => State::Unclear,
            (Ok(_), Life::Alive, Life::Dead) => State::WriterDead,
            (Ok(_), Life::Alive, Life::Alive) => State::Live,
            (Ok(content), Life::Alive, Life::None) => {
                let came = content.metadata.is_some()
                    || content.numbers.payload_written_count != 0
                    || content.hello.is_some_and(|hello| hello.attachments != 0);
                if came { State::Ended } else { State::Waiting }
            }
        }
    }

    /// How long ago it was made.
    pub fn age(&self) -> Option<Duration> {
        SystemTime::now().duration_since(self.file.made?).ok()
    }
}

impl Content {
    /// Reads it, again if it changes meanwhile.
    fn read(look: &Look, frames: usize) -> std::result::Result<Self, Unknown> {
        let mut tries = 0;
        loop {
            tries += 1;
            let len = look.facts().len;
            if len == 0 {
                return Err(Unknown::Unfinished);
            }
            let numbers = (len >= OIEB_SIZE).then(|| Numbers::read(look)).flatten();
            let Some(numbers) = numbers else {
                let what = format!("it has {len} bytes and 128 are needed at least");
                return Err(Unknown::NotABuffer(what));
            };
            let sizes = numbers.sizes(len)?;
            let ring = RingView::read(look, &numbers, &sizes, frames);
            let (metadata, hello) = (
                metadata(look, &numbers, &sizes),
                Hello::read(look, &numbers, &sizes),
            );
            if tries < TRIES && Numbers::read(look) != Some(numbers) {
                continue;
            }
            let mut content = Content {
                numbers,
                hello,
                metadata,
                ring,
                problems: Vec::new(),
            };
            content.check();
            return Ok(content);
        }
    }

    /// Notes what does not fit together.
    fn check(&mut self) {
        let it = &self.numbers;
        let mut problem = |text: String| self.problems.push(text);
        for (name, position) in [
            ("write", it.payload_write_pos),
            ("read", it.payload_read_pos),
        ] {
            if position > it.payload_size {
                problem(format!(
                    "payload_{name}_pos {position} is outside of the ring"
                ));
            }
        }
        if it.payload_free_bytes > it.payload_size {
            problem(format!(
                "payload_free_bytes {} is more than the ring has",
                it.payload_free_bytes
            ));
        }
        let left = it.metadata_size.checked_sub(it.metadata_written_bytes);
        if left != Some(it.metadata_free_bytes) {
            problem(format!(
                "metadata_free_bytes {} and metadata_written_bytes {} are not those of a block of {}",
                it.metadata_free_bytes, it.metadata_written_bytes, it.metadata_size
            ));
        }
        if it.reserved != [0; 4] {
            problem(format!("reserved fields are not 0: {:?}", it.reserved));
        }
        if let Some(Err(why)) = &self.metadata {
            problem(format!("metadata: {why}"));
        }
        if let Some(why) = &self.ring.problem {
            problem(format!("ring: {why}"));
        }
    }
}

fn metadata(
    look: &Look,
    numbers: &Numbers,
    sizes: &Sizes,
) -> Option<std::result::Result<Vec<u8>, String>> {
    let written = numbers.metadata_written_bytes;
    if written == 0 {
        return None;
    }
    let mut prefix = [0; METADATA_PREFIX_SIZE as usize];
    if sizes.metadata < METADATA_PREFIX_SIZE || !look.read(OIEB_SIZE, &mut prefix) {
        return Some(Err("the block has no room for a length".into()));
    }
    let len = u64_at(&prefix, 0);
    if len > sizes.metadata - METADATA_PREFIX_SIZE {
        let what = format!("a length of {len} in a block of {}", sizes.metadata);
        return Some(Err(what));
    }
    if len > MOST_METADATA {
        return Some(Err(format!("{len} bytes, which is too much to be shown")));
    }
    let mut bytes = vec![0; len as usize];
    if !look.read(OIEB_SIZE + METADATA_PREFIX_SIZE, &mut bytes) {
        return Some(Err("the segment has become shorter".into()));
    }
    Some(Ok(bytes))
}

/// Both ends of a buffer, as far as they are to be seen.
fn peers(
    look: Option<&Look>,
    file: &FileFacts,
    content: Option<&Content>,
    lock_file: &Object,
) -> (Peer, Peer) {
    let locked = |byte| look.and_then(|look| look.is_byte_locked(byte).ok()) == Some(true);
    let flocks = FlockTable::read();
    let holder = (lock_file.facts.as_ref()).map(|facts| flocks.holder(facts));
    let hello = content.and_then(|content| content.hello);
    let pid = |of: fn(&Numbers) -> u64| content.map_or(0, |content| of(&content.numbers));
    let reader = peer::Traces {
        pid: pid(|numbers| numbers.reader_pid),
        locked: locked(READER_LOCK),
        locks: hello.is_some_and(|hello| hello.holds_lock()),
        lock_file: holder,
        is_maker: true,
    };
    let writer_pid = pid(|numbers| numbers.writer_pid);
    let writer = peer::Traces {
        pid: writer_pid,
        locked: locked(WRITER_LOCK),
        locks: writer_pid != 0
            && hello.is_some_and(|hello| [hello.writer, hello.next_writer].contains(&writer_pid)),
        lock_file: None,
        is_maker: false,
    };
    (Peer::find(&reader, file), Peer::find(&writer, file))
}

/// The process id of who looks.
pub fn own_pid() -> u64 {
    process::id()
}

/// The objects of a buffer of this name, there or not: segment, write semaphore, read semaphore, lock
/// file.
///
/// # Errors
/// [`InvalidName`](crate::Error::InvalidName).
pub fn objects(name: &str) -> Result<[Object; 4]> {
    let names = Names::new(name)?;
    Ok([
        Object::at(shm::path(&names.segment)),
        Object::at(sem::path(&names.sem_write)),
        Object::at(sem::path(&names.sem_read)),
        Object::at(names.lock),
    ])
}

/// Where shared memory is seen, and where lock files are.
pub const FOLDERS: [&str; 2] = [shm::DIRECTORY, buffer::LOCK_FOLDER];
