//! Bugs on purpose, for tests that look at what they do to others. Not in what is shipped.

/// The beginning of the paths that strike.
pub(crate) const PATH: &str = "/fault/";

/// Panics if the target is the one for this place.
pub(crate) fn strike(place: &str, target: &[u8]) {
    let named = target.strip_prefix(PATH.as_bytes());
    assert_ne!(named, Some(place.as_bytes()), "a bug on purpose");
}
