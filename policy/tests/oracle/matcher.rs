//! An independent matcher of origins and patterns: short and slow, and without code of the crate.
//!
//! It works on text and on lists of labels, without tables, hashes or fast paths.

/// Whether a browser would send these bytes as an origin.
pub(crate) fn is_origin(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    if ["file://", "app://."].contains(&text) {
        return true;
    }
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let scheme_chars = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "+-.".contains(char);
    let is_scheme = scheme.starts_with(|char: char| char.is_ascii_lowercase())
        && scheme.chars().all(scheme_chars)
        && scheme.len() <= 64;
    let (host, port) = if rest.starts_with('[') {
        rest.split_once(']').map_or(("", ""), |(host, port)| (host, port))
    } else {
        cut(rest)
    };
    let is_host = match host.strip_prefix('[') {
        Some(address) => is_ipv6(address),
        None => is_name(host, ["http", "https", "ws", "wss", "ftp"].contains(&scheme)),
    };
    text.len() <= 326 && is_scheme && is_host && is_port(scheme, port)
}

fn cut(rest: &str) -> (&str, &str) {
    rest.find(':').map_or((rest, ""), |at| rest.split_at(at))
}

fn is_port(scheme: &str, port: &str) -> bool {
    let Some(digits) = port.strip_prefix(':') else { return port.is_empty() };
    let number: u32 = digits.parse().unwrap_or(0);
    let default = match scheme {
        "https" | "wss" => 443,
        "http" | "ws" => 80,
        _ => 0,
    };
    number.to_string() == digits && number != default && (1..=65535).contains(&number)
}

fn is_name(host: &str, may_be_number: bool) -> bool {
    let labels: Vec<&str> = host.split('.').collect();
    let is_label = |label: &&str| (1..=63).contains(&label.len()) && label.chars().all(is_label_char);
    let ends_in_number = labels.last().is_some_and(|label| label.starts_with(|char: char| char.is_ascii_digit()));
    host.len() <= 253 && labels.iter().all(is_label) && (!may_be_number || !ends_in_number || is_ipv4(&labels))
}

fn is_label_char(char: char) -> bool {
    "abcdefghijklmnopqrstuvwxyz0123456789-_".contains(char)
}

fn is_ipv4(labels: &[&str]) -> bool {
    labels.len() == 4 && labels.iter().all(|label| (0..=255).any(|number: u32| number.to_string() == *label))
}

// The standard library parses addresses and prints them in the form of RFC 5952.
fn is_ipv6(text: &str) -> bool {
    let address: Result<std::net::Ipv6Addr, _> = text.parse();
    let is_mapped = text.starts_with("::ffff:") && text.contains('.');
    address.is_ok_and(|address| address.to_string() == text && !is_mapped)
}

/// Whether a configured entry covers a well-formed origin.
pub(crate) fn covers(entry: &str, origin: &str) -> bool {
    if !entry.contains('*') {
        return entry == origin;
    }
    if let Some(scheme) = entry.strip_suffix("//*") {
        // The star of an extension scheme covers one label, without a port.
        return origin
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix("//"))
            .is_some_and(|host| !host.contains(['.', ':']));
    }
    let (entry_scheme, entry_rest) = entry.split_once("://").unwrap_or_default();
    let (scheme, rest) = origin.split_once("://").unwrap_or_default();
    let (entry_host, entry_port) = split(entry_rest);
    let (host, port) = split(rest);
    entry_scheme == scheme && (entry_port == ":*" || entry_port == port) && covers_host(entry_host, host)
}

fn split(rest: &str) -> (&str, &str) {
    let from = rest.find(']').unwrap_or(0);
    rest[from..].find(':').map_or((rest, ""), |at| rest.split_at(from + at))
}

fn covers_host(entry: &str, host: &str) -> bool {
    let entry: Vec<&str> = entry.split('.').collect();
    let host: Vec<&str> = host.split('.').collect();
    match entry[0].split_once('*') {
        None => entry == host,
        Some(("", "")) => (1..host.len()).any(|labels| host[labels..] == entry[1..]),
        Some((before, after)) => {
            host.len() == entry.len() && host[1..] == entry[1..] && covers_label(before, after, host[0])
        }
    }
}

fn covers_label(before: &str, after: &str, label: &str) -> bool {
    (before.len() + 1..=label.len()).any(|end| label[..end].starts_with(before) && &label[end..] == after)
}
