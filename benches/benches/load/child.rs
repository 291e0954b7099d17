//! The other processes of the bench: this binary again, in another role.
//!
//! A child ends with its guard. Should nobody be left to drop that, it ends with its standard input, which only the parent holds
//! open.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{self, Command, Stdio};
use std::{env, thread};

/// The variable that says which role a process has. None, for the bench itself.
const ROLE: &str = "CROSSGATE_BENCH_ROLE";

/// What a child is.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// `crossgate` with the arguments of its command line.
    Gateway,
    /// The API behind it.
    Upstream,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Upstream => "upstream",
        }
    }

    /// The role of this process. If it has one, it ends with its parent from now on.
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

/// A child process. Dropping it kills it, by its own id.
pub(crate) struct Child(process::Child);

impl Child {
    /// Starts a child and waits until it says where it listens.
    pub(crate) fn start(role: Role, arguments: &[&str]) -> (Self, SocketAddr) {
        let mut command = Command::new(env::current_exe().expect("this binary"));
        command.args(arguments).env(ROLE, role.as_str()).env_remove("CROSSGATE_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let mut said = BufReader::new(child.0.stderr.take().expect("a pipe"));
        let address = read_address(&mut said).unwrap_or_else(|seen| panic!("{} says: {seen}", role.as_str()));
        // What it says later is read too, or it would wait for that some day.
        thread::spawn(move || io::copy(&mut said, &mut io::sink()));
        (child, address)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Either may fail for a child that has ended already.
        let _killed = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// The first `address=`, or all that was said until the end instead.
fn read_address(said: &mut impl BufRead) -> Result<SocketAddr, String> {
    let mut seen = String::new();
    for line in said.by_ref().lines().map_while(Result::ok) {
        if let Some(address) = line.split_once("address=").and_then(|(_, address)| address.trim().parse().ok()) {
            return Ok(address);
        }
        seen += &(line + "\n");
    }
    Err(seen)
}
