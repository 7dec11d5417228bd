//! Room in the ring as GStreamer memory, so that upstream renders straight into it.

mod allocator;
pub mod metas;
mod pool;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use allocator::publish;
pub use pool::RingPool;

use crate::protocol::{Interrupt, Reservation, Turn, Wait, Writer};

/// The longest wait for room in a pool. Who has to wait longer loses nothing by a copy.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest wait of a thread that does not render, while nothing is rendered or given back.
const QUEUE_PATIENCE: Duration = Duration::from_millis(250);
/// How many buffers such a thread gets without a wait after the first wait in vain; after each further
/// one it is twice as many, up to the other number.
const NO_WAITS: u64 = 16;
const MOST_NO_WAITS: u64 = 1 << 16;

/// The writer that a sink has at the moment, shared with the pools that it has proposed.
#[derive(Clone, Debug, Default)]
pub struct Link(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    writer: Mutex<Option<Arc<Writer>>>,
    /// The thread that renders and may wait for room, as [`thread_mark`]; 0: none. Relaxed: a thread
    /// looks for its own mark only.
    renderer: AtomicUsize,
    /// What ends waits for room, and how often it had been set when that thread last rendered.
    /// Relaxed: the same thread looks.
    interrupt: Interrupt,
    seen: AtomicU64,
    /// Whether the sink waits when there is no room. Relaxed: it says so with each frame.
    waits: AtomicBool,
    /// Whether the sink has a frame, to wait for its time or for room, or to copy. Relaxed: who looks
    /// does so again and again.
    busy: AtomicBool,
    turns: Mutex<Turns>,
}

/// The waits of threads that do not render.
#[derive(Debug)]
struct Turns {
    /// How many buffers come without one.
    without: u64,
    /// How many will after the next one in vain.
    next: u64,
}

impl Default for Turns {
    fn default() -> Self {
        Turns {
            without: 0,
            next: NO_WAITS,
        }
    }
}

impl Link {
    /// With what ends waits for room.
    pub fn new(interrupt: Interrupt) -> Self {
        Link(Arc::new(Inner {
            interrupt,
            ..Inner::default()
        }))
    }

    /// The writer, while there is one.
    pub fn get(&self) -> Option<Arc<Writer>> {
        self.writer().clone()
    }

    /// Another writer, or none; returns the one before.
    pub fn replace(&self, writer: Option<Arc<Writer>>) -> Option<Arc<Writer>> {
        std::mem::replace(&mut self.writer(), writer)
    }

    /// Notes that this thread renders, and whether it waits when there is no room.
    pub fn rendering(&self, waits: bool) {
        let mark = if waits { thread_mark() } else { 0 };
        (self.0.seen).store(self.0.interrupt.times(), Ordering::Relaxed);
        self.0.renderer.store(mark, Ordering::Relaxed);
        self.0.waits.store(waits, Ordering::Relaxed);
    }

    /// Notes whether the sink has a frame at the moment.
    pub fn busy(&self, busy: bool) {
        self.0.busy.store(busy, Ordering::Relaxed);
    }

    /// Room for a frame of `len` bytes, if there is any.
    ///
    /// A thread that renders waits for it here as it would in `render`, where it would then have to
    /// copy. One that does not, because there is a queue in between, waits as it would for a place in
    /// that queue, as long as frames leave it; it may be the one that keeps the places, so in vain it
    /// waits but rarely, and not for long when there is nothing in the queue.
    ///
    /// Who pauses or flushes the sink interrupts for a moment only, since `render` is all that it
    /// waits for. Here that moment is easily missed, so one that was since the last frame ends the
    /// wait too: the thread has to come to the sink.
    fn reserve(&self, len: u64, wait: Wait) -> Option<Reservation> {
        let writer = self.get()?;
        if self.0.renderer.load(Ordering::Relaxed) == thread_mark() {
            let seen = self.0.seen.load(Ordering::Relaxed);
            let wait = wait.at_most(PATIENCE);
            return writer.reserve_ahead_wait(len, wait.interrupted_since(&self.0.interrupt, seen));
        }
        if !self.0.waits.load(Ordering::Relaxed) || !self.takes_turns() {
            return writer.reserve_ahead(len);
        }
        let seen = self.0.interrupt.times();
        let wait = wait.at_most(QUEUE_PATIENCE);
        let wait = wait.interrupted_since(&self.0.interrupt, seen);
        match writer.reserve_in_turn(len, wait, || !self.0.busy.load(Ordering::Relaxed)) {
            Turn::Lent(place) => Some(place),
            Turn::No => None,
            Turn::Vain => {
                let mut turns = self.turns();
                turns.without = turns.next;
                turns.next = (turns.next * 2).min(MOST_NO_WAITS);
                drop(turns);
                writer.reserve_ahead(len)
            }
        }
    }

    /// Whether the next buffer may be waited for by a thread that does not render.
    fn takes_turns(&self) -> bool {
        let mut turns = self.turns();
        let waits = turns.without == 0;
        turns.without = turns.without.saturating_sub(1);
        waits
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        (self.0.turns.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Option<Arc<Writer>>> {
        (self.0.writer.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that only this thread has while it lives, and never 0.
fn thread_mark() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{BufferConfig, Reader, ring_size};
    use crate::testing::unique_name;

    /// A link to a ring of so many bytes that nobody reads from, with no room for another frame.
    fn full(tag: &str, size: u64) -> (Reader, Link, Interrupt) {
        let name = unique_name(tag);
        let reader = Reader::create(&name, &BufferConfig::new(1024, size)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        while writer.write_frame_wait(&[1; 1000], Wait::no()).is_ok() {}
        let interrupt = Interrupt::new();
        let link = Link::new(interrupt.clone());
        link.replace(Some(Arc::new(writer)));
        (reader, link, interrupt)
    }

    #[test]
    fn a_wait_ends_when_it_is_interrupted_for_a_moment() {
        let (_reader, link, interrupt) = full("memory-moment", ring_size(1000, 3));
        let flushing = Interrupt::new();
        std::thread::scope(|scope| {
            let (link, flushing) = (&link, &flushing);
            let waits = link.get().unwrap().waits();
            let (cleared, is_cleared) = std::sync::mpsc::channel();
            let rendering = scope.spawn(move || {
                link.rendering(true);
                let wait = || Wait::forever().interrupted_by(flushing);
                let first = link.reserve(1000, wait());
                // Nor does it wait again before the sink has had a frame.
                let second = link.reserve(1000, wait());
                // It may still be set, which would end the next wait before it begins.
                is_cleared.recv().unwrap();
                link.rendering(true);
                (first, second, link.reserve(1000, wait()))
            });
            while link.get().unwrap().waits() == waits {
                std::thread::yield_now();
            }
            interrupt.set();
            interrupt.clear();
            cleared.send(()).unwrap();
            while link.get().unwrap().waits() == waits + 1 {
                std::thread::yield_now();
            }
            // The pool's own flush ends it too.
            flushing.set();
            let places = rendering.join().unwrap();
            assert!(matches!(places, (None, None, None)), "{places:?}");
        });
    }

    #[test]
    fn there_is_no_wait_for_room_that_would_not_be_lent() {
        // Three frames and no more: where one is lent, no other of its size could be copied.
        let (_reader, link, _) = full("memory-small", 3 * 1016 + 64);
        link.rendering(true);
        assert!(link.reserve(1000, Wait::forever()).is_none());
    }

    #[test]
    fn who_waits_in_vain_waits_less_and_less() {
        let name = unique_name("memory-vain");
        let reader = Reader::create(&name, &BufferConfig::new(1024, ring_size(1000, 3))).unwrap();
        let writer = Arc::new(Writer::attach(&name).unwrap());
        let link = Link::default();
        link.replace(Some(writer.clone()));
        // Another thread renders.
        std::thread::scope(|scope| scope.spawn(|| link.rendering(true)).join().unwrap());
        let mut kept = Vec::new();
        let mut missed = 0;
        while kept.len() < 3 || missed == 0 {
            match link.reserve(1000, Wait::forever()) {
                Some(place) => kept.push(place),
                None => missed += 1,
            }
        }
        // Nothing moved, and it was told so once; the next are not waited for.
        assert_eq!(link.turns().without, NO_WAITS);
        assert_eq!(link.turns().next, 2 * NO_WAITS);
        for left in (0..NO_WAITS).rev() {
            assert!(link.reserve(1000, Wait::forever()).is_none());
            assert_eq!(link.turns().without, left);
        }
        assert!(link.reserve(1000, Wait::forever()).is_none());
        assert_eq!(link.turns().without, 2 * NO_WAITS);
        // What comes free is had without a wait, too.
        kept.pop();
        assert!(link.reserve(1000, Wait::forever()).is_some());
        drop((kept, reader));
        // Without a reader there is nothing to wait for.
        link.turns().without = 0;
        assert!(link.reserve(1000, Wait::forever()).is_none());
        assert_eq!(link.turns().without, 0);
    }

    #[test]
    fn a_turn_comes_when_frames_are_published_and_given_back() {
        let (reader, link, _) = full("memory-turn", ring_size(1000, 3));
        std::thread::scope(|scope| {
            scope.spawn(|| link.rendering(true)).join().unwrap();
            let (done, is_done) = std::sync::mpsc::channel();
            let link = &link;
            scope.spawn(move || {
                let place = link.reserve(1000, Wait::forever());
                done.send(place.is_some()).unwrap();
            });
            // One by one, with the wait going on in between.
            let got = loop {
                if let Ok(got) = is_done.try_recv() {
                    break got;
                }
                let _ = reader.read_frame(Wait::no());
                std::thread::yield_now();
            };
            assert!(got);
        });
    }

    #[test]
    fn who_does_not_render_does_not_wait() {
        let (_reader, link, _) = full("memory-other", ring_size(1000, 3));
        assert!(link.reserve(1000, Wait::forever()).is_none());
        link.rendering(false);
        assert!(link.reserve(1000, Wait::forever()).is_none());
    }
}
