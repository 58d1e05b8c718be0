//! cargo-fuzz runs `gantry_fuzz::rate_limit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::rate_limit(bytes));
