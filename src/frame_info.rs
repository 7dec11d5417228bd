//! What a buffer is beside its bytes, as records: time, flags, where its planes are.

use gst_video::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::protocol::{FrameLayout, FrameTime, MAX_PLANES};

/// Flags of a buffer that say something about its content: not those of the mini object (bits 0 to
/// 3), and not those about its memory or the source that made it.
const FLAGS: u32 = !(0xf | gst::BufferFlags::TAG_MEMORY.bits() | gst::BufferFlags::LIVE.bits());

fn nanos(time: Option<gst::ClockTime>) -> Option<u64> {
    time.map(gst::ClockTime::nseconds)
}

/// The time of a buffer; `monotonic` is when its PTS (or DTS, if it has no PTS) is due.
pub fn to_time(buffer: &gst::BufferRef, monotonic: Option<u64>) -> FrameTime {
    let some = |number: u64| Some(number).filter(|number| *number != u64::MAX);
    FrameTime {
        pts: nanos(buffer.pts()),
        dts: nanos(buffer.dts()),
        duration: nanos(buffer.duration()),
        offset: some(buffer.offset()),
        offset_end: some(buffer.offset_end()),
        flags: (buffer.flags().bits() | buffer.video_flags().bits()) & FLAGS,
        monotonic,
    }
}

/// How times of the sender become times of this pipeline.
#[derive(Clone, Copy, Debug)]
pub enum Times {
    /// As they were.
    Untouched,
    /// PTS (or DTS, if there is no PTS) is then; the other one by their difference, and it lasts as
    /// long as it does at the sender, which plays at this rate.
    At(gst::ClockTime, f64),
    /// It came then, and is shown at once.
    Arrived(gst::ClockTime),
    /// There is no clock that could tell.
    None,
}

/// How long it takes to play so much of a medium at this rate, forwards or backwards.
fn played(time: gst::ClockTime, rate: f64) -> gst::ClockTime {
    if rate.abs() == 1.0 {
        return time;
    }
    // A cast of what is too large gives the largest.
    gst::ClockTime::from_nseconds(
        ((time.nseconds() as f64 / rate.abs()) as u64).min(i64::MAX as u64),
    )
}

/// Gives a new buffer the time, offsets and flags that another had.
pub fn apply_time(time: &FrameTime, times: Times, buffer: &mut gst::BufferRef) {
    let clock = |nanos: Option<u64>| {
        // What a peer wrote may be no time.
        nanos
            .filter(|nanos| *nanos < i64::MAX as u64)
            .map(gst::ClockTime::from_nseconds)
    };
    let mut duration = clock(time.duration);
    let (pts, dts) = match times {
        Times::Untouched => (clock(time.pts), clock(time.dts)),
        Times::At(due, rate) => {
            duration = duration.map(|duration| played(duration, rate));
            match (clock(time.pts), clock(time.dts)) {
                (Some(pts), Some(dts)) if dts <= pts => {
                    (Some(due), Some(due.saturating_sub(played(pts - dts, rate))))
                }
                (Some(pts), Some(dts)) => {
                    (Some(due), Some(due.saturating_add(played(dts - pts, rate))))
                }
                (None, Some(_)) => (None, Some(due)),
                _ => (Some(due), None),
            }
        }
        // Encoded frames that are shown in another order come in that of their DTS.
        Times::Arrived(now) => (Some(now), clock(time.dts).map(|_| now)),
        Times::None => (None, None),
    };
    buffer.set_pts(pts);
    buffer.set_dts(dts);
    buffer.set_duration(duration);
    buffer.set_offset(time.offset.unwrap_or(u64::MAX));
    buffer.set_offset_end(time.offset_end.unwrap_or(u64::MAX));
    let flags = time.flags & FLAGS;
    buffer.set_flags(gst::BufferFlags::from_bits_truncate(flags));
    buffer.set_video_flags(gst_video::VideoBufferFlags::from_bits_truncate(flags));
}

/// Whether what is behind a pad looks at GstVideoMeta, with these caps. Its memory is never used:
/// frames have theirs.
pub fn takes_layouts(pad: &gst::Pad, caps: &gst::Caps) -> bool {
    let mut query = gst::query::Allocation::new(Some(caps), false);
    pad.peer_query(&mut query)
        && query
            .find_allocation_meta::<gst_video::VideoMeta>()
            .is_some()
}

/// Where the planes of a frame are, if its GstVideoMeta says that they are elsewhere than the caps
/// alone would say.
pub fn other_layout(buffer: &gst::BufferRef, video: &gst_video::VideoInfo) -> Option<FrameLayout> {
    let meta = buffer.meta::<gst_video::VideoMeta>()?;
    let planes = video.n_planes() as usize;
    let (offsets, strides) = (meta.offset(), meta.stride());
    if strides == &video.stride()[..planes] && offsets == &video.offset()[..planes] {
        return None;
    }
    let size = (meta.width(), meta.height());
    Some(layout_from(size, offsets, strides))
}

/// Where the planes are by `video`.
pub fn layout(video: &gst_video::VideoInfo) -> FrameLayout {
    let planes = video.n_planes() as usize;
    let (offsets, strides) = (&video.offset()[..planes], &video.stride()[..planes]);
    layout_from((video.width(), video.height()), offsets, strides)
}

fn layout_from((width, height): (u32, u32), offsets: &[usize], strides: &[i32]) -> FrameLayout {
    let mut layout = FrameLayout {
        width,
        height,
        planes: offsets.len() as u32,
        ..FrameLayout::default()
    };
    for (plane, (offset, stride)) in offsets.iter().zip(strides).take(MAX_PLANES).enumerate() {
        layout.offsets[plane] = *offset as u64;
        layout.strides[plane] = *stride;
    }
    layout
}

/// Whether the one plane of a buffer is as `layout` has it. `video` is the default of its caps.
pub fn has_layout(
    buffer: &gst::BufferRef,
    video: &gst_video::VideoInfo,
    layout: &gst_video::VideoInfo,
) -> bool {
    let Some(meta) = buffer.meta::<gst_video::VideoMeta>() else {
        return video.stride() == layout.stride() && buffer.size() >= layout.size();
    };
    meta.stride().first() == layout.stride().first()
        && meta.offset() == [0]
        && buffer.size() >= layout.size()
}

/// Puts a GstVideoMeta with this layout on a buffer of `len` bytes, if all of it is inside.
pub fn apply_layout(
    layout: &FrameLayout,
    video: &gst_video::VideoInfo,
    len: usize,
    buffer: &mut gst::BufferRef,
) -> bool {
    let planes = video.n_planes() as usize;
    let fits = layout.planes as usize == planes
        && (layout.width, layout.height) == (video.width(), video.height())
        && (0..planes).all(|plane| is_inside(layout, video, plane, len));
    if !fits {
        return false;
    }
    let offsets = layout.offsets.map(|offset| offset as usize);
    gst_video::VideoMeta::add_full(
        buffer,
        gst_video::VideoFrameFlags::empty(),
        video.format(),
        video.width(),
        video.height(),
        &offsets[..planes],
        &layout.strides[..planes],
    )
    .is_ok()
}

/// A buffer with a frame of the caps of `video`, whose planes are in this layout if there is one: it
/// is described, or undone by a copy if downstream would not look at the description. Returns whether
/// it was copied, too.
pub fn laid_out(
    mut buffer: gst::Buffer,
    layout: Option<&FrameLayout>,
    video: &gst_video::VideoInfo,
    takes_layouts: bool,
) -> Result<(gst::Buffer, bool), gst::ErrorMessage> {
    let len = buffer.size();
    let fits = match (layout, buffer.get_mut()) {
        (Some(layout), Some(writable)) => apply_layout(layout, video, len, writable),
        _ => len >= video.size(),
    };
    if !fits {
        return Err(gst::error_msg!(
            gst::StreamError::Format,
            (
                "The writer sent a frame of {len} bytes, and its caps need {}: they do not belong \
                 together",
                video.size()
            )
        ));
    }
    if layout.is_none() || takes_layouts {
        return Ok((buffer, false));
    }
    let copy = with_default_layout(&buffer, video).map_err(|err| {
        gst::error_msg!(
            gst::StreamError::Format,
            ("The planes of a frame are not where the writer says: {err}")
        )
    })?;
    Ok((copy, true))
}

/// A copy of the picture with its planes where its format has them by default; time, flags and other
/// metas stay.
pub fn with_default_layout(
    buffer: &gst::Buffer,
    video: &gst_video::VideoInfo,
) -> Result<gst::Buffer, gst::glib::BoolError> {
    let from = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, video)?;
    let mut copy = gst::Buffer::with_size(video.size())?;
    if let Some(writable) = copy.get_mut() {
        let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS;
        buffer.copy_into(writable, what, ..)?;
        let mut into = gst_video::VideoFrameRef::from_buffer_ref_writable(writable, video)?;
        from.copy(&mut into)?;
    }
    Ok(copy)
}

/// Whether a plane of this layout lies within `len` bytes.
fn is_inside(layout: &FrameLayout, video: &gst_video::VideoInfo, plane: usize, len: usize) -> bool {
    // By default rows are at least as long as what is in them, and planes as high as their rows.
    let (default, stride) = (video.stride()[plane], layout.strides[plane]);
    let info = video.format_info();
    let rows = if info.is_tiled() {
        // Their strides are numbers of tiles: only the default is known to be right.
        return stride == default && layout.offsets[plane] == video.offset()[plane] as u64;
    } else {
        let component = info.plane().iter().position(|of| *of as usize == plane);
        let Some(component) = component.and_then(|component| u8::try_from(component).ok()) else {
            // A palette: as by default.
            return stride == default && layout.offsets[plane] == video.offset()[plane] as u64;
        };
        u64::from(info.scale_height(component, video.height()))
    };
    let Ok(stride) = u64::try_from(stride) else {
        return false;
    };
    let end = (stride.checked_mul(rows)).and_then(|size| size.checked_add(layout.offsets[plane]));
    // The last row may end with what is in it.
    let slack = stride.saturating_sub(u64::try_from(default).unwrap_or(0));
    stride >= least_stride(video, plane)
        && end.is_some_and(|end| end - slack.min(end) <= len as u64)
}

/// Bytes of a row of a plane without any padding.
fn least_stride(video: &gst_video::VideoInfo, plane: usize) -> u64 {
    let info = video.format_info();
    (0..info.n_components() as u8)
        .filter(|component| info.plane()[*component as usize] as usize == plane)
        .map(|component| {
            let width = info.scale_width(component, video.width());
            let step = info.pixel_stride()[component as usize].max(1);
            u64::from(width) * u64::from(step.unsigned_abs())
        })
        .max()
        .unwrap_or(0)
        // Formats in which pixels share bytes have a default that says it better.
        .min(u64::try_from(video.stride()[plane]).unwrap_or(0))
}
