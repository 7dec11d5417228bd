/**
 * SECTION:element-zerobuffersink
 * @see_also: zerobuffersrc, shmsink, unixfdsink
 *
 * The writer of a ZeroBuffer as a sink element.
 *
 * It attaches to the buffer that a reader (`zerobuffersrc`, or any ZeroBuffer reader in another
 * language) has made under `buffer-name`, sends the caps as metadata and each buffer as a frame.
 * The end of the stream closes the buffer for this writer; the reader still gets every frame.
 *
 * It proposes a pool whose buffers are room in the ring: raw video that upstream renders into them
 * is not copied. Everything else, and everything for a reader in another language, is copied once.
 *
 * While there is no reader it holds the stream, or drops (`wait-for-connection=false`); while the
 * ring is full it holds the stream, or drops (`on-full=drop`). A reader that goes away is as if
 * there had been none yet, unless `on-reader-gone` says otherwise. What is dropped is counted in
 * `stats`, and told by QoS messages.
 *
 * ## Example launch line
 *
 * ```bash
 * gst-launch-1.0 videotestsrc ! video/x-raw,format=I420,width=1280,height=720 ! zerobuffersink buffer-name=cam
 * gst-launch-1.0 zerobuffersrc buffer-name=cam ! videoconvert ! autovideosink
 * ```
 *
 * A sender that never waits, and sends as fast as frames come:
 *
 * ```bash
 * gst-launch-1.0 videotestsrc is-live=true ! zerobuffersink buffer-name=fast sync=false on-full=drop wait-for-connection=false
 * gst-launch-1.0 zerobuffersrc buffer-name=fast ! fakesink
 * ```
 *
 * Since: 0.1
 */
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;

use super::offering::Offering;
use super::pausing::Pausing;
use super::settings::{self, Settings};
use super::{OnCapsChange, OnFull, OnReaderGone};
use crate::element::{self, Connection, Counters};
use crate::peers::{self, Peers, Reason, Seen};
use crate::protocol::{Error, Writer};
use crate::qos::{LeftOut, Qos};
use crate::requests;
use crate::sending::{Connecting, Policy, Proposing, Sending, Sends, State, Stop, Telling};
use crate::stream_info;
use crate::timing::Timeline;
use crate::uri;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "zerobuffersink",
        gst::DebugColorFlags::empty(),
        Some("ZeroBuffer sink"),
    )
});

#[derive(Debug)]
pub struct ZeroBufferSink {
    settings: Mutex<Settings>,
    sending: Sending,
    pausing: Pausing,
    /// The last buffer answers a request.
    answers: AtomicBool,
    qos: Qos,
    offering: Offering,
    peers: Peers,
}

impl Default for ZeroBufferSink {
    fn default() -> Self {
        let pausing = Pausing::default();
        ZeroBufferSink {
            settings: Mutex::default(),
            sending: Sending::new(pausing.interrupt.clone()),
            pausing,
            answers: AtomicBool::new(false),
            qos: Qos::default(),
            offering: Offering::default(),
            peers: Peers::default(),
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ZeroBufferSink {
    const NAME: &'static str = "GstZeroBufferSink";
    type Type = super::ZeroBufferSink;
    type ParentType = gst_base::BaseSink;
    type Interfaces = (gst::URIHandler,);
}

impl ObjectImpl for ZeroBufferSink {
    fn constructed(&self) {
        self.parent_constructed();
        // It would keep room in the ring for a picture that nobody asks a sink without a window for.
        self.obj().set_property("enable-last-sample", false);
    }

    fn signals() -> &'static [glib::subclass::Signal] {
        static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> = LazyLock::new(peers::signals);
        &SIGNALS
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        self.settings().set(pspec.name(), value);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let value = self.settings().get(pspec.name());
        value.unwrap_or_else(|| self.stats().to_value())
    }
}

impl GstObjectImpl for ZeroBufferSink {}

impl ElementImpl for ZeroBufferSink {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "ZeroBuffer sink",
                "Sink/Video",
                "Sends frames to another process through a ZeroBuffer ring in shared memory; the \
                 reader there is zerobuffersrc or any ZeroBuffer v1 reader, and may come before \
                 or after; raw video can be rendered into the ring",
                "The gst-plugin-zerobuffer developers",
            )
        });
        Some(&METADATA)
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::PausedToPlaying => {
                self.pausing.play(|| self.parent_change_state(transition))
            }
            gst::StateChange::ReadyToPaused => {
                let changed = self.parent_change_state(transition)?;
                let sink = self.obj().downgrade();
                let look = move || Some(sink.upgrade()?.imp().look_for_reader());
                let sink = self.obj().downgrade();
                let changes = move || sink.upgrade()?.imp().sending.link.get()?.reader_changes();
                let watching = (self.peers).start(&*self.obj(), self.buffer_name(), look, changes);
                if let Err(err) = watching {
                    gst::warning!(CAT, imp = self, "Nobody looks for the reader: {err}");
                }
                Ok(changed)
            }
            gst::StateChange::PausedToReady => {
                let changed = self.parent_change_state(transition);
                self.peers.stop(&*self.obj(), &self.buffer_name());
                // The stream is over; stop() comes only in NULL.
                self.offering.end();
                self.disconnect("ready");
                *self.state() = State::default();
                changed
            }
            _ => self.parent_change_state(transition),
        }
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> =
            LazyLock::new(|| element::pads(&[("sink", gst::PadDirection::Sink)]));
        &TEMPLATES
    }
}

impl URIHandlerImpl for ZeroBufferSink {
    const URI_TYPE: gst::URIType = gst::URIType::Sink;

    fn protocols() -> &'static [&'static str] {
        &[uri::SCHEME]
    }

    fn uri(&self) -> Option<String> {
        uri::of_element(self.obj().upcast_ref())
    }

    fn set_uri(&self, uri: &str) -> Result<(), glib::Error> {
        uri::apply(self.obj().upcast_ref(), uri)
    }
}

impl BaseSinkImpl for ZeroBufferSink {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        element::checked_name(self.settings().buffer_name.as_deref())?;
        self.sending.counters.reset();
        self.qos.reset();
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.offering.end();
        self.disconnect("stopped");
        *self.state() = State::default();
        Ok(())
    }

    fn prepare(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.sending.link.busy(true);
        // Before it waits for the buffer's time.
        let answers = self.request(buffer).is_some();
        // Relaxed: the same thread looks.
        self.answers.store(answers, Ordering::Relaxed);
        if answers && self.obj().is_sync() {
            gst::info!(
                CAT,
                imp = self,
                "These are answers, which are waited for: not synchronising"
            );
            self.obj().set_sync(false);
        }
        self.parent_prepare(buffer)
    }

    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        self.pausing.unlock();
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        self.pausing.unlock_stop();
        Ok(())
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
        Some(self.sendable_caps(filter))
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::AcceptCaps(accept) = query.view_mut() {
            let sendable = self.is_sendable(accept.caps());
            accept.set_result(sendable);
            return true;
        }
        BaseSinkImplExt::parent_query(self, query)
    }

    fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        if !stream_info::is_plain_memory(caps.features(0)) {
            return Err(gst::loggable_error!(
                CAT,
                "Only system memory can be sent, not {caps}"
            ));
        }
        if let Some(writer) = self.sending.link.get() {
            let on_caps_change = self.settings().on_caps_change;
            let changed = {
                let state = self.state();
                state.announced && state.told.as_ref().is_some_and(|told| told != caps)
            };
            if let Err(err) = writer.check_reader() {
                self.lose_reader(&err);
            } else if changed && !writer.carries_records() {
                if on_caps_change == OnCapsChange::Error {
                    return Err(self.caps_changed(caps));
                }
                self.disconnect("the caps changed");
            }
        }
        let name = self.settings().buffer_name.clone().unwrap_or_default();
        let prefix = self.policy().frame_prefix;
        let metadata = stream_info::to_metadata(caps, &self.obj().name(), prefix);
        if let Err(err) = self.offering.tell(&name, &metadata) {
            gst::info!(CAT, imp = self, "Not seen as a device: {err}");
        }
        let mut state = self.state();
        gst::debug!(CAT, imp = self, "Caps {caps}");
        state.video = stream_info::raw_video(caps).map(Arc::new);
        state.caps = Some(caps.clone());
        Ok(())
    }

    fn propose_allocation(
        &self,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        self.propose_pool(query)
    }

    fn event(&self, event: gst::Event) -> bool {
        self.follow_segment(&event);
        if event.type_() == gst::EventType::FlushStop {
            // It may have ended the wait for the time of a frame, which then comes to no `render`.
            self.sending.link.busy(false);
        }
        let eos = event.type_() == gst::EventType::Eos;
        let copy = event.clone();
        if eos {
            self.qos.settle(&*self.obj(), &self.sending.counters);
        }
        // Waits until the last frame's time is over; false if a flush came before that.
        let handled = self.parent_event(event);
        if handled {
            self.forward(&copy);
        }
        if eos && handled {
            // A stream without frames ends too: the reader sees that somebody came and went.
            if self.sending.counters.is_new() && self.sending.link.get().is_none() {
                let policy = Policy {
                    wait_for_connection: false,
                    ..self.policy()
                };
                if let Err(stop) = self.connect(policy) {
                    gst::warning!(CAT, imp = self, "{}", stop.message());
                }
            }
            self.offering.end();
            self.finish();
            self.disconnect("end of stream");
        }
        handled
    }

    fn render(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let rendered = self.render_frame(buffer);
        self.sending.link.busy(false);
        rendered
    }
}

impl Sends for ZeroBufferSink {
    fn category() -> gst::DebugCategory {
        *CAT
    }

    fn sending(&self) -> &Sending {
        &self.sending
    }

    fn buffer_name(&self) -> String {
        self.settings().buffer_name.clone().unwrap_or_default()
    }

    fn policy(&self) -> Policy {
        let gone = self.state().gone.is_some();
        let settings = self.settings();
        Policy {
            wait_for_connection: match settings.on_reader_gone {
                // Who asked for it has gone, and the next one has not asked.
                _ if self.answers.load(Ordering::Relaxed) => false,
                OnReaderGone::Wait if gone => true,
                OnReaderGone::Drop if gone => false,
                _ => settings.wait_for_connection,
            },
            wait_for_room: settings.on_full == OnFull::Block,
            timeout: settings.timeout,
            frames: settings.frames,
            frame_prefix: settings.frame_prefix,
        }
    }

    fn lost_reader(&self, why: &Error) {
        self.peers.notice(why);
    }

    fn request(&self, buffer: &gst::BufferRef) -> Option<(u64, u64)> {
        let settings = self.settings();
        let channel = requests::channel_of_answers(settings.buffer_name.as_deref()?)?;
        requests::request(buffer, channel)
    }

    fn input(&self) -> gst::Pad {
        self.obj().sink_pad().clone()
    }

    fn monotonic(&self, time: gst::ClockTime) -> Option<u64> {
        let sink = self.obj();
        let segment = sink.segment();
        let segment = segment.downcast_ref::<gst::ClockTime>()?;
        let running = segment.to_running_time_full(time)?;
        Timeline::of(&*sink)?.monotonic(running + sink.latency().into_positive())
    }
}

impl ZeroBufferSink {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame, or drops it.
    fn render_frame(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        if buffer.size() == 0 {
            gst::log!(CAT, imp = self, "Skipping an empty buffer");
            return Ok(gst::FlowSuccess::Ok);
        }
        let number = self.next_number();
        loop {
            let seen = self.pausing.seen();
            self.end_without_reader()?;
            match self.send(buffer, number) {
                Ok(true) => {
                    self.qos.settle(&*self.obj(), &self.sending.counters);
                    Counters::add(&self.sending.counters.frames, 1);
                    return Ok(gst::FlowSuccess::Ok);
                }
                Ok(false) => {
                    Counters::add(&self.sending.counters.dropped, 1);
                    gst::log!(CAT, imp = self, "Dropped {buffer:?}");
                    let frame = self.left_out(buffer);
                    (self.qos).left_out(&*self.obj(), &self.sending.counters, frame);
                    return Ok(gst::FlowSuccess::Ok);
                }
                // Pausing calls unlock() and is no flush: the frame goes on when we play again.
                Err(Stop::Protocol(Error::Interrupted)) => {
                    if self.pausing.must_wait(seen) {
                        gst::debug!(CAT, imp = self, "Interrupted, waiting to play on");
                        self.obj().wait_preroll()?;
                    }
                }
                Err(Stop::Protocol(
                    err @ (Error::ReaderClosed { .. }
                    | Error::ReaderDead { .. }
                    | Error::ReaderReplaced { .. }),
                )) => self.lose_reader(&err),
                Err(stop) => {
                    self.post_error_message(stop.message());
                    return Err(gst::FlowError::Error);
                }
            }
        }
    }

    /// Caps that cannot be told to this reader.
    fn caps_changed(&self, caps: &gst::Caps) -> gst::LoggableError {
        let told = self.state().told.clone();
        gst::element_imp_error!(
            self,
            gst::StreamError::Format,
            ("The caps changed in the middle of the stream, and a reader of ZeroBuffer v1 cannot \
                 be told: keep them fixed with a capsfilter (behind videoconvert and videoscale), \
                 set on-caps-change=reopen for a reader that opens the buffer anew, or receive with \
                 zerobuffersrc"),
            ["from {told:?} to {caps}"]
        );
        gst::loggable_error!(CAT, "caps changed to {caps}")
    }

    /// If the reader has gone and the stream is to end with that.
    fn end_without_reader(&self) -> Result<(), gst::FlowError> {
        let Some(gone) = self.state().gone.clone() else {
            return Ok(());
        };
        let then = self.settings().on_reader_gone;
        match then {
            OnReaderGone::Auto | OnReaderGone::Wait | OnReaderGone::Drop => Ok(()),
            OnReaderGone::Eos => Err(gst::FlowError::Eos),
            OnReaderGone::Error => {
                self.post_error_message(gst::error_msg!(
                    gst::ResourceError::Write,
                    ("The reader has gone, and on-reader-gone=error: {gone}; with wait or drop \
                         the stream goes on when there is a new one")
                ));
                Err(gst::FlowError::Error)
            }
        }
    }

    /// The reader that there is, whether a frame has gone to it or not.
    fn look_for_reader(&self) -> Seen {
        let writer = self.sending.link.get();
        let attached = writer.map(|writer| writer.check_reader().map(|()| writer.reader_pid()));
        if let Some(Ok(pid)) = attached
            && pid != 0
        {
            return Seen::Peer(pid);
        }
        let died = |err: &Error| match err {
            Error::ReaderDead { .. } => Reason::Died,
            _ => Reason::Closed,
        };
        // Or there is another one, which the next frame goes to.
        match (Writer::find_reader(&self.buffer_name()), attached) {
            (Ok(pid), _) => Seen::Peer(pid),
            (Err(_), Some(Err(err))) => Seen::Nobody(died(&err)),
            (Err(err), _) => Seen::Nobody(died(&err)),
        }
    }

    /// When a frame was due that the reader does not get.
    fn left_out(&self, buffer: &gst::BufferRef) -> LeftOut {
        let sink = self.obj();
        let (segment, timestamp) = (sink.segment(), buffer.pts().or(buffer.dts()));
        let segment = segment.downcast_ref::<gst::ClockTime>();
        LeftOut {
            live: sink.is_sync(),
            running_time: segment.and_then(|segment| segment.to_running_time(timestamp)),
            stream_time: segment.and_then(|segment| segment.to_stream_time(timestamp)),
            timestamp,
            duration: buffer.duration(),
        }
    }

    fn stats(&self) -> gst::Structure {
        let writer = self.sending.link.get();
        let connection =
            writer.map_or(Connection::default(), |writer| Connection::writing(&writer));
        self.sending
            .counters
            .structure("application/x-zerobuffersink-stats", connection)
    }
}
