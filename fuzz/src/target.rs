//! The bytes of a request target.

use crossgate_message::target::RequestTarget;

/// Route matching and the upstream get the same path, and no server can read it as another path.
///
/// # Panics
/// If this does not hold.
pub fn target(bytes: &[u8]) {
    let (get, options) = (RequestTarget::parse(bytes, b"GET"), RequestTarget::parse(bytes, b"OPTIONS"));
    assert!(get == options || bytes == b"*");
    let Ok(target) = get else { return };
    let path = target.path();
    assert!(target.upstream().bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'#'));
    assert!(path.starts_with('/') && !path.contains('?') && !target.path_for_matching().contains("//"));
    assert_eq!(target.path_for_matching(), single_slashes(path));
    assert!(!has_dots(path), "{path}");
    assert_eq!(
        RequestTarget::parse(target.upstream().as_bytes(), b"GET").as_ref().map(RequestTarget::upstream),
        Ok(target.upstream())
    );
    let text = String::from_utf8_lossy(bytes);
    let (before, query) = text.split_once('?').map_or((&*text, None), |(before, query)| (before, Some(query)));
    assert_eq!(path, resolved(before, target.authority()));
    assert_eq!(target.upstream(), query.map_or(path.to_owned(), |query| format!("{path}?{query}")));
}

/// Whether a server finds a dot segment that decodes escapes, takes `\` for a slash, or removes
/// parameters.
fn has_dots(path: &str) -> bool {
    let mut lenient = path.to_ascii_lowercase();
    for (escape, plain) in [("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("\\", "/")] {
        lenient = lenient.replace(escape, plain);
    }
    lenient.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}

fn single_slashes(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

/// The path normalised by RFC 3986, section 6.2.2: unreserved characters are decoded, then dot
/// segments removed.
fn resolved(target: &str, authority: Option<&str>) -> String {
    let path = match authority {
        Some(authority) => target.split_once("://").and_then(|(_, rest)| rest.strip_prefix(authority)),
        None => Some(target),
    };
    let decoded = decoded(path.unwrap_or_default());
    let segments: Vec<&str> = decoded.split('/').skip(1).collect();
    let mut kept = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        match *segment {
            ".." => drop(kept.pop()),
            "." => {}
            segment => kept.push(segment),
        }
        if is_last && matches!(*segment, "." | "..") {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

fn decoded(path: &str) -> String {
    let unreserved = ('!'..='~').filter(|c| c.is_ascii_alphanumeric() || "-._~".contains(*c));
    let escapes: Vec<(String, char)> = unreserved.map(|c| (format!("%{:02x}", u32::from(c)), c)).collect();
    let mut out = String::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let escape = rest.get(..3).map(str::to_ascii_lowercase).unwrap_or_default();
        let plain = escapes.iter().find(|(known, _)| *known == escape).map(|(_, plain)| *plain);
        out.push(plain.unwrap_or(first));
        rest = rest.get(if plain.is_some() { 3 } else { first.len_utf8() }..).unwrap_or_default();
    }
    out
}
