//! Which processes are alive.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

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

/// What the system tells everybody of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Its command line, the words with a space between them; its name where it has none. Any bytes
    /// may be in it that are UTF-8.
    pub command: String,
    /// Its user.
    pub uid: u32,
    /// For how long it has been running.
    pub age: Option<Duration>,
    /// Whether it has been stopped (SIGSTOP, a debugger).
    pub stopped: bool,
}

impl ProcessFacts {
    /// `None` if this pid namespace has no such process, or one that has ended.
    pub fn of(pid: u64) -> Option<Self> {
        let stat = stat(pid).filter(|stat| !stat.ended)?;
        let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut command = words;
        while command.last() == Some(&0) {
            command.pop();
        }
        if command.is_empty() {
            command = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        }
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(ProcessFacts {
            command: command.trim().into(),
            uid,
            age: age(stat.started),
            stopped: stat.stopped,
        })
    }
}

/// How long ago so many clock ticks after the start of the machine were.
fn age(ticks: u64) -> Option<Duration> {
    let rate = sysconf(SysconfVar::CLK_TCK).ok().flatten()?;
    let started = Duration::try_from_secs_f64(ticks as f64 / rate as f64).ok()?;
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    Some(now.saturating_sub(started))
}

/// Whether a process has the file of this device and number in its memory; `None` where we are not
/// told.
pub fn maps_file(pid: u64, (device, number): (u64, u64)) -> Option<bool> {
    let Ok(text) = fs::read(format!("/proc/{pid}/maps")) else {
        // The kernel's own have no command line, and no files.
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return command.is_empty().then_some(false);
    };
    let device = format!("{:02x}:{:02x}", libc::major(device), libc::minor(device));
    let number = number.to_string();
    // "7f00-7f01 rw-s 00000000 00:1a 1234    /dev/shm/name", see proc(5).
    Some(String::from_utf8_lossy(&text).lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(3);
        words.next() == Some(&device) && words.next() == Some(&number)
    }))
}

/// A process in a pid namespace below ours that has this pid there and this file in its memory: its
/// pid here.
pub fn find_below(pid: u64, file: (u64, u64)) -> Option<u64> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    pids.find(|here| {
        let pids = pids_inwards(*here);
        pids.len() > 1 && pids.last() == Some(&pid) && maps_file(*here, file) == Some(true)
    })
}

/// The pids of a process, from that in our namespace to that in its own.
pub fn pids_inwards(pid: u64) -> Vec<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let words = line.unwrap_or_default().split_ascii_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

struct Stat {
    ended: bool,
    stopped: bool,
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
        stopped: matches!(state, "T" | "t"),
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
    fn what_the_system_tells_of_a_process() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = u64::from(child.id());
        // Until then it is still this program.
        let facts = loop {
            let facts = ProcessFacts::of(pid).unwrap();
            if facts.command == "sleep 100" {
                break facts;
            }
            std::thread::yield_now();
        };
        assert_eq!(facts.uid, nix::unistd::geteuid().as_raw());
        assert!(!facts.stopped && facts.age.is_some_and(|age| age < Duration::from_secs(60)));
        kill(Pid::from_raw(child.id() as i32), nix::sys::signal::SIGSTOP).unwrap();
        while !ProcessFacts::of(pid).unwrap().stopped {
            std::thread::yield_now();
        }
        let name = format!("zb-unit-maps-{}", id());
        let mut file = super::super::shm::ShmFile::create_new(&name).unwrap();
        file.reserve(4096, &|| true).unwrap();
        let meta = fs::metadata(super::super::shm::path(&name)).unwrap();
        let segment = file.map(4096);
        super::super::shm::ShmFile::unlink(&name).unwrap();
        let _segment = segment.unwrap();
        let shared = (meta.dev(), meta.ino());
        assert_eq!(maps_file(id(), shared), Some(true));
        assert_eq!(maps_file(pid, shared), Some(false));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(ProcessFacts::of(pid), None);
        assert_eq!(maps_file(pid, shared), None);
        assert_eq!(pids_inwards(id()).first(), Some(&id()));
        assert_eq!(find_below(id(), shared), None, "it is not below");
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
