//! `crossgate demo-upstream`: serves the demo's API and page until interrupted.
//!
//! This module parses the options and opens the sockets; `demo_upstream` contains the servers.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::demo_upstream::{DemoUpstream, PageSources};

const PAGES_PORT: u16 = 3000;

/// The arguments of `crossgate demo-upstream`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoUpstreamArgs {
    /// The address of the demo API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9001")]
    pub listen: SocketAddr,
    /// The address of the demo page; may be repeated [default: port 3000 of 127.0.0.1, and of ::1
    /// if there is IPv6]
    #[arg(long, value_name = "ADDR")]
    pub pages: Vec<SocketAddr>,
    /// The URL of the API through the gateway, which the page calls
    #[arg(long, value_name = "URL", default_value = "http://api.acme.localhost:8080")]
    pub gateway: String,
    /// The gateway's admin listener, for the explanations on the page
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// The gateway's configuration file, which the page shows to everyone who can open it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The rule whose source the page shows
    #[arg(long, value_name = "FILE")]
    pub rule: Option<PathBuf>,
}

impl DemoUpstreamArgs {
    fn page_sources(&self) -> PageSources {
        PageSources {
            api: self.gateway.clone(),
            config: self.config.clone(),
            rule: self.rule.clone(),
            admin: self.admin,
            program: std::env::args().next().unwrap_or_else(|| "crossgate".to_owned()),
        }
    }
}

/// Serves until interrupted; returns the exit code. Addresses and errors go to `err`.
pub fn run(args: &DemoUpstreamArgs, err: &mut dyn Write) -> u8 {
    match try_run(args, err) {
        Ok(()) => 0,
        Err(error) => {
            // A closed standard error leaves no way to report the failure.
            let _ = writeln!(err, "error: {error}; choose free addresses with --listen and --pages");
            1
        }
    }
}

fn try_run(args: &DemoUpstreamArgs, err: &mut dyn Write) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let demo = bind(args).await?.with_page_sources(args.page_sources());
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

/// Opens the sockets. Browsers resolve `*.localhost` to both loopback addresses, so the page
/// listens on both if the machine has both.
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
