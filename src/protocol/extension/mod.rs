//! What our own ends tell each other beyond v1, without a v1 peer noticing.
//!
//! The *hello* (in room of the metadata block that v1 leaves unused) says what the reader can do;
//! *records* (in the ring, in front of their frame, inside of what a reader that follows skips
//! passes over) say what v1 has no field for. See `docs/protocol.md`, "Hello" and "Records".

pub mod hello;
pub mod records;

pub use hello::*;
