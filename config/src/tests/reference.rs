//! The generated part of `docs/reference/configuration.md`.
//!
//! Keys, texts and enum values come from the schema. Types and ranges come from the messages of the
//! decoder: each key is set to null, and the message says what was expected. So a key that the
//! schema declares and the decoder ignores fails the test.

use std::fmt::Write as _;

use serde_json::Value;

use super::*;

/// The line of the page below which everything is generated.
const MARKER: &str = "<!-- generated from config/src/schema.rs -->";

const COLUMNS: usize = 100;

/// A valid file in which every section is present.
const BASE: &str = r#"
version: 1
listeners:
  - address: 127.0.0.1:0
    tls: { certificates: [{ certificate: a.crt, key: a.key }] }
    proxyProtocol: { from: [10.0.0.0/8] }
admin: { address: 127.0.0.1:0, tokenFile: token }
runtime: {}
limits: { rules: {} }
shutdown: {}
accessLog: { path: access.log, rotate: { size: 1MiB } }
ledger: {}
resolver: {}
upstreams:
  name:
    servers: [{ address: "a.internal:1" }]
    timeouts: {}
    tls: { clientCertificate: { certificate: a.crt, key: a.key } }
    healthCheck: { path: / }
    limits: { maxRequests: 1 }
  grpc: { servers: ["127.0.0.1:1"], protocol: Http2, healthCheck: { grpc: { service: a } } }
policies:
  name: { rule: { script: a.rhai }, groups: [{ name: a }] }
tenants:
  - id: a
    hosts: [a.example]
    allowOrigins: [{ group: a, origins: [] }]
    requestHeaders: {}
    responseHeaders: {}
    routes:
      - pathPrefix: /a
        headers: { name: { present: true } }
        query: { name: { present: true } }
        allowOrigins: [{ group: a, origins: [] }]
        requestHeaders: {}
        responseHeaders: {}
        rewrite: { pathPrefix: / }
      - { pathPrefix: /b, redirect: { status: 307, pathPrefix: /c } }
      - { pathPrefix: /d, respond: { status: 200 } }
scriptsDir: scripts
"#;

/// A section of the schema, in the order of the page.
struct PageSection<'s> {
    /// The path of its key, such as `listeners.tls`; empty for the top level.
    name: String,
    /// The path of its value in `BASE`.
    pointer: String,
    shape: &'static str,
    schema: &'s Value,
}

fn definition<'s>(root: &'s Value, schema: &'s Value) -> Option<&'s Value> {
    let name = schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?;
    root["$defs"].get(name)
}

/// The section that a key has, with the part of the pointer behind the key and the shape of its
/// value.
fn section_of<'s>(root: &'s Value, key: &'s Value) -> Option<(&'s Value, &'static str, &'static str)> {
    let is_section = |schema: &Value| schema.get("properties").is_some();
    let found = |schema: &'s Value| {
        let schema = definition(root, schema)?;
        let choices = schema["anyOf"].as_array().into_iter().flatten();
        let nested = choices.filter_map(|choice| definition(root, choice));
        [schema].into_iter().chain(nested).find(|schema| is_section(schema))
    };
    found(key)
        .map(|section| (section, "", ""))
        .or_else(|| Some((found(&key["items"])?, "/0", " Each entry of the list has these keys:")))
        .or_else(|| Some((found(&key["additionalProperties"])?, "/name", " The value of each name has these keys:")))
}

/// In the base, sections that exclude each other have an upstream or a route of their own.
fn pointer_for(pointer: String, key: &str) -> String {
    match key {
        "grpc" => pointer.replace("/name/", "/grpc/"),
        "redirect" => pointer.replace("/routes/0", "/routes/1"),
        "respond" => pointer.replace("/routes/0", "/routes/2"),
        _ => pointer,
    }
}

fn sections(root: &Value) -> Vec<PageSection<'_>> {
    let top = PageSection { name: String::new(), pointer: String::new(), shape: "", schema: root };
    let mut sections = Vec::new();
    let mut open = vec![top];
    while let Some(section) = open.pop() {
        let nested = section.schema["properties"].as_object().unwrap().iter().filter_map(|(key, schema)| {
            let (schema, step, shape) = section_of(root, schema)?;
            let name = format!("{}.{key}", section.name).trim_start_matches('.').to_owned();
            let pointer = format!("{}/{key}{step}", section.pointer);
            Some(PageSection { name, pointer: pointer_for(pointer, key), shape, schema })
        });
        open.extend(nested.collect::<Vec<_>>().into_iter().rev());
        sections.push(section);
    }
    sections
}

/// The base with this value for a key of a section, or without the key.
fn with_key(section: &PageSection<'_>, key: &str, value: Option<Value>) -> String {
    let mut base: Value = serde_saphyr::from_str(BASE).unwrap();
    let target = base.pointer_mut(&section.pointer).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(target.insert(key.to_owned(), value)),
        None => drop(target.remove(key)),
    }
    base.to_string()
}

/// The type and range of a key, from the message of the decoder about null.
fn expected_type(section: &PageSection<'_>, key: &str) -> String {
    let pointer = pointer_for(section.pointer.clone(), key);
    let text = with_key(&PageSection { pointer, name: section.name.clone(), ..*section }, key, Some(Value::Null));
    let column = text.split("null").next().unwrap().chars().count() + 1;
    let found = main_file(&text).found;
    let finding = found.iter().find(|one| one.place.column as usize == column);
    let message = &finding.unwrap_or_else(|| panic!("the decoder ignores {}.{key}", section.name)).message;
    let Some((expected, _)) = message.strip_prefix("expected ").and_then(|rest| rest.split_once(", found nothing"))
    else {
        return "the number 1".to_owned();
    };
    let expected = expected.split(", such as").next().unwrap();
    if expected.ends_with("(a mapping)") { "a mapping".to_owned() } else { expected.to_owned() }
}

/// Words that a key accepts in addition to that type, such as `auto`.
fn other_words(root: &Value, schema: &Value) -> String {
    let choices = definition(root, schema).unwrap_or(schema)["anyOf"].as_array().into_iter().flatten();
    choices
        .map(|choice| match choice["const"].as_str() {
            Some(word) => format!("`{word}` or "),
            None if choice["type"] == "boolean" => "true, false or ".to_owned(),
            None => String::new(),
        })
        .collect()
}

/// Text in lines of at most `COLUMNS`, the later ones indented.
fn wrapped(first: &str, indent: &str, text: &str) -> String {
    let (mut lines, mut line) = (String::new(), first.to_owned());
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(lines, "{}", line.trim_end());
            line = indent.to_owned();
        }
        if !line.ends_with(' ') && !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines + line.trim_end() + "\n"
}

fn anchor(name: &str) -> String {
    name.replace('.', "").to_lowercase()
}

fn key_entry(root: &Value, section: &PageSection<'_>, key: &str, schema: &Value) -> String {
    let is_required = section.schema["required"].as_array().is_some_and(|keys| keys.iter().any(|one| one == key));
    let required = if is_required { ", required" } else { "" };
    let name = format!("{}.{key}", section.name).trim_start_matches('.').to_owned();
    let link = section_of(root, schema).map(|_| format!(" See [{name}](#{}).", anchor(&name))).unwrap_or_default();
    let text = schema["description"].as_str().unwrap();
    let expected = other_words(root, schema) + &expected_type(section, key);
    let mut entry = wrapped("- ", "  ", &format!("**`{key}`** ({expected}{required}): {text}{link}"));
    let referenced = [schema, &schema["items"]].into_iter().find_map(|schema| definition(root, schema));
    for choice in referenced.and_then(|schema| schema["oneOf"].as_array()).into_iter().flatten() {
        let (word, text) = (choice["const"].as_str().unwrap(), choice["description"].as_str().unwrap());
        entry += &wrapped("  - ", "    ", &format!("`{word}`: {text}"));
    }
    entry
}

fn generated(root: &Value) -> String {
    let mut page = String::new();
    for section in sections(root) {
        let level = "#".repeat(2 + section.name.matches('.').count());
        let heading = if section.name.is_empty() { "Top level" } else { &section.name };
        let text = section.schema["description"].as_str().unwrap();
        let _ = write!(page, "\n{level} {heading}\n\n{}\n", wrapped("", "", &format!("{text}{}", section.shape)));
        for (key, schema) in section.schema["properties"].as_object().unwrap() {
            page += &key_entry(root, &section, key, schema);
        }
    }
    page
}

#[test]
fn the_reference_page_is_current() {
    let path = "docs/reference/configuration.md";
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap();
    let (head, _) = page.split_once(MARKER).unwrap();
    let root = serde_json::to_value(crate::schema::main_file()).unwrap();
    assert_current(path, &format!("{head}{MARKER}\n{}", generated(&root)));
}

#[test]
fn a_documented_default_is_what_the_decoder_uses() {
    let root = serde_json::to_value(crate::schema::main_file()).unwrap();
    let mut checked = 0;
    for section in sections(&root) {
        for (key, schema) in section.schema["properties"].as_object().unwrap() {
            let text = schema["description"].as_str().unwrap();
            let Some((_, rest)) = text.split_once("Default: `") else { continue };
            let literal = rest.split('`').next().unwrap();
            let written = main_file(&with_key(&section, key, Some(serde_saphyr::from_str(literal).unwrap())));
            let absent = main_file(&with_key(&section, key, None));
            assert!(!written.found.has_errors(), "{}.{key}: {}", section.name, written.found);
            assert_eq!(written.value, absent.value, "{}.{key}: {literal}", section.name);
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}
