//! Corrections of likely mistakes, for the ends of messages.
//!
//! Each function detects one mistake in one text. Callers parse a suggested value before they
//! suggest it, so that no suggestion is refused in turn.

use super::node::YamlValue;
use super::scalars;
use super::sections::is_key;

/// Words of other tools for values of the schema.
const SYNONYMS: &[(&str, &str)] = &[("h2c", "Http2"), ("h2", "Http2"), ("grpc", "Http2"), ("h1", "Http1")];

/// The choice that a word of another tool stands for.
pub(super) fn find_synonym<'c>(word: &str, choices: &[&'c str]) -> Option<&'c str> {
    let (_, meant) = SYNONYMS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word))?;
    choices.iter().copied().find(|choice| choice == meant)
}

/// Whether two words differ only in their digits, as `Tls11` and `Tls12` do. This is not a typing
/// mistake.
pub(super) fn is_other_number(word: &str, other: &str) -> bool {
    let is_digit_of = |(a, b): (char, char)| a.eq_ignore_ascii_case(&b) || (a.is_ascii_digit() && b.is_ascii_digit());
    word.len() == other.len() && !word.eq_ignore_ascii_case(other) && word.chars().zip(other.chars()).all(is_digit_of)
}

/// A placeholder that another tool would replace.
pub(super) fn find_placeholder(text: &str) -> Option<&str> {
    for (open, close) in [("${", "}"), ("{{", "}}")] {
        if let Some(start) = text.find(open) {
            let rest = text.get(start..)?;
            return rest.find(close).and_then(|end| rest.get(..end + close.len())).or(Some(rest));
        }
    }
    let name = text.strip_prefix('$')?;
    let is_variable = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    is_variable.then_some(text)
}

/// The message about a placeholder.
pub(super) fn placeholder_message(placeholder: &str) -> String {
    format!("placeholder {} is not replaced; write the value itself", super::show_text(placeholder))
}

/// The scheme and the authority of a URL.
pub(super) fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (!scheme.is_empty() && !authority.is_empty() && !authority.contains('@')).then_some((scheme, authority))
}

/// A host or address without the path after it.
pub(super) fn strip_path(text: &str) -> Option<&str> {
    text.split_once('/').map(|(before, _)| before).filter(|before| !before.is_empty())
}

/// The parts of `key:value` without a space after the colon, if the key is known.
pub(super) fn split_without_space(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once(':')?;
    (is_key(key) && !value.is_empty() && !value.starts_with([' ', '\t', '\r'])).then_some((key, value))
}

/// The correction of a boolean in quotes or in the words of YAML 1.1.
pub(super) fn correct_boolean(value: &YamlValue) -> Option<&'static str> {
    let YamlValue::Text(text) = value else { return None };
    match &**text {
        "true" | "false" => Some("remove the quotes"),
        text if ["yes", "on", "true", "y"].contains(&&*text.to_ascii_lowercase()) => Some("write true"),
        text if ["no", "off", "false", "n"].contains(&&*text.to_ascii_lowercase()) => Some("write false"),
        _ => None,
    }
}

/// The correction of a number in quotes.
pub(super) fn correct_number(value: &YamlValue) -> Option<&'static str> {
    let YamlValue::Text(text) = value else { return None };
    let is_whole = text.parse::<u64>().is_ok_and(|number| number.to_string() == **text);
    let is_share = text.parse::<f64>().is_ok_and(|number| number.is_finite() && number.to_string() == **text);
    (is_whole || is_share).then_some("remove the quotes")
}

/// The correction of a duration in quotes without a unit, or with another spelling of its unit.
pub(super) fn correct_duration(value: &YamlValue) -> Option<String> {
    if let Some(quotes) = correct_number(value) {
        return Some(quotes.to_owned());
    }
    let YamlValue::Text(text) = value else { return None };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit.trim_start().to_ascii_lowercase().as_str() {
        "ms" | "milliseconds" | "millis" => "ms",
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hour" | "hours" | "hr" => "h",
        _ => return None,
    };
    let meant = format!("{number}{unit}");
    (meant != **text && scalars::duration(&meant).is_some()).then(|| format!("write {meant}"))
}

/// A text as a list in one line. Plain words become entries; any other text, such as a regular
/// expression, becomes one entry.
pub(super) fn format_list(text: &str) -> String {
    let is_word = |word: &&str| !word.ends_with(':') && word.chars().all(|c| is_plain(c) || c == '*');
    let words: Vec<&str> = text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty()).collect();
    if words.len() > 1 && words.iter().all(is_word) {
        let entries: Vec<String> = words.into_iter().map(format_entry).collect();
        return format!("[{}]", entries.join(", "));
    }
    format!("[{}]", format_entry(text))
}

/// The words of a text as mappings of the form `{ key: # }`.
pub(super) fn format_mappings(form: &str, text: &str) -> String {
    let words = text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty());
    words.map(|word| form.replace('#', word)).collect::<Vec<_>>().join(", ")
}

/// An entry of a list, in quotes if YAML needs them.
fn format_entry(text: &str) -> String {
    // Without quotes, a number, a boolean or null is not a text.
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') && !is_yaml_constant(text);
    if starts_plain && text.chars().all(is_plain) { text.to_owned() } else { format!("{text:?}") }
}

/// Whether YAML reads a word as a constant in any version and case.
fn is_yaml_constant(text: &str) -> bool {
    let constants = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf", "nan"];
    constants.iter().any(|constant| constant.eq_ignore_ascii_case(text))
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/' | '-' | '_')
}

/// Whether a space is missing between a dash and the entry of a list.
pub(super) fn is_missing_space_after_dash(text: &str) -> bool {
    let starts_entry = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '"' | '\'' | '[' | '{');
    text.strip_prefix('-').is_some_and(|entry| entry.starts_with(starts_entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_but_expressions_are_not() {
        for (text, found) in [
            ("${HOST}:80", "${HOST}"),
            ("https://${A}.example", "${A}"),
            ("$HOST", "$HOST"),
            ("{{ .Values.x }}", "{{ .Values.x }}"),
            ("x${", "${"),
        ] {
            assert_eq!(find_placeholder(text), Some(found));
        }
        for text in ["", "$", r"^https://a\.example$", "a$b", "{a}", "$host", r"https://(a|b)\.example$"] {
            assert_eq!(find_placeholder(text), None, "{text}");
        }
    }

    #[test]
    fn a_missing_space_is_found_only_after_known_keys() {
        assert_eq!(split_without_space("maxAge:10m"), Some(("maxAge", "10m")));
        assert_eq!(split_without_space("hosts:[a.x]"), Some(("hosts", "[a.x]")));
        for text in ["localhost:3000", "maxAge: 10m", "maxAge:", "https://a.example", "maxAge"] {
            assert_eq!(split_without_space(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_and_durations_in_quotes_are_corrected() {
        let text = |text: &str| YamlValue::Text(text.into());
        for number in ["600", "0", "0.5"] {
            assert_eq!(correct_number(&text(number)), Some("remove the quotes"), "{number}");
        }
        for other in ["007", "1_000", "ten", "1e3", "NaN", "inf", ""] {
            assert_eq!(correct_number(&text(other)), None, "{other}");
        }
        assert_eq!(correct_duration(&text("10 minutes")).as_deref(), Some("write 10m"));
        assert_eq!(correct_duration(&text("5 s")).as_deref(), Some("write 5s"));
        assert_eq!(correct_duration(&text("10")).as_deref(), Some("remove the quotes"));
        for other in ["10m", "1d", "soon", " s", "1.5h"] {
            assert_eq!(correct_duration(&text(other)), None, "{other}");
        }
    }
}
