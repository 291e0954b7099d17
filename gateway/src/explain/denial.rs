//! Explains a recorded denial: the recorded request, and its explanation under the current
//! configuration.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;

use super::display::write_row;
use super::{Explanation, explain, explain_refusal};
use crate::denials::{
    DENIAL_AGE_MAX, DENIALS_MAX, DENIALS_PER_ORIGIN_MAX, DENIALS_PER_TENANT_MAX, DeniedRequest, FoundDenial,
    RecentDenials,
};
use crate::probe::ExplainedRequest;
use crate::snapshot::Snapshot;
use crossgate_message::escape::EscapedBytes;

/// The length of the longest request id.
const ID_LEN_MAX: usize = 128;

/// The explanation of a recorded denial.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DenialExplanation {
    /// The id in the response.
    pub request_id: String,
    /// The seconds since the denial.
    pub seconds_ago: u64,
    /// The configuration generation that denied the request.
    pub judged_by_generation: u64,
    /// The recorded request: its first line without the query, and its fields. Empty for a refused
    /// head.
    pub request: Vec<String>,
    /// The explanation under the current configuration.
    #[serde(flatten)]
    pub explanation: Explanation,
}

impl DenialExplanation {
    /// Explains the newest denial with a request id.
    ///
    /// # Errors
    /// The reason why there is no explanation.
    pub fn of(snapshot: &Snapshot, denials: &RecentDenials, request_id: &str, now: SystemTime) -> Result<Self, String> {
        let found = denials.find(request_id, now).ok_or_else(|| not_found(denials, request_id))?;
        Ok(DenialExplanation::of_found(snapshot, request_id, &found, now))
    }

    fn of_found(snapshot: &Snapshot, request_id: &str, found: &FoundDenial, now: SystemTime) -> Self {
        let (request, mut explanation) = match found.denial.request() {
            DeniedRequest::Judged(probe) => (request_lines(&probe), explain(snapshot, &probe)),
            DeniedRequest::RefusedHead(refusal) => (Vec::new(), explain_refusal(snapshot, &refusal)),
        };
        let judged_by_generation = found.denial.generation();
        if judged_by_generation != snapshot.generation {
            explanation.notes.push(format!(
                "the request was judged by configuration generation {judged_by_generation}; this explanation uses \
                 generation {}",
                snapshot.generation
            ));
        }
        DenialExplanation {
            request_id: EscapedBytes::<ID_LEN_MAX>(request_id.as_bytes()).to_string(),
            seconds_ago: now.duration_since(found.recorded_at).map_or(0, |age| age.as_secs()),
            judged_by_generation,
            request,
            explanation,
        }
    }
}

fn request_lines(probe: &ExplainedRequest) -> Vec<String> {
    let text = |bytes: &[u8]| EscapedBytes::<{ usize::MAX }>(bytes).to_string();
    let first = format!("{} {}", text(&probe.method), text(&probe.target));
    let fields = probe.fields.iter().map(|(name, value)| format!("{name}: {}", text(value)));
    std::iter::once(first).chain(fields).collect()
}

fn not_found(denials: &RecentDenials, request_id: &str) -> String {
    if !denials.is_on() {
        return "denials are not recorded: `ledger.enabled` is false".to_owned();
    }
    format!(
        "no denial is recorded under the request id `{}`: denied requests are kept for {} minutes, the last \
         {DENIALS_PER_TENANT_MAX} of each tenant, {DENIALS_PER_ORIGIN_MAX} of one origin if others need the room, and \
         {DENIALS_MAX} in total; since the start {} were not recorded because the intake limit was reached; the access \
         log contains the others",
        EscapedBytes::<ID_LEN_MAX>(request_id.as_bytes()),
        DENIAL_AGE_MAX.as_secs() / 60,
        denials.dropped()
    )
}

impl fmt::Display for DenialExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_row(f, "request id", Some(&self.request_id))?;
        write_row(f, "denied", Some(&format!("{} s ago", self.seconds_ago)))?;
        for line in &self.request {
            write_row(f, "request", Some(line))?;
        }
        write!(f, "{}", self.explanation)
    }
}
