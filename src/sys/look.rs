//! Shared memory objects as somebody sees them who only looks: nothing is mapped, nothing written,
//! and no lock taken.
//!
//! Reading goes through `pread`. A mapping would be no better and has two faults: who makes the object
//! shorter kills with SIGBUS whoever looks at it, and a page that nobody has touched yet is made by
//! the first look, which takes memory.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use nix::errno::Errno;

use super::shm;

/// The names in a folder, those that are text; none if it cannot be looked into.
pub fn names_in(folder: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// What the system says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Bytes.
    pub len: u64,
    /// Bytes that it takes up; less than `len` where no room was reserved.
    pub room: u64,
    /// Permissions, the lower twelve bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was made, or changed where the system does not tell that.
    pub made: Option<SystemTime>,
    /// Device and number, by which the kernel knows it.
    pub id: (u64, u64),
}

impl FileFacts {
    /// What the system says of what is at `path`, which need not be readable. `None` if it is no
    /// plain file.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        fs::symlink_metadata(path).map(|meta| Self::from(&meta))
    }

    fn from(meta: &Metadata) -> Option<Self> {
        meta.is_file().then(|| FileFacts {
            len: meta.len(),
            room: meta.blocks().saturating_mul(512),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            made: meta.created().or_else(|_| meta.modified()).ok(),
            id: (meta.dev(), meta.ino()),
        })
    }
}

/// An object that is open for looking at.
#[derive(Debug)]
pub struct Look {
    file: File,
    facts: FileFacts,
}

impl Look {
    /// Opens what is at `path`, for reading only. `EINVAL` if it is no plain file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            // Never waits for somebody at the other end of a pipe, never follows a link.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        let facts = FileFacts::from(&file.metadata()?).ok_or(Errno::EINVAL)?;
        Ok(Look { file, facts })
    }

    /// What the system said of it when it was opened.
    pub fn facts(&self) -> &FileFacts {
        &self.facts
    }

    /// Copies bytes out, all of them or none that count: false past the end.
    #[must_use]
    pub fn read(&self, at: u64, out: &mut [u8]) -> bool {
        self.file.read_exact_at(out, at).is_ok()
    }

    /// Whether anybody holds a lock on this byte. This asks, and takes none.
    pub fn is_byte_locked(&self, byte: i64) -> io::Result<bool> {
        shm::is_byte_locked(&self.file, byte)
    }
}

/// The `flock` locks that the kernel shows us: those of processes in our pid namespace and below.
#[derive(Clone, Debug, Default)]
pub struct FlockTable {
    text: String,
}

impl FlockTable {
    /// As it is now; empty where there is none to be read.
    pub fn read() -> Self {
        FlockTable {
            text: fs::read_to_string("/proc/locks").unwrap_or_default(),
        }
    }

    /// The process that holds a lock on this file, if it is to be seen.
    pub fn holder(&self, file: &FileFacts) -> Option<u64> {
        let (device, number) = file.id;
        // proc(5): the device as it is in the kernel, in hexadecimal.
        let id = format!(
            "{:02x}:{:02x}:{number}",
            libc::major(device),
            libc::minor(device)
        );
        self.text.lines().find_map(|line| {
            // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:10117727 0 EOF"; who waits has "->" before FLOCK.
            let mut words = line.split_ascii_whitespace().skip(1);
            (words.next()? == "FLOCK").then_some(())?;
            let pid = words.nth(2)?.parse().ok()?;
            (words.next()? == id).then_some(pid)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, fcntl};

    #[test]
    fn a_look_is_for_plain_files_and_stays_inside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"0123456789").unwrap();
        let look = Look::open(&path).unwrap();
        assert_eq!(look.facts().len, 10);
        let mut bytes = [0; 4];
        assert!(look.read(6, &mut bytes));
        assert_eq!(&bytes, b"6789");
        assert!(!look.read(7, &mut bytes));
        assert!(!look.read(u64::MAX, &mut bytes));
        fs::write(&path, b"01").unwrap();
        assert!(!look.read(0, &mut bytes), "shorter is no signal");
        fs::remove_file(&path).unwrap();
        assert!(Look::open(folder.path()).is_err());
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Look::open(&path).is_err());
        assert_eq!(FileFacts::of(&path).unwrap(), None);
    }

    #[test]
    fn pages_that_nobody_touched_are_not_made() {
        let name = format!("zb-unit-look-{}", std::process::id());
        let path = shm::path(&name);
        let file = File::create_new(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        let look = Look::open(&path).unwrap();
        let mut bytes = vec![1; 1 << 20];
        assert!(look.read(0, &mut bytes));
        assert!(bytes.iter().all(|byte| *byte == 0));
        let room = FileFacts::of(&path).unwrap().unwrap().room;
        fs::remove_file(&path).unwrap();
        assert_eq!(room, 0);
    }

    #[test]
    fn locks_are_seen_and_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        let look = Look::open(&path).unwrap();
        let held = || FlockTable::read().holder(look.facts());
        assert_eq!(held(), None);
        file.lock().unwrap();
        assert_eq!(held(), Some(std::process::id().into()));
        file.unlock().unwrap();
        assert_eq!(held(), None);

        assert!(!look.is_byte_locked(1).unwrap());
        let lock = shm::byte_lock(1);
        fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        assert!(look.is_byte_locked(1).unwrap());
        assert!(!look.is_byte_locked(0).unwrap());
    }
}
