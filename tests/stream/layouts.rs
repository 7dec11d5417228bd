//! Rows and planes elsewhere than by default: in place to our source, right for everybody behind it.

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstzerobuffer::{FrameLayout, Records, Writer};
use proptest::prelude::*;

use super::support::{LONG, Name, pattern};
use super::support_gst::{Pipeline, init};
use super::{all, bytes, caps, receiver, sender};

const CAPS: &str = "video/x-raw,format=I420,width=63,height=47,framerate=25/1";
const STRIDES: [i32; 3] = [128, 96, 80];
const OFFSETS: [usize; 3] = [64, 64 + 128 * 48, 64 + 128 * 48 + 96 * 24];
const SIZE: usize = OFFSETS[2] + 80 * 24;

/// A frame with other strides and offsets.
fn foreign(seed: u64) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_slice(pattern(SIZE, seed));
    gst_video::VideoMeta::add_full(
        buffer.get_mut().unwrap(),
        gst_video::VideoFrameFlags::empty(),
        gst_video::VideoFormat::I420,
        63,
        47,
        &OFFSETS,
        &STRIDES,
    )
    .unwrap();
    buffer
}

/// The pixels of a frame, without what is between its rows.
fn picture(bytes: &[u8], offsets: &[usize], strides: &[i32]) -> Vec<u8> {
    let mut pixels = Vec::new();
    for plane in 0..3 {
        let (width, height) = if plane == 0 { (63, 47) } else { (32, 24) };
        for row in 0..height {
            let at = offsets[plane] + row * strides[plane] as usize;
            pixels.extend(&bytes[at..at + width]);
        }
    }
    pixels
}

#[test]
fn foreign_strides_arrive_as_they_are_where_they_are_welcome() {
    let name = Name::new("welcome");
    let receiver = Pipeline::new(&format!(
        "zerobuffersrc name=src buffer-name={} ! appsink name=out sync=false",
        &*name
    ));
    receiver.take_layouts();
    receiver.set_state(gst::State::Playing);
    let sender = sender(&name, &caps(CAPS));
    for i in 0..10 {
        sender.appsrc("in").push_buffer(foreign(i)).unwrap();
    }
    sender.appsrc("in").end_of_stream().unwrap();
    let got = all(&receiver);
    assert_eq!(got.len(), 10);
    for (i, sample) in got.iter().enumerate() {
        let buffer = sample.buffer().unwrap();
        let meta = buffer.meta::<gst_video::VideoMeta>().unwrap();
        assert_eq!((meta.offset(), meta.stride()), (&OFFSETS[..], &STRIDES[..]));
        assert!(bytes(sample) == pattern(SIZE, i as u64));
    }
    assert_eq!(receiver.stat("src", "copied"), 0);
    sender.end();
}

#[test]
fn foreign_strides_are_made_the_usual_where_nobody_asks_for_them() {
    let info = gst_video::VideoInfo::from_caps(&caps(CAPS)).unwrap();
    let name = Name::new("usual");
    let receiver = receiver(&name, "");
    let sender = sender(&name, &caps(CAPS));
    for i in 0..10 {
        let mut buffer = foreign(i);
        let edit = buffer.get_mut().unwrap();
        edit.set_offset(i);
        edit.set_flags(gst::BufferFlags::MARKER);
        sender.appsrc("in").push_buffer(buffer).unwrap();
    }
    sender.appsrc("in").end_of_stream().unwrap();
    let got = all(&receiver);
    assert_eq!(got.len(), 10);
    for (i, sample) in got.iter().enumerate() {
        let buffer = sample.buffer().unwrap();
        assert_eq!(buffer.size(), info.size());
        // Whoever does not look at the meta finds them by the caps.
        let got = picture(&bytes(sample), info.offset(), info.stride());
        assert!(got == picture(&pattern(SIZE, i as u64), &OFFSETS, &STRIDES));
        assert_eq!(buffer.offset(), i as u64);
        assert!(buffer.flags().contains(gst::BufferFlags::MARKER));
    }
    assert_eq!(receiver.stat("src", "copied"), 10);
    sender.end();
}

#[test]
fn videoconvert_behind_the_source_takes_them_without_another_copy() {
    let name = Name::new("convert");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! videoconvert ! video/x-raw,format=AYUV \
         ! appsink name=out sync=false",
        &*name
    ));
    let straight = Pipeline::play(&format!(
        "appsrc name=in format=time caps=\"{CAPS}\" ! videoconvert ! video/x-raw,format=AYUV \
         ! appsink name=out sync=false"
    ));
    let sender = sender(&name, &caps(CAPS));
    for pipeline in [&sender, &straight] {
        for i in 0..5 {
            pipeline.appsrc("in").push_buffer(foreign(i)).unwrap();
        }
        pipeline.appsrc("in").end_of_stream().unwrap();
    }
    let [got, due] = [&receiver, &straight].map(all);
    assert_eq!((got.len(), due.len()), (5, 5));
    for (got, due) in got.iter().zip(&due) {
        assert!(bytes(got) == bytes(due));
    }
    assert_eq!(receiver.stat("src", "copied"), 0);
    sender.end();
}

#[test]
fn a_part_to_be_shown_travels() {
    for foreign_strides in [true, false] {
        let name = Name::new("crop");
        let receiver = receiver(&name, "");
        let sender = sender(&name, &caps(CAPS));
        let info = gst_video::VideoInfo::from_caps(&caps(CAPS)).unwrap();
        let mut buffer = match foreign_strides {
            true => foreign(1),
            false => gst::Buffer::from_slice(pattern(info.size(), 1)),
        };
        gst_video::VideoCropMeta::add(buffer.get_mut().unwrap(), (3, 5, 60, 42));
        sender.appsrc("in").push_buffer(buffer).unwrap();
        let sample = receiver.appsink("out").pull_sample().unwrap();
        let meta = sample.buffer().unwrap().meta::<gst_video::VideoCropMeta>();
        assert_eq!(meta.unwrap().rect(), (3, 5, 60, 42));
    }
}

#[test]
fn a_part_that_is_not_inside_is_left_out() {
    for rect in [[4_u32, 0, 60, 1], [0, 6, 1, 42], [u32::MAX, 0, 2, 2]] {
        let name = Name::new("outside");
        let receiver = receiver(&name, &format!("caps={CAPS}"));
        let writer = Writer::attach_wait(&name, LONG).unwrap();
        let value: Vec<u8> = rect.into_iter().flat_map(u32::to_le_bytes).collect();
        let records = Records::new().with(84, &value);
        writer
            .write_frame_with(&pattern(SIZE, 1), &records, LONG)
            .unwrap();
        let sample = receiver.appsink("out").pull_sample().unwrap();
        let meta = sample.buffer().unwrap().meta::<gst_video::VideoCropMeta>();
        assert!(meta.is_none(), "{rect:?}");
    }
}

/// What becomes of a frame with this layout: whether it came through.
fn hostile(layout: &FrameLayout, len: usize, welcome: bool) -> Result<Option<gst::Sample>, String> {
    let name = Name::new("hostile");
    let receiver = Pipeline::new(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size=65536 caps={CAPS} \
         ! appsink name=out sync=false",
        &*name
    ));
    if welcome {
        receiver.take_layouts();
    }
    receiver.set_state(gst::State::Playing);
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    let records = Records::new().with_layout(layout);
    let frame = pattern(len, 1);
    writer.write_frame_with(&frame, &records, LONG).unwrap();
    writer.close();
    let sample = receiver.appsink("out").pull_sample().ok();
    match &sample {
        Some(_) => {
            receiver.end();
            Ok(sample)
        }
        None => Err(receiver.error()),
    }
}

fn layout(offsets: [u64; 3], strides: [i32; 3]) -> FrameLayout {
    let mut layout = FrameLayout {
        width: 63,
        height: 47,
        planes: 3,
        ..FrameLayout::default()
    };
    layout.offsets[..3].copy_from_slice(&offsets);
    layout.strides[..3].copy_from_slice(&strides);
    layout
}

#[test]
fn layouts_that_lie_are_errors() {
    init();
    let good = layout(OFFSETS.map(|offset| offset as u64), STRIDES);
    assert!(hostile(&good, SIZE, true).is_ok());
    assert!(hostile(&good, SIZE, false).is_ok());
    let mut bad = vec![(good, SIZE - 80 * 2)];
    for plane in 0..3 {
        for offset in [
            SIZE as u64,
            u64::MAX,
            i64::MAX as u64,
            1 << 32,
            u64::MAX - 80 * 24,
        ] {
            let mut layout = good;
            layout.offsets[plane] = offset;
            bad.push((layout, SIZE));
        }
        for stride in [0, -1, i32::MIN, i32::MAX, 31, 1 << 16] {
            let mut layout = good;
            layout.strides[plane] = stride;
            bad.push((layout, SIZE));
        }
    }
    for (width, height, planes) in [
        (64, 47, 3),
        (63, 46, 3),
        (0, 0, 3),
        (u32::MAX, u32::MAX, 3),
        (63, 47, 1),
        (63, 47, 4),
    ] {
        let layout = FrameLayout {
            width,
            height,
            planes,
            ..good
        };
        bad.push((layout, SIZE));
    }
    for (layout, len) in bad {
        for welcome in [true, false] {
            let text = hostile(&layout, len, welcome).expect_err(&format!("{layout:?}"));
            assert!(
                text.contains("planes") || text.contains("caps need"),
                "{text}"
            );
        }
    }
}

/// Numbers near those that mean something, and any others.
fn number(near: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(near),
        2 => near.saturating_sub(70)..near + 70,
        1 => 0..20_000_u64,
        1 => any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever the layout says, it is an error, or all of the picture is inside of the frame.
    #[test]
    fn no_layout_leads_outside_of_its_frame(
        offsets in [number(64), number(OFFSETS[1] as u64), number(OFFSETS[2] as u64)],
        strides in [number(128), number(96), number(80)],
        len in prop_oneof![Just(SIZE), 1..SIZE + 100],
        welcome in any::<bool>(),
    ) {
        init();
        let strides = strides.map(|stride| stride as i32);
        let layout = layout(offsets, strides);
        let info = gst_video::VideoInfo::from_caps(&caps(CAPS)).unwrap();
        if let Ok(Some(sample)) = hostile(&layout, len, welcome) {
            let sent = pattern(len, 1);
            let due = picture(&sent, &offsets.map(|offset| offset as usize), &strides);
            let got = if welcome {
                let buffer = sample.buffer().unwrap();
                let meta = buffer.meta::<gst_video::VideoMeta>().unwrap();
                picture(&bytes(&sample), meta.offset(), meta.stride())
            } else {
                picture(&bytes(&sample), info.offset(), info.stride())
            };
            prop_assert!(got == due);
        }
    }
}
