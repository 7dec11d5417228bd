//! `bench`, and what is made of the command line: help, man pages, completions.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::pipe;
use std::path::Path;
use std::process::Command;

use gstzerobuffer::{BufferConfig, Reader, Writer};

use super::{json, listed, output, row, zerobuffer};
use crate::support::Name;

const SUBCOMMANDS: [&str; 7] = ["list", "inspect", "doctor", "clean", "peek", "top", "bench"];

#[test]
fn a_short_benchmark_measures_and_leaves_nothing() {
    let buffers = || -> BTreeSet<String> {
        let all = fs::read_dir("/dev/shm").unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.contains("zerobuffer-bench"))
            .collect()
    };
    let before = buffers();
    let lines = json(
        &["bench", "--seconds", "0.05", "--size", "100000", "--json"],
        0,
    );
    assert_eq!(lines.as_array().unwrap().len(), 1);
    let line = &lines[0];
    assert_eq!(line["frame_bytes"], 100_000);
    for rate in ["memcpy", "copied", "read_in_place", "in_place"] {
        let rate = line[format!("{rate}_per_second")].as_f64().unwrap();
        assert!(rate > 0.0, "{line}");
    }
    let latency = |name: &str| line[name].as_f64().unwrap();
    assert!(latency("latency_seconds") > 0.0, "{line}");
    assert!(
        latency("latency_99_seconds") >= latency("latency_seconds"),
        "{line}"
    );
    assert!(buffers().is_subset(&before), "left behind");
    let text = output(
        &mut zerobuffer(&["bench", "--seconds", "0.05", "--size", "1"]),
        0,
    );
    assert_eq!(text.lines().count(), 2, "{text}");
    output(&mut zerobuffer(&["bench", "--size", "0"]), 2);
}

#[test]
fn help_names_every_subcommand_and_hides_what_is_not_for_people() {
    let text = output(&mut zerobuffer(&["--help"]), 0);
    for subcommand in SUBCOMMANDS {
        assert!(text.contains(&format!("\n  {subcommand} ")), "{text}");
        let help = output(&mut zerobuffer(&["help", subcommand]), 0);
        assert!(help.contains(&format!("zerobuffer {subcommand}")), "{help}");
    }
    assert!(
        !text.contains("generate") && !text.contains("bench-reader"),
        "{text}"
    );
    let version = output(&mut zerobuffer(&["--version"]), 0);
    assert_eq!(
        version,
        format!("zerobuffer {}\n", env!("CARGO_PKG_VERSION"))
    );
    output(&mut zerobuffer(&[]), 2);
    output(&mut zerobuffer(&["nonsense"]), 2);
}

#[test]
fn man_pages_and_completions_are_made_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("made");
    let said = output(&mut zerobuffer(&["generate", to.to_str().unwrap()]), 0);
    let made: BTreeSet<String> = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut expected: BTreeSet<String> = SUBCOMMANDS
        .iter()
        .map(|subcommand| format!("zerobuffer-{subcommand}.1"))
        .collect();
    expected.extend(
        [
            "zerobuffer.1",
            "zerobuffer.bash",
            "_zerobuffer",
            "zerobuffer.fish",
        ]
        .map(String::from),
    );
    assert_eq!(made, expected);
    assert_eq!(said.lines().count(), made.len());
    let page = fs::read_to_string(to.join("zerobuffer-peek.1")).unwrap();
    assert!(page.contains(".TH zerobuffer-peek 1"), "{page}");
    assert!(page.contains("overwritten meanwhile"), "{page}");
    assert!(
        page.contains(concat!("zerobuffer ", env!("CARGO_PKG_VERSION"))),
        "{page}"
    );
    let index = fs::read_to_string(to.join("zerobuffer.1")).unwrap();
    // Every page that it names is there.
    for subcommand in SUBCOMMANDS {
        assert!(
            index.contains(&format!("zerobuffer\\-{subcommand}(1)")),
            "{index}"
        );
    }
    assert_eq!(index.matches("(1)").count(), SUBCOMMANDS.len(), "{index}");
    assert!(!index.contains("bench\\-reader"), "{index}");
    // The shell itself completes with it.
    let script = format!(
        "source '{}' && COMP_WORDS=(zerobuffer do) COMP_CWORD=1 && \
         _zerobuffer zerobuffer do zerobuffer && echo \"${{COMPREPLY[@]}}\"",
        to.join("zerobuffer.bash").display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "doctor\n");
}

#[test]
fn who_has_read_enough_ends_it_quietly_and_a_full_disk_is_an_error() {
    let name = Name::new("command-pipe");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
    let looks: [&[&str]; 9] = [
        &["list"],
        &["list", "--json"],
        &["inspect", &name],
        &["inspect", &name, "--json"],
        &["doctor", "--json"],
        &["clean", "--dry-run"],
        &["top", "--interval", "0.1"],
        &["bench", "--seconds", "0.01", "--size", "1000"],
        &["--help"],
    ];
    // As with `zerobuffer list | head -1`, only that the other end has gone before.
    let nobody = || {
        let (reads, writes) = pipe().unwrap();
        drop(reads);
        writes
    };
    for args in looks {
        let output = zerobuffer(args).stdout(nobody()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
    for args in &looks[..7] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = zerobuffer(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("No space left"), "{args:?}: {said}");
    }
    // Nobody hears the error either.
    for args in [&["inspect", "no-such-buffer"][..], &["inspect", "a/b"]] {
        let status = zerobuffer(args).stderr(nobody()).status().unwrap();
        assert_eq!(status.code(), Some(2), "{args:?}");
    }
    drop(reader);
}

#[test]
fn every_name_that_a_buffer_may_have_can_be_looked_at() {
    let unique = Name::new("command-name");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame");
    let long = format!("{}{}", &*unique, "x".repeat(245 - unique.len()));
    for name in [
        format!("-{}", &*unique),
        format!("--json{}", &*unique),
        format!(" {} \t ", &*unique),
        format!("{}.lock", &*unique),
        format!("{}\\n\"'$(echo)`*?", &*unique),
        format!("kamera-grün-カメラ-🎥-{}", &*unique),
        format!("\u{202e}{}", &*unique),
        long,
    ] {
        let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        writer.write_frame(b"picture").unwrap();
        assert_eq!(listed(&name)["state"], "live", "{name:?}");
        // In the rows for programs nothing ends a row or a column early.
        let columns = output(&mut zerobuffer(&["list"]), 0);
        assert!(
            columns.lines().all(|line| line.split('\t').count() == 18),
            "{columns}"
        );
        let seen = json(&["inspect", "--json", "--", &name], 0);
        assert_eq!(seen["name"], name.as_str());
        output(&mut zerobuffer(&["inspect", "--", &name]), 0);
        output(
            &mut zerobuffer(&["top", "--once", "--interval", "0.1", "--", &name]),
            0,
        );
        let to = file.to_str().unwrap();
        output(
            &mut zerobuffer(&["peek", "--raw", "-o", to, "--", &name]),
            0,
        );
        assert_eq!(fs::read(&file).unwrap(), b"picture");
        let findings = json(&["doctor", "--json", "--", &name], 0);
        assert_eq!(findings["problems"], 0, "{findings}");
        let kept = output(&mut zerobuffer(&["clean", "--", &name]), 1);
        assert!(kept.contains("its reader is alive"), "{kept}");
        drop((writer, reader));
    }
    let reader = Reader::create(&unique, &BufferConfig::new(1024, 4096)).unwrap();
    assert_eq!(super::cell(&row(&unique), "state"), "waiting");
    drop(reader);
}

/// Each `zerobuffer` line in a fence of the pages, without what a shell does with it.
fn lines_of_the_pages() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let mut pages: Vec<_> = docs.map(|entry| entry.unwrap().path()).collect();
    pages.push(root.join("README.md"));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let mut lines = Vec::new();
    for page in pages {
        let text = fs::read_to_string(page).unwrap();
        for fence in text.split("```").skip(1).step_by(2) {
            let commands = fence.lines().map(|line| line.trim_start_matches("$ "));
            let commands = commands.filter(|line| line.starts_with("zerobuffer "));
            let plain = |line: &str| line.split(['|', '#']).next().unwrap().trim().to_string();
            lines.extend(commands.map(plain));
        }
    }
    lines
}

#[test]
fn the_command_lines_of_the_pages_can_be_given() {
    let lines = lines_of_the_pages();
    assert!(lines.len() >= 7, "{lines:?}");
    let ask = |line: &str, status| {
        let args: Vec<&str> = line.split_whitespace().skip(1).collect();
        // All before it has to be understood, and nothing is done.
        output(zerobuffer(&args).arg("--help"), status)
    };
    for line in &lines {
        ask(line, 0);
    }
    ask("zerobuffer peek cam --into frame.png", 2);
    ask("zerobuffer look cam", 2);
}
