//! The protocol library alone against a pipe and a Unix socket that carry the same frames, between
//! two processes.
//!
//! `cargo bench` compares; `cargo bench -- --quick` only shows that everything works (a few
//! seconds); `--rounds N` sets how often each is measured. Every frame is checked for its number,
//! its length, its last word, and in sum; if one is wrong, the exit status is 1. No time is.
//!
//! * The transports take turns (A B C D A B C D …), so that what slows the machine for a while
//!   slows all of them; each ratio is the median of the ratios within a round.
//! * Throughput: as many frames as go through in a set time, measured after some that warm up,
//!   from the empty transport to the last frame used by the consumer.
//! * Latency: frames at 60 a second; from the moment that the producer begins to hand one over to
//!   the moment that the consumer has looked at its first and its last byte.
//! * What it costs to make the content is counted for none. "Copied in" is `Writer::write_frame`, the
//!   pipe and the socket get one `write` a frame: of content that is there already. "In place" is
//!   `Writer::reserve` and `Reservation::commit`, of content that is in the ring already.
//! * The consumer "looks" at the first and last word, as one that hands the frame on would, or reads
//!   every byte. From pipe and socket it reads into a buffer of its own, with one `read_exact` a
//!   frame, which is the best that they can do: that it knows the size beforehand is their advantage.

use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::Duration;
use std::{env, fmt};

use gstzerobuffer::{BufferConfig, Frame, Reader, Writer, testing};
use nix::fcntl::{FcntlArg, fcntl};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: cargo bench -- [--quick] [--rounds N]";
/// The first argument of this program when it starts itself as the consumer.
const CONSUMER: &str = "consumer";
/// How long an end waits for the other before that is an error.
const TIMEOUT: Duration = Duration::from_secs(10);
/// As much as anybody may ask for; it is 64 KiB without asking.
const PIPE_SIZE: i32 = 1 << 20;
const FRAMES_PER_SECOND: u32 = 60;
/// Length and sequence number before the content, as in the ring.
const HEADER: usize = 16;
const WORD: usize = 8;

/// What is carried: name, bytes, and how many of them the ring holds (in all less than the 64 MiB
/// that Docker gives).
const SIZES: [Size; 4] = [
    Size::new("4 KiB", 4096, 8),
    Size::new("1280x720 I420", 1280 * 720 * 3 / 2, 4),
    Size::new("1920x1080 I420", 1920 * 1080 * 3 / 2, 4),
    Size::new("3840x2160 I420", 3840 * 2160 * 3 / 2, 4),
];

struct Size {
    name: &'static str,
    bytes: usize,
    ring: u64,
}

impl Size {
    const fn new(name: &'static str, bytes: usize, ring: u64) -> Self {
        // Whole words, and frames in the ring leave no tail that would move them in the next lap.
        assert!(bytes.is_multiple_of(HEADER));
        Size { name, bytes, ring }
    }

    /// Frames that warm up. Places of the ring that are not used by then get their content later.
    fn warm_up(&self) -> u64 {
        self.ring + 2
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    InPlace,
    Copied,
    Pipe,
    Socket,
}

impl Transport {
    const ALL: [Self; 4] = [Self::InPlace, Self::Copied, Self::Pipe, Self::Socket];
    const PIPE: usize = 2;
    const SOCKET: usize = 3;

    fn name(self) -> &'static str {
        match self {
            Self::InPlace => "ZeroBuffer, in place",
            Self::Copied => "ZeroBuffer, copied in",
            Self::Pipe => "pipe",
            Self::Socket => "Unix socket",
        }
    }

    fn is_ring(self) -> bool {
        matches!(self, Self::InPlace | Self::Copied)
    }
}

/// How long everything takes.
struct Plan {
    rounds: usize,
    /// Of a run flat out.
    time: Duration,
    /// Of a paced run.
    frames: u32,
}

/// One run of one transport.
struct Run<'a> {
    transport: Transport,
    size: &'a Size,
    /// The consumer reads every byte.
    every_byte: bool,
    /// `None`: flat out.
    interval: Option<Duration>,
}

/// What came of it.
#[derive(Clone, Debug)]
struct Outcome {
    frames: u64,
    seconds: f64,
    /// Nanoseconds; paced runs only.
    latencies: Vec<u64>,
    /// Nanoseconds of processor time of both ends.
    cpu: u64,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = match &args[..] {
        [role, rest @ ..] if role == CONSUMER => consume(rest),
        args => compare(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("transport: {err}");
            ExitCode::FAILURE
        }
    }
}

// The parent: producer and judge.

fn compare(args: &[String]) -> Result<()> {
    let mut plan = Plan {
        rounds: 5,
        time: Duration::from_millis(120),
        frames: 40,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Given by cargo.
            "--bench" => {}
            "--quick" => {
                plan = Plan {
                    rounds: 1,
                    time: Duration::from_millis(20),
                    frames: 6,
                }
            }
            "--rounds" => {
                let rounds: usize = parse(args.next(), "the number of rounds")?;
                plan.rounds = rounds.max(1);
            }
            other => return Err(format!("{other}? {USAGE}").into()),
        }
    }
    describe(&plan)?;
    let total = throughput(&plan)? + latency(&plan)?;
    println!("\nAll {total} frames came whole, once and in order.");
    Ok(())
}

fn describe(plan: &Plan) -> Result<()> {
    let (read, _write) = io::pipe()?;
    let _ = fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
    let pipe = fcntl(&read, FcntlArg::F_GETPIPE_SZ)?;
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu_info = text("/proc/cpuinfo");
    let cpu = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or(env::consts::ARCH, |(_, model)| model);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = text("/proc/sys/kernel/osrelease");
    let buffer = text("/proc/sys/net/core/wmem_default");
    println!(
        "{cpu}, {cores} cores, Linux {}\n\
         The pipe holds {} KiB, the socket {} KiB, the ring 8 frames of 4 KiB or 4 larger ones; \
         {} rounds.",
        kernel.trim(),
        pipe >> 10,
        buffer.trim().parse::<u64>().unwrap_or(0) >> 10,
        plan.rounds,
    );
    let load = text("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    if load.parse::<f64>()? > 0.5 {
        println!(
            "WARNING: the load average is {load} (a build just before counts, too): other work \
             makes the figures worse, and those of two busy processes most."
        );
    }
    if cores < 2 {
        println!("WARNING: both ends share one core.");
    }
    Ok(())
}

fn throughput(plan: &Plan) -> Result<u64> {
    println!(
        "\nThroughput flat out: how many times the frames of the socket, of the pipe\n\
         {:15} {:11} {:22} {:>8} {:>8} {:>11} {:>8} {:>7}",
        "frame", "consumer", "transport", "x socket", "x pipe", "frames/s", "GB/s", "spread"
    );
    let mut total = 0;
    for size in &SIZES {
        for every_byte in [false, true] {
            let rounds = rounds(plan, |transport| Run {
                transport,
                size,
                every_byte,
                interval: None,
            })?;
            total += count(&rounds);
            for (at, transport) in Transport::ALL.into_iter().enumerate() {
                let rate = |outcome: &Outcome| outcome.frames as f64 / outcome.seconds;
                let against = |other: usize| {
                    median(rounds.iter().map(|row| rate(&row[at]) / rate(&row[other])))
                };
                let rates = || rounds.iter().map(|row| rate(&row[at]));
                let middle = median(rates());
                let (low, high) = (
                    rates().fold(f64::MAX, f64::min),
                    rates().fold(f64::MIN, f64::max),
                );
                // Nobody touches the bytes between.
                let untouched = transport == Transport::InPlace && !every_byte;
                let gigabytes = match untouched {
                    true => "-".into(),
                    false => Short(middle * size.bytes as f64 / 1e9).to_string(),
                };
                println!(
                    "{:15} {:11} {:22} {:>8} {:>8} {:>11.0} {:>8} {:>6.0}%",
                    size.name,
                    if every_byte { "reads all" } else { "looks" },
                    transport.name(),
                    Short(against(Transport::SOCKET)),
                    Short(against(Transport::PIPE)),
                    middle,
                    gigabytes,
                    50.0 * (high - low) / middle,
                );
            }
        }
    }
    println!("(spread: half of the way from the slowest round to the fastest)");
    Ok(total)
}

fn latency(plan: &Plan) -> Result<u64> {
    println!(
        "\nLatency at {FRAMES_PER_SECOND} frames/s, consumer looks: that of the socket, of the \
         pipe, divided by this one's\n\
         {:15} {:22} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}",
        "", "", "p50", "p50", "p99", "p99", "p50", "p99", "CPU a"
    );
    println!(
        "{:15} {:22} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}",
        "frame", "transport", "x socket", "x pipe", "x socket", "x pipe", "us", "us", "frame, us"
    );
    let mut total = 0;
    for size in &SIZES {
        let rounds = rounds(plan, |transport| Run {
            transport,
            size,
            every_byte: false,
            interval: Some(Duration::from_secs(1) / FRAMES_PER_SECOND),
        })?;
        total += count(&rounds);
        // All rounds together: one alone has too few for its hundredth.
        let all: Vec<[f64; 3]> = (0..Transport::ALL.len())
            .map(|at| {
                let mut latencies: Vec<u64> = rounds
                    .iter()
                    .flat_map(|row| row[at].latencies.iter().copied())
                    .collect();
                latencies.sort_unstable();
                let part = |share: f64| {
                    let last = latencies.len().saturating_sub(1);
                    let at = (share * last as f64).round() as usize;
                    latencies.get(at).map_or(f64::NAN, |ns| *ns as f64 / 1e3)
                };
                let cpu = rounds
                    .iter()
                    .map(|row| row[at].cpu as f64 / row[at].frames as f64);
                [part(0.5), part(0.99), median(cpu) / 1e3]
            })
            .collect();
        for (at, transport) in Transport::ALL.into_iter().enumerate() {
            let [p50, p99, cpu] = all[at];
            let [socket, pipe] = [Transport::SOCKET, Transport::PIPE].map(|other| all[other]);
            println!(
                "{:15} {:22} {:>8} {:>8} {:>8} {:>8} {:>9.0} {:>9.0} {:>9.0}",
                size.name,
                transport.name(),
                Short(socket[0] / p50),
                Short(pipe[0] / p50),
                Short(socket[1] / p99),
                Short(pipe[1] / p99),
                p50,
                p99,
                cpu,
            );
        }
    }
    Ok(total)
}

/// All transports in turn, again and again: a row a round.
fn rounds<'a>(plan: &Plan, run: impl Fn(Transport) -> Run<'a>) -> Result<Vec<Vec<Outcome>>> {
    let one = |transport: Transport| {
        let run = run(transport);
        produce(&run, plan)
            .map_err(|err| format!("{}, {}: {err}", run.size.name, transport.name()).into())
    };
    (0..plan.rounds)
        .map(|_| Transport::ALL.into_iter().map(one).collect())
        .collect()
}

fn count(rounds: &[Vec<Outcome>]) -> u64 {
    rounds.iter().flatten().map(|outcome| outcome.frames).sum()
}

/// Starts a consumer, sends it frames, and compares what it got with what was sent.
fn produce(run: &Run, plan: &Plan) -> Result<Outcome> {
    let (mut consumer, mut sender) = start(run)?;
    // The frame as the pipe and the socket carry it.
    let mut packet = vec![0; HEADER];
    packet[..WORD].copy_from_slice(&(run.size.bytes as u64).to_le_bytes());
    packet.extend(testing::simple_frame_data(run.size.bytes));
    let mut frame = Outgoing {
        packet,
        sequence: 0,
    };
    for _ in 0..run.size.warm_up() {
        sender.send(&mut frame)?;
    }
    if consumer.line()? != "warm" {
        return Err("the consumer said something else than expected".into());
    }

    frame.mark(0);
    let content = if run.every_byte {
        // Less the number in its last word.
        sum(frame.content()).wrapping_sub(frame.sequence)
    } else {
        0
    };
    let (mut frames, mut checksum) = (0, 0u64);
    let began = now();
    let cpu = clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    loop {
        let elapsed = Duration::from_nanos(now() - began);
        match run.interval {
            None if elapsed >= plan.time => break,
            None => {}
            Some(interval) => {
                thread::sleep((interval * frames).saturating_sub(elapsed));
                // Only now, when the last one has arrived: to end is work, which would delay it.
                if frames == plan.frames {
                    break;
                }
            }
        }
        let stamp = sender.send(&mut frame)?;
        checksum = checksum
            .wrapping_add(content)
            .wrapping_add(stamp)
            .wrapping_add(frame.sequence);
        frames += 1;
    }
    let cpu = clock(libc::CLOCK_PROCESS_CPUTIME_ID) - cpu;
    // The end of the stream.
    drop(sender);

    let report = Report::from_str(&consumer.line()?)?;
    consumer.end()?;
    if (report.frames, report.checksum) != (u64::from(frames), checksum) {
        return Err(format!(
            "{frames} frames with the checksum {checksum:x} were sent, {} with {:x} received",
            report.frames, report.checksum
        )
        .into());
    }
    Ok(Outcome {
        frames: report.frames,
        seconds: Duration::from_nanos(report.ended.saturating_sub(began)).as_secs_f64(),
        latencies: report.latencies,
        cpu: cpu + report.cpu,
    })
}

/// A frame about to be sent.
struct Outgoing {
    /// Header and content.
    packet: Vec<u8>,
    /// Of the frame sent last.
    sequence: u64,
}

impl Outgoing {
    /// Puts the number into the header, and `stamp` and the number into the content.
    fn mark(&mut self, stamp: u64) {
        self.packet[WORD..HEADER].copy_from_slice(&self.sequence.to_le_bytes());
        mark(&mut self.packet[HEADER..], stamp, self.sequence);
    }

    fn content(&self) -> &[u8] {
        &self.packet[HEADER..]
    }
}

fn mark(content: &mut [u8], stamp: u64, sequence: u64) {
    let last = content.len() - WORD;
    content[..WORD].copy_from_slice(&stamp.to_le_bytes());
    content[last..].copy_from_slice(&sequence.to_le_bytes());
}

enum Sender {
    /// With the addresses of the places that have the content already.
    InPlace(Writer, HashSet<usize>),
    Copied(Writer),
    Stream(File),
}

impl Sender {
    /// Sends the next frame; returns the time that is in it.
    fn send(&mut self, frame: &mut Outgoing) -> Result<u64> {
        let stamp = now();
        frame.sequence += 1;
        let sequence = match self {
            Sender::InPlace(writer, filled) => {
                let mut place = writer.reserve(frame.content().len() as u64, TIMEOUT)?;
                if filled.insert(place.as_ptr() as usize) {
                    place.copy_from_slice(frame.content());
                }
                mark(&mut place, stamp, frame.sequence);
                place.commit()?
            }
            Sender::Copied(writer) => {
                frame.mark(stamp);
                writer.write_frame_wait(frame.content(), TIMEOUT)?
            }
            Sender::Stream(file) => {
                frame.mark(stamp);
                file.write_all(&frame.packet)?;
                frame.sequence
            }
        };
        if sequence != frame.sequence {
            return Err(format!("frame {} was sent as {sequence}", frame.sequence).into());
        }
        Ok(stamp)
    }
}

/// The process at the other end.
struct Consumer {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Consumer {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.into()),
            None => Err("the consumer ended early".into()),
        }
    }

    fn end(mut self) -> Result<()> {
        match self.process.wait()?.success() {
            true => Ok(()),
            false => Err("the consumer failed".into()),
        }
    }
}

fn start(run: &Run) -> Result<(Consumer, Sender)> {
    let name = testing::unique_name("bench-transport");
    let (input, stream) = match run.transport {
        Transport::InPlace | Transport::Copied => (Stdio::null(), None),
        Transport::Pipe => {
            let (read, write) = io::pipe()?;
            // Refused to users who have too many; then it is a small one.
            let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
            (read.into(), Some(OwnedFd::from(write)))
        }
        Transport::Socket => {
            let (theirs, ours) = UnixStream::pair()?;
            (OwnedFd::from(theirs).into(), Some(OwnedFd::from(ours)))
        }
    };
    let kind = if run.transport.is_ring() {
        "ring"
    } else {
        "stream"
    };
    let mut process = Command::new(env::current_exe()?)
        .args([CONSUMER, kind, &name])
        .args([run.size.bytes as u64, run.size.ring, run.size.warm_up()].map(|n| n.to_string()))
        .args([run.every_byte, run.interval.is_some()].map(|yes| yes.to_string()))
        .stdin(input)
        .stdout(Stdio::piped())
        // Ctrl-C ends us alone; the consumer sees that, and removes its buffer.
        .process_group(0)
        .spawn()?;
    let output = process.stdout.take().ok_or("no output")?;
    let consumer = Consumer {
        process,
        output: BufReader::new(output),
    };
    let sender = match stream {
        Some(stream) => Sender::Stream(stream.into()),
        None => {
            let writer = Writer::attach_wait(&name, TIMEOUT)?;
            match run.transport {
                Transport::InPlace => Sender::InPlace(writer, HashSet::new()),
                _ => Sender::Copied(writer),
            }
        }
    };
    Ok((consumer, sender))
}

// The child: consumer.

fn consume(args: &[String]) -> Result<()> {
    let [kind, name, bytes, ring, warm_up, every_byte, paced] = args else {
        return Err("the consumer is started by the producer".into());
    };
    let bytes: usize = parse(Some(bytes), "a size")?;
    let ring: u64 = parse(Some(ring), "a number of frames")?;
    let warm_up: u64 = parse(Some(warm_up), "a number of frames")?;
    let every_byte: bool = parse(Some(every_byte), "true or false")?;
    let paced: bool = parse(Some(paced), "true or false")?;

    let mut receiver = match kind.as_str() {
        "ring" => {
            let payload = ring * (bytes + HEADER) as u64;
            Receiver::Ring(Reader::create(name, &BufferConfig::new(1024, payload))?)
        }
        _ => Receiver::Stream {
            file: io::stdin().as_fd().try_clone_to_owned()?.into(),
            packet: vec![0; HEADER + bytes],
        },
    };
    let mut report = Report::default();
    let mut cpu = 0;
    let mut last = 0;
    while let Some(incoming) = receiver.receive()? {
        let content = incoming.content();
        let (first, number) = (word(content, 0), word(content, bytes - WORD));
        last += 1;
        if (incoming.sequence(), number, content.len()) != (last, last, bytes) {
            return Err(format!("frame {last} of {bytes} bytes was due, another came").into());
        }
        let checksum = if every_byte {
            sum(content)
        } else {
            first.wrapping_add(number)
        };
        report.ended = now();
        drop(incoming);
        if last > warm_up {
            report.frames += 1;
            report.checksum = report.checksum.wrapping_add(checksum);
            if paced {
                report.latencies.push(report.ended.saturating_sub(first));
            }
        } else if last == warm_up {
            println!("warm");
            cpu = clock(libc::CLOCK_PROCESS_CPUTIME_ID);
        }
    }
    report.cpu = clock(libc::CLOCK_PROCESS_CPUTIME_ID) - cpu;
    println!("{report}");
    Ok(())
}

enum Receiver {
    Ring(Reader),
    Stream { file: File, packet: Vec<u8> },
}

enum Incoming<'a> {
    Lent(Frame),
    Packet(&'a [u8]),
}

impl Receiver {
    /// The next frame; `None` at the end of the stream.
    fn receive(&mut self) -> Result<Option<Incoming<'_>>> {
        match self {
            Receiver::Ring(reader) => match reader.read_frame(TIMEOUT) {
                Ok(frame) => Ok(Some(Incoming::Lent(frame))),
                Err(gstzerobuffer::Error::WriterClosed { .. }) => Ok(None),
                Err(err) => Err(err.into()),
            },
            Receiver::Stream { file, packet } => {
                let got = file.read(packet)?;
                if got == 0 {
                    return Ok(None);
                }
                file.read_exact(&mut packet[got..])?;
                if word(packet, 0) != (packet.len() - HEADER) as u64 {
                    return Err("a frame of another size".into());
                }
                Ok(Some(Incoming::Packet(packet)))
            }
        }
    }
}

impl Incoming<'_> {
    fn sequence(&self) -> u64 {
        match self {
            Incoming::Lent(frame) => frame.sequence(),
            Incoming::Packet(packet) => word(packet, WORD),
        }
    }

    fn content(&self) -> &[u8] {
        match self {
            Incoming::Lent(frame) => frame,
            Incoming::Packet(packet) => &packet[HEADER..],
        }
    }
}

/// What the consumer tells of the frames after the warming up, as a line of numbers.
#[derive(Debug, Default)]
struct Report {
    frames: u64,
    checksum: u64,
    /// When the last frame had been used.
    ended: u64,
    cpu: u64,
    latencies: Vec<u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Report {
            frames,
            checksum,
            ended,
            cpu,
            latencies,
        } = self;
        write!(f, "{frames} {checksum} {ended} {cpu}")?;
        latencies.iter().try_for_each(|ns| write!(f, " {ns}"))
    }
}

impl FromStr for Report {
    type Err = Box<dyn Error>;

    fn from_str(line: &str) -> Result<Self> {
        let numbers = line.split(' ').map(str::parse);
        let numbers: Vec<u64> = numbers.collect::<std::result::Result<_, _>>()?;
        let [frames, checksum, ended, cpu, latencies @ ..] = &numbers[..] else {
            return Err("the consumer's report is too short".into());
        };
        Ok(Report {
            frames: *frames,
            checksum: *checksum,
            ended: *ended,
            cpu: *cpu,
            latencies: latencies.into(),
        })
    }
}

// Both.

fn parse<T: FromStr>(text: Option<&String>, what: &str) -> Result<T> {
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{what} is missing; {USAGE}").into())
}

/// Nanoseconds of a clock that all processes share. (An `Instant` does not leave its process.)
fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec to write to; both clocks that are asked for always exist.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; WORD];
    word.copy_from_slice(&bytes[at..at + WORD]);
    u64::from_le_bytes(word)
}

/// The sum of all words, which takes a look at every byte.
fn sum(content: &[u8]) -> u64 {
    content
        .chunks_exact(WORD)
        .fold(0, |sum: u64, chunk| sum.wrapping_add(word(chunk, 0)))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len => (values[(len - 1) / 2] + values[len / 2]) / 2.0,
    }
}

/// A number with three digits or so.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let digits = match self.0 {
            x if x < 10.0 => 2,
            x if x < 100.0 => 1,
            _ => 0,
        };
        f.pad(&format!("{:.digits$}", self.0))
    }
}
