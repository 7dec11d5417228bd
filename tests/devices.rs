//! Streams and waiting rings as devices: what is listed, what becomes of it, and that a device can be
//! used.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::process::{Command, Stdio};

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Offer, Reader, Writer, offers};
use support::{LONG, Name, Running, again, role, say};
use support_gst::{Pipeline, init, launch};

/// A provider for one test alone: the one that GStreamer has is one for all.
fn provider() -> gst::DeviceProvider {
    init();
    let known = gst::DeviceProviderFactory::by_name("zerobufferdeviceprovider").unwrap();
    gst::glib::Object::with_type(known.type_())
        .downcast()
        .unwrap()
}

/// One that tells of changes until it is dropped.
struct Watch(gst::DeviceProvider);

impl Watch {
    fn new() -> Self {
        let provider = provider();
        provider.start().unwrap();
        Watch(provider)
    }

    /// The device of a buffer as the provider knows it, once it is `like` that.
    fn until(
        &self,
        name: &str,
        like: impl Fn(Option<&gst::Device>) -> bool,
    ) -> Option<gst::Device> {
        loop {
            let found = self
                .0
                .devices()
                .into_iter()
                .find(|device| buffer(device) == name);
            if like(found.as_ref()) {
                return found;
            }
            std::thread::yield_now();
        }
    }

    fn device(&self, name: &str) -> gst::Device {
        self.until(name, |device| device.is_some()).unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// What a look finds now, without a watch.
fn probe(name: &str) -> Option<gst::Device> {
    provider()
        .devices()
        .into_iter()
        .find(|device| buffer(device) == name)
}

fn properties(device: &gst::Device) -> gst::Structure {
    device.properties().unwrap()
}

fn buffer(device: &gst::Device) -> String {
    properties(device).get("zerobuffer.name").unwrap()
}

fn in_use(device: &gst::Device) -> bool {
    properties(device).get("zerobuffer.in-use").unwrap()
}

const PICTURE: &str = "video/x-raw, format=(string)RGB, width=(int)64, height=(int)48";

fn sender(name: &str) -> Pipeline {
    Pipeline::play(&format!(
        "videotestsrc is-live=true ! video/x-raw,format=RGB,width=64,height=48,framerate=30/1 \
         ! zerobuffersink name=sink buffer-name={name}"
    ))
}

#[test]
fn a_sender_is_a_source_from_its_caps_to_its_end_and_can_be_opened() {
    let name = Name::new("device");
    let watch = Watch::new();
    assert!(probe(&name).is_none());
    let sender = sender(&name);
    let device = watch.device(&name);
    assert_eq!(device.device_class(), "Video/Source");
    assert_eq!(device.display_name(), format!("{} (ZeroBuffer)", &*name));
    assert!(
        device.caps().unwrap().to_string().starts_with(PICTURE),
        "{device:?}"
    );
    assert!(!in_use(&device));
    let told = properties(&device);
    assert_eq!(
        told.get::<u64>("zerobuffer.pid").unwrap(),
        u64::from(std::process::id())
    );
    assert_eq!(
        told.get::<String>("zerobuffer.uri").unwrap(),
        format!("zerobuffer://{}", &*name)
    );

    let element = device.create_element(Some("camera")).unwrap();
    assert_eq!(element.name(), "camera");
    let receiver = Pipeline::new("identity name=in ! fakesink");
    receiver.pipeline.add(&element).unwrap();
    element.link(&receiver.element("in")).unwrap();
    receiver.set_state(gst::State::Playing);
    receiver.until("camera", "frames", 3);
    // It stays, in use.
    watch.until(&name, |device| device.is_some_and(in_use));
    receiver.set_state(gst::State::Null);
    let device = watch.until(&name, |device| device.is_some_and(|it| !in_use(it)));
    assert_eq!(device.unwrap().device_class(), "Video/Source");

    // Another element for the same device.
    let other = gst::ElementFactory::make("zerobuffersrc").build().unwrap();
    watch.device(&name).reconfigure_element(&other).unwrap();
    assert_eq!(other.property::<String>("buffer-name"), *name);
    let wrong = gst::ElementFactory::make("fakesrc").build().unwrap();
    assert!(watch.device(&name).reconfigure_element(&wrong).is_err());

    drop(sender);
    watch.until(&name, |device| device.is_none());
}

#[test]
fn changes_are_told_on_the_bus() {
    let name = Name::new("device-bus");
    let watch = Watch::new();
    let bus = watch.0.bus();
    let next = |wanted: gst::MessageType| loop {
        let message = bus
            .timed_pop(gst::ClockTime::from_seconds(LONG.as_secs()))
            .unwrap();
        let device = match message.view() {
            gst::MessageView::DeviceAdded(it) => it.device(),
            gst::MessageView::DeviceRemoved(it) => it.device(),
            gst::MessageView::DeviceChanged(it) => it.device_changed().0,
            _ => continue,
        };
        // Other tests make devices, too.
        if buffer(&device) == *name {
            assert_eq!(message.type_(), wanted);
            return device;
        }
    };
    let sender = sender(&name);
    assert!(!in_use(&next(gst::MessageType::DeviceAdded)));
    let receiver = Pipeline::play(&format!("zerobuffersrc buffer-name={} ! fakesink", &*name));
    assert!(in_use(&next(gst::MessageType::DeviceChanged)));
    drop(receiver);
    assert!(!in_use(&next(gst::MessageType::DeviceChanged)));
    drop(sender);
    next(gst::MessageType::DeviceRemoved);
}

#[test]
fn a_reader_that_waits_is_a_sink_and_can_be_sent_to() {
    let name = Name::new("device-sink");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! fakesink",
        &*name
    ));
    let device = probe(&name).unwrap();
    assert_eq!(device.device_class(), "Sink");
    assert!(device.caps().unwrap().is_any());
    let element = device.create_element(None).unwrap();
    let sender = Pipeline::new("videotestsrc num-buffers=5 ! identity name=out");
    sender.pipeline.add(&element).unwrap();
    sender.element("out").link(&element).unwrap();
    sender.set_state(gst::State::Playing);
    sender.end();
    receiver.end();
    assert_eq!(receiver.stat("src", "frames"), 5);
}

#[test]
fn writers_that_offer_nothing_are_sources_once_they_have_attached() {
    for (metadata, class, caps) in [
        (
            "{\"caps\":\"audio/x-raw,format=S16LE\"}",
            "Audio/Source",
            Some("audio/x-raw"),
        ),
        ("image/jpeg,width=64", "Video/Source", Some("image/jpeg")),
        ("anything", "Source", None),
    ] {
        let name = Name::new("device-writer");
        let reader = Reader::create(&name, &BufferConfig::new(4096, 1 << 16)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        writer.set_metadata(metadata.as_bytes()).unwrap();
        let device = probe(&name).unwrap();
        assert_eq!(device.device_class(), class, "{metadata}");
        assert!(in_use(&device));
        let found = device.caps().unwrap();
        assert_eq!(
            found.structure(0).map(|it| it.name().as_str()),
            caps,
            "{found}"
        );
        drop(writer);
        assert!(
            probe(&name).is_none(),
            "a stream that has ended is no device"
        );
        drop(reader);
        assert!(probe(&name).is_none());
    }
}

#[test]
fn a_sender_that_is_killed_is_no_device_any_more() {
    const TEST: &str = "a_sender_that_is_killed_is_no_device_any_more";
    if let Some(name) = role() {
        let _offer = Offer::new(&name, b"audio/x-raw,format=S16LE").unwrap();
        say("offered");
        support::listen();
        return;
    }
    let name = Name::new("device-killed");
    let mut sender = Running::start(&mut again(TEST, &name));
    sender.hear();
    assert_eq!(probe(&name).unwrap().device_class(), "Audio/Source");
    let offered = offers()
        .into_iter()
        .find(|offered| offered.name == *name)
        .unwrap();
    assert_eq!(offered.pid, sender.pid());
    sender.kill();
    assert!(probe(&name).is_none());
    // Its slot is the next one's.
    let _offer = Offer::new(&name, b"image/jpeg,width=1").unwrap();
    assert_eq!(probe(&name).unwrap().device_class(), "Video/Source");
}

#[test]
fn looking_at_devices_lets_the_next_writer_in_and_nobody_else() {
    // A reader that counts who opens the writer's semaphore believes in no more writers for it.
    let name = Name::new("device-look");
    let reader = Reader::create(&name, &BufferConfig::new(4096, 1 << 16)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    let before = name.raw().bytes(0, 128);
    let _watch = Watch::new();
    for _ in 0..20 {
        assert!(probe(&name).is_some());
    }
    assert_eq!(name.raw().bytes(0, 128), before);
    writer.write_frame(b"one").unwrap();
    assert_eq!(&reader.read_frame(LONG).unwrap()[..], b"one");
    // Nobody came, so a frame numbered 1 once more is still a fault.
    let raw = name.raw();
    writer.write_frame(b"two").unwrap();
    let second = raw.payload_start() + 16 + 3;
    raw.write(second + 8, &1u64.to_le_bytes());
    assert!(reader.read_frame(LONG).is_err());
}

#[test]
fn the_monitor_program_lists_them() {
    let name = Name::new("device-monitor");
    let _sender = sender(&name);
    let registry = tempfile::tempdir().unwrap();
    while probe(&name).is_none() {
        std::thread::yield_now();
    }
    let mut monitor = Command::new("gst-device-monitor-1.0");
    for (key, value) in launch(registry.path(), "").get_envs() {
        monitor.env(key, value.unwrap());
    }
    let output = monitor
        .arg("Video/Source:video/x-raw")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for part in [
        &format!("{} (ZeroBuffer)", &*name),
        "video/x-raw, format=RGB, width=64, height=48",
        "zerobuffer.in-use = false",
        &format!("gst-launch-1.0 zerobuffersrc buffer-name={}", &*name),
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}
