//! Changes of a request's path: of the path that the upstream receives, and of the path that a
//! redirect leads to.
//!
//! A change acts on the canonical path, and the query stays. A result that a reader could take for
//! another host, as in `//evil.example`, is no result.

use crate::target::RequestTarget;

/// A change of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathChange {
    /// One prefix of whole segments becomes another. `/` stands for no segment.
    Prefix {
        /// The prefix of the request.
        from: Box<str>,
        /// The prefix in its place.
        to: Box<str>,
    },
    /// Every path becomes this one.
    Whole(Box<str>),
}

impl PathChange {
    /// The changed path, with the query of the target. `None` if the path is not below the prefix,
    /// or if the result is ambiguous.
    pub fn apply(&self, target: &RequestTarget<'_>) -> Option<String> {
        // `OPTIONS *` is about the server and has no path.
        if target.path() == "*" {
            return Some(target.path().to_owned());
        }
        let path = self.changed(target.path())?;
        let query = target.upstream().get(target.path().len()..).unwrap_or_default();
        Some(path + query)
    }

    /// The changed path, or `None` as for [`PathChange::apply`].
    pub fn changed(&self, path: &str) -> Option<String> {
        let changed = match self {
            PathChange::Prefix { from, to } => join(to, below(path, from)?),
            PathChange::Whole(whole) => whole.to_string(),
        };
        (!is_ambiguous(&changed)).then_some(changed)
    }

    /// The path that the change would turn into this one, as far as that is known.
    pub fn undo(&self, path: &str) -> Option<String> {
        match self {
            PathChange::Prefix { from, to } => {
                let restored = join(from, below(path, to)?);
                (!is_ambiguous(&restored)).then_some(restored)
            }
            PathChange::Whole(_) => None,
        }
    }

    /// The prefix that is taken away from the path.
    pub fn stripped(&self) -> Option<&str> {
        match self {
            PathChange::Prefix { from, .. } if **from != *"/" => Some(from),
            PathChange::Prefix { .. } | PathChange::Whole(_) => None,
        }
    }
}

/// Whether a reader could take the beginning of a path for another host: a browser reads
/// `//evil.example` and `/\evil.example` so, and a server may decode the slash first.
pub fn is_ambiguous(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return true };
    let is_encoded = |escape: &str| rest.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(escape));
    rest.starts_with(['/', '\\']) || is_encoded("%2f") || is_encoded("%5c")
}

/// The rest of a path below a prefix: empty, or from a slash on. Repeated slashes count as one.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    if prefix == "/" {
        return Some(path);
    }
    let mut rest = path;
    for segment in prefix.strip_prefix('/')?.split('/') {
        let inside = rest.trim_start_matches('/');
        if inside.len() == rest.len() {
            return None;
        }
        rest = inside.strip_prefix(segment)?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
    }
    Some(rest)
}

fn join(prefix: &str, rest: &str) -> String {
    match prefix {
        "/" => format!("/{}", rest.trim_start_matches('/')),
        prefix => format!("{prefix}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(from: &str, to: &str) -> PathChange {
        PathChange::Prefix { from: from.into(), to: to.into() }
    }

    fn apply(change: &PathChange, target: &str) -> Option<String> {
        change.apply(&RequestTarget::parse(target.as_bytes(), b"GET").unwrap())
    }

    #[test]
    fn prefixes_are_stripped_and_replaced_by_whole_segments() {
        for (from, to, target, changed) in [
            ("/orders", "/", "/orders", Some("/")),
            ("/orders", "/", "/orders/", Some("/")),
            ("/orders", "/", "/orders/7?a=/b", Some("/7?a=/b")),
            ("/orders", "/", "/orders?", Some("/?")),
            ("/orders", "/", "/ordersx", None),
            ("/orders", "/v1", "/orders", Some("/v1")),
            ("/orders", "/v1", "/orders/", Some("/v1/")),
            ("/orders", "/v1", "/orders/7", Some("/v1/7")),
            ("/a/b", "/", "/a/b/c", Some("/c")),
            ("/a/b", "/", "/a", None),
            ("/", "/v1", "/", Some("/v1/")),
            ("/", "/v1", "/a?b", Some("/v1/a?b")),
            // Repeated slashes count as one in the prefix, and stay behind it.
            ("/a/b", "/", "//a///b//c//d", Some("/c//d")),
            ("/a", "/v1", "/a//c", Some("/v1//c")),
            // Escapes stay as they are.
            ("/a", "/", "/a/b%2Fc%20d", Some("/b%2Fc%20d")),
        ] {
            assert_eq!(apply(&prefix(from, to), target).as_deref(), changed, "{from} {to} {target}");
        }
        let whole = PathChange::Whole("/index.html".into());
        assert_eq!(apply(&whole, "/any//path?q").as_deref(), Some("/index.html?q"));
    }

    #[test]
    fn results_that_could_name_another_host_are_refused() {
        for target in ["/a/%2fevil.example", "/a/%5Cevil.example", "/a/\\evil.example", "/a//%2Fevil.example"] {
            assert_eq!(apply(&prefix("/a", "/"), target), None, "{target}");
            assert_eq!(prefix("/a", "/").changed(target), None);
            assert!(apply(&prefix("/a", "/v1"), target).is_some(), "{target}");
        }
        assert_eq!(apply(&prefix("/a", "/"), "/a//evil.example").as_deref(), Some("/evil.example"));
    }

    #[test]
    fn undone_changes_put_the_prefix_back() {
        for (from, to, path, restored) in [
            ("/orders", "/", "/7", Some("/orders/7")),
            ("/orders", "/", "/", Some("/orders/")),
            ("/orders", "/v1", "/v1/7", Some("/orders/7")),
            ("/orders", "/v1", "/login", None),
            ("/", "/v1", "/v1/7", Some("/7")),
            ("/", "/v1", "/v1", Some("/")),
            ("/", "/v1", "/v1/%2fevil.example", None),
            ("/", "/v1", "/v1//evil.example", Some("/evil.example")),
        ] {
            assert_eq!(prefix(from, to).undo(path).as_deref(), restored, "{from} {to} {path}");
        }
        assert_eq!(PathChange::Whole("/x".into()).undo("/x"), None);
    }

    proptest! {
        #[test]
        fn changed_targets_are_canonical_and_name_no_host(
            from in "/|(/[ab]{1,2}){1,2}",
            to in "/|(/[ab]{1,2}){1,2}",
            target in r"/([ab/\\?;.]|%2[fF]|%5[cC]|%20|\.\./){0,16}",
        ) {
            if let Ok(target) = RequestTarget::parse(target.as_bytes(), b"GET")
                && let Some(changed) = prefix(&from, &to).apply(&target)
            {
                let again = RequestTarget::parse(changed.as_bytes(), b"GET").unwrap();
                prop_assert_eq!(again.upstream(), &*changed);
                prop_assert!(!is_ambiguous(again.path()), "{}", changed);
                prop_assert_eq!(again.query(), target.query());
            }
        }
    }
}
