//! Parses the parts of a request that the admin listener uses.
//!
//! The lane's bounded reader has read the head before. A repeated field makes the request invalid,
//! because two readers could choose different values of it.

/// A parsed head. Absent fields are `None`. A request that repeats one of them is refused.
#[derive(Clone, Debug)]
pub(super) struct AdminRequest {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    /// The one `Host` line: the lane's head reader accepts exactly one.
    pub(super) host: String,
    pub(super) authorization: Option<Vec<u8>>,
    pub(super) cookie: Option<Vec<u8>>,
    pub(super) origin: Option<Vec<u8>>,
    /// The value of `Sec-Fetch-Site`.
    pub(super) fetch_site: Option<Vec<u8>>,
    /// The length of a login form.
    pub(super) content_length: Option<usize>,
    pub(super) initiator: RequestInitiator,
    /// Whether `Accept` lists HTML, as browsers do for navigations.
    pub(super) accepts_html: bool,
}

/// The initiator of a request, according to the fields that browsers add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestInitiator {
    /// A tool, a typed address, or a browser without fetch metadata: browsers omit it over plain
    /// HTTP to another machine.
    Tool,
    /// A link, on any site, that opens a new document. Only the user reads the response.
    Navigation,
    /// A script, a form, a frame or a resource of a page.
    Page,
}

/// As many as the head reader accepts.
const FIELDS_MAX: usize = 64;

impl AdminRequest {
    /// Parses a head. Returns `None` for malformed heads, for targets not in origin form, and for
    /// repeated fields.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        request.parse(head).ok().filter(httparse::Status::is_complete)?;
        let (path, query) = split_target(request.path?)?;
        Some(AdminRequest {
            method: request.method?.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            host: String::from_utf8(field(request.headers, "host")??.to_vec()).ok()?,
            authorization: field(request.headers, "authorization")?.map(<[u8]>::to_vec),
            cookie: field(request.headers, "cookie")?.map(<[u8]>::to_vec),
            origin: field(request.headers, "origin")?.map(<[u8]>::to_vec),
            fetch_site: field(request.headers, "sec-fetch-site")?.map(<[u8]>::to_vec),
            content_length: content_length(request.headers)?,
            initiator: initiator(request.method?, request.headers)?,
            accepts_html: accepts_html(request.headers),
        })
    }

    /// Whether a page of this listener sent the request.
    pub(super) fn is_same_origin(&self) -> bool {
        let of_scheme = |scheme: &str| {
            let is_equal = |origin: &[u8]| origin.eq_ignore_ascii_case(format!("{scheme}://{}", self.host).as_bytes());
            self.origin.as_deref().is_some_and(is_equal)
        };
        match self.fetch_site.as_deref() {
            Some(site) => site == b"same-origin",
            None => of_scheme("http") || of_scheme("https"),
        }
    }

    /// Whether the browser used https, through a proxy in front of this listener.
    pub(super) fn is_of_https(&self) -> bool {
        self.origin.as_deref().is_some_and(|origin| origin.starts_with(b"https://"))
    }

    /// The target as sent.
    pub(super) fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }
}

fn split_target(target: &str) -> Option<(&str, &str)> {
    target.starts_with('/').then(|| target.split_once('?').unwrap_or((target, "")))
}

/// The value of a field; the outer `None` means that the field is repeated.
fn field<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<Option<&'a [u8]>> {
    let mut values = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value);
    let first = values.next();
    values.next().is_none().then_some(first)
}

/// Finds the initiator. Browsers send `Origin` with every request of a page that is not a plain
/// GET. They send fetch metadata with all requests, at least over https and to loopback. A typed
/// address is a navigation with site `none`. A load in a frame or as an image has another
/// destination than `document`.
fn initiator(method: &str, fields: &[httparse::Header<'_>]) -> Option<RequestInitiator> {
    let site = field(fields, "sec-fetch-site")?;
    let (mode, destination) = (field(fields, "sec-fetch-mode")?, field(fields, "sec-fetch-dest")?);
    let has_origin = field(fields, "origin")?.is_some();
    let opens_document = mode == Some(b"navigate") && destination == Some(b"document");
    Some(match site {
        _ if has_origin => RequestInitiator::Page,
        Some(_) if opens_document && method == "GET" => RequestInitiator::Navigation,
        None | Some(b"none") => RequestInitiator::Tool,
        Some(_) => RequestInitiator::Page,
    })
}

/// Parses the length. One that is not a number is refused like a repeated field.
fn content_length(fields: &[httparse::Header<'_>]) -> Option<Option<usize>> {
    let Some(length) = field(fields, "content-length")? else { return Some(None) };
    Some(Some(std::str::from_utf8(length).ok()?.parse().ok()?))
}

fn accepts_html(fields: &[httparse::Header<'_>]) -> bool {
    let accept = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("accept"));
    let mut types = accept.flat_map(|field| field.value.split(|byte| *byte == b','));
    types.any(|media_type| {
        let essence = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"text/html")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Option<AdminRequest> {
        AdminRequest::parse(head.as_bytes())
    }

    #[test]
    fn admin_request_head_is_parsed() {
        let head = "GET /explain?a=b?c HTTP/1.1\r\nhOST: localhost:1\r\nAuthorization: Bearer x\r\n\r\n";
        let request = parse(head).unwrap();
        assert_eq!((request.path.as_str(), request.query.as_str()), ("/explain", "a=b?c"));
        assert_eq!((request.host.as_str(), request.authorization.as_deref()), ("localhost:1", Some(&b"Bearer x"[..])));
        assert_eq!(request.initiator, RequestInitiator::Tool);
    }

    #[test]
    fn c4_only_top_level_document_loads_are_navigations() {
        const NAVIGATE: &str = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document";
        for (method, fields, expected) in [
            ("GET", "Origin: null".to_owned(), RequestInitiator::Page),
            ("GET", "Origin: ".to_owned(), RequestInitiator::Page),
            ("GET", "Sec-Fetch-Site: cross-site".to_owned(), RequestInitiator::Page),
            ("GET", "Sec-Fetch-Site: same-origin".to_owned(), RequestInitiator::Page),
            ("GET", "Sec-Fetch-Site: none".to_owned(), RequestInitiator::Tool),
            ("GET", "X-Origin: a".to_owned(), RequestInitiator::Tool),
            ("GET", format!("Sec-Fetch-Site: none\r\n{NAVIGATE}"), RequestInitiator::Navigation),
            ("GET", format!("Sec-Fetch-Site: cross-site\r\n{NAVIGATE}"), RequestInitiator::Navigation),
            ("GET", format!("Sec-Fetch-Site: same-origin\r\n{NAVIGATE}"), RequestInitiator::Navigation),
            ("GET", format!("Sec-Fetch-Site: cross-site\r\n{NAVIGATE}\r\nOrigin: null"), RequestInitiator::Page),
            ("POST", format!("Sec-Fetch-Site: same-origin\r\n{NAVIGATE}"), RequestInitiator::Page),
            ("HEAD", format!("Sec-Fetch-Site: cross-site\r\n{NAVIGATE}"), RequestInitiator::Page),
            (
                "GET",
                "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe".to_owned(),
                RequestInitiator::Page,
            ),
            ("GET", "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: navigate".to_owned(), RequestInitiator::Page),
            ("GET", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: document".to_owned(), RequestInitiator::Page),
            (
                "GET",
                "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: document".to_owned(),
                RequestInitiator::Page,
            ),
        ] {
            let request = parse(&format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")).unwrap();
            assert_eq!(request.initiator, expected, "{method} {fields}");
        }
    }

    #[test]
    fn forms_of_other_sites_are_not_same_origin() {
        for (fields, expected) in [
            ("Sec-Fetch-Site: same-origin\r\nOrigin: null", true),
            ("Origin: http://a:1", true),
            ("Origin: https://a:1", true),
            ("Sec-Fetch-Site: same-site\r\nOrigin: http://a:1", false),
            ("Sec-Fetch-Site: none", false),
            ("Origin: http://a:2", false),
            ("Origin: http://a", false),
            ("Origin: null", false),
            ("X: a", false),
        ] {
            let request = parse(&format!("POST /login HTTP/1.1\r\nHost: a:1\r\n{fields}\r\n\r\n")).unwrap();
            assert_eq!(request.is_same_origin(), expected, "{fields}");
        }
    }

    #[test]
    fn accept_header_identifies_browsers() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("application/json, Text/HTML;q=0.1", true),
            ("*/*", false),
            ("text/htmlx", false),
        ] {
            let request = parse(&format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n")).unwrap();
            assert_eq!(request.accepts_html, expected, "{accept}");
        }
    }

    #[test]
    fn repeated_admin_field_fails_parsing() {
        for field in [
            "Host: a",
            "authorization: Bearer x",
            "Origin: a",
            "Sec-Fetch-Site: none",
            "Sec-Fetch-Mode: navigate",
            "Sec-Fetch-Dest: document",
            "Cookie: a=b",
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n{field}\r\n\r\n");
            assert!(parse(&head).is_none(), "{field}");
        }
        assert!(parse("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\nX: a\r\n\r\n").is_some());
    }

    #[test]
    fn admin_target_must_be_in_origin_form() {
        for target in ["http://a/livez", "*", "livez"] {
            assert!(parse(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).is_none(), "{target}");
        }
    }
}
