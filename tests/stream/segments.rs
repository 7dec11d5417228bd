//! What the PTS of a stream mean: the sender's segment goes along where they are untouched, and a
//! stream that is played backwards arrives like any other.

use std::path::Path;

use gst::prelude::*;
use gstreamer as gst;

use super::support::{Name, pattern};
use super::support_gst::{Pipeline, init};
use super::{all, bytes, caps, pts, receiver};

type Segment = gst::FormattedSegment<gst::ClockTime>;

fn segment(rate: f64, start: u64, stop: Option<u64>, base: u64, time: u64) -> Segment {
    init();
    let millis = gst::ClockTime::from_mseconds;
    let mut segment = Segment::new();
    segment.set_rate(rate);
    segment.set_start(millis(start));
    segment.set_position(millis(start));
    segment.set_stop(stop.map(millis));
    segment.set_base(millis(base));
    segment.set_time(millis(time));
    segment
}

/// Sends two frames in each of these segments and returns the segments in which they arrived, with
/// their PTS and durations.
fn arrive(segments: &[Segment], property: &str) -> Vec<(Segment, u64, u64)> {
    let name = Name::new("segments");
    let receiver = receiver(&name, property);
    let sender = Pipeline::play(&format!(
        "appsrc name=in format=time handle-segment-change=true \
         ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let caps = caps("application/x-test");
    for segment in segments {
        for i in 0..2 {
            let mut buffer = gst::Buffer::from_slice(pattern(10, i));
            let edit = buffer.get_mut().unwrap();
            // A source ends where it is played backwards to the start.
            let inside = gst::ClockTime::from_mseconds(10 + i);
            edit.set_pts(segment.start().map(|start| start + inside));
            edit.set_duration(gst::ClockTime::MSECOND);
            let sample = gst::Sample::builder()
                .buffer(&buffer)
                .caps(&caps)
                .segment(segment.upcast_ref())
                .build();
            sender.appsrc("in").push_sample(&sample).unwrap();
        }
    }
    sender.appsrc("in").end_of_stream().unwrap();
    let got = all(&receiver);
    sender.end();
    (got.iter())
        .map(|sample| {
            let mut segment: Segment = sample.segment().unwrap().clone().downcast().unwrap();
            // How far the appsink has come in it.
            segment.set_position(segment.start());
            let duration = sample.buffer().unwrap().duration().unwrap();
            (segment, pts(sample), duration.nseconds())
        })
        .collect()
}

fn some_segments() -> Vec<Segment> {
    vec![
        segment(1.0, 66, None, 0, 0),
        segment(2.0, 5000, Some(9000), 100, 4000),
        segment(2.0, 5000, Some(9000), 100, 4000),
        // An encoder that needs room for a DTS before 0.
        segment(1.0, 3_600_000_000, None, 2100, 0),
        segment(-1.5, 1000, Some(2000), 0, 1000),
        segment(1.0, 0, None, 0, 0),
    ]
}

#[test]
fn untouched_times_come_in_the_segments_of_the_sender() {
    let sent = some_segments();
    let got = arrive(&sent, "timestamps=pts");
    assert_eq!(got.len(), 2 * sent.len(), "{got:#?}");
    for (sent, got) in sent.iter().zip(got.chunks(2)) {
        for (i, (segment, pts, duration)) in (0..).zip(got) {
            assert_eq!(segment, sent);
            assert_eq!(
                *pts,
                sent.start().unwrap().nseconds() + (10 + i) * 1_000_000
            );
            assert_eq!(*duration, 1_000_000);
        }
    }
}

#[test]
fn other_times_come_in_a_segment_of_the_receiver() {
    let sent = some_segments();
    let own = segment(1.0, 0, None, 0, 0);
    for property in ["", "timestamps=arrival"] {
        let got = arrive(&sent, property);
        assert_eq!(got.len(), 2 * sent.len(), "{got:#?}");
        assert!(got.iter().all(|(segment, _, _)| *segment == own), "{got:?}");
        for (sent, got) in sent.iter().zip(got.chunks(2)) {
            // As long as it is played; on arrival nothing is known but what was said.
            let rate = if property.is_empty() {
                sent.rate().abs()
            } else {
                1.0
            };
            assert_eq!(got[0].2, (1_000_000.0 / rate) as u64);
        }
    }
}

#[test]
fn the_next_sender_begins_in_a_segment_of_its_own() {
    let name = Name::new("segments-next");
    let receiver = receiver(&name, "timestamps=pts on-writer-exit=wait");
    let output = receiver.appsink("out");
    for (start, rate) in [(7000, 2.0), (0, 1.0), (3000, 1.0)] {
        let sender = Pipeline::play(&format!(
            "appsrc name=in format=time handle-segment-change=true \
             ! zerobuffersink name=sink sync=false buffer-name={}",
            &*name
        ));
        let sent = segment(rate, start, None, 0, 0);
        let mut buffer = gst::Buffer::from_slice([1; 9]);
        buffer.get_mut().unwrap().set_pts(sent.start());
        let sample = gst::Sample::builder()
            .buffer(&buffer)
            .caps(&caps("application/x-test"))
            .segment(sent.upcast_ref())
            .build();
        sender.appsrc("in").push_sample(&sample).unwrap();
        let sample = output.pull_sample().unwrap();
        let got: &Segment = sample.segment().unwrap().downcast_ref().unwrap();
        assert_eq!((got.start(), got.rate()), (sent.start(), rate));
        sender.appsrc("in").end_of_stream().unwrap();
        sender.end();
    }
}

/// A clip of two seconds with a key frame every ten, each frame another.
fn clip(folder: &Path) -> String {
    let file = folder.join("clip.mp4").display().to_string();
    Pipeline::play(&format!(
        "videotestsrc num-buffers=50 pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
         ! x264enc bframes=2 b-adapt=false key-int-max=10 ! h264parse ! mp4mux \
         ! filesink location={file}"
    ))
    .end();
    file
}

/// Plays this much of a file (ms) at a rate.
fn play(pipeline: &Pipeline, rate: f64) {
    pipeline.set_state(gst::State::Paused);
    pipeline.reached();
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
    let millis = gst::ClockTime::from_mseconds;
    (pipeline.pipeline)
        .seek(
            rate,
            flags,
            gst::SeekType::Set,
            millis(400),
            gst::SeekType::Set,
            millis(1600),
        )
        .unwrap();
    pipeline.reached();
    pipeline.set_state(gst::State::Playing);
}

/// The pictures of a file that is played without us.
fn straight(file: &str, rate: f64) -> Vec<(u64, Vec<u8>)> {
    let straight = Pipeline::new(&format!(
        "filesrc location={file} ! qtdemux ! avdec_h264 max-threads=1 ! appsink name=out sync=false"
    ));
    play(&straight, rate);
    let got = all(&straight);
    got.iter()
        .map(|sample| (pts(sample), bytes(sample)))
        .collect()
}

#[test]
fn a_file_that_is_played_backwards_arrives_as_it_is_played() {
    let folder = tempfile::tempdir().unwrap();
    let file = clip(folder.path());
    let due = straight(&file, -1.0);
    assert!(due.len() >= 30, "{}", due.len());
    assert!(due.windows(2).all(|pair| pair[0].0 > pair[1].0));
    for property in ["timestamps=pts", "timestamps=sender"] {
        let name = Name::new("backwards");
        let receiver = receiver(&name, property);
        let sender = Pipeline::new(&format!(
            "filesrc location={file} ! qtdemux ! avdec_h264 max-threads=1 \
             ! zerobuffersink name=sink sync=false buffer-name={}",
            &*name
        ));
        play(&sender, -1.0);
        let got = all(&receiver);
        sender.end();
        // What was shown before the seek is another stream.
        let got = &got[got.len() - due.len()..];
        for (got, (due, picture)) in got.iter().zip(&due) {
            assert!(bytes(got) == *picture);
            if property == "timestamps=pts" {
                assert_eq!(pts(got), *due);
                assert_eq!(got.segment().unwrap().rate(), -1.0);
            }
        }
        if property == "timestamps=sender" {
            let step = |pair: &[gst::Sample]| pts(&pair[1]) - pts(&pair[0]);
            assert!(got.windows(2).all(|pair| step(pair) == 40_000_000));
        }
    }
}

#[test]
fn coded_frames_of_a_file_that_is_played_backwards_are_decoded_behind_the_ring() {
    let folder = tempfile::tempdir().unwrap();
    let file = clip(folder.path());
    let due = straight(&file, -1.0);
    let name = Name::new("coded-backwards");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src timestamps=pts buffer-name={} ! avdec_h264 max-threads=1 \
         ! appsink name=out sync=false",
        &*name
    ));
    let sender = Pipeline::new(&format!(
        "filesrc location={file} ! qtdemux ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    play(&sender, -1.0);
    let got = all(&receiver);
    sender.end();
    assert!(got.len() >= due.len(), "{} {}", got.len(), due.len());
    let got = &got[got.len() - due.len()..];
    for (got, (due, picture)) in got.iter().zip(&due) {
        assert_eq!(pts(got), *due);
        assert!(bytes(got) == *picture);
    }
}
