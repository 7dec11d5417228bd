//! Which processes are alive.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// The process id of this process.
pub fn id() -> u64 {
    std::process::id().into()
}

/// A process as it was first seen, so that a later one with the same id is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: u64,
    /// Clock ticks since boot; `None` where /proc does not tell.
    started: Option<u64>,
}

impl Process {
    /// Looks at `pid`; `None` if this pid namespace has no such process (which does not say that
    /// there is none: it may be in another namespace).
    pub fn find(pid: u64) -> Option<Self> {
        exists(pid).then(|| Process {
            pid,
            started: stat(pid).map(|stat| stat.started),
        })
    }

    /// Whether it still runs. Exact where /proc is mounted: a zombie and a reused id are dead.
    pub fn is_alive(&self) -> bool {
        match (stat(self.pid), self.started) {
            (Some(now), Some(started)) => now.started == started && !now.ended,
            (Some(now), None) => !now.ended,
            (None, _) => exists(self.pid),
        }
    }
}

/// `EPERM` means that it exists and belongs to somebody else.
fn exists(pid: u64) -> bool {
    match i32::try_from(pid) {
        Ok(raw) if raw > 0 => {
            matches!(kill(Pid::from_raw(raw), None), Ok(()) | Err(Errno::EPERM))
                && !stat(pid).is_some_and(|stat| stat.ended)
        }
        _ => false,
    }
}

struct Stat {
    ended: bool,
    started: u64,
}

/// Fields 3 (state) and 22 (start time) of /proc/PID/stat (proc(5)).
fn stat(pid: u64) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The command, field 2, is in brackets and may itself hold brackets and spaces.
    let rest = text.get(text.iter().rposition(|byte| *byte == b')')? + 1..)?;
    let mut fields = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    Some(Stat {
        ended: matches!(state, "Z" | "X" | "x"),
        started: fields.nth(18)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_alive_until_it_is_killed_even_before_it_is_waited_for() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let seen = Process::find(child.id().into()).unwrap();
        assert!(seen.is_alive());
        child.kill().unwrap();
        // Not waited for yet: it becomes a zombie, which is dead.
        while seen.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!seen.is_alive());
        assert_eq!(Process::find(child.id().into()), None);
    }

    #[test]
    fn a_process_of_another_user_is_alive() {
        // pid 1 belongs to root; as root the signal is allowed, and it exists in either case.
        assert!(Process::find(1).unwrap().is_alive());
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let other = Process {
            pid: id(),
            started: Some(1),
        };
        assert!(!other.is_alive());
    }

    #[test]
    fn impossible_ids_are_nobody() {
        for pid in [
            0,
            u64::MAX,
            1 << 31,
            (1 << 32) + u64::from(std::process::id()),
        ] {
            assert_eq!(Process::find(pid), None);
        }
    }
}
