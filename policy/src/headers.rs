//! A verdict to header edits: the only author of `Access-Control-*`, and the keeper of `Vary`.
//!
//! Values are either rendered at compile or the request's own bytes, which have passed the same checks that let the
//! request in. A denial has no edits. Whoever writes the response removes the upstream's own fields first
//! ([`is_cors_response_field`](crate::is_cors_response_field)); reading or writing whole responses is absent here.

use std::ops::ControlFlow;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
};
use http::{HeaderName, HeaderValue};

use crate::policy::Policy;
use crate::request::{Field, FieldLines, Request};
use crate::request_headers::has_name;
use crate::rule::Terms;
use crate::verdict::{Kind, Verdict};

static STAR: HeaderValue = HeaderValue::from_static("*");
static TRUE: HeaderValue = HeaderValue::from_static("true");

static VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
static VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
static VARY_ANY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("Access-Control-Request-Method, Access-Control-Request-Headers");

/// One field to add to the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit<'a> {
    /// The field's name.
    pub name: HeaderName,
    /// Its value.
    pub value: Value<'a>,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// The same for every policy. To clone it counts nowhere.
    Fixed(&'static HeaderValue),
    /// Rendered when the policy was compiled. A clone counts itself where every holder of the policy does.
    Rendered(&'a HeaderValue),
    /// Made for this answer, since a rule narrows what the policy says.
    Narrowed(HeaderValue),
    /// Bytes of the request: visible ASCII and, in lists of header names, spaces and tabs.
    Request(&'a [u8]),
}

impl Value<'_> {
    /// The value's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Fixed(value) => value.as_bytes(),
            Self::Rendered(value) => value.as_bytes(),
            Self::Narrowed(value) => value.as_bytes(),
            Self::Request(value) => value,
        }
    }
}

/// What a policy's answers tell, as far as it does not depend on the request.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    pub(crate) methods: Disclosed,
    pub(crate) headers: Disclosed,
    pub(crate) max_age_seconds: u32,
    pub(crate) max_age: HeaderValue,
    pub(crate) exposed: Option<HeaderValue>,
    /// What the answers to all preflights have alike, as lines of a head; none where it depends on what was asked.
    pub(crate) preflight_lines: Option<Box<[u8]>>,
    /// Where a rule may read header fields: `Vary` as one value, for preflights and for everything else.
    pub(crate) vary_with_rule: Option<[HeaderValue; 2]>,
}

/// What an allowed preflight tells of one list.
#[derive(Debug, Clone)]
pub(crate) enum Disclosed {
    /// Nothing: the list is empty.
    Nothing,
    /// The whole list.
    Whole(HeaderValue),
    /// What was asked for.
    Echo,
}

impl Policy {
    /// The `Access-Control-*` fields of the response to `request`, for which `verdict` was decided. None for a denial.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use crossgate_policy::{Field, OwnOrigin, Policy, PolicySpec, Request, Template};
    /// let spec = PolicySpec { allow_origins: vec!["https://app.example.test".into()], ..PolicySpec::default() };
    /// let template = Template::compile(&spec).unwrap().value;
    /// let policy = Policy::extend(Arc::new(template), &[]).unwrap().value;
    /// let own = OwnOrigin { host: "api.example.test", port: None, scheme: None };
    /// let mut request = Request::new(b"GET", own);
    /// request.origin = Field::One(b"https://app.example.test");
    /// let verdict = policy.decide(&request).without_asking();
    /// let edits: Vec<_> = policy.edits(&verdict, &request).map(|edit| (edit.name, edit.value.as_bytes().to_vec())).collect();
    /// assert_eq!(edits, [(http::header::ACCESS_CONTROL_ALLOW_ORIGIN, b"https://app.example.test".to_vec())]);
    /// ```
    pub fn edits<'a>(
        &'a self,
        verdict: &Verdict,
        request: &'a Request<'a>,
    ) -> impl Iterator<Item = Edit<'a>> + use<'a> {
        let rendered = self.rendered();
        let (origin, is_preflight) = match (verdict.is_allowed(), verdict.kind) {
            (false, _) => (None, false),
            (true, Kind::Preflight) => (self.allowed_origin(request), true),
            (true, Kind::Actual | Kind::WebSocket) => (self.allowed_origin(request), false),
            // Under `*` a cache may keep one answer for everybody, so everybody's answer has it.
            (true, Kind::NonCors | Kind::SameOrigin) => (self.is_any().then_some(Value::Fixed(&STAR)), false),
        };
        // https://fetch.spec.whatwg.org/#http-responses: what belongs to which answer.
        let on_all = origin.is_some();
        let on_preflight = on_all && is_preflight;
        let fields = [
            origin.map(|value| Edit { name: ACCESS_CONTROL_ALLOW_ORIGIN, value }),
            (on_all && self.has_credentials() && !verdict.terms.without_credentials)
                .then_some(Edit { name: ACCESS_CONTROL_ALLOW_CREDENTIALS, value: Value::Fixed(&TRUE) }),
            on_preflight.then(|| methods(rendered, request)).flatten(),
            whole(&rendered.headers)
                .filter(|_| on_preflight)
                .map(|value| Edit { name: ACCESS_CONTROL_ALLOW_HEADERS, value }),
            on_preflight.then(|| Edit { name: ACCESS_CONTROL_MAX_AGE, value: max_age(rendered, verdict.terms) }),
            exposed(rendered).filter(|_| on_all && !is_preflight),
        ];
        let echoes = matches!(rendered.headers, Disclosed::Echo) && on_preflight;
        fields.into_iter().flatten().chain(Echo { lines: echoes.then_some(request.requested_headers), next: 0 })
    }

    /// All fields but the first of an allowed preflight's [`edits`](Self::edits), as lines of an HTTP/1.1 head. `None` where they depend on
    /// the request, or on what a rule said.
    pub fn preflight_lines(&self, verdict: &Verdict) -> Option<&[u8]> {
        let is_usual = verdict.is_allowed() && verdict.kind == Kind::Preflight && verdict.terms == Terms::NONE;
        self.rendered().preflight_lines.as_deref().filter(|_| is_usual)
    }

    /// What a response to a request of this kind depends on, as tokens of `Vary`, whatever the verdict.
    pub fn vary(&self, kind: Kind) -> impl Iterator<Item = &str> {
        let tokens: &[&'static str] = match (self.depends_on_origin(), kind) {
            (true, Kind::Preflight) => &["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"],
            (false, Kind::Preflight) => &["Access-Control-Request-Method", "Access-Control-Request-Headers"],
            (true, Kind::NonCors | Kind::SameOrigin | Kind::WebSocket | Kind::Actual) => &["Origin"],
            (false, Kind::NonCors | Kind::SameOrigin | Kind::WebSocket | Kind::Actual) => &[],
        };
        // All that are listed, whatever this answer's rule has read: a cache must tell apart what the next one may read.
        let listed = self.template.rule.iter().flat_map(|rule| rule.headers());
        tokens.iter().copied().chain(listed.map(HeaderName::as_str))
    }

    /// The same tokens as one value, for a response that has no `Vary` yet.
    pub fn vary_value(&self, kind: Kind) -> Option<Value<'_>> {
        if let Some([preflight, other]) = &self.rendered().vary_with_rule {
            return Some(Value::Rendered(if kind == Kind::Preflight { preflight } else { other }));
        }
        let fixed = match (self.depends_on_origin(), kind) {
            (true, Kind::Preflight) => Some(&VARY_PREFLIGHT),
            (false, Kind::Preflight) => Some(&VARY_ANY_PREFLIGHT),
            (true, Kind::NonCors | Kind::SameOrigin | Kind::WebSocket | Kind::Actual) => Some(&VARY_ORIGIN),
            (false, Kind::NonCors | Kind::SameOrigin | Kind::WebSocket | Kind::Actual) => None,
        };
        fixed.map(Value::Fixed)
    }

    // https://fetch.spec.whatwg.org/#cors-check compares bytes, so the request's own are given back.
    fn allowed_origin<'a>(&self, request: &Request<'a>) -> Option<Value<'a>> {
        match request.origin {
            _ if self.is_any() => Some(Value::Fixed(&STAR)),
            Field::One(origin) => Some(Value::Request(origin)),
            Field::Absent | Field::Many => None,
        }
    }
}

impl Disclosed {
    /// The value that all answers have; `None` where each has its own.
    fn usual(&self) -> Option<Option<&HeaderValue>> {
        match self {
            Self::Whole(list) => Some(Some(list)),
            Self::Nothing => Some(None),
            Self::Echo => None,
        }
    }
}

impl Rendered {
    /// Renders what the answers to all preflights have alike.
    pub(crate) fn with_preflight_lines(self, has_credentials: bool) -> Self {
        let lines = || {
            let fields = [
                (ACCESS_CONTROL_ALLOW_CREDENTIALS, has_credentials.then_some(&TRUE)),
                (ACCESS_CONTROL_ALLOW_METHODS, self.methods.usual()?),
                (ACCESS_CONTROL_ALLOW_HEADERS, self.headers.usual()?),
                (ACCESS_CONTROL_MAX_AGE, Some(&self.max_age)),
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

/// The shorter one of the policy's and the rule's.
fn max_age<'a>(rendered: &'a Rendered, terms: Terms) -> Value<'a> {
    match terms.max_age_seconds {
        Some(seconds) if seconds < rendered.max_age_seconds => Value::Narrowed(HeaderValue::from(seconds)),
        Some(_) | None => Value::Rendered(&rendered.max_age),
    }
}

/// `Vary` for preflights and for everything else, where the rule may read these fields.
pub(crate) fn vary_with_rule(headers: &[HeaderName]) -> Option<[HeaderValue; 2]> {
    let listed: String = headers.iter().flat_map(|name| [", ", name.as_str()]).collect();
    let value = |fixed: &HeaderValue| {
        let fixed = String::from_utf8_lossy(fixed.as_bytes());
        HeaderValue::try_from(format!("{fixed}{listed}")).ok()
    };
    if headers.is_empty() { None } else { Some([value(&VARY_PREFLIGHT)?, value(&VARY_ORIGIN)?]) }
}

fn methods<'a>(rendered: &'a Rendered, request: &Request<'a>) -> Option<Edit<'a>> {
    let value = match (&rendered.methods, request.requested_method) {
        (Disclosed::Echo, Field::One(method)) => Some(Value::Request(method)),
        (disclosed, _) => whole(disclosed),
    };
    value.map(|value| Edit { name: ACCESS_CONTROL_ALLOW_METHODS, value })
}

fn whole(disclosed: &Disclosed) -> Option<Value<'_>> {
    match disclosed {
        Disclosed::Whole(list) => Some(Value::Rendered(list)),
        Disclosed::Nothing | Disclosed::Echo => None,
    }
}

fn exposed(rendered: &Rendered) -> Option<Edit<'_>> {
    let value = rendered.exposed.as_ref()?;
    Some(Edit { name: ACCESS_CONTROL_EXPOSE_HEADERS, value: Value::Rendered(value) })
}

/// Gives the request's lines of header names back, each as a field of its own.
struct Echo<'a> {
    lines: Option<&'a dyn FieldLines>,
    next: usize,
}

impl<'a> Iterator for Echo<'a> {
    type Item = Edit<'a>;

    // Walks from the first line each time; the walk that let the request in has bounded their number.
    fn next(&mut self) -> Option<Edit<'a>> {
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
        found.map(|line| Edit { name: ACCESS_CONTROL_ALLOW_HEADERS, value: Value::Request(line) })
    }
}

/// The tokens of `wanted` that the response's `Vary` lines lack: none of them is added twice, and `*` covers all.
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
