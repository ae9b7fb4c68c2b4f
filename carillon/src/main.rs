//! The entry point: it loads the settings, starts telemetry, runs the role until a signal stops it, and returns an exit
//! code.

use carillon::{Failure, audit, check_config, cli, limits, memory, repair, roles, signals, token};
use carillon_runtime::settings::{Role, Settings, Sources, load};
use carillon_runtime::telemetry;
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long to wait for threads that are still blocked after everything has been stopped.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(message) => return cli::print(&message),
    };
    match run(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

fn run(invocation: cli::Invocation) -> Result<(), Failure> {
    let sources = Sources::of_process(invocation.config.as_deref(), invocation.flags)?;
    match invocation.task {
        cli::Task::CheckConfig(role) => check_config::print(role, &sources),
        cli::Task::Token(wanted) => {
            let settings = load::load(Role::Token, &sources)?.with_secret(Role::Token)?;
            token::print(&settings, &wanted)
        }
        cli::Task::Audit(wanted) => {
            let settings = load::load(Role::Audit, &sources)?.with_secret(Role::Audit)?;
            audit::check(&settings, &wanted)?;
            within(Role::Audit, settings, async |settings, shutdown| {
                audit::run(settings, wanted, shutdown).await
            })
        }
        cli::Task::Repair { accept_loss } => repair::run(&load::load(Role::Token, &sources)?, accept_loss),
        cli::Task::Run(role) => serve(role, load::load(role, &sources)?.with_secret(role)?),
    }
}

fn serve(role: Role, settings: Settings) -> Result<(), Failure> {
    limits::keep_pages_small();
    let open_files = limits::raise_open_files();
    within(role, settings, async |settings, shutdown| roles::run(role, settings, open_files, shutdown).await)
}

/// Runs `work` in a tokio runtime with telemetry. The first signal cancels the token that `work` gets.
fn within(
    role: Role,
    settings: Settings,
    work: impl AsyncFnOnce(Settings, CancellationToken) -> anyhow::Result<()>,
) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().on_thread_park(memory::tidy).build();
    let runtime = runtime.map_err(anyhow::Error::new)?;
    let done = runtime.block_on(async {
        let telemetry = telemetry::init(&settings, role.as_str())?;
        let done = work(settings, signals::shutdown()?).await;
        telemetry.shutdown().await;
        done
    });
    runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
    Ok(done?)
}
