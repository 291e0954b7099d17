//! Asks servers whether they are well: a GET each, over a connection of its own, that has to be answered with a status from 200 to 299.
//! What such a question is, and what becomes of it, is `probe`'s.
//!
//! A new server is taken for healthy, and its first check decides alone; later ones decide when as many in a row say the same as is
//! configured. Each server is checked by a task of its own, at times that drift apart. A check is no request: it is counted by itself,
//! and takes no place of one. Absent on purpose: redirects.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::Task;
use crate::config::model::HealthCheck;
use crate::metrics::{CheckResult, UpstreamCounters};
use crate::servers::{Server, Servers};

mod probe;

use self::probe::Failure;
pub(super) use self::probe::{Probe, Way};

/// First checks are spread over so long, or one interval if that is shorter.
const SPREAD_MAX: Duration = Duration::from_millis(500);

/// What the checks of one upstream have in common.
struct Checker {
    check: HealthCheck,
    probe: Probe,
    counters: Arc<UpstreamCounters>,
    slots: Arc<Semaphore>,
}

/// Checks the servers, whichever they are, until dropped.
pub(super) async fn keep(
    servers: Arc<Servers>,
    check: HealthCheck,
    probe: Probe,
    counters: Arc<UpstreamCounters>,
    slots: Arc<Semaphore>,
) {
    let checker = Arc::new(Checker { check, probe, counters, slots });
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
            let failure = self.check(server.address).await.err();
            let result = if failure.is_none() { CheckResult::Passed } else { CheckResult::Failed };
            self.counters.count_check(result);
            if let Some(is_unhealthy) = series.note(result, &self.check)
                && server.set_unhealthy(is_unhealthy) != is_unhealthy
            {
                self.tell(&server, failure);
            }
            // A tenth more or less.
            sleep(self.check.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    async fn check(&self, server: SocketAddr) -> Result<(), Failure> {
        let _slot = self.slots.acquire().await;
        self.probe.ask(server, Instant::now() + self.check.timeout).await
    }

    /// The server has become another: unhealthy by this failure, or healthy again.
    fn tell(&self, server: &Server, failure: Option<Failure>) {
        let (upstream, server) = (self.counters.name(), server.address);
        match failure {
            Some(Failure { why, what }) => {
                let why = why.as_str();
                tracing::warn!(upstream, %server, why, what, "a server is unhealthy");
            }
            None => tracing::info!(upstream, %server, "a server is healthy again"),
        }
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

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    fn check(healthy_after: u32, unhealthy_after: u32) -> HealthCheck {
        let second = Duration::from_secs(1);
        let path = PathAndQuery::from_static("/");
        HealthCheck { path, interval: second, timeout: second, healthy_after, unhealthy_after, host: None }
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
}
