//! The fuzz targets of `fuzz/`, for some seconds: each takes its seeds, what fuzzing has left in
//! `fuzz/corpus/`, and random mutations of these. `scripts/fuzz` searches for longer, guided by
//! the coverage of the code.

mod seeds;

#[path = "../../fuzz/checks/edge.rs"]
mod edge;
#[path = "../../fuzz/checks/onion.rs"]
mod onion;
#[path = "../../fuzz/checks/texts.rs"]
mod texts;

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest input, bytes; `scripts/fuzz` has the same bound.
const MAX_LENGTH: usize = 16 * 1024;
/// How many threads run a target. They mostly wait for sockets, so that more threads than
/// processors are of use.
const THREADS: usize = 4;
/// The most mutations that are tried in each thread.
const MOST: usize = 10_000;
/// No mutation is begun after this time, so that the tests end.
const LONGEST: Duration = Duration::from_secs(20);
/// Bytes that parsers treat in a way of their own, as do the digits and `"` of JSON.
const SPECIAL: &[u8] = b"\0\r\n :;,/?%+-\"\\{}[]#='0123456789aAfF\x7f\x80\xff";

#[test]
fn nothing_that_comes_over_a_socket_harms_the_server() {
    survives("edge", edge::check, &seeds::edge());
}

#[test]
fn nothing_that_comes_in_an_onion_request_panics() {
    survives("onion", onion::check, &seeds::onion());
}

#[test]
fn no_text_that_is_parsed_panics() {
    survives("texts", texts::check, &seeds::texts());
}

#[test]
#[ignore = "scripts/fuzz runs it"]
fn seeds_are_written_to_where_the_fuzzer_begins() {
    for (target, seeds) in [
        ("edge", seeds::edge()),
        ("onion", seeds::onion()),
        ("texts", seeds::texts()),
    ] {
        let folder = corpus(target);
        fs::create_dir_all(&folder).expect("a folder");
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).expect("writable");
        }
    }
}

/// Runs `check` on the seeds, on the corpus, and on mutations of them, in several threads: on
/// [`MOST`] mutations in each, or for as long as [`LONGEST`].
fn survives(target: &str, check: fn(&[u8]), seeds: &[Vec<u8>]) {
    let mut known = seeds.to_vec();
    // The corpus is there only where somebody has fuzzed.
    for entry in fs::read_dir(corpus(target)).into_iter().flatten() {
        known.push(fs::read(entry.expect("an entry").path()).expect("a file"));
    }
    let run = move |input: &[u8]| {
        let outcome = panic::catch_unwind(|| check(input));
        let shown = hex::encode(input);
        assert!(outcome.is_ok(), "the target {target} fails with {shown}");
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let known = &known;
            scope.spawn(move || {
                known
                    .iter()
                    .skip(number)
                    .step_by(THREADS)
                    .for_each(|input| run(input));
                let mut random = Random::new();
                for _ in 0..MOST {
                    if started.elapsed() > LONGEST {
                        return;
                    }
                    run(&mutated(known, &mut random));
                }
            });
        }
    });
}

fn corpus(target: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    folder.join(target)
}

/// One of the inputs that are known, changed in one to eight places.
fn mutated(known: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.choose(known).clone();
    for _ in 0..=random.below(8) {
        let (start, end) = random.range(input.len());
        match random.below(6) {
            0 => drop(input.drain(start..end)),
            1 => {
                let repeated = input[start..end].to_vec();
                input.splice(end..end, repeated);
            }
            2 => {
                let other = random.choose(known);
                let (from, to) = random.range(other.len());
                input.splice(start..end, other[from..to].iter().copied());
            }
            3 => input.insert(start, *random.choose(SPECIAL)),
            4 if start < end => input[start] = *random.choose(SPECIAL),
            _ if start < end => input[start] ^= 1 << random.below(8),
            _ => {}
        }
    }
    input.truncate(MAX_LENGTH);
    input
}

/// Random numbers, other ones in each run (xorshift, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn new() -> Random {
        let mut seed = [0; 8];
        getrandom::getrandom(&mut seed).expect("random numbers");
        Random(u64::from_le_bytes(seed) | 1)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }

    fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// The start and the end of a part of something so long; most parts are short.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let start = self.below(length + 1);
        let longest = if self.below(4) == 0 { length } else { 8 };
        let end = start + self.below(longest + 1);
        (start, end.min(length))
    }
}
