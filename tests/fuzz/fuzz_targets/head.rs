//! cargo-fuzz runs `gantry_fuzz::head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::head(bytes));
