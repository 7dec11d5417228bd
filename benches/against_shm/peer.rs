//! One end of a measurement, in a process of its own.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use gst::prelude::*;
use gstreamer as gst;
use serde_json::{Value, json};

use crate::measure::{Mark, memory, now, quantile};
use crate::source::FrameSrc;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// GStreamer with our elements and the source of the benchmark.
pub fn init() -> Result {
    gst::init()?;
    gstzerobuffer::plugin_register_static()?;
    gst::Element::register(None, "benchsrc", gst::Rank::NONE, FrameSrc::static_type())?;
    Ok(())
}

/// The frames that count: what comes before finds cold caches and pages, what comes behind an
/// emptying ring.
fn window(frames: u64) -> [u64; 2] {
    [frames / 10, frames - frames / 10]
}

fn notes(frames: u64, number: u64) -> Option<Mark> {
    window(frames).contains(&number).then(Mark::now)
}

/// What was used between the two marks.
fn used(marks: &[Mark], memory: u64) -> Result<Value> {
    let [from, to] = marks else {
        return Err(format!("{} marks instead of 2", marks.len()).into());
    };
    Ok(json!({
        "cpu": to.cpu - from.cpu,
        "faults": to.faults - from.faults,
        "sleeps": to.sleeps - from.sleeps,
        "nanos": to.at - from.at,
        "memory": memory,
    }))
}

/// Runs a pipeline to its end, and looks at it before it stops.
pub fn run(pipeline: &gst::Element, look: impl FnOnce(&gst::Element) -> Result) -> Result {
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    pipeline.set_state(gst::State::Playing)?;
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            // shmsrc ends like this when its sender goes.
            gst::MessageView::Error(err) if err.error().matches(gst::ResourceError::Read) => break,
            gst::MessageView::Error(err) => return Err(err.error().to_string().into()),
            _ => {}
        }
    }
    let looked = look(pipeline);
    pipeline.set_state(gst::State::Null)?;
    looked
}

pub fn element(pipeline: &gst::Element, name: &str) -> Result<gst::Element> {
    let bin = pipeline.downcast_ref::<gst::Bin>().ok_or("no bin")?;
    Ok(bin.by_name(name).ok_or_else(|| format!("no {name}"))?)
}

/// Sends; the pipeline has a `benchsrc name=in`.
pub fn send(pipeline: &str, frames: u64) -> Result {
    init()?;
    let pipeline = gst::parse::launch(pipeline)?;
    let source = element(&pipeline, "in")?;
    let source = source
        .downcast::<FrameSrc>()
        .map_err(|_| "another source")?;
    let resident = Arc::new(Mutex::new(0));
    let measured = resident.clone();
    source.note(Box::new(move |number| {
        let mark = notes(frames, number);
        if number == window(frames)[1] {
            *measured.lock().unwrap_or_else(PoisonError::into_inner) = memory();
        }
        mark
    }));
    run(&pipeline, |_| Ok(()))?;
    let memory = *resident.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{}", used(&source.marks(), memory)?);
    Ok(())
}

#[derive(Default)]
struct Received {
    frames: u64,
    marks: Vec<Mark>,
    memory: u64,
    latencies: Vec<f64>,
    wrong: u64,
    sum: u64,
}

impl Received {
    fn take(&mut self, frame: &[u8], frames: u64, every_byte: bool) {
        let arrived = now();
        let word = |at: usize| frame[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        if every_byte {
            let words = frame.chunks_exact(8);
            let words = words.map(|word| word.try_into().map_or(0, u64::from_le_bytes));
            self.sum = std::hint::black_box(words.fold(self.sum, u64::wrapping_add));
        }
        self.wrong += u64::from(word(8) != self.frames);
        let [from, to] = window(frames);
        if (from..to).contains(&self.frames) {
            self.latencies.push(arrived.saturating_sub(word(0)) as f64);
        }
        self.marks.extend(notes(frames, self.frames));
        if self.frames == to {
            self.memory = memory();
        }
        self.frames += 1;
    }
}

/// Receives; the pipeline has a sink with `name=out`.
pub fn receive(pipeline: &str, frames: u64, every_byte: bool) -> Result {
    init()?;
    let pipeline = gst::parse::launch(pipeline)?;
    let pad = element(&pipeline, "out")?
        .static_pad("sink")
        .ok_or("no pad")?;
    let received = Arc::new(Mutex::new(Received::default()));
    let receiving = received.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(map) = info.buffer().and_then(|buffer| buffer.map_readable().ok()) {
            let mut received = receiving.lock().unwrap_or_else(PoisonError::into_inner);
            received.take(&map, frames, every_byte);
        }
        gst::PadProbeReturn::Ok
    });
    run(&pipeline, |_| Ok(()))?;
    let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
    if received.wrong > 0 {
        return Err(format!("{} frames out of order", received.wrong).into());
    }
    let mut figures = used(&received.marks, received.memory)?;
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        figures[name] = quantile(&mut received.latencies, part).into();
    }
    let spread = (0..=100).map(|part| quantile(&mut received.latencies, f64::from(part) / 100.0));
    figures["spread"] = spread.collect::<Vec<_>>().into();
    println!("{figures}");
    Ok(())
}
