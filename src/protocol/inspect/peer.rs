//! Who is at an end of a buffer, and whether it lives: what `liveness.rs` knows, without the locks
//! that it may take and the time that it may wait.

use std::time::{Duration, SystemTime};

use crate::sys::host;
use crate::sys::look::FileFacts;
use crate::sys::process::{self, ProcessFacts};

/// Whether somebody lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// There is nobody: has not come, or has closed.
    None,
    /// Lives.
    Alive,
    /// Ended without closing.
    Dead,
    /// Its process is not to be seen from here: dead, or in another pid namespace.
    Unseen,
}

impl Life {
    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Life::None => "none",
            Life::Alive => "alive",
            Life::Dead => "dead",
            Life::Unseen => "unseen",
        }
    }
}

/// The process at an end.
pub type Process = ProcessFacts;

/// An end of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it says its pid is, in its own pid namespace; 0: nobody.
    pub pid: u64,
    /// Whether it lives.
    pub life: Life,
    /// How that is known.
    pub why: &'static str,
    /// Whether it speaks more than v1: it holds a lock while it lives.
    pub is_ours: bool,
    /// Its process, where that is to be seen, with its pid in our pid namespace.
    pub process: Option<(u64, Process)>,
}

/// What an end leaves to be seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traces {
    pub pid: u64,
    /// Its byte of the segment's file is locked.
    pub locked: bool,
    /// It says that it holds that lock while it lives.
    pub locks: bool,
    /// `None`: there is no lock file; the inner one: nobody is seen to hold it.
    pub lock_file: Option<Option<u64>>,
    /// It made the buffer, so it is older.
    pub is_maker: bool,
}

/// What clocks may be apart.
const SLACK: Duration = Duration::from_secs(2);

impl Peer {
    pub(super) fn find(traces: &Traces, file: &FileFacts) -> Self {
        let process = find_process(traces, file);
        let (life, why) = match traces {
            Traces { locked: true, .. } => (Life::Alive, "it holds its lock"),
            Traces { pid: 0, .. } => (Life::None, "nobody, or closed"),
            Traces { locks: true, .. } => (Life::Dead, "it held a lock while it lived"),
            _ if process.is_some() => (Life::Alive, "its process is here"),
            Traces {
                lock_file: Some(Some(_)),
                ..
            } => (Life::Alive, "its lock file is locked"),
            // All processes and locks are to be seen, and its are not.
            Traces {
                lock_file: Some(None),
                ..
            } if host::sees_all_processes() => (Life::Dead, "its lock file is not locked"),
            _ => (
                Life::Unseen,
                "its process is not to be seen here: it is dead, or in another pid namespace",
            ),
        };
        Peer {
            pid: traces.pid,
            life,
            why,
            is_ours: traces.locks || traces.locked,
            process: process.filter(|_| life == Life::Alive),
        }
    }
}

/// The process of an end, by what can be proved of those that have its pid, here or below.
fn find_process(traces: &Traces, file: &FileFacts) -> Option<(u64, Process)> {
    let pid = traces.pid;
    if pid == 0 {
        return None;
    }
    let here = ProcessFacts::of(pid).filter(|_| process::pids_inwards(pid).len() < 2);
    let proof = here.as_ref().and_then(|_| process::maps_file(pid, file.id));
    match (here, proof) {
        (Some(process), Some(true)) => Some((pid, process)),
        (here, proof) => {
            if let Some(other) = process::find_below(pid, file.id)
                && let Some(process) = ProcessFacts::of(other)
            {
                return Some((other, process));
            }
            // One that has not got the buffer is another process that has the same pid in our
            // namespace, or a later one. Where we may not know, it is believed.
            let believed = |process: &Process| {
                proof.is_none() && !(traces.is_maker && is_younger(process, file))
            };
            here.filter(believed).map(|process| (pid, process))
        }
    }
}

/// Whether it began after the file was made.
fn is_younger(process: &ProcessFacts, file: &FileFacts) -> bool {
    let age = |file: &FileFacts| SystemTime::now().duration_since(file.made?).ok();
    match (process.age, age(file)) {
        (Some(process), Some(file)) => process + SLACK < file,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shm;

    #[test]
    fn what_each_trace_says() {
        let name = format!("zb-unit-peer-{}", process::id());
        std::fs::write(shm::path(&name), b"x").unwrap();
        let file = FileFacts::of(&shm::path(&name)).unwrap().unwrap();
        std::fs::remove_file(shm::path(&name)).unwrap();
        let nobody = Traces {
            pid: 0,
            locked: false,
            locks: false,
            lock_file: None,
            is_maker: true,
        };
        let life = |traces: &Traces| Peer::find(traces, &file).life;
        assert_eq!(life(&nobody), Life::None);
        // Too large for any system.
        let gone = Traces {
            pid: 1 << 40,
            ..nobody
        };
        assert_eq!(life(&gone), Life::Unseen);
        assert_eq!(
            life(&Traces {
                locked: true,
                ..gone
            }),
            Life::Alive
        );
        assert_eq!(
            life(&Traces {
                locks: true,
                ..gone
            }),
            Life::Dead
        );
        let lock_file = Some(Some(1));
        assert_eq!(life(&Traces { lock_file, ..gone }), Life::Alive);
        let lock_file = Some(None);
        let expected = if host::sees_all_processes() {
            Life::Dead
        } else {
            Life::Unseen
        };
        assert_eq!(life(&Traces { lock_file, ..gone }), expected);
        // This process does not have that file: so the pid is another's.
        let us = Traces {
            pid: process::id(),
            ..nobody
        };
        assert_eq!(life(&us), Life::Unseen);
        // A locked byte says that it lives, and nothing about the process of that pid here.
        let seen = Peer::find(&Traces { locked: true, ..us }, &file);
        assert_eq!((seen.life, seen.process), (Life::Alive, None));
    }
}
