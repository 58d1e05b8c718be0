//! cargo-fuzz runs `gantry_fuzz::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::token(bytes));
