//! Entries that are well-formed and unwise: what a policy refuses because of its credentials, and what it only doubts.
//!
//! With credentials, whoever can serve a page from an allowed origin acts as the user: plain `http` gives that to
//! everybody on the wire, a star over a public suffix to everybody with an account there. Each refusal has its
//! own `dangerously..` switch.

use super::host;
use super::parse::{Origin, parse};
use super::pattern::{Entry, Pattern, Shape};
use super::suffix;
use crate::request::Scheme;
use crate::spec::Dangerously;

/// What of a policy decides which entries it may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    pub(crate) credentials: bool,
    pub(crate) dangerously: Dangerously,
}

/// Fewer literal characters in a starred label than this are easily registered by somebody else.
const LITERAL_LEN_MIN: usize = 4;

impl Guard {
    /// Why the entry is refused.
    pub(crate) fn refusal(&self, entry: &Entry<'_>) -> Option<&'static str> {
        match entry {
            Entry::Any => {
                self.credentials.then_some("cannot be combined with credentials, expected the origins themselves")
            }
            Entry::Null => self.null_refusal(),
            Entry::Exact(text) => {
                parse(text.as_bytes()).ok().and_then(|origin| self.insecure_refusal(self.is_insecure(&origin)))
            }
            Entry::Starred(pattern) => {
                let is_insecure = pattern.scheme() == Scheme::Http && !host::is_loopback(pattern.host().as_bytes());
                self.insecure_refusal(is_insecure).or_else(|| self.suffix_refusal(pattern))
            }
        }
    }

    /// Why the entry is doubtful.
    pub(crate) fn doubt(&self, entry: &Entry<'_>) -> Option<&'static str> {
        let Entry::Starred(pattern) = entry else { return None };
        if !self.credentials && is_over_public_suffix(pattern) {
            return Some(
                "has a star directly over a public suffix, where anybody can register a name, expected your own domain",
            );
        }
        if self.credentials && is_over_parent_of_suffixes(pattern) {
            return Some(
                "covers names below public suffixes, where anybody can register one, with credentials, expected your own domain",
            );
        }
        let (before, after) = pattern.literals();
        let is_short = matches!(pattern.shape(), Shape::InLabel { .. }) && before.len() + after.len() < LITERAL_LEN_MIN;
        is_short.then_some("has fewer than 4 literal characters in its starred label, expected more, so that few names match by chance")
    }

    /// Whether credentials keep this origin out whatever matched it.
    pub(crate) fn keeps_out(&self, origin: &Origin<'_>) -> bool {
        self.credentials && !self.dangerously.allow_insecure_origins && self.is_insecure(origin)
    }

    fn is_insecure(&self, origin: &Origin<'_>) -> bool {
        origin.web_scheme() == Some(Scheme::Http) && !host::is_loopback(origin.host)
    }

    fn null_refusal(&self) -> Option<&'static str> {
        if self.credentials {
            return Some("cannot be combined with credentials, expected the origins themselves");
        }
        let is_allowed = self.dangerously.allow_null;
        (!is_allowed)
            .then_some("is sent by every sandboxed frame, expected an origin, or `dangerouslyAllowNull` as well")
    }

    fn insecure_refusal(&self, is_insecure: bool) -> Option<&'static str> {
        let is_refused = self.credentials && !self.dangerously.allow_insecure_origins && is_insecure;
        is_refused.then_some("is plain `http` with credentials, expected `https`, a loopback host, or `dangerouslyAllowInsecureOrigins` as well")
    }

    fn suffix_refusal(&self, pattern: &Pattern) -> Option<&'static str> {
        let is_refused = self.credentials && !self.dangerously.allow_public_suffixes && is_over_public_suffix(pattern);
        is_refused.then_some(
            "has a star directly over a public suffix, where anybody can register a name, with credentials, expected your own domain, \
             or `dangerouslyAllowPublicSuffixes` as well",
        )
    }
}

fn is_over_public_suffix(pattern: &Pattern) -> bool {
    match pattern.shape() {
        Shape::Whole => false,
        Shape::Subdomains | Shape::InLabel { .. } => suffix::is_open(pattern.host()),
    }
}

/// Whether public suffixes lie among the subdomains that the pattern covers.
fn is_over_parent_of_suffixes(pattern: &Pattern) -> bool {
    match pattern.shape() {
        Shape::Whole | Shape::InLabel { .. } => false,
        Shape::Subdomains => suffix::below(pattern.host()).next().is_some(),
    }
}
