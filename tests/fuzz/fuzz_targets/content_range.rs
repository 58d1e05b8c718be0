//! cargo-fuzz runs `gantry_fuzz::content_range`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::content_range(bytes));
