//! `crossgate check` on the corpus of configured texts: the command reports every error and warning
//! of the engine with its location, and its exit code distinguishes the two. Also checks files
//! whose secrets are on another machine.
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::config;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A policy as the configuration has it, and a part of every message about it, by location.
#[derive(Debug, Deserialize)]
struct Case {
    id: String,
    title: String,
    policy: Value,
    /// The origins that the tenant adds.
    #[serde(default)]
    own: Vec<Value>,
    #[serde(default)]
    refused: BTreeMap<String, String>,
    #[serde(default)]
    warned: BTreeMap<String, String>,
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy/tests/corpus/patterns.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Renders a whole configuration around the policy. JSON is valid YAML.
fn text(case: &Case) -> String {
    let mut policy = case.policy.clone();
    let mut sets = named_sets(&mut policy);
    for group in policy.get_mut("groups").and_then(Value::as_array_mut).into_iter().flatten() {
        sets.extend(named_sets(group));
    }
    let rest = format!(
        "upstreams: {{ api: {{ servers: [127.0.0.1:9] }} }}\noriginSets: {}\npolicies:\n  it: {policy}\n\
         tenants: [{{ id: it, hosts: [it.test], upstream: api, policy: it, allowOrigins: {} }}]\n",
        json!(sets),
        json!(case.own)
    );
    config(&rest)
}

/// Replaces the origin sets of a policy or group by their names, and returns them.
fn named_sets(terms: &mut Value) -> BTreeMap<String, Value> {
    let sets = terms.as_object_mut().unwrap().remove("originSets").unwrap_or(json!([]));
    let named = |set: &Value| (set["name"].as_str().unwrap().to_owned(), set["origins"].clone());
    let sets: BTreeMap<String, Value> = sets.as_array().unwrap().iter().map(named).collect();
    if !sets.is_empty() {
        terms["allowOriginSets"] = json!(sets.keys().collect::<Vec<_>>());
    }
    sets
}

/// Runs `crossgate check` and returns its exit code and its output.
fn check(path: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_crossgate")).arg("check").arg(path).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn check_command_reports_what_the_engine_finds() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("crossgate.yaml");
    let mut failures = Vec::new();
    for case in cases() {
        std::fs::write(&path, text(&case)).unwrap();
        let (code, output) = check(&path);
        let wanted = i32::from(!case.refused.is_empty());
        // Warnings are optional when the file is refused.
        let parts: Vec<&String> = if wanted == 1 { case.refused.values() } else { case.warned.values() }.collect();
        let missing: Vec<&&String> = parts.iter().filter(|part| !output.contains(part.as_str())).collect();
        let has_locations = output.matches("crossgate.yaml:").count() >= parts.len();
        if code != Some(wanted) || !missing.is_empty() || !has_locations {
            failures.push(format!(
                "{} ({}): exit code {code:?} instead of {wanted}, missing in the output {missing:?}:\n{output}",
                case.id, case.title
            ));
        }
    }
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn sample_configurations_pass_the_check_command() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/config");
    let mut seen = 0;
    for entry in std::fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let (code, output) = check(&path);
            assert_eq!(code, Some(0), "{}: {output}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 1);
}

/// Every kind of secret file, all missing on this machine.
const SECRETS: &str = r#"version: 1
listeners:
  - address: "127.0.0.1:0"
    tls: { certificates: [{ certificate: missing/tls.crt, key: missing/tls.key }] }
admin: { address: "127.0.0.1:0", tokenFile: missing/token }
upstreams:
  api:
    servers: ["127.0.0.1:9"]
    tls: { ca: missing/ca.pem, clientCertificate: { certificate: missing/own.crt, key: missing/own.key } }
policies: { spa: { allowOrigins: ["https://app.example"] } }
tenants: [{ id: acme, hosts: [api.example], upstream: api, policy: spa }]
"#;

/// Runs a command on a main file, which is appended to the arguments.
fn crossgate(arguments: &[&str], main: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_crossgate")).args(arguments).arg(main).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Lists the locations of the warnings with a code, as `line:column`.
fn warning_locations<'a>(output: &'a str, code: &str) -> Vec<&'a str> {
    let head = format!("warning[{code}]: ");
    let mut lines = output.lines();
    let mut places = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with(&head) {
            places.push(lines.next().and_then(|place| place.split("crossgate.yaml:").nth(1)).unwrap());
        }
    }
    places
}

#[test]
fn d3_missing_secrets_are_warnings_offline() {
    let directory = TempDir::new().unwrap();
    let main = directory.path().join("crossgate.yaml");
    std::fs::write(&main, SECRETS).unwrap();
    let (code, _, output) = crossgate(&["check"], &main);
    assert_eq!(code, Some(1), "{output}");
    assert!(!output.contains("missing-secret"), "{output}");
    let (code, _, output) = crossgate(&["check", "--offline"], &main);
    assert_eq!(code, Some(0), "{output}");
    let places = warning_locations(&output, "missing-secret");
    assert_eq!(places, ["4:42", "4:64", "5:45", "9:16", "9:66", "9:88"], "{output}");
    assert_eq!(output.matches("warning").count(), places.len(), "unexpected warnings: {output}");
    assert!(
        output.contains("missing/own.key was not checked because it cannot be read here: No such file"),
        "{output}"
    );

    let arguments = ["explain", "--offline", "--host", "api.example", "--origin", "https://app.example", "--config"];
    let (code, output, _) = crossgate(&arguments, &main);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("https://app.example"), "{output}");
    let (code, _, output) = crossgate(&[&arguments[..1], &arguments[2..]].concat(), &main);
    assert_eq!(code, Some(1), "{output}");
}

#[test]
fn d3_present_secrets_are_checked_offline() {
    let directory = TempDir::new().unwrap();
    let main = directory.path().join("crossgate.yaml");
    std::fs::write(&main, SECRETS).unwrap();
    std::fs::create_dir(directory.path().join("missing")).unwrap();
    // Each file is invalid and alone: the other file of its pair is still missing.
    for (file, message) in [
        ("tls.crt", "cannot be used: no certificate found"),
        ("ca.pem", "has no readable certificate"),
        ("own.key", "has no readable private key"),
        ("token", "invalid token in the admin token file"),
    ] {
        let path = directory.path().join("missing").join(file);
        std::fs::write(&path, "none").unwrap();
        let (code, _, output) = crossgate(&["check", "--offline"], &main);
        assert_eq!(code, Some(1), "{file}: {output}");
        assert!(output.contains(message), "{file}: {output}");
        assert_eq!(warning_locations(&output, "missing-secret").len(), 5, "{file}: {output}");
        std::fs::remove_file(path).unwrap();
    }
}
