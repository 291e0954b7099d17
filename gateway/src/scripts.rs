//! The directory of scripts: what is on disk becomes compiled, checked scripts, and what was good stays until something better comes.
//!
//! `NAME.rhai` is a script, `NAME.cases.yaml` beside it says what it is to answer, and `data/*.yaml` are the sets and tables that scripts
//! ask. A script is taken if it passes the audit and all its cases; one that does not keeps its last good version while the rest goes
//! live. One that says the same stays the same object, and so do the answers kept of it. Absent on purpose: which policy uses what.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossgate_policy::{RuleData, RuleLimits, Script, ScriptProblem};

use crate::config::diagnostics::{Diagnostic, Diagnostics};
use crate::config::files::{self, read_bytes};
use crate::config::model::At;
use crate::config::{self, CasesFile, DataFile, Decoded};

pub mod cases;

#[cfg(test)]
mod tests;

/// Scripts of one directory.
const SCRIPTS_MAX: usize = 1_000;
/// Data files of one directory.
const DATA_FILES_MAX: usize = 1_000;
/// Bytes of a script or its cases that are read; the limit of a source is lower and told by the audit.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Every good script of a directory, by its file's name.
#[derive(Debug, Clone, Default)]
pub struct Scripts {
    good: BTreeMap<Box<str>, Arc<Good>>,
    data: Arc<RuleData>,
    data_files: BTreeMap<PathBuf, Arc<DataFile>>,
}

#[derive(Debug)]
struct Good {
    script: Arc<Script>,
    cases: Option<String>,
    limits: RuleLimits,
}

/// A file that is not live as it is on disk, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub file: PathBuf,
    /// What is wrong with it.
    pub errors: Diagnostics,
}

/// What reading a directory led to.
#[derive(Debug, Default)]
pub struct Reading {
    /// What serves from now on.
    pub scripts: Scripts,
    /// What does not.
    pub refused: Vec<Refused>,
}

impl Scripts {
    /// The script in a file of that name.
    pub fn get(&self, file: &str) -> Option<&Arc<Script>> {
        self.good.get(file).map(|good| &good.script)
    }

    /// The names of all files with a good script.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.good.keys().map(|name| &**name)
    }

    /// The sets and tables.
    pub fn data(&self) -> &Arc<RuleData> {
        &self.data
    }

    /// Whether both have the same scripts, compiled once.
    pub fn is_same(&self, other: &Scripts) -> bool {
        let scripts = |scripts: &Scripts| -> Vec<*const Script> {
            scripts.good.values().map(|good| Arc::as_ptr(&good.script)).collect()
        };
        scripts(self) == scripts(other)
    }

    /// The same scripts, but for one whose older version is to stay.
    #[must_use]
    pub fn keeping(mut self, file: &str, older: &Scripts) -> Self {
        if let Some(good) = older.good.get(file) {
            self.good.insert(file.into(), Arc::clone(good));
        }
        self
    }
}

/// Reads a directory; `before` is what was good until now, and `named` the scripts that somebody uses.
///
/// # Errors
/// If the directory cannot be listed.
pub fn read(dir: &Path, limits: &RuleLimits, before: &Scripts, named: &[&str]) -> io::Result<Reading> {
    let listed = list(dir)?;
    let mut reading = Reading::default();
    reading.read_data(&listed.data, before);
    for path in &listed.scripts {
        reading.read_script(path, limits, before);
    }
    for name in named {
        reading.keep_gone(dir, name, before);
    }
    for path in &listed.cases {
        reading.check_has_script(path, &listed.scripts);
    }
    Ok(reading)
}

/// Every file that [`read`] looks at, for those who watch them.
pub fn watched(dir: &Path) -> Vec<PathBuf> {
    let listed = list(dir).unwrap_or_default();
    [listed.scripts, listed.cases, listed.data].concat()
}

/// Where data files are.
pub fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

#[derive(Debug, Default)]
struct Listed {
    scripts: Vec<PathBuf>,
    cases: Vec<PathBuf>,
    data: Vec<PathBuf>,
}

fn list(dir: &Path) -> io::Result<Listed> {
    let mut listed = Listed::default();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match file_name(&path) {
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
            "it has too many files, expected at most {SCRIPTS_MAX} scripts and as many data files"
        )));
    }
    listed.scripts.sort();
    listed.cases.sort();
    Ok(listed)
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or(".")
}

/// The cases beside a script.
pub fn cases_path(script: &Path) -> PathBuf {
    script.with_extension("cases.yaml")
}

impl Reading {
    fn refuse(&mut self, file: &Path, mut errors: Diagnostics) {
        errors.sort();
        self.refused.push(Refused { file: file.to_path_buf(), errors });
    }

    /// All data files as one; nothing is compiled anew if they say the same.
    fn read_data(&mut self, files: &[PathBuf], before: &Scripts) {
        for file in files {
            let Decoded { value, found } = config::read_data(file);
            let old = before.data_files.get(file);
            let good = if found.has_errors() {
                self.refuse(file, found);
                old.map(Arc::clone)
            } else {
                Some(old.filter(|old| ***old == value).map_or_else(|| Arc::new(value), Arc::clone))
            };
            let Some(good) = good else { continue };
            match self.clash(file, &good) {
                Some(clash) => self.refuse(file, Diagnostics::from_iter([clash])),
                None => drop(self.scripts.data_files.insert(file.clone(), good)),
            }
        }
        let pointers = |files: &BTreeMap<PathBuf, Arc<DataFile>>| files.values().map(Arc::as_ptr).collect::<Vec<_>>();
        let is_same = pointers(&self.scripts.data_files) == pointers(&before.data_files);
        self.scripts.data = if is_same { Arc::clone(&before.data) } else { Arc::new(self.merged()) };
    }

    fn clash(&self, file: &Path, data: &DataFile) -> Option<Diagnostic> {
        for (other, taken) in &self.scripts.data_files {
            let sets = data.sets.iter().find_map(|(name, _)| {
                taken.sets.iter().find(|(known, _)| known.value == name.value).map(|(known, _)| (name, known))
            });
            let tables = data.tables.iter().find_map(|(name, _)| {
                taken.tables.iter().find(|(known, _)| known.value == name.value).map(|(known, _)| (name, known))
            });
            if let Some((name, known)) = sets.or(tables) {
                let message =
                    format!("the name {} is taken in another file; choose another one", config::shown(&name.value));
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

    fn keep(&mut self, name: &str, old: Option<&Arc<Good>>) {
        if let Some(old) = old {
            self.scripts.good.insert(name.into(), Arc::clone(old));
        }
    }

    fn compile(
        &self,
        path: &Path,
        limits: &RuleLimits,
        before: &Scripts,
        old: Option<&Arc<Good>>,
    ) -> Result<Arc<Good>, Diagnostics> {
        let source = read_text(path)?;
        let cases_path = cases_path(path);
        let cases = if cases_path.exists() { Some(read_text(&cases_path)?) } else { None };
        let has_same_data = |old: &Good| !old.script.uses_data() || Arc::ptr_eq(&before.data, &self.scripts.data);
        let is_same = |old: &Good| old.script.source() == source && old.limits == *limits && has_same_data(old);
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
        Ok(Arc::new(Good { script, cases, limits: *limits }))
    }

    /// A script that is used and gone serves on: who deletes a file that a policy names may be about to write it anew.
    fn keep_gone(&mut self, dir: &Path, name: &str, before: &Scripts) {
        let path = dir.join(name);
        if let (Some(old), false) = (before.good.get(name), path.exists()) {
            let message = "this script is gone and a policy names it; write it again, or take it out of the policy";
            self.refuse(&path, Diagnostics::from_iter([Diagnostic::error(&path, At::START, message)]));
            self.keep(name, Some(old));
        }
    }

    fn check_has_script(&mut self, cases: &Path, scripts: &[PathBuf]) {
        if !scripts.iter().any(|script| cases_path(script) == *cases) {
            let message = "there is no script for these cases; a script of the same name ends in .rhai";
            self.refuse(cases, Diagnostics::from_iter([Diagnostic::error(cases, At::START, message)]));
        }
    }
}

/// The text of a script or its cases.
///
/// # Errors
/// Why there is none.
pub fn read_text(path: &Path) -> Result<String, Diagnostics> {
    let failed = |message: String| Diagnostics::from_iter([Diagnostic::error(path, At::START, message)]);
    let bytes =
        read_bytes(path, FILE_BYTES_MAX).map_err(|error| failed(format!("this file cannot be read: {error}")))?;
    String::from_utf8(bytes)
        .map_err(|error| failed(format!("this file is no UTF-8: {}; save it as UTF-8", error.utf8_error())))
}

/// Compiles a source; its problems are placed in the file.
///
/// # Errors
/// Everything that is wrong with it.
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
    let at = At { line: problem.line, column: problem.column, width: problem.width };
    Diagnostic::error(path, at, problem.message.clone())
}

/// The cases in a text.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode_cases(path: &Path, text: &str) -> Result<CasesFile, Diagnostics> {
    let Decoded { value, found } = config::decode_cases(path, text);
    if found.has_errors() { Err(found) } else { Ok(value) }
}
