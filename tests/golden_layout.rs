//! The bytes of a segment at every step of its life, against numbers written out by hand: what
//! other implementations see. Nothing here uses a constant of the library.

mod support;

use std::fs;
use std::process;

use gstzerobuffer::{
    BufferConfig, Error, FrameLayout, FrameTime, Item, Reader, Records, Wait, Writer,
};

use support::Name;
use support::raw::{Raw, RawSem};

const METADATA: u64 = 192;
const RING: u64 = 256;

/// The first 128 bytes: everything that a v1 peer goes by.
#[derive(Clone, Copy)]
struct Oieb {
    metadata_free: u64,
    metadata_written: u64,
    free: u64,
    write_pos: u64,
    read_pos: u64,
    written: u64,
    read: u64,
    writer: u64,
    reader: u64,
}

impl Oieb {
    fn bytes(&self) -> Vec<u8> {
        // Size 128 as u32, then version 1.0.0 and a reserved byte.
        let mut bytes = vec![128, 0, 0, 0, 1, 0, 0, 0];
        for word in [
            METADATA,
            self.metadata_free,
            self.metadata_written,
            RING,
            self.free,
            self.write_pos,
            self.read_pos,
            self.written,
            self.read,
            self.writer,
            self.reader,
            0,
            0,
            0,
            0,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        assert_eq!(bytes.len(), 128);
        bytes
    }
}

#[track_caller]
fn expect(raw: &Raw, oieb: Oieb) {
    assert_eq!(raw.bytes(0, 128), oieb.bytes());
}

/// A frame as it stands in the ring.
fn frame(sequence: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = (content.len() as u64).to_le_bytes().to_vec();
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(content);
    bytes
}

#[test]
fn a_segment_is_what_the_protocol_says_at_every_step() {
    let name = Name::new("golden");
    // Sizes are rounded up to 64.
    let config = BufferConfig::new(METADATA - 63, RING - 1);
    let reader = Reader::create(&name, &config).unwrap();
    let raw = name.raw();
    let ring = 128 + METADATA;
    let us = u64::from(process::id());
    let counts = || ['w', 'r'].map(|kind| RawSem::open(kind, &name).count());

    let mut objects = vec![
        format!("/dev/shm/{}", &*name),
        format!("/dev/shm/sem.sem-r-{}", &*name),
        format!("/dev/shm/sem.sem-w-{}", &*name),
        format!("/tmp/zerobuffer/{}.lock", &*name),
    ];
    objects.sort();
    let found: Vec<_> = name
        .objects()
        .into_iter()
        .map(|path| path.into_os_string().into_string().unwrap())
        .collect();
    assert_eq!(found, objects);
    assert_eq!(raw.len(), 128 + 192 + 256);
    assert_eq!(fs::metadata(name.lock_file()).unwrap().len(), 0);
    let mut oieb = Oieb {
        metadata_free: 192,
        metadata_written: 0,
        free: 256,
        write_pos: 0,
        read_pos: 0,
        written: 0,
        read: 0,
        writer: 0,
        reader: us,
    };
    expect(&raw, oieb);
    // All that v1 leaves unused is 0, but for the hello in the last 64 bytes of the block.
    assert_eq!(raw.bytes(128, 128), [0; 128]);
    let mut hello = b"ZBhello\x01".to_vec();
    hello.extend(15u64.to_le_bytes());
    hello.extend([0; 48]);
    assert_eq!(raw.bytes(128 + 128, 64), hello);
    assert_eq!(raw.bytes(ring, 256), [0; 256]);
    assert_eq!(counts(), [0, 0]);

    let writer = Writer::attach(&name).unwrap();
    oieb.writer = us;
    expect(&raw, oieb);

    writer.set_metadata(b"caps").unwrap();
    oieb.metadata_free = 192 - 12;
    oieb.metadata_written = 12;
    expect(&raw, oieb);
    assert_eq!(raw.bytes(128, 12), b"\x04\0\0\0\0\0\0\0caps");
    assert_eq!(raw.bytes(128 + 12, 116), [0; 116]);

    // Two frames: packed, not aligned.
    writer.write_frame(&[0xa1; 75]).unwrap();
    writer.write_frame(&[0xa2; 100]).unwrap();
    (oieb.free, oieb.write_pos, oieb.written) = (256 - 91 - 116, 207, 2);
    expect(&raw, oieb);
    assert_eq!(raw.bytes(ring, 91), frame(1, &[0xa1; 75]));
    assert_eq!(raw.bytes(ring + 91, 116), frame(2, &[0xa2; 100]));
    assert_eq!(raw.bytes(ring + 207, 49), [0; 49]);
    assert_eq!(counts(), [2, 0]);

    // Taken, then given back.
    let first = reader.read_frame(Wait::no()).unwrap();
    (oieb.read_pos, oieb.read) = (91, 1);
    expect(&raw, oieb);
    assert_eq!(counts(), [1, 0]);
    drop(first);
    oieb.free += 91;
    expect(&raw, oieb);
    assert_eq!(counts(), [1, 1]);

    // A wrap: a marker of two zeros at 207, the tail of 49 bytes is gone too. The writer takes the
    // reader's post.
    raw.write(ring + 207, &[0xff; 49]);
    writer.write_frame(&[0xa3; 60]).unwrap();
    (oieb.free, oieb.write_pos) = (140 - 49 - 76, 76);
    // A marker counts.
    oieb.written = 4;
    expect(&raw, oieb);
    assert_eq!(raw.bytes(ring + 207, 16), [0; 16]);
    assert_eq!(raw.bytes(ring + 223, 33), [0xff; 33]);
    assert_eq!(raw.bytes(ring, 76), frame(3, &[0xa3; 60]));
    assert_eq!(counts(), [2, 0]);

    drop(reader.read_frame(Wait::no()).unwrap());
    (oieb.free, oieb.read_pos, oieb.read) = (15 + 116, 207, 2);
    expect(&raw, oieb);
    // The tail comes back with the frame behind it, the marker counts, and has no post.
    let third = reader.read_frame(Wait::no()).unwrap();
    (oieb.read_pos, oieb.read) = (76, 4);
    expect(&raw, oieb);
    drop(third);
    oieb.free = 256;
    expect(&raw, oieb);
    assert_eq!(counts(), [0, 2]);

    // An exact fit: both positions stay at the size of the ring, no marker.
    writer.write_frame(&[0xa4; 164]).unwrap();
    (oieb.free, oieb.write_pos, oieb.written) = (76, 256, 5);
    expect(&raw, oieb);
    assert_eq!(raw.bytes(ring + 76, 180), frame(4, &[0xa4; 164]));
    drop(reader.read_frame(Wait::no()).unwrap());
    (oieb.free, oieb.read_pos, oieb.read) = (256, 256, 5);
    expect(&raw, oieb);
    writer.write_frame(&[0xa5; 1]).unwrap();
    (oieb.free, oieb.write_pos, oieb.written) = (256 - 17, 17, 6);
    expect(&raw, oieb);
    assert_eq!(raw.bytes(ring, 17), frame(5, &[0xa5]));

    // The writer goes: its pid, nothing else, no post.
    let sems = counts();
    drop(writer);
    oieb.writer = 0;
    expect(&raw, oieb);
    assert_eq!(counts(), sems);
    // It came, and its stream is over.
    for (word, value) in [
        (0x10, 1),
        (0x18, 0),
        (0x20, 0),
        (0x28, 0),
        (0x30, 1),
        (0x38, 0),
    ] {
        assert_eq!(raw.get(128 + 128 + word), value, "{word:#x}");
    }
    drop(reader.read_frame(Wait::no()).unwrap());
    (oieb.free, oieb.read_pos, oieb.read) = (256, 17, 6);
    expect(&raw, oieb);

    // The reader goes: its pid and all names.
    drop(reader);
    oieb.reader = 0;
    expect(&raw, oieb);
    assert_eq!(raw.len(), 128 + 192 + 256);
    name.assert_nothing_left();
}

/// Little-endian numbers in hexadecimal, and nothing else: spaces are for the reader.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

const TIME: &str = "0100 0000 38000000
    0100000000000000 ffffffffffffffff 005a620200000000 0300000000000000 0400000000000000
    efbeadde 00000000 ffffffffffffff7f";
const CAPS: &str = "0200 0100 05000000 6120623d63 000000";
const LAYOUT: &str = "0300 0100 40000000
    02000000 80020000 e0010000 00000000
    0000000000000000 00b0040000000000 0000000000000000 0000000000000000
    80020000 80fdffff 00000000 00000000";
const USER: &str = "4000 0000 03000000 010203 0000000000
    ffff 0100 00000000";

fn all_records() -> Records {
    let time = FrameTime {
        pts: Some(1),
        dts: None,
        duration: Some(40_000_000),
        offset: Some(3),
        offset_end: Some(4),
        flags: 0xdead_beef,
        monotonic: Some((1 << 63) - 1),
    };
    let layout = FrameLayout {
        width: 640,
        height: 480,
        planes: 2,
        offsets: [0, 307_200, 0, 0],
        strides: [640, -640, 0, 0],
    };
    let mut records = Records::new()
        .with_time(&time)
        .with_caps("a b=c")
        .with_layout(&layout)
        .with(64, &[1, 2, 3]);
    records.push_required(65535, b"");
    records
}

#[test]
fn records_are_what_the_protocol_says_in_front_of_a_frame_and_alone() {
    let name = Name::new("golden-records");
    let config = BufferConfig::new(METADATA, 2048).with_resizing();
    let reader = Reader::create(&name, &config).unwrap();
    let raw = name.raw();
    let hello = 128 + METADATA - 64;
    let ring = 128 + METADATA;
    assert_eq!(raw.get(hello + 8), 31);
    reader.set_evacuation(true);
    assert_eq!(raw.get(hello + 8), 63);
    reader.set_evacuation(false);
    assert_eq!(raw.get(hello + 8), 31);
    let writer = Writer::attach(&name).unwrap();

    // A frame of 5 bytes with a block of 16 + 64 + 16 + 72 + 16 + 8 in front.
    let all = hex(&[TIME, CAPS, LAYOUT, USER].concat());
    assert_eq!(all.len(), 176);
    writer
        .write_frame_with(b"frame", &all_records(), Wait::no())
        .unwrap();
    assert_eq!(raw.bytes(ring, 8), [0; 8]);
    assert_eq!(raw.bytes(ring + 8, 8), hex("c000000000000080"));
    assert_eq!(raw.bytes(ring + 16, 176), all);
    assert_eq!(raw.bytes(ring + 192, 21), frame(1, b"frame"));
    assert_eq!((raw.get(0x28), raw.get(0x30)), (2048 - 213, 213));
    assert_eq!((raw.get(0x40), RawSem::open('w', &name).count()), (1, 1));

    // A message: a post of its own, counted like a frame, without a number.
    let note = Records::new().with(64, &[1, 2, 3]);
    assert!(writer.write_message(&note, Wait::no()).unwrap());
    let block = hex("0000000000000000 20000000000000c0 4000 0000 03000000 010203 0000000000");
    assert_eq!(raw.bytes(ring + 213, 32), block);
    assert_eq!((raw.get(0x28), raw.get(0x30)), (2048 - 245, 245));
    assert_eq!((raw.get(0x40), RawSem::open('w', &name).count()), (2, 2));

    // Another size is asked for in a message.
    assert!(writer.request_size(0x0123_4567_89ab, Wait::no()).unwrap());
    let block = hex("0000000000000000 20000000000000c0 0400 0000 08000000 ab89674523010000");
    assert_eq!(raw.bytes(ring + 245, 32), block);

    // A place lent ahead at 277: its content begins at a multiple of 64, at least 512 bytes and a
    // header behind. The block is right before the header, and what is left before it is skipped.
    let mut place = writer.reserve_ahead(5).unwrap();
    place.copy_from_slice(b"ahead");
    place.publish_with(&note).unwrap();
    let header = (ring + 277 + 512 + 16).next_multiple_of(64) - 16 - ring;
    let skip = header - 32 - 277;
    assert_eq!(raw.bytes(ring + 277, 8), [0; 8]);
    assert_eq!(raw.get(ring + 277 + 8), skip);
    assert_eq!(
        raw.bytes(ring + header - 32, 16),
        hex("0000000000000000 2000000000000080")
    );
    assert_eq!(raw.bytes(ring + header, 21), frame(2, b"ahead"));
    drop(place);

    // The reader counts alike, and gives the room of a message back at once.
    let first = reader.read_frame(Wait::no()).unwrap();
    assert_eq!(*first.records(), all_records());
    assert_eq!((raw.get(0x38), raw.get(0x48)), (213, 1));
    drop(first);
    let free = raw.get(0x28);
    let message = reader.read(Wait::no()).unwrap();
    assert!(matches!(message, Item::Message(records) if records == note));
    assert_eq!(
        (raw.get(0x28), raw.get(0x38), raw.get(0x48)),
        (free + 32, 245, 2)
    );
    assert_eq!(RawSem::open('r', &name).count(), 2);
    let size = reader.read(Wait::no()).unwrap();
    assert!(matches!(size, Item::Resize(0x0123_4567_89ab)));
    let ahead = reader.read_frame(Wait::no()).unwrap();
    assert_eq!((&*ahead, ahead.records()), (&b"ahead"[..], &note));
    drop(ahead);
    assert_eq!(raw.get(0x28), 2048);

    // Made anew: the old one says so, then that it has no reader, and loses its name.
    assert_eq!(raw.get(hello + 0x28), 0);
    let other = reader.replace(&BufferConfig::new(METADATA, 64)).unwrap();
    assert_eq!((raw.get(hello + 0x28), raw.get(0x58)), (1, 0));
    let new = name.raw();
    assert_eq!((new.get(0x20), new.get(0x58)), (64, process::id().into()));
    assert_eq!(raw.get(hello + 0x38), 0, "the answer is the new one");
    assert_eq!(new.get(128 + METADATA - 64 + 0x38), 0x0123_4567_89ab);
    // Without the promise that it can be done again.
    assert_eq!(new.get(128 + METADATA - 64 + 8), 15);
    assert_eq!(name.objects().len(), 4);
    drop((reader, other));
}

#[test]
fn what_is_left_of_the_room_for_records_is_a_skip_or_zeros_of_the_block() {
    // A message before a lent place leaves room for exactly what is wanted, or some bytes more.
    for (more, skip) in [(0, None), (8, None), (16, Some(16)), (24, Some(24))] {
        let name = Name::new("golden-room");
        let reader = Reader::create(&name, &BufferConfig::new(METADATA, 4096)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        let raw = name.raw();
        let ring = 128 + METADATA;
        let mut place = writer.reserve_ahead(5).unwrap();
        place.fill(7);
        // The first multiple of 64 behind 512 bytes and a header, from the start of the segment.
        let header = 560;
        raw.write(ring, &[0xff; 560]);
        let message = Records::new().with(64, &vec![0; header - 40 - 24 - more as usize]);
        assert!(writer.write_message(&message, Wait::no()).unwrap());
        let at = header as u64 - 40 - more;
        assert_eq!(raw.get(0x30), at);
        let note = Records::new().with(64, &[1; 16]);
        place.publish_with(&note).unwrap();
        let block = if skip.is_some() { at + more } else { at };
        if let Some(skip) = skip {
            assert_eq!(raw.header(at), (0, skip));
        }
        let len = header as u64 - block;
        assert_eq!(raw.header(block), (0, 1 << 63 | len));
        let mut expected = hex("4000 0000 10000000");
        expected.extend([1; 16]);
        expected.resize(len as usize - 16, 0);
        assert_eq!(raw.bytes(ring + block + 16, len as usize - 16), expected);
        drop(place);
        let frame = reader.read_frame(Wait::no()).unwrap();
        assert_eq!((&*frame, frame.records()), (&[7; 5][..], &note));
        // No more of it: one that did not know has to be copied.
        let mut place = writer.reserve_ahead(5).unwrap();
        let large = Records::new().with(64, &[0; 1000]);
        let refused = place.publish_with(&large);
        assert!(matches!(
            refused,
            Err(Error::NoRoomForRecords { needed: 1024, .. })
        ));
    }
}

#[test]
fn sizes_are_rounded_up_to_whole_blocks() {
    for (asked, made) in [
        ((1, 1), (64, 64)),
        ((64, 64), (64, 64)),
        ((65, 129), (128, 192)),
    ] {
        let name = Name::new("golden-sizes");
        let _reader = Reader::create(&name, &BufferConfig::new(asked.0, asked.1)).unwrap();
        let raw = name.raw();
        assert_eq!((raw.get(0x08), raw.get(0x20)), made);
        assert_eq!((raw.get(0x10), raw.get(0x28)), made);
        assert_eq!(raw.len(), 128 + made.0 + made.1);
    }
}

#[test]
fn the_longest_name_is_245_bytes_and_its_semaphores_fit() {
    let name = Name::new("golden-long");
    let long = format!("{}{}", &*name, "x".repeat(245 - name.len()));
    let reader = Reader::create(&long, &BufferConfig::default()).unwrap();
    assert_eq!(name.objects().len(), 4);
    Writer::attach(&long)
        .unwrap()
        .write_frame(b"frame")
        .unwrap();
    assert_eq!(&*reader.read_frame(Wait::no()).unwrap(), b"frame");
    assert!(Reader::create(&format!("{long}x"), &BufferConfig::default()).is_err());
}

#[test]
fn metadata_may_fill_its_block_where_nothing_of_ours_is_in_the_way() {
    let name = Name::new("golden-metadata");
    let reader = Reader::create(&name, &BufferConfig::new(64, 64)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    assert!(writer.set_metadata(&[7; 57]).is_err());
    writer.set_metadata(&[7; 56]).unwrap();
    let raw = name.raw();
    assert_eq!((raw.get(0x10), raw.get(0x18), raw.get(128)), (0, 64, 56));
    assert_eq!(raw.bytes(136, 56), [7; 56]);
    assert_eq!(reader.metadata().unwrap().unwrap(), [7; 56]);
    assert!(writer.set_metadata(&[7; 56]).is_err());
    // Metadata of no bytes is metadata: its length is there.
    drop((reader, writer));
    let reader = Reader::create(&name, &BufferConfig::new(64, 64)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    writer.set_metadata(b"").unwrap();
    assert_eq!(name.raw().get(0x18), 8);
    assert_eq!(reader.metadata().unwrap().as_deref(), Some(&b""[..]));
}
