//! The names of groups as small numbers, so that recording a group costs no text.
//!
//! The numbers are of the process: a name keeps its number over reloads. A name that comes after
//! 65,535 others has none, and its origins are recorded without a group.

use parking_lot::Mutex;

/// A group's name in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLabel(u16);

/// The known names. The name at an index has the next number.
static NAMES: Mutex<Vec<Box<str>>> = Mutex::new(Vec::new());

impl GroupLabel {
    /// No group: the policy's own terms, or no terms.
    pub const NONE: Self = Self(0);

    /// The label of a name, which is known from now on.
    pub fn of(name: &str) -> Self {
        let mut names = NAMES.lock();
        let index = names.iter().position(|known| **known == *name);
        let number = u16::try_from(index.unwrap_or(names.len()) + 1);
        if let (None, Ok(_)) = (index, number) {
            names.push(name.into());
        }
        number.map_or(Self::NONE, Self)
    }

    /// The name; `None` without a group.
    pub fn name(self) -> Option<Box<str>> {
        NAMES.lock().get(usize::from(self.0.checked_sub(1)?)).cloned()
    }

    pub(super) fn bits(self) -> u32 {
        self.0.into()
    }

    pub(super) fn from_bits(bits: u32) -> Self {
        u16::try_from(bits).map_or(Self::NONE, Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_returns_the_name_it_was_made_of() {
        let [one, other] = ["label-one", "label-other"].map(GroupLabel::of);
        assert_eq!(one, GroupLabel::of("label-one"));
        assert_eq!([one, other].map(|label| label.name().unwrap()), ["label-one".into(), "label-other".into()]);
        assert_eq!(GroupLabel::from_bits(other.bits()), other);
        assert_eq!(GroupLabel::NONE.name(), None);
    }
}
