//! The properties of the sink.

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

use super::{OnCapsChange, OnFull, OnReaderGone};
use crate::element;
use crate::frame_prefix::FramePrefix;

/// Three frames: one that is drawn, one on its way, one that is read.
const DEFAULT_FRAMES: u32 = 3;

#[derive(Debug)]
pub struct Settings {
    pub buffer_name: Option<String>,
    pub wait_for_connection: bool,
    pub on_reader_gone: OnReaderGone,
    pub on_full: OnFull,
    pub on_caps_change: OnCapsChange,
    pub timeout: gst::ClockTime,
    /// Frames that the ring should have room for.
    pub frames: u32,
    pub frame_prefix: FramePrefix,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            buffer_name: None,
            wait_for_connection: true,
            on_reader_gone: OnReaderGone::default(),
            on_full: OnFull::default(),
            on_caps_change: OnCapsChange::default(),
            timeout: gst::ClockTime::ZERO,
            frames: DEFAULT_FRAMES,
            frame_prefix: FramePrefix::default(),
        }
    }
}

impl Settings {
    /// Sets a property that is kept here.
    pub fn set(&mut self, name: &str, value: &glib::Value) {
        // GObject has checked types and ranges.
        match name {
            "buffer-name" => self.buffer_name = value.get().unwrap_or_default(),
            "wait-for-connection" => {
                self.wait_for_connection = value.get().unwrap_or_default();
            }
            "on-reader-gone" => self.on_reader_gone = value.get().unwrap_or_default(),
            "on-full" => self.on_full = value.get().unwrap_or_default(),
            "on-caps-change" => self.on_caps_change = value.get().unwrap_or_default(),
            "frames" => self.frames = value.get().unwrap_or(DEFAULT_FRAMES),
            "timeout" => {
                self.timeout = gst::ClockTime::from_nseconds(value.get().unwrap_or_default());
            }
            "timeout-ms" => {
                let ms: u32 = value.get().unwrap_or_default();
                self.timeout = gst::ClockTime::from_mseconds(ms.into());
            }
            "frame-prefix" => self.frame_prefix = value.get().unwrap_or_default(),
            _ => {}
        }
    }

    /// A property that is kept here.
    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "buffer-name" => self.buffer_name.to_value(),
            "wait-for-connection" => self.wait_for_connection.to_value(),
            "on-reader-gone" => self.on_reader_gone.to_value(),
            "on-full" => self.on_full.to_value(),
            "on-caps-change" => self.on_caps_change.to_value(),
            "frames" => self.frames.to_value(),
            "timeout" => self.timeout.nseconds().to_value(),
            "timeout-ms" => u32::try_from(self.timeout.mseconds())
                .unwrap_or(u32::MAX)
                .to_value(),
            "frame-prefix" => self.frame_prefix.to_value(),
            _ => return None,
        })
    }
}

/// All of them, those of the element among them.
pub fn properties() -> Vec<glib::ParamSpec> {
    vec![
        glib::ParamSpecString::builder("buffer-name")
            .nick("Buffer name")
            .blurb(
                "Name of the ZeroBuffer to write to, the same as at the reader: 1 to 245 \
                         bytes, no slash, not starting with 'sem.'",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecBoolean::builder("wait-for-connection")
            .nick("Wait for connection")
            .blurb(
                "Hold the stream while there is no reader (otherwise: drop its frames \
                         until there is one)",
            )
            .default_value(true)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("on-reader-gone", OnReaderGone::default())
            .nick("On reader gone")
            .blurb("What happens to the stream when its reader has closed or died")
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("on-full", OnFull::default())
            .nick("On full")
            .blurb("What happens to a frame for which the ring has no room")
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("on-caps-change", OnCapsChange::default())
            .nick("On caps change")
            .blurb(
                "What happens when the caps change in the middle of a stream to a reader of \
                     another implementation, which cannot be told (zerobuffersrc can)",
            )
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("frames")
            .nick("Frames")
            .blurb(
                "For how many frames a zerobuffersrc with payload-size=0 is asked to make \
                         room: more than 3 where upstream or downstream keeps some",
            )
            .minimum(1)
            .maximum(1000)
            .default_value(DEFAULT_FRAMES)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt64::builder("timeout")
            .nick("Timeout")
            .blurb(
                "Longest wait for a reader or for room, in nanoseconds; when it is over \
                         the element posts an error (5000000000 = 5 s; 0 = without end)",
            )
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("timeout-ms")
            .nick("Timeout in milliseconds")
            .blurb("The property timeout in milliseconds, as RocketWelder's elements have it")
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("frame-prefix", FramePrefix::default())
            .nick("Frame prefix")
            .blurb(
                "What is in front of the pixels of each frame; with rocket-welder only raw \
                         video in formats that its SDK reads is taken, and rows have no padding",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb(element::STATS_BLURB)
            .read_only()
            .build(),
    ]
}
