//! Checks that no module imports one that is listed after it, so that modules form no cycle.

#![expect(clippy::unwrap_used, clippy::string_slice, reason = "a test fails by panicking")]

#[path = "../../tools/module_order.rs"]
mod module_order;

use std::path::Path;

/// The modules of this crate, lowest first.
const ORDER: [&str; 20] = [
    "content_length",
    "escape",
    "fields",
    "field_sink",
    "received_head",
    "host",
    "target",
    "path_change",
    "redirect",
    "location",
    "trace_context",
    "head_flaw",
    "health_path",
    "forwarded",
    "rewrite",
    "hop_by_hop",
    "response_head",
    "field_edits",
    "upstream_request",
    "route_match",
];

#[test]
fn modules_import_lower_ones_alone() {
    module_order::check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &ORDER);
}
