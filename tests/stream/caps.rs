//! Caps change in the middle of a stream, and no frame is lost or mistaken for another.

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;
use gstzerobuffer::{BufferConfig, Error, Reader, Writer};

use super::support::v1::V1Reader;
use super::support::{LONG, Name, pattern};
use super::support_gst::Pipeline;
use super::{all, bytes, caps, offset, receiver, sender};

/// Whether a frame has the size that its caps need.
fn belongs(sample: &gst::Sample) -> (u32, u32) {
    let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
    assert_eq!(sample.buffer().unwrap().size(), info.size(), "{info:?}");
    (info.width(), info.height())
}

#[test]
fn an_input_selector_that_switches_sizes_loses_nothing() {
    let name = Name::new("selector");
    let receiver = receiver(&name, "");
    let sender = Pipeline::new(&format!(
        "input-selector name=selector sync-streams=false ! zerobuffersink name=sink sync=false \
         buffer-name={} \
         videotestsrc pattern=snow ! video/x-raw,format=RGB,width=64,height=48 ! selector. \
         videotestsrc pattern=ball ! video/x-raw,format=I420,width=320,height=240 ! selector.",
        &*name
    ));
    let selector = sender.element("selector");
    let pads = selector.sink_pads();
    sender.set_state(gst::State::Playing);
    let output = receiver.appsink("out");
    let mut sizes = Vec::new();
    for turn in 0..20 {
        selector.set_property("active-pad", &pads[turn % 2]);
        let due = [(64, 48), (320, 240)][turn % 2];
        loop {
            let found = belongs(&output.pull_sample().unwrap());
            if sizes.last() != Some(&found) {
                sizes.push(found);
            }
            if found == due {
                break;
            }
        }
    }
    assert!(sizes.len() >= 19, "{sizes:?}");
    drop(sender);
    while output
        .pull_sample()
        .is_ok_and(|sample| belongs(&sample) > (0, 0))
    {}
    receiver.end();
}

#[test]
fn caps_that_change_two_hundred_times_at_run_time() {
    let name = Name::new("run-time");
    let receiver = receiver(&name, "");
    let sender = Pipeline::new(&format!(
        "videotestsrc name=test pattern=ball ! capsfilter name=filter \
         caps=video/x-raw,format=GRAY8,width=100,height=48,framerate=1000/1 \
         ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let filter = sender.element("filter");
    sender.set_state(gst::State::Playing);
    let output = receiver.appsink("out");
    let mut last = None;
    for turn in 0..200_u32 {
        let width = 100 + 4 * (turn % 7) + turn;
        let next = caps(&format!(
            "video/x-raw,format=GRAY8,width={width},height={},framerate=1000/1",
            48 + turn % 3
        ));
        filter.set_property("caps", &next);
        loop {
            let sample = output.pull_sample().unwrap();
            let (found, _) = belongs(&sample);
            // The source counts the frames that it made.
            let number = offset(&sample);
            assert!(
                last.is_none_or(|last| number == last + 1),
                "{last:?}, then {number}"
            );
            last = Some(number);
            if found == width {
                break;
            }
        }
    }
    assert!(sender.stat("sink", "in-place") > 0);
    drop(sender);
    while output.pull_sample().is_ok() {}
    receiver.end();
}

#[test]
fn interlaced_becomes_progressive_and_back() {
    let name = Name::new("interlaced");
    let modes = ["progressive", "interleaved", "mixed"].map(|mode| {
        caps(&format!(
            "video/x-raw,format=I420,width=16,height=16,framerate=25/1,interlace-mode={mode}"
        ))
    });
    let receiver = receiver(&name, "");
    let sender = sender(&name, &modes[0]);
    let input = sender.appsrc("in");
    let sent: Vec<_> = (0..30)
        .map(|i| (modes[i % 3].clone(), pattern(384, i as u64)))
        .collect();
    for (caps, bytes) in &sent {
        let buffer = gst::Buffer::from_slice(bytes.clone());
        let sample = gst::Sample::builder().buffer(&buffer).caps(caps).build();
        input.push_sample(&sample).unwrap();
    }
    input.end_of_stream().unwrap();
    let got: Vec<_> = (all(&receiver).iter())
        .map(|sample| (sample.caps_owned().unwrap(), bytes(sample)))
        .collect();
    assert_eq!(got.len(), 30);
    for ((got, at), (sent, from)) in got.iter().zip(&sent) {
        assert_eq!(got, sent);
        assert!(at == from);
    }
    sender.end();
}

#[test]
fn anything_becomes_anything_else() {
    let name = Name::new("anything");
    let receiver = receiver(&name, "");
    let kinds = [
        "video/x-raw,format=RGB,width=5,height=4,framerate=25/1",
        "audio/x-raw,format=S16LE,rate=44100,channels=2,layout=interleaved",
        "application/x-test,text=(string)\"a\\ b\"",
        "video/x-raw,format=GRAY8,width=80,height=1,framerate=0/1",
    ]
    .map(caps);
    let sender = sender(&name, &kinds[0]);
    let input = sender.appsrc("in");
    for i in 0..100 {
        let buffer = gst::Buffer::from_slice(pattern(80, i as u64));
        let sample = gst::Sample::builder()
            .buffer(&buffer)
            .caps(&kinds[i % 4])
            .build();
        input.push_sample(&sample).unwrap();
    }
    input.end_of_stream().unwrap();
    let got = all(&receiver);
    assert_eq!(got.len(), 100);
    for (i, sample) in got.iter().enumerate() {
        assert_eq!(sample.caps().unwrap(), &*kinds[i % 4]);
        let len = if i % 4 == 0 { 64 } else { 80 };
        assert_eq!(bytes(sample), pattern(80, i as u64)[..len]);
    }
    sender.end();
}

#[test]
fn a_reader_of_another_implementation_opens_anew_for_new_caps() {
    let name = Name::new("reopen");
    let small = caps("video/x-raw,format=GRAY8,width=8,height=8,framerate=25/1");
    let large = caps("video/x-raw,format=GRAY8,width=16,height=8,framerate=25/1");
    let mut first = V1Reader::create(&name, 1024, 1 << 16);
    let lock = first.lock();
    let sender = Pipeline::new(&format!(
        "appsrc name=in format=time ! zerobuffersink name=sink sync=false on-caps-change=reopen \
         buffer-name={}",
        &*name
    ));
    sender.set_state(gst::State::Playing);
    let input = sender.appsrc("in");
    let push = |caps: &gst::Caps, bytes: &[u8]| {
        let buffer = gst::Buffer::from_slice(bytes.to_vec());
        let sample = gst::Sample::builder().buffer(&buffer).caps(caps).build();
        input.push_sample(&sample).unwrap();
    };
    for i in 0..3 {
        push(&small, &pattern(64, i));
    }
    push(&large, &pattern(128, 3));
    sender.until("sink", "frames", 3);
    // The writer goes, and what it wrote is there.
    while first.raw.get(super::support::raw::WRITER_PID) != 0 {
        sender.no_error();
        std::thread::yield_now();
    }
    for i in 0..3 {
        assert_eq!(first.read(), Some(pattern(64, i)));
    }
    assert_eq!(first.read(), None);
    // As long as this buffer is there, nobody comes with other caps.
    assert_eq!(sender.stat("sink", "frames"), 3);
    drop(lock);
    drop(first);
    let next = Reader::create(&name, &BufferConfig::new(1024, 1 << 16)).unwrap();
    assert_eq!(*next.read_frame(LONG).unwrap(), pattern(128, 3)[..]);
    let metadata = next.metadata().unwrap().unwrap();
    assert!(
        String::from_utf8(metadata)
            .unwrap()
            .contains("width=(int)16")
    );
    input.end_of_stream().unwrap();
    sender.end();
    assert!(matches!(
        next.read_frame(LONG),
        Err(Error::WriterClosed { .. })
    ));
}

#[test]
fn caps_in_a_record_that_are_none_end_the_stream_with_an_error() {
    for bad in ["hello", "video/x-raw,width=[1,2]", ""] {
        let name = Name::new("bad-caps");
        let receiver = receiver(&name, "caps=application/x-test");
        let writer = Writer::attach_wait(&name, LONG).unwrap();
        let records = gstzerobuffer::Records::new().with_caps(bad);
        writer.write_frame_with(&[1; 9], &records, LONG).unwrap();
        let text = receiver.error();
        assert!(text.contains("its stream cannot go on"), "{text}");
    }
}

#[test]
fn caps_in_a_message_hold_from_there_on() {
    let name = Name::new("message");
    let receiver = receiver(&name, "");
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    writer.set_metadata(b"application/x-one").unwrap();
    writer.write_frame(&[1]).unwrap();
    let records = gstzerobuffer::Records::new().with_caps("application/x-two");
    assert!(writer.write_message(&records, LONG).unwrap());
    writer.write_frame(&[2]).unwrap();
    writer.close();
    let got: Vec<_> = (all(&receiver).iter())
        .map(|sample| sample.caps().unwrap().to_string())
        .collect();
    assert_eq!(got, ["application/x-one", "application/x-two"]);
}

#[test]
fn the_source_answers_for_the_caps_that_the_writer_announced() {
    let name = Name::new("query");
    let receiver = receiver(&name, "");
    let pad = receiver.element("src").static_pad("src").unwrap();
    assert!(pad.query_caps(None).is_any(), "nobody has said anything");
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    writer.set_metadata(b"application/x-one").unwrap();
    assert_eq!(pad.query_caps(None), caps("application/x-one"));
    let records = gstzerobuffer::Records::new().with_caps("application/x-two");
    writer.write_frame_with(&[1], &records, LONG).unwrap();
    receiver.appsink("out").pull_sample().unwrap();
    assert_eq!(pad.query_caps(None), caps("application/x-two"));
    let other = caps("application/x-three");
    assert!(pad.query_caps(Some(&other)).is_empty());
}
