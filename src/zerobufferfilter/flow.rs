//! What the two threads of the filter share: what is under way, and what is known of the worker.

use std::time::{Duration, Instant};

use gstreamer as gst;

use super::answers::Answer;
use super::under_way::UnderWay;
use crate::protocol::Writer;
use crate::protocol::duplex::new_connection;

/// How many answers of a worker are watched closely.
const FIRST_ANSWERS: u32 = 16;
/// A worker answers and gives back at one go, in whichever order, if in between was never seen. Then
/// so long between the two says that there will be no answer.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A frame that came in.
#[derive(Clone, Debug)]
pub struct Input {
    pub buffer: gst::Buffer,
    pub caps: gst::Caps,
}

/// Between the thread that sends requests and the one that waits for answers.
#[derive(Debug)]
pub struct Flow {
    pub under_way: UnderWay<Input, Answer, gst::Event>,
    /// What upstream is told.
    pub result: Result<gst::FlowSuccess, gst::FlowError>,
    /// The source pad's thread reads answers.
    pub reading: bool,
    /// It sends something on.
    pub pushing: bool,
    /// The end of the stream came in, and has not gone out yet.
    pub ending: bool,
    /// When the last answer came, or the first request behind it went out.
    pub quiet: Instant,
    /// What is known of the worker there is.
    pub worker: Worker,
}

#[derive(Debug)]
pub struct Worker {
    /// A number that no other connection has: a worker that outlives its client may still answer that
    /// one's requests.
    pub connection: u64,
    /// Its last answer named the request, or did not.
    pub named: Option<bool>,
    /// And the connection.
    pub tells_connection: bool,
    /// It does not name them, but keeps a request until it has answered it: it was seen to.
    pub holds: bool,
    /// It was seen to give a request back, and to answer it after that.
    pub gives_back_first: bool,
    /// Since when the request that is due is seen to be given back, with no answer there.
    pub unanswered: Option<Instant>,
    /// How many answers named no request.
    pub unnamed: u32,
    /// It keeps the last request until it gets another one.
    pub keeps_last: bool,
    /// An answer did not come in time, or was not waited for: nothing is sent until the worker has
    /// done with all requests. That is waited for until then, if it ends.
    pub behind: Option<Option<Instant>>,
    /// So many frames it seems to keep to itself.
    pub keeps: usize,
    /// It went away.
    pub gone: Option<String>,
    /// It was told that there are no more frames.
    pub ended: bool,
}

impl Worker {
    /// Whether it still has to be found out in which order it answers and gives back, for which one
    /// has to look now and then while it is at work.
    pub fn is_new(&self) -> bool {
        self.named != Some(true) && !self.holds && self.unnamed < FIRST_ANSWERS
    }

    /// Whether it has skipped a request that it has given back by now, without an answer that could be
    /// read after that.
    pub fn has_skipped(&mut self, writer: Option<&Writer>) -> bool {
        let since = self.unanswered.get_or_insert_with(Instant::now).elapsed();
        // Without an answer of its there is nothing to go by.
        if self.named != Some(false) {
            return false;
        }
        // Not one of ours: an application may well leave out the record.
        let is_v1 = writer.is_some_and(|writer| !writer.carries_records());
        self.holds || (is_v1 && !self.gives_back_first && since >= AT_ONCE)
    }
}

impl Default for Worker {
    fn default() -> Self {
        Worker {
            connection: new_connection(),
            named: None,
            tells_connection: false,
            holds: false,
            gives_back_first: false,
            unanswered: None,
            unnamed: 0,
            keeps_last: false,
            behind: None,
            keeps: 0,
            gone: None,
            ended: false,
        }
    }
}

impl Default for Flow {
    fn default() -> Self {
        Flow {
            under_way: UnderWay::default(),
            result: Err(gst::FlowError::Flushing),
            reading: false,
            pushing: false,
            ending: false,
            quiet: Instant::now(),
            worker: Worker::default(),
        }
    }
}

/// Whether a worker says which request it answers, as far as is known: our servers do, and pipelines
/// whose elements keep the mark of the request.
pub fn names(writer: &Writer, worker: &Worker) -> bool {
    (worker.named).unwrap_or_else(|| writer.carries_records() && !is_pipeline(writer))
}

/// Whether the worker is a pipeline, which takes no harm when there are no more frames while some have
/// no answer yet, and may need that to give it.
pub fn is_pipeline(writer: &Writer) -> bool {
    writer.can_request_size()
}
