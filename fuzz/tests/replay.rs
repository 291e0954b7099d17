//! Runs every input of the fuzz corpus through its target, on stable Rust and without a fuzzer.
//!
//! `corpus/` has one archive per target, with one line per input: a name, and in quotes the bytes
//! as `[u8]::escape_ascii` writes them. `tools/fuzz-corpus.py` adds inputs to an archive and
//! unpacks it for a fuzzer.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crossgate_fuzz::TARGETS;

/// A larger corpus would slow down the tests, and a fuzzer finds its inputs again.
const INPUTS_MAX: usize = 200;
const BYTES_MAX: usize = 300 << 10;

struct Input {
    name: String,
    bytes: Vec<u8>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of a directory's files, without their extensions.
fn stems(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

/// The inputs of a target's archive.
fn unpack(target: &str) -> Vec<Input> {
    let path = root().join("corpus").join(target).with_extension("txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let line = |(index, line): (usize, &str)| {
        parse(line).unwrap_or_else(|| {
            panic!("{}:{}: invalid line: write it with tools/fuzz-corpus.py", path.display(), index + 1)
        })
    };
    text.lines().enumerate().map(line).collect()
}

fn parse(line: &str) -> Option<Input> {
    let (name, quoted) = line.split_once(' ')?;
    let escaped = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let bytes = unescape(escaped)?;
    // An input has exactly one form, so that archives of the same inputs are the same.
    let is_canonical = bytes.escape_ascii().to_string() == escaped;
    is_canonical.then(|| Input { name: name.to_owned(), bytes })
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chars = text.bytes();
    while let Some(byte) = chars.next() {
        bytes.push(match byte {
            b'\\' => match chars.next()? {
                b't' => b'\t',
                b'r' => b'\r',
                b'n' => b'\n',
                b'x' => 16 * hex_digit(chars.next()?)? + hex_digit(chars.next()?)?,
                other => other,
            },
            plain => plain,
        });
    }
    Some(bytes)
}

fn hex_digit(byte: u8) -> Option<u8> {
    u8::try_from(char::from(byte).to_digit(16)?).ok()
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(stems(&root().join("corpus")), targets);
    assert_eq!(stems(&root().join("libfuzzer/fuzz_targets")), targets);
}

#[test]
fn every_corpus_input_holds() {
    for (name, target) in TARGETS {
        let inputs = unpack(name);
        let bytes: usize = inputs.iter().map(|input| input.bytes.len()).sum();
        assert!(
            (1..=INPUTS_MAX).contains(&inputs.len()) && bytes <= BYTES_MAX,
            "{name}: {} inputs, {bytes} bytes",
            inputs.len()
        );
        assert!(inputs.is_sorted_by(|a, b| a.name < b.name), "{name}: inputs out of order, or a name used twice");
        for input in inputs {
            println!("{name}: {}", input.name);
            target(&input.bytes);
        }
    }
}
