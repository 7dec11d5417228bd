//! The writer of a ZeroBuffer as a sink element.
//!
//! It attaches to the buffer that a reader (`zerobuffersrc`, or any ZeroBuffer reader in another
//! language) has made under `buffer-name`, sends the caps as metadata and each buffer as a frame.
//! The end of the stream closes the buffer for this writer; the reader still gets every frame.
//!
//! It proposes a pool whose buffers are room in the ring: raw video that upstream renders into them
//! is not copied. Everything else, and everything for a reader in another language, is copied once.
//!
//! While there is no reader it holds the stream, or drops (`wait-for-connection=false`); while the
//! ring is full it holds the stream, or drops (`on-full=drop`). A reader that goes away is as if
//! there had been none yet.
//!
//! ## Example launch line
//!
//! ```bash
//! gst-launch-1.0 videotestsrc ! video/x-raw,format=I420,width=1280,height=720 ! zerobuffersink buffer-name=cam
//! gst-launch-1.0 zerobuffersrc buffer-name=cam ! videoconvert ! autovideosink
//! ```
//!
//! A sender that never waits, and sends as fast as frames come:
//!
//! ```bash
//! gst-launch-1.0 videotestsrc is-live=true ! zerobuffersink buffer-name=fast sync=false on-full=drop wait-for-connection=false
//! gst-launch-1.0 zerobuffersrc buffer-name=fast ! fakesink
//! ```

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;
use gstreamer_video as gst_video;

use super::OnFull;
use super::pausing::Pausing;
use crate::element::{self, Connection, Counters};
use crate::memory::{self, Link, RingPool};
use crate::protocol::{Error, Interrupt, Reservation, Wait, Writer};
use crate::stream_info;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "zerobuffersink",
        gst::DebugColorFlags::empty(),
        Some("ZeroBuffer sink"),
    )
});

#[derive(Debug, Default)]
struct Settings {
    buffer_name: Option<String>,
    policy: Policy,
}

/// What to do when there is no reader or no room.
#[derive(Clone, Copy, Debug)]
struct Policy {
    wait_for_connection: bool,
    on_full: OnFull,
    timeout: gst::ClockTime,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            wait_for_connection: true,
            on_full: OnFull::Block,
            timeout: gst::ClockTime::ZERO,
        }
    }
}

impl Policy {
    fn wait<'a>(&self, interrupt: &'a Interrupt) -> Wait<'a> {
        let timeout = Some(Duration::from(self.timeout)).filter(|time| !time.is_zero());
        Wait::from(timeout).interrupted_by(interrupt)
    }
}

/// The stream between start and stop.
#[derive(Debug, Default)]
struct State {
    caps: Option<gst::Caps>,
    /// How raw video of these caps lies in memory by default.
    video: Option<Arc<gst_video::VideoInfo>>,
    /// The reader has been told the caps.
    announced: bool,
}

#[derive(Debug)]
pub struct ZeroBufferSink {
    settings: Mutex<Settings>,
    state: Mutex<State>,
    /// The writer, while there is a reader; the pools that we propose look there too.
    link: Link,
    /// Needs none of the locks above, so that unlock() never waits for them.
    pausing: Pausing,
    counters: Counters,
}

impl Default for ZeroBufferSink {
    fn default() -> Self {
        let pausing = Pausing::default();
        ZeroBufferSink {
            settings: Mutex::default(),
            state: Mutex::default(),
            link: Link::new(pausing.interrupt.clone()),
            pausing,
            counters: Counters::default(),
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ZeroBufferSink {
    const NAME: &'static str = "GstZeroBufferSink";
    type Type = super::ZeroBufferSink;
    type ParentType = gst_base::BaseSink;
}

impl ObjectImpl for ZeroBufferSink {
    fn constructed(&self) {
        self.parent_constructed();
        // It would keep room in the ring for a picture that nobody asks a sink without a window for.
        self.obj().set_property("enable-last-sample", false);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecString::builder("buffer-name")
                    .nick("Buffer name")
                    .blurb(
                        "Name of the ZeroBuffer to write to, the same as at the reader: 1 to 245 \
                         bytes, no slash, not starting with 'sem.'",
                    )
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("wait-for-connection")
                    .nick("Wait for connection")
                    .blurb(
                        "Hold the stream while there is no reader (otherwise: drop its frames \
                         until there is one)",
                    )
                    .default_value(true)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("on-full", OnFull::default())
                    .nick("On full")
                    .blurb("What happens to a frame for which the ring has no room")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt64::builder("timeout")
                    .nick("Timeout")
                    .blurb(
                        "Longest wait for a reader or for room, in nanoseconds; when it is over \
                         the element posts an error (0 = without end)",
                    )
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb(element::STATS_BLURB)
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = self.settings();
        // GObject has checked the types.
        match pspec.name() {
            "buffer-name" => settings.buffer_name = value.get().unwrap_or_default(),
            "wait-for-connection" => {
                settings.policy.wait_for_connection = value.get().unwrap_or_default();
            }
            "on-full" => settings.policy.on_full = value.get().unwrap_or_default(),
            "timeout" => {
                settings.policy.timeout =
                    gst::ClockTime::from_nseconds(value.get().unwrap_or_default());
            }
            _ => {}
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = self.settings();
        match pspec.name() {
            "buffer-name" => settings.buffer_name.to_value(),
            "wait-for-connection" => settings.policy.wait_for_connection.to_value(),
            "on-full" => settings.policy.on_full.to_value(),
            "timeout" => settings.policy.timeout.nseconds().to_value(),
            _ => self.stats().to_value(),
        }
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
                 reader there is zerobuffersrc or any ZeroBuffer v1 reader",
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
            gst::StateChange::PausedToReady => {
                let changed = self.parent_change_state(transition);
                // The stream is over; stop() comes only in NULL.
                self.disconnect("ready");
                *self.state() = State::default();
                changed
            }
            _ => self.parent_change_state(transition),
        }
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            gst::PadTemplate::new(
                "sink",
                gst::PadDirection::Sink,
                gst::PadPresence::Always,
                &gst::Caps::new_any(),
            )
            .into_iter()
            .collect()
        });
        &TEMPLATES
    }
}

impl BaseSinkImpl for ZeroBufferSink {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        element::checked_name(self.settings().buffer_name.as_deref())?;
        self.counters.reset();
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.disconnect("stopped");
        *self.state() = State::default();
        Ok(())
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
        // "Anything in system memory" cannot be said as caps, so ANY stands for it until somebody
        // asks about caps in particular.
        let Some(filter) = filter.filter(|filter| !filter.is_any()) else {
            return Some(gst::Caps::new_any());
        };
        Some(stream_info::in_plain_memory(filter))
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::AcceptCaps(accept) = query.view_mut() {
            let plain = accept
                .caps()
                .iter_with_features()
                .all(|(_, features)| stream_info::is_plain_memory(Some(features)));
            accept.set_result(plain);
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
        // To the next reader any caps may go.
        if self
            .link
            .get()
            .is_some_and(|writer| !writer.is_reader_connected())
        {
            self.disconnect("the reader went away");
        }
        let mut state = self.state();
        if state.announced && state.caps.as_ref().is_some_and(|old| old != caps) {
            let old = state.caps.clone();
            drop(state);
            gst::element_imp_error!(
                self,
                gst::StreamError::Format,
                ("The caps changed in the middle of the stream, and a ZeroBuffer v1 stream has \
                     one: keep them fixed with a capsfilter (behind videoconvert and videoscale), \
                     or end the stream and start a new one"),
                ["from {old:?} to {caps}"]
            );
            return Err(gst::loggable_error!(CAT, "caps changed to {caps}"));
        }
        gst::debug!(CAT, imp = self, "Caps {caps}");
        state.video = stream_info::raw_video(caps).map(Arc::new);
        state.caps = Some(caps.clone());
        Ok(())
    }

    fn propose_allocation(
        &self,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        // Any strides will do: a frame that has others than the default is copied, with its rows
        // where they belong.
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        let (caps, need_pool) = query.get_owned();
        if let Some(caps) = caps.filter(|_| need_pool)
            && let Some(video) = stream_info::raw_video(&caps)
        {
            // If the reader is there, upstream renders its first frame into the ring already. The
            // caps are told with that frame; until then they may change.
            let name = self.settings().buffer_name.clone().unwrap_or_default();
            if self.link.get().is_none()
                && let Ok(writer) = Writer::attach(&name)
            {
                self.attached(writer);
            }
            let pool = RingPool::new(self.link.clone(), &caps, &video)
                .map_err(|err| gst::loggable_error!(CAT, "No pool for {caps}: {err}"))?;
            let size = u32::try_from(video.size()).unwrap_or(u32::MAX);
            // One at least, no matter how many: videorate of GStreamer 1.22 takes a pool away from
            // its upstream whose least and most are the same, also if both are 0.
            query.add_allocation_pool(Some(&pool), size, 1, 0);
        }
        Ok(())
    }

    fn event(&self, event: gst::Event) -> bool {
        let eos = event.type_() == gst::EventType::Eos;
        // Waits until the last frame's time is over; false if a flush came before that.
        let handled = self.parent_event(event);
        if eos && handled {
            // A stream without frames ends too: the reader sees that somebody came and went.
            if self.counters.is_new() && self.link.get().is_none() {
                let policy = Policy {
                    wait_for_connection: false,
                    ..self.settings().policy
                };
                if let Err(stop) = self.connect(policy) {
                    gst::warning!(CAT, imp = self, "{}", stop.message());
                }
            }
            self.disconnect("end of stream");
        }
        handled
    }

    fn render(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        if buffer.size() == 0 {
            gst::log!(CAT, imp = self, "Skipping an empty buffer");
            return Ok(gst::FlowSuccess::Ok);
        }
        loop {
            let seen = self.pausing.seen();
            match self.send(buffer) {
                Ok(true) => {
                    Counters::add(&self.counters.frames, 1);
                    return Ok(gst::FlowSuccess::Ok);
                }
                Ok(false) => {
                    Counters::add(&self.counters.dropped, 1);
                    gst::log!(CAT, imp = self, "Dropped {buffer:?}");
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
                    | Error::ReaderReplaced { .. }
                    | Error::ReaderDead { .. }),
                )) => {
                    gst::info!(CAT, imp = self, "{err}");
                    self.disconnect("the reader went away");
                }
                Err(stop) => {
                    self.post_error_message(stop.message());
                    return Err(gst::FlowError::Error);
                }
            }
        }
    }
}

/// Why a frame was not sent.
enum Stop {
    Protocol(Error),
    Element(gst::ErrorMessage),
}

impl Stop {
    fn message(&self) -> gst::ErrorMessage {
        match self {
            Stop::Protocol(err) => element::message(err),
            Stop::Element(message) => message.clone(),
        }
    }
}

impl From<Error> for Stop {
    fn from(err: Error) -> Self {
        Stop::Protocol(err)
    }
}

impl ZeroBufferSink {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a buffer as a frame; false if the properties say to drop it.
    fn send(&self, buffer: &gst::Buffer) -> Result<bool, Stop> {
        let policy = self.settings().policy;
        self.link.rendering(policy.on_full == OnFull::Block);
        let Some(writer) = self.connect(policy)? else {
            return Ok(false);
        };
        writer.look_at_reader()?;
        let video = self.state().video.clone();
        if self.send_in_place(buffer, video.as_deref(), &writer) {
            return Ok(true);
        }
        let wait = match policy.on_full {
            OnFull::Block => policy.wait(&self.pausing.interrupt),
            OnFull::Drop => Wait::no(),
        };
        let len = match &video {
            // Without the padding that some allocators leave behind the last row.
            Some(video) if buffer.size() >= video.size() => video.size(),
            Some(video) if buffer.meta::<gst_video::VideoMeta>().is_none() => {
                return Err(Stop::Element(gst::error_msg!(
                    gst::StreamError::Format,
                    (
                        "A frame of {} bytes does not match its caps, which need {}",
                        buffer.size(),
                        video.size()
                    )
                )));
            }
            Some(video) => video.size(),
            None => buffer.size(),
        };
        let place = match writer.reserve(len as u64, wait) {
            Err(Error::BufferFull { .. }) if policy.on_full == OnFull::Drop => return Ok(false),
            other => other?,
        };
        let place = match video.filter(|video| has_other_layout(buffer, video)) {
            Some(video) => repack(buffer, &video, place).map_err(|err| {
                Stop::Element(gst::error_msg!(
                    gst::StreamError::Format,
                    ("A frame does not have the layout that its GstVideoMeta tells: {err}")
                ))
            })?,
            None => copy(buffer, place)?,
        };
        place.commit()?;
        Counters::add(&self.counters.copied, 1);
        Counters::add(&self.counters.bytes, len as u64);
        Ok(true)
    }

    /// Publishes a buffer that upstream has rendered straight into the ring. False if it is no such
    /// buffer and has to be copied.
    fn send_in_place(
        &self,
        buffer: &gst::BufferRef,
        video: Option<&gst_video::VideoInfo>,
        writer: &Writer,
    ) -> bool {
        let Some(video) = video.filter(|video| {
            buffer.n_memory() == 1
                && buffer.size() == video.size()
                && !has_other_layout(buffer, video)
        }) else {
            return false;
        };
        match memory::publish(buffer.peek_memory(0), writer) {
            Some(Ok(_)) => {
                Counters::add(&self.counters.in_place, 1);
                Counters::add(&self.counters.bytes, video.size() as u64);
                true
            }
            Some(Err(err)) => {
                gst::debug!(CAT, imp = self, "Copying: {err}");
                false
            }
            None => false,
        }
    }

    /// The writer, attached if need be; `None` if there is no reader and no wait for one.
    fn connect(&self, policy: Policy) -> Result<Option<Arc<Writer>>, Stop> {
        let writer = self.link.get();
        let caps = {
            let state = self.state();
            if state.announced && writer.is_some() {
                return Ok(writer);
            }
            state.caps.clone()
        };
        let caps = caps.as_deref();
        if let Some(writer) = writer {
            if self.announce(&writer, caps)? {
                self.state().announced = true;
                return Ok(Some(writer));
            }
            self.disconnect("it has the metadata of another stream");
        }
        let name = self.settings().buffer_name.clone().unwrap_or_default();
        let waiting = if policy.wait_for_connection {
            gst::debug!(CAT, imp = self, "Waiting for the reader of {name}");
            policy.wait(&self.pausing.interrupt)
        } else {
            Wait::no()
        };
        let attach = Writer::attach_wait_if(&name, waiting, |writer| self.announce(writer, caps));
        let writer = match attach {
            Ok(writer) => self.attached(writer),
            Err(err) if !is_missing(&err) => return Err(err.into()),
            Err(_) if !policy.wait_for_connection => return Ok(None),
            Err(err) => {
                return Err(Stop::Element(gst::error_msg!(
                    gst::ResourceError::NotFound,
                    (
                        "No reader came within the timeout of {}: {err}",
                        policy.timeout
                    )
                )));
            }
        };
        self.state().announced = true;
        Ok(Some(writer))
    }

    fn attached(&self, writer: Writer) -> Arc<Writer> {
        let writer = Arc::new(writer);
        gst::info!(
            CAT,
            imp = self,
            "Attached to {}, reader's pid {}",
            writer.name(),
            writer.reader_pid()
        );
        self.link.replace(Some(writer.clone()));
        writer
    }

    /// Writes the caps as metadata. False if the buffer has other metadata already, from a writer
    /// before us: then only the reader's next buffer will do.
    fn announce(&self, writer: &Writer, caps: Option<&gst::CapsRef>) -> Result<bool, Error> {
        let Some(caps) = caps else { return Ok(true) };
        if let Some(there) = writer.metadata() {
            let same = stream_info::to_caps(&there).is_ok_and(|there| *there == *caps);
            if !same {
                gst::debug!(
                    CAT,
                    imp = self,
                    "The buffer has the metadata of another stream; waiting for a new one"
                );
            }
            return Ok(same);
        }
        writer.set_metadata(&stream_info::to_metadata(caps, &self.obj().name()))?;
        Ok(true)
    }

    fn disconnect(&self, why: &str) {
        self.state().announced = false;
        if let Some(writer) = self.link.replace(None) {
            gst::info!(CAT, imp = self, "Detaching from {}: {why}", writer.name());
            writer.close();
            self.counters.end(connection(&writer));
        }
    }

    fn stats(&self) -> gst::Structure {
        let writer = self.link.get();
        let connection = writer.map_or(Connection::default(), |writer| connection(&writer));
        self.counters
            .structure("application/x-zerobuffersink-stats", connection)
    }
}

fn connection(writer: &Writer) -> Connection {
    Connection {
        waits: writer.waits(),
        moved: 0,
        ring_used: writer.used_bytes(),
        ring_size: writer.payload_size(),
        peer_pid: writer.reader_pid(),
    }
}

/// Whether there is no reader that this stream could go to.
fn is_missing(err: &Error) -> bool {
    err.is_no_reader() || matches!(err, Error::MetadataAlreadyWritten { .. })
}

/// Whether a GstVideoMeta says that rows or planes are elsewhere than the caps alone would say.
fn has_other_layout(buffer: &gst::BufferRef, video: &gst_video::VideoInfo) -> bool {
    buffer.meta::<gst_video::VideoMeta>().is_some_and(|meta| {
        let planes = video.n_planes() as usize;
        meta.stride() != &video.stride()[..planes] || meta.offset() != &video.offset()[..planes]
    })
}

/// Copies the bytes as they are, from all memories of the buffer.
fn copy(buffer: &gst::BufferRef, mut place: Reservation) -> Result<Reservation, Stop> {
    buffer.copy_to_slice(0, &mut place).map_err(|copied| {
        Stop::Element(gst::error_msg!(
            gst::ResourceError::Read,
            ("The memory of a frame could not be read behind byte {copied}")
        ))
    })?;
    Ok(place)
}

/// Copies the picture with its rows and planes where the caps' default layout has them, so that a
/// reader in any language finds them.
fn repack(
    buffer: &gst::BufferRef,
    video: &gst_video::VideoInfo,
    place: Reservation,
) -> Result<Reservation, glib::BoolError> {
    let from = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, video)?;
    let into = gst::Buffer::from_mut_slice(place);
    let mut into = gst_video::VideoFrame::from_buffer_writable(into, video)
        .map_err(|_| glib::bool_error!("no room to copy to"))?;
    from.copy(&mut into.as_mut_video_frame_ref())?;
    into.into_buffer()
        .try_into_inner::<Reservation>()
        .map_err(|(_, err)| glib::bool_error!("{err}"))
}
