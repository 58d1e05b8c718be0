//! cargo-fuzz runs `gantry_fuzz::digest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::digest(bytes));
