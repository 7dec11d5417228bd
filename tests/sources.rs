//! What is rendered into the ring and what is copied with the usual sources, as the tables in
//! `docs/cameras.md` say.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::path::Path;

use support::Name;
use support_gst::Pipeline;

const FRAMES: u64 = 20;

#[derive(Debug, PartialEq, Eq)]
enum How {
    InPlace,
    Copied,
}
use How::{Copied, InPlace};

/// Sends through a ring whose reader is there before, and returns how all its frames got in.
#[track_caller]
fn send(source: &str) -> How {
    let name = Name::new("sources");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! fakesink sync=false",
        &*name
    ));
    // Room for what a decoder keeps, too.
    let sender = Pipeline::play(&format!(
        "{source} ! zerobuffersink name=sink buffer-name={} frames=8 sync=false",
        &*name
    ));
    sender.end();
    receiver.end();
    let counts = [
        sender.stat("sink", "in-place"),
        sender.stat("sink", "copied"),
    ];
    match counts {
        [FRAMES, 0] => InPlace,
        [0, FRAMES] => Copied,
        other => panic!("{source}: {other:?}"),
    }
}

const PICTURE: &str = "video/x-raw,format=I420,width=320,height=240,framerate=30/1";

/// Makes a film with this encoder, and returns the elements that read it.
fn film(folder: &Path, encoder: &str) -> String {
    let path = folder.join("film.mkv");
    let film = Pipeline::play(&format!(
        "videotestsrc num-buffers={FRAMES} ! {PICTURE} ! {encoder} ! matroskamux \
         ! filesink location={}",
        path.display()
    ));
    film.end();
    format!("filesrc location={} ! matroskademux", path.display())
}

#[test]
fn decoders_render_into_the_ring_or_are_copied_as_the_table_says() {
    let folder = tempfile::tempdir().unwrap();
    for (encoder, decoder, how) in [
        ("vp8enc deadline=1", "vp8dec", InPlace),
        ("jpegenc", "jpegdec", InPlace),
        (
            "x264enc tune=zerolatency",
            "h264parse ! openh264dec",
            InPlace,
        ),
        ("x264enc tune=zerolatency", "h264parse ! avdec_h264", Copied),
        ("x264enc", "h264parse ! avdec_h264", Copied),
        ("jpegenc", "avdec_mjpeg", Copied),
        (
            "x264enc",
            "h264parse ! avdec_h264 ! videoconvert ! video/x-raw,format=NV12",
            InPlace,
        ),
        (
            "x264enc",
            "h264parse ! avdec_h264 ! videoscale ! video/x-raw,width=160,height=120",
            InPlace,
        ),
        (
            "x264enc",
            "h264parse config-interval=-1 ! video/x-h264,stream-format=byte-stream,alignment=au",
            Copied,
        ),
    ] {
        let film = film(folder.path(), encoder);
        assert_eq!(
            send(&format!("{film} ! {decoder}")),
            how,
            "{encoder}, {decoder}"
        );
    }
}

#[test]
fn behind_a_camera_converters_render_into_the_ring() {
    // A live source that makes its buffers itself, as v4l2src does.
    let camera = |caps: &str| {
        format!(
            "videotestsrc is-live=true num-buffers={FRAMES} ! {caps} ! identity drop-allocation=true"
        )
    };
    let raw = camera(PICTURE);
    assert_eq!(send(&raw), Copied);
    for (behind, how) in [
        ("videoconvert ! video/x-raw,format=NV12", InPlace),
        ("videoscale ! video/x-raw,width=160,height=120", InPlace),
        ("jpegenc ! jpegdec", InPlace),
        ("x264enc tune=zerolatency ! h264parse", Copied),
        ("videoconvert", Copied),
    ] {
        assert_eq!(send(&format!("{raw} ! {behind}")), how, "{behind}");
    }
}

#[test]
fn behind_a_network_camera_it_is_as_with_a_file() {
    let packets = format!(
        "videotestsrc num-buffers={FRAMES} ! {PICTURE} ! x264enc tune=zerolatency ! rtph264pay \
         ! rtph264depay ! h264parse"
    );
    for (behind, how) in [
        ("avdec_h264", Copied),
        ("openh264dec", InPlace),
        (
            "avdec_h264 ! videoconvert ! video/x-raw,format=NV12",
            InPlace,
        ),
    ] {
        assert_eq!(send(&format!("{packets} ! {behind}")), how, "{behind}");
    }
}

#[test]
fn each_branch_of_a_tee_copies() {
    let [first, second] = [Name::new("tee"), Name::new("tee")];
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc buffer-name={} ! fakesink zerobuffersrc buffer-name={} ! fakesink",
        &*first, &*second
    ));
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers={FRAMES} ! {PICTURE} ! tee name=t \
         t. ! queue ! zerobuffersink name=first sync=false buffer-name={} \
         t. ! queue ! zerobuffersink name=second sync=false buffer-name={}",
        &*first, &*second
    ));
    sender.end();
    receiver.end();
    for sink in ["first", "second"] {
        assert_eq!(sender.stat(sink, "copied"), FRAMES, "{sink}");
    }
}
