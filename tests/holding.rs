//! Downstream that holds on to frames: with a ring of three frames everything goes on, each frame
//! keeps its bytes, and only what was held was copied.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Error, Interrupt, Reader, Wait, Writer};
use support::raw::RawSem;
use support::v1::V1Writer;
use support::{LONG, Name, pattern, raw};
use support_gst::Pipeline;

const WIDTH: usize = 320;
const HEIGHT: usize = 240;
const FRAME: usize = WIDTH * HEIGHT * 3 / 2;

/// A ring for three frames, and no fourth.
const RING: usize = 3 * (16 + FRAME) + 100;

/// A moving picture.
fn source(frames: usize) -> String {
    format!(
        "videotestsrc num-buffers={frames} pattern=ball \
         ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=100/1"
    )
}

/// Its frames' checksums; no two that follow each other are the same.
fn sums_of(frames: usize) -> Vec<u32> {
    let pipeline = Pipeline::play(&format!("{} ! appsink name=out sync=false", source(frames)));
    let sums = arriving(&pipeline);
    assert_eq!(sums.len(), frames);
    assert!(sums.windows(2).all(|pair| pair[0] != pair[1]));
    sums
}

fn sum(buffer: &gst::BufferRef) -> u32 {
    crc32fast::hash(&buffer.map_readable().unwrap())
}

/// The checksums of all that comes to the appsink called `out`.
fn arriving(pipeline: &Pipeline) -> Vec<u32> {
    let output = pipeline.appsink("out");
    let mut sums = Vec::new();
    while let Ok(sample) = output.pull_sample() {
        sums.push(sum(sample.buffer().unwrap()));
    }
    sums
}

fn sender(name: &str, frames: usize) -> Pipeline {
    Pipeline::play(&format!(
        "{} ! zerobuffersink name=sink sync=false buffer-name={name}",
        source(frames)
    ))
}

/// A source with a ring of three frames, and what is behind it.
fn receiver(name: &str, downstream: &str) -> Pipeline {
    Pipeline::new(&format!(
        "zerobuffersrc name=src buffer-name={name} payload-size={RING} {downstream}"
    ))
}

/// The checksums of the frames that a pad has seen; it holds the last `most` of them meanwhile, and
/// looks at each again before it lets go of it.
#[derive(Clone, Default)]
struct Holder(Arc<Mutex<Seen>>);

/// All checksums, and the frames that are held with theirs.
type Seen = (Vec<u32>, VecDeque<(u32, gst::Buffer)>);

impl Holder {
    fn at(element: &gst::Element, pad: &str, most: usize) -> Self {
        let holder = Holder::default();
        let this = holder.clone();
        let pad = element.static_pad(pad).unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
            let buffer = probe.buffer().unwrap();
            let (sums, held) = &mut *this.0.lock().unwrap();
            sums.push(sum(buffer));
            held.push_back((sum(buffer), buffer.to_owned()));
            while held.len() > most {
                let (before, buffer) = held.pop_front().unwrap();
                // A panic would not get out of here.
                sums.extend((sum(&buffer) != before).then_some(0));
            }
            gst::PadProbeReturn::Ok
        });
        holder
    }

    /// All that were seen, with one too many for each that has changed.
    fn end(&self) -> Vec<u32> {
        let (sums, held) = std::mem::take(&mut *self.0.lock().unwrap());
        assert!(held.iter().all(|(before, buffer)| sum(buffer) == *before));
        sums
    }
}

/// Runs `downstream` behind a source with a ring of three frames to its end; what came out of the
/// source was right, and each frame is counted once.
fn run_through(frames: usize, downstream: &str) -> Pipeline {
    let name = Name::new("holding");
    let receiver = receiver(&name, downstream);
    let seen = Holder::at(&receiver.element("src"), "src", 0);
    receiver.set_state(gst::State::Playing);
    let sender = sender(&name, frames);
    sender.end();
    receiver.end();
    assert!(seen.end() == sums_of(frames));
    counted(&receiver, frames);
    receiver
}

/// Whether each frame was in place to the end or was copied.
#[track_caller]
fn counted(receiver: &Pipeline, frames: usize) {
    let [all, in_place, copied] =
        ["frames", "in-place", "copied"].map(|field| receiver.stat("src", field));
    assert_eq!((all, in_place + copied), (frames as u64, frames as u64));
}

/// Whether `got` is `all` with some frames left out and some repeated.
#[track_caller]
fn in_order(got: &[u32], all: &[u32]) {
    let mut at = 0;
    for (i, sum) in got.iter().enumerate() {
        let found = all[at..].iter().position(|expected| expected == sum);
        at += found.unwrap_or_else(|| panic!("frame {i} is none of those that follow"));
    }
}

#[test]
fn an_encoder_with_its_default_lookahead() {
    let name = Name::new("lookahead");
    let receiver = receiver(&name, "! x264enc name=enc ! fakesink");
    // As many as it holds itself.
    let held = Holder::at(&receiver.element("enc"), "sink", 40);
    receiver.set_state(gst::State::Playing);
    let sender = sender(&name, 150);
    sender.end();
    receiver.end();
    assert!(held.end() == sums_of(150));
    assert!(receiver.stat("src", "copied") > 0);
    counted(&receiver, 150);
    // Without the other holder.
    let receiver = run_through(150, "! x264enc ! fakesink");
    assert!(receiver.stat("src", "copied") > 0);
}

/// The comparison: an encoder with its lookahead behind shmsink and shmsrc with an area for `frames`
/// frames. Waits for a hundred of 150 to come out of it, and tells how many did in this time.
fn through_shm(frames: usize, time: Duration) -> usize {
    let socket = tempfile::tempdir().unwrap();
    let path = socket.path().join("shm");
    // Nobody but the receiver takes room in the area: the buffers that upstream keeps for later
    // would alone fill one of three frames.
    let sender = Pipeline::play(&format!(
        "{} ! identity drop-allocation=true \
         ! shmsink sync=false wait-for-connection=true shm-size={} socket-path={}",
        source(150),
        frames * FRAME + 100,
        path.display()
    ));
    while !path.exists() {
        thread::yield_now();
    }
    let receiver = Pipeline::new(&format!(
        "shmsrc is-live=true do-timestamp=true socket-path={} \
         ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=100/1 \
         ! x264enc ! fakesink name=out sync=false",
        path.display()
    ));
    let (come, count) = mpsc::channel();
    let pad = receiver.element("out").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let _ = come.send(());
        gst::PadProbeReturn::Ok
    });
    receiver.set_state(gst::State::Playing);
    let start = Instant::now();
    let left = || count.recv_timeout(time.saturating_sub(start.elapsed()));
    let encoded = (0..100).take_while(|_| left().is_ok()).count();
    // It stands still, or goes on; it did not break.
    if encoded < 100 {
        sender.no_error();
        receiver.no_error();
    }
    encoded
}

#[test]
fn shmsrc_with_three_frames_never_ends_there() {
    // With room for all that the lookahead holds it does.
    let start = Instant::now();
    assert_eq!(through_shm(100, LONG), 100);
    let time = Duration::from_secs(2) + 5 * start.elapsed();
    assert_eq!(
        through_shm(3, time),
        0,
        "shmsrc has learned it; the comparison can go"
    );
}

#[test]
fn a_long_queue_before_a_slow_sink() {
    let name = Name::new("queue");
    let receiver = receiver(
        &name,
        "do-timestamp=false \
         ! queue max-size-buffers=100 max-size-bytes=0 max-size-time=0 min-threshold-buffers=90 \
         ! identity sleep-time=5000 ! appsink name=out sync=false",
    );
    receiver.set_state(gst::State::Playing);
    let sender = sender(&name, 120);
    assert!(arriving(&receiver) == sums_of(120));
    sender.end();
    receiver.end();
    assert!(receiver.stat("src", "copied") > 0);
    counted(&receiver, 120);
}

#[test]
fn imagefreeze_keeps_one_for_ever() {
    let name = Name::new("freeze");
    // It takes one frame and tells upstream that it wants no more.
    let receiver = receiver(
        &name,
        "! imagefreeze num-buffers=200 ! appsink name=out sync=false",
    );
    receiver.set_state(gst::State::Playing);
    let _sender = sender(&name, 1000);
    assert!(arriving(&receiver) == [sums_of(1)[0]; 200]);
    receiver.end();
}

/// An element in a state of its own, which ends with its test.
struct Apart(gst::Element);

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

#[test]
fn a_paused_sink_with_a_last_sample_in_one_branch_of_a_tee() {
    let name = Name::new("paused");
    let receiver = receiver(
        &name,
        "! tee name=t t. ! queue leaky=downstream max-size-buffers=1 \
         ! fakesink name=paused enable-last-sample=true \
         t. ! queue ! appsink name=out sync=false",
    );
    let paused = Apart(receiver.element("paused"));
    paused.0.set_locked_state(true);
    paused.0.set_state(gst::State::Paused).unwrap();
    receiver.set_state(gst::State::Playing);
    let sender = Pipeline::new(&format!(
        "{} ! zerobuffersink name=sink sync=false buffer-name={}",
        source(500),
        &*name
    ));
    // The second frame comes when the first has got there.
    let there = Arc::new(Barrier::new(2));
    let (wait, count) = (there.clone(), AtomicUsize::new(0));
    let pad = sender.element("sink").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) == 1 {
            wait.wait();
        }
        gst::PadProbeReturn::Ok
    });
    sender.set_state(gst::State::Playing);
    let last_sample = || paused.0.property::<Option<gst::Sample>>("last-sample");
    while last_sample().is_none() {
        receiver.no_error();
        thread::yield_now();
    }
    there.wait();
    let expected = sums_of(500);
    assert!(arriving(&receiver) == expected);
    sender.end();
    counted(&receiver, 500);
    // It still has that one.
    assert_eq!(paused.0.current_state(), gst::State::Paused);
    let sample = last_sample().unwrap();
    assert_eq!(sum(sample.buffer().unwrap()), expected[0]);
    assert!(receiver.stat("src", "copied") > 0);
}

#[test]
fn videorate_that_doubles_and_drops() {
    for rate in ["500/1", "10/1"] {
        let name = Name::new("videorate");
        let receiver = receiver(
            &name,
            &format!("! videorate ! video/x-raw,framerate={rate} ! appsink name=out sync=false"),
        );
        receiver.set_state(gst::State::Playing);
        let sender = sender(&name, 100);
        let arrived = arriving(&receiver);
        sender.end();
        receiver.end();
        assert!(!arrived.is_empty());
        in_order(&arrived, &sums_of(100));
        counted(&receiver, 100);
    }
}

#[test]
fn every_frame_held_to_the_end_has_the_senders_checksum() {
    let name = Name::new("all");
    let receiver = receiver(&name, "! appsink name=out sync=false");
    let held = Holder::at(&receiver.element("src"), "src", usize::MAX);
    receiver.set_state(gst::State::Playing);
    let sender = Pipeline::new(&format!(
        "{} ! zerobuffersink name=sink sync=false buffer-name={}",
        source(150),
        &*name
    ));
    let sent = Holder::at(&sender.element("sink"), "sink", 0);
    sender.set_state(gst::State::Playing);
    // Fifty laps of the ring, and nothing is looked at again before the end.
    sender.end();
    assert!(arriving(&receiver) == sent.0.lock().unwrap().0);
    receiver.end();
    assert!(held.end() == sent.end());
    assert!(receiver.stat("src", "copied") >= 147);
    counted(&receiver, 150);
}

#[test]
fn an_application_that_keeps_every_tenth_sample_for_ever() {
    let name = Name::new("tenth");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size=4096 ! appsink name=out sync=false",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "appsrc name=in caps=application/x-test ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    const FRAMES: u64 = 5000;
    for i in 0..FRAMES {
        let frame = gst::Buffer::from_slice(pattern(1000 + (i % 300) as usize, i));
        sender.appsrc("in").push_buffer(frame).unwrap();
    }
    sender.appsrc("in").end_of_stream().unwrap();
    let mut kept = Vec::new();
    for i in 0..FRAMES {
        let sample = receiver.appsink("out").pull_sample().unwrap();
        if i % 10 == 0 {
            kept.push((i, sample));
        }
    }
    receiver.end();
    // Each of them had to leave the ring, in which nine more came behind it.
    assert!(receiver.stat("src", "copied") >= FRAMES / 10);
    counted(&receiver, FRAMES as usize);
    for (i, sample) in &kept {
        let bytes = sample.buffer().unwrap().map_readable().unwrap();
        assert!(
            bytes[..] == pattern(1000 + (i % 300) as usize, *i),
            "frame {i}"
        );
    }
}

#[test]
fn frames_released_in_random_order_from_many_threads() {
    let name = Name::new("random");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 3 * 20_100)).unwrap();
    reader.set_evacuation(true);
    let writer = Writer::attach(&name).unwrap();
    const FRAMES: u64 = 3000;
    thread::scope(|scope| {
        scope.spawn(move || {
            for i in 0..FRAMES {
                writer
                    .write_frame_wait(&pattern(20_000 - (i % 77) as usize, i), LONG)
                    .unwrap();
            }
        });
        let holders: Vec<_> = (0..4)
            .map(|_| {
                let (give, take) = mpsc::channel::<(u64, gstzerobuffer::Frame)>();
                scope.spawn(move || {
                    let mut held = Vec::new();
                    let mut random = 12345_u64;
                    for (i, frame) in take {
                        held.push((i, frame));
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                        if held.len() > 7 {
                            let (i, frame) = held.swap_remove((random >> 33) as usize % 8);
                            assert!(frame[..] == pattern(frame.len(), i), "frame {i}");
                        }
                    }
                    for (i, frame) in held {
                        assert!(frame[..] == pattern(frame.len(), i), "frame {i}");
                    }
                });
                give
            })
            .collect();
        for (i, frame) in (0..).zip(reader.frames(LONG)) {
            let frame = frame.unwrap();
            assert_eq!(frame.sequence(), i + 1);
            holders[i as usize % 4].send((i, frame)).unwrap();
        }
        drop(holders);
        assert_eq!(reader.frames_read(), FRAMES);
    });
    assert_eq!(reader.frames_held(), 0);
    assert!(reader.frames_copied() > 0);
}

#[test]
fn buffers_released_in_random_order_from_many_threads() {
    let name = Name::new("threads");
    let receiver = receiver(
        &name,
        "! appsink name=out sync=false enable-last-sample=false",
    );
    receiver.set_state(gst::State::Playing);
    const FRAMES: usize = 600;
    let sender = sender(&name, FRAMES);
    let expected = sums_of(FRAMES);
    let output = receiver.appsink("out");
    thread::scope(|scope| {
        let holders: Vec<_> = (0..4)
            .map(|number| {
                let (give, take) = mpsc::channel::<(u32, gst::Sample)>();
                scope.spawn(move || {
                    let right = |(expected, sample): (u32, gst::Sample)| {
                        assert_eq!(sum(sample.buffer().unwrap()), expected);
                    };
                    let mut held = Vec::new();
                    let mut random = number;
                    for frame in take {
                        held.push(frame);
                        random = 6364136223846793005_u64.wrapping_mul(random).wrapping_add(1);
                        if held.len() > 5 {
                            right(held.swap_remove((random >> 33) as usize % held.len()));
                        }
                    }
                    held.into_iter().for_each(right);
                });
                give
            })
            .collect();
        for (i, expected) in expected.into_iter().enumerate() {
            let sample = output.pull_sample().unwrap();
            holders[i % 4].send((expected, sample)).unwrap();
        }
    });
    sender.end();
    receiver.end();
    assert!(receiver.stat("src", "copied") > 0);
    counted(&receiver, FRAMES);
}

#[test]
fn with_nobody_holding_on_nothing_is_copied() {
    let receiver = run_through(300, "! fakesink sync=false enable-last-sample=false");
    let counts = ["in-place", "copied"].map(|field| receiver.stat("src", field));
    assert_eq!(counts, [300, 0]);
}

#[test]
fn a_library_user_who_did_not_ask_for_it_just_fills_the_ring() {
    let name = Name::new("plain");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        writer.write_frame(&[1; 1000]).unwrap();
        held.push(reader.read_frame(LONG).unwrap());
    }
    assert!(reader.read_frame(Duration::from_millis(50)).is_err());
    assert!(writer.write_frame_wait(&[1; 1000], Duration::ZERO).is_err());
    assert_eq!(reader.frames_copied(), 0);
    reader.set_evacuation(true);
    assert!(reader.read_frame(Duration::from_millis(1)).is_err());
    writer.write_frame_wait(&[2; 1000], Duration::ZERO).unwrap();
    assert!(held.iter().all(|frame| frame[..] == [1; 1000]));
}

#[test]
fn few_places_are_used_while_a_reader_keeps_up_that_goes_on_whatever_it_holds() {
    let one = 100_016;
    let name = Name::new("few-places");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 8 * one)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    let write = |value: u8| {
        writer.write_frame_wait(&[value; 100_000], Duration::ZERO)?;
        Ok::<_, Error>(name.raw().get(raw::WRITE_POS))
    };
    let read = |value: u8| {
        let frame = reader.read_frame(Duration::ZERO)?;
        assert!(frame.iter().all(|byte| *byte == value));
        Ok::<_, Error>(frame)
    };
    let most = |frames: u8| {
        (0..frames)
            .map(|i| {
                let at = write(i).unwrap();
                read(i).unwrap();
                at
            })
            .max()
    };
    // One that holds what it reads until it has all has the whole ring, from wherever it begins.
    for before in 0..20 {
        most(before);
        let held: Vec<_> = (0..8).map(|i| (write(i), read(i).unwrap())).collect();
        assert!(held.iter().all(|(written, _)| written.is_ok()));
    }
    assert_eq!(most(20), Some(8 * one));
    reader.set_evacuation(true);
    most(8);
    assert_eq!(most(20), Some(3 * one));
    // Whoever holds all that comes gets on, too.
    let mut held = Vec::new();
    for i in 0..40 {
        while write(i).is_err() {
            assert!(matches!(
                reader.read_frame(Duration::from_millis(1)),
                Err(Error::Timeout { .. })
            ));
        }
        held.push(read(i).unwrap());
    }
    assert!(
        (0..)
            .zip(&held)
            .all(|(i, frame)| frame.iter().all(|byte| *byte == i))
    );
    drop(held);
    assert_eq!(most(20), Some(3 * one));
    reader.set_evacuation(false);
    assert_eq!(most(20), Some(8 * one));
}

#[test]
fn a_slow_stream_into_an_ordinary_sink_stays_in_place() {
    // Longer between frames than any slice of a wait, and a last sample that is held.
    let name = Name::new("slow");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} payload-size=1000000 ! fakesink",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=8 is-live=true \
         ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=10/1 \
         ! zerobuffersink buffer-name={}",
        &*name
    ));
    sender.end();
    receiver.end();
    assert_eq!(receiver.stat("src", "in-place"), 8);
}

#[test]
fn thousands_of_small_held_frames_are_no_problem() {
    let name = Name::new("small");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 300_000)).unwrap();
    reader.set_evacuation(true);
    let writer = Writer::attach(&name).unwrap();
    let mut held = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..20_000 {
                writer.write_frame_wait(&pattern(4000, i), LONG).unwrap();
            }
        });
        for _ in 0..20_000 {
            held.push(reader.read_frame(LONG).unwrap());
        }
    });
    for (i, frame) in (0..).zip(&held) {
        assert!(frame[..] == pattern(4000, i), "frame {i}");
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.lines().count() < 20_000, "{}", maps.lines().count());
}

#[test]
fn a_v1_writer_goes_on_whose_next_frame_is_larger_and_lies_across_the_end() {
    const SIZE: u64 = 32768;
    let name = Name::new("larger-v1");
    let reader = Reader::create(&name, &BufferConfig::new(1024, SIZE)).unwrap();
    reader.set_evacuation(true);
    let mut writer = V1Writer::attach(&name, std::process::id().into());
    writer.write(&pattern(11_000, 0));
    writer.write(&pattern(6000, 1));
    drop(reader.read_frame(LONG).unwrap());
    let held = reader.read_frame(LONG).unwrap();
    // Most of the ring is free, also for a frame as large as the largest, but not for this one and what is
    // skipped before it. It has taken all posts, and waits.
    let next = pattern(12_000, 2);
    let skipped = SIZE - writer.raw.get(raw::WRITE_POS);
    assert!(writer.raw.get(raw::FREE) > SIZE / 2);
    assert!(writer.raw.get(raw::FREE) < skipped + 16 + next.len() as u64);
    RawSem::open('r', &name).set(0);
    thread::scope(|scope| {
        let reading = scope.spawn(|| reader.read_frame(LONG));
        while writer.raw.get(raw::FREE) < SIZE && !reading.is_finished() {
            thread::yield_now();
        }
        assert_eq!(writer.raw.get(raw::FREE), SIZE, "nothing was moved out");
        writer.write_at_start(&next);
        assert!(reading.join().unwrap().unwrap()[..] == next[..]);
    });
    assert!(held[..] == pattern(6000, 1)[..]);
    assert_eq!(reader.frames_copied(), 1);
}

#[test]
fn an_interrupt_ends_the_copying_between_two_frames() {
    const COUNT: u64 = 400;
    const LEN: usize = 64 << 10;
    let name = Name::new("interrupt");
    // The other thread may come too late; not always.
    for round in 0.. {
        assert!(round < 100, "all frames are copied, interrupted or not");
        let config = BufferConfig::new(1024, COUNT * (16 + LEN as u64));
        let reader = Reader::create(&name, &config).unwrap();
        reader.set_evacuation(true);
        let writer = Writer::attach(&name).unwrap();
        // After a frame that takes the whole ring all that is held has to leave, as far as the
        // reader knows.
        let whole = vec![1; writer.payload_size() as usize - 16];
        writer.write_frame(&whole).unwrap();
        drop(reader.read_frame(LONG).unwrap());
        let mut held = Vec::new();
        for i in 0..COUNT {
            writer.write_frame(&[i as u8; LEN]).unwrap();
            held.push(reader.read_frame(LONG).unwrap());
        }
        assert_eq!(reader.frames_copied(), 0);

        let interrupt = Interrupt::new();
        let wait = Wait::forever().interrupted_by(&interrupt);
        interrupt.set();
        assert!(matches!(reader.read_frame(wait), Err(Error::Interrupted)));
        assert_eq!(reader.frames_copied(), 0);

        interrupt.clear();
        thread::scope(|scope| {
            scope.spawn(|| {
                while reader.frames_copied() == 0 {
                    thread::yield_now();
                }
                interrupt.set();
            });
            assert!(matches!(reader.read_frame(wait), Err(Error::Interrupted)));
        });
        let copied = reader.frames_copied();

        // The next call goes on where that one stopped.
        interrupt.clear();
        let empty = reader.read_frame(Duration::ZERO);
        assert!(matches!(empty, Err(Error::Timeout { .. })));
        assert_eq!(reader.frames_copied(), COUNT);
        writer.write_frame_wait(&whole, Duration::ZERO).unwrap();
        assert!(reader.read_frame(LONG).unwrap()[..] == whole);
        for (i, frame) in (0..COUNT).zip(&held) {
            assert!(frame[..] == [i as u8; LEN], "frame {i}");
        }
        if copied < COUNT {
            break;
        }
    }
}
