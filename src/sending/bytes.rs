//! How a buffer becomes the bytes of a frame.

use gst::glib;
use gstreamer as gst;
use gstreamer_video as gst_video;

use super::Stop;
use crate::frame_info;
use crate::frame_prefix::{Behind, FramePrefix};
use crate::protocol::Reservation;

/// Bytes of the frame that a buffer becomes as it is, without what is in front of it.
pub(super) fn length(
    buffer: &gst::BufferRef,
    video: Option<&gst_video::VideoInfo>,
    prefix: FramePrefix,
) -> Result<u64, Stop> {
    let len = match video {
        Some(video) if prefix != FramePrefix::None => prefix.layout(video).size(),
        Some(video) if frame_info::other_layout(buffer, video).is_some() => buffer.size(),
        // Without the padding that some allocators leave behind the last row.
        Some(video) if buffer.size() >= video.size() => video.size(),
        Some(video) => {
            return Err(Stop::Element(gst::error_msg!(
                gst::StreamError::Format,
                (
                    "A frame of {} bytes does not match its caps, which need {}",
                    buffer.size(),
                    video.size()
                )
            )));
        }
        None => buffer.size(),
    };
    Ok(len as u64)
}

/// Copies the bytes as they are, from all memories of the buffer.
pub(super) fn copy(
    buffer: &gst::BufferRef,
    mut place: Behind<Reservation>,
) -> Result<Behind<Reservation>, Stop> {
    buffer.copy_to_slice(0, place.as_mut()).map_err(|copied| {
        Stop::Element(gst::error_msg!(
            gst::ResourceError::Read,
            ("The memory of a frame could not be read behind byte {copied}")
        ))
    })?;
    Ok(place)
}

/// Copies the picture with its rows and planes where a reader in any language finds them: where the
/// caps' default layout has them, or what is in front of the frame demands.
pub(super) fn repack(
    buffer: &gst::BufferRef,
    video: &gst_video::VideoInfo,
    layout: &gst_video::VideoInfo,
    place: Behind<Reservation>,
) -> Result<Behind<Reservation>, glib::BoolError> {
    let from = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, video)?;
    let into = gst::Buffer::from_mut_slice(place);
    let mut into = gst_video::VideoFrame::from_buffer_writable(into, layout)
        .map_err(|_| glib::bool_error!("no room to copy to"))?;
    from.copy(&mut into.as_mut_video_frame_ref())?;
    into.into_buffer()
        .try_into_inner::<Behind<Reservation>>()
        .map_err(|(_, err)| glib::bool_error!("{err}"))
}
