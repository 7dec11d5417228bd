//! One test for each fault of the published ZeroBuffer implementations: we are free of it, and
//! survive it in a peer. The numbers are those of `docs/protocol.md`, "Faults of others".

mod support;

use std::collections::VecDeque;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gstzerobuffer::{BufferConfig, Error, Reader, Wait, Writer, WriterState};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use support::raw::{self, RawSem};
use support::v1::{V1Reader, V1Writer, assert_left_alone};
use support::{LONG, Name, Nobody, Running, again, example, is_root, pattern, unshare, within};

fn reader(name: &str, metadata: u64, payload: u64) -> Reader {
    Reader::create(name, &BufferConfig::new(metadata, payload)).unwrap()
}

/// A reader and a writer of ours, so with everything that goes beyond v1.
fn pair(name: &str, payload: u64) -> (Reader, Writer) {
    let reader = reader(name, 1024, payload);
    (reader, Writer::attach(name).unwrap())
}

fn must_be_full(result: Result<u64, Error>) {
    assert!(
        matches!(result, Err(Error::BufferFull { .. })),
        "{result:?}"
    );
}

/// A small generator of numbers, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn fault_01_a_wrap_counts_its_waste_before_it_overwrites_unread_frames() {
    let name = Name::new("fault-01");
    let (reader, writer) = pair(&name, 1024);
    let (a, b, c) = (pattern(384, 1), pattern(384, 2), pattern(484, 3));
    writer.write_frame(&a).unwrap();
    writer.write_frame(&b).unwrap();
    assert_eq!(*reader.read_frame(LONG).unwrap(), a);
    // 624 bytes are free and 500 are needed, but 224 of the free ones are the tail; C would end
    // inside of B.
    must_be_full(writer.write_frame_wait(&c, Wait::no()));
    assert_eq!(*reader.read_frame(LONG).unwrap(), b);
    writer.write_frame(&c).unwrap();
    assert_eq!(*reader.read_frame(LONG).unwrap(), c);
}

#[test]
fn fault_01_five_thousand_frames_through_ten_kibibytes_without_a_pause() {
    let name = Name::new("fault-01-run");
    let (reader, writer) = pair(&name, 10 << 10);
    let len = |i: u64| {
        if i.is_multiple_of(2) {
            1024
        } else {
            700 + (i % 900) as usize
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..5000 {
                writer.write_frame_wait(&pattern(len(i), i), LONG).unwrap();
            }
            writer.close();
        });
        // The frames of the last moments stay held, and are looked at again when they go.
        let mut held = VecDeque::new();
        for i in 0..5000 {
            let frame = reader.read_frame(LONG).unwrap();
            assert_eq!(frame.sequence(), i + 1);
            held.push_back((frame, i));
            if held.len() > (i % 4) as usize {
                let (frame, i) = held.pop_front().unwrap();
                assert_eq!(*frame, pattern(len(i), i), "frame {i}");
            }
        }
        for (frame, i) in held {
            assert_eq!(*frame, pattern(len(i), i), "frame {i}");
        }
    });
    assert_eq!(reader.used_bytes(), 0);
}

#[test]
fn fault_02_no_change_of_the_free_bytes_is_lost_when_both_ends_make_one_at_once() {
    let name = Name::new("fault-02");
    let (reader, writer) = pair(&name, 1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100_000 {
                writer.write_frame_wait(&[1], LONG).unwrap();
            }
        });
        for _ in 0..100_000 {
            reader.read_frame(LONG).unwrap();
        }
    });
    assert_eq!(name.raw().get(raw::FREE), 1 << 20);
}

#[test]
fn fault_03_a_frame_released_before_an_earlier_one_gives_nothing_back() {
    let name = Name::new("fault-03");
    let (reader, writer) = pair(&name, 1024);
    for i in 0..2 {
        writer.write_frame(&pattern(384, i)).unwrap();
    }
    let first = reader.read_frame(LONG).unwrap();
    drop(reader.read_frame(LONG).unwrap());
    assert_eq!(name.raw().get(raw::FREE), 224);
    assert_eq!(RawSem::open('r', &name).count(), 0);
    must_be_full(writer.write_frame_wait(&pattern(300, 9), Wait::no()));
    assert_eq!(*first, pattern(384, 0));
    drop(first);
    assert_eq!(name.raw().get(raw::FREE), 1024);
    assert_eq!(RawSem::open('r', &name).count(), 2, "one post a frame");
}

#[test]
fn fault_03_the_waste_of_a_wrap_goes_back_with_the_frame_behind_it() {
    let name = Name::new("fault-03-wrap");
    let (reader, writer) = pair(&name, 1024);
    for i in 0..2 {
        writer.write_frame(&pattern(384, i)).unwrap();
    }
    drop(reader.read_frame(LONG).unwrap());
    let second = reader.read_frame(LONG).unwrap();
    writer.write_frame(&pattern(100, 2)).unwrap();
    writer.write_frame(&pattern(300, 3)).unwrap();
    assert_eq!(name.raw().header(800 + 116), (0, 0), "a wrap marker");
    let third = reader.read_frame(LONG).unwrap();
    let wrapped = reader.read_frame(LONG).unwrap();
    let free = name.raw().get(raw::FREE);
    drop(wrapped);
    drop(third);
    assert_eq!(name.raw().get(raw::FREE), free, "frame 2 is held");
    assert_eq!(*second, pattern(384, 1));
    drop(second);
    assert_eq!(name.raw().get(raw::FREE), 1024);
}

#[test]
fn fault_04_our_reader_goes_on_at_the_start_behind_a_tail_too_short_for_a_marker() {
    for tail in 1..16 {
        let name = Name::new("fault-04-reader");
        let reader = reader(&name, 64, 1024);
        let mut writer = V1Writer::attach(&name, 1);
        let (a, b) = (pattern(500, 1), pattern(508 - 16 - tail, 2));
        writer.write(&a);
        writer.write(&b);
        assert_eq!(*reader.read_frame(LONG).unwrap(), a);
        assert_eq!(*reader.read_frame(LONG).unwrap(), b);
        // What is in the tail must not matter.
        let raw = name.raw();
        raw.write(raw.payload_start() + 1024 - tail as u64, &vec![0xff; tail]);
        writer.write_at_start(&pattern(300, 3));
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(300, 3));
        assert_eq!(raw.get(raw::FREE), 1024, "the tail of {tail} came back");
        assert_eq!(raw.get(raw::READ_POS), 316);
        assert_eq!(raw.get(raw::READ_COUNT), 3, "no marker was read in it");
    }
}

#[test]
fn fault_04_our_writer_leaves_a_v1_reader_no_tail_too_short_for_a_marker() {
    let name = Name::new("fault-04-writer");
    // The rule has to come from what the reader is, not from luck with sizes.
    let mut numbers = Numbers(4);
    let mut reader = V1Reader::create(&name, 1024, 1024);
    let writer = Writer::attach(&name).unwrap();
    let mut written = VecDeque::new();
    for i in 0..5000 {
        let data = pattern(1 + numbers.below(480) as usize, i);
        loop {
            match writer.write_frame_wait(&data, Wait::no()) {
                Ok(_) => break,
                Err(Error::BufferFull { .. }) => {
                    assert_eq!(reader.read(), written.pop_front());
                }
                Err(err) => panic!("{err}"),
            }
        }
        let tail = 1024 - reader.raw.get(raw::WRITE_POS);
        assert!(
            !(1..16).contains(&tail),
            "frame {i} leaves a tail of {tail}"
        );
        written.push_back(data);
    }
    while let Some(data) = reader.read() {
        assert_eq!(Some(data), written.pop_front());
    }
    assert_eq!(written.len(), 0);
    assert_eq!(reader.raw.get(raw::FREE), 1024);
}

#[test]
fn fault_04_our_writer_uses_such_a_tail_with_our_reader() {
    let name = Name::new("fault-04-own");
    let (reader, writer) = pair(&name, 1024);
    for (i, len) in (0..).zip([500, 485, 300]) {
        writer.write_frame(&pattern(len, i)).unwrap();
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(len, i));
    }
    // 1024 − 516 − 501 = 7
    assert_eq!(name.raw().get(raw::WRITTEN_COUNT), 3, "no marker");
    assert_eq!(name.raw().get(raw::FREE), 1024);
}

#[test]
fn fault_05_a_frame_that_can_never_pass_is_refused_at_once_with_a_size_that_would_do() {
    let name = Name::new("fault-05");
    let (reader, writer) = pair(&name, 1024);
    writer.write_frame(&pattern(64, 0)).unwrap();
    drop(reader.read_frame(LONG).unwrap());
    // All is free, and there is time enough to wait.
    let good = match writer.write_frame_wait(&pattern(1000, 1), LONG) {
        Err(Error::FrameCannotPass {
            size: 1000,
            payload_size: 1024,
            position: 80,
            good_size,
            ..
        }) => good_size,
        other => panic!("{other:?}"),
    };
    match writer.write_frame_wait(&pattern(1009, 1), LONG) {
        Err(Error::FrameTooLarge { good_size, .. }) => assert!(good_size >= good),
        other => panic!("{other:?}"),
    }
    // Nothing is spoilt: what fits goes on.
    writer.write_frame(&pattern(500, 2)).unwrap();
    assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(500, 2));
    drop((reader, writer));

    let (reader, writer) = pair(&name, good);
    for i in 0..100 {
        let data = pattern(if i % 3 == 0 { 64 } else { 1000 }, i);
        writer.write_frame_wait(&data, LONG).unwrap();
        assert_eq!(*reader.read_frame(LONG).unwrap(), data);
    }
}

#[test]
fn fault_05_a_frame_larger_than_half_the_ring_passes_wherever_the_wire_allows_it() {
    let name = Name::new("fault-05-half");
    let (reader, writer) = pair(&name, 1024);
    // From 80 there are 944 bytes to the end; from the end it wraps over nothing.
    for (i, len) in (0..).zip([64, 928, 1008, 1008]) {
        writer.write_frame_wait(&pattern(len, i), LONG).unwrap();
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(len, i));
    }
    assert_eq!(name.raw().get(raw::FREE), 1024);
}

#[test]
fn fault_06_a_frame_that_fits_exactly_ends_where_the_ring_ends() {
    let name = Name::new("fault-06");
    let (reader, writer) = pair(&name, 1024);
    let raw = name.raw();
    for (i, len) in (0..).zip([1008, 1008, 496, 496, 240, 752]) {
        let data = pattern(len, i);
        let (last, metadata) = (writer.write_frame(&data).unwrap(), raw.bytes(128, 1024));
        assert_eq!(last, i + 1);
        assert_eq!(raw.len(), 128 + 1024 + 1024);
        let end = raw.get(raw::WRITE_POS);
        assert!(end <= 1024);
        assert_eq!(raw.bytes(raw.payload_start() + end - len as u64, len), data);
        let frame = reader.read_frame(LONG).unwrap();
        assert_eq!(*frame, data);
        drop(frame);
        assert_eq!(raw.bytes(128, 1024), metadata);
        assert_eq!(raw.get(raw::FREE), 1024);
    }
    assert_eq!(raw.get(raw::WRITTEN_COUNT), 6, "no marker was needed");
    // One byte more than fits.
    for (i, len) in (6..).zip([500, 493]) {
        writer.write_frame(&pattern(len, i)).unwrap();
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(len, i));
    }
    assert_eq!(raw.get(raw::WRITE_POS), 509, "wrapped");
    drop((reader, writer));

    let mut v1 = V1Reader::create(&name, 64, 1024);
    let writer = Writer::attach(&name).unwrap();
    for (i, len) in (0..).zip([1008, 496, 496, 1008]) {
        writer.write_frame(&pattern(len, i)).unwrap();
        assert_eq!(v1.read(), Some(pattern(len, i)));
    }
}

#[test]
fn fault_07_the_last_frames_of_a_writer_that_closed_are_delivered() {
    let name = Name::new("fault-07");
    let (reader, writer) = pair(&name, 4096);
    for i in 0..3 {
        writer.write_frame(&pattern(100, i)).unwrap();
    }
    drop(writer);
    assert_eq!(name.raw().get(raw::WRITER_PID), 0);
    assert_eq!(reader.writer(), WriterState::Closed);
    for i in 0..3 {
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(100, i));
    }
    for _ in 0..2 {
        let end = reader.read_frame(LONG);
        assert!(matches!(end, Err(Error::WriterClosed { .. })), "{end:?}");
    }
}

#[test]
fn fault_07_the_last_frames_of_a_writer_that_died_are_delivered() {
    let name = Name::new("fault-07-dead");
    if let Some(name) = support::role() {
        let writer = Writer::attach(&name).unwrap();
        for i in 0..3 {
            writer.write_frame(&pattern(100, i)).unwrap();
        }
        support::say("written");
        support::listen();
        return;
    }
    let reader = reader(&name, 1024, 4096);
    let mut child = Running::start(&mut again(
        "fault_07_the_last_frames_of_a_writer_that_died_are_delivered",
        &name,
    ));
    assert_eq!(child.hear(), "written");
    let pid = child.pid();
    assert_eq!(reader.writer(), WriterState::Connected { pid });
    child.kill();
    assert_eq!(reader.writer(), WriterState::Dead { pid });
    for i in 0..3 {
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(100, i));
    }
    let end = reader.read_frame(LONG);
    assert!(matches!(end, Err(Error::WriterDead { pid: dead, .. }) if dead == pid));
}

#[test]
fn fault_07_a_reader_to_whom_no_writer_came_waits_for_one() {
    let name = Name::new("fault-07-none");
    let reader = reader(&name, 1024, 4096);
    assert_eq!(reader.writer(), WriterState::None);
    let none = reader.read_frame(Duration::from_millis(100));
    assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(b"late").unwrap();
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"late");
}

#[test]
fn fault_08_a_new_writer_may_start_again_at_one() {
    // Whether or not the reader looks between the writers, with and without our extension.
    for (metadata, looks) in [(1024, false), (1024, true), (64, true)] {
        let name = Name::new("fault-08");
        let reader = reader(&name, metadata, 4096);
        let mut sequences = Vec::new();
        for frames in [3, 1, 2] {
            let writer = Writer::attach(&name).unwrap();
            for i in 0..frames {
                writer.write_frame(&pattern(50, i)).unwrap();
            }
            drop(writer);
            if looks {
                for frame in reader.frames(LONG) {
                    sequences.push(frame.unwrap().sequence());
                }
            }
        }
        for frame in reader.frames(LONG) {
            sequences.push(frame.unwrap().sequence());
        }
        assert_eq!(sequences, [1, 2, 3, 1, 1, 2], "{metadata} {looks}");
    }
}

#[test]
fn fault_08_the_same_writer_may_not_start_again() {
    // In a process with more readers than a user has inotify instances, as a rule.
    let others: Vec<Name> = (0..150).map(|_| Name::new("fault-08-other")).collect();
    let _others: Vec<Reader> = others.iter().map(|name| reader(name, 64, 4096)).collect();
    let name = Name::new("fault-08-same");
    let (reader, writer) = pair(&name, 4096);
    for i in 0..3 {
        writer.write_frame(&pattern(84, i)).unwrap();
    }
    let raw = name.raw();
    raw.set(raw.payload_start() + 100 + 8, 1);
    assert_eq!(reader.read_frame(LONG).unwrap().sequence(), 1);
    for _ in 0..2 {
        let next = reader.read_frame(LONG);
        let expected = matches!(
            next,
            Err(Error::Sequence {
                expected: 2,
                found: 1,
                ..
            })
        );
        assert!(expected, "{next:?}");
    }
}

#[test]
fn fault_08_a_new_writer_may_not_start_anywhere_else() {
    let name = Name::new("fault-08-gap");
    let reader = reader(&name, 64, 4096);
    let mut writer = V1Writer::attach(&name, 1);
    writer.sequence = 5;
    writer.write(b"frame");
    let next = reader.read_frame(LONG);
    assert!(matches!(
        next,
        Err(Error::Sequence {
            expected: 1,
            found: 5,
            ..
        })
    ));
}

#[test]
fn fault_09_the_count_of_the_readers_semaphore_does_not_grow_while_nobody_has_to_wait() {
    let name = Name::new("fault-09");
    let (reader, writer) = pair(&name, 1 << 16);
    let sem_read = RawSem::open('r', &name);
    for i in 0..1000 {
        writer.write_frame(&pattern(10, i)).unwrap();
        drop(reader.read_frame(LONG).unwrap());
        assert!(sem_read.count() <= 1, "after {i} frames");
    }
    assert_eq!(writer.waits(), 0);
}

#[test]
fn fault_09_a_semaphore_at_its_maximum_stops_nobody() {
    const SEM_VALUE_MAX: u32 = i32::MAX as u32;
    let name = Name::new("fault-09-max");
    let (reader, writer) = pair(&name, 1024);
    let sem_read = RawSem::open('r', &name);
    for i in 0..10 {
        sem_read.set(SEM_VALUE_MAX);
        writer.write_frame(&pattern(300, i)).unwrap();
        // To take two thousand million counts would keep the writer for a minute.
        assert!(sem_read.count() > SEM_VALUE_MAX / 2);
        sem_read.set(SEM_VALUE_MAX);
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(300, i));
    }
    // The other one: a reader that does not take the posts does not stop the writer.
    let sem_write = RawSem::open('w', &name);
    sem_write.set(SEM_VALUE_MAX);
    writer.write_frame(&pattern(300, 1)).unwrap();
    assert_eq!(sem_write.count(), SEM_VALUE_MAX);
    assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(300, 1));
    // Nor do they keep the reader from the end of its time, from a frame, or from the writer's end:
    // one by one they would for minutes.
    for i in 2..5 {
        sem_write.set(SEM_VALUE_MAX);
        let none = reader.read_frame(Duration::from_millis(1));
        assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
        sem_write.set(SEM_VALUE_MAX);
        writer.write_frame(&pattern(300, i)).unwrap();
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(300, i));
    }
    sem_write.set(SEM_VALUE_MAX);
    drop(writer);
    let end = reader.read_frame(LONG);
    assert!(matches!(end, Err(Error::WriterClosed { .. })), "{end:?}");
}

#[test]
fn fault_09_posts_without_a_frame_are_no_frames() {
    let name = Name::new("fault-09-more");
    let (reader, writer) = pair(&name, 1024);
    RawSem::open('w', &name).set(3);
    let none = reader.read_frame(Wait::no());
    assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
    for i in 0..10 {
        writer.write_frame(&pattern(300, i)).unwrap();
        RawSem::open('w', &name).post();
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(300, i));
    }
}

#[test]
fn fault_10_a_blocked_reader_notices_that_the_writer_closes_and_no_post_tells_it() {
    let name = Name::new("fault-10");
    let (reader, writer) = pair(&name, 1024);
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let first = reader.read_frame(Wait::forever()).unwrap().len();
            (first, reader.read_frame(Wait::forever()))
        });
        writer.write_frame(b"frame").unwrap();
        while reader.frames_read() == 0 {
            thread::yield_now();
        }
        writer.close();
        let (first, end) = reading.join().unwrap();
        assert_eq!(first, 5);
        assert!(matches!(end, Err(Error::WriterClosed { .. })), "{end:?}");
    });
    let next = Writer::attach(&name).unwrap();
    next.write_frame(b"frame").unwrap();
    drop(next);
    // A post without a frame is what v1 readers take for a broken stream.
    assert_eq!(RawSem::open('w', &name).count(), 1);
}

#[test]
fn fault_10_a_blocked_writer_notices_that_the_reader_closes() {
    let name = Name::new("fault-10-writer");
    let (reader, writer) = pair(&name, 1024);
    writer.write_frame(&pattern(1000, 0)).unwrap();
    thread::scope(|scope| {
        let writing = scope.spawn(|| writer.write_frame_wait(&pattern(1000, 1), Wait::forever()));
        while writer.waits() == 0 {
            thread::yield_now();
        }
        reader.close();
        let end = writing.join().unwrap();
        assert!(matches!(end, Err(Error::ReaderClosed { .. })), "{end:?}");
    });
}

#[test]
fn fault_11_peers_in_different_pid_namespaces_know_each_other_alive_and_dead() {
    let name = Name::new("fault-11");
    if let Some(name) = support::role() {
        // The reader's pid is nobody's here.
        let writer = Writer::attach(&name).unwrap();
        assert!(writer.is_reader_connected());
        writer.write_frame(&pattern(1000, 0)).unwrap();
        support::say(&std::process::id().to_string());
        // Full: this wait looks at the reader again and again.
        writer.write_frame_wait(&pattern(1000, 1), LONG).unwrap();
        support::say("written");
        support::listen();
        return;
    }
    let reader = reader(&name, 1024, 1024);
    let command = again(
        "fault_11_peers_in_different_pid_namespaces_know_each_other_alive_and_dead",
        &name,
    );
    let wrapper = unshare(&["--pid", "--fork", "--kill-child"]);
    let mut child = Running::start(&mut within(&wrapper, &command));
    // The writer is 1 in its namespace; ours has a 1 too, which outlives it.
    assert_eq!(child.hear(), "1");
    assert_eq!(reader.writer(), WriterState::Connected { pid: 1 });
    assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(1000, 0));
    assert_eq!(child.hear(), "written");
    assert_eq!(reader.writer(), WriterState::Connected { pid: 1 });
    child.kill();
    assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(1000, 1));
    let end = reader.read_frame(LONG);
    assert!(
        matches!(end, Err(Error::WriterDead { pid: 1, .. })),
        "{end:?}"
    );
}

#[test]
fn fault_11_a_v1_writer_whose_pid_is_unknown_here_is_not_dead() {
    let name = Name::new("fault-11-v1");
    let reader = reader(&name, 64, 4096);
    // Larger than any pid of Linux: nobody's, as that of another namespace may be.
    let pid = 1 << 30;
    let mut writer = V1Writer::attach(&name, pid);
    assert_eq!(reader.writer(), WriterState::Connected { pid });
    for i in 0..3 {
        writer.write(&pattern(100, i));
        assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(100, i));
        let none = reader.read_frame(Duration::from_millis(50));
        assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
    }
    writer.close();
    let end = reader.read_frame(LONG);
    assert!(matches!(end, Err(Error::WriterClosed { .. })), "{end:?}");
}

#[test]
fn fault_11_v1_peers_of_another_user_are_alive() {
    let name = Name::new("fault-11-user");
    let attach = |name: &str| {
        let raw = raw::Raw::open(name);
        raw.set(raw::WRITER_PID, 1);
        let second = Writer::attach(name);
        assert!(
            matches!(second, Err(Error::WriterAlreadyConnected { .. })),
            "{second:?}"
        );
        raw.set(raw::WRITER_PID, 0);
        let writer = Writer::attach(name).unwrap();
        assert!(writer.is_reader_connected());
        writer.write_frame(b"frame").unwrap();
    };
    if let Some(name) = support::role() {
        return attach(&name);
    }
    let mut reader = V1Reader::create(&name, 1024, 1024);
    // Process 1 is root's: to send it a signal is refused to others, and it is there.
    reader.raw.set(raw::READER_PID, 1);
    if is_root() {
        let nobody = Nobody::new();
        let mut command = nobody.again("fault_11_v1_peers_of_another_user_are_alive", &name);
        Running::start(&mut command).wait().expect_success();
    } else {
        attach(&name);
    }
    assert_eq!(reader.read().as_deref(), Some(&b"frame"[..]));
}

extern "C" fn ignore(_: i32) {}

/// Sends `thread` signals, whose handler does nothing but make its system calls return EINTR, for
/// as long as `go_on` says.
fn pester<T>(thread: &thread::JoinHandle<T>, mut go_on: impl FnMut() -> bool) {
    let action = SigAction::new(
        SigHandler::Handler(ignore),
        // Without SA_RESTART.
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, which is safe at any point of any thread.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    while go_on() {
        // SAFETY: the thread has not been joined, so its handle is valid.
        let sent = unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
        assert_eq!(sent, 0);
        thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn fault_12_signals_are_no_timeout_and_no_error() {
    let name = Name::new("fault-12");
    let (reader, writer) = pair(&name, 1024);
    let mut running = thread::spawn(move || {
        let since = Instant::now();
        let timeout = Duration::from_millis(300);
        let none = reader.read_frame(timeout);
        assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
        assert!(since.elapsed() >= timeout, "{:?}", since.elapsed());
        reader
    });
    pester(&running, || !running.is_finished());
    let reader = running.join().unwrap();

    running = thread::spawn(move || {
        assert_eq!(reader.read_frame(LONG).unwrap().len(), 1000);
        reader
    });
    let mut signals = 0;
    pester(&running, || {
        signals += 1;
        if signals == 300 {
            writer.write_frame(&pattern(1000, 0)).unwrap();
        }
        !running.is_finished()
    });
    let reader = running.join().unwrap();

    writer.write_frame(&pattern(1000, 0)).unwrap();
    let writing = thread::spawn(move || {
        let since = Instant::now();
        let timeout = Duration::from_millis(300);
        must_be_full(writer.write_frame_wait(&[1; 1000], timeout));
        assert!(since.elapsed() >= timeout, "{:?}", since.elapsed());
    });
    pester(&writing, || !writing.is_finished());
    writing.join().unwrap();
    drop(reader);
}

#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
#[test]
fn fault_12_no_wait_goes_by_the_wall_clock() {
    // The clock of the machine cannot be moved for a test, but which functions are called can be
    // seen: the dynamic symbols of this program.
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    // Put together at run time, or the text of this test would be what is found.
    let uses = |parts: [&str; 2]| {
        let symbol = ["\0", parts[0], parts[1], "\0"].concat();
        program
            .windows(symbol.len())
            .any(|bytes| bytes == symbol.as_bytes())
    };
    // FUTEX_WAIT, whose time is a span of the monotonic clock.
    assert!(uses(["sys", "call"]) && uses(["sem_", "init"]));
    assert!(!uses(["sem_timed", "wait"]) && !uses(["sem_", "wait"]));
}

#[test]
fn fault_13_a_second_reader_leaves_the_first_one_alone() {
    let name = Name::new("fault-13");
    let (reader, writer) = pair(&name, 4096);
    writer.write_frame(b"before").unwrap();
    let objects = name.objects();
    assert_eq!(objects.len(), 4);
    for _ in 0..3 {
        let second = Reader::create(&name, &BufferConfig::default());
        let expected = matches!(
            second,
            Err(Error::ReaderAlreadyConnected { pid: Some(pid), .. })
                if pid == u64::from(std::process::id())
        );
        assert!(expected, "{second:?}");
    }
    let mut command = example("zb_read");
    command.args([&name, "64", "64", "0", "0"]);
    let second = Running::start(&mut command).wait();
    assert_eq!(second.status.code(), Some(1));
    let text = format!("already has a reader (pid {})", std::process::id());
    assert!(second.err.contains(&text), "{}", second.err);

    assert_eq!(name.objects(), objects);
    writer.write_frame(b"after").unwrap();
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"before");
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"after");
    // By name too: a new writer finds the old ring.
    drop(writer);
    Writer::attach(&name).unwrap().write_frame(b"new").unwrap();
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"new");
}

#[test]
fn fault_13_the_ring_of_a_living_v1_reader_is_not_taken() {
    let name = Name::new("fault-13-v1");
    let mut v1 = V1Reader::create(&name, 1024, 4096);
    let refused = || {
        let second = Reader::create(&name, &BufferConfig::default());
        assert!(
            matches!(second, Err(Error::ReaderAlreadyConnected { .. })),
            "{second:?}"
        );
        assert_eq!(name.raw().get(raw::PAYLOAD_SIZE), 4096);
    };
    let lock = v1.lock();
    refused();
    // One whose lock file is in another /tmp has only its pid here. Some process of this machine
    // that is not us: a pid of our own would be a reader of ours, without its lock.
    drop(lock);
    fs::remove_file(name.lock_file()).unwrap();
    let mut other = Running::start(&mut std::process::Command::new("cat"));
    v1.raw.set(raw::READER_PID, other.pid());
    refused();
    other.tell("still there");
    assert_eq!(other.line().as_deref(), Some("still there"));

    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(b"frame").unwrap();
    assert_eq!(v1.read().as_deref(), Some(&b"frame"[..]));
}

#[test]
fn fault_13_what_is_not_a_buffer_is_not_removed() {
    let name = Name::new("fault-13-else");
    for content in [&b"x"[..], &[0x55; 4096]] {
        assert_left_alone(&name, content);
    }
}

#[test]
fn fault_14_of_many_writers_that_attach_at_once_one_is_the_writer() {
    let name = Name::new("fault-14");
    // Ours hold a lock beside the pid; without it the pid alone has to decide.
    for round in 0..50 {
        let _reader = reader(&name, 1024, 1024);
        let start = Barrier::new(4);
        let results: Vec<_> = thread::scope(|scope| {
            let attaching: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        Writer::attach(&name)
                    })
                })
                .collect();
            attaching.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "round {round}");
        for lost in lost {
            let lost = lost.unwrap_err();
            assert!(
                matches!(lost, Error::WriterAlreadyConnected { .. }),
                "{lost}"
            );
        }
        // Who lost has not taken the winner's pid out.
        let pid = name.raw().get(raw::WRITER_PID);
        assert_eq!(pid, u64::from(std::process::id()));
    }
}

#[test]
fn fault_14_a_living_v1_writer_keeps_its_place() {
    let name = Name::new("fault-14-v1");
    let _reader = reader(&name, 1024, 1024);
    let _v1 = V1Writer::attach(&name, 1);
    let second = Writer::attach(&name);
    let expected = matches!(
        second,
        Err(Error::WriterAlreadyConnected { pid: Some(1), .. })
    );
    assert!(expected, "{second:?}");
    assert_eq!(name.raw().get(raw::WRITER_PID), 1);
}

#[test]
fn fault_14_a_writer_that_finds_no_semaphores_leaves_no_trace() {
    for kind in ['w', 'r'] {
        let name = Name::new("fault-14-trace");
        let v1 = V1Reader::create(&name, 1024, 1024);
        fs::remove_file(format!("/dev/shm/sem.sem-{kind}-{}", &*name)).unwrap();
        let before = v1.raw.bytes(0, v1.raw.len() as usize);
        let none = Writer::attach(&name);
        assert!(
            matches!(none, Err(Error::BufferNotFound { .. })),
            "{none:?}"
        );
        assert_eq!(v1.raw.bytes(0, v1.raw.len() as usize), before);
    }
}

#[test]
fn fault_14_whoever_sees_the_buffer_finds_its_semaphores() {
    let name = Name::new("fault-14-order");
    let (done, seen) = (AtomicBool::new(false), AtomicBool::new(false));
    let watch = || {
        let Some(raw) = raw::Raw::try_open(&name) else {
            return;
        };
        let published = || {
            let mut first = [0; 8];
            raw.file().read_at(&mut first, 0).unwrap() == 8 && first[0] == 128
        };
        while !published() {
            if raw.file().metadata().unwrap().nlink() == 0 {
                return;
            }
        }
        let there = ['w', 'r']
            .map(|kind| Path::new(&format!("/dev/shm/sem.sem-{kind}-{}", &*name)).exists());
        // The pid goes before the semaphores when the reader closes.
        if raw.get(raw::READER_PID) != 0 {
            assert_eq!(there, [true; 2]);
            seen.store(true, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                watch();
            }
        });
        for _ in 0..300 {
            drop(reader(&name, 64, 1024));
        }
        // Where there is one core the watcher may have slept until now.
        let last = reader(&name, 64, 1024);
        while !seen.load(Ordering::Relaxed) && !watching.is_finished() {
            thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
        watching.join().unwrap();
        drop(last);
    });
}

#[test]
fn fault_15_semaphores_that_nobody_owns_are_made_anew() {
    let name = Name::new("fault-15");
    RawSem::create('w', &name, 7);
    RawSem::create('r', &name, 9);
    let (reader, writer) = pair(&name, 1024);
    for kind in ['w', 'r'] {
        assert_eq!(RawSem::open(kind, &name).count(), 0);
    }
    writer.write_frame(b"frame").unwrap();
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"frame");
    drop((reader, writer));
    name.assert_nothing_left();
}

#[test]
fn fault_15_everything_that_a_dead_reader_left_is_made_anew() {
    let name = Name::new("fault-15-all");
    if let Some(name) = support::role() {
        let (_reader, writer) = pair(&name, 1024);
        writer.set_metadata(b"old").unwrap();
        writer.write_frame(b"old").unwrap();
        support::say("there");
        support::listen();
        return;
    }
    let mut child = Running::start(&mut again(
        "fault_15_everything_that_a_dead_reader_left_is_made_anew",
        &name,
    ));
    assert_eq!(child.hear(), "there");
    child.kill();
    assert_eq!(name.objects().len(), 4);
    let dead = Writer::attach(&name);
    assert!(matches!(dead, Err(Error::ReaderDead { .. })), "{dead:?}");

    let (reader, writer) = pair(&name, 2048);
    assert_eq!(reader.metadata().unwrap(), None);
    writer.write_frame(b"new").unwrap();
    let frame = reader.read_frame(LONG).unwrap();
    assert_eq!((&*frame, frame.sequence()), (&b"new"[..], 1));
}

#[test]
fn fault_15_the_leftovers_of_a_v1_reader_are_made_anew() {
    let name = Name::new("fault-15-v1");
    let v1 = V1Reader::create(&name, 1024, 4096);
    // See `claims.rs`.
    v1.lock().unlock().unwrap();
    // A pid that is somebody else's by now; the lock file without a holder tells.
    v1.raw.set(raw::READER_PID, 1);
    std::mem::forget(v1);
    assert_eq!(name.objects().len(), 4);
    let (reader, writer) = pair(&name, 1024);
    writer.write_frame(b"new").unwrap();
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"new");
}

#[test]
fn fault_15_semaphores_that_a_v1_reader_is_about_to_replace_are_not_taken() {
    let name = Name::new("fault-15-replaced");
    let left = [RawSem::create('w', &name, 0), RawSem::create('r', &name, 0)];
    let sems = ['w', 'r'].map(|kind| format!("/dev/shm/sem.sem-{kind}-{}", &*name));
    let mut v1 = V1Reader::among_leftovers(&name, 1024, 4096);
    for sem in &sems {
        // It has stored its pid, and has this one's leftover.
        match Writer::attach(&name) {
            Err(Error::BufferNotFound { .. }) => {}
            // This thread has not run for a second, or the kernel does not say how old they are.
            attached if v1.is_old_or_ageless() => return drop(attached),
            attached => panic!("{attached:?}"),
        }
        assert_eq!(v1.raw.get(raw::WRITER_PID), 0);
        std::fs::remove_file(sem).unwrap();
        v1.make_missing();
    }
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(b"a frame").unwrap();
    assert!(left.iter().all(|sem| sem.count() == 0));
    assert_eq!(v1.read().unwrap(), b"a frame");
}

#[test]
fn fault_15_a_v1_reader_that_made_its_semaphores_first_is_believed() {
    let name = Name::new("fault-15-first");
    for kind in ['w', 'r'] {
        RawSem::create(kind, &name, 0);
    }
    let mut v1 = V1Reader::among_leftovers(&name, 1024, 4096);
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    writer.write_frame(b"a frame").unwrap();
    assert_eq!(v1.read().unwrap(), b"a frame");
}

#[test]
fn fault_16_the_room_is_reserved_when_the_buffer_is_made() {
    let name = Name::new("fault-16");
    let _reader = reader(&name, 1024, 1 << 20);
    let meta = name.raw().file().metadata().unwrap();
    assert_eq!(meta.size(), 128 + 1024 + (1 << 20));
    assert!(meta.blocks() * 512 >= meta.size(), "{}", meta.blocks());
}

#[test]
fn fault_16_a_full_dev_shm_is_an_error_that_says_what_is_needed_and_what_is_there() {
    let name = Name::new("fault-16-full");
    let mut command = example("zb_read");
    command.args([&name, "1024", "10485760", "0", "0"]);
    let script = "mount -t tmpfs -o size=1m tmpfs /dev/shm && \"$@\"; status=$?; \
                  ls -A /dev/shm; exit $status";
    let mut wrapper = unshare(&["--mount"]);
    wrapper.extend(["sh", "-c", script, "sh"].map(Into::into));
    let ended = Running::start(&mut within(&wrapper, &command)).wait();
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    // 1 MiB of pages that are all free.
    let text = format!(
        "needs {} bytes in /dev/shm, which has {} free",
        128 + 1024 + 10485760,
        1 << 20
    );
    assert!(ended.err.contains(&text), "{}", ended.err);
    assert!(ended.err.contains("--shm-size"), "{}", ended.err);
    assert_eq!(ended.out, "", "left in the small /dev/shm");
}

#[test]
fn fault_17_a_header_of_any_size_is_an_error_and_no_crash() {
    let ring = 1024;
    let sizes = [
        u64::MAX,
        u64::MAX - 15,
        u64::MAX - 16,
        1 << 63,
        1 << 32,
        ring,
        ring - 15,
    ];
    for size in sizes {
        let name = Name::new("fault-17");
        let reader = reader(&name, 64, ring);
        let mut writer = V1Writer::attach(&name, 1);
        writer.write_header(size);
        for _ in 0..2 {
            let next = reader.read_frame(LONG);
            assert!(matches!(next, Err(Error::Corrupt { .. })), "{next:?}");
        }
    }
}

#[test]
fn fault_17_a_frame_without_content_is_an_error_wherever_it_stands() {
    let name = Name::new("fault-17-empty");
    let reader = reader(&name, 64, 1024);
    let mut writer = V1Writer::attach(&name, 1);
    writer.write_header(0);
    let next = reader.read_frame(LONG);
    assert!(matches!(next, Err(Error::Corrupt { .. })), "{next:?}");
    let our_own = Writer::attach(&name);
    assert!(our_own.is_err());
}

#[test]
fn fault_17_metadata_of_any_length_is_an_error_and_no_crash() {
    let name = Name::new("fault-17-metadata");
    let reader = reader(&name, 64, 1024);
    let raw = name.raw();
    for (written, len) in [
        (64, 57),
        (64, u64::MAX),
        (64, u64::MAX - 7),
        (65, 8),
        (u64::MAX, u64::MAX - 8),
        (7, 0),
    ] {
        raw.set(raw::METADATA_WRITTEN, written);
        raw.set(128, len);
        let metadata = reader.metadata();
        assert!(
            matches!(metadata, Err(Error::Corrupt { .. })),
            "{written} {len}: {metadata:?}"
        );
    }
}

#[test]
fn fault_17_only_the_major_version_decides_and_it_is_checked() {
    let name = Name::new("fault-17-version");
    let v1 = V1Reader::create(&name, 1024, 1024);
    for major in [0, 2, 255] {
        v1.raw.write(4, &[major, 0, 0, 0]);
        let refused = Writer::attach(&name);
        let expected =
            matches!(refused, Err(Error::Version { major: found, .. }) if found == major);
        assert!(expected, "{refused:?}");
        assert_eq!(v1.raw.get(raw::WRITER_PID), 0);
    }
    v1.raw.write(4, &[1, 9, 7, 0]);
    Writer::attach(&name).unwrap();
}

#[test]
fn fault_17_sizes_that_cannot_be_are_refused() {
    let name = Name::new("fault-17-sizes");
    let v1 = V1Reader::create(&name, 1024, 1024);
    let fields = [
        (0x00, 0x1_0000_007f),
        (raw::METADATA_SIZE, u64::MAX - 63),
        (raw::METADATA_SIZE, 1088),
        (raw::METADATA_SIZE, 1023),
        (raw::PAYLOAD_SIZE, u64::MAX - 63),
        (raw::PAYLOAD_SIZE, 1088),
        (raw::PAYLOAD_SIZE, 0),
        (raw::WRITE_POS, 1025),
        (raw::WRITE_POS, u64::MAX),
    ];
    for (field, value) in fields {
        let good = v1.raw.get(field);
        v1.raw.set(field, value);
        let refused = Writer::attach(&name);
        assert!(
            matches!(refused, Err(Error::Corrupt { .. })),
            "{field:#x} {value}: {refused:?}"
        );
        assert_eq!(v1.raw.get(raw::WRITER_PID), 0);
        v1.raw.set(field, good);
    }
    // More free bytes than there are: nothing is written over the metadata.
    let writer = Writer::attach(&name).unwrap();
    v1.raw.set(raw::FREE, 1025);
    let refused = writer.write_frame(b"frame");
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
}

#[test]
fn fault_18_objects_have_the_mode_asked_for_whatever_the_umask() {
    let name = Name::new("fault-18");
    if let Some(role) = support::role() {
        let (mode, name) = role.split_once(' ').unwrap();
        let mode = u32::from_str_radix(mode, 8).unwrap();
        let config = BufferConfig::default().with_permissions(mode);
        let _reader = Reader::create(name, &config).unwrap();
        support::say("there");
        support::listen();
        return;
    }
    for umask in ["000", "077"] {
        for mode in [0o600, 0o660, 0o666, 0o644] {
            let command = again(
                "fault_18_objects_have_the_mode_asked_for_whatever_the_umask",
                &format!("{mode:o} {}", &*name),
            );
            let script = format!("umask {umask}; exec \"$@\"");
            let mut child = Running::start(&mut within(&["sh", "-c", &script, "sh"], &command));
            assert_eq!(child.hear(), "there");
            let objects = name.objects();
            assert_eq!(objects.len(), 4);
            for path in objects {
                let found = fs::metadata(&path).unwrap().mode() & 0o7777;
                assert_eq!(found, mode, "{} is {found:o}", path.display());
            }
            child.wait().expect_success();
        }
    }
}

#[test]
fn fault_18_a_writer_without_permission_learns_of_what_and_why() {
    const TEST: &str = "fault_18_a_writer_without_permission_learns_of_what_and_why";
    let name = Name::new("fault-18-denied");
    let attempt = |name: &str| match Writer::attach(name) {
        Err(err @ Error::Permission { .. }) => err.to_string(),
        other => panic!("{other:?}"),
    };
    if let Some(name) = support::role() {
        return support::say(&attempt(&name));
    }
    let config = BufferConfig::default().with_permissions(0o666);
    let _reader = Reader::create(&name, &config).unwrap();
    let shm = format!("/dev/shm/{}", &*name);
    let sem = format!("/dev/shm/sem.sem-w-{}", &*name);
    let nobody = Nobody::new();
    for path in [&shm, &sem] {
        // Not even the owner, if that is not root.
        fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
        let text = if is_root() {
            Running::start(&mut nobody.again(TEST, &name)).hear()
        } else {
            attempt(&name)
        };
        let meta = fs::metadata(path).unwrap();
        let owner = format!("(owner uid {}, gid {}, mode 0000)", meta.uid(), meta.gid());
        for part in [path, &owner, "perms=0666"] {
            assert!(text.contains(part), "{text}");
        }
        fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    }
}

#[test]
fn fault_18_a_writer_of_another_user_is_let_in_by_wider_permissions() {
    const TEST: &str = "fault_18_a_writer_of_another_user_is_let_in_by_wider_permissions";
    let name = Name::new("fault-18-other");
    if let Some(name) = support::role() {
        let writer = Writer::attach(&name).unwrap();
        writer.write_frame(b"from elsewhere").unwrap();
        return;
    }
    let config = BufferConfig::default().with_permissions(0o666);
    let reader = Reader::create(&name, &config).unwrap();
    // Only root can be somebody else; for others this is a writer like any.
    let nobody = Nobody::new();
    let mut command = if is_root() {
        nobody.again(TEST, &name)
    } else {
        again(TEST, &name)
    };
    Running::start(&mut command).wait().expect_success();
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"from elsewhere");
}
