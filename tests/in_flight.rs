//! What is under way when somebody goes, is killed, or flushes.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::time::Duration;

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, FIRST_USER_KIND, Item, Reader, Wait, Writer};
use support::{LONG, Name, Running, again, role, say};
use support_gst::Pipeline;

const CAPS: &str = "application/x-in-flight";

/// Sends buffers of any size as they are.
fn sender(name: &str) -> Pipeline {
    Pipeline::play(&format!(
        "appsrc name=in caps={CAPS} format=time \
         ! zerobuffersink name=sink sync=false async=false buffer-name={name}"
    ))
}

fn buffer(value: u8, len: usize) -> gst::Buffer {
    gst::Buffer::from_slice(vec![value; len])
}

#[test]
fn a_reader_that_goes_with_its_new_ring_is_as_if_there_had_been_none() {
    let name = Name::new("flight-replaced");
    let config = BufferConfig::new(1024, 2000).with_resizing();
    let mut reader = Reader::create(&name, &config).unwrap();
    let sender = sender(&name);
    // So that it can be seen that it no longer waits for the new ring.
    let sink = sender.element("sink");
    sink.set_property("wait-for-connection", false);
    let mut frames = 0;
    let bytes = loop {
        sender.appsrc("in").push_buffer(buffer(7, 1500)).unwrap();
        let Item::Resize(bytes) = reader.read(LONG).unwrap() else {
            panic!("the ring is too small, and the sink knows that first");
        };
        let next = reader.replace(&BufferConfig::new(1024, bytes)).unwrap();
        drop((next, reader));
        let count = |field| sender.stat("sink", field);
        while count("dropped") == 0 && count("frames") == frames {
            sender.no_error();
            std::thread::yield_now();
        }
        if count("dropped") == 1 {
            break bytes;
        }
        // It was in the new ring before that went, or went on without: once more.
        frames += 1;
        reader = Reader::create(&name, &config).unwrap();
    };
    let reader = Reader::create(&name, &BufferConfig::new(1024, bytes)).unwrap();
    sender.appsrc("in").push_buffer(buffer(8, 1500)).unwrap();
    assert_eq!(*reader.read_frame(LONG).unwrap(), [8; 1500]);
}

#[test]
fn a_reader_that_stands_still_is_given_time_for_a_larger_ring() {
    let name = Name::new("flight-still");
    let config = BufferConfig::new(1024, 1000).with_resizing();
    let reader = Reader::create(&name, &config).unwrap();
    let sender = sender(&name);
    let (source, sink) = (sender.appsrc("in"), sender.element("sink"));
    sink.set_property_from_str("on-full", "drop");
    source.push_buffer(buffer(7, 1500)).unwrap();
    // It does not read: that is no reason for an error, though no frame can pass.
    sender.until("sink", "dropped", 1);
    sink.set_property_from_str("on-full", "block");
    source.push_buffer(buffer(8, 1500)).unwrap();
    let Item::Resize(bytes) = reader.read(LONG).unwrap() else {
        panic!("it was asked");
    };
    let next = reader.replace(&BufferConfig::new(1024, bytes)).unwrap();
    sender.until("sink", "frames", 1);
    assert_eq!(*next.read_frame(LONG).unwrap(), [8; 1500]);
    // One that says that its ring stays as it is is no reason to wait.
    drop((reader, next));
    let reader = Reader::create(&name, &config).unwrap();
    source.push_buffer(buffer(9, 1500)).unwrap();
    let asked = reader.read(LONG).unwrap();
    assert!(matches!(asked, Item::Resize(_)), "{asked:?}");
    reader.keep_size();
    let error = sender.error();
    assert!(error.contains("1500"), "{error}");
}

/// Nothing is waited for, so what is held stays where it is.
#[track_caller]
fn leaves_what_is_held_alone(reader: &Reader, value: u8) {
    let held = reader.read_frame(LONG).unwrap();
    assert_eq!(*held, [value; 1000]);
    reader.read_frame(Duration::from_millis(1)).unwrap_err();
    assert_eq!(reader.frames_copied(), 0);
}

fn evacuating(name: &str) -> Reader {
    let reader = Reader::create(name, &BufferConfig::new(1024, 10_000)).unwrap();
    reader.set_evacuation(true);
    reader
}

#[test]
fn what_a_killed_writer_waited_for_is_no_wish_of_the_next_one() {
    if let Some(name) = role() {
        let writer = Writer::attach(&name).unwrap();
        while writer.write_frame_wait(&[1; 1000], Wait::no()).is_ok() {}
        let waits = writer.waits();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_frame_wait(&[1; 9000], Wait::forever()));
            while writer.waits() == waits {
                std::thread::yield_now();
            }
            say("waiting");
            std::thread::park();
        });
    }
    let name = Name::new("flight-killed");
    let reader = evacuating(&name);
    let test = "what_a_killed_writer_waited_for_is_no_wish_of_the_next_one";
    let mut child = Running::start(&mut again(test, &name));
    assert_eq!(child.hear(), "waiting");
    child.kill();
    while reader.read_frame(LONG).is_ok() {}
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(&[2; 1000]).unwrap();
    leaves_what_is_held_alone(&reader, 2);
}

#[test]
fn metadata_over_the_hello_is_no_wish() {
    let name = Name::new("flight-metadata");
    let reader = evacuating(&name);
    let writer = Writer::attach(&name).unwrap();
    writer.set_metadata(&[0xff; 1024 - 8]).unwrap();
    // Nor do they change.
    reader.set_evacuation(false);
    reader.set_evacuation(true);
    assert_eq!(reader.metadata().unwrap().unwrap(), [0xff; 1024 - 8]);
    writer.write_frame(&[3; 1000]).unwrap();
    leaves_what_is_held_alone(&reader, 3);
}

#[test]
fn a_flush_before_the_first_frame_leaves_what_is_still_true() {
    let name = Name::new("flight-tags");
    // Full, so that the first frame has to wait.
    let reader = Reader::create(&name, &BufferConfig::new(1024, 10_000)).unwrap();
    let before = Writer::attach(&name).unwrap();
    while before.write_frame_wait(&[1; 1000], Wait::no()).is_ok() {}
    drop(before);
    let sender = sender(&name);
    let mut tags = gst::TagList::new();
    let edit = tags.make_mut();
    edit.add::<gst::tags::Title>(&"still true", gst::TagMergeMode::Append);
    let source = sender.appsrc("in");
    source.send_event(gst::event::Tag::new(tags));
    source.push_buffer(buffer(7, 1000)).unwrap();
    sender.until("sink", "waits", 1);
    assert!(source.send_event(gst::event::FlushStart::new()));
    assert!(source.send_event(gst::event::FlushStop::new(true)));
    source.push_buffer(buffer(8, 1000)).unwrap();
    let mut told = false;
    loop {
        let frame = reader.read_frame(LONG).unwrap();
        told |= frame.records().iter().any(|record| {
            let text = String::from_utf8_lossy(record.value);
            record.kind >= FIRST_USER_KIND && text.contains("still")
        });
        if frame[0] == 8 {
            break;
        }
    }
    assert!(told);
}
