//! Checks the modules of a crate against a written order: each imports only modules before it, so
//! there is no cycle.
//!
//! The crates include this file in their tests. Files and modules of tests are not checked and may
//! import any module.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Checks the crate with this source directory against `order`, lowest first.
pub(crate) fn check(source: &Path, order: &[&str]) {
    let mut problems = Vec::new();
    let listed: BTreeSet<&str> = order.iter().copied().collect();
    assert_eq!(listed.len(), order.len(), "the order lists a module twice");
    let mut seen = BTreeSet::new();
    for file in sources(source) {
        let module = module_of(source, &file);
        if matches!(&*module, "lib" | "main") {
            continue;
        }
        let Some(position) = order.iter().position(|name| **name == *module) else {
            problems.push(format!("{module}: missing in the order of modules"));
            continue;
        };
        seen.insert(module.clone());
        let text = std::fs::read_to_string(&file).unwrap();
        let depth = file.strip_prefix(source).unwrap().components().count();
        for import in imports(&text, depth) {
            let is_lower = order.iter().take(position + 1).any(|name| **name == *import);
            if !is_lower && listed.contains(&*import) {
                problems.push(format!("{}: {module} imports {import}, which is later in the order", file.display()));
            }
        }
    }
    problems.extend(order.iter().filter(|name| !seen.contains(**name)).map(|name| format!("{name}: no such module")));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            match path.is_dir() {
                true if name != "tests" => directories.push(path),
                false if name.ends_with(".rs") && name != "tests.rs" => files.push(path),
                true | false => {}
            }
        }
    }
    files
}

/// The top-level module of a file.
fn module_of(source: &Path, file: &Path) -> String {
    let first = file.strip_prefix(source).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The crate's modules that a file names outside comments and tests. `depth` is the number of
/// `super::` that lead to the crate root.
fn imports(text: &str, depth: usize) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n").replace(&"super::".repeat(depth), "crate::");
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let is_other_crate = code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if is_other_crate {
            continue;
        }
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(first_names(group)),
            None => found.extend(name(rest)),
        }
    }
    found
}

/// The first name of each path in a group of imports.
fn first_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut is_start) = (Vec::new(), 0_usize, true);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if depth == 0 && is_start && !char.is_whitespace() => {
                names.extend(name(&group[at..]));
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

fn name(path: &str) -> Option<String> {
    let len = path.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(path.len());
    path.get(..len).filter(|name| !name.is_empty()).map(str::to_owned)
}

#[test]
fn imports_are_found_wherever_they_are_written() {
    let text = "//! [x](crate::in_a_comment)\nuse crate::a::B;\nuse crate::{c, d::{E, F}, self_::g};\nfn h() { crate::i::j() }\n\
                use other_crate::k;\nuse super::m;\n#[cfg(test)]\nmod tests {\n    use crate::l;\n}\n";
    assert_eq!(imports(text, 1).into_iter().collect::<Vec<_>>(), ["a", "c", "d", "i", "m", "self_"]);
}
