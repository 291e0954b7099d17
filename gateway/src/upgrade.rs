//! A new binary, or a configuration that needs a restart, without a refused connection: one process hands its sockets to the next.
//!
//! SIGUSR2 has the running process start its own command anew. The two talk over a pair of sockets, of which the successor has one
//! end as its standard input, so nobody else can reach it: there is no path, no permission and no name to guard.
//!
//! ```text
//! predecessor                           successor
//!   its listening sockets      ----->   loads the configuration, takes the sockets that it names, binds the others, serves
//!                              <-----   `serving`
//!   tells the service manager  ----->   `yours`
//!   accepts no more, drains, ends
//! ```
//!
//! Both accept between the two words. Where the conversation ends before `yours`, the successor ends, and the predecessor has
//! served on all the while. Absent on purpose: handing over connections, counters or kept answers.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// The argument that makes a process a successor.
pub const TAKE_OVER: &str = "--take-over";

/// Of what the predecessor says. A successor that does not know it ends.
const VERSION: u32 = 1;
/// As many listeners as there may be, and the admin listener.
const SOCKETS_MAX: usize = 65;
/// Room for the list of them.
const OFFER_LEN_MAX: u64 = 64 << 10;
/// For a successor to serve: a hundred thousand tenants take a second.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// For an answer to what takes no time.
const WORD_TIME_MAX: Duration = Duration::from_secs(10);

/// How often it is looked whether a successor has ended.
const END_POLL: Duration = Duration::from_millis(20);

const SERVING: &str = "serving\n";
const YOURS: &str = "yours\n";

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Clients.
    Data,
    /// Operators.
    Admin,
}

/// A socket by what the configuration says of it, where port 0 is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What it is for.
    pub role: Role,
    /// The configured address.
    pub address: SocketAddr,
}

/// A listening socket that can be handed over.
#[derive(Debug)]
pub struct Offered {
    /// Which it is.
    pub place: Place,
    /// The socket.
    pub socket: TcpListener,
}

#[derive(Serialize, Deserialize)]
struct Offer {
    version: u32,
    places: Vec<Place>,
}

/// The process that is to serve instead of this one.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    line: UnixStream,
}

/// A successor that serves, and has not been told that this process leaves.
#[derive(Debug)]
pub struct Serving {
    /// Its process.
    pub pid: u32,
    line: UnixStream,
}

/// The process that serves until this one does.
#[derive(Debug)]
pub struct Predecessor {
    line: UnixStream,
    offered: Vec<Offered>,
}

impl Successor {
    /// Starts this process's own command anew, as it was given, and offers it these sockets.
    ///
    /// # Errors
    /// The operating system's, where it cannot be started.
    pub fn start(offered: &[Offered]) -> io::Result<Self> {
        let (line, theirs) = UnixStream::pair()?;
        line.set_read_timeout(Some(START_TIME_MAX))?;
        line.set_write_timeout(Some(WORD_TIME_MAX))?;
        let mut arguments = std::env::args_os();
        // As it was called, not as the file was then: it has another name once a new binary has its place.
        let program = arguments.next().unwrap_or_default();
        let arguments = arguments.filter(|argument| argument != TAKE_OVER).chain([OsString::from(TAKE_OVER)]);
        let mut command = Command::new(program);
        // The watchdog's word is about a process by its number.
        command.args(arguments).env_remove("WATCHDOG_PID").stdin(Stdio::from(OwnedFd::from(theirs)));
        let mut child = command.spawn()?;
        match offer(&line, offered) {
            Ok(()) => Ok(Successor { child, line }),
            Err(error) => {
                end(&mut child, Duration::ZERO)?;
                Err(error)
            }
        }
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What ends the conversation, and with it the successor, whoever waits for it.
    ///
    /// # Errors
    /// The operating system's, where there is no descriptor left.
    pub fn cancel(&self) -> io::Result<impl FnOnce() + Send + use<>> {
        let line = self.line.try_clone()?;
        Ok(move || drop(line.shutdown(Shutdown::Both)))
    }

    /// Waits until it serves. Blocks.
    ///
    /// # Errors
    /// Where it ended, or does not serve in time; it is no more then.
    pub fn wait(mut self) -> io::Result<Serving> {
        let Err(error) = expect(&self.line, SERVING) else {
            return Ok(Serving { pid: self.child.id(), line: self.line });
        };
        drop(self.line);
        let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        // Once nobody talks to it, it ends by itself; if it began to serve, when its requests have.
        let status = end(&mut self.child, if is_late { Duration::ZERO } else { START_TIME_MAX })?;
        let what =
            if is_late { format!("it did not serve within {START_TIME_MAX:?}") } else { format!("it ended, {status}") };
        Err(io::Error::new(error.kind(), what))
    }
}

impl Serving {
    /// Tells it that the sockets are its own.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn relieve(mut self) -> io::Result<()> {
        self.line.write_all(YOURS.as_bytes())
    }
}

impl Predecessor {
    /// The one that started this process.
    ///
    /// # Errors
    /// Where standard input is nobody's offer.
    pub fn from_stdin() -> io::Result<Self> {
        let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Self::from_line(line).map_err(|error| {
            let hint = format!("{TAKE_OVER} is for the process that SIGUSR2 starts; leave it out");
            io::Error::new(error.kind(), format!("nothing is handed over on standard input: {error}; {hint}"))
        })
    }

    fn from_line(line: UnixStream) -> io::Result<Self> {
        line.set_read_timeout(Some(WORD_TIME_MAX))?;
        line.set_write_timeout(Some(WORD_TIME_MAX))?;
        let offered = accept_offer(&line)?;
        Ok(Predecessor { line, offered })
    }

    /// The socket that it has at a place; each is given once.
    pub fn take(&mut self, place: Place) -> Option<TcpListener> {
        let at = self.offered.iter().position(|offered| offered.place == place)?;
        Some(self.offered.remove(at).socket)
    }

    /// Tells it that this process serves, and waits until it leaves the sockets alone. Blocks.
    ///
    /// # Errors
    /// Where it does not leave, since it was told to end, with this process.
    pub fn relieve(mut self) -> io::Result<()> {
        self.line.write_all(SERVING.as_bytes())?;
        expect(&self.line, YOURS)
    }
}

fn offer(line: &UnixStream, offered: &[Offered]) -> io::Result<()> {
    if offered.len() > SOCKETS_MAX {
        return Err(io::Error::other(format!(
            "{} sockets are too many; {SOCKETS_MAX} can be handed over",
            offered.len()
        )));
    }
    let places = offered.iter().map(|offered| offered.place).collect();
    let mut text = serde_json::to_vec(&Offer { version: VERSION, places })?;
    text.push(b'\n');
    let sockets: Vec<_> = offered.iter().map(|offered| offered.socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
    let sent = sendmsg(line, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut rest = line;
    rest.write_all(text.get(sent..).unwrap_or_default())
}

fn accept_offer(line: &UnixStream) -> io::Result<Vec<Offered>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut first = [0; 1];
    recvmsg(line, &mut [IoSliceMut::new(&mut first)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received.map(TcpListener::from));
        }
    }
    let mut text = first.to_vec();
    BufReader::new(line.take(OFFER_LEN_MAX)).read_until(b'\n', &mut text)?;
    let Offer { version, places } = serde_json::from_slice(&text)?;
    if version != VERSION || places.len() != sockets.len() {
        let what = format!("an offer of version {version}, of {} sockets for {} places", sockets.len(), places.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(places.into_iter().zip(sockets).map(|(place, socket)| Offered { place, socket }).collect())
}

/// Waits for the other side's word. Nothing comes behind it.
fn expect(mut line: &UnixStream, word: &str) -> io::Result<()> {
    let mut said = vec![0; word.len()];
    line.read_exact(&mut said)?;
    if said == word.as_bytes() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Waits for the end of a successor that does not serve, and brings it about when it takes longer than `patience`.
fn end(child: &mut Child, patience: Duration) -> io::Result<ExitStatus> {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(END_POLL);
    }
    child.kill()?;
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(role: Role, address: &str) -> Place {
        Place { role, address: address.parse().unwrap() }
    }

    fn offered(role: Role) -> Offered {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        Offered { place: place(role, "127.0.0.1:0"), socket }
    }

    #[test]
    fn sockets_arrive_as_what_they_were_sent() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sent = [offered(Role::Data), offered(Role::Admin), offered(Role::Data)];
        offer(&ours, &sent).unwrap();
        let mut predecessor = Predecessor::from_line(theirs).unwrap();
        let mut take = |role| predecessor.take(place(role, "127.0.0.1:0")).map(|socket| socket.local_addr().unwrap());
        let address = |at: usize| Some(sent[at].socket.local_addr().unwrap());
        assert_eq!(take(Role::Admin), address(1));
        assert_eq!(take(Role::Admin), None);
        assert_eq!([take(Role::Data), take(Role::Data)], [address(0), address(2)]);
        assert!(predecessor.take(place(Role::Data, "127.0.0.1:1")).is_none());
    }

    #[test]
    fn the_two_agree_on_who_serves() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        offer(&ours, &[]).unwrap();
        let predecessor = Predecessor::from_line(theirs).unwrap();
        let waiting = std::thread::spawn(|| predecessor.relieve());
        expect(&ours, SERVING).unwrap();
        Serving { pid: 0, line: ours }.relieve().unwrap();
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_successor_is_not_left_alone_with_the_sockets() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        offer(&ours, &[]).unwrap();
        let predecessor = Predecessor::from_line(theirs).unwrap();
        drop(ours);
        assert!(predecessor.relieve().is_err());
    }

    #[test]
    fn what_is_no_offer_is_refused() {
        for text in [
            "",
            "\n",
            "{}\n",
            r#"{"version":2,"places":[]}"#,
            r#"{"version":1,"places":[{"role":"data","address":"127.0.0.1:0"}]}"#,
        ] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(text.as_bytes()).unwrap();
            drop(ours);
            assert!(Predecessor::from_line(theirs).is_err(), "{text}");
        }
    }
}
