//! The head of a request, as the decision, the log and the answer need it.
//!
//! Both the lane and Pingora's hooks build one for each request, without copying fields. Absent on
//! purpose: the tenant and the route, which `judge` finds.

use crossgate_policy::Scheme;

use crossgate_message::fields::{HeaderFields, KnownHeaders};
use crossgate_message::forwarded::{self, ConnectionPeer};
use crossgate_wire::tls::ServedCertificate;

#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method as sent.
    pub method: &'a [u8],
    /// The request target as sent.
    pub target: &'a [u8],
    /// All fields.
    pub headers: HeaderFields<'a>,
    /// The fields that every request needs, found once.
    pub known: KnownHeaders<'a>,
    /// The scheme that the client used, if it is known from TLS or a trusted proxy's field.
    pub scheme: Option<Scheme>,
    /// The certificate that the client received, over TLS.
    pub certificate: Option<&'a ServedCertificate>,
}

impl<'a> RequestHead<'a> {
    /// The head of a request that `peer` sent.
    pub fn new(method: &'a [u8], target: &'a [u8], headers: HeaderFields<'a>, peer: ConnectionPeer) -> Self {
        RequestHead::with_known(method, target, headers, KnownHeaders::of(headers), peer)
    }

    /// The head of a request whose known fields were found already.
    pub fn with_known(
        method: &'a [u8],
        target: &'a [u8],
        headers: HeaderFields<'a>,
        known: KnownHeaders<'a>,
        peer: ConnectionPeer,
    ) -> Self {
        RequestHead { method, target, headers, known, scheme: forwarded::scheme(&known, peer), certificate: None }
    }

    /// Adds the certificate of a TLS connection; `None` changes nothing. A trusted proxy's scheme
    /// has precedence over TLS.
    #[must_use]
    pub fn with_certificate(self, certificate: Option<&'a ServedCertificate>) -> Self {
        RequestHead { scheme: self.scheme.or(certificate.map(|_| Scheme::Https)), certificate, ..self }
    }
}
