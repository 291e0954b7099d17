//! The fields that describe the client to the upstream: forwarding fields, request id and tenant.
//!
//! The gateway removes these fields unless a trusted proxy sent them, and writes its own, so that
//! an upstream can rely on them. It removes `X-Crossgate-*` fields of every sender. None of them
//! decides which tenant a request belongs to. `Host` stays the client's, unless the upstream's
//! configuration sets another.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::OnceLock;

use arrayvec::ArrayString;
use crossgate_policy::{EditValue, RequestField, Scheme};
use http::{HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use crate::field_sink::FieldSink;
use crate::fields::X_REQUEST_ID;
use crate::fields::{HeaderFields, KnownHeaders, is_named};

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
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static(X_FORWARDED_PREFIX_NAME);
const X_FORWARDED_PREFIX_NAME: &str = "x-forwarded-prefix";

/// The longest request id that is kept from a trusted proxy: a UUID has 36 bytes, a trace context
/// 55.
const REQUEST_ID_LEN_MAX: usize = 128;

/// Room for the addresses of a few proxies.
const CHAIN_LEN_USUAL: usize = 64;

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

/// The id of a request, a valid field value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// 32 hexadecimal digits.
    Random(ArrayString<32>),
    /// The id that a trusted proxy sent.
    Given(Box<str>),
}

impl RequestId {
    /// The id that a trusted proxy sent, else a random one.
    pub fn of(known: &KnownHeaders<'_>, peer: ConnectionPeer) -> Self {
        match known.request_id {
            RequestField::One(id) if peer.is_trusted && is_plain_id(id) => {
                RequestId::Given(String::from_utf8_lossy(id).into())
            }
            RequestField::One(_) | RequestField::Many | RequestField::Absent => RequestId::random(),
        }
    }

    pub fn random() -> Self {
        let random = fastrand::u128(..);
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(random.to_le_bytes()) {
            pair.copy_from_slice(&[hex(byte & 0xf), hex(byte >> 4)]);
        }
        RequestId::Random(ArrayString::from_byte_string(&digits).unwrap_or_default())
    }
}

fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }
}

/// For a request whose id no one asks for.
impl Default for RequestId {
    fn default() -> Self {
        RequestId::Given(Box::default())
    }
}

impl Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            RequestId::Random(digits) => digits,
            RequestId::Given(id) => id,
        }
    }
}

/// Whether an id is safe to write into logs and fields.
fn is_plain_id(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:+/=".contains(byte);
    (1..=REQUEST_ID_LEN_MAX).contains(&id.len()) && id.iter().all(is_plain)
}

/// Whether a field makes a claim that this peer may not make. The name may be in any case.
pub fn is_claim(name: &[u8], peer: ConnectionPeer) -> bool {
    match name.first() {
        Some(b'x' | b'X') => {
            let is_own = begins_with(name, "x-crossgate-");
            let is_about_client = || begins_with(name, "x-forwarded-") || name.eq_ignore_ascii_case(b"x-real-ip");
            is_own || !peer.is_trusted && is_about_client()
        }
        Some(b'f' | b'F') => !peer.is_trusted && name.eq_ignore_ascii_case(b"forwarded"),
        Some(_) | None => false,
    }
}

/// Whether a field says which part of the path was taken away. The name may be in any case.
pub(crate) fn is_prefix(name: &[u8]) -> bool {
    is_named(name, X_FORWARDED_PREFIX_NAME)
}

/// Whether the gateway writes this field itself, in place of the received one.
pub(crate) fn is_replaced(name: &[u8]) -> bool {
    let is = |other: &HeaderName| is_named(name, other.as_str());
    match name.len() {
        12 => is(&X_REQUEST_ID),
        15 => is(&X_FORWARDED_FOR),
        16 => is(&X_FORWARDED_HOST),
        17 => is(&X_FORWARDED_PROTO),
        _ => false,
    }
}

fn begins_with(name: &[u8], prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
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
    let name = CDN_LOOP;
    let without_parameters =
        |element: &[u8]| element.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_vec();
    let names: Vec<Vec<u8>> = headers.elements(&name).map(without_parameters).collect();
    let gateways = || names.iter().filter(|name| name.starts_with(GATEWAY_PREFIX.as_bytes()));
    gateways().any(|name| name == own_name().as_bytes()) || gateways().count() >= HOPS_MAX
}

/// What the forwarding fields of a request say.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<'a> {
    pub peer: ConnectionPeer,
    /// By which scheme the client asked, where that is known.
    pub scheme: Option<Scheme>,
    /// A valid field value.
    pub request_id: &'a str,
    /// The id of the tenant.
    pub tenant: &'a str,
    /// The prefix that a route takes away from the path.
    pub stripped: Option<&'a str>,
}

impl Forwarding<'_> {
    /// Writes the forwarding fields of a request with these fields. The caller leaves out those
    /// that [`is_claim`] and [`is_replaced`] name.
    pub(crate) fn write(&self, fields: HeaderFields<'_>, host: RequestField<'_>, sink: &mut impl FieldSink) {
        let Forwarding { peer, scheme, request_id, tenant, stripped } = self;
        let address = peer.address.map(|address| address.to_canonical());
        let chain = chain(fields, address, peer.is_trusted);
        if !chain.is_empty() {
            sink.own(&X_FORWARDED_FOR, EditValue::Request(&chain));
        }
        if let (true, Some(address)) = (peer.is_trusted, address)
            && fields.has(&header::FORWARDED)
        {
            sink.own(&header::FORWARDED, EditValue::Request(hop(address).as_bytes()));
        }
        let proto = scheme.unwrap_or(Scheme::Http);
        sink.own(&X_FORWARDED_PROTO, EditValue::Request(proto.as_str().as_bytes()));
        if let RequestField::One(host) = host {
            sink.own(&X_FORWARDED_HOST, EditValue::Request(host));
        }
        if let Some(prefix) = stripped {
            // An earlier proxy has taken away what came before.
            let earlier = fields.lines(&X_FORWARDED_PREFIX).last().filter(|_| peer.is_trusted).unwrap_or_default();
            let earlier = earlier.strip_suffix(b"/").unwrap_or(earlier);
            sink.own(&X_FORWARDED_PREFIX, EditValue::Request(&[earlier, prefix.as_bytes()].concat()));
        }
        sink.own(&X_REQUEST_ID, EditValue::Request(request_id.as_bytes()));
        sink.own(&X_CROSSGATE_TENANT, EditValue::Request(tenant.as_bytes()));
        sink.own(&CDN_LOOP, EditValue::Fixed(own_name()));
    }
}

type AddressChain = SmallVec<[u8; CHAIN_LEN_USUAL]>;

/// The value of `X-Forwarded-For`: what a trusted proxy says, and its own address.
fn chain(fields: HeaderFields<'_>, address: Option<IpAddr>, is_trusted: bool) -> AddressChain {
    let mut chain = AddressChain::new();
    let separate = |chain: &mut AddressChain| {
        if !chain.is_empty() {
            chain.extend_from_slice(b", ");
        }
    };
    if is_trusted {
        for line in fields.lines(&X_FORWARDED_FOR) {
            separate(&mut chain);
            chain.extend_from_slice(line);
        }
    }
    if let Some(address) = address {
        separate(&mut chain);
        push_address(&mut chain, address);
    }
    chain
}

/// Writes an address. The IPv4 path avoids `Display`, which would be most of the cost of
/// forwarding.
fn push_address(text: &mut AddressChain, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    text.push(b'.');
                }
                for (unit, at) in [(100, 0), (10, 1), (1, 2)] {
                    if octet >= unit || at == 2 {
                        text.push(b'0' + octet / unit % 10);
                    }
                }
            }
        }
        IpAddr::V6(address) => text.extend_from_slice(address.to_string().as_bytes()),
    }
}

/// The element of a trusted proxy in its own `Forwarded` field, RFC 7239. A request without the
/// field gets none.
fn hop(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("for={address}"),
        // RFC 7239, section 6: an IPv6 address is in brackets and quoted.
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

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
        let request = map(fields);
        let known = KnownHeaders::of((&request).into());
        let (request_id, scheme) = (&*RequestId::of(&known, peer), scheme(&known, peer));
        let mut sent = HeaderMap::new();
        HeaderFields::from(&request).for_each(|line| {
            if !is_claim(line.name(), peer) && !is_replaced(line.name()) {
                sent.received(line);
            }
        });
        Forwarding { peer, scheme, request_id, tenant: "acme", stripped: None }.write(
            (&request).into(),
            known.host,
            &mut sent,
        );
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        assert_eq!(sent.remove(CDN_LOOP).as_ref(), Some(own_name()));
        let mut all: Vec<_> = sent.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
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
            let id = RequestId::random();
            fastrand::seed(seed);
            let number = format!("{:032x}", fastrand::u128(..));
            assert_eq!(*id, *number.chars().rev().collect::<String>());
        }
    }

    #[test]
    fn request_id_with_unsafe_bytes_is_replaced() {
        for id in ["a b", "a\"b", "", "é"] {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            let peer = ConnectionPeer { address: None, is_trusted: true };
            assert_eq!(RequestId::of(&KnownHeaders::of((&headers).into()), peer).len(), 32, "{id}");
        }
    }
}
