//! The pool that the sink proposes to upstream: its buffers are room in the ring while there is a
//! reader and room, and ordinary memory otherwise. It blocks nobody for whom nothing moves on.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use super::{Link, allocator};
use crate::protocol::{Interrupt, Wait};

#[derive(Clone, Debug, Default)]
struct Config {
    size: usize,
    /// The layout, if upstream wants it described in each buffer.
    video: Option<gst_video::VideoInfo>,
    /// Upstream wants its memory at addresses that places in the ring do not have.
    elsewhere: bool,
}

/// Everything that is lent ahead begins at a multiple of this.
const ALIGNMENT: usize = 64;

mod imp {
    use super::*;

    #[derive(Debug, Default)]
    pub struct RingPool {
        pub(super) link: OnceLock<Link>,
        /// Bytes in front of each frame that are not upstream's.
        pub(super) head: OnceLock<usize>,
        config: Mutex<Config>,
        /// Set while it flushes or is not active; ends waits for room.
        flushing: Interrupt,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for RingPool {
        const NAME: &'static str = "GstZeroBufferRingPool";
        type Type = super::RingPool;
        type ParentType = gst::BufferPool;
    }

    impl ObjectImpl for RingPool {}
    impl GstObjectImpl for RingPool {}

    impl BufferPoolImpl for RingPool {
        fn options() -> &'static [&'static str] {
            &["GstBufferPoolOptionVideoMeta"]
        }

        fn set_config(&self, config: &mut gst::BufferPoolConfigRef) -> bool {
            let Some((caps, size, ..)) = config.params() else {
                return false;
            };
            let describe = config.has_option("GstBufferPoolOptionVideoMeta");
            // A mask of the bits that have to be 0.
            let mask = config.allocator().map_or(0, |(_, params)| params.align());
            *self.config() = Config {
                elsewhere: mask & (ALIGNMENT | self.head()) != 0,
                size: size as usize,
                video: caps
                    .filter(|_| describe)
                    .and_then(|caps| gst_video::VideoInfo::from_caps(&caps).ok()),
            };
            self.parent_set_config(config)
        }

        fn start(&self) -> bool {
            // The default would fill itself with ordinary memory.
            true
        }

        fn flush_start(&self) {
            self.flushing.set();
            self.parent_flush_start();
        }

        fn flush_stop(&self) {
            self.parent_flush_stop();
            self.flushing.clear();
        }

        fn acquire_buffer(
            &self,
            params: Option<&gst::BufferPoolAcquireParams>,
        ) -> Result<gst::Buffer, gst::FlowError> {
            if !self.obj().is_active() || self.flushing.is_set() {
                return Err(gst::FlowError::Flushing);
            }
            let Config {
                size,
                video,
                elsewhere,
            } = self.config().clone();
            let (link, head) = (self.link.get().filter(|_| !elsewhere), self.head());
            let may_wait = params.is_none_or(|params| {
                let flags = params.flags();
                !flags.contains(gst::BufferPoolAcquireFlags::DONTWAIT)
            });
            let wait = match may_wait {
                true => Wait::forever().interrupted_by(&self.flushing),
                false => Wait::no(),
            };
            let place = link.and_then(|link| link.reserve((size + head) as u64, wait));
            let mut buffer = match place {
                Some(place) => {
                    let mut buffer = gst::Buffer::new();
                    if let Some(buffer) = buffer.get_mut() {
                        buffer.append_memory(allocator::wrap(place, head));
                    }
                    buffer
                }
                None => self.parent_acquire_buffer(params)?,
            };
            if let (Some(video), Some(buffer)) = (video, buffer.get_mut())
                && buffer.meta::<gst_video::VideoMeta>().is_none()
            {
                let planes = video.n_planes() as usize;
                // Without it the layout is the default one, which these are.
                let _ = gst_video::VideoMeta::add_full(
                    buffer,
                    gst_video::VideoFrameFlags::empty(),
                    video.format(),
                    video.width(),
                    video.height(),
                    &video.offset()[..planes],
                    &video.stride()[..planes],
                );
            }
            Ok(buffer)
        }

        fn release_buffer(&self, buffer: gst::Buffer) {
            // A place in the ring is good for one frame; ordinary memory is used again.
            if buffer.n_memory() == 1 && allocator::is_ring(buffer.peek_memory(0)) {
                drop(buffer);
            } else {
                self.parent_release_buffer(buffer);
            }
        }
    }

    impl RingPool {
        fn config(&self) -> MutexGuard<'_, Config> {
            self.config.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn head(&self) -> usize {
            self.head.get().copied().unwrap_or(0)
        }
    }
}

glib::wrapper! {
    pub struct RingPool(ObjectSubclass<imp::RingPool>)
        @extends gst::BufferPool, gst::Object;
}

impl RingPool {
    /// A pool for frames of these caps, with room for `head` bytes in front of each, to whatever
    /// writer is behind the link at the time.
    pub fn new(
        link: Link,
        caps: &gst::Caps,
        video: &gst_video::VideoInfo,
        head: usize,
    ) -> Result<Self, glib::BoolError> {
        let pool: Self = glib::Object::new();
        // It is new, so the cells are empty.
        let _ = pool.imp().link.set(link);
        let _ = pool.imp().head.set(head);
        let size = u32::try_from(video.size())
            .map_err(|_| glib::bool_error!("frames of {} bytes", video.size()))?;
        let mut config = pool.config();
        config.set_params(Some(caps), size, 0, 0);
        pool.set_config(config)?;
        Ok(pool)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::{BufferConfig, Reader, Writer, ring_size};
    use crate::testing::unique_name;

    #[test]
    fn who_asks_not_to_wait_does_not() {
        gst::init().unwrap();
        let video = gst_video::VideoInfo::builder(gst_video::VideoFormat::Gray8, 40, 25);
        let video = video.build().unwrap();
        let name = unique_name("pool-dontwait");
        let config = BufferConfig::new(1024, ring_size(video.size() as u64, 3));
        let _reader = Reader::create(&name, &config).unwrap();
        let writer = Arc::new(Writer::attach(&name).unwrap());
        while writer.write_frame_wait(&[1; 1000], Wait::no()).is_ok() {}
        let link = Link::default();
        link.replace(Some(writer.clone()));
        link.rendering(true);
        let waits = writer.waits();
        let pool = RingPool::new(link, &video.to_caps().unwrap(), &video, 0).unwrap();
        pool.set_active(true).unwrap();
        let flags = gst::BufferPoolAcquireFlags::DONTWAIT;
        let params = gst::BufferPoolAcquireParams::with_flags(flags);
        let buffer = pool.acquire_buffer(Some(&params)).unwrap();
        assert!(!allocator::is_ring(buffer.peek_memory(0)));
        assert_eq!(writer.waits(), waits);
        drop(buffer);
        pool.set_active(false).unwrap();
    }
}
