//! The answer of `/origins`: its query, and its JSON schema.
//!
//! Field names are stable: fields may be added, and none changes its meaning. Texts are well-formed
//! origins or one of two fixed names, so JSON's own escaping is enough.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::tenant_ledger::{LedgerEntry, TenantLedger};
use super::{Counts, Ledger};
use crate::metrics::VerdictLabel;

/// The default and the maximum number of origins in a report.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 10_000;

/// The query of a request for `/origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginsQuery {
    /// The tenant to report; all tenants if absent.
    pub tenant: Option<String>,
    /// Reports only origins with requests of these verdicts, most requests first.
    pub verdict: Option<VerdictFilter>,
    pub limit: usize,
}

/// Verdicts, in enforcing and in report mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictFilter {
    Allow,
    Deny,
}

/// The reason for rejecting a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginsError {
    #[error("unknown parameter `{0}`: expected tenant, verdict or limit")]
    UnknownParameter(String),
    #[error("duplicate parameter `{0}`")]
    Repeated(String),
    #[error("invalid verdict `{0}`: expected allow or deny")]
    Verdict(String),
    #[error("invalid limit `{0}`: expected a number from 1 to {LIMIT_MAX}")]
    Limit(String),
}

impl OriginsQuery {
    /// Parses the query of a URL.
    ///
    /// # Errors
    /// If a parameter is unknown, duplicate, or has an invalid value.
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
        let verdict = verdict.map(verdict_filter).transpose()?;
        Ok(OriginsQuery { tenant, verdict, limit: limit.map_or(Ok(LIMIT_DEFAULT), number)? })
    }
}

fn verdict_filter(text: String) -> Result<VerdictFilter, OriginsError> {
    match text.as_str() {
        "allow" => Ok(VerdictFilter::Allow),
        "deny" => Ok(VerdictFilter::Deny),
        _ => Err(OriginsError::Verdict(text)),
    }
}

fn number(text: String) -> Result<usize, OriginsError> {
    text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or(OriginsError::Limit(text))
}

/// The report on origins.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginsReport {
    enabled: bool,
    /// Requests of all tenants that were not recorded because they came too fast.
    dropped: u64,
    /// The entries of all tenants, their maximum, and the maximum for each tenant.
    entries: usize,
    entries_max: usize,
    entries_max_per_tenant: usize,
    /// The start of the record. This field and the next ones cover the reported tenants only.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Requests of origins whose entries were evicted.
    forgotten: u64,
    /// Origins left out because of `limit`.
    left_out: usize,
    origins: Vec<ReportedOrigin>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportedOrigin {
    tenant: Box<str>,
    /// The origin as browsers send it, `null`, or `malformed` for all malformed values.
    origin: Box<str>,
    /// Requests since `first_seen`, by verdict.
    allowed: u64,
    denied: u64,
    /// Requests in report mode.
    would_allow: u64,
    would_deny: u64,
    /// The maximum number of further requests that came before, while the origin had no entry.
    error: u64,
    first_seen: String,
    last_seen: String,
    /// The reason of the last verdict, as in metrics.
    last_reason: &'static str,
    /// The name of the group whose terms the last verdict gave.
    last_group: Option<Box<str>>,
}

/// Reports the given ledgers, each with its tenant's id.
pub fn report(
    ledger: &Ledger,
    tenant_ledgers: &[(Box<str>, Arc<TenantLedger>)],
    query: &OriginsQuery,
) -> OriginsReport {
    let limits = ledger.limits();
    let mut report = OriginsReport {
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
    for (tenant, tenant_ledger) in tenant_ledgers {
        let snapshot = tenant_ledger.read();
        since_s = Some(since_s.unwrap_or(snapshot.since_s).min(snapshot.since_s));
        report.forgotten += snapshot.forgotten;
        let weighed = snapshot.entries.into_iter().map(|entry| (weight(&entry.counts, query.verdict), tenant, entry));
        found.extend(weighed.filter(|(weight, ..)| *weight > 0));
    }
    found.sort_unstable_by(|(a, a_tenant, a_entry), (b, b_tenant, b_entry)| {
        b.cmp(a).then_with(|| (a_tenant, &a_entry.origin).cmp(&(b_tenant, &b_entry.origin)))
    });
    report.since = since_s.map(rfc3339);
    report.left_out = found.len().saturating_sub(query.limit);
    report.origins =
        found.into_iter().take(query.limit).map(|(_, tenant, entry)| reported_origin(tenant, entry)).collect();
    report
}

/// The number of requests with the reported verdicts.
fn weight(counts: &Counts, query: Option<VerdictFilter>) -> u64 {
    let is_reported = |label: VerdictLabel| match query {
        Some(VerdictFilter::Allow) => !label.is_denial(),
        Some(VerdictFilter::Deny) => label.is_denial(),
        None => true,
    };
    VerdictLabel::ALL.into_iter().zip(counts).filter(|(label, _)| is_reported(*label)).map(|(_, count)| count).sum()
}

fn reported_origin(tenant: &str, entry: LedgerEntry) -> ReportedOrigin {
    let LedgerEntry { origin, counts: [allowed, denied, would_allow, would_deny], error, .. } = entry;
    ReportedOrigin {
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
        last_group: entry.last_group.name(),
    }
}

fn rfc3339(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0));
    time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
