//! The W3C trace context of a request: `traceparent` and `tracestate`.
//!
//! The gateway creates no spans. It forwards a valid `traceparent` unchanged from any sender, since
//! no decision depends on it, and logs the trace id. A malformed `traceparent` is removed, and so
//! is a `tracestate` without its `traceparent`
//! (<https://www.w3.org/TR/trace-context/#processing-model-for-working-with-trace-context>).

use crossgate_policy::RequestField;

use crate::fields::is_named;

/// The length of version, trace id, parent id and flags with the dashes between them. Later
/// versions may continue after another dash.
const LEN: usize = 55;

/// The trace id of a well-formed `traceparent`: 32 hexadecimal digits in lower case.
pub fn trace_id(traceparent: RequestField<'_>) -> Option<&str> {
    let RequestField::One(value) = traceparent else { return None };
    let (known, more) = value.split_at_checked(LEN)?;
    let mut parts = known.split(|byte| *byte == b'-');
    let mut digits = |len: usize| parts.next().filter(|part| part.len() == len && part.iter().all(is_lower_hex));
    let (version, trace, parent, _flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    let is_version = match version {
        b"00" => more.is_empty(),
        // Trace Context, section 3.2.2.1: version ff is invalid.
        b"ff" => false,
        _ => matches!(more.first(), None | Some(b'-')),
    };
    std::str::from_utf8(trace).ok().filter(|_| is_version && is_id(trace) && is_id(parent))
}

/// Whether a field is part of the trace context. The name may be in any case.
pub fn is_part(name: &[u8]) -> bool {
    let is = |other: &str| is_named(name, other);
    match name.len() {
        10 => is("tracestate"),
        11 => is("traceparent"),
        _ => false,
    }
}

fn is_lower_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Whether an id is valid. All zeros mark an invalid id.
fn is_id(digits: &[u8]) -> bool {
    digits.iter().any(|digit| *digit != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[track_caller]
    fn check(value: &str, expected: Option<&str>) {
        assert_eq!(trace_id(RequestField::One(value.as_bytes())), expected, "{value}");
    }

    #[test]
    fn traceparent_and_tracestate_are_trace_context_fields() {
        let names = ["traceparent", "TraceState", "tracestat", "baggage"];
        assert_eq!(names.map(|name| is_part(name.as_bytes())), [true, true, false, false]);
    }

    #[test]
    fn well_formed_traceparent_gives_the_trace_id() {
        check(&format!("00-{ID}-00f067aa0ba902b7-01"), Some(ID));
        check(&format!("00-{ID}-00f067aa0ba902b7-ff"), Some(ID));
        check(&format!("cc-{ID}-00f067aa0ba902b7-01"), Some(ID));
        check(&format!("cc-{ID}-00f067aa0ba902b7-01-what-will-be"), Some(ID));
    }

    #[test]
    fn malformed_traceparent_gives_no_trace_id() {
        for value in [
            "",
            "00",
            &format!("00-{ID}-00f067aa0ba902b7"),
            &format!("00-{ID}-00f067aa0ba902b7-1"),
            &format!("00-{ID}-00f067aa0ba902b7-011"),
            &format!("00-{ID}-00f067aa0ba902b7-01-more"),
            &format!("cc-{ID}-00f067aa0ba902b7-01.more"),
            &format!("ff-{ID}-00f067aa0ba902b7-01"),
            &format!("0-0{ID}-00f067aa0ba902b7-01"),
            &format!("00_{ID}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", ID.to_ascii_uppercase()),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{ID}-{}-01", "0".repeat(16)),
            &format!("00-{}-00f067aa0ba902b7-01", ID.replacen('4', "g", 1)),
            &format!("00-{ID}-00f067aa0ba902b7-0\u{e9}"),
            &format!(" 00-{ID}-00f067aa0ba902b7-01"),
        ] {
            check(value, None);
        }
        assert_eq!((trace_id(RequestField::Absent), trace_id(RequestField::Many)), (None, None));
    }
}
