//! Shared memory that goes away under us.
//!
//! Whoever may write to a shared memory object may also truncate it, or punch a hole into it while
//! `/dev/shm` is full. Who touches what was there gets a SIGBUS, and by default that ends the
//! process. To look at the size before each access does not help: it may change right after. Files
//! of `/dev/shm` cannot be sealed. And bytes that are lent are read by code that is not ours.
//!
//! So there is a handler for SIGBUS, for the pages of our own mappings of shared memory and for
//! nothing else: it puts an empty page of private memory where the fault was, notes that the object
//! is gone, and lets the thread go on, which finds zeros. Who then looks ([`Gone::is_set`]) reports
//! it. Every other SIGBUS goes to whoever handled it before, which is the default action where
//! nobody did.

use std::io;
use std::mem::{MaybeUninit, transmute};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, Once, PoisonError};

use nix::errno::Errno;

/// Set to `0`, this environment variable keeps us from handling SIGBUS.
pub const SWITCH: &str = "ZEROBUFFER_SIGBUS_HANDLER";

/// Whether pages of one object were gone when they were touched.
#[derive(Clone, Debug, Default)]
pub struct Gone(Arc<AtomicBool>);

impl Gone {
    /// Whether they were: what has been read since then may be zeros, what was written may be lost.
    pub fn is_set(&self) -> bool {
        // Acquire, with the Release in `fill`: who has seen zeros of another thread's fault and
        // looks here after that sees it. (The kernel orders a page and who reads it.)
        self.0.load(Ordering::Acquire)
    }
}

/// Keeps an area of address space from ending the process while this lives.
#[derive(Debug)]
pub struct Guard {
    /// `None` where SIGBUS is not handled.
    slot: Option<&'static Slot>,
    /// The handler may set it as long as this lives.
    _gone: Gone,
}

impl Guard {
    /// Of this area, which is mapped with these rights (`PROT_…`) and of which nothing has been
    /// touched yet. `gone` is set when a page of it is.
    ///
    /// The area must stay mapped until this is dropped: what is mapped there later is not ours to
    /// change.
    pub fn new(area: Range<usize>, rights: libc::c_int, gone: &Gone) -> Self {
        Guard {
            slot: is_handled().then(|| {
                let slot = TABLE.take();
                slot.set(area, rights, Arc::as_ptr(&gone.0).cast_mut());
                slot
            }),
            _gone: gone.clone(),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.set(0..0, libc::PROT_NONE, ptr::null_mut());
            TABLE.put_back(slot);
        }
    }
}

/// One area, as the handler finds it. It may look at any moment, so a slot is never freed, and a
/// count tells whether its words belong together.
#[derive(Debug)]
struct Slot {
    /// Odd while the others change.
    changes: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    rights: AtomicI32,
    gone: AtomicPtr<AtomicBool>,
}

impl Slot {
    const fn new() -> Self {
        Slot {
            changes: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            rights: AtomicI32::new(0),
            gone: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Only who has taken the slot.
    fn set(&self, area: Range<usize>, rights: libc::c_int, gone: *mut AtomicBool) {
        // Relaxed: nobody else changes it.
        let changes = self.changes.load(Ordering::Relaxed);
        self.changes
            .store(changes.wrapping_add(1), Ordering::Relaxed);
        // With the fence in `get`: who sees one of these sees the odd count, or a later one.
        fence(Ordering::Release);
        self.start.store(area.start, Ordering::Relaxed);
        self.end.store(area.end, Ordering::Relaxed);
        self.rights.store(rights, Ordering::Relaxed);
        self.gone.store(gone, Ordering::Relaxed);
        // Release, with the Acquire in `get`: who sees this count sees all of them.
        self.changes
            .store(changes.wrapping_add(2), Ordering::Release);
    }

    /// The area; `None` while somebody changes it. That is never the area that the calling thread
    /// has just touched: who touches one keeps it.
    fn get(&self) -> Option<(Range<usize>, libc::c_int, *mut AtomicBool)> {
        // Acquire, with the last Release in `set`; the fence below with the one there.
        let before = self.changes.load(Ordering::Acquire);
        let area = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        let rights = self.rights.load(Ordering::Relaxed);
        let gone = self.gone.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let same = self.changes.load(Ordering::Relaxed) == before && before.is_multiple_of(2);
        same.then_some((area, rights, gone))
    }
}

const SLOTS: usize = 64;

/// Slots, and the chunk that was the newest before it.
struct Chunk {
    slots: [Slot; SLOTS],
    older: Option<&'static Chunk>,
}

/// All slots. The handler goes through them without a lock; they are taken and put back with one.
struct Table {
    newest: AtomicPtr<Chunk>,
    free: Mutex<Vec<&'static Slot>>,
}

static TABLE: Table = Table {
    newest: AtomicPtr::new(ptr::null_mut()),
    free: Mutex::new(Vec::new()),
};

impl Table {
    fn take(&self) -> &'static Slot {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(slot) = free.pop() {
                return slot;
            }
            let chunk: &'static Chunk = Box::leak(Box::new(Chunk {
                slots: [const { Slot::new() }; SLOTS],
                older: self.newest(),
            }));
            free.extend(&chunk.slots);
            // Release, with the Acquire in `newest`. Only with the lock.
            self.newest
                .store(ptr::from_ref(chunk).cast_mut(), Ordering::Release);
        }
    }

    fn put_back(&self, slot: &'static Slot) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(slot);
    }

    fn newest(&self) -> Option<&'static Chunk> {
        // Acquire, with the Release in `take`: the chunk is whole.
        let newest = self.newest.load(Ordering::Acquire);
        // SAFETY: null, or a chunk that was leaked and is never changed but through its atomics.
        unsafe { newest.as_ref() }
    }

    fn slots(&self) -> impl Iterator<Item = &'static Slot> {
        std::iter::successors(self.newest(), |chunk| chunk.older).flat_map(|chunk| &chunk.slots)
    }
}

/// Bytes of a page, from before the handler is there.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Who handled SIGBUS before; null while our handler is not there.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Whether SIGBUS is handled by us, from the first call on, unless somebody does not want that.
fn is_handled() -> bool {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os(SWITCH).is_none_or(|value| value != "0") {
            // Without it all is as it was: a truncated object ends the process.
            let _ = install();
        }
    });
    // Acquire, with the Release in `install`, whoever called it.
    !BEFORE.load(Ordering::Acquire).is_null()
}

fn install() -> io::Result<()> {
    // Relaxed: the handler is there after it, which a system call orders.
    PAGE.store(super::page_size(), Ordering::Relaxed);
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action it only writes the present one, to room for it.
    Errno::result(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), now.as_mut_ptr()) })?;
    // SAFETY: written by the call above; all zeros is valid, too.
    let now = unsafe { now.assume_init() };
    // For ever: the handler may be running whenever. Release, with the Acquire in `pass_on`.
    BEFORE.store(Box::leak(Box::new(now)), Ordering::Release);
    let mut ours = now;
    ours.sa_sigaction = handle as *const () as usize;
    // What the one before wanted blocked stays so when he is called. On the stack that the thread
    // may have for signals, since its own may be used up.
    ours.sa_flags =
        libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART | (now.sa_flags & libc::SA_NODEFER);
    // SAFETY: a valid action; `handle` does only what may be done in a handler.
    let installed = unsafe { libc::sigaction(libc::SIGBUS, &ours, ptr::null_mut()) };
    Errno::result(installed).map(drop).map_err(|err| {
        // Release: as above.
        BEFORE.store(ptr::null_mut(), Ordering::Release);
        err.into()
    })
}

/// Everything in here and below must be safe in a signal handler: atomics and system calls, no
/// lock, no memory of the heap, no panic.
extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the thread's own errno, which the interrupted code may be about to look at.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; and the kernel calls with a valid siginfo (SA_SIGINFO), which has an
    // address for every fault.
    let (saved, code, address) = unsafe { (*errno, (*info).si_code, (*info).si_addr() as usize) };
    // BUS_ADRERR: the page is not there. Other codes are other troubles, or somebody's kill().
    if code != libc::BUS_ADRERR || !fill(address) {
        pass_on(signal, info, context, code);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Puts an empty page where `address` is, if that is in an area of ours.
fn fill(address: usize) -> bool {
    let covers = |(area, rights, gone): (Range<usize>, libc::c_int, *mut AtomicBool)| {
        area.contains(&address).then_some((rights, gone))
    };
    let Some((rights, gone)) = TABLE.slots().find_map(|slot| slot.get().and_then(covers)) else {
        return false;
    };
    // SAFETY: the area is that of a Guard, which keeps it: this thread has just touched it, so its
    // owner lives until the thread goes on.
    if let Some(gone) = unsafe { gone.as_ref() } {
        // Release, with the Acquire in `Gone::is_set`.
        gone.store(true, Ordering::Release);
    }
    // Relaxed: stored before the handler was there.
    let page = PAGE.load(Ordering::Relaxed);
    // Only this page: behind it there may be copies that somebody still looks at.
    // SAFETY: a page of an area that is ours, as said above, and which has no memory any more.
    let mapped = unsafe {
        libc::mmap(
            (address & !(page - 1)) as *mut libc::c_void,
            page,
            rights,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

/// What would have happened without us.
fn pass_on(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
    code: libc::c_int,
) {
    // Acquire, with the Release in `install`.
    // SAFETY: leaked, and never changed.
    let Some(before) = (unsafe { BEFORE.load(Ordering::Acquire).as_ref() }) else {
        return;
    };
    // Somebody's kill(), or one that is only announced (BUS_MCEERR_AO): nothing repeats it.
    let is_fault = code > 0 && code != libc::BUS_MCEERR_AO;
    match before.sa_sigaction {
        libc::SIG_IGN if !is_fault => {}
        // A fault cannot be ignored.
        libc::SIG_DFL | libc::SIG_IGN => {
            let mut default = *before;
            default.sa_sigaction = libc::SIG_DFL;
            default.sa_flags = 0;
            // SAFETY: a valid action. The fault comes again as soon as we return.
            unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
            if !is_fault {
                // SAFETY: it may be called here; it takes effect when we return.
                unsafe { libc::raise(signal) };
            }
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: with this flag, that is what it is.
            let handler = unsafe { transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without the flag, that is what it is.
            let handler = unsafe { transmute::<usize, extern "C" fn(libc::c_int)>(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_and_there_are_always_enough() {
        let table = Table {
            newest: AtomicPtr::new(ptr::null_mut()),
            free: Mutex::new(Vec::new()),
        };
        let area = |i: usize| 16 * i..16 * i + 16;
        let taken: Vec<_> = (0..3 * SLOTS).map(|_| table.take()).collect();
        for (i, slot) in taken.iter().enumerate() {
            slot.set(area(i), libc::PROT_READ, ptr::null_mut());
        }
        for i in 0..3 * SLOTS {
            let found = table
                .slots()
                .filter(|slot| slot.get().unwrap().0 == area(i));
            assert_eq!(found.count(), 1);
        }
        for slot in taken {
            table.put_back(slot);
        }
        let again: Vec<_> = (0..3 * SLOTS).map(|_| table.take()).collect();
        assert_eq!((again.len(), table.slots().count()), (3 * SLOTS, 3 * SLOTS));
    }

    #[test]
    fn who_looks_while_a_slot_changes_sees_all_of_one_area_or_none() {
        let slot = Slot::new();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    if let Some((area, rights, gone)) = slot.get() {
                        assert_eq!(area.end, 2 * area.start);
                        assert_eq!(area.start, rights as usize);
                        assert_eq!(area.start, gone as usize);
                        seen += 1;
                    }
                }
                seen
            });
            for i in 0..200_000 {
                slot.set(i..2 * i, i as libc::c_int, i as *mut AtomicBool);
            }
            while !looking.is_finished() && slot.get().is_none() {}
            done.store(true, Ordering::Relaxed);
            looking.join().unwrap();
        });
    }
}
