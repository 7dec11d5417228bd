//! The reader of a ZeroBuffer as a source element.
//!
//! It makes the buffer `buffer-name` and outputs each frame that a writer (`zerobuffersink`, or any
//! ZeroBuffer writer in another language) puts into it, as read-only memory that is the ring
//! itself. Downstream may hold frames as long as it likes: when the writer needs their room, they
//! are copied out of the ring and keep their address. Its caps are those that the writer's metadata
//! tells, or the property `caps` if it tells none. When the writer has gone and all its frames are
//! out, the stream ends, or the next writer is waited for (`on-writer-exit=wait`).
//!
//! ## Example launch line
//!
//! ```bash
//! gst-launch-1.0 zerobuffersrc buffer-name=cam ! videoconvert ! autovideosink
//! gst-launch-1.0 videotestsrc ! video/x-raw,format=I420,width=1280,height=720 ! zerobuffersink buffer-name=cam
//! ```
//!
//! A ring of its own size, open to writers of all users, for one writer after another:
//!
//! ```bash
//! gst-launch-1.0 zerobuffersrc buffer-name=open payload-size=8000000 perms=0666 on-writer-exit=wait ! videoconvert ! autovideosink
//! gst-launch-1.0 videotestsrc ! zerobuffersink buffer-name=open
//! ```

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;

use super::OnWriterExit;
use super::unsent::Unsent;
use crate::element::{self, Connection, Counters};
use crate::protocol::{BufferConfig, Error, Frame, Interrupt, Reader, Wait, WriterState};
use crate::stream_info;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "zerobuffersrc",
        gst::DebugColorFlags::empty(),
        Some("ZeroBuffer source"),
    )
});

/// Three frames of 1920×1080 RGBA with room to spare, and half of what Docker gives /dev/shm.
const DEFAULT_PAYLOAD_SIZE: u64 = 32 << 20;
/// Room for caps with the headers of a codec in them.
const DEFAULT_METADATA_SIZE: u64 = 64 << 10;
const DEFAULT_PERMS: u32 = 0o600;

#[derive(Clone, Debug)]
struct Settings {
    buffer_name: Option<String>,
    payload_size: u64,
    metadata_size: u64,
    perms: u32,
    caps: Option<gst::Caps>,
    on_writer_exit: OnWriterExit,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            buffer_name: None,
            payload_size: DEFAULT_PAYLOAD_SIZE,
            metadata_size: DEFAULT_METADATA_SIZE,
            perms: DEFAULT_PERMS,
            caps: None,
            on_writer_exit: OnWriterExit::Eos,
        }
    }
}

/// The stream between start and stop.
#[derive(Debug, Default)]
struct State {
    reader: Option<Arc<Reader>>,
    /// The caps of this writer's stream, once they are known.
    caps: Option<gst::Caps>,
    /// Bytes that a frame of these caps has at least.
    frame_size: usize,
    /// The sequence number of the last frame.
    last: Option<u64>,
    /// The next frame does not follow the last one.
    discont: bool,
}

#[derive(Debug, Default)]
pub struct ZeroBufferSrc {
    settings: Mutex<Settings>,
    state: Mutex<State>,
    /// Set by unlock() without the locks above, so that it never waits for them.
    interrupt: Interrupt,
    counters: Counters,
    unsent: Unsent,
}

#[glib::object_subclass]
impl ObjectSubclass for ZeroBufferSrc {
    const NAME: &'static str = "GstZeroBufferSrc";
    type Type = super::ZeroBufferSrc;
    type ParentType = gst_base::PushSrc;
}

impl ObjectImpl for ZeroBufferSrc {
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
                         or more, 16 bytes each for their headers",
                    )
                    .minimum(1)
                    .default_value(DEFAULT_PAYLOAD_SIZE)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt64::builder("metadata-size")
                    .nick("Metadata size")
                    .blurb("Bytes for the metadata, which carries the caps")
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
                glib::ParamSpecBoxed::builder::<gst::Caps>("caps")
                    .nick("Caps")
                    .blurb("Caps of the stream, for writers whose metadata does not tell them")
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
            "metadata-size" => {
                settings.metadata_size = value.get().unwrap_or(DEFAULT_METADATA_SIZE);
            }
            "perms" => settings.perms = value.get().unwrap_or(DEFAULT_PERMS),
            "caps" => settings.caps = value.get().unwrap_or_default(),
            "on-writer-exit" => settings.on_writer_exit = value.get().unwrap_or_default(),
            _ => {}
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = self.settings();
        match pspec.name() {
            "buffer-name" => settings.buffer_name.to_value(),
            "payload-size" => settings.payload_size.to_value(),
            "metadata-size" => settings.metadata_size.to_value(),
            "perms" => settings.perms.to_value(),
            "caps" => settings.caps.to_value(),
            "on-writer-exit" => settings.on_writer_exit.to_value(),
            "is-live" => self.obj().is_live().to_value(),
            _ => self.stats().to_value(),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.set_live(true);
        obj.set_format(gst::Format::Time);
        // Frames carry no time: their arrival in running time is the best there is.
        obj.set_do_timestamp(true);
        self.unsent.watch(obj.src_pad());
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
                 the writer there is zerobuffersink or any ZeroBuffer v1 writer",
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

impl BaseSrcImpl for ZeroBufferSrc {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        self.counters.reset();
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
        self.open()
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.unsent.forget();
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
        let caps = self.state().caps.clone().unwrap_or_else(gst::Caps::new_any);
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
            None => caps,
        })
    }

    fn negotiate(&self) -> Result<(), gst::LoggableError> {
        // Only the writer's metadata can tell the caps; create() sets them when it is there.
        Ok(())
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
            let Some(reader) = self.state().reader.clone() else {
                return Err(gst::FlowError::Eos);
            };
            match reader.read_frame(Wait::forever().interrupted_by(&self.interrupt)) {
                Ok(frame) => {
                    self.negotiate_with(&reader, frame.len())?;
                    let buffer = self.buffer(frame);
                    self.unsent.keep(&buffer);
                    return Ok(CreateSuccess::NewBuffer(buffer));
                }
                Err(Error::Interrupted) => return Err(gst::FlowError::Flushing),
                Err(err @ (Error::WriterClosed { .. } | Error::WriterDead { .. })) => {
                    self.writer_gone(&reader, &err)?;
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
        let config = BufferConfig::new(settings.metadata_size, settings.payload_size)
            .with_permissions(settings.perms);
        let reader = Reader::create(&name, &config).map_err(|err| element::message(&err))?;
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
        let reader = self.state().reader.take();
        if let Some(reader) = reader {
            gst::info!(CAT, imp = self, "Closing buffer {}: {why}", reader.name());
            reader.close();
            self.counters.end(connection(&reader));
        }
    }

    /// The stream of this writer is over: EOS, or a new buffer for the next one. New, since a
    /// buffer takes metadata only once, and a writer that died may have left anything in the ring.
    fn writer_gone(&self, reader: &Reader, why: &Error) -> Result<(), gst::FlowError> {
        if let Error::WriterDead { .. } = why {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::Read,
                ("The writer ended without closing the stream"),
                ["{why}"]
            );
        }
        let on_writer_exit = self.settings().on_writer_exit;
        match on_writer_exit {
            OnWriterExit::Eos => {
                self.close("the writer has gone");
                Err(gst::FlowError::Eos)
            }
            // The next writer is here already, with metadata that suits it.
            OnWriterExit::Wait if !reader.close_if_unused() => Ok(()),
            OnWriterExit::Wait => {
                self.close("the writer has gone");
                let mut state = self.state();
                state.caps = None;
                state.last = None;
                state.discont = true;
                drop(state);
                self.open().map_err(|message| self.fail(message))
            }
        }
    }

    /// With the first frame of a writer: finds the caps and sets them. With each: checks the size.
    fn negotiate_with(&self, reader: &Reader, len: usize) -> Result<(), gst::FlowError> {
        let (known, needed) = {
            let state = self.state();
            (state.caps.is_some(), state.frame_size)
        };
        let needed = if known {
            needed
        } else {
            let caps = self.find_caps(reader).map_err(|err| self.fail(err))?;
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
            let needed = stream_info::raw_video(&caps).map_or(0, |video| video.size());
            let mut state = self.state();
            state.frame_size = needed;
            state.caps = Some(caps);
            needed
        };
        if len < needed {
            return Err(self.fail(gst::error_msg!(
                gst::StreamError::Format,
                ("The writer sent a frame of {len} bytes, and its caps need {needed}: they do \
                     not belong together")
            )));
        }
        Ok(())
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
    fn buffer(&self, frame: Frame) -> gst::Buffer {
        let (sequence, len) = (frame.sequence(), frame.len() as u64);
        let mut buffer = gst::Buffer::from_slice(frame);
        let mut state = self.state();
        let follows = state
            .last
            .is_none_or(|last| sequence == last.wrapping_add(1));
        let discont = std::mem::take(&mut state.discont) || !follows;
        state.last = Some(sequence);
        drop(state);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_offset(sequence);
            buffer.set_offset_end(sequence.wrapping_add(1));
            if discont {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            }
        }
        Counters::add(&self.counters.frames, 1);
        Counters::add(&self.counters.bytes, len);
        Counters::add(&self.counters.in_place, 1);
        buffer
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
