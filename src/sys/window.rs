//! Mappings of shared memory from which parts can be taken out while somebody looks at them.
//!
//! Bytes that are lent are read at their address by others. When the shared memory under them is
//! wanted for something else, [`Windows::evacuate`] copies their pages and puts the copy, in one
//! step of the kernel, where the shared pages were: the address stays, the bytes stay, and the
//! shared pages are free. Later loans of the same place come through another mapping of it.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};

use super::shm::Segment;

/// More mappings than this are not made: each takes address space and some of the 65530 areas that
/// Linux allows a process (vm.max_map_count).
const MOST_MAPPINGS: usize = 1024;

/// Once so many copies stand in mappings, new loans are refused: each is an area of its own, and
/// there are 65530 for all that the process does.
const MOST_COPIES: usize = 4096;

/// Read-only mappings of one shared memory object, as many as loans and evacuations need.
#[derive(Debug)]
pub struct Windows {
    segment: Arc<Segment>,
    page: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mappings: Vec<Mapping>,
    /// The id of the next loan.
    next: u64,
}

#[derive(Debug)]
struct Mapping {
    area: Area,
    /// Pages lent, by loan.
    lent: Vec<(u64, Range<usize>)>,
    /// Pages that are copies.
    evacuated: Vec<Range<usize>>,
}

/// A piece of address space, unmapped when dropped.
#[derive(Debug)]
struct Area {
    start: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: plain address space; all that is done with it is done under the lock of `Windows`, but for
// reading lent bytes, which do not change.
unsafe impl Send for Area {}

impl Area {
    fn map(len: usize, prot: libc::c_int, flags: libc::c_int, fd: RawFd) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: the kernel chooses the place, so nothing that is mapped is replaced.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::EINVAL)?;
        Ok(Area { start, len: size })
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len.get());
        // SAFETY: inside the area, or one past its end.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: ours alone; loans keep `Windows` and with it this area alive.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len.get()) };
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Mapping {
    fn new(segment: &Segment) -> io::Result<Self> {
        let fd = segment.file().as_raw_fd();
        Ok(Mapping {
            area: Area::map(segment.len(), libc::PROT_READ, libc::MAP_SHARED, fd)?,
            lent: Vec::new(),
            evacuated: Vec::new(),
        })
    }

    fn is_lent(&self, pages: &Range<usize>) -> bool {
        self.lent.iter().any(|(_, lent)| overlap(lent, pages))
    }

    /// Makes copies that overlap these pages shared again; false if one is still looked at.
    fn restore(&mut self, pages: &Range<usize>, fd: RawFd) -> io::Result<bool> {
        let wanted: Vec<_> = (self.evacuated.iter())
            .filter(|copy| overlap(copy, pages))
            .cloned()
            .collect();
        let mut all = true;
        for copy in wanted {
            if self.is_lent(&copy) {
                all = false;
                continue;
            }
            // SAFETY: replaces pages of our own area, which nobody looks at, with those of the file
            // at the same offset; the file is as long as the area.
            let mapped = unsafe {
                libc::mmap(
                    self.area.at(copy.start).cast(),
                    copy.len(),
                    libc::PROT_READ,
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    fd,
                    copy.start as libc::off_t,
                )
            };
            if mapped == libc::MAP_FAILED {
                return Err(Errno::last().into());
            }
            self.evacuated.retain(|other| *other != copy);
        }
        Ok(all)
    }
}

impl Windows {
    /// Of this object.
    pub fn new(segment: Arc<Segment>) -> Self {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        Windows {
            segment,
            page: page.and_then(|size| size.try_into().ok()).unwrap_or(4096),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages that hold these bytes, as offsets of bytes.
    fn pages(&self, start: usize, len: usize) -> Range<usize> {
        let end = (start + len).next_multiple_of(self.page);
        start / self.page * self.page..end.min(self.segment.len().next_multiple_of(self.page))
    }

    /// Lends bytes for reading.
    ///
    /// # Errors
    /// `EINVAL` if they are not inside; `ENOMEM` when all mappings are taken by loans, or too many
    /// copies stand in them.
    pub fn lend(self: &Arc<Self>, start: usize, len: usize) -> io::Result<Loan> {
        let inside = start
            .checked_add(len)
            .is_some_and(|end| end <= self.segment.len());
        if !inside {
            return Err(Errno::EINVAL.into());
        }
        let pages = self.pages(start, len);
        let fd = self.segment.file().as_raw_fd();
        let state = &mut *self.state();
        let mappings = &mut state.mappings;
        let copies: usize = mappings.iter().map(|mapping| mapping.evacuated.len()).sum();
        if copies >= MOST_COPIES {
            return Err(Errno::ENOMEM.into());
        }
        let mut usable = None;
        for (at, mapping) in mappings.iter_mut().enumerate() {
            if mapping.restore(&pages, fd)? {
                usable = Some(at);
                break;
            }
        }
        let mapping = match usable {
            Some(at) => at,
            None if mappings.len() < MOST_MAPPINGS => {
                mappings.push(Mapping::new(&self.segment)?);
                mappings.len() - 1
            }
            None => return Err(Errno::ENOMEM.into()),
        };
        let chosen = &mut mappings[mapping];
        let id = state.next;
        state.next += 1;
        chosen.lent.push((id, pages));
        let data = NonNull::new(chosen.area.at(start)).ok_or(Errno::EINVAL)?;
        Ok(Loan {
            windows: self.clone(),
            key: LoanKey { mapping, id },
            data,
            len,
        })
    }

    /// Takes the bytes of a loan out of the shared memory: from then on the loan is a copy at the
    /// same address. The shared bytes must not change until this returns.
    ///
    /// True if it did so, false if the loan has ended.
    ///
    /// # Errors
    /// When there is no memory for the copy; then nothing has changed.
    pub fn evacuate(&self, key: LoanKey) -> io::Result<bool> {
        let mut state = self.state();
        let Some(mapping) = state.mappings.get_mut(key.mapping) else {
            return Ok(false);
        };
        let Some((_, pages)) = mapping.lent.iter().find(|(id, _)| *id == key.id) else {
            return Ok(false);
        };
        let mut rest = pages.clone();
        // The first and the last page may be copies already, with those of the neighbours.
        for copy in &mapping.evacuated {
            if copy.contains(&rest.start) {
                rest.start = copy.end.min(rest.end);
            }
            if rest.start < rest.end && copy.contains(&(rest.end - 1)) {
                rest.end = copy.start.max(rest.start);
            }
        }
        if rest.is_empty() {
            return Ok(true);
        }
        let copy = Area::map(
            rest.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        )?;
        // The file may end within the last page; behind its end there is nothing to copy.
        let len = rest.len().min(self.segment.len() - rest.start);
        // SAFETY: `len` bytes of our mapping, which is as long as the segment, into a new area of at
        // least as many; whoever reads them meanwhile does no harm.
        unsafe { ptr::copy_nonoverlapping(mapping.area.at(rest.start), copy.at(0), len) };
        // SAFETY: our own new pages lose the right to be written.
        unsafe { libc::mprotect(copy.at(0).cast(), rest.len(), libc::PROT_READ) };
        // SAFETY: moves the copy over pages of our own area. The kernel does it under its lock of
        // the address space, so a reader there sees the old pages or the new, which are equal.
        let moved = unsafe {
            libc::mremap(
                copy.at(0).cast(),
                rest.len(),
                rest.len(),
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                mapping.area.at(rest.start),
            )
        };
        if moved == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        // It is part of the mapping now.
        std::mem::forget(copy);
        mapping.evacuated.push(rest);
        Ok(true)
    }

    fn give_back(&self, key: LoanKey) {
        let mappings = &mut self.state().mappings;
        if let Some(mapping) = mappings.get_mut(key.mapping)
            && let Some(at) = mapping.lent.iter().position(|(id, _)| *id == key.id)
        {
            let (_, pages) = mapping.lent.swap_remove(at);
            // Copies that nobody looks at any more are memory for nothing. If it fails they stay
            // until the place is lent again.
            let _ = mapping.restore(&pages, self.segment.file().as_raw_fd());
        }
        // The first stays; the others go again, the last first, since loans know them by number.
        while mappings.len() > 1 && mappings.last().is_some_and(|last| last.lent.is_empty()) {
            mappings.pop();
        }
    }

    /// A copy of bytes as they are now; `None` if they are not inside.
    pub fn copy(&self, start: usize, len: usize) -> Option<Box<[u8]>> {
        let end = start.checked_add(len)?;
        if end > self.segment.len() {
            return None;
        }
        let mut copy = vec![0; len].into_boxed_slice();
        // SAFETY: inside the mapping of the segment, which lends no slices here; whatever others
        // write there meanwhile, these are bytes.
        unsafe {
            ptr::copy_nonoverlapping(self.segment.as_ptr().add(start), copy.as_mut_ptr(), len);
        }
        Some(copy)
    }
}

/// Names a [`Loan`] to [`Windows::evacuate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoanKey {
    mapping: usize,
    id: u64,
}

/// Bytes lent by [`Windows::lend`]; they stay readable at their address as long as this lives.
///
/// This process never writes through these mappings, so to Rust the slice is immutable. A peer that
/// breaks its protocol can still change the bytes: code that must not be fooled copies them first
/// and then looks.
#[derive(Debug)]
pub struct Loan {
    windows: Arc<Windows>,
    key: LoanKey,
    data: NonNull<u8>,
    len: usize,
}

// SAFETY: read-only bytes that stay mapped until `drop`, which may run in any thread.
unsafe impl Send for Loan {}
// SAFETY: as above; reading them from several threads is no conflict.
unsafe impl Sync for Loan {}

impl Loan {
    /// Its name.
    pub fn key(&self) -> LoanKey {
        self.key
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `lend` checked the bounds; the pages stay mapped while they are in `lent`, first
        // as shared ones, then perhaps as their copy.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.windows.give_back(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shm::ShmFile;
    use std::sync::atomic::{AtomicBool, Ordering};

    const SIZE: usize = 40_000;

    /// One object mapped twice: to write to as another process would, and to look at.
    fn object(tag: &str) -> (Arc<Segment>, Arc<Windows>) {
        let name = format!("zb-unit-window-{tag}-{}", std::process::id());
        let file = ShmFile::create_new(&name).unwrap();
        file.reserve(SIZE as u64).unwrap();
        let peer = ShmFile::open(&name).unwrap();
        ShmFile::unlink(&name).unwrap();
        let peer = Arc::new(peer.map(SIZE).unwrap());
        let segment = Arc::new(file.map(SIZE).unwrap());
        (peer, Arc::new(Windows::new(segment)))
    }

    fn fill(peer: &Segment, start: usize, len: usize, value: u8) {
        assert!(peer.store(start, &vec![value; len]));
    }

    #[test]
    fn a_loan_keeps_its_bytes_and_address_when_the_memory_goes_on() {
        let (peer, windows) = object("keeps");
        let mut loans = Vec::new();
        // Unaligned places that share pages with their neighbours.
        for (i, start) in (100..30_000).step_by(5_003).enumerate() {
            fill(&peer, start, 5_003, i as u8 + 1);
            loans.push(windows.lend(start, 5_003).unwrap());
        }
        let addresses: Vec<_> = loans.iter().map(|loan| loan.as_ptr()).collect();
        for at in [2, 0, 5, 1, 3, 4] {
            assert!(windows.evacuate(loans[at].key()).unwrap());
            assert!(windows.evacuate(loans[at].key()).unwrap(), "twice is once");
        }
        fill(&peer, 0, SIZE, 99);
        for (i, loan) in loans.iter().enumerate() {
            assert_eq!(loan.as_ptr(), addresses[i]);
            assert!(loan.iter().all(|byte| *byte == i as u8 + 1), "loan {i}");
        }
        // The same place again is the shared memory, through another mapping.
        let again = windows.lend(100, 5_003).unwrap();
        assert_ne!(again.as_ptr(), addresses[0]);
        assert!(again.iter().all(|byte| *byte == 99));
    }

    #[test]
    fn a_mapping_is_used_again_when_its_copies_are_no_longer_looked_at() {
        let (peer, windows) = object("again");
        let mut last = ptr::null();
        for lap in 0..100 {
            fill(&peer, 5_000, 9_000, lap);
            let loan = windows.lend(5_000, 9_000).unwrap();
            assert!(lap == 0 || loan.as_ptr() == last);
            assert!(loan.iter().all(|byte| *byte == lap));
            last = loan.as_ptr();
            assert!(windows.evacuate(loan.key()).unwrap());
        }
        assert_eq!(windows.state().mappings.len(), 1);
        assert!(windows.state().mappings[0].lent.is_empty());
        // And they are not kept until then: a copy ends with its last loan.
        assert!(windows.state().mappings[0].evacuated.is_empty());
    }

    #[test]
    fn too_many_laps_held_are_refused_and_an_ended_loan_is_not_moved() {
        let (_peer, windows) = object("many");
        let loans: Vec<_> = (0..MOST_MAPPINGS)
            .map(|_| {
                let loan = windows.lend(0, 10).unwrap();
                windows.evacuate(loan.key()).unwrap();
                loan
            })
            .collect();
        assert!(windows.lend(0, 10).is_err());
        assert!(windows.lend(20_000, 10).is_ok(), "elsewhere there is room");
        let key = loans[3].key();
        drop(loans);
        assert_eq!(windows.state().mappings.len(), 1);
        assert!(!windows.evacuate(key).unwrap());
        assert!(windows.lend(0, 10).is_ok());
        assert!(windows.lend(SIZE - 10, 11).is_err());
        assert!(windows.lend(usize::MAX, 2).is_err());
    }

    #[test]
    fn who_reads_all_the_while_sees_no_change() {
        let (peer, windows) = object("while");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for lap in 1..200_u8 {
                fill(&peer, 3_000, 30_000, lap);
                let loan = windows.lend(3_000, 30_000).unwrap();
                let key = loan.key();
                let (started, start) = std::sync::mpsc::channel();
                let done = &done;
                let looking = scope.spawn(move || {
                    started.send(()).unwrap();
                    while !done.swap(false, Ordering::AcqRel) {
                        assert!(loan.iter().all(|byte| *byte == lap));
                    }
                    assert!(loan.iter().all(|byte| *byte == lap));
                });
                start.recv().unwrap();
                assert!(windows.evacuate(key).unwrap());
                fill(&peer, 3_000, 30_000, 0);
                done.store(true, Ordering::Release);
                looking.join().unwrap();
            }
        });
    }
}
