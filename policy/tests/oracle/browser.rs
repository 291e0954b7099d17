//! A browser in a function: the client's side of <https://fetch.spec.whatwg.org/#cors-check> and
//! <https://fetch.spec.whatwg.org/#cors-preflight-fetch>, slow and plain, to ask what a page can do with an answer.

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

impl Wish {
    /// The value of `Access-Control-Request-Headers`, as browsers write it; none without unsafe headers.
    pub(crate) fn requested_headers(&self) -> Option<String> {
        let mut names: Vec<String> = self.headers.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        (!names.is_empty()).then(|| names.join(","))
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
    let methods = list(fields, "access-control-allow-methods");
    let headers = list(fields, "access-control-allow-headers");
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
    let exposed = list(fields, "access-control-expose-headers");
    let is_wild = !wish.with_credentials && exposed.iter().any(|one| one == "*");
    passes_check(wish, fields) && (is_wild || exposed.iter().any(|one| one.eq_ignore_ascii_case(name)))
}

/// <https://fetch.spec.whatwg.org/#concept-header-list-get>: all lines, joined.
fn get(fields: &Fields, name: &str) -> Option<String> {
    let lines: Vec<&str> = fields.iter().filter(|(one, _)| one == name).map(|(_, value)| value.as_str()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn list(fields: &Fields, name: &str) -> Vec<String> {
    let joined = get(fields, name).unwrap_or_default();
    joined.split(',').map(|element| element.trim().to_owned()).filter(|element| !element.is_empty()).collect()
}
