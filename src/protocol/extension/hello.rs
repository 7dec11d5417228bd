//! Words that our own ends leave for each other in room that v1 does not use.
//!
//! v1 uses only the front of the metadata block. A reader of ours puts a *hello* into the last 64
//! bytes of the block before it publishes the buffer; v1 writers never look there, and where one
//! writes metadata that long, the hello is simply gone. See `docs/protocol.md`, "Hello".

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::layout::{METADATA_PREFIX_SIZE, OIEB_SIZE, Oieb, Sizes, offset};
use crate::protocol::ring::Tails;
use crate::sys::shm::Segment;

/// Bytes of the hello.
pub const HELLO_SIZE: u64 = 64;
/// Its first word.
pub const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"ZBhello\x01");
/// Second word, bit 0: the reader follows tails of 1 to 15 bytes.
pub const FOLLOWS_TAILS: u64 = 1 << 0;
/// Second word, bit 1: the reader holds the lock on byte 0 of the segment's file while it lives.
pub const HOLDS_LOCK: u64 = 1 << 1;
/// Second word, bit 2: the reader follows headers that skip: size 0, and as sequence number the
/// bytes from the header on that hold nothing.
pub const FOLLOWS_SKIPS: u64 = 1 << 2;
/// Second word, bit 3: the reader understands blocks of records, in front of a frame or alone.
pub const READS_RECORDS: u64 = 1 << 3;
/// Second word, bit 4: the reader makes the buffer anew when it is asked for another size.
pub const RESIZES: u64 = 1 << 4;
/// Second word, bit 5, which comes and goes: what the reader holds leaves the ring when the writer
/// needs the room.
pub const EVACUATES: u64 = 1 << 5;

/// Where its words are.
pub mod field {
    pub const MAGIC: u64 = 0x00;
    pub const ABILITIES: u64 = 0x08;
    pub const ATTACHMENTS: u64 = 0x10;
    pub const WRITER: u64 = 0x18;
    pub const WANTED: u64 = 0x20;
    pub const REPLACED: u64 = 0x28;
    pub const ENDED: u64 = 0x30;
    pub const ANSWERED: u64 = 0x38;
}

/// The halves of the word `WRITER`: the writer of now, and the one that takes its place.
const NOW: u64 = u32::MAX as u64;
const NEXT: u32 = 32;

/// Byte of the segment's file that the reader locks.
pub const READER_LOCK: i64 = 0;
/// Byte of the segment's file that the writer locks.
pub const WRITER_LOCK: i64 = 1;
/// Byte of the segment's file that is locked by who decides whose its name is.
pub const NAME_LOCK: i64 = 2;

/// What the reader of a buffer can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities(u64);

impl Abilities {
    /// As they stand in a hello.
    pub fn from_bits(bits: u64) -> Self {
        Abilities(bits)
    }

    /// How it takes short tails.
    pub fn tails(self) -> Tails {
        if self.0 & FOLLOWS_TAILS == 0 {
            Tails::Fatal
        } else {
            Tails::Followed
        }
    }

    /// Whether it follows headers that skip.
    pub fn follows_skips(self) -> bool {
        self.0 & FOLLOWS_SKIPS != 0
    }

    /// Whether it understands records. They are also skips to it.
    pub fn reads_records(self) -> bool {
        self.follows_skips() && self.0 & READS_RECORDS != 0
    }

    /// Whether it makes the buffer anew when it is asked to.
    pub fn resizes(self) -> bool {
        self.reads_records() && self.0 & RESIZES != 0
    }

    /// Whether a free lock byte means that it is dead.
    pub fn holds_lock(self) -> bool {
        self.0 & HOLDS_LOCK != 0
    }
}

/// Offset of the hello, if the block has room for it and some metadata.
fn start(sizes: &Sizes) -> Option<u64> {
    (sizes.metadata >= 2 * HELLO_SIZE).then(|| OIEB_SIZE + sizes.metadata - HELLO_SIZE)
}

fn word<'a>(segment: &'a Segment, sizes: &Sizes, field: u64) -> Option<&'a AtomicU64> {
    let at = usize::try_from(start(sizes)? + field).ok()?;
    Some(segment.word(at))
}

/// Reader, before the buffer is published: says what we can do, and whether the buffer will be made
/// anew when the writer asks for another size.
pub fn greet(segment: &Segment, sizes: &Sizes, resizes: bool) {
    let resizes = if resizes { RESIZES } else { 0 };
    // Relaxed: the store that publishes the OIEB comes after and is a Release.
    if let Some(word) = word(segment, sizes, field::ABILITIES) {
        word.store(
            FOLLOWS_TAILS | HOLDS_LOCK | FOLLOWS_SKIPS | READS_RECORDS | resizes,
            Ordering::Relaxed,
        );
    }
    if let Some(word) = word(segment, sizes, field::MAGIC) {
        word.store(HELLO_MAGIC, Ordering::Relaxed);
    }
}

/// Whether there is a hello, and no metadata over it.
fn is_there(segment: &Segment, sizes: &Sizes) -> bool {
    let free_of_metadata = Oieb::of(segment).is_some_and(|oieb| {
        let written = oieb.get(offset::METADATA_WRITTEN_BYTES);
        written
            .checked_add(HELLO_SIZE)
            .is_some_and(|end| end <= sizes.metadata.max(METADATA_PREFIX_SIZE))
    });
    let magic = word(segment, sizes, field::MAGIC);
    free_of_metadata && magic.is_some_and(|word| word.load(Ordering::Relaxed) == HELLO_MAGIC)
}

/// What the reader said; nothing if it did not, or if metadata lies over it.
pub fn abilities(segment: &Segment, sizes: &Sizes) -> Abilities {
    match word(segment, sizes, field::ABILITIES) {
        // Relaxed: the word by which the buffer was known to be finished came after (`greet`).
        Some(word) if is_there(segment, sizes) => Abilities(word.load(Ordering::Relaxed)),
        _ => Abilities::default(),
    }
}

/// Reader: whether what it holds leaves the ring when the writer needs the room.
pub fn note_evacuation(segment: &Segment, sizes: &Sizes, evacuates: bool) {
    let Some(word) = word(segment, sizes, field::ABILITIES) else {
        return;
    };
    let said = word.load(Ordering::Relaxed);
    let now = if evacuates {
        said | EVACUATES
    } else {
        said & !EVACUATES
    };
    // Should metadata come to lie there now, they are not what was said. Relaxed: nothing is handed
    // over with it, and a writer that does not see it yet does what is right for both.
    if is_there(segment, sizes) {
        let _ = word.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Writer: whether the reader says so at the moment.
pub fn evacuates(segment: &Segment, sizes: &Sizes) -> bool {
    abilities(segment, sizes).0 & EVACUATES != 0
}

/// Writer, when it has attached to a reader that said hello: leaves a trace of having come.
pub fn count_attachment(segment: &Segment, sizes: &Sizes) {
    if let Some(word) = word(segment, sizes, field::ATTACHMENTS) {
        // Release, with the Acquire in `attachments`; the frames that follow are ordered by the
        // semaphore anyway.
        word.fetch_add(1, Ordering::Release);
    }
}

/// Writer, with its lock, before it puts its pid into the OIEB: says that the pid is that of a writer
/// that holds the lock while it lives. Of the one whose pid stands there until then that stays true.
pub fn note_next_writer(segment: &Segment, sizes: &Sizes, pid: u64) {
    if let Some(word) = word(segment, sizes, field::WRITER) {
        // Relaxed: the change of the pid in the OIEB comes after and is a Release.
        word.store(
            (word.load(Ordering::Relaxed) & NOW) | pid << NEXT,
            Ordering::Relaxed,
        );
    }
}

/// Writer, with its lock, when its pid is in the OIEB; and 0 when it no longer is. Not before: killed
/// in between, it would be one of whom nobody knows that the lock says that it is dead.
pub fn note_writer(segment: &Segment, sizes: &Sizes, pid: u64) {
    if let Some(word) = word(segment, sizes, field::WRITER) {
        // Relaxed: true already by `note_next_writer`, or of a pid that has gone.
        word.store(pid, Ordering::Relaxed);
    }
}

/// The pids in the word `WRITER`: of the writer of now, and of the one that takes its place.
pub fn writers(word: u64) -> [u64; 2] {
    [word & NOW, word >> NEXT]
}

/// Whether the writer of this pid holds the lock while it lives.
pub fn is_noted_writer(segment: &Segment, sizes: &Sizes, pid: u64) -> bool {
    // Not by what metadata happen to say there.
    pid != 0
        && is_there(segment, sizes)
        && word(segment, sizes, field::WRITER).is_some_and(|word| {
            // Relaxed: said before the pid came into the OIEB (`note_next_writer`).
            writers(word.load(Ordering::Relaxed)).contains(&pid)
        })
}

/// Writer: how many bytes have to be free for what it waits with; 0 when it does not wait any more,
/// and before it publishes anything.
pub fn want(segment: &Segment, sizes: &Sizes, bytes: u64) {
    // Our own metadata may lie there since we attached.
    if let Some(word) = word(segment, sizes, field::WANTED)
        && is_there(segment, sizes)
    {
        // Release, with the Acquire in `wanted`: who sees that it waits sees all that it published
        // before. That it does not any more comes before the Release in `handoff::publish`.
        word.store(bytes, Ordering::Release);
    }
}

/// The word that says that the reader has made the buffer anew, for `handoff::retire`. `None` where
/// there is no hello (any more).
pub fn replaced<'a>(segment: &'a Segment, sizes: &Sizes) -> Option<&'a AtomicU64> {
    word(segment, sizes, field::REPLACED).filter(|_| is_there(segment, sizes))
}

/// Reader: how many bytes have to be free before a writer of ours can go on.
pub fn wanted(segment: &Segment, sizes: &Sizes) -> u64 {
    // Long metadata of a v1 writer may lie there.
    match word(segment, sizes, field::WANTED) {
        // Acquire, with the Release in `want`.
        Some(word) if is_there(segment, sizes) => word.load(Ordering::Acquire),
        _ => 0,
    }
}

/// The request for another size that the reader has answered: in the buffer that it made because of
/// that, before it has its name, or in the one that stays as it is. Writer: 0 before it asks.
pub fn note_answer(segment: &Segment, sizes: &Sizes, bytes: u64) {
    // Metadata may lie there.
    if let Some(word) = word(segment, sizes, field::ANSWERED)
        && is_there(segment, sizes)
    {
        // Relaxed: nothing else is handed over with it.
        word.store(bytes, Ordering::Relaxed);
    }
}

/// Writer: the last request that was answered; `None` where there is no hello (any more).
pub fn answer(segment: &Segment, sizes: &Sizes) -> Option<u64> {
    word(segment, sizes, field::ANSWERED)
        .filter(|_| is_there(segment, sizes))
        .map(|word| word.load(Ordering::Relaxed))
}

/// Writer: whether its stream is over, when it has attached and before it closes. One that leaves for
/// the buffer that was made anew goes on there.
pub fn note_end(segment: &Segment, sizes: &Sizes, ended: bool) {
    // Our own metadata may lie there since we attached.
    if let Some(word) = word(segment, sizes, field::ENDED)
        && is_there(segment, sizes)
    {
        // Relaxed: the change of the pid in the OIEB comes after and is a Release.
        word.store(u64::from(ended), Ordering::Relaxed);
    }
}

/// Reader, when the writer has closed: whether its stream is over.
pub fn is_ended(segment: &Segment, sizes: &Sizes) -> bool {
    word(segment, sizes, field::ENDED)
        .is_some_and(|word| is_there(segment, sizes) && word.load(Ordering::Relaxed) == 1)
}

/// Reader: not 0 once a writer of ours has attached. Long metadata of a v1 writer may lie there
/// too, which says the same.
pub fn attachments(segment: &Segment, sizes: &Sizes) -> u64 {
    // Acquire, with the Release in `count_attachment`.
    word(segment, sizes, field::ATTACHMENTS).map_or(0, |word| word.load(Ordering::Acquire))
}
