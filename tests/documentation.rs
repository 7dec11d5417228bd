//! The documentation is true as far as a machine can tell: every command line and example in it is
//! run, and every link in it leads somewhere.
//!
//! Documents are README.md, docs/*.md, docs/numbers/README.md, and the doc comments in src/. Each
//! `gst-launch-1.0` line in them (in a fence), and each of `gst-play-1.0`, is run as a process of its
//! own, by a shell, with the plugin that was built for this test. Lines of the same section that name the same buffer belong
//! together and run at the same time; a `python` fence that makes a `Reader` or `Writer` of that name,
//! or has it in a connection string of RocketWelder's SDK, is one of them.
//!
//! So that they end, need no screen, camera or speaker, and disturb nobody, [`Group::prepare`]
//! changes them in a few mechanical ways; see there.

#[path = "support/python.rs"]
mod python;
#[path = "documentation/readme_example.rs"]
mod readme_example;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use gstzerobuffer::testing::unique_name;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A wait that ends only when something is broken.
const LONG: Duration = Duration::from_secs(300);

const GST_LAUNCH: &str = "gst-launch-1.0 ";
const GST_PLAY: &str = "gst-play-1.0 ";
const SCHEME: &str = "zerobuffer://";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A text in Markdown.
#[derive(Debug)]
struct Document {
    path: PathBuf,
    text: String,
}

/// README.md and docs/, with the page of numbers.
fn pages() -> Vec<Document> {
    let mut paths = vec![root().join("README.md")];
    let folders = ["docs", "docs/numbers"].map(|folder| root().join(folder));
    for entry in folders
        .map(|folder| fs::read_dir(folder).unwrap())
        .into_iter()
        .flatten()
    {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: PathBuf| Document {
        text: fs::read_to_string(&path).unwrap(),
        path,
    };
    paths.into_iter().map(read).collect()
}

/// The doc comments of the files in src/, line by line where they are in the file.
fn comments() -> Vec<Document> {
    comments_in("src")
}

fn comments_in(folder: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            documents.push(Document {
                text: doc_comments(&text),
                path,
            });
        }
    }
    documents.sort_by(|a, b| a.path.cmp(&b.path));
    documents
}

fn doc_comments(code: &str) -> String {
    // `/**` to `*/` is how GStreamer has the documentation of an element.
    let mut in_block = false;
    let mut comment = |line: &str| {
        let line = line.trim_start();
        if line.starts_with("/**") {
            in_block = true;
            return None;
        }
        if line.starts_with("*/") {
            in_block = false;
            return None;
        }
        let text = match in_block {
            true => line.strip_prefix('*')?,
            false => line.strip_prefix("//!").or(line.strip_prefix("///"))?,
        };
        Some(text.strip_prefix(' ').unwrap_or(text).to_string())
    };
    let lines: Vec<String> = code
        .lines()
        .map(|line| comment(line).unwrap_or_default())
        .collect();
    lines.join("\n")
}

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    /// The heading above it.
    section: String,
    language: String,
    /// Number of its first line in the document.
    line: usize,
    text: String,
}

impl Document {
    /// Its fenced blocks, and the lines outside of them with their numbers.
    fn split(&self) -> (Vec<Block>, Vec<(usize, &str)>) {
        let (mut blocks, mut prose): (Vec<Block>, _) = (Vec::new(), Vec::new());
        let mut section = String::new();
        let mut open: Option<Block> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, Some(language)) => {
                    open = Some(Block {
                        section: section.clone(),
                        language: language.trim().into(),
                        line: number + 1,
                        text: String::new(),
                    });
                }
                (None, None) => {
                    if let Some((_, heading)) = heading(line) {
                        section = heading.into();
                    }
                    prose.push((number, line));
                }
            }
        }
        assert!(open.is_none(), "{}: a fence is open", self.path.display());
        (blocks, prose)
    }
}

fn heading(line: &str) -> Option<(usize, &str)> {
    let level = line.chars().take_while(|c| *c == '#').count();
    let text = line.get(level..)?.strip_prefix(' ')?;
    (1..=6).contains(&level).then_some((level, text.trim()))
}

/// The commands in a block of shell lines: comments cut off, continued lines joined.
fn commands(block: &Block) -> Vec<(usize, String)> {
    let mut commands: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (number, line) in (block.line..).zip(block.text.lines()) {
        let line = line.trim();
        if !continued && (line.is_empty() || line.starts_with('#')) {
            continue;
        }
        let (text, more) = match line.strip_suffix('\\') {
            Some(text) => (text.trim_end(), true),
            None => (line, false),
        };
        match commands.last_mut().filter(|_| continued) {
            Some((_, command)) => {
                command.push(' ');
                command.push_str(text);
            }
            None => commands.push((number, text.into())),
        }
        continued = more;
    }
    commands
}

/// What is run together: lines of `gst-launch-1.0`, and programs in Python.
#[derive(Debug, Default, PartialEq, Eq)]
struct Group {
    place: String,
    lines: Vec<String>,
    scripts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Reader,
    Writer,
}

/// One line or program, before it is known with which others it belongs.
struct Part {
    section: String,
    python: bool,
    text: String,
    ends: Vec<(String, End)>,
}

/// The buffers that a line of `gst-launch-1.0` names, with its end of each.
fn ends_of_line(line: &str) -> Result<Vec<(String, End)>, String> {
    let mut ends = Vec::new();
    let mut element = None;
    for word in line.split_whitespace() {
        if let Some(channel) = word.strip_prefix("channel-name=") {
            ends.push((format!("{channel}_request"), End::Writer));
            ends.push((format!("{channel}_response"), End::Reader));
            continue;
        }
        match word {
            "zerobuffersrc" => element = Some(End::Reader),
            "zerobuffersink" => element = Some(End::Writer),
            "!" => element = None,
            _ => {
                if let Some(name) = word.strip_prefix("buffer-name=") {
                    let end = element.ok_or(format!("whose buffer-name is this? {line}"))?;
                    ends.push((name.into(), end));
                }
                // Whoever plays an address reads there.
                if let Some((_, name, _)) = address(word) {
                    ends.push((name.into(), End::Reader));
                }
            }
        }
    }
    if ends.is_empty() {
        return Err(format!(
            "there is no zerobuffer element with a name: {line}"
        ));
    }
    Ok(ends)
}

/// What is before, in and behind the name of a buffer that a word has the address of.
fn address(word: &str) -> Option<(&str, &str, &str)> {
    let start = word.find(SCHEME)? + SCHEME.len();
    let len = word[start..].find(['?', '"', '\'']);
    let end = len.map_or(word.len(), |len| start + len);
    Some((&word[..start], &word[start..end], &word[end..]))
}

/// How a connection string of RocketWelder's SDK begins.
const SHM: &str = "(\"shm://";

/// The same for a program in Python.
fn ends_of_script(script: &str) -> Vec<(String, End)> {
    let find = |call: &'static str, end| {
        script.split(call).skip(1).filter_map(move |rest| {
            let (name, _) = rest.strip_prefix('"')?.split_once('"')?;
            Some((name.to_string(), end))
        })
    };
    let connected = script.split(SHM).skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once('?')?;
        let (options, _) = rest.split_once('"')?;
        Some(match options.contains("mode=duplex") {
            true => vec![
                (format!("{name}_request"), End::Reader),
                (format!("{name}_response"), End::Writer),
            ],
            false => vec![(name.to_string(), End::Reader)],
        })
    });
    find("Reader(", End::Reader)
        .chain(find("Writer(", End::Writer))
        .chain(connected.flatten())
        .collect()
}

/// Everything in a document that can be run, in groups that are complete.
fn groups(document: &Document) -> Result<Vec<Group>, String> {
    let (blocks, prose) = document.split();
    for (number, line) in prose {
        // Alone, in the middle of a sentence, it is a program's name and not a command.
        if line.contains(&format!("{GST_LAUNCH}zerobuffer")) || line.contains(" ! ") {
            return Err(format!(
                "{}:{number}: a pipeline outside of a fence is not tested: {line}",
                document.path.display()
            ));
        }
    }
    // In the order of the document.
    let mut parts: Vec<Part> = Vec::new();
    for block in &blocks {
        let section = block.section.clone();
        if block.language == "python" {
            let ends = ends_of_script(&block.text);
            let (python, text) = (true, block.text.clone());
            parts.push(Part {
                section,
                python,
                text,
                ends,
            });
            continue;
        }
        for (number, command) in commands(block) {
            if !command.contains(GST_LAUNCH) && !command.contains(GST_PLAY) {
                continue;
            }
            // What a command prints may name the program of a process.
            let starts =
                [GST_LAUNCH, GST_PLAY].map(|program| command.trim_start().starts_with(program));
            if block.language == "text" && !starts.contains(&true) {
                continue;
            }
            let place = format!("{}:{number}", document.path.display());
            if !["sh", "bash"].contains(&block.language.as_str()) {
                return Err(format!("{place}: in a fence that is not sh or bash"));
            }
            let ends = ends_of_line(&command).map_err(|why| format!("{place}: {why}"))?;
            let (section, python, text) = (section.clone(), false, command);
            parts.push(Part {
                section,
                python,
                text,
                ends,
            });
        }
    }
    let mut groups = Vec::new();
    while !parts.is_empty() {
        let mut names = BTreeSet::new();
        let mut members = vec![parts.remove(0)];
        let section = members[0].section.clone();
        names.extend(members[0].ends.iter().map(|(name, _)| name.clone()));
        // Whoever shares a name with a member is one, until nobody comes any more.
        while let Some(at) = parts.iter().position(|part| {
            part.section == section && part.ends.iter().any(|(name, _)| names.contains(name))
        }) {
            let member = parts.remove(at);
            names.extend(member.ends.iter().map(|(name, _)| name.clone()));
            members.push(member);
        }
        let place = format!("{}, \"{section}\"", document.path.display());
        let mut ends: BTreeMap<&str, Vec<End>> = BTreeMap::new();
        for (name, end) in members.iter().flat_map(|member| &member.ends) {
            ends.entry(name).or_default().push(*end);
        }
        for (name, mut ends) in ends {
            ends.sort();
            if ends != [End::Reader, End::Writer] {
                return Err(format!(
                    "{place}: buffer {name} needs one reader and one writer in this section and \
                     has {ends:?}"
                ));
            }
        }
        let texts = |python| {
            let these = members.iter().filter(move |member| member.python == python);
            these.map(|member| member.text.clone()).collect()
        };
        groups.push(Group {
            place,
            lines: texts(false),
            scripts: texts(true),
        });
    }
    Ok(groups)
}

impl Group {
    /// The same with each buffer's name made unique by `suffix`, files in `folder`, and:
    /// * sinks for a screen or speaker are `fakesink`;
    /// * a camera is a live `videotestsrc`, a film one that is not, a network camera one that is encoded;
    /// * other machines are this one, and SRT has a port of this process;
    /// * test sources without `num-buffers` end after 30 frames;
    /// * a receiver that would wait for the next writer ends after 30 frames;
    /// * players show nothing;
    /// * where GStreamer's latency tracer hangs by itself, another one takes its place.
    fn prepare(&self, suffix: &str, folder: &Path) -> Group {
        let line = |line: &String| {
            let words: Vec<&str> = line.split(' ').collect();
            let mut out = Vec::new();
            let mut stands_in = false;
            for (at, word) in words.iter().enumerate() {
                match *word {
                    "v4l2src" | "uridecodebin" | "rtspsrc" => stands_in = true,
                    "!" => stands_in = false,
                    _ => {}
                }
                let mut element = words[at..].iter().take_while(|word| **word != "!");
                out.push(match *word {
                    "autovideosink" | "autoaudiosink" => "fakesink".into(),
                    "v4l2src" => "videotestsrc is-live=true num-buffers=30".into(),
                    "uridecodebin" => "videotestsrc num-buffers=30".into(),
                    "rtspsrc" => "videotestsrc is-live=true num-buffers=30 \
                                  ! x264enc tune=zerolatency ! rtph264pay"
                        .into(),
                    // Of what has been replaced.
                    _ if word.contains('=') && stands_in => String::new(),
                    _ if word.starts_with("host=") => "host=127.0.0.1".into(),
                    _ if word.starts_with("uri=srt://:") => {
                        format!("uri=srt://:{}", 20_000 + std::process::id() % 40_000)
                    }
                    "videotestsrc" | "audiotestsrc"
                        if !element.any(|word| word.starts_with("num-buffers=")) =>
                    {
                        format!("{word} num-buffers=30")
                    }
                    "on-writer-exit=wait" => format!("{word} num-buffers=30"),
                    _ if word.starts_with("GST_TRACERS=\"latency") && tracer_hangs() => {
                        "GST_TRACERS=stats".into()
                    }
                    "playbin" | "playbin3" => {
                        format!("{word} video-sink=fakesink audio-sink=fakesink")
                    }
                    "gst-play-1.0" => {
                        format!("{word} --videosink=fakesink --audiosink=fakesink --no-interactive")
                    }
                    _ if let Some((before, name, behind)) = address(word) => {
                        format!("{before}{name}{suffix}{behind}")
                    }
                    _ => match word.split_once('=') {
                        Some(("buffer-name", name)) => {
                            let ends = ["_request", "_response"];
                            let end = ends.into_iter().find(|end| name.ends_with(end));
                            let end = end.unwrap_or_default();
                            let name = name.strip_suffix(end).unwrap_or(name);
                            format!("buffer-name={name}{suffix}{end}")
                        }
                        Some(("channel-name", name)) => format!("channel-name={name}{suffix}"),
                        Some(("location", file)) => {
                            format!("location={}", folder.join(file).display())
                        }
                        _ => word.to_string(),
                    },
                });
            }
            out.retain(|word: &String| !word.is_empty());
            out.join(" ")
        };
        let script = |script: &String| {
            let mut script = script.clone();
            for (name, _) in ends_of_script(&script) {
                script = script.replace(&format!("(\"{name}\""), &format!("(\"{name}{suffix}\""));
                let name = name.strip_suffix("_request").unwrap_or(&name);
                let (plain, unique) = (format!("{SHM}{name}?"), format!("{SHM}{name}{suffix}?"));
                script = script.replace(&plain, &unique);
            }
            script
        };
        Group {
            place: self.place.clone(),
            lines: self.lines.iter().map(line).collect(),
            scripts: self.scripts.iter().map(script).collect(),
        }
    }

    /// Runs all at the same time. The error says which failed and what it said.
    fn run(&self, backwards: bool) -> Result<(), String> {
        // One group at a time: Docker's /dev/shm has room for two rings.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock();
        let folder = tempfile::tempdir().unwrap();
        let suffix = unique_name("");
        let this = self.prepare(&suffix, folder.path());
        let mut starts: Vec<(String, Command)> = Vec::new();
        for (number, script) in this.scripts.iter().enumerate() {
            let file = folder.path().join(format!("{number}.py"));
            fs::write(&file, script).unwrap();
            let mut command = Command::new(python::interpreter());
            command.args(["-I", "-u"]).arg(file);
            starts.push((script.clone(), command));
        }
        for line in &this.lines {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            starts.push((line.clone(), command));
        }
        if backwards {
            starts.reverse();
        }
        // Who does not wait for a reader sends to nobody if it comes first: it comes last, when
        // the buffers are there.
        let sends_to_nobody = |text: &str| {
            text.contains("zerobuffersink") && text.contains("wait-for-connection=false")
        };
        starts.sort_by_key(|(text, _)| sends_to_nobody(text));

        let (ended, ends) = mpsc::channel();
        let mut pids = Vec::new();
        for (number, (text, mut command)) in starts.into_iter().enumerate() {
            if sends_to_nobody(&text) {
                let names = ends_of_line(&text)?;
                while !names
                    .iter()
                    .all(|(name, _)| Path::new("/dev/shm").join(name).exists())
                {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            let log = folder.path().join(format!("{number}.log"));
            let out = File::create(&log).unwrap();
            command
                .env("GST_PLUGIN_PATH", plugin_folder())
                .env("GST_REGISTRY", plugin_folder().join("registry.bin"))
                .stdin(Stdio::null())
                .stdout(out.try_clone().unwrap())
                .stderr(out)
                // So that the shell and what it runs can be ended together.
                .process_group(0);
            let mut child = command.spawn().unwrap();
            pids.push(Pid::from_raw(child.id() as i32));
            let ended = ended.clone();
            thread::spawn(move || {
                let status = child.wait().unwrap();
                let said = fs::read_to_string(log).unwrap_or_default();
                let _ = ended.send((status, text, said));
            });
        }
        let mut result = Ok(());
        for _ in 0..pids.len() {
            let why = match ends.recv_timeout(LONG) {
                Ok((status, _, _)) if status.success() => continue,
                Ok((status, text, said)) => format!("{status}: {text}\n{said}"),
                Err(_) => "it does not end".into(),
            };
            result = result.and(Err(format!("{}: {why}", self.place)));
            // The others wait for it.
            for pid in &pids {
                let _ = killpg(*pid, Signal::SIGKILL);
            }
        }
        let left = leftovers(&suffix);
        for path in &left {
            let _ = fs::remove_file(path);
        }
        result?;
        // A Python reader leaves its semaphores (docs/protocol.md, fault 15).
        let python_reads = |path: &PathBuf| {
            let mut scripts = this.scripts.iter();
            scripts.any(|script| script.contains("Reader(") || script.contains(SHM))
                && path.to_string_lossy().contains("/sem.sem-")
        };
        if !left.iter().all(python_reads) {
            return Err(format!("{}: left behind: {left:?}", self.place));
        }
        Ok(())
    }
}

/// That of GStreamer 1.26.2 waits for itself in any pipeline, `videotestsrc ! fakesink` too.
fn tracer_hangs() -> bool {
    gstreamer::version() >= (1, 26, 0, 0)
}

fn leftovers(suffix: &str) -> Vec<PathBuf> {
    ["/dev/shm", "/tmp/zerobuffer"]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(suffix))
        .collect()
}

/// A folder with our plugin and a registry of its own, so that the user's is left alone.
fn plugin_folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        // Cargo builds the library for this test beside it, in target/PROFILE/deps; what is in
        // target/PROFILE may be older.
        let test = std::env::current_exe().unwrap();
        let plugin = test.with_file_name("libgstzerobuffer.so");
        assert!(plugin.exists(), "{} is missing", plugin.display());
        std::os::unix::fs::symlink(plugin, folder.path().join("libgstzerobuffer.so")).unwrap();
        folder
    });
    folder.path()
}

fn run_all(documents: &[Document]) -> usize {
    let mut count = 0;
    for document in documents {
        for group in groups(document).unwrap_or_else(|why| panic!("{why}")) {
            group.run(false).unwrap_or_else(|why| panic!("{why}"));
            count += 1;
        }
    }
    count
}

fn page(text: &str) -> Document {
    Document {
        path: "test.md".into(),
        text: text.into(),
    }
}

fn shell(lines: &str) -> Document {
    page(&format!("# A page\n```sh\n{lines}\n```\n"))
}

#[test]
fn every_command_and_python_program_on_the_pages_runs() {
    assert!(run_all(&pages()) >= 8);
}

#[test]
fn every_command_in_the_comments_of_the_code_runs() {
    assert!(run_all(&comments()) >= 4, "two for each element");
}

#[test]
fn the_first_commands_of_the_readme_run_in_either_order() {
    let documents = pages();
    let readme = documents
        .iter()
        .find(|page| page.path == root().join("README.md"));
    let first = &groups(readme.unwrap()).unwrap()[0];
    assert_eq!(first.lines.len(), 2);
    for backwards in [false, true] {
        first.run(backwards).unwrap();
    }
}

#[test]
fn the_rust_program_in_the_readme_runs() {
    let code = include_str!("documentation/readme_example.rs");
    let documents = pages();
    let shown: Vec<Block> = documents
        .iter()
        .flat_map(|document| document.split().0)
        .filter(|block| block.language == "rust")
        .collect();
    assert_eq!(shown.len(), 1);
    assert_eq!(
        shown[0].text, code,
        "README.md and readme_example.rs differ"
    );
    let name = unique_name("readme");
    thread::scope(|scope| {
        let receiving = scope.spawn(|| readme_example::receive(&name).unwrap());
        readme_example::send(&name).unwrap();
        assert_eq!(receiving.join().unwrap(), 2);
    });
}

#[test]
fn a_typo_in_a_command_is_found() {
    let good = "gst-launch-1.0 videotestsrc ! zerobuffersink buffer-name=typo\n\
                gst-launch-1.0 zerobuffersrc buffer-name=typo ! fakesink";
    let try_it = |text: &str| groups(&shell(text))?.iter().try_for_each(|g| g.run(false));
    try_it(good).unwrap();
    for (right, wrong) in [
        ("fakesink", "fakesinkk"),
        ("videotestsrc", "videotestsrc patern=ball"),
        ("typo ! fakesink", "typo caps=video/x-raw,format ! fakesink"),
        (
            "! zerobuffersink",
            "! video/x-raw,format=NONE ! zerobuffersink",
        ),
        ("zerobuffersrc", "zerobuffersrc perm=0666"),
        ("gst-launch-1.0 v", "gst-launch-1.0 --no-such-option v"),
    ] {
        let bad = good.replacen(right, wrong, 1);
        assert_ne!(bad, good);
        let found = try_it(&bad);
        assert!(found.is_err(), "not found: {wrong}");
    }
}

#[test]
fn a_command_without_a_partner_is_found() {
    let source = "gst-launch-1.0 zerobuffersrc buffer-name=a ! fakesink";
    let sink = "gst-launch-1.0 videotestsrc ! zerobuffersink buffer-name=a";
    let find = |text: &str| groups(&page(text)).unwrap_err();
    for text in [
        format!("```sh\n{source}\n```"),
        format!("```sh\n{sink}\n```"),
        format!("```sh\n{source}\n{sink}x\n```"),
        format!("```sh\n{source}\n{sink}\n{sink}\n```"),
        format!("```sh\n{source}\n```\n# Another section\n```sh\n{sink}\n```"),
        "```python\nReader(\"a\")\n```".to_string(),
    ] {
        assert!(
            find(&text).contains("needs one reader and one writer"),
            "{text}"
        );
    }
    assert!(find(&format!("Type `{source}`.")).contains("outside of a fence"));
    assert!(find(&format!("```\n{source}\n```")).contains("not sh or bash"));
    assert!(find(&format!("```text\n{source}\n```")).contains("not sh or bash"));
    assert!(find("```sh\ngst-launch-1.0 fakesrc\n```").contains("no zerobuffer element"));
}

#[test]
fn lines_that_are_continued_are_one_and_those_that_share_a_name_belong_together() {
    let document = shell(
        "# The end\n\
         gst-launch-1.0 zerobuffersrc buffer-name=b ! fakesink\n\n\
         gst-launch-1.0 zerobuffersrc buffer-name=a \\\n    ! zerobuffersink buffer-name=b\n\
         gst-launch-1.0 videotestsrc ! zerobuffersink buffer-name=a\n\
         gst-launch-1.0 zerobuffersrc buffer-name=c ! fakesink\n\
         gst-launch-1.0 v4l2src ! zerobuffersink buffer-name=c",
    );
    let found = groups(&document).unwrap();
    assert_eq!([found[0].lines.len(), found[1].lines.len()], [3, 2]);
    let prepared = found[0].prepare("-1", Path::new("/dir"));
    assert_eq!(
        prepared.lines[1],
        "gst-launch-1.0 zerobuffersrc buffer-name=a-1 ! zerobuffersink buffer-name=b-1"
    );
    let played = shell(
        "gst-play-1.0 \"zerobuffer://d?latency=0\"\n\
         gst-launch-1.0 videotestsrc ! zerobuffersink buffer-name=d",
    );
    assert_eq!(
        groups(&played).unwrap()[0]
            .prepare("-1", Path::new("/dir"))
            .lines[0],
        "gst-play-1.0 --videosink=fakesink --audiosink=fakesink --no-interactive \
         \"zerobuffer://d-1?latency=0\""
    );
    assert_eq!(
        found[1].prepare("-1", Path::new("/dir")).lines[1],
        "gst-launch-1.0 videotestsrc is-live=true num-buffers=30 ! zerobuffersink buffer-name=c-1"
    );
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(document: &Document) -> BTreeSet<String> {
    let (_, prose) = document.split();
    let headings = prose.iter().filter_map(|(_, line)| heading(line));
    headings.map(|(_, text)| anchor(text)).collect()
}

/// The targets of links, except to other machines.
fn relative_links(document: &Document) -> Vec<String> {
    let (_, prose) = document.split();
    prose
        .iter()
        .flat_map(|(_, line)| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_string())
        .filter(|target| !target.contains("://"))
        .collect()
}

fn broken_links(document: &Document) -> Vec<String> {
    let folder = document.path.parent().unwrap();
    let is_broken = |link: &String| {
        let (file, fragment) = match link.split_once('#') {
            Some((file, fragment)) => (file, Some(fragment)),
            None => (link.as_str(), None),
        };
        let path = if file.is_empty() {
            document.path.clone()
        } else {
            folder.join(file)
        };
        match fragment {
            None => !path.exists(),
            Some(fragment) => {
                let text = if file.is_empty() {
                    Ok(document.text.clone())
                } else {
                    fs::read_to_string(&path)
                };
                text.map_or(true, |text| {
                    !anchors(&Document { path, text }).contains(fragment)
                })
            }
        }
    };
    relative_links(document)
        .into_iter()
        .filter(is_broken)
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let documents = pages();
    let count: usize = documents
        .iter()
        .map(|page| relative_links(page).len())
        .sum();
    assert!(count > 5);
    for document in &documents {
        let broken = broken_links(document);
        assert!(broken.is_empty(), "{}: {broken:?}", document.path.display());
    }
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let document = Document {
        path: root().join("README.md"),
        text: "# Some heading: here\n[a](src/lib.rs) [b](none.rs) [c](#some-heading-here)\n\
               [d](#none) [e](docs/protocol.md#segment) [f](docs/protocol.md#none)\n\
               [g](https://example.org/)\n```\n[h](in-a-fence.rs)\n```\n"
            .into(),
    };
    let found = ["none.rs", "#none", "docs/protocol.md#none"];
    assert_eq!(broken_links(&document), found);
}

#[test]
fn the_tutorial_shows_its_program_as_it_is() {
    let documents = pages();
    let tutorial = documents
        .iter()
        .find(|page| page.path.ends_with("tutorial.md"));
    let program = fs::read_to_string(root().join("examples/process_split.rs")).unwrap();
    let mut count = 0;
    for block in tutorial.unwrap().split().0 {
        if block.language.starts_with("rust") {
            let shown = program.contains(&block.text);
            assert!(shown, "not in the program:\n{}", block.text);
            count += 1;
        }
    }
    assert!(count >= 3);
}

/// The commands that set a machine up.
fn set_up_commands(document: &Document) -> Vec<String> {
    let blocks = document.split().0;
    let all = blocks.iter().flat_map(commands);
    all.map(|(_, command)| command)
        .filter(|command| command.starts_with("bash scripts/"))
        .collect()
}

#[test]
fn the_readme_has_two_commands_that_set_a_machine_up() {
    let documents = pages();
    let readme = documents
        .iter()
        .find(|page| page.path == root().join("README.md"));
    let found = set_up_commands(readme.unwrap());
    assert_eq!(found, ["bash scripts/demo.sh", "bash scripts/test.sh"]);
    for command in found {
        assert!(root().join(command.trim_start_matches("bash ")).is_file());
    }
    let more = shell("bash scripts/a.sh\nbash scripts/b.sh\ncargo build\nbash scripts/c.sh");
    assert_eq!(set_up_commands(&more).len(), 3);
}

/// The names of the form `fault_NN_…` in a text.
fn fault_names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("fault_"))
        .map(Into::into)
        .collect()
}

#[test]
fn the_table_of_faults_names_every_test_of_a_fault_and_no_other() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let tests: BTreeSet<String> = read("tests/faults.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("fn "))
        .flat_map(fault_names)
        .collect();
    let named = fault_names(&read("docs/protocol.md"));
    assert_eq!(named, tests);
    for number in 1..=18 {
        let prefix = format!("fault_{number:02}_");
        assert!(
            named.iter().any(|name| name.starts_with(&prefix)),
            "{prefix}"
        );
    }
}

/// The tests that a text names in code, as `file::test` or `file::*`.
fn named_tests(text: &str) -> BTreeSet<(String, String)> {
    let codes = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let names = codes.filter_map(|code| code.split_once("::"));
    let is_name = |name: &str| {
        name.chars()
            .all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c))
    };
    names
        .filter(|(file, test)| is_name(file) && (is_name(test) || *test == "*"))
        .map(|(file, test)| (file.into(), test.into()))
        .collect()
}

/// Of these, those that there are not.
fn missing_tests(named: &BTreeSet<(String, String)>) -> Vec<String> {
    let exists = |(file, test): &&(String, String)| {
        let path = root().join("tests").join(format!("{file}.rs"));
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = format!("#[test]\nfn {test}()");
        (test == "*" && !text.is_empty()) || text.contains(&found)
    };
    let missing = named.iter().filter(|named| !exists(named));
    missing
        .map(|(file, test)| format!("{file}::{test}"))
        .collect()
}

#[test]
fn every_test_that_the_page_on_robustness_names_exists() {
    let page = fs::read_to_string(root().join("docs/robustness.md")).unwrap();
    let named = named_tests(&page);
    assert_eq!(missing_tests(&named), [""; 0]);
    // In each row of its tables there is one.
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| case "));
    for row in rows.clone() {
        assert!(!named_tests(row).is_empty(), "no test: {row}");
    }
    assert!(rows.count() >= 6);
    // And each point of the matrix is told of.
    let matrix = fs::read_to_string(root().join("tests/crash_matrix.rs")).unwrap();
    for test in matrix.split("#[test]\nfn ").skip(1) {
        let name = test.split('(').next().unwrap();
        let is_named = named.contains(&("crash_matrix".into(), name.into()));
        assert!(is_named, "crash_matrix::{name} is in no table");
    }

    let bad =
        named_tests("| a | b | `faults::none_such`, `nothing::*`, `faults::*`, `Error::Closed` |");
    assert_eq!(missing_tests(&bad), ["faults::none_such", "nothing::*"]);
}

#[test]
fn sections_that_the_code_refers_to_exist() {
    let protocol = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let headings: Vec<&str> = protocol.lines().filter_map(heading).map(|h| h.1).collect();
    let mut count = 0;
    for document in comments().into_iter().chain(comments_in("tests")) {
        // References may go on in the next line of a comment.
        let text = document.text.replace('\n', " ");
        for rest in text.split("`docs/protocol.md`, ").skip(1) {
            let end = rest.find(['.', ';']).unwrap_or(rest.len());
            for section in rest[..end].split('"').skip(1).step_by(2) {
                count += 1;
                assert!(
                    headings.contains(&section),
                    "{}: no section \"{section}\"",
                    document.path.display()
                );
            }
        }
    }
    assert!(count >= 6, "{count}");
}

/// The Rust files that a text names in code, as `name.rs` or with some folders.
fn named_files(text: &str) -> Vec<&str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.ends_with(".rs") && !code.contains(' '))
        .collect()
}

#[test]
fn every_file_that_the_architecture_names_exists() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let folders = ["", "src", "src/protocol", "src/sys", "tests"];
    let exists = |file: &str| {
        folders
            .iter()
            .any(|folder| root().join(folder).join(file).is_file())
    };
    let named = named_files(&page);
    assert!(named.len() > 15);
    let missing: Vec<&str> = named.into_iter().filter(|file| !exists(file)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(
        named_files("a `b.rs`, `c.rs d` and `src/d.rs`"),
        ["b.rs", "src/d.rs"]
    );
    assert!(!exists("b.rs"));
    // And every test program is in its table.
    let programs = fs::read_dir(root().join("tests")).unwrap();
    for program in programs.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        let told = !program.ends_with(".rs") || page.contains(&program);
        assert!(
            told,
            "docs/architecture.md does not tell what tests/{program} proves"
        );
    }
}
