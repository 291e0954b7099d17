//! HTTP messages without I/O: header fields, hosts, targets, and the changes that a gateway makes
//! between two connections.
//!
//! All functions take bytes or parsed heads and return values; the caller sets the limits. Absent
//! on purpose: sockets, clocks, tenants and any CORS rule.

pub mod content_length;
pub mod escape;
pub mod field_edits;
pub mod field_sink;
pub mod fields;
pub mod forwarded;
pub mod head_flaw;
pub mod health_path;
pub mod hop_by_hop;
pub mod host;
pub mod location;
pub mod path_change;
pub mod received_head;
pub mod redirect;
pub mod response_head;
pub mod rewrite;
pub mod route_match;
pub mod target;
pub mod trace_context;
pub mod upstream_request;
