//! RocketWelder's published SDK, as it is, behind our elements: its client, its callbacks and its
//! connection strings.

#[path = "support/python.rs"]
mod python;
mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::fs;
use std::path::Path;
use std::time::Duration;

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

use serde_json::{Value, json};
use support::{Name, Running};
use support_gst::Pipeline;

/// Longer than any test: the SDK gives up when no writer has come for so long.
const PATIENT: &str = "size=4MB&metadata=4KB&timeout=120000";
const UNKNOWN: u64 = u64::MAX;

fn client(connection: &str, options: &[&str]) -> Running {
    let mut command = python::script("zb_rw_client.py");
    started(command.arg(connection).args(options))
}

fn started(command: &mut std::process::Command) -> Running {
    let mut client = Running::start(command);
    match client.line() {
        Some(line) if line == "started" => client,
        line => panic!("{line:?}: {:#?}", client.wait()),
    }
}

/// The next frame that the client got.
#[track_caller]
fn frame(client: &mut Running) -> Value {
    match client.line() {
        Some(line) if line.starts_with('{') => serde_json::from_str(&line).unwrap(),
        line => panic!("{line:?}"),
    }
}

/// The client stopped, with nothing to complain about.
#[track_caller]
fn ended(client: Running, how: &str) {
    let ended = client.wait().expect_success();
    assert_eq!((ended.out.trim_end(), &*ended.err), (how, ""));
}

/// A picture as the SDK sees it: a row behind the other.
struct Picture {
    caps: String,
    shape: Value,
    bytes: Vec<u8>,
}

impl Picture {
    fn of(sample: &gst::Sample) -> Self {
        let caps = sample.caps().unwrap();
        let info = gst_video::VideoInfo::from_caps(caps).unwrap();
        let buffer = sample.buffer().unwrap();
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).unwrap();
        let channels = info.format_info().pixel_stride()[0] as usize;
        let (width, height) = (info.width() as usize, info.height() as usize);
        let rows = frame.plane_data(0).unwrap();
        let rows = rows.chunks(frame.plane_stride()[0] as usize).take(height);
        Picture {
            caps: caps.to_string(),
            shape: match channels {
                1 => json!([height, width]),
                _ => json!([height, width, channels]),
            },
            bytes: rows
                .flat_map(|row| &row[..width * channels])
                .copied()
                .collect(),
        }
    }

    fn crc(&self) -> u32 {
        crc32fast::hash(&self.bytes)
    }
}

/// The first pictures of a pipeline.
fn pictures(source: &str, count: usize) -> Vec<Picture> {
    let out = Pipeline::play(&format!("{source} ! appsink name=out sync=false"));
    let sink = out.appsink("out");
    (0..count)
        .map(|_| Picture::of(&sink.pull_sample().unwrap()))
        .collect()
}

#[track_caller]
fn assert_told(told: &Value, picture: &Picture) {
    let expected = json!({
        "shape": picture.shape, "crc32": picture.crc(), "caps": picture.caps,
    });
    assert_eq!(*told, expected);
}

#[test]
fn the_one_way_client_gets_every_format_that_it_reads_at_any_width() {
    let _turn = python::turn();
    let formats = [
        ("RGB", 37),
        ("BGR", 40),
        ("RGBA", 37),
        ("BGRA", 37),
        ("ARGB", 37),
        ("ABGR", 37),
        ("GRAY8", 39),
    ];
    for (format, width) in formats {
        let name = Name::new("rw-formats");
        let source = format!(
            "videotestsrc pattern=smpte ! video/x-raw,format={format},width={width},height=22"
        );
        let expected = pictures(&source, 3);
        // The pipeline may well be there before the client.
        let sender = Pipeline::play(&format!(
            "{source} ! zerobuffersink name=sink sync=false {PREFIX} buffer-name={}",
            &*name
        ));
        let connection = format!("shm://{}?{PATIENT}", &*name);
        let mut client = client(&connection, &["--frames=3"]);
        for picture in &expected {
            assert_told(&frame(&mut client), picture);
        }
        ended(client, "stopped");
        sender.no_error();
        drop(sender);
        name.remove_what_python_leaves();
    }
}

const PREFIX: &str = "frame-prefix=rocket-welder";

#[test]
fn number_pts_and_exposure_time_are_where_the_sdk_looks() {
    let _turn = python::turn();
    let name = Name::new("rw-metadata");
    let sender = Pipeline::play(&format!(
        "appsrc name=in format=time caps=video/x-raw,format=GRAY8,width=10,height=4,framerate=25/1 \
         ! zerobuffersink sync=false {PREFIX} buffer-name={}",
        &*name
    ));
    let connection = format!("shm://{}?mode=OneWay&{PATIENT}", &*name);
    let mut client = client(&connection, &["--frames=4", "--controller=none"]);
    let times = [
        (Some(40), Some(5000)),
        (None, None),
        (Some(120), None),
        (None, Some(0)),
    ];
    for (i, (pts, exposure)) in times.into_iter().enumerate() {
        // GStreamer has rows of twelve bytes.
        let mut buffer = gst::Buffer::from_slice([i as u8; 48]);
        let writable = buffer.get_mut().unwrap();
        writable.set_pts(pts.map(gst::ClockTime::from_mseconds));
        if let Some(exposure) = exposure {
            let mut meta =
                gst::meta::CustomMeta::add(writable, "GstZeroBufferExposureMeta").unwrap();
            meta.mut_structure().set("exposure-time", exposure);
        }
        sender.appsrc("in").push_buffer(buffer).unwrap();
        let expected = json!({
            "shape": [4, 10], "crc32": crc32fast::hash(&[i as u8; 40]), "number": i,
            "pts": pts.map_or(UNKNOWN, |ms| ms * 1_000_000_u64),
            "exposure": exposure.unwrap_or(UNKNOWN),
        });
        assert_eq!(frame(&mut client), expected);
    }
    ended(client, "stopped");
    sender.no_error();
    drop(sender);
    name.remove_what_python_leaves();
}

#[test]
fn the_one_way_controller_with_metadata_of_this_sdk_version_cannot_work() {
    let _turn = python::turn();
    // It calls what it does not have. When a newer one has it, docs/rocketwelder.md has to say so.
    let name = Name::new("rw-controller");
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=3 ! video/x-raw,format=GRAY8,width=16,height=8 \
         ! zerobuffersink sync=false {PREFIX} buffer-name={}",
        &*name
    ));
    let connection = format!("shm://{}?size=4MB&timeout=2000", &*name);
    let client = client(&connection, &["--controller=metadata"]);
    sender.end();
    let ended = client.wait().expect_success();
    assert_eq!(ended.out.trim_end(), "ended");
    let why = "has no attribute '_parse_metadata_from_reader'";
    assert!(ended.err.contains(why), "{ended:?}");
    name.remove_what_python_leaves();
}

#[test]
fn the_connection_string_of_a_container_works_to_the_end_of_the_stream() {
    let _turn = python::turn();
    let name = Name::new("rw-container");
    // As gst-launch-1.0 would: an encoder's format is not one that the SDK reads.
    let source = "videotestsrc num-buffers=40 pattern=ball ! video/x-raw,format=I420,width=64,height=48 \
                  ! videoconvert";
    let expected = pictures(&format!("{source} ! video/x-raw,format=RGB"), 40);
    let sender = Pipeline::play(&format!(
        "{source} ! video/x-raw,format=RGB ! zerobuffersink name=sink sync=false {PREFIX} buffer-name={}",
        &*name
    ));
    let mut command = python::script("zb_rw_client.py");
    let connection = format!("shm://{}?size=20MB&metadata=4KB&mode=oneway", &*name);
    let mut client = started(command.env("CONNECTION_STRING", connection));
    for picture in &expected {
        assert_told(&frame(&mut client), picture);
    }
    sender.end();
    // Nobody tells it: it looks when its timeout is over, 5 s.
    ended(client, "ended");
    let counts = ["frames", "in-place", "copied"].map(|it| sender.stat("sink", it));
    assert_eq!(counts, [40, 0, 40]);
    name.remove_what_python_leaves();
}

#[test]
fn clients_come_and_go_and_what_they_draw_is_on_no_frame_of_ours() {
    let _turn = python::turn();
    let name = Name::new("rw-draws");
    let source = "videotestsrc pattern=black ! video/x-raw,format=GRAY8,width=16,height=8";
    let expected = pictures(source, 1).remove(0);
    let sender = Pipeline::play(&format!(
        "{source} ! tee name=t ! queue ! zerobuffersink sync=false {PREFIX} buffer-name={} \
         t. ! queue leaky=downstream ! appsink name=out sync=false drop=true max-buffers=1",
        &*name
    ));
    for frames in ["--frames=20", "--frames=5"] {
        // One whose frames would soon be those that it has drawn on, if they were ours.
        let connection = format!("shm://{}?size=1KB&timeout=120000", &*name);
        let mut client = client(&connection, &[frames, "--draw"]);
        let count: usize = frames["--frames=".len()..].parse().unwrap();
        for _ in 0..count {
            assert_told(&frame(&mut client), &expected);
        }
        ended(client, "stopped");
        let seen = Picture::of(&sender.appsink("out").pull_sample().unwrap());
        assert_eq!(seen.crc(), expected.crc());
        name.remove_what_python_leaves();
    }
    sender.no_error();
}

#[test]
fn the_sdk_says_so_when_it_is_sent_what_it_does_not_read() {
    let _turn = python::turn();
    // Why there is frame-prefix, and why it takes no other formats.
    let rgb = "video/x-raw,format=RGB,width=16,height=8";
    for (caps, why) in [
        (rgb, "size mismatch. Expected 384 bytes"),
        ("video/x-raw,format=I420,width=16,height=8", "size mismatch"),
    ] {
        let name = Name::new("rw-without");
        let sender = Pipeline::play(&format!(
            "videotestsrc ! {caps} ! zerobuffersink name=sink sync=false buffer-name={}",
            &*name
        ));
        let connection = format!("shm://{}?size=1KB&timeout=120000", &*name);
        let client = client(&connection, &["--frames=1"]);
        // So many do not fit: it has looked at some.
        sender.until("sink", "frames", 20);
        drop(sender);
        let ended = client.kill();
        assert!(ended.err.contains(why), "{ended:?}");
        assert_eq!(ended.out, "");
        for path in name.objects() {
            fs::remove_file(path).unwrap();
        }
    }
}

/// A picture that a duplex client has drawn on: what cv2.rectangle does.
fn drawn(picture: &Picture) -> Vec<u8> {
    let width = picture.shape[1].as_u64().unwrap() as usize;
    let channels = picture.shape[2].as_u64().unwrap_or(1) as usize;
    let mut bytes = picture.bytes.clone();
    for (x, y) in (1..=3).flat_map(|x| (1..=3).map(move |y| (x, y))) {
        bytes[(y * width + x) * channels..][..channels].fill(255);
    }
    bytes
}

#[test]
fn the_duplex_client_works_on_frames_of_every_format_and_width() {
    let _turn = python::turn();
    for (format, width) in [("RGB", 37), ("BGR", 40), ("ARGB", 37), ("GRAY8", 39)] {
        let name = Name::new("rw-duplex");
        let source = format!(
            "videotestsrc num-buffers=6 ! video/x-raw,format={format},width={width},height=22"
        );
        let expected = pictures(&source, 6);
        let pipeline = Pipeline::play(&format!(
            "{source} ! zerobufferfilter name=f timeout=0 {PREFIX} channel-name={} \
             ! appsink name=out sync=false",
            &*name
        ));
        let connection = format!("shm://{}?mode=Duplex&{PATIENT}", &*name);
        let mut client = client(&connection, &["--frames=6", "--draw"]);
        for picture in &expected {
            assert_told(&frame(&mut client), picture);
            let sample = pipeline.appsink("out").pull_sample().unwrap();
            assert!(Picture::of(&sample).bytes == drawn(picture), "{format}");
        }
        pipeline.end();
        let counts = ["sent", "answered", "skipped", "doubled", "late", "lost"]
            .map(|it| pipeline.stat("f", it));
        assert_eq!(counts, [6, 6, 0, 0, 0, 0]);
        ended(client, "stopped");
        drop(pipeline);
        name.remove_what_python_leaves();
    }
}

#[test]
fn the_duplex_controller_tells_number_and_pts_of_each_request() {
    let _turn = python::turn();
    let name = Name::new("rw-duplex-told");
    let pipeline = Pipeline::play(&format!(
        "videotestsrc num-buffers=5 ! video/x-raw,format=RGB,width=18,height=8,framerate=25/1 \
         ! zerobufferfilter timeout=0 {PREFIX} channel-name={} ! appsink name=out sync=false",
        &*name
    ));
    let connection = format!("shm://{}?mode=duplex&{PATIENT}", &*name);
    let mut client = client(&connection, &["--frames=5", "--controller=metadata"]);
    for i in 0..5_u64 {
        let told = frame(&mut client);
        let words = ["number", "pts", "exposure"].map(|key| told[key].as_u64().unwrap());
        assert_eq!(words, [i, 40_000_000 * i, UNKNOWN]);
        let sample = pipeline.appsink("out").pull_sample().unwrap();
        // Its own, whatever the answer took.
        let pts = sample.buffer().unwrap().pts().unwrap();
        assert_eq!(pts.nseconds(), 40_000_000 * i);
    }
    pipeline.end();
    ended(client, "stopped");
    drop(pipeline);
    name.remove_what_python_leaves();
}

#[test]
fn the_duplex_connection_string_of_a_container_works_to_the_end_of_the_stream() {
    let _turn = python::turn();
    let name = Name::new("rw-duplex-container");
    let source = "videotestsrc num-buffers=20 pattern=ball ! video/x-raw,format=I420,width=64,height=48 \
                  ! videoconvert ! video/x-raw,format=RGB";
    let expected = pictures(source, 20);
    let pipeline = Pipeline::play(&format!(
        "{source} ! zerobufferfilter name=f timeout-ms=0 {PREFIX} channel-name={} \
         ! appsink name=out sync=false",
        &*name
    ));
    let mut command = python::script("zb_rw_client.py");
    let connection = format!("shm://{}?size=20MB&metadata=4KB&mode=duplex", &*name);
    let mut client = started(command.env("CONNECTION_STRING", connection).arg("--draw"));
    for picture in &expected {
        assert_told(&frame(&mut client), picture);
        let sample = pipeline.appsink("out").pull_sample().unwrap();
        assert!(Picture::of(&sample).bytes == drawn(picture));
    }
    pipeline.end();
    // Its rows are where GStreamer has them by default: nothing is moved for downstream.
    let counts = ["answered", "answers-copied", "requests-copied"].map(|it| pipeline.stat("f", it));
    assert_eq!(counts, [20, 0, 20]);
    drop(pipeline);
    // Nobody tells it: it looks when its timeout is over, 5 s. Then its buffer goes, and the client
    // says that it is running. When a newer version does not, docs/rocketwelder.md has to say so.
    let requests = Path::new("/dev/shm").join(format!("{}_request", &*name));
    while requests.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    client.tell("");
    let ended = client.wait().expect_success();
    assert_eq!((ended.out.trim_end(), &*ended.err), ("running", ""));
    name.remove_what_python_leaves();
}
