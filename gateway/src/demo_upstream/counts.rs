//! How many requests the demo API saw, by method. A closed set of methods: a client cannot make it grow.

use std::sync::atomic::{AtomicU64, Ordering};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// One counter a method, and one for all others.
#[derive(Debug, Default)]
pub(super) struct Counts {
    known: [AtomicU64; METHODS.len()],
    other: AtomicU64,
}

impl Counts {
    pub(super) fn count(&self, method: &http::Method) {
        let named = METHODS.iter().zip(&self.known).find(|(name, _)| **name == method.as_str());
        named.map_or(&self.other, |(_, counter)| counter).fetch_add(1, Ordering::Relaxed);
    }

    /// Every counter, zeros included: the `OPTIONS` that stays at zero is what the demo is about.
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
    fn counts_by_method_and_keeps_strangers_together() {
        let counts = Counts::default();
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
