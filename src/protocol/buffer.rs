//! The objects of a buffer: making, finding and removing them.
//!
//! The reader makes the lock file, the segment and two semaphores, and removes them. See
//! `docs/protocol.md`, "Objects" and "Making and attaching".

mod attach;
mod claim;
mod names;

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::claim::{claim, own, reader_pid};
use super::error::{Error, Result};
use super::extension;
use super::handoff;
use super::layout::{Oieb, Sizes, first_word, offset};
use super::reader::BufferConfig;
use crate::sys::access::Access;
#[cfg(feature = "plugin")]
use crate::sys::changes::Changes;
use crate::sys::lock::{LockError, LockFile};
use crate::sys::opens::Opens;
use crate::sys::page_size;
use crate::sys::process;
use crate::sys::sem::{self, Semaphore};
use crate::sys::shm::{self, Segment, ShmFile};

pub use self::attach::{Attached, attach, find_reader};
pub use self::names::{LOCK_FOLDER, MAX_NAME_LEN, Names, check_name};

const TO_CREATE: &str = "another user has made it: choose another name, or remove it as that user";
const TO_MAKE: &str = "this user may make no files there: run as one who may, or as root chmod 1777 \
                       /dev/shm";
const TO_REMOVE: &str = "remove it as that user";
/// How often creation and attaching start over when objects change under them.
const TRIES: usize = 100;
/// Nobody can interrupt the making of a buffer, so it asks for large pages no longer than this: enough
/// for 2 GiB, and for a tenth of that where each takes longest. What is left has small ones.
const MOST_GATHERING: Duration = Duration::from_secs(1);

/// The objects of a buffer that this process made. Dropping removes them.
#[derive(Debug)]
pub struct Owned {
    names: Names,
    segment: Arc<Segment>,
    /// What takes the segment's place when all its room is reserved, which was interrupted.
    next: Option<ShmFile>,
    /// Dropped, and by that removed, last: until then the name is ours.
    lock: Option<LockFile>,
}

/// What tells of changes to a segment, while it has its name.
#[cfg(feature = "plugin")]
pub fn changes(names: &Names, segment: &Segment) -> Option<Changes> {
    let changes = Changes::of(&shm::path(&names.segment)).ok()?;
    // Then that is the one of this name.
    segment.file().is_linked().then_some(changes)
}

impl Owned {
    /// No other segment is to take the place of this one.
    pub fn stay(&mut self) {
        if let Some(file) = self.next.take() {
            remove(&self.names.successors(), &file);
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.stay();
        if self.segment.file().is_linked() {
            remove(&self.names, self.segment.file());
        // Somebody removed the segment by hand. With the lock file, and a file in the segment's
        // place, the name is still ours, and with it what is left: the semaphores.
        } else if self.lock.as_ref().is_some_and(LockFile::is_ours)
            && let Ok(file) = ShmFile::create_new(&self.names.segment)
            && own(&self.names, &file).is_ok_and(|owned| owned)
        {
            remove(&self.names, &file);
        }
    }
}

/// Removes the names, unless they are already another's. The caller has the reader's lock on the
/// file, without which nobody removes a name.
fn remove(names: &Names, file: &ShmFile) {
    if file.is_linked() {
        // What cannot be removed stays, to be taken over with the name.
        let _ = Semaphore::unlink(&names.sem_write);
        let _ = Semaphore::unlink(&names.sem_read);
        let _ = ShmFile::unlink(&names.segment);
    }
}

/// A new buffer.
pub struct Created {
    pub owned: Owned,
    /// Why there is no lock file, if there is none.
    pub lock_problem: Option<Arc<io::Error>>,
    pub segment: Arc<Segment>,
    pub sem_write: Semaphore,
    pub sem_read: Semaphore,
    /// How often the writer's semaphore has been opened; `None` where the system does not tell.
    pub opens: Option<Opens>,
}

/// Makes a buffer and publishes it.
pub fn create(names: &Names, sizes: Sizes, config: &BufferConfig) -> Result<Created> {
    let (lock, lock_problem) = match LockFile::acquire(&names.lock, config.access()) {
        Ok(lock) => (Some(lock), None),
        Err(LockError::Held) => return Err(names.taken(reader_pid(names), "")),
        // A private or missing /tmp must not keep us from working; the lock on the segment's own
        // file still tells our own readers apart.
        Err(LockError::Unavailable(err)) => (None, Some(Arc::new(err))),
    };
    let mut file = claim(names, lock.as_ref())?;
    // What a reader left that died while it made its buffer anew.
    unlink_all(&names.successors());
    if let Err(err) = reserve(names, &sizes, &mut file, &|| true) {
        remove(names, &file);
        return Err(err);
    }
    let filled = fill(names, &sizes, config, file)?;
    // It takes a while, so after it was published: who comes meanwhile need not wait for it.
    let began = Instant::now();
    filled.segment.gather(&|| began.elapsed() < MOST_GATHERING);
    Ok(filled.created(names, lock, lock_problem))
}

/// Makes the buffer anew under the same name, which is ours all the while: the new objects are made
/// under names of their own and then moved to those of the old. `asked` is the request that this
/// answers. Interrupted, it goes on the next time where it was.
pub fn replace(
    old: &mut Owned,
    old_sizes: &Sizes,
    sizes: Sizes,
    config: &BufferConfig,
    asked: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<Created> {
    let names = old.names.clone();
    let next = names.successors();
    // Of a smaller one less is to be reserved.
    let total = total(&sizes)?;
    let begun = |file: &mut ShmFile| file.is_linked() && file.reserved() <= total;
    let mut file = match old.next.take_if(begun) {
        Some(file) => file,
        None => {
            old.stay();
            unlink_all(&next);
            let file = ShmFile::create_new(&next.segment)
                .map_err(|err| names.os("creating the shared memory", err))?;
            if !own(&next, &file)? {
                return Err(names.taken(0, ""));
            }
            file
        }
    };
    if let Err(err) = reserve(&next, &sizes, &mut file, go_on) {
        if matches!(err, Error::Interrupted) && file.reserved() > 0 {
            old.next = Some(file);
        } else {
            remove(&next, &file);
        }
        return Err(err);
    }
    let filled = fill(&next, &sizes, config, file)?;
    extension::note_answer(&filled.segment, &sizes, asked);
    let moved = move_over(old, old_sizes, &names, &next);
    if let Err(err) = moved {
        unlink_all(&next);
        return Err(names.os("giving the new buffer its name", err));
    }
    // Not before that, as in `create`. Who interrupts this gets the new buffer all the same.
    filled.segment.gather(go_on);
    Ok(filled.created(&names, old.lock.take(), None))
}

/// Puts the new objects in the places of the old ones.
fn move_over(old: &Owned, old_sizes: &Sizes, names: &Names, next: &Names) -> io::Result<()> {
    let Some(oieb) = Oieb::of(&old.segment) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    // From here on nobody attaches to the old one, so nobody takes the new semaphores for its.
    let pid = oieb.word(offset::READER_PID);
    let replaced = extension::replaced(&old.segment, old_sizes);
    handoff::retire(pid, replaced);
    let moved = Semaphore::rename(&next.sem_write, &names.sem_write);
    if moved.is_err() {
        // Nothing has happened.
        handoff::return_to(pid, process::id(), replaced);
        return moved;
    }
    Semaphore::rename(&next.sem_read, &names.sem_read)?;
    if old.segment.file().is_linked() {
        ShmFile::rename(&next.segment, &names.segment)
    } else {
        // Somebody removed it by hand; what has its name now is another's.
        ShmFile::rename_new(&next.segment, &names.segment)
    }
}

/// Removes what has these names. What is not there, or another user's, is no reason to stop.
fn unlink_all(names: &Names) {
    let _ = ShmFile::unlink(&names.segment);
    let _ = Semaphore::unlink(&names.sem_write);
    let _ = Semaphore::unlink(&names.sem_read);
}

/// Whether there is something of a reader that died while it made its buffer anew.
pub fn has_successors(names: &Names) -> bool {
    let next = names.successors();
    let paths = [
        shm::path(&next.segment),
        sem::path(&next.sem_write),
        sem::path(&next.sem_read),
    ];
    paths.iter().any(|path| fs::symlink_metadata(path).is_ok())
}

/// Removes all objects of this name if nobody owns them: takes the name as a reader would, and lets
/// go of it.
pub fn remove_leftovers(names: &Names) -> Result<()> {
    let lock = match LockFile::acquire(&names.lock, Access::mode(0o600)) {
        Ok(lock) => Some(lock),
        Err(LockError::Held) => return Err(names.taken(reader_pid(names), "")),
        // Without it we do not know whether a reader is just about to make the rest.
        Err(LockError::Unavailable(err)) if fs::symlink_metadata(&names.lock).is_ok() => {
            return Err(names.opening("locking the lock file", &names.lock, err, TO_REMOVE));
        }
        Err(LockError::Unavailable(_)) => None,
    };
    let file = claim(names, lock.as_ref())?;
    unlink_all(&names.successors());
    // What belongs to another user stays, in a folder like /tmp. Whether it is there afterwards does not
    // tell: without the segment the name is free, and the next reader may have it already.
    let tried = [&names.sem_write, &names.sem_read].map(|name| (name, Semaphore::unlink(name)));
    remove(names, &file);
    for (name, tried) in tried {
        if let Err(err) = tried
            && err.kind() != io::ErrorKind::NotFound
        {
            return Err(names.opening("removing a semaphore", &sem::path(name), err, TO_REMOVE));
        }
    }
    match lock.map(LockFile::remove) {
        Some(Err(err)) => Err(names.opening("removing the lock file", &names.lock, err, TO_REMOVE)),
        _ => Ok(()),
    }
}

/// The objects of a buffer but for its lock file.
struct Filled {
    segment: Arc<Segment>,
    sem_write: Semaphore,
    sem_read: Semaphore,
    opens: Option<Opens>,
}

impl Filled {
    fn created(
        self,
        names: &Names,
        lock: Option<LockFile>,
        lock_problem: Option<Arc<io::Error>>,
    ) -> Created {
        Created {
            owned: Owned {
                names: names.clone(),
                segment: self.segment.clone(),
                next: None,
                lock,
            },
            segment: self.segment,
            sem_write: self.sem_write,
            sem_read: self.sem_read,
            opens: self.opens,
            lock_problem,
        }
    }
}

/// Bytes that there are for a buffer, what its file has taken of them included.
fn available(file: &ShmFile) -> Option<u64> {
    (file.room()).map(|room| room.saturating_add(file.reserved()))
}

fn no_space(names: &Names, needed: u64, available: Option<u64>) -> Error {
    Error::NoSpace {
        name: names.name.clone(),
        needed,
        available,
    }
}

fn total(sizes: &Sizes) -> Result<u64> {
    sizes.total().ok_or_else(|| Error::InvalidConfig {
        why: "the sizes are larger than any address space".into(),
    })
}

/// Reserves the room of a buffer in a new file.
fn reserve(
    names: &Names,
    sizes: &Sizes,
    file: &mut ShmFile,
    go_on: &dyn Fn() -> bool,
) -> Result<()> {
    let total = total(sizes)?;
    file.reserve(total, go_on)
        .map_err(|err| match err.raw_os_error() {
            Some(libc::ENOSPC | libc::EFBIG | libc::ENOMEM) => {
                no_space(names, total, available(file))
            }
            Some(libc::EINTR) => Error::Interrupted,
            _ => names.os("reserving room in /dev/shm", err),
        })
}

/// Fills a file that has its room: semaphores, hello, OIEB; the word by which attachers know it
/// last.
fn fill(names: &Names, sizes: &Sizes, config: &BufferConfig, file: ShmFile) -> Result<Filled> {
    let access = config.access();
    let filled = (|| {
        let total = total(sizes)?;
        // Before the first semaphore takes a page.
        let available = available(&file);
        file.give(access)
            .map_err(|err| match (err.kind(), access.group) {
                (io::ErrorKind::PermissionDenied, Some(group)) => Error::InvalidConfig {
                    why: format!(
                        "this user may not give files to the group {group}: only its members may"
                    ),
                },
                _ => names.os("setting the permissions of the shared memory", err),
            })?;
        // Before the OIEB is published: a writer that is quick must find them.
        let next = names.successors();
        // A semaphore takes a page.
        let page = page_size() as u64;
        let needed = total.next_multiple_of(page) + 2 * page;
        let semaphore = |name: &str, other_name: &str| {
            // In place of a leftover: the name of the buffer is ours, so its semaphores are.
            Semaphore::create(name, other_name, access).map_err(|err| match err.raw_os_error() {
                // If not, there are as many files as there may be.
                Some(libc::ENOSPC | libc::ENOMEM) if available < Some(needed) => {
                    no_space(names, needed, available)
                }
                _ => names.opening("creating a semaphore", &sem::path(name), err, TO_CREATE),
            })
        };
        let sem_write = semaphore(&names.sem_write, &next.sem_write)?;
        let sem_read = semaphore(&names.sem_read, &next.sem_read)?;
        // Before it is published too: every writer counts.
        let opens = Opens::of(&sem::path(&names.sem_write)).ok();
        Ok((total, sem_write, sem_read, opens))
    })();
    let (total, sem_write, sem_read, opens) = match filled {
        Ok(filled) => filled,
        Err(err) => {
            remove(names, &file);
            return Err(err);
        }
    };
    let segment = match file.map(total as usize) {
        Ok(segment) => Arc::new(segment),
        Err(err) => {
            // The file, and with it its lock, went with the error.
            if let Ok(file) = ShmFile::open(&names.segment)
                && own(names, &file).is_ok_and(|owned| owned)
            {
                remove(names, &file);
            }
            return Err(names.os("mapping the shared memory", err));
        }
    };
    if let Some(oieb) = Oieb::of(&segment) {
        oieb.set(offset::METADATA_SIZE, sizes.metadata);
        oieb.set(offset::METADATA_FREE_BYTES, sizes.metadata);
        oieb.set(offset::PAYLOAD_SIZE, sizes.payload);
        oieb.set(offset::PAYLOAD_FREE_BYTES, sizes.payload);
        oieb.set(offset::READER_PID, process::id());
        extension::greet(&segment, sizes, config.resizes);
        // Release, with the Acquire in `attach::check`: who sees this word sees all of the above.
        oieb.word(offset::OIEB_SIZE_AND_VERSION)
            .store(first_word(), Ordering::Release);
    }
    if segment.is_gone() {
        remove(names, segment.file());
        return Err(names.gone());
    }
    Ok(Filled {
        segment,
        sem_write,
        sem_read,
        opens,
    })
}
