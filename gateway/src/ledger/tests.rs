//! The ledger's counts add up, are bounded, and are true within their error.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::report::OriginsQuery;
use super::tenant_ledger::OriginSighting;
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

fn tenant_ledgers(ledger: &Arc<Ledger>, number: usize) -> Vec<Arc<TenantLedger>> {
    std::iter::repeat_with(|| TenantLedger::new(Arc::clone(ledger))).take(number).collect()
}

fn enter(tenant_ledger: &TenantLedger, origin: &str, times: u64) {
    tenant_ledger.enter(&OriginSighting {
        origin: origin.as_bytes(),
        counts: [0, times, 0, 0],
        last_reason: Reason::NoMatch,
        last_group: GroupLabel::NONE,
    });
}

fn outcome(verdict: VerdictLabel, reason: Reason) -> RecordedOutcome {
    RecordedOutcome { verdict, reason, group: GroupLabel::NONE }
}

fn deny(tenant_ledger: &Arc<TenantLedger>, origin: &str) {
    worker_buffer::note(tenant_ledger, origin.as_bytes(), outcome(DENY, Reason::NoMatch));
}

/// The count and the error of each origin.
fn entries(tenant_ledger: &TenantLedger) -> BTreeMap<String, (u64, u64)> {
    let entries = tenant_ledger.read().entries.into_iter();
    entries.map(|entry| (entry.origin.into(), (entry.counts.iter().sum(), entry.error))).collect()
}

/// All recorded requests, with those of evicted entries.
fn all_requests(tenant_ledger: &TenantLedger) -> u64 {
    let snapshot = tenant_ledger.read();
    let counted: u64 = snapshot.entries.iter().flat_map(|entry| entry.counts).sum();
    counted + snapshot.forgotten
}

proptest! {
    /// Counts hold the algorithm's guarantees for streams of any shape, with a shortening in
    /// between.
    #[test]
    fn counts_are_true_within_their_error(
        len_max in 1_usize..8,
        stream in prop::collection::vec((0_u8..24, 1_u64..9), 0..300),
        cut_at in 0_usize..300,
    ) {
        let ledger = ledger(100, len_max);
        let tenant_ledger = &tenant_ledgers(&ledger, 1)[0];
        let mut true_counts: BTreeMap<String, u64> = BTreeMap::new();
        for (number, (origin, times)) in stream.iter().enumerate() {
            let origin = format!("https://{}.test", origin.min(&(origin % 7)));
            enter(tenant_ledger, &origin, *times);
            *true_counts.entry(origin).or_default() += times;
            if number == cut_at {
                tenant_ledger.shorten_to(len_max / 2);
            }
        }
        let (recorded, total) = (entries(tenant_ledger), true_counts.values().sum::<u64>());
        prop_assert!(recorded.len() <= len_max && recorded.len() == ledger.entries());
        for (origin, (counted, error)) in &recorded {
            prop_assert!((*counted..=counted + error).contains(&true_counts[origin]), "{origin}: {recorded:?}");
        }
        let is_cut = stream.len() > cut_at;
        for (origin, count) in &true_counts {
            let is_frequent = *count > total / len_max as u64;
            prop_assert!(is_cut || !is_frequent || recorded.contains_key(origin), "{origin} {count} of {total}: {recorded:?}");
        }
        prop_assert_eq!(all_requests(tenant_ledger), total);
    }
}

#[test]
fn frequent_origin_survives_a_flood_of_new_ones() {
    let ledger = ledger(1_000, 16);
    let tenant_ledger = &tenant_ledgers(&ledger, 1)[0];
    for round in 0..1_000 {
        enter(tenant_ledger, "https://often.test", 1);
        enter(tenant_ledger, &format!("https://once-{round}.test"), 1);
    }
    assert_eq!(entries(tenant_ledger)["https://often.test"], (1_000, 0));
    assert_eq!((ledger.entries(), all_requests(tenant_ledger)), (16, 2_000));
    assert_eq!(ledger.evictions(), 1_000 - 15);
}

#[test]
fn flooding_tenants_do_not_evict_entries_of_quiet_tenants() {
    let ledger = ledger(1_000, 256);
    let tenant_ledgers = tenant_ledgers(&ledger, 20);
    let (quiet, loud) = tenant_ledgers.split_at(10);
    for (tenant_ledger, number) in
        quiet.iter().flat_map(|tenant_ledger| (0..5).map(move |number| (tenant_ledger, number)))
    {
        enter(tenant_ledger, &format!("https://quiet-{number}.test"), 1);
    }
    for round in 0..2_000 {
        for tenant_ledger in loud {
            enter(tenant_ledger, &format!("https://loud-{round}.test"), 1);
        }
        assert!(ledger.entries() <= 1_000);
        if round % 100 == 0 {
            ledger.tend(at(round), || tenant_ledgers.clone());
        }
    }
    ledger.tend(at(9_999), || tenant_ledgers.clone());
    assert!(ledger.entries() <= 1_000 - 1_000 / FREE_AT_LEAST);
    assert_eq!(tenant_ledgers.iter().map(|tenant_ledger| tenant_ledger.len()).sum::<usize>(), ledger.entries());
    assert!(
        quiet.iter().all(|tenant_ledger| tenant_ledger.len() == 5 && tenant_ledger.read().forgotten == 0),
        "quiet tenants keep their entries"
    );
    assert!(
        loud.iter().all(|tenant_ledger| (50..=256).contains(&tenant_ledger.len())),
        "flooding tenants share the rest"
    );
    assert!(
        tenant_ledgers
            .iter()
            .zip(0..)
            .all(|(tenant_ledger, number)| all_requests(tenant_ledger) == if number < 10 { 5 } else { 2_000 })
    );
}

#[test]
fn with_more_tenants_than_entries_the_latest_tenants_keep_theirs() {
    let ledger = ledger(1_000, 256);
    let tenant_ledgers = tenant_ledgers(&ledger, 3_000);
    for (tenant_ledger, second) in tenant_ledgers.iter().zip(1..) {
        enter(tenant_ledger, "https://app.test", 1);
        ledger.tend(at(second), || tenant_ledgers.clone());
        assert!(ledger.entries() <= 1_000 - 1_000 / FREE_AT_LEAST);
    }
    assert!(tenant_ledgers[3_000 - 700..].iter().all(|tenant_ledger| tenant_ledger.len() == 1));
    assert!(tenant_ledgers.iter().all(|tenant_ledger| all_requests(tenant_ledger) == 1));
}

#[test]
fn a_million_origins_of_ten_thousand_tenants_stay_within_the_bounds() {
    let limits = LedgerLimits::default();
    let ledger = ledger(limits.origins, limits.origins_per_tenant);
    let tenant_ledgers = tenant_ledgers(&ledger, 10_000);
    for round in 0..100 {
        for (tenant_ledger, tenant) in tenant_ledgers.iter().zip(0..) {
            // One tenant in a hundred sends only new origins.
            let turn = if tenant % 100 == 0 { round * 10_000 + tenant } else { round };
            deny(tenant_ledger, &format!("https://{turn:x}.{tenant}.test"));
        }
        ledger.tend(at(round), || tenant_ledgers.clone());
        assert!(ledger.entries() <= limits.origins);
    }
    let recorded = tenant_ledgers.iter().map(|tenant_ledger| all_requests(tenant_ledger)).sum::<u64>();
    assert_eq!(recorded + ledger.dropped(), 1_000_000);
    let bytes: usize = tenant_ledgers.iter().map(|tenant_ledger| tenant_ledger.bytes()).sum();
    println!("{} entries, {} KiB", ledger.entries(), bytes / 1024);
    assert!(bytes < 16 << 20, "{bytes} bytes");
    drop(tenant_ledgers);
    assert_eq!(ledger.entries(), 0, "dropped tenants free their entries");
}

#[test]
fn concurrent_counts_are_recorded_or_dropped_exactly_once() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 20_000;
    let ledger = ledger(200, 64);
    let tenant_ledgers = tenant_ledgers(&ledger, 5);
    let barrier = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (tenant_ledgers, barrier) = (&tenant_ledgers, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..ROUNDS {
                    let tenant_ledger = &tenant_ledgers[round % tenant_ledgers.len()];
                    deny(tenant_ledger, if round % 3 == 0 { "https://often.test" } else { "https://also.test" });
                    deny(tenant_ledger, &format!("https://{round}-{thread}.test"));
                }
            });
        }
        barrier.wait();
        for second in 0..50 {
            ledger.tend(at(second), || tenant_ledgers.clone());
        }
    });
    ledger.tend(at(60), || tenant_ledgers.clone());
    let all = tenant_ledgers.iter().map(|tenant_ledger| all_requests(tenant_ledger)).sum::<u64>();
    assert_eq!(all + ledger.dropped(), (2 * THREADS * ROUNDS) as u64);
}

#[test]
fn frequent_origin_is_counted_exactly_while_newcomers_are_dropped() {
    let ledger = ledger(1_000, 256);
    let tenant_ledger = &tenant_ledgers(&ledger, 1)[0];
    deny(tenant_ledger, "https://often.test");
    deny(tenant_ledger, "https://often.test");
    for round in 0..100_000 {
        deny(tenant_ledger, &format!("https://{round}.test"));
        if round % 10 == 0 {
            deny(tenant_ledger, "https://often.test");
        }
    }
    ledger.tend(at(1), || vec![Arc::clone(tenant_ledger)]);
    assert_eq!(entries(tenant_ledger)["https://often.test"].0, 10_002);
    assert!(ledger.dropped() > 50_000, "{} dropped", ledger.dropped());
    assert_eq!(all_requests(tenant_ledger) + ledger.dropped(), 110_002);
}

#[test]
fn malformed_origins_are_counted_without_their_text() {
    let ledger = ledger(1_000, 256);
    let tenant_ledger = &tenant_ledgers(&ledger, 1)[0];
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
        // A policy for any origin does not parse the origin.
        for reason in [Reason::Any, Reason::MalformedOrigin] {
            worker_buffer::note(
                tenant_ledger,
                recorded_name(reason, RequestField::One(value.as_bytes())),
                outcome(DENY, reason),
            );
        }
    }
    worker_buffer::note(
        tenant_ledger,
        recorded_name(Reason::MalformedOrigin, RequestField::Many),
        outcome(DENY, Reason::MalformedOrigin),
    );
    worker_buffer::note(
        tenant_ledger,
        recorded_name(Reason::NullOrigin, RequestField::One(b"null")),
        outcome(DENY, Reason::NullOrigin),
    );
    worker_buffer::note(
        tenant_ledger,
        recorded_name(Reason::Any, RequestField::One(b"app://x")),
        outcome(DENY, Reason::Any),
    );
    worker_buffer::note(
        tenant_ledger,
        recorded_name(Reason::NoMatch, RequestField::One(b"file://")),
        outcome(DENY, Reason::NoMatch),
    );
    ledger.tend(at(1), Vec::new);
    let expected = [("app://x", 1), ("file://", 1), ("malformed", 2 * values.len() as u64 + 1), ("null", 1)];
    let expected = expected.map(|(origin, times)| (origin.to_owned(), (times, 0)));
    assert_eq!(entries(tenant_ledger), BTreeMap::from(expected));
}

#[test]
fn removed_tenant_returns_with_an_empty_ledger() {
    let ledger = ledger(1_000, 256);
    let old = TenantLedger::new(Arc::clone(&ledger));
    deny(&old, "https://app.test");
    ledger.tend(at(1), Vec::new);
    deny(&old, "https://app.test");
    assert_eq!(ledger.entries(), 1);
    drop(old);
    assert_eq!(ledger.entries(), 0);
    let new = TenantLedger::new(Arc::clone(&ledger));
    ledger.tend(at(2), Vec::new);
    assert_eq!(entries(&new), BTreeMap::new());
    deny(&new, "https://app.test");
    ledger.tend(at(3), Vec::new);
    assert_eq!(entries(&new)["https://app.test"], (1, 0));
}

#[test]
fn changed_ledger_limits_clear_the_record() {
    let ledger = ledger(1_000, 256);
    let tenant_ledgers = tenant_ledgers(&ledger, 1);
    deny(&tenant_ledgers[0], "https://app.test");
    ledger.set_limits(ledger.limits(), || tenant_ledgers.clone());
    ledger.tend(at(1), Vec::new);
    assert_eq!(ledger.entries(), 1);
    deny(&tenant_ledgers[0], "https://app.test");
    ledger.set_limits(LedgerLimits { origins: 10, origins_per_tenant: 5 }, || tenant_ledgers.clone());
    assert_eq!((ledger.entries(), all_requests(&tenant_ledgers[0])), (0, 0));
    ledger.set_limits(LedgerLimits::OFF, || tenant_ledgers.clone());
    assert!(!ledger.is_on());
}

fn report_json(ledger: &Ledger, tenant_ledgers: &[(&str, &Arc<TenantLedger>)], query: &str) -> Value {
    let tenant_ledgers: Vec<_> =
        tenant_ledgers.iter().map(|(id, tenant_ledger)| (Box::from(*id), Arc::clone(tenant_ledger))).collect();
    json!(report(ledger, &tenant_ledgers, &OriginsQuery::from_query(query).unwrap()))
}

#[test]
fn origins_report_has_the_documented_fields() {
    let ledger = ledger(1_000, 256);
    let tenant_ledger = &tenant_ledgers(&ledger, 1)[0];
    for (verdict, reason) in [(VerdictLabel::Allow, Reason::Exact), (DENY, Reason::Method), (DENY, Reason::Header)] {
        worker_buffer::note(tenant_ledger, b"https://app.test", outcome(verdict, reason));
    }
    ledger.tend(at(60), Vec::new);
    let group = GroupLabel::of("frontend");
    let last = RecordedOutcome { group, ..outcome(VerdictLabel::WouldAllow, Reason::Exact) };
    worker_buffer::note(tenant_ledger, b"https://app.test", last);
    ledger.tend(at(90), Vec::new);
    let expected = json!({
        "enabled": true, "entries": 1, "entriesMax": 1_000, "entriesMaxPerTenant": 256,
        "since": "2023-11-14T22:13:20Z", "forgotten": 0, "dropped": 0, "leftOut": 0,
        "origins": [{
            "tenant": "acme", "origin": "https://app.test",
            "allowed": 1, "denied": 2, "wouldAllow": 1, "wouldDeny": 0, "error": 0,
            "firstSeen": "2023-11-14T22:14:20Z", "lastSeen": "2023-11-14T22:14:50Z", "lastReason": "exact", "lastGroup": "frontend",
        }],
    });
    assert_eq!(report_json(&ledger, &[("acme", tenant_ledger)], ""), expected);
}

#[test]
fn origins_report_is_sorted_by_verdict_filter_and_cut_at_limit() {
    let ledger = ledger(1_000, 256);
    let tenant_ledgers = tenant_ledgers(&ledger, 2);
    let (a, b) = (("a", &tenant_ledgers[0]), ("b", &tenant_ledgers[1]));
    for (tenant_ledger, origin, counts) in [
        (a.1, "https://x.test", [9, 1, 0, 0]),
        (a.1, "https://y.test", [0, 0, 0, 5]),
        (a.1, "https://z.test", [0, 3, 2, 0]),
        (b.1, "https://y.test", [0, 4, 0, 1]),
    ] {
        let (last_reason, last_group) = (Reason::NoMatch, GroupLabel::NONE);
        tenant_ledger.enter(&OriginSighting { origin: origin.as_bytes(), counts, last_reason, last_group });
    }
    let order = |query: &str| {
        let report = report_json(&ledger, &[a, b], query);
        let origins = report["origins"].as_array().unwrap().iter();
        let name = |one: &Value| {
            let origin = one["origin"].as_str().unwrap().strip_prefix("https://").unwrap();
            format!("{}{}", one["tenant"].as_str().unwrap(), origin.strip_suffix(".test").unwrap())
        };
        let names: Vec<_> = origins.map(name).collect();
        (names.join(" "), report["leftOut"].as_u64().unwrap())
    };
    assert_eq!(order(""), ("ax ay az by".to_owned(), 0));
    assert_eq!(order("verdict=deny"), ("ay by az ax".to_owned(), 0));
    assert_eq!(order("verdict=allow"), ("ax az".to_owned(), 0));
    assert_eq!(order("verdict=deny&limit=2"), ("ay by".to_owned(), 2));
}

#[test]
fn invalid_origins_query_names_the_parameter() {
    let query = OriginsQuery::from_query("tenant=a%20b&verdict=deny&limit=5").unwrap();
    assert_eq!((query.tenant.as_deref(), query.verdict, query.limit), (Some("a b"), Some(VerdictFilter::Deny), 5));
    for (query, part) in [
        ("tenants=a", "expected tenant, verdict or limit"),
        ("tenant=a&tenant=a", "duplicate parameter `tenant`"),
        ("verdict=would_deny", "expected allow or deny"),
        ("limit=0", "from 1 to"),
        ("limit=10001", "from 1 to"),
        ("limit=-1", "from 1 to"),
    ] {
        let error = OriginsQuery::from_query(query).unwrap_err().to_string();
        assert!(error.contains(part), "{query}: {error}");
    }
}
