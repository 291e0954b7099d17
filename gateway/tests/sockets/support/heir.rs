//! A process that a gateway had started to serve instead of it: an orphan, whom the test adopts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

use super::process::{PATIENCE, Process};

/// Another process. Dropping it kills it, by its own id.
#[derive(Debug)]
pub(crate) struct Heir {
    pub(crate) pid: Pid,
    has_ended: bool,
}

impl Heir {
    /// Sends `signal` for an upgrade, whoever serves now, and waits until that one has handed over. What any of the processes
    /// says comes by way of the first.
    pub(crate) fn of(first: &Process, signal: impl FnOnce(Signal), known: &[&Heir]) -> Self {
        // Whoever loses its parent becomes this process's child.
        set_child_subreaper(Some(getpid())).unwrap();
        signal(Signal::USR2);
        let pid = first.stderr_line(|line| {
            let (_, pid) = line.split_once("the sockets are handed over pid=")?;
            let pid = Pid::from_raw(pid.split_whitespace().next()?.parse().ok()?)?;
            known.iter().all(|heir| heir.pid != pid).then_some(pid)
        });
        Self { pid, has_ended: false }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("send a signal");
    }

    /// Whose child it is.
    pub(crate) fn parent(&self) -> Pid {
        Pid::from_raw(self.stat(1).unwrap().parse().unwrap()).unwrap()
    }

    /// A field of the kernel's word on it, counted from behind its name.
    fn stat(&self, at: usize) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_whitespace().nth(at).map(str::to_owned)
    }

    /// Waits for its end; gives its exit code.
    pub(crate) fn wait_ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some((_, status))) = waitpid(Some(self.pid), WaitOptions::NOHANG) {
                self.has_ended = true;
                return status.exit_status();
            }
            assert!(Instant::now() < deadline, "{:?} is still running", self.pid);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it is there, and not as somebody who has ended and was not waited for.
    pub(crate) fn is_running(&self) -> bool {
        !self.has_ended && self.stat(0).is_some_and(|state| state != "Z")
    }
}

/// Puts a script where a gateway was called by a link, for its next upgrade.
pub(crate) fn put_script(at: &Path, script: &str) {
    let new = at.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, at).unwrap();
}

impl Drop for Heir {
    fn drop(&mut self) {
        if !self.has_ended && kill_process(self.pid, Signal::KILL).is_ok() {
            // Another's child still, or ours.
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}
