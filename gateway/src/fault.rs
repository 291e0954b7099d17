//! Injected panics, for tests of their effect on other requests. Not part of release builds.

/// The prefix of the paths that cause a panic.
pub(crate) const PATH: &str = "/fault/";

/// Panics if a file `fault-PLACE` exists next to `path`.
pub(crate) fn panic_next_to(place: &str, path: &std::path::Path) {
    assert!(!path.with_file_name(format!("fault-{place}")).exists(), "a bug on purpose");
}

/// Panics if the host name is `fault-PLACE.localhost`.
pub(crate) fn panic_for_name(place: &str, name: &str) {
    assert_ne!(
        name.strip_prefix("fault-").and_then(|rest| rest.strip_suffix(".localhost")),
        Some(place),
        "a bug on purpose"
    );
}

/// Panics if the target is `/fault/PLACE`.
pub(crate) fn panic_at(place: &str, target: &[u8]) {
    let named = target.strip_prefix(PATH.as_bytes());
    assert_ne!(named, Some(place.as_bytes()), "a bug on purpose");
}
