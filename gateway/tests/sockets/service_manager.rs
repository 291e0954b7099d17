//! What systemd hears, over a socket of the test's.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use rustix::process::{Signal, getpid};
use tempfile::TempDir;

use crate::support::{Connection, Gateway, Heir, PATIENCE, RecordingUpstream, config, put_script, tenant_config};

/// The next message but for the watchdog's, line by line.
fn next(socket: &UnixDatagram) -> Vec<String> {
    loop {
        let lines = any(socket);
        if lines != ["WATCHDOG=1"] {
            return lines;
        }
    }
}

fn any(socket: &UnixDatagram) -> Vec<String> {
    let mut bytes = [0; 4096];
    let len = socket.recv(&mut bytes).expect("a message in time");
    String::from_utf8_lossy(&bytes[..len]).lines().map(str::to_owned).collect()
}

#[test]
fn the_service_manager_is_told_of_every_turn() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let upstream = RecordingUpstream::answering("hello");
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000").env_remove("WATCHDOG_PID");
    let good = config(&tenant_config(&upstream, ""));
    let mut gateway = Gateway::start_by(command, &good);
    assert_eq!(next(&socket), ["READY=1", "STATUS=serving configuration 1"]);
    while any(&socket) != ["WATCHDOG=1"] {}

    gateway.process.signal(Signal::HUP);
    let reloading = next(&socket);
    assert_eq!((reloading.len(), &*reloading[0], &*reloading[2]), (3, "RELOADING=1", "STATUS=reloading"));
    let at = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("the time");
    assert!(at.parse::<u64>().is_ok_and(|at| at > 0), "{at}");
    assert_eq!(next(&socket), ["READY=1", "STATUS=serving configuration 2"]);
    // One that is refused is over too.
    std::fs::write(gateway.path("crossgate.yaml"), "version: 2\n").unwrap();
    gateway.process.signal(Signal::HUP);
    assert_eq!(next(&socket)[0], "RELOADING=1");
    assert_eq!(next(&socket), ["READY=1", "STATUS=serving configuration 2"]);
    std::fs::write(gateway.path("crossgate.yaml"), good).unwrap();

    // The old process has a client to wait for.
    let _client = Connection::open(gateway.data);
    gateway.wait_metric("crossgate_connections_active", &[], 1.0);
    let mut heir = Heir::of(&gateway.process, |signal| gateway.process.signal(signal), &[]);
    let pid = heir.pid.as_raw_nonzero();
    assert_eq!(next(&socket), [format!("MAINPID={pid}"), "STATUS=handed over; the old process drains".to_owned()]);
    // systemd would not wait for the end of one that is no child of its own by now, and kill it in the middle of its drain.
    assert_eq!(heir.parent(), getpid());
    assert!(gateway.process.is_running(), "or it had to be");
    assert_eq!(next(&socket), ["READY=1", "STATUS=serving configuration 1"]);
    while any(&socket) != ["WATCHDOG=1"] {}
    heir.signal(Signal::TERM);
    assert_eq!(next(&socket), ["STOPPING=1", "STATUS=draining"]);
    assert_eq!(heir.wait_ended(), Some(0));
}

#[test]
fn whoever_starts_the_new_process_has_ended_before_the_service_manager_hears_of_it() {
    let directory = TempDir::new().unwrap();
    let (notify, program) = (directory.path().join("notify"), directory.path().join("crossgate"));
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let upstream = RecordingUpstream::answering("hello");
    symlink(env!("CARGO_BIN_EXE_crossgate"), &program).unwrap();
    let mut command = Command::new(&program);
    command.env("NOTIFY_SOCKET", &notify);
    let mut gateway = Gateway::start_by(command, &config(&tenant_config(&upstream, "")));
    assert_eq!(next(&socket)[0], "READY=1");
    // It does what it is there for, and stays. What a shell starts beside itself has standard input from elsewhere, unless from a copy.
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
    let heir = Heir::of(&gateway.process, |signal| gateway.process.signal(signal), &[]);
    assert_eq!(next(&socket)[0], format!("MAINPID={}", heir.pid.as_raw_nonzero()));
    assert_eq!(heir.parent(), getpid());
    assert!(gateway.process.is_running(), "or it had to be");
}
