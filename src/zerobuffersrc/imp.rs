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
use std::thread::{self, ThreadId};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;
use gstreamer_video as gst_video;

use super::Leaky;
use super::settings::{self, Settings};
use super::unsent::Unsent;
use crate::element::{self, Connection, Counters};
use crate::frame_info;
use crate::frame_prefix::FramePrefix;
use crate::peers::{self, Peers};
use crate::protocol::{Error, Interrupt, Item, Reader, Wait};
use crate::qos::Qos;
use crate::segments::Segment;
use crate::stream_info;
use crate::uri;

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "zerobuffersrc",
        gst::DebugColorFlags::empty(),
        Some("ZeroBuffer source"),
    )
});

/// The stream between start and stop.
#[derive(Debug, Default)]
pub(super) struct State {
    pub reader: Option<Arc<Reader>>,
    /// The reader of the ring that was made anew while the first was read: its turn comes after.
    pub next: Option<Reader>,
    /// That one is being made, and the writer may come to it any moment.
    pub replacing: bool,
    /// A request for a ring that was being made when `create()` had to return.
    pub wanted: Option<u64>,
    /// The caps of this writer's stream, once they are known.
    pub caps: Option<gst::Caps>,
    /// The caps of the ring that is read are known.
    pub current: bool,
    /// What is in front of the frames of the ring that is read.
    pub prefix: FramePrefix,
    /// What raw video of these caps is like.
    pub video: Option<Arc<gst_video::VideoInfo>>,
    /// Downstream finds planes by their GstVideoMeta.
    pub takes_layouts: bool,
    /// The sequence number of the last frame.
    pub last: Option<u64>,
    /// The next frame does not follow the last one.
    pub discont: bool,
    /// What the sender said of its segment, and the one that downstream is to have.
    pub segment: Segment,
    pub set_segment: Segment,
}

#[derive(Debug, Default)]
pub struct ZeroBufferSrc {
    pub(super) settings: Mutex<Settings>,
    pub(super) state: Mutex<State>,
    /// Set by unlock() without the locks above, so that it never waits for them.
    pub(super) interrupt: Interrupt,
    /// The thread that pauses the source just now.
    pausing: Mutex<Option<ThreadId>>,
    pub(super) counters: Counters,
    pub(super) unsent: Unsent,
    pub(super) qos: Qos,
    pub(super) peers: Peers,
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
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        match pspec.name() {
            "is-live" => self.obj().set_live(value.get().unwrap_or(true)),
            name => self.settings().set(name, value),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "is-live" {
            return self.obj().is_live().to_value();
        }
        let value = self.settings().get(pspec.name());
        value.unwrap_or_else(|| self.stats().to_value())
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
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> =
            LazyLock::new(|| element::pads(&[("src", gst::PadDirection::Src)]));
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        let pauses = transition == gst::StateChange::PlayingToPaused;
        *self.pausing() = pauses.then(|| thread::current().id());
        let changed = self.parent_change_state(transition);
        *self.pausing() = None;
        changed
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
        let source = self.obj().downgrade();
        let changes = move || source.upgrade()?.imp().writer_changes();
        let name = self.settings().buffer_name.clone().unwrap_or_default();
        if let Err(err) = self.peers.start(&*self.obj(), name, look, changes) {
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
        // Since GStreamer 1.24 pausing a live source ends its create(), too, which pauses its task;
        // who plays on before that has come to be would not have started it again. There is no need:
        // what create() returns then waits for PLAYING.
        if *self.pausing() != Some(thread::current().id()) {
            self.interrupt.set();
        }
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
            let takes_layouts = frame_info::takes_layouts(self.obj().src_pad(), &caps);
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
    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pausing(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.pausing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, message: gst::ErrorMessage) -> gst::FlowError {
        self.post_error_message(message);
        gst::FlowError::Error
    }

    fn stats(&self) -> gst::Structure {
        let reader = self.state().reader.clone();
        let connection =
            reader.map_or(Connection::default(), |reader| Connection::reading(&reader));
        self.counters
            .structure("application/x-zerobuffersrc-stats", connection)
    }
}
