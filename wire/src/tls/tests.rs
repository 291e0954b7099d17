//! Parsing of certificates, their choice, and handshakes.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::metrics::HandshakeEnd;

const TLS12: NegotiatedProtocol = NegotiatedProtocol { min_version: TlsVersion::Tls12, http2: Http2::Offered };

/// The PEM text of a certificate for these names, and of its key.
fn issue(names: &[&str], kind: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
    let key = KeyPair::generate_for(kind).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn read(certificate: &str, key: &str) -> Result<ServerCertificate, CertificateFileError> {
    ServerCertificate::new(certificate.as_bytes(), key.as_bytes())
}

fn certificate(names: &[&str], kind: &'static rcgen::SignatureAlgorithm) -> Arc<ServerCertificate> {
    let (certificate, key) = issue(names, kind);
    Arc::new(read(&certificate, &key).unwrap())
}

#[test]
fn certificate_errors_name_the_bad_file() {
    let (good, key) = issue(&["a.test"], &PKCS_ECDSA_P256_SHA256);
    let (_, other) = issue(&["a.test"], &PKCS_ECDSA_P256_SHA256);
    let (nameless, nameless_key) = issue(&[], &PKCS_ECDSA_P256_SHA256);
    let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let old = format!(
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n{}",
        "-----END RSA PRIVATE KEY-----\n"
    );
    let empty_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let empty_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let of_certificate = |message: &'static str| Err((true, message));
    let of_key = |message: &'static str| Err((false, message));
    let half = |text: &str| text.get(..text.len() / 2).unwrap().to_owned();
    let (half_certificate, half_key) = (half(&good), half(&key));
    type Read = Result<(), (bool, &'static str)>;
    let cases: [(&str, &str, Read); 14] = [
        (&good, &key, Ok(())),
        ("", &key, of_certificate("no certificate found; expected a PEM file")),
        ("\u{30}\u{82}\u{1}", &key, of_certificate("no certificate found; expected a PEM file")),
        (&key, &key, of_certificate("no certificate found")),
        (&half_certificate, &key, of_certificate("the PEM text is damaged")),
        (empty_certificate, &key, of_certificate("the first certificate cannot be parsed")),
        (&nameless, &nameless_key, of_certificate("the certificate names no host")),
        (&good, "", of_key("no private key found; expected a PEM file")),
        (&good, &good, of_key("no private key found")),
        (&good, &encrypted, of_key("the private key is encrypted")),
        (&good, &old, of_key("the private key is encrypted")),
        (&good, &half_key, of_key("the PEM text is damaged")),
        (&good, empty_key, of_key("unsupported private key")),
        (&good, &other, of_key("the private key belongs to another certificate")),
    ];
    for (certificate, key, expected) in cases {
        let found = read(certificate, key).map(|_| ()).map_err(|bad| match bad {
            CertificateFileError::Certificate(message) => (true, message),
            CertificateFileError::Key(message) => (false, message),
        });
        let fits = match (&found, &expected) {
            (Ok(()), Ok(())) => true,
            (Err((of, message)), Err((expected_of, part))) => of == expected_of && message.starts_with(part),
            _ => false,
        };
        assert!(fits, "{found:?} is not {expected:?}");
    }
}

#[test]
fn one_pem_file_may_hold_certificate_and_key() {
    let (certificate, key) = issue(&["a.test"], &PKCS_ED25519);
    for both in [format!("{certificate}{key}"), format!("some words\r\n{key}\r\n{certificate}")] {
        assert!(read(&both, &both).is_ok(), "{both}");
    }
}

#[test]
fn certificate_outside_its_validity_gives_a_warning() {
    let certificate = certificate(&["a.test"], &PKCS_ECDSA_P256_SHA256);
    let doubt = |year: u64| {
        certificate.validity_warning(UNIX_EPOCH + Duration::from_secs(year.saturating_sub(1970) * 31_556_952))
    };
    assert_eq!(doubt(2025), None);
    assert!(doubt(2019).unwrap().contains("not valid before 2020-01-01 00:00:00 UTC"));
    assert!(doubt(2031).unwrap().contains("expired on 2030-01-01 00:00:00 UTC"));
    assert_eq!(certificate.expires(), 1_893_456_000);
}

#[test]
fn private_key_is_absent_from_debug_output() {
    let certificate = certificate(&["a.test"], &PKCS_ED25519);
    let printed = format!("{:?}", Terminator::new(&[certificate], TLS12, None));
    assert!(printed.contains("a.test") && printed.len() < 200, "{printed}");
}

/// Accepts any certificate with one of these signature schemes.
#[derive(Debug)]
struct SchemeVerifier(Vec<SignatureScheme>);

impl ServerCertVerifier for SchemeVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// The certificate that a client of `host` with these signature schemes receives.
async fn received(
    terminator: &Terminator,
    host: &str,
    schemes: &[SignatureScheme],
) -> Result<Arc<ServedCertificate>, HandshakeEnd> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&PROVIDER)).with_protocol_versions(rustls::ALL_VERSIONS);
    let verifier = Arc::new(SchemeVerifier(schemes.to_vec()));
    let client = builder.unwrap().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let client = tokio::spawn(async move { TlsConnector::from(Arc::new(client)).connect(name, near).await });
    let over = shake_hands(Box::new(far), terminator).await;
    let received = over.map(|(_, received)| received).map_err(|failure| failure.end);
    assert_eq!(client.await.unwrap().is_ok(), received.is_ok(), "both ends agree");
    received
}

#[tokio::test]
async fn certificate_is_chosen_by_the_clients_signature_schemes() {
    use SignatureScheme as S;
    let both = [certificate(&["a.test"], &PKCS_ED25519), certificate(&["a.test"], &PKCS_ECDSA_P256_SHA256)];
    let terminator = Terminator::new(&both, TLS12, None);
    let number = async |schemes: &[SignatureScheme]| {
        let received = received(&terminator, "a.test", schemes).await?;
        Ok(both.iter().position(|one| Arc::ptr_eq(one, &received.certificate)).unwrap())
    };
    assert_eq!(number(&[S::ED25519, S::ECDSA_NISTP256_SHA256]).await, Ok(0));
    assert_eq!(number(&[S::ECDSA_NISTP256_SHA256]).await, Ok(1));
    assert_eq!(number(&[S::RSA_PSS_SHA256]).await, Err(HandshakeEnd::Incompatible));
}

#[tokio::test]
async fn handshake_without_certificates_fails() {
    let terminator = Terminator::new(&[], TLS12, None);
    for host in ["a.test", "127.0.0.1"] {
        let received = received(&terminator, host, &[SignatureScheme::ED25519]).await;
        assert_eq!(received.err(), Some(HandshakeEnd::UnknownName), "{host}");
    }
}

#[test]
fn unchanged_certificates_keep_their_tls_config() {
    let (one, other) = (certificate(&["a.test"], &PKCS_ED25519), certificate(&["b.test"], &PKCS_ED25519));
    let before = Terminator::new(&[Arc::clone(&one)], TLS12, None);
    let is_kept = |protocol| {
        let after = Terminator::new(&[other.clone(), one.clone()], protocol, Some(&before));
        Arc::ptr_eq(&after.served[1], &before.served[0])
    };
    assert!(is_kept(TLS12));
    assert!(!is_kept(NegotiatedProtocol { min_version: TlsVersion::Tls13, ..TLS12 }));
    assert!(!is_kept(NegotiatedProtocol { http2: Http2::Off, ..TLS12 }));
}

/// A connection after its handshake, and its client, which offers these protocols.
async fn connection(
    protocol: NegotiatedProtocol,
    protocols: &[&str],
) -> (pingora::protocols::Stream, tokio_rustls::client::TlsStream<tokio::io::DuplexStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let terminator = Terminator::new(&[certificate(&["a.test"], &PKCS_ED25519)], protocol, None);
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&PROVIDER)).with_protocol_versions(rustls::ALL_VERSIONS);
    let verifier = Arc::new(SchemeVerifier(vec![SignatureScheme::ED25519]));
    let mut client = builder.unwrap().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    client.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let connector = TlsConnector::from(Arc::new(client));
    let client = connector.connect("a.test".try_into().unwrap(), near);
    let (server, client) = tokio::join!(shake_hands(Box::new(far), &terminator), client);
    let Ok((stream, _)) = server else { panic!("no handshake") };
    (stream, client.unwrap())
}

#[tokio::test]
async fn tls_stream_reports_the_negotiated_protocol() {
    let (stream, _client) = connection(TLS12, &["http/1.1"]).await;
    assert_eq!(stream.selected_alpn_proto(), Some(ALPN::H1));
    let off = NegotiatedProtocol { http2: Http2::Off, ..TLS12 };
    for (listener, protocols, chosen) in [
        (TLS12, &["http/1.1", "h2"][..], Some(ALPN::H2)),
        (off, &["h2", "http/1.1"], Some(ALPN::H1)),
        (TLS12, &[], None),
    ] {
        let (stream, _client) = connection(listener, protocols).await;
        assert_eq!(stream.selected_alpn_proto(), chosen, "{listener:?} {protocols:?}");
    }
    let digest = stream.get_ssl_digest().unwrap();
    assert_eq!((&*digest.version, digest.cipher.starts_with("TLS13_")), ("TLSv1_3", true), "{digest:?}");
}

#[tokio::test]
async fn close_notify_is_sent_on_drop_and_optional_from_clients() {
    let (mut stream, mut client) = connection(TLS12, &["http/1.1"]).await;
    stream.write_all(b"last words").await.unwrap();
    drop(stream);
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.expect("close_notify is sent");
    assert_eq!(all, b"last words");

    let (mut stream, mut client) = connection(TLS12, &["http/1.1"]).await;
    client.write_all(b"more to come").await.unwrap();
    client.flush().await.unwrap();
    drop(client.into_inner().0);
    let mut all = Vec::new();
    let end: io::Result<usize> = stream.read_to_end(&mut all).await;
    assert_eq!((end.unwrap(), &all[..]), (12, &b"more to come"[..]));
}
