//! The families of a scrape: every name, help text and label that `/metrics` may show stands here.
//!
//! Gathered from the living counters each time. What counts by closed sets alone, or by upstream, shows its zeros, so that an
//! alert sees the first one; what counts by tenant exists once counted, since there may be very many of those. The process's own
//! figures are the encoder crate's.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus::core::Collector as _;

use super::exposition::{Exposition, Family, unix_seconds};
use super::{Metrics, TenantCounters, UpstreamCounters};
use crate::servers::Standing;
use crate::tenant::Upstream;

const START_TIME: &str = "process_start_time_seconds";

impl Metrics {
    /// The Prometheus text of everything counted so far. Takes time and memory by the number of series: for a thread
    /// that may block.
    pub fn render(&self) -> String {
        let mut exposition = Exposition::default();
        self.push_process(&mut exposition);
        self.push_reloads(&mut exposition);
        self.push_connections(&mut exposition);
        self.tls.push(&mut exposition);
        self.push_decisions(&mut exposition);
        self.push_ledger(&mut exposition);
        push_tenants(&mut exposition, &self.tenants.all());
        push_upstreams(&mut exposition, &self.upstreams.all());
        super::rules::push_rules(&mut exposition, &self.verdicts);
        exposition.into_text()
    }

    fn push_process(&self, exposition: &mut Exposition) {
        let mut build = Family::gauge("crossgate_build_info", "Always 1; its label tells the version.");
        build.level(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        exposition.push(build);
        exposition.gauge(
            "crossgate_ready",
            "1 if /readyz says so, 0 while the process drains.",
            f64::from(u8::from(!self.draining.load(Relaxed))),
        );
        exposition.gauge(START_TIME, "When the process started, in seconds since 1970.", unix_seconds(self.started));
        // Where /proc is hidden but for the process itself, the other reckoning of the start gives nothing.
        let families = self.process.collect().into_iter().filter(|family| family.name() != START_TIME);
        families.for_each(|family| exposition.encode(family));
    }

    fn push_reloads(&self, exposition: &mut Exposition) {
        let reloads = &self.reloads;
        exposition.gauge(
            "crossgate_config_generation",
            "Number of the configuration in force.",
            reloads.generation() as f64,
        );
        exposition.gauge(
            "crossgate_config_last_reload_successful",
            "1 if the last reload put everything on disk live, 0 if some or all of it was refused.",
            f64::from(u8::from(reloads.last_successful())),
        );
        exposition.gauge(
            "crossgate_config_last_reload_timestamp_seconds",
            "When the last reload ended, well or not, in seconds since 1970.",
            reloads.last_unix_seconds(),
        );
        let mut results =
            Family::counter("crossgate_config_reloads_total", "Reloads by result, the first load included.");
        for (result, count) in reloads.results() {
            results.count(&[("result", result.as_str())], count);
        }
        exposition.push(results);
        exposition.gauge(
            "crossgate_config_broken_files",
            "Files that were refused and keep their last good version.",
            reloads.broken_files() as f64,
        );
    }

    fn push_connections(&self, exposition: &mut Exposition) {
        let connections = &self.connections;
        exposition.gauge("crossgate_connections_active", "Open connections of clients.", connections.active() as f64);
        exposition.counter("crossgate_connections_total", "Accepted connections of clients.", connections.opened());
        exposition.counter(
            "crossgate_http2_connections_total",
            "Of the accepted connections, those over HTTP/2.",
            connections.http2_connections(),
        );
        exposition.counter(
            "crossgate_http2_requests_total",
            "Requests over HTTP/2, those refused as such included.",
            connections.http2_requests(),
        );
        let mut closed = Family::counter(
            "crossgate_connections_closed_early_total",
            "Connections that the gateway ended by itself, by reason: idle ones awaited no answer, the others got no whole one.",
        );
        for (reason, count) in connections.closed_early() {
            closed.count(&[("reason", reason.as_str())], count);
        }
        exposition.push(closed);
        let mut refused = Family::counter(
            "crossgate_requests_refused_total",
            "Requests refused before their tenant was known, by status.",
        );
        for (status, count) in connections.refusals() {
            refused.count(&[("status", &status.to_string())], count);
        }
        exposition.push(refused);
        let mut bad = Family::counter(
            "crossgate_proxy_protocol_refused_total",
            "Connections that were closed for want of a good PROXY header, by reason.",
        );
        for (reason, count) in connections.bad_introductions() {
            bad.count(&[("reason", reason.as_str())], count);
        }
        exposition.push(bad);
        let mut failed = Family::counter(
            "crossgate_accept_errors_total",
            "Connections that could not be accepted, those of the admin listener included, by reason.",
        );
        for (reason, count) in connections.accept_errors() {
            failed.count(&[("reason", reason.as_str())], count);
        }
        exposition.push(failed);
        let mut panics = Family::counter(
            "crossgate_panics_total",
            "Bugs that ended a connection, or an answer of the admin listener, by place.",
        );
        for (place, count) in self.panics.read() {
            panics.count(&[("place", place.as_str())], count);
        }
        exposition.push(panics);
    }

    fn push_decisions(&self, exposition: &mut Exposition) {
        let mut decisions = Family::histogram(
            "crossgate_decision_duration_seconds",
            "How long deciding a request took, for a sample of one request in 64.",
        );
        decisions.distribution(&[], &self.decisions.read());
        exposition.push(decisions);
        exposition.counter(
            "crossgate_access_log_dropped_total",
            "Access log lines that were not written, since the log could not keep up.",
            self.access_log_dropped.load(Relaxed),
        );
    }

    fn push_ledger(&self, exposition: &mut Exposition) {
        let ledger = &self.ledger;
        exposition.gauge(
            "crossgate_ledger_entries",
            "Origins that the ledger has an entry for.",
            ledger.entries() as f64,
        );
        exposition.counter(
            "crossgate_ledger_evictions_total",
            "Entries of the ledger that were given up for other origins.",
            ledger.evictions(),
        );
        exposition.counter(
            "crossgate_ledger_dropped_total",
            "Requests that the ledger did not record, since it could not keep up.",
            ledger.dropped(),
        );
    }
}

fn push_tenants(exposition: &mut Exposition, tenants: &[Arc<TenantCounters>]) {
    exposition.push(requests(tenants));
    exposition.push(origin_requests(tenants));
    exposition.push(overflow(tenants));
    exposition.push(disagreements(tenants));
}

fn requests(tenants: &[Arc<TenantCounters>]) -> Family {
    let mut family =
        Family::counter("crossgate_requests_total", "Requests by tenant, kind, verdict and the reason of the verdict.");
    for tenant in tenants {
        tenant.each_request(|kind, verdict, reason, count| {
            let labels = [
                ("tenant", tenant.id()),
                ("kind", kind.as_str()),
                ("verdict", verdict.as_str()),
                ("reason", reason.as_str()),
            ];
            family.count(&labels, count);
        });
    }
    family
}

fn origin_requests(tenants: &[Arc<TenantCounters>]) -> Family {
    let mut family = Family::counter(
        "crossgate_origin_requests_total",
        "Requests whose origin was judged, by tenant, configured entry (or other) and verdict.",
    );
    for tenant in tenants {
        tenant.each_origin(|origin, verdict, count| {
            let labels = [("tenant", tenant.id()), ("origin", origin), ("verdict", verdict.as_str())];
            family.count(&labels, count);
        });
    }
    family
}

fn overflow(tenants: &[Arc<TenantCounters>]) -> Family {
    let mut family = Family::counter(
        "crossgate_metrics_overflow_total",
        "Requests counted under origin \"other\" since there were too many origin series, by tenant.",
    );
    for tenant in tenants {
        let count = tenant.overflow();
        if count > 0 {
            family.count(&[("tenant", tenant.id())], count);
        }
    }
    family
}

fn disagreements(tenants: &[Arc<TenantCounters>]) -> Family {
    let mut family = Family::counter(
        "crossgate_report_disagreements_total",
        "Answers in report mode that enforcing the policy would have changed, by tenant and change.",
    );
    for tenant in tenants {
        tenant.each_disagreement(|change, count| {
            family.count(&[("tenant", tenant.id()), ("change", change.as_str())], count);
        });
    }
    family
}

fn push_upstreams(exposition: &mut Exposition, upstreams: &[Arc<UpstreamCounters>]) {
    let mut durations = Family::histogram(
        "crossgate_upstream_request_duration_seconds",
        "Time to the upstream's response head, by upstream.",
    );
    let mut errors = Family::counter(
        "crossgate_upstream_errors_total",
        "Attempts that got no usable answer from an upstream, by upstream and kind.",
    );
    let mut ejections = Family::counter(
        "crossgate_upstream_ejections_total",
        "Times a server was left out because it failed, by upstream.",
    );
    let mut refusals = Family::counter(
        "crossgate_upstream_refusals_total",
        "Requests that were answered 503 instead of being sent to an upstream, by upstream and reason.",
    );
    let mut lookup_failures = Family::counter(
        "crossgate_upstream_lookup_failures_total",
        "Lookups of a server's name that led nowhere, by upstream.",
    );
    let mut checks =
        Family::counter("crossgate_upstream_health_checks_total", "Health checks of servers, by upstream and result.");
    for upstream in upstreams {
        let name = ("upstream", upstream.name());
        ejections.count(&[name], upstream.ejections());
        durations.distribution(&[name], &upstream.duration.read());
        upstream.errors().for_each(|(kind, count)| errors.count(&[name, ("kind", kind.as_str())], count));
        upstream.refusals().for_each(|(why, count)| refusals.count(&[name, ("reason", why.as_str())], count));
        let serving = upstream.serving();
        // Of what there is only where it is configured, there are zeros only there.
        let servers = serving.as_ref().map(|serving| &serving.servers);
        let is_checked = servers.is_some_and(|servers| servers.check().is_some());
        let is_named = servers.is_some_and(|servers| servers.names().next().is_some());
        for (result, count) in upstream.checks().filter(|(_, count)| is_checked || *count > 0) {
            checks.count(&[name, ("result", result.as_str())], count);
        }
        if is_named || upstream.lookup_failures() > 0 {
            lookup_failures.count(&[name], upstream.lookup_failures());
        }
    }
    [durations, errors, ejections, refusals, lookup_failures, checks]
        .into_iter()
        .for_each(|family| exposition.push(family));
    let serving: Vec<_> = upstreams.iter().filter_map(|upstream| upstream.serving()).collect();
    push_serving(exposition, &serving);
}

/// What upstreams are like now.
fn push_serving(exposition: &mut Exposition, upstreams: &[Arc<Upstream>]) {
    let mut servers = Family::gauge(
        "crossgate_upstream_servers",
        "Addresses of an upstream's servers, by upstream and state: up, ejected (requests failed there), unhealthy (checks did).",
    );
    let mut ejected =
        Family::gauge("crossgate_upstream_servers_ejected", "Servers left out now because they failed, by upstream.");
    let mut lost = Family::gauge(
        "crossgate_upstream_names_lost",
        "Names of servers whose last lookup failed, by upstream; the addresses they had serve on.",
    );
    let mut active = Family::gauge(
        "crossgate_upstream_requests_active",
        "Requests under way, by upstream; of those with limits alone.",
    );
    let mut pending =
        Family::gauge("crossgate_upstream_requests_pending", "Requests that wait for others to end, by upstream.");
    for upstream in upstreams {
        let name = ("upstream", &*upstream.name);
        let standings = upstream.servers.standings();
        let count = |wanted| standings.iter().filter(|(_, _, standing)| *standing == wanted).count() as f64;
        for standing in Standing::ALL {
            servers.level(&[name, ("state", standing.as_str())], count(standing));
        }
        ejected.level(&[name], count(Standing::Ejected));
        if upstream.servers.names().next().is_some() {
            lost.level(&[name], upstream.servers.lost_names().len() as f64);
        }
        if let Some(queue) = &upstream.queue {
            active.level(&[name], queue.active() as f64);
            pending.level(&[name], f64::from(queue.waiting()));
        }
    }
    [servers, ejected, lost, active, pending].into_iter().for_each(|family| exposition.push(family));
}
