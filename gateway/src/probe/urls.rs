//! Parsing of URLs that operators copy, and corrections for values of the wrong form.
//!
//! A host, an origin and a path are parts of a URL that are easily mistaken for each other. A value
//! is rejected if no browser sends it and the intended form is clear; the error contains that form.
//! All other values are explained as they are.

use super::DescriptionError;

/// The parts of a request in a URL of the API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ApiUrl {
    pub(super) host: String,
    /// The path with its query.
    pub(super) path: String,
    pub(super) is_websocket: bool,
}

/// The parts of a URL, without its fragment.
struct UrlParts<'t> {
    scheme: String,
    authority: &'t str,
    /// The path with its query; empty if nothing follows the authority.
    path: &'t str,
}

/// Splits a URL with an authority (RFC 3986, section 3).
fn parts(text: &str) -> Option<UrlParts<'_>> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    // RFC 9110, section 7.1: a fragment is not part of the request target.
    let whole = rest.split('#').next().unwrap_or_default();
    let (authority, path) = whole.split_at(whole.find(['/', '?', '\\']).unwrap_or(whole.len()));
    let is_visible = whole.bytes().all(|byte| byte.is_ascii_graphic());
    (is_scheme && is_visible).then(|| UrlParts { scheme: scheme.to_ascii_lowercase(), authority, path })
}

/// Parses a URL of the API.
pub(super) fn api_url(text: &[u8]) -> Result<ApiUrl, DescriptionError> {
    let expected = "a URL of the API such as https://api.example.com/orders?page=2";
    let error = || wrong_form("url", text, expected.to_owned());
    let parts = text_of(text).and_then(parts).filter(|parts| is_authority(parts.authority)).ok_or_else(error)?;
    let is_websocket = match &*parts.scheme {
        "http" | "https" => false,
        "ws" | "wss" => true,
        _ => return Err(error()),
    };
    // RFC 9112, section 3.2.1: an empty path is sent as `/`.
    let path = if parts.path.starts_with('/') { parts.path.to_owned() } else { format!("/{}", parts.path) };
    Ok(ApiUrl { host: without_default_port(&parts), path, is_websocket })
}

/// The origin of the page with this URL.
pub(super) fn page_origin(text: &[u8]) -> Result<Vec<u8>, DescriptionError> {
    let error = || wrong_form("page-url", text, "a URL of the page such as https://app.example.com/orders".to_owned());
    let text = text_of(text).ok_or_else(error)?;
    // https://html.spec.whatwg.org/#concept-origin-opaque: pages without a host of their own.
    if ["file:", "data:", "about:"].iter().any(|scheme| starts_with_ignoring_case(text, scheme)) {
        return Ok(b"null".to_vec());
    }
    serialized(text).map(String::into_bytes).ok_or_else(error)
}

/// Rejects a URL, with or without its scheme, in place of a host.
pub(super) fn check_host(host: &[u8]) -> Result<(), DescriptionError> {
    let Some(text) = text_of(host).filter(|text| text.contains('/')) else { return Ok(()) };
    let url = if text.contains("://") { text.to_owned() } else { format!("https://{}", text.trim_start_matches('/')) };
    match parts(&url).filter(|parts| is_authority(parts.authority)) {
        Some(parts) => {
            let host = without_default_port(&parts);
            Err(wrong_form(
                "host",
                text.as_bytes(),
                format!("the host alone, {host}, or the whole URL as --url (url= in a query)"),
            ))
        }
        None => Ok(()),
    }
}

/// Rejects a malformed origin whose intended form is clear. A `header` parameter can still contain
/// it.
pub(super) fn check_origin(origin: &[u8]) -> Result<(), DescriptionError> {
    let Some(text) = text_of(origin).filter(|text| !text.is_empty() && *text != "null") else { return Ok(()) };
    let is_bare = || text.contains('.') || starts_with_ignoring_case(text, "localhost");
    let right = match serialized(text) {
        Some(right) => Some(right),
        None if !text.contains("://") && is_bare() => serialized(&format!("https://{text}")),
        None => None,
    };
    match right.filter(|right| right != text) {
        Some(right) => Err(wrong_form(
            "origin",
            origin,
            format!("{right}, as browsers send it; to explain the value as given, use the header origin:{text}"),
        )),
        None => Ok(()),
    }
}

/// Rejects a path without a leading slash. `*` is the target of a server-wide `OPTIONS` (RFC 9110,
/// section 9.3.7).
pub(super) fn check_path(path: &[u8]) -> Result<(), DescriptionError> {
    if path.starts_with(b"/") || path == b"*" {
        return Ok(());
    }
    let expected = match text_of(path) {
        Some(text) if text.contains("://") => {
            "the path alone, starting with a slash, or the whole URL as --url (url= in a query)".to_owned()
        }
        Some(text) => format!("/{text}"),
        None => "a path that starts with a slash".to_owned(),
    };
    Err(wrong_form("path", path, expected))
}

/// Rejects header fields in place of their names.
pub(super) fn check_request_headers(names: &[u8]) -> Result<(), DescriptionError> {
    if !names.contains(&b':') {
        return Ok(());
    }
    let name = names.split(|byte| *byte == b':').next().map(String::from_utf8_lossy).unwrap_or_default();
    Err(wrong_form("request-headers", names, format!("names without values, such as {}", name.trim())))
}

fn wrong_form(name: &'static str, given: &[u8], expected: String) -> DescriptionError {
    DescriptionError::Mistaken { name, given: String::from_utf8_lossy(given).into_owned(), expected }
}

fn text_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Serializes an origin: <https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin>
fn serialized(text: &str) -> Option<String> {
    let parts = parts(text).filter(|parts| is_authority(parts.authority))?;
    let host = without_default_port(&parts);
    Some(format!("{}://{}", parts.scheme, if is_web(&parts.scheme) { host.to_ascii_lowercase() } else { host }))
}

fn is_web(scheme: &str) -> bool {
    matches!(scheme, "http" | "https" | "ws" | "wss")
}

/// Rejects user information: neither a host nor an origin has it.
fn is_authority(authority: &str) -> bool {
    !authority.is_empty() && !authority.contains('@')
}

fn without_default_port(parts: &UrlParts<'_>) -> String {
    let default = match &*parts.scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => "",
    };
    let host = parts.authority.strip_suffix(default).unwrap_or(parts.authority);
    host.strip_suffix(':').unwrap_or(host).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(result: Result<(), DescriptionError>) -> Option<String> {
        match result {
            Ok(()) => None,
            Err(DescriptionError::Mistaken { expected, .. }) => Some(expected),
            Err(other) => panic!("{other}"),
        }
    }

    #[track_caller]
    fn check(check: fn(&[u8]) -> Result<(), DescriptionError>, given: &str, wanted: Option<&str>) {
        let found = expected(check(given.as_bytes()));
        match (found.as_deref(), wanted) {
            (None, None) => {}
            (Some(found), Some(wanted)) if found.starts_with(wanted) => {}
            (found, wanted) => panic!("{given}: {found:?} is not {wanted:?}"),
        }
    }

    #[test]
    fn c6_url_as_host_is_rejected_with_its_host() {
        for given in ["api.example", "api.example:8080", "[::1]:8080", "bad host", "", "API.example."] {
            check(check_host, given, None);
        }
        for (given, host) in [
            ("https://api.example", "the host alone, api.example, or"),
            ("https://api.example:443/orders?x=1", "the host alone, api.example, or"),
            ("http://api.example:8080/", "the host alone, api.example:8080, or"),
            ("api.example/orders", "the host alone, api.example, or"),
            ("//api.example", "the host alone, api.example, or"),
        ] {
            check(check_host, given, Some(host));
        }
    }

    #[test]
    fn c6_nearly_valid_origin_is_rejected_with_the_browser_form() {
        for given in [
            "https://app.example",
            "https://app.example:8443",
            "http://localhost:3000",
            "null",
            "",
            "app://.",
            "moz-extension://0b1c",
            "https://app .example",
            "nonsense",
            "https://",
        ] {
            check(check_origin, given, None);
        }
        for (given, right) in [
            ("https://app.example/", "https://app.example,"),
            ("https://app.example:8443/", "https://app.example:8443,"),
            ("https://app.example/orders?x#y", "https://app.example,"),
            ("https://app.example:443", "https://app.example,"),
            ("http://app.example:80/", "http://app.example,"),
            ("HTTPS://App.example", "https://app.example,"),
            ("app.example", "https://app.example,"),
            ("app.example:8443/", "https://app.example:8443,"),
            ("localhost:3000", "https://localhost:3000,"),
            ("moz-extension://0b1c/page.html", "moz-extension://0b1c,"),
        ] {
            check(check_origin, given, Some(right));
        }
    }

    #[test]
    fn c6_invalid_path_and_header_names_are_rejected_with_the_correction() {
        for given in ["/", "/orders?x=https://a", "*"] {
            check(check_path, given, None);
        }
        check(check_path, "orders", Some("/orders"));
        check(check_path, "https://api.example/orders", Some("the path alone"));
        check(check_path, "", Some("/"));
        for given in ["", "x-a,x-b", "x y"] {
            check(check_request_headers, given, None);
        }
        check(check_request_headers, "X-A: 1", Some("names without values, such as X-A"));
    }

    #[test]
    fn c5_urls_are_split_into_host_path_and_origin() {
        let api = |text: &str| api_url(text.as_bytes()).map(|url| (url.host, url.path, url.is_websocket)).ok();
        let url = |host: &str, path: &str, is_websocket| Some((host.to_owned(), path.to_owned(), is_websocket));
        assert_eq!(api("https://api.example:443/orders?x=1#top"), url("api.example", "/orders?x=1", false));
        assert_eq!(api("http://api.example:8080"), url("api.example:8080", "/", false));
        assert_eq!(api("https://api.example?x"), url("api.example", "/?x", false));
        assert_eq!(api("wss://[::1]:9000/feed"), url("[::1]:9000", "/feed", true));
        for bad in
            ["api.example/orders", "ftp://api.example/", "https://", "https://me@api.example/", "https://a b/", ""]
        {
            assert_eq!(api(bad), None, "{bad}");
        }
        let page = |text: &str| page_origin(text.as_bytes()).ok().map(|origin| String::from_utf8(origin).unwrap());
        for (text, origin) in [
            ("https://App.example:443/orders#x", Some("https://app.example")),
            ("http://localhost:3000/", Some("http://localhost:3000")),
            ("file:///home/me/page.html", Some("null")),
            ("data:text/html,x", Some("null")),
            ("moz-extension://0b1c/page.html", Some("moz-extension://0b1c")),
            ("app.example", None),
            ("https://b\u{fc}cher.example/", None),
        ] {
            assert_eq!(page(text).as_deref(), origin, "{text}");
        }
    }
}
