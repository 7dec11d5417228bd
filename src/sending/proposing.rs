//! What the sender says upstream: caps, and a pool whose memory is the ring.

use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use super::{Connecting, Fitting, Sends};
use crate::memory::RingPool;
use crate::protocol::Writer;
use crate::stream_info;

/// An element that sends, as upstream asks it.
pub trait Proposing: Sends {
    /// Attaches already now if the reader is there, and proposes a pool to upstream.
    fn propose_pool(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        // Any strides will do: a frame that has others than the default is copied, with its rows
        // where they belong.
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        let (caps, need_pool) = query.get_owned();
        if let Some(caps) = caps.filter(|_| need_pool)
            && let Some(video) = stream_info::raw_video(&caps)
        {
            let link = &self.sending().link;
            // If the reader is there, upstream renders its first frame into the ring already. The
            // caps are told with that frame; until then they may change.
            // One that has gone is missed by the next frame first.
            let gone = self.state().gone.is_some();
            if link.get().is_none()
                && !gone
                && let Ok(writer) = Writer::attach(&self.buffer_name())
            {
                self.attached(writer);
            }
            let prefix = self.policy().frame_prefix;
            let (head, wire) = (prefix.len(), prefix.layout(&video));
            if let Err(err) = self.fit_ring((head + wire.size()) as u64) {
                gst::debug!(Self::category(), imp = self, "Ring not fitted yet: {err}");
            }
            if wire.stride() != video.stride() {
                // Not all elements that take a pool look at the layout of its buffers.
                return Ok(());
            }
            let pool = RingPool::new(link.clone(), &caps, &video, head).map_err(|err| {
                gst::loggable_error!(Self::category(), "No pool for {caps}: {err}")
            })?;
            let size = u32::try_from(video.size()).unwrap_or(u32::MAX);
            // One at least, no matter how many: videorate of GStreamer 1.22 takes a pool away from
            // its upstream whose least and most are the same, also if both are 0.
            query.add_allocation_pool(Some(&pool), size, 1, 0);
        }
        Ok(())
    }

    /// What of its caps can be sent, for a caps query with this filter.
    fn sendable_caps(&self, filter: Option<&gst::Caps>) -> gst::Caps {
        // "Anything in system memory" cannot be said as caps, so ANY stands for it until somebody
        // asks about caps in particular.
        let taken = self.policy().frame_prefix.caps();
        match filter.filter(|filter| !filter.is_any()) {
            Some(filter) => stream_info::in_plain_memory(filter)
                .intersect_with_mode(&taken, gst::CapsIntersectMode::First),
            None => taken,
        }
    }

    /// Whether these caps can be sent.
    fn is_sendable(&self, caps: &gst::CapsRef) -> bool {
        caps.iter_with_features()
            .all(|(_, features)| stream_info::is_plain_memory(Some(features)))
            && caps.is_subset(&self.policy().frame_prefix.caps())
    }
}

impl<T: Sends> Proposing for T {}
