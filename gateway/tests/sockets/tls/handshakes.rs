//! Certificate selection and failed handshakes.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, Error, HandshakeKind, ProtocolVersion};

use super::{Stage, handshake_results};
use crate::support::{
    Connection, HOST, ORIGIN, RecordingUpstream, TlsConnection, WireError, assert_allowed, request, tls_error,
};

const ALERT: u8 = 21;

fn stage_with_certificates(names: &[&[&str]]) -> Stage {
    Stage::with(names, RecordingUpstream::answering("hello"), "", "")
}

fn get() -> Vec<u8> {
    request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")
}

#[test]
fn server_name_selects_the_certificate() {
    let stage = stage_with_certificates(&[&["first.test", "127.0.0.1"], &[HOST], &["*.b.test"], &["own.b.test"]]);
    for (host, number) in [
        (HOST, 1),
        ("API.A.test", 1),
        ("x.b.test", 2),
        ("own.b.test", 3),
        ("first.test", 0),
        // For an IP address, a client sends no server name: RFC 6066, section 3.
        ("127.0.0.1", 0),
    ] {
        assert_eq!(stage.served_certificate(host), Ok(number), "{host}");
    }
}

#[test]
fn unknown_server_name_gets_unrecognised_name_alert() {
    let stage = stage_with_certificates(&[&[HOST, "127.0.0.1"], &["*.b.test"]]);
    for (count, host) in (1..).zip(["unknown.test", "b.test", "x.y.b.test", "a.test"]) {
        assert_eq!(
            stage.served_certificate(host),
            Err(Error::AlertReceived(AlertDescription::UnrecognisedName)),
            "{host}"
        );
        stage.wait_handshakes("unknown_name", f64::from(count));
    }
    // The log throttle suppressed the other lines.
    let log_line = |line: &str| line.contains("a TLS handshake failed").then(|| line.to_owned());
    let line = stage.gateway.process.stderr_line(log_line);
    for part in ["unknown.test", "127.0.0.1", "unknown_name"] {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(stage.gateway.process.stderr().matches("a TLS handshake failed").count(), 1);
    assert_eq!(stage.served_certificate(HOST), Ok(0));
}

#[test]
fn certificate_rejected_by_the_client_is_counted() {
    let stage = Stage::start();
    let other_authority = crate::support::Authority::new("ours");
    let error = other_authority.connect(stage.secure, HOST).err().expect("an untrusted certificate");
    assert!(matches!(tls_error(&error), Some(Error::InvalidCertificate(_))), "{error}");
    stage.wait_handshakes("rejected", 1.0);
}

#[test]
fn tls_versions_below_the_minimum_are_refused() {
    let upstream = RecordingUpstream::answering("hello");
    let stage = Stage::with(&[&[HOST]], upstream, ", minVersion: Tls13", "");
    let connect = |version| TlsConnection::open(stage.secure, HOST, stage.authority.client(&[version]));
    let error = connect(&TLS12).err().expect("too old");
    assert_eq!(tls_error(&error), Some(&Error::AlertReceived(AlertDescription::ProtocolVersion)));
    stage.wait_handshakes("incompatible", 1.0);
    let connection = connect(&TLS13).unwrap();
    assert_eq!(connection.session().protocol_version(), Some(ProtocolVersion::TLSv1_3));

    let usual = Stage::start();
    let connection = TlsConnection::open(usual.secure, HOST, usual.authority.client(&[&TLS12])).unwrap();
    assert_eq!(connection.session().protocol_version(), Some(ProtocolVersion::TLSv1_2));
}

#[test]
fn alpn_prefers_http2_and_refuses_unknown_protocols() {
    let stage = Stage::start();
    let offering = |protocols: &[&[u8]]| {
        let mut client = ClientConfig::clone(&stage.authority.usual_client());
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsConnection::open(stage.secure, HOST, Arc::new(client))
    };
    let chosen = |protocols: &[&[u8]]| offering(protocols).unwrap().session().alpn_protocol().map(<[u8]>::to_vec);
    assert_eq!(chosen(&[b"http/1.1"]).as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(chosen(&[b"http/1.0", b"http/1.1"]).as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(chosen(&[b"http/1.1", b"h2"]).as_deref(), Some(&b"h2"[..]));
    assert_eq!(chosen(&[]), None);
    let error = offering(&[b"smtp"]).err().expect("no common protocol");
    assert_eq!(tls_error(&error), Some(&Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
    stage.wait_handshakes("incompatible", 1.0);
}

#[test]
fn session_is_resumed_only_with_the_same_certificate() {
    let stage = stage_with_certificates(&[&[HOST], &["x.b.test"]]);
    for version in [&TLS12, &TLS13] {
        let mut client = ClientConfig::clone(&stage.authority.client(&[version]));
        client.resumption = Resumption::in_memory_sessions(64);
        let client = Arc::new(client);
        let kind = |host: &str| {
            let mut connection = TlsConnection::open(stage.secure, host, Arc::clone(&client)).unwrap();
            connection.send(&request("GET", "/", host, &[("Connection", "close")], b""));
            // TLS 1.3 session tickets arrive with the answer.
            connection.read_to_end().unwrap();
            connection.session().handshake_kind().unwrap()
        };
        assert_eq!(
            [kind(HOST), kind(HOST), kind("x.b.test")],
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Full]
        );
        // A session of the old certificate is not resumed with the new one.
        stage.replace(0, &stage.authority.issue(&[HOST]));
        assert_eq!(stage.gateway.admin("POST", "/reload").status, 200);
        assert_eq!(
            [kind(HOST), kind(HOST), kind("x.b.test")],
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]
        );
    }
}

#[test]
fn client_without_a_request_gets_its_session_tickets() {
    let stage = Stage::start();
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let mut client = ClientConfig::clone(&stage.authority.client(&[&TLS13]));
        client.alpn_protocols = vec![protocol.to_vec()];
        let mut connection = TlsConnection::open(stage.secure, HOST, Arc::new(client)).unwrap();
        connection.await_tickets(2);
    }
}

#[test]
fn key_exchange_is_hybrid_where_the_client_prefers_it() {
    let stage = Stage::start();
    for groups in [[X25519MLKEM768, X25519], [X25519, X25519MLKEM768]] {
        let client = stage.authority.client_with_groups(&groups);
        let connection = TlsConnection::open(stage.secure, HOST, client).unwrap();
        let group = connection.session().negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), groups[0].name());
        assert_eq!(connection.session().handshake_kind(), Some(HandshakeKind::Full), "no second hello");
    }
}

#[test]
fn plain_http_on_a_tls_listener_gets_400() {
    let stage = Stage::start();
    for bytes in [get(), request("POST", "/", HOST, &[], &[b'x'; 100_000])] {
        let mut connection = Connection::open(stage.secure);
        // The gateway may close the connection before it has read the whole request.
        let _ = connection.send(&bytes);
        let answer = connection.answer_to(&bytes).unwrap();
        assert_eq!((answer.status, answer.headers.one("connection")), (400, "close"), "{answer:?}");
        assert_eq!(answer.json()["reason"], "plain_http");
    }
    stage.wait_handshakes("plain_http", 2.0);
    stage.gateway.wait_metric("crossgate_requests_refused_total", &[("status", "400")], 2.0);
    assert_eq!(stage.upstream.total(), 0);
}

/// The first bytes of the answer to these bytes.
fn first_answer_bytes(secure: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut connection = Connection::open(secure);
    connection.send(bytes)?;
    connection.exactly(1).map(|first| [first, connection.exactly(6).unwrap_or_default()].concat())
}

#[test]
fn invalid_client_hello_ends_only_its_own_connection() {
    let stage = Stage::start();
    let hello = client_hello(&stage);
    let mut broken = hello.clone();
    broken[43] = 255;
    let garbage: [&[u8]; 8] = [
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"get / http/1.1\r\n\r\n",
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
        b"\x17\x03\x03\x00\x05hello",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        &broken,
    ];
    for (count, bytes) in (1..).zip(garbage) {
        match first_answer_bytes(stage.secure, bytes) {
            Ok(alert) => assert_eq!((alert[0], alert[5]), (ALERT, 2), "{bytes:?}: {alert:?}"),
            Err(error) => assert!(matches!(error, WireError::Truncated | WireError::Reset), "{bytes:?}: {error:?}"),
        }
        assert_allowed(&stage.ask(HOST, &get()));
        stage.wait_handshakes("success", f64::from(count));
    }
    stage.gateway.wait_zero("crossgate_connections_active", &[]);
    let results = handshake_results(&stage.gateway);
    let others = |(series, _): &(&String, &f64)| !series.contains("success");
    assert_eq!(results.iter().filter(others).map(|(_, count)| count).sum::<f64>(), garbage.len() as f64, "{results:?}");
}

/// The ClientHello of the usual client.
fn client_hello(stage: &Stage) -> Vec<u8> {
    let client = stage.authority.usual_client();
    let mut session = rustls::ClientConnection::new(client, HOST.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn client_hello_may_arrive_in_pieces_or_break_off() {
    let stage = Stage::start();
    let hello = client_hello(&stage);
    let cuts = [1, 4, 5, 6, hello.len() / 2, hello.len() - 1];
    thread::scope(|scope| {
        for cut in cuts {
            let (stage, hello) = (&stage, &hello);
            scope.spawn(move || {
                let mut connection = Connection::open(stage.secure);
                connection.send(&hello[..cut]).unwrap();
                assert_allowed(&stage.ask(HOST, &get()));
                connection.send(&hello[cut..]).unwrap();
                // The answer begins with a handshake record.
                assert_eq!(connection.exactly(1).unwrap(), [22], "cut at {cut}");
            });
        }
    });
    for cut in cuts {
        let mut connection = Connection::open(stage.secure);
        connection.send(&hello[..cut]).unwrap();
        connection.finish_sending();
        assert!(matches!(connection.head(), Err(WireError::Closed | WireError::Reset)));
    }
    let gone = 2 * cuts.len();
    stage.wait_handshakes("client_gone", gone as f64);
    stage.gateway.wait_zero("crossgate_connections_active", &[]);
}

#[test]
fn tls_handshake_deadline_covers_every_part() {
    let stage = Stage::with(&[&[HOST]], RecordingUpstream::answering("hello"), "", "limits: { tlsHandshake: 3s }\n");
    let hello = client_hello(&stage);
    let mut waiting: Vec<Connection> = [&[][..], &hello[..1], &hello[..50], &hello[..]]
        .into_iter()
        .map(|bytes| {
            let mut connection = Connection::open(stage.secure);
            connection.send(bytes).unwrap();
            connection
        })
        .collect();
    for connection in &mut waiting {
        // Skips the ServerHello that the whole ClientHello gets.
        while connection.exactly(1).is_ok() {}
    }
    stage.wait_handshakes("timeout", 4.0);
    let results: BTreeMap<_, _> = handshake_results(&stage.gateway);
    assert_eq!(results.values().sum::<f64>(), 4.0, "{results:?}");
    // The handshake deadline does not apply after the handshake: the head has its own deadline.
    let mut kept = stage.connect(HOST).unwrap();
    thread::sleep(std::time::Duration::from_millis(3_200));
    kept.send(&get());
    assert!(kept.read_some().unwrap().starts_with(b"HTTP/1.1 200 "));
}
