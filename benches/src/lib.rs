//! Inputs that benches share: policies of any size, and generated origins.
//!
//! In production, the origin of a request is in the CPU cache, because it was just read, while the
//! table may not be. A list of origins would add its own cache misses, so [`Numbered`] writes each
//! origin into one buffer. A separate bench measures that cost. Inputs are the same in every run.

use std::sync::Arc;

use crossgate_policy::{GROUPS_MAX, GroupSpec, Policy, PolicySpec, Template};

pub mod tenants;

/// A text with placeholders for numbers, rewritten for each number.
pub struct Numbered {
    text: Vec<u8>,
    places: Vec<usize>,
}

/// The digits of a number.
const DIGITS: usize = 7;

impl Numbered {
    /// A text with a placeholder for every `#` in `shape`.
    pub fn new(shape: &str) -> Self {
        let (mut text, mut places) = (Vec::new(), Vec::new());
        for byte in shape.bytes() {
            if byte == b'#' {
                places.push(text.len());
                text.extend([b'0'; DIGITS]);
            } else {
                text.push(byte);
            }
        }
        Self { text, places }
    }

    /// The text with these numbers in its placeholders.
    pub fn with(&mut self, numbers: &[u64]) -> &[u8] {
        for (place, number) in self.places.iter().zip(numbers) {
            let mut rest = *number;
            let digits = self.text.iter_mut().skip(*place).take(DIGITS).rev();
            digits.for_each(|digit| {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            });
        }
        &self.text
    }
}

/// Pseudo-random numbers that are the same in every run.
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self::of(0)
    }
}

impl Random {
    /// The numbers of one thread, independent of those of other threads.
    pub fn of(thread: u64) -> Self {
        // A product of odd numbers is not 0, which xorshift requires.
        Self(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * thread + 1))
    }

    /// A number below `end`. `end` must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// A policy with `count` entries of one shape, numbered from 0.
///
/// # Panics
/// If `shape` is not a valid entry.
pub fn policy(shape: &str, count: u64) -> Policy {
    let mut numbered = Numbered::new(shape);
    let entries = (0..count).map(|number| String::from_utf8_lossy(numbered.with(&[number])).into_owned());
    let spec = PolicySpec {
        allow_origins: entries.collect(),
        allow_methods: vec!["PUT".to_owned(), "DELETE".to_owned()],
        allow_headers: ["authorization", "content-type", "x-request-id"].map(str::to_owned).to_vec(),
        ..PolicySpec::default()
    };
    compile(&spec)
}

/// The same entries, spread over the most groups, each with terms of its own.
///
/// # Panics
/// If `shape` is not a valid entry.
pub fn policy_in_groups(shape: &str, count: u64) -> Policy {
    let mut numbered = Numbered::new(shape);
    let mut groups: Vec<GroupSpec> = (0..GROUPS_MAX)
        .map(|number| GroupSpec {
            name: format!("group-{number}"),
            expose_headers: Some(vec![format!("x-{number}")]),
            ..GroupSpec::default()
        })
        .collect();
    for (number, index) in (0..count).zip((0..GROUPS_MAX).cycle()) {
        if let Some(group) = groups.get_mut(index) {
            group.allow_origins.push(String::from_utf8_lossy(numbered.with(&[number])).into_owned());
        }
    }
    compile(&PolicySpec { groups, ..PolicySpec::default() })
}

/// Compiles a policy without origins of a tenant.
///
/// # Panics
/// If the policy is invalid.
#[expect(clippy::panic, reason = "a bench that has the wrong input must not go on")]
pub fn compile(spec: &PolicySpec) -> Policy {
    let template = Template::compile(spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    Policy::extend(Arc::new(template.value), &[]).unwrap_or_else(|problems| panic!("{problems:?}")).value
}
