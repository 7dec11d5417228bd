//! The rules that keep the code in its rooms. Each rule is a function from a file to what breaks it
//! there, and is shown to find what it looks for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A file of the repository: path from its root, and text.
struct Source {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All text files that are in the repository or about to be.
fn files() -> Vec<Source> {
    let output = Command::new("git")
        // Also where the clone belongs to another user, as in some containers.
        .args(["-c", "safe.directory=*", "ls-files"])
        .args(["--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is missing");
    assert!(output.status.success(), "not a clone: {output:?}");
    let paths: BTreeSet<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(Into::into)
        .collect();
    let read = |path: String| {
        // Deleted files are listed until that is committed; pictures are no text.
        let text = fs::read_to_string(root().join(&path)).ok()?;
        Some(Source { path, text })
    };
    paths.into_iter().filter_map(read).collect()
}

/// The Rust files among them, of these folders.
fn rust_files(folders: &[&str]) -> Vec<Source> {
    let mut files = files();
    files.retain(|file| {
        file.path.ends_with(".rs") && folders.iter().any(|folder| file.path.starts_with(folder))
    });
    assert!(!files.is_empty(), "no Rust files in {folders:?}");
    files
}

/// Applies a rule to files; fails with all that breaks it.
#[track_caller]
fn check(files: &[Source], rule: impl Fn(&Source) -> Vec<String>) {
    let broken: Vec<String> = files
        .iter()
        .flat_map(|file| {
            rule(file)
                .into_iter()
                .map(move |what| format!("{}:{what}", file.path))
        })
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What a rule finds in a text.
fn find(path: &str, text: &str, rule: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    rule(&Source {
        path: path.into(),
        text: text.into(),
    })
}

/// The text with comments and the content of strings and characters blanked out, line by line
/// where it was.
fn code(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let at = |i: usize| bytes.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut i = 0;
    let blank = |out: &mut String, c: char| out.push(if c == '\n' { '\n' } else { ' ' });
    while i < bytes.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < bytes.len() && at(i) != '\n' {
                blank(&mut out, at(i));
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                if at(i) == '/' && at(i + 1) == '*' {
                    depth += 1;
                } else if at(i) == '*' && at(i + 1) == '/' {
                    depth -= 1;
                }
                let both = at(i) != '\0' && (at(i + 1) == '/' || at(i + 1) == '*');
                blank(&mut out, at(i));
                i += 1;
                if both && depth == 0 {
                    blank(&mut out, at(i));
                    i += 1;
                    break;
                }
                if i >= bytes.len() {
                    break;
                }
            }
        } else if c == 'r'
            && !(i > 0 && is_word(at(i - 1)) && !(at(i - 1) == 'b' || at(i - 1) == 'c'))
            && (at(i + 1) == '"' || at(i + 1) == '#')
        {
            let hashes = (i + 1..).take_while(|j| at(*j) == '#').count();
            if at(i + 1 + hashes) != '"' {
                // r#name
                out.push(c);
                i += 1;
                continue;
            }
            for _ in 0..hashes + 2 {
                out.push(' ');
                i += 1;
            }
            let closes = |i: usize| at(i) == '"' && (1..=hashes).all(|j| at(i + j) == '#');
            while i < bytes.len() && !closes(i) {
                blank(&mut out, at(i));
                i += 1;
            }
            for _ in 0..hashes + 1 {
                out.push(' ');
                i += 1;
            }
        } else if c == '"' {
            out.push('"');
            i += 1;
            while i < bytes.len() && at(i) != '"' {
                if at(i) == '\\' {
                    blank(&mut out, at(i));
                    i += 1;
                }
                blank(&mut out, at(i));
                i += 1;
            }
            out.push('"');
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character; a lifetime has no second quote.
            out.push(' ');
            i += 1;
            if at(i) == '\\' {
                out.push(' ');
                i += 1;
                out.push(' ');
                i += 1;
            }
            while i < bytes.len() && at(i) != '\'' {
                out.push(' ');
                i += 1;
            }
            out.push(' ');
            i += 1;
        } else {
            out.push(c);
            i += 1;
        }
    }
    out
}

/// [`code`] without the items under `#[cfg(test)]`.
fn shipped_code(text: &str) -> String {
    const TEST: &str = "#[cfg(test)]";
    let code = code(text);
    let (mut out, mut rest) = (String::new(), code.as_str());
    while let Some(at) = rest.find(TEST) {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        // To the end of its braces, or to a semicolon before any.
        let mut depth = 0;
        let end = item
            .char_indices()
            .find(|(_, c)| {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                depth == 0 && (*c == '}' || *c == ';')
            })
            .map_or(item.len(), |(end, _)| end + 1);
        out.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    out + rest
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// Lines of code that name one of these.
fn names(file: &Source, forbidden: impl Fn(&str) -> bool) -> Vec<String> {
    (1..)
        .zip(code(&file.text).lines())
        .flat_map(|(number, line)| {
            let found: Vec<String> = words(line)
                .filter(|word| forbidden(word))
                .map(|word| format!("{number}: names {word}"))
                .collect();
            found
        })
        .collect()
}

fn names_gstreamer(file: &Source) -> Vec<String> {
    names(file, |word| {
        ["gst", "glib", "gio"].contains(&word)
            || ["gst_", "gstreamer", "glib_", "gobject"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
    })
}

#[test]
fn the_system_and_the_protocol_know_no_gstreamer() {
    check(&rust_files(&["src/sys/", "src/protocol/"]), names_gstreamer);

    let rule = names_gstreamer;
    for bad in [
        "use gstreamer as gst;",
        "fn f(x: gst::Buffer) {}",
        "use gstreamer_video::VideoInfo;",
        "glib::wrapper! {}",
    ] {
        assert!(!find("src/sys/a.rs", bad, rule).is_empty(), "{bad}");
    }
    let good = "// gst is not here\nlet a = \"gst zerobuffersrc\"; use gstzerobuffer::Reader;";
    assert!(find("src/sys/a.rs", good, rule).is_empty());
}

fn names_protocol(file: &Source) -> Vec<String> {
    names(file, |word| {
        [
            "protocol",
            "zerobuffersink",
            "zerobuffersrc",
            "element",
            "stream_info",
            "metas",
            "peer_text",
        ]
        .contains(&word)
    })
}

#[test]
fn the_system_knows_no_protocol() {
    check(&rust_files(&["src/sys/"]), names_protocol);
    assert!(!find("a.rs", "use crate::protocol::Error;", names_protocol).is_empty());
}

fn knows_elements(file: &Source) -> Vec<String> {
    names(file, |word| {
        [
            "zerobuffersink",
            "zerobuffersrc",
            "element",
            "stream_info",
            "peer_text",
        ]
        .contains(&word)
    })
}

#[test]
fn the_protocol_and_the_memory_know_no_elements() {
    check(
        &rust_files(&["src/protocol/", "src/memory/"]),
        knows_elements,
    );
    assert!(!find("a.rs", "use crate::element::Counters;", knows_elements).is_empty());
}

fn knows_memory(file: &Source) -> Vec<String> {
    let code = code(&file.text);
    let uses = (1..).zip(code.lines()).filter(|(_, line)| {
        let line: String = line.split_whitespace().collect();
        line.contains("crate::memory") || line.contains("crate::{") && line.contains("memory")
    });
    uses.map(|(number, _)| format!("{number}: knows crate::memory"))
        .collect()
}

#[test]
fn only_elements_know_the_memory() {
    check(&rust_files(&["src/sys/", "src/protocol/"]), knows_memory);
    for bad in [
        "use crate::memory::Link;",
        "use crate::{memory, sys};",
        "crate::memory::publish(a, b)",
    ] {
        assert!(!find("a.rs", bad, knows_memory).is_empty(), "{bad}");
    }
    let good = "// crate::memory\nuse std::mem; let memory = 1;";
    assert!(find("a.rs", good, knows_memory).is_empty());
}

fn goes_round_the_protocol(file: &Source) -> Vec<String> {
    names(file, |word| {
        ["libc", "nix", "memmap2", "sys", "rustix"].contains(&word)
    })
}

#[test]
fn the_elements_know_the_operating_system_through_the_protocol_only() {
    let elements = rust_files(&[
        "src/zerobuffer",
        "src/memory/",
        "src/element.rs",
        "src/stream_info.rs",
        "src/metas",
        "src/peer_text.rs",
        "src/fuzzing.rs",
        "src/uri.rs",
        "src/devices/",
    ]);
    check(&elements, goes_round_the_protocol);

    let rule = goes_round_the_protocol;
    for bad in [
        "use crate::sys::shm::Segment;",
        "use crate::{protocol::Error, sys};",
        "libc::getpid()",
        "use nix::unistd::Pid;",
        "memmap2::MmapMut",
    ] {
        assert!(!find("src/element.rs", bad, rule).is_empty(), "{bad}");
    }
    assert!(find("src/element.rs", "use crate::protocol::Error;", rule).is_empty());
}

fn is_more_than_a_user_of_the_library(file: &Source) -> Vec<String> {
    let mut broken = goes_round_the_protocol(file);
    broken.extend(names_gstreamer(file));
    broken
}

#[test]
fn the_command_knows_the_library_only() {
    let rule = is_more_than_a_user_of_the_library;
    check(&rust_files(&["src/command/"]), rule);
    for bad in [
        "use gstreamer as gst;",
        "nix::unistd::getpid()",
        "use libc;",
    ] {
        assert!(!find("src/command/a.rs", bad, rule).is_empty(), "{bad}");
    }
    let good = "use gstzerobuffer::inspect; // libc";
    assert!(find("src/command/a.rs", good, rule).is_empty());
}

/// The elements, by the names of their folders in src/.
const ELEMENTS: [&str; 3] = ["zerobuffersink", "zerobuffersrc", "zerobufferfilter"];

fn knows_other_element(file: &Source) -> Vec<String> {
    let own = file.path.split('/').nth(1).unwrap_or_default();
    names(file, |word| ELEMENTS.contains(&word) && word != own)
}

#[test]
fn no_element_knows_another() {
    let elements = rust_files(&[
        "src/zerobuffer",
        "src/element.rs",
        "src/stream_info.rs",
        "src/metas",
        "src/peer_text.rs",
        "src/uri.rs",
        "src/devices/",
    ]);
    check(&elements, knows_other_element);

    let bad = "use crate::zerobuffersrc::OnWriterExit;";
    let rule = knows_other_element;
    assert!(!find("src/zerobuffersink/imp.rs", bad, rule).is_empty());
    assert!(!find("src/element.rs", bad, rule).is_empty());
    assert!(find("src/zerobuffersrc/imp.rs", bad, rule).is_empty());
}

fn has_unsafe(file: &Source) -> Vec<String> {
    names(file, |word| word == "unsafe")
}

#[test]
fn unsafe_code_is_in_its_rooms_only() {
    let mut files = rust_files(&["src/", "examples/", "build.rs"]);
    files.retain(|file| {
        !["src/sys/", "src/memory/"]
            .iter()
            .any(|room| file.path.starts_with(room))
    });
    check(&files, has_unsafe);
    assert!(!find("src/lib.rs", "unsafe impl Send for X {}", has_unsafe).is_empty());
    assert!(find("src/lib.rs", "#![deny(unsafe_op_in_unsafe_fn)]", has_unsafe).is_empty());
}

/// Blocks and implementations that are unsafe, without a line `// SAFETY:` in the comment above
/// their statement.
fn unexplained_unsafe(file: &Source) -> Vec<String> {
    let lines: Vec<&str> = file.text.lines().collect();
    let code = code(&file.text);
    let code: Vec<&str> = code.lines().collect();
    let mut broken = Vec::new();
    for (at, line) in code.iter().enumerate() {
        let Some((_, behind)) = line.split_once("unsafe ") else {
            continue;
        };
        if !behind.starts_with('{') && !behind.starts_with("impl") {
            continue;
        }
        // Up to the beginning of the statement, then through its comment.
        let mut above = (0..at).rev().peekable();
        let mut explained = false;
        while let Some(line) = above.next_if(|line| {
            let comment = lines[*line].trim_start().starts_with("//");
            let ended = [';', '{', '}']
                .iter()
                .any(|c| code[*line].trim_end().ends_with(*c));
            comment || !code[*line].trim().is_empty() && !ended
        }) {
            if lines[line].trim_start().starts_with("// SAFETY:") {
                explained = true;
                break;
            }
        }
        if !explained {
            broken.push(format!("{}: unsafe without // SAFETY:", at + 1));
        }
    }
    broken
}

#[test]
fn each_use_of_unsafe_names_what_makes_it_safe() {
    check(
        &rust_files(&["src/", "tests/", "benches/", "examples/", "fuzz/"]),
        unexplained_unsafe,
    );

    let rule = unexplained_unsafe;
    for bad in [
        "let a = unsafe { f() };",
        "// It is safe.\nlet a = unsafe { f() };",
        "// SAFETY: of another.\nlet a = unsafe { f() };\nlet b = unsafe { g() };",
        "unsafe impl Send for X {}",
        "// SAFETY: far away\nlet a = 1;\nlet b = unsafe { g() };",
    ] {
        assert_eq!(find("a.rs", bad, rule).len(), 1, "{bad}");
    }
    for good in [
        "// SAFETY: two\n// lines.\nlet a = unsafe { f() };",
        "// SAFETY: a statement of some lines.\nlet a =\n    g(unsafe { f() });",
        "// unsafe { }\nlet a = \"unsafe { }\"; unsafe extern \"C\" {}",
    ] {
        assert_eq!(find("a.rs", good, rule), [""; 0], "{good}");
    }
}

fn may_panic_or_is_unfinished(file: &Source) -> Vec<String> {
    const FORBIDDEN: [&str; 6] = [
        "todo!",
        "unimplemented!",
        "panic!",
        ".unwrap()",
        ".expect(",
        ".unwrap_err()",
    ];
    let mut broken = Vec::new();
    for (number, line) in (1..).zip(shipped_code(&file.text).lines()) {
        for what in FORBIDDEN {
            if line.contains(what) {
                broken.push(format!("{number}: {what}"));
            }
        }
    }
    broken
}

#[test]
fn the_code_is_finished_and_handles_its_errors() {
    check(&rust_files(&["src/"]), may_panic_or_is_unfinished);

    let rule = may_panic_or_is_unfinished;
    for bad in [
        "fn f() { todo!() }",
        "x.unwrap();",
        "x\n    .expect(\"reason\");",
        "#[cfg(test)]\nmod tests { fn f() { a.unwrap() } }\nfn g() { b.unwrap() }",
        "#[cfg(test)]\nuse a::b;\nfn g() { b.unwrap() }",
        "fn f() { let c = '{'; }\n#[cfg(test)]\nfn g() { '}' }\nfn h() { b.unwrap() }",
    ] {
        assert_eq!(find("a.rs", bad, rule).len(), 1, "{bad}");
    }
    for good in [
        "/// a.unwrap()\nfn f() { a.unwrap_or(1); let b = \".unwrap()\"; } // todo!",
        "fn f() {}\n#[cfg(test)]\nmod tests { fn f() { if a { b.unwrap() } c.unwrap() } }",
        "let a = r#\"x.unwrap() \" y\"#; /* .unwrap() /* */ .unwrap() */",
    ] {
        assert_eq!(find("a.rs", good, rule), [""; 0], "{good}");
    }
}

fn is_skipped(file: &Source) -> Vec<String> {
    (1..)
        .zip(code(&file.text).lines())
        .filter(|(_, line)| {
            let line: String = line.split_whitespace().collect();
            line.contains("#[ignore") || line.starts_with("#[cfg_attr") && line.contains("ignore")
        })
        .map(|(number, _)| format!("{number}: a test that is not run"))
        .collect()
}

#[test]
fn every_test_is_run() {
    check(&rust_files(&["src/", "tests/"]), is_skipped);
    for bad in [
        "#[ignore]\nfn f() {}",
        "#[ignore = \"slow\"]",
        "#[cfg_attr(x, ignore)]",
    ] {
        assert_eq!(find("tests/a.rs", bad, is_skipped).len(), 1, "{bad}");
    }
    assert!(find("tests/a.rs", "// #[ignore]\n#[test]", is_skipped).is_empty());
}

/// Paths that exist on somebody's machine only, and addresses of package indexes.
fn is_of_one_machine(file: &Source) -> Vec<String> {
    // In two halves, or this file would break its own rule.
    let folders =
        [["/ro", "ot"], ["/wo", "rk"], ["/ho", "me"], ["/Us", "ers"]].map(|it| it.concat());
    let hosts = [
        ["index.", "crates.io"],
        ["static.", "crates.io"],
        ["crates.io", "-index"],
        ["pypi.org/", "simple"],
        ["files.", "pythonhosted.org"],
        ["proxy.", "golang.org"],
        ["registry.", "npmjs.org"],
        ["://127.", "0.0.1"],
        ["://local", "host"],
    ]
    .map(|it| it.concat());
    let mut broken = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        for folder in &folders {
            for (at, _) in line.match_indices(folder.as_str()) {
                let before = line[..at].chars().next_back();
                let after = line[at + folder.len()..].chars().next();
                // The first part of a path, and all of that part.
                let first = before.is_none_or(|c| !c.is_alphanumeric() && !"._-/*}]~$".contains(c));
                let whole = after.is_none_or(|c| !c.is_alphanumeric() && !"_-.".contains(c));
                if first && whole {
                    broken.push(format!("{number}: {folder}"));
                }
            }
        }
        // Cargo writes the name of the default index into its lock file.
        let hosts = hosts.iter().filter(|_| !file.path.ends_with("Cargo.lock"));
        for host in hosts.filter(|host| line.contains(host.as_str())) {
            broken.push(format!("{number}: {host}"));
        }
    }
    broken
}

#[test]
fn nothing_is_of_one_machine() {
    check(&files(), is_of_one_machine);

    let rule = is_of_one_machine;
    for bad in [
        ["cd /wo", "rk/main"],
        ["\"/ro", "ot/.cargo\""],
        ["see /ho", "me/me"],
        ["https://index.", "crates.io/"],
        ["--index-url https://pypi.org/", "simple"],
        ["http://local", "host:8080/"],
        ["(/wo", "rk)"],
    ] {
        assert_eq!(find("a.md", &bad.concat(), rule).len(), 1, "{bad:?}");
    }
    for good in [
        "src/work/main $HOME/root/a /workspace networks/rooting",
        "https://crates.io/crates/gst-plugin-zerobuffer",
        "/dev/shm /tmp/zerobuffer /usr/local",
    ] {
        assert_eq!(find("a.md", good, rule), [""; 0], "{good}");
    }
}

/// A value in Cargo.toml.
fn manifest_value<'a>(manifest: &'a str, table: &str, key: &str) -> Option<&'a str> {
    manifest
        .lines()
        .skip_while(|line| *line != format!("[{table}]"))
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='))
        .map(|value| value.trim().trim_matches('"'))
}

/// GStreamer finds the entry point of lib<name>.so by its name: gst<plugin>.
fn plugin_name(lib: &str) -> Option<String> {
    let code = code(lib);
    let start = code.find("plugin_define!(")? + "plugin_define!(".len();
    words(&code[start..]).next().map(Into::into)
}

#[test]
fn the_names_of_crate_library_and_plugin_agree() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let manifest = read("Cargo.toml");
    let value = |table, key| manifest_value(&manifest, table, key).unwrap();
    assert_eq!(value("package", "name"), "gst-plugin-zerobuffer");
    assert_eq!(value("package", "license"), "MIT");
    assert_eq!(value("lib", "name"), "gstzerobuffer");
    let plugin = plugin_name(&read("src/lib.rs")).unwrap();
    assert_eq!(plugin, "zerobuffer");
    assert_eq!(value("lib", "name"), format!("gst{plugin}"));
    for kind in ["cdylib", "rlib"] {
        assert!(value("lib", "crate-type").contains(kind));
    }

    let other = "[package]\nname = \"a\"\n[lib]\nname = \"b\"\n";
    assert_eq!(manifest_value(other, "lib", "name"), Some("b"));
    assert_eq!(manifest_value(other, "package", "version"), None);
    let lib = "// plugin_define!(no)\ngst::plugin_define!(\n    other,\n";
    assert_eq!(plugin_name(lib).as_deref(), Some("other"));
}
