//! Tests of the origin series of tenants: they follow the configured entries.

use super::*;

/// Counts one request for every origin that the tenant itself lists.
fn count_own_origins(tenant: &Tenant) {
    for route in tenant.routes() {
        let entries = (0..).take(route.policy.entry_counts().own).map(crossgate_policy::EntryId::Own);
        for entry in entries {
            tenant.counters.count_origin(
                &route.handles,
                &route.policy,
                Some(crate::counters::CountedEntry { entry, group: crossgate_policy::GroupId::BASE }),
                crate::metrics::VerdictLabel::Allow,
            );
        }
    }
}

#[test]
fn origin_series_of_removed_entries_are_dropped() {
    let files = Files::new(&[]);
    let metrics = GatewayMetrics::new();
    let write = |round: usize| {
        let origins: Vec<_> = (0..1_000).map(|n| format!("\"https://r{round}-{n}.example\"")).collect();
        files.replace("tenants.d/acme.yaml", &tenant("acme", &format!(", allowOrigins: [{}]", origins.join(", "))));
    };
    write(0);
    let reloader =
        Reloader::start(&files.path("gateway.yaml"), BrokenTenants::Refuse, &metrics).unwrap_or_else(|e| panic!("{e}"));
    for round in 1..=4 {
        count_own_origins(reloader.current().latest().tenant_by_id("acme").unwrap());
        let text = metrics.render();
        let series: Vec<_> = text.lines().filter(|line| line.contains(r#"origin="https://"#)).collect();
        let last = format!(r#"origin="https://r{}-"#, round - 1);
        assert!(series.iter().all(|line| line.contains(&last) && line.ends_with("} 1")), "{round}: {}", series[0]);
        assert_eq!(series.len(), 1_000, "{round}");
        assert!(!text.contains("crossgate_metrics_overflow_total{"), "{round}");
        write(round);
        reloader.reload_now().unwrap();
    }
}

#[test]
fn origin_series_of_kept_entries_continue() {
    let files = Files::new(&["acme"]);
    let metrics = GatewayMetrics::new();
    let add = |more: &str| files.replace("tenants.d/acme.yaml", &tenant("acme", more));
    add(r#", allowOrigins: ["https://own.example"]"#);
    let reloader =
        Reloader::start(&files.path("gateway.yaml"), BrokenTenants::Refuse, &metrics).unwrap_or_else(|e| panic!("{e}"));
    count_own_origins(reloader.current().latest().tenant_by_id("acme").unwrap());
    add(r#", allowOrigins: ["https://new.example", "https://own.example"]"#);
    reloader.reload_now().unwrap();
    count_own_origins(reloader.current().latest().tenant_by_id("acme").unwrap());
    let text = metrics.render();
    assert!(text.contains(r#"origin="https://own.example",verdict="allow"} 2"#), "{text}");
}
