//! The examples that stand at one end of a pipeline without GStreamer in them, in Python and in Rust:
//! a consumer, a producer and a worker. Their pictures are looked at, pixel by pixel.

#[path = "support/python.rs"]
mod python;
mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::fs;
use std::path::Path;
use std::process::Command;

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use gstzerobuffer::duplex::{DuplexClient, DuplexClientConfig};
use nix::sys::signal::Signal;
use support::{LONG, Name, Running, example};
use support_gst::Pipeline;

/// The example of this name, in both languages.
fn both(name: &str) -> [Command; 2] {
    [python::example(&format!("{name}.py")), example(name)]
}

/// Blue, green and red.
type Pixel = [u8; 3];

/// A picture without what may be between its rows.
#[derive(Debug, PartialEq)]
struct Picture {
    width: usize,
    pixels: Vec<Pixel>,
}

impl Picture {
    /// Of BGR.
    fn of(sample: &gst::Sample) -> Self {
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        assert_eq!(info.format(), gst_video::VideoFormat::Bgr);
        let buffer = sample.buffer().unwrap();
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).unwrap();
        let (width, height) = (info.width() as usize, info.height() as usize);
        let rows = frame.plane_data(0).unwrap();
        let rows = rows.chunks(frame.plane_stride()[0] as usize).take(height);
        let pixels = rows.flat_map(|row| row.chunks_exact(3).take(width));
        Picture {
            width,
            pixels: pixels.map(|it| it.try_into().unwrap()).collect(),
        }
    }

    fn from_ppm(file: &[u8]) -> Self {
        let end = file.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let start = end.map(|(at, _)| at + 1).nth(2).unwrap();
        let header = std::str::from_utf8(&file[..start]).unwrap();
        let words: Vec<&str> = header.split_whitespace().collect();
        let [_, width, height, _] = words[..] else {
            panic!("{header}");
        };
        assert_eq!((words[0], words[3]), ("P6", "255"));
        let (width, height): (usize, usize) = (width.parse().unwrap(), height.parse().unwrap());
        let pixels = file[start..].chunks(3).map(|it| [it[2], it[1], it[0]]);
        let pixels: Vec<Pixel> = pixels.collect();
        assert_eq!(pixels.len(), width * height);
        Picture { width, pixels }
    }

    fn from_png(path: &Path) -> Self {
        let decoded = Pipeline::play(&format!(
            "filesrc location={} ! pngdec ! videoconvert ! video/x-raw,format=BGR \
             ! appsink name=out sync=false",
            path.display()
        ));
        Picture::of(&decoded.appsink("out").pull_sample().unwrap())
    }

    fn at(&self, x: usize, y: usize) -> Pixel {
        self.pixels[y * self.width + x]
    }

    fn height(&self) -> usize {
        self.pixels.len() / self.width
    }
}

/// All that comes out of a pipeline at its appsink.
fn all(pipeline: &Pipeline) -> Vec<Picture> {
    let sink = pipeline.appsink("out");
    std::iter::from_fn(|| sink.pull_sample().ok())
        .map(|sample| Picture::of(&sample))
        .collect()
}

#[test]
fn the_consumers_save_the_frames_of_a_pipeline() {
    let _turn = python::turn();
    // Of these rows GStreamer has two bytes of padding.
    let source =
        "videotestsrc num-buffers=5 pattern=ball ! video/x-raw,format=BGR,width=38,height=30";
    let expected = all(&Pipeline::play(&format!(
        "{source} ! appsink name=out sync=false"
    )));
    for mut command in both("save_frames") {
        let name = Name::new("example-save");
        let folder = tempfile::tempdir().unwrap();
        let saving = Running::start(command.arg(&*name).arg(folder.path()));
        let sender = Pipeline::play(&format!(
            "{source} ! zerobuffersink sync=false buffer-name={}",
            &*name
        ));
        sender.end();
        assert_eq!(saving.wait().expect_success().out, "5 frames\n");
        for (i, expected) in expected.iter().enumerate() {
            let file = folder.path().join(format!("{i:04}"));
            let saved = match fs::read(file.with_extension("ppm")) {
                Ok(file) => Picture::from_ppm(&file),
                Err(_) => Picture::from_png(&file.with_extension("png")),
            };
            assert!(saved == *expected, "frame {i}");
        }
        name.remove_what_python_leaves();
    }
}

#[test]
fn the_producers_feed_a_pipeline() {
    let _turn = python::turn();
    let (frames, width, height) = (8, 38, 20);
    for mut command in both("send_frames") {
        let name = Name::new("example-send");
        let receiver = Pipeline::play(&format!(
            "zerobuffersrc buffer-name={} ! appsink name=out sync=false",
            &*name
        ));
        let numbers = [frames, width, height].map(|it: usize| it.to_string());
        let sending = Running::start(command.arg(&*name).args(numbers));
        let arrived = all(&receiver);
        receiver.end();
        sending.wait().expect_success();
        assert_eq!(arrived.len(), frames);
        for (i, picture) in arrived.iter().enumerate() {
            assert_eq!((picture.width, picture.height()), (width, height));
            let left = i * width / frames;
            for (x, y) in (0..width).flat_map(|x| (0..height).map(move |y| (x, y))) {
                let inside = (left..=left + width / 8).contains(&x)
                    && (height / 4..=height / 2).contains(&y);
                let color = if inside { [0, 200, 255] } else { [64, 32, 0] };
                assert_eq!(picture.at(x, y), color, "frame {i} at {x}, {y}");
            }
        }
    }
}

#[test]
fn the_workers_draw_on_what_a_client_sends() {
    let _turn = python::turn();
    let caps = "video/x-raw, format=(string)BGR, width=(int)42, height=(int)32";
    let metadata = serde_json::json!({ "caps": caps }).to_string();
    // Two bytes of padding.
    let (width, height, row) = (42, 32, 128);
    for (mut command, python) in both("draw_on_frames").into_iter().zip([true, false]) {
        let name = Name::new("example-draw");
        let worker = Running::start(command.arg(&*name));
        // The next client comes before the worker has noticed that the first one has gone.
        for _ in 0..2 {
            let config = DuplexClientConfig::new(4096, 1 << 20);
            let client = DuplexClient::create(&name, config).unwrap();
            client.connect_with(metadata.as_bytes(), LONG).unwrap();
            for i in 0..20_u8 {
                client.send_wait(&vec![i; row * height], LONG).unwrap();
                let answer = client.receive(LONG).unwrap();
                assert_eq!(answer.len(), row * height);
                let rows = answer
                    .chunks(row)
                    .flat_map(|row| row[..3 * width].chunks_exact(3));
                let picture = Picture {
                    width,
                    pixels: rows.map(|it| it.try_into().unwrap()).collect(),
                };
                assert_drawn(&picture, |_, _| [i; 3]);
            }
            drop(client);
        }
        end(worker, python);
        name.remove_what_python_leaves();
    }
}

#[test]
fn a_pipeline_goes_through_a_worker_into_a_file_that_shows_what_it_drew() {
    let _turn = python::turn();
    // Two bytes of padding in each row.
    let source =
        "videotestsrc num-buffers=10 pattern=smpte ! video/x-raw,format=BGR,width=322,height=240";
    let before = all(&Pipeline::play(&format!(
        "{source} ! appsink name=out sync=false"
    )));
    for (mut command, python) in both("draw_on_frames").into_iter().zip([true, false]) {
        let name = Name::new("example-filter");
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("%d.png");
        let worker = Running::start(command.arg(&*name));
        // The next pipeline comes before the worker has noticed that the first one has gone.
        for _ in 0..4 {
            let pipeline = Pipeline::play(&format!(
                "{source} ! zerobufferfilter name=f timeout=0 channel-name={} \
                 ! videoconvert ! pngenc ! multifilesink location={}",
                &*name,
                files.display()
            ));
            pipeline.end();
            assert_eq!(pipeline.stat("f", "answered"), 10);
            drop(pipeline);
            for (i, before) in before.iter().enumerate() {
                let picture = Picture::from_png(&folder.path().join(format!("{i}.png")));
                assert_drawn(&picture, |x, y| before.at(x, y));
            }
        }
        end(worker, python);
        name.remove_what_python_leaves();
    }
}

/// Ends a worker: the one in Python as Ctrl-C does, the other by its input.
#[track_caller]
fn end(worker: Running, python: bool) {
    if python {
        worker.signal(Signal::SIGINT);
    }
    assert_eq!(worker.wait().expect_success().err, "");
}

/// A red ring around the middle, and what was there inside and outside of it.
#[track_caller]
fn assert_drawn(picture: &Picture, before: impl Fn(usize, usize) -> Pixel) {
    let (width, height) = (picture.width, picture.height());
    for (x, y) in (0..width).flat_map(|x| (0..height).map(move |y| (x, y))) {
        let (dx, dy) = (x.abs_diff(width / 2) as f64, y.abs_diff(height / 2) as f64);
        let off = (dx.hypot(dy) - (height / 4) as f64).abs();
        // The two languages do not agree about each pixel at the edge.
        if off < 3.0 {
            assert_eq!(picture.at(x, y), [0, 0, 255], "at {x}, {y}");
        } else if off > 6.0 {
            assert_eq!(picture.at(x, y), before(x, y), "at {x}, {y}");
        }
    }
}
