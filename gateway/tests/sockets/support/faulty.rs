//! A network that does harm: it stands between the gateway and an upstream, and passes bytes on late, slowly, in slices, in part, or not
//! at all, on the way to one of the two. The kinds of harm are those of Toxiproxy.

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
/// What lies between two slices.
const SLICE_PAUSE: Duration = Duration::from_millis(1);
/// How often a slow line takes its share of a second.
const SHARES: usize = 20;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Everything comes so much later.
    Latency(Duration),
    /// An end comes so much later.
    SlowClose(Duration),
    /// What comes after so many bytes is lost, and nobody is told.
    Silence(usize),
    /// After so many bytes the connection is reset, on both sides.
    Reset(usize),
    /// Everything comes in pieces of so many bytes.
    Slicer(usize),
    /// After so many bytes the connection is closed, on both sides.
    Limit(usize),
    /// So many bytes pass in a second.
    Bandwidth(usize),
}

/// Which way the bytes go that are harmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the upstream.
    Up,
    /// To the client.
    Down,
}

/// The network; it ends, with all connections on it, when this is dropped.
#[derive(Debug)]
pub(crate) struct FaultyNetwork {
    pub(crate) address: SocketAddr,
    is_mended: Arc<AtomicBool>,
    _runtime: Arc<Runtime>,
}

/// How a connection is cut off before its end.
#[derive(Clone, Copy)]
enum Cut {
    Closed,
    Reset,
}

impl FaultyNetwork {
    /// The thread that all networks run on.
    pub(crate) fn runtime() -> Arc<Runtime> {
        Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
    }

    /// Before `upstream`.
    pub(crate) fn start(runtime: &Arc<Runtime>, upstream: SocketAddr, fault: Fault, way: Way) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let is_mended = Arc::new(AtomicBool::new(false));
        let mended = Arc::clone(&is_mended);
        runtime.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let fault = (!mended.load(SeqCst)).then_some(fault);
                tokio::spawn(carry(client, upstream, fault, way));
            }
        });
        Self { address, is_mended, _runtime: Arc::clone(runtime) }
    }

    /// Whoever connects from now on is not harmed.
    pub(crate) fn mend(&self) {
        self.is_mended.store(true, SeqCst);
    }
}

async fn carry(mut client: TcpStream, upstream: SocketAddr, fault: Option<Fault>, way: Way) {
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let carried = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let on = |this: Way| fault.filter(|_| way == this);
        tokio::try_join!(pass(from_client, to_server, on(Way::Up)), pass(from_server, to_client, on(Way::Down)))
    };
    if let Err(Cut::Reset) = carried {
        for stream in [&client, &server] {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

/// Passes bytes on until the end, and the end too.
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
        Some(Fault::Bandwidth(rate)) => (rate / SHARES, Duration::from_secs(1) / SHARES as u32),
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
