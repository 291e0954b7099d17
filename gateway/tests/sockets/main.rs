//! Tests of the built binary over sockets, signals, files and a browser: one test binary, one
//! module per subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

mod access_log;
mod admin_page;
mod balance;
mod balancers;
mod browser;
mod cache;
mod check;
mod checks;
mod commands;
mod cookies;
mod corpus;
mod cross_site;
mod cross_site_browser;
mod demo;
mod diagnostics;
mod embedding;
mod exchange;
mod explain;
mod faults;
mod gateway_api;
mod gone;
mod groups;
mod harness;
mod headers;
mod hops;
mod http2;
mod kept;
mod lifecycle;
mod listener_checks;
mod metrics;
mod names;
mod network;
mod origins;
mod overload;
mod pages;
mod presets;
mod probes;
mod proxy_status;
mod queue;
mod refusals;
mod reload;
mod request_ids;
mod requests;
mod route_actions;
mod routes;
mod rules;
mod secrets;
mod service_manager;
mod slow;
mod stream_limit;
mod streaming;
mod support;
mod tls;
mod trace;
mod upgrade;
mod uploads;
mod upstream_http2;
mod upstream_tls;
mod warnings;
mod wire;
