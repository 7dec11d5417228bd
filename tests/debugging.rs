//! GStreamer's own means of finding out what happens make sense with our elements: tracers, debug
//! categories and graphs. See `docs/debugging.md`.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Name, Running};
use support_gst::launch;

/// A sender of ten frames and its receiver as processes of their own, and what each of them wrote
/// into the folder, with these variables in the environments of both.
fn run(folder: &Path, name: &str, variables: &[(&str, &str)]) -> [String; 2] {
    let log = |end: &str| folder.join(end);
    let start = |end: &str, line: &str| {
        // One registry for all, since to make it takes longer than the rest.
        let mut command: Command = launch(Path::new(env!("CARGO_TARGET_TMPDIR")), line);
        command
            .envs(variables.iter().copied())
            .env("GST_DEBUG_NO_COLOR", "1")
            .env("GST_DEBUG_FILE", log(end));
        Running::start(&mut command)
    };
    let receiver = start(
        "receiver",
        &format!("zerobuffersrc buffer-name={name} ! identity ! fakesink sync=true"),
    );
    let sender = start(
        "sender",
        &format!(
            "videotestsrc is-live=true num-buffers=10 ! identity \
             ! zerobuffersink buffer-name={name}"
        ),
    );
    for process in [sender, receiver] {
        process.wait().expect_success();
    }
    ["sender", "receiver"].map(|end| fs::read_to_string(log(end)).unwrap())
}

/// The lines with all of these in them.
fn count(log: &str, parts: &[&str]) -> usize {
    log.lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .count()
}

#[test]
fn the_latency_tracer_measures_from_and_to_our_elements_in_each_process() {
    if gstreamer::version() >= (1, 26, 0, 0) {
        // That of 1.26.2 waits for itself in any pipeline, `videotestsrc ! fakesink` too. That its
        // events stay in their process is tested in tests/stream/events.rs, with any version.
        return;
    }
    let (name, folder) = (Name::new("tracer"), tempfile::tempdir().unwrap());
    let variables = [
        ("GST_TRACERS", "latency(flags=pipeline+element+reported)"),
        ("GST_DEBUG", "GST_TRACER:7,zerobuffersrc:6"),
    ];
    let [sender, receiver] = run(folder.path(), &name, &variables);
    let frames = |log: &str, from: &str, to: &str| {
        let from = format!("src-element=(string){from}");
        let to = format!("sink-element=(string){to}");
        count(log, &[" latency, ", &from, &to])
    };
    assert!(
        frames(&sender, "videotestsrc0", "zerobuffersink0") >= 9,
        "{sender}"
    );
    assert!(
        frames(&receiver, "zerobuffersrc0", "fakesink0") >= 9,
        "{receiver}"
    );
    assert!(count(&receiver, &["element-latency, ", "identity0"]) >= 9);
    // What the source answers to a latency query: its property.
    let reported = [
        "element-reported-latency, ",
        "zerobuffersrc0",
        "min=(guint64)2000000",
    ];
    assert!(count(&receiver, &reported) >= 1, "{receiver}");
    // What the tracer sends along is for one process: the other one gets none of it.
    assert_eq!(count(&receiver, &["Sending on"]), 0, "{receiver}");
    assert_eq!(count(&receiver, &["videotestsrc0"]), 0);
}

#[test]
fn the_stats_tracer_counts_our_buffers() {
    let (name, folder) = (Name::new("stats"), tempfile::tempdir().unwrap());
    let variables = [("GST_TRACERS", "stats"), ("GST_DEBUG", "GST_TRACER:7")];
    let [sender, receiver] = run(folder.path(), &name, &variables);
    for (log, element) in [(&sender, "zerobuffersink0"), (&receiver, "zerobuffersrc0")] {
        let known = format!("name=(string){element}");
        assert_eq!(count(log, &[" new-element, ", &known]), 1, "{log}");
        assert!(count(log, &[" buffer, ", "size=(uint)"]) >= 20, "{log}");
    }
}

#[test]
fn the_levels_say_more_and_more() {
    let folder = tempfile::tempdir().unwrap();
    let levels = |level: u32| {
        let name = Name::new("levels");
        let debug = format!("zerobuffersrc:{level},zerobuffersink:{level}");
        run(folder.path(), &name, &[("GST_DEBUG", &debug)])
    };
    // Warnings: nothing is wrong.
    for log in levels(2) {
        assert_eq!(log, "");
    }
    // Info: who is connected to what.
    let [sender, receiver] = levels(4);
    assert_eq!(count(&sender, &["INFO", "Attached to"]), 1, "{sender}");
    assert_eq!(count(&sender, &["INFO", "Detaching from"]), 1);
    assert_eq!(count(&receiver, &["INFO", "Made buffer"]), 1, "{receiver}");
    assert_eq!(count(&receiver, &["INFO", "Closing buffer"]), 1);
    for log in [&sender, &receiver] {
        assert_eq!(count(log, &["DEBUG"]) + count(log, &["LOG"]), 0, "{log}");
    }
    // Log: each frame.
    let [sender, receiver] = levels(6);
    assert_eq!(count(&sender, &["LOG", "Frame of"]), 10, "{sender}");
    assert_eq!(
        count(&receiver, &["LOG", "Frame ", "the sender shows it"]),
        10,
        "{receiver}"
    );
}

#[test]
fn graphs_show_buffer_and_caps() {
    let (name, folder) = (Name::new("graph"), tempfile::tempdir().unwrap());
    let dots = tempfile::tempdir().unwrap();
    run(
        folder.path(),
        &name,
        &[("GST_DEBUG_DUMP_DOT_DIR", dots.path().to_str().unwrap())],
    );
    let graphs: Vec<String> = fs::read_dir(dots.path())
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for element in ["GstZeroBufferSrc", "GstZeroBufferSink"] {
        let shown = |graph: &&String| graph.contains(element) && graph.contains(&*name);
        assert!(graphs.iter().any(|graph| shown(&graph)), "{element}");
    }
}
