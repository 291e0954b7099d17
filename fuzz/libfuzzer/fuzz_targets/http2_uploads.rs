#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| crossgate_fuzz::http2_uploads(bytes));
