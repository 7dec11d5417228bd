//! Waiting for what happens to a file, as the kernel tells it (inotify), or until somebody rings.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Instances that nobody uses, of the processes that made them. They are kept since closing one that
/// has had a watch waits for the kernel's next grace period, some 10 ms.
static IDLE: Mutex<Vec<(u32, Inotify)>> = Mutex::new(Vec::new());
/// A user has few of them (128).
const MOST_IDLE: usize = 8;

fn idle() -> MutexGuard<'static, Vec<(u32, Inotify)>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether somebody closes a file, who may have ended with that, removes its name, or touches it.
#[derive(Debug)]
pub struct Changes {
    /// `None` when it is dropped.
    events: Option<Inotify>,
    /// A child that goes on after fork() shares the instance.
    process: u32,
    watch: WatchDescriptor,
}

impl Changes {
    /// From now on. An error where the system has no more of that to give.
    pub fn of(path: &Path) -> io::Result<Self> {
        let process = process::id();
        let kept = {
            let mut idle = idle();
            idle.retain(|(maker, _)| *maker == process);
            idle.pop()
        };
        let events = match kept {
            Some((_, events)) => events,
            None => Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
        };
        let which = AddWatchFlags::IN_CLOSE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_DONT_FOLLOW;
        let watch = events.add_watch(path, which)?;
        Ok(Changes {
            events: Some(events),
            process,
            watch,
        })
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let Some(events) = self.events.take() else {
            return;
        };
        if self.process != process::id() {
            return;
        }
        // It may have gone with its file.
        let _ = events.rm_watch(self.watch);
        // With no watch no more events come.
        while events.read_events().is_ok_and(|events| !events.is_empty()) {}
        let mut idle = idle();
        if idle.len() < MOST_IDLE {
            idle.push((self.process, events));
        }
    }
}

/// What a thread waits for besides, so that another can end its wait.
#[derive(Debug)]
pub struct Bell(EventFd);

impl Bell {
    /// An error where the process may not open more files.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Bell(EventFd::from_flags(flags)?))
    }

    /// Ends a wait, or the next one.
    pub fn ring(&self) {
        // It only fails where it has been rung and not been heard very often.
        let _ = self.0.write(1);
    }

    /// Waits until it is rung, something happens to the file, or the time is over (or less: a signal
    /// ends it, too). True if anything happened.
    pub fn wait(&self, changes: Option<&Changes>, time: Duration) -> bool {
        let bell = PollFd::new(self.0.as_fd(), PollFlags::POLLIN);
        let file = (changes.and_then(|changes| changes.events.as_ref()))
            .map(|events| PollFd::new(events.as_fd(), PollFlags::POLLIN));
        let mut fds: Vec<PollFd<'_>> = [Some(bell), file].into_iter().flatten().collect();
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, time) {
            Ok(0) | Err(Errno::EINTR) => false,
            Ok(_) => {
                // It is quiet from here on. An error says that it was.
                let _ = self.0.read();
                true
            }
            Err(_) => {
                // No memory: not as fast as it can be asked again.
                std::thread::sleep(Duration::from_millis(1));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    const LONG: Duration = Duration::from_secs(120);

    #[test]
    fn a_bell_rings_once() {
        let bell = Bell::new().unwrap();
        assert!(!bell.wait(None, Duration::ZERO));
        bell.ring();
        bell.ring();
        assert!(bell.wait(None, LONG));
        assert!(!bell.wait(None, Duration::ZERO));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| bell.wait(None, LONG));
            bell.ring();
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn who_closes_removes_or_touches_a_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        let bell = Bell::new().unwrap();
        // More often than instances are kept.
        for _ in 0..3 * MOST_IDLE {
            let open = File::open(&path).unwrap();
            let changes = Changes::of(&path).unwrap();
            assert!(!bell.wait(Some(&changes), Duration::ZERO));
            drop(open);
            assert!(bell.wait(Some(&changes), LONG));
        }
        let others: Vec<_> = (0..3).map(|_| Changes::of(&path).unwrap()).collect();
        let now = std::time::SystemTime::now();
        let touched = fs::FileTimes::new().set_accessed(now).set_modified(now);
        file.set_times(touched).unwrap();
        assert!(bell.wait(Some(&others[0]), LONG));
        drop(others);
        let changes = Changes::of(&path).unwrap();
        assert!(!bell.wait(Some(&changes), Duration::ZERO));
        fs::remove_file(&path).unwrap();
        assert!(bell.wait(Some(&changes), LONG));
        assert!(Changes::of(&path).is_err());
    }
}
