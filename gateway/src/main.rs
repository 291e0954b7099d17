//! The command line of the gateway.

use std::process::ExitCode;

fn main() -> ExitCode {
    crossgate::cli::main()
}
