//! Finding and checking a buffer, and becoming its writer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::{Names, TRIES};
use crate::protocol::error::{Error, Result};
use crate::protocol::extension::{self, Abilities, READER_LOCK, WRITER_LOCK};
use crate::protocol::layout::{Misfit, OIEB_SIZE, Oieb, Sizes, offset};
use crate::protocol::liveness::{Hints, Patience, Watch};
use crate::sys::process;
use crate::sys::sem::{self, Semaphore};
use crate::sys::shm::{self, Segment, ShmFile};

const TO_ATTACH: &str = "run both ends as the same user, or let the reader create it with wider \
                         permissions (zerobuffersrc perms=0666, or perms=0660 and a group)";

/// So long after a v1 reader has made its segment semaphores that are older may be the leftovers of
/// one before it.
const YOUNG: Duration = Duration::from_secs(1);

/// A buffer that a writer has attached to.
pub struct Attached {
    pub segment: Arc<Segment>,
    pub sizes: Sizes,
    pub abilities: Abilities,
    pub sem_write: Semaphore,
    pub sem_read: Semaphore,
    pub reader: Watch,
}

/// Finds a buffer, checks it, and makes this process its writer. Whoever tries again keeps the
/// `patience`.
pub fn attach(names: &Names, patience: &mut Patience) -> Result<Attached> {
    let segment = open(names)?;
    let attached = attach_to(names, &segment, patience);
    // What was read of it then is worth nothing, not even as an error.
    if segment.is_gone() {
        return Err(names.gone());
    }
    attached
}

/// The pid of the living reader of a buffer, to which nothing is done.
pub fn find_reader(names: &Names) -> Result<u64> {
    let segment = open(names)?;
    let found = Oieb::of(&segment).ok_or_else(|| names.not_found());
    let found = found.and_then(|oieb| {
        let sizes = check(names, oieb, segment.len())?;
        let abilities = extension::abilities(&segment, &sizes);
        living_reader(names, &segment, oieb, abilities, &Watch::new(READER_LOCK))
    });
    if segment.is_gone() {
        return Err(names.gone());
    }
    if !segment.file().is_linked() {
        return Err(names.not_found());
    }
    found
}

/// Opens and maps what may be a buffer.
fn open(names: &Names) -> Result<Arc<Segment>> {
    let path = shm::path(&names.segment);
    let file = ShmFile::open(&names.segment).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => names.not_found(),
        _ => names.opening("opening the shared memory", &path, err, TO_ATTACH),
    })?;
    let len = file
        .len()
        .map_err(|err| names.os("asking for the size of the shared memory", err))?;
    if len == 0 {
        // Being made.
        return Err(names.not_found());
    }
    if len < OIEB_SIZE {
        return Err(names.corrupt(format!("it has {len} bytes and 128 are needed at least")));
    }
    let len = usize::try_from(len).map_err(|_| names.corrupt("it is larger than memory"))?;
    let segment = file
        .map(len)
        .map_err(|err| names.os("mapping the shared memory", err))?;
    Ok(Arc::new(segment))
}

fn attach_to(names: &Names, segment: &Arc<Segment>, patience: &mut Patience) -> Result<Attached> {
    let oieb = Oieb::of(segment).ok_or_else(|| names.not_found())?;
    let sizes = check(names, oieb, segment.len())?;
    let abilities = extension::abilities(segment, &sizes);
    // Before they are opened: those that are opened then are no older.
    if abilities == Abilities::default() && are_leftovers(names, segment) {
        return Err(names.not_found());
    }
    // The semaphores before the claim: whoever fails here leaves no trace.
    let open = |name: &str| {
        Semaphore::open(name).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => names.not_found(),
            _ => names.opening("opening a semaphore", &sem::path(name), err, TO_ATTACH),
        })
    };
    let (sem_write, sem_read) = (open(&names.sem_write)?, open(&names.sem_read)?);
    // If the segment still has its name now, these semaphores are its own and not a successor's.
    if !segment.file().is_linked() {
        return Err(names.not_found());
    }
    let reader = Watch::new(READER_LOCK);
    living_reader(names, segment, oieb, abilities, &reader)?;
    claim_writer(names, segment, &sizes, oieb, patience)?;
    // The reader may have closed while we came; `Reader::close_if_unused` looks for us after it has
    // stored its 0, we for its 0 after we have stored our pid (SeqCst, both), so one of us sees.
    if oieb.word(offset::READER_PID).load(Ordering::SeqCst) == 0 {
        if abilities != Abilities::default() {
            extension::note_writer(segment, &sizes, 0);
        }
        // Release: as in `handoff::leave`. If it fails it is no longer ours.
        let _ = oieb.word(offset::WRITER_PID).compare_exchange(
            process::id(),
            0,
            Ordering::Release,
            Ordering::Relaxed,
        );
        return Err(names.closed());
    }
    if abilities != Abilities::default() {
        extension::count_attachment(segment, &sizes);
        extension::note_end(segment, &sizes, false);
        // One before us may have been killed while it waited.
        extension::want(segment, &sizes, 0);
    }
    Ok(Attached {
        segment: segment.clone(),
        sizes,
        abilities,
        sem_write,
        sem_read,
        reader,
    })
}

/// Whether the semaphores of a v1 reader are those of one before it, which it is about to replace: the
/// published ones store their pid before they do, and never post to nor wait on what they replaced.
/// One that made its semaphores first cannot be told from that, so it is believed after a moment.
fn are_leftovers(names: &Names, segment: &Segment) -> bool {
    let Some(born) = segment.file().born() else {
        return false;
    };
    let age = SystemTime::now().duration_since(born);
    age.is_ok_and(|age| age < YOUNG)
        && [&names.sem_write, &names.sem_read]
            .into_iter()
            .any(|name| Semaphore::born(name).is_some_and(|sem| sem < born))
}

/// The pid of the reader, if it is there and alive.
fn living_reader(
    names: &Names,
    segment: &Segment,
    oieb: Oieb,
    abilities: Abilities,
    reader: &Watch,
) -> Result<u64> {
    let pid = oieb.get(offset::READER_PID);
    if pid == 0 {
        return Err(names.closed());
    }
    let hints = Hints {
        holds_lock: abilities.holds_lock(),
        progress: oieb.get(offset::PAYLOAD_READ_COUNT),
        lock_file: Some(&names.lock),
    };
    if reader.is_dead(segment, pid, hints) {
        return Err(match oieb.get(offset::READER_PID) {
            0 => names.closed(),
            pid => Error::ReaderDead {
                name: names.name.clone(),
                pid,
            },
        });
    }
    Ok(pid)
}

pub(super) fn check(names: &Names, oieb: Oieb, len: usize) -> Result<Sizes> {
    // Before the fields: v1 readers fill it field by field, their pid last. Acquire: who sees that
    // sees all of them.
    let pid = oieb.word(offset::READER_PID).load(Ordering::Acquire);
    check_fields(names, oieb, len).map_err(|err| match pid {
        // Being made.
        0 => names.not_found(),
        _ => err,
    })
}

fn check_fields(names: &Names, oieb: Oieb, len: usize) -> Result<Sizes> {
    // Acquire, with the Release in `fill`.
    let first = oieb
        .word(offset::OIEB_SIZE_AND_VERSION)
        .load(Ordering::Acquire);
    let sizes = Sizes {
        metadata: oieb.get(offset::METADATA_SIZE),
        payload: oieb.get(offset::PAYLOAD_SIZE),
    };
    sizes
        .checked(first, len as u64)
        .map_err(|misfit| match misfit {
            Misfit::Unfinished => names.not_found(),
            Misfit::Version(major) => Error::Version {
                name: names.name.clone(),
                major,
            },
            Misfit::Other(what) => names.corrupt(what),
        })
}

/// Makes this process the writer: the lock keeps our own writers apart, the compare-and-swap the
/// others.
fn claim_writer(
    names: &Names,
    segment: &Arc<Segment>,
    sizes: &Sizes,
    oieb: Oieb,
    patience: &mut Patience,
) -> Result<()> {
    let word = oieb.word(offset::WRITER_PID);
    let taken = || {
        // Relaxed here and below: what is believed is the compare-and-swap.
        let pid = word.load(Ordering::Relaxed);
        Err(Error::WriterAlreadyConnected {
            name: names.name.clone(),
            pid: (pid != 0).then_some(pid),
        })
    };
    // Whether nobody has the place, if none of ours holds the lock.
    let mut is_free = |pid| {
        pid == 0
            || extension::is_noted_writer(segment, sizes, pid)
            || patience.is_over(segment, pid, oieb.get(offset::PAYLOAD_WRITTEN_COUNT))
    };
    // First without the lock: the reader would see it held in the name of the writer that is there.
    let held = segment.file().is_byte_locked(WRITER_LOCK);
    let held = held.map_err(|err| names.os("asking for the lock of the shared memory", err))?;
    if !held && !is_free(word.load(Ordering::Relaxed)) {
        return taken();
    }
    match segment.file().try_lock_byte(WRITER_LOCK) {
        Ok(true) => {}
        Ok(false) => {
            *patience = Patience::default();
            return taken();
        }
        Err(err) => return Err(names.os("locking the shared memory", err)),
    }
    let says_hello = extension::abilities(segment, sizes) != Abilities::default();
    for _ in 0..TRIES {
        let pid = word.load(Ordering::Relaxed);
        if !is_free(pid) {
            break;
        }
        if says_hello {
            extension::note_next_writer(segment, sizes, process::id());
        }
        // Acquires what the writer before us stored until it stored 0 (`Writer::close`); SeqCst for
        // `attach`.
        let swap = word.compare_exchange(pid, process::id(), Ordering::SeqCst, Ordering::Relaxed);
        if says_hello {
            let noted = if swap.is_ok() { process::id() } else { 0 };
            extension::note_writer(segment, sizes, noted);
        }
        if swap.is_ok() {
            return Ok(());
        }
    }
    // Not only when the segment goes, which the `patience` may keep.
    let _ = segment.file().unlock_byte(WRITER_LOCK);
    taken()
}
