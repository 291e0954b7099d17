//! Messages to systemd (`sd_notify`), received on a socket of the test.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use rustix::process::{Signal, getpid};
use tempfile::TempDir;

use crate::support::{Connection, Gateway, PATIENCE, RecordingUpstream, Successor, config, put_script, tenant_config};

/// Receives the next message that is not from the watchdog, as lines.
fn receive_state(socket: &UnixDatagram) -> Vec<String> {
    loop {
        let lines = receive(socket);
        if lines != ["WATCHDOG=1"] {
            return lines;
        }
    }
}

fn receive(socket: &UnixDatagram) -> Vec<String> {
    let mut bytes = [0; 4096];
    let len = socket.recv(&mut bytes).expect("a message in time");
    String::from_utf8_lossy(&bytes[..len]).lines().map(str::to_owned).collect()
}

#[test]
fn service_manager_receives_every_state_change() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let upstream = RecordingUpstream::answering("hello");
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000").env_remove("WATCHDOG_PID");
    let good = config(&tenant_config(&upstream, ""));
    let mut gateway = Gateway::start_by(command, &good);
    assert_eq!(receive_state(&socket), ["READY=1", "STATUS=serving configuration 1"]);
    while receive(&socket) != ["WATCHDOG=1"] {}

    gateway.process.signal(Signal::HUP);
    let reloading = receive_state(&socket);
    assert_eq!((reloading.len(), &*reloading[0], &*reloading[2]), (3, "RELOADING=1", "STATUS=reloading"));
    let at = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("the time");
    assert!(at.parse::<u64>().is_ok_and(|at| at > 0), "{at}");
    assert_eq!(receive_state(&socket), ["READY=1", "STATUS=serving configuration 2"]);
    // A refused reload also ends the reloading state.
    std::fs::write(gateway.path("crossgate.yaml"), "version: 2\n").unwrap();
    gateway.process.signal(Signal::HUP);
    assert_eq!(receive_state(&socket)[0], "RELOADING=1");
    assert_eq!(receive_state(&socket), ["READY=1", "STATUS=serving configuration 2"]);
    std::fs::write(gateway.path("crossgate.yaml"), good).unwrap();

    // The old process waits for a client.
    let _client = Connection::open(gateway.data);
    gateway.wait_metric("crossgate_connections_active", &[], 1.0);
    let mut successor = Successor::of(&gateway.process, |signal| gateway.process.signal(signal), &[]);
    let pid = successor.pid.as_raw_nonzero();
    assert_eq!(
        receive_state(&socket),
        [format!("MAINPID={pid}"), "STATUS=handed over; the old process drains".to_owned()]
    );
    // systemd does not wait for a main process that is not its child, and would kill it during its
    // drain, so the new process becomes the main process.
    assert_eq!(successor.parent(), getpid());
    assert!(gateway.process.is_running(), "or it had to be");
    assert_eq!(receive_state(&socket), ["READY=1", "STATUS=serving configuration 1"]);
    while receive(&socket) != ["WATCHDOG=1"] {}
    successor.signal(Signal::TERM);
    assert_eq!(receive_state(&socket), ["STOPPING=1", "STATUS=draining"]);
    assert_eq!(successor.wait_ended(), Some(0));
}

#[test]
fn upgrade_helper_exits_before_main_pid_is_announced() {
    let directory = TempDir::new().unwrap();
    let (notify, program) = (directory.path().join("notify"), directory.path().join("crossgate"));
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let upstream = RecordingUpstream::answering("hello");
    symlink(env!("CARGO_BIN_EXE_crossgate"), &program).unwrap();
    let mut command = Command::new(&program);
    command.env("NOTIFY_SOCKET", &notify);
    let mut gateway = Gateway::start_by(command, &config(&tenant_config(&upstream, "")));
    assert_eq!(receive_state(&socket)[0], "READY=1");
    // The wrapper starts the new process and stays. A shell redirects the standard input of
    // background jobs, so a copy of the descriptor is passed.
    let script = format!(
        r#"exec 3<&0
for argument; do shift; [ "$argument" = --take-over ] || set -- "$@" "$argument"; done
{} "$@" --succeed <&3 3<&- &
exec sleep 60 3<&-"#,
        env!("CARGO_BIN_EXE_crossgate")
    );
    put_script(&program, &script);
    let _client = Connection::open(gateway.data);
    gateway.wait_metric("crossgate_connections_active", &[], 1.0);
    let successor = Successor::of(&gateway.process, |signal| gateway.process.signal(signal), &[]);
    assert_eq!(receive_state(&socket)[0], format!("MAINPID={}", successor.pid.as_raw_nonzero()));
    assert_eq!(successor.parent(), getpid());
    assert!(gateway.process.is_running(), "or it had to be");
}
