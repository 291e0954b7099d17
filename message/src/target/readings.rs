//! Alternative readings of a path, as other servers could interpret it.
//!
//! Routes are matched on one canonical path. A server behind the gateway may read it in another
//! way. Some read a slash in `%2f`, `%5c` or `\`, and the end of a segment in `;`. Some end a path
//! at `%00`, `%3F` or `%23`, and a name before a trailing dot or space. If such a reading is on a
//! route with other terms, one route would judge the request and another would serve it. The
//! gateway refuses the request then (`Tenant::is_ambiguous`). The comparison of routes handles
//! case.

use std::borrow::Cow;

use super::{collapse_slashes, resolve_dots};

/// The most rounds of decoding. Repeated escapes of `%` cost no round, so no client writes a path
/// that needs more.
const ROUNDS_MAX: usize = 8;

/// The readings of a canonical path that differ from it, with repeated slashes as one. Nearly all
/// paths have none.
pub fn readings(path: &str) -> impl Iterator<Item = String> {
    let (slashes, segments) = match is_plain(path) {
        true => (None, None),
        false => (Some(decode(path)), Some(cut_terminators(path))),
    };
    let both = slashes.as_deref().map(cut_terminators);
    let both_in_turn = segments.as_deref().map(decode);
    let all = [slashes, segments, both, both_in_turn].into_iter().flatten();
    all.map(normalize).filter(move |reading| reading != path)
}

/// Whether all servers read a path the same way.
fn is_plain(path: &str) -> bool {
    let has_other_reading = |segment: &str| segment.ends_with('.') || segment.contains([';', '%', '\\']);
    !path.split('/').any(has_other_reading)
}

/// Whether decoding ends within [`ROUNDS_MAX`]. The readings of other paths are unknown.
pub fn is_readable(path: &str) -> bool {
    is_plain(path) || {
        let decoded = decode(path);
        decode_once(&decoded) == decoded
    }
}

/// Decodes escapes of slashes, semicolons, dots and unreserved characters, however often they were
/// escaped.
fn decode(path: &str) -> String {
    let mut decoded = path.replace('\\', "/");
    for _ in 0..ROUNDS_MAX {
        let next = decode_once(&decoded);
        if next == decoded {
            break;
        }
        decoded = next;
    }
    decoded
}

fn decode_once(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((plain, escape)) = rest.find('%').and_then(|at| rest.split_at_checked(at)) {
        decoded.push_str(plain);
        // Each round of escaping adds another `25`; all are removed at once.
        let mut digits = escape.get(1..).unwrap_or_default();
        while let Some(inner) = digits.strip_prefix("25") {
            digits = inner;
        }
        match digits.get(..2).and_then(decode_digits) {
            Some(char) => {
                decoded.push(char);
                rest = digits.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push('%');
                rest = digits;
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// The character of an escape, if routes can contain it, or if it ends or divides their segments.
fn decode_digits(digits: &str) -> Option<char> {
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    match byte {
        b'/' | b'\\' => Some('/'),
        b';' => Some(';'),
        b'-' | b'.' | b'_' | b'~' => Some(char::from(byte)),
        _ if byte.is_ascii_alphanumeric() => Some(char::from(byte)),
        _ => None,
    }
}

/// Cuts the path at `%00`, `%3F` and `%23`, and each segment at every character that some servers
/// take for its end.
fn cut_terminators(path: &str) -> String {
    let end = path.match_indices('%').map(|(at, _)| at).find(|at| ends_path(path.get(at + 1..at + 3)));
    let path = end.and_then(|end| path.get(..end)).unwrap_or(path);
    let segments = path.split('/').map(|segment| {
        let named = segment.split(';').next().unwrap_or_default();
        let trimmed = trim_name(named);
        // A segment of dots only is a dot segment, also with trailing blanks.
        if trimmed.is_empty() { trim_blanks(named) } else { trimmed }
    });
    segments.collect::<Vec<_>>().join("/")
}

/// Whether an escape with these digits ends a path. Some servers decode it before they look for the
/// query.
fn ends_path(digits: Option<&str>) -> bool {
    digits.is_some_and(|digits| ["00", "3f", "23"].iter().any(|end| digits.eq_ignore_ascii_case(end)))
}

fn trim_blanks(mut name: &str) -> &str {
    while let Some(shorter) = ["%20", "%09"].iter().find_map(|end| name.strip_suffix(end)) {
        name = shorter;
    }
    name
}

/// Trims trailing dots and blanks, which Windows file systems ignore at the end of a name.
fn trim_name(mut name: &str) -> &str {
    while let Some(shorter) = ["%20", "%09", "."].iter().find_map(|end| name.strip_suffix(end)) {
        name = shorter;
    }
    name
}

fn normalize(path: String) -> String {
    let path = resolve_dots(&path);
    collapse_slashes(&path).map_or(path, Cow::Owned).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, wanted: &[&str]) {
        let mut found: Vec<String> = readings(path).collect();
        found.sort();
        found.dedup();
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{path}");
    }

    #[test]
    fn plain_paths_have_no_other_reading() {
        for path in ["/", "/admin/users", "/a.b/c", "/Admin", "/a%20b/c", "/%C3%A4/x", "/.well-known/x"] {
            check(path, &[]);
        }
    }

    #[test]
    fn encoded_slashes_are_decoded() {
        for path in [
            "/admin%2Fusers",
            "/admin%2fusers",
            "/admin%5cusers",
            "/admin\\users",
            "/admin%252Fusers",
            "/admin%25252fusers",
            "/admin%2525252525252fusers",
            "/%2561dmin/users",
            "/a%2564min/users",
            "/%25%36%31dmin/users",
            "/admin%25%2532%46users",
            "/admin%252%2546users",
        ] {
            check(path, &["/admin/users"]);
        }
        check("/x%2f%2Fadmin", &["/x/admin"]);
        check("/x%252f%252e%252e%252fadmin", &["/admin"]);
    }

    #[test]
    fn deeply_nested_escapes_are_not_readable() {
        // Each round gives one digit of the next.
        let nested = |depth: usize| (0..depth).fold("%2f".to_owned(), |inner, _| inner.replace('2', "%32"));
        assert!(["/a", "/a%2525252525252f", "/%", "/a%20b"].into_iter().all(is_readable));
        assert!(is_readable(&format!("/a{}", nested(4))));
        assert!(!is_readable(&format!("/a{}", nested(12))));
    }

    #[test]
    fn segment_and_path_terminators_cut_the_path() {
        check("/admin;x/users", &["/admin/users"]);
        check("/admin%3bx/users", &["/admin/users", "/admin;x/users"]);
        check("/admin.", &["/admin"]);
        check("/admin%20/users.", &["/admin/users"]);
        check("/admin%00.png", &["/admin"]);
        check("/admin%3Fx", &["/admin"]);
        check("/admin/%23/x", &["/admin/"]);
        check("/public/..%20/admin", &["/admin"]);
        check("/public/..%09;x/admin", &["/admin"]);
        check("/public/a;%2fadmin", &["/public/a", "/public/a/admin", "/public/a;/admin"]);
        check("/...", &[]);
    }
}
