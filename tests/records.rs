//! What goes along with frames, and between them: records, messages, another size of the ring.

mod support;

use std::time::Duration;

use gstzerobuffer::{
    BufferConfig, Error, FrameLayout, FrameTime, Item, Reader, Records, Wait, Writer,
};

use support::{LONG, Name, pattern};

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

#[test]
fn the_reader_makes_the_buffer_anew_when_it_is_asked_to() {
    let name = Name::new("records-resize");
    let small = BufferConfig::new(1024, 256).with_resizing();
    let reader = Reader::create(&name, &small).unwrap();
    let writer = Writer::attach(&name).unwrap();
    let too_large = writer.write_frame(&[1; 1000]);
    assert!(matches!(too_large, Err(Error::FrameTooLarge { .. })));
    writer.write_frame(&[1; 100]).unwrap();
    assert!(writer.request_size(4096, LONG).unwrap());
    let held = reader.read_frame(Wait::no()).unwrap();
    let Item::Resize(bytes) = reader.read(Wait::no()).unwrap() else {
        panic!("it asked");
    };
    let config = BufferConfig {
        payload_size: bytes,
        ..small
    };
    let new = reader.replace(&config).unwrap();
    assert_eq!(*held, [1; 100]);
    let replaced = writer.write_frame(&[2; 10]).unwrap_err();
    assert!(
        matches!(replaced, Error::ReaderReplaced { .. }),
        "{replaced}"
    );
    assert!(replaced.is_no_reader());
    drop(writer);
    assert!(matches!(reader.read(LONG), Err(Error::WriterClosed { .. })));
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(&[1; 1000]).unwrap();
    assert_eq!(*new.read_frame(Duration::ZERO).unwrap(), [1; 1000]);
    drop((reader, new, writer));
    assert_eq!(*held, [1; 100]);
    name.assert_nothing_left();
}
