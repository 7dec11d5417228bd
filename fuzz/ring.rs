//! A reader or a writer whose peer does what the bytes say, right or wrong. Used by the fuzz targets
//! and by `tests/hostile.rs`.

// Each uses one of the two.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use gstzerobuffer::testing::unique_name;
use gstzerobuffer::{BufferConfig, Item, Reader, Records, Reservation, Wait, Writer};

const METADATA: u64 = 256;
const RING: u64 = 2048;
const SEGMENT: u64 = 128 + METADATA + RING;

/// More steps make a run longer, not worse.
const STEPS: usize = 300;
/// Frames or places held at a time.
const HELD: usize = 6;

/// What is left of the bytes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A number: one of those that mean something, or any.
    fn number(&mut self) -> Option<u64> {
        Some(match self.byte()? {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => RING,
            4 => RING - 1,
            5 => RING + 1,
            6 => RING - 16,
            7 => METADATA,
            8 => std::process::id().into(),
            9 => 1 << 63,
            // Of a block of records, a message.
            10 => 1 << 63 | u64::from(self.short()?),
            11 => 3 << 62 | u64::from(self.short()?),
            12 => i64::MAX as u64,
            13 => u64::from_le_bytes(*b"ZBhello\x01"),
            14 => u64::from_le_bytes(self.bytes(8)?.try_into().ok()?),
            15..=127 => self.short()?.into(),
            small => (small - 128).into(),
        })
    }
}

/// The objects as a peer has them that keeps to nothing.
struct Peer {
    segment: File,
    sems: [File; 2],
}

impl Peer {
    fn of(name: &str) -> Self {
        let open = |name: String| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true);
            file.open(format!("/dev/shm/{name}")).unwrap()
        };
        Peer {
            segment: open(name.into()),
            sems: [
                open(format!("sem.sem-w-{name}")),
                open(format!("sem.sem-r-{name}")),
            ],
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        // Never past the end: that would make it longer.
        let room = SEGMENT.saturating_sub(at) as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        self.segment.write_all_at(bytes, at).unwrap();
    }

    fn set(&self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Does what the next bytes say.
    fn step(&self, what: u8, input: &mut Input) -> Option<()> {
        match what {
            // A word of the OIEB, of the hello, of the metadata's front.
            0 | 1 => self.set(u64::from(input.byte()? % 16) * 8, input.number()?),
            2 => {
                let at = 128 + METADATA - 64 + u64::from(input.byte()? % 8) * 8;
                self.set(at, input.number()?);
            }
            3 => self.set(128, input.number()?),
            // A header.
            4 | 5 => {
                let at = 128 + METADATA + u64::from(input.short()?) % RING;
                self.set(at, input.number()?);
                self.set(at + 8, input.number()?);
            }
            // Anything anywhere.
            6 => {
                let at = u64::from(input.short()?) % SEGMENT;
                let len = input.byte()?.into();
                self.write(at, input.bytes(len)?);
            }
            // Posts, or other bytes of the semaphores.
            7 => {
                let count = input.number()? as u32;
                self.sems[usize::from(input.byte()? % 2)]
                    .write_all_at(&count.to_le_bytes(), 0)
                    .unwrap();
            }
            8 => {
                let at = u64::from(input.byte()? % 24);
                let value = input.number()?.to_le_bytes();
                self.sems[usize::from(input.byte()? % 2)]
                    .write_all_at(&value, at)
                    .unwrap();
            }
            // Some of it goes away, and perhaps comes back.
            _ => {
                let len = u64::from(input.short()?);
                self.segment.set_len(len % SEGMENT).unwrap();
                if len < 0x8000 {
                    self.segment.set_len(SEGMENT).unwrap();
                }
            }
        }
        Some(())
    }
}

const PEER_STEPS: u8 = 10;

/// Reads all of it, as downstream would.
fn look_at(bytes: &[u8]) {
    assert!(bytes.len() as u64 <= RING, "a frame of {}", bytes.len());
    black_box(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
}

fn look_at_records(records: &Records) {
    black_box((records.time(), records.caps(), records.layout()));
    assert!(records.iter().count() as u64 <= RING / 8);
}

/// Every wait is over at once, or soon.
fn wait(input: &mut Input) -> Wait<'static> {
    match input.byte() {
        Some(255) => Duration::from_millis(1).into(),
        _ => Wait::no(),
    }
}

/// One step of what is tried beside the peer; `None` when the bytes are used up.
type Step<T> = fn(&Reader, &Peer, &mut Input, &mut VecDeque<T>, &mut Option<Writer>) -> Option<()>;

fn run<T>(name: &str, bytes: &[u8], step: Step<T>) {
    let name = unique_name(name);
    let config = BufferConfig::new(METADATA, RING).with_resizing();
    let reader = Reader::create(&name, &config).unwrap();
    let peer = Peer::of(&name);
    let mut input = Input(bytes);
    let (mut held, mut writer) = (VecDeque::new(), None);
    for _ in 0..STEPS {
        if step(&reader, &peer, &mut input, &mut held, &mut writer).is_none() {
            break;
        }
        if held.len() > HELD {
            held.pop_front();
        }
    }
}

/// A reader whose writer is hostile.
pub fn reader(bytes: &[u8]) {
    run("fuzz-reader", bytes, read_step);
}

fn read_step(
    reader: &Reader,
    peer: &Peer,
    input: &mut Input,
    held: &mut VecDeque<gstzerobuffer::Frame>,
    writer: &mut Option<Writer>,
) -> Option<()> {
    match input.byte()? % 32 {
        what @ ..PEER_STEPS => peer.step(what, input)?,
        10..=15 => match reader.read(wait(input)) {
            Ok(Item::Frame(frame)) => {
                look_at(&frame);
                look_at_records(frame.records());
                held.push_back(frame);
            }
            Ok(Item::Message(records)) => look_at_records(&records),
            Ok(_) | Err(_) => {}
        },
        16 | 17 => {
            if let Ok(frame) = reader.read_frame(wait(input)) {
                look_at(&frame);
            }
        }
        18 => drop(held.pop_front()),
        19 => {
            let at = usize::from(input.byte()?);
            if at < held.len() {
                drop(held.remove(at));
            }
        }
        20 => held.iter().for_each(|frame| look_at(frame)),
        21 => {
            if let Ok(Some(metadata)) = reader.metadata() {
                assert!(metadata.len() as u64 <= METADATA);
            }
        }
        22 => {
            black_box((reader.writer(), reader.is_stream_ended()));
            assert!(reader.used_bytes() <= RING && reader.frames_held() <= HELD + 1);
        }
        23 => reader.set_evacuation(input.byte()? % 4 > 0),
        24 => {
            reader.close_if_unused();
        }
        25 => {
            let larger = BufferConfig::new(METADATA, 2 * RING);
            if let Ok(next) = reader.replace(&larger) {
                next.close();
            }
        }
        // And one that keeps to everything, in between.
        26 => *writer = Writer::attach(reader.name()).ok(),
        27 => *writer = None,
        _ => {
            if let Some(writer) = writer {
                let len = usize::from(input.short()?) % (RING as usize / 2) + 1;
                let records = Records::new().with(64, b"along");
                let _ = writer.write_frame_with(&vec![7; len], &records, Wait::no());
            }
        }
    }
    Some(())
}

/// A writer whose reader is hostile.
pub fn writer(bytes: &[u8]) {
    run("fuzz-writer", bytes, write_step);
}

fn write_step(
    reader: &Reader,
    peer: &Peer,
    input: &mut Input,
    held: &mut VecDeque<Reservation>,
    current: &mut Option<Writer>,
) -> Option<()> {
    let what = input.byte()? % 32;
    if what < PEER_STEPS {
        return peer.step(what, input);
    }
    if what == 10 || current.is_none() {
        *current = Writer::attach(reader.name()).ok();
    }
    let Some(writer) = current else {
        return Some(());
    };
    // Now and then one that cannot fit.
    let len = |input: &mut Input| Some(u64::from(input.short()?) % (RING + 64));
    match what {
        11..=14 => {
            let bytes = vec![7; len(input)? as usize];
            let _ = writer.write_frame_wait(&bytes, wait(input));
        }
        15 | 16 => {
            let records = Records::new().with(64, b"along").with_caps("text/plain");
            let bytes = vec![7; len(input)? as usize];
            let _ = writer.write_frame_with(&bytes, &records, wait(input));
        }
        17 | 18 => {
            if let Some(mut place) = writer.reserve_ahead(len(input)?) {
                place.fill(8);
                held.push_back(place);
            }
        }
        19 => {
            let len = len(input)?;
            if let Ok(mut place) = writer.reserve(len, wait(input)) {
                place.fill(9);
                let _ = place.commit();
            }
        }
        20 | 21 => {
            let at = usize::from(input.byte()?);
            if let Some(place) = held.get_mut(at) {
                place.fill(10);
                let _ = place.publish_with(&Records::new().with(65, &[1; 20]));
            }
        }
        22 => drop(held.pop_front()),
        23 => {
            let value = input.byte()?.into();
            let records = Records::new().with(66, &vec![2; value]);
            let _ = writer.write_message(&records, wait(input));
        }
        24 => {
            let _ = writer.request_size(input.number()?, wait(input));
        }
        25 => {
            let _ = writer.set_metadata(&vec![3; input.byte()?.into()]);
        }
        26 => {
            if let Some(metadata) = writer.metadata() {
                assert!(metadata.len() as u64 <= METADATA);
            }
        }
        27 => {
            black_box((writer.is_all_read(), writer.is_reader_connected()));
            assert!(writer.used_bytes() <= writer.payload_size());
        }
        28 => *current = None,
        // And a reader that keeps to everything.
        _ => {
            if let Ok(frame) = reader.read_frame(Wait::no()) {
                look_at(&frame);
            }
        }
    }
    Some(())
}
