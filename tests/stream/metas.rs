//! What else is said about a frame arrives with it.

use gstreamer as gst;
use gstreamer_video as gst_video;

use super::support::Name;
use super::{all, caps, receiver, sender};

#[test]
fn metas_of_all_kinds_arrive_with_their_frames() {
    let name = Name::new("metas");
    let receiver = receiver(&name, "");
    let sender = sender(
        &name,
        &caps("video/x-raw,format=GRAY8,width=64,height=64,framerate=25/1"),
    );
    // Of a kind for which there is no record of its own.
    gst::meta::CustomMeta::register("ZeroBufferTestMeta", &[]);
    let reference = caps("timestamp/x-ntp");
    for i in 0..10_u8 {
        let mut buffer = gst::Buffer::from_slice([i; 64 * 64]);
        let edit = buffer.get_mut().unwrap();
        let time = gst::ClockTime::from_seconds(i.into());
        gst::ReferenceTimestampMeta::add(edit, &reference, time, None);
        gst_video::VideoTimeCodeMeta::add(edit, &time_code(i));
        let kind = gst_video::VideoCaptionType::Cea708Raw;
        gst_video::VideoCaptionMeta::add(edit, kind, &[i, 0, 255]);
        gst_video::VideoRegionOfInterestMeta::add(edit, "face", (i.into(), 1, 20, 30));
        let mut own = gst::meta::CustomMeta::add(edit, "ZeroBufferTestMeta").unwrap();
        own.mut_structure().set("number", i32::from(i));
        sender.appsrc("in").push_buffer(buffer).unwrap();
    }
    sender.appsrc("in").end_of_stream().unwrap();
    let samples = all(&receiver);
    assert_eq!(samples.len(), 10);
    for (i, sample) in (0..).zip(&samples) {
        let buffer = sample.buffer().unwrap();
        let stamp = buffer.meta::<gst::ReferenceTimestampMeta>().unwrap();
        assert_eq!(stamp.reference(), &*reference);
        assert_eq!(stamp.timestamp(), gst::ClockTime::from_seconds(i.into()));
        let code = buffer.meta::<gst_video::VideoTimeCodeMeta>().unwrap();
        assert_eq!(code.tc(), time_code(i));
        let caption = buffer.meta::<gst_video::VideoCaptionMeta>().unwrap();
        assert_eq!(
            caption.caption_type(),
            gst_video::VideoCaptionType::Cea708Raw
        );
        assert_eq!(caption.data(), [i, 0, 255]);
        let region = buffer.meta::<gst_video::VideoRegionOfInterestMeta>();
        let region = region.unwrap();
        assert_eq!(region.roi_type(), "face");
        assert_eq!(region.rect(), (i.into(), 1, 20, 30));
        let own = gst::meta::CustomMeta::from_buffer(buffer, "ZeroBufferTestMeta").ok();
        let number = own.map(|own| own.structure().get::<i32>("number").unwrap());
        let expected = cfg!(feature = "v1_24").then_some(i32::from(i));
        assert_eq!(number, expected);
    }
    sender.end();
}

fn time_code(frames: u8) -> gst_video::ValidVideoTimeCode {
    let rate = gst::Fraction::new(25, 1);
    let flags = gst_video::VideoTimeCodeFlags::empty();
    gst_video::ValidVideoTimeCode::new(rate, None, flags, 1, 2, 3, frames.into(), 0).unwrap()
}
