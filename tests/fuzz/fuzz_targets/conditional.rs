//! cargo-fuzz runs `gantry_fuzz::conditional`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::conditional(bytes));
