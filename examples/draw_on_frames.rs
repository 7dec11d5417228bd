//! A worker for zerobufferfilter, without GStreamer: it draws a ring on every frame of a pipeline.
//!
//! `draw_on_frames CHANNEL` serves one pipeline after another:
//! `gst-launch-1.0 videotestsrc ! video/x-raw,format=BGR ! zerobufferfilter channel-name=CHANNEL !
//! videoconvert ! autovideosink`. It ends when its standard input does.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};

use gstzerobuffer::duplex::{DuplexServer, DuplexServerConfig};

/// The color of the ring.
const RED: [u8; 3] = [0, 0, 255];

fn main() -> Result<(), Box<dyn Error>> {
    let channel = std::env::args()
        .nth(1)
        .ok_or("usage: draw_on_frames CHANNEL")?;
    let size = Arc::new(Mutex::new(None));
    let seen = size.clone();
    let server = DuplexServer::builder(&channel, DuplexServerConfig::new(4096, 64 << 20))
        .on_error(|err| eprintln!("draw_on_frames: {err}"))
        // It comes before the first frame; the answers are of the same kind.
        .on_metadata(move |metadata| {
            let size = metadata.and_then(|text| size_of(std::str::from_utf8(text).ok()?));
            *seen.lock().unwrap() = size;
            None
        })
        // What is changed here is the answer.
        .start_mutable(move |frame| {
            let (width, height) = size.lock().unwrap().ok_or("a frame of unknown size")?;
            draw(frame, width, height);
            Ok(())
        })?;
    println!("ready");
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    server.stop();
    Ok(())
}

/// The width and height in `{"caps": "video/x-raw, …, width=(int)640, height=(int)480, …"}`.
fn size_of(metadata: &str) -> Option<(usize, usize)> {
    let number = |key| {
        let (_, rest) = metadata.split_once(key)?;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        rest[..end].parse().ok().filter(|number| *number > 0)
    };
    Some((number("width=(int)")?, number("height=(int)")?))
}

/// A ring in the middle, where a pixel is three bytes.
fn draw(frame: &mut [u8], width: usize, height: usize) {
    let (outer, inner) = (height / 4 + 4, (height / 4).saturating_sub(4));
    // GStreamer's rows may have padding.
    let rows = frame.chunks_mut((frame.len() / height).max(1));
    for (y, row) in rows.take(height).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).take(width).enumerate() {
            let (dx, dy) = (x.abs_diff(width / 2), y.abs_diff(height / 2));
            let distance = dx * dx + dy * dy;
            if (inner * inner..=outer * outer).contains(&distance) {
                pixel.copy_from_slice(&RED);
            }
        }
    }
}
