//! Records of a frame or message: times, caps, layouts, metas, events.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gstzerobuffer::fuzzing::records(bytes));
