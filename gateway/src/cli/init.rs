//! `crossgate init [FILE]`: writes a commented sample configuration.
//!
//! The sample is `ops/config/first.yaml`, which is built into the binary. An existing file is never
//! overwritten.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{GOOD, WRONG};

/// The shipped sample.
const FIRST: &str = include_str!("../../../ops/config/first.yaml");

/// The name of standard output.
const STDOUT: &str = "-";

/// The arguments of `crossgate init`.
#[derive(Debug, Clone, clap::Args)]
pub struct InitArgs {
    /// The file to write; `-` is standard output
    #[arg(value_name = "FILE", default_value = "crossgate.yaml", conflicts_with = "config")]
    pub file: PathBuf,
    /// The file to write, as in other commands
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Writes the file unless it exists; `-` is standard output.
///
/// # Errors
/// The output cannot be written.
pub fn run(args: &InitArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let file = args.config.as_ref().unwrap_or(&args.file);
    if file == Path::new(STDOUT) {
        out.write_all(FIRST.as_bytes())?;
        return Ok(GOOD);
    }
    match write(file) {
        Ok(()) => {
            let name = file.display();
            writeln!(out, "wrote {name}; edit it, then: crossgate check {name} && crossgate run {name}")?;
            Ok(GOOD)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            writeln!(err, "error: {} already exists and is unchanged: pass another file name", file.display())?;
            Ok(WRONG)
        }
        Err(error) => {
            writeln!(err, "error: cannot write {}: {error}", file.display())?;
            Ok(WRONG)
        }
    }
}

fn write(file: &Path) -> io::Result<()> {
    File::create_new(file)?.write_all(FIRST.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(file: &Path) -> (u8, String, String) {
        let args = InitArgs { file: file.to_path_buf(), config: None };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&args, &mut out, &mut err).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn d7_init_writes_a_valid_file_and_overwrites_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("crossgate.yaml");
        let (code, out, err) = init(&file);
        assert_eq!((code, err.as_str()), (GOOD, ""));
        assert!(out.contains("crossgate check "), "{out}");
        let found = crate::reload::check(&file);
        assert!(found.is_empty(), "{found}");

        std::fs::write(&file, "mine").unwrap();
        let (code, out, err) = init(&file);
        assert_eq!((code, out.as_str()), (WRONG, ""));
        assert!(err.contains("already exists"), "{err}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        assert_eq!(init(&directory.path().join("missing/crossgate.yaml")).0, WRONG);
        assert_eq!(init(Path::new("-")), (GOOD, FIRST.to_owned(), String::new()));
    }
}
