//! Named POSIX semaphores.

#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
mod glibc;
#[cfg(not(all(target_env = "gnu", target_pointer_width = "64")))]
mod posix;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
use glibc::Count;
#[cfg(not(all(target_env = "gnu", target_pointer_width = "64")))]
use posix::Count;

use super::access::Access;
use super::shm::{self, ShmFile};

/// How long [`Semaphore::try_wait_briefly`] looks: about what it costs to be put to sleep and woken.
const BRIEFLY: Duration = Duration::from_micros(20);
/// A sleep that was shorter than this, waking included, need not have been one.
const SHORT_SLEEP: Duration = Duration::from_micros(60);

/// The path under which glibc keeps the semaphore `/name`.
pub fn path(name: &str) -> PathBuf {
    shm::path(&format!("sem.{name}"))
}

/// A named semaphore, closed when dropped.
#[derive(Debug)]
pub struct Semaphore {
    count: Count,
    /// Whether posts came so soon lately that it pays to look for them awake. Only a hint, so all
    /// accesses are Relaxed.
    soon: AtomicBool,
}

impl Semaphore {
    /// Makes `/name` with the count 0 and exactly this access, in place of what has that name. It is made
    /// under another name that nobody else uses, in place of a leftover: who is killed meanwhile
    /// leaves that at most.
    #[cfg(target_env = "gnu")]
    pub fn create(name: &str, other_name: &str, access: Access) -> io::Result<Self> {
        match Self::unlink(other_name) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let made = Self::create_new(other_name, access).and_then(|sem| {
            Self::rename(other_name, name)?;
            Ok(sem)
        });
        if made.is_err() {
            // The first error counts.
            let _ = Self::unlink(other_name);
        }
        made
    }

    /// Other libraries keep their semaphores elsewhere.
    #[cfg(not(target_env = "gnu"))]
    pub fn create(name: &str, _other_name: &str, access: Access) -> io::Result<Self> {
        match Self::unlink(name) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        Self::create_new(name, access)
    }

    /// Makes `/name`; `EEXIST` if there is one.
    fn create_new(name: &str, access: Access) -> io::Result<Self> {
        Count::create_new(name, access).map(Self::of)
    }

    /// Opens the existing `/name`.
    pub fn open(name: &str) -> io::Result<Self> {
        Count::open(name).map(Self::of)
    }

    /// When `/name` was made, where that is noted.
    pub fn born(name: &str) -> Option<SystemTime> {
        fs::metadata(path(name)).ok()?.created().ok()
    }

    fn of(count: Count) -> Self {
        Semaphore {
            count,
            soon: AtomicBool::new(false),
        }
    }

    /// Removes the name; open semaphores live on.
    pub fn unlink(name: &str) -> io::Result<()> {
        ShmFile::unlink(&format!("sem.{name}"))
    }

    /// Gives a semaphore another name, in place of what has that. It stays open.
    pub fn rename(from: &str, to: &str) -> io::Result<()> {
        fs::rename(path(from), path(to))
    }

    /// Adds one. A count at its maximum stays there: the other side has more than enough.
    pub fn post(&self) -> io::Result<()> {
        self.count.post()
    }

    /// Takes one if there is one.
    pub fn try_wait(&self) -> io::Result<bool> {
        self.count.try_wait()
    }

    /// Takes one if there is one, or if one comes within some microseconds and others did lately:
    /// two processes that keep up with each other then go on without sleeping and waking each other
    /// for every frame. Where posts are further apart, or there is one processor only, it does not
    /// look for long twice.
    pub fn try_wait_briefly(&self) -> io::Result<bool> {
        if self.try_wait()? {
            return Ok(true);
        }
        if !self.soon.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let began = Instant::now();
        while began.elapsed() < BRIEFLY {
            for _ in 0..16 {
                std::hint::spin_loop();
            }
            if self.try_wait()? {
                return Ok(true);
            }
        }
        self.soon.store(false, Ordering::Relaxed);
        Ok(false)
    }

    /// Takes one, waiting at most `timeout` by the monotonic clock; false when the time is over.
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<bool> {
        if self.try_wait()? {
            return Ok(true);
        }
        let began = Instant::now();
        loop {
            // By the monotonic clock, whatever clock the sleep goes by.
            let left = timeout.saturating_sub(began.elapsed());
            if self.count.wait_once(left)? {
                let soon = began.elapsed() < SHORT_SLEEP;
                self.soon.store(soon, Ordering::Relaxed);
                return Ok(true);
            }
            if began.elapsed() >= timeout {
                return Ok(false);
            }
        }
    }

    /// Takes as many as were just counted ([`Semaphore::value`]), unless there are more or fewer now.
    pub fn forget(&self, count: u32) -> io::Result<()> {
        self.count.forget(count)
    }

    /// The count at this moment.
    pub fn value(&self) -> io::Result<u32> {
        self.count.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, PermissionsExt};

    fn unnamed(tag: &str) -> Semaphore {
        let name = format!("zb-unit-sem-{}-{tag}", std::process::id());
        let sem = Semaphore::create_new(&name, Access::mode(0o600)).unwrap();
        Semaphore::unlink(&name).unwrap();
        sem
    }

    #[test]
    fn counts() {
        let sem = unnamed("counts");
        assert!(!sem.try_wait().unwrap());
        sem.post().unwrap();
        sem.post().unwrap();
        assert_eq!(sem.value().unwrap(), 2);
        assert!(sem.wait_timeout(Duration::ZERO).unwrap());
        assert!(sem.try_wait().unwrap());
        assert!(!sem.wait_timeout(Duration::from_millis(1)).unwrap());
    }

    #[test]
    fn it_takes_the_place_of_what_has_its_name_or_was_left_under_the_other() {
        let (name, other) = ["name", "other"]
            .map(|tag| format!("zb-unit-sem-{}-create-{tag}", std::process::id()))
            .into();
        let old = Semaphore::create(&name, &other, Access::mode(0o666)).unwrap();
        old.post().unwrap();
        fs::write(path(&other), b"left").unwrap();
        let new = Semaphore::create(&name, &other, Access::mode(0o640)).unwrap();
        let mode = fs::metadata(path(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(!path(&other).exists());
        let opened = Semaphore::open(&name).unwrap();
        opened.post().unwrap();
        assert_eq!((old.value().unwrap(), new.value().unwrap()), (1, 1));
        Semaphore::unlink(&name).unwrap();
        assert!(new.try_wait().unwrap());
        // What cannot be replaced is an error, which leaves nothing.
        fs::create_dir(path(&name)).unwrap();
        assert!(Semaphore::create(&name, &other, Access::mode(0o600)).is_err());
        assert!(!path(&other).exists());
        fs::remove_dir(path(&name)).unwrap();
    }

    /// One whose file another process would write to.
    fn open_to_others(tag: &str) -> (Semaphore, fs::File) {
        let name = format!("zb-unit-sem-{}-{tag}", std::process::id());
        let sem = Semaphore::create_new(&name, Access::mode(0o600)).unwrap();
        let file = fs::OpenOptions::new().write(true).open(path(&name));
        Semaphore::unlink(&name).unwrap();
        (sem, file.unwrap())
    }

    #[test]
    fn a_full_count_is_no_error() {
        let (sem, file) = open_to_others("full");
        // The count is the low half of glibc's sem_t on 64-bit machines.
        for count in [i32::MAX as u32, u32::MAX] {
            file.write_all_at(&count.to_le_bytes(), 0).unwrap();
            sem.post().unwrap();
            assert_eq!(sem.value().unwrap(), i32::MAX as u32);
            assert!(sem.try_wait().unwrap());
        }
    }

    #[test]
    fn what_was_counted_can_be_taken_at_once() {
        let (sem, file) = open_to_others("forget");
        for _ in 0..5 {
            sem.post().unwrap();
        }
        sem.forget(4).unwrap();
        sem.forget(6).unwrap();
        assert_eq!(sem.value().unwrap(), 5);
        sem.forget(5).unwrap();
        assert_eq!(sem.value().unwrap(), 0);
        file.write_all_at(&[0xff; 4], 0).unwrap();
        sem.forget(sem.value().unwrap()).unwrap();
        assert_eq!(sem.value().unwrap(), 0);
    }

    #[test]
    #[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
    fn it_is_one_with_those_of_the_c_library_which_wake_each_other() {
        let name = format!("zb-unit-sem-{}-c", std::process::id());
        let c_name = std::ffi::CString::new(format!("/{name}")).unwrap();
        let ours = Semaphore::create_new(&name, Access::mode(0o600)).unwrap();
        // SAFETY: a valid C string.
        let theirs = unsafe { libc::sem_open(c_name.as_ptr(), 0) };
        assert_ne!(theirs, libc::SEM_FAILED);
        let theirs = theirs as usize;
        Semaphore::unlink(&name).unwrap();
        // SAFETY: open until the end of this test.
        let post = || assert_eq!(unsafe { libc::sem_post(theirs as *mut libc::sem_t) }, 0);
        // SAFETY: as above.
        let wait = || assert_eq!(unsafe { libc::sem_wait(theirs as *mut libc::sem_t) }, 0);
        post();
        post();
        assert_eq!(ours.value().unwrap(), 2);
        assert!(ours.try_wait().unwrap());
        wait();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..1000 {
                    wait();
                    post();
                }
            });
            // Each takes what it has posted itself, or the other's: all the same, they come to an
            // end only if nobody sleeps through a post.
            for _ in 0..1000 {
                ours.post().unwrap();
                assert!(ours.wait_timeout(Duration::from_secs(120)).unwrap());
            }
            ours.post().unwrap();
        });
        // SAFETY: open until here.
        unsafe { libc::sem_close(theirs as *mut libc::sem_t) };
    }

    #[test]
    fn whatever_bytes_somebody_writes_they_end_no_process() {
        let (sem, file) = open_to_others("bytes");
        for byte in 0..=255 {
            // A count of 0, so that it sleeps.
            let mut bytes = [byte; 32];
            bytes[..4].fill(0);
            file.write_all_at(&bytes, 0).unwrap();
            assert!(!sem.wait_timeout(Duration::from_millis(1)).unwrap());
            file.write_all_at(&[byte; 32], 0).unwrap();
            sem.post().unwrap();
            sem.try_wait().unwrap();
            sem.value().unwrap();
        }
    }

    #[test]
    fn one_that_was_truncated_is_an_error() {
        let (sem, file) = open_to_others("short");
        std::thread::scope(|scope| {
            // Also while somebody sleeps on it.
            let waiting = scope.spawn(|| {
                // It need not have been truncated when the first is over.
                let wait = |_| match sem.wait_timeout(Duration::from_millis(50)) {
                    Ok(false) => None,
                    other => Some(other),
                };
                (0..2400).find_map(wait).expect("no error")
            });
            file.set_len(0).unwrap();
            assert!(sem.post().is_err());
            assert!(waiting.join().unwrap().is_err());
        });
        assert!(sem.try_wait().is_err() && sem.value().is_err());
        let name = format!("zb-unit-sem-{}-empty", std::process::id());
        fs::write(path(&name), [0; 31]).unwrap();
        assert!(Semaphore::open(&name).is_err());
        Semaphore::unlink(&name).unwrap();
    }

    #[test]
    fn an_absent_one_is_not_found() {
        let err = Semaphore::open("zb-unit-sem-none").unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
    }
}
