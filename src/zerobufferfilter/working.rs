//! The source pad's thread: it sends on what has its answer, and waits for those that are due.

use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;

use super::answers::{Answer, Came};
use super::flow::is_pipeline;
use super::imp::{CAT, SLICE, ZeroBufferFilter};
use super::under_way::{Failure, Item, Match, Name};
use crate::element::Counters;
use crate::protocol::{Error, Wait};
use crate::sending::Connecting;

/// How soon a new worker is looked at.
const LEAST_SLICE: Duration = Duration::from_millis(1);

/// What goes out.
impl ZeroBufferFilter {
    pub(super) fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Latency(latency) = query.view_mut() {
            let mut upstream = gst::query::Latency::new();
            if !self.sink_pad.peer_query(&mut upstream) {
                return false;
            }
            let (live, least, most) = upstream.result();
            let ours = self.settings().latency;
            latency.set(live, least + ours, most.map(|most| most + ours));
            return true;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    /// One step of the source pad's thread.
    pub(super) fn work(&self) {
        let next = {
            let mut flow = self.flow();
            flow.reading = false;
            flow.pushing = false;
            self.changed.notify_all();
            loop {
                if flow.result.is_err() {
                    drop(flow);
                    // It is this one.
                    let _ = self.src_pad.pause_task();
                    return;
                }
                match flow.under_way.next() {
                    Ok(Some(item)) => {
                        flow.pushing = true;
                        break Ok(item);
                    }
                    Ok(None) => flow = self.wait(flow),
                    Err(at) => {
                        flow.reading = true;
                        break Err((at, flow.worker.is_new()));
                    }
                }
            }
        };
        match next {
            Err((at, closely)) => self.read_answer(at, closely),
            Ok(Item::Event(event)) => {
                let ends = event.type_() == gst::EventType::Eos;
                self.forward(event);
                if ends {
                    self.end();
                }
            }
            Ok(Item::Frame(input, due)) => {
                if let Err(err) = self.finish(input, due) {
                    gst::debug!(CAT, imp = self, "Stopping: {err}");
                    self.stop_with(err);
                }
            }
        }
    }

    /// Waits a while for the answer to the oldest request, which went out `at`; `closely` if it matters
    /// what is there before it.
    pub(super) fn read_answer(&self, at: Instant, closely: bool) {
        let timeout = Duration::from(self.settings().timeout);
        let left = (!timeout.is_zero()).then(|| timeout.saturating_sub(at.elapsed()));
        // At twice the time each time.
        let slice = match closely {
            true => at.elapsed().clamp(LEAST_SLICE, SLICE),
            false => SLICE,
        };
        let slice = left.map_or(slice, |left| left.min(slice));
        let wait = Wait::from(slice).interrupted_by(&self.sending.interrupt);
        match self.answers.next(wait) {
            Came::Answer(answer) => self.take(answer),
            Came::Other | Came::Interrupted => {}
            Came::Gone(why) | Came::Broken(why) => self.gone(&why),
            Came::NoRoom { bytes, err } => self.no_room(bytes, &err),
            Came::Nothing => {
                let is_over = left.is_some_and(|left| left.is_zero());
                self.nothing_came(is_over);
            }
        }
    }

    /// An answer came.
    pub(super) fn take(&self, answer: Answer) {
        let number = answer.frame.records().answer();
        // Asked when it is here: who has not given its request back answers before it does so.
        let writer = self.sending.link.get();
        let held = writer.is_some_and(|writer| !writer.is_all_given_back());
        let connection = answer.frame.records().answer_connection();
        // Beside the one that is due these may be under way anyhow, and are not kept.
        let others = self.settings().max_in_flight.saturating_sub(1) as usize;
        let mut flow = self.flow();
        flow.quiet = Instant::now();
        let name = number.map(|number| (connection.unwrap_or(flow.worker.connection), number));
        let is_ours = |name: Name| name.0 == flow.worker.connection || flow.under_way.knows(name);
        if name.is_some_and(|name| !is_ours(name)) {
            gst::debug!(
                CAT,
                imp = self,
                "The answer to a request of a client before"
            );
            return;
        }
        if number.is_some() && flow.worker.named.is_none() {
            flow.worker.keeps = flow.worker.keeps.saturating_sub(others);
        }
        flow.worker.named = Some(number.is_some());
        flow.worker.tells_connection = connection.is_some();
        // With several under way it may be the others that it has not given back.
        let holds = held && flow.under_way.is_one_waiting();
        flow.worker.holds |= number.is_none() && holds;
        let late = flow.worker.unanswered.take().is_some();
        flow.worker.gives_back_first |= number.is_none() && late;
        flow.worker.unnamed += u32::from(number.is_none() && flow.worker.is_new());
        match flow.under_way.answer(name, answer, Instant::now()) {
            Match::Frame { skipped } => {
                // These it did not keep.
                let skips = usize::try_from(skipped).unwrap_or(usize::MAX);
                flow.worker.keeps = flow.worker.keeps.saturating_sub(skips);
                // Nor more than have none now. One of these comes out when the next one goes in.
                let kept = flow.under_way.waiting().saturating_sub(others);
                flow.worker.keeps = flow.worker.keeps.min(kept);
                Counters::add(&self.rounds.skipped, skipped);
            }
            // It has been counted as late.
            Match::Late => gst::debug!(CAT, imp = self, "The answer to {number:?} came too late"),
            Match::Nobodys => {
                gst::debug!(CAT, imp = self, "An answer too many, to {number:?}");
                Counters::add(&self.rounds.doubled, 1);
            }
            Match::Unclear => {
                gst::debug!(
                    CAT,
                    imp = self,
                    "It does not say to which frame an answer belongs"
                );
                let skipped = flow.under_way.fail_all(&Failure::Skipped);
                flow.worker.behind = Some(self.settings().patience());
                flow.worker.holds = false;
                Counters::add(&self.rounds.skipped, skipped);
            }
        }
    }

    /// No answer is there; for some time, or for too long.
    pub(super) fn nothing_came(&self, is_over: bool) {
        let writer = self.sending.link.get();
        let given_back = writer
            .as_ref()
            .is_none_or(|writer| writer.is_all_given_back());
        let gone = writer
            .as_ref()
            .and_then(|writer| writer.look_at_reader().err());
        // What came before either of that.
        match self.answers.next(Wait::no()) {
            Came::Nothing => {}
            Came::Answer(answer) => return self.take(answer),
            Came::Gone(why) | Came::Broken(why) => return self.gone(&why),
            _ => return,
        }
        if let Some(err) = gone.filter(|err| !matches!(err, Error::ReaderReplaced { .. })) {
            return self.gone(&err.to_string());
        }
        let mut flow = self.flow();
        if given_back && flow.worker.has_skipped(writer.as_deref()) {
            let skipped = flow.under_way.fail_all(&Failure::Skipped);
            flow.under_way.start_over();
            Counters::add(&self.rounds.skipped, skipped);
            return;
        }
        if is_over {
            flow.under_way.fail_oldest(Failure::Late);
            flow.worker.behind = Some(Some(Instant::now()));
            Counters::add(&self.rounds.late, 1);
            return;
        }
        // Some workers keep frames until they know that there are no more.
        let ends = (flow.under_way.events()).any(|event| event.type_() == gst::EventType::Eos);
        if ends && writer.is_some_and(|writer| is_pipeline(&writer) && writer.is_all_read()) {
            flow.worker.ended = true;
            drop(flow);
            self.disconnect("end of stream");
        }
    }

    /// The worker is not there any more, or cannot be followed.
    pub(super) fn gone(&self, why: &str) {
        let mut flow = self.flow();
        let ended = flow.worker.ended;
        let failure = match ended {
            true => Failure::Skipped,
            false => Failure::Gone(why.into()),
        };
        let failed = flow.under_way.fail_all(&failure);
        flow.worker.gone = Some(why.into());
        self.changed.notify_all();
        drop(flow);
        gst::info!(CAT, imp = self, "The worker is gone: {why}");
        let counter = match ended {
            true => &self.rounds.skipped,
            false => &self.rounds.lost,
        };
        Counters::add(counter, failed);
    }

    pub(super) fn no_room(&self, bytes: u64, err: &Error) {
        gst::element_imp_warning!(
            self,
            gst::ResourceError::NoSpaceLeft,
            ("The worker asks for a ring of {bytes} bytes, which cannot be made"),
            ["{err}"]
        );
    }
}
