//! What a stream is, as metadata in the ring: the JSON form that RocketWelder's SDK reads.
//!
//! `{"type": …, "version": "GStreamer 1.22.0", "caps": …, "element_name": …}`, the caps as
//! `gst_caps_to_string()` writes them, with all types spelled out. See `docs/protocol.md`,
//! "Metadata of a GStreamer stream".

use gstreamer as gst;
use gstreamer_video as gst_video;
use serde_json::{Value, json};

use crate::frame_prefix::FramePrefix;
use crate::peer_text;

/// In the JSON object: what is in front of the pixels of each frame. Nobody else looks at it.
const PREFIX_KEY: &str = "frame_prefix";

/// Caps as metadata, and what is in front of the frames.
pub fn to_metadata(caps: &gst::CapsRef, element_name: &str, prefix: FramePrefix) -> Vec<u8> {
    let (major, minor, micro, _) = gst::version();
    let media_type = caps.structure(0).map_or("", |structure| structure.name());
    let mut object = json!({
        "type": media_type,
        "version": format!("GStreamer {major}.{minor}.{micro}"),
        "caps": caps.to_string(),
        "element_name": element_name,
    });
    if prefix != FramePrefix::None {
        object[PREFIX_KEY] = prefix.nick().into();
    }
    object.to_string().into_bytes()
}

/// What is in front of the pixels of each frame, if the metadata tells.
pub fn to_prefix(metadata: &[u8]) -> FramePrefix {
    let object = text(metadata).and_then(|text| serde_json::from_str::<Value>(text).ok());
    object
        .as_ref()
        .and_then(|object| object.get(PREFIX_KEY)?.as_str())
        .and_then(FramePrefix::from_nick)
        .unwrap_or_default()
}

/// Metadata as a text.
fn text(metadata: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(metadata).ok()?;
    // Fixed-size fields of other writers are padded with zeros.
    Some(text.trim_matches(|c: char| c == '\0' || c.is_whitespace()))
}

/// The caps that metadata gives: a JSON object with a string `caps`, or a bare caps string. The
/// error says what is there instead.
pub fn to_caps(metadata: &[u8]) -> Result<gst::Caps, String> {
    let text = text(metadata).ok_or("metadata that is not text")?;
    let caps = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) => match object.get("caps") {
            Some(Value::String(caps)) => caps.clone(),
            _ => {
                return Err(format!(
                    "metadata without a string \"caps\": {}",
                    short(text)
                ));
            }
        },
        Ok(Value::String(caps)) => caps,
        _ => text.to_string(),
    };
    parse_caps(&caps)
}

/// Fixed caps from a text. The error says what is there instead.
pub fn parse_caps(caps: &str) -> Result<gst::Caps, String> {
    // GStreamer takes any word for a media type; all that there are have a slash.
    let typed = |caps: &gst::Caps| caps.iter().all(|structure| structure.name().contains('/'));
    match peer_text::parse::<gst::Caps>(caps.as_bytes()) {
        Some(parsed) if parsed.is_fixed() && typed(&parsed) => Ok(parsed),
        Some(parsed) if typed(&parsed) => Err(format!("caps that leave a choice: {}", short(caps))),
        _ => Err(format!("metadata that is no caps: {}", short(caps))),
    }
}

/// Enough of a foreign text to recognise it by.
fn short(text: &str) -> String {
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// How raw video of these caps lies in memory by default; `None` for everything else.
pub fn raw_video(caps: &gst::CapsRef) -> Option<gst_video::VideoInfo> {
    gst_video::VideoInfo::from_caps(caps)
        .ok()
        .filter(|info| info.format() != gst_video::VideoFormat::Encoded)
}

/// Whether a buffer of these caps is plain bytes in memory that a peer can read: no other caps
/// features than system memory.
pub fn is_plain_memory(features: Option<&gst::CapsFeaturesRef>) -> bool {
    features.is_none_or(|features| {
        let only = |count| !features.is_any() && features.size() == count;
        only(0) || only(1) && features.contains(gst::CAPS_FEATURE_MEMORY_SYSTEM_MEMORY)
    })
}

/// The part of `caps` that can be plain memory.
pub fn in_plain_memory(caps: &gst::CapsRef) -> gst::Caps {
    caps.iter_with_features()
        .filter(|(_, features)| features.is_any() || is_plain_memory(Some(features)))
        .map(|(structure, _)| structure.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn caps_travel_in_the_form_that_rocketwelder_reads() {
        gst::init().unwrap();
        let caps =
            gst::Caps::from_str("video/x-raw,format=RGB,width=640,height=480,framerate=30/1")
                .unwrap();
        let metadata = to_metadata(&caps, "sink0", FramePrefix::None);
        let json: Value = serde_json::from_slice(&metadata).unwrap();
        assert_eq!(
            json["caps"],
            "video/x-raw, format=(string)RGB, width=(int)640, height=(int)480, \
             framerate=(fraction)30/1"
        );
        assert_eq!(json["element_name"], "sink0");
        assert!(
            json["version"]
                .as_str()
                .unwrap()
                .starts_with("GStreamer 1.")
        );
        assert_eq!(json.as_object().unwrap().len(), 4);
        assert_eq!(to_caps(&metadata).unwrap(), caps);
        assert_eq!(to_prefix(&metadata), FramePrefix::None);
        let metadata = to_metadata(&caps, "sink0", FramePrefix::RocketWelder);
        assert_eq!(to_caps(&metadata).unwrap(), caps);
        assert_eq!(to_prefix(&metadata), FramePrefix::RocketWelder);
    }

    #[test]
    fn only_a_prefix_that_is_known_is_believed() {
        for metadata in [
            &b"{\"frame_prefix\":\"other\"}"[..],
            b"{\"frame_prefix\":24}",
            b"[\"frame_prefix\",\"rocket-welder\"]",
            b"\"rocket-welder\"",
            b"rocket-welder",
            b"\xff",
            b"",
        ] {
            assert_eq!(to_prefix(metadata), FramePrefix::None, "{metadata:?}");
        }
    }

    #[test]
    fn other_writers_forms_are_read() {
        gst::init().unwrap();
        let caps = gst::Caps::from_str("audio/x-raw,format=S16LE,rate=44100,channels=2").unwrap();
        for metadata in [
            "audio/x-raw,format=S16LE,rate=44100,channels=2",
            "\"audio/x-raw,format=S16LE,rate=44100,channels=2\"",
            "{\"caps\":\"audio/x-raw,format=S16LE,rate=44100,channels=2\"}\0\0\0",
        ] {
            assert_eq!(to_caps(metadata.as_bytes()).unwrap(), caps, "{metadata}");
        }
    }

    #[test]
    fn what_is_no_caps_is_told() {
        gst::init().unwrap();
        // Deeper than any stack.
        let nested = format!("video/x-raw,a={}", "<".repeat(500_000)).into_bytes();
        for (metadata, why) in [
            (&b"\xff\xfe"[..], "not text"),
            (b"{}", "without a string \"caps\""),
            (b"{\"caps\":7}", "without a string \"caps\""),
            (b"hello world", "no caps"),
            (b"hello", "no caps"),
            (b"", "leave a choice"),
            (b"ANY", "leave a choice"),
            (b"EMPTY", "leave a choice"),
            (b"video/x-raw,width=[1,2]", "leave a choice"),
            (b"video/x-raw\0,width=1", "no caps"),
            (&nested, "no caps"),
        ] {
            let err = to_caps(metadata).unwrap_err();
            assert!(err.contains(why), "{err}");
        }
    }
}
