//! The operating system as safe types: shared memory, named semaphores, locks and processes.
//!
//! Nothing here knows the ZeroBuffer protocol. All `unsafe` code of the crate that is not about
//! GStreamer memory lives here; everything it offers is safe to call with any argument, whatever
//! another process does to the bytes meanwhile.

pub mod access;
pub mod area;
#[cfg(feature = "plugin")]
pub mod changes;
pub mod fault;
pub mod host;
pub mod huge;
pub mod lock;
pub mod look;
pub mod opens;
pub mod process;
pub mod sem;
pub mod shm;
pub mod window;

use nix::unistd::{SysconfVar, sysconf};

/// Bytes of a page of memory.
pub fn page_size() -> usize {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    page.and_then(|size| size.try_into().ok()).unwrap_or(4096)
}
