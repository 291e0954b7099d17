//! The functions that a rule may call. [`callable`](super::callable) lists their names.
//!
//! Each function checks its limits before it allocates. None of them has side effects besides the
//! record of reads.

use std::sync::Arc;

use rhai::{Array, Dynamic, Engine, EvalAltResult, INT, ImmutableString, Map};

use super::data::RuleData;
use super::engine::{fault, keys};
use super::input::{InputValues, RequestPart};
use super::run::{HostFault, ScriptAnswer};
use super::{MESSAGE_LEN_MAX, RuleErrorKind, RuleLimits};

use crate::origin::suffix;
use crate::verdict::RuleTerms;

/// The value `req` of a script. A clone refers to the same request.
#[derive(Debug, Clone)]
pub(super) struct ScriptRequest(pub(super) Arc<InputValues>);

type Outcome<T> = Result<T, Box<EvalAltResult>>;

/// The longest time that Firefox caches a preflight, in seconds. A policy has the same limit.
const MAX_AGE_SECONDS_MAX: INT = 86_400;

pub(super) fn register(engine: &mut Engine, data: &Arc<RuleData>, limits: &RuleLimits) {
    register_req(engine);
    register_answers(engine);
    register_hosts(engine);
    register_data(engine, data);
    register_texts(engine, *limits);
    register_operators(engine, *limits);
}

fn text(value: Option<&str>) -> ImmutableString {
    value.unwrap_or_default().into()
}

fn optional(value: Option<&str>) -> Dynamic {
    value.map_or(Dynamic::UNIT, |value| ImmutableString::from(value).into())
}

fn register_req(engine: &mut Engine) {
    engine.register_type_with_name::<ScriptRequest>("Req");
    let fields = [
        ("origin", RequestPart::Origin),
        ("scheme", RequestPart::Scheme),
        ("host", RequestPart::Host),
        ("tenant", RequestPart::Tenant),
        ("route", RequestPart::Route),
        ("method", RequestPart::Method),
        ("path", RequestPart::Path),
        ("kind", RequestPart::Kind),
        ("api_host", RequestPart::ApiHost),
    ];
    for (name, part) in fields {
        engine.register_get(name, move |req: &mut ScriptRequest| text(req.0.read(part)));
    }
    engine.register_get("port", |req: &mut ScriptRequest| -> INT {
        req.0.read(RequestPart::Port).and_then(|port| port.parse().ok()).unwrap_or_default()
    });
    engine.register_get("requested_headers", |req: &mut ScriptRequest| -> Array {
        let list = req.0.read(RequestPart::RequestedHeaders).unwrap_or_default();
        list.split(',').filter(|name| !name.is_empty()).map(|name| ImmutableString::from(name).into()).collect()
    });
    engine.register_fn("header", |req: &mut ScriptRequest, name: &str| {
        read_listed(req, req.0.header(name), "header", name)
    });
    engine.register_fn("query", |req: &mut ScriptRequest, key: &str| {
        read_listed(req, req.0.query(key), "query key", key)
    });
}

fn read_listed(req: &ScriptRequest, part: Option<RequestPart>, what: &str, name: &str) -> Outcome<Dynamic> {
    match part {
        Some(part) => Ok(optional(req.0.read(part))),
        None => {
            let message = format!("the {what} `{name}` is not listed, expected it in the policy's `rule`");
            Err(fault(HostFault { kind: RuleErrorKind::Unlisted, message }))
        }
    }
}

fn register_answers(engine: &mut Engine) {
    engine.register_type_with_name::<ScriptAnswer>("Answer");
    engine.register_fn("allow", || ScriptAnswer::Allow(None, RuleTerms::NONE));
    engine.register_fn("allow", |options: Map| -> Outcome<ScriptAnswer> {
        Ok(ScriptAnswer::Allow(group_of(&options)?, terms_of(&options)?))
    });
    engine.register_fn("deny", || ScriptAnswer::Deny(None));
    engine.register_fn("deny", |reason: &str| ScriptAnswer::Deny(Some(message(reason))));
}

fn option_fault(message: impl Into<String>) -> Box<EvalAltResult> {
    fault(HostFault { kind: RuleErrorKind::Result, message: message.into() })
}

fn group_of(map: &Map) -> Outcome<Option<ImmutableString>> {
    match map.get("group").map(Dynamic::as_immutable_string_ref) {
        None => Ok(None),
        Some(Ok(name)) => Ok(Some(name.clone())),
        Some(Err(_)) => Err(option_fault("invalid `group`, expected the name of a group")),
    }
}

fn terms_of(map: &Map) -> Outcome<RuleTerms> {
    if let Some(unknown) = keys(map).find(|key| !["group", "maxAge", "credentials"].contains(key)) {
        return Err(option_fault(format!(
            "`allow` has no option `{unknown}`, expected `group`, `maxAge` or `credentials`"
        )));
    }
    let max_age_seconds = match map.get("maxAge") {
        None => None,
        Some(value) => match value.as_int() {
            Ok(seconds @ 0..=MAX_AGE_SECONDS_MAX) => u32::try_from(seconds).ok(),
            _ => {
                let why = format!("invalid `maxAge`, expected seconds from 0 to {MAX_AGE_SECONDS_MAX}");
                return Err(option_fault(why));
            }
        },
    };
    let without_credentials = match map.get("credentials").map(Dynamic::as_bool) {
        None | Some(Ok(true)) => false,
        Some(Ok(false)) => true,
        Some(Err(_)) => return Err(option_fault("invalid `credentials`, expected true or false")),
    };
    Ok(RuleTerms { max_age_seconds, without_credentials })
}

/// Prepares the message of a denial: truncated at a character, without control characters.
fn message(text: &str) -> Arc<str> {
    let end = (0..=MESSAGE_LEN_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    let cut = text.get(..end.unwrap_or_default()).unwrap_or_default();
    cut.chars().map(|character| if character.is_control() { ' ' } else { character }).collect::<String>().into()
}

fn register_hosts(engine: &mut Engine) {
    engine.register_fn("host_under", is_under);
    engine.register_fn("label", |host: &str, n: INT| {
        let index = usize::try_from(n).ok();
        optional(index.and_then(|index| host.split('.').nth(index)).filter(|_| !is_address(host)))
    });
    engine.register_fn("registrable_domain", |host: &str| {
        optional(suffix::registrable_domain(host).filter(|_| !is_address(host)))
    });
    engine.register_fn("glob", glob);
}

/// Whether a host is a domain or one of its subdomains. Only whole labels match.
fn is_under(host: &str, domain: &str) -> bool {
    let before = host.strip_suffix(domain);
    !domain.is_empty() && before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}

/// Whether a whole string matches a pattern, in which `*` stands for any bytes and `?` for one. The
/// match goes back only to the last star, so its time is at most the product of both lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, t + 1),
            Some(wanted) if wanted == byte => (p, t) = (p + 1, t + 1),
            Some(_) | None => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

fn register_data(engine: &mut Engine, data: &Arc<RuleData>) {
    let sets = Arc::clone(data);
    engine.register_fn("in_set", move |name: &str, value: &str| sets.contains(name, value));
    let tables = Arc::clone(data);
    engine.register_fn("lookup", move |name: &str, key: &str| optional(tables.lookup(name, key)));
}

fn int(len: usize) -> INT {
    INT::try_from(len).unwrap_or(INT::MAX)
}

fn too_large(what: &str, max: usize) -> Box<EvalAltResult> {
    fault(HostFault { kind: RuleErrorKind::Size, message: format!("{what} is too large, expected at most {max}") })
}

fn register_texts(engine: &mut Engine, limits: RuleLimits) {
    engine.register_fn("len", |text: &str| int(text.chars().count()));
    engine.register_fn("len", |array: &mut Array| int(array.len()));
    engine.register_fn("len", |map: &mut Map| int(map.len()));
    engine.register_fn("is_empty", |text: &str| text.is_empty());
    engine.register_fn("is_empty", |array: &mut Array| array.is_empty());
    engine.register_fn("contains", |text: &str, part: &str| text.contains(part));
    engine.register_fn("contains", |array: &mut Array, text: &str| {
        array.iter().any(|item| item.as_immutable_string_ref().is_ok_and(|item| **item == *text))
    });
    engine.register_fn("contains", |array: &mut Array, n: INT| array.iter().any(|item| item.as_int() == Ok(n)));
    engine.register_fn("contains", |map: &mut Map, key: &str| map.contains_key(key));
    engine.register_fn("contains", |range: &mut std::ops::Range<INT>, n: INT| range.contains(&n));
    engine.register_fn("contains", |range: &mut std::ops::RangeInclusive<INT>, n: INT| range.contains(&n));
    engine.register_fn("starts_with", |text: &str, part: &str| text.starts_with(part));
    engine.register_fn("ends_with", |text: &str, part: &str| text.ends_with(part));
    engine.register_fn("index_of", |text: &str, part: &str| -> INT {
        text.find(part).and_then(|at| text.get(..at)).map_or(-1, |before| int(before.chars().count()))
    });
    engine.register_fn("sub_string", |text: &str, start: INT| piece(text, start, INT::MAX));
    engine.register_fn("sub_string", piece);
    engine.register_fn("is_number", |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    engine.register_fn("to_lower", |text: &str| ImmutableString::from(text.to_lowercase()));
    engine.register_fn("to_upper", |text: &str| ImmutableString::from(text.to_uppercase()));
    engine.register_fn("trim", |text: &str| ImmutableString::from(text.trim()));
    engine.register_fn("before", |text: &str, mark: &str| optional(text.split_once(mark).map(|(before, _)| before)));
    engine.register_fn("after", |text: &str, mark: &str| optional(text.split_once(mark).map(|(_, after)| after)));
    engine.register_fn("split", move |text: &str, mark: &str| -> Outcome<Array> {
        let pieces = text.split(mark).take(limits.array_len + 1);
        let array: Array = pieces.map(|piece| ImmutableString::from(piece).into()).collect();
        if array.len() > limits.array_len { Err(too_large("the array", limits.array_len)) } else { Ok(array) }
    });
    engine.register_fn("to_string", |text: &str| ImmutableString::from(text));
    engine.register_fn("to_string", |n: INT| ImmutableString::from(n.to_string()));
    engine.register_fn("to_string", |flag: bool| ImmutableString::from(flag.to_string()));
    engine.register_fn("to_string", |(): ()| ImmutableString::new());
}

fn piece(text: &str, start: INT, len: INT) -> ImmutableString {
    let (start, len) = (usize::try_from(start).unwrap_or(0), usize::try_from(len).unwrap_or(0));
    text.chars().skip(start).take(len).collect::<String>().into()
}

/// Registers operators that the raw engine does not have.
fn register_operators(engine: &mut Engine, limits: RuleLimits) {
    engine.register_fn("!", |flag: bool| !flag);
    engine.register_fn("-", |n: INT| n.checked_neg().ok_or_else(overflow));
    let join = move |text: &str, more: &str| -> Outcome<ImmutableString> {
        let is_small = text.len() + more.len() <= limits.string_len;
        if is_small { Ok([text, more].concat().into()) } else { Err(too_large("the string", limits.string_len)) }
    };
    engine.register_fn("+", move |text: &str, n: INT| join(text, &n.to_string()));
    engine.register_fn("+", move |n: INT, text: &str| join(&n.to_string(), text));
}

fn overflow() -> Box<EvalAltResult> {
    fault(HostFault {
        kind: RuleErrorKind::Runtime,
        message: "the number is too large, expected a smaller one".to_owned(),
    })
}
