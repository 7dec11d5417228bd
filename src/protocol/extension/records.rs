//! What a frame brings along beside its bytes, and what is said between two frames: a row of
//! records, each a kind, a length and a value. See `docs/protocol.md`, "Records".

use std::fmt;

use crate::protocol::layout::u64_at;

/// Bytes before the value of each record: its kind, its flags, the length of the value.
const RECORD_HEADER_SIZE: usize = 8;
/// Records begin at multiples of this in their row.
const RECORD_ALIGNMENT: usize = 8;
/// Flag: a reader that does not know the kind must not go on.
const REQUIRED: u16 = 1 << 0;

/// Kinds from here on are the application's own.
pub const FIRST_USER_KIND: u16 = 64;

mod kind {
    pub const END: u16 = 0;
    pub const TIME: u16 = 1;
    pub const CAPS: u16 = 2;
    pub const LAYOUT: u16 = 3;
    pub const RESIZE: u16 = 4;
    pub const ANSWER: u16 = 5;
    pub const REQUEST: u16 = 6;
    /// The last of them.
    pub const LAST: u16 = REQUEST;
}

/// Most planes in a [`FrameLayout`].
pub const MAX_PLANES: usize = 4;

const TIME_SIZE: usize = 56;
const LAYOUT_SIZE: usize = 64;

/// In place of a number: none.
const NONE: u64 = u64::MAX;

/// When a frame is due, and where in its stream it is. All times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameTime {
    /// When it is to be shown, on the sender's own time line.
    pub pts: Option<u64>,
    /// When it is to be decoded.
    pub dts: Option<u64>,
    /// For how long it is to be shown.
    pub duration: Option<u64>,
    /// Its number, or whatever else the medium counts.
    pub offset: Option<u64>,
    /// The first number behind it.
    pub offset_end: Option<u64>,
    /// Bits that say how it is to be treated; the protocol gives them no meaning.
    pub flags: u32,
    /// When it is to be shown by CLOCK_MONOTONIC, which all processes of a machine share.
    pub monotonic: Option<u64>,
}

/// Where the planes of a frame are, if they are not where its format has them by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameLayout {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// How many planes there are, at most [`MAX_PLANES`].
    pub planes: u32,
    /// Where each plane begins, in bytes from the beginning of the frame. The others are 0.
    pub offsets: [u64; MAX_PLANES],
    /// From one row of each plane to the next, in bytes. The others are 0.
    pub strides: [i32; MAX_PLANES],
}

/// One of [`Records`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is about: one of this library's kinds, or [`FIRST_USER_KIND`] and above.
    pub kind: u16,
    /// Whether a reader that does not know the kind must not go on.
    pub required: bool,
    /// What it says.
    pub value: &'a [u8],
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let required = if self.required { "!" } else { "" };
        write!(f, "{}{required}: {} bytes", self.kind, self.value.len())
    }
}

/// What goes along with a frame, or stands alone as a message.
///
/// ```
/// use gstzerobuffer::{FrameTime, Records};
///
/// let time = FrameTime { pts: Some(40_000_000), ..FrameTime::default() };
/// let records = Records::new().with_time(&time).with(64, b"my own");
/// assert_eq!(records.time(), Some(time));
/// assert_eq!(records.get(64), Some(&b"my own"[..]));
/// assert_eq!(records.caps(), None);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Whole records, as they stand in the ring.
    bytes: Vec<u8>,
}

/// Why bytes are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A record that does not end inside.
    Overlong(u32),
    /// One of a kind that must be known and is not.
    Unknown(u16),
}

impl Records {
    /// None yet.
    pub const fn new() -> Self {
        Records { bytes: Vec::new() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes all out again; the memory is kept for the next.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Adds a record of the application's own, whose kind is [`FIRST_USER_KIND`] or above: those
    /// below are this library's. Who does not know the kind leaves it out.
    pub fn push(&mut self, kind: u16, value: &[u8]) {
        self.add(kind, 0, value);
    }

    /// As [`Records::push`], of a kind that the other end has to know: there it is
    /// [`Record::required`], and a frame is never sent without it.
    pub fn push_required(&mut self, kind: u16, value: &[u8]) {
        self.add(kind, REQUIRED, value);
    }

    /// Adds the frame's time.
    pub fn push_time(&mut self, time: &FrameTime) {
        let mut value = [0; TIME_SIZE];
        let numbers = [
            time.pts,
            time.dts,
            time.duration,
            time.offset,
            time.offset_end,
        ];
        for (to, number) in value.chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.unwrap_or(NONE).to_le_bytes());
        }
        value[40..44].copy_from_slice(&time.flags.to_le_bytes());
        value[48..].copy_from_slice(&time.monotonic.unwrap_or(NONE).to_le_bytes());
        self.add(kind::TIME, 0, &value);
    }

    /// Adds what the frames are from here on, as text; how it is written is up to the application.
    pub fn push_caps(&mut self, caps: &str) {
        self.add(kind::CAPS, REQUIRED, caps.as_bytes());
    }

    /// Adds where the frame's planes are.
    pub fn push_layout(&mut self, layout: &FrameLayout) {
        let mut value = [0; LAYOUT_SIZE];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            value[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        for number in [layout.planes, layout.width, layout.height, 0] {
            put(&number.to_le_bytes());
        }
        for offset in layout.offsets {
            put(&offset.to_le_bytes());
        }
        for stride in layout.strides {
            put(&stride.to_le_bytes());
        }
        self.add(kind::LAYOUT, REQUIRED, &value);
    }

    pub(crate) fn push_resize(&mut self, bytes: u64) {
        self.add(kind::RESIZE, 0, &bytes.to_le_bytes());
    }

    pub(crate) fn push_answer(&mut self, request: u64) {
        self.add(kind::ANSWER, 0, &request.to_le_bytes());
    }

    /// That the frame answers the request with this number, of the connection that its client told
    /// with it ([`Records::request`]).
    pub fn push_answer_for(&mut self, request: u64, connection: u64) {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&request.to_le_bytes());
        value[8..].copy_from_slice(&connection.to_le_bytes());
        self.add(kind::ANSWER, 0, &value);
    }

    /// That the frame is a request of this connection, a number that no other one has.
    pub fn push_request(&mut self, connection: u64) {
        self.add(kind::REQUEST, 0, &connection.to_le_bytes());
    }

    /// [`Records::push`], for chains.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// [`Records::push_time`], for chains.
    #[must_use]
    pub fn with_time(mut self, time: &FrameTime) -> Self {
        self.push_time(time);
        self
    }

    /// [`Records::push_caps`], for chains.
    #[must_use]
    pub fn with_caps(mut self, caps: &str) -> Self {
        self.push_caps(caps);
        self
    }

    /// [`Records::push_layout`], for chains.
    #[must_use]
    pub fn with_layout(mut self, layout: &FrameLayout) -> Self {
        self.push_layout(layout);
        self
    }

    fn add(&mut self, kind: u16, flags: u16, value: &[u8]) {
        // What is longer than that is never sent: see `MOST_BLOCK`.
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(len.to_le_bytes());
        self.bytes.extend(value);
        let padded = self.bytes.len().next_multiple_of(RECORD_ALIGNMENT);
        self.bytes.resize(padded, 0);
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        // What a peer wrote was checked by `parse`.
        Rows(&self.bytes).map_while(|record| record.ok())
    }

    /// The first of a kind.
    pub fn find(&self, kind: u16) -> Option<Record<'_>> {
        self.iter().find(|record| record.kind == kind)
    }

    /// The value of the first of a kind.
    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        Some(self.find(kind)?.value)
    }

    /// The frame's time.
    pub fn time(&self) -> Option<FrameTime> {
        let value = self
            .get(kind::TIME)
            .filter(|value| value.len() >= TIME_SIZE)?;
        let number = |at| Some(u64_at(value, at)).filter(|number| *number != NONE);
        Some(FrameTime {
            pts: number(0),
            dts: number(8),
            duration: number(16),
            offset: number(24),
            offset_end: number(32),
            flags: u32_at(value, 40),
            monotonic: number(48),
        })
    }

    /// What the frames are from here on. Text that is no UTF-8 is none.
    pub fn caps(&self) -> Option<&str> {
        std::str::from_utf8(self.get(kind::CAPS)?).ok()
    }

    /// Where the frame's planes are. Nothing in it has been compared with the frame's size.
    pub fn layout(&self) -> Option<FrameLayout> {
        let value = self
            .get(kind::LAYOUT)
            .filter(|value| value.len() >= LAYOUT_SIZE)?;
        let planes = u32_at(value, 0);
        (1..=MAX_PLANES as u32)
            .contains(&planes)
            .then(|| FrameLayout {
                planes,
                width: u32_at(value, 4),
                height: u32_at(value, 8),
                offsets: std::array::from_fn(|plane| u64_at(value, 16 + 8 * plane)),
                strides: std::array::from_fn(|plane| u32_at(value, 48 + 4 * plane) as i32),
            })
    }

    /// How many bytes of ring the writer asks for.
    pub(crate) fn resize(&self) -> Option<u64> {
        let value = self.get(kind::RESIZE)?;
        (value.len() >= 8).then(|| u64_at(value, 0))
    }

    /// The number of the request that the frame answers.
    pub(crate) fn answer(&self) -> Option<u64> {
        let value = self.get(kind::ANSWER)?;
        (value.len() >= 8).then(|| u64_at(value, 0))
    }

    /// The connection of the request that the frame answers, if its server was told and tells.
    pub fn answer_connection(&self) -> Option<u64> {
        let value = self.get(kind::ANSWER)?;
        (value.len() >= 16).then(|| u64_at(value, 8))
    }

    /// The connection whose request the frame is, if its client says so.
    pub fn request(&self) -> Option<u64> {
        let value = self.get(kind::REQUEST)?;
        (value.len() >= 8).then(|| u64_at(value, 0))
    }

    /// Whether there is one that must not be left out.
    pub(crate) fn has_required(&self) -> bool {
        self.iter().any(|record| record.required)
    }

    /// As they stand in the ring.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// From a private copy of what stands in the ring. Every record is inside, and those that must
    /// be known are, or are the application's.
    pub(crate) fn parse(mut bytes: Vec<u8>) -> Result<Self, Malformed> {
        let mut rows = Rows(&bytes);
        for record in rows.by_ref() {
            let record = record?;
            if record.required && (kind::LAST + 1..FIRST_USER_KIND).contains(&record.kind) {
                return Err(Malformed::Unknown(record.kind));
            }
        }
        // What is behind the last one.
        let unused = rows.0.len();
        bytes.truncate(bytes.len() - unused);
        Ok(Records { bytes })
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The records in these bytes: an end (kind 0), or less than a header, is behind the last one.
struct Rows<'a>(&'a [u8]);

impl<'a> Iterator for Rows<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = self.0.split_at_checked(RECORD_HEADER_SIZE)?;
        let kind = u16::from_le_bytes([header[0], header[1]]);
        if kind == kind::END {
            return None;
        }
        let len = u32_at(header, 4);
        let Some(value) = rest.get(..len as usize) else {
            self.0 = &[];
            return Some(Err(Malformed::Overlong(len)));
        };
        // The last one may end without its padding.
        let padded = value.len().next_multiple_of(RECORD_ALIGNMENT);
        self.0 = rest.get(padded..).unwrap_or_default();
        Some(Ok(Record {
            kind,
            required: u16::from_le_bytes([header[2], header[3]]) & REQUIRED != 0,
            value,
        }))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .copied()
        .map_or(0, u32::from_le_bytes)
}
