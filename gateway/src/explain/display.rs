//! An explanation for a person to read.

use std::fmt;

use super::{Author, Explanation, Response};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("tenant", self.tenant.as_deref()),
            ("route", self.route.as_deref()),
            ("policy", self.policy.as_deref()),
            ("mode", self.mode),
            ("kind", self.kind),
            ("verdict", Some(self.verdict.as_str())),
            ("reason", Some(self.reason)),
            ("entry", self.entry.as_deref()),
            ("cause", self.cause.as_deref()),
        ];
        for (name, value) in rows {
            row(f, name, value)?;
        }
        for miss in &self.near_misses {
            row(f, "near miss", Some(&miss.to_string()))?;
        }
        if let Some(rule) = &self.rule {
            write!(f, "{rule}")?;
        }
        for entry in &self.allowed.entries {
            row(f, "allowed", Some(entry))?;
        }
        if self.allowed.more > 0 {
            row(f, "allowed", Some(&format!("and {} more", self.allowed.more)))?;
        }
        for note in &self.notes {
            row(f, "note", Some(note))?;
        }
        write!(f, "{}", self.response)
    }
}

pub(super) fn row(f: &mut fmt::Formatter<'_>, name: &str, value: Option<&str>) -> fmt::Result {
    value.map_or(Ok(()), |value| writeln!(f, "{name:<10} {value}"))
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.by, self.status) {
            (Author::Gateway, Some(status)) => row(f, "answer", Some(&format!("{status}, made by the gateway")))?,
            (Author::Gateway | Author::Upstream, _) => row(f, "answer", Some("the upstream's"))?,
        }
        if let Some(prefix) = self.removes {
            row(f, "removes", Some(&format!("{prefix}*")))?;
        }
        for (name, value) in &self.headers {
            row(f, if self.removes.is_some() { "adds" } else { "header" }, Some(&format!("{name}: {value}")))?;
        }
        Ok(())
    }
}
