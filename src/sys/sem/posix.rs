//! Semaphores by the functions of the C library.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::time::Duration;

use nix::errno::Errno;

use crate::sys::access::Access;

/// How many are forgotten at a time: each is a call.
const MOST_AT_ONCE: u32 = 1024;

/// An open semaphore.
#[derive(Debug)]
pub struct Count(NonNull<libc::sem_t>);

// SAFETY: sem_t is made for use from any thread of any process; the pointer stays valid until
// `sem_close` in `drop`.
unsafe impl Send for Count {}
// SAFETY: as above; every sem_ function takes the semaphore as shared.
unsafe impl Sync for Count {}

impl Count {
    /// Makes one; `EEXIST` if there is one. Where it is not known where the library keeps it, the
    /// mode stays 0600 less the umask, and the group that of the process.
    pub fn create_new(name: &str, access: Access) -> io::Result<Self> {
        let c_name = c_name(name)?;
        // SAFETY: a valid C string; the variadic arguments are those that O_CREAT asks for.
        let made = Self::from_raw(unsafe {
            libc::sem_open(
                c_name.as_ptr(),
                libc::O_CREAT | libc::O_EXCL,
                0o600 as libc::c_uint,
                0 as libc::c_uint,
            )
        })?;
        if cfg!(target_env = "gnu") {
            access.give(&File::open(super::path(name))?)?;
        }
        Ok(made)
    }

    pub fn open(name: &str) -> io::Result<Self> {
        let name = c_name(name)?;
        // SAFETY: a valid C string; without O_CREAT there are no further arguments.
        Self::from_raw(unsafe { libc::sem_open(name.as_ptr(), 0) })
    }

    fn from_raw(sem: *mut libc::sem_t) -> io::Result<Self> {
        if sem == libc::SEM_FAILED {
            return Err(Errno::last().into());
        }
        Ok(NonNull::new(sem).map(Count).ok_or(Errno::EINVAL)?)
    }

    /// Adds one, unless there are as many as there can be.
    pub fn post(&self) -> io::Result<()> {
        // SAFETY: the semaphore is open.
        match Errno::result(unsafe { libc::sem_post(self.0.as_ptr()) }) {
            Ok(_) | Err(Errno::EOVERFLOW) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    /// Takes one if there is one.
    pub fn try_wait(&self) -> io::Result<bool> {
        loop {
            // SAFETY: the semaphore is open.
            match Errno::result(unsafe { libc::sem_trywait(self.0.as_ptr()) }) {
                Ok(_) => return Ok(true),
                Err(Errno::EAGAIN) => return Ok(false),
                // A signal says nothing about time or count.
                Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// Sleeps until there is one, and takes it; at most so long, or less. By the wall clock, which
    /// is all that POSIX knows: callers wait in short slices, so a jump of it forward costs nothing
    /// and one backward is a longer slice.
    pub fn wait_once(&self, left: Duration) -> io::Result<bool> {
        let deadline = after(left);
        // SAFETY: the semaphore is open and the deadline a valid timespec.
        match Errno::result(unsafe { libc::sem_timedwait(self.0.as_ptr(), &deadline) }) {
            Ok(_) => Ok(true),
            Err(Errno::ETIMEDOUT | Errno::EINTR) => Ok(false),
            Err(err) => Err(err.into()),
        }
    }

    pub fn value(&self) -> io::Result<u32> {
        let mut value = 0;
        // SAFETY: the semaphore is open and `value` an int to write to.
        Errno::result(unsafe { libc::sem_getvalue(self.0.as_ptr(), &mut value) })?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Takes so many, or the first of them.
    pub fn forget(&self, posts: u32) -> io::Result<()> {
        for _ in 0..posts.min(MOST_AT_ONCE) {
            self.try_wait()?;
        }
        Ok(())
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        // SAFETY: open until here, and nothing uses it after.
        unsafe { libc::sem_close(self.0.as_ptr()) };
    }
}

fn c_name(name: &str) -> io::Result<CString> {
    CString::new(format!("/{name}")).map_err(|_| Errno::EINVAL.into())
}

fn after(left: Duration) -> libc::timespec {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `now` is room for a timespec; the clock always exists, and all zeros is valid.
    let mut at = unsafe {
        libc::clock_gettime(libc::CLOCK_REALTIME, now.as_mut_ptr());
        now.assume_init()
    };
    let nanos = at.tv_nsec + libc::c_long::from(left.subsec_nanos() as i32);
    let secs = libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX);
    at.tv_sec = at
        .tv_sec
        .saturating_add(secs)
        .saturating_add((nanos / 1_000_000_000) as libc::time_t);
    at.tv_nsec = nanos % 1_000_000_000;
    at
}
