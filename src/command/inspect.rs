//! `zerobuffer inspect`.

use std::io::{Write, stdout};
use std::process::ExitCode;

use gstzerobuffer::inspect::{Content, FrameHead, Inspection, Object, Peer};

use crate::arguments::Inspect;
use crate::caps::Caps;
use crate::{Failure, json, text};

/// More heads than this are never shown.
const MOST_FRAMES: usize = 4096;

pub fn run(options: &Inspect) -> Result<ExitCode, Failure> {
    let seen = Inspection::with_frames(&options.name, options.frames.min(MOST_FRAMES))?;
    let text = if options.json {
        format!("{:#}\n", json::buffer(&seen, true))
    } else {
        describe(&seen)
    };
    stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Lines of a name and what it is, under headings.
#[derive(Default)]
struct Page(String);

impl Page {
    fn heading(&mut self, text: &str) {
        self.0 += &format!("\n{text}\n");
    }

    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        self.0 += &format!("  {name:<24} {}\n", text::plain(value.as_ref()));
    }
}

fn describe(seen: &Inspection) -> String {
    let mut page = Page::default();
    page.0 += &format!("{}: {}\n", text::plain(&seen.name), seen.state().as_str());
    if let Some(caps) = Caps::of(seen) {
        page.line("stream", &caps.text);
    }
    if let Some(age) = seen.age() {
        page.line("age", text::age(age));
    }
    page.heading("Ends");
    page.line("reader", end(&seen.reader));
    page.line("writer", end(&seen.writer));
    page.heading("Objects");
    let facts = &seen.file;
    let segment = format!(
        "{}, {} in memory, mode {:04o}, of {}",
        exact(facts.len),
        text::bytes(facts.room),
        facts.mode,
        text::user(facts.uid)
    );
    page.line("segment", segment);
    page.line("write semaphore", object(&seen.sem_write));
    page.line("read semaphore", object(&seen.sem_read));
    page.line("lock file", object(&seen.lock_file));
    match &seen.content {
        Ok(content) => self::content(&mut page, content),
        Err(unknown) => page.line("content", json::unknown(unknown)),
    }
    page.0
}

fn exact(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    format!("{bytes} bytes ({})", text::bytes(bytes))
}

fn end(peer: &Peer) -> String {
    let mut words = match peer.pid {
        0 => peer.life.as_str().to_string(),
        pid => format!("pid {pid}, {}", peer.life.as_str()),
    };
    words += &format!(" ({})", peer.why);
    if peer.pid != 0 {
        words += if peer.is_ours {
            ", of this library"
        } else {
            ", v1"
        };
    }
    if let Some((here, process)) = &peer.process {
        if *here != peer.pid {
            words += &format!(", pid {here} here");
        }
        words += &format!(", user {}", text::user(process.uid));
        if let Some(age) = process.age {
            words += &format!(", for {}", text::age(age));
        }
        if process.stopped {
            words += ", stopped";
        }
        words += &format!(": {}", text::short(&process.command, 120));
    }
    words
}

fn object(object: &Object) -> String {
    let path = object.path.display();
    match &object.facts {
        Some(facts) => format!(
            "{path}, mode {:04o}, of {}",
            facts.mode,
            text::user(facts.uid)
        ),
        None => format!("{path} is not there"),
    }
}

fn content(page: &mut Page, content: &Content) {
    let it = &content.numbers;
    page.heading("OIEB");
    page.line("oieb_size", it.oieb_size.to_string());
    let [major, minor, patch, reserved] = it.version;
    page.line(
        "version",
        format!("{major}.{minor}.{patch}, reserved {reserved}"),
    );
    page.line("metadata_size", exact(it.metadata_size));
    page.line("metadata_free_bytes", it.metadata_free_bytes.to_string());
    page.line(
        "metadata_written_bytes",
        it.metadata_written_bytes.to_string(),
    );
    page.line("payload_size", exact(it.payload_size));
    page.line("payload_free_bytes", it.payload_free_bytes.to_string());
    page.line("payload_write_pos", it.payload_write_pos.to_string());
    page.line("payload_read_pos", it.payload_read_pos.to_string());
    page.line(
        "payload_written_count",
        it.payload_written_count.to_string(),
    );
    page.line("payload_read_count", it.payload_read_count.to_string());
    page.line("writer_pid", it.writer_pid.to_string());
    page.line("reader_pid", it.reader_pid.to_string());
    page.line("reserved", format!("{:?}", it.reserved));

    page.heading("Hello");
    match &content.hello {
        None => page.line("-", "none: the reader speaks v1, or metadata lies over it"),
        Some(hello) => {
            let means = json::abilities(hello).join(", ");
            page.line("abilities", format!("{:#04x}: {means}", hello.abilities));
            page.line("attachments", hello.attachments.to_string());
            page.line("writer", hello.writer.to_string());
            let wanted = match hello.wanted {
                0 => "0: no writer of ours waits for room".to_string(),
                bytes => format!("{bytes}: the writer waits for so many free bytes"),
            };
            page.line("wanted", wanted);
            page.line("replaced", hello.replaced.to_string());
            page.line("ended", hello.ended.to_string());
        }
    }

    page.heading("Metadata");
    match &content.metadata {
        None => page.line("-", "not written"),
        Some(Err(why)) => page.line("unreadable", why),
        Some(Ok(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => page.line(&format!("{} bytes", bytes.len()), text::short(text, 2000)),
            Err(_) => page.line(&format!("{} bytes", bytes.len()), "not text"),
        },
    }

    page.heading("Ring");
    page.line(
        "used",
        format!("{} of {}", exact(it.used()), text::bytes(it.payload_size)),
    );
    page.line("held by the reader", exact(content.ring.held));
    page.line("not read yet", exact(content.ring.unread));
    if let Some(frames) = content.ring.unread_frames {
        page.line("frames not read yet", frames.to_string());
    }
    for head in &content.ring.frames {
        frame(page, head);
    }
    page.heading("Checks");
    if content.problems.is_empty() {
        page.line("-", "all numbers fit together");
    }
    for problem in &content.problems {
        page.line("problem", problem);
    }
}

fn frame(page: &mut Page, head: &FrameHead) {
    let mut words = format!("at {}", head.at);
    if head.is_message {
        words += ", a message";
    } else {
        words += &format!(", {} bytes", head.len);
    }
    if head.is_taken {
        words += ", held by the reader";
    }
    match &head.records {
        None => {}
        Some(Err(why)) => words += &format!(", records: {why}"),
        Some(Ok(records)) => {
            if let Some(time) = records.time() {
                let seconds = |ns: u64| format!("{:.6} s", ns as f64 / 1e9);
                if let Some(pts) = time.pts {
                    words += &format!(", pts {}", seconds(pts));
                }
                if let Some(monotonic) = time.monotonic {
                    words += &format!(", due at {} monotonic", seconds(monotonic));
                }
                words += &format!(", flags {:#x}", time.flags);
            }
            if let Some(caps) = records.caps() {
                words += &format!(", caps {}", text::short(caps, 200));
            }
            if let Some(layout) = records.layout() {
                let planes = layout.planes as usize;
                words += &format!(
                    ", layout {}x{} at {:?} with strides {:?}",
                    layout.width,
                    layout.height,
                    &layout.offsets[..planes],
                    &layout.strides[..planes]
                );
            }
            let kinds: Vec<String> = records.iter().map(|it| it.kind.to_string()).collect();
            words += &format!(", records of kind {}", kinds.join(" "));
        }
    }
    let name = if head.is_message {
        "message".to_string()
    } else {
        format!("frame {}", head.sequence)
    };
    page.line(&name, words);
}
