//! Sites: hosts with one registrable domain, between which browsers send SameSite cookies.

use crate::origin::{host, parse, suffix};
use crate::policy::Policy;
use crate::verdict::{Reason, RequestKind, Verdict};

/// Whether an origin and a host have different registrable domains. Addresses and names without a
/// registrable domain are sites of their own. The scheme is not compared, since a gateway may not
/// know its own.
///
/// `host` is without port and in lower case. An origin that is malformed or `null` is on no site.
/// Source: <https://html.spec.whatwg.org/multipage/browsers.html#same-site>.
///
/// ```
/// use crossgate_policy::is_other_site;
///
/// assert!(!is_other_site(b"https://app.example.com", "api.example.com"));
/// assert!(is_other_site(b"https://a.github.io", "b.github.io"));
/// ```
pub fn is_other_site(origin: &[u8], host: &str) -> bool {
    let Ok(origin) = parse::parse(origin) else { return true };
    let Ok(origin_host) = str::from_utf8(origin.host) else { return true };
    site(origin_host) != site(host)
}

/// The registrable domain of a host, or the host itself.
fn site(host: &str) -> &str {
    if host::is_address(host.as_bytes()) { host } else { suffix::registrable_domain(host).unwrap_or(host) }
}

impl Policy {
    /// Whether the response to a request says that its page may send and read with credentials.
    pub fn grants_credentials(&self, verdict: &Verdict) -> bool {
        let is_page = matches!(verdict.kind, RequestKind::Actual | RequestKind::WebSocket);
        let is_granted = verdict.is_allowed() && is_page && verdict.reason != Reason::Navigation;
        is_granted && self.terms(verdict).has_credentials() && !verdict.terms.without_credentials
    }
}
