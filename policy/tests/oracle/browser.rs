//! A model of a browser: the client's side of <https://fetch.spec.whatwg.org/#cors-check> and
//! <https://fetch.spec.whatwg.org/#cors-preflight-fetch>, slow and simple. It shows what a page can
//! do with a response, and whether a cache in between may reuse the response.

/// The fields of a response, with names in lower case.
pub(crate) type Fields = Vec<(String, String)>;

/// A request that a page makes.
#[derive(Debug, Clone)]
pub(crate) struct PageRequest {
    pub(crate) origin: String,
    pub(crate) method: String,
    /// The unsafe request headers, in the page's spelling.
    pub(crate) headers: Vec<String>,
    /// Whether the request's credentials mode is `include`.
    pub(crate) with_credentials: bool,
    /// Whether the request's use-CORS-preflight flag is set, as for a page that watches its upload.
    pub(crate) watches_upload: bool,
}

/// The parts of a sent request that matter to CORS.
#[derive(Debug, Clone)]
pub(crate) struct SentRequest {
    pub(crate) method: String,
    pub(crate) origin: Option<String>,
    pub(crate) requested_method: Option<String>,
    pub(crate) requested_headers: Option<String>,
}

impl PageRequest {
    /// Returns the actual request.
    pub(crate) fn actual(&self) -> SentRequest {
        SentRequest { origin: Some(self.origin.clone()), ..SentRequest::plain(&self.method) }
    }

    /// Returns the preflight of the request.
    pub(crate) fn preflight(&self) -> SentRequest {
        SentRequest {
            method: "OPTIONS".to_owned(),
            requested_method: Some(self.method.clone()),
            requested_headers: self.requested_headers(),
            ..self.actual()
        }
    }

    /// Returns the value of `Access-Control-Request-Headers`, if there are unsafe headers:
    /// <https://fetch.spec.whatwg.org/#cors-unsafe-request-header-names>.
    fn requested_headers(&self) -> Option<String> {
        let mut names: Vec<String> = self.headers.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        (!names.is_empty()).then(|| names.join(","))
    }
}

impl SentRequest {
    /// Creates a request without CORS fields.
    pub(crate) fn plain(method: &str) -> Self {
        Self { method: method.to_owned(), origin: None, requested_method: None, requested_headers: None }
    }

    fn field(&self, name: &str) -> Option<&String> {
        match name {
            "origin" => self.origin.as_ref(),
            "access-control-request-method" => self.requested_method.as_ref(),
            "access-control-request-headers" => self.requested_headers.as_ref(),
            _ => None,
        }
    }
}

/// The CORS check of a response: <https://fetch.spec.whatwg.org/#cors-check>.
pub(crate) fn passes_check(page_request: &PageRequest, fields: &Fields) -> bool {
    let Some(allowed) = get(fields, "access-control-allow-origin") else { return false };
    if !page_request.with_credentials && allowed == "*" {
        return true;
    }
    allowed == page_request.origin
        && (!page_request.with_credentials
            || get(fields, "access-control-allow-credentials").as_deref() == Some("true"))
}

/// The names that `*` in `Access-Control-Allow-Headers` covers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Star {
    /// Every name except `authorization`:
    /// <https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name>.
    Standard,
    /// Every name, as in Chromium.
    Chromium,
}

/// Whether the browser sends the actual request after this response to its preflight.
pub(crate) fn proceeds(page_request: &PageRequest, status: u16, fields: &Fields) -> bool {
    proceeds_in(Star::Standard, page_request, status, fields)
}

/// Whether a browser with this meaning of `*` sends the actual request.
pub(crate) fn proceeds_in(star: Star, page_request: &PageRequest, status: u16, fields: &Fields) -> bool {
    let methods = tokens(fields, "access-control-allow-methods");
    let headers = tokens(fields, "access-control-allow-headers");
    let (Some(mut methods), Some(headers)) = (methods, headers) else { return false };
    // "If methods is null and request's use-CORS-preflight flag is set, then set methods to a new
    // list containing request's method."
    if get(fields, "access-control-allow-methods").is_none() && page_request.watches_upload {
        methods.push(page_request.method.clone());
    }
    let has = |list: &[String], name: &str| list.iter().any(|one| one == name);
    let is_wild = |list: &[String]| !page_request.with_credentials && has(list, "*");
    let is_method = has(&methods, &page_request.method)
        || ["GET", "HEAD", "POST"].contains(&page_request.method.as_str())
        || is_wild(&methods);
    let is_listed = |name: &String| headers.iter().any(|one| one.eq_ignore_ascii_case(name));
    let is_starred = |name: &String| star == Star::Chromium || !name.eq_ignore_ascii_case("authorization");
    let is_header = |name: &String| is_listed(name) || (is_wild(&headers) && is_starred(name));
    passes_check(page_request, fields)
        && (200..300).contains(&status)
        && is_method
        && page_request.headers.iter().all(is_header)
}

/// Whether a page may read this response header.
pub(crate) fn can_read(page_request: &PageRequest, name: &str, fields: &Fields) -> bool {
    let exposed = tokens(fields, "access-control-expose-headers").unwrap_or_default();
    let is_wild = !page_request.with_credentials && exposed.iter().any(|one| one == "*");
    passes_check(page_request, fields) && (is_wild || exposed.iter().any(|one| one.eq_ignore_ascii_case(name)))
}

/// Whether a cache that has stored this response to `first` may reuse it for `other`:
/// <https://www.rfc-editor.org/rfc/rfc9111#name-calculating-cache-keys-with>.
pub(crate) fn may_be_reused(fields: &Fields, first: &SentRequest, other: &SentRequest) -> bool {
    let vary = get(fields, "vary").unwrap_or_default().to_ascii_lowercase();
    let mut names = vary.split(',').map(str::trim).filter(|name| !name.is_empty());
    first.method == other.method && names.all(|name| name != "*" && first.field(name) == other.field(name))
}

/// Joins all lines of a field: <https://fetch.spec.whatwg.org/#concept-header-list-get>.
fn get(fields: &Fields, name: &str) -> Option<String> {
    let lines: Vec<&str> = fields.iter().filter(|(one, _)| one == name).map(|(_, value)| value.as_str()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// Splits a field into its tokens: <https://fetch.spec.whatwg.org/#extract-header-list-values>.
/// Returns `None` if one of them is not a token.
fn tokens(fields: &Fields, name: &str) -> Option<Vec<String>> {
    let joined = get(fields, name).unwrap_or_default();
    let elements: Vec<String> =
        joined.split(',').map(|element| element.trim().to_owned()).filter(|element| !element.is_empty()).collect();
    let is_token =
        |text: &String| text.chars().all(|char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char));
    elements.iter().all(is_token).then_some(elements)
}
