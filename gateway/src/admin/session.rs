//! The login cookie of the browser page.
//!
//! Browsers share cookies between all ports of a host, so the cookie contains an HMAC made with the
//! token instead of the token. The gateway stores nothing: a cookie stays valid until it expires or
//! the token changes, across reloads and restarts. Absent on purpose: any permission to change
//! something.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::Tls13CipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::tls13::OkmBlock;

use super::access::is_equal;
use crossgate_message::host::parse_authority;

/// The lifetime of a login: one working day.
pub(super) const SESSION_TIME: Duration = Duration::from_secs(12 * 3_600);
const PURPOSE: &[u8] = b"crossgate admin page, reading until ";

/// Makes a cookie value that is valid from `now`.
pub(super) fn issue(token: &[u8], now: SystemTime) -> Option<String> {
    let expires = seconds(now) + SESSION_TIME.as_secs();
    Some(format!("{expires}.{}", code(token, expires)?))
}

/// Whether a value was made with this token and has not expired.
pub(super) fn is_valid(value: &[u8], token: &[u8], now: SystemTime) -> bool {
    let parts = std::str::from_utf8(value).ok().and_then(|value| value.split_once('.'));
    let Some((expires, given)) = parts else { return false };
    let Some(expires) = expires.parse().ok().filter(|_| expires.bytes().all(|byte| byte.is_ascii_digit())) else {
        return false;
    };
    let is_made_with = code(token, expires).is_some_and(|code| is_equal(given.as_bytes(), code.as_bytes()));
    // A time beyond the longest lifetime comes from another clock or a forger.
    let left = expires.saturating_sub(seconds(now));
    is_made_with && (1..=SESSION_TIME.as_secs()).contains(&left)
}

/// The name of the cookie. It contains the port, since gateways on other ports of the host share
/// the browser's cookies.
pub(super) fn cookie_name(host: &str) -> String {
    match parse_authority(host.as_bytes()).ok().and_then(|authority| authority.port) {
        Some(port) => format!("crossgate_admin_{port}"),
        None => "crossgate_admin".to_owned(),
    }
}

/// The values of a cookie in a `Cookie` field. There may be several, with other paths or domains
/// (RFC 6265, section 5.4).
pub(super) fn values<'a>(field: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    pairs.filter_map(move |pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The HMAC-SHA256 of an expiry time, as hexadecimal digits.
fn code(token: &[u8], expires: u64) -> Option<String> {
    let suite: &Tls13CipherSuite = TLS13_AES_128_GCM_SHA256.tls13()?;
    // The key is a hash of the token, since the token may be longer than a key.
    let key = OkmBlock::new(suite.common.hash_provider.hash(token).as_ref());
    let message = [PURPOSE, expires.to_string().as_bytes()].concat();
    let tag = suite.hkdf_provider.hmac_sign(&key, &message);
    Some(tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_cookie_is_valid_for_its_token_until_it_expires() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let value = issue(b"0123456789abcdef", now).unwrap();
        let is = |value: &str, token: &[u8], now| is_valid(value.as_bytes(), token, now);
        assert!(is(&value, b"0123456789abcdef", now));
        assert!(!value.contains("0123456789abcdef"));
        let last = now + SESSION_TIME - Duration::from_secs(1);
        assert!(is(&value, b"0123456789abcdef", last));
        assert!(!is(&value, b"0123456789abcdef", now + SESSION_TIME));
        assert!(!is(&value, b"0123456789abcdeX", now));
        assert!(!is(&value, b"0123456789abcdef", now - Duration::from_secs(1)), "issued in the future");
        let (expires, code) = value.split_once('.').unwrap();
        let later: u64 = expires.parse::<u64>().unwrap() + 1;
        for forged in [
            format!("{later}.{code}"),
            format!("+{expires}.{code}"),
            format!("{expires}."),
            format!("{expires}.{}", code.get(..63).unwrap()),
            format!("{expires}.{code}0"),
            expires.to_owned(),
            String::new(),
        ] {
            assert!(!is(&forged, b"0123456789abcdef", now), "{forged}");
        }
    }

    #[test]
    fn login_cookie_is_found_among_other_cookies() {
        let found = |field: &'static str| values(field.as_bytes(), "crossgate_admin_1").collect::<Vec<_>>();
        assert_eq!(found("a=b; crossgate_admin_1=x;crossgate_admin_1=y; crossgate_admin_10=z"), [b"x", b"y"]);
        assert_eq!(found("Xcrossgate_admin_1=x; crossgate_admin_1"), [b""; 0]);
        assert_eq!(cookie_name("127.0.0.1:9900"), "crossgate_admin_9900");
        assert_eq!(cookie_name("ops.example"), "crossgate_admin");
    }
}
