//! Readers and writers as real processes that start, stop and die as they like, and threads that
//! share them.

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use gstzerobuffer::{BufferConfig, Error, Interrupt, Reader, Wait, Writer, WriterState, testing};
use nix::sys::signal::Signal;

use support::raw::Raw;
use support::{LONG, Name, Running, again, example, pattern};

const METADATA: &str = "about the frames";

fn reader(name: &str, payload: u64) -> Reader {
    Reader::create(name, &BufferConfig::new(1024, payload)).unwrap()
}

fn zb_read(name: &str, payload: u64) -> Running {
    let child = Running::start(example("zb_read").args([
        name,
        "1024",
        &payload.to_string(),
        "0",
        &LONG.as_secs().to_string(),
    ]));
    wait_for_buffer(name);
    child
}

fn zb_write(name: &str, frames: u64, sizes: &[usize], metadata: &str, fps: u32) -> Running {
    let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
    Running::start(example("zb_write").args([
        name,
        &frames.to_string(),
        &sizes.join(","),
        metadata,
        &fps.to_string(),
    ]))
}

fn wait_for_buffer(name: &str) {
    while Raw::try_open(name).is_none() {
        thread::yield_now();
    }
}

/// Reads what `zb_read` prints and compares it with what `zb_write` wrote.
fn expect_frames(out: &str, frames: u64, sizes: &[usize]) {
    let mut lines = out.lines();
    for (i, size) in (0..frames).zip(sizes.iter().cycle()) {
        let line: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        let crc = crc32fast::hash(&testing::frame_data(*size, i));
        assert_eq!(
            (&line["seq"], &line["size"], &line["crc32"]),
            (&(i + 1).into(), &(*size).into(), &crc.into())
        );
    }
    assert_eq!(lines.next(), Some(r#"{"metadata":"about the frames"}"#));
    assert_eq!(lines.next(), None);
}

/// Whether the process is stopped by a signal.
fn is_stopped(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let state = stat.rsplit(')').next().unwrap().trim_start();
    state.starts_with('T')
}

#[test]
fn thousands_of_frames_of_changing_size_pass_from_process_to_process() {
    let name = Name::new("processes-crc");
    let sizes = [1, 1000, 70_000, 33, 4096, 150_000, 15, 16, 17, 99_999];
    let read = zb_read(&name, 320_000);
    let write = zb_write(&name, 4000, &sizes, METADATA, 0);
    // Its output is read on, or it would stop.
    let read = read.wait().expect_success();
    write.wait().expect_success();
    expect_frames(&read.out, 4000, &sizes);
}

#[test]
fn times_and_caps_pass_from_process_to_process() {
    let name = Name::new("processes-records");
    let read = zb_read(&name, 4096);
    let sizes = [100, 200];
    let args = [&*name, "100", "100,200", METADATA, "1000"];
    let caps = ["small, n=(int)1", "médium", "large \"quoted\""];
    let write = Running::start(example("zb_write").args(args).args(caps));
    write.wait().expect_success();
    let read = read.wait().expect_success();
    let mut lines = read.out.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line
    });
    for (i, size) in (0..100).zip(sizes.iter().cycle()) {
        // 34, 33 and 33 frames.
        if let Some(part) = [0, 34, 67].iter().position(|first| *first == i) {
            assert_eq!(
                lines.next().unwrap(),
                serde_json::json!({"caps": caps[part]})
            );
        }
        let crc = crc32fast::hash(&testing::frame_data(*size, i));
        let frame = serde_json::json!({
            "seq": i + 1, "size": size, "crc32": crc, "pts": i * 1_000_000,
        });
        assert_eq!(lines.next().unwrap(), frame);
    }
    assert_eq!(
        lines.next().unwrap(),
        serde_json::json!({"metadata": METADATA})
    );
    assert_eq!(lines.next(), None);
}

#[test]
fn frames_and_metadata_pass_through_a_chain_of_processes() {
    let [a, b, c] = ["a", "b", "c"].map(|end| Name::new(&format!("processes-chain-{end}")));
    let relay = |input: &Name, output: &Name| {
        let child = Running::start(example("zb_relay").args([&**input, output, "1024", "100000"]));
        wait_for_buffer(input);
        child
    };
    let sizes = [40_000, 1, 12_345, 48_000];
    let read = zb_read(&c, 100_000);
    let relays = [relay(&b, &c), relay(&a, &b)];
    let write = zb_write(&a, 2000, &sizes, METADATA, 0);
    let read = read.wait().expect_success();
    write.wait().expect_success();
    for relay in relays {
        relay.wait().expect_success();
    }
    expect_frames(&read.out, 2000, &sizes);
}

#[test]
fn a_reader_gets_all_frames_of_a_writer_that_is_killed_and_then_those_of_the_next() {
    let name = Name::new("processes-kill-writer");
    let len = |i: u64| 1 + (i * 7919 % 3000) as usize;
    if let Some(name) = support::role() {
        let writer = Writer::attach(&name).unwrap();
        for i in 1.. {
            writer.write_frame_wait(&pattern(len(i), i), LONG).unwrap();
        }
    }
    let reader = reader(&name, 1 << 14);
    for round in 0..10 {
        let mut child = Some(Running::start(&mut again(
            "a_reader_gets_all_frames_of_a_writer_that_is_killed_and_then_those_of_the_next",
            &name,
        )));
        let pid = child.as_ref().unwrap().pid();
        let mut i = 1;
        loop {
            // Held for a while, so that the writer stands at any point when it is killed.
            let frame = match reader.read_frame(LONG) {
                Ok(frame) => frame,
                // The one before, until this one is there.
                Err(Error::WriterDead { pid: dead, .. }) if dead != pid && i == 1 => continue,
                Err(Error::WriterDead { pid: dead, .. }) => {
                    assert_eq!(dead, pid);
                    assert!(child.is_none() && i > 100);
                    break;
                }
                Err(err) => panic!("round {round}, frame {i}: {err}"),
            };
            assert_eq!(frame.sequence(), i, "round {round}");
            assert_eq!(*frame, pattern(len(i), i), "round {round}, frame {i}");
            if i == 100 + round * 13 {
                child.take().unwrap().kill();
                assert_eq!(reader.writer(), WriterState::Dead { pid });
            }
            i += 1;
        }
        assert_eq!(reader.used_bytes(), 0, "round {round}");
    }
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn a_writer_learns_that_its_reader_was_killed_and_a_new_reader_gets_the_name() {
    let name = Name::new("processes-kill-reader");
    let mut child = zb_read(&name, 10_000);
    let pid = child.pid();
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    for i in 0..100 {
        writer.write_frame_wait(&pattern(3000, i), LONG).unwrap();
    }
    for _ in 0..10 {
        assert!(child.line().unwrap().starts_with("{\"seq\":"));
    }
    child.kill();
    let end = loop {
        match writer.write_frame_wait(&pattern(3000, 0), LONG) {
            Ok(_) => {}
            Err(err) => break err,
        }
    };
    assert!(
        matches!(end, Error::ReaderDead { pid: dead, .. } if dead == pid),
        "{end}"
    );
    let none = Writer::attach(&name);
    assert!(matches!(none, Err(Error::ReaderDead { .. })), "{none:?}");
    assert_eq!(
        name.objects().len(),
        4,
        "a killed process leaves everything"
    );

    let reader = reader(&name, 20_000);
    // The old writer is of the old buffer: what it may still write does not come into this one.
    assert!(!writer.is_reader_connected());
    let _ = writer.write_frame_wait(b"old", Wait::no());
    assert_eq!(reader.used_bytes(), 0);
    drop(writer);
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(b"new").unwrap();
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"new");
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn a_writer_may_be_started_again_and_again_with_one_reader() {
    let name = Name::new("processes-restart");
    let reader = reader(&name, 100_000);
    let sizes = [20_000, 7];
    for frames in [300, 1, 40] {
        let first = frames == 300;
        let write = zb_write(&name, frames, &sizes, if first { METADATA } else { "-" }, 0);
        for (i, size) in (0..frames).zip(sizes.iter().cycle()) {
            let frame = loop {
                match reader.read_frame(LONG) {
                    // The one before, until this one is there.
                    Err(Error::WriterClosed { .. }) if i == 0 => {}
                    other => break other.unwrap(),
                }
            };
            assert_eq!(frame.sequence(), i + 1);
            assert_eq!(*frame, testing::frame_data(*size, i));
        }
        let end = reader.read_frame(LONG);
        assert!(matches!(end, Err(Error::WriterClosed { .. })), "{end:?}");
        write.wait().expect_success();
    }
    // Metadata is that of the first writer for the life of the buffer.
    let again = zb_write(&name, 1, &sizes, "other", 0).wait();
    assert_eq!(again.status.code(), Some(1));
    assert!(again.err.contains("has already been written"), "{again:?}");
    assert_eq!(
        reader.metadata().unwrap().as_deref(),
        Some(METADATA.as_bytes())
    );
}

#[test]
fn an_interrupt_ends_the_wait_of_a_writer_whose_reader_is_stopped() {
    let name = Name::new("processes-stop-reader");
    let read = zb_read(&name, 10_000);
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    read.stop();
    let interrupt = Interrupt::new();
    let before = writer.waits();
    let (written, end) = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for written in 0.. {
                let wait = Wait::forever().interrupted_by(&interrupt);
                if let Err(err) = writer.write_frame_wait(&pattern(3000, written), wait) {
                    return (written, err);
                }
            }
            unreachable!()
        });
        while writer.waits() == before {
            thread::yield_now();
        }
        interrupt.set();
        writing.join().unwrap()
    });
    assert!(matches!(end, Error::Interrupted), "{end}");
    assert!(is_stopped(read.pid()));
    assert!(writer.is_reader_connected(), "stopped is not dead");
    // Nothing is lost by it.
    read.signal(Signal::SIGCONT);
    interrupt.clear();
    writer
        .write_frame_wait(&pattern(3000, written), LONG)
        .unwrap();
    drop(writer);
    let read = read.wait().expect_success();
    let sequences: Vec<u64> = read
        .out
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64())
        .collect();
    assert_eq!(sequences, (1..=written + 1).collect::<Vec<_>>());
}

#[test]
fn an_interrupt_ends_the_wait_of_a_reader_whose_writer_is_stopped() {
    let name = Name::new("processes-stop-writer");
    let reader = reader(&name, 10_000);
    let write = zb_write(&name, u64::MAX, &[1000], "-", 50);
    drop(reader.read_frame(LONG).unwrap());
    write.stop();
    let interrupt = Interrupt::new();
    let end = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            loop {
                let wait = Wait::forever().interrupted_by(&interrupt);
                if let Err(err) = reader.read_frame(wait) {
                    return err;
                }
            }
        });
        // What it wrote before it was stopped is read.
        while reader.used_bytes() > 0 {
            thread::yield_now();
        }
        interrupt.set();
        reading.join().unwrap()
    });
    assert!(matches!(end, Error::Interrupted), "{end}");
    assert!(is_stopped(write.pid()));
    assert!(reader.is_writer_connected(), "stopped is not dead");
    write.signal(Signal::SIGCONT);
    drop(reader.read_frame(LONG).unwrap());
}

#[test]
fn a_second_writer_is_refused_while_the_first_lives() {
    let name = Name::new("processes-two-writers");
    let reader = reader(&name, 10_000);
    let first = zb_write(&name, u64::MAX, &[1000], "-", 100);
    drop(reader.read_frame(LONG).unwrap());
    let pid = first.pid();
    let second = Writer::attach(&name);
    assert!(
        matches!(second, Err(Error::WriterAlreadyConnected { pid: Some(other), .. }) if other == pid),
        "{second:?}"
    );
    let second = zb_write(&name, 1, &[1], "-", 0).wait();
    assert_eq!(second.status.code(), Some(1));
    let text = format!("already has a writer (pid {pid})");
    assert!(second.err.contains(&text), "{second:?}");
    // It did the first one no harm.
    assert_eq!(reader.writer(), WriterState::Connected { pid });
    drop(reader.read_frame(LONG).unwrap());
    first.kill();
    Writer::attach(&name).unwrap();
}

#[test]
fn of_many_readers_that_start_at_once_one_gets_the_name() {
    let name = Name::new("processes-two-readers");
    if let Some(name) = support::role() {
        support::listen();
        let reader = Reader::create(&name, &BufferConfig::default());
        support::say(match &reader {
            Ok(_) => "made",
            Err(Error::ReaderAlreadyConnected { .. }) => "refused",
            Err(err) => panic!("{err}"),
        });
        support::listen();
        return;
    }
    for _ in 0..10 {
        let mut children: Vec<_> = (0..4)
            .map(|_| {
                Running::start(&mut again(
                    "of_many_readers_that_start_at_once_one_gets_the_name",
                    &name,
                ))
            })
            .collect();
        for child in &mut children {
            child.tell("go");
        }
        let said: Vec<String> = children.iter_mut().map(Running::hear).collect();
        let made = said.iter().filter(|said| *said == "made").count();
        assert_eq!(made, 1, "{said:?}");
        // And it is whole.
        assert_eq!(name.objects().len(), 4);
        Writer::attach(&name).unwrap();
        for child in children {
            child.wait().expect_success();
        }
        name.assert_nothing_left();
    }
}

#[test]
fn a_name_is_free_again_at_once_and_readers_in_a_row_do_not_disturb_each_other() {
    let name = Name::new("processes-row");
    let made = AtomicU64::new(0);
    let try_it = || {
        while made.load(Ordering::Relaxed) < 300 {
            match Reader::create(&name, &BufferConfig::new(64, 64)) {
                Ok(_reader) => {
                    // Nobody takes it from us while we have it.
                    Writer::attach(&name).unwrap();
                    made.fetch_add(1, Ordering::Relaxed);
                }
                Err(Error::ReaderAlreadyConnected { .. }) => {}
                Err(err) => panic!("{err}"),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(try_it);
        }
    });
    name.assert_nothing_left();
}

#[test]
fn threads_share_a_reader_and_a_writer() {
    const THREADS: u64 = 4;
    const EACH: u64 = 2000;
    let name = Name::new("processes-threads");
    let reader = reader(&name, 20_000);
    let writer = Writer::attach(&name).unwrap();
    let content = |id: u64| {
        let mut data = pattern(8 + (id * 37 % 1500) as usize, id);
        data[..8].copy_from_slice(&id.to_le_bytes());
        data
    };
    // The ids by sequence number, as they were written and as they were read.
    let (written, read) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let writing: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (writer, written) = (&writer, &written);
                scope.spawn(move || {
                    for i in 0..EACH {
                        let id = thread * EACH + i;
                        let data = content(id);
                        let sequence = if i % 3 == 0 {
                            let mut place = writer.reserve(data.len() as u64, LONG).unwrap();
                            // One that is given up leaves no trace.
                            if i % 6 == 0 {
                                place.fill(0xee);
                                drop(place);
                                place = writer.reserve(data.len() as u64, LONG).unwrap();
                            }
                            place.copy_from_slice(&data);
                            place.commit().unwrap()
                        } else {
                            writer.write_frame_wait(&data, LONG).unwrap()
                        };
                        written.lock().unwrap().push((sequence, id));
                    }
                })
            })
            .collect();
        for thread in 0..THREADS {
            let (reader, read) = (&reader, &read);
            scope.spawn(move || {
                let check = |frame: &[u8]| {
                    let id = u64::from_le_bytes(frame[..8].try_into().unwrap());
                    assert_eq!(frame, content(id));
                    id
                };
                for frame in reader.frames(LONG) {
                    let mut held = vec![frame.unwrap()];
                    // Some more if they are there. Who held one while waiting for another could
                    // wait for ever: the ring may be full of what came after it.
                    for _ in 0..thread {
                        held.extend(reader.read_frame(Wait::no()));
                    }
                    let ids = held.iter().map(|frame| (frame.sequence(), check(frame)));
                    read.lock().unwrap().extend(ids);
                    while !held.is_empty() {
                        let frame = held.swap_remove(held.len() / 2);
                        check(&frame);
                    }
                }
            });
        }
        for thread in writing {
            thread.join().unwrap();
        }
        writer.close();
    });
    let sorted = |list: Mutex<Vec<(u64, u64)>>| {
        let mut list = list.into_inner().unwrap();
        list.sort();
        list
    };
    let (written, read) = (sorted(written), sorted(read));
    assert_eq!(written, read);
    let sequences: Vec<u64> = read.into_iter().map(|(sequence, _)| sequence).collect();
    assert_eq!(sequences, (1..=THREADS * EACH).collect::<Vec<_>>());
    assert_eq!((reader.used_bytes(), reader.frames_held()), (0, 0));
}

#[test]
fn frames_outlive_their_reader_and_go_in_any_order_from_any_thread() {
    let name = Name::new("processes-outlive");
    let reader = reader(&name, 100_000);
    let writer = Writer::attach(&name).unwrap();
    let mut frames = Vec::new();
    for i in 0..60 {
        writer.write_frame(&pattern(1000, i)).unwrap();
        frames.push((reader.read_frame(LONG).unwrap(), i));
    }
    drop(reader);
    name.assert_nothing_left();
    let end = writer.write_frame(b"more");
    assert!(matches!(end, Err(Error::ReaderClosed { .. })), "{end:?}");
    drop(writer);
    // Somebody else has the name by now.
    let next = self::reader(&name, 1000);
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(b"of the next").unwrap();
    let mut parts: Vec<Vec<_>> = (0..6).map(|_| Vec::new()).collect();
    for (at, frame) in frames.into_iter().enumerate() {
        parts[at * 5 % 6].push(frame);
    }
    thread::scope(|scope| {
        for mut part in parts {
            scope.spawn(move || {
                while !part.is_empty() {
                    let (frame, i) = part.swap_remove(part.len() / 2);
                    assert_eq!(*frame, pattern(1000, i));
                    drop(frame);
                    thread::yield_now();
                }
            });
        }
    });
    assert_eq!(name.raw().get(support::raw::FREE), 1024 - 27);
    assert_eq!(&*next.read_frame(LONG).unwrap(), b"of the next");
}

#[test]
fn a_stream_ends_cleanly_when_the_writer_leaves_while_the_reader_is_busy() {
    let name = Name::new("processes-end");
    for round in 0..300 {
        let reader = reader(&name, 1 << 14);
        let frames = 1 + round % 7;
        thread::scope(|scope| {
            scope.spawn(|| {
                let writer = Writer::attach(&name).unwrap();
                for i in 0..frames {
                    writer.write_frame(&pattern(50, i)).unwrap();
                }
            });
            let mut sequences = Vec::new();
            for frame in reader.frames(LONG) {
                sequences.push(frame.unwrap().sequence());
            }
            assert_eq!(sequences, (1..=frames).collect::<Vec<_>>(), "{round}");
        });
    }
}
