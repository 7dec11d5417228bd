//! Removing what is nobody's.

use super::{Inspection, Life, State, objects};
use crate::protocol::buffer::{self, Names};
use crate::protocol::error::{Error, Result};

/// What became of the objects of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// They were removed, or would be: so many bytes of shared memory.
    Removed(u64),
    /// They belong to somebody, or may; the text says why.
    Kept(String),
}

/// Removes what a dead reader left of the buffer of this name, by the rules by which the next reader
/// takes a name ([`Reader::create`](crate::Reader::create)), and only if the reader is not to be seen
/// alive either. With `dry_run` it only looks, takes no lock, and says what it would try.
///
/// # Errors
/// [`Error::InvalidName`], [`Error::Permission`], [`Error::Os`].
pub fn clean(name: &str, dry_run: bool) -> Result<Cleaned> {
    let names = Names::new(name)?;
    let mut bytes = 0;
    match Inspection::of(name) {
        Ok(seen) => {
            bytes = seen.file.room;
            let kept = |why: &str| Ok(Cleaned::Kept(why.into()));
            match seen.state() {
                State::Closed | State::ReaderDead => {}
                // Only the locks can tell.
                State::Unfinished if seen.lock_file.facts.is_some() => {}
                State::Unclear
                    if seen.reader.life == Life::Unseen && seen.lock_file.facts.is_some() => {}
                State::Hidden => return kept("it belongs to another user and may not be read"),
                State::NotABuffer => return kept("it is not a buffer"),
                State::Unfinished => return kept("it may be in the making"),
                State::Unclear => {
                    return kept(
                        "its reader may be in another pid namespace; if it is dead, remove the \
                         file of this name in /dev/shm",
                    );
                }
                _ => return kept("its reader is alive"),
            }
        }
        Err(Error::BufferNotFound { .. }) => {
            if objects(name)?.iter().all(|object| object.facts.is_none())
                && !buffer::has_successors(&names)
            {
                return Ok(Cleaned::Kept("there is nothing of it".into()));
            }
        }
        Err(err) => return Err(err),
    }
    if dry_run {
        return Ok(Cleaned::Removed(bytes));
    }
    match buffer::remove_leftovers(&names) {
        Ok(()) => Ok(Cleaned::Removed(bytes)),
        Err(err @ Error::ReaderAlreadyConnected { .. }) => Ok(Cleaned::Kept(err.to_string())),
        Err(err) => Err(err),
    }
}
