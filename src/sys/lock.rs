//! Lock files: `flock` on a file that everybody agrees on.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::access::Access;

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
    /// Kept open: it must be possible to remove the file when there are no more files to open.
    folder: Folder,
    name: OsString,
    file: File,
    left_behind: bool,
}

/// How often a file that vanishes under us is tried again before that is an error.
const TRIES: usize = 100;
/// How often, and how far apart, a lock that somebody has is tried again before it is held: who
/// only looks whether it is held ([`LockFile::is_held`], others that sweep the folder) has it for
/// a moment too, and for some time slices of others if it loses its processor then.
const HELD_TRIES: usize = 40;
const HELD_INTERVAL: Duration = Duration::from_millis(1);

impl LockFile {
    /// Locks `path` exclusively, making file and folder where they are missing. The folder is
    /// shared by all users like /tmp (mode 1777).
    pub fn acquire(path: &Path, access: Access) -> Result<Self, LockError> {
        let (folder, name) = parts(path)?;
        let folder = Folder::make(folder)?;
        let mut held = 0;
        for _ in 0..TRIES {
            let (file, left_behind) = match folder.open(name) {
                Ok(file) => (file, true),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    match folder.create(name, access) {
                        Ok(file) => (file, false),
                        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => continue,
                        Err(err) => return Err(err.into()),
                    }
                }
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
            if folder.is_at(&file, name) {
                return Ok(LockFile {
                    folder,
                    name: name.into(),
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

    /// Removes and unlocks it, as dropping it does, and tells whether the system let us: in a folder
    /// like /tmp another user's file stays.
    pub fn remove(self) -> io::Result<()> {
        self.unlink()
    }

    /// Removes what is ours, while it is locked.
    fn unlink(&self) -> io::Result<()> {
        if self.is_ours() {
            unlinkat(&self.folder.0, &*self.name, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    }

    /// Whether it still is the file at its path.
    pub fn is_ours(&self) -> bool {
        self.folder.is_at(&self.file, &self.name)
    }

    /// Whether anybody holds the lock on `path`; `None` if there is no such file to ask.
    pub fn is_held(path: &Path) -> Option<bool> {
        let (folder, name) = parts(path).ok()?;
        let file = Folder::open_at(folder).ok()?.open(name).ok()?;
        match file.try_lock_shared() {
            Ok(()) => Some(false),
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Before unlocking. Where the folder forbids it the file stays, and is taken over by the next.
        let _ = self.unlink();
    }
}

fn parts(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let parts = path.parent().zip(path.file_name());
    Ok(parts.ok_or(Errno::EINVAL)?)
}

/// A folder, open while something is done in it: whoever owns it could put a symbolic link in its
/// place, and would have us make and remove files elsewhere.
#[derive(Debug)]
struct Folder(File);

impl Folder {
    fn open_at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Folder(file))
    }

    /// Opens it, or makes it for everybody.
    fn make(path: &Path) -> io::Result<Self> {
        let made = DirBuilder::new().mode(0o1777).create(path);
        if let Err(err) = &made
            && err.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(io::Error::new(
                err.kind(),
                format!("{}: {err}", path.display()),
            ));
        }
        let folder = Self::open_at(path).map_err(|err| {
            let what = format!("{} is no folder that can be used: {err}", path.display());
            io::Error::new(err.kind(), what)
        })?;
        if made.is_ok() {
            // Again, since the umask was applied.
            folder.0.set_permissions(Permissions::from_mode(0o1777))?;
        }
        Ok(folder)
    }

    fn open_with(&self, name: &OsStr, flags: OFlag) -> io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(File::from(openat(&self.0, name, flags, mode)?))
    }

    // Never O_CREAT on a file that is there: fs.protected_regular refuses that in sticky folders
    // when the file is another user's. Never through a symbolic link.
    fn open(&self, name: &OsStr) -> io::Result<File> {
        match self.open_with(name, OFlag::O_RDWR) {
            // flock needs no permission to write.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
                self.open_with(name, OFlag::O_RDONLY)
            }
            other => other,
        }
    }

    fn create(&self, name: &OsStr, access: Access) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = self.open_with(name, flags)?;
        if let Err(err) = access.give(&file) {
            // The first error counts.
            let _ = unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir);
            return Err(err);
        }
        Ok(file)
    }

    /// Whether this file is the one of this name here.
    fn is_at(&self, file: &File, name: &OsStr) -> bool {
        let there = fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        match (file.metadata(), there) {
            (Ok(ours), Ok(there)) => ours.dev() == there.st_dev && ours.ino() == there.st_ino,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn one_holder_at_a_time_and_nothing_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("name.lock");
        let first = LockFile::acquire(&path, Access::mode(0o600)).unwrap();
        assert!(!first.was_left_behind());
        assert!(matches!(
            LockFile::acquire(&path, Access::mode(0o600)),
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
            let failed = (0..200).find_map(|_| LockFile::acquire(&path, Access::mode(0o600)).err());
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
        assert!(
            LockFile::acquire(&path, Access::mode(0o600))
                .unwrap()
                .was_left_behind()
        );
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("a.lock"), folder.path().join("target"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, &path).unwrap();
        assert!(matches!(
            LockFile::acquire(&path, Access::mode(0o666)),
            Err(LockError::Unavailable(_))
        ));
        assert_eq!(fs::read(&target).unwrap(), b"precious");
    }

    #[test]
    fn a_folder_that_is_a_link_or_becomes_one_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (sub, precious) = (folder.path().join("sub"), folder.path().join("precious"));
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("a.lock"), "").unwrap();
        let files = || fs::read_dir(&precious).unwrap().count();

        symlink(&precious, &sub).unwrap();
        for name in ["a.lock", "b.lock"] {
            assert!(matches!(
                LockFile::acquire(&sub.join(name), Access::mode(0o666)),
                Err(LockError::Unavailable(_))
            ));
        }
        assert_eq!(LockFile::is_held(&sub.join("a.lock")), None);
        assert_eq!(files(), 1);

        fs::remove_file(&sub).unwrap();
        let lock = LockFile::acquire(&sub.join("a.lock"), Access::mode(0o666)).unwrap();
        let moved = folder.path().join("moved");
        fs::rename(&sub, &moved).unwrap();
        symlink(&precious, &sub).unwrap();
        drop(lock);
        assert_eq!(files(), 1, "what is there is not ours to remove");
        assert_eq!(fs::read_dir(moved).unwrap().count(), 0);
    }

    #[test]
    fn the_folder_is_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let sub = folder.path().join("sub");
        let _lock = LockFile::acquire(&sub.join("a.lock"), Access::mode(0o640)).unwrap();
        assert_eq!(fs::metadata(&sub).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(
            fs::metadata(sub.join("a.lock")).unwrap().mode() & 0o777,
            0o640
        );
    }
}
