//! Metas in the form that GStreamer's own functions write: `gst_meta_serialize()`, since 1.24.
//!
//! `u32 length of all, u32 length of the name, name, 0, u8 version, content`. GStreamer's reader
//! computes with the lengths before it has compared them, so they are checked here; what the content
//! is, only the meta's own function knows.

use gst::glib;
use gst::meta::{ByteArrayInterface, tags};
use gstreamer as gst;

use crate::memory::metas::registered;
use crate::peer_text;
use crate::requests;

/// What has a form of its own elsewhere, and is taken in that form only.
const ELSEWHERE: [&str; 4] = [
    "GstVideoMeta",
    "GstVideoCaptionMeta",
    "GstReferenceTimestampMeta",
    "GstAudioMeta",
];

/// Whether metas of a type are about the memory that they came with, which stays behind.
fn is_about_memory(api: glib::Type) -> bool {
    gst::meta::meta_api_type_has_tag::<tags::Memory>(api)
        || gst::meta::meta_api_type_has_tag::<tags::MemoryReference>(api)
}

/// Puts a meta, if GStreamer can write it in at most `most` bytes.
pub fn encode(meta: &gst::MetaRef<gst::Meta>, value: &mut Vec<u8>, most: usize) -> Option<()> {
    if is_about_memory(meta.api())
        || ELSEWHERE.contains(&meta.type_().name())
        || requests::is_mark(meta)
    {
        return None;
    }
    meta.serialize(&mut Limited { value, most }).ok()?;
    Some(())
}

/// Takes a meta of a kind that this process has registered.
pub fn decode(bytes: &[u8], buffer: &mut gst::BufferRef) -> Option<()> {
    let (name, content) = split(bytes)?;
    let known = registered(name)?;
    if is_about_memory(known.api) || ELSEWHERE.contains(&name.as_str()) {
        return None;
    }
    let mut consumed = 0;
    let mut add = || gst::Meta::deserialize(buffer, bytes, &mut consumed).is_ok();
    let added = if known.custom {
        // Text, and a zero byte.
        let (0, text) = content.split_last()? else {
            return None;
        };
        peer_text::guard(text, add)?
    } else {
        add()
    };
    added.then_some(())
}

/// Name and content, if all lengths agree.
fn split(bytes: &[u8]) -> Option<(&glib::GStr, &[u8])> {
    let (all, rest) = bytes.split_first_chunk()?;
    let (name_len, rest) = rest.split_first_chunk()?;
    let end = (u32::from_le_bytes(*name_len) as usize).checked_add(1)?;
    let (name, rest) = rest.split_at_checked(end)?;
    let (_version, content) = rest.split_first()?;
    let complete = u32::from_le_bytes(*all) as usize == bytes.len();
    let name = glib::GStr::from_utf8_with_nul(name).ok()?;
    complete.then_some((name, content))
}

/// A vector that does not grow beyond a limit.
struct Limited<'a> {
    value: &'a mut Vec<u8>,
    most: usize,
}

impl AsMut<[u8]> for Limited<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        self.value
    }
}

impl ByteArrayInterface for Limited<'_> {
    fn initial_len(&self) -> usize {
        self.value.len()
    }

    fn resize(&mut self, size: usize) -> Option<&mut [u8]> {
        if size > self.most {
            return None;
        }
        self.value.resize(size, 0);
        Some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use gstreamer_audio as gst_audio;
    use gstreamer_video as gst_video;

    use super::*;
    use crate::metas::{SERIALIZED, from_records, to_records};
    use crate::protocol::Records;

    const NAME: &str = "ZeroBufferTestCustomMeta";

    /// With a custom meta registered.
    fn init() {
        gst::init().unwrap();
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| gst::meta::CustomMeta::register_simple(NAME));
    }

    fn buffer(add: impl FnOnce(&mut gst::BufferRef)) -> gst::Buffer {
        let mut buffer = gst::Buffer::with_size(1000).unwrap();
        add(buffer.get_mut().unwrap());
        buffer
    }

    fn custom(fields: impl FnOnce(&mut gst::StructureRef)) -> gst::Buffer {
        buffer(|buffer| {
            let mut meta = gst::meta::CustomMeta::add(buffer, NAME).unwrap();
            fields(meta.mut_structure());
        })
    }

    /// In the form that GStreamer writes.
    fn serialized(name: &[u8], content: &[u8]) -> Vec<u8> {
        let all = (8 + name.len() + 2 + content.len()) as u32;
        let lengths = [all, name.len() as u32].map(u32::to_le_bytes).concat();
        [&lengths[..], name, &[0, 0], content].concat()
    }

    fn takes(value: &[u8]) -> bool {
        let records = Records::new().with(SERIALIZED, value);
        let mut left = 0;
        let with = buffer(|buffer| left = from_records(&records, None, buffer));
        let count = with.iter_meta::<gst::Meta>().count();
        assert_eq!(count + left, 1);
        count == 1
    }

    #[test]
    fn custom_metas_arrive_as_they_left() {
        init();
        let inner = gst::Structure::builder("inner").field("n", 7).build();
        let sent = custom(|structure| {
            structure.set("text", "with \"quotes\" and {brackets");
            structure.set("inner", &inner);
            structure.set("list", gst::List::new([1, 2]));
        });
        let mut records = Records::new();
        to_records(&sent, &mut records);
        let kinds: Vec<u16> = records.iter().map(|record| record.kind).collect();
        assert_eq!(kinds, [SERIALIZED]);

        let arrived = buffer(|buffer| assert_eq!(from_records(&records, None, buffer), 0));
        let [sent, arrived] = [&sent, &arrived].map(|buffer| {
            let meta = gst::meta::CustomMeta::from_buffer(buffer, NAME).unwrap();
            meta.structure().to_owned()
        });
        assert_eq!(arrived, sent);
        assert_eq!(arrived.get::<gst::Structure>("inner").unwrap(), inner);
    }

    #[test]
    fn the_form_is_gstreamers() {
        init();
        let sent = custom(|structure| structure.set("n", 7));
        let mut records = Records::new();
        to_records(&sent, &mut records);
        let content = format!("{NAME}, n=(int)7;\0");
        assert_eq!(
            records.get(SERIALIZED).unwrap(),
            serialized(NAME.as_bytes(), content.as_bytes())
        );
    }

    #[test]
    fn what_gstreamer_cannot_write_or_is_too_long_stays_behind() {
        init();
        let sent = |fields: &dyn Fn(&mut gst::StructureRef)| {
            let mut records = Records::new();
            to_records(&custom(fields), &mut records);
            !records.is_empty()
        };
        assert!(sent(
            &|structure| structure.set("short", "x".repeat(1 << 15))
        ));
        assert!(!sent(
            &|structure| structure.set("long", "x".repeat(1 << 16))
        ));
        let element = gst::Bin::new();
        assert!(!sent(&|structure| structure.set("element", &element)));
    }

    #[test]
    fn lengths_that_do_not_agree_are_refused() {
        init();
        let content = format!("{NAME}, n=(int)7;\0");
        let good = serialized(NAME.as_bytes(), content.as_bytes());
        assert!(takes(&good));
        for len in 0..good.len() {
            assert!(!takes(&good[..len]), "{len}");
        }
        assert!(!takes(&[&good[..], b"x"].concat()));
        let with = |at: usize, number: u32| {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&number.to_le_bytes());
            bad
        };
        let all = good.len() as u32;
        for number in [0, 1, all - 1, all + 1, u32::MAX] {
            assert!(!takes(&with(0, number)), "{number}");
        }
        // Those near the largest make GStreamer's own sum wrap round.
        let near = (0..=16).map(|less| u32::MAX - less);
        let name = NAME.len() as u32;
        for number in near.chain([0, 1, name - 1, name + 1, all - 9, all - 8, all]) {
            assert!(!takes(&with(4, number)), "{number}");
        }
    }

    #[test]
    fn names_that_are_unknown_or_have_their_own_form_are_refused() {
        init();
        // They are registered when they are used for the first time.
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Gray8, 8, 8);
        let info = info.build().unwrap();
        let audio = gst_audio::AudioInfo::builder(gst_audio::AudioFormat::S16le, 48000, 1);
        let audio = audio.build().unwrap();
        let known = buffer(|buffer| {
            let flags = gst_video::VideoFrameFlags::empty();
            gst_video::VideoMeta::add(buffer, flags, info.format(), 8, 8).unwrap();
            gst_audio::AudioMeta::add(buffer, &audio, 1, &[]).unwrap();
            let reference = gst::Caps::new_empty_simple("timestamp/x-ntp");
            gst::ReferenceTimestampMeta::add(buffer, &reference, gst::ClockTime::ZERO, None);
            let type_ = gst_video::VideoCaptionType::Cea608Raw;
            gst_video::VideoCaptionMeta::add(buffer, type_, b"x");
            gst::ParentBufferMeta::add(buffer, &gst::Buffer::new());
        });
        for meta in known.iter_meta::<gst::Meta>() {
            let name = meta.type_().name();
            assert!(registered(glib::GString::from(name).as_gstr()).is_some());
            for content in [&b""[..], &[0; 17], &[0; 200], &[255; 200]] {
                assert!(!takes(&serialized(name.as_bytes(), content)), "{name}");
            }
        }
        for name in ["", "GstNoSuchMeta", "GObject"] {
            assert!(!takes(&serialized(name.as_bytes(), b"a;\0")), "{name}");
        }
        assert!(!takes(&serialized(b"ZeroBuffer\0TestCustomMeta", b"a;\0")));
        assert!(!takes(&serialized(b"\xff", b"a;\0")));
    }

    #[test]
    fn content_that_is_no_structure_is_refused() {
        init();
        let content = |content: &[u8]| takes(&serialized(NAME.as_bytes(), content));
        assert!(content(b"a, b=1;\0"));
        for bad in [
            &b""[..],
            b"a, b=1;",
            b"\0",
            b"a, b=\0",
            b"a\0b\0",
            b"\xff\0",
        ] {
            assert!(!content(bad), "{bad:?}");
        }
        let nested = format!("a, b={}1{};\0", "<".repeat(30_000), ">".repeat(30_000));
        assert!(!content(nested.as_bytes()));
    }
}
