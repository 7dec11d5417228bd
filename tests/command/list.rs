//! `list` and `inspect`: what they say of real streams.

use std::process;

use gstzerobuffer::{BufferConfig, FrameLayout, FrameTime, Reader, Records, Writer};
use serde_json::{Value, json};

use super::{ForAll, cell, json, listed, output, row, zerobuffer};
use crate::gst::Pipeline;
use crate::python;
use crate::support::raw;
use crate::support::v1::{V1Reader, V1Writer};
use crate::support::{
    LONG, Name, Running, again, is_root, listen, pattern, role, say, unshare, within,
};

const CAPS: &str = "video/x-raw, format=(string)GRAY8, width=(int)64, height=(int)32, \
                    framerate=(fraction)30000/1001";

#[test]
fn a_stream_of_this_library_is_told_in_full() {
    let name = Name::new("command-full");
    let reader = Reader::create(&name, &BufferConfig::new(4096, 1 << 16)).unwrap();
    let pid = process::id();
    assert_eq!(listed(&name)["state"], "waiting");
    assert_eq!(listed(&name)["writer"]["life"], "none");

    let writer = Writer::attach(&name).unwrap();
    let metadata = json!({ "caps": CAPS, "type": "video/x-raw" }).to_string();
    writer.set_metadata(metadata.as_bytes()).unwrap();
    let time = FrameTime {
        pts: Some(40_000_000),
        monotonic: Some(7_000_000_000),
        flags: 0x10,
        ..FrameTime::default()
    };
    let layout = FrameLayout {
        width: 64,
        height: 32,
        planes: 1,
        strides: [64, 0, 0, 0],
        ..FrameLayout::default()
    };
    let records = Records::new().with_time(&time).with_layout(&layout);
    for i in 0..3 {
        writer
            .write_frame_with(&pattern(2048, i), &records, LONG)
            .unwrap();
    }
    writer
        .write_message(&Records::new().with(77, b"application"), LONG)
        .unwrap();
    let held = reader.read_frame(LONG).unwrap();

    let seen = listed(&name);
    assert_eq!(seen["state"], "live");
    assert_eq!(seen["caps"], CAPS);
    assert!((seen["framerate"].as_f64().unwrap() - 29.97).abs() < 0.01);
    assert_eq!(seen["ring"]["bytes"], 1 << 16);
    for end in ["reader", "writer"] {
        assert_eq!(seen[end]["pid"], pid);
        assert_eq!(seen[end]["life"], "alive");
        assert_eq!(seen[end]["is_ours"], true);
        let command = seen[end]["command"].as_str().unwrap();
        assert!(command.contains("command"), "{command}");
        assert_eq!(seen[end]["uid"], nix::unistd::geteuid().as_raw());
    }
    let row = row(&name);
    for (column, expected) in [
        ("state", "live"),
        ("caps", CAPS),
        ("framerate", "30000/1001"),
        ("ring_bytes", "65536"),
        ("reader_pid", &pid.to_string()),
        ("writer_life", "alive"),
    ] {
        assert_eq!(cell(&row, column), expected, "{column}");
    }

    let seen = json(&["inspect", &name, "--json"], 0);
    assert_eq!(seen["metadata"], metadata);
    assert_eq!(seen["problems"], json!([]));
    assert_eq!(seen["hello"]["attachments"], 1);
    assert_eq!(seen["hello"]["writer_pid"], pid);
    let raw = name.raw();
    for (field, at) in [
        ("metadata_size", raw::METADATA_SIZE),
        ("metadata_free_bytes", raw::METADATA_FREE),
        ("metadata_written_bytes", raw::METADATA_WRITTEN),
        ("payload_size", raw::PAYLOAD_SIZE),
        ("payload_free_bytes", raw::FREE),
        ("payload_write_pos", raw::WRITE_POS),
        ("payload_read_pos", raw::READ_POS),
        ("payload_written_count", raw::WRITTEN_COUNT),
        ("payload_read_count", raw::READ_COUNT),
    ] {
        assert_eq!(seen["oieb"][field], raw.get(at), "{field}");
    }
    let frames = seen["frames"].as_array().unwrap();
    let sequences: Vec<&Value> = frames.iter().map(|frame| &frame["sequence"]).collect();
    assert_eq!(sequences, [&json!(1), &json!(2), &json!(3), &Value::Null]);
    let taken: Vec<&Value> = frames.iter().map(|frame| &frame["is_taken"]).collect();
    assert_eq!(taken, [true, false, false, false]);
    assert_eq!(seen["ring"]["unread_frames"], 3, "with the message");
    let held_bytes = seen["ring"]["held_bytes"].as_u64().unwrap();
    assert!(held_bytes >= 2048 + 16 + 56 + 64, "{held_bytes}");
    assert_eq!(frames[0]["bytes"], 2048);
    assert_eq!(frames[1]["pts_ns"], 40_000_000);
    assert_eq!(frames[1]["monotonic_ns"], 7_000_000_000_u64);
    assert_eq!(frames[1]["layout"]["strides"], json!([64]));
    assert_eq!(frames[3]["is_message"], true);
    assert_eq!(frames[3]["record_kinds"], json!([77]));
    let last = json(&["inspect", &name, "--json", "--frames", "1"], 0);
    assert_eq!(last["frames"], json!([frames[3]]));

    let text = output(&mut zerobuffer(&["inspect", &name]), 0);
    for part in [
        "live",
        CAPS,
        "payload_write_pos",
        "frame 3",
        "message",
        "pts 0.040000 s",
        "due at 7.000000 s monotonic",
        "follows skips",
        "held by the reader",
        "all numbers fit together",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    drop(held);
    drop(writer);
    assert_eq!(listed(&name)["state"], "ended");
    drop(reader);
    let gone = zerobuffer(&["inspect", &name]).output().unwrap();
    assert_eq!(gone.status.code(), Some(2));
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(said.contains(&*name), "{said}");
}

#[test]
fn a_pipeline_tells_what_it_sends() {
    let name = Name::new("command-gst");
    let receiver = Pipeline::play(&format!(
        "zerobuffersrc buffer-name={} ! fakesink name=sink",
        &*name
    ));
    let sender = Pipeline::play(&format!(
        "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=50/1 ! \
         zerobuffersink name=sink buffer-name={}",
        &*name
    ));
    sender.until("sink", "frames", 2);
    let seen = listed(&name);
    assert_eq!(seen["state"], "live");
    assert_eq!(seen["framerate"], 50.0);
    let caps = seen["caps"].as_str().unwrap();
    assert!(caps.contains("format=(string)I420"), "{caps}");
    drop((sender, receiver));
}

#[test]
fn v1_peers_are_told_with_what_can_be_known_of_them() {
    let name = Name::new("command-python");
    let mut reader = python::script("zb_py_read.py");
    let mut reader = Running::start(reader.args([&*name, "1024", "65536", "3", "60", "--talk"]));
    assert_eq!(reader.line().as_deref(), Some("ready"));
    let mut writer = python::script("zb_py_write.py");
    let mut writer = Running::start(writer.args([&*name, "2", "1000", "about", "0", "--talk"]));
    assert_eq!(writer.line().as_deref(), Some("attached"));
    assert_eq!(writer.line().as_deref(), Some("written"));
    let seen = json(&["inspect", &name, "--json"], 0);
    assert_eq!(seen["state"], "live");
    assert_eq!(seen["hello"], Value::Null);
    assert_eq!(seen["metadata"], "about");
    assert_eq!(seen["caps"], Value::Null);
    for (end, process) in [("reader", &reader), ("writer", &writer)] {
        assert_eq!(seen[end]["pid"], process.pid());
        assert_eq!(seen[end]["is_ours"], false);
        let command = seen[end]["command"].as_str().unwrap();
        assert!(
            command.contains(&format!(
                "zb_py_{}",
                end.replace("er", "").replace("writ", "write")
            )),
            "{command}"
        );
    }
    let row = row(&name);
    assert_eq!(cell(&row, "caps"), "-");
    // Dead peers of v1 leave their pids.
    writer.kill();
    let seen = listed(&name);
    assert_ne!(seen["writer"]["life"], "alive");
    assert_eq!(seen["reader"]["life"], "alive");
    reader.kill();
    let state = listed(&name)["state"].clone();
    let sure = gstzerobuffer::inspect::host::sees_all_processes();
    assert_eq!(state, if sure { "reader-dead" } else { "unclear" });
    let text = output(&mut zerobuffer(&["clean", &name]), 0);
    assert!(
        text.starts_with(&format!("removed\t{}\t", &*name)),
        "{text}"
    );
    name.assert_nothing_left();
}

#[test]
fn a_pid_that_another_process_has_here_is_not_taken_for_the_peer() {
    let name = Name::new("command-pid");
    let v1 = V1Reader::create(&name, 1024, 4096);
    // A living process that has not got the buffer.
    let other = Running::start(&mut process::Command::new("cat"));
    v1.raw.set(raw::READER_PID, other.pid());
    let seen = listed(&name);
    assert_eq!(seen["reader"]["life"], "unseen");
    assert_eq!(seen["state"], "unclear");
    assert_eq!(seen["reader"]["command"], Value::Null);
    // By its lock file it lives, wherever it is.
    let lock = v1.lock();
    assert_eq!(listed(&name)["reader"]["life"], "alive");
    drop((lock, v1));
}

#[test]
fn ends_in_another_pid_namespace_are_alive_by_their_locks() {
    const TEST: &str = "list::ends_in_another_pid_namespace_are_alive_by_their_locks";
    if let Some(name) = role() {
        let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        say("there");
        listen();
        drop((writer, reader));
        return;
    }
    let name = Name::new("command-namespace");
    let wrapper = unshare(&["--pid", "--fork", "--kill-child"]);
    let mut child = Running::start(&mut within(&wrapper, &again(TEST, &name)));
    assert_eq!(child.hear(), "there");
    let seen = listed(&name);
    assert_eq!(seen["state"], "live");
    for end in ["reader", "writer"] {
        assert_eq!(seen[end]["life"], "alive");
        // Found by its pid in its own namespace, which another process has here.
        assert_eq!(seen[end]["pid"], 1);
        let command = seen[end]["command"].as_str().unwrap();
        assert!(command.contains(TEST), "{command}");
    }
    child.tell("end");
    child.wait().expect_success();
}

#[test]
fn a_process_that_is_stopped_is_told() {
    const TEST: &str = "list::a_process_that_is_stopped_is_told";
    if let Some(name) = role() {
        let _reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
        say("there");
        listen();
        return;
    }
    let name = Name::new("command-stopped");
    let mut child = Running::start(&mut again(TEST, &name));
    assert_eq!(child.hear(), "there");
    assert_eq!(listed(&name)["reader"]["is_stopped"], false);
    child.stop();
    assert_eq!(listed(&name)["reader"]["is_stopped"], true);
    let text = output(&mut zerobuffer(&["doctor", &name]), 1);
    assert!(
        text.contains(&format!("kill -CONT {}", child.pid())),
        "{text}"
    );
    child.signal(nix::sys::signal::Signal::SIGCONT);
    child.tell("end");
    child.wait().expect_success();
}

#[test]
fn what_another_user_hides_is_told_as_hidden_and_what_it_shows_is_shown() {
    let name = Name::new("command-user");
    let config = BufferConfig::new(1024, 4096);
    let reader = Reader::create(&name, &config).unwrap();
    let all = ForAll::new();
    let look = |args: &[&str]| -> Value {
        let mut command = if is_root() {
            all.as_nobody(args)
        } else {
            zerobuffer(args)
        };
        let list: Value = serde_json::from_str(&output(&mut command, 0)).unwrap();
        let mut list = list.as_array().unwrap().iter();
        list.find(|it| it["name"] == *name).unwrap().clone()
    };
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(mode);
        name.raw().file().set_permissions(permissions).unwrap();
    };
    let raw = name.raw();
    if !is_root() {
        // As near as one gets without a second user.
        mode(0o000);
    }
    let seen = look(&["list", "--json"]);
    assert_eq!(seen["state"], "hidden");
    assert_eq!(seen["segment"]["bytes"], raw.len());
    assert_eq!(seen["unknown"], "it may not be read");
    raw.file()
        .set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    let seen = look(&["list", "--json"]);
    assert_eq!(seen["state"], "waiting");
    assert_eq!(seen["reader"]["life"], "alive");
    drop(reader);
}

#[test]
fn a_v1_writer_that_closed_and_one_that_never_came_are_told_apart() {
    let name = Name::new("command-ended");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
    assert_eq!(listed(&name)["state"], "waiting");
    let mut writer = V1Writer::attach(&name, process::id().into());
    writer.write(b"frame");
    assert_eq!(listed(&name)["state"], "live");
    writer.close();
    assert_eq!(listed(&name)["state"], "ended");
    drop(reader);
}
