//! The list of everything that a rule may call or read. A script that uses anything else is refused
//! when it is loaded.
//!
//! Absent on purpose: files, the environment, the network, the clock, random numbers, other
//! scripts, the log, blocking functions, and callbacks into the script, whose operations are not
//! counted.

/// The fields of `req`, in the order of their bits in [`RuleReads`](super::RuleReads).
pub(super) const FIELDS: [&str; 11] =
    ["origin", "scheme", "host", "port", "tenant", "route", "method", "path", "kind", "requested_headers", "api_host"];

/// The callable functions, each with the numbers of arguments that it accepts. The value before the
/// dot of a method call counts as an argument.
pub(super) const FUNCTIONS: [(&str, &[usize]); 25] = [
    // The answer.
    ("allow", &[0, 1]),
    ("deny", &[0, 1]),
    // The request.
    ("header", &[2]),
    ("query", &[2]),
    // Hosts.
    ("host_under", &[2]),
    ("label", &[2]),
    ("registrable_domain", &[1]),
    ("glob", &[2]),
    // Data files.
    ("in_set", &[2]),
    ("lookup", &[2]),
    // Strings, arrays and maps.
    ("len", &[1]),
    ("is_empty", &[1]),
    ("contains", &[2]),
    ("starts_with", &[2]),
    ("ends_with", &[2]),
    ("index_of", &[2]),
    ("sub_string", &[2, 3]),
    ("is_number", &[1]),
    ("to_lower", &[1]),
    ("to_upper", &[1]),
    ("trim", &[1]),
    ("split", &[2]),
    ("before", &[2]),
    ("after", &[2]),
    ("to_string", &[1]),
];

/// The operators. `&&`, `||`, `??`, `if`, `switch`, loops and literals are part of the language.
pub(super) const OPERATORS: [&str; 15] =
    ["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "!", "..", "..=", "in"];

/// The operators that change a variable.
pub(super) const ASSIGNMENTS: [&str; 6] = ["=", "+=", "-=", "*=", "/=", "%="];

/// Returns the names of all callable functions. A test checks that the manual describes them.
pub fn callable_names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, _)| *name)
}

/// Returns the names of the fields of `req`.
pub fn field_names() -> impl Iterator<Item = &'static str> {
    FIELDS.into_iter()
}
