//! When frames are due, and what else is said of each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gst::glib;
use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

use super::support::{Name, pattern};
use super::support_gst::Pipeline;
use super::{all, bytes, caps, offset, pts, receiver, sender};

/// All that a buffer says beside its bytes.
fn facts(buffer: &gst::BufferRef) -> String {
    format!(
        "{:?} {:?} {:?} {} {} {:?} {:?}",
        buffer.pts(),
        buffer.dts(),
        buffer.duration(),
        buffer.offset(),
        buffer.offset_end(),
        buffer.flags() - gst::BufferFlags::TAG_MEMORY,
        buffer.video_flags(),
    )
}

/// [`facts`] and bytes.
type Frame = (String, Vec<u8>);

/// What goes into the sink of a pipeline.
fn watch(pipeline: &Pipeline, sink: &str) -> Arc<Mutex<Vec<Frame>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let pad = pipeline.element(sink).static_pad("sink").unwrap();
    let notes = seen.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let buffer = info.buffer().unwrap();
        let bytes = buffer.map_readable().unwrap().to_vec();
        notes.lock().unwrap().push((facts(buffer), bytes));
        gst::PadProbeReturn::Ok
    })
    .unwrap();
    seen
}

#[test]
fn times_offsets_and_flags_arrive_exactly() {
    let caps = caps("application/x-test");
    let name = Name::new("exact");
    let receiver = receiver(&name, "timestamps=pts");
    let sender = sender(&name, &caps);
    let some = |nanos: u64| Some(gst::ClockTime::from_nseconds(nanos));
    let times = [
        (some(7), some(3), some(11)),
        (some(1_000_000_007), None, some(1)),
        (some(5), some(1_000_000_001), None),
        (None, some(77), some(2)),
        (None, None, None),
        (
            some(3_600_000_000_000_001),
            some(3_600_000_000_000_000),
            some(0),
        ),
    ];
    use gst::BufferFlags as F;
    use gst_video::VideoBufferFlags as V;
    let flags = [
        F::DISCONT | F::HEADER,
        F::DELTA_UNIT,
        F::MARKER | F::RESYNC,
        F::GAP,
        F::DROPPABLE | F::DELTA_UNIT,
        F::CORRUPTED | F::SYNC_AFTER,
        F::NON_DROPPABLE,
    ];
    let video = [
        V::INTERLACED | V::TFF,
        V::INTERLACED,
        V::RFF | V::TFF,
        V::ONEFIELD,
        V::MULTIPLE_VIEW | V::FIRST_IN_BUNDLE,
    ];
    let mut sent = Vec::new();
    for i in 0..6 * 7 * 5 {
        let mut buffer = gst::Buffer::from_slice(pattern(50, i as u64));
        let edit = buffer.get_mut().unwrap();
        let (pts, dts, duration) = times[i % 6];
        edit.set_pts(pts);
        edit.set_dts(dts);
        edit.set_duration(duration);
        if i % 3 > 0 {
            edit.set_offset(i as u64 * 1000);
            edit.set_offset_end(i as u64 * 1000 + 900);
        }
        edit.set_flags(flags[i % 7]);
        edit.set_video_flags(video[i % 5]);
        // GstBaseSrc shows what has a DTS only at its DTS.
        let mut due = buffer.copy();
        if pts.is_none() {
            due.get_mut().unwrap().set_pts(dts);
        }
        sent.push(facts(&due));
        sender.appsrc("in").push_buffer(buffer).unwrap();
    }
    sender.appsrc("in").end_of_stream().unwrap();
    let got: Vec<_> = (all(&receiver).iter())
        .map(|sample| facts(sample.buffer().unwrap()))
        .collect();
    assert_eq!(got.len(), sent.len());
    for (got, sent) in got.iter().zip(&sent) {
        assert_eq!(got, sent);
    }
    sender.end();
}

#[test]
fn h264_with_frames_out_of_order_arrives_exactly() {
    let name = Name::new("h264");
    let receiver = receiver(&name, "timestamps=pts");
    let sender = Pipeline::new(&format!(
        "videotestsrc num-buffers=60 pattern=ball ! video/x-raw,width=320,height=240 \
         ! x264enc bframes=3 b-adapt=false key-int-max=20 speed-preset=ultrafast \
         ! h264parse ! video/x-h264,stream-format=avc,alignment=au \
         ! zerobuffersink name=sink sync=false buffer-name={}",
        &*name
    ));
    let seen = watch(&sender, "sink");
    sender.set_state(gst::State::Playing);
    let samples = all(&receiver);
    sender.end();
    let got: Vec<_> = (samples.iter())
        .map(|sample| (facts(sample.buffer().unwrap()), bytes(sample)))
        .collect();
    let sent = seen.lock().unwrap();
    assert_eq!(sent.len(), 60);
    assert_eq!(got.len(), 60);
    for ((got, at), (sent, from)) in got.iter().zip(&*sent) {
        assert_eq!(got, sent);
        assert!(at == from, "{got}");
    }
    let order: Vec<_> = samples.iter().map(pts).collect();
    assert!(!order.is_sorted(), "no frames out of order in {order:?}");
}

#[test]
fn h264_keeps_the_distance_of_its_two_times_on_the_senders_clock() {
    let name = Name::new("h264-sender");
    let receiver = receiver(&name, "");
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=30 ! video/x-raw,width=320,height=240 \
         ! x264enc bframes=3 b-adapt=false speed-preset=ultrafast ! h264parse \
         ! zerobuffersink name=sink buffer-name={}",
        &*name
    ));
    let samples = all(&receiver);
    sender.end();
    assert_eq!(samples.len(), 30);
    let mut last = 0;
    for sample in &samples {
        let buffer = sample.buffer().unwrap();
        let dts = buffer.dts().unwrap().nseconds();
        assert!(dts >= last && dts <= pts(sample), "{buffer:?}");
        last = dts;
    }
}

/// Running times that went into a sink, by the offset of the buffer.
fn running_times(pipeline: &Pipeline, sink: &str) -> Arc<Mutex<BTreeMap<u64, i64>>> {
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let pad = pipeline.element(sink).static_pad("sink").unwrap();
    let notes = seen.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let buffer = info.buffer().unwrap();
        let segment = pad
            .sticky_event::<gst::event::Segment>(0)
            .unwrap()
            .segment()
            .clone()
            .downcast::<gst::ClockTime>()
            .unwrap();
        let running = segment.to_running_time(buffer.pts()).unwrap();
        // A test that has failed held it, and says why.
        if let Ok(mut notes) = notes.lock() {
            notes.insert(buffer.offset(), running.nseconds() as i64);
        }
        gst::PadProbeReturn::Ok
    })
    .unwrap();
    seen
}

fn base(pipeline: &Pipeline) -> i64 {
    pipeline.pipeline.base_time().unwrap().nseconds() as i64
}

#[test]
fn sound_and_picture_of_one_pipeline_stay_in_step_to_the_nanosecond() {
    let (video, audio) = (Name::new("step-video"), Name::new("step-audio"));
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc buffer-name={} ! appsink name=video sync=false \
         zerobuffersrc buffer-name={} ! appsink name=audio sync=false",
        &*video, &*audio
    ));
    let sender = Pipeline::new(&format!(
        "videotestsrc num-buffers=15 ! video/x-raw,width=64,height=48,framerate=30000/1001 \
         ! zerobuffersink name=video buffer-name={} \
         audiotestsrc num-buffers=40 samplesperbuffer=480 ! audio/x-raw,rate=44100 \
         ! zerobuffersink name=audio buffer-name={}",
        &*video, &*audio
    ));
    let sent = ["video", "audio"].map(|sink| running_times(&sender, sink));
    sender.set_state(gst::State::Playing);
    let got = ["video", "audio"].map(|sink| {
        let sink = receiver.appsink(sink);
        std::iter::from_fn(|| sink.pull_sample().ok()).collect::<Vec<_>>()
    });
    sender.end();
    let shift = base(&sender) - base(&receiver);
    assert!(shift > 0);
    for ((got, sent), count) in got.iter().zip(&sent).zip([15, 40]) {
        let sent = sent.lock().unwrap();
        assert_eq!((got.len(), sent.len()), (count, count));
        for sample in got {
            assert_eq!(pts(sample) as i64, sent[&offset(sample)] + shift);
        }
    }
}

#[test]
fn who_joins_late_is_right_from_the_first_frame() {
    let name = Name::new("late");
    let sender = Pipeline::new(&format!(
        "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=100/1 \
         ! zerobuffersink name=sink wait-for-connection=false buffer-name={}",
        &*name
    ));
    let sent = running_times(&sender, "sink");
    sender.set_state(gst::State::Playing);
    sender.until("sink", "dropped", 20);
    let receiver = receiver(&name, "");
    let output = receiver.appsink("out");
    let got: Vec<_> = (0..20).map(|_| output.pull_sample().unwrap()).collect();
    assert!(offset(&got[0]) >= 20);
    let sink = sender.element("sink");
    let latency = sink
        .downcast_ref::<gstreamer_base::BaseSink>()
        .map(gstreamer_base::prelude::BaseSinkExt::latency)
        .unwrap()
        .nseconds() as i64;
    let shift = base(&sender) - base(&receiver) + latency;
    assert!(shift < latency, "it came first");
    let sent = sent.lock().unwrap();
    for sample in &got {
        // What was due before the receiver began is due at its beginning.
        let due = (sent[&offset(sample)] + shift).max(0);
        assert_eq!(pts(sample) as i64, due, "frame {}", offset(sample));
    }
    assert!(pts(&got[19]) > 0);
}

#[test]
fn a_sender_that_is_paused_and_goes_on_is_followed() {
    let name = Name::new("paused");
    let receiver = receiver(&name, "");
    let output = receiver.appsink("out");
    let sender = Pipeline::new(&format!(
        "videotestsrc ! video/x-raw,width=64,height=48,framerate=100/1 \
         ! zerobuffersink name=sink buffer-name={}",
        &*name
    ));
    let sent = running_times(&sender, "sink");
    sender.set_state(gst::State::Playing);
    let mut got: Vec<_> = (0..5).map(|_| output.pull_sample().unwrap()).collect();
    let mut shifts = vec![base(&sender) - base(&receiver)];
    for _ in 0..3 {
        sender.set_state(gst::State::Paused);
        sender.reached();
        let before = sent.lock().unwrap().len();
        sender.set_state(gst::State::Playing);
        sender.reached();
        shifts.push(base(&sender) - base(&receiver));
        // However many there were before, some that came after.
        while got.len() < before + 5 {
            got.push(output.pull_sample().unwrap());
        }
    }
    let sent = sent.lock().unwrap();
    let mut found: Vec<_> = (got.iter())
        .map(|sample| pts(sample) as i64 - sent[&offset(sample)])
        .collect();
    found.dedup();
    assert_eq!(found, shifts);
}

/// A clock that shows the time of day.
fn wall_clock() -> gst::Clock {
    glib::Object::builder::<gst::SystemClock>()
        .property("clock-type", gst::ClockType::Realtime)
        .build()
        .upcast()
}

#[test]
fn pipelines_with_another_clock_agree_to_a_millisecond() {
    let wall = wall_clock();
    for (at_sender, at_receiver) in [(true, false), (false, true), (true, true)] {
        let name = Name::new("clocks");
        let receiver = Pipeline::new(&format!(
            "zerobuffersrc buffer-name={} ! appsink name=out sync=false",
            &*name
        ));
        let sender = Pipeline::new(&format!(
            "videotestsrc num-buffers=30 ! video/x-raw,width=64,height=48,framerate=100/1 \
             ! zerobuffersink name=sink buffer-name={}",
            &*name
        ));
        for (pipeline, other) in [(&sender, at_sender), (&receiver, at_receiver)] {
            if other {
                pipeline.pipeline.use_clock(Some(&wall));
            }
        }
        let sent = running_times(&sender, "sink");
        receiver.set_state(gst::State::Playing);
        sender.set_state(gst::State::Playing);
        let got = all(&receiver);
        sender.end();
        // What both clocks are by CLOCK_MONOTONIC.
        // Of many looks the one that was not interrupted.
        let look = |_| {
            let before = gst::get_timestamp().nseconds() as i64;
            let there = wall.time().nseconds() as i64;
            let after = gst::get_timestamp().nseconds() as i64;
            (after - before, (before + after) / 2 - there)
        };
        let (_, ahead) = (0..100).map(look).min().unwrap();
        let zero = |pipeline: &Pipeline, other| base(pipeline) + if other { ahead } else { 0 };
        let shift = zero(&sender, at_sender) - zero(&receiver, at_receiver);
        let sent = sent.lock().unwrap();
        let mut off: Vec<_> = (got.iter())
            .map(|sample| (pts(sample) as i64 - sent[&offset(sample)] - shift).abs())
            .collect();
        assert_eq!(off.len(), 30);
        // A look at two clocks may be interrupted in between, but not half of them.
        off.sort_unstable();
        assert!(off[15] < 1_000_000, "{off:?}");
    }
}

#[test]
fn the_receiver_answers_for_its_latency() {
    for (property, nanos) in [("", 2_000_000), ("latency=7000001", 7_000_001)] {
        let name = Name::new("latency");
        let receiver = receiver(&name, property);
        let mut query = gst::query::Latency::new();
        assert!(receiver.element("src").query(&mut query));
        let least = gst::ClockTime::from_nseconds(nanos);
        assert_eq!(query.result(), (true, least, gst::ClockTime::NONE));
    }
}

#[test]
fn sinks_that_synchronise_get_frames_in_time() {
    let name = Name::new("in-time");
    let receiver = Pipeline::new(&format!(
        "zerobuffersrc buffer-name={} latency=2000000000 \
         ! fakesink name=out sync=true qos=true max-lateness=1000000000 signal-handoffs=true",
        &*name
    ));
    let early = Arc::new(Mutex::new(Vec::new()));
    let out = receiver.element("out");
    let notes = early.clone();
    out.connect("handoff", false, move |values| {
        let sink: gst::Element = values[0].get().unwrap();
        let buffer: gst::Buffer = values[1].get().unwrap();
        let now = sink.clock().unwrap().time() - sink.base_time().unwrap();
        let due = buffer.pts().unwrap() + gst::ClockTime::from_seconds(2);
        notes.lock().unwrap().push(now < due);
        None
    });
    receiver.set_state(gst::State::Playing);
    let sender = Pipeline::play(&format!(
        "appsrc name=in is-live=true do-timestamp=true format=time caps=application/x-test \
         ! zerobuffersink buffer-name={}",
        &*name
    ));
    let send = |i| {
        let frame = gst::Buffer::from_slice(pattern(100, i));
        sender.appsrc("in").push_buffer(frame).unwrap();
    };
    // Sinks learn the latency when they have a frame, and from then on it counts.
    send(0);
    receiver.reached();
    receiver.pipeline.recalculate_latency().unwrap();
    let counts = || {
        let stats: gst::Structure = out.property("stats");
        ["rendered", "dropped"].map(|field| stats.get::<u64>(field).unwrap())
    };
    while counts().iter().sum::<u64>() == 0 {
        std::thread::yield_now();
    }
    receiver.clear();
    early.lock().unwrap().clear();
    let [rendered, dropped] = counts();
    for i in 0..50 {
        send(i);
    }
    sender.appsrc("in").end_of_stream().unwrap();
    let message = receiver.message(&[
        gst::MessageType::Qos,
        gst::MessageType::Error,
        gst::MessageType::Eos,
    ]);
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    assert_eq!(counts(), [rendered + 50, dropped]);
    assert_eq!(*early.lock().unwrap(), vec![false; 50]);
    sender.end();
}

/// Running time now.
fn now(pipeline: &Pipeline) -> u64 {
    let clock = pipeline.pipeline.clock().unwrap();
    (clock.time() - pipeline.pipeline.base_time().unwrap()).nseconds()
}

#[test]
fn time_of_arrival_where_it_is_asked_for_or_all_there_is() {
    for (format, property) in [("time", "timestamps=arrival"), ("bytes", "")] {
        let name = Name::new("arrival");
        let receiver = receiver(&name, property);
        let sender = Pipeline::new(&format!(
            "appsrc name=in format={format} caps=application/x-test \
             ! zerobuffersink sync=false buffer-name={}",
            &*name
        ));
        sender.set_state(gst::State::Playing);
        for i in 0..10 {
            let mut buffer = gst::Buffer::from_slice(pattern(10, i));
            // Somewhere else altogether.
            let edit = buffer.get_mut().unwrap();
            edit.set_pts(gst::ClockTime::from_seconds(1000 + i));
            edit.set_duration(gst::ClockTime::from_nseconds(i));
            edit.set_offset(100 * i);
            let before = now(&receiver);
            sender.appsrc("in").push_buffer(buffer).unwrap();
            let sample = receiver.appsink("out").pull_sample().unwrap();
            let arrived = pts(&sample);
            assert!((before..=now(&receiver)).contains(&arrived), "{arrived}");
            let buffer = sample.buffer().unwrap();
            assert_eq!(buffer.duration().unwrap().nseconds(), i);
            assert_eq!(buffer.offset(), 100 * i);
        }
    }
}

#[test]
fn times_of_a_stream_of_bytes_are_untouched_where_that_is_asked_for() {
    let name = Name::new("bytes");
    let receiver = receiver(&name, "timestamps=pts");
    let sender = Pipeline::play(&format!(
        "appsrc name=in format=bytes caps=application/x-test \
         ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    let mut buffer = gst::Buffer::from_slice([1; 9]);
    let edit = buffer.get_mut().unwrap();
    edit.set_pts(gst::ClockTime::from_nseconds(17));
    sender.appsrc("in").push_buffer(buffer).unwrap();
    let sample = receiver.appsink("out").pull_sample().unwrap();
    assert_eq!(pts(&sample), 17);
}

#[test]
fn other_rates_and_directions_arrive_as_they_are_played() {
    // Rate, from, to (ms); the order of the frames.
    for (rate, backwards) in [(2.0, false), (0.5, false), (-1.0, true), (-2.0, true)] {
        let name = Name::new("rates");
        let receiver = receiver(&name, "");
        let sender = Pipeline::new(&format!(
            "videotestsrc ! video/x-raw,width=64,height=48,framerate=100/1 \
             ! zerobuffersink name=sink buffer-name={}",
            &*name
        ));
        let sent = running_times(&sender, "sink");
        sender.set_state(gst::State::Paused);
        sender.reached();
        sender
            .pipeline
            .seek(
                rate,
                gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE,
                gst::SeekType::Set,
                gst::ClockTime::from_mseconds(1000),
                gst::SeekType::Set,
                gst::ClockTime::from_mseconds(1200),
            )
            .unwrap();
        sender.reached();
        sender.set_state(gst::State::Playing);
        let got = all(&receiver);
        sender.end();
        let shift = base(&sender) - base(&receiver);
        let sent = sent.lock().unwrap();
        assert!((20..=21).contains(&got.len()), "{}", got.len());
        for pair in got.windows(2) {
            assert_eq!(offset(&pair[0]) > offset(&pair[1]), backwards);
            let apart = (10_000_000.0 / f64::abs(rate)) as u64;
            assert_eq!(pts(&pair[1]) - pts(&pair[0]), apart);
            // It lasts as long as it is shown.
            let duration = pair[0].buffer().unwrap().duration().unwrap();
            assert_eq!(duration.nseconds(), apart);
        }
        for sample in &got {
            assert_eq!(pts(sample) as i64, sent[&offset(sample)] + shift);
            let segment = sample.segment().unwrap();
            assert_eq!((segment.rate(), segment.format()), (1.0, gst::Format::Time));
            let segment = segment.downcast_ref::<gst::ClockTime>().unwrap();
            assert_eq!(segment.start(), Some(gst::ClockTime::ZERO));
            assert_eq!(segment.stop(), None, "open");
        }
    }
}
