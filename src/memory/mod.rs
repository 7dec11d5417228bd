//! Room in the ring as GStreamer memory, so that upstream renders straight into it.

mod allocator;
mod pool;

use std::sync::{Arc, Mutex, PoisonError};

pub use allocator::publish;
pub use pool::RingPool;

use crate::protocol::Writer;

/// The writer that a sink has at the moment, shared with the pools that it has proposed.
#[derive(Clone, Debug, Default)]
pub struct Link(Arc<Mutex<Option<Arc<Writer>>>>);

impl Link {
    /// The writer, while there is one.
    pub fn get(&self) -> Option<Arc<Writer>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Another writer, or none; returns the one before.
    pub fn replace(&self, writer: Option<Arc<Writer>>) -> Option<Arc<Writer>> {
        std::mem::replace(
            &mut self.0.lock().unwrap_or_else(PoisonError::into_inner),
            writer,
        )
    }
}
