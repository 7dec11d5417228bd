//! Reads every frame of one ZeroBuffer and writes it to another: for tests across languages.
//!
//! `zb_relay IN OUT [METADATA_SIZE PAYLOAD_SIZE]` creates the buffer IN (65536 and 33554432 bytes
//! unless told otherwise), attaches to the buffer OUT when the first frame is there (for 10 s it
//! tries again while there is no reader), and copies metadata and frames until the writer of IN
//! closes. Exit status 0 at a clean end, 1 with a line on stderr otherwise.

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use gstzerobuffer::{BufferConfig, Reader, Wait, Writer};

const USAGE: &str = "usage: zb_relay IN OUT [METADATA_SIZE PAYLOAD_SIZE]";
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// A reader that is stopped or holds everything must not hang a test for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("zb_relay: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (input, output, config) = match &args[..] {
        [input, output] => (input, output, BufferConfig::new(64 << 10, 32 << 20)),
        [input, output, metadata, payload] => (
            input,
            output,
            BufferConfig::new(metadata.parse()?, payload.parse()?),
        ),
        _ => return Err(USAGE.into()),
    };
    let reader = Reader::create(input, &config)?;
    // The metadata is written before the first frame or never, so the output opens with that.
    let open = || -> Result<Writer, gstzerobuffer::Error> {
        let writer = Writer::attach_wait(output, ATTACH_TIMEOUT)?;
        if let Some(metadata) = reader.metadata()? {
            writer.set_metadata(&metadata)?;
        }
        Ok(writer)
    };
    let mut frames = reader.frames(Wait::forever());
    let mut next = frames.next().transpose()?;
    let writer = open()?;
    while let Some(frame) = next {
        writer.write_frame_wait(&frame, WRITE_TIMEOUT)?;
        drop(frame);
        next = frames.next().transpose()?;
    }
    Ok(())
}
