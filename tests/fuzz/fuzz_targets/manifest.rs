//! cargo-fuzz runs `gantry_fuzz::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::manifest(bytes));
