//! Refuses entries that are well-formed but dangerous with credentials, and warns about doubtful
//! ones.
//!
//! With credentials, a page of an allowed origin acts as the user. Plain `http` gives this power to
//! any attacker on the network path, a star under a public suffix to every customer of the
//! provider. Each refusal has its own `dangerously..` switch.

use super::host;
use super::parse::{Origin, parse};
use super::pattern::{OriginEntry, OriginPattern, PatternShape};
use super::suffix;
use crate::origin::scheme::Scheme;
use crate::spec::DangerousSwitches;

/// The parts of a policy that restrict its entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryRestrictions {
    pub(crate) credentials: bool,
    pub(crate) dangerously: DangerousSwitches,
}

/// The reason why an origin is refused with credentials, even if an entry covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CredentialExclusion {
    /// Plain `http` on a host other than loopback.
    Insecure,
    /// An origin of local files.
    LocalFile,
}

/// The fewest literal characters in a starred label without a warning. Attackers can easily
/// register a name that matches fewer.
const LITERAL_LEN_MIN: usize = 4;

impl EntryRestrictions {
    /// Returns the message that refuses the entry.
    pub(crate) fn refusal(&self, entry: &OriginEntry<'_>) -> Option<&'static str> {
        match entry {
            // https://fetch.spec.whatwg.org/#cors-protocol-and-credentials: browsers refuse `*`
            // with credentials, and a reflected origin instead would let every site act as the
            // user.
            OriginEntry::Any => {
                self.credentials.then_some("cannot be combined with credentials, expected the origins themselves")
            }
            OriginEntry::Null => self.null_refusal(),
            OriginEntry::Exact(text) => parse(text.as_bytes()).ok().and_then(|origin| self.exact_refusal(&origin)),
            OriginEntry::Extensions(_) => self.extension_refusal(),
            OriginEntry::Starred(pattern) => {
                // Browsers treat loopback as a secure context even over plain `http`.
                let is_insecure = pattern.scheme() == Scheme::Http && !host::is_loopback(pattern.host().as_bytes());
                self.insecure_refusal(is_insecure).or_else(|| self.suffix_refusal(pattern))
            }
        }
    }

    /// Returns the warning about the entry.
    pub(crate) fn warning(&self, entry: &OriginEntry<'_>) -> Option<&'static str> {
        let OriginEntry::Starred(pattern) = entry else { return None };
        if !self.credentials && is_under_public_suffix(pattern) {
            return Some(
                "has a star directly under a public suffix, where anyone can register a name, expected your own domain",
            );
        }
        if self.credentials && is_under_parent_of_suffixes(pattern) {
            return Some(
                "covers names under public suffixes, where anyone can register one, with credentials, expected your own domain",
            );
        }
        let (before, after) = pattern.literals();
        let is_short =
            matches!(pattern.shape(), PatternShape::InLabel { .. }) && before.len() + after.len() < LITERAL_LEN_MIN;
        is_short.then_some("has fewer than 4 literal characters in its starred label, expected more, so that few names match by chance")
    }

    /// Whether credentials exclude this origin, even if an entry covers it.
    pub(crate) fn excludes(&self, origin: &Origin<'_>) -> bool {
        self.exclusion(origin).is_some()
    }

    /// Returns the reason why credentials exclude this origin.
    pub(crate) fn exclusion(&self, origin: &Origin<'_>) -> Option<CredentialExclusion> {
        let is_insecure = !self.dangerously.allow_insecure_origins && self.is_insecure(origin);
        let is_local_file = !self.dangerously.allow_local_file_origins && origin.is_local_file();
        match () {
            () if !self.credentials => None,
            () if is_insecure => Some(CredentialExclusion::Insecure),
            () if is_local_file => Some(CredentialExclusion::LocalFile),
            () => None,
        }
    }

    fn is_insecure(&self, origin: &Origin<'_>) -> bool {
        origin.web_scheme() == Some(Scheme::Http) && !host::is_loopback(origin.host)
    }

    fn null_refusal(&self) -> Option<&'static str> {
        // Any site can send `null` from a sandboxed frame.
        if self.credentials {
            return Some("cannot be combined with credentials, expected the origins themselves");
        }
        let is_allowed = self.dangerously.allow_null;
        (!is_allowed)
            .then_some("is sent by every sandboxed frame, expected an origin, or `dangerouslyAllowNull` as well")
    }

    fn exact_refusal(&self, origin: &Origin<'_>) -> Option<&'static str> {
        self.exclusion(origin).map(|exclusion| match exclusion {
            CredentialExclusion::Insecure => INSECURE,
            CredentialExclusion::LocalFile => LOCAL_FILE,
        })
    }

    fn extension_refusal(&self) -> Option<&'static str> {
        let is_refused = self.credentials && !self.dangerously.allow_any_extension;
        is_refused.then_some(
            "allows every extension with credentials, expected the origins themselves, or `dangerouslyAllowAnyExtension` \
             as well",
        )
    }

    fn insecure_refusal(&self, is_insecure: bool) -> Option<&'static str> {
        let is_refused = self.credentials && !self.dangerously.allow_insecure_origins && is_insecure;
        is_refused.then_some(INSECURE)
    }

    fn suffix_refusal(&self, pattern: &OriginPattern) -> Option<&'static str> {
        let is_refused = self.credentials && !self.dangerously.allow_public_suffixes && is_under_public_suffix(pattern);
        is_refused.then_some(
            "has a star directly under a public suffix, where anyone can register a name, with credentials, expected your own domain, \
             or `dangerouslyAllowPublicSuffixes` as well",
        )
    }
}

const INSECURE: &str =
    "is plain `http` with credentials, expected `https`, a loopback host, or `dangerouslyAllowInsecureOrigins` as well";
const LOCAL_FILE: &str = "is the origin of every application with local pages, with credentials, expected an `https` origin, or \
     `dangerouslyAllowLocalFileOrigins` as well";

fn is_under_public_suffix(pattern: &OriginPattern) -> bool {
    match pattern.shape() {
        PatternShape::Whole => false,
        PatternShape::Subdomains | PatternShape::InLabel { .. } => suffix::is_open(pattern.host()),
    }
}

/// Whether the pattern covers subdomains that are public suffixes, such as `s3.amazonaws.com`.
fn is_under_parent_of_suffixes(pattern: &OriginPattern) -> bool {
    match pattern.shape() {
        PatternShape::Whole | PatternShape::InLabel { .. } => false,
        PatternShape::Subdomains => suffix::below(pattern.host()).next().is_some(),
    }
}
