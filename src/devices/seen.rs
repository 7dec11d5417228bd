//! Which devices there are.

use std::collections::BTreeMap;

use gstreamer as gst;

use crate::protocol::inspect::{self, Inspection, State};
use crate::protocol::offers;
use crate::stream_info;

/// What can be done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Receive what somebody sends.
    Source,
    /// Send to somebody who waits for it.
    Sink,
}

/// A device at the moment of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: Kind,
    pub buffer: String,
    pub caps: gst::Caps,
    /// Somebody receives already.
    pub in_use: bool,
    /// Who sends, or who waits.
    pub pid: u64,
}

impl Seen {
    /// Its class in GStreamer's words.
    pub fn class(&self) -> &'static str {
        let media = self.caps.structure(0).map(|structure| structure.name());
        let media = media.and_then(|name| name.split('/').next());
        match (self.kind, media) {
            (Kind::Source, Some("audio")) => "Audio/Source",
            (Kind::Source, Some("video" | "image")) => "Video/Source",
            (Kind::Source, _) => "Source",
            (Kind::Sink, _) => "Sink",
        }
    }
}

/// All there are, in order.
pub fn look() -> Vec<Seen> {
    let mut found: BTreeMap<(String, Kind), Seen> = BTreeMap::new();
    let mut add = |seen: Seen| found.insert((seen.buffer.clone(), seen.kind), seen);
    for offered in offers() {
        add(Seen {
            kind: Kind::Source,
            caps: caps(Some(&offered.metadata)),
            in_use: false,
            pid: offered.pid,
            buffer: offered.name,
        });
    }
    for name in inspect::buffers() {
        let Ok(buffer) = Inspection::of(&name) else {
            continue;
        };
        let source = (name.clone(), Kind::Source);
        match buffer.state() {
            State::Live => {
                let content = buffer.content.ok();
                let metadata = content.and_then(|content| content.metadata?.ok());
                let seen = found.entry(source).or_insert(Seen {
                    kind: Kind::Source,
                    caps: gst::Caps::new_any(),
                    in_use: true,
                    pid: buffer.writer.pid,
                    buffer: name,
                });
                // The metadata is what the stream began with, an offer is what it is like now.
                if seen.caps.is_any() {
                    seen.caps = caps(metadata.as_deref());
                }
                seen.in_use = true;
            }
            State::Waiting if !found.contains_key(&source) => {
                let seen = Seen {
                    kind: Kind::Sink,
                    caps: gst::Caps::new_any(),
                    in_use: false,
                    pid: buffer.reader.pid,
                    buffer: name,
                };
                found.insert((seen.buffer.clone(), seen.kind), seen);
            }
            _ => {}
        }
    }
    found.into_values().collect()
}

fn caps(metadata: Option<&[u8]>) -> gst::Caps {
    let caps = metadata.and_then(|metadata| stream_info::to_caps(metadata).ok());
    caps.unwrap_or_else(gst::Caps::new_any)
}
