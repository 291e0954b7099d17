//! How files are read as text: places, aliases, bounds, and what is told.

use super::*;

#[test]
fn shows_the_line_and_a_caret() {
    let text = "version: 1\nlisteners:\n  - adress: \"127.0.0.1:80\"\n";
    let found = main_file(text).found;
    let expected = "error: a listener has no key `adress`; did you mean `address`?\n  \
                    --> gateway.yaml:3:5\n  |\n3 |   - adress: \"127.0.0.1:80\"\n  |     ^^^^^^";
    let first = found.iter().find(|one| one.message.contains("adress"));
    assert_eq!(first.unwrap().to_string(), expected);

    let mut control = found.clone();
    control.quote(Path::new("gateway.yaml"), "unused, since the lines are there already");
    assert_eq!(control, found);
    let mut escape = Diagnostics::from_iter([Diagnostic::error(Path::new("x"), At::START, "m")]);
    escape.quote(Path::new("x"), "\u{1b}[2J\tred");
    assert!(escape.to_string().contains("1 | \u{fffd}[2J red"), "{escape}");

    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["file"], "gateway.yaml");
    assert_eq!((json[0]["line"].as_u64(), json[0]["column"].as_u64()), (Some(3), Some(5)));
}

#[test]
fn cuts_long_lines_around_the_caret() {
    let gap = " ".repeat(5_000);
    let text = format!("version: 1\nlisteners: []\npolicies: {{ a: {{}}, {gap}b: {{ maxAge: x }} }}\n");
    let shown = main_file(&text).found.to_string();
    assert!(shown.lines().all(|line| line.chars().count() < 200), "{shown}");
    let caret = shown.lines().rev().find(|line| line.contains('^')).unwrap().find('^').unwrap();
    let line = shown.lines().rev().find(|line| line.contains("maxAge")).unwrap();
    assert_eq!(line.chars().nth(caret), Some('x'), "{shown}");
}

#[test]
fn a_syntax_error_is_one_message_at_its_place() {
    check("version: 1\nlisteners: [1", &["2:12 this cannot be read as YAML: unclosed bracket"]);
    check("a: b: c", &["1:5 this cannot be read as YAML: mapping values are not allowed"]);
    check("a: *x", &["1:4 this cannot be read as YAML: an alias repeats nothing; write its anchor"]);
    check("a: 1\n---\nb: 2", &["2:1 this cannot be read as YAML: there is a second document; put each into a file"]);
    check("? [1]\n: 2", &["1:3 this cannot be read as YAML"]);
    check("a: !secret x", &["1:12 this cannot be read as YAML: this tag is not known; leave it out"]);
    check("a: &x [*x]", &["1:8 this cannot be read as YAML: an alias stands inside what it repeats; repeat something"]);
    check("~: 1", &["1:1 this cannot be read as YAML: a key is empty; write a text before the colon"]);
    let deep = format!("a: {}1{}", "[".repeat(40), "]".repeat(40));
    check(&"[".repeat(5_000), &["1:256 this cannot be read as YAML: it is nested too deeply; at most 32 levels"]);
    check("version: !!int x", &["1:16 this cannot be read as YAML: this is not what its tag says; leave the tag out"]);
    check(&deep, &["1:35 this cannot be read as YAML: it is nested too deeply; at most 32 levels are read"]);
    check("", &["1:1 this file is empty; a configuration has the keys version"]);
    check("- 1", &["1:1 expected a configuration (keys and values), found a list"]);
}

#[test]
fn follows_aliases_and_bounds_them() {
    let text =
        "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\noriginSets: { a: &a [\"https://a.example\"], b: *a }\n";
    let main = main_file(text);
    assert!(main.found.is_empty(), "{}", main.found);
    assert_eq!(main.value.origin_sets[0].origins, main.value.origin_sets[1].origins);

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    let found = findings(&bomb);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("aliases repeat too much; at most 200000 values may come from them"), "{found:?}");
}

#[test]
fn bounds_the_text_that_aliases_repeat() {
    let text = format!("version: 1\ntenants: [&a \"{}\"{}]\n", "A".repeat(1 << 20), ", *a".repeat(1_000));
    let found = findings(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    let message = "this cannot be read as YAML: aliases repeat too much text; at most 16MiB may come from them";
    assert!(found[0].starts_with("2:") && found[0].ends_with(message), "{found:?}");
}

#[test]
fn one_list_may_be_repeated_by_every_tenant() {
    let tenant =
        |n: usize| format!("  - {{ id: t{n}, hosts: [t{n}.example], upstream: a, policy: p, allowOrigins: *o }}\n");
    let first = "tenants:\n  - { id: t, hosts: [t.example], allowOrigins: &o [\"https://a.example\", \"https://b.example\"] }\n";
    let text = first.to_owned() + &(0..1_000).map(tenant).collect::<String>();
    let decoded = decode_text(Path::new("many.yaml"), &text, |decoder, root| decoder.tenants_file(root));
    assert!(decoded.found.is_empty(), "{}", decoded.found);
    assert_eq!(decoded.value.tenants[1_000].allow_origins.len(), 2);
}

#[test]
fn heeds_the_tags_of_yaml_itself() {
    let main = main_file("version: !!int 1\nlisteners: [{ address: !!str 127.0.0.1:0 }]\n");
    assert!(main.found.is_empty(), "{}", main.found);
}

#[test]
fn reads_more_tenants_than_the_parser_allows_by_itself() {
    let tenant = |n: usize| format!("  - {{ id: t{n}, hosts: [t{n}.example], upstream: a, policy: p }}\n");
    let text = format!("tenants:\n{}", (0..30_000).map(tenant).collect::<String>());
    let decoded = decode_text(Path::new("many.yaml"), &text, |decoder, root| decoder.tenants_file(root));
    assert!(decoded.found.is_empty(), "{}", decoded.found);
    assert_eq!(decoded.value.tenants.len(), 30_000);
}

#[test]
fn tells_at_most_a_thousand_findings() {
    let text = format!("version: 1\nlisteners: [{}]\n", "x, ".repeat(60));
    let lists = "tenants:\n".to_owned() + &"  - {}\n".repeat(3_000);
    let found = main_file(&(text + &lists)).found;
    assert_eq!(found.len(), 1_001);
    assert!(found.to_string().contains("there are more than 1000 findings"));
}

#[test]
fn warnings_are_never_an_error_and_make_place_for_errors() {
    let at = |line| At { line, ..At::START };
    let warning = |line| Diagnostic::warning(Path::new("x"), at(line), "w");
    let error = |line| Diagnostic::error(Path::new("x"), at(line), "e");
    let mut found: Diagnostics = (1..=3_000).map(warning).collect();
    assert!(!found.has_errors() && found.len() == 1_001);
    found.push(error(4_000));
    assert!(found.iter().any(|one| one.message == "e"));
    assert_eq!(found.iter().last().unwrap().severity, diagnostics::Severity::Warning, "only warnings were dropped");
    found.extend((1..=1_001).map(error));
    assert_eq!(found.iter().filter(|one| one.message == "e").count(), 1_000);
    assert_eq!(found.iter().last().unwrap().severity, diagnostics::Severity::Error);
    assert_eq!(found.clone().into_iter().collect::<Diagnostics>().len(), found.len());
}

#[test]
fn many_mistakes_in_one_long_line_cost_little() {
    let text = format!("{{\"version\": 1, \"listeners\": [], \"tenants\": [{}]}}", "{}, ".repeat(20_000));
    let found = main_file(&text).found;
    assert_eq!(found.len(), 1_001);
    assert!(serde_json::to_string(&found).unwrap().len() < 1_000_000);
    let late = found.iter().nth(900).unwrap();
    let caret = (late.place.column - late.source_column) as usize;
    assert_eq!(late.source_line.as_ref().unwrap().get(caret..caret + 6), Some("{}, {}"), "{late}");
    assert!(late.to_string().ends_with(&format!("{}^", " ".repeat(40))), "{late}");
}

#[test]
fn guesses_cost_little_however_much_is_wrong() {
    let text = format!("version: 1\nlisteners: []\npolicies: {{ p: {{ {} }} }}\n", "allowOrigin: 1, ".repeat(2_000));
    let found = main_file(&text).found;
    assert_eq!(found.iter().filter(|one| one.message.contains("did you mean")).count(), 99);

    let names: Vec<String> = (0..300).map(|n| format!("policy-{n:03}")).collect();
    let among = |count: usize| similar("policy-0OO", names[..count].iter().map(String::as_str));
    assert_eq!(among(200), Some("policy-000"));
    assert_eq!(among(300), None);
    assert_eq!(similar(&"x".repeat(1 << 20), ["x"].into_iter()), None);
}

#[test]
fn names_things_as_one_speaks_of_them() {
    check(
        "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\npolicies: { a: { allowOrigins: [1] }, a: {} }\n",
        &["3:33 expected an origin, found the number 1", "3:39 there are two policies called `a`; rename one"],
    );
}

#[test]
fn a_message_is_bounded() {
    let found = Diagnostics::from_iter([Diagnostic::error(Path::new("x"), At::START, "é".repeat(1 << 20))]);
    assert!(found.to_string().len() < 3_000);
}

#[test]
fn a_message_has_no_control_characters() {
    let message = "there is no table `a\u{1b}[31m\r\nb\u{85}`";
    let found = Diagnostics::from_iter([Diagnostic::error(Path::new("x"), At::START, message)]);
    let expected = "error: there is no table `a\u{fffd}[31m\u{fffd}\u{fffd}b\u{fffd}`\n  --> x:1:1";
    assert_eq!(found.to_string(), expected);
}

#[test]
fn every_line_end_of_yaml_ends_a_line() {
    for end in ["\n", "\r\n", "\r"] {
        let found = main_file(&["version: 1", "listeners: []", "adress: x", ""].join(end)).found;
        let shown: Vec<_> = found.iter().map(|one| one.source_line.as_deref()).collect();
        assert_eq!(shown, [Some("listeners: []"), Some("adress: x")], "{end:?}");
    }
}

proptest::proptest! {
    /// Whatever is wrong with a file, every finding says where.
    #[test]
    fn damage_anywhere_is_located(from in 0..900_usize, len in 0..40_usize, with in "[a-z:{}\\[\\]\"'#&*!|>%@, \n\t-]{0,6}") {
        let sample = include_str!("../../../../ops/config/demo.yaml");
        let text: String = sample.chars().take(from).chain(with.chars()).chain(sample.chars().skip(from + len)).collect();
        let lines: Vec<&str> = text.lines().collect();
        for one in main_file(&text).found.iter() {
            let line = lines.get(one.place.line as usize - 1).copied();
            let shown = one.source_line.as_deref();
            proptest::prop_assert!(shown == line || line.is_some_and(|line| line.len() > 160 && line.contains(shown.unwrap_or("\n"))));
            proptest::prop_assert!(one.place.column as usize <= line.map_or(0, |line| line.chars().count()) + 1, "{}", one);
        }
    }
}
