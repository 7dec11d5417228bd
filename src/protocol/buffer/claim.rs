//! Taking the name of a buffer, from nobody who has it.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::attach::check;
use super::{Names, TO_CREATE, TO_MAKE, TRIES, remove};
use crate::protocol::error::Result;
use crate::protocol::extension::{self, NAME_LOCK, READER_LOCK};
use crate::protocol::layout::{OIEB_SIZE, Oieb, offset};
use crate::sys::lock::LockFile;
use crate::sys::process;
use crate::sys::shm::{self, ShmFile};

/// How long a segment without content may be one that is being made, where no lock file tells, and
/// how far apart it is looked at. Making one takes that long nowhere with the lock free.
const UNFINISHED: Duration = Duration::from_secs(1);
const UNFINISHED_INTERVAL: Duration = Duration::from_millis(1);

/// Makes the segment's file, with the reader's lock on it, removing one that nobody owns.
pub(super) fn claim(names: &Names, lock: Option<&LockFile>) -> Result<ShmFile> {
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
            // One of another's would be there already: it is the folder that does not let us.
            Err(err) => {
                let folder = Path::new(shm::DIRECTORY);
                return Err(names.opening("creating the shared memory", folder, err, TO_MAKE));
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
pub(super) fn own(names: &Names, file: &ShmFile) -> Result<bool> {
    let start = Instant::now();
    loop {
        let locked = file.try_lock_byte(NAME_LOCK).and_then(|free| {
            let locked = free && file.try_lock_byte(READER_LOCK)?;
            if free {
                file.unlock_byte(NAME_LOCK)?;
            }
            Ok(locked)
        });
        match locked {
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
    // The reader's own lock is only looked at: to writers that come just now, it must not look as if
    // one that has died were alive.
    let locked = file.try_lock_byte(NAME_LOCK);
    match locked.and_then(|free| Ok(free && !file.is_byte_locked(READER_LOCK)?)) {
        Ok(true) => {}
        Ok(false) => return Err(names.taken(pid, "")),
        Err(err) => return Err(names.os("locking the shared memory", err)),
    }
    // From here on no reader of ours owns this file, or comes to; only we may remove its name.
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
            // A reader of ours would hold its lock. A v1 reader would hold the lock
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

/// The pid that the buffer of this name gives for its reader; 0 if there is none to be read.
pub(super) fn reader_pid(names: &Names) -> u64 {
    ShmFile::open(&names.segment)
        .and_then(|file| file.map(OIEB_SIZE as usize))
        .ok()
        .and_then(|segment| Some(Oieb::of(&segment)?.get(offset::READER_PID)))
        .unwrap_or(0)
}
