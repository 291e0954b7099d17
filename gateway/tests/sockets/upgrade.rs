//! Upgrades: a new process takes over the sockets of the running one. No request is refused or cut
//! off, and a failed upgrade changes nothing.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, PATIENCE, RecordingUpstream, Response, Site, Successor, Then, assert_allowed,
    config, handshake, put_script, request, tenant_config, websocket,
};

const CLIENTS: usize = 8;

fn get(path: &str) -> Vec<u8> {
    request("GET", path, HOST, &[("Origin", ORIGIN)], b"")
}

fn preflight() -> Vec<u8> {
    request("OPTIONS", "/", HOST, &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b"")
}

fn post() -> Vec<u8> {
    request("POST", "/", HOST, &[("Origin", ORIGIN), ("Content-Type", "application/json")], &[b'x'; 1024])
}

fn hand_over(gateway: &Gateway) -> Successor {
    Successor::of(&gateway.process, |signal| gateway.process.signal(signal), &[])
}

/// Waits for the end of the first process. Its successors still write to its output.
fn wait_ended(gateway: &mut Gateway) {
    let deadline = Instant::now() + PATIENCE;
    while gateway.process.is_running() {
        assert!(Instant::now() < deadline, "still running:\n{}", gateway.process.stderr());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends requests over one connection, and over a new one only after `Connection: close`.
fn send_until(address: SocketAddr, is_over: &AtomicBool, asked: &AtomicU64) {
    let requests = [get("/"), preflight(), post()];
    let mut connection = Connection::open(address);
    for request in requests.iter().cycle() {
        if is_over.load(SeqCst) {
            return;
        }
        let answer = connection.exchange(request).unwrap_or_else(|error| panic!("{error:?}"));
        assert_allowed_or_no_content(&answer);
        asked.fetch_add(1, SeqCst);
        if is_last(&answer) {
            assert!(connection.is_at_end());
            connection = Connection::open(address);
        }
    }
}

fn is_last(answer: &Response) -> bool {
    answer.headers.all("connection").iter().any(|option| option.eq_ignore_ascii_case("close"))
}

fn assert_allowed_or_no_content(answer: &Response) {
    assert!(matches!(answer.status, 200 | 204), "{answer:?}");
    assert_eq!(answer.headers.one("access-control-allow-origin"), ORIGIN);
}

/// Sends requests with a new connection for each.
fn connect_until(address: SocketAddr, is_over: &AtomicBool, asked: &AtomicU64) {
    while !is_over.load(SeqCst) {
        for request in [get("/"), preflight()] {
            assert_allowed_or_no_content(
                &Connection::ask(address, &request).unwrap_or_else(|error| panic!("{error:?}")),
            );
            asked.fetch_add(1, SeqCst);
        }
    }
}

/// Checks that the address is ready all the time.
fn probe_until(address: SocketAddr, is_over: &AtomicBool) {
    let probe = request("GET", "/readyz", &address.to_string(), &[], b"");
    while !is_over.load(SeqCst) {
        assert_eq!(Connection::ask(address, &probe).unwrap().status, 200);
    }
}

#[test]
fn two_upgrades_in_a_row_fail_no_request() {
    let (arrived, arrivals) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (arrived, released) = (Mutex::new(arrived), Mutex::new(released));
    let upstream = RecordingUpstream::start(move |exchange| {
        exchange.read_body();
        if exchange.seen.target != "/slow" {
            return exchange.answer(200, &[], b"hello");
        }
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        arrived.lock().unwrap().send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        exchange.write(b" done");
        Then::KeepAlive
    });
    let mut site = Site::with_upstream(upstream, "shutdown: { grace: 2m }\naccessLog: { level: Off }\n");
    let (data, admin) = (site.gateway.data, site.gateway.admin);
    let (is_over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    // In flight during both upgrades.
    let mut slow = site.connect();
    slow.send(&get("/slow")).unwrap();
    arrivals.recv().unwrap();
    let (second, mut third) = thread::scope(|scope| {
        let is_over = EndOnDrop(&is_over);
        for _ in 0..CLIENTS {
            scope.spawn(|| send_until(data, is_over.0, &asked));
        }
        scope.spawn(|| connect_until(data, is_over.0, &asked));
        scope.spawn(|| probe_until(admin, is_over.0));
        wait_more(&asked, 200);
        let mut second = hand_over(&site.gateway);
        wait_more(&asked, 200);
        let third = Successor::of(&site.gateway.process, |signal| second.signal(signal), &[&second]);
        wait_more(&asked, 200);
        // The first process still has a request, the second none.
        release.send(()).unwrap();
        let answer = slow.answer_to(b"GET").unwrap();
        assert_allowed(&answer);
        assert_eq!(answer.text(), "half done");
        assert!(slow.is_at_end());
        wait_ended(&mut site.gateway);
        assert_eq!(second.wait_ended(), Some(0));
        wait_more(&asked, 200);
        (second, third)
    });
    assert!(third.is_running() && !second.is_running());
    assert_eq!(site.gateway.metric("crossgate_ready", &[]), 1.0);
    third.signal(Signal::TERM);
    assert_eq!(third.wait_ended(), Some(0));
    assert!(std::net::TcpStream::connect(data).is_err(), "a socket is still open");
    assert!(!site.gateway.process.stderr().contains("ERROR"), "{}", site.gateway.process.stderr());
}

/// Ends the other threads when the test ends or fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn wait_more(asked: &AtomicU64, more: u64) {
    let (wanted, deadline) = (asked.load(SeqCst) + more, Instant::now() + PATIENCE);
    while asked.load(SeqCst) < wanted {
        assert!(Instant::now() < deadline, "no request is answered");
        thread::yield_now();
    }
}

#[test]
fn idle_connection_and_websocket_survive_the_hand_over() {
    let upstream = RecordingUpstream::start(websocket);
    let mut site = Site::with_upstream(upstream, "shutdown: { grace: 8s }\n");
    let mut socket = site.connect();
    assert_eq!(socket.exchange(&handshake(ORIGIN)).unwrap().status, 101);
    let mut idle = site.connect();
    assert_eq!(idle.exchange(&preflight()).unwrap().status, 204);
    let successor = hand_over(&site.gateway);
    socket.send(b"frame").unwrap();
    assert_eq!(socket.exactly(5).unwrap(), b"frame");
    // The old process still answers, and closes the connection once it drains.
    while !is_last(&idle.exchange(&preflight()).unwrap()) {}
    assert!(idle.is_at_end());
    wait_ended(&mut site.gateway);
    assert!(socket.is_at_end());
    assert!(successor.is_running());
}

#[test]
fn failed_start_of_the_new_process_changes_nothing() {
    let upstream = RecordingUpstream::answering("hello");
    let good = config(&tenant_config(&upstream, ""));
    let mut gateway = Gateway::start(&good, &[]);
    let ask = |gateway: &Gateway| assert_allowed(&Connection::ask(gateway.data, &get("/")).unwrap());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let second = format!("  - address: {}\nadmin:", taken.local_addr().unwrap());
    for (bad, message) in
        [("version: 2\n".to_owned(), "crossgate.yaml:1:"), (good.replace("admin:", &second), "cannot listen on")]
    {
        fs::write(gateway.path("crossgate.yaml"), bad).unwrap();
        let fails = gateway.process.stderr().matches("the new process failed to serve").count();
        gateway.process.signal(Signal::USR2);
        gateway.process.stderr_line(|line| line.contains(message).then_some(()));
        let deadline = Instant::now() + PATIENCE;
        while gateway.process.stderr().matches("the new process failed to serve").count() == fails {
            assert!(Instant::now() < deadline, "{}", gateway.process.stderr());
            thread::yield_now();
        }
        ask(&gateway);
    }
    assert!(gateway.process.is_running());
    assert_eq!(gateway.admin("GET", "/readyz").status, 200);
    // After the correction the hand-over succeeds.
    fs::write(gateway.path("crossgate.yaml"), good).unwrap();
    let successor = hand_over(&gateway);
    wait_ended(&mut gateway);
    ask(&gateway);
    assert!(successor.is_running());
}

#[test]
fn listeners_are_kept_added_and_dropped_by_an_upgrade() {
    let upstream = RecordingUpstream::answering("hello");
    let good = config(&tenant_config(&upstream, ""));
    let mut gateway = Gateway::start(&good.replace("admin:", "  - address: 127.0.0.1:0\nadmin:"), &[]);
    let before = gateway.data_listeners();
    let other = good.replace("admin:", "  - { address: 127.0.0.2:0, trustedProxies: [127.0.0.0/8] }\nadmin:");
    fs::write(gateway.path("crossgate.yaml"), other).unwrap();
    let _successor = hand_over(&gateway);
    wait_ended(&mut gateway);
    let after = gateway.data_listeners().split_off(before.len());
    assert_eq!((after.len(), after[0]), (2, before[0]));
    for address in after {
        assert_allowed(&Connection::ask(address, &get("/")).unwrap());
    }
    assert!(std::net::TcpStream::connect(before[1]).is_err(), "the removed listener still accepts");
}

/// Starts a gateway through a symbolic link, which a test can replace with another program.
fn start_by_link(directory: &Path, text: &str) -> Gateway {
    symlink(env!("CARGO_BIN_EXE_crossgate"), directory.join("crossgate")).unwrap();
    Gateway::start_by(Command::new(directory.join("crossgate")), text)
}

#[test]
fn upgrade_starts_the_current_binary_of_that_name() {
    let (upstream, directory) = (RecordingUpstream::answering("hello"), TempDir::new().unwrap());
    let mut gateway = start_by_link(directory.path(), &config(&tenant_config(&upstream, "")));
    let binary = env!("CARGO_BIN_EXE_crossgate");
    put_script(&directory.path().join("crossgate"), &format!("echo started with \"$@\" >&2; exec {binary} \"$@\""));
    let _successor = hand_over(&gateway);
    let arguments = gateway.process.stderr_line(|line| line.strip_prefix("started with ").map(str::to_owned));
    assert!(arguments.starts_with("run --config /") && arguments.ends_with(" --take-over"), "{arguments}");
    wait_ended(&mut gateway);
    assert_allowed(&Connection::ask(gateway.data, &get("/")).unwrap());
}

#[test]
fn a_stop_while_the_new_process_starts_ends_both() {
    let (upstream, directory) = (RecordingUpstream::answering("hello"), TempDir::new().unwrap());
    let mut gateway = start_by_link(directory.path(), &config(&tenant_config(&upstream, "")));
    put_script(&directory.path().join("crossgate"), "echo begun >&2; cat >/dev/null; echo left >&2");
    gateway.process.signal(Signal::USR2);
    gateway.process.stderr_line(|line| (line == "begun").then_some(()));
    // A second signal during the start of the new process is ignored.
    gateway.process.signal(Signal::USR2);
    gateway.process.stderr_line(|line| line.contains("a new process is already starting").then_some(()));
    assert_allowed(&Connection::ask(gateway.data, &get("/")).unwrap());
    gateway.process.signal(Signal::TERM);
    assert_eq!(gateway.process.wait_at_most(PATIENCE).code(), Some(0));
    gateway.process.stderr_line(|line| (line == "left").then_some(()));
}

#[test]
fn a_stop_before_a_new_process_serves_ends_it_too() {
    let (upstream, directory) = (RecordingUpstream::answering("hello"), TempDir::new().unwrap());
    let mut gateway = start_by_link(directory.path(), &config(&tenant_config(&upstream, "")));
    // A child process that announces itself and does nothing else.
    let successor = r#"printf "here %010d\n" $$; cat >/dev/null; echo left >&2"#;
    put_script(&directory.path().join("crossgate"), &format!("exec 3<&0; sh -c '{successor}' <&3 >&3 3<&- &"));
    gateway.process.signal(Signal::USR2);
    gateway.process.stderr_line(|line| line.contains("a new process takes over").then_some(()));
    assert_allowed(&Connection::ask(gateway.data, &get("/")).unwrap());
    gateway.process.signal(Signal::TERM);
    assert_eq!(gateway.process.wait_at_most(PATIENCE).code(), Some(0));
    gateway.process.stderr_line(|line| (line == "left").then_some(()));
}

#[test]
fn upgrade_without_a_predecessor_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("crossgate.yaml");
    let upstream = RecordingUpstream::answering("hello");
    fs::write(&path, config(&tenant_config(&upstream, ""))).unwrap();
    for word in ["--take-over", "--succeed"] {
        let mut process = crate::support::Process::crossgate(&["run", "--config", path.to_str().unwrap(), word]);
        assert_eq!(process.wait_at_most(PATIENCE).code(), Some(1));
        assert!(process.stderr().contains("remove them"), "{}", process.stderr());
    }
}
