//! An independent choice of the entry that decides: it lists every entry that covers an origin and
//! sorts the list, without tables or fast paths.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;

use super::matcher;

/// A configured entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListedEntry {
    pub(crate) text: String,
    /// The name of its group; `None` for the policy's own terms.
    pub(crate) group: Option<String>,
    pub(crate) is_own: bool,
    pub(crate) is_regex: bool,
}

/// The rank of a covering entry; the least one decides.
type Rank = (u8, Reverse<usize>, u8, Reverse<usize>, bool);

/// Returns the entry that decides on an origin, besides a rule.
pub(crate) fn deciding<'a>(entries: &'a [ListedEntry], origin: &[u8]) -> Option<&'a ListedEntry> {
    best(entries, origin).first().copied()
}

/// Returns the entries of the best rank that cover an origin. Those of the template come first.
pub(crate) fn best<'a>(entries: &'a [ListedEntry], origin: &[u8]) -> Vec<&'a ListedEntry> {
    let mut covering: Vec<&ListedEntry> = entries.iter().filter(|entry| covers(entry, origin)).collect();
    covering.sort_by_key(|entry| (rank(entry), entry.is_own, entry.text.as_str()));
    let least = covering.first().map(|entry| rank(entry));
    covering.retain(|entry| Some(rank(entry)) == least);
    covering
}

/// Whether an entry covers the value of one `Origin` field.
pub(crate) fn covers(entry: &ListedEntry, origin: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(origin) else { return entry.text == "*" };
    match entry.text.as_str() {
        "*" => true,
        "null" => text == "null",
        regex if entry.is_regex => matches(regex, text) && matcher::is_origin(origin),
        entry => matcher::covers(entry, text) && matcher::is_origin(origin),
    }
}

/// Whether an expression matches the whole text. Each expression is compiled once.
fn matches(expression: &str, text: &str) -> bool {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, Option<regex::Regex>>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        let compile = || regex::Regex::new(&format!("^(?:{expression})$")).ok();
        let whole = compiled.entry(expression.to_owned()).or_insert_with(compile);
        whole.as_ref().is_some_and(|whole| whole.is_match(text))
    })
}

fn rank(entry: &ListedEntry) -> Rank {
    let text = entry.text.as_str();
    let class = match text {
        "*" => 4,
        // Expressions have no order among each other.
        _ if entry.is_regex => return (2, Reverse(0), 0, Reverse(0), false),
        _ if text.contains('*') => 1,
        _ => 0,
    };
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (host, is_any_port) = host.strip_suffix(":*").map_or((host, false), |host| (host, true));
    let (first, rest) = host.split_once('.').unwrap_or((host, ""));
    // The labels behind the star, or all of them.
    let suffix = if first.contains('*') { rest } else { host };
    let shape = if first == "*" { 1 } else { 0 };
    let literals = if first.contains('*') { first.len() - 1 } else { 0 };
    (class, Reverse(suffix.split('.').count()), shape, Reverse(literals), is_any_port)
}
