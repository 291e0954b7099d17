//! No circle of modules.

#![expect(clippy::unwrap_used, clippy::string_slice, reason = "a test fails by panicking")]

#[path = "../../tools/module_order.rs"]
mod module_order;

use std::path::Path;

/// The modules of this crate, lowest first.
const ORDER: [&str; 42] = [
    // Leaves.
    "version",
    "html",
    "fault",
    "throttle",
    "descriptors",
    // Metrics and diagnostics of all components.
    "metrics",
    "background",
    "diagnostics_log",
    "request_head",
    // Tenants, upstreams and what is known of them.
    "breaker",
    "access_log",
    "ledger",
    "counters",
    "probe",
    "denials",
    "queue",
    "scripts",
    "servers",
    "upstream",
    "verdicts",
    "registry",
    "shared_policy",
    "route",
    "route_index",
    "tenant",
    "snapshot",
    // One request.
    "judge",
    "cookies",
    "log_request",
    "proxy_status",
    "respond",
    "proxy",
    "explain",
    // The process.
    "admin",
    "upkeep",
    "settings",
    "reload",
    "service_manager",
    "upgrade",
    "process",
    "demo_upstream",
    "cli",
];

#[test]
fn modules_import_lower_ones_alone() {
    module_order::check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &ORDER);
}
