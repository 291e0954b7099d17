//! The sets and tables that scripts look up by name. They are frozen when they are loaded, and the
//! time of a lookup does not depend on the number of entries.

use std::collections::{HashMap, HashSet};

/// Frozen sets and tables, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RuleData {
    sets: HashMap<String, HashSet<String>>,
    tables: HashMap<String, HashMap<String, String>>,
}

impl RuleData {
    /// Creates the data from named sets of values and named tables of keys and values. For a
    /// repeated key the last value counts.
    pub fn new(
        sets: impl IntoIterator<Item = (String, Vec<String>)>,
        tables: impl IntoIterator<Item = (String, Vec<(String, String)>)>,
    ) -> Self {
        Self {
            sets: sets.into_iter().map(|(name, values)| (name, values.into_iter().collect())).collect(),
            tables: tables.into_iter().map(|(name, entries)| (name, entries.into_iter().collect())).collect(),
        }
    }

    pub(super) fn contains(&self, set: &str, value: &str) -> bool {
        self.sets.get(set).is_some_and(|values| values.contains(value))
    }

    pub(super) fn lookup(&self, table: &str, key: &str) -> Option<&str> {
        self.tables.get(table)?.get(key).map(String::as_str)
    }

    pub(super) fn set_names(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str)
    }

    pub(super) fn table_names(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }
}
