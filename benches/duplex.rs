//! The round trip of a frame through a duplex channel to a second process, which makes one copy of
//! it, as upstream's relay benchmark does; beside the same with the published Python package at both
//! ends, and beside one plain copy of the frame.
//!
//! `cargo bench --bench duplex` compares; `-- --quick` only shows that everything works; `--rounds N`
//! sets how often each is measured; `--rate N` measures at this rate alone; `--rust` leaves Python
//! out. Every answer is checked for its number, its length and its mark. If one is wrong the exit
//! status is 1; no time is.
//!
//! * The frame is 1920x1080 I420 and 16 bytes, 3,110,416 in all, 30 to 1000 times a second, one at a
//!   time: a tick that is missed is left out. What is measured take turns, as in `transport.rs`.
//! * The trip begins before room for the request is asked for, and ends when the answer is there and
//!   its mark is read. The frame is in the ring already; the mark is put into it. The other process
//!   copies it from the ring of the requests to that of the answers, and this is the only copy.
//! * The plain copy is made at the same pace, between as many frames of ordinary memory as the rings
//!   hold, so that it finds the caches as the relay does.
//! * The two wake-ups are those of a byte that goes through a Unix socket to another process and back,
//!   at the same pace: plain copy and wake-ups together are the least that there can be.
//! * The rings are of 8 frames. Those of the Python package are of 256 MiB: its client knows no other.

#[path = "../tests/support/python.rs"]
mod python;

use std::collections::HashSet;
use std::env;
use std::error::Error;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gstzerobuffer::duplex::{DuplexClient, DuplexClientConfig, DuplexServer, DuplexServerConfig};
use gstzerobuffer::testing;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str =
    "usage: cargo bench --bench duplex -- [--quick] [--rounds N] [--rate N] [--rust]";
/// The first argument of this program when it starts itself as the relay.
const RELAY: &str = "relay";
/// And as what only wakes us.
const ECHO: &str = "echo";
const TIMEOUT: Duration = Duration::from_secs(10);
const FRAME: usize = 1920 * 1080 * 3 / 2 + 16;
const RING_FRAMES: usize = 8;
const RING: u64 = (RING_FRAMES * (FRAME + 16)) as u64;
const RATES: [u32; 6] = [30, 60, 120, 240, 500, 1000];

struct Plan {
    rounds: usize,
    rates: Vec<u32>,
    /// So many at each rate.
    frames: u32,
    python: bool,
}

/// What is measured. The first is what the others are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Copy,
    Wakes,
    Rust,
    Python,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = match &args[..] {
        [role, name] if role == RELAY => relay(name),
        [role] if role == ECHO => echo(),
        args => compare(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("duplex: {err}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &[String]) -> Result<()> {
    let mut plan = Plan {
        rounds: 3,
        rates: RATES.to_vec(),
        frames: 60,
        python: true,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Given by cargo.
            "--bench" => {}
            "--quick" => (plan.rounds, plan.rates, plan.frames) = (1, vec![1000], 4),
            "--rounds" => {
                let rounds = args.next().and_then(|text| text.parse().ok());
                plan.rounds = rounds.filter(|rounds| *rounds > 0).ok_or(USAGE)?;
            }
            "--rate" => {
                let rate = args.next().and_then(|text| text.parse().ok());
                plan.rates = vec![rate.filter(|rate| *rate > 0).ok_or(USAGE)?];
            }
            "--rust" => plan.python = false,
            other => return Err(format!("{other}? {USAGE}").into()),
        }
    }
    let mut ways = vec![Way::Copy, Way::Wakes, Way::Rust];
    ways.extend(plan.python.then_some(Way::Python));
    println!(
        "A frame of {FRAME} bytes there and back, with one copy on the way, {} at each rate.\n\
         x copy: how many times one plain copy takes, at the same pace; over: us more than that.\n\
         {:>8} {:14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        plan.rounds as u32 * plan.frames,
        "frames/s",
        "",
        "p50 us",
        "p99 us",
        "p50",
        "p99",
        "p50 over",
        "p99 over",
    );
    let mut total = 0;
    for rate in plan.rates.iter().copied() {
        let mut trips = vec![Vec::new(); ways.len()];
        for _ in 0..plan.rounds {
            for (way, trips) in ways.iter().zip(&mut trips) {
                let found = measure(*way, rate, plan.frames)
                    .map_err(|err| format!("{way:?} at {rate} frames/s: {err}"))?;
                trips.extend(found);
            }
        }
        let mut copy = [f64::NAN; 2];
        for (way, mut trips) in ways.iter().zip(trips) {
            total += trips.len();
            trips.sort_unstable();
            let part = |share: f64| {
                let at = (share * (trips.len() - 1) as f64).round() as usize;
                trips[at].as_nanos() as f64 / 1e3
            };
            let [p50, p99] = [part(0.5), part(0.99)];
            let name = match way {
                Way::Copy => {
                    copy = [p50, p99];
                    println!("{rate:>8} {:14} {p50:>8.0} {p99:>8.0}", "plain copy");
                    continue;
                }
                Way::Wakes => {
                    println!("{:>8} {:14} {p50:>8.0} {p99:>8.0}", "", "two wake-ups");
                    continue;
                }
                Way::Rust => "round trip",
                Way::Python => "zerobuffer-ipc",
            };
            println!(
                "{:>8} {name:14} {p50:>8.0} {p99:>8.0} {:>7.2}x {:>7.2}x {:>8.0} {:>8.0}",
                "",
                p50 / copy[0],
                p99 / copy[1],
                p50 - copy[0],
                p99 - copy[1],
            );
        }
    }
    println!("\nAll {total} came whole, once and in order.");
    Ok(())
}

fn measure(way: Way, rate: u32, frames: u32) -> Result<Vec<Duration>> {
    let interval = Duration::from_secs(1) / rate;
    match way {
        Way::Copy => Ok(plain_copies(interval, frames)),
        Way::Wakes => wake_ups(interval, frames),
        Way::Rust => round_trips(interval, frames),
        Way::Python => python_round_trips(interval, frames),
    }
}

/// Calls `work` once to warm up each place there is, and then at this pace; how long each took.
fn paced<E>(
    interval: Duration,
    frames: u32,
    mut work: impl FnMut(u32) -> std::result::Result<(), E>,
) -> std::result::Result<Vec<Duration>, E> {
    let warm_up = 2 * RING_FRAMES as u32;
    for number in 1..=warm_up {
        work(number)?;
    }
    let mut trips = Vec::with_capacity(frames as usize);
    let mut due = Instant::now() + interval;
    for number in 1..=frames {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let start = Instant::now();
        work(warm_up + number)?;
        let end = Instant::now();
        trips.push(end - start);
        due = (due + interval).max(end);
    }
    Ok(trips)
}

fn plain_copies(interval: Duration, frames: u32) -> Vec<Duration> {
    let from = testing::simple_frame_data(RING_FRAMES * FRAME);
    let mut to = testing::simple_frame_data(RING_FRAMES * FRAME);
    let copied = paced(interval, frames, |number| {
        let at = number as usize % RING_FRAMES * FRAME;
        let place = at..at + FRAME;
        to[place.clone()].copy_from_slice(black_box(&from[place]));
        black_box(&to);
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(trips) = copied;
    trips
}

/// A byte to another process and back.
fn wake_ups(interval: Duration, frames: u32) -> Result<Vec<Duration>> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(env::current_exe()?);
    let mut child = command.arg(ECHO).stdin(OwnedFd::from(theirs)).spawn()?;
    drop(command);
    let trips = paced(interval, frames, |_| {
        ours.write_all(&[1])?;
        ours.read_exact(&mut [0])
    })?;
    drop(ours);
    child.wait()?;
    Ok(trips)
}

fn echo() -> Result<()> {
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// The process at the other end; its input ends with this.
struct Relay(Child);

impl Relay {
    /// Back when it says that its buffer is there: a client of the package that comes while it is
    /// being made is lost.
    fn start(command: &mut Command) -> Result<Self> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut relay = Relay(command.spawn()?);
        let mut line = String::new();
        let out = relay.0.stdout.take().ok_or("no output")?;
        BufReader::new(out).read_line(&mut line)?;
        match line.trim() {
            "ready" => Ok(relay),
            other => Err(format!("the relay said '{other}'").into()),
        }
    }

    fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        match self.0.wait()?.success() {
            true => Ok(()),
            false => Err("the relay failed".into()),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn round_trips(interval: Duration, frames: u32) -> Result<Vec<Duration>> {
    let name = testing::unique_name("bench-duplex");
    let relay = Relay::start(Command::new(env::current_exe()?).args([RELAY, &name]))?;
    let client = DuplexClient::create(&name, DuplexClientConfig::new(4096, RING))?;
    client.connect(TIMEOUT)?;
    let content = testing::simple_frame_data(FRAME);
    let start = Instant::now();
    // The addresses of the places that have it already.
    let mut filled = HashSet::new();
    let trips = paced(interval, frames, |number| -> Result<()> {
        let mut request = client.reserve(FRAME as u64, TIMEOUT)?;
        if filled.insert(request.as_ptr() as usize) {
            request.copy_from_slice(&content);
        }
        let mark = [start.elapsed().as_nanos() as u64, number.into()];
        let mark = mark.map(u64::to_le_bytes);
        request[..16].copy_from_slice(mark.as_flattened());
        let sent = request.commit()?;
        let answer = client.receive(TIMEOUT)?;
        let whole = answer.len() == FRAME && answer[..16] == *mark.as_flattened();
        match whole && answer.request() == sent && sent == u64::from(number) {
            true => Ok(()),
            false => Err(format!("the answer to {sent} is not that of {number}").into()),
        }
    })?;
    drop(client);
    relay.end()?;
    Ok(trips)
}

fn relay(name: &str) -> Result<()> {
    let server = DuplexServer::builder(name, DuplexServerConfig::new(4096, RING))
        .on_error(|err| eprintln!("relay: {err}"))
        .start(|request, reply| Ok(reply.copy(request)?))?;
    println!("ready");
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    server.stop();
    Ok(())
}

fn python_round_trips(interval: Duration, frames: u32) -> Result<Vec<Duration>> {
    let name = testing::unique_name("bench-duplex-python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/python/duplex.py");
    let python = |role: &str| {
        let mut command = Command::new(python::interpreter());
        command.args(["-I", "-u"]).arg(&script);
        command.args([role, &name, &FRAME.to_string()]);
        command
    };
    let mut relay_command = python("relay");
    // What the package's logging and resource tracker have to say is of no use here.
    let relay = Relay::start(relay_command.stderr(Stdio::null()))?;
    let mut command = python("client");
    // Every place of its rings, once.
    let warm_up = (256 << 20) / FRAME + 1;
    command.args([warm_up as u128, frames.into(), interval.as_nanos()].map(|n| n.to_string()));
    let mut client = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let out = client.stdout.take().ok_or("no output")?;
    BufReader::new(out).read_line(&mut line)?;
    let succeeded = client.wait()?.success();
    relay.end()?;
    remove_semaphores(&name);
    let numbers: std::result::Result<Vec<u64>, _> =
        line.split_whitespace().map(str::parse).collect();
    let trips: Vec<Duration> = numbers?.into_iter().map(Duration::from_nanos).collect();
    match succeeded && trips.len() == frames as usize {
        true => Ok(trips),
        false => Err("the Python client failed".into()),
    }
}

/// A reader of the package leaves its semaphores.
fn remove_semaphores(name: &str) {
    for buffer in ["request", "response"] {
        for end in ["w", "r"] {
            let file = format!("/dev/shm/sem.sem-{end}-{name}_{buffer}");
            let _ = std::fs::remove_file(file);
        }
    }
}
