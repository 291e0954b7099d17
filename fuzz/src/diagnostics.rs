//! Checks of the diagnostics for invalid files.

use crossgate_config::diagnostics::{Diagnostic, Diagnostics};

/// The longest message.
const MESSAGE_CHARS_MAX: usize = 1_010;

/// Asserts that the number and length of diagnostics is limited, and that each is located in the
/// text and safe to print.
pub(crate) fn check(found: &Diagnostics, text: &str) {
    assert!(found.len() <= 1_001);
    let lines = text.split(['\n', '\r']).count();
    found.iter().for_each(|one| check_one(one, lines));
    let shown = found.to_string();
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
    assert!(serde_json::to_string(found).is_ok_and(|json| json.starts_with('[')));
}

fn check_one(one: &Diagnostic, lines: usize) {
    let place = &one.place;
    let is_in = (1..=lines + 1).contains(&(place.line as usize)) && place.column > 0 && one.width > 0;
    let message_len = one.message.chars().count();
    assert!(is_in && (1..=MESSAGE_CHARS_MAX).contains(&message_len), "{one:?}");
}
