//! Values of a file with their locations.

use serde_saphyr::Location;

/// A position in a file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
    /// Number of characters, at least 1.
    pub width: u32,
}

impl Position {
    /// The first character, for mistakes of the file as a whole.
    pub const START: Position = Position { line: 1, column: 1, width: 1 };

    pub(super) fn of(location: Location) -> Self {
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        #[expect(clippy::useless_conversion, reason = "the crate's span offsets are u32 or u64, by its features")]
        let width = narrow(u64::from(location.span().len()));
        Position { line: narrow(location.line()), column: narrow(location.column()), width }
    }
}

#[derive(Debug)]
pub(super) struct YamlNode {
    pub(super) at: Position,
    pub(super) value: YamlValue,
}

#[derive(Debug)]
pub(super) struct YamlKey {
    pub(super) at: Position,
    pub(super) name: Box<str>,
}

#[derive(Debug)]
pub(super) enum YamlValue {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Box<str>),
    List(Vec<YamlNode>),
    Map(Vec<(YamlKey, YamlNode)>),
}
