//! The values of the response's CORS fields: rendered when a policy is compiled, or copied from the
//! request.
//!
//! Copied bytes have passed the same checks as the request itself. `policy/edits.rs` combines the
//! values for a verdict. This module neither reads nor writes whole responses.

use std::ops::ControlFlow;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
};
use http::{HeaderName, HeaderValue};

use crate::request::{CorsRequest, FieldLines, RequestField};
use crate::request_headers::has_name;
use crate::spec::{CrossSiteTerms, Disclosure};
use crate::verdict::RuleTerms;

pub(crate) static STAR: HeaderValue = HeaderValue::from_static("*");
pub(crate) static TRUE: HeaderValue = HeaderValue::from_static("true");

pub(crate) static VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
pub(crate) static VARY_ORIGIN_AND_SITE: HeaderValue =
    HeaderValue::from_static("Origin, Sec-Fetch-Site, Sec-Fetch-Mode, Sec-Fetch-Dest");
pub(crate) static VARY_SITE: HeaderValue = HeaderValue::from_static("Sec-Fetch-Site, Sec-Fetch-Mode, Sec-Fetch-Dest");
pub(crate) static VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
pub(crate) static VARY_ANY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("Access-Control-Request-Method, Access-Control-Request-Headers");

/// One field to add to the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderEdit<'a> {
    /// The field name.
    pub name: HeaderName,
    /// The field value.
    pub value: EditValue<'a>,
}

/// The value of a [`HeaderEdit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditValue<'a> {
    /// A constant, equal for all policies. A clone touches no reference count.
    Fixed(&'static HeaderValue),
    /// A value rendered when the policy was compiled. A clone increments a reference count that all
    /// threads with this policy share.
    Rendered(&'a HeaderValue),
    /// A value made for this response, because a rule narrows the policy.
    Narrowed(HeaderValue),
    /// Bytes of the request: visible ASCII and, in lists of header names, also spaces and tabs.
    Request(&'a [u8]),
}

impl EditValue<'_> {
    /// Returns the bytes of the value.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Fixed(value) => value.as_bytes(),
            Self::Rendered(value) => value.as_bytes(),
            Self::Narrowed(value) => value.as_bytes(),
            Self::Request(value) => value,
        }
    }
}

/// The field values of a policy that do not depend on the request.
#[derive(Debug, Clone)]
pub(crate) struct RenderedHeaders {
    pub(crate) methods: DisclosedList,
    /// The list of methods in a response that refuses the requested method.
    pub(crate) methods_if_refused: HeaderValue,
    pub(crate) headers: DisclosedList,
    pub(crate) disclosure: Disclosure,
    pub(crate) max_age_seconds: u32,
    pub(crate) max_age: HeaderValue,
    pub(crate) exposed: Option<HeaderValue>,
    pub(crate) expose_on_preflights: bool,
    /// The lines that the responses to all allowed preflights share. `None` if they depend on the
    /// requested method or headers.
    pub(crate) preflight_lines: Option<Box<[u8]>>,
}

/// The part of one list that an allowed preflight discloses.
#[derive(Debug, Clone)]
pub(crate) enum DisclosedList {
    /// Nothing: the list is empty.
    Nothing,
    /// The whole list.
    Whole(HeaderValue),
    /// The requested method or headers.
    Echo,
}

impl DisclosedList {
    /// Returns the value that all responses share. The outer `None` means that it depends on the
    /// request.
    fn shared(&self) -> Option<Option<&HeaderValue>> {
        match self {
            Self::Whole(list) => Some(Some(list)),
            Self::Nothing => Some(None),
            Self::Echo => None,
        }
    }
}

impl RenderedHeaders {
    /// Renders the lines that the responses to all allowed preflights share.
    pub(crate) fn with_preflight_lines(self, has_credentials: bool) -> Self {
        let lines = || {
            let fields = [
                (ACCESS_CONTROL_ALLOW_CREDENTIALS, has_credentials.then_some(&TRUE)),
                (ACCESS_CONTROL_ALLOW_METHODS, self.methods.shared()?),
                (ACCESS_CONTROL_ALLOW_HEADERS, self.headers.shared()?),
                (ACCESS_CONTROL_MAX_AGE, Some(&self.max_age)),
                (ACCESS_CONTROL_EXPOSE_HEADERS, self.exposed.as_ref().filter(|_| self.expose_on_preflights)),
            ];
            let line = |(name, value): (HeaderName, Option<&HeaderValue>)| {
                let value = value.map(HeaderValue::as_bytes)?;
                Some([name.as_str().as_bytes(), b": ", value, b"\r\n"].concat())
            };
            Some(fields.into_iter().filter_map(line).flatten().collect())
        };
        Self { preflight_lines: lines(), ..self }
    }
}

/// Returns the shorter max-age of the policy and the rule.
pub(crate) fn max_age<'a>(rendered: &'a RenderedHeaders, terms: RuleTerms) -> EditValue<'a> {
    match terms.max_age_seconds {
        Some(seconds) if seconds < rendered.max_age_seconds => EditValue::Narrowed(HeaderValue::from(seconds)),
        Some(_) | None => EditValue::Rendered(&rendered.max_age),
    }
}

/// Renders `Vary` for preflights and for other requests, if a rule may read these fields.
pub(crate) fn vary_with_rule(headers: &[HeaderName], cross_site: CrossSiteTerms) -> Option<[HeaderValue; 2]> {
    let other = if cross_site.refuses_reads() { &VARY_ORIGIN_AND_SITE } else { &VARY_ORIGIN };
    let listed: String = headers.iter().flat_map(|name| [", ", name.as_str()]).collect();
    let value = |fixed: &HeaderValue| {
        let fixed = String::from_utf8_lossy(fixed.as_bytes());
        HeaderValue::try_from(format!("{fixed}{listed}")).ok()
    };
    if headers.is_empty() { None } else { Some([value(&VARY_PREFLIGHT)?, value(other)?]) }
}

pub(crate) fn methods<'a>(rendered: &'a RenderedHeaders, request: &CorsRequest<'a>) -> Option<HeaderEdit<'a>> {
    let value = match (&rendered.methods, request.requested_method) {
        (DisclosedList::Echo, RequestField::One(method)) => Some(EditValue::Request(method)),
        (disclosed, _) => whole(disclosed),
    };
    value.map(|value| HeaderEdit { name: ACCESS_CONTROL_ALLOW_METHODS, value })
}

pub(crate) fn whole(disclosed: &DisclosedList) -> Option<EditValue<'_>> {
    match disclosed {
        DisclosedList::Whole(list) => Some(EditValue::Rendered(list)),
        DisclosedList::Nothing | DisclosedList::Echo => None,
    }
}

pub(crate) fn exposed(rendered: &RenderedHeaders) -> Option<HeaderEdit<'_>> {
    let value = rendered.exposed.as_ref()?;
    Some(HeaderEdit { name: ACCESS_CONTROL_EXPOSE_HEADERS, value: EditValue::Rendered(value) })
}

/// Iterates over the request's lines of header names, each as a field of the response.
pub(crate) struct HeaderEcho<'a> {
    lines: Option<&'a dyn FieldLines>,
    next: usize,
}

impl<'a> HeaderEcho<'a> {
    pub(crate) fn new(lines: Option<&'a dyn FieldLines>) -> Self {
        HeaderEcho { lines, next: 0 }
    }
}

impl<'a> Iterator for HeaderEcho<'a> {
    type Item = HeaderEdit<'a>;

    // Each call walks from the first line. The check of the request has bounded the number of
    // lines.
    fn next(&mut self) -> Option<HeaderEdit<'a>> {
        let (mut at, mut found) = (0, None);
        let _ = self.lines?.try_each(&mut |line| {
            at += 1;
            if at <= self.next || !has_name(line) {
                return ControlFlow::Continue(());
            }
            found = Some(line);
            ControlFlow::Break(())
        });
        self.next = at;
        found.map(|line| HeaderEdit { name: ACCESS_CONTROL_ALLOW_HEADERS, value: EditValue::Request(line) })
    }
}

/// Returns the tokens of `wanted` that are missing in the response's `Vary` lines, so that no token
/// is sent twice. Tokens are compared without regard to case, and `*` covers all of them (RFC 9110,
/// section 12.5.5).
///
/// ```
/// use crossgate_policy::missing_vary;
///
/// let lines = [&b"Accept-Encoding, X-Origin"[..], b"access-control-request-method"];
/// let wanted = ["Origin", "Access-Control-Request-Method"];
/// let missing: Vec<_> = missing_vary(lines.into_iter(), wanted.into_iter()).collect();
/// assert_eq!(missing, ["Origin"]);
/// ```
pub fn missing_vary<'a, 'l>(
    existing: impl Iterator<Item = &'l [u8]> + Clone,
    wanted: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = &'a str> {
    wanted.filter(move |token| {
        let mut listed = existing.clone().flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        !listed.any(|element| element == b"*" || element.eq_ignore_ascii_case(token.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(existing: &[&str]) -> Vec<&'static str> {
        missing_vary(existing.iter().map(|line| line.as_bytes()), ["Origin", "Accept"].into_iter()).collect()
    }

    #[test]
    fn vary_is_merged_by_token() {
        assert_eq!(missing(&[]), ["Origin", "Accept"]);
        assert_eq!(missing(&["X-Origin,Original"]), ["Origin", "Accept"]);
        assert_eq!(missing(&["x ,\tORIGIN "]), ["Accept"]);
        assert_eq!(missing(&["x", "accept", "origin"]), [""; 0]);
        assert_eq!(missing(&["x, *"]), [""; 0]);
    }
}
