//! What goes along with frames, and between them.

mod support;

use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use gstzerobuffer::{
    BufferConfig, Error, FrameLayout, FrameTime, Interrupt, Item, Reader, Records, Reservation,
    Wait, Writer, WriterState,
};
use proptest::prelude::*;

use support::raw::{self, Raw, RawSem};
use support::v1::V1Reader;
use support::{LONG, Name, Running, again, listen, pattern, say};

/// A reader that knows records and its writer.
fn pair(name: &Name, payload: u64) -> (Reader, Writer) {
    let reader = Reader::create(name, &BufferConfig::new(1024, payload)).unwrap();
    let writer = Writer::attach(name).unwrap();
    assert!(writer.carries_records());
    (reader, writer)
}

fn time(pts: u64) -> FrameTime {
    FrameTime {
        pts: Some(pts),
        dts: pts.checked_sub(5),
        duration: Some(40_000_000),
        offset: None,
        offset_end: Some(pts + 1),
        flags: 0xdead_beef,
        monotonic: Some(pts * 3),
    }
}

#[track_caller]
fn message(item: Item) -> Records {
    match item {
        Item::Message(records) => records,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_arrive_with_their_frame() {
    let name = Name::new("records-arrive");
    let (reader, writer) = pair(&name, 4096);
    let layout = FrameLayout {
        width: 640,
        height: 480,
        planes: 2,
        offsets: [0, 640 * 480, 0, 0],
        strides: [640, -320, 0, 0],
    };
    for i in 0..200 {
        let frame = pattern(300 + i as usize, i);
        let records = Records::new()
            .with_time(&time(i))
            .with_layout(&layout)
            .with(1000, &pattern(i as usize, 7));
        writer.write_frame_with(&frame, &records, LONG).unwrap();
        writer.write_frame(b"without").unwrap();
        let read = reader.read_frame(LONG).unwrap();
        assert_eq!(*read, frame);
        assert_eq!(read.time(), Some(time(i)));
        assert_eq!(read.records().layout(), Some(layout));
        assert_eq!(read.records().get(1000), Some(&pattern(i as usize, 7)[..]));
        assert_eq!(*read.records(), records);
        let read = reader.read_frame(LONG).unwrap();
        assert_eq!((&*read, read.time()), (&b"without"[..], None));
        assert!(read.records().is_empty());
    }
    assert_eq!(reader.used_bytes(), 0);
}

#[test]
fn messages_arrive_between_frames_and_give_their_room_back_at_once() {
    let name = Name::new("records-messages");
    let (reader, writer) = pair(&name, 1024);
    for i in 0..500 {
        let caps = format!("caps {i}");
        let records = Records::new().with_caps(&caps);
        assert!(writer.write_message(&records, LONG).unwrap());
        writer.write_frame(&pattern(100, i)).unwrap();
        assert_eq!(message(reader.read(LONG).unwrap()).caps(), Some(&*caps));
        // The frame's, with the tail before it if it wrapped.
        let used = reader.used_bytes();
        assert!((116..116 + 116).contains(&used), "{used}");
        let frame = reader.read_frame(LONG).unwrap();
        assert_eq!(frame.sequence(), i + 1);
    }
    // At once, with no frame behind; and passed over by who wants frames only.
    writer
        .write_message(&Records::new().with(64, b"alone"), LONG)
        .unwrap();
    assert_eq!(
        message(reader.read(Wait::no()).unwrap()).get(64),
        Some(&b"alone"[..])
    );
    assert_eq!(reader.used_bytes(), 0);
    writer
        .write_message(&Records::new().with(64, b"passed over"), LONG)
        .unwrap();
    writer.write_frame(b"frame").unwrap();
    assert_eq!(&*reader.read_frame(Wait::no()).unwrap(), b"frame");
    assert_eq!(
        (writer.messages_written(), reader.messages_read()),
        (502, 502)
    );
    drop(writer);
    assert!(matches!(reader.read(LONG), Err(Error::WriterClosed { .. })));
}

#[test]
fn records_go_with_frames_that_were_lent_ahead() {
    let name = Name::new("records-ahead");
    let (reader, writer) = pair(&name, 16 * 1024);
    for i in 0..100 {
        let mut places: Vec<_> = (0..3).map(|_| writer.reserve_ahead(500).unwrap()).collect();
        for (j, place) in (i * 3..).zip(&mut places) {
            assert_eq!(place.as_ptr() as usize % 64, 0);
            place.copy_from_slice(&pattern(500, j));
            // A message takes no place away.
            let note = Records::new().with(64, &j.to_le_bytes());
            assert!(writer.write_message(&note, Wait::no()).unwrap());
            place
                .publish_with(&Records::new().with_time(&time(j)))
                .unwrap();
        }
        for j in i * 3..i * 3 + 3 {
            let note = message(reader.read(Wait::no()).unwrap());
            assert_eq!(note.get(64), Some(&j.to_le_bytes()[..]));
            let frame = reader.read_frame(Wait::no()).unwrap();
            assert_eq!(*frame, pattern(500, j));
            assert_eq!(frame.time(), Some(time(j)));
        }
    }
    assert_eq!(reader.used_bytes(), 0);
}

fn note(bytes: usize) -> Records {
    Records::new().with(64, &pattern(bytes, 3))
}

#[test]
fn caps_change_a_thousand_times_and_each_frame_is_under_its_own() {
    let name = Name::new("records-caps");
    let (reader, writer) = pair(&name, 4096);
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..1000u64 {
                let caps = Records::new().with_caps(&format!("caps {i}"));
                // In a message, or in front of the first frame that they are of.
                if i % 2 == 0 {
                    assert!(writer.write_message(&caps, LONG).unwrap());
                }
                for j in 0..i % 4 {
                    let frame = pattern(1 + (i * 37 % 900) as usize, i);
                    let records = if i % 2 == 1 && j == 0 {
                        &caps
                    } else {
                        &Records::new()
                    };
                    writer.write_frame_with(&frame, records, LONG).unwrap();
                }
            }
            writer.close();
        });
        let mut caps = String::new();
        let mut frames = vec![0; 1000];
        loop {
            let (records, frame) = match reader.read(LONG) {
                Ok(Item::Message(records)) => (records, None),
                Ok(Item::Frame(frame)) => (frame.records().clone(), Some(frame)),
                Err(Error::WriterClosed { .. }) => break,
                other => panic!("{other:?}"),
            };
            if let Some(new) = records.caps() {
                caps = new.into();
            }
            if let Some(frame) = frame {
                let i: u64 = caps.strip_prefix("caps ").unwrap().parse().unwrap();
                assert_eq!(*frame, pattern(1 + (i * 37 % 900) as usize, i));
                frames[i as usize] += 1;
            }
        }
        assert!((0..1000).zip(frames).all(|(i, frames)| frames == i % 4));
    });
    assert_eq!(reader.used_bytes(), 0);
}

#[test]
fn a_message_waits_for_room_like_a_frame_and_for_nothing_else() {
    let name = Name::new("records-full");
    let (reader, writer) = pair(&name, 1024);
    // Nobody reads.
    let mut sent = 0;
    let full = loop {
        match writer.write_message(&note(48), Wait::no()) {
            Ok(true) => sent += 1,
            other => break other,
        }
    };
    assert!(
        matches!(
            full,
            Err(Error::BufferFull {
                needed: 72,
                free: 16,
                ..
            })
        ),
        "{full:?}"
    );
    assert_eq!(sent, 14);
    let frame = writer.write_frame_wait(&[1; 10], Wait::no());
    assert!(matches!(frame, Err(Error::BufferFull { .. })), "{frame:?}");
    let interrupt = Interrupt::new();
    thread::scope(|scope| {
        let waiting = scope
            .spawn(|| writer.write_message(&note(48), Wait::forever().interrupted_by(&interrupt)));
        while writer.waits() == 0 {
            thread::yield_now();
        }
        interrupt.set();
        let interrupted = waiting.join().unwrap();
        assert!(
            matches!(interrupted, Err(Error::Interrupted)),
            "{interrupted:?}"
        );
        // It goes on as soon as one is read, though that is never held.
        let waiting = scope.spawn(|| writer.write_message(&note(48), LONG));
        for _ in 0..sent {
            assert_eq!(message(reader.read(LONG).unwrap()), note(48));
        }
        assert!(waiting.join().unwrap().unwrap());
    });
    assert_eq!(message(reader.read(LONG).unwrap()), note(48));
    assert_eq!(reader.used_bytes(), 0);
    // Behind a frame that is held its room comes back with that.
    writer.write_frame(&[1; 400]).unwrap();
    writer.write_message(&note(400), LONG).unwrap();
    let held = reader.read_frame(Wait::no()).unwrap();
    assert_eq!(message(reader.read(Wait::no()).unwrap()), note(400));
    assert!(reader.used_bytes() >= 416 + 424);
    let full = writer.write_message(&note(400), Wait::no());
    assert!(matches!(full, Err(Error::BufferFull { .. })), "{full:?}");
    drop(held);
    assert_eq!((reader.used_bytes(), reader.frames_held()), (0, 0));
    assert!(writer.write_message(&note(400), Wait::no()).unwrap());
}

#[test]
fn a_held_frame_leaves_the_ring_for_a_message_too() {
    let name = Name::new("records-evacuation");
    let (reader, writer) = pair(&name, 4096);
    reader.set_evacuation(true);
    let mut held = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..100 {
                let records = Records::new().with_time(&time(i));
                writer
                    .write_frame_with(&pattern(700, i), &records, LONG)
                    .unwrap();
                writer
                    .write_message(&note(1 + 15 * i as usize), LONG)
                    .unwrap();
            }
        });
        for i in 0..100 {
            let frame = reader.read_frame(LONG).unwrap();
            assert_eq!(
                message(reader.read(LONG).unwrap()),
                note(1 + 15 * i as usize)
            );
            assert_eq!(frame.time(), Some(time(i)));
            held.push(frame);
        }
    });
    for (i, frame) in (0..).zip(&held) {
        assert_eq!(**frame, pattern(700, i));
        assert_eq!(frame.time(), Some(time(i)));
    }
    held.clear();
    assert_eq!((reader.used_bytes(), reader.frames_held()), (0, 0));
}

#[test]
fn a_frame_that_passes_only_without_its_records_is_sent_without_and_counted() {
    let records = Records::new().with_time(&time(1));
    // 80 bytes of records, 16 of a header.
    for (len, dropped) in [(416, 0), (417, 1), (496, 1)] {
        let name = Name::new("records-without");
        let (reader, writer) = pair(&name, 512);
        writer
            .write_frame_with(&vec![7; len], &records, LONG)
            .unwrap();
        assert_eq!(writer.records_dropped(), dropped, "{len}");
        let frame = reader.read_frame(LONG).unwrap();
        assert_eq!((frame.len(), frame.time().is_some()), (len, dropped == 0));
    }
    let name = Name::new("records-without");
    let (reader, writer) = pair(&name, 512);
    let large = writer.write_frame_with(&[7; 497], &records, LONG);
    assert!(
        matches!(large, Err(Error::FrameTooLarge { .. })),
        "{large:?}"
    );
    // Not if the frame makes no sense without; the error names a size for both.
    let caps = Records::new().with_caps("these");
    let large = writer.write_frame_with(&[7; 490], &caps, LONG);
    let Err(Error::FrameTooLarge { good_size, .. }) = large else {
        panic!("{large:?}");
    };
    // From behind a small one, the large one alone would pass, with its records never.
    writer.write_frame_with(&[7; 60], &caps, LONG).unwrap();
    drop(reader.read_frame(LONG).unwrap());
    let never = writer.write_frame_with(&[7; 380], &caps, LONG);
    assert!(
        matches!(never, Err(Error::FrameCannotPass { .. })),
        "{never:?}"
    );
    writer.write_frame_with(&[7; 380], &note(8), LONG).unwrap();
    assert!(reader.read_frame(LONG).unwrap().records().is_empty());
    assert_eq!(writer.records_dropped(), 1);
    drop((reader, writer));
    let (reader, writer) = pair(&name, good_size);
    for _ in 0..20 {
        writer.write_frame_with(&[7; 490], &caps, LONG).unwrap();
        assert_eq!(reader.read_frame(LONG).unwrap().records(), &caps);
    }
    // So many are too many for any frame.
    let large = Records::new().with(64, &vec![0; good_size as usize / 2 - 20]);
    for refused in [
        writer.write_message(&large, LONG).map(|_| 0),
        writer.write_frame_with(b"frame", &large, LONG),
    ] {
        assert!(
            matches!(refused, Err(Error::RecordsTooLarge { most, .. }) if most == good_size / 2),
            "{refused:?}"
        );
    }
    drop((reader, writer));
    let (_reader, writer) = pair(&name, 16 << 20);
    for (len, passes) in [((1 << 20) - 24, true), ((1 << 20) - 23, false)] {
        let large = Records::new().with(64, &vec![0; len]);
        assert_eq!(writer.write_message(&large, LONG).is_ok(), passes);
    }
}

#[test]
fn places_lent_ahead_have_room_for_what_was_lately_needed() {
    let name = Name::new("records-room");
    let (reader, writer) = pair(&name, 256 << 10);
    let publish = |records: &Records| {
        let mut place = writer.reserve_ahead(1000).unwrap();
        place.fill(9);
        let published = place.publish_with(records);
        if published.is_err() {
            // It is still the application's to copy.
            assert!(place.is_pending_for(&writer));
            assert_eq!(*place, [9; 1000]);
            writer.write_frame_with(&place, records, LONG).unwrap();
        }
        let frame = reader.read_frame(Wait::no()).unwrap();
        assert_eq!((&*frame, frame.records()), (&[9; 1000][..], records));
        match published {
            Ok(_) => true,
            Err(Error::NoRoomForRecords { needed, room }) => {
                assert!(needed > room, "{needed} {room}");
                false
            }
            Err(err) => panic!("{err}"),
        }
    };
    let layout = FrameLayout {
        planes: 1,
        ..FrameLayout::default()
    };
    let usual = Records::new().with_time(&time(1)).with_layout(&layout);
    assert!(publish(&usual), "time and layout fit always");
    // The first that is larger is copied, those behind it are not, until it is long ago.
    assert!(!publish(&note(5000)));
    for _ in 0..100 {
        assert!(publish(&note(5000)));
    }
    for _ in 0..600 {
        assert!(publish(&usual));
    }
    assert!(!publish(&note(5000)));
    // So much is not left in front of any.
    assert!(!publish(&note(100_000)) && !publish(&note(100_000)));
    assert!(publish(&note(16_000)));
    assert_eq!(writer.records_dropped(), 0);
}

#[test]
fn what_is_lent_ahead_is_passed_by_by_a_message_that_is_too_large_for_the_room() {
    let name = Name::new("records-passed");
    let (reader, writer) = pair(&name, 16 << 10);
    let mut places = [(); 3].map(|()| writer.reserve_ahead(100).unwrap());
    assert!(writer.write_message(&note(64), Wait::no()).unwrap());
    places[0].publish().unwrap();
    assert!(writer.write_message(&note(1000), Wait::no()).unwrap());
    for place in &mut places[1..] {
        let passed = place.publish_with(&note(1));
        assert!(matches!(passed, Err(Error::OutOfOrder)), "{passed:?}");
        // Nor does it come back.
        assert!(matches!(
            place.set_records(&note(1)),
            Err(Error::OutOfOrder)
        ));
    }
    assert_eq!(message(reader.read(Wait::no()).unwrap()), note(64));
    assert_eq!(reader.read_frame(Wait::no()).unwrap().sequence(), 1);
    assert_eq!(message(reader.read(Wait::no()).unwrap()), note(1000));
    drop(places);
    // While a thread has a place of its own, there is nothing before it.
    let place = writer.reserve(10, LONG).unwrap();
    let pending = writer.write_message(&note(1), LONG);
    assert!(
        matches!(pending, Err(Error::ReservationPending)),
        "{pending:?}"
    );
    thread::scope(|scope| {
        let waiting = scope.spawn(|| writer.write_message(&note(1), LONG));
        place.commit().unwrap();
        assert!(waiting.join().unwrap().unwrap());
    });
    assert_eq!(reader.read_frame(Wait::no()).unwrap().sequence(), 2);
    assert_eq!(message(reader.read(Wait::no()).unwrap()), note(1));
    assert_eq!(reader.used_bytes(), 0);
}

#[test]
fn what_is_lent_for_ever_leaves_room_for_a_copy_with_its_records() {
    let name = Name::new("records-lent");
    for (size, len) in (4 << 10..16 << 10).step_by(192).zip([10, 1000].repeat(99)) {
        let (reader, writer) = pair(&name, size);
        // The copy may have to be written from anywhere.
        for before in [1, 700, 1500] {
            writer.write_frame(&vec![0; before]).unwrap();
            drop(reader.read_frame(Wait::no()).unwrap());
            let mut lent: Vec<_> = (0..).map_while(|_| writer.reserve_ahead(len)).collect();
            for place in lent.iter_mut().step_by(2) {
                place.publish().unwrap();
                drop(reader.read_frame(Wait::no()).unwrap());
            }
            let frame = vec![7; len as usize];
            for i in 0..20 {
                let records = Records::new().with_time(&time(i)).with(64, &[1; 64]);
                writer
                    .write_frame_with(&frame, &records, Wait::no())
                    .unwrap();
                let read = reader.read_frame(Wait::no()).unwrap();
                assert_eq!((&*read, read.records()), (&*frame, &records), "{size}");
            }
        }
        assert_eq!(writer.records_dropped(), 0, "{size}");
        drop(writer);
    }
}

#[test]
fn who_has_what_is_lent_may_wait_for_a_copy_that_passes_only_without_its_records() {
    let name = Name::new("records-stuck");
    let (reader, writer) = pair(&name, 16 << 10);
    let lent: Vec<_> = (0..).map_while(|_| writer.reserve_ahead(1000)).collect();
    assert!(lent.len() > 5);
    // Nothing that the reader does could help.
    writer
        .write_frame_with(&[7; 1000], &note(6000), LONG)
        .unwrap();
    assert_eq!((writer.records_dropped(), writer.waits()), (1, 0));
    let frame = reader.read_frame(Wait::no()).unwrap();
    assert_eq!((frame.len(), frame.records().is_empty()), (1000, true));
    // While it can help, the records are not given up.
    let waited = writer.write_frame_with(&[7; 1000], &note(6000), Duration::from_millis(1));
    assert!(
        matches!(waited, Err(Error::BufferFull { .. })),
        "{waited:?}"
    );
    drop(frame);
    drop(lent);
    let required = Records::new().with_caps(&"x".repeat(6000));
    writer
        .write_frame_with(&[7; 1000], &required, LONG)
        .unwrap();
    let frame = reader.read_frame(Wait::no()).unwrap();
    assert_eq!(frame.records(), &required);
}

#[test]
fn records_may_be_changed_until_the_frame_is_sent() {
    let name = Name::new("records-changed");
    let (reader, writer) = pair(&name, 4096);
    let mut place = writer.reserve_with(3, &note(40), LONG).unwrap();
    place.copy_from_slice(b"one");
    place
        .set_records(&Records::new().with_caps("shorter"))
        .unwrap();
    let more = place.set_records(&note(41));
    assert!(
        matches!(more, Err(Error::NoRoomForRecords { .. })),
        "{more:?}"
    );
    place.commit().unwrap();
    let frame = reader.read_frame(LONG).unwrap();
    assert_eq!(frame.records().caps(), Some("shorter"));
    let place = writer.reserve_with(1, &note(40), LONG).unwrap();
    place.commit_with(&Records::new()).unwrap();
    assert!(reader.read_frame(LONG).unwrap().records().is_empty());
    // An ordinary reservation has no room.
    let mut place = writer.reserve(1, LONG).unwrap();
    let none = place.set_records(&note(1));
    assert!(
        matches!(none, Err(Error::NoRoomForRecords { room: 0, .. })),
        "{none:?}"
    );
    place.set_records(&Records::new()).unwrap();
    place.commit().unwrap();
    assert!(reader.read_frame(LONG).unwrap().records().is_empty());
    let done = writer.reserve_ahead(1).map(|mut place| {
        place.publish().unwrap();
        place.set_records(&note(1))
    });
    assert!(matches!(done, Some(Err(Error::OutOfOrder))), "{done:?}");
}

/// All bytes of the segment, in which a writer has done `what`.
fn segment_after(metadata: u64, what: impl Fn(&Writer)) -> (Vec<u8>, u32) {
    let name = Name::new("records-v1");
    let reader = V1Reader::create(&name, metadata, 4096);
    let writer = Writer::attach(&name).unwrap();
    assert!(!writer.carries_records() && !writer.can_request_size());
    what(&writer);
    let bytes = reader.raw.bytes(0, reader.raw.len() as usize);
    (bytes, reader.sem_write.count())
}

#[test]
fn towards_a_v1_reader_no_byte_tells_that_there_are_records() {
    for metadata in [64, 128, 1024] {
        let frames = || (0..20).map(|i| pattern(10 + 7 * i, i as u64));
        let plain = segment_after(metadata, |writer| {
            writer.set_metadata(b"about").unwrap();
            for frame in frames() {
                writer.write_frame(&frame).unwrap();
            }
        });
        let with_records = segment_after(metadata, |writer| {
            writer.set_metadata(b"about").unwrap();
            for (i, frame) in (0..).zip(frames()) {
                let records = Records::new().with_time(&time(i)).with(64, b"mine");
                match i % 3 {
                    0 => writer.write_frame_with(&frame, &records, LONG).unwrap(),
                    1 => {
                        let mut place = writer
                            .reserve_with(frame.len() as u64, &records, LONG)
                            .unwrap();
                        place.copy_from_slice(&frame);
                        place.commit().unwrap()
                    }
                    _ => {
                        let mut place = writer.reserve(frame.len() as u64, LONG).unwrap();
                        place.copy_from_slice(&frame);
                        place.commit_with(&records).unwrap()
                    }
                };
                assert!(!writer.write_message(&records, LONG).unwrap());
                assert!(!writer.request_size(1 << 20, LONG).unwrap());
                // What cannot be told is an error, and nothing else.
                for records in [
                    Records::new().with_caps("others"),
                    Records::new().with_layout(&FrameLayout::default()),
                ] {
                    for refused in [
                        writer.write_message(&records, LONG).map(|_| 0),
                        writer.write_frame_with(&frame, &records, LONG),
                        writer
                            .reserve(10, LONG)
                            .and_then(|place| place.commit_with(&records)),
                    ] {
                        assert!(
                            matches!(refused, Err(Error::RecordsNotCarried { .. })),
                            "{refused:?}"
                        );
                    }
                }
            }
        });
        assert!(plain == with_records, "metadata of {metadata} bytes");
    }
}

#[test]
fn metadata_of_any_length_and_records_do_not_disturb_each_other() {
    // Up to the last byte of the block, where the hello was.
    for len in [0, 100, 952, 953, 1000, 1016] {
        let name = Name::new("records-metadata");
        let (reader, writer) = pair(&name, 1024);
        writer.set_metadata(&pattern(len, 5)).unwrap();
        for i in 0..10 {
            let records = Records::new().with_time(&time(i));
            writer.write_frame_with(&[1; 300], &records, LONG).unwrap();
            writer.write_frame_with(&[2; 300], &records, LONG).unwrap();
            // It waits for room, and would say so in the hello.
            thread::scope(|scope| {
                let waits = writer.waits();
                let waiting = scope.spawn(|| writer.write_message(&note(400), LONG));
                while writer.waits() == waits {
                    thread::yield_now();
                }
                assert_eq!(reader.read_frame(LONG).unwrap().time(), Some(time(i)));
                assert_eq!(reader.read_frame(LONG).unwrap().time(), Some(time(i)));
                assert_eq!(message(reader.read(LONG).unwrap()), note(400));
                assert!(waiting.join().unwrap().unwrap());
            });
        }
        assert_eq!(reader.metadata().unwrap().unwrap(), pattern(len, 5));
        drop(reader.replace(&BufferConfig::default()).unwrap());
        assert_eq!(reader.metadata().unwrap().unwrap(), pattern(len, 5));
    }
}

/// The writer's work of publishing what `fill` has put into the ring, by hand.
struct Forger {
    raw: Raw,
    sem: RawSem,
}

impl Forger {
    fn new(name: &Name) -> Self {
        let raw = name.raw();
        // Somebody whose end ends nothing.
        raw.set(raw::WRITER_PID, 1);
        Forger {
            raw,
            sem: RawSem::open('w', name),
        }
    }

    /// What stands in the ring from `at` on.
    fn put(&self, at: u64, bytes: &[u8]) {
        self.raw.write(self.raw.payload_start() + at, bytes);
    }

    fn publish(&self, to: u64, cost: u64) {
        let free = self.raw.get(raw::FREE);
        self.raw.set(raw::FREE, free.wrapping_sub(cost));
        self.raw.set(raw::WRITE_POS, to);
        self.sem.post();
    }
}

fn header(len: u64, sequence: u64) -> Vec<u8> {
    [len.to_le_bytes(), sequence.to_le_bytes()].concat()
}

fn record(kind: u16, flags: u16, len: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(flags.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(value);
    bytes
}

const MESSAGE: u64 = 3 << 62;

#[test]
fn what_is_not_known_is_left_out_or_ends_the_stream() {
    let name = Name::new("records-unknown");
    let reader = Reader::create(&name, &BufferConfig::default()).unwrap();
    let forger = Forger::new(&name);
    let put = |at: u64, records: &[u8]| {
        let len = 16 + records.len() as u64;
        forger.put(at, &header(0, MESSAGE | len));
        forger.put(at + 16, records);
        forger.publish(at + len, len);
        at + len
    };
    // A kind of tomorrow, flags of tomorrow, times that have become longer, two of a kind.
    let mut value = vec![0xaa; 64];
    value[..8].copy_from_slice(&77u64.to_le_bytes());
    let known = [
        record(50, 0, 8, &[1; 8]),
        record(70, 0xfffe, 8, &[2; 8]),
        record(1, 0, 64, &value),
        record(70, 1, 8, &[3; 8]),
        record(2, 1, 3, b"\xff\xfe\0"),
    ];
    let at = put(0, &known.concat());
    let records = message(reader.read(Wait::no()).unwrap());
    let kinds: Vec<_> = records
        .iter()
        .map(|record| (record.kind, record.required))
        .collect();
    assert_eq!(
        kinds,
        [(50, false), (70, false), (1, false), (70, true), (2, true)]
    );
    assert_eq!(records.time().unwrap().pts, Some(77));
    assert_eq!(records.get(70), Some(&[2; 8][..]));
    assert_eq!(records.caps(), None, "it is no text");
    // Behind the end, or with less than a header, there is none.
    let ended = [
        record(70, 0, 4, &[4, 4, 4, 4, 0, 0, 0, 0]),
        record(0, 0, 0, &[]),
        record(70, 0, u32::MAX, &[]),
    ];
    let at = put(at, &ended.concat());
    assert_eq!(message(reader.read(Wait::no()).unwrap()).iter().count(), 1);
    // Without the padding of the last.
    let at = put(at, &record(70, 0, 5, b"12345"));
    let records = message(reader.read(Wait::no()).unwrap());
    assert_eq!(records.get(70), Some(&b"12345"[..]));
    // What is too short for its kind, or has more planes than there are, says nothing.
    let short = [
        record(1, 0, 48, &[0; 48]),
        record(3, 1, 64, &[9; 64]),
        record(4, 0, 0, &[]),
    ];
    let at = put(at, &short.concat());
    let records = message(reader.read(Wait::no()).unwrap());
    assert_eq!((records.time(), records.layout()), (None, None));
    assert_eq!(records.iter().count(), 3);
    // Those that are known may be required, whatever they say.
    let required: Vec<u8> = (1..=6)
        .flat_map(|kind| record(kind, 1, 8, &[1; 8]))
        .collect();
    let at = put(at, &required);
    assert!(matches!(reader.read(Wait::no()), Ok(Item::Resize(_))));
    // It must be known.
    put(at, &record(50, 1, 8, &[1; 8]));
    for _ in 0..2 {
        let unknown = reader.read(Wait::no());
        assert!(
            matches!(unknown, Err(Error::UnknownRecord { kind: 50, .. })),
            "{unknown:?}"
        );
    }
}

#[test]
fn records_that_do_not_end_inside_of_their_block_break_the_stream() {
    for records in [
        record(70, 0, 1, &[]),
        record(70, 0, u32::MAX, &[0; 8]),
        [record(70, 0, 8, &[0; 8]), record(71, 0, 9, &[0; 8])].concat(),
    ] {
        for alone in [true, false] {
            let name = Name::new("records-overlong");
            let reader = Reader::create(&name, &BufferConfig::default()).unwrap();
            let forger = Forger::new(&name);
            let len = 16 + records.len() as u64;
            let kind = if alone { MESSAGE } else { 1 << 63 };
            forger.put(0, &header(0, kind | len));
            forger.put(16, &records);
            forger.put(len, &header(4, 1));
            let end = if alone { len } else { len + 20 };
            forger.publish(end, end);
            for _ in 0..2 {
                let broken = reader.read(Wait::no());
                assert!(matches!(broken, Err(Error::Corrupt { .. })), "{broken:?}");
            }
        }
    }
}

#[test]
fn a_post_without_a_message_does_not_bring_an_old_one_again() {
    let name = Name::new("records-stale");
    let (reader, writer) = pair(&name, 192);
    let sem = RawSem::open('w', &name);
    // Round and round: where the next would be stands one of the last lap.
    for _ in 0..20 {
        assert!(writer.write_message(&note(24), LONG).unwrap());
        assert_eq!(message(reader.read(LONG).unwrap()), note(24));
        sem.post();
        let none = reader.read(Wait::no());
        assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
    }
    assert_eq!((reader.used_bytes(), reader.messages_read()), (0, 20));
    // A ring that is full to the last byte is not empty.
    for _ in 0..4 {
        assert!(writer.write_message(&note(24), Wait::no()).unwrap());
    }
    assert_eq!(reader.used_bytes(), 192);
    for _ in 0..4 {
        assert_eq!(message(reader.read(Wait::no()).unwrap()), note(24));
    }
}

#[test]
fn who_reads_frames_only_is_not_kept_by_messages_without_end() {
    let name = Name::new("records-endless");
    let (reader, writer) = pair(&name, 1024);
    for _ in 0..10 {
        writer.write_message(&note(8), LONG).unwrap();
    }
    // All that are there are passed over, whatever the time.
    writer.write_frame(b"frame").unwrap();
    assert_eq!(&*reader.read_frame(Wait::no()).unwrap(), b"frame");
    let interrupt = Interrupt::new();
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            while writer
                .write_message(&note(8), Wait::forever().interrupted_by(&interrupt))
                .is_ok()
            {}
        });
        let none = reader.read_frame(Duration::from_millis(10));
        assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
        interrupt.set();
        let interrupted = reader.read_frame(Wait::forever().interrupted_by(&interrupt));
        assert!(
            matches!(interrupted, Err(Error::Interrupted)),
            "{interrupted:?}"
        );
        writing.join().unwrap();
    });
}

#[test]
fn writers_that_say_something_before_their_first_frame_follow_each_other() {
    let name = Name::new("records-writers");
    let reader = Reader::create(&name, &BufferConfig::default()).unwrap();
    for i in 0..30 {
        let writer = Writer::attach(&name).unwrap();
        let caps = Records::new().with_caps(&format!("of {i}"));
        writer.write_message(&caps, LONG).unwrap();
        // Some say nothing else.
        for _ in 0..i % 3 {
            writer.write_frame(&[i; 40]).unwrap();
        }
        drop(writer);
        assert_eq!(message(reader.read(LONG).unwrap()), caps);
        for number in 0..i % 3 {
            let frame = reader.read_frame(LONG).unwrap();
            assert_eq!(
                (frame.sequence(), &*frame),
                (u64::from(number) + 1, &[i; 40][..])
            );
        }
        assert!(matches!(reader.read(LONG), Err(Error::WriterClosed { .. })));
    }
    assert_eq!(reader.used_bytes(), 0);
}

/// What a writer has published last when it is killed.
#[derive(Clone, Copy, Debug)]
enum Last {
    Message,
    Frame,
    Ahead,
}

#[test]
fn a_writer_that_dies_between_any_two_of_its_steps_harms_neither_what_was_before_nor_the_next() {
    const TEST: &str = "a_writer_that_dies_between_any_two_of_its_steps_harms_neither_what_was_before_nor_the_next";
    let last = |kind| match kind {
        "message" => Last::Message,
        "frame" => Last::Frame,
        _ => Last::Ahead,
    };
    let publish = |writer: &Writer, kind: Last| {
        let records = Records::new().with_time(&time(9));
        match kind {
            Last::Message => drop(writer.write_message(&records, LONG).unwrap()),
            Last::Frame => drop(writer.write_frame_with(&[2; 50], &records, LONG).unwrap()),
            Last::Ahead => {
                let mut place = writer.reserve_ahead(50).unwrap();
                place.fill(2);
                place.publish_with(&records).unwrap();
            }
        }
    };
    if let Some(role) = support::role() {
        let (name, kind) = role.split_once(' ').unwrap();
        let writer = Writer::attach(name).unwrap();
        writer.write_message(&note(20), LONG).unwrap();
        writer.write_frame_with(&[1; 30], &note(30), LONG).unwrap();
        say("before");
        listen();
        publish(&writer, last(kind));
        say("after");
        listen();
        return;
    }
    for kind in ["message", "frame", "ahead"] {
        // Bytes and headers; free bytes; position; count; post.
        for steps in 0..=5 {
            let what = format!("{kind}, killed after {steps} steps");
            let name = Name::new("records-killed");
            let reader = Reader::create(&name, &BufferConfig::new(1024, 8192)).unwrap();
            let raw = name.raw();
            let sem = RawSem::open('w', &name);
            let mut child = Running::start(&mut again(TEST, &format!("{} {kind}", &*name)));
            let pid = child.pid();
            assert_eq!(child.hear(), "before");
            // Without a look at it, or it would be known to be alive until now.
            let ring = raw.payload_start();
            let before = raw.bytes(0, raw.len() as usize);
            let posts = sem.count();
            child.tell("go on");
            assert_eq!(child.hear(), "after");
            child.kill();
            if steps < 1 {
                raw.write(ring, &before[ring as usize..]);
            }
            for (step, field) in [(2, raw::FREE), (3, raw::WRITE_POS), (4, raw::WRITTEN_COUNT)] {
                if steps < step {
                    raw.write(field, &before[field as usize..][..8]);
                }
            }
            if steps < 5 {
                sem.set(posts);
            }
            assert_eq!(message(reader.read(LONG).unwrap()), note(20), "{what}");
            let held = reader.read_frame(LONG).unwrap();
            assert_eq!(
                (&*held, held.records()),
                (&[1; 30][..], &note(30)),
                "{what}"
            );
            if steps >= 3 {
                match (reader.read(LONG).unwrap(), kind) {
                    (Item::Message(records), "message") => {
                        assert_eq!(records.time(), Some(time(9)))
                    }
                    (Item::Frame(frame), "frame" | "ahead") => {
                        assert_eq!((&*frame, frame.time()), (&[2; 50][..], Some(time(9))));
                    }
                    (other, _) => panic!("{what}: {other:?}"),
                }
            }
            let dead = reader.read(LONG);
            assert!(
                matches!(dead, Err(Error::WriterDead { pid: dead, .. }) if dead == pid),
                "{what}: {dead:?}"
            );
            assert_eq!(reader.writer(), WriterState::Dead { pid });
            drop(held);
            assert_eq!(reader.used_bytes(), 0, "{what}");
            // The next.
            let writer = Writer::attach(&name).unwrap();
            for i in 0..50 {
                writer.write_message(&note(i), LONG).unwrap();
                publish(&writer, last(kind));
                writer.write_frame(&pattern(500, 1)).unwrap();
                assert_eq!(message(reader.read(LONG).unwrap()), note(i), "{what}");
                if kind == "message" {
                    message(reader.read(LONG).unwrap());
                } else {
                    assert_eq!(*reader.read_frame(LONG).unwrap(), [2; 50], "{what}");
                }
                assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(500, 1), "{what}");
            }
            assert_eq!(reader.used_bytes(), 0, "{what}");
        }
    }
}

/// Item `i` of a stream, in which messages, copied frames and frames lent ahead take turns.
fn write_item(writer: &Writer, i: u64, lent: &mut Vec<(u64, Reservation)>) {
    let records = Records::new()
        .with_time(&time(i))
        .with(64, &pattern((i * 31 % 150) as usize, i));
    let frame = pattern(1 + (i * 7919 % 1500) as usize, i);
    if i.is_multiple_of(3) {
        writer.write_message(&records, LONG).unwrap();
        return;
    }
    // Lent some time before, if it was not passed by.
    let place = lent.iter().position(|(of, _)| *of == i);
    let published = place.and_then(|at| {
        let (_, mut place) = lent.swap_remove(at);
        place.copy_from_slice(&frame);
        place.publish_with(&records).ok()
    });
    if published.is_none() {
        writer.write_frame_with(&frame, &records, LONG).unwrap();
    }
    for ahead in i + 1..i + 4 {
        let len = 1 + ahead * 7919 % 1500;
        if ahead % 3 == 1 && lent.iter().all(|(of, _)| *of != ahead) {
            lent.extend(writer.reserve_ahead(len).map(|place| (ahead, place)));
        }
    }
}

#[test]
fn all_that_a_writer_said_before_it_was_killed_arrives_and_then_what_the_next_says() {
    const TEST: &str =
        "all_that_a_writer_said_before_it_was_killed_arrives_and_then_what_the_next_says";
    let name = Name::new("records-kill");
    if let Some(name) = support::role() {
        let writer = Writer::attach(&name).unwrap();
        let mut lent = Vec::new();
        for i in 0.. {
            write_item(&writer, i, &mut lent);
        }
    }
    let reader = Reader::create(&name, &BufferConfig::new(1024, 24 << 10)).unwrap();
    for round in 0..12u64 {
        let mut child = Some(Running::start(&mut again(TEST, &name)));
        let pid = child.as_ref().unwrap().pid();
        let mut i = 0;
        loop {
            let item = match reader.read(LONG) {
                Err(Error::WriterDead { pid: dead, .. }) if dead != pid && i == 0 => continue,
                Err(Error::WriterDead { pid: dead, .. }) => {
                    assert_eq!(dead, pid);
                    assert!(child.is_none() && i >= 200);
                    break;
                }
                item => item.unwrap(),
            };
            let (records, frame) = match item {
                Item::Message(records) => (records, None),
                Item::Frame(frame) => (frame.records().clone(), Some(frame)),
                other => panic!("{other:?}"),
            };
            assert_eq!(frame.is_none(), i % 3 == 0, "round {round}, item {i}");
            assert_eq!(records.time(), Some(time(i)), "round {round}");
            let own = pattern((i * 31 % 150) as usize, i);
            assert_eq!(records.get(64), Some(&own[..]), "round {round}, item {i}");
            if let Some(frame) = frame {
                let content = pattern(1 + (i * 7919 % 1500) as usize, i);
                assert_eq!(*frame, content, "round {round}, item {i}");
            }
            i += 1;
            if i == 200 + round * 13 {
                child.take().unwrap().kill();
            }
        }
        assert_eq!(reader.used_bytes(), 0, "round {round}");
    }
    drop(reader);
    name.assert_nothing_left();
}

/// A header that a hostile writer puts somewhere.
fn hostile_header() -> impl Strategy<Value = (u64, u64)> {
    let kind = prop_oneof![
        Just(1u64 << 63),
        Just(3u64 << 62),
        Just(0),
        Just(1u64 << 62)
    ];
    let len = prop_oneof![
        4 => 0u64..1200,
        2 => (0u64..150).prop_map(|n| n * 8),
        1 => any::<u64>(),
        1 => (0u64..64).prop_map(|bit| 1 << bit),
    ];
    let size = prop_oneof![8 => Just(0u64), 2 => 0u64..1200, 1 => any::<u64>()];
    (size, kind, len).prop_map(|(size, kind, len)| (size, kind | len))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_writer_puts_into_the_ring_nobody_reads_outside_of_it_or_without_end(
        blocks in 1u64..16,
        noise in prop::collection::vec(any::<u8>(), 64),
        headers in prop::collection::vec((0u64..1024, hostile_header()), 0..40),
        rows in prop::collection::vec((0u64..1024, (any::<u16>(), any::<u16>(), 0u32..600)), 0..40),
        words in prop::collection::vec((0u64..1100, any::<bool>()), 1..12),
    ) {
        let size = blocks * 64;
        let name = Name::new("records-hostile");
        let reader = Reader::create(&name, &BufferConfig::new(1024, size)).unwrap();
        reader.set_evacuation(true);
        let forger = Forger::new(&name);
        let ring = forger.raw.payload_start();
        forger.raw.file().write_all_at(&noise.repeat(blocks as usize), ring).unwrap();
        for (at, (kind, flags, len)) in rows {
            // Small kinds are the ones that mean something.
            let row = record(kind % 80, flags, len, &[]);
            if at + 8 <= size {
                forger.put(at, &row);
            }
        }
        for (at, (len, sequence)) in headers {
            if at + 16 <= size {
                forger.put(at, &header(len, sequence));
            }
        }
        let mut held = Vec::new();
        let mut read = 0;
        for (to, changes_free) in words {
            forger.raw.set(raw::WRITE_POS, to);
            if changes_free {
                forger.raw.set(raw::FREE, to);
            }
            for _ in 0..4 {
                forger.sem.post();
            }
            // Each read takes a post or ends.
            while let Ok(item) = reader.read(Wait::no()) {
                read += 1;
                prop_assert!(read <= 48, "more than there were posts");
                match item {
                    Item::Frame(frame) => {
                        prop_assert!(frame.len() as u64 <= size);
                        let bytes: u64 = frame.iter().map(|byte| u64::from(*byte)).sum();
                        prop_assert!(bytes <= 255 * size);
                        held.push(frame);
                    }
                    Item::Message(records) => {
                        let len: usize = records.iter().map(|record| record.value.len()).sum();
                        prop_assert!(len as u64 <= size);
                        prop_assert!(records.caps().is_none_or(|caps| caps.len() <= len));
                        let _ = (records.time(), records.layout(), format!("{records:?}"));
                    }
                    _ => {}
                }
            }
        }
        let _ = reader.replace(&BufferConfig::new(1024, size));
    }
}
