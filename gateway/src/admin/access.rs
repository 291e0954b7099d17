//! Who may ask the admin listener what.
//!
//! Probes are for everybody. Everything else needs a `Host` that no foreign page can have brought along (DNS
//! rebinding), must not come from a web page at all (a page may send a blind POST to a loopback address), and needs the
//! bearer token where there is one. Off loopback there must be one.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use http::StatusCode;

use super::answer::Answer;
use super::endpoints::Endpoint;
use super::request::Request;
use crate::config::files::read_bytes;
use crate::host::parse_authority;

/// Below this a token is guessed, not known.
const TOKEN_LEN_MIN: usize = 16;
const TOKEN_LEN_MAX: usize = 1_024;
/// A token and the white space around it.
const TOKEN_FILE_BYTES_MAX: u64 = 4 << 10;

/// Who may ask.
pub struct Access {
    /// Names besides IP literals and `localhost`, canonical.
    hosts: Vec<Box<str>>,
    token: Option<Box<[u8]>>,
    metrics: MetricsAccess,
}

/// Whether a scrape needs the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Like everything else.
    Token,
    /// No.
    Open,
}

/// Why there can be no admin listener like this.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Reachable by others, and no token.
    #[error("the admin listener at {0} can be reached from outside: it needs a tokenFile, or a loopback address")]
    NoToken(SocketAddr),
    /// The token file cannot be read.
    #[error("cannot read the admin tokenFile {}: {source}; a readable file is needed", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file holds no token.
    #[error(
        "the admin tokenFile {} holds no token: {TOKEN_LEN_MIN} to {TOKEN_LEN_MAX} printable ASCII characters without \
         spaces are accepted", .0.display()
    )]
    NotAToken(PathBuf),
}

impl Access {
    /// The access to a listener at `address`.
    ///
    /// # Errors
    /// If the token file cannot be used, or there is none where there must be one.
    pub fn new(
        address: SocketAddr,
        token_file: Option<&Path>,
        metrics: MetricsAccess,
        hosts: Vec<Box<str>>,
    ) -> Result<Self, AccessError> {
        let token = token_file.map(read_token).transpose()?;
        if token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(AccessError::NoToken(address));
        }
        Ok(Access { hosts, token, metrics })
    }

    /// Whether the request may have what it asks for; if not, the answer to it.
    pub(super) fn check(&self, endpoint: Endpoint, request: &Request) -> Result<(), Answer> {
        if endpoint.is_probe() {
            return Ok(());
        }
        if !self.knows_host(&request.host) {
            let detail = "this host is not served here: use an IP address, localhost or a name in admin.hosts";
            return Err(Answer::error(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        if request.is_from_page {
            return Err(Answer::error(
                StatusCode::FORBIDDEN,
                "web pages are not served here: use a tool without Origin",
            ));
        }
        if !self.is_authorized(endpoint, request.authorization.as_deref()) {
            let answer =
                Answer::error(StatusCode::UNAUTHORIZED, "the token of admin.tokenFile is needed as a bearer token");
            return Err(answer.with_field("WWW-Authenticate", "Bearer"));
        }
        Ok(())
    }

    fn knows_host(&self, host: &str) -> bool {
        let Ok(authority) = parse_authority(host.as_bytes()) else {
            return false;
        };
        let name = authority.host.as_ref();
        name == "localhost" || is_ip_literal(name) || self.hosts.iter().any(|known| **known == *name)
    }

    fn is_authorized(&self, endpoint: Endpoint, authorization: Option<&[u8]>) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let is_open = endpoint == Endpoint::Metrics && self.metrics == MetricsAccess::Open;
        is_open || authorization.and_then(bearer).is_some_and(|given| is_equal(given, token))
    }
}

fn is_ip_literal(host: &str) -> bool {
    host.starts_with('[') || host.parse::<IpAddr>().is_ok()
}

/// RFC 9110, section 11.1: the scheme in any case.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, credentials) = authorization.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| credentials.trim_ascii())
}

/// In a time that tells nothing of where they differ.
fn is_equal(given: &[u8], token: &[u8]) -> bool {
    let difference = given.iter().zip(token).fold(0, |bits, (a, b)| std::hint::black_box(bits | (a ^ b)));
    given.len() == token.len() && difference == 0
}

/// The token in a file.
pub(crate) fn read_token(path: &Path) -> Result<Box<[u8]>, AccessError> {
    let unreadable = |source| AccessError::Unreadable { path: path.to_owned(), source };
    let text = read_bytes(path, TOKEN_FILE_BYTES_MAX).map_err(unreadable)?;
    let token = text.trim_ascii();
    let is_token = (TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    if is_token { Ok(token.into()) } else { Err(AccessError::NotAToken(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const TOKEN: &str = "0123456789abcdef";

    fn token_file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn new(address: &str, token: Option<&str>, metrics: MetricsAccess) -> Result<Access, AccessError> {
        let file = token.map(token_file);
        let path = file.as_ref().map(tempfile::NamedTempFile::path);
        Access::new(address.parse().unwrap(), path, metrics, vec!["ops.example".into()])
    }

    #[test]
    fn off_loopback_a_token_is_needed() {
        for (address, is_fine) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(new(address, None, MetricsAccess::Token).is_ok(), is_fine, "{address}");
            assert!(new(address, Some(TOKEN), MetricsAccess::Token).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_token_is_long_enough_and_printable() {
        for (text, is_token) in [
            ("0123456789abcdef\n", true),
            ("  0123456789abcdef  ", true),
            ("", false),
            ("short", false),
            ("0123456789 abcdef", false),
            ("0123456789abcd\u{e9}f", false),
        ] {
            assert_eq!(new("0.0.0.0:1", Some(text), MetricsAccess::Token).is_ok(), is_token, "{text:?}");
        }
        let missing = Some(Path::new("/nonexistent/token"));
        let access = Access::new("127.0.0.1:1".parse().unwrap(), missing, MetricsAccess::Token, Vec::new());
        assert!(matches!(access, Err(AccessError::Unreadable { .. })));
    }

    fn request(fields: &str) -> Request {
        Request::parse(format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()).unwrap()
    }

    #[track_caller]
    fn check(access: &Access, endpoint: Endpoint, fields: &str, status: Option<u16>) {
        let refusal = access.check(endpoint, &request(fields)).err();
        let given = refusal.map(|answer| String::from_utf8(answer.into_bytes()).unwrap());
        let given = given.and_then(|text| text.split(' ').nth(1)?.parse().ok());
        assert_eq!(given, status, "{endpoint:?} {fields}");
    }

    #[test]
    fn the_host_is_an_address_or_a_known_name() {
        let access = new("127.0.0.1:1", None, MetricsAccess::Token).unwrap();
        for host in ["127.0.0.1:9900", "[::1]:9900", "10.1.2.3", "localhost", "LOCALHOST:1", "ops.example."] {
            check(&access, Endpoint::Status, &format!("Host: {host}"), None);
        }
        for host in ["evil.test", "ops.example.evil.test", "127.0.0.1.evil.test", "localhost.evil.test", ""] {
            check(&access, Endpoint::Status, &format!("Host: {host}"), Some(421));
            check(&access, Endpoint::Livez, &format!("Host: {host}"), None);
        }
    }

    #[test]
    fn a_page_gets_nothing_but_the_probes() {
        let access = new("127.0.0.1:1", None, MetricsAccess::Open).unwrap();
        let fields = "Host: 127.0.0.1\r\nOrigin: http://127.0.0.1";
        check(&access, Endpoint::Reload, fields, Some(403));
        check(&access, Endpoint::Metrics, fields, Some(403));
        check(&access, Endpoint::Readyz, fields, None);
    }

    #[test]
    fn the_token_is_compared_whole() {
        let access = new("0.0.0.0:1", Some(TOKEN), MetricsAccess::Token).unwrap();
        for (given, status) in [
            ("Bearer 0123456789abcdef", None),
            ("bearer  0123456789abcdef", None),
            ("Bearer 0123456789abcdeX", Some(401)),
            ("Bearer 0123456789abcde", Some(401)),
            ("Bearer 0123456789abcdef0", Some(401)),
            ("Bearer", Some(401)),
            ("Basic 0123456789abcdef", Some(401)),
            ("0123456789abcdef", Some(401)),
        ] {
            let fields = format!("Host: 10.0.0.1\r\nAuthorization: {given}");
            check(&access, Endpoint::Metrics, &fields, status);
            check(&access, Endpoint::Reload, &fields, status);
        }
        check(&access, Endpoint::Status, "Host: 10.0.0.1", Some(401));
        check(&access, Endpoint::Livez, "Host: 10.0.0.1", None);
    }

    #[test]
    fn open_metrics_frees_metrics_alone() {
        let access = new("0.0.0.0:1", Some(TOKEN), MetricsAccess::Open).unwrap();
        check(&access, Endpoint::Metrics, "Host: 10.0.0.1", None);
        check(&access, Endpoint::Status, "Host: 10.0.0.1", Some(401));
    }
}
