//! What the upstream is told about the client: the forwarding fields, the request id and the tenant.
//!
//! From anybody but a trusted proxy these fields are dropped and written anew, so that an upstream can believe them. Which tenant
//! a request belongs to never hangs on them. `Host` is the client's, unless the upstream's configuration names another.

use std::net::IpAddr;

use bytes::Bytes;
use crossgate_policy::{Field, Scheme};
use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::fields::{Fields, Noted};
use crate::respond::X_REQUEST_ID;

/// The field that names the tenant to the upstream.
pub const X_CROSSGATE_TENANT: HeaderName = HeaderName::from_static("x-crossgate-tenant");

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A request id of a trusted proxy is kept up to this length: a UUID has 36 bytes, a trace context 55.
const REQUEST_ID_LEN_MAX: usize = 128;

/// Room for an IPv4 address.
const ADDRESS_LEN_USUAL: usize = 15;

/// Who speaks: the peer of the connection, and whether its word about the client counts.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: Option<IpAddr>,
    /// Whether it is one of the listener's trusted proxies.
    pub is_trusted: bool,
}

/// The scheme the client used, by a trusted proxy's word.
pub fn scheme(noted: &Noted<'_>, peer: Peer) -> Option<Scheme> {
    match noted.forwarded_proto {
        Field::One(named) if peer.is_trusted => scheme_named(named),
        Field::One(_) | Field::Many | Field::Absent => None,
    }
}

/// The first of a list is what the client used; some proxies say `wss` of a WebSocket.
fn scheme_named(proto: &[u8]) -> Option<Scheme> {
    let first = proto.split(|byte| *byte == b',').next()?.trim_ascii();
    let is = |name: &str| first.eq_ignore_ascii_case(name.as_bytes());
    match () {
        () if is("https") || is("wss") => Some(Scheme::Https),
        () if is("http") || is("ws") => Some(Scheme::Http),
        () => None,
    }
}

/// The client's address: the last one that the trusted proxy names, else the peer's own.
pub fn client(headers: Fields<'_>, peer: Peer) -> Option<IpAddr> {
    let named = || {
        let last = headers.lines(&X_FORWARDED_FOR).last()?;
        let last = std::str::from_utf8(last).ok()?.rsplit(',').next()?;
        last.trim().parse().ok()
    };
    peer.is_trusted.then(named).flatten().or(peer.address)
}

/// The id of a request: a trusted proxy's, else a random one.
pub fn request_id(noted: &Noted<'_>, peer: Peer) -> String {
    match noted.request_id {
        Field::One(id) if peer.is_trusted && is_plain_id(id) => String::from_utf8_lossy(id).into_owned(),
        Field::One(_) | Field::Many | Field::Absent => new_request_id(),
    }
}

/// A random id, for a request that brings none that counts.
pub fn new_request_id() -> String {
    let random = fastrand::u128(..);
    let mut digits = [0; 32];
    for (digit, at) in digits.iter_mut().zip(0..) {
        let value = (random >> (4 * at)) as u8 & 0xf;
        *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
    }
    std::str::from_utf8(&digits).unwrap_or_default().to_owned()
}

fn is_plain_id(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:+/=".contains(byte);
    (1..=REQUEST_ID_LEN_MAX).contains(&id.len()) && id.iter().all(is_plain)
}

/// Whether a field says what its sender has no right to say.
pub fn is_claim(name: &str, peer: Peer) -> bool {
    let about_client = || name == "forwarded" || name == "x-real-ip" || name.starts_with("x-forwarded-");
    name.starts_with("x-crossgate-") || !peer.is_trusted && about_client()
}

/// Writes the forwarding fields of a request on its way to an upstream, from which claims are removed already.
///
/// # Errors
/// Where a value cannot be a field value; the texts are a parsed head's or the configuration's, so it does not happen.
pub fn write(
    fields: &mut HeaderMap,
    peer: Peer,
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
    Ok(())
}

fn append_for(fields: &mut HeaderMap, peer: Peer) -> Result<(), InvalidHeaderValue> {
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

/// Its `Display`, which is most of what forwarding costs, for the usual kind.
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

/// RFC 7239: a trusted proxy's `Forwarded` goes on with the hop that it made to us.
fn append_forwarded(fields: &mut HeaderMap, peer: Peer) -> Result<(), InvalidHeaderValue> {
    let (Some(address), true) = (peer.address, fields.contains_key(header::FORWARDED)) else {
        return Ok(());
    };
    let hop = match address.to_canonical() {
        IpAddr::V4(address) => format!("for={address}"),
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

    fn peer(address: &str, is_trusted: bool) -> Peer {
        Peer { address: Some(address.parse().unwrap()), is_trusted }
    }

    fn written(fields: &[(&'static str, &'static str)], peer: Peer) -> Vec<(String, String)> {
        let mut request = map(fields);
        let noted = Noted::of((&request).into());
        let (id, scheme) = (request_id(&noted, peer), scheme(&noted, peer));
        crate::rewrite::remove(&mut request, |name| is_claim(name.as_str(), peer));
        write(&mut request, peer, scheme, &id, "acme").unwrap();
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut all: Vec<_> = request.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.sort();
        all
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
    fn a_strangers_claims_are_written_anew() {
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
    fn a_trusted_proxys_word_is_kept() {
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
    fn an_address_is_written_as_each_field_has_it() {
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
    fn a_scheme_is_the_first_that_a_trusted_proxy_names() {
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
            let noted = Noted::of((&fields).into());
            assert_eq!(scheme(&noted, peer("192.0.2.7", true)), expected, "{named}");
            assert_eq!(scheme(&noted, peer("192.0.2.7", false)), None, "{named}");
        }
    }

    #[test]
    fn a_client_is_the_last_that_a_trusted_proxy_names() {
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
    fn a_new_id_is_all_of_a_random_number() {
        for seed in 0..20 {
            fastrand::seed(seed);
            let id = new_request_id();
            fastrand::seed(seed);
            let number = format!("{:032x}", fastrand::u128(..));
            assert_eq!(id, number.chars().rev().collect::<String>());
        }
    }

    #[test]
    fn an_id_that_could_break_a_log_is_replaced() {
        for id in ["a b", "a\"b", "", "é"] {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            let peer = Peer { address: None, is_trusted: true };
            assert_eq!(request_id(&Noted::of((&headers).into()), peer).len(), 32, "{id}");
        }
    }
}
