//! ZeroBuffer v1.0.0: frames through a ring in shared memory, from one writer to one reader.
//!
//! This is the whole protocol without GStreamer, binary compatible with the implementations in
//! C++, C# and Python (`zerobuffer-ipc`). The reader makes and owns the buffer, the writer
//! attaches to it:
//!
//! ```
//! use gstzerobuffer::{BufferConfig, Reader, Writer};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), gstzerobuffer::Error> {
//! # let name = &gstzerobuffer::testing::unique_name("doc-protocol");
//! let reader = Reader::create(name, &BufferConfig::default())?;
//!
//! // Usually in another process:
//! let writer = Writer::attach(name)?;
//! writer.set_metadata(b"about the stream")?;
//! writer.write_frame(b"copied in")?;
//! let mut place = writer.reserve(3, Duration::from_secs(1))?;
//! place.copy_from_slice(b"in!");
//! place.commit()?;
//! drop(writer);
//!
//! assert_eq!(reader.metadata()?.as_deref(), Some(&b"about the stream"[..]));
//! let mut frames = reader.frames(Duration::from_secs(1));
//! assert_eq!(&frames.next().unwrap()?[..], b"copied in");
//! assert_eq!(&frames.next().unwrap()?[..], b"in!");
//! assert!(frames.next().is_none(), "the writer closed the stream");
//! # Ok(())
//! # }
//! ```
//!
//! Between two ends of this library frames bring [`Records`] along: when they are due, what they
//! are, and whatever an application has to say, also between two frames. Nobody else notices.
//!
//! ```
//! use gstzerobuffer::{BufferConfig, FrameTime, Item, Reader, Records, Wait, Writer};
//!
//! # fn main() -> Result<(), gstzerobuffer::Error> {
//! # let name = &gstzerobuffer::testing::unique_name("doc-records");
//! # let reader = Reader::create(name, &BufferConfig::default())?;
//! # let writer = Writer::attach(name)?;
//! let time = FrameTime { pts: Some(40_000_000), ..FrameTime::default() };
//! writer.write_frame_with(b"a frame", &Records::new().with_time(&time), Wait::forever())?;
//! writer.write_message(&Records::new().with_caps("other frames"), Wait::forever())?;
//!
//! assert_eq!(reader.read_frame(Wait::no())?.time(), Some(time));
//! let Item::Message(records) = reader.read(Wait::no())? else { panic!() };
//! assert_eq!(records.caps(), Some("other frames"));
//! # Ok(())
//! # }
//! ```
//!
//! `docs/protocol.md` says what is on the wire and what this implementation does where others
//! go wrong.

mod buffer;
pub mod duplex;
mod error;
mod extension;
#[doc(hidden)]
pub mod handoff;
pub mod inspect;
pub mod layout;
mod liveness;
mod offers;
mod reader;
#[doc(hidden)]
pub mod ring;
mod slots;
mod wait;
mod writer;

#[cfg(feature = "plugin")]
pub(crate) use crate::sys::changes::{Bell, Changes};
pub use buffer::{LOCK_FOLDER, MAX_NAME_LEN, check_name};
pub use error::{Error, Result};
pub use extension::records::{
    FIRST_USER_KIND, FrameLayout, FrameTime, MAX_PLANES, Record, Records,
};
pub use offers::{Offer, Offered, offers};
pub use reader::{BufferConfig, Frame, Item, Reader, WriterState};
pub use ring::ring_size;
pub use wait::{Interrupt, Wait};
pub use writer::{DEFAULT_WRITE_TIMEOUT, MetadataReservation, Reservation, Turn, Writer};
