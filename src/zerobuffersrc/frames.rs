//! What becomes of a frame: a buffer, or a place left out in the stream.

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;

use super::Timestamps;
use super::imp::{CAT, ZeroBufferSrc};
use crate::element::Counters;
use crate::frame_info::{self, Times};
use crate::frame_prefix::{Behind, Told};
use crate::metas;
use crate::protocol::{Frame, FrameTime, Records};
use crate::qos::LeftOut;
use crate::requests;
use crate::timing::Timeline;

impl ZeroBufferSrc {
    /// The frame as a buffer: its memory is the ring, and its room goes back to the writer when
    /// the memory's last reference goes.
    pub(super) fn buffer(&self, mut frame: Frame) -> Result<gst::Buffer, gst::FlowError> {
        let (sequence, bytes, is_copy) = (frame.sequence(), frame.len(), frame.is_copy());
        let records = frame.take_records();
        let (caps, video, takes_layouts, discont, prefix) = {
            let mut state = self.state();
            let follows = state
                .last
                .is_none_or(|last| sequence == last.wrapping_add(1));
            state.last = Some(sequence);
            let discont = std::mem::take(&mut state.discont) || !follows;
            let (caps, video) = (state.caps.clone(), state.video.clone());
            let prefix = state.prefix;
            (caps, video, state.takes_layouts, discont, prefix)
        };
        let Some(len) = bytes.checked_sub(prefix.len()) else {
            return Err(self.fail(gst::error_msg!(
                gst::StreamError::Format,
                (
                    "The writer sent a frame of {bytes} bytes, too short for the prefix of {} that \
                     frame-prefix={} expects",
                    prefix.len(),
                    prefix.nick()
                )
            )));
        };
        let told = prefix.read(&frame);
        let time = (records.time()).or_else(|| told.as_ref().map(Told::time));
        let packed = (video.as_ref()).and_then(|video| prefix.layout_of(len, video));
        let layout = (records.layout()).or_else(|| packed.as_ref().map(frame_info::layout));
        gst::log!(
            CAT,
            imp = self,
            "Frame {sequence}, {bytes} bytes{}, {}",
            if is_copy { ", copied" } else { "" },
            self.punctuality(time.as_ref())
        );
        let mut buffer = gst::Buffer::from_slice(Behind(frame, prefix.len()));
        if let Some(writable) = buffer.get_mut() {
            match time {
                Some(time) => frame_info::apply_time(&time, self.times(&time), writable),
                None => {
                    writable.set_pts(self.obj().current_running_time());
                    writable.set_offset(sequence);
                    writable.set_offset_end(sequence.wrapping_add(1));
                }
            }
            if discont {
                writable.set_flags(gst::BufferFlags::DISCONT);
            }
            if let Some(channel) = self.channel() {
                let connection = records.request().unwrap_or(requests::NOT_TOLD);
                requests::mark(writable, &channel, (sequence, connection));
            }
        }
        let mut copied = false;
        if let Some(video) = video {
            (buffer, copied) = frame_info::laid_out(buffer, layout.as_ref(), &video, takes_layouts)
                .map_err(|message| self.fail(message))?;
        }
        if let Some(writable) = buffer.get_mut() {
            let left = metas::from_records(&records, caps.as_deref(), writable);
            if let Some(told) = told {
                told.add_metas(writable);
            }
            if left > 0 {
                gst::debug!(
                    CAT,
                    imp = self,
                    "{left} metas of frame {sequence} are not known here"
                );
            }
        }
        Counters::add(&self.counters.frames, 1);
        Counters::add(&self.counters.bytes, bytes as u64);
        // The reader counts the copies that it makes; they are taken off in `Counters`.
        let how = if copied && !is_copy {
            &self.counters.copied
        } else {
            &self.counters.in_place
        };
        Counters::add(how, 1);
        Ok(buffer)
    }

    /// The channel whose requests these frames are, if they are any.
    fn channel(&self) -> Option<String> {
        let settings = self.settings();
        requests::channel_of_requests(settings.buffer_name.as_deref()?).map(Into::into)
    }

    /// How the times of a frame become ours.
    fn times(&self, time: &FrameTime) -> Times {
        let due = match (self.settings().timestamps, time.monotonic) {
            (Timestamps::Pts, _) => return Times::Untouched,
            (Timestamps::Sender, Some(monotonic)) => {
                Timeline::of(&*self.obj()).map(|line| line.running(monotonic))
            }
            // Where there is no other time, the arrival is the best there is.
            _ => return self.arrival(),
        };
        let rate = self.state().segment.rate();
        due.map_or(Times::None, |due| Times::At(due, rate))
    }

    /// How long before or after the sender shows it a frame came, to be read.
    fn punctuality(&self, time: Option<&FrameTime>) -> String {
        let Some(monotonic) = time.and_then(|time| time.monotonic) else {
            return "without a time".into();
        };
        let now = gst::get_timestamp().nseconds();
        let (apart, when) = if now < monotonic {
            (monotonic - now, "before")
        } else {
            (now - monotonic, "after")
        };
        let apart = gst::ClockTime::from_nseconds(apart);
        format!("{apart} {when} the sender shows it")
    }

    fn arrival(&self) -> Times {
        (self.obj().current_running_time()).map_or(Times::None, Times::Arrived)
    }

    /// A frame was left out for a newer one.
    pub(super) fn skipped(&self, sequence: u64, records: &Records) {
        {
            let mut state = self.state();
            state.last = Some(sequence);
            state.discont = true;
        }
        Counters::add(&self.counters.dropped, 1);
        let mut frame = gst::Buffer::new();
        if let (Some(time), Some(frame)) = (records.time(), frame.get_mut()) {
            frame_info::apply_time(&time, self.times(&time), frame);
        }
        let source = self.obj();
        let segment = self.state().set_segment.clone();
        let timestamp = (frame.pts().or(frame.dts())).or_else(|| source.current_running_time());
        let frame = LeftOut {
            live: source.is_live(),
            running_time: segment.to_running_time(timestamp),
            stream_time: segment.to_stream_time(timestamp),
            timestamp,
            duration: frame.duration(),
        };
        self.qos.left_out(&*source, &self.counters, frame);
    }
}
