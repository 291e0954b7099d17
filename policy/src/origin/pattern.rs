//! Configured text to an [`Entry`], or what is wrong with it and what would be accepted.
//!
//! Strict: one origin has one spelling, and nothing is normalised, so an entry prints back as it was written. A star
//! is the leftmost label, part of the leftmost label, or the port; it always stands for at least one character of a
//! label, and never crosses the dot that follows it. What is well-formed but unwise is the business of
//! [`risk`](super::risk).

use std::ops::Range;

use super::host;
use super::parse::{Flaw, Origin, parse};
use crate::request::Scheme;

/// One configured entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    /// `*`
    Any,
    /// `null`
    Null,
    /// An origin as it stands.
    Exact(&'a str),
    /// An origin with a star in it.
    Starred(Pattern),
}

/// An origin with a star in its host, in its port, or in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: Box<str>,
    scheme: Scheme,
    shape: Shape,
    port: PortPattern,
    /// Where the host, without the starred label, is in the text.
    host: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The host as it stands.
    Whole,
    /// Any subdomain of the host, at any depth.
    Subdomains,
    /// One label over the host: literal text before and after one or more label bytes.
    InLabel { before: Span, after: Span },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PortPattern {
    Default,
    Number(u16),
    Any,
}

/// A part of a pattern's text; texts are never longer than an origin and a star.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u16,
    end: u16,
}

const CUT: &str = "has a star that is not at the leftmost label or the port, expected a form such as `https://*.example.com`, \
                   `https://pr-*.example.com` or `https://example.com:*`";

/// Parses one entry.
pub(crate) fn parse_entry(text: &str) -> Result<Entry<'_>, String> {
    match text {
        "" => Err("an empty entry allows nothing, expected an origin such as `https://app.example.com`".to_owned()),
        "*" => Ok(Entry::Any),
        "null" => Ok(Entry::Null),
        _ if text.contains('*') => Pattern::parse(text).map(Entry::Starred).map_err(|why| told(text, &why)),
        _ => exact(text).map_err(|why| told(text, &why)),
    }
}

/// A message about `text`, which is shown escaped and cut.
pub(crate) fn told(text: &str, why: &str) -> String {
    const SHOWN_LEN_MAX: usize = 120;
    let mut shown: String = text.escape_debug().take(SHOWN_LEN_MAX).collect();
    if text.chars().nth(SHOWN_LEN_MAX).is_some() {
        shown.push_str("..");
    }
    format!("`{shown}` {why}")
}

fn exact(text: &str) -> Result<Entry<'_>, String> {
    check_scheme(text)?;
    let origin = parse(text.as_bytes()).map_err(|flaw| advice(flaw, text))?;
    check_punycode(&origin)?;
    Ok(Entry::Exact(text))
}

/// Refuses the schemes of which no page ever sends an origin.
fn check_scheme(text: &str) -> Result<(), String> {
    match text.split_once(':').map(|(scheme, _)| scheme) {
        Some(scheme @ ("file" | "data" | "about" | "blob" | "javascript" | "filesystem")) => {
            Err(format!("can never match, as pages of `{scheme}:` send `null`, expected an `https` origin"))
        }
        Some("ws" | "wss") => {
            Err("can never match, as a WebSocket handshake carries the page's own origin, expected `https` or `http`"
                .to_owned())
        }
        _ => Ok(()),
    }
}

/// Refuses labels that begin like punycode and are none.
fn check_punycode(origin: &Origin<'_>) -> Result<(), String> {
    let is_claimed = origin.host.split(|byte| *byte == b'.').any(|label| label.starts_with(b"xn--"));
    if !is_claimed {
        return Ok(());
    }
    let uts46 = idna::uts46::Uts46::new();
    let (_, outcome) = uts46.to_unicode(origin.host, idna::AsciiDenyList::URL, idna::uts46::Hyphens::Allow);
    outcome.map_err(|_| {
        "has a label that begins with `xn--` and is no valid punycode, expected the host as browsers send it".to_owned()
    })
}

/// What to say of a flaw, with the spelling that would be accepted where there is one.
fn advice(flaw: Flaw, text: &str) -> String {
    let spellings = [
        (Flaw::NotAscii, in_punycode(text)),
        (Flaw::DefaultPort, text.rsplit_once(':').map(|(origin, _)| origin.to_owned())),
        (Flaw::TrailingDot, text.strip_suffix('.').map(str::to_owned)),
        (Flaw::Path, text.strip_suffix('/').map(str::to_owned)),
        (Flaw::UpperCase, Some(text.to_ascii_lowercase())),
    ];
    // An upper-case scheme is a flaw of the scheme first.
    let is_upper = flaw == Flaw::Scheme && text.bytes().any(|byte| byte.is_ascii_uppercase());
    let flaw = if is_upper { Flaw::UpperCase } else { flaw };
    let spelling = spellings.into_iter().find(|(of, _)| *of == flaw).and_then(|(_, spelling)| spelling);
    // One that changes nothing would be looked at again and again.
    match spelling.filter(|spelling| spelling != text && parse_entry(spelling).is_ok()) {
        Some(spelling) => format!("{flaw}: `{spelling}`"),
        None => flaw.to_string(),
    }
}

fn in_punycode(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (host, port) = rest.find(':').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
    let ascii = idna::domain_to_ascii_cow(host.as_bytes(), idna::AsciiDenyList::EMPTY).ok()?;
    Some(format!("{scheme}://{ascii}{port}"))
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, authority) =
            text.split_once("://").ok_or("has no scheme, expected a form such as `https://*.example.com`")?;
        let scheme = parse_scheme(scheme)?;
        let (host, port) = split_port(authority)?;
        let (label, rest) = split_star(host)?;
        let shape = match label.split_once('*') {
            None => Shape::Whole,
            Some(("", "")) => Shape::Subdomains,
            Some(("", after)) if !after.starts_with('-') => {
                return Err("has a star that runs into text, expected a dot or text beginning with `-` after it, or text before it".to_owned());
            }
            Some((before, after)) => Shape::InLabel { before: Span::of(before, text), after: Span::of(after, text) },
        };
        let sample =
            format!("{}://{}{}", scheme.as_str(), host.replacen('*', "a", 1), if port == "*" { "" } else { port });
        let origin = parse(sample.as_bytes()).map_err(|flaw| advice(flaw, text))?;
        check_punycode(&origin)?;
        let port =
            if port == "*" { PortPattern::Any } else { origin.port.map_or(PortPattern::Default, PortPattern::Number) };
        Ok(Self { text: text.into(), scheme, shape, port, host: Span::of(rest, text) })
    }

    /// The pattern as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(crate) fn port(&self) -> PortPattern {
        self.port
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The host without the starred label.
    pub(crate) fn host(&self) -> &str {
        self.part(self.host)
    }

    /// The literal text of a starred label, before and after the star.
    pub(crate) fn literals(&self) -> (&str, &str) {
        match self.shape {
            Shape::Whole | Shape::Subdomains => ("", ""),
            Shape::InLabel { before, after } => (self.part(before), self.part(after)),
        }
    }

    /// Whether it covers an origin whose host ends with this pattern's host, at a dot or as a whole.
    pub(crate) fn covers_under(&self, origin: &Origin<'_>) -> bool {
        let over = origin.host.len().checked_sub(usize::from(self.host.len()));
        Some(self.scheme) == origin.web_scheme()
            && self.port.covers(origin.port)
            && over.is_some_and(|over| self.covers_labels(origin.host.get(..over).unwrap_or_default()))
    }

    /// Whether the shape covers what precedes the host: nothing, or labels and the dot after them.
    pub(crate) fn covers_labels(&self, labels: &[u8]) -> bool {
        match self.shape {
            Shape::Whole => labels.is_empty(),
            Shape::Subdomains => !labels.is_empty(),
            Shape::InLabel { .. } => labels.strip_suffix(b".").is_some_and(|label| self.covers_label(label)),
        }
    }

    // The label's bytes have been checked with the origin; all that is left to tell is the dot.
    fn covers_label(&self, label: &[u8]) -> bool {
        let (before, after) = self.literals();
        let star = label.strip_prefix(before.as_bytes()).and_then(|rest| rest.strip_suffix(after.as_bytes()));
        star.is_some_and(|star| !star.is_empty() && !star.contains(&b'.'))
    }

    /// Whether it covers every origin that `other` covers.
    pub(crate) fn covers_all_of(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.port.covers_all_of(other.port) && self.shape_covers(other)
    }

    fn shape_covers(&self, other: &Self) -> bool {
        let Some(labels) = other.host().strip_suffix(self.host()) else { return false };
        let is_at_label = labels.is_empty() || labels.ends_with('.');
        is_at_label
            && match (self.shape, other.shape) {
                (_, Shape::Whole) => self.covers_labels(labels.as_bytes()),
                (Shape::Subdomains, Shape::Subdomains | Shape::InLabel { .. }) => true,
                (Shape::InLabel { .. }, Shape::InLabel { .. }) => labels.is_empty() && self.literals_cover(other),
                (Shape::Whole, Shape::Subdomains | Shape::InLabel { .. }) => false,
                (Shape::InLabel { .. }, Shape::Subdomains) => false,
            }
    }

    fn literals_cover(&self, other: &Self) -> bool {
        let ((before, after), (other_before, other_after)) = (self.literals(), other.literals());
        other_before.starts_with(before) && other_after.ends_with(after)
    }

    fn part(&self, span: Span) -> &str {
        self.text.get(span.range()).unwrap_or_default()
    }
}

fn parse_scheme(scheme: &str) -> Result<Scheme, String> {
    match scheme {
        "https" => Ok(Scheme::Https),
        "http" => Ok(Scheme::Http),
        _ if scheme.contains('*') => {
            Err("has a star in its scheme, expected one entry for `https` and one for `http`".to_owned())
        }
        _ if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") => {
            Err(Flaw::UpperCase.to_string())
        }
        _ => Err(
            "has a star with a scheme that is neither `https` nor `http`, expected such origins to be listed in full"
                .to_owned(),
        ),
    }
}

/// Splits an authority into its host and its port: empty, `*`, or a colon and digits that are still to be parsed.
fn split_port(authority: &str) -> Result<(&str, &str), String> {
    let end = authority.rfind(']').unwrap_or(0);
    let colon = authority.get(end..).and_then(|rest| rest.find(':')).map(|at| end + at);
    let Some((host, port)) = colon.and_then(|at| authority.split_at_checked(at)) else { return Ok((authority, "")) };
    match port {
        ":*" => Ok((host, "*")),
        _ if port.contains('*') => {
            Err("has a star in its port that is not all of it, expected `:*` or one number".to_owned())
        }
        _ => Ok((host, port)),
    }
}

/// Splits a host into its starred label, if it has one, and the host that follows it.
fn split_star(host: &str) -> Result<(&str, &str), String> {
    if !host.contains('*') {
        return Ok(("", host));
    }
    let (label, rest) = host.split_once('.').unwrap_or((host, ""));
    match rest {
        _ if label.matches('*').count() > 1 => Err("has more than one star in a label, expected one".to_owned()),
        _ if !label.contains('*') || rest.contains('*') => Err(CUT.to_owned()),
        _ if host.contains('[') || host::is_address(rest.as_bytes()) => {
            Err("has a star in or over an IP address, expected the address itself".to_owned())
        }
        "" => Err("has a star without a domain after it, expected `*` alone for any origin, or a form such as `https://*.example.com`".to_owned()),
        _ => Ok((label, rest)),
    }
}

impl PortPattern {
    pub(crate) fn covers(self, port: Option<u16>) -> bool {
        match self {
            Self::Default => port.is_none(),
            Self::Number(number) => port == Some(number),
            Self::Any => true,
        }
    }

    fn covers_all_of(self, other: Self) -> bool {
        self == Self::Any || self == other
    }
}

impl Span {
    /// Where `part`, which was cut from `text`, is in it.
    fn of(part: &str, text: &str) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        let bound = |place: usize| u16::try_from(place).unwrap_or(u16::MAX);
        Self { start: bound(start), end: bound(start + part.len()) }
    }

    fn len(self) -> u16 {
        self.end.saturating_sub(self.start)
    }

    fn range(self) -> Range<usize> {
        self.start.into()..self.end.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        match parse_entry(text) {
            Ok(Entry::Starred(pattern)) => pattern,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn patterns_are_taken_apart() {
        let wild = pattern("https://*.example.com:8443");
        assert_eq!((wild.scheme(), wild.shape(), wild.host()), (Scheme::Https, Shape::Subdomains, "example.com"));
        assert_eq!(wild.port(), PortPattern::Number(8443));
        let label = pattern("http://pr-*-web.preview.example:*");
        assert_eq!(
            (label.literals(), label.host(), label.port()),
            (("pr-", "-web"), "preview.example", PortPattern::Any)
        );
        let port = pattern("http://[::1]:*");
        assert_eq!((port.shape(), port.host(), port.port()), (Shape::Whole, "[::1]", PortPattern::Any));
        assert_eq!(label.text(), "http://pr-*-web.preview.example:*");
    }

    #[test]
    fn covering_is_told() {
        let covered = [
            ("https://*.a.test", "https://*.b.a.test"),
            ("https://*.a.test", "https://x-*.a.test"),
            ("https://*.a.test:*", "https://*.a.test:8443"),
            ("https://pr-*.a.test", "https://pr-1-*.a.test"),
            ("https://pr-*.a.test:*", "https://pr-1.a.test:*"),
        ];
        for (wide, narrow) in covered {
            assert!(pattern(wide).covers_all_of(&pattern(narrow)), "{wide} {narrow}");
            assert!(!pattern(narrow).covers_all_of(&pattern(wide)), "{narrow} {wide}");
        }
        let apart = [
            ("https://*.a.test", "http://*.a.test"),
            ("https://*.a.test", "https://*.ba.test"),
            ("https://*.a.test", "https://*.a.test:8443"),
            ("https://*.a.test:*", "https://a.test:*"),
            ("https://pr-*.a.test", "https://*-pr.a.test"),
        ];
        for (one, other) in apart {
            assert!(!pattern(one).covers_all_of(&pattern(other)), "{one} {other}");
        }
    }

    #[test]
    fn the_accepted_spelling_is_told() {
        let cases = [
            ("https://EXAMPLE.com", "`https://example.com`"),
            ("HTTPS://example.com", "`https://example.com`"),
            ("https://bücher.example", "`https://xn--bcher-kva.example`"),
            ("https://*.bücher.example:8443", "`https://*.xn--bcher-kva.example:8443`"),
            ("https://example.com:443", "`https://example.com`"),
            ("https://example.com/", "`https://example.com`"),
            ("https://example.com.", "`https://example.com`"),
        ];
        for (text, spelling) in cases {
            let message = parse_entry(text).unwrap_err();
            assert!(message.ends_with(spelling), "{message}");
        }
    }

    #[test]
    fn no_spelling_is_told_where_none_would_be_accepted() {
        for text in ["https://a..b:ü", "https://*.a..b:ü", "https://ü..b:ü"] {
            let message = parse_entry(text).unwrap_err();
            assert!(message.ends_with("expected the host as punycode (`xn--..`)"), "{message}");
        }
    }
}
