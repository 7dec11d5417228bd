//! What it costs to receive frames that downstream holds on to: `cargo bench --bench holding`.
//!
//! The consumer always holds the last 40 frames of 1920×1080 I420, as an encoder with lookahead
//! does, and releases the oldest for each that it gets. The ring has room for three or eight. The
//! producer is another process (this program starts itself again) and as fast as it can be. Only the
//! consumer's processor time counts, user and system, after the first frames; its page faults too.
//!
//! * `memcpy`: a plain copy of each frame, from as many places as the ring has frames into memory
//!   that was used before. Everything is measured against this.
//! * `evacuated`: each frame is lent in place, and leaves the ring when the writer needs its room.
//! * `adaptive`: what `Reader::set_evacuation` does: it soon copies each frame when it is read.
//! * `not held`: the consumer holds only the last frame, so that all are lent in place.
//!
//! All of them look at a word in each page of a frame when they get it and when they release it; if
//! one is wrong, the exit status is not 0. They take turns, several rounds; figures are medians, and each ratio is the
//! median of the ratios within a round.
//!
//! Options: `--quick` (a few frames, one round), `--rounds N`.

use std::collections::VecDeque;
use std::env;
use std::error::Error;
use std::process::{Child, Command};
use std::time::Duration;

use gstzerobuffer::{BufferConfig, Frame, Reader, Writer, testing};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const FRAME: usize = 1920 * 1080 * 3 / 2;
const HEADER: usize = 16;
const HOLDS: usize = 40;
const RINGS: [usize; 2] = [3, 8];
const PAGE: usize = 4096;
/// How long an end waits for the other before that is an error.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Memcpy,
    Evacuated,
    Adaptive,
    NotHeld,
}

const WAYS: [Way; 4] = [Way::Memcpy, Way::Evacuated, Way::Adaptive, Way::NotHeld];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Memcpy => "memcpy",
            Way::Evacuated => "evacuated",
            Way::Adaptive => "adaptive",
            Way::NotHeld => "not held",
        }
    }
}

/// What a frame came to.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// Microseconds of processor time.
    cpu: f64,
    faults: f64,
    copies: f64,
}

fn main() -> Result {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--write", name, frames] => write(name, frames.parse()?),
        [] => compare(300, 5),
        ["--quick"] => compare(50, 1),
        ["--rounds", rounds] => compare(300, rounds.parse()?),
        _ => Err("options: --quick, --rounds N".into()),
    }
}

fn compare(frames: usize, rounds: usize) -> Result {
    println!("1920x1080 I420, always {HOLDS} held; a frame costs its consumer:\n");
    println!("ring      way         x memcpy   CPU, us   page faults   copies");
    for ring in RINGS {
        let mut all = Vec::new();
        for _ in 0..rounds.max(1) {
            let round: Result<Vec<_>> = (WAYS.iter())
                .map(|way| measure(*way, ring, frames))
                .collect();
            all.push(round?);
        }
        for (at, way) in WAYS.iter().enumerate() {
            let of = |figure: fn(&Figures) -> f64| median(all.iter().map(|row| figure(&row[at])));
            let ratio = median(all.iter().map(|row| row[at].cpu / row[0].cpu));
            println!(
                "{ring} frames  {:10} {ratio:9.2} {:9.0} {:13.1} {:8.2}",
                way.name(),
                of(|figures| figures.cpu),
                of(|figures| figures.faults),
                of(|figures| figures.copies),
            );
        }
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What this process has used: microseconds of processor time, page faults.
fn used() -> Result<(f64, f64)> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok((time as f64, usage.minor_page_faults() as f64))
}

fn measure(way: Way, ring: usize, frames: usize) -> Result<Figures> {
    match way {
        Way::Memcpy => plain(ring, frames),
        _ => receive(way, ring, frames),
    }
}

/// The frames before it is measured: all that is held is there, and all memory has been used.
const WARM_UP: usize = 3 * HOLDS;

fn plain(ring: usize, frames: usize) -> Result<Figures> {
    let mut from: Vec<Vec<u8>> = vec![vec![0; FRAME]; ring];
    let mut held: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
    let mut before = used()?;
    for number in 1..=WARM_UP + frames {
        if number == WARM_UP + 1 {
            before = used()?;
        }
        let source = &mut from[number % ring];
        mark(source, number);
        let mut copy = match held.len() {
            HOLDS => {
                let (number, oldest) = held.pop_front().ok_or("nothing held")?;
                check(&oldest, number)?;
                oldest
            }
            _ => vec![1; FRAME],
        };
        copy.copy_from_slice(source);
        check(&copy, number)?;
        held.push_back((number, copy));
    }
    figures(before, frames, frames as f64)
}

fn receive(way: Way, ring: usize, frames: usize) -> Result<Figures> {
    let name = testing::unique_name("bench-holding");
    let size = ring * (HEADER + FRAME) + PAGE;
    let reader = Reader::create(&name, &BufferConfig::new(1024, size as u64))?;
    reader.set_evacuation(true);
    reader.set_copying(way != Way::Evacuated);
    let holds = if way == Way::NotHeld { 1 } else { HOLDS };
    let mut writer = start(&name, WARM_UP + frames)?;
    let mut held: VecDeque<(usize, Frame)> = VecDeque::new();
    let (mut before, mut copied) = (used()?, 0);
    for number in 1..=WARM_UP + frames {
        if number == WARM_UP + 1 {
            before = used()?;
            copied = reader.frames_copied();
        }
        let frame = reader.read_frame(TIMEOUT)?;
        check(&frame, number)?;
        held.push_back((number, frame));
        if held.len() > holds
            && let Some((number, frame)) = held.pop_front()
        {
            check(&frame, number)?;
        }
    }
    let copies = (reader.frames_copied() - copied) as f64;
    let figures = figures(before, frames, copies);
    for (number, frame) in held {
        check(&frame, number)?;
    }
    if !writer.wait()?.success() {
        return Err("the writer failed".into());
    }
    figures
}

fn figures(before: (f64, f64), frames: usize, copies: f64) -> Result<Figures> {
    let now = used()?;
    let frames = frames as f64;
    Ok(Figures {
        cpu: (now.0 - before.0) / frames,
        faults: (now.1 - before.1) / frames,
        copies: copies / frames,
    })
}

fn word(number: usize, page: usize) -> [u8; 8] {
    ((number << 16) as u64 ^ page as u64).to_le_bytes()
}

/// Writes a word into each page.
fn mark(frame: &mut [u8], number: usize) {
    for (page, bytes) in frame.chunks_exact_mut(PAGE).enumerate() {
        bytes[..8].copy_from_slice(&word(number, page));
    }
}

fn check(frame: &[u8], number: usize) -> Result {
    let right = frame.len() == FRAME
        && (frame.chunks_exact(PAGE).enumerate())
            .all(|(page, bytes)| bytes[..8] == word(number, page));
    if !right {
        return Err(format!("frame {number} has changed").into());
    }
    Ok(())
}

fn start(name: &str, frames: usize) -> Result<Child> {
    Ok(Command::new(env::current_exe()?)
        .args(["--write", name, &frames.to_string()])
        .spawn()?)
}

/// The other process.
fn write(name: &str, frames: usize) -> Result {
    let writer = Writer::attach_wait(name, TIMEOUT)?;
    for number in 1..=frames {
        let mut place = writer.reserve(FRAME as u64, TIMEOUT)?;
        mark(&mut place, number);
        place.commit()?;
    }
    Ok(())
}
