//! Renders an explanation as text.
//!
//! Each row is a name, padded to ten characters, and a value. `crossgate explain` prints the rows,
//! and the admin page turns them into a table.

use std::fmt;

use super::{ExplainedResponse, Explanation, ResponseAuthor};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_location = |what: Option<&str>, at: Option<&String>| match (what, at) {
            (Some(what), Some(at)) => Some(format!("{what} ({at})")),
            (what, _) => what.map(str::to_owned),
        };
        let policy = with_location(self.policy.as_deref(), self.locations.policy_at.as_ref());
        let entry = with_location(self.entry.as_deref(), self.locations.entry_at.as_ref());
        let group = with_location(self.group.as_deref(), self.locations.group_at.as_ref());
        let rows = [
            ("tenant", self.tenant.as_deref()),
            ("route", self.route.as_deref()),
            ("rewritten", self.upstream_path.as_deref()),
            ("policy", policy.as_deref()),
            ("preset", self.preset),
            ("mode", self.mode),
            ("crossSite", self.cross_site),
            ("kind", self.kind),
            ("verdict", Some(self.verdict.as_str())),
            ("reason", Some(self.reason)),
            ("entry", entry.as_deref()),
            ("group", group.as_deref()),
            ("cause", self.cause.as_deref()),
        ];
        for (name, value) in rows {
            write_row(f, name, value)?;
        }
        if let Some(refused) = &self.refused {
            write!(f, "{refused}")?;
        }
        for miss in &self.near_misses {
            write_row(f, "near miss", Some(&miss.to_string()))?;
        }
        if let Some(rule) = &self.rule {
            write!(f, "{rule}")?;
        }
        for entry in &self.allowed.entries {
            write_row(f, "allowed", Some(entry))?;
        }
        if self.allowed.more > 0 {
            write_row(f, "allowed", Some(&format!("and {} more", self.allowed.more)))?;
        }
        for note in &self.notes {
            write_row(f, "note", Some(note))?;
        }
        write!(f, "{}", self.response)
    }
}

pub(super) fn write_row(f: &mut fmt::Formatter<'_>, name: &str, value: Option<&str>) -> fmt::Result {
    value.map_or(Ok(()), |value| writeln!(f, "{name:<10} {value}"))
}

impl fmt::Display for ExplainedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.by, self.status) {
            (ResponseAuthor::Gateway, Some(status)) => {
                write_row(f, "answer", Some(&format!("{status}, made by the gateway")))?
            }
            (ResponseAuthor::Gateway | ResponseAuthor::Upstream, _) => write_row(f, "answer", Some("the upstream's"))?,
        }
        if let Some(prefix) = self.removes {
            write_row(f, "removes", Some(&format!("{prefix}*")))?;
        }
        for (name, value) in &self.headers {
            write_row(f, if self.removes.is_some() { "adds" } else { "header" }, Some(&format!("{name}: {value}")))?;
        }
        Ok(())
    }
}
