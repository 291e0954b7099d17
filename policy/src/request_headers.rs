//! Checks `Access-Control-Request-Headers` against the allowed headers.
//!
//! Browsers send one sorted, lower-case, comma-separated line. Command-line clients and proxies
//! send spaces, empty elements, several lines and any order. The list syntax (RFC 9110, section
//! 5.6.1) allows this, so it is accepted within limits. The check allocates nothing and ends at the
//! first fault. The limits apply to all lines together, since several lines are one list.

use std::ops::ControlFlow;

use crate::names::{NON_WILDCARD_REQUEST_HEADER, NameSet, is_token};
use crate::request::FieldLines;

/// The most bytes in all lines: many times the length of the names that pages use.
const BYTES_MAX: usize = 4096;

/// The most names in all lines.
const NAMES_MAX: usize = 64;

/// The most empty elements in all lines. RFC 9110, section 5.6.1.2, requires recipients to accept
/// "a reasonable number".
const EMPTY_ELEMENTS_MAX: usize = 16;

/// The most white space in one element, before and after its name, in bytes.
const WHITE_SPACE_MAX: usize = 8;

/// The request headers that a preflight may request.
#[derive(Debug, Clone)]
pub(crate) enum AllowedHeaders {
    /// Every name.
    All,
    /// Every name except `authorization`, which `*` does not cover:
    /// <https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name>.
    AllButAuthorization,
    /// The listed names, in lower case.
    Only(NameSet),
}

impl AllowedHeaders {
    pub(crate) fn covers(&self, name: &[u8]) -> bool {
        match self {
            Self::All => is_token(name),
            Self::AllButAuthorization => {
                is_token(name) && !name.eq_ignore_ascii_case(NON_WILDCARD_REQUEST_HEADER.as_bytes())
            }
            // Listed names are tokens, so equal bytes are a token too.
            Self::Only(names) => names.contains_in_any_case(name),
        }
    }
}

/// The reason why the request headers of a preflight are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestHeadersFault<'a> {
    /// The element is not allowed, or is not a header name.
    Refused(&'a [u8]),
    /// The lines are longer than [`BYTES_MAX`].
    TooLong,
    /// More than [`NAMES_MAX`] names.
    TooManyNames,
    /// More than [`EMPTY_ELEMENTS_MAX`] empty elements.
    TooManyEmptyElements,
    /// More than [`WHITE_SPACE_MAX`] bytes of white space around a name.
    TooMuchWhiteSpace,
}

/// Checks all lines and returns the first fault.
pub(crate) fn check<'a>(lines: &'a dyn FieldLines, allowed: &AllowedHeaders) -> Result<(), RequestHeadersFault<'a>> {
    let mut budget = ScanBudget { bytes: BYTES_MAX, names: NAMES_MAX, empty_elements: EMPTY_ELEMENTS_MAX };
    let mut outcome = Ok(());
    let _ = lines.try_each(&mut |line| {
        outcome = budget.check_line(line, allowed);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    outcome
}

/// Whether a line has at least one name.
pub(crate) fn has_name(line: &[u8]) -> bool {
    line.iter().any(|byte| !matches!(byte, b',' | b' ' | b'\t'))
}

/// The rest of each limit.
struct ScanBudget {
    bytes: usize,
    names: usize,
    empty_elements: usize,
}

impl ScanBudget {
    fn check_line<'a>(&mut self, line: &'a [u8], allowed: &AllowedHeaders) -> Result<(), RequestHeadersFault<'a>> {
        spend(&mut self.bytes, line.len(), RequestHeadersFault::TooLong)?;
        line.split(|byte| *byte == b',').try_for_each(|element| self.check_element(element, allowed))
    }

    // https://fetch.spec.whatwg.org/#cors-preflight-fetch, from the server's side.
    fn check_element<'a>(
        &mut self,
        element: &'a [u8],
        allowed: &AllowedHeaders,
    ) -> Result<(), RequestHeadersFault<'a>> {
        let name = trim(element);
        if element.len() - name.len() > WHITE_SPACE_MAX {
            return Err(RequestHeadersFault::TooMuchWhiteSpace);
        }
        if name.is_empty() {
            return spend(&mut self.empty_elements, 1, RequestHeadersFault::TooManyEmptyElements);
        }
        spend(&mut self.names, 1, RequestHeadersFault::TooManyNames)?;
        if allowed.covers(name) { Ok(()) } else { Err(RequestHeadersFault::Refused(name)) }
    }
}

fn spend<'a>(left: &mut usize, amount: usize, fault: RequestHeadersFault<'a>) -> Result<(), RequestHeadersFault<'a>> {
    *left = left.checked_sub(amount).ok_or(fault)?;
    Ok(())
}

/// Removes optional white space at both ends:
/// <https://www.rfc-editor.org/rfc/rfc9110#section-5.6.3>.
pub(crate) fn trim(mut element: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = element {
        element = rest;
    }
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(names: &[&str]) -> AllowedHeaders {
        AllowedHeaders::Only(NameSet::new(names.iter().map(|name| name.to_string())))
    }

    fn passes(lines: &[&str], allowed: &AllowedHeaders) -> bool {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        check(&lines, allowed).is_ok()
    }

    #[test]
    fn header_lists_pass_in_every_allowed_syntax() {
        let allowed = only(&["authorization", "x-req"]);
        for lines in [
            &["authorization,x-req"][..],
            &["X-REQ , Authorization"],
            &["x-req", "authorization"],
            &["", "x-req"],
            &[",,x-req,,"],
            &["    x-req    "],
            &[],
        ] {
            assert!(passes(lines, &allowed), "{lines:?}");
        }
        for lines in [
            &["x-other"][..],
            &["x-req", "x-other"],
            &["x-req;authorization"],
            &["x req"],
            &["x-req\u{b}"],
            &["     x-req    "],
        ] {
            assert!(!passes(lines, &allowed), "{lines:?}");
        }
    }

    #[test]
    fn requested_headers_over_a_limit_are_refused() {
        let allowed = AllowedHeaders::All;
        let names = |count: usize| vec!["x"; count].join(",");
        assert!(passes(&[&names(64)], &allowed) && !passes(&[&names(65)], &allowed));
        assert!(passes(&[&names(32), &names(32)], &allowed) && !passes(&[&names(32), &names(33)], &allowed));
        let commas = |count: usize| ",".repeat(count);
        assert!(passes(&[&commas(15)], &allowed) && !passes(&[&commas(16)], &allowed));
        assert!(passes(&[""; 16], &allowed) && !passes(&[""; 17], &allowed));
        let long = |len: usize| "x".repeat(len);
        assert!(passes(&[&long(4096)], &allowed) && !passes(&[&long(4097)], &allowed));
    }

    #[test]
    fn bare_star_does_not_cover_authorization() {
        assert!(passes(&["authorization"], &AllowedHeaders::All));
        assert!(!passes(&["x-req,Authorization"], &AllowedHeaders::AllButAuthorization));
        assert!(passes(&["x-req,authorization2"], &AllowedHeaders::AllButAuthorization));
    }
}
