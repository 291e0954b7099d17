//! Report mode's comparison: what enforcing a policy would change for the browser, against what the
//! upstream says today.

use crossgate_policy::{Outcome, Reason, RequestField, RequestKind};
use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;

use crate::judge::PolicyMatch;
use crate::metrics::Change;
use crossgate_message::fields::{HeaderFields, KnownHeaders};

/// Compares a policy that only reports with what the upstream says itself, and counts where they
/// differ.
pub(super) fn compare(judged: &PolicyMatch<'_>, fields: HeaderFields<'_>, request: &KnownHeaders<'_>) {
    let RequestField::One(origin) = request.origin else { return };
    let Some(allows) = upstream_allows(fields, judged.verdict.kind, origin) else { return };
    let any = judged.verdict.reason == Reason::Any;
    let change = match (judged.verdict.outcome, allows) {
        (Outcome::Allow, UpstreamAllow::No) => Some(Change::NewlyAllowed),
        (Outcome::Deny, UpstreamAllow::Origin | UpstreamAllow::Any) => Some(Change::NewlyDenied),
        (Outcome::Allow, UpstreamAllow::Origin) if any => Some(Change::OtherValue),
        (Outcome::Allow, UpstreamAllow::Any) if !any => Some(Change::OtherValue),
        (Outcome::Allow, UpstreamAllow::Origin | UpstreamAllow::Any) | (Outcome::Deny, UpstreamAllow::No) => None,
    };
    if let Some(change) = change {
        judged.tenant.counters.count_disagreement(change);
    }
}

/// Whether the upstream's own `Access-Control-Allow-Origin` would let the request's origin read its
/// answer.
fn upstream_allows(fields: HeaderFields<'_>, kind: RequestKind, origin: &[u8]) -> Option<UpstreamAllow> {
    if matches!(kind, RequestKind::NonCors | RequestKind::SameOrigin) {
        return None;
    }
    let mut values = fields.lines(&ACCESS_CONTROL_ALLOW_ORIGIN);
    Some(match (values.next(), values.next()) {
        (Some(value), None) if value == origin => UpstreamAllow::Origin,
        (Some(b"*"), None) => UpstreamAllow::Any,
        _ => UpstreamAllow::No,
    })
}

/// What an upstream's own answer lets the origin do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamAllow {
    /// Not read it.
    No,
    /// Read it, by name.
    Origin,
    /// Read it, because of `*`.
    Any,
}
