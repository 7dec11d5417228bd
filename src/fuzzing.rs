//! What a peer's texts and records go through in the elements, as functions of bytes: for the fuzz
//! targets (`fuzz/`) and `tests/hostile.rs`. Not for applications.

use std::cell::RefCell;
use std::str::FromStr;
use std::sync::OnceLock;

use gst::glib;
use gstreamer as gst;

use crate::frame_info::{self, Times};
use crate::protocol::Records;
use crate::{events, metas, stream_info};

/// Bytes of the frame that the records belong to.
const FRAME: usize = 4096;

/// What the frames of the streams are that the records belong to.
const CAPS: [&str; 4] = [
    "video/x-raw,format=RGB,width=32,height=24,framerate=30/1",
    "video/x-raw,format=I420,width=48,height=32,framerate=30/1",
    "audio/x-raw,format=S16LE,rate=48000,channels=2,channel-mask=(bitmask)3,layout=interleaved",
    "audio/x-raw,format=S16LE,rate=48000,channels=2,channel-mask=(bitmask)3,layout=non-interleaved",
];

fn caps() -> &'static [gst::Caps] {
    static ALL: OnceLock<Vec<gst::Caps>> = OnceLock::new();
    ALL.get_or_init(|| {
        let _ = gst::init();
        glib::log_set_default_handler(judge);
        CAPS.iter()
            .filter_map(|caps| gst::Caps::from_str(caps).ok())
            .collect()
    })
}

thread_local! {
    /// What GLib has complained of.
    static COMPLAINT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What GLib only complains of is a fault of ours: it was given what it must not be given. But not
/// where GStreamer's own parser tries names and ranges before it finds that they are none.
fn judge(domain: Option<&str>, level: glib::LogLevel, message: &str) {
    let serious = matches!(level, glib::LogLevel::Error | glib::LogLevel::Critical);
    let parser = [
        "gst_caps_features_",
        "gst_date_time_",
        "gst_structure_new_empty:",
        "gst_tag_list_new_from_string:",
        "gst_value_",
    ];
    if serious && !parser.iter().any(|begin| message.starts_with(begin)) {
        let complaint = format!("{}: {message}", domain.unwrap_or_default());
        COMPLAINT.set(Some(complaint));
    }
}

/// Fails with what GLib has complained of since the last time; not at once, since a panic must not
/// cross GLib.
fn expect_no_complaint() {
    assert_eq!(COMPLAINT.take(), None);
}

/// Metadata, as the source takes it for caps.
pub fn metadata(bytes: &[u8]) {
    caps();
    let prefix = stream_info::to_prefix(bytes);
    if let Ok(caps) = stream_info::to_caps(bytes) {
        stream_info::raw_video(&caps);
        // And it comes out as what can be taken again.
        let again = stream_info::to_metadata(&caps, "fuzz", prefix);
        assert_eq!(stream_info::to_prefix(&again), prefix);
        let _ = stream_info::to_caps(&again);
    }
    expect_no_complaint();
}

/// The records of a frame, or of a message, as the source takes them.
pub fn records(bytes: &[u8]) {
    let Ok(records) = Records::parse(bytes.to_vec()) else {
        return;
    };
    // What was taken is whole: it can be gone through, sent on and parsed again.
    assert_eq!(
        Records::parse(records.as_bytes().to_vec()).as_ref(),
        Ok(&records)
    );
    for caps in caps() {
        let Ok(mut buffer) = gst::Buffer::with_size(FRAME) else {
            return;
        };
        let Some(writable) = buffer.get_mut() else {
            return;
        };
        if let Some(time) = records.time() {
            let now = gst::ClockTime::SECOND;
            for times in [
                Times::Untouched,
                Times::At(now, -0.5),
                Times::Arrived(now),
                Times::None,
            ] {
                frame_info::apply_time(&time, times, writable);
            }
        }
        let video = stream_info::raw_video(caps);
        let other = records.layout().zip(video.as_ref());
        let moved = other.is_some_and(|(layout, video)| {
            frame_info::apply_layout(&layout, video, FRAME, writable)
        });
        metas::from_records(&records, Some(caps), writable);
        if let (true, Some(video)) = (moved, &video) {
            let _ = frame_info::with_default_layout(&buffer, video);
        }
    }
    if let Some(text) = records.caps() {
        let _ = stream_info::parse_caps(text);
    }
    let time = |monotonic: Option<u64>, pts| monotonic.map_or(pts, gst::ClockTime::from_nseconds);
    drop(events::from_records(&records, time).collect::<Vec<_>>());
    expect_no_complaint();
}
