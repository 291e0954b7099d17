//! A client of a running gateway's admin listener.
//!
//! Address and token file come from the configuration unless options override them. Each connection
//! carries one request, and every wait has a limit. Absent on purpose: TLS, which the listener does
//! not support.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{USAGE, WRONG};
use crate::admin::read_token;
use crossgate_config::diagnostics::Diagnostics;
use crossgate_config::model::Admin;
use crossgate_config::{DecodedFile, read_main};

const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The time and the interval in which a refused token is retried.
const TOKEN_TIME: Duration = Duration::from_secs(2);
const TOKEN_PAUSE: Duration = Duration::from_millis(200);
/// The time limit for a response. A reload of a hundred thousand tenants takes one or two seconds.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// The size limit of a response: room for every recorded warning and the servers of all upstreams.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
const FIELDS_MAX: usize = 32;

/// The options that select a gateway.
#[derive(Debug, Clone, clap::Args)]
pub struct AdminArgs {
    /// The main configuration file of the gateway
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    /// The main configuration file of the gateway
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address of its admin listener, such as 127.0.0.1:9900, instead of the one in the file
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// The file with its bearer token, instead of the one in the file
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print the gateway's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// The reason why there is no usable response.
#[derive(Debug)]
pub(super) enum AdminRequestError {
    /// The command line is wrong.
    Usage(String),
    /// The configuration is too broken to contain the admin address; a gateway refuses it too.
    Refused(Diagnostics),
    /// No gateway responds.
    Unreachable(String),
    /// The gateway refuses the token or the host name.
    Denied(String),
}

impl AdminRequestError {
    /// The exit code of the failure.
    pub(super) fn code(&self) -> u8 {
        match self {
            AdminRequestError::Usage(_) => USAGE,
            AdminRequestError::Refused(_) | AdminRequestError::Unreachable(_) | AdminRequestError::Denied(_) => WRONG,
        }
    }
}

impl fmt::Display for AdminRequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminRequestError::Usage(message)
            | AdminRequestError::Unreachable(message)
            | AdminRequestError::Denied(message) => {
                write!(f, "error: {message}")
            }
            AdminRequestError::Refused(found) => write!(f, "{found}\n\nerror: the configuration is refused"),
        }
    }
}

/// The addresses of an admin listener, and the token for it.
#[derive(Debug)]
pub(super) struct AdminClient {
    /// The address as given, for `Host` and messages.
    authority: String,
    addresses: Vec<SocketAddr>,
    token: Option<Box<[u8]>>,
}

/// A response of the admin listener.
#[derive(Debug)]
pub(super) struct AdminAnswer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl AdminClient {
    /// Finds the listener that the arguments select.
    pub(super) fn new(args: &AdminArgs) -> Result<Self, AdminRequestError> {
        let configured = match args.config.as_ref().or(args.file.as_ref()) {
            Some(file) => {
                let DecodedFile { value: main, found } = read_main(file);
                let admin = main.settings.admin.clone();
                match admin {
                    // A broken file may also lack the token file that the listener needs.
                    None if found.has_errors() && (args.admin.is_none() || args.token_file.is_none()) => {
                        return Err(AdminRequestError::Refused(found));
                    }
                    None if args.admin.is_none() => {
                        return Err(AdminRequestError::Usage(format!(
                            "{} configures no admin listener: add `admin: {{ address: 127.0.0.1:9900 }}`, or pass --admin",
                            file.display()
                        )));
                    }
                    admin => admin,
                }
            }
            None => None,
        };
        let configured_token = configured.as_ref().and_then(|admin| Some(&admin.token_file.as_ref()?.value));
        let token = match args.token_file.as_ref().or(configured_token) {
            Some(file) => Some(read_token(file).map_err(|error| AdminRequestError::Usage(error.to_string()))?),
            None => None,
        };
        let authority = match (&args.admin, &configured) {
            (Some(given), _) => given.strip_prefix("http://").unwrap_or(given).trim_end_matches('/').to_owned(),
            (None, Some(admin)) => local_address(admin)?.to_string(),
            (None, None) => {
                return Err(AdminRequestError::Usage(
                    "no gateway selected: expected a configuration file or --admin".to_owned(),
                ));
            }
        };
        let addresses = authority.to_socket_addrs().map_err(|error| {
            AdminRequestError::Usage(format!(
                "invalid address {authority} ({error}): expected one such as 127.0.0.1:9900"
            ))
        })?;
        Ok(AdminClient { addresses: addresses.collect(), authority, token })
    }

    /// Sends one request. Responses that an operator has to correct are errors: a token, a name, an
    /// unknown path.
    pub(super) fn send(&self, method: &str, path: &str) -> Result<AdminAnswer, AdminRequestError> {
        let exchange = || {
            self.exchange(method, path).map_err(|error| {
                AdminRequestError::Unreachable(format!(
                    "no gateway responds at {}: {error}; if `admin` has changed since the gateway started, pass the old address with --admin",
                    self.authority
                ))
            })
        };
        let (began, mut answer) = (Instant::now(), exchange()?);
        // A new token takes effect once the gateway has noticed the changed file.
        while answer.status == 401 && self.token.is_some() && began.elapsed() < TOKEN_TIME {
            std::thread::sleep(TOKEN_PAUSE);
            answer = exchange()?;
        }
        match answer.status {
            403 | 421 => Err(AdminRequestError::Denied(self.refusal(&answer))),
            401 | 404 | 405 => Err(AdminRequestError::Usage(self.refusal(&answer))),
            _ => Ok(answer),
        }
    }

    fn refusal(&self, answer: &AdminAnswer) -> String {
        let body: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
        let detail = body.as_ref().and_then(|body| body.get("error")?.as_str()).unwrap_or("no reason given");
        let is_mismatch = answer.status == 401 && self.token.is_some();
        let mismatch = if is_mismatch { "; the token sent does not match" } else { "" };
        format!("{} refuses the request ({}): {detail}{mismatch}", self.authority, answer.status)
    }

    fn exchange(&self, method: &str, path: &str) -> io::Result<AdminAnswer> {
        let mut stream = self.connect()?;
        stream.set_write_timeout(Some(CONNECT_TIME))?;
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.authority).into_bytes();
        if let Some(token) = &self.token {
            head.extend([b"Authorization: Bearer ", &**token, b"\r\n"].concat());
        }
        stream.write_all(&[&*head, b"\r\n"].concat())?;
        let mut bytes = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
        parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the response is not HTTP"))
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, CONNECT_TIME) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The address of a listener as seen from its own machine.
fn local_address(admin: &Admin) -> Result<SocketAddr, AdminRequestError> {
    let mut address = admin.address;
    if address.port() == 0 {
        let message = "the admin listener has port 0, which changes at each start: pass its address with --admin";
        return Err(AdminRequestError::Usage(message.to_owned()));
    }
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

fn parse(bytes: &[u8]) -> Option<AdminAnswer> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(len) = response.parse(bytes).ok()? else { return None };
    Some(AdminAnswer { status: response.code?, body: bytes.get(len..)?.to_vec() })
}
