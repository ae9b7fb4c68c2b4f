//! Shows what happens inside the services of a run: their logs and their panics.

use anyhow::Context;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Collects panics of tasks, because a run in which a task panicked has failed.
pub(crate) fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        if let Ok(mut panics) = PANICS.lock() {
            panics.push(format!("a task panicked: {panic}").replace('\n', " "));
        }
    }));
}

pub(crate) fn panicked() -> Vec<String> {
    PANICS.lock().map(|panics| panics.clone()).unwrap_or_default()
}

/// Prints logs on standard error from now on. They carry no time, since it would be that of the real clock.
pub(crate) fn logs(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("{filter:?} is no filter for logs"))?;
    tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    Ok(())
}
