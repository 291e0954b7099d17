//! The W3C trace context of a request: `traceparent` and `tracestate`.
//!
//! The gateway is no part of a trace: it makes no span, so what it is given goes on to the upstream as it is, from whoever it comes, since
//! nothing here hangs on it. What is malformed is not passed on, and neither is a `tracestate` without its `traceparent`
//! (<https://www.w3.org/TR/trace-context/#processing-model-for-working-with-trace-context>). The trace's id is in the access log.

use crossgate_policy::Field;

/// Version, the trace's id, its parent's id, flags, and dashes between. Later versions may go on after another dash.
const LEN: usize = 55;

/// The id of the trace that a request belongs to, if its `traceparent` is well-formed: 32 hexadecimal digits in lower case.
pub fn trace_id(traceparent: Field<'_>) -> Option<&str> {
    let Field::One(value) = traceparent else { return None };
    let (known, more) = value.split_at_checked(LEN)?;
    let mut parts = known.split(|byte| *byte == b'-');
    let mut digits = |len: usize| parts.next().filter(|part| part.len() == len && part.iter().all(is_lower_hex));
    let (version, trace, parent, _flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    let is_version = match version {
        b"00" => more.is_empty(),
        b"ff" => false,
        _ => matches!(more.first(), None | Some(b'-')),
    };
    std::str::from_utf8(trace).ok().filter(|_| is_version && is_id(trace) && is_id(parent))
}

/// Whether a field is one of the trace context.
pub fn is_part(name: &str) -> bool {
    matches!(name, "traceparent" | "tracestate")
}

fn is_lower_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// All zeros stand for no id.
fn is_id(digits: &[u8]) -> bool {
    digits.iter().any(|digit| *digit != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[track_caller]
    fn check(value: &str, expected: Option<&str>) {
        assert_eq!(trace_id(Field::One(value.as_bytes())), expected, "{value}");
    }

    #[test]
    fn two_fields_are_its_parts() {
        assert_eq!(["traceparent", "tracestate", "tracestat", "baggage"].map(is_part), [true, true, false, false]);
    }

    #[test]
    fn what_is_well_formed_tells_its_trace() {
        check(&format!("00-{ID}-00f067aa0ba902b7-01"), Some(ID));
        check(&format!("00-{ID}-00f067aa0ba902b7-ff"), Some(ID));
        check(&format!("cc-{ID}-00f067aa0ba902b7-01"), Some(ID));
        check(&format!("cc-{ID}-00f067aa0ba902b7-01-what-will-be"), Some(ID));
    }

    #[test]
    fn near_misses_tell_none() {
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
        assert_eq!((trace_id(Field::Absent), trace_id(Field::Many)), (None, None));
    }
}
