//! POSIX shared memory: the file, its mapping, and bounds-checked access to the mapping.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl, posix_fallocate};
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::{Mode, futimens};
use nix::sys::time::TimeSpec;

use super::access::Access;
use super::area::Area;
use super::fault::Gone;
use super::host::Room;
use super::{host, huge, page_size};

/// Where Linux keeps POSIX shared memory. Only texts, permissions and changes of a name use it; the
/// objects themselves are reached through `shm_open`.
pub const DIRECTORY: &str = "/dev/shm";

/// Bytes that are reserved in one go, in a few milliseconds.
const RESERVE_STEP: i64 = 16 << 20;

/// Bytes for which large pages are asked in the first go, and the most in any. Each call waits some
/// milliseconds for the other processors, each large page takes half of one, but ten times as long
/// where a virtual machine must first get the memory from its host.
const GATHER_STEPS: (usize, usize) = (8 << 20, 16 << 20);

/// A step that took less is followed by a larger one, and one that took twice as long by a smaller.
const GATHER_TIME: Duration = Duration::from_millis(10);

/// The path under which a shared memory object is seen.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// An open shared memory object, not yet mapped.
#[derive(Debug)]
pub struct ShmFile {
    file: File,
    /// Bytes that [`ShmFile::reserve`] has reserved.
    reserved: u64,
}

impl ShmFile {
    /// Makes a new object; `EEXIST` if the name is taken. Its mode is 0600 until
    /// [`ShmFile::give`].
    pub fn create_new(name: &str) -> io::Result<Self> {
        Self::open_with(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL)
    }

    /// Opens an existing object for reading and writing.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::open_with(name, OFlag::O_RDWR)
    }

    fn open_with(name: &str, flags: OFlag) -> io::Result<Self> {
        // O_CLOEXEC: a forked child that kept the descriptor would keep our locks alive.
        let fd = shm_open(
            OsStr::new(&format!("/{name}")),
            flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
            Mode::S_IRUSR | Mode::S_IWUSR,
        )?;
        Ok(ShmFile {
            file: File::from(fd),
            reserved: 0,
        })
    }

    /// Removes a name. The memory lives on until its last mapping goes.
    pub fn unlink(name: &str) -> io::Result<()> {
        Ok(shm_unlink(OsStr::new(&format!("/{name}")))?)
    }

    /// Gives an object another name, in place of what has that.
    pub fn rename(from: &str, to: &str) -> io::Result<()> {
        fs::rename(path(from), path(to))
    }

    /// Gives an object another name; `EEXIST` if that is taken.
    pub fn rename_new(from: &str, to: &str) -> io::Result<()> {
        fs::hard_link(path(from), path(to))?;
        Self::unlink(from)
    }

    /// Says who may open it.
    pub fn give(&self, access: Access) -> io::Result<()> {
        access.give(&self.file)
    }

    /// Size in bytes at this moment.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// When it was made, where the kernel notes that.
    pub fn born(&self) -> Option<SystemTime> {
        self.file.metadata().ok()?.created().ok()
    }

    /// Whether some name still leads to this object: false once it was removed or replaced.
    pub fn is_linked(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| meta.nlink() > 0)
    }

    /// The user it belongs to.
    pub fn owner(&self) -> io::Result<u32> {
        Ok(self.file.metadata()?.uid())
    }

    /// Writes bytes, making the object longer if need be. `ENOSPC` if there is no room for them. Not
    /// for one that is mapped here.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// Reserves every page and then sets the size, so that a full `/dev/shm` is an error here
    /// (`ENOSPC`) and not a SIGBUS at the first touch, and who sees a size sees all of it. The kernel
    /// clears the pages, so between steps of some milliseconds it asks whether to go on: `EINTR` if
    /// not, and the next call goes on there.
    pub fn reserve(&mut self, len: u64, go_on: &dyn Fn() -> bool) -> io::Result<()> {
        // Who wants more gets a signal that ends the process.
        if host::file_size().is_ok_and(|most| len > most.soft) {
            let what = "a file of this process may not be so large (ulimit -f)";
            return Err(io::Error::other(what));
        }
        let len = i64::try_from(len).map_err(|_| Errno::EFBIG)?;
        let missing = len.unsigned_abs().saturating_sub(self.reserved);
        if self.room().is_some_and(|room| room < missing) {
            return Err(Errno::ENOSPC.into());
        }
        while let done = self.reserved.cast_signed()
            && done < len
        {
            if !go_on() {
                return Err(Errno::EINTR.into());
            }
            let step = RESERVE_STEP.min(len - done);
            match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, done, step) {
                Ok(()) => self.reserved += step.unsigned_abs(),
                Err(Errno::EINTR) => {}
                // No tmpfs: the C library writes to every page.
                Err(Errno::EOPNOTSUPP) => {
                    posix_fallocate(self.file.as_fd(), 0, len)?;
                    self.reserved = len.unsigned_abs();
                }
                Err(err) => return Err(err.into()),
            }
        }
        self.file.set_len(len.unsigned_abs())
    }

    /// Bytes that were reserved until now.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Bytes free in the file system of this object.
    pub fn room(&self) -> Option<u64> {
        Room::of_file(&self.file).ok().map(|room| room.available)
    }

    /// Takes the lock on one byte for this open file description; false if another has it. The
    /// kernel frees it when the last descriptor of this description goes, however the process ends.
    pub fn try_lock_byte(&self, byte: i64) -> io::Result<bool> {
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&byte_lock(byte))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(err) => Err(err.into()),
        }
    }

    /// Gives the lock on one byte back.
    pub fn unlock_byte(&self, byte: i64) -> io::Result<()> {
        let mut lock = byte_lock(byte);
        lock.l_type = libc::F_UNLCK as i16;
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock))?;
        Ok(())
    }

    /// Lets those notice that watch it ([`Changes`](super::changes::Changes)).
    pub fn touch(&self) -> io::Result<()> {
        Ok(futimens(
            &self.file,
            &TimeSpec::UTIME_NOW,
            &TimeSpec::UTIME_NOW,
        )?)
    }

    /// Whether another open file description holds the lock on `byte`.
    pub fn is_byte_locked(&self, byte: i64) -> io::Result<bool> {
        is_byte_locked(&self.file, byte)
    }

    /// Maps `len` bytes. `EINVAL` if the object is smaller. If it becomes smaller later, what was
    /// there reads as zeros, and [`Segment::is_gone`].
    pub fn map(self, len: usize) -> io::Result<Segment> {
        if self.len()? < len as u64 {
            return Err(Errno::EINVAL.into());
        }
        let gone = Gone::default();
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        Ok(Segment {
            map: Area::shared(len, rights, self.file.as_raw_fd(), &gone)?,
            gone,
            file: self,
            places: Mutex::new(Vec::new()),
        })
    }
}

impl AsRawFd for ShmFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

pub(super) fn byte_lock(byte: i64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: byte,
        l_len: 1,
        // Must be 0 for locks on an open file description (fcntl(2)).
        l_pid: 0,
    }
}

/// Whether another open file description holds the lock on `byte`. This asks, and takes none.
pub(super) fn is_byte_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut probe = byte_lock(byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe))?;
    Ok(i32::from(probe.l_type) != libc::F_UNLCK)
}

/// A mapped shared memory object.
///
/// Other processes may change any byte at any time, so single values are read and written with
/// atomic operations only. [`Place`]s lend slices for writing, those for reading come from
/// [`Windows`](super::window::Windows), through mappings of their own.
#[derive(Debug)]
pub struct Segment {
    map: Area,
    gone: Gone,
    file: ShmFile,
    /// Ranges lent as [`Place`]s.
    places: Mutex<Vec<Range<usize>>>,
}

impl Segment {
    /// The object behind the mapping.
    pub fn file(&self) -> &ShmFile {
        &self.file
    }

    /// Mapped bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether some of the object was gone when it was touched, here or in a mapping that shares
    /// [`Segment::gone`]: somebody truncated it, or there was no memory for it.
    pub fn is_gone(&self) -> bool {
        self.gone.is_set()
    }

    /// For other mappings of the same object.
    pub fn gone(&self) -> &Gone {
        &self.gone
    }

    /// The first mapped byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.map.at(0)
    }

    fn contains(&self, start: usize, len: usize) -> bool {
        start.checked_add(len).is_some_and(|end| end <= self.len())
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.len());
        // SAFETY: `at` is inside the mapping, which lives as long as `self`; a byte is always
        // aligned; every access of ours to bytes not lent as a slice is atomic.
        unsafe { AtomicU8::from_ptr(self.map.at(at)) }
    }

    /// The 64-bit word at `at`.
    ///
    /// # Panics
    /// If `at` is not a multiple of 8 or outside: offsets are constants of the caller's layout.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && self.contains(at, 8));
        // SAFETY: inside the mapping, which is page-aligned, so a multiple of 8 is aligned; it
        // lives as long as `self`; every access of ours to this word is atomic.
        unsafe { AtomicU64::from_ptr(self.map.at(at).cast()) }
    }

    /// Asks for large pages, for all of it that fills such pages, in steps of some ten milliseconds,
    /// between which it asks whether to go on. That costs about as much as to touch each page for the
    /// first time, which it saves. Without it all works as well.
    pub fn gather(&self, go_on: &dyn Fn() -> bool) {
        let Some(size) = huge::size() else { return };
        let end = self.len() / size * size;
        let (first, most) = GATHER_STEPS;
        let (mut step, most) = (first.max(size), most.max(size));
        let mut start = 0;
        while start < end && go_on() {
            let part = start..end.min(start + step);
            let began = Instant::now();
            if let Err(err) = self.map.gather(&part)
                // Only of a page or two: somebody had a hand on them. The rest may still go.
                && err.raw_os_error() != Some(libc::EAGAIN)
            {
                // Where there is no memory for one, or it fails altogether, so will the next.
                return;
            }
            start = part.end;
            let took = began.elapsed();
            if took < GATHER_TIME {
                step = most.min(2 * step);
            } else if took > 2 * GATHER_TIME {
                step = size.max(step / 2);
            }
        }
    }

    /// Copies bytes out, each loaded once. False, and nothing is copied, if they are not inside.
    #[must_use]
    pub fn load(&self, start: usize, out: &mut [u8]) -> bool {
        if !self.contains(start, out.len()) {
            return false;
        }
        for (at, byte) in out.iter_mut().enumerate() {
            // Relaxed: whoever needs an order gets it from a word or a semaphore beside the bytes.
            *byte = self.byte(start + at).load(Ordering::Relaxed);
        }
        true
    }

    /// Copies bytes in. False, and nothing is changed, if the room is not inside or lent.
    #[must_use]
    pub fn store(&self, start: usize, bytes: &[u8]) -> bool {
        if !self.contains(start, bytes.len()) || self.is_lent(start, bytes.len()) {
            return false;
        }
        for (at, byte) in bytes.iter().enumerate() {
            // Relaxed: as in `load`.
            self.byte(start + at).store(*byte, Ordering::Relaxed);
        }
        true
    }

    fn lent(&self) -> MutexGuard<'_, Vec<Range<usize>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_lent(&self, start: usize, len: usize) -> bool {
        self.lent()
            .iter()
            .any(|range| range.start < start + len && start < range.end)
    }

    /// The ranges that are lent for writing.
    pub fn places(&self) -> Vec<Range<usize>> {
        self.lent().clone()
    }

    /// Takes what is lent for writing out of the shared memory: from then on it is this process's
    /// own, at the same address and with the same bytes, and others may use the room. The words and
    /// bytes of this mapping that share a page with it are no longer shared either.
    ///
    /// The room must still be ours alone when this is called. Whoever writes to it meanwhile loses
    /// nothing.
    ///
    /// # Errors
    /// When there is no memory for the copies; the places before are done.
    pub fn keep_places(&self) -> io::Result<()> {
        let page = page_size();
        for place in self.lent().iter() {
            let start = place.start / page * page;
            let end = place.end.next_multiple_of(page);
            // SAFETY: replaces pages of our own mapping by private ones of the same file at the same
            // offset, in one step of the kernel: what was written before is in the file's pages and
            // so in the private ones, what is written after goes there. Slices that are lent stay
            // valid, since address, bytes and rights are the same.
            let mapped = unsafe {
                libc::mmap(
                    self.map.at(start).cast(),
                    end - start,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_FIXED,
                    self.file.as_raw_fd(),
                    start as libc::off_t,
                )
            };
            if mapped == libc::MAP_FAILED {
                return Err(Errno::last().into());
            }
            // A private page is a copy from its first change on, which this is: nothing is added.
            for at in (start..end.min(self.len())).step_by(page) {
                // Relaxed: it changes nothing that anybody could see.
                self.byte(at).fetch_or(0, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Another mapping of the same object.
    pub fn again(&self) -> io::Result<Segment> {
        let file = ShmFile {
            file: self.file.file.try_clone()?,
            reserved: self.file.reserved,
        };
        file.map(self.len())
    }

    /// Lends room for writing. `None` if it is not inside or is lent already.
    pub fn place(self: &Arc<Self>, start: usize, len: usize) -> Option<Place> {
        if !self.contains(start, len) || self.is_lent(start, len) {
            return None;
        }
        self.lent().push(start..start + len);
        Some(Place {
            segment: self.clone(),
            start,
            len,
        })
    }
}

/// Room in a [`Segment`], lent for writing; exclusive within this mapping.
#[derive(Debug)]
pub struct Place {
    segment: Arc<Segment>,
    start: usize,
    len: usize,
}

impl Deref for Place {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `Segment::place` checked the bounds and that nothing else in this mapping is
        // lent there; the Arc keeps the mapping; the borrow of `self` rules the aliasing.
        unsafe { slice::from_raw_parts(self.segment.map.at(self.start), self.len) }
    }
}

impl DerefMut for Place {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only slice of the place.
        unsafe { slice::from_raw_parts_mut(self.segment.map.at(self.start), self.len) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lent = self.segment.lent();
        if let Some(at) = lent.iter().position(|range| range.start == self.start) {
            lent.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn segment(tag: &str) -> Arc<Segment> {
        let name = format!("zb-unit-shm-{}-{tag}", std::process::id());
        let mut file = ShmFile::create_new(&name).unwrap();
        ShmFile::unlink(&name).unwrap();
        file.reserve(4096, &|| true).unwrap();
        Arc::new(file.map(4096).unwrap())
    }

    #[test]
    fn places_are_exclusive_until_dropped() {
        let segment = segment("places");
        let place = segment.place(100, 50).unwrap();
        assert!(segment.place(149, 1).is_none());
        assert!(
            !segment.store(120, b"x"),
            "a lent byte is not ours to store"
        );
        assert!(segment.place(150, 1).is_some());
        drop(place);
        assert!(segment.place(149, 1).is_some());
    }

    #[test]
    fn nothing_outside_is_reachable() {
        let segment = segment("outside");
        assert!(segment.place(4095, 1).is_some());
        assert!(segment.place(4095, 2).is_none());
        assert!(segment.place(usize::MAX, 2).is_none());
        assert!(!segment.load(4090, &mut [0; 8]));
        assert!(!segment.store(usize::MAX - 1, b"abc"));
    }

    #[test]
    fn what_is_lent_can_be_kept_when_the_memory_goes_on() {
        let name = format!("zb-unit-keep-{}", std::process::id());
        let mut file = ShmFile::create_new(&name).unwrap();
        ShmFile::unlink(&name).unwrap();
        file.reserve(20_000, &|| true).unwrap();
        let segment = Arc::new(file.map(20_000).unwrap());
        let other = Arc::new(segment.again().unwrap());
        let mut first = segment.place(100, 5_000).unwrap();
        let second = segment.place(15_000, 5_000).unwrap();
        first.fill(1);
        assert!(other.store(15_000, &[2; 5_000]));
        segment.keep_places().unwrap();
        assert!(other.store(0, &[9; 20_000]));
        assert!(first.iter().all(|byte| *byte == 1));
        assert!(second.iter().all(|byte| *byte == 2));
        first.fill(3);
        let mut bytes = [0; 5_000];
        assert!(other.load(100, &mut bytes));
        assert!(
            bytes.iter().all(|byte| *byte == 9),
            "it is no longer shared"
        );
        assert!(segment.load(8_192, &mut bytes[..100]), "this page still is");
        assert!(bytes[..100].iter().all(|byte| *byte == 9));
    }

    #[test]
    fn large_pages_change_no_byte_and_can_be_kept_in_part() {
        let size = huge::size().unwrap_or(2 << 20);
        let len = 3 * size - 100;
        let name = format!("zb-unit-large-{}", std::process::id());
        let mut file = ShmFile::create_new(&name).unwrap();
        ShmFile::unlink(&name).unwrap();
        file.reserve(len as u64, &|| true).unwrap();
        let segment = Arc::new(file.map(len).unwrap());
        let other = segment.again().unwrap();
        for map in [&*segment, &other] {
            assert!(huge::size().is_none() || map.as_ptr().addr().is_multiple_of(size));
        }
        let bytes: Vec<u8> = (0..len).map(|at| (at / 1000) as u8).collect();
        assert!(other.store(0, &bytes));
        let go_on = Cell::new(true);
        segment.gather(&|| go_on.replace(false));
        let mut place = segment.place(size - 5_000, 10_000).unwrap();
        assert!(place[..] == bytes[size - 5_000..][..10_000]);
        segment.keep_places().unwrap();
        place[0] = 99;
        let mut now = vec![0; len];
        assert!(other.load(0, &mut now));
        assert!(
            now == bytes,
            "what is kept is no longer shared, and the rest as it was"
        );
        assert!(other.store(0, &vec![7; len]));
        assert!(place[0] == 99 && place[1..] == bytes[size - 5_000..][1..10_000]);
    }

    /// Bytes of large pages through which the object of this name is mapped here.
    fn mapped_large(name: &str) -> usize {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let of_it = (maps.lines())
            .skip_while(|line| !line.contains(name))
            .find_map(|line| line.strip_prefix("ShmemPmdMapped:"));
        let kib = of_it.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<usize>().unwrap() << 10
    }

    #[test]
    fn a_page_that_somebody_holds_keeps_no_other_from_being_gathered() {
        let size = huge::size().unwrap_or(2 << 20);
        // More than the first step.
        let pages = GATHER_STEPS.0.div_ceil(size) + 3;
        let gathered = |tag: &str, holds: bool| {
            let name = format!("zb-unit-{tag}-{}", std::process::id());
            let mut file = ShmFile::create_new(&name).unwrap();
            ShmFile::unlink(&name).unwrap();
            file.reserve((pages * size) as u64, &|| true).unwrap();
            let segment = file.map(pages * size).unwrap();
            let pipe = io::pipe().unwrap();
            if holds {
                assert!(segment.store(0, b"held"));
                let held = libc::iovec {
                    iov_base: segment.map.at(0).cast(),
                    iov_len: 4,
                };
                // SAFETY: bytes of our own mapping, which lives longer than the pipe.
                let sent = unsafe { libc::vmsplice(pipe.1.as_raw_fd(), &held, 1, 0) };
                assert_eq!(sent, 4);
            }
            segment.gather(&|| true);
            mapped_large(&name)
        };
        let (all, but_one) = (gathered("not-held", false), gathered("held", true));
        let first = GATHER_STEPS.0.max(size);
        // Not so many where the kernel cannot do it, or has no memory for it.
        assert!(all <= first || but_one > first - size, "{all} {but_one}");
    }

    #[test]
    fn an_object_has_no_size_before_all_of_it_is_there() {
        let name = format!("zb-unit-grows-{}", std::process::id());
        let mut file = ShmFile::create_new(&name).unwrap();
        let seen = ShmFile::open(&name).unwrap();
        ShmFile::unlink(&name).unwrap();
        let len = 2 * RESERVE_STEP.unsigned_abs() + 100;
        let step = RESERVE_STEP.unsigned_abs();
        let for_steps = |steps: u64| {
            let left = Cell::new(steps);
            let seen = &seen;
            move || {
                assert_eq!(seen.len().unwrap(), 0);
                left.replace(left.get().saturating_sub(1)) > 0
            }
        };
        for (steps, reserved) in [(0, 0), (1, step), (1, 2 * step), (0, 2 * step)] {
            let interrupted = file.reserve(len, &for_steps(steps)).unwrap_err();
            assert_eq!(interrupted.raw_os_error(), Some(libc::EINTR));
            assert_eq!(file.reserved(), reserved);
        }
        // What was reserved is not reserved again.
        file.reserve(len, &for_steps(1)).unwrap();
        let metadata = file.file.metadata().unwrap();
        assert_eq!(metadata.len(), len);
        assert!(metadata.blocks() * 512 >= len);
    }

    #[test]
    fn a_short_object_is_not_mapped() {
        let name = format!("zb-unit-short-{}", std::process::id());
        let mut file = ShmFile::create_new(&name).unwrap();
        ShmFile::unlink(&name).unwrap();
        file.reserve(100, &|| true).unwrap();
        assert!(file.map(101).is_err());
    }
}
