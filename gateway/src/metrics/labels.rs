//! The closed sets of label values that metrics and the access log share.
//!
//! A label value is either a name from the configuration or a member of one of these sets, so that no client can
//! make a series. Kinds and reasons of a verdict come from the policy crate; the sets here are the gateway's own.

use crossgate_policy::Outcome;

macro_rules! label_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every member, in the order of declaration.
            pub const ALL: [$name; [$($text),+].len()] = [$($name::$variant),+];

            /// The label value.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

label_set! {
    /// What was decided, and whether it was enforced or only reported.
    VerdictLabel {
        /// Let through.
        Allow => "allow",
        /// Refused, or forwarded without CORS headers where the route says so.
        Deny => "deny",
        /// Report mode: would have been let through.
        WouldAllow => "would_allow",
        /// Report mode: would have been refused.
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
    /// How enforcing a reported policy would change what the browser is told today.
    Change {
        /// The upstream allows the origin, the policy would not.
        NewlyDenied => "newly_denied",
        /// The upstream does not allow the origin, the policy would.
        NewlyAllowed => "newly_allowed",
        /// Both allow it, with another `Access-Control-Allow-Origin`.
        OtherValue => "other_value",
    }
}

label_set! {
    /// Why a request was not sent to an upstream.
    UpstreamRefusal {
        /// As many as may were under way, and as many as may waited.
        Limit => "limit",
        /// It waited for as long as it may.
        PendingTimeout => "pending_timeout",
        /// No name of the upstream's servers has led anywhere yet.
        NoAddress => "no_address",
    }
}

label_set! {
    /// How a health check ended.
    CheckResult {
        /// With a status from 200 to 299.
        Passed => "passed",
        /// Without.
        Failed => "failed",
    }
}

label_set! {
    /// Why an upstream gave no usable answer.
    UpstreamError {
        /// Nothing listens there.
        ConnectRefused => "connect_refused",
        /// No connection within the connect timeout.
        ConnectTimeout => "connect_timeout",
        /// No connection for another reason.
        ConnectFailed => "connect_failed",
        /// No TLS with it: it speaks none, none that is taken here, or refuses the gateway's certificate.
        TlsHandshake => "tls_handshake",
        /// Its certificate is expired, of nobody who is trusted, or of another name.
        TlsCertificate => "tls_certificate",
        /// It speaks TLS, and not the HTTP that it is to be asked in.
        TlsAlpn => "tls_alpn",
        /// No response head within the head timeout.
        HeadTimeout => "head_timeout",
        /// Silence for longer than the idle timeout, after the head.
        IdleTimeout => "idle_timeout",
        /// The connection ended before the answer did.
        Reset => "reset",
        /// The answer was not HTTP.
        Invalid => "invalid",
        /// Anything else.
        Other => "other",
    }
}

label_set! {
    /// Why the gateway ended a client's connection by itself.
    EarlyClose {
        /// There were more connections than even 503 could be said to.
        Full => "full",
        /// No further request within the keep-alive time, or no first one: nobody waited for an answer.
        Idle => "idle",
        /// The request body came too slowly.
        SlowBody => "slow_body",
        /// Nothing moved for too long after the response head.
        ExchangeIdle => "exchange_idle",
        /// The client did not take its response.
        WriteStall => "write_stall",
        /// Too much was sent over HTTP/2 that is no request, or more requests than were allowed.
        Http2Flood => "http2_flood",
        /// What was sent is no HTTP/2.
        Http2Error => "http2_error",
        /// The client went away before its answer was whole.
        ClientGone => "client_gone",
    }
}

label_set! {
    /// How a TLS handshake ended.
    HandshakeEnd {
        /// It succeeded.
        Success => "success",
        /// The client named a host that no certificate is for.
        UnknownName => "unknown_name",
        /// The client would not have the certificate, or said so by an alert.
        Rejected => "rejected",
        /// There is no version, suite or protocol that both speak.
        Incompatible => "incompatible",
        /// A request came, in plain text.
        PlainHttp => "plain_http",
        /// What came is no TLS.
        Malformed => "malformed",
        /// It took too long.
        Timeout => "timeout",
        /// The client went away.
        ClientGone => "client_gone",
        /// Anything else.
        Failed => "failed",
    }
}

label_set! {
    /// Why a connection that should begin with a PROXY header was closed.
    BadIntroduction {
        /// Its peer is none of those who may send one.
        Stranger => "stranger",
        /// It begins with something else.
        Malformed => "malformed",
        /// The header is longer than any that is taken.
        TooLarge => "too_large",
        /// The header did not arrive in time.
        Timeout => "timeout",
        /// The peer went away within the header.
        Truncated => "truncated",
    }
}

label_set! {
    /// Why no connection could be accepted.
    AcceptError {
        /// The process, or the system, has no descriptor left.
        Descriptors => "descriptors",
        /// The system has no memory left for it.
        Memory => "memory",
        /// Anything else, such as a client that was gone before.
        Other => "other",
    }
}

label_set! {
    /// Where a panic ended what was being done.
    PanicPlace {
        /// A connection, while the lane had it: a preflight that it answers, a head that it refuses.
        Lane => "lane",
        /// A connection, while the proxy had it: all other requests.
        Proxy => "proxy",
        /// An answer of the admin listener.
        Admin => "admin",
    }
}

label_set! {
    /// How a reload ended.
    ReloadResult {
        /// Everything on disk is live.
        Success => "success",
        /// The main file is live; some tenants file kept its last good version.
        Partial => "partial",
        /// Nothing changed.
        Failure => "failure",
    }
}
