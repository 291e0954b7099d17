//! `crossgate test [DIR]`: runs the cases of all scripts of a directory, as a start and every reload does.
//!
//! Answers go to the output: a line for every script, and a diff for every case that failed. `--junit` writes the same for machines.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossgate_policy::{RuleLimits, Script};

use super::{GOOD, USAGE, WRONG};
use crate::config::CasesFile;
use crate::config::diagnostics::Diagnostics;
use crate::scripts::{self, Scripts, cases};

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

/// What became of one script.
struct Tested {
    name: String,
    result: Result<Ran, Diagnostics>,
}

struct Ran {
    cases: CasesFile,
    failures: Vec<cases::Failure>,
}

/// Tests a directory: 0 if all is well, 1 if a script is broken or a case fails, 2 if there is no such directory.
///
/// # Errors
/// If nothing can be written.
pub fn run(args: &TestArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let tested = match test(&args.directory) {
        Ok(tested) => tested,
        Err(error) => {
            writeln!(
                err,
                "error: the directory {} cannot be read: {error}; name one with scripts",
                args.directory.display()
            )?;
            return Ok(USAGE);
        }
    };
    for script in &tested {
        print(script, out)?;
    }
    let broken = tested.iter().filter(|script| !script.is_good()).count();
    let cases: usize = tested.iter().map(Tested::count).sum();
    writeln!(
        out,
        "{} scripts, {cases} cases: {}",
        tested.len(),
        if broken == 0 { "all good".to_owned() } else { format!("{broken} scripts failed") }
    )?;
    if let Some(file) = &args.junit {
        std::fs::write(file, junit(&tested))?;
    }
    Ok(if broken == 0 { GOOD } else { WRONG })
}

fn test(directory: &Path) -> io::Result<Vec<Tested>> {
    let limits = RuleLimits::default();
    let reading = scripts::read(directory, &limits, &Scripts::default(), &[])?;
    let refused = reading.refused.iter().map(|refused| &refused.file);
    let scripts = scripts::watched(directory).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rhai"));
    let others = refused.filter(|file| file.extension().is_none_or(|extension| extension != "rhai"));
    let mut tested: Vec<Tested> = scripts.map(|path| test_script(&path, &reading)).collect();
    tested.extend(others.map(|file| Tested { name: name_of(file), result: Err(errors_of(file, &reading)) }));
    Ok(tested)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn errors_of(path: &Path, reading: &scripts::Reading) -> Diagnostics {
    reading
        .refused
        .iter()
        .find(|refused| refused.file == path)
        .map(|refused| refused.errors.clone())
        .unwrap_or_default()
}

/// A script that was refused for its cases is told case by case.
fn test_script(path: &Path, reading: &scripts::Reading) -> Tested {
    let name = name_of(path);
    let result = match reading.scripts.get(&name) {
        Some(script) => ran(path, script),
        None => compiled(path, reading).and_then(|script| ran(path, &script)),
    };
    Tested { name, result }
}

fn compiled(path: &Path, reading: &scripts::Reading) -> Result<Arc<Script>, Diagnostics> {
    let source = scripts::read_text(path)?;
    scripts::compile_source(path, &source, reading.scripts.data(), &RuleLimits::default()).map(Arc::new)
}

fn ran(path: &Path, script: &Arc<Script>) -> Result<Ran, Diagnostics> {
    let file = scripts::cases_path(path);
    let cases =
        if file.exists() { scripts::decode_cases(&file, &scripts::read_text(&file)?)? } else { CasesFile::default() };
    let failures = cases::run(script, &cases);
    Ok(Ran { cases, failures })
}

impl Tested {
    fn is_good(&self) -> bool {
        self.result.as_ref().is_ok_and(|ran| ran.failures.is_empty())
    }

    fn count(&self) -> usize {
        self.result.as_ref().map_or(0, |ran| ran.cases.cases.len())
    }
}

fn print(script: &Tested, out: &mut dyn Write) -> io::Result<()> {
    let name = &script.name;
    match &script.result {
        Err(errors) => writeln!(out, "FAIL {name}\n{errors}"),
        Ok(ran) if ran.cases.cases.is_empty() => {
            writeln!(out, "ok   {name}: no cases; write some in {}", cases_name(name))
        }
        Ok(ran) if ran.failures.is_empty() => writeln!(out, "ok   {name}: {} cases", ran.cases.cases.len()),
        Ok(ran) => {
            writeln!(out, "FAIL {name}: {} of {} runs", ran.failures.len(), ran.runs())?;
            ran.failures.iter().try_for_each(|failure| write!(out, "{failure}"))
        }
    }
}

fn cases_name(script: &str) -> String {
    format!("{}.cases.yaml", script.trim_end_matches(".rhai"))
}

impl Ran {
    fn runs(&self) -> usize {
        self.cases.cases.iter().map(|case| case.kinds.len()).sum()
    }
}

/// JUnit's form: a suite for every script, a test for every case and kind.
fn junit(tested: &[Tested]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"crossgate\">\n");
    for script in tested {
        let suite = escaped(&script.name);
        let _written = match &script.result {
            Err(errors) => writeln!(
                xml,
                "  <testsuite name=\"{suite}\" tests=\"1\" failures=\"0\" errors=\"1\">\n    <testcase classname=\"{suite}\" \
                 name=\"loads\"><error message=\"the file is refused\">{}</error></testcase>\n  </testsuite>",
                escaped(&errors.to_string())
            ),
            Ok(ran) => writeln!(
                xml,
                "  <testsuite name=\"{suite}\" tests=\"{}\" failures=\"{}\" errors=\"0\">\n{}  </testsuite>",
                ran.runs(),
                ran.failures.len(),
                testcases(&suite, ran)
            ),
        };
    }
    xml + "</testsuites>\n"
}

fn testcases(suite: &str, ran: &Ran) -> String {
    let mut xml = String::new();
    for case in &ran.cases.cases {
        for kind in &case.kinds {
            let name = escaped(&format!("{}, as {}", case.name.value, kind.as_str()));
            let failure =
                ran.failures.iter().find(|failure| *failure.name == *case.name.value && failure.kind == *kind);
            let told = failure.map(|failure| {
                let message = escaped(&format!("expected {} and got {}", failure.expected, failure.got));
                format!("<failure message=\"{message}\">{}</failure>", escaped(&failure.to_string()))
            });
            let _written = writeln!(
                xml,
                "    <testcase classname=\"{suite}\" name=\"{name}\">{}</testcase>",
                told.unwrap_or_default()
            );
        }
    }
    xml
}

/// Text as XML has it; what XML cannot have is left out.
fn escaped(text: &str) -> String {
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

    /// Exit code, output, and the JUnit file of a directory with these files.
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
    fn good_cases_pass() {
        let (code, out, junit) = check(&[("a.rhai", SCRIPT), ("a.cases.yaml", CASES)]);
        assert_eq!((code, out.as_str()), (0, "ok   a.rhai: 1 cases\n1 scripts, 1 cases: all good\n"));
        assert!(junit.contains("<testsuite name=\"a.rhai\" tests=\"2\" failures=\"0\" errors=\"0\">"), "{junit}");
    }

    #[test]
    fn a_wrong_case_exits_1_with_a_diff() {
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
        assert!(out.contains("it read host, and took "), "{out}");
        assert!(junit.contains("<failure message=\"expected allow and got deny: &lt;no&gt;\">"), "{junit}");
    }

    #[test]
    fn a_broken_script_exits_1_with_its_place() {
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
    fn kinds_must_agree_unless_one_is_named() {
        let script = "fn decide(req) { if req.header(\"x-a\") == \"1\" { allow() } else { deny() } }";
        let cases = "cases:\n  - { name: page, request: { origin: \"https://a.test\", headers: { x-a: \"1\" } }, expect: allow }\n";
        assert_eq!(check(&[("a.rhai", script), ("a.cases.yaml", cases)]).0, 1, "a preflight has no such header");
        for good in [cases.replace("headers:", "proxyHeaders:"), cases.replace("expect:", "kind: actual, expect:")] {
            assert_eq!(check(&[("a.rhai", script), ("a.cases.yaml", &good)]).0, 0, "{good}");
        }
    }

    #[test]
    fn no_directory_is_wrong_usage() {
        let args = TestArgs { directory: "does-not-exist".into(), junit: None };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&args, &mut out, &mut err).unwrap(), USAGE);
        assert!(!err.is_empty());
    }

    #[test]
    fn the_shipped_rules_pass_their_cases() {
        let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&TestArgs { directory, junit: None }, &mut out, &mut err).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(code, 0, "{out}");
        assert!(!out.contains("no cases"), "every one has cases: {out}");
    }
}
