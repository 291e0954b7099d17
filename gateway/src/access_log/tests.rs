//! What reaches the log, and what does not.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{SystemTime, UNIX_EPOCH};

use crossgate_policy::Kind;

use super::*;
use crate::metrics::VerdictLabel;

fn record(verdict: VerdictLabel) -> Record<'static> {
    Record {
        time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        request_id: "r-1",
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
        tenant: "acme",
        route: Some("/"),
        policy: Some("spa"),
        kind: Kind::Actual,
        verdict,
        reason: "no_match",
        rule_source: None,
        rule_message: None,
        rule_error: None,
        entry: None,
        origin: Some(Escaped(b"https://evil.example\r\n\"\x1b\xff")),
        origin_fields: 1,
        host: Escaped(b"api.acme.example:8080"),
        method: Escaped(b"GET"),
        target: b"/orders/1?token=secret?x",
        requested_method: None,
        requested_method_fields: 0,
        requested_headers: None,
        sec_fetch_site: None,
        sec_fetch_site_fields: 0,
        connection: None,
        scheme: None,
        protocol: Some("HTTP/1.1"),
        has_credentials: false,
        status: 403,
        duration: Duration::from_micros(1_250),
        upstream: None,
        upstream_duration: None,
        client: Some([192, 0, 2, 1].into()),
        generation: 7,
        note: None,
    }
}

/// An output that shows what was written and, if asked, waits before each write.
struct Probe {
    written: Sender<Vec<u8>>,
    gate: Option<Receiver<()>>,
}

impl Write for Probe {
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

async fn logged(filter: Filter, records: &[Record<'_>]) -> Vec<String> {
    let (written, output) = channel();
    let log = AccessLog::start(Probe { written, gate: None }, Arc::default()).unwrap();
    for record in records {
        log.write(filter, record);
    }
    log.flush(Duration::from_secs(10)).await;
    drop(log);
    let text = output.iter().flatten().collect::<Vec<u8>>();
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_line_has_the_documented_fields() {
    let lines = logged(Filter::default(), &[record(VerdictLabel::Deny)]).await;
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
async fn what_a_client_sends_is_capped() {
    let long = [b'a'; 20_000];
    let record = Record {
        origin: Some(Escaped(&long)),
        host: Escaped(&long),
        method: Escaped(&long),
        target: &long,
        requested_method: Some(Escaped(&long)),
        requested_headers: Some(Escaped(&long)),
        sec_fetch_site: Some(Escaped(&long)),
        ..record(VerdictLabel::Deny)
    };
    let lines = logged(Filter::default(), &[record]).await;
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with(r#","cut":true}"#), "{}", lines[0]);
    assert!(lines[0].len() < 2_000, "{}", lines[0].len());
}

#[tokio::test]
async fn the_level_chooses_by_verdict() {
    let records = VerdictLabel::ALL.map(record);
    for (level, expected) in [(Level::All, 4), (Level::Denied, 2), (Level::Off, 0)] {
        let lines = logged(Filter { level, sample: 1.0 }, &records).await;
        assert_eq!(lines.len(), expected, "{level:?}");
    }
}

#[tokio::test]
async fn a_share_is_sampled_evenly() {
    let records = [record(VerdictLabel::Allow); 1_000];
    for (sample, expected) in [(0.0, 0), (0.25, 250), (0.001, 1), (1.0, 1_000)] {
        let lines = logged(Filter { level: Level::All, sample }, &records).await;
        assert_eq!(lines.len(), expected, "{sample}");
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_drops_lines_and_never_waits() {
    let (written, output) = channel();
    let (open, gate) = channel();
    let dropped = Arc::new(AtomicU64::new(0));
    let log = AccessLog::start(Probe { written, gate: Some(gate) }, Arc::clone(&dropped)).unwrap();
    let sent = QUEUE_LINES_MAX * 2;
    for _ in 0..sent {
        log.write(Filter::default(), &record(VerdictLabel::Allow));
    }
    let lost = usize::try_from(dropped.load(Relaxed)).unwrap();
    assert!(lost > 0);
    for _ in 0..sent {
        open.send(()).ok();
    }
    log.flush(Duration::from_secs(10)).await;
    drop(log);
    let lines = output.iter().flatten().filter(|byte| *byte == b'\n').count();
    assert_eq!(lines + lost, sent);
}

#[tokio::test]
async fn a_stuck_output_does_not_hold_up_the_end() {
    let (written, _output) = channel();
    let (_open, gate) = channel();
    let log = AccessLog::start(Probe { written, gate: Some(gate) }, Arc::default()).unwrap();
    log.write(Filter::default(), &record(VerdictLabel::Allow));
    let start = SystemTime::now();
    log.flush(Duration::from_millis(10)).await;
    assert!(start.elapsed().unwrap() < Duration::from_secs(5));
}

/// A disk that may be full.
struct Disk {
    full: Arc<std::sync::atomic::AtomicBool>,
    written: Sender<Vec<u8>>,
}

impl Write for Disk {
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
async fn lines_for_a_full_disk_are_lost_and_counted_and_later_ones_are_whole() {
    let (written, output) = channel();
    let full = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let dropped = Arc::new(AtomicU64::new(0));
    let log = AccessLog::start(Disk { full: Arc::clone(&full), written }, Arc::clone(&dropped)).unwrap();
    for (is_full, lost) in [(true, 2), (false, 2), (true, 4), (false, 4)] {
        full.store(is_full, Relaxed);
        for _ in 0..2 {
            log.write(Filter::default(), &record(VerdictLabel::Allow));
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
