//! The conformance server, an echo on Engine.IO and Socket.IO that the tests of both protocols use: a process of the
//! test's own, or a server that already runs.

use crate::parts::free_port;
use crate::polling::Endpoint;
use crate::server::binary;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Time for the process to listen, on a loaded machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether the tests run against the reference implementation: `CARILLON_TEST_REFERENCE=1`.
pub fn is_reference() -> bool {
    std::env::var("CARILLON_TEST_REFERENCE").as_deref() == Ok("1")
}

/// [`is_reference`], for a case that the reference does not pass: if so, prints on standard error that the case is
/// skipped because the reference behaves as `how` describes.
pub fn reference_differs(how: &str) -> bool {
    let differs = is_reference();
    if differs {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a test");
        // Written directly, because the test harness captures the output of `eprintln!`.
        let line = format!("SKIPPED {name}: the reference {how}\n");
        drop(std::io::stderr().write_all(line.as_bytes()));
    }
    differs
}

/// The conformance server: the one that `CARILLON_TEST_CONFORMANCE_URL` names (`http://127.0.0.1:3000`), or a
/// process of the test's own from the binary `conformance` beside `carillon`, which ends with this value.
pub struct Conformance {
    address: String,
    process: Option<(Child, File)>,
}

impl Conformance {
    /// Uses the server that already runs, or starts one and waits until it listens.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Conformance {
        if let Ok(url) = std::env::var("CARILLON_TEST_CONFORMANCE_URL") {
            let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
            return Conformance { address, process: None };
        }
        let program = binary().with_file_name("conformance");
        assert!(program.exists(), "no binary at {}: cargo build --bin conformance", program.display());
        let address = format!("127.0.0.1:{}", free_port());
        let output = tempfile::tempfile().expect("a file for what it prints");
        let copy = || Stdio::from(output.try_clone().expect("another handle"));
        let mut command = Command::new(program);
        command.args(["--listen", &address]).stdin(Stdio::null()).stdout(copy()).stderr(copy());
        let child = command.spawn().expect("the binary runs");
        let mut server = Conformance { address, process: Some((child, output)) };
        server.wait_until_ready().await;
        server
    }

    async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + READY_TIMEOUT;
        while TcpStream::connect(&self.address).await.is_err() {
            let ended = self.process.as_mut().map(|(child, _)| child.try_wait().expect("a child of ours"));
            assert_eq!(ended.flatten(), None, "the conformance server ended");
            assert!(Instant::now() < deadline, "the conformance server does not listen at {}", self.address);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The endpoint of Engine.IO, which echoes every message.
    pub fn engine(&self) -> Endpoint {
        Endpoint { address: self.address.clone(), path: "/engine.io/" }
    }

    /// The endpoint of Socket.IO, which echoes events in two namespaces.
    pub fn socket(&self) -> Endpoint {
        Endpoint { address: self.address.clone(), path: "/socket.io/" }
    }

    /// Both endpoints, for cases of Engine.IO that Socket.IO's path must pass too.
    pub fn both(&self) -> [Endpoint; 2] {
        [self.engine(), self.socket()]
    }
}

impl Drop for Conformance {
    fn drop(&mut self) {
        let Some((child, output)) = &mut self.process else { return };
        let _ = child.kill();
        let _ = child.wait();
        let mut printed = String::new();
        if std::thread::panicking() && output.rewind().is_ok() && output.read_to_string(&mut printed).is_ok()
        {
            eprintln!("--- the conformance server printed:\n{printed}");
        }
    }
}
