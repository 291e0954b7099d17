//! Configured entries, one per line, and an origin in the last line.

use crossgate_policy::{DangerousSwitches, PolicySpec};

use crate::matcher;
use crate::policies::{check, compile, decide};

/// More entries add no new cases.
const ENTRIES_MAX: usize = 8;

/// Every entry is refused, or it prints back as written and allows exactly the origins that the
/// oracle's matcher accepts.
///
/// # Panics
/// If this does not hold.
pub fn pattern(bytes: &[u8]) {
    let mut lines = bytes.rsplitn(2, |byte| *byte == b'\n');
    let (origin, entries) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let Ok(text) = std::str::from_utf8(entries) else { return };
    let entries: Vec<&str> = text.split('\n').take(ENTRIES_MAX).collect();
    entries.iter().for_each(|entry| check_alone(entry, origin));
    let good: Vec<&str> = entries.iter().copied().filter(|entry| compile(&spec(&[entry])).is_some()).collect();
    if let Some(policy) = compile(&spec(&good)) {
        check(&policy, &good, origin);
    }
}

fn check_alone(entry: &str, origin: &[u8]) {
    let Some(policy) = compile(&spec(&[entry])) else { return };
    let all = (0..).map(crossgate_policy::EntryId::Template).take(policy.entry_counts().template);
    assert_eq!(all.map(|id| policy.entry_text(id)).collect::<Vec<_>>(), [entry]);
    check(&policy, &[entry], origin);
    if entry.contains("://") {
        // The shortest text that a star matches, and texts that it never matches.
        let filled = |star: &str| entry.replacen(":*", ":77", 1).replacen('*', star, 1).into_bytes();
        assert!(decide(&policy, &filled("a")).is_allowed(), "{entry}");
        ["", "a/b", "a:1", ".", "a@b", "A"].iter().for_each(|star| check(&policy, &[entry], &filled(star)));
    }
    check_with_credentials(entry, origin);
}

/// Asserts that a policy with credentials allows no other origins, and plain `http` only from this
/// machine.
fn check_with_credentials(entry: &str, origin: &[u8]) {
    let strict = PolicySpec { allow_credentials: true, dangerously: DangerousSwitches::default(), ..spec(&[entry]) };
    let Some(policy) = compile(&strict) else { return };
    assert!(entry != "*" && entry != "null");
    if decide(&policy, origin).is_allowed() {
        let text = std::str::from_utf8(origin).unwrap_or_default();
        assert!(matcher::covers(entry, text), "{entry} for {text}");
        let host = text.strip_prefix("http://").map(|rest| rest.split(':').next().unwrap_or_default());
        let is_own = |host: &str| host.ends_with("localhost") || host.starts_with("127.") || text.contains("//[::1]");
        assert!(host.is_none_or(is_own), "{text}");
    }
}

fn spec(entries: &[&str]) -> PolicySpec {
    PolicySpec {
        allow_origins: crate::policies::owned(entries),
        dangerously: DangerousSwitches { allow_null: true, ..DangerousSwitches::default() },
        ..PolicySpec::default()
    }
}
