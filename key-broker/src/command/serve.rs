//! `key-broker serve`: until a signal comes.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::say;
use crate::server::{ServeOptions, serve};
use crate::store::Store;

pub(super) fn serve_until_signal(
    store: Store,
    listen: SocketAddr,
    port_file: Option<&Path>,
    options: ServeOptions,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr().context("cannot read the address")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        if let Some(path) = port_file {
            write_port(path, address.port())?;
        }
        say(format!("listening on {address}"))?;
        tokio::select! {
            ended = serve(store, listener, options) => Ok(ended?),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })
}

/// Renamed into place, so that a waiting script never reads half a number.
fn write_port(path: &Path, port: u16) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        writeln!(file, "{port}")?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write the port to {}", path.display()))
}
