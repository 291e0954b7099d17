//! The browser page, which explains a denial. HTML made here, without any script.
//!
//! One form takes two URLs, the other a request id. Both lead back to this page with the
//! explanation of `/explain`. Absent on purpose: any way to change something, and any unescaped
//! text of a request.

use std::fmt::Write as _;

use http::StatusCode;

use super::AdminState;
use super::answer::AdminResponse;
use super::explain_query::decode;
use crate::html::EscapedHtml;
use crate::probe::{DescriptionError, RequestDescription};

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}\
form{border:1px solid #bbb;border-radius:.4rem;padding:.2rem 1rem 1rem;margin:1rem 0}\
label{display:block;margin:.8rem 0 .2rem}input{width:100%;box-sizing:border-box;font:inherit;padding:.35rem}\
button{font:inherit;margin-top:1rem;padding:.35rem 1.2rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}\
th{font-weight:600;white-space:nowrap}td{font-family:ui-monospace,monospace;font-size:.9rem;overflow-wrap:anywhere}\
tr.verdict td{font-weight:700}.error{border-left:.3rem solid #b00020;padding:.3rem .8rem;background:#fbeaec}";
/// The hash of [`STYLE`], the only style that the `Content-Security-Policy` allows.
const STYLE_HASH: &str = "sha256-fNV6H07X5ULHD/ki1bFYSiSe1B8dWGrBYzaaETqHpTk=";

/// The width of the name column in an explanation's text.
const NAME_LEN: usize = 10;

/// The values of both forms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ExplainForm {
    page_url: String,
    url: String,
    method: String,
    request_headers: String,
    request_id: String,
}

impl ExplainForm {
    /// Reads the forms' fields from a query. An empty field counts as absent; of repeated fields
    /// the last one counts.
    pub(super) fn from_query(query: &str) -> Self {
        let mut form = ExplainForm::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "page-url" => &mut form.page_url,
                "url" => &mut form.url,
                "method" => &mut form.method,
                "request-headers" => &mut form.request_headers,
                "request-id" => &mut form.request_id,
                _ => continue,
            };
            *slot = decode(value).trim().to_owned();
        }
        form
    }

    fn is_empty(&self) -> bool {
        let ExplainForm { page_url, url, method: _, request_headers: _, request_id } = self;
        page_url.is_empty() && url.is_empty() && request_id.is_empty()
    }

    /// The requests that a browser would send, each with a title.
    fn requests(&self) -> Vec<(&'static str, RequestDescription)> {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone().into_bytes());
        let request = RequestDescription {
            url: Some(self.url.clone().into_bytes()),
            page_url: Some(self.page_url.clone().into_bytes()),
            method: given(&self.method),
            ..RequestDescription::default()
        };
        let mut requests = Vec::new();
        if self.needs_preflight() {
            let request_headers = Some(self.request_headers.clone().into_bytes());
            requests.push((
                "The preflight, which a browser sends first",
                RequestDescription { request_headers, ..request.clone() },
            ));
        }
        requests.push(("The request", request));
        requests
    }

    /// Methods that are not safelisted need a preflight
    /// (<https://fetch.spec.whatwg.org/#cors-safelisted-method>). WebSocket handshakes have none.
    fn needs_preflight(&self) -> bool {
        let is_safelisted = ["", "GET", "HEAD", "POST"].iter().any(|safe| self.method.eq_ignore_ascii_case(safe));
        let is_websocket = ["ws:", "wss:"]
            .iter()
            .any(|scheme| self.url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
        !is_websocket && (!is_safelisted || !self.request_headers.is_empty())
    }
}

/// The page, with the explanation of the requested case.
pub(super) fn answer(form: &ExplainForm, state: &AdminState) -> AdminResponse {
    let (status, result) = match result(form, state) {
        Ok(result) => (StatusCode::OK, result),
        Err((status, detail)) => (status, error(&detail)),
    };
    let body = format!("<h1>Why is my origin denied?</h1>{result}{}", forms(form));
    html(status, &body, "no-referrer")
}

fn result(form: &ExplainForm, state: &AdminState) -> Result<String, (StatusCode, String)> {
    if form.is_empty() {
        return Ok(String::new());
    }
    if !form.request_id.is_empty() {
        let explained = state.control.explain_denial(&form.request_id);
        let explained = explained.map_err(|detail| (StatusCode::NOT_FOUND, detail))?;
        return Ok(section("The recorded request", &explained.text));
    }
    let mut html = String::new();
    for (title, request) in form.requests() {
        let probe = request.into_request().map_err(|error| (StatusCode::BAD_REQUEST, page_error(&error)))?;
        html += &section(title, &state.control.explain(&probe).text);
    }
    Ok(html)
}

/// Rewrites an error with the labels of the page's form.
fn page_error(error: &DescriptionError) -> String {
    let label = |name: &str| match name {
        "url" => Some("the URL of the API"),
        "page-url" => Some("the URL of the page"),
        _ => None,
    };
    if let DescriptionError::Mistaken { name, expected, .. } = error
        && let Some(label) = label(name)
    {
        return format!("{label}: write {expected}");
    }
    error.to_string()
}

fn section(title: &str, text: &str) -> String {
    let mut html = format!("<h2>{title}</h2><table>");
    for line in text.lines() {
        let (name, value) = line.split_at_checked(NAME_LEN).unwrap_or(("", line));
        let name = name.trim();
        let class = if name == "verdict" { " class=\"verdict\"" } else { "" };
        let (name, value) = (EscapedHtml(name), EscapedHtml(value.trim_start()));
        // Writing to a string cannot fail.
        let _written = write!(html, "<tr{class}><th scope=\"row\">{name}</th><td>{value}</td></tr>");
    }
    html + "</table>"
}

fn error(detail: &str) -> String {
    format!("<p class=\"error\" role=\"alert\">{}</p>", EscapedHtml(detail))
}

fn forms(form: &ExplainForm) -> String {
    let ExplainForm { page_url, url, method, request_headers, request_id } = form;
    let input = |name: &str, label: &str, hint: &str, value: &str| {
        format!(
            "<label for=\"{name}\">{label}</label>\
             <input id=\"{name}\" name=\"{name}\" value=\"{}\" placeholder=\"{hint}\" autocomplete=\"off\" spellcheck=\"false\">",
            EscapedHtml(value)
        )
    };
    let urls = [
        input("page-url", "URL of the page that sends the request", "https://app.example.com/orders", page_url),
        input("url", "URL of the API", "https://api.example.com/orders", url),
        input("method", "Method (GET if empty)", "PUT", method),
        input(
            "request-headers",
            "Names of the headers that the page sets, separated by commas",
            "content-type, authorization",
            request_headers,
        ),
    ];
    let id =
        input("request-id", "X-Request-Id of the denied answer, from the browser's developer tools", "", request_id);
    format!(
        "<h2>By URL</h2><form action=\"/\" method=\"get\">{}<button>Explain</button></form>\
         <h2>By request id</h2><form action=\"/\" method=\"get\">{id}<button>Find</button></form>",
        urls.concat()
    )
}

/// The login form, which redirects to `next` after success.
pub(super) fn login(status: StatusCode, next: &str, detail: Option<&str>, arrival: BrowserArrival) -> AdminResponse {
    let next = EscapedHtml(if is_local(next) { next } else { "/" });
    let detail = detail.map(error).unwrap_or_default();
    // A browser omits a `SameSite=Strict` cookie on a link from another site, but sends it on this
    // link.
    let link = match arrival {
        BrowserArrival::FromOtherSite => {
            format!("<p>If you are logged in already, <a href=\"{next}\">continue</a>.</p>")
        }
        BrowserArrival::Direct => String::new(),
    };
    let body = format!(
        "<h1>Crossgate</h1>{detail}{link}<form action=\"/login\" method=\"post\">\
         <label for=\"token\">Token of admin.readTokenFile or admin.tokenFile</label>\
         <input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"off\" required>\
         <input name=\"next\" type=\"hidden\" value=\"{next}\"><button>Log in to read</button></form>"
    );
    // With `no-referrer`, browsers send `Origin: null` with the form. Over plain HTTP to another
    // machine they send no fetch metadata either, so this form would look like a form of another
    // site.
    html(status, &body, "same-origin").with_field("WWW-Authenticate", "Bearer")
}

/// The way by which a browser without a valid cookie reached the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BrowserArrival {
    /// By a link on another site.
    FromOtherSite,
    /// Any other way.
    Direct,
}

/// Whether a target is a path on this listener. `//host` and `/\host` would lead to another host.
pub(super) fn is_local(target: &str) -> bool {
    let is_absolute_path = target.starts_with('/') && !target.starts_with("//");
    is_absolute_path && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

fn html(status: StatusCode, body: &str, referrer_policy: &'static str) -> AdminResponse {
    let text = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Crossgate: why is my origin denied?</title>\
         <style>{STYLE}</style></head><body>{body}</body></html>"
    );
    let policy = format!(
        "default-src 'none'; style-src '{STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    AdminResponse::html(status, &text, &policy, referrer_policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;

    #[test]
    fn admin_page_csp_contains_the_style_hash() {
        let hash = TLS13_AES_128_GCM_SHA256.tls13().unwrap().common.hash_provider.hash(STYLE.as_bytes());
        let hash = base64::engine::general_purpose::STANDARD.encode(hash.as_ref());
        assert_eq!(STYLE_HASH, format!("sha256-{hash}"));
    }

    #[test]
    fn admin_page_escapes_request_text() {
        let evil = "\"'><script>alert(1)</script>&amp;";
        let form = ExplainForm { page_url: evil.into(), request_id: evil.into(), ..ExplainForm::default() };
        let whole = [
            forms(&form),
            section("title", &format!("cause      {evil}\n{evil}\n")),
            error(evil),
            String::from_utf8(
                login(StatusCode::OK, &format!("/?{evil}"), Some(evil), BrowserArrival::FromOtherSite).into_bytes(),
            )
            .unwrap(),
        ];
        for html in whole {
            assert!(!html.contains("<script") && !html.contains("\"'>"), "{html}");
            assert!(html.contains("&quot;&#39;&gt;&lt;script&gt;"), "{html}");
        }
    }

    #[test]
    fn admin_page_explains_the_preflight_if_a_browser_sends_one() {
        let titles = |query: &str| ExplainForm::from_query(query).requests().len();
        for query in ["url=https://a&page-url=https://b", "method=post", "method=head", "url=WSS%3A//a&method=PUT"] {
            assert_eq!(titles(query), 1, "{query}");
        }
        for query in ["method=PUT", "request-headers=content-type", "method=patch&url=https%3A%2F%2Fa"] {
            assert_eq!(titles(query), 2, "{query}");
        }
    }

    #[test]
    fn login_redirects_only_to_local_targets() {
        for target in ["/", "/?url=https%3A%2F%2Fa&x", "/explain?host=a", "/a//b"] {
            assert!(is_local(target), "{target}");
        }
        for target in ["", "//evil.test", "/\\evil.test", "https://evil.test", "/a\r\nSet-Cookie: x", "/a b", "/\u{e9}"]
        {
            assert!(!is_local(target), "{target}");
        }
    }
}
