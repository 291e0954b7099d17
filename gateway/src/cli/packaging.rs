//! `crossgate completions` and `crossgate manual`: files that a package installs with the binary.
//!
//! Both are generated from the command line definition, so they contain exactly the options of this
//! binary.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;

/// The arguments of `crossgate completions`.
#[derive(Debug, Clone, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The arguments of `crossgate manual`.
#[derive(Debug, Clone, clap::Args)]
pub struct ManualArgs {
    /// The directory to write the pages to, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints shell completions.
///
/// # Errors
/// The output cannot be written.
pub fn completions(args: &CompletionsArgs, mut command: Command, out: &mut dyn Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "crossgate", &mut script);
    out.write_all(&script)
}

/// Writes one manual page for `crossgate` and one for each command.
///
/// # Errors
/// A file cannot be written.
pub fn manual(args: &ManualArgs, command: Command) -> io::Result<()> {
    std::fs::create_dir_all(&args.directory)?;
    clap_mangen::generate_to(command, &args.directory)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::ValueEnum as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_has_completions_and_a_manual_page() {
        let directory = tempfile::TempDir::new().unwrap();
        manual(&ManualArgs { directory: directory.path().join("man1") }, Cli::command()).unwrap();
        for command in ["run", "init", "check", "reload", "status", "explain", "test", "schema", "demo-upstream"] {
            let page = directory.path().join(format!("man1/crossgate-{command}.1"));
            assert!(std::fs::read_to_string(page).unwrap().contains(".SH SYNOPSIS"), "{command}");
            for shell in Shell::value_variants() {
                let mut script = Vec::new();
                completions(&CompletionsArgs { shell: *shell }, Cli::command(), &mut script).unwrap();
                assert!(String::from_utf8(script).unwrap().contains(command), "{shell}: {command}");
            }
        }
    }
}
