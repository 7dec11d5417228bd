//! A worker in the hand of the test: it answers what the test says. What it gives are buffers of its
//! own, which nothing ties to what it got unless the test gives back what it took.

// Each test program uses its own part of this.
#![allow(dead_code)]

use gstreamer as gst;

use crate::support_gst::Pipeline;

pub struct Hand {
    takes: Pipeline,
    gives: Pipeline,
}

impl Hand {
    /// Of this channel; its answers are of these caps.
    pub fn new(name: &str, caps: &str) -> Self {
        let takes = Pipeline::play(&format!(
            "zerobuffersrc buffer-name={name}_request on-writer-exit=wait \
             ! appsink name=out sync=false"
        ));
        let gives = Pipeline::play(&format!(
            "appsrc name=in format=time caps={caps} ! zerobuffersink buffer-name={name}_response"
        ));
        Hand { takes, gives }
    }

    /// The next request.
    pub fn take(&self) -> gst::Buffer {
        let out = self.takes.appsink("out");
        let sample = out.try_pull_sample(gst::ClockTime::from_seconds(120));
        sample.expect("no request").buffer_owned().unwrap()
    }

    /// The bytes of the next request, which is given back with that.
    pub fn take_bytes(&self) -> Vec<u8> {
        self.take().map_readable().unwrap().to_vec()
    }

    pub fn give(&self, answer: gst::Buffer) {
        self.gives.appsrc("in").push_buffer(answer).unwrap();
    }

    pub fn give_bytes(&self, answer: Vec<u8>) {
        self.give(gst::Buffer::from_slice(answer));
    }
}
