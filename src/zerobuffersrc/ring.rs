//! The ring that the source makes: from the first to that of the last writer, and what comes after one
//! that has gone.

use std::sync::Arc;

use gst::subclass::prelude::*;
use gstreamer as gst;

use super::OnWriterDeath;
use super::imp::{CAT, ZeroBufferSrc};
use crate::element::{self, Connection};
use crate::peers::{Reason, Seen};
use crate::protocol::{BufferConfig, Changes, Error, Reader, WriterState};
use crate::segments::Segment;

/// The ring until a zerobuffersink asks for another, and for all other writers: three frames of
/// 1920×1080 RGBA with room to spare, and half of what Docker gives /dev/shm.
const START_PAYLOAD_SIZE: u64 = 32 << 20;

impl ZeroBufferSrc {
    /// Makes the buffer.
    pub(super) fn open(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings().clone();
        let name = element::checked_name(settings.buffer_name.as_deref())?;
        let config = match settings.payload_size {
            0 => {
                let start = START_PAYLOAD_SIZE.min(settings.max_payload_size);
                BufferConfig::new(settings.metadata_size, start).with_resizing()
            }
            size => BufferConfig::new(settings.metadata_size, size),
        };
        let reader = (settings.shared(config))
            .and_then(|config| Reader::create(&name, &config))
            .map_err(|err| element::message(&err))?;
        // Whatever downstream holds on to, the writer never waits for it.
        reader.set_evacuation(true);
        if let Some(err) = reader.lock_problem() {
            gst::warning!(CAT, imp = self, "No lock file for buffer {name}: {err}");
        }
        gst::info!(
            CAT,
            imp = self,
            "Made buffer {name} with a ring of {} bytes",
            reader.payload_size()
        );
        self.state().reader = Some(Arc::new(reader));
        Ok(())
    }

    pub(super) fn close(&self, why: &str) {
        let (reader, next) = {
            let mut state = self.state();
            (state.reader.take(), state.next.take())
        };
        drop(next);
        if let Some(reader) = reader {
            gst::info!(CAT, imp = self, "Closing buffer {}: {why}", reader.name());
            reader.close();
            self.counters.end(Connection::reading(&reader));
        }
    }

    /// The stream of this writer is over: EOS, or a new buffer for the next one. New, since a
    /// buffer takes metadata only once, and a writer that died may have left anything in the ring.
    pub(super) fn writer_gone(&self, reader: &Reader, why: &Error) -> Result<(), gst::FlowError> {
        let died = matches!(why, Error::WriterDead { .. });
        let then = self.settings().after(died);
        if died && then != OnWriterDeath::Error {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::Read,
                ("The writer ended without closing the stream"),
                ["{why}"]
            );
        }
        self.state().segment = Segment::new();
        match then {
            OnWriterDeath::Error => {
                self.close("the writer died");
                Err(self.fail(gst::error_msg!(
                    gst::ResourceError::Read,
                    ("The writer ended without closing the stream, and on-writer-death=error: \
                         {why}")
                )))
            }
            OnWriterDeath::Eos | OnWriterDeath::Auto => {
                self.close("the writer has gone");
                Err(gst::FlowError::Eos)
            }
            // The next writer is here already, with metadata that suits it.
            OnWriterDeath::Wait if !reader.close_if_unused() => Ok(()),
            OnWriterDeath::Wait => {
                self.close("the writer has gone");
                let mut state = self.state();
                state.current = false;
                state.last = None;
                state.discont = true;
                drop(state);
                self.open().map_err(|message| self.fail(message))
            }
        }
    }

    /// The writer asks for a ring of so many bytes.
    pub(super) fn resize(&self, reader: &Reader, bytes: u64) {
        let settings = self.settings().clone();
        if self.state().next.is_some() {
            // It asked before it knew of that one, which answers another request: it asks again
            // there.
            return;
        }
        let size = bytes.min(settings.max_payload_size).max(1);
        if settings.payload_size != 0 || size.next_multiple_of(64) == reader.payload_size() {
            return reader.keep_size();
        }
        let config = BufferConfig::new(settings.metadata_size, size).with_resizing();
        // The writer may be there before we have taken note of it.
        self.state().replacing = true;
        let made = (settings.shared(config))
            .and_then(|config| reader.replace_interrupted_by(&config, &self.interrupt));
        let mut state = self.state();
        state.replacing = false;
        match made {
            Ok(next) => {
                gst::info!(
                    CAT,
                    imp = self,
                    "A new ring of {} bytes",
                    next.payload_size()
                );
                state.next = Some(next);
            }
            Err(Error::Interrupted) => state.wanted = Some(bytes),
            Err(err) => {
                drop(state);
                reader.keep_size();
                gst::element_imp_warning!(
                    self,
                    gst::ResourceError::NoSpaceLeft,
                    (
                        "The writer asks for a ring of {bytes} bytes, which cannot be made; it \
                         goes on with {}, and may have to wait or copy more",
                        reader.payload_size()
                    ),
                    ["{err}"]
                );
            }
        }
    }

    /// The writer is done with this ring: reads the one that was made in its place, if there is one
    /// and somebody will come there.
    pub(super) fn read_next(&self, reader: &Reader, died: bool) -> bool {
        let waits = self.settings().after(died) == OnWriterDeath::Wait;
        let mut state = self.state();
        let Some(next) = state.next.take() else {
            return false;
        };
        // One that died on its way to the next ring is known by not having come there.
        let came = next.writer() != WriterState::None;
        let ended = (died && !came) || reader.is_stream_ended();
        if !waits && ended {
            return false;
        }
        if ended {
            state.segment = Segment::new();
        }
        self.counters.end(Connection::reading(reader));
        state.reader = Some(Arc::new(next));
        state.current = false;
        state.last = None;
        true
    }

    /// What tells that it may be going; not while it is between two rings.
    pub(super) fn writer_changes(&self) -> Option<Changes> {
        let state = self.state();
        let between = state.next.is_some() || state.replacing;
        let reader = state.reader.clone().filter(|_| !between);
        drop(state);
        reader?.writer_changes()
    }

    /// The writer that there is, whether its frames have been read or not.
    pub(super) fn look_for_writer(&self) -> Seen {
        let (mut writer, next) = {
            let state = self.state();
            let Some(reader) = state.reader.clone() else {
                return Seen::Nobody(Reason::Closed);
            };
            let next = match &state.next {
                None if state.replacing => Some(WriterState::None),
                next => next.as_ref().map(Reader::writer),
            };
            drop(state);
            (reader.writer(), next)
        };
        // It leaves a ring that was made anew for it.
        if let (Some(next), WriterState::Closed) = (next, writer) {
            writer = match next {
                WriterState::None => return Seen::Unsettled,
                next => next,
            };
        }
        match writer {
            WriterState::Connected { pid } => Seen::Peer(pid),
            WriterState::Dead { .. } => Seen::Nobody(Reason::Died),
            WriterState::Closed | WriterState::None => Seen::Nobody(Reason::Closed),
        }
    }
}
