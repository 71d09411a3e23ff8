//! A filter of system calls, such as containers run with (`man 2 seccomp`).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the system refuse `calls` to what `command` starts, with `error`.
pub fn refuse(command: &mut Command, calls: &[i64], error: i32) {
    let filter = filter(calls, error);
    // SAFETY: what runs between fork and exec are two system calls, on memory that was
    // allocated before.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_ptr().cast_mut(),
            };
            let no_new_privileges = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if no_new_privileges != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// The program in the kernel's filter language: the number of the call stands first in what it
/// looks at.
fn filter(calls: &[i64], error: i32) -> Vec<libc::sock_filter> {
    let step = |code: u32, jt: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 0,
        k,
    };
    let refused = libc::SECCOMP_RET_ERRNO | error as u32;
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (index, call) in calls.iter().enumerate() {
        // The jump goes over the further comparisons and the permission.
        let jump = (calls.len() - index) as u8;
        let compare = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        program.push(step(compare, jump, *call as u32));
    }
    program.push(step(
        libc::BPF_RET | libc::BPF_K,
        0,
        libc::SECCOMP_RET_ALLOW,
    ));
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, refused));
    program
}
