//! Metadata: JSON or a text, with caps in it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gstzerobuffer::fuzzing::metadata(bytes));
