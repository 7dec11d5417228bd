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

use super::error::{Error, Result};
use super::extension::{self, Abilities, READER_LOCK, WRITER_LOCK};
use super::layout::{OIEB_SIZE, Oieb, Sizes, VERSION, first_word, offset};
use super::liveness::{Hints, Watch};
use crate::sys::lock::{LockError, LockFile};
use crate::sys::opens::Opens;
use crate::sys::process::{self, Process};
use crate::sys::sem::{self, Semaphore};
use crate::sys::shm::{self, Segment, ShmFile};

/// Longest name, in bytes: its semaphores' file names (`sem.sem-w-NAME`) must fit 255.
pub const MAX_NAME_LEN: usize = 245;

/// The folder of the lock files; all implementations agree on it.
pub const LOCK_FOLDER: &str = "/tmp/zerobuffer";

const TO_CREATE: &str = "another user has made it: choose another name, or remove it as that user";
const TO_ATTACH: &str = "run both ends as the same user, or let the reader create it with wider \
                         permissions (zerobuffersrc perms=0666)";

/// How often creation and attaching start over when objects change under them.
const TRIES: usize = 100;

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

    pub fn not_found(&self) -> Error {
        Error::BufferNotFound {
            name: self.name.clone(),
        }
    }

    pub fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::Corrupt {
            name: self.name.clone(),
            what: what.into(),
        }
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
    _lock: Option<LockFile>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        remove(&self.names, self.segment.file());
    }
}

/// Removes the names, unless they are already another's.
fn remove(names: &Names, file: &ShmFile) {
    if file.is_linked() {
        let _ = Semaphore::unlink(&names.sem_write);
        let _ = Semaphore::unlink(&names.sem_read);
        let _ = ShmFile::unlink(&names.name);
    }
}

/// A new buffer.
pub struct Created {
    pub owned: Owned,
    /// Why there is no lock file, if there is none.
    pub lock_problem: Option<io::Error>,
    pub segment: Arc<Segment>,
    pub sem_write: Semaphore,
    pub sem_read: Semaphore,
    /// How often the writer's semaphore has been opened; `None` where the system does not tell.
    pub opens: Option<Opens>,
}

/// Makes a buffer and publishes it.
pub fn create(names: &Names, sizes: Sizes, mode: u32) -> Result<Created> {
    let (lock, lock_problem) = match LockFile::acquire(names.lock.clone(), mode) {
        Ok(lock) => (Some(lock), None),
        Err(LockError::Held) => return Err(names.taken(reader_pid(names), "")),
        // A private or missing /tmp must not keep us from working; the lock on the segment's own
        // file still tells our own readers apart.
        Err(LockError::Unavailable(err)) => (None, Some(err)),
    };
    let file = claim(names, lock.as_ref())?;
    match fill(names, sizes, mode, file) {
        Ok((segment, sem_write, sem_read, opens)) => Ok(Created {
            owned: Owned {
                names: names.clone(),
                segment: segment.clone(),
                _lock: lock,
            },
            segment,
            sem_write,
            sem_read,
            opens,
            lock_problem,
        }),
        Err(err) => Err(err),
    }
}

/// Makes the segment's file, with the reader's lock on it, removing one that nobody owns.
fn claim(names: &Names, lock: Option<&LockFile>) -> Result<ShmFile> {
    let path = shm::path(&names.name);
    for _ in 0..TRIES {
        match ShmFile::create_new(&names.name) {
            Ok(file) => {
                return match file.try_lock_byte(READER_LOCK) {
                    Ok(true) => Ok(file),
                    // Somebody took the new file for a leftover and removes it.
                    Ok(false) => Err(names.taken(0, "")),
                    Err(err) => {
                        remove(names, &file);
                        Err(names.os("locking the shared memory", err))
                    }
                };
            }
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => {
                return Err(names.opening("creating the shared memory", &path, err, TO_CREATE));
            }
        }
        let file = match ShmFile::open(&names.name) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => {
                return Err(names.opening("opening the shared memory", &path, err, TO_CREATE));
            }
        };
        take_over(names, lock, file)?;
    }
    Err(names.taken(0, ""))
}

/// Removes a segment that is provably nobody's; an error that says whose it is otherwise.
fn take_over(names: &Names, lock: Option<&LockFile>, file: ShmFile) -> Result<()> {
    let pid = reader_pid(names);
    match file.try_lock_byte(READER_LOCK) {
        Ok(true) => {}
        Ok(false) => return Err(names.taken(pid, "")),
        Err(err) => return Err(names.os("locking the shared memory", err)),
    }
    // From here on no reader of ours owns this file, and only we may remove its name.
    if !file.is_linked() {
        return Ok(());
    }
    let len = file
        .len()
        .map_err(|err| names.os("asking for the size of the shared memory", err))?;
    let left_behind = lock.is_some_and(LockFile::was_left_behind);
    let foreign = || {
        let path = shm::path(&names.name);
        names.corrupt(format!("{} exists and is something else", path.display()))
    };
    // Either keeps the lock until the name is removed.
    let _unmapped;
    let segment;
    if len < OIEB_SIZE {
        // A reader that died while it made the buffer leaves a file of size 0 and its lock file.
        if len != 0 || !left_behind {
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
        if first == 0 && left_behind {
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
    ShmFile::unlink(&names.name)
        .or_else(|err| match err.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(err),
        })
        .map_err(|err| {
            names.opening(
                "removing the shared memory",
                &shm::path(&names.name),
                err,
                TO_CREATE,
            )
        })
}

/// Fills a new file: room, semaphores, hello, OIEB; the word by which attachers know it last.
fn fill(
    names: &Names,
    sizes: Sizes,
    mode: u32,
    file: ShmFile,
) -> Result<(Arc<Segment>, Semaphore, Semaphore, Option<Opens>)> {
    let filled = (|| {
        let total = sizes.total().ok_or_else(|| Error::InvalidConfig {
            why: "the sizes are larger than any address space".into(),
        })?;
        file.reserve(total)
            .map_err(|err| match err.raw_os_error() {
                Some(libc::ENOSPC | libc::EFBIG | libc::ENOMEM) => Error::NoSpace {
                    name: names.name.clone(),
                    needed: total,
                    available: file.room(),
                },
                _ => names.os("reserving room in /dev/shm", err),
            })?;
        file.set_mode(mode)
            .map_err(|err| names.os("setting the permissions of the shared memory", err))?;
        // Before the OIEB is published: a writer that is quick must find them.
        let sem_write = new_semaphore(names, &names.sem_write, mode)?;
        let sem_read = new_semaphore(names, &names.sem_read, mode)?;
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
            // The file went with the error; the names are ours by the lock file and the path.
            let _ = Semaphore::unlink(&names.sem_write);
            let _ = Semaphore::unlink(&names.sem_read);
            let _ = ShmFile::unlink(&names.name);
            return Err(names.os("mapping the shared memory", err));
        }
    };
    if let Some(oieb) = Oieb::of(&segment) {
        oieb.set(offset::METADATA_SIZE, sizes.metadata);
        oieb.set(offset::METADATA_FREE_BYTES, sizes.metadata);
        oieb.set(offset::PAYLOAD_SIZE, sizes.payload);
        oieb.set(offset::PAYLOAD_FREE_BYTES, sizes.payload);
        oieb.set(offset::READER_PID, process::id());
        extension::greet(&segment, &sizes);
        // Release, with the Acquire in `attach`: who sees this word sees all of the above.
        oieb.word(offset::OIEB_SIZE_AND_VERSION)
            .store(first_word(), Ordering::Release);
    }
    Ok((segment, sem_write, sem_read, opens))
}

/// A new semaphore in place of a leftover: the name of the buffer is ours, so its semaphores are.
fn new_semaphore(names: &Names, name: &str, mode: u32) -> Result<Semaphore> {
    let fail = |err| names.opening("creating a semaphore", &sem::path(name), err, TO_CREATE);
    match Semaphore::unlink(name) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(fail(err)),
    }
    Semaphore::create_new(name, mode).map_err(fail)
}

/// The pid that the buffer of this name gives for its reader; 0 if there is none to be read.
fn reader_pid(names: &Names) -> u64 {
    ShmFile::open(&names.name)
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

/// Finds a buffer, checks it, and makes this process its writer.
pub fn attach(names: &Names) -> Result<Attached> {
    let path = shm::path(&names.name);
    let file = ShmFile::open(&names.name).map_err(|err| match err.kind() {
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
    let segment = Arc::new(segment);
    let oieb = Oieb::of(&segment).ok_or_else(|| names.not_found())?;
    let sizes = check(names, oieb, len)?;
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
    let abilities = extension::abilities(&segment, &sizes);
    let reader = Watch::new(READER_LOCK);
    let pid = oieb.get(offset::READER_PID);
    let closed = || Error::ReaderClosed {
        name: names.name.clone(),
    };
    if pid == 0 {
        return Err(closed());
    }
    let hints = Hints {
        holds_lock: abilities.holds_lock(),
        progress: oieb.get(offset::PAYLOAD_READ_COUNT),
        lock_file: Some(&names.lock),
    };
    if reader.is_dead(&segment, pid, hints) {
        return Err(match oieb.get(offset::READER_PID) {
            0 => closed(),
            pid => Error::ReaderDead {
                name: names.name.clone(),
                pid,
            },
        });
    }
    claim_writer(names, &segment, &sizes, oieb)?;
    // The reader may have closed while we came; `Reader::close_if_unused` looks for us after it has
    // stored its 0, we for its 0 after we have stored our pid (SeqCst, both), so one of us sees.
    if oieb.word(offset::READER_PID).load(Ordering::SeqCst) == 0 {
        let _ = oieb.word(offset::WRITER_PID).compare_exchange(
            process::id(),
            0,
            Ordering::Release,
            Ordering::Relaxed,
        );
        return Err(closed());
    }
    if abilities != Abilities::default() {
        extension::count_attachment(&segment, &sizes);
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
fn claim_writer(names: &Names, segment: &Segment, sizes: &Sizes, oieb: Oieb) -> Result<()> {
    let word = oieb.word(offset::WRITER_PID);
    let taken = |pid: u64| Error::WriterAlreadyConnected {
        name: names.name.clone(),
        pid: (pid != 0).then_some(pid),
    };
    match segment.file().try_lock_byte(WRITER_LOCK) {
        Ok(true) => {}
        Ok(false) => return Err(taken(word.load(Ordering::Relaxed))),
        Err(err) => return Err(names.os("locking the shared memory", err)),
    }
    for _ in 0..TRIES {
        let pid = word.load(Ordering::Relaxed);
        // We have the lock, so a writer that would hold it is dead; and our own pid without the
        // lock is that of a writer before us with the same pid.
        let dead = pid == process::id() || extension::is_noted_writer(segment, sizes, pid);
        if pid != 0 && !dead && Process::find(pid).is_some() {
            return Err(taken(pid));
        }
        if extension::abilities(segment, sizes) != Abilities::default() {
            extension::note_writer(segment, sizes, process::id());
        }
        // Acquires what the writer before us stored until it stored 0 (`Writer::close`); SeqCst for
        // `attach`.
        let swap = word.compare_exchange(pid, process::id(), Ordering::SeqCst, Ordering::Relaxed);
        if swap.is_ok() {
            return Ok(());
        }
    }
    Err(taken(word.load(Ordering::Relaxed)))
}
