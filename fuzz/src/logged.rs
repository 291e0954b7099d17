//! Bytes of clients and configurations in the access log and the metrics.

use crossgate::registry::GatewayMetrics;
use crossgate_message::escape::{EscapedBytes, unescape};
use std::time::{Duration, SystemTime};

use crossgate::access_log::LogRecord;
use crossgate::metrics::{Change, VerdictLabel};
use crossgate_config::model::LogFieldSet;
use crossgate_policy::RequestKind;

/// The log has a client's bytes as printable ASCII that can be unescaped. A label value can be read
/// back from the exposition format.
///
/// # Panics
/// If this does not hold.
pub fn logged(bytes: &[u8]) {
    check_escaped::<16>(bytes);
    check_escaped::<326>(bytes);
    check_line(bytes);
    check_label(&String::from_utf8_lossy(bytes));
}

fn check_escaped<const LEN_MAX: usize>(bytes: &[u8]) {
    let text = EscapedBytes::<LEN_MAX>(bytes).to_string();
    let kept = bytes.get(..LEN_MAX).unwrap_or(bytes);
    assert!(is_printable(&text), "{text}");
    let escaped = text.strip_suffix("...").filter(|_| bytes.len() > LEN_MAX).unwrap_or(&text);
    assert_eq!(unescape(escaped), kept);
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn check_line(bytes: &[u8]) {
    let record = LogRecord {
        time: SystemTime::UNIX_EPOCH,
        request_id: "r-1",
        trace_id: None,
        tenant: "acme",
        route: None,
        policy: None,
        kind: RequestKind::Actual,
        verdict: VerdictLabel::Deny,
        reason: "no_match",
        entry: None,
        group: None,
        rule_source: None,
        rule_message: Some(EscapedBytes(bytes)),
        rule_error: None,
        origin: Some(EscapedBytes(bytes)),
        origin_fields: 1,
        host: EscapedBytes(bytes),
        method: EscapedBytes(bytes),
        target: bytes,
        requested_method: Some(EscapedBytes(bytes)),
        requested_method_fields: 1,
        requested_headers: Some(EscapedBytes(bytes)),
        sec_fetch_site: Some(EscapedBytes(bytes)),
        sec_fetch_site_fields: 1,
        sec_fetch_mode: Some(EscapedBytes(bytes)),
        sec_fetch_mode_fields: 1,
        sec_fetch_dest: Some(EscapedBytes(bytes)),
        sec_fetch_dest_fields: 1,
        connection: Some(EscapedBytes(bytes)),
        scheme: None,
        protocol: Some("HTTP/1.1"),
        has_credentials: false,
        has_ambient_credentials: false,
        status: 403,
        duration: Duration::ZERO,
        upstream: None,
        upstream_path: None,
        upstream_duration: None,
        client: None,
        generation: 1,
        note: None,
        headers: &[(http::header::REFERER, bytes.into())],
    };
    let mut line = Vec::new();
    assert!(record.write_line(LogFieldSet::ALL, &mut line));
    let line = String::from_utf8(line).unwrap_or_default();
    let line = line.strip_suffix('\n').unwrap_or_default();
    assert!(is_printable(line), "{line}");
    let read: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let text = |key: &str| read.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    assert_eq!(text("host"), EscapedBytes::<259>(bytes).to_string());
    let path = bytes.split(|byte| *byte == b'?').next().unwrap_or_default();
    assert_eq!(text("path"), EscapedBytes::<256>(path).to_string());
}

/// Asserts that a series is one line for every tenant name.
fn check_label(name: &str) {
    const START: &str = "crossgate_report_disagreements_total{tenant=\"";
    let metrics = GatewayMetrics::new();
    let series = metrics.tenant(name);
    series.count_disagreement(Change::NewlyDenied);
    let text = metrics.render();
    let values: Vec<&str> = text.split('\n').filter_map(|line| line.strip_prefix(START)).collect();
    let [value] = values.as_slice() else { panic!("{text}") };
    let (label, rest) = read_label(value);
    assert_eq!((label.as_str(), rest), (name, ",change=\"newly_denied\"} 1"));
}

/// A label value up to its closing quote, and the rest:
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>.
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
