//! The scripts directory: files on disk become compiled and checked scripts, and a good version
//! stays until a better one comes.
//!
//! `NAME.rhai` is a script, `NAME.cases.yaml` next to it contains its test cases, and `data/*.yaml`
//! contain the sets and tables that scripts look up. A script is accepted if it passes the audit
//! and all its cases. A failing script keeps its last good version while all others go live. An
//! unchanged script stays the same object, so its cached answers stay valid. Absent on purpose:
//! which policy uses which script.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossgate_policy::{RuleData, RuleLimits, Script, ScriptProblem};

use crossgate_config as config;
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::files::{self, read_bytes};
use crossgate_config::model::Position;
use crossgate_config::{CasesFile, DataFile, DecodedFile};

pub mod cases;

#[cfg(test)]
mod tests;

/// The maximum number of scripts in a directory.
const SCRIPTS_MAX: usize = 1_000;
/// The maximum number of data files in a directory.
const DATA_FILES_MAX: usize = 1_000;
/// The maximum size of a script or cases file. The audit reports the lower limit of a script's
/// source.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// All good scripts of a directory, by file name.
#[derive(Debug, Clone, Default)]
pub struct Scripts {
    good: BTreeMap<Box<str>, Arc<GoodScript>>,
    data: Arc<RuleData>,
    data_files: BTreeMap<PathBuf, Arc<DataFile>>,
}

#[derive(Debug)]
struct GoodScript {
    script: Arc<Script>,
    cases: Option<String>,
    limits: RuleLimits,
}

/// A file whose version on disk is not live, with its errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFile {
    pub file: PathBuf,
    pub errors: Diagnostics,
}

/// Scripts whose errors are among the findings of a load already. Their consequences need no
/// finding of their own.
#[derive(Debug, Default)]
pub(crate) struct ReportedScripts {
    /// Whether the directory itself could not be read.
    pub(crate) is_directory: bool,
    /// The file names of refused scripts.
    pub(crate) names: BTreeSet<Box<str>>,
}

impl ReportedScripts {
    /// Returns whether the error of a script is reported.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.is_directory || self.names.contains(name)
    }
}

/// The result of reading a directory.
#[derive(Debug, Default)]
pub struct DirectoryReading {
    /// The scripts that serve from now on.
    pub scripts: Scripts,
    /// The files whose version on disk does not serve.
    pub refused: Vec<RefusedFile>,
}

impl Scripts {
    /// The script in the file of that name.
    pub fn get(&self, file: &str) -> Option<&Arc<Script>> {
        self.good.get(file).map(|good| &good.script)
    }

    /// The file names of all good scripts.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.good.keys().map(|name| &**name)
    }

    pub fn data(&self) -> &Arc<RuleData> {
        &self.data
    }

    /// Returns whether both contain the same compiled scripts.
    pub fn is_same(&self, other: &Scripts) -> bool {
        let scripts = |scripts: &Scripts| -> Vec<*const Script> {
            scripts.good.values().map(|good| Arc::as_ptr(&good.script)).collect()
        };
        scripts(self) == scripts(other)
    }

    /// Replaces one script by its version in `older`, if it has one there.
    #[must_use]
    pub fn keeping(mut self, file: &str, older: &Scripts) -> Self {
        if let Some(good) = older.good.get(file) {
            self.good.insert(file.into(), Arc::clone(good));
        }
        self
    }
}

/// Reads a directory. `before` contains the good versions until now, `named` the scripts that
/// policies use.
///
/// # Errors
/// If the directory cannot be listed.
pub fn read(dir: &Path, limits: &RuleLimits, before: &Scripts, named: &[&str]) -> io::Result<DirectoryReading> {
    let listed = list(dir)?;
    let mut reading = DirectoryReading::default();
    reading.read_data(&listed.data, before);
    for path in &listed.scripts {
        reading.read_script(path, limits, before);
    }
    for name in named {
        reading.keep_deleted(dir, name, before);
    }
    for path in &listed.cases {
        reading.check_has_script(path, &listed.scripts);
    }
    Ok(reading)
}

/// Every file that [`read`] looks at, for the file watcher.
pub fn list_watched_files(dir: &Path) -> Vec<PathBuf> {
    let listed = list(dir).unwrap_or_default();
    [listed.scripts, listed.cases, listed.data].concat()
}

pub fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

#[derive(Debug, Default)]
struct DirectoryListing {
    scripts: Vec<PathBuf>,
    cases: Vec<PathBuf>,
    data: Vec<PathBuf>,
}

fn list(dir: &Path) -> io::Result<DirectoryListing> {
    let mut listed = DirectoryListing::default();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match file_name(&path) {
            // Hidden files: temporary files of editors, and `..data` of a Kubernetes volume.
            name if name.starts_with('.') => {}
            name if name.ends_with(".rhai") => listed.scripts.push(path),
            name if name.ends_with(".cases.yaml") => listed.cases.push(path),
            _ => {}
        }
    }
    let data = data_dir(dir);
    listed.data = if data.is_dir() { files::list(&data)? } else { Vec::new() };
    if listed.scripts.len() > SCRIPTS_MAX || listed.data.len() > DATA_FILES_MAX {
        return Err(io::Error::other(format!(
            "too many files: expected at most {SCRIPTS_MAX} scripts and {DATA_FILES_MAX} data files"
        )));
    }
    listed.scripts.sort();
    listed.cases.sort();
    Ok(listed)
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or(".")
}

/// The cases file of a script.
pub fn cases_path(script: &Path) -> PathBuf {
    script.with_extension("cases.yaml")
}

impl DirectoryReading {
    /// Removes and returns the errors of the wanted scripts that have no good version.
    pub(crate) fn take_faults(&mut self, is_wanted: impl Fn(&str) -> bool) -> Vec<RefusedFile> {
        let scripts = &self.scripts;
        let is_fault = |refused: &mut RefusedFile| {
            let name = file_name(&refused.file);
            is_wanted(name) && scripts.get(name).is_none()
        };
        self.refused.extract_if(.., is_fault).collect()
    }

    fn refuse(&mut self, file: &Path, mut errors: Diagnostics) {
        errors.sort();
        self.refused.push(RefusedFile { file: file.to_path_buf(), errors });
    }

    /// Reads all data files and merges them. If none has changed, the merged data stays the same
    /// object, and nothing is compiled again.
    fn read_data(&mut self, files: &[PathBuf], before: &Scripts) {
        for file in files {
            let DecodedFile { value, found } = config::read_data(file);
            let old = before.data_files.get(file);
            let good = if found.has_errors() {
                self.refuse(file, found);
                old.map(Arc::clone)
            } else {
                Some(old.filter(|old| ***old == value).map_or_else(|| Arc::new(value), Arc::clone))
            };
            let Some(good) = good else { continue };
            match self.find_duplicate(file, &good) {
                Some(duplicate) => self.refuse(file, Diagnostics::from_iter([duplicate])),
                None => drop(self.scripts.data_files.insert(file.clone(), good)),
            }
        }
        let pointers = |files: &BTreeMap<PathBuf, Arc<DataFile>>| files.values().map(Arc::as_ptr).collect::<Vec<_>>();
        let is_same = pointers(&self.scripts.data_files) == pointers(&before.data_files);
        self.scripts.data = if is_same { Arc::clone(&before.data) } else { Arc::new(self.merged()) };
    }

    fn find_duplicate(&self, file: &Path, data: &DataFile) -> Option<Diagnostic> {
        for (other, taken) in &self.scripts.data_files {
            let sets = data.sets.iter().find_map(|(name, _)| {
                taken.sets.iter().find(|(known, _)| known.value == name.value).map(|(known, _)| (name, known))
            });
            let tables = data.tables.iter().find_map(|(name, _)| {
                taken.tables.iter().find(|(known, _)| known.value == name.value).map(|(known, _)| (name, known))
            });
            if let Some((name, known)) = sets.or(tables) {
                let message = format!(
                    "duplicate name {}: another data file defines it; choose another name",
                    config::show_text(&name.value)
                );
                return Some(Diagnostic::error(file, name.at, message).also(other, known.at));
            }
        }
        None
    }

    fn merged(&self) -> RuleData {
        let files = || self.scripts.data_files.values();
        let sets = files().flat_map(|file| &file.sets).map(|(name, values)| (name.value.to_string(), values.clone()));
        let tables = files().flat_map(|file| &file.tables).map(|(name, pairs)| (name.value.to_string(), pairs.clone()));
        RuleData::new(sets, tables)
    }

    fn read_script(&mut self, path: &Path, limits: &RuleLimits, before: &Scripts) {
        let name = file_name(path);
        let old = before.good.get(name);
        match self.compile(path, limits, before, old) {
            Ok(good) => drop(self.scripts.good.insert(name.into(), good)),
            Err(errors) => {
                self.refuse(path, errors);
                self.keep(name, old);
            }
        }
    }

    fn keep(&mut self, name: &str, old: Option<&Arc<GoodScript>>) {
        if let Some(old) = old {
            self.scripts.good.insert(name.into(), Arc::clone(old));
        }
    }

    fn compile(
        &self,
        path: &Path,
        limits: &RuleLimits,
        before: &Scripts,
        old: Option<&Arc<GoodScript>>,
    ) -> Result<Arc<GoodScript>, Diagnostics> {
        let source = read_text(path)?;
        let cases_path = cases_path(path);
        let cases = if cases_path.exists() { Some(read_text(&cases_path)?) } else { None };
        let has_same_data = |old: &GoodScript| !old.script.uses_data() || Arc::ptr_eq(&before.data, &self.scripts.data);
        let is_same = |old: &GoodScript| old.script.source() == source && old.limits == *limits && has_same_data(old);
        if let Some(old) = old.filter(|old| is_same(old) && old.cases == cases) {
            return Ok(Arc::clone(old));
        }
        let script = match old.filter(|old| is_same(old)) {
            Some(old) => Arc::clone(&old.script),
            None => Arc::new(compile_source(path, &source, &self.scripts.data, limits)?),
        };
        if let Some(text) = &cases {
            let cases = decode_cases(&cases_path, text)?;
            let failed = cases::run(&script, &cases);
            if !failed.is_empty() {
                let diagnostics = failed.iter().map(|failure| failure.diagnostic(&cases_path));
                let mut errors: Diagnostics = diagnostics.collect();
                errors.quote(&cases_path, text);
                return Err(errors);
            }
        }
        Ok(Arc::new(GoodScript { script, cases, limits: *limits }))
    }

    /// Keeps a deleted script that a policy names: editors may delete a file before they write it
    /// again.
    fn keep_deleted(&mut self, dir: &Path, name: &str, before: &Scripts) {
        let path = dir.join(name);
        if let (Some(old), false) = (before.good.get(name), path.exists()) {
            let message = "missing script that a policy uses: restore the file, or remove it from the policy";
            self.refuse(&path, Diagnostics::from_iter([Diagnostic::error(&path, Position::START, message)]));
            self.keep(name, Some(old));
        }
    }

    fn check_has_script(&mut self, cases: &Path, scripts: &[PathBuf]) {
        if !scripts.iter().any(|script| cases_path(script) == *cases) {
            let message = "no script for these cases: expected a script with the same name and the extension .rhai";
            self.refuse(cases, Diagnostics::from_iter([Diagnostic::error(cases, Position::START, message)]));
        }
    }
}

/// Reads a script or its cases.
///
/// # Errors
/// If the file cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, Diagnostics> {
    let failed = |message: String| Diagnostics::from_iter([Diagnostic::error(path, Position::START, message)]);
    let bytes = read_bytes(path, FILE_BYTES_MAX).map_err(|error| failed(format!("cannot read this file: {error}")))?;
    String::from_utf8(bytes)
        .map_err(|error| failed(format!("this file is not UTF-8: {}; save it as UTF-8", error.utf8_error())))
}

/// Compiles a source. Its problems get their location in the file.
///
/// # Errors
/// All problems of the source.
pub fn compile_source(
    path: &Path,
    source: &str,
    data: &Arc<RuleData>,
    limits: &RuleLimits,
) -> Result<Script, Diagnostics> {
    let name = file_name(path).trim_end_matches(".rhai");
    Script::compile(name, source, data, limits).map_err(|problems| {
        let mut errors: Diagnostics = problems.iter().map(|problem| diagnostic(path, problem)).collect();
        errors.quote(path, source);
        errors
    })
}

fn diagnostic(path: &Path, problem: &ScriptProblem) -> Diagnostic {
    let at = Position { line: problem.line, column: problem.column, width: problem.width };
    Diagnostic::error(path, at, problem.message.clone())
}

/// Decodes a cases file.
///
/// # Errors
/// All mistakes in the text.
pub fn decode_cases(path: &Path, text: &str) -> Result<CasesFile, Diagnostics> {
    let DecodedFile { value, found } = config::decode_cases(path, text);
    if found.has_errors() { Err(found) } else { Ok(value) }
}
