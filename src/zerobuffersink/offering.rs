//! What the sink lets others know of its stream while it runs, so that they can choose to receive it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::protocol::{Error, Offer};

#[derive(Debug, Default)]
pub struct Offering(Mutex<Option<Offer>>);

impl Offering {
    /// From now on the stream for this buffer is like this.
    pub fn tell(&self, name: &str, metadata: &[u8]) -> Result<(), Error> {
        let mut offer = self.offer();
        match &*offer {
            Some(offer) if offer.name() == name => offer.tell(metadata)?,
            _ => *offer = Some(Offer::new(name, metadata)?),
        }
        Ok(())
    }

    pub fn end(&self) {
        *self.offer() = None;
    }

    fn offer(&self) -> MutexGuard<'_, Option<Offer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
