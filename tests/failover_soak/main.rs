//! A long run of mixed load on two servers, while their database fails over again and again:
//! whatever was acknowledged must be on the new primary.
//!
//! `cargo test --release --test failover_soak -- --ignored --nocapture`, for `SOAK_SECONDS`, or for
//! twenty minutes. The faults are drawn by `SOAK_SEED`, which is printed. With `SOAK_ASYNC=1` no
//! standby is waited for: what is lost is counted.

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod group;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use common::acknowledged::{Site, client};
use common::{Server, config_folder, eventually, under_load};
use faults::{Fault, Soak};
use group::Group;

/// The number of clients.
const CLIENTS: u64 = 6;
/// Each byte of the servers' key.
const KEY: u8 = 5;
/// The time between two faults.
const BETWEEN_FAULTS: Duration = Duration::from_secs(3);

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("digits"))
}

#[test]
#[ignore = "takes SOAK_SECONDS, or twenty minutes"]
fn nothing_that_was_acknowledged_is_lost_in_a_failover() {
    let seconds = variable("SOAK_SECONDS").unwrap_or(1200);
    let is_synchronous = variable("SOAK_ASYNC").is_none_or(|number| number == 0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = variable("SOAK_SEED").unwrap_or(now.map_or(1, |now| now.as_secs()));
    println!("SOAK_SEED={seed}, synchronous: {is_synchronous}");
    let group = Group::start(is_synchronous);
    let folder = config_folder("", "");
    let address = |number| format!("unix:{}/{number}", folder.path().display());
    let site = Site::new((0..2).map(address).collect(), KEY);
    std::fs::write(folder.path().join("key"), hex::encode([KEY; 32])).expect("writable");
    let mut soak = Soak::new(group, &site, folder.path(), seed);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let lost = under_load(
        CLIENTS,
        |number| client(number, &site),
        |_| run(&mut soak, &site, is_synchronous, deadline),
    );
    report(&soak, &site, lost);
}

/// Lets one fault follow another until the deadline, and looks for what was acknowledged after
/// each. Returns how many files were lost.
fn run(soak: &mut Soak, site: &Site, is_synchronous: bool, deadline: Instant) -> usize {
    let (mut lost, mut checked) = (0, 0);
    while Instant::now() < deadline {
        std::thread::sleep(BETWEEN_FAULTS);
        let misread = {
            let mut seen = site.seen.lock().expect("no panic");
            seen.begin();
            seen.missing.len()
        };
        let fault = soak.draw();
        let told = soak.suffer(fault);
        soak.wait_until_well();
        let seen = site.seen.lock().expect("no panic");
        let (uploads, reads) = (seen.service.uploads.longest(), seen.service.reads.longest());
        let (at, number) = (seen.started.elapsed().as_secs(), seen.stored.len());
        // A server that has not needed a new connection while the old primary was frozen reads from
        // it when it is back, and finds nothing that is newer.
        let misread = if fault == Fault::FrozenAndBack {
            0
        } else {
            seen.missing.len() - misread
        };
        drop(seen);
        soak.note(fault, uploads, reads);
        let gone = site.forget_missing(0, checked, number);
        println!(
            "{at:5} s  {:<38} {:5.1} s without uploads, {:5.1} s without reads; {} files were \
             lost of {}; {told}",
            fault.name(),
            uploads.as_secs_f64(),
            reads.as_secs_f64(),
            gone.len(),
            number - checked,
        );
        assert!(!is_synchronous || gone.is_empty(), "{gone:?}");
        assert!(
            !is_synchronous || misread == 0,
            "{misread} were answered 404"
        );
        checked = number - gone.len();
        lost += gone.len();
    }
    let number = site.seen.lock().expect("no panic").stored.len();
    let gone = site.forget_missing(1, 0, number);
    println!("at the end {} of {number} files are missing", gone.len());
    assert!(!is_synchronous || gone.is_empty(), "{gone:?}");
    lost + gone.len()
}

fn report(soak: &Soak, site: &Site, lost: usize) {
    let seen = site.seen.lock().expect("no panic");
    println!(
        "{} files of {} MB were acknowledged, {} times one was extended; {} failovers; {lost} lost",
        seen.stored.len() + lost,
        seen.bytes / 1_000_000,
        seen.extended,
        soak.failovers,
    );
    println!("fault, how often, longest and middle time without uploads, longest without reads");
    let mut by_fault: BTreeMap<&str, Vec<(Duration, Duration)>> = BTreeMap::new();
    for (fault, uploads, reads) in &soak.noted {
        by_fault
            .entry(fault.name())
            .or_default()
            .push((*uploads, *reads));
    }
    for (name, mut times) in by_fault {
        times.sort();
        let longest = times.last().expect("one").0.as_secs_f64();
        let middle = times[times.len() / 2].0.as_secs_f64();
        let reads = times.iter().map(|(_, reads)| *reads).max().expect("one");
        println!(
            "{name:<38} {:3}  {longest:5.1} s {middle:5.1} s  {:5.1} s",
            times.len(),
            reads.as_secs_f64()
        );
    }
    println!("statuses (0: the connection broke, 1: nothing to ask for):");
    println!("{:?}", seen.statuses);
    println!("answered 404 once, though acknowledged: {:?}", seen.missing);
    println!("files that an old primary took: {}", soak.misled);
    assert!(seen.stored.len() > 50, "hardly anything was uploaded");
}

/// Waits until a server takes uploads.
fn takes_uploads(server: &Server, body: &[u8]) {
    eventually("uploads are taken", || {
        server.post("/file", body).status == 200
    });
}
