//! Pages in a real browser that use APIs through the gateway.
//!
//! A row of a table has some requests of a page, the parts of the answers that the page must see,
//! and the requests that the gateway must receive.
//!
//! The policies of `gateway.yaml` allow the pages `app` and `second`. `evil` is on the same site,
//! `stranger` on another site, and `own` is a page of the API. `to: HOST/BEHAVIOUR` names a tenant
//! and the behaviour of its upstream (`servers.rs`), which has no CORS logic and never gets an
//! `OPTIONS`. A row that `needs` a field of the answers also runs without it and must then fail.
//! Every table runs over http and over https with trusted certificates; over https all but
//! WebSockets use HTTP/2.

mod servers;
mod setup;

use std::collections::BTreeSet;

use setup::{BrowserSetup, Row, SCHEMES, Scheme};

/// Runs every row of a table and reports all failures together.
fn check(table: &str) {
    SCHEMES.into_iter().for_each(|scheme| check_over(scheme, table));
}

fn check_over(scheme: Scheme, table: &str) {
    let setup = BrowserSetup::start(scheme);
    let rows = setup.rows(table);
    let mut failures: Vec<String> =
        rows.iter().enumerate().filter_map(|(nth, row)| setup.run(row, &nth.to_string()).err()).collect();
    failures.extend(setup.finish(rows.iter().enumerate().map(|(nth, row)| (row, nth.to_string()))));
    let (failed, count) = (failures.len(), rows.len());
    assert!(failures.is_empty(), "{failed} failures in {count} rows over {scheme:?}\n{}", failures.join("\n"));
}

const READING: &str = include_str!("pages/reading.yaml");
const PREFLIGHTS: &str = include_str!("pages/preflights.yaml");
const REDIRECTS: &str = include_str!("pages/redirects.yaml");
const ORIGINS: &str = include_str!("pages/origins.yaml");
const ERRORS: &str = include_str!("pages/errors.yaml");

#[test]
fn pages_read_only_what_their_policy_allows() {
    check(READING);
}

#[test]
fn browsers_send_required_preflights_and_obey_the_answer() {
    check(PREFLIGHTS);
}

#[test]
fn every_hop_of_a_redirect_is_judged() {
    check(REDIRECTS);
}

#[test]
fn frames_workers_forms_and_websockets_are_judged() {
    check(ORIGINS);
}

#[test]
fn allowed_pages_read_gateway_errors() {
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
    let (setup, relay) = BrowserSetup::behind_relay(scheme);
    let tables = [READING, PREFLIGHTS, REDIRECTS, ORIGINS, ERRORS];
    let rows: Vec<Row> = tables.into_iter().flat_map(|table| setup.rows(table)).collect();
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.needs.is_empty()).collect();
    let fields: BTreeSet<&str> = rows.iter().flat_map(|row| &row.needs).map(String::as_str).collect();
    for (nth, row) in rows.iter().enumerate() {
        setup.run(row, &format!("whole-{nth}")).unwrap_or_else(|failure| panic!("{failure}"));
    }
    for field in fields {
        relay.remove(field);
        let needing = rows.iter().enumerate().filter(|(_, row)| row.needs.iter().any(|need| need == field));
        for (nth, row) in needing {
            assert!(
                setup.run(row, &format!("{field}-{nth}")).is_err(),
                "the row passes without {field} over {scheme:?}: {row:?}"
            );
        }
    }
}
