//! A browser in a function: the client's side of <https://fetch.spec.whatwg.org/#cors-check> and
//! <https://fetch.spec.whatwg.org/#cors-preflight-fetch>, slow and plain, to ask what a page can do with an answer; and
//! what a cache between the two would do with it.

/// The response fields as a browser gets them, names in lower case.
pub(crate) type Fields = Vec<(String, String)>;

/// What a page wants to do.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) origin: String,
    pub(crate) method: String,
    /// The unsafe request headers, as the page names them.
    pub(crate) headers: Vec<String>,
    /// Whether the request's credentials mode is `include`.
    pub(crate) with_credentials: bool,
}

/// What of a request matters to CORS.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) origin: Option<String>,
    pub(crate) requested_method: Option<String>,
    pub(crate) requested_headers: Option<String>,
}

impl Wish {
    /// The request itself.
    pub(crate) fn actual(&self) -> Asked {
        Asked { origin: Some(self.origin.clone()), ..Asked::plain(&self.method) }
    }

    /// What is sent before it, where something is.
    pub(crate) fn preflight(&self) -> Asked {
        Asked {
            method: "OPTIONS".to_owned(),
            requested_method: Some(self.method.clone()),
            requested_headers: self.requested_headers(),
            ..self.actual()
        }
    }

    /// The value of `Access-Control-Request-Headers`, as browsers write it; none without unsafe headers.
    fn requested_headers(&self) -> Option<String> {
        let mut names: Vec<String> = self.headers.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        (!names.is_empty()).then(|| names.join(","))
    }
}

impl Asked {
    /// A request that has nothing to do with CORS.
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

/// The CORS check of any response.
pub(crate) fn passes_check(wish: &Wish, fields: &Fields) -> bool {
    let Some(allowed) = get(fields, "access-control-allow-origin") else { return false };
    if !wish.with_credentials && allowed == "*" {
        return true;
    }
    allowed == wish.origin
        && (!wish.with_credentials || get(fields, "access-control-allow-credentials").as_deref() == Some("true"))
}

/// Whether the page's request follows after this answer to its preflight.
pub(crate) fn goes_on(wish: &Wish, status: u16, fields: &Fields) -> bool {
    let methods = tokens(fields, "access-control-allow-methods");
    let headers = tokens(fields, "access-control-allow-headers");
    let (Some(methods), Some(headers)) = (methods, headers) else { return false };
    let has = |list: &[String], name: &str| list.iter().any(|one| one == name);
    let is_wild = |list: &[String]| !wish.with_credentials && has(list, "*");
    let is_method =
        has(&methods, &wish.method) || ["GET", "HEAD", "POST"].contains(&wish.method.as_str()) || is_wild(&methods);
    let is_listed = |name: &String| headers.iter().any(|one| one.eq_ignore_ascii_case(name));
    let is_header =
        |name: &String| is_listed(name) || (is_wild(&headers) && !name.eq_ignore_ascii_case("authorization"));
    passes_check(wish, fields) && (200..300).contains(&status) && is_method && wish.headers.iter().all(is_header)
}

/// Whether a page may read this response header.
pub(crate) fn can_read(wish: &Wish, name: &str, fields: &Fields) -> bool {
    let exposed = tokens(fields, "access-control-expose-headers").unwrap_or_default();
    let is_wild = !wish.with_credentials && exposed.iter().any(|one| one == "*");
    passes_check(wish, fields) && (is_wild || exposed.iter().any(|one| one.eq_ignore_ascii_case(name)))
}

/// Whether a cache that has kept this answer to `first` may give it to `other` too:
/// <https://www.rfc-editor.org/rfc/rfc9111#name-calculating-cache-keys-with>.
pub(crate) fn may_be_reused(fields: &Fields, first: &Asked, other: &Asked) -> bool {
    let vary = get(fields, "vary").unwrap_or_default().to_ascii_lowercase();
    let mut names = vary.split(',').map(str::trim).filter(|name| !name.is_empty());
    first.method == other.method && names.all(|name| name != "*" && first.field(name) == other.field(name))
}

/// <https://fetch.spec.whatwg.org/#concept-header-list-get>: all lines, joined.
fn get(fields: &Fields, name: &str) -> Option<String> {
    let lines: Vec<&str> = fields.iter().filter(|(one, _)| one == name).map(|(_, value)| value.as_str()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// <https://fetch.spec.whatwg.org/#extract-header-list-values>: nothing where one of them is no token.
fn tokens(fields: &Fields, name: &str) -> Option<Vec<String>> {
    let joined = get(fields, name).unwrap_or_default();
    let elements: Vec<String> =
        joined.split(',').map(|element| element.trim().to_owned()).filter(|element| !element.is_empty()).collect();
    let is_token =
        |text: &String| text.chars().all(|char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char));
    elements.iter().all(is_token).then_some(elements)
}
