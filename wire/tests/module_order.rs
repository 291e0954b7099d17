//! Checks that no module imports one that is listed after it, so that modules form no cycle.

#![expect(clippy::unwrap_used, clippy::string_slice, reason = "a test fails by panicking")]

#[path = "../../tools/module_order.rs"]
mod module_order;

use std::path::Path;

/// The modules of this crate, lowest first.
const ORDER: [&str; 10] =
    ["metrics", "background", "refusal", "tls", "socket", "exchange", "proxy_protocol", "http2", "lane", "runner"];

#[test]
fn modules_import_lower_ones_alone() {
    module_order::check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &ORDER);
}
