//! The metadata of a stream, written once and before its first frame.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::{Error, Result, Shared, State, Writer};
use crate::protocol::handoff;
use crate::protocol::layout::{
    FIRST_SEQUENCE, METADATA_PREFIX_SIZE, MOST_METADATA, OIEB_SIZE, offset,
};
use crate::sys::shm::Place;

impl Writer {
    /// Whether this buffer has its metadata, from us or from a writer before.
    pub fn is_metadata_written(&self) -> bool {
        self.shared.state().metadata_written
    }

    /// A copy of the metadata that the buffer has, from us or from a writer before. `None` also if it is
    /// said to be longer than its block, or than 16 MiB ([`MOST_METADATA`]).
    pub fn metadata(&self) -> Option<Vec<u8>> {
        let mut prefix = [0; METADATA_PREFIX_SIZE as usize];
        if !self.is_metadata_written() || !self.shared.segment.load(OIEB_SIZE as usize, &mut prefix)
        {
            return None;
        }
        // What the reader made may be larger than any memory.
        let room = (self.metadata_size().checked_sub(METADATA_PREFIX_SIZE)?).min(MOST_METADATA);
        let len = Some(u64::from_le_bytes(prefix)).filter(|len| *len <= room)?;
        let mut bytes = vec![0; len as usize];
        let start = OIEB_SIZE + METADATA_PREFIX_SIZE;
        self.shared
            .segment
            .load(start as usize, &mut bytes)
            .then_some(bytes)
    }

    /// Writes the metadata of the stream: once, and before the first frame.
    ///
    /// # Errors
    /// [`Error::MetadataAlreadyWritten`], [`Error::MetadataTooLate`], [`Error::MetadataTooLarge`],
    /// [`Error::Closed`].
    pub fn set_metadata(&self, metadata: &[u8]) -> Result<()> {
        let mut place = self.reserve_metadata(metadata.len() as u64)?;
        place.copy_from_slice(metadata);
        place.commit()
    }

    /// Lends room for metadata of exactly `len` bytes, to be filled in place.
    ///
    /// # Errors
    /// As [`Writer::set_metadata`]; [`Error::ReservationPending`] while one is lent.
    pub fn reserve_metadata(&self, len: u64) -> Result<MetadataReservation> {
        let shared = &self.shared;
        let state = shared.state();
        shared.takes_metadata(&state)?;
        let needed = len.saturating_add(METADATA_PREFIX_SIZE);
        if needed > shared.sizes.metadata {
            return Err(Error::MetadataTooLarge {
                name: shared.names.name.clone(),
                size: len,
                metadata_size: shared.sizes.metadata,
                good_size: needed.checked_next_multiple_of(64).unwrap_or(needed),
            });
        }
        let start = OIEB_SIZE + METADATA_PREFIX_SIZE;
        let place = shared
            .segment
            .place(start as usize, len as usize)
            .ok_or(Error::ReservationPending)?;
        Ok(MetadataReservation {
            place,
            shared: shared.clone(),
        })
    }
}

impl Shared {
    pub(super) fn metadata_written(&self) -> Error {
        Error::MetadataAlreadyWritten { name: self.name() }
    }

    /// Whether metadata may be written now.
    fn takes_metadata(&self, state: &State) -> Result<()> {
        self.open(state)?;
        if state.metadata_written {
            return Err(self.metadata_written());
        }
        if state.sequence != FIRST_SEQUENCE {
            return Err(Error::MetadataTooLate { name: self.name() });
        }
        Ok(())
    }
}

/// Room for the metadata, lent by [`Writer::reserve_metadata`].
#[derive(Debug)]
#[must_use = "metadata that is not committed is not sent"]
pub struct MetadataReservation {
    place: Place,
    shared: Arc<Shared>,
}

impl MetadataReservation {
    /// Publishes the metadata.
    ///
    /// # Errors
    /// [`Error::MetadataAlreadyWritten`], [`Error::Closed`].
    pub fn commit(self) -> Result<()> {
        let MetadataReservation { place, shared } = self;
        let len = place.len() as u64;
        drop(place);
        let mut state = shared.state();
        shared.takes_metadata(&state)?;
        let oieb = shared.oieb().ok_or_else(|| shared.names.not_found())?;
        if !shared.segment.store(OIEB_SIZE as usize, &len.to_le_bytes()) {
            return Err(shared.names.corrupt("there is no room for metadata"));
        }
        let written = METADATA_PREFIX_SIZE + len;
        oieb.set(offset::METADATA_FREE_BYTES, shared.sizes.metadata - written);
        // With the `look` in `Reader::metadata`.
        handoff::announce(oieb.word(offset::METADATA_WRITTEN_BYTES), written);
        state.metadata_written = true;
        shared.there()
    }
}

impl Deref for MetadataReservation {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.place
    }
}

impl DerefMut for MetadataReservation {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{BufferConfig, Reader};
    use crate::testing::unique_name;

    #[test]
    fn no_more_is_copied_than_a_peer_may_ask_for() {
        let name = unique_name("metadata-most");
        let config = BufferConfig::new(MOST_METADATA + 1024, 1024);
        let _reader = Reader::create(&name, &config).unwrap();
        let writer = Writer::attach(&name).unwrap();
        writer.set_metadata(b"x").unwrap();
        for (len, is_copied) in [
            (1, true),
            (MOST_METADATA, true),
            (MOST_METADATA + 1, false),
            (u64::MAX, false),
        ] {
            let prefix = u64::to_le_bytes(len);
            assert!(writer.shared.segment.store(OIEB_SIZE as usize, &prefix));
            let copy = writer.metadata().map(|bytes| bytes.len() as u64);
            assert_eq!(copy, is_copied.then_some(len));
        }
    }
}
