//! How often a file is opened, as the kernel tells it (inotify).
//!
//! All counts of a process share one inotify instance, which stays: a user has few of them (128), and
//! closing one that has had a watch waits for the kernel's next grace period, some 10 ms.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

/// Bytes of an event that names no file in a folder (inotify(7)).
const EVENT_SIZE: usize = size_of::<libc::inotify_event>();
/// Where `wd` and `mask` are in it.
const WATCH: usize = 0;
const MASK: usize = 4;
/// Events taken at a time, and how often: four times as many as the kernel keeps by default. Who
/// opens files faster than they can be counted must not keep us.
const BATCH: usize = 64;
const BATCHES: usize = 1024;

static SHARED: Mutex<Option<Instance>> = Mutex::new(None);

fn shared() -> MutexGuard<'static, Option<Instance>> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the times that somebody, this process included, opens one file.
#[derive(Debug)]
pub struct Opens {
    /// Whose instance it is in.
    process: u32,
    watch: i32,
    /// What the watch had counted before us.
    before: u64,
}

impl Opens {
    /// Counts from now on. An error where the system has no more watches to give.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        let mut shared = shared();
        let process = std::process::id();
        // A child that goes on after fork() needs its own: events go to whoever reads first.
        let instance = match &mut *shared {
            Some(instance) if instance.process == process => instance,
            other => other.insert(Instance::new(process)?),
        };
        // What has happened until now is the others'.
        instance.take_events();
        let watch = instance.watch(&path)?;
        let watched = instance.watched.entry(watch).or_default();
        watched.by += 1;
        Ok(Opens {
            process,
            watch,
            before: watched.count,
        })
    }

    /// How often it was opened until now; `u64::MAX` once there were too many to be counted. Two that
    /// follow each other with no close between may count once.
    pub fn count(&self) -> u64 {
        let mut shared = shared();
        let Some(instance) = self.instance(&mut shared) else {
            return u64::MAX;
        };
        instance.take_events();
        match instance.watched.get(&self.watch) {
            Some(watched) if watched.count != u64::MAX => watched.count - self.before,
            _ => u64::MAX,
        }
    }

    fn instance<'a>(&self, shared: &'a mut Option<Instance>) -> Option<&'a mut Instance> {
        (shared.as_mut()).filter(|instance| instance.process == self.process)
    }
}

impl Drop for Opens {
    fn drop(&mut self) {
        let mut shared = shared();
        let Some(instance) = self.instance(&mut shared) else {
            return;
        };
        let Some(watched) = instance.watched.get_mut(&self.watch) else {
            return;
        };
        watched.by -= 1;
        if watched.by == 0 {
            instance.watched.remove(&self.watch);
            // SAFETY: the descriptor is open. The watch is ours, or went with its file, which is an
            // error that changes nothing: the kernel does not give its number again.
            unsafe { libc::inotify_rm_watch(instance.events.as_raw_fd(), self.watch) };
            // So that what nobody wants does not fill the queue.
            instance.take_events();
        }
    }
}

#[derive(Debug)]
struct Instance {
    process: u32,
    events: File,
    watched: HashMap<i32, Watched>,
}

/// A file. Two paths can lead to one, and then have one watch.
#[derive(Debug, Default)]
struct Watched {
    count: u64,
    /// How many [`Opens`] it has.
    by: usize,
}

impl Instance {
    fn new(process: u32) -> io::Result<Self> {
        // SAFETY: takes flags, returns a new descriptor or -1.
        let fd =
            Errno::result(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) })?;
        // SAFETY: it is open, new, and nobody else's.
        let events = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Instance {
            process,
            events,
            watched: HashMap::new(),
        })
    }

    fn watch(&self, path: &CString) -> io::Result<i32> {
        // Closing too: of events that are alike and follow each other the kernel keeps one.
        let mask = libc::IN_OPEN | libc::IN_CLOSE | libc::IN_DONT_FOLLOW;
        let fd = self.events.as_raw_fd();
        // SAFETY: the descriptor is open, the path is a valid C string.
        let watch = unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask) };
        Ok(Errno::result(watch)?)
    }

    /// Counts what has happened since the last time.
    fn take_events(&mut self) {
        let mut buffer = [0; BATCH * EVENT_SIZE];
        for _ in 0..BATCHES {
            // EAGAIN: no more events.
            let Ok(len) = self.events.read(&mut buffer) else {
                return;
            };
            for event in buffer[..len].chunks_exact(EVENT_SIZE) {
                let mask = number(event, MASK) as u32;
                if mask & libc::IN_Q_OVERFLOW != 0 {
                    self.lose_count();
                } else if mask & libc::IN_OPEN != 0
                    && let Some(watched) = self.watched.get_mut(&number(event, WATCH))
                {
                    watched.count = watched.count.saturating_add(1);
                }
            }
            if len < buffer.len() {
                // That was all of them. Asking again would begin a race with who opens files.
                return;
            }
        }
        self.lose_count();
    }

    /// There were too many, of which file is not known.
    fn lose_count(&mut self) {
        for watched in self.watched.values_mut() {
            watched.count = u64::MAX;
        }
    }
}

fn number(event: &[u8], at: usize) -> i32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&event[at..at + 4]);
    i32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(path: &Path, times: usize) {
        for _ in 0..times {
            drop(File::open(path).unwrap());
        }
    }

    #[test]
    fn each_open_counts_once_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        let opens = Opens::of(&path).unwrap();
        assert_eq!(opens.count(), 0);
        file.set_len(10).unwrap();
        drop(file);
        assert_eq!(opens.count(), 0);
        // A child that another test forks has the file open until it is another program, and so the
        // close comes late now and then, but not each time.
        assert!((0..100).any(|_| {
            let before = opens.count();
            open(&path, 100);
            let counted = opens.count() - before;
            assert!((1..=100).contains(&counted));
            counted == 100
        }));
        let before = opens.count();
        let _kept = File::open(&path).unwrap();
        assert_eq!(opens.count(), before + 1);
        // The kernel may make one event of these.
        let _both = [File::open(&path).unwrap(), File::open(&path).unwrap()];
        assert!(opens.count() > before + 1);
        assert!(Opens::of(&folder.path().join("none")).is_err());
    }

    #[test]
    fn each_counts_its_own_file_and_its_own_time() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other, link] = ["one", "other", "link"].map(|name| folder.path().join(name));
        File::create(&one).unwrap();
        File::create(&other).unwrap();
        fs::hard_link(&one, &link).unwrap();
        let (of_one, of_other) = (Opens::of(&one).unwrap(), Opens::of(&other).unwrap());
        // One at a time, see above.
        let open_each = |path: &Path, times| {
            for _ in 0..times {
                open(path, 1);
                of_other.count();
            }
        };
        open_each(&one, 2);
        open_each(&other, 3);
        let later = Opens::of(&link).unwrap();
        open_each(&link, 4);
        assert_eq!((of_one.count(), of_other.count(), later.count()), (6, 3, 4));
        drop(of_one);
        open(&one, 1);
        assert_eq!((of_other.count(), later.count()), (3, 5));
        // A file that goes takes its watch with it, and no other.
        fs::remove_file(&other).unwrap();
        drop(of_other);
        open(&one, 1);
        assert_eq!(later.count(), 6);
    }
}
