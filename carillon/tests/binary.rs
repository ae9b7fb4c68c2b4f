//! Tests of the binary from outside: exit codes, output, and how it starts and stops.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Much longer than starting or stopping takes, so that no test fails on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn carillon(directory: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.env_clear().envs(environment.iter().copied()).args(arguments).current_dir(directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("temporary directory");
    carillon(directory.path(), environment, arguments).output().expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[track_caller]
fn refused(output: &Output, code: i32, expected: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(expected), "no {expected} in {stderr}");
}

/// A process that is killed when the test ends, also if the test fails.
struct Running {
    process: Child,
    address: SocketAddr,
}

impl Running {
    /// Starts `standalone --dev` and waits for its banner.
    fn start(data_dir: &Path) -> (Running, String) {
        let data = data_dir.to_str().expect("UTF-8");
        let arguments = ["standalone", "--dev", "--listen", "127.0.0.1:0", "--data-dir", data];
        let mut process =
            carillon(data_dir, &[], &arguments).stderr(Stdio::inherit()).spawn().expect("started");
        let mut banner = String::new();
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        for line in lines.map_while(Result::ok) {
            banner.push_str(&line);
            banner.push('\n');
            if line.contains("connections") {
                break;
            }
        }
        let page = banner.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let address = page.parse().unwrap_or_else(|_| panic!("no address in the banner {banner:?}"));
        (Running { process, address }, banner)
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        answer
    }

    #[track_caller]
    fn becomes_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.get("/readyz").starts_with("HTTP/1.1 200") {
            assert!(Instant::now() < deadline, "not ready: {}", self.get("/readyz"));
            pause();
        }
    }

    /// Sends SIGTERM and returns the exit code and the time until the end.
    fn stop(mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait().expect("waited") {
                return (status.code(), started.elapsed());
            }
            pause();
        }
        panic!("did not stop within {PATIENCE:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process has already ended if the test passed, so errors are ignored.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "this thread serves no client")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn wrong_usage_is_64_and_help_is_0() {
    refused(&run(&[], &[]), 64, "Usage: carillon");
    refused(&run(&[], &["gatewayy"]), 64, "gateway");
    refused(&run(&[], &["gateway", "--lisen", "x"]), 64, "--listen");
    for arguments in [&["--help"] as &[&str], &["gateway", "--help"], &["help", "token"], &["--version"]] {
        let output = run(&[], arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn wrong_settings_are_64_before_anything_is_started() {
    let secret = ("AUTH_SECRET", SECRET);
    refused(&run(&[], &["standalone"]), 64, "set AUTH_SECRET");
    refused(&run(&[("AUTH_SECRET", "short")], &["gateway"]), 64, "needs 32 or more");
    refused(&run(&[secret, ("CARILLON_LISTENN", "x")], &["gateway"]), 64, "the nearest is CARILLON_LISTEN");
    refused(&run(&[secret], &["gateway", "--listen", "8000"]), 64, "listen (--listen): '8000'");
    refused(&run(&[secret], &["gateway", "--config", "absent.toml"]), 64, "absent.toml: No such file");
    let directory = tempfile::tempdir().expect("temporary directory");
    std::fs::write(directory.path().join("carillon.toml"), "[limit]\nconnections = 1\n").expect("written");
    let output = carillon(directory.path(), &[secret], &["standalone"]).output().expect("run");
    refused(
        &output,
        64,
        "carillon.toml: unknown setting limit.connections; the nearest is limits.connections",
    );
    assert_eq!(
        std::fs::read_dir(directory.path()).expect("listed").count(),
        1,
        "a refused start must not create files"
    );
}

#[test]
fn check_config_prints_settings_without_secrets() {
    let environment = [("AUTH_SECRET", SECRET), ("NATS_URL", "nats://user:password@nats-1:4222")];
    let output = run(&environment, &["check-config", "--role", "gateway", "--listen", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    for expected in
        ["127.0.0.1:1", "--listen", "AUTH_SECRET", "nats://(hidden)@nats-1:4222", "limits.connections"]
    {
        assert!(stdout.contains(expected), "no {expected} in {stdout}");
    }
    assert!(!stdout.contains(SECRET) && !stdout.contains("password"), "{stdout}");
    refused(&run(&[("CARILLON_PARTITIONS", "0")], &["check-config"]), 64, "partitions (CARILLON_PARTITIONS)");
}

#[test]
fn a_token_is_printed_alone() {
    let output = run(&[("AUTH_SECRET", SECRET)], &["token", "--sub", "alice", "--ttl", "5m"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert_eq!(stdout.trim().split('.').map(str::len).filter(|length| *length > 10).count(), 3, "{stdout}");
    assert_eq!(stdout.lines().count(), 1);
    refused(&run(&[], &["token", "--sub", "alice"]), 64, "carillon standalone --dev");
    refused(&run(&[("AUTH_SECRET", SECRET)], &["token", "--sub", "a b"]), 64, "--sub: a user id");
}

#[test]
fn standalone_starts_prints_its_addresses_and_stops_cleanly() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (running, banner) = Running::start(directory.path());
    for expected in ["chat page", "/api/docs", "ws://", directory.path().to_str().expect("UTF-8")] {
        assert!(banner.contains(expected), "no {expected} in {banner}");
    }
    running.becomes_ready();
    let metrics = running.get("/metrics");
    for name in ["carillon_build_info{", "carillon_stage_seconds_bucket{", "process_resident_memory_bytes "] {
        assert!(metrics.contains(name), "no {name} in {metrics}");
    }
    let secret = std::fs::read_to_string(directory.path().join("auth-secret")).expect("made");
    let data_dir = directory.path().to_str().expect("UTF-8");
    let own = run(&[], &["token", "--sub", "alice", "--data-dir", data_dir]);
    assert_eq!(own.status.code(), Some(0), "{}", text(&own.stderr));

    let (code, elapsed) = running.stop();
    assert_eq!(code, Some(0));
    assert!(elapsed < Duration::from_secs(5), "stopping took {elapsed:?}, although no client was connected");

    let (running, _) = Running::start(directory.path());
    running.becomes_ready();
    let kept = std::fs::read_to_string(directory.path().join("auth-secret")).expect("kept");
    assert_eq!(secret, kept, "the secret must stay the same over a restart");
    assert_eq!(running.stop().0, Some(0));
}

#[test]
fn a_port_or_data_directory_in_use_is_reported_in_one_line() {
    let (directory, other) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (running, _) = Running::start(directory.path());

    let data_dir = directory.path().to_str().expect("UTF-8");
    let quiet = ("CARILLON_LOG", "off");
    let output = run(&[quiet], &["standalone", "--dev", "--listen", "127.0.0.1:0", "--data-dir", data_dir]);
    refused(&output, 1, &format!("data directory {data_dir} is in use"));
    assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));

    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("address").to_string();
    let data_dir = other.path().to_str().expect("UTF-8");
    let output = run(&[quiet], &["standalone", "--dev", "--listen", &address, "--data-dir", data_dir]);
    refused(&output, 1, &format!("{address} is in use"));
    assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    assert_eq!(running.stop().0, Some(0));
}

/// Before the fix, any number of partitions was accepted, and commands of a conversation went to the log of another
/// partition than before.
#[test]
fn a_data_directory_keeps_its_number_of_partitions() {
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(Running::start(directory.path()).0.stop().0, Some(0));
    let data_dir = directory.path().to_str().expect("UTF-8");
    let arguments = ["standalone", "--dev", "--listen", "127.0.0.1:0", "--data-dir", data_dir];
    for partitions in ["8", "32"] {
        let environment = [("CARILLON_LOG", "off"), ("CARILLON_PARTITIONS", partitions)];
        let output = run(&environment, &arguments);
        let expected = format!(
            "carillon: data directory {data_dir} has 16 partitions, and the settings say {partitions}: set partitions to 16, "
        );
        refused(&output, 64, &expected);
        assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    }
    assert_eq!(
        Running::start(directory.path()).0.stop().0,
        Some(0),
        "the right number of partitions must still be accepted"
    );
}

/// Before the fix, the process started without a word, and all records after the flipped bit were lost.
#[test]
fn a_damaged_journal_is_refused_and_repaired_only_when_the_loss_is_accepted() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (running, _) = Running::start(directory.path());
    running.becomes_ready();
    // Dropping it kills the process.
    drop(running);
    let journal = ["messages.journal.0", "messages.journal.1"]
        .map(|name| directory.path().join(name))
        .into_iter()
        .find(|path| std::fs::metadata(path).is_ok_and(|file| file.len() > 0))
        .expect("a journal");
    let mut content = std::fs::read(&journal).expect("read");
    content[9] ^= 1;
    std::fs::write(&journal, &content).expect("written");

    let data_dir = directory.path().to_str().expect("UTF-8");
    let quiet = ("CARILLON_LOG", "off");
    let start = ["standalone", "--dev", "--listen", "127.0.0.1:0", "--data-dir", data_dir];
    let output = run(&[quiet], &start);
    refused(&output, 1, "at byte 0: neither the header of a journal nor an empty file");
    assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    let dry = run(&[quiet], &["repair", "--data-dir", data_dir]);
    refused(&dry, 1, "nothing was changed");
    assert!(text(&dry.stdout).contains("lost"), "{}", text(&dry.stdout));
    assert_eq!(std::fs::read(&journal).expect("read"), content, "a dry run must not change the file");
    let done = run(&[quiet], &["repair", "--accept-loss", "--data-dir", data_dir]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let kept = std::path::PathBuf::from(format!("{}.damaged.1", journal.display()));
    assert_eq!(std::fs::read(kept).expect("a copy"), content);
    let again = run(&[quiet], &["repair", "--data-dir", data_dir]);
    assert_eq!((again.status.code(), text(&again.stdout).contains("nothing to repair")), (Some(0), true));
    let (running, _) = Running::start(directory.path());
    running.becomes_ready();
    assert_eq!(running.stop().0, Some(0));
}
