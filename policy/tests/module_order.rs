//! Checks that modules import only modules before them in the order of this file.

#![expect(clippy::unwrap_used, clippy::string_slice, reason = "a test fails by panicking")]

#[path = "../../tools/module_order.rs"]
mod module_order;

use std::path::Path;

/// The modules of this crate, lowest first.
const ORDER: [&str; 14] = [
    "group",
    "spec",
    "names",
    "origin",
    "verdict",
    "request",
    "request_headers",
    "headers",
    "rule",
    "policy",
    "site",
    "cross_site",
    "near_miss",
    "compile",
];

#[test]
fn modules_import_lower_ones_alone() {
    module_order::check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &ORDER);
}
