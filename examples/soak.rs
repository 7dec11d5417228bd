//! Readers and writers that are killed, stopped, closed and followed for as long as wanted, with
//! frames of all sizes at all rates: `soak --minutes N` (or `--seconds N`), `--seed S` for the
//! decisions of an earlier run.
//!
//! There are three lanes, each a ring between two processes: one whose reader stays while writers
//! come and go, one whose writer stays, and one in which both come and go. With `--python PROGRAM`,
//! an interpreter that has `zerobuffer-ipc`, there is one more like the first, whose writers are
//! Python's. Every frame says whose it
//! is and which, and every byte of it follows from that; the reader checks all of them, and again
//! when it has held the frame for some time. The run fails, with the seed, on the first wrong byte,
//! on a frame that is missing or comes twice, when none comes any more, on any error but that the other end has gone, and if
//! anything is left at the end: names, or descriptors, mappings, threads or memory of those that
//! stayed. It prints what it did, every ten seconds and at the end.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::iter;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gstzerobuffer::{BufferConfig, Error, Frame, Interrupt, Item, Reader, Records, Wait, Writer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: soak --minutes N | --seconds N [--seed S] [--python PROGRAM]";
/// The record in which a writer says the number of its frame again.
const NOTE: u16 = 64;
/// Whose life, which frame.
const LEAST: u64 = 16;
/// A writer like ours in Python.
const PYTHON_END: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/zb_py_soak.py");
/// For how long no frame may come in a lane.
const STALLED: Duration = Duration::from_secs(120);
/// How often an end tells what it has done.
const REPORT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["write", name, seed] => number(seed).and_then(|seed| be_writer(name, seed)),
        ["read", name, seed] => number(seed).and_then(|seed| be_reader(name, seed)),
        ["--spoil", "write", name, seed] => number(seed).and_then(|seed| spoil(name, seed)),
        _ => lead(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("soak: {err}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse()
        .map_err(|_| format!("not a number: {text}").into())
}

/// SplitMix64: each decision follows from the seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Bytes of a frame: from a few to what just passes a ring of this size.
fn length(life: u64, sequence: u64, ring: u64) -> u64 {
    let random = mix(life ^ sequence);
    // With its header and records twice in the ring it passes wherever the writer stands.
    let most = (ring / 2).saturating_sub(256).clamp(LEAST, 1 << 20);
    let most = match random % 16 {
        0 => most,
        1..4 => most.min(100_000),
        4..9 => most.min(4096),
        _ => most.min(200),
    };
    LEAST + (random >> 8) % (most - LEAST + 1)
}

fn word(life: u64, sequence: u64, at: u64) -> [u8; 8] {
    let word = match at {
        0 => life,
        1 => sequence,
        _ => (life ^ sequence.rotate_left(32)).wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
    };
    word.to_le_bytes()
}

fn fill(frame: &mut [u8], life: u64, sequence: u64) {
    for (at, bytes) in (0..).zip(frame.chunks_mut(8)) {
        let len = bytes.len();
        bytes.copy_from_slice(&word(life, sequence, at)[..len]);
    }
}

fn is_right(frame: &[u8], life: u64, sequence: u64) -> bool {
    (0..)
        .zip(frame.chunks(8))
        .all(|(at, bytes)| *bytes == word(life, sequence, at)[..bytes.len()])
}

/// Set when this process is to close, which it is when its input ends.
fn told_to_close() -> Arc<Interrupt> {
    let close = Arc::new(Interrupt::new());
    let told = close.clone();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line);
        told.set();
    });
    close
}

/// What an end has done since it last said so.
struct Report {
    since: Instant,
    frames: u64,
    bytes: u64,
}

impl Report {
    fn new() -> Self {
        Report {
            since: Instant::now(),
            frames: 0,
            bytes: 0,
        }
    }

    fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
        if self.since.elapsed() > REPORT {
            self.say();
        }
    }

    fn say(&mut self) {
        println!("did {} {}", self.frames, self.bytes);
        *self = Report::new();
    }
}

/// What this process uses: descriptors, threads, mappings of shared memory, KiB of its own memory.
fn used() -> Result<[u64; 4]> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let status = fs::read_to_string("/proc/self/status")?;
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    Ok([
        fs::read_dir("/proc/self/fd")?.count() as u64,
        fs::read_dir("/proc/self/task")?.count() as u64,
        maps.matches(" /dev/shm/").count() as u64,
        number(own.unwrap_or("0").trim())?,
    ])
}

/// What is used is no more than `before`; memory may stay with the allocator.
fn expect_nothing_kept(before: [u64; 4]) -> Result {
    let now = used()?;
    let kept: Vec<u64> = (now.iter().zip(before))
        .map(|(now, before)| now.saturating_sub(before))
        .collect();
    let words: Vec<String> = kept.iter().map(u64::to_string).collect();
    println!("kept {}", words.join(" "));
    if kept[..3] != [0; 3] || kept[3] > 16 << 10 {
        return Err(format!("kept: {now:?}, and before it began {before:?}").into());
    }
    Ok(())
}

/// Writes to one reader after the other.
fn keep_writing(
    name: &str,
    close: &Interrupt,
    mut write: impl FnMut(&Writer) -> std::result::Result<(), Error>,
) -> Result {
    while !close.is_set() {
        let attached = Writer::attach_wait(name, Wait::forever().interrupted_by(close));
        match attached.and_then(|writer| write(&writer)) {
            // The one before is still there.
            Err(Error::WriterAlreadyConnected { .. }) => {
                close.sleep(Duration::from_millis(1));
            }
            Err(Error::Interrupted) => {}
            Err(err) if err.is_no_reader() => {}
            Err(err) => return Err(err.into()),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn be_writer(name: &str, seed: u64) -> Result {
    let close = told_to_close();
    let before = used()?;
    let mut random = Random(seed);
    let mut report = Report::new();
    keep_writing(name, &close, |writer| {
        write(writer, &mut random, &close, &mut report)
    })?;
    report.say();
    expect_nothing_kept(before)
}

fn write(
    writer: &Writer,
    random: &mut Random,
    close: &Interrupt,
    report: &mut Report,
) -> std::result::Result<(), Error> {
    let life = random.next();
    let mut pause = Duration::ZERO;
    for sequence in 1.. {
        if random.one_in(200) {
            pause = match random.below(4) {
                0 => random.millis(1, 20),
                _ => Duration::ZERO,
            };
        }
        close.sleep(pause);
        if random.one_in(50) {
            let note = Records::new().with(NOTE, b"between frames");
            writer.write_message(&note, Wait::forever().interrupted_by(close))?;
        }
        let len = length(life, sequence, writer.payload_size());
        let mut records = Records::new();
        if random.one_in(3) {
            records.push(NOTE, &sequence.to_le_bytes());
        }
        let ahead = random
            .one_in(2)
            .then(|| writer.reserve_ahead(len))
            .flatten();
        let wrote = match ahead {
            Some(mut place) => {
                writer.look_at_reader()?;
                fill(&mut place, life, sequence);
                place.publish_with(&records)?
            }
            None => {
                let wait = Wait::forever().interrupted_by(close);
                let mut place = writer.reserve_with(len, &records, wait)?;
                fill(&mut place, life, sequence);
                place.commit()?
            }
        };
        assert_eq!(wrote, sequence);
        report.add(len as usize);
    }
    Ok(())
}

/// A writer of one wrong byte, to show that it is found.
fn spoil(name: &str, seed: u64) -> Result {
    let close = told_to_close();
    keep_writing(name, &close, |writer| {
        for sequence in 1..=10 {
            let mut frame = vec![0; length(seed, sequence, writer.payload_size()) as usize];
            fill(&mut frame, seed, sequence);
            if sequence == 10 {
                let last = frame.len() - 1;
                frame[last] ^= 1;
            }
            writer.write_frame_wait(&frame, Wait::forever().interrupted_by(&close))?;
        }
        // Who goes before he has read them leaves them to the next.
        while !close.sleep(Duration::from_millis(1)) {
            writer.check_reader()?;
        }
        Ok(())
    })
}

fn be_reader(name: &str, seed: u64) -> Result {
    let close = told_to_close();
    let mut before = used()?;
    // One descriptor is for all readers of a process, and stays for the next.
    before[0] += 1;
    let mut reads = Reads {
        close: close.clone(),
        random: Random(seed),
        report: Report::new(),
        held: VecDeque::new(),
    };
    while !close.is_set() {
        let config = config(&mut reads.random);
        let mut reader = match Reader::create(name, &config) {
            Ok(reader) => reader,
            Err(Error::ReaderAlreadyConnected { .. }) => {
                close.sleep(Duration::from_millis(1));
                continue;
            }
            Err(err) => return Err(err.into()),
        };
        reader.set_evacuation(true);
        // A new buffer, and with it a writer's first frame.
        let mut due = None;
        loop {
            let some = reads.random.below(5000);
            if reads.read(&reader, Some(some), &mut due)? {
                break;
            }
            let new = reader.replace(&self::config(&mut reads.random))?;
            // To its end: what the writer wrote before it knew.
            let over = reads.read(&reader, None, &mut due)?;
            (reader, due) = (new, None);
            if over {
                break;
            }
        }
    }
    while !reads.held.is_empty() {
        reads.let_go()?;
    }
    reads.report.say();
    expect_nothing_kept(before)
}

fn config(random: &mut Random) -> BufferConfig {
    BufferConfig::new(1024, 4096 << random.below(11))
}

struct Reads {
    close: Arc<Interrupt>,
    random: Random,
    report: Report,
    /// Frames that are held for some time, with whose they are, and checked again then.
    held: VecDeque<(Frame, u64)>,
}

impl Reads {
    fn let_go(&mut self) -> Result {
        match self.held.pop_front() {
            Some((frame, life)) if !is_right(&frame, life, frame.sequence()) => {
                Err(format!("frame {} changed while it was held", frame.sequence()).into())
            }
            _ => Ok(()),
        }
    }

    /// Reads and checks frames: so many, or up to the end of the writer. True when it is to close.
    /// `due` is whose frames they are, and which is the next.
    fn read(
        &mut self,
        reader: &Reader,
        until: Option<u64>,
        due: &mut Option<(u64, u64)>,
    ) -> Result<bool> {
        let close = self.close.clone();
        let most = self.random.below(40) as usize;
        let mut frames = 0;
        while until.is_none_or(|until| frames < until) {
            let item = match reader.read(Wait::forever().interrupted_by(&close)) {
                Ok(item) => item,
                Err(Error::Interrupted) => return Ok(true),
                Err(Error::WriterClosed { .. } | Error::WriterDead { .. }) => {
                    // The next one may be there already; if not, it is not asked for without a pause.
                    if until.is_none() || close.sleep(Duration::from_millis(1)) {
                        return Ok(until.is_some());
                    }
                    continue;
                }
                Err(err) => return Err(err.into()),
            };
            let frame = match item {
                Item::Frame(frame) => frame,
                Item::Message(records) if records.get(NOTE) == Some(b"between frames") => continue,
                other => return Err(format!("{other:?} was never sent").into()),
            };
            frames += 1;
            let life = check(&frame, reader.payload_size(), due)?;
            self.report.add(frame.len());
            if self.random.one_in(4) {
                self.held.push_back((frame, life));
            }
            while self.held.len() > most {
                self.let_go()?;
            }
            if self.random.one_in(2000) {
                close.sleep(self.random.millis(1, 100));
            }
        }
        Ok(false)
    }
}

/// Whether it is the frame that is due, bit for bit. Whose it is.
fn check(frame: &Frame, ring: u64, due: &mut Option<(u64, u64)>) -> Result<u64> {
    let sequence = frame.sequence();
    let life = frame.first_chunk().map(|life| u64::from_le_bytes(*life));
    let life = life.ok_or("a frame that is too short")?;
    let what = format!("frame {sequence} of {life:#x}");
    match *due {
        // The first of the next writer may come at any time.
        _ if sequence == 1 => {}
        Some(due) if due == (life, sequence) => {}
        Some((of, next)) => return Err(format!("{what} instead of {next} of {of:#x}").into()),
        None => return Err(format!("{what} before the first").into()),
    }
    *due = Some((life, sequence + 1));
    let len = length(life, sequence, ring);
    if frame.len() as u64 != len || !is_right(frame, life, sequence) {
        return Err(format!("{what} has wrong bytes").into());
    }
    let note = frame.records().get(NOTE);
    if note.is_some_and(|note| *note != sequence.to_le_bytes()) {
        return Err(format!("{what} has another's records").into());
    }
    Ok(life)
}

/// What has been done, by all.
#[derive(Default)]
struct Done {
    /// In each lane.
    frames: [AtomicU64; 4],
    bytes: AtomicU64,
    kills: AtomicU64,
    pauses: AtomicU64,
    closes: AtomicU64,
    /// The most that an end kept that was closed: descriptors, threads, mappings, KiB.
    kept: [AtomicU64; 4],
    failure: Mutex<Option<String>>,
    over: AtomicBool,
}

impl Done {
    fn fail(&self, why: String) {
        let mut failure = self.failure.lock().unwrap_or_else(|err| err.into_inner());
        failure.get_or_insert(why);
        self.over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn text(&self) -> String {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        format!(
            "{} frames, {} MB, {} kills, {} pauses, {} closes",
            self.frames.iter().map(get).sum::<u64>(),
            get(&self.bytes) / 1_000_000,
            get(&self.kills),
            get(&self.pauses),
            get(&self.closes)
        )
    }

    fn text_of_kept(&self) -> String {
        let [files, threads, mappings, memory] =
            (self.kept.each_ref()).map(|kept| kept.load(Ordering::Relaxed));
        format!(
            "at most {files} descriptors, {threads} threads, {mappings} mappings and {memory} KiB kept"
        )
    }
}

/// One end, as a process.
struct End {
    child: Child,
    listening: Option<thread::JoinHandle<()>>,
}

impl End {
    fn start(lane: &Lane, which: usize, seed: u64, done: &Arc<Done>) -> Result<Self> {
        let command = &lane.ends[which];
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .args([&*lane.name, &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        // What is read is what arrived.
        let (reads, lane, done) = (which == 0, lane.number, done.clone());
        let listening = thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(|line| line.ok()) {
                let mut words = line.split(' ');
                let what = words.next();
                let mut number = || words.next().and_then(|word| word.parse().ok());
                match what {
                    Some("did") if reads => {
                        for count in [&done.frames[lane], &done.bytes] {
                            count.fetch_add(number().unwrap_or(0), Ordering::Relaxed);
                        }
                    }
                    Some("kept") => {
                        for most in &done.kept {
                            most.fetch_max(number().unwrap_or(u64::MAX), Ordering::Relaxed);
                        }
                    }
                    _ => {}
                }
            }
        });
        Ok(End {
            child,
            listening: Some(listening),
        })
    }

    fn signal(&self, signal: Signal) -> Result {
        kill(Pid::from_raw(self.child.id().try_into()?), signal)?;
        Ok(())
    }

    /// It has not ended by itself.
    fn expect_alive(&mut self) -> Result {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("an end ended by itself: {status}").into()),
        }
    }

    fn close(mut self) -> Result {
        if let Some(mut input) = self.child.stdin.take() {
            // If it has ended, its status tells.
            let _ = input.write_all(b"close\n");
        }
        let status = self.child.wait()?;
        self.heard();
        if status.success() {
            Ok(())
        } else {
            Err(format!("an end failed: {status}").into())
        }
    }

    fn kill(mut self) -> Result {
        self.expect_alive()?;
        self.child.kill()?;
        self.child.wait()?;
        self.heard();
        Ok(())
    }

    fn heard(&mut self) {
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Also one that is stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A ring, its two ends as commands, and which of them come and go.
struct Lane<'a> {
    number: usize,
    name: String,
    ends: [Vec<&'a OsStr>; 2],
    mortal: [bool; 2],
    /// Its writers take so long to start that nothing happens to them before their first frames.
    slow: bool,
}

fn run(lane: &Lane, seed: u64, done: &Arc<Done>) -> Result {
    let mut random = Random(seed);
    let mut start = |which: usize| End::start(lane, which, random.next(), done);
    let mut ends = [start(0)?, start(1)?];
    let mut random = Random(mix(seed));
    let mut seen = (0, Instant::now());
    while !done.is_over() {
        thread::sleep(random.millis(5, 300));
        for end in &mut ends {
            end.expect_alive()?;
        }
        let frames = done.frames[lane.number].load(Ordering::Relaxed);
        if frames > seen.0 {
            seen = (frames, Instant::now());
        } else if seen.1.elapsed() > STALLED {
            return Err("no frame has come for two minutes".into());
        } else if lane.slow {
            continue;
        }
        let which = random.below(2) as usize;
        if !lane.mortal[which] || random.one_in(4) {
            ends[which].signal(Signal::SIGSTOP)?;
            thread::sleep(random.millis(1, 200));
            ends[which].signal(Signal::SIGCONT)?;
            done.pauses.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        // The next one may be there for some time, or has just been started.
        let before = random.one_in(2).then(|| start(which)).transpose()?;
        if before.is_some() {
            thread::sleep(random.millis(1, 50));
        }
        let kills = !random.one_in(4);
        let gone = match before {
            Some(next) => std::mem::replace(&mut ends[which], next),
            None => std::mem::replace(&mut ends[which], start(which)?),
        };
        if kills {
            gone.kill()?;
            done.kills.fetch_add(1, Ordering::Relaxed);
        } else {
            gone.close()?;
            done.closes.fetch_add(1, Ordering::Relaxed);
        }
    }
    let [reader, writer] = ends;
    writer.close()?;
    reader.close()
}

fn lead(args: &[&str]) -> Result {
    let (mut seconds, mut seed, mut spoils, mut python) = (None, None, false, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().copied().ok_or(USAGE);
        match *arg {
            "--minutes" => seconds = Some(number(value()?)? * 60),
            "--seconds" => seconds = Some(number(value()?)?),
            "--seed" => seed = Some(number(value()?)?),
            // Shows that a wrong byte is found.
            "--spoil" => spoils = true,
            "--python" => python = Some(value()?),
            _ => return Err(USAGE.into()),
        }
    }
    let time = Duration::from_secs(seconds.ok_or(USAGE)?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = seed.unwrap_or(now.as_nanos() as u64);
    println!("soak: seed {seed}, {} s", time.as_secs());
    let run = gstzerobuffer::testing::unique_name("soak");
    let done = Arc::new(Done::default());
    let began = Instant::now();
    let program = env::current_exe()?;
    let ours = |role: &[&'static str]| {
        let role = role.iter().map(|word| OsStr::new(*word));
        iter::once(program.as_os_str()).chain(role).collect()
    };
    let writes: &[_] = if spoils {
        &["--spoil", "write"]
    } else {
        &["write"]
    };
    // Which of reader and writer come and go.
    let lanes: Vec<Lane> = [[false, true], [true, false], [true, true]]
        .into_iter()
        .map(|mortal| (mortal, ours(writes), false))
        .chain(python.map(|python| {
            let args = [python, "-I", "-u", PYTHON_END, "write"];
            ([false, true], args.map(OsStr::new).into(), true)
        }))
        .zip(0..)
        .map(|((mortal, writer, slow), number)| Lane {
            number,
            name: format!("{run}_{number}"),
            ends: [ours(&["read"]), writer],
            mortal,
            slow,
        })
        .collect();
    thread::scope(|scope| {
        for lane in &lanes {
            let done = &done;
            scope.spawn(move || {
                if let Err(err) = self::run(lane, mix(seed ^ lane.number as u64), done) {
                    done.fail(format!("{}: {err}", lane.name));
                }
            });
        }
        let mut said = Instant::now();
        // A lane in which nothing has come yet ends by itself (`STALLED`).
        let waits = |lane: &Lane| done.frames[lane.number].load(Ordering::Relaxed) == 0;
        while (began.elapsed() < time || lanes.iter().any(waits)) && !done.is_over() {
            thread::sleep(Duration::from_millis(20));
            if said.elapsed() > Duration::from_secs(10) {
                said = Instant::now();
                println!("soak: {} s: {}", began.elapsed().as_secs(), done.text());
            }
        }
        done.over.store(true, Ordering::Relaxed);
    });
    let mut left = 0;
    for folder in ["/dev/shm", "/tmp/zerobuffer"] {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.to_string_lossy().contains(&run) {
                // Not what a run that failed was still using.
                println!("soak: left: {}", path.display());
                let _ = fs::remove_file(path);
                left += 1;
            }
        }
    }
    let from_python = done.frames[3].load(Ordering::Relaxed);
    println!(
        "soak: seed {seed}: {}, {left} names left, {}{}",
        done.text(),
        done.text_of_kept(),
        python.map_or(String::new(), |_| format!(", {from_python} from Python")),
    );
    let failure = done
        .failure
        .lock()
        .unwrap_or_else(|err| err.into_inner())
        .take();
    match failure {
        Some(why) => Err(format!("{why} (--seed {seed})").into()),
        None if left > 0 => Err(format!("{left} names were left (--seed {seed})").into()),
        None => Ok(()),
    }
}
