//! What a reader gives: frames, which are lent, and messages.

use std::ops::Deref;
use std::sync::Arc;

use super::Shared;
use crate::protocol::extension::records::Records;
use crate::protocol::ring::Ticket;
use crate::sys::window::{Copied, Loan};

/// What [`Reader::read`](super::Reader::read) reads.
#[derive(Debug)]
#[non_exhaustive]
pub enum Item {
    /// A frame, with the records that belong to it.
    Frame(Frame),
    /// A frame that was only skipped, for a newer one; see
    /// [`Reader::read_newest`](super::Reader::read_newest).
    Skipped {
        /// The number that the writer gave it.
        sequence: u64,
        /// What came along with it.
        records: Records,
    },
    /// Records that belong to no frame. They are said between the frames before and behind.
    Message(Records),
    /// The writer asks for a ring of so many bytes; the answer is
    /// [`Reader::replace`](super::Reader::replace) or
    /// [`Reader::keep_size`](super::Reader::keep_size).
    Resize(u64),
}

/// A frame in the ring. It is lent until it is dropped: then its room goes back to the writer, as
/// soon as all frames before it have gone back too. If the reader evacuates
/// ([`Reader::set_evacuation`](super::Reader::set_evacuation)), it may be a copy, whose room has gone
/// back.
///
/// Frames may be dropped in any order, from any thread, also after the Reader. The bytes are
/// those of shared memory: a writer that keeps to the protocol leaves them alone, one that does
/// not can change them under your eyes, so copy before you check what must not change. It can also
/// truncate the shared memory: then the bytes are zeros, and the next call of the Reader fails
/// ([`Error::Corrupt`](super::Error::Corrupt)).
#[derive(Debug)]
pub struct Frame {
    pub(super) bytes: Bytes,
    pub(super) sequence: u64,
    pub(super) records: Records,
    pub(super) ticket: Ticket,
    pub(super) shared: Arc<Shared>,
}

/// Where the bytes of a frame are.
#[derive(Debug)]
pub(super) enum Bytes {
    Lent(Loan),
    Copied(Copied),
}

impl Frame {
    /// The number that the writer gave it; the first of each writer is 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether it was copied when it was read (see
    /// [`Reader::set_evacuation`](super::Reader::set_evacuation)).
    pub fn is_copy(&self) -> bool {
        matches!(self.bytes, Bytes::Copied(_))
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Lent(loan) => loan,
            Bytes::Copied(copy) => copy,
        }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.shared.release(self.ticket);
    }
}
