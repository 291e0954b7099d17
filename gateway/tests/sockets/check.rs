//! `crossgate check` on the corpus of configured texts: what the engine refuses or doubts, the command names with its
//! place, and its exit code says which of the two it was.
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::config;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A policy in the configuration's vocabulary, and a part of every message about it, by place.
#[derive(Debug, Deserialize)]
struct Case {
    id: String,
    policy: Value,
    #[serde(default)]
    refused: BTreeMap<String, String>,
    #[serde(default)]
    warned: BTreeMap<String, String>,
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy/tests/corpus/patterns.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A whole configuration around the policy. JSON is YAML too.
fn text(case: &Case) -> String {
    let mut policy = case.policy.clone();
    let sets = policy.as_object_mut().unwrap().remove("originSets").unwrap_or(json!([]));
    let sets: BTreeMap<String, Value> = sets
        .as_array()
        .unwrap()
        .iter()
        .map(|set| (set["name"].as_str().unwrap().to_owned(), set["origins"].clone()))
        .collect();
    if !sets.is_empty() {
        policy["allowOriginSets"] = json!(sets.keys().collect::<Vec<_>>());
    }
    let rest = format!(
        "upstreams: {{ api: {{ servers: [127.0.0.1:9] }} }}\noriginSets: {}\npolicies:\n  it: {policy}\n\
         tenants: [{{ id: it, hosts: [it.test], upstream: api, policy: it }}]\n",
        json!(sets)
    );
    config(&rest)
}

/// The exit code of `crossgate check` and all that it said.
fn check(path: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_crossgate")).arg("check").arg(path).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn the_command_says_what_the_engine_says() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("crossgate.yaml");
    let mut failures = Vec::new();
    for case in cases() {
        std::fs::write(&path, text(&case)).unwrap();
        let (code, said) = check(&path);
        let wanted = i32::from(!case.refused.is_empty());
        // What is doubted need not be said where the file is refused anyway.
        let parts: Vec<&String> = if wanted == 1 { case.refused.values() } else { case.warned.values() }.collect();
        let missing: Vec<&&String> = parts.iter().filter(|part| !said.contains(part.as_str())).collect();
        let placed = said.matches("crossgate.yaml:").count() >= parts.len();
        if code != Some(wanted) || !missing.is_empty() || !placed {
            failures.push(format!("{}: exit {code:?} for {wanted}, not said {missing:?}:\n{said}", case.id));
        }
    }
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_samples_are_good() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/config");
    let mut seen = 0;
    for entry in std::fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let (code, said) = check(&path);
            assert_eq!(code, Some(0), "{}: {said}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 1);
}
