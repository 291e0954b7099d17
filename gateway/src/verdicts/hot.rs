//! The most frequent answers of one worker, in front of the shared map.
//!
//! A lookup in the shared map writes to one of its locks, and lookups of the same key write to the
//! same one. So each worker caches a few answers itself. Keys contain the number of the compiled
//! rule, so cached answers here are as valid as in the map. From time to time a hot answer is
//! looked up in the map anyway. That marks it as used there, and detects here that it was evicted.

use std::cell::RefCell;

use ahash::RandomState;
use crossgate_policy::RuleAnswer;

/// The number of slots of one worker. A key's hash determines its slot, and a newer key replaces an
/// older one.
const ANSWERS_MAX: usize = 64;

/// The number of uses before an answer is looked up in the map again.
const USES_MAX: u8 = 63;

struct WorkerCache {
    // Random keys: clients choose what is hashed (hash flooding).
    hasher: RandomState,
    slots: [Option<HotVerdict>; ANSWERS_MAX],
}

struct HotVerdict {
    key: Box<[u8]>,
    answer: RuleAnswer,
    uses_left: u8,
}

thread_local! {
    static WORKER_CACHE: RefCell<WorkerCache> = RefCell::new(WorkerCache { hasher: RandomState::new(), slots: [const { None }; ANSWERS_MAX] });
}

/// Finds the answer for `key`. `shared` looks it up in the map.
pub(super) fn find(key: &[u8], shared: impl FnOnce() -> Option<RuleAnswer>) -> Option<RuleAnswer> {
    WORKER_CACHE.with_borrow_mut(|worker_cache| {
        let index = (worker_cache.hasher.hash_one(key) % ANSWERS_MAX as u64) as usize;
        let slot = worker_cache.slots.get_mut(index)?;
        match slot {
            Some(known) if *known.key == *key && known.uses_left > 0 => {
                known.uses_left -= 1;
                Some(known.answer.clone())
            }
            _ => {
                let answer = shared()?;
                *slot = Some(HotVerdict { key: key.into(), answer: own(&answer), uses_left: USES_MAX });
                Some(answer)
            }
        }
    })
}

/// A copy without shared parts: a shared reference count would be written by all workers.
fn own(answer: &RuleAnswer) -> RuleAnswer {
    match answer {
        RuleAnswer::Deny(Some(message)) => RuleAnswer::Deny(Some(message.as_ref().into())),
        RuleAnswer::Allow { .. } | RuleAnswer::Deny(None) | RuleAnswer::Abstain => answer.clone(),
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn hot_answer_is_looked_up_in_the_map_periodically() {
        let mut map_lookups = 0;
        for _ in 0..2 * (usize::from(USES_MAX) + 1) + 1 {
            let answer = find(b"the same key", || {
                map_lookups += 1;
                Some(RuleAnswer::ALLOW)
            });
            assert_eq!(answer, Some(RuleAnswer::ALLOW));
        }
        assert_eq!(map_lookups, 3);
        assert_eq!(find(b"the same key", || None), Some(RuleAnswer::ALLOW), "cached, although the map has evicted it");
        let answers: Vec<_> = (0..USES_MAX).map(|_| find(b"the same key", || None)).collect();
        assert_eq!(answers.last(), Some(&None), "looked up in the map again");
    }

    #[test]
    fn keys_in_the_same_slot_get_their_own_answers() {
        let keys: Vec<_> = (0..20 * ANSWERS_MAX).map(|number| number.to_string().into_bytes()).collect();
        let answer = |key: &[u8]| RuleAnswer::Deny(Some(String::from_utf8_lossy(key).into()));
        for _ in 0..3 {
            for key in &keys {
                assert_eq!(find(key, || Some(answer(key))), Some(answer(key)));
            }
        }
        assert_eq!(find(b"never kept", || None), None);
    }
}
