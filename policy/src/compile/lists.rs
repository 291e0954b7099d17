//! Reads the configured lists of methods and header names into sets.
//!
//! Names that a browser never sends or never exposes are refused, with the Fetch standard's lists
//! ([`names`](crate::names)). Rendering the lists as header values is the job of the parent module.

use http::HeaderValue;

use crate::names::{
    CORS_PREFIX, FORBIDDEN_METHODS, FORBIDDEN_REQUEST_HEADER_PREFIXES, FORBIDDEN_REQUEST_HEADERS,
    FORBIDDEN_RESPONSE_HEADERS, NON_WILDCARD_REQUEST_HEADER, NORMALIZED_METHODS, NameSet, SAFELISTED_RESPONSE_HEADERS,
    is_token,
};
use crate::origin::pattern::quoted_message;
use crate::policy::AllowedMethods;
use crate::request_headers::AllowedHeaders;
use crate::spec::{CompileFindings, SpecLocation};

/// The most names in one list. Each response contains them.
const NAMES_MAX: usize = 256;

/// The longest name, in bytes.
const NAME_LEN_MAX: usize = 256;

/// A configured list: `*`, names, or both.
struct ConfiguredList {
    has_star: bool,
    names: NameSet,
}

/// A name in the spelling to keep, nothing if the name is superfluous, or the reason of its
/// refusal.
type NameResult = Result<Option<String>, String>;

pub(super) fn methods(list: &[String], findings: &mut CompileFindings) -> AllowedMethods {
    warn_about_case(list, findings);
    let list = read(list, SpecLocation::AllowMethods, read_method, findings);
    if list.has_star { AllowedMethods::All } else { AllowedMethods::Only(list.names) }
}

pub(super) fn request_headers(
    names: &[String],
    has_credentials: bool,
    findings: &mut CompileFindings,
) -> AllowedHeaders {
    let list = read(names, SpecLocation::AllowHeaders, read_request_header, findings);
    // https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name: `*` does not cover
    // `authorization`. With credentials `*` is never sent, so the policy's `*` means every name.
    match (list.has_star, has_credentials || list.names.contains(NON_WILDCARD_REQUEST_HEADER.as_bytes())) {
        (false, _) => AllowedHeaders::Only(list.names),
        (true, true) => AllowedHeaders::All,
        (true, false) => {
            let star = names.iter().position(|name| name == "*").unwrap_or_default();
            findings.warn(
                SpecLocation::AllowHeaders(star),
                "`authorization` is not covered by `*`, expected it to be listed as well if it is allowed",
            );
            AllowedHeaders::AllButAuthorization
        }
    }
}

pub(super) fn exposed(names: &[String], findings: &mut CompileFindings) -> Option<HeaderValue> {
    let list = read(names, SpecLocation::ExposeHeaders, read_response_header, findings);
    let text = if list.has_star { "*".to_owned() } else { list.names.joined() };
    HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
}

fn read(
    list: &[String],
    place: fn(usize) -> SpecLocation,
    read_one: fn(&str) -> NameResult,
    findings: &mut CompileFindings,
) -> ConfiguredList {
    let mut names = Vec::new();
    for (index, text) in list.iter().enumerate().take(NAMES_MAX).filter(|(_, text)| *text != "*") {
        match check_token(text).and_then(|()| read_one(text)) {
            Err(why) => findings.error(place(index), quoted_message(text, &why)),
            Ok(Some(name)) if names.contains(&name) => {
                findings.warn(place(index), quoted_message(text, "is listed twice, expected once"))
            }
            Ok(name) => names.extend(name),
        }
    }
    if list.len() > NAMES_MAX {
        findings.error(place(NAMES_MAX), format!("the list is too long, expected at most {NAMES_MAX} names"));
    }
    ConfiguredList { has_star: list.iter().any(|text| text == "*"), names: NameSet::new(names) }
}

fn check_token(text: &str) -> Result<(), String> {
    match text {
        "" => Err("is empty, expected a name".to_owned()),
        _ if text.len() > NAME_LEN_MAX => Err(format!("is too long, expected at most {NAME_LEN_MAX} bytes")),
        _ if text.contains('*') => Err("has a star in it, expected a whole name, or `*` alone".to_owned()),
        _ if !is_token(text.as_bytes()) => Err("is not a name, expected letters, digits and `-`".to_owned()),
        _ => Ok(()),
    }
}

// https://fetch.spec.whatwg.org/#methods: forbidden methods, and normalization of the method name.
fn read_method(text: &str) -> NameResult {
    let upper = text.to_ascii_uppercase();
    if FORBIDDEN_METHODS.contains(&upper.as_str()) {
        return Err("is a method that browsers never send, expected another method".to_owned());
    }
    Ok(Some(if NORMALIZED_METHODS.contains(&upper.as_str()) { upper } else { text.to_owned() }))
}

// https://fetch.spec.whatwg.org/#concept-method-normalize: a browser upper-cases six methods and
// sends all others as the page wrote them, so `patch` is not `PATCH`.
fn warn_about_case(list: &[String], findings: &mut CompileFindings) {
    for (index, text) in list.iter().enumerate() {
        let upper = text.to_ascii_uppercase();
        if *text != upper && !NORMALIZED_METHODS.contains(&upper.as_str()) {
            findings.warn(
                SpecLocation::AllowMethods(index),
                quoted_message(text, &format!("is case-sensitive, as in browsers, expected `{upper}`")),
            );
        }
    }
}

fn read_request_header(text: &str) -> NameResult {
    let lower = text.to_ascii_lowercase();
    let has_prefix = |prefix: &&str| lower.starts_with(prefix);
    if lower.starts_with(CORS_PREFIX) {
        return Err("is a field of the CORS protocol itself, expected a header that a page sets".to_owned());
    }
    if FORBIDDEN_REQUEST_HEADERS.contains(&lower.as_str()) || FORBIDDEN_REQUEST_HEADER_PREFIXES.iter().any(has_prefix) {
        return Err("is a header that pages cannot set, expected one that a page sets".to_owned());
    }
    Ok(Some(lower))
}

fn read_response_header(text: &str) -> NameResult {
    let lower = text.to_ascii_lowercase();
    if FORBIDDEN_RESPONSE_HEADERS.contains(&lower.as_str()) {
        return Err("is a header that pages cannot read, expected one that a page reads".to_owned());
    }
    if lower.starts_with(CORS_PREFIX) {
        return Err("is a field of the CORS protocol itself, expected a header of the response".to_owned());
    }
    Ok((!SAFELISTED_RESPONSE_HEADERS.contains(&lower.as_str())).then_some(lower))
}
