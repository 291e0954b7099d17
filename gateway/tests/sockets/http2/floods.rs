//! Floods over HTTP/2: connections that are to cost the gateway more than their client. Each is ended or bounded, holds little memory, and is
//! not noticed by anybody else.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::http2_frames::{
    CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, frame, head,
};
use crate::support::{
    Gateway, HOST, Http2, ORIGIN, PATIENCE, RawHttp2, RecordingUpstream, Sink, assert_allowed, config, tenant_config,
};

/// What one attacking connection may add to the gateway's memory.
const MEMORY_MAX: u64 = 32 * 1024 * 1024;
const CLOSED_EARLY: &str = "crossgate_connections_closed_early_total";
const GET: [(&str, &str); 5] =
    [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/"), ("origin", ORIGIN)];
/// Frames that are sent at most; a hundred at a time.
const FRAMES: usize = 20_000;

struct Stage {
    gateway: Gateway,
    _sink: Sink,
}

fn stage(limits: &str) -> Stage {
    let sink = Sink::start();
    let nobody = RecordingUpstream::answering("");
    let text = tenant_config(&nobody, "").replace(&nobody.address.to_string(), &sink.address.to_string());
    let gateway = Gateway::start(&config(&format!("{text}{limits}accessLog: {{ level: Off }}\n")), &[]);
    // What the first request of each kind costs is not the attacker's doing.
    let client = Http2::open(gateway.data);
    assert_allowed(&client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
    drop(client);
    gateway.wait_gone("crossgate_connections_active", &[]);
    Stage { gateway, _sink: sink }
}

/// Sends `frames`, told how often it has, until the connection ends; the reason that the client is given.
fn flood(gateway: &Gateway, mut frames: impl FnMut(usize) -> Vec<u8>) -> Option<u32> {
    let mut raw = RawHttp2::open(gateway.data, &[]);
    let mut listening = raw.listening();
    let told = thread::spawn(move || listening.reason_of_end());
    for number in 0..FRAMES {
        if !raw.send(&frames(number)) {
            break;
        }
    }
    raw.finish_sending();
    told.join().unwrap()
}

/// Floods while others are served, and holds what that cost.
fn check(frames: impl FnMut(usize) -> Vec<u8> + Send, counted: &str) {
    let Stage { gateway, _sink } = &stage("");
    let before = gateway.process.memory("VmHWM");
    let reason = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(gateway, frames));
        let other = Http2::open(gateway.data);
        let mut served = 0;
        while !flooding.is_finished() || served == 0 {
            assert_allowed(&gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]));
            // Below what one connection carries.
            if served < 900 {
                assert_allowed(&other.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
            }
            served += 1;
        }
        flooding.join().unwrap()
    });
    let grown = gateway.process.memory("VmHWM").saturating_sub(before);
    assert!(grown < MEMORY_MAX, "{grown} bytes");
    // A reset may have overtaken it.
    assert!(matches!(reason, Some(ENHANCE_YOUR_CALM | 1) | None), "{reason:?}");
    gateway.wait_metric(CLOSED_EARLY, &[("reason", counted)], 1.0);
    gateway.wait_gone("crossgate_connections_active", &[]);
    assert!(!gateway.process.stderr().contains("panicked"), "{}", gateway.process.stderr());
}

fn stream(number: usize) -> u32 {
    u32::try_from(number * 2 + 1).unwrap()
}

#[test]
fn rapid_resets_end_their_connection() {
    check(
        |number| {
            let cancelled = frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
            [head(stream(number), &GET, END_STREAM), cancelled].concat()
        },
        "http2_flood",
    );
}

#[test]
fn streams_that_make_the_gateway_reset_them_end_their_connection() {
    check(
        |number| {
            // More than a window can be.
            let broken = frame(WINDOW_UPDATE, 0, stream(number), &0x7fff_ffff_u32.to_be_bytes());
            [head(stream(number), &GET, END_STREAM), broken].concat()
        },
        "http2_flood",
    );
}

#[test]
fn a_head_that_never_ends_ends_its_connection() {
    check(
        |number| match number {
            0 => frame(HEADERS, END_STREAM, 1, &block(&GET)),
            _ => frame(CONTINUATION, 0, 1, &block(&[("x", &"v".repeat(1_000))])),
        },
        "http2_flood",
    );
}

#[test]
fn heads_that_stay_open_are_bounded() {
    // Each is refused once there are as many as there may be.
    check(|number| head(stream(number), &GET, 0), "http2_flood");
}

#[test]
fn pings_end_their_connection() {
    check(|number| frame(PING, 0, 0, &(number as u64).to_be_bytes()), "http2_flood");
}

#[test]
fn settings_end_their_connection() {
    check(|_| frame(SETTINGS, 0, 0, &[]), "http2_flood");
}

#[test]
fn empty_data_ends_its_connection() {
    check(
        |number| match number {
            0 => head(1, &GET, 0),
            _ => frame(DATA, 0, 1, &[]),
        },
        "http2_flood",
    );
}

#[test]
fn windows_opened_byte_by_byte_end_their_connection() {
    check(|_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()), "http2_flood");
}

#[test]
fn priorities_end_their_connection() {
    check(|number| frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 16]), "http2_flood");
}

#[test]
fn what_is_no_http_2_ends_its_connection() {
    // DATA of the connection.
    check(|_| frame(DATA, 0, 0, b"x"), "http2_error");
}

#[test]
fn a_hundred_answers_that_nobody_takes_are_cut() {
    let Stage { gateway, _sink } = &stage("limits: { writeStall: 3s }\n");
    let before = gateway.process.memory("VmRSS");
    // INITIAL_WINDOW_SIZE: nothing may be sent of any body.
    let mut raw = RawHttp2::open(gateway.data, &[0, 4, 0, 0, 0, 0]);
    let large: Vec<_> =
        GET.iter().map(|(name, value)| (*name, if *name == ":path" { "/large" } else { *value })).collect();
    for number in 0..100 {
        assert!(raw.send(&head(stream(number), &large, END_STREAM)));
    }
    let other = Http2::open(gateway.data);
    let (mut most, mut served) = (before, 0);
    let deadline = Instant::now() + PATIENCE;
    while gateway.metric(CLOSED_EARLY, &[("reason", "write_stall")]) < 100.0 {
        assert!(Instant::now() < deadline, "not cut");
        assert_allowed(&other.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
        served += 1;
        most = most.max(gateway.process.memory("VmRSS"));
        thread::sleep(Duration::from_millis(20));
    }
    let grown = most - before;
    println!("{grown} bytes, {served} others served");
    // As much as a hundred connections over HTTP/1.1 that take nothing.
    assert!(grown < 100 * 704 * 1024, "{grown} bytes");
    drop(other);
    let (mut heads, mut resets) = (0, 0);
    while resets < 100 {
        let frame = raw.read().expect("every stream is reset");
        heads += usize::from(frame.kind == HEADERS);
        resets += usize::from(frame.kind == RST_STREAM);
        assert!(frame.kind != DATA || frame.payload.is_empty());
    }
    assert_eq!(heads, 100);
}
