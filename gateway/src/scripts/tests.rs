//! Tests of which scripts of a directory serve, and which errors are reported.

use std::fs;

use tempfile::TempDir;

use super::*;

const GOOD: &str = "fn decide(req) { if req.host == \"a.test\" { allow() } }";
const USES_DATA: &str = "fn decide(req) { if in_set(\"hosts\", req.host) { allow() } }";

struct Directory {
    dir: TempDir,
    before: Scripts,
}

impl Directory {
    fn new(files: &[(&str, &str)]) -> Self {
        let new = Directory { dir: TempDir::new().unwrap(), before: Scripts::default() };
        fs::create_dir(new.dir.path().join("data")).unwrap();
        files.iter().for_each(|(name, text)| new.write(name, text.as_bytes()));
        new
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    /// Reads the directory. Returns the refused files with their messages.
    fn read(&mut self, named: &[&str]) -> Vec<(String, String)> {
        let reading = read(self.dir.path(), &RuleLimits::default(), &self.before, named).unwrap();
        self.before = reading.scripts;
        let shown = |refused: RefusedFile| (file_name(&refused.file).to_owned(), refused.errors.to_string());
        reading.refused.into_iter().map(shown).collect()
    }

    fn script(&self, name: &str) -> *const Script {
        Arc::as_ptr(self.before.get(name).unwrap())
    }
}

/// Checks a bad version of a good file: its message contains `piece`, and the last good script
/// stays.
#[track_caller]
fn check_bad(file: &str, bytes: &[u8], piece: &str) {
    let cases = "cases:\n  - { name: a, request: { origin: \"https://a.test\" }, expect: allow }\n";
    let mut dir =
        Directory::new(&[("a.rhai", GOOD), ("a.cases.yaml", cases), ("data/d.yaml", "sets: { hosts: [a.test] }")]);
    assert_eq!(dir.read(&[]), []);
    let good = dir.script("a.rhai");
    dir.write(file, bytes);
    let refused = dir.read(&[]);
    assert!(refused.iter().any(|(_, message)| message.contains(piece)), "{piece}: {refused:?}");
    assert_eq!(dir.script("a.rhai"), good, "the last good script stays");
    // After a start there is no last good script.
    dir.before = Scripts::default();
    assert!(!dir.read(&[]).is_empty());
}

#[test]
fn bad_script_is_reported_and_the_last_good_one_stays() {
    check_bad("a.rhai", b"", "there is no function `decide`");
    check_bad("a.rhai", b"fn decide(req) { \xff }", "not UTF-8");
    check_bad("a.rhai", " ".repeat(1 << 20).as_bytes(), "expected at most 65536");
    check_bad("a.rhai", " ".repeat(5 << 20).as_bytes(), "larger than 4MiB");
    check_bad("a.rhai", b"fn decide(req) { sleep(1) }", "may not call `sleep`");
    check_bad("a.rhai", b"fn decide(req) { deny() }", "run as preflight, expected allow and got deny");
    check_bad("a.rhai", b"fn decide(req) { loop {} }", "got error operations");
}

#[test]
fn bad_cases_are_reported_and_the_last_good_script_stays() {
    for (text, piece) in [
        ("", "found nothing"),
        ("cases: 1", "a list of cases"),
        ("cases:\n  - { nam: a }", "did you mean `name`?"),
        (
            "cases:\n  - { name: a, request: { origin: \"https://a.test\" }, expect: maybe }",
            "write allow, deny or abstain",
        ),
        ("cases:\n  - { name: a, request: { origin: \"https://a.test\" }, expect: { } }", "empty expectation"),
        ("cases:\n  - { name: a, request: { origin: \"https://A.test\" }, expect: allow }", "the origin"),
        ("cases:\n  - { name: a, request: { }, expect: allow }", "missing key `origin`"),
        (
            "cases:\n  - { name: a, request: { origin: \"https://a.test\", headers: { \"x y\": z } }, expect: allow }",
            "invalid header field",
        ),
        ("cases:\n  - { name: a, request: { origin: \"https://a.test\" }, expect: { error: maybe } }", "operations"),
        (
            "cases:\n  - { name: a, request: { origin: \"https://a.test\" }, expect: allow }\n  - { name: a, request: { origin: \"https://a.test\" }, expect: allow }",
            "two cases have the name `a`",
        ),
    ] {
        check_bad("a.cases.yaml", text.as_bytes(), piece);
    }
    check_bad("b.cases.yaml", b"cases: []", "no script for these cases");
}

#[test]
fn bad_data_is_reported_and_the_last_good_stays() {
    for (text, piece) in [
        ("sets: 1", "a mapping"),
        ("sets: { hosts: a.test }", "a list of values"),
        ("sets: { hosts: [1] }", "write it in quotes"),
        ("tables: { t: { a: [b] } }", "expected a text"),
        ("tables: { t: { a: b, a: c } }", "two texts have the name `a`"),
        ("lists: { }", "has no key `lists`"),
    ] {
        check_bad("data/d.yaml", text.as_bytes(), piece);
    }
    check_bad("data/e.yaml", b"sets: { hosts: [b.test] }", "another data file defines it");
}

#[test]
fn unchanged_scripts_stay_the_same_object() {
    let mut dir =
        Directory::new(&[("a.rhai", GOOD), ("b.rhai", USES_DATA), ("data/d.yaml", "sets: { hosts: [a.test] }")]);
    assert_eq!(dir.read(&[]), []);
    let (a, b) = (dir.script("a.rhai"), dir.script("b.rhai"));
    dir.write("a.rhai", GOOD.as_bytes());
    dir.write("data/d.yaml", b"sets: { hosts: [ a.test ] } # the same");
    assert_eq!(dir.read(&[]), []);
    assert_eq!((dir.script("a.rhai"), dir.script("b.rhai")), (a, b));
    dir.write("data/d.yaml", b"sets: { hosts: [b.test] }");
    assert_eq!(dir.read(&[]), []);
    assert_eq!(dir.script("a.rhai"), a, "the script uses no data");
    assert_ne!(dir.script("b.rhai"), b);
}

#[test]
fn deleted_script_that_a_policy_uses_keeps_serving() {
    let mut dir = Directory::new(&[("a.rhai", GOOD), ("b.rhai", GOOD)]);
    assert_eq!(dir.read(&[]), []);
    fs::remove_file(dir.dir.path().join("a.rhai")).unwrap();
    fs::remove_file(dir.dir.path().join("b.rhai")).unwrap();
    let refused = dir.read(&["a.rhai"]);
    assert!(refused[0].1.contains("missing script that a policy uses"), "{refused:?}");
    assert_eq!(dir.before.names().collect::<Vec<_>>(), ["a.rhai"]);
}

#[test]
fn directories_and_hidden_files_are_not_scripts() {
    let mut dir = Directory::new(&[(".a.rhai", "junk"), ("notes.txt", "junk"), ("b.rhai", GOOD)]);
    fs::create_dir(dir.dir.path().join("c.rhai")).unwrap();
    let refused = dir.read(&[]);
    assert!(refused.len() == 1 && refused[0].1.contains("not a regular file"), "{refused:?}");
    assert_eq!(dir.before.names().collect::<Vec<_>>(), ["b.rhai"]);
}
