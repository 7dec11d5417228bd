//! Room in the ring as GStreamer memory, so that upstream renders straight into it.

mod allocator;
pub mod metas;
mod pool;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use allocator::publish;
pub use pool::RingPool;

use crate::protocol::{Interrupt, Reservation, Wait, Writer};

/// The longest wait for room in a pool. Who has to wait longer loses nothing by a copy.
const PATIENCE: Duration = Duration::from_secs(1);

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
    }

    /// Room for a frame of `len` bytes, if there is any.
    ///
    /// A thread that renders waits for it here as it would in `render`, where it would then have to
    /// copy. One that does not, because there is a queue in between, is never held up.
    ///
    /// Who pauses or flushes the sink interrupts for a moment only, since `render` is all that it
    /// waits for. Here that moment is easily missed, so one that was since the last frame ends the
    /// wait too: the thread has to come to the sink.
    fn reserve(&self, len: u64, wait: Wait) -> Option<Reservation> {
        let writer = self.get()?;
        if self.0.renderer.load(Ordering::Relaxed) == thread_mark() {
            let seen = self.0.seen.load(Ordering::Relaxed);
            writer.reserve_ahead_wait(len, wait.interrupted_since(&self.0.interrupt, seen))
        } else {
            writer.reserve_ahead(len)
        }
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
            let rendering = scope.spawn(move || {
                link.rendering(true);
                let wait = || Wait::forever().interrupted_by(flushing);
                let first = link.reserve(1000, wait());
                // Nor does it wait again before the sink has had a frame.
                let second = link.reserve(1000, wait());
                link.rendering(true);
                (first, second, link.reserve(1000, wait()))
            });
            while link.get().unwrap().waits() == waits {
                std::thread::yield_now();
            }
            interrupt.set();
            interrupt.clear();
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
    fn who_does_not_render_does_not_wait() {
        let (_reader, link, _) = full("memory-other", ring_size(1000, 3));
        assert!(link.reserve(1000, Wait::forever()).is_none());
        link.rendering(false);
        assert!(link.reserve(1000, Wait::forever()).is_none());
    }
}
