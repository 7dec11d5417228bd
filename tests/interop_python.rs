//! Both directions against the published Python implementation, process to process.

#[path = "support/python.rs"]
mod python;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use gstzerobuffer::testing::{self, frame_data, unique_name};
use gstzerobuffer::{BufferConfig, Error, Frame, FrameTime, Reader, Records, Writer};
use serde_json::{Value, json};

/// A wait that ends only when something is broken.
const LONG: Duration = Duration::from_secs(60);
/// The same for the children's command lines.
const LONG_S: &str = "60";
const METADATA: &str = r#"{"type":"vidéo","caps":"video/x-raw","who":"José 写真 🎥","n":1}"#;

/// The name of one buffer. Nothing of it may be left at the end of a test.
struct Name(String);

impl Name {
    fn new(base: &str) -> Self {
        Name(unique_name(base))
    }

    fn objects(&self) -> [PathBuf; 4] {
        let name = &self.0;
        [
            format!("/dev/shm/{name}"),
            format!("/dev/shm/sem.sem-w-{name}"),
            format!("/dev/shm/sem.sem-r-{name}"),
            format!("/tmp/zerobuffer/{name}.lock"),
        ]
        .map(PathBuf::from)
    }

    /// The package closes its semaphores before it would unlink them, so they stay (fault 15).
    fn remove_what_python_leaves(&self) {
        let [_, write, read, _] = self.objects();
        for path in [write, read] {
            fs::remove_file(path).expect("a closed Python reader leaves its semaphores");
        }
    }

    fn assert_nothing_left(self) {
        let left: Vec<_> = ["/dev/shm", "/tmp/zerobuffer"]
            .into_iter()
            .flat_map(|folder| fs::read_dir(folder).into_iter().flatten())
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|file| file.contains(&self.0))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

impl Drop for Name {
    /// A test that failed leaves nothing either.
    fn drop(&mut self) {
        for path in self.objects() {
            let _ = fs::remove_file(path);
        }
    }
}

/// A child process that talks in lines.
struct Process {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("{command:?}: {err}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // It never waits for us to read what it prints.
        thread::spawn(move || {
            for line in stdout.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Process {
            what: format!("{command:?}"),
            stdin: child.stdin.take(),
            lines,
            child,
        }
    }

    fn pid(&self) -> u64 {
        self.child.id().into()
    }

    /// The next line, `None` at the end.
    fn line(&self) -> Option<String> {
        self.lines.recv().ok()
    }

    fn expect(&mut self, expected: &str) {
        let line = self.line();
        if line.as_deref() != Some(expected) {
            let errors = self.errors();
            panic!("{}: {line:?} instead of {expected:?}\n{errors}", self.what);
        }
    }

    /// SIGKILL; its process id is free when this returns.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn errors(&mut self) -> String {
        let mut errors = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut errors).unwrap();
        }
        errors
    }

    fn end(mut self) -> (bool, Vec<String>, String) {
        drop(self.stdin.take());
        let lines = self.lines.iter().collect();
        let errors = self.errors();
        (self.child.wait().unwrap().success(), lines, errors)
    }

    /// Its remaining lines; it must end well.
    fn succeed(self) -> Vec<String> {
        let what = self.what.clone();
        let (success, lines, errors) = self.end();
        assert!(success, "{what}\n{errors}");
        lines
    }

    /// What it says on stderr; it must fail.
    fn fail(self) -> String {
        let what = self.what.clone();
        let (success, _, errors) = self.end();
        assert!(!success, "{what} succeeded");
        errors
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python reader that starts removes what dead readers left, of any name. While a test has a dead
/// reader's leftovers to show, no other test may start one.
fn sweeping() -> MutexGuard<'static, ()> {
    static SWEEPING: Mutex<()> = Mutex::new(());
    SWEEPING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    // <profile>/deps/interop_python-HASH
    let profile = test.ancestors().nth(2).unwrap();
    let program = profile.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: `cargo test` builds it, with `--test` it takes `cargo build --examples`",
        program.display()
    );
    Command::new(program)
}

fn list(sizes: &[usize]) -> String {
    let sizes: Vec<_> = sizes.iter().map(usize::to_string).collect();
    sizes.join(",")
}

fn rust_reader(name: &Name, metadata: u64, payload: u64) -> Process {
    let mut command = example("zb_read");
    command
        .arg(&name.0)
        .args([metadata, payload].map(|n| n.to_string()));
    command.args(["0", LONG_S]);
    Process::start(command)
}

fn rust_writer(name: &Name, frames: usize, sizes: &[usize], metadata: &str) -> Process {
    let mut command = example("zb_write");
    command
        .arg(&name.0)
        .arg(frames.to_string())
        .arg(list(sizes));
    command.args([metadata, "0"]);
    Process::start(command)
}

/// A Python reader that has made its buffer and reads to the end of the stream, or `frames`.
/// It notices the end of a stream only when it has waited for `timeout` in vain.
fn python_reader(name: &Name, sizes: [u64; 2], frames: usize, timeout: &str) -> Process {
    let mut reader = start_python_reader(name, sizes, frames, timeout);
    reader.expect("ready");
    reader
}

fn start_python_reader(name: &Name, sizes: [u64; 2], frames: usize, timeout: &str) -> Process {
    let mut command = python::script("zb_py_read.py");
    command.arg(&name.0).args(sizes.map(|n| n.to_string()));
    command.args([&frames.to_string(), timeout, "--talk"]);
    Process::start(command)
}

fn python_writer(
    name: &Name,
    frames: usize,
    sizes: &[usize],
    metadata: &str,
    options: &[&str],
) -> Process {
    let mut command = python::script("zb_py_write.py");
    command
        .arg(&name.0)
        .arg(frames.to_string())
        .arg(list(sizes));
    command.args([metadata, "0"]).args(options);
    Process::start(command)
}

/// What zb_write and zb_py_write put into frame `i`, counted from 0.
fn content(i: usize, sizes: &[usize]) -> Vec<u8> {
    frame_data(sizes[i % sizes.len()], i as u64)
}

/// The line that zb_read and zb_py_read print for it.
fn printed(i: usize, frame: &[u8]) -> Value {
    json!({"seq": i + 1, "size": frame.len(), "crc32": crc32fast::hash(frame)})
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"))
}

/// The lines of a reader of `frames` such frames, then the metadata.
fn assert_read(lines: &[String], frames: usize, sizes: &[usize], metadata: Value) {
    assert_prefix(&lines[..lines.len().min(frames)], sizes);
    let rest: Vec<_> = lines.iter().skip(frames).map(|line| parse(line)).collect();
    assert_eq!(
        rest,
        [json!({"metadata": metadata})],
        "{} lines",
        lines.len()
    );
}

fn assert_prefix(lines: &[String], sizes: &[usize]) {
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(parse(line), printed(i, &content(i, sizes)), "frame {i}");
    }
}

/// Reads frame `i` of such frames.
fn read_expected(reader: &Reader, i: usize, sizes: &[usize]) -> Frame {
    let frame = reader
        .read_frame(LONG)
        .unwrap_or_else(|err| panic!("frame {i}: {err}"));
    assert_eq!(frame.sequence(), i as u64 + 1);
    assert!(
        frame[..] == content(i, sizes),
        "frame {i} is not what was written"
    );
    frame
}

fn read_all(reader: &Reader, frames: usize, sizes: &[usize]) {
    for i in 0..frames {
        read_expected(reader, i, sizes);
    }
}

fn assert_writer_closed(reader: &Reader) {
    let end = reader.read_frame(LONG).map(|frame| frame.sequence());
    assert!(matches!(end, Err(Error::WriterClosed { .. })), "{end:?}");
}

/// Sizes from 1 to `max`, the same in each run.
fn changing_sizes(count: usize, max: usize) -> Vec<usize> {
    let mut state = 1u64;
    let mut next = || {
        // Knuth's MMIX generator; the low bits are poor.
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    (0..count).map(|_| 1 + next() % max).collect()
}

/// Frames that fill a ring of `size` bytes but for 0, 1, … 16 bytes, over and over.
fn sizes_with_tails(size: usize) -> Vec<usize> {
    (0..=16)
        .flat_map(|tail| {
            let quarter = size / 4;
            let last = size - tail - 3 * quarter;
            [quarter, quarter, quarter, last].map(|total| total - 16)
        })
        .collect()
}

const FRAMES: usize = 6000;
const RING: u64 = 16 * 1024;

#[test]
fn python_reads_thousands_of_changing_frames_from_rust() {
    let name = Name::new("interop-rust-python");
    let sizes = changing_sizes(997, 4000);
    let _sweeping = sweeping();
    let reader = python_reader(&name, [1024, RING], FRAMES, LONG_S);
    let writer = rust_writer(&name, FRAMES, &sizes, METADATA);
    let mut lines = reader.succeed();
    assert_eq!(lines.pop().as_deref(), Some("done"));
    assert_read(&lines, FRAMES, &sizes, METADATA.into());
    writer.succeed();
    name.remove_what_python_leaves();
    name.assert_nothing_left();
}

/// What stands in the segment after the metadata and some frames for a Python reader which has read
/// them, with or without records given by the application.
fn segment_for_python(sizes: &[usize], with_records: bool) -> Vec<u8> {
    let name = Name::new("interop-records");
    let frames = 500;
    let mut reader = python_reader(&name, [1024, 4096], frames, LONG_S);
    let writer = Writer::attach(&name.0).unwrap();
    assert!(!writer.carries_records() && !writer.can_request_size());
    writer.set_metadata(METADATA.as_bytes()).unwrap();
    for i in 0..frames {
        let frame = content(i, sizes);
        if with_records {
            let time = FrameTime {
                pts: Some(i as u64),
                ..FrameTime::default()
            };
            let records = Records::new()
                .with_time(&time)
                .with(64, b"the application's");
            assert!(!writer.write_message(&records, LONG).unwrap());
            assert!(!writer.request_size(1 << 20, LONG).unwrap());
            writer.write_frame_with(&frame, &records, LONG).unwrap();
            let caps = writer.write_message(&Records::new().with_caps("others"), LONG);
            assert!(
                matches!(caps, Err(Error::RecordsNotCarried { .. })),
                "{caps:?}"
            );
        } else {
            writer.write_frame_wait(&frame, LONG).unwrap();
        }
        // Each is read before the next: what Python writes does not depend on who is faster.
        assert_eq!(parse(&reader.line().unwrap()), printed(i, &frame));
        while writer.used_bytes() > 0 {
            thread::yield_now();
        }
    }
    assert_eq!(
        parse(&reader.line().unwrap()),
        json!({"metadata": METADATA})
    );
    reader.expect("done");
    let mut segment = fs::read(&name.objects()[0]).unwrap();
    // Its pid is another each time; ours is the same.
    segment[0x58..0x60].fill(0);
    drop(writer);
    reader.succeed();
    name.remove_what_python_leaves();
    name.assert_nothing_left();
    segment
}

#[test]
fn python_sees_the_same_bytes_whether_or_not_the_application_gives_records() {
    let _sweeping = sweeping();
    // Wraps, exact fits, and tails that are too short for a marker.
    let sizes = changing_sizes(101, 1500);
    let plain = segment_for_python(&sizes, false);
    let with_records = segment_for_python(&sizes, true);
    assert!(plain[..128] == with_records[..128], "the OIEB");
    assert!(
        plain[128..128 + 1024] == with_records[128..128 + 1024],
        "the metadata"
    );
    assert!(plain == with_records, "the frames");
}

#[test]
fn rust_reads_thousands_of_changing_frames_from_python() {
    let name = Name::new("interop-python-rust");
    let sizes = changing_sizes(997, 4000);
    let reader = rust_reader(&name, 1024, RING);
    let writer = python_writer(&name, FRAMES, &sizes, METADATA, &[]);
    assert_read(&reader.succeed(), FRAMES, &sizes, METADATA.into());
    writer.succeed();
    name.assert_nothing_left();
}

#[test]
fn rust_reads_thousands_of_frames_that_python_wrote_in_place() {
    let name = Name::new("interop-zero-copy");
    let sizes = changing_sizes(997, 4000);
    let reader = rust_reader(&name, 1024, RING);
    let writer = python_writer(&name, FRAMES, &sizes, METADATA, &["--zero-copy"]);
    assert_read(&reader.succeed(), FRAMES, &sizes, METADATA.into());
    writer.succeed();
    name.assert_nothing_left();
}

#[test]
fn rust_follows_python_over_exact_fits_and_tails_without_room_for_a_marker() {
    let sizes = sizes_with_tails(4096);
    let frames = 20 * sizes.len();
    for options in [&[][..], &["--zero-copy"]] {
        let name = Name::new("interop-python-tails");
        let reader = rust_reader(&name, 64, 4096);
        let writer = python_writer(&name, frames, &sizes, "-", options);
        assert_read(&reader.succeed(), frames, &sizes, Value::Null);
        writer.succeed();
        name.assert_nothing_left();
    }
}

#[test]
fn python_survives_an_exact_fit_that_was_read_before_its_next_frame() {
    // Python's writer takes a read position of 0 for a reader that has not begun, and would then
    // write on past the end; in step, each exact fit is read before the next frame is written.
    for options in [&["--talk"][..], &["--talk", "--zero-copy"]] {
        let name = Name::new("interop-exact-fit");
        let reader = Reader::create(&name.0, &BufferConfig::new(64, 4096)).unwrap();
        for sizes in [[4080], [2032]] {
            let mut writer = python_writer(&name, 50, &sizes, "-", options);
            writer.expect("attached");
            read_all(&reader, 50, &sizes);
            writer.expect("written");
            writer.succeed();
            assert_writer_closed(&reader);
        }
        drop(reader);
        name.assert_nothing_left();
    }
}

#[test]
fn rust_leaves_python_no_tail_without_room_for_a_marker() {
    // Python's reader would read a header across the end.
    let name = Name::new("interop-rust-tails");
    let sizes = sizes_with_tails(4096);
    let frames = 20 * sizes.len();
    let _sweeping = sweeping();
    let reader = python_reader(&name, [64, 4096], frames, LONG_S);
    let writer = rust_writer(&name, frames, &sizes, "-");
    let mut lines = reader.succeed();
    assert_eq!(lines.pop().as_deref(), Some("done"));
    assert_read(&lines, frames, &sizes, Value::Null);
    writer.succeed();
    name.remove_what_python_leaves();
    name.assert_nothing_left();
}

#[test]
fn frames_over_half_the_ring_pass_to_python_where_they_can() {
    let name = Name::new("interop-large");
    let _sweeping = sweeping();
    let reader = start_python_reader(&name, [64, 4096], 0, "1");
    let writer = Writer::attach_wait(&name.0, LONG).unwrap();
    let mut expected = Vec::new();
    let mut large = 0;
    for (i, small) in changing_sizes(2000, 500).into_iter().enumerate() {
        let size = if i % 4 == 0 { 2048 + small * 3 } else { small };
        let data = frame_data(size, i as u64);
        match writer.write_frame_wait(&data, LONG) {
            Ok(_) => {
                large += usize::from(size > 2048);
                expected.push(printed(expected.len(), &data));
            }
            // It never could from this position, and we are told at once.
            Err(Error::FrameCannotPass { size: told, .. }) => assert_eq!(told, size as u64),
            Err(err) => panic!("frame {i}: {err}"),
        }
    }
    assert!(large > 100, "{large} large frames passed");
    drop(writer);
    let lines: Vec<_> = reader.succeed();
    assert_eq!(lines[0], "ready");
    let frames: Vec<_> = lines[1..=expected.len()].iter().map(|l| parse(l)).collect();
    assert!(frames == expected, "a frame is not what was written");
    assert_eq!(
        lines[expected.len() + 1..],
        [r#"{"metadata": null}"#, "done"]
    );
    name.remove_what_python_leaves();
    name.assert_nothing_left();
}

#[test]
fn rust_reads_everything_from_a_python_writer_that_closed() {
    let name = Name::new("interop-close-py-writer");
    let sizes = changing_sizes(10, 300);
    let reader = Reader::create(&name.0, &BufferConfig::default()).unwrap();
    // It is gone before the first frame is read.
    python_writer(&name, 10, &sizes, METADATA, &[]).succeed();
    read_all(&reader, 10, &sizes);
    assert_writer_closed(&reader);
    assert_eq!(reader.metadata().unwrap().unwrap(), METADATA.as_bytes());
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn python_reads_everything_from_a_rust_writer_that_closed() {
    let name = Name::new("interop-close-rust-writer");
    let sizes = changing_sizes(10, 300);
    let _sweeping = sweeping();
    let mut reader = python_reader(&name, [1024, RING], 0, "0.2");
    rust_writer(&name, 10, &sizes, METADATA).succeed();
    let lines: Vec<_> = (0..11).map_while(|_| reader.line()).collect();
    reader.expect("done");
    let (success, _, errors) = reader.end();
    assert!(
        success && errors.contains("WriterDeadException"),
        "{errors}"
    );
    assert_read(&lines, 10, &sizes, METADATA.into());
    name.remove_what_python_leaves();
    name.assert_nothing_left();
}

#[test]
fn python_is_told_that_a_rust_reader_closed() {
    let name = Name::new("interop-close-rust-reader");
    let sizes = changing_sizes(997, 1000);
    let reader = Reader::create(&name.0, &BufferConfig::new(1024, RING)).unwrap();
    let writer = python_writer(
        &name,
        usize::MAX >> 1,
        &sizes,
        "-",
        &["--write-timeout", "1"],
    );
    read_all(&reader, 500, &sizes);
    drop(reader);
    let errors = writer.fail();
    assert!(errors.contains("ReaderDeadException"), "{errors}");
    name.assert_nothing_left();
}

#[test]
fn rust_is_told_that_a_python_reader_closed() {
    let name = Name::new("interop-close-py-reader");
    let sizes = changing_sizes(997, 1000);
    let _sweeping = sweeping();
    let reader = python_reader(&name, [1024, RING], 500, LONG_S);
    let writer = Writer::attach(&name.0).unwrap();
    thread::scope(|scope| {
        let writing = scope.spawn(|| write_until_error(&writer, &sizes));
        let mut lines = reader.succeed();
        assert_eq!(lines.pop().as_deref(), Some("done"));
        assert_read(&lines, 500, &sizes, Value::Null);
        let error = writing.join().unwrap();
        assert!(matches!(error, Error::ReaderClosed { .. }), "{error}");
    });
    name.remove_what_python_leaves();
    name.assert_nothing_left();
}

fn write_until_error(writer: &Writer, sizes: &[usize]) -> Error {
    (0..)
        .find_map(|i| writer.write_frame_wait(&content(i, sizes), LONG).err())
        .unwrap()
}

/// Reads frame `read` and on, as far as they come.
fn read_until_error(reader: &Reader, read: &mut usize, sizes: &[usize]) -> Error {
    loop {
        match reader.read_frame(LONG) {
            Ok(frame) => {
                assert_eq!(frame.sequence(), *read as u64 + 1);
                assert!(frame[..] == content(*read, sizes), "frame {read}");
                *read += 1;
            }
            Err(err) => return err,
        }
    }
}

fn assert_dead(error: &Error, pid: u64) {
    assert!(
        matches!(error, Error::WriterDead { pid: dead, .. } if *dead == pid),
        "{error}"
    );
}

#[test]
fn rust_reads_everything_from_a_python_writer_that_was_killed_and_then_from_the_next() {
    let name = Name::new("interop-kill-py-writer");
    let sizes = changing_sizes(997, 1000);
    let reader = Reader::create(&name.0, &BufferConfig::new(1024, RING)).unwrap();
    let mut writer = python_writer(&name, 500, &sizes, METADATA, &["--talk"]);
    read_all(&reader, 490, &sizes);
    writer.expect("attached");
    writer.expect("written");
    writer.kill();
    let mut read = 490;
    let error = read_until_error(&reader, &mut read, &sizes);
    assert_dead(&error, writer.pid());
    assert_eq!(read, 500);
    assert_eq!(reader.metadata().unwrap().unwrap(), METADATA.as_bytes());
    // The buffer is there for the next writer, of either language.
    python_writer(&name, 10, &sizes, "-", &[]).succeed();
    read_all(&reader, 10, &sizes);
    assert_writer_closed(&reader);
    rust_writer(&name, 10, &sizes, "-").succeed();
    read_all(&reader, 10, &sizes);
    assert_writer_closed(&reader);
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn a_python_writer_killed_at_any_moment_harms_neither_its_frames_nor_the_next_writer() {
    let name = Name::new("interop-kill-busy");
    let sizes = changing_sizes(997, 1000);
    let reader = Reader::create(&name.0, &BufferConfig::new(1024, RING)).unwrap();
    for round in 0..10 {
        let mut writer = python_writer(&name, usize::MAX >> 1, &sizes, "-", &["--talk"]);
        writer.expect("attached");
        // It is killed wherever it is now: often in the middle of a frame.
        read_all(&reader, 200 + round, &sizes);
        writer.kill();
        let mut read = 200 + round;
        let error = read_until_error(&reader, &mut read, &sizes);
        assert_dead(&error, writer.pid());
        python_writer(&name, 10, &sizes, "-", &[]).succeed();
        read_all(&reader, 10, &sizes);
        assert_writer_closed(&reader);
        assert_eq!(reader.used_bytes(), 0, "round {round}");
    }
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn python_reads_everything_from_a_rust_writer_that_was_killed_and_rust_takes_the_name() {
    let name = Name::new("interop-kill-rust-writer");
    let sizes = changing_sizes(997, 1000);
    let _sweeping = sweeping();
    let reader = python_reader(&name, [1024, RING], 0, "0.5");
    let mut writer = rust_writer(&name, usize::MAX >> 1, &sizes, METADATA);
    let mut lines: Vec<_> = (0..500).map_while(|_| reader.line()).collect();
    writer.kill();
    let (success, rest, errors) = reader.end();
    assert!(
        success && errors.contains("WriterDeadException"),
        "{errors}"
    );
    lines.extend(rest);
    assert_eq!(lines.pop().as_deref(), Some("done"));
    let frames = lines.len() - 1;
    assert_read(&lines, frames, &sizes, METADATA.into());
    // What the package left of the name is no hindrance, and is gone afterwards.
    let reader = rust_reader(&name, 64, RING);
    python_writer(&name, 10, &sizes, "-", &[]).succeed();
    assert_read(&reader.succeed(), 10, &sizes, Value::Null);
    name.assert_nothing_left();
}

#[test]
fn rust_is_told_that_a_python_reader_was_killed_and_rust_takes_the_name() {
    let name = Name::new("interop-kill-py-reader");
    let sizes = changing_sizes(997, 1000);
    let _sweeping = sweeping();
    let mut reader = python_reader(&name, [1024, RING], 0, LONG_S);
    let writer = Writer::attach(&name.0).unwrap();
    let mut lines = Vec::new();
    thread::scope(|scope| {
        let writing = scope.spawn(|| write_until_error(&writer, &sizes));
        lines.extend((0..500).map_while(|_| reader.line()));
        reader.kill();
        let error = writing.join().unwrap();
        let pid = reader.pid();
        assert!(
            matches!(error, Error::ReaderDead { pid: dead, .. } if dead == pid),
            "{error}"
        );
    });
    assert_eq!(lines.len(), 500);
    assert_prefix(&lines, &sizes);
    let attached = Writer::attach(&name.0).map(|_| ());
    assert!(
        matches!(attached, Err(Error::ReaderDead { .. })),
        "{attached:?}"
    );
    // The writer that is still there has no part in the buffer that follows.
    let reader = Reader::create(&name.0, &BufferConfig::new(64, RING)).unwrap();
    python_writer(&name, 10, &sizes, "-", &[]).succeed();
    let error = write_until_error(&writer, &sizes);
    assert!(matches!(error, Error::ReaderClosed { .. }), "{error}");
    read_all(&reader, 10, &sizes);
    assert_writer_closed(&reader);
    drop((reader, writer));
    name.assert_nothing_left();
}

#[test]
fn python_is_told_that_a_rust_reader_was_killed_and_either_takes_the_name() {
    let name = Name::new("interop-kill-rust-reader");
    let sizes = changing_sizes(997, 1000);
    let _sweeping = sweeping();
    for next_is_python in [false, true] {
        let mut reader = rust_reader(&name, 1024, RING);
        let options = ["--write-timeout", "1"];
        let writer = python_writer(&name, usize::MAX >> 1, &sizes, "-", &options);
        let lines: Vec<_> = (0..500).map_while(|_| reader.line()).collect();
        reader.kill();
        let errors = writer.fail();
        assert!(errors.contains("ReaderDeadException"), "{errors}");
        assert_eq!(lines.len(), 500);
        assert_prefix(&lines, &sizes);
        if next_is_python {
            let reader = python_reader(&name, [64, RING], 10, LONG_S);
            rust_writer(&name, 10, &sizes, "-").succeed();
            let mut lines = reader.succeed();
            assert_eq!(lines.pop().as_deref(), Some("done"));
            assert_read(&lines, 10, &sizes, Value::Null);
            name.remove_what_python_leaves();
        } else {
            let reader = Reader::create(&name.0, &BufferConfig::new(64, RING)).unwrap();
            python_writer(&name, 10, &sizes, "-", &[]).succeed();
            read_all(&reader, 10, &sizes);
            assert_writer_closed(&reader);
        }
    }
    name.assert_nothing_left();
}

#[test]
fn one_rust_reader_takes_python_writers_one_after_another() {
    let name = Name::new("interop-writers");
    let sizes = changing_sizes(997, 1000);
    let reader = Reader::create(&name.0, &BufferConfig::new(64, RING)).unwrap();
    for frames in [1, 300, 2] {
        let mut writer = python_writer(&name, frames, &sizes, "-", &["--talk"]);
        writer.expect("attached");
        read_all(&reader, frames, &sizes);
        writer.expect("written");
        writer.succeed();
        assert_writer_closed(&reader);
    }
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn one_rust_reader_takes_python_writers_that_came_and_went_before_it_looked() {
    let name = Name::new("interop-writers-queued");
    let sizes = changing_sizes(997, 1000);
    let reader = Reader::create(&name.0, &BufferConfig::new(64, RING)).unwrap();
    for _ in 0..3 {
        python_writer(&name, 5, &sizes, "-", &[]).succeed();
    }
    let mut last = python_writer(&name, 5, &sizes, "-", &["--talk"]);
    last.expect("attached");
    last.expect("written");
    for _ in 0..4 {
        read_all(&reader, 5, &sizes);
    }
    last.succeed();
    assert_writer_closed(&reader);
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn one_rust_reader_takes_writers_of_one_python_process_one_after_another() {
    // The same process id each time, and no moment at which the reader must have looked.
    let sizes = changing_sizes(997, 1000);
    let in_place = ["--zero-copy", "--release-views"];
    for options in [&[][..], &in_place[..], &in_place[..1]] {
        let name = Name::new("interop-same-process");
        let reader = Reader::create(&name.0, &BufferConfig::new(64, RING)).unwrap();
        let options = [&["--writers", "50"], options].concat();
        let writer = python_writer(&name, 10, &sizes, "-", &options);
        for writer in 0..50 {
            // Between two of them the stream is closed, and we may see that or not.
            let first = loop {
                match reader.read_frame(LONG) {
                    Err(Error::WriterClosed { .. }) => thread::yield_now(),
                    frame => break frame.unwrap_or_else(|err| panic!("writer {writer}: {err}")),
                }
            };
            assert_eq!((first.sequence(), &first[..]), (1, &content(0, &sizes)[..]));
            drop(first);
            for i in 1..10 {
                read_expected(&reader, i, &sizes);
            }
        }
        writer.succeed();
        assert_writer_closed(&reader);
        drop(reader);
        name.assert_nothing_left();
    }
}

#[test]
fn metadata_of_every_length_that_fits_passes_from_python_to_rust() {
    for (block, room) in [(1, 56), (64, 56), (128, 120), (192, 184), (1024, 1016)] {
        for len in [1, room - 64 % room, room - 1, room] {
            let name = Name::new("interop-metadata-python");
            let reader = Reader::create(&name.0, &BufferConfig::new(block, RING)).unwrap();
            let metadata: String = ('!'..='~').cycle().take(len).collect();
            // Ours says hello at the end of the block: it stands in nobody's way.
            python_writer(&name, 5, &[100], &metadata, &[]).succeed();
            read_all(&reader, 2, &[100]);
            assert_eq!(reader.metadata().unwrap().unwrap(), metadata.as_bytes());
            // Nor does what a writer of ours does with the hello harm the metadata.
            let writer = Writer::attach(&name.0).unwrap();
            assert!(matches!(
                writer.set_metadata(b"more"),
                Err(Error::MetadataAlreadyWritten { .. })
            ));
            drop(writer);
            for i in 2..5 {
                read_expected(&reader, i, &[100]);
            }
            assert_eq!(reader.metadata().unwrap().unwrap(), metadata.as_bytes());
            drop(reader);
            name.assert_nothing_left();
        }
    }
}

#[test]
fn metadata_of_every_length_that_fits_passes_from_rust_to_python() {
    let _sweeping = sweeping();
    for (block, len) in [
        (1, 0),
        (1, 56),
        (64, 1),
        (128, 56),
        (128, 120),
        (1024, 1016),
    ] {
        let name = Name::new("interop-metadata-rust");
        let metadata: String = ('!'..='~').cycle().take(len).collect();
        let reader = python_reader(&name, [block, RING], 5, LONG_S);
        let (text, expected) = match len {
            0 => ("-", Value::Null),
            _ => (&metadata[..], metadata.clone().into()),
        };
        rust_writer(&name, 5, &[100], text).succeed();
        let mut lines = reader.succeed();
        assert_eq!(lines.pop().as_deref(), Some("done"));
        assert_read(&lines, 5, &[100], expected);
        name.remove_what_python_leaves();
        name.assert_nothing_left();
    }
}

#[test]
fn python_overwrites_no_frame_that_rust_holds_whatever_the_order_of_release() {
    let name = Name::new("interop-held");
    let sizes = changing_sizes(997, 1500);
    let reader = Reader::create(&name.0, &BufferConfig::new(64, RING)).unwrap();
    let writer = python_writer(&name, FRAMES, &sizes, "-", &[]);
    let mut held: Vec<(usize, Frame)> = Vec::new();
    let check = |(i, frame): (usize, Frame)| {
        assert!(frame[..] == content(i, &sizes), "frame {i} was overwritten");
    };
    for i in 0..FRAMES {
        held.push((i, read_expected(&reader, i, &sizes)));
        // Two or three stay; the newest go first as often as the oldest.
        if held.len() > 2 + i % 2 {
            check(held.remove(i * 7 % held.len()));
        }
    }
    writer.succeed();
    held.into_iter().for_each(check);
    assert_writer_closed(&reader);
    assert_eq!(reader.used_bytes(), 0);
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn test_patterns_are_those_of_the_python_package() {
    let cases = [
        (1, 0),
        (1, 255),
        (255, 1),
        (256, 256),
        (1000, 77),
        (5000, 1 << 40),
    ];
    let mut command = python::script("zb_py_patterns.py");
    for (size, sequence) in cases {
        command.args([size.to_string(), sequence.to_string()]);
    }
    let lines = Process::start(command).succeed();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let ours: Vec<_> = cases
        .iter()
        .flat_map(|&(size, sequence)| {
            [
                hex(&frame_data(size, sequence)),
                hex(&testing::simple_frame_data(size)),
                hex(&testing::metadata(size)),
            ]
        })
        .collect();
    assert!(lines == ours);
}
