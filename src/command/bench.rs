//! `zerobuffer bench`: two processes and a ring between them.

use std::env;
use std::io::{Read, Write, stdout};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gstzerobuffer::inspect::host;
use gstzerobuffer::testing::unique_name;
use gstzerobuffer::{BufferConfig, Error, FrameTime, Reader, Records, Writer, ring_size};
use serde_json::{Value, json};

use crate::arguments::{Bench, BenchReader};
use crate::{Failure, text};

/// Frames that are in the ring at a time.
const FRAMES: u64 = 4;
/// The pace at which the latency is measured.
const PACE: Duration = Duration::from_millis(10);
const WAIT: Duration = Duration::from_secs(30);

/// How a frame gets to the other process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Copied into the ring and out of it.
    Copied,
    /// Copied into the ring, read in place.
    ReadInPlace,
    /// Drawn in the ring and read there: each of its pages is touched once.
    InPlace,
}

/// What was measured of one size.
struct Line {
    size: usize,
    memcpy: f64,
    copied: f64,
    read_in_place: f64,
    in_place: f64,
    latency: [Duration; 2],
}

pub fn run(options: &Bench) -> Result<ExitCode, Failure> {
    let time = Duration::try_from_secs_f64(options.seconds)
        .map_err(|_| format!("not a time in seconds: {}", options.seconds))?;
    let sizes = match options.size {
        Some(0) => return Err("a frame has one byte at least".into()),
        Some(size) => vec![size],
        None => [640 * 480, 1920 * 1080, 3840 * 2160]
            .map(|it| it * 3 / 2)
            .to_vec(),
    };
    let mut lines = Vec::new();
    for size in sizes {
        lines.push(Line {
            size,
            memcpy: memcpy(size, time),
            copied: flat_out(size, time, Way::Copied)?,
            read_in_place: flat_out(size, time, Way::ReadInPlace)?,
            in_place: flat_out(size, time, Way::InPlace)?,
            latency: latency(size, time)?,
        });
    }
    let mut out = stdout();
    if options.json {
        let json: Vec<Value> = lines.iter().map(Line::json).collect();
        writeln!(out, "{:#}", Value::Array(json))?;
    } else {
        let heading = [
            "FRAME",
            "MEMCPY/S",
            "COPIED/S",
            "READ IN PLACE/S",
            "IN PLACE/S",
            "LATENCY",
            "99 %",
        ];
        let mut rows = vec![heading.map(String::from).to_vec()];
        rows.extend(lines.iter().map(Line::row));
        write!(out, "{}", text::table(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Line {
    fn row(&self) -> Vec<String> {
        let rate = |rate: f64| {
            let bytes = text::bytes((rate * self.size as f64) as u64);
            format!("{rate:.0} ({bytes})")
        };
        let time = |time: Duration| format!("{:.0} µs", time.as_secs_f64() * 1e6);
        vec![
            text::bytes(self.size as u64),
            rate(self.memcpy),
            rate(self.copied),
            rate(self.read_in_place),
            format!("{:.0}", self.in_place),
            time(self.latency[0]),
            time(self.latency[1]),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "frame_bytes": self.size,
            "memcpy_per_second": self.memcpy,
            "copied_per_second": self.copied,
            "read_in_place_per_second": self.read_in_place,
            "in_place_per_second": self.in_place,
            "latency_seconds": self.latency[0].as_secs_f64(),
            "latency_99_seconds": self.latency[1].as_secs_f64(),
        })
    }
}

/// Copies a second within this process.
fn memcpy(size: usize, time: Duration) -> f64 {
    let (from, mut to) = (vec![1_u8; size], vec![0_u8; size]);
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time || count == 0 {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// The other process, and the writer that feeds it.
struct Pair {
    reader: Child,
    writer: Option<Writer>,
}

impl Pair {
    fn start(size: usize, copy: bool) -> Result<Self, Failure> {
        let name = unique_name("zerobuffer-bench");
        let ring = ring_size(size as u64, FRAMES);
        let mut command = Command::new(env::current_exe()?);
        command.args(["bench-reader", &name, &ring.to_string()]);
        if copy {
            command.arg("--copy");
        }
        let reader = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|err| format!("the other process does not start: {err}"))?;
        let mut pair = Pair {
            reader,
            writer: None,
        };
        pair.writer = Some(Writer::attach_wait(&name, WAIT)?);
        Ok(pair)
    }

    /// Ends both; what the reader found.
    fn end(mut self) -> Result<Value, Failure> {
        drop(self.writer.take());
        let mut said = String::new();
        if let Some(out) = &mut self.reader.stdout {
            out.read_to_string(&mut said)?;
        }
        if !self.reader.wait()?.success() {
            return Err("the other process failed".into());
        }
        Ok(serde_json::from_str(&said)?)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // It ends with its writer; this is for errors.
        drop(self.writer.take());
        let _ = self.reader.wait();
    }
}

/// Frames a second, as fast as both ends can.
fn flat_out(size: usize, time: Duration, way: Way) -> Result<f64, Failure> {
    let pair = Pair::start(size, way == Way::Copied)?;
    let Some(writer) = &pair.writer else {
        return Err("there is no writer".into());
    };
    let frame = vec![1; size];
    let start = Instant::now();
    while start.elapsed() < time {
        let mut place = writer.reserve(size as u64, WAIT)?;
        if way == Way::InPlace {
            for byte in place.iter_mut().step_by(4096) {
                *byte = 1;
            }
        } else {
            place.copy_from_slice(&frame);
        }
        place.commit()?;
    }
    let seen = pair.end()?;
    let frames = seen["frames"].as_f64().unwrap_or(0.0);
    Ok(frames / start.elapsed().as_secs_f64())
}

/// From commit to the other process's read: half of the frames take less, and 99 of 100.
fn latency(size: usize, time: Duration) -> Result<[Duration; 2], Failure> {
    let pair = Pair::start(size, false)?;
    let Some(writer) = &pair.writer else {
        return Err("there is no writer".into());
    };
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time || count == 0 {
        count += 1;
        thread::sleep((PACE * count).saturating_sub(start.elapsed()));
        let now = FrameTime {
            monotonic: u64::try_from(host::monotonic().as_nanos()).ok(),
            ..FrameTime::default()
        };
        // The time is taken before the room is: that is a part of it.
        let place = writer.reserve_with(size as u64, &Records::new().with_time(&now), WAIT)?;
        place.commit()?;
    }
    let seen = pair.end()?;
    let nanoseconds = |name: &str| Duration::from_nanos(seen[name].as_u64().unwrap_or(0));
    Ok([nanoseconds("half_ns"), nanoseconds("most_ns")])
}

/// The reader's process.
pub fn read(options: &BenchReader) -> Result<ExitCode, Failure> {
    let config = BufferConfig::new(4096, options.ring);
    let reader = Reader::create(&options.name, &config)?;
    let mut copy = Vec::new();
    let mut latencies = Vec::new();
    loop {
        let frame = match reader.read_frame(WAIT) {
            Ok(frame) => frame,
            Err(Error::WriterClosed { .. }) => break,
            Err(err) => return Err(err.into()),
        };
        if let Some(then) = frame.time().and_then(|time| time.monotonic) {
            latencies.push(host::monotonic().saturating_sub(Duration::from_nanos(then)));
        }
        if options.copy {
            copy.clear();
            copy.extend_from_slice(&frame);
        } else {
            let touched = frame.iter().step_by(4096);
            std::hint::black_box(touched.fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
        }
    }
    latencies.sort();
    let part = |of_100: usize| {
        let at = latencies.len() * of_100 / 100;
        latencies.get(at).map_or(0, |it| it.as_nanos())
    };
    let seen = json!({
        "frames": reader.frames_read(),
        "half_ns": part(50) as u64,
        "most_ns": part(99) as u64,
    });
    writeln!(stdout(), "{seen}")?;
    Ok(ExitCode::SUCCESS)
}
