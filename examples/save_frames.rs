//! A consumer without GStreamer: it saves the frames of a pipeline as pictures.
//!
//! `save_frames BUFFER FOLDER` makes the buffer, and writes each frame of
//! `gst-launch-1.0 videotestsrc num-buffers=10 ! video/x-raw,format=BGR ! zerobuffersink
//! buffer-name=BUFFER` as FOLDER/0000.ppm and so on, until the stream ends.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use gstzerobuffer::{BufferConfig, Frame, Reader, Wait};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [buffer, folder] = &args[..] else {
        return Err("usage: save_frames BUFFER FOLDER".into());
    };
    let reader = Reader::create(buffer, &BufferConfig::new(4096, 64 << 20))?;
    let mut count = 0;
    // Each is lent: its room goes back to the pipeline when it is dropped.
    for frame in reader.frames(Wait::forever()) {
        let frame = frame?;
        let metadata = reader.metadata()?.unwrap_or_default();
        let size = size_of(std::str::from_utf8(&metadata)?);
        let (width, height) = size.ok_or("frames of unknown size")?;
        let picture = to_ppm(&frame, width, height);
        fs::write(Path::new(folder).join(format!("{count:04}.ppm")), picture)?;
        count += 1;
    }
    println!("{count} frames");
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

/// A picture of blue, green and red as a file.
fn to_ppm(frame: &Frame, width: usize, height: usize) -> Vec<u8> {
    // GStreamer's rows may have padding, and a zerobuffersink tells a reader of this library where
    // they are if they are not where they usually are.
    let (start, row) = match frame.records().layout() {
        Some(layout) => (layout.offsets[0] as usize, layout.strides[0] as usize),
        None => (0, frame.len() / height),
    };
    let mut file = format!("P6\n{width} {height}\n255\n").into_bytes();
    let rows = frame.get(start..).unwrap_or_default().chunks(row.max(1));
    for row in rows.take(height) {
        for pixel in row.chunks_exact(3).take(width) {
            file.extend([pixel[2], pixel[1], pixel[0]]);
        }
    }
    file
}
