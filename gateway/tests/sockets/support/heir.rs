//! A process that a gateway started to serve instead of it: the test's orphan once the gateway has ended.

use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, test_kill_process, waitpid,
};

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
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        Pid::from_raw(fields.split_whitespace().nth(1).unwrap().parse().unwrap()).unwrap()
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

    /// Whether it is there.
    pub(crate) fn is_running(&self) -> bool {
        !self.has_ended && test_kill_process(self.pid).is_ok()
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if !self.has_ended && kill_process(self.pid, Signal::KILL).is_ok() {
            // Another's child still, or ours.
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}
