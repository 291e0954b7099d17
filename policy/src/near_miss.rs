//! Explains a verdict: the rule of the grammar that an origin breaks, or the entries that nearly
//! cover it.
//!
//! The input is a verdict of [`Policy::decide`]; nothing is decided here. Entries are scanned one
//! by one, up to [`SCANNED_MAX`], with allocations. So this code runs for `explain` and logs, not
//! on the path of a request.

use std::fmt;

use crate::names::is_token;
use crate::origin::extension::{self, ExtensionScheme};
use crate::origin::parse::{Origin, OriginFlaw, parse};
use crate::origin::pattern::{OriginEntry, OriginPattern, PatternShape, parse_entry};
use crate::origin::risk::CredentialExclusion;
use crate::policy::Policy;
use crate::policy::terms::OriginTerms;
use crate::request::{CorsRequest, RequestField};
use crate::request_headers::{self, RequestHeadersFault};
use crate::verdict::{EntryId, Reason, Verdict};

/// The most entries that are scanned in one layer.
const SCANNED_MAX: usize = 100_000;

/// The most near misses in one explanation.
const NEAR_MISSES_MAX: usize = 8;

/// The longest quote of a request, in bytes.
const QUOTED_LEN_MAX: usize = 100;

/// The explanation of a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyExplanation {
    /// The cause of a denial: the rule of the grammar that the origin breaks, or the refused method
    /// or header. Lower case, no full stop. Quotes of the request are escaped and truncated.
    pub cause: Option<String>,
    /// The entries that nearly cover the origin, the nearest first. Empty unless the reason is
    /// [`Reason::NoMatch`].
    pub near_misses: Vec<NearMiss>,
}

/// An entry that nearly covers an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// The entry as it was configured.
    pub entry: String,
    /// The difference between the entry and the origin.
    pub difference: OriginDifference,
}

/// The difference between an entry and an origin that it does not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OriginDifference {
    /// Only the port differs.
    PortDiffers,
    /// Only the scheme differs.
    SchemeDiffers,
    /// Scheme and port differ. The host is covered.
    SchemeAndPortDiffer,
    /// The origin's host is the domain whose subdomains the entry covers.
    ApexNotCovered,
    /// The text for the star is empty or contains a dot.
    StarNotMet,
    /// The origin is a subdomain of an entry without a star.
    SubdomainOfExact,
    /// The entry is a subdomain of the origin.
    ParentOfExact,
    /// The origin's host begins or ends like the entry's host, but is another host.
    Lookalike,
    /// A regex matches the origin, but plain `http` is refused with credentials.
    InsecureWithCredentials,
    /// A regex matches the origin, but origins of local files are refused with credentials.
    LocalFileWithCredentials,
}

impl fmt::Display for OriginDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortDiffers => "port differs",
            Self::SchemeDiffers => "scheme differs",
            Self::SchemeAndPortDiffer => "scheme and port differ",
            Self::ApexNotCovered => "apex is not covered by the wildcard",
            Self::StarNotMet => "the star stands for one or more characters of one label, never for a dot",
            Self::SubdomainOfExact => "subdomain of an exact entry",
            Self::ParentOfExact => "parent domain of an exact entry",
            Self::Lookalike => "looks similar, but is another host",
            Self::InsecureWithCredentials => "matches, but plain http is refused with credentials",
            Self::LocalFileWithCredentials => "matches, but origins of local files are refused with credentials",
        })
    }
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.entry, self.difference)
    }
}

impl Policy {
    /// Explains the verdict on a request. The time grows with the number of entries.
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
    /// let origin = RequestField::One(b"https://app.example.test:8443");
    /// let request = CorsRequest { origin, ..CorsRequest::new(b"GET", own) };
    /// let verdict = policy.decide(&request).without_rule();
    /// let near_misses = policy.explain(verdict, &request).near_misses;
    /// assert_eq!(near_misses.len(), 1);
    /// assert_eq!(near_misses[0].to_string(), "https://app.example.test: port differs");
    /// ```
    pub fn explain(&self, verdict: Verdict, request: &CorsRequest<'_>) -> PolicyExplanation {
        let cause = self.cause(&verdict, request);
        let near_misses = match (verdict.reason, request.origin) {
            (Reason::NoMatch, RequestField::One(value)) => self.near_misses(value),
            _ => Vec::new(),
        };
        PolicyExplanation { cause, near_misses }
    }

    fn cause(&self, verdict: &Verdict, request: &CorsRequest<'_>) -> Option<String> {
        let terms = self.terms(verdict);
        match verdict.reason {
            Reason::MalformedOrigin => Some(malformed(request.origin)),
            Reason::NullOrigin => {
                Some("the origin is `null`, as sandboxed frames and redirected requests send it".to_owned())
            }
            Reason::CrossSite => Some(cross_site(request)),
            Reason::Method => Some(refused_method(request.requested_method)),
            Reason::Header => {
                request_headers::check(request.requested_headers, &terms.headers).err().map(refused_header)
            }
            Reason::NoMatch if self.allows_any() => Some(
                "`*` does not cover a WebSocket handshake with credentials, expected the origins themselves instead of it"
                    .to_owned(),
            ),
            Reason::NoMatch => rewritten_host(request),
            Reason::RuleDeny => rule_cause(terms, request.origin).or_else(|| rewritten_host(request)),
            Reason::RuleError
            | Reason::Exact
            | Reason::Wildcard
            | Reason::Regex
            | Reason::Rule
            | Reason::Any
            | Reason::SameOrigin
            | Reason::NonCors
            | Reason::Navigation
            | Reason::UnknownHost
            | Reason::UnknownRoute => None,
        }
    }

    fn near_misses(&self, value: &[u8]) -> Vec<NearMiss> {
        let Ok(origin) = parse(value) else { return Vec::new() };
        let counts = self.entry_counts();
        let template = (0..).take(counts.template.min(SCANNED_MAX)).map(EntryId::Template);
        let own = (0..).take(counts.own.min(SCANNED_MAX)).map(EntryId::Own);
        let mut found: Vec<NearMiss> = template.chain(own).filter_map(|entry| self.near_miss(entry, &origin)).collect();
        found.sort_by_key(|near| near.difference);
        found.truncate(NEAR_MISSES_MAX);
        found
    }

    fn near_miss(&self, entry: EntryId, origin: &Origin<'_>) -> Option<NearMiss> {
        let text = self.entry_text(entry);
        let regex = entry.template_index().and_then(|index| index.checked_sub(self.template.set.len()));
        let how = match regex {
            // The index after the last regex is the rule, which has no near misses.
            Some(index) => self.exclusion_of_match(index, origin),
            None => match parse_entry(text) {
                Ok(OriginEntry::Exact(text)) => {
                    parse(text.as_bytes()).ok().and_then(|listed| miss_of_exact(&listed, origin))
                }
                Ok(OriginEntry::Starred(pattern)) => miss_of_pattern(&pattern, origin),
                Ok(OriginEntry::Extensions(scheme)) => miss_of_star(scheme, origin),
                Ok(OriginEntry::Any | OriginEntry::Null) | Err(_) => None,
            },
        };
        how.map(|how| NearMiss { entry: text.to_owned(), difference: how })
    }

    /// Returns the reason why an origin is refused although a regex matches it.
    fn exclusion_of_match(&self, index: usize, origin: &Origin<'_>) -> Option<OriginDifference> {
        let regexes = &self.template.regexes;
        let restrictions = self.template.terms.of(regexes.group(index)?).restrictions;
        let exclusion = restrictions.exclusion(origin).filter(|_| regexes.matches(index, origin.text));
        exclusion.map(|exclusion| match exclusion {
            CredentialExclusion::Insecure => OriginDifference::InsecureWithCredentials,
            CredentialExclusion::LocalFile => OriginDifference::LocalFileWithCredentials,
        })
    }
}

/// Returns the cause for which the policy overrides an allowing rule.
fn rule_cause(terms: &OriginTerms, field: RequestField<'_>) -> Option<String> {
    let RequestField::One(value) = field else { return None };
    let excluded = match terms.restrictions.exclusion(&parse(value).ok()?)? {
        CredentialExclusion::Insecure => "plain `http` is refused with credentials",
        CredentialExclusion::LocalFile => "origins of local files are refused with credentials",
    };
    Some(format!("{excluded}, even if the rule allows the origin"))
}

fn miss_of_exact(listed: &Origin<'_>, origin: &Origin<'_>) -> Option<OriginDifference> {
    if listed.host == origin.host {
        return difference(listed.scheme == origin.scheme, listed.port == origin.port);
    }
    if listed.scheme != origin.scheme {
        return None;
    }
    match () {
        () if is_under(origin.host, listed.host) => Some(OriginDifference::SubdomainOfExact),
        () if is_under(listed.host, origin.host) => Some(OriginDifference::ParentOfExact),
        () if origin.host.starts_with(listed.host) || origin.host.ends_with(listed.host) => {
            Some(OriginDifference::Lookalike)
        }
        () => None,
    }
}

fn miss_of_pattern(pattern: &OriginPattern, origin: &Origin<'_>) -> Option<OriginDifference> {
    let host = pattern.host().as_bytes();
    let is_scheme = origin.web_scheme() == Some(pattern.scheme());
    let is_port = pattern.port().covers(origin.port);
    let labels = origin.host.strip_suffix(host).filter(|labels| labels.is_empty() || labels.ends_with(b"."));
    match (labels, pattern.shape()) {
        (Some(labels), _) if pattern.covers_labels(labels) => difference(is_scheme, is_port),
        (Some(b""), PatternShape::Subdomains) if is_scheme => Some(OriginDifference::ApexNotCovered),
        (Some(labels), PatternShape::InLabel { .. }) if is_scheme && is_nearly(pattern, labels) => {
            Some(OriginDifference::StarNotMet)
        }
        (Some(_), PatternShape::Whole) if is_scheme => Some(OriginDifference::SubdomainOfExact),
        (None, _) if is_scheme && (origin.host.ends_with(host) || is_followed(origin.host, host)) => {
            Some(OriginDifference::Lookalike)
        }
        _ => None,
    }
}

fn miss_of_star(scheme: ExtensionScheme, origin: &Origin<'_>) -> Option<OriginDifference> {
    let found = ExtensionScheme::of(origin.scheme)?;
    match (found == scheme, extension::covers_host(origin)) {
        (true, false) if origin.port.is_some() => Some(OriginDifference::PortDiffers),
        (true, false) => Some(OriginDifference::StarNotMet),
        (false, true) => Some(OriginDifference::SchemeDiffers),
        (true, true) | (false, false) => None,
    }
}

/// Detects that a proxy in front has rewritten `Host`: the browser sends a same-origin request,
/// which is classified as same-origin only if `Host` is the client's.
fn rewritten_host(request: &CorsRequest<'_>) -> Option<String> {
    // https://w3c.github.io/webappsec-fetch-metadata/#sec-fetch-site-header
    (request.sec_fetch_site == RequestField::One(b"same-origin")).then(|| {
        format!(
            "the browser sent `Sec-Fetch-Site: same-origin`, but the request's host is `{}`, so a proxy in front has rewritten \
             `Host`: have it forward the client's `Host`, or list the origin",
            request.own.host
        )
    })
}

fn difference(is_scheme: bool, is_port: bool) -> Option<OriginDifference> {
    match (is_scheme, is_port) {
        (true, true) => None,
        (true, false) => Some(OriginDifference::PortDiffers),
        (false, true) => Some(OriginDifference::SchemeDiffers),
        (false, false) => Some(OriginDifference::SchemeAndPortDiffer),
    }
}

fn is_under(host: &[u8], parent: &[u8]) -> bool {
    host.strip_suffix(parent).is_some_and(|labels| labels.ends_with(b"."))
}

/// Whether the labels begin and end like the pattern's starred label.
fn is_nearly(pattern: &OriginPattern, labels: &[u8]) -> bool {
    let (before, after) = pattern.literals();
    let label = labels.strip_suffix(b".").unwrap_or(labels);
    label.starts_with(before.as_bytes()) && label.ends_with(after.as_bytes())
}

/// Whether labels follow the listed host in the origin's host, as in `example.com.evil.com`.
fn is_followed(host: &[u8], listed: &[u8]) -> bool {
    host.windows(listed.len() + 1).any(|window| window.strip_suffix(b".") == Some(listed))
}

fn malformed(field: RequestField<'_>) -> String {
    match field {
        RequestField::Many => "there are several `Origin` fields, expected one".to_owned(),
        RequestField::Absent | RequestField::One(b"") => format!("the origin {}", OriginFlaw::Empty),
        RequestField::One(value) => match parse(value) {
            Err(flaw) => format!("the origin {} {flaw}", quoted(value)),
            Ok(_) => format!("the origin {} is refused", quoted(value)),
        },
    }
}

fn cross_site(request: &CorsRequest<'_>) -> String {
    match request.sec_fetch_site {
        RequestField::Many => "there are several `Sec-Fetch-Site` fields, expected one".to_owned(),
        RequestField::One(site @ (b"cross-site" | b"same-site")) => {
            format!("the browser reports another site (`Sec-Fetch-Site: {}`)", site.escape_ascii())
        }
        RequestField::One(site) => format!("{} is not a value of `Sec-Fetch-Site`", quoted(site)),
        RequestField::Absent => "`Origin` is not the API's own, and the browser sends no `Sec-Fetch-Site`".to_owned(),
    }
}

fn refused_method(field: RequestField<'_>) -> String {
    match field {
        RequestField::One(method) => format!("the method {} is not allowed", quoted(method)),
        RequestField::Absent | RequestField::Many => {
            "there are several `Access-Control-Request-Method` fields, expected one".to_owned()
        }
    }
}

fn refused_header(fault: RequestHeadersFault<'_>) -> String {
    match fault {
        RequestHeadersFault::Refused(name) if is_token(name) => format!("the header {} is not allowed", quoted(name)),
        RequestHeadersFault::Refused(bytes) => format!("{} is not a header name", quoted(bytes)),
        RequestHeadersFault::TooLong => "the list of headers is too long".to_owned(),
        RequestHeadersFault::TooManyNames => "the list of headers has too many names".to_owned(),
        RequestHeadersFault::TooManyEmptyElements => "the list of headers has too many empty elements".to_owned(),
        RequestHeadersFault::TooMuchWhiteSpace => "the list of headers has too much white space".to_owned(),
    }
}

fn quoted(bytes: &[u8]) -> String {
    let shown = bytes.get(..QUOTED_LEN_MAX).unwrap_or(bytes).escape_ascii();
    let cut = if bytes.len() > QUOTED_LEN_MAX { ".." } else { "" };
    format!("`{shown}{cut}`")
}
