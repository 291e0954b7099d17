//! The answers that one worker gives again and again, beside the map that all workers share.
//!
//! To look into the shared map is to write to one of its locks, and all that ask for the same key write to the same one. So each
//! worker remembers a few answers by itself. Keys have the number of the compiled rule in them, so what is remembered here is as
//! true as what is in the map. From time to time an answer is looked for in the map all the same, which tells it there that the
//! answer is still used, and here that it is gone.

use std::cell::RefCell;

use ahash::RandomState;
use crossgate_policy::Answer;

/// Answers that one worker remembers. A place is found by the key's hash, and whoever comes later has it.
const ANSWERS_MAX: usize = 64;

/// How often an answer is given before it is looked for in the map again.
const USES_MAX: u8 = 63;

struct Hot {
    // With random keys: clients choose what is hashed.
    hasher: RandomState,
    places: [Option<Remembered>; ANSWERS_MAX],
}

struct Remembered {
    key: Box<[u8]>,
    answer: Answer,
    uses_left: u8,
}

thread_local! {
    static HOT: RefCell<Hot> = RefCell::new(Hot { hasher: RandomState::new(), places: [const { None }; ANSWERS_MAX] });
}

/// The answer under `key`, which `shared` looks for in the map.
pub(super) fn find(key: &[u8], shared: impl FnOnce() -> Option<Answer>) -> Option<Answer> {
    HOT.with_borrow_mut(|hot| {
        let index = (hot.hasher.hash_one(key) % ANSWERS_MAX as u64) as usize;
        let place = hot.places.get_mut(index)?;
        match place {
            Some(known) if *known.key == *key && known.uses_left > 0 => {
                known.uses_left -= 1;
                Some(known.answer.clone())
            }
            _ => {
                let answer = shared()?;
                *place = Some(Remembered { key: key.into(), answer: own(&answer), uses_left: USES_MAX });
                Some(answer)
            }
        }
    })
}

/// A copy that shares nothing: what is shared is counted where all that hold it write.
fn own(answer: &Answer) -> Answer {
    match answer {
        Answer::Deny(Some(message)) => Answer::Deny(Some(message.as_ref().into())),
        Answer::Allow(_) | Answer::Deny(None) | Answer::Abstain => answer.clone(),
    }
}

#[cfg(test)]
mod tests {
    use crossgate_policy::Terms;

    use super::*;

    const ALLOW: Answer = Answer::Allow(Terms::NONE);

    #[test]
    fn the_map_is_asked_once_in_so_many_uses() {
        let mut asked = 0;
        for _ in 0..2 * (usize::from(USES_MAX) + 1) + 1 {
            let answer = find(b"the same key", || {
                asked += 1;
                Some(ALLOW)
            });
            assert_eq!(answer, Some(ALLOW));
        }
        assert_eq!(asked, 3);
        assert_eq!(find(b"the same key", || None), Some(ALLOW), "remembered, though it is gone from the map");
        let answers: Vec<_> = (0..USES_MAX).map(|_| find(b"the same key", || None)).collect();
        assert_eq!(answers.last(), Some(&None), "not for ever");
    }

    #[test]
    fn keys_that_share_a_place_get_their_own_answers() {
        let keys: Vec<_> = (0..20 * ANSWERS_MAX).map(|number| number.to_string().into_bytes()).collect();
        let answer = |key: &[u8]| Answer::Deny(Some(String::from_utf8_lossy(key).into()));
        for _ in 0..3 {
            for key in &keys {
                assert_eq!(find(key, || Some(answer(key))), Some(answer(key)));
            }
        }
        assert_eq!(find(b"never kept", || None), None);
    }
}
