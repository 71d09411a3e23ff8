#![no_main]

#[path = "../checks/edge.rs"]
mod edge;

libfuzzer_sys::fuzz_target!(|input: &[u8]| edge::check(input));
