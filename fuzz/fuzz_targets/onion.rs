#![no_main]

#[path = "../checks/onion.rs"]
mod onion;

libfuzzer_sys::fuzz_target!(|input: &[u8]| onion::check(input));
