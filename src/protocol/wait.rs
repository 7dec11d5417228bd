//! How long to wait, and how to end a wait early.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest time that a wait sleeps without looking at its [`Interrupt`] and at the peer.
///
/// A semaphore cannot be waited for together with anything else, and it must not be posted to wake
/// ourselves, since its count is the protocol. So a wait is a row of short ones.
pub(crate) const SLICE: Duration = Duration::from_millis(20);

/// Ends waits of a [`Reader`](super::Reader) or [`Writer`](super::Writer) from another thread.
///
/// While it is set, every wait that was given it returns
/// [`Error::Interrupted`](super::Error::Interrupted) within 50 ms, also when the peer is stopped.
/// Nothing is lost: the next call goes on where the interrupted one stopped.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    flag: AtomicBool,
    /// How often it was set.
    times: AtomicU64,
    lock: Mutex<()>,
    set: Condvar,
}

impl Interrupt {
    /// A new one, not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends present and future waits.
    pub fn set(&self) {
        let _lock = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Release/Acquire with `is_set`: who sees the flag sees what was done before it.
        self.0.flag.store(true, Ordering::Release);
        // Release/Acquire with `times`: the same.
        self.0.times.fetch_add(1, Ordering::Release);
        self.0.set.notify_all();
    }

    /// Lets waits be waits again.
    pub fn clear(&self) {
        // Release, with the Acquire in `is_set`.
        self.0.flag.store(false, Ordering::Release);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        // Acquire, with the Release in `set` and `clear`.
        self.0.flag.load(Ordering::Acquire)
    }

    /// How often it was set: for who must not miss that it was set and cleared between two looks.
    pub fn times(&self) -> u64 {
        // Acquire, with the Release in `set`.
        self.0.times.load(Ordering::Acquire)
    }

    /// Sleeps for `time` or until it is set; tells which: true = set.
    pub fn sleep(&self, time: Duration) -> bool {
        let lock = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (_lock, _) = self
            .0
            .set
            .wait_timeout_while(lock, time, |()| !self.is_set())
            .unwrap_or_else(PoisonError::into_inner);
        self.is_set()
    }
}

/// How a call waits: for how long, and what ends it early.
///
/// Made from a [`Duration`], from an `Option<Duration>` (`None`: without end), or with
/// [`Wait::forever`] and [`Wait::interrupted_by`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait<'a> {
    timeout: Option<Duration>,
    interrupt: Option<&'a Interrupt>,
    /// Ends it as well when it is no longer the one that was set so often.
    since: Option<(&'a Interrupt, u64)>,
}

impl<'a> Wait<'a> {
    /// Without end.
    pub fn forever() -> Self {
        Self::default()
    }

    /// Not at all.
    pub fn no() -> Self {
        Duration::ZERO.into()
    }

    /// No longer than this.
    pub fn at_most(self, time: Duration) -> Self {
        let timeout = self.timeout.map_or(time, |timeout| timeout.min(time));
        Wait {
            timeout: Some(timeout),
            ..self
        }
    }

    /// Ends early when `interrupt` is set.
    pub fn interrupted_by(self, interrupt: &'a Interrupt) -> Self {
        Wait {
            interrupt: Some(interrupt),
            ..self
        }
    }

    /// Ends early when `interrupt` is set, or was since [`Interrupt::times`] told `times`, though it
    /// may have been cleared again. Besides another one of [`Wait::interrupted_by`].
    pub fn interrupted_since(self, interrupt: &'a Interrupt, times: u64) -> Self {
        Wait {
            since: Some((interrupt, times)),
            ..self
        }
    }

    pub(crate) fn start(self) -> Waiting<'a> {
        Waiting {
            wait: self,
            since: OnceCell::new(),
        }
    }
}

impl From<Duration> for Wait<'_> {
    fn from(timeout: Duration) -> Self {
        Some(timeout).into()
    }
}

impl From<Option<Duration>> for Wait<'_> {
    fn from(timeout: Option<Duration>) -> Self {
        Wait {
            timeout,
            ..Self::default()
        }
    }
}

/// A wait under way.
pub(crate) struct Waiting<'a> {
    wait: Wait<'a>,
    /// When it began to wait; what is there at once needs no clock.
    since: OnceCell<Instant>,
}

impl Waiting<'_> {
    pub fn is_interrupted(&self) -> bool {
        self.wait.interrupt.is_some_and(Interrupt::is_set)
            || (self.wait.since)
                .is_some_and(|(interrupt, times)| interrupt.is_set() || interrupt.times() != times)
    }

    fn since(&self) -> Instant {
        *self.since.get_or_init(Instant::now)
    }

    /// `None`: without end, which a time past the end of the clock is too.
    fn deadline(&self) -> Option<Instant> {
        self.since().checked_add(self.wait.timeout?)
    }

    pub fn waited(&self) -> Duration {
        self.since().elapsed()
    }

    /// How long the next sleep may be; `None` when the time is over.
    pub fn slice(&self) -> Option<Duration> {
        match self.deadline() {
            None => Some(SLICE),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                (!left.is_zero()).then(|| left.min(SLICE))
            }
        }
    }

    /// Sleeps for at most `time` and at most to the deadline, or until interrupted.
    pub fn sleep(&self, time: Duration) {
        let left = self.deadline().map_or(time, |deadline| {
            time.min(deadline.saturating_duration_since(Instant::now()))
        });
        match self.wait.interrupt {
            Some(interrupt) => {
                interrupt.sleep(left);
            }
            None => std::thread::sleep(left),
        }
    }
}
