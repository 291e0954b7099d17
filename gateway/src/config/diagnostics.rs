//! What is wrong with a configuration, and where.
//!
//! A [`Diagnostic`] carries everything its reader needs: file, line, column, the line itself with a caret, and for clashes the
//! other place. `Display` is the form for people; `Serialize` the one for machines. Text of a file is shown with control
//! characters replaced, since it may come from somebody else, and long lines are cut around the caret. No colour here.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::tree::At;

/// Characters of a source line that are shown: more than a wide terminal is of no use.
const SHOWN_CHARS_MAX: usize = 160;
/// Characters kept before the caret when a long line is cut.
const SHOWN_CHARS_BEFORE: usize = 40;
/// Diagnostics kept for one load. Whoever has a thousand mistakes needs no list of all of them.
const KEPT_MAX: usize = 1_000;

/// Whether a configuration can be used in spite of the finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but somebody should look.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl Place {
    /// Where `at` is in `file`.
    pub fn new(file: &Path, at: At) -> Self {
        Place { file: file.to_path_buf(), line: at.line, column: at.column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One mistake or warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// How many characters are meant.
    pub width: u32,
    /// What is wrong, ending with what would be accepted.
    pub message: String,
    /// The line it is on, where the file could be read.
    pub source_line: Option<String>,
    /// The other place of a clash.
    pub also: Option<Place>,
}

impl Diagnostic {
    /// An error at a place whose line is not at hand yet.
    pub fn error(file: &Path, at: At, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, file, at, message.into())
    }

    /// A warning at a place whose line is not at hand yet.
    pub fn warning(file: &Path, at: At, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, file, at, message.into())
    }

    fn new(severity: Severity, file: &Path, at: At, message: String) -> Self {
        Diagnostic { severity, place: Place::new(file, at), width: at.width, message, source_line: None, also: None }
    }

    /// Names the other place of a clash.
    #[must_use]
    pub fn also(mut self, file: &Path, at: At) -> Self {
        self.also = Some(Place::new(file, at));
        self
    }

    fn write_source(&self, f: &mut fmt::Formatter<'_>, line: &str) -> fmt::Result {
        let number = self.place.line.to_string();
        let margin = " ".repeat(number.len());
        let (shown, column) = window(line, self.place.column as usize);
        let room = shown.chars().count().saturating_sub(column.saturating_sub(1)).max(1);
        let carets = "^".repeat((self.width as usize).clamp(1, room));
        let indent = " ".repeat(column.saturating_sub(1));
        write!(f, "\n{margin} |\n{number} | {shown}\n{margin} | {indent}{carets}")
    }
}

/// The part of a line that is shown, and the caret's column in it.
fn window(line: &str, column: usize) -> (String, usize) {
    let cut = if line.chars().count() > SHOWN_CHARS_MAX { column.saturating_sub(1 + SHOWN_CHARS_BEFORE) } else { 0 };
    let visible = |c: char| {
        if c == '\t' {
            ' '
        } else if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    let shown = line.chars().skip(cut).take(SHOWN_CHARS_MAX).map(visible).collect();
    (shown, column - cut)
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  --> {}", self.severity.as_str(), self.message, self.place)?;
        if let Some(line) = &self.source_line {
            self.write_source(f, line)?;
        }
        match &self.also {
            Some(place) => write!(f, "\n  also: {place}"),
            None => Ok(()),
        }
    }
}

/// Everything found in one load, in the order it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds one, up to a named maximum, and says so when that is reached.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if self.list.len() < KEPT_MAX {
            self.list.push(diagnostic);
        } else if let Some(last) = self.list.last_mut() {
            last.severity = Severity::Error;
            last.message = format!("there are more than {KEPT_MAX} findings; this and later ones are not shown");
        }
    }

    /// Adds many.
    pub fn extend(&mut self, more: impl IntoIterator<Item = Diagnostic>) {
        more.into_iter().for_each(|diagnostic| self.push(diagnostic));
    }

    /// Brings those of every file into the file's order, and leaves the files in theirs.
    pub(crate) fn sort(&mut self) {
        let mut order = HashMap::new();
        for diagnostic in &self.list {
            let next = order.len();
            order.entry(diagnostic.place.file.clone()).or_insert(next);
        }
        self.list.sort_by_key(|one| (order.get(&one.place.file).copied(), one.place.line, one.place.column));
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether one of them forbids the configuration.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Fills in the lines of those that have none yet, out of `text`, which is the content of `file`.
    pub fn quote(&mut self, file: &Path, text: &str) {
        let mut wanted: Vec<_> =
            self.list.iter_mut().filter(|one| one.source_line.is_none() && one.place.file == file).collect();
        wanted.sort_by_key(|diagnostic| diagnostic.place.line);
        let mut lines = (1_u32..).zip(text.lines()).peekable();
        for diagnostic in wanted {
            while lines.next_if(|(number, _)| *number < diagnostic.place.line).is_some() {}
            diagnostic.source_line = lines.peek().map(|(_, line)| (*line).to_owned());
        }
    }

    /// The files named by findings that have no line yet.
    pub(super) fn unquoted_files(&self) -> Vec<PathBuf> {
        let unquoted = self.list.iter().filter(|diagnostic| diagnostic.source_line.is_none());
        let mut files: Vec<_> = unquoted.map(|diagnostic| diagnostic.place.file.clone()).collect();
        files.sort();
        files.dedup();
        files
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(iter: I) -> Self {
        let mut all = Diagnostics::default();
        all.extend(iter);
        all
    }
}
