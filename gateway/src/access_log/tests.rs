//! Tests of the filter, the fields of a line, and lost lines.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{SystemTime, UNIX_EPOCH};

use crossgate_policy::RequestKind;

use super::*;
use crate::metrics::VerdictLabel;
use crossgate_config::model::LogField;
use crossgate_message::escape::EscapedBytes;
use crossgate_telemetry::line_log::SHARED_BYTES_MAX;

fn record(verdict: VerdictLabel) -> LogRecord<'static> {
    LogRecord {
        time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        request_id: "r-1",
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
        tenant: "acme",
        route: Some("/"),
        policy: Some("spa"),
        kind: RequestKind::Actual,
        verdict,
        reason: "no_match",
        rule_source: None,
        rule_message: None,
        rule_error: None,
        entry: None,
        group: None,
        origin: Some(EscapedBytes(b"https://evil.example\r\n\"\x1b\xff")),
        origin_fields: 1,
        host: EscapedBytes(b"api.acme.example:8080"),
        method: EscapedBytes(b"GET"),
        target: b"/orders/1?token=secret?x",
        requested_method: None,
        requested_method_fields: 0,
        requested_headers: None,
        sec_fetch_site: None,
        sec_fetch_site_fields: 0,
        sec_fetch_mode: None,
        sec_fetch_mode_fields: 0,
        sec_fetch_dest: None,
        sec_fetch_dest_fields: 0,
        connection: None,
        scheme: None,
        protocol: Some("HTTP/1.1"),
        has_credentials: false,
        has_ambient_credentials: false,
        status: 403,
        duration: Duration::from_micros(1_250),
        upstream: None,
        upstream_path: None,
        upstream_duration: None,
        client: Some([192, 0, 2, 1].into()),
        generation: 7,
        note: None,
        headers: &[],
    }
}

/// An output that forwards written bytes and can block each write.
struct GatedOutput {
    written: Sender<Vec<u8>>,
    gate: Option<Receiver<()>>,
}

impl Write for GatedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(gate) = &self.gate {
            gate.recv().map_err(io::Error::other)?;
        }
        self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn log_lines(filter: LogFilter, records: &[LogRecord<'_>]) -> Vec<String> {
    let (written, output) = channel();
    let log = AccessLog::start(
        GatedOutput { written, gate: None },
        LogDestination::default,
        2,
        Arc::default(),
        Arc::default(),
    )
    .unwrap();
    for record in records {
        let outcome = if record.status >= 500 { LogOutcome::Failed } else { LogOutcome::Answered };
        if log.should_log(filter, record.verdict, outcome) {
            log.write(LogFieldSet::ALL, record);
        }
    }
    log.flush(Duration::from_secs(10)).await;
    drop(log);
    let text = output.iter().flatten().collect::<Vec<u8>>();
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn log_line_has_the_documented_fields() {
    let lines = log_lines(LogFilter::default(), &[record(VerdictLabel::Deny)]).await;
    let expected = concat!(
        r#"{"time":"2023-11-14T22:13:20.123Z","request_id":"r-1","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","tenant":"acme","route":"/","policy":"spa","#,
        r#""kind":"actual","verdict":"deny","reason":"no_match","#,
        r#""origin":"https://evil.example\\x0d\\x0a\"\\x1b\\xff","host":"api.acme.example:8080","#,
        r#""method":"GET","path":"/orders/1","protocol":"HTTP/1.1","status":403,"duration_ms":1.25,"#,
        r#""client":"192.0.2.1","generation":7}"#,
    );
    assert_eq!(lines, [expected]);
}

#[tokio::test]
async fn client_text_in_a_log_line_is_capped() {
    let long = [b'a'; 20_000];
    let record = LogRecord {
        origin: Some(EscapedBytes(&long)),
        host: EscapedBytes(&long),
        method: EscapedBytes(&long),
        target: &long,
        requested_method: Some(EscapedBytes(&long)),
        requested_headers: Some(EscapedBytes(&long)),
        sec_fetch_site: Some(EscapedBytes(&long)),
        ..record(VerdictLabel::Deny)
    };
    let lines = log_lines(LogFilter::default(), &[record]).await;
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with(r#","cut":true}"#), "{}", lines[0]);
    assert!(lines[0].len() < 2_000, "{}", lines[0].len());
}

#[tokio::test]
async fn access_log_level_filters_by_verdict() {
    let records = VerdictLabel::ALL.map(record);
    for (level, expected) in [(AccessLogLevel::All, 4), (AccessLogLevel::Denied, 2), (AccessLogLevel::Off, 0)] {
        let lines = log_lines(LogFilter { level, ..LogFilter::default() }, &records).await;
        assert_eq!(lines.len(), expected, "{level:?}");
    }
}

#[tokio::test]
async fn access_log_sample_is_evenly_spaced() {
    let records = [record(VerdictLabel::Allow); 1_000];
    for (sample, expected) in [(0.0, 0), (0.25, 250), (0.001, 1), (1.0, 1_000)] {
        let lines = log_lines(LogFilter { sample, ..LogFilter::default() }, &records).await;
        assert_eq!(lines.len(), expected, "{sample}");
    }
}

#[tokio::test]
async fn blocked_log_reader_drops_lines_without_blocking_requests() {
    let (written, output) = channel();
    let (open, gate) = channel();
    let dropped = Arc::new(AtomicU64::new(0));
    let log = AccessLog::start(
        GatedOutput { written, gate: Some(gate) },
        LogDestination::default,
        2,
        Arc::clone(&dropped),
        Arc::default(),
    )
    .unwrap();
    // Several times the room of all buffers: the writing thread takes the first ones before it
    // blocks.
    let sent = SHARED_BYTES_MAX / 512;
    let long = [b'a'; 2_000];
    let long = LogRecord {
        origin: Some(EscapedBytes(&long)),
        host: EscapedBytes(&long),
        target: &long,
        requested_headers: Some(EscapedBytes(&long)),
        ..record(VerdictLabel::Allow)
    };
    for _ in 0..sent {
        log.write(LogFieldSet::ALL, &long);
    }
    let lost = usize::try_from(dropped.load(Relaxed)).unwrap();
    assert!(lost > 0 && lost < sent, "{lost}");
    for _ in 0..sent {
        open.send(()).ok();
    }
    log.flush(Duration::from_secs(10)).await;
    drop(log);
    let lines = output.iter().flatten().filter(|byte| *byte == b'\n').count();
    assert_eq!(lines + lost, sent);
}

#[tokio::test]
async fn blocked_log_output_does_not_delay_shutdown() {
    let (written, _output) = channel();
    let (_open, gate) = channel();
    let log = AccessLog::start(
        GatedOutput { written, gate: Some(gate) },
        LogDestination::default,
        2,
        Arc::default(),
        Arc::default(),
    )
    .unwrap();
    log.write(LogFieldSet::ALL, &record(VerdictLabel::Allow));
    let start = SystemTime::now();
    log.flush(Duration::from_millis(10)).await;
    assert!(start.elapsed().unwrap() < Duration::from_secs(5));
}

/// An output that can fail with "storage full".
struct FailingOutput {
    full: Arc<std::sync::atomic::AtomicBool>,
    written: Sender<Vec<u8>>,
}

impl Write for FailingOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.full.load(Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn full_disk_drops_and_counts_lines_and_later_lines_are_whole() {
    let (written, output) = channel();
    let full = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let dropped = Arc::new(AtomicU64::new(0));
    let log = AccessLog::start(
        FailingOutput { full: Arc::clone(&full), written },
        LogDestination::default,
        2,
        Arc::clone(&dropped),
        Arc::default(),
    )
    .unwrap();
    for (is_full, lost) in [(true, 2), (false, 2), (true, 4), (false, 4)] {
        full.store(is_full, Relaxed);
        for _ in 0..2 {
            log.write(LogFieldSet::ALL, &record(VerdictLabel::Allow));
        }
        log.flush(Duration::from_secs(10)).await;
        assert_eq!(dropped.load(Relaxed), lost);
    }
    drop(log);
    let text = String::from_utf8(output.iter().flatten().collect()).unwrap();
    let whole = text.lines().filter(|line| line.starts_with('{') && line.ends_with('}')).count();
    assert_eq!(whole, 4, "{text}");
    assert_eq!(text.lines().filter(|line| !line.is_empty()).count(), 4, "{text}");
}

#[tokio::test]
async fn always_logs_denials_and_errors_regardless_of_sample() {
    let mut records = vec![record(VerdictLabel::Allow); 100];
    let failed = LogRecord { status: 503, ..record(VerdictLabel::Allow) };
    records.extend([record(VerdictLabel::Deny), record(VerdictLabel::WouldDeny), failed]);
    for (level, always, expected) in [
        (AccessLogLevel::All, LogAlways { deny: true, error: true }, 3),
        (AccessLogLevel::All, LogAlways { deny: true, error: false }, 2),
        (AccessLogLevel::All, LogAlways { deny: false, error: true }, 1),
        (AccessLogLevel::All, LogAlways::default(), 0),
        (AccessLogLevel::Denied, LogAlways { deny: true, error: true }, 2),
        (AccessLogLevel::Off, LogAlways { deny: true, error: true }, 0),
    ] {
        let lines = log_lines(LogFilter { level, sample: 0.0, always }, &records).await;
        assert_eq!(lines.len(), expected, "{level:?} {always:?}");
    }
}

#[test]
fn log_line_has_only_the_configured_fields_and_headers() {
    let headers = [
        (http::header::USER_AGENT, std::borrow::Cow::Borrowed(&b"curl/8\r\n\"x\""[..])),
        (http::header::REFERER, vec![b'a'; 300].into()),
    ];
    let record = LogRecord { headers: &headers, ..record(VerdictLabel::Deny) };
    let line = |fields: LogFieldSet| {
        let mut bytes = Vec::new();
        assert!(record.write_line(fields, &mut bytes));
        String::from_utf8(bytes).unwrap()
    };
    let chosen = [LogField::Status, LogField::Path, LogField::Upstream].into_iter().collect();
    let referer = format!("{}...", "a".repeat(256));
    let logged = format!(r#""headers":{{"user-agent":"curl/8\\x0d\\x0a\"x\"","referer":"{referer}"}}"#);
    assert_eq!(line(chosen), format!("{{\"path\":\"/orders/1\",\"status\":403,{logged}}}\n"));
    assert_eq!(line([LogField::Note].into_iter().collect()), format!("{{{logged}}}\n"));
    let parsed: serde_json::Value = serde_json::from_str(&line(LogFieldSet::ALL)).unwrap();
    assert_eq!(parsed["headers"]["user-agent"], "curl/8\\x0d\\x0a\"x\"");
}
