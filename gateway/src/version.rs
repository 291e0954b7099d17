//! The version of this binary.

use std::sync::LazyLock;

/// The commit that the binary was built from, if the environment variable `CROSSGATE_COMMIT` was
/// set for the compiler.
pub(crate) const COMMIT: Option<&str> = match option_env!("CROSSGATE_COMMIT") {
    Some(commit) if !commit.is_empty() => Some(commit),
    Some(_) | None => None,
};

static VERSION: LazyLock<String> = LazyLock::new(|| described(COMMIT));

/// The version, with the commit if it is known.
pub(crate) fn version() -> &'static str {
    &VERSION
}

fn described(commit: Option<&str>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match commit {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_contains_the_commit_if_known() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(described(Some("0123456789ab")), format!("{version} (0123456789ab)"));
        assert_eq!(described(None), version);
        assert!(COMMIT.is_none_or(|commit| !commit.is_empty()));
    }
}
