//! What the elements share: how protocol errors become GStreamer's, and their statistics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gstreamer as gst;

use crate::protocol::{Error, Reader, Writer, WriterState, check_name};

/// The protocol's error in GStreamer's words; the text says what to do.
pub fn message(err: &Error) -> gst::ErrorMessage {
    use gst::{ResourceError as Resource, StreamError as Stream};
    match err {
        Error::InvalidName { .. } | Error::InvalidConfig { .. } => {
            gst::error_msg!(Resource::Settings, ("{err}"))
        }
        Error::BufferNotFound { .. } => gst::error_msg!(Resource::NotFound, ("{err}")),
        Error::ReaderAlreadyConnected { .. } | Error::WriterAlreadyConnected { .. } => {
            gst::error_msg!(Resource::Busy, ("{err}"))
        }
        Error::NoSpace { .. } => gst::error_msg!(Resource::NoSpaceLeft, ("{err}")),
        Error::Permission { .. } => gst::error_msg!(Resource::NotAuthorized, ("{err}")),
        Error::Version { .. } | Error::Corrupt { .. } | Error::Os { .. } => {
            gst::error_msg!(Resource::Failed, ("{err}"))
        }
        Error::FrameTooLarge { .. }
        | Error::FrameCannotPass { .. }
        | Error::MetadataTooLarge { .. }
        | Error::BufferFull { .. } => gst::error_msg!(Resource::Write, ("{err}")),
        Error::WriterDead { .. } | Error::ReaderDead { .. } => {
            gst::error_msg!(Resource::Read, ("{err}"))
        }
        _ => gst::error_msg!(Stream::Failed, ("{err}")),
    }
}

/// The name, if it is set and can be one.
pub fn checked_name(name: Option<&str>) -> Result<String, gst::ErrorMessage> {
    let Some(name) = name else {
        return Err(gst::error_msg!(
            gst::ResourceError::Settings,
            ("No buffer name: set the property buffer-name, the same at both ends")
        ));
    };
    check_name(name).map_err(|err| message(&err))?;
    Ok(name.into())
}

/// Pads that are always there, for all caps.
pub fn pads(pads: &[(&str, gst::PadDirection)]) -> Vec<gst::PadTemplate> {
    let (always, caps) = (gst::PadPresence::Always, gst::Caps::new_any());
    let template = |(name, direction)| gst::PadTemplate::new(name, direction, always, &caps);
    pads.iter().copied().flat_map(template).collect()
}

/// A property that limits how long something may take; 0: nothing does.
pub fn limit(timeout: gst::ClockTime) -> Option<Duration> {
    Some(Duration::from(timeout)).filter(|time| !time.is_zero())
}

/// Counts since the element was started. Relaxed throughout: nothing is handed over with them.
#[derive(Debug, Default)]
pub struct Counters {
    pub frames: AtomicU64,
    pub bytes: AtomicU64,
    pub dropped: AtomicU64,
    pub in_place: AtomicU64,
    pub copied: AtomicU64,
    /// Waits of connections that are over.
    pub waits: AtomicU64,
}

/// What is known of the connection there is now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection {
    pub waits: u64,
    /// Frames that were counted as in place and were copied later, since they were held.
    pub moved: u64,
    pub ring_used: u64,
    pub ring_size: u64,
    pub peer_pid: u64,
}

impl Connection {
    /// That of a reader to its writer.
    pub fn reading(reader: &Reader) -> Self {
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

    /// That of a writer to its reader.
    pub fn writing(writer: &Writer) -> Self {
        Connection {
            waits: writer.waits(),
            moved: 0,
            ring_used: writer.used_bytes(),
            ring_size: writer.payload_size(),
            peer_pid: writer.reader_pid(),
        }
    }
}

impl Counters {
    pub fn reset(&self) {
        let Counters {
            frames,
            bytes,
            dropped,
            in_place,
            copied,
            waits,
        } = self;
        for counter in [frames, bytes, dropped, in_place, copied, waits] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Whether no frame has come yet.
    pub fn is_new(&self) -> bool {
        self.frames.load(Ordering::Relaxed) == 0 && self.dropped.load(Ordering::Relaxed) == 0
    }

    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes so much off a counter, and no more than there is.
    pub fn take_off(counter: &AtomicU64, count: u64) {
        let less = |now: u64| Some(now.saturating_sub(count));
        // It fails only where there is nothing to store.
        let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Takes over what a connection counted, when it ends.
    pub fn end(&self, connection: Connection) {
        Self::add(&self.waits, connection.waits);
        Self::add(&self.copied, connection.moved);
        // A frame copied at once was never counted as in place by who took it over.
        Self::take_off(&self.in_place, connection.moved);
    }

    /// The `stats` property.
    pub fn structure(&self, name: &str, connection: Connection) -> gst::Structure {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        gst::Structure::builder(name)
            .field("frames", get(&self.frames))
            .field("bytes", get(&self.bytes))
            .field("dropped", get(&self.dropped))
            .field("waits", get(&self.waits) + connection.waits)
            .field(
                "in-place",
                get(&self.in_place).saturating_sub(connection.moved),
            )
            .field("copied", get(&self.copied) + connection.moved)
            .field("ring-used", connection.ring_used)
            .field("ring-size", connection.ring_size)
            .field("peer-pid", connection.peer_pid)
            .build()
    }
}

/// The blurb of the `stats` property of sink and source.
pub const STATS_BLURB: &str = "Counts since the start (uint64 each): frames and bytes passed, \
    frames dropped, waits for the peer, frames that stayed in place and frames that were copied; \
    and now: bytes of the ring used, its size in bytes, the peer's process id (0 = none)";
