//! Both elements tell when the peer comes and goes, and why, and a handler may do what it likes.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::sync::mpsc::{Receiver, channel};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Reader, Writer};
use support::{LONG, Name, Running, example};
use support_gst::Pipeline;

const CAPS: &str = "application/x-test";

/// What is told by the signals of an element: the pid, and why it went if it did.
#[derive(Debug, PartialEq)]
enum Told {
    Came(u64),
    Gone(u64, String),
}

fn signals(pipeline: &Pipeline, name: &str) -> Receiver<Told> {
    let (tell, told) = channel();
    let (came, gone) = (tell.clone(), tell);
    let element = pipeline.element(name);
    element.connect("peer-connected", false, move |values| {
        came.send(Told::Came(values[1].get().unwrap())).unwrap();
        None
    });
    element.connect("peer-disconnected", false, move |values| {
        let (_, why) = gst::glib::EnumValue::from_value(&values[2]).unwrap();
        let told = Told::Gone(values[1].get().unwrap(), why.nick().into());
        // The test may be over.
        let _ = gone.send(told);
        None
    });
    told
}

/// The next element message, which says the same.
#[track_caller]
fn expect_message(pipeline: &Pipeline, buffer: &str, told: &Told) {
    let message = pipeline.message(&[gst::MessageType::Element]);
    let structure = message.structure().unwrap();
    assert_eq!(structure.get::<&str>("buffer-name").unwrap(), buffer);
    let pid = structure.get::<u64>("peer-pid").unwrap();
    let said = match structure.name().as_str() {
        "zerobuffer-peer-connected" => Told::Came(pid),
        "zerobuffer-peer-disconnected" => Told::Gone(pid, structure.get("reason").unwrap()),
        other => panic!("{other}"),
    };
    assert_eq!(said, *told);
}

#[track_caller]
fn expect(pipeline: &Pipeline, buffer: &str, told: &Receiver<Told>, what: Told) {
    assert_eq!(told.recv_timeout(LONG).unwrap(), what);
    expect_message(pipeline, buffer, &what);
}

fn read(name: &str, frames: u64) -> Running {
    Running::start(example("zb_read").args([name, "1024", "4096", &frames.to_string(), "600"]))
}

fn write(name: &str, frames: u64) -> Running {
    Running::start(example("zb_write").args([name, &frames.to_string(), "100", "-", "100"]))
}

fn sender(name: &str) -> Pipeline {
    Pipeline::new(&format!(
        "appsrc name=in caps={CAPS} format=time \
         ! zerobuffersink name=sink sync=false wait-for-connection=false buffer-name={name}"
    ))
}

#[test]
fn a_sink_without_a_frame_tells_of_readers_that_come_and_go() {
    let name = Name::new("peers-idle");
    let sender = sender(&name);
    let told = signals(&sender, "sink");
    sender.set_state(gst::State::Playing);
    for _ in 0..2 {
        let reader = read(&name, 0);
        let pid = reader.pid();
        expect(&sender, &name, &told, Told::Came(pid));
        reader.kill();
        expect(&sender, &name, &told, Told::Gone(pid, "died".into()));
    }
    // One that closes.
    let reader = Reader::create(&name, &BufferConfig::default()).unwrap();
    let pid = u64::from(std::process::id());
    expect(&sender, &name, &told, Told::Came(pid));
    drop(reader);
    expect(&sender, &name, &told, Told::Gone(pid, "closed".into()));
    // And nobody was written to.
    assert_eq!(
        sender.stat("sink", "frames") + sender.stat("sink", "dropped"),
        0
    );
}

#[test]
fn a_sink_that_sends_tells_of_its_readers() {
    let name = Name::new("peers-sink");
    let sender = sender(&name);
    let told = signals(&sender, "sink");
    sender.set_state(gst::State::Playing);
    let push = || {
        let frame = gst::Buffer::from_slice(vec![1; 100]);
        sender.appsrc("in").push_buffer(frame).unwrap();
    };
    let reader = read(&name, 1);
    let first = reader.pid();
    expect(&sender, &name, &told, Told::Came(first));
    push();
    reader.wait().expect_success();
    expect(&sender, &name, &told, Told::Gone(first, "closed".into()));

    let reader = read(&name, 0);
    let second = reader.pid();
    expect(&sender, &name, &told, Told::Came(second));
    push();
    // A reader that stands still has not gone.
    reader.stop();
    push();
    reader.kill();
    // The next may be there before anybody looks.
    let reader = read(&name, 0);
    let gone = told.recv_timeout(LONG).unwrap();
    let Told::Gone(pid, why) = &gone else {
        panic!("{gone:?}")
    };
    assert_eq!(*pid, second);
    assert!(["died", "replaced"].contains(&&**why), "{why}");
    expect_message(&sender, &name, &gone);
    let third = reader.pid();
    expect(&sender, &name, &told, Told::Came(third));
    push();

    // The end of the stream closes this end only.
    sender.set_state(gst::State::Ready);
    expect(&sender, &name, &told, Told::Gone(third, "stopped".into()));
    assert!(told.try_recv().is_err());
    reader.kill();
    Reader::create(&name, &BufferConfig::default()).unwrap();
}

#[test]
fn a_ring_that_is_made_anew_is_no_other_peer() {
    let name = Name::new("peers-resize");
    let receiver = Pipeline::new(&format!(
        "zerobuffersrc name=src buffer-name={} ! fakesink sync=false",
        &*name
    ));
    let from_src = signals(&receiver, "src");
    receiver.set_state(gst::State::Playing);
    let sender = Pipeline::new(&format!(
        "videotestsrc num-buffers=60 is-live=true ! video/x-raw,format=RGBA,width=1920,height=1080 \
         ! zerobuffersink name=sink frames=8 sync=false buffer-name={}",
        &*name
    ));
    let from_sink = signals(&sender, "sink");
    sender.set_state(gst::State::Playing);
    let pid = u64::from(std::process::id());
    assert_eq!(from_sink.recv_timeout(LONG).unwrap(), Told::Came(pid));
    assert_eq!(from_src.recv_timeout(LONG).unwrap(), Told::Came(pid));
    sender.end();
    assert!(receiver.stat("src", "frames") > 0);
    assert_eq!(
        from_src.recv_timeout(LONG).unwrap(),
        Told::Gone(pid, "closed".into())
    );
    assert_eq!(
        from_sink.recv_timeout(LONG).unwrap(),
        Told::Gone(pid, "closed".into())
    );
    receiver.end();
    assert!(from_src.try_recv().is_err() && from_sink.try_recv().is_err());
}

#[test]
fn a_source_tells_of_its_writers() {
    let name = Name::new("peers-source");
    let receiver = Pipeline::new(&format!(
        "zerobuffersrc name=src buffer-name={} caps={CAPS} on-writer-exit=wait ! fakesink",
        &*name
    ));
    let told = signals(&receiver, "src");
    receiver.set_state(gst::State::Playing);
    // It stays until it has been told of: one that has closed before anybody looked is not.
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    writer.write_frame(&[1; 100]).unwrap();
    let pid = u64::from(std::process::id());
    expect(&receiver, &name, &told, Told::Came(pid));
    drop(writer);
    expect(&receiver, &name, &told, Told::Gone(pid, "closed".into()));

    let writer = write(&name, 1_000_000);
    let pid = writer.pid();
    expect(&receiver, &name, &told, Told::Came(pid));
    writer.kill();
    expect(&receiver, &name, &told, Told::Gone(pid, "died".into()));

    // Also while it is paused.
    receiver.set_state(gst::State::Paused);
    let writer = write(&name, 1_000_000);
    let pid = writer.pid();
    expect(&receiver, &name, &told, Told::Came(pid));
    receiver.set_state(gst::State::Null);
    assert_eq!(
        told.recv_timeout(LONG).unwrap(),
        Told::Gone(pid, "stopped".into())
    );
    drop(writer);
}

#[test]
fn a_handler_may_ask_the_element_and_stop_it() {
    let name = Name::new("peers-handler");
    let sender = sender(&name);
    let (stopped, is_stopped) = channel();
    let pipeline = sender.pipeline.downgrade();
    let sink = sender.element("sink");
    sink.connect("peer-connected", false, move |values| {
        let sink = values[0].get::<gst::Element>().unwrap();
        let pid: u64 = values[1].get().unwrap();
        let _: gst::Structure = sink.property("stats");
        sink.set_property("on-full", sink.property_value("on-full"));
        pipeline
            .upgrade()
            .unwrap()
            .set_state(gst::State::Null)
            .unwrap();
        stopped.send(pid).unwrap();
        None
    });
    for _ in 0..3 {
        sender.set_state(gst::State::Playing);
        let reader = read(&name, 0);
        assert_eq!(is_stopped.recv_timeout(LONG).unwrap(), reader.pid());
        assert_eq!(sender.pipeline.current_state(), gst::State::Null);
        reader.kill();
    }
    Reader::create(&name, &BufferConfig::default()).unwrap();
}

#[test]
fn a_handler_that_takes_long_holds_up_neither_frames_nor_a_change_of_state() {
    let name = Name::new("peers-slow");
    let sender = sender(&name);
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = std::sync::Mutex::new(may_go_on);
    let (entered, has_entered) = channel();
    let sink = sender.element("sink");
    sink.connect("peer-connected", false, move |_| {
        entered.send(()).unwrap();
        let _ = may_go_on.lock().unwrap().recv();
        None
    });
    let told = signals(&sender, "sink");
    sender.set_state(gst::State::Playing);
    let reader = Reader::create(&name, &BufferConfig::default()).unwrap();
    has_entered.recv_timeout(LONG).unwrap();
    let frame = gst::Buffer::from_slice(vec![1; 100]);
    sender.appsrc("in").push_buffer(frame).unwrap();
    assert_eq!(reader.read_frame(LONG).unwrap().len(), 100);
    sender.set_state(gst::State::Paused);
    sender.set_state(gst::State::Null);
    go_on.send(()).unwrap();
    // The rest is told when the handler returns.
    let pid = u64::from(std::process::id());
    assert_eq!(told.recv_timeout(LONG).unwrap(), Told::Came(pid));
    assert_eq!(
        told.recv_timeout(LONG).unwrap(),
        Told::Gone(pid, "stopped".into())
    );
}

#[test]
fn a_camera_runs_only_while_somebody_looks() {
    let name = Name::new("camera");
    let mut camera = Running::start(example("camera_on_demand").arg(&*name));
    for _ in 0..2 {
        // Any reader of frames will do.
        let reader = Reader::create(&name, &BufferConfig::new(1024, 1 << 20)).unwrap();
        let pid = std::process::id();
        let on = format!("process {pid} is there: camera on");
        assert_eq!(camera.line().unwrap(), on);
        let mut frames = reader.frames(LONG);
        for _ in 0..5 {
            frames.next().unwrap().unwrap();
        }
        drop(frames);
        drop(reader);
        let off = format!("process {pid} has gone (closed): camera off");
        assert_eq!(camera.line().unwrap(), off);
    }
    camera.kill();
}
