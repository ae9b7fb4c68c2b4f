//! Starts, stops, kills and restarts Carillon as a real process.

use crate::parts::{Signal, free_port};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Time for a process to become ready, on a loaded machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a process to stop; more than the 25 s of the longest drain.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// The path of the binary: `CARILLON_BIN`, or `carillon` in the directory above the test's own binary.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CARILLON_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the test's own path");
    let beside = test.parent().and_then(Path::parent).expect("a target directory").join("carillon");
    assert!(beside.exists(), "no binary at {}: cargo build --bin carillon", beside.display());
    beside
}

/// A running process.
pub struct Server {
    child: Child,
    /// The port for clients, or, of a worker, for probes and metrics.
    pub port: u16,
    output: Arc<Mutex<String>>,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Server {
    /// Starts a standalone `--dev` server on a data directory, with these environment variables.
    pub fn standalone(data_dir: &Path, environment: &[(&str, &str)]) -> Server {
        let port = free_port();
        let arguments = ["standalone", "--dev", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"];
        let mut arguments: Vec<String> = arguments.map(String::from).into();
        arguments.push(data_dir.display().to_string());
        Self::start(port, arguments, environment)
    }

    /// Starts a process and waits until `/readyz` on `port` answers 200.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(port: u16, arguments: Vec<String>, environment: &[(&str, &str)]) -> Server {
        let environment =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let program = binary();
        let (child, output) = spawn(&program, &arguments, &environment);
        let mut server = Server { child, port, output, program, arguments, environment };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + READY_TIMEOUT;
        while !self.is_ready() {
            let ended = self.child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "{:?} ended with {ended:?}:\n{}", self.arguments, self.output());
            assert!(Instant::now() < deadline, "{:?} is not ready:\n{}", self.arguments, self.output());
            pause();
        }
    }

    fn is_ready(&self) -> bool {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let sent = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        sent.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    /// `ws://…` without a path.
    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// `http://…` without a path.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that the process has printed on standard output and standard error.
    ///
    /// # Panics
    /// When the thread that collects the output panicked.
    pub fn output(&self) -> String {
        self.output.lock().expect("the output").clone()
    }

    /// kill -9.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
    }

    /// Sends a signal to the process: `STOP` pauses it, `CONT` continues it.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("it accepts signals");
    }

    /// Sends SIGTERM, waits, and returns the exit status.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "{:?} does not end:\n{}", self.arguments, self.output());
            pause();
        }
    }

    /// Starts the process again with the same program, arguments and environment, and waits until it is ready.
    pub fn restart(&mut self) {
        self.begin();
        self.wait_until_ready();
    }

    /// Starts the process again with another program and the same arguments, and waits until it is ready.
    pub fn restart_as(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
        self.restart();
    }

    /// Starts the process again with another program that must end by itself, and returns its exit status.
    ///
    /// # Panics
    /// When it does not end.
    pub fn fail_as(&mut self, program: &Path) -> ExitStatus {
        program.clone_into(&mut self.program);
        self.begin();
        self.ended()
    }

    fn begin(&mut self) {
        (self.child, self.output) = spawn(&self.program, &self.arguments, &self.environment);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {:?} printed:\n{}", self.arguments, self.output());
        }
    }
}

/// The pause between two checks of a process. It blocks the test's thread, which has no other work meanwhile.
#[expect(
    clippy::disallowed_methods,
    reason = "the caller waits for a process, on a thread of the test's own"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// A command for the binary, without Carillon's environment variables of the shell that runs the tests.
pub fn command() -> Command {
    command_of(&binary())
}

fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let named = ["AUTH_SECRET", "AUTH_SECRET_PREVIOUS", "NATS_URL", "SCYLLA_NODES", "SCYLLA_KEYSPACE"];
        if name.starts_with("CARILLON_") || named.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command
}

fn spawn(
    program: &Path,
    arguments: &[String],
    environment: &Vec<(String, String)>,
) -> (Child, Arc<Mutex<String>>) {
    let mut command = command_of(program);
    for (name, value) in environment {
        command.env(name, value);
    }
    let piped = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("the binary runs");
    let output = Arc::new(Mutex::new(String::new()));
    if let Some(stdout) = child.stdout.take() {
        collect(stdout, output.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        collect(stderr, output.clone());
    }
    (child, output)
}

fn collect(stream: impl std::io::Read + Send + 'static, output: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut output = output.lock().expect("the output");
            output.push_str(&line);
            output.push('\n');
        }
    });
}

/// Starts a standalone `--dev` server on a new data directory, with these environment variables.
///
/// # Panics
/// When it does not start.
pub fn standalone(environment: &[(&str, &str)]) -> (Server, TempDir) {
    let data = TempDir::new().expect("a directory");
    let server = Server::standalone(data.path(), environment);
    (server, data)
}
