//! Named POSIX semaphores.

use std::ffi::CString;
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::slice;
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
    /// Makes `/name` with the count 0 and exactly `mode`, in place of what has that name. It is made
    /// under another name that nobody else uses, in place of a leftover: who is killed meanwhile
    /// leaves that at most.
    #[cfg(target_env = "gnu")]
    pub fn create(name: &str, other_name: &str, mode: u32) -> io::Result<Self> {
        match Self::unlink(other_name) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let made = Self::create_new(other_name, mode).and_then(|sem| {
            Self::rename(other_name, name)?;
            Ok(sem)
        });
        if made.is_err() {
            let _ = Self::unlink(other_name);
        }
        made
    }

    /// Other libraries keep their semaphores elsewhere.
    #[cfg(not(target_env = "gnu"))]
    pub fn create(name: &str, _other_name: &str, mode: u32) -> io::Result<Self> {
        match Self::unlink(name) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        Self::create_new(name, mode)
    }

    /// Makes `/name`; `EEXIST` if there is one. Nobody may open it before this returns.
    ///
    /// What sem_open does with O_CREAT, step by step, but for the file of a random name under which
    /// that begins: it would stay for ever if we were killed then.
    #[cfg(target_env = "gnu")]
    fn create_new(name: &str, mode: u32) -> io::Result<Self> {
        let mut sem = MaybeUninit::<libc::sem_t>::zeroed();
        // SAFETY: room for a sem_t; shared by processes, with the count 0.
        Errno::result(unsafe { libc::sem_init(sem.as_mut_ptr(), 1, 0) })?;
        // SAFETY: every byte was set to zero at least, and a semaphore that nobody has used is just
        // its bytes: sem_open itself writes it to a file like this.
        let bytes = unsafe { slice::from_raw_parts(sem.as_ptr().cast(), size_of::<libc::sem_t>()) };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path(name))?;
        file.write_all(bytes)?;
        // Whatever the umask is, which applies to a file that is made.
        file.set_permissions(Permissions::from_mode(mode))?;
        Self::open(name)
    }

    /// The mode stays 0600 less the umask.
    #[cfg(not(target_env = "gnu"))]
    fn create_new(name: &str, _mode: u32) -> io::Result<Self> {
        let c_name = c_name(name)?;
        // SAFETY: a valid C string; the variadic arguments are those that O_CREAT asks for.
        Self::from_raw(unsafe {
            libc::sem_open(
                c_name.as_ptr(),
                libc::O_CREAT | libc::O_EXCL,
                0o600 as libc::c_uint,
                0 as libc::c_uint,
            )
        })
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
    fn it_takes_the_place_of_what_has_its_name_or_was_left_under_the_other() {
        let (name, other) = ["name", "other"]
            .map(|tag| format!("zb-unit-sem-{}-create-{tag}", std::process::id()))
            .into();
        let old = Semaphore::create(&name, &other, 0o666).unwrap();
        old.post().unwrap();
        std::fs::write(path(&other), b"left").unwrap();
        let new = Semaphore::create(&name, &other, 0o640).unwrap();
        let mode = std::fs::metadata(path(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(!path(&other).exists());
        let opened = Semaphore::open(&name).unwrap();
        opened.post().unwrap();
        assert_eq!((old.value().unwrap(), new.value().unwrap()), (1, 1));
        Semaphore::unlink(&name).unwrap();
        assert!(new.try_wait().unwrap());
        // What cannot be replaced is an error, which leaves nothing.
        std::fs::create_dir(path(&name)).unwrap();
        assert!(Semaphore::create(&name, &other, 0o600).is_err());
        assert!(!path(&other).exists());
        std::fs::remove_dir(path(&name)).unwrap();
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
