//! What clients and configurations can put into the access log and the metrics.

use std::time::{Duration, SystemTime};

use crossgate::access_log::{Escaped, Record, unescape};
use crossgate::metrics::{Change, Metrics, VerdictLabel};
use crossgate_policy::Kind;

/// A client's bytes are printable ASCII in the log, and can be had back; a label's value is read back by the exposition format.
///
/// # Panics
/// If not.
pub fn logged(bytes: &[u8]) {
    check_escaped::<16>(bytes);
    check_escaped::<326>(bytes);
    check_line(bytes);
    check_label(&String::from_utf8_lossy(bytes));
}

fn check_escaped<const LEN_MAX: usize>(bytes: &[u8]) {
    let text = Escaped::<LEN_MAX>(bytes).to_string();
    let kept = bytes.get(..LEN_MAX).unwrap_or(bytes);
    assert!(is_printable(&text), "{text}");
    let escaped = text.strip_suffix("...").filter(|_| bytes.len() > LEN_MAX).unwrap_or(&text);
    assert_eq!(unescape(escaped), kept);
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn check_line(bytes: &[u8]) {
    let record = Record {
        time: SystemTime::UNIX_EPOCH,
        request_id: "r-1",
        trace_id: None,
        tenant: "acme",
        route: None,
        policy: None,
        kind: Kind::Actual,
        verdict: VerdictLabel::Deny,
        reason: "no_match",
        entry: None,
        rule_source: None,
        rule_message: Some(Escaped(bytes)),
        rule_error: None,
        origin: Some(Escaped(bytes)),
        origin_fields: 1,
        host: Escaped(bytes),
        method: Escaped(bytes),
        target: bytes,
        requested_method: Some(Escaped(bytes)),
        requested_method_fields: 1,
        requested_headers: Some(Escaped(bytes)),
        sec_fetch_site: Some(Escaped(bytes)),
        sec_fetch_site_fields: 1,
        connection: Some(Escaped(bytes)),
        scheme: None,
        protocol: Some("HTTP/1.1"),
        has_credentials: false,
        status: 403,
        duration: Duration::ZERO,
        upstream: None,
        upstream_duration: None,
        client: None,
        generation: 1,
        note: None,
    };
    let line = serde_json::to_string(&record).unwrap_or_default();
    assert!(is_printable(&line), "{line}");
    let read: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
    let text = |key: &str| read.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    assert_eq!(text("host"), Escaped::<259>(bytes).to_string());
    let path = bytes.split(|byte| *byte == b'?').next().unwrap_or_default();
    assert_eq!(text("path"), Escaped::<256>(path).to_string());
}

/// One line a series, whatever a name has in it.
fn check_label(name: &str) {
    const START: &str = "crossgate_report_disagreements_total{tenant=\"";
    let metrics = Metrics::new();
    let series = metrics.tenant(name);
    series.count_disagreement(Change::NewlyDenied);
    let text = metrics.render();
    let values: Vec<&str> = text.split('\n').filter_map(|line| line.strip_prefix(START)).collect();
    let [value] = values.as_slice() else { panic!("{text}") };
    let (label, rest) = read_label(value);
    assert_eq!((label.as_str(), rest), (name, ",change=\"newly_denied\"} 1"));
}

/// A label's value up to its closing quote, as <https://prometheus.io/docs/instrumenting/exposition_formats/> has it, and the rest.
fn read_label(text: &str) -> (String, &str) {
    let mut label = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => label.extend(rest.next().map(|escaped| if escaped == 'n' { '\n' } else { escaped })),
            c => label.push(c),
        }
    }
    (label, rest.as_str())
}
