//! Origin regexes: each must match the whole of a well-formed origin.
//!
//! The `regex` crate takes time linear in the origin, which is at most 326 bytes; number and size of the expressions
//! have limits, so the work is bounded. They are asked one by one, after everything else. What each lets in is looked
//! at when it is compiled, as the common mistakes (`.*`, a forgotten `\.`) let strangers in: [`reach`] tells
//! whose names it covers, and addresses that nobody can have meant are tried.

use regex::bytes::{Regex, RegexBuilder};

use super::hash::Seed;
use super::reach::{self, Stray};

/// The most expressions in one policy: they are asked one by one.
pub(crate) const REGEXES_MAX: usize = 64;

/// The longest expression, in bytes.
const TEXT_LEN_MAX: usize = 1024;

/// The most memory that one compiled expression takes, in bytes.
const COMPILED_LEN_MAX: usize = 1 << 20;

/// The expressions of one policy, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Regexes(Vec<OriginRegex>);

/// One expression.
#[derive(Debug, Clone)]
pub(crate) struct OriginRegex {
    text: Box<str>,
    whole: Regex,
    stray: Option<Stray>,
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
        let anchored = format!(r"\A(?:{text})\z");
        let whole = build(&anchored)?;
        let stray = strangers().find(|origin| whole.is_match(origin.as_bytes())).map(Stray::Stranger);
        let stray = stray.or_else(|| reach::stray(&anchored));
        Ok(Self { text: text.into(), whole, stray })
    }

    /// Whether it matches the whole origin.
    pub(crate) fn matches(&self, origin: &[u8]) -> bool {
        self.whole.is_match(origin)
    }

    /// What it lets in besides names under domains that it fixes: completes a sentence that begins with its text.
    pub(crate) fn stray(&self) -> Option<String> {
        self.stray.as_ref().map(|stray| match stray {
            Stray::Stranger(origin) => format!("lets strangers such as `{origin}` in"),
            Stray::Unclear => "is too complex to tell whether it lets strangers in".to_owned(),
        })
    }

    /// What is doubtful about how it is written.
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

/// Addresses that nobody can have meant, all of the public internet.
fn strangers() -> impl Iterator<Item = String> {
    let [a, b, c, d, e, f, g, h] = Seed::random().whole(b"stranger").to_le_bytes().map(|byte| byte % 200 + 20);
    let hosts = [
        format!("8.{a}.{b}.{c}"),
        format!("45.{d}.{e}.{f}"),
        format!("185.{g}.{h}.{a}"),
        format!("[2001:db8:{b}::{c}]"),
        format!("[2a01:{d}:{e}:{f}:{g}:{h}:{a}:{b}]"),
    ];
    hosts.into_iter().flat_map(|host| ["", ":8443"].map(|port| format!("https://{host}{port}")))
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

    // One that backtracks would try every way to cut the first label into runs, which are 2 to the power of 62.
    #[test]
    fn a_repetition_within_a_repetition_is_anchored_and_no_trap() {
        let regex = OriginRegex::new(r"https://((a+)+\.)+(a+)+").unwrap();
        let host = |middle: &str| {
            let [label, half] = [63, 31].map(|len| "a".repeat(len));
            format!("https://{label}.{half}{middle}{half}.{label}.{}", "a".repeat(61))
        };
        assert!(regex.matches(host("a").as_bytes()));
        for origin in [host("b"), host("a") + ":65535", format!("x{}", host("a")), host("a") + "\n"] {
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
            ".*",
            r"https://[a-z]+\.example",
            r"https?://.+\.github\.io",
            r"http://.*\.test(:\d+)?",
            r"https://[a-z]+\.vercel\.app",
            r"https://[a-z0-9-]*example\.com",
            r"https://[a-z0-9-]+\.fly\.dev",
            r"https://[a-z0-9-]+\.onrender\.com",
            r"https://[a-z0-9-]+\.azurewebsites\.net",
            r"https://[a-z0-9-]+\.s3\.amazonaws\.com",
            r"https://[a-z]{1,12}\.com",
            r"https://app\.example\.com.*",
            r"https://app\.example\.com[a-z.]*(:\d+)?",
            r"https://app\.example\.com(\.[a-z]+)*",
            r"https://.*example\.com",
            r"https://.*example\.com(:[0-9]{2,5})?",
            r"https://pr-.*\.vercel\.app",
            r"https://.*\.de",
            r"https://.*\.amazonaws\.com",
            r"https://.*\.windows\.net",
            r"https://[a-z]+\.kawasaki\.jp",
            r"https://[a-z]+\.[a-z]+\.kawasaki\.jp",
            r"https://[a-z]+\.us-4\.evennode\.com",
            r"https://[a-z]+\.(app|eu-2)\.evennode\.com(:\d+)?",
            r"https://(ab)+\.com",
            r"https://shop[0-9]\.com",
            r"https://app.example.com",
            r"(?i)https://[A-Z]+\.COM",
            r"https://\w+\.co\.uk",
            r"https://(app\.example\.com|[a-z]+\.web\.app)",
            r"https://[^.]+\.example",
            r"https://app\.example\.[a-z]{2,3}",
            r"https://app\.example\.(com|[a-z]{2}|co\.uk)",
            r"chrome-extension://[a-p]{32}",
            r"https://[a-z]{3,10}",
            r"https://[0-9.]+",
            r"https://(\d+\.){3}\d+(:\d+)?",
            r"https://\[.*\]",
            r"https://[a-z]+\b\.com",
            r"^https://.*\.com$",
            r"https://[a-h]{9}\.com",
        ] {
            assert!(OriginRegex::new(text).unwrap().stray().is_some(), "{text}");
        }
    }

    #[test]
    fn nobody_knows_which_addresses_are_tried() {
        let first = |_| strangers().next().unwrap();
        let tried: std::collections::HashSet<String> = (0..40).map(first).collect();
        assert!(tried.len() > 20, "{tried:?}");
    }

    #[test]
    fn domains_of_its_own_are_no_strangers() {
        for text in [
            r"https://pr-[0-9]+\.acme\.example",
            r"https://(a|b)\.example",
            r"https://pr-[0-9]+\.preview\.example\.com",
            r"^https://([a-z0-9-]+\.)*example\.com(:\d+)?$",
            r"https?://(.*\.)?example\.(com|de|fr|it|es|nl|pl|at|be|co\.uk)",
            r"https://.+\.example\.com(:[0-9]{1,5})?",
            r"(?i)https://[a-z]+\.Example\.com",
            r"https://[a-z]+\.acme\.github\.io",
            r"https://[a-z0-9-]+\.acme\.s3\.amazonaws\.com",
            r"https://[a-z0-9-]+\.acme\.us-4\.evennode\.com",
            r"https://[a-f]{1,8}\.example\.com",
            r"https://(one|two|three)-shop\.com",
            r"https://shop[1-3]\.com",
            r"http://localhost:\d+",
            r"http://[a-z]+\.localhost(:\d+)?",
            r"https://10\.0\.[0-9]+\.[0-9]+(:8443)?",
            r"http://127\.0\.0\.\d+:\d+",
            r"https://\[::1\]:\d+",
            r"https://intranet",
            r"chrome-extension://(abc|def)",
            r"https://[^.]+[.]example[.]com",
            r"https://\b[a-z]+\.example\.com\b",
        ] {
            assert_eq!(OriginRegex::new(text).unwrap().stray(), None, "{text}");
        }
    }

    #[test]
    fn a_stranger_is_an_origin_that_it_matches() {
        for (text, sample) in [
            (r"https://[a-z0-9-]*example\.com", "https://aexample.com"),
            (r"https://app\.example\.com.*", "https://app.example.coma"),
            (r"https://pr-.*\.vercel\.app", "https://pr-a.vercel.app"),
            (r"https://[a-z]+\.co\.uk:\d+", "https://a.co.uk:8"),
            (r"https://[0-9a-z.-]+\.amazonaws\.com", "https://a.s3.amazonaws.com"),
        ] {
            let regex = OriginRegex::new(text).unwrap();
            assert!(regex.matches(sample.as_bytes()));
            assert_eq!(regex.stray(), Some(format!("lets strangers such as `{sample}` in")), "{text}");
        }
    }

    // What takes long to look at must not take long to start with.
    #[test]
    fn what_cannot_be_told_is_refused() {
        for text in [
            r"https://[a-h]{60}\.com",
            r"https://(a|b)(c|d)(e|f)(g|h)(a|b)(c|d)(e|f)(g|h)(a|b)(c|d)(e|f)(g|h)(i|j)\.com",
        ] {
            let stray = OriginRegex::new(text).unwrap().stray().unwrap();
            assert!(stray.starts_with("is too complex"), "{stray}");
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
