//! Buffers by address: `zerobuffer://NAME?property=value`, where GStreamer opens addresses.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::process::{Command, Stdio};

use gst::prelude::*;
use gstreamer as gst;
use support::Name;
use support_gst::{Pipeline, init, launch};

/// The element that GStreamer finds for an address.
fn make(kind: gst::URIType, uri: &str) -> Result<gst::Element, String> {
    init();
    gst::Element::make_from_uri(kind, uri, None).map_err(|err| err.message().to_string())
}

fn address(element: &gst::Element) -> Option<String> {
    let handler = element.dynamic_cast_ref::<gst::URIHandler>().unwrap();
    handler.uri().map(Into::into)
}

#[test]
fn an_address_makes_either_element_with_its_properties_and_is_told_again() {
    let uri = "zerobuffer://cam?on-writer-exit=wait&payload-size=8000000&perms=0666&is-live=false\
               &caps=video%2Fx-raw%2C%20format%3DRGB";
    let source = make(gst::URIType::Src, uri).unwrap();
    assert_eq!(source.factory().unwrap().name(), "zerobuffersrc");
    assert_eq!(source.property::<String>("buffer-name"), "cam");
    assert_eq!(source.property::<u64>("payload-size"), 8_000_000);
    assert_eq!(source.property::<u32>("perms"), 0o666);
    assert!(!source.property::<bool>("is-live"));
    let caps: gst::Caps = source.property("caps");
    assert_eq!(caps.to_string(), "video/x-raw, format=(string)RGB");
    let again = make(gst::URIType::Src, &address(&source).unwrap()).unwrap();
    for property in [
        "buffer-name",
        "payload-size",
        "perms",
        "is-live",
        "caps",
        "on-writer-exit",
    ] {
        let text = |element: &gst::Element| element.property_value(property).serialize().unwrap();
        assert_eq!(text(&again), text(&source), "{property}");
    }

    let sink = make(
        gst::URIType::Sink,
        "ZeroBuffer://cam/?on-full=drop&sync=false",
    )
    .unwrap();
    assert_eq!(sink.factory().unwrap().name(), "zerobuffersink");
    assert!(!sink.property::<bool>("sync"));
    let uri = address(&sink).unwrap();
    assert_eq!(
        make(gst::URIType::Sink, &uri).map(|it| address(&it)),
        Ok(Some(uri))
    );

    let nameless = gst::ElementFactory::make("zerobuffersrc").build().unwrap();
    assert_eq!(address(&nameless), None);
    let plain = make(gst::URIType::Src, "zerobuffer://cam").unwrap();
    assert_eq!(address(&plain).unwrap(), "zerobuffer://cam");
}

#[test]
fn any_name_can_be_an_address() {
    init();
    for name in ["a b", "50%", "?&=#+", "ü→", "[::1]:80", "user@host", "%41"] {
        let source = gst::ElementFactory::make("zerobuffersrc").property("buffer-name", name);
        let uri = address(&source.build().unwrap()).unwrap();
        assert!(uri.is_ascii(), "{uri}");
        let again = make(gst::URIType::Src, &uri).unwrap();
        assert_eq!(again.property::<String>("buffer-name"), name, "{uri}");
    }
}

#[test]
fn an_address_that_is_wrong_is_an_error_that_says_why_and_changes_nothing() {
    init();
    let source = gst::ElementFactory::make("zerobuffersrc").build().unwrap();
    let handler = source.dynamic_cast_ref::<gst::URIHandler>().unwrap();
    for (uri, why) in [
        (
            "zerobuffer://cam?perm=0666",
            "no parameter perm; known are: ",
        ),
        ("zerobuffer://cam?perm=0666", "max-payload-size"),
        ("zerobuffer://cam?stats=1", "no parameter stats"),
        ("zerobuffer://cam?buffer-name=b", "no parameter buffer-name"),
        ("zerobuffer://cam?perms=0777&perms=0600", "twice"),
        ("zerobuffer://cam?latency=1&perms=a", "not a value of type"),
        (
            "zerobuffer://cam?latency=1&perms=01000",
            "not from 0 to 511",
        ),
        (
            "zerobuffer://cam?on-writer-exit=perhaps",
            "not a value of type",
        ),
        ("zerobuffer://cam?latency", "not of the form property=value"),
        ("zerobuffer://", "empty"),
        ("zerobuffer://?latency=1", "empty"),
        ("zerobuffer://sem.cam", "semaphores"),
        ("zerobuffer://cam%2", "two hexadecimal digits"),
        ("zerobuffer://cam%FF", "not text"),
        ("zerobuffer://cam%00", "not text"),
        ("zerobuffer://host/cam", "no slash"),
        ("zerobuffer://host%2Fcam", "slash"),
        ("zerobuffer://cam#1", "%23"),
        ("zerobuffer:cam", "of the form zerobuffer://NAME"),
    ] {
        let err = handler.set_uri(uri).unwrap_err();
        assert!(err.message().contains(why), "{uri}: {err}");
        assert!(err.matches(gst::URIError::BadUri), "{err}");
        assert_eq!(source.property::<Option<String>>("buffer-name"), None);
        assert_eq!(source.property::<u64>("latency"), 2_000_000);
    }
}

#[test]
fn the_address_of_a_running_element_stays() {
    let name = Name::new("uri-state");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! fakesink",
        &*name
    ));
    let source = receiver.element("src");
    let handler = source.dynamic_cast_ref::<gst::URIHandler>().unwrap();
    let err = handler.set_uri("zerobuffer://other").unwrap_err();
    assert!(err.matches(gst::URIError::BadState), "{err}");
    assert_eq!(handler.uri().unwrap(), format!("zerobuffer://{}", &*name));
}

const FRAMES: u64 = 30;

/// What a sender puts in front of zerobuffersink.
fn contents() -> [String; 4] {
    let picture = format!("videotestsrc num-buffers={FRAMES} ! video/x-raw,width=160,height=120");
    [
        picture.clone(),
        format!("{picture} ! jpegenc"),
        format!("{picture} ! x264enc tune=zerolatency ! h264parse config-interval=-1"),
        format!("audiotestsrc num-buffers={FRAMES} ! audio/x-raw,rate=48000,channels=2"),
    ]
}

fn send(content: &str, name: &str) -> Pipeline {
    Pipeline::play(&format!(
        "{content} ! zerobuffersink buffer-name=\"{name}\" sync=false"
    ))
}

fn rendered(sink: &gst::Element) -> u64 {
    sink.property::<gst::Structure>("stats")
        .get("rendered")
        .unwrap()
}

#[test]
fn urisourcebin_opens_a_buffer() {
    for content in contents() {
        let name = Name::new("uri source");
        let uri = format!("zerobuffer://{}", name.replace(' ', "%20"));
        let receiver = Pipeline::new(&format!(
            "urisourcebin name=in uri={uri} in. ! fakesink name=out sync=false"
        ));
        receiver.set_state(gst::State::Playing);
        let sender = send(&content, &name);
        sender.end();
        receiver.end();
        assert!(rendered(&receiver.element("out")) >= FRAMES, "{content}");
    }
}

#[test]
fn players_open_a_buffer() {
    for player in ["playbin", "playbin3"] {
        for content in contents() {
            let name = Name::new("uri-player");
            let receiver = Pipeline::new(&format!("{player} name=player"));
            let player = &receiver.pipeline;
            let sink = |property: &str| {
                let sink = gst::ElementFactory::make("fakesink").property("sync", false);
                let sink = sink.build().unwrap();
                player.set_property(property, &sink);
                sink
            };
            let (video, audio) = (sink("video-sink"), sink("audio-sink"));
            player.set_property("uri", format!("zerobuffer://{}", &*name));
            receiver.set_state(gst::State::Playing);
            let sender = send(&content, &name);
            sender.end();
            receiver.end();
            let frames = if content.contains("audio") {
                rendered(&audio)
            } else {
                rendered(&video)
            };
            assert!(frames >= FRAMES, "{content}: {frames}");
        }
    }
}

#[test]
fn the_player_program_plays_an_address() {
    let name = Name::new("uri-play");
    let registry = tempfile::tempdir().unwrap();
    let sender = launch(
        registry.path(),
        &format!(
            "videotestsrc num-buffers={FRAMES} ! zerobuffersink buffer-name={}",
            &*name
        ),
    );
    let mut player = Command::new("gst-play-1.0");
    for (key, value) in sender.get_envs() {
        player.env(key, value.unwrap());
    }
    player
        .args(["--videosink=fakesink", "--no-interactive"])
        .arg(format!("zerobuffer://{}?on-writer-exit=eos", &*name))
        .stdin(Stdio::null());
    let sender = support::Running::start({ sender }.stdin(Stdio::null()));
    let player = support::Running::start(&mut player);
    sender.wait().expect_success();
    let played = player.wait().expect_success();
    assert!(
        played.out.contains("Reached end of play list"),
        "{played:#?}"
    );
}
