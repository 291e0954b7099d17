//! `crossgate demo-upstream`: runs the demo's API and page until it is interrupted.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::demo_upstream::DemoUpstream;

const PAGES_PORT: u16 = 3000;

/// The arguments of `crossgate demo-upstream`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoUpstreamArgs {
    /// Where the demo API listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9001")]
    pub listen: SocketAddr,
    /// Where the demo page listens; may be repeated. Port 3000 of 127.0.0.1 unless said, and of ::1 where there is IPv6
    #[arg(long, value_name = "ADDR")]
    pub pages: Vec<SocketAddr>,
    /// The rule whose source the page shows
    #[arg(long, value_name = "FILE")]
    pub rule: Option<PathBuf>,
}

/// Serves until the process is interrupted; gives the exit code. Addresses and mistakes go to `err`.
pub fn run(args: &DemoUpstreamArgs, err: &mut dyn Write) -> u8 {
    match try_run(args, err) {
        Ok(()) => 0,
        Err(error) => {
            // With stderr gone there is nobody left to tell.
            let _ = writeln!(err, "error: {error}; choose free addresses with --listen and --pages");
            1
        }
    }
}

fn try_run(args: &DemoUpstreamArgs, err: &mut dyn Write) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let demo = bind(args).await?.showing(args.rule.clone());
        writeln!(err, "listening role=demo-api address={}", demo.api_address()?)?;
        for address in demo.pages_addresses()? {
            writeln!(err, "listening role=demo-page address={address}")?;
        }
        tokio::select! {
            () = demo.serve() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted,
        }
    })
}

/// Browsers look `*.localhost` up as both loopback addresses, so the page is on both, if there are both.
async fn bind(args: &DemoUpstreamArgs) -> io::Result<DemoUpstream> {
    if !args.pages.is_empty() {
        return DemoUpstream::bind(args.listen, &args.pages).await;
    }
    let mut demo = DemoUpstream::bind(args.listen, &[(Ipv4Addr::LOCALHOST, PAGES_PORT).into()]).await?;
    match demo.add_pages((Ipv6Addr::LOCALHOST, PAGES_PORT).into()).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Ok(()) | Err(_) => Ok(demo),
    }
}
