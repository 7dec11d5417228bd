//! Lock files: `flock` on a file that everybody agrees on.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Why a lock file could not be had.
#[derive(Debug)]
pub enum LockError {
    /// Somebody else holds it.
    Held,
    /// The folder or the file cannot be used.
    Unavailable(io::Error),
}

impl From<io::Error> for LockError {
    fn from(err: io::Error) -> Self {
        LockError::Unavailable(err)
    }
}

/// A locked file, removed and unlocked when dropped.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    file: File,
    left_behind: bool,
}

/// How often a file that vanishes under us is tried again before that is an error.
const TRIES: usize = 100;
/// How often, and how far apart, a lock that somebody has is tried again before it is held: who
/// only looks whether it is held ([`LockFile::is_held`], others that sweep the folder) has it for
/// a moment too.
const HELD_TRIES: usize = 10;
const HELD_INTERVAL: Duration = Duration::from_millis(1);

impl LockFile {
    /// Locks `path` exclusively, making file and folder where they are missing. The folder is
    /// shared by all users like /tmp (mode 1777).
    pub fn acquire(path: PathBuf, mode: u32) -> Result<Self, LockError> {
        if let Some(folder) = path.parent() {
            make_shared_folder(folder)?;
        }
        let mut held = 0;
        for _ in 0..TRIES {
            let (file, left_behind) = match open(&path) {
                Ok(file) => (file, true),
                Err(err) if err.kind() == io::ErrorKind::NotFound => match create(&path, mode) {
                    Ok(file) => (file, false),
                    Err(err) if err.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(err) => return Err(err.into()),
                },
                Err(err) => return Err(err.into()),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if held < HELD_TRIES => {
                    held += 1;
                    thread::sleep(HELD_INTERVAL);
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Err(LockError::Held),
                Err(TryLockError::Error(err)) => return Err(err.into()),
            }
            // Others sweep this folder: between our open and our lock the file may have been
            // removed, and then the lock that counts is another's to take.
            if is_at(&file, &path) {
                return Ok(LockFile {
                    path,
                    file,
                    left_behind,
                });
            }
        }
        Err(LockError::Unavailable(io::Error::other(
            "the lock file is removed again and again",
        )))
    }

    /// Whether the file was there before, without a holder: its last holder died.
    pub fn was_left_behind(&self) -> bool {
        self.left_behind
    }

    /// Whether it still is the file at its path.
    pub fn is_ours(&self) -> bool {
        is_at(&self.file, &self.path)
    }

    /// Whether anybody holds the lock on `path`; `None` if there is no such file to ask.
    pub fn is_held(path: &Path) -> Option<bool> {
        match open(path).ok()?.try_lock_shared() {
            Ok(()) => Some(false),
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Remove before unlocking, and only what is ours.
        if self.is_ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn make_shared_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o1777).create(folder) {
        // Again, since the umask was applied.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o1777)),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
            if fs::symlink_metadata(folder)?.is_dir() {
                Ok(())
            } else {
                Err(io::Error::other(format!(
                    "{} is not a folder",
                    folder.display()
                )))
            }
        }
        Err(err) => Err(err),
    }
}

// Never O_CREAT on a file that is there: fs.protected_regular refuses that in sticky folders when
// the file is another user's. Never through a symbolic link.
fn open(path: &Path) -> io::Result<File> {
    let open = |write| {
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
    };
    match open(true) {
        // flock needs no permission to write.
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => open(false),
        other => other,
    }
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => ours.dev() == there.dev() && ours.ino() == there.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_nothing_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("name.lock");
        let first = LockFile::acquire(path.clone(), 0o600).unwrap();
        assert!(!first.was_left_behind());
        assert!(matches!(
            LockFile::acquire(path.clone(), 0o600),
            Err(LockError::Held)
        ));
        assert_eq!(LockFile::is_held(&path), Some(true));
        drop(first);
        assert_eq!(LockFile::is_held(&path), None);
        assert!(!path.exists());
    }

    #[test]
    fn who_only_looks_does_not_keep_us_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("name.lock");
        let done = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    LockFile::is_held(&path);
                }
            });
            let failed = (0..200).find_map(|_| LockFile::acquire(path.clone(), 0o600).err());
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }

    #[test]
    fn a_file_without_a_holder_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("name.lock");
        fs::write(&path, "").unwrap();
        assert_eq!(LockFile::is_held(&path), Some(false));
        assert!(LockFile::acquire(path, 0o600).unwrap().was_left_behind());
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("a.lock"), folder.path().join("target"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(matches!(
            LockFile::acquire(path, 0o666),
            Err(LockError::Unavailable(_))
        ));
        assert_eq!(fs::read(&target).unwrap(), b"precious");
    }

    #[test]
    fn the_folder_is_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let sub = folder.path().join("sub");
        let _lock = LockFile::acquire(sub.join("a.lock"), 0o640).unwrap();
        assert_eq!(fs::metadata(&sub).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(
            fs::metadata(sub.join("a.lock")).unwrap().mode() & 0o777,
            0o640
        );
    }
}
