//! What a run shows of the services in it: their logs, and their panics.

use anyhow::Context;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Panics of tasks are kept: a run in which one panicked has failed.
pub(crate) fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        if let Ok(mut panics) = PANICS.lock() {
            panics.push(format!("a task panicked: {panic}").replace('\n', " "));
        }
    }));
}

/// The panics so far.
pub(crate) fn panicked() -> Vec<String> {
    PANICS.lock().map(|panics| panics.clone()).unwrap_or_default()
}

/// Logs go to standard error from now on, with virtual times.
pub(crate) fn logs(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("{filter:?} is no filter for logs"))?;
    tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    Ok(())
}
