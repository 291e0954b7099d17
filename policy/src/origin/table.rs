//! A frozen map from text to a number: built once, compact, with a lookup time that does not depend
//! on the number of keys.
//!
//! Open addressing with linear probing, two thirds full. A slot has 8 bytes: a tag and a place.
//! Text and value are in one arena, so a hit costs two cache misses in a large table. The caller
//! computes the hash, so that one hash serves several tables. Removal, growth and iteration in key
//! order are absent on purpose.

use std::num::NonZeroU32;

/// The error for a table with more data than a `u32` can address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

#[derive(Debug, Clone, Default)]
pub(crate) struct OriginTable {
    slots: Box<[TableSlot]>,
    arena: Box<[u8]>,
    /// The start of each text's record, in the order of the input.
    starts: Box<[u32]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct TableSlot {
    tag: u32,
    /// The start of the record plus one. `None` in an empty slot.
    place: Option<NonZeroU32>,
}

impl OriginTable {
    /// Builds a table of `len` entries `(hash, text, value)`; the texts are distinct.
    pub(crate) fn new<'t>(len: usize, entries: impl Iterator<Item = (u64, &'t [u8], u32)>) -> Result<Self, TooLarge> {
        let mut slots = vec![TableSlot::default(); len + len / 2];
        let mut arena = Vec::new();
        let mut starts = Vec::with_capacity(len);
        for (hash, text, value) in entries {
            let start = push_record(&mut arena, text, value)?;
            starts.push(start);
            fill(&mut slots, hash, start)?;
        }
        Ok(Self { slots: slots.into(), arena: arena.into(), starts: starts.into() })
    }

    /// Returns the value of `text`, whose hash is `hash`.
    pub(crate) fn get(&self, hash: u64, text: &[u8]) -> Option<u32> {
        for index in probes(hash, self.slots.len()) {
            let slot = self.slots.get(index)?;
            let place = slot.place?;
            if slot.tag == tag(hash)
                && let Some(value) = self.value_if(place, text)
            {
                return Some(value);
            }
        }
        None
    }

    /// Returns the number of texts.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Returns the text at `index` of the input.
    pub(crate) fn text(&self, index: usize) -> Option<&[u8]> {
        let start = *self.starts.get(index)?;
        self.record(start).map(|(_, text)| text)
    }

    /// Returns the value at `index` of the input.
    pub(crate) fn value(&self, index: usize) -> Option<u32> {
        let start = *self.starts.get(index)?;
        self.record(start).map(|(value, _)| value)
    }

    fn value_if(&self, place: NonZeroU32, text: &[u8]) -> Option<u32> {
        let (value, found) = self.record(place.get() - 1)?;
        (found == text).then_some(value)
    }

    fn record(&self, start: u32) -> Option<(u32, &[u8])> {
        let (value, rest) = self.arena.get(start as usize..)?.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let text = rest.get(..usize::from(u16::from_le_bytes(*len)))?;
        Some((u32::from_le_bytes(*value), text))
    }
}

/// Returns the slots that may contain a hash, in probing order. Each slot occurs at most once.
fn probes(hash: u64, slots: usize) -> impl Iterator<Item = usize> {
    // The high half of the product is uniform below the number of slots, which need not be a power
    // of two.
    let first = ((u128::from(hash) * slots as u128) >> 64) as usize;
    (first..slots).chain(0..first)
}

// The index of the slot comes from the high bits of the hash, the tag from the low bits.
fn tag(hash: u64) -> u32 {
    hash as u32
}

fn push_record(arena: &mut Vec<u8>, text: &[u8], value: u32) -> Result<u32, TooLarge> {
    let start = u32::try_from(arena.len()).map_err(|_| TooLarge)?;
    let len = u16::try_from(text.len()).map_err(|_| TooLarge)?;
    arena.extend_from_slice(&value.to_le_bytes());
    arena.extend_from_slice(&len.to_le_bytes());
    arena.extend_from_slice(text);
    Ok(start)
}

fn fill(slots: &mut [TableSlot], hash: u64, start: u32) -> Result<(), TooLarge> {
    let place = Some(NonZeroU32::MIN.checked_add(start).ok_or(TooLarge)?);
    for index in probes(hash, slots.len()) {
        if let Some(slot) = slots.get_mut(index).filter(|slot| slot.place.is_none()) {
            *slot = TableSlot { tag: tag(hash), place };
            return Ok(());
        }
    }
    Err(TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::hash::HashSeed;

    fn table(seed: &HashSeed, texts: &[String]) -> OriginTable {
        let entries = texts.iter().zip(0..).map(|(text, value)| (seed.whole(text.as_bytes()), text.as_bytes(), value));
        OriginTable::new(texts.len(), entries).unwrap()
    }

    #[test]
    fn only_inserted_texts_are_found() {
        let seed = HashSeed::random();
        for len in [0, 1, 2, 3, 4, 10, 1000] {
            let texts: Vec<String> = (0..len).map(|number| format!("https://{number}.example")).collect();
            let table = table(&seed, &texts);
            assert_eq!(table.len(), len);
            for (index, text) in texts.iter().enumerate() {
                assert_eq!(table.get(seed.whole(text.as_bytes()), text.as_bytes()), Some(index as u32));
                assert_eq!(table.text(index), Some(text.as_bytes()));
            }
            let other = format!("https://{len}.example");
            assert_eq!(table.get(seed.whole(other.as_bytes()), other.as_bytes()), None);
        }
    }

    const LEN: usize = 1_000;

    /// Returns the mean number of slots that a failed lookup reads. The first `LEN` texts are in
    /// the table, the others are not.
    fn mean_probes_of_misses(seed: &HashSeed, texts: &[String]) -> f64 {
        let (present, absent) = texts.split_at(LEN);
        let table = table(seed, present);
        let slots_read = |text: &String| {
            let slots = probes(seed.whole(text.as_bytes()), table.slots.len());
            slots.take_while(|slot| table.slots[*slot].place.is_some()).count() + 1
        };
        absent.iter().map(slots_read).sum::<usize>() as f64 / absent.len() as f64
    }

    fn worst_of_many_seeds(texts: &[String]) -> f64 {
        (0..200).map(|_| mean_probes_of_misses(&HashSeed::random(), texts)).fold(0.0, f64::max)
    }

    #[test]
    fn numbered_texts_do_not_cluster_under_any_seed() {
        let shapes: [fn(usize) -> String; 3] = [
            |number| format!("http://localhost:{}", 30_000 + number),
            |number| format!("https://app-{number:07}.example.com"),
            |number| format!("https://a{number}.test"),
        ];
        for shape in shapes {
            let worst = worst_of_many_seeds(&(0..2 * LEN).map(shape).collect::<Vec<_>>());
            // Random hashes need 5 on average, and rarely more than 8.
            assert!(worst < 12.0, "{worst} for {}", shape(0));
        }
    }

    #[test]
    fn texts_that_collide_under_one_seed_do_not_under_others() {
        let known = HashSeed::random();
        // The probes of all texts begin at the same few slots.
        let collides = |text: &String| known.whole(text.as_bytes()) >> 57 == 0;
        let texts: Vec<String> =
            (0..).map(|number| format!("https://a{number}.test")).filter(collides).take(2 * LEN).collect();
        assert!(mean_probes_of_misses(&known, &texts) > 500.0);
        let worst = worst_of_many_seeds(&texts);
        assert!(worst < 12.0, "{worst}");
    }

    #[test]
    fn texts_with_equal_hashes_are_distinguished() {
        let texts: [&[u8]; 3] = [b"one", b"two", b"three"];
        let table = OriginTable::new(3, texts.iter().zip(0..).map(|(text, value)| (7, *text, value))).unwrap();
        assert_eq!(texts.map(|text| table.get(7, text)), [Some(0), Some(1), Some(2)]);
        assert_eq!(table.get(7, b"four"), None);
    }
}
