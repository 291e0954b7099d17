//! Load balancers that send a PROXY header: its address is the client everywhere, and only trusted
//! balancers may send one.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, RecordingUpstream, Response, WireError, assert_allowed, request, tenant_config,
};

/// Client address in the PROXY header.
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// An address in the listener's `trustedProxies`. The balancer is not one of them.
const PROXY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const FORGED: [(&str, &str); 2] = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https")];
const REFUSED: &str = "crossgate_proxy_protocol_refused_total";

fn gateway(upstream: &RecordingUpstream, more: &str) -> Gateway {
    let listener = "{ address: 127.0.0.1:0, trustedProxies: [192.0.2.0/24], proxyProtocol: { from: [127.0.0.1/32] } }";
    let text = format!("version: 1\nlisteners: [{listener}]\nadmin: {{ address: 127.0.0.1:0 }}\n{more}");
    Gateway::start(&format!("{text}{}", tenant_config(upstream, "")), &[])
}

/// Writes a header of version 1.
fn line(client: Ipv4Addr) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 40000 80\r\n").into_bytes()
}

/// Writes a header of version 2 from its command, family and remaining bytes.
fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &len, rest].concat()
}

/// Writes a header of version 2 with a TLV after the addresses, which the gateway ignores.
fn block_with_tlv(client: Ipv4Addr) -> Vec<u8> {
    let noop = [4, 0, 3, 0, 0, 0];
    block(1, 0x11, &[&client.octets()[..], &[198, 51, 100, 1], &[0x9c, 0x40, 0, 80], &noop].concat())
}

fn get(fields: &[(&str, &str)]) -> Vec<u8> {
    request("GET", "/", HOST, &[&[("Origin", ORIGIN)], fields].concat(), b"")
}

fn preflight() -> Vec<u8> {
    request("OPTIONS", "/", HOST, &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b"")
}

/// Sends a header and a request on a new connection and returns the answer.
fn ask(gateway: &Gateway, header: &[u8], request: &[u8]) -> Result<Response, WireError> {
    Connection::ask(gateway.data, &[header, request].concat())
}

#[test]
fn proxy_header_address_is_the_client_everywhere() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = gateway(&upstream, "");
    let ipv6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0x9c, 0x40, 0, 80]].concat();
    for (header, forwarded_for, proto, logged) in [
        (line(CLIENT), "203.0.113.7", "http", "203.0.113.7"),
        (block_with_tlv(CLIENT), "203.0.113.7", "http", "203.0.113.7"),
        (block(1, 0x21, &ipv6), "2001:db8::7", "http", "2001:db8::7"),
        // Trust in forwarding headers depends on the client address, not on the balancer.
        (block_with_tlv(PROXY), "6.6.6.6, 192.0.2.7", "https", "6.6.6.6"),
        // Without an address: a health check of the balancer (LOCAL), or an unknown client.
        (block(0, 0x00, b""), "127.0.0.1", "http", "127.0.0.1"),
        (block(1, 0x00, b""), "127.0.0.1", "http", "127.0.0.1"),
        (block(1, 0x31, &[b'/'; 216]), "127.0.0.1", "http", "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", "http", "127.0.0.1"),
    ] {
        let path = format!("/{}", upstream.total());
        let get = request("GET", &path, HOST, &[&[("Origin", ORIGIN)], &FORGED[..]].concat(), b"");
        assert_allowed(&ask(&gateway, &header, &get).unwrap());
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.headers.all("x-forwarded-for").join(", "), forwarded_for, "{header:?}");
        assert_eq!(seen.headers.one("x-forwarded-proto"), proto, "{header:?}");
        let line = gateway.process.stdout_line(|line| line.contains(&format!("\"{path}\"")).then(|| line.to_owned()));
        assert!(line.contains(&format!("\"client\":\"{logged}\"")), "{line}");
    }
}

#[test]
fn bytes_after_the_proxy_header_belong_to_the_client() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = gateway(&upstream, "");
    for header in [line(CLIENT), block_with_tlv(CLIENT), block(0, 0x00, b"")] {
        // In one write, with more requests after it.
        let mut connection = Connection::open(gateway.data);
        connection.send(&[&header[..], &preflight(), &get(&[]), &preflight()].concat()).unwrap();
        for status in [204, 200, 204] {
            assert_eq!(connection.answer_to(b"GET").unwrap().status, status);
        }
        // Byte by byte.
        let mut connection = Connection::open(gateway.data);
        for byte in header.iter().chain(&get(&[])) {
            connection.send(&[*byte]).unwrap();
            std::thread::yield_now();
        }
        assert_allowed(&connection.answer_to(b"GET").unwrap());
        // In two pieces, split at every position.
        let whole = [&header[..], &preflight()].concat();
        for cut in 1..=header.len() + 1 {
            let mut connection = Connection::open(gateway.data);
            connection.send(&whole[..cut]).unwrap();
            std::thread::yield_now();
            connection.send(&whole[cut..]).unwrap();
            assert_eq!(connection.answer_to(b"OPTIONS").unwrap().status, 204, "{cut}");
        }
    }
}

#[test]
fn connection_without_valid_proxy_header_is_closed() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = gateway(&upstream, "limits: { head: 300ms, maxConnections: 4 }\n");
    let part = block_with_tlv(CLIENT)[..20].to_vec();
    for (sent, ends, reason) in [
        (get(&[]), false, "malformed"),
        (preflight(), false, "malformed"),
        (b"PROXY TCP4 1.2.3.4\r\n".to_vec(), false, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(), false, "malformed"),
        (block(1, 0x11, b"short"), false, "malformed"),
        (block(1, 0x12, &[0; 12]), false, "malformed"),
        (block(1, 0x11, &[0; 5_000]), false, "too_large"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(), false, "too_large"),
        (part.clone(), false, "timeout"),
        (b"PROXY ".to_vec(), false, "timeout"),
        (Vec::new(), false, "timeout"),
        (part, true, "truncated"),
        (b"PROXY TCP4 1.2.3.4 ".to_vec(), true, "truncated"),
    ] {
        let before = gateway.metric(REFUSED, &[("reason", reason)]);
        let mut connection = Connection::open(gateway.data);
        // The connection may be closed already.
        let _sent = connection.send(&sent);
        if ends {
            connection.finish_sending();
        }
        assert!(connection.is_at_end(), "{sent:?}");
        gateway.wait_metric(REFUSED, &[("reason", reason)], before + 1.0);
    }
    assert_eq!(upstream.total(), 0);
    // Each connection has been released.
    gateway.wait_zero("crossgate_connections_active", &[]);
    assert_eq!(gateway.metric(REFUSED, &[]), 13.0);
    assert_allowed(&ask(&gateway, &line(CLIENT), &get(&[])).unwrap());
}

#[test]
fn only_trusted_balancers_may_connect() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = gateway(&upstream, "");
    for sent in [get(&[]), [block_with_tlv(CLIENT), get(&[])].concat()] {
        let mut untrusted = Connection::open_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), gateway.data);
        let _sent = untrusted.send(&sent);
        assert!(untrusted.is_at_end());
    }
    gateway.wait_metric(REFUSED, &[("reason", "stranger")], 2.0);
    assert_eq!(upstream.total(), 0);
}

#[test]
fn empty_balancer_connection_is_not_an_error() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = gateway(&upstream, "");
    for _ in 0..3 {
        drop(Connection::open(gateway.data));
    }
    gateway.wait_metric("crossgate_connections_total", &[], 3.0);
    gateway.wait_zero("crossgate_connections_active", &[]);
    assert_eq!(gateway.metric(REFUSED, &[]), 0.0);
}

#[test]
fn connection_limit_uses_the_proxy_header_address() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = gateway(&upstream, "limits: { maxConnectionsPerClient: 2 }\n");
    let open = |header: &[u8]| {
        let mut connection = Connection::open(gateway.data);
        connection.send(header).unwrap();
        let status = connection.exchange(&get(&[])).unwrap().status;
        (connection, status)
    };
    let mut kept: Vec<Connection> = Vec::new();
    for (header, status) in [
        (block_with_tlv(CLIENT), 200),
        (line(CLIENT), 200),
        (block_with_tlv(CLIENT), 503),
        (block_with_tlv(Ipv4Addr::new(203, 0, 113, 8)), 200),
        // A trusted proxy carries many clients, and so does a balancer without a client address.
        (block_with_tlv(PROXY), 200),
        (block_with_tlv(PROXY), 200),
        (block_with_tlv(PROXY), 200),
        (b"PROXY UNKNOWN\r\n".to_vec(), 200),
        (b"PROXY UNKNOWN\r\n".to_vec(), 200),
        (b"PROXY UNKNOWN\r\n".to_vec(), 200),
    ] {
        let (connection, got) = open(&header);
        assert_eq!(got, status, "{header:?}");
        kept.push(connection);
    }
    drop(kept);
    gateway.wait_zero("crossgate_connections_active", &[]);
    assert_eq!(open(&block_with_tlv(CLIENT)).1, 200);
}

#[test]
fn stop_does_not_wait_for_a_proxy_header() {
    let upstream = RecordingUpstream::answering("hello");
    let mut gateway = gateway(&upstream, "");
    let mut connections = [b"".to_vec(), b"PROXY TCP4 ".to_vec()].map(|sent| {
        let mut connection = Connection::open(gateway.data);
        connection.send(&sent).unwrap();
        connection
    });
    gateway.wait_metric("crossgate_connections_active", &[], 2.0);
    let began = Instant::now();
    gateway.process.signal(Signal::TERM);
    assert_eq!(gateway.process.wait_at_most(Duration::from_secs(5)).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(connections.iter_mut().all(Connection::is_at_end));
}
