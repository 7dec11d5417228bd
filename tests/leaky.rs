//! Reading only the newest frame: what is skipped is counted, told and given back, and whatever else
//! is said between the frames comes in order.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Item, Reader, Records, Wait, Writer};
use support::{LONG, Name};
use support_gst::{Pipeline, init};

const NOTE: u16 = 1000;

fn note(text: &str) -> Records {
    let mut records = Records::new();
    records.push(NOTE, text.as_bytes());
    records
}

/// What is read next, in words.
fn next(reader: &Reader) -> String {
    let said = |records: &Records| {
        let note = records.iter().find(|record| record.kind == NOTE);
        note.map_or(String::new(), |note| {
            String::from_utf8_lossy(note.value).into()
        })
    };
    match reader.read_newest(Wait::no()) {
        Ok(Item::Frame(frame)) => format!("frame {} {}", frame[0], said(frame.records())),
        Ok(Item::Skipped { sequence, records }) => format!("skipped {sequence} {}", said(&records)),
        Ok(Item::Message(records)) => format!("message {}", said(&records)),
        Ok(other) => panic!("{other:?}"),
        Err(err) => err.to_string().split(' ').next().unwrap().into(),
    }
}

fn buffer(name: &str) -> (Reader, Writer) {
    let reader = Reader::create(name, &BufferConfig::new(1024, 8192)).unwrap();
    let writer = Writer::attach(name).unwrap();
    (reader, writer)
}

#[test]
fn a_reader_of_the_newest_skips_to_it_in_order_and_gives_the_room_back() {
    let name = Name::new("newest");
    let (reader, writer) = buffer(&name);
    // Many laps, so that the frames stand everywhere.
    for lap in 0..20 {
        let first = 5 * lap;
        for i in 0..5_u8 {
            let said = note(&format!("with {i}"));
            writer
                .write_frame_with(&[i; 700], &said, Wait::no())
                .unwrap();
            writer
                .write_message(&note(&format!("behind {i}")), Wait::no())
                .unwrap();
        }
        let used = reader.used_bytes();
        for i in 0..4_u64 {
            assert_eq!(next(&reader), format!("skipped {} with {i}", first + i + 1));
            assert!(reader.used_bytes() <= used - (i + 1) * 716);
            assert_eq!(next(&reader), format!("message behind {i}"));
        }
        // A message is nothing newer than a frame.
        assert_eq!(next(&reader), "frame 4 with 4");
        assert_eq!(next(&reader), "message behind 4");
        assert_eq!(reader.used_bytes(), 0);
        assert_eq!(reader.frames_skipped(), 4 * (lap + 1));
        assert_eq!(reader.frames_read(), lap + 1);
    }
    assert!(matches!(
        reader.read_newest(Wait::no()),
        Err(gstzerobuffer::Error::Timeout { .. })
    ));
}

#[test]
fn what_is_skipped_behind_a_frame_that_is_held_goes_back_with_that() {
    let name = Name::new("newest-held");
    let (reader, writer) = buffer(&name);
    writer.write_frame(&[0; 100]).unwrap();
    let Ok(Item::Frame(held)) = reader.read_newest(Wait::no()) else {
        panic!()
    };
    for i in 1..4 {
        writer.write_frame(&[i; 100]).unwrap();
    }
    assert_eq!(next(&reader), "skipped 2 ");
    assert_eq!(next(&reader), "skipped 3 ");
    let Ok(Item::Frame(last)) = reader.read_newest(Wait::no()) else {
        panic!()
    };
    assert_eq!((last[0], held[0]), (3, 0));
    assert_eq!(reader.used_bytes(), 4 * 116);
    drop(held);
    assert_eq!(reader.used_bytes(), 116);
    drop(last);
    assert_eq!(reader.used_bytes(), 0);
}

#[test]
fn the_last_frame_of_a_writer_is_not_skipped_for_that_of_the_next_nor_at_the_end() {
    let name = Name::new("newest-last");
    let (reader, writer) = buffer(&name);
    writer.write_frame(&[1; 10]).unwrap();
    writer.write_frame(&[2; 10]).unwrap();
    drop(writer);
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(&[3; 10]).unwrap();
    drop(writer);
    assert_eq!(next(&reader), "skipped 1 ");
    assert_eq!(next(&reader), "frame 2 ");
    assert_eq!(next(&reader), "frame 3 ");
    assert!(matches!(
        reader.read_newest(LONG),
        Err(gstzerobuffer::Error::WriterClosed { .. })
    ));
}

/// Everything that leaves the source, in words.
fn watch(receiver: &Pipeline) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let pad = receiver.element("src").static_pad("src").unwrap();
    let list = seen.clone();
    let types = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    pad.add_probe(types, move |_, info| {
        let what = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let gap = match buffer.flags().contains(gst::BufferFlags::DISCONT) {
                    true => " behind a gap",
                    false => "",
                };
                Some(format!("frame {}{gap}", buffer.offset()))
            }
            Some(gst::PadProbeData::Event(event)) => match event.view() {
                gst::EventView::Caps(caps) => {
                    let structure = caps.caps().structure(0).unwrap();
                    Some(format!("caps {}", structure.get::<i32>("n").unwrap()))
                }
                gst::EventView::Tag(tag) => {
                    let title = tag.tag().get::<gst::tags::Title>().unwrap();
                    Some(format!("title {}", title.get()))
                }
                gst::EventView::CustomDownstream(custom) => {
                    Some(custom.structure().unwrap().name().to_string())
                }
                _ => None,
            },
            _ => None,
        };
        list.lock().unwrap().extend(what);
        gst::PadProbeReturn::Ok
    });
    seen
}

#[test]
fn a_leaky_source_skips_pictures_and_nothing_else() {
    init();
    let name = Name::new("leaky");
    let receiver = Pipeline::new(&format!(
        "zerobuffersrc name=src payload-size=1000000 leaky=downstream buffer-name={} \
         ! appsink name=out max-buffers=1 sync=false",
        &*name
    ));
    let seen = watch(&receiver);
    receiver.set_state(gst::State::Playing);
    let sender = Pipeline::new(&format!(
        "appsrc name=in format=time ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let input = sender.appsrc("in");
    let pad = input.static_pad("src").unwrap();
    sender.set_state(gst::State::Playing);
    let until = |pipeline: &Pipeline, element: &str, field: &str, value: u64| {
        let since = Instant::now();
        while pipeline.stat(element, field) != value {
            assert!(since.elapsed() < LONG);
            std::thread::yield_now();
        }
    };
    let push = |i: u64| {
        let mut frame = gst::Buffer::from_slice(vec![1; 1000]);
        let edit = frame.get_mut().unwrap();
        edit.set_pts(gst::ClockTime::from_mseconds(i));
        edit.set_offset(i);
        input.push_buffer(frame).unwrap();
        until(&sender, "sink", "frames", i + 1);
    };
    let caps = |n: i32| {
        input.set_caps(Some(
            &gst::Caps::from_str(&format!("application/x-test,n={n}")).unwrap(),
        ));
    };
    let custom = |name: &str| {
        let structure = gst::Structure::new_empty(name);
        assert!(pad.push_event(gst::event::CustomDownstream::new(structure)));
    };
    caps(1);
    // The first waits in the appsink, and the second for it: the source stands still.
    push(0);
    // Else it would be left out for the second.
    until(&receiver, "src", "frames", 1);
    push(1);
    until(&receiver, "src", "frames", 2);
    push(2);
    custom("one");
    push(3);
    let mut tags = gst::TagList::new();
    (tags.make_mut()).add::<gst::tags::Title>(&"two", gst::TagMergeMode::Append);
    assert!(pad.push_event(gst::event::Tag::new(tags)));
    push(4);
    caps(2);
    push(5);
    caps(3);
    push(6);
    push(7);
    custom("three");

    let output = receiver.appsink("out");
    for offset in [0, 1, 7] {
        let sample = output.pull_sample().unwrap();
        assert_eq!(sample.buffer().unwrap().offset(), offset);
        let structure = sample.caps().unwrap().structure(0).unwrap().to_owned();
        assert_eq!(
            structure.get::<i32>("n").unwrap(),
            if offset == 7 { 3 } else { 1 }
        );
    }
    assert_eq!(receiver.stat("src", "dropped"), 5);
    // In all, and told at the latest with the frame that gets through.
    let mut told = 0;
    while told < 5 {
        let message = receiver.message(&[gst::MessageType::Qos]);
        let gst::MessageView::Qos(qos) = message.view() else {
            unreachable!()
        };
        assert!(qos.live());
        assert!(qos.timestamp().is_some() && qos.running_time() == qos.timestamp());
        let dropped = u64::try_from(qos.stats().1.value()).unwrap();
        assert!(dropped > told, "{dropped} after {told}");
        told = dropped;
    }
    assert_eq!(told, 5);
    input.end_of_stream().unwrap();
    assert!(output.pull_sample().is_err());
    receiver.end();
    assert_eq!(receiver.stat("src", "frames"), 3);
    let seen = seen.lock().unwrap();
    let expected = [
        "caps 1",
        "frame 0 behind a gap",
        "frame 1",
        "one",
        "title two",
        "caps 2",
        "caps 3",
        "frame 7 behind a gap",
        "three",
    ];
    assert_eq!(*seen, expected);
}

#[test]
fn a_leaky_source_that_keeps_up_leaves_nothing_out() {
    let name = Name::new("leaky-fast");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src leaky=downstream buffer-name={} ! appsink name=out sync=false",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "appsrc name=in format=time caps=application/x-test \
         ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    for i in 0..100 {
        let mut frame = gst::Buffer::from_slice(vec![1; 1000]);
        frame.get_mut().unwrap().set_offset(i);
        sender.appsrc("in").push_buffer(frame).unwrap();
        let sample = receiver.appsink("out").pull_sample().unwrap();
        assert_eq!(sample.buffer().unwrap().offset(), i);
    }
    assert_eq!(receiver.stat("src", "dropped"), 0);
}
