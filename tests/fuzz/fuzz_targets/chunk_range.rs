//! cargo-fuzz runs `gantry_fuzz::chunk_range`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::chunk_range(bytes));
