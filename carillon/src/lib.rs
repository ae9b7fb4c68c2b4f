//! The one binary of Carillon: its command line, and how each role is assembled from the services.

use carillon_runtime::settings::Refused;
use std::fmt;
use std::process::ExitCode;

pub mod audit;
pub mod check_config;
pub mod cli;
pub mod connect;
pub mod limits;
pub mod memory;
pub mod parts;
pub mod repair;
pub mod roles;
pub mod signals;
pub mod standalone;
pub mod token;

/// Wrong usage or configuration (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// The process failed while it ran.
pub const EXIT_FAILED: u8 = 1;

/// Why the process ends with an error.
#[derive(Debug)]
pub enum Failure {
    /// The usage or the configuration is wrong, and nothing was started.
    Usage(Refused),
    /// It failed while it ran.
    Running(anyhow::Error),
}

impl Failure {
    /// The exit code for this failure.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(EXIT_USAGE),
            Self::Running(_) => ExitCode::from(EXIT_FAILED),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(Refused(wrong)) => wrong.iter().enumerate().try_for_each(|(index, wrong)| {
                write!(f, "{}carillon: {wrong}", if index > 0 { "\n" } else { "" })
            }),
            Self::Running(error) => write!(f, "carillon: {error:#}"),
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        Failure::Usage(refused)
    }
}

impl From<anyhow::Error> for Failure {
    /// Some usage errors are found only after bus and database have been queried. They come as a [`Refused`] inside the
    /// error.
    fn from(error: anyhow::Error) -> Failure {
        error.downcast().map_or_else(Failure::Running, Failure::Usage)
    }
}
