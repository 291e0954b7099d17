//! The cells of the matrix in which a behaviour is tested.

use std::fmt;
use std::thread;

use crate::process::tests::streams::Transport;
use crate::process::*;

/// The version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) engine: RequestEngine,
    pub(super) version: Version,
    /// Of the client and of the server.
    pub(super) transport: Transport,
}

impl Cell {
    pub(super) fn is_direct(&self) -> bool {
        self.engine == RequestEngine::Direct
    }

    pub(super) fn is_http2(&self) -> bool {
        self.version == Version::Http2
    }

    pub(super) fn is_tls(&self) -> bool {
        self.transport == Transport::Tls
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} engine, {:?}, {:?}", self.engine, self.version, self.transport)
    }
}

/// Runs a test in every cell.
#[track_caller]
pub(super) fn in_every_cell(test: impl Fn(Cell) + Sync) {
    in_cells(|_| true, test);
}

/// Runs a test in these cells, in all of them at the same time. Panics with the cells in which it
/// failed.
#[track_caller]
pub(super) fn in_cells(is_included: impl Fn(&Cell) -> bool, test: impl Fn(Cell) + Sync) {
    let engines = [RequestEngine::Direct, RequestEngine::Pingora];
    let cells = engines.into_iter().flat_map(|engine| {
        [Version::Http1, Version::Http2].into_iter().flat_map(move |version| {
            [Transport::Clear, Transport::Tls].map(|transport| Cell { engine, version, transport })
        })
    });
    let cells: Vec<Cell> = cells.filter(is_included).collect();
    let failed: Vec<String> = thread::scope(|scope| {
        let test = &test;
        // A panic names its thread.
        let run = |cell: Cell| {
            let named = thread::Builder::new().name(cell.to_string());
            (cell, named.spawn_scoped(scope, move || test(cell)).unwrap())
        };
        let running: Vec<_> = cells.into_iter().map(run).collect();
        let failed = |(cell, running): (Cell, thread::ScopedJoinHandle<'_, ()>)| {
            running.join().is_err().then(|| cell.to_string())
        };
        running.into_iter().filter_map(failed).collect()
    });
    assert!(failed.is_empty(), "failed in these cells: {failed:#?}");
}
