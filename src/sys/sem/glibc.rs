//! The semaphores of glibc on 64-bit machines, with system calls of our own.
//!
//! A peer can write to what a semaphore is made of, and glibc's functions trust that: a wrong byte
//! makes them ask the kernel for something else, and when its answer is none that they expect, or
//! the file was truncated while they wait, they end the process. What glibc does with a `sem_t` is
//! the same since version 2.21, and has to stay so, since programs share them: the first word is
//! the count (lower half) and how many wait for it (upper half); who waits does so on the count.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::OpenOptionsExt;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;

use crate::sys::access::Access;
use crate::sys::fault::{Gone, Guard};

const SIZE: usize = size_of::<libc::sem_t>();
/// Where in the first word they are counted that wait.
const WAITERS: u32 = 32;
const WAITER: u64 = 1 << WAITERS;
/// SEM_VALUE_MAX.
const MOST: u32 = i32::MAX as u32;

/// An open semaphore.
#[derive(Debug)]
pub struct Count {
    /// Before the mapping, which goes after it.
    _guard: Guard,
    gone: Gone,
    map: MmapRaw,
}

fn count(word: u64) -> u32 {
    word as u32
}

impl Count {
    /// Makes one; `EEXIST` if there is one. Nobody may open it before this returns.
    ///
    /// What sem_open does with O_CREAT, step by step, but for the file of a random name under which
    /// that begins: it would stay for ever if we were killed then.
    pub fn create_new(name: &str, access: Access) -> io::Result<Self> {
        let mut sem = MaybeUninit::<libc::sem_t>::zeroed();
        // SAFETY: room for a sem_t; shared by processes, with the count 0.
        Errno::result(unsafe { libc::sem_init(sem.as_mut_ptr(), 1, 0) })?;
        // SAFETY: every byte was set to zero at least, and a semaphore that nobody has used is just
        // its bytes: sem_open itself writes it to a file like this.
        let bytes = unsafe { slice::from_raw_parts(sem.as_ptr().cast::<u8>(), SIZE) };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(super::path(name))?;
        file.write_all(bytes)?;
        access.give(&file)?;
        Self::map(&file)
    }

    pub fn open(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(super::path(name))?;
        Self::map(&file)
    }

    fn map(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() < SIZE as u64 {
            return Err(io::Error::other("it is no semaphore"));
        }
        let map = MmapOptions::new().len(SIZE).map_raw(file)?;
        let gone = Gone::default();
        let start = map.as_ptr() as usize;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        Ok(Count {
            _guard: Guard::new(start..start + SIZE, rights, &gone),
            gone,
            map,
        })
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the first word of a mapping, which is page-aligned and lives as long as `self`;
        // glibc's accesses are atomic, too.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast()) }
    }

    /// Whether what was done with it was done with memory that is there.
    fn there<T>(&self, done: T) -> io::Result<T> {
        if self.gone.is_set() {
            let what = "somebody truncated it, or /dev/shm had no room for it";
            return Err(io::Error::other(what));
        }
        Ok(done)
    }

    /// Adds one, unless there are as many as there can be.
    pub fn post(&self) -> io::Result<()> {
        let more = |word: u64| (count(word) < MOST).then(|| word + 1);
        // Release, with the Acquire in `try_wait` and `wait_once`, here and in glibc.
        let added = (self.word()).fetch_update(Ordering::Release, Ordering::Relaxed, more);
        if added.is_ok_and(|word| word >= WAITER) {
            // It says how many were woken. That there is no such memory is seen below.
            let _ = self.futex(libc::FUTEX_WAKE, 1, None);
        }
        self.there(())
    }

    /// Takes one if there is one.
    pub fn try_wait(&self) -> io::Result<bool> {
        let less = |word: u64| (count(word) > 0).then(|| word - 1);
        // Acquire, with the Release in `post`.
        let taken = (self.word()).fetch_update(Ordering::Acquire, Ordering::Relaxed, less);
        self.there(taken.is_ok())
    }

    /// Sleeps until there may be one, and takes it if there is; at most so long, or less.
    pub fn wait_once(&self, left: Duration) -> io::Result<bool> {
        let word = self.word();
        // Who posts looks at it. Relaxed, as in glibc: it is one word.
        word.fetch_add(WAITER, Ordering::Relaxed);
        // It only sleeps while the count is 0. Whatever ended the sleep, the count tells.
        let _ = self.futex(libc::FUTEX_WAIT, 0, Some(left));
        // Relaxed: only a guess for the exchange.
        let now = word.load(Ordering::Relaxed);
        // Acquire, with the Release in `post`.
        let taken = count(now) > 0
            && (word.compare_exchange(
                now,
                now.wrapping_sub(WAITER + 1),
                Ordering::Acquire,
                Ordering::Relaxed,
            ))
            .is_ok();
        if !taken {
            // Relaxed: as when it was added.
            word.fetch_sub(WAITER, Ordering::Relaxed);
        }
        self.there(taken)
    }

    pub fn value(&self) -> io::Result<u32> {
        // Acquire, with the Release in `post`: what they were posted for is seen after this.
        self.there(count(self.word().load(Ordering::Acquire)).min(MOST))
    }

    /// Takes so many, if there are just so many.
    pub fn forget(&self, posts: u32) -> io::Result<()> {
        let none = |word: u64| {
            let same = count(word).min(MOST) == posts;
            same.then(|| word - u64::from(count(word)))
        };
        // Relaxed: nobody looks at what they were posted for.
        let _ = (self.word()).fetch_update(Ordering::Relaxed, Ordering::Relaxed, none);
        self.there(())
    }

    /// Of the count, the half word at the beginning, as other processes know it, too.
    fn futex(&self, what: libc::c_int, number: u32, left: Option<Duration>) -> Result<(), Errno> {
        let left = left.map(|left| libc::timespec {
            tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let left = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the half word is inside the mapping; the time is null or valid during the call.
        let done = unsafe { libc::syscall(libc::SYS_futex, self.map.as_ptr(), what, number, left) };
        Errno::result(done).map(drop)
    }
}
