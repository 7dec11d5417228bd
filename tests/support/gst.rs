//! Pipelines for the tests of the elements.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;
use std::sync::Once;
use std::time::Instant;

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use crate::support::LONG;

/// GStreamer with our elements, once for this program.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gstzerobuffer::plugin_register_static().unwrap();
    });
}

/// A pipeline that ends with its test.
pub struct Pipeline {
    pub pipeline: gst::Pipeline,
    bus: gst::Bus,
}

impl Pipeline {
    #[track_caller]
    pub fn new(description: &str) -> Self {
        init();
        let pipeline = gst::parse::launch(description)
            .unwrap_or_else(|err| panic!("{description}: {err}"))
            .downcast::<gst::Pipeline>()
            .unwrap();
        let bus = pipeline.bus().unwrap();
        Pipeline { pipeline, bus }
    }

    /// One that plays already.
    #[track_caller]
    pub fn play(description: &str) -> Self {
        let pipeline = Self::new(description);
        pipeline.set_state(gst::State::Playing);
        pipeline
    }

    #[track_caller]
    pub fn set_state(&self, state: gst::State) {
        if self.pipeline.set_state(state).is_err() {
            panic!("to {state:?}: {}", self.error());
        }
    }

    pub fn element(&self, name: &str) -> gst::Element {
        self.pipeline.by_name(name).unwrap()
    }

    /// A counter of the `stats` of an element.
    pub fn stat(&self, element: &str, field: &str) -> u64 {
        let stats: gst::Structure = self.element(element).property("stats");
        stats.get(field).unwrap()
    }

    /// Waits until a counter has at least this value.
    #[track_caller]
    pub fn until(&self, element: &str, field: &str, value: u64) {
        let began = Instant::now();
        while self.stat(element, field) < value {
            self.no_error();
            assert!(began.elapsed() < LONG, "{field} is no {value} yet");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    pub fn no_error(&self) {
        if let Some(message) = self.bus.pop_filtered(&[gst::MessageType::Error]) {
            panic!("{}", text(&message));
        }
    }

    /// The next message of these types.
    pub fn message(&self, types: &[gst::MessageType]) -> gst::Message {
        self.bus
            .timed_pop_filtered(gst::ClockTime::from_seconds(120), types)
            .expect("no message for two minutes")
    }

    /// Forgets the messages so far.
    pub fn clear(&self) {
        while self.bus.pop().is_some() {}
    }

    /// Waits for the end of the stream.
    #[track_caller]
    pub fn end(&self) {
        let message = self.message(&[gst::MessageType::Eos, gst::MessageType::Error]);
        assert_eq!(message.type_(), gst::MessageType::Eos, "{}", text(&message));
    }

    /// Waits for an error and returns its text.
    #[track_caller]
    pub fn error(&self) -> String {
        let message = self.message(&[gst::MessageType::Eos, gst::MessageType::Error]);
        assert_eq!(
            message.type_(),
            gst::MessageType::Error,
            "an error was due, but the stream just ended"
        );
        text(&message)
    }

    /// Waits for a change of state to be done.
    #[track_caller]
    pub fn reached(&self) {
        let (changed, ..) = self.pipeline.state(gst::ClockTime::from_seconds(120));
        assert_ne!(changed, Ok(gst::StateChangeSuccess::Async));
        changed.unwrap();
    }

    /// Answers the allocation query at the appsink `out`: GstVideoMeta is welcome.
    pub fn take_layouts(&self) {
        let pad = self.element("out").static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| {
            if let Some(query) = info.query_mut()
                && let gst::QueryViewMut::Allocation(query) = query.view_mut()
            {
                query.add_allocation_meta::<gst_video::VideoMeta>(None);
                return gst::PadProbeReturn::Handled;
            }
            gst::PadProbeReturn::Ok
        })
        .unwrap();
    }

    pub fn appsrc(&self, name: &str) -> gst_app::AppSrc {
        self.element(name).downcast().unwrap()
    }

    pub fn appsink(&self, name: &str) -> gst_app::AppSink {
        self.element(name).downcast().unwrap()
    }
}

/// A receiver whose appsink keeps everything.
pub fn receiver(name: &str, more: &str) -> Pipeline {
    Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={name} {more} ! appsink name=out sync=false"
    ))
}

/// A sender that takes its buffers from the test.
pub fn sender(name: &str, caps: &gst::Caps) -> Pipeline {
    let sender = Pipeline::new(&format!(
        "appsrc name=in format=time max-bytes=0 \
         ! zerobuffersink name=sink sync=false buffer-name={name}"
    ));
    sender.appsrc("in").set_caps(Some(caps));
    sender.set_state(gst::State::Playing);
    sender
}

pub fn bytes(sample: &gst::Sample) -> Vec<u8> {
    sample.buffer().unwrap().map_readable().unwrap().to_vec()
}

pub fn caps(text: &str) -> gst::Caps {
    init();
    gst::Caps::from_str(text).unwrap()
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// What gst-launch-1.0 would print of an error.
pub fn text(message: &gst::Message) -> String {
    match message.view() {
        gst::MessageView::Error(err) => err.error().message().to_string(),
        gst::MessageView::Warning(warning) => warning.error().message().to_string(),
        other => format!("{other:?}"),
    }
}

const PLUGIN: &str = "libgstzerobuffer.so";

/// gst-launch-1.0 with the plugin that this test run built, in a folder of the test's own.
pub fn launch(folder: &Path, line: &str) -> Command {
    // Cargo builds the library for this test beside it; what is one folder up may be older.
    let plugin = std::env::current_exe().unwrap().with_file_name(PLUGIN);
    let link = folder.join(PLUGIN);
    if std::fs::read_link(&link).is_ok_and(|leads_to| leads_to != plugin) {
        // The folder was moved here. Another test may have seen that, too.
        let _ = std::fs::remove_file(&link);
    }
    match std::os::unix::fs::symlink(plugin, link) {
        // Tests that share a folder come here at the same time.
        Err(err) if err.kind() == ErrorKind::AlreadyExists => {}
        made => made.unwrap(),
    }
    let mut command = Command::new("gst-launch-1.0");
    command
        .arg("-q")
        .args(line.split_whitespace())
        .env("GST_PLUGIN_PATH", folder)
        .env("GST_REGISTRY", folder.join("registry.bin"));
    command
}
