//! The way to an upstream and back: the peer to ask, whether a failed attempt is repeated, and what a failure means.
//!
//! Pingora's own choices are not enough: it waits without limit, would try sixteen times, and calls a head that never comes and a
//! client that went away by the same error. The waits after the connection are bounded by the client's connection, see
//! [`crate::lane::conn`], which every byte of the exchange passes; what it found is read here.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use crate::lane::watch::{Expired, Watch};
use crate::metrics::UpstreamError;
use crate::tenant::Upstream;

/// Idle connections to an upstream are kept this long: below the 60 s or more after which common servers close theirs.
const POOL_IDLE: Duration = Duration::from_secs(55);

/// How a server of an upstream is asked.
pub fn peer(upstream: &Upstream, address: SocketAddr) -> Box<HttpPeer> {
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.options.connection_timeout = Some(upstream.timeouts.connect);
    peer.options.total_connection_timeout = Some(upstream.timeouts.connect);
    // A server that takes none of a request body is as silent as one that does not answer.
    peer.options.write_timeout = Some(upstream.timeouts.head);
    peer.options.idle_timeout = Some(POOL_IDLE);
    Box::new(peer)
}

/// What went wrong on the way to an upstream; `None` where it was not the upstream's doing.
#[expect(clippy::wildcard_enum_match_arm, reason = "the error types are Pingora's, most of them of no concern here")]
pub fn error_kind(error: &Error, watch: &Watch) -> Option<UpstreamError> {
    match watch.expired() {
        Some(Expired::Head) => return Some(UpstreamError::HeadTimeout),
        Some(Expired::Idle) => return Some(UpstreamError::IdleTimeout),
        Some(Expired::Body | Expired::Write | Expired::Malformed) => return None,
        None => {}
    }
    if *error.esource() != ErrorSource::Upstream {
        return None;
    }
    Some(match error.etype() {
        ErrorType::ConnectRefused => UpstreamError::ConnectRefused,
        ErrorType::ConnectTimedout => UpstreamError::ConnectTimeout,
        ErrorType::ConnectError | ErrorType::ConnectNoRoute | ErrorType::SocketError | ErrorType::BindError => {
            UpstreamError::ConnectFailed
        }
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => UpstreamError::HeadTimeout,
        ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed | ErrorType::ConnectProxyFailure => {
            UpstreamError::Reset
        }
        ErrorType::InvalidHTTPHeader => UpstreamError::Invalid,
        _ => UpstreamError::Other,
    })
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
