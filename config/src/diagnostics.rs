//! Errors and warnings of a configuration, with their locations.
//!
//! A [`Diagnostic`] contains file, line, column and the source line, and for a conflict the other
//! location. `Display` is the form for people, `Serialize` the form for machines. Control
//! characters are replaced, also in messages, since tenants may write the text of a file.
//! Everything is bounded: a long line is cut around the caret, a long message after its start, and
//! a long list after its errors. There are no colours.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fmt, iter};

use serde::{Deserialize, Serialize, Serializer};

use super::node::Position;
use super::warnings::WarningCode;

/// Maximum number of characters to keep of a source line: a wide terminal.
const SHOWN_CHARS_MAX: usize = 160;
/// Maximum number of characters to keep before the caret of a long line.
const SHOWN_CHARS_BEFORE: u32 = 40;
/// Maximum length of a message. Only names from a file make messages longer.
const MESSAGE_CHARS_MAX: usize = 1_000;
/// Maximum number of findings before the search for misspelt names stops, which is the expensive
/// part.
const GUESSED_MAX: usize = 100;
/// Maximum number of diagnostics of one load.
const KEPT_MAX: usize = 1_000;
/// Maximum number of findings in one line of a log.
const LINE_FINDINGS_MAX: usize = 5;

/// The effect of a finding on the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is valid.
    Warning,
    /// The configuration is refused.
    Error,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// A location in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The path as configured.
    pub file: PathBuf,
    pub line: u32,
    pub column: u32,
}

impl Location {
    pub fn new(file: &Path, at: Position) -> Self {
        Location { file: file.to_path_buf(), line: at.line, column: at.column }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    pub severity: Severity,
    /// The code of a warning. Errors have no code.
    #[serde(deserialize_with = "WarningCode::deserialize_known")]
    pub code: Option<WarningCode>,
    #[serde(flatten)]
    pub place: Location,
    /// Number of characters after the location that are underlined.
    pub width: u32,
    /// The problem, followed by what would be accepted.
    pub message: String,
    /// The source line, if the file could be read. A long line is cut around the column.
    pub source_line: Option<String>,
    /// The column of the first character of `source_line`.
    pub source_column: u32,
    /// The other location of a conflict.
    pub also: Option<Location>,
}

impl Diagnostic {
    /// An error without its source line.
    pub fn error(file: &Path, at: Position, message: impl Into<String>) -> Self {
        Self::new(None, file, at, &message.into())
    }

    /// A warning without its source line.
    pub fn warning(code: WarningCode, file: &Path, at: Position, message: impl Into<String>) -> Self {
        Self::new(Some(code), file, at, &message.into())
    }

    fn new(code: Option<WarningCode>, file: &Path, at: Position, full_message: &str) -> Self {
        let mut message: String = full_message.chars().take(MESSAGE_CHARS_MAX).map(visible).collect();
        if full_message.chars().nth(MESSAGE_CHARS_MAX).is_some() {
            message.push_str("..");
        }
        let place = Location::new(file, at);
        let severity = if code.is_some() { Severity::Warning } else { Severity::Error };
        Diagnostic { severity, code, place, width: at.width, message, source_line: None, source_column: 1, also: None }
    }

    /// Adds the other location of a conflict.
    #[must_use]
    pub fn also(mut self, file: &Path, at: Position) -> Self {
        self.also = Some(Location::new(file, at));
        self
    }

    fn write_source(&self, f: &mut fmt::Formatter<'_>, line: &str) -> fmt::Result {
        let number = self.place.line.to_string();
        let margin = " ".repeat(number.len());
        let shown: String = line.chars().map(visible).collect();
        let column = self.place.column.saturating_sub(self.source_column) as usize + 1;
        let room = shown.chars().count().saturating_sub(column.saturating_sub(1)).max(1);
        let carets = "^".repeat((self.width as usize).clamp(1, room));
        let indent = " ".repeat(column.saturating_sub(1));
        write!(f, "\n{margin} |\n{number} | {shown}\n{margin} | {indent}{carets}")
    }
}

fn visible(c: char) -> char {
    match c {
        // An escape sequence or a line break in a file could change the operator's terminal or log.
        '\t' => ' ',
        _ if c.is_control() => char::REPLACEMENT_CHARACTER,
        _ => c,
    }
}

/// The lines of a YAML text. A single carriage return ends a line too (YAML 1.2, section 5.4).
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    iter::from_fn(move || {
        let (line, tail) = rest.split_at(rest.find(['\n', '\r']).unwrap_or(rest.len()));
        let more = !rest.is_empty();
        rest = tail.strip_prefix("\r\n").or_else(|| tail.strip_prefix(['\n', '\r'])).unwrap_or_default();
        more.then_some(line)
    })
}

/// The shown part of a line. In a long line it moves only to the right, so that many mistakes in
/// one very long line cost one pass over it.
struct SourceWindow<'t> {
    rest: &'t str,
    column: u32,
    whole: bool,
}

impl<'t> SourceWindow<'t> {
    fn new(line: &'t str) -> Self {
        SourceWindow { rest: line, column: 1, whole: line.chars().nth(SHOWN_CHARS_MAX).is_none() }
    }

    fn show(&mut self, diagnostic: &mut Diagnostic) {
        let wanted = if self.whole { 1 } else { diagnostic.place.column.saturating_sub(SHOWN_CHARS_BEFORE).max(1) };
        let steps = wanted.saturating_sub(self.column);
        let start = self.rest.char_indices().nth(steps as usize).map_or(self.rest.len(), |(start, _)| start);
        self.rest = self.rest.get(start..).unwrap_or_default();
        self.column += steps;
        diagnostic.source_line = Some(self.rest.chars().take(SHOWN_CHARS_MAX).collect());
        diagnostic.source_column = self.column;
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.severity.as_str())?;
        if let Some(code) = self.code {
            write!(f, "[{}]", code.as_str())?;
        }
        write!(f, ": {}\n  --> {}", self.message, self.place)?;
        if let Some(line) = &self.source_line {
            self.write_source(f, line)?;
        }
        match &self.also {
            Some(place) => write!(f, "\n  also: {place}"),
            None => Ok(()),
        }
    }
}

/// The findings of one load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// Number of warnings in the list.
    warnings: usize,
    /// Stands for the findings over the maximum, with their worst severity.
    more: Option<Box<Diagnostic>>,
}

impl Diagnostics {
    /// Adds a finding. In a full list, an error replaces a warning, and one finding stands for the
    /// rest.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        let severity = diagnostic.severity;
        if self.list.len() >= KEPT_MAX {
            let Some(index) = self.warning_to_drop(severity) else { return self.drop_one(diagnostic) };
            let dropped = self.list.remove(index);
            self.warnings -= 1;
            self.drop_one(dropped);
        }
        self.warnings += usize::from(severity == Severity::Warning);
        self.list.push(diagnostic);
    }

    fn warning_to_drop(&self, severity: Severity) -> Option<usize> {
        let wanted = severity == Severity::Error && self.warnings > 0;
        wanted.then(|| self.list.iter().rposition(|one| one.severity == Severity::Warning)).flatten()
    }

    fn drop_one(&mut self, dropped: Diagnostic) {
        let severity = dropped.severity;
        let more = self.more.get_or_insert_with(|| {
            let message = format!("more than {KEPT_MAX} findings; the rest is not shown");
            Box::new(Diagnostic { message, code: None, ..dropped })
        });
        more.severity = more.severity.max(severity);
    }

    /// Whether there are few enough findings to search for misspelt names.
    pub fn wants_guesses(&self) -> bool {
        self.list.len() < GUESSED_MAX
    }

    pub fn extend(&mut self, more: impl IntoIterator<Item = Diagnostic>) {
        more.into_iter().for_each(|diagnostic| self.push(diagnostic));
    }

    /// Sorts the findings of each file by position, and keeps the order of the files.
    pub fn sort(&mut self) {
        let mut order = HashMap::new();
        for diagnostic in &self.list {
            let next = order.len();
            order.entry(diagnostic.place.file.clone()).or_insert(next);
        }
        self.list.sort_by_key(|one| (order.get(&one.place.file).copied(), one.place.line, one.place.column));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter().chain(self.more.as_deref())
    }

    /// A summary for one line of a log: the first errors, or warnings if there are no errors.
    pub fn one_line(&self) -> String {
        // Warnings are not the reason of a refusal.
        let mut all: Vec<&Diagnostic> = self.errors().collect();
        if all.is_empty() {
            all.extend(self.iter());
        }
        let shown = all.iter().take(LINE_FINDINGS_MAX).map(|one| format!("{}: {}", one.place, one.message));
        let mut line: String = shown.collect::<Vec<_>>().join("; ").chars().map(visible).collect();
        if all.len() > LINE_FINDINGS_MAX {
            line.push_str(&format!("; `crossgate check` lists {} more", all.len() - LINE_FINDINGS_MAX));
        }
        line
    }

    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.iter().filter(|one| one.severity == Severity::Error)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.list.len() + usize::from(self.more.is_some())
    }

    pub fn has_errors(&self) -> bool {
        self.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Whether a finding fails `check --deny-warnings`.
    pub fn has_denied_warnings(&self) -> bool {
        let is_denied = |one: &Diagnostic| one.code.is_none_or(WarningCode::is_deniable);
        self.iter().any(|one| one.severity == Severity::Warning && is_denied(one))
    }

    /// Adds missing source lines of the findings in `file`, whose content is `text`.
    pub fn quote(&mut self, file: &Path, text: &str) {
        let all = self.list.iter_mut().chain(self.more.as_deref_mut());
        let mut wanted: Vec<_> = all.filter(|one| one.source_line.is_none() && one.place.file == file).collect();
        wanted.sort_by_key(|diagnostic| (diagnostic.place.line, diagnostic.place.column));
        let mut lines = (1_u32..).zip(lines(text));
        let mut current: Option<(u32, SourceWindow<'_>)> = None;
        for diagnostic in wanted {
            let line = diagnostic.place.line;
            if current.as_ref().is_none_or(|(number, _)| *number != line) {
                current = lines.find(|(number, _)| *number == line).map(|(_, text)| (line, SourceWindow::new(text)));
            }
            if let Some((_, window)) = &mut current {
                window.show(diagnostic);
            }
        }
    }

    /// The files of findings without a source line.
    pub(super) fn unquoted_files(&self) -> Vec<PathBuf> {
        let unquoted = self.iter().filter(|diagnostic| diagnostic.source_line.is_none());
        let mut files: Vec<_> = unquoted.map(|diagnostic| diagnostic.place.file.clone()).collect();
        files.sort();
        files.dedup();
        files
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl Serialize for Diagnostics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        let mut all = self.list;
        all.extend(self.more.map(|more| *more));
        all.into_iter()
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(iter: I) -> Self {
        let mut all = Diagnostics::default();
        all.extend(iter);
        all
    }
}
