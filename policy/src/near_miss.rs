//! What to tell a person who asks why: the rule that an origin breaks, or the entries it nearly met.
//!
//! It is given the verdict of the live path and only looks around, scanning entries one by one. It allocates and
//! takes time with the number of entries, up to [`SCANNED_MAX`], so it has no place on a request's way.

use std::fmt;

use crate::names::is_token;
use crate::origin::parse::{Flaw, Origin, parse};
use crate::origin::pattern::{Entry, Pattern, Shape, parse_entry};
use crate::policy::Policy;
use crate::request::{Field, Request};
use crate::request_headers::{self, Fault};
use crate::verdict::{EntryId, Reason, Verdict};

/// The most entries that are looked at in one layer.
const SCANNED_MAX: usize = 100_000;

/// The most near misses that are told.
const TOLD_MAX: usize = 8;

/// The longest piece of a request that is quoted, in bytes.
const QUOTED_LEN_MAX: usize = 100;

/// What stands behind a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What exactly is wrong with the request: the rule of the grammar its origin breaks, the method or the header that is
    /// not allowed. Lower case, no full stop; quotes of the request are escaped and cut.
    pub cause: Option<String>,
    /// For an origin that no entry covers: the entries that come near, the nearest first.
    pub near_misses: Vec<NearMiss>,
}

/// An entry that nearly covers an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// The entry as it was configured.
    pub entry: String,
    /// What keeps them apart.
    pub how: How,
}

/// What keeps an entry and an origin apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Everything but the port agrees.
    PortDiffers,
    /// Everything but the scheme agrees.
    SchemeDiffers,
    /// Host agrees; scheme and port do not.
    SchemeAndPortDiffer,
    /// The origin is the very domain whose subdomains the entry covers.
    ApexNotCovered,
    /// The starred label has no text for the star, or a dot within it.
    StarNotMet,
    /// The origin is a subdomain of an entry without a star.
    SubdomainOfExact,
    /// The entry is a subdomain of the origin.
    ParentOfExact,
    /// The origin's host begins or ends like the entry's and is another one.
    Lookalike,
    /// A regex matches the origin, but plain `http` is refused with credentials.
    InsecureWithCredentials,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortDiffers => "port differs",
            Self::SchemeDiffers => "scheme differs",
            Self::SchemeAndPortDiffer => "scheme and port differ",
            Self::ApexNotCovered => "apex is not covered by the wildcard",
            Self::StarNotMet => "the star stands for one or more characters of one label, never for a dot",
            Self::SubdomainOfExact => "subdomain of an exact entry",
            Self::ParentOfExact => "parent domain of an exact entry",
            Self::Lookalike => "looks alike, but is another host",
            Self::InsecureWithCredentials => "matches, but plain http is refused with credentials",
        })
    }
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.entry, self.how)
    }
}

impl Policy {
    /// Says what stands behind the verdict of a request.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use crossgate_policy::{Field, OwnOrigin, Policy, PolicySpec, Request, Template};
    /// let spec = PolicySpec { allow_origins: vec!["https://app.example.test".into()], ..PolicySpec::default() };
    /// let template = Template::compile(&spec).unwrap().value;
    /// let policy = Policy::extend(Arc::new(template), &[]).unwrap().value;
    /// let own = OwnOrigin { host: "api.example.test", port: None, scheme: None };
    /// let request = Request { origin: Field::One(b"https://app.example.test:8443"), ..Request::new(b"GET", own) };
    /// let verdict = policy.decide(&request).without_asking();
    /// let told: Vec<_> = policy.explain(verdict, &request).near_misses.iter().map(ToString::to_string).collect();
    /// assert_eq!(told, ["https://app.example.test: port differs"]);
    /// ```
    pub fn explain(&self, verdict: Verdict, request: &Request<'_>) -> Explanation {
        let cause = self.cause(verdict.reason, request);
        let near_misses = match (verdict.reason, request.origin) {
            (Reason::NoMatch, Field::One(value)) => self.near_misses(value),
            _ => Vec::new(),
        };
        Explanation { cause, near_misses }
    }

    fn cause(&self, reason: Reason, request: &Request<'_>) -> Option<String> {
        match reason {
            Reason::MalformedOrigin => Some(malformed(request.origin)),
            Reason::NullOrigin => {
                Some("the origin is `null`, as sandboxed frames and redirected requests send it".to_owned())
            }
            Reason::Method => Some(refused_method(request.requested_method)),
            Reason::Header => {
                request_headers::check(request.requested_headers, &self.template.headers).err().map(refused_header)
            }
            Reason::NoMatch if self.is_any() => Some(
                "`*` does not cover a WebSocket handshake with credentials, expected the origins themselves instead of it"
                    .to_owned(),
            ),
            Reason::RuleDeny => self.rule_cause(request.origin),
            Reason::NoMatch
            | Reason::RuleError
            | Reason::Exact
            | Reason::Wildcard
            | Reason::Regex
            | Reason::Rule
            | Reason::Any
            | Reason::SameOrigin
            | Reason::NonCors
             | Reason::UnknownHost
            | Reason::UnknownRoute => None,
        }
    }

    /// What overrules an allowing rule.
    fn rule_cause(&self, field: Field<'_>) -> Option<String> {
        let Field::One(value) = field else { return None };
        let is_kept_out = parse(value).is_ok_and(|origin| self.template.guard.keeps_out(&origin));
        is_kept_out.then(|| "plain `http` is refused with credentials, whatever the rule says".to_owned())
    }

    fn near_misses(&self, value: &[u8]) -> Vec<NearMiss> {
        let Ok(origin) = parse(value) else { return Vec::new() };
        let counts = self.entry_counts();
        let template = (0..).take(counts.template.min(SCANNED_MAX)).map(EntryId::Template);
        let own = (0..).take(counts.own.min(SCANNED_MAX)).map(EntryId::Own);
        let mut found: Vec<NearMiss> = template.chain(own).filter_map(|entry| self.near_miss(entry, &origin)).collect();
        found.sort_by_key(|near| near.how);
        found.truncate(TOLD_MAX);
        found
    }

    fn near_miss(&self, entry: EntryId, origin: &Origin<'_>) -> Option<NearMiss> {
        let text = self.entry_text(entry);
        let regex = entry.template_index().and_then(|index| index.checked_sub(self.template.set.len()));
        let how = match regex {
            // The rule, which follows the last regex, is none.
            Some(index) => self.template.regexes.matches(index, origin.text).then_some(How::InsecureWithCredentials),
            None => match parse_entry(text) {
                Ok(Entry::Exact(text)) => parse(text.as_bytes()).ok().and_then(|listed| miss_of_exact(&listed, origin)),
                Ok(Entry::Starred(pattern)) => miss_of_pattern(&pattern, origin),
                Ok(Entry::Any | Entry::Null) | Err(_) => None,
            },
        };
        how.map(|how| NearMiss { entry: text.to_owned(), how })
    }
}

fn miss_of_exact(listed: &Origin<'_>, origin: &Origin<'_>) -> Option<How> {
    if listed.host == origin.host {
        return difference(listed.scheme == origin.scheme, listed.port == origin.port);
    }
    if listed.scheme != origin.scheme {
        return None;
    }
    match () {
        () if is_under(origin.host, listed.host) => Some(How::SubdomainOfExact),
        () if is_under(listed.host, origin.host) => Some(How::ParentOfExact),
        () if origin.host.starts_with(listed.host) || origin.host.ends_with(listed.host) => Some(How::Lookalike),
        () => None,
    }
}

fn miss_of_pattern(pattern: &Pattern, origin: &Origin<'_>) -> Option<How> {
    let host = pattern.host().as_bytes();
    let is_scheme = origin.web_scheme() == Some(pattern.scheme());
    let is_port = pattern.port().covers(origin.port);
    let labels = origin.host.strip_suffix(host).filter(|labels| labels.is_empty() || labels.ends_with(b"."));
    match (labels, pattern.shape()) {
        (Some(labels), _) if pattern.covers_labels(labels) => difference(is_scheme, is_port),
        (Some(b""), Shape::Subdomains) if is_scheme => Some(How::ApexNotCovered),
        (Some(labels), Shape::InLabel { .. }) if is_scheme && is_nearly(pattern, labels) => Some(How::StarNotMet),
        (Some(_), Shape::Whole) if is_scheme => Some(How::SubdomainOfExact),
        (None, _) if is_scheme && (origin.host.ends_with(host) || is_followed(origin.host, host)) => {
            Some(How::Lookalike)
        }
        _ => None,
    }
}

fn difference(is_scheme: bool, is_port: bool) -> Option<How> {
    match (is_scheme, is_port) {
        (true, true) => None,
        (true, false) => Some(How::PortDiffers),
        (false, true) => Some(How::SchemeDiffers),
        (false, false) => Some(How::SchemeAndPortDiffer),
    }
}

fn is_under(host: &[u8], parent: &[u8]) -> bool {
    host.strip_suffix(parent).is_some_and(|labels| labels.ends_with(b"."))
}

/// Whether the labels begin and end like the pattern's starred label.
fn is_nearly(pattern: &Pattern, labels: &[u8]) -> bool {
    let (before, after) = pattern.literals();
    let label = labels.strip_suffix(b".").unwrap_or(labels);
    label.starts_with(before.as_bytes()) && label.ends_with(after.as_bytes())
}

/// Whether the listed host is within the origin's host and more labels follow it, as in `example.com.evil.com`.
fn is_followed(host: &[u8], listed: &[u8]) -> bool {
    host.windows(listed.len() + 1).any(|window| window.strip_suffix(b".") == Some(listed))
}

fn malformed(field: Field<'_>) -> String {
    match field {
        Field::Many => "there are several `Origin` fields, expected one".to_owned(),
        Field::Absent | Field::One(b"") => format!("the origin {}", Flaw::Empty),
        Field::One(value) => match parse(value) {
            Err(flaw) => format!("the origin {} {flaw}", quoted(value)),
            Ok(_) => format!("the origin {} is refused", quoted(value)),
        },
    }
}

fn refused_method(field: Field<'_>) -> String {
    match field {
        Field::One(method) => format!("the method {} is not allowed", quoted(method)),
        Field::Absent | Field::Many => {
            "there are several `Access-Control-Request-Method` fields, expected one".to_owned()
        }
    }
}

fn refused_header(fault: Fault<'_>) -> String {
    match fault {
        Fault::Refused(name) if is_token(name) => format!("the header {} is not allowed", quoted(name)),
        Fault::Refused(bytes) => format!("{} is not a header name", quoted(bytes)),
        Fault::TooLong => "the list of headers is too long".to_owned(),
        Fault::TooManyNames => "the list of headers has too many names".to_owned(),
        Fault::TooManyEmptyElements => "the list of headers has too many empty elements".to_owned(),
        Fault::TooMuchWhiteSpace => "the list of headers has too much white space".to_owned(),
    }
}

fn quoted(bytes: &[u8]) -> String {
    let shown = bytes.get(..QUOTED_LEN_MAX).unwrap_or(bytes).escape_ascii();
    let cut = if bytes.len() > QUOTED_LEN_MAX { ".." } else { "" };
    format!("`{shown}{cut}`")
}
