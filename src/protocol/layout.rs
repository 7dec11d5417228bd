//! Where everything is in a ZeroBuffer v1.0.0 segment.
//!
//! The segment is the Operation Info Exchange Block (OIEB), then the metadata block, then the
//! payload ring. All numbers are little-endian. See `docs/protocol.md`, "Segment".

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::shm::Segment;

#[cfg(not(target_endian = "little"))]
compile_error!("ZeroBuffer is little-endian on the wire; this implementation maps it directly");

/// Bytes of the OIEB, and the value of its first field.
pub const OIEB_SIZE: u64 = 128;
/// Block sizes are multiples of this.
pub const BLOCK_ALIGNMENT: u64 = 64;
/// Bytes before the content of each frame: its size, then its sequence number.
pub const FRAME_HEADER_SIZE: u64 = 16;
/// Bytes before the content of the metadata: its length.
pub const METADATA_PREFIX_SIZE: u64 = 8;
/// The version that we speak: major, minor, patch, reserved.
pub const VERSION: [u8; 4] = [1, 0, 0, 0];
/// The sequence number of each writer's first frame.
pub const FIRST_SEQUENCE: u64 = 1;
/// Longer metadata is not copied by who has not made its buffer: a peer says how long it is.
pub const MOST_METADATA: u64 = 16 << 20;

/// Offsets of the OIEB's fields.
pub mod offset {
    /// u32: [`super::OIEB_SIZE`], stored last when a buffer is made. The version follows it.
    pub const OIEB_SIZE_AND_VERSION: usize = 0x00;
    /// u64: bytes of the metadata block.
    pub const METADATA_SIZE: usize = 0x08;
    /// u64: bytes of it not used.
    pub const METADATA_FREE_BYTES: usize = 0x10;
    /// u64: 0, then 8 + the length of the metadata.
    pub const METADATA_WRITTEN_BYTES: usize = 0x18;
    /// u64: bytes of the payload ring.
    pub const PAYLOAD_SIZE: usize = 0x20;
    /// u64: bytes of it that the writer may fill.
    pub const PAYLOAD_FREE_BYTES: usize = 0x28;
    /// u64: where the writer goes on.
    pub const PAYLOAD_WRITE_POS: usize = 0x30;
    /// u64: where the reader goes on.
    pub const PAYLOAD_READ_POS: usize = 0x38;
    /// u64: frames and wrap markers written.
    pub const PAYLOAD_WRITTEN_COUNT: usize = 0x40;
    /// u64: frames and wrap markers read.
    pub const PAYLOAD_READ_COUNT: usize = 0x48;
    /// u64: 0 = no writer, or closed.
    pub const WRITER_PID: usize = 0x50;
    /// u64: 0 = closed.
    pub const READER_PID: usize = 0x58;
    /// 4 × u64, all 0.
    pub const RESERVED: usize = 0x60;
}

const _: () = assert!(offset::RESERVED + 4 * 8 == OIEB_SIZE as usize);
const _: () = assert!(OIEB_SIZE.is_multiple_of(BLOCK_ALIGNMENT));

/// `size` rounded up to a whole number of blocks; `None` past the end of u64.
pub const fn round_up(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK_ALIGNMENT)
}

/// The first word of a finished OIEB: size in the low half, version in the high half.
pub const fn first_word() -> u64 {
    let [major, minor, patch, reserved] = VERSION;
    OIEB_SIZE | (u32::from_le_bytes([major, minor, patch, reserved]) as u64) << 32
}

/// The number at this place; 0 where there are too few bytes.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let number = bytes.get(at..).and_then(<[u8]>::first_chunk);
    number.copied().map_or(0, u64::from_le_bytes)
}

/// What the header of a frame says: its size and its sequence number.
pub(crate) fn header(bytes: &[u8; FRAME_HEADER_SIZE as usize]) -> (u64, u64) {
    (u64_at(bytes, 0), u64_at(bytes, 8))
}

/// Why a segment is not that of a buffer, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// It is being made.
    Unfinished,
    /// It is of another version, whose first number this is.
    Version(u8),
    /// It is something else; the text says what is wrong with it.
    Other(String),
}

/// Our own copy of the sizes in an OIEB, checked once and never read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the metadata block.
    pub metadata: u64,
    /// Bytes of the payload ring.
    pub payload: u64,
}

impl Sizes {
    /// The sizes rounded up to whole blocks; `None` if the sum is too large for any address space.
    pub fn rounded(metadata: u64, payload: u64) -> Option<Self> {
        let sizes = Sizes {
            metadata: round_up(metadata)?,
            payload: round_up(payload)?,
        };
        sizes.total()?;
        Some(sizes)
    }

    /// Those of a segment of `len` bytes that begins with this word, if they can be.
    pub(crate) fn checked(self, first: u64, len: u64) -> Result<Self, Misfit> {
        if first == 0 {
            return Err(Misfit::Unfinished);
        }
        let (size, version) = (first as u32, ((first >> 32) as u32).to_le_bytes());
        if u64::from(size) != OIEB_SIZE {
            let what = format!("its first field is {size} instead of {OIEB_SIZE}");
            return Err(Misfit::Other(what));
        }
        if version[0] != VERSION[0] {
            return Err(Misfit::Version(version[0]));
        }
        let fits = self.total().is_some_and(|total| total <= len);
        if !fits || self.payload == 0 || !self.metadata.is_multiple_of(8) {
            return Err(Misfit::Other(format!(
                "blocks of {} and {} bytes in a segment of {len}",
                self.metadata, self.payload
            )));
        }
        Ok(self)
    }

    /// Bytes of the whole segment.
    pub fn total(&self) -> Option<u64> {
        OIEB_SIZE
            .checked_add(self.metadata)?
            .checked_add(self.payload)
            .filter(|total| *total <= isize::MAX as u64)
    }

    /// Offset of the payload ring in the segment.
    pub fn payload_start(&self) -> u64 {
        OIEB_SIZE + self.metadata
    }
}

/// The OIEB of a mapped segment. Every access is one atomic load or store.
#[derive(Clone, Copy)]
pub struct Oieb<'a>(&'a Segment);

impl<'a> Oieb<'a> {
    /// `None` if the segment is too short to hold one.
    pub fn of(segment: &'a Segment) -> Option<Self> {
        (segment.len() as u64 >= OIEB_SIZE).then_some(Oieb(segment))
    }

    /// A field as it is; for those with an ordering of their own.
    pub fn word(&self, offset: usize) -> &'a AtomicU64 {
        self.0.word(offset)
    }

    /// A field that needs no order.
    pub fn get(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    /// A field that needs no order.
    pub fn set(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
    }
}
