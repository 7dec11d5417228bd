//! A clip with sound that went from file to file through two rings, between two processes: every
//! packet of the file that arrived has the bytes and the times of the one that left.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::path::Path;

use gstreamer as gst;
use support::example;
use support_gst::Pipeline;

/// A packet of a file as the demuxer has it, and in running time.
#[derive(Debug, PartialEq)]
struct Packet {
    pts: Option<gst::ClockTime>,
    dts: Option<gst::ClockTime>,
    duration: Option<gst::ClockTime>,
    shown: Option<gst::Signed<gst::ClockTime>>,
    decoded: Option<gst::Signed<gst::ClockTime>>,
    bytes: Vec<u8>,
}

fn packets(file: &Path, demux: &str, stream: &str) -> (gst::Caps, Vec<Packet>) {
    let pipeline = Pipeline::play(&format!(
        "filesrc location={} ! {demux} name=demux demux.{stream}_0 ! appsink name=out sync=false",
        file.display()
    ));
    let out = pipeline.appsink("out");
    let mut caps = None;
    let packets = std::iter::from_fn(|| out.pull_sample().ok())
        .map(|sample| {
            caps = sample.caps_owned();
            let buffer = sample.buffer().unwrap();
            let segment = sample.segment().unwrap().downcast_ref().unwrap();
            let running = |time: Option<gst::ClockTime>| {
                gst::FormattedSegment::<gst::ClockTime>::to_running_time_full(segment, time)
            };
            Packet {
                pts: buffer.pts(),
                dts: buffer.dts(),
                duration: buffer.duration(),
                shown: running(buffer.pts()),
                decoded: running(buffer.dts()),
                bytes: buffer.map_readable().unwrap().to_vec(),
            }
        })
        .collect();
    pipeline.end();
    (caps.unwrap(), packets)
}

/// Both streams of the clip, which are those of the file that arrived.
fn passes(kind: &str, demux: &str) -> [Vec<Packet>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let output = (example("clip_in_two_rings").arg(folder.path()).arg(kind))
        .output()
        .unwrap();
    assert!(output.status.success(), "{kind}: {output:#?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let [clip, arrived] =
        ["clip", "arrived"].map(|file| folder.path().join(file).with_extension(kind));
    ["video", "audio"].map(|stream| {
        let (caps, sent) = packets(&clip, demux, stream);
        let (arrived, got) = packets(&arrived, demux, stream);
        assert_eq!(arrived, caps, "{kind}, {stream}");
        assert_eq!(got.len(), sent.len(), "{kind}, {stream}");
        for (at, (got, sent)) in got.iter().zip(&sent).enumerate() {
            assert!(
                got == sent,
                "{kind}, {stream}, packet {at}: {sent:#?} became {got:#?}"
            );
        }
        let told = format!("{stream}: {} packets, all with the same", sent.len());
        assert!(said.contains(&told), "{said}");
        sent
    })
}

/// As many as were made, of five seconds, and none without a time but the headers of Vorbis.
fn is_whole(video: &[Packet], audio: &[Packet]) {
    assert_eq!(video.len(), 150);
    assert!(audio.len() >= 235, "{}", audio.len());
    for stream in [video, audio] {
        let timed = || stream.iter().filter(|packet| packet.pts.is_some());
        assert!(stream.len() - timed().count() <= 3);
        let last = timed().map(|packet| packet.pts.unwrap()).max().unwrap();
        assert!((4900..5100).contains(&last.mseconds()), "{last}");
    }
    assert!(video.iter().all(|packet| packet.duration.is_some()));
}

fn in_order_of_pts(packets: &[Packet]) -> bool {
    packets.is_sorted_by_key(|packet| packet.pts)
}

#[test]
fn h264_out_of_order_and_aac_in_an_mp4_keep_every_time_stamp() {
    let [video, audio] = passes("mp4", "qtdemux");
    is_whole(&video, &audio);
    assert!(!in_order_of_pts(&video) && in_order_of_pts(&audio));
    assert!(video.is_sorted_by_key(|packet| packet.dts.unwrap()));
    // Its pictures are decoded before time 0, which takes a segment that does not begin there.
    let zero = gst::Signed::Positive(gst::ClockTime::ZERO);
    assert_eq!(video[0].shown, Some(zero));
    assert!(video[0].pts > video[0].dts && video[0].decoded < Some(zero));
}

#[test]
fn h264_out_of_order_and_vorbis_in_a_matroska_file_keep_every_time_stamp() {
    let [video, audio] = passes("mkv", "matroskademux");
    is_whole(&video, &audio);
    assert!(!in_order_of_pts(&video));
}

#[test]
fn vp8_and_opus_in_a_webm_keep_every_time_stamp() {
    let [video, audio] = passes("webm", "matroskademux");
    is_whole(&video, &audio);
}
