//! What pages can do through the gateway, with a real browser as the judge: tables of rows, each a few requests of a page, what it
//! must see of the answers, and which requests must have come to the gateway for it.
//!
//! Pages are `app` and `second`, which the policies of `gateway.yaml` allow, `evil` on the same site, `stranger` on another, and
//! `own`, a page of the API itself. `to: HOST/BEHAVIOUR` names a tenant and what its upstream does (`servers.rs`). The upstream knows nothing
//! of CORS and never sees an `OPTIONS`. A row that `needs` a field of the answers is also run without it, and must fail then. Every table is run over http
//! and over https, where pages and API have certificates that the browser trusts, and everything but WebSockets goes over HTTP/2.

mod servers;
mod stage;

use std::collections::BTreeSet;

use stage::{Row, SCHEMES, Scheme, Stage};

/// Runs every row of a table, and reports all that fail together.
fn check(table: &str) {
    SCHEMES.into_iter().for_each(|scheme| check_over(scheme, table));
}

fn check_over(scheme: Scheme, table: &str) {
    let stage = Stage::start(scheme);
    let rows = stage.rows(table);
    let mut failures: Vec<String> =
        rows.iter().enumerate().filter_map(|(nth, row)| stage.run(row, &nth.to_string()).err()).collect();
    failures.extend(stage.finish(rows.iter().enumerate().map(|(nth, row)| (row, nth.to_string()))));
    let (failed, count) = (failures.len(), rows.len());
    assert!(failures.is_empty(), "{failed} failures in {count} rows over {scheme:?}\n{}", failures.join("\n"));
}

const READING: &str = include_str!("pages/reading.yaml");
const PREFLIGHTS: &str = include_str!("pages/preflights.yaml");
const REDIRECTS: &str = include_str!("pages/redirects.yaml");
const ORIGINS: &str = include_str!("pages/origins.yaml");
const ERRORS: &str = include_str!("pages/errors.yaml");

#[test]
fn pages_read_what_their_policy_lets_them() {
    check(READING);
}

#[test]
fn browsers_ask_leave_where_they_must_and_heed_the_answer() {
    check(PREFLIGHTS);
}

#[test]
fn every_hop_of_a_redirect_is_judged() {
    check(REDIRECTS);
}

#[test]
fn frames_workers_forms_and_sockets_are_told_apart() {
    check(ORIGINS);
}

#[test]
fn allowed_pages_read_the_gateways_own_errors() {
    check(ERRORS);
}

#[test]
fn every_row_fails_without_the_fields_it_needs() {
    check_needs(Scheme::Http);
}

#[test]
fn every_row_over_https_fails_without_the_fields_it_needs() {
    check_needs(Scheme::Https);
}

fn check_needs(scheme: Scheme) {
    let (stage, relay) = Stage::behind_relay(scheme);
    let tables = [READING, PREFLIGHTS, REDIRECTS, ORIGINS, ERRORS];
    let rows: Vec<Row> = tables.into_iter().flat_map(|table| stage.rows(table)).collect();
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.needs.is_empty()).collect();
    let fields: BTreeSet<&str> = rows.iter().flat_map(|row| &row.needs).map(String::as_str).collect();
    for (nth, row) in rows.iter().enumerate() {
        stage.run(row, &format!("whole-{nth}")).unwrap_or_else(|failure| panic!("{failure}"));
    }
    for field in fields {
        relay.take(field);
        let needing = rows.iter().enumerate().filter(|(_, row)| row.needs.iter().any(|need| need == field));
        for (nth, row) in needing {
            assert!(
                stage.run(row, &format!("{field}-{nth}")).is_err(),
                "passes without {field} over {scheme:?}: {row:?}"
            );
        }
    }
}
