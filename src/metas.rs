//! What a buffer has along beside its bytes and times: metas, as records in front of their frame.
//!
//! Each meta is a record, in their order. Those that GStreamer has no bytes for, and those whose
//! bytes it reads without care, have a form of our own. See `docs/protocol.md`, "Metas".
//!
//! A record may come from anybody. It is checked here against the stream's caps and the buffer's
//! size before GStreamer sees it, since elements trust what a meta says.

mod bytes;
#[cfg(feature = "v1_24")]
mod serialized;

use gst::glib;
use gstreamer as gst;
use gstreamer_audio as gst_audio;
use gstreamer_video as gst_video;

use self::bytes::{Bytes, NONE, put_rectangle, put_text, put_u32, put_u64};
use crate::memory::metas::region_type;
use crate::peer_text;
use crate::protocol::{Record, Records};

/// `GstVideoCropMeta`.
pub const CROP: u16 = 80;
/// `GstVideoRegionOfInterestMeta`.
pub const REGION: u16 = 81;
/// `GstReferenceTimestampMeta`.
pub const REFERENCE_TIME: u16 = 82;
/// `GstVideoTimeCodeMeta`.
pub const TIME_CODE: u16 = 83;
/// `GstVideoCaptionMeta`.
pub const CAPTION: u16 = 84;
/// `GstAudioMeta`.
pub const AUDIO: u16 = 85;
/// Any other, in GStreamer's own form: only with the feature `v1_24`.
pub const SERIALIZED: u16 = 86;

/// Bytes of all metas of a frame. What does not fit is left out: it must not hold up the frame.
const MOST_BYTES: usize = 1 << 16;
/// Metas of a frame.
const MOST_METAS: usize = 1024;
/// Parameters of a region of interest. GStreamer walks through those that it has to add one.
const MOST_PARAMS: usize = 64;
/// Planes of audio. They are compared with each other.
const MOST_PLANES: usize = 1024;

/// The caption types by their numbers.
const CAPTION_TYPES: [(u32, gst_video::VideoCaptionType); 4] = [
    (1, gst_video::VideoCaptionType::Cea608Raw),
    (2, gst_video::VideoCaptionType::Cea608S3341a),
    (3, gst_video::VideoCaptionType::Cea708Raw),
    (4, gst_video::VideoCaptionType::Cea708Cdp),
];

/// Adds the metas of a buffer to its records, as far as they can travel. `GstVideoMeta` is left to
/// the frame's layout.
pub fn to_records(buffer: &gst::BufferRef, records: &mut Records) {
    let (mut bytes, mut count) = (0, 0);
    let mut value = Vec::new();
    for meta in buffer.iter_meta::<gst::Meta>() {
        value.clear();
        let Some(kind) = encode(&meta, &mut value) else {
            continue;
        };
        if count < MOST_METAS && bytes + value.len() <= MOST_BYTES {
            records.push(kind, &value);
            bytes += value.len();
            count += 1;
        }
    }
}

/// Adds to a buffer the metas that came in its records. `caps` are the stream's. Returns how many
/// records there were that could not be taken: they are wrong, or this process does not know them.
pub fn from_records(
    records: &Records,
    caps: Option<&gst::CapsRef>,
    buffer: &mut gst::BufferRef,
) -> usize {
    let (mut taken, mut left) = (0, 0);
    for record in records.iter() {
        if !(CROP..=SERIALIZED).contains(&record.kind) {
            continue;
        }
        if taken < MOST_METAS && decode(&record, caps, buffer).is_some() {
            taken += 1;
        } else {
            left += 1;
        }
    }
    left
}

/// The metas among these records that are not among those.
pub fn others(records: &Records, those: &Records) -> Records {
    let mut others = Records::new();
    for record in records.iter() {
        let is_same = |other: Record| (other.kind, other.value) == (record.kind, record.value);
        if (CROP..=SERIALIZED).contains(&record.kind) && !those.iter().any(is_same) {
            others.push(record.kind, record.value);
        }
    }
    others
}

/// A meta as a record: puts the value, returns the kind.
fn encode(meta: &gst::MetaRef<gst::Meta>, value: &mut Vec<u8>) -> Option<u16> {
    let kind = if let Some(meta) = meta.downcast_ref::<gst_video::VideoCropMeta>() {
        put_rectangle(value, meta.rect());
        CROP
    } else if let Some(meta) = meta.downcast_ref::<gst_video::VideoRegionOfInterestMeta>() {
        encode_region(meta, value)?;
        REGION
    } else if let Some(meta) = meta.downcast_ref::<gst::ReferenceTimestampMeta>() {
        put_u64(value, meta.timestamp().nseconds());
        put_u64(value, meta.duration().map_or(NONE, |it| it.nseconds()));
        value.extend(meta.reference().to_string().as_bytes());
        REFERENCE_TIME
    } else if let Some(meta) = meta.downcast_ref::<gst_video::VideoTimeCodeMeta>() {
        encode_time_code(&meta.tc(), value)?;
        TIME_CODE
    } else if let Some(meta) = meta.downcast_ref::<gst_video::VideoCaptionMeta>() {
        let type_ = meta.caption_type();
        let (number, _) = CAPTION_TYPES.iter().find(|(_, it)| *it == type_)?;
        put_u32(value, *number);
        value.extend(meta.data());
        CAPTION
    } else if let Some(meta) = meta.downcast_ref::<gst_audio::AudioMeta>() {
        put_u64(value, meta.samples() as u64);
        (meta.offsets().iter()).for_each(|offset| put_u64(value, *offset as u64));
        AUDIO
    } else {
        #[cfg(feature = "v1_24")]
        serialized::encode(meta, value, MOST_BYTES)?;
        #[cfg(not(feature = "v1_24"))]
        return None;
        #[cfg(feature = "v1_24")]
        SERIALIZED
    };
    Some(kind)
}

/// A record as a meta. `None` if it is not taken.
fn decode(
    record: &Record<'_>,
    caps: Option<&gst::CapsRef>,
    buffer: &mut gst::BufferRef,
) -> Option<()> {
    let mut value = Bytes(record.value);
    match record.kind {
        CROP => {
            let (x, y, width, height) = value.rectangle()?;
            let (frame_width, frame_height) = frame_size(caps?)?;
            let inside = |at: u32, len: u32, all: u32| {
                len > 0 && at.checked_add(len).is_some_and(|end| end <= all)
            };
            if !inside(x, width, frame_width) || !inside(y, height, frame_height) {
                return None;
            }
            gst_video::VideoCropMeta::add(buffer, (x, y, width, height));
        }
        REGION => decode_region(value, frame_size(caps?)?, buffer)?,
        REFERENCE_TIME => {
            let (timestamp, duration) = (value.time()?, value.time()?);
            let reference: gst::Caps = peer_text::parse(value.0)?;
            gst::ReferenceTimestampMeta::add(buffer, &reference, timestamp?, duration);
        }
        TIME_CODE => {
            gst_video::VideoTimeCodeMeta::add(buffer, &decode_time_code(value)?);
        }
        CAPTION => {
            let number = value.u32()?;
            let (_, type_) = CAPTION_TYPES.iter().find(|(it, _)| *it == number)?;
            let data = Some(value.0).filter(|data| !data.is_empty())?;
            gst_video::VideoCaptionMeta::add(buffer, *type_, data);
        }
        AUDIO => decode_audio(value, caps?, buffer)?,
        #[cfg(feature = "v1_24")]
        SERIALIZED => serialized::decode(record.value, buffer)?,
        _ => return None,
    }
    Some(())
}

/// How large the frames of a stream are.
fn frame_size(caps: &gst::CapsRef) -> Option<(u32, u32)> {
    let structure = caps.structure(0)?;
    let number = |field| u32::try_from(structure.get::<i32>(field).ok()?).ok();
    Some((number("width")?, number("height")?))
}

fn encode_region(
    meta: &gst::MetaRef<gst_video::VideoRegionOfInterestMeta>,
    value: &mut Vec<u8>,
) -> Option<()> {
    put_rectangle(value, meta.rect());
    value.extend(meta.id().to_le_bytes());
    value.extend(meta.parent_id().to_le_bytes());
    put_text(value, region_type(meta)?)?;
    for (count, param) in meta.params().enumerate() {
        if count == MOST_PARAMS {
            return None;
        }
        put_text(value, &param.to_string())?;
    }
    Some(())
}

fn decode_region(
    mut value: Bytes<'_>,
    (frame_width, frame_height): (u32, u32),
    buffer: &mut gst::BufferRef,
) -> Option<()> {
    let (x, y, width, height) = value.rectangle()?;
    let (id, parent) = (value.u32()? as i32, value.u32()? as i32);
    // What is marked may be larger than what is seen of it; who uses it looks into the frame.
    if x >= frame_width || y >= frame_height {
        return None;
    }
    let seen = (
        x,
        y,
        width.min(frame_width - x),
        height.min(frame_height - y),
    );
    let type_ = peer_text::name(value.text()?)?;
    let mut params: Vec<gst::Structure> = Vec::new();
    while !value.0.is_empty() {
        if params.len() == MOST_PARAMS {
            return None;
        }
        params.push(peer_text::parse(value.text()?)?);
    }
    let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer, type_, seen);
    meta.set_id(id);
    meta.set_parent_id(parent);
    params.into_iter().for_each(|param| meta.add_param(param));
    Some(())
}

fn encode_time_code(code: &gst_video::ValidVideoTimeCode, value: &mut Vec<u8>) -> Option<()> {
    let fps = code.fps();
    put_u32(value, u32::try_from(fps.numer()).ok()?);
    put_u32(value, u32::try_from(fps.denom()).ok()?);
    put_u32(value, code.flags().bits());
    put_u32(value, code.hours());
    put_u32(value, code.minutes());
    put_u32(value, code.seconds());
    put_u32(value, code.frames());
    put_u32(value, code.field_count());
    if let Some(jam) = code.latest_daily_jam() {
        value.extend(jam.format("%Y-%m-%dT%H:%M:%S.%f%:z").ok()?.as_bytes());
    }
    Some(())
}

fn decode_time_code(mut value: Bytes<'_>) -> Option<gst_video::ValidVideoTimeCode> {
    let mut fps = || {
        i32::try_from(value.u32()?)
            .ok()
            .filter(|number| *number > 0)
    };
    let fps = gst::Fraction::new(fps()?, fps()?);
    let flags = gst_video::VideoTimeCodeFlags::from_bits(value.u32()?)?;
    let (hours, minutes, seconds) = (value.u32()?, value.u32()?, value.u32()?);
    let (frames, fields) = (value.u32()?, value.u32()?);
    let jam = match std::str::from_utf8(value.0).ok()? {
        "" => None,
        text if text.contains('\0') => return None,
        text => Some(glib::DateTime::from_iso8601(text, None).ok()?),
    };
    gst_video::ValidVideoTimeCode::new(
        fps,
        jam.as_ref(),
        flags,
        hours,
        minutes,
        seconds,
        frames,
        fields,
    )
    .ok()
}

fn decode_audio(
    mut value: Bytes<'_>,
    caps: &gst::CapsRef,
    buffer: &mut gst::BufferRef,
) -> Option<()> {
    let info = gst_audio::AudioInfo::from_caps(caps).ok()?;
    let size = buffer.size();
    let samples = usize::try_from(value.u64()?).ok()?;
    let mut offsets = Vec::new();
    while !value.0.is_empty() {
        let offset = usize::try_from(value.u64()?).ok()?;
        // So that no sum of what is computed with them overflows.
        if offset > size || offsets.len() == MOST_PLANES {
            return None;
        }
        offsets.push(offset);
    }
    let planes = match info.layout() {
        gst_audio::AudioLayout::NonInterleaved => info.channels() as usize,
        _ => 0,
    };
    // Of interleaved audio nobody else compares the samples with the buffer.
    if offsets.len() != planes || samples > size / info.bpf().max(1) as usize {
        return None;
    }
    gst_audio::AudioMeta::add(buffer, &info, samples, &offsets).ok()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use gst_video::VideoTimeCodeFlags;

    use super::*;

    fn init() {
        gst::init().unwrap();
    }

    fn video() -> gst::Caps {
        gst::Caps::from_str("video/x-raw,format=RGB,width=320,height=240,framerate=30/1").unwrap()
    }

    fn audio(layout: &str) -> gst::Caps {
        gst::Caps::from_str(&format!(
            "audio/x-raw,format=S16LE,rate=48000,channels=2,channel-mask=(bitmask)3,layout={layout}"
        ))
        .unwrap()
    }

    fn buffer(add: impl FnOnce(&mut gst::BufferRef)) -> gst::Buffer {
        let mut buffer = gst::Buffer::with_size(1000).unwrap();
        add(buffer.get_mut().unwrap());
        buffer
    }

    fn records(buffer: &gst::BufferRef) -> Records {
        let mut records = Records::new();
        to_records(buffer, &mut records);
        records
    }

    /// A buffer with the metas of these records, all of which are taken.
    #[track_caller]
    fn taken(records: &Records, caps: &gst::Caps) -> gst::Buffer {
        buffer(|buffer| assert_eq!(from_records(records, Some(caps), buffer), 0))
    }

    /// The metas, as the peer's process gets them.
    #[track_caller]
    fn through(caps: &gst::Caps, add: impl FnOnce(&mut gst::BufferRef)) -> gst::Buffer {
        let sent = buffer(add);
        let arrived = taken(&records(&sent), caps);
        // Nothing is lost or added on the way on.
        assert_eq!(records(&arrived), records(&sent));
        let types = |buffer: &gst::Buffer| -> Vec<glib::Type> {
            let metas = buffer.iter_meta::<gst::Meta>();
            metas.map(|meta| meta.type_()).collect()
        };
        assert_eq!(types(&arrived), types(&sent));
        arrived
    }

    /// Whether a record is taken.
    fn takes(kind: u16, value: &[u8], caps: Option<&gst::Caps>) -> bool {
        let records = Records::new().with(kind, value);
        let mut left = 0;
        let caps = caps.map(|caps| caps.as_ref());
        let with = buffer(|buffer| left = from_records(&records, caps, buffer));
        let count = with.iter_meta::<gst::Meta>().count();
        assert_eq!(count + left, 1);
        count == 1
    }

    fn bytes(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|it| it.to_le_bytes()).collect()
    }

    #[test]
    fn a_crop_arrives_as_it_left() {
        init();
        let arrived = through(&video(), |buffer| {
            gst_video::VideoCropMeta::add(buffer, (1, 2, 319, 238));
        });
        let crop = arrived.meta::<gst_video::VideoCropMeta>().unwrap();
        assert_eq!(crop.rect(), (1, 2, 319, 238));
    }

    #[test]
    fn a_crop_that_leaves_the_frame_is_refused() {
        init();
        let caps = video();
        let crop = |numbers: &[u32]| takes(CROP, &bytes(numbers), Some(&caps));
        assert!(crop(&[0, 0, 320, 240]));
        assert!(crop(&[319, 239, 1, 1]));
        for bad in [
            [0, 0, 321, 240],
            [0, 0, 320, 241],
            [1, 0, 320, 240],
            [u32::MAX, 0, 2, 1],
            [0, u32::MAX, 1, u32::MAX],
            [0, 0, 0, 1],
            [0, 0, 1, 0],
        ] {
            assert!(!crop(&bad), "{bad:?}");
        }
        assert!(!crop(&[0, 0, 320]), "too short");
        // Frames of a size that nobody knows.
        let other = gst::Caps::from_str("video/x-bayer").unwrap();
        for caps in [None, Some(&other)] {
            assert!(!takes(CROP, &bytes(&[0, 0, 1, 1]), caps));
        }
    }

    #[test]
    fn a_region_arrives_as_it_left() {
        init();
        let param = gst::Structure::builder("roi/x264enc")
            .field("delta-qp", -5.5)
            .field("text", "with \"quotes\", and; such = {things}")
            .build();
        let arrived = through(&video(), |buffer| {
            let add = gst_video::VideoRegionOfInterestMeta::add;
            add(buffer, "a face", (10, 20, 30, 40)).set_id(7);
            add(buffer, "", (0, 0, 0, 0));
            let mut eye = add(buffer, "an eye", (0, 0, 320, 240));
            eye.set_parent_id(7);
            eye.set_id(-1);
            eye.add_param(param.clone());
            eye.add_param(gst::Structure::new_empty("second"));
        });
        let regions: Vec<_> = arrived
            .iter_meta::<gst_video::VideoRegionOfInterestMeta>()
            .collect();
        assert_eq!(regions.len(), 3);
        assert_eq!(regions[0].roi_type(), "a face");
        assert_eq!(regions[0].rect(), (10, 20, 30, 40));
        assert_eq!((regions[0].id(), regions[0].params().count()), (7, 0));
        assert_eq!(
            (regions[1].roi_type(), regions[1].rect()),
            ("", (0, 0, 0, 0))
        );
        assert_eq!(regions[2].roi_type(), "an eye");
        assert_eq!((regions[2].parent_id(), regions[2].id()), (7, -1));
        let params: Vec<_> = regions[2].params().map(|param| param.to_owned()).collect();
        assert_eq!(params, [param, gst::Structure::new_empty("second")]);
    }

    #[test]
    fn of_a_region_arrives_what_is_inside_of_the_frame() {
        init();
        let rectangle = |rectangle: (u32, u32, u32, u32)| {
            let sent = buffer(|buffer| {
                gst_video::VideoRegionOfInterestMeta::add(buffer, "seen", rectangle);
            });
            let mut left = 0;
            let with = buffer(|buffer| {
                left = from_records(&records(&sent), Some(&video()), buffer);
            });
            let region = with.meta::<gst_video::VideoRegionOfInterestMeta>();
            assert_eq!(left, usize::from(region.is_none()));
            region.map(|region| region.rect())
        };
        assert_eq!(rectangle((300, 200, 20, 40)), Some((300, 200, 20, 40)));
        assert_eq!(rectangle((300, 200, 21, 41)), Some((300, 200, 20, 40)));
        assert_eq!(rectangle((0, 0, u32::MAX, 1)), Some((0, 0, 320, 1)));
        assert_eq!(rectangle((320, 0, 1, 1)), None);
        assert_eq!(rectangle((0, u32::MAX, 1, 1)), None);
    }

    #[test]
    fn a_region_that_is_no_region_is_refused() {
        init();
        let caps = video();
        let region = |more: &[&[u8]]| {
            let value = [&bytes(&[0, 0, 9, 9, 1, 2])[..], &more.concat()].concat();
            takes(REGION, &value, Some(&caps))
        };
        let text = |text: &[u8]| [&bytes(&[text.len() as u32]), text].concat();
        assert!(region(&[&text(b"ok")]));
        assert!(region(&[&text(b"ok"), &text(b"a, b=1"), &text(b"c")]));
        assert!(!region(&[]));
        assert!(!region(&[&text(b"a\0b")]));
        assert!(!region(&[&text(b"\xff")]));
        assert!(!region(&[&bytes(&[3]), b"ok"]), "longer than the record");
        assert!(!region(&[&bytes(&[u32::MAX]), b"ok"]));
        assert!(!region(&[&text(b"ok"), &text(b"")]));
        assert!(!region(&[&text(b"ok"), &text(b"a, b=")]));
        assert!(!region(&[&text(b"ok"), b"\x01\0\0"]));
        let params = |count| [text(b"ok"), text(b"p").repeat(count)].concat();
        assert!(region(&[&params(MOST_PARAMS)]));
        assert!(!region(&[&params(MOST_PARAMS + 1)]));
        assert!(!takes(REGION, &bytes(&[0; 5]), Some(&caps)));
    }

    #[test]
    fn reference_timestamps_arrive_as_they_left() {
        init();
        let ntp = gst::Caps::from_str("timestamp/x-ntp, host=(string)\"a; b\"").unwrap();
        let unix = gst::Caps::from_str("timestamp/x-unix").unwrap();
        let second = gst::ClockTime::SECOND;
        let arrived = through(&video(), |buffer| {
            gst::ReferenceTimestampMeta::add(buffer, &ntp, second, None);
            gst::ReferenceTimestampMeta::add(buffer, &unix, gst::ClockTime::ZERO, second);
        });
        let stamps: Vec<_> = arrived
            .iter_meta::<gst::ReferenceTimestampMeta>()
            .map(|meta| (meta.reference_owned(), meta.timestamp(), meta.duration()))
            .collect();
        assert_eq!(
            stamps,
            [
                (ntp, second, None),
                (unix, gst::ClockTime::ZERO, Some(second))
            ]
        );
    }

    #[test]
    fn a_reference_timestamp_without_time_or_reference_is_refused() {
        init();
        let stamp = |time: u64, caps: &[u8]| {
            let value = [&time.to_le_bytes(), &NONE.to_le_bytes(), caps].concat();
            takes(REFERENCE_TIME, &value, None)
        };
        assert!(stamp(0, b"timestamp/x-ntp"));
        assert!(stamp(NONE - 1, b"timestamp/x-ntp"));
        assert!(!stamp(NONE, b"timestamp/x-ntp"));
        for bad in [&b"timestamp/x-ntp, a="[..], b"a\0", b"a\0b", b"\xff"] {
            assert!(!stamp(0, bad), "{bad:?}");
        }
        assert!(!takes(REFERENCE_TIME, &[0; 15], None));
    }

    #[test]
    fn time_codes_arrive_as_they_left() {
        init();
        let jam = glib::DateTime::from_iso8601("2024-02-29T23:59:58.123456+05:30", None).unwrap();
        let code = |fps, jam, flags, frames| {
            gst_video::ValidVideoTimeCode::new(fps, jam, flags, 23, 59, 58, frames, 2).unwrap()
        };
        let ntsc = gst::Fraction::new(30000, 1001);
        let drops = VideoTimeCodeFlags::DROP_FRAME | VideoTimeCodeFlags::INTERLACED;
        let codes = [
            code(ntsc, Some(&jam), drops, 29),
            code(
                gst::Fraction::new(25, 1),
                None,
                VideoTimeCodeFlags::empty(),
                0,
            ),
        ];
        let arrived = through(&video(), |buffer| {
            for code in &codes {
                gst_video::VideoTimeCodeMeta::add(buffer, code);
            }
        });
        let told = |code: &gst_video::ValidVideoTimeCode| {
            let jam = code.latest_daily_jam();
            let zone = jam.as_ref().map(|jam| jam.utc_offset());
            (
                code.to_string(),
                code.fps(),
                code.flags(),
                code.field_count(),
                jam,
                zone,
            )
        };
        let metas = arrived.iter_meta::<gst_video::VideoTimeCodeMeta>();
        let got: Vec<_> = metas.map(|meta| told(&meta.tc())).collect();
        assert_eq!(got, codes.each_ref().map(told));
    }

    #[test]
    fn a_time_code_that_is_none_is_refused() {
        init();
        let code = |numbers: [u32; 8], jam: &[u8]| {
            takes(TIME_CODE, &[&bytes(&numbers), jam].concat(), None)
        };
        let good = [25, 1, 0, 1, 2, 3, 4, 0];
        assert!(code(good, b""));
        assert!(code(good, b"2024-01-01T00:00:00Z"));
        for bad in [&b"yesterday"[..], b"2024-01-01T00:00:00Z\0", b"\xff"] {
            assert!(!code(good, bad), "{bad:?}");
        }
        for (place, number) in [
            (0, 0),
            (0, u32::MAX),
            (1, 0),
            (1, 1 << 31),
            (2, 1 << 30),
            (3, 24),
            (4, 60),
            (5, 60),
            (6, 25),
        ] {
            let mut bad = good;
            bad[place] = number;
            assert!(!code(bad, b""), "{bad:?}");
        }
        assert!(!takes(TIME_CODE, &bytes(&good[..7]), None));
    }

    #[test]
    fn captions_arrive_as_they_left() {
        init();
        let arrived = through(&video(), |buffer| {
            for (number, type_) in CAPTION_TYPES {
                gst_video::VideoCaptionMeta::add(buffer, type_, &[number as u8, 0, 255]);
            }
        });
        let captions: Vec<_> = arrived
            .iter_meta::<gst_video::VideoCaptionMeta>()
            .map(|meta| (meta.caption_type(), meta.data().to_vec()))
            .collect();
        let sent = CAPTION_TYPES.map(|(number, type_)| (type_, vec![number as u8, 0, 255]));
        assert_eq!(captions, sent);
        assert!(!takes(CAPTION, &bytes(&[1]), None), "no data");
        assert!(!takes(CAPTION, &[&bytes(&[5])[..], b"x"].concat(), None));
        assert!(!takes(CAPTION, &[&bytes(&[0])[..], b"x"].concat(), None));
        assert!(!takes(CAPTION, &[1, 0, 0], None));
    }

    #[test]
    fn planes_of_audio_arrive_as_they_left() {
        init();
        let planar = audio("non-interleaved");
        let info = gst_audio::AudioInfo::from_caps(&planar).unwrap();
        let arrived = through(&planar, |buffer| {
            gst_audio::AudioMeta::add(buffer, &info, 100, &[800, 300]).unwrap();
        });
        let meta = arrived.meta::<gst_audio::AudioMeta>().unwrap();
        assert_eq!((meta.samples(), meta.offsets()), (100, &[800, 300][..]));
        assert_eq!(*meta.info(), info);

        let interleaved = audio("interleaved");
        let info = gst_audio::AudioInfo::from_caps(&interleaved).unwrap();
        let arrived = through(&interleaved, |buffer| {
            gst_audio::AudioMeta::add(buffer, &info, 250, &[]).unwrap();
        });
        let meta = arrived.meta::<gst_audio::AudioMeta>().unwrap();
        assert_eq!((meta.samples(), meta.offsets()), (250, &[][..]));
    }

    #[test]
    fn planes_of_audio_outside_of_the_buffer_are_refused() {
        init();
        // Buffers here have 1000 bytes.
        let meta = |caps: &gst::Caps, numbers: &[u64]| {
            let value: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
            takes(AUDIO, &value, Some(caps))
        };
        let planar = audio("non-interleaved");
        assert!(meta(&planar, &[250, 0, 500]));
        for bad in [
            &[][..],
            &[250],
            &[250, 0],
            &[250, 0, 500, 0],
            &[251, 0, 502],
            &[250, 0, 501],
            &[250, 0, 499],
            &[250, 0, u64::MAX],
            &[1, 0, u64::MAX - 1],
            &[u64::MAX, 0, 500],
            &[1 << 63, 0, 500],
        ] {
            assert!(!meta(&planar, bad), "{bad:?}");
        }
        let interleaved = audio("interleaved");
        assert!(meta(&interleaved, &[250]));
        for bad in [&[251][..], &[250, 0, 500], &[u64::MAX]] {
            assert!(!meta(&interleaved, bad), "{bad:?}");
        }
        // Not a whole number, no audio, and no caps.
        assert!(!takes(AUDIO, &[0; 7], Some(&interleaved)));
        assert!(!takes(AUDIO, &[0; 8], Some(&video())));
        assert!(!takes(AUDIO, &[0; 8], None));
    }

    #[test]
    fn metas_keep_their_order_and_others_records_are_left_alone() {
        init();
        let sent = buffer(|buffer| {
            gst_video::VideoCaptionMeta::add(buffer, CAPTION_TYPES[0].1, b"x");
            gst_video::VideoCropMeta::add(buffer, (0, 0, 1, 1));
            gst_video::VideoCaptionMeta::add(buffer, CAPTION_TYPES[1].1, b"y");
        });
        let mut records = Records::new().with(64, b"mine").with_caps("a/b");
        to_records(&sent, &mut records);
        let kinds: Vec<u16> = records.iter().skip(2).map(|record| record.kind).collect();
        assert_eq!(kinds, [CAPTION, CROP, CAPTION]);
        assert!(records.iter().skip(2).all(|record| !record.required));
        assert_eq!(
            taken(&records, &video()).iter_meta::<gst::Meta>().count(),
            3
        );
    }

    #[test]
    fn what_stays_behind_makes_no_records() {
        init();
        let sent = buffer(|buffer| {
            let format = gst_video::VideoFormat::Gray8;
            let flags = gst_video::VideoFrameFlags::empty();
            gst_video::VideoMeta::add(buffer, flags, format, 10, 10).unwrap();
            gst::ParentBufferMeta::add(buffer, &gst::Buffer::new());
        });
        assert!(records(&sent).is_empty());
        assert!(records(&gst::Buffer::new()).is_empty());
    }

    #[test]
    fn what_is_too_much_is_left_out_and_the_rest_arrives() {
        init();
        let sent = buffer(|buffer| {
            let type_ = CAPTION_TYPES[0].1;
            gst_video::VideoCaptionMeta::add(buffer, type_, &vec![1; MOST_BYTES]);
            gst_video::VideoCaptionMeta::add(buffer, type_, &vec![2; MOST_BYTES / 2]);
            gst_video::VideoCaptionMeta::add(buffer, type_, &vec![3; MOST_BYTES / 2]);
            gst_video::VideoCaptionMeta::add(buffer, type_, b"4");
        });
        let first = |record: Record<'_>| record.value[4];
        assert_eq!(
            records(&sent).iter().map(first).collect::<Vec<_>>(),
            [2, b'4']
        );

        let sent = buffer(|buffer| {
            for _ in 0..=MOST_METAS {
                gst_video::VideoCropMeta::add(buffer, (0, 0, 1, 1));
            }
        });
        assert_eq!(records(&sent).iter().count(), MOST_METAS);
        // Others may send more.
        let mut more = records(&sent);
        more.push(CROP, &bytes(&[0, 0, 1, 1]));
        let mut left = 0;
        let with = buffer(|buffer| left = from_records(&more, Some(&video()), buffer));
        assert_eq!(
            (with.iter_meta::<gst::Meta>().count(), left),
            (MOST_METAS, 1)
        );
    }

    #[test]
    fn no_bytes_of_any_kind_do_harm() {
        init();
        let planar = audio("non-interleaved");
        // A generator that gives the same numbers each time.
        let mut state = 1_u64;
        let mut random = move |below: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for round in 0..20_000 {
            let kind = CROP + (round % 8) as u16;
            let mut value: Vec<u8> = (0..random(80)).map(|_| random(256) as u8).collect();
            // Small numbers get further.
            for at in (0..value.len()).step_by(4) {
                let small = random(12) as u8;
                if random(3) > 0 {
                    let end = value.len().min(at + 4);
                    value[at..end].fill(0);
                    value[at] = small;
                }
            }
            let caps = if random(2) == 0 { &planar } else { &video() };
            let records = Records::new().with(kind, &value);
            let with = buffer(|buffer| {
                from_records(&records, Some(caps), buffer);
            });
            // What was taken can be sent on.
            let sent = super::tests::records(&with).iter().count();
            assert_eq!(sent, with.iter_meta::<gst::Meta>().count(), "{value:?}");
        }
    }
}
