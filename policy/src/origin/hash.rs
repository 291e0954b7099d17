//! The hash of origins and hosts: seeded, fast for short text, and extensible to the left.
//!
//! [`suffixes`] walks a host from its last label to its first and extends the hash, so that each
//! suffix costs one step, even for a host of 126 labels. The seed is random and secret, so that an
//! attacker cannot choose origins that collide (hash flooding). The hash is suitable only for
//! tables in memory.

use std::hash::{BuildHasher, RandomState};

/// The random numbers on which the hashes of a template's tables depend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HashSeed {
    start: u64,
    left: u64,
    right: u64,
}

impl HashSeed {
    /// Creates a seed from the operating system's randomness.
    pub(crate) fn random() -> Self {
        let draw = |salt: u64| RandomState::new().hash_one(salt);
        Self { start: draw(0), left: draw(1), right: draw(2) }
    }

    /// Returns the hash of a whole text.
    pub(crate) fn whole(&self, text: &[u8]) -> u64 {
        self.finish(self.chain(self.start, text))
    }

    /// Converts an extensible hash to one for lookups. Texts that differ only in their last bytes,
    /// such as numbered names and ports, have extensible hashes with a constant difference. Under
    /// some seeds these would cluster in a table.
    fn finish(&self, state: u64) -> u64 {
        fold(state, self.left)
    }

    /// Extends the hash `state` of earlier parts by `part`.
    fn chain(&self, state: u64, part: &[u8]) -> u64 {
        // The length counts too: the overlapping blocks of `aaaaa` and `aaaaaa` are equal.
        let mut state = state.wrapping_add(self.left.wrapping_mul(part.len() as u64));
        let mut rest = part;
        while let Some((block, more)) = rest.split_first_chunk::<16>() {
            state = self.mix(state, first_u64(block), last_u64(block));
            rest = more;
        }
        match rest.len() {
            8.. => self.mix(state, first_u64(rest), last_u64(rest)),
            4.. => self.mix(state, first_u32(rest), last_u32(rest)),
            1.. => self.mix(state, short(rest), 0),
            0 => state,
        }
    }

    fn mix(&self, state: u64, one: u64, other: u64) -> u64 {
        fold(one ^ state, other ^ self.right)
    }
}

/// Multiplies and combines both halves of the product. Each bit of the result depends on nearly all
/// bits of both factors.
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    (product as u64) ^ ((product >> 64) as u64)
}

fn first_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn last_u64(bytes: &[u8]) -> u64 {
    bytes.last_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn first_u32(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk).into())
}

fn last_u32(bytes: &[u8]) -> u64 {
    bytes.last_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk).into())
}

fn short(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |all, byte| all * 256 + u64::from(*byte))
}

/// Returns the suffixes of a host that begin at a label, each with its hash: the shortest first,
/// the whole host last.
pub(crate) fn suffixes<'a>(seed: &'a HashSeed, host: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8])> {
    let mut state = seed.start;
    let mut end = Some(host.len());
    std::iter::from_fn(move || {
        let head = host.get(..end?)?;
        let dot = head.iter().rposition(|byte| *byte == b'.');
        let start = dot.map_or(0, |dot| dot + 1);
        state = seed.chain(state, head.get(start..)?);
        end = dot;
        Some((seed.finish(state), host.get(start..)?))
    })
}

/// Returns the hash of a whole host, equal to the last one of [`suffixes`].
pub(crate) fn host_hash(seed: &HashSeed, host: &[u8]) -> u64 {
    suffixes(seed, host).last().map_or(seed.finish(seed.start), |(hash, _)| hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn suffixes_begin_at_labels() {
        let seed = HashSeed::random();
        let texts: Vec<_> = suffixes(&seed, b"a.bc.d").map(|(_, suffix)| suffix).collect();
        assert_eq!(texts, [&b"d"[..], b"bc.d", b"a.bc.d"]);
    }

    #[test]
    fn suffix_has_the_hash_of_an_equal_host() {
        let seed = HashSeed::random();
        for (hash, suffix) in suffixes(&seed, b"one.two-is-longer-than-16.three.example.org") {
            assert_eq!(hash, host_hash(&seed, suffix));
        }
    }

    #[test]
    fn hashes_differ_between_seeds() {
        let [one, other] = [HashSeed::random(), HashSeed::random()];
        for text in [&b"a"[..], b"app.a.test", b"https://app.a.test", &[b'a'; 326]] {
            assert_ne!(one.whole(text), other.whole(text), "{}", text.escape_ascii());
            assert_ne!(host_hash(&one, text), host_hash(&other, text), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn short_texts_do_not_collide() {
        let seed = HashSeed::random();
        let alike = (0..40).map(|len| vec![b'a'; len]);
        let one_apart = (1..40).flat_map(|len| (0..len).map(move |at| (len, at))).flat_map(|(len, at)| {
            let with = move |byte| [&vec![b'a'; at][..], &[byte], &vec![b'a'; len - at - 1]].concat();
            [0, b'b', 0xff].map(with)
        });
        let texts: HashSet<Vec<u8>> = alike.chain(one_apart).collect();
        let hashes: HashSet<u64> = texts.iter().map(|text| seed.whole(text)).collect();
        assert_eq!(hashes.len(), texts.len());
    }
}
