//! Events that mean something to who receives the stream, as records in the order of the frames.
//!
//! Those that belong to a pipeline (STREAM_START, CAPS, SEGMENT, EOS, flushes) are made anew at the
//! other end; see `docs/protocol.md`, "Records of the elements".

use gst::prelude::*;
use gstreamer as gst;

use crate::peer_text;
use crate::protocol::{FIRST_USER_KIND, Records};

/// Kinds of records.
mod kind {
    use super::FIRST_USER_KIND;

    /// u64 CLOCK_MONOTONIC of its beginning, u64 PTS, u64 duration; 2⁶⁴−1: none.
    pub const GAP: u16 = FIRST_USER_KIND + 32;
    /// Text: a tag list as `gst_tag_list_to_string()` writes it.
    pub const TAGS: u16 = FIRST_USER_KIND + 33;
    /// Text: the structure of a custom downstream event, as `gst_structure_to_string()` writes it.
    pub const CUSTOM: u16 = FIRST_USER_KIND + 34;
    /// The same of a sticky one.
    pub const CUSTOM_STICKY: u16 = FIRST_USER_KIND + 35;
}

/// Texts that are longer do not travel: a picture of a cover is no reason to stop the video.
const LONGEST: usize = 64 << 10;
const NONE: u64 = u64::MAX;
/// What GStreamer's latency tracer sends through a pipeline begins its names like this. Its times are
/// those of one process.
const PROBES: [&str; 2] = ["latency_probe", "sub_latency_probe"];

/// An event as a record; false if it is none that travels. `monotonic` is when a GAP begins.
pub fn to_record(
    event: &gst::EventRef,
    monotonic: impl Fn(gst::ClockTime) -> Option<u64>,
    records: &mut Records,
) -> bool {
    let text = |records: &mut Records, kind, text: &str| {
        let fits = text.len() <= LONGEST;
        if fits {
            records.push(kind, text.as_bytes());
        }
        fits
    };
    match event.view() {
        gst::EventView::Gap(gap) => {
            let (pts, duration) = gap.get();
            let duration = duration.map_or(NONE, gst::ClockTime::nseconds);
            let mut value = [0; 24];
            let numbers = [monotonic(pts).unwrap_or(NONE), pts.nseconds(), duration];
            for (to, number) in value.chunks_exact_mut(8).zip(numbers) {
                to.copy_from_slice(&number.to_le_bytes());
            }
            records.push(kind::GAP, &value);
            true
        }
        gst::EventView::Tag(tag) => {
            let tags = without_samples(tag.tag());
            tags.n_tags() > 0 && text(records, kind::TAGS, &tags.to_string())
        }
        gst::EventView::CustomDownstream(_) => (event.structure())
            .filter(|it| !PROBES.iter().any(|probe| it.name().starts_with(probe)))
            .is_some_and(|structure| text(records, kind::CUSTOM, &structure.to_string())),
        gst::EventView::CustomDownstreamSticky(_) => (event.structure())
            .is_some_and(|structure| text(records, kind::CUSTOM_STICKY, &structure.to_string())),
        _ => false,
    }
}

/// The tags that a peer takes: no pictures and other private things (see `peer_text`).
fn without_samples(tags: &gst::TagListRef) -> gst::TagList {
    let mut left = tags.to_owned();
    for (name, _) in tags.iter_generic() {
        if gst::tags::tag_get_type(name) == gst::Sample::static_type() {
            left.make_mut().remove_generic(name);
        }
    }
    left
}

/// Those that are true only once, where they stand.
pub fn without_sticky(records: &Records) -> Records {
    let mut passing = Records::new();
    for record in records.iter() {
        if !matches!(record.kind, kind::TAGS | kind::CUSTOM_STICKY) {
            passing.push(record.kind, record.value);
        }
    }
    passing
}

/// The events among records, in order. What makes no sense is left out.
pub fn from_records<'a>(
    records: &'a Records,
    time: impl Fn(Option<u64>, gst::ClockTime) -> gst::ClockTime + 'a,
) -> impl Iterator<Item = gst::Event> + 'a {
    records.iter().filter_map(move |record| {
        let structure = || peer_text::parse::<gst::Structure>(record.value);
        match record.kind {
            kind::GAP => {
                let mut numbers = record.value.chunks_exact(8).map(|number| {
                    let number = number.try_into().map_or(NONE, u64::from_le_bytes);
                    Some(number).filter(|number| *number != NONE)
                });
                let monotonic = numbers.next()?;
                let pts = numbers.next()?.map(gst::ClockTime::from_nseconds)?;
                let duration = numbers.next()?.map(gst::ClockTime::from_nseconds);
                let gap = gst::event::Gap::builder(time(monotonic, pts));
                Some(gap.duration(duration).build())
            }
            kind::TAGS => Some(gst::event::Tag::new(tags(structure()?.as_ref())?)),
            kind::CUSTOM => Some(gst::event::CustomDownstream::new(structure()?)),
            kind::CUSTOM_STICKY => Some(gst::event::CustomDownstreamSticky::new(structure()?)),
            _ => None,
        }
    })
}

/// The text form of a tag list is that of a structure.
fn tags(structure: &gst::StructureRef) -> Option<gst::TagList> {
    let mut tags = gst::TagList::new();
    for (name, value) in structure.iter() {
        if !gst::tags::tag_exists(name) {
            return None;
        }
        let list = value.get::<gst::List>();
        let values = match &list {
            Ok(list) => list.as_slice().to_vec(),
            Err(_) => vec![value.clone()],
        };
        for value in values {
            let added = tags
                .make_mut()
                .add_value(name, &value, gst::TagMergeMode::Append);
            added.ok()?;
        }
    }
    (tags.n_tags() > 0).then_some(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(event: &gst::Event) -> Vec<gst::Event> {
        let mut records = Records::new();
        to_record(event, |pts| Some(pts.nseconds() + 7), &mut records);
        from_records(&records, |monotonic, _| {
            gst::ClockTime::from_nseconds(monotonic.unwrap())
        })
        .collect()
    }

    #[test]
    fn events_that_mean_something_travel() {
        gst::init().unwrap();
        let mut tags = gst::TagList::new();
        let edit = tags.make_mut();
        edit.add::<gst::tags::Title>(&"a \"name\", = ü", gst::TagMergeMode::Append);
        // A picture stays here, what else there is goes on.
        let mut more = tags.clone();
        let picture = gst::Sample::builder()
            .buffer(&gst::Buffer::from_slice([1]))
            .build();
        (more.make_mut()).add::<gst::tags::Image>(&picture, gst::TagMergeMode::Append);
        let tag = gst::event::Tag::new(more);
        let [back] = &there_and_back(&tag)[..] else {
            panic!("not one")
        };
        let gst::EventView::Tag(back) = back.view() else {
            panic!("{back:?}")
        };
        assert_eq!(back.tag_owned(), tags);

        let structure = gst::Structure::builder("force-key-unit")
            .field("count", 3_u32)
            .field("text", "ä, ;\"")
            .build();
        for event in [
            gst::event::CustomDownstream::new(structure.clone()),
            gst::event::CustomDownstreamSticky::new(structure.clone()),
        ] {
            let [back] = &there_and_back(&event)[..] else {
                panic!("not one")
            };
            assert_eq!(back.type_(), event.type_());
            assert_eq!(back.structure().unwrap(), structure.as_ref());
        }

        let gap = gst::event::Gap::builder(gst::ClockTime::SECOND)
            .duration(gst::ClockTime::MSECOND)
            .build();
        let [back] = &there_and_back(&gap)[..] else {
            panic!("not one")
        };
        let gst::EventView::Gap(back) = back.view() else {
            panic!("{back:?}")
        };
        let begin = gst::ClockTime::from_nseconds(1_000_000_007);
        assert_eq!(back.get(), (begin, Some(gst::ClockTime::MSECOND)));
    }

    #[test]
    fn other_events_stay_and_nonsense_is_left_out() {
        gst::init().unwrap();
        assert!(there_and_back(&gst::event::Eos::new()).is_empty());
        let long = gst::Structure::builder("long")
            .field("text", "x".repeat(LONGEST))
            .build();
        assert!(there_and_back(&gst::event::CustomDownstream::new(long)).is_empty());
        let mut records = Records::new();
        for kind in kind::GAP..=kind::CUSTOM_STICKY {
            for value in [&b""[..], b"\xff\xff", b"no, structure=(", &[0xff; 24]] {
                records.push(kind, value);
            }
        }
        records.push(kind::TAGS, b"taglist, no-such-tag=x");
        let events = from_records(&records, |_, pts| pts);
        assert_eq!(events.count(), 0);
    }
}
