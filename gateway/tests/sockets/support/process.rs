//! The built binary as a child process: its output, its signals and its end.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The longest wait for a child. It is generous, because the tests run in parallel.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The lines of an output so far, whether it has ended, and a notification for changes.
#[derive(Debug, Default)]
struct Lines {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

/// A child process. Dropping it kills it by its process id.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stderr: Arc<Lines>,
    stdout: Arc<Lines>,
}

impl Process {
    pub(crate) fn crossgate(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
        command.args(arguments).env_remove("CROSSGATE_LOG");
        Self::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr = collect(child.stderr.take().unwrap());
        let stdout = collect(child.stdout.take().unwrap());
        Self { child, stderr, stdout }
    }

    /// Waits for the first line on stderr for which `wanted` returns a value.
    pub(crate) fn stderr_line<T>(&self, wanted: impl Fn(&str) -> Option<T>) -> T {
        self.stderr.wait_for(&wanted).unwrap_or_else(|seen| panic!("no matching line in {seen:#?}"))
    }

    /// Waits for the first line on stdout for which `wanted` returns a value.
    pub(crate) fn stdout_line<T>(&self, wanted: impl Fn(&str) -> Option<T>) -> T {
        self.stdout.wait_for(&wanted).unwrap_or_else(|seen| panic!("no matching line in {seen:#?}"))
    }

    /// The stderr output so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lines.lock().unwrap().0.join("\n")
    }

    /// The stdout output so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.lines.lock().unwrap().0.join("\n")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("send a signal");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the process has ended, at most for that time, and until its output is complete.
    pub(crate) fn wait_at_most(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.stderr.wait_for_end();
                self.stdout.wait_for_end();
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {limit:?}:\n{}", self.stderr());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The content of `/proc/PID/name`.
    pub(crate) fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }

    /// A field of `/proc/PID/status` in bytes: `VmRSS` is resident memory, `VmHWM` its peak.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a line of that name");
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// The number of entries in a directory of `/proc/PID`: descriptors in `fd`, threads in `task`.
    pub(crate) fn entries(&self, directory: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/{directory}", self.child.id())).unwrap().count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail if the child has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the child's stderr ---\n{}\n--- and stdout ---\n{}", self.stderr(), self.stdout());
        }
    }
}

impl Lines {
    fn wait_for<T>(&self, wanted: &dyn Fn(&str) -> Option<T>) -> Result<T, Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lines.lock().unwrap();
        loop {
            if let Some(found) = state.0.iter().find_map(|line| wanted(line)) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.1 || left.is_zero() {
                return Err(state.0.clone());
            }
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    fn wait_for_end(&self) {
        let state = self.lines.lock().unwrap();
        drop(self.changed.wait_timeout_while(state, PATIENCE, |state| !state.1).unwrap());
    }
}

fn collect(pipe: impl Read + Send + 'static) -> Arc<Lines> {
    let lines = Arc::new(Lines::default());
    let shared = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            shared.lines.lock().unwrap().0.push(line);
            shared.changed.notify_all();
        }
        shared.lines.lock().unwrap().1 = true;
        shared.changed.notify_all();
    });
    lines
}
