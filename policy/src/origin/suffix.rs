//! Public suffixes: the names under which anybody can register, and so the names that say nothing of who is behind a host.
//!
//! The list is the one of <https://publicsuffix.org>, compiled in. An unknown top-level domain counts as a public suffix.

use super::host;

/// Where providers have public suffixes below a domain of their own, which itself is none: the list can be asked about a
/// name and not searched, so these are asked about.
const BELOW: [&str; 21] = [
    "s3",
    "elb",
    "compute",
    "s3.us-east-1",
    "execute-api.us-east-1",
    "auth.us-east-1",
    "lambda-url.us-east-1",
    "notebook.us-east-1",
    "blob",
    "blob.core",
    "servicebus",
    "up",
    "app",
    "apps",
    "cdn",
    "cloud",
    "customer",
    "members",
    "paas",
    "pages",
    "user",
];

/// Whether anybody can register a name directly over this one.
pub(crate) fn is_open(name: &str) -> bool {
    // Some suffixes are themselves given by a star: each name over `kawasaki.jp` is a public suffix.
    !host::is_loopback(name.as_bytes()) && (is_public_suffix(name) || is_public_suffix(&format!("crossgate.{name}")))
}

/// Public suffixes that lie below this domain, such as `s3.amazonaws.com` below `amazonaws.com`, as far as they are known.
pub(crate) fn below(domain: &str) -> impl Iterator<Item = String> {
    let names = BELOW.iter().map(move |label| format!("{label}.{domain}"));
    names.filter(|name| is_open(name))
}

fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.as_bytes() == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_names_are_told() {
        for name in ["com", "co.uk", "github.io", "kawasaki.jp", "foo.kawasaki.jp", "nosuchtop", "s3.amazonaws.com"] {
            assert!(is_open(name), "{name}");
        }
        for name in ["example.com", "acme.github.io", "city.kawasaki.jp", "localhost", "amazonaws.com"] {
            assert!(!is_open(name), "{name}");
        }
    }

    #[test]
    fn suffixes_below_a_domain_are_found() {
        for domain in ["amazonaws.com", "windows.net", "railway.app", "amazoncognito.com", "on.aws"] {
            assert!(below(domain).next().is_some(), "{domain}");
        }
        assert_eq!(below("example.com").next(), None);
    }
}
