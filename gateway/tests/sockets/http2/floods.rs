//! Floods over HTTP/2, which cost the gateway more than the attacker.
//!
//! The gateway closes or limits each of these connections. They use little memory, and other
//! clients are served in the meantime.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::http2_frames::{
    CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, frame, head,
};
use crate::support::{
    Gateway, HOST, Http2, ORIGIN, PATIENCE, RawHttp2, RecordingUpstream, Sink, assert_allowed, config, tenant_config,
};

/// The most memory that one attacking connection may add.
const MEMORY_MAX: u64 = 32 * 1024 * 1024;
const CLOSED_EARLY: &str = "crossgate_connections_closed_early_total";
const GET: [(&str, &str); 5] =
    [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/"), ("origin", ORIGIN)];
const PREFLIGHT: [(&str, &str); 6] = [
    (":method", "OPTIONS"),
    (":scheme", "http"),
    (":authority", HOST),
    (":path", "/"),
    ("origin", ORIGIN),
    ("access-control-request-method", "PUT"),
];
/// The most frames that a flood sends.
const FRAMES: usize = 20_000;

struct Stage {
    gateway: Gateway,
    _sink: Sink,
}

fn stage(limits: &str) -> Stage {
    let sink = Sink::start();
    let unused = RecordingUpstream::answering("");
    let text = tenant_config(&unused, "").replace(&unused.address.to_string(), &sink.address.to_string());
    let gateway = Gateway::start(&config(&format!("{text}{limits}accessLog: {{ level: Off }}\n")), &[]);
    // The first request allocates memory that must not count as the cost of the flood.
    let client = Http2::open(gateway.data);
    assert_allowed(&client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
    drop(client);
    gateway.wait_zero("crossgate_connections_active", &[]);
    Stage { gateway, _sink: sink }
}

/// Sends `frames(0)`, `frames(1)` and so on until the connection ends. Returns the error code of
/// GOAWAY.
fn flood(gateway: &Gateway, mut frames: impl FnMut(usize) -> Vec<u8>) -> Option<u32> {
    let mut raw = RawHttp2::open(gateway.data, &[]);
    let mut reader = raw.reader();
    let goaway = thread::spawn(move || reader.goaway_code());
    for number in 0..FRAMES {
        if !raw.send(&frames(number)) {
            break;
        }
    }
    raw.finish_sending();
    goaway.join().unwrap()
}

/// Floods while other clients are served, and checks the reason that counts the closed connection.
fn check(frames: impl FnMut(usize) -> Vec<u8> + Send, counted: &str) {
    let (stage, _) = serve_while_flooded(frames);
    stage.gateway.wait_metric(CLOSED_EARLY, &[("reason", counted)], 1.0);
}

/// Floods while other clients are served. Returns the error code of GOAWAY, unless a reset has
/// overtaken it.
fn serve_while_flooded(frames: impl FnMut(usize) -> Vec<u8> + Send) -> (Stage, Option<u32>) {
    let stage = stage("");
    let gateway = &stage.gateway;
    let before = gateway.process.memory("VmHWM");
    let reason = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(gateway, frames));
        let other = Http2::open(gateway.data);
        let mut served = 0;
        while !flooding.is_finished() || served == 0 {
            assert_allowed(&gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]));
            // Below the limit of requests per connection.
            if served < 900 {
                assert_allowed(&other.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
            }
            served += 1;
        }
        flooding.join().unwrap()
    });
    let grown = gateway.process.memory("VmHWM").saturating_sub(before);
    assert!(grown < MEMORY_MAX, "{grown} bytes");
    // A reset of the TCP connection may overtake GOAWAY.
    assert!(matches!(reason, Some(ENHANCE_YOUR_CALM | 1) | None), "{reason:?}");
    gateway.wait_zero("crossgate_connections_active", &[]);
    assert!(!gateway.process.stderr().contains("panicked"), "{}", gateway.process.stderr());
    (stage, reason)
}

fn stream(number: usize) -> u32 {
    u32::try_from(number * 2 + 1).unwrap()
}

#[test]
fn rapid_resets_close_the_connection() {
    check(
        |number| {
            let cancelled = frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
            [head(stream(number), &GET, END_STREAM), cancelled].concat()
        },
        "http2_flood",
    );
}

#[test]
fn rapid_resets_of_preflights_close_the_connection() {
    // The limit on the requests of a connection would end it too.
    let Stage { gateway, _sink } = &stage("limits: { keepAliveRequests: 1000000 }\n");
    flood(gateway, |number| {
        // So few at a time that `h2` does not count the cancelled ones that it has not passed on.
        if number % 20 == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        let cancelled = frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
        [head(stream(number), &PREFLIGHT, END_STREAM), cancelled].concat()
    });
    gateway.wait_metric(CLOSED_EARLY, &[("reason", "http2_flood")], 1.0);
}

#[test]
fn unread_denials_of_preflights_are_reset() {
    const DENIED: usize = 20;
    let Stage { gateway, _sink } = &stage("limits: { writeStall: 1s }\n");
    // SETTINGS_INITIAL_WINDOW_SIZE 0: the gateway must not send any body.
    let mut raw = RawHttp2::open(gateway.data, &[0, 4, 0, 0, 0, 0]);
    let denied = PREFLIGHT.map(|(name, value)| (name, if name == "origin" { "https://evil.test" } else { value }));
    for number in 0..DENIED {
        assert!(raw.send(&head(stream(number), &denied, END_STREAM)));
    }
    let (mut heads, mut resets) = (0, 0);
    while resets < DENIED {
        let frame = raw.read().expect("every stream is reset");
        heads += usize::from(frame.kind == HEADERS);
        resets += usize::from(frame.kind == RST_STREAM);
        assert!(frame.kind != DATA || frame.payload.is_empty());
    }
    assert_eq!(heads, DENIED);
    gateway.wait_metric(CLOSED_EARLY, &[("reason", "write_stall")], DENIED as f64);
}

#[test]
fn streams_reset_by_the_gateway_close_the_connection() {
    check(
        |number| {
            // A window above 2^31 - 1 is an error of the stream: RFC 9113, section 6.9.1.
            let broken = frame(WINDOW_UPDATE, 0, stream(number), &0x7fff_ffff_u32.to_be_bytes());
            [head(stream(number), &GET, END_STREAM), broken].concat()
        },
        "http2_flood",
    );
}

#[test]
fn endless_continuation_frames_close_the_connection() {
    let (stage, reason) = serve_while_flooded(|number| match number {
        0 => frame(HEADERS, END_STREAM, 1, &block(&GET)),
        _ => frame(CONTINUATION, 0, 1, &block(&[("x", &"v".repeat(1_000))])),
    });
    // The `h2` crate detects this flood, by the number of frames or by their size. If the client
    // has reset the connection already, `h2` reports only an I/O error.
    let counted = match reason {
        Some(ENHANCE_YOUR_CALM) => "http2_flood",
        Some(_) => "http2_error",
        None => return,
    };
    stage.gateway.wait_metric(CLOSED_EARLY, &[("reason", counted)], 1.0);
}

#[test]
fn open_requests_over_the_stream_limit_close_the_connection() {
    // The gateway refuses each request over the stream limit.
    check(|number| head(stream(number), &GET, 0), "http2_flood");
}

#[test]
fn ping_flood_closes_the_connection() {
    check(|number| frame(PING, 0, 0, &(number as u64).to_be_bytes()), "http2_flood");
}

#[test]
fn settings_flood_closes_the_connection() {
    check(|_| frame(SETTINGS, 0, 0, &[]), "http2_flood");
}

#[test]
fn empty_data_frames_close_the_connection() {
    check(
        |number| match number {
            0 => head(1, &GET, 0),
            _ => frame(DATA, 0, 1, &[]),
        },
        "http2_flood",
    );
}

#[test]
fn window_updates_of_one_byte_close_the_connection() {
    check(|_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()), "http2_flood");
}

#[test]
fn priority_flood_closes_the_connection() {
    check(|number| frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 16]), "http2_flood");
}

#[test]
fn data_frame_on_stream_0_closes_the_connection() {
    // DATA must belong to a stream: RFC 9113, section 6.1.
    check(|_| frame(DATA, 0, 0, b"x"), "http2_error");
}

#[test]
fn unread_responses_on_100_streams_are_reset() {
    let Stage { gateway, _sink } = &stage("limits: { writeStall: 3s }\n");
    let before = gateway.process.memory("VmRSS");
    // SETTINGS_INITIAL_WINDOW_SIZE 0: the gateway must not send any body.
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
        assert!(Instant::now() < deadline, "the streams are not reset");
        assert_allowed(&other.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
        served += 1;
        most = most.max(gateway.process.memory("VmRSS"));
        thread::sleep(Duration::from_millis(20));
    }
    let grown = most - before;
    println!("{grown} bytes, {served} others served");
    // The same limit as in `slow.rs`, where the windows are open.
    assert!(grown < 8 << 20, "{grown} bytes");
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
