//! Mappings of shared memory from which parts can be taken out while somebody looks at them.
//!
//! Bytes that are lent are read at their address by others. When the shared memory under them is
//! wanted for something else, [`Windows::evacuate`] copies their pages and puts the copy, in one
//! step of the kernel, where the shared pages were: the address stays, the bytes stay, and the
//! shared pages are free. Later loans of the same place come through another mapping of it.

use std::io;
use std::ops::{Deref, Range};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::area::{Area, Spares};
use super::page_size;
use super::shm::Segment;

/// More mappings than this are not made: each takes address space and some of the 65530 areas that
/// Linux allows a process (vm.max_map_count).
const MOST_MAPPINGS: usize = 1024;

/// Once so many copies stand in mappings, new loans are refused: each is an area of its own, and
/// there are 65530 for all that the process does.
const MOST_COPIES: usize = 4096;

/// Fewer bytes than this are copied into memory of the heap, which keeps spares of its own.
const LEAST_AREA: usize = 64 << 10;

/// Where a copy begins: at a multiple of this, for the vector instructions that will read it.
const ALIGNMENT: usize = 64;

/// Read-only mappings of one shared memory object, as many as loans and evacuations need.
#[derive(Debug)]
pub struct Windows {
    segment: Arc<Segment>,
    page: usize,
    state: Mutex<State>,
    /// Memory for copies. Taken inside of the lock above, or alone.
    spares: Mutex<Spares>,
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

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Mapping {
    fn new(segment: &Segment) -> io::Result<Self> {
        Ok(Mapping {
            area: Area::shared(
                segment.len(),
                libc::PROT_READ,
                segment.file().as_raw_fd(),
                segment.gone(),
            )?,
            lent: Vec::new(),
            evacuated: Vec::new(),
        })
    }

    fn is_lent(&self, pages: &Range<usize>) -> bool {
        self.lent.iter().any(|(_, lent)| overlap(lent, pages))
    }

    /// Makes copies that overlap these pages shared again; false if one is still looked at. The
    /// memory of the copies is kept if it is wanted.
    fn restore(
        &mut self,
        pages: &Range<usize>,
        fd: RawFd,
        spares: &Mutex<Spares>,
    ) -> io::Result<bool> {
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
            let spare = if lock(spares).wants() {
                // SAFETY: it is a copy, so private memory, and nobody looks at it.
                unsafe { self.area.take_out(&copy) }.ok()
            } else {
                None
            };
            // SAFETY: pages of our own area, which nobody looks at; the area is guarded.
            let shared = unsafe { self.area.share(&copy, fd) };
            if shared.is_ok() {
                self.evacuated.retain(|other| *other != copy);
            }
            let mut spares = lock(spares);
            match spare {
                Some(spare) => drop(spares.put_back(spare)),
                None => spares.lost(usize::from(shared.is_ok())),
            }
            shared?;
        }
        Ok(all)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Windows {
    /// Of this object.
    pub fn new(segment: Arc<Segment>) -> Self {
        Windows {
            segment,
            page: page_size(),
            state: Mutex::default(),
            spares: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        lock(&self.spares)
    }

    /// Memory for a copy: a spare, or new.
    fn area(&self, len: usize) -> io::Result<Area> {
        let spare = self.spares().take(len);
        let area = match spare {
            Some(spare) => spare.resized(len),
            None => Area::private(len),
        };
        area.inspect_err(|_| self.spares().lost(1))
    }

    /// Lets go of memory that is kept for copies, when none are made for long.
    pub fn clear_spares(&self) {
        let gone = self.spares().clear();
        drop(gone);
    }

    fn is_inside(&self, start: usize, len: usize) -> bool {
        start
            .checked_add(len)
            .is_some_and(|end| end <= self.segment.len())
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
        if !self.is_inside(start, len) {
            return Err(Errno::EINVAL.into());
        }
        let gone = self.spares().count();
        drop(gone);
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
            if mapping.restore(&pages, fd, &self.spares)? {
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
        let copy = self.area(rest.len())?;
        // The file may end within the last page; behind its end there is nothing to copy.
        let len = rest.len().min(self.segment.len() - rest.start);
        // SAFETY: `len` bytes of the segment, into an area of at least as many that nobody else
        // knows. Not through the mapping of the loan, which is a new one for each lap: its pages may
        // not be there yet, and a fault for every few of them costs as much as the copy.
        unsafe {
            let shared = self.segment.as_ptr().add(rest.start);
            ptr::copy_nonoverlapping(shared, copy.at(0), len);
        }
        // Its pages could be written, unlike those of a mapping; but there is no way to do it. To
        // change that with each copy would cost as much as the copy.
        // SAFETY: over pages of our own area, all of them shared ones with the same bytes, which do
        // not change until this returns.
        let moved = unsafe { copy.move_over(&mapping.area, rest.start) };
        moved.inspect_err(|_| self.spares().lost(1))?;
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
            let fd = self.segment.file().as_raw_fd();
            let _ = mapping.restore(&pages, fd, &self.spares);
        }
        // The first stays; the others go again, the last first, since loans know them by number.
        while let [_, .., last] = &mappings[..]
            && last.lent.is_empty()
        {
            self.spares().lost(last.evacuated.len());
            mappings.pop();
        }
    }

    /// Memory for a copy of so many bytes, which [`Room::fill`] makes.
    ///
    /// # Errors
    /// `EINVAL` if there are not so many; `ENOMEM`.
    pub fn room(self: &Arc<Self>, len: usize) -> io::Result<Room> {
        if !self.is_inside(0, len) {
            return Err(Errno::EINVAL.into());
        }
        let gone = self.spares().count();
        drop(gone);
        let memory = if len < LEAST_AREA {
            let mut heap = Vec::new();
            heap.try_reserve_exact(len + ALIGNMENT)
                .map_err(|_| Errno::ENOMEM)?;
            Memory::Heap(heap)
        } else {
            Memory::Area(Some(self.area(len.next_multiple_of(self.page))?))
        };
        Ok(Room {
            windows: self.clone(),
            memory,
            len,
        })
    }
}

/// Memory for a copy, see [`Windows::room`].
#[derive(Debug)]
pub struct Room {
    windows: Arc<Windows>,
    memory: Memory,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    /// An area, until it is dropped.
    Area(Option<Area>),
    /// Capacity for the bytes and to align them.
    Heap(Vec<u8>),
}

impl Room {
    /// Copies the bytes that stand from here on in the shared memory now; `None` if they are not
    /// inside.
    pub fn fill(mut self, start: usize) -> Option<Copied> {
        if !self.windows.is_inside(start, self.len) {
            return None;
        }
        let to = match &mut self.memory {
            Memory::Area(area) => area.as_ref()?.at(0),
            Memory::Heap(heap) => {
                let to = heap.as_mut_ptr();
                to.wrapping_add(to.align_offset(ALIGNMENT))
            }
        };
        // SAFETY: inside the mapping of the segment, which lends no slices here; whatever others
        // write there meanwhile, these are bytes. The memory has room for them and is ours alone.
        unsafe {
            let from = self.windows.segment.as_ptr().add(start);
            ptr::copy_nonoverlapping(from, to, self.len);
        }
        let data = NonNull::new(to)?;
        Some(Copied { data, room: self })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Memory::Area(area) = &mut self.memory
            && let Some(area) = area.take()
        {
            let gone = self.windows.spares().put_back(area);
            drop(gone);
        }
    }
}

/// Bytes copied out of the shared memory. Nobody else knows them, and they do not change.
#[derive(Debug)]
pub struct Copied {
    data: NonNull<u8>,
    room: Room,
}

// SAFETY: memory of its own.
unsafe impl Send for Copied {}
// SAFETY: nobody writes to it; reading it from several threads is no conflict.
unsafe impl Sync for Copied {}

impl Deref for Copied {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `Room::fill` has written `len` bytes there, in memory that lives as long as this.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.room.len) }
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
/// breaks its protocol can still change the bytes, or take them away, after which they are zeros:
/// code that must not be fooled copies them first and then looks.
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
        object_of(tag, SIZE)
    }

    fn large(tag: &str) -> (Arc<Segment>, Arc<Windows>) {
        object_of(tag, 3 * LEAST_AREA)
    }

    fn object_of(tag: &str, size: usize) -> (Arc<Segment>, Arc<Windows>) {
        let name = format!("zb-unit-window-{tag}-{}", std::process::id());
        let mut file = ShmFile::create_new(&name).unwrap();
        file.reserve(size as u64, &|| true).unwrap();
        let peer = ShmFile::open(&name).unwrap();
        ShmFile::unlink(&name).unwrap();
        let peer = Arc::new(peer.map(size).unwrap());
        let segment = Arc::new(file.map(size).unwrap());
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
    fn the_memory_of_copies_goes_round() {
        let (peer, windows) = object("spares");
        // Places that need a page more or less.
        let lend = |lap: u8| {
            let start = usize::from(lap % 3) * 10_000 + 5;
            fill(&peer, start, 9_000 + usize::from(lap), lap);
            windows.lend(start, 9_000 + usize::from(lap)).unwrap()
        };
        let mut held = std::collections::VecDeque::new();
        for lap in 0..100 {
            let loan = lend(lap);
            assert!(windows.evacuate(loan.key()).unwrap());
            held.push_back((lap, loan));
            if held.len() > 4 {
                let (lap, loan) = held.pop_front().unwrap();
                assert!(loan.iter().all(|byte| *byte == lap));
                drop(loan);
                assert_eq!(windows.spares().len(), 1);
            }
        }
        held.clear();
        assert!(windows.spares().len() <= 5);
        // The next use nothing, and so nothing is kept in the end.
        for lap in 0..150 {
            drop(lend(lap));
        }
        assert_eq!(windows.spares().len(), 0);
    }

    #[test]
    fn a_copy_is_aligned_and_its_memory_goes_round() {
        let (peer, windows) = object("room");
        fill(&peer, 100, 20_000, 7);
        let copy = windows.room(20_000).unwrap().fill(100).unwrap();
        assert_eq!(copy.as_ptr() as usize % ALIGNMENT, 0);
        assert!(windows.room(SIZE - 1).unwrap().fill(2).is_none());
        assert!(windows.room(SIZE + 1).is_err());
        assert!(windows.room(usize::MAX).is_err());

        let (peer, windows) = large("large");
        fill(&peer, 9, LEAST_AREA, 8);
        let first = windows.room(LEAST_AREA).unwrap().fill(9).unwrap();
        let second = windows.room(LEAST_AREA).unwrap().fill(10).unwrap();
        assert!(first.iter().all(|byte| *byte == 8) && second[..LEAST_AREA - 1] == first[1..]);
        let address = first.as_ptr();
        assert_eq!(address as usize % ALIGNMENT, 0);
        drop(first);
        fill(&peer, 0, LEAST_AREA, 9);
        assert_eq!(second[0], 8);
        let third = windows.room(LEAST_AREA).unwrap().fill(0).unwrap();
        assert_eq!(third.as_ptr(), address);
        assert!(third.iter().all(|byte| *byte == 9));
        drop(third);
        assert_eq!(windows.spares().len(), 1);
        windows.clear_spares();
        drop(second);
        assert_eq!(windows.spares().len(), 0);
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
