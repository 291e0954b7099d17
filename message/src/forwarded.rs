//! The fields that describe the client to the upstream: forwarding fields, request id and tenant.
//!
//! The gateway removes these fields unless a trusted proxy sent them, and writes its own, so that
//! an upstream can rely on them. It removes `X-Crossgate-*` fields of every sender. None of them
//! decides which tenant a request belongs to. `Host` stays the client's, unless the upstream's
//! configuration sets another.

use std::net::IpAddr;
use std::sync::OnceLock;

use bytes::Bytes;
use crossgate_policy::{RequestField, Scheme};
use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::fields::X_REQUEST_ID;
use crate::fields::{HeaderFields, KnownHeaders};

pub const X_CROSSGATE_TENANT: HeaderName = HeaderName::from_static("x-crossgate-tenant");

/// The gateways that a request has passed, RFC 8586. Requests of clients keep this field, since it
/// grants nothing.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// The number of Crossgate hops at which a request counts as a loop.
const HOPS_MAX: usize = 16;
const GATEWAY_PREFIX: &str = "crossgate-";

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The longest request id that is kept from a trusted proxy: a UUID has 36 bytes, a trace context
/// 55.
const REQUEST_ID_LEN_MAX: usize = 128;

/// The usual length of an IPv4 address, for preallocation.
const ADDRESS_LEN_USUAL: usize = 15;

/// The peer of the connection, and whether its forwarding fields are trusted.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionPeer {
    pub address: Option<IpAddr>,
    /// Whether the peer is one of the listener's trusted proxies.
    pub is_trusted: bool,
}

/// The scheme that the client used, according to a trusted proxy's `X-Forwarded-Proto`.
pub fn scheme(known: &KnownHeaders<'_>, peer: ConnectionPeer) -> Option<Scheme> {
    match known.forwarded_proto {
        RequestField::One(named) if peer.is_trusted => scheme_named(named),
        RequestField::One(_) | RequestField::Many | RequestField::Absent => None,
    }
}

/// The scheme of the first list element, which is the client's. Some proxies send `wss` for a
/// WebSocket.
fn scheme_named(proto: &[u8]) -> Option<Scheme> {
    let first = proto.split(|byte| *byte == b',').next()?.trim_ascii();
    let is = |name: &str| first.eq_ignore_ascii_case(name.as_bytes());
    match () {
        () if is("https") || is("wss") => Some(Scheme::Https),
        () if is("http") || is("ws") => Some(Scheme::Http),
        () => None,
    }
}

/// The client's address: the last element of a trusted proxy's `X-Forwarded-For`, else the peer's
/// address.
pub fn client(headers: HeaderFields<'_>, peer: ConnectionPeer) -> Option<IpAddr> {
    let named = || {
        // Only the last element is from the trusted proxy itself. A client can forge all elements
        // before it.
        let last = headers.lines(&X_FORWARDED_FOR).last()?;
        let last = std::str::from_utf8(last).ok()?.rsplit(',').next()?;
        last.trim().parse().ok()
    };
    peer.is_trusted.then(named).flatten().or(peer.address)
}

/// The id of a request: the value of a trusted proxy, else a random one.
pub fn request_id(known: &KnownHeaders<'_>, peer: ConnectionPeer) -> String {
    match known.request_id {
        RequestField::One(id) if peer.is_trusted && is_plain_id(id) => String::from_utf8_lossy(id).into_owned(),
        RequestField::One(_) | RequestField::Many | RequestField::Absent => new_request_id(),
    }
}

/// Makes a random id of 32 hexadecimal digits.
pub fn new_request_id() -> String {
    let random = fastrand::u128(..);
    let mut digits = [0; 32];
    for (digit, at) in digits.iter_mut().zip(0..) {
        let value = (random >> (4 * at)) as u8 & 0xf;
        *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
    }
    std::str::from_utf8(&digits).unwrap_or_default().to_owned()
}

/// Whether an id is safe to write into logs and fields.
fn is_plain_id(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:+/=".contains(byte);
    (1..=REQUEST_ID_LEN_MAX).contains(&id.len()) && id.iter().all(is_plain)
}

/// Whether a field makes a claim that this peer may not make.
pub fn is_claim(name: &str, peer: ConnectionPeer) -> bool {
    let about_client = || name == "forwarded" || name == "x-real-ip" || name.starts_with("x-forwarded-");
    name.starts_with("x-crossgate-") || !peer.is_trusted && about_client()
}

/// The name of this process in [`CDN_LOOP`].
fn own_name() -> &'static HeaderValue {
    static NAME: OnceLock<HeaderValue> = OnceLock::new();
    NAME.get_or_init(|| {
        let name = format!("{GATEWAY_PREFIX}{:016x}", fastrand::u64(..));
        HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("crossgate"))
    })
}

/// Whether a request has passed this gateway before, or as many gateways of this kind as no network
/// chains.
pub fn is_loop(headers: HeaderFields<'_>) -> bool {
    // Most requests have no `CDN-Loop` field.
    if !headers.has(&CDN_LOOP) {
        return false;
    }
    let name = CDN_LOOP;
    let without_parameters =
        |element: &[u8]| element.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_vec();
    let names: Vec<Vec<u8>> = headers.elements(&name).map(without_parameters).collect();
    let gateways = || names.iter().filter(|name| name.starts_with(GATEWAY_PREFIX.as_bytes()));
    gateways().any(|name| name == own_name().as_bytes()) || gateways().count() >= HOPS_MAX
}

/// Writes the forwarding fields of a request to an upstream. The caller has removed the client's
/// claims.
///
/// # Errors
/// Returns an error if a value is not a valid field value. The values come from a parsed head or
/// the configuration, so this does not happen.
pub fn write(
    fields: &mut HeaderMap,
    peer: ConnectionPeer,
    scheme: Option<Scheme>,
    request_id: &str,
    tenant: &str,
) -> Result<(), InvalidHeaderValue> {
    append_for(fields, peer)?;
    append_forwarded(fields, peer)?;
    let proto = scheme.unwrap_or(Scheme::Http);
    fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto.as_str()));
    if let Some(host) = fields.get(header::HOST).cloned() {
        fields.insert(X_FORWARDED_HOST, host);
    }
    fields.insert(X_REQUEST_ID, HeaderValue::from_str(request_id)?);
    fields.insert(X_CROSSGATE_TENANT, HeaderValue::from_str(tenant)?);
    fields.append(CDN_LOOP, own_name().clone());
    Ok(())
}

fn append_for(fields: &mut HeaderMap, peer: ConnectionPeer) -> Result<(), InvalidHeaderValue> {
    let Some(address) = peer.address else { return Ok(()) };
    let mut chain = Vec::with_capacity(ADDRESS_LEN_USUAL);
    for line in fields.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
    }
    push_address(&mut chain, address.to_canonical());
    fields.insert(X_FORWARDED_FOR, HeaderValue::from_maybe_shared(Bytes::from(chain))?);
    Ok(())
}

/// Writes an address. The IPv4 path avoids `Display`, which would be most of the cost of
/// forwarding.
fn push_address(text: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    text.push(b'.');
                }
                text.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => text.extend_from_slice(address.to_string().as_bytes()),
    }
}

/// Appends the trusted proxy to its `Forwarded` field as one more hop, RFC 7239. A request without
/// the field gets none.
fn append_forwarded(fields: &mut HeaderMap, peer: ConnectionPeer) -> Result<(), InvalidHeaderValue> {
    let (Some(address), true) = (peer.address, fields.contains_key(header::FORWARDED)) else {
        return Ok(());
    };
    let hop = match address.to_canonical() {
        IpAddr::V4(address) => format!("for={address}"),
        // RFC 7239, section 6: an IPv6 address is in brackets and quoted.
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    fields.append(header::FORWARDED, HeaderValue::try_from(hop)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut request = HeaderMap::new();
        for (name, value) in fields {
            request.append(*name, HeaderValue::from_static(value));
        }
        request
    }

    fn peer(address: &str, is_trusted: bool) -> ConnectionPeer {
        ConnectionPeer { address: Some(address.parse().unwrap()), is_trusted }
    }

    fn written(fields: &[(&'static str, &'static str)], peer: ConnectionPeer) -> Vec<(String, String)> {
        let mut request = map(fields);
        let known = KnownHeaders::of((&request).into());
        let (id, scheme) = (request_id(&known, peer), scheme(&known, peer));
        crate::rewrite::remove(&mut request, |name| is_claim(name.as_str(), peer));
        write(&mut request, peer, scheme, &id, "acme").unwrap();
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        assert_eq!(request.remove(CDN_LOOP).as_ref(), Some(own_name()));
        let mut all: Vec<_> = request.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.sort();
        all
    }

    #[test]
    fn own_name_or_too_many_gateways_in_cdn_loop_is_a_loop() {
        let is = |lines: &[&str]| {
            let value = |line: &&str| (CDN_LOOP, HeaderValue::from_str(line).unwrap());
            is_loop((&lines.iter().map(value).collect::<HeaderMap>()).into())
        };
        let own = own_name().to_str().unwrap();
        assert!(!is(&[]) && !is(&["fastly, crossgate-0000000000000000; x=1", "a"]) && !is(&["x-crossgate, crossgate"]));
        assert!(is(&[own]) && is(&["fastly", &format!("a , {own} ; hops=2")]));
        let many = |count| vec!["crossgate-1"; count].join(", ");
        assert!(!is(&[&many(HOPS_MAX - 1)]) && is(&[&many(HOPS_MAX)]));
    }

    const CLAIMS: [(&str, &str); 9] = [
        ("host", "api.acme.test"),
        ("forwarded", "for=1.1.1.1"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "1.1.1.1"),
        ("x-request-id", "given"),
        ("x-crossgate-tenant", "other"),
    ];

    #[test]
    fn forwarding_fields_of_an_untrusted_peer_are_replaced() {
        let all = written(&CLAIMS, peer("192.0.2.7", false));
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        let wanted =
            ["host", "x-crossgate-tenant", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"];
        assert_eq!(names, wanted);
        let values: Vec<_> = all.iter().map(|(_, value)| value.as_str()).take(5).collect();
        assert_eq!(values, ["api.acme.test", "acme", "192.0.2.7", "api.acme.test", "http"]);
        assert_ne!(all.last().unwrap().1, "given");
    }

    #[test]
    fn forwarding_fields_of_a_trusted_proxy_are_extended() {
        let all = written(&CLAIMS, peer("192.0.2.7", true));
        let value = |name: &str| {
            let found: Vec<_> = all.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect();
            found.join(" | ")
        };
        assert_eq!(value("x-forwarded-for"), "1.1.1.1, 2.2.2.2, 192.0.2.7");
        assert_eq!(value("forwarded"), "for=1.1.1.1 | for=192.0.2.7");
        assert_eq!(value("x-forwarded-proto"), "https");
        assert_eq!(value("x-forwarded-host"), "api.acme.test");
        assert_eq!(value("x-request-id"), "given");
        assert_eq!(value("x-crossgate-tenant"), "acme");
        assert_eq!(value("x-real-ip"), "1.1.1.1");
    }

    #[test]
    fn addresses_follow_the_syntax_of_each_forwarding_field() {
        for (address, plain, forwarded) in [
            ("2001:db8::1", "2001:db8::1", "for=\"[2001:db8::1]\""),
            ("::ffff:192.0.2.70", "192.0.2.70", "for=192.0.2.70"),
            ("0.255.10.9", "0.255.10.9", "for=0.255.10.9"),
        ] {
            let all = written(&[("forwarded", "for=_a")], peer(address, true));
            let value = |name: &str| all.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
            assert_eq!((value("x-forwarded-for"), value("forwarded")), (Some(plain), Some(forwarded)));
        }
    }

    #[test]
    fn scheme_is_the_first_value_from_a_trusted_proxy() {
        for (named, expected) in [
            ("https", Some(Scheme::Https)),
            ("WSS", Some(Scheme::Https)),
            ("Http, https", Some(Scheme::Http)),
            (" ws ,https", Some(Scheme::Http)),
            ("ftp", None),
            ("httpss", None),
            ("", None),
            (",https", None),
        ] {
            let fields = map(&[("x-forwarded-proto", named)]);
            let known = KnownHeaders::of((&fields).into());
            assert_eq!(scheme(&known, peer("192.0.2.7", true)), expected, "{named}");
            assert_eq!(scheme(&known, peer("192.0.2.7", false)), None, "{named}");
        }
    }

    #[test]
    fn client_address_is_the_last_value_from_a_trusted_proxy() {
        for (named, expected) in [
            (&[("x-forwarded-for", "1.1.1.1, 2.2.2.2 ")][..], "2.2.2.2"),
            (&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2001:db8::1")], "2001:db8::1"),
            (&[("x-forwarded-for", "1.1.1.1, unknown")], "192.0.2.7"),
            (&[], "192.0.2.7"),
        ] {
            let fields = map(named);
            let client = |is_trusted| client((&fields).into(), peer("192.0.2.7", is_trusted)).unwrap().to_string();
            assert_eq!((client(true), client(false)), (expected.to_owned(), "192.0.2.7".to_owned()), "{named:?}");
        }
    }

    #[test]
    fn new_request_id_has_all_bits_of_the_random_number() {
        for seed in 0..20 {
            fastrand::seed(seed);
            let id = new_request_id();
            fastrand::seed(seed);
            let number = format!("{:032x}", fastrand::u128(..));
            assert_eq!(id, number.chars().rev().collect::<String>());
        }
    }

    #[test]
    fn request_id_with_unsafe_bytes_is_replaced() {
        for id in ["a b", "a\"b", "", "é"] {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            let peer = ConnectionPeer { address: None, is_trusted: true };
            assert_eq!(request_id(&KnownHeaders::of((&headers).into()), peer).len(), 32, "{id}");
        }
    }
}
