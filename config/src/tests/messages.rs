//! Messages about common mistakes, and the corrections that they suggest.

use super::*;

const HEAD: &str = "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\n";

/// Checks the findings of a file that begins with a version and a listener on two lines.
#[track_caller]
fn check_rest(rest: &str, expected: &[&str]) {
    check(&format!("{HEAD}{rest}"), expected);
}

/// Checks the findings of a policy with this body, which begins on the fifth line.
#[track_caller]
fn check_policy(body: &str, expected: &[&str]) {
    check_rest(&format!("policies:\n  spa:\n{body}"), expected);
}

/// The only finding.
#[track_caller]
fn only(rest: &str) -> String {
    let found = findings(&format!("{HEAD}{rest}"));
    let [message] = &found[..] else { panic!("{found:#?}") };
    message.clone()
}

#[test]
fn url_instead_of_host_names_the_host() {
    let tenant = |host: &str| only(&format!("tenants: [{{ id: a, hosts: [\"{host}\"] }}]\n"));
    let server = |address: &str| only(&format!("upstreams: {{ a: {{ servers: [\"{address}\"] }} }}\n"));
    let tls = " (the key `tls` enables TLS)";
    for (host, advice) in [
        ("https://api.x", format!("write api.x, without scheme{tls}")),
        ("http://api.x", "write api.x, without scheme".to_owned()),
        ("http://api.x/v1", "write api.x, without scheme and path".to_owned()),
        ("http://*.api.x/", "write *.api.x, without scheme and path".to_owned()),
        ("http://api.x:80", "remove the scheme; in `api.x:80`, a port is not allowed here, since tenants are found by host name; remove the port".to_owned()),
        ("api.x/v1", "write api.x, without path".to_owned()),
    ] {
        assert_eq!(tenant(host), format!("3:28 invalid host `{host}`: {advice}"));
    }
    for (address, advice) in [
        ("http://127.0.0.1:9001", "write 127.0.0.1:9001, without scheme".to_owned()),
        ("http://orders.internal:9001/", "write orders.internal:9001, without scheme and path".to_owned()),
        ("https://orders.internal:443", format!("write orders.internal:443, without scheme{tls}")),
        ("h2c://orders.internal:80", "write orders.internal:80, without scheme".to_owned()),
        (
            "http://orders.internal",
            "remove the scheme; in `orders.internal`, add the port, as in 127.0.0.1:9001, [::1]:9001 or orders.internal:9001"
                .to_owned(),
        ),
        ("orders.internal:9001/x", "write orders.internal:9001, without path".to_owned()),
    ] {
        assert_eq!(server(address), format!("3:29 invalid server address `{address}`: {advice}"));
    }
    for (rest, advice) in [
        ("upstreams: { a: { servers: [\"127.0.0.1:1\"], host: \"http://b.x\" } }\n", "write b.x, without scheme"),
        ("admin: { address: \"http://127.0.0.1:9900\" }\n", "write 127.0.0.1:9900, without scheme"),
        ("admin: { address: \"127.0.0.1:9900\", hosts: [\"http://admin.x\"] }\n", "write admin.x, without scheme"),
        ("resolver: { servers: [\"udp://10.0.0.2:53\"] }\n", "write 10.0.0.2:53, without scheme"),
    ] {
        assert!(only(rest).ends_with(advice), "{}", only(rest));
    }
}

#[test]
fn star_without_quotes_names_the_quotes() {
    let expected = |star: &str| {
        format!("invalid YAML: a text that begins with a star is an alias in YAML; write it in quotes: \"{star}\"")
    };
    for (rest, place, star) in [
        ("tenants:\n  - id: a\n    hosts:\n      - *.acme.example\n", "6:9", "*.acme.example"),
        ("tenants: [{ id: a, hosts: [*.acme.example, b] }]\n", "3:28", "*.acme.example"),
        ("policies: { a: { allowOrigins: [*] } }\n", "3:33", "*"),
        ("policies: { a: { allowMethods: [*, PUT] } }\n", "3:33", "*"),
        ("policies:\n  a:\n    allowHeaders: *\n", "5:19", "*"),
        ("policies:\n  a:\n    allowHeaders:\n      - *\n", "6:9", "*"),
        ("tenants: [{ id: a, hosts: [*:443] }]\n", "3:28", "*:443"),
    ] {
        check_rest(rest, &[&format!("{place} {}", expected(star))]);
    }
    check_rest("a: *b\n", &["3:4 invalid YAML: unknown anchor; write the anchor"]);
}

#[test]
fn missing_space_after_colon_names_the_key() {
    let expected = "invalid YAML: a space is missing after the colon; write `maxAge: 10m`";
    check_policy("    allowOrigins: []\n    maxAge:10m\n", &[&format!("6:5 {expected}")]);
    check_policy("    maxAge:10m\n    allowOrigins: []\n", &[&format!("5:5 {expected}")]);
    check_policy("    maxAge:10m\n\n    # why\n    allowOrigins: []\n", &[&format!("5:5 {expected}")]);
    check_policy("    allowOrigins: []\n    maxAge:10m\n    mode: Report\n", &[&format!("6:5 {expected}")]);
    check_rest(
        "tenants:\n  - id:a\n    hosts: [a.x]\n",
        &["4:5 invalid YAML: a space is missing after the colon; write `id: a`"],
    );
    check_policy(
        "    maxAge:10m\n",
        &["5:5 expected a policy (a mapping), found the text `maxAge:10m`; a space is missing after the colon"],
    );
    check_rest(
        "policies: { a: { maxAge:10m } }\n",
        &["3:18 a policy has no key `maxAge:10m`; a space is missing after the colon"],
    );
}

#[test]
fn missing_space_after_dash_is_reported() {
    for tenants in ["  -id: a\n   hosts: [a.x]\n", "  - id: a\n    hosts: [a.x]\n  -id: b\n"] {
        let found = findings(&format!("version: 1\ntenants:\n{tenants}"));
        assert!(found[0].ends_with("a space is missing after the dash"), "{found:?}");
    }
}

#[test]
fn unclosed_bracket_is_reported_where_it_opens() {
    let expected =
        |bracket, closing| format!("invalid YAML: this `{bracket}` is not closed; write `{closing}` where it ends");
    let list = expected('[', ']');
    check_policy("    allowOrigins: [\"https://a.example\"\n    maxAge: 10m\n", &[&format!("5:19 {list}")]);
    check_policy("    allowMethods: [PUT\ntenants:\n  - { id: a, hosts: [a.x] }\n", &[&format!("5:19 {list}")]);
    check_rest("policies:\n  a: { maxAge: 10m\n  b: { maxAge: 5 }\n", &[&format!("4:6 {}", expected('{', '}'))]);
    check_rest("originSets:\n  a: [x,\n", &[&format!("4:6 {list}")]);
    check_rest("originSets: { a: [x }\n", &[&format!("3:18 {list}")]);
    // All brackets are closed here, so the cause is another one.
    check_rest("policies: { a: { maxAge: 1: 2 } }\n", &["3:27 invalid YAML"]);
    assert!(!findings("a: [\"x]\n").concat().contains("is not closed; write"));
}

#[test]
fn tab_in_indentation_is_reported() {
    let expected = "invalid YAML: this line begins with a tab; indent with spaces";
    check_rest("policies:\n\tspa:\n\t\tmaxAge: 1\n", &[&format!("4:1 {expected}")]);
    check_policy("\tmaxAge: 1\n", &[&format!("5:1 {expected}")]);
    check_policy("    allowOrigins:\n\t- x\n", &[&format!("6:1 {expected}")]);
}

#[test]
fn quoted_number_or_boolean_names_the_correction() {
    for (body, expected) in [
        ("allowCredentials: \"true\"", "expected true or false, found the text `true`; remove the quotes"),
        ("allowCredentials: yes", "expected true or false, found the text `yes`; write true"),
        ("allowCredentials: Off", "expected true or false, found the text `Off`; write false"),
        ("maxAge: \"600\"", "expected whole seconds, such as 600, 30s or 10m, found the text `600`; remove the quotes"),
        (
            "maxAge: 10 minutes",
            "expected whole seconds, such as 600, 30s or 10m, found the text `10 minutes`; write 10m",
        ),
    ] {
        check_policy(&format!("    {body}\n"), &[&format!("5:{} {expected}", body.find(' ').unwrap() + 6)]);
    }
    for limit in ["headFields: \"100\"", "head: \"10\"", "headBytes: \"8192\"", "maxConnections: '5'"] {
        let message = only(&format!("limits: {{ {limit} }}\n"));
        assert!(message.ends_with("; remove the quotes"), "{message}");
    }
    assert!(only("limits: { head: 10 sec }\n").ends_with("; write 10s"));
    assert!(only("accessLog: { sample: \"0.5\" }\n").ends_with("; remove the quotes"));
    check(
        "version: \"1\"\nlisteners: [{ address: \"127.0.0.1:0\" }]\n",
        &["1:10 unsupported version; remove the quotes"],
    );
    check(
        "version: \"2\"\nlisteners: [{ address: \"127.0.0.1:0\" }]\n",
        &["1:10 unsupported version; write version: 1"],
    );
}

#[test]
fn text_instead_of_list_or_mapping_shows_the_form() {
    for (listeners, expected) in [
        (
            "[127.0.0.1:80]",
            "expected a listener (a mapping), found the text `127.0.0.1:80`; write { address: 127.0.0.1:80 }",
        ),
        (
            "127.0.0.1:80",
            "expected a list of listeners, found the text `127.0.0.1:80`; write [{ address: 127.0.0.1:80 }]",
        ),
        (
            "\"127.0.0.1:80, 127.0.0.1:81\"",
            "found the text `127.0.0.1:80, 127.0.0.1:81`; write [{ address: 127.0.0.1:80 }, { address: 127.0.0.1:81 }]",
        ),
        (
            "{ address: 127.0.0.1:80 }",
            "expected a list of listeners, found a mapping; write a dash before the first key of each entry",
        ),
    ] {
        let found = findings(&format!("version: 1\nlisteners: {listeners}\n"));
        assert!(found[0].ends_with(expected), "{found:?}");
    }
    for (rest, expected) in [
        ("tenants: [{ id: a, hosts: a.x }]\n", "expected a list of hosts, found the text `a.x`; write [a.x]"),
        (
            "tenants: [{ id: a, hosts: \"*.a.x\" }]\n",
            "expected a list of hosts, found the text `*.a.x`; write [\"*.a.x\"]",
        ),
        ("tenants: [{ id: a, hosts: \"a.x, b.x\" }]\n", "found the text `a.x, b.x`; write [a.x, b.x]"),
        ("tenants: [{ id: a, hosts: \"a.x *.b.x\" }]\n", "found the text `a.x *.b.x`; write [a.x, \"*.b.x\"]"),
        ("policies: { a: { allowMethods: \"GET,PUT\" } }\n", "found the text `GET,PUT`; write [GET, PUT]"),
        ("policies: { a: { allowMethods: \"PUT, true, 123\" } }\n", "write [PUT, \"true\", \"123\"]"),
        ("policies: { a: { allowHeaders: \"accept: x\" } }\n", "write [\"accept: x\"]"),
        ("policies: { a: { allowOrigins: \"null\" } }\n", "write [\"null\"]"),
        ("policies:\n a:\n  allowOrigins:\n   -\"https://*.a.x\"\n", "; a space is missing after the dash"),
        ("policies: { a: { allowHeaders: \"content-type, authorization\" } }\n", "write [content-type, authorization]"),
        ("policies: { a: { allowOriginRegexes: \"https://a{1, 2}\" } }\n", "write [\"https://a{1, 2}\"]"),
        ("policies:\n a:\n  allowOrigins:\n   -https://a.x\n   -https://b.x\n", "; a space is missing after the dash"),
        (
            "policies: { a: { allowOrigins: [null] } }\n",
            "expected an origin, found nothing; remove the dash, or write the origin \"null\" in quotes, which needs dangerouslyAllowNull",
        ),
        (
            "admin: { address: 9900 }\n",
            "expected an address, found the number 9900; write an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080 (names are not looked up)",
        ),
        (
            "policies: { a: { allowOrigins: \"https://a.x\" } }\n",
            "expected a list of origins, found the text `https://a.x`; write [https://a.x]",
        ),
        ("policies: { a: { rule: a.rhai } }\n", "found the text `a.rhai`; write { script: a.rhai }"),
        ("upstreams: { a: 127.0.0.1:9001 }\n", "found the text `127.0.0.1:9001`; write { servers: [127.0.0.1:9001] }"),
        ("admin: 127.0.0.1:9900\n", "found the text `127.0.0.1:9900`; write { address: 127.0.0.1:9900 }"),
        (
            "tenants: { a: { hosts: [a.x] } }\n",
            "expected a list of tenants, found a mapping; write a dash before the first key of each entry",
        ),
        (
            "tenants: [{ id: a, hosts: [a.x], routes: [/x] }]\n",
            "expected a route (a mapping), found the text `/x`; write { pathPrefix: /x }",
        ),
        (
            "upstreams: { a: { servers: [\"127.0.0.1:1\"], healthCheck: /up } }\n",
            "found the text `/up`; write { path: /up }",
        ),
    ] {
        assert!(only(rest).ends_with(expected), "{}", only(rest));
    }
}

#[test]
fn misspelt_value_names_the_nearest_value() {
    for (body, expected) in [
        ("mode: report", "unknown value `report`; did you mean Report? write Enforce or Report"),
        ("disclosure: minimal", "unknown value `minimal`; did you mean Minimal? write Full or Minimal"),
        ("unmatchedRequests: Foward", "unknown value `Foward`; did you mean Forward? write Reject or Forward"),
        ("mode: observe", "unknown value `observe`; write Enforce or Report"),
    ] {
        assert!(only(&format!("policies:\n  a:\n    {body}\n")).ends_with(expected), "{body}");
    }
    for (protocol, word) in
        [("h2c", "Http2"), ("H2", "Http2"), ("grpc", "Http2"), ("http2", "Http2"), ("HTTP/1.1", "Http1")]
    {
        let message = only(&format!("upstreams: {{ a: {{ servers: [\"127.0.0.1:1\"], protocol: {protocol} }} }}\n"));
        assert!(message.ends_with(&format!("did you mean {word}? write Http1, Http2 or Auto")), "{message}");
    }
}

#[test]
fn placeholder_of_another_tool_is_reported() {
    let expected = |found: &str| format!("placeholder `{found}` is not replaced; write the value itself");
    for (rest, place, found) in [
        ("policies: { a: { allowOrigins: [\"${ORIGIN}\"] } }\n", "3:33", "${ORIGIN}"),
        ("policies:\n  a:\n    maxAge: ${AGE}\n", "5:13", "${AGE}"),
        ("policies:\n  a:\n    allowCredentials: ${CRED}\n", "5:23", "${CRED}"),
        ("policies:\n  a:\n    mode: ${MODE:-Report}\n", "5:11", "${MODE:-Report}"),
        ("policies:\n  a:\n    allowMethods: ${METHODS}\n", "5:19", "${METHODS}"),
        ("upstreams: { a: { servers: [\"${HOST}:9001\"] } }\n", "3:29", "${HOST}"),
        ("tenants: [{ id: a, hosts: [$HOST] }]\n", "3:28", "$HOST"),
        ("tenants:\n  - id: ${ID}\n    hosts: [a.x]\n", "4:9", "${ID}"),
        ("limits: { head: $HEAD }\n", "3:17", "$HEAD"),
    ] {
        check_rest(rest, &[&format!("{place} {}", expected(found))]);
    }
    for (rest, place, found) in [
        ("policies: { a: { maxAge: ${AGE}, mode: Report } }\n", "3:26", "${AGE}"),
        ("upstreams:\n  a: {{ .Values.upstream }}\n", "4:6", "{{ .Values.upstream }}"),
    ] {
        check_rest(rest, &[&format!("{place} invalid YAML: {}", expected(found))]);
    }
    // Data of rules may contain any text.
    let data = decode_text(Path::new("d.yaml"), "sets: { a: [\"${x}\"] }\n", |decoder, root| decoder.data_file(root));
    assert!(data.found.is_empty(), "{}", data.found);
}

#[test]
fn dissimilar_key_gets_no_suggestion() {
    for key in ["timingAllowOrigin", "Timing-Allow-Origin", "timing_allow_origins"] {
        let message = only(&format!("policies: {{ a: {{ {key}: [] }} }}\n"));
        assert!(message.ends_with("did you mean `timingAllowOrigins`?"), "{message}");
    }
    let message = only("policies: { a: { forbiddenAllowOrigins: [] } }\n");
    assert!(message.contains("; its keys are `allowOrigins`"), "{message}");
    assert!(only("policies: { a: { allowedOrigins: [] } }\n").ends_with("did you mean `allowOrigins`?"));
}

#[test]
fn cross_site_keys_that_contradict_name_the_remedy() {
    let policy = |keys: &str| format!("    {{ allowOrigins: [\"https://a.b\"], {keys} }}\n");
    let forward = "4:57 `unmatchedRequests: Forward` does not forward form posts from other sites under `crossSite: Protect`; write \
         `crossSiteNavigations: Allow` where single sign-on or payment pages post to, or `crossSiteNavigations: Deny` if none do";
    check_policy(&policy("unmatchedRequests: Forward, crossSite: Protect"), &[&forward.replace("4:57", "5:57")]);
    for fine in [
        "unmatchedRequests: Forward, crossSite: Protect, crossSiteNavigations: Deny",
        "unmatchedRequests: Forward, crossSite: Report",
        "unmatchedRequests: Reject, crossSite: Protect",
        "crossSite: Report, crossSiteReads: Deny, crossSiteNavigations: Allow",
    ] {
        check_policy(&policy(fine), &[]);
    }
    for key in ["crossSiteReads: Deny", "crossSiteNavigations: Allow"] {
        let name = key.split(':').next().unwrap();
        let expected = format!("{name} has no effect without `crossSite: Protect` or `crossSite: Report`");
        let found = findings(&format!("{HEAD}policies:\n  spa:\n{}", policy(key)));
        assert!(matches!(&found[..], [only] if only.ends_with(&expected)), "{found:?}");
    }
}

#[test]
fn preset_next_to_a_star_names_both() {
    let policy = |keys: &str| format!("    {{ allowOrigins: [\"https://a.b\"], preset: Mcp, {keys} }}\n");
    for key in ["allowMethods", "allowHeaders", "exposeHeaders"] {
        let found = findings(&format!("{HEAD}policies:\n  spa:\n{}", policy(&format!("{key}: [x-a, \"*\"]"))));
        let expected = format!("`*` in {key} includes what `preset: Mcp` adds; remove one of them");
        assert!(matches!(&found[..], [only] if only.ends_with(&expected)), "{found:?}");
    }
    check_policy(&policy("allowHeaders: [x-a, Content-Type]"), &[]);
}

#[test]
fn route_needs_either_a_prefix_or_an_exact_path() {
    let route = |keys: &str| only(&format!("tenants:\n  - {{ id: a, hosts: [a.test], routes: [{{ {keys} }}] }}\n"));
    for (keys, message) in [
        ("policy: a", "missing key `pathPrefix` in a route; write it, or `pathExact`"),
        ("pathPrefix: /a, pathExact: /a", "a route has either `pathPrefix` or `pathExact`; remove one of them"),
        ("pathExact: healthz", "invalid path `healthz`"),
        ("pathExact: /a//b", "invalid path `/a//b`: paths are matched in normalized form; write /a/b"),
        ("pathExact: /a/../b", "invalid path `/a/../b`: paths are matched in normalized form; write /b"),
        ("pathExact: http://a.test/b", "invalid path `http://a.test/b`"),
        ("pathExact: /a }, { pathExact: /a", "two routes have the exact path `/a` and the same methods"),
    ] {
        let found = route(keys);
        assert!(found.contains(message), "{found} lacks {message}");
    }
    for good in [
        "pathExact: /a }, { pathPrefix: /a",
        "pathExact: /a/ }, { pathExact: /a",
        "pathExact: /a, methods: [GET] }, { pathExact: /a",
    ] {
        let found = findings(&format!("{HEAD}tenants:\n  - {{ id: a, hosts: [a.test], routes: [{{ {good} }}] }}\n"));
        assert!(found.is_empty(), "{good}: {found:?}");
    }
}

#[test]
fn timing_origins_and_embedding_that_cannot_be_meant_are_reported() {
    let of = |value: &str| {
        let text = format!("{HEAD}policies: {{ a: {{ allowOrigins: [\"*\"], {value} }} }}\n");
        findings(&text).into_iter().map(|found| found.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let many: Vec<String> = (0..17).map(|number| format!("\"https://a{number}.test\"")).collect();
    for (value, message) in [
        ("timingAllowOrigins: same", "unknown value `same`; write Same, or a list of origins"),
        ("timingAllowOrigins: []", "empty list of origins; write some, or remove the key"),
        ("timingAllowOrigins: [\"*\", \"https://a.test\"]", "`*` stands for all origins; write it alone"),
        ("timingAllowOrigins: [\"https://*.a.test\"]", "invalid origin `https://*.a.test`: write it in full"),
        ("timingAllowOrigins: [\"null\"]", "invalid origin `null`: write it in full"),
        ("timingAllowOrigins: [\"https://a.test/\"]", "invalid origin `https://a.test/`: write it in full"),
        ("timingAllowOrigins: [\"https://a.test\\r\\nx: y\"]", "invalid origin `https://a.test"),
        ("timingAllowOrigins: [\"https://a.test\", \"https://a.test\"]", "`https://a.test` is in the list twice"),
        (&format!("timingAllowOrigins: [{}]", many.join(", ")), "too many entries (17)"),
        ("crossOriginResourcePolicy: SameOrigin", "unknown value `SameOrigin`; did you mean same-origin?"),
        ("crossOriginResourcePolicy: same-origin", "with same-origin, pages of other sites cannot embed"),
        ("crossOriginResourcePolicy: same-site", "with same-site, pages of other sites cannot embed"),
        (
            "crossOriginResourcePolicy: cross-origin, crossSite: Protect, crossSiteReads: Deny",
            "with cross-origin, all pages may embed responses, but crossSiteReads refuses",
        ),
    ] {
        let found = of(value);
        assert!(matches!(found.as_slice(), [only] if only.starts_with(message)), "{value}: {found:?}");
    }
    for good in ["timingAllowOrigins: Same", "timingAllowOrigins: [\"*\"]", "crossOriginResourcePolicy: cross-origin"] {
        assert_eq!(of(good), [""; 0], "{good}");
    }
}

#[test]
fn headers_that_cannot_be_changed_are_reported() {
    let of = |section: &str| {
        let text = format!(
            "{HEAD}tenants:\n  - {{ id: a, hosts: [a.test], {section}, routes: [{{ pathPrefix: /b, {section} }}] }}\n"
        );
        findings(&text).into_iter().map(|found| found.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let long = format!("responseHeaders: {{ set: {{ a: {} }} }}", "x".repeat(4_097));
    let many: String = (0..65).map(|number| format!("a{number}: b, ")).collect();
    let many = format!("requestHeaders: {{ add: {{ {many} }} }}");
    for (section, message) in [
        ("requestHeaders: x-a", "expected changes of headers (a mapping)"),
        ("requestHeaders: { put: { a: b } }", "changes of headers has no key `put`"),
        ("requestHeaders: { set: [a] }", "expected header names with a value each (a mapping)"),
        ("requestHeaders: { set: { a: 1 } }", "expected a header value"),
        ("requestHeaders: { set: { a: \"\" } }", "invalid header value ``: write a value, or list the name"),
        ("requestHeaders: { set: { a: \" b\" } }", "invalid header value ` b`: write visible ASCII"),
        ("requestHeaders: { set: { a: \"b\\r\\nc: d\" } }", "invalid header value"),
        ("responseHeaders: { add: { a: \"\u{e9}\" } }", "invalid header value"),
        ("requestHeaders: { set: { \"a b\": c } }", "invalid header name `a b`"),
        ("requestHeaders: { remove: [\":path\"] }", "invalid header name `:path`"),
        ("requestHeaders: { set: { A: b }, remove: [a] }", "`a` is here twice"),
        (
            "requestHeaders: { set: { Host: b } }",
            "`Host` cannot be changed here: the key `host` of an upstream sets it",
        ),
        ("requestHeaders: { remove: [Sec-Fetch-Site] }", "`Sec-Fetch-Site` cannot be changed here: the policy decides"),
        ("requestHeaders: { add: { x-forwarded-for: b } }", "`x-forwarded-for` cannot be changed here: the gateway"),
        ("responseHeaders: { remove: [vary] }", "`vary` cannot be changed here: caches would mix up responses"),
        ("responseHeaders: { set: { access-control-max-age: b } }", "`access-control-max-age` cannot be changed here"),
        ("responseHeaders: { add: { set-cookie: a=b } }", "`set-cookie` cannot be changed here"),
        (&long, "invalid header value"),
        (&many, "65 headers are too many, expected at most 64"),
    ] {
        let found = of(section);
        let good = |text: &String| text.starts_with(message);
        assert!(found.len() == 2 && found.iter().all(good), "{section}: {found:?}");
    }
    for good in [
        "requestHeaders: { set: { authorization: \"Basic YQ==\", x-a: b }, remove: [x-b] }",
        "responseHeaders: { add: { vary: accept-language, link: \"<a>; rel=b\" }, remove: [server] }",
        "responseHeaders: {}",
    ] {
        assert_eq!(of(good), [""; 0], "{good}");
    }
}
