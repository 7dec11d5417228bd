//! A buffer that is made anew in another size, under the same name: nobody gets between, no frame is
//! lost, and whoever is killed meanwhile leaves nothing that stops the others.

mod support;

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use gstzerobuffer::{
    BufferConfig, Error, Frame, Interrupt, Item, Reader, Records, Wait, Writer, WriterState,
};

use support::raw::{self, RawSem};
use support::v1::{V1Writer, place_file};
use support::{LONG, Name, Running, again, pattern, say, without_lock_folder};

fn config(payload: u64) -> BufferConfig {
    BufferConfig::new(1024, payload).with_resizing()
}

/// One in whose ring nobody can hold a frame for so long that nothing passes any more.
fn reader(name: &str, payload: u64) -> Reader {
    let reader = Reader::create(name, &config(payload)).unwrap();
    reader.set_evacuation(true);
    reader
}

/// Frame `i` of a stream: its number, and bytes by which it is known, up to 2 KiB.
fn content(i: u64) -> Vec<u8> {
    let mut bytes = i.to_le_bytes().to_vec();
    bytes.extend(pattern((i * 7919 % 2000) as usize, i));
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

#[track_caller]
fn ended(reader: &Reader) {
    let end = reader.read(LONG);
    assert!(matches!(end, Err(Error::WriterClosed { .. })), "{end:?}");
}

#[test]
fn a_writer_asks_for_a_size_and_gets_it() {
    let name = Name::new("resizing-asked");
    let old = reader(&name, 256);
    let lock = fs::metadata(name.lock_file()).unwrap().ino();
    let writer = Writer::attach(&name).unwrap();
    assert!(writer.can_request_size());
    let too_large = writer.write_frame(&[1; 1000]);
    assert!(matches!(too_large, Err(Error::FrameTooLarge { .. })));
    writer.write_frame(&[1; 100]).unwrap();
    assert!(writer.request_size(4096, LONG).unwrap());
    writer.write_frame(&[2; 50]).unwrap();
    let held = old.read_frame(LONG).unwrap();
    let Item::Resize(bytes) = old.read(LONG).unwrap() else {
        panic!("it has asked");
    };
    assert_eq!(bytes, 4096);

    let new = old.replace(&config(bytes)).unwrap();
    assert_eq!(fs::metadata(name.lock_file()).unwrap().ino(), lock);
    assert_eq!(name.objects().len(), 4);
    assert_eq!((new.name(), new.payload_size()), (&*name, 4096));
    assert_eq!((old.name(), old.payload_size()), (&*name, 256));
    assert_eq!(new.writer(), WriterState::None);
    // The writer is told; what it still writes is not lost, nor is what is held.
    assert!(!writer.is_reader_connected());
    let place = writer.reserve_ahead(10);
    assert!(place.is_none(), "{place:?}");
    let replaced = writer.write_frame(&[3; 10]).unwrap_err();
    assert!(
        matches!(replaced, Error::ReaderReplaced { .. }),
        "{replaced}"
    );
    assert!(replaced.is_no_reader());
    let replaced = writer.write_message(&Records::new().with(64, b""), LONG);
    assert!(
        matches!(replaced, Err(Error::ReaderReplaced { .. })),
        "{replaced:?}"
    );
    assert_eq!(*old.read_frame(LONG).unwrap(), [2; 50]);
    let none = old.read(Wait::no());
    assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
    assert!(!old.close_if_unused(), "its writer is still there");
    let next = Writer::attach(&name).unwrap();
    drop(writer);
    ended(&old);
    // It has only left for the new one.
    assert!(!old.is_stream_ended());
    next.write_frame(&[4; 1000]).unwrap();
    assert_eq!(*new.read_frame(LONG).unwrap(), [4; 1000]);
    assert!(old.close_if_unused());
    let closed = old.read(LONG);
    assert!(matches!(closed, Err(Error::Closed { .. })), "{closed:?}");
    assert_eq!(name.objects().len(), 4, "they are the new one's");
    drop(old);
    drop(next);
    ended(&new);
    assert!(new.is_stream_ended());
    drop(new);
    assert_eq!(*held, [1; 100]);
    name.assert_nothing_left();
}

#[test]
fn a_request_is_answered_by_a_new_buffer_or_by_saying_that_there_is_none() {
    let name = Name::new("resizing-answer");
    let reader = reader(&name, 1024);
    let writer = Writer::attach(&name).unwrap();
    assert_eq!(writer.answered_size(), Some(0));
    let ask = |bytes| {
        assert!(writer.request_size(bytes, LONG).unwrap());
        assert_eq!(writer.answered_size(), Some(0));
    };
    let take = |bytes| {
        let item = reader.read(LONG).unwrap();
        assert!(
            matches!(item, Item::Resize(asked) if asked == bytes),
            "{item:?}"
        );
    };
    ask(5000);
    take(5000);
    assert_eq!(writer.answered_size(), Some(0), "not yet");
    reader.keep_size();
    assert_eq!(writer.answered_size(), Some(5000));
    // The same again is another request.
    ask(5000);
    take(5000);
    reader.keep_size();
    // Who reads frames only has answered as well.
    ask(6000);
    writer.write_frame(b"frame").unwrap();
    drop(reader.read_frame(LONG).unwrap());
    assert_eq!(writer.answered_size(), Some(6000));
    // Of two, the new buffer says which it answers.
    ask(7000);
    ask(8000);
    take(7000);
    let new = reader.replace(&config(7000)).unwrap();
    take(8000);
    assert_eq!(writer.answered_size(), Some(0));
    let next = Writer::attach(&name).unwrap();
    assert_eq!(next.answered_size(), Some(7000));
    assert!(next.request_size(8000, LONG).unwrap());
    assert!(matches!(new.read(LONG), Ok(Item::Resize(8000))));
}

#[test]
fn a_writer_that_does_not_go_on_in_the_new_buffer_says_so() {
    let name = Name::new("resizing-end");
    let old = reader(&name, 1024);
    let writer = Writer::attach(&name).unwrap();
    let new = old.replace(&config(64)).unwrap();
    let told = writer.write_frame(b"frame");
    assert!(
        matches!(told, Err(Error::ReaderReplaced { .. })),
        "{told:?}"
    );
    writer.end();
    ended(&old);
    assert!(old.is_stream_ended());
    drop(new);
}

#[test]
fn to_make_it_anew_can_be_interrupted_and_everything_is_as_it_was() {
    let name = Name::new("resizing-interrupted");
    let reader = reader(&name, 1024);
    let writer = Writer::attach(&name).unwrap();
    let interrupt = Interrupt::new();
    interrupt.set();
    let made = reader.replace_interrupted_by(&config(64 << 20), &interrupt);
    assert!(matches!(made, Err(Error::Interrupted)), "{made:?}");
    assert_eq!(name.objects().len(), 4);
    writer.write_frame(b"frame").unwrap();
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"frame");
    interrupt.clear();
    let new = reader
        .replace_interrupted_by(&config(64 << 20), &interrupt)
        .unwrap();
    assert_eq!(new.payload_size(), 64 << 20);
}

#[test]
fn whether_a_stream_has_ended_is_not_read_from_metadata_that_lie_there() {
    let name = Name::new("resizing-metadata");
    let old = reader(&name, 4096);
    let writer = Writer::attach(&name).unwrap();
    writer.set_metadata(&[1; 1016]).unwrap();
    drop(old.replace(&config(64)).unwrap());
    // Nor whether the buffer was made anew.
    let closed = writer.write_frame(b"frame");
    assert!(
        matches!(closed, Err(Error::ReaderClosed { .. })),
        "{closed:?}"
    );
    drop(writer);
    ended(&old);
    assert!(!old.is_stream_ended());
    assert_eq!(old.metadata().unwrap().unwrap(), [1; 1016]);
}

#[test]
fn who_did_not_promise_it_is_not_asked_for_another_size() {
    let name = Name::new("resizing-promise");
    let reader = Reader::create(&name, &BufferConfig::default()).unwrap();
    let writer = Writer::attach(&name).unwrap();
    assert!(writer.carries_records() && !writer.can_request_size());
    assert!(!writer.request_size(1 << 20, LONG).unwrap());
    assert_eq!(reader.used_bytes(), 0);
}

#[test]
fn when_it_cannot_be_made_anew_everything_is_as_it_was() {
    let name = Name::new("resizing-refused");
    let reader = reader(&name, 4096);
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(b"before").unwrap();
    for (config, no_space) in [
        (config(0), false),
        (config(1 << 50), true),
        (config(64).with_permissions(0o200), false),
    ] {
        match reader.replace(&config) {
            Err(Error::NoSpace { needed, .. }) if no_space => assert!(needed > 1 << 50),
            Err(Error::InvalidConfig { .. }) if !no_space => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(name.objects().len(), 4);
        writer.write_frame(b"after").unwrap();
    }
    for content in [b"before" as &[u8], b"after", b"after", b"after"] {
        assert_eq!(&*reader.read_frame(LONG).unwrap(), content);
    }
    drop(writer);
    ended(&reader);
    Writer::attach(&name).unwrap();
    // Only once, and not when it is closed.
    let new = reader.replace(&config(64)).unwrap();
    for reader in [&reader, &new] {
        new.close();
        let closed = reader.replace(&config(64));
        assert!(matches!(closed, Err(Error::Closed { .. })), "{closed:?}");
    }
    name.assert_nothing_left();
}

#[test]
fn one_that_was_removed_by_hand_does_not_take_the_name_from_another() {
    let name = Name::new("resizing-removed");
    let path = format!("/dev/shm/{}", &*name);
    let old = reader(&name, 4096);
    fs::remove_file(&path).unwrap();
    let new = old.replace(&config(64)).unwrap();
    assert_eq!(name.raw().get(raw::PAYLOAD_SIZE), 64);
    fs::remove_file(&path).unwrap();
    place_file(&path, b"another's");
    let taken = new.replace(&config(128));
    assert!(taken.is_err(), "{taken:?}");
    assert_eq!(fs::read(&path).unwrap(), b"another's");
    drop((old, new));
    fs::remove_file(&path).unwrap();
    for kind in ['w', 'r'] {
        // Whose they are nobody can tell any more.
        let _ = fs::remove_file(format!("/dev/shm/sem.sem-{kind}-{}", &*name));
    }
}

#[test]
fn what_a_reader_left_that_died_while_it_made_its_buffer_anew_is_in_nobodys_way() {
    let name = Name::new("resizing-leftovers");
    let leave = || {
        for file in ["sem.sem-n", "sem.sem-x", "sem.sem-y"] {
            place_file(format!("/dev/shm/{file}-{}", &*name), &[7; 100]);
        }
        assert!(name.objects().len() >= 3);
    };
    leave();
    let old = reader(&name, 4096);
    assert_eq!(name.objects().len(), 4);
    leave();
    let new = old.replace(&config(64)).unwrap();
    assert_eq!(name.objects().len(), 4);
    drop((old, new));
    name.assert_nothing_left();
}

#[test]
fn a_v1_writer_learns_that_its_reader_has_closed_and_its_frames_are_read() {
    let name = Name::new("resizing-v1");
    let old = reader(&name, 4096);
    let mut writer = V1Writer::attach(&name, std::process::id().into());
    writer.write(b"before");
    let new = old.replace(&config(64)).unwrap();
    assert_eq!(writer.raw.get(raw::READER_PID), 0);
    writer.write(b"behind");
    assert_eq!(&*old.read_frame(LONG).unwrap(), b"before");
    assert_eq!(&*old.read_frame(LONG).unwrap(), b"behind");
    writer.close();
    ended(&old);
    assert_eq!(RawSem::open('w', &name).count(), 0);
    drop(new);
}

/// Writes the frames from `first` on, to whatever buffer there is, until `interrupt`. Returns the
/// number of the next.
fn write_all(name: &str, first: u64, interrupt: &Interrupt) -> u64 {
    let wait = || Wait::forever().interrupted_by(interrupt);
    let mut writer = None;
    let mut i = first;
    loop {
        let attached = match &writer {
            Some(writer) => writer,
            None => match Writer::attach_wait(name, wait()) {
                Ok(attached) => &*writer.insert(attached),
                Err(Error::Interrupted) => return i,
                Err(err) => panic!("{err}"),
            },
        };
        let frame = content(i);
        let place = if i.is_multiple_of(3) {
            attached.reserve_ahead(frame.len() as u64)
        } else {
            None
        };
        let written = match place {
            Some(mut place) => {
                place.copy_from_slice(&frame);
                place.publish()
            }
            None => {
                let note = Records::new().with(64, &i.to_le_bytes());
                attached.write_frame_with(&frame, &note, wait())
            }
        };
        match written {
            Ok(_) => i += 1,
            Err(Error::ReaderReplaced { .. }) => writer = None,
            Err(Error::Interrupted) => return i,
            Err(err) => panic!("frame {i}: {err}"),
        }
    }
}

/// Reads frames, of which it holds some for some time.
#[derive(Default)]
struct Holder {
    next: u64,
    held: VecDeque<Frame>,
}

impl Holder {
    fn take(&mut self, frame: Frame) {
        assert_eq!(number(&frame), self.next);
        assert!(*frame == content(self.next));
        self.next += 1;
        if self.next.is_multiple_of(5) {
            self.held.push_back(frame);
        }
        if self.held.len() > 20 {
            let frame = self.held.pop_front().unwrap();
            assert!(*frame == content(number(&frame)), "a held frame changed");
        }
    }

    /// All that a reader has to give.
    fn drain(&mut self, reader: &Reader) {
        loop {
            match reader.read_frame(LONG) {
                Ok(frame) => self.take(frame),
                Err(Error::WriterClosed { .. }) => return,
                Err(err) => panic!("frame {}: {err}", self.next),
            }
        }
    }
}

#[test]
fn under_load_no_frame_is_lost_or_changed_however_often_and_whatever_is_held() {
    let name = Name::new("resizing-load");
    let mut reader = reader(&name, 64 << 10);
    let mut holder = Holder::default();
    let interrupt = Interrupt::new();
    thread::scope(|scope| {
        let writing = scope.spawn(|| write_all(&name, 0, &interrupt));
        for round in 0..100u64 {
            for _ in 0..1 + round * 13 % 70 {
                holder.take(reader.read_frame(LONG).unwrap());
            }
            // Smaller and larger; the smallest holds two of the largest frames.
            let new = reader
                .replace(&config(4096 + (round * 7907 % 32) * 4096))
                .unwrap();
            holder.drain(&reader);
            reader = new;
        }
        for _ in 0..100 {
            holder.take(reader.read_frame(LONG).unwrap());
        }
        interrupt.set();
        let written = writing.join().unwrap();
        holder.drain(&reader);
        assert_eq!(holder.next, written);
    });
    drop(reader);
    for frame in holder.held {
        assert!(*frame == content(number(&frame)));
    }
    name.assert_nothing_left();
}

#[test]
fn writers_that_come_and_go_while_it_is_made_anew_lose_nothing_either() {
    let name = Name::new("resizing-writers");
    let mut reader = reader(&name, 8 << 10);
    let mut holder = Holder::default();
    let written = AtomicU64::new(0);
    let interrupt = Interrupt::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let wait = || Wait::forever().interrupted_by(&interrupt);
                let i = written.load(Ordering::Relaxed);
                let number = Writer::attach_wait(&name, wait())
                    .and_then(|writer| writer.write_frame_wait(&content(i), wait()));
                match number {
                    Ok(number) => {
                        assert_eq!(number, 1);
                        written.store(i + 1, Ordering::Relaxed);
                    }
                    Err(Error::ReaderReplaced { .. }) => {}
                    Err(Error::Interrupted) => return,
                    Err(err) => panic!("{err}"),
                }
            }
        });
        for round in 0..300u64 {
            let new = reader.replace(&config(4096 + round % 8 * 1024)).unwrap();
            // Also if no writer ever came, this ends.
            holder.drain(&reader);
            reader = new;
            // Also the last, which nothing ends to which no writer comes.
            if round % 3 == 2 {
                let before = holder.next;
                while holder.next == before {
                    match reader.read_frame(LONG) {
                        Ok(frame) => holder.take(frame),
                        Err(Error::WriterClosed { .. }) => {}
                        Err(err) => panic!("{err}"),
                    }
                }
            }
        }
        interrupt.set();
    });
    holder.drain(&reader);
    assert_eq!(holder.next, written.into_inner());
    assert!(holder.next >= 100);
}

/// Tries to get the name and a frame out of it while the buffer is made anew, over and over.
fn nobody_gets_between(name: &Name) {
    let mut reader = reader(name, 4096);
    let done = AtomicBool::new(false);
    let tried = AtomicU64::new(0);
    thread::scope(|scope| {
        let mut intruders = Vec::new();
        for _ in 0..2 {
            intruders.push(scope.spawn(|| {
                let mut tries = 0;
                while !done.load(Ordering::Relaxed) {
                    let second = Reader::create(name, &BufferConfig::default());
                    assert!(
                        matches!(second, Err(Error::ReaderAlreadyConnected { .. })),
                        "{second:?}"
                    );
                    tries += 1;
                    if tries == 1 {
                        tried.fetch_add(1, Ordering::Relaxed);
                    }
                }
                tries
            }));
        }
        // A thread may come to its first try late.
        let all_tried = |intruders: &[_]| tried.load(Ordering::Relaxed) == intruders.len() as u64;
        for round in (0..).take_while(|round| *round < 300 || !all_tried(&intruders)) {
            reader = reader.replace(&config(4096 + round % 3 * 4096)).unwrap();
            assert_eq!(
                name.raw().get(raw::READER_PID),
                u64::from(std::process::id())
            );
        }
        done.store(true, Ordering::Relaxed);
        for intruder in intruders {
            assert!(intruder.join().unwrap() > 0);
        }
    });
    Writer::attach(name).unwrap().write_frame(b"frame").unwrap();
    assert_eq!(&*reader.read_frame(LONG).unwrap(), b"frame");
    drop(reader);
    name.assert_nothing_left();
}

#[test]
fn no_other_reader_gets_the_name_while_it_is_made_anew() {
    nobody_gets_between(&Name::new("resizing-name"));
}

#[test]
fn no_other_reader_gets_the_name_while_it_is_made_anew_without_lock_files_either() {
    const TEST: &str =
        "no_other_reader_gets_the_name_while_it_is_made_anew_without_lock_files_either";
    if support::role().is_some() {
        return nobody_gets_between(&Name::new("resizing-lockless"));
    }
    let mut child = without_lock_folder(&again(TEST, "inside"));
    Running::start(&mut child).wait().expect_success();
}

#[test]
fn a_reader_killed_while_it_makes_its_buffer_anew_leaves_the_name_to_the_next() {
    const TEST: &str = "a_reader_killed_while_it_makes_its_buffer_anew_leaves_the_name_to_the_next";
    if let Some(name) = support::role() {
        let mut reader = reader(&name, 4096);
        let mut frames = 0;
        for round in 0.. {
            reader = reader.replace(&config(4096 + round % 5 * 4096)).unwrap();
            if let Ok(frame) = reader.read_frame(Wait::no()) {
                frames += frame.len();
            }
            if round == 0 {
                say("going");
            }
        }
        unreachable!("{frames}");
    }
    let name = Name::new("resizing-killed");
    let interrupt = Interrupt::new();
    let attached = AtomicU64::new(0);
    thread::scope(|scope| {
        // A writer of many readers.
        scope.spawn(|| {
            loop {
                let wait = Wait::forever().interrupted_by(&interrupt);
                let writer = match Writer::attach_wait(&name, wait) {
                    Ok(writer) => writer,
                    Err(Error::Interrupted) => return,
                    Err(err) => panic!("{err}"),
                };
                attached.fetch_add(1, Ordering::Relaxed);
                loop {
                    let wait = Wait::forever().interrupted_by(&interrupt);
                    match writer.write_frame_wait(&content(0), wait) {
                        Ok(_) => {}
                        Err(err) if err.is_no_reader() => break,
                        Err(Error::Interrupted) => return,
                        Err(err) => panic!("{err}"),
                    }
                }
            }
        });
        let mut left = 0;
        for round in 0..60 {
            let mut child = Running::start(&mut again(TEST, &name));
            assert_eq!(child.hear(), "going");
            let before = attached.load(Ordering::Relaxed);
            // It is making its buffer anew all the time; this long it takes a writer to come again.
            while round % 2 == 0 && attached.load(Ordering::Relaxed) == before {
                thread::yield_now();
            }
            child.kill();
            left += usize::from(name.objects().len() > 4);
            let reader = Reader::create(&name, &config(8192)).unwrap();
            assert_eq!(name.objects().len(), 4, "what was left is gone");
            let frame = reader.read_frame(LONG).unwrap();
            assert!(*frame == content(0));
        }
        interrupt.set();
        println!("{left} of 60 were killed with something half made");
    });
    name.assert_nothing_left();
}

#[test]
fn a_writer_killed_while_the_buffer_is_made_anew_loses_nothing_that_it_wrote() {
    const TEST: &str = "a_writer_killed_while_the_buffer_is_made_anew_loses_nothing_that_it_wrote";
    if let Some(name) = support::role() {
        write_all(&name, 0, &Interrupt::new());
    }
    let name = Name::new("resizing-writer");
    let mut reader = reader(&name, 16 << 10);
    for round in 0..15u64 {
        let mut child = Some(Running::start(&mut again(TEST, &name)));
        let mut holder = Holder::default();
        loop {
            let last = reader.read_frame(LONG);
            match last {
                Ok(frame) => holder.take(frame),
                // It goes from one buffer to the other.
                Err(Error::WriterClosed { .. }) if child.is_some() => {}
                // One of the round before.
                Err(Error::WriterDead { .. }) if child.is_some() => {}
                Err(Error::WriterDead { .. }) => break,
                Err(err) => panic!("{err}"),
            }
            let kill = holder.next > 100 + round * 17 && child.is_some();
            if kill || holder.next.is_multiple_of(40) {
                let new = reader.replace(&config((16 + round % 7) << 10)).unwrap();
                if kill {
                    // It may have gone to the new one already.
                    child.take().unwrap().kill();
                }
                loop {
                    match reader.read_frame(LONG) {
                        Ok(frame) => holder.take(frame),
                        Err(Error::WriterClosed { .. } | Error::WriterDead { .. }) => break,
                        Err(err) => panic!("{err}"),
                    }
                }
                reader = new;
                if kill {
                    while let Ok(frame) = reader.read_frame(Wait::no()) {
                        holder.take(frame);
                    }
                    break;
                }
            }
        }
        assert!(holder.next > 100);
        holder.held.clear();
    }
}
