//! The handshake: from an accepted connection to a stream of bytes within TLS, or to what became of it instead.
//!
//! The client's first message is read here, before any certificate is chosen, since a host that nobody has deserves a word of its
//! own (RFC 6066, section 3: `unrecognized_name`) rather than somebody else's certificate, and plain HTTP an answer in HTTP. Nothing here
//! bounds the time; the lane does.

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
use super::{Shown, Terminator};
use crate::metrics::HandshakeEnd;

/// First messages are shorter: 500 bytes, or 1,800 with a post-quantum key.
const READ_LEN: usize = 2048;
/// A fatal alert in a record of its own: version, length, level, `unrecognized_name`.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A handshake that failed.
pub(crate) struct Failure {
    /// How.
    pub(crate) end: HandshakeEnd,
    /// The host that the client asked for, if it came to that.
    pub(crate) host: Option<Box<str>>,
    /// The connection, with an alert that may still be on its way to a client.
    pub(crate) io: Stream,
}

/// Shakes hands with a client.
pub(crate) async fn shake_hands(mut io: Stream, terminator: &Terminator) -> Result<(Stream, Arc<Shown>), Failure> {
    let accepted = match read_hello(&mut io).await {
        Ok(accepted) => accepted,
        Err(end) => return Err(Failure { end, host: None, io }),
    };
    let hello = accepted.client_hello();
    let host = hello.server_name().map(Box::from);
    let Some(served) = terminator.pick(&hello) else {
        // Whether it can still be told or not, that is the end of it.
        let _told = io.write_all(&UNRECOGNIZED_NAME).await;
        return Err(Failure { end: HandshakeEnd::UnknownName, host, io });
    };
    let shown = Arc::new(Shown { certificate: Arc::clone(&served.certificate) });
    let handshake = StartHandshake::from_parts(accepted, io).into_stream(Arc::clone(&served.config));
    match handshake.into_fallible().await {
        Ok(stream) => Ok((Box::new(TlsSocket::new(stream)), shown)),
        Err((error, io)) => Err(Failure { end: ended(&error), host, io }),
    }
}

/// Reads the client's first message, and tells it what is wrong with that.
async fn read_hello(io: &mut Stream) -> Result<Accepted, HandshakeEnd> {
    // Made when something comes: a client that says nothing costs nothing.
    let mut acceptor = None;
    loop {
        let taken = poll_fn(|cx| {
            let mut chunk = [MaybeUninit::<u8>::uninit(); READ_LEN];
            let mut buf = ReadBuf::uninit(&mut chunk);
            if ready!(Pin::new(&mut *io).poll_read(cx, &mut buf)).is_err() {
                return Poll::Ready(Taken::Nothing);
            }
            Poll::Ready(take(buf.filled(), &mut acceptor))
        });
        match taken.await {
            Taken::Part => {}
            Taken::Hello(accepted) => return Ok(accepted),
            Taken::Nothing => return Err(HandshakeEnd::ClientGone),
            Taken::PlainHttp => return Err(HandshakeEnd::PlainHttp),
            Taken::Odd(error, alert) => {
                let _told = io.write_all(&alert).await;
                return Err(ended_by(&error));
            }
        }
    }
}

/// What a client has sent so far.
#[expect(clippy::large_enum_variant, reason = "it is looked at where it is made, and never kept")]
enum Taken {
    /// It has ended its connection.
    Nothing,
    /// A part of its first message.
    Part,
    /// All of it.
    Hello(Accepted),
    /// A request in plain text.
    PlainHttp,
    /// Nothing to go on with; the alert that says so.
    Odd(Error, Vec<u8>),
}

fn take(mut bytes: &[u8], acceptor: &mut Option<Acceptor>) -> Taken {
    match (bytes.first(), &acceptor) {
        (None, _) => return Taken::Nothing,
        // No record of TLS begins so, every method does.
        (Some(b'A'..=b'Z'), None) => return Taken::PlainHttp,
        (Some(_), _) => {}
    }
    let acceptor = acceptor.get_or_insert_default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes as &mut dyn Read).is_err() {
            return Taken::Odd(Error::General("too long".to_owned()), Vec::new());
        }
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => Taken::Hello(accepted),
        Ok(None) => Taken::Part,
        Err((error, mut alert)) => {
            let mut bytes = Vec::new();
            // A vector takes everything.
            let _written = alert.write_all(&mut bytes);
            Taken::Odd(error, bytes)
        }
    }
}

fn ended(error: &io::Error) -> HandshakeEnd {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => ended_by(error),
        // The socket's own: reset, or closed.
        None => HandshakeEnd::ClientGone,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the errors are rustls' own, most of them of no concern here")]
fn ended_by(error: &Error) -> HandshakeEnd {
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
