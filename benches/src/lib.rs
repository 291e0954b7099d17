//! Inputs that benches share: policies of any size, and origins made up as they are asked about.
//!
//! A request's origin is hot in a cache, since it has just been read, while the table it is looked up in may not be. So
//! origins are not kept in lists, which would add misses of their own: [`Numbered`] writes the next one into one buffer. What
//! that costs is a bench of its own. Inputs are the same in every run.

use std::sync::Arc;

use crossgate_policy::{Policy, PolicySpec, Template};

pub mod tenants;

/// A text with places for numbers, rewritten for each number.
pub struct Numbered {
    text: Vec<u8>,
    places: Vec<usize>,
}

/// How many digits a number has.
const DIGITS: usize = 7;

impl Numbered {
    /// A text with a number for every `#` in `shape`.
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

    /// The text with these numbers in its places.
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

/// Numbers that look random and are the same in every run.
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self::of(0)
    }
}

impl Random {
    /// Those of one thread, which have nothing to do with those of another.
    pub fn of(thread: u64) -> Self {
        // Odd numbers, whose product is not 0.
        Self(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * thread + 1))
    }

    /// A number below `end`, which is not 0.
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
/// If `shape` is no entry.
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

/// Compiles a policy without a tenant's own origins.
///
/// # Panics
/// If the policy is wrong.
#[expect(clippy::panic, reason = "a bench that has the wrong input must not go on")]
pub fn compile(spec: &PolicySpec) -> Policy {
    let template = Template::compile(spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    Policy::extend(Arc::new(template.value), &[]).unwrap_or_else(|problems| panic!("{problems:?}")).value
}
