//! Which certificate is shown, and what becomes of whoever does not shake hands as they should.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, Error, HandshakeKind, ProtocolVersion};

use super::{Stage, results};
use crate::support::{
    Connection, HOST, ORIGIN, RecordingUpstream, TlsConnection, WireError, assert_allowed, request, tls_error,
};

const ALERT: u8 = 21;

fn certificates(names: &[&[&str]]) -> Stage {
    Stage::with(names, RecordingUpstream::answering("hello"), "", "")
}

fn get() -> Vec<u8> {
    request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")
}

#[test]
fn a_client_is_shown_the_certificate_for_the_host_it_asks_for() {
    let stage = certificates(&[&["first.test", "127.0.0.1"], &[HOST], &["*.b.test"], &["own.b.test"]]);
    for (host, number) in [
        (HOST, 1),
        ("API.A.test", 1),
        ("x.b.test", 2),
        ("own.b.test", 3),
        ("first.test", 0),
        // Such a client asks for nobody.
        ("127.0.0.1", 0),
    ] {
        assert_eq!(stage.shown(host), Ok(number), "{host}");
    }
}

#[test]
fn a_host_that_no_certificate_is_for_is_told_so() {
    let stage = certificates(&[&[HOST, "127.0.0.1"], &["*.b.test"]]);
    for (count, host) in (1..).zip(["nobody.test", "b.test", "x.y.b.test", "a.test"]) {
        assert_eq!(stage.shown(host), Err(Error::AlertReceived(AlertDescription::UnrecognisedName)), "{host}");
        stage.wait_handshakes("unknown_name", f64::from(count));
    }
    // The others came within the pause that the log makes.
    let told = |line: &str| line.contains("a TLS handshake failed").then(|| line.to_owned());
    let line = stage.gateway.process.stderr_line(told);
    for part in ["nobody.test", "127.0.0.1", "unknown_name"] {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(stage.gateway.process.stderr().matches("a TLS handshake failed").count(), 1);
    assert_eq!(stage.shown(HOST), Ok(0));
}

#[test]
fn a_client_that_takes_no_such_certificate_is_counted() {
    let stage = Stage::start();
    let stranger = crate::support::Authority::new("ours");
    let error = stranger.connect(stage.secure, HOST).err().expect("nobody whom the client trusts");
    assert!(matches!(tls_error(&error), Some(Error::InvalidCertificate(_))), "{error}");
    stage.wait_handshakes("rejected", 1.0);
}

#[test]
fn versions_older_than_configured_are_refused() {
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
fn a_protocol_that_is_not_spoken_is_refused_and_http_2_liked_best() {
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
    let error = offering(&[b"smtp"]).err().expect("nothing that both speak");
    assert_eq!(tls_error(&error), Some(&Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
    stage.wait_handshakes("incompatible", 1.0);
}

#[test]
fn a_session_is_resumed_with_its_certificate_alone() {
    let stage = certificates(&[&[HOST], &["x.b.test"]]);
    for version in [&TLS12, &TLS13] {
        let mut client = ClientConfig::clone(&stage.authority.client(&[version]));
        client.resumption = Resumption::in_memory_sessions(64);
        let client = Arc::new(client);
        let kind = |host: &str| {
            let mut connection = TlsConnection::open(stage.secure, host, Arc::clone(&client)).unwrap();
            connection.send(&request("GET", "/", host, &[("Connection", "close")], b""));
            // Tickets come with the answer.
            connection.read_to_end().unwrap();
            connection.session().handshake_kind().unwrap()
        };
        assert_eq!(
            [kind(HOST), kind(HOST), kind("x.b.test")],
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Full]
        );
        // With another certificate, all begin anew.
        stage.replace(0, &stage.authority.issue(&[HOST]));
        assert_eq!(stage.gateway.admin("POST", "/reload").status, 200);
        assert_eq!(
            [kind(HOST), kind(HOST), kind("x.b.test")],
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]
        );
    }
}

#[test]
fn plain_http_is_told_what_is_spoken() {
    let stage = Stage::start();
    for bytes in [get(), request("POST", "/", HOST, &[], &[b'x'; 100_000])] {
        let mut connection = Connection::open(stage.secure);
        // Whoever refuses it need not take all of it.
        let _ = connection.send(&bytes);
        let answer = connection.answer_to(&bytes).unwrap();
        assert_eq!((answer.status, answer.headers.one("connection")), (400, "close"), "{answer:?}");
        assert_eq!(answer.json()["reason"], "plain_http");
    }
    stage.wait_handshakes("plain_http", 2.0);
    stage.gateway.wait_metric("crossgate_requests_refused_total", &[("status", "400")], 2.0);
    assert_eq!(stage.upstream.total(), 0);
}

/// What a client gets that sends these bytes and no more.
fn told(secure: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut connection = Connection::open(secure);
    connection.send(bytes)?;
    connection.exactly(1).map(|first| [first, connection.exactly(6).unwrap_or_default()].concat())
}

#[test]
fn whatever_is_no_handshake_is_ended_and_holds_nobody_up() {
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
        match told(stage.secure, bytes) {
            Ok(alert) => assert_eq!((alert[0], alert[5]), (ALERT, 2), "{bytes:?} is told {alert:?}"),
            Err(error) => assert!(matches!(error, WireError::Truncated | WireError::Reset), "{bytes:?}: {error:?}"),
        }
        assert_allowed(&stage.ask(HOST, &get()));
        stage.wait_handshakes("success", f64::from(count));
    }
    stage.gateway.wait_gone("crossgate_connections_active", &[]);
    let ends = results(&stage.gateway);
    let others = |(series, _): &(&String, &f64)| !series.contains("success");
    assert_eq!(ends.iter().filter(others).map(|(_, count)| count).sum::<f64>(), garbage.len() as f64, "{ends:?}");
}

/// The first message of a client.
fn client_hello(stage: &Stage) -> Vec<u8> {
    let client = stage.authority.usual_client();
    let mut session = rustls::ClientConnection::new(client, HOST.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_first_message_may_come_in_any_pieces_and_break_off_anywhere() {
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
                // A record of a handshake comes back.
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
    stage.gateway.wait_gone("crossgate_connections_active", &[]);
}

#[test]
fn a_handshake_has_a_deadline_in_all_its_parts() {
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
        // What the whole first message is answered with is passed over.
        while connection.exactly(1).is_ok() {}
    }
    stage.wait_handshakes("timeout", 4.0);
    let ends: BTreeMap<_, _> = results(&stage.gateway);
    assert_eq!(ends.values().sum::<f64>(), 4.0, "{ends:?}");
    // The head's deadline begins with its own wait: a connection may be used later than the handshake's deadline.
    let mut kept = stage.connect(HOST).unwrap();
    thread::sleep(std::time::Duration::from_millis(3_200));
    kept.send(&get());
    assert!(kept.read_some().unwrap().starts_with(b"HTTP/1.1 200 "));
}
