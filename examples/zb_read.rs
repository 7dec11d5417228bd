//! Reads frames from a ZeroBuffer and prints a JSON line for each: for tests across languages.
//!
//! `zb_read NAME METADATA_SIZE PAYLOAD_SIZE FRAMES TIMEOUT_S` creates the buffer NAME with these
//! sizes in bytes, prints `{"seq":…,"size":…,"crc32":…}` per frame and then `{"metadata":…}`: the
//! text of the metadata, `null` when there is none. (Metadata that is not UTF-8 is printed as
//! `{"metadata":null,"metadata_hex":"…"}`.) What a writer of ours tells beside is printed too:
//! `"pts":…` with the frame, in nanoseconds, and `{"caps":…}` where they change. FRAMES 0 reads to the end of the stream. Each frame may
//! take TIMEOUT_S seconds. Exit status 0 when it got what it was asked for, 1 with a line on stderr
//! when not.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use gstzerobuffer::{BufferConfig, Error, Item, Reader, Records};
use serde_json::json;

const USAGE: &str = "usage: zb_read NAME METADATA_SIZE PAYLOAD_SIZE FRAMES TIMEOUT_S";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("zb_read: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [name, metadata_size, payload_size, frames, timeout] = &args[..] else {
        return Err(USAGE.into());
    };
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("not a number: {text}"))
    };
    let config = BufferConfig::new(number(metadata_size)?, number(payload_size)?);
    let frames = number(frames)?;
    let timeout = timeout
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("not a time in seconds: {timeout}"))?;

    let reader = Reader::create(name, &config)?;
    let mut out = io::stdout().lock();
    while frames == 0 || reader.frames_read() < frames {
        let item = match reader.read(timeout) {
            Err(Error::WriterClosed { .. }) if frames == 0 => break,
            other => other?,
        };
        match item {
            Item::Message(records) => print_caps(&mut out, &records)?,
            Item::Frame(frame) => {
                print_caps(&mut out, frame.records())?;
                let (seq, size, crc) = (frame.sequence(), frame.len(), crc32fast::hash(&frame));
                write!(out, r#"{{"seq":{seq},"size":{size},"crc32":{crc}"#)?;
                if let Some(pts) = frame.time().and_then(|time| time.pts) {
                    write!(out, r#","pts":{pts}"#)?;
                }
                writeln!(out, "}}")?;
            }
            // This buffer stays as it is.
            _ => {}
        }
    }
    let metadata = match reader.metadata()?.map(String::from_utf8) {
        None => json!({"metadata": null}),
        Some(Ok(text)) => json!({"metadata": text}),
        Some(Err(bytes)) => {
            let hex: String = bytes
                .as_bytes()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            json!({"metadata": null, "metadata_hex": hex})
        }
    };
    writeln!(out, "{metadata}")?;
    Ok(())
}

fn print_caps(out: &mut impl Write, records: &Records) -> io::Result<()> {
    match records.caps() {
        Some(caps) => writeln!(out, "{}", json!({ "caps": caps })),
        None => Ok(()),
    }
}
