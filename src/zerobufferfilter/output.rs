//! What leaves the filter: answers with what their frames brought along, the caps that they have,
//! and events in their order.

use std::sync::Arc;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use super::OnFailure;
use super::answers::Answer;
use super::flow::Input;
use super::imp::{CAT, ZeroBufferFilter};
use super::under_way::{Due, Failure};
use crate::element::Counters;
use crate::frame_info;
use crate::frame_prefix::Behind;
use crate::metas;
use crate::protocol::Records;
use crate::stream_info;

/// Events that may wait for a frame.
const MOST_HELD: usize = 1024;

/// What downstream has been told.
#[derive(Debug, Default)]
pub struct Output {
    caps: Option<gst::Caps>,
    /// What raw video of these caps is like.
    video: Option<Arc<gst_video::VideoInfo>>,
    /// Downstream finds planes by their GstVideoMeta.
    takes_layouts: bool,
    /// Events that wait for the frame that says what the caps are: caps come first.
    held: Vec<gst::Event>,
    /// The next frame does not follow the last one.
    discont: bool,
}

impl Output {
    /// The caps that downstream has been told.
    pub fn caps(&self) -> Option<&gst::Caps> {
        self.caps.as_ref()
    }

    /// Keeps caps, and none before them, for the frame that says what they become.
    pub fn hold_caps(&mut self, caps: gst::Event) {
        (self.held).retain(|event| event.type_() != gst::EventType::Caps);
        self.held.push(caps);
    }

    /// For a flush: takes what waits, but for the caps, which are still true after it.
    pub fn flush(&mut self) -> Vec<gst::Event> {
        self.discont = true;
        let held = std::mem::take(&mut self.held);
        let (caps, others) = (held.into_iter())
            .partition(|event: &gst::Event| event.type_() == gst::EventType::Caps);
        self.held = caps;
        others
    }
}

impl ZeroBufferFilter {
    /// Sends an event on, when all before it has gone.
    pub(super) fn forward(&self, event: gst::Event) {
        let opens = match event.type_() {
            // What is to be said of the caps is known when the first frame is there.
            gst::EventType::Caps => false,
            gst::EventType::StreamStart | gst::EventType::Eos | gst::EventType::Gap => true,
            _ => {
                let held = self.output().held.len();
                held == 0 || held >= MOST_HELD
            }
        };
        if !opens {
            let mut output = self.output();
            match event.type_() {
                gst::EventType::Caps => output.hold_caps(event),
                _ => output.held.push(event),
            }
            return;
        }
        // There is no frame, so the caps are those that came in.
        let caps = self
            .output()
            .held
            .iter()
            .find_map(|event| match event.view() {
                gst::EventView::Caps(caps) => Some(caps.caps_owned()),
                _ => None,
            });
        if let Some(caps) = caps
            && let Err(err) = self.release(&caps)
        {
            self.stop_with(err);
            return;
        }
        self.src_pad().push_event(event);
    }

    /// Tells downstream these caps, if they are others than before, and sends what waited for them.
    fn release(&self, caps: &gst::Caps) -> Result<(), gst::FlowError> {
        let (held, changed) = {
            let mut output = self.output();
            let changed = output.caps.as_ref() != Some(caps);
            (std::mem::take(&mut output.held), changed)
        };
        let pad = self.src_pad();
        let reconfigured = pad.check_reconfigure();
        if changed {
            gst::info!(CAT, imp = self, "Caps {caps}");
            // Asked first: a caps event that nobody takes only makes the next push fail.
            if !pad.peer_query_accept_caps(caps) {
                gst::element_imp_error!(
                    self,
                    gst::StreamError::Format,
                    ("The element behind does not accept the caps of the frames ({caps}): put \
                         videoconvert or another fitting element in between")
                );
                return Err(gst::FlowError::NotNegotiated);
            }
            pad.push_event(gst::event::Caps::new(caps));
        }
        if changed || reconfigured {
            let video = stream_info::raw_video(caps).map(Arc::new);
            let takes_layouts = video.is_some() && frame_info::takes_layouts(pad, caps);
            let mut output = self.output();
            output.caps = Some(caps.clone());
            output.video = video;
            output.takes_layouts = takes_layouts;
        }
        for event in held {
            if event.type_() != gst::EventType::Caps {
                pad.push_event(event);
            }
        }
        Ok(())
    }

    /// Sends on what has become of a frame.
    pub(super) fn finish(&self, input: Input, due: Due<Answer>) -> Result<(), gst::FlowError> {
        match due {
            Due::Answered { answer, took } => {
                let caps = answer.caps.clone().unwrap_or(input.caps.clone());
                self.release(&caps)?;
                match self.answered(&input, answer) {
                    Ok(buffer) => {
                        drop(input);
                        self.rounds.answered(took);
                        self.push(buffer)
                    }
                    // An answer that is no frame is none.
                    Err(message) => self.unanswered(input, message),
                }
            }
            Due::Failed(failure) => {
                gst::debug!(CAT, imp = self, "No answer: {failure:?}");
                let message = self.failed(&failure);
                self.unanswered(input, message)
            }
            Due::Through | Due::Sent { .. } => self.pass(input),
        }
    }

    /// What `on-failure` says about a frame without an answer; the message is for an error.
    fn unanswered(&self, input: Input, message: gst::ErrorMessage) -> Result<(), gst::FlowError> {
        let on_failure = self.settings().on_failure;
        match on_failure {
            OnFailure::Error => {
                self.post_error_message(message);
                Err(gst::FlowError::Error)
            }
            OnFailure::Drop => {
                gst::debug!(CAT, imp = self, "Dropped: {message}");
                Counters::add(&self.rounds.dropped, 1);
                self.output().discont = true;
                Ok(())
            }
            OnFailure::Passthrough => {
                gst::debug!(CAT, imp = self, "Passed through: {message}");
                Counters::add(&self.rounds.passed_through, 1);
                self.pass(input)
            }
        }
    }

    fn pass(&self, input: Input) -> Result<(), gst::FlowError> {
        self.release(&input.caps)?;
        self.push(input.buffer)
    }

    fn push(&self, mut buffer: gst::Buffer) -> Result<(), gst::FlowError> {
        if std::mem::take(&mut self.output().discont) {
            buffer.make_mut().set_flags(gst::BufferFlags::DISCONT);
        }
        self.src_pad().push(buffer).map(|_| ())
    }

    /// What a frame without an answer means to who asked for an error.
    fn failed(&self, failure: &Failure) -> gst::ErrorMessage {
        let settings = self.settings();
        let channel = settings.channel_name.as_deref().unwrap_or_default();
        let hint = "on-failure=drop or on-failure=passthrough lets the stream go on";
        match failure {
            Failure::Late | Failure::NotSent => gst::error_msg!(
                gst::ResourceError::Read,
                (
                    "The worker of channel '{channel}' did not answer within the timeout of {}: it \
                     is too slow, or stopped. {hint}",
                    settings.timeout
                )
            ),
            Failure::Skipped => gst::error_msg!(
                gst::ResourceError::Read,
                ("The worker of channel '{channel}' passed a frame over: it drops frames, or \
                     failed with this one. {hint}")
            ),
            Failure::Gone(why) => gst::error_msg!(
                gst::ResourceError::Read,
                ("The worker of channel '{channel}' went away: {why}. {hint}")
            ),
        }
    }

    /// The answer as a buffer: its memory is the ring, and all else is from the frame it answers.
    fn answered(&self, input: &Input, answer: Answer) -> Result<gst::Buffer, gst::ErrorMessage> {
        let Answer {
            mut frame, prefix, ..
        } = answer;
        let is_copy = frame.is_copy();
        let records = frame.take_records();
        let (caps, video, takes_layouts) = {
            let output = self.output();
            (
                output.caps.clone(),
                output.video.clone(),
                output.takes_layouts,
            )
        };
        let mut buffer = gst::Buffer::from_slice(Behind(frame, prefix.len()));
        let mut copied = false;
        if let Some(video) = video {
            // Who gets frames with a prefix may answer without, but with their rows.
            let packed = [prefix, self.settings().frame_prefix]
                .into_iter()
                .find_map(|prefix| prefix.layout_of(buffer.size(), &video));
            let layout = (records.layout()).or_else(|| packed.as_ref().map(frame_info::layout));
            (buffer, copied) =
                frame_info::laid_out(buffer, layout.as_ref(), &video, takes_layouts)?;
        }
        if let Some(writable) = buffer.get_mut() {
            describe(input, caps.as_ref(), &records, writable);
        }
        // The ring counts the copies that it makes.
        let how = if copied && !is_copy {
            &self.rounds.copied
        } else {
            &self.rounds.in_place
        };
        Counters::add(how, 1);
        Ok(buffer)
    }
}

/// Gives an answer the times, flags and metas of its frame, and the metas that its worker added.
fn describe(
    input: &Input,
    caps: Option<&gst::Caps>,
    records: &Records,
    answer: &mut gst::BufferRef,
) {
    use gst::meta::tags;

    let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS;
    // It fails only for ranges outside of the buffer.
    let _ = input.buffer.copy_into(answer, what, ..);
    let same = caps == Some(&input.caps);
    for meta in input.buffer.iter_meta::<gst::Meta>() {
        let about_memory =
            meta.has_tag::<tags::Memory>() || meta.has_tag::<tags::MemoryReference>();
        // Those about sizes and colours are only true of frames of the same kind.
        if about_memory
            || meta.api() == gst_video::VideoMeta::meta_api()
            || !same && !meta.tags().is_empty()
        {
            continue;
        }
        // Those that cannot be copied stay behind.
        let _ = meta.transform(answer, &gst::meta::MetaTransformCopy::new(..));
    }
    let mut ours = Records::new();
    metas::to_records(&input.buffer, &mut ours);
    let added = metas::others(records, &ours);
    if !added.is_empty() {
        metas::from_records(&added, caps.map(|caps| &**caps), answer);
    }
}
