//! What `gst-inspect-1.0` says about the plugin and its elements is what is committed in
//! tests/inspect/: nobody changes a property, a pad or a description without meaning to.
//!
//! Lines that depend on the machine, the commit or GStreamer's version are left out: of the plugin
//! the file, version and date; of the elements everything but factory, pad templates, addresses and
//! those properties that are ours.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The properties of each element that its base classes do not have, or whose default is ours.
const PROPERTIES: [(&str, &[&str]); 3] = [
    (
        "zerobufferfilter",
        &[
            "channel-name",
            "frame-prefix",
            "latency",
            "max-in-flight",
            "on-failure",
            "payload-size",
            "perms",
            "stats",
            "timeout",
            "timeout-ms",
        ],
    ),
    (
        "zerobuffersink",
        &[
            "buffer-name",
            "frame-prefix",
            "frames",
            "on-caps-change",
            "on-full",
            "on-reader-gone",
            "stats",
            "timeout",
            "timeout-ms",
            "wait-for-connection",
        ],
    ),
    (
        "zerobuffersrc",
        &[
            "buffer-name",
            "caps",
            "do-timestamp",
            "frame-prefix",
            "is-live",
            "latency",
            "leaky",
            "max-payload-size",
            "metadata-size",
            "on-writer-death",
            "on-writer-exit",
            "payload-size",
            "perms",
            "group",
            "stats",
            "timestamps",
        ],
    ),
];

/// Properties of GStreamer's base classes, in the versions that we know. What is neither here nor
/// above is a property of ours that is missing above.
const INHERITED: &[&str] = &[
    "async",
    "automatic-eos",
    "blocksize",
    "enable-last-sample",
    "last-sample",
    "max-bitrate",
    "max-lateness",
    "name",
    "num-buffers",
    "parent",
    "processing-deadline",
    "qos",
    "render-delay",
    "sync",
    "throttle-time",
    "ts-offset",
    "typefind",
];

fn inspect(what: &str) -> String {
    // Cargo builds the library for this test beside it, in target/PROFILE/deps.
    let test = std::env::current_exe().unwrap();
    let plugin = test.with_file_name("libgstzerobuffer.so");
    assert!(plugin.exists(), "{} is missing", plugin.display());
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(plugin, folder.path().join("libgstzerobuffer.so")).unwrap();
    let output = Command::new("gst-inspect-1.0")
        .arg("--no-colors")
        .arg(what)
        .env("GST_PLUGIN_PATH", folder.path())
        // The user's registry is left alone, and of the system's plugins none is needed.
        .env("GST_REGISTRY", folder.path().join("registry.bin"))
        .env("GST_PLUGIN_SYSTEM_PATH", "")
        .env("LC_ALL", "C")
        .output()
        .expect("gst-inspect-1.0 is missing (Debian: gstreamer1.0-tools)");
    assert!(
        output.status.success(),
        "gst-inspect-1.0 {what}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn plugin_part(text: &str) -> String {
    let differs = ["Filename", "Version", "Source release date"];
    text.lines()
        .filter(|line| !differs.iter().any(|key| line.trim_start().starts_with(key)))
        .map(|line| line.trim_end().to_string() + "\n")
        .collect()
}

fn element_part(text: &str, ours: &[&str]) -> String {
    let mut out = String::new();
    for title in [
        "Factory Details",
        "Pad Templates",
        "URI handling capabilities",
    ] {
        // "Element has no URI handling capabilities."
        if title.starts_with("URI") && text.contains(&format!("has no {title}.")) {
            continue;
        }
        out.push_str(&section(text, title));
        out.push('\n');
    }
    out.push_str("Element Properties:\n");
    let mut properties = properties(&section(text, "Element Properties"));
    for name in ours {
        let property = properties.remove(*name);
        out.push_str(&property.unwrap_or_else(|| panic!("there is no property {name}")));
    }
    let unknown: Vec<&String> = properties
        .keys()
        .filter(|name| !INHERITED.contains(&name.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "properties that tests/inspect.rs does not know: {unknown:?}"
    );
    out
}

/// From a title to the next.
fn section(text: &str, title: &str) -> String {
    let start = format!("{title}:");
    let mut lines = text.lines().skip_while(|line| *line != start);
    let mut out: String = lines
        .next()
        .map(|line| format!("{line}\n"))
        .unwrap_or_default();
    for line in lines.take_while(|line| line.is_empty() || line.starts_with(' ')) {
        if !line.trim().is_empty() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    assert!(!out.is_empty(), "no section {title} in\n{text}");
    out
}

/// Each property's lines by its name.
fn properties(section: &str) -> BTreeMap<String, String> {
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in section.lines().skip(1) {
        let is_first = line.starts_with("  ") && !line.starts_with("   ");
        if is_first && let Some((new, text)) = line.split_once(':') {
            name = new.trim().into();
            // The column is as wide as the longest name.
            out.insert(name.clone(), format!("  {name}: {}\n", text.trim()));
        } else if let Some(property) = out.get_mut(&name) {
            // Columns differ between versions.
            let words: Vec<&str> = line.split_whitespace().collect();
            property.push_str(&format!("    {}\n", words.join(" ")));
        }
    }
    out
}

/// A diff by lines that is good enough to read: what is only in one, in order.
fn difference(committed: &str, found: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (committed.lines().collect(), found.lines().collect());
    // longest[i][j]: lines that a[i..] and b[j..] have in common, in order.
    let mut longest = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = if a[i] == b[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || i < a.len() && longest[i + 1][j] >= longest[i][j + 1] {
            out.push_str(&format!("-{}\n", a[i]));
            i += 1;
        } else {
            out.push_str(&format!("+{}\n", b[j]));
            j += 1;
        }
    }
    out
}

fn compare(what: &str, found: &str) {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/inspect")
        .join(what)
        .with_extension("txt");
    if std::env::var_os("UPDATE_INSPECT").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, found).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    let difference = difference(&committed, found);
    assert!(
        difference.is_empty(),
        "gst-inspect-1.0 {what} is not what {} says (- committed, + found):\n{difference}\nIf that \
         is meant: UPDATE_INSPECT=1 cargo test --test inspect",
        file.display()
    );
}

#[test]
fn the_plugin_is_what_is_committed() {
    compare("zerobuffer", &plugin_part(&inspect("zerobuffer")));
}

#[test]
fn the_elements_are_what_is_committed() {
    for (element, ours) in PROPERTIES {
        compare(element, &element_part(&inspect(element), ours));
    }
}

#[test]
fn a_changed_line_is_shown() {
    let committed = "one\ntwo\nthree\nfour\n";
    assert_eq!(difference(committed, committed), "");
    assert_eq!(
        difference(committed, "one\n2\nthree\n"),
        "-two\n+2\n-four\n"
    );
    assert_eq!(difference("", "one\n"), "+one\n");
}

#[test]
#[should_panic(expected = "does not know: [\"new\"]")]
fn a_new_property_is_noticed() {
    let text = "Factory Details:\n  Rank  none\n\nPad Templates:\n  SRC\n\nURI handling \
                capabilities:\n  none\n\nElement Properties:\n  \
                name : a\n         flags\n  new  : b\n         flags\n";
    element_part(text, &["name"]);
}

#[test]
#[should_panic(expected = "no property caps")]
fn a_lost_property_is_noticed() {
    let text = "Factory Details:\n  Rank  none\n\nPad Templates:\n  SRC\n\nURI handling \
                capabilities:\n  none\n\nElement Properties:\n  \
                name : a\n         flags\n";
    element_part(text, &["caps"]);
}
