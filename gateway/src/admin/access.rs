//! Access control of the admin listener.
//!
//! Probes are open to any client. Every other endpoint has three checks:
//!
//! - `Host` must be an IP address, `localhost` or a configured name. This stops DNS rebinding, in
//!   which a page reaches a loopback address under the page's own name.
//! - The request must not come from a web page, since a page can send a blind POST to a loopback
//!   address. Links that a person follows are allowed.
//! - A bearer token is required if one is configured; for reading, a login cookie suffices. Off
//!   loopback a token must be configured. A second token is read-only.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;

use super::answer::AdminResponse;
use super::endpoints::AdminEndpoint;
use super::page::{self, BrowserArrival};
use super::request::{AdminRequest, RequestInitiator};
use super::session;
use super::tokens::{AdminTokens, Token, TokenPair};
use crossgate_message::host::parse_authority;

/// Decides which requests the listener serves.
pub struct AdminAccess {
    /// Canonical host names, in addition to IP literals and `localhost`.
    hosts: Vec<Box<str>>,
    tokens: Arc<AdminTokens>,
    metrics: MetricsAccess,
}

/// Whether `/metrics` needs a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAccess {
    /// A token is required, as for other endpoints.
    Token,
    /// No token is required.
    Open,
}

/// The tokens do not suffice: the listener is not on loopback, or there is only a read token, and
/// `tokenFile` is missing.
#[derive(Debug, thiserror::Error)]
#[error(
    "the admin listener at {0} needs admin.tokenFile: its address is not a loopback one, or admin.readTokenFile is set \
     alone"
)]
pub struct NoToken(SocketAddr);

impl AdminAccess {
    /// The access rules of a listener at `address`. `tokens` is read for each request, so a reload
    /// can replace them.
    ///
    /// # Errors
    /// The token for everything is required and missing.
    pub fn new(
        address: SocketAddr,
        tokens: Arc<AdminTokens>,
        metrics: MetricsAccess,
        hosts: Vec<Box<str>>,
    ) -> Result<Self, NoToken> {
        let pair = tokens.current();
        if pair.full.is_none() && (pair.read.is_some() || !address.ip().to_canonical().is_loopback()) {
            return Err(NoToken(address));
        }
        Ok(AdminAccess { hosts, tokens, metrics })
    }

    /// Returns the error response if the request is not allowed.
    pub(super) fn check(
        &self,
        endpoint: AdminEndpoint,
        request: &AdminRequest,
        now: SystemTime,
    ) -> Result<(), AdminResponse> {
        if endpoint.is_probe() {
            return Ok(());
        }
        // DNS rebinding: a page's own name can resolve to this listener.
        if !self.is_known_host(&request.host) {
            let detail = "unknown host: expected an IP address, localhost or a name in admin.hosts";
            return Err(AdminResponse::error(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        if endpoint == AdminEndpoint::Login {
            // Login CSRF: a page of another site could log the browser in, or use it to guess
            // tokens.
            let detail = "login from another site: open / in a browser and use the form of this listener";
            let refused = || AdminResponse::error(StatusCode::FORBIDDEN, detail);
            return if request.is_same_origin() { Ok(()) } else { Err(refused()) };
        }
        // CSRF: a page of another site can send a simple POST here without a preflight.
        match request.initiator {
            RequestInitiator::Tool | RequestInitiator::Navigation => {}
            RequestInitiator::Page => {
                let detail = "requests from web pages are refused: open the URL in a browser, or use a client that sends no Origin";
                return Err(AdminResponse::error(StatusCode::FORBIDDEN, detail));
            }
        }
        match self.grant(endpoint, request, now) {
            Some(AccessGrant::Full) => Ok(()),
            Some(AccessGrant::Read) if !endpoint.is_changed_by(&request.method) => Ok(()),
            Some(AccessGrant::Read) => {
                let detail = "the token of admin.readTokenFile is read-only: expected the token of admin.tokenFile";
                Err(AdminResponse::error(StatusCode::FORBIDDEN, detail))
            }
            None => Err(unauthorized(endpoint, request)),
        }
    }

    /// Whether tokens are configured.
    pub(super) fn has_tokens(&self) -> bool {
        self.tokens.current().full.is_some()
    }

    /// Finds the configured token that equals `given`. Compares with all tokens, in constant time.
    pub(super) fn token_equal_to(&self, given: &[u8]) -> Option<Token> {
        equal_to(&self.tokens.current(), given).map(Box::from)
    }

    fn is_known_host(&self, host: &str) -> bool {
        let Ok(authority) = parse_authority(host.as_bytes()) else {
            return false;
        };
        let name = authority.host.as_ref();
        name == "localhost" || is_ip_literal(name) || self.hosts.iter().any(|known| **known == *name)
    }

    fn grant(&self, endpoint: AdminEndpoint, request: &AdminRequest, now: SystemTime) -> Option<AccessGrant> {
        let tokens = self.tokens.current();
        let Some(full) = &tokens.full else {
            return Some(AccessGrant::Full);
        };
        let given = request.authorization.as_deref().and_then(bearer);
        match given.and_then(|given| equal_to(&tokens, given)) {
            Some(known) if *known == **full => return Some(AccessGrant::Full),
            Some(_) => return Some(AccessGrant::Read),
            None => {}
        }
        let is_open = endpoint == AdminEndpoint::Metrics && self.metrics == MetricsAccess::Open;
        (is_open || has_session(&tokens, request, now)).then_some(AccessGrant::Read)
    }
}

/// Finds the configured token that equals `given`. Compares with all tokens, in constant time.
fn equal_to<'t>(tokens: &'t TokenPair, given: &[u8]) -> Option<&'t [u8]> {
    tokens.each().fold(None, |found, token| if is_equal(given, token) { Some(token) } else { found })
}

/// Whether the request has a valid login cookie. Browsers attach cookies to requests that other
/// sites cause (CSRF), so a cookie only ever permits GET and HEAD.
fn has_session(tokens: &TokenPair, request: &AdminRequest, now: SystemTime) -> bool {
    if !matches!(&*request.method, "GET" | "HEAD") {
        return false;
    }
    let name = session::cookie_name(&request.host);
    let cookies = request.cookie.as_deref().unwrap_or_default();
    session::values(cookies, &name).any(|value| tokens.each().any(|token| session::is_valid(value, token, now)))
}

/// The permission that a token or a cookie gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AccessGrant {
    Full,
    Read,
}

/// The 401 response. A browser gets a login form.
fn unauthorized(endpoint: AdminEndpoint, request: &AdminRequest) -> AdminResponse {
    let is_change = endpoint.is_changed_by(&request.method);
    let is_read = matches!(&*request.method, "GET" | "HEAD") && !is_change;
    if is_read && request.accepts_html {
        let arrival = match request.fetch_site.as_deref() {
            Some(b"cross-site" | b"same-site") => BrowserArrival::FromOtherSite,
            Some(_) | None => BrowserArrival::Direct,
        };
        return page::login(StatusCode::UNAUTHORIZED, &request.target(), None, arrival);
    }
    let detail = if is_change {
        "missing or invalid token: expected the token of admin.tokenFile as a bearer token"
    } else {
        "missing or invalid token: expected the token of admin.tokenFile or admin.readTokenFile as a bearer token"
    };
    // A 401 response must have a WWW-Authenticate field (RFC 9110, section 15.5.2).
    AdminResponse::error(StatusCode::UNAUTHORIZED, detail).with_field("WWW-Authenticate", "Bearer")
}

fn is_ip_literal(host: &str) -> bool {
    host.starts_with('[') || host.parse::<IpAddr>().is_ok()
}

/// The scheme is case-insensitive (RFC 9110, section 11.1).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, credentials) = authorization.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| credentials.trim_ascii())
}

/// Compares in constant time, so that response times do not reveal how much of a guessed token is
/// right.
pub(super) fn is_equal(given: &[u8], token: &[u8]) -> bool {
    let difference = given.iter().zip(token).fold(0, |bits, (a, b)| std::hint::black_box(bits | (a ^ b)));
    given.len() == token.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn new(address: &str, full: Option<&str>, metrics: MetricsAccess) -> Result<AdminAccess, NoToken> {
        new_with(address, full, None, metrics)
    }

    fn pair(full: Option<&str>, read: Option<&str>) -> TokenPair {
        let token = |text: &str| Token::from(text.as_bytes());
        TokenPair { full: full.map(token), read: read.map(token) }
    }

    fn new_with(
        address: &str,
        full: Option<&str>,
        read: Option<&str>,
        metrics: MetricsAccess,
    ) -> Result<AdminAccess, NoToken> {
        let tokens = Arc::new(AdminTokens::default());
        tokens.replace(pair(full, read));
        AdminAccess::new(address.parse().unwrap(), tokens, metrics, vec!["ops.example".into()])
    }

    #[test]
    fn admin_listener_off_loopback_requires_a_token() {
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

    fn request(fields: &str) -> AdminRequest {
        request_by("GET", fields)
    }

    fn request_by(method: &str, fields: &str) -> AdminRequest {
        AdminRequest::parse(format!("{method} / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()).unwrap()
    }

    #[track_caller]
    fn check(access: &AdminAccess, endpoint: AdminEndpoint, fields: &str, status: Option<u16>) {
        check_request(access, endpoint, &request(fields), status);
    }

    #[track_caller]
    fn check_request(access: &AdminAccess, endpoint: AdminEndpoint, request: &AdminRequest, status: Option<u16>) {
        let refusal = access.check(endpoint, request, SystemTime::now()).err();
        let given = refusal.map(|answer| String::from_utf8(answer.into_bytes()).unwrap());
        let given = given.and_then(|text| text.split(' ').nth(1)?.parse().ok());
        assert_eq!(given, status, "{endpoint:?} {request:?}");
    }

    #[test]
    fn admin_requires_an_address_or_known_name_as_host() {
        let access = new("127.0.0.1:1", None, MetricsAccess::Token).unwrap();
        for host in ["127.0.0.1:9900", "[::1]:9900", "10.1.2.3", "localhost", "LOCALHOST:1", "ops.example."] {
            check(&access, AdminEndpoint::Status, &format!("Host: {host}"), None);
        }
        for host in ["evil.test", "ops.example.evil.test", "127.0.0.1.evil.test", "localhost.evil.test", ""] {
            check(&access, AdminEndpoint::Status, &format!("Host: {host}"), Some(421));
            check(&access, AdminEndpoint::Livez, &format!("Host: {host}"), None);
        }
    }

    #[test]
    fn web_pages_reach_only_admin_probes() {
        let access = new("127.0.0.1:1", None, MetricsAccess::Open).unwrap();
        let fields = "Host: 127.0.0.1\r\nOrigin: http://127.0.0.1";
        check(&access, AdminEndpoint::Reload, fields, Some(403));
        check(&access, AdminEndpoint::Metrics, fields, Some(403));
        check(&access, AdminEndpoint::Readyz, fields, None);
    }

    #[test]
    fn admin_token_must_match_completely() {
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
            check(&access, AdminEndpoint::Metrics, &fields, status);
            check(&access, AdminEndpoint::Reload, &fields, status);
        }
        check(&access, AdminEndpoint::Status, "Host: 10.0.0.1", Some(401));
        check(&access, AdminEndpoint::Livez, "Host: 10.0.0.1", None);
    }

    #[test]
    fn open_metrics_need_no_token_but_status_does() {
        let access = new("0.0.0.0:1", Some(TOKEN), MetricsAccess::Open).unwrap();
        check(&access, AdminEndpoint::Metrics, "Host: 10.0.0.1", None);
        check(&access, AdminEndpoint::Status, "Host: 10.0.0.1", Some(401));
    }

    const READ_TOKEN: &str = "fedcba9876543210";

    #[test]
    fn c4_read_token_cannot_change_anything() {
        let access = new_with("0.0.0.0:1", Some(TOKEN), Some(READ_TOKEN), MetricsAccess::Token).unwrap();
        let full = format!("Host: 10.0.0.1\r\nAuthorization: Bearer {TOKEN}");
        let read = format!("Host: 10.0.0.1\r\nAuthorization: Bearer {READ_TOKEN}");
        for endpoint in [
            AdminEndpoint::Page,
            AdminEndpoint::Status,
            AdminEndpoint::Explain,
            AdminEndpoint::Origins,
            AdminEndpoint::Metrics,
        ] {
            check(&access, endpoint, &full, None);
            check(&access, endpoint, &read, None);
            check(&access, endpoint, "Host: 10.0.0.1", Some(401));
        }
        check(&access, AdminEndpoint::Reload, &full, None);
        check(&access, AdminEndpoint::Reload, &read, Some(403));
        check(&access, AdminEndpoint::LogLevel, &read, None);
        check_request(&access, AdminEndpoint::LogLevel, &request_by("PUT", &read), Some(403));
        check_request(&access, AdminEndpoint::LogLevel, &request_by("PUT", &full), None);
    }

    #[test]
    fn c4_read_token_alone_is_refused() {
        assert!(new_with("127.0.0.1:1", Some(TOKEN), Some(READ_TOKEN), MetricsAccess::Token).is_ok());
        assert!(new_with("127.0.0.1:1", None, Some(READ_TOKEN), MetricsAccess::Token).is_err());
    }

    #[test]
    fn replaced_admin_token_and_its_cookies_are_refused() {
        let access = new_with("0.0.0.0:1", Some(TOKEN), Some(READ_TOKEN), MetricsAccess::Token).unwrap();
        let bearer = |token: &str| format!("Host: 10.0.0.1:9900\r\nAuthorization: Bearer {token}");
        let cookie = session::issue(TOKEN.as_bytes(), SystemTime::now()).unwrap();
        let cookie = format!("Host: 10.0.0.1:9900\r\nCookie: crossgate_admin_9900={cookie}");
        check(&access, AdminEndpoint::Status, &cookie, None);
        assert!(!access.tokens.replace(pair(Some(TOKEN), Some(READ_TOKEN))));
        assert!(access.tokens.replace(pair(Some("aaaaaaaaaaaaaaaa"), Some("bbbbbbbbbbbbbbbb"))));
        for fields in [bearer(TOKEN), bearer(READ_TOKEN), cookie] {
            check(&access, AdminEndpoint::Status, &fields, Some(401));
        }
        check(&access, AdminEndpoint::Reload, &bearer("aaaaaaaaaaaaaaaa"), None);
        check(&access, AdminEndpoint::Reload, &bearer("bbbbbbbbbbbbbbbb"), Some(403));
    }

    #[test]
    fn c4_login_cookie_is_read_only() {
        let access = new_with("0.0.0.0:1", Some(TOKEN), Some(READ_TOKEN), MetricsAccess::Token).unwrap();
        for token in [TOKEN, READ_TOKEN] {
            let value = session::issue(token.as_bytes(), SystemTime::now()).unwrap();
            let fields = |name: &str| format!("Host: 10.0.0.1:9900\r\nCookie: a=b; {name}={value}");
            let cookie = fields("crossgate_admin_9900");
            check(&access, AdminEndpoint::Page, &cookie, None);
            check(&access, AdminEndpoint::Status, &cookie, None);
            check(&access, AdminEndpoint::Page, &fields("crossgate_admin"), Some(401));
            check(&access, AdminEndpoint::Reload, &cookie, Some(403));
            for (method, endpoint) in
                [("POST", AdminEndpoint::Reload), ("POST", AdminEndpoint::Page), ("PUT", AdminEndpoint::LogLevel)]
            {
                check_request(&access, endpoint, &request_by(method, &cookie), Some(401));
            }
            check(&access, AdminEndpoint::Page, &format!("{cookie}\r\nOrigin: http://10.0.0.1:9900"), Some(403));
        }
        for forged in [TOKEN, "1.0", "99999999999.00"] {
            let fields = format!("Host: 10.0.0.1:9900\r\nCookie: crossgate_admin_9900={forged}");
            check(&access, AdminEndpoint::Page, &fields, Some(401));
        }
    }

    #[test]
    fn c4_cross_site_login_is_refused() {
        let access = new("127.0.0.1:1", Some(TOKEN), MetricsAccess::Token).unwrap();
        for (fields, status) in [
            ("Sec-Fetch-Site: same-origin\r\nOrigin: null", None),
            ("Origin: http://127.0.0.1:1", None),
            ("Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.test", Some(403)),
            ("Sec-Fetch-Site: same-site\r\nOrigin: http://127.0.0.1:2", Some(403)),
            ("Origin: null", Some(403)),
            ("Accept: text/html", Some(403)),
        ] {
            let request = request_by("POST", &format!("Host: 127.0.0.1:1\r\n{fields}"));
            check_request(&access, AdminEndpoint::Login, &request, status);
        }
        let rebound = request_by("POST", "Host: evil.test\r\nOrigin: http://evil.test");
        check_request(&access, AdminEndpoint::Login, &rebound, Some(421));
    }

    #[test]
    fn c4_cross_site_navigations_may_read() {
        let access = new("127.0.0.1:1", None, MetricsAccess::Token).unwrap();
        for (site, destination, status) in
            [("cross-site", "document", None), ("none", "document", None), ("cross-site", "iframe", Some(403))]
        {
            let fields = format!(
                "Host: 127.0.0.1\r\nSec-Fetch-Site: {site}\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: {destination}"
            );
            check(&access, AdminEndpoint::Explain, &fields, status);
            check(&access, AdminEndpoint::Page, &fields, status);
            check_request(
                &access,
                AdminEndpoint::Reload,
                &request_by("POST", &fields),
                Some(403).filter(|_| site != "none"),
            );
        }
    }
}
