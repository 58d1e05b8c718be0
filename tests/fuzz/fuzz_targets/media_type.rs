//! cargo-fuzz runs `gantry_fuzz::media_type`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::media_type(bytes));
