/**
 * SECTION:element-zerobufferfilter
 * @see_also: zerobuffersrc, zerobuffersink
 *
 * Frames that another process works on: each goes out as a request of a duplex channel, and comes
 * back as its answer.
 *
 * The worker makes the buffer `NAME_request`, this element makes `NAME_response`. A worker is a
 * pipeline from `zerobuffersrc` to `zerobuffersink`, a `DuplexServer` of the Rust library, or any
 * duplex server of ZeroBuffer in another language.
 *
 * Several frames may be at the worker at once (`max-in-flight`); answers leave in the order of their
 * frames, with their times, flags and metas. What happens to a frame that the worker does not answer,
 * because it is late, dead or not there, says `on-failure`.
 *
 * ## Example launch line
 *
 * ```bash
 * gst-launch-1.0 zerobuffersrc buffer-name=mirror_request ! videoflip video-direction=horiz ! zerobuffersink buffer-name=mirror_response
 * gst-launch-1.0 videotestsrc ! video/x-raw,format=I420,width=1280,height=720 ! zerobufferfilter channel-name=mirror ! videoconvert ! autovideosink
 * ```
 *
 * Since: 0.1
 */
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;

use super::OnFailure;
use super::answers::Answers;
use super::flow::{Flow, Input};
use super::output::Output;
use super::rounds::{self, Rounds};
use super::under_way::Due;
use crate::element::{self, Connection, Counters};
use crate::frame_prefix::FramePrefix;
use crate::protocol::duplex::{buffer_names, new_connection};
use crate::protocol::{Error, Writer, check_name};
use crate::sending::{Connecting, Policy, Sending, Sends, State};
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
/// Beside the frames that are in flight: one that is drawn, one on its way, one that is read.
pub(super) const MORE_FRAMES: u32 = 3;

/// The longest sleep before somebody looks again at what cannot wake him.
pub(super) const SLICE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub channel_name: Option<String>,
    pub timeout: gst::ClockTime,
    pub max_in_flight: u32,
    pub on_failure: OnFailure,
    pub latency: gst::ClockTime,
    pub payload_size: u64,
    pub perms: u32,
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
    pub fn patience(&self) -> Option<Instant> {
        Instant::now().checked_add(element::limit(self.timeout)?)
    }
}

#[derive(Debug)]
pub struct ZeroBufferFilter {
    pub(super) sink_pad: gst::Pad,
    pub(super) src_pad: gst::Pad,
    pub(super) settings: Mutex<Settings>,
    pub(super) sending: Sending,
    pub(super) answers: Answers,
    pub(super) flow: Mutex<Flow>,
    /// Told when that changes.
    pub(super) changed: Condvar,
    pub(super) output: Mutex<Output>,
    pub(super) segment: Mutex<gst::Segment>,
    /// The frame that is being sent.
    pub(super) asking: Mutex<Option<Input>>,
    pub(super) rounds: Rounds,
}

#[glib::object_subclass]
impl ObjectSubclass for ZeroBufferFilter {
    const NAME: &'static str = "GstZeroBufferFilter";
    type Type = super::ZeroBufferFilter;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let failed = || gst::loggable_error!(CAT, "it panicked");
        let pad = |name| {
            // Both are made in class_init.
            let template = class.pad_template(name)?;
            let pad = gst::Pad::builder_from_template(&template)
                .query_function(|pad, parent, query| {
                    Self::catch_panic_pad_function(
                        parent,
                        || false,
                        |filter| filter.query(pad, query),
                    )
                })
                .activatemode_function(move |pad, parent, mode, active| {
                    Self::catch_panic_pad_function(
                        parent,
                        || Err(failed()),
                        |filter| filter.activate(pad, mode, active),
                    )
                });
            Some(pad)
        };
        let sink_pad = pad("sink").map(|pad| {
            pad.chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |filter| {
                        filter.sending.link.busy(true);
                        let sent = filter.chain(buffer);
                        filter.sending.link.busy(false);
                        sent
                    },
                )
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(
                    parent,
                    || false,
                    |filter| filter.sink_event(pad, event),
                )
            })
            .build()
        });
        let src_pad = pad("src").map(gst::PadBuilder::build);
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
            // There is nobody to tell it to where there is no bus.
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
            element::pads(&[
                ("sink", gst::PadDirection::Sink),
                ("src", gst::PadDirection::Src),
            ])
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
                flow.worker.unanswered = None;
            }
            let name = (flow.worker.connection, number);
            flow.under_way.push_frame(input, Due::Sent { name, at });
            self.changed.notify_all();
        }
        Ok(number)
    }

    fn connection(&self) -> Option<u64> {
        Some(self.flow().worker.connection)
    }

    /// The published servers fail with each request of a second client, and learn that the first one
    /// has gone only while there is no other.
    fn suits(&self, writer: &Writer) -> Result<(), Error> {
        writer.check_first()
    }

    fn settle(&self) -> Result<(), Error> {
        {
            let mut flow = self.flow();
            if flow.worker.tells_connection {
                // Numbers of the next ring are those of another connection.
                flow.worker.connection = new_connection();
                return Ok(());
            }
        }
        self.wait_for_all()
    }

    fn reader_came(&self) {
        Counters::add(&self.rounds.workers, 1);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

    pub(super) fn flow(&self) -> MutexGuard<'_, Flow> {
        lock(&self.flow)
    }

    pub(super) fn wait<'a>(&self, flow: MutexGuard<'a, Flow>) -> MutexGuard<'a, Flow> {
        (self.changed.wait(flow)).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait_for<'a>(
        &self,
        flow: MutexGuard<'a, Flow>,
        time: Duration,
    ) -> MutexGuard<'a, Flow> {
        let waited = self.changed.wait_timeout(flow, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn buffer_names(&self) -> [String; 2] {
        buffer_names(self.settings().channel_name.as_deref().unwrap_or_default())
    }

    pub(super) fn check(&self) -> Result<(), gst::ErrorMessage> {
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

    pub(super) fn stats(&self) -> gst::Structure {
        let writer = self.sending.link.get();
        let asking = writer.map_or(Connection::default(), |writer| Connection::writing(&writer));
        let answering = self.answers.connection();
        self.rounds
            .structure(&self.sending.counters, asking, answering)
    }
}

/// Starting and stopping.
impl ZeroBufferFilter {
    fn activate(
        &self,
        pad: &gst::Pad,
        mode: gst::PadMode,
        active: bool,
    ) -> Result<(), gst::LoggableError> {
        if mode == gst::PadMode::Pull {
            return Err(gst::loggable_error!(CAT, "it cannot be pulled from"));
        }
        let is_source = *pad == self.src_pad;
        if !active {
            self.stop_with(gst::FlowError::Flushing);
        }
        match (is_source, active) {
            (true, true) => {
                *self.output() = Output::default();
                self.start()
            }
            (true, false) => {
                (self.src_pad.stop_task()).map_err(|err| gst::loggable_error!(CAT, "{err}"))
            }
            (false, _) => Ok(()),
        }
    }

    fn query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if *pad == self.src_pad {
            self.src_query(pad, query)
        } else {
            self.sink_query(pad, query)
        }
    }

    /// Lets frames in and answers out.
    pub(super) fn start(&self) -> Result<(), gst::LoggableError> {
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
        if ended {
            self.post_stopped(err);
        }
    }

    /// Nothing goes out any more, and upstream is done and will not notice.
    pub(super) fn post_stopped(&self, err: gst::FlowError) {
        if !matches!(err, gst::FlowError::Flushing | gst::FlowError::Eos) {
            gst::element_imp_error!(
                self,
                gst::StreamError::Failed,
                ("Internal data stream error"),
                ["stream stopped: {err}"]
            );
        }
    }

    /// Forgets everything. Both pads are still.
    pub(super) fn close(&self) {
        self.disconnect("stopped");
        self.rounds.end(self.answers.close());
        *self.flow() = Flow::default();
        *self.state() = State::default();
        *self.output() = Output::default();
        *lock(&self.asking) = None;
    }
}
