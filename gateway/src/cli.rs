//! The command line: subcommands and exit codes.
//!
//! Results go to standard output, diagnostics to standard error. Exit code 0 means success, 1 that
//! the checked subject is wrong, 2 that the command line is.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::reload::SecretsPresence;
use crate::version::version;

mod admin_client;
pub mod check;
pub mod demo_upstream;
pub mod explain;
pub mod init;
pub mod logging;
mod output;
pub mod packaging;
pub mod reload;
pub mod run;
pub mod schema;
pub mod status;
pub mod test;

pub use admin_client::AdminArgs;
use output::CommandOutput;

/// Success.
pub const GOOD: u8 = 0;
/// The checked subject is wrong.
pub const WRONG: u8 = 1;
/// The command line is wrong; clap exits with this code too.
pub const USAGE: u8 = 2;

/// Edge gateway that enforces CORS for the APIs behind it
#[derive(Debug, Parser)]
#[command(name = "crossgate", version = version())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run(run::RunArgs),
    /// Write a first configuration
    Init(init::InitArgs),
    /// Check configuration files; print every error and warning with its location
    Check(check::CheckArgs),
    /// Make a running gateway reload its configuration: exit 0 if it serves, 1 if it is refused
    Reload(AdminArgs),
    /// Print the status of a running gateway: exit 0 if it is ready and serves what is on disk
    Status(AdminArgs),
    /// Explain what happens to a request, and why
    Explain(Box<explain::ExplainArgs>),
    /// Run the test cases of rule scripts
    Test(test::TestArgs),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Serve the demo's API and page
    DemoUpstream(demo_upstream::DemoUpstreamArgs),
    /// Print shell completions
    Completions(packaging::CompletionsArgs),
    /// Write the manual pages
    Manual(packaging::ManualArgs),
}

/// The main file that a command uses.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct MainArgs {
    /// The main configuration file
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The main configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl MainArgs {
    /// The path, given as argument or as option; clap requires exactly one.
    fn path(&self) -> PathBuf {
        self.config.clone().or_else(|| self.file.clone()).unwrap_or_default()
    }
}

/// The option for checks on a machine without the secrets.
#[derive(Debug, Clone, clap::Args)]
pub struct OfflineArgs {
    /// Warn about missing keys, certificates, CA and token files instead of failing
    #[arg(long)]
    pub offline: bool,
}

impl OfflineArgs {
    fn secrets(&self) -> SecretsPresence {
        if self.offline { SecretsPresence::Optional } else { SecretsPresence::Required }
    }
}

/// Runs the command in the process's arguments.
pub fn main() -> ExitCode {
    ExitCode::from(dispatch(
        Cli::parse().command,
        &mut CommandOutput::new(io::stdout()),
        &mut CommandOutput::new(io::stderr()),
    ))
}

/// Runs one command. Takes no lock on the outputs, because a running gateway writes its access log
/// and diagnostics at the same time.
fn dispatch(command: Command, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => finish(check::run(&args, &mut io::stdin(), out, err), err),
        Command::Init(args) => finish(init::run(&args, out, err), err),
        Command::Reload(args) => finish(reload::run(&args, out, err), err),
        Command::Status(args) => finish(status::run(&args, out, err), err),
        Command::Explain(args) => explain::run(*args, &mut io::stdin().lock(), out, err),
        Command::Test(args) => finish(test::run(&args, out, err), err),
        Command::Schema => finish(schema::run(out).map(|()| GOOD), err),
        Command::DemoUpstream(args) => demo_upstream::run(&args, err),
        Command::Completions(args) => finish(packaging::completions(&args, Cli::command(), out).map(|()| GOOD), err),
        Command::Manual(args) => match packaging::manual(&args, Cli::command()) {
            Ok(()) => GOOD,
            Err(error) => {
                let _written = writeln!(err, "error: cannot write the manual pages: {error}");
                WRONG
            }
        },
    }
}

/// Returns the exit code of a command, or `WRONG` if its output cannot be written.
fn finish(result: io::Result<u8>, err: &mut dyn Write) -> u8 {
    result.unwrap_or_else(|error| {
        let _written = writeln!(err, "error: cannot write the output: {error}");
        WRONG
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_definition_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
