//! cargo-fuzz runs `gantry_fuzz::link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::link(bytes));
