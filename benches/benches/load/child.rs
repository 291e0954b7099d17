//! The child processes of the bench. They run this binary in another role.
//!
//! A child ends when its guard is dropped. If the parent dies first, the child ends with its
//! standard input, which only the parent keeps open.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{self, Command, Stdio};
use std::{env, thread};

/// The environment variable with the role of a child process. The bench itself does not have it.
const ROLE: &str = "CROSSGATE_BENCH_ROLE";

/// The role of a child.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// `crossgate` with the arguments of its command line.
    Gateway,
    /// The upstream of the gateway.
    Upstream,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Upstream => "upstream",
        }
    }

    /// The role of this process. A process with a role ends with its parent from now on.
    pub(crate) fn mine() -> Option<Self> {
        let name = env::var(ROLE).ok()?;
        let role = [Role::Gateway, Role::Upstream].into_iter().find(|role| role.as_str() == name)?;
        thread::spawn(|| {
            let _ended = io::copy(&mut io::stdin(), &mut io::sink());
            process::exit(1);
        });
        Some(role)
    }
}

/// A child process. Dropping it kills it by its process id.
pub(crate) struct Child(process::Child);

impl Child {
    /// Starts a child and waits for the log line with its address.
    pub(crate) fn start(role: Role, arguments: &[&str]) -> (Self, SocketAddr) {
        let mut command = Command::new(env::current_exe().expect("this binary"));
        command.args(arguments).env(ROLE, role.as_str()).env_remove("CROSSGATE_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let mut stderr = BufReader::new(child.0.stderr.take().expect("a pipe"));
        let address =
            read_address(&mut stderr).unwrap_or_else(|seen| panic!("no address from the {}: {seen}", role.as_str()));
        // A full pipe would block the child, so the rest of its output is read too.
        thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
        (child, address)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both calls fail if the child has ended already.
        let _killed = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// The address in the first line with `address=`. The error has all lines until the end.
fn read_address(lines: &mut impl BufRead) -> Result<SocketAddr, String> {
    let mut seen = String::new();
    for line in lines.by_ref().lines().map_while(Result::ok) {
        if let Some(address) = line.split_once("address=").and_then(|(_, address)| address.trim().parse().ok()) {
            return Ok(address);
        }
        seen += &(line + "\n");
    }
    Err(seen)
}
