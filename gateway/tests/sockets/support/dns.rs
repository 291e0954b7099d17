//! A name server that gives the answer of the test to every question, or none.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

/// The answer to every question.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Addresses and their TTL in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// No response, as if the question was lost.
    Silence,
}

/// The server. Its thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` after the server is dropped.
    answer: Mutex<Option<Answer>>,
    questions: AtomicUsize,
}

impl NameServer {
    pub(crate) fn start(answer: Answer) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Shared { answer: Mutex::new(Some(answer)), questions: AtomicUsize::new(0) });
        let serving = Arc::clone(&shared);
        thread::spawn(move || serve(&socket, &serving));
        Self { address, shared }
    }

    /// A server that answers with these addresses and a TTL of one second.
    pub(crate) fn with(addresses: &[&str]) -> Self {
        Self::start(address_answer(addresses))
    }

    pub(crate) fn set_answer(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = Some(answer);
    }

    pub(crate) fn set_addresses(&self, addresses: &[&str]) {
        self.set_answer(address_answer(addresses));
    }

    /// The number of questions so far.
    pub(crate) fn questions(&self) -> usize {
        self.shared.questions.load(SeqCst)
    }

    /// The `resolver` section of the configuration for this server.
    pub(crate) fn section(&self) -> String {
        format!("resolver: {{ servers: [\"{}\"], timeout: 250ms }}\n", self.address)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        *self.shared.answer.lock().unwrap() = None;
        // Wakes the thread, so that it reads the new state.
        let _ = UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"", self.address);
    }
}

fn address_answer(addresses: &[&str]) -> Answer {
    Answer::Addresses(addresses.iter().map(|address| address.parse().unwrap()).collect(), 1)
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question) {
        let Some(answer) = shared.answer.lock().unwrap().clone() else { return };
        shared.questions.fetch_add(1, SeqCst);
        if let Some(reply) = reply(&question[..length], &answer) {
            let _ = socket.send_to(&reply, from);
        }
    }
}

/// A message of RFC 1035, section 4.1: id, flags, counts, the question, and the records, each with
/// a pointer to the name.
fn reply(question: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    let (records, ttl, code) = match answer {
        Answer::Addresses(addresses, ttl) => (&addresses[..], *ttl, 0),
        Answer::Failure => (&[][..], 0, 2),
        Answer::NoSuchName => (&[][..], 0, 3),
        Answer::Silence => return None,
    };
    let mut end = 12;
    while question[end] != 0 {
        end += 1 + usize::from(question[end]);
    }
    let question_section = &question[12..end + 5];
    let kind = question[end + 2];
    let data: Vec<Vec<u8>> = records
        .iter()
        .filter(|address| kind == if address.is_ipv4() { 1 } else { 28 })
        .map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        })
        .collect();
    let count = u8::try_from(data.len()).unwrap();
    let mut reply = [&question[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0], question_section].concat();
    for data in data {
        reply.extend([0xC0, 12, 0, kind, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, u8::try_from(data.len()).unwrap()]);
        reply.extend(data);
    }
    Some(reply)
}
