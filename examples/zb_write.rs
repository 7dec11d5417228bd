//! Writes frames into a ZeroBuffer: for tests across languages.
//!
//! `zb_write NAME FRAMES SIZES METADATA FPS [CAPS…]` attaches to the buffer NAME (for 10 s it tries again
//! while there is no reader), writes METADATA (`-`: none), and then FRAMES frames whose sizes are
//! those of the comma list SIZES in turn, FPS a second (0: flat out). Byte j of frame i, both from
//! 0, is (i + j) & 255. With CAPS each frame is told when it is due, i / FPS, and the frames are in so
//! many parts as there are CAPS, before each of which these are sent: a reader of ours gets both, any
//! other just the frames. Exit status 0 when all were written, 1 with a line on stderr when not.

use std::env;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use gstzerobuffer::{FrameTime, Records, Writer, testing};

const USAGE: &str = "usage: zb_write NAME FRAMES SIZES METADATA FPS [CAPS…]";
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// A reader that is stopped or holds everything must not hang a test for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("zb_write: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [name, frames, sizes, metadata, fps, caps @ ..] = &args[..] else {
        return Err(USAGE.into());
    };
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("not a number: {text}"))
    };
    let frames = number(frames)?;
    let sizes = sizes
        .split(',')
        .map(number)
        .collect::<Result<Vec<_>, _>>()?;
    let interval = match fps.parse::<f64>() {
        Ok(0.0) => Duration::ZERO,
        Ok(fps) if fps > 0.0 => Duration::try_from_secs_f64(1.0 / fps)?,
        _ => return Err(format!("not a rate: {fps}").into()),
    };

    let writer = Writer::attach_wait(name, ATTACH_TIMEOUT)?;
    if metadata != "-" {
        writer.set_metadata(metadata.as_bytes())?;
    }
    let start = Instant::now();
    for (i, size) in (0..frames).zip(sizes.iter().cycle()) {
        if !interval.is_zero() {
            let due = interval.mul_f64(i as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let mut records = Records::new();
        if !caps.is_empty() {
            let part = |i: u64| (i * caps.len() as u64 / frames) as usize;
            if writer.carries_records() && (i == 0 || part(i) != part(i - 1)) {
                let caps = Records::new().with_caps(&caps[part(i)]);
                writer.write_message(&caps, WRITE_TIMEOUT)?;
            }
            let due = interval.mul_f64(i as f64);
            records.push_time(&FrameTime {
                pts: u64::try_from(due.as_nanos()).ok(),
                ..FrameTime::default()
            });
        }
        let mut place = writer.reserve_with(*size, &records, WRITE_TIMEOUT)?;
        testing::fill_frame_data(&mut place, i);
        place.commit()?;
    }
    Ok(())
}
