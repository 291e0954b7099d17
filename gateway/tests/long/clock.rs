//! A process that is suspended for a while: its clock jumps.
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Connection, HOST, ORIGIN, Site, Then, assert_allowed, handshake, request, websocket};

/// Shorter than every time limit of a valid waiting connection.
const SUSPENDED_FOR: Duration = Duration::from_secs(20);
/// Time for which the idle gateway is measured, and the limit on its processor time.
const IDLE: Duration = Duration::from_secs(3);
const TICKS_MAX: u64 = 100;

#[test]
fn process_suspended_by_sigstop_keeps_its_connections() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let site = Site::scripted(move |exchange| match exchange.seen.target.as_str() {
        "/socket" => websocket(exchange),
        "/slow" => {
            exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            released.lock().unwrap().recv().unwrap();
            exchange.write(b" done");
            Then::KeepAlive
        }
        _ => exchange.answer(200, &[], b"hello"),
    });
    let get = |target: &str| request("GET", target, HOST, &[("Origin", ORIGIN)], b"");
    let mut kept = site.connect();
    assert_allowed(&kept.exchange(&get("/")).unwrap());
    let mut socket = site.connect();
    assert_eq!(socket.exchange(&handshake(ORIGIN)).unwrap().status, 101);
    let mut slow = site.connect();
    slow.send(&get("/slow")).unwrap();
    assert_allowed(&slow.head().unwrap());

    site.gateway.process.signal(Signal::STOP);
    thread::sleep(SUSPENDED_FOR);
    site.gateway.process.signal(Signal::CONT);

    let begun = Instant::now();
    assert_allowed(&Connection::ask(site.gateway.data, &get("/")).unwrap());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_allowed(&kept.exchange(&get("/")).unwrap());
    socket.send(b"frame").unwrap();
    assert_eq!(socket.exactly(5).unwrap(), b"frame");
    release.send(()).unwrap();
    assert_eq!(slow.exactly(9).unwrap(), b"half done");
    assert_eq!(site.gateway.metric("crossgate_connections_closed_early_total", &[]), 0.0);

    let before = cpu_ticks(&site);
    thread::sleep(IDLE);
    assert!(cpu_ticks(&site) - before < TICKS_MAX, "the idle gateway uses too much processor time");
}

/// Reads the gateway's processor time, in hundredths of a second.
fn cpu_ticks(site: &Site) -> u64 {
    let stat = site.gateway.process.proc_file("stat");
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}
