//! A producer without GStreamer: it draws pictures and feeds a pipeline with them.
//!
//! `send_frames BUFFER [FRAMES [WIDTH HEIGHT]]` sends 30 a second to
//! `gst-launch-1.0 zerobuffersrc buffer-name=BUFFER ! videoconvert ! autovideosink`.

use std::error::Error;
use std::time::{Duration, Instant};
use std::{env, thread};

use gstzerobuffer::{FrameTime, Records, Writer};

const FPS: u32 = 30;
/// As blue, green and red.
const BACKGROUND: [u8; 3] = [64, 32, 0];
const BOX: [u8; 3] = [0, 200, 255];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let buffer = args
        .first()
        .ok_or("usage: send_frames BUFFER [FRAMES [WIDTH HEIGHT]]")?;
    let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |text| text.parse());
    let (frames, width, height) = (number(1, 300)?, number(2, 640)?, number(3, 480)?);

    // The pipeline makes the buffer, now or later.
    let writer = Writer::attach_wait(buffer, Duration::from_secs(10))?;
    let caps =
        format!("video/x-raw, format=BGR, width={width}, height={height}, framerate={FPS}/1");
    writer.set_metadata(caps.as_bytes())?;
    let row = (3 * width).next_multiple_of(4); // as GStreamer has it
    let interval = Duration::from_secs(1) / FPS;
    let start = Instant::now();
    for i in 0..frames {
        let due = interval * u32::try_from(i)?;
        thread::sleep(due.saturating_sub(start.elapsed()));
        let mut records = Records::new();
        records.push_time(&FrameTime {
            pts: u64::try_from(due.as_nanos()).ok(),
            ..FrameTime::default()
        });
        // A place in the ring: it is drawn where the pipeline reads it.
        let mut place =
            writer.reserve_with((row * height) as u64, &records, Duration::from_secs(10))?;
        draw(&mut place, row, (width, height), i * width / frames);
        place.commit()?;
    }
    Ok(())
}

/// A box that is so far from the left.
fn draw(frame: &mut [u8], row: usize, (width, height): (usize, usize), left: usize) {
    for (y, row) in frame.chunks_mut(row).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).take(width).enumerate() {
            let inside =
                (left..=left + width / 8).contains(&x) && (height / 4..=height / 2).contains(&y);
            pixel.copy_from_slice(if inside { &BOX } else { &BACKGROUND });
        }
    }
}
