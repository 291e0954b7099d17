//! What is wrong with a configuration, and where.
//!
//! A [`Diagnostic`] carries everything its reader needs: file, line, column, the line itself with a caret, and for clashes the
//! other place. `Display` is the form for people; `Serialize` the one for machines. Text of a file, in messages too, is shown with control
//! characters replaced, since it may come from somebody else. Everything kept is bounded: of a long line only what is around
//! the caret, of a long message its beginning, and so many findings, errors before warnings. No colour here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fmt, iter};

use serde::{Serialize, Serializer};

use super::tree::At;

/// Characters of a source line that are kept: more than a wide terminal is of no use.
const SHOWN_CHARS_MAX: usize = 160;
/// Characters kept before the caret when a long line is cut.
const SHOWN_CHARS_BEFORE: u32 = 40;
/// Characters of a message that are kept. Ours are shorter, but for names that somebody else chose.
const MESSAGE_CHARS_MAX: usize = 1_000;
/// Findings up to which a misspelt name is worth a guess, which costs more than all else about it.
const GUESSED_MAX: usize = 100;
/// Diagnostics kept for one load. Whoever has a thousand mistakes needs no list of all of them.
const KEPT_MAX: usize = 1_000;

/// Whether a configuration can be used in spite of the finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It can, but somebody should look.
    Warning,
    /// It cannot.
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
    /// The line it is on, where the file could be read; of a long one what is around the column.
    pub source_line: Option<String>,
    /// The column of the first character of `source_line`.
    pub source_column: u32,
    /// The other place of a clash.
    pub also: Option<Place>,
}

impl Diagnostic {
    /// An error at a place whose line is not at hand yet.
    pub fn error(file: &Path, at: At, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, file, at, &message.into())
    }

    /// A warning at a place whose line is not at hand yet.
    pub fn warning(file: &Path, at: At, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, file, at, &message.into())
    }

    fn new(severity: Severity, file: &Path, at: At, told: &str) -> Self {
        let mut message: String = told.chars().take(MESSAGE_CHARS_MAX).map(visible).collect();
        if told.chars().nth(MESSAGE_CHARS_MAX).is_some() {
            message.push_str("..");
        }
        let place = Place::new(file, at);
        Diagnostic { severity, place, width: at.width, message, source_line: None, source_column: 1, also: None }
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
        '\t' => ' ',
        _ if c.is_control() => char::REPLACEMENT_CHARACTER,
        _ => c,
    }
}

/// The lines of a YAML text: a carriage return alone ends one too.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    iter::from_fn(move || {
        let (line, tail) = rest.split_at(rest.find(['\n', '\r']).unwrap_or(rest.len()));
        let more = !rest.is_empty();
        rest = tail.strip_prefix("\r\n").or_else(|| tail.strip_prefix(['\n', '\r'])).unwrap_or_default();
        more.then_some(line)
    })
}

/// What is shown of a line: all of a short one, and of a long one a part that moves to the right only, so that many mistakes in
/// one very long line cost one walk along it.
struct Window<'t> {
    rest: &'t str,
    column: u32,
    whole: bool,
}

impl<'t> Window<'t> {
    fn new(line: &'t str) -> Self {
        Window { rest: line, column: 1, whole: line.chars().nth(SHOWN_CHARS_MAX).is_none() }
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// How many in the list are warnings.
    warnings: usize,
    /// Stands for those that found no place in the list, with the worst severity among them.
    more: Option<Box<Diagnostic>>,
}

impl Diagnostics {
    /// Adds one. When the list is full, an error takes the place of a warning, and what finds none is told of in one finding.
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
            let message = format!("there are more than {KEPT_MAX} findings; this and later ones are not shown");
            Box::new(Diagnostic { message, ..dropped })
        });
        more.severity = more.severity.max(severity);
    }

    /// Whether there are so few findings yet that it is worth guessing what was meant.
    pub(crate) fn wants_guesses(&self) -> bool {
        self.list.len() < GUESSED_MAX
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
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter().chain(self.more.as_deref())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len() + usize::from(self.more.is_some())
    }

    /// Whether one of them forbids the configuration.
    pub fn has_errors(&self) -> bool {
        self.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Fills in the lines of those that have none yet, out of `text`, which is the content of `file`.
    pub fn quote(&mut self, file: &Path, text: &str) {
        let all = self.list.iter_mut().chain(self.more.as_deref_mut());
        let mut wanted: Vec<_> = all.filter(|one| one.source_line.is_none() && one.place.file == file).collect();
        wanted.sort_by_key(|diagnostic| (diagnostic.place.line, diagnostic.place.column));
        let mut lines = (1_u32..).zip(lines(text));
        let mut current: Option<(u32, Window<'_>)> = None;
        for diagnostic in wanted {
            let line = diagnostic.place.line;
            if current.as_ref().is_none_or(|(number, _)| *number != line) {
                current = lines.find(|(number, _)| *number == line).map(|(_, text)| (line, Window::new(text)));
            }
            if let Some((_, window)) = &mut current {
                window.show(diagnostic);
            }
        }
    }

    /// The files named by findings that have no line yet.
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
