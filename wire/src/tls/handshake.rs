//! The handshake: turns an accepted connection into a TLS stream, or fails with a reason.
//!
//! The client's first message is read here, before a certificate is chosen. A host without a
//! certificate gets the alert `unrecognized_name` (RFC 6066, section 3) instead of another tenant's
//! certificate, and plain HTTP gets a response in HTTP. Absent on purpose: timeouts, which the lane
//! sets.

use std::future::poll_fn;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use pingora::protocols::Stream;
use rustls::Error;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::server::StartHandshake;

use super::stream::TlsSocket;
use super::{ServedCertificate, Terminator};
use crate::metrics::HandshakeEnd;

/// The size of a read. First messages are shorter: 500 bytes, or 1,800 with a post-quantum key.
const READ_LEN: usize = 2048;
/// A record with a fatal alert: type, version, length, level, `unrecognized_name`.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A failed handshake.
pub struct FailedHandshake {
    /// The reason.
    pub end: HandshakeEnd,
    /// The host that the client named, if its first message was read.
    pub host: Option<Box<str>>,
    /// The connection, on which an alert may still be in transit.
    pub io: Stream,
}

/// Runs the handshake with a client.
pub async fn shake_hands(
    mut io: Stream,
    terminator: &Terminator,
) -> Result<(Stream, Arc<ServedCertificate>), FailedHandshake> {
    let accepted = match read_hello(&mut io).await {
        Ok(accepted) => accepted,
        Err(end) => return Err(FailedHandshake { end, host: None, io }),
    };
    let hello = accepted.client_hello();
    let host = hello.server_name().map(Box::from);
    let Some(served) = terminator.pick(&hello) else {
        // The connection ends, whether the client receives the alert or not.
        let _sent = io.write_all(&UNRECOGNIZED_NAME).await;
        return Err(FailedHandshake { end: HandshakeEnd::UnknownName, host, io });
    };
    let certificate = Arc::new(ServedCertificate { certificate: Arc::clone(&served.certificate) });
    let handshake = StartHandshake::from_parts(accepted, io).into_stream(Arc::clone(&served.config));
    match handshake.into_fallible().await {
        Ok(stream) => Ok((Box::new(TlsSocket::new(stream)), certificate)),
        Err((error, io)) => Err(FailedHandshake { end: handshake_end(&error), host, io }),
    }
}

/// Reads the client's first message. If it is invalid, sends the alert for it.
async fn read_hello(io: &mut Stream) -> Result<Accepted, HandshakeEnd> {
    // Made at the first bytes: a client that sends nothing costs no memory.
    let mut acceptor = None;
    loop {
        let received = poll_fn(|cx| {
            let mut chunk = [MaybeUninit::<u8>::uninit(); READ_LEN];
            let mut buf = ReadBuf::uninit(&mut chunk);
            if ready!(Pin::new(&mut *io).poll_read(cx, &mut buf)).is_err() {
                return Poll::Ready(ClientBytes::Nothing);
            }
            Poll::Ready(take(buf.filled(), &mut acceptor))
        });
        match received.await {
            ClientBytes::Part => {}
            ClientBytes::Hello(accepted) => return Ok(accepted),
            ClientBytes::Nothing => return Err(HandshakeEnd::ClientGone),
            ClientBytes::PlainHttp => return Err(HandshakeEnd::PlainHttp),
            ClientBytes::Invalid(error, alert) => {
                let _sent = io.write_all(&alert).await;
                return Err(tls_error_end(&error));
            }
        }
    }
}

/// The bytes of a client so far.
#[expect(clippy::large_enum_variant, reason = "it is looked at where it is made, and never kept")]
enum ClientBytes {
    /// The client has ended its connection.
    Nothing,
    /// A part of the first message.
    Part,
    /// The whole first message.
    Hello(Accepted),
    /// A request in plain text.
    PlainHttp,
    /// Invalid bytes, with the alert for them.
    Invalid(Error, Vec<u8>),
}

fn take(mut bytes: &[u8], acceptor: &mut Option<Acceptor>) -> ClientBytes {
    match (bytes.first(), &acceptor) {
        (None, _) => return ClientBytes::Nothing,
        // A TLS record begins with a content type below 0x20; every HTTP method begins with a
        // capital letter.
        (Some(b'A'..=b'Z'), None) => return ClientBytes::PlainHttp,
        (Some(_), _) => {}
    }
    let acceptor = acceptor.get_or_insert_default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes as &mut dyn Read).is_err() {
            return ClientBytes::Invalid(Error::General("too long".to_owned()), Vec::new());
        }
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => ClientBytes::Hello(accepted),
        Ok(None) => ClientBytes::Part,
        Err((error, mut alert)) => {
            let mut bytes = Vec::new();
            // Writing to a vector cannot fail.
            let _written = alert.write_all(&mut bytes);
            ClientBytes::Invalid(error, bytes)
        }
    }
}

fn handshake_end(error: &io::Error) -> HandshakeEnd {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => tls_error_end(error),
        // An error of the socket: reset, or closed.
        None => HandshakeEnd::ClientGone,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the errors are rustls' own, most of them of no concern here")]
fn tls_error_end(error: &Error) -> HandshakeEnd {
    match error {
        Error::AlertReceived(_) => HandshakeEnd::Rejected,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => HandshakeEnd::Incompatible,
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_)
        | Error::DecryptError
        | Error::PeerSentOversizedRecord => HandshakeEnd::Malformed,
        _ => HandshakeEnd::Failed,
    }
}
