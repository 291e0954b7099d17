//! Checks that the manual describes every function and field of rules, and that its scripts load.
use super::*;
use crossgate_policy::{callable_names, field_names};

const MANUAL: &str = include_str!("../../../scripts/README.md");

#[test]
fn manual_describes_every_function_and_field() {
    for name in callable_names() {
        assert!(MANUAL.contains(&format!("`{name}`")) || MANUAL.contains(&format!("`{name}(")), "{name}");
    }
    for name in field_names() {
        assert!(MANUAL.contains(&format!("`req.{name}`")), "{name}");
    }
    for kind in RuleErrorKind::ALL {
        assert!(MANUAL.contains(&format!("`{}`", kind.as_str())), "{}", kind.as_str());
    }
}

#[test]
fn every_script_in_the_manual_loads() {
    let named = |name: &str| (name.to_owned(), vec!["acme.dev".to_owned()]);
    let data = Arc::new(RuleData::new([named("own_domains"), named("readers")], []));
    let blocks: Vec<&str> = MANUAL.split("```rhai\n").skip(1).filter_map(|rest| rest.split("```\n").next()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let source =
            if block.contains("fn decide") { block.to_owned() } else { format!("fn decide(req) {{\n{block}}}\n") };
        let compiled = Script::compile("manual", &source, &data, &RuleLimits::default());
        assert!(compiled.is_ok(), "{source}\n{:#?}", compiled.err());
    }
}
