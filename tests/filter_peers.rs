//! zerobufferfilter and workers that are not as they should be: no frame is given another's answer,
//! whatever the worker does not say, and nothing but its frame is lost.

#[path = "support/hand.rs"]
mod hand;
mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::Writer;
use gstzerobuffer::duplex::{DuplexServer, DuplexServerConfig};
use hand::Hand;
use support::v1::V1Reader;
use support::{LONG, Name, pattern};
use support_gst::Pipeline;

/// Frames of 256 bytes.
const CAPS: &str = "video/x-raw,format=GRAY8,width=16,height=16,framerate=25/1";
const LEN: usize = 256;

fn asking(name: &str, more: &str) -> Pipeline {
    Pipeline::play(&format!(
        "appsrc name=in format=time caps={CAPS} \
         ! zerobufferfilter name=f channel-name={name} {more} ! appsink name=out sync=false"
    ))
}

fn send(pipeline: &Pipeline, frames: std::ops::Range<u64>) {
    for i in frames {
        let mut buffer = gst::Buffer::from_slice(pattern(LEN, i));
        let edit = buffer.get_mut().unwrap();
        edit.set_pts(gst::ClockTime::from_mseconds(40 * i));
        pipeline.appsrc("in").push_buffer(buffer).unwrap();
    }
}

/// The next frame that comes out: which it was, by its time, and its bytes.
#[track_caller]
fn next(pipeline: &Pipeline) -> (u64, Vec<u8>) {
    let out = pipeline.appsink("out");
    let sample = out.try_pull_sample(gst::ClockTime::from_seconds(120));
    let sample = sample.unwrap_or_else(|| {
        pipeline.no_error();
        panic!(
            "no frame: {:?}",
            pipeline.element("f").property::<gst::Structure>("stats")
        )
    });
    let buffer = sample.buffer().unwrap();
    let i = buffer.pts().unwrap().mseconds() / 40;
    (i, buffer.map_readable().unwrap().to_vec())
}

#[test]
fn an_application_that_does_not_say_what_it_answers_may_drop_its_first_frame() {
    let name = Name::new("filter-unnamed");
    let application = Hand::new(&name, CAPS);
    let asking = asking(&name, "on-failure=drop timeout=60000000000");
    // As long as it is not there frames are dropped.
    let asked = |from: u64| {
        let sent = asking.stat("f", "sent");
        for i in from.. {
            let dropped = asking.stat("f", "dropped");
            send(&asking, i..i + 1);
            while asking.stat("f", "dropped") == dropped {
                asking.no_error();
                if asking.stat("f", "sent") > sent {
                    return i;
                }
                std::thread::yield_now();
            }
        }
        unreachable!()
    };
    let dropped = asked(0);
    assert!(application.take_bytes() == pattern(LEN, dropped));
    // Not before: who looks what has become of a frame may be late himself.
    asking.element("f").set_property("timeout", 200_000_000_u64);
    // None is sent behind one whose answer nobody could tell.
    asking.until("f", "late", 1);
    asking.until("f", "dropped", dropped + 1);
    assert!(asking.stat("f", "answered") == 0);
    asking
        .element("f")
        .set_property("timeout", 60_000_000_000_u64);
    let next_one = asked(dropped + 1);
    let taken = application.take_bytes();
    assert!(taken == pattern(LEN, next_one));
    application.give_bytes(taken.iter().map(|byte| !byte).collect());
    let (which, bytes) = next(&asking);
    assert_eq!(which, next_one);
    assert!(bytes.iter().map(|byte| !byte).eq(pattern(LEN, which)));
}

#[test]
fn several_frames_are_not_paired_with_an_answer_that_could_be_anyones() {
    let name = Name::new("filter-unclear");
    let application = Hand::new(&name, CAPS);
    let asking = asking(&name, "on-failure=passthrough max-in-flight=8");
    let began = Instant::now();
    // All at once, before it is known that the worker names none.
    send(&asking, 0..8);
    assert!(application.take_bytes() == pattern(LEN, 0));
    // It takes the next and drops the first: only so it can be seen that it has two.
    let second = application.take_bytes();
    assert!(second == pattern(LEN, 1));
    application.give_bytes(second.iter().map(|byte| !byte).collect());
    for i in 0..2 {
        let (which, bytes) = next(&asking);
        assert_eq!(which, i);
        assert!(
            bytes == pattern(LEN, i),
            "frame {i} has an answer that may be another's"
        );
    }
    // Each further one is sent when nothing has come for another quarter of a second.
    let skipped = asking.stat("f", "skipped");
    let quiet = began.elapsed().as_millis() as u64 / 250;
    assert!(
        skipped == 2 || (3..=quiet + 1).contains(&skipped),
        "{skipped} in {quiet}"
    );
}

#[test]
fn an_answer_that_is_no_frame_of_its_caps_is_none() {
    for on_failure in ["drop", "passthrough", "error"] {
        let name = Name::new("filter-unfit");
        let config = DuplexServerConfig::new(4096, 1 << 20);
        let server = DuplexServer::builder(&name, config)
            .start(|request, reply| {
                // Every second answer is too short: those to even frames, which begin so.
                let len = if request[0].is_multiple_of(2) {
                    100
                } else {
                    LEN
                };
                let mut answer = reply.reserve(len as u64)?;
                answer.fill(7);
                Ok(answer)
            })
            .unwrap();
        let asking = asking(&name, &format!("on-failure={on_failure}"));
        send(&asking, 0..4);
        if on_failure == "error" {
            let err = asking.error();
            assert!(err.contains("100 bytes"), "{err}");
        } else {
            for i in 0..4 {
                let expected = if i % 2 == 1 {
                    vec![7; LEN]
                } else {
                    pattern(LEN, i)
                };
                if i % 2 == 1 || on_failure == "passthrough" {
                    assert!(next(&asking) == (i, expected), "frame {i}");
                }
            }
            assert_eq!(asking.stat("f", "answered"), 2);
        }
        drop(asking);
        server.stop();
    }
}

#[test]
fn a_flush_forgets_frames_but_not_what_is_still_true() {
    let name = Name::new("filter-flush");
    let application = Hand::new(&name, CAPS);
    let asking = asking(&name, "timeout=0");
    send(&asking, 0..1);
    let first = application.take_bytes();
    let pad = asking.element("f").static_pad("sink").unwrap();
    let mut tags = gst::TagList::new();
    let edit = tags.get_mut().unwrap();
    edit.add::<gst::tags::Title>(&"behind a frame", gst::TagMergeMode::Append);
    // It is behind a frame that nobody has answered.
    assert!(pad.send_event(gst::event::Tag::new(tags)));
    assert!(pad.send_event(gst::event::FlushStart::new()));
    assert!(pad.send_event(gst::event::FlushStop::new(false)));
    let out = asking.element("f").static_pad("src").unwrap();
    let tag = out
        .sticky_event::<gst::event::Tag>(0)
        .expect("the tags are lost");
    let title = tag.tag().get::<gst::tags::Title>().unwrap();
    assert_eq!(title.get(), "behind a frame");
    // Its answer comes late, and belongs to nothing.
    application.give_bytes(first.iter().map(|byte| !byte).collect());
    drop(first);
}

#[test]
fn what_an_application_answers_after_a_flush_is_not_for_the_next_frame() {
    let name = Name::new("filter-flushed");
    let application = Hand::new(&name, CAPS);
    let asking = asking(&name, "timeout=0");
    for round in 0..5 {
        let (before, behind) = (2 * round, 2 * round + 1);
        send(&asking, before..before + 1);
        let flushed = application.take_bytes();
        assert!(flushed == pattern(LEN, before));
        // From where frames come: that one may still be sending, and goes on after a flush of its own.
        let source = asking.appsrc("in");
        assert!(source.send_event(gst::event::FlushStart::new()));
        assert!(source.send_event(gst::event::FlushStop::new(true)));
        // It has given the request back, and is not done with it.
        send(&asking, behind..behind + 1);
        let invert = |bytes: Vec<u8>| bytes.iter().map(|byte| !byte).collect::<Vec<_>>();
        application.give_bytes(invert(flushed));
        application.give_bytes(invert(application.take_bytes()));
        assert!(
            next(&asking) == (behind, invert(pattern(LEN, behind))),
            "round {round}"
        );
    }
    assert_eq!(asking.stat("f", "workers"), 1);
}

#[test]
fn frames_that_were_rendered_into_the_ring_pass_through_as_they_were() {
    let name = Name::new("filter-through");
    let worker = Pipeline::play(&format!(
        "zerobuffersrc buffer-name={0}_request ! identity drop-probability=0.5 \
         ! videoconvert ! zerobuffersink buffer-name={0}_response",
        &*name
    ));
    let from = "videotestsrc num-buffers=120 pattern=ball ! \
                video/x-raw,format=GRAY8,width=64,height=64";
    let [plain, asking] = [
        "queue".to_string(),
        format!(
            "zerobufferfilter name=f channel-name={} on-failure=passthrough",
            &*name
        ),
    ]
    .map(|what| Pipeline::play(&format!("{from} ! {what} ! appsink name=out sync=false")));
    let frame = |pipeline: &Pipeline| {
        let sample = pipeline.appsink("out").pull_sample().ok()?;
        let buffer = sample.buffer_owned()?;
        let bytes = buffer.map_readable().ok()?.to_vec();
        Some((buffer.pts(), bytes))
    };
    for i in 0..120 {
        assert!(frame(&plain) == frame(&asking), "frame {i}");
    }
    asking.end();
    let through = asking.stat("f", "passed-through");
    assert!(through > 10, "{through}");
    assert_eq!(through + asking.stat("f", "answered"), 120);
    assert_eq!(asking.stat("f", "requests-copied"), 0);
    worker.end();
}

#[test]
fn two_filters_in_a_pipeline_have_a_worker_each() {
    let names = [Name::new("filter-two-a"), Name::new("filter-two-b")];
    let workers = [0, 1].map(|i| {
        let flip = ["horiz", "vert"][i];
        Pipeline::play(&format!(
            "zerobuffersrc buffer-name={0}_request ! queue ! videoflip video-direction={flip} ! queue \
             ! zerobuffersink buffer-name={0}_response",
            &*names[i]
        ))
    });
    let asking = Pipeline::play(&format!(
        "appsrc name=in format=time caps={CAPS} ! zerobufferfilter name=f channel-name={} \
         ! queue ! zerobufferfilter name=g channel-name={} ! appsink name=out sync=false",
        &*names[0], &*names[1]
    ));
    send(&asking, 0..200);
    for i in 0..200 {
        let (which, bytes) = next(&asking);
        assert_eq!(which, i);
        // Both flips are a half turn.
        let turned: Vec<u8> = pattern(LEN, i).into_iter().rev().collect();
        assert!(bytes == turned, "frame {i}");
    }
    asking.appsrc("in").end_of_stream().unwrap();
    assert!(asking.appsink("out").pull_sample().is_err());
    for filter in ["f", "g"] {
        assert_eq!(asking.stat(filter, "answered"), 200);
        assert_eq!(asking.stat(filter, "doubled"), 0);
    }
    for worker in workers {
        worker.end();
    }
}

#[test]
fn a_published_reader_that_gives_back_first_is_waited_for() {
    let name = Name::new("filter-gives-back");
    let (request, response) = (name.end("request"), name.end("response"));
    let mut reader = V1Reader::create(&request, 1024, 64 << 10);
    let _lock = reader.lock();
    let asking = asking(&name, "timeout=0");
    let frames = 6;
    send(&asking, 0..frames);
    let mut writer = None;
    for i in 0..frames {
        let taken = loop {
            match reader.read() {
                Some(bytes) => break bytes,
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        assert!(taken == pattern(LEN, i), "request {i}");
        // Its work; once it takes longer than anybody would have thought.
        thread::sleep(Duration::from_millis(if i == 4 { 1500 } else { 30 }));
        let writer = writer.get_or_insert_with(|| Writer::attach_wait(&response, LONG).unwrap());
        let inverted: Vec<u8> = taken.iter().map(|byte| !byte).collect();
        writer.write_frame(&inverted).unwrap();
        assert!(next(&asking) == (i, inverted), "answer {i}");
    }
    assert_eq!(asking.stat("f", "skipped") + asking.stat("f", "late"), 0);
    assert_eq!(asking.stat("f", "doubled"), 0);
}
