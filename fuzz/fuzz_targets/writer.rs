//! A writer, on a segment that changes under it.
#![no_main]

#[path = "../ring.rs"]
mod ring;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ring::writer(bytes));
