//! The servers that are compared: Carillon in one process (with native or Ring clients), the floor, and the Node
//! server.

use crate::dialect::Dialect;
use crate::host::{Host, Process, Ready, free_port};
use anyhow::Result;
use std::net::SocketAddr;
use std::process::Command;
use tempfile::TempDir;

/// A kind of server, with its kind of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Floor,
    Carillon,
    /// Carillon with clients that use Ring's vocabulary over Socket.IO.
    Ring,
    /// Socket.IO's own server on Node, with the same clients as `Ring`.
    SocketioNode,
}

/// A running server with its files.
pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
    pub dialect: Dialect,
    system: System,
    // Declared after `process`, so that it is dropped after it: the process uses the folder.
    _folder: TempDir,
}

impl System {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            System::Floor => "floor",
            System::Carillon => "carillon",
            System::Ring => "ring",
            System::SocketioNode => "socketio-node",
        }
    }

    /// The system with a given name.
    pub fn of_name(name: &str) -> Option<System> {
        let all = [System::Floor, System::Carillon, System::Ring, System::SocketioNode];
        all.into_iter().find(|system| system.name() == name)
    }

    /// The protocol of its clients.
    pub fn dialect(self) -> Dialect {
        match self {
            System::Floor => Dialect::Floor,
            System::Carillon => Dialect::Native,
            System::Ring | System::SocketioNode => Dialect::Ring,
        }
    }

    /// The command that starts it, still without the listening address and the data directory.
    fn command(self, host: &Host) -> Result<Command> {
        match self {
            System::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("floor");
                Ok(command)
            }
            System::Carillon | System::Ring => {
                let mut command = host.carillon()?;
                command.args(["standalone", "--dev"]);
                Ok(command)
            }
            System::SocketioNode => host.peer(),
        }
    }

    /// Checks that the programs and packages that it needs are installed.
    ///
    /// # Errors
    /// When something is missing. The error says how to install it.
    pub fn check(self, host: &Host) -> Result<()> {
        self.command(host).map(drop)
    }

    /// Starts it with a new data directory.
    pub fn start(self, host: &Host) -> Result<Server> {
        let folder = host.folder()?;
        let port = free_port()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = self.command(host)?;
        command.args(["--listen", &address.to_string()]);
        let ready = match self {
            System::Floor | System::SocketioNode => Ready::Accepts(port),
            System::Carillon | System::Ring => {
                command.arg("--data-dir").arg(folder.path().join("data"));
                Ready::Answers(port)
            }
        };
        let process = host.start(self.name(), command, folder.path(), ready)?;
        Ok(Server { process, address, dialect: self.dialect(), system: self, _folder: folder })
    }
}

impl Server {
    /// Stops the server. All clients must be gone.
    pub fn stop(self) -> Result<()> {
        let Server { process, system, .. } = self;
        match system {
            // The floor has no orderly stop and no data, so it is killed.
            System::Floor => drop(process),
            System::Carillon | System::Ring | System::SocketioNode => process.stop()?,
        }
        Ok(())
    }
}
