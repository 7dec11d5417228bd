//! A clip with sound from file to file through two rings: `clip_in_two_rings [FOLDER [KIND]]`.
//!
//! It makes FOLDER/clip.KIND with GStreamer's own encoders (KIND is mp4, mkv or webm), and starts
//! itself again as the sender, which takes the clip apart: pictures go into one ring, sound into
//! another, encoded as they are. This process puts both together again, in FOLDER/arrived.KIND. Then
//! it looks at every packet of both files: bytes, PTS, DTS and duration have to be the same.

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::Command;

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// What makes a clip of one kind, and what takes it apart again.
struct Kind {
    name: &'static str,
    video: &'static str,
    audio: &'static str,
    mux: &'static str,
    demux: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "mp4",
        // With frames that are shown in another order than they are decoded.
        video: "x264enc bframes=2 b-adapt=false speed-preset=veryfast ! h264parse",
        audio: "avenc_aac ! aacparse",
        mux: "mp4mux",
        demux: "qtdemux",
    },
    Kind {
        name: "mkv",
        video: "x264enc bframes=2 b-adapt=false speed-preset=veryfast ! h264parse",
        audio: "audioconvert ! vorbisenc",
        mux: "matroskamux",
        demux: "matroskademux",
    },
    Kind {
        name: "webm",
        video: "vp8enc deadline=1 cpu-used=8",
        audio: "audioconvert ! opusenc",
        mux: "webmmux",
        demux: "matroskademux",
    },
];

fn main() -> Result {
    gst::init()?;
    gstzerobuffer::plugin_register_static()?;
    let args: Vec<String> = env::args().skip(1).collect();
    let temp = env::temp_dir().join("zerobuffer-clip");
    match &args[..] {
        [role, pipeline] if role == "--send" => run(pipeline),
        [] => pass(&temp, "mp4"),
        [folder] => pass(Path::new(folder), "mp4"),
        [folder, kind] => pass(Path::new(folder), kind),
        _ => Err("usage: clip_in_two_rings [FOLDER [mp4|mkv|webm]]".into()),
    }
}

fn pass(folder: &Path, kind: &str) -> Result {
    let kind = (KINDS.iter().find(|known| known.name == kind))
        .ok_or("clips are of the kinds mp4, mkv and webm")?;
    let Kind { mux, demux, .. } = kind;
    std::fs::create_dir_all(folder)?;
    let clip = folder.join(format!("clip.{}", kind.name));
    let arrived = folder.join(format!("arrived.{}", kind.name));

    println!("A clip of 5 s with sound: {}", clip.display());
    run(&format!(
        "{mux} name=mux ! filesink location={} \
         videotestsrc pattern=ball num-buffers=150 \
            ! video/x-raw,format=I420,width=640,height=360,framerate=30000/1001 \
            ! {} ! queue ! mux. \
         audiotestsrc wave=ticks num-buffers=235 samplesperbuffer=1024 \
            ! audio/x-raw,rate=48000,channels=2 ! {} ! queue ! mux.",
        quoted(&clip)?,
        kind.video,
        kind.audio,
    ))?;

    println!("Its pictures through one ring, its sound through another, from process to process:");
    let name = gstzerobuffer::testing::unique_name("clip");
    let mut sender = Command::new(env::current_exe()?)
        .arg("--send")
        .arg(format!(
            "filesrc location={} ! {demux} name=demux \
             demux.video_0 ! queue ! zerobuffersink sync=false buffer-name={name}-video \
             demux.audio_0 ! queue ! zerobuffersink sync=false buffer-name={name}-audio",
            quoted(&clip)?,
        ))
        .spawn()?;
    // No clock has a say in it: PTS stay what they are, and the muxer waits for both. The source may
    // bring anything, so the muxer's pads have to be named.
    let received = run(&format!(
        "{mux} name=mux ! filesink location={} \
         zerobuffersrc is-live=false timestamps=pts buffer-name={name}-video ! queue ! mux.video_0 \
         zerobuffersrc is-live=false timestamps=pts buffer-name={name}-audio ! queue ! mux.audio_0",
        quoted(&arrived)?,
    ));
    if received.is_err() {
        let _ = sender.kill();
    }
    let status = sender.wait()?;
    received?;
    if !status.success() {
        return Err("the sender failed".into());
    }
    println!("  put together again: {}", arrived.display());

    for stream in ["video", "audio"] {
        let [sent, got] = [
            packets(&clip, demux, stream)?,
            packets(&arrived, demux, stream)?,
        ];
        if sent.is_empty() || sent != got {
            let first = sent.iter().zip(&got).position(|(sent, got)| sent != got);
            return Err(format!(
                "{stream}: {} packets left, {} came, the first that differs is {first:?}",
                sent.len(),
                got.len()
            )
            .into());
        }
        println!(
            "  {stream}: {} packets, all with the same bytes and times",
            sent.len()
        );
    }
    Ok(())
}

/// When a packet is shown and decoded in running time, how long it lasts, and its bytes.
type Packet = (
    Option<gst::Signed<gst::ClockTime>>,
    Option<gst::Signed<gst::ClockTime>>,
    Option<gst::ClockTime>,
    Vec<u8>,
);

/// The packets of one stream of a file.
fn packets(file: &Path, demux: &str, stream: &str) -> Result<Vec<Packet>> {
    let pipeline = gst::parse::launch(&format!(
        "filesrc location={} ! {demux} name=demux demux.{stream}_0 ! appsink name=out sync=false",
        quoted(file)?
    ))?
    .downcast::<gst::Pipeline>()
    .map_err(|_| "not a pipeline")?;
    let out = (pipeline.by_name("out"))
        .and_then(|out| out.downcast::<gst_app::AppSink>().ok())
        .ok_or("no appsink")?;
    pipeline.set_state(gst::State::Playing)?;
    let mut packets = Vec::new();
    while let Ok(sample) = out.pull_sample() {
        let buffer = sample.buffer().ok_or("a sample has a buffer")?;
        let segment = sample
            .segment()
            .and_then(|segment| segment.downcast_ref::<gst::ClockTime>())
            .ok_or("a file has times")?;
        let running = |time: Option<gst::ClockTime>| segment.to_running_time_full(time);
        let bytes = buffer.map_readable()?.to_vec();
        packets.push((
            running(buffer.pts()),
            running(buffer.dts()),
            buffer.duration(),
            bytes,
        ));
    }
    pipeline.set_state(gst::State::Null)?;
    Ok(packets)
}

/// Runs a pipeline to its end.
fn run(pipeline: &str) -> Result {
    let pipeline = gst::parse::launch(pipeline)?;
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    let started = pipeline.set_state(gst::State::Playing);
    let ended = bus
        .iter_timed(gst::ClockTime::NONE)
        .find_map(|message| match message.view() {
            gst::MessageView::Eos(_) => Some(Ok(())),
            gst::MessageView::Error(err) => Some(Err(err.error().to_string())),
            _ => None,
        });
    pipeline.set_state(gst::State::Null)?;
    ended.ok_or("the bus closed")??;
    started?;
    Ok(())
}

/// A path as a value in a pipeline description.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or("the folder's name is not UTF-8")?;
    Ok(format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}
