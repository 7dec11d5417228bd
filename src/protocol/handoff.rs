//! The few atomic steps by which the two ends hand something over, with nothing around them, so
//! that a model checker can try every order of them (`tests/loom.rs`). See `docs/architecture.md`,
//! "Memory ordering".

use std::sync::atomic::{AtomicU64, Ordering};

use super::ring::{Credit, Placement};
use crate::sys::sem::Semaphore;

/// A word in shared memory.
pub trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64;
    /// Whether the value was `current`, and is `new` now. Relaxed if not.
    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool;
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_add(value, order)
    }

    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_sub(value, order)
    }

    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
        self.compare_exchange(current, new, order, Ordering::Relaxed)
            .is_ok()
    }
}

/// A semaphore. Posting is a Release, taking a post an Acquire (POSIX: both synchronise memory).
pub trait Posts {
    type Error;
    fn post(&self) -> Result<(), Self::Error>;
    fn try_wait(&self) -> Result<bool, Self::Error>;
}

impl Posts for Semaphore {
    type Error = std::io::Error;

    fn post(&self) -> std::io::Result<()> {
        self.post()
    }

    fn try_wait(&self) -> std::io::Result<bool> {
        self.try_wait()
    }
}

/// How many posts a look for room takes at most. Writers before us may have left thousands of
/// millions, which would take a minute in which nothing could interrupt us.
const DRAIN: u32 = 1024;

/// The words that a writer changes with each frame.
pub struct Written<'a, W> {
    pub free: &'a W,
    pub write_pos: &'a W,
    pub count: &'a W,
}

/// Writer: hands a frame over, whose bytes and headers are in the ring.
pub fn publish<W: Word, P: Posts>(
    written: &Written<W>,
    posts: &P,
    placement: &Placement,
) -> Result<(), P::Error> {
    // Release, with the Acquire in `look`: a reader goes by these fields instead of the semaphore
    // when we die before the post. The free bytes first: should we die in between, the next writer
    // finds too little room, not room that is taken.
    written.free.fetch_sub(placement.cost(), Ordering::Release);
    written.write_pos.store(placement.end(), Ordering::Release);
    written
        .count
        .fetch_add(1 + u64::from(placement.marker.is_some()), Ordering::Release);
    // Release in sem_post, with the Acquire in the reader's sem_wait: it sees all of the above.
    posts.post()
}

/// Writer: the free bytes, whose last users have read what was there.
pub fn look_for_room<W: Word, P: Posts>(free: &W, posts: &P) -> Result<u64, P::Error> {
    // A reader posts for each frame that it gives back; unless taken, the count only grows.
    // Before the look at the free bytes: a post that comes after it ends the next wait.
    for _ in 0..DRAIN {
        if !posts.try_wait()? {
            break;
        }
    }
    Ok(look_at_room(free))
}

/// Writer: the same, while another of its threads sleeps until the reader posts, whose post it would
/// take.
pub fn look_at_room<W: Word>(free: &W) -> u64 {
    // Acquire, with the Release in `give_back`: it has read what we overwrite.
    free.load(Ordering::Acquire)
}

/// Reader: gives room back, whose frames have all been released.
pub fn give_back<W: Word, P: Posts>(
    // The guard of the lock under which the credit was taken, let go before the posts. That lock
    // also orders the last look at every frame of the credit before the change below, whichever
    // thread it was made by.
    held: impl Sized,
    credit: Credit,
    free: &W,
    posts: &P,
) {
    // Release, with the Acquire in `look_for_room`: the writer may overwrite these bytes, and we
    // have read them.
    free.fetch_add(credit.bytes, Ordering::Release);
    drop(held);
    for _ in 0..credit.frames {
        // One a frame is the protocol. It cannot fail on an open semaphore, and there is nobody to
        // tell: the writer looks at the free bytes anyway.
        let _ = posts.post();
    }
}

/// Writer: leaves after its last frame; nothing is posted. Only if the pid is still ours.
pub fn leave<W: Word>(writer_pid: &W, pid: u64) {
    // Release, with the Acquire in `look_at_writer`: who sees the 0 sees all our posts; and with
    // that in `buffer::attach::claim_writer` for the next writer.
    writer_pid.replace(pid, 0, Ordering::Release);
}

/// Reader: the writer's pid. When it is 0, all that the writer posted is seen from here on, so that
/// a semaphore found empty after this says that all its frames have been read.
pub fn look_at_writer<W: Word>(writer_pid: &W) -> u64 {
    // Acquire, with the Release in `leave`; SeqCst for `Reader::close_if_unused`.
    writer_pid.load(Ordering::SeqCst)
}

/// Reader: leaves, since it has made the buffer anew; who looks at its pid in the OIEB and finds 0
/// finds that too, where there is a word for it.
pub fn retire<W: Word>(reader_pid: &W, replaced: Option<&W>) {
    if let Some(word) = replaced {
        // Relaxed: ordered by the store below.
        word.store(1, Ordering::Relaxed);
    }
    // Release, with the Acquire in `is_retired`. SeqCst as in `Reader::close_if_unused`: a writer
    // that comes at the same time sees the 0 and leaves, or we see its pid.
    reader_pid.store(0, Ordering::SeqCst);
}

/// Reader: comes back, because nothing came of it.
pub fn return_to<W: Word>(reader_pid: &W, pid: u64, replaced: Option<&W>) {
    if let Some(word) = replaced {
        // Relaxed: ordered by the store below, as in `retire`.
        word.store(0, Ordering::Relaxed);
    }
    // SeqCst: as in `retire`.
    reader_pid.store(pid, Ordering::SeqCst);
}

/// Writer: whether its reader has made the buffer anew.
pub fn is_retired<W: Word>(reader_pid: &W, replaced: &W) -> bool {
    // Acquire, with the Release in `retire`.
    reader_pid.load(Ordering::Acquire) == 0 && replaced.load(Ordering::Relaxed) == 1
}

/// Hands over what was stored before, to whoever sees this value by `look`.
pub fn announce<W: Word>(word: &W, value: u64) {
    // Release, with the Acquire in `look`.
    word.store(value, Ordering::Release);
}

/// The value of a word that announces something.
pub fn look<W: Word>(word: &W) -> u64 {
    // Acquire, with the Release in `announce` and `publish`.
    word.load(Ordering::Acquire)
}
