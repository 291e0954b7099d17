//! Engines with one mistake each that is known from other implementations. A check that accepts one
//! of them proves nothing.

use crossgate_policy::Policy;

use super::browser::SentRequest;
use super::{Answer, answer};

type Engine = fn(&Policy, &SentRequest) -> Answer;

/// The mistake of each engine, and its responses.
pub(crate) const BROKEN: [(&str, Engine); 16] = [
    ("takes a suffix without its dot", |policy, sent| {
        if is_from(sent, |origin| origin.ends_with("b.test")) {
            answer_for("https://x.b.test", policy, sent)
        } else {
            answer(policy, sent)
        }
    }),
    ("takes a prefix", |policy, sent| {
        if is_from(sent, |origin| origin.starts_with("https://a.test")) {
            answer_for("https://a.test", policy, sent)
        } else {
            answer(policy, sent)
        }
    }),
    ("takes http for https", |policy, sent| {
        let upgraded = sent.origin.as_ref().map(|origin| origin.replace("http://", "https://"));
        answer_for(&upgraded.unwrap_or_default(), policy, sent)
    }),
    ("reflects any origin", reflect),
    ("allows null", |policy, sent| {
        if is_from(sent, |origin| origin == "null") { reflect(policy, sent) } else { answer(policy, sent) }
    }),
    ("sends a star with credentials", |policy, sent| {
        let answer = answer(policy, sent);
        if has(&answer, "access-control-allow-credentials") { with(answer, ALLOW_ORIGIN, "*") } else { answer }
    }),
    ("sends the first origin to every page", |policy, sent| {
        let answer = answer(policy, sent);
        if has(&answer, ALLOW_ORIGIN) { with(answer, ALLOW_ORIGIN, "https://a.test") } else { answer }
    }),
    ("forgets the credentials", |policy, sent| without(answer(policy, sent), "access-control-allow-credentials")),
    ("drops Vary", |policy, sent| without(answer(policy, sent), "vary")),
    ("varies only for requests of pages", |policy, sent| {
        let answer = answer(policy, sent);
        if sent.origin.is_none() { without(answer, "vary") } else { answer }
    }),
    ("takes methods of any case", |policy, sent| {
        let upper = sent.requested_method.as_ref().map(|method| method.to_ascii_uppercase());
        let answer = answer(policy, &SentRequest { requested_method: upper, ..sent.clone() });
        echo(answer, "access-control-allow-methods", sent.requested_method.as_deref())
    }),
    ("does not check headers", |policy, sent| {
        let answer = answer(policy, &SentRequest { requested_headers: None, ..sent.clone() });
        echo(answer, "access-control-allow-headers", sent.requested_headers.as_deref())
    }),
    ("exposes what is not listed", |policy, sent| {
        let answer = answer(policy, sent);
        if has(&answer, ALLOW_ORIGIN) { echo(answer, "access-control-expose-headers", Some("x-c")) } else { answer }
    }),
    ("leaves the methods out where one is refused", |policy, sent| {
        let answer = answer(policy, sent);
        if is_refusal(&answer) { without(answer, "access-control-allow-methods") } else { answer }
    }),
    ("lists the refused method", |policy, sent| {
        let answer = answer(policy, sent);
        let method = sent.requested_method.as_deref().filter(|_| is_refusal(&answer));
        echo(answer, "access-control-allow-methods", method)
    }),
    ("sends a star where authorization is refused", |policy, sent| {
        let answer = answer(policy, sent);
        let requests_it = sent.requested_headers.as_deref().is_some_and(|names| names.contains("authorization"));
        let is_listed = answer.fields.iter().any(|(_, value)| value.contains("authorization"));
        if is_refusal(&answer) && requests_it && !is_listed {
            with(answer, "access-control-allow-headers", "*")
        } else {
            answer
        }
    }),
];

const ALLOW_ORIGIN: &str = "access-control-allow-origin";

fn is_from(sent: &SentRequest, matches: impl Fn(&str) -> bool) -> bool {
    sent.origin.as_deref().is_some_and(matches)
}

/// Returns the response for another origin, with this request's origin in it.
fn answer_for(origin: &str, policy: &Policy, sent: &SentRequest) -> Answer {
    let Some(own) = &sent.origin else { return answer(policy, sent) };
    let mut answer = answer(policy, &SentRequest { origin: Some(origin.to_owned()), ..sent.clone() });
    for (_, value) in answer.fields.iter_mut().filter(|(_, value)| value == origin) {
        value.clone_from(own);
    }
    answer
}

fn reflect(policy: &Policy, sent: &SentRequest) -> Answer {
    let allowed = ["https://a.test", "https://x.b.test"].map(|origin| answer_for(origin, policy, sent));
    let found = allowed.into_iter().find(|answer| has(answer, ALLOW_ORIGIN));
    found.unwrap_or_else(|| answer(policy, sent))
}

fn has(answer: &Answer, name: &str) -> bool {
    answer.fields.iter().any(|(one, _)| one == name)
}

/// Whether the answer explains a refusal.
fn is_refusal(answer: &Answer) -> bool {
    answer.fields.contains(&("access-control-max-age".to_owned(), "0".to_owned()))
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

/// Adds a requested value to a response that allows the request.
fn echo(mut answer: Answer, name: &str, sent: Option<&str>) -> Answer {
    if let (204, Some(sent)) = (answer.status, sent) {
        answer.fields.push((name.to_owned(), sent.to_owned()));
    }
    answer
}
