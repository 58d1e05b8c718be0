//! cargo-fuzz runs `gantry_fuzz::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::record(bytes));
