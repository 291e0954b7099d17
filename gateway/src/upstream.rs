//! The way to an upstream and back: the peer to ask, and the answer to a failed exchange.
//!
//! Pingora's own choices are not enough: it waits without limit, would try sixteen times, and calls a head that never comes and a
//! client that went away by the same error. The waits after the connection are bounded by the client's connection, see
//! [`crate::lane::conn`], which every byte of the exchange passes; what it found is read in `failure`. What encrypts a connection is
//! in `tls`. Over HTTP/2 many clients share a connection, so none may hold more of it than its share.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::{ALPN, HttpPeer, PeerOptions};
use pingora::{Error, ErrorSource, ErrorType};

use crate::config::model::Protocol;
use crate::lane::watch::{Expired, Watch};
use crate::tenant::Upstream;

mod failure;
mod tls;

pub use failure::{Failure, NO_HTTP2};
pub use tls::UpstreamTls;
pub(crate) use tls::{Own, Reading, expired, system_roots};

/// Idle connections to an upstream are kept this long: below the 60 s or more after which common servers close theirs.
const POOL_IDLE: Duration = Duration::from_secs(55);

/// Requests at one time on one connection over HTTP/2. Servers allow a hundred or more (RFC 9113, section 6.5.2). One that allows fewer
/// refuses those that come before it has said so, and they are tried again; then there are more connections.
const STREAMS_MAX: u16 = 100;
/// What one answer over HTTP/2 may have under way or waiting for its client. The connection has as much for each, so that clients that
/// take nothing hold up nobody else's answer.
const STREAM_WINDOW: u32 = 256 << 10;
/// A connection over HTTP/2 that nothing comes back on is asked whether it lives, and given up when even the other kernel is silent, since
/// all requests go that way. Pings of HTTP/2 would tell the same, and common gRPC servers take them for abuse.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(20),
    interval: Duration::from_secs(5),
    count: 3,
    user_timeout: Duration::from_secs(30),
};

/// How a server of an upstream is asked, in this of the HTTPs that the upstream speaks.
pub fn peer(upstream: &Upstream, address: SocketAddr, protocol: Protocol) -> Box<HttpPeer> {
    let server_name = upstream.tls.as_ref().map(|tls| tls.server_name(address.ip()));
    let mut peer = HttpPeer::new(address, server_name.is_some(), server_name.unwrap_or_default());
    peer.group_key = upstream.pool();
    peer.options.connection_timeout = Some(upstream.timeouts.connect);
    peer.options.total_connection_timeout = Some(upstream.timeouts.connect);
    // A server that takes none of a request body is as silent as one that does not answer.
    peer.options.write_timeout = Some(upstream.timeouts.head);
    peer.options.idle_timeout = Some(POOL_IDLE);
    if let Some(tls) = &upstream.tls {
        peer.options.ca = Some(tls.trusted().clone());
        peer.client_cert_key = tls.own().cloned();
    }
    match protocol {
        Protocol::Http1 => {}
        Protocol::Http2 => allow_http2(&mut peer.options, ALPN::H2),
        Protocol::Auto => allow_http2(&mut peer.options, ALPN::H2H1),
    }
    Box::new(peer)
}

fn allow_http2(options: &mut PeerOptions, alpn: ALPN) {
    options.alpn = alpn;
    options.max_h2_streams = usize::from(STREAMS_MAX);
    options.h2_stream_window_size = Some(STREAM_WINDOW);
    options.h2_connection_window_size = Some(STREAM_WINDOW * u32::from(STREAMS_MAX));
    options.tcp_keepalive = Some(KEEPALIVE);
}

/// Whether an answer says that the server, or the one behind it, cannot.
pub fn is_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Whether an exchange failed because the client's connection did.
pub fn is_client_gone(error: &Error) -> bool {
    let is_connection = matches!(
        error.etype(),
        ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed | ErrorType::ConnectError
    );
    is_connection && *error.esource() == ErrorSource::Downstream
}

/// The status of the answer to a failed exchange; `None` where nobody is there to read one.
#[expect(clippy::wildcard_enum_match_arm, reason = "the error types are Pingora's, most of them of no concern here")]
pub fn status(error: &Error, watch: &Watch) -> Option<StatusCode> {
    if let ErrorType::HTTPStatus(code) = error.etype() {
        return StatusCode::from_u16(*code).ok();
    }
    match watch.expired() {
        Some(Expired::Head) => return Some(StatusCode::GATEWAY_TIMEOUT),
        Some(Expired::Body) => return Some(StatusCode::REQUEST_TIMEOUT),
        Some(Expired::Malformed) => return Some(StatusCode::BAD_REQUEST),
        Some(Expired::Idle | Expired::Write) => return None,
        None => {}
    }
    match error.esource() {
        ErrorSource::Upstream => Some(match error.etype() {
            ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            _ => StatusCode::BAD_GATEWAY,
        }),
        ErrorSource::Downstream if is_client_gone(error) => None,
        ErrorSource::Downstream => Some(StatusCode::BAD_REQUEST),
        ErrorSource::Internal | ErrorSource::Unset => Some(StatusCode::INTERNAL_SERVER_ERROR),
    }
}
