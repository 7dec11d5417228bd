//! A source whose frames cost next to nothing, so that the figures are those of the way between the
//! processes. It puts a number and the time into the first bytes of each frame.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use gst::glib;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;

use crate::measure::{Mark, now};

/// Told with the number of each frame, before it is made.
pub type OnFrame = Box<dyn Fn(u64) -> Option<Mark> + Send + Sync>;

#[derive(Default)]
pub struct Element {
    /// Writes every byte, not just the first ones.
    fill: AtomicBool,
    /// Takes no memory from downstream.
    own: AtomicBool,
    /// Nanoseconds from frame to frame; 0: as fast as it goes.
    interval: AtomicU64,
    frames: AtomicU64,
    began: OnceLock<Instant>,
    marks: Mutex<Vec<Mark>>,
    on_frame: OnceLock<OnFrame>,
}

#[glib::object_subclass]
impl ObjectSubclass for Element {
    const NAME: &'static str = "BenchFrameSrc";
    type Type = super::source::FrameSrc;
    type ParentType = gst_base::BaseSrc;
}

impl ObjectImpl for Element {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecBoolean::builder("fill").build(),
                glib::ParamSpecBoolean::builder("own").build(),
                glib::ParamSpecUInt64::builder("interval").build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let flag = match pspec.name() {
            "fill" => &self.fill,
            "own" => &self.own,
            _ => {
                let interval = value.get().unwrap_or_default();
                return self.interval.store(interval, Ordering::Relaxed);
            }
        };
        flag.store(value.get().unwrap_or_default(), Ordering::Relaxed);
    }

    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_format(gst::Format::Time);
    }
}

impl GstObjectImpl for Element {}

impl ElementImpl for Element {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Source of the benchmark",
                "Source/Video",
                "Frames that cost nothing, with a number and a time in them",
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
                &gst::Caps::builder("video/x-raw").build(),
            )
            .into_iter()
            .collect()
        });
        &TEMPLATES
    }
}

impl BaseSrcImpl for Element {
    fn is_seekable(&self) -> bool {
        false
    }

    fn decide_allocation(
        &self,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        if self.own.load(Ordering::Relaxed) {
            while query.allocation_pools().next().is_some() {
                query.remove_nth_allocation_pool(0);
            }
            while query.allocation_params().next().is_some() {
                query.remove_nth_allocation_param(0);
            }
        }
        if let Some(caps) = query.get_owned().0
            && let Ok(video) = gstreamer_video::VideoInfo::from_caps(&caps)
        {
            self.obj().set_blocksize(video.size() as u32);
        }
        self.parent_decide_allocation(query)
    }

    fn fill(
        &self,
        _offset: u64,
        _length: u32,
        buffer: &mut gst::BufferRef,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let number = self.frames.fetch_add(1, Ordering::Relaxed);
        if let Some(mark) = self.on_frame.get().and_then(|on_frame| on_frame(number)) {
            let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            marks.push(mark);
        }
        let interval = self.interval.load(Ordering::Relaxed);
        if interval > 0 {
            let began = *self.began.get_or_init(Instant::now);
            let due = began + Duration::from_nanos(interval * number);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let mut map = buffer.map_writable().map_err(|_| gst::FlowError::Error)?;
        if self.fill.load(Ordering::Relaxed) {
            map.fill(number as u8);
        }
        map[8..16].copy_from_slice(&number.to_le_bytes());
        // Last, so that the way begins here.
        map[..8].copy_from_slice(&now().to_le_bytes());
        Ok(gst::FlowSuccess::Ok)
    }
}

glib::wrapper! {
    pub struct FrameSrc(ObjectSubclass<Element>)
        @extends gst_base::BaseSrc, gst::Element, gst::Object;
}

impl FrameSrc {
    /// What is to be noted when a frame begins.
    pub fn note(&self, on_frame: OnFrame) {
        let _ = self.imp().on_frame.set(on_frame);
    }

    /// What was noted.
    pub fn marks(&self) -> Vec<Mark> {
        let mut marks = (self.imp().marks.lock()).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut marks)
    }
}
