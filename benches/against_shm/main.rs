//! Compares zerobuffersink/zerobuffersrc with shmsink/shmsrc: `cargo bench --bench against_shm`.
//!
//! Each measurement is a sender and a receiver in two processes (this program starts itself again),
//! with rings of the same size. The source is made for this (`source.rs`): drawing is not in the
//! figures. What it does with a frame, and what the receiver does:
//!
//! * `in place`: takes memory from the sink's proposal and writes a number and a time into its first
//!   bytes; the receiver reads those.
//! * `copied in`: has memory of its own, which the sink has to copy; the receiver reads as above.
//! * `every byte`: memory from the proposal, all of it written; the receiver reads all of it.
//!
//! Unpaced it counts frames a second and processor time a frame; at 60 frames/s one-way latency and
//! processor time again. Both processes count, user and system time, without the first and the last
//! tenth of the frames. Memory is what is resident of both, shared pages once (Pss). The two kinds
//! are measured in turn, several rounds, and so is the same source with a `queue` and a sink in one
//! process, which tells what GStreamer and waking a thread take by themselves; figures are medians. So
//! is what it takes to wake another process, by a few bytes through a pipe. Only the ratios mean
//! something on another machine. `memcpy` copies such a frame from one place to the next of eight, as many
//! as the ring has, and to the next of three, as many as we use of it while the receiver keeps up.
//!
//! Options: `--quick` (1080p, three rounds), `--rounds N`, `--report FOLDER` (writes the tables and
//! plots of them there; `docs/numbers` is made like this), `--growth` (what does our cost grow with?),
//! `--filter` (`zerobufferfilter`, whose worker in another process changes frames in place),
//! `--once WORK HEIGHT` (one measurement of ours with all its counts; for profiling).

mod filter;
mod measure;
mod peer;
mod report;
mod source;
mod wakes;

use std::env;
use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use measure::{Mark, quantile};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const SIZES: [(u64, u64); 3] = [(1280, 720), (1920, 1080), (3840, 2160)];
const KINDS: [Kind; 3] = [Kind::ZeroBuffer, Kind::Shm, Kind::Queue];
const WORK: [&str; 3] = ["in place", "copied in", "every byte"];
/// Frames that have room in the ring.
const RING: u64 = 8;
/// Places between which a plain memcpy goes: those of the ring, and those that a sender of ours uses of
/// them while the receiver keeps up.
const PLACES: [usize; 2] = [RING as usize, 3];
/// A measurement that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// 60 frames/s.
const INTERVAL: u64 = 1_000_000_000 / 60;

fn main() -> Result {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--send", pipeline, frames] => peer::send(pipeline, frames.parse()?),
        ["--receive", pipeline, frames, work] => {
            peer::receive(pipeline, frames.parse()?, work == "every byte")
        }
        [] => print(&compare(&SIZES, 5)?),
        ["--quick"] => print(&compare(&SIZES[1..2], 3)?),
        ["--rounds", rounds] => print(&compare(&SIZES, rounds.parse()?)?),
        ["--report", folder] => report::write(folder.as_ref(), &compare(&SIZES, 5)?),
        ["--report", folder, "--rounds", rounds] => {
            report::write(folder.as_ref(), &compare(&SIZES, rounds.parse()?)?)
        }
        ["--growth"] => growth(),
        ["--filter"] => filter::measure(),
        ["--work", name] => filter::work(name),
        ["--wake", processor] => wakes::receive(processor.parse()?),
        ["--once", work, height] => {
            let height: u64 = height.parse()?;
            let job = Job::new(Kind::ZeroBuffer, (height * 16 / 9, height), work, false);
            println!("{:#?}", job.measure()?);
            Ok(())
        }
        _ => Err(
            "options: --quick, [--report FOLDER] --rounds N, --growth, --filter, --once WORK HEIGHT".into(),
        ),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    ZeroBuffer,
    Shm,
    /// Nothing of either: a queue between two threads of one process, to see what GStreamer and the
    /// machine take for themselves.
    Queue,
}

/// One sender and one receiver.
#[derive(Clone, Debug)]
struct Job {
    kind: Kind,
    size: (u64, u64),
    work: String,
    paced: bool,
    frames: u64,
    /// Frames that the ring has room for.
    ring: u64,
}

/// What it came to, a frame: times in µs, memory in KiB in all.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "faults and sleeps are for --once")]
struct Figures {
    rate: f64,
    cpu: f64,
    p50: f64,
    p99: f64,
    memory: f64,
    sender_cpu: f64,
    faults: f64,
    sleeps: f64,
    /// The latencies that 0 to 100 % of the frames have at most.
    spread: Vec<f64>,
}

impl Job {
    fn new(kind: Kind, size: (u64, u64), work: &str, paced: bool) -> Self {
        let frames = match (paced, work) {
            (true, _) => 180,
            (false, "in place") => 20_000,
            (false, _) => (3_000_000_000 / frame_size(size)).clamp(100, 20_000),
        };
        Job {
            kind,
            size,
            work: work.into(),
            paced,
            frames,
            ring: RING,
        }
    }

    /// The pipelines of sender and receiver.
    fn pipelines(&self, name: &str) -> [String; 2] {
        let (width, height) = self.size;
        let caps = format!("video/x-raw,format=I420,width={width},height={height},framerate=60/1");
        let ring = self.ring * (frame_size(self.size) + 4096);
        let (sink, source) = match self.kind {
            Kind::ZeroBuffer => (
                format!("zerobuffersink buffer-name={name}"),
                format!("zerobuffersrc buffer-name={name} payload-size={ring}"),
            ),
            Kind::Queue => ("queue".into(), String::new()),
            Kind::Shm => (
                format!("shmsink socket-path={name} shm-size={ring} wait-for-connection=true"),
                format!("shmsrc socket-path={name} is-live=true ! {caps}"),
            ),
        };
        let interval = if self.paced { INTERVAL } else { 0 };
        let (fill, own) = (self.work == "every byte", self.work == "copied in");
        let start = format!(
            "benchsrc name=in num-buffers={} interval={interval} fill={fill} own={own} ! \
             {caps} ! {sink}",
            self.frames
        );
        let end = format!("{source} ! fakesink name=out sync=false enable-last-sample=false");
        match self.kind {
            Kind::Queue => [String::new(), start + &end],
            _ => [start + " sync=false", end],
        }
    }

    fn measure(&self) -> Result<Figures> {
        let name = gstzerobuffer::testing::unique_name("bench");
        let socket = env::temp_dir().join(&name);
        let name = match self.kind {
            Kind::Shm => socket.display().to_string(),
            _ => name,
        };
        let [sending, receiving] = self.pipelines(&name);
        let frames = self.frames.to_string();
        let mut peers = Vec::new();
        if self.kind != Kind::Queue {
            peers.push(Peer::start(&["--send", &sending, &frames])?);
        }
        // shmsrc does not wait for its sender.
        let began = Instant::now();
        while self.kind == Kind::Shm && !socket.exists() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
        peers.push(Peer::start(&[
            "--receive",
            &receiving,
            &frames,
            &self.work,
        ])?);
        let ended = finish(peers);
        let _ = std::fs::remove_file(&socket);
        let ended = ended.map_err(|err| format!("{self:?}: {err}"))?;
        let counted = (self.frames - self.frames / 10 - self.frames / 10) as f64;
        let both = |key| ended.iter().map(|peer| number(peer, key)).sum::<f64>() / counted;
        let [sent, received] = [&ended[0], &ended[ended.len() - 1]];
        Ok(Figures {
            rate: counted / number(received, "nanos") * 1e9,
            cpu: both("cpu") / 1000.0,
            p50: number(received, "p50") / 1000.0,
            p99: number(received, "p99") / 1000.0,
            memory: both("memory") * counted,
            sender_cpu: number(sent, "cpu") / counted / 1000.0,
            faults: both("faults"),
            sleeps: both("sleeps"),
            spread: (received["spread"].as_array().into_iter().flatten())
                .map(|nanos| nanos.as_f64().unwrap_or(f64::NAN) / 1000.0)
                .collect(),
        })
    }
}

fn frame_size((width, height): (u64, u64)) -> u64 {
    width * height * 3 / 2
}

fn number(figures: &Value, key: &str) -> f64 {
    figures[key].as_f64().unwrap_or(f64::NAN)
}

/// A process of a measurement; it does not outlive it.
struct Peer(Child);

impl Peer {
    fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        Ok(Peer(command.args(args).stdout(Stdio::piped()).spawn()?))
    }

    /// One that ends with its standard input.
    fn start_with_input(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        Ok(Peer(command.args(args).stdin(Stdio::piped()).spawn()?))
    }

    fn end(&mut self) -> Result {
        drop(self.0.stdin.take());
        match self.0.wait()?.success() {
            true => Ok(()),
            false => Err("a process failed".into()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for all; when one fails, or it takes too long, the others are killed.
fn finish(mut peers: Vec<Peer>) -> Result<Vec<Value>> {
    let began = Instant::now();
    loop {
        let mut ended = 0;
        for Peer(child) in &mut peers {
            match child.try_wait()? {
                Some(status) if !status.success() => return Err("a process failed".into()),
                Some(_) => ended += 1,
                None => {}
            }
        }
        if ended == peers.len() {
            break;
        }
        if began.elapsed() > PATIENCE {
            return Err("it hangs".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let figures = peers.iter_mut().map(|Peer(child)| {
        let output = child.stdout.take().ok_or("no output")?;
        Ok(serde_json::from_reader(output)?)
    });
    figures.collect()
}

/// Processor time in µs of one plain memcpy of a frame into the next of the places.
fn memcpy(size: (u64, u64), places: usize) -> Result<f64> {
    let len = frame_size(size) as usize;
    let from = vec![1_u8; len];
    let mut into = vec![2_u8; len * places];
    let laps = (2_000_000_000 / into.len()).max(4);
    let before = Mark::now();
    for _ in 0..laps {
        for place in into.chunks_exact_mut(len) {
            std::hint::black_box(place).copy_from_slice(std::hint::black_box(&from));
        }
    }
    let copies = laps * places;
    Ok((Mark::now().cpu - before.cpu) as f64 / copies as f64 / 1000.0)
}

/// A figure, how it is taken from a measurement, and whether that is the paced one.
type Column = (&'static str, fn(&Figures) -> f64, bool);

const COLUMNS: [Column; 6] = [
    ("frames/s", |figures| figures.rate, false),
    ("CPU", |figures| figures.cpu, false),
    ("memory", |figures| figures.memory, false),
    ("p50, 60/s", |figures| figures.p50, true),
    ("p99, 60/s", |figures| figures.p99, true),
    ("CPU, 60/s", |figures| figures.cpu, true),
];

/// What was measured of one size and work.
struct Row {
    size: (u64, u64),
    work: &'static str,
    /// By column: the medians of ours, shm and the queue.
    medians: [[f64; KINDS.len()]; COLUMNS.len()],
    /// The medians of the [`Figures::spread`]s at 60 frames/s.
    spreads: [Vec<f64>; KINDS.len()],
    /// Processor time of a memcpy, in µs, by [`PLACES`].
    copies: [f64; PLACES.len()],
}

/// All that was measured.
struct Comparison {
    rounds: usize,
    rows: Vec<Row>,
    /// What a wake-up takes, in words.
    wakes: String,
}

fn compare(sizes: &[(u64, u64)], rounds: usize) -> Result<Comparison> {
    peer::init()?;
    let mut rows = Vec::new();
    for size in sizes {
        let mut copies = [const { Vec::new() }; PLACES.len()];
        for work in WORK {
            let mut values = [const { [const { Vec::new() }; KINDS.len()] }; COLUMNS.len()];
            let mut spreads = [const { Vec::new() }; KINDS.len()];
            for _ in 0..rounds {
                for (places, copies) in PLACES.iter().zip(&mut copies) {
                    copies.push(memcpy(*size, *places)?);
                }
                for paced in [false, true] {
                    for (who, kind) in KINDS.into_iter().enumerate() {
                        let figures = Job::new(kind, *size, work, paced).measure()?;
                        for ((_, get, of_paced), values) in COLUMNS.iter().zip(&mut values) {
                            if *of_paced == paced {
                                values[who].push(get(&figures));
                            }
                        }
                        if paced {
                            spreads[who].push(figures.spread);
                        }
                    }
                }
                eprint!(".");
            }
            rows.push(Row {
                size: *size,
                work,
                medians: values.map(|kinds| kinds.map(|mut values| quantile(&mut values, 0.5))),
                spreads: spreads.map(|rounds| medians(&rounds)),
                copies: copies.clone().map(|mut copies| quantile(&mut copies, 0.5)),
            });
        }
    }
    eprintln!();
    Ok(Comparison {
        rounds,
        rows,
        wakes: wakes::measure()?,
    })
}

/// The median of the first values of all rounds, of the second ones, and so on.
fn medians(rounds: &[Vec<f64>]) -> Vec<f64> {
    let len = rounds.iter().map(Vec::len).min().unwrap_or(0);
    (0..len)
        .map(|i| {
            let mut values: Vec<f64> = rounds.iter().map(|round| round[i]).collect();
            quantile(&mut values, 0.5)
        })
        .collect()
}

fn print(comparison: &Comparison) -> Result {
    println!("{}", tables(comparison));
    Ok(())
}

/// The tables of ratios and of what they are ratios of.
fn tables(comparison: &Comparison) -> String {
    let Comparison {
        rounds,
        rows,
        wakes,
    } = comparison;
    let mut ratios = String::new();
    let mut absolute = String::new();
    for row in rows {
        let start = format!("| {}×{} | {} |", row.size.0, row.size.1, row.work);
        ratios += &start;
        absolute += &start;
        for [ours, shm, queue] in row.medians {
            ratios += &format!(" {:.2} |", ours / shm);
            absolute += &format!(" {ours:.0} : {shm:.0} : {queue:.0} |");
        }
        let [ring, few] = row.copies;
        let cpu = row.medians[1][0];
        ratios += &format!(" {:.2} | {:.2} |\n", cpu / ring, cpu / few);
        absolute += &format!(" {ring:.0} | {few:.0} |\n");
    }
    let names: String = COLUMNS.map(|(name, ..)| format!(" {name} |")).concat();
    let line = "|---".repeat(COLUMNS.len() + 4);
    format!(
        "zerobuffer / shm (median of {rounds} rounds; frames/s: more is better, all others: less)\n\n\
         | frame | work |{names} CPU / memcpy | CPU / memcpy in few places |\n{line}|\n{ratios}\n\
         zerobuffer : shm : a queue in one process, here (times in µs, CPU a frame; memory in KiB; a\n\
         memcpy is into as many places as the ring has, eight, or into the three that are used of it while the receiver keeps up)\n\n\
         | frame | work |{names} memcpy | memcpy in few places |\n{line}|\n{absolute}{wakes}"
    )
}

/// Processor time a frame of ours in place, when one thing grows and all else stays.
fn growth() -> Result {
    peer::init()?;
    let plain = Job::new(Kind::ZeroBuffer, (1920, 1080), "in place", false);
    let cpu = |job: &Job| -> Result<f64> {
        let rounds: Result<Vec<f64>> = (0..5).map(|_| Ok(job.measure()?.cpu)).collect();
        Ok(quantile(&mut rounds?, 0.5))
    };
    println!("| what grows | | CPU a frame, µs |\n|---|---|---|");
    for size in [
        (160, 120),
        (640, 360),
        (1920, 1080),
        (3840, 2160),
        (7680, 4320),
    ] {
        let job = Job {
            size,
            ..plain.clone()
        };
        println!("| frame | {}×{} | {:.1} |", size.0, size.1, cpu(&job)?);
    }
    for ring in [6, 12, 25, 50, 100] {
        let job = Job {
            ring,
            ..plain.clone()
        };
        println!("| ring | {ring} frames | {:.1} |", cpu(&job)?);
    }
    for frames in [4_000, 20_000, 100_000, 500_000] {
        let job = Job {
            frames,
            ..plain.clone()
        };
        println!("| laps | {} | {:.1} |", frames / RING, cpu(&job)?);
    }
    Ok(())
}
