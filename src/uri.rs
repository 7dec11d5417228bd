//! Addresses of buffers: `zerobuffer://NAME?property=value&…`, for sink and source.
//!
//! Bytes of a name or value that mean something in an address are written as `%` and two
//! hexadecimal digits. What may stand behind the `?` is the element's own properties.

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

use crate::protocol::check_name;

pub const SCHEME: &str = "zerobuffer";

const NAME: &str = "buffer-name";
/// Properties of the base classes that may stand in an address, beside those of our own.
const INHERITED: [&str; 1] = ["sync"];

/// The address of a buffer.
pub fn of_name(name: &str) -> String {
    format!("{SCHEME}://{}", escape(name))
}

/// The address that sets an element like this one: its buffer, and what is not as by default.
/// `None` without a name.
pub fn of_element(element: &gst::Element) -> Option<String> {
    let name: Option<String> = element.property(NAME);
    let mut uri = of_name(&name?);
    let mut mark = '?';
    for property in settable(element) {
        let text = element.property_value(property.name()).serialize().ok();
        let default = property.default_value().serialize().ok();
        if let Some(text) = text.filter(|text| default.as_ref() != Some(text)) {
            uri.push_str(&format!("{mark}{}={}", property.name(), escape(&text)));
            mark = '&';
        }
    }
    Some(uri)
}

/// Sets an element as an address says. An address that is wrong somewhere changes nothing.
pub fn apply(element: &gst::Element, uri: &str) -> Result<(), glib::Error> {
    if element.current_state() > gst::State::Ready {
        return Err(glib::Error::new(
            gst::URIError::BadState,
            "The address can only change in the states NULL and READY",
        ));
    }
    let properties = settable(element);
    let (name, values) = parse(uri, &properties).map_err(|why| {
        let text = format!("{uri}: {why}");
        glib::Error::new(gst::URIError::BadUri, &text)
    })?;
    element.set_property(NAME, name);
    for (property, value) in values {
        element.set_property_from_value(property.name(), &value);
    }
    Ok(())
}

/// The properties that may stand in an address.
fn settable(element: &gst::Element) -> Vec<glib::ParamSpec> {
    let own = |property: &glib::ParamSpec| property.owner_type() == element.type_();
    let mut properties = element.list_properties().to_vec();
    properties.retain(|property| {
        let known = own(property) || INHERITED.contains(&property.name());
        known && property.flags().contains(glib::ParamFlags::WRITABLE) && property.name() != NAME
    });
    properties
}

type Values<'a> = Vec<(&'a glib::ParamSpec, glib::Value)>;

fn parse<'a>(uri: &str, properties: &'a [glib::ParamSpec]) -> Result<(String, Values<'a>), String> {
    let rest = match uri.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
        _ => return Err(format!("not an address of the form {SCHEME}://NAME")),
    };
    if rest.contains('#') {
        return Err("it has a # in it: write %23".into());
    }
    let (host, query) = match rest.split_once('?') {
        Some((host, query)) => (host, query),
        None => (rest, ""),
    };
    // Some programs add an empty path.
    let host = host.strip_suffix('/').unwrap_or(host);
    if host.contains('/') {
        return Err("it has a path, but the name of a buffer has no slash".into());
    }
    let name = unescape(host)?;
    check_name(&name).map_err(|err| err.to_string())?;

    let mut values: Values = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, text) = part
            .split_once('=')
            .ok_or_else(|| format!("'{part}' behind the ? is not of the form property=value"))?;
        let (key, text) = (unescape(key)?, unescape(text)?);
        let property = properties.iter().find(|property| property.name() == key);
        let property = property.ok_or_else(|| {
            let known: Vec<&str> = properties.iter().map(|known| known.name()).collect();
            format!(
                "there is no parameter {key}; known are: {}",
                known.join(", ")
            )
        })?;
        if values.iter().any(|(there, _)| there.name() == key) {
            return Err(format!("{key} stands there twice"));
        }
        values.push((property, value_of(property, &text)?));
    }
    Ok((name, values))
}

/// A property's value as gst-launch-1.0 would read it.
fn value_of(property: &glib::ParamSpec, text: &str) -> Result<glib::Value, String> {
    let wrong = |why| format!("{}={text}: {why}", property.name());
    let value = glib::Value::deserialize_with_pspec(text, property)
        .map_err(|_| wrong(format!("not a value of type {}", property.value_type())))?;
    match range(property) {
        Some((least, most)) if !number(&value).is_some_and(|it| (least..=most).contains(&it)) => {
            Err(wrong(format!("not from {least} to {most}")))
        }
        _ => Ok(value),
    }
}

/// What a number may be; a larger one would be taken for the largest.
fn range(property: &glib::ParamSpec) -> Option<(u64, u64)> {
    if let Some(property) = property.downcast_ref::<glib::ParamSpecUInt>() {
        return Some((property.minimum().into(), property.maximum().into()));
    }
    let property = property.downcast_ref::<glib::ParamSpecUInt64>()?;
    Some((property.minimum(), property.maximum()))
}

fn number(value: &glib::Value) -> Option<u64> {
    value
        .get::<u64>()
        .or(value.get::<u32>().map(u64::from))
        .ok()
}

fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}

fn unescape(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(format!(
                "'{text}' has a % that is not followed by two hexadecimal digits"
            ));
        };
        out.push((high * 16 + low) as u8);
    }
    match String::from_utf8(out) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(format!("'{text}' is not text in UTF-8")),
    }
}
