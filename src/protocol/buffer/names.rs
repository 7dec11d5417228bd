//! The names of a buffer's objects, and the errors that say which buffer they are about.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::protocol::error::{Error, Result};

/// Longest name, in bytes: its semaphores' file names (`sem.sem-w-NAME`) must fit 255.
pub const MAX_NAME_LEN: usize = 245;

/// The folder of the lock files; all implementations agree on it.
pub const LOCK_FOLDER: &str = "/tmp/zerobuffer";

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
    pub(super) fn successors(&self) -> Self {
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

    pub(super) fn closed(&self) -> Error {
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

    pub(super) fn taken(&self, pid: u64, hint: &str) -> Error {
        Error::ReaderAlreadyConnected {
            name: self.name.clone(),
            pid: (pid != 0).then_some(pid),
            hint: hint.into(),
        }
    }

    /// An error of opening `path`, with the owner and mode if permissions are the reason.
    pub(super) fn opening(
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
