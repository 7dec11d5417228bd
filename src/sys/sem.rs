//! Named POSIX semaphores.

use std::ffi::CString;
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::shm;

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    // glibc ≥ 2.30; not yet in the libc crate.
    fn sem_clockwait(
        sem: *mut libc::sem_t,
        clock: libc::clockid_t,
        deadline: *const libc::timespec,
    ) -> libc::c_int;
}

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
    sem: NonNull<libc::sem_t>,
    /// Whether posts came so soon lately that it pays to look for them awake. Only a hint, so all
    /// accesses are Relaxed.
    soon: AtomicBool,
}

// SAFETY: sem_t is made for use from any thread of any process; the pointer stays valid until
// `sem_close` in `drop`.
unsafe impl Send for Semaphore {}
// SAFETY: as above; every sem_ function takes the semaphore as shared.
unsafe impl Sync for Semaphore {}

impl Semaphore {
    /// Makes `/name` with the count 0 and exactly `mode`; `EEXIST` if there is one.
    pub fn create_new(name: &str, mode: u32) -> io::Result<Self> {
        let c_name = c_name(name)?;
        // SAFETY: a valid C string; the variadic arguments are those that O_CREAT asks for.
        let sem = unsafe {
            libc::sem_open(
                c_name.as_ptr(),
                libc::O_CREAT | libc::O_EXCL,
                0o600 as libc::c_uint,
                0 as libc::c_uint,
            )
        };
        let sem = Self::from_raw(sem)?;
        // sem_open applies the umask, and the umask of a process is not ours to change. Where the
        // file is elsewhere (another libc), the mode stays 0600.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path(name));
        if let Ok(file) = opened {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(sem)
    }

    /// Opens the existing `/name`.
    pub fn open(name: &str) -> io::Result<Self> {
        let name = c_name(name)?;
        // SAFETY: a valid C string; without O_CREAT there are no further arguments.
        Self::from_raw(unsafe { libc::sem_open(name.as_ptr(), 0) })
    }

    fn from_raw(sem: *mut libc::sem_t) -> io::Result<Self> {
        if sem == libc::SEM_FAILED {
            return Err(Errno::last().into());
        }
        NonNull::new(sem)
            .map(|sem| Semaphore {
                sem,
                soon: AtomicBool::new(false),
            })
            .ok_or_else(|| Errno::EINVAL.into())
    }

    /// Removes the name; open semaphores live on.
    pub fn unlink(name: &str) -> io::Result<()> {
        let name = c_name(name)?;
        // SAFETY: a valid C string.
        Errno::result(unsafe { libc::sem_unlink(name.as_ptr()) })?;
        Ok(())
    }

    /// Gives a semaphore another name, in place of what has that. It stays open.
    pub fn rename(from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(path(from), path(to))
    }

    /// Adds one. A count at its maximum stays there: the other side has more than enough.
    pub fn post(&self) -> io::Result<()> {
        // SAFETY: the semaphore is open.
        match Errno::result(unsafe { libc::sem_post(self.sem.as_ptr()) }) {
            Ok(_) | Err(Errno::EOVERFLOW) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    /// Takes one if there is one.
    pub fn try_wait(&self) -> io::Result<bool> {
        loop {
            // SAFETY: the semaphore is open.
            match Errno::result(unsafe { libc::sem_trywait(self.sem.as_ptr()) }) {
                Ok(_) => return Ok(true),
                Err(Errno::EAGAIN) => return Ok(false),
                // A signal says nothing about time or count.
                Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
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
        let deadline = began + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wait_once(left) {
                Ok(()) => {
                    let soon = began.elapsed() < SHORT_SLEEP;
                    self.soon.store(soon, Ordering::Relaxed);
                    return Ok(true);
                }
                Err(Errno::ETIMEDOUT) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }

    #[cfg(target_env = "gnu")]
    fn wait_once(&self, left: Duration) -> Result<(), Errno> {
        let deadline = after(libc::CLOCK_MONOTONIC, left);
        // SAFETY: the semaphore is open and the deadline a valid timespec.
        let done = unsafe { sem_clockwait(self.sem.as_ptr(), libc::CLOCK_MONOTONIC, &deadline) };
        Errno::result(done).map(drop)
    }

    /// Other C libraries only know the wall clock; callers wait in short slices, so a jump of it
    /// forward costs nothing and one backward is a longer slice.
    #[cfg(not(target_env = "gnu"))]
    fn wait_once(&self, left: Duration) -> Result<(), Errno> {
        let deadline = after(libc::CLOCK_REALTIME, left);
        // SAFETY: the semaphore is open and the deadline a valid timespec.
        Errno::result(unsafe { libc::sem_timedwait(self.sem.as_ptr(), &deadline) }).map(drop)
    }

    /// The count at this moment.
    pub fn value(&self) -> io::Result<u32> {
        let mut value = 0;
        // SAFETY: the semaphore is open and `value` an int to write to.
        Errno::result(unsafe { libc::sem_getvalue(self.sem.as_ptr(), &mut value) })?;
        Ok(u32::try_from(value).unwrap_or(0))
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: open until here, and nothing uses it after.
        unsafe { libc::sem_close(self.sem.as_ptr()) };
    }
}

fn c_name(name: &str) -> io::Result<CString> {
    CString::new(format!("/{name}")).map_err(|_| Errno::EINVAL.into())
}

fn after(clock: libc::clockid_t, left: Duration) -> libc::timespec {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `now` is room for a timespec; both clocks always exist, and all zeros is valid.
    let mut at = unsafe {
        libc::clock_gettime(clock, now.as_mut_ptr());
        now.assume_init()
    };
    let nanos = at.tv_nsec + i64::from(left.subsec_nanos());
    let secs = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    at.tv_sec = at
        .tv_sec
        .saturating_add(secs)
        .saturating_add(nanos / 1_000_000_000);
    at.tv_nsec = nanos % 1_000_000_000;
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unnamed(tag: &str) -> Semaphore {
        let name = format!("zb-unit-sem-{}-{tag}", std::process::id());
        let sem = Semaphore::create_new(&name, 0o600).unwrap();
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
    fn a_full_count_is_no_error() {
        let sem = unnamed("full");
        // The count is the low half of glibc's sem_t on 64-bit machines.
        // SAFETY: the semaphore is open, at least 8 bytes long, and used by this thread alone.
        unsafe { sem.sem.as_ptr().cast::<u32>().write(i32::MAX as u32) };
        assert_eq!(sem.value().unwrap(), i32::MAX as u32);
        sem.post().unwrap();
        assert_eq!(sem.value().unwrap(), i32::MAX as u32);
    }

    #[test]
    fn an_absent_one_is_not_found() {
        let err = Semaphore::open("zb-unit-sem-none").unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
    }
}
