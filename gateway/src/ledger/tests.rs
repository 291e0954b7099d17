//! What is recorded adds up, is bounded, and is true within its error.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::page::Seen;
use super::report::Origins;
use super::*;

const START: Duration = Duration::from_secs(1_700_000_000);
const DENY: VerdictLabel = VerdictLabel::Deny;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + START + Duration::from_secs(seconds)
}

fn ledger(origins: usize, origins_per_tenant: usize) -> Arc<Ledger> {
    let ledger = Ledger::new(at(0));
    ledger.set_limits(LedgerLimits { origins, origins_per_tenant }, Vec::new);
    ledger
}

fn pages(ledger: &Arc<Ledger>, number: usize) -> Vec<Arc<Page>> {
    std::iter::repeat_with(|| Page::new(Arc::clone(ledger))).take(number).collect()
}

fn enter(page: &Page, origin: &str, times: u64) {
    page.enter(&Seen { origin: origin.as_bytes(), counts: [0, times, 0, 0], last_reason: Reason::NoMatch });
}

fn deny(page: &Arc<Page>, origin: &str) {
    notes::note(page, origin.as_bytes(), DENY, Reason::NoMatch);
}

/// What was counted of each origin, and how much there may have been before.
fn entries(page: &Page) -> BTreeMap<String, (u64, u64)> {
    let entries = page.read().entries.into_iter();
    entries.map(|entry| (entry.origin.into(), (entry.counts.iter().sum(), entry.error))).collect()
}

/// All that was recorded.
fn all_requests(page: &Page) -> u64 {
    let reading = page.read();
    let counted: u64 = reading.entries.iter().flat_map(|entry| entry.counts).sum();
    counted + reading.forgotten
}

proptest! {
    /// The promises of the algorithm, for streams of any shape, entered in pieces of any size and cut short in between.
    #[test]
    fn counts_are_true_within_their_error(
        len_max in 1_usize..8,
        stream in prop::collection::vec((0_u8..24, 1_u64..9), 0..300),
        cut_at in 0_usize..300,
    ) {
        let ledger = ledger(100, len_max);
        let page = &pages(&ledger, 1)[0];
        let mut true_counts: BTreeMap<String, u64> = BTreeMap::new();
        for (number, (origin, times)) in stream.iter().enumerate() {
            let origin = format!("https://{}.test", origin.min(&(origin % 7)));
            enter(page, &origin, *times);
            *true_counts.entry(origin).or_default() += times;
            if number == cut_at {
                page.shorten_to(len_max / 2);
            }
        }
        let (told, total) = (entries(page), true_counts.values().sum::<u64>());
        prop_assert!(told.len() <= len_max && told.len() == ledger.entries());
        for (origin, (counted, error)) in &told {
            prop_assert!((*counted..=counted + error).contains(&true_counts[origin]), "{origin}: {told:?}");
        }
        let is_cut = stream.len() > cut_at;
        for (origin, count) in &true_counts {
            let is_frequent = *count > total / len_max as u64;
            prop_assert!(is_cut || !is_frequent || told.contains_key(origin), "{origin} {count} of {total}: {told:?}");
        }
        prop_assert_eq!(all_requests(page), total);
    }
}

#[test]
fn what_is_seen_often_outlives_a_flood() {
    let ledger = ledger(1_000, 16);
    let page = &pages(&ledger, 1)[0];
    for round in 0..1_000 {
        enter(page, "https://often.test", 1);
        enter(page, &format!("https://once-{round}.test"), 1);
    }
    assert_eq!(entries(page)["https://often.test"], (1_000, 0));
    assert_eq!((ledger.entries(), all_requests(page)), (16, 2_000));
    assert_eq!(ledger.evictions(), 1_000 - 15);
}

#[test]
fn a_page_that_floods_takes_nobody_elses_room() {
    let ledger = ledger(1_000, 256);
    let pages = pages(&ledger, 20);
    let (quiet, loud) = pages.split_at(10);
    for (page, number) in quiet.iter().flat_map(|page| (0..5).map(move |number| (page, number))) {
        enter(page, &format!("https://quiet-{number}.test"), 1);
    }
    for round in 0..2_000 {
        for page in loud {
            enter(page, &format!("https://loud-{round}.test"), 1);
        }
        assert!(ledger.entries() <= 1_000);
        if round % 100 == 0 {
            ledger.tend(at(round), || pages.clone());
        }
    }
    ledger.tend(at(9_999), || pages.clone());
    assert!(ledger.entries() <= 1_000 - 1_000 / FREE_AT_LEAST);
    assert_eq!(pages.iter().map(|page| page.len()).sum::<usize>(), ledger.entries());
    assert!(quiet.iter().all(|page| page.len() == 5 && page.read().forgotten == 0), "they keep what they had");
    assert!(loud.iter().all(|page| (50..=256).contains(&page.len())), "and these share the rest");
    assert!(pages.iter().zip(0..).all(|(page, number)| all_requests(page) == if number < 10 { 5 } else { 2_000 }));
}

#[test]
fn where_there_are_more_tenants_than_places_the_latest_have_them() {
    let ledger = ledger(1_000, 256);
    let pages = pages(&ledger, 3_000);
    for (page, second) in pages.iter().zip(1..) {
        enter(page, "https://app.test", 1);
        ledger.tend(at(second), || pages.clone());
        assert!(ledger.entries() <= 1_000 - 1_000 / FREE_AT_LEAST);
    }
    assert!(pages[3_000 - 700..].iter().all(|page| page.len() == 1));
    assert!(pages.iter().all(|page| all_requests(page) == 1));
}

#[test]
fn a_million_origins_of_ten_thousand_tenants_stay_within_the_bounds() {
    let limits = LedgerLimits::default();
    let ledger = ledger(limits.origins, limits.origins_per_tenant);
    let pages = pages(&ledger, 10_000);
    for round in 0..100 {
        for (page, tenant) in pages.iter().zip(0..) {
            // One in a hundred floods as it can.
            let turn = if tenant % 100 == 0 { round * 10_000 + tenant } else { round };
            deny(page, &format!("https://{turn:x}.{tenant}.test"));
        }
        ledger.tend(at(round), || pages.clone());
        assert!(ledger.entries() <= limits.origins);
    }
    let recorded = pages.iter().map(|page| all_requests(page)).sum::<u64>();
    assert_eq!(recorded + ledger.dropped(), 1_000_000);
    let bytes: usize = pages.iter().map(|page| page.bytes()).sum();
    println!("{} entries, {} KiB", ledger.entries(), bytes / 1024);
    assert!(bytes < 16 << 20, "{bytes} bytes");
    drop(pages);
    assert_eq!(ledger.entries(), 0, "with the tenants go their entries");
}

#[test]
fn nothing_is_lost_between_many_threads() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 20_000;
    let ledger = ledger(200, 64);
    let pages = pages(&ledger, 5);
    let barrier = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (pages, barrier) = (&pages, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..ROUNDS {
                    let page = &pages[round % pages.len()];
                    deny(page, if round % 3 == 0 { "https://often.test" } else { "https://also.test" });
                    deny(page, &format!("https://{round}-{thread}.test"));
                }
            });
        }
        barrier.wait();
        for second in 0..50 {
            ledger.tend(at(second), || pages.clone());
        }
    });
    ledger.tend(at(60), || pages.clone());
    let all = pages.iter().map(|page| all_requests(page)).sum::<u64>();
    assert_eq!(all + ledger.dropped(), (2 * THREADS * ROUNDS) as u64);
}

#[test]
fn those_in_use_are_counted_to_the_request_while_newcomers_find_no_time() {
    let ledger = ledger(1_000, 256);
    let page = &pages(&ledger, 1)[0];
    deny(page, "https://often.test");
    deny(page, "https://often.test");
    for round in 0..100_000 {
        deny(page, &format!("https://{round}.test"));
        if round % 10 == 0 {
            deny(page, "https://often.test");
        }
    }
    ledger.tend(at(1), || vec![Arc::clone(page)]);
    assert_eq!(entries(page)["https://often.test"].0, 10_002);
    assert!(ledger.dropped() > 50_000, "{} dropped", ledger.dropped());
    assert_eq!(all_requests(page) + ledger.dropped(), 110_002);
}

#[test]
fn what_is_no_origin_is_not_kept() {
    let ledger = ledger(1_000, 256);
    let page = &pages(&ledger, 1)[0];
    let longest = format!("https://{}", "a".repeat(ORIGIN_LEN_MAX));
    let values = [
        "https://a.test/",
        "HTTPS://a.test",
        "",
        "a b",
        "\u{1b}[31m",
        "malformed",
        longest.as_str(),
        "https://a..test",
    ];
    for value in values {
        // A policy for any origin has not looked at it.
        for reason in [Reason::Any, Reason::MalformedOrigin] {
            notes::note(page, name(reason, Field::One(value.as_bytes())), DENY, reason);
        }
    }
    notes::note(page, name(Reason::MalformedOrigin, Field::Many), DENY, Reason::MalformedOrigin);
    notes::note(page, name(Reason::NullOrigin, Field::One(b"null")), DENY, Reason::NullOrigin);
    notes::note(page, name(Reason::Any, Field::One(b"app://x")), DENY, Reason::Any);
    ledger.tend(at(1), Vec::new);
    let told = [("app://x", 1), ("malformed", 2 * values.len() as u64 + 1), ("null", 1)];
    let told = told.map(|(origin, times)| (origin.to_owned(), (times, 0)));
    assert_eq!(entries(page), BTreeMap::from(told));
}

#[test]
fn a_tenant_that_returns_begins_anew() {
    let ledger = ledger(1_000, 256);
    let old = Page::new(Arc::clone(&ledger));
    deny(&old, "https://app.test");
    ledger.tend(at(1), Vec::new);
    deny(&old, "https://app.test");
    assert_eq!(ledger.entries(), 1);
    drop(old);
    assert_eq!(ledger.entries(), 0);
    let new = Page::new(Arc::clone(&ledger));
    ledger.tend(at(2), Vec::new);
    assert_eq!(entries(&new), BTreeMap::new());
    deny(&new, "https://app.test");
    ledger.tend(at(3), Vec::new);
    assert_eq!(entries(&new)["https://app.test"], (1, 0));
}

#[test]
fn other_limits_begin_it_anew_and_the_same_do_not() {
    let ledger = ledger(1_000, 256);
    let pages = pages(&ledger, 1);
    deny(&pages[0], "https://app.test");
    ledger.set_limits(ledger.limits(), || pages.clone());
    ledger.tend(at(1), Vec::new);
    assert_eq!(ledger.entries(), 1);
    deny(&pages[0], "https://app.test");
    ledger.set_limits(LedgerLimits { origins: 10, origins_per_tenant: 5 }, || pages.clone());
    assert_eq!((ledger.entries(), all_requests(&pages[0])), (0, 0));
    ledger.set_limits(LedgerLimits::OFF, || pages.clone());
    assert!(!ledger.is_on());
}

fn told(ledger: &Ledger, pages: &[(&str, &Arc<Page>)], query: &str) -> Value {
    let pages: Vec<_> = pages.iter().map(|(id, page)| (Box::from(*id), Arc::clone(page))).collect();
    json!(report(ledger, &pages, &Origins::from_query(query).unwrap()))
}

#[test]
fn a_report_has_the_documented_fields() {
    let ledger = ledger(1_000, 256);
    let page = &pages(&ledger, 1)[0];
    for (verdict, reason) in [(VerdictLabel::Allow, Reason::Exact), (DENY, Reason::Method), (DENY, Reason::Header)] {
        notes::note(page, b"https://app.test", verdict, reason);
    }
    ledger.tend(at(60), Vec::new);
    notes::note(page, b"https://app.test", VerdictLabel::WouldAllow, Reason::Exact);
    ledger.tend(at(90), Vec::new);
    let expected = json!({
        "enabled": true, "entries": 1, "entriesMax": 1_000, "entriesMaxPerTenant": 256,
        "since": "2023-11-14T22:13:20Z", "forgotten": 0, "dropped": 0, "leftOut": 0,
        "origins": [{
            "tenant": "acme", "origin": "https://app.test",
            "allowed": 1, "denied": 2, "wouldAllow": 1, "wouldDeny": 0, "error": 0,
            "firstSeen": "2023-11-14T22:14:20Z", "lastSeen": "2023-11-14T22:14:50Z", "lastReason": "exact",
        }],
    });
    assert_eq!(told(&ledger, &[("acme", page)], ""), expected);
}

#[test]
fn a_report_is_in_the_order_of_what_was_asked_for_and_cut_there() {
    let ledger = ledger(1_000, 256);
    let pages = pages(&ledger, 2);
    let (a, b) = (("a", &pages[0]), ("b", &pages[1]));
    for (page, origin, counts) in [
        (a.1, "https://x.test", [9, 1, 0, 0]),
        (a.1, "https://y.test", [0, 0, 0, 5]),
        (a.1, "https://z.test", [0, 3, 2, 0]),
        (b.1, "https://y.test", [0, 4, 0, 1]),
    ] {
        page.enter(&Seen { origin: origin.as_bytes(), counts, last_reason: Reason::NoMatch });
    }
    let order = |query: &str| {
        let told = told(&ledger, &[a, b], query);
        let origins = told["origins"].as_array().unwrap().iter();
        let name = |one: &Value| {
            let origin = one["origin"].as_str().unwrap().strip_prefix("https://").unwrap();
            format!("{}{}", one["tenant"].as_str().unwrap(), origin.strip_suffix(".test").unwrap())
        };
        let names: Vec<_> = origins.map(name).collect();
        (names.join(" "), told["leftOut"].as_u64().unwrap())
    };
    assert_eq!(order(""), ("ax ay az by".to_owned(), 0));
    assert_eq!(order("verdict=deny"), ("ay by az ax".to_owned(), 0));
    assert_eq!(order("verdict=allow"), ("ax az".to_owned(), 0));
    assert_eq!(order("verdict=deny&limit=2"), ("ay by".to_owned(), 2));
}

#[test]
fn a_wrong_query_says_what_is_wrong() {
    let asked = Origins::from_query("tenant=a%20b&verdict=deny&limit=5").unwrap();
    assert_eq!((asked.tenant.as_deref(), asked.verdict, asked.limit), (Some("a b"), Some(Asked::Deny), 5));
    for (query, part) in [
        ("tenants=a", "accepted are tenant, verdict and limit"),
        ("tenant=a&tenant=a", "twice"),
        ("verdict=would_deny", "allow and deny"),
        ("limit=0", "from 1 to"),
        ("limit=10001", "from 1 to"),
        ("limit=-1", "from 1 to"),
    ] {
        let error = Origins::from_query(query).unwrap_err().to_string();
        assert!(error.contains(part), "{query}: {error}");
    }
}
