//! The metric families of a scrape, with every name, help text and label of `/metrics`.
//!
//! Families are collected from the live counters at each scrape. Counters by closed sets or by
//! upstream are present at zero, so that an alert sees the first increase. Series of tenants appear
//! with their first count, since there can be very many. The process metrics come from the encoder
//! crate.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus::core::Collector as _;

use super::GatewayMetrics;
use crate::counters::{TenantCounters, UpstreamCounters};
use crate::diagnostics_log;
use crossgate_config::model::OTHER_TENANTS;
use crossgate_telemetry::{Exposition, FamilyWriter, unix_seconds};

const START_TIME: &str = "process_start_time_seconds";

impl GatewayMetrics {
    /// Renders all metrics as Prometheus text. Time and memory grow with the number of series, so
    /// call it on a thread that may block.
    pub fn render(&self) -> String {
        let mut exposition = Exposition::default();
        self.push_process(&mut exposition);
        self.push_reloads(&mut exposition);
        self.push_connections(&mut exposition);
        self.tls.push(&mut exposition);
        self.push_decisions(&mut exposition);
        self.push_ledger(&mut exposition);
        push_tenants(&mut exposition, &self.tenants.all());
        self.push_durations(&mut exposition);
        push_upstreams(&mut exposition, &self.upstreams.all());
        super::rules::push_rules(&mut exposition, &self.verdicts);
        exposition.into_text()
    }

    fn push_process(&self, exposition: &mut Exposition) {
        let mut build = FamilyWriter::gauge("crossgate_build_info", "Always 1; the label has the version.");
        build.add_gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        exposition.push(build);
        exposition.gauge(
            "crossgate_ready",
            "1 if /readyz answers 200; 0 while the process drains or if background work has ended.",
            f64::from(u8::from(self.is_ready())),
        );
        exposition.gauge(START_TIME, "Start time of the process, in seconds since 1970.", unix_seconds(self.started));
        // If /proc hides other processes (`hidepid`), the collector has no start time, so the
        // family above replaces its own.
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
            "1 if the last reload put all files on disk live, 0 if some or all of them were refused.",
            f64::from(u8::from(reloads.last_successful())),
        );
        exposition.gauge(
            "crossgate_config_last_reload_timestamp_seconds",
            "End time of the last reload, successful or not, in seconds since 1970.",
            reloads.last_unix_seconds(),
        );
        let mut results =
            FamilyWriter::counter("crossgate_config_reloads_total", "Reloads by result, including the first load.");
        for (result, count) in reloads.results() {
            results.count(&[("result", result.as_str())], count);
        }
        exposition.push(results);
        exposition.gauge(
            "crossgate_config_broken_files",
            "Refused files that keep their last good version.",
            reloads.broken_files() as f64,
        );
    }

    fn push_connections(&self, exposition: &mut Exposition) {
        let connections = &self.connections;
        exposition.gauge("crossgate_connections_active", "Open client connections.", connections.active() as f64);
        exposition.counter("crossgate_connections_total", "Accepted client connections.", connections.opened());
        exposition.counter(
            "crossgate_http2_connections_total",
            "Accepted client connections over HTTP/2.",
            connections.http2_connections(),
        );
        exposition.counter(
            "crossgate_http2_requests_total",
            "Requests over HTTP/2, including refused heads.",
            connections.http2_requests(),
        );
        let traffic = &connections.traffic;
        exposition.gauge(
            "crossgate_requests_active",
            "Requests in flight, except preflights that are answered at once.",
            traffic.active() as f64,
        );
        let mut exchanges = FamilyWriter::counter(
            "crossgate_exchanges_total",
            "Requests that went to an upstream, by path: the direct exchange, or Pingora's proxy and why.",
        );
        for (path, count) in traffic.exchanges() {
            exchanges.count(&[("path", path.as_str())], count);
        }
        exposition.push(exchanges);
        exposition.counter(
            "crossgate_received_bytes_total",
            "Bytes received on client connections, including TLS and heads.",
            traffic.received(),
        );
        exposition.counter(
            "crossgate_sent_bytes_total",
            "Bytes sent on client connections, including TLS and heads.",
            traffic.sent(),
        );
        let mut closed = FamilyWriter::counter(
            "crossgate_connections_closed_early_total",
            "Connections that the gateway closed, by reason. With idle no client was waiting; with all others a response was incomplete.",
        );
        for (reason, count) in connections.closed_early() {
            closed.count(&[("reason", reason.as_str())], count);
        }
        exposition.push(closed);
        self.push_refusals(exposition);
    }

    fn push_refusals(&self, exposition: &mut Exposition) {
        let connections = &self.connections;
        let mut refused = FamilyWriter::counter(
            "crossgate_requests_refused_total",
            "Requests refused before their tenant was known, by status.",
        );
        for (status, count) in connections.refusals() {
            refused.count(&[("status", &status.to_string())], count);
        }
        exposition.push(refused);
        let mut checked = FamilyWriter::counter(
            "crossgate_listener_health_checks_total",
            "Health checks of balancers at the healthPath of a listener, by result; they fail while the process drains.",
        );
        for (result, count) in connections.health_checks() {
            checked.count(&[("result", result.as_str())], count);
        }
        exposition.push(checked);
        let mut bad = FamilyWriter::counter(
            "crossgate_proxy_protocol_refused_total",
            "Connections closed because of a missing or invalid PROXY header, by reason.",
        );
        for (reason, count) in connections.proxy_header_faults() {
            bad.count(&[("reason", reason.as_str())], count);
        }
        exposition.push(bad);
        let mut failed = FamilyWriter::counter(
            "crossgate_accept_errors_total",
            "Connections that could not be accepted, including those of the admin listener, by reason.",
        );
        for (reason, count) in connections.accept_errors() {
            failed.count(&[("reason", reason.as_str())], count);
        }
        exposition.push(failed);
        let mut panics = FamilyWriter::counter(
            "crossgate_panics_total",
            "Panics that ended a connection or an answer of the admin listener, or interrupted background work, by place.",
        );
        for (place, count) in self.panics.read() {
            panics.count(&[("place", place.as_str())], count);
        }
        exposition.push(panics);
    }

    fn push_durations(&self, exposition: &mut Exposition) {
        let mut durations = FamilyWriter::histogram(
            "crossgate_request_duration_seconds",
            "Time from the request head to the end of the response, by tenant (or other).",
        );
        for tenant in self.tenants.all() {
            if let Some(reading) = tenant.durations() {
                durations.add_histogram(&[("tenant", tenant.id())], &reading);
            }
        }
        if let Some(reading) = self.budget.durations.other() {
            durations.add_histogram(&[("tenant", OTHER_TENANTS)], &reading);
        }
        exposition.push(durations);
    }

    fn push_decisions(&self, exposition: &mut Exposition) {
        let mut decisions = FamilyWriter::histogram(
            "crossgate_decision_duration_seconds",
            "Time to decide a request, for a sample of one request in 64.",
        );
        decisions.add_histogram(&[], &self.decisions.read());
        exposition.push(decisions);
        exposition.counter(
            "crossgate_access_log_dropped_total",
            "Access log lines that were dropped because the log was too slow.",
            self.access_log_dropped.load(Relaxed),
        );
        let mut diagnostics = FamilyWriter::counter(
            "crossgate_diagnostics_dropped_total",
            "Diagnostics lines that were not written to standard error, by reason.",
        );
        for (reason, count) in diagnostics_log::DROPPED.read() {
            diagnostics.count(&[("reason", reason.as_str())], count);
        }
        exposition.push(diagnostics);
    }

    fn push_ledger(&self, exposition: &mut Exposition) {
        let ledger = &self.ledger;
        exposition.gauge("crossgate_ledger_entries", "Origins recorded in the ledger.", ledger.entries() as f64);
        exposition.counter(
            "crossgate_ledger_evictions_total",
            "Ledger entries evicted for other origins.",
            ledger.evictions(),
        );
        exposition.counter(
            "crossgate_ledger_dropped_total",
            "Requests that were not recorded because the ledger's intake limit was reached.",
            ledger.dropped(),
        );
    }
}

fn push_tenants(exposition: &mut Exposition, tenants: &[Arc<TenantCounters>]) {
    exposition.push(requests(tenants));
    exposition.push(responses(tenants));
    exposition.push(origin_requests(tenants));
    exposition.push(by_tenant(
        tenants,
        "crossgate_metrics_overflow_total",
        "Requests counted under origin \"other\" because of the limit of origin series, by tenant.",
        TenantCounters::overflow,
    ));
    exposition.push(disagreements(tenants));
    exposition.push(by_tenant(
        tenants,
        "crossgate_cookies_unsendable_total",
        "Responses that set a cookie which the page, of another site, cannot send back, by tenant.",
        TenantCounters::unsendable_cookies,
    ));
    exposition.push(by_tenant(
        tenants,
        "crossgate_cookies_public_total",
        "Responses to requests with cookies that caches may give to other users, by tenant.",
        TenantCounters::public_responses,
    ));
}

fn requests(tenants: &[Arc<TenantCounters>]) -> FamilyWriter {
    let mut family = FamilyWriter::counter(
        "crossgate_requests_total",
        "Requests by tenant, kind, verdict and the reason of the verdict.",
    );
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

fn responses(tenants: &[Arc<TenantCounters>]) -> FamilyWriter {
    let mut family = FamilyWriter::counter(
        "crossgate_responses_total",
        "Completed requests, by tenant, status class (none without a response) and source of the response.",
    );
    for tenant in tenants {
        tenant.each_response(|class, source, count| {
            let labels = [("tenant", tenant.id()), ("class", class.as_str()), ("by", source.as_str())];
            family.count(&labels, count);
        });
    }
    family
}

fn origin_requests(tenants: &[Arc<TenantCounters>]) -> FamilyWriter {
    let mut family = FamilyWriter::counter(
        "crossgate_origin_requests_total",
        "Requests with an origin, by tenant, configured entry (or other), its group and verdict.",
    );
    for tenant in tenants {
        tenant.each_origin(|origin, group, verdict, count| {
            let labels = [("tenant", tenant.id()), ("origin", origin), ("verdict", verdict.as_str()), ("group", group)];
            let len = if group.is_empty() { labels.len() - 1 } else { labels.len() };
            family.count(labels.get(..len).unwrap_or(&labels), count);
        });
    }
    family
}

/// A counter by tenant, of the tenants that have counted something.
fn by_tenant(
    tenants: &[Arc<TenantCounters>],
    name: &'static str,
    help: &'static str,
    read: impl Fn(&TenantCounters) -> u64,
) -> FamilyWriter {
    let mut family = FamilyWriter::counter(name, help);
    for (tenant, count) in tenants.iter().map(|tenant| (tenant, read(tenant))).filter(|(_, count)| *count > 0) {
        family.count(&[("tenant", tenant.id())], count);
    }
    family
}

fn disagreements(tenants: &[Arc<TenantCounters>]) -> FamilyWriter {
    let mut family = FamilyWriter::counter(
        "crossgate_report_disagreements_total",
        "Responses in report mode that would differ if the policy were enforced, by tenant and change.",
    );
    for tenant in tenants {
        tenant.each_disagreement(|change, count| {
            family.count(&[("tenant", tenant.id()), ("change", change.as_str())], count);
        });
    }
    family
}

fn push_upstreams(exposition: &mut Exposition, upstreams: &[Arc<UpstreamCounters>]) {
    let mut durations = FamilyWriter::histogram(
        "crossgate_upstream_request_duration_seconds",
        "Time to the upstream's response head, by upstream.",
    );
    let mut errors = FamilyWriter::counter(
        "crossgate_upstream_errors_total",
        "Attempts without a usable response from an upstream, by upstream and kind.",
    );
    let mut ejections =
        FamilyWriter::counter("crossgate_upstream_ejections_total", "Ejections of failing servers, by upstream.");
    let mut refusals = FamilyWriter::counter(
        "crossgate_upstream_refusals_total",
        "Requests answered with 503 or 502 instead of being sent to an upstream, by upstream and reason.",
    );
    let mut lookup_failures = FamilyWriter::counter(
        "crossgate_upstream_lookup_failures_total",
        "Failed lookups of server names, by upstream.",
    );
    let mut checks = FamilyWriter::counter(
        "crossgate_upstream_health_checks_total",
        "Health checks of servers, by upstream and result.",
    );
    for upstream in upstreams {
        let name = ("upstream", upstream.name());
        ejections.count(&[name], upstream.ejections());
        durations.add_histogram(&[name], &upstream.duration.read());
        upstream.errors().for_each(|(kind, count)| errors.count(&[name, ("kind", kind.as_str())], count));
        upstream.refusals().for_each(|(why, count)| refusals.count(&[name, ("reason", why.as_str())], count));
        let serving = upstream.serving();
        // Checks and names are optional, so their zeros appear only where they are configured.
        let is_checked = serving.as_ref().is_some_and(|serving| serving.is_checked());
        let is_named = serving.as_ref().is_some_and(|serving| serving.lost_names().is_some());
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
    push_serving(exposition, upstreams);
}

/// Gauges of the upstreams' current state.
fn push_serving(exposition: &mut Exposition, upstreams: &[Arc<UpstreamCounters>]) {
    let mut servers = FamilyWriter::gauge(
        "crossgate_upstream_servers",
        "Server addresses, by upstream and state: up, ejected (requests failed) or unhealthy (checks failed).",
    );
    let mut ejected =
        FamilyWriter::gauge("crossgate_upstream_servers_ejected", "Servers that are ejected now, by upstream.");
    let mut lost = FamilyWriter::gauge(
        "crossgate_upstream_names_lost",
        "Server names whose last lookup failed, by upstream; their last addresses stay in use.",
    );
    let mut active = FamilyWriter::gauge(
        "crossgate_upstream_requests_active",
        "Requests at an upstream, only for upstreams with limits.",
    );
    let mut pending = FamilyWriter::gauge(
        "crossgate_upstream_requests_pending",
        "Requests that wait in the queue of an upstream, only for upstreams with limits.",
    );
    for (name, serving) in upstreams.iter().filter_map(|upstream| Some((upstream.name(), upstream.serving()?))) {
        let name = ("upstream", name);
        for (state, count) in serving.servers_by_state() {
            servers.add_gauge(&[name, ("state", state)], count as f64);
        }
        ejected.add_gauge(&[name], serving.ejected_servers() as f64);
        if let Some(count) = serving.lost_names() {
            lost.add_gauge(&[name], count as f64);
        }
        if let Some((in_flight, waiting)) = serving.requests() {
            active.add_gauge(&[name], in_flight as f64);
            pending.add_gauge(&[name], f64::from(waiting));
        }
    }
    [servers, ejected, lost, active, pending].into_iter().for_each(|family| exposition.push(family));
}
