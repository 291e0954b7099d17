//! The header edits of a preflight whose origin is allowed and whose method or header is not. They
//! let the browser name the refused part.
//!
//! Without CORS fields a browser reports a missing `Access-Control-Allow-Origin`, whatever was
//! refused. With these fields it compares the lists, names the refused method or header in its
//! console, and blocks the request. The verdict stays a denial, so the fields exist only where
//! every browser must refuse them, in every credentials mode. A denied origin, a malformed
//! preflight and one over a limit have none.

use std::ops::ControlFlow;

use http::HeaderValue;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
};

use super::Policy;
use super::terms::OriginTerms;
use crate::headers::{DisclosedList, EditValue, HeaderEdit, TRUE, whole};
use crate::names::is_token;
use crate::request::{CorsRequest, FieldLines, RequestField};
use crate::request_headers::{self, AllowedHeaders};
use crate::spec::Disclosure;
use crate::verdict::{Reason, RequestKind, Verdict};

/// The methods that need no listing, sent where the policy lists none or its list is not disclosed.
pub(crate) static SAFELISTED: HeaderValue = HeaderValue::from_static("GET,HEAD,POST");

/// The max-age of a refusal. Browsers do not cache a failed preflight; intermediaries must not
/// either.
static NO_AGE: HeaderValue = HeaderValue::from_static("0");

const STAR: &[u8] = b"*";

/// The refused parts of a well-formed preflight: at least one.
#[derive(Clone, Copy)]
struct RefusedParts {
    method: bool,
    headers: bool,
}

impl Policy {
    /// Whether [`refusal_edits`](Self::refusal_edits) can explain the refusal to a browser: the
    /// origin is allowed, there is exactly one requested method and it is a token, and the
    /// requested headers are well-formed and within limits.
    pub fn is_explainable(&self, verdict: &Verdict, request: &CorsRequest<'_>) -> bool {
        self.refused(verdict, request).is_some()
    }

    /// Returns the `Access-Control-*` fields by which every browser refuses this preflight for its
    /// method or headers, and not for its origin. The result is empty if the refusal is
    /// not [explainable](Self::is_explainable).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use crossgate_policy::{
    /// #     CorsRequest, OwnOrigin, Policy, PolicySpec, RequestField, Template,
    /// # };
    /// let spec = PolicySpec {
    ///     allow_origins: vec!["https://app.example.test".into()],
    ///     allow_methods: vec!["PUT".into()],
    ///     ..PolicySpec::default()
    /// };
    /// let template = Template::compile(&spec).unwrap().value;
    /// let policy = Policy::extend(Arc::new(template), &[]).unwrap().value;
    /// let own = OwnOrigin { host: "api.example.test", port: None, scheme: None };
    /// let mut request = CorsRequest::new(b"OPTIONS", own);
    /// request.origin = RequestField::One(b"https://app.example.test");
    /// request.requested_method = RequestField::One(b"PATCH");
    /// let verdict = policy.decide(&request).without_rule();
    /// assert!(!verdict.is_allowed() && policy.edits(&verdict, &request).count() == 0);
    /// let edits = policy.refusal_edits(&verdict, &request);
    /// let values: Vec<_> = edits.map(|edit| edit.value.as_bytes().to_vec()).collect();
    /// assert_eq!(values, [&b"https://app.example.test"[..], b"PUT", b"0"]);
    /// ```
    pub fn refusal_edits<'a>(
        &'a self,
        verdict: &Verdict,
        request: &'a CorsRequest<'a>,
    ) -> impl Iterator<Item = HeaderEdit<'a>> + use<'a> {
        let refused = self.refused(verdict, request);
        // As for an allowed preflight: without this field a browser reports it as missing to a page
        // with credentials.
        let terms = self.terms(verdict);
        let has_credentials = terms.has_credentials() && !verdict.terms.without_credentials;
        let listed = refused.and_then(|refused| terms.listed_headers(refused));
        let names = match (&terms.rendered.headers, &listed) {
            (DisclosedList::Nothing, _) | (_, Some(_)) => None,
            (DisclosedList::Whole(_) | DisclosedList::Echo, None) => Some(request.requested_headers),
        };
        let fields = [
            refused
                .and_then(|_| self.allowed_origin(verdict, request))
                .map(|value| (ACCESS_CONTROL_ALLOW_ORIGIN, value)),
            has_credentials.then_some((ACCESS_CONTROL_ALLOW_CREDENTIALS, EditValue::Fixed(&TRUE))),
            refused
                .and_then(|refused| terms.listed_methods(refused, request))
                .map(|value| (ACCESS_CONTROL_ALLOW_METHODS, value)),
            listed.map(|value| (ACCESS_CONTROL_ALLOW_HEADERS, value)),
            Some((ACCESS_CONTROL_MAX_AGE, EditValue::Fixed(&NO_AGE))),
        ];
        let fields = fields.into_iter().flatten().map(|(name, value)| HeaderEdit { name, value });
        let names = AllowedNames { lines: names, allowed: &terms.headers, next: 0, rest: b"" };
        fields.chain(names).filter(move |_| refused.is_some())
    }

    fn refused(&self, verdict: &Verdict, request: &CorsRequest<'_>) -> Option<RefusedParts> {
        // The lists are not disclosed to a denied origin.
        if verdict.kind != RequestKind::Preflight || !matches!(verdict.reason, Reason::Method | Reason::Header) {
            return None;
        }
        // With two methods, or with headers over a limit, a browser may find every one of them
        // listed.
        let RequestField::One(method) = request.requested_method else { return None };
        let lines = request.requested_headers;
        if !is_token(method) || request_headers::check(lines, &AllowedHeaders::All).is_err() {
            return None;
        }
        let refused = RefusedParts {
            method: !self.terms(verdict).allows_method(request.requested_method),
            headers: request_headers::check(lines, &self.terms(verdict).headers).is_err(),
        };
        (refused.method || refused.headers).then_some(refused)
    }
}

impl OriginTerms {
    fn listed_methods<'a>(&'a self, refused: RefusedParts, request: &CorsRequest<'a>) -> Option<EditValue<'a>> {
        let rendered = &self.rendered;
        // https://fetch.spec.whatwg.org/#cors-preflight-fetch: a browser fills in the request's own
        // method where the field is missing and the page watches its upload. So where the method is
        // refused, the field is always there.
        if refused.method {
            return Some(EditValue::Rendered(&rendered.methods_if_refused));
        }
        match (rendered.disclosure, &rendered.methods, request.requested_method) {
            (Disclosure::Full, DisclosedList::Whole(_) | DisclosedList::Nothing, _) => whole(&rendered.methods),
            // `*` is a valid method, and a wildcard in the answer.
            (_, _, RequestField::One(STAR)) => Some(EditValue::Fixed(&SAFELISTED)),
            (_, _, RequestField::One(method)) => Some(EditValue::Request(method)),
            (_, _, RequestField::Absent | RequestField::Many) => None,
        }
    }

    /// Returns the policy's whole list of headers, unless its `*` would cover a refused
    /// `authorization`.
    fn listed_headers(&self, refused: RefusedParts) -> Option<EditValue<'_>> {
        // https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name: in Chromium `*`
        // covers it.
        let is_star_unsafe = matches!(self.headers, AllowedHeaders::AllButAuthorization) && refused.headers;
        whole(&self.rendered.headers).filter(|_| !is_star_unsafe)
    }
}

/// Iterates over the requested names that are allowed: each run of adjacent names in a line is one
/// field.
struct AllowedNames<'a> {
    lines: Option<&'a dyn FieldLines>,
    allowed: &'a AllowedHeaders,
    /// The number of lines taken so far.
    next: usize,
    /// The rest of the last line taken.
    rest: &'a [u8],
}

impl<'a> AllowedNames<'a> {
    fn next_line(&mut self) -> Option<&'a [u8]> {
        let (mut at, mut found) = (0, None);
        let _ = self.lines?.try_each(&mut |line| {
            at += 1;
            if at <= self.next {
                return ControlFlow::Continue(());
            }
            found = Some(line);
            ControlFlow::Break(())
        });
        self.next = at;
        found
    }

    /// Takes the next run of allowed names from the current line.
    fn next_run(&mut self) -> Option<&'a [u8]> {
        let (line, mut start, mut end, mut at) = (self.rest, None, 0, 0);
        for element in line.split(|byte| *byte == b',') {
            let (begin, name) = (at, request_headers::trim(element));
            at += element.len() + 1;
            // `*` is a valid header name, and a wildcard in the answer.
            let is_allowed = name != STAR && self.allowed.covers(name);
            match (start, is_allowed) {
                _ if name.is_empty() => {}
                (None, true) => (start, end) = (Some(begin), begin + element.len()),
                (Some(_), true) => end = begin + element.len(),
                (None, false) => {}
                (Some(_), false) => break,
            }
        }
        self.rest = line.get(at..).unwrap_or_default();
        line.get(start?..end).map(request_headers::trim)
    }
}

impl<'a> Iterator for AllowedNames<'a> {
    type Item = HeaderEdit<'a>;

    fn next(&mut self) -> Option<HeaderEdit<'a>> {
        loop {
            if let Some(run) = self.next_run() {
                return Some(HeaderEdit { name: ACCESS_CONTROL_ALLOW_HEADERS, value: EditValue::Request(run) });
            }
            self.rest = self.next_line()?;
        }
    }
}
