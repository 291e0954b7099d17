//! The number of requests that the demo API received, by method. The set of methods is closed, so a
//! client cannot make it grow.

use std::sync::atomic::{AtomicU64, Ordering};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// One counter for each known method, and one for all others.
#[derive(Debug, Default)]
pub(super) struct MethodCounts {
    known: [AtomicU64; METHODS.len()],
    other: AtomicU64,
}

impl MethodCounts {
    pub(super) fn count(&self, method: &http::Method) {
        let named = METHODS.iter().zip(&self.known).find(|(name, _)| **name == method.as_str());
        named.map_or(&self.other, |(_, counter)| counter).fetch_add(1, Ordering::Relaxed);
    }

    /// Every counter, including zeros: the demo shows that `OPTIONS` stays at zero.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let known = METHODS.iter().zip(&self.known);
        let mut all: serde_json::Map<_, _> = known.map(|(name, count)| ((*name).to_owned(), read(count))).collect();
        all.insert("other".to_owned(), read(&self.other));
        all.into()
    }
}

fn read(counter: &AtomicU64) -> serde_json::Value {
    counter.load(Ordering::Relaxed).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demo_requests_are_counted_by_method() {
        let counts = MethodCounts::default();
        for method in ["GET", "GET", "OPTIONS", "BREW", "get"] {
            counts.count(&method.parse().unwrap());
        }
        let seen = counts.to_json();
        assert_eq!(
            (&seen["GET"], &seen["OPTIONS"], &seen["PUT"], &seen["other"]),
            (&2.into(), &1.into(), &0.into(), &2.into())
        );
    }
}
