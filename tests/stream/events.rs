//! Events that mean something to who receives the stream arrive, in order with the frames.

use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Item, Reader};

use super::support::{LONG, Name, pattern};
use super::support_gst::Pipeline;
use super::{all, caps, sender};

fn text(event: &gst::EventRef) -> String {
    match event.view() {
        gst::EventView::Tag(tag) => format!("tags {}", tag.tag()),
        gst::EventView::Gap(gap) => format!("gap {:?}", gap.get().1),
        gst::EventView::CustomDownstream(_) => format!("custom {}", event.structure().unwrap()),
        gst::EventView::CustomDownstreamSticky(_) => {
            format!("sticky {}", event.structure().unwrap())
        }
        _ => event.type_().name().to_string(),
    }
}

/// A receiver, and what comes to its sink, in order: frames by their size.
struct Receiver {
    pipeline: Pipeline,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    /// One whose ring is there, and nobody reads.
    fn paused(name: &str, more: &str) -> Self {
        let pipeline = Pipeline::new(&format!(
            "zerobuffersrc name=src buffer-name={name} timestamps=pts {more} \
             ! appsink name=out sync=false"
        ));
        pipeline.set_state(gst::State::Paused);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        let pad = pipeline.element("out").static_pad("sink").unwrap();
        let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        pad.add_probe(kinds, move |_, info| {
            let note = match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => format!("frame {}", buffer.size()),
                Some(gst::PadProbeData::Event(event)) => text(event),
                other => format!("{other:?}"),
            };
            notes.lock().unwrap().push(note);
            gst::PadProbeReturn::Ok
        })
        .unwrap();
        Receiver { pipeline, seen }
    }

    fn playing(name: &str) -> Self {
        let receiver = Self::paused(name, "");
        receiver.play();
        receiver
    }

    fn play(&self) {
        self.pipeline.set_state(gst::State::Playing);
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The stream has ended, and this is all that was sent.
    #[track_caller]
    fn assert_got(&self, sender: &Pipeline, sent: &[String]) {
        all(&self.pipeline);
        sender.end();
        assert_order(&self.seen(), sent);
    }
}

/// A sender that plays before there is a receiver.
fn early_sender(name: &str) -> Pipeline {
    Pipeline::play(&format!(
        "appsrc name=in format=time caps=application/x-test \
         ! zerobuffersink name=sink sync=false async=false buffer-name={name}"
    ))
}

/// Until it has got the frame behind the tags, and waits.
fn until_it_waits(sender: &Pipeline) {
    let pad = sender.element("sink").static_pad("sink").unwrap();
    while pad.sticky_event::<gst::event::Tag>(0).is_none() {
        std::thread::yield_now();
    }
}

fn custom(number: i32) -> gst::Event {
    let structure = gst::Structure::builder("number").field("is", number);
    gst::event::CustomDownstream::new(structure.build())
}

fn sticky(number: i32) -> gst::Event {
    let structure = gst::Structure::builder("sticky").field("is", number);
    gst::event::CustomDownstreamSticky::new(structure.build())
}

fn tag(title: &str) -> gst::Event {
    let mut tags = gst::TagList::new();
    let edit = tags.make_mut();
    edit.add::<gst::tags::Title>(&title, gst::TagMergeMode::Append);
    gst::event::Tag::new(tags)
}

fn gap(millis: u64) -> gst::Event {
    let builder = gst::event::Gap::builder(gst::ClockTime::from_mseconds(millis));
    builder
        .duration(gst::ClockTime::from_mseconds(millis))
        .build()
}

/// Sends an event or a frame of this size, in order with what was sent before.
enum Sent {
    Event(gst::Event),
    Frame(usize),
}

fn send(sender: &Pipeline, items: &[Sent]) -> Vec<String> {
    let input = sender.appsrc("in");
    (items.iter())
        .map(|item| match item {
            Sent::Event(event) => {
                // Appsrc keeps events in order with buffers.
                assert!(input.send_event(event.clone()), "{event:?}");
                text(event)
            }
            Sent::Frame(size) => {
                let frame = gst::Buffer::from_slice(pattern(*size, 0));
                input.push_buffer(frame).unwrap();
                format!("frame {size}")
            }
        })
        .collect()
}

#[track_caller]
fn assert_order(seen: &[String], sent: &[String]) {
    let begin = ["caps", "segment"];
    let mut of_stream: Vec<_> = (seen.iter())
        .filter(|note| begin.contains(&note.as_str()))
        .collect();
    of_stream.dedup();
    assert_eq!(of_stream, begin, "in {seen:#?}");
    let rest: Vec<_> = (seen.iter())
        .filter(|note| !begin.contains(&note.as_str()) && *note != "stream-start")
        .cloned()
        .collect();
    assert_eq!(rest, [sent, &["eos".to_string()]].concat());
    let first = seen.iter().position(|note| note == &sent[0]).unwrap();
    let segment = seen.iter().position(|note| note == "segment").unwrap();
    assert!(segment < first, "{seen:?}");
}

fn some_of_each() -> Vec<Sent> {
    let mut items = Vec::new();
    for i in 0..20_usize {
        items.push(Sent::Frame(i + 1));
        items.push(Sent::Event(match i % 4 {
            0 => custom(i as i32),
            1 => gap(i as u64),
            2 => tag(&format!("title {i}, \"quoted\"")),
            _ => sticky(i as i32),
        }));
        if i % 5 == 0 {
            items.push(Sent::Event(custom(1000)));
        }
    }
    items
}

#[test]
fn records_of_events_are_what_the_protocol_says() {
    let name = Name::new("event-bytes");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 1 << 20)).unwrap();
    let sender = sender(&name, &caps("application/x-test"));
    let silence = gst::event::Gap::new(gst::ClockTime::from_nseconds(7), gst::ClockTime::NONE);
    let events = [gap(2), silence, tag("a"), custom(1), sticky(2)];
    let mut items = vec![Sent::Frame(1)];
    items.extend(events.map(Sent::Event));
    items.push(Sent::Frame(2));
    send(&sender, &items);
    let mut got = Vec::new();
    while got.len() < 5 {
        let records = match reader.read(LONG).unwrap() {
            Item::Frame(frame) => frame.records().clone(),
            Item::Message(records) => records,
            other => panic!("{other:?}"),
        };
        for record in records.iter().filter(|it| (96..100).contains(&it.kind)) {
            assert!(!record.required, "{record:?}");
            got.push((record.kind, record.value.to_vec()));
        }
    }
    // When it begins on this machine's clock comes first.
    let times = |pts: u64, duration: u64| [pts.to_le_bytes(), duration.to_le_bytes()].concat();
    let gaps: Vec<_> = got.drain(..2).collect();
    let begins: Vec<_> = (gaps
        .iter()
        .zip([times(2_000_000, 2_000_000), times(7, u64::MAX)]))
    .map(|((kind, value), times)| {
        assert_eq!((*kind, &value[8..]), (96, &times[..]));
        u64::from_le_bytes(value[..8].try_into().unwrap())
    })
    .collect();
    assert_eq!(begins[0] - begins[1], 2_000_000 - 7);
    let text = |kind, text: &str| (kind, text.as_bytes().to_vec());
    assert_eq!(
        got,
        [
            text(97, "taglist, title=(string)a;"),
            text(98, "number, is=(int)1;"),
            text(99, "sticky, is=(int)2;"),
        ]
    );
}

#[test]
fn events_come_in_order_with_frames() {
    let name = Name::new("order");
    let receiver = Receiver::playing(&name);
    let sender = sender(&name, &caps("application/x-test"));
    let sent = send(&sender, &some_of_each());
    sender.appsrc("in").end_of_stream().unwrap();
    receiver.assert_got(&sender, &sent);
}

#[test]
fn the_latency_tracer_s_events_stay_in_their_process() {
    let name = Name::new("probes");
    let receiver = Receiver::playing(&name);
    let sender = sender(&name, &caps("application/x-test"));
    let probe = |name: &str| {
        let structure = gst::Structure::builder(name).field("ts", 7u64).build();
        Sent::Event(gst::event::CustomDownstream::new(structure))
    };
    let around = [Sent::Frame(1), Sent::Event(custom(1))];
    let mut sent = send(&sender, &around);
    send(
        &sender,
        &[probe("latency_probe.id"), probe("sub_latency_probe.id")],
    );
    sent.extend(send(&sender, &[Sent::Frame(2), Sent::Event(custom(2))]));
    sender.appsrc("in").end_of_stream().unwrap();
    receiver.assert_got(&sender, &sent);
}

#[test]
fn events_wait_for_room_with_the_frames() {
    let name = Name::new("full");
    let receiver = Receiver::paused(&name, "payload-size=1024");
    let sender = sender(&name, &caps("application/x-test"));
    let mut items: Vec<_> = (0..3).map(|_| Sent::Frame(200)).collect();
    items.extend(some_of_each());
    items.extend((0..20).flat_map(|i| [Sent::Frame(300), Sent::Event(custom(i))]));
    let sent = send(&sender, &items);
    sender.appsrc("in").end_of_stream().unwrap();
    while sender.stat("sink", "waits") == 0 {
        sender.no_error();
        std::thread::yield_now();
    }
    receiver.play();
    receiver.assert_got(&sender, &sent);
}

#[test]
fn events_that_came_before_the_reader_are_told() {
    let name = Name::new("before");
    let sender = early_sender(&name);
    // What is sticky comes first, and of each kind once.
    let items = [
        Sent::Event(tag("before")),
        Sent::Event(sticky(1)),
        Sent::Event(custom(1)),
        Sent::Event(gap(7)),
        Sent::Event(custom(2)),
        Sent::Frame(5),
        Sent::Event(custom(3)),
        Sent::Frame(6),
    ];
    let sent = send(&sender, &items);
    sender.appsrc("in").end_of_stream().unwrap();
    until_it_waits(&sender);
    let receiver = Receiver::playing(&name);
    receiver.assert_got(&sender, &sent);
}

#[test]
fn so_many_events_wait_for_a_reader_and_no_more() {
    let name = Name::new("many");
    let sender = early_sender(&name);
    // Ten times what may wait, then one that would not be missed if it were the first.
    let long = |number: i32| {
        let structure = gst::Structure::builder("long")
            .field("number", number)
            .field("text", "x".repeat(10_000));
        gst::event::CustomDownstream::new(structure.build())
    };
    let mut items: Vec<_> = (0..64).map(|i| Sent::Event(long(i))).collect();
    items.push(Sent::Event(tag("the last")));
    items.push(Sent::Frame(5));
    let sent = send(&sender, &items);
    sender.appsrc("in").end_of_stream().unwrap();
    until_it_waits(&sender);
    let receiver = Receiver::playing(&name);
    assert_eq!(all(&receiver.pipeline).len(), 1);
    sender.end();
    let seen = receiver.seen();
    let got: Vec<_> = (seen.iter())
        .filter(|note| note.starts_with("custom"))
        .collect();
    // The first of them, in order.
    assert!((5..=6).contains(&got.len()), "{}", got.len());
    assert!(got.iter().zip(&sent).all(|(got, sent)| *got == sent));
    // What is true of the whole stream is told all the same.
    assert!(seen.contains(&text(&tag("the last"))));
}

#[test]
fn events_pass_a_ring_that_is_made_anew_once_and_in_order() {
    let name = Name::new("anew");
    let receiver = Receiver::playing(&name);
    let sender = sender(&name, &caps("application/x-test"));
    let items = [
        Sent::Event(tag("once")),
        Sent::Event(sticky(1)),
        Sent::Frame(5),
        Sent::Event(custom(1)),
        // More than the ring at the start.
        Sent::Frame(40 << 20),
        Sent::Event(custom(2)),
        Sent::Frame(6),
        Sent::Event(gap(3)),
    ];
    let sent = send(&sender, &items);
    sender.appsrc("in").end_of_stream().unwrap();
    receiver.assert_got(&sender, &sent);
}

#[test]
fn a_sticky_event_is_told_to_each_new_reader() {
    let name = Name::new("each");
    let sender = sender(&name, &caps("application/x-test"));
    let mut last = Vec::new();
    for i in 0..3 {
        let receiver = Receiver::playing(&name);
        if i == 0 {
            send(
                &sender,
                &[Sent::Event(tag("the name")), Sent::Event(sticky(1))],
            );
        }
        send(&sender, &[Sent::Frame(5)]);
        receiver.pipeline.appsink("out").pull_sample().unwrap();
        last = receiver.seen();
        for due in [text(&tag("the name")), text(&sticky(1))] {
            assert_eq!(
                last.iter().filter(|note| **note == due).count(),
                1,
                "{last:?}"
            );
        }
    }
    assert!(!last.is_empty());
}

#[test]
fn a_stream_gets_its_own_name() {
    let ids = ["id-one", "id-two"].map(|base| {
        let name = Name::new(base);
        let receiver = super::receiver(&name, "");
        let sender = sender(&name, &caps("application/x-test"));
        send(&sender, &[Sent::Frame(5)]);
        receiver.appsink("out").pull_sample().unwrap();
        let pad = receiver.element("out").static_pad("sink").unwrap();
        let start = pad.sticky_event::<gst::event::StreamStart>(0).unwrap();
        start.stream_id().to_string()
    });
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| !id.is_empty()), "{ids:?}");
}
