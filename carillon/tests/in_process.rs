//! Tests a standalone Carillon inside the calling process, which other tests start in the same way.

use carillon::standalone;
use carillon_runtime::settings::{Role, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn status(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_instance_can_start_again_on_its_data_directory_at_once() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut settings = Settings::defaults(Role::Standalone);
    settings.listen = "127.0.0.1:0".parse().expect("an address");
    settings.data_dir = directory.path().to_owned();
    settings.auth.secret = Some("0123456789abcdef0123456789abcdef".into());
    for _ in 0..3 {
        let running = standalone::start(settings.clone()).await.expect("started");
        assert_eq!(status(running.addr(), "/livez").await, "HTTP/1.1 200 OK");
        let second = standalone::start(settings.clone()).await.err().expect("the directory is in use");
        assert!(second.to_string().contains("in use"), "{second:#}");
        running.stop().await.expect("stopped");
    }
}
