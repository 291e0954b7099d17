//! Upgrade without a refused connection: a process hands its listening sockets to a new process,
//! for a new binary or a configuration that needs a restart.
//!
//! SIGUSR2 makes the running process start its own command again. Both processes communicate over a
//! socket pair, one end of which is the successor's standard input. No other process can reach it:
//! there is no path, permission or name to protect.
//!
//! ```text
//! predecessor                        successor
//!   its listening sockets   ----->   starts its command once more and exits; the process that it
//!                                    starts is the successor
//!                           <-----   `here 0000004711`, its process id
//!                                    loads the configuration, takes the sockets that it names,
//!                                    binds the others, serves
//!                           <-----   `serving`
//!                           ----->   `yours`
//!   notifies the service manager, closes the pair; accepts no more, drains, exits
//! ```
//!
//! Both accept connections between the last two messages. If the pair closes before `yours`, the
//! successor exits, and the predecessor has served without interruption. Absent on purpose: handing
//! over connections, counters or cached answers.
//!
//! The successor's parent exits so that the service manager adopts the successor. When systemd is
//! notified of the new main process, it checks whether that process is its own child. It does not
//! wait for the exit of other processes, so a later stop would kill them while they drain.

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

/// The argument of the helper process that the predecessor starts. It starts the successor.
pub const TAKE_OVER: &str = "--take-over";
/// The argument of the successor.
pub const SUCCEED: &str = "--succeed";

/// The version of the predecessor's offer. A successor with another version exits.
const VERSION: u32 = 2;
/// The maximum number of listeners, plus the admin listener.
const SOCKETS_MAX: usize = 65;
/// The maximum length of the offer's text.
const OFFER_LEN_MAX: u64 = 64 << 10;
/// The maximum time until a successor serves: a hundred thousand tenants take a second.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// The maximum wait for a message that needs no work.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(10);
/// The maximum time until the helper process exits; only a wrapper script could take longer. It is
/// well below the time that the successor waits for `yours`.
const HELPER_TIME_MAX: Duration = Duration::from_secs(2);

/// The interval of checks whether a process has exited.
const END_POLL: Duration = Duration::from_millis(20);

/// The first message of the successor. Its process id follows, in ten digits.
const HERE: &str = "here ";
const HERE_LEN: usize = HERE.len() + 10 + 1;
const SERVING: &str = "serving\n";
const PROCESS_1_MESSAGE: &str =
    "cannot hand over as process 1: its exit ends all processes of the container; start another container instead";
const YOURS: &str = "yours\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SocketRole {
    Data,
    Admin,
}

/// The identity of a socket: its role and configured address, where port 0 means any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketKey {
    pub role: SocketRole,
    pub address: SocketAddr,
}

/// A listening socket that can be handed over.
#[derive(Debug)]
pub struct OfferedSocket {
    pub key: SocketKey,
    pub socket: TcpListener,
}

#[derive(Serialize, Deserialize)]
struct SocketOffer {
    version: u32,
    places: Vec<SocketKey>,
}

/// A new process that is to replace this one.
#[derive(Debug)]
pub struct Successor {
    /// The helper process that starts the successor.
    helper: Child,
    line: UnixStream,
}

/// A process, by its id and, if the kernel supports it, a pidfd. A pidfd never refers to another
/// process, even if the id is used again.
#[derive(Debug)]
struct ProcessHandle {
    pid: u32,
    handle: Option<OwnedFd>,
}

/// A successor that serves.
#[derive(Debug)]
pub struct ServingSuccessor {
    pub pid: u32,
    line: UnixStream,
}

/// The process that serves until this one does.
#[derive(Debug)]
pub struct Predecessor {
    line: UnixStream,
    offered: Vec<OfferedSocket>,
}

impl Successor {
    /// Starts this process's own command again, with its arguments, and offers it the sockets.
    ///
    /// # Errors
    /// The operating system's error, if the process cannot be started.
    pub fn start(offered: &[OfferedSocket]) -> io::Result<Self> {
        check_not_process_1(std::process::id())?;
        let (line, other_end) = UnixStream::pair()?;
        line.set_read_timeout(Some(START_TIME_MAX))?;
        line.set_write_timeout(Some(MESSAGE_TIME_MAX))?;
        let mut command = own_command(TAKE_OVER);
        // systemd checks that `WATCHDOG_PID` is the process's own id, so it would be wrong in the
        // successor.
        command.env_remove("WATCHDOG_PID").stdin(Stdio::from(OwnedFd::from(other_end)));
        let mut helper = command.spawn()?;
        drop(command);
        match offer(&line, offered) {
            Ok(()) => Ok(Successor { helper, line }),
            Err(error) => {
                end(&mut helper, Duration::ZERO)?;
                Err(error)
            }
        }
    }

    /// Returns a function that closes the socket pair, and so ends the successor while another
    /// thread waits for it.
    ///
    /// # Errors
    /// If there is no free file descriptor.
    pub fn cancel(&self) -> io::Result<impl FnOnce() + Send + use<>> {
        let line = self.line.try_clone()?;
        Ok(move || drop(line.shutdown(Shutdown::Both)))
    }

    /// Waits until the successor serves. Blocks.
    ///
    /// # Errors
    /// If the successor exited, or does not serve in time. It has exited or was killed then; if it
    /// has not sent its process id yet, it exits when it tries to.
    pub fn wait(mut self) -> io::Result<ServingSuccessor> {
        let until = Instant::now() + START_TIME_MAX;
        let mut successor = None;
        let serves = arrival(&self.line).and_then(|pid| {
            // The handle is opened while the process certainly exists, so the id is not another
            // process's.
            successor = Some(ProcessHandle::new(pid));
            tracing::info!(pid, "a new process takes over");
            // After the helper's exit, the successor is the service manager's child.
            end(&mut self.helper, HELPER_TIME_MAX)?;
            let left = until.saturating_duration_since(Instant::now());
            self.line.set_read_timeout(Some(left.max(END_POLL)))?;
            expect(&self.line, SERVING).map(|()| pid)
        });
        let error = match serves {
            Ok(pid) => return Ok(ServingSuccessor { pid, line: self.line }),
            Err(error) => error,
        };
        drop(self.line);
        let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        // A successor without a predecessor exits by itself, at the latest when it has drained its
        // requests.
        let patience = if is_late { Duration::ZERO } else { START_TIME_MAX };
        let status = end(&mut self.helper, patience)?;
        if let Some(successor) = &successor {
            successor.end(patience)?;
        }
        let what = match successor {
            _ if is_late => format!("the new process did not serve within {START_TIME_MAX:?}"),
            Some(ProcessHandle { pid, .. }) => format!("process {pid} ended before it served"),
            None => format!("the new process ended before its first message, {status}"),
        };
        Err(io::Error::new(error.kind(), what))
    }
}

impl ProcessHandle {
    fn new(pid: u32) -> Self {
        let handle = i32::try_from(pid).ok().and_then(Pid::from_raw);
        ProcessHandle { pid, handle: handle.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) }
    }

    /// Waits for the exit of the process, and kills it after `patience`. Without a handle nothing
    /// is done: the process has exited, or the kernel has no pidfds.
    fn end(&self, patience: Duration) -> io::Result<()> {
        let Some(handle) = &self.handle else { return Ok(()) };
        if ends_within(handle, patience)? {
            return Ok(());
        }
        match pidfd_send_signal(handle, Signal::KILL) {
            Ok(()) => ends_within(handle, MESSAGE_TIME_MAX).map(drop),
            Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Fails for process 1: with its exit, the kernel kills all other processes of the container.
fn check_not_process_1(pid: u32) -> io::Result<()> {
    match pid {
        1 => Err(io::Error::new(io::ErrorKind::Unsupported, PROCESS_1_MESSAGE)),
        _ => Ok(()),
    }
}

fn ends_within(process: &OwnedFd, time: Duration) -> io::Result<bool> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        // A pidfd becomes readable when its process exits.
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ended => return Ok(ended? > 0),
        }
    }
}

/// The command and the arguments of this process, with one more argument. It uses the program's
/// name, not `/proc/self/exe`: once a new binary has replaced the file, that link has another name.
fn own_command(argument: &str) -> Command {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(arguments.next().unwrap_or_default());
    command.args(arguments.filter(|argument| argument != TAKE_OVER && argument != SUCCEED)).arg(argument);
    command
}

/// Starts the successor. The helper process calls this and exits.
///
/// # Errors
/// If standard input is not a socket, or the operating system's error.
pub fn start_successor() -> io::Result<()> {
    if let Err(error) = sockopt::socket_type(io::stdin()) {
        return Err(nothing_offered(&error.into()));
    }
    own_command(SUCCEED).spawn()?;
    Ok(())
}

fn nothing_offered(error: &io::Error) -> io::Error {
    let hint = format!("{TAKE_OVER} and {SUCCEED} are only for processes that SIGUSR2 starts; remove them");
    io::Error::new(error.kind(), format!("no sockets on standard input: {error}; {hint}"))
}

impl ServingSuccessor {
    /// Sends `yours`: the successor owns the sockets now. It contacts the service manager only
    /// after the returned value is dropped.
    ///
    /// # Errors
    /// If the successor has exited.
    pub fn hand_over(mut self) -> io::Result<impl Sized + use<>> {
        self.line.write_all(YOURS.as_bytes())?;
        Ok(self.line)
    }
}

impl Predecessor {
    /// The predecessor at the other end of standard input.
    ///
    /// # Errors
    /// If standard input contains no offer.
    pub fn from_stdin() -> io::Result<Self> {
        let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Self::from_line(line)
    }

    fn from_line(line: UnixStream) -> io::Result<Self> {
        let offered = line.set_read_timeout(Some(MESSAGE_TIME_MAX)).and_then(|()| accept_offer(&line));
        let offered = offered.map_err(|error| nothing_offered(&error))?;
        line.set_write_timeout(Some(MESSAGE_TIME_MAX))?;
        writeln!(&line, "{HERE}{:010}", std::process::id())?;
        Ok(Predecessor { line, offered })
    }

    /// Takes the socket with this key. Each socket can be taken once.
    pub fn take(&mut self, key: SocketKey) -> Option<TcpListener> {
        let at = self.offered.iter().position(|offered| offered.key == key)?;
        Some(self.offered.remove(at).socket)
    }

    /// Sends `serving`, and waits until the predecessor gives up the sockets. Blocks.
    ///
    /// # Errors
    /// If the predecessor does not give them up, because it has to end together with this
    /// process.
    pub fn take_over(mut self) -> io::Result<()> {
        self.line.write_all(SERVING.as_bytes())?;
        expect(&self.line, YOURS).or_else(|error| stop_waiting(&self.line).map_err(|_| error))?;
        // No more bytes follow. The end of the stream means that the predecessor has notified the
        // service manager.
        drop(self.line.read(&mut [0; 1]));
        Ok(())
    }
}

fn offer(line: &UnixStream, offered: &[OfferedSocket]) -> io::Result<()> {
    if offered.len() > SOCKETS_MAX {
        return Err(io::Error::other(format!(
            "too many sockets to hand over: {}, expected at most {SOCKETS_MAX}",
            offered.len()
        )));
    }
    let places = offered.iter().map(|offered| offered.key).collect();
    let mut text = serde_json::to_vec(&SocketOffer { version: VERSION, places })?;
    text.push(b'\n');
    let sockets: Vec<_> = offered.iter().map(|offered| offered.socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
    // `NOSIGNAL`: a predecessor must not die of SIGPIPE if the helper process has exited.
    let sent = sendmsg(line, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut rest = line;
    rest.write_all(text.get(sent..).unwrap_or_default())
}

fn accept_offer(line: &UnixStream) -> io::Result<Vec<OfferedSocket>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut first = [0; 1];
    // `CMSG_CLOEXEC`: child processes must not inherit the sockets.
    recvmsg(line, &mut [IoSliceMut::new(&mut first)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received.map(TcpListener::from));
        }
    }
    let mut text = first.to_vec();
    BufReader::new(line.take(OFFER_LEN_MAX)).read_until(b'\n', &mut text)?;
    let SocketOffer { version, places } = serde_json::from_slice(&text)?;
    if version != VERSION || places.len() != sockets.len() {
        let what = format!("invalid offer of version {version}: {} sockets for {} keys", sockets.len(), places.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(places.into_iter().zip(sockets).map(|(key, socket)| OfferedSocket { key, socket }).collect())
}

/// Waits for the other side's message. No bytes follow it yet.
fn expect(mut line: &UnixStream, message: &str) -> io::Result<()> {
    let mut received = vec![0; message.len()];
    line.read_exact(&mut received)?;
    if received == message.as_bytes() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Waits for the successor's first message, its process id.
fn arrival(mut line: &UnixStream) -> io::Result<u32> {
    let mut received = [0; HERE_LEN];
    line.read_exact(&mut received)?;
    let number =
        std::str::from_utf8(&received).ok().and_then(|received| received.strip_prefix(HERE)?.strip_suffix('\n'));
    number.and_then(|number| number.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Closes the pair, so that a late `yours` fails and the predecessor goes on serving. Returns
/// success if `yours` arrived just before.
fn stop_waiting(line: &UnixStream) -> io::Result<()> {
    line.shutdown(Shutdown::Both)?;
    expect(line, YOURS)
}

/// Waits for the exit of a child, and kills it after `patience`.
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

    fn key(role: SocketRole, address: &str) -> SocketKey {
        SocketKey { role, address: address.parse().unwrap() }
    }

    fn offered(role: SocketRole) -> OfferedSocket {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        OfferedSocket { key: key(role, "127.0.0.1:0"), socket }
    }

    #[test]
    fn sockets_arrive_with_their_keys() {
        let (ours, other_end) = UnixStream::pair().unwrap();
        let sent = [offered(SocketRole::Data), offered(SocketRole::Admin), offered(SocketRole::Data)];
        offer(&ours, &sent).unwrap();
        let mut predecessor = Predecessor::from_line(other_end).unwrap();
        let mut take = |role| predecessor.take(key(role, "127.0.0.1:0")).map(|socket| socket.local_addr().unwrap());
        let address = |at: usize| Some(sent[at].socket.local_addr().unwrap());
        assert_eq!(take(SocketRole::Admin), address(1));
        assert_eq!(take(SocketRole::Admin), None);
        assert_eq!([take(SocketRole::Data), take(SocketRole::Data)], [address(0), address(2)]);
        assert!(predecessor.take(key(SocketRole::Data, "127.0.0.1:1")).is_none());
    }

    #[test]
    fn successor_waits_until_the_predecessor_closes_the_pair() {
        let (ours, other_end) = UnixStream::pair().unwrap();
        offer(&ours, &[]).unwrap();
        let predecessor = Predecessor::from_line(other_end).unwrap();
        let waiting = std::thread::spawn(|| predecessor.take_over());
        assert_eq!(arrival(&ours).unwrap(), std::process::id());
        expect(&ours, SERVING).unwrap();
        let pair = ServingSuccessor { pid: 0, line: ours }.hand_over().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished(), "the service manager is not notified yet");
        drop(pair);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn late_hand_over_fails_and_timely_one_succeeds() {
        let (ours, other_end) = UnixStream::pair().unwrap();
        // A duplicate of the successor's standard input, which stays open.
        let _same = other_end.try_clone().unwrap();
        assert!(stop_waiting(&other_end).is_err());
        assert!(ServingSuccessor { pid: 0, line: ours }.hand_over().is_err(), "the predecessor goes on serving");

        let (ours, other_end) = UnixStream::pair().unwrap();
        let _pair = ServingSuccessor { pid: 0, line: ours }.hand_over().unwrap();
        stop_waiting(&other_end).unwrap();
    }

    #[test]
    fn process_1_cannot_hand_over() {
        assert!(check_not_process_1(1).is_err());
        check_not_process_1(2).unwrap();
    }

    #[test]
    fn malformed_first_message_is_refused() {
        for text in [
            "",
            "here\n",
            "here 1\n",
            "here -000000001\n",
            "here 00000 0001\n",
            "here 9999999999\n",
            "serving\nserving\n",
        ] {
            let (ours, mut other_end) = UnixStream::pair().unwrap();
            other_end.write_all(text.as_bytes()).unwrap();
            drop(other_end);
            assert!(arrival(&ours).is_err(), "{text}");
        }
    }

    #[test]
    fn foreign_process_is_awaited_and_killed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = ProcessHandle::new(child.id());
        assert!(!ends_within(process.handle.as_ref().unwrap(), Duration::from_millis(10)).unwrap());
        process.end(Duration::ZERO).unwrap();
        assert!(ends_within(process.handle.as_ref().unwrap(), Duration::ZERO).unwrap());
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
        // The process id refers to no process now.
        assert!(ProcessHandle::new(child.id()).handle.is_none());
    }

    #[test]
    fn successor_fails_if_the_predecessor_is_gone() {
        let (ours, other_end) = UnixStream::pair().unwrap();
        offer(&ours, &[]).unwrap();
        let predecessor = Predecessor::from_line(other_end).unwrap();
        drop(ours);
        assert!(predecessor.take_over().is_err());
    }

    #[test]
    fn malformed_socket_offer_is_refused() {
        for text in [
            "",
            "\n",
            "{}\n",
            r#"{"version":1,"places":[]}"#,
            r#"{"version":2,"places":[{"role":"data","address":"127.0.0.1:0"}]}"#,
        ] {
            let (mut ours, other_end) = UnixStream::pair().unwrap();
            ours.write_all(text.as_bytes()).unwrap();
            drop(ours);
            assert!(Predecessor::from_line(other_end).is_err(), "{text}");
        }
    }
}
