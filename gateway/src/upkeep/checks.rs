//! Health checks: each server is checked over a new connection, by an HTTP GET or a call of the
//! gRPC health checking protocol.
//!
//! A GET passes with a status from 200 to 299, a gRPC call with SERVING; `probe` makes one check. A
//! new server counts as healthy, and its first check alone decides. Later on, the state changes
//! after the configured number of equal results in a row. Each server has its own task, with
//! jitter, so that checks spread over time. Checks are not requests: they have their own counters,
//! and use no slot of the request queue. Absent on purpose: redirects.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::OwnedTask;
use crate::background;
use crate::counters::UpstreamCounters;
use crate::metrics::{CheckResult, PanicCounters, PanicPlace};
use crate::servers::{ServerPool, UpstreamServer};
#[cfg(test)]
use crossgate_config::model::CheckRequest;
use crossgate_config::model::HealthCheck;

mod probe;

use self::probe::FailedProbe;
pub(super) use self::probe::{HealthProbe, ProbeTransport};

/// First checks are spread over this time, or one interval if that is shorter.
const SPREAD_MAX: Duration = Duration::from_millis(500);

/// The shared state of all checks of one upstream.
pub(super) struct CheckRunner {
    check: HealthCheck,
    probe: HealthProbe,
    counters: Arc<UpstreamCounters>,
    slots: Arc<Semaphore>,
    panics: Arc<PanicCounters>,
}

/// Checks the current servers of the pool, until dropped.
pub(super) async fn run(servers: Arc<ServerPool>, checker: Arc<CheckRunner>) {
    let mut tasks: AHashMap<SocketAddr, (Arc<UpstreamServer>, OwnedTask)> = AHashMap::new();
    let mut changes = servers.changes();
    loop {
        changes.mark_unchanged();
        let mut before = std::mem::take(&mut tasks);
        for entry in servers.weighted_servers() {
            let server = entry.server;
            let same = before.remove(&server.address).filter(|(known, _)| Arc::ptr_eq(known, &server));
            let task = same.unwrap_or_else(|| {
                let (checker, checked) = (Arc::clone(&checker), Arc::clone(&server));
                let panics = Arc::clone(&checker.panics);
                let run = move || Arc::clone(&checker).run(Arc::clone(&checked));
                let task = tokio::spawn(background::supervise(PanicPlace::Checks, panics, run));
                (Arc::clone(&server), OwnedTask(task))
            });
            tasks.insert(server.address, task);
        }
        drop(before);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

impl CheckRunner {
    pub(super) fn new(
        check: HealthCheck,
        probe: HealthProbe,
        counters: Arc<UpstreamCounters>,
        slots: Arc<Semaphore>,
        panics: &Arc<PanicCounters>,
    ) -> Self {
        CheckRunner { check, probe, counters, slots, panics: Arc::clone(panics) }
    }

    async fn run(self: Arc<Self>, server: Arc<UpstreamServer>) {
        sleep(self.check.interval.min(SPREAD_MAX).mul_f64(fastrand::f64())).await;
        let mut series = CheckSeries::default();
        loop {
            let failure = self.check(server.address).await.err();
            let result = if failure.is_none() { CheckResult::Passed } else { CheckResult::Failed };
            self.counters.count_check(result);
            if let Some(is_unhealthy) = series.note(result, &self.check)
                && server.set_unhealthy(is_unhealthy) != is_unhealthy
            {
                self.log_result(&server, failure);
            }
            // The interval varies by 10 %.
            sleep(self.check.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    async fn check(&self, server: SocketAddr) -> Result<(), FailedProbe> {
        #[cfg(test)]
        if let CheckRequest::Get(path) = &self.check.request {
            crate::fault::panic_at("checks", path.as_str().as_bytes());
        }
        let _slot = self.slots.acquire().await;
        self.probe.run(server, Instant::now() + self.check.timeout).await
    }

    /// Logs a change of state: unhealthy because of this failure, or healthy again.
    fn log_result(&self, server: &UpstreamServer, failure: Option<FailedProbe>) {
        let (upstream, server) = (self.counters.name(), server.address);
        match failure {
            Some(FailedProbe { why, what }) => {
                let why = why.as_str();
                tracing::warn!(upstream, %server, why, what, "a server is unhealthy");
            }
            None => tracing::info!(upstream, %server, "a server is healthy again"),
        }
    }
}

/// The number of equal results in a row.
#[derive(Debug, Default)]
struct CheckSeries {
    last: Option<CheckResult>,
    length: u32,
    is_decided: bool,
}

impl CheckSeries {
    /// Records a result. Returns whether the server is unhealthy, if that is decided now.
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
        let request = CheckRequest::Get(PathAndQuery::from_static("/"));
        HealthCheck { request, interval: second, timeout: second, healthy_after, unhealthy_after, host: None }
    }

    #[test]
    fn first_check_decides_alone_and_later_ones_in_a_row() {
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
            let mut series = CheckSeries::default();
            let decided = results.iter().fold(None, |_, result| series.note(*result, &check(healthy_after, 3)));
            assert_eq!(decided, expected, "{results:?}");
        }
    }
}
