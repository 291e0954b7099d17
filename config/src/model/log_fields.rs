//! The fields of the access log.

macro_rules! fields {
    ($($field:ident => $name:literal,)+) => {
        /// A field of a line, as described in `docs/reference/access-log.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum LogField { $($field,)+ }

        impl LogField {
            /// All fields in the order of a line.
            pub const ALL: [LogField; [$($name),+].len()] = [$(LogField::$field),+];

            /// The name in a line and in `accessLog.fields`.
            pub fn as_str(self) -> &'static str {
                match self { $(LogField::$field => $name,)+ }
            }
        }
    };
}

fields! {
    Time => "time",
    RequestId => "request_id",
    TraceId => "trace_id",
    Tenant => "tenant",
    Route => "route",
    Policy => "policy",
    Kind => "kind",
    Verdict => "verdict",
    Reason => "reason",
    Entry => "entry",
    Group => "group",
    RuleSource => "rule_source",
    RuleMessage => "rule_message",
    RuleError => "rule_error",
    Origin => "origin",
    OriginFields => "origin_fields",
    Host => "host",
    Method => "method",
    Path => "path",
    RequestedMethod => "requested_method",
    RequestedMethodFields => "requested_method_fields",
    RequestedHeaders => "requested_headers",
    SecFetchSite => "sec_fetch_site",
    SecFetchSiteFields => "sec_fetch_site_fields",
    SecFetchMode => "sec_fetch_mode",
    SecFetchModeFields => "sec_fetch_mode_fields",
    SecFetchDest => "sec_fetch_dest",
    SecFetchDestFields => "sec_fetch_dest_fields",
    Connection => "connection",
    Scheme => "scheme",
    Protocol => "protocol",
    HasCredentials => "has_credentials",
    HasAmbientCredentials => "has_ambient_credentials",
    Status => "status",
    DurationMs => "duration_ms",
    Upstream => "upstream",
    UpstreamPath => "upstream_path",
    UpstreamDurationMs => "upstream_duration_ms",
    Client => "client",
    Generation => "generation",
    Note => "note",
    Cut => "cut",
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFieldSet(u64);

impl LogFieldSet {
    pub const ALL: LogFieldSet = LogFieldSet(u64::MAX);

    pub fn contains(self, field: LogField) -> bool {
        self.0 & bit(field) != 0
    }
}

impl FromIterator<LogField> for LogFieldSet {
    fn from_iter<I: IntoIterator<Item = LogField>>(fields: I) -> Self {
        LogFieldSet(fields.into_iter().fold(0, |set, field| set | bit(field)))
    }
}

const fn bit(field: LogField) -> u64 {
    1 << (field as u64)
}

const _: () = assert!(LogField::ALL.len() <= u64::BITS as usize, "a bit for each field");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_contains_exactly_its_fields() {
        let set: LogFieldSet = [LogField::Time, LogField::Cut].into_iter().collect();
        let has: Vec<_> = LogField::ALL.into_iter().filter(|field| set.contains(*field)).collect();
        assert_eq!(has, [LogField::Time, LogField::Cut]);
        assert!(LogField::ALL.into_iter().all(|field| LogFieldSet::ALL.contains(field)));
    }

    #[test]
    fn the_reference_page_describes_every_field_in_order() {
        let page = include_str!("../../../docs/reference/access-log.md");
        let table = page.split("## Fields").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let described: Vec<&str> = rows.collect();
        assert_eq!(described, LogField::ALL.map(LogField::as_str));
    }
}
