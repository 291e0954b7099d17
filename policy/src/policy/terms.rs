//! The terms that an allowed origin gets: those of its policy, or of a group of the policy.

use super::AllowedMethods;
use crate::group::GroupId;
use crate::headers::RenderedHeaders;
use crate::names::{SAFELISTED_METHODS, is_token};
use crate::origin::risk::EntryRestrictions;
use crate::request::RequestField;
use crate::request_headers::AllowedHeaders;

/// What an allowed origin may request and read, and the fields that say so.
#[derive(Debug, Clone)]
pub(crate) struct OriginTerms {
    pub(crate) restrictions: EntryRestrictions,
    pub(crate) methods: AllowedMethods,
    pub(crate) headers: AllowedHeaders,
    pub(crate) rendered: RenderedHeaders,
}

/// A group of a policy.
#[derive(Debug, Clone)]
pub(crate) struct OriginGroup {
    pub(crate) name: Box<str>,
    pub(crate) terms: OriginTerms,
    /// Whether tenants may add origins to the group.
    pub(crate) is_open: bool,
}

/// All terms of a policy.
#[derive(Debug, Clone)]
pub(crate) struct TermsTable {
    /// The policy's own terms.
    pub(crate) base: OriginTerms,
    pub(crate) groups: Box<[OriginGroup]>,
}

impl TermsTable {
    /// Returns the terms of a group.
    #[inline]
    pub(crate) fn of(&self, group: GroupId) -> &OriginTerms {
        match self.group(group) {
            None => &self.base,
            Some(group) => &group.terms,
        }
    }

    /// Returns a group. `None` for the policy's own terms.
    #[inline]
    pub(crate) fn group(&self, group: GroupId) -> Option<&OriginGroup> {
        self.groups.get(group.index()?)
    }

    /// Returns the group with this name.
    pub(crate) fn named(&self, name: &str) -> Option<(GroupId, &OriginGroup)> {
        let index = self.groups.iter().position(|group| *group.name == *name)?;
        Some((GroupId::of_index(index), self.groups.get(index)?))
    }

    /// Returns all terms, the policy's own first.
    pub(crate) fn all(&self) -> impl Iterator<Item = (GroupId, &OriginTerms)> {
        let groups = self.groups.iter().enumerate().map(|(index, group)| (GroupId::of_index(index), &group.terms));
        std::iter::once((GroupId::BASE, &self.base)).chain(groups)
    }
}

impl OriginTerms {
    pub(crate) fn has_credentials(&self) -> bool {
        self.restrictions.credentials
    }

    // https://fetch.spec.whatwg.org/#cors-safelisted-method: a page that watches its upload sends a
    // preflight even for `POST`, so safelisted methods pass without being listed.
    pub(crate) fn allows_method(&self, field: RequestField<'_>) -> bool {
        let RequestField::One(method) = field else { return false };
        match &self.methods {
            _ if SAFELISTED_METHODS.iter().any(|safe| safe.as_bytes() == method) => true,
            AllowedMethods::All => is_token(method),
            AllowedMethods::Only(methods) => methods.contains(method),
        }
    }
}
