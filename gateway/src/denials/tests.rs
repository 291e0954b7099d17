//! Tests of limits, floods, and the recorded parts of a request.

use super::intake::{PART_DENIALS_MAX, PART_DENIALS_OF_ORIGIN_MAX};
use super::*;
use crate::registry::GatewayMetrics;
use crossgate_message::fields::HeaderFields;
use crossgate_message::forwarded::ConnectionPeer;

const PEER: ConnectionPeer = ConnectionPeer { address: None, is_trusted: false };

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn record_denial(denials: &RecentDenials, tenant: &Arc<TenantCounters>, id: &str, origin: &str) {
    let lines = [
        httparse::Header { name: "Host", value: b"api.example" },
        httparse::Header { name: "Origin", value: origin.as_bytes() },
    ];
    let head = RequestHead::new(b"GET", b"/orders", HeaderFields::Lines(&lines), PEER);
    denials.add(tenant, origin.as_bytes(), || {
        RecordedDenial::new(tenant, 1, VerdictLabel::Deny, "no_match", HeadCopy::of_head(id, &head), None)
    });
}

fn is_kept(denials: &RecentDenials, id: &str, now: SystemTime) -> bool {
    denials.find(id, now).is_some()
}

/// Records many denials, collecting after each so that none is dropped.
fn record_many(denials: &RecentDenials, tenant: &Arc<TenantCounters>, ids: std::ops::Range<usize>, now: SystemTime) {
    for id in ids {
        record_denial(denials, tenant, &format!("{}-{id}", tenant.id()), &format!("https://o{id}.example"));
        denials.collect(now);
    }
}

#[test]
fn denial_is_found_by_request_id_until_it_expires() {
    let (metrics, denials) = (GatewayMetrics::new(), RecentDenials::default());
    let tenant = metrics.tenant("a");
    record_denial(&denials, &tenant, "one", "https://a.example");
    let found = denials.find("one", at(0)).unwrap();
    assert_eq!((found.recorded_at, found.denial.generation()), (at(0), 1));
    assert!(!is_kept(&denials, "on", at(0)) && !is_kept(&denials, "one ", at(0)));
    assert!(is_kept(&denials, "one", at(DENIAL_AGE_MAX.as_secs())));
    assert!(!is_kept(&denials, "one", at(DENIAL_AGE_MAX.as_secs() + 1)));
    assert_eq!(denials.store.lock().len(), 0);
}

#[test]
fn last_denials_of_each_tenant_are_kept() {
    let (metrics, denials) = (GatewayMetrics::new(), RecentDenials::default());
    let (a, b) = (metrics.tenant("a"), metrics.tenant("b"));
    record_denial(&denials, &b, "b-0", "https://b.example");
    record_many(&denials, &a, 0..DENIALS_PER_TENANT_MAX + 10, at(0));
    assert!(!is_kept(&denials, "a-9", at(0)) && is_kept(&denials, "a-10", at(0)) && is_kept(&denials, "b-0", at(0)));
    assert_eq!(denials.store.lock().len(), DENIALS_PER_TENANT_MAX + 1);
}

#[test]
fn denials_of_one_origin_do_not_displace_others_of_the_tenant() {
    let (metrics, denials) = (GatewayMetrics::new(), RecentDenials::default());
    let tenant = metrics.tenant("a");
    record_denial(&denials, &tenant, "mine", "https://mine.example");
    for flood in 0..1_000 {
        record_denial(&denials, &tenant, &format!("flood-{flood}"), "https://flood.example");
        denials.collect(at(0));
    }
    assert!(is_kept(&denials, "mine", at(0)) && is_kept(&denials, "flood-999", at(0)));
}

#[test]
fn denial_flood_over_the_intake_limit_is_dropped_and_counted() {
    let (metrics, denials) = (GatewayMetrics::new(), RecentDenials::default());
    let tenant = metrics.tenant("a");
    for flood in 0..1_000 {
        record_denial(&denials, &tenant, &format!("flood-{flood}"), "https://flood.example");
    }
    // Other origins and other tenants still have room.
    record_denial(&denials, &tenant, "mine", "https://mine.example");
    let others: Vec<_> = (0..32).map(|other| metrics.tenant(&format!("b{other}"))).collect();
    others.iter().for_each(|other| record_denial(&denials, other, other.id(), "https://b.example"));
    assert!(is_kept(&denials, "mine", at(0)));
    let kept = others.iter().filter(|other| is_kept(&denials, other.id(), at(0))).count();
    // Tenants that share a part with the flood may find it full.
    assert!(kept >= others.len() / 2, "{kept} of {}", others.len());
    assert_eq!(denials.dropped(), (1_000 - PART_DENIALS_OF_ORIGIN_MAX + others.len() - kept) as u64);
    for flood in 0..1_000 {
        record_denial(&denials, &tenant, &format!("made-up-{flood}"), &format!("https://o{flood}.example"));
    }
    denials.collect(at(0));
    assert_eq!(denials.store.lock().len(), PART_DENIALS_OF_ORIGIN_MAX + 1 + kept + PART_DENIALS_MAX);
}

#[test]
fn denial_is_dropped_if_its_buffer_is_locked() {
    let (metrics, denials) = (GatewayMetrics::new(), RecentDenials::default());
    let tenant = metrics.tenant("a");
    let copy = || HeadCopy::of_id("inner");
    denials.add(&tenant, b"", || {
        // This worker's buffer is locked here: nothing may wait for it.
        record_denial(&denials, &tenant, "outer", "https://a.example");
        RecordedDenial::new(&tenant, 1, VerdictLabel::Deny, "no_match", copy(), None)
    });
    assert_eq!(denials.dropped(), 1);
    assert!(is_kept(&denials, "inner", at(0)) && !is_kept(&denials, "outer", at(0)));
}

#[test]
fn denial_store_is_shared_fairly_among_tenants() {
    let (metrics, denials) = (GatewayMetrics::new(), RecentDenials::default());
    let quiet = metrics.tenant("quiet");
    record_denial(&denials, &quiet, "quiet-0", "https://q.example");
    let tenants: Vec<_> = (0..200).map(|number| metrics.tenant(&format!("t{number}"))).collect();
    for tenant in &tenants {
        record_many(&denials, tenant, 0..DENIALS_PER_TENANT_MAX, at(1));
    }
    assert!(denials.store.lock().len() <= DENIALS_MAX);
    assert!(is_kept(&denials, "quiet-0", at(1)), "a tenant with less than its share lost it");
    let last = DENIALS_PER_TENANT_MAX - 1;
    assert!(tenants.iter().all(|tenant| is_kept(&denials, &format!("{}-{last}", tenant.id()), at(1))));
}

#[test]
fn denial_store_drops_idle_tenants_first() {
    let (metrics, denials) = (GatewayMetrics::new(), RecentDenials::default());
    let tenants: Vec<_> = (0..=DENIALS_MAX).map(|number| metrics.tenant(&number.to_string())).collect();
    for (tenant, seconds) in tenants.iter().zip(0..) {
        record_denial(&denials, tenant, tenant.id(), "https://a.example");
        denials.store.lock().take(denials.intakes.drain(), at(seconds / 10));
    }
    assert!(denials.store.lock().len() <= DENIALS_MAX);
    let now = at(DENIALS_MAX as u64 / 10);
    assert!(is_kept(&denials, tenants.last().unwrap().id(), now) && !is_kept(&denials, "0", now));
}

#[test]
fn denials_are_dropped_with_their_tenant() {
    let (metrics, denials) = (GatewayMetrics::new(), RecentDenials::default());
    let tenant = metrics.tenant("a");
    record_denial(&denials, &tenant, "kept", "https://a.example");
    denials.collect(at(0));
    record_denial(&denials, &tenant, "on its way", "https://a.example");
    drop(tenant);
    for id in ["kept", "on its way"] {
        denials.collect(at(1));
        denials.collect(at(2));
        assert!(!is_kept(&denials, id, at(2)), "{id}");
    }
    assert_eq!(denials.store.lock().len(), 0);
}

#[test]
fn no_denial_is_recorded_while_disabled() {
    let (metrics, denials) = (GatewayMetrics::new(), RecentDenials::default());
    let tenant = metrics.tenant("a");
    record_denial(&denials, &tenant, "before", "https://a.example");
    denials.set_enabled(false);
    record_denial(&denials, &tenant, "off", "https://a.example");
    denials.set_enabled(true);
    record_denial(&denials, &tenant, "after", "https://a.example");
    let kept = ["before", "off", "after"].map(|id| is_kept(&denials, id, at(0)));
    assert_eq!((kept, denials.dropped()), ([false, false, true], 0));
}

#[test]
fn denial_copy_contains_verdict_inputs_and_no_secret() {
    let lines = [
        ("Host", "api.example"),
        ("Origin", "https://a.example"),
        ("Origin", "https://b.example"),
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", "x-a"),
        ("Access-Control-Request-Headers", "x-b"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "cors"),
        ("Connection", "origin"),
        ("Cookie", "session=secret"),
        ("X-Other", "secret"),
    ];
    let lines: Vec<_> = lines.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
    let head = RequestHead::new(b"OPTIONS", b"/a?token=secret", HeaderFields::Lines(&lines), PEER);
    let copy = HeadCopy::of_head("id", &head);
    let tenant = GatewayMetrics::new().tenant("a");
    let denial = RecordedDenial::new(&tenant, 1, VerdictLabel::Deny, "multiple_origins", copy, None);
    assert!(denial.has_request_id("id"));
    let DeniedRequest::Judged(probe) = denial.request() else { panic!("no probe") };
    let text = String::from_utf8(probe.head()).unwrap();
    let expected = "OPTIONS /a HTTP/1.1\r\nhost: api.example\r\norigin: https://a.example\r\norigin: https://a.example\r\n\
         access-control-request-method: PUT\r\naccess-control-request-headers: x-a,x-b\r\nsec-fetch-site: cross-site\r\n\
         sec-fetch-mode: cors\r\nconnection: origin\r\ncookie: not-recorded\r\n\r\n";
    assert_eq!(text, expected);
    assert!(!probe.logged.unwrap().is_cut);
}

#[test]
fn denial_copy_is_bounded_for_any_head() {
    let long = "x".repeat(60_000);
    let names = ["Host", "Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers", "Sec-Fetch-Site"];
    let lines: Vec<_> =
        names.iter().chain(&names).map(|name| httparse::Header { name, value: long.as_bytes() }).collect();
    let head = RequestHead::new(b"OPTIONS", long.as_bytes(), HeaderFields::Lines(&lines), PEER);
    let tenant = GatewayMetrics::new().tenant("a");
    let copy = HeadCopy::of_head(&long, &head);
    let denial = RecordedDenial::new(&tenant, 1, VerdictLabel::Deny, "host", copy, None);
    assert!(denial.bytes() < 2_048 + crossgate_policy::ORIGIN_LEN_MAX, "{}", denial.bytes());
    let DeniedRequest::Judged(probe) = denial.request() else { panic!("no probe") };
    assert!(probe.logged.unwrap().is_cut);
}
