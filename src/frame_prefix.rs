//! What may be in front of the pixels of a frame, for peers that expect it there: RocketWelder's
//! prefix. See `docs/protocol.md`, "Frame prefix".
//!
//! It is 24 bytes: the frame's number (from 0), its PTS in nanoseconds, its exposure time in
//! microseconds, each a u64, 2⁶⁴−1 for what is not known. Behind it the rows are tightly packed.

use std::ops::Deref;
use std::sync::Once;

use gst::glib;
use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::protocol::FrameTime;

/// The formats that RocketWelder's SDK reads; it drops all others.
const FORMATS: [&str; 7] = ["RGB", "BGR", "RGBA", "BGRA", "ARGB", "ABGR", "GRAY8"];
/// Bytes of the prefix.
const LEN: usize = 24;
const UNKNOWN: u64 = u64::MAX;
/// A meta that holds the exposure time: a `guint64` in microseconds.
const EXPOSURE_META: &str = "GstZeroBufferExposureMeta";
const EXPOSURE_FIELD: &str = "exposure-time";

/// What is in front of the pixels of each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferFramePrefix")]
pub(crate) enum FramePrefix {
    #[default]
    #[enum_value(name = "Nothing", nick = "none")]
    None,
    #[enum_value(
        name = "24 bytes as RocketWelder's SDK expects them: number, PTS, exposure time",
        nick = "rocket-welder"
    )]
    RocketWelder,
}

impl FramePrefix {
    /// How metadata and properties call it.
    pub fn nick(self) -> &'static str {
        match self {
            FramePrefix::None => "none",
            FramePrefix::RocketWelder => "rocket-welder",
        }
    }

    pub fn from_nick(nick: &str) -> Option<Self> {
        [FramePrefix::None, FramePrefix::RocketWelder]
            .into_iter()
            .find(|prefix| prefix.nick() == nick)
    }

    /// Its bytes.
    pub fn len(self) -> usize {
        match self {
            FramePrefix::None => 0,
            FramePrefix::RocketWelder => LEN,
        }
    }

    /// What can be sent with it.
    pub fn caps(self) -> gst::Caps {
        match self {
            FramePrefix::None => gst::Caps::new_any(),
            FramePrefix::RocketWelder => gst::Caps::builder("video/x-raw")
                .field("format", gst::List::new(FORMATS))
                .build(),
        }
    }

    /// Where rows are on the wire. `video` is the layout that the caps give by default.
    pub fn layout(self, video: &gst_video::VideoInfo) -> gst_video::VideoInfo {
        match self {
            FramePrefix::None => None,
            FramePrefix::RocketWelder => packed(video),
        }
        .unwrap_or_else(|| video.clone())
    }

    /// Where the rows of `len` bytes of pixels are, if not where the caps have them by default. Rows
    /// with padding are taken from who sends them.
    pub fn layout_of(
        self,
        len: usize,
        video: &gst_video::VideoInfo,
    ) -> Option<gst_video::VideoInfo> {
        let layout = self.layout(video);
        (len < video.size() && len == layout.size()).then_some(layout)
    }

    /// The prefix of a buffer that is the frame with this number.
    pub fn of(self, buffer: &gst::BufferRef, number: u64) -> Head {
        let mut bytes = [0; LEN];
        if self == FramePrefix::None {
            return Head(bytes, 0);
        }
        let pts = buffer.pts().map_or(UNKNOWN, gst::ClockTime::nseconds);
        let exposure = exposure(buffer).unwrap_or(UNKNOWN);
        for (place, value) in bytes.chunks_exact_mut(8).zip([number, pts, exposure]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        Head(bytes, self.len())
    }

    /// What the prefix of a frame says; `None` if there is none, or the frame is too short for it.
    pub fn read(self, frame: &[u8]) -> Option<Told> {
        if self == FramePrefix::None {
            return None;
        }
        let word = |i: usize| {
            let bytes = frame.get(8 * i..8 * i + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let known = |value: u64| Some(value).filter(|value| *value != UNKNOWN);
        let (number, pts, exposure) = (word(0)?, word(1)?, word(2)?);
        Some(Told {
            number: known(number),
            pts: known(pts),
            exposure: known(exposure),
        })
    }
}

/// The layout of `video` with nothing between its rows; `None` if that is what it is.
fn packed(video: &gst_video::VideoInfo) -> Option<gst_video::VideoInfo> {
    // All formats with a prefix have one plane, and pixels of whole bytes.
    let (width, height) = (video.width(), video.height());
    let stride =
        width.checked_mul(u32::try_from(*video.format_info().pixel_stride().first()?).ok()?)?;
    let stride = i32::try_from(stride).ok()?;
    if video.n_planes() != 1 || *video.stride().first()? == stride {
        return None;
    }
    gst_video::VideoInfo::builder(video.format(), width, height)
        .interlace_mode(video.interlace_mode())
        .stride(&[stride])
        .size(stride as usize * height as usize)
        .build()
        .ok()
}

/// The bytes in front of a frame; none if there is no prefix.
pub struct Head([u8; LEN], usize);

impl Deref for Head {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// What a prefix says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub number: Option<u64>,
    /// In nanoseconds.
    pub pts: Option<u64>,
    /// In microseconds.
    pub exposure: Option<u64>,
}

impl Told {
    /// As the time of a frame, of which nothing else is known.
    pub fn time(&self) -> FrameTime {
        FrameTime {
            pts: self.pts,
            offset: self.number,
            offset_end: self.number.and_then(|number| number.checked_add(1)),
            ..FrameTime::default()
        }
    }

    /// Puts what a buffer has no field for on it as metas.
    pub fn add_metas(&self, buffer: &mut gst::BufferRef) {
        let Some(exposure) = self.exposure else {
            return;
        };
        register();
        // It may have come along as it was.
        if gst::meta::CustomMeta::from_buffer(buffer, EXPOSURE_META).is_ok() {
            return;
        }
        if let Ok(mut meta) = gst::meta::CustomMeta::add(buffer, EXPOSURE_META) {
            meta.mut_structure().set(EXPOSURE_FIELD, exposure);
        }
    }
}

/// The exposure time of a buffer, in microseconds.
fn exposure(buffer: &gst::BufferRef) -> Option<u64> {
    register();
    let meta = gst::meta::CustomMeta::from_buffer(buffer, EXPOSURE_META).ok()?;
    meta.structure().get(EXPOSURE_FIELD).ok()
}

/// Makes the meta known to GStreamer.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| gst::meta::CustomMeta::register_simple(EXPOSURE_META));
}

/// Bytes without those in front of them.
pub struct Behind<T>(pub T, pub usize);

impl<T: Deref<Target = [u8]>> AsRef<[u8]> for Behind<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.get(self.1..).unwrap_or_default()
    }
}

impl<T: std::ops::DerefMut<Target = [u8]>> AsMut<[u8]> for Behind<T> {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.get_mut(self.1..).unwrap_or_default()
    }
}
