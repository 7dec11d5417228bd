//! Reading only the newest frame: those before it are skipped, in order, and nothing else is lost.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::{FIRST_SEQUENCE, Found, Item, Position, Reader, Result, Shared, Wait, ring};
use crate::protocol::extension::records::Records;

/// How many messages a newer frame is looked for behind.
const MOST_MESSAGES: u32 = 64;

impl Reader {
    /// As [`Reader::read`], but a frame behind which there is a newer one of the same writer already
    /// is only skipped: [`Item::Skipped`] has the records that came with it, its bytes are not
    /// looked at, and its room goes back to the writer at once (behind that of frames that are still
    /// held). So the frame that comes is the newest there was, and messages and records come in order.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read_newest<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<Item> {
        self.next(&wait.into().start(), true)
    }

    /// Frames that [`Reader::read_newest`] has skipped.
    pub fn frames_skipped(&self) -> u64 {
        self.shared.skipped.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Whether the frame after this one, which ends `at`, is there too. That it is, is only what the
    /// headers say for now; when it is read it is checked like any other.
    pub(super) fn is_newer_there(&self, mut at: u64, sequence: u64) -> bool {
        for _ in 0..MOST_MESSAGES {
            let unread = self.unread(at);
            if unread == 0 {
                return false;
            }
            match ring::find(self.sizes.payload, at, |at| self.header(at)) {
                Ok(found) if found.cost() > unread => return false,
                Ok(found) if found.message => at = found.end(),
                Ok(found) => return found.sequence == sequence.wrapping_add(1),
                Err(_) => return false,
            }
        }
        false
    }

    /// Nobody will look at this frame: its room goes back at once.
    pub(super) fn skip(
        &self,
        mut position: MutexGuard<'_, Position>,
        found: &Found,
        records: Records,
    ) -> Item {
        self.pass(&mut position, found);
        self.skipped.fetch_add(1, Ordering::Relaxed);
        let mut held = self.held();
        let credit = held.credits.pass(found.cost());
        self.credit(held, credit);
        drop(position);
        if found.sequence == FIRST_SEQUENCE {
            self.writer_state();
        }
        Item::Skipped {
            sequence: found.sequence,
            records,
        }
    }
}
