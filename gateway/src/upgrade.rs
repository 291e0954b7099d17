//! A new binary, or a configuration that needs a restart, without a refused connection: one process hands its sockets to the next.
//!
//! SIGUSR2 has the running process start its own command anew. The two talk over a pair of sockets, of which the successor has one
//! end as its standard input, so nobody else can reach it: there is no path, no permission and no name to guard.
//!
//! ```text
//! predecessor                           successor
//!   its listening sockets      ----->   starts its command once more and ends; that one is the successor from here on
//!                              <-----   `here 0000004711`, its process number
//!                                       loads the configuration, takes the sockets that it names, binds the others, serves
//!                              <-----   `serving`
//!                              ----->   `yours`
//!   tells the service manager, hangs up; accepts no more, drains, ends
//! ```
//!
//! Both accept between the two words. Where the conversation ends before `yours`, the successor ends, and the predecessor has
//! served on all the while. Absent on purpose: handing over connections, counters or kept answers.
//!
//! The successor's parent ends so that the service manager adopts it. systemd looks, when it is told of the new process, whether that is a
//! child of its own; for the end of one that is not it does not wait, so a stop would kill it in the middle of its drain.

use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// The argument of the process that is started by the predecessor, and starts the successor.
pub const TAKE_OVER: &str = "--take-over";
/// The argument that makes a process a successor.
pub const SUCCEED: &str = "--succeed";

/// Of what the predecessor says. A successor that does not know it ends.
const VERSION: u32 = 2;
/// As many listeners as there may be, and the admin listener.
const SOCKETS_MAX: usize = 65;
/// Room for the list of them.
const OFFER_LEN_MAX: u64 = 64 << 10;
/// For a successor to serve: a hundred thousand tenants take a second.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// For an answer to what takes no time.
const WORD_TIME_MAX: Duration = Duration::from_secs(10);
/// For what has started the successor to end, which only a script might not do at once. Well below the time that the successor waits for
/// `yours`.
const STARTER_TIME_MAX: Duration = Duration::from_secs(2);

/// How often it is looked whether a successor has ended.
const END_POLL: Duration = Duration::from_millis(20);

/// The successor's number follows, in ten digits.
const HERE: &str = "here ";
const HERE_LEN: usize = HERE.len() + 10 + 1;
const SERVING: &str = "serving\n";
const NOT_OF_A_CONTAINER: &str =
    "this is process 1, with whose end all others of its container end; start another container instead";
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
    /// What starts it.
    starter: Child,
    line: UnixStream,
}

/// A process by its number and, where the kernel gives it, by what means no other one once it has ended.
#[derive(Debug)]
struct Stranger {
    pid: u32,
    handle: Option<OwnedFd>,
}

/// A successor that serves.
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
        may_be_survived(std::process::id())?;
        let (line, theirs) = UnixStream::pair()?;
        line.set_read_timeout(Some(START_TIME_MAX))?;
        line.set_write_timeout(Some(WORD_TIME_MAX))?;
        let mut command = anew(TAKE_OVER);
        // The watchdog's word is about a process by its number.
        command.env_remove("WATCHDOG_PID").stdin(Stdio::from(OwnedFd::from(theirs)));
        let mut starter = command.spawn()?;
        drop(command);
        match offer(&line, offered) {
            Ok(()) => Ok(Successor { starter, line }),
            Err(error) => {
                end(&mut starter, Duration::ZERO)?;
                Err(error)
            }
        }
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
    /// Where it ended, or does not serve in time. It is no more then; one that has not said a word yet ends when it does.
    pub fn wait(mut self) -> io::Result<Serving> {
        let until = Instant::now() + START_TIME_MAX;
        let mut successor = None;
        let serves = arrival(&self.line).and_then(|pid| {
            // While it is known to be there, so that the number is its own.
            successor = Some(Stranger::new(pid));
            tracing::info!(pid, "a new process is to take over");
            // Then it is the service manager's child.
            end(&mut self.starter, STARTER_TIME_MAX)?;
            let left = until.saturating_duration_since(Instant::now());
            self.line.set_read_timeout(Some(left.max(END_POLL)))?;
            expect(&self.line, SERVING).map(|()| pid)
        });
        let error = match serves {
            Ok(pid) => return Ok(Serving { pid, line: self.line }),
            Err(error) => error,
        };
        drop(self.line);
        let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        // Once nobody talks to it, it ends by itself; if it began to serve, when its requests have.
        let patience = if is_late { Duration::ZERO } else { START_TIME_MAX };
        let status = end(&mut self.starter, patience)?;
        if let Some(successor) = &successor {
            successor.end(patience)?;
        }
        let what = match successor {
            _ if is_late => format!("it did not serve within {START_TIME_MAX:?}"),
            Some(Stranger { pid, .. }) => format!("process {pid} ended before it served"),
            None => format!("it ended before it said a word, {status}"),
        };
        Err(io::Error::new(error.kind(), what))
    }
}

impl Stranger {
    fn new(pid: u32) -> Self {
        let handle = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Stranger { pid, handle: handle.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) }
    }

    /// Waits for its end, and brings it about when it takes longer than `patience`. Of one without a handle, which has ended or is on a kernel
    /// that has none, nothing is known.
    fn end(&self, patience: Duration) -> io::Result<()> {
        let Some(handle) = &self.handle else { return Ok(()) };
        if ends_within(handle, patience)? {
            return Ok(());
        }
        match pidfd_send_signal(handle, Signal::KILL) {
            Ok(()) => ends_within(handle, WORD_TIME_MAX).map(drop),
            Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether others of its container outlive the process of this number.
fn may_be_survived(pid: u32) -> io::Result<()> {
    match pid {
        1 => Err(io::Error::new(io::ErrorKind::Unsupported, NOT_OF_A_CONTAINER)),
        _ => Ok(()),
    }
}

fn ends_within(process: &OwnedFd, time: Duration) -> io::Result<bool> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        // It can be read from once it has ended.
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ended => return Ok(ended? > 0),
        }
    }
}

/// This process's own command, as it was given: with the program of that name, not as the file was then, since it has another name once a new
/// binary has its place.
fn anew(word: &str) -> Command {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(arguments.next().unwrap_or_default());
    command.args(arguments.filter(|argument| argument != TAKE_OVER && argument != SUCCEED)).arg(word);
    command
}

/// Starts the successor, for a predecessor that has started this process, which is to end at once.
///
/// # Errors
/// Where standard input is nobody's offer, or the operating system's.
pub fn start_successor() -> io::Result<()> {
    if let Err(error) = sockopt::socket_type(io::stdin()) {
        return Err(nothing_offered(&error.into()));
    }
    anew(SUCCEED).spawn()?;
    Ok(())
}

fn nothing_offered(error: &io::Error) -> io::Error {
    let hint = format!("{TAKE_OVER} and {SUCCEED} are for what SIGUSR2 starts; leave them out");
    io::Error::new(error.kind(), format!("nothing is handed over on standard input: {error}; {hint}"))
}

impl Serving {
    /// Tells it that the sockets are its own. It says nothing to the service manager before what this gives is dropped.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn relieve(mut self) -> io::Result<impl Sized + use<>> {
        self.line.write_all(YOURS.as_bytes())?;
        Ok(self.line)
    }
}

impl Predecessor {
    /// The one that started this process.
    ///
    /// # Errors
    /// Where standard input is nobody's offer.
    pub fn from_stdin() -> io::Result<Self> {
        let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Self::from_line(line)
    }

    fn from_line(line: UnixStream) -> io::Result<Self> {
        let offered = line.set_read_timeout(Some(WORD_TIME_MAX)).and_then(|()| accept_offer(&line));
        let offered = offered.map_err(|error| nothing_offered(&error))?;
        line.set_write_timeout(Some(WORD_TIME_MAX))?;
        writeln!(&line, "{HERE}{:010}", std::process::id())?;
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
        expect(&self.line, YOURS).or_else(|error| stop_waiting(&self.line).map_err(|_| error))?;
        // Nothing comes, until it hangs up: it has told the service manager then.
        drop(self.line.read(&mut [0; 1]));
        Ok(())
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

/// Waits for the successor's first word, its number.
fn arrival(mut line: &UnixStream) -> io::Result<u32> {
    let mut said = [0; HERE_LEN];
    line.read_exact(&mut said)?;
    let number = std::str::from_utf8(&said).ok().and_then(|said| said.strip_prefix(HERE)?.strip_suffix('\n'));
    number.and_then(|number| number.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Sees to it that the last word cannot be said any more, so that whoever tries serves on. It may have been said at the last moment.
fn stop_waiting(line: &UnixStream) -> io::Result<()> {
    line.shutdown(Shutdown::Both)?;
    expect(line, YOURS)
}

/// Waits for the end of a child, and brings it about when it takes longer than `patience`.
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
        assert_eq!(arrival(&ours).unwrap(), std::process::id());
        expect(&ours, SERVING).unwrap();
        let told = Serving { pid: 0, line: ours }.relieve().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished(), "the service manager is yet to hear of it");
        drop(told);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_word_that_comes_too_late_is_refused_and_one_that_just_does_is_heard() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // The successor's standard input, which stays open.
        let _same = theirs.try_clone().unwrap();
        assert!(stop_waiting(&theirs).is_err());
        assert!(Serving { pid: 0, line: ours }.relieve().is_err(), "whoever is not heard serves on");

        let (ours, theirs) = UnixStream::pair().unwrap();
        let _told = Serving { pid: 0, line: ours }.relieve().unwrap();
        stop_waiting(&theirs).unwrap();
    }

    #[test]
    fn the_first_process_of_a_container_has_no_heirs() {
        assert!(may_be_survived(1).is_err());
        may_be_survived(2).unwrap();
    }

    #[test]
    fn nobody_is_here_without_a_number() {
        for text in [
            "",
            "here\n",
            "here 1\n",
            "here -000000001\n",
            "here 00000 0001\n",
            "here 9999999999\n",
            "serving\nserving\n",
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(text.as_bytes()).unwrap();
            drop(theirs);
            assert!(arrival(&ours).is_err(), "{text}");
        }
    }

    #[test]
    fn a_process_that_is_no_child_is_waited_for_and_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let stranger = Stranger::new(child.id());
        assert!(!ends_within(stranger.handle.as_ref().unwrap(), Duration::from_millis(10)).unwrap());
        stranger.end(Duration::ZERO).unwrap();
        assert!(ends_within(stranger.handle.as_ref().unwrap(), Duration::ZERO).unwrap());
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
        // Its number means nobody by now.
        assert!(Stranger::new(child.id()).handle.is_none());
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
            r#"{"version":1,"places":[]}"#,
            r#"{"version":2,"places":[{"role":"data","address":"127.0.0.1:0"}]}"#,
        ] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(text.as_bytes()).unwrap();
            drop(ours);
            assert!(Predecessor::from_line(theirs).is_err(), "{text}");
        }
    }
}
