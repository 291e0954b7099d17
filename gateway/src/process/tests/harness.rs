//! In-process gateways for comparisons: requests, responses, counts and log records.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::*;

pub(super) struct Gateway {
    process: GatewayProcess,
    log: Log,
    _dir: TempDir,
}

/// The access log of a gateway.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Gateway {
    /// Starts a gateway with `files`, each a path and a text, in its directory.
    pub(super) fn start(text: &str, files: &[(&str, &str)], engine: RequestEngine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("crossgate.yaml");
        std::fs::write(&config, text).unwrap();
        std::fs::create_dir(dir.path().join("scripts")).unwrap();
        for (path, text) in files {
            std::fs::write(dir.path().join(path), text).unwrap();
        }
        let options = ProcessOptions { config, broken_tenants: BrokenTenants::Refuse, engine };
        let log = Log::default();
        let process = GatewayProcess::start(&options, log.clone()).unwrap_or_else(|error| panic!("{error}"));
        Gateway { process, log, _dir: dir }
    }

    /// The address of the data listener.
    pub(super) fn data(&self) -> SocketAddr {
        self.process.listening().data[0]
    }

    /// Sends bytes and reads responses until the gateway closes.
    pub(super) fn send(&self, sent: &Sent) -> Vec<Response> {
        let mut socket = TcpStream::connect(self.data()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for (nth, piece) in sent.pieces().enumerate() {
            if nth > 0 {
                std::thread::sleep(sent.pause);
            }
            // A gateway that has sent its last answer need not read the rest.
            if socket.write_all(piece).is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        // A reset after the answers is as good as a close.
        let _closed = socket.read_to_end(&mut answer);
        responses(&answer)
    }

    /// The admin listener's response, head and body.
    fn admin(&self, target: &str) -> String {
        let mut socket = TcpStream::connect(self.process.listening().admin.unwrap()).unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    }

    /// Waits until a series, written with its labels, has this value. Counts can change after the
    /// client has its answer.
    pub(super) fn wait_metric(&self, series: &str, value: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let line = format!("{series} {value}");
        loop {
            let text = self.admin("/metrics");
            if text.lines().any(|found| found == line) {
                return;
            }
            assert!(Instant::now() < deadline, "no line {line:?} in\n{text}");
        }
    }

    /// The sum of all series with this name.
    pub(super) fn metric_sum(&self, name: &str) -> f64 {
        let text = self.admin("/metrics");
        let series = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// The number of requests in the ledger's report, and of requests whose origin was judged.
    pub(super) fn recorded(&self) -> (u64, u64) {
        let text = self.admin("/origins?limit=10000");
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let report: Value = serde_json::from_str(body).unwrap();
        let count = |from: &Value, name: &str| from[name].as_u64().unwrap();
        let counts = ["allowed", "denied", "wouldAllow", "wouldDeny"];
        let entries = report["origins"].as_array().unwrap().iter();
        let counted: u64 = entries.flat_map(|entry| counts.map(|name| count(entry, name))).sum();
        let text = self.admin("/metrics");
        let judged = text.lines().filter(|line| line.starts_with("crossgate_origin_requests_total{"));
        let judged = judged.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
        assert_eq!(count(&report, "leftOut"), 0);
        (counted + count(&report, "forgotten") + count(&report, "dropped"), judged)
    }

    /// The counters of requests.
    pub(super) fn counts(&self) -> Vec<String> {
        let text = self.admin("/metrics");
        let counted = [
            "crossgate_requests_",
            "crossgate_responses_",
            "crossgate_request_duration_seconds_count",
            "crossgate_origin_requests_",
            "crossgate_rule_runs",
            "crossgate_verdict_",
        ];
        text.lines().filter(|line| counted.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
    }
}

impl Gateway {
    /// Begins to drain: connections end after their present response.
    pub(super) fn drain(&self) {
        self.process.control.drain();
    }

    /// Stops the gateway. Returns the number of connections that were cut off.
    pub(super) fn stop(self, how: StopMode) -> u64 {
        self.process.stop(how)
    }

    /// Stops the gateway. Returns its log records in order, without fields that vary by time or
    /// chance.
    pub(super) fn logged(self) -> Vec<Value> {
        self.process.stop(StopMode::Gracefully);
        let log = self.log.0.lock().unwrap();
        let record = |line: &[u8]| {
            let mut record: Value = serde_json::from_slice(line).unwrap();
            for name in ["time", "request_id", "duration_ms", "upstream_duration_ms"] {
                record.as_object_mut().unwrap().remove(name);
            }
            record
        };
        log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(record).collect()
    }
}

/// The bytes that one client sends.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    /// The positions between two writes, in order.
    pub(super) cuts: Vec<usize>,
    /// The pause between two writes, long enough that most are read separately. No result depends
    /// on it.
    pub(super) pause: Duration,
}

impl Sent {
    pub(super) fn at_once(bytes: Vec<u8>) -> Self {
        Sent { bytes, cuts: Vec::new(), pause: Duration::ZERO }
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.cuts.iter().copied());
        let ends = self.cuts.iter().copied().chain(std::iter::once(self.bytes.len()));
        begins.zip(ends).map(|(begin, end)| &self.bytes[begin..end])
    }
}

/// One response: its status, its fields sorted by name, its body. Parts that vary by time or chance
/// are removed.
pub(super) type Response = (u16, BTreeMap<String, Vec<String>>, String);

fn responses(mut bytes: &[u8]) -> Vec<Response> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(len)) = head.parse(bytes) else {
            panic!("no answer: {:?}", String::from_utf8_lossy(bytes));
        };
        let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for field in head.headers.iter() {
            let value = String::from_utf8_lossy(field.value).into_owned();
            named.entry(field.name.to_ascii_lowercase()).or_default().push(value);
        }
        let id = named.get_mut("x-request-id").map(|id| std::mem::take(&mut id[0]));
        assert!(named.get_mut("date").is_none_or(|date| std::mem::take(&mut date[0]).ends_with("GMT")));
        let length = named.get("content-length").map_or(0, |length| length[0].parse().unwrap());
        let body = String::from_utf8_lossy(&bytes[len..len + length]).into_owned();
        let body = id.map_or(body.clone(), |id| body.replace(&id, "ID"));
        found.push((head.code.unwrap(), named, body));
        bytes = &bytes[len + length..];
    }
    found
}
