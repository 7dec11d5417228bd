//! Whether the peer of a buffer is alive.
//!
//! Between our own ends the kernel tells: each holds a lock on one byte of the segment's file,
//! which goes with its holder and is seen across pid namespaces. A v1 peer leaves only a pid (and
//! a v1 reader its lock file), which is read with care. See `docs/protocol.md`, "Alive or dead".

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::lock::LockFile;
use crate::sys::process::{self, Process};
use crate::sys::shm::Segment;

/// How long a v1 writer whose pid is nobody's here may do nothing before it counts as dead. It is
/// the time after which the other implementations look.
const PATIENCE: Duration = Duration::from_secs(5);

/// Watches one peer of a buffer.
#[derive(Debug)]
pub struct Watch {
    lock_byte: i64,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    pid: u64,
    since: Instant,
    /// It said that it holds its lock byte. That the byte is locked does not say so: who wants
    /// the place of a v1 writer holds it for a moment too.
    locks: bool,
    /// It was seen in this pid namespace.
    process: Option<Process>,
    /// What it had done when it was first looked at.
    progress: u64,
}

/// What else is known of the peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints<'a> {
    /// It says that it holds its lock byte while it lives.
    pub holds_lock: bool,
    /// A number that grows while it works.
    pub progress: u64,
    /// The lock file that it holds if it is a v1 reader.
    pub lock_file: Option<&'a Path>,
}

impl Watch {
    /// Watches the peer that locks this byte of the segment's file.
    pub fn new(lock_byte: i64) -> Self {
        Watch {
            lock_byte,
            seen: Mutex::new(Seen {
                pid: 0,
                since: Instant::now(),
                locks: false,
                process: None,
                progress: 0,
            }),
        }
    }

    /// Whether the peer that put `pid` into the OIEB is dead. The caller reads the pid again when
    /// the answer is yes: a peer that closes stores 0 first and frees its lock after.
    pub fn is_dead(&self, segment: &Segment, pid: u64, hints: Hints) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.pid != pid {
            *seen = Seen {
                pid,
                since: Instant::now(),
                locks: false,
                process: Process::find(pid),
                progress: hints.progress,
            };
        }
        // It may say so later than it puts in its pid, and metadata may come to lie over it.
        seen.locks |= hints.holds_lock;
        if segment
            .file()
            .is_byte_locked(self.lock_byte)
            .unwrap_or(false)
        {
            return false;
        }
        if seen.locks {
            return true;
        }
        // A v1 peer.
        if seen.process.is_some_and(|process| process.is_alive()) {
            return false;
        }
        match hints.lock_file.map(LockFile::is_held) {
            Some(Some(held)) => !held,
            // It was here and is no longer.
            _ if seen.process.is_some() => true,
            // A reader whose lock file is elsewhere too: nothing tells that it is dead, and a
            // second stream into its ring would break it.
            Some(None) => false,
            // Never seen here. Who works without being seen is in another pid namespace, where
            // its pid says nothing to us; who does nothing gets some time.
            None => hints.progress == seen.progress && seen.since.elapsed() > PATIENCE,
        }
    }
}

/// What one that wants the place of a v1 writer knows of it, from one try to the next.
#[derive(Debug, Default)]
pub struct Patience {
    stranger: Option<Stranger>,
}

/// A writer whose pid says nothing here.
#[derive(Debug)]
struct Stranger {
    segment: Arc<Segment>,
    pid: u64,
    since: Instant,
    progress: u64,
}

impl Patience {
    /// Whether the v1 writer that put `pid` into the OIEB counts as dead: its process is not here,
    /// and it has done nothing for as long as we know of it, 5 seconds at least.
    pub fn is_over(&mut self, segment: &Arc<Segment>, pid: u64, progress: u64) -> bool {
        // Our own pid is that of a writer before us, or of one in another pid namespace.
        if pid != process::id() && Process::find(pid).is_some() {
            self.stranger = None;
            return false;
        }
        match &self.stranger {
            // A segment that has kept its name is the one that was opened by it.
            Some(seen)
                if (seen.pid, seen.progress) == (pid, progress)
                    && seen.segment.file().is_linked() =>
            {
                seen.since.elapsed() > PATIENCE
            }
            _ => {
                self.stranger = Some(Stranger {
                    segment: segment.clone(),
                    pid,
                    since: Instant::now(),
                    progress,
                });
                false
            }
        }
    }

    /// Whether time may bring the place: its writer is not known to be alive.
    pub fn is_needed(&self) -> bool {
        self.stranger.is_some()
    }
}
