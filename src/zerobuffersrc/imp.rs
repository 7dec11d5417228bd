/**
 * SECTION:element-zerobuffersrc
 * @see_also: zerobuffersink, shmsrc, unixfdsrc
 *
 * The reader of a ZeroBuffer as a source element.
 *
 * It makes the buffer `buffer-name` and outputs each frame that a writer (`zerobuffersink`, or any
 * ZeroBuffer writer in another language) puts into it, as read-only memory that is the ring
 * itself. Downstream may hold frames as long as it likes: when the writer needs their room, they
 * are copied out of the ring and keep their address. Its caps are those that the writer's metadata
 * tells, or the property `caps` if it tells none. When the writer has gone and all its frames are
 * out, the stream ends, or the next writer is waited for (`on-writer-exit=wait`; of one that died
 * `on-writer-death` may say something else).
 *
 * ## Example launch line
 *
 * ```bash
 * gst-launch-1.0 zerobuffersrc buffer-name=cam ! videoconvert ! autovideosink
 * gst-launch-1.0 videotestsrc ! video/x-raw,format=I420,width=1280,height=720 ! zerobuffersink buffer-name=cam
 * ```
 *
 * A ring of its own size, open to writers of all users, for one writer after another:
 *
 * ```bash
 * gst-launch-1.0 zerobuffersrc buffer-name=open payload-size=8000000 perms=0666 on-writer-exit=wait ! videoconvert ! autovideosink
 * gst-launch-1.0 videotestsrc ! zerobuffersink buffer-name=open
 * ```
 *
 * Since: 0.1
 */
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;
use gstreamer_video as gst_video;

use super::unsent::Unsent;
use super::{Leaky, OnWriterDeath, OnWriterExit, Timestamps};
use crate::element::{self, Connection, Counters};
use crate::events;
use crate::frame_info::{self, Times};
use crate::frame_prefix::{Behind, FramePrefix, Told};
use crate::metas;
use crate::peers::{self, Peers, Reason, Seen};
use crate::protocol::layout::FIRST_SEQUENCE;
use crate::protocol::{
    BufferConfig, Error, Frame, FrameTime, Interrupt, Item, Reader, Records, Wait, WriterState,
};
use crate::qos::{LeftOut, Qos};
use crate::requests;
use crate::segments::{self, Segment};
use crate::stream_info;
use crate::timing::Timeline;
use crate::uri;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "zerobuffersrc",
        gst::DebugColorFlags::empty(),
        Some("ZeroBuffer source"),
    )
});

/// The ring until a zerobuffersink asks for another, and for all other writers: three frames of
/// 1920×1080 RGBA with room to spare, and half of what Docker gives /dev/shm.
const START_PAYLOAD_SIZE: u64 = 32 << 20;
/// To measure.
const DEFAULT_PAYLOAD_SIZE: u64 = 0;
const DEFAULT_MAX_PAYLOAD_SIZE: u64 = 1 << 30;
/// Time for a frame to come over, with some of the jitter of a machine that does other things too.
const DEFAULT_LATENCY: gst::ClockTime = gst::ClockTime::from_mseconds(2);
/// Room for caps with the headers of a codec in them.
const DEFAULT_METADATA_SIZE: u64 = 64 << 10;
const DEFAULT_PERMS: u32 = 0o600;

#[derive(Clone, Debug)]
struct Settings {
    buffer_name: Option<String>,
    payload_size: u64,
    max_payload_size: u64,
    metadata_size: u64,
    perms: u32,
    group: Option<String>,
    caps: Option<gst::Caps>,
    on_writer_exit: OnWriterExit,
    on_writer_death: OnWriterDeath,
    leaky: Leaky,
    timestamps: Timestamps,
    latency: gst::ClockTime,
    frame_prefix: FramePrefix,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            buffer_name: None,
            payload_size: DEFAULT_PAYLOAD_SIZE,
            max_payload_size: DEFAULT_MAX_PAYLOAD_SIZE,
            metadata_size: DEFAULT_METADATA_SIZE,
            perms: DEFAULT_PERMS,
            group: None,
            caps: None,
            on_writer_exit: OnWriterExit::default(),
            on_writer_death: OnWriterDeath::default(),
            leaky: Leaky::default(),
            timestamps: Timestamps::default(),
            latency: DEFAULT_LATENCY,
            frame_prefix: FramePrefix::default(),
        }
    }
}

impl Settings {
    /// Says who may use the buffer.
    fn shared(&self, config: BufferConfig) -> Result<BufferConfig, Error> {
        let config = config.with_permissions(self.perms);
        match &self.group {
            Some(group) => config.with_group(group),
            None => Ok(config),
        }
    }

    /// What comes after a writer that closed, or died.
    fn after(&self, died: bool) -> OnWriterDeath {
        match (self.on_writer_death, self.on_writer_exit) {
            (other, _) if died && other != OnWriterDeath::Auto => other,
            (_, OnWriterExit::Eos) => OnWriterDeath::Eos,
            (_, OnWriterExit::Wait) => OnWriterDeath::Wait,
        }
    }
}

/// The stream between start and stop.
#[derive(Debug, Default)]
struct State {
    reader: Option<Arc<Reader>>,
    /// The reader of the ring that was made anew while the first was read: its turn comes after.
    next: Option<Reader>,
    /// A request for a ring that was being made when `create()` had to return.
    wanted: Option<u64>,
    /// The caps of this writer's stream, once they are known.
    caps: Option<gst::Caps>,
    /// The caps of the ring that is read are known.
    current: bool,
    /// What is in front of the frames of the ring that is read.
    prefix: FramePrefix,
    /// What raw video of these caps is like.
    video: Option<Arc<gst_video::VideoInfo>>,
    /// Downstream finds planes by their GstVideoMeta.
    takes_layouts: bool,
    /// The sequence number of the last frame.
    last: Option<u64>,
    /// The next frame does not follow the last one.
    discont: bool,
    /// What the sender said of its segment, and the one that downstream is to have.
    segment: Segment,
    set_segment: Segment,
}

#[derive(Debug, Default)]
pub struct ZeroBufferSrc {
    settings: Mutex<Settings>,
    state: Mutex<State>,
    /// Set by unlock() without the locks above, so that it never waits for them.
    interrupt: Interrupt,
    counters: Counters,
    unsent: Unsent,
    qos: Qos,
    peers: Peers,
}

#[glib::object_subclass]
impl ObjectSubclass for ZeroBufferSrc {
    const NAME: &'static str = "GstZeroBufferSrc";
    type Type = super::ZeroBufferSrc;
    type ParentType = gst_base::PushSrc;
    type Interfaces = (gst::URIHandler,);
}

impl ObjectImpl for ZeroBufferSrc {
    fn signals() -> &'static [glib::subclass::Signal] {
        static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> = LazyLock::new(peers::signals);
        &SIGNALS
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecString::builder("buffer-name")
                    .nick("Buffer name")
                    .blurb(
                        "Name of the ZeroBuffer to make, the same as at the writer: 1 to 245 \
                         bytes, no slash, not starting with 'sem.'",
                    )
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt64::builder("payload-size")
                    .nick("Payload size")
                    .blurb(
                        "Bytes of the ring, all reserved in /dev/shm at the start: three frames \
                         or more, 16 bytes each for their headers (0 = 32 MiB, and what its \
                         frames need when a zerobuffersink comes)",
                    )
                    .default_value(DEFAULT_PAYLOAD_SIZE)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt64::builder("max-payload-size")
                    .nick("Maximum payload size")
                    .blurb(
                        "Most bytes that the ring may grow to with payload-size=0; as much of it as \
                         is needed has to be free in /dev/shm",
                    )
                    .minimum(1)
                    .default_value(DEFAULT_MAX_PAYLOAD_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt64::builder("metadata-size")
                    .nick("Metadata size")
                    .blurb(
                        "Bytes for the metadata, which carries the caps: 65536 hold those with \
                         any codec's headers; the rest of the block stays free",
                    )
                    .minimum(1)
                    .default_value(DEFAULT_METADATA_SIZE)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("perms")
                    .nick("Permissions")
                    .blurb(
                        "Permissions of the shared memory, the semaphores and the lock file, \
                         whatever the umask (0600: only this user; 0666: all users); \
                         the owner must be able to read and write",
                    )
                    .maximum(0o777)
                    .default_value(DEFAULT_PERMS)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecString::builder("group")
                    .nick("Group")
                    .blurb(
                        "Group of the shared memory, the semaphores and the lock file, by name or \
                         number: with perms=0660 its members may write (not set: the group of \
                         this process)",
                    )
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Caps>("caps")
                    .nick("Caps")
                    .blurb(
                        "Caps of the stream, for writers whose metadata does not tell them; all \
                         fields with one value (video/x-raw,format=RGB,width=640,height=480,\
                         framerate=30/1)",
                    )
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default(
                    "on-writer-exit",
                    OnWriterExit::default(),
                )
                .nick("On writer exit")
                .blurb("What happens when the writer has gone and all its frames are out")
                .mutable_playing()
                .build(),
                glib::ParamSpecEnum::builder_with_default(
                    "on-writer-death",
                    OnWriterDeath::default(),
                )
                .nick("On writer death")
                .blurb(
                    "What happens when the writer has gone without closing (killed, crashed) and \
                     all its frames are out",
                )
                .mutable_playing()
                .build(),
                glib::ParamSpecEnum::builder_with_default("leaky", Leaky::default())
                    .nick("Leaky")
                    .blurb(
                        "Which frames are left out when the writer is faster than this pipeline; \
                         not for encoded video, where a frame needs those before it",
                    )
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("timestamps", Timestamps::default())
                    .nick("Timestamps")
                    .blurb(
                        "What the timestamps of the frames are; those of a writer that tells no \
                         time are always the arrival",
                    )
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt64::builder("latency")
                    .nick("Latency")
                    .blurb(
                        "Nanoseconds that a frame may take to come over (2000000 = 2 ms); sinks behind \
                         that synchronise show frames so much later than the sender, and none too \
                         late",
                    )
                    .default_value(DEFAULT_LATENCY.nseconds())
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("frame-prefix", FramePrefix::default())
                    .nick("Frame prefix")
                    .blurb(
                        "What is in front of the pixels of each frame, for writers that do not \
                         tell (zerobuffersink does)",
                    )
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("is-live")
                    .nick("Is live")
                    .blurb("Whether to act as a live source: frames only in PLAYING")
                    .default_value(true)
                    .mutable_ready()
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
        if pspec.name() == "is-live" {
            return self.obj().set_live(value.get().unwrap_or(true));
        }
        let mut settings = self.settings();
        // GObject has checked types and ranges.
        match pspec.name() {
            "buffer-name" => settings.buffer_name = value.get().unwrap_or_default(),
            "payload-size" => settings.payload_size = value.get().unwrap_or(DEFAULT_PAYLOAD_SIZE),
            "max-payload-size" => {
                settings.max_payload_size = value.get().unwrap_or(DEFAULT_MAX_PAYLOAD_SIZE);
            }
            "timestamps" => settings.timestamps = value.get().unwrap_or_default(),
            "latency" => {
                settings.latency = gst::ClockTime::from_nseconds(value.get().unwrap_or_default());
            }
            "metadata-size" => {
                settings.metadata_size = value.get().unwrap_or(DEFAULT_METADATA_SIZE);
            }
            "frame-prefix" => settings.frame_prefix = value.get().unwrap_or_default(),
            "perms" => settings.perms = value.get().unwrap_or(DEFAULT_PERMS),
            "group" => settings.group = value.get().unwrap_or_default(),
            "caps" => settings.caps = value.get().unwrap_or_default(),
            "on-writer-exit" => settings.on_writer_exit = value.get().unwrap_or_default(),
            "leaky" => settings.leaky = value.get().unwrap_or_default(),
            "on-writer-death" => settings.on_writer_death = value.get().unwrap_or_default(),
            _ => {}
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = self.settings();
        match pspec.name() {
            "buffer-name" => settings.buffer_name.to_value(),
            "payload-size" => settings.payload_size.to_value(),
            "max-payload-size" => settings.max_payload_size.to_value(),
            "timestamps" => settings.timestamps.to_value(),
            "latency" => settings.latency.nseconds().to_value(),
            "metadata-size" => settings.metadata_size.to_value(),
            "frame-prefix" => settings.frame_prefix.to_value(),
            "perms" => settings.perms.to_value(),
            "group" => settings.group.to_value(),
            "caps" => settings.caps.to_value(),
            "on-writer-exit" => settings.on_writer_exit.to_value(),
            "leaky" => settings.leaky.to_value(),
            "on-writer-death" => settings.on_writer_death.to_value(),
            "is-live" => self.obj().is_live().to_value(),
            _ => self.stats().to_value(),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.set_live(true);
        obj.set_format(gst::Format::Time);
        // The base class would give a DTS to every frame that has none; see `times`.
        obj.set_do_timestamp(false);
        self.unsent.watch(obj.src_pad());
        let this = self.downgrade();
        let kinds = gst::PadProbeType::EVENT_DOWNSTREAM;
        obj.src_pad().add_probe(kinds, move |_, info| {
            if let (Some(this), Some(event)) = (this.upgrade(), info.event())
                && event.type_() == gst::EventType::Segment
            {
                info.data = Some(gst::PadProbeData::Event(this.segment_event(event.seqnum())));
            }
            gst::PadProbeReturn::Ok
        });
    }
}

impl GstObjectImpl for ZeroBufferSrc {}

impl ElementImpl for ZeroBufferSrc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "ZeroBuffer source",
                "Source/Video",
                "Receives frames from another process through a ZeroBuffer ring in shared memory; \
                 the writer there is zerobuffersink or any ZeroBuffer v1 writer, and may come \
                 before or after; it tells the caps",
                "The gst-plugin-zerobuffer developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            gst::PadTemplate::new(
                "src",
                gst::PadDirection::Src,
                gst::PadPresence::Always,
                &gst::Caps::new_any(),
            )
            .into_iter()
            .collect()
        });
        &TEMPLATES
    }
}

impl URIHandlerImpl for ZeroBufferSrc {
    const URI_TYPE: gst::URIType = gst::URIType::Src;

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

impl BaseSrcImpl for ZeroBufferSrc {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        self.counters.reset();
        self.qos.reset();
        self.interrupt.clear();
        *self.state() = State::default();
        if let Some(caps) = self
            .settings()
            .caps
            .as_ref()
            .filter(|caps| !caps.is_fixed())
        {
            return Err(gst::error_msg!(
                gst::ResourceError::Settings,
                ("The property caps leaves a choice ({caps}): set all fields to single values")
            ));
        }
        self.open()?;
        let source = self.obj().downgrade();
        let look = move || Some(source.upgrade()?.imp().look_for_writer());
        let name = self.settings().buffer_name.clone().unwrap_or_default();
        if let Err(err) = self.peers.start(&*self.obj(), name, look) {
            gst::warning!(CAT, imp = self, "Nobody looks for the writer: {err}");
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.unsent.forget();
        let name = self.settings().buffer_name.clone().unwrap_or_default();
        self.peers.stop(&*self.obj(), &name);
        self.close("stopped");
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        self.interrupt.set();
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        self.interrupt.clear();
        Ok(())
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
        let (known, reader) = {
            let state = self.state();
            (state.caps.clone(), state.reader.clone())
        };
        let announced = || {
            let metadata = reader?.metadata().ok()??;
            stream_info::to_caps(&metadata).ok()
        };
        let caps = known.or_else(announced).unwrap_or_else(gst::Caps::new_any);
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
            None => caps,
        })
    }

    fn negotiate(&self) -> Result<(), gst::LoggableError> {
        // Only the writer's metadata can tell the caps; create() sets them when it is there. What is
        // behind may be another element now.
        let caps = self.state().caps.clone();
        if let Some(caps) = caps {
            let takes_layouts = self.takes_layouts(&caps);
            self.state().takes_layouts = takes_layouts;
        }
        Ok(())
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Latency(latency) => {
                let least = self.settings().latency;
                latency.set(self.obj().is_live(), least, gst::ClockTime::NONE);
                true
            }
            gst::QueryViewMut::Uri(query) => {
                // The stream-id is made of it.
                let name = self.settings().buffer_name.clone().unwrap_or_default();
                query.set_uri(&uri::of_name(&name));
                true
            }
            _ => BaseSrcImplExt::parent_query(self, query),
        }
    }
}

impl PushSrcImpl for ZeroBufferSrc {
    fn create(
        &self,
        _buffer: Option<&mut gst::BufferRef>,
    ) -> Result<CreateSuccess, gst::FlowError> {
        if let Some(buffer) = self.unsent.get() {
            return Ok(CreateSuccess::NewBuffer(buffer));
        }
        loop {
            let (reader, wanted) = {
                let mut state = self.state();
                (state.reader.clone(), state.wanted.take())
            };
            let Some(reader) = reader else {
                return Err(gst::FlowError::Eos);
            };
            if let Some(bytes) = wanted {
                self.resize(&reader, bytes);
            }
            let wait = Wait::forever().interrupted_by(&self.interrupt);
            let leaky = self.settings().leaky;
            let item = match leaky {
                Leaky::No => reader.read(wait),
                Leaky::Downstream => reader.read_newest(wait),
            };
            match item {
                Ok(Item::Frame(frame)) => {
                    self.negotiate_with(&reader, frame.records())?;
                    self.follow_segment(frame.records(), Some(frame.sequence()));
                    self.push_events(frame.records());
                    let buffer = self.buffer(frame)?;
                    self.qos.settle(&*self.obj(), &self.counters);
                    self.unsent.keep(&buffer);
                    return Ok(CreateSuccess::NewBuffer(buffer));
                }
                Ok(Item::Message(records)) => {
                    // Events come behind the caps, also where no frame has come yet.
                    if records.caps().is_some()
                        || reader.metadata().is_ok_and(|there| there.is_some())
                    {
                        self.negotiate_with(&reader, &records)?;
                    }
                    self.follow_segment(&records, None);
                    self.push_events(&records);
                }
                Ok(Item::Skipped { sequence, records }) => {
                    // All but the picture is taken over.
                    self.negotiate_with(&reader, &records)?;
                    self.follow_segment(&records, Some(sequence));
                    self.push_events(&records);
                    self.skipped(sequence, &records);
                }
                Ok(Item::Resize(bytes)) => self.resize(&reader, bytes),
                Err(Error::Interrupted) => return Err(gst::FlowError::Flushing),
                Err(err @ (Error::WriterClosed { .. } | Error::WriterDead { .. })) => {
                    let died = matches!(err, Error::WriterDead { .. });
                    self.peers.notice(&err);
                    self.qos.settle(&*self.obj(), &self.counters);
                    if !self.read_next(&reader, died) {
                        self.writer_gone(&reader, &err)?;
                    }
                }
                Err(err) => return Err(self.fail(element::message(&err))),
            }
        }
    }
}

impl ZeroBufferSrc {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, message: gst::ErrorMessage) -> gst::FlowError {
        self.post_error_message(message);
        gst::FlowError::Error
    }

    /// Makes the buffer.
    fn open(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings().clone();
        let name = element::checked_name(settings.buffer_name.as_deref())?;
        let config = match settings.payload_size {
            0 => {
                let start = START_PAYLOAD_SIZE.min(settings.max_payload_size);
                BufferConfig::new(settings.metadata_size, start).with_resizing()
            }
            size => BufferConfig::new(settings.metadata_size, size),
        };
        let reader = (settings.shared(config))
            .and_then(|config| Reader::create(&name, &config))
            .map_err(|err| element::message(&err))?;
        // Whatever downstream holds on to, the writer never waits for it.
        reader.set_evacuation(true);
        if let Some(err) = reader.lock_problem() {
            gst::warning!(CAT, imp = self, "No lock file for buffer {name}: {err}");
        }
        gst::info!(
            CAT,
            imp = self,
            "Made buffer {name} with a ring of {} bytes",
            reader.payload_size()
        );
        self.state().reader = Some(Arc::new(reader));
        Ok(())
    }

    fn close(&self, why: &str) {
        let (reader, next) = {
            let mut state = self.state();
            (state.reader.take(), state.next.take())
        };
        drop(next);
        if let Some(reader) = reader {
            gst::info!(CAT, imp = self, "Closing buffer {}: {why}", reader.name());
            reader.close();
            self.counters.end(connection(&reader));
        }
    }

    /// The stream of this writer is over: EOS, or a new buffer for the next one. New, since a
    /// buffer takes metadata only once, and a writer that died may have left anything in the ring.
    fn writer_gone(&self, reader: &Reader, why: &Error) -> Result<(), gst::FlowError> {
        let died = matches!(why, Error::WriterDead { .. });
        let then = self.settings().after(died);
        if died && then != OnWriterDeath::Error {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::Read,
                ("The writer ended without closing the stream"),
                ["{why}"]
            );
        }
        self.state().segment = Segment::new();
        match then {
            OnWriterDeath::Error => {
                self.close("the writer died");
                Err(self.fail(gst::error_msg!(
                    gst::ResourceError::Read,
                    ("The writer ended without closing the stream, and on-writer-death=error: \
                         {why}")
                )))
            }
            OnWriterDeath::Eos | OnWriterDeath::Auto => {
                self.close("the writer has gone");
                Err(gst::FlowError::Eos)
            }
            // The next writer is here already, with metadata that suits it.
            OnWriterDeath::Wait if !reader.close_if_unused() => Ok(()),
            OnWriterDeath::Wait => {
                self.close("the writer has gone");
                let mut state = self.state();
                state.current = false;
                state.last = None;
                state.discont = true;
                drop(state);
                self.open().map_err(|message| self.fail(message))
            }
        }
    }

    /// The writer asks for a ring of so many bytes.
    fn resize(&self, reader: &Reader, bytes: u64) {
        let settings = self.settings().clone();
        if self.state().next.is_some() {
            // It asked before it knew of that one, which answers another request: it asks again
            // there.
            return;
        }
        let size = bytes.min(settings.max_payload_size).max(1);
        if settings.payload_size != 0 || size.next_multiple_of(64) == reader.payload_size() {
            return reader.keep_size();
        }
        let config = BufferConfig::new(settings.metadata_size, size).with_resizing();
        let made = (settings.shared(config))
            .and_then(|config| reader.replace_interrupted_by(&config, &self.interrupt));
        match made {
            Ok(next) => {
                gst::info!(
                    CAT,
                    imp = self,
                    "A new ring of {} bytes",
                    next.payload_size()
                );
                self.state().next = Some(next);
            }
            Err(Error::Interrupted) => self.state().wanted = Some(bytes),
            Err(err) => {
                reader.keep_size();
                gst::element_imp_warning!(
                    self,
                    gst::ResourceError::NoSpaceLeft,
                    (
                        "The writer asks for a ring of {bytes} bytes, which cannot be made; it \
                         goes on with {}, and may have to wait or copy more",
                        reader.payload_size()
                    ),
                    ["{err}"]
                );
            }
        }
    }

    /// The writer is done with this ring: reads the one that was made in its place, if there is one
    /// and somebody will come there.
    fn read_next(&self, reader: &Reader, died: bool) -> bool {
        let waits = self.settings().after(died) == OnWriterDeath::Wait;
        let mut state = self.state();
        let Some(next) = state.next.take() else {
            return false;
        };
        // One that died on its way to the next ring is known by not having come there.
        let came = next.writer() != WriterState::None;
        let ended = (died && !came) || reader.is_stream_ended();
        if !waits && ended {
            return false;
        }
        if ended {
            state.segment = Segment::new();
        }
        self.counters.end(connection(reader));
        state.reader = Some(Arc::new(next));
        state.current = false;
        state.last = None;
        true
    }

    /// With the first frame of a ring, and when the writer says so: finds the caps and sets them.
    fn negotiate_with(&self, reader: &Reader, records: &Records) -> Result<(), gst::FlowError> {
        if !self.state().current {
            let prefix = self.find_prefix(reader).map_err(|err| self.fail(err))?;
            self.state().prefix = prefix;
        }
        let found = match records.caps() {
            Some(text) => stream_info::parse_caps(text).map_err(|what| {
                gst::error_msg!(
                    gst::StreamError::Format,
                    ("The writer announced {what}, so its stream cannot go on")
                )
            }),
            None if self.state().current => return Ok(()),
            None => self.find_caps(reader),
        };
        let caps = found.map_err(|err| self.fail(err))?;
        if self.state().caps.as_ref() != Some(&caps) {
            gst::info!(CAT, imp = self, "Caps {caps}");
            // Asked first: a caps event that nobody takes only makes the next push fail.
            let accepted = self.obj().src_pad().peer_query_accept_caps(&caps);
            if !accepted || self.obj().set_caps(&caps).is_err() {
                return Err(self.fail(gst::error_msg!(
                    gst::StreamError::Format,
                    ("The element behind does not accept the caps that the writer announced \
                         ({caps}): put videoconvert or another fitting element in between")
                )));
            }
            let video = stream_info::raw_video(&caps);
            let takes_layouts = video.is_some() && self.takes_layouts(&caps);
            let mut state = self.state();
            state.video = video.map(Arc::new);
            state.takes_layouts = takes_layouts;
            state.caps = Some(caps);
        }
        self.state().current = true;
        Ok(())
    }

    /// Whether downstream looks at GstVideoMeta. Its memory is never used: frames have theirs.
    fn takes_layouts(&self, caps: &gst::Caps) -> bool {
        let mut query = gst::query::Allocation::new(Some(caps), false);
        self.obj().src_pad().peer_query(&mut query)
            && query
                .find_allocation_meta::<gst_video::VideoMeta>()
                .is_some()
    }

    /// The sender's PTS mean something in the sender's segment, and all other times in our own.
    fn follow_segment(&self, records: &Records, sequence: Option<u64>) {
        let timestamps = self.settings().timestamps;
        let due = {
            let mut state = self.state();
            if sequence == Some(FIRST_SEQUENCE) && state.last.is_some() {
                // The next writer, in the same ring.
                state.segment = Segment::new();
            }
            if let Some(segment) = segments::Value::among(records).and_then(|said| said.decode()) {
                state.segment = segment;
            }
            let due = match timestamps {
                Timestamps::Pts => state.segment.clone(),
                Timestamps::Sender | Timestamps::Arrival => Segment::new(),
            };
            if due == state.set_segment {
                return;
            }
            state.set_segment = due.clone();
            due
        };
        gst::debug!(CAT, imp = self, "{due:?}");
        // If there was none yet, the base class sends one; see `segment_event`.
        let pad = self.obj().src_pad().clone();
        if pad.sticky_event::<gst::event::Segment>(0).is_some() {
            pad.push_event(gst::event::Segment::new(due.upcast_ref()));
        }
    }

    /// The segment that downstream is told. The base class keeps one of its own: it would end the
    /// stream by the sender's, and mark each frame of a stream that is played backwards as DISCONT.
    fn segment_event(&self, seqnum: gst::Seqnum) -> gst::Event {
        let segment = self.state().set_segment.clone();
        gst::event::Segment::builder(segment.upcast_ref())
            .seqnum(seqnum)
            .build()
    }

    /// Sends on events that came with a frame or between two.
    fn push_events(&self, records: &Records) {
        let line = Timeline::of(&*self.obj());
        let timestamps = self.settings().timestamps;
        let time = move |monotonic: Option<u64>, pts| match (timestamps, monotonic, line) {
            (Timestamps::Sender, Some(monotonic), Some(line)) => line.running(monotonic),
            _ => pts,
        };
        let pad = self.obj().src_pad().clone();
        for event in events::from_records(records, time) {
            // The base class sends its segment with the first frame, which may be behind.
            if pad.sticky_event::<gst::event::Segment>(0).is_none() {
                pad.push_event(gst::event::Segment::new(&self.obj().segment()));
            }
            gst::debug!(CAT, imp = self, "Sending on {event:?}");
            pad.push_event(event);
        }
    }

    /// What is in front of each frame.
    fn find_prefix(&self, reader: &Reader) -> Result<FramePrefix, gst::ErrorMessage> {
        let metadata = reader.metadata().map_err(|err| element::message(&err))?;
        Ok(
            match stream_info::to_prefix(&metadata.unwrap_or_default()) {
                FramePrefix::None => self.settings().frame_prefix,
                told => told,
            },
        )
    }

    fn find_caps(&self, reader: &Reader) -> Result<gst::Caps, gst::ErrorMessage> {
        let metadata = reader.metadata().map_err(|err| element::message(&err))?;
        let found = match metadata {
            Some(metadata) => stream_info::to_caps(&metadata),
            None => Err("no metadata".into()),
        };
        found.or_else(|what| {
            self.settings().caps.clone().ok_or_else(|| {
                gst::error_msg!(
                    gst::StreamError::Format,
                    (
                        "The writer of buffer '{}' announced {what}, so the caps of the stream \
                         are not known: set the property caps",
                        reader.name()
                    )
                )
            })
        })
    }

    /// The frame as a buffer: its memory is the ring, and its room goes back to the writer when
    /// the memory's last reference goes.
    fn buffer(&self, frame: Frame) -> Result<gst::Buffer, gst::FlowError> {
        let (sequence, bytes, is_copy) = (frame.sequence(), frame.len(), frame.is_copy());
        let records = frame.records().clone();
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
    fn skipped(&self, sequence: u64, records: &Records) {
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

    /// The writer that there is, whether its frames have been read or not.
    fn look_for_writer(&self) -> Seen {
        let (mut writer, next) = {
            let state = self.state();
            let Some(reader) = state.reader.clone() else {
                return Seen::Nobody(Reason::Closed);
            };
            let next = state.next.as_ref().map(Reader::writer);
            drop(state);
            (reader.writer(), next)
        };
        // It leaves a ring that was made anew for it.
        if let (Some(next), WriterState::Closed) = (next, writer) {
            writer = match next {
                WriterState::None => return Seen::Unsettled,
                next => next,
            };
        }
        match writer {
            WriterState::Connected { pid } => Seen::Peer(pid),
            WriterState::Dead { .. } => Seen::Nobody(Reason::Died),
            WriterState::Closed | WriterState::None => Seen::Nobody(Reason::Closed),
        }
    }

    fn stats(&self) -> gst::Structure {
        let reader = self.state().reader.clone();
        let connection = reader.map_or(Connection::default(), |reader| connection(&reader));
        self.counters
            .structure("application/x-zerobuffersrc-stats", connection)
    }
}

fn connection(reader: &Reader) -> Connection {
    Connection {
        waits: reader.waits(),
        moved: reader.frames_copied(),
        ring_used: reader.used_bytes(),
        ring_size: reader.payload_size(),
        peer_pid: match reader.writer() {
            WriterState::Connected { pid } | WriterState::Dead { pid } => pid,
            WriterState::None | WriterState::Closed => 0,
        },
    }
}
