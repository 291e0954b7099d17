//! Tests of the text of a scrape.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use crossgate_policy::{EntryId, GroupId, Policy, PolicySpec, Reason, RequestKind, Template};
use http::uri::PathAndQuery;

use super::*;
use crate::counters::{CountedEntry, EntryHandles, SERIES_MAX_TENANT, SentResponse};
use crate::metrics::{
    AcceptError, Change, CheckResult, EarlyClose, ReloadResult, UpstreamError, UpstreamRefusal, VerdictLabel,
};
use crate::upstream::Upstream;
use crossgate_config::model::{
    CheckRequest, HealthCheck, Located, Position, Protocol, ServerAddress, ServerSpec, Timeouts, UpstreamLimits,
    UpstreamSpec,
};

fn policy(origins: &[&str]) -> Policy {
    let spec = PolicySpec {
        allow_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        ..PolicySpec::default()
    };
    let template = Template::compile(&spec).unwrap().value;
    Policy::extend(Arc::new(template), &[]).unwrap().value
}

fn entries(policy: &Policy) -> Vec<CountedEntry> {
    (0..).take(policy.entry_counts().template).map(EntryId::Template).map(outside_groups).collect()
}

fn outside_groups(entry: EntryId) -> CountedEntry {
    CountedEntry { entry, group: GroupId::BASE }
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[track_caller]
fn check(metrics: &GatewayMetrics, line: &str) {
    let text = metrics.render();
    assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
}

#[test]
fn closed_sets_are_indexed_by_their_order() {
    assert!(RequestKind::ALL.iter().enumerate().all(|(i, kind)| *kind as usize == i));
    assert!(Reason::ALL.iter().enumerate().all(|(i, reason)| *reason as usize == i));
    assert!(VerdictLabel::ALL.iter().enumerate().all(|(i, verdict)| *verdict as usize == i));
}

#[test]
fn every_request_series_has_its_own_cell() {
    let metrics = GatewayMetrics::new();
    let tenant = metrics.tenant("acme");
    for kind in RequestKind::ALL {
        for verdict in VerdictLabel::ALL {
            for reason in Reason::ALL {
                tenant.count_request(kind, verdict, reason);
            }
        }
    }
    let text = metrics.render();
    let lines = text.lines().filter(|line| line.starts_with("crossgate_requests_total{"));
    let ones = lines.filter(|line| line.ends_with("} 1")).count();
    assert_eq!(ones, RequestKind::ALL.len() * VerdictLabel::ALL.len() * Reason::ALL.len());
}

#[test]
fn scrape_has_process_metrics_and_each_family_once() {
    let metrics = GatewayMetrics::new();
    let text = metrics.render();
    let mut families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let all = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), all, "{text}");
    for name in ["open_fds", "max_fds", "resident_memory_bytes", "threads", "start_time_seconds"] {
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("process_{name} ")));
        assert!(value.is_some_and(|value| value.parse::<f64>().unwrap() > 0.0), "{name} in\n{text}");
    }
    assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
}

#[test]
fn ready_metric_equals_the_readiness_probe() {
    let metrics = GatewayMetrics::new();
    check(&metrics, "crossgate_ready 1");
    metrics.draining.store(true, std::sync::atomic::Ordering::Relaxed);
    check(&metrics, "crossgate_ready 0");
}

#[test]
fn closed_sets_are_present_at_zero() {
    let metrics = GatewayMetrics::new();
    let upstream = metrics.upstream("orders");
    upstream.count_error(UpstreamError::Reset);
    metrics.connections.count_accept_error(AcceptError::Descriptors);
    for line in [
        r#"crossgate_upstream_errors_total{upstream="orders",kind="reset"} 1"#,
        r#"crossgate_upstream_errors_total{upstream="orders",kind="connect_refused"} 0"#,
        r#"crossgate_accept_errors_total{reason="descriptors"} 1"#,
        r#"crossgate_accept_errors_total{reason="memory"} 0"#,
        r#"crossgate_proxy_protocol_refused_total{reason="stranger"} 0"#,
        r#"crossgate_connections_closed_early_total{reason="idle"} 0"#,
        r#"crossgate_requests_refused_total{status="431"} 0"#,
        r#"crossgate_upstream_refusals_total{upstream="orders",reason="limit"} 0"#,
        r#"crossgate_tls_handshakes_total{result="unknown_name"} 0"#,
        r#"crossgate_panics_total{place="lane"} 0"#,
    ] {
        check(&metrics, line);
    }
    let text = metrics.render();
    for absent in ["crossgate_upstream_health_checks_total{", "crossgate_upstream_lookup_failures_total{"] {
        assert!(!text.contains(absent), "there is no check, and no name: {text}");
    }
}

#[test]
fn tenant_series_appears_with_its_first_count() {
    let metrics = GatewayMetrics::new();
    let tenant = metrics.tenant("acme");
    assert!(!metrics.render().contains("acme"));
    tenant.count_request(RequestKind::Actual, VerdictLabel::Deny, Reason::NoMatch);
    tenant.count_request(RequestKind::Actual, VerdictLabel::Deny, Reason::NoMatch);
    check(&metrics, r#"crossgate_requests_total{tenant="acme",kind="actual",verdict="deny",reason="no_match"} 2"#);
}

#[test]
fn idle_tenants_and_routes_need_little_memory() {
    assert!(size_of::<TenantCounters>() <= 64);
    assert!(size_of::<EntryHandles>() <= 32);
}

#[test]
fn tenant_counts_survive_a_recompile_and_end_with_the_tenant() {
    let metrics = GatewayMetrics::new();
    let policy = policy(&["https://a.example"]);
    let entry = entries(&policy).first().copied();
    let old = metrics.tenant("acme");
    old.count_origin(&EntryHandles::new(), &policy, entry, VerdictLabel::Allow);
    let new = metrics.tenant("acme");
    drop(old);
    new.count_origin(&EntryHandles::new(), &policy, entry, VerdictLabel::Allow);
    check(&metrics, r#"crossgate_origin_requests_total{tenant="acme",origin="https://a.example",verdict="allow"} 2"#);
    drop(new);
    assert!(!metrics.render().contains("acme"));
}

#[test]
fn own_entries_are_counted_apart_from_template_entries() {
    let metrics = GatewayMetrics::new();
    let tenant = metrics.tenant("acme");
    let spec = PolicySpec { allow_origins: vec!["https://a.example".to_owned()], ..PolicySpec::default() };
    let template = Arc::new(Template::compile(&spec).unwrap().value);
    let policy = Policy::extend(template, &["https://b.example".to_owned()]).unwrap().value;
    let handles = EntryHandles::new();
    for entry in [EntryId::Template(0), EntryId::Own(0), EntryId::Own(0)] {
        tenant.count_origin(&handles, &policy, Some(outside_groups(entry)), VerdictLabel::Allow);
    }
    for (origin, count) in [("https://a.example", 1), ("https://b.example", 2)] {
        let labels = format!(r#"{{tenant="acme",origin="{origin}",verdict="allow"}}"#);
        check(&metrics, &format!("crossgate_origin_requests_total{labels} {count}"));
    }
}

#[test]
fn denied_origins_do_not_add_series() {
    let metrics = GatewayMetrics::new();
    let tenant = metrics.tenant("acme");
    let policy = policy(&["https://a.example", "https://*.b.example"]);
    let handles = EntryHandles::new();
    let deny = || {
        tenant.count_request(RequestKind::Actual, VerdictLabel::Deny, Reason::NoMatch);
        tenant.count_origin(&handles, &policy, None, VerdictLabel::Deny);
    };
    deny();
    let before = series(&metrics.render());
    (1..100_000).for_each(|_| deny());
    assert_eq!(series(&metrics.render()), before);
    check(&metrics, r#"crossgate_origin_requests_total{tenant="acme",origin="other",verdict="deny"} 100000"#);
}

#[test]
fn entries_over_the_limit_are_counted_as_other_and_overflow() {
    let metrics = GatewayMetrics::new();
    let tenant = metrics.tenant("acme");
    let origins = (0..SERIES_MAX_TENANT + 5).map(|i| format!("https://a{i}.example"));
    let origins = origins.collect::<Vec<_>>();
    let policy = policy(&origins.iter().map(String::as_str).collect::<Vec<_>>());
    let handles = EntryHandles::new();
    for _ in 0..2 {
        for entry in entries(&policy) {
            tenant.count_origin(&handles, &policy, Some(entry), VerdictLabel::Allow);
        }
    }
    check(&metrics, r#"crossgate_origin_requests_total{tenant="acme",origin="other",verdict="allow"} 10"#);
    check(&metrics, "crossgate_metrics_overflow_total{tenant=\"acme\"} 10");
    let text = metrics.render();
    let own = text.lines().filter(|line| line.contains(r#"origin="https://"#)).count();
    assert_eq!(own, SERIES_MAX_TENANT);
}

#[test]
fn concurrent_counts_are_complete() {
    let metrics = GatewayMetrics::new();
    let tenant = metrics.tenant("acme");
    let policy = policy(&["https://a.example"]);
    let entry = entries(&policy).first().copied();
    let handles = EntryHandles::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    tenant.count_origin(&handles, &policy, entry, VerdictLabel::Allow);
                }
            });
        }
    });
    check(
        &metrics,
        r#"crossgate_origin_requests_total{tenant="acme",origin="https://a.example",verdict="allow"} 80000"#,
    );
}

#[test]
fn label_values_are_escaped() {
    let metrics = GatewayMetrics::new();
    let tenant = metrics.tenant("a\"b\\c\nd");
    tenant.count_disagreement(Change::NewlyDenied);
    check(&metrics, r#"crossgate_report_disagreements_total{tenant="a\"b\\c\nd",change="newly_denied"} 1"#);
}

#[test]
fn hosts_without_a_tenant_are_counted_permanently() {
    let metrics = GatewayMetrics::new();
    metrics.no_tenant().count_request(RequestKind::NonCors, VerdictLabel::Deny, Reason::UnknownHost);
    check(
        &metrics,
        r#"crossgate_requests_total{tenant="none",kind="non_cors",verdict="deny",reason="unknown_host"} 1"#,
    );
}

#[test]
fn failed_reload_is_visible_in_metrics() {
    let metrics = GatewayMetrics::new();
    metrics.reloads.record(ReloadResult::Success, 1, 0, UNIX_EPOCH + Duration::from_secs(5));
    check(&metrics, "crossgate_config_last_reload_successful 1");
    metrics.reloads.record(ReloadResult::Partial, 2, 3, UNIX_EPOCH + Duration::from_millis(7_500));
    check(&metrics, "crossgate_config_generation 2");
    check(&metrics, "crossgate_config_last_reload_successful 0");
    check(&metrics, "crossgate_config_last_reload_timestamp_seconds 7.5");
    check(&metrics, "crossgate_config_broken_files 3");
    check(&metrics, r#"crossgate_config_reloads_total{result="partial"} 1"#);
    check(&metrics, r#"crossgate_config_reloads_total{result="failure"} 0"#);
}

/// An upstream with a value in every family.
fn upstream_spec() -> UpstreamSpec {
    let address = ServerAddress::Address(([10, 0, 0, 1], 80).into());
    let name = ServerAddress::Name { name: "orders.internal".into(), port: 80 };
    UpstreamSpec {
        name: Located { value: "orders".into(), at: Position::START },
        servers: [address, name].map(|address| ServerSpec { address, weight: 1, is_backup: false }).into(),
        timeouts: Timeouts::default(),
        attempts: 2,
        host: None,
        protocol: Protocol::Http1,
        tls: None,
        health_check: Some(HealthCheck {
            request: CheckRequest::Get(PathAndQuery::from_static("/healthz")),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_after: 1,
            unhealthy_after: 1,
            host: None,
        }),
        limits: Some(UpstreamLimits { max_requests: 9, max_pending: 9, pending_timeout: Duration::from_secs(1) }),
    }
}

#[test]
fn upstream_gauges_are_current_and_end_with_the_upstream() {
    let (metrics, _tenant, upstream) = filled();
    let _permit = upstream.queue.as_ref().unwrap().enter().unwrap();
    upstream.servers.weighted_servers()[0].server.set_unhealthy(true);
    let states = |up, unhealthy| {
        check(&metrics, &format!(r#"crossgate_upstream_servers{{upstream="orders",state="up"}} {up}"#));
        check(&metrics, r#"crossgate_upstream_servers{upstream="orders",state="ejected"} 0"#);
        check(&metrics, &format!(r#"crossgate_upstream_servers{{upstream="orders",state="unhealthy"}} {unhealthy}"#));
    };
    states(0, 1);
    check(&metrics, r#"crossgate_upstream_health_checks_total{upstream="orders",result="failed"} 0"#);
    check(&metrics, r#"crossgate_upstream_names_lost{upstream="orders"} 1"#);
    check(&metrics, r#"crossgate_upstream_lookup_failures_total{upstream="orders"} 1"#);
    check(&metrics, r#"crossgate_upstream_requests_active{upstream="orders"} 1"#);
    check(&metrics, r#"crossgate_upstream_requests_pending{upstream="orders"} 0"#);
    upstream.servers.set_addresses(1, ["10.0.0.2", "10.0.0.3"].map(|address| address.parse().unwrap()).into());
    states(2, 1);
    check(&metrics, r#"crossgate_upstream_names_lost{upstream="orders"} 0"#);
    let counters = Arc::clone(&upstream.counters);
    drop(upstream);
    let text = metrics.render();
    assert!(!text.contains("crossgate_upstream_servers"), "{text}");
    check(&metrics, r#"crossgate_upstream_refusals_total{upstream="orders",reason="limit"} 1"#);
    drop(counters);
}

/// Metrics in which every family has a series. The other returned values keep them alive.
fn filled() -> (Arc<GatewayMetrics>, Arc<TenantCounters>, Arc<Upstream>) {
    let metrics = GatewayMetrics::new();
    let tenant = metrics.tenant("acme");
    tenant.count_request(RequestKind::Actual, VerdictLabel::Allow, Reason::Exact);
    tenant.count_response(Some(SentResponse::by_upstream(http::StatusCode::OK)), Duration::from_millis(3));
    tenant.count_disagreement(Change::OtherValue);
    let policy = policy(&["https://*.a.example"]);
    for entry in entries(&policy) {
        tenant.count_origin(&EntryHandles::new(), &policy, Some(entry), VerdictLabel::Allow);
    }
    let upstream = Arc::new(Upstream::new(&upstream_spec(), None, metrics.upstream("orders"), None));
    upstream.report_as_serving();
    upstream.counters.duration.observe(Duration::from_millis(3));
    upstream.counters.count_error(UpstreamError::ConnectRefused);
    upstream.counters.count_refusal(UpstreamRefusal::Limit);
    upstream.counters.count_check(CheckResult::Passed);
    upstream.servers.mark_lost(1, "refused");
    metrics.connections.count_early_close(EarlyClose::SlowBody);
    metrics.connections.count_refusal(431);
    metrics.decisions.time(|| ());
    (metrics, tenant, upstream)
}

#[test]
fn promtool_accepts_every_family() {
    let (metrics, _tenant, _upstream) = filled();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian package prometheus)");
    promtool.stdin.take().unwrap().write_all(metrics.render().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && messages.is_empty(), "{messages}\n{}", metrics.render());
}
