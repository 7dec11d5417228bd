//! `zerobuffer list`.

use std::fs;
use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;

use gstzerobuffer::inspect::{self, FOLDERS, Inspection, Life, Peer};
use serde_json::Value;

use crate::arguments::List;
use crate::caps::{Caps, HEADS};
use crate::{Failure, json, text};

/// The names of all buffers. Where nobody lets us look it is an error, and not that there are none.
pub fn names() -> Result<Vec<String>, Failure> {
    let [folder, _] = FOLDERS;
    fs::read_dir(folder).map_err(|err| {
        format!("it is not to be seen what is in {folder}: {err} (zerobuffer doctor says more)")
    })?;
    Ok(inspect::buffers())
}

/// All buffers, each as it is at one moment. One that goes meanwhile is left out.
pub fn all() -> Result<Vec<Inspection>, Failure> {
    let look = |name: &String| Inspection::with_frames(name, HEADS).ok();
    Ok(names()?.iter().filter_map(look).collect())
}

pub fn run(options: &List) -> Result<ExitCode, Failure> {
    let buffers = all()?;
    let mut out = stdout();
    if options.json {
        let array = buffers
            .iter()
            .map(|seen| json::buffer(seen, false))
            .collect();
        writeln!(out, "{:#}", Value::Array(array))?;
    } else if out.is_terminal() {
        if buffers.is_empty() {
            writeln!(out, "There are no buffers.")?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = vec![row_of([
            "NAME", "STATE", "STREAM", "RING", "USED", "READER", "WRITER", "AGE",
        ])];
        rows.extend(buffers.iter().map(for_people));
        write!(out, "{}", text::table(&rows))?;
    } else {
        writeln!(out, "{}", COLUMNS.join("\t"))?;
        for seen in &buffers {
            writeln!(out, "{}", for_programs(seen).join("\t"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row_of<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| cell.to_string()).collect()
}

/// An end in a few words.
pub fn end(peer: &Peer) -> String {
    if peer.life == Life::None {
        return "-".into();
    }
    let mut words = match (&peer.process, peer.pid) {
        (Some((pid, _)), _) => pid.to_string(),
        // It holds its lock and is coming or going.
        (None, 0) => "?".to_string(),
        (None, pid) => pid.to_string(),
    };
    if let Some((_, process)) = &peer.process {
        let program = process.command.split(' ').next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or(program);
        words += &format!(
            " {} ({})",
            text::plain(&text::short(program, 20)),
            text::user(process.uid)
        );
        if process.stopped {
            words += " stopped";
        }
    }
    match peer.life {
        Life::Dead => words + " dead",
        Life::Unseen => words + " unseen",
        Life::Alive if peer.process.is_none() => words + " elsewhere",
        _ => words,
    }
}

fn for_people(seen: &Inspection) -> Vec<String> {
    let caps = Caps::of(seen).map_or("-".into(), |caps| {
        text::plain(&text::short(&caps.short(), 40))
    });
    let numbers = seen.content.as_ref().ok().map(|content| &content.numbers);
    vec![
        text::plain(&text::short(&seen.name, 40)),
        seen.state().as_str().into(),
        caps,
        numbers.map_or("-".into(), |it| text::bytes(it.payload_size)),
        numbers.map_or("-".into(), |it| text::percent(it.used(), it.payload_size)),
        end(&seen.reader),
        end(&seen.writer),
        seen.age().map_or("-".into(), text::age),
    ]
}

/// What the columns are for programs. New ones come at the end.
const COLUMNS: [&str; 18] = [
    "name",
    "state",
    "caps",
    "framerate",
    "ring_bytes",
    "used_bytes",
    "segment_bytes",
    "owner",
    "age_seconds",
    "reader_pid",
    "reader_life",
    "reader_user",
    "reader_command",
    "writer_pid",
    "writer_life",
    "writer_user",
    "writer_command",
    "written_count",
];

fn for_programs(seen: &Inspection) -> Vec<String> {
    let none = || "-".to_string();
    let number = |number: Option<u64>| number.map_or_else(none, |number| number.to_string());
    let numbers = seen.content.as_ref().ok().map(|content| &content.numbers);
    let caps = Caps::of(seen);
    let end = |peer: &Peer| {
        let process = peer.process.as_ref().map(|(_, process)| process);
        let here = peer.process.as_ref().map(|(pid, _)| *pid);
        [
            number(here.or(Some(peer.pid).filter(|pid| *pid != 0))),
            peer.life.as_str().into(),
            process.map_or_else(none, |process| text::user(process.uid)),
            process.map_or_else(none, |process| text::plain(&process.command)),
        ]
    };
    let mut row = vec![
        text::plain(&seen.name),
        seen.state().as_str().into(),
        caps.as_ref()
            .map_or_else(none, |caps| text::plain(&caps.text)),
        (caps.as_ref().and_then(|caps| caps.get("framerate"))).map_or_else(none, text::plain),
        number(numbers.map(|it| it.payload_size)),
        number(numbers.map(|it| it.used())),
        number(Some(seen.file.len)),
        text::user(seen.file.uid),
        number(seen.age().map(|age| age.as_secs())),
    ];
    row.extend(end(&seen.reader));
    row.extend(end(&seen.writer));
    row.push(number(numbers.map(|it| it.payload_written_count)));
    row
}
