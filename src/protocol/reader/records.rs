//! Records that come along with frames, and messages between them.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::{Broken, Frame, Item, Position, Reader, Result, Shared, Wait};
use crate::protocol::extension::records::{FrameTime, Malformed, Records};
use crate::protocol::layout::FRAME_HEADER_SIZE;
use crate::protocol::ring::Found;

impl Reader {
    /// The next frame or message. As [`Reader::read_frame`], which passes over messages.
    ///
    /// # Errors
    /// As [`Reader::read_frame`]; [`Error::UnknownRecord`](super::Error::UnknownRecord), from then
    /// on always.
    pub fn read<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<Item> {
        self.next(&wait.into().start(), false)
    }

    /// Messages read so far, also those that [`Reader::read_frame`] passed over.
    pub fn messages_read(&self) -> u64 {
        self.shared.messages.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// A copy of the records that belong to what was found: what stands in the ring may change.
    pub(super) fn records(&self, position: &mut Position, found: &Found) -> Result<Records> {
        let Some((at, len)) = found.records else {
            return Ok(Records::new());
        };
        // `ring::find` has seen that it is inside of the ring, and no longer than `MOST_BLOCK`.
        let start = self.sizes.payload_start() + at + FRAME_HEADER_SIZE;
        let mut bytes = vec![0; (len - FRAME_HEADER_SIZE) as usize];
        if !self.segment.load(start as usize, &mut bytes) {
            return Err(self.names.corrupt("records outside of the ring"));
        }
        Records::parse(bytes).map_err(|why| {
            let broken = match why {
                Malformed::Unknown(kind) => Broken::Record(kind),
                Malformed::Overlong(len) => {
                    let at = position.at;
                    Broken::Header(format!("a record of {len} bytes at position {at}"))
                }
            };
            self.break_off(position, broken)
        })
    }

    /// Nobody holds a message: its room goes back at once.
    pub(super) fn take_message(
        &self,
        mut position: MutexGuard<'_, Position>,
        found: &Found,
        records: Records,
    ) -> Item {
        position.at = found.end();
        position.writer_came = true;
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.note_read(found);
        let mut held = self.held();
        let credit = held.credits.pass(found.cost());
        self.credit(held, credit);
        drop(position);
        match records.resize() {
            Some(bytes) => {
                // Relaxed: who answers it has got it from here.
                self.asked.store(bytes, Ordering::Relaxed);
                Item::Resize(bytes)
            }
            None => Item::Message(records),
        }
    }
}

impl Frame {
    /// What came along with it.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The same, for who needs no more of the frame than its bytes.
    pub fn take_records(&mut self) -> Records {
        std::mem::take(&mut self.records)
    }

    /// When it is due, if the writer said so.
    pub fn time(&self) -> Option<FrameTime> {
        self.records.time()
    }
}
