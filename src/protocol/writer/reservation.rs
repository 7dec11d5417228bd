//! Room in the ring for one frame, from when it is lent until it is published or dropped.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::{Error, Result, Shared, Writer};
use crate::protocol::slots::SlotId;
use crate::sys::shm::Place;

/// Room in the ring for one frame, lent by [`Writer::reserve`] or [`Writer::reserve_ahead`].
#[derive(Debug)]
#[must_use = "a frame that is not committed is not sent"]
pub struct Reservation {
    /// `None` once committed.
    pub(super) place: Option<Place>,
    /// `None` once published.
    pub(super) slot: Option<SlotId>,
    /// Whether others have to wait until it is published or dropped.
    pub(super) exclusive: bool,
    pub(super) shared: Arc<Shared>,
}

impl Reservation {
    /// Publishes the frame and returns its sequence number.
    ///
    /// # Errors
    /// [`Error::Closed`] when the writer was closed meanwhile; [`Error::OutOfOrder`].
    pub fn commit(mut self) -> Result<u64> {
        let len = self.len() as u64;
        let slot = self.slot.take();
        // The slice ends before the reader may see the bytes.
        drop(self.place.take());
        self.publish_slot(slot, len)
    }

    /// Publishes the frame and returns its sequence number. If it was lent ahead it keeps the room:
    /// its bytes stay as they are for as long as this lives, and must not be changed any more.
    ///
    /// # Errors
    /// [`Error::Closed`] when the writer was closed meanwhile; [`Error::OutOfOrder`] when a frame
    /// reserved after this one has been published, or has a place before this one: it has to be
    /// copied to a place behind that.
    pub fn publish(&mut self) -> Result<u64> {
        let len = self.len() as u64;
        let slot = self.slot.take();
        if self.exclusive {
            // Room that is kept can only be left out by a reader that follows skips.
            drop(self.place.take());
        }
        self.publish_slot(slot, len)
    }

    fn publish_slot(&self, slot: Option<SlotId>, len: u64) -> Result<u64> {
        let published = slot.map_or(Ok(None), |slot| self.shared.publish(slot, len));
        if self.exclusive {
            self.shared.unreserve(&mut self.shared.state());
        }
        published?.ok_or(Error::OutOfOrder)
    }

    /// Whether it was lent by this writer, and not yet published.
    pub fn is_pending_for(&self, writer: &Writer) -> bool {
        self.slot.is_some() && Arc::ptr_eq(&self.shared, &writer.shared)
    }
}

impl Deref for Reservation {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.place.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Reservation {
    /// Nothing once it is published: the reader looks at the bytes.
    fn deref_mut(&mut self) -> &mut [u8] {
        match (&mut self.place, self.slot) {
            (Some(place), Some(_)) => place,
            _ => &mut [],
        }
    }
}

impl AsMut<[u8]> for Reservation {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        drop(self.place.take());
        if let Some(slot) = self.slot.take() {
            let mut state = self.shared.state();
            state.slots.cancel(slot);
            if self.exclusive {
                self.shared.unreserve(&mut state);
            }
        }
    }
}
