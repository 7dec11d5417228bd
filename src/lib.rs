//! Video between processes through ZeroBuffer rings in shared memory.
//!
//! * [`protocol`] (also re-exported here): the ZeroBuffer v1.0.0 library for plain Rust programs.
//! * [`testing`]: names and patterns for tests across languages.

#![warn(missing_docs)]

pub mod protocol;
mod sys;
pub mod testing;

pub use protocol::{
    BufferConfig, Error, Frame, Interrupt, MetadataReservation, Reader, Reservation, Wait, Writer,
    WriterState,
};
