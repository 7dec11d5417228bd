//! What the writer says of its stream: caps, segment, events.

use std::sync::Arc;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;

use super::Timestamps;
use super::imp::{CAT, ZeroBufferSrc};
use crate::element;
use crate::events;
use crate::frame_info;
use crate::frame_prefix::FramePrefix;
use crate::protocol::layout::FIRST_SEQUENCE;
use crate::protocol::{Reader, Records};
use crate::segments::{self, Segment};
use crate::stream_info;
use crate::timing::Timeline;

impl ZeroBufferSrc {
    /// With the first frame of a ring, and when the writer says so: finds the caps and sets them.
    pub(super) fn negotiate_with(
        &self,
        reader: &Reader,
        records: &Records,
    ) -> Result<(), gst::FlowError> {
        if !self.state().current {
            let prefix = self.find_prefix(reader).map_err(|err| self.fail(err))?;
            self.state().prefix = prefix;
        }
        let found = match records.caps() {
            Some(text) => stream_info::parse_caps(text).map_err(|what| {
                gst::error_msg!(
                    gst::StreamError::Format,
                    ("The writer announced {what}, so its stream cannot go on")
                )
            }),
            None if self.state().current => return Ok(()),
            None => self.find_caps(reader),
        };
        let caps = found.map_err(|err| self.fail(err))?;
        if self.state().caps.as_ref() != Some(&caps) {
            gst::info!(CAT, imp = self, "Caps {caps}");
            // Asked first: a caps event that nobody takes only makes the next push fail.
            let accepted = self.obj().src_pad().peer_query_accept_caps(&caps);
            if !accepted || self.obj().set_caps(&caps).is_err() {
                return Err(self.fail(gst::error_msg!(
                    gst::StreamError::Format,
                    ("The element behind does not accept the caps that the writer announced \
                         ({caps}): put videoconvert or another fitting element in between")
                )));
            }
            let video = stream_info::raw_video(&caps);
            let takes_layouts =
                video.is_some() && frame_info::takes_layouts(self.obj().src_pad(), &caps);
            let mut state = self.state();
            state.video = video.map(Arc::new);
            state.takes_layouts = takes_layouts;
            state.caps = Some(caps);
        }
        self.state().current = true;
        Ok(())
    }

    /// The sender's PTS mean something in the sender's segment, and all other times in our own.
    pub(super) fn follow_segment(&self, records: &Records, sequence: Option<u64>) {
        let timestamps = self.settings().timestamps;
        let due = {
            let mut state = self.state();
            if sequence == Some(FIRST_SEQUENCE) && state.last.is_some() {
                // The next writer, in the same ring.
                state.segment = Segment::new();
            }
            if let Some(segment) = segments::Value::among(records).and_then(|said| said.decode()) {
                state.segment = segment;
            }
            let due = match timestamps {
                Timestamps::Pts => state.segment.clone(),
                Timestamps::Sender | Timestamps::Arrival => Segment::new(),
            };
            if due == state.set_segment {
                return;
            }
            state.set_segment = due.clone();
            due
        };
        gst::debug!(CAT, imp = self, "{due:?}");
        // If there was none yet, the base class sends one; see `segment_event`.
        let pad = self.obj().src_pad().clone();
        if pad.sticky_event::<gst::event::Segment>(0).is_some() {
            pad.push_event(gst::event::Segment::new(due.upcast_ref()));
        }
    }

    /// The segment that downstream is told. The base class keeps one of its own: it would end the
    /// stream by the sender's, and mark each frame of a stream that is played backwards as DISCONT.
    pub(super) fn segment_event(&self, seqnum: gst::Seqnum) -> gst::Event {
        let segment = self.state().set_segment.clone();
        gst::event::Segment::builder(segment.upcast_ref())
            .seqnum(seqnum)
            .build()
    }

    /// Sends on events that came with a frame or between two.
    pub(super) fn push_events(&self, records: &Records) {
        // Nearly all frames come without events, so nothing is asked for before there is one.
        let time = |monotonic: Option<u64>, pts| {
            let sender = self.settings().timestamps == Timestamps::Sender;
            let line = || Timeline::of(&*self.obj());
            let monotonic = monotonic.filter(|_| sender);
            (monotonic.and_then(|time| Some(line()?.running(time)))).unwrap_or(pts)
        };
        for event in events::from_records(records, time) {
            let pad = self.obj().src_pad().clone();
            // The base class sends its segment with the first frame, which may be behind.
            if pad.sticky_event::<gst::event::Segment>(0).is_none() {
                pad.push_event(gst::event::Segment::new(&self.obj().segment()));
            }
            gst::debug!(CAT, imp = self, "Sending on {event:?}");
            pad.push_event(event);
        }
    }

    /// What is in front of each frame.
    fn find_prefix(&self, reader: &Reader) -> Result<FramePrefix, gst::ErrorMessage> {
        let metadata = reader.metadata().map_err(|err| element::message(&err))?;
        Ok(
            match stream_info::to_prefix(&metadata.unwrap_or_default()) {
                FramePrefix::None => self.settings().frame_prefix,
                told => told,
            },
        )
    }

    fn find_caps(&self, reader: &Reader) -> Result<gst::Caps, gst::ErrorMessage> {
        let metadata = reader.metadata().map_err(|err| element::message(&err))?;
        let found = match metadata {
            Some(metadata) => stream_info::to_caps(&metadata),
            None => Err("no metadata".into()),
        };
        found.or_else(|what| {
            self.settings().caps.clone().ok_or_else(|| {
                gst::error_msg!(
                    gst::StreamError::Format,
                    (
                        "The writer of buffer '{}' announced {what}, so the caps of the stream \
                         are not known: set the property caps",
                        reader.name()
                    )
                )
            })
        })
    }
}
