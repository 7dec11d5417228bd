//! Room in the ring as GStreamer memory, so that upstream renders straight into it.

mod allocator;
pub mod metas;
mod pool;

use std::sync::atomic::{AtomicUsize, Ordering};
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
    interrupt: Interrupt,
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
        self.0.renderer.store(mark, Ordering::Relaxed);
    }

    /// Room for a frame of `len` bytes, if there is any.
    ///
    /// A thread that renders waits for it here as it would in `render`, where it would then have to
    /// copy. One that does not, because there is a queue in between, is never held up.
    fn reserve(&self, len: u64) -> Option<Reservation> {
        let writer = self.get()?;
        if self.0.renderer.load(Ordering::Relaxed) == thread_mark() {
            let wait = Wait::from(PATIENCE).interrupted_by(&self.0.interrupt);
            writer.reserve_ahead_wait(len, wait)
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
