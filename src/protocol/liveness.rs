//! Whether the peer of a buffer is alive.
//!
//! Between our own ends the kernel tells: each holds a lock on one byte of the segment's file,
//! which goes with its holder and is seen across pid namespaces. A v1 peer leaves only a pid (and
//! a v1 reader its lock file), which is read with care. See `docs/protocol.md`, "Alive or dead".

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::lock::LockFile;
use crate::sys::process::Process;
use crate::sys::shm::Segment;

/// How long a v1 writer that no pid of ours shows may do nothing before it counts as dead. It is
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
    /// It was seen to hold its lock byte, so it is one of ours.
    locks: bool,
    /// It was seen in this pid namespace.
    process: Option<Process>,
    /// What it had done when it was first looked at.
    progress: u64,
}

/// What else is known of the peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints<'a> {
    /// It said that it holds its lock byte.
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
                locks: hints.holds_lock,
                process: Process::find(pid),
                progress: hints.progress,
            };
        }
        if segment
            .file()
            .is_byte_locked(self.lock_byte)
            .unwrap_or(false)
        {
            seen.locks = true;
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
