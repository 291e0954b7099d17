//! Engines that each make one mistake that has been made elsewhere: what lets one of them pass proves nothing.

use crossgate_policy::Policy;

use super::browser::Asked;
use super::{Answer, answer};

type Engine = fn(&Policy, &Asked) -> Answer;

/// What each does wrong, and how it answers.
pub(crate) const BROKEN: [(&str, Engine); 13] = [
    ("takes a suffix without its dot", |policy, asked| {
        if is_from(asked, |origin| origin.ends_with("b.test")) {
            in_the_name_of("https://x.b.test", policy, asked)
        } else {
            answer(policy, asked)
        }
    }),
    ("takes a prefix", |policy, asked| {
        if is_from(asked, |origin| origin.starts_with("https://a.test")) {
            in_the_name_of("https://a.test", policy, asked)
        } else {
            answer(policy, asked)
        }
    }),
    ("takes http for https", |policy, asked| {
        let upgraded = asked.origin.as_ref().map(|origin| origin.replace("http://", "https://"));
        in_the_name_of(&upgraded.unwrap_or_default(), policy, asked)
    }),
    ("reflects any origin", reflect),
    ("allows null", |policy, asked| {
        if is_from(asked, |origin| origin == "null") { reflect(policy, asked) } else { answer(policy, asked) }
    }),
    ("sends a star with credentials", |policy, asked| {
        let answer = answer(policy, asked);
        if has(&answer, "access-control-allow-credentials") { with(answer, ALLOW_ORIGIN, "*") } else { answer }
    }),
    ("sends the first origin to everybody", |policy, asked| {
        let answer = answer(policy, asked);
        if has(&answer, ALLOW_ORIGIN) { with(answer, ALLOW_ORIGIN, "https://a.test") } else { answer }
    }),
    ("forgets the credentials", |policy, asked| without(answer(policy, asked), "access-control-allow-credentials")),
    ("drops Vary", |policy, asked| without(answer(policy, asked), "vary")),
    ("varies only for requests of pages", |policy, asked| {
        let answer = answer(policy, asked);
        if asked.origin.is_none() { without(answer, "vary") } else { answer }
    }),
    ("takes methods of any case", |policy, asked| {
        let upper = asked.requested_method.as_ref().map(|method| method.to_ascii_uppercase());
        let answer = answer(policy, &Asked { requested_method: upper, ..asked.clone() });
        echo(answer, "access-control-allow-methods", asked.requested_method.as_deref())
    }),
    ("does not check headers", |policy, asked| {
        let answer = answer(policy, &Asked { requested_headers: None, ..asked.clone() });
        echo(answer, "access-control-allow-headers", asked.requested_headers.as_deref())
    }),
    ("exposes what is not listed", |policy, asked| {
        let answer = answer(policy, asked);
        if has(&answer, ALLOW_ORIGIN) { echo(answer, "access-control-expose-headers", Some("x-c")) } else { answer }
    }),
];

const ALLOW_ORIGIN: &str = "access-control-allow-origin";

fn is_from(asked: &Asked, is_meant: impl Fn(&str) -> bool) -> bool {
    asked.origin.as_deref().is_some_and(is_meant)
}

/// What another origin would be answered, under this one's name.
fn in_the_name_of(origin: &str, policy: &Policy, asked: &Asked) -> Answer {
    let Some(own) = &asked.origin else { return answer(policy, asked) };
    let mut answer = answer(policy, &Asked { origin: Some(origin.to_owned()), ..asked.clone() });
    for (_, value) in answer.fields.iter_mut().filter(|(_, value)| value == origin) {
        value.clone_from(own);
    }
    answer
}

fn reflect(policy: &Policy, asked: &Asked) -> Answer {
    let allowed = ["https://a.test", "https://x.b.test"].map(|origin| in_the_name_of(origin, policy, asked));
    let found = allowed.into_iter().find(|answer| has(answer, ALLOW_ORIGIN));
    found.unwrap_or_else(|| answer(policy, asked))
}

fn has(answer: &Answer, name: &str) -> bool {
    answer.fields.iter().any(|(one, _)| one == name)
}

fn without(mut answer: Answer, name: &str) -> Answer {
    answer.fields.retain(|(one, _)| one != name);
    answer
}

fn with(answer: Answer, name: &str, value: &str) -> Answer {
    let mut answer = without(answer, name);
    answer.fields.push((name.to_owned(), value.to_owned()));
    answer
}

/// Adds what was asked for to an answer that allows.
fn echo(mut answer: Answer, name: &str, asked: Option<&str>) -> Answer {
    if let (204, Some(asked)) = (answer.status, asked) {
        answer.fields.push((name.to_owned(), asked.to_owned()));
    }
    answer
}
