//! Cross-origin policies.
