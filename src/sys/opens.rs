//! How often a file is opened, as the kernel tells it (inotify).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// Bytes of an event that names no file in a folder (inotify(7)).
const EVENT_SIZE: usize = size_of::<libc::inotify_event>();
/// Where `mask` is in it.
const MASK: usize = 4;

/// Counts the times that somebody, this process included, opens one file.
#[derive(Debug)]
pub struct Opens {
    events: File,
    count: u64,
}

impl Opens {
    /// Counts from now on. An error where the system has no more watches to give.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        // SAFETY: takes flags, returns a new descriptor or -1.
        let fd =
            Errno::result(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) })?;
        // SAFETY: it is open, new, and nobody else's.
        let events = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        // Closing too: of events that are alike and follow each other the kernel keeps one.
        let mask = libc::IN_OPEN | libc::IN_CLOSE | libc::IN_DONT_FOLLOW;
        // SAFETY: the descriptor is open, the path is a valid C string.
        Errno::result(unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask) })?;
        Ok(Opens { events, count: 0 })
    }

    /// How often it was opened until now; `u64::MAX` once there were too many to be counted.
    pub fn count(&mut self) -> u64 {
        let mut buffer = [0; 64 * EVENT_SIZE];
        // It ends at EAGAIN: no more events.
        while let Ok(len @ 1..) = self.events.read(&mut buffer) {
            for event in buffer[..len].chunks_exact(EVENT_SIZE) {
                let mut mask = [0; 4];
                mask.copy_from_slice(&event[MASK..MASK + 4]);
                let mask = u32::from_ne_bytes(mask);
                if mask & libc::IN_Q_OVERFLOW != 0 {
                    self.count = u64::MAX;
                } else if mask & libc::IN_OPEN != 0 {
                    self.count = self.count.saturating_add(1);
                }
            }
        }
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_open_counts_once_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        let mut opens = Opens::of(&path).unwrap();
        assert_eq!(opens.count(), 0);
        file.set_len(10).unwrap();
        drop(file);
        assert_eq!(opens.count(), 0);
        for _ in 0..100 {
            drop(File::open(&path).unwrap());
        }
        assert_eq!(opens.count(), 100);
        let _kept = File::open(&path).unwrap();
        assert_eq!(opens.count(), 101);
        assert!(Opens::of(&folder.path().join("none")).is_err());
    }
}
