//! Text that a peer wrote and GStreamer is to parse.
//!
//! GStreamer's parsers call themselves for each bracket in a bracket, and some of the names that they
//! meet stay in memory for as long as the process lives. So there are limits to both here, and values
//! that they must not be given at all (`values`).

mod values;

use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use gstreamer::glib;

/// Longest text, in bytes.
const LONGEST: usize = 1 << 20;
/// Most brackets that open, since each may stand in the one before.
const MOST_BRACKETS: usize = 1024;
/// Bytes that all peers together may make this process keep as names.
const KEPT: usize = 1 << 20;
/// What keeping a name takes beside its own bytes, about.
const EACH: usize = 64;

static NAMES: Names = Names::new(KEPT);

/// Caps, a structure or the like. `None` if it is not, or goes beyond a limit.
pub fn parse<T: FromStr>(bytes: &[u8]) -> Option<T> {
    let text = text(bytes)?;
    NAMES.admit(words(text), || text.parse().ok())?
}

/// The same for a text that another function, `parse`, hands to GStreamer.
#[cfg(feature = "v1_24")]
pub fn guard<T>(bytes: &[u8], parse: impl FnOnce() -> T) -> Option<T> {
    NAMES.admit(words(text(bytes)?), parse)
}

/// A name that GStreamer keeps for ever.
pub fn name(bytes: &[u8]) -> Option<&str> {
    let text = text(bytes)?;
    let keep = || glib::Quark::from_str(text);
    NAMES.admit([text], keep).map(|_| text)
}

/// Text without zero bytes, not too long, without too many brackets and with safe values.
fn text(bytes: &[u8]) -> Option<&str> {
    // Those that are closed count too: where one ends is a question of quotes and escapes.
    let opening = |byte: &&u8| b"{[<".contains(byte);
    if bytes.len() > LONGEST
        || bytes.contains(&0)
        || bytes.iter().filter(opening).count() > MOST_BRACKETS
    {
        return None;
    }
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| values::are_safe(text))
}

/// All that GStreamer might take for a name.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && !"-_.:+/".contains(c))
        .filter(|word| !word.is_empty())
}

/// How many bytes of names peers may still bring.
struct Names(AtomicUsize);

impl Names {
    const fn new(bytes: usize) -> Self {
        Names(AtomicUsize::new(bytes))
    }

    /// Calls `parse` unless it might add names and there are too many already; then counts which of
    /// the words that nobody knew before are known now.
    fn admit<'a, T>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
        parse: impl FnOnce() -> T,
    ) -> Option<T> {
        let is_known = |word: &&str| glib::Quark::try_from_str(word).is_some();
        let new: Vec<&str> = words.into_iter().filter(|word| !is_known(word)).collect();
        // Relaxed: a number that only this function looks at.
        if !new.is_empty() && self.0.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let parsed = parse();
        let kept: usize = (new.iter().filter(|word| is_known(word)))
            .map(|word| word.len() + EACH)
            .sum();
        let less = |left: usize| Some(left.saturating_sub(kept));
        // It fails only where there is nothing to store.
        let _ = (self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use gstreamer as gst;

    use super::*;

    #[test]
    fn what_gstreamer_writes_is_parsed() {
        gst::init().unwrap();
        let inner = gst::Structure::builder("inner").field("n", 7).build();
        let outer = gst::Structure::builder("outer")
            .field("inner", inner)
            .field("list", gst::List::new([1, 2]))
            .field("text", "with \"quotes\", {brackets and \\")
            .build();
        let text = outer.to_string();
        assert_eq!(parse::<gst::Structure>(text.as_bytes()), Some(outer));
    }

    #[test]
    fn what_may_be_nested_too_deep_is_too_long_or_no_text_is_refused() {
        gst::init().unwrap();
        for (open, close) in [("<", ">"), ("{", "}"), ("[b, a=", "]"), ("<\"}\", ", ">")] {
            let nested = |depth: usize| {
                let text = format!("a, b={}1{}", open.repeat(depth), close.repeat(depth));
                parse::<gst::Structure>(text.as_bytes()).is_some()
            };
            assert!(nested(MOST_BRACKETS), "{open}");
            assert!(!nested(MOST_BRACKETS + 1), "{open}");
        }
        let long = |len: usize| {
            let text = format!("a, b=(string){}", "x".repeat(len - "a, b=(string)".len()));
            parse::<gst::Structure>(text.as_bytes())
        };
        assert!(long(LONGEST).is_some());
        assert!(long(LONGEST + 1).is_none());
        for bytes in [&b"a\0b"[..], b"a\0", b"\xff\xfe", b"", b"a, b="] {
            assert!(parse::<gst::Structure>(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn what_stands_in_brackets_in_base_64_is_not_parsed() {
        gst::init().unwrap();
        let sample = |depth: usize| {
            let caps = format!("a/b, x={}1{}\0", "{".repeat(depth), "}".repeat(depth));
            let caps = glib::base64_encode(caps.as_bytes()).replace('=', "_");
            format!("image/png, x=(sample)0000:{caps}:None:None")
        };
        // So it is written; whoever parses the other does not come back.
        assert!(gst::Caps::from_str(&sample(1)).is_ok());
        assert_eq!(parse::<gst::Caps>(sample(100_000).as_bytes()), None);
    }

    #[test]
    fn names_are_kept_up_to_a_limit() {
        gst::init().unwrap();
        let text = |i: u32| format!("names-are-kept-{i}");
        let names = Names::new(2 * EACH);
        let admit = |i| {
            let text = text(i);
            let keep = || glib::Quark::from_str(&*text);
            names.admit(words(&text), keep).is_some()
        };
        assert!(admit(1) && admit(2));
        assert!(!admit(3), "over the limit");
        assert!(admit(1), "one that is there already costs nothing");
        assert!(glib::Quark::try_from_str(&text(3)).is_none());

        // What is no name to GStreamer costs nothing either.
        let names = Names::new(1);
        for i in 0..100 {
            let value = format!("a={}", text(1000 + i));
            assert!(names.admit(words(&value), || {}).is_some());
        }
    }

    #[test]
    fn a_name_is_any_text_without_zeros() {
        gst::init().unwrap();
        assert_eq!(name(b"a face"), Some("a face"));
        assert_eq!(name(b""), Some(""));
        assert_eq!(name(b"a\0"), None);
        assert_eq!(name(b"\xff"), None);
    }
}
