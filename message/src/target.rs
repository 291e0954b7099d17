//! Request targets in one canonical origin-form, which routes are matched on and the upstream
//! receives.
//!
//! If matching and upstream saw different paths, `/public/%2e%2e/admin` would be judged as public
//! and served as admin. So dot segments (also as `%2e`) are resolved, and escapes of unreserved
//! characters are decoded once. Other escapes and the query stay as they are. Repeated slashes
//! count as one for matching only. A target is refused if an escape in it is broken. It is refused
//! as well if a server that reads `%2f`, `%5c` or `\` as a slash would find a dot segment in it. A
//! canonical target costs no allocation.

use std::borrow::Cow;

mod readings;

pub use readings::{is_readable, readings};

/// A request target in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestTarget<'a> {
    upstream: Cow<'a, str>,
    path_len: usize,
    collapsed: Option<String>,
    authority: Option<&'a str>,
}

/// An error in a request target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither origin-form nor an absolute http(s) target.
    #[error("invalid request target; it must begin with a slash")]
    Form,
    /// A byte that must be escaped: a control character, a space, `#`, or a byte over 0x7e.
    #[error("invalid byte in the request target; escape spaces, control characters, `#` and bytes over 0x7e")]
    Byte,
    #[error("invalid escape; expected two hexadecimal digits after the percent sign")]
    Escape,
    /// A dot segment next to an encoded slash or a backslash.
    #[error("dot segment next to an encoded slash or a backslash; write dot segments between plain slashes")]
    DisguisedDots,
}

impl<'a> RequestTarget<'a> {
    /// Brings a target to canonical form. `*` is valid for `OPTIONS` only, RFC 9112, section 3.2.4.
    pub fn parse(target: &'a [u8], method: &[u8]) -> Result<Self, TargetError> {
        let text = std::str::from_utf8(target).map_err(|_| TargetError::Byte)?;
        if text == "*" && method == b"OPTIONS" {
            return Ok(RequestTarget { upstream: Cow::Borrowed(text), path_len: 1, collapsed: None, authority: None });
        }
        if !text.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'#') {
            return Err(TargetError::Byte);
        }
        let (authority, origin_form) = split_authority(text)?;
        let path_len = origin_form.bytes().position(|b| b == b'?').unwrap_or(origin_form.len());
        let (path, query) = origin_form.split_at(path_len);
        if is_plain(path) {
            return Ok(RequestTarget { upstream: Cow::Borrowed(origin_form), path_len, collapsed: None, authority });
        }
        Self::assemble(authority, origin_form, canonical_path(path)?, query)
    }

    fn assemble(
        authority: Option<&'a str>,
        origin_form: &'a str,
        path: Cow<'a, str>,
        query: &str,
    ) -> Result<Self, TargetError> {
        let collapsed = collapse_slashes(&path);
        let path_len = path.len();
        let upstream = match path {
            Cow::Borrowed(same) if same.len() + query.len() == origin_form.len() => Cow::Borrowed(origin_form),
            Cow::Borrowed(path) => Cow::Owned([path, query].concat()),
            Cow::Owned(path) => Cow::Owned(path + query),
        };
        Ok(RequestTarget { upstream, path_len, collapsed, authority })
    }

    /// Path and query as sent to the upstream.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// The path as sent to the upstream, without the query; `*` for `OPTIONS *`.
    pub fn path(&self) -> &str {
        self.upstream.get(..self.path_len).unwrap_or_default()
    }

    /// The path for matching routes, with repeated slashes as one; `/` for `OPTIONS *`.
    pub fn path_for_matching(&self) -> &str {
        match &self.collapsed {
            Some(path) => path,
            None if self.path() == "*" => "/",
            None => self.path(),
        }
    }

    /// The query as sent to the upstream, without its `?`; empty if absent.
    pub fn query(&self) -> &str {
        self.upstream.get(self.path_len..).and_then(|rest| rest.strip_prefix('?')).unwrap_or_default()
    }

    /// The authority of an absolute-form target, which must agree with `Host` (RFC 9112, section
    /// 3.2.2).
    pub fn authority(&self) -> Option<&'a str> {
        self.authority
    }
}

/// Splits the authority from an absolute-form target. An origin-form target has none.
fn split_authority(text: &str) -> Result<(Option<&str>, &str), TargetError> {
    if text.starts_with('/') {
        return Ok((None, text));
    }
    // RFC 9112, section 3.2.2: a server must accept the absolute form.
    let (scheme, rest) = text.split_once("://").ok_or(TargetError::Form)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(TargetError::Form);
    }
    let (authority, origin_form) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Ok((Some(authority), origin_form))
}

/// Whether a path is canonical without a closer look, as nearly all are. It has no escape or
/// backslash, no empty segment, and no segment that begins with a dot.
fn is_plain(path: &str) -> bool {
    let mut before = b' ';
    let plain = path.bytes().all(|b| {
        let needs_check = matches!(b, b'%' | b'\\') || before == b'/' && matches!(b, b'.' | b'/');
        before = b;
        !needs_check
    });
    plain && path.starts_with('/')
}

fn canonical_path(path: &str) -> Result<Cow<'_, str>, TargetError> {
    let decoded = decode_unreserved(path)?;
    // Path traversal through servers that decode `%2f` or read `\` as a slash.
    if decoded.split('/').any(hides_dots) {
        return Err(TargetError::DisguisedDots);
    }
    match decoded {
        _ if decoded.is_empty() => Ok(Cow::Borrowed("/")),
        Cow::Borrowed(path) if !path.split('/').any(is_dots) => Ok(Cow::Borrowed(path)),
        Cow::Borrowed(_) | Cow::Owned(_) => Ok(resolve_dots(&decoded)),
    }
}

/// Decodes escapes of letters, digits, `-`, `.`, `_` and `~`. RFC 3986, section 2.3, makes both
/// forms equivalent.
fn decode_unreserved(path: &str) -> Result<Cow<'_, str>, TargetError> {
    let mut decoded = String::new();
    let mut rest = path;
    let mut kept = path;
    while let Some((_, escape)) = rest.find('%').and_then(|at| rest.split_at_checked(at)) {
        let (byte, after) = unescape(escape)?;
        rest = after;
        if is_unreserved(byte) {
            decoded.push_str(kept.strip_suffix(escape).unwrap_or_default());
            decoded.push(char::from(byte));
            kept = after;
        }
    }
    if decoded.is_empty() {
        return Ok(Cow::Borrowed(path));
    }
    decoded.push_str(kept);
    Ok(Cow::Owned(decoded))
}

/// The byte of an escape, and the text after it.
fn unescape(escape: &str) -> Result<(u8, &str), TargetError> {
    let digits = escape.get(1..3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
    byte.zip(escape.get(3..)).ok_or(TargetError::Escape)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn is_dots(segment: &str) -> bool {
    segment == "." || segment == ".."
}

/// Whether a server that reads `\`, `%2f` or `%5c` as a slash finds a dot segment in a segment
/// between plain slashes.
fn hides_dots(segment: &str) -> bool {
    let mut rest = segment;
    let mut has_encoded_slash = false;
    while let Some((piece, after)) = split_encoded_slash(rest) {
        if is_dots(before_parameters(piece)) {
            return true;
        }
        has_encoded_slash = true;
        rest = after;
    }
    let named = before_parameters(rest);
    is_dots(named) && (has_encoded_slash || named.len() < rest.len())
}

/// The part of a segment before its `;`. Some servers (Tomcat, Jetty) strip the rest as path
/// parameters.
fn before_parameters(segment: &str) -> &str {
    segment.split(';').next().unwrap_or_default()
}

/// Splits at the first encoded slash or backslash.
fn split_encoded_slash(text: &str) -> Option<(&str, &str)> {
    let at = text.match_indices(['\\', '%']).map(|(at, _)| at).find(|&at| encoded_slash_len(text, at) > 0)?;
    Some((text.get(..at)?, text.get(at + encoded_slash_len(text, at)..)?))
}

fn encoded_slash_len(text: &str, at: usize) -> usize {
    match text.get(at..at + 3) {
        Some(escape) if escape.eq_ignore_ascii_case("%2f") || escape.eq_ignore_ascii_case("%5c") => 3,
        Some(_) | None => usize::from(text.get(at..at + 1) == Some("\\")),
    }
}

/// Resolves dot segments, RFC 3986, section 5.2.4. Segments above the root stay at the root.
fn resolve_dots<'a>(path: &str) -> Cow<'a, str> {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_dots = false;
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        ends_in_dots = is_dots(segment);
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    if ends_in_dots {
        kept.push("");
    }
    Cow::Owned(format!("/{}", kept.join("/")))
}

fn collapse_slashes(path: &str) -> Option<String> {
    if !path.contains("//") {
        return None;
    }
    let mut collapsed = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !collapsed.ends_with('/') {
            collapsed.push(c);
        }
    }
    Some(collapsed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn upstream(target: &str) -> Result<String, TargetError> {
        RequestTarget::parse(target.as_bytes(), b"GET").map(|target| target.upstream().to_owned())
    }

    #[test]
    fn targets_are_canonicalized() {
        for (target, canonical) in [
            ("/", "/"),
            ("/a/b?x=%2e%2e/..", "/a/b?x=%2e%2e/.."),
            ("/?", "/?"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/../../a", "/a"),
            ("/public/%2e%2E/admin", "/admin"),
            ("/public/.%2e/admin", "/admin"),
            ("/%61%2D%5f%7E", "/a-_~"),
            ("/a%20b%2Fc%c3%a9", "/a%20b%2Fc%c3%a9"),
            ("/a%20b%41%20%42%20", "/a%20bA%20B%20"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a//b", "/a//b"),
            ("/a//../b", "/a/b"),
            ("/...", "/..."),
            ("/a\\b", "/a\\b"),
            ("http://h.example/a/../b?q", "/b?q"),
            ("http://h.example", "/"),
            ("HTTPS://h.example?q", "/?q"),
        ] {
            assert_eq!(upstream(target).as_deref(), Ok(canonical), "{target}");
        }
    }

    #[test]
    fn ambiguous_targets_are_refused() {
        for (target, error) in [
            ("", TargetError::Form),
            ("a", TargetError::Form),
            ("*", TargetError::Form),
            ("ftp://h/a", TargetError::Form),
            ("h.example:443", TargetError::Form),
            ("/a b", TargetError::Byte),
            ("/a#b", TargetError::Byte),
            ("/é", TargetError::Byte),
            ("/a\0", TargetError::Byte),
            ("/%", TargetError::Escape),
            ("/%4", TargetError::Escape),
            ("/%zz", TargetError::Escape),
            ("/%+1", TargetError::Escape),
            ("/%2%65", TargetError::Escape),
            ("/a%2f..", TargetError::DisguisedDots),
            ("/..%2Fa", TargetError::DisguisedDots),
            ("/a%2f%2e%2e%2fb", TargetError::DisguisedDots),
            ("/a%5c../b", TargetError::DisguisedDots),
            ("/x%2f..;%2f..;/admin", TargetError::DisguisedDots),
            ("/x\\..;\\b", TargetError::DisguisedDots),
            ("/x%2f..;", TargetError::DisguisedDots),
            ("/..;x=1/b", TargetError::DisguisedDots),
            ("/a\\..\\b", TargetError::DisguisedDots),
            ("/..\\", TargetError::DisguisedDots),
            ("/.%5C", TargetError::DisguisedDots),
        ] {
            assert_eq!(upstream(target), Err(error), "{target}");
        }
        assert_eq!(RequestTarget::parse(b"/\xff", b"GET"), Err(TargetError::Byte));
    }

    #[test]
    fn repeated_slashes_count_as_one_for_matching() {
        let matched = |target: &str, method: &[u8]| {
            RequestTarget::parse(target.as_bytes(), method).unwrap().path_for_matching().to_owned()
        };
        assert_eq!(matched("//a///b/?//", b"GET"), "/a/b/");
        assert_eq!(matched("/a?b", b"GET"), "/a");
        assert_eq!(matched("*", b"OPTIONS"), "/");
    }

    #[test]
    fn paths_without_escapes_dots_or_empty_segments_are_plain() {
        for path in ["/", "/a", "/a/b.c/", "/a;x=1", "/a..", "/~"] {
            assert!(is_plain(path), "{path}");
        }
        for path in ["", "*", "a", "/.", "/.a", "/a/..", "//", "/a//b", "/a%20", "/a\\b"] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn query_begins_after_the_first_question_mark() {
        for (target, query) in
            [("/a?b=%41?/..", "b=%41?/.."), ("/a/../?", ""), ("/a/../b?c", "c"), ("/a", ""), ("http://h?q", "q")]
        {
            assert_eq!(RequestTarget::parse(target.as_bytes(), b"GET").unwrap().query(), query, "{target}");
        }
        assert_eq!(RequestTarget::parse(b"*", b"OPTIONS").unwrap().query(), "");
    }

    #[test]
    fn authority_is_kept_and_canonical_targets_are_borrowed() {
        let target = RequestTarget::parse(b"http://h.example:80/a?b", b"GET").unwrap();
        assert_eq!((target.authority(), target.path()), (Some("h.example:80"), "/a"));
        assert!(matches!(target.upstream, Cow::Borrowed("/a?b")));
        assert!(matches!(RequestTarget::parse(b"/a%20b?c", b"GET").unwrap().upstream, Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn canonical_targets_are_stable_and_have_no_dot_segments(target in r"/([a./%\\?;]|%2[efEF]|%5[cC]|%[0-9a-f]{2}|\.\./){0,20}") {
            if let Ok(first) = RequestTarget::parse(target.as_bytes(), b"GET") {
                let again = RequestTarget::parse(first.upstream().as_bytes(), b"GET").unwrap();
                prop_assert_eq!(again.upstream(), first.upstream());
                prop_assert!(matches!(again.upstream, Cow::Borrowed(_)));
                let lenient = first.path().to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
                let lenient = lenient.replace('\\', "/");
                prop_assert!(!lenient.split('/').map(before_parameters).any(is_dots), "{}", first.path());
                prop_assert!(!first.path_for_matching().contains("//"));
            }
        }

        #[test]
        fn target_parser_accepts_any_bytes(target in proptest::collection::vec(any::<u8>(), 0..60), slash in any::<bool>()) {
            let target = if slash { [b"/".as_slice(), &target].concat() } else { target };
            if let Ok(parsed) = RequestTarget::parse(&target, b"GET") {
                prop_assert!(parsed.path().starts_with('/'));
            }
        }
    }
}
