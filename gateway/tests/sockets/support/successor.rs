//! The successor that a gateway started in an upgrade. It is an orphan, and the test adopts it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

use super::process::{PATIENCE, Process};

/// The process of the successor. Dropping it kills it by its process id.
#[derive(Debug)]
pub(crate) struct Successor {
    pub(crate) pid: Pid,
    has_ended: bool,
}

impl Successor {
    /// Sends the upgrade signal to the serving process and waits for the hand-over. All successors
    /// inherit the standard error of the `first` process, so its lines have the new pid.
    pub(crate) fn of(first: &Process, signal: impl FnOnce(Signal), known: &[&Successor]) -> Self {
        // Orphans become children of this process.
        set_child_subreaper(Some(getpid())).unwrap();
        signal(Signal::USR2);
        let pid = first.stderr_line(|line| {
            let (_, pid) = line.split_once("sockets handed over pid=")?;
            let pid = Pid::from_raw(pid.split_whitespace().next()?.parse().ok()?)?;
            known.iter().all(|successor| successor.pid != pid).then_some(pid)
        });
        Self { pid, has_ended: false }
    }

    /// A process that the test found itself.
    pub(crate) fn adopted(pid: Pid) -> Self {
        Self { pid, has_ended: false }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("send a signal");
    }

    /// The parent process.
    pub(crate) fn parent(&self) -> Pid {
        Pid::from_raw(self.stat(1).unwrap().parse().unwrap()).unwrap()
    }

    /// A field of `/proc/PID/stat`, counted from the field after the name.
    fn stat(&self, at: usize) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_whitespace().nth(at).map(str::to_owned)
    }

    /// Waits until the process ends, and returns its exit code.
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

    /// Whether the process exists and is not a zombie.
    pub(crate) fn is_running(&self) -> bool {
        !self.has_ended && self.stat(0).is_some_and(|state| state != "Z")
    }
}

/// Replaces the link through which a gateway was started by a script, which the next upgrade
/// starts.
pub(crate) fn put_script(at: &Path, script: &str) {
    let new = at.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, at).unwrap();
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.has_ended && kill_process(self.pid, Signal::KILL).is_ok() {
            // Fails if the process is not yet a child of this one.
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}
