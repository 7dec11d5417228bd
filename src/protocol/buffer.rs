//! The objects of a buffer: making, finding and removing them.
//!
//! The reader makes the lock file, the segment and two semaphores, and removes them. See
//! `docs/protocol.md`, "Objects" and "Making and attaching".

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::extension::{self, Abilities, READER_LOCK, WRITER_LOCK};
use super::handoff;
use super::layout::{OIEB_SIZE, Oieb, Sizes, VERSION, first_word, offset};
use super::liveness::{Hints, Patience, Watch};
use super::reader::BufferConfig;
use crate::sys::access::Access;
use crate::sys::lock::{LockError, LockFile};
use crate::sys::opens::Opens;
use crate::sys::page_size;
use crate::sys::process;
use crate::sys::sem::{self, Semaphore};
use crate::sys::shm::{self, Segment, ShmFile};

/// Longest name, in bytes: its semaphores' file names (`sem.sem-w-NAME`) must fit 255.
pub const MAX_NAME_LEN: usize = 245;

/// The folder of the lock files; all implementations agree on it.
pub const LOCK_FOLDER: &str = "/tmp/zerobuffer";

const TO_CREATE: &str = "another user has made it: choose another name, or remove it as that user";
const TO_REMOVE: &str = "remove it as that user";
const TO_ATTACH: &str = "run both ends as the same user, or let the reader create it with wider \
                         permissions (zerobuffersrc perms=0666, or perms=0660 and a group)";

/// How often creation and attaching start over when objects change under them.
const TRIES: usize = 100;

/// How long a segment without content may be one that is being made, where no lock file tells, and
/// how far apart it is looked at. Making one takes that long nowhere with the lock free.
const UNFINISHED: Duration = Duration::from_secs(1);
const UNFINISHED_INTERVAL: Duration = Duration::from_millis(1);

/// Whether `name` can be that of a buffer: 1 to [`MAX_NAME_LEN`] bytes, no slash, no zero byte,
/// neither `.` nor `..`, and not starting with `sem.` (so that it is never a semaphore's file).
///
/// # Errors
/// [`Error::InvalidName`].
pub fn check_name(name: &str) -> Result<()> {
    Names::new(name).map(drop)
}

/// The names that follow from a buffer's name.
#[derive(Clone, Debug)]
pub struct Names {
    pub name: String,
    /// The shared memory's name.
    pub segment: String,
    pub sem_write: String,
    pub sem_read: String,
    pub lock: PathBuf,
}

impl Names {
    pub fn new(name: &str) -> Result<Self> {
        let why = match name {
            "" => "it is empty",
            "." | ".." => "it is a folder of its own",
            _ if name.contains('/') => "it contains a slash",
            _ if name.contains('\0') => "it contains a zero byte",
            _ if name.len() > MAX_NAME_LEN => "it is longer than 245 bytes",
            // /dev/shm/sem.sem-w-X is a semaphore of buffer X.
            _ if name.starts_with("sem.") => "names that start with 'sem.' are semaphores'",
            _ => {
                return Ok(Names {
                    name: name.into(),
                    segment: name.into(),
                    sem_write: format!("sem-w-{name}"),
                    sem_read: format!("sem-r-{name}"),
                    lock: Path::new(LOCK_FOLDER).join(format!("{name}.lock")),
                });
            }
        };
        Err(Error::InvalidName {
            name: name.into(),
            why,
        })
    }

    /// What the objects are called while they are made that will take the places of these. They
    /// cannot be those of a buffer, and belong to whoever has the name of this one.
    fn successors(&self) -> Self {
        let name = &self.name;
        Names {
            segment: format!("sem.sem-n-{name}"),
            sem_write: format!("sem-x-{name}"),
            sem_read: format!("sem-y-{name}"),
            ..self.clone()
        }
    }

    pub fn not_found(&self) -> Error {
        Error::BufferNotFound {
            name: self.name.clone(),
        }
    }

    fn closed(&self) -> Error {
        Error::ReaderClosed {
            name: self.name.clone(),
        }
    }

    pub fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::Corrupt {
            name: self.name.clone(),
            what: what.into(),
        }
    }

    /// The shared memory is not there any more: `Segment::is_gone`.
    pub fn gone(&self) -> Error {
        self.corrupt("the other end truncated it, or /dev/shm had no room for it")
    }

    pub fn os(&self, what: &'static str, source: io::Error) -> Error {
        Error::Os {
            name: self.name.clone(),
            what,
            source,
        }
    }

    fn taken(&self, pid: u64, hint: &str) -> Error {
        Error::ReaderAlreadyConnected {
            name: self.name.clone(),
            pid: (pid != 0).then_some(pid),
            hint: hint.into(),
        }
    }

    /// An error of opening `path`, with the owner and mode if permissions are the reason.
    fn opening(
        &self,
        what: &'static str,
        path: &Path,
        err: io::Error,
        remedy: &'static str,
    ) -> Error {
        if err.kind() != io::ErrorKind::PermissionDenied {
            return self.os(what, err);
        }
        Error::Permission {
            name: self.name.clone(),
            object: path.display().to_string(),
            detail: fs::symlink_metadata(path).map_or_else(
                |_| String::new(),
                |meta| {
                    format!(
                        " (owner uid {}, gid {}, mode {:04o})",
                        meta.uid(),
                        meta.gid(),
                        meta.mode() & 0o7777
                    )
                },
            ),
            remedy,
        }
    }
}

/// The objects of a buffer that this process made. Dropping removes them.
#[derive(Debug)]
pub struct Owned {
    names: Names,
    segment: Arc<Segment>,
    /// Dropped, and by that removed, last: until then the name is ours.
    lock: Option<LockFile>,
}

impl Drop for Owned {
    fn drop(&mut self) {
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
    let file = claim(names, lock.as_ref())?;
    // What a reader left that died while it made its buffer anew.
    unlink_all(&names.successors());
    let filled = fill(names, sizes, config, file, &|| true)?;
    Ok(filled.created(names, lock, lock_problem))
}

/// Makes the buffer anew under the same name, which is ours all the while: the new objects are made
/// under names of their own and then moved to those of the old. `asked` is the request that this
/// answers.
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
    unlink_all(&next);
    let file = ShmFile::create_new(&next.segment)
        .map_err(|err| names.os("creating the shared memory", err))?;
    if !own(&next, &file)? {
        return Err(names.taken(0, ""));
    }
    let filled = fill(&next, sizes, config, file, go_on)?;
    extension::note_answer(&filled.segment, &sizes, asked);
    let moved = move_over(old, old_sizes, &names, &next);
    if let Err(err) = moved {
        unlink_all(&next);
        return Err(names.os("giving the new buffer its name", err));
    }
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
        Err(LockError::Unavailable(_)) => None,
    };
    let file = claim(names, lock.as_ref())?;
    unlink_all(&names.successors());
    remove(names, &file);
    // What belongs to another user stays, in a folder like /tmp.
    for name in [&names.sem_write, &names.sem_read] {
        let path = sem::path(name);
        if fs::symlink_metadata(&path).is_ok() {
            let err = io::ErrorKind::PermissionDenied.into();
            return Err(names.opening("removing a semaphore", &path, err, TO_REMOVE));
        }
    }
    Ok(())
}

/// Makes the segment's file, with the reader's lock on it, removing one that nobody owns.
fn claim(names: &Names, lock: Option<&LockFile>) -> Result<ShmFile> {
    let path = shm::path(&names.segment);
    let mut unfinished: Option<(ShmFile, Instant)> = None;
    let mut tries = 0;
    while tries < TRIES {
        match ShmFile::create_new(&names.segment) {
            Ok(file) if own(names, &file)? => return Ok(file),
            Ok(_) => {
                tries += 1;
                continue;
            }
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => {
                return Err(names.opening("creating the shared memory", &path, err, TO_CREATE));
            }
        }
        let open = || match ShmFile::open(&names.segment) {
            Ok(file) => Ok(Some(file)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(names.opening("opening the shared memory", &path, err, TO_CREATE)),
        };
        let Some(file) = open()? else {
            tries += 1;
            continue;
        };
        // A file that has kept its name is the one that was just opened by it.
        let since = unfinished.take_if(|(seen, _)| seen.is_linked());
        let long = since
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() > UNFINISHED);
        match take_over(names, lock, file, long)? {
            Found::Nobodys => tries += 1,
            Found::Unfinished => {
                unfinished = match since {
                    Some(since) => Some(since),
                    None => open()?.map(|file| (file, Instant::now())),
                };
                thread::sleep(UNFINISHED_INTERVAL);
            }
        }
    }
    Err(names.taken(0, ""))
}

/// Takes the reader's lock on a file that we have just made; false if somebody took it for a
/// leftover and removed it before.
fn own(names: &Names, file: &ShmFile) -> Result<bool> {
    let start = Instant::now();
    loop {
        match file.try_lock_byte(READER_LOCK) {
            Ok(true) => return Ok(file.is_linked()),
            // Somebody looks at it, for a moment. The file must not be removed without the lock:
            // by then its name may be that of another's.
            Ok(false) if start.elapsed() < UNFINISHED => thread::sleep(UNFINISHED_INTERVAL / 10),
            Ok(false) => return Err(names.taken(0, "")),
            Err(err) => {
                remove(names, file);
                return Err(names.os("locking the shared memory", err));
            }
        }
    }
}

/// What a segment is that no reader owns.
enum Found {
    /// Removed.
    Nobodys,
    /// Perhaps being made, by somebody who has not come to take its lock.
    Unfinished,
}

/// Removes a segment that is provably nobody's; an error that says whose it is otherwise. One that
/// has been `unfinished` for long was left by a reader that died while it made it.
fn take_over(
    names: &Names,
    lock: Option<&LockFile>,
    file: ShmFile,
    unfinished: bool,
) -> Result<Found> {
    let pid = reader_pid(names);
    match file.try_lock_byte(READER_LOCK) {
        Ok(true) => {}
        Ok(false) => return Err(names.taken(pid, "")),
        Err(err) => return Err(names.os("locking the shared memory", err)),
    }
    // From here on no reader of ours owns this file, and only we may remove its name.
    if !file.is_linked() {
        return Ok(Found::Nobodys);
    }
    let len = file
        .len()
        .map_err(|err| names.os("asking for the size of the shared memory", err))?;
    let left_behind = lock.is_some_and(LockFile::was_left_behind);
    // A reader that died while it made the buffer leaves its lock file too, where it can have one.
    let abandoned = left_behind || (lock.is_none() && unfinished);
    let foreign = || {
        let path = shm::path(&names.segment);
        names.corrupt(format!("{} exists and is something else", path.display()))
    };
    // Either keeps the lock until the name is removed.
    let _unmapped;
    let segment;
    if len < OIEB_SIZE {
        // A reader that died while it made the buffer leaves a file of size 0.
        if len == 0 && lock.is_none() && !abandoned {
            return Ok(Found::Unfinished);
        }
        if len != 0 || !abandoned {
            return Err(foreign());
        }
        _unmapped = file;
    } else {
        segment = usize::try_from(len)
            .map_err(|_| io::ErrorKind::OutOfMemory.into())
            .and_then(|len| file.map(len))
            .map_err(|err| names.os("mapping the shared memory", err))?;
        let oieb = Oieb::of(&segment).ok_or_else(foreign)?;
        let first = oieb.get(offset::OIEB_SIZE_AND_VERSION);
        if first == 0 && lock.is_none() && !abandoned {
            return Ok(Found::Unfinished);
        } else if first == 0 && abandoned {
            // As above, a few steps later.
        } else if let Ok(sizes) = check(names, oieb, segment.len()) {
            // A reader of ours would hold the lock that we have. A v1 reader would hold the lock
            // file, unless that is somewhere else; and a pid that we do not see may be that of a
            // reader in another pid namespace. What may be alive is not taken.
            let ours = extension::abilities(&segment, &sizes).holds_lock();
            if !ours && !left_behind && pid != 0 && pid != process::id() {
                return Err(names.taken(
                    pid,
                    " (if it has died, remove the file of this name in /dev/shm)",
                ));
            }
        } else {
            return Err(foreign());
        }
    }
    ShmFile::unlink(&names.segment)
        .or_else(|err| match err.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(err),
        })
        .map(|()| Found::Nobodys)
        .map_err(|err| {
            names.opening(
                "removing the shared memory",
                &shm::path(&names.segment),
                err,
                TO_CREATE,
            )
        })
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

/// Fills a new file: room, semaphores, hello, OIEB; the word by which attachers know it last.
fn fill(
    names: &Names,
    sizes: Sizes,
    config: &BufferConfig,
    file: ShmFile,
    go_on: &dyn Fn() -> bool,
) -> Result<Filled> {
    let access = config.access();
    let filled = (|| {
        let total = sizes.total().ok_or_else(|| Error::InvalidConfig {
            why: "the sizes are larger than any address space".into(),
        })?;
        let available = file.room();
        let no_space = |needed| Error::NoSpace {
            name: names.name.clone(),
            needed,
            available,
        };
        file.reserve(total, go_on)
            .map_err(|err| match err.raw_os_error() {
                Some(libc::ENOSPC | libc::EFBIG | libc::ENOMEM) => no_space(total),
                Some(libc::EINTR) => Error::Interrupted,
                _ => names.os("reserving room in /dev/shm", err),
            })?;
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
        let semaphore = |name: &str, other_name: &str| {
            // In place of a leftover: the name of the buffer is ours, so its semaphores are.
            Semaphore::create(name, other_name, access).map_err(|err| match err.raw_os_error() {
                // One takes a page.
                Some(libc::ENOSPC | libc::ENOMEM) => {
                    let page = page_size() as u64;
                    no_space(total.next_multiple_of(page) + 2 * page)
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
        extension::greet(&segment, &sizes, config.resizes);
        // Release, with the Acquire in `attach`: who sees this word sees all of the above.
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

/// The pid that the buffer of this name gives for its reader; 0 if there is none to be read.
fn reader_pid(names: &Names) -> u64 {
    ShmFile::open(&names.segment)
        .and_then(|file| file.map(OIEB_SIZE as usize))
        .ok()
        .and_then(|segment| Some(Oieb::of(&segment)?.get(offset::READER_PID)))
        .unwrap_or(0)
}

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
    let abilities = extension::abilities(segment, &sizes);
    let reader = Watch::new(READER_LOCK);
    living_reader(names, segment, oieb, abilities, &reader)?;
    claim_writer(names, segment, &sizes, oieb, patience)?;
    // The reader may have closed while we came; `Reader::close_if_unused` looks for us after it has
    // stored its 0, we for its 0 after we have stored our pid (SeqCst, both), so one of us sees.
    if oieb.word(offset::READER_PID).load(Ordering::SeqCst) == 0 {
        if abilities != Abilities::default() {
            extension::note_writer(segment, &sizes, 0);
        }
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

fn check(names: &Names, oieb: Oieb, len: usize) -> Result<Sizes> {
    // Acquire, with the Release in `fill`.
    let first = oieb
        .word(offset::OIEB_SIZE_AND_VERSION)
        .load(Ordering::Acquire);
    if first == 0 {
        // Being made.
        return Err(names.not_found());
    }
    let (size, version) = (first as u32, ((first >> 32) as u32).to_le_bytes());
    if u64::from(size) != OIEB_SIZE {
        return Err(names.corrupt(format!("its first field is {size} instead of 128")));
    }
    if version[0] != VERSION[0] {
        return Err(Error::Version {
            name: names.name.clone(),
            major: version[0],
        });
    }
    let sizes = Sizes {
        metadata: oieb.get(offset::METADATA_SIZE),
        payload: oieb.get(offset::PAYLOAD_SIZE),
    };
    let fits = sizes.total().is_some_and(|total| total <= len as u64);
    if !fits || sizes.payload == 0 || !sizes.metadata.is_multiple_of(8) {
        return Err(names.corrupt(format!(
            "blocks of {} and {} bytes in a segment of {len}",
            sizes.metadata, sizes.payload
        )));
    }
    Ok(sizes)
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn no_two_names_share_an_object_whatever_they_are() {
        // All of few parts, those of the objects' names among them.
        let parts = [
            "sem-", "sem", "w", "r", "n", "x", "y", "-", ".", ".lock", "a", "ü", " ",
        ];
        let mut names: Vec<String> = vec![String::new()];
        for _ in 0..4 {
            let longer = names
                .iter()
                .flat_map(|name| parts.map(|part| format!("{name}{part}")));
            names = longer.chain(names.iter().cloned()).collect();
            names.sort();
            names.dedup();
        }
        names.extend(["a".repeat(MAX_NAME_LEN), "sem-w-".repeat(MAX_NAME_LEN / 6)]);
        let mut owners = HashMap::new();
        for name in names {
            let Ok(all) = Names::new(&name) else { continue };
            let next = all.successors();
            let sem = |name: &String| format!("sem.{name}");
            let files = [
                all.segment.clone(),
                sem(&all.sem_write),
                sem(&all.sem_read),
                next.segment.clone(),
                sem(&next.sem_write),
                sem(&next.sem_read),
            ];
            for file in files {
                assert!(file.len() <= 255 && !file.contains('/'), "{file}");
                let other = owners.insert(file.clone(), name.clone());
                assert_eq!(other, None, "{file} is also {name}'s");
            }
            let lock = all.lock.file_name().unwrap().to_str().unwrap();
            assert_eq!(lock.strip_suffix(".lock"), Some(&*name));
            assert_eq!((&next.lock, lock.len() <= 255), (&all.lock, true));
        }
        assert!(owners.len() > 100_000, "{}", owners.len());
    }
}
