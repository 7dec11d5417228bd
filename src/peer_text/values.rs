//! Values that GStreamer's parsers do not survive, or whose text they hide from our limits.
//!
//! * A buffer whose text is not hexadecimal: `gst_value_deserialize_buffer()` gives it back before it
//!   unmaps it, so what it reads then is anyone's, and the memory stays for ever (1.22).
//! * A sample: it is a buffer, and caps that are written in base 64, with brackets that nobody counts.

use std::collections::HashSet;

/// A text in quotes in a text in quotes and so on has one escape less each time. What GStreamer
/// writes is rarely in more than two.
const MOST_FORMS: usize = 32;

/// Whether GStreamer may be given this text. Whatever might be read as one of these values counts,
/// in quotes or not.
pub fn are_safe(text: &str) -> bool {
    let mut forms = HashSet::from([text.as_bytes().to_vec()]);
    let mut next: Vec<Vec<u8>> = forms.iter().cloned().collect();
    while let Some(form) = next.pop() {
        if !is_safe(&form) {
            return false;
        }
        if !form.contains(&b'\\') {
            continue;
        }
        // GStreamer has both kinds of quotes: with numbers for characters, and without.
        for numbers in [true, false] {
            let inner = without_escapes(&form, numbers);
            if forms.insert(inner.clone()) {
                next.push(inner);
            }
        }
        if forms.len() > MOST_FORMS {
            return false;
        }
    }
    true
}

/// One level of escapes less (`gst_string_unwrap()`).
fn without_escapes(text: &[u8], numbers: bool) -> Vec<u8> {
    let mut inner = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'\\' {
            inner.push(first);
            continue;
        }
        match rest {
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                behind @ ..,
            ] if numbers => {
                inner.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = behind;
            }
            [escaped, behind @ ..] => {
                inner.push(*escaped);
                rest = behind;
            }
            [] => {}
        }
    }
    inner
}

/// Whether no type in brackets is followed by what its parser must not be given.
fn is_safe(text: &[u8]) -> bool {
    let mut types = text.iter().enumerate().filter(|(_, byte)| **byte == b'(');
    types.all(|(at, _)| {
        let rest = skip(&text[at + 1..], is_between);
        let (name, rest) = rest.split_at(word(rest));
        let rest = skip(rest, is_between);
        match (name, rest.strip_prefix(b")")) {
            (b"buffer" | b"GstBuffer", Some(value)) => is_hexadecimal(skip(value, is_between)),
            (b"sample" | b"GstSample", Some(_)) => false,
            _ => true,
        }
    })
}

/// Whether the value that a text begins with, or all of the list, is hexadecimal.
fn is_hexadecimal(text: &[u8]) -> bool {
    match text.split_first() {
        Some((b'{' | b'<' | b'[', _)) => {
            let (mut open, mut rest) = (0_usize, text);
            while let Some((&first, behind)) = rest.split_first() {
                match first {
                    b'{' | b'<' | b'[' => open += 1,
                    b'}' | b'>' | b']' => open -= 1,
                    // What escapes nothing in this form does in the next.
                    b',' | b' ' | b'\\' => {}
                    _ if first.is_ascii_hexdigit() => {}
                    _ => return false,
                }
                if open == 0 {
                    return true;
                }
                rest = behind;
            }
            false
        }
        Some((b'"', quoted)) => {
            let behind = skip(quoted, |byte| byte.is_ascii_hexdigit());
            behind.starts_with(b"\"")
        }
        _ => text[..word(text)].iter().all(u8::is_ascii_hexdigit),
    }
}

/// How many bytes of a word a text begins with: what needs no quotes.
fn word(text: &[u8]) -> usize {
    let is_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-+/:.".contains(byte);
    let end = text.iter().position(|byte| !is_of_word(byte));
    end.unwrap_or(text.len())
}

/// What may stand around a type and its brackets.
fn is_between(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b || byte == b'\\'
}

fn skip(text: &[u8], which: impl Fn(u8) -> bool) -> &[u8] {
    let end = text.iter().position(|byte| !which(*byte));
    &text[end.unwrap_or(text.len())..]
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use gstreamer as gst;

    use super::*;

    #[test]
    fn what_gstreamer_writes_is_safe() {
        gst::init().unwrap();
        let buffer = || gst::Buffer::from_slice([1, 0xab, 3]);
        let caps = gst::Caps::builder("video/x-h264")
            .field("codec_data", buffer())
            .field("streamheader", gst::Array::new([buffer(), buffer()]))
            .field("text", "\"Größe\"; \\ 7, (string)x")
            .build();
        let inner = gst::Structure::builder("inner").field("caps", &caps);
        let outer = gst::Structure::builder("outer").field("inner", inner.build());
        for text in [caps.to_string(), outer.build().to_string()] {
            assert!(are_safe(&text), "{text}");
        }
        assert_eq!(gst::Caps::from_str(&caps.to_string()).unwrap(), caps);
    }

    #[test]
    fn what_is_no_buffer_and_all_samples_are_refused() {
        for value in [
            "(buffer)zz",
            "(buffer)0z",
            "(GstBuffer)io/x",
            "( buffer\t)zz",
            "(buffer) zz",
            "(buffer)\"ab  cd\"",
            "(buffer)\"zz\"",
            "(buffer){ 00, zz }",
            "(buffer)< 00, \"zz\" >",
            "(buffer)<",
            "(sample)00:None:None:None",
            "(GstSample)\"\"",
            "(structure)\"b\\,\\ c\\=\\(buffer\\)zz\"",
            "(structure)\"b\\,\\ c\\=\\(b\\uffer\\)zz\"",
            "(structure)\"b\\,\\ c\\=\\(\\142uffer\\)zz\"",
            "(structure)\"b, c=(structure)\\\"d, e=(\\\\142uffer)zz\\\"\"",
        ] {
            assert!(!are_safe(&format!("a, b={value}")), "{value}");
        }
        for value in [
            "(buffer)00aB",
            "(buffer)\"00aB\"",
            "(buffer)",
            "(buffer)< 00, 01 >; b",
            "(buffered)zz",
            "(string)\"Gr\\303\\266\\303\\237e\"",
        ] {
            assert!(are_safe(&format!("a, b={value}")), "{value}");
        }
        let deep = "\\".repeat(1 << 12);
        assert!(are_safe(&deep), "half as many each time");
    }
}
