//! The client of an exchange and its connection.
//!
//! The lane fills these in after the accept, the PROXY header and the TLS handshake, and passes
//! them with each request.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use pingora::protocols::Stream;

use super::chunked::ChunkedDecoder;
use super::timer::Timer;
use crate::metrics::ActiveConnection;
use crate::tls::ServedCertificate;

/// Counts a connection as open until its last holder drops it: the lane, the exchange, or a
/// lingering close.
pub type OpenConnection = Arc<ActiveConnection>;

/// The client of a connection, and the listener that accepted it.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The peer's address.
    pub address: Option<SocketAddr>,
    /// The index of the listener.
    pub listener: usize,
    /// The certificate that the client received, if it uses TLS.
    pub shown: Option<Arc<ServedCertificate>>,
}

/// Whether the client wants to send more requests on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionPersistence {
    /// The connection persists, the default of RFC 9112, section 9.3.
    KeepAlive,
    /// The client or the gateway closes it.
    Close,
}

/// How a request's body is delimited, RFC 9112 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// Exactly this many bytes follow the head; 0 where there is no body.
    Length(u64),
    /// Chunked transfer coding.
    Chunked(ChunkedDecoder),
    /// No body. The bytes after the head belong to another protocol once the upgrade is accepted,
    /// and to no message before.
    Upgrade,
}

/// A connection that served a request and may carry another.
pub struct ReusableConnection {
    pub io: Stream,
    /// Bytes that were already read: the start of the next request.
    pub ahead: BytesMut,
    /// Whether the client has finished sending.
    pub eof: bool,
    pub timer: Timer,
    pub guard: OpenConnection,
}
