//! A message-worker of the next release. Its state machine version is one higher than this release's; everything else
//! is the same.

use carillon::{Failure, cli, roles, signals};
use carillon_message_worker::VERSION;
use carillon_runtime::settings::{Role, Sources, load};
use carillon_runtime::telemetry;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

async fn run() -> Result<(), Failure> {
    let invocation = cli::parse(std::env::args_os()).map_err(anyhow::Error::new)?;
    let cli::Task::Run(role @ Role::MessageWorker) = invocation.task else {
        return Err(anyhow::anyhow!("it is a message-worker and nothing else").into());
    };
    let sources = Sources::of_process(invocation.config.as_deref(), invocation.flags)?;
    let settings = load::load(role, &sources)?.with_secret(role)?;
    let telemetry = telemetry::init(&settings, role.as_str())?;
    let done = roles::message_worker(settings, VERSION + 1, signals::shutdown()?).await;
    telemetry.shutdown().await;
    Ok(done?)
}
