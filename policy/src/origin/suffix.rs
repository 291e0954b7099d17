//! Public suffixes: the names under which anyone can register a domain.
//!
//! The list of <https://publicsuffix.org> is compiled in. An unknown top-level domain counts as a
//! public suffix.

use super::host;

/// Labels of public suffixes that lie under a domain which is not a public suffix itself. The crate
/// `psl` can test a name but not enumerate the list, so these labels are tried.
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

/// Whether anyone can register a name directly under this one.
pub(crate) fn is_open(name: &str) -> bool {
    // The list has wildcard rules: each name under `kawasaki.jp` is a public suffix.
    !host::is_loopback(name.as_bytes()) && (is_public_suffix(name) || is_public_suffix(&format!("crossgate.{name}")))
}

/// Returns the known public suffixes under this domain, such as `s3.amazonaws.com` under
/// `amazonaws.com`.
pub(crate) fn below(domain: &str) -> impl Iterator<Item = String> {
    let names = BELOW.iter().map(move |label| format!("{label}.{domain}"));
    names.filter(|name| is_open(name))
}

/// Returns the registrable domain of a host that is not an address.
pub(crate) fn registrable_domain(host: &str) -> Option<&str> {
    str::from_utf8(psl::domain(host.as_bytes())?.as_bytes()).ok()
}

fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.as_bytes() == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_under_which_anyone_registers_is_open() {
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
