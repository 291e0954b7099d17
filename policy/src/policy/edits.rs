//! Turns a verdict into the `Access-Control-*` fields and the `Vary` tokens of the response.
//!
//! A denial has no edits, except those that explain a refused method or header of an allowed origin
//! ([`refusal`](super::refusal)). The gateway writes the fields, after it has removed the
//! upstream's own CORS fields ([`is_cors_response_field`](crate::is_cors_response_field)).

use http::HeaderName;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
};

use super::Policy;
use crate::headers::{
    DisclosedList, EditValue, HeaderEcho, HeaderEdit, STAR, TRUE, VARY_ANY_PREFLIGHT, VARY_ORIGIN,
    VARY_ORIGIN_AND_SITE, VARY_PREFLIGHT, VARY_SITE, exposed, max_age, methods, whole,
};
use crate::request::{CorsRequest, RequestField};
use crate::verdict::{Reason, RequestKind, RuleTerms, Verdict};

impl Policy {
    /// Returns the `Access-Control-*` fields of the response to `request`, on which `verdict` was
    /// decided. A denial has none. Source: <https://fetch.spec.whatwg.org/#http-responses>.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use crossgate_policy::{
    /// #     CorsRequest, OwnOrigin, Policy, PolicySpec, RequestField, Template,
    /// # };
    /// let spec = PolicySpec {
    ///     allow_origins: vec!["https://app.example.test".into()],
    ///     ..PolicySpec::default()
    /// };
    /// let template = Template::compile(&spec).unwrap().value;
    /// let policy = Policy::extend(Arc::new(template), &[]).unwrap().value;
    /// let own = OwnOrigin { host: "api.example.test", port: None, scheme: None };
    /// let mut request = CorsRequest::new(b"GET", own);
    /// request.origin = RequestField::One(b"https://app.example.test");
    /// let verdict = policy.decide(&request).without_rule();
    /// let edits: Vec<_> = policy.edits(&verdict, &request).collect();
    /// assert_eq!(edits.len(), 1);
    /// assert_eq!(edits[0].name, http::header::ACCESS_CONTROL_ALLOW_ORIGIN);
    /// assert_eq!(edits[0].value.as_bytes(), b"https://app.example.test");
    /// ```
    pub fn edits<'a>(
        &'a self,
        verdict: &Verdict,
        request: &'a CorsRequest<'a>,
    ) -> impl Iterator<Item = HeaderEdit<'a>> + use<'a> {
        let terms = self.terms(verdict);
        let rendered = &terms.rendered;
        let (origin, is_preflight) = match (verdict.is_allowed(), verdict.kind) {
            (false, _) => (None, false),
            // A page of another site has caused this request, and may not read the response.
            (true, _) if verdict.reason == Reason::Navigation => (None, false),
            (true, RequestKind::Preflight) => (self.allowed_origin(verdict, request), true),
            (true, RequestKind::Actual | RequestKind::WebSocket) => (self.allowed_origin(verdict, request), false),
            // Without `Vary: Origin` a cache may serve one response to all clients, so all of them
            // have `*` (https://fetch.spec.whatwg.org/#cors-protocol-and-http-caches).
            (true, RequestKind::NonCors | RequestKind::SameOrigin) => {
                ((!self.depends_on_origin()).then_some(EditValue::Fixed(&STAR)), false)
            }
        };
        // https://fetch.spec.whatwg.org/#http-responses: the fields of a preflight's response and
        // those of any other response.
        let on_all = origin.is_some();
        let on_preflight = on_all && is_preflight;
        let fields = [
            origin.map(|value| HeaderEdit { name: ACCESS_CONTROL_ALLOW_ORIGIN, value }),
            (on_all && terms.has_credentials() && !verdict.terms.without_credentials)
                .then_some(HeaderEdit { name: ACCESS_CONTROL_ALLOW_CREDENTIALS, value: EditValue::Fixed(&TRUE) }),
            on_preflight.then(|| methods(rendered, request)).flatten(),
            whole(&rendered.headers)
                .filter(|_| on_preflight)
                .map(|value| HeaderEdit { name: ACCESS_CONTROL_ALLOW_HEADERS, value }),
            on_preflight.then(|| HeaderEdit { name: ACCESS_CONTROL_MAX_AGE, value: max_age(rendered, verdict.terms) }),
            exposed(rendered).filter(|_| on_all && (!is_preflight || rendered.expose_on_preflights)),
        ];
        let echoes = matches!(rendered.headers, DisclosedList::Echo) && on_preflight;
        fields.into_iter().flatten().chain(HeaderEcho::new(echoes.then_some(request.requested_headers)))
    }

    /// Returns all fields except the first of an allowed preflight's [`edits`](Self::edits), as
    /// lines of an HTTP/1.1 head. `None` if they depend on the request or on a rule's terms.
    pub fn preflight_lines(&self, verdict: &Verdict) -> Option<&[u8]> {
        let is_shared =
            verdict.is_allowed() && verdict.kind == RequestKind::Preflight && verdict.terms == RuleTerms::NONE;
        self.terms(verdict).rendered.preflight_lines.as_deref().filter(|_| is_shared)
    }

    /// Returns the `Vary` tokens of a response to a request of this kind: the fields that the
    /// response depends on. They are the same for every verdict. Source: RFC 9110, section 12.5.5,
    /// and <https://fetch.spec.whatwg.org/#cors-protocol-and-http-caches>.
    pub fn vary(&self, kind: RequestKind) -> impl Iterator<Item = &str> {
        let origin = self.depends_on_origin().then_some("Origin");
        let others: &[&'static str] = match kind {
            RequestKind::Preflight => &["Access-Control-Request-Method", "Access-Control-Request-Headers"],
            RequestKind::NonCors | RequestKind::SameOrigin | RequestKind::WebSocket | RequestKind::Actual
                if self.template.cross_site.refuses_reads() =>
            {
                &["Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"]
            }
            RequestKind::NonCors | RequestKind::SameOrigin | RequestKind::WebSocket | RequestKind::Actual => &[],
        };
        // All listed fields, not only those that the rule has read for this request: the rule may
        // read others for the next request, and a cache must not mix the two.
        let listed = self.template.rule.iter().flat_map(|rule| rule.headers());
        origin.into_iter().chain(others.iter().copied()).chain(listed.map(HeaderName::as_str))
    }

    /// Returns the tokens of [`vary`](Self::vary) as one value, for a response without `Vary`.
    pub fn vary_value(&self, kind: RequestKind) -> Option<EditValue<'_>> {
        if let Some([preflight, other]) = &self.template.vary_with_rule {
            return Some(EditValue::Rendered(if kind == RequestKind::Preflight { preflight } else { other }));
        }
        let is_preflight = kind == RequestKind::Preflight;
        let fixed = match (is_preflight, self.depends_on_origin(), self.template.cross_site.refuses_reads()) {
            (true, true, _) => &VARY_PREFLIGHT,
            (true, false, _) => &VARY_ANY_PREFLIGHT,
            (false, true, false) => &VARY_ORIGIN,
            (false, true, true) => &VARY_ORIGIN_AND_SITE,
            (false, false, true) => &VARY_SITE,
            (false, false, false) => return None,
        };
        Some(EditValue::Fixed(fixed))
    }

    // https://fetch.spec.whatwg.org/#cors-check compares bytes, so the response has the request's
    // own.
    pub(super) fn allowed_origin<'a>(&self, verdict: &Verdict, request: &CorsRequest<'a>) -> Option<EditValue<'a>> {
        match request.origin {
            _ if self.any.is_some_and(|any| verdict.entry == Some(any.entry)) => Some(EditValue::Fixed(&STAR)),
            RequestField::One(origin) => Some(EditValue::Request(origin)),
            RequestField::Absent | RequestField::Many => None,
        }
    }
}
