//! `zerobuffer peek`.

use std::fs;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use gstzerobuffer::inspect::{self, Inspection, Newest, Surety};

use crate::arguments::Peek;
use crate::caps::{self, Caps};
use crate::picture::{Format, Picture};
use crate::{Failure, text};

pub fn run(options: &Peek) -> Result<ExitCode, Failure> {
    let timeout = Duration::try_from_secs_f64(options.timeout)
        .map_err(|_| format!("not a time in seconds: {}", options.timeout))?;
    let said = match &options.caps {
        Some(caps) => Some(Caps::parse(caps).ok_or_else(|| format!("not caps: {caps}"))?),
        None => None,
    };
    let frame = inspect::newest(&options.name, timeout)?;
    let (bytes, what) = if options.raw {
        let what = "written as it is".to_string();
        (frame.bytes.clone(), what)
    } else {
        encode(options, &frame, said)?
    };
    if options.output == Path::new("-") {
        stdout().write_all(&bytes)?;
    } else {
        fs::write(&options.output, &bytes)
            .map_err(|err| format!("{}: {err}", options.output.display()))?;
        writeln!(stdout(), "{}", text::plain(&describe(&frame, &what)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What goes into the file, and what that is.
fn encode(
    options: &Peek,
    frame: &Newest,
    said: Option<Caps>,
) -> Result<(Vec<u8>, String), Failure> {
    let name = &options.name;
    let seen = Inspection::of(name).ok();
    let skip = (options.skip).unwrap_or_else(|| seen.as_ref().map_or(0, caps::prefix));
    let bytes = frame.bytes.get(skip..).unwrap_or_default();
    let in_ring = || Caps::parse(frame.caps.as_ref()?);
    let in_metadata = || Caps::of(seen.as_ref()?);
    let Some(caps) = said.or_else(in_ring).or_else(in_metadata) else {
        return Err(format!(
            "buffer '{name}' does not say what its frames are: --caps tells it, --raw writes the \
             {} bytes as they are",
            frame.bytes.len()
        )
        .into());
    };
    if caps.media != "video/x-raw" {
        let what = format!("{}, written as it is", caps.short());
        return Ok((bytes.to_vec(), what));
    }
    let format = Format::of(&caps)?;
    let records = frame.head.records.as_ref();
    let layout = records.and_then(|records| records.as_ref().ok()?.layout());
    let picture = Picture::decode(&format, layout.as_ref(), bytes)?;
    Ok((picture.to_png()?, caps.short()))
}

fn describe(frame: &Newest, what: &str) -> String {
    let mut words = format!("frame {}: {what}", frame.head.sequence);
    let records = frame.head.records.as_ref().and_then(|it| it.as_ref().ok());
    if let Some(pts) = records.and_then(|records| records.time()?.pts) {
        words += &format!(", pts {:.3} s", pts as f64 / 1e9);
    }
    if frame.surety == Surety::GivenBack {
        words += ", given back before it was copied: two copies of it are the same";
    }
    words
}
