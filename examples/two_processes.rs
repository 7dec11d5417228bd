//! An application that holds both ends of a ring in two processes: `two_processes [FOLDER]`.
//!
//! It registers the elements from this crate (no plugin path is needed) and starts itself again as
//! the sender. The receiver writes what arrives to FOLDER/arrived.webm and the last frame of it to
//! FOLDER/arrived.png, and tells how many frames came and how fast. Then the same without a clock,
//! as fast as it goes.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

use gst::prelude::*;
use gstreamer as gst;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result {
    gst::init()?;
    gstzerobuffer::plugin_register_static()?;
    let args: Vec<String> = env::args().skip(1).collect();
    match &args[..] {
        [role, pipeline] if role == "--send" => run(pipeline).map(drop),
        [folder] => receive(Path::new(folder)),
        [] => receive(&env::temp_dir().join("zerobuffer-demo")),
        _ => Err("usage: two_processes [FOLDER]".into()),
    }
}

fn receive(folder: &Path) -> Result {
    std::fs::create_dir_all(folder)?;
    let name = gstzerobuffer::testing::unique_name("demo");
    let (video, picture) = (folder.join("arrived.webm"), folder.join("arrived.png"));

    println!("A moving picture, 1280×720 at 30 frames/s, from process to process:");
    let sender = send(&format!(
        "videotestsrc pattern=ball background-color=0xff205080 num-buffers=150 \
         ! video/x-raw,format=I420,width=1280,height=720,framerate=30/1 \
         ! zerobuffersink buffer-name={name}"
    ))?;
    let stream = format!(
        "zerobuffersrc name=source buffer-name={name} ! tee name=t \
         t. ! queue max-size-buffers=10 ! vp8enc deadline=1 cpu-used=8 target-bitrate=2000000 \
            ! webmmux ! filesink location={} \
         t. ! queue ! videoconvert ! pngenc snapshot=false compression-level=1 \
            ! multifilesink max-files=1 location={}",
        quoted(&video)?,
        quoted(&picture)?,
    );
    tell(sender, &stream)?;
    println!("  what arrived: {}", video.display());
    println!("  the last frame: {}", picture.display());

    println!("The same size without a clock, as fast as it goes:");
    let sender = send(&format!(
        "videotestsrc pattern=black num-buffers=2000 \
         ! video/x-raw,format=I420,width=1280,height=720 \
         ! zerobuffersink sync=false buffer-name={name}"
    ))?;
    tell(
        sender,
        &format!("zerobuffersrc name=source buffer-name={name} ! fakesink sync=false"),
    )
}

/// Starts this program again as the sender.
fn send(pipeline: &str) -> Result<Child> {
    Ok(Command::new(env::current_exe()?)
        .args(["--send", pipeline])
        .spawn()?)
}

/// Runs the receiving pipeline to its end and says what came.
fn tell(mut sender: Child, stream: &str) -> Result {
    let start = Instant::now();
    let stats = run(stream);
    let seconds = start.elapsed().as_secs_f64();
    let status = sender.wait()?;
    let stats = stats?.ok_or("the pipeline has no element named source")?;
    if !status.success() {
        return Err("the sender failed".into());
    }
    let frames: u64 = stats.get("frames")?;
    let bytes: u64 = stats.get("bytes")?;
    println!(
        "  {frames} frames, {} MB in {seconds:.1} s: {:.0} frames/s; {} taken in place, {} copied",
        bytes / 1_000_000,
        frames as f64 / seconds,
        stats.get::<u64>("in-place")?,
        stats.get::<u64>("copied")?,
    );
    Ok(())
}

/// Runs a pipeline to its end; the `stats` of the element named `source`, if there is one.
fn run(pipeline: &str) -> Result<Option<gst::Structure>> {
    let pipeline = gst::parse::launch(pipeline)?
        .downcast::<gst::Pipeline>()
        .map_err(|_| "not a pipeline")?;
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    let started = pipeline.set_state(gst::State::Playing);
    let ended = bus
        .iter_timed(gst::ClockTime::NONE)
        .find_map(|message| match message.view() {
            gst::MessageView::Eos(_) => Some(Ok(())),
            gst::MessageView::Error(err) => Some(Err(err.error().to_string())),
            _ => None,
        });
    let stats = pipeline
        .by_name("source")
        .map(|source| source.property::<gst::Structure>("stats"));
    pipeline.set_state(gst::State::Null)?;
    ended.ok_or("the bus closed")??;
    started?;
    Ok(stats)
}

/// A path as a value in a pipeline description.
fn quoted(path: &Path) -> Result<String> {
    let path = PathBuf::from(path);
    let text = path.to_str().ok_or("the folder's name is not UTF-8")?;
    Ok(format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}
