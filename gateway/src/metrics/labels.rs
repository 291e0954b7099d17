//! The closed sets of label values that metrics and the access log share.
//!
//! A label value is either a name from the configuration or a member of one of these sets, so no
//! client can create a series. The kinds and reasons of verdicts are in the policy crate; the sets
//! here belong to the gateway.

use crossgate_policy::Outcome;
use crossgate_telemetry::label_set;

label_set! {
    /// The verdict, and whether it was enforced or only reported.
    VerdictLabel {
        /// Allowed.
        Allow => "allow",
        /// Denied: refused, or forwarded without CORS headers if the route is configured so.
        Deny => "deny",
        /// Report mode: would be allowed.
        WouldAllow => "would_allow",
        /// Report mode: would be denied.
        WouldDeny => "would_deny",
    }
}

impl VerdictLabel {
    /// The label of an outcome that is enforced.
    pub fn enforced(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allow => VerdictLabel::Allow,
            Outcome::Deny => VerdictLabel::Deny,
        }
    }

    /// The label of an outcome that is only reported.
    pub fn reported(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allow => VerdictLabel::WouldAllow,
            Outcome::Deny => VerdictLabel::WouldDeny,
        }
    }

    /// Whether the verdict, enforced or not, is a denial.
    pub fn is_denial(self) -> bool {
        match self {
            VerdictLabel::Deny | VerdictLabel::WouldDeny => true,
            VerdictLabel::Allow | VerdictLabel::WouldAllow => false,
        }
    }
}

label_set! {
    /// The class of a response's status (RFC 9110, section 15).
    ResponseClass {
        /// 101, the only 1xx that ends a request.
        Informational => "1xx",
        /// 200 to 299.
        Successful => "2xx",
        /// 300 to 399.
        Redirection => "3xx",
        /// 400 to 499.
        ClientError => "4xx",
        /// 500 and above.
        ServerError => "5xx",
        /// No response was started: the client closed the connection first, a limit ended the
        /// exchange, or the gateway panicked.
        Missing => "none",
    }
}

label_set! {
    /// The maker of a response.
    ResponseSource {
        /// The gateway.
        Gateway => "gateway",
        /// The upstream.
        Upstream => "upstream",
        /// There was no response.
        Missing => "none",
    }
}

label_set! {
    /// The change that enforcing a reported policy would make to the CORS headers that the browser
    /// receives today.
    Change {
        /// The upstream allows the origin; the policy would not.
        NewlyDenied => "newly_denied",
        /// The upstream does not allow the origin; the policy would.
        NewlyAllowed => "newly_allowed",
        /// Both allow it, with different `Access-Control-Allow-Origin` values.
        OtherValue => "other_value",
    }
}

label_set! {
    /// The reason why a request was not sent to an upstream.
    UpstreamRefusal {
        /// The limits on running and on waiting requests were both reached.
        Limit => "limit",
        /// The request waited in the queue up to the time limit.
        PendingTimeout => "pending_timeout",
        /// No name of the upstream's servers has been resolved yet.
        NoAddress => "no_address",
        /// The request has passed through this gateway before.
        Loop => "loop",
        /// The server is the gateway's own admin listener.
        OwnAdmin => "own_admin",
    }
}

label_set! {
    /// The reason why an upstream gave no usable response.
    UpstreamError {
        /// Nothing listens there.
        ConnectRefused => "connect_refused",
        /// No connection within the connect timeout.
        ConnectTimeout => "connect_timeout",
        /// The connection failed for another reason.
        ConnectFailed => "connect_failed",
        /// The TLS handshake failed: the server has no TLS, no accepted version or cipher, or
        /// refuses the gateway's certificate.
        TlsHandshake => "tls_handshake",
        /// The server's certificate is expired, untrusted, or for another name.
        TlsCertificate => "tls_certificate",
        /// The server negotiated another protocol than the configured version of HTTP.
        TlsAlpn => "tls_alpn",
        /// No response head within the head timeout.
        HeadTimeout => "head_timeout",
        /// No bytes within the idle timeout, after the head.
        IdleTimeout => "idle_timeout",
        /// The HTTP/2 server allows no further stream on the connection.
        StreamLimit => "stream_limit",
        /// The connection ended before the response did.
        Reset => "reset",
        /// The response was not valid HTTP.
        Invalid => "invalid",
        /// Anything else.
        Other => "other",
    }
}

label_set! {
    /// The result of a reload.
    ReloadResult {
        /// Everything on disk serves.
        Success => "success",
        /// The main file serves; some tenants file kept its last good version.
        Partial => "partial",
        /// The main file is refused. Only renewed certificates and admin tokens take effect.
        Failure => "failure",
    }
}
