//! The buffer that `create()` has returned and that has not left the element yet.
//!
//! When the state changes to PAUSED while `create()` runs, GStreamer drops what it returns. Of a
//! camera, nobody misses that; here a frame would be missing. So the buffer is kept until it is seen
//! on the pad, and returned once more if it never is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gst::prelude::*;
use gstreamer as gst;

#[derive(Debug, Default)]
pub struct Unsent(Arc<Mutex<Option<gst::Buffer>>>);

impl Unsent {
    /// Looks at what leaves through this pad.
    pub fn watch(&self, pad: &gst::Pad) {
        let unsent = Unsent(self.0.clone());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            // Before anybody downstream has it, so that it is theirs alone.
            unsent.forget();
            gst::PadProbeReturn::Ok
        });
    }

    /// A buffer that is about to be returned.
    pub fn keep(&self, buffer: &gst::Buffer) {
        *self.buffer() = Some(buffer.clone());
    }

    /// The last one, if it has not left.
    pub fn get(&self) -> Option<gst::Buffer> {
        self.buffer().clone()
    }

    pub fn forget(&self) {
        let buffer = self.buffer().take();
        // Without the lock: it may be the last reference.
        drop(buffer);
    }

    fn buffer(&self) -> MutexGuard<'_, Option<gst::Buffer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
