//! The modules of this crate import each other without circles.

#![expect(clippy::unwrap_used, clippy::string_slice, reason = "a test fails by panicking")]

#[path = "../../tools/module_order.rs"]
mod module_order;

use std::path::Path;

/// The modules of this crate, lowest first.
const ORDER: [&str; 25] = [
    "address_ranges",
    "own_sockets",
    "scalars",
    "node",
    "keys",
    "model",
    "schema",
    "sections",
    "warnings",
    "hints",
    "diagnostics",
    "syntax",
    "tree",
    "files",
    "decode",
    "listener_tls",
    "upstream_tls",
    "rules",
    "settings",
    "policies",
    "servers",
    "header_edits",
    "route_actions",
    "route_matches",
    "tenants",
];

#[test]
fn modules_import_only_lower_modules() {
    module_order::check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &ORDER);
}
