//! Writes frames into a ZeroBuffer: for tests across languages.
//!
//! `zb_write NAME FRAMES SIZES METADATA FPS` attaches to the buffer NAME (for 10 s it tries again
//! while there is no reader), writes METADATA (`-`: none), and then FRAMES frames whose sizes are
//! those of the comma list SIZES in turn, FPS a second (0: flat out). Byte j of frame i, both from
//! 0, is (i + j) & 255. Exit status 0 when all were written, 1 with a line on stderr when not.

use std::env;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use gstzerobuffer::{Writer, testing};

const USAGE: &str = "usage: zb_write NAME FRAMES SIZES METADATA FPS";
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
    let [name, frames, sizes, metadata, fps] = &args[..] else {
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
        let mut place = writer.reserve(*size, WRITE_TIMEOUT)?;
        testing::fill_frame_data(&mut place, i);
        place.commit()?;
    }
    Ok(())
}
