//! How `render` and the thread that changes the state keep out of each other's way.
//!
//! `render` is called with GStreamer's PREROLL_LOCK held, and so is whatever it waits for. Pausing
//! calls `unlock()` first, which ends such a wait; `render` then lets go of the lock in
//! `wait_preroll()` until it is signalled to play on. But a sink that is set to play and paused
//! again before the waiting thread has come to run lets `render` slip through into PAUSED, and
//! setting it to play, which calls no `unlock()`, would wait for `render` to end. So we note when
//! that begins and ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::protocol::Interrupt;

/// How long a change to PLAYING that had begun when `render` got the lock may take until it counts
/// as one that waits for the lock.
const PATIENCE: u32 = 1000;
const INTERVAL: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub struct Pausing {
    /// Ends the waits of `render`.
    pub interrupt: Interrupt,
    unlocked: AtomicBool,
    /// Changes to PLAYING that have begun, and that have ended.
    begun: AtomicU64,
    ended: AtomicU64,
}

// SeqCst throughout: these are few, and each is looked at from both threads.
impl Pausing {
    /// `unlock()`
    pub fn unlock(&self) {
        self.unlocked.store(true, Ordering::SeqCst);
        self.interrupt.set();
    }

    /// `unlock_stop()`
    pub fn unlock_stop(&self) {
        self.unlocked.store(false, Ordering::SeqCst);
        self.settle();
    }

    /// Around a change to PLAYING.
    pub fn play<T>(&self, change: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.interrupt.set();
        let changed = change();
        self.ended.fetch_add(1, Ordering::SeqCst);
        self.settle();
        changed
    }

    /// Lets waits be waits again, if nothing is under way.
    fn settle(&self) {
        self.interrupt.clear();
        let playing = self.begun.load(Ordering::SeqCst) != self.ended.load(Ordering::SeqCst);
        if playing || self.unlocked.load(Ordering::SeqCst) {
            self.interrupt.set();
        }
    }

    /// In `render`, with the lock: to be remembered for [`Pausing::must_wait`].
    pub fn seen(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// In `render`, when a wait was interrupted: whether somebody needs the lock, and will signal
    /// when `render` may go on.
    pub fn must_wait(&self, seen: u64) -> bool {
        for _ in 0..PATIENCE {
            // Begun while we had the lock, which it needs.
            if self.unlocked.load(Ordering::SeqCst) || self.seen() != seen {
                return true;
            }
            // Signalled before we had the lock, and nearly done.
            if self.ended.load(Ordering::SeqCst) == seen {
                return false;
            }
            thread::sleep(INTERVAL);
        }
        true
    }
}
