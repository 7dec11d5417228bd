//! How the sender gets a ring of the right size.

use std::time::{Duration, Instant};

use gst::subclass::prelude::*;
use gstreamer as gst;

use super::connecting::is_missing;
use super::sizes::{suits, wanted_size};
use super::{Connecting, Policy, Sending, Sends, Stop};
use crate::element;
use crate::protocol::{Error, Wait, Writer};

/// How long the stream waits for a ring of another size where the one there is would do, too.
const RESIZE_PATIENCE: Duration = Duration::from_millis(500);
const RESIZE_INTERVAL: Duration = Duration::from_millis(1);

/// An element that sends, as it asks for rings.
pub trait Fitting: Sends {
    /// Asks a reader that makes rings to measure for one that suits frames of `len` bytes, and
    /// changes to it. True if the writer is another one now.
    fn fit_ring(&self, len: u64) -> Result<bool, Error> {
        let Sending {
            link, interrupt, ..
        } = self.sending();
        let Some(writer) = link.get() else {
            return Ok(false);
        };
        let (frames, fixed) = (self.policy().frames, self.state().video.is_some());
        if suits(&writer, len, frames, fixed) {
            return Ok(false);
        }
        let wanted = wanted_size(len, frames, fixed);
        {
            let mut state = self.state();
            if state.asked == wanted {
                // It knows, and has made what it could.
                return Ok(false);
            }
            state.asked = wanted;
        }
        let interrupts = interrupt.times();
        self.settle()?;
        let now = Wait::no().interrupted_by(interrupt);
        match writer.request_size(wanted, now) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(Error::BufferFull { .. }) => {
                // The next frame asks again.
                self.state().asked = 0;
                return Ok(false);
            }
            Err(err) => return Err(err),
        }
        gst::debug!(
            Self::category(),
            imp = self,
            "Asked for a ring of {wanted} bytes"
        );
        let began = Instant::now();
        // `render` sees an interrupt while it lasts; a query holds no lock, and may miss it.
        while began.elapsed() < RESIZE_PATIENCE
            && !interrupt.is_set()
            && interrupt.times() == interrupts
        {
            let answered = self.is_answered(&writer);
            match writer.look_at_reader() {
                Ok(()) if answered => break,
                Err(Error::ReaderReplaced { .. }) => {
                    self.move_on();
                    let wait = Wait::from(RESIZE_PATIENCE).interrupted_since(interrupt, interrupts);
                    match Writer::attach_wait(writer.name(), wait) {
                        Ok(writer) => {
                            self.attached(writer);
                        }
                        // It is gone with its new ring: as if there had been none yet.
                        Err(err) if is_missing(&err) => self.lose_reader(&err),
                        Err(err) => return Err(err),
                    }
                    return Ok(true);
                }
                other => other?,
            }
            interrupt.sleep(RESIZE_INTERVAL);
        }
        gst::debug!(Self::category(), imp = self, "The ring stays as it is");
        Ok(false)
    }

    /// Whether the reader has said what becomes of the request for another ring.
    fn is_answered(&self, writer: &Writer) -> bool {
        let asked = self.state().asked;
        // Where it cannot say so, it cannot say either that it has made one.
        (writer.answered_size()).is_none_or(|answered| asked != 0 && answered == asked)
    }

    /// Waits until the reader has answered the request for another ring; if it made one, the next
    /// look at it tells. Back as well when there was no room for the request, and now there is.
    fn wait_for_ring(&self, writer: &Writer, len: u64, policy: Policy) -> Result<(), Stop> {
        let interrupt = &self.sending().interrupt;
        let timeout = element::limit(policy.timeout);
        let began = Instant::now();
        loop {
            if interrupt.sleep(RESIZE_INTERVAL) {
                return Err(Error::Interrupted.into());
            }
            let asked = self.state().asked;
            let answered = match asked {
                0 => writer.is_all_read(),
                _ => self.is_answered(writer),
            };
            writer.look_at_reader()?;
            if answered {
                return Ok(());
            }
            if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                return Err(Stop::Element(gst::error_msg!(
                    gst::ResourceError::Write,
                    (
                        "The reader made no ring for frames of {len} bytes within the timeout of {}",
                        policy.timeout
                    )
                )));
            }
        }
    }
}

impl<T: Sends> Fitting for T {}
