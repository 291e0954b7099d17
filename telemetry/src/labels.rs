//! Closed sets of label values.
//!
//! A label takes its values from an enum that [`label_set`](crate::label_set) declares, so that no
//! request can create a series. The enum's order is the order of the cells that count it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// All members of a closed set with their counts, zeros included: an alert on an increase needs the
/// series before its first event.
pub fn all_counts<T: Copy>(set: &[T], cells: &[AtomicU64]) -> impl Iterator<Item = (T, u64)> {
    set.iter().copied().zip(cells.iter().map(|cell| cell.load(Relaxed)))
}

/// The members of a closed set that were counted. A series exists once its count is not zero.
pub fn nonzero_counts<'a, T: Copy>(set: &'a [T], cells: &'a [AtomicU64]) -> impl Iterator<Item = (T, u64)> + 'a {
    all_counts(set, cells).filter(|(_, count)| *count > 0)
}

/// Declares an enum whose variants are the values of a label, in order of declaration.
#[macro_export]
macro_rules! label_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All variants, in order of declaration.
            pub const ALL: [$name; [$($text),+].len()] = [$($name::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl $crate::serde::Serialize for $name {
            fn serialize<S: $crate::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}
