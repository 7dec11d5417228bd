//! What comes in: frames become requests when it is their turn and the worker is in step, events and
//! queries wait behind them.

use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;

use super::answers::{Answer, Came};
use super::flow::{Flow, Input, Worker, is_pipeline, names};
use super::imp::{CAT, MORE_FRAMES, SLICE, ZeroBufferFilter, lock};
use super::under_way::{Due, Failure};
use crate::element;
use crate::protocol::{BufferConfig, Error, Wait, ring_size};
use crate::sending::{Connecting, Proposing, Sends, Stop, Telling};
use crate::stream_info;

/// At least, and for what is no raw video.
const LEAST_PAYLOAD_SIZE: u64 = 1 << 20;
const OTHER_PAYLOAD_SIZE: u64 = 8 << 20;
/// Room for caps with the headers of a codec in them.
const METADATA_SIZE: u64 = 64 << 10;
/// A sleep where the worker is about to be done.
const MOMENT: Duration = Duration::from_micros(100);
/// Frames that a pipeline may keep to itself (an encoder that looks ahead, videorate) beside those that
/// may be in flight: when it has taken all and gives nothing for so long, it gets one more.
const QUIET: Duration = Duration::from_millis(250);
const MOST_KEPT: usize = 64;
/// Events that may wait.
const MOST_EVENTS: usize = 1024;
/// Answers without a request that are read in one go.
const MOST_SURPLUS: usize = 1024;

/// Why a frame could not be asked for.
enum Trouble {
    Flow(gst::FlowError),
    Message(gst::ErrorMessage),
}

impl From<Error> for Trouble {
    fn from(err: Error) -> Self {
        match err {
            Error::Interrupted => Trouble::Flow(gst::FlowError::Flushing),
            err => Trouble::Message(element::message(&err)),
        }
    }
}

/// What comes in.
impl ZeroBufferFilter {
    pub(super) fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Some(caps) = self.state().caps.clone() else {
            return Err(gst::FlowError::NotNegotiated);
        };
        let input = Input { buffer, caps };
        self.wait_for_turn()?;
        if input.buffer.size() == 0 {
            return self.put(input, Due::Through);
        }
        match self.ask(&input) {
            Ok(None) => self.flow().result,
            Ok(Some(failure)) => {
                // Upstream need not wait for room that is not used.
                self.sending.link.rendering(false);
                self.put(input, Due::Failed(failure))
            }
            Err(Trouble::Flow(err)) => Err(err),
            Err(Trouble::Message(message)) => {
                self.post_error_message(message);
                self.stop_with(gst::FlowError::Error);
                Err(gst::FlowError::Error)
            }
        }
    }

    pub(super) fn put(
        &self,
        input: Input,
        due: Due<Answer>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut flow = self.flow();
        flow.result?;
        flow.under_way.push_frame(input, due);
        self.changed.notify_all();
        Ok(gst::FlowSuccess::Ok)
    }

    /// Waits until another frame may be under way.
    pub(super) fn wait_for_turn(&self) -> Result<(), gst::FlowError> {
        let mut flow = self.flow();
        loop {
            flow.result?;
            let frames = flow.under_way.frames();
            let writer = self.sending.link.get();
            let max_in_flight = self.settings().max_in_flight as usize;
            let names = writer
                .as_ref()
                .is_none_or(|writer| names(writer, &flow.worker));
            let most = match (names, flow.worker.named) {
                (true, _) => max_in_flight + flow.worker.keeps,
                (false, None) => 1 + flow.worker.keeps,
                (false, Some(_)) => 1,
            };
            if frames < most {
                return Ok(());
            }
            flow = self.wait_for(flow, SLICE);
            if flow.worker.keeps < MOST_KEPT
                && flow.under_way.frames() == frames
                && self.is_kept(&flow)
            {
                flow.worker.keeps += 1;
                flow.quiet = Instant::now();
            }
        }
    }

    /// Whether the frames under way seem to be kept: a pipeline has taken all and gives none back. It
    /// may need the next one for that, or has dropped them, which its next answer tells.
    fn is_kept(&self, flow: &Flow) -> bool {
        let writer = self.sending.link.get();
        flow.reading
            && flow.quiet.elapsed() >= QUIET.max(2 * self.rounds.least())
            && writer.is_some_and(|writer| is_pipeline(&writer) && writer.is_all_read())
    }

    /// Sends a frame as a request; says if that failed in a way that `on-failure` is for.
    fn ask(&self, input: &Input) -> Result<Option<Failure>, Trouble> {
        let number = self.next_number();
        loop {
            self.leave_who_went()?;
            if !self.is_in_step()? {
                return Ok(Some(Failure::NotSent));
            }
            if self.flow().worker.gone.is_some() {
                continue;
            }
            self.open_answers()?;
            *lock(&self.asking) = Some(input.clone());
            let sent = self.send(&input.buffer, number);
            *lock(&self.asking) = None;
            match sent {
                Ok(true) => return Ok(None),
                Ok(false) => return Ok(Some(Failure::NotSent)),
                Err(Stop::Protocol(Error::ReaderReplaced { .. })) => {
                    self.settle()?;
                    self.move_on();
                }
                Err(Stop::Protocol(
                    err @ (Error::ReaderClosed { .. } | Error::ReaderDead { .. }),
                )) => self.gone(&err.to_string()),
                Err(Stop::Protocol(Error::BufferFull { .. })) => {
                    self.flow().worker.behind = Some(Some(Instant::now()));
                    return Ok(Some(Failure::Late));
                }
                Err(Stop::Protocol(err)) => return Err(err.into()),
                Err(Stop::Element(message)) => return Err(Trouble::Message(message)),
            }
        }
    }

    /// Makes sure that the next answer is that of the next request: at once if answers name theirs.
    /// False if the worker is not done with those before.
    pub(super) fn is_in_step(&self) -> Result<bool, Error> {
        let Some(writer) = self.sending.link.get() else {
            return Ok(true);
        };
        let (patience, began) = (self.settings().patience(), Instant::now());
        let mut looks = 0;
        loop {
            let flow = self.flow();
            if flow.result.is_err() {
                return Err(Error::Interrupted);
            }
            if flow.worker.gone.is_some() {
                return Ok(true);
            }
            let now = Instant::now();
            let idle = !flow.under_way.is_waiting() && !flow.reading;
            let (behind, named) = (flow.worker.behind, flow.worker.named);
            let keeps_last = flow.worker.keeps_last;
            // As long as nothing went wrong, its first answer says whether it does.
            let unknown = named.is_none() && behind.is_none() && is_pipeline(&writer);
            let names = unknown || names(&writer, &flow.worker);
            drop(flow);
            // Asked first: what it answered before it gave the request back is to be seen then.
            let given_back = writer.is_all_given_back();
            if idle {
                self.take_surplus();
            }
            // Whose answer comes late is known; it has been at its requests, so it goes on.
            if names && (behind.is_none() || writer.is_all_read()) {
                self.flow().worker.behind = None;
                return Ok(true);
            }
            // An application may keep the last one that it took for as long as it likes: an appsink does
            // until it gets the next.
            let kept = is_pipeline(&writer)
                && writer.is_all_read()
                && (behind.is_some() || keeps_last || began.elapsed() >= QUIET);
            // What a flush has dropped is waited for, or its answer would come to the next frame.
            let patient = behind.is_some_and(|until| until.is_none_or(|until| now < until));
            let (holds, owed) = {
                let flow = self.flow();
                (flow.worker.holds, flow.under_way.is_owed())
            };
            // It has answered all that it has given back, and that is read.
            let done = holds && given_back;
            if !names && idle && (given_back || kept) && (done || !owed || !patient) {
                let mut flow = self.flow();
                let late = flow.worker.behind.take().is_some();
                flow.worker.keeps_last |= !late && !given_back;
                if holds {
                    flow.under_way.start_over();
                }
                drop(flow);
                if late && !done && (owed || !patient) && named != Some(true) {
                    // An answer may still come, and nobody could tell whose it is.
                    self.leave("it is out of step", false);
                }
                return Ok(true);
            }
            if let Err(err) = writer.look_at_reader() {
                if !matches!(err, Error::ReaderReplaced { .. }) {
                    self.gone(&err.to_string());
                }
                return Ok(true);
            }
            if behind.unwrap_or(patience).is_some_and(|until| now >= until) {
                if behind.is_none() {
                    self.flow().worker.behind = Some(Some(Instant::now()));
                }
                return Ok(false);
            }
            looks += 1;
            let time = if looks < 100 { MOMENT } else { SLICE / 10 };
            if self.sending.interrupt.sleep(time) {
                return Err(Error::Interrupted);
            }
        }
    }

    /// Reads answers that nobody waits for.
    pub(super) fn take_surplus(&self) {
        for _ in 0..MOST_SURPLUS {
            match self.answers.next(Wait::no()) {
                Came::Answer(answer) => self.take(answer),
                Came::Other => {}
                Came::Gone(why) | Came::Broken(why) => {
                    // Before its first answer there is no ring that it could have left.
                    if self.answers.size().is_some() {
                        self.gone(&why);
                    }
                    return;
                }
                Came::NoRoom { bytes, err } => self.no_room(bytes, &err),
                Came::Nothing | Came::Interrupted => return,
            }
        }
    }

    /// Makes the ring of the answers, unless it is there.
    pub(super) fn open_answers(&self) -> Result<(), Error> {
        if self.answers.size().is_some() {
            return Ok(());
        }
        let [_, name] = self.buffer_names();
        let size = self.answers_size();
        let settings = self.settings().clone();
        let config = BufferConfig::new(METADATA_SIZE, size).with_permissions(settings.perms);
        let config = match settings.payload_size {
            0 => config.with_resizing(),
            _ => config,
        };
        self.answers.open(&name, config)
    }

    /// Bytes of the ring that answers like the frames need.
    pub(super) fn answers_size(&self) -> u64 {
        let (payload_size, max_in_flight) = {
            let settings = self.settings();
            (settings.payload_size, settings.max_in_flight)
        };
        let video = self.state().video.clone();
        let frames = u64::from(max_in_flight + MORE_FRAMES);
        match (payload_size, video) {
            (0, Some(video)) => ring_size(video.size() as u64, frames).max(LEAST_PAYLOAD_SIZE),
            (0, None) => OTHER_PAYLOAD_SIZE,
            (size, _) => size,
        }
    }

    /// Waits until no answer is due, and nobody waits for one.
    pub(super) fn wait_for_all(&self) -> Result<(), Error> {
        let mut flow = self.flow();
        while flow.under_way.is_waiting() || flow.reading {
            if flow.result.is_err() {
                return Err(Error::Interrupted);
            }
            flow = self.wait(flow);
        }
        flow.under_way.start_over();
        Ok(())
    }

    /// Before anything goes to the next worker: leaves the one that there was.
    fn leave_who_went(&self) -> Result<(), Error> {
        if self.flow().worker.gone.is_some() {
            self.wait_for_all()?;
            self.leave("it went away", true);
        }
        Ok(())
    }

    /// The end of the stream has gone out.
    pub(super) fn end(&self) {
        // One that is still there may be at frames that were not waited for.
        let gone = self.flow().worker.gone.is_some();
        self.leave("end of stream", gone);
        self.flow().ending = false;
        self.changed.notify_all();
    }

    /// Leaves the worker, of whom nothing is waited for. If it has not gone, it may still answer.
    pub(super) fn leave(&self, why: &str, gone: bool) {
        self.disconnect(why);
        self.rounds.end(self.answers.leave(gone));
        let mut flow = self.flow();
        flow.worker = Worker::default();
        flow.under_way.start_over();
    }

    pub(super) fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::log!(CAT, obj = pad, "{event:?}");
        self.follow_segment(&event);
        match event.view() {
            gst::EventView::FlushStart(_) => {
                self.stop_with(gst::FlowError::Flushing);
                let sent = self.src_pad.push_event(event);
                // It fails only where there is no task.
                let _ = self.src_pad.pause_task();
                return sent;
            }
            gst::EventView::FlushStop(_) => {
                let sent = self.src_pad.push_event(event);
                self.flushed();
                return sent && self.start().is_ok();
            }
            gst::EventView::Caps(caps) if !self.caps_changed(caps.caps()) => return false,
            gst::EventView::Segment(segment) => {
                *lock(&self.segment) = segment.segment().clone();
            }
            _ => {}
        }
        if !event.is_serialized() {
            return self.src_pad.push_event(event);
        }
        let mut flow = self.flow();
        // What comes behind the end of a stream begins the next one, when the worker is done with this.
        while (flow.ending || flow.under_way.len() >= MOST_EVENTS) && flow.result.is_ok() {
            flow = self.wait(flow);
        }
        if let Err(err) = flow.result {
            drop(flow);
            if event.type_() == gst::EventType::Eos {
                self.post_stopped(err);
                return false;
            }
            // Upstream is told with its next frame; that caps failed here would be another error.
            return event.is_sticky() && err != gst::FlowError::Flushing;
        }
        flow.ending = event.type_() == gst::EventType::Eos;
        flow.under_way.push_event(event);
        self.changed.notify_all();
        true
    }

    /// All that is under way is dropped. The worker may still be at it.
    pub(super) fn flushed(&self) {
        let patience = self.settings().patience();
        let mut flow = self.flow();
        if flow.under_way.is_waiting() {
            flow.worker.behind = Some(patience);
        }
        let events = flow.under_way.clear();
        flow.ending = false;
        drop(flow);
        let held = self.output().flush();
        for event in held.into_iter().chain(events) {
            match event.type_() {
                // The next segment waits for them.
                gst::EventType::Caps => self.output().hold_caps(event),
                // Upstream sends these two again.
                gst::EventType::Segment | gst::EventType::Eos => {}
                _ if event.is_sticky() => {
                    // A pad that is flushed once more takes none, and gets them again.
                    let _ = self.src_pad().store_sticky_event(&event);
                }
                _ => {}
            }
        }
        *lock(&self.segment) = gst::FormattedSegment::<gst::ClockTime>::new().upcast();
    }

    /// Frames have other caps from here on.
    pub(super) fn caps_changed(&self, caps: &gst::CapsRef) -> bool {
        if !self.is_sendable(caps) {
            gst::error!(CAT, imp = self, "These cannot be sent: {caps}");
            return false;
        }
        let (announced, told) = {
            let mut state = self.state();
            state.video = stream_info::raw_video(caps).map(Into::into);
            state.caps = Some(caps.to_owned());
            (state.announced, state.told.clone())
        };
        let changed = told.is_some_and(|told| *told != *caps);
        let Some(writer) = self.sending.link.get().filter(|_| announced && changed) else {
            return true;
        };
        let small = (self.answers.size()).is_some_and(|size| size < self.answers_size());
        // Only ends of ours are told new caps, and only a zerobuffersink asks for a larger ring.
        if !writer.carries_records() || small && !writer.can_request_size() {
            if self.wait_for_all().is_err() {
                return false;
            }
            self.leave("the caps changed", false);
        }
        true
    }

    pub(super) fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let is_serialized = query.is_serialized();
        match query.view_mut() {
            gst::QueryViewMut::AcceptCaps(accept) => {
                let sendable = self.is_sendable(accept.caps());
                accept.set_result(sendable);
                true
            }
            gst::QueryViewMut::Caps(query) => {
                let filter = query.filter_owned();
                let mut caps = self.sendable_caps(filter.as_ref());
                if let Some(filter) = filter.filter(|_| self.keeps_caps()) {
                    // As downstream would like it best, since the worker most likely keeps the caps.
                    let liked = self.src_pad.peer_query_caps(Some(&filter));
                    let taken = self.settings().frame_prefix.caps();
                    let mut liked = stream_info::in_plain_memory(&liked)
                        .intersect_with_mode(&taken, gst::CapsIntersectMode::First);
                    liked.merge(caps);
                    caps = liked;
                }
                query.set_result(&caps);
                true
            }
            gst::QueryViewMut::Allocation(query) => {
                if self.leave_who_went().is_err() || self.open_answers().is_err() {
                    // The first frame says why.
                    return false;
                }
                self.propose_pool(query).is_ok()
            }
            _ if is_serialized => {
                let mut flow = self.flow();
                // No query brings out what a worker keeps.
                while (flow.under_way.len() > 0 || flow.pushing || flow.reading)
                    && !self.is_kept(&flow)
                {
                    if flow.result.is_err() {
                        return false;
                    }
                    flow = self.wait_for(flow, SLICE);
                }
                drop(flow);
                self.src_pad.peer_query(query)
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// Whether the worker gives frames of the caps that it gets, as far as is known.
    pub(super) fn keeps_caps(&self) -> bool {
        let output = self.output();
        output
            .caps()
            .is_none_or(|caps| Some(caps) == self.state().told.as_ref())
    }
}
