//! Findings about the text of files: positions, aliases, limits, and their display.

use super::*;
use crate::warnings::WarningCode;

#[test]
fn finding_shows_the_line_and_a_caret() {
    let text = "version: 1\nlisteners:\n  - adress: \"127.0.0.1:80\"\n";
    let found = main_file(text).found;
    let expected = "error: a listener has no key `adress`; did you mean `address`?\n  \
                    --> gateway.yaml:3:5\n  |\n3 |   - adress: \"127.0.0.1:80\"\n  |     ^^^^^^";
    let first = found.iter().find(|one| one.message.contains("adress"));
    assert_eq!(first.unwrap().to_string(), expected);

    let mut control = found.clone();
    control.quote(Path::new("gateway.yaml"), "unused, since the lines are there already");
    assert_eq!(control, found);
    let mut escape = Diagnostics::from_iter([Diagnostic::error(Path::new("x"), Position::START, "m")]);
    escape.quote(Path::new("x"), "\u{1b}[2J\tred");
    assert!(escape.to_string().contains("1 | \u{fffd}[2J red"), "{escape}");

    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["file"], "gateway.yaml");
    assert_eq!((json[0]["line"].as_u64(), json[0]["column"].as_u64()), (Some(3), Some(5)));
}

#[test]
fn long_line_is_cut_around_the_caret() {
    let gap = " ".repeat(5_000);
    let text = format!("version: 1\nlisteners: []\npolicies: {{ a: {{}}, {gap}b: {{ maxAge: x }} }}\n");
    let shown = main_file(&text).found.to_string();
    assert!(shown.lines().all(|line| line.chars().count() < 200), "{shown}");
    let caret = shown.lines().rev().find(|line| line.contains('^')).unwrap().find('^').unwrap();
    let line = shown.lines().rev().find(|line| line.contains("maxAge")).unwrap();
    assert_eq!(line.chars().nth(caret), Some('x'), "{shown}");
}

#[test]
fn syntax_error_is_one_message_at_its_position() {
    check("version: 1\nlisteners: [1", &["2:12 invalid YAML: this `[` is not closed; write `]` where it ends"]);
    check("a: b: c", &["1:5 invalid YAML: mapping values are not allowed"]);
    check("a: *x", &["1:4 invalid YAML: unknown anchor; write the anchor"]);
    check("a: 1\n---\nb: 2", &["2:1 invalid YAML: second document; write each document to its own file"]);
    check("? [1]\n: 2", &["1:3 invalid YAML"]);
    check("a: !secret x", &["1:12 invalid YAML: unknown tag; remove it"]);
    check("a: &x [*x]", &["1:8 invalid YAML: alias inside its own anchor; write the alias after"]);
    check("~: 1", &["1:1 invalid YAML: empty key; write a text before the colon"]);
    let deep = format!("a: {}1{}", "[".repeat(40), "]".repeat(40));
    check(&"[".repeat(5_000), &["1:256 invalid YAML: too many levels of nesting; at most 32 are"]);
    check("version: !!int x", &["1:16 invalid YAML: the value does not match its tag; remove the tag"]);
    check(&deep, &["1:35 invalid YAML: too many levels of nesting; at most 32 are accepted"]);
    check("", &["1:1 empty file; a configuration has the keys version"]);
    check("- 1", &["1:1 expected a configuration (a mapping), found a list"]);
}

#[test]
fn aliases_expand_up_to_a_maximum_of_values() {
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
    assert!(found[0].contains("aliases expand to too many values; at most 200000 are accepted"), "{found:?}");
}

#[test]
fn aliases_expand_up_to_a_maximum_of_text() {
    let text = format!("version: 1\ntenants: [&a \"{}\"{}]\n", "A".repeat(1 << 20), ", *a".repeat(1_000));
    let found = findings(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    let message = "invalid YAML: aliases expand to too much text; at most 16MiB is accepted";
    assert!(found[0].starts_with("2:") && found[0].ends_with(message), "{found:?}");
}

#[test]
fn alias_of_one_list_by_every_tenant_is_accepted() {
    let tenant =
        |n: usize| format!("  - {{ id: t{n}, hosts: [t{n}.example], upstream: a, policy: p, allowOrigins: *o }}\n");
    let first = "tenants:\n  - { id: t, hosts: [t.example], allowOrigins: &o [\"https://a.example\", \"https://b.example\"] }\n";
    let text = first.to_owned() + &(0..1_000).map(tenant).collect::<String>();
    let decoded = decode_text(Path::new("many.yaml"), &text, |decoder, root| decoder.tenants_file(root));
    assert!(decoded.found.is_empty(), "{}", decoded.found);
    assert_eq!(decoded.value.tenants[1_000].allow_origins.len(), 2);
}

#[test]
fn core_tags_of_yaml_are_accepted() {
    let main = main_file("version: !!int 1\nlisteners: [{ address: !!str 127.0.0.1:0 }]\n");
    assert!(main.found.is_empty(), "{}", main.found);
}

#[test]
fn tenants_over_the_default_limits_of_the_parser_are_accepted() {
    let tenant = |n: usize| format!("  - {{ id: t{n}, hosts: [t{n}.example], upstream: a, policy: p }}\n");
    let text = format!("tenants:\n{}", (0..30_000).map(tenant).collect::<String>());
    let decoded = decode_text(Path::new("many.yaml"), &text, |decoder, root| decoder.tenants_file(root));
    assert!(decoded.found.is_empty(), "{}", decoded.found);
    assert_eq!(decoded.value.tenants.len(), 30_000);
}

#[test]
fn findings_over_a_thousand_are_summarized() {
    let text = format!("version: 1\nlisteners: [{}]\n", "x, ".repeat(60));
    let lists = "tenants:\n".to_owned() + &"  - {}\n".repeat(3_000);
    let found = main_file(&(text + &lists)).found;
    assert_eq!(found.len(), 1_001);
    assert!(found.to_string().contains("more than 1000 findings"));
}

#[test]
fn error_replaces_a_warning_in_a_full_list() {
    let at = |line| Position { line, ..Position::START };
    let warning = |line| Diagnostic::warning(WarningCode::Unused, Path::new("x"), at(line), "w");
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
fn many_mistakes_in_one_long_line_stay_small() {
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
fn suggestions_stop_for_long_words_and_many_findings() {
    let text = format!("version: 1\nlisteners: []\npolicies: {{ p: {{ {} }} }}\n", "allowOrigin: 1, ".repeat(2_000));
    let found = main_file(&text).found;
    assert_eq!(found.iter().filter(|one| one.message.contains("did you mean")).count(), 99);

    let names: Vec<String> = (0..300).map(|n| format!("policy-{n:03}")).collect();
    let among = |count: usize| find_similar("policy-0OO", names[..count].iter().map(String::as_str));
    assert_eq!(among(200), Some("policy-000"));
    assert_eq!(among(300), None);
    assert_eq!(find_similar(&"x".repeat(1 << 20), ["x"].into_iter()), None);
}

#[test]
fn messages_use_articles_and_plurals() {
    check(
        "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\npolicies: { a: { allowOrigins: [1] }, a: {} }\n",
        &["3:33 expected an origin, found the number 1", "3:39 two policies have the name `a`; rename one"],
    );
}

#[test]
fn long_message_is_cut() {
    let found = Diagnostics::from_iter([Diagnostic::error(Path::new("x"), Position::START, "é".repeat(1 << 20))]);
    assert!(found.to_string().len() < 3_000);
}

#[test]
fn control_characters_of_a_message_are_replaced() {
    let message = "there is no table `a\u{1b}[31m\r\nb\u{85}`";
    let found = Diagnostics::from_iter([Diagnostic::error(Path::new("x"), Position::START, message)]);
    let expected = "error: there is no table `a\u{fffd}[31m\u{fffd}\u{fffd}b\u{fffd}`\n  --> x:1:1";
    assert_eq!(found.to_string(), expected);
}

#[test]
fn carriage_return_alone_ends_a_line() {
    for end in ["\n", "\r\n", "\r"] {
        let found = main_file(&["version: 1", "listeners: []", "adress: x", ""].join(end)).found;
        let shown: Vec<_> = found.iter().map(|one| one.source_line.as_deref()).collect();
        assert_eq!(shown, [Some("listeners: []"), Some("adress: x")], "{end:?}");
    }
}

proptest::proptest! {
    #[test]
    fn every_finding_of_a_damaged_file_has_a_position(from in 0..900_usize, len in 0..40_usize, with in "[a-z:{}\\[\\]\"'#&*!|>%@, \n\t-]{0,6}") {
        let sample = include_str!("../../../ops/config/demo.yaml");
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
