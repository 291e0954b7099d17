//! Tests of the cache key: requests with equal values of the read parts get the same answer.
use super::*;
use proptest::prelude::*;

/// The parts of a random request, from small sets, so that requests are often equal.
#[derive(Debug, Clone)]
struct RequestParts {
    host: &'static str,
    port: Option<u16>,
    tenant: &'static str,
    path: &'static str,
    method: &'static str,
    query: &'static str,
    api_host: &'static str,
    plan: Option<&'static str>,
    kind: RequestKind,
}

fn request_parts() -> impl Strategy<Value = RequestParts> {
    let parts = (
        prop::sample::select(vec!["a.test", "b.test", "x.a.test"]),
        prop::sample::select(vec![None, Some(8443)]),
        prop::sample::select(vec!["acme", "globex"]),
        prop::sample::select(vec!["/", "/a", "/b"]),
        prop::sample::select(vec!["GET", "PUT"]),
        prop::sample::select(vec!["", "k=1", "k=2", "k", "k=", "x=1&k=1", "k=%31"]),
        prop::sample::select(vec!["api.a.test", "api.b.test"]),
        prop::sample::select(vec![None, Some(""), Some("gold"), Some("silver")]),
        prop::sample::select(vec![RequestKind::Preflight, RequestKind::Actual, RequestKind::WebSocket]),
    );
    parts.prop_map(|(host, port, tenant, path, method, query, api_host, plan, kind)| RequestParts {
        host,
        port,
        tenant,
        path,
        method,
        query,
        api_host,
        plan,
        kind,
    })
}

fn condition() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "req.host == \"a.test\"",
        "host_under(req.host, \"a.test\")",
        "req.port == 8443",
        "req.tenant == \"acme\"",
        "req.path == \"/a\"",
        "req.method == \"PUT\"",
        "req.kind == \"preflight\"",
        "req.header(\"x-plan\") == \"gold\"",
        "req.header(\"x-plan\") == ()",
        "req.query(\"k\") == \"1\"",
        "req.api_host == \"api.a.test\"",
        "req.query(\"k\") == ()",
        "req.origin.contains(\"a\")",
        "req.requested_headers.is_empty()",
    ])
    .prop_map(str::to_owned)
}

/// Generates nested conditions with answers at their ends.
fn block() -> impl Strategy<Value = String> {
    let answers =
        ["allow()", "deny()", "deny(req.path)", "deny(`${req.header(\"x-plan\")}`)", "allow(#{ maxAge: 5 })", "()"];
    let leaf = prop::sample::select(answers.map(str::to_owned).to_vec());
    leaf.prop_recursive(4, 16, 2, |inner| {
        (condition(), inner.clone(), inner)
            .prop_map(|(condition, yes, no)| format!("if {condition} {{ {yes} }} else {{ {no} }}"))
    })
}

fn with_parts<R>(parts: &RequestParts, then: impl FnOnce(&RuleInput<'_>) -> R) -> R {
    let headers: HeaderMap =
        parts.plan.iter().map(|plan| (HeaderName::from_static("x-plan"), plan.parse().unwrap())).collect();
    let origin = match parts.port {
        Some(port) => format!("https://{}:{port}", parts.host),
        None => format!("https://{}", parts.host),
    };
    let RequestParts { host, port, tenant, path, method, query, api_host, kind, .. } = *parts;
    then(&RuleInput {
        origin: &origin,
        scheme: "https",
        host,
        port,
        kind,
        tenant,
        route: "/",
        method: method.as_bytes(),
        path,
        query,
        api_host,
        requested_headers: NO_LINES,
        headers: &headers,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn requests_with_equal_reads_get_the_same_answer(source in block(), all in prop::collection::vec(request_parts(), 2..24)) {
        let script = Arc::new(compile(&format!("fn decide(req) {{ {source} }}")).unwrap());
        let rule = Rule::new(1, &script, &[HeaderName::from_static("x-plan")], &["k".into()], 2);
        let key = |parts: &RequestParts, reads| with_parts(parts, |input| {
            let mut key = Vec::new();
            rule.key(input, reads, &mut key);
            key
        });
        let runs: Vec<_> = all.iter().map(|parts| with_parts(parts, |input| rule.run(input, 0, never))).collect();
        for (first, run) in all.iter().zip(&runs) {
            for (other, other_run) in all.iter().zip(&runs) {
                if key(first, run.reads) == key(other, run.reads) {
                    prop_assert_eq!(&run.answer, &other_run.answer, "{} {:?} {:?}", source, first, other);
                    prop_assert_eq!(run.reads, other_run.reads);
                }
            }
        }
    }
}

#[test]
fn cache_keys_distinguish_absent_from_empty_and_value_ends() {
    let rule = body("if req.header(\"x-plan\") == req.query(\"k\") { deny() }");
    let base = RequestParts {
        host: "a.test",
        port: None,
        tenant: "acme",
        path: "/",
        method: "GET",
        query: "",
        api_host: "api.a.test",
        plan: None,
        kind: RequestKind::Actual,
    };
    let mut keys = std::collections::BTreeSet::new();
    let all = [
        base.clone(),
        RequestParts { plan: Some(""), ..base.clone() },
        RequestParts { query: "k=", ..base.clone() },
        RequestParts { plan: Some(""), query: "k", ..base.clone() },
        RequestParts { plan: Some("ab"), query: "k=c", ..base.clone() },
        RequestParts { plan: Some("a"), query: "k=bc", ..base.clone() },
    ];
    for parts in &all {
        let mut key = Vec::new();
        let reads = with_parts(parts, |input| {
            let reads = rule.run(input, 0, never).reads;
            rule.key(input, reads, &mut key);
            reads
        });
        keys.insert((reads.bits(), key));
    }
    assert_eq!(keys.len(), all.len());
}
