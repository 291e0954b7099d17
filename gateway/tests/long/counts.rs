//! Exact counts of a million requests.
use crate::support::counted_flood;

#[test]
fn million_preflights_are_counted_exactly_during_scrapes() {
    counted_flood(1_000_000);
}
