//! cargo-fuzz runs `gantry_fuzz::fill_journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_fuzz::fill_journal(bytes));
