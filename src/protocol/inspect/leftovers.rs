//! Which buffers there are, and what others have left behind.

use std::collections::BTreeSet;

use super::{Inspection, State};
use crate::protocol::buffer::{LOCK_FOLDER, check_name};
use crate::sys::look::names_in;
use crate::sys::shm;

/// What begins the name of a semaphore of a buffer, as a file; and of what its reader makes while it
/// makes the buffer anew.
const OBJECTS: [&str; 5] = [
    "sem.sem-w-",
    "sem.sem-r-",
    "sem.sem-n-",
    "sem.sem-x-",
    "sem.sem-y-",
];
const LOCK: &str = ".lock";

/// The names of all buffers on this machine, in order: what lies where their segments lie and looks
/// like one, or may not be looked at and has the semaphores of one.
pub fn buffers() -> Vec<String> {
    let all: BTreeSet<String> = names_in(shm::DIRECTORY).collect();
    let is_buffer = |name: &&String| {
        if check_name(name).is_err() {
            return false;
        }
        let has_semaphores = all.contains(&format!("{}{name}", OBJECTS[0]));
        Inspection::of(name).is_ok_and(|seen| match seen.state() {
            // Others use the folder, too.
            State::NotABuffer | State::Hidden | State::Unfinished => {
                has_semaphores || seen.lock_file.facts.is_some()
            }
            _ => true,
        })
    };
    all.iter().filter(is_buffer).cloned().collect()
}

/// Names of which there are semaphores or a lock file and no segment, in order: of a buffer that is
/// just being made or removed, or left behind.
pub fn leftovers() -> Vec<String> {
    let shared: BTreeSet<String> = names_in(shm::DIRECTORY).collect();
    let objects = shared.iter().filter_map(|name| {
        let mut prefixes = OBJECTS.iter();
        prefixes.find_map(|prefix| Some(name.strip_prefix(prefix)?.to_string()))
    });
    let locks = names_in(LOCK_FOLDER).filter_map(|name| Some(name.strip_suffix(LOCK)?.to_string()));
    let names: BTreeSet<String> = objects.chain(locks).collect();
    let mut names: Vec<String> = names.into_iter().collect();
    names.retain(|name| check_name(name).is_ok() && !shared.contains(name));
    names
}
