//! Origin regexes: each must match the whole of a well-formed origin.
//!
//! The `regex` crate takes time linear in the origin, which is at most 326 bytes; number and size of the expressions
//! have limits, so the work is bounded. They are asked one by one, after everything else. With credentials each is
//! asked at compile about origins of strangers, as the common mistakes (`.*`, a forgotten `\.`) let some of them in.

use regex::bytes::{Regex, RegexBuilder};

use super::hash::Seed;

/// The most expressions in one policy: they are asked one by one.
pub(crate) const REGEXES_MAX: usize = 64;

/// The longest expression, in bytes.
const TEXT_LEN_MAX: usize = 1024;

/// The most memory that one compiled expression takes, in bytes.
const COMPILED_LEN_MAX: usize = 1 << 20;

/// Suffixes under which anybody can have a name, or that no known host has.
const STRANGERS: [&str; 10] = [
    "example",
    "com",
    "co.uk",
    "github.io",
    "vercel.app",
    "netlify.app",
    "pages.dev",
    "web.app",
    "herokuapp.com",
    "test",
];

/// The expressions of one policy, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Regexes(Vec<OriginRegex>);

/// One expression.
#[derive(Debug, Clone)]
pub(crate) struct OriginRegex {
    text: Box<str>,
    whole: Regex,
}

impl Regexes {
    pub(crate) fn push(&mut self, regex: OriginRegex) {
        self.0.push(regex);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first expression that matches the origin.
    pub(crate) fn find(&self, origin: &[u8]) -> Option<u32> {
        (0..).zip(&self.0).find(|(_, regex)| regex.matches(origin)).map(|(index, _)| index)
    }

    /// Whether one of the expressions matches the origin.
    pub(crate) fn matches(&self, index: usize, origin: &[u8]) -> bool {
        self.0.get(index).is_some_and(|regex| regex.matches(origin))
    }

    /// The text of an expression.
    pub(crate) fn text(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(|regex| &*regex.text)
    }
}

impl OriginRegex {
    /// Compiles one expression.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > TEXT_LEN_MAX {
            return Err(format!("has {} bytes, expected 1 to {TEXT_LEN_MAX}", text.len()));
        }
        // Alone first: `a)|(?:b` is an expression only once it is wrapped, and would not be anchored then.
        build(text)?;
        let whole = build(&format!(r"\A(?:{text})\z"))?;
        Ok(Self { text: text.into(), whole })
    }

    /// Whether it matches the whole origin.
    pub(crate) fn matches(&self, origin: &[u8]) -> bool {
        self.whole.is_match(origin)
    }

    /// A stranger's origin that it lets in.
    pub(crate) fn stranger(&self) -> Option<String> {
        strangers().find(|origin| self.matches(origin.as_bytes()))
    }

    /// What is doubtful about it.
    pub(crate) fn doubt(&self) -> Option<&'static str> {
        let literal_dots = ["\\.", "[.]"];
        let unescaped = literal_dots.iter().fold(self.text.to_string(), |text, dot| text.replace(dot, ""));
        if unescaped.contains(".*") || unescaped.contains(".+") {
            return Some("has `.*` or `.+`, which also match dots, expected a class such as `[a-z0-9-]+`");
        }
        (unescaped == *self.text).then_some("has no escaped dot, expected `\\.` between the labels of a host")
    }
}

fn build(text: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(text);
    builder.size_limit(COMPILED_LEN_MAX).dfa_size_limit(COMPILED_LEN_MAX);
    builder.build().map_err(|error| {
        if let regex::Error::CompiledTooBig(_) = error {
            return format!("is too large once compiled, expected at most {COMPILED_LEN_MAX} bytes");
        }
        let detail = error.to_string();
        let last = detail.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("is not a regular expression ({last}), expected the syntax of the `regex` crate")
    })
}

/// Origins that nobody can have meant, with names that nobody can have written down.
fn strangers() -> impl Iterator<Item = String> {
    let number = Seed::random().whole(b"stranger");
    let letters: String = format!("{number:016x}").bytes().map(|digit| char::from(b'a' + digit % 26)).collect();
    let names = [letters.clone(), format!("{letters}-{number:x}"), format!("{letters}.{letters}")];
    names.into_iter().flat_map(|name| {
        STRANGERS.into_iter().flat_map(move |suffix| {
            let host = format!("{name}.{suffix}");
            [
                format!("https://{host}"),
                format!("https://{host}:8443"),
                format!("http://{host}"),
                format!("http://{host}:8080"),
            ]
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_origin_must_match() {
        let regex = OriginRegex::new(r"https://(a|b)\.example\.com|https://c\.test").unwrap();
        for origin in ["https://a.example.com", "https://b.example.com", "https://c.test"] {
            assert!(regex.matches(origin.as_bytes()), "{origin}");
        }
        for origin in [
            "https://a.example.com.evil.com",
            "https://c.test.evil",
            "xhttps://c.test",
            "https://c.test\n",
            "https://a.exampleXcom",
        ] {
            assert!(!regex.matches(origin.as_bytes()), "{origin}");
        }
    }

    #[test]
    fn what_cannot_be_anchored_is_refused() {
        for text in ["", "a)|(?:b", "(", "(?x)a # comment", r"\p{Greek}{1000}{1000}"] {
            assert!(OriginRegex::new(text).is_err(), "{text}");
        }
        assert!(OriginRegex::new(&"a".repeat(TEXT_LEN_MAX + 1)).is_err());
    }

    #[test]
    fn strangers_are_found() {
        for text in [
            "https://.*",
            r"https://[a-z]+\.example",
            r"https?://.+\.github\.io",
            r".*",
            r"http://.*\.test(:\d+)?",
            r"https://[a-z]+\.vercel\.app",
        ] {
            assert!(OriginRegex::new(text).unwrap().stranger().is_some(), "{text}");
        }
        for text in [r"https://pr-[0-9]+\.acme\.example", r"https://(a|b)\.example"] {
            assert_eq!(OriginRegex::new(text).unwrap().stranger(), None, "{text}");
        }
    }

    #[test]
    fn loose_expressions_are_doubted() {
        for text in ["https://example.com", r"https://.*\.example\.com", r"https://\w.+\.example\.com"] {
            assert!(OriginRegex::new(text).unwrap().doubt().is_some(), "{text}");
        }
        for text in [r"https://[a-z]+\.example\.com", r"https://[a-z]+[.]example[.]com", r"https://a\.+example"] {
            assert_eq!(OriginRegex::new(text).unwrap().doubt(), None, "{text}");
        }
    }
}
