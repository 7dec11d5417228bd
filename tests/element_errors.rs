//! Bad input: each is an element error whose text says what to do.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::str::FromStr;

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Reader, Writer};
use support::v1::V1Reader;
use support::{LONG, Name, Nobody, Running, again, listen, pattern, role, say, unshare, within};
use support_gst::{Pipeline, init};

/// The error of a pipeline that cannot even start, or that fails when it runs.
fn error_of(description: &str) -> String {
    let pipeline = Pipeline::new(description);
    let _ = pipeline.pipeline.set_state(gst::State::Playing);
    pipeline.error()
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

#[test]
fn names_that_cannot_be() {
    let long = "x".repeat(246);
    for (name, why) in [
        ("", "empty"),
        ("a/b", "slash"),
        ("..", "folder"),
        (".", "folder"),
        (long.as_str(), "longer than 245 bytes"),
        ("sem.x", "semaphores"),
    ] {
        for pipeline in [
            "videotestsrc ! zerobuffersink name=e",
            "zerobuffersrc name=e ! fakesink",
        ] {
            let pipeline = Pipeline::new(pipeline);
            pipeline.element("e").set_property("buffer-name", name);
            assert!(pipeline.pipeline.set_state(gst::State::Playing).is_err());
            says(&pipeline.error(), &["not a possible buffer name", why]);
        }
    }
    for pipeline in ["videotestsrc ! zerobuffersink", "zerobuffersrc ! fakesink"] {
        says(&error_of(pipeline), &["set the property buffer-name"]);
    }
}

#[test]
fn the_longest_name_works() {
    let name = Name::new("longest");
    let long = format!("{}{}", &*name, "x".repeat(245 - name.len()));
    let receiver = Pipeline::play(&format!("zerobuffersrc buffer-name={long} ! fakesink"));
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=3 ! video/x-raw,width=8,height=8 \
         ! zerobuffersink buffer-name={long}"
    ));
    sender.end();
    receiver.end();
}

#[test]
fn a_frame_that_is_too_large_for_the_ring() {
    let name = Name::new("too-large");
    let _receiver = Pipeline::play(&format!(
        "zerobuffersrc buffer-name={} payload-size=100000 ! fakesink",
        &*name
    ));
    let text = error_of(&format!(
        "videotestsrc ! video/x-raw,format=GRAY8,width=400,height=300 \
         ! zerobuffersink buffer-name={}",
        &*name
    ));
    says(
        &text,
        &["120000 bytes is too large", "100032", "at least 360064"],
    );
    // And the size that it names does.
    drop(_receiver);
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc buffer-name={} payload-size=360064 ! fakesink",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=20 ! video/x-raw,format=GRAY8,width=400,height=300 \
         ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    sender.end();
    receiver.end();
}

#[test]
fn a_frame_that_can_never_pass_a_ring_that_is_larger() {
    init();
    let name = Name::new("never");
    let _reader = Reader::create(&name, &BufferConfig::new(1024, 1024)).unwrap();
    let sender = Pipeline::new(&format!(
        "appsrc name=in caps=application/x-test ! zerobuffersink buffer-name={} sync=false",
        &*name
    ));
    for len in [64, 1000] {
        let frame = gst::Buffer::from_slice(pattern(len, 0));
        sender.appsrc("in").push_buffer(frame).unwrap();
    }
    sender.set_state(gst::State::Playing);
    says(
        &sender.error(),
        &[
            "1000 bytes cannot pass",
            "payload size 1024 from position",
            "at least 3072",
        ],
    );
}

#[test]
fn a_name_in_use_is_never_taken_away() {
    let name = Name::new("in-use");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! fakesink",
        &*name
    ));
    let second = error_of(&format!("zerobuffersrc buffer-name={} ! fakesink", &*name));
    let pid = format!("pid {}", std::process::id());
    says(&second, &["already has a reader", &pid, "another name"]);
    let sender = Pipeline::play(&format!(
        "videotestsrc num-buffers=5 ! video/x-raw,width=8,height=8 ! zerobuffersink buffer-name={}",
        &*name
    ));
    receiver.end();
    assert_eq!(receiver.stat("src", "frames"), 5);
    sender.end();
}

#[test]
fn a_second_writer_is_told_who_the_first_is() {
    let name = Name::new("second-writer");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc name=src buffer-name={} ! fakesink",
        &*name
    ));
    let line = "videotestsrc ! video/x-raw,width=8,height=8 ! zerobuffersink buffer-name=";
    let _sender = Pipeline::play(&format!("{line}{}", &*name));
    receiver.until("src", "frames", 1);
    let pid = format!("pid {}", std::process::id());
    says(
        &error_of(&format!("{line}{}", &*name)),
        &["already has a writer", &pid, "only one can write"],
    );
    receiver.no_error();
}

#[test]
fn something_else_under_the_name_is_left_alone() {
    let name = Name::new("foreign");
    let path = format!("/dev/shm/{}", &*name);
    for content in [b"short".to_vec(), vec![7; 5000]] {
        fs::write(&path, &content).unwrap();
        let source = error_of(&format!("zerobuffersrc buffer-name={} ! fakesink", &*name));
        says(
            &source,
            &["not a valid ZeroBuffer", "something else", &path],
        );
        let sink = error_of(&format!(
            "videotestsrc ! zerobuffersink buffer-name={}",
            &*name
        ));
        says(&sink, &["not a valid ZeroBuffer"]);
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn another_major_version_is_refused() {
    let name = Name::new("version");
    let reader = Reader::create(&name, &BufferConfig::default()).unwrap();
    let path = format!("/dev/shm/{}", &*name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4] = 2;
    fs::write(&path, bytes).unwrap();
    let sink = error_of(&format!(
        "videotestsrc ! zerobuffersink buffer-name={}",
        &*name
    ));
    says(&sink, &["protocol version 2.x", "speaks 1.x"]);
    drop(reader);
}

#[test]
fn too_little_room_in_dev_shm_is_told_at_the_start() {
    const TEST: &str = "too_little_room_in_dev_shm_is_told_at_the_start";
    if role().is_some() {
        let text = error_of("zerobuffersrc buffer-name=room payload-size=3000000 ! fakesink");
        says(
            &text,
            &["3065664 bytes", "1048576 free", "--shm-size", "remount"],
        );
        assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0, "left behind");
        return;
    }
    let mount = format!(
        "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {} {TEST} --exact",
        std::env::current_exe().unwrap().display()
    );
    let mut shell = again(TEST, "small");
    shell = {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &mount]);
        for (key, value) in shell.get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        command
    };
    let child = within(&unshare(&["--mount"]), &shell).output().unwrap();
    let out = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{out}");
    says(&out, &["1 passed"]);
}

#[test]
fn a_writer_without_permission_is_told_object_owner_and_mode() {
    const TEST: &str = "a_writer_without_permission_is_told_object_owner_and_mode";
    if let Some(name) = role() {
        let text = error_of(&format!("videotestsrc ! zerobuffersink buffer-name={name}"));
        say(&text);
        listen();
        return;
    }
    let name = Name::new("permission");
    let _receiver = Pipeline::play(&format!("zerobuffersrc buffer-name={} ! fakesink", &*name));
    if !support::is_root() {
        // Only root can become somebody else; but others can lock themselves out.
        let path = format!("/dev/shm/{}", &*name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let text = error_of(&format!(
            "videotestsrc ! zerobuffersink buffer-name={}",
            &*name
        ));
        says(&text, &["no permission", &path, "mode 0000", "perms=0666"]);
        return;
    }
    let nobody = Nobody::new();
    let mut peer = Running::start(&mut nobody.again(TEST, &name));
    says(
        &peer.hear(),
        &[
            "no permission",
            &format!("/dev/shm/{}", &*name),
            "owner uid 0",
            "mode 0600",
            "perms=0666",
        ],
    );
    peer.tell("end");
    peer.wait().expect_success();
}

#[test]
fn a_stream_without_caps_names_the_property() {
    for (metadata, what) in [
        (None, "no metadata"),
        (Some("gibberish"), "no caps: gibberish"),
        (Some("{\"a\":1}"), "without a string \"caps\""),
    ] {
        let name = Name::new("no-caps");
        let receiver = Pipeline::play(&format!("zerobuffersrc buffer-name={} ! fakesink", &*name));
        let writer = Writer::attach_wait(&name, LONG).unwrap();
        if let Some(metadata) = metadata {
            writer.set_metadata(metadata.as_bytes()).unwrap();
        }
        writer.write_frame(b"frame").unwrap();
        says(&receiver.error(), &[what, "set the property caps"]);
    }
}

#[test]
fn a_frame_that_does_not_match_its_caps() {
    init();
    let name = Name::new("mismatch");
    let caps = "video/x-raw,format=GRAY8,width=8,height=8,framerate=1/1";
    let receiver = Pipeline::play(&format!("zerobuffersrc buffer-name={} ! fakesink", &*name));
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    writer.set_metadata(caps.as_bytes()).unwrap();
    writer.write_frame(&[0; 63]).unwrap();
    says(&receiver.error(), &["63 bytes", "need 64"]);

    let sender = Pipeline::new(&format!(
        "appsrc name=in format=time ! zerobuffersink sync=false buffer-name={}",
        &*name
    ));
    drop(receiver);
    let _reader = Reader::create(&name, &BufferConfig::default()).unwrap();
    let input = sender.appsrc("in");
    input.set_caps(Some(&gst::Caps::from_str(caps).unwrap()));
    input.push_buffer(gst::Buffer::from_slice([0; 63])).unwrap();
    sender.set_state(gst::State::Playing);
    says(&sender.error(), &["63 bytes", "need 64"]);
}

#[test]
fn caps_that_the_receiver_cannot_take() {
    let name = Name::new("refused");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc buffer-name={} ! video/x-raw,format=RGB ! fakesink",
        &*name
    ));
    let _sender = Pipeline::play(&format!(
        "videotestsrc ! video/x-raw,format=I420,width=8,height=8 ! zerobuffersink buffer-name={}",
        &*name
    ));
    says(
        &receiver.error(),
        &["does not accept", "I420", "videoconvert"],
    );
}

#[test]
fn caps_that_change_in_the_middle() {
    init();
    let name = Name::new("caps-change");
    let reader = V1Reader::create(&name, 1024, 1 << 20);
    let _lock = reader.lock();
    let sender = Pipeline::play(&format!(
        "videotestsrc ! capsfilter name=filter caps=video/x-raw,width=8,height=8 \
         ! zerobuffersink name=sink buffer-name={}",
        &*name
    ));
    sender.until("sink", "frames", 1);
    let caps = gst::Caps::from_str("video/x-raw,width=16,height=8").unwrap();
    sender.element("filter").set_property("caps", &caps);
    says(&sender.error(), &["caps changed", "capsfilter"]);
}

#[test]
fn metadata_that_does_not_fit() {
    let name = Name::new("metadata");
    let _receiver = Pipeline::play(&format!(
        "zerobuffersrc buffer-name={} metadata-size=64 ! fakesink",
        &*name
    ));
    let text = error_of(&format!(
        "videotestsrc ! video/x-raw,width=8,height=8 ! zerobuffersink buffer-name={}",
        &*name
    ));
    says(
        &text,
        &[
            "bytes of metadata do not fit into the 64",
            "metadata size of at least",
        ],
    );
}

#[test]
fn waits_that_time_out_say_what_they_waited_for() {
    let name = Name::new("timeout");
    let line = format!(
        "videotestsrc ! video/x-raw,format=GRAY8,width=32,height=30 \
         ! zerobuffersink timeout=50000000 sync=false buffer-name={}",
        &*name
    );
    says(
        &error_of(&line),
        &["No reader came within", "0:00:00.050", "no buffer", &name],
    );
    let _reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
    says(&error_of(&line), &["stayed full", "too slow, holds frames"]);
}

#[test]
fn a_writer_that_breaks_the_protocol_ends_the_stream_with_an_error() {
    let name = Name::new("broken");
    let receiver = Pipeline::new(&format!(
        "zerobuffersrc name=src buffer-name={} caps=application/x-test ! fakesink",
        &*name
    ));
    // A live source makes its buffer in PAUSED and reads in PLAYING.
    receiver.set_state(gst::State::Paused);
    let writer = Writer::attach_wait(&name, LONG).unwrap();
    writer.write_frame(&[1; 48]).unwrap();
    let raw = name.raw();
    raw.set(raw.payload_start() + 8, 9);
    receiver.set_state(gst::State::Playing);
    says(
        &receiver.error(),
        &[
            "out of step",
            "expected frame 1, found 9",
            "restart both ends",
        ],
    );
}

#[test]
fn impossible_sizes_and_permissions() {
    for (property, why) in [
        (
            "payload-size=18446744073709551615",
            "larger than any address space",
        ),
        (
            "metadata-size=18446744073709551615",
            "larger than any address space",
        ),
        ("perms=0044", "reading and writing for the owner"),
        ("caps=video/x-raw,width=[1,100]", "leaves a choice"),
    ] {
        let name = Name::new("sizes");
        let text = error_of(&format!(
            "zerobuffersrc buffer-name={} {property} ! fakesink",
            &*name
        ));
        says(&text, &[why]);
    }
    let name = Name::new("sizes");
    let text = error_of(&format!(
        "zerobuffersrc buffer-name={} payload-size=1000000000000000 ! fakesink",
        &*name
    ));
    says(&text, &["1000000000065664 bytes in /dev/shm"]);
}
