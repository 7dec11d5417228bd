//! A player whose decoder is a process of its own: what breaks there does not break the player.
//! docs/tutorial.md builds this program step by step.
//!
//! ```sh
//! cargo run --release --example process_split file:///usr/share/films/film.webm
//! ```
//!
//! Behind the address may stand another sink than `autovideosink`, as for `gst-launch-1.0`.

use std::error::Error;
use std::io::{self, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::{env, thread};

use gst::prelude::*;
use gstreamer as gst;

/// A decoder that dies that often in a row does not come back.
const MOST_DEATHS: u32 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["--decoder", buffer, uri] => decoder(buffer, uri),
        [uri] => player(uri, "autovideosink"),
        [uri, sink] => player(uri, sink),
        _ => Err("usage: process_split URI [SINK]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}

/// A pipeline, with our elements known.
fn pipeline(description: &str) -> Result<gst::Pipeline, Box<dyn Error>> {
    gst::init()?;
    gstzerobuffer::plugin_register_static()?;
    let pipeline = gst::parse::launch(description)?;
    Ok(pipeline.downcast().map_err(|_| "not a pipeline")?)
}

/// The process that decodes.
fn decoder(buffer: &str, uri: &str) -> Result<(), Box<dyn Error>> {
    // The player holds the other end of our input: when it is gone, so are we.
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let pipeline = pipeline(&format!(
        "uridecodebin uri=\"{uri}\" ! videoconvert ! video/x-raw,format=I420 \
         ! zerobuffersink buffer-name={buffer}"
    ))?;
    pipeline.set_state(gst::State::Playing)?;
    let ended = wait(&pipeline, || false);
    pipeline.set_state(gst::State::Null)?;
    ended
}

/// The process that shows what was decoded.
fn player(uri: &str, sink: &str) -> Result<(), Box<dyn Error>> {
    // A name that nobody else has.
    let buffer = format!("player-{}", std::process::id());
    let pipeline = pipeline(&format!(
        "zerobuffersrc name=source buffer-name={buffer} ! videoconvert ! {sink}"
    ))?;
    let mut deaths = 0;
    while deaths < MOST_DEATHS {
        let mut decoder = start_decoder(&buffer, uri)?;
        pipeline.set_state(gst::State::Playing)?;
        // The end of its stream is the end of ours. If it dies, we need not wait for that.
        let died = || matches!(decoder.try_wait(), Ok(Some(status)) if !status.success());
        let ended = wait(&pipeline, died);
        let frames = frames(&pipeline);
        pipeline.set_state(gst::State::Null)?;
        if ended.is_err() {
            decoder.kill()?;
        }
        let status = decoder.wait()?;
        ended?;
        if status.success() {
            println!("the end, after {frames} frames");
            return Ok(());
        }
        println!("the decoder died after {frames} frames ({status})");
        deaths = if frames > 0 { 1 } else { deaths + 1 };
    }
    Err("the decoder dies again and again".into())
}

fn start_decoder(buffer: &str, uri: &str) -> io::Result<Child> {
    let decoder = Command::new(env::current_exe()?)
        .args(["--decoder", buffer, uri])
        .stdin(Stdio::piped())
        .spawn()?;
    println!("decoder {} starts", decoder.id());
    Ok(decoder)
}

/// How many frames have come through the ring since the pipeline was started.
fn frames(pipeline: &gst::Pipeline) -> u64 {
    let source = pipeline.by_name("source");
    let stats = source.map(|source| source.property::<gst::Structure>("stats"));
    stats
        .and_then(|stats| stats.get("frames").ok())
        .unwrap_or(0)
}

/// Waits for the end of the stream, or until `done` says so. An error is one.
fn wait(pipeline: &gst::Pipeline, mut done: impl FnMut() -> bool) -> Result<(), Box<dyn Error>> {
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    let types = [gst::MessageType::Eos, gst::MessageType::Error];
    while !done() {
        let message = bus.timed_pop_filtered(gst::ClockTime::from_mseconds(100), &types);
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => return Ok(()),
            Some(gst::MessageView::Error(err)) => return Err(err.error().into()),
            _ => {}
        }
    }
    Ok(())
}
