//! What a failed attempt at an upstream says: its kind for metrics, whether the server is to blame,
//! and whether the request was begun.
//!
//! Over HTTP/1.1 an idle connection may have ended before the request came, which looks like a
//! server that broke off. Over HTTP/2 a server says which requests it has not begun (RFC 9113,
//! sections 6.8 and 8.7). What TLS says has become text by the time it comes here; tests hold its
//! forms.

use pingora::{Error, ErrorSource, ErrorType};

use super::head_flaw::{flaw_of, is_incomplete};
use crate::metrics::UpstreamError;
use crossgate_message::head_flaw::HeadFlaw;
use crossgate_wire::exchange::state::{ExchangeEnd, ExchangePhase, ExchangeState};

/// The server took HTTP/1.1 where HTTP/2 is demanded.
pub const NO_HTTP2: ErrorType = ErrorType::new("NoHttp2");

/// The maximum length of its text in the log: a certificate can have a thousand names.
const COMPLAINT_LEN_MAX: usize = 300;

/// A failed attempt at an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'e> {
    /// Its kind.
    pub kind: UpstreamError,
    error: &'e Error,
    is_reused: bool,
}

impl<'e> Failure<'e> {
    /// What went wrong on the way to an upstream; `None` where it was not the upstream's doing. On
    /// a connection that was there before, it `is_reused`.
    pub fn of(error: &'e Error, watch: &ExchangeState, is_reused: bool) -> Option<Self> {
        let kind = match watch.end() {
            Some(ExchangeEnd::Head) => UpstreamError::HeadTimeout,
            Some(ExchangeEnd::Idle) => UpstreamError::IdleTimeout,
            Some(ExchangeEnd::Unopened) => UpstreamError::StreamLimit,
            Some(ExchangeEnd::Body | ExchangeEnd::Write | ExchangeEnd::Malformed | ExchangeEnd::GoingAway) => {
                return None;
            }
            None if *error.esource() != ErrorSource::Upstream => return None,
            None => kind(error, watch.phase()),
        };
        Some(Failure { kind, error, is_reused })
    }

    /// The same where no connection was made, or none that was there would take the request.
    pub fn to_connect(error: &'e Error, watch: &ExchangeState) -> Option<Self> {
        Self::of(error, watch, cause(error).is_some())
    }

    /// Whether an idle connection had ended, which is not a failure of the server.
    pub fn is_stale(&self) -> bool {
        match cause(self.error) {
            _ if self.is_unopened() => true,
            None => self.is_reused && self.kind == UpstreamError::Reset,
            Some(cause) => is_goodbye(cause) || self.is_reused && cause.is_io(),
        }
    }

    /// Whether the server did not begin with the request: it says so, or was not sent it.
    pub fn is_unprocessed(&self) -> bool {
        self.is_unopened()
            || *self.error.etype() == NO_HTTP2
            || cause(self.error).is_some_and(|cause| is_goodbye(cause) || is_refused(cause))
    }

    /// Whether another attempt would give the same: an answer that came and is no HTTP.
    pub fn is_lasting(&self) -> bool {
        self.kind == UpstreamError::Invalid
    }

    /// Whether another attempt costs no more than the first would have: one that went nowhere.
    pub fn is_free(&self) -> bool {
        match cause(self.error) {
            None => self.is_reused,
            Some(cause) => is_goodbye(cause),
        }
    }

    /// Whether the request was not sent, because the server allows no further one on the
    /// connection.
    pub fn is_unopened(&self) -> bool {
        self.kind == UpstreamError::StreamLimit
    }

    /// Whether nothing came for too long.
    pub fn is_silence(&self) -> bool {
        matches!(self.kind, UpstreamError::HeadTimeout | UpstreamError::IdleTimeout)
    }

    /// What is wrong with the response head, where that is why.
    pub fn head_flaw(&self) -> Option<HeadFlaw> {
        match self.kind {
            UpstreamError::Invalid => Some(flaw_of(self.error)),
            UpstreamError::Reset => is_incomplete(self.error).then_some(HeadFlaw::Incomplete),
            UpstreamError::TlsHandshake
            | UpstreamError::TlsCertificate
            | UpstreamError::TlsAlpn
            | UpstreamError::ConnectRefused
            | UpstreamError::ConnectTimeout
            | UpstreamError::ConnectFailed
            | UpstreamError::HeadTimeout
            | UpstreamError::IdleTimeout
            | UpstreamError::StreamLimit
            | UpstreamError::Other => None,
        }
    }

    /// Whether a TLS handshake failed.
    pub fn is_of_tls(&self) -> bool {
        matches!(self.kind, UpstreamError::TlsHandshake | UpstreamError::TlsCertificate | UpstreamError::TlsAlpn)
    }

    /// Whether the server has shown an authority's certificate, which it may if that is trusted by
    /// itself.
    pub fn has_authority_certificate(&self) -> bool {
        self.kind == UpstreamError::TlsCertificate && tls_text(self.error).contains("CaUsedAsEndEntity")
    }

    /// What TLS says is wrong, for the log.
    pub fn tls_complaint(&self) -> Option<String> {
        match self.kind {
            UpstreamError::TlsHandshake | UpstreamError::TlsCertificate | UpstreamError::TlsAlpn => {
                Some(tls_text(self.error))
            }
            UpstreamError::ConnectRefused
            | UpstreamError::ConnectTimeout
            | UpstreamError::ConnectFailed
            | UpstreamError::HeadTimeout
            | UpstreamError::IdleTimeout
            | UpstreamError::StreamLimit
            | UpstreamError::Reset
            | UpstreamError::Invalid
            | UpstreamError::Other => None,
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the error types are Pingora's, most of them of no concern here")]
fn kind(error: &Error, phase: ExchangePhase) -> UpstreamError {
    if cause(error).is_some_and(h2::Error::is_library) {
        return UpstreamError::Invalid;
    }
    match error.etype() {
        ErrorType::ConnectRefused => UpstreamError::ConnectRefused,
        ErrorType::ConnectTimedout => UpstreamError::ConnectTimeout,
        ErrorType::ConnectError | ErrorType::ConnectNoRoute | ErrorType::SocketError | ErrorType::BindError => {
            UpstreamError::ConnectFailed
        }
        ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert => tls_kind(&tls_text(error)),
        no_http2 if *no_http2 == NO_HTTP2 => UpstreamError::TlsAlpn,
        ErrorType::ReadTimedout if phase != ExchangePhase::Request => UpstreamError::IdleTimeout,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => UpstreamError::HeadTimeout,
        // A server of TLS 1.3 looks at the gateway's certificate when the gateway has done with the
        // handshake.
        _ if is_alert(&error.to_string()) => UpstreamError::TlsHandshake,
        ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed | ErrorType::ConnectProxyFailure => {
            UpstreamError::Reset
        }
        ErrorType::H2Error | ErrorType::H2Downgrade | ErrorType::HandshakeError => match cause(error) {
            Some(_) => UpstreamError::Reset,
            None => UpstreamError::Invalid,
        },
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 => UpstreamError::Invalid,
        _ => UpstreamError::Other,
    }
}

/// What HTTP/2 says, where it was spoken.
fn cause(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref()
}

/// A connection that is ended by the server, which has not begun with this request.
fn is_goodbye(cause: &h2::Error) -> bool {
    cause.is_go_away() && cause.is_remote()
}

fn is_refused(cause: &h2::Error) -> bool {
    cause.is_reset() && cause.is_remote() && cause.reason() == Some(h2::Reason::REFUSED_STREAM)
}

fn is_alert(text: &str) -> bool {
    text.contains("received fatal alert: ")
}

/// What rustls says, out of what Pingora says around it.
fn tls_text(error: &Error) -> String {
    let text = error.to_string();
    let told = text.rsplit_once("tls connect error cause: ").map_or(&*text, |(_, told)| told);
    let told = told.rsplit_once(", SNI: ").map_or(told, |(told, _)| told);
    told.trim().chars().take(COMPLAINT_LEN_MAX).collect()
}

/// The names in a certificate are the server's words, so only how the text begins counts.
fn tls_kind(text: &str) -> UpstreamError {
    let begins = |with: &str| text.starts_with(with);
    if begins("invalid peer certificate") {
        UpstreamError::TlsCertificate
    } else if begins("received fatal alert: NoApplicationProtocol") {
        UpstreamError::TlsAlpn
    } else {
        UpstreamError::TlsHandshake
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use pingora::OrErr;

    use super::*;
    use crossgate_wire::exchange::state::ExchangeLimits;

    const LIMITS: ExchangeLimits = ExchangeLimits {
        body_grace: Duration::ZERO,
        body_rate_min: 0,
        write_stall: Duration::ZERO,
        drain_bytes: 0,
        drain_time: Duration::ZERO,
    };

    fn watch() -> ExchangeState {
        ExchangeState::new(LIMITS, None, 0)
    }

    fn from_upstream(kind: ErrorType, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Box<Error> {
        Error::because(kind, "while it was tried", cause).into_up()
    }

    #[track_caller]
    fn check_tls(told: &str, wanted: UpstreamError) {
        let inner: io::Result<()> = Err(io::Error::other(told.to_owned()));
        let inner = inner.or_err(ErrorType::TLSHandshakeFailure, "tls connect error").unwrap_err();
        let context = format!("TLS connect() failed: {inner}, SNI: api.example");
        let error = Error::explain(ErrorType::TLSHandshakeFailure, context).into_up();
        let failure = Failure::to_connect(&error, &watch()).unwrap();
        assert_eq!((failure.kind, failure.tls_complaint().as_deref()), (wanted, Some(told)));
    }

    #[test]
    fn what_tls_says_is_taken_by_its_beginning() {
        check_tls("invalid peer certificate: UnknownIssuer", UpstreamError::TlsCertificate);
        check_tls(
            "invalid peer certificate: received fatal alert: NoApplicationProtocol",
            UpstreamError::TlsCertificate,
        );
        check_tls("received fatal alert: NoApplicationProtocol", UpstreamError::TlsAlpn);
        check_tls("received fatal alert: HandshakeFailure", UpstreamError::TlsHandshake);
        check_tls("tls handshake eof", UpstreamError::TlsHandshake);
    }

    #[test]
    fn an_alert_after_the_handshake_is_of_tls() {
        let error = from_upstream(ErrorType::ReadError, io::Error::other("received fatal alert: CertificateRequired"));
        assert_eq!(Failure::of(&error, &watch(), false).unwrap().kind, UpstreamError::TlsHandshake);
    }

    #[test]
    fn what_the_client_did_is_no_failure_of_the_upstream() {
        let error = Error::explain(ErrorType::ReadError, "gone").into_down();
        assert!(Failure::of(&error, &watch(), false).is_none());
    }

    #[test]
    fn only_a_kept_connection_can_have_ended_meanwhile() {
        let error = from_upstream(ErrorType::ReadError, io::Error::from(io::ErrorKind::ConnectionReset));
        let [fresh, kept] = [false, true].map(|is_reused| Failure::of(&error, &watch(), is_reused).unwrap());
        assert_eq!((fresh.is_stale(), fresh.is_free()), (false, false));
        assert_eq!((kept.is_stale(), kept.is_free()), (true, true));
        assert!(!kept.is_unprocessed(), "HTTP/1.1 has no such signal");
    }

    #[test]
    fn silence_is_of_the_head_until_there_is_one() {
        let (watch, error) = (watch(), Error::explain(ErrorType::ReadTimedout, "silence").into_up());
        assert_eq!(Failure::of(&error, &watch, false).unwrap().kind, UpstreamError::HeadTimeout);
        watch.enter(ExchangePhase::Streaming);
        assert_eq!(Failure::of(&error, &watch, false).unwrap().kind, UpstreamError::IdleTimeout);
    }
}
