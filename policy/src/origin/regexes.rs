//! Origin regexes: each must match a whole well-formed origin.
//!
//! The `regex` crate takes linear time, an origin has at most 326 bytes, and the number and size of
//! the expressions are limited, so the work is bounded. The expressions run one by one, after all
//! other entries. The compiler also checks which origins an expression matches, since the common
//! mistakes (`.*`, a forgotten `\.`) match unlisted origins: [`reach`] finds the domains that it
//! covers, and random addresses and extension hosts are tried.

use regex::bytes::{Regex, RegexBuilder};

use super::extension::ExtensionScheme;
use super::hash::HashSeed;
use super::parse::LOCAL_FILE_ORIGINS;
use super::reach::{self, ReachProblem};
use super::set::FoundEntry;
use crate::group::GroupId;

/// The most expressions in one policy. They run one by one.
pub(crate) const REGEXES_MAX: usize = 64;

/// The longest expression, in bytes.
const TEXT_LEN_MAX: usize = 1024;

/// The largest compiled expression, in bytes.
const COMPILED_LEN_MAX: usize = 1 << 20;

/// The expressions of one policy with their groups, in the order of their texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct OriginRegexes(Box<[(OriginRegex, GroupId)]>);

/// One expression.
#[derive(Debug, Clone)]
pub(crate) struct OriginRegex {
    text: Box<str>,
    whole: Regex,
    reach_problem: Option<ReachProblem>,
}

impl OriginRegexes {
    pub(crate) fn new(mut regexes: Vec<(OriginRegex, GroupId)>) -> Self {
        regexes.sort_by(|(one, _), (other, _)| one.text.cmp(&other.text));
        Self(regexes.into())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the first expression that matches the origin. Those of different groups match no
    /// origin in common.
    pub(crate) fn find(&self, origin: &[u8]) -> Option<FoundEntry> {
        let (index, (_, group)) = (0..).zip(&self.0).find(|(_, (regex, _))| regex.matches(origin))?;
        Some(FoundEntry { index, group: *group })
    }

    /// Whether the expression at `index` matches the origin.
    pub(crate) fn matches(&self, index: usize, origin: &[u8]) -> bool {
        self.0.get(index).is_some_and(|(regex, _)| regex.matches(origin))
    }

    /// Returns the text of an expression.
    pub(crate) fn text(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(|(regex, _)| &*regex.text)
    }

    /// Returns the group of an expression.
    pub(crate) fn group(&self, index: usize) -> Option<GroupId> {
        self.0.get(index).map(|(_, group)| *group)
    }
}

impl OriginRegex {
    /// Compiles one expression.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > TEXT_LEN_MAX {
            return Err(format!("has {} bytes, expected 1 to {TEXT_LEN_MAX}", text.len()));
        }
        // The text alone must be valid: `a)|(?:b` becomes valid only inside the group, and would
        // then not be anchored.
        build(text)?;
        if let Some(inner) = between_slashes(text) {
            return Err(format!(
                "begins with a slash and so matches no origin, expected `{inner}`, without slashes around it"
            ));
        }
        let anchored = anchored(text);
        let whole = build(&anchored)?;
        let matched = unlisted_origins().find(|origin| whole.is_match(origin.as_bytes()));
        let reach_problem = matched.map(ReachProblem::Unlisted).or_else(|| reach::reach_problem(&anchored));
        Ok(Self { text: text.into(), whole, reach_problem })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the expression, anchored at both ends.
    pub(crate) fn anchored(&self) -> String {
        anchored(&self.text)
    }

    /// Whether the expression matches the whole origin.
    pub(crate) fn matches(&self, origin: &[u8]) -> bool {
        self.whole.is_match(origin)
    }

    /// Returns the message for an expression that matches origins outside the domains in its text.
    /// The message follows the quoted text.
    pub(crate) fn reach_message(&self) -> Option<String> {
        self.reach_problem.as_ref().map(|problem| match problem {
            ReachProblem::Unlisted(origin) => format!("matches unlisted origins such as `{origin}`"),
            ReachProblem::Unclear => "is too complex to check which origins it matches".to_owned(),
        })
    }

    /// Returns the scheme of the unlisted extensions that the expression matches.
    pub(crate) fn unlisted_extension(&self) -> Option<ExtensionScheme> {
        match self.reach_problem.as_ref()? {
            ReachProblem::Unlisted(origin) => ExtensionScheme::of_origin(origin),
            ReachProblem::Unclear => None,
        }
    }

    /// Returns an origin of local files that the expression matches.
    pub(crate) fn local_file(&self) -> Option<&'static str> {
        LOCAL_FILE_ORIGINS.into_iter().find(|origin| self.matches(origin.as_bytes()))
    }

    /// Whether the expression may match plain `http` other than loopback.
    pub(crate) fn covers_insecure(&self) -> bool {
        reach::covers_insecure(&anchored(&self.text))
    }

    /// Returns a warning about the way the expression is written.
    pub(crate) fn style_warning(&self) -> Option<&'static str> {
        let literal_dots = ["\\.", "[.]"];
        let unescaped = literal_dots.iter().fold(self.text.to_string(), |text, dot| text.replace(dot, ""));
        if unescaped.contains(".*") || unescaped.contains(".+") {
            return Some("has `.*` or `.+`, which also match dots, expected a class such as `[a-z0-9-]+`");
        }
        let has_bare_dot = unescaped == *self.text && unescaped.contains('.');
        has_bare_dot.then_some("has no escaped dot, expected `\\.` between the labels of a host")
    }
}

/// Returns the expression within a literal of JavaScript or Perl, without its flags.
fn between_slashes(text: &str) -> Option<&str> {
    let (inner, flags) = text.strip_prefix('/')?.rsplit_once('/')?;
    (!inner.is_empty() && flags.bytes().all(|flag| flag.is_ascii_lowercase())).then_some(inner)
}

const SYNTAX: &str =
    "expected classes such as `[a-z0-9-]+`, groups, alternatives such as `(a|b)` and repetitions such as `{1,3}`";

fn anchored(text: &str) -> String {
    // The group anchors every alternative: in `\Aa|b\z` each anchor would apply to only one of
    // them.
    format!(r"\A(?:{text})\z")
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
        // The engine supports neither, so that every expression takes linear time (no ReDoS).
        if last.contains("look-around") || last.contains("backreferences") {
            return format!("uses unsupported syntax ({last}), {SYNTAX} that list the accepted text");
        }
        format!("is not a regular expression ({last}), {SYNTAX}")
    })
}

/// Returns random public addresses, and hosts as clients generate them for extensions and web
/// views. No author can have intended to list them.
fn unlisted_origins() -> impl Iterator<Item = String> {
    addresses().chain(extensions())
}

fn extensions() -> impl Iterator<Item = String> {
    let draw = |text: &[u8]| HashSeed::random().whole(text);
    let hex = format!("{:016x}{:015x}7", draw(b"left"), draw(b"right") >> 4);
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    let uuid = format!("{}-{}-4{}-8{}-{}", part(0..8), part(8..12), part(12..15), part(15..18), part(20..32));
    // Chromium writes each half of a byte as a letter from `a` to `p`.
    let letters: String = hex.bytes().map(|byte| char::from(byte % 16 + b'a')).collect();
    [
        format!("moz-extension://{uuid}"),
        format!("moz-extension://{}a", uuid.get(..35).unwrap_or_default()),
        format!("safari-web-extension://{uuid}"),
        format!("chrome-extension://{letters}"),
        format!("vscode-webview://{uuid}"),
        format!("vscode-webview://{hex}{}", part(0..20)),
    ]
    .into_iter()
}

fn addresses() -> impl Iterator<Item = String> {
    let [a, b, c, d, e, f, g, h] = HashSeed::random().whole(b"address").to_le_bytes().map(|byte| byte % 200 + 20);
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
    fn regex_must_match_the_whole_origin() {
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

    // A backtracking engine would try all 2^62 ways to split the first label.
    #[test]
    fn nested_repetition_is_anchored_and_takes_linear_time() {
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
    fn expression_that_cannot_be_anchored_is_refused() {
        for text in ["", "a)|(?:b", "(", "(?x)a # comment", r"\p{Greek}{1000}{1000}", "/a/", "/^a$/i"] {
            assert!(OriginRegex::new(text).is_err(), "{text}");
        }
        assert!(OriginRegex::new(&"a".repeat(TEXT_LEN_MAX + 1)).is_err());
    }

    #[test]
    fn e_unsupported_syntax_reports_supported_syntax() {
        let message = |text: &str| OriginRegex::new(text).err().unwrap_or_default();
        for (text, expected) in [
            (r"https://(?!evil)[a-z]+\.example", "uses unsupported syntax (look-around, including look-ahead"),
            (r"https://(?<=a)b\.example", "uses unsupported syntax (look-around, including look-ahead"),
            (r"(a)\1\.b", "uses unsupported syntax (backreferences are not supported)"),
            ("(", "is not a regular expression (unclosed group)"),
        ] {
            let message = message(text);
            assert!(message.starts_with(expected) && message.contains(SYNTAX), "{message}");
        }
        assert_eq!(
            message(r"/^https:\/\/a\.example$/i"),
            r"begins with a slash and so matches no origin, expected `^https:\/\/a\.example$`, without slashes around it"
        );
        assert!(OriginRegex::new(r"https://a\.example|/").is_ok());
    }

    #[test]
    fn expression_over_plain_http_is_insecure_except_for_loopback() {
        for (text, expected) in [
            (r"https?://app\.example\.com", true),
            (r"(http|https)://[a-z]+\.example\.com(:\d+)?", true),
            (r"http://login\.example\.com", true),
            (r"https?://(localhost|127\.0\.0\.1|app\.example\.com)", true),
            (r"https?://localhost\.example\.com", true),
            (r".*", true),
            (r"https://app\.example\.com", false),
            (r"https?://localhost(:\d+)?", false),
            (r"https?://([a-z]+\.)?localhost:3000", false),
            (r"http://127\.0\.0\.[0-9]+:8080", false),
            (r"http://\[::1\](:\d+)?", false),
            (r"(https://app\.example\.com|http://localhost:\d+)", false),
        ] {
            assert_eq!(OriginRegex::new(text).unwrap().covers_insecure(), expected, "{text}");
        }
    }

    #[test]
    fn loose_expression_matches_unlisted_origins() {
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
            r"moz-extension://[0-9a-f-]+",
            r"moz-extension://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
            r"moz-extension://[0-9a-f-]*[0-9]",
            r"safari-web-extension://[^/]{36}",
            r"vscode-webview://[0-9a-v]{52}",
            r"(chrome|moz)-extension://.*",
            r"capacitor://[a-z]+",
            r"[a-z]+://[a-z]+",
            r"https://[a-z]{3,10}",
            r"https://[0-9.]+",
            r"https://(\d+\.){3}\d+(:\d+)?",
            r"https://\[.*\]",
            r"https://[a-z]+\b\.com",
            r"^https://.*\.com$",
            r"https://[a-h]{9}\.com",
        ] {
            assert!(OriginRegex::new(text).unwrap().reach_message().is_some(), "{text}");
        }
    }

    #[test]
    fn tried_addresses_are_random() {
        let first = |_| unlisted_origins().next().unwrap();
        let tried: std::collections::HashSet<String> = (0..40).map(first).collect();
        assert!(tried.len() > 20, "{tried:?}");
    }

    #[test]
    fn expression_with_fixed_domains_matches_no_unlisted_origin() {
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
            assert_eq!(OriginRegex::new(text).unwrap().reach_message(), None, "{text}");
        }
    }

    #[test]
    fn message_shows_an_unlisted_origin_that_matches() {
        for (text, sample) in [
            (r"https://[a-z0-9-]*example\.com", "https://aexample.com"),
            (r"https://app\.example\.com.*", "https://app.example.coma"),
            (r"https://pr-.*\.vercel\.app", "https://pr-a.vercel.app"),
            (r"https://[a-z]+\.co\.uk:\d+", "https://a.co.uk:8"),
            (r"https://[0-9a-z.-]+\.amazonaws\.com", "https://a.s3.amazonaws.com"),
            (r"ionic://[a-z]+", "ionic://a"),
            (r"(web|x)[+]?app://[a-z]+", "xapp://a"),
        ] {
            let regex = OriginRegex::new(text).unwrap();
            assert!(regex.matches(sample.as_bytes()));
            assert_eq!(regex.reach_message(), Some(format!("matches unlisted origins such as `{sample}`")), "{text}");
        }
    }

    // The check of a complex expression must not delay the start.
    #[test]
    fn expression_too_complex_to_check_is_refused() {
        for text in [
            r"https://[a-h]{60}\.com",
            r"https://(a|b)(c|d)(e|f)(g|h)(a|b)(c|d)(e|f)(g|h)(a|b)(c|d)(e|f)(g|h)(i|j)\.com",
        ] {
            let message = OriginRegex::new(text).unwrap().reach_message().unwrap();
            assert!(message.starts_with("is too complex"), "{message}");
        }
    }

    #[test]
    fn bare_dots_get_a_warning() {
        for text in ["https://example.com", r"https://.*\.example\.com", r"https://\w.+\.example\.com"] {
            assert!(OriginRegex::new(text).unwrap().style_warning().is_some(), "{text}");
        }
        for text in [
            r"https://[a-z]+\.example\.com",
            r"https://[a-z]+[.]example[.]com",
            r"https://a\.+example",
            "chrome-extension://(abc|def)",
        ] {
            assert_eq!(OriginRegex::new(text).unwrap().style_warning(), None, "{text}");
        }
    }
}
