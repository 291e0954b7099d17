//! The bytes of a `Host` field, and of an entry of a tenant's `hosts`.

use std::borrow::Cow;

use crossgate_message::host::{Authority, HOST_LEN_MAX, HostPattern, parse_authority};

/// The canonical form of a host is accepted unchanged, and there is only one for each host.
///
/// # Panics
/// If this does not hold.
pub fn host(bytes: &[u8]) {
    if let Ok(authority) = parse_authority(bytes) {
        check(bytes, &authority);
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if let Ok(pattern) = HostPattern::parse(text) {
        assert_eq!(HostPattern::parse(&pattern.to_string()).as_ref(), Ok(&pattern), "{text}");
    }
}

fn check(bytes: &[u8], authority: &Authority<'_>) {
    let (host, port) = (&*authority.host, authority.port);
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match address {
        Some(address) => {
            assert_eq!(address.parse::<std::net::Ipv6Addr>().map(|ip| ip.to_string()).as_deref(), Ok(address))
        }
        None => assert!(host.bytes().all(is_name) && host.len() <= HOST_LEN_MAX, "{host}"),
    }
    assert!(address.is_some() || host.split('.').all(|label| (1..=63).contains(&label.len())), "{host}");
    assert_ne!(port, Some(0));
    let canonical = port.map_or(host.to_owned(), |port| format!("{host}:{port}"));
    assert_eq!(parse_authority(canonical.as_bytes()).as_ref(), Ok(authority), "{canonical}");
    // Other spellings differ only in case, a final dot, or the zeros of an address.
    if address.is_none() {
        let plain = String::from_utf8_lossy(bytes).to_ascii_lowercase().replace(".:", ":");
        assert_eq!(plain.strip_suffix('.').unwrap_or(&plain), canonical);
        let is_borrowed = matches!(parse_authority(canonical.as_bytes()), Ok(Authority { host: Cow::Borrowed(_), .. }));
        assert!(is_borrowed, "{canonical}");
    }
}
