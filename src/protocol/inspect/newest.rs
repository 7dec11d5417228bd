//! The newest frame, copied while its stream goes on.
//!
//! Nobody waits for who looks: the reader may give the frame back while it is copied, and the writer
//! overwrite it. So it is looked at again after the copy. See `docs/command.md`, "peek".

use std::thread;
use std::time::{Duration, Instant};

use super::ring::{self, FrameHead};
use super::{Inspection, Numbers, State, Unknown};
use crate::protocol::buffer::Names;
use crate::protocol::error::Error;
use crate::protocol::layout::{FRAME_HEADER_SIZE, Sizes};
use crate::protocol::ring::{Found, RECORD_ROOM, frames_before_early};
use crate::sys::look::Look;
use crate::sys::shm;

/// A frame that is larger is not copied.
const MOST_BYTES: u64 = 1 << 30;
/// How often it is looked whether there is a new frame.
const INTERVAL: Duration = Duration::from_micros(200);
/// How long a frame that is surely whole is waited for when there is one that is whole by all signs.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longer than it takes a writer from one step of publishing to the next.
const STEP: Duration = Duration::from_millis(1);

/// How sure it is that a copy is one frame and whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surety {
    /// The frame was still in the ring when it had been copied, not given back: nobody may have
    /// written there.
    InRing,
    /// It had been given back. Two copies are the same, its header still stands there, and the next
    /// frame of its size does not reach it.
    GivenBack,
}

/// A frame that was copied.
#[derive(Clone, Debug)]
pub struct Newest {
    /// What stands in front of it.
    pub head: FrameHead,
    /// Its content.
    pub bytes: Vec<u8>,
    /// The last caps that a frame or message up to this one brought and that are still in the ring.
    pub caps: Option<String>,
    /// Whether it is whole.
    pub surety: Surety,
}

/// Why there is no frame to be had.
#[derive(Debug, thiserror::Error)]
pub enum NotSeen {
    /// The buffer cannot be looked at.
    #[error(transparent)]
    Buffer(#[from] Error),
    /// It may not be read, or is no buffer.
    #[error("buffer '{name}': {why}")]
    Unknown {
        /// The buffer.
        name: String,
        /// What it is instead.
        why: String,
    },
    /// No frame has been written.
    #[error("buffer '{name}': no frame has come in {} ms", waited.as_millis())]
    NoFrame {
        /// The buffer.
        name: String,
        /// How long one was waited for.
        waited: Duration,
    },
    /// Frames came and went faster than they could be copied.
    #[error(
        "buffer '{name}': no frame stayed long enough to be copied whole in {} ms (its ring has room \
         for so few that each is overwritten at once; a larger payload-size helps)",
        waited.as_millis()
    )]
    TooFast {
        /// The buffer.
        name: String,
        /// How long it was tried.
        waited: Duration,
    },
    /// It is larger than what is copied.
    #[error("buffer '{name}': a frame of {len} bytes is too large")]
    TooLarge {
        /// The buffer.
        name: String,
        /// Its bytes.
        len: u64,
    },
}

/// Copies the newest frame of a buffer, or the next one if there is none (any more), for which it
/// waits this long.
///
/// # Errors
/// [`NotSeen`].
pub fn newest(name: &str, timeout: Duration) -> Result<Newest, NotSeen> {
    let start = Instant::now();
    let seen = Inspection::of(name)?;
    let unknown = |why: &str| NotSeen::Unknown {
        name: name.into(),
        why: why.into(),
    };
    match (seen.state(), &seen.content) {
        (State::Hidden, _) => return Err(unknown("it may not be read")),
        (_, Err(Unknown::NotABuffer(why))) => return Err(unknown(why)),
        (_, Err(_)) => return Err(unknown("it is not finished")),
        _ => {}
    }
    let mut seeker = Seeker::of(name)?;
    let mut fallback: Option<Newest> = None;
    let mut found_any = false;
    loop {
        match seeker.attempt()? {
            Attempt::Whole(newest) if newest.surety == Surety::InRing => return Ok(newest),
            Attempt::Whole(newest) => fallback = Some(newest),
            Attempt::Overwritten => found_any = true,
            Attempt::Nothing => {}
        }
        let waited = start.elapsed();
        if let Some(newest) = fallback.take_if(|_| waited > PATIENCE.min(timeout)) {
            return Ok(newest);
        }
        if waited >= timeout {
            let name = name.into();
            return Err(if found_any {
                NotSeen::TooFast { name, waited }
            } else {
                NotSeen::NoFrame { name, waited }
            });
        }
        // Where nobody is there to write another, what there is, is what there will be.
        if fallback.is_some() && !seeker.moved_within(PATIENCE) {
            if let Some(newest) = fallback.take() {
                return Ok(newest);
            }
        } else {
            seeker.moved_within(timeout.saturating_sub(waited).min(PATIENCE));
        }
    }
}

/// Follows a buffer from one look to the next: what its numbers are, and what stands in front of its
/// newest frame.
pub struct Follower {
    seeker: Seeker,
    newest: Option<FrameHead>,
}

impl Follower {
    /// Begins with the buffer of this name.
    ///
    /// # Errors
    /// [`NotSeen::Buffer`], [`NotSeen::Unknown`].
    pub fn of(name: &str) -> Result<Self, NotSeen> {
        Ok(Follower {
            seeker: Seeker::of(name)?,
            newest: None,
        })
    }

    /// The file of the segment, by which it is told from a later one of the same name.
    pub fn id(&self) -> (u64, u64) {
        self.seeker.look.facts().id
    }

    /// Looks once more. The newest frame is the last that could be found.
    pub fn look(&mut self) -> Option<(Numbers, Option<&FrameHead>)> {
        let numbers = Numbers::steady(&self.seeker.look)?;
        let write = numbers.payload_write_pos;
        if write != self.seeker.last
            && write <= self.seeker.sizes.payload
            && numbers.payload_written_count != 0
        {
            if let Some(found) = self.seeker.find(&numbers) {
                let head = ring::head(&self.seeker.look, &self.seeker.sizes, &found, false);
                self.newest = Some(head);
            }
            self.seeker.last = write;
        }
        Some((numbers, self.newest.as_ref()))
    }
}

/// What comes of one try.
enum Attempt {
    Whole(Newest),
    /// There was one, and it did not stay.
    Overwritten,
    Nothing,
}

struct Seeker {
    look: Look,
    name: String,
    sizes: Sizes,
    /// Where the writer was at the last look: there the next frame begins.
    last: u64,
    caps: Option<String>,
}

impl Seeker {
    fn of(name: &str) -> Result<Self, NotSeen> {
        let names = Names::new(name)?;
        let look = Look::open(&shm::path(&names.segment))
            .map_err(|err| names.os("opening the shared memory", err))?;
        let unknown = |why: &str| NotSeen::Unknown {
            name: name.into(),
            why: why.into(),
        };
        let numbers = Numbers::read(&look).ok_or_else(|| unknown("it has become shorter"))?;
        let sizes = (numbers.sizes(look.facts().len)).map_err(|_| unknown("it is no buffer"))?;
        Ok(Seeker {
            look,
            name: name.into(),
            sizes,
            last: u64::MAX,
            caps: None,
        })
    }

    /// Whether the writer goes on within this time.
    fn moved_within(&self, time: Duration) -> bool {
        let start = Instant::now();
        loop {
            let moved = Numbers::read(&self.look)
                .is_none_or(|numbers| numbers.payload_write_pos != self.last);
            if moved || start.elapsed() >= time {
                return moved;
            }
            thread::sleep(INTERVAL);
        }
    }

    fn attempt(&mut self) -> Result<Attempt, NotSeen> {
        let Some(before) = Numbers::steady(&self.look) else {
            return Ok(Attempt::Overwritten);
        };
        let size = self.sizes.payload;
        let write = before.payload_write_pos;
        if write > size || before.payload_written_count == 0 {
            return Ok(Attempt::Nothing);
        }
        let found = self.find(&before);
        self.last = write;
        let Some(found) = found else {
            return Ok(Attempt::Nothing);
        };
        if found.len > MOST_BYTES {
            let name = self.name.clone();
            let len = found.len;
            return Err(NotSeen::TooLarge { name, len });
        }
        let head = ring::head(&self.look, &self.sizes, &found, false);
        let mut bytes = vec![0; found.len as usize];
        let at = self.sizes.payload_start() + found.at + FRAME_HEADER_SIZE;
        if !self.look.read(at, &mut bytes) {
            return Ok(Attempt::Overwritten);
        }
        Ok(match self.surety(&before, &found, &bytes) {
            Some(surety) => Attempt::Whole(Newest {
                head,
                bytes,
                caps: self.caps.clone(),
                surety,
            }),
            None => Attempt::Overwritten,
        })
    }

    /// The frame that ends at the writer's position, or the last one before messages that do. Rows
    /// of frames that lead there begin with what has not been given back, where the writer was at the
    /// last look, and at the beginning of the ring.
    fn find(&mut self, numbers: &Numbers) -> Option<Found> {
        let size = self.sizes.payload;
        let write = numbers.payload_write_pos;
        let back = |bytes: u64| (write % size + size - bytes % size) % size;
        let used = numbers.used();
        let since = |last: u64| (write + size - last) % size;
        let rows = [
            (used > 0).then(|| (back(used), used)),
            (self.last <= size).then(|| (self.last, since(self.last))),
            Some((0, if write == 0 { size } else { write })),
        ];
        for (at, bytes) in rows.into_iter().flatten() {
            let (mut newest, mut caps) = (None, None);
            let walk = ring::follow(&self.look, &self.sizes, at, bytes, |found| {
                if found.records.is_some() {
                    let head = ring::head(&self.look, &self.sizes, &found, false);
                    let said = head.records.and_then(Result::ok);
                    let said = said.and_then(|records| Some(records.caps()?.to_string()));
                    caps = said.or(caps.take());
                }
                if !found.message {
                    newest = Some(found);
                }
            });
            if walk.is_ok() && newest.is_some() {
                self.caps = caps.or(self.caps.take());
                return newest;
            }
        }
        None
    }

    /// Whether what was copied is the frame that was found, and whole.
    fn surety(&self, before: &Numbers, found: &Found, bytes: &[u8]) -> Option<Surety> {
        let whole = FRAME_HEADER_SIZE + found.len;
        // In what has not been read, or, if that is too little, in what has not been given back.
        let in_ring = |in_use: fn(&Numbers) -> u64| {
            let now = Numbers::steady(&self.look)?;
            let left = in_use(&now).checked_sub(self.passed(&now, found))?;
            (left >= whole && self.is_there(found)).then_some(())
        };
        if in_ring(unread).is_some() {
            return Some(Surety::InRing);
        }
        // Twice: a writer takes the room of its next frame off before it moves on, and at that moment
        // the frame before what is in use looks as if it were, too.
        if in_ring(Numbers::used).is_some() {
            thread::sleep(STEP);
            if in_ring(Numbers::used).is_some() {
                return Some(Surety::InRing);
            }
        }
        let mut piece = vec![0; 1 << 16];
        let start = self.sizes.payload_start() + found.at + FRAME_HEADER_SIZE;
        for (at, copied) in (start..).step_by(1 << 16).zip(bytes.chunks(1 << 16)) {
            let again = &mut piece[..copied.len()];
            if !self.look.read(at, again) || again != copied {
                return None;
            }
        }
        let now = Numbers::steady(&self.look)?;
        // Room for that and the next frame, with its records, and with the tail if it has to wrap.
        let next = whole + RECORD_ROOM;
        let size = self.sizes.payload;
        let tail = size - now.payload_write_pos.min(size);
        let next = if tail < next { tail + next } else { next };
        let frames = (now.payload_written_count).wrapping_sub(before.payload_written_count);
        let reached = self.passed(&now, found).max(frames.saturating_mul(whole));
        // A place may be used again before the end of the ring is reached.
        let early = frames_before_early(size, whole + RECORD_ROOM);
        let is_free = reached.saturating_add(next).saturating_add(whole) <= size
            && early.is_none_or(|frames| reached.div_ceil(whole) + 1 < frames);
        (is_free && self.is_there(found)).then_some(Surety::GivenBack)
    }

    /// Bytes that were written behind a frame, if it was less than a lap.
    fn passed(&self, now: &Numbers, found: &Found) -> u64 {
        let size = self.sizes.payload;
        (now.payload_write_pos % size + size - found.end() % size) % size
    }

    /// Whether its header still stands where it was.
    fn is_there(&self, found: &Found) -> bool {
        ring::header(&self.look, &self.sizes, found.at) == Some((found.len, found.sequence))
    }
}

/// Bytes that the reader has not taken. Equal positions may be a full ring, too; they count as an empty
/// one.
fn unread(numbers: &Numbers) -> u64 {
    let size = numbers.payload_size;
    let positions = (numbers.payload_write_pos, numbers.payload_read_pos);
    match positions {
        (write, read) if write <= size && read <= size => (write + size - read) % size,
        _ => 0,
    }
}
