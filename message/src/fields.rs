//! The header fields of a head: in a map, or still in the buffer that they were received in.
//!
//! Building a map costs an allocation for each field, so a head of HTTP/1.1 is searched where it
//! was received, and so is a response. Only HTTP/2 and Pingora have maps. All forms give values
//! without surrounding whitespace.

use std::ops::ControlFlow;

pub use crossgate_policy::RequestField;
use crossgate_policy::{CredentialFields, FieldLines, HeadFields};
use http::header::ValueIter;
use http::{HeaderMap, HeaderName, HeaderValue};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
pub const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
pub const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The header fields of one head.
#[derive(Clone, Copy, Debug)]
pub enum HeaderFields<'a> {
    /// Of HTTP/2, or parsed by Pingora.
    Map(&'a HeaderMap),
    /// Of HTTP/1.1, in order of arrival.
    Lines(&'a [httparse::Header<'a>]),
    /// Of HTTP/1.1 too, as positions in these bytes.
    Spans(&'a [u8], &'a FieldSpans),
}

/// One line of a field.
#[derive(Clone, Copy, Debug)]
pub enum FieldLine<'a> {
    /// The name in any case.
    Bytes { name: &'a [u8], value: &'a [u8] },
    /// Of a map.
    Typed { name: &'a HeaderName, value: &'a HeaderValue },
}

impl<'a> FieldLine<'a> {
    /// The name, in any case.
    pub fn name(self) -> &'a [u8] {
        match self {
            FieldLine::Bytes { name, .. } => name,
            FieldLine::Typed { name, .. } => name.as_str().as_bytes(),
        }
    }

    pub fn value(self) -> &'a [u8] {
        match self {
            FieldLine::Bytes { value, .. } => value,
            FieldLine::Typed { value, .. } => value.as_bytes(),
        }
    }
}

/// Whether a name in any case is this one, which is in lower case. Most names of one length differ
/// in their first letter.
pub fn is_named(name: &[u8], lower: &str) -> bool {
    let first = name.first().map(u8::to_ascii_lowercase);
    name.len() == lower.len() && first == lower.bytes().next() && name.eq_ignore_ascii_case(lower.as_bytes())
}

/// The positions of the field lines in the bytes of a head, which outlive its parser and are used
/// again for the next head.
#[derive(Clone, Debug, Default)]
pub struct FieldSpans(Vec<FieldSpan>);

/// Positions from the beginning of the head. Heads are shorter than 4 GiB.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpan {
    name: (u32, u32),
    value: (u32, u32),
}

/// Room for the fields of most requests.
const SPANS_USUAL: usize = 32;

impl FieldSpans {
    /// Replaces the positions by those of `lines`, which were parsed from `head`.
    pub fn set(&mut self, head: &[u8], lines: &[httparse::Header<'_>]) {
        self.0.clear();
        // The head of one client with many fields is not to hold memory for good.
        self.0.shrink_to(SPANS_USUAL.max(lines.len()));
        let span = |part: &[u8]| {
            let begin = (part.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
            let position = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            (position(begin), position(begin.wrapping_add(part.len())))
        };
        debug_assert!(lines.iter().all(|line| part(head, span(line.value)) == line.value), "lines of another head");
        let spans = lines.iter().map(|line| FieldSpan { name: span(line.name.as_bytes()), value: span(line.value) });
        self.0.extend(spans);
    }
}

fn part(head: &[u8], (begin, end): (u32, u32)) -> &[u8] {
    head.get(begin as usize..end as usize).unwrap_or_default()
}

impl<'a> From<&'a HeaderMap> for HeaderFields<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        HeaderFields::Map(map)
    }
}

impl<'a> HeaderFields<'a> {
    /// All lines of a field, in order.
    pub fn lines(self, name: &HeaderName) -> FieldLineIter<'a, '_> {
        match self {
            HeaderFields::Map(map) => FieldLineIter::Map(map.get_all(name).into_iter()),
            HeaderFields::Lines(lines) => FieldLineIter::Lines { rest: lines.iter(), name: name.as_str() },
            HeaderFields::Spans(head, spans) => {
                FieldLineIter::Spans { head, rest: spans.0.iter(), name: name.as_str() }
            }
        }
    }

    /// Calls `visit` with every line: in order of arrival, but for those of a map.
    pub fn for_each(self, mut visit: impl FnMut(FieldLine<'a>)) {
        match self {
            HeaderFields::Map(map) => map.iter().for_each(|(name, value)| visit(FieldLine::Typed { name, value })),
            HeaderFields::Lines(lines) => {
                lines.iter().for_each(|line| visit(FieldLine::Bytes { name: line.name.as_bytes(), value: line.value }))
            }
            HeaderFields::Spans(head, spans) => spans.0.iter().for_each(|line| {
                visit(FieldLine::Bytes { name: part(head, line.name), value: part(head, line.value) });
            }),
        }
    }

    pub fn first(self, name: &HeaderName) -> Option<&'a [u8]> {
        self.lines(name).next()
    }

    /// Whether the request has this field.
    pub fn has(self, name: &HeaderName) -> bool {
        self.first(name).is_some()
    }

    /// The elements of a list field over all its lines, without surrounding whitespace. Empty
    /// elements are included.
    pub fn elements(self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.lines(name).flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }
}

/// The fields that are read for every request, collected in one pass over all lines.
#[derive(Clone, Copy, Debug)]
pub struct KnownHeaders<'a> {
    pub host: RequestField<'a>,
    pub origin: RequestField<'a>,
    pub requested_method: RequestField<'a>,
    pub sec_fetch_site: RequestField<'a>,
    pub sec_fetch_mode: RequestField<'a>,
    pub sec_fetch_dest: RequestField<'a>,
    pub forwarded_proto: RequestField<'a>,
    pub request_id: RequestField<'a>,
    pub traceparent: RequestField<'a>,
    pub connection: RequestField<'a>,
    pub upgrade: RequestField<'a>,
    pub content_length: RequestField<'a>,
    pub transfer_encoding: RequestField<'a>,
    /// Whether the request has an `Expect` field.
    pub has_expect: bool,
    /// The strongest credentials in `Cookie` and `Authorization`.
    pub credentials: CredentialFields,
    /// Whether the request has passed gateways that say so in `CDN-Loop`.
    pub has_cdn_loop: bool,
}

impl<'a> KnownHeaders<'a> {
    /// Collects the known fields.
    pub fn of(fields: HeaderFields<'a>) -> Self {
        let mut known = KnownHeaders {
            host: RequestField::Absent,
            origin: RequestField::Absent,
            requested_method: RequestField::Absent,
            sec_fetch_site: RequestField::Absent,
            sec_fetch_mode: RequestField::Absent,
            sec_fetch_dest: RequestField::Absent,
            forwarded_proto: RequestField::Absent,
            request_id: RequestField::Absent,
            traceparent: RequestField::Absent,
            connection: RequestField::Absent,
            upgrade: RequestField::Absent,
            content_length: RequestField::Absent,
            transfer_encoding: RequestField::Absent,
            has_expect: false,
            credentials: CredentialFields::Absent,
            has_cdn_loop: false,
        };
        fields.for_each(|line| known.note(line.name(), line.value()));
        known
    }

    /// Whether an OPTIONS request with these fields is a preflight as browsers send it: without a
    /// body, an expectation or an upgrade.
    pub fn is_plain_preflight(&self) -> bool {
        let is_absent = |field: RequestField<'_>| field == RequestField::Absent;
        let asks = !is_absent(self.origin) && !is_absent(self.requested_method);
        asks && is_absent(self.content_length) && is_absent(self.upgrade) && !self.has_expect
    }

    fn note(&mut self, name: &[u8], line: &'a [u8]) {
        let is = |other: &str| is_named(name, other);
        let field = match name.len() {
            4 if is("host") => &mut self.host,
            6 if is("origin") => &mut self.origin,
            7 if is("upgrade") => &mut self.upgrade,
            10 if is("connection") => &mut self.connection,
            11 if is("traceparent") => &mut self.traceparent,
            12 if is("x-request-id") => &mut self.request_id,
            14 if is("sec-fetch-site") => &mut self.sec_fetch_site,
            14 if is("sec-fetch-mode") => &mut self.sec_fetch_mode,
            14 if is("sec-fetch-dest") => &mut self.sec_fetch_dest,
            14 if is("content-length") => &mut self.content_length,
            17 if is("transfer-encoding") => &mut self.transfer_encoding,
            17 if is("x-forwarded-proto") => &mut self.forwarded_proto,
            29 if is("access-control-request-method") => &mut self.requested_method,
            6 if is("cookie") => return self.credentials = CredentialFields::Ambient,
            6 if is("expect") => return self.has_expect = true,
            8 if is("cdn-loop") => return self.has_cdn_loop = true,
            13 if is("authorization") => {
                return self.credentials = self.credentials.max(CredentialFields::of_authorization(line));
            }
            _ => return,
        };
        *field = field.with_line(line);
    }
}

/// The lines of one field.
#[derive(Debug)]
pub enum FieldLineIter<'a, 'n> {
    /// From a map.
    Map(ValueIter<'a, HeaderValue>),
    /// From all lines of a head.
    Lines {
        /// Lines not searched yet.
        rest: std::slice::Iter<'a, httparse::Header<'a>>,
        /// The field name, compared without case.
        name: &'n str,
    },
    /// The same from their positions.
    Spans { head: &'a [u8], rest: std::slice::Iter<'a, FieldSpan>, name: &'n str },
}

impl<'a> Iterator for FieldLineIter<'a, '_> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            FieldLineIter::Map(values) => values.next().map(HeaderValue::as_bytes),
            FieldLineIter::Lines { rest, name } => {
                rest.find(|line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
            }
            FieldLineIter::Spans { head, rest, name } => {
                let is_named = |line: &&FieldSpan| part(head, line.name).eq_ignore_ascii_case(name.as_bytes());
                rest.find(is_named).map(|line| part(head, line.value))
            }
        }
    }
}

impl HeadFields for HeaderFields<'_> {
    fn try_each_of(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.lines(name).try_for_each(visit)
    }
}

/// One field of a request, as a policy reads it.
#[derive(Debug)]
pub struct NamedField<'a> {
    pub fields: HeaderFields<'a>,
    pub name: HeaderName,
}

impl FieldLines for NamedField<'_> {
    fn try_each<'s>(&'s self, visit: &mut dyn FnMut(&'s [u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.fields.lines(&self.name).try_for_each(visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 17] = [
        "Host",
        "Origin",
        "Access-Control-Request-Method",
        "Sec-Fetch-Site",
        "Sec-Fetch-Mode",
        "Sec-Fetch-Dest",
        "X-Forwarded-Proto",
        "X-Request-Id",
        "Traceparent",
        "Connection",
        "Upgrade",
        "Content-Length",
        "Transfer-Encoding",
        "Expect",
        "Cookie",
        "Authorization",
        "CDN-Loop",
    ];

    /// The known fields that are present, by name. For a presence flag, the value is `there`.
    fn all<'a>(known: &KnownHeaders<'a>) -> Vec<(&'static str, RequestField<'a>)> {
        let presence = |is_there| if is_there { RequestField::One(b"there") } else { RequestField::Absent };
        let fields = [
            known.host,
            known.origin,
            known.requested_method,
            known.sec_fetch_site,
            known.sec_fetch_mode,
            known.sec_fetch_dest,
            known.forwarded_proto,
            known.request_id,
            known.traceparent,
            known.connection,
            known.upgrade,
            known.content_length,
            known.transfer_encoding,
            presence(known.has_expect),
            presence(known.credentials == CredentialFields::Ambient),
            presence(known.credentials == CredentialFields::Explicit),
            presence(known.has_cdn_loop),
        ];
        KNOWN.into_iter().zip(fields).filter(|(_, field)| field.is_present()).collect()
    }

    /// Runs `check` with these lines in every form.
    fn in_all_forms(lines: &[(&str, &str)], check: impl Fn(HeaderFields<'_>)) {
        let text: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{text}\r\n");
        let mut parsed = [httparse::EMPTY_HEADER; 16];
        let (_, of_head) = httparse::parse_headers(head.as_bytes(), &mut parsed).unwrap().unwrap();
        check(HeaderFields::Lines(of_head));
        let mut spans = FieldSpans::default();
        spans.set(head.as_bytes(), of_head);
        let copied = head.clone();
        check(HeaderFields::Spans(copied.as_bytes(), &spans));
        let of_map = lines.iter().map(|(name, value)| (name.parse().unwrap(), value.trim().parse().unwrap()));
        check(HeaderFields::from(&of_map.collect::<HeaderMap>()));
    }

    fn check(lines: &[(&str, &str)], expected: &[(&'static str, RequestField<'_>)]) {
        in_all_forms(lines, |fields| assert_eq!(all(&KnownHeaders::of(fields)), expected, "{lines:?}"));
    }

    #[test]
    fn known_headers_match_whole_names_in_any_case() {
        let there = |name| (name, RequestField::One(b"there"));
        for name in KNOWN {
            check(&[(name, "there")], &[there(name)]);
            check(&[(&name.to_ascii_uppercase(), "there")], &[there(name)]);
            check(&[(&format!("q{}", name.split_at(1).1), "there")], &[]);
            check(&[(&format!("{name}s"), "there")], &[]);
        }
        let stored = [("Cookie", RequestField::One(b"there"))];
        check(&[("Authorization", "there"), ("Cookie", "a")], &stored);
        check(&[("Authorization", "there"), ("authorization", "basic a")], &stored);
        let twice = [("Origin", "a"), ("Host", "b"), ("origin", "a")];
        check(&twice, &[("Host", RequestField::One(b"b")), ("Origin", RequestField::Many)]);
    }

    #[test]
    fn all_lines_come_once_with_name_and_value() {
        in_all_forms(&[("Via", "a, b"), ("X-A", ""), ("Host", "c")], |fields| {
            let mut all = Vec::new();
            fields.for_each(|line| all.push((line.name().to_ascii_lowercase(), line.value())));
            all.sort_unstable();
            assert_eq!(all, [(b"host".to_vec(), &b"c"[..]), (b"via".to_vec(), b"a, b"), (b"x-a".to_vec(), b"")]);
        });
    }

    #[test]
    fn field_lines_and_elements_come_in_order() {
        let via = http::header::VIA;
        in_all_forms(&[("Via", "a, b"), ("Vias", "x"), ("via", ""), ("VIA", "c \t,d")], |fields| {
            assert_eq!(fields.lines(&via).collect::<Vec<_>>(), [&b"a, b"[..], b"", b"c \t,d"]);
            assert_eq!(fields.elements(&via).collect::<Vec<_>>(), [&b"a"[..], b"b", b"", b"c", b"d"]);
            assert_eq!((fields.first(&via), fields.has(&via)), (Some(&b"a, b"[..]), true));
            assert_eq!((fields.first(&http::header::TE), fields.has(&http::header::TE)), (None, false));
            let mut seen = Vec::new();
            let outcome = NamedField { fields, name: via.clone() }.try_each(&mut |line| {
                seen.push(line.to_vec());
                if line.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!((outcome, seen), (ControlFlow::Break(()), vec![b"a, b".to_vec(), Vec::new()]));
        });
    }
}
