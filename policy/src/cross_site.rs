//! Protection against cross-site requests: which requests may act, where CORS decides which pages
//! may read.
//!
//! A browser sends some requests of other sites without a preflight, cookies included: forms,
//! images, links, `fetch` in the mode `no-cors`. CORS hides their responses, but the requests have
//! taken effect. The check reads Fetch Metadata and `Origin`, after the CORS decision, since an
//! origin that an entry covers may act. It never reads `Referer`, which pages can suppress. What it
//! does not cover is in `docs/guides/cross-site-requests.md`.
//!
//! Sources: <https://w3c.github.io/webappsec-fetch-metadata/>,
//! <https://datatracker.ietf.org/doc/html/rfc6265#section-8.2>.

use crate::policy::Policy;
use crate::request::{CorsRequest, CredentialFields, RequestField};
use crate::spec::{CrossSiteNavigations, CrossSiteProtection, CrossSiteReads, CrossSiteTerms};
use crate::verdict::{Reason, RequestKind, Verdict};

/// The result of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrossSiteOutcome {
    /// CORS decides.
    Passes,
    /// CORS decides, but [`CrossSiteProtection::Protect`] would refuse the request.
    WouldDeny,
    /// A navigation that passes, without CORS fields on its response.
    Navigation,
    /// Refused.
    Denied,
}

impl CrossSiteOutcome {
    /// Replaces the verdict of CORS by permission with [`Reason::Navigation`] or by a denial with
    /// [`Reason::CrossSite`], if the check has decided.
    #[inline]
    pub fn apply(self, verdict: &mut Verdict) {
        match self {
            Self::Passes | Self::WouldDeny => {}
            Self::Navigation => *verdict = Verdict::allow(verdict.kind, Reason::Navigation, None),
            Self::Denied => *verdict = Verdict::deny(verdict.kind, Reason::CrossSite, None),
        }
    }
}

impl Policy {
    /// Checks a request on which CORS has decided. The function never fails and allocates nothing.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use crossgate_policy::{
    ///     CorsRequest, CrossSiteNavigations, CrossSiteOutcome, CrossSiteProtection,
    ///     CrossSiteTerms, OwnOrigin, Policy, PolicySpec, RequestField, Template,
    /// };
    ///
    /// let protection = CrossSiteProtection::Protect;
    /// let spec = PolicySpec {
    ///     allow_origins: vec!["https://app.example.test".into()],
    ///     cross_site: CrossSiteTerms { protection, ..CrossSiteTerms::default() },
    ///     ..PolicySpec::default()
    /// };
    /// let template = Template::compile(&spec).unwrap().value;
    /// let policy = Policy::extend(Arc::new(template), &[]).unwrap().value;
    ///
    /// let own = OwnOrigin { host: "api.example.test", port: None, scheme: None };
    /// let outcome = |site: &[u8]| {
    ///     let sec_fetch_site = RequestField::One(site);
    ///     let request = CorsRequest { sec_fetch_site, ..CorsRequest::new(b"POST", own) };
    ///     let verdict = policy.decide(&request).without_rule();
    ///     policy.check_cross_site(&request, &verdict, CrossSiteNavigations::Deny)
    /// };
    /// assert_eq!(outcome(b"cross-site"), CrossSiteOutcome::Denied);
    /// assert_eq!(outcome(b"same-origin"), CrossSiteOutcome::Passes);
    /// ```
    #[inline]
    pub fn check_cross_site(
        &self,
        request: &CorsRequest<'_>,
        verdict: &Verdict,
        navigations: CrossSiteNavigations,
    ) -> CrossSiteOutcome {
        let CrossSiteTerms { protection, reads } = self.template.cross_site;
        if protection == CrossSiteProtection::Off || is_exempt(request, verdict) {
            return CrossSiteOutcome::Passes;
        }
        let outcome = self.check_foreign(request, verdict, reads, navigations);
        match (protection, outcome) {
            (CrossSiteProtection::Protect, outcome) => outcome,
            (_, CrossSiteOutcome::Denied) => CrossSiteOutcome::WouldDeny,
            _ => CrossSiteOutcome::Passes,
        }
    }

    /// Returns the terms for requests from other sites.
    pub fn cross_site(&self) -> CrossSiteTerms {
        self.template.cross_site
    }

    /// Checks a request from another site, whose origin no entry covers, other than perhaps `*`.
    #[inline]
    fn check_foreign(
        &self,
        request: &CorsRequest<'_>,
        verdict: &Verdict,
        reads: CrossSiteReads,
        navigations: CrossSiteNavigations,
    ) -> CrossSiteOutcome {
        let passes = match request.method {
            method if method == b"GET" || method == b"HEAD" => {
                verdict.reason == Reason::Any || passes_read(request, reads)
            }
            method if method == b"OPTIONS" => true,
            _ if navigations == CrossSiteNavigations::Allow && is_navigation(request) => {
                return CrossSiteOutcome::Navigation;
            }
            // Such a request is one that the page's own server could have made as well.
            _ => self.allows_any() && request.credentials != CredentialFields::Ambient,
        };
        if passes { CrossSiteOutcome::Passes } else { CrossSiteOutcome::Denied }
    }
}

/// Whether a request is not from another site, or passes as an entry other than `*` covers its
/// origin.
fn is_exempt(request: &CorsRequest<'_>, verdict: &Verdict) -> bool {
    // A preflight takes no effect, and CORS refuses a handshake for a WebSocket by its origin.
    if matches!(verdict.kind, RequestKind::Preflight | RequestKind::WebSocket) {
        return true;
    }
    let is_own = match request.sec_fetch_site {
        // `same-site` is another site as well: SameSite cookies do not protect from a subdomain
        // that is taken over. A browser sends the field once, with a known value. Slices are
        // compared whole, and patterns of bytes one by one.
        RequestField::One(site) => site == b"same-origin" || site == b"none",
        RequestField::Many => false,
        // Not a browser, or one too old to say.
        RequestField::Absent => matches!(verdict.kind, RequestKind::NonCors | RequestKind::SameOrigin),
    };
    let is_listed = matches!(verdict.reason, Reason::Exact | Reason::Wildcard | Reason::Regex | Reason::Rule);
    is_own || (is_listed && verdict.is_allowed())
}

fn passes_read(request: &CorsRequest<'_>, reads: CrossSiteReads) -> bool {
    match reads {
        CrossSiteReads::Allow => true,
        // Frames have destinations of their own.
        CrossSiteReads::NavigationsOnly => {
            is_navigation(request) && request.sec_fetch_dest == RequestField::One(b"document")
        }
        CrossSiteReads::Deny => false,
    }
}

/// Whether the browser navigates. `<object>` and `<embed>` also navigate, without an act of the
/// user (<https://w3c.github.io/webappsec-fetch-metadata/#sec-fetch-mode-header>).
fn is_navigation(request: &CorsRequest<'_>) -> bool {
    let is_embedded = matches!(request.sec_fetch_dest, RequestField::One(b"object" | b"embed") | RequestField::Many);
    request.sec_fetch_mode == RequestField::One(b"navigate") && !is_embedded
}
