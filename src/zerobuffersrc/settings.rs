//! The properties of the source.

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

use super::{Leaky, OnWriterDeath, OnWriterExit, Timestamps};
use crate::element;
use crate::frame_prefix::FramePrefix;
use crate::protocol::{BufferConfig, Error};

/// To measure.
const DEFAULT_PAYLOAD_SIZE: u64 = 0;
const DEFAULT_MAX_PAYLOAD_SIZE: u64 = 1 << 30;
/// Time for a frame to come over, with some of the jitter of a machine that does other things too.
const DEFAULT_LATENCY: gst::ClockTime = gst::ClockTime::from_mseconds(2);
/// Room for caps with the headers of a codec in them.
const DEFAULT_METADATA_SIZE: u64 = 64 << 10;
const DEFAULT_PERMS: u32 = 0o600;

#[derive(Clone, Debug)]
pub struct Settings {
    pub buffer_name: Option<String>,
    pub payload_size: u64,
    pub max_payload_size: u64,
    pub metadata_size: u64,
    pub perms: u32,
    pub group: Option<String>,
    pub caps: Option<gst::Caps>,
    pub on_writer_exit: OnWriterExit,
    pub on_writer_death: OnWriterDeath,
    pub leaky: Leaky,
    pub timestamps: Timestamps,
    pub latency: gst::ClockTime,
    pub frame_prefix: FramePrefix,
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
    pub fn shared(&self, config: BufferConfig) -> Result<BufferConfig, Error> {
        let config = config.with_permissions(self.perms);
        match &self.group {
            Some(group) => config.with_group(group),
            None => Ok(config),
        }
    }

    /// What comes after a writer that closed, or died.
    pub fn after(&self, died: bool) -> OnWriterDeath {
        match (self.on_writer_death, self.on_writer_exit) {
            (other, _) if died && other != OnWriterDeath::Auto => other,
            (_, OnWriterExit::Eos) => OnWriterDeath::Eos,
            (_, OnWriterExit::Wait) => OnWriterDeath::Wait,
        }
    }

    /// Sets a property that is kept here.
    pub fn set(&mut self, name: &str, value: &glib::Value) {
        // GObject has checked types and ranges.
        match name {
            "buffer-name" => self.buffer_name = value.get().unwrap_or_default(),
            "payload-size" => self.payload_size = value.get().unwrap_or(DEFAULT_PAYLOAD_SIZE),
            "max-payload-size" => {
                self.max_payload_size = value.get().unwrap_or(DEFAULT_MAX_PAYLOAD_SIZE);
            }
            "timestamps" => self.timestamps = value.get().unwrap_or_default(),
            "latency" => {
                self.latency = gst::ClockTime::from_nseconds(value.get().unwrap_or_default());
            }
            "metadata-size" => {
                self.metadata_size = value.get().unwrap_or(DEFAULT_METADATA_SIZE);
            }
            "frame-prefix" => self.frame_prefix = value.get().unwrap_or_default(),
            "perms" => self.perms = value.get().unwrap_or(DEFAULT_PERMS),
            "group" => self.group = value.get().unwrap_or_default(),
            "caps" => self.caps = value.get().unwrap_or_default(),
            "on-writer-exit" => self.on_writer_exit = value.get().unwrap_or_default(),
            "leaky" => self.leaky = value.get().unwrap_or_default(),
            "on-writer-death" => self.on_writer_death = value.get().unwrap_or_default(),
            _ => {}
        }
    }

    /// A property that is kept here.
    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "buffer-name" => self.buffer_name.to_value(),
            "payload-size" => self.payload_size.to_value(),
            "max-payload-size" => self.max_payload_size.to_value(),
            "timestamps" => self.timestamps.to_value(),
            "latency" => self.latency.nseconds().to_value(),
            "metadata-size" => self.metadata_size.to_value(),
            "frame-prefix" => self.frame_prefix.to_value(),
            "perms" => self.perms.to_value(),
            "group" => self.group.to_value(),
            "caps" => self.caps.to_value(),
            "on-writer-exit" => self.on_writer_exit.to_value(),
            "leaky" => self.leaky.to_value(),
            "on-writer-death" => self.on_writer_death.to_value(),
            _ => return None,
        })
    }
}

/// All of them, those of the element among them.
pub fn properties() -> Vec<glib::ParamSpec> {
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
        glib::ParamSpecEnum::builder_with_default("on-writer-exit", OnWriterExit::default())
            .nick("On writer exit")
            .blurb("What happens when the writer has gone and all its frames are out")
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("on-writer-death", OnWriterDeath::default())
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
}
