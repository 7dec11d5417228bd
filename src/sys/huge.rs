//! Large pages for shared memory.
//!
//! A frame of video lies in some hundred to some thousand pages of 4 KiB, each with an entry of its
//! own in the tables of every process that maps it. With pages of 2 MiB the same memory is faster to
//! reach. Linux gives such pages to shared memory by itself only where an administrator has said so
//! (`huge=` of the mount, or `shmem_enabled`; both are `never` by default), but since 6.1 it puts small
//! ones that are there together into a large one for who asks (`MADV_COLLAPSE`). It remains memory of
//! the same file, for all processes, and takes no more room in `/dev/shm`.

use std::sync::OnceLock;
use std::{env, fs};

/// Set to `0`, this environment variable keeps us from asking for large pages.
const SWITCH: &str = "ZEROBUFFER_HUGE_PAGES";

/// The size of a large page (`Documentation/admin-guide/mm/transhuge.rst` of Linux).
const SIZE: &str = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";

/// Bytes of a large page; `None` where there are none. Only a mapping that begins at a multiple of it
/// can have them.
pub fn size() -> Option<usize> {
    static BYTES: OnceLock<Option<usize>> = OnceLock::new();
    *BYTES.get_or_init(|| {
        if env::var_os(SWITCH).is_some_and(|value| value == "0") {
            return None;
        }
        let size: usize = fs::read_to_string(SIZE).ok()?.trim().parse().ok()?;
        (size.is_power_of_two() && size >= super::page_size()).then_some(size)
    })
}
