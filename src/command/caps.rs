//! Caps as text, as far as they can be read without GStreamer.

use std::collections::BTreeMap;

use gstzerobuffer::inspect::Inspection;
use serde_json::Value;

/// So many frames of a ring are looked at for caps that came later than the metadata: [`Caps::of`].
pub const HEADS: usize = 64;

/// What a stream is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// As they were found.
    pub text: String,
    /// "video/x-raw".
    pub media: String,
    fields: BTreeMap<String, String>,
}

impl Caps {
    /// From a caps string: the first structure of it. Nothing is known of what it does not say.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        let structure = split(text, ';').into_iter().next()?;
        let mut parts = split(structure, ',').into_iter();
        let media = parts.next()?.trim();
        // "video/x-raw(memory:DMABuf)".
        let media = media.split('(').next().unwrap_or(media).trim();
        let is_name = |c: char| c.is_alphanumeric() || "/-+._".contains(c);
        if !media.contains('/') || !media.chars().all(is_name) {
            return None;
        }
        let field = |part: &str| {
            let (name, value) = part.split_once('=')?;
            Some((name.trim().to_string(), value_of(value.trim())))
        };
        Some(Caps {
            text: text.into(),
            media: media.into(),
            fields: parts.filter_map(field).collect(),
        })
    }

    /// Those in the metadata of a buffer: in a JSON object as "caps", or as they are.
    pub fn from_metadata(metadata: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(metadata).ok()?;
        let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(object)) => Caps::parse(object.get("caps")?.as_str()?),
            Ok(Value::String(caps)) => Caps::parse(&caps),
            _ => Caps::parse(text),
        }
    }

    /// Those of a buffer: of the newest frame or message that brought some and is still in the ring, or
    /// those of the metadata.
    pub fn of(seen: &Inspection) -> Option<Self> {
        let content = seen.content.as_ref().ok()?;
        let in_ring = content.ring.frames.iter().rev().find_map(|frame| {
            let records = frame.records.as_ref()?.as_ref().ok()?;
            Caps::parse(records.caps()?)
        });
        in_ring.or_else(|| Caps::from_metadata(content.metadata.as_ref()?.as_ref().ok()?))
    }

    /// The value of a field, without its type.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    /// A field that is a whole number.
    pub fn number(&self, field: &str) -> Option<u32> {
        self.get(field)?.parse().ok()
    }

    /// A field that is a fraction, as a number. One of 0 says that there is none.
    pub fn rate(&self, field: &str) -> Option<f64> {
        let (above, below) = self.get(field)?.split_once('/')?;
        let (above, below): (f64, f64) = (above.trim().parse().ok()?, below.trim().parse().ok()?);
        (above > 0.0 && below > 0.0).then_some(above / below)
    }

    /// In a few words: "I420 1280x720 30/1".
    pub fn short(&self) -> String {
        let mut words = vec![match (self.media.as_str(), self.get("format")) {
            ("video/x-raw" | "audio/x-raw", Some(format)) => format.to_string(),
            (media, _) => media.to_string(),
        }];
        if let (Some(width), Some(height)) = (self.get("width"), self.get("height")) {
            words.push(format!("{width}x{height}"));
        }
        if let Some(rate) = self.get("framerate") {
            words.push(rate.to_string());
        }
        if let (Some(rate), Some(channels)) = (self.get("rate"), self.get("channels")) {
            words.push(format!("{rate} Hz, {channels} ch"));
        }
        words.join(" ")
    }
}

/// How many bytes stand before the picture in each frame, as metadata tells it (`docs/protocol.md`,
/// "Frame prefix").
pub fn prefix(seen: &Inspection) -> usize {
    let metadata = seen
        .content
        .as_ref()
        .ok()
        .and_then(|it| it.metadata.as_ref()?.as_ref().ok());
    let json = metadata.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    match json
        .as_ref()
        .and_then(|it| it.get("frame_prefix")?.as_str())
    {
        Some("rocket-welder") => 24,
        _ => 0,
    }
}

/// The parts of a text between these characters, where they are not in quotes or brackets.
fn split(text: &str, at: char) -> Vec<&str> {
    let (mut depth, mut quoted, mut escaped, mut start) = (0_usize, false, false, 0);
    let mut parts = Vec::new();
    for (place, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '<' | '{' | '[' => depth += 1,
            ')' | '>' | '}' | ']' => depth = depth.saturating_sub(1),
            _ if c == at && depth == 0 => {
                parts.push(&text[start..place]);
                start = place + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A value without its type and quotes.
fn value_of(text: &str) -> String {
    let text = match text.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, value)) => value.trim(),
        None => text,
    };
    let Some(quoted) = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        return text.into();
    };
    let mut out = String::new();
    let mut escaped = false;
    for c in quoted.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(c);
            escaped = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_of_gstreamer_are_read() {
        let caps = Caps::parse(
            "video/x-raw(memory:SystemMemory), format=(string)I420, width=(int)1280, height=720, \
             framerate=(fraction)30000/1001, colorimetry=(string)\"bt709\\, really\", \
             list={ (int)1, (int)2 }; video/x-raw, format=RGB",
        )
        .unwrap();
        assert_eq!(caps.media, "video/x-raw");
        assert_eq!(caps.get("format"), Some("I420"));
        assert_eq!(caps.get("height"), Some("720"));
        assert_eq!(caps.get("colorimetry"), Some("bt709, really"));
        assert_eq!(caps.get("list"), Some("{ (int)1, (int)2 }"));
        assert!((caps.rate("framerate").unwrap() - 29.97).abs() < 0.01);
        assert_eq!(caps.short(), "I420 1280x720 30000/1001");
        let caps = Caps::parse("audio/x-raw,format=S16LE,rate=48000,channels=2").unwrap();
        assert_eq!(caps.short(), "S16LE 48000 Hz, 2 ch");
    }

    #[test]
    fn metadata_of_every_kind_is_read() {
        let format = |metadata: &[u8]| {
            let caps = Caps::from_metadata(metadata)?;
            caps.get("format").map(str::to_string)
        };
        for metadata in [
            &b"{\"caps\": \"video/x-raw, format=(string)RGB\", \"type\": 1}"[..],
            b"\"video/x-raw,format=RGB\"",
            b"video/x-raw,format=RGB\0\0",
        ] {
            assert_eq!(format(metadata).as_deref(), Some("RGB"));
        }
    }

    #[test]
    fn what_is_no_caps_says_nothing() {
        for text in ["", "hello", "ANY", "{}", "a b/c", "video/x-raw\x1b[2J"] {
            assert_eq!(Caps::parse(text), None, "{text}");
        }
        assert_eq!(Caps::from_metadata(b"\xff"), None);
        let odd = Caps::parse("video/x-raw,framerate=0/1,width=-1,x=<<<<\"").unwrap();
        assert_eq!(odd.rate("framerate"), None);
    }
}
