//! What the sender tells besides frames: times, layouts, metas, segments, events.

use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use super::Sends;
use crate::events;
use crate::frame_info;
use crate::metas;
use crate::protocol::{Records, Wait};
use crate::requests;
use crate::segments;

/// Bytes of events that wait for a frame; later ones are lost.
const MOST_PENDING: usize = 64 << 10;

/// An element that sends, as it tells of its stream.
pub trait Telling: Sends {
    /// An event comes in: it may be the segment of what comes behind.
    fn follow_segment(&self, event: &gst::EventRef) {
        let segment = match event.view() {
            gst::EventView::Segment(event) => segments::Value::of(event.segment()),
            // The pad forgets it, too.
            gst::EventView::FlushStop(_) => segments::Value::default(),
            _ => return,
        };
        self.state().segment = segment;
    }

    /// What a reader of ours is told about a buffer.
    fn describe(
        &self,
        buffer: &gst::BufferRef,
        video: Option<&gst_video::VideoInfo>,
        segment: segments::Value,
        records: &mut Records,
    ) {
        let monotonic = (buffer.pts().or(buffer.dts())).and_then(|time| self.monotonic(time));
        records.push_time(&frame_info::to_time(buffer, monotonic));
        if let Some(layout) = video.and_then(|video| frame_info::other_layout(buffer, video)) {
            records.push_layout(&layout);
        }
        metas::to_records(buffer, records);
        match self.request(buffer) {
            Some((request, requests::NOT_TOLD)) => records.push_answer(request),
            Some((request, connection)) => records.push_answer_for(request, connection),
            None => {}
        }
        if let Some(connection) = self.connection() {
            records.push_request(connection);
        }
        let state = self.state();
        if let Some(caps) = state.caps.as_ref().filter(|_| state.told != state.caps) {
            records.push_caps(&caps.to_string());
        }
        if state.told_segment != segment {
            segment.push(records);
        }
        append(&state.pending, records);
    }

    /// The events that are still true.
    fn sticky(&self) -> Records {
        let mut records = Records::new();
        self.input().sticky_events_foreach(|event| {
            events::to_record(event, |_| None, &mut records);
            std::ops::ControlFlow::Continue(gst::EventForeachAction::Keep)
        });
        records
    }

    /// An event has gone through the sink: tells the reader, if it is one that travels.
    fn forward(&self, event: &gst::EventRef) {
        if event.type_() == gst::EventType::FlushStop {
            let waiting = std::mem::take(&mut self.state().pending);
            if !waiting.is_empty() {
                // What is sticky outlives a flush, and may not have been told yet.
                let sticky = self.sticky();
                self.state().pending = sticky;
            }
            return;
        }
        let writer = self.sending().link.get();
        if writer
            .as_ref()
            .is_some_and(|writer| !writer.carries_records())
        {
            return;
        }
        let mut records = Records::new();
        if !events::to_record(event, |time| self.monotonic(time), &mut records) {
            return;
        }
        let state = &mut *self.state();
        let segment = state.segment;
        // What is sticky is told with the caps.
        if !state.announced && event.type_().is_sticky() {
            return;
        }
        let kept = state.pending.as_bytes().len();
        if kept + records.as_bytes().len() > MOST_PENDING {
            gst::warning!(
                Self::category(),
                imp = self,
                "Too many events without a frame, not sending {event:?}"
            );
            return;
        }
        append(&records, &mut state.pending);
        // Not in front of caps or a segment that wait for their frame, and never waiting here.
        let follows = state.announced && state.told == state.caps && state.told_segment == segment;
        if let Some(writer) = writer.filter(|_| follows)
            && (writer.write_message(&state.pending, Wait::no())).is_ok_and(|sent| sent)
        {
            state.pending.clear();
        }
    }

    /// Sends events for which there is no frame any more.
    fn finish(&self) {
        let (writer, policy) = (self.sending().link.get(), self.policy());
        let pending = {
            let mut state = self.state();
            let pending = std::mem::take(&mut state.pending);
            let follow = state.announced && state.told == state.caps;
            Some(pending).filter(|pending| follow && !pending.is_empty())
        };
        let (Some(writer), Some(pending)) = (writer, pending) else {
            return;
        };
        let wait = match policy.wait_for_room {
            true => policy.wait(&self.sending().interrupt),
            false => Wait::no(),
        };
        if let Err(err) = writer.write_message(&pending, wait) {
            gst::warning!(
                Self::category(),
                imp = self,
                "The last events did not get through: {err}"
            );
        }
    }
}

impl<T: Sends> Telling for T {}

pub(super) fn append(from: &Records, to: &mut Records) {
    for record in from.iter() {
        to.push(record.kind, record.value);
    }
}
