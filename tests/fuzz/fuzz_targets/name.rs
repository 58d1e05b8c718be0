//! cargo-fuzz runs `gantry_fuzz::name`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::name(bytes));
