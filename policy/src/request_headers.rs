//! The walk over `Access-Control-Request-Headers`.
//!
//! Browsers send one sorted, lower-case, comma-separated line. Command lines and proxies add spaces, empty elements, more lines
//! and another order, which the list syntax allows, so all of that passes, within limits. The walk allocates nothing and
//! ends at the first fault; the limits hold over all lines together, since several lines are one list.

use std::ops::ControlFlow;

use crate::names::{NON_WILDCARD_REQUEST_HEADER, Names, is_token};
use crate::request::FieldLines;

/// The most bytes, over all lines: far more than a page's own headers have names for.
const BYTES_MAX: usize = 4096;

/// The most names.
const NAMES_MAX: usize = 64;

/// The most elements without a name: <https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1.2> asks for "a reasonable number".
const EMPTY_ELEMENTS_MAX: usize = 16;

/// The most white space in one element, before and after its name.
const WHITE_SPACE_MAX: usize = 8;

/// Which request headers a preflight may ask for.
#[derive(Debug, Clone)]
pub(crate) enum AllowedHeaders {
    /// Every name.
    All,
    /// Every name but `authorization`, which a bare `*` does not cover.
    AllButAuthorization,
    /// These, in lower case.
    Only(Names),
}

impl AllowedHeaders {
    fn covers(&self, name: &[u8]) -> bool {
        match self {
            Self::All => is_token(name),
            Self::AllButAuthorization => {
                is_token(name) && !name.eq_ignore_ascii_case(NON_WILDCARD_REQUEST_HEADER.as_bytes())
            }
            // What equals a listed name is a name, as that one is.
            Self::Only(names) => names.contains_in_any_case(name),
        }
    }
}

/// Why a preflight's request headers are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault<'a> {
    /// This is not allowed, or is no header name at all.
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

/// Walks all lines; the first fault ends the walk.
pub(crate) fn check<'a>(lines: &'a dyn FieldLines, allowed: &AllowedHeaders) -> Result<(), Fault<'a>> {
    let mut budget = Budget { bytes: BYTES_MAX, names: NAMES_MAX, empty_elements: EMPTY_ELEMENTS_MAX };
    let mut outcome = Ok(());
    let _ = lines.try_each(&mut |line| {
        outcome = budget.check_line(line, allowed);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    outcome
}

/// Whether a line names anything: one that does not is not worth quoting.
pub(crate) fn has_name(line: &[u8]) -> bool {
    line.iter().any(|byte| !matches!(byte, b',' | b' ' | b'\t'))
}

/// What is left of each limit.
struct Budget {
    bytes: usize,
    names: usize,
    empty_elements: usize,
}

impl Budget {
    fn check_line<'a>(&mut self, line: &'a [u8], allowed: &AllowedHeaders) -> Result<(), Fault<'a>> {
        spend(&mut self.bytes, line.len(), Fault::TooLong)?;
        line.split(|byte| *byte == b',').try_for_each(|element| self.check_element(element, allowed))
    }

    // https://fetch.spec.whatwg.org/#cors-preflight-fetch, read from the server's side.
    fn check_element<'a>(&mut self, element: &'a [u8], allowed: &AllowedHeaders) -> Result<(), Fault<'a>> {
        let name = trim(element);
        if element.len() - name.len() > WHITE_SPACE_MAX {
            return Err(Fault::TooMuchWhiteSpace);
        }
        if name.is_empty() {
            return spend(&mut self.empty_elements, 1, Fault::TooManyEmptyElements);
        }
        spend(&mut self.names, 1, Fault::TooManyNames)?;
        if allowed.covers(name) { Ok(()) } else { Err(Fault::Refused(name)) }
    }
}

fn spend<'a>(left: &mut usize, amount: usize, fault: Fault<'a>) -> Result<(), Fault<'a>> {
    *left = left.checked_sub(amount).ok_or(fault)?;
    Ok(())
}

/// Without optional white space at both ends: <https://www.rfc-editor.org/rfc/rfc9110#section-5.6.3>.
fn trim(mut element: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = element {
        element = rest;
    }
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(names: &[&str]) -> AllowedHeaders {
        AllowedHeaders::Only(Names::new(names.iter().map(|name| name.to_string())))
    }

    fn passes(lines: &[&str], allowed: &AllowedHeaders) -> bool {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        check(&lines, allowed).is_ok()
    }

    #[test]
    fn lists_pass_in_every_spelling() {
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
    fn each_limit_is_sharp() {
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
    fn authorization_is_apart() {
        assert!(passes(&["authorization"], &AllowedHeaders::All));
        assert!(!passes(&["x-req,Authorization"], &AllowedHeaders::AllButAuthorization));
        assert!(passes(&["x-req,authorization2"], &AllowedHeaders::AllButAuthorization));
    }
}
