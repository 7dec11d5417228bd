//! Frames that another process works on: each goes out as a request of a duplex channel, and comes
//! back as its answer.
//!
//! The worker makes the buffer `NAME_request`, this element makes `NAME_response`. A worker is a
//! pipeline from `zerobuffersrc` to `zerobuffersink`, a `DuplexServer` of the Rust library, or any
//! duplex server of ZeroBuffer in another language.
//!
//! Several frames may be at the worker at once (`max-in-flight`); answers leave in the order of their
//! frames, with their times, flags and metas. What happens to a frame that the worker does not answer,
//! because it is late, dead or not there, says `on-failure`.
//!
//! ## Example launch line
//!
//! ```bash
//! gst-launch-1.0 zerobuffersrc buffer-name=mirror_request ! videoflip method=horizontal-flip ! zerobuffersink buffer-name=mirror_response
//! gst-launch-1.0 videotestsrc ! video/x-raw,format=I420,width=1280,height=720 ! zerobufferfilter channel-name=mirror ! videoconvert ! autovideosink
//! ```

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;

use super::OnFailure;
use super::answers::{Answer, Answers, Came};
use super::output::Output;
use super::rounds::{self, Rounds};
use super::under_way::{Due, Failure, Item, Match, UnderWay};
use crate::element::{self, Connection, Counters};
use crate::frame_prefix::FramePrefix;
use crate::protocol::duplex::buffer_names;
use crate::protocol::{BufferConfig, Error, Wait, Writer, check_name, ring_size};
use crate::sending::{Policy, Sending, Sends, State, Stop, connection};
use crate::stream_info;
use crate::timing::Timeline;

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "zerobufferfilter",
        gst::DebugColorFlags::empty(),
        Some("ZeroBuffer filter"),
    )
});

const DEFAULT_TIMEOUT: gst::ClockTime = gst::ClockTime::from_seconds(30);
/// One that is worked on, one before and one behind it, and one that is drawn.
const DEFAULT_MAX_IN_FLIGHT: u32 = 4;
const MOST_IN_FLIGHT: u32 = 256;
const DEFAULT_LATENCY: gst::ClockTime = gst::ClockTime::from_mseconds(20);
const DEFAULT_PERMS: u32 = 0o600;
/// The ring of the answers, to measure.
const DEFAULT_PAYLOAD_SIZE: u64 = 0;
/// At least, and for what is no raw video.
const LEAST_PAYLOAD_SIZE: u64 = 1 << 20;
const OTHER_PAYLOAD_SIZE: u64 = 8 << 20;
/// Room for caps with the headers of a codec in them.
const METADATA_SIZE: u64 = 64 << 10;
/// Beside the frames that are in flight: one that is drawn, one on its way, one that is read.
const MORE_FRAMES: u32 = 3;

/// The longest sleep before somebody looks again at what cannot wake him.
const SLICE: Duration = Duration::from_millis(20);
/// The same, where the worker is about to be done.
const MOMENT: Duration = Duration::from_micros(100);
/// Frames that a pipeline may keep to itself (an encoder that looks ahead, videorate) beside those that
/// may be in flight: when it has taken all and gives nothing for so long, it gets one more.
const QUIET: Duration = Duration::from_millis(250);
const MOST_KEPT: usize = 64;
/// Events that may wait.
const MOST_EVENTS: usize = 1024;
/// Answers without a request that are read in one go.
const MOST_SURPLUS: usize = 1024;

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub channel_name: Option<String>,
    pub timeout: gst::ClockTime,
    max_in_flight: u32,
    pub on_failure: OnFailure,
    latency: gst::ClockTime,
    payload_size: u64,
    perms: u32,
    pub frame_prefix: FramePrefix,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            channel_name: None,
            timeout: DEFAULT_TIMEOUT,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            on_failure: OnFailure::default(),
            latency: DEFAULT_LATENCY,
            payload_size: DEFAULT_PAYLOAD_SIZE,
            perms: DEFAULT_PERMS,
            frame_prefix: FramePrefix::default(),
        }
    }
}

impl Settings {
    /// When a wait that begins now is over.
    fn patience(&self) -> Option<Instant> {
        let time = Some(Duration::from(self.timeout)).filter(|time| !time.is_zero())?;
        Instant::now().checked_add(time)
    }
}

/// A frame that came in.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub buffer: gst::Buffer,
    pub caps: gst::Caps,
}

/// Between the thread that sends requests and the one that waits for answers.
#[derive(Debug)]
struct Flow {
    under_way: UnderWay<Input, Answer, gst::Event>,
    /// What upstream is told.
    result: Result<gst::FlowSuccess, gst::FlowError>,
    /// The source pad's thread reads answers.
    reading: bool,
    /// It sends something on.
    pushing: bool,
    /// When the last answer came, or the first request behind it went out.
    quiet: Instant,
    /// What is known of the worker there is.
    worker: Worker,
}

#[derive(Debug)]
struct Worker {
    /// A number that no other connection has: a worker that outlives its client may still answer that
    /// one's requests.
    connection: u64,
    /// Its last answer named the request, or did not.
    named: Option<bool>,
    /// It does not name them, but keeps a request until it has answered it: it was seen to.
    holds: bool,
    /// An answer did not come in time, or was not waited for: nothing is sent until the worker has
    /// done with all requests. That is waited for until then, if it ends.
    behind: Option<Option<Instant>>,
    /// So many frames it seems to keep to itself.
    keeps: usize,
    /// It went away.
    gone: Option<String>,
    /// It was told that there are no more frames.
    ended: bool,
}

impl Default for Worker {
    fn default() -> Self {
        Worker {
            // Different with each call, and in each process.
            connection: RandomState::new().build_hasher().finish(),
            named: None,
            holds: false,
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
            quiet: Instant::now(),
            worker: Worker::default(),
        }
    }
}

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

#[derive(Debug)]
pub struct ZeroBufferFilter {
    sink_pad: gst::Pad,
    src_pad: gst::Pad,
    settings: Mutex<Settings>,
    sending: Sending,
    answers: Answers,
    flow: Mutex<Flow>,
    /// Told when that changes.
    changed: Condvar,
    output: Mutex<Output>,
    segment: Mutex<gst::Segment>,
    /// The frame that is being sent.
    asking: Mutex<Option<Input>>,
    pub(super) rounds: Rounds,
}

#[glib::object_subclass]
impl ObjectSubclass for ZeroBufferFilter {
    const NAME: &'static str = "GstZeroBufferFilter";
    type Type = super::ZeroBufferFilter;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let pad = |name| {
            let template = class.pad_template(name);
            // Both are made in class_init.
            template.map(|template| gst::Pad::builder_from_template(&template))
        };
        let failed = || gst::loggable_error!(CAT, "it panicked");
        let sink_pad = pad("sink").map(|pad| {
            pad.chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |filter| filter.chain(buffer),
                )
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(
                    parent,
                    || false,
                    |filter| filter.sink_event(pad, event),
                )
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(
                    parent,
                    || false,
                    |filter| filter.sink_query(pad, query),
                )
            })
            .activatemode_function(move |_, parent, mode, active| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(failed()),
                    |filter| filter.activate_sink(mode, active),
                )
            })
            .build()
        });
        let src_pad = pad("src").map(|pad| {
            pad.query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(
                    parent,
                    || false,
                    |filter| filter.src_query(pad, query),
                )
            })
            .activatemode_function(move |_, parent, mode, active| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(failed()),
                    |filter| filter.activate_src(mode, active),
                )
            })
            .build()
        });
        ZeroBufferFilter {
            sink_pad: sink_pad.unwrap_or_else(|| gst::Pad::new(gst::PadDirection::Sink)),
            src_pad: src_pad.unwrap_or_else(|| gst::Pad::new(gst::PadDirection::Src)),
            settings: Mutex::default(),
            sending: Sending::default(),
            answers: Answers::default(),
            flow: Mutex::default(),
            changed: Condvar::new(),
            output: Mutex::default(),
            segment: Mutex::new(gst::FormattedSegment::<gst::ClockTime>::new().upcast()),
            asking: Mutex::default(),
            rounds: Rounds::default(),
        }
    }
}

impl ObjectImpl for ZeroBufferFilter {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecString::builder("channel-name")
                    .nick("Channel name")
                    .blurb(
                        "Name of the duplex channel, the same as at the worker, whose buffers are \
                         NAME_request and NAME_response: 1 to 236 bytes, no slash, not starting \
                         with 'sem.'",
                    )
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt64::builder("timeout")
                    .nick("Timeout")
                    .blurb(
                        "Longest wait for the answer to a frame, for room for a request, and with \
                         on-failure=error for a worker, in nanoseconds (0 = without end)",
                    )
                    .default_value(DEFAULT_TIMEOUT.nseconds())
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("max-in-flight")
                    .nick("Maximum in flight")
                    .blurb(
                        "How many frames may be at the worker at once: more let it work without a \
                         break, and wait longer if it is slow. A worker that does not say which \
                         frame it answers (any of another implementation) gets one at a time",
                    )
                    .minimum(1)
                    .maximum(MOST_IN_FLIGHT)
                    .default_value(DEFAULT_MAX_IN_FLIGHT)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("on-failure", OnFailure::default())
                    .nick("On failure")
                    .blurb(
                        "What happens to a frame that the worker does not answer, because it is \
                         late, dead or not there, or has passed the frame over",
                    )
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt64::builder("latency")
                    .nick("Latency")
                    .blurb(
                        "Nanoseconds that the worker may take for a frame; sinks of a live \
                         pipeline wait so much longer, and then show none too late",
                    )
                    .default_value(DEFAULT_LATENCY.nseconds())
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt64::builder("payload-size")
                    .nick("Payload size")
                    .blurb(
                        "Bytes of the ring of the answers, all reserved in /dev/shm (0 = what \
                         answers as large as the frames need, and what a zerobuffersink asks for)",
                    )
                    .default_value(DEFAULT_PAYLOAD_SIZE)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("perms")
                    .nick("Permissions")
                    .blurb(
                        "Permissions of the ring of the answers, whatever the umask (0600: only \
                         this user; 0666: all users); the owner must be able to read and write",
                    )
                    .maximum(0o777)
                    .default_value(DEFAULT_PERMS)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("timeout-ms")
                    .nick("Timeout in milliseconds")
                    .blurb("The property timeout in milliseconds, as RocketWelder's elements have it")
                    .default_value(DEFAULT_TIMEOUT.mseconds() as u32)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("frame-prefix", FramePrefix::default())
                    .nick("Frame prefix")
                    .blurb(
                        "What is in front of the pixels of each request; with rocket-welder only \
                         raw video in formats that its SDK reads is taken, and rows have no padding",
                    )
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb(rounds::STATS_BLURB)
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let time = |value: &glib::Value| {
            gst::ClockTime::from_nseconds(value.get::<u64>().unwrap_or_default())
        };
        {
            let mut settings = self.settings();
            // GObject has checked types and ranges.
            match pspec.name() {
                "channel-name" => settings.channel_name = value.get().unwrap_or_default(),
                "timeout" => settings.timeout = time(value),
                "max-in-flight" => {
                    settings.max_in_flight = value.get().unwrap_or(DEFAULT_MAX_IN_FLIGHT);
                }
                "on-failure" => settings.on_failure = value.get().unwrap_or_default(),
                "payload-size" => settings.payload_size = value.get().unwrap_or_default(),
                "perms" => settings.perms = value.get().unwrap_or(DEFAULT_PERMS),
                "latency" => settings.latency = time(value),
                "timeout-ms" => {
                    let ms: u32 = value.get().unwrap_or_default();
                    settings.timeout = gst::ClockTime::from_mseconds(ms.into());
                }
                "frame-prefix" => settings.frame_prefix = value.get().unwrap_or_default(),
                _ => {}
            }
        }
        if pspec.name() == "latency" {
            let message = gst::message::Latency::builder().src(&*self.obj()).build();
            let _ = self.obj().post_message(message);
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = self.settings();
        match pspec.name() {
            "channel-name" => settings.channel_name.to_value(),
            "timeout" => settings.timeout.nseconds().to_value(),
            "max-in-flight" => settings.max_in_flight.to_value(),
            "on-failure" => settings.on_failure.to_value(),
            "latency" => settings.latency.nseconds().to_value(),
            "payload-size" => settings.payload_size.to_value(),
            "perms" => settings.perms.to_value(),
            "timeout-ms" => u32::try_from(settings.timeout.mseconds())
                .unwrap_or(u32::MAX)
                .to_value(),
            "frame-prefix" => settings.frame_prefix.to_value(),
            _ => self.stats().to_value(),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in [&self.sink_pad, &self.src_pad] {
            // A new element has no pad of that name.
            let _ = obj.add_pad(pad);
        }
    }
}

impl GstObjectImpl for ZeroBufferFilter {}

impl ElementImpl for ZeroBufferFilter {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "ZeroBuffer filter",
                "Filter/Video",
                "Has frames worked on by another process, through two ZeroBuffer rings in shared \
                 memory; the worker there is a pipeline from zerobuffersrc to zerobuffersink or \
                 any ZeroBuffer duplex server",
                "The gst-plugin-zerobuffer developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let template = |name, direction| {
                gst::PadTemplate::new(
                    name,
                    direction,
                    gst::PadPresence::Always,
                    &gst::Caps::new_any(),
                )
                .ok()
            };
            [
                template("sink", gst::PadDirection::Sink),
                template("src", gst::PadDirection::Src),
            ]
            .into_iter()
            .flatten()
            .collect()
        });
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            if let Err(message) = self.check() {
                self.post_error_message(message);
                return Err(gst::StateChangeError);
            }
            self.rounds.reset();
            self.sending.counters.reset();
        }
        let changed = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            // Both pads are still.
            self.close();
        }
        Ok(changed)
    }
}

impl Sends for ZeroBufferFilter {
    fn category() -> gst::DebugCategory {
        *CAT
    }

    fn sending(&self) -> &Sending {
        &self.sending
    }

    fn buffer_name(&self) -> String {
        let [requests, _] = self.buffer_names();
        requests
    }

    fn policy(&self) -> Policy {
        let settings = self.settings();
        Policy {
            wait_for_connection: settings.on_failure == OnFailure::Error,
            wait_for_room: true,
            timeout: settings.timeout,
            frames: settings.max_in_flight + MORE_FRAMES,
            frame_prefix: settings.frame_prefix,
        }
    }

    fn input(&self) -> gst::Pad {
        self.sink_pad.clone()
    }

    fn monotonic(&self, time: gst::ClockTime) -> Option<u64> {
        let running = {
            let segment = lock(&self.segment);
            let segment = segment.downcast_ref::<gst::ClockTime>()?;
            segment.to_running_time_full(time)?
        };
        Timeline::of(&*self.obj())?.monotonic(running)
    }

    fn publish(&self, publish: &mut dyn FnMut() -> Result<u64, Error>) -> Result<u64, Error> {
        // With the lock held: its answer does not come before it is known.
        let mut flow = self.flow();
        let number = publish()?;
        if let Some(input) = lock(&self.asking).take() {
            let at = Instant::now();
            if !flow.under_way.is_waiting() {
                flow.quiet = at;
            }
            flow.under_way.push_frame(input, Due::Sent { number, at });
            self.changed.notify_all();
        }
        Ok(number)
    }

    fn connection(&self) -> Option<u64> {
        Some(self.flow().worker.connection)
    }

    fn settle(&self) -> Result<(), Error> {
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

    fn reader_came(&self) {
        Counters::add(&self.rounds.workers, 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ZeroBufferFilter {
    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    pub(super) fn output(&self) -> MutexGuard<'_, Output> {
        lock(&self.output)
    }

    pub(super) fn src_pad(&self) -> &gst::Pad {
        &self.src_pad
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        lock(&self.flow)
    }

    fn wait<'a>(&self, flow: MutexGuard<'a, Flow>) -> MutexGuard<'a, Flow> {
        (self.changed.wait(flow)).unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for<'a>(&self, flow: MutexGuard<'a, Flow>, time: Duration) -> MutexGuard<'a, Flow> {
        let waited = self.changed.wait_timeout(flow, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn buffer_names(&self) -> [String; 2] {
        buffer_names(self.settings().channel_name.as_deref().unwrap_or_default())
    }

    fn check(&self) -> Result<(), gst::ErrorMessage> {
        if self.settings().channel_name.is_none() {
            return Err(gst::error_msg!(
                gst::ResourceError::Settings,
                ("No channel name: set the property channel-name, the same as at the worker")
            ));
        }
        for name in self.buffer_names() {
            check_name(&name).map_err(|err| element::message(&err))?;
        }
        Ok(())
    }

    fn stats(&self) -> gst::Structure {
        let writer = self.sending.link.get();
        let asking = writer.map_or(Connection::default(), |writer| connection(&writer));
        let answering = self.answers.connection();
        self.rounds
            .structure(&self.sending.counters, asking, answering)
    }
}

/// Starting and stopping.
impl ZeroBufferFilter {
    fn activate_sink(&self, mode: gst::PadMode, active: bool) -> Result<(), gst::LoggableError> {
        if mode == gst::PadMode::Pull {
            return Err(gst::loggable_error!(CAT, "it cannot be pulled from"));
        }
        if !active {
            self.stop_with(gst::FlowError::Flushing);
        }
        Ok(())
    }

    fn activate_src(&self, mode: gst::PadMode, active: bool) -> Result<(), gst::LoggableError> {
        if mode == gst::PadMode::Pull {
            return Err(gst::loggable_error!(CAT, "it cannot be pulled from"));
        }
        if active {
            *self.output() = Output::default();
            self.start()?;
        } else {
            self.stop_with(gst::FlowError::Flushing);
            self.src_pad
                .stop_task()
                .map_err(|err| gst::loggable_error!(CAT, "{err}"))?;
        }
        Ok(())
    }

    /// Lets frames in and answers out.
    fn start(&self) -> Result<(), gst::LoggableError> {
        {
            let mut flow = self.flow();
            flow.result = Ok(gst::FlowSuccess::Ok);
            flow.reading = false;
            flow.pushing = false;
        }
        self.sending.interrupt.clear();
        let weak = self.downgrade();
        let task = move || {
            if let Some(filter) = weak.upgrade() {
                filter.work();
            }
        };
        (self.src_pad.start_task(task)).map_err(|err| gst::loggable_error!(CAT, "{err}"))
    }

    /// Ends all waits; nothing goes in or out any more.
    pub(super) fn stop_with(&self, err: gst::FlowError) {
        let ended = {
            let mut flow = self.flow();
            let first = flow.result.is_ok();
            if first || err == gst::FlowError::Flushing {
                flow.result = Err(err);
            }
            let is_eos = |event: &gst::Event| event.type_() == gst::EventType::Eos;
            first && flow.under_way.events().any(is_eos)
        };
        self.sending.interrupt.set();
        self.changed.notify_all();
        if ended && !matches!(err, gst::FlowError::Flushing | gst::FlowError::Eos) {
            // Upstream is done, and will not notice.
            gst::element_imp_error!(
                self,
                gst::StreamError::Failed,
                ("Internal data stream error"),
                ["stream stopped: {err}"]
            );
        }
    }

    /// Forgets everything. Both pads are still.
    fn close(&self) {
        self.disconnect("stopped");
        self.rounds.end(self.answers.close());
        *self.flow() = Flow::default();
        *self.state() = State::default();
        *self.output() = Output::default();
        *lock(&self.asking) = None;
    }
}

/// What comes in.
impl ZeroBufferFilter {
    fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
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

    fn put(&self, input: Input, due: Due<Answer>) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut flow = self.flow();
        flow.result?;
        flow.under_way.push_frame(input, due);
        self.changed.notify_all();
        Ok(gst::FlowSuccess::Ok)
    }

    /// Waits until another frame may be under way.
    fn wait_for_turn(&self) -> Result<(), gst::FlowError> {
        let mut flow = self.flow();
        loop {
            flow.result?;
            let frames = flow.under_way.frames();
            let writer = self.sending.link.get();
            let names = writer
                .as_ref()
                .is_none_or(|writer| names(writer, &flow.worker));
            let most = match names {
                true => self.settings().max_in_flight as usize + flow.worker.keeps,
                false => 1,
            };
            if frames < most {
                return Ok(());
            }
            flow = self.wait_for(flow, SLICE);
            // A pipeline that has taken all frames and gives none back may need the next one for that,
            // or has dropped them, which its next answer tells.
            let kept = flow.worker.keeps < MOST_KEPT
                && flow.under_way.frames() == frames
                && flow.reading
                && flow.quiet.elapsed() >= QUIET.max(2 * self.rounds.least())
                && writer.is_some_and(|writer| is_pipeline(&writer) && writer.is_all_read());
            if kept {
                flow.worker.keeps += 1;
                flow.quiet = Instant::now();
            }
        }
    }

    /// Sends a frame as a request; says if that failed in a way that `on-failure` is for.
    fn ask(&self, input: &Input) -> Result<Option<Failure>, Trouble> {
        let number = self.next_number();
        loop {
            if self.flow().worker.gone.is_some() {
                self.settle()?;
                self.leave("it went away", true);
            }
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
    fn is_in_step(&self) -> Result<bool, Error> {
        let Some(writer) = self.sending.link.get() else {
            return Ok(true);
        };
        let patience = self.settings().patience();
        let mut looks = 0;
        loop {
            let flow = self.flow();
            if flow.result.is_err() {
                return Err(Error::Interrupted);
            }
            if flow.worker.gone.is_some() {
                return Ok(true);
            }
            let names = names(&writer, &flow.worker);
            let idle = !flow.under_way.is_waiting() && !flow.reading;
            let (behind, named) = (flow.worker.behind, flow.worker.named);
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
            if !names && idle && given_back {
                let mut flow = self.flow();
                let late = flow.worker.behind.take().is_some();
                let holds = flow.worker.holds;
                drop(flow);
                if late && !holds && named != Some(true) {
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
            if behind
                .unwrap_or(patience)
                .is_some_and(|until| Instant::now() >= until)
            {
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
    fn take_surplus(&self) {
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
    fn open_answers(&self) -> Result<(), Error> {
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
    fn answers_size(&self) -> u64 {
        let settings = self.settings().clone();
        let video = self.state().video.clone();
        let frames = u64::from(settings.max_in_flight + MORE_FRAMES);
        match (settings.payload_size, video) {
            (0, Some(video)) => ring_size(video.size() as u64, frames).max(LEAST_PAYLOAD_SIZE),
            (0, None) => OTHER_PAYLOAD_SIZE,
            (size, _) => size,
        }
    }

    /// Leaves the worker, of whom nothing is waited for. If it has not gone, it may still answer.
    fn leave(&self, why: &str, gone: bool) {
        self.disconnect(why);
        self.rounds.end(self.answers.leave(gone));
        let mut flow = self.flow();
        flow.worker = Worker::default();
        flow.under_way.start_over();
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::log!(CAT, obj = pad, "{event:?}");
        match event.view() {
            gst::EventView::FlushStart(_) => {
                self.stop_with(gst::FlowError::Flushing);
                let sent = self.src_pad.push_event(event);
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
        while flow.under_way.len() >= MOST_EVENTS && flow.result.is_ok() {
            flow = self.wait(flow);
        }
        if flow.result.is_err() {
            return false;
        }
        flow.under_way.push_event(event);
        self.changed.notify_all();
        true
    }

    /// All that is under way is dropped. The worker may still be at it.
    fn flushed(&self) {
        let patience = self.settings().patience();
        let mut flow = self.flow();
        if flow.under_way.is_waiting() {
            flow.worker.behind = Some(patience);
        }
        flow.under_way.clear();
        drop(flow);
        let mut output = self.output();
        output.flush();
        *lock(&self.segment) = gst::FormattedSegment::<gst::ClockTime>::new().upcast();
    }

    /// Frames have other caps from here on.
    fn caps_changed(&self, caps: &gst::CapsRef) -> bool {
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
            if self.settle().is_err() {
                return false;
            }
            self.leave("the caps changed", false);
        }
        true
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
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
                if self.open_answers().is_err() {
                    // The first frame says why.
                    return false;
                }
                self.propose_pool(query).is_ok()
            }
            _ if is_serialized => {
                let mut flow = self.flow();
                while flow.under_way.len() > 0 || flow.pushing || flow.reading {
                    if flow.result.is_err() {
                        return false;
                    }
                    flow = self.wait(flow);
                }
                drop(flow);
                self.src_pad.peer_query(query)
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// Whether the worker gives frames of the caps that it gets, as far as is known.
    fn keeps_caps(&self) -> bool {
        let output = self.output();
        output
            .caps()
            .is_none_or(|caps| Some(caps) == self.state().told.as_ref())
    }
}

/// Whether a worker says which request it answers, as far as is known: ours do.
fn names(writer: &Writer, worker: &Worker) -> bool {
    worker.named.unwrap_or_else(|| writer.carries_records())
}

/// Whether the worker is a pipeline, which takes no harm when there are no more frames while some have
/// no answer yet, and may need that to give it.
fn is_pipeline(writer: &Writer) -> bool {
    writer.can_request_size()
}

/// What goes out.
impl ZeroBufferFilter {
    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
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
    fn work(&self) {
        let next = {
            let mut flow = self.flow();
            flow.reading = false;
            flow.pushing = false;
            self.changed.notify_all();
            loop {
                if flow.result.is_err() {
                    drop(flow);
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
                        break Err(at);
                    }
                }
            }
        };
        match next {
            Err(at) => self.read_answer(at),
            Ok(Item::Event(event)) => {
                let ends = event.type_() == gst::EventType::Eos;
                self.forward(event);
                if ends {
                    self.leave("end of stream", true);
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

    /// Waits a while for the answer to the oldest request, which went out `at`.
    fn read_answer(&self, at: Instant) {
        let timeout = Duration::from(self.settings().timeout);
        let left = (!timeout.is_zero()).then(|| timeout.saturating_sub(at.elapsed()));
        let slice = left.map_or(SLICE, |left| left.min(SLICE));
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
    fn take(&self, answer: Answer) {
        let number = answer.frame.records().answer();
        // Asked when it is here: who has not given its request back answers before it does so.
        let writer = self.sending.link.get();
        let held = writer.is_some_and(|writer| !writer.is_all_given_back());
        let connection = answer.frame.records().answer_connection();
        let mut flow = self.flow();
        flow.quiet = Instant::now();
        if connection.is_some_and(|connection| connection != flow.worker.connection) {
            gst::debug!(
                CAT,
                imp = self,
                "The answer to a request of a client before"
            );
            return;
        }
        flow.worker.named = Some(number.is_some());
        flow.worker.holds |= number.is_none() && held;
        match flow.under_way.answer(number, answer, Instant::now()) {
            Match::Frame { skipped } => {
                // These it did not keep.
                let skips = usize::try_from(skipped).unwrap_or(usize::MAX);
                flow.worker.keeps = flow.worker.keeps.saturating_sub(skips);
                Counters::add(&self.rounds.skipped, skipped);
            }
            // It has been counted as late.
            Match::Late => gst::debug!(CAT, imp = self, "The answer to {number:?} came too late"),
            Match::Nobodys => {
                gst::debug!(CAT, imp = self, "An answer too many, to {number:?}");
                Counters::add(&self.rounds.doubled, 1);
            }
        }
    }

    /// No answer is there; for some time, or for too long.
    fn nothing_came(&self, is_over: bool) {
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
        if given_back && flow.worker.holds && flow.worker.named == Some(false) {
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
    fn gone(&self, why: &str) {
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

    fn no_room(&self, bytes: u64, err: &Error) {
        gst::element_imp_warning!(
            self,
            gst::ResourceError::NoSpaceLeft,
            ("The worker asks for a ring of {bytes} bytes, which cannot be made"),
            ["{err}"]
        );
    }
}
