//! Tests of refused rules: each is reported once, with its cause.

use super::*;

/// Creates a configuration whose policy names a rule.
fn files_with_rule() -> Files {
    let files = Files::new(&[]);
    let main = MAIN.replace("[s] }", "[s], rule: { script: a.rhai } }") + "scriptsDir: scripts\n";
    files.write("gateway.yaml", &main);
    files
}

fn messages(found: &Diagnostics) -> Vec<String> {
    found.iter().map(|one| one.message.clone()).collect()
}

#[test]
fn e_refused_rule_is_reported_once_with_its_cause() {
    let files = files_with_rule();
    let found = files.start_with(BrokenTenants::Refuse).err().unwrap();
    let [message] = &messages(&found)[..] else { panic!("{found}") };
    assert!(message.starts_with("cannot read the directory") && message.contains("scripts: "), "{message}");

    files.write("scripts/b.rhai", "fn decide(req) { deny() }");
    let missing = "there is no script `a.rhai` in scriptsDir; did you mean `b.rhai`?";
    assert_eq!(messages(&files.start_with(BrokenTenants::Refuse).err().unwrap()), [missing]);

    files.write("scripts/a.rhai", "fn decide(req) { deny() }");
    files.write(
        "scripts/a.cases.yaml",
        "cases: [{ name: it, kind: actual, request: { origin: \"https://a.example\" }, expect: allow }]\n",
    );
    let found = files.start_with(BrokenTenants::Refuse).err().unwrap();
    let [message] = &messages(&found)[..] else { panic!("{found}") };
    assert!(message.contains("`it`"), "{message}");
    assert!(found.iter().all(|one| one.place.file.ends_with("scripts/a.cases.yaml")), "{found}");

    files.write("scripts/a.rhai", "fn decide(req) { print(1) }");
    let found = files.start_with(BrokenTenants::Refuse).err().unwrap();
    let [message] = &messages(&found)[..] else { panic!("{found}") };
    assert!(message.starts_with("a rule may not call `print`"), "{message}");
}

#[test]
fn e_reload_naming_a_refused_script_reports_the_cause() {
    let files = Files::new(&[]);
    let reloader = files.start();
    files.write("scripts/a.rhai", "fn decide(req) { print(1) }");
    let main = MAIN.replace("[s] }", "[s], rule: { script: a.rhai } }") + "scriptsDir: scripts\n";
    files.replace("gateway.yaml", &main);
    let found = reloader.reload_now().err().unwrap();
    let [message] = &messages(&found)[..] else { panic!("{found}") };
    assert!(message.starts_with("a rule may not call `print`"), "{message}");
}
