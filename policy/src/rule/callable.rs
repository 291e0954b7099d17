//! Everything that a rule may call or read: the one list. What is not here is refused when a script is loaded.
//!
//! Nothing here reaches files, the environment, the network, the clock, random numbers, other scripts or the log; nothing blocks, and
//! nothing calls back into the script, since operations in a callback are not counted.

/// The fields of `req`, in the order of their bits in [`Reads`](super::Reads).
pub(super) const FIELDS: [&str; 10] =
    ["origin", "scheme", "host", "port", "tenant", "route", "method", "path", "kind", "requested_headers"];

/// What can be called: a name, and how many arguments it takes, the one before the dot included.
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
    // Data beside the scripts.
    ("in_set", &[2]),
    ("lookup", &[2]),
    // Texts, arrays and maps.
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

/// The operators; `&&`, `||`, `??`, `if`, `switch`, loops and literals are the language's own.
pub(super) const OPERATORS: [&str; 15] =
    ["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "!", "..", "..=", "in"];

/// Operators that change a variable.
pub(super) const ASSIGNMENTS: [&str; 6] = ["=", "+=", "-=", "*=", "/=", "%="];

/// The names of everything that can be called, for the manual to be held against.
pub fn callable_names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, _)| *name)
}

/// The names of the fields of `req`.
pub fn field_names() -> impl Iterator<Item = &'static str> {
    FIELDS.into_iter()
}
