//! Measurements of the server's process.

use std::process::Command;
use std::time::Duration;

use crate::common::{BINARY, Server};

/// The processor time that a process has used.
pub fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may have spaces; after it come the state and ten numbers
    // before the two times, in hundredths of a second (man 5 proc).
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// The processor time that processes and all that descend from them have used, without those that
/// have ended.
pub fn processor_time_of_all(pids: &[u32]) -> Duration {
    let children = |pid: &u32| {
        let list = format!("/proc/{pid}/task/{pid}/children");
        let list = std::fs::read_to_string(list).unwrap_or_default();
        list.split_whitespace()
            .filter_map(|child| child.parse().ok())
            .collect::<Vec<u32>>()
    };
    let time = |pid: &u32| processor_time(*pid) + processor_time_of_all(&children(pid));
    pids.iter().map(time).sum()
}

/// The bytes that a process and its children have written to disks, including children that have
/// ended.
pub fn written(pid: u32) -> u64 {
    let children = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children"));
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let children: Vec<String> = tasks.filter_map(|task| children(task).ok()).collect();
    let children = children.iter().flat_map(|list| list.split_whitespace());
    let io = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let of = |pid: &str| {
        let io = io(pid);
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|bytes| bytes.parse::<u64>().ok())
            .unwrap_or(0)
    };
    of(&pid.to_string()) + children.map(of).sum::<u64>()
}

/// The most memory that a process ever had, bytes.
pub fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// The server's public key for onion requests.
pub fn x25519_key(server: &Server) -> [u8; 32] {
    let keys = Command::new(BINARY)
        .arg("keys")
        .current_dir(server.folder.path())
        .output();
    let keys = String::from_utf8(keys.expect("the binary runs").stdout).expect("text");
    let line = keys
        .lines()
        .find_map(|line| line.strip_prefix("X25519 public key: "));
    let mut key = [0; 32];
    hex::decode_to_slice(line.expect("a key"), &mut key).expect("hexadecimal");
    key
}

/// The processor's name, for benches/README.md.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split(": ").nth(1))
        .unwrap_or("?");
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    format!("{cores} cores of {model}")
}
