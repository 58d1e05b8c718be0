//! cargo-fuzz runs `gantry_fuzz::cache_index`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::cache_index(bytes));
