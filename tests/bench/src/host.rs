//! The resources of a run on this machine: cores, temporary files, and the processes that it starts and stops.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server without clients may take to stop after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// The file system number of tmpfs. A durable write costs nothing there, which would falsify the figures.
const TMPFS: i64 = 0x0102_1994;

/// The cores, folders and settings with which servers run.
pub struct Host {
    /// Whether servers run on the first core that this process may use, and this process on the second.
    pin: bool,
    /// Settings for Carillon, as environment variables.
    environment: Vec<(String, String)>,
    scratch: PathBuf,
    /// The folder of the Node server.
    peer: PathBuf,
}

/// The check that shows that a server is ready, with the server's port.
#[derive(Clone, Copy)]
pub enum Ready {
    /// It accepts connections.
    Accepts(u16),
    /// It answers `/readyz` with 200.
    Answers(u16),
}

/// A running server. It is killed when this is dropped.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Host {
    /// A host with temporary files in `scratch` and the Node server in the folder `peer`. It raises this process's
    /// limit on open files to the maximum.
    ///
    /// # Errors
    /// When `scratch` is missing or in memory, or when pinning is requested and there are not two cores.
    pub fn new(pin: bool, environment: Vec<(String, String)>, scratch: &Path, peer: &Path) -> Result<Host> {
        let about =
            rustix::fs::statfs(scratch).with_context(|| format!("no folder {}", scratch.display()))?;
        ensure!(
            about.f_type as i64 != TMPFS,
            "{} is in memory, where a durable write costs nothing: give a folder on a disk with --scratch",
            scratch.display()
        );
        let files = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })
            .context("raising the limit on open files")?;
        let host = Host { pin, environment, scratch: scratch.to_owned(), peer: peer.to_owned() };
        host.cores()?;
        Ok(host)
    }

    /// The first two cores that this process may use, if processes are pinned.
    fn cores(&self) -> Result<Option<[usize; 2]>> {
        if !self.pin {
            return Ok(None);
        }
        static CORES: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();
        let allowed = sched_getaffinity(None).context("which cores this process may use")?;
        // Read only once, because pinning changes the cores that this process may use.
        let cores =
            CORES.get_or_init(|| (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).take(2).collect());
        let [servers, own] = **cores else { bail!("pinning takes two cores: give --no-pin") };
        Ok(Some([servers, own]))
    }

    /// A new temporary folder. It is deleted when the value is dropped.
    pub fn folder(&self) -> Result<TempDir> {
        tempfile::Builder::new()
            .prefix("carillon-bench-")
            .tempdir_in(&self.scratch)
            .context("no folder for files")
    }

    /// The command of Carillon's binary: `CARILLON_BIN`, or `carillon` in the folder of this binary.
    pub fn carillon(&self) -> Result<Command> {
        let path = match std::env::var_os("CARILLON_BIN") {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe()?.with_file_name("carillon"),
        };
        ensure!(path.exists(), "no binary at {}: cargo build --release --bin carillon", path.display());
        let mut command = bare(path);
        command.env("CARILLON_LOG", "warn").env("AUTH_SECRET", crate::dialect::AUTH_SECRET);
        for name in
            ["CONNECTIONS", "CONNECTIONS_PER_IP_PER_MINUTE", "CONNECTIONS_PER_USER", "MESSAGES_PER_MINUTE"]
        {
            command.env(format!("CARILLON_LIMITS__{name}"), "0");
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// The command of the Node server.
    ///
    /// # Errors
    /// When its packages or Node are not installed.
    pub fn peer(&self) -> Result<Command> {
        let (folder, server) = (self.peer.display(), self.peer.join("server.js"));
        ensure!(server.exists(), "no server.js in {folder}: give the folder of the peer with --peer");
        let installed = self.peer.join("node_modules/socket.io/package.json").exists();
        ensure!(installed, "the packages of {folder} are not installed: npm ci --prefix {folder}");
        let node = bare("node").arg("--version").stdin(Stdio::null()).output();
        node.context("no node in PATH: install Node.js 20.19 or later")?;
        let mut command = bare("node");
        command.arg(server).env("NODE_ENV", "production");
        Ok(command)
    }

    /// Starts a server and waits until it is ready. Its output goes to a file in `folder`.
    pub fn start(
        &self,
        name: &'static str,
        mut command: Command,
        folder: &Path,
        ready: Ready,
    ) -> Result<Process> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let cores = self.cores()?;
        // A child inherits the core of the thread that starts it.
        if let Some([servers, _]) = cores {
            pin_to(servers)?;
        }
        let child = command.spawn().with_context(|| format!("starting {name}"));
        if let Some([_, own]) = cores {
            pin_to(own)?;
        }
        let mut process = Process { name, child: child?, log };
        process.wait_until_ready(ready)?;
        Ok(process)
    }
}

/// A command with `PATH` and `HOME` as its only environment, so that the caller's settings for Carillon do not apply.
fn bare(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"));
    command
}

fn pin_to(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).context("pinning to a core")
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a command that ends by itself.
    pub fn run(name: &'static str, mut command: Command) -> Result<()> {
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
        ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn wait_until_ready(&mut self, ready: Ready) -> Result<()> {
        let began = Instant::now();
        while !is_ready(ready) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.output());
            }
            ensure!(began.elapsed() < READY_TIMEOUT, "{} is not ready:\n{}", self.name, self.output());
            ensure!(!crate::interrupt::requested(), "interrupted");
            pause(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The end of the process's output: at most 4,000 bytes.
    pub fn output(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4_000)..]).into_owned()
    }

    /// Sends SIGTERM and waits until the process has ended.
    ///
    /// # Errors
    /// When it ends with another status than success, or not within [`STOP_TIMEOUT`].
    pub fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let began = Instant::now();
        while began.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "{} stopped with {status}:\n{}", self.name, self.output());
                return Ok(());
            }
            pause(Duration::from_millis(20));
        }
        bail!("{} did not stop within {STOP_TIMEOUT:?}:\n{}", self.name, self.output())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free now. Another program may take it before the server does.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Blocks this thread. Only for moments in which it has no sockets to handle.
pub fn pause(time: Duration) {
    #[expect(
        clippy::disallowed_methods,
        reason = "nobody is served by this thread while it waits for a process"
    )]
    std::thread::sleep(time);
}

fn is_ready(ready: Ready) -> bool {
    let (Ready::Accepts(port) | Ready::Answers(port)) = ready;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    if let Ready::Accepts(_) = ready {
        return true;
    }
    let mut answer = [0; 12];
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"HTTP/1.1 200"
}
