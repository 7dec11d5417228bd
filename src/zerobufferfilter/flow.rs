//! What the two threads of the filter share: what is under way, and what is known of the worker.

use std::time::Instant;

use gstreamer as gst;

use super::answers::Answer;
use super::under_way::UnderWay;
use crate::protocol::Writer;
use crate::protocol::duplex::new_connection;

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

impl Default for Worker {
    fn default() -> Self {
        Worker {
            connection: new_connection(),
            named: None,
            tells_connection: false,
            holds: false,
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
