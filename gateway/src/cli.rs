//! The command line: what can be asked, and the exit code of each answer.
//!
//! Answers go to standard output, diagnostics to standard error. 0 is good, 1 means that what was asked about is wrong, 2
//! that the question was.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub mod check;
pub mod demo_upstream;
pub mod explain;
pub mod logging;
pub mod packaging;
pub mod run;
pub mod schema;
pub mod test;

/// What was asked about is as it should be.
pub const GOOD: u8 = 0;
/// What was asked about is wrong.
pub const WRONG: u8 = 1;
/// The question was wrong; clap's own mistakes exit with it too.
pub const USAGE: u8 = 2;

/// An edge gateway that owns the cross-origin question for the APIs behind it
#[derive(Debug, Parser)]
#[command(name = "crossgate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve as a gateway
    Run(run::RunArgs),
    /// Check configuration files: every mistake and every doubt, with its place
    Check(CheckArgs),
    /// Tell what happens to a request, and why
    Explain(explain::ExplainArgs),
    /// Run the cases of the rules' scripts
    Test(test::TestArgs),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Serve the demo's API and page
    DemoUpstream(demo_upstream::DemoUpstreamArgs),
    /// Print a shell's completions
    Completions(packaging::CompletionsArgs),
    /// Write the manual pages
    Manual(packaging::ManualArgs),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The main files to check
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// Does what the process's arguments ask for.
pub fn main() -> ExitCode {
    ExitCode::from(dispatch(Cli::parse().command, &mut io::stdout(), &mut io::stderr()))
}

/// Nothing is locked: a running gateway writes its access log and its diagnostics meanwhile.
fn dispatch(command: Command, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match command {
        Command::Run(args) => run::run(args, err),
        Command::Check(CheckArgs { files, json }) => {
            let format = if json { check::Format::Json } else { check::Format::Text };
            code(check::run(&files, format, out, err))
        }
        Command::Explain(args) => explain::run(args, &mut io::stdin().lock(), out, err),
        Command::Test(args) => code(test::run(&args, out, err)),
        Command::Schema => code(schema::run(out).map(|()| GOOD)),
        Command::DemoUpstream(args) => demo_upstream::run(&args, err),
        Command::Completions(args) => code(packaging::completions(&args, Cli::command(), out).map(|()| GOOD)),
        Command::Manual(args) => match packaging::manual(&args, Cli::command()) {
            Ok(()) => GOOD,
            Err(error) => {
                let _told = writeln!(err, "error: the manual pages cannot be written: {error}");
                WRONG
            }
        },
    }
}

/// An answer that cannot be written is none.
fn code(answered: io::Result<u8>) -> u8 {
    answered.unwrap_or(WRONG)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
