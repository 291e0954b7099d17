//! A gateway whose standard error or standard output is closed, full or stuck from its start.
//!
//! Its output cannot be read, so the harness takes its addresses from `/proc/net/tcp`. Its
//! successor is the other process that has the same sockets.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, PipeReader, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use tempfile::TempDir;

use super::gateway::config_directory;
use super::process::PATIENCE;
use super::successor::Successor;
use super::wire::{Connection, Response, request};

/// The state of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// `/dev/null`.
    Discarded,
    /// A pipe whose reader is closed.
    Closed,
    /// `/dev/full`: every write fails with ENOSPC.
    Full,
    /// A full pipe that is not read: every write blocks.
    Stuck,
}

#[derive(Debug)]
pub(crate) struct BrokenOutputGateway {
    child: Child,
    has_ended: bool,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) directory: TempDir,
    sockets: Vec<String>,
    _unread: Vec<PipeReader>,
}

impl Output {
    fn stdio(self, unread: &mut Vec<PipeReader>) -> Stdio {
        match self {
            Output::Discarded => Stdio::null(),
            Output::Full => File::options().write(true).open("/dev/full").unwrap().into(),
            Output::Closed => io::pipe().unwrap().1.into(),
            Output::Stuck => {
                let (reader, mut writer) = io::pipe().unwrap();
                fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
                while writer.write(&[b'-'; 4096]).is_ok() {}
                while writer.write(b"-").is_ok() {}
                fcntl_setfl(&writer, OFlags::empty()).unwrap();
                unread.push(reader);
                OwnedFd::from(writer).into()
            }
        }
    }
}

impl BrokenOutputGateway {
    /// Writes `text` as `crossgate.yaml` and `files` next to it, and starts the gateway. Returns
    /// when it is ready.
    pub(crate) fn start(text: &str, files: &[(&str, &str)], stdout: Output, stderr: Output) -> Self {
        let (directory, path) = config_directory(text, files);
        let mut unread = Vec::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
        command.args(["run", "--config", path.to_str().unwrap()]).env_remove("CROSSGATE_LOG").stdin(Stdio::null());
        command.stdout(stdout.stdio(&mut unread)).stderr(stderr.stdio(&mut unread));
        let mut child = command.spawn().unwrap();
        let pid = child.id();
        let sockets = wait_for("two listening sockets", || {
            assert_eq!(child.try_wait().unwrap(), None, "the gateway ended");
            Some(listening(pid)).filter(|sockets| sockets.len() == 2)
        });
        let admin = wait_for("an admin listener", || {
            sockets
                .values()
                .copied()
                .find(|address| ask(*address, "GET", "/livez").is_some_and(|live| live.status == 200))
        });
        let data = *sockets.values().find(|address| **address != admin).unwrap();
        let sockets = sockets.into_keys().collect();
        let gateway = Self { child, has_ended: false, data, admin, directory, sockets, _unread: unread };
        wait_for("ready", || (gateway.admin("GET", "/readyz").status == 200).then_some(()));
        gateway
    }

    /// Sends one request to the admin listener.
    pub(crate) fn admin(&self, method: &str, target: &str) -> Response {
        ask(self.admin, method, target).unwrap_or_else(|| panic!("no answer to {method} {target}"))
    }

    /// The sum of all series of that name whose line contains `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.admin("GET", "/metrics").text();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Waits until a series satisfies `holds`.
    pub(crate) fn wait_metric(&self, name: &str, label: &str, holds: impl Fn(f64) -> bool) {
        wait_for(&format!("{name} {label}"), || holds(self.metric(name, label)).then_some(()));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the process ends, and returns its exit code.
    pub(crate) fn wait_ended(&mut self) -> Option<i32> {
        let status = wait_for("the end", || self.child.try_wait().unwrap());
        self.has_ended = true;
        status.code()
    }

    /// Upgrades to a new process. Returns it when it has the sockets and the old process has exited
    /// with 0.
    pub(crate) fn hand_over(&mut self) -> Successor {
        set_child_subreaper(Some(getpid())).unwrap();
        self.signal(Signal::USR2);
        assert_eq!(self.wait_ended(), Some(0));
        wait_for("a successor", || {
            let processes =
                fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            let mut with_sockets =
                processes.filter(|pid: &u32| descriptors(*pid).any(|name| self.sockets.contains(&name)));
            with_sockets.next().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).map(Successor::adopted)
        })
    }
}

impl Drop for BrokenOutputGateway {
    fn drop(&mut self) {
        if !self.has_ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn ask(address: SocketAddr, method: &str, target: &str) -> Option<Response> {
    let bytes = request(method, target, &address.to_string(), &[("Connection", "close")], b"");
    Connection::ask(address, &bytes).ok()
}

/// The IPv4 sockets that a process listens on, by their names in `/proc/PID/fd`.
fn listening(pid: u32) -> BTreeMap<String, SocketAddr> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let own: Vec<String> = descriptors(pid).collect();
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let name = format!("socket:[{}]", columns.get(9)?);
        let (_, port) = columns.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (columns[3] == "0A" && own.contains(&name)).then_some((name, SocketAddr::from(([127, 0, 0, 1], port))))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// The link targets in `/proc/PID/fd`. Empty if the process has ended or belongs to another user.
fn descriptors(pid: u32) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    entries.filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.to_str()?.to_owned()))
}

fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
