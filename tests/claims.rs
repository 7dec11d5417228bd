//! Who owns a name or a writer's place: what may be alive keeps it, what is dead does not, and who
//! only asks changes nothing.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gstzerobuffer::{BufferConfig, Error, Interrupt, Reader, Wait, Writer, WriterState};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{SysconfVar, sysconf};
use support::raw::{self, Raw, RawSem};
use support::v1::{V1Reader, V1Writer, assert_left_alone, place_file};
use support::{
    LONG, Name, Running, again, example, listen, role, say, unshare, within, without_lock_folder,
};

const READER_LOCK: i64 = 0;
const WRITER_LOCK: i64 = 1;
const NAME_LOCK: i64 = 2;

/// The time in which a writer that cannot be seen has to do something.
const PATIENCE: Duration = Duration::from_secs(5);

fn reader(name: &str) -> Reader {
    Reader::create(name, &BufferConfig::new(1024, 4096)).unwrap()
}

fn segment(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

/// A process that lives until it is dropped.
fn somebody() -> Running {
    Running::start(&mut Command::new("cat"))
}

fn byte(byte: i64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

/// The lock on a byte of the segment, as somebody has it who looks, until it is dropped.
struct Locked(Raw, i64);

fn lock(name: &str, at: i64) -> Locked {
    let raw = Raw::open(name);
    fcntl(raw.file(), FcntlArg::F_OFD_SETLK(&byte(at))).unwrap();
    Locked(raw, at)
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Not by closing it: a process that another thread starts just now has it open as well.
        let mut free = byte(self.1);
        free.l_type = libc::F_UNLCK as i16;
        fcntl(self.0.file(), FcntlArg::F_OFD_SETLK(&free)).unwrap();
    }
}

fn is_locked(raw: &Raw, at: i64) -> bool {
    let mut probe = byte(at);
    fcntl(raw.file(), FcntlArg::F_OFD_GETLK(&mut probe)).unwrap();
    i32::from(probe.l_type) != libc::F_UNLCK
}

#[track_caller]
fn refused<T: std::fmt::Debug>(writer: Result<T, Error>, by: u64) {
    let expected =
        matches!(writer, Err(Error::WriterAlreadyConnected { pid: Some(pid), .. }) if pid == by);
    assert!(expected, "{writer:?}");
}

#[track_caller]
fn taken<T: std::fmt::Debug>(reader: Result<T, Error>) {
    let expected = matches!(reader, Err(Error::ReaderAlreadyConnected { .. }));
    assert!(expected, "{reader:?}");
}

#[test]
fn a_v1_writer_lives_on_when_somebody_has_held_the_lock_of_its_place() {
    let name = Name::new("claims-lock-writer");
    let reader = reader(&name);
    let other = somebody();
    let pid = other.pid();
    let _v1 = V1Writer::attach(&name, pid);
    let connected = WriterState::Connected { pid };
    assert_eq!(reader.writer(), connected);
    let held = lock(&name, WRITER_LOCK);
    assert_eq!(reader.writer(), connected);
    drop(held);
    assert_eq!(reader.writer(), connected);
    other.kill();
    assert_eq!(reader.writer(), WriterState::Dead { pid });
}

#[test]
fn a_v1_reader_lives_on_when_somebody_has_held_the_lock_of_its_place() {
    let name = Name::new("claims-lock-reader");
    let v1 = V1Reader::create(&name, 1024, 4096);
    let other = somebody();
    v1.raw.set(raw::READER_PID, other.pid());
    let writer = Writer::attach(&name).unwrap();
    let held = lock(&name, READER_LOCK);
    assert!(writer.is_reader_connected());
    drop(held);
    assert!(writer.is_reader_connected());
    // A second reader that wants the name looks like that.
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            for _ in 0..1000 {
                taken(Reader::create(&name, &BufferConfig::default()));
            }
        });
        while !asking.is_finished() {
            assert!(writer.is_reader_connected());
        }
    });
    assert!(writer.is_reader_connected());
    other.kill();
    assert!(!writer.is_reader_connected());
}

#[test]
fn a_v1_reader_that_fills_its_buffer_field_by_field_is_not_there_yet() {
    let name = Name::new("claims-filling");
    let v1 = V1Reader::create(&name, 1024, 4096);
    let pid = v1.raw.get(raw::READER_PID);
    for (field, half) in [(0, 128), (raw::METADATA_SIZE, 0), (raw::PAYLOAD_SIZE, 0)] {
        let whole = v1.raw.get(field);
        v1.raw.set(field, half);
        v1.raw.set(raw::READER_PID, 0);
        let none = Writer::attach(&name);
        assert!(none.as_ref().is_err_and(Error::is_no_reader), "{none:?}");
        v1.raw.set(field, whole);
        v1.raw.set(raw::READER_PID, pid);
    }
    Writer::attach(&name).unwrap();
}

#[test]
fn a_v1_reader_that_died_under_a_writer_stays_dead_when_its_lock_file_is_swept_away() {
    let name = Name::new("claims-swept");
    let v1 = V1Reader::create(&name, 1024, 4096);
    let lock_file = v1.lock();
    let other = somebody();
    v1.raw.set(raw::READER_PID, other.pid());
    let writer = Writer::attach(&name).unwrap();
    other.kill();
    // Not only by closing it: a process that another thread starts just now has it open as well.
    lock_file.unlock().unwrap();
    drop(lock_file);
    assert!(matches!(
        writer.check_reader(),
        Err(Error::ReaderDead { .. })
    ));
    // As the next Python reader does that starts.
    fs::remove_file(name.lock_file()).unwrap();
    drop(writer);
    for _ in 0..2 {
        let none = Writer::attach(&name);
        assert!(none.as_ref().is_err_and(Error::is_no_reader), "{none:?}");
    }
    assert_eq!(v1.raw.get(raw::WRITER_PID), 0);
    drop(reader(&name));
}

#[test]
fn a_writer_that_is_refused_has_not_touched_the_lock() {
    let name = Name::new("claims-untouched");
    let reader = reader(&name);
    let other = somebody();
    let pid = other.pid();
    let v1 = V1Writer::attach(&name, pid);
    let raw = name.raw();
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            for _ in 0..3000 {
                refused(Writer::attach(&name), pid);
            }
        });
        while !asking.is_finished() {
            assert!(!is_locked(&raw, WRITER_LOCK));
            assert_eq!(reader.writer(), WriterState::Connected { pid });
        }
    });
    v1.close();
    assert_eq!(reader.writer(), WriterState::Closed);
    Writer::attach(&name).unwrap();
}

#[test]
fn a_writer_whose_metadata_lies_over_the_hello_is_known_to_be_dead() {
    const TEST: &str = "a_writer_whose_metadata_lies_over_the_hello_is_known_to_be_dead";
    let name = Name::new("claims-over-hello");
    if let Some(name) = role() {
        let writer = Writer::attach(&name).unwrap();
        say("attached");
        listen();
        writer.set_metadata(&[0xff; 1016]).unwrap();
        say("written");
        listen();
        return;
    }
    let reader = reader(&name);
    // Its pid is 1, which lives here, whoever that is.
    let wrapper = unshare(&["--pid", "--fork", "--kill-child"]);
    let mut child = Running::start(&mut within(&wrapper, &again(TEST, &name)));
    assert_eq!(child.hear(), "attached");
    assert_eq!(reader.writer(), WriterState::Connected { pid: 1 });
    child.tell("write");
    assert_eq!(child.hear(), "written");
    assert_eq!(reader.writer(), WriterState::Connected { pid: 1 });
    child.kill();
    let end = reader.read_frame(LONG);
    assert!(
        matches!(end, Err(Error::WriterDead { pid: 1, .. })),
        "{end:?}"
    );
}

#[test]
fn a_living_v1_writer_of_another_pid_namespace_keeps_its_place_while_it_works() {
    const TEST: &str = "a_living_v1_writer_of_another_pid_namespace_keeps_its_place_while_it_works";
    let name = Name::new("claims-namespace");
    if let Some(role) = role() {
        let (pid, name) = role.split_once(' ').unwrap();
        let pid = pid.parse().unwrap();
        refused(Writer::attach(name), pid);
        refused(Writer::attach_wait(name, Duration::from_millis(100)), pid);
        say("refused");
        let writer = Writer::attach_wait(name, LONG).unwrap();
        writer.write_frame(b"its successor").unwrap();
        return;
    }
    let reader = reader(&name);
    let pid = std::process::id().into();
    let mut v1 = V1Writer::attach(&name, pid);
    let command = again(TEST, &format!("{pid} {}", &*name));
    let wrapper = unshare(&["--pid", "--fork", "--kill-child"]);
    let mut child = Running::start(&mut within(&wrapper, &command));
    assert_eq!(child.hear(), "refused");
    let start = Instant::now();
    let mut last = start;
    let mut frames = 0_u64;
    while start.elapsed() < PATIENCE + PATIENCE / 5 {
        last = Instant::now();
        v1.write(b"frame");
        frames += 1;
        let frame = reader.read_frame(LONG).unwrap();
        assert_eq!((&*frame, frame.sequence()), (&b"frame"[..], frames));
        let none = reader.read_frame(Duration::from_millis(200));
        assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
    }
    // It says no more, as if it had been killed.
    let frame = reader.read_frame(LONG).unwrap();
    assert_eq!((&*frame, frame.sequence()), (&b"its successor"[..], 1));
    let waited = last.elapsed();
    assert!(waited > PATIENCE, "{waited:?}");
    child.wait().expect_success();
}

#[test]
fn a_v1_writer_with_our_own_pid_is_not_us() {
    let name = Name::new("claims-own-pid");
    let _reader = reader(&name);
    let pid = std::process::id().into();
    let v1 = V1Writer::attach(&name, pid);
    refused(Writer::attach(&name), pid);
    assert_eq!(v1.raw.get(raw::WRITER_PID), pid);
    let start = Instant::now();
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    assert!(start.elapsed() > PATIENCE);
    assert!(is_locked(&v1.raw, WRITER_LOCK));
    // And a place of ours is not waited for, nor that of one that we see live.
    refused(Writer::attach_wait(&name, Wait::forever()), pid);
    drop(writer);
    v1.raw.set(raw::WRITER_PID, 1);
    refused(Writer::attach_wait(&name, Wait::forever()), 1);
}

#[test]
fn a_wait_for_a_v1_writer_that_cannot_be_seen_can_be_interrupted() {
    let name = Name::new("claims-interrupt");
    let _reader = reader(&name);
    let pid = 1 << 30;
    let mut v1 = V1Writer::attach(&name, pid);
    let interrupt = Interrupt::new();
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            Writer::attach_wait(&name, Wait::forever().interrupted_by(&interrupt)).map(drop)
        });
        v1.write(b"frame");
        interrupt.set();
        let end = asking.join().unwrap();
        assert!(matches!(end, Err(Error::Interrupted)), "{end:?}");
    });
    assert_eq!(v1.raw.get(raw::WRITER_PID), pid);
}

#[test]
fn who_looks_at_a_new_segment_or_takes_it_for_a_leftover_does_not_keep_its_reader_from_it() {
    let name = Name::new("claims-looked-at");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let making = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let made = reader(&name);
                let writer = Writer::attach(&name).unwrap();
                writer.write_frame(b"frame").unwrap();
                assert_eq!(&*made.read_frame(LONG).unwrap(), b"frame");
            }
        });
        // Until it was quicker than the reader often enough.
        let (mut looks, mut removed) = (0, 0);
        while removed < 50 && !making.is_finished() {
            let Some(raw) = Raw::try_open(&name) else {
                continue;
            };
            let locked = fcntl(raw.file(), FcntlArg::F_OFD_SETLK(&byte(NAME_LOCK))).is_ok()
                && !is_locked(&raw, READER_LOCK);
            let linked = raw.file().metadata().unwrap().nlink() > 0;
            if locked && linked && raw.len() == 0 {
                looks += 1;
                if looks % 2 == 0 {
                    fs::remove_file(segment(&name)).unwrap();
                    removed += 1;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        making.join().unwrap();
    });
}

#[test]
fn no_writer_comes_to_a_dead_reader_whose_name_is_being_taken() {
    let name = Name::new("claims-dead-reader");
    let made = reader(&name);
    let left = fs::read(segment(&name)).unwrap();
    drop(made);
    for _ in 0..300 {
        // What a reader leaves that is killed.
        place_file(segment(&name), &left);
        for end in ['w', 'r'] {
            RawSem::create(end, &name, 0);
        }
        let ready = Barrier::new(2);
        thread::scope(|scope| {
            let attaching = scope.spawn(|| {
                assert!(matches!(
                    Writer::attach(&name),
                    Err(Error::ReaderDead { .. })
                ));
                ready.wait();
                loop {
                    match Writer::attach(&name) {
                        Ok(writer) => return writer,
                        Err(err) => assert!(err.is_no_reader(), "{err}"),
                    }
                }
            });
            ready.wait();
            let made = reader(&name);
            let writer = attaching.join().unwrap();
            writer.write_frame(b"frame").unwrap();
            assert_eq!(&*made.read_frame(LONG).unwrap(), b"frame");
        });
    }
}

#[test]
fn without_a_lock_folder_one_of_many_readers_gets_the_name() {
    const TEST: &str = "without_a_lock_folder_one_of_many_readers_gets_the_name";
    let name = Name::new("claims-no-folder");
    if let Some(name) = role() {
        for round in 0..300 {
            let start = Barrier::new(4);
            let results: Vec<_> = thread::scope(|scope| {
                let making: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            Reader::create(&name, &BufferConfig::new(1024, 4096))
                        })
                    })
                    .collect();
                making.into_iter().map(|t| t.join().unwrap()).collect()
            });
            let (mut won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            assert_eq!(won.len(), 1, "round {round}: {lost:?}");
            lost.into_iter().for_each(taken);
            let reader = won.remove(0).unwrap();
            assert!(reader.lock_problem().is_some());
            let writer = Writer::attach(&name).unwrap();
            writer.write_frame(b"frame").unwrap();
            assert_eq!(&*reader.read_frame(LONG).unwrap(), b"frame");
            drop((reader, writer));
            assert!(!segment(&name).exists());
        }
        return;
    }
    Running::start(&mut without_lock_folder(&again(TEST, &name)))
        .wait()
        .expect_success();
}

#[test]
fn without_a_lock_folder_what_a_reader_left_that_died_while_it_made_it_is_made_anew() {
    const TEST: &str =
        "without_a_lock_folder_what_a_reader_left_that_died_while_it_made_it_is_made_anew";
    let name = Name::new("claims-half-made");
    if let Some(name) = role() {
        let path = segment(&name);
        // No size yet, or no content: `crash_matrix.rs` kills readers there.
        for size in [0, 128, 5248] {
            place_file(&path, &vec![0; size]);
            // Not while it lives.
            let held = lock(&name, READER_LOCK);
            taken(Reader::create(&name, &BufferConfig::default()));
            drop(held);
            RawSem::create('w', &name, 7);
            let start = Instant::now();
            let reader = reader(&name);
            // Nor while it may be about to lock it.
            assert!(start.elapsed() > Duration::from_secs(1));
            let writer = Writer::attach(&name).unwrap();
            writer.write_frame(b"frame").unwrap();
            assert_eq!(&*reader.read_frame(LONG).unwrap(), b"frame");
        }
        // What is something else stays.
        for content in [&b"x"[..], &[0; 127], &[0x55; 4096]] {
            assert_left_alone(&name, content);
        }
        return;
    }
    Running::start(&mut without_lock_folder(&again(TEST, &name)))
        .wait()
        .expect_success();
}

#[test]
fn with_a_lock_folder_a_file_without_content_is_somebody_elses() {
    let name = Name::new("claims-foreign");
    for content in [&[][..], &[0; 4096]] {
        assert_left_alone(&name, content);
    }
}

#[test]
fn room_for_the_segment_and_none_for_its_semaphores_is_too_little_room() {
    let name = Name::new("claims-sem-space");
    let page = sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64;
    let free = 1 << 20;
    // Room for neither, and for one.
    for left in [0, page] {
        let payload = free - left - 128 - 1024;
        let mut command = example("zb_read");
        command.args([&*name, "1024", &payload.to_string(), "0", "0"]);
        let script = "mount -t tmpfs -o size=1m tmpfs /dev/shm && \"$@\"; status=$?; \
                      ls -A /dev/shm; exit $status";
        let mut wrapper = unshare(&["--mount"]);
        wrapper.extend(["sh", "-c", script, "sh"].map(Into::into));
        let ended = Running::start(&mut within(&wrapper, &command)).wait();
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        let text = format!(
            "needs {} bytes in /dev/shm, which has {free} free",
            free - left + 2 * page
        );
        assert!(ended.err.contains(&text), "{}", ended.err);
        assert!(ended.err.contains("--shm-size"), "{}", ended.err);
        assert_eq!(ended.out, "", "left in the small /dev/shm");
    }
}

#[test]
fn a_reader_whose_segment_was_removed_by_hand_leaves_nothing() {
    let name = Name::new("claims-by-hand");
    let reader = reader(&name);
    fs::remove_file(segment(&name)).unwrap();
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn a_reader_whose_segment_was_removed_by_hand_leaves_what_is_anothers() {
    let name = Name::new("claims-anothers");
    // The segment is.
    let first = reader(&name);
    for path in name.objects() {
        if path != name.lock_file() {
            fs::remove_file(path).unwrap();
        }
    }
    let mut v1 = V1Reader::create(&name, 1024, 4096);
    drop(first);
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(b"frame").unwrap();
    assert_eq!(v1.read().as_deref(), Some(&b"frame"[..]));
    drop((writer, v1));
    name.assert_nothing_left();

    // The lock file is: of one that has just begun.
    let first = reader(&name);
    let there = name.objects();
    fs::remove_file(segment(&name)).unwrap();
    fs::remove_file(name.lock_file()).unwrap();
    place_file(name.lock_file(), b"");
    drop(first);
    let left = name.objects();
    assert_eq!(left.len(), there.len() - 1, "{left:?}");
    for path in left {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_writer_that_is_just_coming_is_never_taken_for_one_that_has_gone() {
    for _ in 0..3000 {
        let name = Name::new("claims-coming");
        let reader = reader(&name);
        let begin = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begin.wait();
                let writer = Writer::attach(&name).unwrap();
                writer.set_metadata(b"it came").unwrap();
                writer.write_frame(&[7; 9]).unwrap();
            });
            begin.wait();
            assert_eq!(*reader.read_frame(LONG).unwrap(), [7; 9]);
        });
    }
}

/// What the other end says when this one is killed while it waits, and after what time. The two share
/// nothing but /dev/shm: neither pids nor lock files.
fn killed_in_another_container(test: &str, writes: bool) -> (Error, u64, Duration) {
    let name = Name::new("claims-container");
    let full = [1; 2000];
    let end = if writes { "reads" } else { "writes" };
    let script = "mkdir -p /tmp/zerobuffer && mount -t tmpfs tmpfs /tmp/zerobuffer && \
                  mount -t proc proc /proc && exec \"$@\"";
    let mut wrapper = unshare(&["--pid", "--mount", "--fork", "--kill-child"]);
    wrapper.extend(["sh", "-c", script, "sh"].map(Into::into));
    let (mut other, (gone, pid, killed));
    if writes {
        let command = within(&wrapper, &again(test, &format!("{end} {}", &*name)));
        other = Running::start(&mut { command });
        let writer = Writer::attach_wait(&name, LONG).unwrap();
        assert_eq!(other.hear(), "1");
        pid = writer.reader_pid();
        (gone, killed) = thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                loop {
                    if let Err(err) = writer.write_frame_wait(&full, Wait::forever()) {
                        return err;
                    }
                }
            });
            while writer.waits() == 0 {
                thread::yield_now();
            }
            let killed = Instant::now();
            other.kill();
            (waiting.join().unwrap(), killed)
        });
    } else {
        let reader = reader(&name);
        let command = within(&wrapper, &again(test, &format!("{end} {}", &*name)));
        other = Running::start(&mut { command });
        assert_eq!(other.hear(), "1");
        pid = name.raw().get(raw::WRITER_PID);
        assert_eq!(reader.read_frame(LONG).unwrap()[..], full);
        let before = reader.waits();
        (gone, killed) = thread::scope(|scope| {
            let waiting = scope.spawn(|| reader.read_frame(Wait::forever()).map(drop));
            while reader.waits() == before {
                thread::yield_now();
            }
            let killed = Instant::now();
            other.kill();
            (waiting.join().unwrap().unwrap_err(), killed)
        });
    }
    let took = killed.elapsed();
    for path in name.objects() {
        let _ = fs::remove_file(path);
    }
    (gone, pid, took)
}

#[test]
fn the_death_of_one_in_another_container_is_noticed_within_100_milliseconds() {
    const TEST: &str = "the_death_of_one_in_another_container_is_noticed_within_100_milliseconds";
    if let Some(role) = role() {
        let (end, name) = role.split_once(' ').unwrap();
        if end == "reads" {
            let _reader = reader(name);
            say(&std::process::id().to_string());
            listen();
        } else {
            let writer = Writer::attach(name).unwrap();
            writer.write_frame(&[1; 2000]).unwrap();
            say(&std::process::id().to_string());
            listen();
        }
        return;
    }
    for writes in [true, false] {
        // A wait looks every 20 ms. On a machine that is busy this may take longer, but not always.
        let began = Instant::now();
        loop {
            let (gone, pid, took) = killed_in_another_container(TEST, writes);
            println!("{gone} after {took:?}");
            let is_dead = match gone {
                Error::ReaderDead { pid: dead, .. } => writes && dead == pid,
                Error::WriterDead { pid: dead, .. } => !writes && dead == pid,
                _ => false,
            };
            // Here the pid is that of another process, which lives.
            assert!(is_dead && pid == 1, "{gone}, {pid}");
            if took < Duration::from_millis(100) {
                break;
            }
            assert!(
                began.elapsed() < LONG,
                "never within 100 ms, at last {took:?}"
            );
        }
    }
}
