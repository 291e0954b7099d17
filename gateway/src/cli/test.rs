//! `crossgate test [DIR]`: runs the cases of all scripts in a directory, as a start and every
//! reload do.
//!
//! Standard output gets one line for every script, and a diff for every failed case. `--junit`
//! writes the same results as XML.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossgate_policy::{RuleLimits, Script};

use super::{GOOD, USAGE, WRONG};
use crate::scripts::{self, Scripts, cases};
use crossgate_config::CasesFile;
use crossgate_config::diagnostics::Diagnostics;

/// The arguments of `crossgate test`.
#[derive(Debug, Clone, clap::Args)]
pub struct TestArgs {
    /// The directory of scripts
    #[arg(value_name = "DIR", default_value = "scripts")]
    pub directory: PathBuf,
    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// The result of one script.
struct ScriptResult {
    name: String,
    result: Result<CaseResults, Diagnostics>,
}

struct CaseResults {
    cases: CasesFile,
    failures: Vec<cases::CaseFailure>,
}

/// Tests a directory. Exit codes: 0 if all cases pass, 1 if a script is broken or a case fails, 2
/// if the directory cannot be read.
///
/// # Errors
/// The output cannot be written.
pub fn run(args: &TestArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let script_results = match test(&args.directory) {
        Ok(script_results) => script_results,
        Err(error) => {
            writeln!(
                err,
                "error: cannot read the directory {}: {error}; expected a directory of scripts",
                args.directory.display()
            )?;
            return Ok(USAGE);
        }
    };
    for script in &script_results {
        print(script, out)?;
    }
    let broken = script_results.iter().filter(|script| !script.is_good()).count();
    let cases: usize = script_results.iter().map(ScriptResult::count).sum();
    writeln!(
        out,
        "{}, {}: {}",
        count_of(script_results.len(), "script"),
        count_of(cases, "case"),
        if broken == 0 { "all good".to_owned() } else { format!("{} failed", count_of(broken, "script")) }
    )?;
    if let Some(file) = &args.junit {
        std::fs::write(file, render_junit(&script_results))?;
    }
    Ok(if broken == 0 { GOOD } else { WRONG })
}

fn test(directory: &Path) -> io::Result<Vec<ScriptResult>> {
    let limits = RuleLimits::default();
    let reading = scripts::read(directory, &limits, &Scripts::default(), &[])?;
    let refused = reading.refused.iter().map(|refused| &refused.file);
    let scripts =
        scripts::list_watched_files(directory).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rhai"));
    let others = refused.filter(|file| file.extension().is_none_or(|extension| extension != "rhai"));
    let mut script_results: Vec<ScriptResult> = scripts.map(|path| test_script(&path, &reading)).collect();
    script_results
        .extend(others.map(|file| ScriptResult { name: name_of(file), result: Err(errors_of(file, &reading)) }));
    Ok(script_results)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn errors_of(path: &Path, reading: &scripts::DirectoryReading) -> Diagnostics {
    reading
        .refused
        .iter()
        .find(|refused| refused.file == path)
        .map(|refused| refused.errors.clone())
        .unwrap_or_default()
}

/// Tests one script. If it was refused because of its cases, each case gets its own result.
fn test_script(path: &Path, reading: &scripts::DirectoryReading) -> ScriptResult {
    let name = name_of(path);
    let result = match reading.scripts.get(&name) {
        Some(script) => run_cases(path, script),
        None => compile(path, reading).and_then(|script| run_cases(path, &script)),
    };
    ScriptResult { name, result }
}

fn compile(path: &Path, reading: &scripts::DirectoryReading) -> Result<Arc<Script>, Diagnostics> {
    let source = scripts::read_text(path)?;
    scripts::compile_source(path, &source, reading.scripts.data(), &RuleLimits::default()).map(Arc::new)
}

fn run_cases(path: &Path, script: &Arc<Script>) -> Result<CaseResults, Diagnostics> {
    let file = scripts::cases_path(path);
    let cases =
        if file.exists() { scripts::decode_cases(&file, &scripts::read_text(&file)?)? } else { CasesFile::default() };
    let failures = cases::run(script, &cases);
    Ok(CaseResults { cases, failures })
}

impl ScriptResult {
    fn is_good(&self) -> bool {
        self.result.as_ref().is_ok_and(|results| results.failures.is_empty())
    }

    fn count(&self) -> usize {
        self.result.as_ref().map_or(0, |results| results.cases.cases.len())
    }
}

fn print(script: &ScriptResult, out: &mut dyn Write) -> io::Result<()> {
    let name = &script.name;
    match &script.result {
        Err(errors) => writeln!(out, "FAIL {name}\n{errors}"),
        Ok(results) if results.cases.cases.is_empty() => {
            writeln!(out, "ok   {name}: no cases: add some in {}", cases_name(name))
        }
        Ok(results) if results.failures.is_empty() => {
            writeln!(out, "ok   {name}: {}", count_of(results.cases.cases.len(), "case"))
        }
        Ok(results) => {
            writeln!(out, "FAIL {name}: {} of {} runs", results.failures.len(), results.runs())?;
            results.failures.iter().try_for_each(|failure| write!(out, "{failure}"))
        }
    }
}

fn cases_name(script: &str) -> String {
    format!("{}.cases.yaml", script.trim_end_matches(".rhai"))
}

impl CaseResults {
    fn runs(&self) -> usize {
        self.cases.cases.iter().map(|case| case.kinds.len()).sum()
    }
}

/// A count with its noun, such as `1 case`.
fn count_of(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Renders JUnit XML: a suite for every script, a test for every case and kind.
fn render_junit(script_results: &[ScriptResult]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"crossgate\">\n");
    for script in script_results {
        let suite = escape_xml(&script.name);
        let _written = match &script.result {
            Err(errors) => writeln!(
                xml,
                "  <testsuite name=\"{suite}\" tests=\"1\" failures=\"0\" errors=\"1\">\n    <testcase classname=\"{suite}\" \
                 name=\"loads\"><error message=\"the file is refused\">{}</error></testcase>\n  </testsuite>",
                escape_xml(&errors.to_string())
            ),
            Ok(results) => writeln!(
                xml,
                "  <testsuite name=\"{suite}\" tests=\"{}\" failures=\"{}\" errors=\"0\">\n{}  </testsuite>",
                results.runs(),
                results.failures.len(),
                render_testcases(&suite, results)
            ),
        };
    }
    xml + "</testsuites>\n"
}

fn render_testcases(suite: &str, results: &CaseResults) -> String {
    let mut xml = String::new();
    for case in &results.cases.cases {
        for kind in &case.kinds {
            let name = escape_xml(&format!("{}, as {}", case.name.value, kind.as_str()));
            let failure =
                results.failures.iter().find(|failure| *failure.name == *case.name.value && failure.kind == *kind);
            let element = failure.map(|failure| {
                let message = escape_xml(&format!("expected {} and got {}", failure.expected, failure.got));
                format!("<failure message=\"{message}\">{}</failure>", escape_xml(&failure.to_string()))
            });
            let _written = writeln!(
                xml,
                "    <testcase classname=\"{suite}\" name=\"{name}\">{}</testcase>",
                element.unwrap_or_default()
            );
        }
    }
    xml
}

/// Escapes text for XML. Characters that XML 1.0 forbids are left out.
fn escape_xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(character),
            control if control.is_control() || control == '\u{fffe}' || control == '\u{ffff}' => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "fn decide(req) { if req.host == \"a.test\" { allow() } else { deny(\"<no>\") } }\n";
    const CASES: &str = "cases:\n  - name: good\n    request: { origin: \"https://a.test\" }\n    expect: allow\n";

    /// Tests a directory with these files; returns exit code, output and JUnit XML.
    fn check(files: &[(&str, &str)]) -> (u8, String, String) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let junit = dir.path().join("junit.xml");
        let args = TestArgs { directory: dir.path().to_path_buf(), junit: Some(junit.clone()) };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&args, &mut out, &mut err).unwrap();
        assert!(err.is_empty());
        (code, String::from_utf8(out).unwrap(), std::fs::read_to_string(junit).unwrap())
    }

    #[test]
    fn passing_cases_exit_0() {
        let (code, out, junit) = check(&[("a.rhai", SCRIPT), ("a.cases.yaml", CASES)]);
        assert_eq!((code, out.as_str()), (0, "ok   a.rhai: 1 case\n1 script, 1 case: all good\n"));
        assert!(junit.contains("<testsuite name=\"a.rhai\" tests=\"2\" failures=\"0\" errors=\"0\">"), "{junit}");
    }

    #[test]
    fn failing_case_exits_1_with_a_diff() {
        let wrong = CASES.replace("https://a.test", "https://b.test");
        let (code, out, junit) = check(&[("a.rhai", SCRIPT), ("a.cases.yaml", &wrong)]);
        assert_eq!(code, 1);
        for line in [
            "FAIL a.rhai: 2 of 2 runs",
            "  good, as preflight (line 4)",
            "    - expected  allow",
            "    + got       deny: <no>",
        ] {
            assert!(out.lines().any(|found| found == line), "no {line:?} in\n{out}");
        }
        assert!(out.contains("read host in "), "{out}");
        assert!(junit.contains("<failure message=\"expected allow and got deny: &lt;no&gt;\">"), "{junit}");
    }

    #[test]
    fn case_expects_exactly_the_answered_group() {
        let script = SCRIPT.replace("allow()", "allow(#{ group: \"partners\" })");
        let check = |expected: &str| check(&[("a.rhai", &script), ("a.cases.yaml", &CASES.replace("allow", expected))]);
        assert_eq!(check("{ allow: { group: partners } }").0, 0);
        let (code, out, _) = check("allow");
        assert!(code == 1 && out.contains("    + got       allow in group partners\n"), "{out}");
        let (code, out, _) = check("{ allow: { group: guests } }");
        assert!(code == 1 && out.contains("    - expected  allow in group guests\n"), "{out}");
    }

    #[test]
    fn broken_script_exits_1_with_its_location() {
        let (code, out, junit) = check(&[("a.rhai", "fn decide(req) { sleep(1) }"), ("data/x.yaml", "sets: 1\n")]);
        assert_eq!(code, 1);
        assert!(
            out.contains("a.rhai:1:18") && out.contains("fn decide(req) { sleep(1) }") && out.contains("^^^^^"),
            "{out}"
        );
        assert!(out.contains("FAIL x.yaml"), "{out}");
        assert!(junit.contains("errors=\"1\""), "{junit}");
    }

    #[test]
    fn case_applies_to_all_kinds_unless_one_is_given() {
        let script = "fn decide(req) { if req.header(\"x-a\") == \"1\" { allow() } else { deny() } }";
        let cases = "cases:\n  - { name: page, request: { origin: \"https://a.test\", headers: { x-a: \"1\" } }, expect: allow }\n";
        assert_eq!(check(&[("a.rhai", script), ("a.cases.yaml", cases)]).0, 1, "a preflight has no such header");
        for good in [cases.replace("headers:", "proxyHeaders:"), cases.replace("expect:", "kind: actual, expect:")] {
            assert_eq!(check(&[("a.rhai", script), ("a.cases.yaml", &good)]).0, 0, "{good}");
        }
    }

    #[test]
    fn missing_script_directory_is_wrong_usage() {
        let args = TestArgs { directory: "does-not-exist".into(), junit: None };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&args, &mut out, &mut err).unwrap(), USAGE);
        assert!(!err.is_empty());
    }

    #[test]
    fn shipped_rules_pass_their_cases() {
        let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&TestArgs { directory, junit: None }, &mut out, &mut err).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(code, 0, "{out}");
        assert!(!out.contains("no cases"), "every one has cases: {out}");
    }
}
