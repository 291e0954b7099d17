//! Parses configured text to an [`OriginEntry`], or returns the mistake and an accepted form.
//!
//! The parser is strict: one origin has one spelling, and nothing is normalised, so an entry prints
//! as it was written. A star is the leftmost label, a part of it, or the port. In a host a star
//! stands for at least one character. Within a label it never matches a dot; as a whole label it
//! matches one or more labels. [`risk`](super::risk) checks entries that are well-formed but
//! dangerous.

use std::ops::Range;

use super::extension::ExtensionScheme;
use super::host;
use super::parse::{LOCAL_FILE_ORIGINS, Origin, OriginFlaw, parse};
use crate::origin::scheme::Scheme;

/// One configured entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OriginEntry<'a> {
    /// `*`
    Any,
    /// `null`
    Null,
    /// An origin without a star.
    Exact(&'a str),
    /// An origin with a star in it.
    Starred(OriginPattern),
    /// Every origin of an extension scheme: a star for the whole host.
    Extensions(ExtensionScheme),
}

/// An origin with a star in its host, its port, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OriginPattern {
    text: Box<str>,
    scheme: Scheme,
    shape: PatternShape,
    port: PortPattern,
    /// The host without the starred label, as a part of the text.
    host: TextSpan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatternShape {
    /// Exactly the host.
    Whole,
    /// Any subdomain of the host, at any depth.
    Subdomains,
    /// One label before the host: literal text before and after one or more label bytes.
    InLabel { before: TextSpan, after: TextSpan },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PortPattern {
    Default,
    Number(u16),
    Any,
}

/// A part of a pattern's text. A text is at most one byte longer than an origin, so `u16` suffices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextSpan {
    start: u16,
    end: u16,
}

const MISPLACED_STAR: &str = "has a star that is not at the leftmost label or the port, expected a form such as `https://*.example.com`, \
                   `https://pr-*.example.com` or `https://example.com:*`";

/// Parses one entry.
pub(crate) fn parse_entry(text: &str) -> Result<OriginEntry<'_>, String> {
    match text {
        "" => Err("an empty entry allows nothing, expected an origin such as `https://app.example.com`".to_owned()),
        "*" => Ok(OriginEntry::Any),
        "null" => Ok(OriginEntry::Null),
        _ if text.contains('*') => starred(text).map_err(|why| quoted_message(text, &likely_mistake(text, why))),
        _ => exact(text).map_err(|why| quoted_message(text, &likely_mistake(text, why))),
    }
}

/// Replaces the message for a regex in the wrong list.
fn likely_mistake(text: &str, why: String) -> String {
    if is_regex_like(text) {
        return "looks like a regular expression, expected it in `allowOriginRegexes`, without slashes around it"
            .to_owned();
    }
    why
}

/// Whether invalid text contains syntax of regular expressions.
fn is_regex_like(text: &str) -> bool {
    let brackets = text.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
    let is_class = brackets.into_iter().any(|(inside, _)| inside.contains(['-', '^']) && !inside.contains(':'));
    let pieces = ["\\", "(", "|", "://.*", ".+", "]+", "]*"];
    let is_anchored = text.starts_with('^') || text.ends_with('$');
    is_anchored || is_class || pieces.iter().any(|piece| text.contains(piece))
}

/// Returns a message that begins with `text` in backquotes, truncated and with control characters
/// escaped. Backslashes and quotes are not escaped.
pub(crate) fn quoted_message(text: &str, why: &str) -> String {
    const SHOWN_LEN_MAX: usize = 120;
    let escaped = |char: char| match char {
        '\\' | '"' | '\'' => char.to_string(),
        char => char.escape_debug().to_string(),
    };
    let mut shown: String = text.chars().take(SHOWN_LEN_MAX).map(escaped).collect();
    if text.chars().nth(SHOWN_LEN_MAX).is_some() {
        shown.push_str("..");
    }
    format!("`{shown}` {why}")
}

fn starred(text: &str) -> Result<OriginEntry<'_>, String> {
    match ExtensionScheme::of_star(text) {
        Some(scheme) => Ok(OriginEntry::Extensions(scheme)),
        None => OriginPattern::parse(text).map(OriginEntry::Starred),
    }
}

fn exact(text: &str) -> Result<OriginEntry<'_>, String> {
    check_scheme(text)?;
    let origin = parse(text.as_bytes()).map_err(|flaw| flaw_message(flaw, text))?;
    check_punycode(&origin)?;
    Ok(OriginEntry::Exact(text))
}

/// Refuses schemes whose pages never send such an origin: their origins are opaque
/// (<https://url.spec.whatwg.org/#concept-url-origin>).
fn check_scheme(text: &str) -> Result<(), String> {
    match text.split_once(':').map(|(scheme, _)| scheme) {
        Some("file") if !LOCAL_FILE_ORIGINS.contains(&text) => {
            Err("can never match, as pages of `file:` send `file://` or `null`, expected `file://`".to_owned())
        }
        Some(scheme @ ("data" | "about" | "blob" | "javascript" | "filesystem")) => {
            Err(format!("can never match, as pages of `{scheme}:` send `null`, expected an `https` origin"))
        }
        // RFC 6455, section 4.1: a browser sends the origin of the page, not that of the WebSocket.
        Some("ws" | "wss") => {
            Err("can never match, as a WebSocket handshake carries the page's own origin, expected `https` or `http`"
                .to_owned())
        }
        _ => Ok(()),
    }
}

/// Refuses labels that begin with `xn--` but are not valid punycode (UTS 46).
fn check_punycode(origin: &Origin<'_>) -> Result<(), String> {
    let is_claimed = origin.host.split(|byte| *byte == b'.').any(|label| label.starts_with(b"xn--"));
    if !is_claimed {
        return Ok(());
    }
    let uts46 = idna::uts46::Uts46::new();
    let (_, outcome) = uts46.to_unicode(origin.host, idna::AsciiDenyList::URL, idna::uts46::Hyphens::Allow);
    outcome.map_err(|_| {
        "has a label that begins with `xn--` but is not valid punycode, expected the host as browsers send it"
            .to_owned()
    })
}

/// Returns the message of a flaw, with the accepted spelling if there is one.
fn flaw_message(flaw: OriginFlaw, text: &str) -> String {
    let spellings = [
        (OriginFlaw::NotAscii, in_punycode(text)),
        (OriginFlaw::DefaultPort, text.rsplit_once(':').map(|(origin, _)| origin.to_owned())),
        (OriginFlaw::TrailingDot, text.strip_suffix('.').map(str::to_owned)),
        (OriginFlaw::Path, text.strip_suffix('/').map(str::to_owned)),
        (OriginFlaw::UpperCase, Some(text.to_ascii_lowercase())),
    ];
    // The parser reports an upper-case scheme as a malformed scheme.
    let is_upper = flaw == OriginFlaw::Scheme && text.bytes().any(|byte| byte.is_ascii_uppercase());
    let flaw = if is_upper { OriginFlaw::UpperCase } else { flaw };
    let spelling = spellings.into_iter().find(|(of, _)| *of == flaw).and_then(|(_, spelling)| spelling);
    // `parse_entry` calls this function again, so a spelling that changes nothing would recurse
    // forever.
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

impl OriginPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, authority) =
            text.split_once("://").ok_or("has no scheme, expected a form such as `https://*.example.com`")?;
        let scheme = parse_scheme(scheme)?;
        let (host, port) = split_port(authority)?;
        let (label, rest) = split_star(host)?;
        let shape = match label.split_once('*') {
            None => PatternShape::Whole,
            Some(("", "")) => PatternShape::Subdomains,
            Some(("", after)) if !after.starts_with('-') => {
                return Err("has text directly after a leading star, expected a dot or text beginning with `-` after the star, or text before it".to_owned());
            }
            Some((before, after)) => {
                PatternShape::InLabel { before: TextSpan::of(before, text), after: TextSpan::of(after, text) }
            }
        };
        let sample =
            format!("{}://{}{}", scheme.as_str(), host.replacen('*', "a", 1), if port == "*" { "" } else { port });
        let origin = parse(sample.as_bytes()).map_err(|flaw| flaw_message(flaw, text))?;
        check_punycode(&origin)?;
        let port =
            if port == "*" { PortPattern::Any } else { origin.port.map_or(PortPattern::Default, PortPattern::Number) };
        Ok(Self { text: text.into(), scheme, shape, port, host: TextSpan::of(rest, text) })
    }

    /// Returns the pattern as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(crate) fn port(&self) -> PortPattern {
        self.port
    }

    pub(crate) fn shape(&self) -> PatternShape {
        self.shape
    }

    /// Returns the host without the starred label.
    pub(crate) fn host(&self) -> &str {
        self.part(self.host)
    }

    /// Returns the literal text of a starred label, before and after the star.
    pub(crate) fn literals(&self) -> (&str, &str) {
        match self.shape {
            PatternShape::Whole | PatternShape::Subdomains => ("", ""),
            PatternShape::InLabel { before, after } => (self.part(before), self.part(after)),
        }
    }

    /// Whether the pattern covers an origin whose host ends with the pattern's host, at a dot or as
    /// a whole.
    pub(crate) fn covers_under(&self, origin: &Origin<'_>) -> bool {
        let over = origin.host.len().checked_sub(usize::from(self.host.len()));
        Some(self.scheme) == origin.web_scheme()
            && self.port.covers(origin.port)
            && over.is_some_and(|over| self.covers_labels(origin.host.get(..over).unwrap_or_default()))
    }

    /// Whether the shape covers the part before the host: nothing, or labels and the dot after
    /// them.
    pub(crate) fn covers_labels(&self, labels: &[u8]) -> bool {
        match self.shape {
            PatternShape::Whole => labels.is_empty(),
            PatternShape::Subdomains => !labels.is_empty(),
            PatternShape::InLabel { .. } => labels.strip_suffix(b".").is_some_and(|label| self.covers_label(label)),
        }
    }

    // The parser of the origin has checked the bytes of the label, except for a dot among them.
    fn covers_label(&self, label: &[u8]) -> bool {
        let (before, after) = self.literals();
        let star = label.strip_prefix(before.as_bytes()).and_then(|rest| rest.strip_suffix(after.as_bytes()));
        star.is_some_and(|star| !star.is_empty() && !star.contains(&b'.'))
    }

    /// Whether the pattern covers every origin that `other` covers.
    pub(crate) fn covers_all_of(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.port.covers_all_of(other.port) && self.shape_covers(other)
    }

    fn shape_covers(&self, other: &Self) -> bool {
        let Some(labels) = other.host().strip_suffix(self.host()) else { return false };
        let is_at_label = labels.is_empty() || labels.ends_with('.');
        is_at_label
            && match (self.shape, other.shape) {
                (_, PatternShape::Whole) => self.covers_labels(labels.as_bytes()),
                (PatternShape::Subdomains, PatternShape::Subdomains | PatternShape::InLabel { .. }) => true,
                (PatternShape::InLabel { .. }, PatternShape::InLabel { .. }) => {
                    labels.is_empty() && self.literals_cover(other)
                }
                (PatternShape::Whole, PatternShape::Subdomains | PatternShape::InLabel { .. }) => false,
                (PatternShape::InLabel { .. }, PatternShape::Subdomains) => false,
            }
    }

    fn literals_cover(&self, other: &Self) -> bool {
        let ((before, after), (other_before, other_after)) = (self.literals(), other.literals());
        other_before.starts_with(before) && other_after.ends_with(after)
    }

    fn part(&self, span: TextSpan) -> &str {
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
            Err(OriginFlaw::UpperCase.to_string())
        }
        _ => Err(extension_advice(scheme).unwrap_or_else(|| {
            "has a star with a scheme that is neither `https` nor `http`, expected such origins to be listed in full"
                .to_owned()
        })),
    }
}

/// Returns the message for a star that is not the whole host of an extension scheme.
fn extension_advice(scheme: &str) -> Option<String> {
    let star = ExtensionScheme::of(scheme.to_ascii_lowercase().as_bytes())?.star();
    Some(format!("has a star that is not its whole host, expected `{star}`, or the origin in full"))
}

/// Splits an authority into its host and its port: empty, `*`, or a colon and unparsed digits.
fn split_port(authority: &str) -> Result<(&str, &str), String> {
    let end = authority.rfind(']').unwrap_or(0);
    let colon = authority.get(end..).and_then(|rest| rest.find(':')).map(|at| end + at);
    let Some((host, port)) = colon.and_then(|at| authority.split_at_checked(at)) else { return Ok((authority, "")) };
    match port {
        ":*" => Ok((host, "*")),
        _ if port.contains('*') => Err("has a star in a part of its port, expected `:*` or one number".to_owned()),
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
        _ if !label.contains('*') || rest.contains('*') => Err(MISPLACED_STAR.to_owned()),
        _ if host.contains('[') || host::is_address(rest.as_bytes()) => {
            Err("has a star in or before an IP address, expected the address itself".to_owned())
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

impl TextSpan {
    /// Returns the span of `part`, a subslice of `text`.
    fn of(part: &str, text: &str) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        let bound = |offset: usize| u16::try_from(offset).unwrap_or(u16::MAX);
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
pub(crate) mod tests {
    use super::*;

    /// Parses a pattern.
    pub(crate) fn pattern(text: &str) -> OriginPattern {
        match parse_entry(text) {
            Ok(OriginEntry::Starred(pattern)) => pattern,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn pattern_is_split_into_scheme_shape_host_and_port() {
        let wild = pattern("https://*.example.com:8443");
        assert_eq!(
            (wild.scheme(), wild.shape(), wild.host()),
            (Scheme::Https, PatternShape::Subdomains, "example.com")
        );
        assert_eq!(wild.port(), PortPattern::Number(8443));
        let label = pattern("http://pr-*-web.preview.example:*");
        assert_eq!(
            (label.literals(), label.host(), label.port()),
            (("pr-", "-web"), "preview.example", PortPattern::Any)
        );
        let port = pattern("http://[::1]:*");
        assert_eq!((port.shape(), port.host(), port.port()), (PatternShape::Whole, "[::1]", PortPattern::Any));
        assert_eq!(label.text(), "http://pr-*-web.preview.example:*");
    }

    #[test]
    fn wider_pattern_covers_narrower_one() {
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
    fn message_shows_the_accepted_spelling() {
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
    fn e_regex_among_origins_names_the_right_list() {
        for text in [
            r"https://.*\.example\.com",
            r"^https://a\.example$",
            "^https://a.example",
            "https://a.example$",
            r"/https:\/\/a/",
            "https://(a|b).example",
            "https://[a-z]+.example",
            "https://[a-z0-9-]*.example",
            "https://pr-[0-9].example",
            "https://.*.example",
            "https://.+.example",
            "http?://(.*)",
        ] {
            let message = parse_entry(text).unwrap_err();
            assert!(message.contains("in `allowOriginRegexes`, without slashes"), "{message}");
        }
        for text in [
            "https://example.*",
            "https://*example.com",
            "https://[fe80::1%25eth0]",
            "https://[0:0:0:0:0:0:0:1]",
            "https://a.example/x",
            "https://a.example?x=1",
            "https://u@a.example",
            "a.example",
        ] {
            let message = parse_entry(text).unwrap_err();
            assert!(!message.contains("allowOriginRegexes"), "{message}");
        }
        let written = parse_entry(r#"https://a.example/"b\c"#).unwrap_err();
        assert!(written.starts_with(r#"`https://a.example/"b\c` "#), "{written}");
    }

    #[test]
    fn message_shows_no_spelling_that_would_be_refused() {
        for text in ["https://a..b:ü", "https://*.a..b:ü", "https://ü..b:ü"] {
            let message = parse_entry(text).unwrap_err();
            assert!(message.ends_with("expected the host as punycode (`xn--..`)"), "{message}");
        }
    }
}
