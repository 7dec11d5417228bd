//! What was seen, as JSON. Names and meanings are for programs, and stay.

use std::time::UNIX_EPOCH;

use gstzerobuffer::inspect::{Content, FrameHead, Hello, Inspection, Object, Peer, Unknown};
use serde_json::{Value, json};

use crate::caps::Caps;
use crate::text;

/// A buffer, as in `list --json` and `inspect --json`.
pub fn buffer(seen: &Inspection, frames: bool) -> Value {
    let caps = Caps::of(seen);
    let made = seen
        .file
        .made
        .and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    let mut value = json!({
        "name": seen.name,
        "state": seen.state().as_str(),
        "caps": caps.as_ref().map(|caps| &caps.text),
        "framerate": caps.as_ref().and_then(|caps| caps.rate("framerate")),
        "age_seconds": seen.age().map(|age| age.as_secs_f64()),
        "made_unix_seconds": made.map(|made| made.as_secs_f64()),
        "segment": {
            "bytes": seen.file.len,
            "reserved_bytes": seen.file.room,
            "mode": format!("{:04o}", seen.file.mode),
            "uid": seen.file.uid,
            "gid": seen.file.gid,
            "user": text::user(seen.file.uid),
        },
        "objects": {
            "write_semaphore": object(&seen.sem_write),
            "read_semaphore": object(&seen.sem_read),
            "lock_file": object(&seen.lock_file),
        },
        "reader": peer(&seen.reader),
        "writer": peer(&seen.writer),
    });
    let more = match &seen.content {
        Ok(content) => self::content(content, frames),
        Err(unknown) => json!({ "unknown": self::unknown(unknown) }),
    };
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

/// Why nothing is known of what is in a segment, as a text.
pub fn unknown(unknown: &Unknown) -> String {
    match unknown {
        Unknown::Permission => "it may not be read".into(),
        Unknown::Unfinished => "it is being made, or its reader died while it made it".into(),
        Unknown::NotABuffer(why) => format!("it is not a buffer: {why}"),
    }
}

fn object(object: &Object) -> Value {
    json!({
        "path": object.path.to_string_lossy(),
        "is_there": object.facts.is_some(),
        "mode": object.facts.as_ref().map(|facts| format!("{:04o}", facts.mode)),
        "uid": object.facts.as_ref().map(|facts| facts.uid),
    })
}

fn peer(peer: &Peer) -> Value {
    let process = peer.process.as_ref().map(|(_, process)| process);
    json!({
        "pid": (peer.pid != 0).then_some(peer.pid),
        "pid_here": peer.process.as_ref().map(|(pid, _)| pid),
        "life": peer.life.as_str(),
        "because": peer.why,
        "is_ours": peer.is_ours,
        "command": process.map(|process| &process.command),
        "user": process.map(|process| text::user(process.uid)),
        "uid": process.map(|process| process.uid),
        "age_seconds": process.and_then(|process| process.age).map(|age| age.as_secs_f64()),
        "is_stopped": process.map(|process| process.stopped),
    })
}

fn content(content: &Content, frames: bool) -> Value {
    let it = &content.numbers;
    let metadata = content.metadata.as_ref().and_then(|it| it.as_ref().ok());
    let mut value = json!({
        "ring": {
            "bytes": it.payload_size,
            "used_bytes": it.used(),
            "held_bytes": content.ring.held,
            "unread_bytes": content.ring.unread,
            "unread_frames": content.ring.unread_frames,
        },
        "metadata": metadata.map(|bytes| String::from_utf8_lossy(bytes)),
        "problems": content.problems,
        "oieb": {
            "oieb_size": it.oieb_size,
            "version": it.version,
            "metadata_size": it.metadata_size,
            "metadata_free_bytes": it.metadata_free_bytes,
            "metadata_written_bytes": it.metadata_written_bytes,
            "payload_size": it.payload_size,
            "payload_free_bytes": it.payload_free_bytes,
            "payload_write_pos": it.payload_write_pos,
            "payload_read_pos": it.payload_read_pos,
            "payload_written_count": it.payload_written_count,
            "payload_read_count": it.payload_read_count,
            "writer_pid": it.writer_pid,
            "reader_pid": it.reader_pid,
            "reserved": it.reserved,
        },
        "hello": content.hello.as_ref().map(|hello| json!({
            "abilities": hello.abilities,
            "abilities_mean": abilities(hello),
            "attachments": hello.attachments,
            "writer_pid": hello.writer,
            "wanted_bytes": hello.wanted,
            "replaced": hello.replaced,
            "ended": hello.ended,
        })),
    });
    if frames && let Value::Object(value) = &mut value {
        let heads = content.ring.frames.iter().map(frame).collect();
        value.insert("frames".into(), Value::Array(heads));
    }
    value
}

/// What a reader says that it can do.
pub fn abilities(hello: &Hello) -> Vec<&'static str> {
    (0..)
        .zip(Hello::ABILITIES)
        .filter(|(bit, _)| hello.abilities >> bit & 1 == 1)
        .map(|(_, what)| what)
        .collect()
}

fn frame(head: &FrameHead) -> Value {
    let records = head
        .records
        .as_ref()
        .and_then(|records| records.as_ref().ok());
    let time = records.and_then(|records| records.time());
    let layout = records.and_then(|records| records.layout());
    json!({
        "at": head.at,
        "bytes": (!head.is_message).then_some(head.len),
        "sequence": (!head.is_message).then_some(head.sequence),
        "is_message": head.is_message,
        "is_taken": head.is_taken,
        "pts_ns": time.and_then(|time| time.pts),
        "dts_ns": time.and_then(|time| time.dts),
        "duration_ns": time.and_then(|time| time.duration),
        "monotonic_ns": time.and_then(|time| time.monotonic),
        "flags": time.map(|time| time.flags),
        "caps": records.and_then(|records| records.caps()),
        "layout": layout.map(|layout| json!({
            "width": layout.width,
            "height": layout.height,
            "offsets": &layout.offsets[..layout.planes as usize],
            "strides": &layout.strides[..layout.planes as usize],
        })),
        "record_kinds": records.map(|records| records.iter().map(|record| record.kind).collect::<Vec<_>>()),
        "records_problem": head.records.as_ref().and_then(|records| records.as_ref().err()),
    })
}
