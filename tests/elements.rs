//! What goes into zerobuffersink comes out of zerobuffersrc: caps and bytes, whatever they are.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;
use support::{Name, pattern};
use support_gst::{Pipeline, bytes, caps, init, receiver, sender};

/// Sends the buffers through a ring and returns what comes out, with its caps.
fn through(caps: &gst::Caps, buffers: Vec<gst::Buffer>, more: &str) -> Vec<gst::Sample> {
    let name = Name::new("elements");
    let receiver = receiver(&name, more);
    let sender = sender(&name, caps);
    let input = sender.appsrc("in");
    for buffer in buffers {
        input.push_buffer(buffer).unwrap();
    }
    input.end_of_stream().unwrap();
    let output = receiver.appsink("out");
    let mut samples = Vec::new();
    while let Ok(sample) = output.pull_sample() {
        samples.push(sample);
    }
    sender.end();
    receiver.end();
    receiver.no_error();
    samples
}

#[test]
fn every_raw_video_format_arrives_as_it_left_also_in_odd_sizes() {
    init();
    let formats: Vec<_> = gst_video::VideoFormat::iter_raw().collect();
    assert!(formats.len() > 70, "{}", formats.len());
    for format in formats {
        for (width, height) in [(63, 47), (1, 1), (320, 240)] {
            // Some formats have no such size (tiles, 4:1:0 with one pixel).
            let Ok(info) = gst_video::VideoInfo::builder(format, width, height)
                .fps(gst::Fraction::new(25, 1))
                .build()
            else {
                continue;
            };
            let caps = info.to_caps().unwrap();
            let sent = pattern(info.size(), u64::from(width));
            let got = through(&caps, vec![gst::Buffer::from_slice(sent.clone())], "");
            assert_eq!(got.len(), 1, "{caps}");
            assert_eq!(got[0].caps().unwrap(), &*caps);
            assert!(bytes(&got[0]) == sent, "{caps}");
        }
    }
}

#[test]
fn interlaced_and_described_video_keeps_its_caps() {
    for text in [
        "video/x-raw,format=I420,width=720,height=576,framerate=25/1,interlace-mode=interleaved,\
         field-order=top-field-first,pixel-aspect-ratio=16/15,colorimetry=bt601",
        "video/x-raw,format=I420_10LE,width=1919,height=1079,framerate=30000/1001,\
         interlace-mode=mixed,multiview-mode=mono,colorimetry=bt2100-pq,chroma-site=cosited,\
         mastering-display-info=(string)\"1:2:3:4:5:6:7:8:9:10\"",
    ] {
        let caps = caps(text);
        let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
        let sent = pattern(info.size(), 1);
        let got = through(&caps, vec![gst::Buffer::from_slice(sent.clone())], "");
        assert_eq!(got[0].caps().unwrap(), &*caps);
        assert!(bytes(&got[0]) == sent);
    }
}

#[test]
fn other_caps_travel_too_one_buffer_a_frame() {
    let long = "ab".repeat(9000);
    for text in [
        "audio/x-raw,format=S16LE,rate=44100,channels=2,layout=interleaved",
        "image/jpeg,width=640,height=480,framerate=30/1",
        "video/x-h264,stream-format=avc,alignment=au,codec_data=(buffer)014d401fffe1",
        "application/x-anything,quoted=(string)\"a\\ \\\"b\\\"\\ c,\\ d=e\",list=(int)<1,2>",
        &format!("audio/x-vorbis,streamheader=(buffer)<{long}>"),
    ] {
        let caps = caps(text);
        let sent: Vec<_> = (1..50).map(|i| pattern(i * i, i as u64)).collect();
        let buffers = sent.iter().cloned().map(gst::Buffer::from_slice).collect();
        let got = through(&caps, buffers, "");
        assert_eq!(got[0].caps().unwrap(), &*caps);
        assert_eq!(got.iter().map(bytes).collect::<Vec<_>>(), sent, "{caps}");
    }
}

#[test]
fn frames_are_numbered_stamped_and_read_only_ring_memory() {
    let caps = caps("application/x-test");
    let buffers = (1..=20).map(|i| {
        let mut buffer = gst::Buffer::from_slice(pattern(1000, i));
        let writable = buffer.get_mut().unwrap();
        writable.set_offset(i);
        writable.set_offset_end(i + 1);
        buffer
    });
    let got = through(&caps, buffers.collect(), "payload-size=1048576");
    let mut last = gst::ClockTime::ZERO;
    for (i, sample) in got.iter().enumerate() {
        let buffer = sample.buffer().unwrap();
        assert_eq!(buffer.offset(), i as u64 + 1);
        assert_eq!(buffer.offset_end(), i as u64 + 2);
        assert!(buffer.pts().unwrap() >= last, "arrival in running time");
        last = buffer.pts().unwrap();
        assert_eq!(buffer.flags().contains(gst::BufferFlags::DISCONT), i == 0);
        let memory = buffer.peek_memory(0);
        assert!(memory.flags().contains(gst::MemoryFlags::READONLY));
    }
}

#[test]
fn foreign_strides_are_repacked_into_the_default_layout() {
    let caps = caps("video/x-raw,format=I420,width=63,height=47,framerate=25/1");
    let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
    let strides = [128, 96, 80];
    let offsets = [64, 64 + 128 * 48, 64 + 128 * 48 + 96 * 24];
    let mut buffer = gst::Buffer::from_slice(pattern(offsets[2] + 80 * 24, 3));
    gst_video::VideoMeta::add_full(
        buffer.get_mut().unwrap(),
        gst_video::VideoFrameFlags::empty(),
        gst_video::VideoFormat::I420,
        63,
        47,
        &offsets,
        &strides,
    )
    .unwrap();
    let source = buffer.map_readable().unwrap().to_vec();
    let got = through(&caps, vec![buffer], "");
    let arrived = bytes(&got[0]);
    assert_eq!(arrived.len(), info.size());
    for (plane, (width, height)) in [(63, 47), (32, 24), (32, 24)].into_iter().enumerate() {
        for row in 0..height {
            let from = offsets[plane] + row * strides[plane] as usize;
            let to = info.offset()[plane] + row * info.stride()[plane] as usize;
            assert_eq!(
                source[from..from + width],
                arrived[to..to + width],
                "plane {plane}, row {row}"
            );
        }
    }
}

#[test]
fn padding_behind_the_picture_stays_at_home() {
    let caps = caps("video/x-raw,format=RGB,width=10,height=10,framerate=25/1");
    let sent = pattern(10 * 32 + 777, 1);
    let got = through(&caps, vec![gst::Buffer::from_slice(sent.clone())], "");
    assert_eq!(bytes(&got[0]), sent[..320]);
}

#[test]
fn a_buffer_of_several_memories_is_one_frame_and_an_empty_one_is_none() {
    let caps = caps("application/x-test");
    let mut buffer = gst::Buffer::new();
    for i in 0..5 {
        let memory = gst::Memory::from_slice(pattern(100 + i, i as u64));
        buffer.get_mut().unwrap().append_memory(memory);
    }
    let sent = buffer.map_readable().unwrap().to_vec();
    let got = through(&caps, vec![gst::Buffer::new(), buffer], "");
    assert_eq!(got.len(), 1);
    assert_eq!(bytes(&got[0]), sent);
}

#[test]
fn caps_with_features_other_than_system_memory_are_refused() {
    init();
    let sink = gst::ElementFactory::make("zerobuffersink").build().unwrap();
    let pad = sink.static_pad("sink").unwrap();
    for text in [
        "video/x-raw(memory:DMABuf),format=DMA_DRM",
        "video/x-raw(memory:GLMemory),format=RGBA,width=1,height=1",
        "video/x-raw(meta:GstVideoOverlayComposition),format=I420,width=1,height=1",
        "video/x-raw(memory:SystemMemory,meta:GstVideoOverlayComposition),format=I420",
        "video/x-raw(format:Interlaced),format=I420,interlace-mode=alternate",
    ] {
        let caps = caps(text);
        assert!(!pad.query_accept_caps(&caps), "{text}");
        assert!(pad.query_caps(Some(&caps)).is_empty(), "{text}");
    }
    let both = caps("video/x-raw(memory:DMABuf),width=7;video/x-raw,width=8");
    assert_eq!(pad.query_caps(Some(&both)), caps("video/x-raw,width=8"));
    let any = caps("video/x-raw(ANY),width=7");
    assert_eq!(pad.query_caps(Some(&any)), caps("video/x-raw,width=7"));
    for text in ["video/x-raw(memory:SystemMemory),format=I420", "audio/mpeg"] {
        assert!(pad.query_accept_caps(&caps(text)), "{text}");
    }
    assert!(pad.query_caps(None).is_any());
}

#[test]
fn a_pipeline_with_other_memory_ends_with_an_error() {
    let name = Name::new("features");
    let pipeline = Pipeline::new(&format!(
        "appsrc name=in format=time ! zerobuffersink buffer-name={}",
        &*name
    ));
    let input = pipeline.appsrc("in");
    input.set_caps(Some(&caps(
        "video/x-raw(memory:GLMemory),format=RGBA,width=1,height=1,framerate=1/1",
    )));
    pipeline.set_state(gst::State::Playing);
    let _ = input.push_buffer(gst::Buffer::from_slice([0; 4]));
    assert!(!pipeline.error().is_empty());
}

#[test]
fn the_source_takes_bare_caps_strings_and_its_own_caps_property() {
    let format = "video/x-raw,format=GRAY8,width=4,height=4,framerate=30/1";
    for (metadata, more) in [
        (Some(format.to_string()), String::new()),
        (Some("no caps at all".into()), format!("caps={format}")),
        (None, format!("caps={format}")),
    ] {
        let name = Name::new("bare");
        let receiver = receiver(&name, &more);
        let writer = gstzerobuffer::Writer::attach_wait(&name, support::LONG).unwrap();
        if let Some(metadata) = metadata {
            writer.set_metadata(metadata.as_bytes()).unwrap();
        }
        writer.write_frame(&pattern(16, 0)).unwrap();
        drop(writer);
        let sample = receiver.appsink("out").pull_sample().unwrap();
        assert_eq!(sample.caps().unwrap(), &*caps(format));
        receiver.end();
    }
}

#[test]
fn received_frames_keep_their_bytes_however_they_are_held() {
    let name = Name::new("held");
    let receiver = receiver(&name, "payload-size=4096");
    let sender = sender(&name, &caps("application/x-test"));
    let (input, output) = (sender.appsrc("in"), receiver.appsink("out"));
    // Three of these are in the ring at a time.
    let sent: Vec<_> = (0..30).map(|i| pattern(1000, i)).collect();
    for bytes in &sent {
        input
            .push_buffer(gst::Buffer::from_slice(bytes.clone()))
            .unwrap();
    }
    input.end_of_stream().unwrap();
    let mut held = Vec::new();
    for (i, sent) in sent.iter().enumerate() {
        held.push((output.pull_sample().unwrap(), sent));
        if held.len() == 3 {
            // The newest goes first, which must not free the room of the oldest.
            drop(held.pop());
            held.iter()
                .for_each(|(sample, sent)| assert_eq!(&bytes(sample), *sent));
            held.remove(0);
            held.iter()
                .for_each(|(sample, sent)| assert_eq!(&bytes(sample), *sent));
        }
        assert!(receiver.stat("src", "frames") > i as u64);
    }
    drop(held);
    receiver.end();
    assert_eq!(receiver.stat("src", "frames"), 30);
    let (in_place, copied) = (
        receiver.stat("src", "in-place"),
        receiver.stat("src", "copied"),
    );
    assert_eq!(in_place + copied, 30, "{in_place} in place");
    assert_eq!(receiver.stat("src", "bytes"), 30_000);
    sender.end();
    assert_eq!(sender.stat("sink", "frames"), 30);
    assert_eq!(sender.stat("sink", "copied"), 30);
    assert_eq!(sender.stat("sink", "bytes"), 30_000);
}
