//! Checks that the static path allocates nothing: classification, decision, header edits, explained
//! refusals, `Vary` and the check of cross-site requests, with 10,000 origins and with 32 groups,
//! for hits, misses and hostile input. Also measures the memory of a tenant's own origins.

#![expect(clippy::panic, clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::hint::black_box;
use std::sync::Arc;

use crossgate_policy::{
    CorsRequest, CredentialFields, CrossSiteNavigations, CrossSiteOutcome, CrossSiteProtection, CrossSiteReads,
    CrossSiteTerms, DangerousSwitches, Disclosure, FieldLines, GROUPS_MAX, GroupSpec, Outcome, OwnOrigin,
    OwnOriginSpec, Policy, PolicySpec, RequestField, RequestedUpgrade, Template, missing_vary,
};

const OWN: OwnOrigin<'_> = OwnOrigin { host: "api.example.test", port: None, scheme: None };

fn policy(spec: PolicySpec) -> Policy {
    let template = Template::compile(&spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    let own: Vec<String> = (0..10).map(|number| format!("https://own-{number}.test")).collect();
    Policy::extend(Arc::new(template.value), &own).unwrap_or_else(|problems| panic!("{problems:?}")).value
}

fn large(disclosure: Disclosure, star: bool) -> PolicySpec {
    let exact = (0..9_000).map(|number| format!("https://app-{number}.example.com:8443"));
    let wild = (0..900).map(|number| format!("https://*.zone-{number}.example.net"));
    let starred = (0..100).map(|number| format!("https://preview-*.zone-{number}.example.org:*"));
    let others = ["file://", "app://.", "moz-extension://*", "vscode-webview://*"].map(str::to_owned);
    let lists = if star { ["*"].to_vec() } else { ["PUT", "DELETE", "authorization", "x-req"].to_vec() };
    let lists: Vec<String> = lists.into_iter().map(str::to_owned).collect();
    PolicySpec {
        allow_origins: exact.chain(wild).chain(starred).chain(others).collect(),
        allow_methods: lists.clone(),
        allow_headers: lists,
        expose_headers: vec!["x-request-id".to_owned()],
        allow_credentials: true,
        disclosure,
        dangerously: DangerousSwitches {
            allow_local_file_origins: true,
            allow_any_extension: true,
            ..DangerousSwitches::default()
        },
        ..PolicySpec::default()
    }
}

fn origins() -> Vec<Vec<u8>> {
    let deep = format!("https://{}zone-7.example.net", "a.".repeat(110));
    let texts = [
        "https://app-4321.example.com:8443",
        "https://own-3.test",
        "https://x.zone-17.example.net",
        "https://preview-12.zone-99.example.org:1",
        &deep,
        "https://app-4321.example.com",
        "https://zone-17.example.net",
        "https://preview-.zone-99.example.org",
        "https://api.example.test",
        "http://[2001:db8::1]:8080",
        "http://[2001:db8:0:0::1]",
        "https://evil.test/.example.com",
        "https://a..example.com",
        "file://",
        "app://.",
        "file:///",
        "moz-extension://0b4a2a1c-5d1e-4f5a-8e0b-0c1d2e3f4a5b",
        "vscode-webview://a.b",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "null",
        "",
    ];
    let mut origins: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    origins.extend([
        b"\xff\x00\r\n".to_vec(),
        b"a.".repeat(100_000),
        vec![b':'; 326],
        [b"https://", &b"a.".repeat(159)[..]].concat(),
    ]);
    origins
}

fn header_lines() -> Vec<Vec<&'static [u8]>> {
    let long: &'static [u8] = vec![b','; 1 << 15].leak();
    let many: &'static [u8] = b"x-req,".repeat(6_000).leak();
    vec![
        vec![],
        vec![b"authorization,x-req"],
        vec![b"X-Req , authorization", b"", b"x-req"],
        vec![b"x-req,x-evil,authorization"],
        vec![b"x-evil"],
        vec![b"a b\xff"],
        vec![long],
        vec![many],
        vec![b""; 1024],
    ]
}

/// Decides and iterates over all edits and `Vary` tokens. Returns whether the request was allowed,
/// whether a refusal is explained, and the number of bytes.
fn walk(policy: &Policy, request: &CorsRequest<'_>) -> [usize; 3] {
    let verdict = policy.decide(black_box(request)).without_rule();
    let edits = policy.edits(&verdict, request).chain(policy.refusal_edits(&verdict, request));
    let edits: usize = edits.map(|edit| edit.value.as_bytes().len()).sum();
    let existing = [&b"Accept-Encoding, X-Origin"[..], b"Accept"];
    let missing = missing_vary(existing.into_iter(), policy.vary(verdict.kind)).count();
    black_box(policy.vary_value(request.classify()));
    let is_explained = policy.is_explainable(&verdict, request);
    [usize::from(verdict.outcome == Outcome::Allow), usize::from(is_explained), edits + missing]
}

fn walk_all(policy: &Policy, origins: &[Vec<u8>], lines: &[Vec<&[u8]>]) -> [usize; 3] {
    let mut sums = [0; 3];
    let fields =
        origins.iter().map(|origin| RequestField::One(origin)).chain([RequestField::Absent, RequestField::Many]);
    for origin in fields {
        for lines in lines {
            for (method, requested) in [
                (&b"OPTIONS"[..], RequestField::One(&b"PUT"[..])),
                (b"OPTIONS", RequestField::One(b"PATCH")),
                (b"OPTIONS", RequestField::Many),
                (b"GET", RequestField::Absent),
            ] {
                let lines: &dyn FieldLines = lines;
                let credentials = CredentialFields::Ambient;
                let plain = CorsRequest {
                    origin,
                    requested_method: requested,
                    requested_headers: lines,
                    ..CorsRequest::new(method, OWN)
                };
                for request in [plain, CorsRequest { upgrade: RequestedUpgrade::WebSocket, credentials, ..plain }] {
                    let seen = walk(policy, &request);
                    sums = [0, 1, 2].map(|nth| sums[nth] + seen[nth]);
                }
            }
        }
    }
    sums
}

#[test]
fn the_static_path_allocates_nothing() {
    let any = PolicySpec {
        allow_origins: vec!["*".to_owned()],
        allow_methods: vec!["PUT".to_owned()],
        allow_headers: vec!["*".to_owned()],
        ..PolicySpec::default()
    };
    let specs = [large(Disclosure::Full, false), large(Disclosure::Minimal, false), large(Disclosure::Full, true), any];
    let (origins, lines) = (origins(), header_lines());
    for (number, spec) in specs.into_iter().enumerate() {
        let policy = policy(spec);
        let mut seen = [0; 3];
        let counted = allocation_counter::measure(|| seen = walk_all(&policy, &origins, &lines));
        assert_eq!(counted.count_total, 0, "policy {number}");
        // Some requests passed and some refusals were explained, but not all of them.
        let walked = (origins.len() + 2) * lines.len() * 8;
        let [allowed, explained, bytes] = seen;
        let is_mixed = (1..walked).contains(&allowed) && (1..walked).contains(&explained);
        assert!((is_mixed || number == 2) && bytes > 0, "policy {number}: {seen:?} of {walked}");
    }
}

/// A policy with as many groups as there may be, each with an exact origin, patterns and terms of
/// its own. A tenant adds origins to some of them.
fn grouped(disclosure: Disclosure) -> Policy {
    let text = |text: String| vec![text];
    let group = |number: usize| GroupSpec {
        name: format!("group-{number}"),
        allow_origins: vec![
            format!("https://app-{number}.example.com"),
            format!("https://*.zone-{number}.example.net"),
            format!("https://preview-*.zone-{number}.example.org:*"),
        ],
        allow_methods: number.is_multiple_of(2).then(|| text("DELETE".to_owned())),
        allow_headers: number.is_multiple_of(3).then(|| text(format!("x-{number}"))),
        expose_headers: Some(text(format!("x-seen-{number}"))),
        allow_credentials: Some(number.is_multiple_of(2)),
        max_age_seconds: Some(u32::try_from(number).unwrap()),
        tenants_may_add: true,
        ..GroupSpec::default()
    };
    let others = ["*", "moz-extension://*", "https://*.zone-1.example.org"].map(str::to_owned);
    let spec = PolicySpec {
        allow_origins: others.to_vec(),
        allow_methods: text("PUT".to_owned()),
        allow_headers: ["authorization", "x-req"].map(str::to_owned).to_vec(),
        groups: (0..GROUPS_MAX).map(group).collect(),
        cross_site: CrossSiteTerms { protection: CrossSiteProtection::Protect, reads: CrossSiteReads::NavigationsOnly },
        disclosure,
        ..PolicySpec::default()
    };
    let template = Template::compile(&spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    let own = |number: usize| OwnOriginSpec {
        origin: format!("https://*.own-{number}.example.net"),
        group: (number > 0).then(|| format!("group-{number}")),
    };
    let own: Vec<_> = (0..GROUPS_MAX).map(own).collect();
    Policy::extend_groups(Arc::new(template.value), &own).unwrap_or_else(|problems| panic!("{problems:?}")).value
}

/// Returns the origins of the other tests, and some of every group.
fn grouped_origins() -> Vec<Vec<u8>> {
    let of_group = |number: usize| {
        [
            format!("https://app-{number}.example.com"),
            format!("https://a.zone-{number}.example.net"),
            format!("https://preview-7.zone-{number}.example.org:1"),
            format!("https://a.own-{number}.example.net"),
            format!("http://app-{number}.example.com"),
        ]
    };
    let in_groups = (0..GROUPS_MAX).flat_map(of_group).map(String::into_bytes);
    origins().into_iter().chain(in_groups).collect()
}

/// Checks a request with each value of the fields that the check of cross-site requests reads.
/// Returns the number of refusals.
fn walk_sites(policy: &Policy, origins: &[Vec<u8>]) -> usize {
    let one = RequestField::One;
    let sites = [RequestField::Absent, RequestField::Many, one(b"cross-site"), one(b"same-origin"), one(b"\xff")];
    let dests = [RequestField::Absent, one(b"document"), one(b"object")];
    let fields = origins.iter().map(|origin| one(origin)).chain([RequestField::Absent, RequestField::Many]);
    let mut refused = 0;
    for origin in fields {
        for method in [&b"GET"[..], b"POST", b"OPTIONS", b""] {
            for (sec_fetch_site, sec_fetch_dest) in sites.iter().flat_map(|site| dests.map(|dest| (*site, dest))) {
                let request = CorsRequest {
                    origin,
                    sec_fetch_site,
                    sec_fetch_dest,
                    sec_fetch_mode: one(b"navigate"),
                    credentials: CredentialFields::Ambient,
                    ..CorsRequest::new(method, OWN)
                };
                let mut verdict = policy.decide(black_box(&request)).without_rule();
                let navigations = CrossSiteNavigations::Deny;
                let outcome = policy.check_cross_site(&request, &verdict, navigations);
                outcome.apply(&mut verdict);
                refused += usize::from(outcome == CrossSiteOutcome::Denied);
                black_box(policy.edits(&verdict, &request).count());
            }
        }
    }
    refused
}

#[test]
fn decisions_with_groups_allocate_nothing() {
    let (origins, lines) = (grouped_origins(), header_lines());
    for disclosure in [Disclosure::Full, Disclosure::Minimal] {
        let policy = grouped(disclosure);
        let (mut seen, mut refused, mut groups) = ([0; 3], 0, [0_usize; GROUPS_MAX]);
        let counted = allocation_counter::measure(|| {
            // The long lists of headers are in the other test.
            seen = walk_all(&policy, &origins, &lines[..6]);
            refused = walk_sites(&policy, &origins);
            for origin in &origins {
                let request = CorsRequest { origin: RequestField::One(origin), ..CorsRequest::new(b"GET", OWN) };
                let group = policy.decide(black_box(&request)).without_rule().group;
                black_box(policy.group_name(group));
                group.index().into_iter().for_each(|index| groups[index] += 1);
            }
        });
        assert_eq!(counted.count_total, 0, "{disclosure:?}");
        assert!(groups.iter().all(|count| *count >= 3), "{groups:?}");
        assert!(seen.iter().all(|count| *count > 0) && refused > 0, "{seen:?} {refused}");
    }
}

#[test]
fn tenant_memory_is_proportional_to_its_origins() {
    const TENANTS: usize = 1_000;
    const BYTES_PER_ORIGIN_MAX: usize = 150;
    let template = Arc::new(Template::compile(&large(Disclosure::Full, false)).unwrap().value);
    let own = |tenant: usize| {
        (0..10).map(move |number| format!("https://shop-{number}.tenant-{tenant:06}.example")).collect()
    };
    let own: Vec<Vec<String>> = (0..TENANTS).map(own).collect();
    let mut policies = Vec::with_capacity(TENANTS);
    let counted = allocation_counter::measure(|| {
        policies.extend(own.iter().map(|own| Policy::extend(Arc::clone(&template), own).unwrap().value));
    });
    let bytes = usize::try_from(counted.bytes_current).unwrap() + TENANTS * size_of::<Policy>();
    let per_origin = bytes / (10 * TENANTS);
    assert!(per_origin <= BYTES_PER_ORIGIN_MAX, "{per_origin}");
}

#[test]
fn allocation_counter_detects_allocations() {
    let counted = allocation_counter::measure(|| drop(black_box(String::from("one"))));
    assert_eq!(counted.count_total, 1);
}
