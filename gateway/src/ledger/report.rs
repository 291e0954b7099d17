//! What `/origins` asks of the ledger, and what it is told: the schema of the answer.
//!
//! Field names are stable: a field may be added, none changes its meaning. Texts are well-formed origins, or one of two names, so there is
//! nothing to escape beyond JSON's own.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::page::{Entry, Page};
use super::{Counts, Ledger};
use crate::metrics::VerdictLabel;

/// Origins that are told if nobody says how many, and at most.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 10_000;

/// Which origins somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// Of this tenant alone.
    pub tenant: Option<String>,
    /// Those with requests of such verdicts alone, most of these first.
    pub verdict: Option<Asked>,
    /// How many.
    pub limit: usize,
}

/// Verdicts, enforced or only reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Those that let through.
    Allow,
    /// Those that refuse.
    Deny,
}

/// Why a query asks for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginsError {
    /// A parameter that has no meaning here.
    #[error("unknown parameter `{0}`: accepted are tenant, verdict and limit")]
    UnknownParameter(String),
    /// A parameter that is there again.
    #[error("`{0}` is given twice")]
    Repeated(String),
    /// Neither of the two.
    #[error("verdict is `{0}`: allow and deny are accepted")]
    Verdict(String),
    /// No number, or too large a one.
    #[error("limit is `{0}`: a number from 1 to {LIMIT_MAX} is accepted")]
    Limit(String),
}

impl Origins {
    /// What the query of a URL asks for.
    ///
    /// # Errors
    /// If a parameter is unknown, given twice, or has no such value.
    pub fn from_query(query: &str) -> Result<Self, OriginsError> {
        let (mut tenant, mut verdict, mut limit) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "tenant" => &mut tenant,
                "verdict" => &mut verdict,
                "limit" => &mut limit,
                unknown => return Err(OriginsError::UnknownParameter(unknown.to_owned())),
            };
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            if slot.replace(value).is_some() {
                return Err(OriginsError::Repeated(name.to_owned()));
            }
        }
        let verdict = verdict.map(asked).transpose()?;
        Ok(Origins { tenant, verdict, limit: limit.map_or(Ok(LIMIT_DEFAULT), number)? })
    }
}

fn asked(text: String) -> Result<Asked, OriginsError> {
    match text.as_str() {
        "allow" => Ok(Asked::Allow),
        "deny" => Ok(Asked::Deny),
        _ => Err(OriginsError::Verdict(text)),
    }
}

fn number(text: String) -> Result<usize, OriginsError> {
    text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or(OriginsError::Limit(text))
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether anything is recorded.
    enabled: bool,
    /// Requests that were not recorded, as they came too fast: of all tenants.
    dropped: u64,
    /// Entries there are, of all tenants; how many there may be, and of one tenant.
    entries: usize,
    entries_max: usize,
    entries_max_per_tenant: usize,
    /// From here on, of the tenants that were asked for: since when their requests are recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Requests of origins whose entries were given up for others.
    forgotten: u64,
    /// Origins that the limit leaves out.
    left_out: usize,
    origins: Vec<ToldOrigin>,
}

/// One origin of one tenant.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ToldOrigin {
    tenant: Box<str>,
    /// As browsers send it; `null`, or `malformed` for everything that is no origin.
    origin: Box<str>,
    /// Requests since the origin was first seen, by verdict.
    allowed: u64,
    denied: u64,
    /// The same in report mode.
    would_allow: u64,
    would_deny: u64,
    /// So many more it may have sent before, at most, while it had no entry.
    error: u64,
    first_seen: String,
    last_seen: String,
    /// Why the last verdict was what it was: the reasons of the metrics.
    last_reason: &'static str,
}

/// What is told of these pages, each with its tenant's id.
pub fn report(ledger: &Ledger, pages: &[(Box<str>, Arc<Page>)], asked: &Origins) -> Report {
    let limits = ledger.limits();
    let mut told = Report {
        enabled: ledger.is_on(),
        dropped: ledger.dropped_since(),
        entries: ledger.entries(),
        entries_max: limits.origins,
        entries_max_per_tenant: limits.origins_per_tenant,
        since: None,
        forgotten: 0,
        left_out: 0,
        origins: Vec::new(),
    };
    let (mut found, mut since_s) = (Vec::new(), None);
    for (tenant, page) in pages {
        let reading = page.read();
        since_s = Some(since_s.unwrap_or(reading.since_s).min(reading.since_s));
        told.forgotten += reading.forgotten;
        let weighed = reading.entries.into_iter().map(|entry| (weight(&entry.counts, asked.verdict), tenant, entry));
        found.extend(weighed.filter(|(weight, ..)| *weight > 0));
    }
    found.sort_unstable_by(|(a, a_tenant, a_entry), (b, b_tenant, b_entry)| {
        b.cmp(a).then_with(|| (a_tenant, &a_entry.origin).cmp(&(b_tenant, &b_entry.origin)))
    });
    told.since = since_s.map(rfc3339);
    told.left_out = found.len().saturating_sub(asked.limit);
    told.origins = found.into_iter().take(asked.limit).map(|(_, tenant, entry)| told_origin(tenant, entry)).collect();
    told
}

/// Requests of the verdicts that were asked for.
fn weight(counts: &Counts, asked: Option<Asked>) -> u64 {
    let is_asked_for = |label: VerdictLabel| match asked {
        Some(Asked::Allow) => !label.is_denial(),
        Some(Asked::Deny) => label.is_denial(),
        None => true,
    };
    VerdictLabel::ALL.into_iter().zip(counts).filter(|(label, _)| is_asked_for(*label)).map(|(_, count)| count).sum()
}

fn told_origin(tenant: &str, entry: Entry) -> ToldOrigin {
    let Entry { origin, counts: [allowed, denied, would_allow, would_deny], error, .. } = entry;
    ToldOrigin {
        tenant: tenant.into(),
        origin,
        allowed,
        denied,
        would_allow,
        would_deny,
        error,
        first_seen: rfc3339(entry.first_seen_s),
        last_seen: rfc3339(entry.last_seen_s),
        last_reason: entry.last_reason.as_str(),
    }
}

fn rfc3339(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0));
    time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
