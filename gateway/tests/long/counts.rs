//! A million requests, counted to the last one.
use crate::support::counted_flood;

#[test]
fn a_million_preflights_are_counted_to_the_last_while_they_are_scraped() {
    counted_flood(1_000_000);
}
