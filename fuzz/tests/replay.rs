//! The corpus of every target, on stable Rust and without a fuzzer: what was found once stays found.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crossgate_fuzz::TARGETS;

/// More is for the fuzzer to find again; it would only make the repository and its tests slower.
const FILES_MAX: usize = 200;
const BYTES_MAX: u64 = 300 << 10;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn names(paths: &[PathBuf]) -> BTreeSet<String> {
    paths.iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&files(&root().join("corpus"))), targets);
    assert_eq!(names(&files(&root().join("libfuzzer/fuzz_targets"))), targets);
}

#[test]
fn every_file_of_the_corpus_holds() {
    for (name, target) in TARGETS {
        let files = files(&root().join("corpus").join(name));
        let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert!(
            (1..=FILES_MAX).contains(&files.len()) && bytes <= BYTES_MAX,
            "{name}: {} files, {bytes} bytes",
            files.len()
        );
        for file in files {
            println!("{}", file.display());
            target(&fs::read(&file).unwrap());
        }
    }
}
