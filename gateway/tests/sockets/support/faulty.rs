//! A faulty network between the gateway and an upstream.
//!
//! In one direction it delays, slows down, slices, cuts off or drops the bytes. The faults are
//! those of Toxiproxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::sleep;

const PIECE_LEN: usize = 16 * 1024;
/// The pause between two slices.
const SLICE_PAUSE: Duration = Duration::from_millis(1);
/// The writes in a second of a line with limited bandwidth.
const WRITES_PER_SECOND: usize = 20;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Delays all bytes by this time.
    Latency(Duration),
    /// Delays the end of the connection by this time.
    SlowClose(Duration),
    /// Drops the bytes after this many, and keeps the connection open.
    Silence(usize),
    /// Resets both connections after this many bytes.
    Reset(usize),
    /// Sends pieces of this many bytes.
    Slicer(usize),
    /// Closes both connections after this many bytes.
    Limit(usize),
    /// Limits the rate to this many bytes a second.
    Bandwidth(usize),
}

/// The direction of the affected bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Towards the upstream.
    Up,
    /// Towards the client.
    Down,
}

/// The network. It ends with all its connections when this and the runtime are dropped.
#[derive(Debug)]
pub(crate) struct FaultyNetwork {
    pub(crate) address: SocketAddr,
    is_repaired: Arc<AtomicBool>,
    _runtime: Arc<Runtime>,
}

/// The way in which a connection is cut off.
#[derive(Clone, Copy)]
enum Cut {
    Closed,
    Reset,
}

impl FaultyNetwork {
    /// The runtime, with one thread, for all networks of a test.
    pub(crate) fn runtime() -> Arc<Runtime> {
        Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
    }

    /// Starts a network in front of `upstream`.
    pub(crate) fn start(runtime: &Arc<Runtime>, upstream: SocketAddr, fault: Fault, direction: Direction) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let is_repaired = Arc::new(AtomicBool::new(false));
        let repaired = Arc::clone(&is_repaired);
        runtime.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let fault = (!repaired.load(SeqCst)).then_some(fault);
                tokio::spawn(carry(client, upstream, fault, direction));
            }
        });
        Self { address, is_repaired, _runtime: Arc::clone(runtime) }
    }

    /// Connections from now on have no fault.
    pub(crate) fn stop_faults(&self) {
        self.is_repaired.store(true, SeqCst);
    }
}

async fn carry(mut client: TcpStream, upstream: SocketAddr, fault: Option<Fault>, direction: Direction) {
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let carried = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let on = |this: Direction| fault.filter(|_| direction == this);
        tokio::try_join!(
            pass(from_client, to_server, on(Direction::Up)),
            pass(from_server, to_client, on(Direction::Down))
        )
    };
    if let Err(Cut::Reset) = carried {
        for stream in [&client, &server] {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

/// Forwards the bytes and the end of the stream.
async fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, fault: Option<Fault>) -> Result<(), Cut> {
    let (mut left, cut) = match fault {
        Some(Fault::Silence(max)) => (max, None),
        Some(Fault::Reset(max)) => (max, Some(Cut::Reset)),
        Some(Fault::Limit(max)) => (max, Some(Cut::Closed)),
        Some(Fault::Latency(_) | Fault::SlowClose(_) | Fault::Slicer(_) | Fault::Bandwidth(_)) | None => {
            (usize::MAX, None)
        }
    };
    let mut piece = vec![0; PIECE_LEN];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let through = length.min(left);
        write(&mut to, &piece[..through], fault).await?;
        left -= through;
        if let (0, Some(cut)) = (left, cut) {
            return Err(cut);
        }
    }
    if let Some(Fault::SlowClose(time)) = fault {
        sleep(time).await;
    }
    to.shutdown().await.map_err(|_| Cut::Closed)
}

async fn write(to: &mut WriteHalf<'_>, bytes: &[u8], fault: Option<Fault>) -> Result<(), Cut> {
    let (slice_len, pause) = match fault {
        Some(Fault::Latency(time)) => (bytes.len(), time),
        Some(Fault::Slicer(slice_len)) => (slice_len, SLICE_PAUSE),
        Some(Fault::Bandwidth(rate)) => (rate / WRITES_PER_SECOND, Duration::from_secs(1) / WRITES_PER_SECOND as u32),
        Some(Fault::SlowClose(_) | Fault::Silence(_) | Fault::Reset(_) | Fault::Limit(_)) | None => {
            (bytes.len(), Duration::ZERO)
        }
    };
    for slice in bytes.chunks(slice_len.max(1)) {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        to.write_all(slice).await.map_err(|_| Cut::Closed)?;
    }
    Ok(())
}
