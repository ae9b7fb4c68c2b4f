//! SIGINT and SIGTERM end a run in good order, so that the servers it started end too.

use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Whether the run is to end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Begins to listen for signals, on a thread that does nothing else.
pub fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    drop(entered);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        REQUESTED.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}
