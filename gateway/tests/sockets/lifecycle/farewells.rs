//! WebSockets that are still open when a stop ends: the gateway sends a Close frame with 1001
//! (going away) where one fits between two frames.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Authority, Connection, Gateway, HOST, ORIGIN, PATIENCE, RecordingUpstream, Successor, Tunnel, config,
    config_with_tls, handshake, tenant_config, websocket, websocket_sending,
};

/// FIN, Close, two bytes: 1001.
const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];
/// The client's Close frame in reply, masked with zeros.
const ANSWER: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];
const HELLO: &[u8] = b"\x81\x05hello";

/// Opens a WebSocket and reads the server's frames.
fn open(address: SocketAddr, frames: &[u8]) -> Connection {
    let mut socket = Connection::open(address);
    assert_eq!(socket.exchange(&handshake(ORIGIN)).unwrap().status, 101);
    assert_eq!(socket.exactly(frames.len()).unwrap(), frames);
    socket
}

fn start(upstream: &RecordingUpstream, grace: &str) -> Gateway {
    Gateway::start(&config(&format!("{}shutdown: {{ grace: {grace} }}\n", tenant_config(upstream, ""))), &[])
}

/// Stops a gateway with an open WebSocket and checks the last bytes that the client gets.
#[track_caller]
fn check(frames: &[u8], last: &[u8]) {
    let upstream = RecordingUpstream::start(websocket_sending(frames.to_vec()));
    let mut gateway = start(&upstream, "200ms");
    let mut socket = open(gateway.data, frames);
    gateway.process.signal(Signal::TERM);
    assert_eq!(socket.exactly(last.len()).unwrap(), last, "after {} bytes", frames.len());
    if !last.is_empty() {
        let _answered_or_late = socket.send(&ANSWER);
    }
    assert!(socket.is_at_end());
    assert_eq!(gateway.process.wait_at_most(PATIENCE).code(), Some(0), "{}", gateway.process.stderr());
}

#[test]
fn d9_stop_between_frames_sends_a_going_away_close() {
    let long = [&b"\x82\x7f\0\0\0\0\0\x01\x11\x70"[..], &[0x88; 70_000]].concat();
    // No frame yet; a message; a fragment, after which control frames are allowed; a compressed
    // message; a long message.
    for frames in [&b""[..], HELLO, b"\x01\x03hel", b"\xc1\x02\x4b\x04", &long] {
        check(frames, &GOING_AWAY);
    }
}

#[test]
fn d9_stop_within_a_frame_or_after_a_close_adds_nothing() {
    for frames in [&b"\x81"[..], b"\x81\x05hell", b"\x82\x7e\x01", b"\x88\x02\x03\xe8", b"\x88\0"] {
        check(frames, b"");
    }
}

#[test]
fn d9_stop_sends_a_close_frame_over_tls() {
    let (upstream, authority) = (RecordingUpstream::start(websocket_sending(HELLO.to_vec())), Authority::new("ours"));
    let text = format!("{}shutdown: {{ grace: 200ms }}\n", tenant_config(&upstream, ""));
    let mut gateway = Gateway::start(&config_with_tls(&text), &authority.issue(&[HOST]).files());
    let tunnel = Tunnel::to(gateway.data_listeners()[1], HOST, &authority);
    let mut socket = open(tunnel.address, HELLO);
    gateway.process.signal(Signal::TERM);
    assert_eq!(socket.exactly(GOING_AWAY.len()).unwrap(), GOING_AWAY);
    let _answered_or_late = socket.send(&ANSWER);
    assert!(socket.is_at_end());
    assert_eq!(gateway.process.wait_at_most(PATIENCE).code(), Some(0));
    assert_eq!(tunnel.unclean_ends(), 0);
}

#[test]
fn d9_stop_sends_a_close_frame_after_traffic() {
    let upstream = RecordingUpstream::start(websocket);
    let mut gateway = start(&upstream, "2s");
    let mut socket = open(gateway.data, b"");
    // Echoed unchanged, in pieces that are not whole frames.
    for piece in [&HELLO[..3], &HELLO[3..], &[HELLO, HELLO, &HELLO[..1]].concat(), &HELLO[1..]] {
        socket.send(piece).unwrap();
        assert_eq!(socket.exactly(piece.len()).unwrap(), piece);
    }
    gateway.process.signal(Signal::TERM);
    // The tunnel works until the end.
    socket.send(HELLO).unwrap();
    assert_eq!(socket.exactly(HELLO.len()).unwrap(), HELLO);
    assert_eq!(socket.exactly(GOING_AWAY.len()).unwrap(), GOING_AWAY);
    assert!(socket.is_at_end());
    assert_eq!(gateway.process.wait_at_most(PATIENCE).code(), Some(0));
    // The gateway ended the tunnel, so no client is counted as gone.
    let line = gateway.process.stdout_line(|line| line.contains("\"/socket\"").then(|| line.to_owned()));
    assert!(line.contains("\"status\":101"), "{line}");
}

#[test]
fn d9_unanswered_close_frames_delay_the_stop_only_briefly() {
    let upstream = RecordingUpstream::start(websocket_sending(HELLO.to_vec()));
    for (signal, grace) in [(Signal::TERM, Duration::from_millis(200)), (Signal::INT, Duration::ZERO)] {
        let mut gateway = start(&upstream, "200ms");
        let mut sockets: Vec<_> = (0..20).map(|_| open(gateway.data, HELLO)).collect();
        let begun = Instant::now();
        gateway.process.signal(signal);
        assert_eq!(gateway.process.wait_at_most(PATIENCE).code(), Some(0));
        let took = begun.elapsed();
        assert!(took >= grace && took < grace + Duration::from_secs(5), "{signal:?} {took:?}");
        for socket in &mut sockets {
            assert_eq!(socket.exactly(GOING_AWAY.len()).unwrap(), GOING_AWAY);
            assert!(socket.is_at_end());
        }
    }
}

#[test]
fn d9_end_of_a_hand_over_sends_a_close_frame() {
    let upstream = RecordingUpstream::start(websocket_sending(HELLO.to_vec()));
    let mut gateway = start(&upstream, "1s");
    let mut socket = open(gateway.data, HELLO);
    let successor = Successor::of(&gateway.process, |signal| gateway.process.signal(signal), &[]);
    assert_eq!(socket.exactly(GOING_AWAY.len()).unwrap(), GOING_AWAY);
    assert!(socket.is_at_end());
    let deadline = Instant::now() + PATIENCE;
    while gateway.process.is_running() {
        assert!(Instant::now() < deadline, "still running");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(open(gateway.data, HELLO));
    assert!(successor.is_running());
}
