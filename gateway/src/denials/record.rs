//! One denial: a bounded copy, in one allocation, of everything that a verdict depends on.
//!
//! `explain` turns the copy back into a request. Each part has a length limit. Absent on purpose:
//! the query, cookies and credentials; only the kind of credentials is recorded.

use std::sync::{Arc, Weak};

use crossgate_policy::{CredentialFields, ORIGIN_LEN_MAX, RequestField, Scheme};
use http::header::{ACCESS_CONTROL_REQUEST_HEADERS, CONNECTION};

use crate::counters::TenantCounters;
use crate::metrics::VerdictLabel;
use crate::probe::{ExplainedRequest, LoggedOutcome, SenderTrust};
use crate::request_head::RequestHead;
use crossgate_message::fields::{SEC_FETCH_DEST, SEC_FETCH_MODE, SEC_FETCH_SITE};
use crossgate_message::hop_by_hop::{is_connection_harmless, requests_websocket};
use crossgate_wire::refusal::HeadRefusal;

/// The number of parts of a copy; their order follows.
const PARTS: usize = 11;
const REQUEST_ID: usize = 0;
const METHOD: usize = 1;
const PATH: usize = 2;
const HOST: usize = 3;
const ORIGIN: usize = 4;
const REQUESTED_METHOD: usize = 5;
const REQUESTED_HEADERS: usize = 6;
const FETCH_SITE: usize = 7;
const FETCH_MODE: usize = 8;
const FETCH_DEST: usize = 9;
const CONNECTION_TOKENS: usize = 10;

/// The maximum length of each part. Longer ones are truncated, which is recorded.
const LEN_MAX: [usize; PARTS] = [128, 32, 512, 260, ORIGIN_LEN_MAX, 32, 512, 32, 32, 32, 128];
/// Initial capacity; most copies are shorter.
const LEN_USUAL: usize = 192;

/// A recorded denied request.
#[derive(Clone, Debug)]
pub struct RecordedDenial {
    tenant: Weak<TenantCounters>,
    origin_hash: u64,
    generation: u64,
    verdict: VerdictLabel,
    reason: &'static str,
    copy: HeadCopy,
    refusal: Option<HeadRefusal>,
}

/// The explainable content of a denial.
#[derive(Debug)]
pub enum DeniedRequest {
    /// A judged request.
    Judged(ExplainedRequest),
    /// A head that the lane refused.
    RefusedHead(HeadRefusal),
}

/// A bounded copy of a request head.
#[derive(Clone, Debug)]
pub(super) struct HeadCopy {
    bytes: Box<[u8]>,
    /// The end of each part in `bytes`.
    ends: [u16; PARTS],
    /// The number of lines of each part: 0, 1, or 2 for more.
    lines: [u8; PARTS],
    scheme: Option<Scheme>,
    is_websocket: bool,
    credentials: CredentialFields,
    is_cut: bool,
}

impl RecordedDenial {
    pub(super) fn new(
        tenant: &Arc<TenantCounters>,
        generation: u64,
        verdict: VerdictLabel,
        reason: &'static str,
        copy: HeadCopy,
        refusal: Option<HeadRefusal>,
    ) -> Self {
        RecordedDenial { tenant: Arc::downgrade(tenant), origin_hash: 0, generation, verdict, reason, copy, refusal }
    }

    pub(super) fn with_origin_hash(self, origin_hash: u64) -> Self {
        RecordedDenial { origin_hash, ..self }
    }

    pub(super) fn origin_hash(&self) -> u64 {
        self.origin_hash
    }

    pub(super) fn tenant(&self) -> &Weak<TenantCounters> {
        &self.tenant
    }

    /// The size in memory.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.copy.bytes.len()
    }

    pub(super) fn has_request_id(&self, request_id: &str) -> bool {
        self.copy.part(REQUEST_ID) == request_id.as_bytes()
    }

    /// The configuration generation that judged the request.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The explainable content.
    pub fn request(&self) -> DeniedRequest {
        match self.refusal {
            Some(refusal) => DeniedRequest::RefusedHead(refusal),
            None => DeniedRequest::Judged(self.probe()),
        }
    }

    fn probe(&self) -> ExplainedRequest {
        let copy = &self.copy;
        let lines = [
            ("host", HOST),
            ("origin", ORIGIN),
            ("access-control-request-method", REQUESTED_METHOD),
            ("access-control-request-headers", REQUESTED_HEADERS),
            ("sec-fetch-site", FETCH_SITE),
            ("sec-fetch-mode", FETCH_MODE),
            ("sec-fetch-dest", FETCH_DEST),
            ("connection", CONNECTION_TOKENS),
        ];
        let line = |(name, part): (&str, usize)| {
            let times = usize::from(copy.lines.get(part).copied().unwrap_or_default());
            std::iter::repeat_n((name.to_owned(), copy.part(part).to_vec()), times)
        };
        let mut fields: Vec<_> = lines.into_iter().flat_map(line).collect();
        let made = [
            ("x-forwarded-proto", copy.scheme.map(Scheme::as_str)),
            ("upgrade", copy.is_websocket.then_some("websocket")),
            ("cookie", (copy.credentials == CredentialFields::Ambient).then_some("not-recorded")),
            ("authorization", (copy.credentials == CredentialFields::Explicit).then_some("not-recorded")),
        ];
        fields.extend(made.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.as_bytes().to_vec()))));
        let (verdict, reason) = (Some(self.verdict.as_str().to_owned()), Some(self.reason.to_owned()));
        ExplainedRequest {
            method: copy.part(METHOD).to_vec(),
            target: copy.part(PATH).to_vec(),
            fields,
            // A known scheme came from TLS or from a trusted proxy, so it may be trusted here.
            sender: if copy.scheme.is_some() { SenderTrust::TrustedProxy } else { SenderTrust::Untrusted },
            logged: Some(LoggedOutcome { verdict, reason, is_cut: copy.is_cut }),
        }
    }
}

impl HeadCopy {
    /// A copy with a request id only.
    pub(super) fn of_id(request_id: &str) -> Self {
        let mut writer = CopyWriter::new();
        writer.push_first([request_id.as_bytes()].into_iter());
        writer.finish()
    }

    pub(super) fn of_head(request_id: &str, head: &RequestHead<'_>) -> Self {
        let (noted, fields) = (&head.known, head.headers);
        let is_preflight = head.method == b"OPTIONS" && noted.requested_method != RequestField::Absent;
        let path = head.target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let is_websocket = noted.upgrade != RequestField::Absent && requests_websocket(fields);
        let is_connection_relevant =
            is_websocket || noted.connection != RequestField::Absent && !is_connection_harmless(fields);
        let mut writer = CopyWriter::new();
        writer.push_first([request_id.as_bytes()].into_iter());
        writer.push_first([head.method].into_iter());
        writer.push_first([path].into_iter());
        writer.push_first(fields.lines(&http::header::HOST));
        writer.push_first(fields.lines(&http::header::ORIGIN));
        writer.push_first(fields.lines(&http::header::ACCESS_CONTROL_REQUEST_METHOD).filter(|_| is_preflight));
        // Several lines form one list (RFC 9110, section 5.3).
        writer.push_list(fields.lines(&ACCESS_CONTROL_REQUEST_HEADERS).filter(|_| is_preflight));
        writer.push_first(fields.lines(&SEC_FETCH_SITE));
        writer.push_first(fields.lines(&SEC_FETCH_MODE));
        writer.push_first(fields.lines(&SEC_FETCH_DEST));
        writer.push_list(fields.lines(&CONNECTION).filter(|_| is_connection_relevant));
        HeadCopy { scheme: head.scheme, is_websocket, credentials: noted.credentials, ..writer.finish() }
    }

    fn part(&self, part: usize) -> &[u8] {
        let end = |part: usize| self.ends.get(part).copied().map_or(0, usize::from);
        let start = part.checked_sub(1).map_or(0, end);
        self.bytes.get(start..end(part)).unwrap_or_default()
    }
}

/// Writes the parts of a copy in order.
struct CopyWriter {
    bytes: Vec<u8>,
    part: usize,
    ends: [u16; PARTS],
    lines: [u8; PARTS],
    is_cut: bool,
}

impl CopyWriter {
    fn new() -> Self {
        CopyWriter { bytes: Vec::with_capacity(LEN_USUAL), part: 0, ends: [0; PARTS], lines: [0; PARTS], is_cut: false }
    }

    /// Writes the first line, and records whether there were more.
    fn push_first<'a>(&mut self, mut lines: impl Iterator<Item = &'a [u8]>) {
        let first = lines.next();
        let count = usize::from(first.is_some()) + usize::from(lines.next().is_some());
        self.push_joined(first.into_iter(), count);
    }

    /// Writes all lines, joined by commas.
    fn push_list<'a>(&mut self, lines: impl Iterator<Item = &'a [u8]>) {
        let mut lines = lines.peekable();
        let count = usize::from(lines.peek().is_some());
        self.push_joined(lines, count);
    }

    fn push_joined<'a>(&mut self, lines: impl Iterator<Item = &'a [u8]>, count: usize) {
        let mut room = LEN_MAX.get(self.part).copied().unwrap_or_default();
        for (nth, line) in lines.enumerate() {
            let comma: &[u8] = if nth == 0 { b"" } else { b"," };
            for text in [comma, line] {
                let (kept, rest) = text.split_at_checked(room).unwrap_or((text, b""));
                self.bytes.extend_from_slice(kept);
                room -= kept.len();
                self.is_cut |= !rest.is_empty();
            }
        }
        if let (Some(end), Some(lines)) = (self.ends.get_mut(self.part), self.lines.get_mut(self.part)) {
            *end = u16::try_from(self.bytes.len()).unwrap_or(u16::MAX);
            *lines = u8::try_from(count).unwrap_or(u8::MAX);
        }
        self.part += 1;
    }

    fn finish(mut self) -> HeadCopy {
        let last = u16::try_from(self.bytes.len()).unwrap_or(u16::MAX);
        self.ends.iter_mut().skip(self.part).for_each(|end| *end = last);
        HeadCopy {
            bytes: self.bytes.into_boxed_slice(),
            ends: self.ends,
            lines: self.lines,
            scheme: None,
            is_websocket: false,
            credentials: CredentialFields::Absent,
            is_cut: self.is_cut,
        }
    }
}
