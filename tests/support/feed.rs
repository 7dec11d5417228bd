//! An upstream in the hand of the test: it takes buffers from the pool that the sink proposes, and
//! when a push returns, nobody but the test has the buffer.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::ops::Deref;
use std::str::FromStr;

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::support::pattern;
use crate::support_gst::{Pipeline, init};

pub const CAPS: &str = "video/x-raw,format=I420,width=320,height=240,framerate=30/1";

/// A sink in PLAYING, the pad that feeds it, and its pool.
pub struct Feed {
    pub sender: Pipeline,
    pub pad: gst::Pad,
    pub pool: gst::BufferPool,
    pub info: gst_video::VideoInfo,
}

impl Feed {
    /// The reader must be there already. `more` are further properties of the sink.
    pub fn new(name: &str, caps: &str, more: &str) -> Self {
        init();
        let caps = gst::Caps::from_str(caps).unwrap();
        let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
        let sender = Pipeline::new(&format!(
            "pipeline.( zerobuffersink name=sink sync=false buffer-name={name} {more} )"
        ));
        let pad = gst::Pad::builder(gst::PadDirection::Src)
            .name("src")
            .build();
        pad.link(&sender.element("sink").static_pad("sink").unwrap())
            .unwrap();
        pad.set_active(true).unwrap();
        sender.set_state(gst::State::Playing);
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        assert!(pad.push_event(gst::event::StreamStart::new("test")));
        assert!(pad.push_event(gst::event::Caps::new(&caps)));
        assert!(pad.push_event(gst::event::Segment::new(&segment)));

        let mut query = gst::query::Allocation::new(Some(&caps), true);
        assert!(pad.peer_query(&mut query));
        let (pool, size, ..) = query.allocation_pools().next().unwrap().to_owned();
        assert_eq!(size as usize, info.size());
        let pool = pool.unwrap();
        pool.set_active(true).unwrap();
        Feed {
            sender,
            pad,
            pool,
            info,
        }
    }

    /// A buffer of the pool with the frame of this number in it.
    pub fn acquire(&self, seed: u64) -> gst::Buffer {
        let mut buffer = self.pool.acquire_buffer(None).unwrap();
        let mut map = buffer.get_mut().unwrap().map_writable().unwrap();
        map.copy_from_slice(&self.frame(seed));
        drop(map);
        buffer
    }

    /// Whether a buffer is a place in the ring.
    pub fn is_in_ring(buffer: &gst::BufferRef) -> bool {
        buffer.n_memory() == 1 && buffer.peek_memory(0).is_type("ZeroBufferRing")
    }

    /// An ordinary buffer with the same.
    pub fn foreign(&self, seed: u64) -> gst::Buffer {
        gst::Buffer::from_slice(self.frame(seed))
    }

    pub fn frame(&self, seed: u64) -> Vec<u8> {
        pattern(self.info.size(), seed)
    }

    #[track_caller]
    pub fn push(&self, buffer: gst::Buffer) {
        if let Err(err) = self.pad.push(buffer) {
            panic!("{err}: {}", self.sender.error());
        }
    }

    /// Whether so many frames have been sent in place, and copied.
    #[track_caller]
    pub fn counts(&self, in_place: u64, copied: u64) {
        let counts = ["in-place", "copied"].map(|field| self.sender.stat("sink", field));
        assert_eq!(counts, [in_place, copied], "in place, copied");
    }
}

/// A feed and its receiver.
pub struct Bench {
    feed: Feed,
    pub receiver: Pipeline,
}

impl Bench {
    /// `ring` are further properties of the source.
    pub fn new(name: &str, ring: &str) -> Self {
        Self::with_caps(name, CAPS, ring)
    }

    pub fn with_caps(name: &str, caps: &str, ring: &str) -> Self {
        let receiver = Pipeline::play(&format!(
            "zerobuffersrc name=src buffer-name={name} {ring} ! appsink name=out sync=false"
        ));
        let feed = Feed::new(name, caps, "");
        Bench { feed, receiver }
    }

    pub fn pull(&self) -> Vec<u8> {
        let sample = self.receiver.appsink("out").pull_sample().unwrap();
        let bytes = sample.buffer().unwrap().map_readable().unwrap();
        bytes.to_vec()
    }

    #[track_caller]
    pub fn expect(&self, seed: u64) {
        assert!(self.pull() == self.frame(seed), "frame {seed}");
    }
}

impl Deref for Bench {
    type Target = Feed;

    fn deref(&self) -> &Feed {
        &self.feed
    }
}
