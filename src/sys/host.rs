//! What the machine gives this process: room, limits, namespaces, users.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};
use nix::sys::sysinfo::sysinfo;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{AccessFlags, Uid, User, faccessat, geteuid};

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all; the memory of the machine where there is no limit.
    pub total: u64,
    /// Bytes that this process may still use; the same.
    pub available: u64,
    /// Files that may still be made; `u64::MAX` where there is no limit.
    pub files: u64,
}

impl Room {
    /// That of the file system that `folder` is in.
    pub fn of(folder: &Path) -> io::Result<Self> {
        Ok(Self::new(&statvfs(folder)?))
    }

    /// That of the file system that `file` is in.
    pub(super) fn of_file(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::new(&fstatvfs(file)?))
    }

    fn new(fs: &Statvfs) -> Self {
        let files = match fs.files() {
            0 => u64::MAX,
            _ => fs.files_available(),
        };
        // A tmpfs of size=0, which is what Podman makes of --shm-size=0, or a ramfs: it takes what
        // there is.
        if fs.blocks() == 0 {
            let memory = sysinfo().map_or(u64::MAX, |machine| machine.ram_total());
            return Room {
                total: memory,
                available: memory,
                files,
            };
        }
        Room {
            total: fs.blocks().saturating_mul(fs.fragment_size()),
            available: fs.blocks_available().saturating_mul(fs.fragment_size()),
            files,
        }
    }
}

/// A limit that the kernel sets this process; `u64::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What counts now.
    pub soft: u64,
    /// To what this process may raise it.
    pub hard: u64,
}

fn limit(resource: Resource) -> io::Result<Limit> {
    let (soft, hard) = getrlimit(resource)?;
    Ok(Limit { soft, hard })
}

/// How many descriptors this process may have open.
pub fn open_files() -> io::Result<Limit> {
    limit(Resource::RLIMIT_NOFILE)
}

/// How large a file it may make. It holds for shared memory too.
pub fn file_size() -> io::Result<Limit> {
    limit(Resource::RLIMIT_FSIZE)
}

/// How much address space it may have.
pub fn address_space() -> io::Result<Limit> {
    limit(Resource::RLIMIT_AS)
}

/// How much memory it may lock.
pub fn locked_memory() -> io::Result<Limit> {
    limit(Resource::RLIMIT_MEMLOCK)
}

/// The namespace of this kind ("pid", "ipc", "mnt", "user") that a process is in, as the kernel
/// names it; `None` where it does not tell us.
pub fn namespace(process: &str, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()
}

/// Whether this process sees all processes of the machine.
pub fn sees_all_processes() -> bool {
    // The number of the first pid namespace is part of the kernel's interface (PROC_PID_INIT_INO).
    namespace("self", "pid").is_some_and(|name| name == Path::new("pid:[4026531836]"))
}

/// Whether this process may read and write a file, or make files in a folder.
pub fn may_use(path: &Path) -> bool {
    let mut wanted = AccessFlags::R_OK | AccessFlags::W_OK;
    wanted.set(AccessFlags::X_OK, path.is_dir());
    faccessat(AT_FDCWD, path, wanted, AtFlags::AT_EACCESS).is_ok()
}

/// The user as who we are.
pub fn user() -> u32 {
    geteuid().as_raw()
}

/// What a user is called; `None` if this machine has no name for it.
pub fn user_name(uid: u32) -> Option<String> {
    Some(User::from_uid(Uid::from_raw(uid)).ok()??.name)
}

/// The C library of this process, with its version.
pub fn c_library() -> String {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it returns a string that is never changed or freed.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        format!("glibc {}", version.to_string_lossy())
    }
    #[cfg(not(target_env = "gnu"))]
    "not glibc".into()
}

/// The clock that all processes of a machine share (CLOCK_MONOTONIC).
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_answers() {
        let room = Room::of(Path::new("/dev/shm")).unwrap();
        assert!(room.total >= room.available && room.total > 0);
        assert!(Room::of(Path::new("/nonexistent")).is_err());
        for limit in [open_files(), file_size(), address_space(), locked_memory()] {
            let limit = limit.unwrap();
            assert!(limit.soft <= limit.hard);
        }
        assert!(open_files().unwrap().soft > 0);
        assert_eq!(namespace("self", "pid"), namespace("thread-self", "pid"));
        assert_eq!(namespace("self", "nonsense"), None);
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert!(may_use(Path::new("/dev/shm")) && !may_use(Path::new("/nonexistent")));
        assert!(!c_library().is_empty());
        let before = monotonic();
        assert!(before > Duration::ZERO && monotonic() >= before);
    }
}
