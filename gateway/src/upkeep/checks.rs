//! Asks servers whether they are well: a GET each, over a connection of its own, that has to be answered with a status from 200 to 299.
//!
//! A new server is taken for healthy, and its first check decides alone; later ones decide when as many in a row say the same as is
//! configured. Each server is checked by a task of its own, at times that drift apart. A check is no request: it is counted by itself,
//! and takes no place of one. Absent on purpose: kept connections, redirects, and what an answer says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Task;
use crate::config::model::HealthCheck;
use crate::metrics::{CheckResult, UpstreamCounters};
use crate::servers::{Server, Servers};

/// Of an answer's head no more is read.
const HEAD_LEN_MAX: usize = 16 << 10;
const HEAD_FIELDS_MAX: usize = 100;
/// First checks are spread over so long, or one interval if that is shorter.
const SPREAD_MAX: Duration = Duration::from_millis(500);

/// What the checks of one upstream have in common.
struct Checker {
    check: HealthCheck,
    counters: Arc<UpstreamCounters>,
    slots: Arc<Semaphore>,
}

/// Checks the servers, whichever they are, until dropped.
pub(super) async fn keep(
    servers: Arc<Servers>,
    check: HealthCheck,
    counters: Arc<UpstreamCounters>,
    slots: Arc<Semaphore>,
) {
    let checker = Arc::new(Checker { check, counters, slots });
    let mut tasks: AHashMap<SocketAddr, (Arc<Server>, Task)> = AHashMap::new();
    let mut changes = servers.changes();
    loop {
        changes.mark_unchanged();
        let mut before = std::mem::take(&mut tasks);
        for listed in servers.listed() {
            let server = listed.server;
            let same = before.remove(&server.address).filter(|(known, _)| Arc::ptr_eq(known, &server));
            let task = same.unwrap_or_else(|| {
                let task = tokio::spawn(Arc::clone(&checker).keep(Arc::clone(&server)));
                (Arc::clone(&server), Task(task))
            });
            tasks.insert(server.address, task);
        }
        drop(before);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

impl Checker {
    async fn keep(self: Arc<Self>, server: Arc<Server>) {
        sleep(self.check.interval.min(SPREAD_MAX).mul_f64(fastrand::f64())).await;
        let mut series = Series::default();
        loop {
            let result = self.check(server.address).await;
            self.counters.count_check(result);
            if let Some(is_unhealthy) = series.note(result, &self.check)
                && server.set_unhealthy(is_unhealthy) != is_unhealthy
            {
                let upstream = self.counters.name();
                match is_unhealthy {
                    true => tracing::warn!(upstream, server = %server.address, "a server is unhealthy"),
                    false => tracing::info!(upstream, server = %server.address, "a server is healthy again"),
                }
            }
            // A tenth more or less.
            sleep(self.check.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    async fn check(&self, address: SocketAddr) -> CheckResult {
        let _slot = self.slots.acquire().await;
        let asked = timeout(self.check.timeout, async {
            // Where servers speak TLS, it begins here.
            let stream = TcpStream::connect(address).await?;
            ask(stream, &self.head(address)).await
        });
        match asked.await {
            Ok(Ok(200..=299)) => CheckResult::Passed,
            Ok(Ok(_) | Err(_)) | Err(_) => CheckResult::Failed,
        }
    }

    fn head(&self, address: SocketAddr) -> Vec<u8> {
        let mut head = format!("GET {} HTTP/1.1\r\nhost: ", self.check.path).into_bytes();
        match &self.check.host {
            Some(host) => head.extend_from_slice(host.as_bytes()),
            None => head.extend_from_slice(address.to_string().as_bytes()),
        }
        head.extend_from_slice(b"\r\nuser-agent: crossgate-health-check\r\naccept: */*\r\nconnection: close\r\n\r\n");
        head
    }
}

/// Checks in a row that said the same.
#[derive(Debug, Default)]
struct Series {
    last: Option<CheckResult>,
    length: u32,
    is_decided: bool,
}

impl Series {
    /// Whether the server is unhealthy, where that can be said now.
    fn note(&mut self, result: CheckResult, check: &HealthCheck) -> Option<bool> {
        self.length = if self.last.replace(result) == Some(result) { self.length.saturating_add(1) } else { 1 };
        let (enough, is_unhealthy) = match result {
            CheckResult::Passed => (check.healthy_after, false),
            CheckResult::Failed => (check.unhealthy_after, true),
        };
        let is_first = !std::mem::replace(&mut self.is_decided, true);
        (is_first || self.length >= enough).then_some(is_unhealthy)
    }
}

/// The status of the answer.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &[u8]) -> io::Result<u16> {
    stream.write_all(head).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    loop {
        while let Some((len, status)) = parse(&answer)? {
            if status >= 200 {
                return Ok(status);
            }
            // An interim one: another follows.
            answer.drain(..len);
        }
        let room = HEAD_LEN_MAX.saturating_sub(answer.len()) as u64;
        if room == 0 || (&mut stream).take(room).read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The length and the status of a head, if it is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(usize, u16)>> {
    let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => Ok(response.code.map(|status| (len, status))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(healthy_after: u32, unhealthy_after: u32) -> HealthCheck {
        let second = Duration::from_secs(1);
        HealthCheck { path: "/".into(), interval: second, timeout: second, healthy_after, unhealthy_after, host: None }
    }

    #[test]
    fn the_first_check_decides_alone_and_later_ones_in_a_row() {
        use CheckResult::{Failed, Passed};
        for (healthy_after, results, expected) in [
            (2, &[Passed, Failed, Failed, Passed, Failed, Failed, Failed][..], Some(true)),
            (2, &[Passed, Failed, Failed, Passed, Failed, Failed], None),
            (1, &[Passed, Failed], None),
            (2, &[Failed], Some(true)),
            (2, &[Failed, Passed], None),
            (2, &[Failed, Passed, Failed, Passed], None),
            (2, &[Failed, Passed, Passed], Some(false)),
        ] {
            let mut series = Series::default();
            let said = results.iter().fold(None, |_, result| series.note(*result, &check(healthy_after, 3)));
            assert_eq!(said, expected, "{results:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_to_the_end_of_its_head() {
        let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(HEAD_LEN_MAX));
        for (answer, expected) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Some(204)),
            ("HTTP/1.0 503 Busy\r\nContent-Length: 99\r\n\r\nno", Some(503)),
            ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Some(200)),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("SSH-2.0-OpenSSH_9.2\r\n", None),
            ("", None),
            (&long, None),
        ] {
            let (near, mut far) = tokio::io::duplex(64 << 10);
            far.write_all(answer.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            assert_eq!(ask(near, b"GET / HTTP/1.1\r\n\r\n").await.ok(), expected, "{answer:.60}");
        }
    }

    #[test]
    fn a_check_names_the_configured_host() {
        let head = |host: Option<&'static str>| {
            let host = host.map(http::HeaderValue::from_static);
            let counters = crate::metrics::Metrics::new().upstream("a");
            let checker =
                Checker { check: HealthCheck { host, ..check(1, 1) }, counters, slots: Arc::new(Semaphore::new(1)) };
            String::from_utf8(checker.head(([10, 0, 0, 1], 80).into())).unwrap()
        };
        assert!(head(None).starts_with("GET / HTTP/1.1\r\nhost: 10.0.0.1:80\r\n"));
        assert!(head(Some("a.test")).contains("\r\nhost: a.test\r\n"));
    }
}
