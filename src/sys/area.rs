//! Pieces of address space, and how a few of them are kept to be used again.
//!
//! New memory is dear: the kernel clears every page of it at its first touch. For a frame of video
//! that takes several times as long as to copy the frame.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

use nix::errno::Errno;

use super::fault::{Gone, Guard};
use super::{huge, page_size};

/// A piece of address space, unmapped when dropped.
#[derive(Debug)]
pub struct Area {
    start: NonNull<u8>,
    len: NonZeroUsize,
    /// Of shared memory.
    guard: Option<Guard>,
}

// SAFETY: plain address space; what is done with it, its owner orders.
unsafe impl Send for Area {}
// SAFETY: a shared reference gives addresses and nothing else, but for `take_out`, whose caller
// promises that nobody looks at these pages.
unsafe impl Sync for Area {}

impl Area {
    fn map(len: usize, prot: libc::c_int, flags: libc::c_int, fd: RawFd) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: the kernel chooses the place, so nothing that is mapped is replaced.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, 0) };
        Self::mapped(start, size)
    }

    fn mapped(start: *mut libc::c_void, len: NonZeroUsize) -> io::Result<Self> {
        if start == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::EINVAL)?;
        Ok(Area {
            start,
            len,
            guard: None,
        })
    }

    /// The first bytes of a shared memory object, with these rights (`PROT_…`). `gone` is set when
    /// there is nothing where somebody looks; he sees zeros.
    pub fn shared(len: usize, rights: libc::c_int, fd: RawFd, gone: &Gone) -> io::Result<Self> {
        let large = huge::size().filter(|size| len >= *size);
        // For a moment that takes more addresses, and one mapping more, than there may be left.
        let mut area = match large.map(|size| Self::aligned(len, size, rights, fd)) {
            Some(Ok(area)) => area,
            _ => Self::map(len, rights, libc::MAP_SHARED, fd)?,
        };
        let start = area.start.as_ptr() as usize;
        area.guard = Some(Guard::new(start..start + len, rights, gone));
        Ok(area)
    }

    /// The same at an address that is a multiple of `alignment`, which is one of the page size.
    fn aligned(len: usize, alignment: usize, rights: libc::c_int, fd: RawFd) -> io::Result<Self> {
        let page = page_size();
        let size = len.checked_next_multiple_of(page).ok_or(Errno::ENOMEM)?;
        let more = size.checked_add(alignment).ok_or(Errno::ENOMEM)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let room = Self::map(more, libc::PROT_NONE, flags, -1)?;
        let before = room.at(0).align_offset(alignment);
        let (first, end) = (room.at(before), room.at(before + size));
        let fixed = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: over pages of our own room, which nobody else knows.
        let mapped = unsafe { libc::mmap(first.cast(), len, rights, fixed, fd, 0) };
        let area = Self::mapped(mapped, NonZeroUsize::new(len).ok_or(Errno::EINVAL)?)?;
        // SAFETY: our own room as well; if it fails, some addresses are not used.
        unsafe {
            if before > 0 {
                libc::munmap(room.at(0).cast(), before);
            }
            libc::munmap(end.cast(), alignment - before);
        }
        std::mem::forget(room);
        Ok(area)
    }

    /// Asks the kernel to put the small pages of a part together into large ones, which changes no
    /// byte. What of this it can do at once it has done when this returns.
    ///
    /// # Errors
    /// Not all of them could be put together: `EINVAL` before Linux 6.1, or where the administrator
    /// forbids it; `ENOMEM`, `EAGAIN` or `EBUSY` when it may go another time.
    pub fn gather(&self, part: &Range<usize>) -> io::Result<()> {
        let start = self.at(part.start);
        assert!(part.end <= self.len());
        // SAFETY: pages of our own area. Bytes, addresses and rights stay as they are.
        let done = unsafe { libc::madvise(start.cast(), part.len(), libc::MADV_COLLAPSE) };
        Ok(Errno::result(done).map(drop)?)
    }

    /// Memory of our own, of whole pages, for what will fill all of it: all pages are there already,
    /// which is cheaper than one by one.
    pub fn private(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        Self::map(len, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// The address of a byte, or of the end.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len());
        // SAFETY: inside the area, or one past its end.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// Makes memory of our own longer or shorter, perhaps at another address.
    ///
    /// # Errors
    /// Then it is gone.
    pub fn resized(self, len: usize) -> io::Result<Self> {
        if len == self.len() {
            return Ok(self);
        }
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: it is ours, and nobody else knows its address, so it may move.
        let start = unsafe {
            libc::mremap(
                self.start.as_ptr().cast(),
                self.len(),
                len,
                libc::MREMAP_MAYMOVE,
            )
        };
        let resized = Self::mapped(start, size)?;
        // Its pages are those of the other now.
        std::mem::forget(self);
        Ok(resized)
    }

    /// Moves memory of our own, as it is, over a part of another area: in one step of the kernel, so
    /// that who reads there sees the old bytes or the new.
    ///
    /// # Safety
    /// The part has the same length, begins at a page, and lies in `other`; what is read there stays
    /// valid with these bytes.
    ///
    /// # Errors
    /// Then nothing has changed, and the memory is gone.
    pub unsafe fn move_over(self, other: &Area, offset: usize) -> io::Result<()> {
        // SAFETY: the caller's promise; the kernel does it under its lock of the address space.
        let moved = unsafe {
            libc::mremap(
                self.start.as_ptr().cast(),
                self.len(),
                self.len(),
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                other.at(offset),
            )
        };
        if moved == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        // It is part of the other now.
        std::mem::forget(self);
        Ok(())
    }

    /// The other way: moves private pages of a part to a place of their own. What is left there is
    /// empty memory, so that nobody else's finds room in the gap.
    ///
    /// # Safety
    /// The pages are private memory, and nobody looks at them.
    ///
    /// # Errors
    /// `EINVAL` before Linux 5.7; then nothing has changed.
    pub unsafe fn take_out(&self, pages: &Range<usize>) -> io::Result<Self> {
        let len = NonZeroUsize::new(pages.len()).ok_or(Errno::EINVAL)?;
        // SAFETY: the caller's promise; the kernel chooses the new place.
        let start = unsafe {
            libc::mremap(
                self.at(pages.start).cast(),
                pages.len(),
                pages.len(),
                libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP,
                // No wish; it is looked at.
                ptr::null_mut::<libc::c_void>(),
            )
        };
        Self::mapped(start, len)
    }

    /// Makes a part shared again: the same part of the object.
    ///
    /// # Safety
    /// The pages are inside of an area of this object, and nobody looks at them.
    pub unsafe fn share(&self, pages: &Range<usize>, fd: RawFd) -> io::Result<()> {
        // SAFETY: the caller's promise.
        let mapped = unsafe {
            libc::mmap(
                self.at(pages.start).cast(),
                pages.len(),
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_FIXED,
                fd,
                pages.start as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        Ok(())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // What comes to lie there next is not ours to guard.
        drop(self.guard.take());
        // SAFETY: ours alone: who lends parts of it keeps it alive meanwhile.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len()) };
    }
}

/// More spare areas than this are not kept.
const MOST_SPARES: usize = 32;

/// After so many uses of what the spares are for, it is looked at how many have been in use lately.
const TURN: u32 = 64;

/// Private memory that is kept to be used again: as much of it as was in use at one time lately, and
/// no more.
#[derive(Debug, Default)]
pub struct Spares {
    kept: Vec<Area>,
    /// Areas in use now.
    used: usize,
    /// The most that were in use at one time, in this turn and in the one before.
    most: [usize; 2],
    uses: u32,
}

impl Spares {
    /// One more area will be in use, of this length: the spare that is nearest to it. Without one it
    /// is [`Area::private`]; new memory takes its time, so not under the lock that guards this.
    pub fn take(&mut self, len: usize) -> Option<Area> {
        self.used += 1;
        self.most[0] = self.most[0].max(self.used);
        // One of quite another length is of more use to others.
        let fits = |area: &Area| area.len() / 2 <= len && len / 2 <= area.len();
        let (at, _) = (self.kept.iter().enumerate().rev())
            .filter(|(_, area)| fits(area))
            .min_by_key(|(_, area)| area.len().abs_diff(len))?;
        Some(self.kept.remove(at))
    }

    /// So many areas are no longer in use, and gone.
    pub fn lost(&mut self, areas: usize) {
        self.used = self.used.saturating_sub(areas);
    }

    /// Whether one that is in use now would be kept.
    pub fn wants(&self) -> bool {
        let in_use = self.used.saturating_sub(1) + self.kept.len();
        self.kept.len() < MOST_SPARES && in_use < self.most[0].max(self.most[1])
    }

    /// Takes one back that was in use. Returns what is to be dropped, outside of any lock.
    pub fn put_back(&mut self, area: Area) -> Option<Area> {
        let wanted = self.wants();
        self.lost(1);
        if wanted {
            self.kept.push(area);
            return None;
        }
        Some(area)
    }

    /// Something was done that could have used one. Returns what is no longer worth keeping.
    pub fn count(&mut self) -> Vec<Area> {
        self.uses += 1;
        if self.uses < TURN {
            return Vec::new();
        }
        self.uses = 0;
        self.most = [self.used, self.most[0]];
        let keep = self.most[1].saturating_sub(self.used);
        // The oldest go.
        let gone = self.kept.len().saturating_sub(keep);
        self.kept.drain(..gone).collect()
    }

    /// All spares, since none will be needed soon. Until one is, nothing is kept.
    pub fn clear(&mut self) -> Vec<Area> {
        self.most = [0; 2];
        std::mem::take(&mut self.kept)
    }

    /// How many are kept.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn take(spares: &mut Spares, len: usize) -> Area {
        match spares.take(len) {
            Some(area) => area.resized(len).unwrap(),
            None => Area::private(len).unwrap(),
        }
    }

    #[test]
    fn a_spare_is_used_again_also_a_little_longer_or_shorter() {
        let mut spares = Spares::default();
        let area = take(&mut spares, 10 * PAGE);
        // SAFETY: the first byte of our own area.
        unsafe { area.at(0).write(77) };
        assert!(spares.put_back(area).is_none());
        for pages in [11, 9, 10] {
            let area = take(&mut spares, pages * PAGE);
            assert_eq!((area.len(), spares.len()), (pages * PAGE, 0));
            // SAFETY: as above.
            assert_eq!(unsafe { area.at(0).read() }, 77, "the same memory");
            // SAFETY: the last byte, which is there in any length.
            unsafe { area.at(pages * PAGE - 1).write(1) };
            assert!(spares.put_back(area).is_none());
        }
        // One of quite another length stays where it is.
        let small = take(&mut spares, PAGE);
        assert_eq!((small.len(), spares.len()), (PAGE, 1));
        assert!(Area::private(0).is_err());
    }

    #[test]
    fn no_more_are_kept_than_were_in_use_at_one_time_lately() {
        let mut spares = Spares::default();
        let used: Vec<_> = (0..5).map(|_| take(&mut spares, PAGE)).collect();
        for area in used {
            assert!(spares.put_back(area).is_none());
        }
        assert_eq!(spares.len(), 5);
        // From now on one at a time.
        for turn in 0..4 {
            for _ in 0..TURN {
                let area = take(&mut spares, PAGE);
                assert!(spares.put_back(area).is_none());
                spares.count();
            }
            assert_eq!(spares.len(), if turn == 0 { 5 } else { 1 }, "{turn}");
        }
        // And then none.
        for _ in 0..2 * TURN {
            spares.count();
        }
        assert_eq!(spares.len(), 0);
    }

    #[test]
    fn many_at_once_are_not_all_kept() {
        let mut spares = Spares::default();
        let used: Vec<_> = (0..100).map(|_| take(&mut spares, PAGE)).collect();
        let gone = used.into_iter().filter_map(|area| spares.put_back(area));
        assert_eq!(gone.count(), 100 - MOST_SPARES);
        let late = take(&mut spares, PAGE);
        assert_eq!(spares.clear().len(), MOST_SPARES - 1);
        assert!(spares.put_back(late).is_some(), "not kept any more");
        let area = take(&mut spares, PAGE);
        assert!(spares.put_back(area).is_none(), "one is in use again");
    }
}
