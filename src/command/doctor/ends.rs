//! What keeps the two ends of one buffer from meeting.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gstzerobuffer::Error;
use gstzerobuffer::inspect::{
    FOLDERS, FileFacts, Inspection, Life, Object, Peer, State, Unknown, host, objects,
};

use super::Findings;
use crate::caps::Caps;
use crate::picture::Format;
use crate::{Failure, json, list, text};

const SOMETHING_ELSE: &str =
    "take another name, or remove what is there in /dev/shm if it is nobody's";

pub fn look(name: &str, findings: &mut Findings) -> Result<(), Failure> {
    let seen = match Inspection::of(name) {
        Ok(seen) => seen,
        Err(Error::BufferNotFound { .. }) => {
            missing(name, findings);
            return Ok(());
        }
        Err(err @ Error::InvalidName { .. }) => return Err(err.into()),
        Err(err @ Error::Corrupt { .. }) => {
            findings.problem("buffer", err.to_string(), SOMETHING_ELSE);
            return Ok(());
        }
        Err(err) => {
            let remedy = "see above what is wrong with the shared memory, or ask as another user";
            findings.problem("buffer", err.to_string(), remedy);
            return Ok(());
        }
    };
    let state = seen.state();
    permissions(&seen, findings);
    match (&seen.content, state) {
        (Err(Unknown::Permission), _) => {}
        (Err(Unknown::Unfinished), _) => findings.problem(
            "buffer",
            json::unknown(&Unknown::Unfinished),
            "look again; if it stays so, its reader died: zerobuffer clean, or start a new reader",
        ),
        (Err(unknown), _) => findings.problem("buffer", json::unknown(unknown), SOMETHING_ELSE),
        (Ok(_), State::Closed | State::ReaderDead) => findings.problem(
            "reader",
            format!("it is gone: {}", list::end(&seen.reader)),
            "start a reader (zerobuffersrc): it takes the name over; or zerobuffer clean",
        ),
        (Ok(_), _) => ends(&seen, findings),
    }
    if let Ok(content) = &seen.content {
        for problem in &content.problems {
            findings.problem(
                "content",
                problem.clone(),
                "if it stays so, the writer or reader is broken: start both again",
            );
        }
        fill(&seen, findings);
    }
    Ok(())
}

fn permissions(seen: &Inspection, findings: &mut Findings) {
    let folder = Path::new(FOLDERS[0]);
    let segment = folder.join(&seen.name);
    let mut refused = Vec::new();
    for (path, facts) in [
        (&segment, Some(&seen.file)),
        (&seen.sem_write.path, seen.sem_write.facts.as_ref()),
        (&seen.sem_read.path, seen.sem_read.facts.as_ref()),
    ] {
        if let Some(facts) = facts
            && !host::may_use(path)
        {
            refused.push(describe(path, facts));
        }
    }
    if !refused.is_empty() {
        findings.problem(
            "permissions",
            format!(
                "{} cannot attach to {}",
                text::user(host::user()),
                refused.join(", ")
            ),
            "run both ends as the same user, or let the reader make it for others: zerobuffersrc \
             perms=0666, BufferConfig::with_permissions",
        );
    } else {
        let what = format!("{} may attach", text::user(host::user()));
        findings.fine("permissions", what);
    }
    for object in [&seen.sem_write, &seen.sem_read] {
        if object.facts.is_none() {
            semaphore_missing(seen, object, findings);
        }
    }
}

fn describe(path: &Path, facts: &FileFacts) -> String {
    let user = text::user(facts.uid);
    format!("{} (of {user}, mode {:04o})", path.display(), facts.mode)
}

fn semaphore_missing(seen: &Inspection, object: &Object, findings: &mut Findings) {
    let path = object.path.to_string_lossy();
    // As musl calls it.
    let elsewhere = PathBuf::from(path.replacen("/sem.", "/", 1));
    if elsewhere.exists() {
        let what = format!(
            "{} is not there, {} is: the reader has another C library",
            path,
            elsewhere.display()
        );
        let remedy = "both ends need glibc";
        findings.problem("C library", what, remedy);
    } else if seen.reader.life == Life::Alive {
        let what = format!("{path} is not there: somebody removed it");
        findings.problem("semaphores", what, "start the reader again");
    }
}

fn ends(seen: &Inspection, findings: &mut Findings) {
    for (about, peer) in [("reader", &seen.reader), ("writer", &seen.writer)] {
        let shown = list::end(peer);
        match peer.life {
            Life::Alive if is_stopped(peer) => findings.problem(
                about,
                format!("{shown}: it does nothing until it goes on"),
                &format!("kill -CONT {}", pid_here(peer)),
            ),
            Life::Alive => findings.fine(about, format!("{shown}: {}", peer.why)),
            Life::Unseen => findings.note(
                about,
                format!("{shown}: {}", peer.why),
                "look in its container, or share the pid namespace; a v1 writer that does nothing \
                 counts as dead after 5 seconds, a v1 reader never does",
            ),
            Life::Dead => findings.note(
                about,
                format!("{shown}: {}", peer.why),
                "start a writer: it takes the place",
            ),
            Life::None if about == "writer" => {
                findings.fine(about, "there is none yet, so one may come".into());
            }
            Life::None => {}
        }
    }
    if seen.writer.life == Life::Alive {
        findings.note(
            "writer",
            "there is one already: another writer is refused, or waits".into(),
            "one writer at a time: take another name for another stream",
        );
    }
    if seen.content.as_ref().is_ok_and(|it| it.hello.is_none()) {
        findings.note(
            "reader",
            "it speaks v1: it gets frames without times, layouts and changes of caps".into(),
            "take this library's reader for these (zerobuffersrc)",
        );
    }
}

fn pid_here(peer: &Peer) -> u64 {
    peer.process.as_ref().map_or(peer.pid, |(pid, _)| *pid)
}

fn is_stopped(peer: &Peer) -> bool {
    peer.process
        .as_ref()
        .is_some_and(|(_, process)| process.stopped)
}

/// Whether there is room, and whether frames fit.
fn fill(seen: &Inspection, findings: &mut Findings) {
    let Ok(content) = &seen.content else { return };
    let it = &content.numbers;
    if seen.state() == State::Live
        && it.used().saturating_mul(10) > it.payload_size.saturating_mul(9)
    {
        findings.note(
            "ring",
            format!("{} of it is in use", text::percent(it.used(), it.payload_size)),
            "the reader is slower than the writer, or holds frames: zerobuffer top shows it over time",
        );
    }
    let format = Caps::of(seen).and_then(|caps| Format::of(&caps).ok());
    if let Some(frame) = format.map(|format| format.size())
        && it.payload_size < gstzerobuffer::ring_size(frame, 1)
    {
        findings.note(
            "ring",
            format!(
                "{} is little for frames of {}",
                text::bytes(it.payload_size),
                text::bytes(frame)
            ),
            "zerobuffersrc payload-size=…; without it the ring grows to what the frames need",
        );
    }
}

/// There is no such buffer here: who has it elsewhere?
fn missing(name: &str, findings: &mut Findings) {
    let elsewhere = elsewhere(name);
    if elsewhere.is_empty() {
        let left = objects(name).is_ok_and(|all| all.iter().any(|it| it.facts.is_some()));
        let more = if left {
            "; there are leftovers of it"
        } else {
            ""
        };
        findings.problem(
            "buffer",
            format!("there is none called {name}{more}"),
            "start its reader (zerobuffersrc buffer-name=…): the reader makes it; zerobuffer list \
             shows those that there are, and names are told apart by upper and lower case",
        );
    }
    for (pid, command) in elsewhere {
        findings.problem(
            "namespaces",
            format!("process {pid} ({command}) has a buffer called {name} in a /dev/shm of its own"),
            "both ends need the same /dev/shm: docker run --ipc=container:OTHER or --ipc=host, or -v \
             /dev/shm:/dev/shm at both; a service: PrivateTmp=no for /tmp/zerobuffer",
        );
    }
}

/// Processes in whose /dev/shm there is a file of this name, one for each mount namespace.
fn elsewhere(name: &str) -> Vec<(u64, String)> {
    let ours = host::namespace("self", "mnt");
    let mut known: BTreeSet<PathBuf> = ours.into_iter().collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|it| it.parse::<u64>().ok())
        else {
            continue;
        };
        let Some(namespace) = host::namespace(&pid.to_string(), "mnt") else {
            continue;
        };
        if known.insert(namespace) && entry.path().join("root/dev/shm").join(name).exists() {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push((pid, command.trim().to_string()));
        }
    }
    found
}
