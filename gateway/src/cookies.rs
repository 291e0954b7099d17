//! Cookies that pages of other sites cannot send back, and responses to cookies that caches share.
//!
//! CORS lets a page of another site send cookies, but the cookies decide by themselves whether they
//! go: a browser sends them to another site only with `SameSite=None; Secure`. Safari, and others
//! by their settings, send none at all. A cache may give a response marked `public` to
//! other users than the one for whom it was made.
//!
//! Sources: <https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis>, sections 5.6 and
//! 5.8; RFC 9111, section 5.2.2.9.

use crossgate_policy::{CredentialFields, RequestField, is_other_site};
use http::header::{CACHE_CONTROL, SET_COOKIE};

use crate::judge::PolicyMatch;
use crate::request_head::RequestHead;
use crossgate_config::model::CookieWarnings;
use crossgate_message::fields::HeaderFields;
use crossgate_message::host::parse_authority;

/// Counts a response that sets a cookie which the page cannot send back, and one to cookies that
/// caches may give to other users.
pub(crate) fn watch(judged: &PolicyMatch<'_>, head: &RequestHead<'_>, response: HeaderFields<'_>) {
    if !is_watched(judged) {
        return;
    }
    if is_from_other_site(head) && response.lines(&SET_COOKIE).any(is_unsendable) {
        judged.tenant.counters.count_unsendable_cookie();
    }
    let is_public = || response.elements(&CACHE_CONTROL).any(|directive| directive.eq_ignore_ascii_case(b"public"));
    if head.known.credentials == CredentialFields::Ambient && is_public() {
        judged.tenant.counters.count_public_response();
    }
}

/// Whether a page of another site may send the request with credentials, and its policy warns of
/// cookies.
pub(crate) fn concerns(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> bool {
    is_watched(judged) && is_from_other_site(head)
}

/// Whether the policy warns of cookies, and gives the page of this request credentials.
fn is_watched(judged: &PolicyMatch<'_>) -> bool {
    let watching = judged.route.filter(|route| route.shared.cookies == CookieWarnings::Warn);
    watching.is_some_and(|route| route.policy.grants_credentials(&judged.verdict))
}

fn is_from_other_site(head: &RequestHead<'_>) -> bool {
    match (head.known.sec_fetch_site, head.known.origin, head.known.host) {
        (RequestField::One(site), _, _) => site == b"cross-site",
        // An older browser.
        (RequestField::Absent, RequestField::One(origin), RequestField::One(host)) => {
            parse_authority(host).is_ok_and(|authority| is_other_site(origin, &authority.host))
        }
        _ => false,
    }
}

/// Whether browsers leave a cookie out of requests of other sites. The last of several attributes
/// of one name applies, and an unknown value is like an absent one.
fn is_unsendable(line: &[u8]) -> bool {
    let (mut is_none, mut is_secure) = (false, false);
    for attribute in line.split(|byte| *byte == b';').skip(1) {
        let mut parts = attribute.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if name.eq_ignore_ascii_case(b"samesite") {
            is_none = value.eq_ignore_ascii_case(b"none");
        } else if name.eq_ignore_ascii_case(b"secure") {
            is_secure = true;
        }
    }
    !(is_none && is_secure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secure_cookies_without_same_site_reach_other_sites() {
        for sendable in
            ["a=b; SameSite=None; Secure", "a=b;secure;samesite=NONE;Partitioned", "a; SameSite = None ; Secure=1"]
        {
            assert!(!is_unsendable(sendable.as_bytes()), "{sendable}");
        }
        let last = "a=b; Secure; SameSite=None; SameSite=Lax";
        for unsendable in
            ["a=b", "SameSite=None; a=Secure", "a=b; Secure; SameSite=Lax", "a=b; SameSite=None", last, "a; Secure", ""]
        {
            assert!(is_unsendable(unsendable.as_bytes()), "{unsendable}");
        }
    }
}
