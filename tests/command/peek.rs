//! `peek`: pictures are those that GStreamer makes, frames are whole, and nobody is disturbed.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstzerobuffer::inspect::{self, NotSeen, Surety};
use gstzerobuffer::testing::{frame_data, is_frame_data};
use gstzerobuffer::{BufferConfig, FrameLayout, Reader, Records, Writer};

use super::{output, zerobuffer};
use crate::gst::Pipeline;
use crate::support::raw;
use crate::support::v1::{V1Reader, V1Writer};
use crate::support::{LONG, Name, pattern};

/// A picture as rows of red, green, blue and alpha.
fn read_png(path: &Path) -> (u32, u32, Vec<[u8; 4]>) {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path).unwrap()))
        .read_info()
        .unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    let pixels = match (info.color_type, info.bit_depth) {
        (png::ColorType::Rgb, _) => {
            let pixel = |it: &[u8]| [it[0], it[1], it[2], 255];
            bytes.chunks(3).map(pixel).collect()
        }
        (png::ColorType::Rgba, _) => {
            let pixel = |it: &[u8]| [it[0], it[1], it[2], it[3]];
            bytes.chunks(4).map(pixel).collect()
        }
        (_, png::BitDepth::Sixteen) => {
            let pixel = |it: &[u8]| [it[0], it[0], it[0], 255];
            bytes.chunks(2).map(pixel).collect()
        }
        _ => bytes.iter().map(|it| [*it, *it, *it, 255]).collect(),
    };
    (info.width, info.height, pixels)
}

fn peek(name: &str, to: &Path, more: &[&str]) -> String {
    let to = to.to_str().unwrap();
    output(zerobuffer(&["peek", name, "-o", to]).args(more), 0)
}

/// A test picture of these caps.
struct Shot {
    /// Its bytes.
    frame: Vec<u8>,
    /// As GStreamer's own conversion has it. That calculates with few bits.
    converted: Vec<[u8; 4]>,
    /// From what the frame was made.
    original: Vec<[u8; 4]>,
}

fn picture(caps: &str) -> Shot {
    let pipeline = Pipeline::play(&format!(
        "videotestsrc pattern=smpte num-buffers=1 ! video/x-raw,format=RGBA,width=640,height=480 ! \
         videoscale method=0 ! video/x-raw,{size} ! tee name=o \
         o. ! queue ! appsink name=original sync=false \
         o. ! queue ! videoconvert dither=none ! {caps} ! tee name=t \
         t. ! queue ! appsink name=frame sync=false \
         t. ! queue ! videoconvert chroma-resampler=nearest dither=none ! video/x-raw,format=RGBA \
         ! appsink name=rgba sync=false",
        size = size_in(caps)
    ));
    let pull = |name| pipeline.appsink(name).pull_sample().unwrap();
    let bytes = |sample: gst::Sample| {
        let map = sample.buffer().unwrap().map_readable().unwrap();
        map.to_vec()
    };
    let frame = bytes(pull("frame"));
    let pixels = |name| {
        let rgba = bytes(pull(name));
        let pixel = |it: &[u8]| [it[0], it[1], it[2], it[3]];
        rgba.chunks(4).map(pixel).collect()
    };
    Shot {
        frame,
        converted: pixels("rgba"),
        original: pixels("original"),
    }
}

/// "width=…,height=…" of caps.
fn size_in(caps: &str) -> String {
    let parts = caps.split(',');
    let size = parts.filter(|it| it.starts_with("width=") || it.starts_with("height="));
    size.collect::<Vec<_>>().join(",")
}

/// As close as GStreamer's converter comes with its few bits.
const CLOSE: u8 = 6;

/// How far two pictures are apart at most, where the original has one colour all around: elsewhere
/// converters disagree about what is between two colours.
fn distance(one: &[[u8; 4]], other: &[[u8; 4]], original: &[[u8; 4]], width: usize) -> u8 {
    assert_eq!((one.len(), other.len()), (original.len(), original.len()));
    let height = original.len() / width;
    let is_even = |x: usize, y: usize| {
        let (xs, ys) = (
            x.saturating_sub(8)..(x + 9).min(width),
            y.saturating_sub(3)..(y + 4).min(height),
        );
        let mut around = ys.flat_map(|y| xs.clone().map(move |x| (x, y)));
        around.all(|(near, line)| original[line * width + near] == original[y * width + x])
    };
    let (mut most, mut count) = (0, 0);
    for y in 0..height {
        for x in (0..width).filter(|x| is_even(*x, y)) {
            let at = y * width + x;
            let apart = (0..4).map(|i| one[at][i].abs_diff(other[at][i]));
            most = most.max(apart.max().unwrap());
            count += 1;
        }
    }
    assert!(count * 12 > original.len(), "{count} of {}", original.len());
    most
}

/// Peeks at one frame of these caps and compares.
fn compare(caps: &str, most: u8) {
    let name = Name::new("peek-format");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame.png");
    let Shot {
        frame,
        converted,
        original,
    } = picture(caps);
    let size = 4 * frame.len() as u64 + 4096;
    let reader = Reader::create(&name, &BufferConfig::new(4096, size)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    writer.set_metadata(caps.as_bytes()).unwrap();
    writer.write_frame(&frame).unwrap();
    let said = peek(&name, &file, &[]);
    assert!(said.starts_with("frame 1: "), "{said}");
    let (width, height, pixels) = read_png(&file);
    let parsed: gst::Caps = caps.parse().unwrap();
    let info = gst_video::VideoInfo::from_caps(&parsed).unwrap();
    assert_eq!((width, height), (info.width(), info.height()), "{caps}");
    let width = width as usize;
    let far = distance(&pixels, &converted, &original, width);
    assert!(far <= most, "{caps}: {far}");
    // Ours has more, and is nearer to what the frame was made of.
    if most == CLOSE {
        let far = distance(&pixels, &original, &original, width);
        assert!(far <= 4, "{caps}: {far}");
    }
    drop((writer, reader));
}

#[test]
fn pictures_of_all_formats_are_those_that_gstreamer_makes() {
    for (format, most) in [
        ("RGB", 0),
        ("BGR", 0),
        ("RGBA", 0),
        ("BGRA", 0),
        ("ARGB", 0),
        ("ABGR", 0),
        ("RGBx", 0),
        ("BGRx", 0),
        ("xRGB", 0),
        ("xBGR", 0),
        ("RGB16", 8),
        ("BGR16", 8),
        ("RGB15", 8),
        ("BGR15", 8),
        ("GRAY8", 1),
        ("GRAY16_LE", 1),
        ("GRAY16_BE", 1),
        ("I420", CLOSE),
        ("YV12", CLOSE),
        ("Y42B", CLOSE),
        ("Y444", CLOSE),
        ("Y41B", CLOSE),
        ("I420_10LE", CLOSE),
        ("I422_10LE", CLOSE),
        ("Y444_10LE", CLOSE),
        ("NV12", CLOSE),
        ("NV21", CLOSE),
        ("NV16", CLOSE),
        ("NV61", CLOSE),
        ("NV24", CLOSE),
        ("P010_10LE", CLOSE),
        ("YUY2", CLOSE),
        ("YVYU", CLOSE),
        ("UYVY", CLOSE),
        ("VYUY", CLOSE),
        ("AYUV", CLOSE),
        ("v308", CLOSE),
        ("v210", CLOSE),
    ] {
        let mut sizes = vec!["width=160,height=96"];
        // Not all: GStreamer 1.22 writes the last column of some formats, such as NV61 and VYUY, wrong.
        if [
            "I420",
            "NV12",
            "Y42B",
            "Y41B",
            "I422_10LE",
            "YUY2",
            "v210",
            "RGB",
        ]
        .contains(&format)
        {
            sizes.push("width=151,height=93");
        }
        for size in sizes {
            compare(
                &format!("video/x-raw,format={format},{size},framerate=30/1"),
                most,
            );
        }
    }
}

/// What GStreamer reads out of the bytes of a frame, pixel by pixel, calculated to red, green, blue and
/// alpha with all the bits there are.
fn unpacked(info: &gst_video::VideoInfo, frame: &[u8]) -> Vec<[u8; 4]> {
    let format = info.format_info();
    let (width, height) = (info.width() as usize, info.height() as usize);
    let height = match info.interlace_mode() {
        gst_video::VideoInterlaceMode::Alternate => height.div_ceil(2),
        _ => height,
    };
    let planes = info.n_planes() as usize;
    // It wants as many rows of colours as there are of luma, and does not look at those.
    let more = [frame, &vec![0; 4 * frame.len()]].concat();
    let sources: Vec<&[u8]> = (info.offset()[..planes].iter())
        .map(|offset| &more[*offset..])
        .collect();
    let to = gst_video::VideoFormatInfo::from_format(format.unpack_format());
    // AYUV and ARGB, with a byte or two for each part.
    let size = to.pixel_stride()[0] as usize / 4;
    let colorimetry = info.colorimetry();
    let is_rgb = to.is_rgb();
    let (red, blue) = match is_rgb {
        true => (0.0, 0.0),
        false => colorimetry.matrix().kr_kb().unwrap_or((0.0, 0.0)),
    };
    let is_full = colorimetry.range() == gst_video::VideoColorRange::Range0_255;
    let mut line = vec![0; 4 * size * width.next_multiple_of(64)];
    let mut pixels = Vec::new();
    for y in 0..height {
        format.unpack(
            gst_video::VideoPackFlags::empty(),
            &mut line,
            &sources,
            &info.stride()[..planes],
            0,
            y as i32,
            width as i32,
        );
        for pixel in line.chunks(4 * size).take(width) {
            let number = |at: usize| match size {
                1 => f64::from(pixel[at]),
                _ => f64::from(u16::from_ne_bytes([pixel[2 * at], pixel[2 * at + 1]])),
            };
            let part = |at| number(at) / if size == 1 { 255.0 } else { 65535.0 };
            let rgb = if is_rgb {
                [1, 2, 3].map(part)
            } else {
                // The numbers of limited range are those of eight bits and more behind the point.
                let [luma, u, v] = [1, 2, 3].map(|at| number(at) / (256_f64).powi(size as i32 - 1));
                let (luma, u, v) = match is_full {
                    true => (luma / 255.0, (u - 128.0) / 255.0, (v - 128.0) / 255.0),
                    false => (
                        (luma - 16.0) / 219.0,
                        (u - 128.0) / 224.0,
                        (v - 128.0) / 224.0,
                    ),
                };
                let (r, b) = (luma + 2.0 * (1.0 - red) * v, luma + 2.0 * (1.0 - blue) * u);
                [r, (luma - red * r - blue * b) / (1.0 - red - blue), b]
            };
            let byte = |value: f64| (value.clamp(0.0, 1.0) * 255.0).round() as u8;
            let alpha = match format.has_alpha() {
                true => byte(part(0)),
                false => 255,
            };
            pixels.push([byte(rgb[0]), byte(rgb[1]), byte(rgb[2]), alpha]);
        }
    }
    pixels
}

/// Frames of noise, in which every byte counts, against what GStreamer reads there.
#[test]
fn every_byte_of_a_frame_of_any_size_is_where_gstreamer_has_it() {
    const FORMATS: &str = "I420 YV12 Y42B Y444 Y41B YUV9 YVU9 A420 GBR GBRA RGBP BGRP \
        I420_10LE I420_10BE I420_12LE I420_12BE I422_10LE I422_10BE I422_12LE Y444_10LE Y444_10BE \
        Y444_12LE Y444_16LE Y444_16BE A420_10LE A422_10LE A444_10LE A444_10BE GBR_10LE GBR_12BE \
        GBRA_10LE GBRA_12LE NV12 NV21 NV16 NV61 NV24 P010_10LE P010_10BE P012_LE P016_LE P016_BE \
        YUY2 YVYU UYVY VYUY Y210 Y212_LE Y212_BE v216 v210 RGB BGR RGBA BGRA ARGB ABGR RGBx BGRx xRGB \
        xBGR AYUV VUYA v308 IYU2 ARGB64 ARGB64_BE RGBA64_LE BGRA64_LE ABGR64_BE AYUV64 Y412_LE Y410 \
        RGB10A2_LE BGR10A2_LE r210 RGB16 BGR16 RGB15 BGR15 GRAY8 GRAY16_LE GRAY16_BE";
    const SIZES: [(u32, u32, &str); 9] = [
        (1, 1, "progressive"),
        (2, 1, "progressive"),
        (1, 3, "progressive"),
        (3, 2, "progressive"),
        (5, 7, "interleaved"),
        (7, 5, "progressive"),
        (18, 6, "interleaved"),
        (49, 10, "alternate"),
        (97, 11, "mixed"),
    ];
    gst::init().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame.png");
    let mut wrong = Vec::new();
    for format in FORMATS.split_whitespace() {
        let name = Name::new("peek-noise");
        let reader = Reader::create(&name, &BufferConfig::new(4096, 1 << 18)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        for (width, height, mode) in SIZES {
            let caps = format!(
                "video/x-raw,format={format},width={width},height={height},interlace-mode={mode}"
            );
            let of_memory = match mode {
                "alternate" => caps.replacen(',', "(format:Interlaced),", 1),
                _ => caps.clone(),
            };
            let info =
                gst_video::VideoInfo::from_caps(&of_memory.parse::<gst::Caps>().unwrap()).unwrap();
            let frame = noise(info.size());
            writer.write_frame(&frame).unwrap();
            peek(&name, &file, &["--caps", &caps]);
            let (_, _, pixels) = read_png(&file);
            drop(reader.read_frame(LONG).unwrap());
            let expected = unpacked(&info, &frame);
            assert_eq!(pixels.len(), expected.len(), "{caps}");
            let alpha = match format {
                // GStreamer has two bits of alpha as 0, 64, 128 and 192 of 256.
                "RGB10A2_LE" | "BGR10A2_LE" => 64,
                // Whether these have any is not the same in all its versions.
                "Y410" | "Y412_LE" => 255,
                _ => 1,
            };
            // Rounded here or there.
            let is_close = |(one, other): (&[u8; 4], &[u8; 4])| {
                (0..3).all(|i| one[i].abs_diff(other[i]) <= 1) && one[3].abs_diff(other[3]) <= alpha
            };
            // GStreamer 1.22 reads the last pixel of an odd row of VYUY wrong.
            let is_known =
                |at: usize| format == "VYUY" && width % 2 == 1 && at as u32 % width == width - 1;
            let both = || pixels.iter().zip(&expected).enumerate();
            if let Some((at, it)) = both().find(|(at, it)| !is_close(*it) && !is_known(*at)) {
                wrong.push(format!("{caps}: pixel {at}: {it:?}"));
            }
        }
        drop((writer, reader));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Bytes without a pattern, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 4711_u64;
    let byte = |_| {
        // A linear congruential generator with Knuth's numbers; its upper bits are good.
        state =
            (state.wrapping_mul(6_364_136_223_846_793_005)).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u8
    };
    (0..len).map(byte).collect()
}

#[test]
fn the_colorimetry_of_the_caps_counts() {
    for colorimetry in [
        "bt601",
        "bt709",
        "bt2020",
        "smpte240m",
        "1:4:16:4",
        "1:3:5:1",
        "2:4:5:2",
    ] {
        compare(
            &format!(
                "video/x-raw,format=Y444,width=160,height=96,framerate=30/1,colorimetry={colorimetry}"
            ),
            CLOSE,
        );
    }
    // Without one it goes by the height.
    for height in [480, 576, 578, 2160] {
        compare(
            &format!("video/x-raw,format=I420,width=160,height={height},framerate=30/1"),
            CLOSE,
        );
    }
}

#[test]
fn planes_are_where_the_layout_has_them() {
    let name = Name::new("peek-layout");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame.png");
    let caps = "video/x-raw,format=I420,width=96,height=64,framerate=30/1";
    let Shot {
        frame,
        converted,
        original,
    } = picture(caps);
    let reader = Reader::create(&name, &BufferConfig::new(4096, 1 << 20)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    // Metadata that is older than the caps in the ring.
    writer
        .set_metadata(b"video/x-raw,format=RGB,width=9,height=9")
        .unwrap();
    writer
        .write_message(&Records::new().with_caps(caps), LONG)
        .unwrap();
    let (mut padded, mut at) = (vec![7; 40_000], 0);
    let layout = FrameLayout {
        width: 96,
        height: 64,
        planes: 3,
        offsets: [1000, 20_000, 30_000, 0],
        strides: [128, 100, 61, 0],
    };
    for (plane, (width, height)) in [(96, 64), (48, 32), (48, 32)].into_iter().enumerate() {
        for row in 0..height {
            let to = layout.offsets[plane] as usize + row * layout.strides[plane] as usize;
            padded[to..to + width].copy_from_slice(&frame[at..at + width]);
            at += width;
        }
    }
    let write = |layout: &FrameLayout, bytes: &[u8]| {
        let records = Records::new().with_layout(layout);
        writer.write_frame_with(bytes, &records, LONG).unwrap();
    };
    write(&layout, &padded);
    peek(&name, &file, &[]);
    let (_, _, pixels) = read_png(&file);
    assert!(distance(&pixels, &converted, &original, 96) <= CLOSE);
    // A layout that leaves the frame is an error, and nothing is read there.
    for (offset, stride) in [
        (39_999, 128),
        (0, i32::MAX),
        (0, -128),
        (u64::MAX, 128),
        (0, 5),
    ] {
        let mut wrong = layout;
        wrong.offsets[0] = offset;
        wrong.strides[0] = stride;
        write(&wrong, &padded);
        let to = folder.path().join("wrong.png");
        output(
            &mut zerobuffer(&["peek", &name, "-o", to.to_str().unwrap()]),
            2,
        );
        assert!(!to.exists());
    }
    drop((writer, reader));
}

#[test]
fn a_picture_of_a_pipeline_that_goes_on() {
    let name = Name::new("peek-live");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame.png");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! fakesink",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "videotestsrc is-live=true pattern=blue ! video/x-raw,format=NV12,width=320,height=240,framerate=60/1 \
         ! zerobuffersink name=sink buffer-name={}",
        &*name
    ));
    for _ in 0..5 {
        peek(&name, &file, &["--timeout", "60"]);
        let (width, height, pixels) = read_png(&file);
        assert_eq!((width, height), (320, 240));
        assert!(
            pixels
                .iter()
                .all(|it| it[0] < 4 && it[1] < 4 && it[2] > 250),
            "it is blue"
        );
    }
    let sent = sender.stat("sink", "frames");
    sender.until("sink", "frames", sent + 10);
    receiver.until("src", "frames", sent + 5);
    receiver.no_error();
}

#[test]
fn a_prefix_before_the_picture_is_left_out() {
    let name = Name::new("peek-prefix");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame.png");
    let caps = "video/x-raw,format=GRAY8,width=8,height=4";
    let frame = [vec![0; 24], vec![200; 32]].concat();
    for (metadata, more) in [
        (
            format!("{{\"caps\":\"{caps}\",\"frame_prefix\":\"rocket-welder\"}}"),
            &[][..],
        ),
        (caps.to_string(), &["--skip", "24"]),
    ] {
        let reader = Reader::create(&name, &BufferConfig::new(4096, 1 << 16)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        writer.set_metadata(metadata.as_bytes()).unwrap();
        writer.write_frame(&frame).unwrap();
        peek(&name, &file, more);
        let (_, _, pixels) = read_png(&file);
        assert_eq!(pixels, [[200, 200, 200, 255]; 32]);
        drop((writer, reader));
    }
}

/// Lets the others end, also when a test fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Copies frames as fast as they come from a stream that goes flat out; each must be whole.
fn frames_are_whole(name: &Name, ring: u64, hold: usize) -> (usize, usize) {
    let reader = Reader::create(name, &BufferConfig::new(1024, ring)).unwrap();
    let writer = Writer::attach(name).unwrap();
    let done = AtomicBool::new(false);
    let (mut whole, mut too_fast) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = std::collections::VecDeque::new();
            while let Ok(frame) = reader.read_frame(LONG) {
                held.push_back(frame);
                if held.len() > hold {
                    held.pop_front();
                }
            }
        });
        scope.spawn(|| {
            for i in 1.. {
                let len = 20_000 - i % 7;
                let mut place = writer.reserve(len, LONG).unwrap();
                gstzerobuffer::testing::fill_frame_data(&mut place, i);
                place.commit().unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
            writer.close();
        });
        let _ends = SetAtEnd(&done);
        let mut last = 0;
        for _ in 0..150 {
            match inspect::newest(name, Duration::from_millis(20)) {
                Ok(newest) => {
                    let sequence = newest.head.sequence;
                    assert!(sequence >= last, "{sequence} after {last}");
                    last = sequence;
                    assert!(
                        is_frame_data(&newest.bytes, sequence),
                        "frame {sequence} is torn ({:?})",
                        newest.surety
                    );
                    whole += 1;
                }
                Err(NotSeen::TooFast { .. } | NotSeen::NoFrame { .. }) => too_fast += 1,
                Err(err) => panic!("{err}"),
            }
        }
    });
    (whole, too_fast)
}

#[test]
fn every_frame_is_whole_however_fast_the_stream_is() {
    let name = Name::new("peek-fast");
    let (whole, _) = frames_are_whole(&name, 1 << 20, 2);
    assert!(whole > 75, "{whole}");
    // With room for three, where a frame is overwritten as soon as it is given back.
    let name = Name::new("peek-tight");
    let (whole, too_fast) = frames_are_whole(&name, 64_000, 0);
    assert_eq!(whole + too_fast, 150);
}

#[test]
fn the_last_frame_of_a_stream_that_stands_is_to_be_seen() {
    let name = Name::new("peek-last");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 8192)).unwrap();
    let nothing = inspect::newest(&name, Duration::ZERO);
    assert!(
        matches!(nothing, Err(NotSeen::NoFrame { .. })),
        "{nothing:?}"
    );
    let writer = Writer::attach(&name).unwrap();
    // Wherever in the ring it ends up.
    for i in 1..20 {
        writer.write_frame(&frame_data(1500, i)).unwrap();
        let seen = inspect::newest(&name, LONG).unwrap();
        assert_eq!((seen.head.sequence, seen.surety), (i, Surety::InRing));
        let held = reader.read_frame(LONG).unwrap();
        let seen = inspect::newest(&name, LONG).unwrap();
        assert_eq!((seen.head.sequence, seen.surety), (i, Surety::InRing));
        drop(held);
        let seen = inspect::newest(&name, LONG).unwrap();
        assert_eq!((seen.head.sequence, seen.surety), (i, Surety::GivenBack));
        assert!(is_frame_data(&seen.bytes, i));
    }
    drop(writer);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame");
    let said = peek(&name, &file, &["--raw"]);
    assert!(said.contains("two copies of it are the same"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), frame_data(1500, 19));
    drop(reader);
}

#[test]
fn frames_of_v1_writers_and_readers_are_to_be_seen() {
    let name = Name::new("peek-v1");
    let mut reader = V1Reader::create(&name, 1024, 8192);
    let mut writer = V1Writer::attach(&name, std::process::id().into());
    for i in 0..3 {
        let frame = pattern(1000, i);
        writer.write(&frame);
        assert_eq!(inspect::newest(&name, LONG).unwrap().bytes, frame);
        assert_eq!(reader.read(), Some(frame.clone()));
        assert_eq!(inspect::newest(&name, LONG).unwrap().bytes, frame);
    }
    drop((writer, reader));
}

#[test]
fn what_is_no_raw_video_is_written_as_it_is_and_what_cannot_be_is_told() {
    let name = Name::new("peek-other");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame");
    let to = file.to_str().unwrap();
    let reader = Reader::create(&name, &BufferConfig::new(1024, 1 << 16)).unwrap();
    let fails = |args: &[&str], text: &str| {
        let output = zerobuffer(&["peek", &name, "-o", to])
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(text), "{said}");
        assert!(!file.exists());
    };
    fails(&["--timeout", "0.01"], "no frame has come");
    fails(&["--timeout", "inf"], "not a time");
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(&pattern(3000, 1)).unwrap();
    fails(&[], "does not say what its frames are");
    fails(&["--caps", "nonsense"], "not caps");
    fails(
        &["--caps", "video/x-raw,format=RGB,width=64,height=64"],
        "a frame of 3000 bytes is not RGB 64x64",
    );
    fails(
        &["--caps", "video/x-raw,format=NV12_4L4,width=8,height=8"],
        "no picture of format NV12_4L4",
    );
    fails(
        &[
            "--caps",
            "video/x-raw,format=RGB,width=99999999,height=99999999",
        ],
        "too large",
    );
    fails(&["--caps", "video/x-raw,format=RGB"], "no width and height");
    peek(
        &name,
        &file,
        &["--caps", "video/x-raw,format=GRAY8,width=60,height=50"],
    );
    assert_eq!(read_png(&file).0, 60);
    let said = peek(&name, &file, &["--caps", "image/jpeg,width=60,height=50"]);
    assert!(
        said.contains("image/jpeg 60x50, written as it is"),
        "{said}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), pattern(3000, 1));
    let bytes = zerobuffer(&["peek", &name, "-o", "-", "--raw"])
        .output()
        .unwrap()
        .stdout;
    assert_eq!(bytes, pattern(3000, 1));
    // Headers that lead nowhere.
    let raw = name.raw();
    raw.set(raw.payload_start(), 1 << 40);
    std::fs::remove_file(&file).unwrap();
    fails(&["--timeout", "0.01", "--raw"], "no frame has come");
    raw.set(raw::WRITE_POS, 1 << 50);
    fails(&["--timeout", "0.01", "--raw"], "no frame has come");
    drop((writer, reader));
}
