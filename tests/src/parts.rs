//! Real parts that tests run against, such as nats-server: processes on free loopback ports that end when their handles
//! are dropped.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

pub use rustix::process::Signal;

/// Time for a server to become ready, on a loaded machine.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause between two checks of whether it is.
const READY_PAUSE: Duration = Duration::from_millis(20);
/// Ports that the kernel does not give to outgoing connections, so that the port of a stopped server is still free when
/// the server starts again.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

static PORTS_GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A free port on loopback that this process has not given out before.
///
/// # Panics
/// When none is found.
pub fn free_port() -> u16 {
    let given = |port| PORTS_GIVEN.lock().is_ok_and(|mut given| given.insert(port));
    for _ in 0..1_000 {
        let random = uuid::Uuid::new_v4().as_u64_pair().0;
        let port = PORTS.start + (random % PORTS.len() as u64) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given(port) {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// The value of the environment variable `variable`, which names the place of a part. Without it, prints that the test
/// is skipped and returns `None`, or fails the test if `CARILLON_TEST_REQUIRE_PARTS` is 1.
///
/// # Panics
/// When parts are required and this one is absent.
pub fn part(what: &str, variable: &str) -> Option<String> {
    if let Ok(value) = std::env::var(variable)
        && !value.is_empty()
    {
        return Some(value);
    }
    missing(what, &format!("set {variable}"))
}

/// Prints that the test is skipped because a part is missing and returns `None`, or fails the test if
/// `CARILLON_TEST_REQUIRE_PARTS` is 1.
///
/// # Panics
/// When parts are required.
pub fn missing<T>(what: &str, remedy: &str) -> Option<T> {
    assert!(
        std::env::var("CARILLON_TEST_REQUIRE_PARTS").as_deref() != Ok("1"),
        "no {what}: {remedy}, or unset CARILLON_TEST_REQUIRE_PARTS"
    );
    let thread = std::thread::current();
    // Written directly, because the test harness captures the output of `eprintln!`.
    let line = format!("SKIPPED {}: no {what} ({remedy})\n", thread.name().unwrap_or("a test"));
    drop(std::io::stderr().write_all(line.as_bytes()));
    None
}

/// Options of a NATS server.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// Whether the server syncs every entry to disk before it acknowledges it.
    pub sync_always: bool,
    /// The server's place in a cluster, if it has one.
    pub cluster: Option<NatsMember>,
    /// Megabytes that all streams together may occupy on disk; 0 stands for 8,192. A small value simulates a full disk.
    pub store_megabytes: u32,
}

/// A server's place in a cluster.
#[derive(Debug, Clone)]
pub struct NatsMember {
    /// The server's index in `route_ports`.
    pub index: usize,
    /// The ports on which the cluster's servers connect to each other.
    pub route_ports: Vec<u16>,
}

/// A nats-server with JetStream, which stores its data in a temporary folder of its own.
pub struct NatsServer {
    binary: PathBuf,
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl NatsServer {
    /// Starts the server that `CARILLON_TEST_NATS_SERVER` names and waits until it is ready; `None` without
    /// one (see [`part`]).
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(options: NatsOptions) -> Option<NatsServer> {
        let mut server = NatsServer::prepare(&options)?;
        server.start_again().await;
        Some(server)
    }

    fn prepare(options: &NatsOptions) -> Option<NatsServer> {
        let binary = part("nats-server", "CARILLON_TEST_NATS_SERVER")?.into();
        let folder = TempDir::with_prefix("carillon-nats-").expect("a temporary folder");
        let port = free_port();
        fs::write(folder.path().join("nats.conf"), configuration(options, port, folder.path()))
            .expect("a configuration");
        Some(NatsServer { binary, folder, port, process: None })
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port of [`NatsServer::url`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the server after [`NatsServer::kill`], with the same folder and port, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_again(&mut self) {
        self.spawn();
        self.await_ready().await;
    }

    /// Starts the server after [`NatsServer::kill`] with other options, which must have the same cluster.
    ///
    /// # Panics
    /// As [`NatsServer::start_again`].
    pub async fn start_again_as(&mut self, options: &NatsOptions) {
        let folder = self.folder.path();
        fs::write(folder.join("nats.conf"), configuration(options, self.port, folder))
            .expect("a configuration");
        self.start_again().await;
    }

    fn spawn(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let process = Command::new(&self.binary)
            .arg("--config")
            .arg(self.folder.path().join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap_or_else(|error| panic!("{}: {error}", self.binary.display())));
    }

    async fn await_ready(&mut self) {
        let began = Instant::now();
        while !greets(self.port).await {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            let log = || fs::read_to_string(self.log_path()).unwrap_or_default();
            assert!(ended.is_none(), "nats-server ended while it started:\n{}", log());
            assert!(began.elapsed() < READY_TIMEOUT, "nats-server is not ready:\n{}", log());
            sleep(READY_PAUSE).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("nats.log")
    }

    /// Ends the server by SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it ends");
        }
    }

    /// Sends a signal to the server: `STOP` makes it hang, `CONT` continues it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(process), signal)
            .expect("it accepts signals");
    }

    /// Deletes everything that the server stored, as if its disk were new. Call it between [`NatsServer::kill`] and
    /// [`NatsServer::start_again`].
    ///
    /// # Panics
    /// When it runs.
    pub fn lose_disk(&self) {
        assert!(self.process.is_none(), "it runs");
        fs::remove_dir_all(self.folder.path().join("store")).expect("a store to lose");
    }

    /// Copies everything that the server stored, as a backup of its disk. Call it while the server does not run.
    ///
    /// # Panics
    /// When it runs.
    pub fn copy_disk(&self) -> TempDir {
        assert!(self.process.is_none(), "it runs");
        let copy = TempDir::with_prefix("carillon-nats-copy-").expect("a temporary folder");
        copy_folder(&self.folder.path().join("store"), &copy.path().join("store"));
        copy
    }

    /// Replaces the server's data by a copy from [`NatsServer::copy_disk`]. Call it while the server does not run.
    ///
    /// # Panics
    /// When it runs.
    pub fn restore_disk(&self, copy: &TempDir) {
        self.lose_disk();
        copy_folder(&copy.path().join("store"), &self.folder.path().join("store"));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// Several nats-servers that form one cluster.
pub struct NatsCluster {
    /// The servers; a test can kill each and start it again.
    pub servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts a cluster of `size` servers; `None` without a binary (see [`part`]).
    ///
    /// # Panics
    /// When one cannot be started.
    pub async fn start(size: usize) -> Option<NatsCluster> {
        let route_ports: Vec<u16> = (0..size).map(|_| free_port()).collect();
        let mut servers = Vec::with_capacity(size);
        for index in 0..size {
            let member = NatsMember { index, route_ports: route_ports.clone() };
            let mut server =
                NatsServer::prepare(&NatsOptions { cluster: Some(member), ..NatsOptions::default() })?;
            server.spawn();
            servers.push(server);
        }
        for server in &mut servers {
            server.await_ready().await;
        }
        Some(NatsCluster { servers })
    }

    /// The URLs of all servers, separated by commas.
    pub fn url(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }
}

fn configuration(options: &NatsOptions, port: u16, folder: &Path) -> String {
    let sync_interval = if options.sync_always { "always" } else { "2m" };
    let store_megabytes = if options.store_megabytes == 0 { 8_192 } else { options.store_megabytes };
    let mut text = format!(
        "listen: 127.0.0.1:{port}\n\
         jetstream {{\n  store_dir: {:?}\n  max_memory_store: 64MB\n  max_file_store: {store_megabytes}MB\n  \
         sync_interval: {sync_interval}\n}}\n",
        folder.join("store")
    );
    if let Some(NatsMember { index, route_ports }) = &options.cluster {
        let routes: Vec<String> = route_ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        write!(
            text,
            "server_name: server-{index}\ncluster {{\n  name: test\n  listen: 127.0.0.1:{}\n  no_advertise: true\n  routes: [{}]\n}}\n",
            route_ports[*index],
            routes.join(", ")
        )
        .expect("a string accepts everything");
    }
    text
}

/// Whether a NATS server sends its greeting. It does so only after it has recovered its streams.
async fn greets(port: u16) -> bool {
    let greeting = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.ok()?;
        line.starts_with("INFO ").then_some(())
    };
    timeout(Duration::from_secs(1), greeting).await.ok().flatten().is_some()
}
