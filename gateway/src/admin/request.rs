//! What the admin listener looks at of a request.

/// A parsed head. Fields that are absent are `None`; a request with one of them twice is refused.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    /// Exactly one, says the lane's head reader.
    pub(super) host: String,
    pub(super) authorization: Option<Vec<u8>>,
    /// Whether a browser says that a page of some site is behind it.
    pub(super) is_from_page: bool,
}

/// More than the head reader lets through.
const FIELDS_MAX: usize = 64;

impl Request {
    /// `None` for what the head reader should not have let through, for targets in another form, and for repeated fields.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        request.parse(head).ok().filter(httparse::Status::is_complete)?;
        let (path, query) = split_target(request.path?)?;
        Some(Request {
            method: request.method?.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            host: String::from_utf8(field(request.headers, "host")??.to_vec()).ok()?,
            authorization: field(request.headers, "authorization")?.map(<[u8]>::to_vec),
            is_from_page: is_from_page(request.headers)?,
        })
    }
}

fn split_target(target: &str) -> Option<(&str, &str)> {
    target.starts_with('/').then(|| target.split_once('?').unwrap_or((target, "")))
}

/// The value of a field, if it is there; `None` if it is there twice.
fn field<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<Option<&'a [u8]>> {
    let mut values = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value);
    let first = values.next();
    values.next().is_none().then_some(first)
}

/// Browsers send `Origin` with every request of a page that is not a plain GET, and `Sec-Fetch-Site` with all; typing an
/// address sends `none`.
fn is_from_page(fields: &[httparse::Header<'_>]) -> Option<bool> {
    let site = field(fields, "sec-fetch-site")?;
    let origin = field(fields, "origin")?;
    Some(origin.is_some() || site.is_some_and(|site| site != b"none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Option<Request> {
        Request::parse(head.as_bytes())
    }

    #[test]
    fn what_matters_is_taken_out() {
        let head = "GET /explain?a=b?c HTTP/1.1\r\nhOST: localhost:1\r\nAuthorization: Bearer x\r\n\r\n";
        let request = parse(head).unwrap();
        assert_eq!((request.path.as_str(), request.query.as_str()), ("/explain", "a=b?c"));
        assert_eq!((request.host.as_str(), request.authorization.as_deref()), ("localhost:1", Some(&b"Bearer x"[..])));
        assert!(!request.is_from_page);
    }

    #[test]
    fn a_page_gives_itself_away() {
        for (field, expected) in [
            ("Origin: null", true),
            ("Origin: ", true),
            ("Sec-Fetch-Site: cross-site", true),
            ("Sec-Fetch-Site: same-origin", true),
            ("Sec-Fetch-Site: none", false),
            ("X-Origin: a", false),
        ] {
            let request = parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")).unwrap();
            assert_eq!(request.is_from_page, expected, "{field}");
        }
    }

    #[test]
    fn a_repeated_field_is_refused() {
        for field in ["Host: a", "authorization: Bearer x", "Origin: a", "Sec-Fetch-Site: none"] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n{field}\r\n\r\n");
            assert!(parse(&head).is_none(), "{field}");
        }
        assert!(parse("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\nX: a\r\n\r\n").is_some());
    }

    #[test]
    fn other_forms_of_target_are_refused() {
        for target in ["http://a/livez", "*", "livez"] {
            assert!(parse(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).is_none(), "{target}");
        }
    }
}
