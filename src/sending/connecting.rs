//! How the sender finds a reader, tells it the caps, and notices that it has gone.

use std::sync::Arc;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;

use super::telling::append;
use super::{Policy, Sending, Sends, Stop, Telling};
use crate::element::Connection;
use crate::events;
use crate::protocol::{Error, Wait, Writer};
use crate::segments;
use crate::stream_info;

/// An element that sends, as it comes to its reader and leaves it.
pub trait Connecting: Sends {
    /// The writer, attached if need be; `None` if there is no reader and no wait for one.
    fn connect(&self, policy: Policy) -> Result<Option<Arc<Writer>>, Stop> {
        let Sending {
            link, interrupt, ..
        } = self.sending();
        let writer = link.get();
        let caps = {
            let state = self.state();
            if state.announced && writer.is_some() {
                return Ok(writer);
            }
            state.caps.clone()
        };
        let caps = caps.as_deref();
        if let Some(writer) = writer {
            match self.announce(&writer, caps) {
                Ok(true) => {
                    self.announced();
                    return Ok(Some(writer));
                }
                Ok(false) => self.disconnect("it has the metadata of another stream"),
                Err(err @ Error::ReaderTaken { .. }) => self.disconnect(&err.to_string()),
                Err(err) => return Err(err.into()),
            }
        }
        let name = self.buffer_name();
        let waiting = if policy.wait_for_connection {
            gst::debug!(
                Self::category(),
                imp = self,
                "Waiting for the reader of {name}"
            );
            policy.wait(interrupt)
        } else {
            Wait::no()
        };
        let attach = Writer::attach_wait_if(&name, waiting, |writer| self.announce(writer, caps));
        let writer = match attach {
            Ok(writer) => self.attached(writer),
            Err(err) if !is_missing(&err) => return Err(err.into()),
            Err(_) if !policy.wait_for_connection => return Ok(None),
            Err(err) => {
                return Err(Stop::Element(gst::error_msg!(
                    gst::ResourceError::NotFound,
                    (
                        "No reader came within the timeout of {}: {err}",
                        policy.timeout
                    )
                )));
            }
        };
        self.announced();
        Ok(Some(writer))
    }

    fn attached(&self, writer: Writer) -> Arc<Writer> {
        let writer = Arc::new(writer);
        gst::info!(
            Self::category(),
            imp = self,
            "Attached to {}, a ring of {} bytes, reader's pid {}",
            writer.name(),
            writer.payload_size(),
            writer.reader_pid()
        );
        self.state().gone = None;
        self.sending().link.replace(Some(writer.clone()));
        let mut state = self.state();
        if writer.answered_size() != Some(state.asked) {
            // It answers a request before that one, which it may not have read at all.
            state.asked = 0;
        }
        let before = state.leaving.take();
        drop(state);
        if let Some(before) = before {
            before.close();
        }
        writer
    }

    /// The reader knows the caps; it also needs the events that are still true.
    fn announced(&self) {
        let mut sticky = self.sticky();
        let mut state = self.state();
        state.announced = true;
        state.told = state.caps.clone();
        // A ring that was made anew for us has the same reader, which has heard them.
        if !std::mem::take(&mut state.moved) {
            state.told_segment = segments::Value::default();
            let passing = events::without_sticky(&state.pending);
            append(&passing, &mut sticky);
            state.pending = sticky;
            drop(state);
            self.reader_came();
        }
    }

    /// Writes the caps as metadata. False if the buffer has other metadata already, from a writer
    /// before us: then only the reader's next buffer will do.
    fn announce(&self, writer: &Writer, caps: Option<&gst::CapsRef>) -> Result<bool, Error> {
        self.suits(writer)?;
        let Some(caps) = caps else { return Ok(true) };
        let prefix = self.policy().frame_prefix;
        if let Some(there) = writer.metadata() {
            let same = stream_info::to_caps(&there).is_ok_and(|there| *there == *caps)
                && stream_info::to_prefix(&there) == prefix;
            if !same {
                gst::debug!(
                    Self::category(),
                    imp = self,
                    "The buffer has the metadata of another stream; waiting for a new one"
                );
            }
            return Ok(same);
        }
        writer.set_metadata(&stream_info::to_metadata(caps, &self.obj().name(), prefix))?;
        Ok(true)
    }

    /// The reader has gone by itself; or it has only made the ring anew.
    fn lose_reader(&self, why: &Error) {
        if let Error::ReaderReplaced { .. } = why {
            return self.move_on();
        }
        gst::info!(Self::category(), imp = self, "{why}");
        self.disconnect("the reader has gone");
        self.state().gone = Some(why.to_string());
        self.lost_reader(why);
    }

    /// The reader has made the ring anew: the stream goes on there.
    fn move_on(&self) {
        let Sending { link, counters, .. } = self.sending();
        let mut state = self.state();
        let before = state.leaving.take();
        let writer = link.replace(None);
        if let Some(writer) = &writer {
            gst::info!(
                Self::category(),
                imp = self,
                "The ring of {} was made anew",
                writer.name()
            );
            counters.end(Connection::writing(writer));
            // The reader is the same, and knows what it was told.
            state.moved = state.announced;
        }
        state.announced = false;
        state.leaving = writer.or(before);
    }

    fn disconnect(&self, why: &str) {
        let Sending { link, counters, .. } = self.sending();
        let mut state = self.state();
        state.announced = false;
        state.moved = false;
        state.asked = 0;
        if let Some(before) = state.leaving.take() {
            before.end();
        }
        if let Some(writer) = link.replace(None) {
            gst::info!(
                Self::category(),
                imp = self,
                "Detaching from {}: {why}",
                writer.name()
            );
            writer.end();
            counters.end(Connection::writing(&writer));
        }
    }
}

impl<T: Sends> Connecting for T {}

/// Whether there is no reader that this stream could go to.
pub(super) fn is_missing(err: &Error) -> bool {
    err.is_no_reader() || matches!(err, Error::MetadataAlreadyWritten { .. })
}
