//! The arithmetic of the ring against a model that is slow and obvious: who owns which byte.

mod support;

use std::collections::VecDeque;

use gstzerobuffer::protocol::ring::{self, Credits, Fit, Placement, Tails, Ticket};
use gstzerobuffer::{BufferConfig, Error, Frame, Item, Reader, Records, Reservation, Wait, Writer};
use proptest::prelude::*;

use support::{Name, pattern};

/// What a byte of the ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Free,
    /// Of the frame with this sequence number, with the tail that it wasted.
    Frame(u64),
}

/// What stands in the ring at a place where a header can be.
#[derive(Clone, Copy)]
struct Header {
    at: u64,
    len: u64,
    sequence: u64,
}

/// A ring as both ends see it, in one.
struct Model {
    size: u64,
    tails: Tails,
    bytes: Vec<Byte>,
    headers: Vec<Header>,
    written: VecDeque<(u64, u64)>,
    // The writer.
    free: u64,
    write_at: u64,
    sequence: u64,
    // The reader.
    read_at: u64,
    credits: Credits,
    held: Vec<(u64, Ticket)>,
    /// Released, whatever may be given back of it.
    released: Vec<u64>,
    /// The oldest frame that is not given back.
    oldest: u64,
}

impl Model {
    fn new(size: u64, tails: Tails) -> Self {
        Model {
            size,
            tails,
            bytes: vec![Byte::Free; size as usize],
            headers: Vec::new(),
            written: VecDeque::new(),
            free: size,
            write_at: 0,
            sequence: 1,
            read_at: 0,
            credits: Credits::default(),
            held: Vec::new(),
            released: Vec::new(),
            oldest: 1,
        }
    }

    fn free_in_the_map(&self) -> u64 {
        self.bytes
            .iter()
            .filter(|byte| **byte == Byte::Free)
            .count() as u64
    }

    fn own(&mut self, at: u64, len: u64) {
        for byte in &mut self.bytes[at as usize..(at + len) as usize] {
            assert_eq!(*byte, Byte::Free, "a byte is given out twice");
            *byte = Byte::Frame(self.sequence);
        }
        // What stood there is overwritten.
        self.headers
            .retain(|header| header.at + 16 <= at || header.at >= at + len);
    }

    /// Whether the wire has any way for a frame of `total` bytes from here when all is free.
    fn could_pass(&self, total: u64) -> bool {
        let left_ok = |end: u64| {
            let left = self.size - end;
            self.tails == Tails::Followed || left == 0 || left >= 16
        };
        let behind = self.size - self.write_at;
        // Right here.
        (total <= behind && left_ok(self.write_at + total))
            // At the start, in room that is not the wasted tail.
            || (total <= self.write_at && left_ok(total))
    }

    fn write(&mut self, len: u64) {
        let total = len + 16;
        let fit = ring::place(self.size, self.write_at, self.free, total, self.tails);
        match fit {
            Fit::Now(placement) => self.place(placement, len, total),
            Fit::Later => {
                assert!(self.free < self.size, "everything is free: later is never");
                assert!(self.could_pass(total), "later will be never");
                // Not even the frame alone, or not with the tail.
                let behind = self.size - self.write_at;
                let here = total <= behind && self.free >= total;
                let there = self.free >= behind + total;
                assert!(
                    !there && (!here || (1..16).contains(&(behind - total))),
                    "there was room"
                );
            }
            Fit::TooLarge => assert!(total > self.size),
            Fit::Never => {
                assert!(total <= self.size && !self.could_pass(total));
            }
        }
    }

    fn place(&mut self, placement: Placement, len: u64, total: u64) {
        assert_eq!(placement.total, total);
        assert!(placement.end() <= self.size, "a frame spans the end");
        if placement.waste > 0 {
            assert_eq!(
                (placement.at, self.write_at + placement.waste),
                (0, self.size)
            );
            self.own(self.write_at, placement.waste);
        } else {
            assert_eq!(placement.at, self.write_at % self.size);
        }
        self.own(placement.at, total);
        match placement.marker {
            Some(at) => {
                assert_eq!(at, self.write_at);
                assert!(placement.waste >= 16, "a marker over the end");
                self.headers.push(Header {
                    at,
                    len: 0,
                    sequence: 0,
                });
            }
            None => assert!(placement.waste < 16, "a tail without its marker"),
        }
        self.headers.push(Header {
            at: placement.at,
            len,
            sequence: self.sequence,
        });
        self.free -= placement.cost();
        self.write_at = placement.end();
        let tail = self.size - self.write_at;
        assert!(
            self.tails == Tails::Followed || !(1..16).contains(&tail),
            "a tail of {tail}"
        );
        self.written.push_back((self.sequence, len));
        self.sequence += 1;
    }

    fn header(&self, at: u64) -> (u64, u64) {
        assert!(at + 16 <= self.size, "a header is read across the end");
        // What nobody wrote as a header there must not be taken for one.
        self.headers
            .iter()
            .find(|header| header.at == at)
            .map_or((u64::MAX, u64::MAX), |header| (header.len, header.sequence))
    }

    /// What a published reader does, which knows nothing of short tails.
    fn v1_reader_agrees(&self, at: u64, sequence: u64) -> bool {
        let mut pos = if self.read_at == self.size {
            0
        } else {
            self.read_at
        };
        if self.header(pos).0 == 0 {
            pos = 0;
        }
        pos == at && self.header(pos).1 == sequence
    }

    fn read(&mut self) {
        let Some((sequence, len)) = self.written.pop_front() else {
            return;
        };
        let found = ring::find(self.size, self.read_at, |at| self.header(at)).unwrap();
        assert_eq!((found.sequence, found.len), (sequence, len));
        if self.tails == Tails::Fatal {
            assert!(self.v1_reader_agrees(found.at, sequence));
        }
        let cost = self
            .bytes
            .iter()
            .filter(|byte| **byte == Byte::Frame(sequence))
            .count();
        assert_eq!(found.cost(), cost as u64, "the waste belongs to its frame");
        for at in found.at..found.end() {
            assert_eq!(self.bytes[at as usize], Byte::Frame(sequence));
        }
        self.read_at = found.end();
        let ticket = self.credits.hand_out(found.cost());
        self.held.push((sequence, ticket));
    }

    fn release(&mut self, which: usize) {
        if self.held.is_empty() {
            return;
        }
        let (sequence, ticket) = self.held.swap_remove(which % self.held.len());
        self.released.push(sequence);
        let credit = self.credits.take_back(ticket);
        // In the order of the ring: all that are released before the first that is not.
        let (mut bytes, mut frames) = (0, 0);
        while let Some(at) = self.released.iter().position(|s| *s == self.oldest) {
            self.released.swap_remove(at);
            for byte in &mut self.bytes {
                if *byte == Byte::Frame(self.oldest) {
                    *byte = Byte::Free;
                    bytes += 1;
                }
            }
            self.oldest += 1;
            frames += 1;
        }
        assert_eq!((credit.bytes, credit.frames), (bytes, frames));
        self.free += credit.bytes;
        assert_eq!(self.credits.frames(), self.held.len() + self.released.len());
    }

    fn check(&self) {
        assert_eq!(self.free, self.free_in_the_map());
        let unread: u64 = self
            .written
            .iter()
            .map(|(sequence, _)| {
                let of_it = |byte: &&Byte| **byte == Byte::Frame(*sequence);
                self.bytes.iter().filter(of_it).count() as u64
            })
            .sum();
        assert_eq!(self.credits.bytes() + unread + self.free, self.size);
    }
}

/// What one end does next.
#[derive(Clone, Debug)]
enum Step {
    Write(Len),
    Read,
    Release(usize),
    /// The reader catches up and holds nothing.
    Drain,
}

/// How long a frame is, so that the rare cases are not rare.
#[derive(Clone, Debug)]
enum Len {
    /// This much of the ring, in 256ths.
    Part(u64),
    Bytes(u64),
    /// So many bytes short of the end of the ring, or over it.
    ToTheEnd(i64),
    /// So many bytes short of the whole ring, or over it.
    Whole(i64),
}

impl Len {
    fn of(&self, size: u64, write_at: u64) -> u64 {
        let near = |end: u64, by: i64| end.saturating_add_signed(by).saturating_sub(16).max(1);
        match *self {
            Len::Part(part) => (size * part / 256).max(1),
            Len::Bytes(bytes) => bytes,
            Len::ToTheEnd(by) => near(size - write_at, by),
            Len::Whole(by) => near(size, by),
        }
    }
}

fn len() -> impl Strategy<Value = Len> {
    prop_oneof![
        4 => (0u64..100).prop_map(Len::Part),
        1 => (100u64..260).prop_map(Len::Part),
        3 => (1u64..40).prop_map(Len::Bytes),
        4 => (-18i64..3).prop_map(Len::ToTheEnd),
        1 => (-18i64..3).prop_map(Len::Whole),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => len().prop_map(Step::Write),
        4 => Just(Step::Read),
        5 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::Drain),
    ]
}

fn tails() -> impl Strategy<Value = Tails> {
    prop_oneof![Just(Tails::Followed), Just(Tails::Fatal)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_is_given_out_twice_and_every_frame_comes_out_once_and_in_order(
        blocks in 1u64..40,
        tails in tails(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut model = Model::new(blocks * 64, tails);
        for step in steps {
            match step {
                Step::Write(len) => {
                    let len = len.of(model.size, model.write_at);
                    model.write(len);
                }
                Step::Read => model.read(),
                Step::Release(which) => model.release(which),
                Step::Drain => {
                    while !model.written.is_empty() {
                        model.read();
                    }
                    while !model.held.is_empty() {
                        model.release(0);
                    }
                    prop_assert_eq!(model.free, model.size);
                }
            }
            model.check();
        }
    }

    #[test]
    fn a_frame_of_which_a_good_size_is_made_passes_from_everywhere(
        len in 1u64..100_000,
        part in 0u64..=1000,
        tails in tails(),
    ) {
        let size = ring::good_size(len);
        prop_assert!(size.is_multiple_of(64));
        let fit = ring::place(size, size * part / 1000, size, len + 16, tails);
        prop_assert!(matches!(fit, Fit::Now(_)), "{fit:?}");
    }

    #[test]
    fn whatever_stands_in_the_ring_what_is_found_is_inside(
        blocks in 1u64..40,
        part in 0u64..=1000,
        headers in prop::collection::vec((any::<u64>(), any::<u64>()), 2),
        small in prop::collection::vec(0u64..3000, 2),
        use_small in any::<bool>(),
    ) {
        let size = blocks * 64;
        let pos = size * part / 1000;
        let found = ring::find(size, pos, |at| {
            assert!(at + 16 <= size);
            let which = usize::from(at == 0);
            (if use_small { small[which] } else { headers[which].0 }, headers[which].1)
        });
        if let Ok(found) = found {
            prop_assert!(found.len > 0 && found.end() <= size && found.cost() <= 2 * size);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_through_a_real_buffer_keep_their_bytes_however_they_are_held_and_released(
        blocks in 1u64..40,
        // Without room for a hello the writer takes the reader for a v1 one.
        metadata in prop_oneof![Just(64u64), Just(1024)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let size = blocks * 64;
        let name = Name::new("ring-model");
        let reader = Reader::create(&name, &BufferConfig::new(metadata, size)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        // One that comes and goes unseen, without a frame, is nobody to a v1 reader.
        prop_assert!(reader.is_writer_connected());
        let (mut written, mut read) = (0, 0);
        let mut unread = VecDeque::new();
        let mut held = Vec::new();
        let mut take = |unread: &mut VecDeque<Vec<u8>>| {
            let data = unread.pop_front()?;
            let frame = reader.read_frame(Wait::no()).unwrap();
            read += 1;
            assert_eq!(frame.sequence(), read);
            assert_eq!(*frame, data);
            Some((frame, data))
        };
        for step in steps {
            match step {
                Step::Write(len) => {
                    let write_at = name.raw().get(support::raw::WRITE_POS);
                    let data = pattern(len.of(size, write_at) as usize, written);
                    match writer.write_frame_wait(&data, Wait::no()) {
                        Ok(sequence) => {
                            written += 1;
                            prop_assert_eq!(sequence, written);
                            unread.push_back(data);
                        }
                        Err(Error::BufferFull { free, .. }) => prop_assert!(free < size),
                        Err(Error::FrameTooLarge { .. } | Error::FrameCannotPass { .. }) => {}
                        Err(err) => panic!("{err}"),
                    }
                }
                Step::Read => held.extend(take(&mut unread)),
                Step::Release(which) if !held.is_empty() => {
                    let (frame, data) = held.swap_remove(which % held.len());
                    prop_assert_eq!(&*frame, &data);
                }
                Step::Release(_) => {}
                Step::Drain => {
                    while let Some((frame, data)) = take(&mut unread) {
                        held.push((frame, data));
                    }
                    for (frame, data) in held.drain(..) {
                        prop_assert_eq!(&*frame, &data);
                    }
                    prop_assert_eq!(reader.used_bytes(), 0);
                }
            }
        }
        drop(writer);
        while let Some((frame, data)) = take(&mut unread) {
            held.push((frame, data));
        }
        for (frame, data) in held.drain(..) {
            prop_assert_eq!(&*frame, &data);
        }
        let end = reader.read_frame(Wait::no());
        let closed = matches!(end, Err(Error::WriterClosed { .. }));
        prop_assert!(closed, "{end:?}");
        prop_assert_eq!(reader.used_bytes(), 0);
    }
}

/// What a writer and a reader of ours do next, with all that v1 does not know.
#[derive(Clone, Debug)]
enum Act {
    /// A copied frame with records of so many bytes; 0: with none.
    Write(Len, u64),
    Message(u64),
    LendAhead(u64),
    /// Publishes one that is lent ahead, with records of so many bytes.
    Publish(usize, u64),
    /// Drops one that is lent ahead, published or not.
    Drop(usize),
    Read,
    Release(usize),
    Drain,
}

fn record_bytes() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => Just(0),
        4 => 1u64..100,
        2 => 100u64..400,
        1 => 400u64..3000,
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let which = any::<usize>;
    prop_oneof![
        3 => (len(), record_bytes()).prop_map(|(len, records)| Act::Write(len, records)),
        3 => (1u64..300).prop_map(Act::Message),
        6 => (1u64..1500).prop_map(Act::LendAhead),
        6 => (which(), record_bytes()).prop_map(|(which, records)| Act::Publish(which, records)),
        5 => which().prop_map(Act::Drop),
        8 => Just(Act::Read),
        8 => which().prop_map(Act::Release),
        1 => Just(Act::Drain),
    ]
}

/// Records that take so many bytes in one, and whether they must not be left out.
fn records(bytes: u64, seed: u64) -> Records {
    let mut records = Records::new();
    if bytes > 0 {
        records.push(100, &pattern(bytes as usize, seed));
    }
    records
}

/// Both ends of a real buffer, and what has to come out of it.
struct Pair {
    reader: Reader,
    writer: Writer,
    size: u64,
    seed: u64,
    /// Written and not read: of a frame its content, and the records.
    unread: VecDeque<(Option<Vec<u8>>, Records)>,
    held: Vec<(Frame, Vec<u8>)>,
    /// Lent ahead, with the content, and whether it is published.
    lent: Vec<(Reservation, Vec<u8>, bool)>,
    numbers: u64,
}

impl Pair {
    fn new(reader: Reader, writer: Writer, size: u64) -> Self {
        Pair {
            reader,
            writer,
            size,
            seed: 0,
            unread: VecDeque::new(),
            held: Vec::new(),
            lent: Vec::new(),
            numbers: 0,
        }
    }

    fn lend(&mut self, data: Vec<u8>) {
        if let Some(mut place) = self.writer.reserve_ahead(data.len() as u64) {
            place.copy_from_slice(&data);
            self.lent.push((place, data, false));
        }
    }

    fn drop_lent(&mut self, which: usize) {
        if !self.lent.is_empty() {
            let (place, data, _) = self.lent.swap_remove(which % self.lent.len());
            assert_eq!(*place, data);
        }
    }

    fn seed(&mut self) -> u64 {
        self.seed += 1;
        self.seed
    }

    fn write(&mut self, data: Vec<u8>, records: Records) {
        let dropped = self.writer.records_dropped();
        match self.writer.write_frame_with(&data, &records, Wait::no()) {
            Ok(_) if self.writer.records_dropped() > dropped => {
                assert!(!records.is_empty());
                self.unread.push_back((Some(data), Records::new()));
            }
            Ok(_) => self.unread.push_back((Some(data), records)),
            Err(Error::BufferFull { .. }) => {
                assert!(self.writer.used_bytes() > 0 || !self.lent.is_empty())
            }
            Err(Error::FrameTooLarge { .. } | Error::FrameCannotPass { .. }) => {}
            Err(Error::RecordsTooLarge { most, .. }) => assert_eq!(most, self.size / 2),
            Err(err) => panic!("{err}"),
        }
    }

    fn publish(&mut self, which: usize, bytes: u64) {
        let seed = self.seed();
        let records = records(bytes, seed);
        let count = self.lent.len();
        if count == 0 {
            return;
        }
        let (place, data, published) = &mut self.lent[which % count];
        if *published {
            assert!(
                place.publish_with(&records).is_err(),
                "it is published only once"
            );
            return;
        }
        let data = data.clone();
        match place.publish_with(&records) {
            Ok(_) => {
                *published = true;
                self.unread.push_back((Some(data), records));
            }
            // Copied behind what was published before it.
            Err(Error::OutOfOrder | Error::NoRoomForRecords { .. }) => {
                let (place, ..) = self.lent.swap_remove(which % count);
                assert_eq!(*place, data);
                self.write(data, records);
            }
            Err(Error::RecordsTooLarge { .. }) => {}
            Err(err) => panic!("{err}"),
        }
    }

    fn message(&mut self, bytes: u64) {
        let seed = self.seed();
        let records = records(bytes, seed);
        match self.writer.write_message(&records, Wait::no()) {
            Ok(sent) => {
                assert!(sent);
                self.unread.push_back((None, records));
            }
            Err(Error::BufferFull { .. }) => {
                assert!(self.writer.used_bytes() > 0 || !self.lent.is_empty());
            }
            Err(Error::RecordsTooLarge { most, .. }) => assert_eq!(most, self.size / 2),
            Err(err) => panic!("{err}"),
        }
    }

    fn read(&mut self) -> bool {
        let Some((data, records)) = self.unread.pop_front() else {
            let none = self.reader.read(Wait::no());
            assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
            return false;
        };
        match (self.reader.read(Wait::no()).unwrap(), data) {
            (Item::Frame(frame), Some(data)) => {
                self.numbers += 1;
                assert_eq!(frame.sequence(), self.numbers);
                assert_eq!(*frame, data);
                assert_eq!(*frame.records(), records);
                self.held.push((frame, data));
            }
            (Item::Message(message), None) => assert_eq!(message, records),
            (item, data) => panic!("{item:?} instead of {data:?}"),
        }
        true
    }

    fn release(&mut self, which: usize) {
        if !self.held.is_empty() {
            let (frame, data) = self.held.swap_remove(which % self.held.len());
            assert_eq!(*frame, data);
        }
    }

    fn drain(&mut self) {
        while self.read() {}
        while !self.held.is_empty() {
            self.release(0);
        }
        assert_eq!(self.reader.used_bytes(), 0);
    }

    fn check(&self) {
        for (place, data, _) in &self.lent {
            assert_eq!(**place, **data, "what is lent changes for nobody");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_and_messages_come_out_as_they_went_in_whatever_is_lent_dropped_and_held(
        blocks in 1u64..160,
        // Large rings are not always used to their end, if the frames are of one size and the reader
        // evacuates.
        scale in prop_oneof![9 => Just(1), 1 => Just(64)],
        acts in prop::collection::vec(act(), 1..200),
    ) {
        let size = blocks * 64 * scale;
        let name = Name::new("ring-model-records");
        let reader = Reader::create(&name, &BufferConfig::new(1024, size)).unwrap();
        reader.set_evacuation(scale > 1);
        let writer = Writer::attach(&name).unwrap();
        let mut pair = Pair::new(reader, writer, size);
        for act in acts {
            match act {
                Act::Write(len, bytes) => {
                    let write_at = name.raw().get(support::raw::WRITE_POS);
                    let seed = pair.seed();
                    let len = len.of(size, write_at);
                    pair.write(pattern(len as usize, seed), records(bytes, seed));
                }
                Act::Message(bytes) => pair.message(bytes),
                Act::LendAhead(len) => {
                    let seed = pair.seed();
                    let len = if scale > 1 { len.next_multiple_of(500) } else { len };
                    pair.lend(pattern((len * scale) as usize, seed));
                }
                Act::Publish(which, bytes) => pair.publish(which, bytes),
                Act::Drop(which) => pair.drop_lent(which),
                Act::Read => {
                    pair.read();
                }
                Act::Release(which) => pair.release(which),
                Act::Drain => pair.drain(),
            }
            pair.check();
        }
        pair.drain();
        pair.lent.clear();
        // With nothing lent and nothing held, both always pass, wherever the ends stand.
        pair.message(8);
        prop_assert_eq!(pair.unread.len(), 1);
        pair.drain();
        let len = (size / 2).saturating_sub(16 + 40).max(1);
        pair.write(pattern(len as usize, 1), records(8, 1));
        prop_assert_eq!(pair.unread.len(), 1);
        pair.drain();
    }

    #[test]
    fn for_one_more_frame_like_those_that_are_lent_there_is_always_room(
        // As large ones as well.
        (size, len) in prop_oneof![9 => 1u64..2000, 1 => 50_000u64..60_000]
            .prop_flat_map(|len| (3 * len..9 * len + 200, Just(len))),
        start in any::<prop::sample::Index>(),
        acts in prop::collection::vec((0..8, any::<usize>()), 1..100),
    ) {
        let name = Name::new("ring-model-lent");
        let reader = Reader::create(&name, &BufferConfig::new(1024, size)).unwrap();
        reader.set_evacuation(len >= 50_000);
        let writer = Writer::attach(&name).unwrap();
        let mut pair = Pair::new(reader, writer, size);
        // From anywhere in the ring.
        pair.write(pattern(1 + start.index(size as usize / 3), 0), Records::new());
        for (act, which) in acts {
            let seed = pair.seed();
            let data = pattern(len as usize, seed);
            match act {
                0..4 => pair.lend(data),
                4 => pair.publish(which, 0),
                5 | 6 => pair.drop_lent(which),
                _ => {
                    pair.drain();
                    // None of those that are lent is given back meanwhile. Without any, a ring may
                    // be too small for the frame.
                    if !pair.lent.is_empty() {
                        pair.write(data, Records::new());
                        prop_assert_eq!(pair.unread.len(), 1);
                    }
                }
            }
            pair.drain();
            pair.check();
        }
    }
}
