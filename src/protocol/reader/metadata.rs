//! The metadata, as a reader finds it.

use super::Reader;
use crate::protocol::error::Result;
use crate::protocol::handoff;
use crate::protocol::layout::{METADATA_PREFIX_SIZE, OIEB_SIZE, offset};

impl Reader {
    /// A copy of the metadata; `None` while the writer has not written any.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when its length makes no sense.
    pub fn metadata(&self) -> Result<Option<Vec<u8>>> {
        let shared = &self.shared;
        // With the `announce` in `MetadataReservation::commit`: the bytes are there.
        let written = shared.oieb().map_or(0, |oieb| {
            handoff::look(oieb.word(offset::METADATA_WRITTEN_BYTES))
        });
        shared.there()?;
        if written == 0 {
            return Ok(None);
        }
        let mut prefix = [0; METADATA_PREFIX_SIZE as usize];
        let prefixed = shared.segment.load(OIEB_SIZE as usize, &mut prefix);
        let len = u64::from_le_bytes(prefix);
        let end = len.checked_add(METADATA_PREFIX_SIZE);
        if !prefixed || written > shared.sizes.metadata || end.is_none_or(|end| end > written) {
            return Err(shared.names.corrupt(format!(
                "{written} bytes of metadata with a length of {len}"
            )));
        }
        let mut metadata = vec![0; len as usize];
        let start = OIEB_SIZE + METADATA_PREFIX_SIZE;
        if !shared.segment.load(start as usize, &mut metadata) {
            return Err(shared.names.corrupt("metadata outside of its block"));
        }
        shared.there()?;
        Ok(Some(metadata))
    }
}
