//! The number of a group of origins within its policy.
//!
//! A policy has terms of its own, and each of its groups has others: the methods, headers,
//! credentials and max-age that its origins get. A [`GroupId`] selects the terms of a verdict.

/// The most groups of one policy. The values of the origin tables have six bits for a group.
pub const GROUPS_MAX: usize = 32;

/// Whose terms apply: the policy's own, or those of one of its groups.
/// [`Policy::group_name`](crate::Policy::group_name) returns its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GroupId(u8);

impl GroupId {
    /// The policy's own terms, outside any group.
    pub const BASE: Self = Self(0);

    /// Returns the group at an index of the spec's list of groups. Beyond [`GROUPS_MAX`] groups,
    /// which no valid policy has, the result is [`GroupId::BASE`].
    pub(crate) fn of_index(index: usize) -> Self {
        let number = u8::try_from(index + 1).ok().filter(|number| usize::from(*number) <= GROUPS_MAX);
        Self(number.unwrap_or_default())
    }

    /// Returns the index in the spec's list of groups. `None` for the policy's own terms.
    pub const fn index(self) -> Option<usize> {
        match self.0 {
            0 => None,
            number => Some(number as usize - 1),
        }
    }

    /// Returns the number as bits of a table's value: at most [`GROUPS_MAX`].
    pub(crate) const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// Converts the result of [`GroupId::bits`] back.
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits as u8)
    }
}
