//! The servers that are compared: Carillon in one process, by either kind of client, and the floor.

use crate::dialect::Dialect;
use crate::host::{Host, Process, Ready, free_port};
use anyhow::Result;
use std::net::SocketAddr;
use std::process::Command;
use tempfile::TempDir;

/// A server that clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Floor,
    Carillon,
    /// Carillon, whose clients speak Ring's vocabulary over Socket.IO.
    Ring,
}

/// A server that runs, with its files.
pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
    pub dialect: Dialect,
    // After the process, which uses it.
    _folder: TempDir,
}

impl System {
    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            System::Floor => "floor",
            System::Carillon => "carillon",
            System::Ring => "ring",
        }
    }

    /// What its clients speak.
    pub fn dialect(self) -> Dialect {
        match self {
            System::Floor => Dialect::Floor,
            System::Carillon => Dialect::Native,
            System::Ring => Dialect::Ring,
        }
    }

    /// Starts it with a new data directory.
    pub fn start(self, host: &Host) -> Result<Server> {
        let folder = host.folder()?;
        let port = free_port()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let (command, ready, dialect) = match self {
            System::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["floor", "--listen", &address.to_string()]);
                (command, Ready::Accepts(port), self.dialect())
            }
            System::Carillon | System::Ring => {
                let mut command = host.carillon()?;
                command.args(["standalone", "--dev", "--listen", &address.to_string(), "--data-dir"]);
                command.arg(folder.path().join("data"));
                (command, Ready::Answers(port), self.dialect())
            }
        };
        let process = host.start(self.name(), command, folder.path(), ready)?;
        Ok(Server { process, address, dialect, _folder: folder })
    }
}

impl Server {
    /// Stops it, when all clients are gone.
    pub fn stop(self) -> Result<()> {
        let Server { process, dialect, .. } = self;
        match dialect {
            // It serves until it is ended, and holds nothing.
            Dialect::Floor => drop(process),
            Dialect::Native | Dialect::Ring => process.stop()?,
        }
        Ok(())
    }
}
