//! The reader, as its writer sees it.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::{Error, Result, Shared, Writer};
#[cfg(feature = "plugin")]
use crate::protocol::buffer::changes;
use crate::protocol::extension;
use crate::protocol::handoff;
use crate::protocol::layout::{Oieb, offset};
use crate::protocol::liveness::Hints;
#[cfg(feature = "plugin")]
use crate::sys::changes::Changes;

/// How often a writer that finds room makes sure that its reader is alive.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often it does so while the reader goes on reading. That shows life too, and costs no system
/// call; but not that the buffer still has its name.
const FULL_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What was read shows life when it must have been read lately: so long after the last look at most.
const LATELY: Duration = Duration::from_millis(100);

/// What a writer has seen of its reader.
#[derive(Debug)]
pub(super) struct Looked {
    /// When it made sure.
    made_sure: Instant,
    /// When it last saw a sign of life.
    at: Instant,
    /// How much had been read by then.
    read: u64,
}

impl Looked {
    pub fn now(read: u64) -> Self {
        let at = Instant::now();
        Looked {
            made_sure: at,
            at,
            read,
        }
    }

    /// Whether it is time to make sure, when so much has been read by `now`; who asks does it then.
    fn is_time(&mut self, read: u64, now: Instant) -> bool {
        let since = now - self.at;
        if since <= LOOK_INTERVAL {
            return false;
        }
        self.at = now;
        let reads = std::mem::replace(&mut self.read, read) != read && since <= LATELY;
        if reads && now - self.made_sure <= FULL_LOOK_INTERVAL {
            return false;
        }
        self.made_sure = now;
        true
    }
}

/// How often, and how far apart, a reader that seems to have closed is looked at again.
const CLOSED_TRIES: u32 = 20;
const CLOSED_INTERVAL: Duration = Duration::from_millis(1);

impl Writer {
    /// Makes sure that the reader is there, and now and then (every 50 ms, or every second while it
    /// goes on reading) that it is alive: for writers that only publish what was lent ahead.
    ///
    /// # Errors
    /// [`Error::ReaderClosed`], [`Error::ReaderDead`].
    pub fn look_at_reader(&self) -> Result<()> {
        let shared = &self.shared;
        let oieb = shared.oieb().ok_or_else(|| shared.names.not_found())?;
        // Relaxed, both: `check_reader` looks again at a reader that has gone.
        let read = oieb.get(offset::PAYLOAD_READ_COUNT);
        let there = self.reader_pid() != 0;
        if !shared.state().looked.is_time(read, Instant::now()) && there {
            return Ok(());
        }
        self.check_reader()
    }

    /// As [`Writer::look_at_reader`], but looks now.
    ///
    /// # Errors
    /// [`Error::ReaderClosed`], [`Error::ReaderDead`], [`Error::ReaderReplaced`].
    pub fn check_reader(&self) -> Result<()> {
        self.shared.confirm_closed()?;
        self.shared.check_reader()
    }

    /// What tells that a reader of ours may be going, as that is not to be looked for all the time; none
    /// for those of other implementations.
    #[cfg(feature = "plugin")]
    pub(crate) fn reader_changes(&self) -> Option<Changes> {
        let shared = &self.shared;
        let tells = shared.abilities.holds_lock();
        tells.then(|| changes(&shared.names, &shared.segment))?
    }

    /// Whether the reader is there, and alive.
    pub fn is_reader_connected(&self) -> bool {
        self.shared.check_reader().is_ok()
    }

    /// The reader's process id, in its own pid namespace; 0 when it has closed.
    pub fn reader_pid(&self) -> u64 {
        self.shared
            .oieb()
            .map_or(0, |oieb| oieb.get(offset::READER_PID))
    }
}

impl Shared {
    /// Whether there is a reader; one that has closed may come back (`confirm_closed`).
    pub(super) fn has_reader(&self) -> Result<()> {
        let oieb = self.oieb().ok_or_else(|| self.names.not_found())?;
        // Acquire, with the Release in `reader::Shared::close`.
        let pid = oieb.word(offset::READER_PID).load(Ordering::Acquire);
        self.there()?;
        match pid {
            0 => Err(Error::ReaderClosed { name: self.name() }),
            _ => Ok(()),
        }
    }

    pub(super) fn check_reader(&self) -> Result<()> {
        let oieb = self.oieb().ok_or_else(|| self.names.not_found())?;
        let word = oieb.word(offset::READER_PID);
        // Acquire, with the Release in `reader::Shared::close`, both times.
        let pid = word.load(Ordering::Acquire);
        let hints = Hints {
            holds_lock: self.abilities.holds_lock(),
            progress: oieb.get(offset::PAYLOAD_READ_COUNT),
            lock_file: Some(&self.names.lock),
        };
        let dead = pid != 0 && self.reader.is_dead(&self.segment, pid, hints);
        let now = word.load(Ordering::Acquire);
        // One of ours stores 0 before it lets go of its lock: whose pid stays has died, though the next one
        // may have taken its name away by now.
        let died = dead && now == pid && hints.holds_lock;
        if !died && (now == 0 || !self.segment.file().is_linked()) {
            Err(self.reader_gone())
        } else if dead {
            if !hints.holds_lock {
                self.dead_reader.store(pid, Ordering::Relaxed);
            }
            Err(Error::ReaderDead {
                name: self.name(),
                pid,
            })
        } else {
            self.there()
        }
    }

    /// Leaves the buffer of a v1 reader that died as one that closed. Once its lock file has been swept
    /// away nothing tells who comes here next that it is dead, and not in another container.
    pub(super) fn bury_reader(&self, oieb: Oieb) {
        let pid = self.dead_reader.load(Ordering::Relaxed);
        if pid != 0 {
            // Nothing of ours goes with it. If it is another's by now it stays.
            let _ = oieb.word(offset::READER_PID).compare_exchange(
                pid,
                0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// A reader that wants to close may find that we have just come, and stay
    /// (`Reader::close_if_unused`): only one whose buffer is also gone has closed.
    pub(super) fn confirm_closed(&self) -> Result<()> {
        let oieb = self.oieb().ok_or_else(|| self.names.not_found())?;
        for _ in 0..CLOSED_TRIES {
            // Acquire, with the Release in `reader::Shared::close`.
            if oieb.word(offset::READER_PID).load(Ordering::Acquire) != 0 {
                return Ok(());
            }
            if !self.segment.file().is_linked() {
                break;
            }
            thread::sleep(CLOSED_INTERVAL);
        }
        Err(self.reader_gone())
    }

    /// Why there is no reader any more.
    fn reader_gone(&self) -> Error {
        if let Err(gone) = self.there() {
            return gone;
        }
        let name = self.name();
        let pid = self.oieb().map(|oieb| oieb.word(offset::READER_PID));
        let replaced = extension::replaced(&self.segment, &self.sizes);
        match (pid, replaced) {
            (Some(pid), Some(replaced)) if handoff::is_retired(pid, replaced) => {
                self.leaving.store(true, Ordering::Relaxed);
                Error::ReaderReplaced { name }
            }
            _ => Error::ReaderClosed { name },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_reads_is_asked_seldom() {
        let mut looked = Looked::now(0);
        let start = looked.at;
        let mut asked = Vec::new();
        // 30 frames a second, of which each is read before the next; from the 60th on none is.
        for frame in 0..75 {
            let time = Duration::from_millis(33 * frame);
            if looked.is_time(frame.min(60), start + time) {
                asked.push(frame);
            }
        }
        // Every second look is within 50 ms of the one before.
        assert_eq!(asked, [32, 62, 64, 66, 68, 70, 72, 74]);
    }

    #[test]
    fn what_may_have_been_read_long_ago_shows_no_life() {
        let mut looked = Looked::now(0);
        let start = looked.at;
        for frame in 1..10 {
            let time = Duration::from_millis(101 * frame);
            assert!(looked.is_time(frame, start + time), "{frame}");
        }
    }
}
